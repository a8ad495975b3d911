"""Resizing: every mode, coordinate transformation and rounding gives exactly the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import BYTES, ISAS, check, movement, run, tactic, values

from whet.ir.dtypes import DType
from whet.ir.ops_resize import COORDINATES, ROUNDINGS
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import evaluate, symbol
from whet.targets.cpu.isa import host

F = DType.F32


def close(r: Region, isa: Any, env: Mapping[str, int] | None = None) -> None:
    x = r.inputs[0]
    shape = [evaluate(d, env or {}) for d in x.shape]
    a = np.random.default_rng(3).normal(0, 2, shape) if x.dtype.is_float else values(x.dtype, shape)
    a = a.astype(x.dtype.np)
    got = run(r, isa, [a], env)[0]
    want = region_reference(r, [a], env)[0]
    if x.dtype.is_float:
        tol = {DType.BF16: 1e-2, DType.F16: 2e-3}.get(x.dtype, 0)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tol, atol=tol)
    else:
        np.testing.assert_array_equal(got, want)


def resize(x: Tensor, shape: tuple[Any, ...], mode: str, **more: Any) -> Region:
    keep = {k: more.pop(k) for k in ("output", "dims") if k in more}
    return movement("resize", [x], {"shape": shape, "mode": mode, **more}, **keep)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_in_every_coordinate_system(mode: str, coordinate: str, isa: Any) -> None:
    for shape, out in (((2, 3, 7, 9), (2, 3, 14, 21)), ((2, 7, 9, 19), (2, 5, 4, 19)), ((5, 6), (1, 13))):
        close(resize(Tensor.dense(F, shape), out, mode, coordinate=coordinate), isa)
    scales = (None, 2.0, 1.7, None)
    close(resize(Tensor.dense(F, (1, 5, 8, 20)), (1, 10, 13, 20), mode, coordinate=coordinate, scales=scales), isa)
    if mode == "cubic":
        close(resize(Tensor.dense(F, (5, 6)), (9, 13), mode, coordinate=coordinate, exclude_outside=True,
                     cubic_coeff_a=-0.5), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_in_every_coordinate_system_and_rounding(rounding: str, coordinate: str, isa: Any) -> None:
    for shape, out, scales in (((2, 3, 6, 9), (2, 3, 12, 27), ()), ((2, 9, 7, 19), (2, 6, 3, 19), ()),
                               ((1, 3, 10), (1, 3, 15), (None, 1.0, 1.5))):
        r = resize(Tensor.dense(F, shape), out, "nearest", coordinate=coordinate, rounding=rounding, scales=scales)
        check(r, isa, [values(F, shape)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [*BYTES, DType.BOOL, DType.F64])
def test_nearest_moves_every_type(d: DType, isa: Any) -> None:
    for shape, out in (((3, 5, 33), (6, 10, 33)), ((2, 5, 11), (2, 10, 22)), ((7,), (7,)), ((3, 4), (0, 4))):
        check(resize(Tensor.dense(d, shape), out, "nearest"), isa, [values(d, shape)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.F64, DType.BF16, DType.F16, DType.U8, DType.I8, DType.I32])
def test_interpolation_of_every_type(d: DType, isa: Any) -> None:
    for mode in ("linear", "cubic"):
        close(resize(Tensor.dense(d, (2, 5, 7, 9)), (2, 8, 12, 9), mode), isa)
        close(resize(Tensor.dense(d, (2, 5, 7)), (2, 8, 12), mode), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_volumes_strides_and_slices(isa: Any) -> None:
    close(resize(Tensor.dense(F, (2, 3, 4, 5, 6)), (2, 3, 8, 7, 9), "linear"), isa)
    close(resize(strided(F, (4, 5, 6), 3), (8, 7, 6), "linear"), isa)
    close(resize(Tensor(F, (2, 5, 7, 3), (105, 7, 1, 35)), (2, 10, 9, 3), "linear"), isa)
    close(resize(Tensor(F, (2, 5, 7, 3), (105, 7, 1, 35)), (2, 10, 9, 3), "nearest"), isa)
    close(resize(Tensor.dense(F, (4, 5, 6)), (8, 7, 6), "linear", output=strided(F, (8, 7, 6), 5)), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinate", COORDINATES)
def test_symbolic_sizes(mode: str, coordinate: str, isa: Any) -> None:
    b, h, w = symbol("b"), symbol("h"), symbol("w")
    dims = {"b": (0, 1, 4), "h": (1, 8, 40), "w": (1, 8, 400)}
    x = Tensor.dense(F, (b, h, w, 5))
    last = Tensor.dense(F, (b, 3, h, w))
    rs = [resize(x, (b, h * 2, w * 3, 5), mode, coordinate=coordinate, dims=dims, scales=(None, 2.0, 3.0, None)),
          resize(last, (b, 3, 2 * h, (w + 1) // 2), mode, coordinate=coordinate, dims=dims, exclude_outside=True),
          resize(last, (b, 3, 9, 270), mode, coordinate=coordinate, dims=dims, rounding="ceil")]
    for env in ({"b": 1, "h": 1, "w": 1}, {"b": 0, "h": 2, "w": 3}, {"b": 2, "h": 5, "w": 17}):
        for r in rs:
            close(r, isa, env)


def test_booleans_are_not_interpolated() -> None:
    r = resize(Tensor.dense(DType.BOOL, (3, 4)), (6, 8), "linear")
    assert "booleans" in tactic("resize").applies(r, host())
