"""Where Q/DQ goes, and that plans compute what the inserted graph says."""

import numpy as np
import pytest

import whet
from passes.building import Building, feeds_of, ops, weights
from whet.builder import Builder
from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.ir.interpreter import interpret
from whet.measure.accuracy import relative_l2
from whet.precision.insert import insert, layers, taps
from whet.precision.methods import Range
from whet.precision.taps import tapped
from whet.targets.cpu.target import CpuTarget
from whet.tuning.cache import TimingCache


def residual(b: Building):
    x = b.input("x", (2, 6, 9, 7))
    stem = b.relu(b.conv(x, b.const(weights(16, 6, 3, 3)), pads=(1, 1, 1, 1)))
    y = b.relu(b.conv(stem, b.const(weights(16, 16, 1, 1, seed=1)), b.const(weights(16, seed=2))))
    deep = b.conv(y, b.const(weights(16, 1, 3, 3, seed=3)), pads=(1, 1, 1, 1), group=16, strides=(2, 2))
    short = b.conv(stem, b.const(weights(16, 16, 1, 1, seed=4)), strides=(2, 2))
    y = b.relu(b.add("add", [deep, short]))
    y = b.reduce(y, kind="mean", axes=(2, 3), keepdims=False)
    return b.matmul(y, b.const(weights(16, 5, seed=5)))


def joined(b: Building):
    x = b.input("x", (1, 5, 8, 8))
    a = b.relu(b.conv(x, b.const(weights(12, 5, 1, 1))))
    c = b.pool(a, kind="max", kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1))
    d = b.relu(b.conv(a, b.const(weights(7, 12, 3, 3, seed=1)), pads=(1, 1, 1, 1)))
    y = b.concat(a, c, d, axis=1)
    y = b.conv(b.pad(y, pads=(0, 0, 1, 0, 0, 0, 0, 1)), b.const(weights(8, 31, 2, 2, seed=2)))
    return b.pool(y, kind="average", kernel=(2, 2), strides=(2, 2))


def transformer(b: Building):
    x = b.input("x", (2, 9, 32))
    h = b.layernorm(x, b.const(np.abs(weights(32)) + 1), b.const(weights(32, seed=1)))
    y = b.gelu(b.add("add", [b.matmul(h, b.const(weights(32, 64, seed=2))), b.const(weights(64, seed=3))]))
    y = b.add("add", [b.matmul(y, b.const(weights(64, 32, seed=4))), h])
    return b.layernorm(y, b.const(np.ones(32, np.float32)), b.const(np.zeros(32, np.float32)))


NETWORKS = [residual, joined, transformer]


def built(network) -> Graph:
    b = Building(network.__name__)
    return b.done(network(b))


def ranges(g: Graph) -> dict[str, Range]:
    """Of the tapped values, from two random inputs."""
    watched, _ = tapped(g)
    out: dict[str, Range] = {}
    for seed in (0, 1):
        for name, a in interpret(watched, feeds_of(watched, seed)).items():
            old = out.get(name, Range(0.0, 0.0))
            out[name] = Range(min(old.low, float(a.min())), max(old.high, float(a.max())))
    return out


def plan_of(g: Graph):
    return Builder(CpuTarget.of_host(2), TimingCache.open(None), 0, "fp32", {"fp32", "int8"}).plan([g])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("activations", [DType.U8, DType.I8])
def test_a_plan_computes_what_the_inserted_graph_says(network, activations):
    g = built(network)
    feeds = feeds_of(g, 1)
    real = interpret(g.copy(), feeds)["y0"]
    done = insert(g, ranges(g.copy()), activations=activations)
    assert not done.kept
    assert len(done.quantized) == len(layers(built(network)))
    said = interpret(g.copy(), feeds)["y0"]
    assert 1e-5 < relative_l2(said, real) < 0.1
    plan = plan_of(g)
    assert {l["precision"] for l in plan.manifest.info["layers"] if l["kind"] in ("conv", "matmul")} == {"int8"}
    got = whet.load(plan)(feeds)["y0"]
    # one code that is rounded the other way in between changes little
    assert relative_l2(got, said) < 0.3 * relative_l2(said, real)


def test_values_that_are_joined_share_a_scale():
    g = built(joined)
    insert(g, ranges(g.copy()))
    scales = {float(n.input(1).data) for n in g.nodes if n.op == "quantize"}
    sources = {n.input(0).producer.op if n.input(0).producer else "input" for n in g.nodes if n.op == "quantize"}
    assert sources == {"input", "relu"}  # nothing is quantized behind a pool, a pad or a concat
    assert len(scales) == 2  # the input's, and that of all that the concat joins


def test_residual_sums_of_a_transformer_stay_real():
    g = built(transformer)
    insert(g, ranges(g.copy()))
    for n in g.nodes:
        if n.op == "add":
            assert all(v.producer is None or v.producer.op != "dequantize" for v in n.inputs)


def test_residual_sums_of_a_convolutional_network_read_codes():
    g = built(residual)
    insert(g, ranges(g.copy()))
    assert ops(g)["quantize"] == 4  # the input, the stem, the second layer, the mean
    plan = plan_of(g)
    assert plan.summary()["steps"]["native"] <= 8


def test_layers_that_cannot_be_quantized_say_why():
    b = Building("odd")
    x = b.input("x", (4, 8))
    y = b.matmul(x, b.const(weights(8, 8)))
    z = b.matmul(y, b.transpose(x, perm=(1, 0)))
    bad = weights(4, 32)
    bad[0, 0] = np.inf
    g = b.done(b.matmul(z, b.const(bad)))
    done = insert(g, {})
    assert done.quantized == []
    assert [why.split()[0] for why in done.kept.values()] == ["a", "its", "a"]


def test_products_that_have_no_int8_kernels_are_listed():
    b = Building("others")
    x = b.input("x", (1, 4, 6, 6))
    g = b.done(b.conv_transpose(x, b.const(weights(4, 3, 2, 2))))
    assert "transposed" in next(iter(insert(g, {}).kept.values()))


def test_a_kept_layer_reads_real_numbers():
    g = built(residual)
    kept = layers(g)[1].name
    insert(g, ranges(g.copy()), lambda l: "asked" if l.name == kept else "")
    node = next(l.node for l in layers(g) if l.name == kept)
    assert node.input(0).producer.op == "relu"
    assert node.input(1).is_const


def test_taps_are_given_channels_last():
    g = built(residual)
    watched, axes = tapped(g)
    assert set(axes) == set(taps(g)) == set(watched.output_names)
    assert all(axis == v.rank - 1 for axis, v in zip(axes.values(), watched.outputs))
