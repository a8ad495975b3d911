"""The table of operators: for each its operands, its shape and type rule, and its NumPy reference.

`OPS` has every operator, `POINTWISE` the pointwise ones with their scalar meaning. Attributes that a
node leaves out take their defaults, which `infer` writes into `attrs`, so that what reads a node of
a graph finds all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import GraphError, UnsupportedError
from whet.ir.dtypes import DType
from whet.ir.graph import Node, Value
from whet.ir.ops_anchor import ANCHORS
from whet.ir.ops_base import Attrs, DimConflictError, OpDef, Required, Spec, broadcast
from whet.ir.ops_grouped import DEQUANTIZE_GROUPED, MATMUL_GROUPED
from whet.ir.ops_host import HOST, HOST_OPS
from whet.ir.ops_linear_attention import LINEAR_ATTENTION
from whet.ir.ops_move import MOVES
from whet.ir.ops_pointwise import POINTWISE, Pointwise
from whet.ir.ops_recurrent import RECURRENT
from whet.ir.ops_region import REGION
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, Sym
from whet.ir.symbolic import evaluate as dim_value

__all__ = ["ANCHORS", "MOVES", "OPS", "POINTWISE", "DimConflictError", "OpDef", "Pointwise", "evaluate", "infer"]


def _pointwise_def(p: Pointwise) -> OpDef:
    def rule(ins: list[Value], at: Attrs) -> list[Spec]:
        return [(p.result([v.dtype for v in ins], at), broadcast((v.shape for v in ins), f"{p.name}'s operands"))]

    return OpDef(p.name, (p.arity, p.arity), rule, lambda xs, at: [p.reference(*xs, **at)], p.attrs)


OPS: dict[str, OpDef] = {**{n: _pointwise_def(p) for n, p in POINTWISE.items()}, **ANCHORS, **MOVES,
                         **HOST_OPS, REGION.name: REGION, LINEAR_ATTENTION.name: LINEAR_ATTENTION,
                         RECURRENT.name: RECURRENT, MATMUL_GROUPED.name: MATMUL_GROUPED,
                         DEQUANTIZE_GROUPED.name: DEQUANTIZE_GROUPED}


def infer(op: str, inputs: Sequence[Value | None], attrs: dict[str, Any], origin: str = "") -> list[Spec]:
    """The (dtype, shape) of each output of a node; writes defaults and normal forms into `attrs`.

    Normal forms: axes counted from 0, tuples for sequences. GraphError says which rule the operands
    break; UnsupportedError for an operator that is not in the table. `origin` names the node in both.
    """
    row = OPS.get(op)
    if row is None:
        raise UnsupportedError(f"whet's IR has no operator {op!r}", where=origin)
    try:
        for key, default in row.attrs.items():
            if key not in attrs:
                if isinstance(default, Required):
                    raise GraphError(f"{op} lacks its attribute {key}")
                attrs[key] = default
        unknown = sorted(attrs.keys() - row.attrs.keys())
        if unknown:
            raise GraphError(f"{op} has no attribute {unknown[0]}")
        least, most = row.inputs
        ins = list(inputs)
        while ins and ins[-1] is None:
            ins.pop()
        if len(ins) < least or (most is not None and len(ins) > most):
            raise GraphError(f"{op} takes {least if least == most else f'{least} to {most}'} inputs, not {len(ins)}")
        if any(v is None and i not in row.optional for i, v in enumerate(ins)):
            raise GraphError(f"{op} lacks an input that is not optional")
        return row.rule(ins, attrs)  # type: ignore[arg-type]
    except GraphError as e:
        if not e.where:
            e.where = origin
        raise


def evaluate(node: Node, arrays: Sequence[np.ndarray | None],
             dims: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """What a node computes, by its NumPy reference: an array for each output, of its type, C-contiguous.

    arrays: one per input (None where the input is absent). dims: values of the symbolic dimensions in the
    node's attributes; KeyError for one that is missing. GraphError where the arrays break the operator's rule.
    """
    row = OPS[node.op]
    attrs = {**{k: v for k, v in row.attrs.items() if not isinstance(v, Required)}, **node.attrs}
    known = dims or {}
    if node.op in HOST:
        return [r if o.dtype is DType.OBJECT else as_dtype(r, o.dtype)
                for r, o in zip(row.reference(list(arrays), attrs), node.outputs)]
    bound = {k: _bound(v, known) for k, v in attrs.items()}
    xs = [None if a is None else np.asarray(a) for a in arrays]
    while xs and xs[-1] is None:
        xs.pop()
    row.rule([None if x is None else Value("", DType.of(x.dtype), x.shape) for x in xs], bound)  # type: ignore[misc]
    with np.errstate(all="ignore"):
        if row is REGION:  # its sizes may be symbols that no operand shows
            results = region_reference(bound["region"], [x for x in xs if x is not None], known)
        else:
            results = row.reference(xs, bound)
    return [as_dtype(r, o.dtype) for r, o in zip(results, node.outputs)]


def as_dtype(x: np.ndarray, dtype: DType) -> np.ndarray:
    """x as a C-contiguous array of dtype (of the same rank, which np.ascontiguousarray does not keep for 0)."""
    with np.errstate(all="ignore"):
        return np.asarray(x, order="C").astype(dtype.np, copy=False)


def _bound(v: Any, dims: Mapping[str, Dim | int]) -> Any:
    if isinstance(v, Sym):
        return dim_value(v, dims)  # type: ignore[arg-type]
    if isinstance(v, (tuple, list)):
        return tuple(_bound(x, dims) for x in v)
    return v
