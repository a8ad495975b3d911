"""Reductions over any axes and types, and the index of an extreme, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from regions import anchored, check

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Sym, symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import AVX2, NEON, host
from whet.targets.cpu.reduce import ArgExtreme, Reduce

F = DType.F32
ISAS = [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")]
REDUCE, ARG = Reduce(), ArgExtreme()


def reduce(kind: str, shape: tuple[Any, ...], axes: tuple[int, ...], keepdims: bool = False, d: DType = F,
           x: Tensor | None = None, **kw: Any) -> Region:
    out = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
    attrs = {"kind": kind, "axes": axes, "keepdims": keepdims}
    return anchored("reduce", attrs, [x or Tensor.dense(d, shape)], out, **kw)


def arg(kind: str, shape: tuple[int, ...], axis: int, last: bool, d: DType = F, keepdims: bool = True,
        **kw: Any) -> Region:
    out = tuple(1 if i == axis else n for i, n in enumerate(shape) if keepdims or i != axis)
    return anchored("arg", {"kind": kind, "axis": axis, "keepdims": keepdims, "select_last": last},
                    [Tensor.dense(d, shape)], out, out=DType.I64, **kw)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["mean", "max", "prod"])
@pytest.mark.parametrize(("shape", "axes"), [
    ((3, 17), (1,)), ((3, 17), (0,)), ((3, 5, 40), (1,)), ((3, 5, 40), (0, 2)), ((2, 3, 4, 5), (1, 3)), ((4, 0), (1,)),
    ((4, 0), (0,)), ((700,), (0,)), ((2, 3), (0, 1)), ((2, 3, 70), ()), ((1, 1), (0,)), ((5, 1, 33), (1,)),
    ((2, 30, 100), (1,))])
def test_any_axes(shape: tuple[int, ...], axes: tuple[int, ...], kind: str, isa: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.7, 1.4, shape).astype(np.float32)
    rtol = 1e-4 if kind == "prod" else 2e-6
    check(reduce(kind, shape, axes, len(axes) == 1), REDUCE, isa, arrays=[x], rtol=rtol, wide=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.I8, DType.I32, DType.I64, DType.U8, DType.U16, DType.F16, DType.BF16, DType.F64])
@pytest.mark.parametrize(("shape", "axes"), [((3, 37), (1,)), ((37, 70), (0,))])
def test_types(d: DType, shape: tuple[int, ...], axes: tuple[int, ...], isa: Any) -> None:
    for kind in ("sum", "mean", "max", "min"):
        check(reduce(kind, shape, axes, d=d), REDUCE, isa, rtol={DType.BF16: 0.02, DType.F16: 0.01}.get(d))


def test_bools_have_any_and_all() -> None:
    rng = np.random.default_rng(0)
    for axes in ((1,), (0,)):
        for p in (0.02, 0.98):
            x = rng.random((40, 90)) < p
            for kind in ("max", "min"):
                check(reduce(kind, x.shape, axes, d=DType.BOOL), REDUCE, host(), arrays=[x])


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity(isa: Any) -> None:
    x = np.random.default_rng(0).normal(size=(6, 90)).astype(np.float32)
    x[0, 50], x[1, 3], x[2, 4], x[3, :] = np.nan, np.inf, -np.inf, -np.inf
    for kind in ("sum", "max", "min", "mean"):
        check(reduce(kind, x.shape, (1,)), REDUCE, isa, arrays=[x], rtol=1e-5)
        check(reduce(kind, x.T.shape, (0,)), REDUCE, isa, arrays=[np.ascontiguousarray(x.T)], rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1_000_000), (300_000, 8)])
def test_long_sums_stay_accurate(shape: tuple[int, ...], isa: Any) -> None:
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    axes = (int(np.argmax(shape)),)
    check(reduce("mean", shape, axes), REDUCE, isa, arrays=[x], rtol=5e-7, wide=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_expressions_before_and_after(axes: tuple[int, ...], isa: Any) -> None:
    shape = (3, 20, 33)
    pro = Expr((Leaf(0, F), Leaf(1, F), Apply("sub", (0, 1), F), Apply("mul", (2, 2), F)))
    epi = Expr((Leaf(ANCHOR, F), Apply("sqrt", (0,), F), Leaf(2, F), Apply("add", (1, 2), F)))
    kept = tuple(n for i, n in enumerate(shape) if i not in axes)
    extra = [Tensor.dense(F, (33,)), Tensor.dense(F, kept[-1:] if len(kept) == 2 else ())]
    check(reduce("sum", shape, axes, prologue=pro, epilogue=epi, extra=extra), REDUCE, isa, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_sizes(isa: Any) -> None:
    b, s = symbol("b"), symbol("s")
    assert isinstance(s, Sym)
    dims = {"b": (0, 2, 9), "s": (0, 128, 6000)}
    for axes in ((1,), (2,), (1, 2)):
        r = reduce("mean", (b, s, 20), axes, dims=dims)
        for env in ({"b": 2, "s": 1}, {"b": 0, "s": 7}, {"b": 3, "s": 5000}, {"b": 1, "s": 0}):
            check(r, REDUCE, isa, env)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("d", [F, DType.F64, DType.BF16, DType.I8, DType.I64, DType.U8, DType.U32])
def test_index_of_extremes_with_ties(d: DType, last: bool, kind: str, isa: Any) -> None:
    rng = np.random.default_rng(0)
    for shape, axis in (((4, 53), 1), ((53, 20), 0), ((3, 9, 5), 1), ((3, 1), 1), ((1, 7), 0)):
        x = rng.integers(0 if not d.is_signed else -3, 4, shape).astype(d.np)
        check(arg(kind, shape, axis, last, d), ARG, isa, arrays=[x])
        check(arg(kind, shape, axis, last, d, keepdims=False), ARG, isa, arrays=[np.full(shape, x.flat[0])])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_index_of_nan_zero_and_the_lowest_integer(kind: str, last: bool) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[1, nan, 3, nan, -inf], [0.0, -0.0, 0.0, -0.0, 0.0], [-inf] * 5, [inf] * 5], np.float32)
    check(arg(kind, x.shape, 1, last), ARG, host(), arrays=[x])
    check(arg(kind, x.T.shape, 0, last), ARG, host(), arrays=[np.ascontiguousarray(x.T)])
    for fill in (np.iinfo(np.int32).min, np.iinfo(np.int32).max):
        check(arg(kind, (2, 21), 1, last, DType.I32), ARG, host(), arrays=[np.full((2, 21), fill, np.int32)])


def test_compiles_for_neon() -> None:
    for r, t in ((reduce("max", (3, 300), (1,)), REDUCE), (arg("max", (3, 300), 0, False), ARG)):
        assert "\tbl\t" not in to_assembly(t.implement(r, {}, NEON, 1).steps[0].kernel.code, NEON)
