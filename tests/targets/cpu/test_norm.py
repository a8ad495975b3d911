"""Layer, RMS, group and instance norm against float64, with expressions around them, at odd sizes."""

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
from whet.targets.cpu.groupnorm import GroupNorm
from whet.targets.cpu.isa import AVX2, NEON, host
from whet.targets.cpu.norm import RowNorm

F = DType.F32
ISAS = [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")]
ROWS, GROUPS = RowNorm(), GroupNorm()


def layernorm(shape: tuple[Any, ...], axis: int, d: DType = F, bias: bool = True, kind: str = "layernorm",
              **kw: Any) -> Any:
    tail = shape[axis:]
    operands = [Tensor.dense(d, shape), Tensor.dense(d, tail), *([Tensor.dense(d, tail)] if bias else [])]
    return anchored(kind, {"axis": axis, "epsilon": 1e-5}, operands, shape, **kw)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "axis"), [
    ((3, 1), 1), ((2, 5, 17), 2), ((4, 768), 1), ((2, 3, 100), 1), ((1, 5000), 1), ((0, 8), 1), ((6,), 0)])
def test_row_norms_of_any_size(shape: tuple[int, ...], axis: int, isa: Any) -> None:
    check(layernorm(shape, axis), ROWS, isa, rtol=2e-5, wide=True)
    check(layernorm(shape, axis, bias=False), ROWS, isa, rtol=2e-5, wide=True)
    check(layernorm(shape, axis, bias=False, kind="rmsnorm"), ROWS, isa, rtol=2e-5, wide=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("n", [40, 700])
def test_residual_before_and_gelu_after(n: int, kind: str, isa: Any) -> None:
    pro = Expr((Leaf(0, F), Leaf(2, F), Apply("add", (0, 1), F)))
    epi = Expr((Leaf(ANCHOR, F), Apply("gelu", (0,), F), Leaf(3, F), Apply("mul", (1, 2), F)))
    shape = (3, 4, n)
    extra = [Tensor.dense(F, shape), Tensor.dense(F, (3, 4, 1))]
    r = layernorm(shape, 2, bias=False, kind=kind, prologue=pro, epilogue=epi, extra=extra)
    check(r, ROWS, isa, rtol=3e-5, wide=True)


@pytest.mark.parametrize("isa", ISAS)
def test_mean_does_not_cancel_variance(isa: Any) -> None:
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(0, 1, (3, 900))).astype(np.float32)
    one, zero = np.ones(900, np.float32), np.zeros(900, np.float32)
    check(layernorm(x.shape, 1), ROWS, isa, arrays=[x, one, zero], rtol=3e-4, wide=True)
    y = x.reshape(3, 30, 30)
    r = groupnorm(y.shape, 5)
    check(r, GROUPS, isa, arrays=[y, one[:30], zero[:30]], rtol=3e-4, wide=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.BF16, DType.F16, DType.F64])
def test_other_types(d: DType, isa: Any) -> None:
    check(layernorm((3, 300), 1, d), ROWS, isa)
    if d is not DType.F64:
        check(groupnorm((2, 5, 20), 4, d), GROUPS, isa)
    operands = [Tensor.dense(DType.BF16, (3, 50)), Tensor.dense(F, (50,))]
    mixed = anchored("layernorm", {"axis": 1}, operands, (3, 50), out=F)
    check(mixed, ROWS, isa, rtol=1e-4)


def test_nan_stays_in_its_row() -> None:
    x = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    x[1, 5] = np.nan
    one = np.ones(300, np.float32)
    y = check(layernorm((3, 300), 1), ROWS, host(), arrays=[x, one, one], rtol=1e-4)[0]
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def groupnorm(shape: tuple[Any, ...], groups: int, d: DType = F, **kw: Any) -> Any:
    per = Tensor.dense(d, shape[-1:])
    return anchored("groupnorm", {"groups": groups, "epsilon": 1e-5, "channels_last": True},
                    [Tensor.dense(d, shape), per, per], shape, **kw)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("shape", "groups"), [
    ((2, 7, 9, 24), 4), ((1, 40, 40, 16), 16), ((3, 5, 33), 1), ((2, 1, 1, 8), 2), ((2, 6), 3), ((0, 4, 8), 2),
    ((1, 3, 70), 70), ((1, 1, 300, 37), 37)])
def test_group_and_instance_norm(shape: tuple[int, ...], groups: int, isa: Any) -> None:
    check(groupnorm(shape, groups), GROUPS, isa, rtol=3e-5, wide=True)


@pytest.mark.parametrize("isa", ISAS)
def test_group_norm_with_expressions_and_symbols(isa: Any) -> None:
    b, h = symbol("b"), symbol("h")
    shape = (b, h, h, 20)
    pro = Expr((Leaf(0, F), Leaf(3, F), Apply("add", (0, 1), F)))
    epi = Expr((Leaf(ANCHOR, F), Apply("silu", (0,), F)))
    r = groupnorm(shape, 5, prologue=pro, epilogue=epi, extra=[Tensor.dense(F, shape)],
                  dims={"b": (0, 1, 4), "h": (1, 8, 40)})
    for env in ({"b": 1, "h": 1}, {"b": 3, "h": 7}, {"b": 1, "h": 31}):
        check(r, GROUPS, isa, env, rtol=5e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_rows(isa: Any) -> None:
    b, s = symbol("b"), symbol("s")
    r = layernorm((b, s, 48), 2, dims={"b": (0, 2, 9), "s": (1, 128, 512)})
    for env in ({"b": 2, "s": 1}, {"b": 0, "s": 7}, {"b": 3, "s": 200}):
        check(r, ROWS, isa, env, rtol=3e-5)


def test_what_does_not_apply_says_why() -> None:
    x = Tensor.dense(F, (2, 8, 5))
    per = Tensor.dense(F, (8,))
    r = anchored("groupnorm", {"groups": 2, "channels_last": False}, [x, per, per], x.shape)
    assert "channels-last" in GROUPS.applies(r, host())


def test_compiles_for_neon() -> None:
    for r, t in ((layernorm((3, 300), 1), ROWS), (groupnorm((2, 9, 20), 4), GROUPS)):
        for step in t.implement(r, {}, NEON, 1).steps:
            assert "\tbl\t" not in to_assembly(step.kernel.code, NEON)
