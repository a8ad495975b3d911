"""Builders of regions for kernel tests, and their comparison with the region's NumPy meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from harness import run_region

from whet.ir.dtypes import DType
from whet.ir.expr import Expr
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, evaluate
from whet.targets.base import Tactic

TOLERANCE = {DType.F32: 3e-6, DType.F64: 1e-12, DType.F16: 2e-3, DType.BF16: 1e-2}


def anchored(kind: str, attrs: Mapping[str, Any], operands: Sequence[Tensor], shape: Sequence[Dim],
             out: DType | None = None, epilogue: Expr | None = None, prologue: Expr | None = None,
             extra: Sequence[Tensor] = (), anchor: DType | None = None, output: Tensor | None = None,
             dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    """A region of an anchor on `operands` whose result has `shape`; `extra` inputs are for its expressions."""
    d = out or operands[0].dtype
    return Region(kind, dict(attrs), (*operands, *extra), len(operands), output or Tensor.dense(d, tuple(shape)),
                  Tensor.dense(anchor or d, tuple(shape)), epilogue, {} if prologue is None else {0: prologue},
                  dims=dims or {})


def values(t: Tensor, env: Mapping[str, int], seed: int) -> np.ndarray:
    """Random contents that agree where strides are 0."""
    shape = [evaluate(d, env) for d in t.shape]
    small = [1 if isinstance(s, int) and s == 0 else n for n, s in zip(shape, t.strides)]
    rng = np.random.default_rng(seed)
    if t.dtype is DType.BOOL:
        a = rng.integers(0, 2, small).astype(bool)
    else:
        a = (rng.normal(0, 2, small) if t.dtype.is_float else rng.integers(0, 50, small)).astype(t.dtype.np)
    return np.array(np.broadcast_to(a, shape))


def check(r: Region, tactic: Tactic, isa: Any, env: Mapping[str, int] | None = None,
          arrays: Sequence[np.ndarray] | None = None, rtol: float | None = None,
          wide: bool = False) -> list[np.ndarray]:
    """Run r and compare with its reference (in float64 if `wide`); the outputs."""
    env = env or {}
    if arrays is None:
        arrays = [values(t, env, i + 1) for i, t in enumerate(r.inputs)]
    outs = run_region(r, tactic, {}, isa, arrays, env)
    with np.errstate(all="ignore"):
        want = region_reference(*((widened(r), [widen(a) for a in arrays]) if wide else (r, arrays)), env)
    for got, ref in zip(outs, want, strict=True):
        d = DType.of(got.dtype)
        if d.is_float:
            tol = TOLERANCE[d] if rtol is None else rtol
            np.testing.assert_allclose(got.astype(np.float64), ref.astype(np.float64), rtol=tol, atol=tol)
        else:
            np.testing.assert_array_equal(got, ref)
    return outs


def widen(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if DType.of(a.dtype).is_float else a


def widened(r: Region) -> Region:
    """The region with every float in f64, for references without rounding."""
    from dataclasses import replace

    from whet.ir.expr import Apply, Imm, Leaf

    def up(d: DType) -> DType:
        return DType.F64 if d.is_float else d

    def tensor(t: Tensor) -> Tensor:
        return replace(t, dtype=up(t.dtype))

    def term(t: Any) -> Any:
        if isinstance(t, Apply):
            attrs = tuple((k, up(v) if isinstance(v, DType) else v) for k, v in t.attrs)
            return Apply(t.op, t.args, up(t.dtype), attrs)
        return Leaf(t.source, up(t.dtype)) if isinstance(t, Leaf) else Imm(t.value, up(t.dtype))

    def expr(e: Expr | None) -> Expr | None:
        return None if e is None else Expr(tuple(term(t) for t in e.terms))

    return replace(r, inputs=tuple(tensor(t) for t in r.inputs), output=tensor(r.output), anchor=tensor(r.anchor),
                   epilogue=expr(r.epilogue), prologue={i: expr(e) for i, e in r.prologue.items()})  # type: ignore[misc]
