"""A pair of quantize and dequantize behind what moves codes, since other runtimes look for one around each operator."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.precision.insert import passes_on


def pair_movement(graph: Graph) -> None:
    """Behind movement, max pooling and concatenation of dequantized tensors their scale and zero point once more, in
    place: the numbers stay the same, and what reads them reads a dequantize."""
    done: dict[Value, Value] = {}
    nodes: list[Node] = []
    for n in graph.nodes:
        n.inputs = [done.get(v, v) if v is not None else None for v in n.inputs]
        nodes.append(n)
        found = _dequantized(n) if passes_on(n) else None
        if found is None or n.output.is_const or n.output in graph.outputs:
            continue
        scale, zero = found
        q = Value(graph.fresh(n.output.name), zero.dtype, n.output.shape)
        d = Value(graph.fresh(n.output.name), DType.F32, n.output.shape)
        nodes += [Node("quantize", [n.output, scale, zero], [q], origin=n.origin),
                  Node("dequantize", [q, scale, zero], [d], origin=n.origin)]
        done[n.output] = d
    graph.nodes = nodes


def _dequantized(n: Node) -> tuple[Value, Value] | None:
    """The scale and zero point that all operands which the node moves were dequantized with; None without."""
    found = None
    for v in n.inputs if n.op == "concat" else n.inputs[:1]:
        d = v.producer if v is not None else None
        if d is None or d.op != "dequantize" or d.input(0).is_const or d.input(0).dtype is DType.I32:
            return None
        scale, zero = d.input(1), d.input(2)
        if not _one(scale) or not _one(zero):
            return None
        if found is not None and (found[0].data != scale.data or found[1].data != zero.data
                                  or found[1].dtype is not zero.dtype):
            return None
        found = scale, zero
    return found


def _one(v: Value) -> bool:
    return v.data is not None and v.data.size == 1
