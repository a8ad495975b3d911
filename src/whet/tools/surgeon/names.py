"""What names in an ONNX graph stand for: who computes them, who reads them, bodies of control flow included."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

from whet.errors import InputError
from whet.frontends.order import bodies, free_names, ordered


def graphs(g: GraphProto) -> Iterator[GraphProto]:
    """The graph and all bodies in it."""
    yield g
    for n in g.node:
        for b in bodies(n):
            yield from graphs(b)


def reads(n: NodeProto) -> set[str]:
    """The names that a node reads, those that its bodies capture included."""
    return {i for i in n.input if i} | free_names(bodies(n))


def constants(g: GraphProto) -> set[str]:
    """The names of a graph's initializers."""
    return {t.name for t in g.initializer} | {s.values.name for s in g.sparse_initializer}


def local(g: GraphProto) -> set[str]:
    """The names that a graph defines itself."""
    return {v.name for v in g.input} | constants(g) | {o for n in g.node for o in n.output if o}


def defined(g: GraphProto) -> set[str]:
    """The names that a graph or a body in it defines."""
    return set().union(*(local(x) for x in graphs(g)))


def producers(g: GraphProto) -> dict[str, NodeProto]:
    """The node that computes each name of a graph (not of bodies)."""
    return {o: n for n in g.node for o in n.output if o}


def title(n: NodeProto) -> str:
    """How a node is called in messages: by its name, else by what it computes."""
    return n.name or next((o for o in n.output if o), n.op_type)


def rename_reads(g: GraphProto, new: Mapping[str, str]) -> None:
    """Let the nodes of a graph, and bodies that capture these names, read others. Outputs stay."""
    if not new:
        return
    for n in g.node:
        for i, name in enumerate(n.input):
            if name in new:
                n.input[i] = new[name]
        for b in bodies(n):
            own = local(b)
            rename_reads(b, {k: v for k, v in new.items() if k not in own})


def rename_all(g: GraphProto, new: Mapping[str, str]) -> None:
    """Rename values everywhere, in bodies too: inputs, outputs, weights, shapes."""
    if not new:
        return
    for x in graphs(g):
        for v in (*x.input, *x.output, *x.value_info, *x.initializer):
            v.name = new.get(v.name, v.name)
        for s in x.sparse_initializer:
            s.values.name = new.get(s.values.name, s.values.name)
        for q in x.quantization_annotation:
            q.tensor_name = new.get(q.tensor_name, q.tensor_name)
            for pair in q.quant_parameter_tensor_names:
                pair.value = new.get(pair.value, pair.value)
        for n in x.node:
            for i, name in enumerate(n.input):
                n.input[i] = new.get(name, name)
            for i, name in enumerate(n.output):
                n.output[i] = new.get(name, name)


class Fresh:
    """Names that a model does not have yet."""

    def __init__(self, model: ModelProto) -> None:
        self.taken = defined(model.graph) | {n.name for g in graphs(model.graph) for n in g.node}

    def __call__(self, base: str) -> str:
        """`base`, or `base_2`, `base_3`... where that is taken."""
        name, k = base, 2
        while name in self.taken:
            name, k = f"{base}_{k}", k + 1
        self.taken.add(name)
        return name


def sort(g: GraphProto, outer: Iterable[str] = ()) -> None:
    """Put the nodes of a graph and its bodies into an order in which they can run. GraphError for cycles."""
    own = dict.fromkeys([*(v.name for v in g.input), *constants(g)])
    scope = {**dict.fromkeys(outer), **own, "": None}
    inside = scope.keys() | {o for n in g.node for o in n.output}
    for n in g.node:  # bodies first: what they capture is read off them in order
        for b in bodies(n):
            sort(b, inside)
    nodes = ordered(g, scope, own)
    if any(a is not b for a, b in zip(nodes, g.node)):
        copies = []
        for n in nodes:
            copy = NodeProto()
            copy.CopyFrom(n)
            copies.append(copy)
        del g.node[:]
        g.node.extend(copies)


def unknown(kind: str, name: str, there: Iterable[str], where: str = "") -> InputError:
    """The error for a name that the model does not have, with those most like it."""
    near = difflib.get_close_matches(name, list(there), 3, 0.5)
    return InputError(f"there is no {kind} {name!r}", where=where,
                      why=f"names like it: {', '.join(near)}" if near else "no name is like it",
                      do="`whet inspect MODEL.onnx` and Netron show the names")


def drop_dead(model: ModelProto) -> int:
    """Remove nodes, weights, shapes and functions that no output depends on; the number of nodes removed."""
    removed = sum(_drop_dead(g) for g in graphs(model.graph))
    used = {(n.domain, n.op_type) for g in graphs(model.graph) for n in g.node}
    waiting = [f for f in model.functions if (f.domain, f.name) in used]
    kept: set[tuple[str, str]] = set()
    while waiting:
        f = waiting.pop()
        if (f.domain, f.name) in kept:
            continue
        kept.add((f.domain, f.name))
        calls = {(n.domain, n.op_type) for n in f.node} | {
            (n.domain, n.op_type) for m in f.node for b in bodies(m) for g in graphs(b) for n in g.node}
        waiting += [h for h in model.functions if (h.domain, h.name) in calls]
    for i in reversed(range(len(model.functions))):
        if (model.functions[i].domain, model.functions[i].name) not in kept:
            del model.functions[i]
    return removed


def _drop_dead(g: GraphProto) -> int:
    made = producers(g)
    live: set[str] = set()
    keep: set[int] = set()
    waiting = [o.name for o in g.output]
    while waiting:
        name = waiting.pop()
        if name in live:
            continue
        live.add(name)
        n = made.get(name)
        if n is not None and id(n) not in keep:
            keep.add(id(n))
            waiting += reads(n)
    dead = [i for i, n in enumerate(g.node) if id(n) not in keep]
    for i in reversed(dead):
        del g.node[i]
    inputs = {v.name for v in g.input}
    for i in reversed(range(len(g.initializer))):
        if g.initializer[i].name not in live and g.initializer[i].name not in inputs:
            del g.initializer[i]
    for i in reversed(range(len(g.sparse_initializer))):
        if g.sparse_initializer[i].values.name not in live:
            del g.sparse_initializer[i]
    for i in reversed(range(len(g.value_info))):
        if g.value_info[i].name not in live:
            del g.value_info[i]
    return len(dead)
