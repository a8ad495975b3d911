"""Regions of movement kinds, and the check of their kernels against the operators' NumPy references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import interpreted
import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops import infer
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.targets.base import Implementation, Params, Tactic
from whet.targets.cuda import TACTICS
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import Gpu, typical

H100 = typical((9, 0))


def movement(kind: str, inputs: Sequence[Tensor], attrs: dict[str, Any], output: Tensor | None = None,
             dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    """A region of one anchor; `output` only where it is not dense."""
    attrs = dict(attrs)
    specs = infer(kind, [Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(inputs)], attrs)
    dense = [Tensor.dense(d, s) for d, s in specs]
    return Region(kind, attrs, tuple(inputs), len(inputs), output or dense[0], dense[0], extra_outputs=tuple(dense[1:]),
                  dims=dims or {})


def implementations(r: Region, machine: Gpu = H100, most: int = 1) -> list[tuple[Tactic, Params, Implementation]]:
    """The first `most` settings of every tactic that applies to the region. AssertionError where none does."""
    found = []
    reasons = []
    for tactic in TACTICS[r.kind]:
        reason = tactic.applies(r, machine)
        reasons.append(reason)
        if not reason:
            space = list(tactic.space(r, machine, 1))
            assert 0 < len(space) <= 24
            assert json.loads(json.dumps(space)) == space
            assert all(tactic.cost(r, p, machine, 1) > 0 for p in space)
            found += [(tactic, p, tactic.implement(r, p, machine, 1)) for p in space[:most]]
    assert found, f"no tactic takes the region: {reasons}"
    return found


def check(r: Region, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None, tolerance: float = 0.0,
          most: int = 1, runner: Any = interpreted.run) -> None:
    """Every tactic's kernels give the reference's bits (NaN has any), or within `tolerance`, relative to 1 or more."""
    want = region_reference(r, arrays, env)
    for tactic, params, made in implementations(r, most=most):
        got = runner(r, made, arrays, env)
        for g, w in zip(got, want, strict=True):
            same(g, w, tolerance, f"{tactic.name} {params}")


def same(g: np.ndarray, w: np.ndarray, tolerance: float, what: str) -> None:
    assert (g.dtype, g.shape) == (w.dtype, w.shape), what
    if DType.of(w.dtype).is_float:
        a, b = (x.astype(np.float64) for x in (g, w))
        with np.errstate(all="ignore"):
            near = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tolerance * np.maximum(np.abs(b), 1))
        assert near.all(), f"{what}: {(~near).sum()} of {near.size} differ: {a[~near][:5]} should be {b[~near][:5]}"
    else:
        assert g.tobytes() == w.tobytes(), what


def compiles(r: Region, numbers: Sequence[int] = (80, 90), most: int = 1) -> None:
    """Every kernel of every tactic compiles for these capabilities."""
    for _, _, made in implementations(r, most=most):
        for step in made.steps:
            for n in numbers:
                assert len(to_object(step.kernel.code, n)) > 500


def values(d: DType, shape: Sequence[Any], seed: int = 0) -> np.ndarray:
    """Numbers of a type; floats with NaN and infinities among them."""
    rng = np.random.default_rng(seed)
    if d is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if not d.is_float:
        return rng.integers(0, 2 if d.bits < 8 else 100, shape).astype(d.np)
    x = rng.normal(0, 2, shape)
    for special in (np.nan, np.inf, -np.inf, -0.0):
        x[rng.random(shape) < 0.03] = special
    return x.astype(d.np)


def indices(shape: Sequence[Any], n: Any, dtype: DType = DType.I64, seed: int = 1) -> np.ndarray:
    """Indices in [-n, n)."""
    return np.random.default_rng(seed).integers(-n, n, shape).astype(dtype.np)


def strided(d: DType, shape: Sequence[int], row: int) -> Tensor:
    """Rows that are `row` elements apart."""
    inner = Tensor.dense(d, (*shape[:-2], shape[-2], row))
    return Tensor(d, tuple(shape), inner.strides)
