"""Values with NumPy's operators: for lowerings that are formulas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whet.frontends.call import Call
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Shape


class Formula:
    """A value of a graph that is being built. Numbers that it meets become constants of its type."""

    def __init__(self, call: Call, value: Value) -> None:
        self.call = call
        self.value = value

    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.rank

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    def apply(self, op: str, *others: Any, **attrs: Any) -> Formula:
        """op(self, others...); numbers among the others become constants of this value's type."""
        return Formula(self.call, self.call.emit(op, self.value, *(self._lift(o) for o in others), **attrs))

    def _lift(self, x: Any) -> Value:
        if isinstance(x, Formula):
            return x.value
        return x if isinstance(x, Value) else self.call.like(self.value, x)

    def _reversed(self, op: str, other: Any) -> Formula:
        return Formula(self.call, self.call.emit(op, self._lift(other), self.value))

    # -- arithmetic ----------------------------------------------------------------------------

    def __add__(self, o: Any) -> Formula:
        return self.apply("add", o)

    def __radd__(self, o: Any) -> Formula:
        return self._reversed("add", o)

    def __sub__(self, o: Any) -> Formula:
        return self.apply("sub", o)

    def __rsub__(self, o: Any) -> Formula:
        return self._reversed("sub", o)

    def __mul__(self, o: Any) -> Formula:
        return self.apply("mul", o)

    def __rmul__(self, o: Any) -> Formula:
        return self._reversed("mul", o)

    def __truediv__(self, o: Any) -> Formula:
        """Of integers: towards zero."""
        return self.apply("div", o)

    def __rtruediv__(self, o: Any) -> Formula:
        return self._reversed("div", o)

    def __mod__(self, o: Any) -> Formula:
        return self.apply("mod", o)

    def __neg__(self) -> Formula:
        return self.apply("neg")

    def __lt__(self, o: Any) -> Formula:
        return self.apply("lt", o)

    def __le__(self, o: Any) -> Formula:
        return self.apply("le", o)

    def __gt__(self, o: Any) -> Formula:
        return self.apply("gt", o)

    def __ge__(self, o: Any) -> Formula:
        return self.apply("ge", o)

    def eq(self, o: Any) -> Formula:
        return self.apply("eq", o)

    def ne(self, o: Any) -> Formula:
        return self.apply("ne", o)

    def __and__(self, o: Any) -> Formula:
        return self.apply("and", o)

    def __or__(self, o: Any) -> Formula:
        return self.apply("or", o)

    def __invert__(self) -> Formula:
        return self.apply("not")

    def floor(self) -> Formula:
        return self.apply("floor")

    def round(self) -> Formula:
        return self.apply("round")

    def abs(self) -> Formula:
        return self.apply("abs")

    def sqrt(self) -> Formula:
        return self.apply("sqrt")

    def min(self, o: Any) -> Formula:
        return self.apply("min", o)

    def max(self, o: Any) -> Formula:
        return self.apply("max", o)

    def clip(self, low: Any, high: Any) -> Formula:
        return self.max(low).min(high)

    def where(self, yes: Formula | Value, no: Any) -> Formula:
        """yes where this (bool) holds, else no, which may be a number."""
        a = yes.value if isinstance(yes, Formula) else yes
        b = no if isinstance(no, Value) else no.value if isinstance(no, Formula) else self.call.like(a, no)
        return Formula(self.call, self.call.emit("where", self.value, a, b))

    def to(self, dtype: DType) -> Formula:
        return self if self.dtype is dtype else self.apply("cast", to=dtype)

    # -- shape ---------------------------------------------------------------------------------

    def reshape(self, *shape: Dim) -> Formula:
        return Formula(self.call, self.call.reshape(self.value, shape))

    def transpose(self, *perm: int) -> Formula:
        return Formula(self.call, self.call.transpose(self.value, perm))

    def expand(self, *shape: Dim) -> Formula:
        return Formula(self.call, self.call.expand(self.value, shape))

    def slice(self, axis: int, start: Dim, size: Dim, step: int = 1) -> Formula:
        """`size` elements from `start` on along one axis, which stays."""
        return Formula(self.call, self.call.slice(self.value, axis % self.rank, start, size, step))

    def pick(self, axis: int, i: int) -> Formula:
        """Element i of one axis, which goes."""
        axis %= self.rank
        return self.slice(axis, i, 1).reshape(*self.shape[:axis], *self.shape[axis + 1:])

    def reduce(self, kind: str, axes: Iterable[int], keepdims: bool = False) -> Formula:
        """Reduced along the axes; itself where there are none."""
        axes = tuple(sorted(a % self.rank for a in axes))
        return Formula(self.call, self.call.reduce(self.value, kind, axes, keepdims)) if axes else self

    def gather(self, indices: Formula, axis: int = 0) -> Formula:
        return self.apply("gather", indices, axis=axis)


def formula(c: Call, i: int) -> Formula:
    """Operand i."""
    return Formula(c, c.x(i))


def concat(parts: Iterable[Formula], axis: int) -> Formula:
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    return Formula(parts[0].call, parts[0].call.emit("concat", *(p.value for p in parts), axis=axis % parts[0].rank))


def iota(c: Call, size: Dim, dtype: DType = DType.I64) -> Formula:
    """0, 1 ... size - 1."""
    return Formula(c, c.emit("iota", start=0, step=1, size=size, dtype=dtype))


def number(c: Call, d: Dim, dtype: DType) -> Formula:
    """A dimension as a scalar."""
    return Formula(c, c.cast(c.builder.materialize(c.builder.operand(d)), dtype))
