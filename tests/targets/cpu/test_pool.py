"""Pooling and local response normalization: kinds, borders, special values, symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import check, data, pool_region, relu
from harness import run_region

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.isa import AVX2, named
from whet.targets.cpu.lrn import Lrn
from whet.targets.cpu.pool import PoolWindow

HOST = named("host")
POOL = PoolWindow()
KINDS = [("max", {}), ("average", {}), ("average", {"include_pad": True}), ("lp", {"p": 1}), ("lp", {"p": 2}),
         ("lp", {"p": 3})]
SHAPES = [
    ((1, 15, 15, 17), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 4, 5, 6, 8), (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 0)}),
    ((2, 9, 33), (3,), {"pads": (1, 1), "gap": 3, "x_gap": 1}),
    ((1, 5, 5, 1), (2, 2), {"dilations": (2, 3), "pads": (0, 1, 1, 0)}),
]


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_and_shape_is_right(shape, kind, isa):
    region = pool_region(shape[0], kind[0], shape[1], **shape[2], **kind[1])
    space = list(POOL.space(region, isa, 2))
    for params in (space[0], space[-1]):
        check(relu(region), POOL, params, isa, tolerance=3e-6)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_bf16_is_pooled_in_fp32(kind):
    check(pool_region((1, 9, 9, 19), kind, (3, 3), dtype=DType.BF16, pads=(1, 1, 1, 1)), POOL, tolerance=3e-3)


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I32, DType.U64, DType.F16, DType.F64])
def test_maxima_of_every_type(dtype, isa):
    check(pool_region((1, 9, 9, 19), "max", (3, 3), dtype=dtype, pads=(1, 1, 1, 1)), POOL, isa=isa, tolerance=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(DType.F64, 1e-12), (DType.F16, 1e-3)])
def test_other_floats_are_averaged_and_normalized(dtype, tolerance):
    check(pool_region((1, 9, 9, 19), "average", (3, 3), dtype=dtype), POOL, tolerance=tolerance)
    t = Tensor.dense(dtype, (2, 7, 19))
    at = {"size": 3, "alpha": 0.3, "beta": 0.75, "bias": 1.5, "channels_last": True}
    check(Region("lrn", at, (t,), 1, t, t), Lrn(), tolerance=tolerance)


@pytest.mark.parametrize("h", [1, 8])
def test_symbolic_sizes_are_bound_late(h):
    dims = {"b": (0, 2, 4), "h": (1, 9, 20)}
    region = pool_region((symbol("b"), symbol("h"), symbol("h"), 20), "average", (3, 3), pads=(1, 1, 1, 1), dims=dims)
    for n in (0, 2):
        check(region, POOL, env={"b": n, "h": h})


def test_a_nan_in_the_window_is_the_maximum_and_minus_infinity_is_not_lost():
    region = pool_region((1, 4, 4, 3), "max", (2, 2), strides=(2, 2))
    arrays = data(region)
    arrays[0][0, 0, 1, 0], arrays[0][0, 2:, 2:, 1], arrays[0][0, 2, 0, 2] = np.nan, -np.inf, np.inf
    y = run_region(region, POOL, next(iter(POOL.space(region, HOST, 1))), HOST, arrays)[0]
    assert np.isnan(y[0, 0, 0, 0])
    assert np.isnan(y).sum() == 1
    assert y[0, 1, 1, 1] == -np.inf
    assert y[0, 1, 0, 2] == np.inf


@pytest.mark.parametrize("isa", [HOST, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize(("shape", "size", "beta"), [((1, 5, 6, 17), 5, 0.75), ((2, 7, 40), 4, 0.6),
                                                     ((2, 3, 1), 3, 0.75), ((1, 2, 2, 5), 9, 1.0)])
def test_local_response_normalization_is_right(shape, size, beta, isa):
    t = Tensor.dense(DType.F32, shape)
    at = {"size": size, "alpha": 0.3, "beta": beta, "bias": 1.5, "channels_last": True}
    for params in Lrn().space(Region("lrn", at, (t,), 1, t, t), isa, 2):
        check(relu(Region("lrn", at, (t,), 1, t, t)), Lrn(), params, isa, tolerance=3e-6)
