"""Integer products on AMX tiles: raw sums exactly NumPy's, codes within a step where fp32 rounds on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conv_cases import check as check_floats
from conv_cases import conv_region, residual, spatial_out
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, evaluate, symbol
from whet.targets.cpu import isa as isas
from whet.targets.cpu.conv_tiles import ConvTiles
from whet.targets.cpu.conv_windows import ConvWindows
from whet.targets.cpu.gemm_tiles import GemmTiles

HOST = isas.host()
F32, I8, U8, I32 = DType.F32, DType.I8, DType.U8, DType.I32
TILES, CONV, WINDOWS = GemmTiles(), ConvTiles(), ConvWindows()
SETTINGS = ({"mt": 2, "nt": 2, "order": "nm", "ahead": True, "depth": 2},
            {"mt": 1, "nt": 3, "order": "mn", "ahead": False})

pytestmark = pytest.mark.skipif(not HOST.amx_int8, reason="this machine has no AMX for integers")


def requantized(out: DType, first: int, zero: int = 0, residual: int | None = None) -> Expr:
    """Sums by a scale and plus a bias per column (inputs `first` and `first` + 1), plus codes, ReLU, and rounded."""
    terms = [Leaf(ANCHOR, I32), Apply("cast", (0,), F32, (("to", F32),)), Leaf(first, F32), Apply("mul", (1, 2), F32),
             Leaf(first + 1, F32), Apply("add", (3, 4), F32)]
    if residual is not None:
        terms += [Leaf(residual, U8), Apply("cast", (6,), F32, (("to", F32),)), Imm(0.5, F32),
                  Apply("mul", (7, 8), F32), Apply("add", (5, 9), F32)]
    terms.append(Apply("relu", (len(terms) - 1,), F32))
    if out is not F32:
        terms.append(Apply("saturate", (len(terms) - 1,), out, (("zero", zero), ("to", out))))
    return Expr(tuple(terms))


def matmul(m: int, k: int, n: int, a: DType = U8, out: DType = I32, lead: tuple[int, ...] = (), gap: int = 0,
           symbolic: bool = False, zero: int = 0, residual: bool = False, b_lead: tuple[int, ...] = ()) -> Region:
    """A region of codes by weights; raw sums for an `out` of i32."""
    rows = symbol("m") if symbolic else m
    o = strided(out, (*lead, rows, n), gap)
    ins: list[Tensor] = [strided(a, (*lead, rows, k), gap), strided(I8, (*b_lead, k, n), const=True)]
    expr = None
    if out is not I32:
        ins += [strided(F32, (n,)), strided(F32, (n,))] + ([strided(U8, (*lead, rows, n), 1)] if residual else [])
        expr = requantized(out, 2, zero, 4 if residual else None)
    dims = {"m": (0 if m < 32 else 32, max(m, 1), 300)} if symbolic else {}
    return Region("matmul", {}, tuple(ins), 2, o, Tensor.dense(I32, o.shape), expr, compute="int8", dims=dims)


def conv(x: Sequence[Dim], o: int, kernel: Sequence[int], *, strides: Sequence[int] = (), pads: Sequence[int] = (),
         dilations: Sequence[int] = (), group: int = 1, dtype: DType = U8, out: DType = I32, pad_value: int = 0,
         gap: int = 0, x_gap: int = 0, dims: dict[str, tuple[int, int, int]] | None = None, residual: bool = False,
         zero: int = 0) -> Region:
    """A region of images of codes, channels last, by weights; raw sums for an `out` of i32."""
    r, c = len(kernel), x[-1]
    assert isinstance(c, int)
    strides, dilations = tuple(strides) or (1,) * r, tuple(dilations) or (1,) * r
    pads = tuple(pads) or (0,) * 2 * r
    sizes = (spatial_out(x[1 + i], kernel[i], strides[i], dilations[i], pads[i], pads[r + i]) for i in range(r))
    shape = (x[0], *sizes, o)
    ins: list[Tensor] = [strided(dtype, x, x_gap), Tensor.dense(I8, (o, c // group, *kernel), const=True)]
    at = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "channels_last": True,
          "pad_value": pad_value}
    expr = None
    if out is not I32:
        ins += [strided(F32, (o,)), strided(F32, (o,))] + ([strided(U8, shape)] if residual else [])
        expr = requantized(out, 2, zero, 4 if residual else None)
    return Region("conv", at, tuple(ins), 2, strided(out, shape, gap), Tensor.dense(I32, shape), expr, dims=dims or {},
                  compute="int8")


def data(region: Region, env: dict[str, int]) -> list[np.ndarray]:
    """Codes over their whole range; scales (the first real operand) that bring most sums into the range of codes."""
    rng = np.random.default_rng(0)
    found: list[np.ndarray] = []
    for t in region.inputs:
        shape = [evaluate(d, env) for d in t.shape]
        if t.dtype.is_float:
            size = 0.003 if len(found) == 2 else 20
            found.append((rng.standard_normal(shape) * size).astype(np.float32))
        else:
            i = np.iinfo(t.dtype.np)
            found.append(rng.integers(i.min, i.max, shape, t.dtype.np, endpoint=True))
    return found


def check(region: Region, tactic: object, settings: Sequence[dict], env: dict[str, int] | None = None) -> None:
    """The region by each setting against NumPy: exact sums, codes within one step (on at most 1 % of elements)."""
    arrays = data(region, env or {})
    want, = region_reference(region, arrays, env or {})
    for params in settings:
        got, = run_region(region, tactic, params, HOST, arrays, env)  # type: ignore[arg-type]
        if region.epilogue is None:
            np.testing.assert_array_equal(got, want, err_msg=str(params))
        elif region.output.dtype.is_float:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)
        else:
            off = np.abs(got.astype(int) - want.astype(int))
            assert off.max(initial=0) <= 1, params
            assert off.sum() <= 0.01 * off.size + 1, params


SIZES = [(1, 1, 1), (29, 7, 5), (17, 33, 49), (49, 68, 40), (65, 160, 100), (33, 24, 33), (64, 256, 64), (0, 4, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [U8, I8], ids=lambda d: d.value)
def test_sums_are_exact_for_every_size(size: tuple[int, int, int], dtype: DType) -> None:
    for symbolic in (False, True):
        region = matmul(*size, dtype, gap=3, symbolic=symbolic)
        check(region, TILES, (*SETTINGS, next(iter(TILES.space(region, HOST, 2)))), {"m": size[0]})


@pytest.mark.parametrize("out", [U8, I8, F32], ids=lambda d: d.value)
@pytest.mark.parametrize("size", [(17, 33, 49), (49, 200, 64), (100, 20, 17)], ids=str)
def test_epilogues_round_to_codes(size: tuple[int, int, int], out: DType) -> None:
    for zero in (0, 5) if out is U8 else (-7,):
        check(matmul(*size, out=out, zero=zero, gap=1), TILES, SETTINGS)
        check(matmul(*size, out=out, zero=zero, residual=True), TILES, SETTINGS[:1])


def test_infinite_and_undefined_results_become_the_ends_of_the_range() -> None:
    region = matmul(4, 8, 4, out=U8)
    arrays = [np.full((4, 8), 200, np.uint8), np.full((8, 4), 100, np.int8),
              np.array([1e30, -1e30, np.nan, np.inf], np.float32), np.zeros(4, np.float32)]
    got, = run_region(region, TILES, SETTINGS[0], HOST, arrays)
    np.testing.assert_array_equal(got, np.broadcast_to(np.array([255, 0, 0, 255], np.uint8), (4, 4)))


def test_batches_with_weights_of_their_own() -> None:
    check(matmul(40, 70, 50, lead=(2, 3), b_lead=(3,)), TILES, SETTINGS)
    check(matmul(9, 70, 50, lead=(2, 3), b_lead=(3,), out=U8), TILES, SETTINGS)


def test_reasons_name_what_is_in_the_way() -> None:
    assert "AMX" in TILES.applies(matmul(4, 8, 8), isas.AVX2)
    floats = Region("matmul", {}, (strided(F32, (4, 8)), strided(F32, (8, 8), const=True)), 2, strided(F32, (4, 8)),
                    strided(F32, (4, 8)))
    assert "f32" in TILES.applies(floats, HOST)


CONVS = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 33, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "pad_value": 7}),
    ((1, 13, 13, 3), 64, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3), "gap": 3, "pad_value": -3, "dtype": I8}),
    ((1, 9, 9, 64), 40, (3, 3), {"pads": (1, 1, 1, 1), "x_gap": 32, "pad_value": 200}),
    ((1, 7, 6, 512), 40, (2, 2), {"pads": (1, 0, 1, 1)}),  # pixels lie further apart than they are large
    ((2, 8, 8, 96), 64, (1, 1), {"strides": (2, 2)}),
    ((2, 8, 9, 20), 64, (2, 3), {"dilations": (2, 3), "pads": (1, 2, 3, 4)}),
    ((2, 19, 9), 8, (3,), {"strides": (2,), "pads": (1, 1)}),
    ((1, 1, 3, 5), 2, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 9, 9, 7), 3, (3, 3), {"pads": (-1, 0, -2, 1)}),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_convolutions_of_padded_rows_are_exact(case: tuple) -> None:
    x, o, kernel, more = case
    for out in (I32, U8):
        region = conv(x, o, kernel, out=out, **more)
        best = next(iter(CONV.space(region, HOST, 2)))
        rounds = {"rows": 2, "nt": 2, "order": "nm", "ahead": True, "depth": 2}
        check(region, CONV, (best, rounds, {**best, "rows": 1, "nt": 1}))


GENERAL = [
    *CONVS[1:7],
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    ((2, 4, 5, 6, 5), 7, (2, 3, 1), {"pads": (1,) * 6, "pad_value": 9}),
    ((3, 1, 1, 1), 1, (1, 1), {}),
]


@pytest.mark.parametrize("case", GENERAL, ids=str)
def test_convolutions_of_gathered_windows_are_exact(case: tuple) -> None:
    x, o, kernel, more = case
    region = conv(x, o, kernel, **more)
    check(region, WINDOWS, (next(iter(WINDOWS.space(region, HOST, 2))), SETTINGS[0]))


@pytest.mark.parametrize("n", [0, 3])
def test_symbolic_images_are_bound_late(n: int) -> None:
    x = (symbol("b"), symbol("h"), symbol("w"), 5)
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    region = conv(x, 9, (3, 3), pads=(1, 1, 1, 1), strides=(2, 1), dims=dims, pad_value=3)
    check(region, WINDOWS, (next(iter(WINDOWS.space(region, HOST, 2))),), {"b": n, "h": 7, "w": 10})


@pytest.mark.parametrize("n", [0, 3])
def test_a_symbolic_batch_is_bound_late(n: int) -> None:
    region = conv((symbol("b"), 6, 6, 9), 16, (3, 3), pads=(1, 1, 1, 1), out=U8, residual=True, dims={"b": (0, 2, 4)})
    check(region, CONV, (next(iter(CONV.space(region, HOST, 2))),), {"b": n})


def rounded(x: np.ndarray) -> np.ndarray:
    return x.astype(DType.BF16.np)


@pytest.mark.parametrize("m", [5, 49, 96])
def test_bf16_goes_the_same_way(m: int) -> None:
    rng = np.random.default_rng(m)
    a, b = rounded(rng.standard_normal((m, 160))), rng.standard_normal((160, 50)).astype(np.float32)
    region = Region("matmul", {}, (strided(DType.BF16, (m, 160), 2), strided(F32, (160, 50), const=True)), 2,
                    strided(F32, (m, 50)), Tensor.dense(F32, (m, 50)), compute="bf16")
    for params in SETTINGS:
        got, = run_region(region, TILES, params, HOST, [a, b])
        np.testing.assert_allclose(got, a.astype(float) @ rounded(b).astype(float), rtol=1e-4, atol=1e-4)
    assert "multiple" in TILES.applies(Region("matmul", {}, (strided(DType.BF16, (4, 40)),
                                                             strided(F32, (40, 8), const=True)), 2,
                                              strided(F32, (4, 8)), Tensor.dense(F32, (4, 8)), compute="bf16"), HOST)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_convolutions_in_bf16_go_the_same_way(strides: tuple[int, int]) -> None:
    region = residual(conv_region((2, 9, 9, 32), 40, (3, 3), strides=strides, pads=(1, 1, 1, 1), bias=True,
                                  dtype=DType.BF16, compute="bf16"))
    for params in ({"rows": 2, "nt": 2, "order": "nm", "ahead": True, "depth": 4}, None):
        check_floats(region, CONV, params, tolerance=4e-3)
