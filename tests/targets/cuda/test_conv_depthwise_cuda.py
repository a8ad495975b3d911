"""Depthwise convolution: every window, type and block, in Triton's interpreter, on the GPU, and compiled."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conv_regions import BF16, F16, F32, SM90, TOLERANCE, Chain, check, compiles, conv, data, error
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda import TACTICS
from whet.targets.cuda.conv_depthwise import ConvDepthwise

TACTIC = ConvDepthwise()
N, H = symbol("n"), symbol("h")
DIMS = {"n": (0, 2, 4), "h": (1, 7, 20)}
P = {"ry": 2, "bx": 4, "bc": 16, "warps": 1}


def depthwise(x, kernel, c=None, **more):
    """Each of x's channels by itself (`c`: output channels)."""
    return conv(x, c or x[-1], kernel, group=x[-1], **more)


CASES = [
    ("3x3", depthwise((2, 7, 6, 32), (3, 3), pads=(1,) * 4, bias=True), None),
    ("stride 2", depthwise((1, 9, 8, 24), (3, 3), strides=(2, 2), pads=(1,) * 4), None),
    ("5x5 odd channels", depthwise((1, 4, 5, 19), (5, 5), pads=(2,) * 4, gap=5), None),
    ("dilated, uneven", depthwise((1, 11, 10, 16), (3, 2), strides=(1, 2), dilations=(2, 3), pads=(2, 0, 1, 1)), None),
    ("1-D", depthwise((3, 17, 20), (4,), strides=(2,), pads=(3, 0), bias=True), None),
    ("two for each", depthwise((1, 6, 6, 12), (3, 3), c=24, pads=(1,) * 4), None),
    ("f32", depthwise((1, 6, 6, 20), (3, 3), dtype=F32), None),
    ("bf16", depthwise((1, 6, 6, 20), (3, 3), dtype=BF16), None),
    ("f64", depthwise((1, 6, 6, 20), (3, 3), dtype=DType.F64), None),
    ("f32 in f16", depthwise((1, 6, 6, 20), (3, 3), dtype=F32, compute="f16"), None),
    ("f8", depthwise((1, 6, 6, 20), (3, 3), dtype=DType.F8E4M3FN, pads=(1,) * 4), None),
    ("u8", depthwise((1, 6, 6, 20), (3, 3), dtype=DType.U8, pads=(1,) * 4, pad_value=131), None),
    ("i8", depthwise((1, 6, 6, 20), (3, 3), dtype=DType.I8, pads=(1,) * 4, pad_value=-3), None),
    ("weights not constant", depthwise((1, 6, 6, 20), (3, 3), const=False), None),
    ("symbolic", depthwise((N, H, H, 20), (3, 3), pads=(1,) * 4, dims=DIMS), {"n": 2, "h": 5}),
    ("symbolic one pixel", depthwise((N, H, H, 20), (3, 3), pads=(1,) * 4, dims=DIMS), {"n": 1, "h": 1}),
    ("symbolic empty", depthwise((N, H, H, 20), (3, 3), pads=(1,) * 4, dims=DIMS), {"n": 0, "h": 3}),
]
EPILOGUES = {
    "relu6": lambda r: Chain(r).number("max", 0.0).number("min", 6.0).done(),
    "residual, silu": lambda r: Chain(r).residual(gap=3).unary("silu").done(),
    "per image": lambda r: Chain(r).tensor("mul", Tensor.dense(F16, (2, 1, 1, 20))).done(),
    "per row": lambda r: Chain(r).tensor("mul", Tensor.dense(F32, (*r.output.shape[:2], 1, 1))).done(),
    "codes": lambda r: Chain(r).number("mul", 9.0).saturated(),
}


@pytest.mark.parametrize(("region", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_windows_types_and_shapes(region, env):
    check(run, TACTIC, region, P, env)


@pytest.mark.parametrize("blocks", [(1, 1, 16), (3, 2, 8), (7, 8, 64)])
def test_blocks_of_any_size(blocks):
    region = depthwise((1, 4, 3, 11), (3, 3), pads=(1,) * 4)
    check(run, TACTIC, region, dict(zip(("ry", "bx", "bc"), blocks), warps=1))


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues(name):
    check(run, TACTIC, EPILOGUES[name](depthwise((2, 3, 5, 20), (3, 3), pads=(1,) * 4, bias=True)), P)


def test_what_is_not_depthwise_it_leaves_alone():
    assert "not depthwise" in TACTIC.applies(conv((1, 5, 5, 8), 8, (3, 3), group=2), SM90)
    assert "three" in TACTIC.applies(depthwise((1, 5, 5, 5, 8), (3, 3, 3)), SM90)


@pytest.mark.parametrize("region", [EPILOGUES["relu6"](depthwise((1, 56, 56, 144), (3, 3), pads=(1,) * 4)),
                                    depthwise((1, 9, 9, 20), (3, 3), dtype=DType.F32, pads=(1,) * 4),
                                    depthwise((N, H, H, 20), (5, 5), pads=(2,) * 4, dims=DIMS)])
def test_compiles(region):
    compiles(TACTIC, region)


@needs_cuda
@pytest.mark.parametrize(("region", "env"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_on_the_gpu(region, env):
    for params in itertools.islice(TACTIC.space(region, gpu(), 1), 0, None, 6):
        check(run_on_device, TACTIC, region, params, env, machine=gpu())


@needs_cuda
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues_on_the_gpu(name):
    check(run_on_device, TACTIC, EPILOGUES[name](depthwise((2, 7, 6, 20), (3, 3), pads=(1,) * 4)), machine=gpu())


@pytest.mark.parametrize("const", [True, False])
def test_programs_of_many_channels_and_few_threads(const):
    """More taps than stay in registers, and one channel more than a program has."""
    region = depthwise((1, 4, 3, 65), (5, 3), pads=(2, 1, 2, 1), const=const)
    check(run, TACTIC, region, {"ry": 3, "bx": 4, "bc": 64, "warps": 1})
    check(run, TACTIC, region, {"ry": 2, "bx": 1, "bc": 64, "warps": 1})


def with_mean(region, dtype=F16):
    """The mean over each image's pixels is a second result."""
    shape = (region.output.shape[0], *[1] * (len(region.output.shape) - 2), region.output.shape[-1])
    return replace(region, attrs={**region.attrs, "mean": True}, extra_outputs=(Tensor.dense(dtype, shape),))


MEANS = [
    ("uneven", with_mean(EPILOGUES["residual, silu"](depthwise((2, 7, 6, 20), (3, 3), pads=(1,) * 4, bias=True))),
     None),
    ("f32", with_mean(depthwise((1, 9, 8, 24), (3, 3), dtype=F32, strides=(2, 2), pads=(1,) * 4), F32), None),
    ("bf16", with_mean(depthwise((1, 4, 5, 19), (5, 5), dtype=BF16, pads=(2,) * 4), BF16), None),
    ("1-D", with_mean(depthwise((3, 17, 20), (4,), strides=(2,), pads=(3, 0)), F32), None),
    ("two for each", with_mean(depthwise((1, 6, 6, 12), (3, 3), c=24, pads=(1,) * 4)), None),
    ("symbolic", with_mean(depthwise((N, H, H, 20), (3, 3), pads=(1,) * 4, dims=DIMS)), {"n": 2, "h": 5}),
    ("symbolic empty", with_mean(depthwise((N, H, H, 20), (3, 3), pads=(1,) * 4, dims=DIMS)), {"n": 0, "h": 3}),
]


def check_mean(runner, region, params, env, machine=SM90):
    assert not TACTIC.applies(region, machine)
    arrays = data(region, env)
    got = runner(region, TACTIC.implement(region, params, machine, 1), arrays, env)
    want = region_reference(region, arrays, env)
    for g, w in zip(got, want, strict=True):
        assert error(g, w) <= TOLERANCE[DType.of(w.dtype)], params
    return got


@pytest.mark.parametrize(("region", "env"), [c[1:] for c in MEANS], ids=[c[0] for c in MEANS])
@pytest.mark.parametrize("params", [P, {"ry": 8, "bx": 32, "bc": 16, "warps": 1}], ids=["parts", "whole"])
def test_the_mean_over_the_pixels(region, env, params):
    check_mean(run, region, params, env)
    made = TACTIC.implement(region, params, SM90, 1)
    assert len(made.steps) == (1 if params["ry"] == 8 and not env else 2), "a program has all pixels"


def test_nan_reaches_the_mean_of_its_image_and_channel_alone():
    region = with_mean(depthwise((2, 6, 5, 16), (3, 3), pads=(1,) * 4))
    arrays = data(region)
    arrays[0][1, 2, 2, 3], arrays[0][0, 0, 0, 5] = np.nan, np.inf
    got = run(region, TACTIC.implement(region, P, SM90, 1), arrays)[1]
    want = region_reference(region, arrays)[1]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert np.isnan(got).sum() + np.isinf(got).sum() == 2


def test_only_depthwise_kernels_give_the_mean():
    region = with_mean(depthwise((1, 14, 14, 64), (3, 3), pads=(1,) * 4))
    assert [t.name for t in TACTICS["conv"] if not t.applies(region, SM90)] == ["conv_depthwise"]
    compiles(TACTIC, region, most=2)


@needs_cuda
@pytest.mark.parametrize(("region", "env"), [c[1:] for c in MEANS], ids=[c[0] for c in MEANS])
def test_the_mean_over_the_pixels_on_the_gpu(region, env):
    for params in list(TACTIC.space(region, gpu(), 1))[::3]:
        check_mean(run_on_device, region, params, env, gpu())
