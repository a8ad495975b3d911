"""Regions without a kernel become steps of the host."""

from __future__ import annotations

from collections.abc import Callable

from whet.ir.graph import Graph
from whet.ir.region import Region


def to_host(graph: Graph, accepts: Callable[[Region], str]) -> None:
    """Let the host evaluate those regions of a graph and of its bodies that the target refuses even where all operands
    are dense (others are copied first). `accepts`: see `storage.schedule`."""
    known: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != "region":
            continue
        region: Region = node.attrs["region"]
        signature = region.signature()
        if signature not in known:
            known[signature] = accepts(region)
        if known[signature]:
            node.op, node.attrs = "fallback", {"region": region, "reason": known[signature]}
            node.origin = node.origin or region.kind
    for body in graph.bodies():
        to_host(body, accepts)
