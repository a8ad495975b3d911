"""Lowerings of ONNX's elementwise operators, activations and reductions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.dynamic_axes import AxesAsData
from whet.frontends.scalars import Scalars
from whet.frontends.tensors import element_type
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, product

PER_CHANNEL = ("whet", "PReluPerChannel")  # what PRelu of a model before opset 7 is renamed to

# -- one to one -------------------------------------------------------------------------------

_SAME = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Add": "add", "And": "and", "Asin": "asin", "Asinh": "asinh",
    "Atan": "atan", "Atanh": "atanh", "BitwiseAnd": "bitand", "BitwiseNot": "bitnot", "BitwiseOr": "bitor",
    "BitwiseXor": "bitxor", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Div": "div", "Erf": "erf", "Exp": "exp",
    "Floor": "floor", "Greater": "gt", "GreaterOrEqual": "ge", "HardSwish": "hardswish", "IsNaN": "isnan",
    "Less": "lt", "LessOrEqual": "le", "Log": "log", "Mul": "mul", "Neg": "neg", "Not": "not", "Or": "or",
    "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin",
    "Sinh": "sinh", "Sqrt": "sqrt", "Sub": "sub", "Tan": "tan", "Tanh": "tanh", "Where": "where", "Xor": "xor",
}


def _same(op: str) -> Callable[[Call], Value]:
    return lambda c: c.emit(op, *_no_strings(c))


def _no_strings(c: Call) -> list[Value]:
    values = c.operands()
    if any(v.dtype.is_host for v in values):
        raise NeedsReferenceError("of strings")
    return values


for _onnx, _op in _SAME.items():
    lowers(_onnx)(_same(_op))


@lowers("Equal")
def _equal(c: Call) -> Value:
    return c.emit("eq", *_no_strings(c))


@lowers("IsInf")
def _isinf(c: Call) -> Value:
    return c.emit("isinf", c.x(), positive=bool(c.attr("detect_positive", 1)),
                  negative=bool(c.attr("detect_negative", 1)))


@lowers("Mod")
def _mod(c: Call) -> Value:
    return c.emit("mod", c.x(0), c.x(1), fmod=bool(c.attr("fmod", 0)))


def _holds(real: DType, v: Value) -> bool:
    """True if integers are known to be numbers of the floating-point type `real`."""
    if v.data is None:
        return v.dtype.size < {DType.F64: 8, DType.F32: 4}.get(real, 1)
    return bool((v.data.astype(real.np).astype(np.float64) == v.data.astype(np.float64)).all())


@lowers("Pow")
def _pow(c: Call) -> Value:
    """The result has the base's type; an exponent of another type is brought to a common one first."""
    a, b = c.x(0), c.x(1)
    if a.dtype is b.dtype:
        return c.emit("pow", a, b)
    if a.dtype.is_float and (b.dtype.is_float or _holds(a.dtype, b)):
        return c.emit("pow", a, c.cast(b, a.dtype))
    if a.dtype.is_float:  # whether an exponent is odd must not be lost
        return c.cast(c.emit("pow", c.cast(a, DType.F64), c.cast(b, DType.F64)), a.dtype)
    if b.dtype.is_float:
        common = DType.F64 if a.dtype.size >= 4 else b.dtype
        return c.cast(c.emit("pow", c.cast(a, common), c.cast(b, common)), a.dtype)
    return c.cast(c.emit("pow", c.cast(a, DType.I64), c.cast(b, DType.I64)), a.dtype)


@lowers("BitShift")
def _bit_shift(c: Call) -> Value:
    """Shifts by the type's width or more, and by less than 0, leave 0, or the sign to the right (opset 28)."""
    x, n = c.x(0), c.x(1)
    op = "shl" if c.attr("direction") == "LEFT" else "shr"
    if not x.dtype.is_signed:
        return c.emit(op, x, n)
    bits = c.like(x, 8 * x.dtype.size - 1)
    sane = c.emit("and", c.emit("ge", n, c.like(n, 0)), c.emit("le", n, bits))
    unsigned = {DType.I8: DType.U8, DType.I16: DType.U16, DType.I32: DType.U32, DType.I64: DType.U64}[x.dtype]
    by = c.cast(c.emit("where", sane, n, c.like(n, 0)), unsigned)
    if op == "shl":
        return c.emit("where", sane, c.cast(c.emit("shl", c.cast(x, unsigned), by), x.dtype), c.like(x, 0))
    sign = c.emit("where", c.emit("lt", x, c.like(x, 0)), c.like(x, -1), c.like(x, 0))
    flipped = c.cast(c.emit("bitxor", x, sign), unsigned)  # ~x where x < 0: then zeros come from the left
    y = c.emit("bitxor", c.cast(c.emit("shr", flipped, by), x.dtype), sign)
    return c.emit("where", sane, y, sign)


@lowers("Cast")
def _cast(c: Call) -> Value:
    return _to(c, element_type(c.attr("to"), c.origin))


@lowers("CastLike")
def _cast_like(c: Call) -> Value:
    return _to(c, c.x(1).dtype)


@lowers("BitCast")
def _bit_cast(c: Call) -> Value:
    x, to = c.x(), element_type(c.attr("to"), c.origin)
    return x if x.dtype is to else c.emit("bitcast", x, to=to)


def _to(c: Call, to: DType) -> Value:
    x = c.x(0)
    if to.is_host or x.dtype.is_host:
        raise NeedsReferenceError("to or from strings")
    if not to.is_storage:
        return c.cast(x, to)
    if x.dtype is to:
        return x
    return c.emit("cast", x, to=to, saturate=bool(c.attr("saturate", 1)), round_mode=c.attr("round_mode", "up"))


def _variadic(op: str) -> Callable[[Call], Value]:
    return lambda c: functools.reduce(lambda a, b: c.emit(op, a, b), c.operands())


for _onnx, _op in {"Max": "max", "Min": "min", "Sum": "add"}.items():
    lowers(_onnx)(_variadic(_op))


@lowers("Mean")
def _mean(c: Call) -> Value:
    total = functools.reduce(lambda a, b: c.emit("add", a, b), c.operands())
    return c.emit("div", total, c.like(total, len(c.operands())))


@lowers("Identity")
def _identity(c: Call) -> Value:
    return c.x()


# -- activations ------------------------------------------------------------------------------


def _clamp(c: Call, x: Value, low: Value | None, high: Value | None) -> Value:
    x = c.emit("max", x, low) if low is not None else x
    return c.emit("min", x, high) if high is not None else x


@lowers("Clip")
def _clip(c: Call) -> Value:
    if c.opset >= 11:
        return _clamp(c, c.x(0), c.opt(1), c.opt(2))
    low, high = c.attr("min"), c.attr("max")
    return _clamp(c, c.x(), None if low is None else c.like(c.x(), low), None if high is None else c.like(c.x(), high))


@lowers("LeakyRelu")
def _leaky_relu(c: Call) -> Value:
    x = c.x()
    return c.emit("where", c.emit("lt", x, c.like(x, 0)), c.emit("mul", x, c.like(x, c.attr("alpha", 0.01))), x)


@lowers("PRelu")
def _prelu(c: Call) -> Value:
    x = c.x(0)
    return c.emit("where", c.emit("lt", x, c.like(x, 0)), c.emit("mul", x, c.x(1)), x)


@lowers(PER_CHANNEL[1], domain=PER_CHANNEL[0])
def _prelu_per_channel(c: Call) -> Value:
    """PRelu before opset 7: one slope for all, or one per channel."""
    x, slope = c.x(0), c.x(1)
    if slope.rank == 1 and slope.shape[0] != 1:
        slope = c.reshape(slope, (slope.shape[0], *(1,) * max(x.rank - 2, 0)))
    return c.emit("where", c.emit("lt", x, c.like(x, 0)), c.emit("mul", x, slope), x)


def _exp_minus_1(c: Call, x: Value) -> Value:
    """exp(min(x, 0)) - 1: for x > 0, where the result is not used, it must not overflow."""
    return c.emit("sub", c.emit("exp", c.emit("min", x, c.like(x, 0))), c.like(x, 1))


@lowers("Elu")
def _elu(c: Call) -> Value:
    x = c.x()
    y = c.emit("mul", _exp_minus_1(c, x), c.like(x, c.attr("alpha", 1.0)))
    return c.emit("where", c.emit("lt", x, c.like(x, 0)), y, x)


@lowers("Selu")
def _selu(c: Call) -> Value:
    x = c.x()
    y = c.emit("mul", _exp_minus_1(c, x), c.like(x, c.attr("alpha", 1.67326319217681884765625)))
    y = c.emit("where", c.emit("lt", x, c.like(x, 0)), y, x)
    return c.emit("mul", y, c.like(x, c.attr("gamma", 1.05070102214813232421875)))


@lowers("Celu")
def _celu(c: Call) -> Value:
    x, alpha = c.x(), c.like(c.x(), c.attr("alpha", 1.0))
    y = c.emit("mul", _exp_minus_1(c, c.emit("div", x, alpha)), alpha)
    return c.emit("where", c.emit("lt", x, c.like(x, 0)), y, x)


@lowers("HardSigmoid")
def _hard_sigmoid(c: Call) -> Value:
    x = c.x()
    y = c.emit("add", c.emit("mul", x, c.like(x, c.attr("alpha", 0.2))), c.like(x, c.attr("beta", 0.5)))
    return _clamp(c, y, c.like(x, 0), c.like(x, 1))


def _softplus_of(c: Call, x: Value) -> Value:
    """log(1 + exp(x)) without overflow: max(x, 0) + log(1 + exp(-|x|))."""
    tail = c.emit("log", c.emit("add", c.emit("exp", c.emit("neg", c.emit("abs", x))), c.like(x, 1)))
    return c.emit("add", c.emit("relu", x), tail)


@lowers("Softplus")
def _softplus(c: Call) -> Value:
    return _softplus_of(c, c.x())


@lowers("Softsign")
def _softsign(c: Call) -> Value:
    x = c.x()
    return c.emit("div", x, c.emit("add", c.emit("abs", x), c.like(x, 1)))


@lowers("Mish")
def _mish(c: Call) -> Value:
    return c.emit("mul", c.x(), c.emit("tanh", _softplus_of(c, c.x())))


@lowers("ThresholdedRelu")
def _thresholded_relu(c: Call) -> Value:
    x = c.x()
    return c.emit("where", c.emit("gt", x, c.like(x, c.attr("alpha", 1.0))), x, c.like(x, 0))


@lowers("Shrink")
def _shrink(c: Call) -> Value:
    x, lambd, bias = c.x(), c.attr("lambd", 0.5), c.like(c.x(), c.attr("bias", 0.0))
    up = c.emit("where", c.emit("gt", x, c.like(x, lambd)), c.emit("sub", x, bias), c.like(x, 0))
    return c.emit("where", c.emit("lt", x, c.like(x, -lambd)), c.emit("add", x, bias), up)


@lowers("Gelu")
def _gelu(c: Call) -> Value:
    return c.emit("gelu", c.x(), approximate=c.attr("approximate", "none"))


@lowers("Swish")
def _swish(c: Call) -> Value:
    x, alpha = c.x(), c.attr("alpha", 1.0)
    if alpha == 1.0:
        return c.emit("silu", x)
    return c.emit("mul", x, c.emit("sigmoid", c.emit("mul", x, c.like(x, alpha))))


# -- reductions -------------------------------------------------------------------------------


def _axes(c: Call, rank: int) -> tuple[int, ...] | None:
    """Axes of a reduction, None where it is the identity (no axes, and noop_with_empty_axes)."""
    axes = () if c.computed(1) else c.axes(1, rank)  # computed ones have been seen to be none
    if axes:
        return axes
    return None if c.attr("noop_with_empty_axes", 0) else tuple(range(rank))


def _log_sum_exp(c: Call, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """log(sum(exp(x - m))) + m with m the greatest x, or 0 where that is infinite."""
    m = c.reduce(x, "max", axes)
    m = c.emit("where", c.emit("isinf", m), c.like(m, 0), m)
    y = c.emit("add", c.emit("log", c.reduce(c.emit("exp", c.emit("sub", x, m)), "sum", axes)), m)
    return y if keep else c.reshape(y, (d for i, d in enumerate(x.shape) if i not in axes))


def _reduction(before: str, kind: str, after: str) -> Callable[[Call], Value]:
    def reduced(c: Call, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        if kind == "logsumexp":
            return _log_sum_exp(c, x, axes, keep)
        if axes and kind == "mean" and x.dtype.is_integer and x.dtype.size < 8:  # the sum may need more bits
            return c.cast(c.reduce(c.cast(x, DType.I64), kind, axes, keep), x.dtype)
        return c.reduce(x, kind, axes, keep) if axes else x

    def lower(c: Call) -> Value:
        x, keep = c.x(), bool(c.attr("keepdims", 1))
        if before:
            x = c.emit("mul", x, x) if before == "square" else c.emit(before, x)
        if c.computed(1) and c.x(1).shape != (0,):
            if kind == "mean" and not x.dtype.is_float and c.x(1).shape != (1,):
                raise NeedsReferenceError("means of integers over computed axes")
            x = AxesAsData(c, x.rank, 1).reduce(x, lambda v: reduced(c, v, (1,), True), keep)
        else:
            axes = _axes(c, x.rank)
            x = reduced(c, x, axes or (), keep or axes is None)
        if after and not x.dtype.is_float:
            return c.cast(c.emit(after, c.cast(x, DType.F64)), x.dtype)
        return c.emit(after, x) if after else x
    return lower


for _onnx, _steps in {
    "ReduceSum": ("", "sum", ""), "ReduceMean": ("", "mean", ""), "ReduceMax": ("", "max", ""),
    "ReduceMin": ("", "min", ""), "ReduceProd": ("", "prod", ""), "ReduceL1": ("abs", "sum", ""),
    "ReduceL2": ("square", "sum", "sqrt"), "ReduceLogSum": ("", "sum", "log"),
    "ReduceSumSquare": ("square", "sum", ""), "ReduceLogSumExp": ("", "logsumexp", ""),
}.items():
    lowers(_onnx)(_reduction(*_steps))


@lowers("ArgMax", "ArgMin")
def _arg(c: Call) -> Value:
    return c.emit("arg", c.x(), kind="max" if c.proto.op_type == "ArgMax" else "min", axis=c.attr("axis", 0),
                  keepdims=bool(c.attr("keepdims", 1)), select_last=bool(c.attr("select_last_index", 0)))


def _flattened(c: Call, f: Callable[[Value, int], Value]) -> Value:
    """f over one axis; before opset 13 over all dimensions from the axis on, taken as one."""
    x = c.x()
    axis = c.axis(c.attr("axis", -1 if c.opset >= 13 else 1), x.rank)
    if c.opset >= 13 or all(d == 1 for i, d in enumerate(x.shape) if i >= axis and i != _main(x, axis)):
        return f(x, axis if c.opset >= 13 else _main(x, axis))
    flat = c.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))
    return c.reshape(f(flat, 1), x.shape)


def _main(x: Value, axis: int) -> int:
    """The first dimension from axis on that is not 1."""
    return next((i for i in range(axis, x.rank) if x.shape[i] != 1), min(axis, x.rank - 1))


@lowers("Softmax", "LogSoftmax")
def _softmax(c: Call) -> Value:
    if c.x().rank == 0:
        raise NeedsReferenceError("of a scalar")
    return _flattened(c, lambda x, axis: c.emit("softmax", x, axis=axis, log=c.proto.op_type == "LogSoftmax"))


@lowers("Hardmax")
def _hardmax(c: Call) -> Value:
    def one(x: Value, axis: int) -> Value:
        best = c.emit("arg", x, kind="max", axis=axis, keepdims=True)
        place = c.emit("iota", size=x.shape[axis], start=0, step=1, dtype=DType.I64)
        place = c.reshape(place, (x.shape[axis] if i == axis else 1 for i in range(x.rank)))
        return c.cast(c.emit("eq", best, place), x.dtype)

    return _flattened(c, one)


@lowers("CumSum", "CumProd")
def _scan(c: Call) -> Value:
    x = c.x()

    def along(v: Value, axis: int) -> Value:
        return c.emit(c.proto.op_type.lower(), v, axis=axis, exclusive=bool(c.attr("exclusive", 0)),
                      reverse=bool(c.attr("reverse", 0)))

    if c.computed(1):
        return c.reshape(AxesAsData(c, x.rank, 1).each(x, lambda v: along(v, 1)), x.shape)
    return along(x, c.ints(1, "axis")[0])


@lowers("TopK")
def _topk(c: Call) -> list[Value]:
    x, calc = c.x(), Scalars(c)
    axis = c.axis(c.attr("axis", -1), x.rank)
    k: Dim = c.attr("k") if c.opset < 10 else calc.read(calc.elements(1)[0], c.hint, most=x.shape[axis])
    calc.check(k, x.shape[axis], "k of the axis", most=True)
    node = c.builder.emit_node("topk", [x], {
        "k": k, "axis": axis, "largest": bool(c.attr("largest", 1)),
        "sorted": bool(c.attr("sorted", 1))}, c.origin, c.hint)
    return list(node.outputs)
