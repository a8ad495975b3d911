"""Lowerings of ONNX's shape, movement and generating operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, Operand, Partial, lowers
from whet.frontends.dynamic_axes import AxesAsData
from whet.frontends.formulas import formula, iota
from whet.frontends.scalars import Scalar, Scalars
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import broadcast
from whet.ir.symbolic import Dim, Shape, Sym, product

MAX_FILLED = 1 << 36  # bytes of a constant of one value, were it written out
MAX_RANGE = 1 << 22  # elements of a range of floats, which becomes a constant

# -- constants and generators -----------------------------------------------------------------


@lowers("Constant")
def _constant(c: Call) -> Value:
    graph = c.builder.graph
    for name, dtype in (("value_float", DType.F32), ("value_floats", DType.F32), ("value_int", DType.I64),
                        ("value_ints", DType.I64)):
        given = c.attr(name)
        if given is not None:
            return graph.const(given, dtype, hint=c.hint)
    value = c.attr("value")
    if value is None:
        text = c.attr("value_string", c.attr("value_strings"))
        if text is None:
            c.unsupported("a constant that is neither a dense tensor nor numbers", "store it as a dense tensor")
        value = np.array(text, dtype=object)
    return Value(graph.fresh(c.hint), DType.of(value.dtype), value.shape, value)


@lowers("ConstantOfShape")
def _constant_of_shape(c: Call) -> Value:
    value = c.attr("value")
    scalar = np.zeros((), np.float32) if value is None else value.reshape(())
    return filled(c, scalar, c.dims(0))


def filled(c: Call, scalar: np.ndarray, shape: Sequence[Dim]) -> Value:
    """A tensor of one value: a constant that takes no memory where the shape is static."""
    fixed = [d for d in shape if isinstance(d, int)]
    if any(d < 0 for d in fixed):
        raise GraphError(f"{c.proto.op_type} of the shape {tuple(shape)}", where=c.origin, do="export the model again")
    if math.prod(fixed) * scalar.itemsize > MAX_FILLED:
        c.unsupported(f"a constant of shape {tuple(shape)}", f"constants may have up to {MAX_FILLED} bytes")
    if len(fixed) == len(shape):
        data = np.broadcast_to(scalar, tuple(fixed))
        return Value(c.builder.graph.fresh(c.hint), DType.of(scalar.dtype), data.shape, data)
    return c.expand(c.builder.graph.const(scalar), shape)


@lowers("Range")
def _range(c: Call) -> Value:
    dtype = c.inputs[0].dtype if c.inputs[0] is not None else DType.I64
    if dtype.is_float and not _dimensions(c):
        return _range_of_floats(c, dtype)
    calc = Scalars(c)
    start, limit, step = (calc.elements(i)[0] for i in range(3))
    if step == 0:
        raise GraphError("Range with step 0", where=c.origin, do="export the model again")
    size = calc.read(calc.steps(calc.sub(limit, start), step), c.hint)
    if isinstance(step, int):
        if isinstance(start, int):
            return c.emit("iota", start=start, step=step, size=size, dtype=dtype)
        places = c.emit("iota", start=0, step=step, size=size, dtype=DType.I64)
    else:
        places = c.emit("mul", c.emit("iota", start=0, step=1, size=size, dtype=DType.I64), calc.value(step))
    return c.cast(c.emit("add", places, calc.value(start)), dtype)


def _dimensions(c: Call) -> bool:
    """True if the bounds are dimensions and whole numbers, at least one of them symbolic: then so is the count."""
    fixed = [c.const(i) for i in range(3)]
    known = all(isinstance(x, Partial) if data is None else float(data.reshape(-1)[0]).is_integer()
                for x, data in zip(c.inputs, fixed, strict=True))
    return known and any(data is None for data in fixed)


def _range_of_floats(c: Call, dtype: DType) -> Value:
    """ceil((limit - start) / step) elements; the count is computed in f64, the elements in their own type."""
    fixed = [c.const(i) for i in range(3)]
    if all(x is not None for x in fixed):
        a, b, s = (x.reshape(-1)[0] for x in fixed if x is not None)
        if s == 0 or not 0 <= (float(b) - float(a)) / float(s) <= MAX_RANGE:
            c.unsupported(f"a range from {a} to {b} by {s}", f"ranges of up to {MAX_RANGE} floats are folded")
        return c.builder.graph.const(np.arange(a, b, s, dtype=dtype.np), dtype, hint=c.hint)
    start, limit, step = (c.reshape(c.x(i), ()) for i in range(3))
    wide = [c.cast(v, DType.F64) for v in (start, limit, step)]
    count = c.emit("ceil", c.emit("div", c.emit("sub", wide[1], wide[0]), wide[2]))
    size = Scalars(c).read(c.cast(c.emit("max", count, c.like(count, 0)), DType.I64), c.hint)
    work = dtype if dtype in (DType.F32, DType.F64) else DType.F32
    places = c.emit("iota", start=0, step=1, size=size, dtype=work)
    return c.cast(c.emit("add", c.emit("mul", places, c.cast(step, work)), c.cast(start, work)), dtype)


@lowers("EyeLike")
def _eye_like(c: Call) -> Value:
    x = c.x()
    dtype = element_type(c.attr("dtype"), c.origin) if c.attr("dtype") else x.dtype
    rows, cols = x.shape
    i = c.reshape(c.emit("iota", size=rows, start=c.attr("k", 0), step=1, dtype=DType.I64), (rows, 1))
    j = c.emit("iota", size=cols, start=0, step=1, dtype=DType.I64)
    return c.cast(c.emit("eq", i, j), dtype)


@lowers("Trilu")
def _trilu(c: Call) -> Value:
    x, calc = c.x(0), Scalars(c)
    k = calc.elements(1)[0] if c.has(1) else 0
    rows, cols = x.shape[-2:]
    i = c.reshape(c.emit("iota", size=rows, start=0, step=1, dtype=DType.I64), (rows, 1))
    j = c.emit("iota", size=cols, start=0, step=1, dtype=DType.I64)
    diagonal = c.emit("add", i, calc.value(k))
    keep = c.emit("ge" if c.attr("upper", 1) else "le", j, diagonal)
    if x.dtype is DType.BOOL:
        return c.emit("and", keep, x)
    return c.emit("where", keep, x, c.like(x, 0))


@lowers("OneHot")
def _one_hot(c: Call) -> Value:
    i, values = c.x(0), c.x(2)
    depth = c.dims(1, "depth")[0]
    axis = c.attr("axis", -1)
    axis = axis if axis >= 0 else axis + i.rank + 1
    i = c.cast(i, DType.I64)
    size = c.builder.materialize(c.builder.operand(depth))
    i = c.emit("where", c.emit("lt", i, c.like(i, 0)), c.emit("add", i, size), i)
    i = c.reshape(i, (*i.shape[:axis], 1, *i.shape[axis:]))
    place = c.emit("iota", size=depth, start=0, step=1, dtype=DType.I64)
    place = c.reshape(place, (depth if k == axis else 1 for k in range(i.rank)))
    off, on = (c.reshape(c.slice(values, 0, k, 1), ()) for k in (0, 1))
    return c.emit("where", c.emit("eq", i, place), on, off)


# -- views ------------------------------------------------------------------------------------


def resolve(c: Call, x: Value, wanted: Sequence[Scalar], allow_zero: bool) -> Shape:
    """The shape that Reshape's operand asks for: 0 copies a dimension, -1 takes what is left."""
    calc = Scalars(c)
    shape: list[Scalar] = []
    for i, e in enumerate(wanted):
        if not allow_zero and (e == 0 if isinstance(e, int) else isinstance(e, Value)):
            if i < x.rank:
                e = calc.where(calc.equal(e, 0), x.shape[i], e)
            elif e == 0:
                raise GraphError(f"Reshape copies dimension {i} of rank {x.rank}", where=c.origin)
        shape.append(e)
    open_ = [i for i, e in enumerate(shape) if isinstance(e, int) and e == -1]
    if len(open_) > 1 or any(isinstance(e, int) and e < -1 for e in shape):
        raise GraphError(f"Reshape to {tuple(wanted)}", where=c.origin, why="one dimension at most may be -1")
    total = product(x.shape)
    if open_:
        rest = calc.product(e for i, e in enumerate(shape) if i not in open_)
        if isinstance(rest, int) and rest == 0:
            shape[open_[0]] = 0
        else:
            if isinstance(rest, int) and isinstance(total, int) and total % rest:
                raise GraphError(f"Reshape of {x.shape} to {tuple(shape)}", where=c.origin,
                                 why=f"{total} elements are not a multiple of {rest}", do="check the input's shape")
            shape[open_[0]] = calc.floordiv(total, rest)
    elif any(isinstance(e, Value) and calc.span(e).low < 0 for e in shape):  # any of them may be -1
        rest = calc.product(calc.where(calc.equal(e, -1), 1, e) if isinstance(e, Value) else e for e in shape)
        left = calc.floordiv(total, rest)
        shape = [calc.where(calc.equal(e, -1), left, e) if isinstance(e, Value) else e for e in shape]
    each = max(round((calc.span(total).opt or 1) ** (1 / max(len(shape), 1))), 1)
    out = tuple(calc.read(e, f"{c.hint}_{i}", each, most=total) for i, e in enumerate(shape))
    calc.check_product(out, total)
    return out


@lowers("Reshape")
def _reshape(c: Call) -> Value:
    x = c.x(0)
    return c.reshape(x, resolve(c, x, Scalars(c).elements(1), bool(c.attr("allowzero", 0))))


@lowers("Flatten")
def _flatten(c: Call) -> Value:
    x = c.x()
    axis = c.attr("axis", 1)
    axis = axis if axis == x.rank else c.axis(axis, x.rank)
    return c.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


@lowers("Squeeze")
def _squeeze(c: Call) -> Value:
    x = c.x()
    if c.computed(1):
        over = AxesAsData(c, x.rank, 1)
        return c.reshape(x, over.without(x.shape))
    axes = c.axes(1, x.rank)
    if axes is None:
        if any(isinstance(d, Sym) and c.builder.bounds(d)[0] <= 1 for d in x.shape):
            raise NeedsReferenceError("where the rank of the result depends on a dimension")
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    for a in axes:
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            raise GraphError(f"Squeeze of dimension {a}, which is {x.shape[a]}", where=c.origin)
    return c.reshape(x, (d for i, d in enumerate(x.shape) if i not in axes))


@lowers("Unsqueeze")
def _unsqueeze(c: Call) -> Value:
    x = c.x()
    if c.computed(1):
        over = AxesAsData(c, x.rank, 1, inserted=True)
        return c.reshape(x, over.inserted(x.shape))
    given = c.ints(1, "axes") if c.has(1) else c.attr("axes")
    rank = x.rank + len(given)
    axes = {c.axis(a, rank) for a in given}
    if len(axes) < len(given):
        raise GraphError(f"Unsqueeze with the axes {given}", where=c.origin, why="one occurs twice")
    rest = iter(x.shape)
    return c.reshape(x, [1 if i in axes else next(rest) for i in range(rank)])


@lowers("Transpose")
def _transpose(c: Call) -> Value:
    x = c.x()
    return c.transpose(x, c.attr("perm") or range(x.rank - 1, -1, -1))


@lowers("Expand")
def _expand(c: Call) -> Value:
    x, calc = c.x(0), Scalars(c)
    wanted: list[Dim] = []
    asked = calc.elements(1)
    for k, e in enumerate(asked):
        i = k + x.rank - len(asked)
        d = x.shape[i] if i >= 0 else 1
        if isinstance(e, Value) and d != 1:  # the dimension itself, or 1
            calc.check(calc.read(calc.where(calc.equal(e, 1), d, e), f"{c.hint}_{k}", most=d), d, f"dimension {k}")
            wanted.append(d)
        else:
            wanted.append(calc.read(e, f"{c.hint}_{k}"))
    if x.data is not None and x.data.size == 1 and x.dtype is not DType.STRING and x.rank <= len(wanted):
        return filled(c, x.data.reshape(()), wanted)
    return c.expand(x, broadcast([x.shape, tuple(wanted)], "Expand"))


@lowers("Tile")
def _tile(c: Call) -> Value:
    x, repeats = c.x(0), c.dims(1, "repeats")
    if len(repeats) != x.rank:
        raise GraphError(f"Tile: {len(repeats)} repeats for rank {x.rank}", where=c.origin)
    split: list[Dim] = []
    wide: list[Dim] = []
    for d, r in zip(x.shape, repeats):
        split += [1, d] if r != 1 else [d]
        wide += [r, d] if r != 1 else [d]
    return c.reshape(c.expand(c.reshape(x, split), wide), (d * r for d, r in zip(x.shape, repeats)))


@lowers("DepthToSpace")
def _depth_to_space(c: Call) -> Value:
    x, b = c.x(), c.attr("blocksize")
    n, ch, h, w = x.shape
    if c.attr("mode", "DCR") == "DCR":
        y = c.transpose(c.reshape(x, (n, b, b, ch // (b * b), h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = c.transpose(c.reshape(x, (n, ch // (b * b), b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return c.reshape(y, (n, ch // (b * b), h * b, w * b))


@lowers("SpaceToDepth")
def _space_to_depth(c: Call) -> Value:
    x, b = c.x(), c.attr("blocksize")
    n, ch, h, w = x.shape
    perm = (0, 3, 5, 1, 2, 4) if c.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = c.transpose(c.reshape(x, (n, ch, h // b, b, w // b, b)), perm)
    return c.reshape(y, (n, ch * b * b, h // b, w // b))


@lowers("Dropout")
def _dropout(c: Call) -> list[Operand | None]:
    training = c.opset >= 12 and c.has(2) and (c.const(2) is None or bool(c.number(2, 0)))
    if training and (c.computed(1) or c.number(1, 0.5) != 0):
        raise NeedsReferenceError("in training")
    x = c.x()
    return [x, filled(c, np.asarray(True), x.shape)] if c.wants(1) else [x]


# -- gather and scatter -----------------------------------------------------------------------


@lowers("Gather")
def _gather(c: Call) -> Value:
    x, i = c.x(0), c.x(1)
    axis = c.axis(c.attr("axis", 0), x.rank)
    if i.data is not None and i.data.size == 1:  # one constant index is a slice
        k, d = int(i.data.reshape(())), x.shape[axis]
        if isinstance(d, int) and not -d <= k < d:
            raise GraphError(f"Gather of index {k} from dimension {axis}, which is {d}", where=c.origin)
        if k >= 0 or isinstance(d, int) or c.builder.bounds(d)[0] >= -k:
            y = c.slice(x, axis, k if k >= 0 else d + k, 1)
            return c.reshape(y, x.shape[:axis] + i.shape + x.shape[axis + 1:])
    return c.emit("gather", x, i, axis=axis)


@lowers("GatherND")
def _gather_nd(c: Call) -> Value:
    return c.emit("gather_nd", c.x(0), c.x(1), batch_dims=c.attr("batch_dims", 0))


@lowers("GatherElements")
def _gather_elements(c: Call) -> Value:
    return c.emit("gather_elements", c.x(0), c.x(1), axis=c.attr("axis", 0))


@lowers("ScatterND")
def _scatter_nd(c: Call) -> Value:
    return c.emit("scatter_nd", c.x(0), c.x(1), c.x(2), reduction=c.attr("reduction", "none"))


@lowers("ScatterElements", "Scatter")
def _scatter_elements(c: Call) -> Value:
    return c.emit("scatter_elements", c.x(0), c.x(1), c.x(2), axis=c.attr("axis", 0),
                  reduction=c.attr("reduction", "none"))


@lowers("ReverseSequence")
def _reverse_sequence(c: Call) -> Value:
    x, lengths = formula(c, 0), formula(c, 1)
    batch, time = c.axis(c.attr("batch_axis", 1), x.rank), c.axis(c.attr("time_axis", 0), x.rank)
    lengths = lengths.to(DType.I64).reshape(lengths.shape[0], 1)
    t = iota(c, x.shape[time]).reshape(1, x.shape[time])
    places = (t < lengths).where(lengths - 1 - t, t)
    order = [batch, time, *(i for i in range(x.rank) if i not in (batch, time))]
    y = x.transpose(*order).apply("gather_nd", places.reshape(*places.shape, 1), batch_dims=1)
    return y.transpose(*(order.index(i) for i in range(x.rank))).value
