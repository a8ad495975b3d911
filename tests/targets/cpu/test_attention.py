"""Fused attention against float64: lengths, masks, strides, types, rows with nothing to see."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.attention import Attention
from whet.targets.cpu.compile import to_assembly

HOST = isas.host()
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
FUSED = Attention()
F32, BF16 = DType.F32, DType.BF16


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float, causal: bool = False,
              masked_zero: bool = False) -> np.ndarray:
    s = np.einsum("bhsd,bhtd->bhst", q.astype(float), k.astype(float)) * scale
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask.astype(float)
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True, initial=-np.inf))
        p = p / p.sum(-1, keepdims=True)
    if masked_zero:
        p = np.where(np.all(s == -np.inf, -1, keepdims=True), 0, p)
    return np.einsum("bhst,bhte->bhse", p, v.astype(float))


def region(q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor | None = None, **attrs: object) -> Region:
    more = {x: attrs.pop(x) for x in ("dims", "compute") if x in attrs}
    ins = (q, k, v) if mask is None else (q, k, v, mask)
    return Region("attention", {"scale": 0.3, "causal": False, "masked_zero": False, **attrs}, ins, len(ins), out,
                  Tensor.dense(F32, out.shape), **more)


def simple(b: int, h: int, s: int, t: int, d: int, e: int, mask: Tensor | None = None, **attrs: object) -> Region:
    return region(strided(F32, (b, h, s, d)), strided(F32, (b, h, t, d), 3), strided(F32, (b, h, t, e), 1),
                  strided(F32, (b, h, s, e), 2), mask, **attrs)


def params(**changes: object) -> dict:
    return {"mr": 6, "nv": 2, "block": 0, "copy": False, **changes}


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("size", [(1, 2, 37, 53, 16, 16), (2, 1, 1, 19, 8, 24), (1, 1, 65, 1, 3, 5)])
@pytest.mark.parametrize("block", [0, 16])
def test_lengths_that_divide_nothing(isa: isas.Isa, size: tuple, block: int) -> None:
    b, h, s, t, d, e = size
    q, k, v = normal(b, h, s, d), normal(b, h, t, d, seed=1), normal(b, h, t, e, seed=2)
    for copy in (False, True):
        got, = run_region(simple(*size), FUSED, params(block=block, copy=copy), isa, [q, k, v])
        np.testing.assert_allclose(got, reference(q, k, v, None, 0.3), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("shape", [(1, 1, 1, 33), (2, 1, 1, 33), (1, 2, 21, 33), (21, 33), (2, 2, 21, 1), (1,)],
                         ids=str)
@pytest.mark.parametrize("kind", ["bool", "float", "bf16"])
def test_masks_of_any_broadcast(isa: isas.Isa, shape: tuple, kind: str) -> None:
    q, k, v = normal(2, 2, 21, 8), normal(2, 2, 33, 8, seed=1), normal(2, 2, 33, 8, seed=2)
    m = normal(*shape, seed=3)
    dtype = {"bool": DType.BOOL, "float": F32, "bf16": BF16}[kind]
    mask = m > -0.8 if kind == "bool" else np.where(m > 1.2, -np.inf, m).astype(dtype.np)
    for block in (0, 16):
        r = simple(2, 2, 21, 33, 8, 8, strided(dtype, shape))
        got, = run_region(r, FUSED, params(block=block), isa, [q, k, v, mask])
        want = reference(q, k, v, mask, 0.3)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("masked_zero", [False, True])
def test_a_row_with_everything_masked_is_nan_or_zero(masked_zero: bool) -> None:
    q, k, v = normal(1, 1, 20, 8), normal(1, 1, 40, 8, seed=1), normal(1, 1, 40, 8, seed=2)
    mask = normal(20, 40, seed=3) > 0
    mask[3], mask[5, :17], mask[7, 16:] = False, False, False
    for block in (0, 16):
        r = simple(1, 1, 20, 40, 8, 8, strided(DType.BOOL, (20, 40)), masked_zero=masked_zero)
        got, = run_region(r, FUSED, params(block=block), HOST, [q, k, v, mask])
        np.testing.assert_allclose(got, reference(q, k, v, mask, 0.3, False, masked_zero), rtol=2e-5, atol=2e-6)
        assert np.isnan(got[0, 0, 3]).all() != masked_zero


def test_causal_rows_see_their_past() -> None:
    q, k, v = normal(1, 2, 70, 8), normal(1, 2, 61, 8, seed=1), normal(1, 2, 61, 8, seed=2)
    for block in (0, 16):
        got, = run_region(simple(1, 2, 70, 61, 8, 8, causal=True), FUSED, params(block=block), HOST, [q, k, v])
        np.testing.assert_allclose(got, reference(q, k, v, None, 0.3, True), rtol=2e-5, atol=2e-6)


def test_heads_inside_rows_and_symbolic_lengths() -> None:
    b, s, t = symbol("b"), symbol("s"), symbol("t")
    h, d = 3, 8

    def heads(n: object) -> Tensor:  # [B, H, N, D] inside [B, N, 3, H, D]
        return Tensor(F32, (b, h, n, d), (n * 3 * h * d, d, 3 * h * d, 1))

    out = Tensor(F32, (b, h, s, d), (s * h * d, d, h * d, 1))
    mask = strided(F32, (b, 1, 1, t))
    r = region(heads(s), heads(t), heads(t), out, mask,
               dims={"b": (0, 2, 3), "s": (0, 16, 50), "t": (1, 16, 60)})
    for lengths in ((2, 17, 5), (1, 50, 60), (0, 3, 3), (1, 0, 2)):
        env = dict(zip("bst", lengths, strict=True))
        q, k, v = (normal(env["b"], h, env[n], d, seed=i) for i, n in enumerate("stt"))
        m = normal(env["b"], 1, 1, env["t"], seed=9)
        for block in (0, 32):
            got, = run_region(r, FUSED, params(block=block, mr=5), HOST, [q, k, v, m], env)
            np.testing.assert_allclose(got, reference(q, k, v, m, 0.3), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize(("compute", "dtype"), [("f32", BF16), ("bf16", BF16), ("f32", DType.F16)], ids=str)
def test_half_precision_in_memory(isa: isas.Isa, compute: str, dtype: DType) -> None:
    b, h, s, t, d, e = 1, 2, 19, 35, 16, 16
    q, k, v = (normal(b, h, *x, seed=i).astype(dtype.np) for i, x in enumerate([(s, d), (t, d), (t, e)]))
    r = region(strided(dtype, (b, h, s, d)), strided(dtype, (b, h, t, d)), strided(dtype, (b, h, t, e)),
               strided(dtype, (b, h, s, e)), compute=compute)
    p = next(iter(FUSED.space(r, isa, 2)))
    got, = run_region(r, FUSED, p, isa, [q, k, v])
    assert got.dtype == dtype.np
    np.testing.assert_allclose(got.astype(float), reference(q, k, v, None, 0.3), rtol=2e-2, atol=1e-2)


def test_infinite_and_nan_inputs_spoil_only_their_rows() -> None:
    q, k, v = normal(1, 1, 18, 8), normal(1, 1, 20, 8, seed=1), normal(1, 1, 20, 8, seed=2)
    q[0, 0, 4, 2], v[0, 0, 3, 1] = np.nan, np.inf
    got, = run_region(simple(1, 1, 18, 20, 8, 8), FUSED, params(), HOST, [q, k, v])
    np.testing.assert_allclose(got, reference(q, k, v, None, 0.3), rtol=2e-5, atol=2e-6)


def test_the_same_kernel_compiles_for_neon() -> None:
    r = simple(1, 4, 64, 64, 32, 32)
    code = FUSED.implement(r, next(iter(FUSED.space(r, isas.NEON, 4))), isas.NEON, 4).steps[0].kernel.code
    assert to_assembly(code, isas.NEON).count("fmla") > 20
