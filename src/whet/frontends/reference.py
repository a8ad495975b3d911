"""Nodes that whet has no lowering for: run as they are by `whet.reference`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from whet.errors import UnsupportedError
from whet.frontends.call import FOLD_LIMIT, LOWERINGS, Builder, Call
from whet.frontends.tensors import TO_ONNX
from whet.frontends.types import kind, spec, type_of
from whet.ir.dtypes import DType
from whet.ir.graph import Node, Size, Value
from whet.ir.ops_base import Spec
from whet.ir.ops_host import RANDOM
from whet.ir.symbolic import names, symbol
from whet.reference import Kernel

OPSET = 18  # of nodes that whet makes itself, for sequences and optionals


def reference_node(call: Call, opsets: Mapping[str, int], declared: Mapping[str, ValueInfoProto],
                   why: str = "") -> list[Value | None]:
    """An `onnx` node for a node of any standard operator.

    declared: what the model says of its values' types, where inference does not know. A result whose rank nobody
    knows is of type OBJECT. why: what about this use of the operator is not compiled, for people.
    UnsupportedError where nothing implements the operator.
    """
    n = NodeProto()
    n.CopyFrom(call.proto)
    values = [call.opt(i) for i in range(len(call.proto.input))]
    types = _results(call, n, values, opsets, declared)
    return add(call.builder, n, values, types, opsets, call.origin, why)


def add(builder: Builder, node: NodeProto, values: Sequence[Value | None], types: Sequence[TypeProto | None],
        opsets: Mapping[str, int], origin: str, why: str = "") -> list[Value | None]:
    """An `onnx` node for `node` on these operands, whose results have these types (None: not known).

    What is made of constants alone is a constant.
    """
    n = NodeProto()
    n.CopyFrom(node)
    hint = next((o for o in node.output if o), node.op_type)
    del n.input[:], n.output[:]
    n.name = ""  # equal nodes have equal protos
    n.input.extend("" if v is None else f"in_{i}" for i, v in enumerate(values))
    n.output.extend(f"out_{i}" if o else "" for i, o in enumerate(node.output))
    wanted = [i for i, o in enumerate(node.output) if o]
    specs = [spec(builder, types[i], f"{hint}_{i}" if i else hint, origin) for i in wanted]
    given = [(i, v) for i, v in enumerate(values) if v is not None]
    inputs = [_info(f"in_{i}", v.dtype, v.rank) for i, v in given]
    outputs = [_info(f"out_{i}", t, len(s)) for i, (t, s) in zip(wanted, specs)]
    payload = _model(n, inputs, outputs, opsets).SerializeToString(deterministic=True)
    kernel = Kernel(payload, origin)
    results = _folded(kernel, [v for _, v in given], specs)
    if results is not None:
        made = [builder.graph.const(np.asarray(x).astype(t.np, copy=False), t, hint=hint)
                for x, (t, _) in zip(results, specs)]
    else:
        made = builder.emit_node("onnx", [v for _, v in given],
                                 {"proto": payload, "results": tuple(specs), "name": n.op_type, "reason": why},
                                 origin, hint).outputs
        for i, v in zip(wanted, made):
            remember(builder, v, types[i])
    left = iter(made)
    return [next(left) if o else None for o in node.output]


def remember(builder: Builder, v: Value, t: TypeProto | None) -> None:
    """A node's result is known from now on: its type where it is an object, its own dimensions where it is not."""
    if v.dtype is DType.OBJECT:
        if t is not None:
            builder.types[v] = t
    else:
        learn_shape(builder, v)


def learn_shape(builder: Builder, v: Value) -> None:
    """Dimensions of v that nothing else tells are learnt from v itself, once it is there."""
    graph = builder.graph
    told = builder.outer | {n for i in graph.inputs for n in names(*i.shape)}
    for i, d in enumerate(v.shape):
        for n in names(d):
            if n not in told and n not in graph.sizes and d == symbol(n):
                graph.sizes[n] = Size(v, i, axis=True)


def _folded(kernel: Kernel, values: list[Value], specs: Sequence[Spec]) -> list[Any] | None:
    """The results where they are tensors made of small constants, always the same."""
    if kernel.op in RANDOM or any(t is DType.OBJECT for t, _ in specs):
        return None
    data = [v.data for v in values if v.data is not None]
    if len(data) < len(values) or sum(x.size for x in data) > FOLD_LIMIT:
        return None
    results = kernel(data)
    return results if sum(np.size(x) for x in results) <= FOLD_LIMIT else None


def _info(name: str, dtype: DType, rank: int) -> ValueInfoProto:
    if dtype is DType.OBJECT:
        return ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, TO_ONNX[dtype], (None,) * rank)


def _model(n: NodeProto, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], opsets: Mapping[str, int],
           constants: list[TensorProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph([n], n.op_type, inputs, outputs, constants or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in sorted(opsets.items())])


def _results(call: Call, n: NodeProto, values: Sequence[Value | None], opsets: Mapping[str, int],
             declared: Mapping[str, ValueInfoProto]) -> list[TypeProto | None]:
    """Types of the results by ONNX's own inference, with symbols in place; None for one that nobody knows."""
    given = {name: v for name, v in zip(n.input, values) if v is not None}
    inputs, unknown = [], False
    for name, v in given.items():
        t = type_of(call.builder, v)
        unknown |= t is None
        inputs.append(ValueInfoProto(name=name, type=t))
    constants = [numpy_helper.from_array(np.array(v.data, order="C"), name) for name, v in given.items()
                 if v.data is not None and v.dtype is not DType.STRING and v.data.size <= 4096]
    model = _model(n, inputs, [ValueInfoProto(name=o) for o in n.output if o], opsets, constants)
    try:
        found = {o.name: o.type for o in onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output}
    except Exception as e:
        if not unknown:
            raise UnsupportedError(f"{n.op_type}: the types of its results cannot be inferred", where=call.origin,
                                   why=str(e).strip().splitlines()[0] if str(e).strip() else "",
                                   do="check the model with onnx.checker") from None
        found = {}
    out: list[TypeProto | None] = []
    for name in n.output:
        t = found.get(name)
        if not _tells(t) and name in declared:
            t = declared[name].type
        if kind(t) in ("sparse_tensor_type", "opaque_type"):
            raise UnsupportedError(f"{n.op_type} with a result that is a {kind(t)}", where=call.origin,
                                   why="whet has dense tensors, sequences, maps and optionals",
                                   do="export the model with dense tensors")
        out.append(t if kind(t) else None)
    return out


def _tells(t: TypeProto | None) -> bool:
    """True if a type says all that there is to say."""
    return t is not None and (kind(t) not in ("", "tensor_type")
                              or (bool(t.tensor_type.elem_type) and t.tensor_type.HasField("shape")))


def reason(node: Node) -> str:
    """Why an `onnx` node has no generated kernel, for people."""
    op = str(node.attrs.get("name") or node.op)
    if ("", op) not in LOWERINGS:
        return f"whet has no lowering for {op}"
    if why := node.attrs.get("reason"):
        return f"whet compiles {op}, but not {why}"
    kinds = sorted({v.dtype.value for v in (*node.inputs, *node.outputs) if v is not None})
    return f"whet compiles other uses of {op}, not this one (of {', '.join(kinds)})"
