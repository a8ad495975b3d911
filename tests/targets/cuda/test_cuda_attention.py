"""Fused attention for GPUs in Triton's interpreter, against float64: lengths, masks, strides, types, sight."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton")
from attention_regions import BF16, F16, F32, I8, arrays_of, check, region, strided
from interpreted import run

from whet.abi_cuda import Cubin, unpack
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.base import Implementation
from whet.targets.cuda.attention import Attention
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import typical

H100 = typical((9, 0))
FUSED = Attention()


def made(r: Region, rows: int = 16, keys: int = 16) -> Implementation:
    assert FUSED.applies(r, H100) == ""
    return FUSED.implement(r, {"rows": rows, "keys": keys, "warps": 4, "stages": 2}, H100, 1)


@pytest.mark.parametrize("size", [(1, 2, 37, 53, 16, 16), (2, 1, 1, 19, 8, 24), (1, 1, 17, 1, 3, 5),
                                  (1, 1, 16, 32, 40, 80)], ids=str)
@pytest.mark.parametrize("blocks", [(16, 16), (32, 64)], ids=str)
def test_lengths_and_widths_that_divide_nothing(size: tuple, blocks: tuple) -> None:
    b, h, s, t, d, e = size
    r = region(b, h, h, s, t, d, e)
    check(run, r, made(r, *blocks))


@pytest.mark.parametrize("shape", [(1, 1, 1, 33), (2, 1, 1, 33), (1, 2, 15, 33), (15, 33), (2, 2, 15, 1), (1,)],
                         ids=str)
@pytest.mark.parametrize("dtype", [DType.BOOL, F32, BF16], ids=lambda d: d.value)
def test_masks_of_any_broadcast(shape: tuple, dtype: DType) -> None:
    r = region(2, 2, 2, 15, 33, 8, 8, strided(dtype, shape))
    check(run, r, made(r))


@pytest.mark.parametrize("masked_zero", [False, True])
@pytest.mark.parametrize("keys", [16, 64])
def test_a_row_with_everything_masked_is_nan_or_zero(masked_zero: bool, keys: int) -> None:
    r = region(1, 1, 1, 20, 40, 8, 8, strided(DType.BOOL, (20, 40)), masked_zero=masked_zero)
    arrays = arrays_of(r, {})
    arrays[3] = arrays[3].copy()
    arrays[3][3], arrays[3][5, :17], arrays[3][7, 16:] = False, False, False
    got = check(run, r, made(r, 16, keys), arrays=arrays)
    assert np.isnan(got[0, 0, 3]).all() != masked_zero


@pytest.mark.parametrize("row", [np.full(40, -3.4e38), np.r_[np.full(20, -np.inf), np.full(20, -3.4e38)],
                                 np.full(40, -1e4), np.r_[np.nan, np.zeros(39)], np.r_[np.inf, np.zeros(39)]],
                         ids=["lowest", "lowest beside -inf", "-10000", "nan", "inf"])
@pytest.mark.parametrize("shared", [True, False])
def test_masks_of_special_numbers(row: np.ndarray, shared: bool) -> None:
    mask = np.broadcast_to(row.astype(np.float32), (1 if shared else 20, 40)).copy()
    r = region(1, 1, 1, 20, 40, 8, 8, strided(F32, mask.shape))
    arrays = [*arrays_of(r, {})[:3], mask]
    check(run, r, made(r), arrays=[a.astype(np.float32) for a in arrays],
          tolerance=1e-3 if row[0] == -1e4 else 3e-5)


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_infinite_and_nan_inputs_spoil_only_their_rows() -> None:
    r = region(1, 1, 1, 18, 20, 8, 8)
    arrays = arrays_of(r, {})
    arrays[0][0, 0, 4, 2], arrays[2][0, 0, 3, 1] = np.nan, np.inf
    got = check(run, r, made(r), arrays=arrays)
    assert np.isnan(got[0, 0, 4]).all()
    assert np.isfinite(np.delete(got[0, 0], 4, 0)[:, 2:]).all()


@pytest.mark.parametrize("past", [0, 5, 40])
def test_causal_rows_see_the_past_and_themselves(past: int) -> None:
    r = region(1, 2, 2, 37, 37 + past, 16, 16, causal=True, offset=past)
    check(run, r, made(r))


@pytest.mark.parametrize("size", [(20, 70, 50), (33, 64, 31), (40, 90, 0)], ids=str)
def test_blocks_that_every_row_sees_come_first(size: tuple[int, int, int]) -> None:
    s, t, past = size
    r = region(1, 2, 1, s, t, 16, 16, causal=True, offset=past)
    code = made(r).steps[0].kernel.code
    assert code.count("for t0 in") == 2
    check(run, r, made(r))


@pytest.mark.parametrize("offset", [-50, -3])
def test_rows_before_the_first_key_give_zero(offset: int) -> None:
    r = region(1, 2, 2, 37, 40, 16, 16, causal=True, offset=offset, masked_zero=True)
    check(run, r, made(r))


@pytest.mark.parametrize("heads", [(4, 2), (3, 1)])
def test_groups_of_heads_share_keys_and_values(heads: tuple[int, int]) -> None:
    h, g = heads
    r = region(1, h, g, 19, 35, 16, 24, strided(F32, (1, h, 19, 35)), causal=True, offset=20)
    check(run, r, made(r))


@pytest.mark.parametrize("s", [1, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_below_the_caches_capacity(s: int, causal: bool) -> None:
    r = region(3, 2, 1, s, 50, 16, 16, lengths=True, causal=causal, room=9, masked_zero=True)
    check(run, r, made(r), lengths=[s, 50, 37])


def test_a_length_of_zero_gives_zero() -> None:
    r = region(2, 2, 1, 9, 20, 8, 8, lengths=True, masked_zero=True)
    check(run, r, made(r), lengths=[0, 20])


@pytest.mark.parametrize("window", [1, 33])
def test_windows_hide_keys_long_past(window: int) -> None:
    r = region(1, 2, 1, 45, 60, 8, 8, strided(DType.BOOL, (1, 1, 45, 60)), causal=True, offset=15, window=window,
               masked_zero=True)
    check(run, r, made(r))


def test_soft_caps_bound_the_scores_before_the_mask() -> None:
    r = region(1, 2, 2, 21, 29, 16, 16, strided(F32, (1, 1, 1, 29)), softcap=1.5, scale=1.1)
    check(run, r, made(r))


@pytest.mark.parametrize("sizes", [(2, 17, 5), (1, 20, 33), (0, 3, 3), (1, 0, 2), (1, 3, 0)])
def test_any_batch_number_of_queries_and_of_keys_in_one_kernel(sizes: tuple[int, int, int]) -> None:
    b, s, t = symbol("b"), symbol("s"), symbol("t")
    dims = {"b": (0, 2, 3), "s": (0, 16, 50), "t": (0, 16, 60)}
    r = region(b, 4, 2, s, t, 24, 16, strided(F32, (b, 1, 1, t)), dims=dims)
    check(run, r, made(r), dict(zip("bst", sizes, strict=True)))


def test_past_and_present_of_symbolic_lengths() -> None:
    s, past, room = symbol("s"), symbol("past"), symbol("room")
    dims = {"s": (1, 16, 40), "past": (0, 30, 100), "room": (0, 0, 50)}
    r = region(1, 4, 2, s, s + past, 16, 16, causal=True, offset=past, room=room, dims=dims)  # type: ignore[arg-type]
    for values in ((1, 0, 5), (1, 100, 0), (40, 3, 7)):
        check(run, r, made(r), dict(zip(("s", "past", "room"), values, strict=True)))


def test_queries_keys_and_values_side_by_side_in_rows() -> None:
    r = region(2, 3, 3, 20, 20, 16, 16, packed=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 16)).astype(np.float32)
    check(run, r, made(r), arrays=[x, x, x])


@pytest.mark.parametrize(("dtype", "compute"), [(F16, "f16"), (BF16, "bf16"), (F16, "f32"), (BF16, "f32"),
                                                (F32, "f16"), (F32, "tf32"), (DType.F64, "f32")], ids=str)
def test_types(dtype: DType, compute: str) -> None:
    r = region(1, 2, 2, 19, 35, 16, 24, dtype=dtype, compute=compute)
    check(run, r, made(r))


@pytest.mark.parametrize("keys", [16, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_codes_of_eight_bits(keys: int, masked: bool) -> None:
    mask = strided(DType.BOOL, (21, 50)) if masked else None
    r = region(1, 2, 2, 21, 50, 24, 16, mask, dtype=I8, compute="int8", masked_zero=True)
    check(run, r, made(r, 16, keys))


def test_an_epilogue_reads_the_result_and_other_tensors() -> None:
    add = Expr((Leaf(ANCHOR, F32), Leaf(3, F16), Apply("cast", (1,), F32, (("to", F32),)), Apply("add", (0, 2), F32),
                Apply("cast", (3,), F16, (("to", F16),))))
    r = region(1, 2, 2, 21, 29, 16, 16, epilogue=add, out=F16, more=(strided(F16, (1, 2, 21, 16)),))
    check(run, r, made(r))


def test_operands_computed_on_load() -> None:
    r = region(1, 2, 2, 21, 29, 12, 12)
    shift = Expr((Leaf(1, F32), Leaf(3, F32), Apply("add", (0, 1), F32), Apply("exp", (2,), F32)))
    r = replace(r, prologue={1: shift}, inputs=(*r.inputs, Tensor.dense(F32, (1, 1, 1, 12))))
    check(run, r, made(r), tolerance=1e-4)


def test_regions_beyond_it_are_refused_with_the_reason() -> None:
    wide = region(1, 1, 1, 4, 4, symbol("d"), 8, dims={"d": (1, 8, 64)})  # type: ignore[arg-type]
    assert "symbolic" in FUSED.applies(wide, H100)
    assert "1025" in FUSED.applies(region(1, 1, 1, 4, 4, 8, 1025), H100)


MODELS = {
    "BERT": region(32, 12, 12, 128, 128, 64, 64, strided(F16, (32, 1, 1, 128)), dtype=F16, compute="f16", packed=True),
    "ViT": region(1, 12, 12, 197, 197, 64, 64, dtype=F16, compute="f16", packed=True),
    "80 wide": region(1, 2, 2, 50, 77, 80, 80, dtype=BF16, compute="bf16"),
    "prefill": region(1, 8, 2, 512, 512, 128, 128, dtype=F16, compute="f16", causal=True),
    "f32": region(1, 2, 2, 64, 64, 64, 64), "tf32": region(1, 2, 2, 64, 64, 96, 40, compute="tf32"),
    "f64": region(1, 2, 2, 64, 64, 64, 64, dtype=DType.F64),
    "codes": region(1, 2, 2, 90, 90, 64, 64, dtype=I8, compute="int8"),
    "1024 wide": region(1, 1, 1, 20, 20, 1024, 1024, dtype=F16, compute="f16"),
}


@pytest.mark.parametrize(("name", "number"), [*((n, 90) for n in MODELS), ("BERT", 80), ("tf32", 80), ("f64", 80)])
def test_kernels_compile(name: str, number: int) -> None:
    machine = typical((number // 10, number % 10))
    settings = list(FUSED.space(MODELS[name], machine, 1))
    assert 0 < len(settings) <= 24
    implementation = FUSED.implement(MODELS[name], settings[0], machine, 1)
    unit, code = unpack(to_object(implementation.steps[0].kernel.code, number))
    assert isinstance(unit, Cubin)
    assert unit.shared <= machine.shared_bytes
    assert len(code) > 0
