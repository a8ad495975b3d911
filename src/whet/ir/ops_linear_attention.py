"""Linear attention: a recurrence over time, a matrix of state per head (arXiv:2006.16236, arXiv:2412.06464)."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, equal, in_f32, need, same_dtype


def _rule(ins: list[Any], at: Attrs) -> list[Spec]:
    q, k, v = ins[:3]
    state, decay, beta = (*ins[3:], None, None, None)[:3]
    dtype = same_dtype(ins[:3], "linear_attention")
    need(dtype.is_float, f"linear_attention does not take {dtype.value}")
    need(q.rank == k.rank == v.rank == 4, "linear_attention takes q, k and v of rank 4")
    (b, h, t, d), g, e = q.shape, k.shape[1], v.shape[3]
    need(isinstance(h, int) and isinstance(g, int) and g > 0 and h % g == 0,
         f"linear_attention: {h} heads of q do not share {g} heads of k")
    for x, what, heads, width in ((k, "k", g, d), (v, "v", g, e), (decay, "decay", g, d), (beta, "beta", g, 1)):
        if x is None:
            continue
        need(x.rank == 4 and x.dtype.is_float, f"linear_attention's {what} is a float tensor of rank 4")
        want = (b, 1 if x is beta and x.shape[1] == 1 else heads, t, 1 if x is decay and x.shape[3] == 1 else width)
        for have, one in zip(x.shape, want, strict=True):
            equal(have, one, f"linear_attention's {what}")
    if state is not None:
        need(state.rank == 4 and state.dtype.is_float, "linear_attention's state is a float tensor of rank 4")
        for have, one in zip(state.shape, (b, g, d, e), strict=True):
            equal(have, one, "linear_attention's state")
    return [(dtype, (b, h, t, e)), (dtype if state is None else state.dtype, (b, g, d, e))]


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    q, k, v = (in_f32(x) for x in xs[:3])
    state, decay, beta = (*(None if x is None else in_f32(x) for x in xs[3:]), None, None, None)[:3]
    n = q.shape[1] // k.shape[1]
    s = np.zeros((*k.shape[:2], q.shape[3], v.shape[3]), q.dtype) if state is None else state.astype(q.dtype)
    y = np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    for i in range(q.shape[2]):
        key, value = k[:, :, i, :, None], v[:, :, i, None, :]
        if decay is not None:
            s = s * np.exp(decay[:, :, i, :, None])
        if beta is not None:
            value = beta[:, :, i, :, None] * (value - np.sum(s * key, axis=2, keepdims=True))
        s = s + key * value
        y[:, :, i] = q.dtype.type(at["scale"]) * np.sum(q[:, :, i, :, None] * np.repeat(s, n, axis=1), axis=2)
    return [y, s]


LINEAR_ATTENTION = OpDef("linear_attention", (3, 6), _rule, _reference, {"scale": REQUIRED}, optional=(3, 4, 5))
OPERANDS = ("q", "k", "v", "state", "decay", "beta")
