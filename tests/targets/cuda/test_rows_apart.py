"""Kernels keep the rows of independent dimensions apart: NaN and infinities behind the real rows change nothing in
them. Whole graphs, launch by launch, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")
from lowering.test_independent import N, block, graph, padded, weights
from targets.cuda import interpreted
from whet.ir.graph import Graph, Value
from whet.ir.ops import evaluate
from whet.lowering.assemble import Weights
from whet.lowering.independent import independent
from whet.lowering.program import outline
from whet.passes import manager
from whet.targets.cuda import TACTICS
from whet.targets.cuda.gpu import typical

GPU = typical((9, 0))
REAL, PADDED = 3, 5


def pictures(g: Graph, x: Value) -> Value:
    at: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "channels_last": False}
    y = g.add("conv", [x, g.const(weights(8, 4, 3, 3))], {**at, "group": 1})
    y = g.add("relu", [y])
    y = g.add("pool", [y], {**at, "kind": "max", "kernel": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0)})
    y = g.add("conv", [y, g.const(weights(8, 1, 3, 3))], {**at, "group": 8})
    y = g.add("reduce", [y], {"kind": "mean", "axes": (2, 3), "keepdims": False})
    return g.add("softmax", [g.add("matmul", [y, g.const(weights(8, 5))])], {"axis": 1, "log": False})


def words(g: Graph, x: Value) -> Value:
    return g.add("reduce", [block(g, x, 8)], {"kind": "sum", "axes": (1,), "keepdims": False})


@pytest.mark.parametrize(("make", "shape"), [(pictures, (4, 6, 6)), (words, (5, 8))])
def test_rows_are_kept_apart(make: Callable[[Graph, Value], Value], shape: tuple[int, ...]) -> None:
    g, (x,) = graph((N, *shape))
    g.dims["n"] = (1, REAL, 8)
    g.outputs, g.output_names = [make(g, x)], ["y"]
    made = manager.run(g)
    assert independent(made) == ["n"]
    real = weights(REAL, *shape)
    rng = np.random.default_rng(0)
    want, got = run(made, real, padded(real, rng, PADDED))
    assert np.isfinite(want).all()
    np.testing.assert_array_equal(got[:REAL], want)


def run(g: Graph, *given: np.ndarray) -> list[np.ndarray]:
    """The graph's one output for each of these inputs."""
    (x,), (y,), nodes = g.inputs, g.outputs, list(g.nodes)
    launches = {id(l.node): l.region for l in outline(g, lambda region: "", Weights()).launches}
    out = []
    for a in given:
        env, values = {"n": len(a)}, {x: a}
        for node in nodes:
            arrays = [None if v is None else values.get(v, v.data) for v in node.inputs]
            region = launches.get(id(node))
            if region is None:
                results = evaluate(node, arrays, env)
            else:
                tactic = next(t for t in TACTICS[region.kind] if not t.applies(region, GPU))
                how = next(iter(tactic.space(region, GPU, 1)))
                results = interpreted.run(region, tactic.implement(region, how, GPU, 1), arrays, env)
            values.update(zip(node.outputs, results))
        out.append(values[y])
    return out
