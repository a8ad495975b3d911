"""What the table of operators is made of: a row, its errors, and the shape rules that rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import GraphError
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Shape

Spec = tuple[DType, Shape]
Attrs = dict[str, Any]
Arrays = Sequence[np.ndarray | None]


class Required:
    """Marks an attribute that has no default."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


class DimConflictError(GraphError):
    """Two dimensions must be equal and may not be: `a` and `b`, at least one of them symbolic."""

    def __init__(self, a: Dim, b: Dim, what: str) -> None:
        super().__init__(f"{what}: dimensions {a} and {b} are not known to be equal",
                         do="give the two dimensions the same name, or fix them with shapes=")
        self.a, self.b = a, b


@dataclass(frozen=True)
class OpDef:
    """One row of the table: everything that a pass needs to know about an operator.

    rule:      (inputs, attrs) -> [(dtype, shape) of each output]; attrs has its defaults filled in.
               Raises GraphError for operands that the operator does not take.
    reference: (arrays, attrs) -> [array of each output], the meaning, in NumPy; every attribute and
               shape is a plain number by then.
    attrs:     the attributes it takes and their defaults (REQUIRED: none).
    inputs:    the least and the greatest number of inputs (None: any).
    optional:  indices of inputs that may be None.
    """

    name: str
    inputs: tuple[int, int | None]
    rule: Callable[[list[Value], Attrs], list[Spec]]
    reference: Callable[[list[Any], Attrs], list[np.ndarray]]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[int, ...] = ()


def fail(what: str, do: str = "") -> GraphError:
    """The error of a shape or type rule; `infer` adds where."""
    return GraphError(what, do=do or "check the model with onnx.checker, or export it again")


def need(ok: bool, what: str) -> None:
    """Raise a GraphError unless ok."""
    if not ok:
        raise fail(what)


def equal(a: Dim, b: Dim, what: str) -> Dim:
    """The common value of two dims that must be equal; an int is preferred."""
    if isinstance(a, int) and isinstance(b, int):
        if a != b:
            raise fail(f"{what}: {a} and {b} differ")
    elif a != b:
        raise DimConflictError(a, b, what)
    return a


def broadcast(shapes: Iterable[Shape], what: str = "operands do not broadcast") -> Shape:
    """The shape that NumPy broadcasting gives. A symbolic dim is never taken for a 1."""
    todo = [tuple(s) for s in shapes]
    rank = max((len(s) for s in todo), default=0)
    out: list[Dim] = [1] * rank
    for s in todo:
        for i, d in enumerate(s, rank - len(s)):
            if d == 1 or d == out[i]:
                continue
            out[i] = d if out[i] == 1 else equal(out[i], d, what)
    return tuple(out)


def normal_axis(axis: int, rank: int, what: str) -> int:
    """axis in [0, rank), negative ones counted from the end."""
    need(-rank <= axis < rank, f"{what}: axis {axis} is outside rank {rank}")
    return axis % rank


def same_dtype(values: Iterable[Value], what: str) -> DType:
    """The one element type of all values."""
    kinds = {v.dtype for v in values}
    need(len(kinds) == 1, f"{what} takes operands of one type, not {', '.join(sorted(k.value for k in kinds))}")
    return kinds.pop()


def in_f32(x: np.ndarray) -> np.ndarray:
    """x, as float32 where it is a 16-bit float: what references compute in."""
    return x.astype(np.float32) if DType.of(x.dtype) in (DType.F16, DType.BF16) else x


def spatial_out(size: Dim, kernel: Dim, stride: int, dilation: int, pad: Dim) -> Dim:
    """Output size of a sliding window: (size + pad - dilation*(kernel - 1) - 1) // stride + 1."""
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1
