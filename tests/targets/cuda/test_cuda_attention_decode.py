"""Attention with the keys divided among programs, in Triton's interpreter, against float64."""

import numpy as np
import pytest

pytest.importorskip("triton")
from attention_regions import BF16, F16, F32, I8, arrays_of, check, region, strided
from interpreted import run

from whet.abi_cuda import Cubin, unpack
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import symbol
from whet.targets.base import Implementation
from whet.targets.cuda.attention_decode import AttentionDecode
from whet.targets.cuda.compile import to_object
from whet.targets.cuda.gpu import typical

H100 = typical((9, 0))
DECODE = AttentionDecode()
WAYS = pytest.mark.parametrize("rows", [1, 16])


def made(r: Region, rows: int = 1, parts: int = 4, keys: int = 16) -> Implementation:
    assert DECODE.applies(r, H100) == ""
    return DECODE.implement(r, {"parts": parts, "rows": rows, "keys": keys, "warps": 4, "stages": 2}, H100, 1)


@WAYS
@pytest.mark.parametrize("size", [(2, 3, 1, 1, 77, 16, 16), (1, 2, 1, 3, 35, 3, 5), (1, 1, 1, 1, 9, 40, 24)], ids=str)
@pytest.mark.parametrize("parts", [1, 4])
def test_few_queries_see_many_keys(rows: int, size: tuple, parts: int) -> None:
    b, h, g, s, t, d, e = size
    r = region(b, h, g if h % g == 0 else h, s, t, d, e)
    check(run, r, made(r, rows, parts))


@WAYS
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_below_the_caches_capacity(rows: int, causal: bool) -> None:
    r = region(3, 2, 1, 2, 50, 16, 16, lengths=True, causal=causal, room=9, masked_zero=True)
    check(run, r, made(r, rows, 2), lengths=[2, 50, 37])


@WAYS
def test_past_and_present_of_symbolic_lengths(rows: int) -> None:
    past, b, room = symbol("past"), symbol("b"), symbol("room")
    dims = {"past": (0, 30, 1000), "b": (0, 1, 4), "room": (0, 0, 50)}
    r = region(b, 4, 2, 1, past + 1, 16, 16, causal=True, offset=past, room=room, dims=dims)  # type: ignore[arg-type]
    for values in ((0, 1, 0), (70, 1, 3), (7, 0, 1)):
        check(run, r, made(r, rows), dict(zip(("past", "b", "room"), values, strict=True)))


@WAYS
@pytest.mark.parametrize("shape", [(1, 1, 1, 40), (1, 2, 2, 40), (2, 1, 2, 1)], ids=str)
@pytest.mark.parametrize("dtype", [DType.BOOL, F32], ids=lambda d: d.value)
def test_masks(rows: int, shape: tuple[int, ...], dtype: DType) -> None:
    r = region(2, 2, 1, 2, 40, 16, 16, strided(dtype, shape))
    check(run, r, made(r, rows, 2))


@WAYS
@pytest.mark.parametrize("masked_zero", [False, True])
def test_a_row_with_everything_masked_is_nan_or_zero(rows: int, masked_zero: bool) -> None:
    r = region(1, 1, 1, 3, 70, 8, 8, strided(DType.BOOL, (3, 70)), masked_zero=masked_zero)
    arrays = arrays_of(r, {})
    arrays[3][0], arrays[3][1, :60] = False, False
    got = check(run, r, made(r, rows), arrays=arrays)
    assert np.isnan(got[0, 0, 0]).all() != masked_zero


@WAYS
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_nan_and_infinite_inputs_spoil_only_their_rows(rows: int) -> None:
    r = region(1, 1, 1, 3, 70, 8, 8)
    arrays = arrays_of(r, {})
    arrays[0][0, 0, 1, 2], arrays[2][0, 0, 40, 3] = np.nan, np.inf
    check(run, r, made(r, rows), arrays=arrays)


@WAYS
@pytest.mark.parametrize(("dtype", "compute"), [(F16, "f16"), (BF16, "f32"), (F32, "tf32"), (DType.F64, "f32")],
                         ids=str)
def test_types(rows: int, dtype: DType, compute: str) -> None:
    r = region(1, 2, 2, 1, 70, 16, 24, dtype=dtype, compute=compute)
    check(run, r, made(r, rows))


@pytest.mark.parametrize("parts", [1, 4])
def test_an_epilogue_and_a_window(parts: int) -> None:
    add = Expr((Leaf(ANCHOR, F32), Leaf(3, F32), Apply("add", (0, 1), F32)))
    r = region(1, 4, 2, 2, 90, 16, 16, epilogue=add, more=(strided(F32, (1, 4, 2, 16)),), causal=True, offset=88,
               window=40, softcap=2.0)
    check(run, r, made(r, 16, parts))


def test_codes_and_many_queries_are_refused() -> None:
    assert "maximum" in DECODE.applies(region(1, 2, 2, 1, 70, 16, 16, dtype=I8, compute="int8"), H100)
    assert "rows" in DECODE.applies(region(1, 2, 2, 128, 128, 16, 16), H100)


@pytest.mark.parametrize(("which", "batch", "number"), [(0, 1, 80), (0, 32, 90), (-1, 1, 90)])
def test_kernels_compile(which: int, batch: int, number: int) -> None:
    machine = typical((number // 10, number % 10))
    past = symbol("past")
    r = region(batch, 12, 12, 1, past + 1, 64, 64, causal=True, offset=past, dtype=F16, compute="f16",
               dims={"past": (0, 511, 1023)}, room=1023 - past)  # type: ignore[arg-type]
    settings = list(DECODE.space(r, machine, 1))
    assert 0 < len(settings) <= 24
    for step in DECODE.implement(r, settings[which], machine, 1).steps:
        unit, code = unpack(to_object(step.kernel.code, number))
        assert isinstance(unit, Cubin)
        assert len(code) > 0
