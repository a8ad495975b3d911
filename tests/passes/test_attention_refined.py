"""What exporters write around attention becomes its attributes: past keys, windows, groups of heads."""

import numpy as np
import pytest
from building import Building, rewritten

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim, symbol
from whet.passes import attention, dead, movement

S, P, N = symbol("s"), symbol("p"), symbol("n")


def decoder(keep, fill: float = -np.inf, group: int = 0) -> Graph:
    """softmax(q k^T + mask) v with p past keys; keep(b, column, row) is what a row sees."""
    b = Building()
    kv_heads = 2 if group else 4
    total: Dim = S + P
    q = b.input("q", (N, 4, S, 8))
    k, v = (b.concat(b.input(f"past_{x}", (N, kv_heads, P, 8)), b.input(x, (N, kv_heads, S, 8)), axis=2) for x in "kv")
    if group:
        k, v = (b.reshape(b.expand(b.reshape(x, shape=(N, 2, 1, total, 8)), shape=(N, 2, 2, total, 8)),
                          shape=(N, 4, total, 8)) for x in (k, v))
    past = b.add("dims", [], {"values": (P,), "shape": ()})
    row = b.reshape(b.add_(b.iota(size=S), past), shape=(S, 1))
    column = b.reshape(b.iota(size=total), shape=(1, total))
    mask = b.where(keep(b, column, row), np.float32(0), np.float32(fill))
    scores = b.add_(b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))), mask)
    return b.done(b.matmul(b.softmax(scores, axis=3), v))


def refined(g: Graph) -> Node:
    feeds = {}
    rng = np.random.default_rng(0)
    env = {"s": 3, "p": 4, "n": 2, "s + p": 7, "p + s": 7}
    for v in g.inputs:
        shape = [d if isinstance(d, int) else env[str(d)] for d in v.shape]
        x = rng.standard_normal(shape) if v.dtype.is_float else rng.integers(0, 2, shape)
        feeds[v.name] = x.astype(v.dtype.np)
    g = rewritten(g, movement.simplify, attention.recognize, dead.remove_dead, feeds=feeds)
    node, = (n for n in g.nodes if n.op == "attention")
    return node


def padding(b: Building) -> Value:
    return b.input("pad", (N, 1, 1, S + P), DType.BOOL)


def test_a_causal_mask_after_past_keys_is_an_offset() -> None:
    node = refined(decoder(lambda b, column, row: b.le(column, row)))
    assert (node.attrs["causal"], node.attrs["offset"], node.attrs["window"]) == (True, P, 0)
    assert len(node.inputs) == 3


def test_a_sliding_window_is_an_attribute() -> None:
    node = refined(decoder(lambda b, column, row: b.and_(b.le(column, row), b.gt(column, b.sub(row, 3)))))
    assert (node.attrs["causal"], node.attrs["offset"], node.attrs["window"]) == (True, P, 3)
    assert len(node.inputs) == 3


def test_padding_stays_a_mask_of_keys() -> None:
    node = refined(decoder(lambda b, column, row: b.and_(b.le(column, row), padding(b))))
    assert (node.attrs["causal"], node.attrs["offset"]) == (True, P)
    assert node.input(3).shape == (N, 1, 1, S + P)


@pytest.mark.parametrize("fill", [-3.4e38, -1e4])
def test_a_finite_mask_with_padding_stays_as_it_is(fill: float) -> None:
    """A row that sees nothing would average over other columns."""
    node = refined(decoder(lambda b, column, row: b.and_(b.le(column, row), padding(b)), fill))
    assert not node.attrs["causal"]
    assert node.input(3).shape == (N, 1, S, S + P)


def test_repeated_heads_are_read_where_they_are() -> None:
    g = decoder(lambda b, column, row: b.le(column, row), group=2)
    node = refined(g)
    assert node.input(1).shape == (N, 2, S + P, 8)
    assert node.input(2).shape == (N, 2, S + P, 8)


def test_repeated_heads_in_one_dimension_with_the_batch() -> None:
    """As PyTorch's exporter decomposes scaled_dot_product_attention."""
    b = Building()
    q, k, v = b.input("q", (N, 4, S, 8)), b.input("k", (N, 2, P, 8)), b.input("v", (N, 2, P, 8))
    k, v = (b.expand(b.reshape(x, shape=(N, 2, 1, P, 8)), shape=(N, 2, 2, P, 8)) for x in (k, v))
    kt = b.reshape(b.transpose(b.reshape(k, shape=(N * 4, P, 8)), perm=(0, 2, 1)), shape=(N, 4, 8, P))
    g = b.done(b.matmul(b.softmax(b.matmul(q, kt), axis=3), b.reshape(v, shape=(N, 4, P, 8))))
    assert refined(g).input(1).shape == (N, 2, P, 8)


def test_attention_that_is_one_node_is_refined_too() -> None:
    b = Building()
    q, k, v = (b.input(x, (N, 2, S, 8)) for x in "qkv")
    row, column = (b.reshape(b.iota(size=S), shape=shape) for shape in ((S, 1), (1, S)))
    node = refined(b.done(b.attention(q, k, v, b.ge(row, column), scale=0.5, masked_zero=True)))
    assert node.attrs["causal"]
    assert len(node.inputs) == 3
