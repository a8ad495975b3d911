"""The graph: values, nodes, and the few edits that passes are made of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whet.errors import GraphError
from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim, Shape, Sym, evaluate, names


class Value:
    """One tensor: a graph input, a node's output, or a constant (`data` is not None).

    Identity is the object, not the name; names are unique within a graph and for people.
    """

    __slots__ = ("data", "dtype", "index", "name", "producer", "shape")

    def __init__(self, name: str, dtype: DType, shape: Iterable[Dim], data: np.ndarray | None = None) -> None:
        self.name = name
        self.dtype = dtype
        self.shape: Shape = tuple(shape)
        self.data = data
        self.producer: Node | None = None
        self.index = 0  # which output of the producer

    @property
    def is_const(self) -> bool:
        return self.data is not None

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        dims = "x".join(f"({d})" if not isinstance(d, int) and len(d.terms) > 1 else str(d) for d in self.shape)
        return f"%{self.name}:{self.dtype.value}[{dims}]"


@dataclass(eq=False)
class Node:
    """One operation. `op` names a row of `ir.ops.OPS`; `origin` is the ONNX node it came from.

    `compute`: the precision that products (matmul, conv, attention) are taken in, as a region's; "int8": an attention
    that may be computed from the codes that its operands were quantized to.
    """

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    compute: str = "f32"

    def __post_init__(self) -> None:
        for i, v in enumerate(self.outputs):
            v.producer, v.index = self, i

    @property
    def names(self) -> set[str]:
        """What people call the node: its origin, and the part of that which the model has."""
        return {self.origin, self.origin.partition(" ")[2]} - {""}

    @property
    def output(self) -> Value:
        """The only output."""
        (v,) = self.outputs
        return v

    def input(self, i: int) -> Value:
        """Input i, which must be there."""
        v = self.inputs[i]
        if v is None:
            raise GraphError(f"{self.op} lacks its input {i}", where=self.origin)
        return v


@dataclass(frozen=True)
class Size:
    """Where a symbolic dimension that no input's shape tells is learnt while the graph runs: element `at` (in
    row-major order) of the integer tensor `value`, or where `axis` is set, dimension `at` of `value`."""

    value: Value
    at: int
    axis: bool = False


@dataclass(frozen=True)
class Check:
    """What must hold of sizes that data tell, as soon as all of them are known: a == b, or where `most`, a <= b."""

    a: Dim
    b: Dim
    what: str  # for people: the operator and what it needs
    most: bool = False

    def holds(self, env: Mapping[str, int]) -> bool:
        a, b = evaluate(self.a, env), evaluate(self.b, env)
        return a <= b if self.most else a == b


class Graph:
    """A function from `inputs` to `outputs`, its nodes in an order in which they can run.

    `dims` holds the optimization profile: (min, opt, max) of every symbolic dimension's name.
    `sizes` tells where those dimensions come from that depend on data. A node that uses such a dimension
    depends on the value that it is learnt from as if it read it. `checks` are conditions on such dimensions without
    which a node would read what is not there. `contents` gives the elements of integer inputs that are used as sizes
    ranges of their own, by the input's name.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.dims: dict[str, tuple[int, int, int]] = {}
        self.sizes: dict[str, Size] = {}
        self.checks: list[Check] = []
        self.contents: dict[str, tuple[tuple[int, int, int], ...]] = {}
        self.output_names: list[str] = []  # as the model calls them; values may be shared or renamed
        self.reserved: set[str] = set()  # names given from outside, which `fresh` must not give again
        self._serial = itertools.count(1)

    # -- building --------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A name that no value of this graph had from `fresh` before."""
        base = re.sub(r"(\.\d+)+$", "", hint)
        while True:
            name = f"{base}.{next(self._serial)}"
            if name not in self.reserved:
                return name

    def body(self, name: str) -> Graph:
        """An empty graph for control flow inside this one: it knows the same dimensions, and `fresh` gives no name
        in it that it gives in this one."""
        g = Graph(name)
        g.dims, g.reserved, g._serial = dict(self.dims), self.reserved, self._serial
        return g

    def const(self, data: Any, dtype: DType | None = None, hint: str = "c") -> Value:
        """A constant value."""
        arr = np.asarray(data, dtype=dtype.np if dtype else None)
        return Value(self.fresh(hint), DType.of(arr.dtype), arr.shape, arr)

    def add(self, op: str, inputs: Iterable[Value | None], attrs: Mapping[str, Any] | None = None, *,
            origin: str = "", hint: str = "", before: Node | None = None) -> Value:
        """Append a one-output node (or insert it before another), its type and shape inferred."""
        return self.add_node(op, inputs, attrs, origin=origin, hint=hint, before=before).output

    def add_node(self, op: str, inputs: Iterable[Value | None], attrs: Mapping[str, Any] | None = None, *,
                 origin: str = "", hint: str = "", before: Node | None = None) -> Node:
        """Append a node with its outputs' types and shapes inferred from the table of operators."""
        from whet.ir.ops import infer

        ins, at = list(inputs), dict(attrs or {})
        specs = infer(op, ins, at, origin)
        outs = [Value(self.fresh(hint or op), t, s) for t, s in specs]
        node = Node(op, ins, outs, at, origin)
        if before is None:
            self.nodes.append(node)
        else:
            self.nodes.insert(self.nodes.index(before), node)
        return node

    def copy(self) -> Graph:
        """A graph of the same names that can be changed without this one; constants' arrays are shared."""
        return self._copied({})

    def _copied(self, known: dict[int, Value]) -> Graph:
        g = Graph(self.name)
        last = next(self._serial)
        self._serial, g._serial = itertools.count(last), itertools.count(last)
        g.dims, g.checks, g.contents = dict(self.dims), list(self.checks), dict(self.contents)
        g.output_names, g.reserved = list(self.output_names), set(self.reserved)

        def value(v: Value) -> Value:
            if id(v) not in known:
                known[id(v)] = Value(v.name, v.dtype, v.shape, v.data)
            return known[id(v)]

        g.inputs = [value(v) for v in self.inputs]
        for n in self.nodes:
            attrs = {k: a._copied(known) if isinstance(a, Graph) else a for k, a in n.attrs.items()}
            g.nodes.append(Node(n.op, [None if v is None else value(v) for v in n.inputs],
                                [value(v) for v in n.outputs], attrs, n.origin, n.compute))
        g.outputs = [value(v) for v in self.outputs]
        g.sizes = {k: Size(value(s.value), s.at, s.axis) for k, s in self.sizes.items()}
        return g

    # -- reading ---------------------------------------------------------------------------

    def uses(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, once for each time they do."""
        out: dict[Value, list[Node]] = {}
        for n in self.nodes:
            for v in n.inputs:
                if v is not None:
                    out.setdefault(v, []).append(n)
        return out

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, constants at their first use, nodes' outputs, in order."""
        seen: set[int] = set()
        for group in (self.inputs, *(g for n in self.nodes for g in (n.inputs, n.outputs)), self.outputs):
            for v in group:
                if v is not None and id(v) not in seen:
                    seen.add(id(v))
                    yield v

    def bodies(self) -> Iterator[Graph]:
        """The graphs inside this one's control flow, one level down."""
        for n in self.nodes:
            for a in n.attrs.values():
                if isinstance(a, Graph):
                    yield a

    def learnt(self, node: Node) -> list[Value]:
        """The values, other than its own results, that tell the data-dependent dimensions which the node uses."""
        if not self.sizes:
            return []
        told = [self.sizes[n].value for n in sorted(self._names_used(node)) if n in self.sizes]
        return [v for v in told if v.producer is not node]

    @staticmethod
    def _names_used(node: Node) -> set[str]:
        used = names(*(d for o in node.outputs for d in o.shape), *dims_in(tuple(node.attrs.values())))
        for a in node.attrs.values():  # regions and the bodies of control flow list theirs
            used |= set(getattr(a, "dims", ()))
        return used

    def read_outside(self) -> set[Value]:
        """The values that somebody else than a node reads: the outputs, and what dimensions are learnt from."""
        return {*self.outputs, *(s.value for s in self.sizes.values())}

    # -- editing ---------------------------------------------------------------------------

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old` (nodes and graph outputs) read `new` instead. O(nodes)."""
        self.replace_many({old: new})

    def replace_many(self, mapping: Mapping[Value, Value]) -> None:
        """`replace` for many values in one walk; chains (a to b, b to c) are followed."""
        if not mapping:
            return

        def final(v: Value) -> Value:
            while v in mapping:
                v = mapping[v]
            return v

        for n in self.nodes:
            n.inputs = [final(v) if v is not None else None for v in n.inputs]
        self.outputs = [final(v) for v in self.outputs]
        self.sizes = {n: replace(s, value=final(s.value)) for n, s in self.sizes.items()}

    def sort(self) -> None:
        """Put the nodes in a topological order, stable. GraphError names a cycle."""
        done: set[int] = set()
        order: list[Node] = []
        state: dict[int, int] = {}
        members = {id(n) for n in self.nodes}
        for root in self.nodes:
            stack: list[tuple[Node, int]] = [(root, 0)]
            while stack:
                n, i = stack.pop()
                if id(n) in done:
                    continue
                if i == 0:
                    state[id(n)] = 1
                deps = [v.producer for v in (*n.inputs, *self.learnt(n)) if v is not None and v.producer is not None]
                while i < len(deps) and (id(deps[i]) in done or id(deps[i]) not in members):
                    i += 1
                if i < len(deps):
                    dep = deps[i]
                    assert dep is not None
                    if state.get(id(dep)) == 1:
                        raise GraphError("the graph has a cycle", where=f"node {dep.origin or dep.op}",
                                         why="a node's input depends on its own output",
                                         do="export the model again; loops must use Loop or Scan")
                    stack += [(n, i + 1), (dep, 0)]
                else:
                    state[id(n)] = 2
                    done.add(id(n))
                    order.append(n)
        self.nodes = order

    def prune(self) -> int:
        """Drop the nodes whose outputs nobody reads, and the data-dependent sizes that nothing needs; returns how
        many nodes."""
        if not self.sizes:
            return self._prune_unread()
        there = {id(v) for v in self.inputs} | {id(o) for n in self.nodes for o in n.outputs}
        gone = {n for n, s in self.sizes.items() if not s.value.is_const and id(s.value) not in there}
        self.sizes = {n: s for n, s in self.sizes.items() if n not in gone}
        self.checks = [c for c in self.checks if gone.isdisjoint(names(c.a, c.b))]
        wanted = names(*(d for v in self.outputs for d in v.shape), *(d for c in self.checks for d in (c.a, c.b)))
        live = {id(v) for v in self.outputs} | {id(self.sizes[n].value) for n in wanted if n in self.sizes}
        kept: list[Node] = []
        for n in reversed(self.nodes):
            if any(id(o) in live for o in n.outputs):
                kept.append(n)
                live.update([id(v) for v in n.inputs if v is not None])
                used = self._names_used(n)
                told = [self.sizes[name].value for name in used & self.sizes.keys()]
                live.update([id(v) for v in told if v.producer is not n])
                wanted |= used
        dropped = len(self.nodes) - len(kept)
        self.nodes = kept[::-1]
        for name in self.sizes.keys() - wanted:
            del self.sizes[name]
            self.dims.pop(name, None)
        return dropped

    def _prune_unread(self) -> int:
        """`prune` where no dimension depends on data, so that nobody is interested in names."""
        live = {id(v) for v in self.outputs}
        kept: list[Node] = []
        for n in reversed(self.nodes):
            if any(id(o) in live for o in n.outputs):
                kept.append(n)
                live.update([id(v) for v in n.inputs if v is not None])
        dropped = len(self.nodes) - len(kept)
        self.nodes = kept[::-1]
        return dropped


def dims_in(v: object) -> list[Sym]:
    """The symbolic dimensions that occur in an attribute's value."""
    if isinstance(v, Sym):
        return [v]
    return [d for x in v for d in dims_in(x)] if isinstance(v, (tuple, list)) else []
