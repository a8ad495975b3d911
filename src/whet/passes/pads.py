"""Pad folding: padding that the next convolution or pool can do itself.

A convolution pads with zero. An average pool that counts its padding does too. A max pool pads with minus
infinity, so a pad of minus infinity folds, and a zero pad does where nothing pooled is negative (after a
relu) and no window lies in the padding alone.
"""

from __future__ import annotations

import math

from whet.ir.graph import Graph, Node
from whet.ir.symbolic import Dim
from whet.passes.algebra import not_negative
from whet.passes.rewrite import Result, Rewriter, made_by


def fold_pads(graph: Graph) -> None:
    """Move constant spatial padding into the operator that follows."""
    Rewriter(graph).run({"conv": [into_conv], "pool": [into_pool]})


def _spatial(node: Node) -> tuple[Node, list[int], float] | None:
    """(the pad, its spatial pads as begins then ends, its value) before a channels-first node, if it can fold."""
    pad = made_by(node.input(0), "pad")
    if pad is None or pad.attrs.get("mode", "constant") != "constant" or node.attrs.get("channels_last"):
        return None
    pads: list[Dim] = list(pad.attrs["pads"])
    rank = pad.output.rank
    if any(not isinstance(p, int) or p < 0 for p in pads) or any(pads[i] or pads[rank + i] for i in (0, 1)):
        return None
    spatial = [p for p in (*pads[2:rank], *pads[rank + 2:]) if isinstance(p, int)]
    return pad, spatial, float(pad.attrs.get("value", 0))


def into_conv(rw: Rewriter, node: Node) -> Result:
    """conv(pad(x, v)) pads by itself where v is what it pads with: 0, or the zero point of codes."""
    found = _spatial(node)
    if found is None or found[2] != (node.attrs["pad_value"] if any(node.attrs["pads"]) else 0):
        return None
    pad, extra, _ = found
    attrs = {**node.attrs, "pads": tuple(a + b for a, b in zip(node.attrs["pads"], extra))}
    return rw.add("conv", pad.input(0), *node.inputs[1:], like=node, **attrs)


def into_pool(rw: Rewriter, node: Node) -> Result:
    """pool(pad(x, v)) pads by itself where v is what it pads with."""
    found = _spatial(node)
    a = node.attrs
    if found is None or a.get("ceil_mode"):
        return None
    pad, extra, value = found
    x = pad.input(0)
    pads = tuple(p + q for p, q in zip(a["pads"], extra))
    if a["kind"] == "max":
        some_real = all(p < k and d == 1 for p, k, d in zip(pads, (*a["kernel"],) * 2, (*a["dilations"],) * 2))
        if value != -math.inf and not (value == 0 and some_real and not_negative(x) and not any(a["pads"])):
            return None
        return rw.add("pool", x, like=node, **{**a, "pads": pads})
    if a["kind"] == "average" and value == 0 and (a["count_include_pad"] or not any(a["pads"])):
        return rw.add("pool", x, like=node, **{**a, "pads": pads, "count_include_pad": True})
    return None
