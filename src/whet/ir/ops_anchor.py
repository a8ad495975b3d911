"""Anchors: the operators that regions are built around, with shape rule and NumPy reference.

Sliding windows are computed one kernel offset at a time, so that a reference costs little more
memory than its operands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import (
    REQUIRED,
    Attrs,
    OpDef,
    Spec,
    broadcast,
    equal,
    fail,
    in_f32,
    need,
    normal_axis,
    same_dtype,
    spatial_out,
)
from whet.ir.symbolic import Dim, Shape

# -- matmul -----------------------------------------------------------------------------------


CODES = (DType.U8, DType.I8)  # operands of integer products: a first operand of either, a second of i8


def product_dtype(ins: list[Value], what: str) -> DType:
    """The type of a product: i32 (wrapping) for 8-bit codes by i8, f32 for 8-bit floats (f8e4m3fn), else the one type
    of the operands."""
    if ins[0].dtype in CODES and ins[1].dtype is DType.I8:
        return DType.I32
    if ins[0].dtype is ins[1].dtype is DType.F8E4M3FN:
        return DType.F32
    return same_dtype(ins, what)


def _matmul_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    a, b = ins
    dtype = product_dtype(ins, "matmul")
    need(dtype.is_float or dtype.is_integer, f"matmul does not take {dtype.value}")
    need(a.rank >= 2 and b.rank >= 2, f"matmul takes operands of rank 2 or more, not {a.rank} and {b.rank}")
    equal(a.shape[-1], b.shape[-2], "matmul's inner dimensions")
    return [(dtype, broadcast([a.shape[:-2], b.shape[:-2]], "matmul's batch dimensions") + (a.shape[-2], b.shape[-1]))]


def _matmul_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    return [np.matmul(_operand(xs[0], xs), _operand(xs[1], xs))]


def _operand(x: np.ndarray, xs: list[Any]) -> np.ndarray:
    """An operand of a product in the type that the reference computes in."""
    if xs[1].dtype == DType.F8E4M3FN.np:
        return x.astype(np.float32)
    return x.astype(np.int32) if xs[1].dtype == np.int8 else in_f32(x)


# -- convolution ------------------------------------------------------------------------------


def _to_first(x: np.ndarray, last: bool) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if last else x


def _from_first(y: np.ndarray, last: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(y, 1, -1)) if last else y


def _spatial(shape: Shape, last: bool) -> tuple[Dim, Shape]:
    """(channels, spatial dims) of an activation's shape."""
    return (shape[-1], shape[1:-1]) if last else (shape[1], shape[2:])


def _join(n: Dim, c: Dim, spatial: Shape, last: bool) -> Shape:
    return (n, *spatial, c) if last else (n, c, *spatial)


def _window_attrs(at: Attrs, rank: int, what: str) -> None:
    for key in ("strides", "dilations"):
        at[key] = at[key] or (1,) * rank
        need(len(at[key]) == rank and all(isinstance(v, int) and v > 0 for v in at[key]),
             f"{what}: {key} {at[key]} does not fit {rank} spatial dimensions")
    at["pads"] = at["pads"] or (0,) * (2 * rank)
    need(len(at["pads"]) == 2 * rank, f"{what}: pads {at['pads']} do not fit {rank} spatial dimensions")


def _conv_operands(ins: list[Value], at: Attrs, what: str) -> tuple[DType, Dim, Shape]:
    """Checks what conv and conv_transpose share; (dtype, channels, spatial dims) of the input."""
    x, w = ins[0], ins[1]
    dtype = product_dtype(ins, what) if what == "conv" else same_dtype(ins, what)
    need(x.rank >= 3 and w.rank == x.rank, f"{what} takes x and w of one rank >= 3, not {x.rank} and {w.rank}")
    _window_attrs(at, x.rank - 2, what)
    c, s = _spatial(x.shape, at["channels_last"])
    need(isinstance(at["group"], int) and at["group"] > 0, f"{what}: group must be a positive int")
    return dtype, c, s


def _conv_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    dtype, c, s = _conv_operands(ins, at, "conv")
    w, g = ins[1], at["group"]
    need(dtype is w.dtype or len(ins) == 2, "a convolution of codes takes no bias")
    need(at["pad_value"] == 0 or w.dtype is DType.I8, "a convolution of real numbers pads with 0")
    equal(c, w.shape[1] * g, "conv's input channels and weight")
    out_c = w.shape[0]
    need(not isinstance(out_c, int) or out_c % g == 0, f"conv: {out_c} output channels do not split into {g} groups")
    if len(ins) == 3:
        equal(_vector(ins[2], "conv's bias"), out_c, "conv's bias and weight")
    out = _windows(s, w.shape[2:], at)
    _positive(out, "conv")
    return [(dtype, _join(ins[0].shape[0], out_c, out, at["channels_last"]))]


def _windows(sizes: Shape, kernel: Shape, at: Attrs) -> Shape:
    """Output sizes of a sliding window of `kernel` over `sizes`."""
    r = len(sizes)
    return tuple(spatial_out(sizes[i], kernel[i], at["strides"][i], at["dilations"][i],
                             at["pads"][i] + at["pads"][r + i]) for i in range(r))


def _number(d: Dim) -> int:
    assert isinstance(d, int), d
    return d


def _sizes(sizes: tuple[int, ...], kernel: tuple[int, ...], at: Attrs) -> tuple[int, ...]:
    return tuple(_number(d) for d in _windows(sizes, kernel, at))


def _positive(dims: Shape, what: str) -> None:
    need(all(not isinstance(d, int) or d >= 0 for d in dims), f"{what}: the window is larger than the padded input")


def _vector(v: Value, what: str) -> Dim:
    need(v.rank == 1, f"{what} must have rank 1, not {v.rank}")
    return v.shape[0]


def _padded(x: np.ndarray, pads: tuple[int, ...], value: Any) -> np.ndarray:
    """x [N, C, s..] with its spatial dims padded (negative pads crop)."""
    r = x.ndim - 2
    crop = tuple(slice(max(0, -pads[i]), x.shape[2 + i] - max(0, -pads[r + i])) for i in range(r))
    x = x[(slice(None), slice(None), *crop)]
    widths = [(0, 0), (0, 0)] + [(max(0, pads[i]), max(0, pads[r + i])) for i in range(r)]
    return np.pad(x, widths, constant_values=value) if any(a or b for a, b in widths) else x


def _offsets(kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
             out: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each kernel offset, the slices of the padded input that it meets."""
    for k in itertools.product(*map(range, kernel)):
        yield k, tuple(slice(o * d, o * d + s * (n - 1) + 1, s) if n else slice(0, 0)
                       for o, d, s, n in zip(k, dilations, strides, out, strict=True))


def _conv_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, w = _to_first(_operand(xs[0], xs), at["channels_last"]), _operand(xs[1], xs)
    n, g, kernel = x.shape[0], at["group"], w.shape[2:]
    r = len(kernel)
    out = _sizes(x.shape[2:], kernel, at)
    x = _padded(x, at["pads"], at["pad_value"])
    wg = w.reshape(g, w.shape[0] // g, w.shape[1], *kernel)
    y = np.zeros((n, g, w.shape[0] // g, math.prod(out)), x.dtype)
    for k, where in _offsets(kernel, at["strides"], at["dilations"], out):
        part = x[(slice(None), slice(None), *where)].reshape(n, g, w.shape[1], math.prod(out))
        y += np.matmul(wg[(slice(None),) * 3 + k], part)
    y = y.reshape(n, w.shape[0], *out)
    if len(xs) == 3:
        y += in_f32(xs[2]).reshape(-1, *(1,) * r)
    return [_from_first(y, at["channels_last"])]


def _conv_transpose_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    dtype, c, s = _conv_operands(ins, at, "conv_transpose")
    w, r = ins[1], len(s)
    at["output_padding"] = at["output_padding"] or (0,) * r
    equal(c, w.shape[0], "conv_transpose's input channels and weight")
    out_c = w.shape[1] * at["group"]
    if len(ins) == 3:
        equal(_vector(ins[2], "conv_transpose's bias"), out_c, "conv_transpose's bias and weight")
    out = tuple(_transposed_out(s[i], w.shape[2 + i], i, r, at) for i in range(r))
    _positive(out, "conv_transpose")
    return [(dtype, _join(ins[0].shape[0], out_c, out, at["channels_last"]))]


def _transposed_out(size: Dim, kernel: Dim, i: int, rank: int, at: Attrs) -> Dim:
    return ((size - 1) * at["strides"][i] + at["output_padding"][i] + (kernel - 1) * at["dilations"][i] + 1
            - at["pads"][i] - at["pads"][rank + i])


def _conv_transpose_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, w = _to_first(in_f32(xs[0]), at["channels_last"]), in_f32(xs[1])
    n, g, kernel, pads = x.shape[0], at["group"], w.shape[2:], at["pads"]
    r, size = len(kernel), x.shape[2:]
    out = tuple(_number(_transposed_out(size[i], kernel[i], i, r, at)) for i in range(r))
    full = tuple(max((size[i] - 1) * at["strides"][i] + (kernel[i] - 1) * at["dilations"][i] + 1,
                     pads[i] + out[i]) for i in range(r))
    wg = w.reshape(g, w.shape[0] // g, w.shape[1], *kernel)
    xg = x.reshape(n, g, w.shape[0] // g, math.prod(size))
    y = np.zeros((n, g * w.shape[1], *full), x.dtype)
    for k, where in _offsets(kernel, at["strides"], at["dilations"], size):
        part = np.matmul(np.swapaxes(wg[(slice(None),) * 3 + k], 1, 2), xg)
        y[(slice(None), slice(None), *where)] += part.reshape(n, g * w.shape[1], *size)
    y = y[(slice(None), slice(None), *(slice(pads[i], pads[i] + out[i]) for i in range(r)))]
    if len(xs) == 3:
        y = y + in_f32(xs[2]).reshape(-1, *(1,) * r)
    return [_from_first(np.ascontiguousarray(y), at["channels_last"])]


_CONV_ATTRS: dict[str, Any] = {"strides": (), "dilations": (), "pads": (), "group": 1, "channels_last": False}

# -- pooling ----------------------------------------------------------------------------------


def _pool_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    (x,) = ins
    need(at["kind"] in ("max", "average", "lp"), f"pool: unknown kind {at['kind']!r}")
    need(x.dtype.is_float or (at["kind"] == "max" and x.dtype.is_integer),
         f"{at['kind']} pool does not take {x.dtype.value}")
    need(x.rank >= 3, f"pool takes an input of rank >= 3, not {x.rank}")
    c, s = _spatial(x.shape, at["channels_last"])
    r = len(s)
    need(len(at["kernel"]) == r, f"pool: kernel {at['kernel']} does not fit {r} spatial dimensions")
    _window_attrs(at, r, "pool")
    out = _windows(s, tuple(at["kernel"]), at)
    _positive(out, "pool")
    return [(x.dtype, _join(x.shape[0], c, out, at["channels_last"]))]


def _pool_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, kind, kernel, pads = _to_first(in_f32(xs[0]), at["channels_last"]), at["kind"], at["kernel"], at["pads"]
    out = _sizes(x.shape[2:], kernel, at)
    lowest = 0 if kind != "max" else -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    if kind == "lp":
        x = np.abs(x) ** at["p"]
    p = _padded(x, pads, lowest)
    y = np.full((*x.shape[:2], *out), lowest, x.dtype)
    ones = _padded(np.ones((1, 1, *x.shape[2:]), x.dtype), pads, 0)
    count = np.zeros((1, 1, *out), x.dtype)
    for _, where in _offsets(kernel, at["strides"], at["dilations"], out):
        part = p[(slice(None), slice(None), *where)]
        y = np.maximum(y, part) if kind == "max" else y + part
        count += ones[(slice(None), slice(None), *where)]
    if kind == "average":
        y = y / (x.dtype.type(math.prod(kernel)) if at["count_include_pad"] else count)
    elif kind == "lp":
        y = y ** (1.0 / at["p"])
    return [_from_first(y.astype(x.dtype), at["channels_last"])]


# -- reductions -------------------------------------------------------------------------------


def _reduce_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    (x,) = ins
    kind = at["kind"]
    need(kind in ("sum", "mean", "max", "min", "prod"), f"reduce: unknown kind {kind!r}")
    need(x.dtype.is_float or x.dtype.is_integer or (x.dtype is DType.BOOL and kind in ("max", "min")),
         f"reduce {kind} does not take {x.dtype.value}")
    at["axes"] = tuple(sorted({normal_axis(a, x.rank, "reduce") for a in at["axes"]}))
    return [(x.dtype, _reduced(x.shape, at["axes"], at["keepdims"]))]


def _reduced(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes)


def _reduce_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, axes, keep, kind = in_f32(xs[0]), at["axes"], bool(at["keepdims"]), at["kind"]
    if kind in ("max", "min"):
        if x.dtype == np.bool_:
            return [np.asarray((np.any if kind == "max" else np.all)(x, axis=axes, keepdims=keep))]
        if x.dtype.kind == "f":
            initial: Any = -np.inf if kind == "max" else np.inf
        else:
            initial = np.iinfo(x.dtype).min if kind == "max" else np.iinfo(x.dtype).max
        return [np.asarray((np.max if kind == "max" else np.min)(x, axis=axes, keepdims=keep, initial=initial))]
    if kind == "prod":
        return [np.asarray(np.prod(x, axis=axes, keepdims=keep, dtype=x.dtype))]
    total = np.asarray(np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype))
    if kind == "sum":
        return [total]
    n = math.prod(x.shape[a] for a in axes)
    if x.dtype.kind == "f":
        return [np.asarray(total / x.dtype.type(n))]
    return [np.asarray(np.trunc(total / max(n, 1))).astype(x.dtype)]


def _arg_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    (x,) = ins
    need(at["kind"] in ("max", "min"), f"arg: unknown kind {at['kind']!r}")
    need(x.dtype.is_float or x.dtype.is_integer, f"arg {at['kind']} does not take {x.dtype.value}")
    at["axis"] = normal_axis(at["axis"], x.rank, "arg")
    return [(DType.I64, _reduced(x.shape, (at["axis"],), at["keepdims"]))]


def _arg_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, axis = in_f32(xs[0]), at["axis"]
    pick = np.argmax if at["kind"] == "max" else np.argmin
    if at["select_last"]:
        i = x.shape[axis] - 1 - pick(np.flip(x, axis), axis=axis, keepdims=bool(at["keepdims"]))
    else:
        i = pick(x, axis=axis, keepdims=bool(at["keepdims"]))
    return [np.asarray(i, np.int64)]


# -- softmax and normalization ----------------------------------------------------------------


def _float_only(v: Value, what: str) -> DType:
    need(v.dtype.is_float, f"{what} does not take {v.dtype.value}")
    return v.dtype


def _softmax_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    at["axis"] = normal_axis(at["axis"], ins[0].rank, "softmax")
    return [(_float_only(ins[0], "softmax"), ins[0].shape)]


def _softmax(x: np.ndarray, axis: int, log: bool = False) -> np.ndarray:
    z = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    e = np.exp(z)
    s = np.sum(e, axis=axis, keepdims=True)
    return z - np.log(s) if log else e / s


def _norm_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    dtype = same_dtype(ins, "a normalization")
    need(dtype.is_float, f"a normalization does not take {dtype.value}")
    at["axis"] = normal_axis(at["axis"], x.rank, "a normalization")
    for v in ins[1:]:
        tail = x.shape[at["axis"]:]
        if broadcast([tail, v.shape], "a normalization's scale or bias") != tail:
            raise fail(f"a normalization's scale or bias {v} does not broadcast to {tail}")
    return [(dtype, x.shape)]


def _layernorm_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x = in_f32(xs[0])
    axes = tuple(range(at["axis"], x.ndim))
    d = x - np.mean(x, axis=axes, keepdims=True)
    y = d / np.sqrt(np.mean(d * d, axis=axes, keepdims=True) + x.dtype.type(at["epsilon"])) * in_f32(xs[1])
    return [y + in_f32(xs[2]) if len(xs) == 3 else y]


def _rmsnorm_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x = in_f32(xs[0])
    axes = tuple(range(at["axis"], x.ndim))
    return [x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + x.dtype.type(at["epsilon"])) * in_f32(xs[1])]


def _groupnorm_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    dtype = same_dtype(ins, "groupnorm")
    need(dtype.is_float, f"groupnorm does not take {dtype.value}")
    need(x.rank >= 2, f"groupnorm takes an input of rank >= 2, not {x.rank}")
    c, g = x.shape[-1 if at["channels_last"] else 1], at["groups"]
    need(isinstance(c, int) and g > 0 and c % g == 0, f"groupnorm: {c} channels do not split into {g} groups")
    for v in ins[1:]:
        equal(_vector(v, "groupnorm's scale and bias"), c, "groupnorm's scale or bias and channels")
    return [(dtype, x.shape)]


def _groupnorm_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x = np.ascontiguousarray(_to_first(in_f32(xs[0]), at["channels_last"]))
    g = x.reshape(x.shape[0], at["groups"], x.shape[1] // at["groups"], *x.shape[2:])
    axes = tuple(range(2, g.ndim))
    d = g - np.mean(g, axis=axes, keepdims=True)
    y = (d / np.sqrt(np.mean(d * d, axis=axes, keepdims=True) + x.dtype.type(at["epsilon"]))).reshape(x.shape)
    per_channel = (-1, *(1,) * (x.ndim - 2))
    return [_from_first(y * in_f32(xs[1]).reshape(per_channel) + in_f32(xs[2]).reshape(per_channel),
                        at["channels_last"])]


def _lrn_rule(ins: list[Value], at: Attrs) -> list[Spec]:
    need(ins[0].rank >= 2, f"lrn takes an input of rank >= 2, not {ins[0].rank}")
    return [(_float_only(ins[0], "lrn"), ins[0].shape)]


def _lrn_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, size = _to_first(in_f32(xs[0]), at["channels_last"]), at["size"]
    c, before = x.shape[1], (size - 1) // 2
    sq = np.pad(x * x, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    total = sum((sq[:, i:i + c] for i in range(size)), np.zeros_like(x))
    t = x.dtype.type
    return [_from_first(x / (t(at["bias"]) + t(at["alpha"] / size) * total) ** t(at["beta"]), at["channels_last"])]


# -- attention --------------------------------------------------------------------------------


def _attention_rule(ins: list[Any], at: Attrs) -> list[Spec]:
    q, k, v = ins[:3]
    mask, lengths = (*ins[3:], None, None)[:2]
    dtype = same_dtype(ins[:3], "attention")
    codes = dtype is DType.I8 and all(at[f"{x}_scale"] > 0 for x in "qkv")
    need(dtype.is_float or codes, f"attention does not take {dtype.value} (i8 with q_scale, k_scale, v_scale)")
    dtype = DType.F32 if codes else dtype
    need(q.rank == k.rank == v.rank == 4, "attention takes q, k and v of rank 4")
    batch, = broadcast([v.shape[:1] for v in ins[:3]], "attention's batch")
    keys, = broadcast([k.shape[1:2], v.shape[1:2]], "attention's heads of k and v")
    heads = q.shape[1]
    if heads != keys and keys != 1:  # each head of k and v serves a group of heads of q
        if not isinstance(heads, int) or not isinstance(keys, int):
            equal(heads, keys, "attention's heads")
        else:
            need(keys > 0 and heads % keys == 0, f"attention: {heads} heads of q do not share {keys} heads of k")
    equal(q.shape[3], k.shape[3], "attention's head sizes of q and k")
    equal(k.shape[2], v.shape[2], "attention's lengths of k and v")
    need(at["causal"] or not (at["window"] or at["offset"] != 0), "attention's offset and window need causal")
    need(isinstance(at["window"], int) and at["window"] >= 0, "attention's window is a number >= 0")
    if mask is not None:
        scores = (batch, heads, q.shape[2], k.shape[2])
        need(mask.dtype in (DType.BOOL, dtype), f"attention's mask is bool or {dtype.value}")
        if broadcast([scores, mask.shape], "attention's mask") != scores:
            raise fail(f"attention's mask {mask} does not broadcast to {scores}")
    if lengths is not None:
        need(lengths.dtype in (DType.I32, DType.I64) and lengths.rank == 1, "attention's lengths are a vector of ints")
        if lengths.shape[0] != 1:
            equal(lengths.shape[0], batch, "attention's lengths and batch")
    return [(dtype, (batch, heads, q.shape[2], v.shape[3]))]


def _attention_ref(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    codes = xs[0].dtype == np.int8
    scale = float(at["scale"])
    if codes:  # sums over codes are exact in f64
        scale *= float(at["q_scale"]) * float(at["k_scale"])
        q, k, v = (x.astype(np.float64) for x in xs[:3])
    else:
        q, k, v = (in_f32(x) for x in xs[:3])
    mask, lengths = (*xs[3:], None, None)[:2]
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) if x.shape[1] != q.shape[1] else x for x in (k, v))
    s = np.matmul(q, np.swapaxes(k, -1, -2)) * q.dtype.type(scale)
    if at["softcap"]:
        s = (np.tanh(s / s.dtype.type(at["softcap"])) * s.dtype.type(at["softcap"])).astype(s.dtype)
    if mask is not None:
        s = np.where(mask, s, -np.inf).astype(s.dtype) if mask.dtype == np.bool_ else s + in_f32(mask)
    rows, columns = np.arange(s.shape[2])[:, None], np.arange(s.shape[3])
    last = rows + at["offset"]
    see = np.ones((1, 1, s.shape[2], s.shape[3]), np.bool_)
    if lengths is not None:
        length = lengths.astype(np.int64).reshape(-1, 1, 1, 1)
        see, last = see & (columns < length), last + length - s.shape[2]
    if at["causal"]:
        see = see & (columns <= last)
        if at["window"]:
            see = see & (columns > last - at["window"])
    s = np.where(see, s, -np.inf).astype(s.dtype)
    if codes:
        p = _probability_codes(s)
    else:
        p = _softmax(s, -1)
    if at["masked_zero"]:
        p = np.where(np.all(s == -np.inf, axis=-1, keepdims=True), p.dtype.type(0), p)
    y = np.matmul(p, v)
    return [(y * float(at["v_scale"])).astype(np.float32) if codes else y]


def _probability_codes(s: np.ndarray) -> np.ndarray:
    """Softmax along the last axis in codes of 1/255: rint(255 exp(s - max)) over the sum of these codes.

    Over their own sum, not that of the exponentials: so the weights of a row add up to 1 whatever rounding did to
    them, and a row of equal values gives that value.
    """
    with np.errstate(invalid="ignore"):
        codes = np.rint(255 * np.exp(s - s.max(axis=-1, keepdims=True, initial=-np.inf)))
        return codes / codes.sum(axis=-1, keepdims=True)


ANCHORS: dict[str, OpDef] = {d.name: d for d in (
    OpDef("matmul", (2, 2), _matmul_rule, _matmul_ref),
    OpDef("conv", (2, 3), _conv_rule, _conv_ref, {**_CONV_ATTRS, "pad_value": 0}),
    OpDef("conv_transpose", (2, 3), _conv_transpose_rule, _conv_transpose_ref, {**_CONV_ATTRS, "output_padding": ()}),
    OpDef("pool", (1, 1), _pool_rule, _pool_ref,
          {"kind": REQUIRED, "kernel": REQUIRED, "strides": (), "dilations": (), "pads": (), "p": 2,
           "count_include_pad": False, "ceil_mode": False, "channels_last": False}),
    OpDef("reduce", (1, 1), _reduce_rule, _reduce_ref, {"kind": REQUIRED, "axes": REQUIRED, "keepdims": True}),
    OpDef("arg", (1, 1), _arg_rule, _arg_ref,
          {"kind": REQUIRED, "axis": REQUIRED, "keepdims": True, "select_last": False}),
    OpDef("softmax", (1, 1), _softmax_rule, lambda xs, at: [_softmax(in_f32(xs[0]), at["axis"], at["log"])],
          {"axis": -1, "log": False}),
    OpDef("layernorm", (2, 3), _norm_rule, _layernorm_ref, {"axis": -1, "epsilon": 1e-5}),
    OpDef("rmsnorm", (2, 2), _norm_rule, _rmsnorm_ref, {"axis": -1, "epsilon": 1e-5}),
    OpDef("groupnorm", (3, 3), _groupnorm_rule, _groupnorm_ref,
          {"groups": REQUIRED, "epsilon": 1e-5, "channels_last": False}),
    OpDef("lrn", (1, 1), _lrn_rule, _lrn_ref,
          {"size": REQUIRED, "alpha": 1e-4, "beta": 0.75, "bias": 1.0, "channels_last": False}),
    OpDef("attention", (3, 5), _attention_rule, _attention_ref,
          {"scale": REQUIRED, "causal": False, "masked_zero": False, "offset": 0, "window": 0, "softcap": 0.0,
           "q_scale": 0.0, "k_scale": 0.0, "v_scale": 0.0},
          optional=(3,)),
)}
