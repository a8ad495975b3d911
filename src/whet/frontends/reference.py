"""Nodes that whet has no lowering for: run as they are by onnx.reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from whet.errors import UnsupportedError
from whet.frontends.call import Builder, Call, Operand
from whet.frontends.order import bodies, free_names
from whet.frontends.tensors import TO_ONNX, element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Size, Value
from whet.ir.ops_base import Spec
from whet.ir.symbolic import Dim, Shape, names, parse, symbol


def reference_node(call: Call, opsets: Mapping[str, int], scope: Mapping[str, Operand],
                   declared: Mapping[str, ValueInfoProto]) -> list[Value | None]:
    """An `onnx` node for a node of any standard operator.

    declared: what the model says of its values' types, where inference does not know.
    UnsupportedError where the results' ranks are not known.
    """
    n = NodeProto()
    n.CopyFrom(call.proto)
    del n.input[:]
    values: list[Value] = []
    names: list[str] = []
    for i in range(len(call.proto.input)):
        v = call.opt(i)
        n.input.append(f"whet_in_{i}" if v is not None else "")
        if v is not None:
            values.append(v)
            names.append(f"whet_in_{i}")
    for name in sorted(free_names(bodies(n))):  # what control flow reads from outside
        x = scope.get(name)
        if x is None:
            raise UnsupportedError(f"{n.op_type} reads {name!r}, which nothing computes", where=call.origin)
        values.append(call.builder.materialize(x))
        names.append(name)
    specs = _results(call, n, names, values, opsets, declared)
    inputs = [_info(name, v.dtype, (None,) * v.rank) for name, v in zip(names, values)]
    outputs = [_info(o, t, (None,) * len(s)) for o, (t, s) in zip((o for o in n.output if o), specs)]
    model = _model(n, inputs, outputs, opsets)
    node = call.builder.emit_node("onnx", values, {"proto": model.SerializeToString(deterministic=True),
                                                   "results": tuple(specs), "name": n.op_type}, call.origin, call.hint)
    for v in node.outputs:
        learn_shape(call.builder, v)
    left = iter(node.outputs)
    return [next(left) if o else None for o in n.output]


def learn_shape(builder: Builder, v: Value) -> None:
    """Dimensions of v that nothing else tells are learnt from v itself, once it is there."""
    graph = builder.graph
    told = {n for i in graph.inputs for n in names(*i.shape)}
    for i, d in enumerate(v.shape):
        for n in names(d):
            if n not in told and n not in graph.sizes and d == symbol(n):
                graph.sizes[n] = Size(v, i, axis=True)


def _info(name: str, dtype: DType, shape: tuple[Dim | None, ...]) -> ValueInfoProto:
    dims = [d if d is None or isinstance(d, int) else str(d) for d in shape]
    return helper.make_tensor_value_info(name, TO_ONNX[dtype], dims)


def _model(n: NodeProto, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], opsets: Mapping[str, int],
           constants: list[TensorProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph([n], n.op_type, inputs, outputs, constants or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in sorted(opsets.items())])


def _results(call: Call, n: NodeProto, names: list[str], values: list[Value], opsets: Mapping[str, int],
             declared: Mapping[str, ValueInfoProto]) -> list[Spec]:
    """Types and shapes of the results by ONNX's own inference, with symbols in place."""
    inputs = [_info(name, v.dtype, v.shape) for name, v in zip(names, values)]
    constants = [numpy_helper.from_array(np.array(v.data, order="C"), name) for name, v in zip(names, values)
                 if v.data is not None and v.dtype is not DType.STRING and v.data.size <= 4096]
    model = _model(n, inputs, [ValueInfoProto(name=o) for o in n.output if o], opsets, constants)
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as e:
        raise UnsupportedError(f"{n.op_type}: the types of its results cannot be inferred", where=call.origin,
                               why=str(e).strip().splitlines()[0] if str(e).strip() else "",
                               do="check the model with onnx.checker") from None
    specs: list[Spec] = []
    for o in found.graph.output:
        if not o.type.tensor_type.HasField("shape") and o.name in declared:
            o = declared[o.name]
        kind = o.type.WhichOneof("value")
        if kind != "tensor_type" or not o.type.tensor_type.HasField("shape"):
            raise UnsupportedError(
                f"{n.op_type} with a result {'of unknown rank' if kind == 'tensor_type' else f'that is a {kind}'}",
                where=call.origin, why="whet needs the type and rank of every tensor when it builds the plan",
                do="fix the model's shapes with shapes=, or simplify it (onnxsim) first")
        specs.append((element_type(o.type.tensor_type.elem_type, call.origin), _shape(call, o)))
    return specs


def _shape(call: Call, o: ValueInfoProto) -> Shape:
    out: list[Dim] = []
    for i, d in enumerate(o.type.tensor_type.shape.dim):
        if d.HasField("dim_value"):
            out.append(d.dim_value)
            continue
        known = None
        if d.HasField("dim_param"):
            try:
                known = parse(d.dim_param)
            except ValueError:
                known = None
            if known is not None and call.builder.bounds(known)[1] >= 1 << 62:
                known = None  # a name that inference made up
        if known is None:
            known = call.builder.unknown(f"{o.name}_{i}")
        out.append(known)
    return tuple(out)
