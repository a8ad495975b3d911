"""Lowerings of ONNX Runtime's attention operators (domain com.microsoft)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.errors import GraphError, UnsupportedError
from whet.frontends.call import LOWERINGS, Call, Operand, lowers
from whet.frontends.lower_attention import (
    PROBABILITIES,
    Scope,
    attend,
    bounds,
    counting,
    dim_value,
    head_size,
    merge_heads,
    rotary,
    split_heads,
    stages,
    write_cache,
)
from whet.frontends.lower_contrib import MICROSOFT
from whet.frontends.lower_nn import matmul
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim


def _refuse(c: Call, what: str) -> None:
    raise UnsupportedError(f"{c.proto.op_type} with {what}", where=c.origin,
                           do="export the model without it, or run the node elsewhere")


def _scale(c: Call, d: int) -> float:
    return float(c.attr("scale", 0.0) or 1.0 / math.sqrt(d))


# -- masks ------------------------------------------------------------------------------------


def _padding(c: Call, mask: Value, batch: Dim, keys: Dim, dtype: DType) -> Value:
    """What a padding mask of any of ONNX Runtime's forms adds to the scores: [B, 1, 1 or S, T].

    [B]: lengths; [2B]: ends, then starts; [B, T] or [B, S, T]: 0 hides. Hidden keys get mask_filter_value
    (-10000), so that a row of nothing else still averages.
    """
    if mask.rank == 1:
        j = c.reshape(counting(c, keys), (1, keys))
        n = mask.shape[0]
        if n == batch:
            keep = c.emit("lt", j, c.reshape(c.cast(mask, DType.I64), (n, 1)))
        elif isinstance(n, int) and isinstance(batch, int) and n == 2 * batch:
            end, start = (c.reshape(c.cast(c.slice(mask, 0, i * batch, batch), DType.I64), (batch, 1)) for i in (0, 1))
            keep = c.emit("and", c.emit("lt", j, end), c.emit("ge", j, start))
        else:
            _refuse(c, f"a mask of shape {mask.shape}")
        keep = c.reshape(keep, (batch, 1, 1, keys))
    elif mask.rank in (2, 3):
        keep = mask if mask.dtype is DType.BOOL else c.emit("ne", mask, c.like(mask, 0))
        lead = mask.shape[:1] + (1,) * (4 - mask.rank)
        keep = c.reshape(keep, (*lead, *mask.shape[1:]))
    else:
        _refuse(c, f"a mask of shape {mask.shape}")
    low = c.constant(c.attr("mask_filter_value", -10000.0), dtype)
    return c.emit("where", keep, c.constant(0, dtype), low)


def _both(c: Call, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return a if b is None else b
    return c.emit("add", a, b)


# -- Attention, MultiHeadAttention ---------------------------------------------------------------


@lowers("Attention", domain=MICROSOFT)
def _attention(c: Call) -> Sequence[Operand | None]:
    """Attention with the projection of q, k and v inside: (y, present [2, B, N, T, D])."""
    if c.attr("past_present_share_buffer", 0) or c.has(6):
        _refuse(c, "past_present_share_buffer")
    if c.attr("do_rotary", 0):
        _refuse(c, "do_rotary")
    joint = matmul(c, c.x(0), c.x(1))
    if c.has(2):
        joint = c.emit("add", joint, c.x(2))
    return attention_of_projection(c, joint, mask=c.opt(3), past=c.opt(4), bias=c.opt(5))


def attention_of_projection(c: Call, joint: Value, mask: Value | None, past: Value | None,
                            bias: Value | None) -> Sequence[Operand | None]:
    """(y, present) of q, k and v side by side in [B, S, ..]; past and present are [2, B, N, T, D]."""
    heads = c.attr("num_heads")
    width = joint.shape[2]
    if not isinstance(width, int):
        c.unsupported("the width of the projection is not fixed", "fix it with shapes=")
    sizes = c.attr("qkv_hidden_sizes") or [width // 3] * 3
    parts, at = [], 0
    for size in sizes:
        parts.append(split_heads(c, c.slice(joint, 2, at, size), heads))
        at += size
    q, k, v = parts
    before: Dim = 0
    if past is not None:
        before = past.shape[3]
        k, v = (c.emit("concat", c.reshape(c.slice(past, 0, i, 1), past.shape[1:]), new, axis=2)
                for i, new in enumerate((k, v)))
    scope = Scope(_scale(c, head_size(c, q)))
    if mask is not None:
        scope.mask = _padding(c, mask, q.shape[0], k.shape[2], q.dtype)
    scope.mask = _both(c, scope.mask, bias)
    bounds(scope, bool(c.attr("unidirectional", 0)), before, -1, -1)
    y = merge_heads(c, attend(c, q, k, v, scope))
    if not c.wants(1):
        return [y]
    return [y, c.emit("concat", *(c.reshape(t, (1, *t.shape)) for t in (k, v)), axis=0)]


@lowers("MultiHeadAttention", domain=MICROSOFT)
def _multi_head_attention(c: Call) -> Sequence[Operand | None]:
    """q [B,S,N*D] with k, v of the same form, or q k v packed [B,S,N,3,D], or k v packed [B,T,N,2,D], or k, v given
    as [B,N,T,D]: (y, present key, present value, probabilities)."""
    if c.has(8) or c.has(9):
        _refuse(c, "a shared buffer of past keys, or beams")
    heads, q = c.attr("num_heads"), c.x(0)
    projected = False  # k and v as they come out of a projection, to which the bias belongs
    if q.rank == 5:
        q, k, v = (_unpacked(c, q, i) for i in range(3))
        projected = True
    else:
        q = split_heads(c, q, heads)
        if not c.has(2):
            k, v = (_unpacked(c, c.x(1), i) for i in range(2))
            projected = True
        elif c.x(1).rank == 4:
            k, v = c.x(1), c.x(2)
        else:
            k, v = split_heads(c, c.x(1), heads), split_heads(c, c.x(2), heads)
            projected = True
    if c.has(3):
        q, k, v = _biased(c, q, k, v, c.x(3), heads, projected)
    past: Dim = 0
    if c.has(6) and c.has(7):
        past = c.x(6).shape[2]
        k, v = c.emit("concat", c.x(6), k, axis=2), c.emit("concat", c.x(7), v, axis=2)
    scope = Scope(_scale(c, head_size(c, q)))
    if c.has(4):
        scope.mask = _padding(c, c.x(4), q.shape[0], k.shape[2], q.dtype)
    scope.mask = _both(c, scope.mask, c.opt(5))
    bounds(scope, bool(c.attr("unidirectional", 0)), past, -1, -1)
    shown = stages(c, q, k, scope)[PROBABILITIES] if c.wants(3) else None
    return [merge_heads(c, attend(c, q, k, v, scope)), k, v, shown][:max(c.n_outputs, 1)]


def _unpacked(c: Call, x: Value, i: int) -> Value:
    """Part i of [B, S, N, parts, D] as [B, N, S, D]."""
    b, s, n, _, d = x.shape
    return c.transpose(c.reshape(c.slice(x, 3, i, 1), (b, s, n, d)), (0, 2, 1, 3))


def _biased(c: Call, q: Value, k: Value, v: Value, bias: Value, heads: int,
            projected: bool) -> tuple[Value, Value, Value]:
    out, at = [], 0
    for i, x in enumerate((q, k, v)):
        d = head_size(c, x)
        if i == 0 or projected:
            part = c.reshape(c.slice(bias, 0, at, heads * d), (1, heads, 1, d))
            x = c.emit("add", x, part)
        out.append(x)
        at += heads * d
    return out[0], out[1], out[2]


# -- GroupQueryAttention ----------------------------------------------------------------------


@lowers("GroupQueryAttention", domain=MICROSOFT)
def _group_query_attention(c: Call) -> Sequence[Operand | None]:
    """Causal attention over a cache of keys and values, with as many past keys as each sequence has.

    seqlens_k[b] + 1 keys exist after this call, of which the last S are new. A prompt (S = total length) starts
    at place 0, whatever padding it has at its end. The present keys have the larger of the past's capacity and
    the total length; places behind a sequence's length are what the past has there, or zero.
    """
    for i, what in ((11, "head_sink"), (12, "a quantized cache"), (13, "a quantized cache")):
        if c.has(i):
            _refuse(c, what)
    if c.attr("smooth_softmax", 0) == 1:
        _refuse(c, "smooth_softmax")
    if c.attr("sliding_window_cache", 0):
        _refuse(c, "sliding_window_cache")
    if c.attr("qk_output", 0) or c.wants(3):
        _refuse(c, "qk_output")
    heads, kv_heads = c.attr("num_heads"), c.attr("kv_num_heads")
    q, k, v = _projections(c, heads, kv_heads)
    (b, _, s, d), (total,) = q.shape, c.dims(6, "the total length")
    d = head_size(c, q)
    counts = c.cast(c.reshape(c.x(5), (b,)), DType.I64)
    lengths = c.emit("add", counts, c.like(counts, 1))
    if total == s:
        lengths = c.expand(dim_value(c, s), (b,))
    elif c.has(3):
        prompt = c.emit("eq", dim_value(c, total), dim_value(c, s))
        lengths = c.emit("where", prompt, dim_value(c, s), lengths)
    start = c.emit("sub", lengths, dim_value(c, s))
    if c.has(14):
        epsilon = c.attr("qk_norm_epsilon", 1e-6)
        q, k = (c.emit("rmsnorm", x, c.x(i), axis=3, epsilon=epsilon) for x, i in ((q, 14), (k, 15)))
    if c.attr("do_rotary", 0):
        places = c.x(9) if c.has(9) else c.emit("add", c.reshape(start, (b, 1)), counting(c, s))
        cos, sin = (c.emit("gather", c.x(i), places, axis=0) for i in (7, 8))
        q, k = (rotary(c, x, cos, sin, 1, bool(c.attr("rotary_interleaved", 0))) for x in (q, k))
    if c.has(3):
        k, v = (_extended(c, past, new, start, total) for past, new in ((c.x(3), k), (c.x(4), v)))
    scope = Scope(_scale(c, d), lengths=lengths, softcap=c.attr("softcap", 0.0))
    window = c.attr("local_window_size", -1)
    if c.attr("causal", 1):
        scope.causal, scope.window = True, max(window, 0)
    if c.has(10):
        scope.mask = _widened(c, c.x(10), k.shape[2])
    return [merge_heads(c, attend(c, q, k, v, scope)), k, v][:max(c.n_outputs, 1)]


def _projections(c: Call, heads: int, kv_heads: int) -> tuple[Value, Value, Value]:
    """q, k, v as [B, heads, S, D], from three operands or one packed."""
    q = c.x(0)
    if c.has(1) and c.has(2):
        return split_heads(c, q, heads), split_heads(c, c.x(1), kv_heads), split_heads(c, c.x(2), kv_heads)
    w = q.shape[2]
    if not isinstance(w, int) or w % (heads + 2 * kv_heads):
        raise GraphError(f"GroupQueryAttention: {w} elements for {heads} and {kv_heads} heads", where=c.origin,
                         do="export the model again")
    d, at, out = w // (heads + 2 * kv_heads), 0, []
    for n in (heads, kv_heads, kv_heads):
        out.append(split_heads(c, c.slice(q, 2, at, n * d), n))
        at += n * d
    return out[0], out[1], out[2]


def _extended(c: Call, past: Value, new: Value, start: Value, total: Dim) -> Value:
    """The cache with room for `total` keys, and the new ones in their places."""
    capacity = c.builder.maximum(past.shape[2], total)
    if capacity != past.shape[2]:
        past = c.emit("pad", past, pads=(0, 0, 0, 0, 0, 0, capacity - past.shape[2], 0))
    return write_cache(c, past, new, start, 2)


def _widened(c: Call, mask: Value, keys: Dim) -> Value:
    """A bias of the scores for as many keys as the cache holds; those behind the bias do not exist."""
    have = mask.shape[3]
    if have == keys or not isinstance(have, int) or not isinstance(keys, int):
        return mask
    return c.emit("pad", mask, pads=(0, 0, 0, 0, 0, 0, 0, keys - have))


# -- rotary embedding -------------------------------------------------------------------------


@lowers("RotaryEmbedding", domain=MICROSOFT)
def _rotary_embedding(c: Call) -> Value:
    """x [B, S, hidden] or [B, N, S, D]; position_ids [B, S], or [1]: the place of the first element."""
    x, ids, cos, sin = c.x(0), c.x(1), c.x(2), c.x(3)
    if c.attr("is_packed_batching", 0):
        _refuse(c, "is_packed_batching")
    axis = 1 if x.rank == 4 else 2
    s = x.shape[2] if x.rank == 4 else x.shape[1]
    if ids.rank == 1:
        ids = c.emit("add", c.reshape(ids, (1, 1)), c.reshape(counting(c, s), (1, s)))
    cos, sin = (c.emit("gather", t, ids, axis=0) for t in (cos, sin))
    interleaved = bool(c.attr("interleaved", 0))
    if x.rank == 4:
        return rotary(c, x, cos, sin, axis, interleaved)
    heads = c.attr("num_heads", 0)
    b, s, w = x.shape
    if not heads:
        half = cos.shape[-1]
        if not isinstance(half, int) or not isinstance(w, int):
            c.unsupported("the head size is not fixed", "fix it with shapes=")
        heads = w // (2 * half)
    y = rotary(c, c.reshape(x, (b, s, heads, w // heads)), cos, sin, axis, interleaved)
    return c.reshape(y, x.shape)


# -- recurrent forms --------------------------------------------------------------------------


@lowers("LinearAttention", domain=MICROSOFT)
def _linear_attention(c: Call) -> Operand | Sequence[Operand | None]:
    """The standard operator; a window of states is not kept."""
    if c.attr("state_window", 0):
        _refuse(c, "state_window")
    return LOWERINGS["", "LinearAttention"](c)


@lowers("CausalConvWithState", domain=MICROSOFT)
def _causal_conv(c: Call) -> Operand | Sequence[Operand | None]:
    """The standard operator, which has one dimension of time."""
    for name, usual in (("state_window", 0), ("channels_last", 0), ("dilation", 1), ("ndim", 1)):
        if c.attr(name, usual) != usual:
            _refuse(c, f"{name}={c.attr(name)}")
    return LOWERINGS["", "CausalConvWithState"](c)
