"""Which dimensions of a profile are *independent*: element i along the dimension of every output depends on nothing
but element i along it of the inputs that have it.

A plan may then be run at a larger size: whatever lies in the elements behind the real ones (NaN, values of other
runs), the first ones come out as they would at the real size. That is claimed only where it is proven, node by node:
each value's *place* is the axis that the dimension runs along, as its outermost part (size n * k), or None where the
value does not depend on the dimension at all. What is not listed here refuses every dimension that it meets: scatters,
sizes used as data, host steps, control flow.

Inputs and outputs must have the dimension outermost, so that the first elements are a prefix of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.ir.expr import Expr
from whet.ir.graph import Graph, Node, Value, dims_in
from whet.ir.ops_host import HOST
from whet.ir.region import Region
from whet.ir.symbolic import Dim, Shape, Sym, names, product, symbol

Place = int | None  # the axis, or None: the value has nothing to do with the dimension

FIRST = frozenset({"conv", "conv_transpose", "pool", "groupnorm", "lrn"})  # images, one by one
SHAPED = frozenset({"iota", "resize"})  # kinds whose attributes tell the result's shape


class _RefusedError(Exception):
    pass


def independent(graph: Graph) -> list[str]:
    """The names of the independent dimensions of a graph of regions, in alphabetical order; none for a graph with host
    steps, control flow or sizes that depend on data."""
    if graph.sizes or graph.contents or any(n.op in HOST or n.op == "fallback" for n in graph.nodes):
        return []
    used = names(*(d for v in graph.inputs for d in v.shape)) - names(*(d for c in graph.checks for d in (c.a, c.b)))
    return sorted(n for n in used if n in graph.dims and graph.dims[n][0] < graph.dims[n][2] and _holds(graph, n))


def _holds(graph: Graph, name: str) -> bool:
    n = symbol(name)
    at: dict[Value, Place] = {}
    try:
        for v in graph.inputs:
            at[v] = _outermost(v.shape, n)
            _need(at[v] is None or v.shape[at[v] or 0] == n)
        for node in graph.nodes:
            places = [at.get(v) if v is not None else None for v in node.inputs]
            for v, place in zip(node.outputs, _node(node, places, n), strict=True):
                at[v] = checked(v.shape, place, n)
        for v in graph.outputs:
            _need(at.get(v) == _outermost(v.shape, n))
    except _RefusedError:
        return False
    return True


def _need(ok: bool) -> None:
    if not ok:
        raise _RefusedError


def inner(d: Dim, n: Sym) -> Dim | None:
    """k where d is n * k and k is free of n, else None."""
    k = d // n
    return None if names(n) & names(k) or k * n != d else k


def _outermost(shape: Shape, n: Sym) -> Place:
    """The axis of n in an input or output: nothing but ones before it."""
    axes = [i for i, d in enumerate(shape) if names(n) & names(d)]
    if not axes:
        return None
    _need(all(d == 1 for d in shape[: axes[0]]))
    return checked(shape, axes[0], n)


def checked(shape: Shape, place: Place, n: Sym) -> Place:
    """The place, if a value of this shape can have it: n is in that axis alone, as its outermost part."""
    for i, d in enumerate(shape):
        _need(inner(d, n) is not None if i == place else not names(n) & names(d))
    return place


def _node(node: Node, places: list[Place], n: Sym) -> list[Place]:
    """The places of a node's results."""
    x = node.inputs[0] if node.inputs else None
    out, p = node.outputs[0].shape, places[0] if places else None
    match node.op:
        case "region":
            return _Region(node.attrs["region"], places, n).results()
        case "transpose":
            return [None if p is None else node.attrs["perm"].index(p)]
        case "reshape":
            assert x is not None
            return [None if p is None else _reshaped(x.shape, out, p, n)]
        case "slice":
            at = node.attrs
            assert x is not None
            _need(not names(n) & names(*(d for i, d in enumerate(at["sizes"]) if i != p), *dims_in(at["starts"])))
            _need(p is None or (at["starts"][p] == 0 and at["sizes"][p] == x.shape[p] and at["steps"][p] == 1))
            return [p]
        case "concat":
            _need(node.attrs["axis"] != p)
            _need(all(q == p for q in places))
            return [p]
        case "expand":
            assert x is not None
            return [_broadcast([(x.shape, p)], out, n)]
    _need(all(q is None for q in places) and not names(n) & names(*dims_in(tuple(node.attrs.values()))))
    return [None] * len(node.outputs)


def _reshaped(shape: Shape, out: Shape, p: int, n: Sym) -> int:
    """The axis of the result whose outermost part is n: as many elements stand before it as before."""
    before = product(shape[:p])
    for b, d in enumerate(out):
        if names(n) & names(d):
            _need(product(out[:b]) == before)
            return b
    raise _RefusedError


def _broadcast(operands: Sequence[tuple[Shape, Place]], out: Shape, n: Sym) -> Place:
    """The place of what is computed element by element from operands that broadcast to the shape `out`. Where no
    operand has the dimension and the result does, its rows are all the same."""
    axes = [i for i, d in enumerate(out) if names(n) & names(d)]
    _need(len(axes) <= 1)
    axis = axes[0] if axes else None
    for shape, p in operands:
        lead = len(out) - len(shape)
        if p is not None:
            _need(p + lead == axis and shape[p] == out[p + lead])
        elif axis is not None and axis >= lead:
            _need(shape[axis - lead] == 1)
    return axis


@dataclass(frozen=True)
class _Region:
    region: Region
    places: Sequence[Place]
    n: Sym

    def results(self) -> list[Place]:
        r = self.region
        _need(r.kind in SHAPED or not names(self.n) & names(*dims_in(tuple(r.attrs.values()))))
        anchors: list[Place] = []
        if r.kind != "pointwise":
            anchors = self.anchor([self.operand(i) for i in range(r.n_anchor)])
            checked(r.anchor.shape, anchors[0], self.n)
        if r.epilogue is None:
            return anchors
        _need(r.kind == "pointwise" or r.anchor.shape == r.output.shape)
        place = self.expression(r.epilogue, r.output.shape)
        _need(r.kind == "pointwise" or place == anchors[0])
        return [place, *anchors[1:]]

    def expression(self, e: Expr, shape: Shape) -> Place:
        return _broadcast([(self.region.seen(k).shape, self.place(k)) for k in e.leaves], shape, self.n)

    def place(self, k: int) -> Place:
        """Of an input as expressions see it: a table's rows are where their indices are."""
        if k not in self.region.picks:
            return self.places[k]
        _need(self.places[k] is None)
        return self.places[self.region.picks[k]]

    def operand(self, i: int) -> Place:
        """Of an anchor's operand, after its prologue."""
        e = self.region.prologue.get(i)
        if e is None:
            return self.places[i]
        picked = i == 0 and self.region.picks
        return self.expression(e, self.region.anchor.shape if picked else self.region.inputs[i].shape)

    def anchor(self, places: list[Place]) -> list[Place]:
        """Of the anchor's results."""
        r, at = self.region, self.region.attrs
        count = 1 + len(r.extra_outputs)
        if all(p is None for p in places) and r.kind not in SHAPED:
            return [None] * count
        shape = r.inputs[0].shape if r.n_anchor else ()
        p, others = (places[0], places[1:]) if places else (None, [])
        alone = all(q is None for q in others)
        match r.kind:
            case kind if kind in FIRST:
                _need(p == 0 and alone)
                return [0] * count
            case "matmul":
                return [self.product(places)]
            case "matmul_grouped":
                _need(p is not None and p != len(shape) - 1 and alone)
                return [p]
            case "reduce" | "arg":
                axes = at["axes"] if r.kind == "reduce" else (at["axis"],)
                _need(p not in axes)
                assert p is not None
                return [p if at["keepdims"] else _left(p, axes)]
            case "softmax" | "cumsum" | "cumprod" | "topk":
                _need(p is not None and p != at["axis"] and alone)
                return [p] * count
            case "layernorm" | "rmsnorm":
                _need(p is not None and p < at["axis"] and alone)
                return [p] * count
            case "attention":
                return self.attention(places)
            case "linear_attention":
                _need(all(q == 0 for q in places))
                return [0] * count
            case "pad":
                _need(p is not None and at["pads"][p] == 0 == at["pads"][p + len(shape)] and alone)
                return [p]
            case "gather":  # what lies outside is clamped: any index will do
                return [self.gathered(p, others[0])]
            case "gather_elements":
                _need(p is not None and p != at["axis"] and others[0] == p and r.inputs[1].shape[p] == shape[p])
                return [p]
            case "gather_nd":
                _need(p is not None and p < at["batch_dims"] and others[0] == p and r.inputs[1].shape[p] == shape[p])
                return [p]
            case "iota":
                _need(not names(self.n) & names(*dims_in((at["start"], at["step"]))))
                return [0 if names(self.n) & names(*r.anchor.shape) else None]
            case "resize":
                _need(p is None or (r.anchor.shape[p] == shape[p] and at["scales"][p] in (None, 1) and alone))
                return [p]
        raise _RefusedError

    def product(self, places: Sequence[Place]) -> Place:
        (a, b), out = (t.shape for t in self.region.inputs[:2]), self.region.anchor.shape
        p, q = places
        _need(p != len(a) - 1 and q != len(b) - 2)  # the sum does not run along it
        if p == len(a) - 2 or q == len(b) - 1:  # rows or columns
            _need(p is None or q is None)
            return len(out) - 2 if q is None else len(out) - 1
        return _broadcast([(a[:-2], p), (b[:-2], q)], out[:-2], self.n)

    def attention(self, places: Sequence[Place]) -> list[Place]:
        """Batches are independent of each other. Garbage among lengths is not proven to be harmless."""
        r = self.region
        absent = set(r.attrs.get("absent", ()))
        present = iter(range(r.n_anchor))
        whole = [None if i in absent else next(present) for i in range(r.n_anchor + len(absent))]
        _need(all(whole[i] is not None and places[whole[i] or 0] == 0 for i in range(3)))
        mask, lengths = (*whole[3:], None, None)[:2]
        _need(lengths is None or places[lengths] is None)
        if mask is not None:
            q, k = r.inputs[0].shape, r.inputs[1].shape
            _broadcast([(r.inputs[mask].shape, places[mask])], (*q[:3], k[2]), self.n)
        return [0]

    def gathered(self, p: Place, q: Place) -> Place:
        axis = self.region.attrs["axis"]
        _need(p is None or q is None)
        if q is not None:
            return axis + q
        assert p is not None
        _need(p != axis)
        return p if p < axis else p + len(self.region.inputs[1].shape) - 1


def _left(p: int, axes: Sequence[int]) -> int:
    """The axis where these are gone."""
    return p - sum(a < p for a in axes)
