"""Transpose sinking: transposes move down through whatever does not mind, until they meet and cancel.

A node over transposed operands becomes the node over the operands as they were, its axes renamed, and a
transpose of its result. Where other operands have to be transposed for that, it is done only if it costs
nothing (constants, sizes of 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.ir.symbolic import Shape, is_static, product
from whet.passes.movement import regroup, transpose_of_ones, transpose_of_transpose
from whet.passes.rewrite import Result, Rewriter, Rule, aligned, made_by


def sink(graph: Graph) -> None:
    """Move every transpose as far down as it goes; those that meet their inverse vanish."""
    rules: dict[str, list[Rule]] = {
        "transpose": [transpose_of_transpose, transpose_of_ones], "reshape": [below_reshape],
        "concat": [below_concat], "reduce": [below_reduce], "arg": [below_reduce], "softmax": [below_axis],
        "cumsum": [below_axis], "cumprod": [below_axis], "slice": [below_per_dim], "pad": [below_pad],
        "expand": [below_per_dim], "resize": [below_resize], "matmul": [into_weights],
    }
    for op in POINTWISE:
        rules.setdefault(op, []).append(below_pointwise)
    Rewriter(graph).run(rules)
    Rewriter(graph).run({"transpose": [above_input_arithmetic]})


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes perm."""
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def permuted(shape: Sequence[object], perm: Sequence[int]) -> tuple:
    """shape as a transpose by perm leaves it."""
    return tuple(shape[p] for p in perm)


def undone(rw: Rewriter, v: Value, perm: tuple[int, ...], node: Node) -> Value | None:
    """The value whose transpose by perm is v, if that costs nothing: v is such a transpose, a constant, or
    has ones where it matters. Values of one element stay as they are."""
    t = made_by(v, "transpose")
    if t is not None and tuple(t.attrs["perm"]) == perm:
        return t.input(0)
    if all(d == 1 for d in v.shape):
        return v
    back = inverse(perm)
    full = aligned(v.shape, len(perm))
    order = [p for p in back if full[p] != 1]
    if v.data is None and order != sorted(order):
        return None
    wide = v if v.rank == len(perm) else rw.add("reshape", v, like=node, shape=full)
    if order == sorted(order):
        return rw.add("reshape", wide, like=node, shape=permuted(full, back))
    return rw.add("transpose", wide, like=node, perm=back)


def _perms(node: Node) -> list[tuple[int, ...]]:
    """The permutations of transposed operands of the result's rank, the largest operand's first."""
    found = [tuple(t.attrs["perm"]) for v in node.inputs if (t := made_by(v, "transpose"))
             and t.output.rank == node.output.rank]
    return sorted(set(found), key=lambda p: (-found.count(p), p))


def below_pointwise(rw: Rewriter, node: Node) -> Result:
    """f(transpose(a), transpose(b)) is transpose(f(a, b))."""
    for perm in _perms(node):
        ins = [undone(rw, v, perm, node) for v in node.inputs if v is not None]
        if all(v is not None for v in ins):
            return rw.add("transpose", rw.add(node.op, *ins, like=node, **node.attrs), like=node, perm=perm)
    return None


def below_concat(rw: Rewriter, node: Node) -> Result:
    """A concat of transposed operands joins them along the axis as it was."""
    for perm in _perms(node):
        ins: list[Value] = []
        for v in node.inputs:
            assert v is not None
            x = undone(rw, v, perm, node)
            if x is None:
                break
            ins.append(x)
        else:
            if len({x.rank for x in ins}) == 1:
                y = rw.add("concat", *ins, like=node, axis=perm[node.attrs["axis"]])
                return rw.add("transpose", y, like=node, perm=perm)
    return None


def _source(node: Node) -> tuple[Value, tuple[int, ...]] | None:
    t = made_by(node.input(0), "transpose")
    return (t.input(0), tuple(t.attrs["perm"])) if t else None


def below_reduce(rw: Rewriter, node: Node) -> Result:
    """Reduced axes are renamed; dropped ones leave a smaller transpose."""
    found = _source(node)
    if found is None:
        return None
    x, perm = found
    axes = node.attrs["axes"] if node.op == "reduce" else (node.attrs["axis"],)
    gone = {perm[a] for a in axes}
    renamed = {"axes": tuple(sorted(gone))} if node.op == "reduce" else {"axis": perm[axes[0]]}
    y = rw.add(node.op, x, like=node, **{**node.attrs, **renamed})
    if not node.attrs["keepdims"]:
        left = [p for p in perm if p not in gone]
        perm = tuple(sorted(left).index(p) for p in left)
    return y if perm == tuple(range(len(perm))) else rw.add("transpose", y, like=node, perm=perm)


def below_axis(rw: Rewriter, node: Node) -> Result:
    """Operators along one axis follow it."""
    found = _source(node)
    if found is None:
        return None
    x, perm = found
    y = rw.add(node.op, x, *node.inputs[1:], like=node, **{**node.attrs, "axis": perm[node.attrs["axis"]]})
    return rw.add("transpose", y, like=node, perm=perm)


def below_per_dim(rw: Rewriter, node: Node) -> Result:
    """Attributes with one entry for each dimension are permuted back (slice, expand)."""
    found = _source(node)
    if found is None or node.output.rank != node.input(0).rank:
        return None
    x, perm = found
    back = inverse(perm)
    attrs = {k: permuted(v, back) for k, v in node.attrs.items()}
    return rw.add("transpose", rw.add(node.op, x, like=node, **attrs), like=node, perm=perm)


def below_pad(rw: Rewriter, node: Node) -> Result:
    """Begins and ends of a pad are permuted back."""
    found = _source(node)
    if found is None:
        return None
    x, perm = found
    back, rank = inverse(perm), len(perm)
    pads = node.attrs["pads"]
    moved = (*permuted(pads[:rank], back), *permuted(pads[rank:], back))
    y = rw.add("pad", x, *node.inputs[1:], like=node, **{**node.attrs, "pads": moved})
    return rw.add("transpose", y, like=node, perm=perm)


def below_resize(rw: Rewriter, node: Node) -> Result:
    """A resize's sizes and scales are permuted back."""
    found = _source(node)
    if found is None:
        return None
    x, perm = found
    back, rank = inverse(perm), len(perm)
    attrs = dict(node.attrs)
    for k, v in node.attrs.items():
        if not isinstance(v, (tuple, list)) or not v:
            continue
        if len(v) == rank:
            attrs[k] = permuted(v, back)
        elif len(v) == 2 * rank:
            attrs[k] = (*permuted(v[:rank], back), *permuted(v[rank:], back))
        else:
            return None
    return rw.add("transpose", rw.add("resize", x, like=node, **attrs), like=node, perm=perm)


def below_reshape(rw: Rewriter, node: Node) -> Result:
    """A reshape that splits dimensions, or merges ones that also were neighbours before the transpose.

    The merge of others (a channel shuffle) is split into the transpose that makes them neighbours and one
    that comes after, where that one then meets its inverse.
    """
    found = _source(node)
    groups = regroup(node.input(0).shape, node.output.shape) if found else None
    if found is None or groups is None:
        return None
    x, perm = found
    order = sorted(range(len(groups)), key=lambda g: min((perm[a] for a in groups[g][0]), default=len(perm)))
    first = tuple(perm[a] for g in order for a in groups[g][0])
    after = tuple(d for g in order for d in groups[g][1])
    perm_after = inverse(after)
    if first != tuple(range(len(first))) and not _meets(rw, node, perm_after):
        return None
    moved = x if first == tuple(range(len(first))) else rw.add("transpose", x, like=node, perm=first)
    y = rw.add("reshape", moved, like=node, shape=permuted(node.output.shape, after))
    return rw.add("transpose", y, like=node, perm=perm_after)


def _meets(rw: Rewriter, node: Node, perm: tuple[int, ...]) -> bool:
    """True if all readers of the node's result transpose perm away."""
    readers = rw.uses(node.output)
    return bool(readers) and all(r.op == "transpose" and tuple(r.attrs["perm"]) == inverse(perm) for r in readers)


def above_input_arithmetic(rw: Rewriter, node: Node) -> Result:
    """transpose(f(input, constants)) is f(transpose(input), ..): normalizing an image then writes it transposed."""
    return _hoisted(rw, node.input(0), tuple(node.attrs["perm"]), node) if made_by(node.input(0), *POINTWISE) else None


def _hoisted(rw: Rewriter, v: Value, perm: tuple[int, ...], node: Node) -> Value | None:
    """The transpose of v, taken at the graph input that it is computed from by pointwise operators alone."""
    p = v.producer
    if p is None:
        return rw.add("transpose", v, like=node, perm=perm) if v.data is None else None
    if p.op not in POINTWISE or not rw.once(v):
        return None
    main = [x for x in p.inputs if x is not None and x.data is None]
    if len(main) != 1 or main[0].shape != v.shape:
        return None
    top = _hoisted(rw, main[0], perm, node)
    ins = [top if x is main[0] else undone(rw, x, inverse(perm), node) for x in p.inputs if x is not None]
    return rw.add(p.op, *ins, like=p, **p.attrs) if all(x is not None for x in ins) else None


def into_weights(rw: Rewriter, node: Node) -> Result:
    """matmul(flatten(transpose(x)), w) with constant w: the rows of w are permuted instead."""
    w = node.input(1)
    r = made_by(node.input(0), "reshape")
    t = made_by(r.input(0), "transpose") if r else None
    if w.data is None or w.rank != 2 or r is None or t is None:
        return None
    groups = regroup(t.output.shape, r.output.shape)
    if groups is None:
        return None
    perm = tuple(t.attrs["perm"])
    flat = groups[-1][0]
    head = t.output.rank - len(flat)
    shape: Shape = permuted(t.input(0).shape, [perm[a] for a in flat])
    if perm[:head] != tuple(range(head)) or not is_static(shape) or product(shape) != r.output.shape[-1]:
        return None
    rows = w.data.reshape(*(int(d) for d in shape if isinstance(d, int)), w.data.shape[1])
    order = inverse([perm[a] - head for a in flat])
    turned = np.ascontiguousarray(rows.transpose(*order, len(order))).reshape(w.data.shape)
    x = rw.add("reshape", t.input(0), like=node, shape=r.output.shape)
    return rw.add("matmul", x, rw.graph.const(turned, w.dtype), like=node, **node.attrs)
