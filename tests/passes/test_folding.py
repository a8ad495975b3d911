"""Scales, batch norms and padding disappear into convolutions; parallel matmuls into one."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.symbolic import symbol
from whet.passes import cse, dead, movement, pads, parallel, scales


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_after_a_convolution_folds(group: int, bias: bool) -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 4, 7, 6))
    ins = [weights(6, 4 // group, 3, 3)] + ([weights(6)] if bias else [])
    y = b.conv(x, *ins, pads=(1, 1, 1, 1), group=group)
    y = b.add_(b.mul(y, weights(6, 1, 1, seed=2)), weights(1, 6, 1, 1, seed=3))
    g = rewritten(b.done(b.relu(y)), scales.fold_scales, dead.remove_dead)
    assert ops(g) == {"conv": 1, "relu": 1}


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_batch_norm_before_a_convolution_folds_as_far_as_padding_allows(group: int, pad: int) -> None:
    b = Building()
    x = b.input("x", (2, 4, 7, 6))
    y = b.add_(b.mul(x, weights(4, 1, 1, seed=2)), weights(4, 1, 1, seed=3))
    y = b.conv(y, weights(8, 4 // group, 3, 3), pads=(pad,) * 4, group=group)
    g = rewritten(b.done(y), scales.fold_scales, dead.remove_dead)
    assert ops(g) == ({"conv": 1, "mul": 1, "add": 1} if pad else {"conv": 1})


def test_a_scale_that_is_read_twice_or_not_finite_stays() -> None:
    b = Building()
    x = b.input("x", (2, 4, 7, 6))
    y = b.conv(x, weights(4, 4, 1, 1))
    z = b.mul(y, weights(4, 1, 1))
    bad = b.mul(b.conv(x, weights(4, 4, 1, 1)), np.array([[[1]], [[np.inf]], [[1]], [[np.nan]]], np.float32))
    g = rewritten(b.done(y, z, bad), scales.fold_scales, dead.remove_dead)
    assert ops(g) == {"conv": 2, "mul": 2}


def test_factors_around_a_matmul_fold_into_its_weights() -> None:
    b = Building()
    x = b.input("x", (2, 5, 4))
    y = b.mul(b.matmul(b.mul(x, 0.3), weights(4, 6)), weights(6, seed=1))
    assert ops(rewritten(b.done(y), scales.fold_scales, dead.remove_dead)) == {"matmul": 1}


def test_padding_folds_into_what_pads_the_same() -> None:
    b = Building()
    x = b.input("x", (2, 4, 7, 6))
    border = {"pads": (0, 0, 1, 0, 0, 0, 1, 2), "mode": "constant"}
    a = b.conv(b.pad(x, value=0.0, **border), weights(4, 4, 3, 3))
    c = b.pool(b.pad(x, value=-np.inf, **border), kind="max", kernel=(3, 3))
    d = b.pool(b.pad(b.relu(x), value=0.0, **border), kind="max", kernel=(3, 3))
    e = b.pool(b.pad(x, value=0.0, **border), kind="average", kernel=(2, 2))
    g = rewritten(b.done(a, c, d, e), pads.fold_pads, dead.remove_dead)
    assert ops(g) == {"conv": 1, "pool": 3, "relu": 1}


def test_padding_with_another_value_stays() -> None:
    b = Building()
    x = b.input("x", (2, 4, 7, 6))
    border = {"pads": (0, 0, 1, 0, 0, 0, 1, 2), "mode": "constant"}
    a = b.conv(b.pad(x, value=1.0, **border), weights(4, 4, 3, 3))
    c = b.pool(b.pad(x, value=0.0, **border), kind="max", kernel=(3, 3))
    d = b.conv(b.pad(x, pads=(0, 0, 1, 0, 0, 0, 1, 2), mode="reflect"), weights(4, 4, 3, 3))
    g = rewritten(b.done(a, c, d), pads.fold_pads, dead.remove_dead)
    assert ops(g)["pad"] == 3


def test_query_key_and_value_are_one_matmul() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 5, 8))
    out = []
    for i, width in enumerate((8, 8, 16)):
        y = b.matmul(x, weights(8, width, seed=i))
        y = b.add_(y, weights(width, seed=i)) if i != 1 else y
        out.append(b.transpose(b.reshape(y, shape=(n, 5, width // 4, 4)), perm=(0, 2, 1, 3)))
    g = rewritten(b.done(*out), parallel.merge_parallel, movement.simplify, cse.merge_common, dead.remove_dead)
    assert ops(g) == {"matmul": 1, "add": 1, "reshape": 1, "slice": 3, "transpose": 3}


def test_parallel_matmuls_with_epilogues_of_their_own_stay_apart() -> None:
    b = Building()
    x = b.input("x", (2, 5, 8))
    g = rewritten(b.done(b.mul(b.silu(b.matmul(x, weights(8, 8))), b.matmul(x, weights(8, 8, seed=1)))),
                  parallel.merge_parallel)
    assert ops(g)["matmul"] == 2


def test_chains_of_constant_factors_and_offsets_are_one_factor_and_one_offset() -> None:
    n = symbol("n")
    b = Building()
    x = b.relu(b.input("x", (n, 4, 5, 6)))
    for i in range(3):
        x = b.add_(b.mul(x, weights(4, 1, 1, seed=i)), weights(1, 4, 1, 1, seed=i + 5))
    g = rewritten(b.done(b.mul(x, 0.5)), scales.fold_scales, dead.remove_dead)
    assert ops(g) == {"relu": 1, "mul": 1, "add": 1}


def test_factors_whose_product_would_overflow_or_vanish_stay_apart() -> None:
    b = Building()
    x = b.input("x", (4,))
    y, z = b.mul(b.mul(x, 1e30), 1e30), b.mul(b.mul(x, 1e-30), 1e-30)
    g = rewritten(b.done(y, z), scales.fold_scales)
    assert ops(g) == {"mul": 4}
