"""bf16 is where it saves memory and time, and nowhere that it would hurt."""

import numpy as np
import pytest
from building import Building, feeds_of, ops, weights

from whet.ir.dtypes import DType
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.ir.verify import verify
from whet.passes import manager, precision
from whet.passes.fuse import form_regions

N = symbol("n")


def lowered(graph):
    g = precision.assign(form_regions(graph), "bf16")
    verify(g)
    return g


def region(graph, kind: str):
    return next(n.attrs["region"] for n in graph.nodes if n.op == "region" and n.attrs["region"].kind == kind)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    want = want - want.mean()
    return float(np.linalg.norm(got - got.mean() - want) / np.linalg.norm(want))


def block(b: Building):
    x = b.input("x", (N, 6, 32))
    y = b.layernorm(x, weights(32), weights(32), axis=2)
    q, k, v = (b.transpose(b.reshape(b.add_(b.matmul(y, weights(32, 32, seed=i) / 6), weights(32)),
                                     shape=(N, 6, 4, 8)), perm=(0, 2, 1, 3)) for i in range(3))
    m = b.where(b.input("m", (N, 1, 1, 6), DType.BOOL), np.float32(0), np.float32(np.finfo(np.float32).min))
    a = b.attention(q, k, v, m, scale=8 ** -0.5)
    a = b.reshape(b.transpose(a, perm=(0, 2, 1, 3)), shape=(N, 6, 32))
    r = b.add_(b.matmul(a, weights(32, 32, seed=4) / 6), x)
    z = b.gelu(b.matmul(b.layernorm(r, weights(32), weights(32), axis=2), weights(32, 64) / 6))
    return b.add_(b.matmul(z, weights(64, 32) / 8), r)


def test_a_transformer_block_stays_accurate_and_its_activations_are_bf16() -> None:
    b = Building()
    g = b.done(block(b))
    feeds = feeds_of(g)
    feeds["m"][:] = True
    feeds["m"][0, 0, 0, 3:] = False
    want = interpret(g, feeds)["y0"]
    g = lowered(g)
    got = interpret(g, feeds)["y0"]
    assert got.dtype == np.float32
    assert relative(got, want) < 2e-2
    inner = [v for n in g.nodes for v in n.outputs if v not in g.outputs]
    assert {v.dtype for v in inner if v.rank != 4 or v.shape[-1] == 8} == {DType.BF16}
    assert all(n.attrs["region"].compute == "bf16" for n in g.nodes
               if n.op == "region" and n.attrs["region"].kind in ("matmul", "attention"))


def test_a_fully_masked_row_is_an_average_and_no_nan() -> None:
    b = Building()
    g = b.done(block(b))
    feeds = feeds_of(g)
    feeds["m"][:] = False
    got = interpret(lowered(g), feeds)["y0"]
    assert np.isfinite(got).all()


def test_inputs_and_outputs_keep_their_type() -> None:
    b = Building()
    x = b.input("x", (N, 16))
    g = lowered(b.done(b.relu(b.matmul(b.tanh(b.matmul(x, weights(16, 16))), weights(16, 4)))))
    assert g.inputs[0].dtype is g.outputs[0].dtype is DType.F32
    first, last = (n.attrs["region"] for n in g.nodes)
    assert (first.inputs[0].dtype, first.output.dtype) == (DType.F32, DType.BF16)
    assert (last.inputs[0].dtype, last.anchor.dtype, last.output.dtype) == (DType.BF16, DType.F32, DType.F32)


def test_views_and_concats_carry_bf16() -> None:
    b = Building()
    x = b.input("x", (N, 4, 16))
    y = b.matmul(x, weights(16, 16))
    z = b.concat(b.expand(weights(1, 1, 16), shape=(N, 1, 16)), y, axis=1)
    g = lowered(b.done(b.matmul(b.relu(z), weights(16, 4))))
    assert {n.output.dtype for n in g.nodes if n.op in ("concat", "expand")} == {DType.BF16}


def test_angles_and_positions_stay_exact() -> None:
    b = Building()
    p = b.cast(b.reshape(b.iota(size=300), shape=(1, 300, 1)), to=DType.F32)
    angle = b.matmul(p, np.geomspace(1, 1e-4, 16, dtype=np.float32).reshape(1, 16))
    x = b.input("x", (2, 300, 16))
    y = b.mul(b.matmul(x, weights(16, 16)), b.reshape(b.cos(angle), shape=(300, 16)))
    g = b.done(b.matmul(y, weights(16, 16)))
    want = interpret(g, feeds_of(g))["y0"]
    g = lowered(g)
    assert relative(interpret(g, feeds_of(g))["y0"], want) < 1e-2
    outer = next(n for n in g.nodes if n.op == "region" and n.attrs["region"].kind == "matmul"
                 and n.attrs["region"].inputs[0].shape == (1, 300, 1))
    assert outer.attrs["region"].compute == "f32"


def test_a_chosen_layer_keeps_fp32_products() -> None:
    b = Building()
    x = b.input("x", (N, 16))
    g = form_regions(b.done(b.matmul(b.tanh(b.matmul(x, weights(16, 16))), weights(16, 4))))
    last = g.nodes[-1]
    precision.assign(g, "bf16", keep=lambda n: n is last)
    assert [n.attrs["region"].compute for n in g.nodes] == ["bf16", "f32"]
    g = form_regions(b.done(b.matmul(b.tanh(b.matmul(x, weights(16, 16))), weights(16, 4))))
    first, last = g.nodes
    precision.assign(g, "bf16", keep=lambda n: n is first)
    assert [n.attrs["region"].compute for n in g.nodes] == ["f32", "bf16"]
    assert first.outputs[0].dtype is last.attrs["region"].inputs[0].dtype is DType.F32  # its result, too


def test_lowest_numbers_are_not_rounded_to_infinity() -> None:
    b = Building()
    x = b.input("x", (N, 16))
    low = np.float32(np.finfo(np.float32).min)
    y = b.where(b.gt(b.matmul(x, weights(16, 16)), 0.0), np.float32(1), low)
    g = b.done(b.softmax(b.reshape(y, shape=(N, 4, 4)), axis=2))
    g = lowered(g)
    assert region(g, "matmul").output.dtype is DType.F32


@pytest.mark.parametrize("kind", ["max", "average"])
def test_convolutions_and_pools_in_bf16(kind: str) -> None:
    b = Building()
    x = b.input("x", (N, 3, 8, 8))
    y = b.relu(b.conv(x, weights(8, 3, 3, 3) / 5, weights(8), pads=(1, 1, 1, 1)))
    y = b.pool(y, kind=kind, kernel=(2, 2), strides=(2, 2))
    y = b.add_(b.conv(b.conv(y, weights(8, 8, 1, 1) / 3), weights(8, 1, 3, 3), pads=(1, 1, 1, 1), group=8), y)
    g = b.done(b.reduce(y, kind="mean", axes=(2, 3), keepdims=False))
    want = interpret(g, feeds_of(g))["y0"]
    g = manager.run(g, compute="bf16", verify=True)
    assert relative(interpret(g, feeds_of(g))["y0"], want) < 2e-2
    assert ops(g)["transpose"] == 1
    assert region(g, "pool").inputs[0].dtype is DType.BF16


def test_what_is_ranked_is_ranked_in_fp32() -> None:
    b = Building()
    y = b.matmul(b.input("x", (N, 16)), weights(16, 16))
    g = lowered(b.done(b.arg(y, kind="max", axis=1)))
    assert region(g, "matmul").compute == "bf16"
    assert region(g, "matmul").output.dtype is region(g, "arg").inputs[0].dtype is DType.F32
