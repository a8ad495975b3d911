"""Implicit-GEMM convolution: every type, rank and window, in Triton's interpreter, on the GPU, and compiled."""

from __future__ import annotations

import numpy as np
import pytest
from conv_regions import BF16, F16, F32, SM80, SM90, Chain, channels_first, check, compiles, conv, data, reference
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cuda.conv import ConvImplicit, ConvMatmul
from whet.targets.cuda.matmul import MatmulTiles

TACTIC = ConvImplicit()
P = {"bm": 16, "bn": 16, "bk": 32, "warps": 4, "stages": 2, "split": 1, "flat": False}
FLAT, SPLIT = {**P, "flat": True}, {**P, "split": 3}
N, H = symbol("n"), symbol("h")
DIMS = {"n": (0, 2, 5), "h": (1, 7, 20)}

CASES = [  # region, parameters, values of names
    ("3x3", conv((2, 7, 6, 32), 16, (3, 3), pads=(1, 1, 1, 1), bias=True), P, None),
    ("3x3 stride 2 odd channels", conv((1, 7, 7, 19), 21, (3, 3), strides=(2, 2), pads=(1, 0, 0, 1)), P, None),
    ("first layer", conv((1, 11, 11, 3), 16, (5, 5), strides=(2, 2), pads=(2, 2, 2, 2), dtype=F32, compute="f16",
                         out=F16, x_tensor=channels_first(F32, (1, 11, 11, 3))), FLAT, None),
    ("1x1", conv((2, 3, 5, 64), 24, (1, 1), gap=8), P, None),
    ("1x1 stride 2", conv((2, 5, 5, 32), 17, (1, 1), strides=(2, 2)), P, None),
    ("split", conv((1, 5, 4, 64), 20, (3, 3), pads=(1, 1, 1, 1), bias=True), SPLIT, None),
    ("1-D", conv((3, 17, 8), 5, (4,), strides=(3,), pads=(2, 1), dilations=(2,)), P, None),
    ("3-D", conv((1, 4, 5, 6, 8), 9, (2, 1, 3), pads=(1, 0, 2, 0, 0, 1)), P, None),
    ("cropped", conv((1, 9, 9, 16), 8, (3, 3), pads=(-1, -2, 1, -1)), P, None),
    ("groups", conv((1, 6, 6, 48), 36, (3, 3), pads=(1, 1, 1, 1), group=3, bias=True), P, None),
    ("groups flat split", conv((1, 6, 6, 12), 30, (3, 3), group=3), {**FLAT, "split": 2}, None),
    ("f32", conv((1, 5, 5, 20), 8, (3, 3), dtype=F32), P, None),
    ("bf16", conv((1, 5, 5, 20), 8, (3, 3), dtype=BF16), P, None),
    ("f64", conv((1, 5, 5, 5), 3, (2, 2), dtype=DType.F64), P, None),
    ("tf32", conv((1, 5, 5, 20), 8, (3, 3), dtype=F32, compute="tf32"), P, None),
    ("i8", conv((1, 5, 5, 20), 8, (3, 3), dtype=DType.I8, pads=(1, 1, 1, 1), pad_value=-7), P, None),
    ("u8", conv((1, 5, 5, 20), 24, (3, 3), dtype=DType.U8, pads=(1, 1, 1, 1), pad_value=130, group=2), P, None),
    ("u8 split", conv((1, 5, 5, 40), 8, (3, 3), dtype=DType.U8, pads=(1, 1, 1, 1), pad_value=7), SPLIT, None),
    ("f8", conv((1, 5, 5, 32), 8, (3, 3), dtype=DType.F8E4M3FN), P, None),
    ("f8 padded", conv((1, 5, 5, 40), 8, (3, 3), pads=(1,) * 4, dtype=DType.F8E4M3FN), P, None),
    ("f8 flat", conv((1, 5, 5, 3), 8, (3, 3), pads=(1,) * 4, dtype=DType.F8E4M3FN), FLAT, None),
    ("weights not constant", conv((1, 5, 5, 20), 12, (3, 3), const=False, group=2, bias=True), P, None),
    ("weights not constant flat", conv((1, 5, 5, 3), 12, (3, 3), const=False), FLAT, None),
    ("symbolic", conv((N, H, 6, 16), 9, (3, 3), strides=(2, 1), pads=(1, 1, 1, 1), dims=DIMS), P, {"n": 2, "h": 5}),
    ("symbolic one row", conv((N, H, 6, 16), 9, (3, 3), strides=(2, 1), pads=(1, 1, 1, 1), dims=DIMS), SPLIT,
     {"n": 1, "h": 1}),
    ("symbolic empty", conv((N, H, 6, 16), 9, (1, 1), dims=DIMS), P, {"n": 0, "h": 3}),
    ("symbolic flat", conv((N, H, H, 4), 9, (3, 3), dims={**DIMS, "h": (3, 7, 20)}), FLAT, {"n": 1, "h": 6}),
]
EPILOGUES = {
    "bn, residual, relu": lambda r: Chain(r).per_channel("mul").per_channel("add").residual(gap=3).unary("relu").done(),
    "relu6": lambda r: Chain(r).number("max", 0.0).number("min", 6.0).done(),
    "silu to f32": lambda r: Chain(r).unary("silu").done(F32),
    "scalar and row": lambda r: Chain(r).tensor("add", Tensor.dense(F32, (1,))).tensor(
        "mul", Tensor.dense(F32, (*r.output.shape[:-1], 1))).done(),
    "per image": lambda r: Chain(r).tensor(
        "mul", Tensor.dense(F16, (r.output.shape[0], 1, 1, r.output.shape[-1]))).done(),
    "codes": lambda r: Chain(r).number("mul", 0.1).saturated(),
    "codes with a zero point": lambda r: Chain(r).number("mul", 0.1).saturated(zero=3),
}


@pytest.mark.parametrize(("region", "params", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_windows_types_and_shapes(region, params, env):
    check(run, TACTIC, region, params, env)


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("params", [P, SPLIT], ids=["whole", "split"])
def test_epilogues(name, params):
    check(run, TACTIC, EPILOGUES[name](conv((2, 3, 5, 32), 20, (3, 3), pads=(1, 1, 1, 1), bias=True)), params)


@pytest.mark.parametrize("region", [
    conv((2, 3, 5, 32), 20, (1, 1), bias=True), conv((2, 5, 5, 32), 20, (1, 1), strides=(2, 2), bias=True),
    conv((N, H, 5, 32), 20, (1, 1), strides=(2, 1), dims=DIMS, gap=2)], ids=["plain", "strided", "symbolic"])
def test_single_pixels_are_a_product_of_matrices(region):
    region = EPILOGUES["bn, residual, relu"](region)
    check(run, ConvMatmul(MatmulTiles()), region, env={"n": 2, "h": 3})


@pytest.mark.parametrize("order", ["nk", "kn"])
def test_weights_are_packed_as_a_matrix(order):
    params = {"bm": 16, "bn": 16, "bk": 32, "warps": 4, "stages": 2, "group": 8, "order": order}
    check(run, ConvMatmul(MatmulTiles()), conv((1, 3, 3, 40), 20, (1, 1)), params)
    check(run, ConvMatmul(MatmulTiles()), conv((1, 3, 3, 40), 20, (1, 1), dtype=DType.U8), params)


def test_windows_are_no_product_of_matrices():
    assert "single pixels" in ConvMatmul(MatmulTiles()).applies(conv((1, 5, 5, 8), 8, (3, 3)), SM90)


def test_nan_and_infinity_stay_where_they_are_met():
    region = conv((1, 6, 6, 16), 16, (3, 3), pads=(1, 1, 1, 1))
    arrays = data(region)
    arrays[0][0, 1, 1, 3], arrays[0][0, 5, 5, 0] = np.nan, np.inf
    got = run(region, TACTIC.implement(region, P, SM90, 1), arrays)[0]
    want = reference(region, arrays)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


@pytest.mark.parametrize("region", [
    EPILOGUES["bn, residual, relu"](conv((1, 14, 14, 256), 256, (3, 3), pads=(1, 1, 1, 1))),
    conv((1, 224, 224, 3), 64, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), dtype=F32, compute="f16", out=F16,
         x_tensor=channels_first(F32, (1, 224, 224, 3))),
    conv((1, 28, 28, 64), 64, (3, 3), dtype=F32), conv((1, 28, 28, 64), 64, (3, 3), dtype=F32, compute="tf32"),
    conv((1, 28, 28, 64), 64, (3, 3), dtype=DType.U8, pad_value=3), conv((N, H, H, 20), 24, (3, 3), dims=DIMS)],
    ids=["f16", "first layer", "f32", "tf32", "u8", "symbolic"])
def test_compiles(region):
    compiles(TACTIC, region)


def test_f8_needs_a_gpu_that_has_it():
    region = conv((1, 14, 14, 64), 64, (3, 3), dtype=DType.F8E4M3FN)
    assert "8-bit floats" in TACTIC.applies(region, SM80)
    compiles(TACTIC, region, [SM90])
    compiles(TACTIC, conv((1, 9, 9, 3), 16, (3, 3), pads=(1,) * 4, dtype=DType.F8E4M3FN), [SM90])


def test_the_space_is_small_and_begins_with_what_should_be_best():
    region = conv((1, 7, 7, 512), 512, (3, 3), pads=(1, 1, 1, 1))
    space = list(TACTIC.space(region, SM90, 1))
    assert 4 <= len(space) <= 24
    assert space[0]["split"] > 1, "49 pixels do not fill a GPU otherwise"
    costs = [TACTIC.cost(region, p, SM90, 1) for p in space]
    assert costs[0] == min(costs)
    assert len({(p["bm"], p["bn"]) for p in space[:6]}) >= 2, "the first ones differ"


@needs_cuda
@pytest.mark.parametrize(("region", "params", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_on_the_gpu(region, params, env):
    check(run_on_device, TACTIC, region, params, env, machine=gpu())


@needs_cuda
@pytest.mark.parametrize("name", EPILOGUES)
def test_every_setting_on_the_gpu(name):
    region = EPILOGUES[name](conv((2, 14, 13, 64), 72, (3, 3), pads=(1, 1, 1, 1), bias=True))
    for params in TACTIC.space(region, gpu(), 1):
        check(run_on_device, TACTIC, region, params, machine=gpu())
