"""Transposed convolution: every window, type and phase, in Triton's interpreter and on the GPU."""

from __future__ import annotations

import pytest
from conv_regions import BF16, F32, Chain, check, compiles, conv
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.targets.cuda.conv_transpose import ConvTransposePhases

TACTIC = ConvTransposePhases()
N, H = symbol("n"), symbol("h")
DIMS = {"n": (0, 2, 4), "h": (1, 7, 20)}
P = {"bm": 16, "bn": 16, "bk": 32, "warps": 4, "stages": 2, "split": 1, "flat": False}


def transposed(*args, **more):
    return conv(*args, kind="conv_transpose", **more)


CASES = {
    "4x4 stride 2": (transposed((2, 5, 4, 32), 12, (4, 4), strides=(2, 2), pads=(1,) * 4, bias=True), P, None),
    "2x2 stride 2": (transposed((1, 5, 4, 16), 20, (2, 2), strides=(2, 2)), P, None),
    "3x3 stride 2": (transposed((1, 5, 4, 16), 20, (3, 3), strides=(2, 2), pads=(1,) * 4, output_padding=(1, 1)), P,
                     None),
    "some pixels met by no tap": (transposed((1, 4, 3, 8), 5, (2, 1), strides=(3, 2), output_padding=(1, 1),
                                             bias=True), P, None),
    "dilated": (transposed((1, 5, 6, 8), 5, (3, 2), strides=(2, 3), dilations=(2, 2), pads=(1, 0, 2, 1)), P, None),
    "groups": (transposed((1, 4, 4, 24), 36, (3, 3), strides=(2, 1), group=3), P, None),
    "flat": (transposed((1, 4, 4, 3), 8, (4, 4), strides=(2, 2)), {**P, "flat": True}, None),
    "1-D": (transposed((2, 9, 8), 6, (5,), strides=(3,), dtype=F32), P, None),
    "3-D": (transposed((1, 3, 2, 3, 8), 6, (2, 3, 2), strides=(2, 1, 2)), P, None),
    "bf16": (transposed((1, 4, 4, 8), 6, (3, 3), strides=(2, 2), dtype=BF16), P, None),
    "f64": (transposed((1, 4, 4, 8), 6, (3, 3), strides=(2, 2), dtype=DType.F64), P, None),
    "weights not constant": (transposed((1, 4, 4, 8), 6, (3, 3), strides=(2, 2), const=False, group=2), P, None),
    "symbolic": (transposed((N, H, H, 8), 6, (4, 4), strides=(2, 2), pads=(1,) * 4, dims=DIMS), P, {"n": 2, "h": 3}),
    "symbolic empty": (transposed((N, H, H, 8), 6, (2, 2), strides=(2, 2), dims=DIMS), P, {"n": 0, "h": 3}),
}


@pytest.mark.parametrize("name", CASES)
def test_windows_types_and_shapes(name):
    region, params, env = CASES[name]
    check(run, TACTIC, region, params, env)


def test_epilogue_operands_are_read_in_phases():
    region = Chain(transposed((2, 5, 4, 16), 12, (4, 4), strides=(2, 2), pads=(1,) * 4)).residual(gap=4).unary(
        "relu").done()
    check(run, TACTIC, region, P)


def test_compiles():
    compiles(TACTIC, CASES["4x4 stride 2"][0])


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_on_the_gpu(name):
    region, params, env = CASES[name]
    check(run_on_device, TACTIC, region, params, env, machine=gpu())
    check(run_on_device, TACTIC, region, None, env, machine=gpu())
