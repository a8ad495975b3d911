"""Attention over codes: q, k and v are quantized where they are made, before they are cut into heads.

Each has a scale of its own. Where the three are slices of one product (`passes.parallel` makes it so), its columns are
divided by the scale of the slice that they belong to: the product is written once, as codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import evaluate
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import evaluate as evaluate_dim
from whet.precision.methods import Range, qparams

_MOVES = ("slice", "reshape", "transpose")


def operands_known(node: Node, ranges: Mapping[str, Range]) -> str:
    """Why this attention cannot be quantized by these ranges; "" if it can."""
    for v in node.inputs[:3]:
        assert v is not None
        r = ranges.get(v.name)
        if v.is_const or v.dtype is not DType.F32:
            return "an operand is constant"
        if r is None or not (math.isfinite(r.low) and math.isfinite(r.high)):
            return "an operand was not calibrated"
    return ""


def quantize_attention(graph: Graph, node: Node, ranges: Mapping[str, Range]) -> None:
    """Put quantize and dequantize between an attention and what makes its q, k and v, in place."""
    operands = [v for v in node.inputs[:3] if v is not None]
    scales = [qparams(ranges[v.name], DType.I8, symmetric=True)[0] for v in operands]
    chains = [_moves(v) for v in operands]
    roots = [c[0].input(0) if c else v for c, v in zip(chains, operands)]
    whole: dict[tuple[Value, float], Value] = {}  # codes by what was quantized, and its scale (0: one by column)
    by_column = _by_column(graph, roots[0], chains, scales) if all(r is roots[0] for r in roots) else None
    made: list[Value] = []
    for root, chain, scale in zip(roots, chains, scales):
        key = (root, 0.0 if by_column is not None else scale)
        if key not in whole:
            x = root if by_column is None else graph.add("mul", [root, graph.const(by_column)], origin=node.origin)
            params = graph.const(np.float32(key[1] or 1.0)), graph.const(np.int8(0))
            whole[key] = graph.add("quantize", [x, *params], origin=node.origin)
        y = whole[key]
        for n in chain:
            y = graph.add(n.op, [y], dict(n.attrs), origin=n.origin)
        made.append(graph.add("dequantize", [y, graph.const(np.float32(scale)), graph.const(np.int8(0))],
                              origin=node.origin))
    node.inputs = [*made, *node.inputs[3:]]
    node.compute = "int8"


def coded_attention(graph: Graph, node: Node) -> Region:
    """The region of an attention over codes, for asking a target whether it has a kernel."""
    there = [v for v in node.inputs if v is not None]
    tensors = tuple(Tensor.dense(DType.I8 if i < 3 else v.dtype, v.shape) for i, v in enumerate(there))
    absent = tuple(i for i, v in enumerate(node.inputs) if v is None)
    attrs = {**node.attrs, **dict.fromkeys(("q_scale", "k_scale", "v_scale"), 1.0),
             **({"absent": absent} if absent else {})}
    out = Tensor.dense(DType.F32, node.output.shape)
    return Region("attention", attrs, tensors, len(tensors), out, out, dims=dict(graph.dims), compute="int8")


def _moves(v: Value) -> list[Node]:
    """The movements that lead to a value, the first one first."""
    out: list[Node] = []
    while v.producer is not None and v.producer.op in _MOVES:
        out.append(v.producer)
        v = v.producer.input(0)
    return out[::-1]


def _columns(graph: Graph, root: Value, chain: list[Node]) -> np.ndarray:
    """Which columns of the root's last dimension a chain of movements ends with, found by moving their numbers."""
    dims = {n: max(1, r[0]) for n, r in graph.dims.items()}
    shape = tuple(evaluate_dim(d, dims) for d in root.shape)
    moved = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape)
    for n in chain:
        moved, = evaluate(n, [moved], dims)
    return np.unique(moved).astype(np.int64)


def _by_column(graph: Graph, root: Value, chains: list[list[Node]], scales: list[float]) -> np.ndarray | None:
    """1 / scale of the operand that reads each column of the root (0 where none does); None where a column is read
    by operands of different scales."""
    if not isinstance(root.shape[-1], int):
        return None
    out = np.zeros(root.shape[-1], np.float32)
    for chain, scale in zip(chains, scales):
        mine, factor = _columns(graph, root, chain), np.float32(1 / scale)
        if np.any((out[mine] != 0) & (out[mine] != factor)):
            return None
        out[mine] = factor
    return out
