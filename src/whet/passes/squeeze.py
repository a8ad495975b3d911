"""The mean over an image's pixels, of what a depthwise convolution gives, is a second result of the convolution.

Squeeze-and-excitation reads all that a depthwise convolution has written once more, for its mean. Programs of the
convolution have the elements in registers: each adds up its own, and a small kernel adds up the programs' sums (none is
needed where one program has all pixels of a channel). Works on regions, after `precision`.
"""

from __future__ import annotations

from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf, Term
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import is_static

FLOATS = (DType.F32, DType.F16, DType.BF16)
TAPS = 64  # of a window that the kernel takes


def attach(graph: Graph) -> None:
    """Rewrite a graph of regions in place, for a target whose depthwise convolutions give the mean."""
    uses = graph.uses()
    gone: set[int] = set()
    for n in graph.nodes:
        if not _gives_mean(n):
            continue
        y = n.outputs[0]
        mean = next((r for r in uses.get(y, []) if _is_mean(r, y)), None)
        if mean is None:
            continue
        result = mean.outputs[0]
        n.outputs.append(result)
        result.producer, result.index = n, 1
        region: Region = n.attrs["region"]
        n.attrs["region"] = replace(region, attrs={**region.attrs, "mean": True},
                                    extra_outputs=(Tensor.dense(result.dtype, result.shape),))
        gone.add(id(mean))
    graph.nodes = [n for n in graph.nodes if id(n) not in gone]
    graph.sort()


def _gives_mean(n: Node) -> bool:
    """True for a depthwise convolution of floats, channels last."""
    region: Region | None = n.attrs.get("region")
    if region is None or region.kind != "conv" or region.extra_outputs or region.prologue:
        return False
    x, w = region.inputs[:2]
    if not region.attrs.get("channels_last") or not is_static(w.shape) or not isinstance(x.shape[-1], int):
        return False
    taps = 1
    for d in w.shape[2:]:
        taps *= int(d)  # type: ignore[arg-type]
    return (region.attrs["group"] > 1 and w.shape[1] == 1 and len(w.shape) <= 4 and taps <= TAPS
            and all(t.dtype in FLOATS for t in (x, w, region.anchor, region.output)))


def _is_mean(n: Node, y: Value) -> bool:
    """True for the mean of y over its spatial dimensions, as it is or rounded."""
    region: Region | None = n.attrs.get("region")
    if region is None or region.kind != "reduce" or n.inputs != [y] or region.prologue:
        return False
    axes = tuple(sorted(a % y.rank for a in region.attrs["axes"]))
    return (region.attrs["kind"] == "mean" and axes == tuple(range(1, y.rank - 1)) and bool(region.attrs["keepdims"])
            and region.anchor.dtype is DType.F32 and region.output.dtype in FLOATS
            and (region.epilogue is None or _rounds(region.epilogue)))


def _rounds(e: Expr) -> bool:
    """True for an expression that casts the anchor's result, or changes nothing."""
    def allowed(t: Term) -> bool:
        return t.source == ANCHOR if isinstance(t, Leaf) else isinstance(t, Apply) and t.op == "cast"

    return all(allowed(t) and t.dtype in FLOATS for t in e.terms)
