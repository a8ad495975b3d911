"""Convolution on AMX tiles: right for every shape, of fp32 and bf16 images."""

from __future__ import annotations

import pytest
from conv_cases import check, conv_region, relu, residual

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.targets.cpu.conv_amx import ConvAmx
from whet.targets.cpu.isa import AVX2, named

HOST = named("host")
TACTIC = ConvAmx()
CASES = [
    ((1, 5, 7, 3), 5, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 33, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "bias": True}),
    ((1, 13, 13, 3), 64, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3), "gap": 3}),
    ((1, 9, 9, 64), 40, (3, 3), {"pads": (1, 1, 1, 1), "x_gap": 32}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (1, 1, 1, 1), "group": 3}),
    ((3, 1, 1, 1), 1, (1, 1), {}),
]
needs_amx = pytest.mark.skipif(not HOST.amx_bf16, reason="this machine has no AMX")


@needs_amx
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_shape_is_right(case, dtype):
    x, o, kernel, more = case
    region = relu(conv_region(x, o, kernel, dtype=dtype, compute="bf16", **more))
    space = list(TACTIC.space(region, HOST, 2))
    for params in (space[0], space[-1], {"mt": 1, "nt": 2, "depth": 1}):
        check(region, TACTIC, params, tolerance=3e-3 if dtype is DType.BF16 else 2e-6)


@needs_amx
def test_bias_residual_and_activation_are_fused():
    check(residual(conv_region((2, 6, 5, 9), 21, (3, 3), pads=(1, 1, 1, 1), bias=True, gap=4, compute="bf16")), TACTIC)


@needs_amx
@pytest.mark.parametrize("n", [0, 3])
def test_symbolic_sizes_are_bound_late(n):
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    x = (symbol("b"), symbol("h"), symbol("w"), 5)
    region = conv_region(x, 9, (3, 3), pads=(1, 1, 1, 1), strides=(2, 1), dims=dims, compute="bf16")
    check(region, TACTIC, env={"b": n, "h": 7, "w": 10})


def test_machines_without_amx_and_fp32_products_are_refused():
    assert "AMX" in TACTIC.applies(conv_region((1, 6, 6, 4), 4, (3, 3), compute="bf16"), AVX2)
    if HOST.amx_bf16:
        assert "f32" in TACTIC.applies(conv_region((1, 6, 6, 4), 4, (3, 3)), HOST)
