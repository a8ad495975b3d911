"""Sequences and optionals: done while importing where the length is known, by host nodes where it is not.

`Items` is a sequence whose items are operands; an optional that is known to have a value is that value, and one known
to have none is `Absent`. They become values of type OBJECT where they leave this module: as states of loops, graph
outputs, operands of anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from onnx import TensorProto, TypeProto, helper

from whet.errors import GraphError
from whet.frontends.call import LOWERINGS, Absent, Builder, Call, Items, Operand, Rows
from whet.frontends.reference import OPSET, add
from whet.frontends.tensors import TO_ONNX
from whet.frontends.types import EMPTY, element, join, kind, optional, present, sequence, tensor, type_of
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import product

MAX_ITEMS = 4096  # of a sequence that is done while importing

Rule = Callable[[Call], "Operand | None"]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Registers the rule of an operator: its result, or None where a reference node has to run it."""
    def register(f: Rule) -> Rule:
        RULES[name] = f
        return f
    return register


# -- operands as values ------------------------------------------------------------------------------


def made(builder: Builder, x: Items | Rows | Absent) -> Value:
    """The operand as a value, by a host node."""
    if isinstance(x, Rows):
        node = helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0)
        v, = add(builder, node, [x.value], [type_of(builder, x)], {"": OPSET}, "SplitToSequence")
        assert v is not None
        return v
    if isinstance(x, Absent):
        return host(builder, "Optional", [], optional(x.type))
    t = sequence(x.element)
    if not x.items:
        return host(builder, "SequenceEmpty", [], t)
    return host(builder, "SequenceConstruct", [builder.materialize(i) for i in x.items], t)


def host(builder: Builder, op: str, values: Sequence[Value], t: TypeProto | None, origin: str = "") -> Value:
    """One of these operators on values, as a host node with a result of type t."""
    node = helper.make_node(op, [f"x{i}" for i in range(len(values))], [op])
    v, = add(builder, node, values, [t], {"": OPSET}, origin or op)
    assert v is not None
    return v


def items(builder: Builder, values: Sequence[Operand]) -> Items:
    """The sequence of these operands."""
    found = [type_of(builder, x) for x in values]
    joined = reduce(join, found) if found else None
    return Items(tuple(values), joined if joined is not None else TypeProto())


def empty(element_code: int) -> Items:
    """A sequence of no items yet."""
    t = tensor(element_code, None)
    t.denotation = EMPTY
    return Items((), t)


# -- operators ---------------------------------------------------------------------------------------


@rule("SequenceConstruct")
def _construct(c: Call) -> Operand:
    return items(c.builder, [_there(c, i) for i in range(len(c.inputs))])


@rule("SequenceEmpty")
def _empty(c: Call) -> Operand:
    return empty(c.attr("dtype", TensorProto.FLOAT))


@rule("SequenceLength")
def _length(c: Call) -> Operand:
    return length_of(c.builder, _there(c, 0), c.origin)


def length_of(builder: Builder, x: Operand, origin: str) -> Operand:
    """The number of items of a sequence, an i64."""
    if isinstance(x, Items):
        return builder.graph.const(len(x.items), DType.I64)
    if isinstance(x, Rows):
        return builder.operand(np.asarray(x.value.shape[0], object))
    return host(builder, "SequenceLength", [builder.materialize(x)], tensor(TensorProto.INT64, ()), origin)


@rule("SequenceAt")
def _at(c: Call) -> Operand:
    return at(c.builder, _there(c, 0), _there(c, 1), c.origin)


def at(builder: Builder, x: Operand, index: Operand, origin: str) -> Operand:
    """An item of a sequence."""
    if isinstance(x, Items) and isinstance(index, Value) and index.data is not None:
        return x.items[_position(int(index.data.reshape(-1)[0]), len(x.items), len(x.items), origin)]
    if isinstance(x, Rows):
        i = builder.materialize(index)
        i = i if i.rank == 0 else builder.emit("reshape", i, shape=(), origin=origin)
        return builder.emit("gather", x.value, i, axis=0, origin=origin)
    return host(builder, "SequenceAt", [builder.materialize(x), builder.materialize(index)],
                element(type_of(builder, x)), origin)


@rule("SequenceInsert")
def _insert(c: Call) -> Operand:
    return insert(c.builder, _there(c, 0), _there(c, 1), c.inputs[2] if c.has(2) else None, c.origin)


def insert(builder: Builder, x: Operand, new: Operand, index: Operand | None, origin: str) -> Operand:
    """The sequence with one more item, at the end unless `index` says where."""
    at_end = index is None
    fixed = index.data if isinstance(index, Value) else None
    if isinstance(x, Items) and (at_end or fixed is not None) and len(x.items) < MAX_ITEMS:
        n = len(x.items)
        i = n if fixed is None else _position(int(fixed.reshape(-1)[0]), n, n + 1, origin)
        return items(builder, [*x.items[:i], new, *x.items[i:]])
    of = join(element(type_of(builder, x)), type_of(builder, new))
    values = [builder.materialize(v) for v in (x, new, index) if v is not None]
    return host(builder, "SequenceInsert", values, sequence(of) if of is not None else None, origin)


@rule("SequenceErase")
def _erase(c: Call) -> Operand:
    x, t = _there(c, 0), type_of(c.builder, _there(c, 0))
    index = np.asarray(-1) if not c.has(1) else c.const(1)
    if isinstance(x, Items) and index is not None:
        i = _position(int(index.reshape(-1)[0]), len(x.items), len(x.items), c.origin)
        return Items(x.items[:i] + x.items[i + 1:], x.element)
    return host(c.builder, "SequenceErase", c.operands(), present(t), c.origin)


@rule("ConcatFromSequence")
def _concat(c: Call) -> Operand | None:
    x, axis, new_axis = c.inputs[0], c.attr("axis"), c.attr("new_axis", 0)
    if isinstance(x, Rows):
        rank = x.value.rank - (not new_axis)
        axis = c.axis(axis, rank)
        perm = [*range(1, axis + 1), 0, *range(axis + 1, x.value.rank)]
        y = c.transpose(x.value, perm)
        merged = (*y.shape[:axis], product(y.shape[axis:axis + 2]), *y.shape[axis + 2:])
        return y if new_axis else c.reshape(y, merged)
    if not isinstance(x, Items) or not x.items or any(i.dtype.is_host for i in x.items):
        return None
    parts = [c.builder.materialize(i) for i in x.items]
    if new_axis:
        axis = c.axis(axis, parts[0].rank + 1)
        parts = [c.reshape(p, (*p.shape[:axis], 1, *p.shape[axis:])) for p in parts]
    node = helper.make_node("Concat", [f"x{i}" for i in range(len(parts))], list(c.proto.output), c.proto.name,
                            axis=axis)
    joined = LOWERINGS["", "Concat"](Call(c.builder, node, list(parts), OPSET))
    assert isinstance(joined, Value)
    return joined


@rule("SplitToSequence")
def _split(c: Call) -> Operand | None:
    x = _there(c, 0)
    if x.dtype.is_host:
        return None
    axis = c.axis(c.attr("axis", 0), len(x.shape))
    n = x.shape[axis]
    split = c.const(1)
    sizes: list[int] | None = None
    if not c.has(1) and isinstance(n, int):
        sizes = [1] * n
    elif split is not None and split.ndim:
        sizes = [int(s) for s in split]
    elif split is not None and isinstance(n, int) and split > 0:
        step = int(split)
        sizes = [min(step, n - at) for at in range(0, n, step)]
    squeezed = not c.has(1) and not c.attr("keepdims", 1)
    if sizes is None or len(sizes) > MAX_ITEMS:
        kept = [*x.shape[:axis], *([] if squeezed else [None]), *x.shape[axis + 1:]]
        t = sequence(tensor(TO_ONNX[x.dtype], kept))
        values = c.operands()
        node = helper.make_node("SplitToSequence", [f"x{i}" for i in range(len(values))], ["parts"], axis=axis,
                                keepdims=c.attr("keepdims", 1))
        return add(c.builder, node, values, [t], {"": OPSET}, c.origin)[0]
    if isinstance(n, int) and sum(sizes) != n:
        raise GraphError(f"SplitToSequence into parts of {sizes} of a dimension of {n}", where=c.origin,
                         do="export the model again")
    value, parts, start = c.x(0), [], 0
    for size in sizes:
        part = c.slice(value, axis, start, size)
        parts.append(c.reshape(part, (*x.shape[:axis], *x.shape[axis + 1:])) if squeezed else part)
        start += size
    found = items(c.builder, list(parts))
    return found if parts else empty(TO_ONNX[x.dtype])


@rule("Identity")
def _identity(c: Call) -> Operand | None:
    return _there(c, 0) if _there(c, 0).dtype.is_host else None


@rule("Optional")
def _optional(c: Call) -> Operand:
    return c.inputs[0] if c.has(0) and c.inputs[0] is not None else Absent(c.attr("type") or TypeProto())


@rule("OptionalHasElement")
def _has_element(c: Call) -> Operand:
    x = c.inputs[0] if c.has(0) else None
    if x is None or isinstance(x, Absent):
        return c.constant(False, DType.BOOL)
    if isinstance(x, Value) and kind(type_of(c.builder, x)) in ("optional_type", ""):
        return host(c.builder, "OptionalHasElement", [x], tensor(TensorProto.BOOL, ()), c.origin)
    return c.constant(True, DType.BOOL)


@rule("OptionalGetElement")
def _get_element(c: Call) -> Operand:
    x = _there(c, 0)
    t = type_of(c.builder, x)
    if isinstance(x, Absent) or kind(t) in ("optional_type", ""):
        return host(c.builder, "OptionalGetElement", [c.x(0)], present(t), c.origin)
    return x


def _there(c: Call, i: int) -> Operand:
    x = c.inputs[i] if c.has(i) else None
    if x is None:
        raise GraphError(f"{c.proto.op_type} lacks its input {i}", where=c.origin, do="export the model again")
    return x


def _position(i: int, n: int, end: int, origin: str) -> int:
    """A position counted from 0; it may be up to `end`, exclusive, in a sequence of n."""
    if not -n <= i < end:
        raise GraphError(f"position {i} in a sequence of {n}", where=origin, do="export the model again")
    return i if i >= 0 else i + n
