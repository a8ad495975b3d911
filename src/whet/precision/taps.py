"""A graph whose outputs are the values that calibration observes."""

from __future__ import annotations

from whet.ir.graph import Graph, Value
from whet.passes.layout import SPATIAL, to_last
from whet.precision.insert import taps


def tapped(graph: Graph, shortcuts: bool = False) -> tuple[Graph, dict[str, int]]:
    """(a copy of a prepared graph that gives the values of `taps` by name, the axis of channels of each).

    What spatial operators make and read is given channels last, as it will lie in memory, so that nothing is
    transposed for it: channels are the last axis there as they are elsewhere.
    """
    out = graph.copy()
    wanted = taps(out, shortcuts)
    given = {id(v) for v in out.inputs}
    spatial = {id(v) for n in out.nodes if n.op in SPATIAL for v in (*n.inputs[:1], *n.outputs)}
    names: list[str] = []
    values: list[Value] = []
    for name, v in wanted.items():
        if id(v) in spatial and v.rank >= 3:
            v = out.add("transpose", [v], {"perm": to_last(v.rank)})
        elif id(v) in given:
            v = out.add("reshape", [v], {"shape": v.shape})
        names.append(name)
        values.append(v)
    out.outputs, out.output_names = values, names
    out.prune()
    return out, {name: v.rank - 1 for name, v in zip(names, values)}
