"""Layer normalizations without a step of their own: products leave moments, and the next ones normalize with them.

A norm between two products of few rows is a launch that waits for all of the first and lets the second wait. With
x = product, y = (x - mean) / sigma * g + b, z = epilogue(y @ W):

    x, moments = product         each program leaves mean and squared deviations of its 64 columns, row by row
    y @ W      = (x @ (g * W) - mean * sum(g * W)) / sigma + b @ W      mean and sigma from the row's moments

so that the next product multiplies x as it is, by weights with g in them (rounded as weights are), and its epilogue
does the rest; where y is added to something (the residual of transformers that normalize last), it is computed from
x there. Who reads a row's moments puts its chunks together itself (`Region.statistics`), by deviations, so that nothing
cancels in sigma (Chan et al. 1979). In the product, what is subtracted are sums in fp32: y's error is 2^-24 of
|mean| / sigma more than the norm's.

The product is not divided along its depth then (`partial_sums`), which takes longer the deeper it is: beyond DEPTH the
norm that adds up its parts costs no more. Works on regions after `precision`, before `partial_sums`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf, Term, identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import CHUNK, NORMS, Region, Tensor
from whet.passes.expressions import widened
from whet.passes.partial_sums import COMPUTES, FEW_ROWS, FLOATS

CHUNKS = 16  # of a row at most: every reader loads two numbers of each
ROWS = 256  # at most: with more, a norm's launch is little beside the products
DEPTH = 1024  # of the product that leaves moments, at most
READERS = (*NORMS, "matmul")  # kinds that may compute y from x


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
    kind, epsilon = region.kind, float(region.attrs["epsilon"])
    for r in dict.fromkeys(readers):
        reader = _Reader(r)
        mean = reader.statistic(moments, "mean", 0.0) if kind == "layernorm" else None
        inverse = reader.statistic(moments, "deviation" if kind == "layernorm" else "rms", epsilon)
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
        self.statistics = dict(self.region.statistics)

    def statistic(self, moments: Value, what: str, epsilon: float) -> int:
        """The index of a number for each row, by its moments."""
        for i, told in self.statistics.items():
            if told == (what, epsilon) and self.values[i] is moments:
                return i
        self.values.append(moments)
        self.tensors.append(Tensor.dense(moments.dtype, moments.shape))
        self.statistics[len(self.values) - 1] = what, epsilon
        return len(self.values) - 1

    def source(self, v: Value) -> int:
        """The index of a value that expressions read."""
        for i in range(self.region.n_anchor, len(self.values)):
            if self.values[i] is v and i not in self.statistics:
                return i
        self.values.append(v)
        self.tensors.append(Tensor.dense(v.dtype, v.shape, const=v.data is not None))
        return len(self.values) - 1

    def put(self, at: int, v: Value) -> None:
        """Exchange an operand."""
        self.values[at], self.tensors[at] = v, Tensor.dense(v.dtype, v.shape, const=v.data is not None)

    def save(self) -> None:
        self.node.inputs = self.values
        self.node.attrs["region"] = replace(self.region, inputs=tuple(self.tensors), statistics=self.statistics)


def _normalized(what: Leaf, mean: int | None, inverse: int, subtracted: int | None, factor: int | None,
                added: int | None) -> Expr:
    """(what - mean * subtracted) * inverse * factor + added, in fp32; indices of leaves, None for what is 1 (or 0)."""
    terms: list[Term] = [what]

    def apply(op: str, source: int | None) -> None:
        """The expression so far and a leaf (or only the expression)."""
        last = len(terms) - 1
        if source is not None:
            terms.append(Leaf(source, DType.F32))
        terms.append(Apply(op, (last,) if source is None else (last, last + 1), DType.F32))

    if what.dtype is not DType.F32:
        apply("cast", None)
    if mean is not None:
        value = len(terms) - 1
        terms.append(Leaf(mean, DType.F32))
        if subtracted is not None:
            apply("mul", subtracted)
        terms.append(Apply("sub", (value, len(terms) - 1), DType.F32))
    for op, source in (("mul", inverse), ("mul", factor), ("add", added)):
        if source is not None:
            apply(op, source)
    return Expr(tuple(terms))


def _normalize_product(graph: Graph, r: _Reader, norm: Node, mean: int | None, inverse: int) -> None:
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


def _normalize_leaf(r: _Reader, norm: Node, mean: int | None, inverse: int) -> None:
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
