"""Lowerings of ONNX Runtime's quantized operators (domain com.microsoft).

They are computed on dequantized numbers and quantized again, as ONNX Runtime does elementwise ones; products of
which a scale or zero point is computed are integer products, as MatMulInteger has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import helper

from whet.frontends.call import LOWERINGS, Call, NeedsReferenceError, Operand, lowers
from whet.frontends.lower_contrib import MICROSOFT
from whet.frontends.lower_contrib_attention import attention_of_projection
from whet.frontends.lower_nn import matmul
from whet.frontends.lower_quant import CODES, fixed, real
from whet.ir.dtypes import DType
from whet.ir.graph import Value

_OPSET = 21  # of the standard operators that these are made of


def standard(c: Call, op: str, *operands: Value | None, **attrs: Any) -> list[Value]:
    """The results of a standard operator on these operands, in the place of this node."""
    proto = helper.make_node(op, [f"in{i}" if v is not None else "" for i, v in enumerate(operands)],
                             [c.hint], name=c.proto.name, **attrs)
    inner = Call(c.builder, proto, list(operands), _OPSET)
    inner.origin, inner.hint = c.origin, c.hint
    result = LOWERINGS["", op](inner)
    values: Sequence[Operand | None] = [result] if not isinstance(result, Sequence) else result
    return [v for v in values if isinstance(v, Value)]


def _real(c: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    """x as real numbers."""
    return standard(c, "DequantizeLinear", x, c.reshape(scale, ()), _scalar(c, zero))[0]


def _quantized(c: Call, y: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    """y quantized; without a zero point 0, of the type of `like`."""
    zero = _scalar(c, zero) if zero is not None else c.constant(0, like.dtype)
    return standard(c, "QuantizeLinear", y, c.reshape(scale, ()), zero)[0]


def _scalar(c: Call, zero: Value | None) -> Value | None:
    return None if zero is None else c.reshape(zero, ())


def _operand(c: Call, i: int) -> Value:
    """Operands i (codes), i + 1 (scale), i + 2 (zero point) as real numbers."""
    return _real(c, c.x(i), c.x(i + 1), c.opt(i + 2))


# -- elementwise ------------------------------------------------------------------------------


@lowers("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _qlinear_binary(c: Call) -> Value:
    op = {"QLinearAdd": "add", "QLinearMul": "mul"}[c.proto.op_type]
    return _quantized(c, c.emit(op, _operand(c, 0), _operand(c, 3)), c.x(6), c.opt(7), c.x(0))


@lowers("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def _qlinear_unary(c: Call) -> Value:
    x = _operand(c, 0)
    if c.proto.op_type == "QLinearSigmoid":
        y = c.emit("sigmoid", x)
    else:
        y = standard(c, "LeakyRelu", x, alpha=c.attr("alpha", 0.01))[0]
    return _quantized(c, y, c.x(3), c.opt(4), c.x(0))


@lowers("QLinearSoftmax", domain=MICROSOFT)
def _qlinear_softmax(c: Call) -> Value:
    """Softmax along an axis; before opset 13, over all dimensions from the axis on."""
    x = _operand(c, 0)
    axis = c.axis(c.attr("axis", -1), x.rank)
    if c.attr("opset", 13) >= 13 or axis == x.rank - 1:
        y = c.emit("softmax", x, axis=axis)
    else:
        width = 1
        for d in x.shape[axis:]:
            width = width * d  # type: ignore[assignment]
        y = c.reshape(c.emit("softmax", c.reshape(x, (*x.shape[:axis], width)), axis=axis), x.shape)
    return _quantized(c, y, c.x(3), c.opt(4), c.x(0))


@lowers("QLinearWhere", domain=MICROSOFT)
def _qlinear_where(c: Call) -> Value:
    y = c.emit("where", c.x(0), _operand(c, 1), _operand(c, 4))
    return _quantized(c, y, c.x(7), c.opt(8), c.x(1))


@lowers("QLinearConcat", domain=MICROSOFT)
def _qlinear_concat(c: Call) -> Value:
    scale, zero = c.x(0), c.opt(1)
    parts = [_quantized(c, _operand(c, i), scale, zero, c.x(i)) for i in range(2, len(c.inputs), 3)]
    return c.emit("concat", *parts, axis=c.axis(c.attr("axis"), parts[0].rank))


# -- pooling ----------------------------------------------------------------------------------


def _pooled(c: Call, op: str, **attrs: Any) -> Value:
    """A pooling of operands 0 to 2 quantized by 3 and 4; channels_last is [N, H, W, C]."""
    x = _operand(c, 0)
    last = bool(c.attr("channels_last", 0))
    if last:
        x = c.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1)))
    y = standard(c, op, x, **attrs)[0]
    if last:
        y = c.transpose(y, (0, *range(2, y.rank), 1))
    return _quantized(c, y, c.x(3), c.opt(4), c.x(0))


@lowers("QLinearAveragePool", domain=MICROSOFT)
def _qlinear_average_pool(c: Call) -> Value:
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    return _pooled(c, "AveragePool", **{n: c.attr(n) for n in names if c.attr(n) is not None})


@lowers("QLinearGlobalAveragePool", domain=MICROSOFT)
def _qlinear_global_average_pool(c: Call) -> Value:
    return _pooled(c, "GlobalAveragePool")


@lowers("NhwcMaxPool", domain=MICROSOFT)
def _nhwc_max_pool(c: Call) -> Value:
    """MaxPool of 8-bit [N, H, W, C]."""
    x = c.x(0)
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    y = standard(c, "MaxPool", c.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1))),
                 **{n: c.attr(n) for n in names if c.attr(n) is not None})[0]
    return c.transpose(y, (0, *range(2, y.rank), 1))


@lowers("QLinearReduceMean", domain=MICROSOFT)
def _qlinear_reduce_mean(c: Call) -> Value:
    x = _operand(c, 0)
    axes = tuple(c.axis(a, x.rank) for a in c.attr("axes", range(x.rank)))
    return _quantized(c, c.reduce(x, "mean", axes, bool(c.attr("keepdims", 1))), c.x(3), c.opt(4), c.x(0))


# -- products ---------------------------------------------------------------------------------


def _product(c: Call, a: Value, zero_a: Value | None, b: Value, zero_b: Value | None) -> Value:
    """(A - zero_a) @ (B - zero_b) as fp32 numbers: an integer product where there is one for the sizes."""
    try:
        return c.cast(standard(c, "MatMulInteger", a, b, zero_a, zero_b)[0], DType.F32)
    except NeedsReferenceError:
        x, y = c.cast(a, DType.F32), c.cast(b, DType.F32)
        if zero_a is not None:
            x = c.emit("sub", x, c.cast(_scalar_or_column(c, zero_a, -2, x.rank), DType.F32))
        if zero_b is not None:
            y = c.emit("sub", y, c.cast(_scalar_or_column(c, zero_b, -1, y.rank), DType.F32))
        return matmul(c, x, y)


def _scalar_or_column(c: Call, v: Value, axis: int, rank: int) -> Value:
    if all(d == 1 for d in v.shape):
        return c.reshape(v, ())
    return c.reshape(v, (*v.shape, 1) if axis == -2 and v.rank == 1 and rank > 1 else v.shape)


def _scaled(c: Call, product: Value, scale_a: Value, scale_b: Value) -> Value:
    """A product times the scales of its operands: scalars, or one per column of B."""
    factor = c.emit("mul", *(c.reshape(s, ()) if all(d == 1 for d in s.shape) else s for s in (scale_a, scale_b)))
    return c.emit("mul", product, factor)


def _known(c: Call, a: int, scale_a: int, zero_a: int, b: int, scale_b: int, zero_b: int) -> bool:
    """True if operands a and b are codes whose scales and zero points (by their places) are constants: of a in all,
    of b in all or per column."""
    first, second = c.x(scale_a), c.x(scale_b)
    return (fixed(first, c.opt(zero_a)) and fixed(second, c.opt(zero_b)) and {c.x(a).dtype, c.x(b).dtype} <= set(CODES)
            and all(v is None or all(d == 1 for d in v.shape) for v in (first, c.opt(zero_a)))
            and all(v is None or v.rank <= 1 for v in (second, c.opt(zero_b))))


@lowers("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_integer_to_float(c: Call) -> Value:
    if _known(c, 0, 2, 4, 1, 3, 5):
        b = real(c, c.x(1), c.x(3), c.opt(5), c.x(1).rank - 1)
        y = matmul(c, real(c, c.x(0), c.x(2), c.opt(4)), b)
        return y if c.opt(6) is None else c.emit("add", y, c.opt(6))
    y = _scaled(c, _product(c, c.x(0), c.opt(4), c.x(1), c.opt(5)), c.x(2), c.x(3))
    bias = c.opt(6)
    return y if bias is None else c.emit("add", y, bias)


@lowers("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_quantize_matmul(c: Call) -> Value:
    """A quantized to 8 bits by its own range, times B, which is given in 8 bits."""
    codes, scale, zero = standard(c, "DynamicQuantizeLinear", c.x(0))
    y = _scaled(c, _product(c, codes, zero, c.x(1), c.opt(3)), scale, c.x(2))
    bias = c.opt(4)
    return y if bias is None else c.emit("add", y, bias)


@lowers("QGemm", domain=MICROSOFT)
def _qgemm(c: Call) -> Value:
    """alpha * A @ B + C (of the scale a * b), quantized where an output scale is given, else real."""
    a, b = c.x(0), c.x(3)
    a = c.transpose(a, (1, 0)) if c.attr("transA", 0) else a
    b = c.transpose(b, (1, 0)) if c.attr("transB", 0) else b
    alpha = c.attr("alpha", 1.0)
    if _known(c, 0, 1, 2, 3, 4, 5):
        y = matmul(c, real(c, a, c.x(1), c.opt(2)), real(c, b, c.x(4), c.opt(5), 1))
        if c.has(6):
            scale = c.emit("mul", c.reshape(c.x(1), ()), c.x(4))
            y = c.emit("add", y, real(c, c.x(6), scale, None, c.x(6).rank - 1))
        return _gemm_result(c, y, alpha)
    acc = _product(c, a, c.opt(2), b, c.opt(5))
    if c.has(6):
        acc = c.emit("add", acc, c.cast(c.x(6), DType.F32))
    return _gemm_result(c, _scaled(c, acc, c.x(1), c.x(4)), alpha)


def _gemm_result(c: Call, y: Value, alpha: float) -> Value:
    if alpha != 1.0:
        y = c.emit("mul", y, c.like(y, alpha))
    return _quantized(c, y, c.x(7), c.opt(8), c.x(0)) if c.has(7) else y


@lowers("QLinearConv", domain=MICROSOFT)
def _qlinear_conv(c: Call) -> Value:
    """The standard operator, or with channels_last [N, H, W, C] in and out."""
    if not c.attr("channels_last", 0):
        result = LOWERINGS["", "QLinearConv"](c)
        assert isinstance(result, Value)
        return result
    x = c.x(0)
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    y = standard(c, "QLinearConv", c.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1))),
                 *(c.opt(i) for i in range(1, 9)), **{n: c.attr(n) for n in names if c.attr(n) is not None})[0]
    return c.transpose(y, (0, *range(2, y.rank), 1))


@lowers("QAttention", domain=MICROSOFT)
def _qattention(c: Call) -> Sequence[Operand | None]:
    """Attention whose projection is a product of 8-bit integers."""
    joint = _scaled(c, _product(c, c.x(0), c.opt(6), c.x(1), c.opt(7)), c.x(3), c.x(4))
    joint = c.emit("add", joint, c.x(2))
    return attention_of_projection(c, joint, mask=c.opt(5), past=c.opt(8), bias=None)
