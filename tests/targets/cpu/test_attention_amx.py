"""Fused attention on AMX tiles against float64 of bf16-rounded operands."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.attention_amx import AttentionAmx

HOST = isas.host()
AMX = AttentionAmx()
F32, BF16 = DType.F32, DType.BF16

pytestmark = pytest.mark.skipif(not HOST.amx_bf16, reason="no AMX")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(BF16.np).astype(float)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float,
              causal: bool = False) -> np.ndarray:
    s = np.einsum("bhsd,bhtd->bhst", rounded(q), rounded(k)) * scale
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask.astype(float)
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
        p = p / p.sum(-1, keepdims=True)
    return np.einsum("bhst,bhte->bhse", p, rounded(v))


def simple(b: int, h: int, s: object, t: object, d: int, e: int, mask: Tensor | None = None, dtype: DType = F32,
           dims: dict | None = None, **attrs: object) -> Region:
    ins = (strided(dtype, (b, h, s, d)), strided(dtype, (b, h, t, d), 3), strided(dtype, (b, h, t, e), 1))
    ins = ins if mask is None else (*ins, mask)
    out = strided(dtype, (b, h, s, e), 2)
    return Region("attention", {"scale": 0.3, "causal": False, "masked_zero": False, **attrs}, ins, len(ins), out,
                  Tensor.dense(F32, out.shape), compute="bf16", dims=dims or {})


def close(got: np.ndarray, want: np.ndarray) -> None:
    assert np.array_equal(np.isnan(got.astype(float)), np.isnan(want))
    assert np.nanmax(np.abs(got.astype(float) - want), initial=0) < 2e-2


@pytest.mark.parametrize("size", [(1, 2, 37, 53, 16, 16), (2, 1, 5, 19, 8, 24), (1, 1, 65, 1, 3, 5),
                                  (1, 2, 64, 64, 64, 64)])
@pytest.mark.parametrize("dtype", [F32, BF16, DType.F16], ids=lambda d: d.value)
def test_lengths_that_divide_nothing(size: tuple, dtype: DType) -> None:
    b, h, s, t, d, e = size
    q, k, v = (normal(b, h, *x, seed=i).astype(dtype.np) for i, x in enumerate([(s, d), (t, d), (t, e)]))
    for params in AMX.space(simple(*size, dtype=dtype), HOST, 2):
        got, = run_region(simple(*size, dtype=dtype), AMX, params, HOST, [q, k, v])
        close(got, reference(q, k, v, None, 0.3))


def test_symbolic_lengths() -> None:
    r = simple(2, 2, symbol("s"), symbol("t"), 16, 16, dims={"s": (0, 30, 80), "t": (1, 30, 80)})
    for s, t in ((33, 70), (5, 32), (80, 1), (0, 3)):
        q, k, v = normal(2, 2, s, 16), normal(2, 2, t, 16, seed=1), normal(2, 2, t, 16, seed=2)
        got, = run_region(r, AMX, {"rows": 64}, HOST, [q, k, v], {"s": s, "t": t})
        close(got, reference(q, k, v, None, 0.3))


@pytest.mark.parametrize("shape", [(2, 1, 1, 45), (1, 2, 37, 45), (37, 45), (2, 2, 37, 1), (1,)], ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_any_broadcast(shape: tuple, kind: str) -> None:
    q, k, v = normal(2, 2, 37, 8), normal(2, 2, 45, 8, seed=1), normal(2, 2, 45, 8, seed=2)
    m = normal(*shape, seed=3)
    mask = m > -0.8 if kind == "bool" else np.where(m > 1.2, -np.inf, m)
    r = simple(2, 2, 37, 45, 8, 8, strided(DType.BOOL if kind == "bool" else F32, shape))
    got, = run_region(r, AMX, {"rows": 32}, HOST, [q, k, v, mask])
    close(got, reference(q, k, v, mask, 0.3))


@pytest.mark.parametrize("masked_zero", [False, True])
def test_a_row_with_everything_masked_is_nan_or_zero(masked_zero: bool) -> None:
    q, k, v = normal(1, 1, 20, 8), normal(1, 1, 40, 8, seed=1), normal(1, 1, 40, 8, seed=2)
    mask = normal(20, 40, seed=3) > 0
    mask[3] = False
    r = simple(1, 1, 20, 40, 8, 8, strided(DType.BOOL, (20, 40)), masked_zero=masked_zero)
    got, = run_region(r, AMX, {"rows": 32}, HOST, [q, k, v, mask])
    want = reference(q, k, v, mask, 0.3)
    close(got, np.where(np.isnan(want), 0, want) if masked_zero else want)


@pytest.mark.parametrize("scale", [0.3, -0.5])
def test_causal_rows_see_their_past(scale: float) -> None:
    q, k, v = normal(1, 2, 70, 8), normal(1, 2, 61, 8, seed=1), normal(1, 2, 61, 8, seed=2)
    got, = run_region(simple(1, 2, 70, 61, 8, 8, causal=True, scale=scale), AMX, {"rows": 32}, HOST, [q, k, v])
    close(got, reference(q, k, v, None, scale, True))
