"""Precision: products in bf16, fp16 or tf32, and activations between regions stored in 16 bits.

Works on the graph of regions, where the values between regions are exactly what lies in memory. A stored
value becomes bf16 or fp16 when its producer can round it as it writes it and every reader can widen it as it reads
it; inside regions everything stays fp32 (accumulators, softmax, normalization, epilogues). Graph inputs and
outputs (but for states that contexts keep), host operands, attention masks, lowest-number constants (which the type
would round to infinity) and what leads to positions or indices (sin, cos, integer casts) stay as they are; under fp16
also what may be too large for it (`overflow`). tf32 is a precision of products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf, Term, identity
from whet.ir.graph import Graph, Node, Value
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import PRODUCTS
from whet.ir.symbolic import evaluate, names, product
from whet.ir.union import Union
from whet.passes import halves
from whet.passes.fuse import EPILOGUE, VIEWS
from whet.passes.on_load import is_first
from whet.passes.overflow import grows, prone

SCATTERS = frozenset({"scatter_nd", "scatter_elements"})  # results are elements of operands 0 and 2
MOVES = frozenset({"pad", "gather", "gather_nd", "gather_elements", "resize"})  # results are elements of operand 0
EXACT = frozenset({"sin", "cos", "tan", "floor", "ceil", "round", "mod"})  # angles, positions, indices
SMALL_OPERAND = 1 << 16  # elements that a matmul rounds on load instead of a step of its own (on GPUs)
SMALL_INNER = 16  # a product over fewer terms is an outer product (rotary angles), not a layer
CODES = ("int8", "f8")  # products of codes


@dataclass(frozen=True)
class Narrow:
    """A precision: that of products (`Region.compute`), the type that values are stored in (None: as they are), the
    number from which on finite fp32 numbers may round to infinity, and the least that the largest of a constant's
    numbers may be, so that the others keep their digits."""

    compute: str
    stored: DType | None
    largest: float = np.inf
    least: float = 0.0

    def holds(self, data: np.ndarray) -> bool:
        """True if a constant keeps its meaning in it."""
        finite = np.abs(data[np.isfinite(data)], dtype=np.float64)
        most = float(finite.max(initial=0.0))
        return most < self.largest and (most >= self.least or most == 0.0)


PRECISIONS = {"bf16": Narrow("bf16", DType.BF16, 3.3895e38), "fp16": Narrow("f16", DType.F16, 65520.0, 2.0**-14),
              "tf32": Narrow("tf32", None)}


@dataclass(frozen=True)
class Traits:
    """What of a target matters here.

    depthwise: depthwise convolutions are narrowed, too: there they wait for memory, on the CPU for their arithmetic.
    halves:    products of 16-bit floats that the model brings are taken as such, not widened to fp32 first.
    whole:     operands of 16-bit products lie in memory in 16 bits: a region of its own converts what does not, unless
               it is so small that the launch takes longer than reading twice the bytes, or the image of a first
               convolution.
    states:    what a context keeps between runs is stored in 16 bits, too, where it only moves between its readers.
    on_load:   convolutions compute their input on load where that pays (`on_load.OnLoad`).
    """

    depthwise: bool = False
    halves: bool = False
    whole: bool = False
    states: bool = False
    on_load: bool = False


CPU = Traits()
GPU = Traits(depthwise=True, halves=True, whole=True, states=True, on_load=True)


def nowhere(node: Node) -> bool:
    """No region."""
    return False


def assign(graph: Graph, compute: str = "bf16", keep: Callable[[Node], bool] = nowhere, traits: Traits = CPU,
           wide: str = "fp32", beyond: Callable[[Node], bool] = nowhere,
           states: Mapping[str, str] | None = None) -> Graph:
    """Store activations and take products in `compute`: fp32, tf32, bf16 or fp16.

    keep:   names the region nodes whose product and results stay fp32.
    wide:   the precision (fp32, tf32 or bf16) of products that fp16 does not suit.
    beyond: names the region nodes whose first operand was seen to be too large for fp16 or nearly so.
    states: {name of an input: name of the output that is its next value}, which nobody outside need see.

    Takes and returns a graph of regions (changed in place).
    """
    if traits.halves:
        halves.widen(graph)
    if compute in ("fp32", "f32"):
        return graph
    if compute not in PRECISIONS or (wide != "fp32" and wide not in PRECISIONS):
        raise InternalError(f"no precision {compute!r}", do=f"use fp32, {', '.join(PRECISIONS)}")
    exact = _needs_exact(graph)
    narrow = PRECISIONS[compute]
    large: set[Value] = set()
    if narrow.stored is DType.F16:
        large = prone(graph) | {n.input(0) for n in graph.nodes if n.op == "region" and n.inputs and beyond(n)}
    for n in graph.nodes:
        region = n.attrs.get("region")
        if region is None or region.kind not in PRODUCTS or region.anchor.dtype is not DType.F32 or keep(n):
            continue
        if region.compute != "f32" or (n.outputs[0] in exact and not _is_layer(region)):
            continue
        if _is_depthwise(region) and (not traits.depthwise or narrow.stored is None):
            continue
        fits = _operands_fit(n, region, narrow, large)
        chosen = narrow.compute if fits else PRECISIONS[wide].compute if wide != "fp32" else "f32"
        if chosen != "f32":
            n.attrs["region"] = replace(region, compute=chosen)
            n.compute = chosen
    if narrow.stored is None:
        return graph
    kept = {o for n in graph.nodes if n.op == "region" and keep(n) for o in n.outputs} | large
    inner = _states(graph, states or {}) if traits.states else {}
    for component in _components(graph, traits.states):
        if kept.isdisjoint(component) and _may_round(graph, component, exact, narrow, inner):
            for v in component:
                _store(v, narrow.stored)
    if traits.whole:
        _convert_operands(graph)
    for n in graph.nodes:
        if n.op == "region":
            _describe(n)
    return graph


# -- which values ------------------------------------------------------------------------------------------


def _operands_fit(n: Node, region: Region, narrow: Narrow, large: set[Value]) -> bool:
    """True if the operands of a product may be rounded to the precision."""
    grown = {i for i, v in enumerate(n.inputs) if v in large}
    if any(grows(e, grown) for e in region.prologue.values()):
        return False
    for v in [v for v in n.inputs if v is not None][:PRODUCTS[region.kind]]:
        if v in large or (v.data is not None and v.dtype is DType.F32 and not narrow.holds(v.data)):
            return False
    return True


def _needs_exact(graph: Graph) -> set[Value]:
    """The values that angles, positions and indices are computed from, back to the layers before."""
    exact: set[Value] = set()
    for n in reversed(graph.nodes):
        region: Region | None = n.attrs.get("region")
        if region is None:
            if any(o in exact for o in n.outputs):
                exact |= {v for v in n.inputs if v is not None}
            continue
        sensitive = any(_is_sensitive(e) for e in (region.epilogue, *region.prologue.values()) if e is not None)
        sensitive |= region.kind in ("cumsum", "cumprod", "topk", "arg")
        if (sensitive or any(o in exact for o in n.outputs)) and not _is_layer(region):
            exact |= {v for v in n.inputs if v is not None}
            if sensitive:
                exact |= set(n.outputs)
    return exact


def _is_sensitive(e: Expr) -> bool:
    def to_integer(t: Apply) -> bool:
        return t.op == "cast" and t.dtype.computed_as.is_integer and e.terms[t.args[0]].dtype.is_float

    return any(isinstance(t, Apply) and (t.op in EXACT or to_integer(t)) for t in e.terms)


def _is_layer(region: Region) -> bool:
    """True for a product over many terms: its operands need no more precision than any activation."""
    if region.kind == "matmul":
        d = region.inputs[0].shape[-1]
        return not isinstance(d, int) or d >= SMALL_INNER
    return region.kind in PRODUCTS


def _is_depthwise(region: Region) -> bool:
    """True for a convolution of each channel by itself: bound by memory, so that rounded weights gain nothing."""
    return region.kind == "conv" and region.inputs[1].shape[1] == 1 and region.attrs["group"] > 1


def _states(graph: Graph, states: Mapping[str, str]) -> dict[Value, Value]:
    """Inputs and outputs that are states, each with the other of its pair."""
    inputs, names = {v.name: v for v in graph.inputs}, graph.output_names or [v.name for v in graph.outputs]
    pairs = [(inputs[i], graph.outputs[names.index(o)]) for i, o in states.items() if i in inputs and o in names]
    whole = [(i, o) for i, o in pairs if i is not o and graph.outputs.count(o) == 1]
    return dict(whole) | {o: i for i, o in whole}


def _components(graph: Graph, scatters: bool) -> list[list[Value]]:
    """Sets of fp32 values that must have one type: those that views and moves connect (`scatters` among these)."""
    sets = Union()
    for n in graph.nodes:
        joined = [n.output, *n.inputs] if n.op in VIEWS else []
        if n.op == "region" and n.attrs["region"].kind in MOVES:
            joined = [n.outputs[0], n.input(0)]
        if scatters and n.op == "region" and _scatters(n):
            joined = [n.outputs[0], n.input(0), n.input(2)]
        for v in (*n.outputs, *joined):
            if v is not None and v.dtype is DType.F32:
                sets.join(v, n.outputs[0])
    groups: dict[Value, list[Value]] = {}
    for v, stands in sets.representatives().items():
        groups.setdefault(stands, []).append(v)
    return list(groups.values())


def _scatters(n: Node) -> bool:
    region: Region = n.attrs["region"]
    return region.kind in SCATTERS and region.attrs.get("reduction", "none") == "none"


def _may_round(graph: Graph, component: list[Value], exact: set[Value], narrow: Narrow, inner: Mapping[Value, Value]
               ) -> bool:
    """True if every member can be stored in the precision's type. inner: inputs and outputs that nobody outside sees,
    with the other of their pair."""
    members = set(component)
    ends = members & (set(graph.inputs) | set(graph.outputs))
    if members & exact or any(inner.get(v) not in members for v in ends):
        return False
    for v in component:
        if v.data is not None and not narrow.holds(v.data):
            return False
        p = v.producer
        if p is not None and not _can_write(p, narrow.largest) and not _moved_in(p, members):
            return False
    return all(_moved_in(n, members) or _can_read(n, members) for n in graph.nodes if members & set(n.inputs))


def _moved_in(n: Node, members: set[Value]) -> bool:
    """True for a scatter between members."""
    return n.op == "region" and _scatters(n) and {n.outputs[0], n.input(0), n.input(2)} <= members


def _can_write(n: Node, largest: float) -> bool:
    if n.op in VIEWS:
        return True
    region: Region | None = n.attrs.get("region")
    if region is None or region.extra_outputs:
        return False
    if region.kind in MOVES:
        if region.epilogue is not None or region.inputs[0].dtype is not region.anchor.dtype:
            return False  # a resize that computes
        return abs(float(region.attrs.get("value", 0) or 0)) < largest or bool(np.isinf(region.attrs["value"]))
    if region.kind != "pointwise" and region.kind not in EPILOGUE:
        return False
    return not (region.epilogue is not None and any(
        isinstance(t, Imm) and t.dtype is DType.F32 and np.isfinite(t.value) and abs(t.value) >= largest
        for t in region.epilogue.terms))


def _can_read(n: Node, members: set[Value]) -> bool:
    if n.op in VIEWS:
        return True
    region: Region | None = n.attrs.get("region")
    if region is None:
        return False
    if region.compute in CODES and any(v.is_const for v in members):
        return False  # factors and offsets of sums: 16 bits would lose more than the codes do
    if region.kind == "attention" and region.n_anchor >= 4 and n.inputs[3] in members:
        return False
    if region.kind in MOVES:
        return n.inputs[0] in members and not any(v in members for v in n.inputs[1:region.n_anchor])
    return region.kind in EPILOGUE or region.kind == "pointwise" or not any(
        v in members for v in n.inputs[:region.n_anchor])


# -- rewriting ---------------------------------------------------------------------------------------------


def _store(v: Value, dtype: DType) -> None:
    """Make a value 16 bits wide."""
    v.dtype = dtype
    if v.data is not None:
        v.data = v.data.astype(dtype.np)


def _convert_operands(graph: Graph) -> None:
    """Before products in 16 bits, a region that writes each operand which lies in fp32 in that type."""
    types = {p.compute: p.stored for p in PRECISIONS.values()}
    made: dict[tuple[Value, DType], Value] = {}
    added = False
    for n in list(graph.nodes):
        region: Region | None = n.attrs.get("region")
        to = types.get(region.compute) if region is not None else None
        if region is None or to is None or region.kind == "matmul_grouped":
            continue
        for i in range(min(PRODUCTS.get(region.kind, 0), region.n_anchor)):
            v = n.input(i)
            if v.dtype is not DType.F32 or i in region.prologue or (region.kind == "attention" and _given(v)):
                continue  # of a cache that is given in fp32, every row is read once: rounded then
            if region.kind == "matmul" and v.data is None and _is_small(v, graph):
                continue
            if region.kind == "conv" and i == 0 and is_first(region.attrs, region.inputs[1].shape):
                continue  # its kernels round an image as they load it, or copy it anyway
            if (v, to) not in made:
                made[v, to] = _converted(graph, v, to, n)
                added = True
            n.inputs[i] = made[v, to]
    if added:
        graph.sort()


def _is_small(v: Value, graph: Graph) -> bool:
    """True for at most SMALL_OPERAND elements at the optimum."""
    return evaluate(product(v.shape), {n: d[1] for n, d in graph.dims.items()}) <= SMALL_OPERAND


def _given(v: Value) -> bool:
    """True for what is seen of an input, or of one with some rows replaced."""
    p = v.producer
    while p is not None and (p.op in VIEWS or (p.op == "region" and _scatters(p))) and p.op != "concat":
        v = p.input(0)
        p = v.producer
    return p is None and v.data is None


def _converted(graph: Graph, v: Value, to: DType, reader: Node) -> Value:
    if v.data is not None:
        return graph.const(v.data, to)
    cast = Expr((Leaf(0, v.dtype), Apply("cast", (0,), to, (("to", to),))))
    out = Tensor.dense(to, v.shape)
    dims = {n: graph.dims[n] for n in sorted(names(*v.shape)) if n in graph.dims}
    region = Region("pointwise", {}, (Tensor.dense(v.dtype, v.shape),), 0, out, out, cast, dims=dims)
    return graph.add("region", [v], {"region": region}, origin=reader.origin)


def _describe(n: Node) -> None:
    """Bring a region in line with the types of its node's values."""
    region: Region = n.attrs["region"]
    inputs = tuple(replace(t, dtype=v.dtype) for t, v in zip(region.inputs, n.inputs, strict=True) if v is not None)
    narrow = {i for i, (t, new) in enumerate(zip(region.inputs, inputs)) if t.dtype is not new.dtype}
    out = n.outputs[0].dtype
    epilogue, anchor = region.epilogue, region.anchor
    if region.kind in MOVES | SCATTERS:
        anchor = replace(anchor, dtype=out)
    elif epilogue is not None or out is not anchor.dtype:
        epilogue = _retyped(epilogue or identity(ANCHOR, anchor.dtype), narrow, inputs, out)
    prologue = {k: _retyped(e, narrow, inputs, e.dtype) for k, e in region.prologue.items()}
    n.attrs["region"] = replace(region, inputs=inputs, anchor=anchor, epilogue=epilogue, prologue=prologue,
                                output=replace(region.output, dtype=out))


def _retyped(e: Expr, narrow: set[int], inputs: tuple[Tensor, ...], out: DType) -> Expr:
    """The expression with these leaves read as they are stored and widened, and its result in type `out`."""
    terms: list[Term] = []
    where: dict[int, int] = {}
    for i, t in enumerate(e.terms):
        if isinstance(t, Leaf) and t.source in narrow:
            terms.append(Leaf(t.source, inputs[t.source].dtype))
            t = Apply("cast", (len(terms) - 1,), t.dtype, (("to", t.dtype),))
        elif isinstance(t, Apply):
            t = Apply(t.op, tuple(where[a] for a in t.args), t.dtype, t.attrs)
        where[i] = len(terms)
        terms.append(t)
    if terms[-1].dtype is not out:
        terms.append(Apply("cast", (len(terms) - 1,), out, (("to", out),)))
    return Expr(tuple(terms))
