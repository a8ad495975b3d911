"""What a lowering sees: one ONNX node with its operands, and the graph that it adds to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import numpy as np
import onnx

from whet.errors import GraphError, UnsupportedError
from whet.frontends.dims import Learnt
from whet.frontends.tensors import Tensors
from whet.ir.dtypes import DType
from whet.ir.graph import Check, Graph, Node, Size, Value
from whet.ir.ops import evaluate
from whet.ir.ops_host import HOST
from whet.ir.symbolic import Dim, Shape, Sym, lower, maximum, minimum, names, product, substitute, symbol, upper

UNKNOWN_RANGE = (0, 16, 1 << 20)  # of a size that depends on data, unless more is known about it
FOLD_LIMIT = 1 << 16  # elements; larger constants are folded by the pass, not while importing


@dataclass(frozen=True)
class Partial:
    """A small tensor of dimensions whose values are known only as expressions (at least one is symbolic)."""

    dims: np.ndarray  # of objects: int or Sym
    dtype: DType

    @property
    def shape(self) -> Shape:
        return self.dims.shape


@dataclass(frozen=True, eq=False)
class Items:
    """A sequence whose length is known when the plan is built. `element` is the type of its items, all of them."""

    items: tuple[Operand, ...]
    element: onnx.TypeProto
    dtype: ClassVar[DType] = DType.OBJECT
    shape: ClassVar[Shape] = ()
    data: ClassVar[None] = None


@dataclass(frozen=True, eq=False)
class Rows:
    """A sequence of what a tensor has along its first dimension."""

    value: Value
    dtype: ClassVar[DType] = DType.OBJECT
    shape: ClassVar[Shape] = ()
    data: ClassVar[None] = None


@dataclass(frozen=True, eq=False)
class Absent:
    """An optional that is known to have no value. `type` is what it would have."""

    type: onnx.TypeProto
    dtype: ClassVar[DType] = DType.OBJECT
    shape: ClassVar[Shape] = ()
    data: ClassVar[None] = None


Operand = Value | Partial | Items | Rows | Absent
Lowering = Callable[["Call"], "Operand | Sequence[Operand | None]"]
LOWERINGS: dict[tuple[str, str], Lowering] = {}


def lowers(*ops: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Registers a function as the lowering of these operators."""
    def register(f: Lowering) -> Lowering:
        for op in ops:
            assert (domain, op) not in LOWERINGS, op
            LOWERINGS[domain, op] = f
        return f
    return register


class NeedsReferenceError(Exception):
    """A lowering does not cover this use of its operator: run the node by onnx.reference instead.

    The argument says what is not covered, for people: "whet compiles Resize, but not {with antialiasing}".
    """


@dataclass
class Memo:
    """What `frontends.scalars` has computed, so that it computes nothing twice."""

    made: dict[Any, tuple[int, Value]] = field(default_factory=dict)  # place of the node, and its result
    spans: dict[Value, tuple[int, int | None, int]] = field(default_factory=dict)  # least, typical, greatest
    reads: dict[Value, Dim] = field(default_factory=dict)


class Builder:
    """Adds nodes to a graph, folding small constants on the way.

    types: what is known of values of type OBJECT. outer: the dimensions that the graphs around a body know.
    prefix: of the names of a body's own dimensions, which tells them from other bodies'. varying: dimensions that
    differ between the iterations of a loop. below: what a loop's counter is always less than.
    """

    def __init__(self, graph: Graph, tensors: Tensors) -> None:
        self.graph = graph
        self.tensors = tensors
        self.learnt = Learnt()
        self.scalars = Memo()
        self.types: dict[Value, onnx.TypeProto] = {}
        self.outer: frozenset[str] = frozenset()
        self.prefix = ""
        self.varying: set[str] = set()
        self.below: dict[str, Dim] = {}

    def body(self, graph: Graph, label: str) -> Builder:
        """A builder of a graph inside this one's. `label` tells the dimensions of bodies apart."""
        b = Builder(graph, self.tensors)
        b.learnt, b.types, b.varying, b.below = self.learnt, self.types, self.varying, self.below
        b.outer, b.prefix = frozenset(self.graph.dims), f"{self.prefix}{label}_"
        return b

    # -- sizes ---------------------------------------------------------------------------------

    def ranges(self) -> dict[str, tuple[int, int]]:
        return {n: (r[0], r[2]) for n, r in self.graph.dims.items()}

    def bounds(self, d: Dim) -> tuple[int, int]:
        """The least and the greatest value of d within the profile."""
        ranges = self.ranges()
        if not names(d) <= ranges.keys():
            return -(1 << 62), 1 << 62
        low, high = lower(d, ranges), upper(d, ranges)
        for name in names(d) & self.below.keys():
            slope, _ = linear(d, name)
            if slope:
                edge = self.bounds(substitute(d, {name: self.below[name] - 1}))
                low, high = (low, min(high, edge[1])) if slope > 0 else (max(low, edge[0]), high)
        return low, high

    def minimum(self, a: Dim, b: Dim) -> Dim:
        """min(a, b), decided where the profile decides it."""
        low, high = self.bounds(a - b)
        return b if low >= 0 else a if high <= 0 else minimum(a, b)

    def maximum(self, a: Dim, b: Dim) -> Dim:
        """max(a, b), decided where the profile decides it."""
        low, high = self.bounds(a - b)
        return a if low >= 0 else b if high <= 0 else maximum(a, b)

    def unknown(self, hint: str, range_: tuple[int, int, int] = UNKNOWN_RANGE) -> Dim:
        """A new dimension that data will tell: the caller says from which value, in `graph.sizes` (or calls `learn`).

        What an earlier attempt to import the model found it to be equal to is returned in its stead.
        """
        return self._new_size(hint, range_)[1]

    def learn(self, value: Value, at: int, hint: str, range_: tuple[int, int, int] = UNKNOWN_RANGE,
              axis: bool = False) -> Dim:
        """The dimension that is element `at` of the integer tensor `value` (where `axis`: its dimension `at`)."""
        name, d = self._new_size(hint, range_)
        self.graph.sizes[name] = Size(value, at, axis)
        if d != symbol(name):
            self.graph.checks.append(Check(symbol(name), d, hint))
        return d

    def _new_size(self, hint: str, range_: tuple[int, int, int]) -> tuple[str, Dim]:
        """(name, what it is equal to: itself, or what is known). Names stay the same between attempts."""
        base = name = "size_" + re.sub(r"\W", "_", self.prefix + hint)
        n = 1
        while name in self.graph.dims or name in self.outer:
            n += 1
            name = f"{base}_{n}"
        low, opt, high = range_
        if name in self.learnt.given:  # the profile's, within what is known
            least, opt, most = self.learnt.given[name]
            low, high = max(low, least), most if high == UNKNOWN_RANGE[2] else min(high, most)
            opt = max(opt, low)
        high = min(high, self.learnt.most.get(name, high))
        self.graph.dims[name] = (min(low, high), min(opt, high), high)
        self.learnt.sizes.setdefault(name, len(self.learnt.sizes))
        d: Dim = symbol(name)
        for _ in range(8):  # names may stand for names
            d = substitute(d, self.learnt.equal)
        return name, d

    # -- values --------------------------------------------------------------------------------

    def materialize(self, x: Operand) -> Value:
        """x as a value: a constant where it is static, else a `dims` node."""
        if isinstance(x, Value):
            return x
        if not isinstance(x, Partial):
            from whet.frontends.sequences import made

            return made(self, x)
        told = self._told(x) if not self.varying.isdisjoint(names(*x.dims.reshape(-1))) else None
        if told is not None:
            return told
        v = self.graph.add("dims", [], {"values": tuple(x.dims.reshape(-1).tolist()), "shape": x.dims.shape},
                           origin="shape arithmetic")
        return v if x.dtype is DType.I64 else self.graph.add("cast", [v], {"to": x.dtype}, origin="shape arithmetic")

    def _told(self, x: Partial) -> Value | None:
        """x computed from the scalars that its dimensions are learnt from, where all are linear in one each: then
        nothing needs to be bound anew where these change."""
        if x.dtype is not DType.I64 or x.dims.size > 8:
            return None
        parts = [self._linear(d) for d in x.dims.reshape(-1)]
        if any(p is None for p in parts):
            return None
        (first, *more) = parts
        if not more and x.shape == ():
            return first
        rows = [p if p is None or p.shape == (1,) else self.emit("reshape", p, shape=(1,)) for p in parts]
        row = self.emit("concat", *rows, axis=0) if more else rows[0]
        return row if row is None or row.shape == x.shape else self.emit("reshape", row, shape=x.shape)

    def _linear(self, d: Dim) -> Value | None:
        """slope * name + rest as a scalar, made of the scalar that the name is learnt from."""
        changing = names(d) & self.varying
        if not changing:
            return self.materialize(self.operand(d))
        name = next(iter(changing))
        s, (slope, rest) = self.graph.sizes.get(name), linear(d, name)
        if len(changing) > 1 or not slope or s is None or s.axis or s.value.shape or s.value.dtype is not DType.I64:
            return None
        v = s.value if slope == 1 else self.emit("mul", s.value, self.graph.const(slope, DType.I64))
        return v if rest == 0 else self.emit("add", v, self.materialize(self.operand(rest)))

    def operand(self, dims: Any, dtype: DType = DType.I64) -> Operand:
        """An array of Dims as a constant where all are ints, else as a Partial."""
        array = np.asarray(dims, dtype=object)
        if all(not isinstance(d, Sym) for d in array.reshape(-1)):
            return self.graph.const(array.astype(dtype.np), dtype)
        return Partial(array, dtype)

    def emit(self, op: str, *inputs: Value | None, origin: str = "", hint: str = "", **attrs: Any) -> Value:
        """Add a node and return its output; small constants are folded."""
        return self.emit_node(op, inputs, attrs, origin, hint).output

    def emit_node(self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any], origin: str = "",
                  hint: str = "") -> Node:
        node = self.graph.add_node(op, inputs, attrs, origin=origin, hint=hint)
        if self._foldable(node):
            results = evaluate(node, [None if v is None else v.data for v in node.inputs])
            self.graph.nodes.pop()
            for v, data in zip(node.outputs, results, strict=True):
                v.data, v.producer = data, None
        return node

    @staticmethod
    def _foldable(node: Node) -> bool:
        def small(shape: Shape) -> bool:
            size = product(shape)
            return isinstance(size, int) and size <= FOLD_LIMIT

        if node.op == "dequantize" and node.input(0).dtype is not DType.I32 and node.input(0).rank > 1:
            return False  # weights: the pass `integer` multiplies their codes
        return (node.op not in HOST and node.op != "dequantize_grouped"
                and all(v is None or (v.data is not None and small(v.shape)) for v in node.inputs)
                and all(small(v.shape) for v in node.outputs)
                and not any(isinstance(d, Sym) for a in node.attrs.values() if isinstance(a, tuple) for d in a))


def linear(d: Dim, name: str) -> tuple[int, Dim]:
    """(a, b) where d is a * name + b and b is without the name; (0, d) where it is not linear."""
    rest = substitute(d, {name: 0})
    slope = substitute(d, {name: 1}) - rest
    if isinstance(slope, int) and d == symbol(name) * slope + rest:
        return slope, rest
    return 0, d


class Call:
    """One ONNX node being lowered."""

    def __init__(self, builder: Builder, proto: onnx.NodeProto, inputs: list[Operand | None], opset: int) -> None:
        self.builder = builder
        self.proto = proto
        self.inputs = inputs
        self.opset = opset
        self._attrs = {a.name: a for a in proto.attribute}
        first = next((o for o in proto.output if o), "")
        self.origin = f"{proto.op_type} {proto.name or first}".strip()
        self.hint = first or proto.op_type

    # -- operands ------------------------------------------------------------------------------

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def x(self, i: int = 0) -> Value:
        """Operand i as a value; GraphError if it is absent."""
        v = self.opt(i)
        if v is None:
            raise GraphError(f"{self.proto.op_type} lacks its input {i}", where=self.origin)
        return v

    def opt(self, i: int) -> Value | None:
        """Operand i as a value, or None if it is absent."""
        if not self.has(i):
            return None
        x = self.inputs[i]
        assert x is not None
        if not isinstance(x, Value):
            x = self.builder.materialize(x)
            self.inputs[i] = x
        return x

    def operands(self) -> list[Value]:
        """Every operand that is there, as values."""
        return [self.x(i) for i in range(len(self.inputs)) if self.has(i)]

    def const(self, i: int) -> np.ndarray | None:
        """The data of operand i, None if it is not a constant."""
        x = self.inputs[i] if self.has(i) else None
        if not isinstance(x, Value):
            return None
        made = x.producer
        if made is not None and made.op == "dequantize" and all(v is not None and v.is_const for v in made.inputs):
            return evaluate(made, [v.data for v in made.inputs if v is not None])[0]
        return x.data

    def computed(self, i: int) -> bool:
        """True if operand i is there and no constant: dimensions, or what the model computes."""
        return self.has(i) and self.const(i) is None

    def number(self, i: int, default: float) -> float:
        """A constant scalar operand, `default` if it is absent. UnsupportedError if it is computed."""
        if not self.has(i):
            return default
        return self.fixed(i, "a scalar").reshape(-1)[0].item()

    def fixed(self, i: int, what: str) -> np.ndarray:
        """The data of operand i, which must be a constant. If it is computed, NeedsReferenceError where that runs the
        operator, else UnsupportedError."""
        data = self.const(i)
        if data is None and not self.proto.domain:
            raise NeedsReferenceError(f"with {what} that is computed")
        if data is None:
            self.unsupported(f"{what} (input {i}) is computed while the model runs",
                             "fold it: onnxsim, or export with constants")
        return data

    def dims(self, i: int, what: str = "a shape") -> list[Dim]:
        """Operand i as a list of dimensions: numbers >= 0 by their meaning where they are computed while the model
        runs. `scalars.elements` gives such numbers as they are. NeedsReferenceError if not even their count is known.
        """
        from whet.frontends.scalars import Scalars

        x = self.inputs[i] if self.has(i) else None
        if isinstance(x, Partial):
            return list(x.dims.reshape(-1))
        if isinstance(x, Value) and x.data is None:
            s = Scalars(self)
            return [s.read(e, f"{self.hint}_{k}") for k, e in enumerate(s.elements(i))]
        return [int(d) for d in self.fixed(i, what).reshape(-1)]

    def ints(self, i: int, what: str) -> list[int]:
        """Operand i as a list of ints. UnsupportedError if it is symbolic; as `fixed` if it depends on data."""
        out = []
        if isinstance(self.inputs[i], Value):
            self.fixed(i, what)
        for d in self.dims(i, what):
            if isinstance(d, Sym):
                self.unsupported(f"{what} (input {i}) depends on the dimension {d}", "fix it with shapes=")
            out.append(d)
        return out

    # -- attributes ----------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value (strings decoded, tensors as arrays), `default` if it is absent."""
        a = self._attrs.get(name)
        if a is None:
            return default
        if a.type == onnx.AttributeProto.TENSOR:
            return self.builder.tensors.array(a.t)
        value = onnx.helper.get_attribute_value(a)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if a.type == onnx.AttributeProto.STRINGS:
            return [s.decode("utf-8", "replace") for s in value]
        return list(value) if a.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value

    def axes(self, i: int, rank: int, name: str = "axes") -> tuple[int, ...] | None:
        """Axes from operand i or the attribute, counted from 0; None if neither is there."""
        given = self.ints(i, name) if self.has(i) else self.attr(name)
        if given is None:
            return None
        return tuple(self.axis(a, rank) for a in given)

    def axis(self, a: int, rank: int) -> int:
        """An axis counted from 0; GraphError if it is outside."""
        if not -rank <= a < max(rank, 1):
            raise GraphError(f"axis {a} is outside rank {rank}", where=self.origin, do="export the model again")
        return a % max(rank, 1)

    @property
    def n_outputs(self) -> int:
        """The number of outputs up to the last one that has a name."""
        return max((i + 1 for i, o in enumerate(self.proto.output) if o), default=0)

    def wants(self, i: int) -> bool:
        """True if output i has a name."""
        return i < len(self.proto.output) and bool(self.proto.output[i])

    # -- building ------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return self.builder.emit(op, *inputs, origin=self.origin, hint=self.hint, **attrs)

    def like(self, x: Value, value: Any) -> Value:
        """A scalar constant of the type of x."""
        return self.builder.graph.const(np.asarray(value).astype(x.dtype.np), x.dtype)

    def constant(self, data: Any, dtype: DType) -> Value:
        return self.builder.graph.const(np.asarray(data).astype(dtype.np), dtype)

    def cast(self, x: Value, to: DType) -> Value:
        return x if x.dtype is to else self.emit("cast", x, to=to)

    def reshape(self, x: Value, shape: Iterable[Dim]) -> Value:
        shape = tuple(shape)
        return x if shape == x.shape else self.emit("reshape", x, shape=shape)

    def transpose(self, x: Value, perm: Iterable[int]) -> Value:
        perm = tuple(perm)
        return x if perm == tuple(range(x.rank)) else self.emit("transpose", x, perm=perm)

    def expand(self, x: Value, shape: Iterable[Dim]) -> Value:
        shape = tuple(shape)
        return x if shape == x.shape else self.emit("expand", x, shape=shape)

    def slice(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """x[start : start + size*step : step] along one axis."""
        if start == 0 and step == 1 and size == x.shape[axis]:
            return x
        if step == 1 and isinstance(size, int) and not self.builder.varying.isdisjoint(names(start)):
            at = self.builder.materialize(self.builder.operand([start]))  # read, so that nothing is bound anew
            rows = at if size == 1 else self.emit("add", at, self.constant(np.arange(size), DType.I64))
            return self.emit("gather", x, rows, axis=axis)
        starts: list[Dim] = [0] * x.rank
        starts[axis] = start
        return self.emit("slice", x, starts=tuple(starts), sizes=(*x.shape[:axis], size, *x.shape[axis + 1:]),
                         steps=tuple(step if i == axis else 1 for i in range(x.rank)))

    def reduce(self, x: Value, kind: str, axes: Sequence[int], keepdims: bool = True) -> Value:
        return self.emit("reduce", x, kind=kind, axes=tuple(axes), keepdims=keepdims)

    def unsupported(self, what: str, do: str) -> NoReturn:
        raise UnsupportedError(f"{self.proto.op_type}: {what}", where=self.origin,
                               why="whet needs to know it when it builds the plan", do=do)


def unknown_operator(proto: onnx.NodeProto, opset: int | None) -> UnsupportedError:
    """The error for an operator that neither whet nor ONNX knows, with the nearest name that exists."""
    domain = proto.domain or "ai.onnx"
    known = sorted({s.name for s in onnx.defs.get_all_schemas()} | {op for _, op in LOWERINGS})
    near = difflib.get_close_matches(proto.op_type, known, n=1)
    first = next((o for o in proto.output if o), "")
    return UnsupportedError(
        f"unknown operator {proto.op_type} of domain {domain}, opset {opset if opset is not None else 'not imported'}",
        where=f"node {proto.name or first}",
        why="neither ONNX's standard nor whet nor an installed plugin defines it",
        do=f"did you mean {near[0]}?" if near else
        "export the model with standard operators or as a local function, or write a plugin for it (docs/plugins.md)")
