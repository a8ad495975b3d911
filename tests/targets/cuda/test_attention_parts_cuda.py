"""Attention with its projection by heads, in the interpreter and compiled, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")
from attention_regions import BF16, F16, arrays_of, projected, region

from targets.cuda import interpreted
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.targets.base import Implementation
from whet.targets.cuda.attention_parts import AttentionParts
from whet.targets.cuda.gpu import typical

H100 = typical((9, 0))
TACTIC = AttentionParts()


def parts(h: int, s: int, t: int, d: int, e: int, n: int, mask: Tensor | None = None, b: int = 1, dtype: DType = F16,
          const: bool = True, **more: Any) -> Region:
    """Attention of h heads, and their rows of weights [h, e, n]."""
    compute = "bf16" if dtype is BF16 else "f16"
    return projected(region(b, h, h, s, t, d, e, mask, dtype=dtype, compute=compute, **more), n, const)


def made(r: Region, rows: int = 16, keys: int = 16, bn: int = 64, across: int = 1) -> Implementation:
    assert TACTIC.applies(r, H100) == ""
    f = {"rows": rows, "keys": keys, "bn": bn, "across": across, "warps": 4, "stages": 2}
    return TACTIC.implement(r, f, H100, 1)


def given(r: Region) -> list[np.ndarray]:
    arrays = arrays_of(r, {})
    arrays[3] = (arrays[3] / 8).astype(arrays[3].dtype)
    return arrays


def check(run, r: Region, made: Implementation, arrays: list[np.ndarray] | None = None) -> np.ndarray:
    """Run and compare; the result."""
    arrays = arrays or given(r)
    wide = [a.astype(np.float64) if DType.of(a.dtype).is_float else a for a in arrays]
    ideal = replace(r, compute="f32", anchor=Tensor.dense(DType.F64, r.anchor.shape),
                    inputs=tuple(replace(t, dtype=DType.F64) if t.dtype.is_float else t for t in r.inputs))
    with np.errstate(all="ignore"):
        want = region_reference(ideal, wide)[0]
        got = run(r, made, arrays)[0]
    tolerance = {"f16": 2e-3, "bf16": 1.6e-2}[r.compute]
    np.testing.assert_allclose(got, want, rtol=4 * tolerance, atol=2 * tolerance)
    return got


SIZES = [(2, 17, 33, 16, 16, 72), (3, 33, 17, 64, 64, 8), (2, 1, 40, 24, 80, 130), (1, 18, 20, 8, 3, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("how", [(16, 16, 64, 1), (32, 64, 64, 2), (64, 64, 128, 1)], ids=str)
def test_sizes_that_divide_nothing(size: tuple, how: tuple) -> None:
    r = parts(*size)
    check(interpreted.run, r, made(r, *how))
