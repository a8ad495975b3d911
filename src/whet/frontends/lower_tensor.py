"""Lowerings of ONNX's shape, movement and generating operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, Operand, lowers
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import broadcast
from whet.ir.symbolic import Dim, Shape, Sym, ceildiv, product

INT64_MAX = (1 << 63) - 1
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
    if dtype.is_float:
        a, b, s = (c.fixed(i, "a range's bound").reshape(-1)[0] for i in range(3))
        if s == 0 or not 0 <= (float(b) - float(a)) / float(s) <= MAX_RANGE:
            c.unsupported(f"a range from {a} to {b} by {s}", f"ranges of up to {MAX_RANGE} floats are folded")
        return c.builder.graph.const(np.arange(a, b, s, dtype=dtype.np), dtype, hint=c.hint)
    start, limit = c.dims(0, "a range's start")[0], c.dims(1, "a range's limit")[0]
    step = c.ints(2, "a range's step")[0]
    if step == 0:
        raise GraphError("Range with step 0", where=c.origin, do="export the model again")
    span = limit - start if step > 0 else start - limit
    size = c.builder.maximum(ceildiv(span, abs(step)), 0)
    if not isinstance(start, int):
        base = c.emit("iota", start=0, step=step, size=size, dtype=DType.I64)
        return c.cast(c.emit("add", base, c.builder.materialize(c.builder.operand(start))), dtype)
    return c.emit("iota", start=start, step=step, size=size, dtype=dtype)


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
    x, k = c.x(0), c.dims(1, "k")[0] if c.has(1) else 0
    rows, cols = x.shape[-2:]
    i = c.reshape(c.emit("iota", size=rows, start=0, step=1, dtype=DType.I64), (rows, 1))
    j = c.emit("iota", size=cols, start=0, step=1, dtype=DType.I64)
    diagonal = c.emit("add", i, c.builder.materialize(c.builder.operand(k)))
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


def resolve(c: Call, x: Value, wanted: Sequence[Dim], allow_zero: bool) -> Shape:
    """The shape that Reshape's operand asks for: 0 copies a dimension, -1 takes what is left."""
    shape: list[Dim] = []
    for i, d in enumerate(wanted):
        if isinstance(d, int) and d == 0 and not allow_zero:
            if i >= x.rank:
                raise GraphError(f"Reshape copies dimension {i} of rank {x.rank}", where=c.origin)
            d = x.shape[i]
        shape.append(d)
    open_ = [i for i, d in enumerate(shape) if isinstance(d, int) and d == -1]
    if len(open_) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise GraphError(f"Reshape to {tuple(shape)}", where=c.origin, why="one dimension at most may be -1")
    if open_:
        rest = product(d for i, d in enumerate(shape) if i not in open_)
        total = product(x.shape)
        if isinstance(rest, int) and rest == 0:
            shape[open_[0]] = 0
        else:
            if isinstance(rest, int) and isinstance(total, int) and total % rest:
                raise GraphError(f"Reshape of {x.shape} to {tuple(shape)}", where=c.origin,
                                 why=f"{total} elements are not a multiple of {rest}", do="check the input's shape")
            shape[open_[0]] = total // rest
    return tuple(shape)


@lowers("Reshape")
def _reshape(c: Call) -> Value:
    x = c.x(0)
    return c.reshape(x, resolve(c, x, c.dims(1), bool(c.attr("allowzero", 0))))


@lowers("Flatten")
def _flatten(c: Call) -> Value:
    x = c.x()
    axis = c.attr("axis", 1)
    axis = axis if axis == x.rank else c.axis(axis, x.rank)
    return c.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


@lowers("Squeeze")
def _squeeze(c: Call) -> Value:
    x = c.x()
    axes = c.axes(1, x.rank)
    if axes is None:
        if any(isinstance(d, Sym) and c.builder.bounds(d)[0] <= 1 for d in x.shape):
            c.unsupported("without axes, the rank depends on a symbolic dimension", "export it with axes")
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    for a in axes:
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            raise GraphError(f"Squeeze of dimension {a}, which is {x.shape[a]}", where=c.origin)
    return c.reshape(x, (d for i, d in enumerate(x.shape) if i not in axes))


@lowers("Unsqueeze")
def _unsqueeze(c: Call) -> Value:
    x = c.x()
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
    x = c.x(0)
    wanted = c.dims(1)
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
    ratio = c.number(1, 0.5) if c.opset >= 12 else c.attr("ratio", 0.5)
    if training and ratio != 0:
        raise NeedsReferenceError
    x = c.x()
    return [x, filled(c, np.asarray(True), x.shape)] if c.wants(1) else [x]


# -- parts ------------------------------------------------------------------------------------


@lowers("Concat")
def _concat(c: Call) -> Value:
    axis = c.attr("axis", 1)
    values = c.operands()
    axis = c.axis(axis, values[0].rank)
    kept = [v for v in values if v.rank != values[0].rank or v.shape[axis] != 0] or values[:1]
    return kept[0] if len(kept) == 1 else c.emit("concat", *kept, axis=axis)


@lowers("Split")
def _split(c: Call) -> list[Value]:
    x = c.x(0)
    axis = c.axis(c.attr("axis", 0), x.rank)
    given: Sequence[Dim] | None = c.dims(1, "split") if c.has(1) else c.attr("split")
    n = len(c.proto.output)
    d = x.shape[axis]
    if not given:
        if c.opset < 18 and isinstance(d, int) and d % n:
            raise GraphError(f"Split of {d} into {n} equal parts", where=c.origin)
        each = ceildiv(d, n)
        given = [each] * (n - 1) + [d - each * (n - 1)]
    if len(given) != n:
        raise GraphError(f"Split: {len(given)} sizes for {n} outputs", where=c.origin)
    out: list[Value] = []
    at: Dim = 0
    for size in given:
        out.append(c.slice(x, axis, at, size))
        at = at + size
    return out


@lowers("Slice")
def _slice(c: Call) -> Value:
    x = c.x(0)
    if c.opset < 10:
        starts, ends = c.attr("starts"), c.attr("ends")
        axes, steps = c.attr("axes") or list(range(len(starts))), [1] * len(starts)
    else:
        starts, ends = c.dims(1, "starts"), c.dims(2, "ends")
        axes = c.ints(3, "axes") if c.has(3) else list(range(len(starts)))
        steps = c.ints(4, "steps") if c.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise GraphError("Slice with starts, ends, axes and steps of different lengths", where=c.origin)
    begin: list[Dim] = [0] * x.rank
    size: list[Dim] = list(x.shape)
    stride = [1] * x.rank
    for s, e, a, k in zip(starts, ends, axes, steps):
        if k == 0:
            raise GraphError("Slice with step 0", where=c.origin)
        a = c.axis(a, x.rank)
        begin[a], size[a], stride[a] = _extent(c, x.shape[a], s, e, k)
    if size == list(x.shape) and all(k == 1 for k in stride):
        return x
    return c.emit("slice", x, starts=tuple(begin), sizes=tuple(size), steps=tuple(stride))


def _extent(c: Call, d: Dim, start: Dim, end: Dim, step: int) -> tuple[Dim, Dim, int]:
    """(first, size, step) of one sliced dimension.

    ONNX clamps a start to [0, d] for a positive step and to [0, d - 1] for a negative one, unlike NumPy,
    where a start before the first element makes a backward slice empty.
    """
    b = c.builder
    if d == 0:
        return 0, 0, step

    def clamped(v: Dim, low: Dim, high: Dim) -> Dim:
        least, most = b.bounds(v)
        if isinstance(v, Sym) and least < 0 <= most:
            c.unsupported(f"a bound {v} that may be negative or not", "fix the dimension with shapes=")
        if most < 0:
            v = v + d if not isinstance(v, int) or v > -INT64_MAX else low
        return b.maximum(b.minimum(v, high), low)

    if step > 0:
        first, last = clamped(start, 0, d), clamped(end, 0, d)
        return first, b.maximum(ceildiv(last - first, step), 0), step
    first = clamped(start, 0, d - 1)
    last = -1 if isinstance(end, int) and isinstance(d, int) and end < -d else clamped(end, -1, d - 1)
    return first, b.maximum(ceildiv(first - last, -step), 0), step


@lowers("Pad")
def _pad(c: Call) -> Value:
    x = c.x(0)
    value: float = 0
    if c.opset < 11:
        given: Sequence[Dim] = c.attr("pads") or c.attr("paddings")
        value = c.attr("value", 0.0)
    else:
        given = c.dims(1, "pads")
        value = c.number(2, 0)
    axes = (c.axes(3, x.rank) if c.has(3) else None) or tuple(range(x.rank))
    if len(given) != 2 * len(axes):
        raise GraphError(f"Pad: {len(given)} pads for {len(axes)} axes", where=c.origin)
    pads: list[Dim] = [0] * (2 * x.rank)
    for k, a in enumerate(axes):
        pads[a], pads[x.rank + a] = given[k], given[len(axes) + k]
    if all(isinstance(p, int) and p == 0 for p in pads):
        return x
    return c.emit("pad", x, pads=tuple(pads), mode=c.attr("mode", "constant"), value=value)


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


# -- resize -----------------------------------------------------------------------------------


@lowers("Resize", "Upsample")
def _resize(c: Call) -> Value:
    x = c.x(0)
    mode = c.attr("mode", "nearest")
    at_scales = 1 if c.proto.op_type == "Upsample" or c.opset < 11 else 2
    axes = tuple(c.axis(a, x.rank) for a in c.attr("axes") or range(x.rank))
    sizes: list[Dim] | None = None
    if c.has(3) and (c.const(3) is None or c.fixed(3, "sizes").size):
        sizes = c.dims(3, "sizes")
    elif c.attr("scales") is not None:
        scales = list(c.attr("scales"))
    else:
        scales = [float(s) for s in c.fixed(at_scales, "scales").reshape(-1)]
    old = c.proto.op_type == "Upsample" or c.opset < 11
    coordinate = c.attr("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    policy = c.attr("keep_aspect_ratio_policy", "stretch")
    if c.attr("antialias", 0) or coordinate in ("tf_crop_and_resize", "tf_half_pixel_for_nn") or policy != "stretch":
        raise NeedsReferenceError
    shape = list(x.shape)
    factors: list[float | None] = [None] * x.rank
    for k, a in enumerate(axes):
        if sizes is not None:
            shape[a] = sizes[k]
        else:
            factors[a] = scales[k]
            shape[a] = _scaled(c, x.shape[a], scales[k])
    return c.emit("resize", x, shape=tuple(shape), scales=tuple(factors), mode="linear" if "linear" in mode else mode,
                  coordinate=coordinate, rounding=c.attr("nearest_mode", "floor" if old else "round_prefer_floor"),
                  cubic_coeff_a=c.attr("cubic_coeff_a", -0.75), exclude_outside=bool(c.attr("exclude_outside", 0)))


def _scaled(c: Call, d: Dim, scale: float) -> Dim:
    """floor(d * scale)."""
    if isinstance(d, int):
        return int(np.floor(d * np.float32(scale)))
    for over in range(1, 65):  # a scale is a ratio of small ints where d is not known
        top = scale * over
        if abs(top - round(top)) < 1e-6 * over:
            return d * round(top) // over
    c.unsupported(f"a scale of {scale} on the dimension {d}", "fix the dimension with shapes=")
