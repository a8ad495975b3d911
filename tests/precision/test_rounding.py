"""What rounding does to a layer's outputs is known, made smaller, and its mean taken off."""

import itertools

import numpy as np
import pytest

from passes.building import Building, weights
from whet.ir.interpreter import interpret
from whet.ir.verify import verify
from whet.precision.adapt import adaptive_codes
from whet.precision.batches import Batch
from whet.precision.bias import correct, measured, shift, shifts
from whet.precision.calibrate import calibrate
from whet.precision.data import open_data
from whet.precision.insert import insert, layers, weight_codes
from whet.precision.methods import Range
from whet.precision.rounding import ROWS, Reconstruction
from whet.precision.specs import specs
from whet.precision.stats import at_input, largest, means

CONVS = {
    "3x3": ((8, 6, 3, 3), {"pads": (1, 1, 1, 1)}), "strided": ((8, 6, 3, 3), {"strides": (2, 1)}),
    "dilated": ((5, 6, 2, 3), {"dilations": (2, 1), "pads": (0, 1, 2, 0)}), "1x1": ((7, 6, 1, 1), {}),
    "groups": ((9, 2, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}), "depthwise": ((12, 1, 3, 3), {"group": 6}),
}


def conv(name, batch=3, size=(9, 8)):
    shape, attrs = CONVS[name]
    b = Building()
    x = b.input("x", (batch, 6, *size))
    y = b.conv(x, weights(*shape, seed=1), **attrs)
    return b.done(y), y.producer


def matmul(depth=24, width=10):
    b = Building()
    y = b.matmul(b.input("x", (4, 33, depth)), weights(depth, width, seed=1))
    return b.done(y), y.producer


def data(graph, seed=0, mean=0.5):
    """Inputs with correlated channels, as layers have them."""
    shape = [int(d) for d in graph.inputs[0].shape]
    rng = np.random.default_rng(seed)
    axis = 1 if len(shape) == 4 else len(shape) - 1
    mixed = np.tensordot(rng.standard_normal(shape), rng.standard_normal((shape[axis], shape[axis])), ([axis], [0]))
    return (np.moveaxis(mixed, -1, axis) + mean).astype(np.float32)


def with_weights(graph, node, w):
    """The graph's output with other weights of a node."""
    old, node.inputs = node.inputs, [node.inputs[0], graph.const(w.astype(np.float32)), *node.inputs[2:]]
    return old


def outputs(graph, node, x, w=None):
    if w is None:
        return interpret(graph, {"x": x})["y0"]
    old = with_weights(graph, node, w)
    got = interpret(graph, {"x": x})["y0"]
    node.inputs = old
    return got


def codes_of(node):
    return weight_codes(node.input(1).data, 0 if node.op == "conv" else 1)


# ---- rounding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CONVS, "matmul"])
def test_rounding_by_outputs_has_less_error_than_the_nearest_codes(name):
    graph, node = matmul() if name == "matmul" else conv(name)
    r = Reconstruction(node)
    x = data(graph, mean=2.0)
    for _ in range(4):
        r.add(x)
    nearest, scale = codes_of(node)
    adapted = r.round()
    assert adapted.shape == nearest.shape
    assert adapted.dtype == np.int8
    assert np.abs(adapted * scale - node.input(1).data).max() <= scale.max() * 1.0001
    want = outputs(graph, node, x)
    before = np.square(outputs(graph, node, x, nearest * scale) - want).mean()
    after = np.square(outputs(graph, node, x, adapted * scale) - want).mean()
    assert after < 0.8 * before


@pytest.mark.parametrize("name", [*CONVS, "matmul"])
def test_the_error_is_that_of_the_outputs(name):
    graph, node = matmul() if name == "matmul" else conv(name, batch=1)
    x = data(graph)
    r = Reconstruction(node)
    r.add(x)
    nearest, scale = codes_of(node)
    want = outputs(graph, node, x)
    assert want.size // want.shape[1 if node.op == "conv" else -1] <= ROWS  # all rows are taken
    got = np.square(outputs(graph, node, x, nearest * scale) - want, dtype=np.float64).mean()
    assert r.error(nearest) == pytest.approx(got, rel=1e-3)


def test_it_holds_for_samples_that_were_not_seen():
    graph, node = matmul(64, 32)
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((8, 64)).astype(np.float32)  # eight directions, and a little noise

    def fresh():
        return (rng.standard_normal((4, 33, 8)) @ mix + 0.05 * rng.standard_normal((4, 33, 64))).astype(np.float32)

    r = Reconstruction(node)
    for _ in range(8):
        r.add(fresh())
    x = fresh()
    nearest, scale = codes_of(node)
    want = outputs(graph, node, x)
    error = lambda c: np.square(outputs(graph, node, x, c * scale) - want).mean()
    assert error(r.round()) < 0.4 * error(nearest)


def test_it_is_near_the_best_of_all_roundings():
    b = Building()
    node = b.matmul(b.input("x", (40, 8)), weights(8, 1, seed=2)).producer
    x = np.random.default_rng(0).standard_normal((40, 3)) @ np.random.default_rng(1).standard_normal((3, 8))
    r = Reconstruction(node)
    r.add(x.astype(np.float32))
    w = node.input(1).data
    _, scale = codes_of(node)
    low = np.floor(w / scale)
    errors = [r.error(np.clip(low + np.array(up)[:, None], -127, 127)) for up in itertools.product((0, 1), repeat=8)]
    found = r.error(r.round(damping=0.0))
    assert found >= min(errors) * (1 - 1e-6) - 1e-12
    assert found <= np.quantile(errors, 0.02)


def test_outputs_are_restored_for_inputs_that_are_quantized_themselves():
    graph, node = matmul(32, 16)
    x = data(graph, mean=2.0)
    coarse = np.round(x * 1.5) / 1.5 - 0.2
    r = Reconstruction(node)
    r.add(x, coarse)
    nearest, scale = codes_of(node)
    want = outputs(graph, node, x)
    error = lambda c: np.square(outputs(graph, node, coarse, c * scale) - want).mean()
    assert error(r.round()) < error(nearest)


def test_without_samples_the_nearest_codes_are_taken():
    _, node = matmul()
    np.testing.assert_array_equal(Reconstruction(node).round(), codes_of(node)[0])


def test_inputs_that_are_all_zero_keep_the_nearest_codes():
    graph, node = matmul()
    r = Reconstruction(node)
    x = data(graph)
    x[..., 5] = 0
    r.add(x)
    assert (r.round()[5] == codes_of(node)[0][5]).all()


def test_layers_without_constant_weights_are_refused():
    b = Building()
    n = b.matmul(b.input("x", (4, 4)), b.input("y", (4, 4))).producer
    with pytest.raises(ValueError, match="no constant weights"):
        Reconstruction(n)


def test_a_wide_layer_is_rounded_in_blocks():
    b = Building()
    node = b.matmul(b.input("x", (300, 150)), weights(150, 3, seed=2)).producer
    r = Reconstruction(node)
    r.add(data(b.done(node.output)))
    assert r.error(r.round()) < 0.7 * r.error(codes_of(node)[0])


# ---- bias ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["strided", "1x1", "depthwise", "matmul"])
def test_the_shift_is_the_change_of_the_mean_outputs(name):
    graph, node = matmul() if name == "matmul" else conv(name, 8, (40, 40))
    x = data(graph, mean=3.0)
    axis = 1 if node.op == "conv" else 2
    others = tuple(i for i in range(x.ndim) if i != axis)
    codes, scale = codes_of(node)
    got = shift(node, codes, scale, x.mean(others, dtype=np.float64))
    change = (outputs(graph, node, x, codes * scale) - outputs(graph, node, x)).mean(others, dtype=np.float64)
    # a convolution's border is seen less often than the inside
    np.testing.assert_allclose(got, change, atol=2e-4 if node.op == "matmul" else 0.1 * np.abs(change).max() + 1e-3)


def network():
    """Convolutions, a shared value, a global mean and a matmul."""
    b = Building()
    x = b.input("x", (8, 3, 16, 16))
    y = b.relu(b.conv(x, weights(16, 3, 3, 3, seed=1), weights(16, seed=2), pads=(1, 1, 1, 1)))
    z = b.relu(b.conv(y, weights(16, 1, 3, 3, seed=3), group=16, pads=(1, 1, 1, 1)))
    z = b.concat(z, y, axis=1)
    z = b.relu(b.conv(z, weights(24, 32, 1, 1, seed=4) / 4, weights(24, seed=5)))
    z = b.reshape(b.reduce(z, kind="mean", axes=(2, 3)), shape=(8, 24))
    out = b.matmul(z, weights(24, 10, seed=6))
    for i, v in enumerate(n for n in b.nodes if n.op in ("conv", "matmul")):
        v.origin = f"Layer layer{i}"
    return b.done(out)


def calibration(graph, x):
    copy = graph.copy()
    values = [v for v in copy.values() if not v.is_const]
    copy.outputs, copy.output_names = values, [v.name for v in values]
    axes = {v.name: 1 if v.rank == 4 else v.rank - 1 for v in values}
    return calibrate(lambda f: interpret(copy, f), axes, [Batch({"x": x}, 0, len(x))])


def coarse_weights(graph):
    """Codes that are rounded badly: always down."""
    out = {}
    for l in layers(graph):
        w = l.node.input(1).data
        _, scale = weight_codes(w, 0 if l.node.op == "conv" else 1)
        out[l.name] = np.clip(np.floor(w / scale), -127, 127).astype(np.int8)
    return out


def test_corrected_networks_are_nearer_to_the_real_one():
    graph = network()
    x = np.abs(data(graph, mean=1.0))
    c = calibration(graph, x)
    codes = coarse_weights(graph)
    ranges = c.ranges("minmax")
    want = interpret(graph, {"x": x})["y0"]

    def quantized(corrected):
        g = graph.copy()
        if corrected:
            done = correct(g, shifts(g, means(c), codes))
            assert len(done) == 4
        insert(g, ranges, codes=codes)
        verify(g)
        return np.square(interpret(g, {"x": x})["y0"] - want).mean()

    assert quantized(True) < 0.3 * quantized(False)


def test_corrections_go_on_after_insertion_by_what_was_measured():
    graph = network()
    x = np.abs(data(graph, mean=1.0))
    c = calibration(graph, x)
    g = graph.copy()
    insert(g, c.ranges("minmax"), codes=coarse_weights(graph))
    want = interpret(graph, {"x": x})["y0"]
    before = interpret(g, {"x": x})["y0"]
    by = measured({"layer3": want.mean(0)}, {"layer3": before.mean(0), "other": before})
    assert list(correct(g, by)) == ["layer3"]
    verify(g)
    got = interpret(g, {"x": x})["y0"]
    np.testing.assert_allclose(got.mean(0), want.mean(0), atol=1e-4)
    assert np.square(got - want).mean() < np.square(before - want).mean()


def samples(graph, n=64):
    x = np.abs(np.concatenate([data(graph, seed, mean=1.0) for seed in range(n // 8)]))
    return open_data(x, specs(graph))


def test_whole_networks_are_rounded_for_what_their_layers_read():
    graph = network()
    told = []
    build = lambda g: lambda feeds: interpret(g, feeds)
    codes = adaptive_codes(graph, build, samples(graph), progress=lambda *p: told.append(p))
    assert list(codes) == [f"layer{i}" for i in range(4)]
    assert told[-1] == (4, 4)
    again = adaptive_codes(graph, build, samples(graph), most_bytes=1)
    assert all((codes[n] == again[n]).all() for n in codes)  # in parts
    x = np.abs(data(graph, 99, mean=1.0))
    ranges = calibration(graph, x).ranges("minmax")
    want = interpret(graph, {"x": x})["y0"]

    def error(codes):
        g = graph.copy()
        insert(g, ranges, codes=codes)
        return np.square(interpret(g, {"x": x})["y0"] - want).mean()

    assert error(codes) < 0.8 * error(None)


def test_layers_can_be_left_out_of_adaptive_rounding():
    graph = network()
    build = lambda g: lambda feeds: interpret(g, feeds)
    assert list(adaptive_codes(graph, build, samples(graph, 8), skip=lambda l: l.name != "layer2")) == ["layer2"]


def test_channels_follow_through_concatenation_reshapes_and_maximum_pooling():
    b = Building()
    x, y = b.input("x", (2, 3, 8, 8)), b.input("y", (2, 5, 8, 8))
    known = {x.name: np.arange(3.0), y.name: np.arange(5.0)}
    joined = b.concat(x, y, axis=1)
    np.testing.assert_array_equal(at_input(joined, known, 1), [0, 1, 2, 0, 1, 2, 3, 4])
    pooled = b.pool(joined, kind="max", kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    assert at_input(pooled, known, 1) is None
    np.testing.assert_array_equal(at_input(pooled, known, 1, bound=True), [0, 1, 2, 0, 1, 2, 3, 4])
    assert at_input(b.concat(x, x, axis=2), known, 1) is None
    z = b.input("z", (2, 3, 7))
    known[z.name] = np.arange(7.0)
    np.testing.assert_array_equal(at_input(b.reshape(z, shape=(6, 7)), known, 1), np.arange(7))
    assert at_input(b.reshape(z, shape=(2, 21)), known, 1) is None
    assert at_input(b.relu(z), known, 2) is None


def test_statistics_come_from_a_calibration():
    graph = network()
    x = data(graph)
    c = calibration(graph, x)
    np.testing.assert_allclose(means(c)["x"], x.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_array_equal(largest(c)["x"], np.abs(x).max((0, 2, 3)))
    assert c.range("x", "minmax") == Range(float(x.min()), float(x.max()))
