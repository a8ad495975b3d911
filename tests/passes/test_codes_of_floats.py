"""Products of 8-bit floats: between layers their codes lie in memory, and they mean what Q/DQ says."""

import numpy as np
import pytest

from passes.building import Building, feeds_of, ops, weights
from precision.test_insert import NETWORKS, built, joined, ranges
from whet import passes
from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.measure.accuracy import relative_l2
from whet.passes import precision
from whet.precision.insert import insert, layers, shortcut_sums
from whet.precision.methods import Range

F8 = DType.F8E4M3FN


def bottleneck(b: Building):
    x = b.input("x", (2, 6, 9, 7))
    stem = b.relu(b.conv(x, b.const(weights(16, 6, 3, 3)), pads=(1, 1, 1, 1)))
    y = b.relu(b.conv(stem, b.const(weights(16, 16, 1, 1, seed=1)), b.const(weights(16, seed=2))))
    deep = b.conv(y, b.const(weights(16, 16, 3, 3, seed=3)), pads=(1, 1, 1, 1), strides=(2, 2))
    short = b.conv(stem, b.const(weights(16, 16, 1, 1, seed=4)), strides=(2, 2))
    y = b.relu(b.add("add", [deep, short]))
    y = b.reduce(y, kind="mean", axes=(2, 3), keepdims=False)
    return b.matmul(y, b.const(weights(16, 5, seed=5)))


def regions(g):
    return [n.attrs["region"] for n in g.nodes if n.op == "region"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", [F8, DType.I8])
def test_the_regions_compute_what_the_inserted_graph_says(network, kind):
    g = built(network)
    feeds = feeds_of(g, 1)
    real = interpret(g.copy(), feeds)["y0"]
    done = insert(g, ranges(g.copy()), activations=kind)
    kept = [l.name for l in layers(built(network)) if kind is F8 and l.kind == "depthwise convolution"]
    assert list(done.kept) == kept  # coarse weights and few products
    assert len(done.quantized) == len(layers(built(network))) - len(kept)
    said = interpret(g.copy(), feeds)["y0"]
    assert 1e-5 < relative_l2(said, real) < 0.15
    for compute in ("fp32", "fp16"):
        g2 = passes.finish(g.copy(), compute, verify=True, traits=precision.GPU)
        products = [r for r in regions(g2) if r.kind in ("conv", "matmul") and r.attrs.get("group", 1) == 1]
        assert {r.compute for r in products} == {"f8" if kind is F8 else "int8"}
        assert {r.anchor.dtype for r in products} == {DType.F32 if kind is F8 else DType.I32}
        assert {t.dtype for r in products for t in r.inputs[:2]} == {kind}
        got = interpret(g2, feeds)["y0"]
        assert relative_l2(got, said) < 0.4 * relative_l2(said, real)


def test_between_convolutions_lie_codes_alone():
    g = built(bottleneck)
    insert(g, ranges(g.copy()), activations=F8)
    g = passes.finish(g, "fp16", traits=precision.GPU)
    convs = [r for r in regions(g) if r.kind == "conv"]
    assert [r.output.dtype for r in convs[:2]] == [F8, F8]
    assert ops(g)["pointwise"] == 1  # the input is quantized; all else is in epilogues


@pytest.mark.parametrize("kind", [F8, DType.I8])
def test_a_shortcut_that_is_a_convolution_is_stored_as_codes_too(kind):
    g = built(bottleneck)
    sums = shortcut_sums(g)
    assert len(sums) == 1
    feeds = feeds_of(g, 1)
    known = ranges(g.copy())
    watched = g.copy()
    watched.outputs, watched.output_names = [next(iter(shortcut_sums(watched)))], ["s"]
    seen = interpret(watched, feeds)["s"]
    known[next(iter(sums)).name] = Range(float(seen.min()), float(seen.max()))
    real = interpret(g.copy(), feeds)["y0"]
    insert(g, known, activations=kind, shortcuts=True)
    said = interpret(g.copy(), feeds)["y0"]
    assert relative_l2(said, real) < 0.15
    g = passes.finish(g, "fp16", verify=True, traits=precision.GPU)
    convs = [r for r in regions(g) if r.kind == "conv"]
    assert [r.output.dtype for r in convs] == [kind, kind, kind, DType.F16]  # the last feeds the mean
    assert any(t.dtype is kind for t in convs[-1].inputs[2:])
    assert ops(g)["pointwise"] == 1
    assert relative_l2(interpret(g, feeds)["y0"], said) < 0.4 * relative_l2(said, real)


def test_a_max_pool_and_a_concat_move_codes():
    g = built(joined)
    insert(g, ranges(g.copy()), activations=F8)
    g = passes.finish(g, "fp16", traits=precision.GPU)
    pool = next(r for r in regions(g) if r.kind == "pool" and r.attrs["kind"] == "max")
    assert (pool.inputs[0].dtype, pool.anchor.dtype, pool.output.dtype) == (F8, DType.F32, F8)
    assert all(v.dtype is F8 for n in g.nodes if n.op == "concat" for v in n.inputs)


def test_numbers_beyond_the_range_saturate_and_nan_stays():
    b = Building()
    x = b.input("x", (4,))
    s, z = b.const(np.float32(0.5)), b.const(np.zeros((), F8.np))
    g = b.done(b.dequantize(b.quantize(x, s, z), s, z))
    feeds = {"x": np.array([1e4, -np.inf, np.nan, 0.3], np.float32)}
    for made in (g.copy(), passes.finish(g)):
        np.testing.assert_array_equal(interpret(made, feeds)["y0"], np.array([224, -224, np.nan, 0.3125], np.float32))
