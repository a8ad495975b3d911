"""Slices move before what computes row by row, and nowhere else; nothing else changes."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.ir.symbolic import symbol
from whet.passes import manager, slices


def first(b: Building, v, count: int = 1, axis: int = 1, start: int = 0):
    """The first elements along an axis."""
    starts = tuple(start if a == axis else 0 for a in range(v.rank))
    sizes = tuple(count if a == axis else d for a, d in enumerate(v.shape))
    return b.slice(v, starts=starts, sizes=sizes, steps=(1,) * v.rank)


def rows_of(g: Graph, op: str) -> list[object]:
    return [n.output.shape[-2] for n in g.nodes if n.op == op]


def norm(b: Building, x, seed: int = 0):
    d = x.shape[-1]
    return b.layernorm(x, weights(d, seed=seed), weights(d, seed=seed + 1), axis=x.rank - 1, epsilon=1e-5)


def layer(b: Building, x, heads: int = 2, causal: bool = False, mask=None):
    """A transformer's layer, norms first."""
    d, rows = x.shape[-1], x.shape[1]
    y = norm(b, x)
    q, k, v = (b.transpose(b.reshape(b.matmul(y, weights(d, d, seed=i)), shape=(x.shape[0], rows, heads, d // heads)),
                           perm=(0, 2, 1, 3)) for i in range(3))
    attrs = {"causal": True, "offset": 0} if causal else {}
    y = b.attention(q, k, v, *([] if mask is None else [mask]), scale=0.3, **attrs)
    y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), shape=x.shape)
    x = b.add_(x, b.add_(b.matmul(y, weights(d, d, seed=5)), weights(d, seed=6)))
    y = b.gelu(b.matmul(norm(b, x, 7), weights(d, 3 * d, seed=8)), approximate="none")
    return b.add_(b.matmul(y, weights(3 * d, d, seed=9)), x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_of_the_last_layer_only_the_rows_that_are_read_are_computed(causal: bool, masked: bool, place: int) -> None:
    b = Building()
    x = b.input("x", (2, 7, 8))
    mask = b.input("mask", (7, 7)) if masked else None
    y = norm(b, layer(b, layer(b, x), causal=causal, mask=mask))
    y = b.matmul(b.reshape(first(b, y, start=place), shape=(2, 8)), weights(8, 5))
    g = rewritten(b.done(y), slices.move_up)
    assert sorted(rows_of(g, "layernorm")) == [1, 1, 7, 7, 7]  # keys and values are of all rows
    assert [n.output.shape[2] for n in g.nodes if n.op == "attention"] == [7, 1]
    assert sorted(rows_of(g, "matmul")) == [1] * 4 + [2] + [7] * 8
    manager.prepare(g, verify=True)


def test_a_result_that_is_an_output_as_a_whole_is_computed_as_a_whole() -> None:
    b = Building()
    y = norm(b, b.input("x", (2, 6, 4)))
    g = rewritten(b.done(y, first(b, y)), slices.move_up)
    assert [n.output.shape for n in g.nodes if n.op == "layernorm"] == [(2, 6, 4)]


def test_different_parts_of_a_result_keep_it_whole() -> None:
    b = Building()
    y = norm(b, b.input("x", (2, 6, 4)))
    g = rewritten(b.done(first(b, y), first(b, y, start=2)), slices.move_up)
    assert ops(g) == {"layernorm": 1, "slice": 2}
    assert g.nodes[0].op == "layernorm"


def test_most_of_the_rows_are_computed_with_all_of_them() -> None:
    b = Building()
    g = rewritten(b.done(first(b, norm(b, b.input("x", (2, 6, 4))), 5, start=1)), slices.move_up)
    assert [n.op for n in g.nodes] == ["layernorm", "slice"]


def test_an_epilogue_stays_with_its_anchor() -> None:
    b = Building()
    y = b.relu(b.conv(b.input("x", (1, 3, 6, 6)), weights(4, 3, 1, 1)))
    g = rewritten(b.done(first(b, y, axis=2)), slices.move_up)
    assert [n.op for n in g.nodes] == ["conv", "relu", "slice"]
    b = Building()
    y = b.relu(b.conv(b.input("x", (1, 3, 6, 6)), weights(4, 3, 1, 1)))
    g = rewritten(b.done(first(b, b.softmax(b.exp(y), axis=1), axis=2)), slices.move_up)
    assert [n.op for n in g.nodes] == ["conv", "relu", "exp", "slice", "softmax"]


def test_a_prologue_stays_with_its_anchor() -> None:
    b = Building()
    x, z = b.input("x", (2, 6, 4)), b.input("z", (6, 4))
    g = rewritten(b.done(first(b, norm(b, b.add_(x, z)))), slices.move_up)
    assert [n.op for n in g.nodes] == ["slice", "slice", "add", "layernorm"]


def test_columns_of_products_and_what_is_normalized_over_stay() -> None:
    b = Building()
    x = b.input("x", (2, 6, 4))
    ends = [first(b, y, axis=2) for y in (norm(b, x), b.softmax(x, axis=2), b.matmul(x, weights(4, 4)))]
    g = rewritten(b.done(*ends), slices.move_up)
    assert {n.op for n in g.nodes[:3]} == {"layernorm", "softmax", "matmul"}


def test_matrices_of_a_batch_and_broadcast_operands_are_cut_where_they_have_the_dimension() -> None:
    b = Building()
    x, y, z = b.input("x", (6, 1, 3, 4)), b.input("y", (5, 4, 2)), b.input("z", (5, 1, 1))
    g = rewritten(b.done(first(b, first(b, b.add_(b.matmul(x, y), z), 2, 1, 3), 2, 0)), slices.move_up)
    rewritten(g, lambda g: manager.prepare(g, verify=True))
    b = Building()
    g = rewritten(b.done(first(b, b.add_(b.matmul(b.input("x", (6, 1, 3, 4)), b.input("y", (5, 4, 2))),
                                         b.input("z", (5, 1, 1))), 2, 1, 3)), slices.move_up)
    assert [n.output.shape for n in g.nodes if n.op == "matmul"] == [(6, 2, 3, 2)]


def test_the_last_token_of_a_dynamic_sequence_is_the_only_one_that_reaches_the_vocabulary() -> None:
    n = symbol("n")
    b = Building()
    y = b.matmul(norm(b, b.input("x", (2, n, 4))), weights(4, 9))
    b.dims["n"] = (1, 4, 8)
    g = rewritten(b.done(first(b, y, start=n - 1)), slices.move_up,
                  feeds={"x": np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)})
    assert rows_of(g, "matmul") == [1]


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_of_rows_keep_their_meaning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = Building()
    shape = tuple(int(d) for d in rng.integers(2, 7, 3))
    held = [b.input("x", shape)]
    for _ in range(int(rng.integers(2, 9))):
        v = held[int(rng.integers(0, len(held)))]
        op = int(rng.integers(0, 7))
        if op == 0:
            v = norm(b, v)
        elif op == 1:
            v = b.softmax(v, axis=int(rng.integers(0, v.rank)))
        elif op == 2:
            v = b.transpose(v, perm=tuple(int(p) for p in rng.permutation(v.rank)))
        elif op == 3:
            v = b.matmul(v, weights(v.shape[-1], int(rng.integers(1, 6))))
        elif op == 4:
            v = b.add_(v, weights(*(int(d) if rng.random() < 0.5 else 1 for d in v.shape[1:])))
        elif op == 5:
            v = b.mul(v, b.tanh(v))
        else:
            v = b.reshape(v, shape=(v.shape[0], 1, *v.shape[1:]) if v.rank == 3 else
                          (v.shape[0] * v.shape[1], *v.shape[2:]))
        held.append(v)
    v, axis = held[-1], int(rng.integers(0, held[-1].rank))
    size, step = int(v.shape[axis]), int(rng.choice([1, 1, 2, -1]))
    count = int(rng.integers(1, 2 + (size - 1) // abs(step)))
    start = (size - 1 if step < 0 else 0)
    cut = b.slice(v, starts=tuple(start if a == axis else 0 for a in range(v.rank)),
                  sizes=tuple(count if a == axis else d for a, d in enumerate(v.shape)),
                  steps=tuple(step if a == axis else 1 for a in range(v.rank)))
    rewritten(b.done(cut, *([held[1]] if seed % 3 == 0 else [])), slices.move_up)


def test_a_mask_of_booleans_is_cut_with_the_queries() -> None:
    b = Building()
    q, k, v = (b.input(n, (1, 2, 6, 4)) for n in "qkv")
    y = b.attention(q, k, v, b.input("m", (1, 1, 6, 6), DType.BOOL), scale=0.5, masked_zero=True)
    g = rewritten(b.done(first(b, y, 2, axis=2, start=1)), slices.move_up)
    assert [n.output.shape for n in g.nodes if n.op == "slice"] == [(1, 2, 2, 4), (1, 1, 2, 6)]
