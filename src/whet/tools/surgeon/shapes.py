"""Types and shapes of a model's tensors: inferred anew after a change, fixed or named at its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx.shape_inference
from onnx import GraphProto, ModelProto, TypeProto, ValueInfoProto, helper

from whet.errors import GraphError, InputError
from whet.frontends.order import bodies
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import constants, graphs, unknown

Dims = Sequence[int | str | None]
MADE_UP = "unk__"  # how onnx.shape_inference calls dimensions that it cannot express


def infer(model: ModelProto, *, forget: bool = False) -> None:
    """Infer types and shapes of all values anew. GraphError where they contradict each other.

    What cannot be inferred (operators that ONNX does not know) keeps what the model says, less the shape with `forget`.
    """
    old: dict[str, TypeProto] = {}
    for v in (*model.graph.value_info, *model.graph.output):
        old[v.name] = TypeProto()
        old[v.name].CopyFrom(v.type)
    for g in graphs(model.graph):
        del g.value_info[:]
        if g is not model.graph and forget:
            for v in (*g.output, *g.input):
                _forget(v.type)
    for v in model.graph.output:
        _forget(v.type)
    try:
        found = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as e:
        raise GraphError("types and shapes of the model contradict each other", why=str(e).strip().splitlines()[0],
                         do="check the names, types and shapes that were given") from None
    model.CopyFrom(found)
    for v in (*model.graph.value_info, *model.graph.output):
        _named_as_before(v.type, None if forget else old.get(v.name))
    known = {v.name for v in model.graph.value_info}
    missing = [o for n in model.graph.node for o in n.output if o and o not in known and o in old]
    outputs = {v.name for v in model.graph.output}
    for name in missing:
        if name not in outputs:
            v = model.graph.value_info.add(name=name)
            v.type.CopyFrom(old[name])
            if forget:
                _forget(v.type)
    stored = {t.name: t for t in model.graph.initializer}
    for v in model.graph.output:
        kind = v.type.WhichOneof("value")
        if kind is not None and (kind != "tensor_type" or v.type.tensor_type.HasField("shape")):
            continue
        if v.name in stored:  # ONNX infers nothing of an output that is a constant
            v.type.CopyFrom(tensor_type(stored[v.name].data_type, list(stored[v.name].dims)))
        elif v.name in old:
            v.type.CopyFrom(old[v.name])
            if forget:
                for d in v.type.tensor_type.shape.dim:
                    d.Clear()


def contradiction(model: ModelProto) -> str:
    """What strict inference finds wrong with the shapes of a model; "" for nothing."""
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as e:
        return " ".join(str(e).split()) or "shape inference failed"
    return ""


def _named_as_before(t: TypeProto, old: TypeProto | None) -> None:
    """Dimensions that inference only made up a name for are what they were, or unnamed."""
    known = dims(old)
    for i, d in enumerate(t.tensor_type.shape.dim if dims(t) else ()):
        if d.dim_param.startswith(MADE_UP):
            d.Clear()
            if known is not None and len(known) == len(t.tensor_type.shape.dim):
                before = known[i]
                if isinstance(before, int):
                    d.dim_value = before
                elif before and not before.startswith(MADE_UP):
                    d.dim_param = before


def _forget(t: TypeProto) -> None:
    if t.WhichOneof("value") == "tensor_type":
        t.tensor_type.ClearField("shape")


def types(model: ModelProto) -> dict[str, TypeProto]:
    """The types of all values whose types are known, those in bodies included. Infers nothing."""
    out: dict[str, TypeProto] = {}

    def walk(g: GraphProto) -> None:
        for v in (*g.value_info, *g.output, *g.input):
            if v.type.WhichOneof("value"):
                out[v.name] = v.type
        for t in g.initializer:
            out[t.name] = helper.make_tensor_type_proto(t.data_type, list(t.dims))
        for n in g.node:
            for b in bodies(n):
                walk(b)

    walk(model.graph)
    return out


def dims(t: TypeProto | None) -> list[int | str | None] | None:
    """A tensor type's dimensions; None where the rank is not known."""
    if t is None or t.WhichOneof("value") != "tensor_type" or not t.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.tensor_type.shape.dim]


def tensor_type(code: int, shape: Dims | None) -> TypeProto:
    """A TypeProto of a tensor."""
    return helper.make_tensor_type_proto(code, None if shape is None else list(shape))


def element(name: str) -> int:
    """The ONNX code of an element type by its name, as float32, bfloat16, int64, uint8. InputError otherwise."""
    names = {str(helper.tensor_dtype_to_np_dtype(c)): c for c in onnx.TensorProto.DataType.values()
             if c not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)}
    names |= {"float": onnx.TensorProto.FLOAT, "double": onnx.TensorProto.DOUBLE, "string": onnx.TensorProto.STRING}
    if name not in names:
        raise unknown("element type", name, names)
    return names[name]


def inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that have to be given: those without a default among the weights."""
    weights = constants(model.graph)
    return [v for v in model.graph.input if v.name not in weights]


def set_shapes(model: OnnxModel, shapes: Mapping[str, Dims] | None = None,
               sizes: Mapping[str, int | str] | None = None) -> OnnxModel:
    """The model with dimensions of its inputs fixed (int), named (str), or left open (None); the rest is inferred anew.

    shapes: {input: dimensions}. sizes: {dimension name: its size, or another name}, wherever it occurs in the inputs.

    InputError for names that are not there and for a wrong rank, GraphError where the model cannot have these shapes.
    """
    out = OnnxModel.open(model)
    sound = not contradiction(out.proto)
    there = {v.name: v for v in out.proto.graph.input}
    named = {d.dim_param for v in out.proto.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    for name, shape in (shapes or {}).items():
        if name not in there:
            raise unknown("input", name, there, model.name)
        t = there[name].type
        if t.WhichOneof("value") != "tensor_type":
            raise InputError(f"the input {name!r} is not a tensor", where=model.name, do="give shapes of tensors")
        old = dims(t)
        if old is not None and len(old) != len(shape):
            raise InputError(f"{len(shape)} dimensions for the input {name!r}", where=model.name,
                             why=f"it has {len(old)}: {old}", do="give one for each")
        t.CopyFrom(tensor_type(t.tensor_type.elem_type, shape))
    for name, size in (sizes or {}).items():
        if name not in named:
            raise unknown("dimension", name, named, model.name)
        for v in out.proto.graph.input:
            for d in v.type.tensor_type.shape.dim:
                if d.dim_param == name:
                    if isinstance(size, int):
                        d.dim_value = size
                    else:
                        d.dim_param = size
    infer(out.proto, forget=True)
    if sound and (problem := contradiction(out.proto)):
        raise GraphError("the model cannot have these shapes", where=model.name, why=problem,
                         do="give shapes that fit its weights and the sizes that it fixes")
    return out
