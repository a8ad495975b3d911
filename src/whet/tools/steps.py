"""The steps that a plan of a model would have, before any of it is built, with the cost model's seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Leaf
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region
from whet.ir.symbolic import evaluate, names
from whet.ir.work import flops
from whet.targets.cpu.target import CpuTarget

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


def steps(graph: Graph, cpu: CpuTarget) -> list[Step]:
    """The steps of a graph of regions (`passes.run`), in order."""
    env = {n: opt for n, (_, opt, _) in graph.dims.items()}
    choices: dict[str, tuple[float, str]] = {}
    out = []
    for node in graph.nodes:
        count = sum(nbytes(v, env) for v in (*node.inputs, *node.outputs) if v is not None)
        region: Region | None = node.attrs.get("region") if node.op == "region" else None
        if region is not None:
            sig = region.signature()
            if sig not in choices:
                found = cpu.candidates(region)
                choices[sig] = (found[0].cost, found[0].tactic) if found else (0.0, "")
            seconds, tactic = choices[sig]
            out.append(Step(node, region.kind, region, seconds, count, flops(region), tactic))
        elif node.op in VIEWS:
            out.append(Step(node, node.op, None, 0.0, 0, 0))
        else:
            out.append(Step(node, "host", None, REFERENCE_CALL + count / REFERENCE_RATE, count, 0))
    return out


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
