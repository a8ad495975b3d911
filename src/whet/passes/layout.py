"""Layout assignment: convolutions, pools, group norms and LRN run channels last.

Each such node gets a transpose before and one after; `transposes` lets them meet and cancel. Weights keep
their logical order [O, I, k..]: tactics pack them anyway.
"""

from __future__ import annotations

from whet.ir.graph import Graph, Node
from whet.passes.rewrite import Result, Rewriter

SPATIAL = ("conv", "conv_transpose", "pool", "groupnorm", "lrn")


def to_last(rank: int) -> tuple[int, ...]:
    """[N, C, s..] to [N, s.., C]."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """[N, s.., C] to [N, C, s..]."""
    return (0, rank - 1, *range(1, rank - 1))


def channels_last(graph: Graph) -> None:
    """Turn every spatial operator to channels last."""
    Rewriter(graph).run({op: [turn] for op in SPATIAL})


def turn(rw: Rewriter, node: Node) -> Result:
    """op(x) is transpose(op_last(transpose(x)))."""
    x = node.input(0)
    if node.attrs.get("channels_last") or x.rank < 3:
        return None
    last = rw.add("transpose", x, like=node, perm=to_last(x.rank))
    y = rw.add(node.op, last, *node.inputs[1:], like=node, **{**node.attrs, "channels_last": True})
    return rw.add("transpose", y, like=node, perm=to_first(x.rank))
