"""Matmul tactics against float64, on odd sizes, strides, types, and every instruction set that runs here."""

import itertools

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.gemm import GemmBatched, GemmPacked
from whet.targets.cpu.gemm_simple import GemmSimple

HOST = isas.host()
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
PACKED, BATCHED, SIMPLE = GemmPacked(), GemmBatched(), GemmSimple()
F32, BF16, F16 = DType.F32, DType.BF16, DType.F16


def params(**changes: object) -> dict:
    return {"mr": 4, "nv": 2, "mt": 2, "nt": 2, "order": "nm", "pack": False, "unroll": 4, "prefetch": 0,
            "dot": False, "kc": 0, "ahead": True, **changes}


def matmul(a: Tensor, b: Tensor, out: Tensor, **more: object) -> Region:
    return Region("matmul", {}, (a, b), 2, out, Tensor.dense(F32, out.shape), **more)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray, tol: float = 1e-5) -> None:
    want = a.astype(float) @ b.astype(float)
    scale = np.abs(a.astype(float)) @ np.abs(b.astype(float)) + 1e-30
    assert np.max(np.abs(got.astype(float) - want) / scale, initial=0) < tol


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("size", [(1, 1, 1), (17, 33, 49), (29, 7, 5), (0, 4, 4), (5, 0, 3)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_packed_handles_odd_sizes_static_and_symbolic(isa: isas.Isa, size: tuple, symbolic: bool) -> None:
    m, k, n = size
    rows = symbol("m") if symbolic else m
    r = matmul(strided(F32, (rows, k), 3), strided(F32, (k, n), const=True), strided(F32, (rows, n), 1),
               dims={"m": (0, max(m, 1), 64)} if symbolic else {})
    a, b = normal(m, k), normal(k, n)
    for order, pack in (("nm", True), ("mn", False)):
        got, = run_region(r, PACKED, params(order=order, pack=pack), isa, [a, b], {"m": m})
        check(got, a, b)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_packed_is_right_for_what_its_space_lists(isa: isas.Isa) -> None:
    r = matmul(strided(F32, (2, 23, 40)), strided(F32, (40, 70), const=True), strided(F32, (2, 23, 70)))
    a, b = normal(2, 23, 40), normal(40, 70)
    space = list(PACKED.space(r, isa, 2))
    assert 4 <= len(space) <= 24
    for p in space[:3]:
        got, = run_region(r, PACKED, p, isa, [a, b])
        check(got, a, b)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_rounds_of_depth_give_the_same_sums(isa: isas.Isa) -> None:
    for rows in (19, symbol("m")):
        r = matmul(strided(F32, (rows, 45)), strided(F32, (45, 70), const=True), strided(F32, (rows, 70)),
                   dims={"m": (0, 19, 64)})
        a, b = normal(19, 45), normal(45, 70)
        want, = run_region(r, PACKED, params(), isa, [a, b], {"m": 19})
        for change in ({"kc": 10}, {"kc": 30, "order": "mn"}, {"kc": 30, "pack": True}, {"kc": 64}):
            got, = run_region(r, PACKED, params(**change), isa, [a, b], {"m": 19})
            assert (got == want).all()


def test_special_values_come_through() -> None:
    r = matmul(strided(F32, (9, 21)), strided(F32, (21, 18), const=True), strided(F32, (9, 18)))
    a, b = normal(9, 21), normal(21, 18)
    a[2, 3], a[4, 5], b[7, 8] = np.nan, np.inf, -np.inf
    got, = run_region(r, PACKED, params(), HOST, [a, b])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(got, a @ b, rtol=1e-4, atol=1e-4)


def test_batch_dimensions_that_cannot_merge_stay_batch() -> None:
    a = Tensor(F32, (3, 5, 12), (12, 40, 1))  # transposed leading dims
    r = matmul(a, strided(F32, (12, 9), const=True), strided(F32, (3, 5, 9)))
    x, b = normal(3, 5, 12), normal(12, 9)
    got, = run_region(r, PACKED, params(), HOST, [x, b])
    check(got, x, b)


def test_constant_weights_may_have_batch_dimensions() -> None:
    r = matmul(strided(F32, (4, 3, 7, 12)), strided(F32, (3, 12, 37), const=True), strided(F32, (4, 3, 7, 37)))
    a, b = normal(4, 3, 7, 12), normal(3, 12, 37)
    got, = run_region(r, PACKED, params(), HOST, [a, b])
    check(got, a, b)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("transposed", [False, True])
def test_batched_takes_either_order_of_b_and_symbolic_sizes(isa: isas.Isa, transposed: bool) -> None:
    bs, m, k, n = symbol("b"), symbol("m"), symbol("k"), symbol("n")
    b = Tensor(F32, (bs, k, n), (n * k, 1, k)) if transposed else strided(F32, (bs, k, n), 2)
    r = matmul(strided(F32, (bs, m, k), 1), b, strided(F32, (bs, m, n), 3),
               dims={"b": (0, 2, 4), "m": (0, 9, 40), "k": (0, 40, 64), "n": (0, 33, 80)})
    for size in ((2, 9, 40, 33), (1, 17, 1, 1), (3, 1, 19, 64), (2, 5, 0, 7), (2, 4, 5, 0)):
        env = dict(zip("bmkn", size, strict=True))
        x, y = normal(env["b"], env["m"], env["k"]), normal(env["b"], env["k"], env["n"])
        for change in ({"order": "mn"}, {"pack": True, "mr": 3}):
            got, = run_region(r, BATCHED, params(**change), isa, [x, y], env)
            check(got, x, y)


def test_batched_broadcasts_and_lists_a_space_that_works() -> None:
    r = matmul(strided(F32, (2, 1, 6, 20)), strided(F32, (3, 20, 11)), strided(F32, (2, 3, 6, 11)))
    a, b = normal(2, 1, 6, 20), normal(3, 20, 11)
    space = list(BATCHED.space(r, HOST, 2))
    assert space
    for p in space[:3]:
        got, = run_region(r, BATCHED, p, HOST, [a, b])
        check(got, a, b)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("kinds", [*itertools.product((F32, BF16), repeat=3), (F16, F16, F16),
                                   (F16, BF16, F32), (F32, F16, BF16)], ids=str)
def test_half_precision_in_memory_and_in_products(isa: isas.Isa, kinds: tuple[DType, DType, DType]) -> None:
    ta, tb, to = kinds
    a, b = normal(10, 27), normal(27, 35)
    for tactic, const, compute, dot in ((PACKED, True, "f32", False), (PACKED, True, "bf16", False),
                                        (PACKED, True, "bf16", True), (BATCHED, False, "bf16", False)):
        if dot and not isa.bf16_dot:
            continue
        r = matmul(strided(ta, (10, 27)), strided(tb, (27, 35), const=const), strided(to, (10, 35)), compute=compute)
        got, = run_region(r, tactic, params(pack=True, dot=dot), isa, [a.astype(ta.np), b.astype(tb.np)])
        assert got.dtype == to.np
        want = [x.astype(t.np).astype(BF16.np if compute == "bf16" else t.np) for x, t in ((a, ta), (b, tb))]
        check(got, *want, tol=1e-5 if to is F32 else 5e-3)


def epilogue_region(kind: str, tactic: object, m: int = 11, k: int = 20, n: int = 37) -> Region:
    """gelu(acc + bias) * rowscale + residual - scalar, or parts of it."""
    acc, bias = Leaf(ANCHOR, F32), Leaf(2, F32)
    terms: list = [acc, bias, Apply("add", (0, 1), F32)]
    extra = [strided(F32, (n,))]
    if kind == "relu":
        terms.append(Apply("relu", (2,), F32))
    if kind in ("full", "gelu"):
        terms.append(Apply("gelu", (2,), F32, (("approximate", "none"),)))
    if kind == "full":
        terms += [Leaf(3, F32), Apply("mul", (3, 4), F32), Leaf(4, F32), Apply("add", (5, 6), F32), Leaf(5, F32),
                  Apply("sub", (7, 8), F32)]
        extra += [strided(F32, (m, 1)), strided(F32, (m, n), 2), strided(F32, ())]
    a, b = strided(F32, (m, k)), strided(F32, (k, n), const=tactic is not BATCHED)
    out = strided(F32, (m, n), 1)
    return Region("matmul", {}, (a, b, *extra), 2, out, Tensor.dense(F32, (m, n)), Expr(tuple(terms)))


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("kind", ["bias", "relu", "gelu", "full"])
def test_epilogues_are_applied_while_storing(isa: isas.Isa, kind: str) -> None:
    for tactic in (PACKED, BATCHED):
        r = epilogue_region(kind, tactic)
        arrays = [normal(*t.shape, seed=i) for i, t in enumerate(r.inputs)]
        got, = run_region(r, tactic, params(mr=5), isa, arrays)
        np.testing.assert_allclose(got, region_reference(r, arrays)[0], rtol=1e-4, atol=1e-5)


def test_a_comparison_may_be_the_result() -> None:
    m, k, n = 5, 9, 21
    wide = Apply("cast", (1,), F32, (("to", F32),))
    expr = Expr((Leaf(ANCHOR, F32), Leaf(2, BF16), wide, Apply("gt", (0, 2), DType.BOOL)))
    r = Region("matmul", {}, (strided(F32, (m, k)), strided(F32, (k, n), const=True), strided(BF16, (m, n), 3)), 2,
               strided(DType.BOOL, (m, n), 2), Tensor.dense(F32, (m, n)), expr)
    arrays = [normal(m, k), normal(k, n), normal(m, n).astype(BF16.np)]
    got, = run_region(r, PACKED, params(), HOST, arrays)
    assert (got == region_reference(r, arrays)[0]).all()


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", [DType.F64, DType.I64, DType.I32, DType.U8], ids=lambda d: d.value)
@pytest.mark.parametrize("transposed", [False, True])
def test_other_types_multiply_in_their_own_arithmetic(isa: isas.Isa, dtype: DType, transposed: bool) -> None:
    m = symbol("m")
    b = Tensor(dtype, (2, 19, 37), (19 * 37, 1, 19), const=True) if transposed else strided(dtype, (2, 19, 37), 3)
    out = strided(dtype, (2, m, 37), 1)
    bias = Expr((Leaf(ANCHOR, dtype), Leaf(2, dtype), Apply("add", (0, 1), dtype)))
    r = Region("matmul", {}, (strided(dtype, (2, m, 19)), b, strided(dtype, (37,))), 2, out, out, bias,
               dims={"m": (0, 5, 9)})
    rng = np.random.default_rng(0)
    for rows in (5, 0):
        x, y, z = ((rng.standard_normal(s) * 100).astype(dtype.np) for s in ((2, rows, 19), (2, 19, 37), (37,)))
        got, = run_region(r, SIMPLE, {}, isa, [x, y, z], {"m": rows})
        want = x @ y + z
        assert np.allclose(got, want, rtol=1e-13, atol=1e-9) if dtype is DType.F64 else (got == want).all()


def test_the_same_kernels_compile_for_neon() -> None:
    r = matmul(strided(F32, (symbol("m"), 64)), strided(F32, (64, 48), const=True), strided(F32, (symbol("m"), 48)),
               dims={"m": (1, 64, 128)})
    best = next(iter(PACKED.space(r, isas.NEON, 4)))
    code = PACKED.implement(r, best, isas.NEON, 4).steps[0].kernel.code
    assert to_assembly(code, isas.NEON).count("fmla") > 20


def test_reasons_name_what_is_in_the_way() -> None:
    a, b, o = strided(F32, (4, 8)), strided(F32, (8, 8), const=True), strided(F32, (4, 8))
    assert "constant" in BATCHED.applies(matmul(a, b, o), HOST)
    assert "contiguous" in PACKED.applies(matmul(Tensor(F32, (4, 8), (8, 2)), b, o), HOST)
    assert "f64" in PACKED.applies(matmul(Tensor.dense(DType.F64, (4, 8)), b, o), HOST)
