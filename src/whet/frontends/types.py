"""Types of values that are no dense tensors of a known rank, as ONNX's TypeProto.

A dimension that is not known has neither value nor parameter. EMPTY denotes the element type of a sequence that has
no element yet: any element's type joins with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import TensorShapeProto, TypeProto

from whet.frontends.call import Absent, Builder, Items, Operand, Rows
from whet.frontends.tensors import TO_ONNX, element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import Spec
from whet.ir.symbolic import Dim, names, parse

EMPTY = "EMPTY"


def tensor(element: int, shape: Iterable[Dim | None] | None) -> TypeProto:
    """A tensor's type; `shape` None where not even the rank is known."""
    t = TypeProto()
    t.tensor_type.elem_type = element
    if shape is not None:
        t.tensor_type.shape.SetInParent()
        for d in shape:
            dim = t.tensor_type.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            elif d is not None:
                dim.dim_param = str(d)
    return t


def sequence(element: TypeProto) -> TypeProto:
    """The type of sequences of `element`s."""
    t = TypeProto()
    t.sequence_type.elem_type.CopyFrom(element)
    return t


def optional(element: TypeProto) -> TypeProto:
    """The type of an `element` that may be absent."""
    t = TypeProto()
    t.optional_type.elem_type.CopyFrom(element)
    return t


def kind(t: TypeProto | None) -> str:
    """`tensor_type`, `sequence_type`, `optional_type`...; `` where nothing is known."""
    return (t.WhichOneof("value") or "") if t is not None else ""


def present(t: TypeProto | None) -> TypeProto | None:
    """The type of an optional's value; any other type as it is."""
    return t.optional_type.elem_type if t is not None and kind(t) == "optional_type" else t


def element(t: TypeProto | None) -> TypeProto | None:
    """The type of a sequence's elements (the sequence may be optional), None where it is not known."""
    t = present(t)
    if t is None or kind(t) != "sequence_type":
        return None
    return t.sequence_type.elem_type


def type_of(builder: Builder, x: Operand) -> TypeProto | None:
    """The type of an operand, None where it is not known."""
    if isinstance(x, Items):
        return sequence(x.element)
    if isinstance(x, Rows):
        return sequence(tensor(TO_ONNX[x.value.dtype], x.value.shape[1:]))
    if isinstance(x, Absent):
        return optional(x.type)
    if x.dtype is DType.OBJECT:
        assert isinstance(x, Value)
        return builder.types.get(x)
    return tensor(TO_ONNX[x.dtype], x.shape)


def join(a: TypeProto | None, b: TypeProto | None) -> TypeProto | None:
    """The least type that has the values of both, None where there is none."""
    if a is None or b is None:
        return None
    if EMPTY in (a.denotation, b.denotation):
        return b if a.denotation == EMPTY else a
    if "optional_type" in (kind(a), kind(b)):
        inner = join(present(a), present(b))
        return optional(inner) if inner is not None else None
    if kind(a) != kind(b):
        return None
    if kind(a) == "sequence_type":
        inner = join(a.sequence_type.elem_type, b.sequence_type.elem_type)
        return sequence(inner) if inner is not None else None
    if kind(a) != "tensor_type":
        return a if a == b else None
    p, q = a.tensor_type, b.tensor_type
    if p.elem_type != q.elem_type:
        return None
    if not p.HasField("shape") or not q.HasField("shape") or len(p.shape.dim) != len(q.shape.dim):
        return tensor(p.elem_type, None)
    out = TypeProto()
    out.CopyFrom(a)
    for d, e in zip(out.tensor_type.shape.dim, q.shape.dim):
        if d != e:
            d.Clear()
    return out


def seen_from(t: TypeProto | None, known: Iterable[str]) -> TypeProto | None:
    """The type without the dimensions that are not expressions of `known` names."""
    if t is None:
        return None
    out, visible = TypeProto(), set(known)
    out.CopyFrom(t)
    for shape in _shapes(out):
        for d in shape.dim:
            if d.HasField("dim_param") and not _known(d.dim_param, visible):
                d.Clear()
    return out


def of_input(t: TypeProto) -> TypeProto:
    """The type of a model's input without what cannot be relied on: in a sequence each element has dimensions of its
    own whatever they are called, and rank 0 is what exporters write for any."""
    out = TypeProto()
    out.CopyFrom(t)
    for tensor_type in _tensors(out):
        if not tensor_type.shape.dim:
            tensor_type.ClearField("shape")
        for d in tensor_type.shape.dim:
            if not d.HasField("dim_value"):
                d.Clear()
    return out


def spec(builder: Builder, t: TypeProto | None, hint: str, where: str) -> Spec:
    """The type and shape of a value: OBJECT for what is no tensor of a known rank. Unknown dimensions get names."""
    if t is None or kind(t) != "tensor_type" or not t.tensor_type.HasField("shape") or not t.tensor_type.elem_type:
        return DType.OBJECT, ()
    dims: list[Dim] = []
    for i, d in enumerate(t.tensor_type.shape.dim):
        known = d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else _expression(builder, d.dim_param)
        dims.append(builder.unknown(f"{hint}_{i}") if known is None else known)
    return element_type(t.tensor_type.elem_type, where), tuple(dims)


def _expression(builder: Builder, text: str) -> Dim | None:
    """What a dimension parameter stands for, None where it is one that inference made up."""
    try:
        d = parse(text)
    except (ValueError, RecursionError, ZeroDivisionError):
        return None
    return d if names(d) <= builder.graph.dims.keys() else None


def _known(text: str, visible: set[str]) -> bool:
    try:
        return names(parse(text)) <= visible
    except (ValueError, RecursionError, ZeroDivisionError):
        return False


def _tensors(t: TypeProto) -> list[TypeProto.Tensor]:
    which = kind(t)
    if which == "tensor_type":
        return [t.tensor_type]
    if which in ("sequence_type", "optional_type"):
        return _tensors(getattr(t, which).elem_type)
    return _tensors(t.map_type.value_type) if which == "map_type" else []


def _shapes(t: TypeProto) -> list[TensorShapeProto]:
    return [x.shape for x in _tensors(t) if x.HasField("shape")]
