"""Recognition of scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

matmul(softmax(matmul(q, k^T) * scale + mask), v), with the scale anywhere (also split over q and k, as
PyTorch exports it), an additive or boolean mask or none, of which a causal part becomes an attribute, and
where(isnan(p), 0, p) after the softmax for rows that are masked out whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim
from whet.passes.movement import range_axis
from whet.passes.rewrite import Result, Rewriter, aligned, constant_operand, made_by, uniform

MAX_HEAD = 512  # heads wider than this are better off as two matmuls


@dataclass
class Scores:
    """What lies between the softmax and the product of q and k."""

    product: Node
    scale: float = 1.0
    mask: Value | None = None


def recognize(graph: Graph) -> None:
    """Replace each attention by one node; `k` gets a transpose, which mostly cancels another."""
    Rewriter(graph).run({"matmul": [attention]})


def attention(rw: Rewriter, node: Node) -> Result:
    """The rule for the last matmul of an attention."""
    p, v = node.input(0), node.input(1)
    found = probabilities(rw, p)
    if found is None or p.rank not in (3, 4) or v.rank != p.rank or v.shape[:-2] != p.shape[:-2]:
        return None
    if p.dtype not in (DType.F32, DType.F16, DType.BF16):
        return None
    softmax, masked_zero = found
    scores = _scores(rw, softmax.input(0))
    if scores is None:
        return None
    q, q_scale = _unscaled(rw, scores.product.input(0))
    kt, k_scale = _unscaled(rw, scores.product.input(1))
    if q.rank != p.rank or kt.rank != p.rank or kt.shape[:-2] != q.shape[:-2] or q.shape[:-2] != v.shape[:-2]:
        return None
    if any(not isinstance(d, int) or not 0 < d <= MAX_HEAD for d in (q.shape[-1], v.shape[-1])):
        return None
    scale = scores.scale * q_scale * k_scale
    if not math.isfinite(scale) or scale == 0:
        return None
    k = rw.add("transpose", kt, like=node, perm=(*range(q.rank - 2), q.rank - 1, q.rank - 2))
    causal, mask = split_causal(rw, scores.mask, q.shape[-2], kt.shape[-1], node)
    if q.rank == 3:  # heads and batch in one dimension
        q, k, v = (rw.add("reshape", x, like=node, shape=(x.shape[0], 1, *x.shape[1:])) for x in (q, k, v))
        if mask is not None and mask.rank == 3:
            mask = rw.add("reshape", mask, like=node, shape=(mask.shape[0], 1, *mask.shape[1:]))
    if mask is not None and mask.rank < 4:
        mask = rw.add("reshape", mask, like=node, shape=aligned(mask.shape, 4))
    ins = [q, k, v] if mask is None else [q, k, v, mask]
    out = rw.add("attention", *ins, like=node, scale=scale, causal=causal, masked_zero=masked_zero)
    return out if out.shape == node.output.shape else rw.add("reshape", out, like=node, shape=node.output.shape)


def probabilities(rw: Rewriter, p: Value) -> tuple[Node, bool] | None:
    """(the softmax, whether NaN rows become zero) that p comes from."""
    guard = made_by(p, "where")
    if guard:
        check = made_by(guard.input(0), "isnan")
        inner = guard.input(2)
        if check is None or check.input(0) is not inner or uniform(guard.input(1)) != 0 or len(rw.uses(inner)) > 2:
            return None
        p = inner
    elif not rw.once(p):
        return None
    softmax = made_by(p, "softmax")
    if softmax is None or softmax.attrs.get("log") or softmax.attrs["axis"] != p.rank - 1:
        return None
    return softmax, guard is not None


def _scores(rw: Rewriter, s: Value) -> Scores | None:
    """Take scale and mask off the scores, outermost first."""
    mask: Value | None = None
    scale = 1.0
    while rw.once(s):
        n = s.producer
        if n is None:
            return None
        if n.op == "matmul":
            return Scores(n, scale, mask)
        if n.op in ("mul", "div"):
            inner = _scaled(n)
            if inner is None:
                return None
            s, scale = inner[0], scale * inner[1]
        elif n.op == "add" and mask is None and scale == 1.0:
            a, b = n.input(0), n.input(1)
            if not _leads_to_matmul(rw, a):
                a, b = b, a
            if a.shape != s.shape:
                return None
            s, mask = a, b
        elif n.op == "where" and mask is None and scale == 1.0:
            inner_mask = _where_mask(rw, n)
            if inner_mask is None:
                return None
            s, mask = inner_mask
        else:
            return None
    return None


def _scaled(n: Node) -> tuple[Value, float] | None:
    """(x, c) if n is x * c or x / c for a constant number c."""
    pair = constant_operand(n)
    c = uniform(pair[1]) if pair else None
    if pair is None or c is None or pair[0].shape != n.output.shape or (n.op == "div" and (
            pair[1] is not n.input(1) or c == 0)):
        return None
    return pair[0], 1.0 / float(c) if n.op == "div" else float(c)


def _leads_to_matmul(rw: Rewriter, v: Value) -> bool:
    p = v.producer
    while p is not None and p.op in ("mul", "div") and rw.once(v):
        inner = _scaled(p)
        if inner is None:
            return False
        v = inner[0]
        p = v.producer
    return p is not None and p.op == "matmul"


def _where_mask(rw: Rewriter, n: Node) -> tuple[Value, Value] | None:
    """(scores, mask) if n puts minus infinity (or the lowest number) where a condition says."""
    cond, a, b = n.input(0), n.input(1), n.input(2)
    keep = _leads_to_matmul(rw, a)
    s, fill = (a, b) if keep else (b, a)
    number = uniform(fill)
    if number is None or s.shape != n.output.shape or float(number) > -1e30:
        return None
    if number == -math.inf:
        return s, cond if keep else rw.add("not", cond, like=n)
    zero = rw.const(0, s)  # finite: a fully masked row averages, so that the mask has to be added
    low = rw.const(number, s)
    return s, rw.add("where", cond, *((zero, low) if keep else (low, zero)), like=n)


def _unscaled(rw: Rewriter, v: Value) -> tuple[Value, float]:
    """(x, c) with v = x * c, for products that nobody else reads."""
    c = 1.0
    while v.dtype is DType.F32 and rw.once(v):
        n = made_by(v, "mul", "div")
        inner = _scaled(n) if n else None
        if inner is None:
            break
        v, c = inner[0], c * inner[1]
    return v, c


# -- causal masks ----------------------------------------------------------------------------------------


def split_causal(rw: Rewriter, mask: Value | None, rows: Dim, columns: Dim, node: Node) -> tuple[bool, Value | None]:
    """(whether the mask hides column > row, what else it hides)."""
    if mask is None or mask.rank < 2:
        return False, mask
    if _is_causal(mask, rows, columns):
        return True, None
    p = made_by(mask, "and", "where")
    if p is None:
        return False, mask
    if p.op == "and":
        for a, b in ((p.input(0), p.input(1)), (p.input(1), p.input(0))):
            if _is_causal(a, rows, columns):
                return True, b
        return False, mask
    if uniform(p.input(2)) == 0 and _hides(p.input(1)) and _compares(p.input(0), rows, columns, hidden=True):
        return True, None
    if uniform(p.input(1)) != 0 or not _hides(p.input(2)):
        return False, mask
    causal, rest = split_causal(rw, p.input(0), rows, columns, node)
    if not causal or (rest is not None and uniform(p.input(2)) != -math.inf):
        return False, mask  # a finite addend makes fully masked rows average over all columns
    return True, None if rest is None else rw.add("where", rest, p.input(1), p.input(2), like=node)


def _hides(v: Value) -> bool:
    fill = uniform(v)
    return fill is not None and float(fill) <= -1e30


def _is_causal(v: Value, rows: Dim, columns: Dim) -> bool:
    """True for a mask that keeps column <= row and hides (False, or an addend at most -1e30) the others."""
    if v.data is None:
        inverse = made_by(v, "not")
        return _compares(inverse.input(0) if inverse else v, rows, columns, hidden=inverse is not None)
    shape = v.data.shape
    if shape[-2:] != (rows, columns) or any(d != 1 for d in shape[:-2]):
        return False
    keep, grid = np.tri(*shape[-2:], dtype=np.bool_), v.data.reshape(shape[-2:])
    if v.dtype is DType.BOOL:
        return bool((grid == keep).all())
    return v.dtype.is_float and bool(np.where(keep, grid == 0, grid <= -1e30).all())


def _compares(v: Value, rows: Dim, columns: Dim, hidden: bool) -> bool:
    """True if v is column <= row (hidden: column > row) over whole ranges."""
    p = made_by(v, "gt", "lt") if hidden else made_by(v, "le", "ge")
    if p is None:
        return False
    column, row = (p.input(0), p.input(1)) if p.op in ("le", "gt") else (p.input(1), p.input(0))
    return _counts(column, v.rank - 1, columns, v.rank) and _counts(row, v.rank - 2, rows, v.rank)


def _counts(v: Value, axis: int, size: Dim, rank: int) -> bool:
    """True if v counts 0, 1, .. size - 1 along this axis (of `rank` after broadcasting)."""
    found = range_axis(v, size)
    return found is not None and found + rank - v.rank == axis
