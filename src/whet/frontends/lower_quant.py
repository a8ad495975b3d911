"""Lowerings of ONNX's quantization operators to integer products and pointwise arithmetic."""

from __future__ import annotations

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.lower_nn import conv, matmul
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value


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


@lowers("MatMulInteger")
def _matmul_integer(c: Call) -> Value:
    a, b = c.x(0), c.x(1)
    return matmul(c, _centred(c, a, c.opt(2), a.rank - 2, DType.I32), _centred(c, b, c.opt(3), b.rank - 1, DType.I32))


@lowers("ConvInteger")
def _conv_integer(c: Call) -> Value:
    x, w = c.x(0), c.x(1)
    return conv(c, _centred(c, x, c.opt(2), 1, DType.I32), _centred(c, w, c.opt(3), 0, DType.I32), None)


def _requantized(c: Call, acc: Value, factor: Value, scale: Value, zero: Value, axis: int) -> Value:
    factor = c.emit("div", factor, c.reshape(scale, ()))
    y = c.emit("mul", c.cast(acc, DType.F32), factor)
    return _saturated(c, y, zero, axis, zero.dtype)


@lowers("QLinearMatMul")
def _qlinear_matmul(c: Call) -> Value:
    a, b = c.x(0), c.x(3)
    if any(c.x(i).rank > 1 or c.x(i).dtype is not DType.F32 for i in (1, 4, 6)):
        raise NeedsReferenceError
    acc = matmul(c, _centred(c, a, c.x(2), a.rank - 2, DType.I32), _centred(c, b, c.x(5), b.rank - 1, DType.I32))
    factor = c.emit("mul", _along(c, c.x(1), acc.rank - 2, acc.rank), _along(c, c.x(4), acc.rank - 1, acc.rank))
    return _requantized(c, acc, factor, c.x(6), c.x(7), 0)


@lowers("QLinearConv")
def _qlinear_conv(c: Call) -> Value:
    x, w = c.x(0), c.x(3)
    acc = conv(c, _centred(c, x, c.x(2), 1, DType.I32), _centred(c, w, c.x(5), 0, DType.I32), c.opt(8))
    factor = c.emit("mul", c.reshape(c.x(1), ()), _along(c, c.x(4), 1, acc.rank))
    return _requantized(c, acc, factor, c.x(6), c.x(7), 1)
