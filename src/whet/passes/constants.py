"""Constant folding: nodes whose operands are all known run at build time."""

from __future__ import annotations

import math

import numpy as np

from whet.errors import GraphError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, dims_in
from whet.ir.symbolic import Shape, is_static
from whet.passes.cse import is_impure
from whet.passes.rewrite import Result, Rewriter

LIMIT = 64 << 20  # bytes of a folded result, unless it is no larger than what it is made of
GROWTH_LIMIT = 1 << 20  # the same for operators that only repeat or count, which are cheaper to do than to store
GROWING = frozenset({"expand", "iota", "gather", "pad", "resize"})


def fold_constants(graph: Graph) -> None:
    """Replace nodes whose operands are all constants (and whose attributes are all static) by constants."""
    Rewriter(graph).run({"*": [fold]})


def fold(rw: Rewriter, node: Node) -> Result:
    """The node's results as constants, or None where it must or should run later."""
    if any(v is not None and not v.is_const for v in node.inputs) or is_impure(node.op, node.attrs):
        return None
    if node.op == "dequantize" and node.input(0).dtype is not DType.I32:
        return None  # weights: the pass `integer` wants their codes
    if not all(is_static(o.shape) for o in node.outputs) or dims_in(tuple(node.attrs.values())):
        return None
    size = sum(math.prod(_ints(o.shape)) * o.dtype.size for o in node.outputs)
    given = sum(v.data.nbytes for v in node.inputs if v is not None and v.data is not None)
    if size > max(given, GROWTH_LIMIT if node.op in GROWING else LIMIT):
        return None
    from whet.ir.ops import evaluate

    arrays = [v.data if v is not None else None for v in node.inputs]
    try:
        results = evaluate(node, arrays)
    except IndexError as e:
        raise GraphError(f"a constant index lies outside its tensor: {e}", where=node.origin or node.op,
                         do="check the model with onnx.checker, or export it again") from e
    out = []
    for o, r in zip(node.outputs, results, strict=True):
        if o.dtype.is_host or not isinstance(r, np.ndarray | np.generic):
            return None
        out.append(rw.graph.const(np.asarray(r), o.dtype, hint=o.name))
    return out


def _ints(shape: Shape) -> list[int]:
    return [d for d in shape if isinstance(d, int)]
