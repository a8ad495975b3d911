"""Norms between products of few rows: the first product leaves moments, the next one normalizes with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from building import Building, feeds_of, ops, rewritten, weights

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.interpreter import interpret
from whet.ir.symbolic import symbol
from whet.passes import manager, precision
from whet.passes.fuse import form_regions
from whet.passes.row_moments import attach

SMS = 132


def region(g: Graph, kind: str) -> list[Node]:
    return [n for n in g.nodes if n.op == "region" and n.attrs["region"].kind == kind]


def normed(b: Building, x: Value, kind: str = "layernorm", epsilon: float = 1e-5) -> Value:
    more = (weights(x.shape[-1], seed=9),) if kind == "layernorm" else ()
    return b.add(kind, [x, *(b.constant(w, DType.F32) for w in (1 + weights(x.shape[-1], seed=8) / 4, *more))],
                 {"axis": -1, "epsilon": epsilon})


def product(b: Building, x: Value, n: int, seed: int = 0) -> Value:
    return b.add_(b.matmul(x, weights(x.shape[-1], n, seed=seed) / 16), weights(n, seed=seed + 1))


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("shape", [(9, 96), (2, 33, 64), (1, 17, 256)])
def test_the_norm_needs_no_step_of_its_own(kind: str, shape: tuple[int, ...]) -> None:
    b = Building()
    x = b.input("x", shape)
    y = normed(b, product(b, x, 192), kind)
    g = rewritten(form_regions(b.done(b.gelu(product(b, y, 40, seed=3), approximate="none"))), attach)
    assert ops(g)["matmul"] == 2
    assert not region(g, kind)
    first = region(g, "matmul")[0]
    assert [o.shape for o in first.outputs] == [(*shape[:-1], 192), (2, 3, *shape[:-1])]
    assert first.attrs["region"].attrs["moments"] == 64


def test_what_is_added_to_the_norms_result_is_computed_from_the_product() -> None:
    """Post-norm: x1 = norm(..) feeds a product, and is added to the one after it."""
    b = Building()
    x = b.input("x", (2, 9, 128))
    x1 = normed(b, b.add_(product(b, x, 128), x))
    x2 = b.add_(product(b, b.gelu(product(b, x1, 256, seed=2), approximate="none"), 128, seed=4), x1)
    g = rewritten(form_regions(b.done(b.softmax(x2, axis=-1, log=False))), attach)
    assert ops(g)["layernorm"] == 0
    last = region(g, "matmul")[-1]
    assert region(g, "matmul")[0].outputs[0] in last.inputs


def test_what_others_read_of_the_product_they_read_still() -> None:
    """Pre-norm: the sum goes on as it is, and is an output, too."""
    b = Building()
    x = b.input("x", (2, 9, 128))
    x1 = b.add_(product(b, x, 128), x)
    x2 = b.add_(product(b, normed(b, x1), 128, seed=4), x1)
    g = rewritten(form_regions(b.done(x2, x1)), attach)
    assert ops(g)["layernorm"] == 0


def test_rows_far_from_zero_keep_their_digits() -> None:
    """Chunks are put together by deviations: a mean of 500 sigma takes three digits from the product's sums, none
    from sigma."""
    b = Building()
    x = b.input("x", (16, 64))
    far = b.add_(b.matmul(x, weights(64, 128) / 16), np.full(128, 500, np.float32))
    g = b.done(b.relu(product(b, normed(b, far), 40)))
    rewritten(form_regions(g), attach, rtol=2e-3, atol=2e-3)


def test_nan_and_infinity_stay_in_their_rows() -> None:
    b = Building()
    x = b.input("x", (12, 64))
    g = form_regions(b.done(product(b, normed(b, product(b, x, 64)), 40, seed=3)))
    feeds = feeds_of(b)
    feeds["x"][3, 5], feeds["x"][7, 1] = np.nan, np.inf
    rewritten(g, attach, feeds=feeds)


def unchanged(g: Graph) -> bool:
    g = form_regions(g)
    before = [n.attrs.get("region") for n in g.nodes]
    attach(g)
    return [n.attrs.get("region") for n in g.nodes] == before


def test_left_alone() -> None:
    def one(rows=(12,), k=96, n=64, w=None, norm=normed, after=lambda b, y: product(b, y, 40, seed=3)) -> Graph:
        b = Building()
        x = b.input("x", (*rows, k))
        return b.done(after(b, norm(b, b.matmul(x, weights(k, n) / 16 if w is None else b.input("w", w)))))

    assert not unchanged(one())
    assert unchanged(one((symbol("n"),)))
    assert unchanged(one((8,)))  # kernels for rows
    assert unchanged(one((257,)))
    assert unchanged(one(n=96))  # no whole chunks
    assert unchanged(one(n=64 * 17))
    assert unchanged(one(k=1088))
    assert unchanged(one(w=(96, 64)))  # not a constant
    assert unchanged(one((3, 12), w=(3, 96, 64)))
    assert unchanged(one(norm=lambda b, y: normed(b, b.reshape(y, shape=(24, 32)))))
    assert unchanged(one(norm=lambda b, y: normed(b, b.relu(normed(b, y)))))  # no product before it, none behind
    assert unchanged(one(norm=lambda b, y: b.layernorm(y, weights(12, 64), axis=0, epsilon=1e-5)))
    assert unchanged(one(after=lambda b, y: b.softmax(y, axis=-1, log=False)))
    assert unchanged(one(after=lambda b, y: b.relu(y)))  # no product reads it


def test_a_graphs_output_is_there() -> None:
    b = Building()
    y = normed(b, product(b, b.input("x", (12, 96)), 64))
    assert unchanged(b.done(product(b, y, 40, seed=3), y))


def test_a_reader_that_wants_the_tensor_keeps_the_norm() -> None:
    b = Building()
    y = normed(b, product(b, b.input("x", (12, 96)), 64))
    assert unchanged(b.done(product(b, y, 40, seed=3), b.softmax(y, axis=-1, log=False)))


def test_weights_that_would_overflow_keep_the_norm() -> None:
    b = Building()
    y = b.matmul(b.input("x", (12, 96), DType.F16), (weights(96, 64) / 16).astype(np.float16))
    y = b.layernorm(y, np.full(64, 60000, np.float16), axis=-1, epsilon=1e-5)
    assert unchanged(b.done(b.matmul(y, weights(64, 40).astype(np.float16))))


def test_products_of_codes_are_left_alone() -> None:
    b = Building()
    g = form_regions(b.done(product(b, normed(b, product(b, b.input("x", (12, 96)), 64)), 40, seed=3)))
    for n in region(g, "matmul"):
        n.attrs["region"] = replace(n.attrs["region"], compute="f8")
    attach(g)
    assert len(region(g, "layernorm")) == 1


def encoder(seed: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """Three layers of products, norms and residuals put together at random."""
    rng = np.random.default_rng(seed)
    b = Building()
    x = b.input("x", ((12, 128), (1, 13, 128), (3, 5, 128))[int(rng.integers(3))])
    seen = [x]
    for layer in range(3):
        kind = str(rng.choice(["layernorm", "rmsnorm"]))
        y = b.matmul(seen[-1], weights(128, 128, seed=layer) / 16)
        y = b.add_(y, weights(128, seed=layer)) if rng.integers(2) else y
        y = b.add_(y, seen[int(rng.integers(len(seen)))]) if rng.integers(3) else y
        z = normed(b, y, kind)
        z = b.relu(z) if rng.integers(4) == 0 else z
        if rng.integers(3) == 0:
            z = b.add_(z, normed(b, y, "rmsnorm"))  # two norms of one product
        seen += [y, z] if rng.integers(2) else [z]
    return b.done(product(b, seen[-1], 40, seed=7)), feeds_of(b, seed)


@pytest.mark.parametrize(("compute", "tolerance"), [("fp32", 5e-4), ("tf32", 3e-2), ("fp16", 3e-2), ("bf16", 0.2)])
def test_random_encoders_compute_what_they_did(compute: str, tolerance: float) -> None:
    found = 0
    for seed in range(16):
        g, feeds = encoder(seed)
        want = interpret(g, feeds)
        g = manager.run(g, compute, verify=True, traits=precision.GPU, multiprocessors=SMS)
        found += sum("moments" in n.attrs["region"].attrs for n in region(g, "matmul"))
        got = interpret(g, feeds)
        for name, w in want.items():
            np.testing.assert_allclose(got[name], w, atol=tolerance * max(1.0, float(np.abs(w).max())))
    assert found > 15
