"""Attention of few rows and its output projection become one region, whose parts the norm behind them adds up.

At batch 1 the projection y = a W of attention's result a (heads side by side) has too few tiles, and is divided along
its depth (`partial_sums`). Its natural parts are the heads: with a_h [rows, e] of head h and W_h its rows of W,

    P[h] = a_h @ W_h     in fp32, one region `attention_parts` that works out a_h, too
    norm(epilogue(P[0] + P[1] + ...))

so that a launch is saved, and what attention gives is never written. Works on regions after `precision`, as
`partial_sums` does, which calls it; a_h is rounded to the type of the products, as it was stored before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import is_static

FUSED = True  # False: attention and its projection stay two regions
COMPUTES = ("f16", "bf16")
FLOATS = (DType.F32, DType.F16, DType.BF16)
ROWS = 16  # queries of the smallest tile
MOST_HEADS = 16  # parts that a norm adds up
WIDEST = 256  # elements of a head that the kernel takes
_W = 3  # the index of the weights among the operands


@dataclass(frozen=True)
class Found:
    """A projection whose operand is attention's result: the attention, and the views between the two."""

    attention: Node
    views: Sequence[Node]


def find(product: Node, uses: Mapping[Value, Sequence[Node]], outside: Collection[Value], programs: float
         ) -> Found | None:
    """The attention of a product [rows, heads * e] @ W, if the two can be one region and its smallest tiles are at most
    so many `programs`. What the product itself must be, `partial_sums` says."""
    if not FUSED:
        return None
    views: list[Node] = []
    v = product.input(0)
    while len(uses.get(v, ())) == 1 and v not in outside and v.producer is not None:
        n = v.producer
        if n.op not in ("reshape", "transpose"):
            region: Region | None = n.attrs.get("region")
            fits = region is not None and _fuses(n, region, product, programs) and _side_by_side(n, views, product)
            return Found(n, views) if fits else None
        views.append(n)
        v = n.input(0)
    return None


def fuse(graph: Graph, product: Node, found: Found) -> Value:
    """The parts [heads, rows, columns] in fp32, of a new region."""
    n, w = found.attention, product.input(1)
    region: Region = n.attrs["region"]
    _, heads, rows, e = n.output.shape
    columns = w.shape[1]
    cut = graph.add("reshape", [w], {"shape": (heads, e, columns)}, origin=product.origin)  # a view of the constant
    out = Tensor.dense(DType.F32, (1, heads, rows, columns))
    attrs = dict(region.attrs)
    if "absent" in attrs:
        attrs["absent"] = tuple(i + (i >= _W) for i in attrs["absent"])
    tensors = (*region.inputs[:_W], Tensor.dense(cut.dtype, cut.shape, const=True), *region.inputs[_W:])
    made = Region("attention_parts", attrs, tensors, len(tensors), out, out, compute=region.compute)
    result = graph.add("region", [*n.inputs[:_W], cut, *n.inputs[_W:]], {"region": made}, origin=product.origin,
                       hint=f"{product.output.name}.heads")
    assert result.producer is not None
    result.producer.compute = product.compute
    return graph.add("reshape", [result], {"shape": (heads, rows, columns)}, origin=product.origin)


def _fuses(n: Node, region: Region, product: Node, programs: float) -> bool:
    """True for an attention that the kernel takes, of few tiles, with products like the projection's."""
    q, k, v = region.inputs[:3] if region.kind == "attention" else (region.output,) * 3
    if (region.kind != "attention" or region.compute not in COMPUTES
            or region.compute != product.attrs["region"].compute or region.dims or region.prologue
            or len(region.inputs) != region.n_anchor or region.anchor.dtype is not DType.F32
            or any(t.dtype not in FLOATS for t in (q, k, v, region.output)) or not _rounds(region.epilogue)
            or not all(is_static(t.shape) for t in region.inputs)):
        return False
    batch, heads, rows, e = n.output.shape
    d = q.shape[3]
    assert isinstance(d, int)
    assert isinstance(e, int)
    assert isinstance(heads, int)
    assert isinstance(rows, int)
    return (batch == 1 and heads * -(-rows // ROWS) <= programs and 1 < heads <= MOST_HEADS
            and q.shape[1] == k.shape[1] == v.shape[1] == heads and max(d, e) <= WIDEST)


def _rounds(e: Expr | None) -> bool:
    """True for an epilogue that at most rounds."""
    return e is None or all(t.source == ANCHOR if isinstance(t, Leaf) else isinstance(t, Apply) and t.op == "cast"
                            for t in e.terms)


def _side_by_side(n: Node, views: Sequence[Node], product: Node) -> bool:
    """True if the product's operand, seen through `views` (the last first), is [.., rows, heads * e] of attention's
    [1, heads, rows, e]."""
    _, heads, rows, e = n.output.shape
    assert isinstance(heads, int)
    assert isinstance(rows, int)
    assert isinstance(e, int)
    if product.input(0).shape[-1] != heads * e:
        return False
    numbers = np.arange(heads * rows * e, dtype=np.int32).reshape(1, heads, rows, e)
    x: np.ndarray = numbers
    for view in reversed(views):
        x = x.reshape([int(d) for d in view.output.shape if isinstance(d, int)]) if view.op == "reshape" \
            else x.transpose(view.attrs["perm"])
    return np.array_equal(x.reshape(rows, heads * e), numbers[0].transpose(1, 0, 2).reshape(rows, heads * e))
