"""The order of an ONNX graph's nodes, and what its names refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto

from whet.errors import GraphError


def free_names(graphs: Iterable[GraphProto]) -> set[str]:
    """Names that graphs (bodies of control flow) read and do not define."""
    out: set[str] = set()
    for g in graphs:
        local = {v.name for v in g.input} | {t.name for t in g.initializer}
        for n in g.node:
            out |= {i for i in n.input if i} - local
            out |= free_names(bodies(n)) - local
            local |= set(n.output)
        out |= {o.name for o in g.output} - local
    return out


def bodies(n: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes."""
    return [g for a in n.attribute for g in ([a.g] if a.type == AttributeProto.GRAPH else a.graphs)]


def ordered(g: GraphProto, scope: Mapping[str, Any], own: Mapping[str, Any]) -> list[NodeProto]:
    """The nodes in an order in which they can run. GraphError for cycles, undefined and redefined names.

    scope: what names may refer to. own: those of them that are the graph's own; nodes may hide the others.
    """
    producer: dict[str, int] = {}
    nodes = list(g.node)
    for k, n in enumerate(nodes):
        for o in n.output:
            if o and (o in producer or o in own):
                raise GraphError(f"{o!r} is computed twice", where=f"node {n.name or o}",
                                 why="each name may have one source", do="export the model again")
            if o:
                producer[o] = k
    needs: list[set[int]] = []
    readers: list[list[int]] = [[] for _ in nodes]
    for k, n in enumerate(nodes):
        need: set[int] = set()
        for i in {*n.input, *free_names(bodies(n))}:
            if i in producer:
                need.add(producer[i])
            elif i and i not in scope:
                raise GraphError(f"{n.op_type} reads {i!r}, which nothing computes",
                                 where=f"node {n.name or n.op_type}",
                                 why="it is no input, no initializer and no node's output", do="export the model again")
        needs.append(need)
        for p in need:
            readers[p].append(k)
    left = [len(x) for x in needs]
    ready = [k for k, c in enumerate(left) if not c]
    order: list[int] = []
    for k in ready:  # grows while it is walked
        order.append(k)
        for r in readers[k]:
            left[r] -= 1
            if not left[r]:
                ready.append(r)
    if len(order) < len(nodes):
        stuck = next(k for k, c in enumerate(left) if c)
        n = nodes[stuck]
        raise GraphError("the graph has a cycle", where=f"node {n.name or next(iter(n.output), n.op_type)}",
                         why="a node's input depends on its own output",
                         do="export the model again; loops must use Loop or Scan")
    return [nodes[k] for k in (range(len(nodes)) if _in_order(needs) else order)]


def _in_order(needs: list[set[int]]) -> bool:
    return all(p < k for k, need in enumerate(needs) for p in need)
