"""Lowerings of ONNX's quantization operators.

What has constant scales and zero points of 8-bit codes becomes `quantize` and `dequantize`, between which the pass
`integer` finds products of codes; operators that are exact in integers become such products at once. All else is
pointwise arithmetic and products of f32.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.lower_grouped import dequantized, dequantized_lines
from whet.frontends.lower_nn import conv, matmul
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import is_static, product

CODES = (DType.U8, DType.I8)


def _along(c: Call, v: Value, axis: int, rank: int) -> Value:
    """A scalar as it is; a vector along one axis of an operand of the given rank; what has that rank broadcasts."""
    if all(d == 1 for d in v.shape):
        return c.reshape(v, ())
    if v.rank == rank > 1:
        return v
    if v.rank != 1:
        raise NeedsReferenceError("with blocks of scales")
    return c.reshape(v, (v.shape[0] if i == axis else 1 for i in range(rank)))


def _blocks(c: Call, x: Value, scale: Value, zero: Value | None) -> tuple[Value, Value, Value | None]:
    """Operands that broadcast: one scale and zero point in all, per index of an axis, or per block along an axis.

    Where blocks come out even, x gets a dimension more and the scales are not repeated; the caller restores the shape.
    """
    block = c.attr("block_size", 0)
    if not block or all(d == 1 for d in scale.shape):
        single = all(d == 1 for d in scale.shape)
        axis = 0 if single else c.axis(c.attr("axis", 1), x.rank)
        return x, _along(c, scale, axis, x.rank), None if zero is None else _along(c, zero, axis, x.rank)
    axis = c.axis(c.attr("axis", 1), x.rank)
    if scale.rank != x.rank:
        raise GraphError(f"blocks of {block} need a scale of rank {x.rank}, not {scale.rank}", where=c.origin,
                         do="export the model again")
    before, n, after = scale.shape[:axis], scale.shape[axis], scale.shape[axis + 1:]
    if x.shape[axis] == n * block:
        per = tuple(None if v is None else c.reshape(v, (*before, n, 1, *after)) for v in (scale, zero))
        return c.reshape(x, (*x.shape[:axis], n, block, *x.shape[axis + 1:])), per[0], per[1]  # type: ignore[return-value]

    def repeated(v: Value) -> Value:
        wide = c.expand(c.reshape(v, (*before, n, 1, *after)), (*before, n, block, *after))
        return c.slice(c.reshape(wide, (*before, n * block, *after)), axis, 0, x.shape[axis])

    return x, repeated(scale), None if zero is None else repeated(zero)


def _is_zero(v: Value | None) -> bool:
    return v is None or (v.data is not None and not np.any(v.data.astype(np.float32)))


def _centred(c: Call, x: Value, zero: Value | None, axis: int, to: DType) -> Value:
    """x - zero in type `to`."""
    y = c.cast(x, to)
    if zero is None or _is_zero(zero):
        return y
    return c.emit("sub", y, c.cast(_along(c, zero, axis, x.rank), to))


def _saturated(c: Call, y: Value, zero: Value | None, to: DType) -> Value:
    """round(y) + zero (which broadcasts), clamped to the range of the integer type `to`."""
    y = c.emit("round", y)
    if zero is not None and not _is_zero(zero):
        y = c.emit("add", y, c.cast(zero, y.dtype))
    info = ml_dtypes.iinfo(to.np)
    return c.cast(c.emit("min", c.emit("max", y, c.like(y, int(info.min))), c.like(y, int(info.max))), to)


def fixed(scale: Value, zero: Value | None) -> bool:
    """True for a constant scale in f32 and a constant zero point, or none."""
    return scale.dtype is DType.F32 and scale.is_const and (zero is None or zero.is_const)


def real(c: Call, q: Value, scale: Value, zero: Value | None, axis: int = 0) -> Value:
    """`dequantize` of codes (or sums in i32) with `fixed` parameters, which may be vectors along an axis."""
    zero = zero if zero is not None else c.constant(0, q.dtype)
    return c.emit("dequantize", q, _along(c, scale, axis, q.rank), _along(c, zero, axis, q.rank))


def codes(c: Call, x: Value, scale: Value, zero: Value | None, to: DType, axis: int = 0) -> Value:
    """`quantize` to 8-bit codes with `fixed` parameters, which may be vectors along an axis."""
    zero = zero if zero is not None else c.constant(0, to)
    return c.emit("quantize", x, _along(c, scale, axis, x.rank), _along(c, zero, axis, x.rank))


@lowers("DequantizeLinear")
def _dequantize(c: Call) -> Value:
    """(x - zero) * scale, in f32; the zero point of floats is 0."""
    shape = c.x(0).shape
    to = element_type(c.attr("output_dtype"), c.origin) if c.attr("output_dtype", 0) else c.x(1).dtype
    if len(shape) == 2:
        operands, block = (c.x(0), c.x(1), c.opt(2)), c.attr("block_size", 0)
        axis = 1 if all(d == 1 for d in c.x(1).shape) else c.axis(c.attr("axis", 1), 2)
        whole = dequantized(c, *operands, axis, block) if block else dequantized_lines(c, *operands, axis)
        if whole is not None:
            return c.cast(whole, to)
    x, scale, zero = _blocks(c, c.x(0), c.x(1), c.opt(2))
    if x.dtype in (*CODES, DType.I32) and to is DType.F32 and not c.attr("block_size", 0) and fixed(c.x(1), c.opt(2)):
        return c.emit("dequantize", x, scale, zero if zero is not None else c.constant(0, x.dtype))
    y = c.cast(x, DType.F32)
    if zero is not None and not _is_zero(zero) and not x.dtype.computed_as.is_float:
        if x.dtype.size < 4:  # else the difference may need more bits than f32 has
            y = c.emit("sub", y, c.cast(zero, DType.F32))
        else:
            y = c.cast(c.emit("sub", x, zero), DType.F32)
    return c.reshape(c.cast(c.emit("mul", y, c.cast(scale, DType.F32)), to), shape)


@lowers("QuantizeLinear")
def _quantize(c: Call) -> Value:
    """x / scale in the scale's type or what `precision` says; then integers are rounded, shifted by the zero point
    and clamped, floats cast (the zero point of 8-bit floats is 0)."""
    shape = c.x(0).shape
    to = DType.U8
    if c.has(2):
        to = c.x(2).dtype
    elif c.attr("output_dtype", 0):
        to = element_type(c.attr("output_dtype"), c.origin)
    x, scale, zero = _blocks(c, c.x(0), c.x(1), c.opt(2))
    precision = element_type(c.attr("precision"), c.origin) if c.attr("precision", 0) else scale.dtype
    if not precision.is_float:
        precision = DType.F32
    if (to in CODES and x.dtype is precision is DType.F32 and not c.attr("block_size", 0)
            and fixed(c.x(1), c.opt(2))):
        return c.emit("quantize", x, scale, zero if zero is not None else c.constant(0, to))
    y = c.cast(c.emit("div", c.cast(x, precision), c.cast(scale, precision)), DType.F32)
    if not to.computed_as.is_float:
        return c.reshape(_saturated(c, y, zero, to), shape)
    if zero is not None and not _is_zero(zero) and to.bits < 8:
        y = c.emit("add", y, c.cast(zero, DType.F32))
    return c.reshape(c.emit("cast", y, to=to, saturate=bool(c.attr("saturate", 1))), shape)


@lowers("DynamicQuantizeLinear")
def _dynamic_quantize(c: Call) -> list[Value]:
    x = c.x()
    axes = tuple(range(x.rank))
    zero = c.like(x, 0)
    low = c.emit("min", c.reduce(x, "min", axes, keepdims=False), zero)
    high = c.emit("max", c.reduce(x, "max", axes, keepdims=False), zero)
    width = c.emit("where", c.emit("eq", high, low), c.like(x, 1), c.emit("sub", high, low))
    scale = c.emit("div", width, c.like(x, 255))
    point = c.emit("round", c.emit("div", c.emit("neg", low), scale))
    point = c.cast(c.emit("min", c.emit("max", point, zero), c.like(x, 255)), DType.U8)
    return [_saturated(c, c.emit("div", x, scale), point, DType.U8), scale, point]


def _exact_terms(a: Value, zero_a: Value | None, b: Value, zero_b: Value | None) -> int:
    """How many products of two centred 8-bit integers add up exactly in f32, whatever their values."""
    def largest(v: Value, zero: Value | None) -> int:
        return 128 if v.dtype is DType.I8 and _is_zero(zero) else 255

    return (1 << 24) // (largest(a, zero_a) * largest(b, zero_b))


def _weights(w: Value, zero: Value | None) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Constant codes as i8, and their zero point (int64) where taking it off does not fit i8: then codes in u8 are
    less 128. None for what is not constant."""
    if w.dtype not in CODES or w.data is None or (zero is not None and zero.data is None):
        return None
    point = np.zeros((), np.int16) if zero is None or zero.data is None else zero.data.astype(np.int16)
    q = w.data.astype(np.int16)
    if np.broadcast_shapes(q.shape, point.shape) != q.shape:
        return None
    if not q.size or ((q - point).min() >= -128 and (q - point).max() <= 127):
        return (q - point).astype(np.int8), None
    shift = 128 if w.dtype is DType.U8 else 0
    return (q - shift).astype(np.int8), (point - shift).astype(np.int64)


def _integer_product(c: Call, a: Value, zero_a: Value | None, b: Value, zero_b: Value | None) -> Value | None:
    """(a - zero_a) @ (b - zero_b) of codes by a constant matrix: the raw product in i32 with corrections

        sum ab - zero_a (sum b - K zero_b) - zero_b sum a

    where the second is a constant row but for zero_a, and the third only there if b does not fit i8 without zero_b.
    """
    found = _weights(b, zero_b) if b.rank == 2 and a.dtype in CODES else None
    if found is None or a.rank == 0 or (a.rank == 1 and product(zero_a.shape if zero_a is not None else ()) != 1):
        return None
    w, point = found
    y = matmul(c, a, c.constant(w, DType.I8))
    totals = w.sum(axis=0, dtype=np.int64) - (0 if point is None else w.shape[0] * point)
    if not _is_zero(zero_a):
        assert zero_a is not None
        first = c.cast(_along(c, zero_a, max(a.rank - 2, 0), a.rank), DType.I32)
        y = c.emit("sub", y, c.emit("mul", first, c.constant(totals, DType.I32)))
    if point is not None:
        rows = c.reduce(c.cast(a, DType.I32), "sum", (a.rank - 1,))
        y = c.emit("sub", y, c.emit("mul", rows, c.constant(point, DType.I32)))
    return y


def _integer_matmul(c: Call, a: Value, zero_a: Value | None, b: Value, zero_b: Value | None) -> Value:
    """The product of centred integers in int32: one of codes where b is constant, else f32 products of as much of the
    inner dimension as is exact, or one of int32 where it is symbolic. Products of 8-bit floats stay f32."""
    exact = _integer_product(c, a, zero_a, b, zero_b)
    if exact is not None:
        return exact
    depth, whole = a.shape[-1] if a.rank else 1, DType.F32 if isinstance(a.shape[-1], int) else DType.I32
    x, y = _centred(c, a, zero_a, a.rank - 2, whole), _centred(c, b, zero_b, b.rank - 1, whole)
    if a.dtype.is_storage or not isinstance(depth, int):
        return matmul(c, x, y)
    step = _exact_terms(a, zero_a, b, zero_b)
    total: Value | None = None
    for start in range(0, max(depth, 1), step):
        n = min(step, depth - start)
        part = matmul(c, c.slice(x, x.rank - 1, start, n), c.slice(y, max(y.rank - 2, 0), start, n))
        part = c.cast(part, DType.I32)
        total = part if total is None else c.emit("add", total, part)
    assert total is not None
    return total


def _convolved_codes(c: Call, x: Value, zero_x: Value | None, w: Value, zero_w: Value | None) -> Value | None:
    """The convolution of codes by constant weights in i32, less the zero point times the sum of the weights that meet
    it: all of them where padding holds the zero point, else (it is computed) those that lie on the input."""
    along = None if zero_w is None else _along(c, zero_w, 0, w.rank)
    found = _weights(w, along) if x.dtype in CODES and w.rank > 2 else None
    if found is None or found[1] is not None or (zero_x is not None and product(zero_x.shape) != 1):
        return None
    q = found[0]
    if zero_x is None or zero_x.data is not None:
        zero = 0 if zero_x is None or zero_x.data is None else int(zero_x.data.reshape(())[()])
        y = conv(c, x, c.constant(q, DType.I8), None, pad_value=zero)
        totals = zero * q.reshape(q.shape[0], -1).sum(axis=1, dtype=np.int64)
        return c.emit("sub", y, c.constant(totals.reshape(-1, *(1,) * (x.rank - 2)), DType.I32)) if zero else y
    if not is_static(x.shape[2:]):
        return None
    ones = c.constant(np.ones((1, c.attr("group", 1), *(d for d in x.shape[2:] if isinstance(d, int))), np.int32),
                      DType.I32)
    met = conv(c, ones, c.constant(q.sum(axis=1, keepdims=True, dtype=np.int32), DType.I32), None)
    y = conv(c, x, c.constant(q, DType.I8), None)
    return c.emit("sub", y, c.emit("mul", c.cast(c.reshape(zero_x, ()), DType.I32), met))


def _integer_conv(c: Call, x: Value, zero_x: Value | None, w: Value, zero_w: Value | None) -> Value:
    """The convolution of centred integers in int32: of codes where the weights are constant, else f32 convolutions of
    as many input channels as is exact."""
    exact = _convolved_codes(c, x, zero_x, w, zero_w)
    if exact is not None:
        return exact
    window, channels, group = product(w.shape[2:]), w.shape[1], c.attr("group", 1)
    most = _exact_terms(x, zero_x, w, zero_w)
    if not isinstance(window, int) or not isinstance(channels, int) or window > most:
        raise NeedsReferenceError("of so large a window, or of dynamic weights")
    data, weights = _centred(c, x, zero_x, 1, DType.F32), _centred(c, w, zero_w, 0, DType.F32)
    step = max(1, most // max(window, 1))
    if channels <= step:
        return c.cast(conv(c, data, weights, None), DType.I32)
    grouped = c.reshape(data, (x.shape[0], group, channels, *x.shape[2:]))
    total: Value | None = None
    for start in range(0, channels, step):
        n = min(step, channels - start)
        part = c.reshape(c.slice(grouped, 2, start, n), (x.shape[0], group * n, *x.shape[2:]))
        y = c.cast(conv(c, part, c.slice(weights, 1, start, n), None), DType.I32)
        total = y if total is None else c.emit("add", total, y)
    assert total is not None
    return total


@lowers("MatMulInteger")
def _matmul_integer(c: Call) -> Value:
    return _integer_matmul(c, c.x(0), c.opt(2), c.x(1), c.opt(3))


@lowers("ConvInteger")
def _conv_integer(c: Call) -> Value:
    return _integer_conv(c, c.x(0), c.opt(2), c.x(1), c.opt(3))


def _requantized(c: Call, acc: Value, factor: Value, scale: Value, zero: Value, axis: int) -> Value:
    factor = c.emit("div", factor, _along(c, c.cast(scale, DType.F32), axis, acc.rank))
    y = c.emit("mul", c.cast(acc, DType.F32), factor)
    if zero.dtype.is_storage:
        return c.cast(y, zero.dtype)
    return _saturated(c, y, _along(c, zero, axis, y.rank), zero.dtype)


@lowers("QLinearMatMul")
def _qlinear_matmul(c: Call) -> Value:
    """Scales and zero points in all, per row of the first and per column of the second operand, or of full rank."""
    a, b, zero = c.x(0), c.x(3), c.x(7)
    if all(whole(c, i) for i in (1, 6)) and fixed(c.x(4), c.opt(5)) and {a.dtype, b.dtype, zero.dtype} <= set(CODES):
        y = matmul(c, real(c, a, c.x(1), c.x(2)), real(c, b, c.x(4), c.x(5), b.rank - 1))
        return codes(c, y, c.x(6), zero, zero.dtype)
    acc = _integer_matmul(c, c.x(0), c.x(2), c.x(3), c.x(5))
    rows, columns = acc.rank - 2, acc.rank - 1
    scales = [_along(c, c.cast(c.x(i), DType.F32), axis, acc.rank) for i, axis in ((1, rows), (4, columns))]
    return _requantized(c, acc, c.emit("mul", *scales), c.x(6), c.x(7), acc.rank - 2)


def whole(c: Call, i: int) -> bool:
    """True if operands i and i + 1 are a constant scale in f32 and zero point for the whole of a tensor."""
    return fixed(c.x(i), c.opt(i + 1)) and c.x(i).data is not None and c.x(i).data.size == 1  # type: ignore[union-attr]


@lowers("QLinearConv")
def _qlinear_conv(c: Call) -> Value:
    x, w, to = c.x(0), c.x(3), c.x(7).dtype
    if (whole(c, 1) and whole(c, 6) and fixed(c.x(4), c.opt(5)) and w.is_const
            and {x.dtype, w.dtype, to} <= set(CODES)):
        scale = c.emit("mul", c.reshape(c.x(1), ()), c.x(4))
        bias = c.opt(8)
        if bias is not None:
            bias = real(c, bias, scale, None)
        y = conv(c, real(c, x, c.x(1), c.x(2)), real(c, w, c.x(4), c.x(5)), bias)
        return codes(c, y, c.x(6), c.x(7), to)
    acc = _integer_conv(c, x, c.x(2), w, c.x(5))
    bias = c.opt(8)
    if bias is not None:
        acc = c.emit("add", acc, _along(c, bias, 1, acc.rank))
    factor = c.emit("mul", c.reshape(c.x(1), ()), _along(c, c.x(4), 1, acc.rank))
    return _requantized(c, acc, factor, c.x(6), c.x(7), 1)
