"""How much arithmetic a graph is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from whet.ir.graph import Graph, Node
from whet.ir.symbolic import Dim, evaluate


def flops(graph: Graph, dims: Mapping[str, int] | None = None) -> int:
    """Floating-point operations of the products in matmuls, convolutions and attention: two for each, nothing else.

    `dims` gives symbolic dimensions their sizes; default: the profile's optimum.
    """
    sizes = {name: opt for name, (_, opt, _) in graph.dims.items()} | dict(dims or {})
    return sum(_of(n, sizes) for n in graph.nodes)


def _of(node: Node, sizes: Mapping[str, int]) -> int:
    def size(shape: Sequence[Dim]) -> int:
        return math.prod(evaluate(d, sizes) for d in shape)

    shapes = [v.shape for v in node.inputs if v is not None]
    if node.op == "matmul":
        return 2 * size(node.outputs[0].shape) * size(shapes[0][-1:])
    if node.op == "conv":
        return 2 * size(node.outputs[0].shape) * size(shapes[1][1:])
    if node.op == "conv_transpose":
        return 2 * size(shapes[0]) * size(shapes[1][1:])
    if node.op == "attention":
        q, k, v = shapes[:3]
        return 2 * size(q[:-1]) * size(k[-2:-1]) * (size(q[-1:]) + size(v[-1:]))
    return 0
