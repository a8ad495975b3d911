"""Axes that are computed while the model runs: their number is known, not which they are.

A tensor is seen as [before, axis, after] for one axis after the other; these sizes are computed from the axes and
read as dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from whet.errors import GraphError
from whet.frontends.call import Call, NeedsReferenceError
from whet.frontends.scalars import Scalars
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim, Shape, product


class AxesAsData:
    """The axes that operand `at` of a node gives, for tensors of this rank.

    inserted: they count in the result, which has that many dimensions more.
    """

    def __init__(self, c: Call, rank: int, at: int, inserted: bool = False) -> None:
        self.c, self.calc = c, Scalars(c)
        axes = c.cast(c.x(at), DType.I64)
        count = product(axes.shape)
        if not isinstance(count, int):
            raise NeedsReferenceError("an unknown number of axes")
        self.count, self.rank = count, rank + count if inserted else rank
        if self.count > self.rank:
            raise GraphError(f"{self.count} axes for rank {self.rank}", where=c.origin, do="export the model again")
        axes = c.reshape(axes, (count, 1))
        self.axes = c.emit("where", c.emit("lt", axes, c.like(axes, 0)), c.emit("add", axes, c.like(axes, self.rank)),
                           axes)  # [count, 1], counted from 0
        self.places = c.constant(range(self.rank), DType.I64)
        among = c.cast(c.emit("eq", self.places, self.axes), DType.I64)
        self.mask = c.reduce(among, "max", (0,), keepdims=False) if count else c.constant([0] * self.rank, DType.I64)

    def without(self, shape: Shape) -> list[Dim]:
        """The dimensions of a shape that are not among the axes, which hold one element each (the runtime checks)."""
        c = self.c
        order = c.builder.emit_node("topk", [self.mask], {"k": self.rank, "axis": 0, "largest": False, "sorted": True},
                                    c.origin, c.hint).outputs[1]
        kept = c.slice(c.emit("gather", self._vector(shape), order, axis=0), 0, 0, self.rank - self.count)
        low, high = self._range(shape)
        out = self.calc.read_all(kept, c.hint, [(low, high)] * (self.rank - self.count))
        self.calc.check_product(out, product(shape))
        return out

    def ones(self, shape: Shape) -> list[Dim]:
        """A shape with 1 at the axes."""
        c = self.c
        kept = c.emit("where", c.cast(self.mask, DType.BOOL), c.constant(1, DType.I64), self._vector(shape))
        bounds = [self.calc.b.bounds(d) for d in shape]
        return self.calc.read_all(kept, c.hint, [(min(low, 1), max(high, 1)) for low, high in bounds])

    def inserted(self, shape: Shape) -> list[Dim]:
        """A shape with dimensions of 1 put in."""
        c = self.c
        behind = c.emit("cumsum", c.emit("sub", c.constant(1, DType.I64), self.mask), axis=0, exclusive=True)
        behind = c.emit("min", behind, c.constant(max(len(shape) - 1, 0), DType.I64))
        if shape:
            kept = c.emit("where", c.cast(self.mask, DType.BOOL), c.constant(1, DType.I64),
                          c.emit("gather", self._vector(shape), behind, axis=0))
            low, high = self._range(shape)
            out = self.calc.read_all(kept, c.hint, [(min(low, 1), max(high, 1))] * self.rank)
        else:
            out = [1] * self.rank
        self.calc.check_product(out, product(shape))
        return out

    def each(self, x: Value, f: Callable[[Value], Value]) -> Value:
        """f over one axis after the other. f takes [before, axis, after] and works along its dimension 1: it
        leaves it, or reduces it to 1 element. The result is [before, axis, after] of the last axis."""
        c = self.c
        left = self._vector(x.shape)
        most = math.prod(max(c.builder.bounds(d)[1], 1) for d in x.shape)
        sides = c.constant([[-1], [0], [1]], DType.I64)
        for k in range(self.count):
            axis = c.slice(self.axes, 0, k, 1)
            side = c.emit("sign", c.emit("sub", self.places, c.reshape(axis, (1,))))
            parts = c.reduce(c.emit("where", c.emit("eq", side, sides), left, c.constant(1, DType.I64)), "prod", (1,),
                             keepdims=False)
            shape = self.calc.read_all(parts, f"{c.hint}_around{k}", [(0, most)] * 3)
            self.calc.check_product(shape, product(x.shape))
            x = f(c.reshape(x, shape))
            if x.shape[1] == 1:
                left = c.emit("where", c.emit("eq", side, c.constant(0, DType.I64)), c.constant(1, DType.I64), left)
        return x

    def reduce(self, x: Value, f: Callable[[Value], Value], keepdims: bool) -> Value:
        """f, which reduces dimension 1 to one element, over all axes."""
        y = self.each(x, f)
        out = self.ones(x.shape) if keepdims else self._kept(x.shape, y)
        self.calc.check_product(out, product(y.shape))
        return self.c.reshape(y, out)

    def _kept(self, shape: Shape, y: Value) -> list[Dim]:
        c = self.c
        order = c.builder.emit_node("topk", [self.mask], {"k": self.rank, "axis": 0, "largest": False, "sorted": True},
                                    c.origin, c.hint).outputs[1]
        kept = c.slice(c.emit("gather", self._vector(shape), order, axis=0), 0, 0, self.rank - self.count)
        return self.calc.read_all(kept, c.hint, [self._range(shape)] * (self.rank - self.count))

    def _vector(self, shape: Sequence[Dim]) -> Value:
        b = self.c.builder
        return b.materialize(b.operand(list(shape)))

    def _range(self, shape: Shape) -> tuple[int, int]:
        bounds = [self.calc.b.bounds(d) for d in shape]
        return min((low for low, _ in bounds), default=1), max((high for _, high in bounds), default=1)
