"""Parallel matmuls (query, key, value) of one operand become a wider one with slices of its result.

Only where nothing pointwise follows but the bias: then no epilogue is lost, and the slices are views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.passes.rewrite import constant_operand


@dataclass
class Branch:
    """A matmul by constant weights [K, N], and the constant bias [N] added after it."""

    matmul: Node
    result: Value
    bias: np.ndarray | None


def merge_parallel(graph: Graph) -> None:
    """Merge the matmuls by constant weights that share their first operand."""
    uses = graph.uses()
    groups: dict[tuple[Value, object], list[Branch]] = {}
    outside = graph.read_outside()
    for n in graph.nodes:
        if n.op != "matmul" or n.input(1).data is None or n.input(1).rank != 2:
            continue
        branch = _branch(n, uses, outside)
        if branch is not None:
            groups.setdefault((n.input(0), n.compute), []).append(branch)
    replaced: dict[Value, Value] = {}
    for (x, _), branches in groups.items():
        if len(branches) > 1:
            _merge(graph, x, branches, replaced)
    graph.replace_many(replaced)
    graph.sort()
    graph.prune()


def _branch(n: Node, uses: dict[Value, list[Node]], outside: set[Value]) -> Branch | None:
    result, bias = n.output, None
    readers = uses.get(result, [])
    if len(readers) == 1 and readers[0].op == "add" and result not in outside:
        pair = constant_operand(readers[0])
        if pair and pair[1].data is not None and pair[1].shape == result.shape[-1:]:
            result, bias = readers[0].output, pair[1].data
            readers = uses.get(result, [])
    if result in outside or not readers or any(r.op in POINTWISE for r in readers):
        return None
    return Branch(n, result, bias)


def _merge(graph: Graph, x: Value, branches: list[Branch], replaced: dict[Value, Value]) -> None:
    first = branches[0].matmul
    weights = [b.matmul.input(1).data for b in branches]
    w = graph.const(np.concatenate([a for a in weights if a is not None], axis=1), first.input(1).dtype)
    whole = graph.add_node("matmul", [x, w], first.attrs, origin=first.origin)
    whole.compute = first.compute
    y = whole.output
    if any(b.bias is not None for b in branches):
        rows = [b.bias if b.bias is not None else np.zeros(b.matmul.output.shape[-1], y.dtype.np)  # type: ignore
                for b in branches]
        y = graph.add("add", [y, graph.const(np.concatenate(rows), y.dtype)], origin=first.origin)
    at = 0
    for b in branches:
        shape = b.result.shape
        n = int(b.matmul.input(1).shape[1])  # type: ignore[arg-type]
        replaced[b.result] = graph.add("slice", [y], {
            "starts": (*(0,) * (len(shape) - 1), at), "sizes": shape, "steps": (1,) * len(shape)},
            origin=b.matmul.origin)
        at += n
