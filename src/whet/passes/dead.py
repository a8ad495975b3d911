"""Dead code: nodes that no output needs."""

from __future__ import annotations

from whet.ir.graph import Graph


def remove_dead(graph: Graph) -> None:
    """Drop every node whose results nobody reads."""
    graph.prune()
