"""Lowerings of ONNX's operators whose results are as large as their data says: NonZero, Compress, Unique,
NonMaxSuppression; AffineGrid.

What is kept is marked; a running sum of the marks gives each kept element its place, and the sum of all, read as a
dimension, is how many there are.
"""

from __future__ import annotations

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.scalars import Scalars
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, product

MAX_SORTED_COLUMNS = 16  # of slices that Unique compares: one sort for each


def marked(c: Call, marks: Value, hint: str, typical: int | None = None) -> tuple[Value, Dim]:
    """(places, count): where a vector of bools is true, in order, and how often that is (`typical`: half of all)."""
    calc = Scalars(c)
    (n,) = marks.shape
    ones = c.cast(marks, DType.I64)
    typical = (calc.span(n).opt or 2) // 2 if typical is None else typical
    count = calc.read(c.reduce(ones, "sum", (0,), keepdims=False), hint, typical, most=n)
    room = n + 1  # the last place takes what is not marked
    target = c.emit("where", marks, c.emit("cumsum", ones, axis=0, exclusive=True), calc.value(n))
    empty = c.expand(c.constant(0, DType.I64), (room,))
    places = c.emit("scatter_elements", empty, target, _counted(c, n), axis=0, reduction="none")
    return c.slice(places, 0, 0, count), count


def _counted(c: Call, n: Dim) -> Value:
    return c.emit("iota", start=0, step=1, size=n, dtype=DType.I64)


@lowers("NonZero")
def _non_zero(c: Call) -> Value:
    x = c.x()
    if x.dtype.is_host:
        raise NeedsReferenceError("of strings")
    flat = c.reshape(x, (product(x.shape),))
    marks = flat if x.dtype is DType.BOOL else c.emit("not", c.emit("eq", flat, c.like(flat, 0)))
    places, count = marked(c, marks, c.hint)
    if x.rank == 0:
        return c.expand(c.constant(0, DType.I64), (0, count))
    calc = Scalars(c)
    rows: list[Value] = []
    for i in range(x.rank):
        inner = calc.maximum(product(x.shape[i + 1:]), 1)
        row = c.emit("div", places, calc.value(inner)) if inner != 1 else places
        if i > 0:
            row = c.emit("mod", row, calc.value(calc.maximum(x.shape[i], 1)))
        rows.append(c.reshape(row, (1, count)))
    return rows[0] if len(rows) == 1 else c.emit("concat", *rows, axis=0)


@lowers("Compress")
def _compress(c: Call) -> Value:
    x, marks = c.x(0), c.x(1)
    if x.dtype.is_host:
        raise NeedsReferenceError("of strings")
    axis = c.attr("axis")
    if axis is None:
        x, axis = c.reshape(x, (product(x.shape),)), 0
    axis = c.axis(axis, x.rank)
    given, there = marks.shape[0], x.shape[axis]
    if isinstance(given, int) and isinstance(there, int) and given > there:
        raise GraphError(f"Compress: {given} conditions for {there} elements", where=c.origin)
    places, _ = marked(c, marks, c.hint)
    return c.emit("gather", x, places, axis=axis)


@lowers("Unique")
def _unique(c: Call) -> list[Value | None]:
    """Sorts slices (by the last element first, with a stable sort: topk takes the first of equals), and keeps those
    that differ from the one before."""
    x = c.x()
    axis = c.attr("axis")
    if not (x.dtype.is_float or x.dtype.is_integer):
        raise NeedsReferenceError("of strings or booleans")
    if axis is None:
        rows = c.reshape(x, (product(x.shape), 1))
    else:
        axis = c.axis(axis, x.rank)
        front = c.transpose(x, (axis, *(i for i in range(x.rank) if i != axis)))
        rows = c.reshape(front, (x.shape[axis], product(front.shape[1:])))
    n, width = rows.shape
    if not isinstance(width, int) or width > MAX_SORTED_COLUMNS:
        raise NeedsReferenceError("of rows so long, or of dynamic length")
    order = _counted(c, n)
    for k in reversed(range(width)):
        column = c.reshape(c.slice(rows, 1, k, 1), (n,))
        order = c.emit("gather", order, _ascending(c, c.emit("gather", column, order, axis=0), n), axis=0)
    rows_sorted = c.emit("gather", rows, order, axis=0)
    before = c.emit("max", c.emit("sub", _counted(c, n), c.constant(1, DType.I64)), c.constant(0, DType.I64))
    previous = c.emit("gather", rows_sorted, before, axis=0)
    same = c.emit("eq", rows_sorted, previous)
    if x.dtype.is_float:
        same = c.emit("or", same, c.emit("and", c.emit("isnan", rows_sorted), c.emit("isnan", previous)))
    differs = c.reduce(c.cast(c.emit("not", same), DType.I64), "max", (1,), keepdims=False)
    first = c.emit("or", c.cast(differs, DType.BOOL), c.emit("eq", _counted(c, n), c.constant(0, DType.I64)))
    places, count = marked(c, first, c.hint)
    group = c.emit("sub", c.emit("cumsum", c.cast(first, DType.I64), axis=0), c.constant(1, DType.I64))
    source = c.emit("gather", order, places, axis=0)  # of each group the first occurrence in x
    zeros = c.expand(c.constant(0, DType.I64), (count,))
    counts = c.emit("scatter_elements", zeros, group, c.expand(c.constant(1, DType.I64), (n,)), axis=0,
                    reduction="add")
    if not c.attr("sorted", 1):
        by_place = _ascending(c, source, count)
        rank = c.emit("scatter_elements", zeros, by_place, _counted(c, count), axis=0, reduction="none")
        source, counts = (c.emit("gather", v, by_place, axis=0) for v in (source, counts))
        group = c.emit("gather", rank, group, axis=0)
    inverse = c.emit("scatter_elements", c.expand(c.constant(0, DType.I64), (n,)), order, group, axis=0,
                     reduction="none")
    flat = c.reshape(x, (n,)) if axis is None else x
    y = c.emit("gather", flat, source, axis=0 if axis is None else axis)
    return [y, source, inverse, counts]


def _ascending(c: Call, x: Value, n: Dim) -> Value:
    """The order that sorts a vector, stable."""
    return c.builder.emit_node("topk", [x], {"k": n, "axis": 0, "largest": False, "sorted": True}, c.origin,
                               c.hint).outputs[1]


@lowers("NonMaxSuppression")
def _non_max_suppression(c: Call) -> Value:
    """Rows (batch, class, box), by batch and class, of each class the best first."""
    boxes, scores = c.x(0), c.x(1)
    calc = Scalars(c)
    limit = calc.elements(2)[0] if c.has(2) else 0
    n, (batch, classes) = boxes.shape[1], scores.shape[:2]
    capacity = c.builder.minimum(limit, n) if isinstance(limit, int) else n
    if isinstance(capacity, int) and capacity <= 0:
        return c.constant(np.zeros((0, 3)), DType.I64)
    overlap, least = (c.reshape(c.x(i), ()) if c.has(i) else c.constant(default, DType.F32)
                      for i, default in ((3, 0.0), (4, -np.inf)))
    places, counts = c.builder.emit_node(
        "nms", [boxes, scores, calc.value(limit), overlap, least],
        {"capacity": capacity, "center": bool(c.attr("center_point_box", 0))}, c.origin, c.hint).outputs
    order = c.reshape(_counted(c, capacity), (1, 1, capacity))
    marks = c.emit("lt", order, c.reshape(counts, (batch, classes, 1)))
    total = product(places.shape)
    at, count = marked(c, c.reshape(marks, (total,)), c.hint, 100)
    row, room = c.emit("div", at, calc.value(capacity)), calc.value(classes)
    columns = (c.emit("div", row, room), c.emit("mod", row, room),
               c.emit("gather", c.reshape(places, (total,)), at, axis=0))
    return c.emit("concat", *(c.reshape(v, (count, 1)) for v in columns), axis=1)


@lowers("AffineGrid")
def _affine_grid(c: Call) -> Value:
    """theta [N, d, d + 1] times the homogeneous coordinates (x, y, [z,] 1) of a grid over [-1, 1].

    The result is [N, H, W, 2] or [N, D, H, W, 3].
    """
    theta = c.x(0)
    sizes = c.dims(1, "size")
    d = len(sizes) - 2
    if d not in (2, 3) or theta.rank != 3 or not theta.dtype.is_float:
        raise GraphError(f"AffineGrid of theta {theta.shape} with {len(sizes)} sizes", where=c.origin,
                         do="theta is [N, 2, 3] for 4 sizes and [N, 3, 4] for 5")
    work = DType.F64 if theta.dtype is DType.F64 else DType.F32
    space = tuple(sizes[2:])
    columns = [c.reshape(c.expand(c.reshape(_coordinates(c, n, work), tuple(n if k == i else 1 for k in range(d))),
                                  space), (product(space), 1)) for i, n in enumerate(space)]
    ones = c.expand(c.constant(1, work), (product(space), 1))
    base = c.emit("concat", *columns[::-1], ones, axis=1)
    y = c.emit("matmul", base, c.transpose(c.cast(theta, work), (0, 2, 1)))
    return c.cast(c.reshape(y, (theta.shape[0], *space, d)), theta.dtype)


def _coordinates(c: Call, n: Dim, dtype: DType) -> Value:
    """n places over [-1, 1]: with align_corners the ends are the outer ones, else they lie half a step inside."""
    i = c.emit("iota", start=0, step=1, size=n, dtype=dtype)
    count = c.cast(Scalars(c).value(n), dtype)
    two, one = c.like(i, 2), c.like(i, 1)
    if c.attr("align_corners", 0):
        return c.emit("sub", c.emit("div", c.emit("mul", i, two), c.emit("max", c.emit("sub", count, one), one)), one)
    return c.emit("sub", c.emit("div", c.emit("add", c.emit("mul", i, two), one), count), one)
