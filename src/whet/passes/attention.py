"""Recognition of scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

matmul(softmax(matmul(q, k^T) * scale + mask), v), with the scale anywhere (also split over q and k, as
PyTorch exports it), an additive or boolean mask or none, and where(isnan(p), 0, p) after the softmax for rows
that are masked out whole. Then, for these and for what was attention from the start: what a mask hides by the
distance of column and row becomes attributes (causal, with an offset for past keys; a sliding window), and keys
and values repeated for groups of heads (Ainslie et al. 2023, arXiv:2305.13245) are read where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim
from whet.passes.gathers import counting, single
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
    Rewriter(graph).run({"attention": [refine]})
    graph.prune()


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
    mask = scores.mask
    if q.rank == 3:  # heads and batch in one dimension
        q, k, v = (rw.add("reshape", x, like=node, shape=(x.shape[0], 1, *x.shape[1:])) for x in (q, k, v))
        if mask is not None and mask.rank == 3:
            mask = rw.add("reshape", mask, like=node, shape=(mask.shape[0], 1, *mask.shape[1:]))
    ins = [q, k, v] if mask is None else [q, k, v, mask]
    out = rw.add("attention", *ins, like=node, scale=scale, masked_zero=masked_zero)
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


# -- what the mask hides -------------------------------------------------------------------------------------


@dataclass
class Seen:
    """Which keys a mask lets row i see: those up to i + offset (None: all), of these the last `window` (0: all),
    where `rest` (a mask, or None) does not hide them."""

    offset: Dim | None = None
    window: int = 0
    rest: Value | None = None


def split_mask(rw: Rewriter, mask: Value | None, rows: Dim, columns: Dim, node: Node) -> Seen:
    """Take out of a mask what hides columns by their distance from the row."""
    whole = Seen(rest=mask)
    while mask is not None and mask.data is None:  # without dimensions of 1 that a reshape puts in front
        p = made_by(mask, "reshape")
        if p is None or aligned(p.input(0).shape, mask.rank) != mask.shape:
            break
        mask = p.input(0)
    if mask is None or mask.rank < 2:
        return whole
    if mask.data is not None:
        offset = _triangle(mask, rows, columns)
        return whole if offset is None else Seen(offset)
    if mask.dtype is DType.BOOL:
        return _split_condition(rw, mask, rows, columns, node)
    p = made_by(mask, "where")
    if p is None:
        return whole
    if uniform(p.input(2)) == 0 and _hides(p.input(1)):
        offset = _last(p.input(0), rows, columns, hidden=True)
        return whole if offset is None else Seen(offset)
    if uniform(p.input(1)) != 0 or not _hides(p.input(2)):
        return whole
    found = _split_condition(rw, p.input(0), rows, columns, node)
    infinite = uniform(p.input(2)) == -math.inf
    if found.offset is None or not (infinite or (found.rest is None and not found.window)):
        return whole  # a finite addend makes fully masked rows average over all columns
    return found


def _split_condition(rw: Rewriter, keep: Value, rows: Dim, columns: Dim, node: Node) -> Seen:
    """`split_mask` of a boolean mask: a conjunction, or the negation of a comparison."""
    inverse = made_by(keep, "not")
    if inverse is not None:
        offset = _last(inverse.input(0), rows, columns, hidden=True)
        return Seen(rest=keep) if offset is None else Seen(offset)
    last: Dim | None = None
    first: Dim | None = None
    rest: list[Value] = []
    for term in _conjunction(keep):
        offset = _last(term, rows, columns, hidden=False) if last is None else None
        start = _first(term, rows, columns) if offset is None and first is None else None
        if offset is not None:
            last = offset
        elif start is not None:
            first = start
        elif single_truth(term) is not True:
            rest.append(term)
    if last is None:
        return Seen(rest=keep)
    window: Dim = 0 if first is None else last - first
    if not isinstance(window, int) or (first is not None and window <= 0):
        return Seen(rest=keep)
    mask: Value | None = None
    for term in rest:
        mask = term if mask is None else rw.add("and", mask, term, like=node)
    return Seen(last, window, mask)


def _conjunction(v: Value) -> list[Value]:
    """The terms that `and` joins."""
    p = made_by(v, "and")
    if p is None:
        return [v]
    return [t for x in (p.input(0), p.input(1)) for t in _conjunction(x)]


def single_truth(v: Value) -> bool | None:
    """The one value of a boolean constant."""
    number = uniform(v) if v.data is not None else None
    return None if number is None else bool(number)


def _hides(v: Value) -> bool:
    fill = uniform(v)
    return fill is not None and float(fill) <= -1e30


def _triangle(v: Value, rows: Dim, columns: Dim) -> Dim | None:
    """The offset of a constant mask that keeps column <= row + offset and hides (False, or an addend of at most
    -1e30) the others."""
    assert v.data is not None
    shape = v.data.shape
    if shape[-2:] != (rows, columns) or any(d != 1 for d in shape[:-2]):
        return None
    grid = v.data.reshape(shape[-2:])
    for offset in {0, shape[-1] - shape[-2]}:
        keep = np.tri(shape[-2], shape[-1], offset, dtype=np.bool_)
        if v.dtype is DType.BOOL and (grid == keep).all():
            return offset
        if v.dtype.is_float and np.where(keep, grid == 0, grid <= -1e30).all():
            return offset
    return None


def _last(v: Value, rows: Dim, columns: Dim, hidden: bool) -> Dim | None:
    """c if v is column <= row + c (hidden: column > row + c) over whole ranges."""
    p = made_by(v, "gt", "lt") if hidden else made_by(v, "le", "ge")
    if p is None:
        return None
    column, row = (p.input(0), p.input(1)) if p.op in ("le", "gt") else (p.input(1), p.input(0))
    return _ahead(v, column, row, rows, columns)


def _first(v: Value, rows: Dim, columns: Dim) -> Dim | None:
    """c if v is column > row + c over whole ranges."""
    p = made_by(v, "gt", "lt")
    if p is None:
        return None
    column, row = (p.input(0), p.input(1)) if p.op == "gt" else (p.input(1), p.input(0))
    return _ahead(v, column, row, rows, columns)


def _ahead(v: Value, column: Value, row: Value, rows: Dim, columns: Dim) -> Dim | None:
    """How far the counting of rows is ahead of that of columns."""
    first = _counts(column, v.rank - 1, columns, v.rank)
    second = _counts(row, v.rank - 2, rows, v.rank)
    return None if first is None or second is None else second - first


def _counts(v: Value, axis: int, size: Dim, rank: int) -> Dim | None:
    """The number that v counts from along this axis (of `rank` after broadcasting)."""
    if size == 1 and all(d == 1 for d in v.shape):  # one row: a range of one number
        return single(v)
    found = counting(v, size)
    return found[1] if found is not None and found[0] + rank - v.rank == axis else None


# -- attention that is one node already ------------------------------------------------------------------------


def refine(rw: Rewriter, node: Node) -> Result:
    """Keys and values that are repeated for groups of heads are read where they are; what a mask hides by distance
    becomes attributes."""
    q, k, v = node.input(0), node.input(1), node.input(2)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    attrs = dict(node.attrs)
    shared = _repeated(k), _repeated(v)
    if shared[0] is not None and shared[1] is not None and shared[0].shape[1] == shared[1].shape[1]:
        k, v = (rw.add("reshape", x, like=node, shape=(x.shape[0], x.shape[1], *x.shape[3:]))
                for x in (shared[0], shared[1]))
    if mask is not None and not attrs["causal"] and lengths is None:
        seen = split_mask(rw, mask, q.shape[2], k.shape[2], node)
        if seen.offset is not None:
            mask = seen.rest
            attrs |= {"causal": True, "offset": seen.offset, "window": seen.window}
    if k is node.input(1) and attrs == node.attrs:
        return None
    ins = [q, k, v, mask, lengths]
    while ins[-1] is None:
        ins.pop()
    return rw.add("attention", *ins, like=node, **attrs)


def _repeated(v: Value) -> Value | None:
    """x [B, G, 1, T, D] if v [B, G * n, T, D] is x with each head n times, maybe by way of other leading dimensions
    and of a transpose and back."""
    wide, swapped = v, False
    while wide.producer is not None and wide.rank >= 3:
        p = wide.producer
        if p.op == "reshape" and p.input(0).shape[-2:] == wide.shape[-2:]:
            wide = p.input(0)
        elif p.op == "transpose" and p.attrs["perm"] == (*range(wide.rank - 2), wide.rank - 1, wide.rank - 2):
            wide, swapped = p.input(0), not swapped
        else:
            break
    copies = made_by(wide, "expand")
    if copies is None or swapped or wide.rank != 5 or v.rank != 4:
        return None
    x, shape = copies.input(0), wide.shape
    if x.rank != 5 or x.shape[2] != 1 or x.shape != (*shape[:2], 1, *shape[3:]):
        return None
    if not isinstance(shape[1], int) or not isinstance(shape[2], int):
        return None
    return x if v.shape == (shape[0], shape[1] * shape[2], *shape[3:]) else None
