"""Rows that nobody reads are not computed: a slice moves before what makes its rows each from rows of its own.

A classifier that looks at one token needs the last layer's products, normalization and queries for that token alone; a
language model the logits of the last one. Where all readers of a value are the same slice, it moves up through
normalizations, softmax, products and attention (along rows and batches), and through the pointwise operators and views
between them. Each element is computed from the same numbers as before.

A slice never moves between an operator and the pointwise ones that would be its epilogue: those in front of which it
could not go on stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.ir.symbolic import Dim, evaluate, product
from whet.passes.movement import regroup

Cut = dict[int, tuple[Dim, Dim, int]]  # axis -> (start, size, step) of a slice, for the axes that are not whole
ANCHORS = frozenset({"layernorm", "rmsnorm", "softmax", "matmul", "attention"})
VIEWS = frozenset({"reshape", "transpose", "expand"})
HARMLESS = frozenset({"slice", "gather", "gather_nd", "gather_elements"})  # no pointwise operator joins these


@dataclass(frozen=True)
class Way:
    """A slice before a node: the cut of each operand, and the node's attributes then."""

    cuts: tuple[Cut, ...]
    attrs: dict[str, object]


def move_up(graph: Graph) -> None:
    """Move the slices of a graph, in place, as far as they save work."""
    graph.prune()
    walk = _Walk(graph)
    for n in reversed(list(graph.nodes)):
        if len(n.outputs) == 1:
            walk.visit(n)
    graph.replace_many(walk.replaced)
    graph.sort()
    graph.prune()


class _Walk:
    """Visits readers before what they read, so that a value's readers are slices as soon as they can be."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.uses, self.outside = graph, graph.uses(), graph.read_outside()
        self.replaced: dict[Value, Value] = {}

    def visit(self, n: Node) -> None:
        """Let the slices of a node's result take place before it, if they are the same and it pays."""
        readers = self.uses.get(n.output, [])
        if n.op not in ANCHORS | VIEWS | POINTWISE.keys() or n.output in self.outside or not readers:
            return
        first = readers[0]
        if any(r.op != "slice" or r.attrs != first.attrs for r in readers):
            return
        cut = {a: c for a, c in enumerate(zip(*(first.attrs[k] for k in ("starts", "sizes", "steps")), strict=True))
               if c != (0, n.output.shape[a], 1)}
        way = before(n, cut) if self.saves(n.output, cut) else None
        if way is None or (n.op not in ANCHORS and self.worth(n, way) < (n.op in VIEWS)):
            return
        operands = [None if v is None else self.sliced(v, c) for v, c in zip(n.inputs, way.cuts, strict=True)]
        made = self.graph.add_node(n.op, operands, way.attrs, origin=n.origin)
        made.compute = n.compute
        for v in n.inputs:
            if v is not None:
                self.uses[v].remove(n)
        for v in operands:
            if v is not None:
                self.uses.setdefault(v, []).append(made)
        for r in readers:
            self.replaced[r.output] = made.output
            self.uses[made.output] = [*self.uses.get(made.output, []), *self.uses.get(r.output, [])]

    def saves(self, v: Value, cut: Cut) -> bool:
        """True if a cut leaves at most half of the elements at the optimum: rows that no longer lie at one distance
        make products slower."""
        opt = {n: d[1] for n, d in self.graph.dims.items()}
        part, whole = (evaluate(product(d), opt) for d in ((c[1] for c in cut.values()), (v.shape[a] for a in cut)))
        return 2 * part <= whole

    def sliced(self, v: Value, cut: Cut) -> Value:
        """The part of a value."""
        if not cut:
            return v
        whole = [cut.get(a, (0, d, 1)) for a, d in enumerate(v.shape)]
        starts, sizes, steps = (tuple(w[i] for w in whole) for i in range(3))
        out = self.graph.add_node("slice", [v], {"starts": starts, "sizes": sizes, "steps": steps})
        self.uses.setdefault(v, []).append(out)
        return out.output

    def worth(self, n: Node, way: Way, depth: int = 48) -> int:
        """What slices before a view or pointwise node, which alone reads what it cuts, lead to: 1 less work, 0 nothing,
        -1 that it can no longer be computed where its operands are."""
        cuts = {v: c for v, c in zip(n.inputs, way.cuts, strict=True) if v is not None and c}
        found = [self.leads(v, n, c, depth) for v, c in cuts.items()]
        return min(found) if min(found, default=0) < 0 else max(found, default=0)

    def leads(self, v: Value, reader: Node, cut: Cut, depth: int) -> int:
        """The same of one operand."""
        p = v.producer
        if p is None or v in self.outside or any(r is not reader for r in self.uses[v]) or p.op in HARMLESS:
            return 0  # it lies in memory as a whole anyway
        way = before(p, cut) if len(p.outputs) == 1 and depth else None
        if way is None:
            return -1
        return 1 if p.op in ANCHORS else self.worth(p, way, depth - 1)


# -- slices before operators -----------------------------------------------------------------------------------


def before(n: Node, cut: Cut) -> Way | None:
    """How a node computes a part of its result from parts of its operands; None if it does not."""
    if n.op in POINTWISE:
        cuts = [_broadcast(v, n.output, cut) for v in n.inputs]
        return None if None in cuts else Way(tuple(c for c in cuts if c is not None), n.attrs)
    rule = _RULES.get(n.op)
    return rule(n, cut) if rule is not None else None


def _broadcast(v: Value | None, out: Value, cut: Cut) -> Cut | None:
    """The cut of an operand that broadcasts to the result; None where it is not known which dimensions do."""
    if v is None:
        return {}
    found: Cut = {}
    for a, c in cut.items():
        k = a - (out.rank - v.rank)
        if k < 0 or v.shape[k] == 1:
            continue
        if v.shape[k] != out.shape[a]:
            return None
        found[k] = c
    return found


def _normalization(n: Node, cut: Cut) -> Way | None:
    """Rows are normalized one by one."""
    if any(a >= n.attrs["axis"] for a in cut):
        return None
    return Way((cut, *({} for _ in n.inputs[1:])), n.attrs)


def _softmax(n: Node, cut: Cut) -> Way | None:
    return None if n.attrs["axis"] % n.output.rank in cut else Way((cut,), n.attrs)


def _matmul(n: Node, cut: Cut) -> Way | None:
    """A row of the result takes a row of the first operand; matrices of a batch take their own."""
    a, b, rank = n.input(0), n.input(1), n.output.rank
    if rank - 1 in cut:
        return None
    lead = {k: c for k, c in cut.items() if k < rank - 2}
    first, second = _leading(a, n.output, lead), _leading(b, n.output, lead)
    if first is None or second is None:
        return None
    if rank - 2 in cut:
        first[a.rank - 2] = cut[rank - 2]
    return Way((first, second), n.attrs)


def _leading(v: Value, out: Value, cut: Cut) -> Cut | None:
    """`_broadcast` along all but the last two dimensions."""
    return _broadcast(v, out, cut) if cut else {}


def _attention(n: Node, cut: Cut) -> Way | None:
    """Queries are independent of each other."""
    mask = n.inputs[3] if len(n.inputs) > 3 else None
    lengths = n.inputs[4] if len(n.inputs) > 4 else None
    if set(cut) != {2}:
        return None
    attrs = dict(n.attrs)
    if attrs["causal"]:
        if lengths is not None or cut[2][2] != 1:
            return None  # rows are counted from the end, or no longer one by one
        attrs["offset"] = attrs["offset"] + cut[2][0]
    hidden = _broadcast(mask, n.output, cut)
    if hidden is None:
        return None
    cuts: list[Cut] = [cut, {}, {}, hidden, {}]
    return Way(tuple(cuts[:len(n.inputs)]), attrs)


def _transpose(n: Node, cut: Cut) -> Way | None:
    return Way(({n.attrs["perm"][a]: c for a, c in cut.items()},), n.attrs)


def _expand(n: Node, cut: Cut) -> Way | None:
    found = _broadcast(n.input(0), n.output, cut)
    return None if found is None else Way((found,), {"shape": _shape(n.output, cut)})


def _reshape(n: Node, cut: Cut) -> Way | None:
    """Dimensions that the reshape leaves as they are may be cut."""
    groups = regroup(n.input(0).shape, n.output.shape)
    if groups is None:
        return None
    same = {b[0]: a[0] for a, b in groups if len(a) == len(b) == 1}
    if not cut.keys() <= same.keys():
        return None
    return Way(({same[a]: c for a, c in cut.items()},), {"shape": _shape(n.output, cut)})


def _shape(v: Value, cut: Cut) -> tuple[Dim, ...]:
    return tuple(cut[a][1] if a in cut else d for a, d in enumerate(v.shape))


_RULES: dict[str, Callable[[Node, Cut], Way | None]] = {
    "layernorm": _normalization, "rmsnorm": _normalization, "softmax": _softmax, "matmul": _matmul,
    "attention": _attention, "transpose": _transpose, "expand": _expand, "reshape": _reshape}
