"""Weights of a few bits stay so: a product by what is dequantized from constants becomes `matmul_grouped`.

`recognize` comes first of all passes, so that constant folding does not widen such weights before. It sees
`dequantize_grouped` (a scale per group of rows); what no product reads is written out as arithmetic.
`keep_codes` sees `dequantize` (a scale in all or per column) where the other operand is a float that is no
dequantized tensor: else the product is one of integers, which the pass `integer` makes.
"""

from __future__ import annotations

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_grouped import CODES
from whet.passes.rewrite import Result, Rewriter, made_by

MOVES = ("reshape", "transpose", "slice", "expand", "concat", "pad", "pool")  # what codes may pass unchanged


def recognize(graph: Graph) -> None:
    """Products by constants with a scale per group, in place."""
    if any(n.op == "dequantize_grouped" for n in graph.nodes):
        Rewriter(graph).run({"matmul": [product_by_groups]})
        Rewriter(graph).run({"dequantize_grouped": [written_out]})


def keep_codes(graph: Graph) -> None:
    """Products of floats by constants with a scale per column, in place."""
    if any(n.op == "dequantize" for n in graph.nodes):
        Rewriter(graph).run({"matmul": [product_by_columns]})


def product_by_groups(rw: Rewriter, node: Node) -> Result:
    """matmul(a, dequantize_grouped(q, scale, zero))."""
    found = _weights(node, "dequantize_grouped")
    return None if found is None else _product(rw, node, found.inputs, found.attrs["group"])


def product_by_columns(rw: Rewriter, node: Node) -> Result:
    """matmul(a, dequantize(q, scale, zero)) with a scale in all or per column."""
    found = _weights(node, "dequantize")
    if found is None or _has_codes(node.input(0)):
        return None
    q, scale, zero = (v.data for v in found.inputs if v is not None)
    assert q is not None
    assert scale is not None
    assert zero is not None
    depth, columns = q.shape
    if found.input(0).dtype not in CODES or depth == 0 or columns == 0:
        return None
    try:
        row = np.broadcast_to(scale.astype(np.float32), (1, columns)), np.broadcast_to(zero, (1, columns))
    except ValueError:  # a scale per row
        return None
    operands: list[Value | None] = [found.input(0), rw.graph.const(np.ascontiguousarray(row[0]), DType.F32)]
    if np.any(zero.astype(np.int16)):
        operands.append(rw.graph.const(np.ascontiguousarray(row[1]), found.input(0).dtype))
    return _product(rw, node, operands, depth)


def _weights(node: Node, op: str) -> Node | None:
    """The dequantization of constants [K, N] that a matmul's second operand is, maybe transposed twice or cast."""
    v, flipped = node.input(1), False
    while (p := made_by(v, "cast", "transpose")) is not None and v.rank == 2 and v.dtype.is_float:
        flipped ^= p.op == "transpose" and p.attrs["perm"] == (1, 0)
        v = p.input(0)
    p = made_by(v, op)
    if p is None or flipped or v.rank != 2 or node.output.dtype not in (DType.F32, DType.F16, DType.BF16):
        return None
    if node.input(0).is_const or any(x is None or x.data is None for x in p.inputs):
        return None
    return p


def _has_codes(v: Value) -> bool:
    """True if v is a dequantized tensor, or one that only moves its elements."""
    todo, seen = [v], set()
    while todo:
        p = todo.pop().producer
        if p is None or id(p) in seen:
            continue
        seen.add(id(p))
        if p.op == "dequantize":
            return True
        if p.op in MOVES:
            todo += [x for x in p.inputs if x is not None]
    return False


def _product(rw: Rewriter, node: Node, weights: list[Value | None], group: int) -> Value:
    a, to = node.input(0), node.output.dtype
    if a.dtype is not DType.F32:
        a = rw.add("cast", a, like=node, to=DType.F32)
    y = rw.add("matmul_grouped", a, *weights, like=node, group=group)
    return y if to is DType.F32 else rw.add("cast", y, like=node, to=to)


def written_out(rw: Rewriter, node: Node) -> Result:
    """(q - zero) * scale as pointwise arithmetic, on blocks of rows where they come out even."""
    q, scale, zero = (*node.inputs, None)[:3]
    assert q is not None
    assert scale is not None
    assert q.data is not None
    (depth, columns), group = q.data.shape, node.attrs["group"]
    even = depth % group == 0
    x = rw.add("cast", q, like=node, to=DType.F32)
    if even:
        x = rw.add("reshape", x, like=node, shape=(depth // group, group, columns))

    def spread(v: Value) -> Value:
        assert v.data is not None
        if even:
            return rw.graph.const(v.data[:, None, :], v.dtype)
        return rw.graph.const(v.data[np.arange(depth) // group], v.dtype)

    if zero is not None:
        x = rw.add("sub", x, rw.add("cast", spread(zero), like=node, to=DType.F32), like=node)
    x = rw.add("mul", x, spread(scale), like=node)
    return rw.add("reshape", x, like=node, shape=(depth, columns)) if even else x
