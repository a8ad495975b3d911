"""Every node ends up in the region where it costs least."""

import numpy as np
from building import Building, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Leaf
from whet.ir.symbolic import symbol
from whet.passes.fuse import fits_epilogue, form_regions

N = symbol("n")


def fused(graph, **kw):
    return rewritten(graph, form_regions, **kw)


def regions(graph, kind: str):
    return [n.attrs["region"] for n in graph.nodes if n.op == "region" and n.attrs["region"].kind == kind]


def test_bias_activation_and_residual_are_the_matmuls_epilogue() -> None:
    b = Building()
    x, r = b.input("x", (N, 5, 8)), b.input("r", (N, 5, 4))
    y = b.add_(b.gelu(b.add_(b.matmul(x, weights(8, 4)), weights(4))), r)
    g = fused(b.done(y))
    assert ops(g) == {"matmul": 1}
    (region,) = regions(g, "matmul")
    assert region.n_anchor == 2
    assert [t.const for t in region.inputs] == [False, True, True, False]
    assert str(region.epilogue) == "add(gelu(add(acc, in2), approximate=none), in3)"
    assert region.dims == {"n": (1, 2, 8)}


def test_of_two_anchors_the_later_takes_the_addition() -> None:
    b = Building()
    x = b.input("x", (2, 5, 8))
    first, second = b.matmul(x, weights(8, 4)), b.matmul(x, weights(8, 4, seed=1))
    g = fused(b.done(b.relu(b.add_(first, second))))
    assert ops(g) == {"matmul": 2}
    a, c = regions(g, "matmul")
    assert (a.epilogue, str(c.epilogue)) == (None, "relu(add(in2, acc))")


def test_a_result_that_others_read_ends_the_epilogue() -> None:
    b = Building()
    x = b.input("x", (2, 5, 8))
    y = b.add_(b.matmul(x, weights(8, 4)), weights(4))
    g = fused(b.done(b.relu(y), y))
    assert ops(g) == {"matmul": 1, "pointwise": 1}


def test_paths_that_part_and_meet_again_are_one_epilogue() -> None:
    b = Building()
    y = b.matmul(b.input("x", (2, 5, 8)), weights(8, 4))
    y = b.where(b.gt(y, 0.0), y, b.mul(0.1, b.sub(b.exp(y), 1.0)))
    assert ops(fused(b.done(b.mul(y, 2.0)))) == {"matmul": 1}


def test_an_operand_that_depends_on_the_anchor_does_not_make_a_cycle() -> None:
    b = Building()
    y = b.relu(b.matmul(b.input("x", (2, 5, 8)), weights(8, 8)))
    z = b.mul(y, b.sigmoid(b.matmul(y, weights(8, 8, seed=1))))
    g = fused(b.done(z))
    assert ops(g) == {"matmul": 2}


def test_operands_broadcast_in_four_ways() -> None:
    shape = (N, 5, 8)

    def fits(*s):
        return fits_epilogue(Building().input("x", s), shape)

    assert fits(N, 5, 8)
    assert fits(8)
    assert fits(1, 1, 8)
    assert fits(N, 5, 1)
    assert fits()
    assert fits(1, 1)
    assert not fits(5, 8)
    assert not fits(N, 1, 8)
    assert not fits(N, 1, 1)


def test_other_broadcasts_are_regions_of_their_own() -> None:
    b = Building()
    y = b.matmul(b.input("x", (2, 5, 8)), weights(8, 4))
    g = fused(b.done(b.relu(b.mul(y, b.input("s", (2, 1, 4))))))
    assert ops(g) == {"matmul": 1, "pointwise": 1}


def test_what_precedes_a_reduction_is_its_prologue() -> None:
    b = Building()
    x, y, m = b.input("x", (N, 5, 8)), b.input("y", (N, 5, 8)), b.input("m", (5, 1))
    s = b.reduce(b.mul(b.sub(x, m), y), kind="sum", axes=(2,), keepdims=True)
    g = fused(b.done(b.sqrt(b.add_(s, 1e2))))
    assert ops(g) == {"reduce": 1}
    (region,) = regions(g, "reduce")
    assert region.n_anchor == 1
    assert region.inputs[0].shape == (N, 5, 8)
    assert Leaf(0, DType.F32) in region.prologue[0].terms
    assert {t.source for t in region.epilogue.terms if isinstance(t, Leaf)} == {ANCHOR}


def test_a_sum_that_is_read_again_is_not_hidden_in_a_prologue() -> None:
    b = Building()
    x, y = b.input("x", (2, 5, 8)), b.input("y", (2, 5, 8))
    s = b.add_(x, y)
    g = fused(b.done(b.add_(s, b.layernorm(s, weights(8), weights(8), axis=2))))
    assert ops(g) == {"pointwise": 1, "layernorm": 1}


def test_embeddings_are_added_in_the_layer_norms_prologue() -> None:
    s = symbol("s")
    b = Building()
    i = b.input("i", (N, s), DType.I64)
    a, c = b.gather(weights(10, 8), i), b.gather(weights(10, 8, seed=1), i)
    p = b.slice(weights(1, 16, 8), starts=(0, 0, 0), sizes=(1, s, 8), steps=(1, 1, 1))
    g = fused(b.done(b.layernorm(b.add_(b.add_(a, c), p), weights(8), weights(8), axis=2)))
    assert ops(g) == {"gather": 2, "slice": 1, "layernorm": 1}


def test_pointwise_chains_are_one_region_and_views_none() -> None:
    b = Building()
    x = b.input("x", (2, 3, 4))
    y = b.exp(b.mul(b.transpose(x, perm=(0, 2, 1)), 2.0))
    g = fused(b.done(b.reshape(b.tanh(b.add_(y, 1.0)), shape=(2, 12))))
    assert ops(g) == {"transpose": 1, "pointwise": 1, "reshape": 1}


def test_numbers_are_immediates_and_keep_the_sign_of_zero() -> None:
    b = Building()
    x = b.input("x", (3,))
    g = fused(b.done(b.add_(b.div(x, np.float32(0.0)), b.div(1.0, b.mul(x, np.float32(-0.0))))),
              feeds={"x": np.array([1, -1, 2], np.float32)})
    (region,) = regions(g, "pointwise")
    assert len(region.inputs) == 1


def test_a_widening_cast_is_read_by_every_consumer_itself() -> None:
    b = Building()
    x = b.input("x", (2, 5, 8), DType.BF16)
    y = b.cast(x, to=DType.F32)
    z = b.add_(b.matmul(y, weights(8, 8)), y)
    g = fused(b.done(b.cast(z, to=DType.BF16), b.softmax(y, axis=2)), rtol=2e-2, atol=2e-2)
    assert ops(g) == {"matmul": 1, "softmax": 1}
    assert all(r.inputs[0].dtype is DType.BF16 for r in (*regions(g, "matmul"), *regions(g, "softmax")))


def test_several_results_and_generators_are_regions() -> None:
    b = Building()
    x = b.input("x", (2, 9))
    top = b.add_node("topk", [x], {"k": 3, "axis": 1})
    sizes = b.add("dims", [], {"values": (N, 2), "shape": (2,)})
    g = fused(b.done(*top.outputs, b.add_(b.iota(size=N), 1), sizes, b.input("u", (N,))))
    assert ops(g) == {"topk": 1, "iota": 1, "pointwise": 1, "dims": 1}
    (region,) = regions(g, "topk")
    assert [t.dtype for t in (region.output, *region.extra_outputs)] == [DType.F32, DType.I64]


def test_a_ladder_of_scalars_does_not_double_with_every_rung() -> None:
    b = Building()
    v = b.input("x", (1,))
    for _ in range(40):  # each rung has two readers: copies of copies would be 2**40
        v = b.add_(b.sin(v), b.cos(v))
    g = fused(b.done(v), rtol=1e-4, atol=1e-4)
    assert len(g.nodes) < 3 * 40
