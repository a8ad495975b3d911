"""From pointwise nodes to expressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from whet.ir.expr import Apply, Expr, Imm, Leaf, Term
from whet.ir.graph import Node, Value
from whet.passes.rewrite import scalar


class ExprBuilder:
    """Builds the expressions of one region.

    known: leaves that are there already (value -> source); `extra`: the values that get sources from `first`
    on, in order of appearance, shared by the region's expressions. Constant numbers become immediates.
    """

    def __init__(self, known: Mapping[Value, int], first: int, extra: list[Value] | None = None) -> None:
        self.known = dict(known)
        self.first = first
        self.extra: list[Value] = [] if extra is None else extra

    def expression(self, result: Value, members: Iterable[Node]) -> Expr:
        """The expression of `result` in terms of what the members (in topological order) read from outside."""
        terms: list[Term] = []
        at: dict[tuple[Term, str], int] = {}
        where: dict[Value, int] = {}

        def put(t: Term) -> int:
            key = (t, repr(t.value) if isinstance(t, Imm) else "")  # 0.0 and -0.0 are equal, but not the same
            if key not in at:
                at[key] = len(terms)
                terms.append(t)
            return at[key]

        def operand(v: Value) -> int:
            if v not in where:
                number = scalar(v)
                where[v] = put(Leaf(self._source(v), v.dtype) if number is None else Imm(number, v.dtype))
            return where[v]

        for n in members:
            args = tuple(operand(v) for v in n.inputs if v is not None)
            where[n.output] = put(Apply(n.op, args, n.output.dtype, _attrs(n)))
        last = operand(result)
        if last != len(terms) - 1:
            terms.append(terms[last])
        return Expr(_live(tuple(terms)))

    def _source(self, v: Value) -> int:
        if v in self.known:
            return self.known[v]
        if v not in self.extra:
            self.extra.append(v)
        return self.first + self.extra.index(v)


def _attrs(n: Node) -> tuple[tuple[str, object], ...]:
    """A pointwise node's attributes as an expression holds them (sorted pairs)."""
    return tuple(sorted(n.attrs.items()))


def _live(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The terms that the last one needs."""
    needed = {len(terms) - 1}
    for i in range(len(terms) - 1, -1, -1):
        t = terms[i]
        if i in needed and isinstance(t, Apply):
            needed |= set(t.args)
    new = {old: i for i, old in enumerate(sorted(needed))}
    return tuple(Apply(t.op, tuple(new[a] for a in t.args), t.dtype, t.attrs) if isinstance(t, Apply) else t
                 for i, t in enumerate(terms) if i in needed)
