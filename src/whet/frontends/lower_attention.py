"""Lowerings of ONNX's attention family: Attention, RotaryEmbedding, TensorScatter, CausalConvWithState,
LinearAttention.

`attend`, `rotary` and the head shuffles serve the contrib operators as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import Call, Operand, lowers
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim

WIDEST = 1024  # elements of a head that the fused operator takes
UNBOUNDED = 1 << 29  # of an offset: more keys than anybody has

# What the fourth output of Attention shows.
RAW, CAPPED, BIASED, PROBABILITIES = range(4)


@dataclass
class Scope:
    """Which keys a query sees, and how scores become probabilities: the attributes of `attention`.

    causal, offset, window: row i sees keys i + offset - window + 1 .. i + offset (window 0: from the first).
    mask: broadcasts to [B, H, S, T]. lengths: [B], the keys that exist; the offset then counts from length - S.
    """

    scale: float
    causal: bool = False
    offset: Dim = 0
    window: int = 0
    softcap: float = 0.0
    mask: Value | None = None
    lengths: Value | None = None


def attend(c: Call, q: Value, k: Value, v: Value, scope: Scope, masked_zero: bool = True) -> Value:
    """Attention of q [B,H,S,D] over k [B,G,T,D] and v [B,G,T,E], H a multiple of G: [B,H,S,E].

    A row that sees nothing is zero, or with masked_zero unset NaN.
    """
    sizes = (q.shape[3], v.shape[3])
    if q.dtype is DType.F64 or any(not isinstance(d, int) or not 0 < d <= WIDEST for d in sizes):
        return _weighted(c, stages(c, q, k, scope)[PROBABILITIES], v)
    mask = scope.mask
    if mask is not None and mask.dtype is not DType.BOOL:
        mask = c.cast(mask, q.dtype)
    operands = [q, k, v, mask, scope.lengths]
    while operands[-1] is None:
        operands.pop()
    return c.emit("attention", *operands, scale=scope.scale, causal=scope.causal, offset=scope.offset,
                  window=scope.window, softcap=scope.softcap, masked_zero=masked_zero)


def stages(c: Call, q: Value, k: Value, scope: Scope) -> list[Value]:
    """What the fourth output of Attention may show, each [B,H,S,T]: the scaled scores, these softly capped,
    these with what masks add, and the probabilities (zeros where a row sees nothing)."""
    (b, h, s, _), t = q.shape, k.shape[2]
    raw = _grouped_product(c, q, c.transpose(k, (0, 1, 3, 2)))
    raw = c.emit("mul", raw, c.like(raw, scope.scale))
    capped = raw
    if scope.softcap:
        capped = c.emit("mul", c.emit("tanh", c.emit("div", raw, c.like(raw, scope.softcap))),
                        c.like(raw, scope.softcap))
    bias = scope.mask
    lowest = c.like(raw, -np.inf)
    if bias is not None:
        bias = c.emit("where", bias, c.like(raw, 0), lowest) if bias.dtype is DType.BOOL else c.cast(bias, raw.dtype)
    see = visible(c, s, t, scope)
    if see is not None:
        bias = c.emit("where", see, bias if bias is not None else c.like(raw, 0), lowest)
    if bias is None:
        return [raw, capped, capped, c.emit("softmax", capped, axis=3)]
    biased = c.expand(c.emit("add", capped, bias), (b, h, s, t))
    wide = c.reshape(bias, (1,) * (4 - bias.rank) + bias.shape)
    blind = c.emit("eq", c.reduce(wide, "max", (3,)), lowest)
    p = c.emit("where", blind, c.like(raw, 0), c.emit("softmax", biased, axis=3))
    return [raw, capped, biased, c.expand(p, (b, h, s, t))]


def visible(c: Call, rows: Dim, columns: Dim, scope: Scope) -> Value | None:
    """A boolean tensor that broadcasts to [B,H,rows,columns]: what offset, window and lengths let a row see."""
    if not scope.causal and scope.lengths is None:
        return None
    j = counting(c, columns)
    last = c.emit("add", c.reshape(counting(c, rows), (rows, 1)), dim_value(c, scope.offset))
    see = None
    if scope.lengths is not None:
        n = scope.lengths.shape[0]
        length = c.reshape(c.cast(scope.lengths, DType.I64), (n, 1, 1, 1))
        see = c.emit("lt", j, length)
        last = c.emit("add", last, c.emit("sub", length, dim_value(c, rows)))
    if scope.causal:
        below = c.emit("le", j, last)
        if scope.window:
            below = c.emit("and", below, c.emit("gt", j, c.emit("sub", last, c.like(last, scope.window))))
        see = below if see is None else c.emit("and", see, below)
    return see


def _grouped_product(c: Call, a: Value, b: Value) -> Value:
    """a [B,H,M,K] @ b [B,G,K,N], head h of a with head h // (H/G) of b."""
    n, h, m, k = a.shape
    g = b.shape[1]
    if h == g or g == 1:
        return c.emit("matmul", a, b)
    if not isinstance(h, int) or not isinstance(g, int) or h % g:
        raise GraphError(f"{c.proto.op_type}: {h} heads of q over {g} heads of k", where=c.origin,
                         do="export the model again")
    y = c.emit("matmul", c.reshape(a, (n, g, h // g, m, k)), c.reshape(b, (b.shape[0], g, 1, *b.shape[2:])))
    return c.reshape(y, (y.shape[0], h, m, b.shape[3]))


def _weighted(c: Call, p: Value, v: Value) -> Value:
    return _grouped_product(c, p, v)


def counting(c: Call, size: Dim) -> Value:
    """0, 1, .. size - 1."""
    return c.emit("iota", size=size, start=0, step=1, dtype=DType.I64)


def dim_value(c: Call, d: Dim) -> Value:
    """A dimension as an int64 scalar."""
    return c.builder.materialize(c.builder.operand(d))


def split_heads(c: Call, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [B, heads, S, D]."""
    b, s, w = x.shape
    if heads < 1 or (isinstance(w, int) and w % heads):
        raise GraphError(f"{c.proto.op_type}: {w} elements do not split into {heads} heads", where=c.origin,
                         do="export the model again")
    return c.transpose(c.reshape(x, (b, s, heads, w // heads)), (0, 2, 1, 3))


def merge_heads(c: Call, x: Value) -> Value:
    """[B, H, S, D] as [B, S, H * D]."""
    b, h, s, d = x.shape
    return c.reshape(c.transpose(x, (0, 2, 1, 3)), (b, s, h * d))


def head_size(c: Call, q: Value) -> int:
    d = q.shape[-1]
    if not isinstance(d, int):
        c.unsupported("the head size is not fixed", "fix it with shapes=")
    return d


# -- Attention --------------------------------------------------------------------------------


@lowers("Attention")
def _attention(c: Call) -> Sequence[Operand | None]:
    """Attention-23 and later: [B, H, S, D] or [B, S, H*D] operands, past keys and values, grouped heads."""
    q, k, v = c.x(0), c.x(1), c.x(2)
    flat = q.rank == 3
    if flat:
        heads, kv_heads = c.attr("q_num_heads"), c.attr("kv_num_heads")
        if not heads or not kv_heads:
            raise GraphError("Attention of rank 3 lacks q_num_heads or kv_num_heads", where=c.origin,
                             do="export the model again")
        q, k, v = split_heads(c, q, heads), split_heads(c, k, kv_heads), split_heads(c, v, kv_heads)
    past: Dim = 0
    if c.has(4) != c.has(5):
        raise GraphError("Attention with only one of past_key and past_value", where=c.origin,
                         do="export the model again")
    if c.has(4):
        past = c.x(4).shape[2]
        k, v = c.emit("concat", c.x(4), k, axis=2), c.emit("concat", c.x(5), v, axis=2)
    scope = Scope(float(c.attr("scale") or 1.0 / math.sqrt(head_size(c, q))), mask=_padded_mask(c, k.shape[2]),
                  lengths=c.opt(6), softcap=c.attr("softcap", 0.0))
    bounds(scope, bool(c.attr("is_causal", 0)), past, c.attr("left_window_size", -1), c.attr("right_window_size", -1))
    shown: Value | None = None
    if c.wants(3):
        found = stages(c, q, k, scope)
        shown = found[c.attr("qk_matmul_output_mode", 0)]
        y = _weighted(c, found[PROBABILITIES], v)
    else:
        y = attend(c, q, k, v, scope)
    return [merge_heads(c, y) if flat else y, k, v, shown][:max(c.n_outputs, 1)]


def bounds(scope: Scope, causal: bool, past: Dim, left: int, right: int) -> None:
    """Say in `scope` that the query at position p = past + i sees keys p - left .. p + right (-1: unbounded)."""
    if causal:
        right = 0
    scope.causal = right >= 0 or left >= 0
    ahead = right if right >= 0 else UNBOUNDED
    scope.offset = past + ahead if scope.causal else 0
    scope.window = left + ahead + 1 if left >= 0 else 0


def _padded_mask(c: Call, keys: Dim) -> Value | None:
    """The mask; one that ends before the last key hides the rest."""
    mask = c.opt(3)
    if mask is None or mask.rank == 0:
        return mask
    have = mask.shape[-1]
    if have == 1 or not isinstance(have, int) or not isinstance(keys, int) or have >= keys:
        return mask  # of two names for one length, the import finds out that they are equal
    pads = (*(0,) * (2 * mask.rank - 1), keys - have)
    return c.emit("pad", mask, pads=pads, value=0 if mask.dtype is DType.BOOL else -math.inf)


# -- rotary embedding -------------------------------------------------------------------------


def rotary(c: Call, x: Value, cos: Value, sin: Value, axis: int, interleaved: bool) -> Value:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of x, rank 4 with heads along `axis` (1 or 2).

    cos, sin: [B or 1, S, R/2]; the first R elements of a head are turned, in pairs of neighbours (interleaved)
    or of halves.
    """
    half = cos.shape[-1]
    if not isinstance(half, int) or not isinstance(x.shape[3], int) or 2 * half > x.shape[3]:
        raise GraphError(f"{c.proto.op_type}: caches of width {half} for heads of {x.shape[3]}", where=c.origin,
                         why="they have one number for each pair of elements", do="export the model again")
    cos, sin = (c.cast(c.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])), x.dtype) for t in (cos, sin))
    turned = c.slice(x, 3, 0, 2 * half)
    if interleaved:
        pairs = c.reshape(turned, (*x.shape[:3], half, 2))
        a, b = (c.reshape(c.slice(pairs, 4, i, 1), (*x.shape[:3], half)) for i in range(2))
    else:
        a, b = c.slice(turned, 3, 0, half), c.slice(turned, 3, half, half)
    real = c.emit("sub", c.emit("mul", a, cos), c.emit("mul", b, sin))
    imaginary = c.emit("add", c.emit("mul", a, sin), c.emit("mul", b, cos))
    if interleaved:
        y = c.emit("concat", *(c.reshape(t, (*x.shape[:3], half, 1)) for t in (real, imaginary)), axis=4)
        y = c.reshape(y, turned.shape)
        return y if 2 * half == x.shape[3] else c.emit("concat", y, c.slice(x, 3, 2 * half, x.shape[3] - 2 * half),
                                                       axis=3)
    parts = [real, imaginary]
    if 2 * half < x.shape[3]:
        parts.append(c.slice(x, 3, 2 * half, x.shape[3] - 2 * half))
    return c.emit("concat", *parts, axis=3)


@lowers("RotaryEmbedding")
def _rotary_embedding(c: Call) -> Value:
    x, cos, sin = c.x(0), c.x(1), c.x(2)
    if c.has(3):
        cos, sin = (c.emit("gather", t, c.x(3), axis=0) for t in (cos, sin))
    interleaved = bool(c.attr("interleaved", 0))
    if x.rank == 4:
        return rotary(c, x, cos, sin, 1, interleaved)
    heads = c.attr("num_heads", 0)
    b, s, w = x.shape
    if not heads:
        raise GraphError("RotaryEmbedding of rank 3 lacks num_heads", where=c.origin, do="export the model again")
    return c.reshape(rotary(c, c.reshape(x, (b, s, heads, w // heads)), cos, sin, 2, interleaved), x.shape)


# -- state that lives from call to call -------------------------------------------------------------


def write_cache(c: Call, cache: Value, update: Value, start: Value, axis: int, circular: bool = False) -> Value:
    """The cache [B, ..] with update written along `axis` from place start[b] on, for each batch element b.

    The index has every dimension up to the axis, so that the result has the cache's own layout.
    """
    shape = update.shape[:axis + 1]
    places = c.emit("add", c.reshape(c.cast(start, DType.I64), (start.shape[0], 1)), counting(c, shape[axis]))
    if circular:
        places = c.emit("mod", places, dim_value(c, cache.shape[axis]))
    index = []
    for i in range(axis):
        index.append(c.reshape(counting(c, shape[i]), tuple(shape[i] if k == i else 1 for k in range(axis + 1))))
    index.append(c.reshape(places, (places.shape[0], *(1,) * (axis - 1), shape[axis])))
    parts = [c.expand(c.reshape(x, (*x.shape, 1)), (*shape, 1)) for x in index]
    return c.emit("scatter_nd", cache, c.emit("concat", *parts, axis=axis + 1), update)


@lowers("TensorScatter")
def _tensor_scatter(c: Call) -> Value:
    cache, update = c.x(0), c.x(1)
    axis = c.axis(c.attr("axis", -2), cache.rank)
    if axis == 0:
        raise GraphError("TensorScatter along the batch", where=c.origin, do="its axis is one of the others")
    if not c.has(2):
        rest = c.slice(cache, axis, update.shape[axis], cache.shape[axis] - update.shape[axis])
        return c.emit("concat", update, rest, axis=axis)
    return write_cache(c, cache, update, c.x(2), axis, c.attr("mode", "linear") == "circular")


@lowers("CausalConvWithState")
def _causal_conv(c: Call) -> list[Value]:
    """A depthwise convolution along time that sees the last k - 1 elements of the call before."""
    x, w, bias = c.x(0), c.x(1), c.opt(2)
    if x.rank != 3 or w.rank != 3 or not isinstance(w.shape[2], int) or not isinstance(w.shape[0], int):
        c.unsupported("the channels or the filter's length are not fixed", "fix them with shapes=")
    k = w.shape[2]
    if c.has(3):
        padded = c.emit("concat", c.x(3), x, axis=2)
    else:
        padded = c.emit("pad", x, pads=(0, 0, k - 1, 0, 0, 0))
    y = c.emit("conv", padded, w, *([bias] if bias is not None else []), strides=(1,), dilations=(1,), pads=(0, 0),
               group=w.shape[0])
    if c.attr("activation", "none") in ("silu", "swish"):
        y = c.emit("silu", y)
    return [y, c.slice(padded, 2, x.shape[2], k - 1)]


@lowers("LinearAttention")
def _linear_attention(c: Call) -> Sequence[Operand | None]:
    """A recurrence over time with one matrix of state per head of keys; (y [B, T, H*E], the state after it)."""
    rule, heads, kv_heads = c.attr("update_rule", "gated_delta"), c.attr("q_num_heads"), c.attr("kv_num_heads")
    if not heads or not kv_heads:
        raise GraphError("LinearAttention lacks q_num_heads or kv_num_heads", where=c.origin,
                         do="export the model again")
    wanted = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}
    if wanted.get(rule) != (c.has(4), c.has(5)):
        raise GraphError(f"LinearAttention with the rule {rule!r} and {'a' if c.has(4) else 'no'} decay, "
                         f"{'a' if c.has(5) else 'no'} beta", where=c.origin, do="export the model again")
    q, k, v = split_heads(c, c.x(0), heads), split_heads(c, c.x(1), kv_heads), split_heads(c, c.x(2), kv_heads)
    decay, beta = c.opt(4), c.opt(5)
    if decay is not None:
        decay = split_heads(c, decay, kv_heads)
    if beta is not None:
        beta = split_heads(c, beta, 1 if beta.shape[2] == 1 else kv_heads)
    operands = [q, k, v, c.opt(3), decay, beta]
    while operands[-1] is None:
        operands.pop()
    scale = c.attr("scale", 0.0) or 1.0 / math.sqrt(head_size(c, q))
    node = c.builder.emit_node("linear_attention", operands, {"scale": float(scale)}, c.origin, c.hint)
    return [merge_heads(c, node.outputs[0]), node.outputs[1]]
