"""Small graphs for tests of single rewrites."""

from collections import Counter

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Value
from whet.ir.interpreter import interpret
from whet.ir.symbolic import Sym
from whet.ir.verify import verify


class Building(Graph):
    """A graph with short hands: `x = b.input("x", (2, 3))`, `b.mul(x, 2.0)`, `b.done(y)`."""

    def input(self, name: str, shape, dtype: DType = DType.F32) -> Value:
        v = Value(name, dtype, shape)
        self.inputs.append(v)
        for d in shape:
            if isinstance(d, Sym):
                self.dims[str(d)] = (1, 2, 8)
        return v

    def constant(self, v, kind: DType) -> Value:
        """A constant: arrays keep their type, Python numbers take that of the other operands."""
        return self.const(np.asarray(v), None if isinstance(v, (np.ndarray, np.generic)) else kind)

    def __getattr__(self, op: str):
        if op.startswith("__"):
            raise AttributeError(op)

        def make(*ins, **attrs) -> Value:
            kind = next((v.dtype for v in ins if isinstance(v, Value)), DType.F32)
            values = [v if v is None or isinstance(v, Value) else self.constant(v, kind) for v in ins]
            return self.add(op.rstrip("_"), values, attrs)
        return make

    def done(self, *outputs: Value) -> Graph:
        self.outputs = list(outputs)
        self.output_names = [f"y{i}" for i in range(len(outputs))]
        return self


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(graph: Graph) -> Counter:
    """How many nodes of each operator, regions by kind."""
    return Counter(n.attrs["region"].kind if n.op == "region" else n.op for n in graph.nodes)


def feeds_of(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs, symbolic dimensions 2."""
    rng = np.random.default_rng(seed)
    out = {}
    for v in graph.inputs:
        shape = [d if isinstance(d, int) else 2 for d in v.shape]
        x = rng.standard_normal(shape) if v.dtype.is_float else rng.integers(0, 2, shape)
        out[v.name] = x.astype(v.dtype.np)
    return out


def rewritten(graph: Graph, *passes, feeds=None, rtol: float = 2e-5, atol: float = 2e-5) -> Graph:
    """The graph after the passes, verified, and checked to compute what it did."""
    feeds = feeds or feeds_of(graph)
    want = interpret(graph, feeds)
    for p in passes:
        graph = p(graph) or graph
        verify(graph)
    got = interpret(graph, feeds)
    for name, w in want.items():
        assert got[name].dtype == w.dtype
        np.testing.assert_allclose(got[name], w, rtol=rtol, atol=atol, equal_nan=True)
    return graph
