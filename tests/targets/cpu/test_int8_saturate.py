"""Rounding to 8 bits, and reading 8 bits as real numbers: exact, in one conversion each."""

from __future__ import annotations

import numpy as np
import pytest
from harness import run_region
from int8_isas import ISAS

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import AVX2, AVX512, NEON, Isa
from whet.targets.cpu.pointwise import Pointwise

F, U8, I8 = DType.F32, DType.U8, DType.I8


def saturate(to: DType, zero: int, scale: float = 1.0) -> Expr:
    """saturate(in0 * scale)."""
    first = (Leaf(0, F),) if scale == 1.0 else (Leaf(0, F), Imm(scale, F), Apply("mul", (0, 1), F))
    return Expr((*first, Apply("saturate", (len(first) - 1,), to, (("to", to), ("zero", zero)))))


def pointwise(e: Expr, dtype: DType, shape: tuple[int, ...]) -> Region:
    return Region("pointwise", {}, (Tensor.dense(dtype, shape),), 1, Tensor.dense(e.dtype, shape),
                  Tensor.dense(e.dtype, shape), e)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("to", "zero"), [(U8, 0), (U8, 128), (U8, 255), (I8, 0), (I8, -128), (I8, 5), (I8, 127)])
def test_every_float_becomes_the_nearest_code(to: DType, zero: int, isa: Isa) -> None:
    special = [np.nan, np.inf, -np.inf, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, 127.5, -128.5, 2.0**31, -2.0**31,
               1e38, -1e38, 2.0**24 + 2, 1e-40, np.nextafter(np.float32(0.5), np.float32(1))]
    rng = np.random.default_rng(1)
    for n in (1, 17, 64, 211, 1031):
        x = np.resize(np.array(special, np.float32), n)
        x[20:] = rng.normal(0, 200, max(n - 20, 0)).round(int(rng.integers(0, 2)))
        e = saturate(to, zero)
        got = run_region(pointwise(e, F, (n,)), Pointwise(), {}, isa, [x])[0]
        assert got.dtype == to.np
        np.testing.assert_array_equal(got, e.evaluate({0: x}))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("source", [U8, I8, DType.I32])
def test_codes_are_real_numbers_and_codes_again(source: DType, isa: Isa) -> None:
    e = Expr((Leaf(0, source), Apply("cast", (0,), F, (("to", F),)), Imm(3.0, F), Apply("sub", (1, 2), F), Imm(0.7, F),
              Apply("mul", (3, 4), F), Apply("saturate", (5,), U8, (("to", U8), ("zero", 9)))))
    for shape in ((1,), (3, 37), (5, 129)):
        x = np.random.default_rng(2).integers(-128 if source.is_signed else 0, 127, shape).astype(source.np)
        got = run_region(pointwise(e, source, shape), Pointwise(), {}, isa, [x])[0]
        np.testing.assert_array_equal(got, e.evaluate({0: x}))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (19, 2), (211, 3), (64, 8), (150, 17)])
def test_codes_are_woven_from_columns(rows: int, columns: int, isa: Isa) -> None:
    e = saturate(U8, 128, 40.0)
    source = Tensor(F, (2, rows, columns), (rows * columns, 1, rows))
    out = Tensor.dense(U8, (2, rows, columns))
    x = np.random.default_rng(4).normal(0, 2, out.shape).astype(np.float32)
    x[0, 0, 1], x[1, rows - 1, 0] = np.nan, np.inf
    got = run_region(Region("pointwise", {}, (source,), 1, out, out, e), Pointwise(), {}, isa, [x])[0]
    np.testing.assert_array_equal(got, e.evaluate({0: x}))


@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda i: i.name)
def test_a_vector_takes_one_conversion_each_way(isa: Isa) -> None:
    def code(e: Expr, dtype: DType) -> str:
        (step,) = Pointwise().implement(pointwise(e, dtype, (4096,)), {}, isa, 1).steps
        return to_assembly(step.kernel.code, isa)

    there = code(saturate(U8, 0, 0.3), F)
    back = [code(Expr((Leaf(0, d), Apply("cast", (0,), F, (("to", F),)))), d) for d in (U8, I8)]
    if isa.name == "neon":
        assert "fcvtzs" in there or "fcvtns" in there
        assert ["ucvtf" in back[0], "scvtf" in back[1]] == [True, True]
        return
    assert "vcvtps2dq" in there
    assert "vpackuswb" in there or "vpmovdb" in there or "vpshufb" in there
    assert "vpmovzxbd" in back[0]
    assert "vpmovsxbd" in back[1]
    assert all("vcvtdq2ps" in b and "vpmovzxbw" not in b for b in back)
