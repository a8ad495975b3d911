"""Resizing with antialiasing, of bytes read as float, and with an expression behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import ISAS, movement, run, tactic, values

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import evaluate, symbol
from whet.targets.cpu.isa import host

F = DType.F32


def same(r: Region, isa: Any, env: Mapping[str, int] | None = None) -> None:
    x = r.inputs[0]
    shape = [evaluate(d, env or {}) for d in x.shape]
    a = np.random.default_rng(3).normal(0, 2, shape) if x.dtype.is_float else values(x.dtype, shape)
    a = a.astype(x.dtype.np)
    got, want = run(r, isa, [a], env)[0], region_reference(r, [a], env)[0]
    tol = {DType.BF16: 1e-2, DType.F16: 2e-3}.get(r.output.dtype, 1e-6)
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tol, atol=tol)


def resize(x: Tensor, shape: tuple[Any, ...], mode: str, **more: Any) -> Region:
    keep = {k: more.pop(k) for k in ("output", "dims") if k in more}
    return movement("resize", [x], {"shape": shape, "mode": mode, "antialias": True, **more}, **keep)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [False, True])
def test_one_axis_with_a_filter_as_wide_as_it_shrinks(mode: str, exclude: bool, isa: Any) -> None:
    for shape, out in (((2, 3, 40, 33), (2, 3, 7, 33)), ((2, 3, 5, 90), (2, 3, 5, 11)), ((2, 50, 9, 3), (2, 13, 9, 3)),
                       ((2, 5, 50, 3), (2, 5, 13, 3)), ((3, 7), (3, 20)), ((30, 70), (1, 70)), ((4, 0), (4, 0)),
                       ((3, 9), (3, 0)), ((5, 6), (5, 6))):
        same(resize(Tensor.dense(F, shape), out, mode, exclude_outside=exclude, cubic_coeff_a=-0.5), isa)
    same(resize(Tensor.dense(F, (2, 3, 40, 9)), (2, 3, 24, 9), mode, scales=(None, None, 0.6, None)), isa)
    same(resize(strided(F, (40, 6), 3), (7, 6), mode), isa)
    same(resize(Tensor(F, (2, 50, 7, 3), (1050, 7, 1, 350)), (2, 9, 7, 3), mode), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.F64, DType.BF16, DType.F16, DType.U8, DType.I32])
def test_antialiasing_of_every_type(d: DType, isa: Any) -> None:
    same(resize(Tensor.dense(d, (2, 37, 9)), (2, 8, 9), "linear"), isa)
    same(resize(Tensor.dense(d, (2, 5, 70)), (2, 5, 22), "cubic"), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_sizes_that_only_the_run_tells(mode: str, isa: Any) -> None:
    h, w = symbol("h"), symbol("w")
    dims = {"h": (1, 100, 400), "w": (1, 100, 400)}
    x = Tensor.dense(F, (3, h, w, 3))
    rs = [resize(x, (3, 20, w, 3), mode, dims=dims, exclude_outside=True), resize(x, (3, h, 20, 3), mode, dims=dims),
          resize(Tensor.dense(F, (3, h, w)), (3, h, w // 3), mode, dims=dims)]
    for env in ({"h": 1, "w": 3}, {"h": 57, "w": 93}, {"h": 20, "w": 400}):
        for r in rs:
            same(r, isa, env)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("d", [DType.U8, DType.I8, DType.U16])
def test_bytes_are_read_as_float_and_rounded_behind(d: DType, antialias: bool, isa: Any) -> None:
    rounded = Expr((Leaf(ANCHOR, F), Apply("round", (0,), F), Imm(0.25, F), Apply("mul", (1, 2), F)))
    out = (2, 9, 21, 3)
    for shape in ((2, 30, 21, 3), (2, 9, 70, 3)):
        r = resize(Tensor.dense(d, shape), out, "linear", antialias=antialias, dtype=F)
        assert r.output.dtype is F
        assert not tactic("resize").applies(r, host())
        same(r, isa)
        same(replace(r, epilogue=rounded), isa)
    narrow = Expr((Leaf(ANCHOR, F), Apply("cast", (0,), DType.U8, (("to", DType.U8),))))
    same(replace(r, epilogue=narrow, output=Tensor.dense(DType.U8, out)), isa)


def test_what_the_kernel_does_not_take_is_said() -> None:
    r = resize(Tensor.dense(F, (30, 40)), (20, 20), "linear")
    assert "one axis at a time" in tactic("resize").applies(r, host())
    with_tensor = replace(r, inputs=(*r.inputs, r.output), epilogue=Expr((Leaf(ANCHOR, F), Leaf(1, F),
                                                                         Apply("add", (0, 1), F))))
    assert "expressions" in tactic("resize").applies(with_tensor, host())
