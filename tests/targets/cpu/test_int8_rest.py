"""Pools, reductions, softmax, norms, attention and resizing between 8-bit tensors: bytes in, codes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_cases import pool_region
from harness import run_region
from int8_isas import HOST, ISAS, TWO
from movement_cases import movement

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.passes.fuse import BYTES
from whet.targets.cpu import TACTICS
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import NEON, Isa

F, U8, I8 = DType.F32, DType.U8, DType.I8


def codes(to: DType = U8, zero: int = 3, scale: float = 20.0) -> Expr:
    """saturate(anchor * scale)."""
    return Expr((Leaf(ANCHOR, F), Imm(scale, F), Apply("mul", (0, 1), F),
                 Apply("saturate", (2,), to, (("to", to), ("zero", zero)))))


def dense(d: DType, *shape: Any) -> Tensor:
    return Tensor.dense(d, shape)


def region(kind: str, attrs: dict[str, Any], operands: tuple[Tensor, ...], shape: tuple[Any, ...], to: DType,
           **more: Any) -> Region:
    """An anchor in f32 whose result is rounded to codes."""
    return Region(kind, attrs, operands, len(operands), dense(to, *shape), dense(F, *shape), codes(to), **more)


def contents(r: Region, env: dict[str, int] | None = None) -> list[np.ndarray]:
    from whet.ir.symbolic import evaluate

    rng = np.random.default_rng(5)
    out = []
    for t in r.inputs:
        shape = [evaluate(d, env or {}) for d in t.shape]
        if t.dtype.is_float:
            out.append(rng.normal(0, 1, shape).astype(t.dtype.np))
        else:
            info = np.iinfo(t.dtype.np)
            out.append(rng.integers(info.min, info.max, shape, t.dtype.np, endpoint=True))
    return out


def check(r: Region, isa: Isa, env: dict[str, int] | None = None, exact: bool = False,
          arrays: list[np.ndarray] | None = None) -> np.ndarray:
    """By every tactic that applies; functions of f32 may round a tie differently."""
    arrays = arrays or contents(r, env)
    want = region_reference(r, arrays, env)[0]
    tactics = [t for t in TACTICS[r.kind] if not t.applies(r, isa)]
    assert tactics
    for tactic in tactics:
        got = run_region(r, tactic, next(iter(tactic.space(r, isa, 2))), isa, arrays, env)[0]
        assert got.dtype == want.dtype
        off = np.abs(got.astype(np.float64) - want.astype(np.float64))
        if exact:
            np.testing.assert_array_equal(got, want)
        elif r.output.dtype.is_float:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        else:
            assert off.max(initial=0) <= 1
            assert np.count_nonzero(off) <= 1 + off.size // 100
    return got


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [U8, I8], ids=lambda d: d.value)
@pytest.mark.parametrize("c", [1, 17, 48, 65])
def test_maxima_of_bytes_stay_bytes(c: int, d: DType, isa: Isa) -> None:
    r = pool_region((2, 7, 9, c), "max", (3, 3), strides=(2, 1), pads=(1, 1, 1, 1), dtype=d, gap=3)
    check(r, isa, exact=True)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize(("c", "d", "to"), [(1, U8, U8), (17, I8, U8), (64, U8, I8)])
def test_bytes_are_averaged_as_real_numbers(c: int, d: DType, to: DType, isa: Isa) -> None:
    r = pool_region((2, 7, 9, c), "average", (3, 2), pads=(1, 1, 1, 0), dtype=d)
    r = replace(r, anchor=replace(r.anchor, dtype=F))
    check(replace(r, epilogue=codes(to, 0, 0.7), output=replace(r.output, dtype=to)), isa)
    if c == 1:
        check(replace(r, attrs={**r.attrs, "kind": "lp"}, output=replace(r.output, dtype=F)), isa)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("kind", ["sum", "mean", "max"])
def test_bytes_are_reduced_as_real_numbers(kind: str, isa: Isa) -> None:
    for d, axes, shape, out in ((U8, (1, 2), (2, 7, 7, 37), (2, 37)), (I8, (3,), (2, 3, 5, 67), (2, 3, 5)),
                                (U8, (0, 2), (4, 5, 6, 1), (5, 1))):
        attrs = {"kind": kind, "axes": axes, "keepdims": False}
        check(region("reduce", attrs, (dense(d, *shape),), out, I8), isa)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("d", [U8, I8], ids=lambda d: d.value)
def test_rows_of_bytes_are_normalized(d: DType, isa: Isa) -> None:
    for n in (1, 33):
        for axis in (1, 2):
            check(region("softmax", {"axis": axis, "log": False}, (dense(d, 3, 5, n),), (3, 5, n), U8), isa)
        shape, w = (3, 5, n), dense(F, n)
        norm = {"axis": 2, "epsilon": 1e-5}
        check(region("layernorm", norm, (dense(d, *shape), w, w), shape, I8), isa)
        check(region("rmsnorm", norm, (dense(d, *shape), w), shape, U8), isa)
        group = {"groups": 1 if n == 1 else 3, "epsilon": 1e-5, "channels_last": True}
        check(region("groupnorm", group, (dense(d, *shape), w, w), shape, U8), isa)


@pytest.mark.parametrize("isa", TWO)
def test_attention_writes_codes(isa: Isa) -> None:
    at = {"scale": 0.3, "softcap": 0.0, "causal": False, "offset": 0, "window": 0, "masked_zero": False, "absent": ()}
    for queries, compute in ((1, "f32"), (19, "f32"), (19, "bf16")):
        q, kv = dense(F, 1, 2, queries, 17), dense(F, 1, 2, 21, 17)
        check(region("attention", at, (q, kv, kv), (1, 2, queries, 17), I8, compute=compute), isa)


@pytest.mark.parametrize("isa", TWO)
def test_resizing_takes_bytes_and_writes_codes(isa: Isa) -> None:
    for d in (F, U8):
        r = movement("resize", [dense(d, 1, 7, 5, 19)], {"shape": (1, 14, 9, 19), "mode": "linear", "dtype": F})
        check(replace(r, epilogue=codes(), output=replace(r.output, dtype=U8)), isa)


def test_symbolic_sizes_are_bound_late() -> None:
    dims = {"n": (0, 3, 9)}
    for n in (0, 1, 9):
        mean = {"kind": "mean", "axes": (1,), "keepdims": False}
        check(region("reduce", mean, (dense(U8, symbol("n"), 5, 19),), (symbol("n"), 19), U8, dims=dims),
              HOST, {"n": n})
        pool = pool_region((symbol("n"), 5, 6, 19), "max", (2, 2), dtype=U8, dims=dims)
        check(pool, HOST, {"n": n}, exact=True)


def test_nan_becomes_the_lowest_code_after_an_anchor() -> None:
    r = region("softmax", {"axis": 1, "log": False}, (dense(F, 2, 19),), (2, 19), I8)
    x = contents(r)
    x[0][1, 3] = np.nan
    got = check(r, HOST, arrays=x)
    assert (got[1] == -128).all()
    assert (got[0] != -128).all()


def test_neon_code_calls_nothing() -> None:
    regions = [pool_region((1, 5, 6, 17), "max", (3, 3), dtype=U8),
               region("reduce", {"kind": "mean", "axes": (2,), "keepdims": False}, (dense(U8, 3, 5, 17),), (3, 5), U8),
               region("softmax", {"axis": 1, "log": False}, (dense(U8, 7, 17),), (7, 17), I8),
               region("rmsnorm", {"axis": 1, "epsilon": 1e-5}, (dense(I8, 7, 17), dense(F, 17)), (7, 17), U8)]
    for r in regions:
        (tactic,) = (t for t in TACTICS[r.kind] if not t.applies(r, NEON))
        for step in tactic.implement(r, next(iter(tactic.space(r, NEON, 1))), NEON, 1).steps:
            lines = to_assembly(step.kernel.code, NEON).split("\n")
            assert not [x for x in lines if x.split()[:1] == ["bl"]]


def test_fusion_reads_bytes_where_these_kernels_do() -> None:
    assert {"pool", "reduce", "softmax", "layernorm", "rmsnorm", "groupnorm"} == BYTES
