"""Norms of embeddings read the rows of the tables themselves: no step gathers them, none adds them up.

A transformer begins with rows of tables (words, positions, kinds of token) or patches, their sum, and a norm of that,
which layers behind it may read beside the sum (the residual of those that normalize first). Each is a launch of a few
rows' work.
Here the sum becomes the norm's prologue, its result one that the norm writes, too, where others read it, and each
gather an operand that the prologue reads through its indices (`Region.picks`).

Works on regions after `precision`, for targets whose norms take that (GPUs).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.expr import identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import NORMS, Region, Tensor
from whet.passes.fuse import MAX_LEAVES, VIEWS


def absorb(graph: Graph) -> None:
    """Rewrite a graph of regions in place."""
    uses, outside = graph.uses(), graph.read_outside()
    gone: set[int] = set()
    for n in graph.nodes:
        region: Region | None = n.attrs.get("region")
        if (region is None or region.kind not in NORMS or region.anchor.dtype is not DType.F32 or region.picks
                or int(region.attrs["axis"]) % len(region.anchor.shape) != len(region.anchor.shape) - 1):
            continue
        if 0 not in region.prologue and not region.extra_outputs:
            gone |= _take_sum(n, uses, outside)
        gone |= _take_rows(n, uses, outside)
    if gone:
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        graph.sort()


def _take_sum(n: Node, uses: Mapping[Value, Sequence[Node]], outside: Collection[Value]) -> set[int]:
    """Let a norm compute its operand, if that is rows of a table or arithmetic of its own; the nodes that did."""
    x, region = n.input(0), n.attrs["region"]
    p = x.producer
    made: Region | None = p.attrs.get("region") if p is not None else None
    if p is None or made is None or len(p.outputs) != 1 or any(v is None or v.data is None for v in n.inputs[1:]):
        return set()  # what else the norm reads may depend on x, which others will get from the norm
    if made.kind == "pointwise" and made.epilogue is not None:
        e, leaves = made.epilogue, list(made.epilogue.leaves)
        if any(_turned(p.input(k)) for k in leaves):
            return set()
        values, tensors = [p.input(k) for k in leaves], [made.inputs[k] for k in leaves]
    elif _rows(x):
        e, leaves, values, tensors = identity(0, x.dtype), [0], [p.input(0)], [made.inputs[0]]
    else:
        return set()
    at = [0, *range(len(n.inputs), len(n.inputs) + len(leaves) - 1)]
    n.inputs = [values[0], *n.inputs[1:], *values[1:]]
    inputs = (tensors[0], *region.inputs[1:], *tensors[1:])
    picks: dict[int, int] = {}
    if made.kind == "gather":
        picks = {0: len(inputs)}
        n.inputs.append(p.input(1))
        inputs = (*inputs, made.inputs[1])
    written: tuple[Tensor, ...] = ()
    if len(uses[x]) > 1 or x in outside:
        written = (Tensor.dense(x.dtype, x.shape),)
        n.outputs.append(x)
        x.producer, x.index = n, 1
    n.attrs["region"] = replace(region, inputs=inputs, prologue={**region.prologue, 0: e.remap(dict(zip(leaves, at)))},
                                extra_outputs=written, picks=picks, dims={**region.dims, **made.dims})
    return {id(p)}


def _take_rows(n: Node, uses: Mapping[Value, Sequence[Node]], outside: Collection[Value]) -> set[int]:
    """Let a norm's prologue read through their indices the rows that it alone reads; the nodes that gathered them."""
    region: Region = n.attrs["region"]
    if 0 not in region.prologue:
        return set()
    gone: set[int] = set()
    others = {k for i, e in region.prologue.items() if i for k in e.leaves}
    others |= set(region.epilogue.leaves) if region.epilogue is not None else set()
    for k in region.prologue[0].leaves:
        v = n.input(k)
        p = v.producer
        if (not _rows(v) or p is None or k in others or k in range(1, region.n_anchor) or v in outside
                or len(uses[v]) != 1 or len(n.inputs) > MAX_LEAVES):
            continue
        made: Region = p.attrs["region"]
        inputs = list(region.inputs)
        inputs[k] = made.inputs[0]
        region = replace(region, inputs=(*inputs, made.inputs[1]), picks={**region.picks, k: len(inputs)},
                         dims={**region.dims, **made.dims})
        n.inputs[k] = p.input(0)
        n.inputs.append(p.input(1))
        gone.add(id(p))
    n.attrs["region"] = region
    return gone


def _turned(v: Value) -> bool:
    """True for what may not lie in memory row by row."""
    p = v.producer
    while p is not None and p.op in VIEWS and p.op not in ("concat", "transpose"):
        p = p.input(0).producer
    return p is not None and p.op == "transpose"


def _rows(v: Value) -> bool:
    """True for rows of a table by indices, of whole rows of what is normalized."""
    p = v.producer
    made: Region | None = p.attrs.get("region") if p is not None else None
    if p is None or made is None or made.kind != "gather" or made.attrs["axis"] != 0:
        return False
    table = p.input(0)
    return table.rank == 2 and table.data is not None and table.data.shape[0] > 0 and table.dtype.is_float
