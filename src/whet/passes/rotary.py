"""Rotary position embedding as exporters write it (Su et al. 2021, arXiv:2104.09864), computed half by half.

x * cos + concat(-x2, x1) * sin, where x1 and x2 are the halves of x's last dimension, becomes
concat(x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2): each half is one pointwise region that is written straight
into its place, and no rotated copy of x is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Shape
from whet.passes.rewrite import Result, Rewriter, made_by


@dataclass
class Part:
    """A dense part of a value: its first index along each dimension, and its sizes."""

    whole: Value
    starts: Shape
    sizes: Shape


def recognize(graph: Graph) -> None:
    """Rewrite every rotary embedding by halves."""
    Rewriter(graph).run({"add": [halves]})


def halves(rw: Rewriter, node: Node) -> Result:
    """The rule for the last addition."""
    for first, second in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        direct, turned = made_by(first, "mul"), made_by(second, "mul")
        if direct is None or turned is None or not rw.once(first) or not rw.once(second):
            continue
        for rotated, sin in ((turned.input(0), turned.input(1)), (turned.input(1), turned.input(0))):
            parts = _rotated(rw, rotated)
            if parts is None:
                continue
            for x, cos in ((direct.input(0), direct.input(1)), (direct.input(1), direct.input(0))):
                if _joins(x, *parts) and x.shape == node.output.shape:
                    return _by_halves(rw, node, *parts, cos, sin)
    return None


def _rotated(rw: Rewriter, v: Value) -> tuple[Value, Value] | None:
    """(x1, x2) if v is concat(-x2, x1) along the last dimension, x1 and x2 equally wide."""
    joint = made_by(v, "concat")
    if joint is None or joint.attrs["axis"] != v.rank - 1 or len(joint.inputs) != 2 or not rw.once(v):
        return None
    negative = made_by(joint.input(0), "neg")
    if negative is None or joint.input(1).shape != negative.output.shape:
        return None
    return joint.input(1), negative.input(0)


def _joins(x: Value, x1: Value, x2: Value) -> bool:
    """True if x is x1 and x2 side by side."""
    a, b, all_ = _part(x1), _part(x2), _part(x)
    half = x1.shape[-1]
    return (a.whole is all_.whole and b.whole is all_.whole and isinstance(half, int) and x.shape[-1] == 2 * half
            and a.starts == all_.starts and b.starts == (*all_.starts[:-1], all_.starts[-1] + half)
            and a.sizes == b.sizes == (*all_.sizes[:-1], half))


def _part(v: Value) -> Part:
    """v as a part of the value that it is sliced from."""
    p = made_by(v, "slice")
    if p is None or any(step != 1 for step in p.attrs["steps"]):
        return Part(v, (0,) * v.rank, v.shape)
    return Part(p.input(0), tuple(p.attrs["starts"]), v.shape)


def _by_halves(rw: Rewriter, node: Node, x1: Value, x2: Value, cos: Value, sin: Value) -> Value:
    half = x1.shape[-1]

    def side(v: Value, second: bool) -> Value:
        if v.rank == 0 or v.shape[-1] == 1:
            return v
        starts = (*(0,) * (v.rank - 1), half if second else 0)
        return rw.add("slice", v, like=node, starts=starts, sizes=(*v.shape[:-1], half), steps=(1,) * v.rank)

    def product(x: Value, factor: Value, second: bool) -> Value:
        return rw.add("mul", x, side(factor, second), like=node)

    y1 = rw.add("sub", product(x1, cos, False), product(x2, sin, False), like=node)
    y2 = rw.add("add", product(x2, cos, True), product(x1, sin, True), like=node)
    return rw.add("concat", y1, y2, like=node, axis=node.output.rank - 1)
