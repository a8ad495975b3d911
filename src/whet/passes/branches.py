"""The order of branches, for targets that run them side by side."""

from __future__ import annotations

from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_pointwise import POINTWISE

ANCHORS = frozenset({"conv", "matmul"})
MOVED = frozenset({"reshape", "transpose"})


def shallow_first(graph: Graph) -> Graph:
    """Where two products meet in an addition, let the one that is ready sooner come first.

    Fusion gives the addition to the later one. The shortcut of a residual block, one convolution of the block's input,
    then waits for nothing of the block and runs beside it, instead of being its last step.
    """
    at = {n: i for i, n in enumerate(graph.nodes)}
    uses, outside = graph.uses(), graph.read_outside()
    depth: dict[Value, int] = {}
    for n in graph.nodes:
        here = max((depth.get(v, 0) for v in n.inputs if v is not None), default=0) + (n.op in ANCHORS)
        depth.update(dict.fromkeys(n.outputs, here))

    def branch(v: Value | None) -> list[Node] | None:
        """The nodes from a product to v, the product first, if nobody else reads what is between."""
        found: list[Node] = []
        while v is not None and v.producer is not None and len(uses.get(v, ())) == 1 and v not in outside:
            n = v.producer
            found.append(n)
            if n.op in ANCHORS:
                return found[::-1] if not any(graph.learnt(m) for m in found) else None
            read = [x for x in n.inputs if x is not None and x.data is None]
            if len(read) != 1 or (n.op not in POINTWISE and n.op not in MOVED):
                return None
            v = read[0]
        return None

    moved: dict[Node | None, list[Node]] = {}
    gone: set[Node] = set()
    for n in graph.nodes:
        pair = [b for v in n.inputs if (b := branch(v)) is not None] if n.op == "add" else []
        if len(pair) != 2:
            continue
        early, late = sorted(pair, key=lambda b: at[b[0]])
        if depth[late[0].outputs[0]] >= depth[early[0].outputs[0]] or not gone.isdisjoint(late):
            continue
        makers = [v.producer for v in late[0].inputs if v is not None and v.producer is not None]
        moved.setdefault(max(makers, key=lambda m: at[m], default=None), []).extend(late)
        gone.update(late)
    if gone:
        graph.nodes = [m for n in (None, *graph.nodes) for m in (
            *((n,) if n is not None and n not in gone else ()), *moved.get(n, ()))]
    return graph
