"""Constant folding, common subexpressions, dead code, algebra and data movement."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol
from whet.passes import algebra, constants, cse, dead, movement


def test_constant_operands_are_folded() -> None:
    b = Building()
    x = b.input("x", (2, 3))
    c = b.add_(b.mul(weights(3), weights(3)), 1.0)
    g = rewritten(b.done(b.add_(x, c)), constants.fold_constants)
    assert ops(g) == {"add": 1}


def test_a_large_expansion_of_a_constant_is_not_folded() -> None:
    b = Building()
    x = b.input("x", (1024, 1024))
    g = b.done(b.add_(x, b.expand(np.float32(3), shape=(1024, 1024))))
    constants.fold_constants(g)
    assert ops(g) == {"add": 1, "expand": 1}


def test_symbolic_attributes_are_not_folded() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 2))
    g = rewritten(b.done(b.add_(x, b.expand(weights(1, 2), shape=(n, 2)))), constants.fold_constants)
    assert ops(g) == {"add": 1, "expand": 1}


def test_equal_nodes_run_once_and_unread_nodes_not_at_all() -> None:
    b = Building()
    x = b.input("x", (2, 3))
    b.exp(x)
    y = b.add_(b.mul(b.tanh(x), 2.0), b.mul(b.tanh(x), 2.0))
    g = rewritten(b.done(y), cse.merge_common, dead.remove_dead)
    assert ops(g) == {"tanh": 1, "mul": 1, "add": 1}


def test_nodes_that_differ_in_an_attribute_both_run() -> None:
    b = Building()
    x = b.input("x", (2, 3))
    g = rewritten(b.done(b.add_(b.gelu(x), b.gelu(x, approximate="tanh"))), cse.merge_common)
    assert ops(g) == {"gelu": 2, "add": 1}


@pytest.mark.parametrize("neutral", [
    lambda b, x: b.add_(x, 0.0), lambda b, x: b.add_(0.0, x), lambda b, x: b.sub(x, 0.0), lambda b, x: b.mul(x, 1.0),
    lambda b, x: b.div(x, 1.0), lambda b, x: b.neg(b.neg(x)), lambda b, x: b.pow(x, 1.0),
    lambda b, x: b.add_(x, np.zeros((1, 3), np.float32)),
    lambda b, x: b.cast(b.cast(x, to=DType.F64), to=DType.F32), lambda b, x: b.cast(x, to=DType.F32),
    lambda b, x: b.where(np.array([True]), x, b.exp(x)),
    lambda b, x: b.reshape(b.reshape(x, shape=(3, 2)), shape=(2, 3)),
    lambda b, x: b.transpose(b.transpose(x, perm=(1, 0)), perm=(1, 0)), lambda b, x: b.expand(x, shape=(2, 3)),
    lambda b, x: b.slice(x, starts=(0, 0), sizes=(2, 3), steps=(1, 1)), lambda b, x: b.concat(x, axis=1),
    lambda b, x: b.slice(b.concat(x, b.exp(x), axis=0), starts=(0, 0), sizes=(2, 3), steps=(1, 1)),
    lambda b, x: b.pad(x, pads=(0, 0, 0, 0)), lambda b, x: b.reduce(x, kind="sum", axes=(), keepdims=True),
    lambda b, x: b.concat(b.slice(x, starts=(0, 0), sizes=(2, 1), steps=(1, 1)),
                          b.slice(x, starts=(0, 1), sizes=(2, 2), steps=(1, 1)), axis=1),
])
def test_what_changes_nothing_vanishes(neutral) -> None:
    b = Building()
    x = b.input("x", (2, 3))
    clean = (algebra.simplify, movement.simplify, algebra.simplify, movement.simplify, dead.remove_dead)
    g = rewritten(b.done(b.tanh(neutral(b, x))), *clean)
    assert ops(g) == {"tanh": 1}


def test_a_product_with_zero_stays_for_the_sake_of_nan_and_infinity() -> None:
    b = Building()
    x = b.input("x", (4,))
    feeds = {"x": np.array([1, np.nan, np.inf, -2], np.float32)}
    g = rewritten(b.done(b.mul(x, 0.0), b.sub(x, x)), algebra.simplify, feeds=feeds)
    assert ops(g) == {"mul": 1, "sub": 1}


def test_division_becomes_multiplication_only_where_that_is_exact() -> None:
    b = Building()
    x = b.input("x", (16,))
    g = rewritten(b.done(b.div(x, 8.0), b.div(x, 3.0)), algebra.simplify, rtol=0, atol=0)
    assert ops(g) == {"mul": 1, "div": 1}


def test_the_root_of_what_may_be_negative_stays_a_power() -> None:
    b = Building()
    x = b.input("x", (3,))
    feeds = {"x": np.array([4, -np.inf, -1], np.float32)}
    g = rewritten(b.done(b.pow(x, 0.5), b.pow(b.abs(x), 0.5)), algebra.simplify, feeds=feeds)
    assert ops(g) == {"pow": 1, "abs": 1, "sqrt": 1}


def test_arithmetic_on_an_expanded_value_runs_before_the_expansion() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 5))
    mask = b.where(b.expand(np.array([[True]]), shape=(n, 5)), np.float32(0), np.float32(-1e30))
    g = rewritten(b.done(b.add_(x, mask)), algebra.simplify, algebra.simplify, constants.fold_constants,
                  algebra.simplify, dead.remove_dead)
    assert ops(g) == {}


def test_transposes_compose_and_moving_ones_is_a_reshape() -> None:
    b = Building()
    x = b.input("x", (2, 1, 3, 4))
    y = b.transpose(b.transpose(x, perm=(1, 0, 3, 2)), perm=(3, 0, 1, 2))
    z = b.transpose(x, perm=(1, 0, 2, 3))
    g = rewritten(b.done(y, z), movement.simplify, dead.remove_dead)
    assert ops(g) == {"transpose": 1, "reshape": 1}


def test_a_transpose_between_reshapes_that_only_merge_and_split_is_one_transpose() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 3, 5, 4))
    y = b.reshape(x, shape=(n * 3, 5, 4))
    y = b.reshape(b.transpose(y, perm=(0, 2, 1)), shape=(n, 3, 4, 5))
    g = rewritten(b.done(y), movement.simplify, dead.remove_dead)
    assert [tuple(m.attrs["perm"]) for m in g.nodes] == [(0, 1, 3, 2)]


def test_indexing_by_whole_ranges_is_a_reshape() -> None:
    n, s = symbol("n"), symbol("s")
    b = Building()
    x = b.input("x", (n, s), DType.BOOL)
    rows = b.expand(b.reshape(b.iota(size=n), shape=(n, 1, 1)), shape=(n, 1, s))
    columns = b.expand(b.reshape(b.iota(size=s), shape=(1, 1, s)), shape=(n, 1, s))
    index = b.concat(*(b.reshape(v, shape=(n, 1, s, 1)) for v in (rows, columns)), axis=3)
    g = rewritten(b.done(b.gather_nd(x, index)), movement.simplify, movement.simplify, dead.remove_dead)
    assert ops(g) == {"reshape": 1}


def test_a_gather_of_regular_constant_indices_is_a_slice() -> None:
    b = Building()
    x = b.input("x", (2, 6))
    g = rewritten(b.done(b.gather(x, np.array([1, 3, -1]), axis=1), b.gather(x, np.array(-2), axis=1)),
                  movement.simplify)
    assert ops(g) == {"slice": 2, "reshape": 1}


def test_a_comparison_that_the_range_decides_is_a_constant() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n,), DType.BOOL)
    g = rewritten(b.done(b.and_(x, b.ge(b.iota(size=n), np.int64(0)))), algebra.simplify, algebra.simplify,
                  dead.remove_dead)
    assert ops(g) == {}


def test_slices_that_split_heads_share_one_reshape() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 5, 24))
    cuts = [b.slice(x, starts=(0, 0, k * 8), sizes=(n, 5, 8), steps=(1, 1, 1)) for k in range(3)]
    g = rewritten(b.done(*(b.reshape(c, shape=(n, 5, 2, 4)) for c in cuts)), movement.simplify, cse.merge_common,
                  dead.remove_dead)
    assert ops(g) == {"reshape": 1, "slice": 3}


def test_arithmetic_moves_above_a_reshape_to_what_it_can_join() -> None:
    b = Building()
    y = b.reshape(b.matmul(b.input("x", (2, 6, 8)), weights(8, 4)), shape=(12, 4))
    g = rewritten(b.done(b.where(b.gt(b.mul(b.relu(y), np.float32([[2.0]])), 1.0), np.float32(0), np.float32(1))),
                  algebra.lift, dead.remove_dead)
    assert [n.op for n in g.nodes] == ["matmul", "relu", "mul", "gt", "where", "reshape"]


def test_an_activation_moves_above_a_concat_of_what_only_it_reads() -> None:
    b = Building()
    x = b.input("x", (2, 8))
    y, z = b.matmul(x, weights(8, 4)), b.matmul(x, weights(8, 6, seed=1))
    g = rewritten(b.done(b.relu(b.concat(y, z, axis=1))), algebra.lift, dead.remove_dead)
    assert [n.op for n in g.nodes] == ["matmul", "matmul", "relu", "relu", "concat"]


def test_a_flattened_matmul_with_bias_is_one_with_all_its_dimensions() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 6, 8))
    y = b.gelu(b.add_(b.matmul(b.reshape(x, shape=(n * 6, 8)), weights(8, 4)), weights(4)))
    y = b.reshape(b.add_(weights(8), b.matmul(y, weights(4, 8))), shape=(n, 6, 8))
    g = rewritten(b.done(b.add_(y, x)), *(f for _ in range(2) for f in (movement.simplify, algebra.lift)),
                  movement.simplify, dead.remove_dead)
    assert [m.op for m in g.nodes] == ["matmul", "add", "gelu", "matmul", "add", "add"]
