"""Of two products that meet in an addition, the one that is ready sooner comes first."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import RandomGraph

from whet import ir
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.passes.branches import shallow_first
from whet.passes.fuse import form_regions


def weight(g: Graph, *shape: int) -> Value:
    rng = np.random.default_rng(len(g.nodes))
    return Value(g.fresh("w"), DType.F32, shape, data=rng.standard_normal(shape, np.float32))


def block(shortcut_first: bool) -> Graph:
    """relu(x @ a @ b + relu'd shortcut), the shortcut x @ c written before or behind the rest."""
    g = Graph("block")
    x = Value("x", DType.F32, (4, 8))
    g.inputs = [x]
    y = g.add("relu", [x])

    def shortcut() -> Value:
        return g.add("tanh", [g.add("matmul", [y, weight(g, 8, 8)])])

    early = shortcut() if shortcut_first else None
    main = y
    for _ in range(2):
        main = g.add("relu", [g.add("matmul", [main, weight(g, 8, 8)])])
    main = g.add("matmul", [main, weight(g, 8, 8)])
    g.outputs = [g.add("relu", [g.add("add", [main, early or shortcut()])])]
    return g


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_the_main_way_takes_the_addition_wherever_the_shortcut_is_written(shortcut_first: bool) -> None:
    g = block(shortcut_first)
    feeds = {"x": np.random.default_rng(3).standard_normal((4, 8), np.float32)}
    want = ir.interpret(g, feeds)
    out = shallow_first(g)
    ir.verify(out)
    got = ir.interpret(out, feeds)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)
    regions = [n for n in form_regions(out).nodes if n.op == "region" and n.attrs["region"].kind == "matmul"]
    assert len(regions) == 4
    last = regions[-1]
    (shortcut,) = [n for n in regions if n is not last and "tanh" in str(n.attrs["region"].describe()["epilogue"])]
    assert last.inputs[2] is shortcut.outputs[0], "the last product reads the shortcut, not the other way round"


def test_random_graphs_compute_the_same() -> None:
    for seed in range(60):
        r = RandomGraph(seed)
        want = ir.interpret(r.g, r.feeds)
        count = len(r.g.nodes)
        out = shallow_first(r.g)
        ir.verify(out)
        assert len(out.nodes) == count
        for a, b in zip(want, ir.interpret(out, r.feeds), strict=True):
            np.testing.assert_array_equal(a, b)
