"""Integers that lowerings compute with: known as dimensions, or computed while the model runs.

Sizes that depend on data are computed by native operators on scalars, and only the final ones, which are >= 0, are
read as dimensions (`Scalars.read`). What is known of a scalar's range narrows the range of the dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from whet.errors import GraphError
from whet.frontends.call import UNKNOWN_RANGE, Call, NeedsReferenceError, Partial
from whet.ir.dtypes import DType
from whet.ir.graph import Check, Node, Value
from whet.ir.symbolic import Dim, Sym, names, product
from whet.ir.symbolic import evaluate as dim_value

MAX_ELEMENTS = 1024  # of a tensor that tells sizes or axes
FAR = 1 << 62  # farther than any size
Scalar = int | Sym | Value  # a Value: one element of type i64, rank 0


class Span(NamedTuple):
    """What is known of an integer: the least, a typical (None: not known) and the greatest value."""

    low: int
    opt: int | None
    high: int


_ANY = Span(-FAR, None, FAR)


class Scalars:
    """Arithmetic on scalars for the lowering of one node. Each result is computed once in a graph."""

    def __init__(self, c: Call) -> None:
        self.c = c
        self.b = c.builder
        self.memo = c.builder.scalars

    # -- operands ------------------------------------------------------------------------------

    def elements(self, i: int) -> list[Scalar]:
        """The elements of operand i, a tensor of integers. NeedsReferenceError unless their count is known."""
        x = self.c.inputs[i]
        if isinstance(x, Partial):
            return list(x.dims.reshape(-1))
        v = self.c.x(i)
        size = product(v.shape)
        if not isinstance(size, int) or v.dtype.is_host:
            raise NeedsReferenceError("with an operand of unknown length")
        if size > MAX_ELEMENTS:
            raise GraphError(f"an operand that tells sizes or axes has {size} elements", where=self.c.origin,
                             why=f"more than {MAX_ELEMENTS} are no shape", do="export the model again")
        if v.dtype.is_float:
            v = self._once("cast", (v,), to=DType.I64)
        return [self.element(v, k) for k in range(size)]

    def element(self, v: Value, k: int) -> Scalar:
        """Element k of a tensor of integers, as far back as it is only moved about."""
        found = self._known(v, k)
        if found is not None:
            return found
        v, k, _ = trace(v, k)
        scalar = self.pick(v, k)
        if scalar.dtype is not DType.I64:
            scalar = self._once("cast", (scalar,), to=DType.I64)
        if scalar not in self.memo.spans:
            given = self.b.graph.contents.get(v.name) if v.producer is None else None
            info = (0, 1) if v.dtype is DType.BOOL else None
            if v.dtype.is_integer and v.dtype.size < 8:
                info = (int(np.iinfo(v.dtype.np).min), int(np.iinfo(v.dtype.np).max)) if v.dtype.bits >= 8 else None
            self.memo.spans[scalar] = Span(*given[k]) if given else Span(info[0], None, info[1]) if info else _ANY
        return scalar

    def pick(self, v: Value, k: int) -> Value:
        """Element k of a tensor of any type, as a value of rank 0."""
        if v.rank == 0:
            return v
        if v.rank > 1:
            v = self._once("reshape", (v,), shape=(product(v.shape),))
        return self._once("reshape", (self._once("slice", (v,), starts=(k,), sizes=(1,), steps=(1,)),), shape=())

    def _known(self, v: Value, k: int) -> Dim | None:
        """Element k where it is a dimension, also through sums and products."""
        v, k, found = trace(v, k)
        if found is not None:
            return found if isinstance(found, Sym) else int(found)
        n = v.producer
        if n is None or n.op not in ("add", "sub", "mul") or v.dtype is not DType.I64:
            return None
        parts: list[Dim] = []
        for x in n.inputs:
            assert x is not None
            if x.shape != v.shape and product(x.shape) != 1:
                return None
            part = self._known(x, k if x.shape == v.shape else 0)
            if part is None:
                return None
            parts.append(part)
        a, b = parts
        return a + b if n.op == "add" else a - b if n.op == "sub" else a * b

    # -- results -------------------------------------------------------------------------------

    def value(self, s: Scalar) -> Value:
        """s as a value: i64, rank 0."""
        if isinstance(s, Value):
            return s
        if isinstance(s, int):
            return self.b.graph.const(s, DType.I64)
        return self._once("dims", (), values=(s,), shape=())

    def read_all(self, v: Value, hint: str, ranges: Sequence[tuple[int, int]]) -> list[Dim]:
        """The elements of a vector as dimensions, each within its range."""
        known = [self._known(v, k) for k in range(len(ranges))]
        return [self.b.learn(v, k, f"{hint}_{k}", (low, high, high)) if known[k] is None else known[k]  # type: ignore
                for k, (low, high) in enumerate(ranges)]

    def read(self, s: Scalar, hint: str, typical: int | None = None, most: Dim = FAR) -> Dim:
        """s, which is never negative in a valid run, as a dimension.

        typical: what kernels are tuned for where nothing better is known. most: what a valid run does not exceed.
        """
        if not isinstance(s, Value):
            return s
        if s not in self.memo.reads:
            low, opt, high = self.span(s)
            high = min(high, self.span(most).high or FAR)  # of no elements: other dimensions may be anything
            high = UNKNOWN_RANGE[2] if high >= 1 << 40 else high
            low, high = max(low, 0), max(high, 0)
            opt = typical if opt is None else opt
            opt = min(max(UNKNOWN_RANGE[1] if opt is None else opt, low), high)
            self.memo.reads[s] = self.b.learn(s, 0, hint, (min(low, high), opt, high))
        return self.memo.reads[s]

    def check(self, a: Dim, b: Dim, what: str, most: bool = False) -> None:
        """The model's input is wrong unless a == b (where most: a <= b): nothing where that is clear already.

        What speaks of the inputs' dimensions alone is not checked."""
        low, high = self.b.bounds(a - b)
        if high <= 0 if most else low == high == 0:
            return
        if any(n in self.b.graph.sizes for n in names(a, b)):
            self.b.graph.checks.append(Check(a, b, f"{self.c.origin}: {what}", most))

    def check_product(self, shape: Sequence[Dim], total: Dim) -> None:
        """The model's input is wrong unless a tensor of `total` elements has this shape."""
        self.check(product(shape), total, "the elements before and after")

    # -- arithmetic ----------------------------------------------------------------------------

    def span(self, s: Scalar) -> Span:
        if isinstance(s, int):
            return Span(s, s, s)
        if isinstance(s, Value):
            return Span(*self.memo.spans.get(s, _ANY))
        low, high = self.b.bounds(s)
        dims = self.b.graph.dims
        opt = dim_value(s, {n: dims[n][1] for n in names(s)}) if names(s) <= dims.keys() else None
        return Span(low, opt, high)

    def add(self, a: Scalar, b: Scalar) -> Scalar:
        if a == 0 or b == 0:
            return b if a == 0 else a
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a + b
        return self._binary("add", a, b, lambda x, y: x + y)

    def sub(self, a: Scalar, b: Scalar) -> Scalar:
        if b == 0:
            return a
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a - b
        p, q = self.span(a), self.span(b)
        return self._result("sub", (a, b), Span(p.low - q.high, _opt(lambda x, y: x - y, p, q), p.high - q.low))

    def mul(self, a: Scalar, b: Scalar) -> Scalar:
        if a == 1 or b == 1:
            return b if a == 1 else a
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a * b
        return self._binary("mul", a, b, lambda x, y: x * y)

    def product(self, factors: Iterable[Scalar]) -> Scalar:
        one: Scalar = 1
        return functools.reduce(self.mul, factors, one)

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        p, q = self.span(a), self.span(b)
        if p.high <= q.low or q.high <= p.low:
            return a if p.high <= q.low else b
        if not isinstance(a, Value) and not isinstance(b, Value):
            return self.b.minimum(a, b)
        return self._result("min", (a, b), Span(min(p.low, q.low), _some(min, p, q), min(p.high, q.high)))

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        p, q = self.span(a), self.span(b)
        if p.low >= q.high or q.low >= p.high:
            return a if p.low >= q.high else b
        if not isinstance(a, Value) and not isinstance(b, Value):
            return self.b.maximum(a, b)
        return self._result("max", (a, b), Span(max(p.low, q.low), _some(max, p, q), max(p.high, q.high)))

    def clamp(self, s: Scalar, low: Scalar, high: Scalar) -> Scalar:
        return self.maximum(self.minimum(s, high), low)

    def floordiv(self, a: Scalar, b: Scalar) -> Scalar:
        """a // b for a >= 0 and b > 0 (a divisor that is computed is 1 where it would be less)."""
        if isinstance(b, int) and b == 1:
            return a
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a // b
        b = self.maximum(b, 1)
        p, q = self.span(a), self.span(b)
        return self._result("div", (a, b), Span(min(p.low, 0), _opt(lambda x, y: x // max(y, 1), p, q),
                                                max(p.high, 0) // max(q.low, 1)))

    def floormod(self, a: Scalar, b: Scalar) -> Scalar:
        """a % b for b > 0."""
        if not isinstance(a, Value) and not isinstance(b, Value):
            return a % b
        return self._result("mod", (a, b), Span(0, None, max(self.span(b).high - 1, 0)))

    def steps(self, span: Scalar, step: Scalar) -> Scalar:
        """max(0, ceil(span / step)), and -1, which is no size, for a step of 0."""
        p, q = self.span(span), self.span(step)
        if q.low > 0:
            return self.floordiv(self.maximum(self.add(span, self.sub(step, 1)), 0), step)
        if q.high < 0:
            return self.steps(self.sub(0, span), self.sub(0, step))
        back = self.less(step, 0)
        length, stride = self.where(back, self.sub(0, span), span), self.where(back, self.sub(0, step), step)
        size = self.floordiv(self.maximum(self.add(length, self.sub(stride, 1)), 0), stride)
        size = self.where(self.equal(step, 0), -1, size)
        if isinstance(size, Value):
            most = max(abs(p.low), abs(p.high), 0)
            self.memo.spans[size] = Span(-1, None, min(self.span(size).high, most))
        return size

    # -- conditions ----------------------------------------------------------------------------

    def less(self, a: Scalar, b: Scalar) -> bool | Value:
        p, q = self.span(a), self.span(b)
        if p.high < q.low or p.low >= q.high:
            return p.high < q.low
        return self._once("lt", (self.value(a), self.value(b)))

    def equal(self, a: Scalar, b: Scalar) -> bool | Value:
        p, q = self.span(a), self.span(b)
        if a is b or (not isinstance(a, Value) and not isinstance(b, Value) and a == b):
            return True
        if p.high < q.low or q.high < p.low:
            return False
        return self._once("eq", (self.value(a), self.value(b)))

    def either(self, a: bool | Value, b: bool | Value) -> bool | Value:
        if isinstance(a, bool) or isinstance(b, bool):
            return True if a is True or b is True else b if a is False else a
        return self._once("or", (a, b))

    def where(self, condition: bool | Value, a: Scalar, b: Scalar) -> Scalar:
        if isinstance(condition, bool):
            return a if condition else b
        if a is b or (not isinstance(a, Value) and not isinstance(b, Value) and a == b):
            return a
        p, q = self.span(a), self.span(b)
        opt = p.opt if q.opt is None else q.opt
        y = self._once("where", (condition, self.value(a), self.value(b)))
        self.memo.spans.setdefault(y, Span(min(p.low, q.low), opt, max(p.high, q.high)))
        return y

    # -- inside --------------------------------------------------------------------------------

    def _binary(self, op: str, a: Scalar, b: Scalar, f: Callable[[int, int], int]) -> Scalar:
        p, q = self.span(a), self.span(b)
        corners = [f(x, y) for x in (p.low, p.high) for y in (q.low, q.high)]
        return self._result(op, (a, b), Span(min(corners), _opt(f, p, q), max(corners)))

    def _result(self, op: str, operands: Sequence[Scalar], span: Span) -> Scalar:
        y = self._once(op, tuple(self.value(s) for s in operands))
        if y.data is not None:
            return int(y.data)
        self.memo.spans.setdefault(y, Span(max(min(span.low, FAR), -FAR), span.opt, max(min(span.high, FAR), -FAR)))
        return y

    def _once(self, op: str, inputs: tuple[Value, ...], **attrs: Any) -> Value:
        """A node's output; the same one for the same operands."""
        key = (op, tuple(v if v.data is None else v.data.item() if v.data.size == 1 else v for v in inputs),
               tuple(sorted(attrs.items())))
        place, v = self.memo.made.get(key, (-1, None))
        nodes = self.b.graph.nodes
        if v is not None and (v.data is not None or (place < len(nodes) and nodes[place] is v.producer)):
            return v
        v = self.c.emit(op, *inputs, **attrs)
        self.memo.made[key] = (len(nodes) - 1, v)
        return v


def _opt(f: Callable[[int, int], int], p: Span, q: Span) -> int | None:
    return None if p.opt is None or q.opt is None else f(p.opt, q.opt)


def _some(f: Callable[[int, int], int], p: Span, q: Span) -> int | None:
    """f of the typical values that are known."""
    return q.opt if p.opt is None else p.opt if q.opt is None else f(p.opt, q.opt)


def trace(v: Value, k: int) -> tuple[Value, int, Any]:
    """Where element k (in row-major order) of a tensor comes from: (value, index, what it is if that is known).

    Looks through nodes that only move elements of vectors, and through i32 made i64.
    """
    while True:
        if v.data is not None:
            return v, k, v.data.reshape(-1)[k].item()
        n = v.producer
        if n is None:
            return v, k, None
        step = _before(n, v, k)
        if step is None:
            return v, k, n.attrs["values"][k] if n.op == "dims" else None
        v, k = step


def _before(n: Node, v: Value, k: int) -> tuple[Value, int] | None:
    """Where the node n takes element k of its output v from, None where it is no mere move."""
    if not n.inputs or n.inputs[0] is None:
        return None
    x = n.inputs[0]
    match n.op:
        case "reshape":
            return x, k
        case "cast" if x.dtype is DType.I32 and v.dtype is DType.I64:
            return x, k
        case "expand" if product(x.shape) == 1:
            return x, 0
        case "slice" if x.rank == 1 and isinstance(n.attrs["starts"][0], int):
            return x, n.attrs["starts"][0] + k * n.attrs["steps"][0]
        case "gather" if x.rank == 1 and n.input(1).data is not None and isinstance(x.shape[0], int):
            return x, int(np.asarray(n.input(1).data).reshape(-1)[k]) % x.shape[0]
        case "concat" if v.rank == 1:
            for i in range(len(n.inputs)):
                part = n.input(i)
                size = part.shape[0]
                if not isinstance(size, int):
                    return None
                if k < size:
                    return part, k
                k -= size
    return None
