"""Bodies of control flow: graphs inside a graph, and what they take from around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from onnx import GraphProto, TypeProto

from whet.frontends.call import Builder, Call, Items, Operand, Rows
from whet.frontends.reference import remember
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value, dims_in
from whet.ir.ops_base import Spec
from whet.ir.symbolic import Dim, names

if TYPE_CHECKING:
    from whet.frontends.control import State

Scope = Mapping[str, Operand]


class Captures(Scope):
    """The names around a body as the body sees them: a value that it reads becomes an input of it."""

    def __init__(self, around: Scope, builder: Builder) -> None:
        self.around = around
        self.builder = builder
        self.taken: dict[Value, Value] = {}  # outside -> the body's input

    def __getitem__(self, name: str) -> Operand:
        return self.inside(self.around[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.around)

    def __len__(self) -> int:
        return len(self.around)

    def __contains__(self, name: object) -> bool:
        return name in self.around

    def inside(self, x: Operand) -> Operand:
        """What stands in the body for an operand from outside."""
        if isinstance(x, Items):
            return replace(x, items=tuple(self.inside(i) for i in x.items))
        if isinstance(x, Rows):
            return Rows(self.value(x.value))
        return self.value(x) if isinstance(x, Value) else x

    def value(self, v: Value) -> Value:
        if v.data is not None:
            return v
        if v not in self.taken:
            self.taken[v] = new = Value(v.name, v.dtype, v.shape)
            if v in self.builder.types:
                self.builder.types[new] = self.builder.types[v]
        return self.taken[v]


@dataclass
class Body:
    """An imported body: its inputs are the formal ones, then one for each of `captures`."""

    graph: Graph
    captures: list[Value]


class Importer(Protocol):
    """What this module needs of the importer: the graph in hand, and to lower nodes into it."""

    builder: Builder
    graph: Graph
    generalized: dict[Any, list[State]]

    def inside(self, name: str, label: str) -> Importer:
        """An importer into a new graph inside this one. `label` tells the dimensions of bodies apart."""

    def subgraph(self, g: GraphProto, scope: Scope, given: Mapping[str, Operand]) -> list[Operand]:
        """Lower a graph's nodes. Its names may refer to `scope`, its own inputs are `given`."""


Formals = Callable[[Builder], list[Value]]
Fill = Callable[[Importer, Captures, list[Value]], Sequence[Operand]]


def body_of(importer: Importer, name: str, label: str, scope: Scope, formals: Formals, fill: Fill) -> Body:
    """A graph with these formal inputs that `fill` adds nodes to and gives the outputs of."""
    inner = importer.inside(name, label)
    graph, captures = inner.graph, Captures(scope, inner.builder)
    graph.inputs = given = formals(inner.builder)
    outputs = fill(inner, captures, given)
    graph.outputs = [inner.builder.materialize(x) for x in outputs]
    graph.inputs = [*given, *captures.taken.values()]
    graph.prune()
    used = {*graph.read_outside(), *(v for n in graph.nodes for v in n.inputs if v is not None)}
    taken = {v: i for v, i in captures.taken.items() if i in used}
    graph.inputs = [*given, *taken.values()]
    graph.dims = {n: graph.dims[n] for n in sorted(_used_dims(graph)) if n in graph.dims}
    return Body(graph, list(taken))


def _used_dims(graph: Graph) -> set[str]:
    """The dimensions that a graph's values, attributes and bodies use."""
    used = names(*(d for v in graph.values() for d in v.shape), *(d for c in graph.checks for d in (c.a, c.b)))
    for n in graph.nodes:
        used |= names(*dims_in(tuple(n.attrs.values())))
    return used.union(graph.sizes, *(b.dims for b in graph.bodies()))


def aligned(importer: Importer, bodies: Sequence[Body]) -> list[Value]:
    """Give bodies without formal inputs the same captures in the same order; returns what is captured."""
    captured = list(dict.fromkeys(v for b in bodies for v in b.captures))
    ranges = importer.graph.dims
    for b in bodies:
        have = dict(zip(b.captures, b.graph.inputs))
        b.graph.inputs = [have.get(v) or Value(v.name, v.dtype, v.shape) for v in captured]
        b.graph.dims = {**{n: ranges[n] for v in captured for n in names(*v.shape)}, **b.graph.dims}
    return captured


def emit(importer: Importer, call: Call, op: str, operands: Sequence[Value | None], attrs: dict[str, Any],
          types: Sequence[TypeProto | None], specs: Sequence[Spec]) -> list[Operand]:
    """The node, and its results with what is known of them."""
    node: Node = importer.builder.emit_node(op, operands, {**attrs, "results": tuple(specs)}, call.origin, call.hint)
    for v, t in zip(node.outputs, types, strict=True):
        remember(importer.builder, v, t)
    return list(node.outputs)


def result(importer: Importer, dtype: DType, dims: Sequence[Dim | None], hint: str) -> Spec:
    """A result's type and shape: dimensions that are not known outside get names."""
    known = importer.graph.dims.keys()
    return dtype, tuple(importer.builder.unknown(f"{hint}_{i}") if d is None or not names(d) <= known else d
                        for i, d in enumerate(dims))
