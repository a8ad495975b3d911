"""Resizing on GPUs: every mode, coordinate transformation and rounding gives the reference."""

from __future__ import annotations

from dataclasses import replace

import movement_regions
import numpy as np
import pytest
from movement_regions import H100, compiles, movement, strided, values

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.ops_resize import COORDINATES, ROUNDINGS
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate, symbol
from whet.targets.cuda.resize import Resize

F = DType.F32


def check(r: Region, env=None, most=1) -> None:
    x = r.inputs[0]
    shape = [evaluate(d, env or {}) for d in x.shape]
    a = np.random.default_rng(3).normal(0, 2, shape) if x.dtype.is_float else values(x.dtype, shape)
    tolerance = {DType.BF16: 1e-2, DType.F16: 2e-3, DType.F64: 1e-13}.get(x.dtype, 2e-6)
    movement_regions.check(r, [a.astype(x.dtype.np)], env, tolerance, most)


def resize(x: Tensor, shape, mode, **more) -> Region:
    keep = {k: more.pop(k) for k in ("output", "dims") if k in more}
    return movement("resize", [x], {"shape": shape, "mode": mode, **more}, **keep)


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_in_every_coordinate_system(mode, coordinate):
    for shape, out in (((2, 7, 9), (2, 14, 11)), ((5, 6), (1, 13))):
        check(resize(Tensor.dense(F, shape), out, mode, coordinate=coordinate))
    scales = (None, 2.0, 1.7, None)
    check(resize(Tensor.dense(F, (1, 5, 8, 3)), (1, 10, 13, 3), mode, coordinate=coordinate, scales=scales))
    if mode == "cubic":
        check(resize(Tensor.dense(F, (5, 6)), (9, 13), mode, coordinate=coordinate, exclude_outside=True,
                     cubic_coeff_a=-0.5))


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_in_every_coordinate_system_and_rounding(rounding, coordinate):
    for shape, out, scales in (((9, 7, 19), (6, 3, 19), ()), ((1, 3, 10), (1, 3, 15), (None, 1.0, 1.5))):
        check(resize(Tensor.dense(F, shape), out, "nearest", coordinate=coordinate, rounding=rounding, scales=scales))


@pytest.mark.parametrize("d", [DType.U8, DType.BF16, DType.F32, DType.I64, DType.BOOL], ids=lambda d: d.value)
def test_nearest_moves_every_type(d):
    for shape, out in (((3, 5, 33), (6, 10, 33)), ((2, 5, 11), (2, 10, 22)), ((7,), (7,)), ((3, 4), (0, 4))):
        movement_regions.check(resize(Tensor.dense(d, shape), out, "nearest"), [values(d, shape)])


@pytest.mark.parametrize("d", [DType.F64, DType.BF16, DType.F16, DType.U8, DType.I8, DType.I32], ids=lambda d: d.value)
def test_interpolation_of_every_type(d):
    check(resize(Tensor.dense(d, (1, 5, 7, 9)), (1, 8, 12, 9), "linear" if d.size > 1 else "cubic"))


def test_volumes_strides_and_slices():
    check(resize(Tensor.dense(F, (2, 3, 4, 5, 6)), (2, 3, 8, 7, 9), "linear"))
    check(resize(strided(F, (4, 5, 6), 9), (8, 7, 6), "linear"))
    for mode in ("linear", "nearest"):
        check(resize(Tensor(F, (2, 5, 7, 3), (105, 7, 1, 35)), (2, 10, 9, 3), mode))
    check(resize(Tensor.dense(F, (4, 5, 6)), (8, 7, 6), "linear", output=strided(F, (8, 7, 6), 11)))


@pytest.mark.parametrize(("mode", "coordinate"), [("nearest", "half_pixel"), ("cubic", "asymmetric"),
                                                  *(("linear", c) for c in COORDINATES)])
def test_symbolic_sizes(mode, coordinate):
    b, h, w = symbol("b"), symbol("h"), symbol("w")
    dims = {"b": (0, 1, 4), "h": (1, 8, 40), "w": (1, 8, 400)}
    last = Tensor.dense(F, (b, 2, h, w))
    rs = [resize(Tensor.dense(F, (b, h, w, 5)), (b, h * 2, w * 3, 5), mode, coordinate=coordinate, dims=dims,
                 scales=(None, 2.0, 3.0, None)),
          resize(last, (b, 2, 2 * h, (w + 1) // 2), mode, coordinate=coordinate, dims=dims, exclude_outside=True),
          resize(last, (b, 2, 9, 20), mode, coordinate=coordinate, dims=dims, rounding="ceil")]
    check(rs[0], {"b": 0, "h": 2, "w": 3})
    for r, h_, w_ in zip(rs, (2, 1, 5), (3, 1, 17)):
        check(r, {"b": 1, "h": h_, "w": w_})


def fine(x: Tensor, shape, mode, **more) -> Region:
    return resize(x, shape, mode, antialias=True, **more)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [False, True])
def test_antialiasing_along_one_axis(mode, exclude):
    for shape, out in (((2, 20, 33), (2, 7, 33)), ((3, 20), (3, 5)), ((3, 7), (3, 20)), ((4, 0), (4, 0)),
                       ((3, 9), (3, 0)), ((5, 6), (5, 6))):
        check(fine(Tensor.dense(F, shape), out, mode, exclude_outside=exclude, cubic_coeff_a=-0.5))
    check(fine(Tensor.dense(DType.U8, (2, 17, 9)), (2, 8, 9), mode))
    n, m = symbol("n"), symbol("m")
    r = fine(Tensor.dense(F, (n, 3)), (m, 3), mode, exclude_outside=exclude, dims={"n": (1, 9, 50), "m": (0, 5, 50)})
    for env in ({"n": 20, "m": 7}, {"n": 9, "m": 0}):
        check(r, env)
    assert "one axis" in Resize().applies(fine(Tensor.dense(F, (30, 40)), (3, 4), mode), H100)


def test_bytes_are_read_as_float_and_an_expression_follows():
    r = resize(Tensor.dense(DType.U8, (1, 6, 6, 3)), (1, 4, 5, 3), "linear", dtype=F)
    check(r)
    half = Expr((Leaf(ANCHOR, F), Imm(0.5, F), Apply("mul", (0, 1), F), Apply("cast", (2,), DType.F16,
                                                                           (("to", DType.F16),))))
    check(replace(r, epilogue=half, output=Tensor.dense(DType.F16, r.output.shape), inputs=r.inputs))
    boolean = resize(Tensor.dense(DType.BOOL, (3, 4)), (6, 8), "linear")
    assert "booleans" in Resize().applies(boolean, H100)


def test_it_compiles():
    h = symbol("h")
    compiles(resize(Tensor.dense(DType.F16, (1, 64, 20, 20)), (1, 64, 40, 40), "nearest"), [80])
    x = Tensor.dense(DType.BF16, (1, 20, h, 64))
    compiles(resize(x, (1, 40, 2 * h, 64), "linear", dims={"h": (1, 5, 9)}), [90])
    compiles(fine(Tensor.dense(DType.U8, (h, 64)), (9, 64), "cubic", dims={"h": (1, 50, 99)}), [90])
