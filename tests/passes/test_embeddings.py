"""A norm of embeddings is one step that reads the tables' rows; what it computes, and what others read, stays."""

import numpy as np
import pytest
from building import Building, ops, weights

from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.ir.interpreter import interpret
from whet.ir.region import Region, region_from_json
from whet.ir.symbolic import symbol
from whet.ir.verify import verify
from whet.lowering.independent import independent
from whet.passes import embeddings, manager, precision

N = symbol("n")
D = 8


def rows(b: Building, ids, seed: int, size: int = 11):
    return b.gather(weights(size, D, seed=seed), ids, axis=0)


def norm(b: Building, x, kind: str = "layernorm"):
    if kind == "rmsnorm":
        return b.rmsnorm(x, weights(D, seed=7), axis=x.rank - 1, epsilon=1e-5)
    return b.layernorm(x, weights(D, seed=7), weights(D, seed=8), axis=x.rank - 1, epsilon=1e-5)


def absorbed(g: Graph, sizes: dict[str, tuple[int, ...]], compute: str = "fp32", tolerance: float = 2e-5) -> Graph:
    """The graph of regions, checked with indices from either end of the tables."""
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.integers(-11, 11, sizes[v.name]).astype(v.dtype.np) for v in g.inputs}
    want = interpret(g, feeds)
    g = manager.run(g, compute=compute, verify=True, traits=precision.GPU)
    embeddings.absorb(g)
    verify(g)
    got = interpret(g, feeds)
    for k, w in want.items():
        np.testing.assert_allclose(got[k], w, rtol=tolerance, atol=tolerance)
    return g


def only(g: Graph) -> Region:
    (n,) = (n for n in g.nodes if n.op == "region" and n.attrs["region"].kind in ("layernorm", "rmsnorm"))
    return n.attrs["region"]


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 3, N])
def test_words_kinds_and_positions_are_read_by_the_first_norm(batch, compute: str) -> None:
    b = Building()
    words, kinds = b.input("words", (batch, 5), DType.I64), b.input("kinds", (batch, 5), DType.I32)
    x = b.add_(b.add_(rows(b, words, 1), rows(b, kinds, 2)), weights(1, 5, D, seed=3))
    n = 3 if batch is N else batch
    g = absorbed(b.done(b.matmul(norm(b, x), weights(D, 4))), {"words": (n, 5), "kinds": (n, 5)}, compute,
                 2e-5 if compute == "fp32" else 4e-2)
    assert {k: v for k, v in ops(g).items() if k != "reshape"} == {"layernorm": 1, "matmul": 1}
    assert sorted(only(g).picks) == [0, 3]
    assert region_from_json(only(g).describe()) == only(g)
    if batch is N:
        assert independent(g)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("summed", [True, False])
def test_the_sum_that_others_read_is_a_second_result(kind: str, summed: bool) -> None:
    b = Building()
    x = rows(b, b.input("ids", (2, 5), DType.I64), 1)
    x = b.add_(x, rows(b, b.input("place", (5,), DType.I64), 2)) if summed else x
    y = b.add_(b.matmul(norm(b, x, kind), weights(D, D)), x)
    g = absorbed(b.done(y), {"ids": (2, 5), "place": (5,)})
    assert {k: v for k, v in ops(g).items() if k != "reshape"} == {kind: 1, "matmul": 1}
    assert [t.shape for t in only(g).extra_outputs] == [(2, 5, D)]


@pytest.mark.parametrize("turned", [False, True])
def test_positions_are_added_to_the_patches_of_a_batch_by_the_norm_unless_these_lie_across(turned: bool) -> None:
    b = Building()
    x = b.expand(b.reshape(b.cast(b.input("x", (3, 5), DType.I64), to=DType.F32), shape=(3, 5, 1)), shape=(3, 5, D))
    x = b.softmax(x, axis=1)
    x = b.transpose(b.softmax(b.expand(x, shape=(3, 5, D)), axis=2), perm=(0, 2, 1)) if turned else x
    x = b.add_(x, weights(1, *x.shape[1:], seed=3))
    y = b.layernorm(x, weights(x.shape[2], seed=7), weights(x.shape[2], seed=8), axis=2, epsilon=1e-5)
    g = absorbed(b.done(b.add_(b.matmul(y, weights(x.shape[2], x.shape[2])), x)), {"x": (3, 5)})
    assert ops(g)["pointwise"] == 1 + turned
    assert len(only(g).extra_outputs) == 1 - turned


def test_rows_that_somebody_else_reads_are_gathered() -> None:
    b = Building()
    x = rows(b, b.input("ids", (2, 5), DType.I64), 1)
    y = norm(b, b.add_(b.add_(x, x), rows(b, b.input("more", (2, 5), DType.I64), 2)))
    g = absorbed(b.done(y, b.exp(x)), {"ids": (2, 5), "more": (2, 5)})
    assert ops(g)["gather"] == 1
    assert len(only(g).picks) == 1


def test_tables_of_matrices_and_norms_over_more_than_rows_stay() -> None:
    b = Building()
    ids = b.input("ids", (2, 5), DType.I64)
    across = b.layernorm(b.add_(rows(b, ids, 1), weights(5, D)), weights(5, D), axis=1, epsilon=1e-5)
    wide = norm(b, b.add_(b.gather(weights(11, 3, D), ids, axis=0), weights(3, D)))
    g = absorbed(b.done(across, wide), {"ids": (2, 5)})
    assert ops(g)["gather"] == 2
