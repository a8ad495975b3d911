"""Attention with its projection by heads, interpreted, compiled, and on the GPU, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")
from attention_regions import BF16, F16, arrays_of, projected, region, strided

from targets.cuda import interpreted, on_device
from whet.abi_cuda import Cubin, unpack
from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.ir.work import flops
from whet.targets.base import Implementation
from whet.targets.cuda.attention_parts import AttentionParts
from whet.targets.cuda.compile import _waiting, early, recipe_of, to_object
from whet.targets.cuda.gpu import typical

H100 = typical((9, 0))
TACTIC = AttentionParts()


def parts(h: int, s: int, t: int, d: int, e: int, n: int, mask: Tensor | None = None, b: int = 1, dtype: DType = F16,
          const: bool = True, **more: Any) -> Region:
    """Attention of h heads, and their rows of weights [h, e, n]."""
    compute = "bf16" if dtype is BF16 else "f16"
    return projected(region(b, h, h, s, t, d, e, mask, dtype=dtype, compute=compute, **more), n, const)


BERT = parts(12, 128, 128, 64, 64, 768, packed=True)


def made(r: Region, rows: int = 16, keys: int = 16, bn: int = 64, across: int = 1) -> Implementation:
    assert TACTIC.applies(r, H100) == ""
    f = {"rows": rows, "keys": keys, "bn": bn, "across": across, "warps": 4, "stages": 2}
    return TACTIC.implement(r, f, H100, 1)


def given(r: Region) -> list[np.ndarray]:
    """Operands; weights as those of a layer."""
    arrays = arrays_of(r, {})
    arrays[3] = (arrays[3] / 8).astype(arrays[3].dtype)
    return arrays


def check(run, r: Region, made: Implementation, arrays: list[np.ndarray] | None = None) -> np.ndarray:
    """Run and compare; the result."""
    arrays = arrays or given(r)
    wide = [a.astype(np.float64) if DType.of(a.dtype).is_float else a for a in arrays]
    ideal = replace(r, compute="f32", anchor=Tensor.dense(DType.F64, r.anchor.shape),
                    inputs=tuple(replace(t, dtype=DType.F64) if t.dtype.is_float else t for t in r.inputs))
    with np.errstate(all="ignore"):
        want = region_reference(ideal, wide)[0]
        got = run(r, made, arrays, {})[0]
    tolerance = {"f16": 2e-3, "bf16": 1.6e-2}[r.compute]
    np.testing.assert_allclose(got, want, rtol=4 * tolerance, atol=2 * tolerance)
    return got


@pytest.mark.parametrize("size", [(2, 17, 33, 16, 16, 72), (3, 33, 17, 64, 64, 8), (2, 1, 40, 24, 80, 130),
                                  (1, 18, 20, 8, 3, 1)], ids=str)
@pytest.mark.parametrize("how", [(16, 16, 64, 1), (32, 64, 64, 2), (64, 64, 256, 1)], ids=str)
def test_sizes_that_divide_nothing(size: tuple, how: tuple) -> None:
    r = parts(*size)
    check(interpreted.run, r, made(r, *how))


SIGHTS = {
    "bool mask": parts(2, 17, 33, 16, 16, 24, strided(DType.BOOL, (17, 33))),
    "mask of heads": parts(2, 17, 33, 16, 16, 24, strided(F16, (1, 2, 1, 33))),
    "mask of keys": parts(2, 17, 33, 16, 80, 24, strided(F16, (1, 1, 1, 33))),
    "causal": parts(2, 33, 33, 16, 16, 72, causal=True),
    "window": parts(2, 17, 33, 16, 16, 24, causal=True, offset=16, window=5, softcap=2.0),
    "batch of two": parts(2, 17, 33, 16, 16, 24, b=2),
    "weights that are computed": parts(2, 17, 33, 16, 16, 24, const=False),
    "bf16": parts(2, 33, 33, 64, 64, 72, strided(DType.BOOL, (33, 33)), dtype=BF16),
    "packed": parts(3, 17, 17, 16, 16, 72, packed=True),
}


@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize("keys", [16, 64])
def test_masks_and_sights(name: str, keys: int) -> None:
    check(interpreted.run, SIGHTS[name], made(SIGHTS[name], 16, keys, 16, 2))


def test_operands_in_fp32_are_rounded_to_the_products_type() -> None:
    r = projected(region(1, 2, 2, 17, 20, 16, 16, compute="f16"), 24)
    arrays = given(r)
    with np.errstate(all="ignore"):
        want = region_reference(r, arrays)[0]
    got = interpreted.run(r, made(r), arrays)[0]
    np.testing.assert_allclose(got, want, rtol=4e-3, atol=2e-3)


def nan_rows(run) -> None:
    """Rows without any key, and NaN and infinity among the operands, show in their rows (and heads) alone."""
    for masked_zero in (False, True):
        r = parts(2, 18, 20, 16, 16, 40, strided(DType.BOOL, (18, 20)), masked_zero=masked_zero)
        arrays = given(r)
        arrays[4][...] = True
        arrays[4][3] = False
        arrays[0][0, 1, 5, 2] = np.nan
        got = check(run, r, made(r, bn=32), arrays=arrays)
        assert np.isnan(got[0, :, 3]).all() != masked_zero
        assert (got[0, :, 3] == 0).all() == masked_zero
        assert np.isnan(got[0, 1, 5]).all()
        assert np.isfinite(np.delete(got, [3, 5], 2)).all()
    arrays[3][1, 4, 7] = np.inf
    got = check(run, r, made(r, bn=32), arrays=arrays)
    assert np.isinf(got[0, 1, :3, 7]).all()
    assert np.isfinite(got[0, 0, :, 7]).all()


def test_what_is_not_finite() -> None:
    nan_rows(interpreted.run)


def test_lengths() -> None:
    r = projected(region(2, 2, 2, 17, 33, 16, 16, lengths=True, dtype=F16, compute="f16"), 24)
    assert r.attrs["absent"] == (4,)
    arrays = given(r)
    arrays[4] = np.array([9, 33], np.int64)
    check(interpreted.run, r, made(r, 16, 16), arrays)


def test_programs_across_divide_the_columns() -> None:
    arrays = given(r := parts(2, 17, 33, 16, 16, 200))
    want = check(interpreted.run, r, made(r, bn=64), arrays)
    for across, programs in ((2, 2), (3, 2), (4, 4), (9, 4)):  # of four blocks
        how = made(r, bn=64, across=across)
        assert how.steps[0].tiles == 2 * 2 * programs
        np.testing.assert_array_equal(check(interpreted.run, r, how, arrays), want)


def lines_of(made: Implementation) -> list[str]:
    return _waiting(recipe_of(early(made).steps[0].kernel.code)).text.splitlines()


@pytest.mark.parametrize("r", [BERT, parts(2, 33, 33, 16, 80, 200, causal=True),
                               parts(2, 17, 33, 16, 16, 24, const=False),
                               projected(region(2, 2, 2, 17, 33, 16, 16, strided(DType.BOOL, (1, 33)), True, dtype=F16,
                                                compute="f16"), 24)], ids=["bert", "causal", "computed", "lengths"])
def test_kernels_that_begin_early_read_constants_alone_before_they_wait(r: Region) -> None:
    for f in TACTIC.space(r, H100, 1):
        how = TACTIC.implement(r, f, H100, 1)
        weights = next(name for name, a in zip(("p0", "p1", "p2", "p3", "p4", "p5"), how.steps[0].args)
                       if getattr(a, "index", None) == 3)
        lines = lines_of(how)
        (wait,) = (i for i, line in enumerate(lines) if "gdc_wait" in line)
        before = [line for line in lines[:wait] if "tl.load" in line or "prefetch" in line]
        assert all(f"{weights} +" in line for line in before), f
        assert bool(before) == r.inputs[3].const, f


def test_the_first_tiles_of_a_head_prefetch_its_weights_where_they_are_too_many_to_load() -> None:
    text = lines_of(made(BERT, 16, 128, 128, 1))
    assert any("prefetch.global.L2" in line for line in text)
    assert "    if tile == 0:" in text
    assert not any("prefetch" in line for line in lines_of(made(BERT, 64, 128, 128, 6)))


@pytest.mark.parametrize("number", [80, 90])
def test_compiles(number: int) -> None:
    machine = typical((number // 10, 0))
    found = list(TACTIC.space(BERT, machine, 1))
    kinds = [f for f in found if f["stages"] == 1][:1] + [f for f in found if f["stages"] > 1][:1]
    assert len(kinds) == 2
    for r in (BERT, parts(2, 33, 40, 16, 80, 72, strided(DType.BOOL, (33, 40)), causal=True, dtype=BF16)):
        for f in kinds if r is BERT else list(TACTIC.space(r, machine, 1))[:1]:
            unit, code = unpack(to_object(early(TACTIC.implement(r, f, machine, 1)).steps[0].kernel.code, number))
            assert isinstance(unit, Cubin)
            assert unit.shared <= machine.shared_bytes
            assert bytes(code[:4]) == b"\x7fELF"


def test_few_settings_the_best_first_that_fill_the_gpu() -> None:
    found = list(TACTIC.space(BERT, H100, 1))
    assert 8 <= len(found) <= 24
    assert len({str(f) for f in found}) == len(found)
    first = TACTIC.implement(BERT, found[0], H100, 1).steps[0]
    assert 96 <= first.tiles <= 145
    assert list(TACTIC.space(parts(1, 9, 9, 3, 5, 7), H100, 1))


def test_settings_fit_wherever_there_is_one() -> None:
    wide = parts(2, 40, 300, 256, 256, 768)
    for machine in (typical((8, 0)), typical((8, 6)), H100):
        for r in (BERT, wide):
            for f in TACTIC.space(r, machine, 1):
                assert f["bn"] * r.inputs[3].shape[1] * 2 * max(1, f["stages"] - 1) <= machine.shared_bytes


def test_refused() -> None:
    n = symbol("n")
    dims = {"n": (1, 4, 9)}
    said = {
        "heads that share keys": projected(region(1, 4, 2, 17, 33, 16, 16, dtype=F16, compute="f16"), 24),
        "products in f32": projected(region(1, 2, 2, 17, 33, 16, 16), 24),
        "products in int8": projected(region(1, 2, 2, 17, 33, 16, 16, dtype=DType.I8, compute="int8"), 24),
        "a result (1, 2, n, 24)": projected(region(1, 2, 2, n, 33, 16, 16, dtype=F16, compute="f16", dims=dims), 24),
        "heads of [16, 272]": projected(region(1, 2, 2, 17, 33, 16, 272, dtype=F16, compute="f16"), 24),
        "weights (2, 16, 0)": projected(region(1, 2, 2, 17, 33, 16, 16, dtype=F16, compute="f16"), 0),
        "products in f16 of f64": projected(region(1, 2, 2, 17, 33, 16, 16, dtype=DType.F64, compute="f16"), 24),
    }
    for what, r in said.items():
        assert what in TACTIC.applies(r, H100)


def test_work_counts_both_products() -> None:
    assert flops(BERT) == 2 * 12 * 128 * (128 * (64 + 64) + 64 * 768)


@on_device.needs_cuda
@pytest.mark.parametrize("name", SIGHTS)
def test_sights_on_the_gpu(name: str) -> None:
    every(SIGHTS[name])


@on_device.needs_cuda
@pytest.mark.parametrize("r", [BERT, parts(2, 17, 33, 16, 16, 72), parts(12, 33, 197, 64, 80, 200),
                               parts(3, 100, 300, 64, 64, 768, causal=True, dtype=BF16)],
                         ids=["bert", "17", "80", "causal"])
def test_settings_on_the_gpu(r: Region) -> None:
    every(r, 24)


def every(r: Region, some: int = 6) -> None:
    """Settings as they come, and begun early."""
    for f in list(TACTIC.space(r, on_device.gpu(), 1))[:some]:
        how = TACTIC.implement(r, f, on_device.gpu(), 1)
        check(on_device.run, r, how)
        check(on_device.run, r, early(how))


@on_device.needs_cuda
def test_what_is_not_finite_on_the_gpu() -> None:
    nan_rows(on_device.run)
