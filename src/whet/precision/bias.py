"""Bias correction: the mean by which rounding shifts a layer's outputs is taken off its bias.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through weight equalization and bias
correction", ICCV 2019: rounding changes the weights by e = q(W) - W, so the outputs' mean by sum(e * E[x]).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node
from whet.precision.insert import Layer, layers, weight_codes
from whet.precision.stats import at_input


def shift(node: Node, codes: np.ndarray, scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[O]: by how much a layer's mean outputs change with the weights `codes * scale`; mean [I]: of its input channels.

    Windows of a convolution that reach over its border see zeros there, which this leaves out.
    """
    w = node.input(1).data
    assert w is not None
    error = codes.astype(np.float64) * scale - w
    if node.op != "conv":
        return mean @ error
    groups, o = node.attrs["group"], w.shape[0]
    split = error.reshape(groups, o // groups, w.shape[1], -1).sum(axis=-1)  # [g, O/g, I/g]
    return np.einsum("goi,gi->go", split, mean.reshape(groups, -1)).reshape(o)


def shifts(graph: Graph, means: Mapping[str, np.ndarray],
           codes: Mapping[str, np.ndarray] | None = None, dtype: DType = DType.I8) -> dict[str, np.ndarray]:
    """[O] for each layer of a prepared graph whose input's channel means are known (`stats.means`), by layer.

    codes: weights that were rounded otherwise than `weight_codes` does, by layer. dtype: of activations' codes.
    """
    out = {}
    for l in layers(graph):
        if l.reason:
            continue
        n, w = l.node, l.node.input(1).data
        mean = at_input(n.input(0), means, 1 if n.op == "conv" else n.input(0).rank - 1)
        if mean is None or w is None:
            continue
        nearest, scale = weight_codes(w, 0 if n.op == "conv" else 1, DType.I8 if dtype is DType.U8 else dtype)
        out[l.name] = shift(n, (codes or {}).get(l.name, nearest), scale, mean)
    return out


def correct(graph: Graph, by: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Take these shifts [O] off the layers' results, in place; returns the largest correction by layer.

    by: `shifts` of the layers that are quantized, or the measured difference of mean outputs (`measured`). Works before
    and after `insert`; layers of other names are left alone.
    """
    done = {}
    for l in layers(graph):
        s = by.get(l.name)
        if s is None or not np.isfinite(s).all() or not np.any(s):
            continue
        if l.node.op == "conv" and (len(l.node.inputs) < 3 or l.node.inputs[2] is None or l.node.input(2).is_const):
            _into_bias(graph, l, s)
        else:
            _behind(graph, l, s)
        done[l.name] = float(np.abs(s).max())
    graph.sort()
    return done


def measured(real: Mapping[str, np.ndarray], quantized: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The empirical shifts: of the mean outputs by channel of layers, with and without quantization, by layer.

    Includes what clipping does and what earlier layers pass on: correct from the front, or all and measure again.
    """
    return {n: np.asarray(q, np.float64) - real[n] for n, q in quantized.items() if n in real}


def _into_bias(graph: Graph, l: Layer, s: np.ndarray) -> None:
    node = l.node
    old = node.inputs[2].data if len(node.inputs) > 2 and node.inputs[2] is not None else None
    bias = (-s if old is None else old.astype(np.float64) - s).astype(node.output.dtype.np)
    node.inputs = [*node.inputs[:2], graph.const(bias, node.output.dtype)]


def _behind(graph: Graph, l: Layer, s: np.ndarray) -> None:
    """An addition that everybody reads instead of the layer (fusion makes it part of the layer)."""
    node = l.node
    out = node.output
    along = s if node.op != "conv" else s.reshape(-1, *[1] * (out.rank - 2))
    readers = graph.uses().get(out, [])
    moved = graph.add("add", [out, graph.const((-along).astype(out.dtype.np), out.dtype)], origin=node.origin)
    for n in readers:
        n.inputs = [moved if v is out else v for v in n.inputs]
    graph.outputs = [moved if v is out else v for v in graph.outputs]
