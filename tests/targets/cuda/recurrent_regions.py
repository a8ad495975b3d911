"""Recurrent regions and their check against float64, in the interpreter and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from attention_regions import Runner, strided

from whet.ir.dtypes import DType
from whet.ir.ops_recurrent import GATES, OPERANDS, RECURRENT
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, evaluate
from whet.targets.base import Params, Tactic
from whet.targets.cuda.gpu import Gpu

F32 = DType.F32
USUAL = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
BOTH = (False, True)
OPTIONS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("lstm", ("h", "c"), {}), ("lstm", ("h", "c", "p"), {}), ("lstm", ("p",), {"clip": 0.4}),
    ("lstm", ("lengths", "h", "c"), {}), ("lstm", ("c",), {"coupled": True}),
    ("gru", (), {}), ("gru", ("h", "lengths"), {}), ("gru", ("h", "rb"), {"linear_before_reset": True}),
    ("gru", ("lengths",), {"linear_before_reset": True, "clip": 0.3}), ("gru", (), {"clip": 0.3}),
    ("rnn", (), {}), ("rnn", ("h", "lengths"), {"clip": 0.5}),
]


def region(kind: str, t: Dim, b: Dim, h: int, *given: str, reverse: tuple[bool, ...] = (False,), layout: int = 0,
           dims: dict[str, Any] | None = None, activations: tuple[Any, ...] | None = None,
           lengths: DType = DType.I32, dtype: DType = F32, compute: str = "f32", **more: Any) -> Region:
    """`given`: the optional operands that are there."""
    n, g = len(reverse), GATES[kind]
    outer, inner = (b, t) if layout else (t, b)
    state = strided(dtype, (b, n, h) if layout else (n, b, h), 2)
    tensors = {"x": strided(dtype, (outer, inner, n, g * h), 1), "r": Tensor.dense(dtype, (n, g * h, h), True),
               "lengths": Tensor.dense(lengths, (b,)), "h": state, "c": state, "p": strided(dtype, (n, 3 * h), 1),
               "rb": strided(dtype, (n, h), 1)}
    names = [name for name in OPERANDS if name in ("x", "r", *given)]
    attrs = {"kind": kind, "reverse": reverse, "layout": layout, "clip": None, "coupled": False,
             "linear_before_reset": False, **more,
             "activations": activations or tuple(tuple((f, 0.0, 0.0) for f in USUAL[kind]) for _ in reverse),
             "absent": tuple(i for i, name in enumerate(OPERANDS) if name not in names)}
    y = strided(dtype, (b, t, n, h) if layout else (t, n, b, h), 3)
    ins = tuple(tensors[name] for name in names)
    return Region("recurrent", attrs, ins, len(ins), y, Tensor.dense(dtype, y.shape), compute=compute,
                  extra_outputs=(state,) * (2 if kind == "lstm" else 1), dims=dims or {})


def check(run: Runner, tactic: Tactic, r: Region, machine: Gpu, env: dict[str, int] | None = None,
          tolerance: float = 2e-5, spoil: bool = False, some: int = 1, params: Params | None = None) -> None:
    assert tactic.applies(r, machine) == ""
    rng = np.random.default_rng(1)
    shapes = [[evaluate(d, env or {}) for d in t.shape] for t in r.inputs]
    steps = shapes[0][1 if r.attrs["layout"] else 0]
    scale = 1 / np.sqrt(max(1, shapes[1][2]))
    arrays = [rng.integers(0, steps + 1, s).astype(t.dtype.np) if t.dtype.is_integer else
              (rng.standard_normal(s) * (scale if i == 1 else 1)).astype(t.dtype.np)
              for i, (t, s) in enumerate(zip(r.inputs, shapes, strict=True))]
    if spoil:
        arrays[0].reshape(-1)[::7] = np.nan
        arrays[0].reshape(-1)[3::11] = np.inf
        arrays[0].reshape(-1)[5::13] = -np.inf
    wide: list[Any] = [a if DType.of(a.dtype).is_integer else a.astype(np.float64) for a in arrays]
    for i in r.attrs["absent"]:
        wide.insert(i, None)
    attrs = {k: v for k, v in r.attrs.items() if k != "absent"}
    with np.errstate(all="ignore"):
        want = RECURRENT.reference(wide, attrs)
        for f in [params] if params else list(tactic.space(r, machine, 1))[:some]:
            got = run(r, tactic.implement(r, f, machine, 1), arrays, env)
            for x, y in zip(got, want, strict=True):
                np.testing.assert_allclose(x.astype(np.float64), y, rtol=tolerance * 10, atol=tolerance,
                                           err_msg=str(f))
