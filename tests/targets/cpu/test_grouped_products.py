"""Products by weights of a few bits against float64, on odd sizes and groups, for every instruction set here."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.ops_grouped import widen_groups
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol
from whet.targets.cpu import TACTICS
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.grouped_amx import GroupedAmx
from whet.targets.cpu.grouped_bytes import GroupedBytes
from whet.targets.cpu.grouped_panels import GroupedPanels
from whet.targets.cpu.grouped_rows import GroupedRows

HOST = isas.host()
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
ROWS, PANELS, AMX, BYTES = GroupedRows(), GroupedPanels(), GroupedAmx(), GroupedBytes()
F32, BF16, F16, I8, U8, I4, U4, I2, U2 = (DType[n] for n in ("F32", "BF16", "F16", "I8", "U8", "I4", "U4", "I2", "U2"))


def params(**changes: object) -> dict:
    """Of both tactics."""
    return {"mr": 4, "nv": 2, "mt": 2, "nt": 2, "prefetch": 0, "order": "nm", "pack": False, "unroll": 4, "dot": False,
            "kc": 0, "ahead": False, **changes}


def region(rows: Sequence[Dim], k: int, n: int, group: int, dtype: DType, zeros: bool, a: DType = F32,
           gap: int = 0, **more: Any) -> Region:
    groups = -(-k // group)
    weights = [strided(dtype, (k, n), const=True), strided(F32, (groups, n), const=True)]
    weights += [strided(dtype, (groups, n), const=True)] if zeros else []
    out = Tensor.dense(F32, (*rows, n))
    inputs = (strided(a, (*rows, k), gap), *weights)
    return Region("matmul_grouped", {"group": group}, inputs, len(inputs), out, out, **more)


def contents(r: Region, m: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Random operands: codes over their whole range, zero points somewhere in it."""
    rng = np.random.default_rng(seed)
    q = r.inputs[1]
    weights: Any = q.shape
    scales: Any = r.inputs[2].shape
    low, high = (int(x) for x in (ml_dtypes.iinfo(q.dtype.np).min, ml_dtypes.iinfo(q.dtype.np).max))

    def codes(shape: Any) -> np.ndarray:
        return rng.integers(low, high + 1, shape).astype(q.dtype.np)

    made = [rng.standard_normal((*m, weights[0])).astype(np.float32).astype(r.inputs[0].dtype.np), codes(weights),
            rng.uniform(0.01, 0.1, scales).astype(np.float32)]
    return made + ([codes(scales)] if r.n_anchor == 4 else [])


def check(r: Region, got: np.ndarray, arrays: list[np.ndarray], tol: float = 2e-6) -> None:
    a = arrays[0].astype(np.float64)
    w = widen_groups(arrays[1], arrays[2], arrays[3] if r.n_anchor == 4 else None, r.attrs["group"]).astype(np.float64)
    most = np.abs(arrays[1].astype(float)).max(initial=1) / (np.abs(w).max(initial=0) + 1e-30)
    scale = np.abs(a) @ np.abs(w) * (4 if r.n_anchor == 4 else 1) + 1e-30 * most
    assert got.shape == (a @ w).shape
    assert np.max(np.abs(got.astype(float) - a @ w) / scale, initial=0) < tol


KINDS = [(I4, False), (U4, True), (I8, False), (U8, True), (I4, True), (U4, False), (I2, False), (U2, True), (I8, True)]


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize(("dtype", "zeros"), KINDS, ids=lambda v: getattr(v, "value", str(v)))
def test_every_kind_of_codes_with_groups_of_any_size(isa: isas.Isa, dtype: DType, zeros: bool) -> None:
    wide = (ROWS, {"mr": 1, "nv": 4, "prefetch": 512})
    for m, k, n, group, more in ((1, 64, 33, 32, ()), (5, 45, 70, 17, (wide,)), (3, 7, 3, 100, ()),
                                 (1, 19, 129, 1, (wide,))):
        r = region((m,), k, n, group, dtype, zeros, gap=3)
        arrays = contents(r, (m,))
        for tactic, change in ((ROWS, {}), (PANELS, {}), *more):
            check(r, run_region(r, tactic, params(**change), isa, arrays)[0], arrays)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_sizes_of_zero_and_symbolic_rows(isa: isas.Isa) -> None:
    for m, k, n in ((0, 8, 4), (3, 0, 5), (2, 4, 0), (7, 40, 9)):
        for rows in (m, symbol("m")):
            r = region((2, rows), k, n, 16, U4, True, dims={"m": (0, max(m, 1), 64)} if rows is not m else {})
            arrays = contents(r, (2, m))
            for tactic in (ROWS, PANELS):
                check(r, run_region(r, tactic, params(), isa, arrays, {"m": m})[0], arrays)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_what_the_space_lists_is_right(isa: isas.Isa) -> None:
    for m in (1, 6, 23):
        r = region((m,), 70, 150, 32, U4, True)
        arrays = contents(r, (m,))
        for tactic in (ROWS, PANELS):
            space = list(tactic.space(r, isa, 2))
            assert 2 <= len(space) <= 24
            for p in (space[0], space[-1]):
                check(r, run_region(r, tactic, p, isa, arrays)[0], arrays)


def test_activations_of_16_bits_are_widened() -> None:
    for dtype in (BF16, F16):
        r = region((3,), 33, 20, 8, I4, False, a=dtype)
        arrays = contents(r, (3,))
        for tactic in (ROWS, PANELS):
            check(r, run_region(r, tactic, params(pack=True), HOST, arrays)[0], arrays)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize(("k", "group"), [(64, 32), (45, 22), (33, 33)])
def test_bf16_products_are_within_its_rounding(isa: isas.Isa, k: int, group: int) -> None:
    for dtype, zeros in ((U4, True), (I8, False)):
        r = region((9,), k, 40, group, dtype, zeros, compute="bf16")
        arrays = contents(r, (9,))
        for tactic in TACTICS["matmul_grouped"]:
            if not tactic.applies(r, isa):
                kept = {p.get("dot"): p for p in tactic.space(r, isa, 1)}
                for p in kept.values():
                    check(r, run_region(r, tactic, p, isa, arrays)[0], arrays, tol=8e-3)


@pytest.mark.parametrize("zeros", [False, True])
def test_special_values_come_through(zeros: bool) -> None:
    """A zero point does not turn an infinity into NaN, and rows do not disturb each other."""
    r = region((6,), 40, 21, 16, U4 if zeros else I4, zeros)
    arrays = contents(r, (6,))
    clean, = run_region(r, ROWS, params(), HOST, arrays)
    arrays[0][1, 3], arrays[0][2, 5], arrays[0][4, 39] = np.nan, np.inf, -np.inf
    got, = run_region(r, ROWS, params(), HOST, arrays)
    want, = region_reference(r, arrays)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert np.isinf(want).any()
    assert (got[[0, 3, 5]] == clean[[0, 3, 5]]).all()


def test_the_epilogue_is_applied() -> None:
    terms = (Leaf(ANCHOR, F32), Leaf(3, F32), Apply("add", (0, 1), F32), Leaf(4, F32), Apply("add", (2, 3), F32),
             Apply("silu", (4,), F32))
    base = region((5,), 40, 37, 16, I4, False)
    extra = (strided(F32, (37,)), strided(F32, (5, 37), 2))
    r = Region(base.kind, base.attrs, (*base.inputs, *extra), 3, base.output, base.anchor, Expr(terms))
    rng = np.random.default_rng(1)
    arrays = [*contents(base, (5,)), *(rng.standard_normal(s).astype(np.float32) for s in ((37,), (5, 37)))]
    want, = region_reference(r, arrays)
    for tactic in (ROWS, PANELS):
        got, = run_region(r, tactic, params(), HOST, arrays)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_four_bits_take_four_bits() -> None:
    r = region((1,), 4096, 512, 128, U4, True)
    made = ROWS.implement(r, params(mr=1, nv=4), HOST, 1)
    arrays = contents(r, (1,))
    size = sum(p.make(*(arrays[i] for i in p.sources)).nbytes for p in made.packs)
    assert size <= 4096 * 512 * 4 * 0.136


@pytest.mark.parametrize("isa", [isas.NEON, isas.AVX2, isas.AVX512], ids=lambda i: i.name)
def test_every_instruction_set_compiles_every_tactic(isa: isas.Isa) -> None:
    for dtype, zeros in ((U4, True), (I8, False)):
        r = region((4,), 64, 64, 32, dtype, zeros)
        for tactic in TACTICS["matmul_grouped"]:
            if not tactic.applies(r, isa):
                p = next(iter(tactic.space(r, isa, 2)))
                for step in tactic.implement(r, p, isa, 2).steps:
                    assert to_assembly(step.kernel.code, isa)


@pytest.mark.skipif(not HOST.amx_bf16, reason="no AMX")
@pytest.mark.parametrize(("dtype", "zeros"), [(I4, False), (U4, True), (I8, True), (U2, True)])
def test_tiles_of_widened_weights(dtype: DType, zeros: bool) -> None:
    """Odd sizes, a symbolic number of rows, groups that end within a tile, rows of bf16 that are loaded as they lie."""
    sizes = ((40, 100, 70, 64, F32), (7, 33, 20, 33, F16), (64, 96, 32, 32, BF16), (17, 31, 1, 64, BF16))
    for m, k, n, group, a in sizes:
        r = region((m,), k, n, group, dtype, zeros, a=a, compute="bf16")
        arrays = contents(r, (m,))
        check(r, run_region(r, AMX, {"mt": 2, "nt": 2}, HOST, arrays)[0], arrays, tol=8e-3)
        r = region((2, symbol("m")), k, n, group, dtype, zeros, a=a, dims={"m": (0, 33, 64)}, compute="bf16")
        arrays = contents(r, (2, m))
        check(r, run_region(r, AMX, {"mt": 1, "nt": 1}, HOST, arrays, {"m": m})[0], arrays, tol=8e-3)


@pytest.mark.skipif(not HOST.vnni, reason="no VNNI")
@pytest.mark.parametrize(("dtype", "zeros"), [(I4, False), (U4, True)])
def test_products_of_bytes_lose_a_65000th_of_a_group_s_greatest(dtype: DType, zeros: bool) -> None:
    sizes = ((1, 128, 70, 128, F32), (5, 45, 33, 17, BF16), (3, 7, 3, 100, F32), (2, 300, 129, 24, F16))
    ways = ({"mr": 2, "nv": 2}, {"mr": 1, "nv": 4, "prefetch": 512})
    for m, k, n, group, a in sizes:
        for rows, change in zip((m, symbol("m")), ways[::-1] if zeros else ways):
            r = region((2, rows), k, n, group, dtype, zeros, a=a, dims={"m": (0, m, 64)}, compute="bf16")
            arrays = contents(r, (2, m))
            check(r, run_region(r, BYTES, params(**change), HOST, arrays, {"m": m})[0], arrays, tol=6e-5)


@pytest.mark.skipif(not HOST.vnni, reason="no VNNI")
def test_rows_that_bytes_cannot_hold_are_computed_in_floats() -> None:
    """NaN, infinities, groups of subnormal numbers; groups of zeros and of the greatest numbers can be held."""
    r = region((8,), 40, 21, 16, U4, True, compute="bf16")
    arrays = contents(r, (8,))
    clean, = run_region(r, BYTES, params(), HOST, arrays)
    a = arrays[0]
    a[1, 3], a[2, 5], a[4, 39] = np.nan, np.inf, -np.inf
    a[5, :16], a[6, 16:32], a[7, :16] = 0, np.float32(1e-40), np.float32(1e35)
    got, = run_region(r, BYTES, params(), HOST, arrays)
    with np.errstate(all="ignore"):
        want, = region_reference(Region(**{**r.__dict__, "compute": "f32"}), arrays)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
    assert np.isinf(want).any()
    assert (got[[0, 3]] == clean[[0, 3]]).all()
    assert "4096" in BYTES.applies(region((1,), 4096, 8, 4096, I4, False, compute="bf16"), HOST)
    assert "f32" in BYTES.applies(region((1,), 64, 8, 32, I4, False), HOST)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_kernels_tuned_for_one_row_take_several_at_once(isa: isas.Isa) -> None:
    for compute in ("f32", "bf16"):
        r = region((symbol("m"),), 70, 90, 32, U4, True, dims={"m": (0, 1, 64)}, compute=compute)
        for tactic in (ROWS, BYTES):
            if tactic.applies(r, isa):
                continue
            best = next(iter(tactic.space(r, isa, 2)))
            assert best["mr"] >= 2
            for m in (1, 3, 19):
                arrays = contents(r, (m,))
                check(r, run_region(r, tactic, best, isa, arrays, {"m": m})[0], arrays, tol=6e-5)
