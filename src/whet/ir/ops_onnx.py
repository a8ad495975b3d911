"""The reference operator: any ONNX node that has no row of its own, run by `onnx.reference`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from whet.errors import UnsupportedError
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, need


def _rule(ins: list[Value], at: Attrs) -> list[Spec]:
    need(isinstance(at["proto"], bytes), "onnx: `proto` is a serialized ModelProto of one node")
    specs = at["results"] = tuple((t, tuple(s)) for t, s in at["results"])
    need(all(isinstance(t, DType) for t, _ in specs), "onnx: `results` are pairs of type and shape")
    return list(specs)


@functools.lru_cache(maxsize=64)
def _evaluator(proto: bytes) -> Any:
    from onnx import ModelProto
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(ModelProto.FromString(proto))


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    ev = _evaluator(at["proto"])
    given = [x for x in xs if x is not None]
    try:
        results = ev.run(None, dict(zip(ev.input_names, given, strict=True)))
    except Exception as e:  # whatever the operator's own implementation raises
        raise UnsupportedError(f"onnx.reference cannot run {at['name'] or 'the node'}", why=f"{type(e).__name__}: {e}",
                               do="use another operator, or install what the message names") from e
    return [np.asarray(y) for y in results]


# proto:   a serialized ModelProto whose graph is the node; its inputs are the present ones of this node's, in order.
# results: (dtype, shape) of each output. name: the ONNX operator, for people.
ONNX = OpDef("onnx", (0, None), _rule, _reference, {"proto": REQUIRED, "results": REQUIRED, "name": ""},
             optional=tuple(range(64)))
