"""Fused attention of 8-bit codes on AMX tiles against the reference: the operator's own definition."""

import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.graph import Graph, Value
from whet.ir.ops import evaluate
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.attention_int8 import AttentionInt8

HOST = isas.host()
INT8 = AttentionInt8()
F32, BF16, I8, U8 = DType.F32, DType.BF16, DType.I8, DType.U8
SCALES = {"q_scale": 0.03, "k_scale": 0.02, "v_scale": 0.01}

pytestmark = pytest.mark.skipif(not HOST.amx_int8, reason="no AMX for integers")


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng([seed, *shape])
    return np.clip(np.rint(r.standard_normal(shape) * 45), -128, 127).astype(np.int8)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng([9, *shape]).standard_normal(shape).astype(np.float32)


def reference(arrays: list[np.ndarray | None], **attrs: object) -> np.ndarray:
    g = Graph("reference")
    ins = [None if a is None else Value(f"x{i}", DType.of(a.dtype), a.shape) for i, a in enumerate(arrays)]
    y = g.add("attention", ins, {"scale": 0.3, **SCALES, **attrs})
    assert y.producer is not None
    return evaluate(y.producer, arrays)[0]


def region(b: int, h: int, s: object, t: object, d: int, e: int, more: tuple[Tensor, ...] = (),
           dims: dict | None = None, kv: int = 0, out: DType = F32, epilogue: Expr | None = None,
           **attrs: object) -> Region:
    ins = (strided(I8, (b, h, s, d)), strided(I8, (b, kv or h, t, d), 3), strided(I8, (b, kv or h, t, e), 1), *more)
    to = strided(out, (b, h, s, e), 2)
    return Region("attention", {"scale": 0.3, "causal": False, "masked_zero": False, **SCALES, **attrs}, ins, len(ins),
                  to, Tensor.dense(F32, to.shape), epilogue, compute="int8", dims=dims or {})


def close(got: np.ndarray, want: np.ndarray) -> None:
    """Codes of probabilities may differ by one: the fixed-point exponential is within 0.2 %."""
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.nanmax(np.abs(got - want), initial=0) < 0.01 * 127 * SCALES["v_scale"]


@pytest.mark.parametrize("size", [(1, 2, 37, 53, 16, 16), (2, 1, 5, 19, 8, 24), (1, 1, 65, 1, 3, 5),
                                  (1, 2, 64, 64, 64, 64), (1, 1, 33, 197, 64, 64), (1, 1, 31, 129, 80, 70)])
def test_lengths_and_widths_that_divide_nothing(size: tuple) -> None:
    b, h, s, t, d, e = size
    q, k, v = codes(b, h, s, d), codes(b, h, t, d, seed=1), codes(b, h, t, e, seed=2)
    for params in INT8.space(region(*size), HOST, 2):
        got, = run_region(region(*size), INT8, params, HOST, [q, k, v])
        close(got, reference([q, k, v]))


def test_largest_codes_do_not_overflow() -> None:
    q, k, v = (np.full((1, 1, 40, 64), -128, np.int8) for _ in range(3))
    k[:, :, 7:9] = 127
    got, = run_region(region(1, 1, 40, 40, 64, 64), INT8, {"rows": 32}, HOST, [q, k, v])
    close(got, reference([q, k, v]))


def test_equal_values_give_that_value() -> None:
    """The weights of a row add up to one, whatever rounding did to them."""
    q, k, v = codes(1, 1, 9, 16), codes(1, 1, 300, 16, seed=1), np.full((1, 1, 300, 8), 77, np.int8)
    got, = run_region(region(1, 1, 9, 300, 16, 8), INT8, {"rows": 32}, HOST, [q, k, v])
    np.testing.assert_allclose(got, 77 * SCALES["v_scale"], rtol=1e-6)


def test_symbolic_lengths() -> None:
    r = region(2, 2, symbol("s"), symbol("t"), 16, 16, dims={"s": (0, 30, 80), "t": (1, 30, 150)})
    for s, t in ((33, 70), (5, 32), (80, 1), (0, 3), (2, 150)):
        q, k, v = codes(2, 2, s, 16), codes(2, 2, t, 16, seed=1), codes(2, 2, t, 16, seed=2)
        got, = run_region(r, INT8, {"rows": 64}, HOST, [q, k, v], {"s": s, "t": t})
        close(got, reference([q, k, v]))


@pytest.mark.parametrize("shape", [(2, 1, 1, 45), (1, 2, 37, 45), (37, 45), (2, 2, 37, 1), (1,)], ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_any_broadcast(shape: tuple, kind: str) -> None:
    q, k, v = codes(2, 2, 37, 8), codes(2, 2, 45, 8, seed=1), codes(2, 2, 45, 8, seed=2)
    m = normal(*shape)
    mask = m > -0.8 if kind == "bool" else np.where(m > 1.2, -np.inf, m)
    r = region(2, 2, 37, 45, 8, 8, (strided(DType.BOOL if kind == "bool" else F32, shape),))
    got, = run_region(r, INT8, {"rows": 32}, HOST, [q, k, v, mask])
    close(got, reference([q, k, v, mask]))


@pytest.mark.parametrize("row", [np.full(40, -3.4e38), np.r_[np.full(20, -np.inf), np.full(20, -3.4e38)],
                                 np.full(40, -1e4), np.r_[np.nan, np.zeros(39)], np.r_[np.inf, np.zeros(39)]],
                         ids=["lowest", "lowest beside -inf", "-10000", "nan", "inf"])
@pytest.mark.parametrize("shared", [True, False])
def test_masks_of_special_numbers(row: np.ndarray, shared: bool) -> None:
    q, k, v = codes(1, 1, 20, 8), codes(1, 1, 40, 8, seed=1), codes(1, 1, 40, 8, seed=2)
    mask = np.broadcast_to(row.astype(np.float32), (1 if shared else 20, 40)).copy()
    got, = run_region(region(1, 1, 20, 40, 8, 8, (strided(F32, mask.shape),)), INT8, {"rows": 32}, HOST,
                      [q, k, v, mask])
    with np.errstate(invalid="ignore", over="ignore"):
        want = reference([q, k, v, mask])
    close(got, want)


@pytest.mark.parametrize("masked_zero", [False, True])
def test_a_row_with_everything_masked_is_nan_or_zero(masked_zero: bool) -> None:
    q, k, v = codes(1, 1, 20, 8), codes(1, 1, 40, 8, seed=1), codes(1, 1, 40, 8, seed=2)
    mask = normal(20, 40) > 0
    mask[3] = False
    r = region(1, 1, 20, 40, 8, 8, (strided(DType.BOOL, (20, 40)),), masked_zero=masked_zero)
    got, = run_region(r, INT8, {"rows": 32}, HOST, [q, k, v, mask])
    close(got, reference([q, k, v, mask], masked_zero=masked_zero))


@pytest.mark.parametrize("attrs", [{}, {"offset": -9}, {"offset": 5, "window": 20}, {"scale": -0.5},
                                   {"softcap": 3.0}, {"scale": 1e-9}], ids=str)
@pytest.mark.parametrize("masked_zero", [False, True])
def test_causal_rows_see_their_past(attrs: dict, masked_zero: bool) -> None:
    q, k, v = codes(1, 2, 70, 8), codes(1, 2, 161, 8, seed=1), codes(1, 2, 161, 8, seed=2)
    attrs = {"causal": True, "masked_zero": masked_zero, **attrs}
    got, = run_region(region(1, 2, 70, 161, 8, 8, **attrs), INT8, {"rows": 32}, HOST, [q, k, v])
    close(got, reference([q, k, v], **attrs))


def test_keys_behind_a_length_do_not_exist_and_heads_are_shared() -> None:
    q, k, v = codes(3, 4, 33, 8), codes(3, 2, 90, 8, seed=1), codes(3, 2, 90, 8, seed=2)
    lengths = np.array([90, 1, 65], np.int64)
    r = region(3, 4, 33, 90, 8, 8, (strided(DType.I64, (3,)),), kv=2, absent=(3,))
    got, = run_region(r, INT8, {"rows": 32}, HOST, [q, k, v, lengths])
    close(got, reference([q, k, v, None, lengths]))


def test_results_go_through_the_epilogue() -> None:
    q, k, v = codes(1, 2, 37, 16), codes(1, 2, 53, 16, seed=1), codes(1, 2, 53, 24, seed=2)
    e = Expr((Leaf(ANCHOR, F32), Imm(100.0, F32), Apply("mul", (0, 1), F32),
              Apply("saturate", (2,), U8, (("zero", 120), ("to", U8)))))
    got, = run_region(region(1, 2, 37, 53, 16, 24, out=U8, epilogue=e), INT8, {"rows": 32}, HOST, [q, k, v])
    want = np.clip(np.rint(reference([q, k, v]) * 100) + 120, 0, 255)
    assert np.abs(got.astype(int) - want).max() <= 1


def test_what_it_does_not_take_has_a_reason() -> None:
    assert "f32" in INT8.applies(Region("attention", {"scale": 1.0}, (strided(F32, (1, 1, 9, 8)),) * 3, 3,
                                        strided(F32, (1, 1, 9, 8)), strided(F32, (1, 1, 9, 8))), HOST)
    assert "keys" in INT8.applies(region(1, 1, 9, 9000, 8, 8), HOST)
    assert "AMX" in INT8.applies(region(1, 1, 9, 9, 8, 8), isas.named("avx512_vnni"))
