"""Simplification of data movement: what two moves do in one, and what does nothing in none."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim, Shape, product
from whet.passes.gathers import gather_elements_of_count, gather_nd_of_counts, gather_of_count
from whet.passes.rewrite import Result, Rewriter, made_by


def simplify(graph: Graph) -> None:
    """Apply the rules of this file once over the graph."""
    Rewriter(graph).run({
        "matmul": [unflatten], "reshape": [reshape_of_reshape, transpose_between_reshapes, reshape_of_slice],
        "transpose": [transpose_of_transpose, transpose_of_ones],
        "slice": [full_slice, slice_of_slice, slice_of_concat],
        "concat": [short_concat, concat_of_slices],
        "expand": [expand_of_expand], "pad": [empty_pad], "gather": [gather_of_count],
        "gather_nd": [gather_nd_of_counts], "gather_elements": [gather_elements_of_count],
        "reduce": [reduce_of_ones, reduce_of_reduce], "resize": [resize_of_cast],
    })


BYTES = frozenset({DType.U8, DType.I8, DType.U16, DType.I16})  # that float32 holds exactly


def resize_of_cast(rw: Rewriter, node: Node) -> Result:
    """Pixels are read as the bytes that they are: interpolated into float32, or moved before they are widened."""
    inner = made_by(node.input(0), "cast")
    if inner is None or node.input(0).dtype is not DType.F32 or inner.input(0).dtype not in BYTES:
        return None
    if node.attrs["mode"] != "nearest":
        return rw.add("resize", inner.input(0), like=node, **{**node.attrs, "dtype": DType.F32})
    return rw.add("cast", rw.add("resize", inner.input(0), like=node, **node.attrs), like=inner, to=DType.F32)


def reshape_of_reshape(rw: Rewriter, node: Node) -> Result:
    """Only the last shape counts; a reshape to the shape that is there is nothing."""
    x, shape = node.input(0), node.output.shape
    if x.shape == shape:
        return x
    inner = made_by(x, "reshape")
    if inner is None:
        return None
    x = inner.input(0)
    return x if x.shape == shape else rw.add("reshape", x, like=node, shape=shape)


def transpose_of_transpose(rw: Rewriter, node: Node) -> Result:
    """Permutations compose; the identity is nothing."""
    x, perm = node.input(0), node.attrs["perm"]
    if tuple(perm) == tuple(range(len(perm))):
        return x
    inner = made_by(x, "transpose")
    if inner is None:
        return None
    both = tuple(inner.attrs["perm"][p] for p in perm)
    x = inner.input(0)
    return x if both == tuple(range(len(both))) else rw.add("transpose", x, like=node, perm=both)


def transpose_of_ones(rw: Rewriter, node: Node) -> Result:
    """A transpose that keeps the order of all dimensions but those of size 1 is a reshape."""
    x = node.input(0)
    order = [p for p in node.attrs["perm"] if x.shape[p] != 1]
    if order == sorted(order):
        return rw.add("reshape", x, like=node, shape=node.output.shape)
    return None


def regroup(old: Shape, new: Shape) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """How a reshape maps dimensions: pairs (old dims, new dims) with equal products, as fine as can be told.

    Dimensions of size 1 join a neighbouring group (or one of their own with nothing on the other side).
    None where the groups cannot be told.
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [], []
        pa: Dim = 1
        pb: Dim = 1
        if i < len(old):
            a.append(i)
            pa, i = old[i], i + 1
        if j < len(new) and not (pa == 1 and a and new[j] != 1):
            b.append(j)
            pb, j = new[j], j + 1
        if a and not b and pa == 1:
            groups.append((tuple(a), ()))
            continue
        if b and pb == 1 and pa != 1:
            groups.append(((), tuple(b)))
            i -= len(a)
            continue
        while pa != pb:
            if j < len(new) and _divides(pb, pa):
                b.append(j)
                pb, j = pb * new[j], j + 1
            elif i < len(old) and _divides(pa, pb):
                a.append(i)
                pa, i = pa * old[i], i + 1
            else:
                return None
        groups.append((tuple(a), tuple(b)))
    return groups


def _divides(a: Dim, b: Dim) -> bool:
    """True if a is known to divide b, and is not b."""
    if isinstance(a, int) and isinstance(b, int):
        return a != 0 and b % a == 0
    return a != b and (b // a) * a == b if a != 0 else False


def transpose_between_reshapes(rw: Rewriter, node: Node) -> Result:
    """reshape(transpose(reshape(x))) where the reshapes only merge and split dims that travel together."""
    t = made_by(node.input(0), "transpose")
    inner = made_by(t.input(0), "reshape") if t else None
    if t is None or inner is None or not rw.once(t.output):
        return None
    x = inner.input(0)
    groups = regroup(x.shape, inner.output.shape)
    if groups is None:
        return None
    source: dict[int, tuple[int, ...]] = {}
    for a, b in groups:
        if len(b) != 1:
            return None
        source[b[0]] = a
    perm = tuple(d for p in t.attrs["perm"] for d in source[p])
    shape = tuple(x.shape[p] for p in perm)
    if shape == node.output.shape and len(perm) == x.rank:
        return rw.add("transpose", x, like=node, perm=perm)
    return None


def unflatten(rw: Rewriter, node: Node) -> Result:
    """matmul(reshape(x, [rows, K]), w) is a reshape of the matmul with x's own leading dimensions: that reshape
    then meets the one that undoes it."""
    flat = made_by(node.input(0), "reshape")
    if flat is None or node.input(1).rank != 2 or node.input(0).rank != 2:
        return None
    x = flat.input(0)
    groups = regroup(x.shape, flat.output.shape)
    if groups is None or [b for _, b in groups] != [(0,), (1,)] or len(groups[0][0]) < 2:
        return None
    wide = (*(x.shape[a] for a in groups[0][0]), flat.output.shape[1])
    x = x if x.shape == wide else rw.add("reshape", x, like=node, shape=wide)
    y = rw.add("matmul", x, node.input(1), like=node, **node.attrs)
    return rw.add("reshape", y, like=node, shape=node.output.shape)


def reshape_of_slice(rw: Rewriter, node: Node) -> Result:
    """A reshape that splits the sliced last dimension, moved before the slice where a boundary allows.

    [.., 3*H*D] -> slice -> [.., H, D] becomes [.., 3*H, D] -> slice: the reshape is then of dense data,
    and slices of the same tensor share it.
    """
    s = made_by(node.input(0), "slice")
    if s is None:
        return None
    x, cut, out = s.input(0), s.output, node.output.shape
    axis = x.rank - 1
    if x.shape[:-1] != cut.shape[:-1] or out[:axis] != cut.shape[:-1] or len(out) <= x.rank:
        return None
    start, step, whole = s.attrs["starts"][axis], s.attrs["steps"][axis], x.shape[axis]
    inner = product(out[axis + 1:])
    if step != 1 or not all(isinstance(d, int) for d in (inner, start, whole)) or inner == 0:
        return None
    if start % inner or whole % inner:
        return None
    split = rw.add("reshape", x, like=node, shape=(*out[:axis], whole // inner, *out[axis + 1:]))
    return rw.add("slice", split, like=node, starts=(*(0,) * axis, start // inner, *(0,) * (len(out) - axis - 1)),
                  sizes=out, steps=(1,) * len(out))


def full_slice(rw: Rewriter, node: Node) -> Result:
    """A slice that takes everything in order."""
    x = node.input(0)
    whole = all(st == 1 for st in node.attrs["steps"]) and all(st == 0 for st in node.attrs["starts"])
    return x if whole and x.shape == node.output.shape else None


def slice_of_slice(rw: Rewriter, node: Node) -> Result:
    """Starts add up, steps multiply."""
    inner = made_by(node.input(0), "slice")
    if inner is None:
        return None
    a, b = inner.attrs, node.attrs
    return rw.add("slice", inner.input(0), like=node, sizes=b["sizes"],
                  starts=tuple(s + t * k for s, t, k in zip(a["starts"], b["starts"], a["steps"])),
                  steps=tuple(s * t for s, t in zip(a["steps"], b["steps"])))


def slice_of_concat(rw: Rewriter, node: Node) -> Result:
    """A slice that lies within one operand of a concat reads that operand."""
    c = made_by(node.input(0), "concat")
    if c is None:
        return None
    axis = c.attrs["axis"]
    start, size, step = (node.attrs[k][axis] for k in ("starts", "sizes", "steps"))
    if not (isinstance(start, int) and isinstance(size, int) and step == 1):
        return None
    at = 0
    for v in c.inputs:
        assert v is not None
        n = v.shape[axis]
        if not isinstance(n, int):
            return None
        if at <= start and start + size <= at + n:
            starts = (*node.attrs["starts"][:axis], start - at, *node.attrs["starts"][axis + 1:])
            return rw.add("slice", v, like=node, starts=starts, sizes=node.attrs["sizes"], steps=node.attrs["steps"])
        at += n
    return None


def short_concat(rw: Rewriter, node: Node) -> Result:
    """A concat without its empty operands, of one operand, or of concats along the same axis."""
    axis = node.attrs["axis"]
    flat: list[Value] = []
    for v in node.inputs:
        assert v is not None
        inner = made_by(v, "concat")
        if v.shape[axis] == 0 and node.output.shape[axis] != 0:
            continue
        if inner and inner.attrs["axis"] == axis and rw.once(v):
            flat += [x for x in inner.inputs if x is not None]
        else:
            flat.append(v)
    if len(flat) == 1:
        return flat[0]
    return rw.add("concat", *flat, like=node, axis=axis) if flat != node.inputs else None


def concat_of_slices(rw: Rewriter, node: Node) -> Result:
    """Neighbouring slices of one tensor, put together again along the axis they were cut."""
    axis = node.attrs["axis"]
    flat: list[Value] = []
    for v in node.inputs:
        assert v is not None
        a = made_by(flat[-1], "slice") if flat else None
        b = made_by(v, "slice")
        if a and b and a.input(0) is b.input(0) and _adjacent(a, b, axis):
            sizes = list(a.attrs["sizes"])
            sizes[axis] = sizes[axis] + b.attrs["sizes"][axis]
            flat[-1] = rw.add("slice", a.input(0), like=node, starts=a.attrs["starts"], sizes=tuple(sizes),
                              steps=a.attrs["steps"])
        else:
            flat.append(v)
    if len(flat) == len(node.inputs):
        return None
    return flat[0] if len(flat) == 1 else rw.add("concat", *flat, like=node, axis=axis)


def _adjacent(a: Node, b: Node, axis: int) -> bool:
    if any(s != 1 for s in (*a.attrs["steps"], *b.attrs["steps"])):
        return False
    others = [i for i in range(len(a.attrs["starts"])) if i != axis]
    return (all(a.attrs[k][i] == b.attrs[k][i] for k in ("starts", "sizes") for i in others)
            and a.attrs["starts"][axis] + a.attrs["sizes"][axis] == b.attrs["starts"][axis])


def expand_of_expand(rw: Rewriter, node: Node) -> Result:
    """Only the last shape counts; an expand to the shape that is there is nothing."""
    x = node.input(0)
    if x.shape == node.output.shape:
        return x
    inner = made_by(x, "expand")
    return rw.add("expand", inner.input(0), like=node, shape=node.output.shape) if inner else None


def empty_pad(rw: Rewriter, node: Node) -> Result:
    """A pad by nothing."""
    return node.input(0) if all(p == 0 for p in node.attrs["pads"]) else None


def reduce_of_ones(rw: Rewriter, node: Node) -> Result:
    """A reduction over dimensions of size 1 (or none) is a reshape."""
    x = node.input(0)
    if all(x.shape[a] == 1 for a in node.attrs["axes"]) and x.dtype is node.output.dtype:
        return rw.add("reshape", x, like=node, shape=node.output.shape)
    return None


def reduce_of_reduce(rw: Rewriter, node: Node) -> Result:
    """Two sums, means, maxima, minima or products with kept dimensions in one."""
    inner = made_by(node.input(0), "reduce")
    if (inner is None or inner.attrs["kind"] != node.attrs["kind"] or not rw.once(inner.output)
            or not inner.attrs["keepdims"]):
        return None
    axes = tuple(sorted({*inner.attrs["axes"], *node.attrs["axes"]}))
    if set(inner.attrs["axes"]) & set(node.attrs["axes"]):
        return None
    one = rw.add("reduce", inner.input(0), like=node, kind=node.attrs["kind"], axes=axes, keepdims=True)
    return one if one.shape == node.output.shape else rw.add("reshape", one, like=node, shape=node.output.shape)
