"""Depthwise convolution: right at borders, channel tails, for multipliers and symbolic sizes."""

from __future__ import annotations

import pytest
from conv_cases import check, conv_region, relu, residual

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.conv_depthwise import ConvDepthwise, window_of
from whet.targets.cpu.conv_window import column_tiles
from whet.targets.cpu.isa import AVX2, NEON, named

HOST = named("host")
TACTIC = ConvDepthwise()
CASES = [
    ((1, 5, 7, 3), 3, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 17, (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "bias": True}),
    ((1, 13, 23, 33), 33, (5, 5), {"strides": (2, 1), "pads": (2, 2, 2, 2), "gap": 3}),
    ((2, 29, 17), 17, (3,), {"pads": (2, 0), "x_gap": 2}),
    ((1, 4, 5, 6, 8), 8, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((1, 9, 9, 12), 24, (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 9, 9, 16), 16, (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    ((1, 2, 2, 16), 16, (3, 3), {"pads": (4, 4, 4, 4), "dilations": (4, 4)}),
    ((1, 19, 19, 1), 1, (7, 7), {"pads": (3, 3, 3, 3)}),
    ((1, 13, 13, 48), 48, (3, 3), {}),
    ((1, 30, 40, 16), 16, (3, 3), {"pads": (15, 0, 15, 20), "dilations": (15, 10)}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_shape_is_right(case, isa):
    x, o, kernel, more = case
    region = conv_region(x, o, kernel, group=x[-1], **more)
    space = list(TACTIC.space(region, isa, 2))
    for params in (space[0], space[-1], {"width": 3, "rows": 2, "splits": 2}):
        check(region, TACTIC, params, isa)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
def test_bias_residual_and_activation_are_fused(isa):
    region = residual(conv_region((2, 6, 5, 19), 19, (3, 3), pads=(1, 1, 1, 1), group=19, bias=True, gap=4))
    check(region, TACTIC, isa=isa)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (7, 10)])
def test_symbolic_sizes_are_bound_late(h, w):
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    x = (symbol("b"), symbol("h"), symbol("w"), 20)
    region = conv_region(x, 20, (3, 3), pads=(1, 1, 1, 1), group=20, dims=dims)
    check(region, TACTIC, env={"b": 2, "h": h, "w": w})
    check(region, TACTIC, env={"b": 0, "h": h, "w": w})


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_bf16_products_are_of_rounded_operands(dtype, isa):
    region = conv_region((1, 6, 7, 35), 35, (3, 3), pads=(1, 1, 1, 1), group=35, dtype=dtype, compute="bf16", bias=True)
    check(relu(region), TACTIC, isa=isa, tolerance=3e-3 if dtype is DType.BF16 else 2e-6)


def test_column_tiles_cover_a_row_once_and_know_their_taps():
    w = window_of(conv_region((1, 5, 30, 4), 4, (3, 3), pads=(1, 1, 1, 1), group=4))
    runs = column_tiles(w, 7)
    assert [r.first for r in runs[1:]] == [r.first + r.count * r.width for r in runs[:-1]]
    assert sum(r.count * r.width for r in runs) == 30
    assert runs[0].taps[0] == (1, 2)
    assert runs[-1].taps[-1] == (0, 1)


def test_neon_code_is_made():
    region = conv_region((1, 6, 6, 5), 5, (3, 3), pads=(1, 1, 1, 1), group=5)
    impl = TACTIC.implement(region, next(iter(TACTIC.space(region, NEON, 2))), NEON, 2)
    assert "fmla" in to_assembly(impl.steps[0].kernel.code, NEON)
