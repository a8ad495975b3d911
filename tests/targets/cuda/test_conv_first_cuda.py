"""Convolutions of few input channels by way of an image with four channels and borders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conv_regions import (
    BF16,
    F16,
    F32,
    SM80,
    SM90,
    TOLERANCE,
    Chain,
    channels_first,
    compiles,
    conv,
    data,
    error,
)
from interpreted import run
from on_device import gpu, needs_cuda
from on_device import run as run_on_device

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf
from whet.ir.region import Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.compile import recipe_of, to_object
from whet.targets.cuda.conv_first import ConvFirst
from whet.targets.cuda.gpu import typical

TACTIC = ConvFirst()
I8, U8, F8 = DType.I8, DType.U8, DType.F8E4M3FN
N, H, W = symbol("n"), symbol("h"), symbol("w")
DIMS = {"n": (0, 2, 3), "h": (3, 9, 40), "w": (3, 11, 40)}
# Tensor cores cut off the terms of sums of 8-bit floats' products, Hopper's some 13 bits below the largest of what
# is added at once: about 5e-5 of the result of the convolution below, by NumPy in that way as on an H200.
F8_SUMS = 2.0**-12
P = {"bm": 32, "bx": 8, "bn": 16, "bk": 32, "warps": 4, "stages": 1, "each": 0}


def image(shape, o, kernel, to=F16, **more):
    """An f32 image in channels first, its products in 16 bits."""
    compute = {F16: "f16", BF16: "bf16"}[to]
    return conv(shape, o, kernel, dtype=F32, w_dtype=F32, compute=compute, out=to,
                x_tensor=channels_first(F32, shape), **more)


def quantized(region, zero=3, to=I8):
    """x in f32 as codes: saturate(x * 40)."""
    terms = (Leaf(0, F32), Imm(40.0, F32), Apply("mul", (0, 1), F32),
             Apply("saturate", (2,), to, (("zero", zero), ("to", to))))
    x = replace(region.inputs[0], dtype=F32)
    return replace(region, inputs=(x, *region.inputs[1:]), prologue={0: Expr(terms)})


def normalized(region):
    """(x - mean[c]) * scale[1, 1, c]."""
    k, c = len(region.inputs), region.inputs[0].shape[-1]
    terms = (Leaf(0, F32), Leaf(k, F32), Apply("sub", (0, 1), F32), Leaf(k + 1, F32), Apply("mul", (2, 3), F32))
    more = Tensor.dense(F32, (c,), const=True), Tensor.dense(F32, (1, 1, c), const=True)
    return replace(region, inputs=(*region.inputs, *more), prologue={0: Expr(terms)})


def rich(region):
    return Chain(region).per_channel("mul").residual(gap=3).unary("relu").done()


def codes(region):
    return Chain(region).per_channel("mul").per_channel("add").unary("relu").saturated()


def check(runner, region, params=None, env=None, machine=SM90, arrays=None):
    reason = TACTIC.applies(region, machine)
    assert not reason, reason
    params = params or next(iter(TACTIC.space(region, machine, 1)))
    arrays = arrays or data(region, env)
    got = runner(region, TACTIC.implement(region, params, machine, 1), arrays, env)[0]
    (want,) = region_reference(region, arrays, env)
    if region.output.dtype.is_integer:
        assert np.abs(got.astype(int) - want.astype(int)).max(initial=0) <= (region.output.dtype is not DType.I32)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    there = np.isfinite(want)
    limit = 1e-3 if region.compute in ("tf32", "f16") else 8e-3 if region.compute == "bf16" else TOLERANCE[F32]
    if region.compute == "f8" and runner is run_on_device:
        limit = F8_SUMS
    assert error(got[there], want[there]) <= limit, params


CASES = [  # region, values of names, parameters
    ("7x7 of an f32 image", rich(image((2, 19, 23, 3), 21, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), bias=True)), None,
     {}),
    ("one channel", image((1, 17, 14, 1), 6, (5, 5), pads=(2, 1, 0, 2)), None, {}),
    ("two channels, bf16", image((1, 9, 13, 2), 18, (3, 3), BF16, strides=(1, 2), pads=(0, 2, 1, 0)), None, {}),
    ("four channels, f16, stride 4", conv((3, 21, 18, 4), 8, (3, 3), strides=(4, 4), pads=(1, 0, 1, 3)), None,
     {"bk": 16}),
    ("windows of 4x4 side by side", conv((2, 16, 24, 3), 40, (4, 4), strides=(4, 4), gap=2), None, {"bk": 16}),
    ("one dimension", conv((3, 29, 3), 9, (5,), strides=(2,), pads=(2, 2), bias=True), None, {}),
    ("rows that lie apart, cropped columns", conv((1, 20, 15, 3), 5, (3, 3), dilations=(3, 1), pads=(2, -1, 1, -2)),
     None, {}),
    ("tf32", conv((1, 11, 12, 3), 7, (3, 3), dtype=F32, compute="tf32", pads=(1, 1, 1, 1)), None, {}),
    ("a block as part of a long row", image((1, 4, 40, 3), 5, (2, 20), pads=(0, 3, 1, 3)), None, {}),
    ("codes", conv((2, 13, 14, 3), 20, (7, 7), strides=(2, 2), pads=(3, 2, 3, 3), dtype=I8, pad_value=-7), None, {}),
    ("codes of u8", codes(conv((1, 9, 14, 1), 9, (3, 3), pads=(1, 0, 1, 1), dtype=U8, pad_value=131)), None,
     {"bk": 64}),
    ("8-bit floats", conv((1, 9, 14, 3), 9, (3, 3), pads=(1, 1, 1, 1), dtype=F8), None, {"bk": 64}),
    ("quantized on the way", quantized(conv((2, 13, 14, 3), 9, (5, 5), strides=(2, 2), pads=(2, 2, 2, 2), dtype=I8,
                                            pad_value=3, x_tensor=channels_first(I8, (2, 13, 14, 3)))), None, {}),
    ("quantized to u8",
     quantized(conv((2, 9, 9, 3), 9, (3, 3), pads=(1, 1, 1, 1), dtype=U8, pad_value=120), 120, U8), None, {}),
    ("normalized", normalized(image((2, 9, 9, 3), 9, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))), None, {}),
    ("two blocks of channels", conv((1, 8, 9, 3), 35, (3, 3), bias=True), None, {"bn": 32}),
    ("programs take turns", rich(image((2, 19, 23, 3), 33, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3))), None,
     {"each": 3, "stages": 2}),
    ("symbolic", rich(image((N, H, W, 3), 9, (5, 3), strides=(2, 2), pads=(2, 1, 2, 1), dims=DIMS)),
     {"n": 2, "h": 11, "w": 18}, {}),
    ("symbolic, turns", image((N, H, W, 3), 9, (5, 3), strides=(2, 2), pads=(2, 1, 2, 1), dims=DIMS),
     {"n": 3, "h": 13, "w": 8}, {"each": 2}),
    ("symbolic, no image", image((N, H, W, 3), 9, (5, 3), strides=(2, 2), pads=(2, 1, 2, 1), dims=DIMS),
     {"n": 0, "h": 13, "w": 8}, {"each": 2}),
]
NAMES = [c[0] for c in CASES]
FEW = replace(SM90, multiprocessors=2)


@pytest.mark.parametrize(("region", "env", "params"), [c[1:] for c in CASES], ids=NAMES)
def test_types_shapes_and_strides(region, env, params):
    check(run, region, {**P, **params}, env, FEW)


def test_nan_and_infinity_stay_in_the_windows_that_meet_them():
    region = image((2, 16, 15, 3), 5, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    arrays = data(region)
    arrays[0][0, 5, 6, 1], arrays[0][1, 0, 0, 2], arrays[0][0, 15, 14, 0] = np.nan, np.inf, -np.inf
    arrays[0][1, 9, 9, 0] = 1e6  # infinite in f16
    check(run, region, P, arrays=arrays)
    wide = conv((1, 9, 33, 1), 4, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3))
    arrays = data(wide)
    arrays[0][0, 4, ::8], arrays[0][0, 8, 31] = np.inf, np.nan
    check(run, wide, {**P, "bk": 64}, arrays=arrays)


def test_what_is_left_to_others():
    for region, why in [
        (conv((1, 9, 9, 5), 8, (3, 3)), "more than 4"), (conv((1, 9, 9, 4), 8, (3, 3), group=2), "groups"),
        (conv((1, 9, 9, 3), 8, (1, 1)), "single"), (conv((1, 9, 9, 3), 8, (3, 3), dilations=(1, 2)), "apart"),
        (conv((1, 9, 9, 3), 8, (3, 3), dtype=F32), "tensor cores"), (conv((1, 99, 99, 3), 8, (32, 32)), "taps"),
        (conv((1, 9, 9, 9, 3), 8, (3, 3, 3)), "three"), (conv((1, 9, 9, 3), 8, (3, 3), const=False), "constant"),
    ]:
        assert why in TACTIC.applies(region, SM90)
    assert "8-bit" in TACTIC.applies(conv((1, 9, 9, 3), 8, (3, 3), dtype=F8), SM80)


RESNET = image((32, 224, 224, 3), 64, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), bias=True)
CODES = quantized(codes(conv((128, 224, 224, 3), 64, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), dtype=I8)))


def test_settings_fit_and_differ():
    for region in (RESNET, CODES, CASES[0][1], image((N, H, W, 3), 9, (3, 3), dims=DIMS)):
        for machine in (SM80, SM90):
            found = list(TACTIC.space(region, machine, 1))
            assert 8 <= len(found) <= 24
            assert len({str(q) for q in found}) == len(found)
            if region in (RESNET, CODES):
                assert {q["each"] > 0 for q in found[:10]} == {True, False}, "one tile or several are among the first"


@pytest.mark.parametrize("machine", [typical((8, 6)), SM80, SM90], ids=lambda m: m.arch)
def test_large_windows_have_a_setting_on_every_gpu(machine):
    for dtype in (I8, F16, F32):
        region = conv((8, 99, 99, 3), 200, (11, 16), dtype=dtype, compute="tf32" if dtype is F32 else "")
        assert not TACTIC.applies(region, machine)
        assert TACTIC.space(region, machine, 1)


@pytest.mark.parametrize("region", [RESNET, CODES, image((N, H, W, 3), 9, (3, 3), strides=(2, 2), dims=DIMS)],
                         ids=["f16", "codes", "symbolic"])
def test_compiles(region):
    compiles(TACTIC, region, (SM80, SM90), 2 if region is RESNET else 1)


@pytest.mark.parametrize("each", [0, 2])
def test_images_of_more_elements_than_32_bits_count(each):
    region = image((3 << 14, 224, 224, 3), 9, (3, 3), strides=(2, 2))
    made = TACTIC.implement(region, {**P, "bm": 64, "each": each}, SM90, 1)
    for step in made.steps:
        assert ".to(tl.int64)" in recipe_of(step.kernel.code).text
        assert to_object(step.kernel.code, 90)
    assert made.workspace > 2**32


@needs_cuda
@pytest.mark.parametrize(("region", "env"), [c[1:3] for c in CASES], ids=NAMES)
def test_on_the_gpu(region, env):
    check(run_on_device, region, None, env, gpu())


@needs_cuda
@pytest.mark.parametrize("region", [
    image((5, 96, 112, 3), 64, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), bias=True),
    quantized(codes(conv((5, 96, 112, 3), 64, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), dtype=I8, pad_value=3))),
    rich(image((5, 97, 111, 3), 32, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1)))], ids=["f16", "codes", "3x3"])
def test_every_setting_on_the_gpu(region):
    for params in TACTIC.space(region, gpu(), 1):
        check(run_on_device, region, params, machine=gpu())
