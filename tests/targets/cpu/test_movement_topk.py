"""The greatest and least elements: the reference's choice and order, of equal elements the first, NaN above all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import run_region, strided
from movement_cases import ISAS, bits, movement, tactic, values

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cpu.isa import host

F = DType.F32
METHODS = ["list", "radix"]


def check(r: Region, isa: Any, x: np.ndarray, method: str, env: dict[str, int] | None = None) -> None:
    got = run_region(r, tactic("topk"), {"method": method}, isa, [x], env)
    want = region_reference(r, [x], env)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(bits(got[0]), bits(want[0]))


def topk(x: Tensor, k: Any, axis: int = -1, largest: bool = True, **more: Any) -> Region:
    return movement("topk", [x], {"k": k, "axis": axis, "largest": largest}, **more)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize(("shape", "k", "axis"), [
    ((1,), 1, 0), ((5, 100), 5, 1), ((5, 33), 33, 1), ((7, 9, 20), 3, 0), ((7, 9, 20), 9, 1), ((3, 1000), 40, -1),
    ((2, 5), 0, 1), ((0, 5), 2, 1), ((17,), 1, 0)])
def test_any_axis(shape: tuple[int, ...], k: int, axis: int, largest: bool, method: str, isa: Any) -> None:
    check(topk(Tensor.dense(F, shape), k, axis, largest), isa, values(F, shape), method)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("d", [d for d in DType if d.is_float or d.is_integer])
def test_every_type(d: DType, method: str, isa: Any) -> None:
    x = values(d, (3, 150))
    if d.is_integer:
        ends = np.iinfo(d.np)
        x[0] = np.random.default_rng(1).integers(ends.min, ends.max, 150, d.np, endpoint=True)
        x[1, 7], x[1, 9] = ends.min, ends.max
    for largest in (False, True):
        check(topk(Tensor.dense(d, x.shape), 20, 1, largest), isa, x, method)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", METHODS)
def test_of_equal_elements_the_first_is_taken(method: str, isa: Any) -> None:
    x = np.random.default_rng(0).integers(0, 3, (4, 200)).astype(np.float32)
    x[1], x[2] = -np.inf, np.where(x[2] > 1, -0.0, 0.0)
    x[3, ::3] = np.nan
    for k in (1, 70, 200):
        for largest in (False, True):
            check(topk(Tensor.dense(F, x.shape), k, 1, largest), isa, x, method)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", METHODS)
def test_strides_and_symbolic_sizes(method: str, isa: Any) -> None:
    for t in (strided(F, (4, 50), 3), Tensor(F, (4, 50), (1, 4))):
        check(topk(t, 7), isa, values(F, t.shape), method)
    out = strided(F, (4, 7), 2)
    check(topk(Tensor.dense(F, (4, 50)), 7, output=out), isa, values(F, (4, 50)), method)
    b, s = symbol("b"), symbol("s")
    r = topk(Tensor.dense(F, (b, s, 3)), (s + 1) // 2, 1, dims={"b": (0, 2, 9), "s": (0, 16, 300)})
    for env in ({"b": 1, "s": 1}, {"b": 0, "s": 3}, {"b": 5, "s": 131}, {"b": 2, "s": 0}):
        check(r, isa, values(F, (env["b"], env["s"], 3)), method, env)


def test_the_method_fits_the_sizes() -> None:
    t = tactic("topk")
    few, most = topk(Tensor.dense(F, (1000,)), 5), topk(Tensor.dense(F, (5000,)), 5000)
    assert [p["method"] for p in t.space(few, host(), 2)] == ["list", "radix"]
    assert [p["method"] for p in t.space(most, host(), 2)] == ["radix"]
    assert "too long" in t.applies(topk(Tensor.dense(F, (1 << 23,)), 5000), host())
