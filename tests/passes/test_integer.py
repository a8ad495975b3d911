"""Q/DQ becomes integer products, and means the same."""

import numpy as np
import pytest

from passes.building import Building, feeds_of, ops, weights
from whet import passes
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.interpreter import interpret
from whet.passes import manager


def dequantized_weights(b: Building, w: np.ndarray, axis: int) -> Value:
    """Weights as i8 codes with a scale per index of an axis."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = (np.abs(w).max(axis=others, keepdims=True) / 127).astype(np.float32)
    q = np.rint(w / scale).astype(np.int8)
    return b.dequantize(b.const(q), b.const(scale), b.const(np.zeros(scale.shape, np.int8)))


def pair(b: Building, x: Value, scale: float, zero: int, kind: DType = DType.U8) -> Value:
    """quantize, then dequantize."""
    s, z = b.const(np.float32(scale)), b.const(np.asarray(zero, kind.np))
    return b.dequantize(b.quantize(x, s, z), s, z)


def finished(g: Graph) -> Graph:
    """The graph after all passes, checked on the way."""
    return manager.apply(g, manager.PASSES, verify=True)


def quantized_residual(padding: int = 1, zero: int = 0, activations: DType = DType.U8) -> Building:
    """conv - relu - conv - add - relu, all of it quantized; `zero` is the zero point of every activation."""
    b = Building("residual")
    x = pair(b, b.input("x", (2, 5, 7, 6)), 0.02, zero + 3, activations)
    pads = (padding,) * 4
    w1 = dequantized_weights(b, weights(5, 5, 3, 3, seed=1), 0)
    h = b.relu(b.conv(x, w1, b.const(weights(5, seed=2)), pads=pads))
    h = pair(b, h, 0.05, zero, activations)
    w2 = dequantized_weights(b, weights(5, 5, 3, 3, seed=3), 0)
    y = b.conv(h, w2, b.const(weights(5, seed=4)), pads=pads)
    if padding == 1:
        y = b.add("add", [y, x])
    y = pair(b, b.relu(y), 0.1, zero, activations)
    b.done(y)
    return b


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("zero,kind", [(0, DType.U8), (7, DType.U8), (-128, DType.I8), (0, DType.I8)])
def test_a_quantized_residual_block_keeps_its_meaning(padding, zero, kind):
    feeds = feeds_of(quantized_residual(padding, zero, kind))
    want = interpret(quantized_residual(padding, zero, kind), feeds)
    g = finished(quantized_residual(padding, zero, kind))
    assert ops(g)["quantize"] == ops(g)["dequantize"] == 0
    got = interpret(g, feeds)
    for name in want:
        steps = np.abs(got[name] - want[name]) / 0.1
        assert steps.max() < 1.01
        assert (steps < 0.5).mean() > 0.99
    convs = [n for n in g.nodes if n.op == "conv"]
    assert all(n.output.dtype is DType.I32 for n in convs)
    assert len(convs) == 2


def test_quantized_regions_pass_bytes():
    g = manager.regions(finished(quantized_residual()))
    kinds = ops(g)
    assert kinds["conv"] == 2
    regions = [n.attrs["region"] for n in g.nodes if n.op == "region"]
    assert {r.compute for r in regions if r.kind == "conv"} == {"int8"}
    assert all(r.inputs[0].dtype is DType.U8 for r in regions if r.kind == "conv")
    passes.run(quantized_residual(), verify=True)


def test_saturation_does_what_relu_and_its_limits_did():
    b = Building("relu6")
    x = b.input("x", (3, 4))
    y = b.min(b.relu(b.matmul(pair(b, x, 0.03, 5), dequantized_weights(b, weights(4, 6), 1))), 6.0)
    g = finished(b.done(pair(b, y, 6 / 255, 0)))
    assert not {"relu", "min", "max"} & set(ops(g))


def test_codes_move_as_bytes():
    b = Building("moves")
    x = b.input("x", (2, 4, 6, 6))
    y = b.pool(pair(b, b.relu(x), 0.02, 0), kind="max", kernel=(2, 2), strides=(2, 2))
    y = b.concat(y, b.slice(y, starts=(0, 0, 0, 0), sizes=(2, 4, 3, 3), steps=(1, 1, 1, 1)), axis=1)
    w = dequantized_weights(b, weights(3, 8, 1, 1), 0)
    build = b.done(b.conv(b.pad(y, pads=(0, 0, 1, 1, 0, 0, 1, 1)), w))
    feeds = feeds_of(b)
    want = interpret(build, feeds)
    g = finished(build)
    assert all(n.input(0).dtype is DType.U8 for n in g.nodes if n.op in ("pool", "concat", "slice", "pad"))
    np.testing.assert_allclose(interpret(g, feeds)["y0"], want["y0"], rtol=1e-5, atol=1e-5)


def test_weights_without_quantized_activations_stay_codes_of_a_product_of_floats():
    b = Building("weights only")
    y = b.matmul(b.input("x", (3, 4)), dequantized_weights(b, weights(4, 6), 1))
    g = finished(b.done(y))
    product = next(n for n in g.nodes if n.op == "matmul_grouped")
    assert product.input(0).dtype is DType.F32
    assert product.input(1).dtype is DType.I8


def test_one_scale_per_element_of_an_activation_is_computed_in_floats():
    b = Building("per row")
    x = b.input("x", (3, 4))
    s, z = b.const(np.array([[0.1], [0.2], [0.05]], np.float32)), b.const(np.array([[1], [2], [3]], np.uint8))
    q = b.quantize(x, s, z)
    b.done(q, b.dequantize(q, s, z))
    feeds = feeds_of(b)
    want = interpret(b, feeds)
    got = interpret(finished(b), feeds)
    np.testing.assert_array_equal(got["y0"], want["y0"])
    np.testing.assert_allclose(got["y1"], want["y1"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [False, True])
def test_average_pools_read_codes(count):
    b = Building("mean")
    y = pair(b, b.input("x", (1, 3, 6, 6)), 0.03, 9)
    build = b.done(b.pool(y, kind="average", kernel=(3, 3), strides=(2, 2), pads=(1, 1, 0, 0), count_include_pad=count))
    feeds = feeds_of(b)
    want = interpret(build, feeds)["y0"]
    g = finished(build)
    np.testing.assert_allclose(interpret(g, feeds)["y0"], want, rtol=1e-5, atol=1e-6)
    kinds = {r.kind: r for r in (n.attrs["region"] for n in manager.regions(g).nodes if n.op == "region")}
    assert count or kinds["pool"].inputs[0].dtype is DType.U8
