"""Lowerings of ONNX Runtime's own operators (domain com.microsoft): norms, activations, products, convolutions.

What they mean is stated in ONNX Runtime's ContribOperators.md. Those that are standard operators under another
name are lowered as these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.errors import GraphError
from whet.frontends import (  # noqa: F401  (what SAME refers to)
    lower_math,
    lower_nn,
    lower_quant,
    lower_sampling,
    lower_tensor,
)
from whet.frontends.call import LOWERINGS, Call, lowers
from whet.frontends.lower_nn import conv, matmul
from whet.ir.dtypes import DType
from whet.ir.graph import Value

MICROSOFT = "com.microsoft"

# Standard operators that also exist under this domain, with the same operands and attributes.
SAME = ("DequantizeLinear", "GatherND", "Gelu", "GridSample", "QuantizeLinear", "Trilu")
for _name in SAME:
    LOWERINGS[MICROSOFT, _name] = LOWERINGS["", _name]

# -- normalization ----------------------------------------------------------------------------


def _moments(c: Call, x: Value, axis: int, epsilon: float, centred: bool) -> tuple[Value, Value]:
    """Mean and inverse deviation (about zero if not centred) along the dimensions from `axis` on, in fp32."""
    wide = c.cast(x, DType.F32)
    axes = tuple(range(axis, x.rank))
    mean = c.reduce(wide, "mean", axes)
    d = c.emit("sub", wide, mean) if centred else wide
    var = c.reduce(c.emit("mul", d, d), "mean", axes)
    return mean, c.emit("reciprocal", c.emit("sqrt", c.emit("add", var, c.like(var, epsilon))))


@lowers("SimplifiedLayerNormalization")
@lowers("SimplifiedLayerNormalization", domain=MICROSOFT)
def _simplified_layer_norm(c: Call) -> Sequence[Value | None]:
    """RMS norm: (y, inverse deviation)."""
    x = c.x(0)
    axis, epsilon = c.axis(c.attr("axis", -1), x.rank), c.attr("epsilon", 1e-5)
    y = c.emit("rmsnorm", x, c.cast(c.x(1), x.dtype), axis=axis, epsilon=epsilon)
    y = c.cast(y, c.x(1).dtype)
    return [y, _moments(c, x, axis, epsilon, False)[1]] if c.wants(1) else [y]


def _sum_of(c: Call, *parts: Value | None) -> Value:
    """The sum of those that are there; the first always is."""
    y = parts[0]
    assert y is not None
    for p in parts[1:]:
        if p is not None:
            y = c.emit("add", y, p)
    return y


@lowers("SkipLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(c: Call) -> Sequence[Value | None]:
    """layernorm(input + skip + bias): (y, mean, inverse deviation, the sum)."""
    total = _sum_of(c, c.x(0), c.x(1), c.opt(4))
    epsilon, beta = c.attr("epsilon", 1e-12), c.opt(3)
    y = c.emit("layernorm", total, c.x(2), *([beta] if beta is not None else []), axis=total.rank - 1, epsilon=epsilon)
    mean: Value | None = None
    inverse: Value | None = None
    if c.wants(1) or c.wants(2):
        mean, inverse = _moments(c, total, total.rank - 1, epsilon, True)
    return [y, mean, inverse, total][:c.n_outputs]


@lowers("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_simplified_layer_norm(c: Call) -> Sequence[Value | None]:
    """rmsnorm(input + skip + bias): (y, mean, inverse deviation, the sum)."""
    total = _sum_of(c, c.x(0), c.x(1), c.opt(3))
    epsilon = c.attr("epsilon", 1e-12)
    y = c.emit("rmsnorm", total, c.x(2), axis=total.rank - 1, epsilon=epsilon)
    mean: Value | None = None
    inverse: Value | None = None
    if c.wants(1) or c.wants(2):
        mean, inverse = _moments(c, total, total.rank - 1, epsilon, False)
    return [y, mean, inverse, total][:c.n_outputs]


@lowers("EmbedLayerNormalization", domain=MICROSOFT)
def _embed_layer_norm(c: Call) -> Sequence[Value | None]:
    """layernorm(word + position + segment embeddings): (y, lengths of the mask's rows, the sum)."""
    ids, gamma, beta = c.x(0), c.x(5), c.x(6)
    total = c.emit("gather", c.x(2), ids, axis=0)
    if c.has(8):
        positions = c.emit("gather", c.x(3), c.x(8), axis=0)
    else:
        positions = c.slice(c.x(3), 0, 0, ids.shape[1])
    total = c.emit("add", total, positions)
    if c.has(1) and c.has(4):
        total = c.emit("add", total, c.emit("gather", c.x(4), c.x(1), axis=0))
    y = c.emit("layernorm", total, gamma, beta, axis=2, epsilon=c.attr("epsilon", 1e-12))
    lengths: Value | None = None
    if c.wants(1):
        if c.has(7):
            lengths = c.cast(c.reduce(c.x(7), "sum", (1,), keepdims=False), DType.I32)
        else:
            lengths = c.expand(c.constant(0, DType.I32), ids.shape[:1])
    return [y, lengths, total][:max(c.n_outputs, 1)]


def _group_norm(c: Call, x: Value, gamma: Value, beta: Value) -> Value:
    last = bool(c.attr("channels_last", 1))
    channels = (0, x.rank - 1, *range(1, x.rank - 1))
    y = c.emit("groupnorm", c.transpose(x, channels) if last else x, c.cast(gamma, x.dtype), c.cast(beta, x.dtype),
               groups=c.attr("groups"), epsilon=c.attr("epsilon", 1e-5))
    y = c.transpose(y, (0, *range(2, x.rank), 1)) if last else y
    return c.emit("silu", y) if c.attr("activation", 0) else y


@lowers("GroupNorm", domain=MICROSOFT)
def _contrib_group_norm(c: Call) -> Value:
    return _group_norm(c, c.x(0), c.x(1), c.x(2))


@lowers("SkipGroupNorm", domain=MICROSOFT)
def _skip_group_norm(c: Call) -> list[Value]:
    """groupnorm(x + skip + bias), and the sum; skip is [N, H, W, C], [N, 1, 1, C] or [N, C]."""
    x, skip = c.x(0), c.x(3)
    if skip.rank == 2:
        skip = c.reshape(skip, (skip.shape[0], 1, 1, skip.shape[1]))
    total = _sum_of(c, x, skip, c.opt(4))
    return [_group_norm(c, total, c.x(1), c.x(2)), total][:c.n_outputs]


# -- activations ------------------------------------------------------------------------------


@lowers("FastGelu", domain=MICROSOFT)
def _fast_gelu(c: Call) -> Value:
    return c.emit("gelu", _sum_of(c, c.x(0), c.opt(1)), approximate="tanh")


@lowers("BiasGelu", domain=MICROSOFT)
def _bias_gelu(c: Call) -> Value:
    return c.emit("gelu", _sum_of(c, c.x(0), c.opt(1)), approximate="none")


@lowers("QuickGelu", domain=MICROSOFT)
def _quick_gelu(c: Call) -> Value:
    x = c.x(0)
    return c.emit("mul", x, c.emit("sigmoid", c.emit("mul", x, c.like(x, c.attr("alpha", 1.702)))))


@lowers("BiasSplitGelu", domain=MICROSOFT)
def _bias_split_gelu(c: Call) -> Value:
    """The left half of x + bias times the gelu of the right half."""
    x = c.emit("add", c.x(0), c.x(1))
    half = x.shape[-1] // 2
    left, right = (c.slice(x, x.rank - 1, start, half) for start in (0, half))
    return c.emit("mul", left, c.emit("gelu", right, approximate="none"))


@lowers("BiasAdd", domain=MICROSOFT)
def _bias_add(c: Call) -> Value:
    return _sum_of(c, c.x(0), c.x(1), c.x(2))


@lowers("BiasSoftmax", domain=MICROSOFT)
def _bias_softmax(c: Call) -> Value:
    """Softmax over the dimensions from `axis` on, as one, of data + bias; the bias lacks leading dimensions, or
    (is_inner_broadcast) is repeated over those right before the axis."""
    x, bias = c.x(0), c.x(1)
    axis = c.axis(c.attr("axis", 1), x.rank)
    if bias.rank < x.rank and c.attr("is_inner_broadcast", 0):
        kept = bias.rank - (x.rank - axis)
        bias = c.reshape(bias, (*bias.shape[:kept], *(1,) * (x.rank - bias.rank), *bias.shape[kept:]))
    y = c.emit("add", x, bias)
    if axis == x.rank - 1:
        return c.emit("softmax", y, axis=axis)
    width = 1
    for d in x.shape[axis:]:
        width = width * d  # type: ignore[assignment]
    return c.reshape(c.emit("softmax", c.reshape(y, (*x.shape[:axis], width)), axis=axis), x.shape)


def activated(c: Call, y: Value, name: str, params: Sequence[float]) -> Value:
    """An activation by its ONNX name with its parameters in order."""
    def param(i: int, default: float) -> Value:
        return c.like(y, params[i] if i < len(params) else default)

    match name:
        case "":
            return y
        case "Relu":
            return c.emit("relu", y)
        case "Tanh" | "Sigmoid":
            return c.emit(name.lower(), y)
        case "LeakyRelu":
            return c.emit("where", c.emit("lt", y, c.like(y, 0)), c.emit("mul", y, param(0, 0.01)), y)
        case "Clip":
            low, high = (param(i, d) for i, d in enumerate((-np.inf, np.inf)))
            return c.emit("min", c.emit("max", y, low), high)
        case "HardSigmoid":
            line = c.emit("add", c.emit("mul", y, param(0, 0.2)), param(1, 0.5))
            return c.emit("min", c.emit("max", line, c.like(y, 0)), c.like(y, 1))
        case "Gelu":
            return c.emit("gelu", y, approximate="none")
        case "HardSwish":
            return c.emit("hardswish", y)
        case "SiLU" | "Swish":
            return c.emit("silu", y)
    return c.unsupported(f"the activation {name!r}", "export the model without this fusion")


# -- products and convolutions ----------------------------------------------------------------


@lowers("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def _fused_matmul(c: Call) -> Value:
    """alpha * A @ B; transX swaps the last two dimensions, transBatchX turns [M, batch.., K] into [batch.., M, K]."""
    operands = []
    for i, side in enumerate("AB"):
        x = c.x(i)
        order = list(range(x.rank))
        if c.attr(f"transBatch{side}", 0) and x.rank > 2:
            order = [*order[1:-1], 0, order[-1]]
        if c.attr(f"trans{side}", 0) and x.rank > 1:
            order[-2], order[-1] = order[-1], order[-2]
        operands.append(c.transpose(x, order))
    y = matmul(c, *operands)
    alpha = c.attr("alpha", 1.0)
    return y if alpha == 1.0 else c.emit("mul", y, c.like(y, alpha))


@lowers("FusedGemm", domain=MICROSOFT)
def _fused_gemm(c: Call) -> Value:
    y = LOWERINGS["", "Gemm"](c)
    assert isinstance(y, Value)
    params = [c.attr(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    return activated(c, y, c.attr("activation", ""), [p for p in params if p is not None])


@lowers("FusedConv", domain=MICROSOFT)
def _fused_conv(c: Call) -> Value:
    """activation(conv(x, w) + bias + z)."""
    y = _sum_of(c, conv(c, c.x(0), c.x(1), c.opt(2)), c.opt(3))
    return activated(c, y, c.attr("activation", ""), c.attr("activation_params", []))


@lowers("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def _nhwc_conv(c: Call) -> Value:
    """A convolution of [N, H, W, C] with filters [M, kH, kW, C / group]; z and the result are channels last too."""
    def first(x: Value) -> Value:
        return c.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1)))

    y = conv(c, first(c.x(0)), first(c.x(1)), c.opt(2))
    y = c.transpose(y, (0, *range(2, y.rank), 1))
    if c.has(3):
        y = c.emit("add", y, c.x(3))
    return activated(c, y, c.attr("activation", ""), c.attr("activation_params", []))


@lowers("CDist", domain=MICROSOFT)
def _cdist(c: Call) -> Value:
    """Distances between the rows of A and the rows of B, as scipy's cdist."""
    a, b = c.x(0), c.x(1)
    d = c.emit("sub", c.reshape(a, (a.shape[0], 1, a.shape[1])), c.reshape(b, (1, *b.shape)))
    total = c.reduce(c.emit("mul", d, d), "sum", (2,), keepdims=False)
    metric = c.attr("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        c.unsupported(f"the metric {metric!r}", "use euclidean or sqeuclidean")
    return c.emit("sqrt", total) if metric == "euclidean" else total


# -- tables of a few bits -----------------------------------------------------------------------


@lowers("GatherBlockQuantized", domain=MICROSOFT)
def _gather_block_quantized(c: Call) -> Value:
    """Rows of a table of 2, 4 or 8 bits a number, picked first and widened then: the table stays as small as it is."""
    data, indices, scales, zero = c.x(0), c.x(1), c.x(2), c.opt(3)
    bits, block = c.attr("bits", 4), c.attr("block_size", 128)
    if data.dtype is not DType.U8 or bits not in (2, 4, 8):
        c.unsupported(f"a table of {data.dtype.value} with {bits} bits", "store it as bytes of 2, 4 or 8 bits")
    if c.attr("gather_axis", 0) != 0 or c.axis(c.attr("quantize_axis", 1), data.rank) != data.rank - 1:
        c.unsupported("blocks or indices along other axes", "gather along the first axis, quantize along the last")
    codes = widened(c, c.emit("gather", data, indices, axis=0), bits)
    factor = c.emit("gather", scales, indices, axis=0)
    lead, blocks, width = codes.shape[:-1], scales.shape[-1], codes.shape[-1]
    if width != blocks * block:
        raise GraphError(f"GatherBlockQuantized: rows of {width} numbers in {blocks} blocks of {block}",
                         where=c.origin, do="export the model again")
    y = c.cast(c.reshape(codes, (*lead, blocks, block)), scales.dtype)
    if zero is None:
        y = c.emit("sub", y, c.like(y, 1 << (bits - 1)))
    else:
        points = c.slice(widened(c, c.emit("gather", zero, indices, axis=0), bits), len(lead), 0, blocks)
        y = c.emit("sub", y, c.cast(c.reshape(points, (*lead, blocks, 1)), y.dtype))
    return c.reshape(c.emit("mul", y, c.reshape(factor, (*lead, blocks, 1))), (*lead, width))


def widened(c: Call, x: Value, bits: int) -> Value:
    """Bytes [.., n] as bytes [.., n * 8 / bits] of that many bits each, the lowest first."""
    if bits == 8:
        return x
    parts = []
    for at in range(0, 8, bits):
        part = c.emit("shr", x, c.like(x, at)) if at else x
        parts.append(c.reshape(c.emit("bitand", part, c.like(x, (1 << bits) - 1)), (*x.shape, 1)))
    return c.reshape(c.emit("concat", *parts, axis=x.rank), (*x.shape[:-1], x.shape[-1] * (8 // bits)))
