"""Lowerings of ONNX's layers: products, convolutions, pooling, normalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, formula
from whet.frontends.maxima import max_with_places
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Shape, Sym, ceildiv

# -- products ---------------------------------------------------------------------------------


def matmul(c: Call, a: Value, b: Value) -> Value:
    """ONNX MatMul: as numpy.matmul, also for operands of rank 1."""
    if a.rank == 0 or b.rank == 0:
        raise GraphError("MatMul of a scalar", where=c.origin, do="use Mul")
    x = c.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    y = c.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    out = c.emit("matmul", x, y)
    shape = out.shape
    if b.rank == 1:
        shape = shape[:-1]
    if a.rank == 1:
        shape = shape[:-2] + shape[-1:] if b.rank > 1 else shape[:-1]
    return c.reshape(out, shape)


@lowers("MatMul")
def _matmul(c: Call) -> Value:
    return matmul(c, c.x(0), c.x(1))


@lowers("Gemm")
def _gemm(c: Call) -> Value:
    a, b = c.x(0), c.x(1)
    if a.rank != 2 or b.rank != 2:
        raise GraphError(f"Gemm of ranks {a.rank} and {b.rank}", where=c.origin, do="Gemm takes matrices")
    a = c.transpose(a, (1, 0)) if c.attr("transA", 0) else a
    b = c.transpose(b, (1, 0)) if c.attr("transB", 0) else b
    y = c.emit("matmul", a, b)
    alpha, beta = c.attr("alpha", 1.0), c.attr("beta", 1.0)
    if alpha != 1.0:
        y = c.emit("mul", y, c.like(y, alpha))
    if c.has(2) and beta != 0.0:
        bias = c.x(2)
        y = c.emit("add", y, bias if beta == 1.0 else c.emit("mul", bias, c.like(bias, beta)))
    return y


# -- windows ----------------------------------------------------------------------------------


def window(c: Call, spatial: Shape, kernel: Shape, strides: Sequence[int], dilations: Sequence[int]) -> tuple[Dim, ...]:
    """Pads (begins, then ends) from the attributes pads or auto_pad."""
    rank = len(spatial)
    auto = c.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = tuple(c.attr("pads") or (0,) * (2 * rank))
        if len(pads) != 2 * rank:
            raise GraphError(f"{c.proto.op_type}: pads {pads} for {rank} spatial dimensions", where=c.origin)
        return pads
    if auto == "VALID":
        return (0,) * (2 * rank)
    begins: list[Dim] = []
    ends: list[Dim] = []
    for d, k, s, l in zip(spatial, kernel, strides, dilations):
        need = (ceildiv(d, s) - 1) * s + (k - 1) * l + 1 - d if s != 1 else (k - 1) * l
        total = c.builder.maximum(need, 0)
        small, large = total // 2, total - total // 2
        begins.append(large if auto == "SAME_LOWER" else small)
        ends.append(small if auto == "SAME_LOWER" else large)
    return (*begins, *ends)


def per_axis(c: Call, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    """A spatial attribute, one int per dimension."""
    given = tuple(c.attr(name) or (default,) * rank)
    if len(given) != rank or (name in ("strides", "dilations", "kernel_shape") and any(v < 1 for v in given)):
        raise GraphError(f"{c.proto.op_type}: {name} {list(given)} for {rank} spatial dimensions", where=c.origin,
                         do="export the model again")
    return given


def _spatial(c: Call, x: Value) -> Shape:
    if x.rank < 3:
        raise GraphError(f"{c.proto.op_type} takes an input of rank 3 or more, not {x.rank}", where=c.origin,
                         do="check the model's shapes")
    return x.shape[2:]


def _kernel(c: Call, w: Value, rank: int) -> Shape:
    given = c.attr("kernel_shape")
    if w.rank != rank + 2 or (given and tuple(given) != w.shape[2:]):
        raise GraphError(f"{c.proto.op_type}: kernel_shape {given} and weight {w.shape} do not fit an input of rank "
                         f"{rank + 2}", where=c.origin, do="export the model again")
    return w.shape[2:]


def padded(c: Call, x: Value, pads: tuple[Dim, ...], value: float = 0) -> tuple[Value, tuple[int, ...]]:
    """(x, pads) with symbolic pads taken out of pads and applied to x."""
    if all(isinstance(p, int) for p in pads):
        return x, tuple(p for p in pads if isinstance(p, int))
    rank = len(pads) // 2
    y = c.emit("pad", x, pads=(0, 0, *pads[:rank], 0, 0, *pads[rank:]), value=value)
    return y, (0,) * len(pads)


def conv(c: Call, x: Value, w: Value, bias: Value | None, pad_value: int = 0) -> Value:
    """A convolution with the node's attributes; one of 8-bit codes pads with what stands for 0 among them."""
    spatial = _spatial(c, x)
    rank = len(spatial)
    kernel = _kernel(c, w, rank)
    strides, dilations = per_axis(c, "strides", rank), per_axis(c, "dilations", rank)
    x, pads = padded(c, x, window(c, spatial, kernel, strides, dilations), pad_value)
    if min(pads) < 0:
        x = c.emit("pad", x, pads=(0, 0, *pads[:rank], 0, 0, *pads[rank:]), value=pad_value)
        pads = (0,) * (2 * rank)
    return c.emit("conv", x, w, *([bias] if bias is not None else []), strides=strides, dilations=dilations,
                  pads=pads, group=c.attr("group", 1), pad_value=pad_value if any(pads) else 0)


@lowers("Conv")
def _conv(c: Call) -> Value:
    return conv(c, c.x(0), c.x(1), c.opt(2))


@lowers("ConvTranspose")
def _conv_transpose(c: Call) -> Value:
    x, w = c.x(0), c.x(1)
    rank = len(_spatial(c, x))
    kernel = _kernel(c, w, rank)
    strides, dilations = per_axis(c, "strides", rank), per_axis(c, "dilations", rank)
    extra = per_axis(c, "output_padding", rank, 0)
    auto, wanted = c.attr("auto_pad", "NOTSET"), c.attr("output_shape")
    full = [(d - 1) * s + p + (k - 1) * l + 1 for d, s, p, k, l in zip(x.shape[2:], strides, extra, kernel, dilations)]
    if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes: Sequence[Dim] = wanted[-rank:] if wanted else [d * s for d, s in zip(x.shape[2:], strides)]
        total: list[int] = []
        for f, d in zip(full, sizes):
            t = f - d
            if isinstance(t, Sym):
                c.unsupported("the padding depends on a symbolic dimension", "fix it with shapes=")
            total.append(t)
        extra = tuple(p + max(0, -t) for p, t in zip(extra, total))  # larger than the kernel reaches: zeros at the end
        total = [max(t, 0) for t in total]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads: tuple[Dim, ...] = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    else:
        pads = (0,) * (2 * rank) if auto == "VALID" else tuple(c.attr("pads") or (0,) * (2 * rank))
    bias = c.opt(2)
    return c.emit("conv_transpose", x, w, *([bias] if bias is not None else []), strides=strides, dilations=dilations,
                  pads=pads, output_padding=extra, group=c.attr("group", 1))


@lowers("MaxPool", "AveragePool", "LpPool")
def _pool(c: Call) -> Value | list[Value]:
    x = c.x()
    spatial = _spatial(c, x)
    rank = len(spatial)
    kind = {"MaxPool": "max", "AveragePool": "average", "LpPool": "lp"}[c.proto.op_type]
    kernel = per_axis(c, "kernel_shape", rank)
    strides, dilations = per_axis(c, "strides", rank), per_axis(c, "dilations", rank)
    pads = window(c, spatial, kernel, strides, dilations)
    count_pads = bool(c.attr("count_include_pad", 0))
    if c.attr("ceil_mode", 0) and c.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID", ""):
        more = _ceil_extra(c, spatial, kernel, strides, dilations, pads)
        if any(e != 0 for e in more):
            if count_pads and any(p != 0 for p in pads):  # the declared pads count, those of rounding up do not
                x = c.emit("pad", x, pads=(0, 0, *pads[:rank], 0, 0, *pads[rank:]))
                pads, count_pads = (0,) * (2 * rank), False
            pads = (*pads[:rank], *(p + e for p, e in zip(pads[rank:], more)))
            count_pads = False
    if c.wants(1):
        return max_with_places(c, Formula(c, x), kernel, strides, dilations, pads)
    if not count_pads:
        kernel, pads = _clipped(spatial, kernel, dilations, pads)
        if tuple(kernel) == tuple(spatial) and not any(pads) and kind != "lp" and set(dilations) == {1}:
            return c.reduce(x, "mean" if kind == "average" else kind, tuple(range(2, x.rank)))
    return c.emit("pool", x, kind=kind, kernel=kernel, strides=strides, dilations=dilations, pads=pads,
                  count_include_pad=count_pads and kind == "average", p=c.attr("p", 2))


def _clipped(spatial: Shape, kernel: Sequence[int], dilations: Sequence[int], pads: Sequence[Dim]
             ) -> tuple[tuple[int, ...], tuple[Dim, ...]]:
    """(window, pads) without what lies beyond the data on either side, along axes with a single window: global pools
    are written as windows of any size (EfficientNet's is 1280 x 1280, over 7 x 7)."""
    rank = len(spatial)
    sizes, begins, ends = list(kernel), list(pads[:rank]), list(pads[rank:])
    for i, (d, k, l) in enumerate(zip(spatial, kernel, dilations)):
        begin, end, covered = begins[i], ends[i], (k - 1) * l + 1
        if not isinstance(d, int) or not isinstance(begin, int) or not isinstance(end, int):
            continue
        if d == 0 or d + begin + end != covered or begin % l or begin < 0 or end < 0:
            continue
        if (d - 1) % l == 0:
            sizes[i], begins[i], ends[i] = (d - 1) // l + 1, 0, 0
    return tuple(sizes), (*begins, *ends)


def _ceil_extra(c: Call, spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
                pads: tuple[Dim, ...]) -> list[Dim]:
    """What ceil_mode adds to each end pad; windows that would start in the end pad are left out."""
    out: list[Dim] = []
    rank = len(spatial)
    for i, (d, k, s, l) in enumerate(zip(spatial, kernel, strides, dilations)):
        covered = (k - 1) * l + 1
        size = d + pads[i] + pads[rank + i]
        n = c.builder.minimum(ceildiv(size - covered, s) + 1, (d + pads[i] - 1) // s + 1)
        out.append((n - 1) * s + covered - size if n != (size - covered) // s + 1 else 0)
    return out


@lowers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(c: Call) -> Value:
    x = c.x()
    axes = tuple(range(2, x.rank))
    if c.proto.op_type == "GlobalMaxPool":
        return c.reduce(x, "max", axes)
    if c.proto.op_type == "GlobalAveragePool":
        return c.reduce(x, "mean", axes)
    p = c.attr("p", 2)
    total = c.reduce(c.emit("pow", c.emit("abs", x), c.like(x, p)), "sum", axes)
    return c.emit("pow", total, c.like(x, 1.0 / p))


# -- normalization ----------------------------------------------------------------------------


def _per_channel(c: Call, v: Value, rank: int) -> Value:
    """A vector as [C, 1, ...], which broadcasts along the channels of [N, C, ...]."""
    return c.reshape(v, (v.shape[0], *(1,) * max(rank - 2, 0)))


def _batch_norm_training(c: Call) -> list[Value | None]:
    """Normalized by the batch's own statistics; running ones are `momentum` of the old and the rest of the batch's.
    Before opset 14 the batch's statistics are outputs, too."""
    x, scale, bias, mean, var = (formula(c, i) for i in range(5))
    axes, momentum = [i for i in range(x.rank) if i != 1], c.attr("momentum", 0.9)
    wide = x if x.dtype is DType.F64 else x.to(DType.F32)
    at = (1, x.shape[1], *(1,) * (x.rank - 2))
    batch_mean = wide.reduce("mean", axes)
    d = wide - batch_mean.reshape(*at)
    batch_var = (d * d).reduce("mean", axes)
    factor = scale.to(wide.dtype) / (batch_var + c.attr("epsilon", 1e-5)).sqrt()
    y = (d * factor.reshape(*at) + bias.to(wide.dtype).reshape(*at)).to(x.dtype)
    new = [old * momentum + batch.to(old.dtype) * (1 - momentum)
           for old, batch in ((mean, batch_mean), (var, batch_var))]
    saved = [s.to(mean.dtype).value for s in (batch_mean, batch_var)] if c.opset < 14 else []
    return [y.value, *(v.value for v in new), *saved]


@lowers("BatchNormalization")
def _batch_norm(c: Call) -> Value | list[Value | None]:
    x, scale, bias, mean, var = (c.x(i) for i in range(5))
    if x.rank < 2:
        raise NeedsReferenceError("of a vector")
    if c.attr("training_mode", 0) or any(c.wants(i) for i in range(1, 5)):
        return _batch_norm_training(c)
    epsilon, data = c.attr("epsilon", 1e-5), [v.data for v in (scale, bias, mean, var)]
    if all(d is not None for d in data):
        s, b, m, v = (np.asarray(d, np.float64) for d in data)
        with np.errstate(all="ignore"):
            factor = s / np.sqrt(v + epsilon)
            a, shift = c.constant(factor, x.dtype), c.constant(b - m * factor, x.dtype)
    else:
        inverse = c.emit("div", scale, c.emit("sqrt", c.emit("add", var, c.like(var, epsilon))))
        shift = c.cast(c.emit("sub", bias, c.emit("mul", mean, inverse)), x.dtype)
        a = c.cast(inverse, x.dtype)
    return c.emit("add", c.emit("mul", x, _per_channel(c, a, x.rank)), _per_channel(c, shift, x.rank))


@lowers("LayerNormalization")
def _layer_norm(c: Call) -> list[Value | None]:
    x, bias = c.x(0), c.opt(2)
    axis, epsilon = c.axis(c.attr("axis", -1), x.rank), c.attr("epsilon", 1e-5)
    y = c.emit("layernorm", x, c.x(1), *([bias] if bias is not None else []), axis=axis, epsilon=epsilon)
    if not c.wants(1) and not c.wants(2):
        return [y]
    wide = c.cast(x, DType.F32)
    axes = tuple(range(axis, x.rank))
    mean = c.reduce(wide, "mean", axes)
    d = c.emit("sub", wide, mean)
    var = c.reduce(c.emit("mul", d, d), "mean", axes)
    return [y, mean, c.emit("reciprocal", c.emit("sqrt", c.emit("add", var, c.like(var, epsilon))))]


@lowers("RMSNormalization")
def _rms_norm(c: Call) -> Value:
    x = c.x(0)
    y = c.emit("rmsnorm", x, c.cast(c.x(1), x.dtype), axis=c.axis(c.attr("axis", -1), x.rank),
               epsilon=c.attr("epsilon", 1e-5))
    return c.cast(y, c.x(1).dtype)


def _channels(c: Call, x: Value) -> int:
    n = x.shape[1] if x.rank > 1 else None
    if not isinstance(n, int):
        c.unsupported("the number of channels is not fixed", "fix it with shapes=")
    return n


@lowers("InstanceNormalization")
def _instance_norm(c: Call) -> Value:
    x = c.x(0)
    return c.emit("groupnorm", x, c.x(1), c.x(2), groups=_channels(c, x), epsilon=c.attr("epsilon", 1e-5))


@lowers("GroupNormalization")
def _group_norm(c: Call) -> Value:
    x, scale, bias = c.x(0), c.x(1), c.x(2)
    groups, n = c.attr("num_groups"), _channels(c, x)
    if c.opset < 21:  # one scale and bias per group
        def spread(v: Value) -> Value:
            each = c.expand(c.reshape(v, (groups, 1)), (groups, n // groups))
            return c.reshape(each, (n,))

        scale, bias = spread(scale), spread(bias)
    return c.emit("groupnorm", x, scale, bias, groups=groups, epsilon=c.attr("epsilon", 1e-5))


@lowers("LRN")
def _lrn(c: Call) -> Value:
    return c.emit("lrn", c.x(), size=c.attr("size"), alpha=c.attr("alpha", 1e-4), beta=c.attr("beta", 0.75),
                  bias=c.attr("bias", 1.0))


@lowers("LpNormalization")
def _lp_norm(c: Call) -> Value:
    x, p = c.x(), c.attr("p", 2)
    axis = c.axis(c.attr("axis", -1), x.rank)
    if p == 1:
        norm = c.reduce(c.emit("abs", x), "sum", (axis,))
    else:
        norm = c.emit("sqrt", c.reduce(c.emit("mul", x, x), "sum", (axis,)))
    safe = c.emit("where", c.emit("eq", norm, c.like(norm, 0)), c.like(norm, 1), norm)
    return c.emit("div", x, safe)  # a slice of zeros stays zeros


@lowers("MeanVarianceNormalization")
def _mvn(c: Call) -> Value:
    x = c.x()
    axes = tuple(c.axis(a, x.rank) for a in c.attr("axes", [0, 2, 3]))
    d = c.emit("sub", x, c.reduce(x, "mean", axes))
    deviation = c.emit("sqrt", c.reduce(c.emit("mul", d, d), "mean", axes))
    return c.emit("div", d, c.emit("add", deviation, c.like(x, 1e-9)))
