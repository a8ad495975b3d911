"""Model-local functions put in the place of their calls, however deep they call each other.

`onnx.inliner` is used where a function was written for another opset than the model's, since it converts versions; it
refuses functions nested deeper than 100, and has no bound on what it makes. (What a call means: onnx/docs/IR.md,
"Model Functions".)
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import onnx.inliner
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from whet.errors import GraphError, UnsupportedError

MAX_NODES = 1_000_000  # of the model without functions
MAX_COPIES = 1 << 28  # bytes that calls may add to what the model has already

Key = tuple[str, str, str]  # domain, name, overload
Nodes = list[NodeProto]
Task = Iterator[Any]  # a generator that yields the tasks which it waits for: recursion without a stack of calls


def inlined(model: ModelProto) -> ModelProto:
    """The model without functions: each call replaced by the function's nodes, with fresh names. Initializers keep
    their places. Functions that need another opset are converted to the model's.

    GraphError: a function that calls itself, is there twice, or gets more operands than it takes, or cannot be
    converted. UnsupportedError: over `MAX_NODES` nodes or `MAX_COPIES` bytes would come out.
    """
    if not model.functions:
        return model
    functions: dict[Key, FunctionProto] = {}
    for f in model.functions:
        key = (_domain(f.domain), f.name, f.overload)
        if key in functions:
            raise GraphError(f"there are two functions {_shown(key)}", do="export the model again")
        functions[key] = f
    order = _callees_first(model.graph, functions)
    _check_size(model, functions, order)
    if any(_needs_conversion(model, functions[k], functions) for k in order):
        return _converted(model)
    return _Inliner(model, functions).run(order)


# -- what will come out -----------------------------------------------------------------------------


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _shown(key: Key) -> str:
    return "::".join(part for part in (key[0] or "ai.onnx", key[1], key[2]) if part)


def _key(n: NodeProto) -> Key:
    return _domain(n.domain), n.op_type, n.overload


def _graphs(n: NodeProto) -> list[GraphProto]:
    return [g for a in n.attribute if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
            for g in ([a.g] if a.type == AttributeProto.GRAPH else a.graphs)]


def _all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """The nodes, and those of the graphs inside them."""
    left: list[Sequence[NodeProto]] = [nodes]
    while left:
        for n in left.pop():
            yield n
            left += [g.node for g in _graphs(n)]


def _callees_first(g: GraphProto, functions: Mapping[Key, FunctionProto]) -> list[Key]:
    """The functions that the graph calls, each after all that it calls itself. GraphError for a cycle."""
    def callees(nodes: Sequence[NodeProto]) -> Iterator[Key]:
        return iter(dict.fromkeys(k for n in _all_nodes(nodes) if (k := _key(n)) in functions))

    done: dict[Key, bool] = {}  # False while what it calls is looked at
    order: list[Key] = []
    path: list[tuple[Key | None, Iterator[Key]]] = [(None, callees(g.node))]
    while path:
        key, calls = path[-1]
        called = next(calls, None)
        if called is None:
            path.pop()
            if key is not None:
                done[key] = True
                order.append(key)
        elif called not in done:
            done[called] = False
            path.append((called, callees(functions[called].node)))
        elif not done[called]:
            raise GraphError(f"the function {_shown(called)} calls itself", why="functions may not be recursive",
                             do="use Loop, or export the model again")
    return order


def _check_size(model: ModelProto, functions: Mapping[Key, FunctionProto], order: Sequence[Key]) -> None:
    """UnsupportedError where calls that multiply would make an absurd number of nodes."""
    sizes: dict[Key, tuple[int, int]] = {}

    def size(nodes: Sequence[NodeProto]) -> tuple[int, int]:
        count, nbytes = 0, 0
        for n in _all_nodes(nodes):
            inner = sizes.get(_key(n), (0, 0))
            count, nbytes = count + 1 + inner[0], nbytes + inner[1]
        return min(count, MAX_NODES + 1), min(nbytes, 1 << 62)

    for key in order:
        count, nbytes = size(functions[key].node)
        sizes[key] = count, nbytes + functions[key].ByteSize()
    count, nbytes = size(model.graph.node)
    if count > MAX_NODES:
        raise UnsupportedError(f"the model's functions come to over {MAX_NODES:,} nodes",
                               why="functions call others more than once, at many levels", do="export the model again")
    if nbytes > MAX_COPIES + sum(f.ByteSize() for f in model.functions):
        raise UnsupportedError(f"the model's functions come to {nbytes:,} bytes",
                               why="functions with large constants are called many times",
                               do="make the constants inputs of the functions")


def _needs_conversion(model: ModelProto, f: FunctionProto, functions: Mapping[Key, FunctionProto]) -> bool:
    """True if an operator of the function is another in the model's opset."""
    here = {_domain(o.domain): o.version for o in model.opset_import}
    there = {_domain(o.domain): o.version for o in f.opset_import}
    differ = {d for d, v in there.items() if here.get(d, v) != v}
    for n in _all_nodes(f.node) if differ else ():
        d = _domain(n.domain)
        if d in differ and _key(n) not in functions and \
                _since(n.op_type, there[d], d) != _since(n.op_type, here[d], d):
            return True
    return False


def _since(op: str, version: int, domain: str) -> int:
    try:
        return int(onnx.defs.get_schema(op, version, domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def _converted(model: ModelProto) -> ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as e:  # the C++ side raises RuntimeError and its own kinds
        raise GraphError("the model's functions are of another opset and cannot be converted",
                         why=(str(e).strip().splitlines() or [""])[0],
                         do="check the model with onnx.checker, or export all of it with one opset") from None


# -- putting functions in the place of calls ---------------------------------------------------------


def _run(task: Task) -> None:
    stack = [task]
    while stack:
        waited_for = next(stack[-1], None)
        if waited_for is None:
            stack.pop()
        else:
            stack.append(waited_for)


class _Inliner:
    def __init__(self, model: ModelProto, functions: Mapping[Key, FunctionProto]) -> None:
        self.model, self.functions = model, functions
        self.called = {k[:2] for k in functions}
        self.calls = 0
        self.copied = 0  # bytes of attributes
        g = model.graph
        self.taken = {v.name for v in (*g.input, *g.output)} | {t.name for t in g.initializer}
        for n in _all_nodes(g.node):
            self.taken.update(n.input, n.output)
            for b in _graphs(n):
                self.taken |= {v.name for v in (*b.input, *b.output)} | {t.name for t in b.initializer}

    def run(self, order: Sequence[Key]) -> ModelProto:
        out = ModelProto()
        out.CopyFrom(self.model)
        del out.functions[:]
        imported = {_domain(o.domain) for o in out.opset_import}
        for key in order:
            for o in self.functions[key].opset_import:
                if _domain(o.domain) not in imported:
                    imported.add(_domain(o.domain))
                    out.opset_import.append(o)
        _run(self.graph(out.graph, None, {}))
        return out

    def graph(self, g: GraphProto, scope: Mapping[str, str] | None, attributes: Mapping[str, AttributeProto]) -> Task:
        """Inline the calls in a graph. `scope` is what names mean around it where the graph is part of a function
        (its own names are then new ones), None where names stay."""
        if scope is not None:
            self.calls += 1
            scope = ChainMap({o: self.fresh(o) for o in self.own(g)}, *getattr(scope, "maps", [scope]))
            for v in (*g.input, *g.output, *g.value_info):
                v.name = scope.get(v.name, v.name)
            for t in g.initializer:
                t.name = scope[t.name]
            for s in g.sparse_initializer:
                s.values.name = scope[s.values.name]
            for q in g.quantization_annotation:
                q.tensor_name = scope.get(q.tensor_name, q.tensor_name)
        nodes = list(g.node)
        made: Nodes = []
        yield self.nodes(nodes, scope, attributes, made)
        if len(made) != len(nodes) or any(a is not b for a, b in zip(made, nodes)):
            copies = GraphProto(node=made)  # apart, before what they are copies of goes
            del g.node[:]
            g.node.MergeFrom(copies.node)

    @staticmethod
    def own(g: GraphProto) -> list[str]:
        """The names that a graph defines."""
        sparse = (s.values.name for s in g.sparse_initializer)
        made = (o for n in g.node for o in n.output)
        given = (*(v.name for v in g.input), *(t.name for t in g.initializer), *sparse)
        return [name for name in dict.fromkeys((*given, *made)) if name]

    def fresh(self, name: str) -> str:
        new = f"{name}__{self.calls}"
        while new in self.taken:
            new += "_"
        self.taken.add(new)
        return new

    def nodes(self, nodes: Sequence[NodeProto], scope: Mapping[str, str] | None,
              attributes: Mapping[str, AttributeProto], made: Nodes) -> Task:
        """Add to `made` what these nodes become, which are this task's to change."""
        serial = self.calls
        for n in nodes:
            if scope is not None:
                n.input[:] = [self.actual(i, scope, n) for i in n.input]
                n.output[:] = [scope[o] if o else "" for o in n.output]
                if n.name:
                    n.name = f"{n.name}__{serial}"
            given = self.bind(n, attributes) if scope is not None else ()
            for a in n.attribute:
                if a.name not in given:  # a graph that the caller gives has the caller's names
                    for g in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
                        yield self.graph(g, scope, attributes)
            if (_domain(n.domain), n.op_type) in self.called and (f := self.functions.get(_key(n))) is not None:
                yield self.call(n, f, made)
            else:
                made.append(n)

    def call(self, n: NodeProto, f: FunctionProto, made: Nodes) -> Task:
        """Add to `made` the nodes of a function for one call of it."""
        if len(n.input) > len(f.input) or len(n.output) > len(f.output):
            raise GraphError(f"a call of {_shown(_key(n))} has {len(n.input)} inputs and {len(n.output)} outputs",
                             where=f"node {n.name or next(iter(n.output), n.op_type)}",
                             why=f"the function has {len(f.input)} and {len(f.output)}", do="export the model again")
        self.calls += 1
        attributes = {a.name: a for a in f.attribute_proto} | {a.name: a for a in n.attribute}
        body = FunctionProto()
        body.node.MergeFrom(f.node)
        scope = dict(zip(f.input, [*n.input, *[""] * (len(f.input) - len(n.input))]))
        passed: list[tuple[str, str]] = []  # outputs that are an input, or another output
        for formal, actual in zip(f.output, n.output):
            if formal in scope and actual:
                passed.append((formal, actual))
            elif actual:
                scope[formal] = actual
        for node in body.node:
            for o in node.output:
                if o and o not in scope:
                    scope[o] = self.fresh(o)
        yield self.nodes(list(body.node), scope, attributes, made)
        made += [onnx.helper.make_node("Identity", [scope[formal]], [actual]) for formal, actual in passed]

    @staticmethod
    def actual(name: str, scope: Mapping[str, str], reader: NodeProto) -> str:
        """What a name in a function means. GraphError where nothing in the function computes it: it must not meet a
        value of the caller's by chance."""
        if name and name not in scope:
            raise GraphError(f"a function's {reader.op_type} reads {name!r}, which nothing in it computes",
                             where=f"node {reader.name or reader.op_type}", do="export the model again")
        return scope[name] if name else ""

    def bind(self, n: NodeProto, given: Mapping[str, AttributeProto]) -> set[str]:
        """Put the call's attributes in the place of references to them, whose names are returned; references to what
        is not given go."""
        bound = {a.name for a in n.attribute if a.ref_attr_name}
        if not bound:
            return bound
        kept = []
        for a in n.attribute:
            if not a.ref_attr_name:
                kept.append(a)
            elif a.ref_attr_name in given:
                kept.append(AttributeProto())
                kept[-1].CopyFrom(given[a.ref_attr_name])
                kept[-1].name = a.name
                self.copied += kept[-1].ByteSize()
        if self.copied > MAX_COPIES:
            raise UnsupportedError(f"the calls' attributes come to over {MAX_COPIES:,} bytes",
                                   why="large attributes are given to functions that use them many times",
                                   do="make them inputs of the functions")
        copies = NodeProto(attribute=kept)
        del n.attribute[:]
        n.attribute.MergeFrom(copies.attribute)
        return bound
