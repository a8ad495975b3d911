"""Convolutional networks run channels last, with transposes only where data comes in or goes out."""

import numpy as np
import pytest
from building import Building, ops, rewritten, weights

from whet.ir.symbolic import symbol
from whet.passes import cse, dead, layout, manager, movement, transposes


def laid_out(graph, **kw):
    return rewritten(graph, layout.channels_last, *(p.apply for p in manager.CLEAN), transposes.sink,
                     *(p.apply for p in manager.CLEAN), rtol=1e-4, atol=1e-4, **kw)


def conv(b, x, out: int, k: int = 3, **attrs):
    return b.conv(x, weights(out, int(x.shape[1]) // attrs.get("group", 1), k, k), weights(out),
                  pads=(k // 2,) * 4, **attrs)


def test_a_residual_block_is_transposed_at_its_ends_alone() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 3, 9, 8))
    y = b.relu(conv(b, x, 4))
    y = b.relu(b.add_(conv(b, b.relu(conv(b, y, 4)), 4), y))
    y = b.pool(y, kind="max", kernel=(2, 2), strides=(2, 2))
    y = b.reshape(b.reduce(y, kind="mean", axes=(2, 3), keepdims=True), shape=(n, 4))
    g = laid_out(b.done(b.matmul(y, weights(4, 5))))
    assert ops(g)["transpose"] == 1


def test_squeeze_and_excitation_needs_no_transpose() -> None:
    n = symbol("n")
    b = Building()
    y = conv(b, b.input("x", (n, 3, 9, 8)), 4)
    s = b.sigmoid(conv(b, b.reduce(y, kind="mean", axes=(2, 3), keepdims=True), 4, 1))
    g = laid_out(b.done(b.reduce(conv(b, b.mul(y, s), 4), kind="max", axes=(2, 3), keepdims=False)))
    assert ops(g)["transpose"] == 1


def test_dense_connections_concatenate_channels_last() -> None:
    b = Building()
    y = conv(b, b.input("x", (2, 3, 9, 8)), 4)
    for _ in range(3):
        z = b.relu(b.add_(b.mul(y, weights(int(y.shape[1]), 1, 1)), weights(int(y.shape[1]), 1, 1)))
        y = b.concat(y, conv(b, z, 2), axis=1)
    g = laid_out(b.done(b.reduce(y, kind="mean", axes=(2, 3), keepdims=False)))
    assert ops(g)["transpose"] == 1
    assert all(n.attrs["axis"] == 3 for n in g.nodes if n.op == "concat")


def test_a_channel_shuffle_keeps_one_transpose() -> None:
    b = Building()
    y = conv(b, b.input("x", (2, 3, 9, 8)), 6)
    y = b.reshape(b.transpose(b.reshape(y, shape=(2, 2, 3, 9, 8)), perm=(0, 2, 1, 3, 4)), shape=(2, 6, 9, 8))
    y = conv(b, y, 6, group=6)
    g = laid_out(b.done(b.reduce(y, kind="mean", axes=(2, 3), keepdims=False)))
    assert ops(g)["transpose"] == 2  # the input's, and the shuffle


def test_a_flattened_feature_map_permutes_the_weights_of_the_next_layer() -> None:
    n = symbol("n")
    b = Building()
    y = conv(b, b.input("x", (n, 3, 5, 4)), 4)
    y = b.matmul(b.reshape(y, shape=(n, 80)), weights(80, 6))
    assert ops(laid_out(b.done(y)))["transpose"] == 1


def test_patches_become_tokens_without_a_transpose() -> None:
    n = symbol("n")
    b = Building()
    x = b.input("x", (n, 3, 8, 8))
    y = b.conv(x, weights(6, 3, 4, 4), strides=(4, 4))
    y = b.transpose(b.reshape(y, shape=(n, 6, 4)), perm=(0, 2, 1))
    g = laid_out(b.done(b.concat(b.expand(weights(1, 1, 6), shape=(n, 1, 6)), y, axis=1)))
    assert ops(g)["transpose"] == 1


@pytest.mark.parametrize("step", [
    lambda b, y: b.pad(y, pads=(0, 1, 2, 0, 0, 0, 1, 3), mode="constant", value=0.0),
    lambda b, y: b.slice(y, starts=(0, 1, 2, 0), sizes=(2, 2, 3, 4), steps=(1, 1, 2, 1)),
    lambda b, y: b.softmax(y, axis=1), lambda b, y: b.cumsum(y, axis=2),
    lambda b, y: b.resize(y, shape=(2, 4, 18, 16), scales=(None, None, 2.0, 2.0), mode="linear"),
    lambda b, y: b.reduce(y, kind="max", axes=(1,), keepdims=True), lambda b, y: b.arg(y, kind="max", axis=1),
    lambda b, y: b.reduce(y, kind="sum", axes=(0, 3), keepdims=False),
    lambda b, y: b.where(b.gt(y, 0.0), y, b.mul(weights(4, 1, 1), y)),
    lambda b, y: b.lrn(y, size=3), lambda b, y: b.groupnorm(y, weights(4), weights(4), groups=2),
    lambda b, y: b.conv_transpose(y, weights(4, 3, 2, 2), strides=(2, 2)),
])
def test_transposes_sink_through(step) -> None:
    b = Building()
    y = step(b, conv(b, b.input("x", (2, 3, 9, 8)), 4))
    g = laid_out(b.done(y))
    consumers = [n for n in g.nodes if any(v is not None and v.producer is not None
                                           and v.producer.op == "transpose" for v in n.inputs)]
    assert [n.op for n in consumers] in (["conv"], ["conv", "reshape"])  # the input's, and none but at the end


def test_a_transpose_with_nothing_to_meet_does_not_multiply() -> None:
    b = Building()
    x, y = b.input("x", (2, 3, 4)), b.input("y", (2, 4, 3))
    g = rewritten(b.done(b.add_(b.transpose(x, perm=(0, 2, 1)), y)), transposes.sink, movement.simplify,
                  cse.merge_common, dead.remove_dead)
    assert ops(g) == {"transpose": 1, "add": 1}


def test_one_dimensional_convolutions_are_laid_out_too() -> None:
    b = Building()
    y = b.conv(b.input("x", (2, 3, 9)), weights(4, 3, 3), np.ones(4, np.float32))
    g = laid_out(b.done(b.reduce(b.relu(y), kind="mean", axes=(2,), keepdims=False)))
    assert ops(g) == {"transpose": 1, "conv": 1, "relu": 1, "reduce": 1}


def test_arithmetic_on_the_input_runs_after_its_transpose() -> None:
    b = Building()
    x = b.div(b.sub(b.input("x", (2, 3, 9, 8)), weights(3, 1, 1)), 3.0)
    g = laid_out(b.done(b.reduce(conv(b, x, 4), kind="mean", axes=(2, 3), keepdims=False)))
    assert [n.op for n in g.nodes] == ["transpose", "sub", "div", "conv", "reduce"]
