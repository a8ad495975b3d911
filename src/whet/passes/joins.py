"""What joins tensors costs a copy for each that is not written straight into its place: two ways to copy less.

Arithmetic with constants after a concat (a class token before the patches, then positions) moves into the epilogues of
what is joined; and the small indices that scatters take, joined of numbers and positions, are one pointwise step.
"""

from __future__ import annotations

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.ir.symbolic import Shape, is_static
from whet.passes.fuse import EPILOGUE, VIEWS, fits_epilogue
from whet.passes.movement import regroup
from whet.passes.rewrite import Result, Rewriter, aligned, made_by, scalar

MOST = 1 << 16  # bytes of a small concat


def simplify(graph: Graph) -> None:
    """Apply the rules of this file once over the graph."""
    Rewriter(graph).run({"concat": [chosen], **{op: [into_parts] for op in POINTWISE}})


def into_parts(rw: Rewriter, node: Node) -> Result:
    """f(concat(x, y), c) is concat(f(x, c's part), f(y, c's part)) where x and y are constants, or results (also
    reshaped) that compute f as they are written."""
    shaped = [v for v in node.inputs if v is not None and v.data is None]
    joined = made_by(shaped[0], "concat") if len(shaped) == 1 else None
    if joined is None or not rw.once(shaped[0]) or shaped[0].shape != node.output.shape:
        return None
    axis, at = joined.attrs["axis"], 0
    done: list[Value] = []
    sources: list[list[Value]] = []  # of each part: the node's operands
    for part in joined.inputs:
        assert part is not None
        size = part.shape[axis]
        if not isinstance(size, int):
            return None
        here = [part if v is shaped[0] else _part(rw, v, axis, at, size, node.output) for v in node.inputs
                if v is not None]
        below = _below(rw, part, [v for v in here if v is not part])
        if below is None:
            return None
        x, constants = below
        others = iter(constants)
        sources.append([x if v is part else next(others) for v in here])
        at += size
    if all(v.is_const for s in sources for v in s):
        return None
    for part, operands in zip(joined.inputs, sources, strict=True):
        assert part is not None
        y = rw.add(node.op, *operands, like=node, **node.attrs)
        done.append(y if y.shape == part.shape else rw.add("reshape", y, like=node, shape=part.shape))
    return rw.add("concat", *done, like=node, axis=axis)


def _part(rw: Rewriter, v: Value, axis: int, start: int, size: int, out: Value) -> Value:
    """The part of a constant that meets a part of the result along an axis."""
    k = axis - (out.rank - v.rank)
    if v.data is None or k < 0 or v.shape[k] == 1:
        return v
    return rw.graph.const(v.data[(slice(None),) * k + (slice(start, start + size),)], v.dtype)


def _below(rw: Rewriter, part: Value, constants: list[Value]) -> tuple[Value, list[Value]] | None:
    """(x, constants) such that f(x, constants) is f(part, constants), but for its shape, and costs no step of its
    own: x is a constant or what can take it as its epilogue."""
    if part.data is not None:
        return part, constants
    p = part.producer
    inner = p.input(0) if p is not None and p.op == "reshape" else part
    if not rw.once(part) or not rw.once(inner) or inner.producer is None:
        return None
    if inner.producer.op not in EPILOGUE and inner.producer.op not in POINTWISE:
        return None
    if inner is not part:
        moved = [_reshaped(rw, c, inner.shape, part.shape) for c in constants]
        if any(c is None for c in moved):
            return None
        constants = [c for c in moved if c is not None]
    return (inner, constants) if all(fits_epilogue(c, inner.shape) for c in constants) else None


def _reshaped(rw: Rewriter, c: Value, old: Shape, new: Shape) -> Value | None:
    """A constant that broadcasts to the shape `new` so that it does to `old`, which is reshaped into it."""
    groups = regroup(old, new)
    if scalar(c) is not None:
        return rw.graph.const(np.asarray(c.data).reshape(()), c.dtype)
    if c.data is None or groups is None:
        return None
    have, shape = aligned(c.shape, len(new)), [1] * len(old)
    for a, b in groups:
        if all(have[k] == 1 for k in b):
            continue
        if any(have[k] != new[k] for k in b) or not is_static(old[k] for k in a):
            return None
        for k in a:
            shape[k] = int(old[k])  # type: ignore[arg-type]
    return rw.graph.const(c.data.reshape(shape), c.dtype)


def chosen(rw: Rewriter, node: Node) -> Result:
    """A small concat of constants and views, each of which would be a copy: one `where` for each of the views, which
    have one element along the axis. The constants are one."""
    axis, out = node.attrs["axis"], node.output
    parts = [v for v in node.inputs if v is not None]
    given = [v for v in parts if v.data is None]
    if not 1 <= len(given) <= 3 or len(parts) < 2 or not is_static(out.shape) or out.dtype.is_host:
        return None
    if int(np.prod(out.shape, dtype=np.int64)) * out.dtype.size > MOST:  # type: ignore[arg-type]
        return None
    if any(v.shape[axis] != 1 or not _is_view(rw, v) for v in given):
        return None
    filled = [np.zeros([int(d) for d in v.shape], v.dtype.np) if v.data is None else v.data  # type: ignore[arg-type]
              for v in parts]
    y = rw.graph.const(np.concatenate(filled, axis), out.dtype)
    at, width = 0, int(out.shape[axis])  # type: ignore[arg-type]
    for v in parts:
        if v.data is None:
            here = (np.arange(width) == at).reshape([width if a == axis else 1 for a in range(out.rank)])
            y = rw.add("where", rw.graph.const(here, DType.BOOL), v, y, like=node)
        at += int(v.shape[axis])  # type: ignore[arg-type]
    return y


def _is_view(rw: Rewriter, v: Value) -> bool:
    """True for what is seen of a value that others read, too, or that is given."""
    p = v.producer
    while p is not None and p.op in VIEWS and p.op != "concat":
        v = p.input(0)
        p = v.producer
    return v.data is None and (p is None or len(rw.uses(v)) > 1)
