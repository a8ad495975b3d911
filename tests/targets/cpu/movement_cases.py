"""Regions of movement kinds, and the check of their kernels against the operators' NumPy references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from harness import run_region

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops import OPS, infer
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.targets.base import Tactic
from whet.targets.cpu.isa import AVX2, host
from whet.targets.cpu.movement import TACTICS

ISAS = [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")]
BYTES = [DType.U8, DType.BF16, DType.F32, DType.I64]  # one type of each size


def movement(kind: str, inputs: Sequence[Tensor], attrs: dict[str, Any], output: Tensor | None = None,
             dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    """A region of one anchor; `output` only where it is not dense."""
    attrs = dict(attrs)
    specs = infer(kind, [Value(f"x{i}", t.dtype, t.shape) for i, t in enumerate(inputs)], attrs)
    dense = [Tensor.dense(d, s) for d, s in specs]
    return Region(kind, attrs, tuple(inputs), len(inputs), output or dense[0], dense[0], extra_outputs=tuple(dense[1:]),
                  dims=dims or {})


def tactic(kind: str) -> Tactic:
    (only,) = TACTICS[kind]
    return only


def run(r: Region, isa: Any, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None) -> list[np.ndarray]:
    return run_region(r, tactic(r.kind), {}, isa, arrays, env)


def check(r: Region, isa: Any, arrays: Sequence[np.ndarray], env: Mapping[str, int] | None = None,
          nan_bits: bool = True) -> None:
    """The kernel gives the reference's bits; of NaN only where asked for."""
    got = run(r, isa, arrays, env)
    want = region_reference(r, arrays, env)
    assert r.kind in OPS
    for g, w in zip(got, want, strict=True):
        if g.dtype != bool and not nan_bits:
            g, w = (np.where(a == a, a, np.array(np.nan).astype(a.dtype)) if a.dtype.kind not in "iu" else a
                    for a in (g, w))
        np.testing.assert_array_equal(bits(g), bits(w))


def bits(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(np.dtype(f"u{a.dtype.itemsize}")) if a.dtype != bool else a


def values(d: DType, shape: Sequence[Any], seed: int = 0) -> np.ndarray:
    """Numbers of a type; floats with NaN and infinities among them."""
    rng = np.random.default_rng(seed)
    if d is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if not d.is_float:
        return rng.integers(0, 100, shape).astype(d.np)
    x = rng.normal(0, 2, shape)
    for special in (np.nan, np.inf, -np.inf, -0.0):
        x[rng.random(shape) < 0.03] = special
    return x.astype(d.np)


def indices(shape: Sequence[Any], n: Any, dtype: DType = DType.I64, seed: int = 1) -> np.ndarray:
    """Indices in [-n, n)."""
    return np.random.default_rng(seed).integers(-n, n, shape).astype(dtype.np)
