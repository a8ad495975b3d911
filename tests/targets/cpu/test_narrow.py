"""Storage types in kernels: every bit pattern of the narrow types, and hard cases of the wide ones, cast both ways."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx.reference.ops.op_cast import cast_to
from test_epilogue import emit
from test_epilogue import run as run_expr

from whet.frontends.tensors import TO_ONNX
from whet.ir.casts import ROUND_MODES, cast
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Leaf
from whet.targets.cpu.compile import Jit, to_assembly
from whet.targets.cpu.epilogue import emit_expr, load_value, store_value
from whet.targets.cpu.isa import AVX2, NEON, Isa, host
from whet.targets.cpu.llvm import Fn, Val

TYPES = [d for d in DType if not d.is_host]
STORAGE = [d for d in TYPES if d.is_storage]
FLOATS8 = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ)
LANES = 16


def every_value(d: DType) -> np.ndarray:
    """All bit patterns of a type of at most 16 bits; of wider ones ties, limits and random bits."""
    if d is DType.BOOL:
        return np.array([False, True])
    if d.computed_as.is_float and d.bits < 8:
        return np.arange(1 << d.bits, dtype=np.uint8).view(d.np)
    if d.size <= 2:
        return np.arange(1 << 8 * d.size, dtype=f"u{d.size}").view(d.np)
    rng = np.random.default_rng(d.size)
    if d.is_integer:
        info = np.iinfo(d.np)
        ends = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1], d.np)
        powers = np.array([(1 << n) + o for n in range(8 * d.size - 1) for o in (-1, 0, 1)], d.np)
        return np.concatenate([ends, powers, rng.integers(info.min, info.max, 4000, d.np, endpoint=True)])
    points = []
    for s in STORAGE:  # neighbouring numbers' midpoints, and what lies a last bit beside them
        x = np.unique(cast(every_value(s), DType.F32).astype(np.float64))
        x = x[np.isfinite(x)]
        points += [x, (x[1:] + x[:-1]) / 2, x[-1] * np.array([1.01, 1.04, 1.0625, 1.1, 1.2, 1.25, 1.5, 2, 1e4])]
    x = np.concatenate(points)
    with np.errstate(all="ignore"):
        x = x.astype(d.np)
        x = np.concatenate([x, np.nextafter(x, np.inf).astype(d.np), np.nextafter(x, -np.inf).astype(d.np)])
    noise = rng.integers(0, 1 << 32, 20000, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        noise = noise.astype(d.np)
    special = np.array([0.0, np.nan, np.inf, 1e-45, 1e-40, 3e38, 2**31, 2**31 - 128, 15.9, 16.5, -8.5, 2**-127], d.np)
    normal = rng.normal(0, 4, 2000).astype(d.np)
    return np.concatenate([x, -x, noise, special, -special, normal])


def casts_from(src: DType) -> list[tuple[DType, dict[str, Any]]]:
    """Every cast that has a storage type at one end, with the attributes that it listens to."""
    out: list[tuple[DType, dict[str, Any]]] = []
    for dst in TYPES:
        if not (src.is_storage or dst.is_storage) or src is dst:
            continue
        if dst in FLOATS8:
            out += [(dst, {"saturate": s}) for s in (True, False)]
        elif dst is DType.F8E8M0FNU:
            out += [(dst, {"saturate": s, "round_mode": r}) for s, r in itertools.product((True, False), ROUND_MODES)]
        else:
            out.append((dst, {}))
    return out


def run_casts(isa: Isa, src: DType, x: np.ndarray) -> list[np.ndarray]:
    """All casts of x by one kernel."""
    todo = casts_from(src)
    k = Fn("f", isa)
    p, n = k.arg_ptr(0), k.arg_int(1)
    for i in k.range(0, n, LANES):
        mask = k.tail_mask(n - i, LANES)
        for j, (dst, attrs) in enumerate(todo):
            def leaf(t: Leaf, i: Val = i, mask: Val = mask) -> Val:
                return load_value(k, t.dtype, p + i * t.dtype.size, LANES, mask)

            e = Expr((Leaf(0, src), Apply("cast", (0,), dst, (("to", dst), *attrs.items()))))
            store_value(k, emit_expr(k, e, leaf, LANES), dst, k.arg_ptr(2 + j) + i * dst.size, mask)
    outs = [np.empty(x.shape, dst.np) for dst, _ in todo]
    args = np.array([x.ctypes.data, x.size, *(o.ctypes.data for o in outs)], np.int64)
    jit = Jit(isa, k.finish())
    jit.function("f")(args.ctypes.data, 0, 1, None)
    return outs


def in_range(x: np.ndarray, dst: DType) -> np.ndarray:
    """Where a float's cast to an integer is defined."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
    if not dst.is_integer:
        return np.isfinite(wide) | dst.computed_as.is_float | (dst is DType.BOOL)
    limits = np.iinfo(dst.np)
    return (wide > limits.min - 1) & (wide < limits.max + 1)


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal bits, or NaN on both sides."""
    a, b = got.view(f"u{got.dtype.itemsize}"), want.view(f"u{want.dtype.itemsize}")
    with np.errstate(all="ignore"):
        nan = (got != got) & (want != want)
    return bool(((a == b) | nan).all())


@pytest.mark.parametrize("isa", [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")])
@pytest.mark.parametrize("src", TYPES, ids=lambda d: d.value)
def test_generated_casts_give_the_bits_of_the_reference(src: DType, isa: Isa) -> None:
    x = every_value(src)
    for (dst, attrs), got in zip(casts_from(src), run_casts(isa, src, x), strict=True):
        with np.errstate(all="ignore"):
            want = cast(x, dst, **attrs)
        kept = in_range(x, dst) if src.computed_as.is_float else slice(None)
        if src is DType.F8E8M0FNU and dst is DType.BF16:
            kept = slice(1, None)  # 2^-127, a subnormal number, which the native conversion takes for 0
        assert same(got[kept], want[kept]), f"to {dst.value} {attrs}"


@pytest.mark.parametrize("src", TYPES, ids=lambda d: d.value)
@pytest.mark.filterwarnings("ignore")
def test_the_reference_agrees_with_onnx(src: DType) -> None:
    x = every_value(src)
    agreed = 0
    for dst, attrs in casts_from(src):
        saturate, mode = attrs.get("saturate", True), attrs.get("round_mode", "up")
        try:
            want = cast_to(x, TO_ONNX[dst], saturate, mode)
        except TypeError:  # a pair that ml_dtypes does not convert
            continue
        kept = in_range(x, dst) if src.computed_as.is_float else slice(None)
        if src is DType.F64 and not dst.computed_as.is_float:  # which ml_dtypes rounds to f32 first
            kept &= x.astype(np.float32) == x
        assert same(cast(x, dst, saturate, mode)[kept], want[kept]), f"to {dst.value} {attrs}"
        agreed += 1
    assert agreed


@pytest.mark.parametrize("isa", [pytest.param(host(), id="host"), pytest.param(AVX2, id="avx2")])
@pytest.mark.parametrize("src", [DType.F32, DType.F64, DType.F16, DType.BF16], ids=lambda d: d.value)
def test_floats_beyond_an_integer_saturate(src: DType, isa: Isa) -> None:
    rng = np.random.default_rng(0)
    for dst in (d for d in TYPES if d.is_integer):
        limits = np.iinfo(dst.np)
        near = np.outer([limits.min, limits.max],
                        [1, 1 - 1e-6, 1 + 1e-6, 1 - 2**-24, 1 + 2**-23, 1 - 2**-53, 1 + 2**-52])
        plain = [np.nan, np.inf, -np.inf, 0, -0.0, 0.5, -0.5, 0.99, -0.99, -1, 1e30, -1e30, 127.5, -128.5]
        with np.errstate(all="ignore"):
            x = np.concatenate([plain, near.ravel(), rng.uniform(1.2 * limits.min - 3, 1.2 * limits.max, 300)])
            x = x.astype(src.np)
        want = [0 if v != v else limits.max if v >= limits.max else limits.min if v <= limits.min else int(v)
                for v in x.astype(np.float64)]
        got = run_expr(isa, Expr((Leaf(0, src), Apply("cast", (0,), dst, (("to", dst),)))), [x])
        np.testing.assert_array_equal(got, np.array(want, object).astype(dst.np), err_msg=dst.value)


def test_every_cast_compiles_for_neon() -> None:
    for narrow, other in itertools.product(STORAGE, (DType.F32, DType.I64)):
        for a, b in ((narrow, other), (other, narrow)):
            assert to_assembly(emit(NEON, Expr((Leaf(0, a), Apply("cast", (0,), b, (("to", b),)))), 4), NEON)
