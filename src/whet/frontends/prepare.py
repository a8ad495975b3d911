"""ONNX-level clean-up before lowering: functions inlined, old opsets converted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import onnx.version_converter

from whet.errors import GraphError, UnsupportedError, WhetError
from whet.frontends.inline import inlined
from whet.frontends.labels import numbered
from whet.frontends.lower_math import PER_CHANNEL
from whet.frontends.protobuf import Source

OLDEST_NATIVE = 7  # since then operands broadcast as in NumPy
CONVERTED_TO = 11


def prepare(source: Source) -> Source:
    """The model with local functions inlined, opsets before 7 converted to 11, and labels that are strings apart.
    UnsupportedError for a newer opset than `onnx` knows."""
    opset = _opset(source.proto)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedError(f"opset {opset}", where=source.name, why=f"onnx {onnx.__version__} knows up to {newest}",
                               do=f"export the model with opset {newest} or lower")
    _check_inputs(source)
    if source.proto.functions:
        source = _renewed(source, inlined, "its local functions cannot be inlined")
    if opset < OLDEST_NATIVE:
        source = _converted(source, opset)
    return replace(source, proto=numbered(source.proto))


def _check_inputs(source: Source) -> None:
    """GraphError for an input without a type: ONNX's own C++ code takes it for granted."""
    for v in source.proto.graph.input:
        kind = v.type.WhichOneof("value")
        if kind is None or (kind == "tensor_type" and not v.type.tensor_type.elem_type):
            raise GraphError(f"the input {v.name!r} has no type", where=source.name, do="export the model again")


def _opset(m: onnx.ModelProto) -> int:
    versions = [o.version for o in m.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=onnx.defs.onnx_opset_version())


def _renewed(source: Source, change: Any, what: str) -> Source:
    """The source with its model changed by `change`; initializers keep their place in the file by name."""
    by_name = {t.name: source.views[i] for i, t in enumerate(source.proto.graph.initializer) if i in source.views}
    try:
        proto = change(source.proto)
    except WhetError as e:
        e.where = e.where or source.name
        raise
    except Exception as e:  # the C++ side raises RuntimeError and its own kinds
        raise GraphError(what, where=source.name, why=str(e).strip().splitlines()[0] if str(e).strip() else "",
                         do="check the model with onnx.checker, or export it again") from None
    views = {i: by_name[t.name] for i, t in enumerate(proto.graph.initializer) if t.name in by_name}
    return replace(source, proto=proto, views=views)


def _converted(source: Source, opset: int) -> Source:
    whole = onnx.ModelProto()
    whole.CopyFrom(source.proto)
    for i, view in source.views.items():  # the converter wants complete tensors
        whole.graph.initializer[i].raw_data = bytes(view)
    changed = _renewed(replace(source, proto=whole, views={}),
                       lambda m: onnx.version_converter.convert_version(m, CONVERTED_TO),
                       f"opset {opset} cannot be converted to {CONVERTED_TO}")
    for n in changed.proto.graph.node:  # the converter leaves slopes as they are, which now broadcast otherwise
        if n.op_type == "PRelu" and n.domain in ("", "ai.onnx"):
            n.domain, n.op_type = PER_CHANNEL
    return changed
