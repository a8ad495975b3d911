"""Reductions on GPUs: every kind, type and choice of axes; rows held, walked over, and divided among programs."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from targets.cuda.rows_cases import H100, B, D, F, H, added, check, compiles, dense, order
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.reduce import ArgExtreme, Reduce

n = symbol("n")
KINDS = ("sum", "mean", "max", "min", "prod")


def reduce(x: Tensor, kind: str, axes: tuple[int, ...], keepdims: bool = False, dtype=None, **dims) -> Region:
    axes = tuple(sorted(a % len(x.shape) for a in axes))
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keepdims or i not in axes)
    out = Tensor.dense(dtype or x.dtype, shape)
    return Region("reduce", {"kind": kind, "axes": axes, "keepdims": keepdims}, (x,), 1, out, out, dims=dims)


def arg(x: Tensor, kind: str, axis: int, last: bool = False, keepdims: bool = False) -> Region:
    axis %= len(x.shape)
    shape = tuple(1 if i == axis else d for i, d in enumerate(x.shape) if keepdims or i != axis)
    out = Tensor.dense(DType.I64, shape)
    return Region("arg", {"kind": kind, "axis": axis, "select_last": last, "keepdims": keepdims}, (x,), 1, out, out)


CASES = {
    **{kind: reduce(dense(F, 5, 33), kind, (1,)) for kind in KINDS},
    **{f"{kind} of i8": reduce(dense(DType.I8, 5, 33), kind, (1,)) for kind in KINDS},
    **{f"{kind} of bool": reduce(dense(DType.BOOL, 5, 33), kind, (1,)) for kind in ("max", "min")},
    "i64": reduce(dense(DType.I64, 5, 7), "mean", (1,)), "u64": reduce(dense(DType.U64, 5, 7), "mean", (0,)),
    "u16": reduce(dense(DType.U16, 5, 7), "prod", (1,)), "doubles": reduce(dense(D, 5, 7), "sum", (1,)),
    "halves": reduce(dense(H, 3, 50), "mean", (1,)), "bf16": reduce(dense(B, 3, 50), "max", (0,)),
    "all": reduce(dense(F, 5, 7, 9), "sum", (0, 1, 2)), "none": reduce(dense(F, 5, 7), "sum", ()),
    "first": reduce(dense(F, 20, 40), "mean", (0,)), "middle": reduce(dense(F, 3, 10, 40), "max", (1,), True),
    "apart": reduce(dense(F, 3, 4, 5, 6), "sum", (0, 2)), "pooled": reduce(dense(H, 2, 5, 7, 7), "mean", (2, 3), True),
    "pooled, channels last": reduce(order(dense(H, 2, 40, 7, 7), 0, 2, 3, 1), "mean", (2, 3)),
    "codes as numbers": reduce(dense(DType.U8, 3, 20), "mean", (1,), dtype=F),
    "fused": added(reduce(dense(F, 6, 24, 5), "sum", (1,))),
    "fused max": added(reduce(dense(H, 6, 24, 5), "max", (2,))),
    "symbolic": reduce(dense(F, n, 7, n), "sum", (2,), n=(0, 16, 40)),
    "of nothing": reduce(dense(F, 4, 0), "max", (1,)),
    "mean of nothing": reduce(dense(F, 4, 0), "mean", (1,)), "nothing": reduce(dense(F, 0, 4), "sum", (1,)),
    **{f"arg{kind}{' last' * last} {d.value}": arg(dense(d, 4, 37), kind, 1, last)
       for kind in ("max", "min") for last in (False, True) for d in (F, DType.I8)},
    "arg of halves": arg(dense(H, 3, 20, 5), "max", 1, keepdims=True), "arg of one": arg(dense(F, 3, 1), "min", 1),
    "arg of doubles": arg(dense(D, 40, 5), "max", 0),
}


def tactic(r: Region) -> Reduce:
    return ArgExtreme() if r.kind == "arg" else Reduce()


@pytest.mark.parametrize("name", CASES)
def test_right(name):
    check(tactic(CASES[name]), CASES[name], interpreted.run, {"n": 13}, some=1)


def other_ways(r: Region, run, machine) -> None:
    """Rows walked over by chunks of 4 columns, and divided among programs."""
    g = np.random.default_rng(0)
    x = [np.asarray(g.integers(-4, 4, [13 if d == n else d for d in t.shape])).astype(t.dtype.np) for t in r.inputs]
    with np.errstate(all="ignore"):
        want, = region_reference(r, x, {"n": 13})
    tol = {F: 2e-5, H: 4e-3, B: 2e-2, D: 1e-12}.get(r.output.dtype, 0)
    for params in ({"rows": 16, "cols": 8, "warps": 1}, {"rows": 16, "cols": 4, "warps": 1, "splits": 4}):
        got, = run(r, tactic(r).implement(r, params, machine, 1), x, {"n": 13})
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), tol, tol, err_msg=str(params))


@pytest.mark.parametrize("name", ["mean", "prod of i8", "max of bool", "all", "none", "first", "apart", "fused",
                                  "symbolic", "of nothing", "argmin last i8", "arg of doubles"])
def test_walked_and_divided(name):
    other_ways(CASES[name], interpreted.run, H100)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_right_on_a_gpu(name):
    r = CASES[name]
    check(tactic(r), r, on_device.run, {"n": 13}, machine=on_device.gpu(), odd=r.attrs["kind"] != "prod", some=3)
    other_ways(r, on_device.run, on_device.gpu())


@on_device.needs_cuda
@pytest.mark.parametrize("r", [reduce(dense(F, 1 << 20), "sum", (0,)), arg(dense(F, 1, 50257), "max", 1),
                               reduce(dense(H, 8, 2048, 7, 7), "mean", (2, 3)),
                               reduce(dense(F, 3000, 500), "max", (0,)),
                               reduce(order(dense(H, 1, 2048, 7, 7), 0, 2, 3, 1), "mean", (2, 3)),
                               reduce(dense(H, 5, 56, 55, 96), "mean", (1, 2)),
                               reduce(dense(F, 1, 9000, 37), "max", (1,)),
                               arg(dense(H, 2, 3000, 40), "min", 1)],
                         ids=lambda r: f"{r.kind}{r.inputs[0].shape}")
def test_large_on_a_gpu(r):
    check(tactic(r), r, on_device.run, machine=on_device.gpu())


SPECIAL = np.array([[1, np.nan, 2, np.nan], [np.inf, 1, np.inf, -np.inf], [2, 2, 1, 1], [-np.inf] * 4], np.float32)


@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("cols", [2, 4])
def test_nan_wins(kind, cols):
    for r in (reduce(dense(F, 4, 4), kind, (1,)), arg(dense(F, 4, 4), kind, 1), arg(dense(F, 4, 4), kind, 1, True)):
        made = tactic(r).implement(r, {"rows": 4, "cols": cols, "warps": 1}, H100, 1)
        np.testing.assert_array_equal(interpreted.run(r, made, [SPECIAL])[0], region_reference(r, [SPECIAL])[0])


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number):
    for name in ("max", "prod of i8", "mean of i8", "doubles", "pooled, channels last", "symbolic", "argmax last f32"):
        compiles(tactic(CASES[name]), CASES[name], number)
    compiles(Reduce(), reduce(dense(F, 1 << 20), "sum", (0,)), number)
    compiles(ArgExtreme(), arg(dense(F, 1, 50257), "max", 1), number)


def test_means_over_pixels_keep_memory_busy():
    """By Little's law 3 TB/s with 0.8 us of latency want 2.4 MB on their way."""
    region = reduce(dense(H, 32, 112, 112, 32), "mean", (1, 2), True)
    space = list(Reduce().space(region, H100, 1))
    assert 8 <= len(space) <= 20
    assert len({(p["rows"], p["cols"], p.get("splits", 1)) for p in space}) == len(space)
    for p in space[:4]:
        programs = -(-32 * 32 // p["rows"]) * p.get("splits", 1)
        assert programs * p["rows"] * p["cols"] * 2 > 2e6, p
    few = reduce(dense(H, 32, 7, 7, 1152), "mean", (1, 2), True)
    assert "splits" not in next(iter(Reduce().space(few, H100, 1))), "enough rows: another launch would cost more"


@pytest.mark.parametrize("shape", [(2, 9, 11, 40), (1, 5, 7, 24), (3, 1, 1, 16)])
def test_every_way_to_walk_over_pixels(shape):
    region = added(reduce(dense(H, *shape), "mean", (1, 2), True))
    check(Reduce(), region, interpreted.run, some=4)
