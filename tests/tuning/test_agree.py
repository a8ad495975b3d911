"""A candidate that computes something else than the others is wrong, however fast it is."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.tuning.agree import difference, dissenters

RNG = np.random.default_rng(0)


def region(dtype: DType = DType.F32, compute: str = "f32") -> Region:
    t = Tensor.dense(dtype, (64,))
    return Region("softmax", {}, (t,), 1, t, t, compute=compute)


GOOD = RNG.standard_normal(64).astype(np.float32)


def test_the_one_that_differs_is_named() -> None:
    found = dissenters(region(), [[GOOD], [GOOD * 1.5], None, [GOOD * (1 + 1e-6)], [GOOD]])
    assert list(found) == [1]
    assert "differs from 3 others" in found[1]


def test_with_two_alone_the_first_is_right() -> None:
    assert list(dissenters(region(), [[GOOD], [-GOOD]])) == [1]
    assert dissenters(region(), [[GOOD], None]) == {}
    assert dissenters(region(), []) == {}


def test_one_wrong_value_is_enough() -> None:
    off = GOOD.copy()
    off[63] += 1
    assert difference(region(), [GOOD], [off])
    unwritten = GOOD.copy()
    unwritten[5] = np.nan
    assert difference(region(), [GOOD], [unwritten])


@pytest.mark.parametrize(("dtype", "compute", "noise", "same"), [
    (np.float32, "f32", 1e-4, True), (np.float32, "f32", 1e-2, False), (np.float32, "f16", 5e-3, True),
    (np.float32, "tf32", 5e-3, True), (np.float16, "f16", 5e-3, True), (np.float16, "f16", 0.2, False),
    (ml_dtypes.bfloat16, "bf16", 1e-2, True), (ml_dtypes.bfloat16, "bf16", 0.5, False),
    (ml_dtypes.float8_e4m3fn, "f8", 0.05, True)])
def test_rounding_is_no_difference(dtype: type, compute: str, noise: float, same: bool) -> None:
    r = region(DType.of(np.dtype(dtype)), compute)
    most = float(np.abs(GOOD).max())
    other = GOOD + noise * most * np.sign(RNG.standard_normal(64))
    assert (difference(r, [GOOD.astype(dtype)], [other.astype(dtype)]) == "") == same


def test_codes_may_round_either_way_and_integers_may_not() -> None:
    codes = RNG.integers(-100, 100, 64).astype(np.int8)
    assert not difference(region(DType.I8, "int8"), [codes], [codes + np.int8(1)])
    assert difference(region(DType.I8, "int8"), [codes], [codes + np.int8(2)])
    sums = codes.astype(np.int32)
    assert difference(region(DType.I32, "int8"), [sums], [sums + 1])
    flags = codes > 0
    assert difference(replace(region(DType.BOOL)), [flags], [~flags])


def test_infinities_are_compared_by_place() -> None:
    x = GOOD.copy()
    x[:8] = np.inf
    assert not difference(region(), [x], [x.copy()])
    assert difference(region(), [x], [GOOD])
    assert not difference(region(), [np.full(4, np.nan, np.float32)], [np.full(4, np.nan, np.float32)])
