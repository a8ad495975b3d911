"""Recurrent layers, from their pre-activations on: LSTM, GRU and the simple RNN, by ONNX's equations and gate order.

`clip` bounds what goes into the activations of gates; the cell state is not clipped, as in ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, equal, in_f32, need

GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # i o f c, z r h, h
FUNCTIONS = {"lstm": 3, "gru": 2, "rnn": 1}  # activations of a direction: f g h, f g, f
OPERANDS = ("x", "r", "lengths", "h", "c", "p", "rb")
ACTIVATIONS = ("relu", "tanh", "sigmoid", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu",
               "softsign", "softplus")


def _rule(ins: list[Any], at: Attrs) -> list[Spec]:
    kind = at["kind"]
    need(kind in GATES, f"recurrent: no kind {kind!r}")
    x, r, lengths, h, c, p, rb = (ins + [None] * len(OPERANDS))[:len(OPERANDS)]
    need(x.rank == 4 and r.rank == 3, "recurrent takes x of rank 4 and r of rank 3")
    gates, size, n = GATES[kind], r.shape[2], len(at["reverse"])
    need(isinstance(size, int), "recurrent's hidden size is not fixed")
    outer, inner = x.shape[:2]
    steps, batch = (inner, outer) if at["layout"] else (outer, inner)
    for t, what, want in ((x, "x", (outer, inner, n, gates * size)), (r, "r", (n, gates * size, size)),
                          (h, "h", _state(at, n, batch, size)), (c, "c", _state(at, n, batch, size)),
                          (p, "p", (n, 3 * size)), (rb, "rb", (n, size)), (lengths, "lengths", (batch,))):
        if t is None:
            continue
        need(t.dtype.is_integer if t is lengths else t.dtype.is_float, f"recurrent's {what} is of type {t.dtype.value}")
        need(t.rank == len(want), f"recurrent's {what} is of rank {t.rank}")
        for have, one in zip(t.shape, want, strict=True):
            equal(have, one, f"recurrent's {what}")
    need(kind == "lstm" or (c is None and p is None), f"{kind} takes no cell state and no peepholes")
    need(rb is None or (kind == "gru" and at["linear_before_reset"]), "rb is gru's, with linear_before_reset")
    need(len(at["activations"]) == n, "recurrent needs the activations of each direction")
    for functions in at["activations"]:
        need(len(functions) == FUNCTIONS[kind] and all(f[0] in ACTIVATIONS for f in functions),
             f"recurrent: {functions} are not {FUNCTIONS[kind]} known activations")
    y = (batch, steps, n, size) if at["layout"] else (steps, n, batch, size)
    state = (x.dtype, _state(at, n, batch, size))
    return [(x.dtype, y), state, *([state] if kind == "lstm" else [])]


def _state(at: Attrs, directions: int, batch: Any, size: int) -> tuple[Any, ...]:
    return (batch, directions, size) if at["layout"] else (directions, batch, size)


def activate(name: str, alpha: float, beta: float, x: np.ndarray) -> np.ndarray:
    """An activation of ONNX's list, by its lower-case name."""
    a, b = x.dtype.type(alpha), x.dtype.type(beta)
    match name:
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "affine":
            return a * x + b
        case "leakyrelu":
            return np.where(x < 0, a * x, x)
        case "thresholdedrelu":
            return np.where(x < a, x.dtype.type(0), x)
        case "scaledtanh":
            return a * np.tanh(b * x)
        case "hardsigmoid":
            return np.clip(a * x + b, 0, 1)
        case "elu":
            return np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)
        case "softsign":
            return x / (1 + np.abs(x))
        case "softplus":
            return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    raise KeyError(name)


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x, r, lengths, h0, c0, p, rb = (xs + [None] * len(OPERANDS))[:len(OPERANDS)]
    x, r = in_f32(x), in_f32(r)
    if at["layout"]:
        x = np.swapaxes(x, 0, 1)
        h0, c0 = (None if s is None else np.swapaxes(s, 0, 1) for s in (h0, c0))
    (steps, batch), size = x.shape[:2], r.shape[2]
    n = len(at["reverse"])
    lengths = np.full(batch, steps) if lengths is None else np.clip(lengths, 0, steps)
    y = np.zeros((steps, n, batch, size), x.dtype)
    hs, cs = (np.zeros((n, batch, size), x.dtype) if s is None else s.astype(x.dtype) for s in (h0, c0))
    rows = np.arange(batch)
    for d, back in enumerate(at["reverse"]):
        for s in range(steps):
            on = s < lengths
            at_time = np.where(on, lengths - 1 - s if back else s, 0)
            extra = {"p": None if p is None else p[d], "rb": None if rb is None else rb[d]}
            h, c = _step(at, at["activations"][d], x[at_time, rows, d], r[d], hs[d], cs[d], **extra)
            hs[d], cs[d] = np.where(on[:, None], h, hs[d]), np.where(on[:, None], c, cs[d])
            y[at_time[on], d, rows[on]] = h[on]
    if at["layout"]:
        y, hs, cs = np.transpose(y, (2, 0, 1, 3)), np.swapaxes(hs, 0, 1), np.swapaxes(cs, 0, 1)
    return [y, hs, cs] if at["kind"] == "lstm" else [y, hs]


def _step(at: Attrs, functions: Any, x: np.ndarray, r: np.ndarray, h: np.ndarray, c: np.ndarray, p: Any,
          rb: Any) -> tuple[np.ndarray, np.ndarray]:
    """One step of one direction: the new (h, c)."""
    size, kind = r.shape[1], at["kind"]

    def act(i: int, v: np.ndarray) -> np.ndarray:
        name, alpha, beta = functions[i]
        clipped = v if at["clip"] is None else np.clip(v, -at["clip"], at["clip"]).astype(v.dtype)
        return activate(name, alpha, beta, clipped)

    if kind == "rnn":
        return act(0, x + h @ r.T), c
    if kind == "gru":
        zr = x[:, :2 * size] + h @ r[:2 * size].T
        z, reset = act(0, zr[:, :size]), act(0, zr[:, size:])
        if at["linear_before_reset"]:
            new = act(1, x[:, 2 * size:] + reset * (h @ r[2 * size:].T + (0 if rb is None else rb)))
        else:
            new = act(1, x[:, 2 * size:] + (reset * h) @ r[2 * size:].T)
        return (1 - z) * new + z * h, c
    i, o, f, g = np.split(x + h @ r.T, 4, axis=1)
    pi, po, pf = (0, 0, 0) if p is None else np.split(p.astype(x.dtype), 3)
    i = act(0, i + pi * c)
    f = 1 - i if at["coupled"] else act(0, f + pf * c)
    c = f * c + i * act(1, g)
    name, alpha, beta = functions[2]
    return act(0, o + po * c) * activate(name, alpha, beta, c), c


RECURRENT = OpDef("recurrent", (2, len(OPERANDS)), _rule, _reference,
                  {"kind": REQUIRED, "reverse": REQUIRED, "activations": REQUIRED, "layout": 0, "clip": None,
                   "coupled": False, "linear_before_reset": False}, optional=tuple(range(2, len(OPERANDS))))
