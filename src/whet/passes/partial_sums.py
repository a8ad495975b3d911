"""Products with few tiles whose result a normalization reads: divided along their depth, summed up by the norm.

A product of few rows has too few tiles for a GPU's multiprocessors. Kernels can divide its depth, but then a second
launch has to add the parts. Here the division is one of the graph: x = epilogue(A @ W), y = norm(x) becomes

    P[s] = A[:, s-th part of the depth] @ W[s-th part of the depth]     in fp32, one product of `parts` batches
    y    = norm(epilogue(P[0] + P[1] + ...))                             the norm's prologue

so that the product has `parts` times the programs with nothing but sums to do, and no launch is added. The parts of A
are seen by strides, those of W are its rows as they lie. Where others than the norm read x, too (the residual of
transformers that normalize first), the norm writes it as a second result.

Works on regions after `precision`, so that precisions, stored types and layers kept in fp32 are what they are without
it. What changes: x itself is not rounded where the norm reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf, Term, identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import NORMS, Region, Tensor

TILE = 64  # rows and columns of a tile, as kernels for few tiles have them
FULL = 1.1  # programs for each multiprocessor at most: a few that come late cost less than many left idle
PARTS = (2, 3, 4, 6, 8)
LEAST_DEPTH = 192  # of a part: below, a program loads and stores longer than it multiplies
FEW_ROWS = 8  # products of so few rows wait for the weights, which kernels for rows read best
COMPUTES = ("f32", "tf32", "f16", "bf16")  # sums of codes are scaled: they stay as they are
FLOATS = (DType.F32, DType.F16, DType.BF16)


def divide(graph: Graph, multiprocessors: int) -> None:
    """Rewrite a graph of regions in place, for a GPU of so many multiprocessors."""
    state = _State(graph, {id(n): i for i, n in enumerate(graph.nodes)}, graph.uses(), graph.read_outside())
    gone: set[int] = set()
    for n in list(graph.nodes):
        parts = _parts(n, multiprocessors)
        norm = _reader(state, n) if parts > 1 else None
        if norm is not None:
            _move_sum(state, n, norm, _product(state, n, parts))
            gone.add(id(n))
    if gone:
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        graph.sort()


def parts_of(m: int, n: int, k: int, multiprocessors: int) -> int:
    """How many parts the depth k of a product of m rows and n columns is divided into; 1: none.

    As many as there are multiprocessors for, of whole blocks of the depth.
    """
    if m <= FEW_ROWS:
        return 1
    tiles = -(-m // TILE) * -(-n // TILE)
    fitting = [s for s in PARTS
               if tiles * s <= FULL * multiprocessors and k % (s * TILE) == 0 and k // s >= LEAST_DEPTH]
    return max(fitting, default=1)


@dataclass(frozen=True)
class _State:
    """A graph, and how it was: the nodes' `position`, `uses`, what is read `outside`."""

    graph: Graph
    position: Mapping[int, int]
    uses: Mapping[Value, Sequence[Node]]
    outside: Collection[Value]


def _parts(n: Node, multiprocessors: int) -> int:
    """Into how many parts a node is divided, if a norm reads it; 1 for what is no such product."""
    region: Region | None = n.attrs.get("region")
    if (region is None or region.kind != "matmul" or region.prologue or region.compute not in COMPUTES
            or region.anchor.dtype is not DType.F32 or n.output.dtype not in FLOATS):
        return 1
    a, w = n.input(0), n.input(1)
    if w.data is None or w.rank != 2 or a.rank < 2 or n.output.shape != region.anchor.shape:
        return 1
    rows = [d for d in a.shape[:-1] if isinstance(d, int)]
    depth, columns = w.data.shape
    return parts_of(prod(rows), columns, depth, multiprocessors) if len(rows) == a.rank - 1 else 1


def _reader(state: _State, n: Node) -> Node | None:
    """The norm that may compute a product's epilogue: it reads the result once, as (part of) its operand."""
    x = n.output
    readers = state.uses.get(x, [])
    alone = len(readers) == 1 and x not in state.outside
    for r in readers:
        region: Region | None = r.attrs.get("region")
        if (region is None or region.kind not in NORMS or region.extra_outputs or region.anchor.dtype is not DType.F32
                or region.inputs[0].shape != x.shape or int(region.attrs["axis"]) % x.rank != x.rank - 1):
            continue
        at = [i for i, v in enumerate(r.inputs) if v is x]
        operand = region.prologue.get(0) or identity(0, x.dtype)
        others = [e for k, e in region.prologue.items() if k] + [region.epilogue or identity(ANCHOR, x.dtype)]
        if len(at) != 1 or at[0] not in operand.leaves or any(at[0] in e.leaves for e in others):
            continue
        # Whoever else reads x will wait for the norm, so nothing that the norm reads may wait for x.
        if (alone or all(_before(state, v, n) for v in r.inputs if v is not None and v is not x)) and _wide(
                operand, at[0]) is not None:
            return r
    return None


def _before(state: _State, v: Value, n: Node) -> bool:
    """True for a value that cannot depend on a node: it was there before."""
    return v.producer is None or state.position.get(id(v.producer), len(state.position)) < state.position[id(n)]


def _product(state: _State, n: Node, parts: int) -> Value:
    """The product's parts [parts, rows.., columns], in fp32."""
    graph, region = state.graph, n.attrs["region"]
    a, w = n.input(0), n.input(1)
    rows = [d for d in a.shape[:-1] if d != 1]
    assert w.data is not None
    depth, columns = w.data.shape
    cut = graph.add("reshape", [a], {"shape": (*rows, parts, depth // parts)}, origin=n.origin)
    order = (len(rows), *range(len(rows)), len(rows) + 1)
    seen = graph.add("transpose", [cut], {"perm": order}, origin=n.origin)
    second = graph.add("reshape", [w], {"shape": (parts, *(1,) * (len(rows) - 1), depth // parts, columns)},
                       origin=n.origin)  # a view: the constant is in the plan once, however it is divided
    out = Tensor.dense(DType.F32, (parts, *rows, columns))
    made = Region("matmul", region.attrs, (Tensor.dense(seen.dtype, seen.shape),
                                           Tensor.dense(second.dtype, second.shape, const=True)), 2, out, out,
                  compute=region.compute)
    result = graph.add("region", [seen, second], {"region": made}, origin=n.origin, hint=f"{n.output.name}.parts")
    assert result.producer is not None
    result.producer.compute = n.compute
    return result


def _move_sum(state: _State, n: Node, norm: Node, sums: Value) -> None:
    """Let the norm read the parts and compute the product's epilogue; and write its result, where others read that."""
    graph, x = state.graph, n.output
    before: Region = n.attrs["region"]
    region: Region = norm.attrs["region"]
    values, tensors = list(norm.inputs), list(region.inputs)

    def source(v: Value, t: Tensor) -> int:
        for i in range(region.n_anchor, len(values)):
            if values[i] is v:
                return i
        values.append(v)
        tensors.append(t)
        return len(values) - 1

    at = values.index(x)
    parts = _slices(graph, sums, x, n.origin)
    part = Tensor.dense(DType.F32, x.shape)
    values[at], tensors[at] = parts[0], part
    terms: list[Term] = [Leaf(at, DType.F32)]
    for v in parts[1:]:
        terms += [Leaf(source(v, part), DType.F32), Apply("add", (len(terms) - 1, len(terms)), DType.F32)]
    value = Expr(tuple(terms))
    if before.epilogue is not None:
        moved = {i: source(n.input(i), before.inputs[i]) for i in before.epilogue.leaves}
        value = _unrounded(before.epilogue).remap(moved).inline(ANCHOR, value)
    operand = _wide(region.prologue.get(0) or identity(0, x.dtype), at)
    assert operand is not None
    written: tuple[Tensor, ...] = ()
    if len(state.uses[x]) > 1 or x in state.outside:
        written = (Tensor.dense(x.dtype, x.shape),)
        norm.outputs.append(x)
        x.producer, x.index = norm, 1
    norm.inputs = values
    norm.attrs["region"] = replace(region, inputs=tuple(tensors), extra_outputs=written,
                                   prologue={**region.prologue, 0: operand.inline(at, value)})


def _slices(graph: Graph, sums: Value, x: Value, origin: str) -> list[Value]:
    """Each part, in x's shape."""
    count, *rest = sums.shape
    assert isinstance(count, int)
    cuts = [graph.add("slice", [sums], {"starts": (i, *(0,) * len(rest)), "sizes": (1, *rest),
                                        "steps": (1,) * sums.rank}, origin=origin) for i in range(count)]
    return [graph.add("reshape", [cut], {"shape": x.shape}, origin=origin) for cut in cuts]


def _unrounded(e: Expr) -> Expr:
    """The expression without a last cast from fp32."""
    last = e.terms[-1]
    if not isinstance(last, Apply) or last.op != "cast" or e.terms[last.args[0]].dtype is not DType.F32:
        return e
    kept = e.terms[:-1]
    return Expr(kept if last.args[0] == len(kept) - 1 else (*kept, kept[last.args[0]]))


def _wide(e: Expr, leaf: int) -> Expr | None:
    """The expression that takes a leaf in fp32 which it widens now; None where it reads the narrow value otherwise."""
    if e.is_identity:
        return identity(leaf, DType.F32)
    terms: list[Term] = []
    where: list[int] = []
    narrow = {i for i, t in enumerate(e.terms) if isinstance(t, Leaf) and t.source == leaf and t.dtype is not DType.F32}
    for t in e.terms:
        if isinstance(t, Apply) and not narrow.isdisjoint(t.args):
            if t.op != "cast" or t.dtype is not DType.F32:
                return None
            where.append(where[t.args[0]])
            continue
        where.append(len(terms))
        if isinstance(t, Leaf) and t.source == leaf:
            t = Leaf(leaf, DType.F32)
        terms.append(Apply(t.op, tuple(where[a] for a in t.args), t.dtype, t.attrs) if isinstance(t, Apply) else t)
    if where[-1] != len(terms) - 1:
        terms.append(terms[where[-1]])
    return Expr(tuple(terms))
