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
    found, flipped = _weights(node, "dequantize_grouped")
    return None if found is None or flipped else _product(rw, node, found.inputs, found.attrs["group"])


def product_by_columns(rw: Rewriter, node: Node) -> Result:
    """matmul(a, dequantize(q, scale, zero)) with a scale in all or per column."""
    found, flipped = _weights(node, "dequantize")
    if found is None or found.input(0).dtype not in CODES or _has_codes(node.input(0)):
        return None
    arrays = [v.data for v in found.inputs if v is not None and v.data is not None]
    q, scale, zero = (a.T if flipped and a.ndim == 2 else a for a in arrays)
    depth, columns = q.shape
    try:
        scale, zero = (np.broadcast_to(a, (1, columns)) for a in (scale.astype(np.float32), zero))
    except ValueError:  # a scale per row
        return None
    if depth == 0 or (flipped and any(a.ndim == 1 for a in arrays)):
        return None
    operands: list[Value | None] = [_constant(rw, q, found.input(0).dtype), _constant(rw, scale, DType.F32)]
    if np.any(zero.astype(np.int16)):
        operands.append(_constant(rw, zero, found.input(0).dtype))
    return _product(rw, node, operands, depth)


def _constant(rw: Rewriter, a: np.ndarray, dtype: DType) -> Value:
    return rw.graph.const(np.ascontiguousarray(a), dtype)


def _weights(node: Node, op: str) -> tuple[Node | None, bool]:
    """The dequantization of a constant matrix that a matmul's second operand is, and whether it is transposed."""
    v, flipped = node.input(1), False
    while (p := made_by(v, "cast", "transpose")) is not None and v.rank == 2 and v.dtype.is_float:
        flipped ^= p.op == "transpose" and p.attrs["perm"] == (1, 0)
        v = p.input(0)
    p = made_by(v, op)
    if p is None or v.rank != 2 or node.output.dtype not in (DType.F32, DType.F16, DType.BF16):
        return None, flipped
    if node.input(0).is_const or any(x is None or x.data is None for x in p.inputs):
        return None, flipped
    return p, flipped


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
