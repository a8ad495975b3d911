"""Winograd convolution: exact transforms, errors within bounds, borders and partial tiles."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import check, conv_region, residual

from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.conv_winograd import ConvWinograd
from whet.targets.cpu.isa import AVX2, NEON, named
from whet.targets.cpu.winograd import filter_matrix, transform_filters

HOST = named("host")
TACTIC = ConvWinograd()
CASES = [
    ((1, 5, 7, 3), 3, {"pads": (1, 1, 1, 1)}),
    ((2, 9, 8, 17), 33, {"pads": (1, 1, 1, 1), "bias": True}),
    ((1, 13, 23, 64), 64, {"pads": (1, 1, 1, 1), "gap": 3, "x_gap": 5}),
    ((2, 8, 8, 17), 17, {}),
    ((1, 3, 3, 17), 1, {"pads": (2, 2, 2, 2)}),
    ((1, 6, 7, 1), 5, {"pads": (0, 2, 1, 0)}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_shape_is_right(case, m, isa):
    x, o, more = case
    region = conv_region(x, o, (3, 3), **more)
    mr, nv = (14, 2) if isa.registers == 32 else (6, 2)
    for mt, nt in ((1, 1), (2, 8)):
        check(region, TACTIC, {"m": m, "mr": mr, "nv": nv, "mt": mt, "nt": nt, "unroll": 4}, isa)


@pytest.mark.parametrize(("m", "bound"), [(2, 1e-6), (4, 4e-6)])
def test_the_error_of_many_channels_stays_small(m, bound):
    params = {"m": m, "mr": 14, "nv": 2, "mt": 1, "nt": 4, "unroll": 4}
    check(conv_region((1, 14, 14, 256), 64, (3, 3), pads=(1, 1, 1, 1)), TACTIC, params, tolerance=bound)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("m", [2, 4])
def test_bias_residual_and_activation_are_fused(m, isa):
    region = residual(conv_region((2, 6, 5, 9), 21, (3, 3), pads=(1, 1, 1, 1), bias=True, gap=4))
    check(region, TACTIC, {"m": m, "mr": 6, "nv": 2, "mt": 1, "nt": 1, "unroll": 4}, isa)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (7, 10)])
def test_symbolic_sizes_are_bound_late(h, w):
    dims = {"b": (0, 2, 4), "h": (1, 9, 20), "w": (1, 9, 20)}
    region = conv_region((symbol("b"), symbol("h"), symbol("w"), 20), 20, (3, 3), pads=(1, 1, 1, 1), dims=dims)
    for n in (0, 3):
        check(region, TACTIC, env={"b": n, "h": h, "w": w})


@pytest.mark.parametrize("m", [2, 4])
def test_filters_are_transformed_exactly(m):
    g = filter_matrix(m)
    w = np.random.default_rng(0).standard_normal((2, 3, 3, 3))
    u = transform_filters(w, m)
    assert u.shape == ((m + 2) ** 2, 3, 2)
    np.testing.assert_allclose(u[:, 1, 0].reshape(m + 2, m + 2), g @ w[0, 1] @ g.T, rtol=1e-6)


def test_other_convolutions_are_refused_with_a_reason():
    assert "stride" in TACTIC.applies(conv_region((1, 8, 8, 4), 4, (3, 3), strides=(2, 2)), HOST)
    assert "bf16" in TACTIC.applies(conv_region((1, 8, 8, 4), 4, (3, 3), compute="bf16"), HOST)


def test_neon_code_is_made():
    region = conv_region((1, 6, 6, 5), 5, (3, 3), pads=(1, 1, 1, 1))
    impl = TACTIC.implement(region, next(iter(TACTIC.space(region, NEON, 2))), NEON, 2)
    assert "fmla" in to_assembly(impl.steps[0].kernel.code, NEON)
