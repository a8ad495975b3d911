"""Attention as decoders run it: past keys, grouped heads, caches with room to spare, windows, soft caps."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol
from whet.targets.base import Tactic
from whet.targets.cpu import isa as isas
from whet.targets.cpu.attention import Attention
from whet.targets.cpu.attention_amx import AttentionAmx

HOST = isas.host()
F32, BF16 = DType.F32, DType.BF16
ISAS = list({HOST.name: HOST, "avx2": isas.AVX2}.values())
TACTICS: list[tuple[Tactic, str]] = [(Attention(), "f32")] + ([(AttentionAmx(), "bf16")] if HOST.amx_bf16 else [])
KINDS = pytest.mark.parametrize(("tactic", "compute"), TACTICS, ids=lambda x: getattr(x, "name", x))


def region(b: Dim, h: int, g: int, s: Dim, t: Dim, d: int, e: int, mask: Tensor | None = None, lengths: bool = False,
           compute: str = "f32", dims: dict | None = None, room: int = 0, dtype: DType = F32,
           **attrs: object) -> Region:
    """q [b, h, s, d]; k, v [b, g, t, .] inside a cache with `room` more places."""
    def cache(w: int) -> Tensor:
        return Tensor(dtype, (b, g, t, w), (g * (t + room) * w, (t + room) * w, w, 1))

    ins = [strided(dtype, (b, h, s, d), 2), cache(d), cache(e)]
    if mask is not None:
        ins.append(mask)
    if lengths:
        ins.append(Tensor.dense(DType.I64, (b,)))
        attrs["absent"] = (3,) if mask is None else ()
    out = Tensor(dtype, (b, h, s, e), (s * h * e, e, h * e, 1))  # heads side by side
    return Region("attention", {"scale": 0.3, "causal": False, "masked_zero": True, "offset": 0, "window": 0,
                                "softcap": 0.0, **attrs}, tuple(ins), len(ins), out, Tensor.dense(F32, out.shape),
                  dims=dims or {}, compute=compute)


def check(r: Region, tactic: Tactic, env: dict[str, int] | None = None, lengths: list[int] | None = None,
          isa: isas.Isa = HOST, few: int = 12) -> None:
    from whet.ir.symbolic import evaluate

    env = env or {}
    rng = np.random.default_rng(5)
    arrays: list[np.ndarray] = []
    for t in r.inputs:
        shape = [evaluate(d, env) for d in t.shape]
        x = rng.standard_normal(shape)
        arrays.append(x > -0.8 if t.dtype is DType.BOOL else x.astype(t.dtype.np))
    if lengths is not None:
        arrays[-1] = np.array(lengths, np.int64)
        for x in arrays[1:3]:  # what lies behind the length is never looked at
            for i, n in enumerate(lengths):
                x[i, :, max(n, 0):] = np.nan
    exact = replace(r, compute="f32", anchor=Tensor.dense(DType.F64, r.anchor.shape))
    want = [a.astype(np.float64) if a.dtype != bool and a.dtype != np.int64 else a for a in arrays]
    if r.compute == "bf16":
        want[:3] = [a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in arrays[:3]]
    if lengths is not None:
        want[1:3] = [np.nan_to_num(a) for a in want[1:3]]
    ideal = replace(exact, inputs=tuple(replace(t, dtype=DType.F64) if t.dtype.is_float else t for t in r.inputs),
                    output=replace(r.output, dtype=DType.F64))
    ref, = region_reference(ideal, want, env)
    tolerance = {"f32": 3e-6, "bf16": 2e-2}[r.compute] if r.output.dtype is F32 else 2e-2
    settings = list(tactic.space(r, isa, 2))[::5][:2]
    assert settings
    for params in settings:
        got, = run_region(r, tactic, params, isa, arrays, env)
        np.testing.assert_allclose(got.astype(np.float64), ref, rtol=10 * tolerance, atol=tolerance)


@KINDS
@pytest.mark.parametrize("past", [0, 5, 40])
def test_causal_rows_see_the_past_and_themselves(tactic: Tactic, compute: str, past: int) -> None:
    check(region(2, 2, 2, 37, 37 + past, 16, 8, causal=True, offset=past, compute=compute), tactic)


@KINDS
@pytest.mark.parametrize("offset", [-50, -3])
def test_rows_before_the_first_key_give_zero(tactic: Tactic, compute: str, offset: int) -> None:
    check(region(1, 2, 2, 37, 40, 16, 16, causal=True, offset=offset, compute=compute), tactic)


@KINDS
@pytest.mark.parametrize("heads", [(6, 2), (5, 1), (4, 4)])
def test_groups_of_heads_share_keys_and_values(tactic: Tactic, compute: str, heads: tuple[int, int]) -> None:
    h, g = heads
    mask = strided(F32, (2, h, 19, 35))
    check(region(2, h, g, 19, 35, 16, 24, mask, compute=compute), tactic)


@KINDS
@pytest.mark.parametrize("s", [1, 2, 4, 5, 33])
def test_lengths_below_the_caches_capacity(tactic: Tactic, compute: str, s: int) -> None:
    if s <= 4 and compute == "bf16":
        tactic = Attention()
    for causal in (False, True):
        r = region(3, 4, 2, s, 50, 16, 16, lengths=True, compute=compute, causal=causal, room=9)
        check(r, tactic, lengths=[s, 50, 37])


@KINDS
def test_a_length_of_zero_gives_zero(tactic: Tactic, compute: str) -> None:
    check(region(2, 2, 1, 9, 20, 8, 8, lengths=True, compute=compute), tactic, lengths=[0, 20])


@KINDS
@pytest.mark.parametrize("window", [1, 7, 33, 100])
def test_windows_hide_keys_long_past(tactic: Tactic, compute: str, window: int) -> None:
    mask = strided(DType.BOOL, (1, 1, 45, 60))
    check(region(1, 2, 1, 45, 60, 8, 8, mask, causal=True, offset=15, window=window, compute=compute), tactic)


@KINDS
def test_soft_caps_bound_the_scores_before_the_mask(tactic: Tactic, compute: str) -> None:
    mask = strided(F32, (1, 1, 1, 29))
    check(region(1, 2, 2, 21, 29, 16, 16, mask, softcap=1.5, scale=1.1, compute=compute), tactic)


@KINDS
def test_any_number_of_queries_and_keys_in_one_plan(tactic: Tactic, compute: str) -> None:
    s, past, b = symbol("s"), symbol("past"), symbol("b")
    dims = {"s": (1, 16, 40), "past": (0, 30, 1100), "b": (1, 1, 2)}
    r = region(b, 4, 2, s, s + past, 24, 16, compute=compute, causal=True, offset=past, dims=dims)
    for env in ({"s": 1, "past": 0}, {"s": 1, "past": 1100}, {"s": 4, "past": 13}, {"s": 5, "past": 13},
                {"s": 40, "past": 0}):
        check(r, tactic, {**env, "b": 2})


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("width", [(64, 64), (3, 5), (40, 136)])
@pytest.mark.parametrize("dtype", [F32, BF16, DType.F16], ids=lambda d: d.value)
def test_single_queries(isa: isas.Isa, width: tuple[int, int], dtype: DType) -> None:
    d, e = width
    for t in (17, 1029):
        check(region(1, 3, 1, 1, t, d, e, dtype=dtype, softcap=3.0 if t == 17 else 0.0), Attention(), isa=isa)


@pytest.mark.parametrize("shape", [(1, 1, 1, 77), (2, 1, 2, 77), (2, 77), (1, 2, 2, 1)], ids=str)
@pytest.mark.parametrize("dtype", [DType.BOOL, F32, BF16], ids=lambda d: d.value)
def test_single_queries_under_masks(shape: tuple[int, ...], dtype: DType) -> None:
    check(region(2, 2, 1, 2, 77, 16, 16, strided(dtype, shape)), Attention())


def test_single_queries_in_bf16() -> None:
    check(region(1, 4, 2, 1, 300, 64, 64, compute="bf16"), Attention())
    check(region(1, 4, 2, 1, 300, 64, 64, compute="bf16", dtype=BF16), Attention())


def test_keys_without_a_useful_bound_still_fit_scratch_memory() -> None:
    t = symbol("t")
    r = region(1, 2, 1, 9, t, 16, 16, causal=True, offset=t - 9, dims={"t": (0, 1, 1 << 20)})
    for params in Attention().space(r, HOST, 2):
        assert sum(s.kernel.scratch_bytes for s in Attention().implement(r, params, HOST, 2).steps) < 1 << 23
    check(r, Attention(), {"t": 300})
