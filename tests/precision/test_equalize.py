"""Equalization and smoothing leave what a graph computes as it is, and make it easier to quantize."""

import numpy as np
import pytest

from passes.building import Building, feeds_of, ops, rewritten, weights
from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.precision.equalize import equalize, pairs
from whet.precision.insert import insert
from whet.precision.methods import Range
from whet.precision.scaling import ALPHAS, factors, noise
from whet.precision.smooth import smooth


def uneven(n: int, seed: int = 0, decades: float = 1.0) -> np.ndarray:
    """Factors of channels that differ by orders of magnitude."""
    return (10 ** np.random.default_rng(seed).uniform(-decades, decades, n)).astype(np.float32)


def chain(between=lambda b, v: b.relu(v), groups=1, width=8, bias=True):
    """conv (with uneven output channels), something, conv."""
    b = Building()
    x = b.input("x", (2, 3, 9, 7))
    s = uneven(width)
    y = b.conv(x, weights(width, 3, 3, 3) * s[:, None, None, None], *([weights(width, seed=1) * s] if bias else []),
               pads=(1, 1, 1, 1))
    y = between(b, y)
    z = b.conv(y, weights(2 * width, width // groups, 3, 3, seed=2), weights(2 * width, seed=3), group=groups)
    return b.done(z), y


def observed(graph, names):
    """The largest magnitude of each channel (axis 1, or the last of matrices) of values by name."""
    copy = graph.copy()
    byname = {v.name: v for v in copy.values()}
    copy.outputs, copy.output_names = [byname[n] for n in names], list(names)
    out = {}
    for n, a in interpret(copy, feeds_of(graph)).items():
        axis = 1 if a.ndim == 4 else a.ndim - 1
        out[n] = np.abs(np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)).max(1)
    return out


BETWEEN = {
    "nothing": lambda b, v: v, "relu": lambda b, v: b.relu(v), "relu6": lambda b, v: b.min(b.relu(v), 6.0),
    "clip": lambda b, v: b.max(b.min(v, 1.0), -1.0), "scaled": lambda b, v: b.mul(v, 0.3),
    "offset": lambda b, v: b.relu(b.add_(v, weights(8, 1, 1))), "less": lambda b, v: b.sub(weights(1, 8, 1, 1), v),
    "pool": lambda b, v: b.pool(b.relu(v), kind="max", kernel=(2, 2), strides=(1, 1), pads=(0, 0, 0, 0)),
    "mean": lambda b, v: b.pool(v, kind="average", kernel=(2, 2), strides=(1, 1), pads=(0, 0, 0, 0)),
    "pad": lambda b, v: b.pad(b.relu(v), pads=(0, 0, 1, 1, 0, 0, 0, 1)), "div": lambda b, v: b.div(v, weights(8, 1, 1)),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("measured", [False, True])
def test_equalized_convolutions_compute_what_they_did(name, groups, measured):
    g, y = chain(BETWEEN[name], groups)
    largest = observed(g, [y.name]) if measured else None
    done = []
    rewritten(g, lambda g: done.extend(equalize(g, largest)), rtol=1e-4, atol=1e-3)
    assert len(done) == (not measured or name != "clip")  # whose channels are all -1..1
    assert all(d.factors.std() > 0.1 for d in done)


@pytest.mark.parametrize("between", [
    lambda b, v: b.gelu(v), lambda b, v: b.exp(v), lambda b, v: b.add_(v, v),
    lambda b, v: b.reduce(v, kind="sum", axes=(1,)),
    lambda b, v: b.add_(v, weights(9, 1)), lambda b, v: b.pad(v, pads=(0, 1, 0, 0, 0, 0, 0, 0)),
    lambda b, v: b.pad(v, pads=(0, 0, 1, 1, 0, 0, 1, 1), value=1.0), lambda b, v: b.div(1.0, b.add_(v, 9.0))])
def test_what_is_not_homogeneous_by_channel_is_left_alone(between):
    b = Building()
    x = b.input("x", (2, 3, 9, 7))
    y = between(b, b.conv(x, weights(8, 3, 1, 1)))
    g = b.done(b.conv(y, weights(4, y.shape[1], 1, 1)))
    assert pairs(g) == []


def test_values_that_others_read_are_left_alone():
    b = Building()
    x = b.input("x", (1, 8, 5, 5))
    y = b.relu(b.conv(x, weights(8, 8, 1, 1)))
    z = b.conv(y, weights(8, 8, 1, 1, seed=1))
    assert pairs(b.done(b.add_(z, y))) == []
    b = Building()
    y = b.relu(b.conv(b.input("x", (1, 8, 5, 5)), weights(8, 8, 1, 1)))
    z = b.conv(y, weights(8, 8, 1, 1, seed=1))
    assert [len(p.between) for p in pairs(b.done(z))] == [1]
    assert pairs(b.done(z, y)) == []


def test_weights_are_equalized_as_published():
    g, _ = chain()
    equalize(g)
    (p,) = pairs(g)
    mine = np.abs(p.first.input(1).data).max(axis=(1, 2, 3))
    theirs = np.abs(p.second.input(1).data).max(axis=(0, 2, 3))
    np.testing.assert_allclose(mine, theirs, rtol=1e-2)


def test_channels_before_a_depthwise_layer_become_alike():
    g, y = chain(groups=8)
    before = observed(g, [y.name])[y.name]
    equalize(g, {y.name: before})
    after = observed(g, [y.name])[y.name]
    assert before.max() / before.min() > 20
    assert after.max() / after.min() < 8  # the least channels count as 1/16 of the largest


def test_a_whole_inverted_residual_is_equalized_front_to_back():
    b = Building()
    n = symbol("n")
    x = b.input("x", (n, 8, 6, 6))
    s, t = uneven(16), uneven(16, 1)
    y = b.min(b.relu(b.conv(x, weights(16, 8, 1, 1) * s[:, None, None, None], weights(16))), 6.0)
    y = b.min(b.relu(b.conv(y, weights(16, 1, 3, 3, seed=1) * t[:, None, None, None], weights(16), pads=(1, 1, 1, 1),
                            group=16)), 6.0)
    g = b.done(b.add_(b.conv(y, weights(8, 16, 1, 1, seed=2)), x))
    assert len(pairs(g)) == 2
    rewritten(g, lambda g: equalize(g) and None, rtol=1e-4, atol=1e-4)


def test_dead_channels_and_zero_weights_keep_their_numbers():
    b = Building()
    x = b.input("x", (1, 3, 5, 5))
    w, v = weights(4, 3, 1, 1), weights(2, 4, 1, 1)
    w[1], v[:, 2] = 0, 0
    y = b.relu(b.conv(x, w * uneven(4)[:, None, None, None], np.array([0, 0, 1, 1], np.float32)))
    g = b.done(b.conv(y, v))
    rewritten(g, lambda g: equalize(g) and None, rtol=1e-4, atol=1e-4)
    (p,) = pairs(g)
    assert not p.first.input(1).data[1].any()
    rewritten(g, lambda g: equalize(g, {y.name: np.array([1.0, 0.0, 2.0, np.inf])}) and None, rtol=1e-4, atol=1e-4)


def test_matmuls_are_equalized_too():
    b = Building()
    x = b.input("x", (2, 100, 6))
    s = uneven(16)
    y = b.relu(b.add_(b.matmul(x, weights(6, 16) * s), weights(16) * s))
    g = b.done(b.matmul(y, weights(16, 4, seed=1)))
    before = quantized_error(g, [y.name])
    done = []
    rewritten(g, lambda g: done.extend(equalize(g, observed(g, [y.name]))), rtol=1e-4, atol=1e-4)
    assert len(done) == 1
    assert quantized_error(g, [y.name]) < before


# ---- smoothing -----------------------------------------------------------------------------------


def quantized_error(graph, names, seed=5) -> float:
    """Relative error of the graph's first output with its layers in int8 (min-max ranges of what is fed)."""
    feeds = feeds_of(graph, seed)
    copy = graph.copy()
    byname = {v.name: v for v in copy.values()}
    names = [n for n in names if n in byname]
    copy.outputs, copy.output_names = [byname[n] for n in names], names
    ranges = {n: Range(float(a.min()), float(a.max())) for n, a in interpret(copy, feeds).items()}
    quantized = graph.copy()
    assert insert(quantized, ranges).quantized
    want, got = interpret(graph, feeds)["y0"], interpret(quantized, feeds)["y0"]
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def transformer(kind="layernorm", shared=False, reshaped=False, width=48):
    """A normalization with a few outlier channels, and two matmuls that read it; the graph, and what it gives."""
    b = Building()
    x = b.input("x", (2, 33, width))
    scale = weights(width, seed=1) / 10 + 1
    scale[[3, 17]] *= 60
    y = (b.layernorm(x, scale, weights(width, seed=2), axis=2) if kind == "layernorm" else b.rmsnorm(x, scale, axis=2))
    z = b.reshape(y, shape=(66, width)) if reshaped else y
    h = b.matmul(z, weights(width, 32, seed=3))
    u = b.matmul(z, weights(width, 32, seed=4))
    out = b.add_(b.gelu(b.mul(h, 0.02)), u)
    if shared:
        out = b.concat(b.reshape(out, shape=(2, 33, 32)), y, axis=2)
    return b.done(out), y


def largest(graph, v):
    return observed(graph, [v.name])


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reshaped", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_smoothed_graphs_compute_what_they_did(kind, shared, reshaped, alpha):
    g, y = transformer(kind, shared, reshaped)
    done = []
    before = ops(g)
    rewritten(g, lambda g: done.extend(smooth(g, largest(g, y), alpha)), rtol=1e-4, atol=1e-3)
    assert len(done) == 1
    assert len(done[0].layers) == 2
    assert done[0].folded == (not shared)
    assert ops(g)["mul"] - before["mul"] == int(shared)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_smoothing_lowers_the_error_of_int8(alpha):
    g, y = transformer()
    before = quantized_error(g, [y.name])
    assert smooth(g, largest(g, y), alpha)
    assert quantized_error(g, [y.name]) < 0.5 * before


def test_the_search_is_no_worse_than_any_fixed_alpha_by_its_estimate():
    g, y = transformer()
    a = largest(g, y)
    before = g.copy()
    (done,) = smooth(g, a)
    x = a[y.name].astype(float)
    readers = [n for n in before.nodes if n.op == "matmul"]
    theirs = np.abs(np.hstack([n.input(1).data for n in readers])).max(axis=1)
    assert noise(x, readers, done.factors) <= min(noise(x, readers, factors(x, theirs, a)) for a in ALPHAS)


def test_even_channels_are_not_smoothed():
    b = Building()
    x = b.input("x", (2, 33, 48))
    y = b.layernorm(x, np.ones(48, np.float32), axis=2)
    g = b.done(b.matmul(y, np.sign(weights(48, 16))))
    assert smooth(g, {y.name: np.full(48, 3.0)}) == []


def test_values_that_no_normalization_makes_are_smoothed_on_request():
    b = Building()
    x = b.input("x", (2, 33, 48))
    y = b.gelu(b.mul(x, uneven(48)))
    g = b.done(b.matmul(y, weights(48, 16)))
    known = largest(g, y)
    assert smooth(g, known) == []
    before = quantized_error(g, [y.name])
    rewritten(g, lambda g: smooth(g, known, anywhere=True) and None, rtol=1e-4, atol=1e-4)
    after = [n.input(0).name for n in g.nodes if n.op == "matmul"]
    assert quantized_error(g, after) < before


def test_what_was_not_observed_is_left_alone():
    g, y = transformer()
    assert smooth(g, {}) == []
    assert smooth(g, {y.name: np.ones(7)}) == []
    assert smooth(g, {y.name: np.full(48, np.inf)}) == []
    assert DType.F32 is y.dtype
