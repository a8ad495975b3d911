"""Scatters and running sums on GPUs: every reduction, updates that meet, nothing placed outside."""

from __future__ import annotations

import interpreted
import numpy as np
import pytest
from movement_regions import H100, check, compiles, implementations, indices, movement, strided, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cuda.scatter import Scatter

F, I64 = DType.F32, DType.I64
REDUCTIONS = ["none", "add", "mul", "max", "min"]


def nd_arrays(d, shape, of):
    i = np.stack([indices(of[:-1], shape[c], seed=c) for c in range(of[-1])], -1)
    return [values(d, shape), i, values(d, of[:-1] + shape[of[-1]:], 5)]


def nd(d, shape, of, reduction, **more):
    tensors = [Tensor.dense(d, shape), Tensor.dense(I64, of), Tensor.dense(d, of[:-1] + shape[of[-1]:])]
    return movement("scatter_nd", tensors, {"reduction": reduction}, **more)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("shape", "of"), [((5, 7, 9), (4, 3)), ((5, 33), (20, 1)), ((5, 7, 9), (2, 6, 2)),
                                           ((6,), (90, 1)), ((5, 7), (0, 1)), ((5, 7), (1, 1))])
def test_scatter_nd(shape, of, reduction):
    for d in (F, I64) if of == (20, 1) else (F,):
        check(nd(d, shape, of, reduction), nd_arrays(d, shape, of), tolerance=1e-6)


@pytest.mark.parametrize(("axis", "reduction"), [(0, "none"), (0, "mul"), (1, "max"), (2, "min"), (2, "add")])
def test_scatter_elements(axis, reduction):
    of = [2, 3, 4]
    of[axis] = 17
    for shape in (tuple(of), (2, 2, 3)):
        x, u = Tensor.dense(F, (2, 3, 4)), Tensor.dense(F, shape)
        r = movement("scatter_elements", [x, Tensor.dense(DType.I32, shape), u], {"axis": axis, "reduction": reduction})
        arrays = [values(F, x.shape), indices(shape, x.shape[axis], DType.I32), values(F, shape, 7)]
        check(r, arrays, tolerance=1e-6)


@pytest.mark.parametrize("d", [DType.U8, DType.BF16, DType.F16, DType.BOOL, DType.F64], ids=lambda d: d.value)
def test_every_type(d):
    check(nd(d, (5, 7, 9), (4, 2), "none"), nd_arrays(d, (5, 7, 9), (4, 2)))
    if d is not DType.BOOL:
        arrays = [values(d, (5, 40)), np.array([[3], [-5], [1], [3]]), values(d, (4, 40), 5)]
        for reduction in (("add", "max")[d.size % 2],):
            check(nd(d, (5, 40), (4, 1), reduction), arrays, tolerance=1e-15)


def test_strides_and_symbolic_sizes():
    x, u, i = values(F, (6, 19)), values(F, (9, 19), 3), indices((9, 1), 6)
    for xt, ut, out in ((strided(F, (6, 19), 22), strided(F, (9, 19), 20), strided(F, (6, 19), 23)),
                        (Tensor(F, (6, 19), (1, 6)), Tensor(F, (9, 19), (1, 9)), None)):
        for reduction in ("none", "add"):
            r = movement("scatter_nd", [xt, Tensor.dense(I64, (9, 1)), ut], {"reduction": reduction}, output=out)
            check(r, [x, i, u], tolerance=1e-6)
    b, s = symbol("b"), symbol("s")
    dims = {"b": (0, 2, 9), "s": (0, 16, 300)}
    r = movement("scatter_nd", [Tensor.dense(F, (b, s)), Tensor.dense(I64, (b, 1)), Tensor.dense(F, (b, s))],
                 {"reduction": "add"}, dims=dims)
    e = movement("scatter_elements", [Tensor.dense(F, (b, s)), Tensor.dense(I64, (b, 4)), Tensor.dense(F, (b, 4))],
                 {"axis": 1}, dims=dims)
    for n, w in ((1, 1), (3, 11), (0, 5)):
        env = {"b": n, "s": w}
        check(r, [values(F, (n, w)), indices((n, 1), n) if n else np.zeros((0, 1), np.int64), values(F, (n, w), 2)],
              env, tolerance=1e-6)
        check(e, [values(F, (n, w)), indices((n, 4), w), values(F, (n, 4), 2)], env)


def test_a_place_outside_becomes_the_nearest_and_booleans_are_not_reduced():
    r = nd(F, (4,), (3, 1), "none")
    arrays = [np.zeros(4, np.float32), np.array([[9], [-2**40], [-2]]), np.array([1, 2, 3], np.float32)]
    (got,) = interpreted.run(r, implementations(r)[0][2], arrays)
    np.testing.assert_array_equal(got, [2, 0, 3, 1])
    assert "booleans" in Scatter().applies(nd(DType.BOOL, (4,), (3, 1), "add"), H100)


def cumsum(x, axis, exclusive=False, reverse=False, kind="cumsum", tolerance=1e-5, **more) -> None:
    r = movement(kind, [x], {"axis": axis, "exclusive": exclusive, "reverse": reverse}, **more)
    a = values(x.dtype, x.shape)
    check(r, [np.where(np.isfinite(a.astype(np.float64)), a, 1).astype(a.dtype)], tolerance=tolerance, most=2)


@pytest.mark.parametrize(("exclusive", "reverse"), [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize(("shape", "axis"), [
    ((1,), 0), ((5, 33), 0), ((5, 33), 1), ((3, 0, 5), 1), ((3, 5, 0), 1), ((2, 90, 3), 1)])
def test_running_sums_along_any_axis(shape, axis, exclusive, reverse):
    cumsum(Tensor.dense(F, shape), axis, exclusive, reverse)


@pytest.mark.parametrize(("d", "tolerance"), [(DType.F64, 1e-13), (DType.BF16, 1e-2), (DType.F16, 1e-3), (DType.I64, 0),
                                              (DType.I32, 0), (DType.U8, 0), (DType.U64, 0)])
def test_running_sums_of_every_type(d, tolerance):
    cumsum(Tensor.dense(d, (3, 9, 40)), 1, tolerance=tolerance)
    cumsum(Tensor.dense(d, (3, 9)), 1, exclusive=True, kind="cumprod", tolerance=2 * tolerance, reverse=True)


def test_running_sums_with_strides_and_symbolic_sizes():
    cumsum(strided(F, (4, 19), 22), 0)
    cumsum(Tensor(F, (4, 19), (1, 4)), 0)
    cumsum(Tensor.dense(F, (4, 19)), 0, output=strided(F, (4, 19), 21))
    b, s = symbol("b"), symbol("s")
    for axis in (0, 1):
        r = movement("cumsum", [Tensor.dense(I64, (b, s))], {"axis": axis}, dims={"b": (0, 2, 9), "s": (0, 16, 300)})
        for env in ({"b": 1, "s": 1}, {"b": 0, "s": 3}, {"b": 5, "s": 131}):
            check(r, [values(I64, (env["b"], env["s"]))], env)


def test_not_a_number_stays_and_infinity_is_not_subtracted():
    for exclusive in (False, True):
        r = movement("cumsum", [Tensor.dense(F, (6, 150))], {"axis": 1, "exclusive": exclusive})
        x = np.ones((6, 150), np.float32)
        x[1, 70], x[2, 3], x[3, 149] = np.nan, np.inf, -np.inf
        check(r, [x], most=9)


def test_it_compiles():
    compiles(nd(DType.F16, (5, 7, 64), (20, 1), "add"), [90])
    dims = {"s": (0, 16, 300)}
    s = symbol("s")
    compiles(movement("scatter_elements", [Tensor.dense(F, (4, s)), Tensor.dense(I64, (4, s)), Tensor.dense(F, (4, s))],
                      {"axis": 1}, dims=dims), [90])
    compiles(movement("cumsum", [Tensor.dense(DType.F16, (4, s))], {"axis": 1, "exclusive": True}, dims=dims), [80])
