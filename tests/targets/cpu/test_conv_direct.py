"""Convolution with weights computed at run time, and transposed convolution."""

from __future__ import annotations

import pytest
from conv_cases import check, conv_region, relu, residual, transpose_region

from whet.ir.dtypes import DType
from whet.targets.cpu.conv_direct import ConvDirect
from whet.targets.cpu.conv_transpose import ConvTransposePhases
from whet.targets.cpu.isa import AVX2, named

HOST = named("host")
CONV = [
    ((2, 9, 8, 17), 33, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (1, 1, 1, 1), "group": 3, "bias": True}),
    ((1, 4, 5, 6, 8), 12, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
]
TRANSPOSE = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2), "output_padding": (1, 1), "bias": True}),
    ((2, 9, 8, 17), 33, (3, 3), {"strides": (3, 2), "dilations": (2, 1), "pads": (1, 1, 1, 1), "const": False}),
    ((1, 4, 5, 6, 8), 12, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 9, 9, 12), 24, (2, 2), {"strides": (2, 2), "group": 3, "const": False}),
    ((1, 9, 12), 24, (4,), {"strides": (2,), "group": 3}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("case", CONV, ids=str)
def test_weights_may_be_computed_at_run_time(case, isa):
    x, o, kernel, more = case
    region = conv_region(x, o, kernel, const=False, **more)
    for params in ConvDirect("conv").space(region, isa, 2):
        check(relu(region), ConvDirect("conv"), params, isa)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("case", TRANSPOSE, ids=str)
def test_transposed_convolution_is_right(case, isa):
    x, o, kernel, more = case
    region = transpose_region(x, o, kernel, **more)
    for params in ConvDirect("conv_transpose").space(region, isa, 2):
        check(region, ConvDirect("conv_transpose"), params, isa)


PHASES = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2), "output_padding": (1, 1), "bias": True}),
    ((2, 9, 8, 17), 33, (4, 5), {"strides": (3, 2), "dilations": (1, 3), "pads": (1, 2, 0, 1)}),
    ((1, 4, 5, 6, 8), 12, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 9, 9, 12), 24, (2, 2), {"strides": (2, 2), "group": 3}),
    ((1, 9, 12), 24, (4,), {"strides": (2,), "group": 3}),
    ((1, 1, 1, 6), 7, (2, 2), {"strides": (2, 2), "pads": (0, 0, 1, 1)}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("case", PHASES, ids=str)
def test_transposed_convolution_by_phases_is_right(case, isa):
    x, o, kernel, more = case
    tactic = ConvTransposePhases()
    for region in (transpose_region(x, o, kernel, **more), residual(transpose_region(x, o, kernel, **more))):
        check(region, tactic, isa=isa)


def test_pixels_that_no_tap_meets_are_left_to_another_tactic():
    assert "no tap" in ConvTransposePhases().applies(transpose_region((1, 5, 5, 4), 4, (1, 1), strides=(2, 2)), HOST)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("const", [True, False])
def test_doubles_are_summed_as_doubles(const, isa):
    region = conv_region((1, 5, 7, 9), 11, (3, 3), dtype=DType.F64, const=const)
    check(region, ConvDirect("conv"), isa=isa, tolerance=1e-12)
    region = transpose_region((1, 5, 7, 9), 11, (3, 3), dtype=DType.F64, const=const)
    check(region, ConvDirect("conv_transpose"), isa=isa, tolerance=1e-12)


@pytest.mark.parametrize("const", [True, False])
def test_bf16_products_are_of_rounded_operands(const):
    region = transpose_region((1, 5, 7, 9), 5, (3, 3), strides=(2, 2), compute="bf16", const=const)
    check(region, ConvDirect("conv_transpose"))
    region = transpose_region((1, 5, 7, 9), 5, (3, 3), dtype=DType.BF16, compute="bf16", const=const)
    check(region, ConvDirect("conv_transpose"), tolerance=3e-3)
