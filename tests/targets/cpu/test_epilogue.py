"""Every pointwise operator and type, emitted and run, against the table's NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf
from whet.ir.ops_pointwise import POINTWISE
from whet.targets.cpu.compile import Jit, to_assembly
from whet.targets.cpu.epilogue import emit_expr, emit_terms, invariant_terms, load_value, store_value
from whet.targets.cpu.isa import AVX2, NEON, Isa, host
from whet.targets.cpu.llvm import Fn, Val

TYPES = [d for d in DType if not d.is_host and not d.is_storage]
CASES = [(name, d) for name, op in POINTWISE.items() for d in TYPES if name not in ("cast", "where")]


def accepted(name: str, d: DType) -> bool:
    try:
        POINTWISE[name].result([d] * POINTWISE[name].arity, {})
    except Exception:
        return False
    return True


def emit(isa: Isa, expr: Expr, lanes: int) -> str:
    k = Fn("f", isa)
    leaves = sorted({t.source: t.dtype for t in expr.terms if isinstance(t, Leaf)}.items())
    ptrs = {s: k.arg_ptr(i) for i, (s, _) in enumerate(leaves)}
    out = k.arg_ptr(len(leaves))
    n = k.arg_int(len(leaves) + 1)
    for i in k.range(0, n, lanes):
        mask = k.tail_mask(n - i, lanes) if lanes > 1 else None

        def leaf(t: Leaf, i: Val = i, mask: Val | None = mask) -> Val:
            return load_value(k, t.dtype, ptrs[t.source] + i * t.dtype.size, lanes, mask)

        y = emit_expr(k, expr, leaf, lanes)
        store_value(k, y, expr.dtype, out + i * expr.dtype.size, mask)
    return k.finish()


def run(isa: Isa, expr: Expr, arrays: list[np.ndarray], lanes: int = 16) -> np.ndarray:
    out = np.empty(arrays[0].shape, expr.dtype.np)
    args = np.array([*(a.ctypes.data for a in arrays), out.ctypes.data, out.size], np.int64)
    jit = Jit(isa, emit(isa, expr, lanes))
    jit.function("f")(args.ctypes.data, 0, 1, None)
    return out


def values(d: DType, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if d is DType.BOOL:
        return rng.integers(0, 2, n).astype(bool)
    if d.is_float:
        x = rng.normal(0, 3, n)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 2.5, -2.5]
        x[:len(special)] = rng.permutation(special)
        return x.astype(d.np)
    info = np.iinfo(d.np)
    small = rng.integers(max(info.min, -9), 10, n)
    x = small.astype(d.np)
    x[:6] = rng.permutation(np.array([info.min, info.max, 0, 1, info.max, info.min], d.np))
    return x


def check(expr: Expr, arrays: list[np.ndarray], isa: Isa, lanes: int, tight: bool = False) -> None:
    with np.errstate(all="ignore"):
        want = expr.evaluate(dict(enumerate(arrays)))
    got = run(isa, expr, arrays, lanes)
    assert got.dtype == want.dtype
    if not expr.dtype.is_float or tight:
        if expr.dtype is DType.BF16:  # whose NaNs NumPy does not know to be equal
            got, want = got.astype(np.float32), want.astype(np.float32)
        np.testing.assert_array_equal(got, want)
    else:
        rtol = {DType.F32: 2e-6, DType.F64: 1e-12, DType.F16: 2e-3, DType.BF16: 1.6e-2}[expr.dtype]
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("isa", [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")])
@pytest.mark.parametrize("d", TYPES, ids=lambda d: d.value)
def test_operators_match_their_references(d: DType, isa: Isa) -> None:
    names = [n for n, t in CASES if t is d and accepted(n, d)]
    for name in names:
        arity = POINTWISE[name].arity
        arrays = [values(d, 53, 7 * i + 1) for i in range(arity)]
        if name == "shl" or name == "shr":
            arrays[1] %= 8 * d.size
        if name == "pow" and not d.is_float:
            arrays[1] = np.clip(arrays[1], 0, 20).astype(d.np)
        if name == "div" and d.is_signed and not d.is_float:  # NumPy leaves minimum / -1 undefined
            arrays[1] = np.where(arrays[1] == -1, 1, arrays[1]).astype(d.np)
        if name in ("abs", "neg") and d.is_integer:
            arrays[0] = np.where(arrays[0] == np.iinfo(d.np).min, 1, arrays[0]).astype(d.np)
        out = POINTWISE[name].result([d] * arity, {})
        for attrs in ((),) if name != "gelu" else ((), (("approximate", "tanh"),)):
            expr = Expr((*(Leaf(i, d) for i in range(arity)), Apply(name, tuple(range(arity)), out, attrs)))
            try:
                check(expr, arrays, isa, 16)
            except AssertionError as e:
                raise AssertionError(f"{name} {d.value}: {e}") from e


@pytest.mark.parametrize("src", TYPES, ids=lambda d: d.value)
def test_casts_match_numpy_within_range(src: DType) -> None:
    for dst in TYPES:
        x = values(src, 40, 3)
        if src.is_float and not dst.is_float and dst is not DType.BOOL:
            x = np.nan_to_num(np.abs(x.astype(np.float32)), posinf=5).astype(src.np)
        if src.is_integer and dst is DType.F16:
            x = np.clip(x, 0, 100).astype(src.np)
        check(Expr((Leaf(0, src), Apply("cast", (0,), dst, (("to", dst),)))), [x], host(), 8, tight=True)


def test_where_takes_any_type() -> None:
    for d in TYPES:
        e = Expr((Leaf(0, DType.BOOL), Leaf(1, d), Leaf(2, d), Apply("where", (0, 1, 2), d)))
        check(e, [values(DType.BOOL, 37, 1), values(d, 37, 2), values(d, 37, 3)], host(), 16, tight=True)


@pytest.mark.parametrize("value", [2, 3, 4, 1, -1, 0.5, -0.5, 0, 1.7])
def test_constant_exponents(value: float) -> None:
    e = Expr((Leaf(0, DType.F32), Imm(value, DType.F32), Apply("pow", (0, 1), DType.F32)))
    check(e, [values(DType.F32, 60, 4)], host(), 16)


@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_extremes_with_constants_pass_nan_on(op: str, order: tuple[int, int]) -> None:
    for c in (0.5, np.inf, np.nan):
        e = Expr((Leaf(0, DType.F32), Imm(c, DType.F32), Apply(op, order, DType.F32)))
        check(e, [values(DType.F32, 33, 5)], host(), 16, tight=True)


def test_integer_division_by_zero_and_overflow_do_not_trap() -> None:
    for d in (DType.I8, DType.I32, DType.I64, DType.U16):
        low = np.iinfo(d.np).min
        a, b = np.array([5, low, low, 0], d.np), np.array([0, -1 if d.is_signed else 0, 0, 0]).astype(d.np)
        for op in ("div", "mod"):
            e = Expr((Leaf(0, d), Leaf(1, d), Apply(op, (0, 1), d)))
            assert run(host(), e, [a, b], 4)[0] == 0


def test_out_of_range_floats_cast_without_trapping() -> None:
    x = np.array([1e30, -1e30, np.nan, np.inf], np.float32)
    for d in (DType.I8, DType.U8, DType.I32, DType.I64, DType.U64):
        run(host(), Expr((Leaf(0, DType.F32), Apply("cast", (0,), d, (("to", d),)))), [x], 4)


@pytest.mark.parametrize("lanes", [1, 3, 8, 16, 32])
def test_bf16_rounds_to_nearest_even_and_keeps_nan(lanes: int) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 4000, dtype=np.uint32)
    bits[:1000] = (bits[:1000] & 0xFFFF0000) | 0x8000  # ties
    x = bits.view(np.float32)
    x = x[(np.abs(x) > 2e-38) | np.isnan(x)]
    check(Expr((Leaf(0, DType.F32), Apply("cast", (0,), DType.BF16, (("to", DType.BF16),)))), [x], host(), lanes, True)
    check(Expr((Leaf(0, DType.F32), Apply("cast", (0,), DType.BF16, (("to", DType.BF16),)))), [x], AVX2, lanes, True)


def test_invariant_terms_are_the_largest_ones() -> None:
    f = DType.F32
    e = Expr((Leaf(0, f), Leaf(1, f), Imm(2.0, f), Apply("mul", (1, 2), f), Apply("exp", (3,), f),
              Apply("add", (0, 4), f)))
    assert invariant_terms(e, lambda t: t.source == 1) == (4,)
    assert invariant_terms(e, lambda t: True) == (5,)
    assert invariant_terms(e, lambda t: False) == ()
    k = Fn("f", host())
    known = emit_terms(k, e, lambda t: k.const("float", 1.0), (4,))
    y = emit_expr(k, e, lambda t: k.const("<16 x float>", 1.0), known=known)
    assert y.lanes == 16


def test_operators_compile_for_neon_without_calls() -> None:
    f = DType.F32
    for name in ("exp", "gelu", "round", "mod", "pow", "max"):
        n = POINTWISE[name].arity
        e = Expr((*(Leaf(i, f) for i in range(n)), Apply(name, tuple(range(n)), f)))
        text = to_assembly(emit(NEON, e, 4), NEON)
        assert "\tbl\t" not in text
