"""The steps that a plan of a model would have, before any of it is built, with the cost model's seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Leaf
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_host import HOST
from whet.ir.region import Region
from whet.ir.symbolic import evaluate, names
from whet.ir.work import flops, region_bytes
from whet.lowering import outline, to_host
from whet.lowering.assemble import Weights
from whet.targets.base import Target

VIEWS = frozenset({"reshape", "transpose", "slice", "expand", "concat"})
REFERENCE_RATE = 0.5e9  # bytes a second that a NumPy reference reads and writes, about
REFERENCE_CALL = 50e-6  # seconds that a host step costs besides


@dataclass(frozen=True)
class Step:
    """A node of the graph of regions, as it would run at the profile's optimum.

    kind:    the region's, or the view's operator, or `host`.
    seconds: estimated; 0 for views, which cost nothing unless a reader needs a copy.
    bytes:   of everything that is read and written once.
    tactic:  that the cost model would choose. accepted: "" or why no tactic takes the region as it is.
    """

    node: Node
    kind: str
    region: Region | None
    seconds: float
    bytes: int
    flops: int
    tactic: str = ""


class _Costs:
    """What the cost model says of regions; equal ones are asked about once."""

    def __init__(self, target: Target, dims: Mapping[str, tuple[int, int, int]]) -> None:
        self.target = target
        self.env = {n: opt for n, (_, opt, _) in dims.items()}
        self.choices: dict[str, tuple[float, str]] = {}

    def region(self, node: Node, region: Region) -> Step:
        sig = region.signature()
        if sig not in self.choices:
            found = self.target.candidates(region)
            self.choices[sig] = (found[0].cost, found[0].tactic) if found else (0.0, "")
        seconds, tactic = self.choices[sig]
        return Step(node, region.kind, region, seconds, region_bytes(region), flops(region), tactic)

    def host(self, node: Node) -> Step:
        count = sum(nbytes(v, self.env) for v in (*node.inputs, *node.outputs) if v is not None)
        return Step(node, "host", None, REFERENCE_CALL + count / REFERENCE_RATE, count, 0)


def steps(graph: Graph, target: Target) -> list[Step]:
    """The nodes of a graph of regions (`passes.run`) as steps, in order; views cost nothing."""
    costs = _Costs(target, graph.dims)
    out = []
    for node in graph.nodes:
        if node.op == "region":
            out.append(costs.region(node, node.attrs["region"]))
        elif node.op in VIEWS:
            out.append(Step(node, node.op, None, 0.0, 0, 0))
        else:
            out.append(costs.host(node))
    return out


def launched(graph: Graph, target: Target) -> list[Step]:
    """What a plan of a graph of regions (used up) would run: launches, with the copies that lowering adds for views
    which no kernel follows, and host steps, those of bodies included."""
    if target.fallback:
        to_host(graph, target.accepts)
    costs = _Costs(target, graph.dims)
    hosted = [costs.host(n) for g in (graph, *_inside(graph)) for n in g.nodes if n.op in HOST]
    for g in _inside(graph):
        costs.env.update({n: opt for n, (_, opt, _) in g.dims.items()})
    found = outline(graph, target.accepts, Weights(), aligned=target.aligned).launches
    return [*(costs.region(l.node, l.region) for l in found), *hosted]


def _inside(graph: Graph) -> Iterator[Graph]:
    for body in graph.bodies():
        yield body
        yield from _inside(body)


def nbytes(v: Value, env: Mapping[str, int]) -> int:
    """Bytes of a value in these dimensions; 0 for what is no tensor of a known size."""
    if v.dtype in (DType.STRING, DType.OBJECT) or not names(*v.shape) <= env.keys():
        return 0
    return math.prod(max(0, evaluate(d, env)) for d in v.shape) * v.dtype.size


def node_name(origin: str) -> str:
    """`Conv conv1` -> `conv1`: the node alone, as the model calls it."""
    return origin.partition(" ")[2] or origin


def moves(region: Region) -> str:
    """`cast` or `copy` for a region that computes nothing else; empty otherwise."""
    if region.kind != "pointwise" or region.epilogue is None:
        return ""
    terms = region.epilogue.terms
    if not all(isinstance(t, Leaf) or (isinstance(t, Apply) and t.op == "cast") for t in terms):
        return ""
    return "cast" if any(isinstance(t, Apply) for t in terms) else "copy"
