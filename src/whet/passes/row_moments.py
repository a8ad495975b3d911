"""Layer normalizations without a step of their own: products leave moments, and the next ones normalize with them.

A norm between two products of few rows is a launch that waits for all of the first and lets the second wait. With
x = product, y = (x - mean) / sigma * g + b, z = epilogue(y @ W):

    x, moments = product         each program leaves mean and squared deviations of its 64 columns, row by row
    y @ W      = (x @ (g * W) - mean * sum(g * W)) / sigma + b @ W      mean and sigma from the row's moments

so that the next product multiplies x as it is, by weights with g in them (rounded as weights are), and its epilogue
does the rest; where y is added to something (the residual of transformers that normalize last), it is computed from
x there. Chunks are put together as in Chan et al. 1979: the squares are of deviations, so nothing cancels in sigma. In
the product, what is subtracted are sums in fp32: y's error is 2^-24 of |mean| / sigma more than the norm's.

The product is not divided along its depth then (`partial_sums`), which takes longer the deeper it is: beyond DEPTH the
norm that adds up its parts costs no more. Works on regions after `precision`, before `partial_sums`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf, Term, identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import CHUNK, NORMS, Region, Tensor
from whet.passes.expressions import widened
from whet.passes.partial_sums import COMPUTES, FEW_ROWS, FLOATS

CHUNKS = 16  # of a row at most: each is two numbers that every reader loads
ROWS = 256  # at most: with more, a norm's launch is little beside the products
DEPTH = 1024  # of the product that leaves moments, at most
READERS = (*NORMS, "matmul", "pointwise")  # kinds that may compute y from x


def attach(graph: Graph) -> None:
    """Rewrite a graph of regions in place, for a target whose products leave moments."""
    uses, outside = graph.uses(), graph.read_outside()
    gone: set[int] = set()
    for norm in list(graph.nodes):
        readers = uses.get(norm.outputs[0], []) if norm.outputs else []
        if not _is_norm(norm) or norm.output in outside or not _leaves_moments(norm.input(0).producer):
            continue
        products = [r for r in readers if _multiplies(r, norm)]
        if products and all(r in products or _computes(r, norm.output) for r in readers):
            _move(graph, norm, readers, products)
            gone.add(id(norm))
    if gone:
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        graph.sort()


def _is_norm(n: Node) -> bool:
    """True for a norm of rows as they lie, with constants, whose result is at most rounded."""
    region: Region | None = n.attrs.get("region")
    if (region is None or region.kind not in NORMS or region.extra_outputs or region.prologue or region.picks
            or region.attrs.get("absent") or len(n.inputs) != region.n_anchor or region.anchor.dtype is not DType.F32):
        return False
    x = n.input(0)
    last = int(region.attrs["axis"]) % x.rank == x.rank - 1
    constant = all(v is not None and v.data is not None and v.data.shape == (x.shape[-1],) for v in n.inputs[1:])
    plain = region.epilogue is None or all(t.source == ANCHOR if isinstance(t, Leaf) else isinstance(
        t, Apply) and t.op == "cast" for t in region.epilogue.terms)
    return last and constant and plain and x.dtype in FLOATS and n.output.dtype is x.dtype


def _leaves_moments(n: Node | None) -> bool:
    """True for a product with few rows, little depth, and columns in whole chunks."""
    region: Region | None = n.attrs.get("region") if n is not None else None
    if (n is None or region is None or region.kind != "matmul" or region.prologue or region.extra_outputs
            or region.compute not in COMPUTES or region.anchor.dtype is not DType.F32):
        return False
    shape, w = n.output.shape, n.input(1)
    if w.data is None or w.rank != 2 or n.input(0).rank < 2 or shape != region.anchor.shape:
        return False
    rows = [d for d in shape[:-1] if isinstance(d, int)]
    depth, columns = w.data.shape
    return (len(rows) == len(shape) - 1 and FEW_ROWS < prod(rows) <= ROWS and depth <= DEPTH
            and columns % CHUNK == 0 and columns // CHUNK <= CHUNKS)


def _multiplies(n: Node, norm: Node) -> bool:
    """True for a product of the norm's result with constant weights, which reads it for nothing else."""
    region, y = n.attrs["region"] if n.op == "region" else None, norm.output
    if (region is None or region.kind != "matmul" or region.n_anchor != 2 or region.prologue
            or region.compute not in COMPUTES or region.anchor.dtype is not DType.F32
            or [i for i, v in enumerate(n.inputs) if v is y] != [0]):
        return False
    w = n.input(1)
    if w.data is None or w.rank != 2 or w.dtype not in FLOATS:
        return False
    scaled = _scaled(w, norm.input(1).data)
    return bool(np.isfinite(scaled.astype(np.float32)).all())


def _computes(n: Node, y: Value) -> bool:
    """True for who reads y in an expression."""
    region: Region | None = n.attrs.get("region")
    return (region is not None and region.kind in READERS and not any(y is v for v in n.inputs[:region.n_anchor])
            and sum(v is y for v in n.inputs) == 1)


def _scaled(w: Value, scale: np.ndarray | None) -> np.ndarray:
    """The weights with the norm's factors, rounded to their type."""
    assert w.data is not None
    assert scale is not None
    with np.errstate(over="ignore"):
        return (scale.astype(np.float32)[:, None] * w.data.astype(np.float32)).astype(w.data.dtype)


def _move(graph: Graph, norm: Node, readers: Sequence[Node], products: Sequence[Node]) -> None:
    """Let the product before the norm leave moments, and the readers normalize."""
    x, region = norm.input(0), norm.attrs["region"]
    producer = x.producer
    assert producer is not None
    made: Region = producer.attrs["region"]
    *rows, columns = x.shape
    assert isinstance(columns, int)
    chunks = columns // CHUNK
    moments = Value(graph.fresh(f"{x.name}.moments"), DType.F32, (2, chunks, *rows))
    moments.producer, moments.index = producer, 1
    producer.outputs.append(moments)
    producer.attrs["region"] = replace(made, attrs={**made.attrs, "moments": CHUNK},
                                       extra_outputs=(Tensor.dense(DType.F32, moments.shape),))
    parts = [_part(graph, moments, i, c, norm.origin) for i in (0, 1) for c in range(chunks)]
    for r in dict.fromkeys(readers):
        reader = _Reader(r)
        mean, inverse = _statistics([reader.source(v) for v in parts], region, columns)
        if r in products:
            _normalize_product(graph, reader, norm, mean, inverse)
        else:
            _normalize_leaf(reader, norm, mean, inverse)
        reader.save()


class _Reader:
    """A region's operands while they change."""

    def __init__(self, node: Node) -> None:
        self.node, self.region = node, node.attrs["region"]
        self.values, self.tensors = list(node.inputs), list(self.region.inputs)

    def source(self, v: Value) -> int:
        """The index of a value that expressions read."""
        for i in range(self.region.n_anchor, len(self.values)):
            if self.values[i] is v:
                return i
        self.values.append(v)
        self.tensors.append(Tensor.dense(v.dtype, v.shape, const=v.data is not None))
        return len(self.values) - 1

    def put(self, at: int, v: Value) -> None:
        """Exchange an operand."""
        self.values[at], self.tensors[at] = v, Tensor.dense(v.dtype, v.shape, const=v.data is not None)

    def save(self) -> None:
        self.node.inputs = self.values
        self.node.attrs["region"] = replace(self.region, inputs=tuple(self.tensors))


def _part(graph: Graph, moments: Value, which: int, chunk: int, origin: str) -> Value:
    """A chunk's mean (0) or squared deviations (1), a number for each row."""
    _, _, *rows = moments.shape
    cut = graph.add("slice", [moments], {"starts": (which, chunk, *(0,) * len(rows)), "sizes": (1, 1, *rows),
                                         "steps": (1,) * moments.rank}, origin=origin)
    return graph.add("reshape", [cut], {"shape": (*rows, 1)}, origin=origin)


class _Terms:
    """An expression in fp32 that is being written."""

    def __init__(self) -> None:
        self.terms: list[Term] = []

    def put(self, t: Term) -> int:
        self.terms.append(t)
        return len(self.terms) - 1

    def leaf(self, source: int) -> int:
        return self.put(Leaf(source, DType.F32))

    def number(self, v: float) -> int:
        return self.put(Imm(float(np.float32(v)), DType.F32))

    def apply(self, op: str, *args: int) -> int:
        return self.put(Apply(op, args, DType.F32))

    def total(self, of: Sequence[int]) -> int:
        """A sum, by halves."""
        while len(of) > 1:
            of = [self.apply("add", *of[i:i + 2]) if i + 1 < len(of) else of[i] for i in range(0, len(of), 2)]
        return of[0]

    def result(self) -> Expr:
        return Expr(tuple(self.terms))


def _statistics(sources: Sequence[int], norm: Region, columns: int) -> tuple[Expr | None, Expr]:
    """A row's mean (None for a norm that does not subtract it) and 1 / sigma, from its chunks' moments."""
    half = len(sources) // 2
    t = _Terms()
    means = [t.leaf(s) for s in sources[:half]]
    mean = t.apply("mul", t.total(means), t.number(1 / half))
    of_mean = t.result()
    away = [t.apply("sub", m, mean) for m in means]
    squares = t.apply("mul", t.total([t.apply("mul", d, d) for d in away]), t.number(CHUNK))
    squares = t.apply("add", squares, t.total([t.leaf(s) for s in sources[half:]]))
    variance = t.apply("mul", squares, t.number(1 / columns))
    centred = norm.kind == "layernorm"
    if not centred:
        variance = t.apply("add", variance, t.apply("mul", mean, mean))
    t.apply("reciprocal", t.apply("sqrt", t.apply("add", variance, t.number(norm.attrs["epsilon"]))))
    return of_mean if centred else None, t.result()


_MEAN, _INVERSE = -2, -3  # leaves that other expressions take the place of


def _normalized(what: Leaf, mean: Expr | None, inverse: Expr, subtracted: int | None, factor: int | None,
                added: int | None) -> Expr:
    """(what - mean * subtracted) * inverse * factor + added; sources, None for what is 1 (or for `added` 0)."""
    t = _Terms()
    value = t.put(what)
    if what.dtype is not DType.F32:
        value = t.apply("cast", value)
    if mean is not None:
        m = t.leaf(_MEAN)
        value = t.apply("sub", value, m if subtracted is None else t.apply("mul", m, t.leaf(subtracted)))
    value = t.apply("mul", value, t.leaf(_INVERSE))
    if factor is not None:
        value = t.apply("mul", value, t.leaf(factor))
    if added is not None:
        value = t.apply("add", value, t.leaf(added))
    e = t.result().inline(_INVERSE, inverse)
    return e if mean is None else e.inline(_MEAN, mean)


def _normalize_product(graph: Graph, r: _Reader, norm: Node, mean: Expr | None, inverse: Expr) -> None:
    """Multiply x with scaled weights; the epilogue first makes of that what the product of y would be."""
    w = r.values[1]
    assert w is not None
    assert w.data is not None
    scaled = _scaled(w, norm.input(1).data)
    r.put(0, norm.input(0))
    r.put(1, graph.const(scaled, hint=f"{w.name}.scaled"))
    sums = added = None
    if mean is not None:
        sums = r.source(graph.const(scaled.astype(np.float64).sum(0), DType.F32))
    if len(norm.inputs) > 2:
        bias = norm.input(2).data
        assert bias is not None
        added = r.source(graph.const(bias.astype(np.float64) @ w.data.astype(np.float64), DType.F32))
    value = _normalized(Leaf(ANCHOR, DType.F32), mean, inverse, sums, None, added)
    r.region = replace(r.region, epilogue=(r.region.epilogue or identity(ANCHOR, DType.F32)).inline(ANCHOR, value))


def _normalize_leaf(r: _Reader, norm: Node, mean: Expr | None, inverse: Expr) -> None:
    """Compute y from x in the expressions that read it."""
    x, y = norm.input(0), norm.output
    at = next(i for i, v in enumerate(r.values) if v is y)
    r.put(at, x)
    factor, *rest = (r.source(norm.input(i)) for i in range(1, len(norm.inputs)))
    value = _normalized(Leaf(at, x.dtype), mean, inverse, None, factor, rest[0] if rest else None)
    rounded = Expr((*value.terms, Apply("cast", (len(value.terms) - 1,), y.dtype))) if y.dtype is not DType.F32 \
        else value

    def exchanged(e: Expr) -> Expr:
        if at not in e.leaves:
            return e
        wide = widened(e, at)
        return e.inline(at, rounded) if wide is None else wide.inline(at, value)

    region: Region = r.region
    r.region = replace(region, epilogue=None if region.epilogue is None else exchanged(region.epilogue),
                       prologue={k: exchanged(e) for k, e in region.prologue.items()})
