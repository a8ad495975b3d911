"""Softmax along any axis, with expressions around it, at odd sizes and with special values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from regions import anchored, check

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import AVX2, NEON, host
from whet.targets.cpu.softmax import Softmax

F = DType.F32
ISAS = [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")]
TACTIC = Softmax()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [
    ((3, 1), 1), ((3, 17), 1), ((2, 3, 128), 2), ((5, 1000), 1), ((2, 0), 1), ((0, 5), 1), ((7,), 0), ((4, 6, 19), 1),
    ((21, 33), 0), ((2, 9, 40000), 1)])
def test_any_axis_and_size(shape: tuple[int, ...], axis: int, log: bool, isa: Any) -> None:
    x = Tensor.dense(F, shape)
    check(anchored("softmax", {"axis": axis, "log": log}, [x], shape), TACTIC, isa, wide=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "axis"), [((4, 40), 1), ((4, 700), 1), ((9, 20), 0)])
def test_special_values_follow_the_reference(shape: tuple[int, ...], axis: int, isa: Any) -> None:
    x = np.random.default_rng(0).normal(0, 30, shape).astype(np.float32)
    rows = x if axis == 1 else x.T
    rows[0, :] = -np.inf
    rows[1, 3] = np.nan
    rows[2, 5:] = -np.inf
    rows[3, 7] = 3e38
    for log in (False, True):
        r = anchored("softmax", {"axis": axis, "log": log}, [Tensor.dense(F, shape)], shape)
        check(r, TACTIC, isa, arrays=[x], rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.BF16, DType.F16, DType.F64])
def test_other_types(d: DType, isa: Any) -> None:
    for shape in ((3, 50), (3, 500)):
        x = Tensor.dense(d, shape)
        check(anchored("softmax", {"axis": 1, "log": False}, [x], shape), TACTIC, isa)
    wide = anchored("softmax", {"axis": 1, "log": False}, [Tensor.dense(DType.BF16, (3, 50))], (3, 50), out=F)
    check(wide, TACTIC, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("n", "axis"), [(45, 2), (700, 2), (45, 1)])
@pytest.mark.parametrize("op", ["mul", "erf"])
def test_expressions_before_and_after(n: int, axis: int, op: str, isa: Any) -> None:
    first = Apply("mul", (0, 1), F) if op == "mul" else Apply("erf", (0,), F)
    pro = Expr((Leaf(0, F), Leaf(1, F), first, Leaf(2, F), Apply("add", (2, 3), F)))
    epi = Expr((Leaf(ANCHOR, F), Leaf(3, F), Apply("mul", (0, 1), F),
                Apply("cast", (2,), DType.BF16, (("to", DType.BF16),))))
    shape = (2, 5, n)
    extra = [Tensor.dense(F, ()), Tensor.dense(F, (n,)), Tensor.dense(F, (2, 5, 1))]
    r = anchored("softmax", {"axis": axis, "log": False}, [Tensor.dense(F, shape)], shape, DType.BF16, epi, pro, extra,
                 anchor=F)
    check(r, TACTIC, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_sizes(isa: Any) -> None:
    b, s = symbol("b"), symbol("s")
    r = anchored("softmax", {"axis": 2, "log": False}, [Tensor.dense(F, (b, 3, s))], (b, 3, s),
                 dims={"b": (0, 2, 9), "s": (0, 128, 512)})
    for env in ({"b": 2, "s": 1}, {"b": 0, "s": 7}, {"b": 3, "s": 512}, {"b": 9, "s": 63}, {"b": 1, "s": 0}):
        check(r, TACTIC, isa, env)


def test_compiles_for_neon() -> None:
    r = anchored("softmax", {"axis": 1, "log": False}, [Tensor.dense(F, (3, 50))], (3, 50))
    assert "\tbl\t" not in to_assembly(TACTIC.implement(r, {}, NEON, 1).steps[0].kernel.code, NEON)
