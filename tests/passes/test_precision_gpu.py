"""fp16 and tf32: as bf16 is, but for what fp16 cannot hold; and models that bring 16-bit floats."""

import numpy as np
import pytest
from building import Building, feeds_of, weights
from test_precision import block, region, relative

from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.ir.region_eval import rounded
from whet.ir.symbolic import symbol
from whet.ir.verify import verify
from whet.passes import manager, precision
from whet.passes.fuse import form_regions

N = symbol("n")


def lowered(graph, compute="fp16", **more):
    g = precision.assign(form_regions(graph), compute, traits=precision.GPU, **more)
    verify(g)
    return g


@pytest.mark.parametrize(("compute", "kind", "products", "error"), [
    ("fp16", DType.F16, "f16", 3e-3), ("bf16", DType.BF16, "bf16", 2e-2), ("tf32", DType.F32, "tf32", 3e-3)])
def test_a_transformer_block_in_each_precision(compute, kind, products, error) -> None:
    b = Building()
    g = b.done(block(b))
    feeds = feeds_of(g)
    feeds["m"][:] = True
    feeds["m"][0, 0, 0, 3:] = False
    want = interpret(g, feeds)["y0"]
    g = lowered(g, compute)
    got = interpret(g, feeds)["y0"]
    assert got.dtype == np.float32
    assert 0 < relative(got, want) < error
    inner = [v for n in g.nodes for v in n.outputs if v not in g.outputs]
    assert {v.dtype for v in inner if v.rank != 4 or v.shape[-1] == 8} == {kind}
    regions = [n.attrs["region"] for n in g.nodes if n.op == "region"]
    assert {r.compute for r in regions if r.kind in ("matmul", "attention")} == {products}
    mask = next(r for r in regions if r.kind == "attention").inputs[3]
    assert mask.dtype in (DType.F32, DType.BOOL)  # the lowest number stays what it is
    if compute != "tf32":  # operands of products lie in memory in 16 bits, and so do weights
        assert {t.dtype for r in regions if r.kind == "matmul" for t in r.inputs[:2]} == {kind}


def test_a_masked_row_in_fp16_is_an_average_and_no_nan() -> None:
    b = Building()
    g = b.done(block(b))
    feeds = feeds_of(g)
    feeds["m"][:] = False
    assert np.isfinite(interpret(lowered(g), feeds)["y0"]).all()


def test_an_input_in_fp32_is_converted_once_before_the_layers_that_read_it() -> None:
    b = Building()
    x = b.input("x", (N, 5, 8, 8))
    a = b.conv(x, weights(8, 5, 3, 3), pads=(1, 1, 1, 1))
    g = b.done(b.add_(b.relu(a), b.conv(x, weights(8, 5, 1, 1))))
    g = manager.run(g, compute="fp16", verify=True, traits=precision.GPU)
    casts = [n for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "pointwise"]
    assert [n.outputs[0].dtype for n in casts] == [DType.F16]
    assert {n.input(0) for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "conv"} == {
        casts[0].outputs[0]}


def test_the_image_of_a_first_convolution_is_rounded_on_load() -> None:
    b = Building()
    g = lowered(b.done(b.relu(b.conv(b.input("x", (N, 3, 8, 8)), weights(8, 3, 3, 3), pads=(1, 1, 1, 1)))))
    (node,) = (n for n in g.nodes if n.op == "region")
    assert (node.attrs["region"].compute, node.attrs["region"].inputs[0].dtype) == ("f16", DType.F32)
    b = Building()
    g = lowered(b.done(b.conv(b.input("x", (N, 6, 8, 8)), weights(8, 3, 3, 3), group=2, pads=(1, 1, 1, 1))))
    assert [n.attrs["region"].kind for n in g.nodes] == ["pointwise", "conv"]


@pytest.mark.parametrize("traits", [precision.CPU, precision.GPU])
def test_depthwise_convolutions_are_narrow_where_they_wait_for_memory(traits) -> None:
    b = Building()
    x = b.input("x", (1, 8, 6, 6))
    y = b.conv(b.conv(x, weights(8, 8, 1, 1)), weights(8, 1, 3, 3), group=8, pads=(1, 1, 1, 1))
    g = manager.run(b.done(b.conv(y, weights(4, 8, 1, 1))), compute="fp16", traits=traits)
    found = [n.attrs["region"].compute for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "conv"]
    assert found == ["f16", "f16" if traits.depthwise else "f32", "f16"]


def test_constants_that_fp16_does_not_hold_keep_their_layer_in_a_wider_precision() -> None:
    for data in (weights(16, 16) * 1e5, weights(16, 16) * 1e-6):
        b = Building()
        g = b.done(b.tanh(b.matmul(b.input("x", (N, 16)), data)))
        r = region(lowered(g, wide="tf32"), "matmul")
        assert r.compute == "tf32"
        assert r.inputs[1].dtype is DType.F32
    b = Building()
    y = b.matmul(b.input("x", (N, 16)), weights(16, 16))
    g = lowered(b.done(b.matmul(b.where(b.gt(y, 0.0), y, np.float32(-1e9)), weights(16, 4))))
    assert g.nodes[-1].attrs["region"].inputs[0].dtype is DType.F32  # a small one: rounded on load
    assert g.nodes[-1].attrs["region"].compute == "f16"
    assert region(g, "matmul").output.dtype is DType.F32


@pytest.mark.parametrize(("rows", "converted"), [(1 << 12, 0), (1 << 13, 1)])
def test_a_large_operand_in_fp32_is_converted_first_and_a_small_one_on_load(rows: int, converted: int) -> None:
    b = Building()
    x = b.input("x", (rows, 16))
    g = lowered(b.done(b.matmul(x, weights(16, 4)), b.matmul(x, weights(16, 2))))
    assert [n.attrs["region"].kind for n in g.nodes].count("pointwise") == converted
    products = [n.attrs["region"] for n in g.nodes if n.attrs["region"].kind == "matmul"]
    assert {(r.compute, r.inputs[0].dtype) for r in products} == {("f16", DType.F16 if converted else DType.F32)}


def growing(b: Building, y):
    yield "square", b.mul(y, y)
    yield "exponential", b.exp(y)
    yield "power", b.pow(y, 3.0)
    yield "sum", b.reduce(b.reshape(b.expand(b.reshape(y, shape=(2, 16, 1)), shape=(2, 16, 300)), shape=(2, 16, 300)),
                          kind="sum", axes=(2,), keepdims=False)


def harmless(b: Building, y):
    yield "normalized", b.div(b.mul(y, y), b.add_(b.mul(y, y), 1.0))
    yield "softplus", b.log(b.add_(b.exp(y), 1.0))
    yield "elu", b.where(b.lt(y, 0.0), b.sub(b.exp(y), 1.0), y)
    yield "limited", b.min(b.mul(y, y), 6.0)
    yield "mean", b.reduce(b.reshape(y, shape=(2, 16, 1)), kind="mean", axes=(2,), keepdims=False)
    yield "swish", b.mul(y, b.sigmoid(y))


@pytest.mark.parametrize("name", ["square", "exponential", "power", "sum"])
def test_what_grows_is_kept_in_fp32_by_structure(name: str) -> None:
    b = Building()
    y = b.matmul(b.input("x", (2, 16)), weights(16, 16))
    grown = b.reshape(dict(growing(b, y))[name], shape=(2, 16))
    g = lowered(b.done(b.matmul(grown, weights(16, 4))))
    last = g.nodes[-1].attrs["region"]
    assert last.compute == "f32"
    assert last.inputs[0].dtype is DType.F32


@pytest.mark.parametrize("name", ["normalized", "softplus", "elu", "limited", "mean", "swish"])
def test_what_comes_back_is_not(name: str) -> None:
    b = Building()
    y = b.matmul(b.input("x", (2, 16)), weights(16, 16))
    g = lowered(b.done(b.matmul(b.reshape(dict(harmless(b, y))[name], shape=(2, 16)), weights(16, 4))))
    last = g.nodes[-1].attrs["region"]
    assert last.compute == "f16"
    assert last.inputs[0].dtype is DType.F16


def test_long_products_of_activations_are_kept_unless_one_factor_is_small() -> None:
    b = Building()
    x, y = (b.matmul(b.input(f"x{i}", (2, 8, 300)), weights(300, 300)) for i in range(2))
    g = b.done(b.layernorm(b.matmul(x, b.transpose(y, perm=(0, 2, 1))), weights(8), weights(8), axis=2))
    assert region(lowered(g), "layernorm").inputs[0].dtype is DType.F32
    b = Building()
    x, y = (b.matmul(b.input(f"x{i}", (2, 300, 300)), weights(300, 300)) for i in range(2))
    g = b.done(b.layernorm(b.matmul(b.sigmoid(x), y), weights(300), weights(300), axis=2))
    assert region(lowered(g), "layernorm").inputs[0].dtype is DType.F16


def test_probabilities_that_are_masked_are_probabilities_still() -> None:
    b = Building()
    p = b.softmax(b.matmul(b.input("x", (2, 300, 16)), weights(16, 300)), axis=2)
    p = b.where(b.input("m", (2, 300, 300), DType.BOOL), b.mul(p, 0.5), np.float32(0))
    v = b.matmul(b.input("v", (2, 300, 16)), weights(16, 16))
    g = lowered(b.done(b.matmul(b.matmul(p, v), weights(16, 4))))
    assert [n.attrs["region"].compute for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "matmul"] == [
        "f16"] * 4


def test_a_layer_whose_operand_was_seen_to_be_large_reads_fp32() -> None:
    b = Building()
    g = form_regions(b.done(b.matmul(b.tanh(b.matmul(b.input("x", (N, 16)), weights(16, 16))), weights(16, 4))))
    first, last = g.nodes
    precision.assign(g, "fp16", traits=precision.GPU, wide="bf16", beyond=lambda n: n is last)
    verify(g)
    assert (first.attrs["region"].compute, last.attrs["region"].compute) == ("f16", "bf16")
    assert first.outputs[0].dtype is DType.F32


def test_tf32_leaves_what_lies_in_memory_as_it_is() -> None:
    b = Building()
    x = b.input("x", (1, 8, 6, 6))
    y = b.conv(b.conv(x, weights(8, 8, 1, 1)), weights(8, 1, 3, 3), group=8, pads=(1, 1, 1, 1))
    g = manager.run(b.done(y), compute="tf32", traits=precision.GPU)
    assert {v.dtype for n in g.nodes for v in (*n.inputs, *n.outputs)} == {DType.F32}
    assert [n.attrs["region"].compute for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "conv"] == [
        "tf32", "f32"]


@pytest.mark.parametrize("kind", [DType.F16, DType.BF16])
def test_a_model_of_16_bit_floats_multiplies_them_as_they_are(kind: DType) -> None:
    b = Building()
    x = b.input("x", (N, 3, 8, 8), kind)
    y = b.relu(b.conv(x, weights(8, 3, 3, 3).astype(kind.np), weights(8).astype(kind.np), pads=(1, 1, 1, 1)))
    y = b.relu(b.add_(b.conv(y, (weights(8, 8, 1, 1) / 4).astype(kind.np)), y))
    y = b.reduce(y, kind="mean", axes=(2, 3), keepdims=False)
    g = b.done(b.softmax(b.add_(b.matmul(y, weights(8, 5).astype(kind.np)), weights(5).astype(kind.np)), axis=1))
    feeds = feeds_of(g)
    want = interpret(g, feeds)["y0"]
    g = manager.run(g, verify=True, traits=precision.GPU)
    regions = [n.attrs["region"] for n in g.nodes if n.op == "region"]
    assert {r.compute for r in regions if r.kind in ("conv", "matmul")} == {"f16" if kind is DType.F16 else "bf16"}
    assert {r.anchor.dtype for r in regions} == {DType.F32}
    assert {t.dtype for r in regions for t in (*r.inputs, r.output)} == {kind}
    got = interpret(g, feeds)["y0"]
    assert got.dtype == want.dtype
    close = 2e-3 if kind is DType.F16 else 2e-2
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), atol=close)


def test_tf32_rounds_to_ten_bits_of_fraction() -> None:
    x = np.array([1, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-12, -1 - 2**-11 - 2**-20, np.inf, np.nan, 3e38],
                 np.float32)
    got = rounded(x, "tf32")
    want = [1, 1 + 2**-10, 1, 1 + 2**-9, 1, -1 - 2**-10, np.inf, np.nan]
    np.testing.assert_array_equal(got[:8], np.array(want, np.float32))
    assert abs(got[8] / 3e38 - 1) < 2**-11


def cached(b: Building):
    """One step of attention over a cache of eight places: (its result, the cache after it)."""
    x, past = b.input("x", (1, 1, 16)), b.input("past", (1, 2, 8, 8))
    place = b.input("place", (1, 2, 1, 3), DType.I64)
    q, k = (b.reshape(b.matmul(x, weights(16, 16, seed=i)), shape=(1, 2, 1, 8)) for i in range(2))
    after = b.scatter_nd(past, place, k)
    y = b.attention(q, after, after, scale=8 ** -0.5)
    return b.matmul(b.reshape(y, shape=(1, 1, 16)), weights(16, 4)), after


def test_a_cache_that_the_context_keeps_is_stored_in_16_bits() -> None:
    b = Building()
    g = b.done(*cached(b))
    feeds = {**feeds_of(g), "place": np.array([[0, 0, 7], [0, 1, 7]]).reshape(1, 2, 1, 3)}
    want = interpret(g, feeds)
    g = lowered(g, states={"past": "y1"})
    assert (g.inputs[1].dtype, g.outputs[0].dtype, g.outputs[1].dtype) == (DType.F16, DType.F32, DType.F16)
    assert {n.attrs["region"].kind for n in g.nodes if n.op == "region"} == {"matmul", "attention", "scatter_nd"}
    got = interpret(g, {**feeds, "past": feeds["past"].astype(np.float16)})
    assert relative(got["y0"], want["y0"]) < 3e-3
    np.testing.assert_allclose(got["y1"].astype(np.float32), want["y1"], atol=1e-2)


def test_a_cache_that_goes_in_and_out_stays_as_it_is_and_is_rounded_where_it_is_read() -> None:
    b = Building()
    g = lowered(b.done(*cached(b)))
    assert [v.dtype for v in (*g.inputs[:2], *g.outputs)] == [DType.F32] * 4
    attention = region(g, "attention")
    assert [t.dtype for t in attention.inputs] == [DType.F16, DType.F32, DType.F32]
    assert attention.compute == "f16"
