"""Lowerings of ONNX's quantization operators to integer products and pointwise arithmetic."""

from __future__ import annotations

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.lower_nn import conv, matmul
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, product


def _along(c: Call, v: Value, axis: int, rank: int) -> Value:
    """A scalar as it is; a vector along one axis of an operand of the given rank."""
    if v.rank == 0 or (v.rank == 1 and v.shape[0] == 1):
        return c.reshape(v, ())
    if v.rank != 1:
        raise NeedsReferenceError  # blocked
    return c.reshape(v, (v.shape[0] if i == axis else 1 for i in range(rank)))


def _centred(c: Call, x: Value, zero: Value | None, axis: int, to: DType) -> Value:
    """x - zero in type `to`."""
    y = c.cast(x, to)
    if zero is None or (zero.data is not None and not np.any(zero.data)):
        return y
    return c.emit("sub", y, c.cast(_along(c, zero, axis, x.rank), to))


def _saturated(c: Call, y: Value, zero: Value | None, axis: int, to: DType) -> Value:
    """round(y) + zero, clamped to the range of `to`."""
    y = c.emit("round", y)
    if zero is not None:
        y = c.emit("add", y, c.cast(_along(c, zero, axis, y.rank), y.dtype))
    info = np.iinfo(to.np)
    return c.cast(c.emit("min", c.emit("max", y, c.like(y, info.min)), c.like(y, info.max)), to)


@lowers("DequantizeLinear")
def _dequantize(c: Call) -> Value:
    x, scale, zero = c.x(0), c.x(1), c.opt(2)
    if c.attr("block_size", 0):
        raise NeedsReferenceError
    axis = c.axis(c.attr("axis", 1), x.rank) if scale.rank else 0
    y = _centred(c, x, zero, axis, DType.I32)
    return c.emit("mul", c.cast(y, scale.dtype), _along(c, scale, axis, x.rank))


@lowers("QuantizeLinear")
def _quantize(c: Call) -> Value:
    x, scale, zero = c.x(0), c.x(1), c.opt(2)
    to = zero.dtype if zero is not None else DType.U8
    if zero is None and c.attr("output_dtype", 0):
        to = element_type(c.attr("output_dtype"), c.origin)
    if c.attr("block_size", 0) or not to.is_integer or to.size > 2:
        raise NeedsReferenceError
    axis = c.axis(c.attr("axis", 1), x.rank) if scale.rank else 0
    y = c.emit("div", c.cast(x, DType.F32), c.cast(_along(c, scale, axis, x.rank), DType.F32))
    return _saturated(c, y, zero, axis, to)


@lowers("DynamicQuantizeLinear")
def _dynamic_quantize(c: Call) -> list[Value]:
    x = c.x()
    axes = tuple(range(x.rank))
    zero = c.like(x, 0)
    low = c.emit("min", c.reduce(x, "min", axes, keepdims=False), zero)
    high = c.emit("max", c.reduce(x, "max", axes, keepdims=False), zero)
    scale = c.emit("div", c.emit("sub", high, low), c.like(x, 255))
    point = c.emit("round", c.emit("div", c.emit("neg", low), scale))
    point = c.cast(c.emit("min", c.emit("max", point, zero), c.like(x, 255)), DType.U8)
    return [_saturated(c, c.emit("div", x, scale), point, 0, DType.U8), scale, point]


def _exact_in_f32(terms: Dim) -> None:
    """Sums of products of 8-bit integers are taken in f32 where that is exact; longer ones run as reference nodes."""
    if not isinstance(terms, int) or terms * 255 * 255 > 1 << 24:
        raise NeedsReferenceError


def _integer_matmul(c: Call, a: Value, zero_a: Value | None, b: Value, zero_b: Value | None) -> Value:
    _exact_in_f32(a.shape[-1] if a.rank else 1)
    x = _centred(c, a, zero_a, a.rank - 2, DType.F32)
    return c.cast(matmul(c, x, _centred(c, b, zero_b, b.rank - 1, DType.F32)), DType.I32)


def _integer_conv(c: Call, x: Value, zero_x: Value | None, w: Value, zero_w: Value | None) -> Value:
    _exact_in_f32(product(w.shape[1:]))
    y = conv(c, _centred(c, x, zero_x, 1, DType.F32), _centred(c, w, zero_w, 0, DType.F32), None)
    return c.cast(y, DType.I32)


@lowers("MatMulInteger")
def _matmul_integer(c: Call) -> Value:
    return _integer_matmul(c, c.x(0), c.opt(2), c.x(1), c.opt(3))


@lowers("ConvInteger")
def _conv_integer(c: Call) -> Value:
    return _integer_conv(c, c.x(0), c.opt(2), c.x(1), c.opt(3))


def _requantized(c: Call, acc: Value, factor: Value, scale: Value, zero: Value, axis: int) -> Value:
    factor = c.emit("div", factor, c.reshape(scale, ()))
    y = c.emit("mul", c.cast(acc, DType.F32), factor)
    return _saturated(c, y, zero, axis, zero.dtype)


@lowers("QLinearMatMul")
def _qlinear_matmul(c: Call) -> Value:
    a, b = c.x(0), c.x(3)
    if any(c.x(i).rank > 1 or c.x(i).dtype is not DType.F32 for i in (1, 4, 6)):
        raise NeedsReferenceError
    acc = _integer_matmul(c, a, c.x(2), b, c.x(5))
    factor = c.emit("mul", _along(c, c.x(1), acc.rank - 2, acc.rank), _along(c, c.x(4), acc.rank - 1, acc.rank))
    return _requantized(c, acc, factor, c.x(6), c.x(7), 0)


@lowers("QLinearConv")
def _qlinear_conv(c: Call) -> Value:
    x, w = c.x(0), c.x(3)
    acc = _integer_conv(c, x, c.x(2), w, c.x(5))
    bias = c.opt(8)
    if bias is not None:
        acc = c.emit("add", acc, _along(c, bias, 1, acc.rank))
    factor = c.emit("mul", c.reshape(c.x(1), ()), _along(c, c.x(4), 1, acc.rank))
    return _requantized(c, acc, factor, c.x(6), c.x(7), 1)
