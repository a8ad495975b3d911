"""The legality rules of a graph, as a table; `verify` runs them all, between passes in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from whet.errors import GraphError, WhetError
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import OPS, infer
from whet.ir.symbolic import Sym, names

Complaint = tuple[str, str]  # where, what


def _node(n: Node) -> str:
    return f"{n.op} -> {', '.join(v.name for v in n.outputs)}" + (f" (from {n.origin})" if n.origin else "")


def _known_operators(g: Graph) -> Iterator[Complaint]:
    for n in g.nodes:
        if n.op not in OPS:
            yield _node(n), "is not in the table of operators"


def _unique_nodes(g: Graph) -> Iterator[Complaint]:
    seen: set[int] = set()
    for n in g.nodes:
        if id(n) in seen:
            yield _node(n), "is in the graph twice"
        seen.add(id(n))


def _producers(g: Graph) -> Iterator[Complaint]:
    owner: dict[int, Node] = {}
    for n in g.nodes:
        for i, v in enumerate(n.outputs):
            if id(v) in owner:
                yield _node(n), f"produces {v.name}, which {_node(owner[id(v)])} produces too"
            owner[id(v)] = n
            if v.producer is not n or v.index != i:
                yield _node(n), f"is not recorded as the producer of its output {i}"
            if v.data is not None:
                yield _node(n), f"produces the constant {v.name}"
    for v in g.inputs:
        if v.producer is not None or v.data is not None:
            yield f"input {v.name}", "is produced by a node or a constant"


def _order(g: Graph) -> Iterator[Complaint]:
    known = {id(v) for v in g.inputs}
    for n in g.nodes:
        for v in n.inputs:
            if v is not None and v.data is None and id(v) not in known:
                yield _node(n), f"reads {v.name} before it is computed"
        known |= {id(v) for v in n.outputs}
    for v in g.outputs:
        if v.data is None and id(v) not in known:
            yield f"output {v.name}", "is not computed by any node"


def _names(g: Graph) -> Iterator[Complaint]:
    owner: dict[str, Value] = {}
    for v in g.values():
        if not v.name:
            yield repr(v), "has no name"
        if owner.setdefault(v.name, v) is not v:
            yield f"value {v.name}", "shares its name with another value"


def _outputs(g: Graph) -> Iterator[Complaint]:
    if g.output_names and len(g.output_names) != len(g.outputs):
        yield "outputs", f"are {len(g.outputs)} with {len(g.output_names)} names"
    if len(set(g.output_names)) != len(g.output_names):
        yield "outputs", "share a name"


def _constants(g: Graph) -> Iterator[Complaint]:
    for v in g.values():
        if v.data is None:
            continue
        if not isinstance(v.data, np.ndarray):
            yield f"constant {v.name}", f"holds a {type(v.data).__name__}, not an array"
        elif v.data.shape != v.shape:
            yield f"constant {v.name}", f"is declared {v.shape} and holds {v.data.shape}"
        elif not v.dtype.is_host and v.data.dtype != v.dtype.np:
            yield f"constant {v.name}", f"is declared {v.dtype.value} and holds {v.data.dtype}"


def _shapes(g: Graph) -> Iterator[Complaint]:
    for v in g.values():
        for d in v.shape:
            if isinstance(d, bool) or not isinstance(d, (int, Sym)):
                yield f"value {v.name}", f"has {d!r} for a dimension"
            elif isinstance(d, int) and d < 0:
                yield f"value {v.name}", f"has the negative dimension {d}"


def _profiles(g: Graph) -> Iterator[Complaint]:
    for v in g.inputs:
        for name in sorted(names(*v.shape) - g.dims.keys()):
            yield f"input {v.name}", f"has the dimension {name}, which has no profile"
    for name, (low, opt, high) in g.dims.items():
        if not 0 <= low <= opt <= high:
            yield f"dimension {name}", f"has the profile {low} <= {opt} <= {high}, which is out of order"


def _types(g: Graph) -> Iterator[Complaint]:
    for n in g.nodes:
        if n.op not in OPS:
            continue
        attrs = dict(n.attrs)
        try:
            specs = infer(n.op, n.inputs, attrs, n.origin)
        except WhetError as e:
            yield _node(n), e.what
            continue
        if len(specs) != len(n.outputs):
            yield _node(n), f"has {len(n.outputs)} outputs instead of {len(specs)}"
        for v, (dtype, shape) in zip(n.outputs, specs):
            if v.dtype is not dtype:
                yield _node(n), f"declares {v.name} {v.dtype.value}, its operands give {dtype.value}"
            if v.shape != tuple(shape):
                yield _node(n), f"declares {v.name} {v.shape}, its operands give {tuple(shape)}"
        for key in attrs:
            if key not in n.attrs or n.attrs[key] != attrs[key]:
                yield _node(n), f"has its attribute {key} missing or not in normal form ({attrs[key]!r})"


def _sizes(g: Graph) -> Iterator[Complaint]:
    known = {id(v) for v in g.inputs} | {id(o) for n in g.nodes for o in n.outputs}
    for name, s in g.sizes.items():
        if name not in g.dims:
            yield f"dimension {name}", "is learnt from a value and has no profile"
        if not s.value.is_const and id(s.value) not in known and any(name in names(*v.shape) for v in g.values()):
            yield f"dimension {name}", f"is learnt from {s.value.name}, which is not in the graph"


def _bodies(g: Graph) -> Iterator[Complaint]:
    for body in g.bodies():
        for line in complaints(body):
            yield f"body {body.name}", line


RULES: dict[str, Callable[[Graph], Iterable[Complaint]]] = {
    "operators are in the table": _known_operators,
    "a node occurs once": _unique_nodes,
    "a value has one producer": _producers,
    "values are computed before they are read": _order,
    "names are unique": _names,
    "outputs have names of their own": _outputs,
    "constants hold what they declare": _constants,
    "dimensions are ints >= 0 or symbolic": _shapes,
    "symbolic dimensions have a profile": _profiles,
    "data-dependent dimensions are learnt from the graph's values": _sizes,
    "bodies of control flow are legal": _bodies,
    "types, shapes and attributes are those that the operators' rules give": _types,
}


def complaints(graph: Graph) -> list[str]:
    """Every breach of every rule, as one line each."""
    return [f"{rule}: {where} {what}" for rule, check in RULES.items() for where, what in check(graph)]


def verify(graph: Graph, after: str = "") -> None:
    """Raise GraphError with the first breaches if the graph is not legal. `after` names the pass that made it."""
    found = complaints(graph)
    if found:
        raise GraphError("\n".join(found[:5]) + (f"\nand {len(found) - 5} more" if len(found) > 5 else ""),
                         where=f"graph {graph.name}" + (f" after {after}" if after else ""),
                         why="the graph breaks the rules of whet's IR", do="this is a fault of whet: please report it")
