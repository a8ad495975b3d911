"""Implicit GEMM and 1x1 convolution: right for every shape, layout, epilogue and instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import check, conv_region, data, relu, residual
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.conv_depthwise import ConvDepthwise
from whet.targets.cpu.conv_implicit import ConvGemm, ConvImplicit
from whet.targets.cpu.conv_winograd import ConvWinograd
from whet.targets.cpu.gemm import GemmPacked
from whet.targets.cpu.isa import AVX2, NEON, named

HOST = named("host")
CASES = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 33, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "bias": True}),
    ((1, 13, 13, 3), 64, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3), "gap": 3}),
    ((2, 9, 17), 7, (3,), {"pads": (2, 0), "x_gap": 2}),
    ((1, 4, 5, 6, 8), 12, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2), "group": 4}),
    ((3, 1, 1, 1), 1, (1, 1), {"strides": (2, 2)}),
    ((1, 6, 5, 8), 96, (1, 1), {"group": 2, "x_gap": 8}),
    ((1, 2, 2, 5), 3, (3, 3), {"pads": (4, 0, 0, 4), "strides": (3, 1)}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_shape_is_right(case, isa):
    x, o, kernel, more = case
    region = conv_region(x, o, kernel, **more)
    space = list(ConvImplicit().space(region, isa, 2))
    for params in (space[0], space[-1]):
        check(region, ConvImplicit(), params, isa)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
def test_pixels_of_a_1x1_convolution_are_rows_of_a_product(isa):
    region = conv_region((2, 5, 7, 33), 65, (1, 1), bias=True, x_gap=3, gap=5)
    check(region, ConvGemm(GemmPacked()), isa=isa)


def test_groups_of_a_1x1_convolution_are_products_of_their_own():
    region = residual(conv_region((2, 5, 7, 24), 60, (1, 1), bias=True, group=4, x_gap=3, gap=5))
    check(region, ConvGemm(GemmPacked()))


def test_a_1x1_convolution_with_a_stride_is_not_a_plain_product():
    assert "stride" in ConvGemm(GemmPacked()).applies(conv_region((1, 8, 8, 4), 4, (1, 1), strides=(2, 2)), HOST)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
def test_bias_residual_and_activation_are_fused(isa):
    region = residual(conv_region((2, 6, 5, 9), 21, (3, 3), pads=(1, 1, 1, 1), bias=True, gap=4))
    check(region, ConvImplicit(), isa=isa)


def test_operands_per_image_and_per_pixel_are_broadcast():
    f = DType.F32
    expr = Expr((Leaf(ANCHOR, f), Leaf(2, f), Leaf(3, f), Apply("mul", (0, 1), f), Apply("add", (3, 2), f)))
    extra = (Tensor.dense(f, (2, 1, 1, 19)), strided(f, (2, 6, 5, 1)))
    check(conv_region((2, 6, 5, 9), 19, (3, 3), pads=(1, 1, 1, 1), epilogue=expr, extra=extra), ConvImplicit())


@pytest.mark.parametrize("n", [0, 1, 3])
def test_symbolic_sizes_are_bound_late(n):
    b, h, w = symbol("b"), symbol("h"), symbol("w")
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    region = conv_region((b, h, w, 5), 9, (3, 3), pads=(1, 1, 1, 1), strides=(2, 1), dims=dims)
    check(region, ConvImplicit(), env={"b": n, "h": 7, "w": 10})


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_bf16_products_are_of_rounded_operands(dtype, isa):
    region = conv_region((1, 6, 7, 19), 35, (3, 3), pads=(1, 1, 1, 1), dtype=dtype, compute="bf16", bias=True)
    check(relu(region), ConvImplicit(), isa=isa, tolerance=3e-3 if dtype is DType.BF16 else 2e-6)


@pytest.mark.parametrize("tactic", [ConvImplicit(), ConvWinograd(), ConvDepthwise()], ids=lambda t: t.name)
@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
def test_fp16_images_are_convolved_in_fp32(tactic, isa):
    group = 19 if tactic.name == "conv_depthwise" else 1
    region = conv_region((1, 6, 7, 19), 19, (3, 3), pads=(1, 1, 1, 1), dtype=DType.F16, bias=True, group=group)
    check(relu(region), tactic, isa=isa, tolerance=1e-3)


def test_nan_and_infinity_reach_the_windows_that_hold_them_and_no_others():
    region = conv_region((1, 6, 6, 4), 8, (3, 3), pads=(1, 1, 1, 1))
    arrays = data(region)
    arrays[0][0, 0, 0, 1], arrays[0][0, 5, 5, 2] = np.nan, np.inf
    y = run_region(region, ConvImplicit(), next(iter(ConvImplicit().space(region, HOST, 1))), HOST, arrays)[0]
    bad = ~np.isfinite(y).all(-1)[0]
    want = np.zeros((6, 6), bool)
    want[:2, :2] = want[4:, 4:] = True
    assert np.array_equal(bad, want)


def test_neon_code_is_made():
    region = conv_region((1, 6, 6, 5), 9, (3, 3), pads=(1, 1, 1, 1))
    impl = ConvImplicit().implement(region, next(iter(ConvImplicit().space(region, NEON, 2))), NEON, 2)
    assert "fmla" in to_assembly(impl.steps[0].kernel.code, NEON)
