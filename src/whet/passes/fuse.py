"""Region formation: every anchor takes the pointwise operators around it, the rest form regions of their own.

Epilogues first, from the last anchor to the first (of two anchors that feed an addition the later takes it
and reads the other's result); then prologues; then what is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR
from whet.ir.graph import Graph, Node, Value, dims_in
from whet.ir.ops import POINTWISE
from whet.ir.ops_host import HOST
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Shape, names
from whet.passes.algebra import lossless
from whet.passes.expressions import ExprBuilder
from whet.passes.on_load import OnLoad
from whet.passes.rewrite import aligned, scalar

VIEWS = frozenset({"reshape", "transpose", "slice", "expand", "concat"})
EPILOGUE = frozenset({"matmul", "matmul_grouped", "conv", "conv_transpose", "pool", "reduce", "softmax", "layernorm",
                      "rmsnorm", "groupnorm", "lrn", "attention"})  # kinds that apply an expression to their result
PROLOGUE = frozenset({"reduce", "softmax", "layernorm", "rmsnorm", "arg", "groupnorm"})  # and to operand 0
BYTES = frozenset({"pool", "reduce", "softmax", "layernorm", "rmsnorm", "groupnorm"})  # that read 8-bit codes
ALONE = frozenset({"resize"})  # kinds that apply one to their result in float32 which reads no other tensor
LOOKAHEAD = 48  # pointwise nodes that an epilogue may try to close over
MAX_LEAVES = 12  # tensors read by one expression
MAX_TERMS = 64


@dataclass
class Group:
    """The nodes of one region to be."""

    anchor: Node | None
    result: Value
    epilogue: list[Node] = field(default_factory=list)  # in topological order
    prologue: dict[int, list[Node]] = field(default_factory=dict)  # by operand, in topological order

    def nodes(self) -> list[Node]:
        """Every node of the region."""
        first = [self.anchor] if self.anchor is not None else []
        return [*first, *self.epilogue, *(n for p in self.prologue.values() for n in p)]


def form_regions(graph: Graph, on_load: OnLoad | None = None) -> Graph:
    """The graph with every node but views and host steps in a region. The given graph is used up.

    on_load: which convolutions compute their input on load (None: none of them).
    """
    duplicate_cheap(graph)
    graph.prune()
    former = _Former(graph, on_load)
    groups = former.groups()
    out = Graph(graph.name)
    out.inputs, out.outputs, out.output_names, out.dims = graph.inputs, graph.outputs, graph.output_names, graph.dims
    out._serial, out.sizes = graph._serial, graph.sizes
    out.checks, out.contents = graph.checks, graph.contents
    inside = {id(n) for g in groups for n in g.nodes()}
    out.nodes = [n for n in graph.nodes if id(n) not in inside] + [region_node(g, graph) for g in groups]
    out.sort()
    return out


def widens(node: Node, reader: str = "") -> bool:
    """True for a cast that reading the narrower tensor does for nothing, for a reader of this kind."""
    if node.op != "cast" or not node.output.dtype.is_float:
        return False
    source = node.input(0).dtype
    if source in (DType.U8, DType.I8, DType.F8E4M3FN):
        return reader in BYTES and node.output.dtype is DType.F32
    return source.is_float and lossless(source, node.output.dtype)


def makes_codes(node: Node) -> bool:
    """True for what gives codes: `saturate`, or a cast to 8-bit floats."""
    return node.op == "saturate" or (node.op == "cast" and node.output.dtype is DType.F8E4M3FN)


def duplicate_cheap(graph: Graph) -> None:
    """Give every reader its own copy of a widening cast and of scalar arithmetic, so that both fuse."""
    position = {id(n): i for i, n in enumerate(graph.nodes)}
    added: list[tuple[int, Node]] = []
    budget = len(graph.nodes)  # copies of copies: each of a ladder of scalars would double what is above it
    uses, outside = graph.uses(), graph.read_outside()
    for n in reversed(graph.nodes):
        if n.op not in POINTWISE or not (widens(n) or _tiny(n)) or n.output in outside:
            continue
        readers = [r for r in dict.fromkeys(uses.get(n.output, [])) if r.op in POINTWISE or r.op in PROLOGUE | EPILOGUE]
        others = len(dict.fromkeys(uses.get(n.output, []))) - len(readers)
        if len(added) + len(readers) > budget:
            break
        for r in readers[1 if not others else 0:]:
            copy = Node(n.op, list(n.inputs), [Value(graph.fresh(n.op), n.output.dtype, n.output.shape)],
                        dict(n.attrs), n.origin, n.compute)
            r.inputs = [copy.output if v is n.output else v for v in r.inputs]
            added.append((position[id(n)], copy))
            for v in n.inputs:
                if v is not None:
                    uses[v].append(copy)
            uses[copy.output] = [r]
    if added:
        at: dict[int, list[Node]] = {}
        for i, c in added:
            at.setdefault(i, []).append(c)
        graph.nodes = [m for i, n in enumerate(graph.nodes) for m in (n, *at.get(i, ()))]


def _tiny(node: Node) -> bool:
    return all(d == 1 for v in (*node.inputs, node.output) if v is not None for d in v.shape)


def fits_epilogue(v: Value, shape: Shape) -> bool:
    """True if v broadcasts to an anchor's result of this shape as a whole, per column, per row or as a scalar."""
    if v.rank > len(shape):
        return False
    full = aligned(v.shape, len(shape))
    per_column = all(d == 1 for d in full[:-1])
    return full == shape or (per_column and (not shape or full[-1] in (1, shape[-1]))) or full == (*shape[:-1], 1)


class _Former:
    """Decides which node belongs to which region."""

    def __init__(self, graph: Graph, on_load: OnLoad | None = None) -> None:
        self.graph, self.on_load = graph, on_load
        self.uses = graph.uses()
        self.outputs = graph.read_outside()
        self.order = {id(n): i for i, n in enumerate(graph.nodes)}
        self.claimed: set[int] = set()

    def groups(self) -> list[Group]:
        """All groups, in no particular order."""
        out: list[Group] = []
        for n in reversed(self.graph.nodes):
            if n.op not in POINTWISE and n.op not in VIEWS and n.op not in HOST and n.op != "region":
                out.append(Group(n, n.outputs[0], self.epilogue(n)))
                self.claimed |= {id(n), *(id(m) for m in out[-1].epilogue)}
                out[-1].result = out[-1].epilogue[-1].output if out[-1].epilogue else n.outputs[0]
        for g in out:
            self.absorb(g)
        for g in out:
            if g.anchor is not None:
                g.prologue = self.prologue(g.anchor)
                self.claimed |= {id(m) for m in g.nodes()}
        for n in reversed(self.graph.nodes):
            if n.op in POINTWISE and id(n) not in self.claimed:
                members = [*self.producers(n.output, n), n]
                self.claimed |= {id(m) for m in members}
                out.append(Group(None, n.output, members))
        return out

    # -- epilogues -----------------------------------------------------------------------------------

    def epilogue(self, anchor: Node) -> list[Node]:
        """The longest closed set of pointwise nodes after the anchor: only its last result is read outside."""
        if anchor.op not in EPILOGUE | ALONE or len(anchor.outputs) != 1:
            return []
        alone = anchor.op in ALONE
        if alone and (anchor.output.dtype is not DType.F32 or anchor.attrs["mode"] == "nearest"):
            return []
        shape = anchor.output.shape
        members: list[Node] = []
        inside = {id(anchor)}
        best = 0
        frontier: list[tuple[int, int, Node]] = []
        leaves: set[Value] = set()

        def reach(v: Value) -> None:
            for r in self.uses.get(v, []):
                if r.op in POINTWISE and id(r) not in self.claimed and id(r) not in seen:
                    seen.add(id(r))
                    heapq.heappush(frontier, (self.order[id(r)], id(r), r))

        seen: set[int] = set()
        reach(anchor.output)
        while frontier and len(members) < LOOKAHEAD:
            n = heapq.heappop(frontier)[2]
            outside = [v for v in n.inputs if v is not None and id(v.producer) not in inside]
            if n.output.shape != shape or not all(fits_epilogue(v, shape) for v in outside):
                continue
            leaves |= {v for v in outside if scalar(v) is None}
            if alone and leaves:
                break
            if len(leaves) > MAX_LEAVES:
                break
            members.append(n)
            inside.add(id(n))
            reach(n.output)
            if self._closed([anchor, *members], inside):
                best = len(members)
        return self.ending_in_codes(anchor, members[:best])

    def ending_in_codes(self, anchor: Node, members: list[Node]) -> list[Node]:
        """The members up to the last codes, where all that read the real numbers behind them can read the codes: kinds
        that take these, and later epilogues, which then compute the numbers themselves."""
        at = max((i for i, n in enumerate(members) if makes_codes(n)), default=-1)
        if at < 0 or at == len(members) - 1 or members[-1].output in self.outputs:
            return members
        head = members[:at + 1]
        readers = self.uses.get(members[-1].output, [])
        real = all(m.op == "cast" or (m.op in ("mul", "sub") and scalar(m.input(1)) is not None)
                   for m in members[at + 1:])
        fits = all(r.op in BYTES or (real and r.op in POINTWISE and id(r) in self.claimed) for r in readers)
        return head if fits and self._closed([anchor, *head], {id(anchor), *map(id, head)}) else members

    def absorb(self, g: Group) -> None:
        """Take into an epilogue what computes its other operands, where nobody else reads that."""
        if g.anchor is None or not g.epilogue:
            return
        shape = g.anchor.output.shape
        inside = {id(n) for n in g.epilogue}
        todo = list(g.epilogue)
        while todo:
            for v in todo.pop().inputs:
                p = v.producer if v is not None else None
                if v is None or p is None or p.op not in POINTWISE or id(p) in self.claimed:
                    continue
                if not self._only(v, inside) or (v.shape != shape and not widens(p)):
                    continue  # read elsewhere, or better computed once than for every row
                if (not all(fits_epilogue(x, shape) for x in p.inputs if x is not None)
                        or len(_outside([*g.epilogue, p])) > MAX_LEAVES):
                    continue
                g.epilogue.append(p)
                inside.add(id(p))
                self.claimed.add(id(p))
                todo.append(p)
        g.epilogue.sort(key=lambda n: self.order[id(n)])

    def _closed(self, members: list[Node], inside: set[int]) -> bool:
        """True if only the last member's result is read outside the set."""
        return all(o not in self.outputs and all(id(r) in inside for r in self.uses.get(o, []))
                   for m in members[:-1] for o in m.outputs)

    # -- prologues -----------------------------------------------------------------------------------

    def prologue(self, anchor: Node) -> dict[int, list[Node]]:
        """By operand, the pointwise nodes that it alone needs: widening casts, and before the first operand of
        some kinds (and of convolutions, where that pays) anything that has a tensor of the operand's shape among what
        it reads."""
        out: dict[int, list[Node]] = {}
        for i, v in enumerate(v for v in anchor.inputs if v is not None):
            p = v.producer
            if p is None or p.op not in POINTWISE or id(p) in self.claimed or not self._only(v, {id(anchor)}):
                continue
            if i == 0 and anchor.op in PROLOGUE:
                found = [*self.producers(v, anchor), p]
                if any(x.shape == v.shape for x in _outside(found)):
                    out[i] = found
            elif i == 0 and self.on_load and self.on_load.takes(anchor, self.graph.dims):
                found = [*self.producers(v, anchor), p]
                if self.on_load.suits(v, found, _outside(found)):
                    out[i] = found
                elif widens(p, anchor.op):
                    out[i] = [p]
            elif widens(p, anchor.op) and anchor.op in EPILOGUE | PROLOGUE:
                out[i] = [p]
        return out

    def _only(self, v: Value, inside: set[int]) -> bool:
        return v not in self.outputs and all(id(r) in inside for r in self.uses.get(v, []))

    def producers(self, v: Value, reader: Node) -> list[Node]:
        """The unclaimed pointwise nodes before v's producer of the same shape that nobody else reads, in order."""
        top = v.producer
        assert top is not None
        inside = {id(top), id(reader)}
        found: list[Node] = []
        heap = [(-self.order[id(top)], id(top), top)]
        while heap:
            n = heapq.heappop(heap)[2]
            if n is not top:
                if not self._only(n.output, inside) or len(_outside([*found, n, top])) > MAX_LEAVES:
                    continue
                found.append(n)
                inside.add(id(n))
            for x in n.inputs:
                p = x.producer if x is not None else None
                if (p is not None and x is not None and p.op in POINTWISE and id(p) not in self.claimed
                        and (x.shape == v.shape or widens(p)) and (-self.order[id(p)], id(p), p) not in heap
                        and id(p) not in inside and len(found) < MAX_TERMS):
                    heapq.heappush(heap, (-self.order[id(p)], id(p), p))
        return sorted(found, key=lambda n: self.order[id(n)])


def _outside(members: Iterable[Node]) -> list[Value]:
    """The tensors (not numbers) that a set of nodes reads from outside, each once."""
    members = list(members)
    made = {v for n in members for v in n.outputs}
    return list(dict.fromkeys(v for n in members for v in n.inputs
                              if v is not None and v not in made and scalar(v) is None))


# -- from groups to nodes ------------------------------------------------------------------------------


def region_node(g: Group, graph: Graph) -> Node:
    """The node of op `region` for a group."""
    if g.anchor is None:
        build = ExprBuilder({}, 0)
        epilogue = build.expression(g.result, g.epilogue)
        return _node(g, graph, "pointwise", {}, [], build, {}, epilogue, g.result)
    anchor = g.anchor
    operands: list[Value] = []
    computed: dict[int, Value] = {}
    for k, v in enumerate(v for v in anchor.inputs if v is not None):
        nodes = g.prologue.get(k, [])
        if len(nodes) == 1 and widens(nodes[0], anchor.op):
            operands.append(nodes[0].input(0))  # kernels widen what they read
        elif nodes:
            operands.append(next(x for x in _outside(nodes) if x.shape == v.shape))
            computed[k] = v
        else:
            operands.append(v)
    build = ExprBuilder({}, len(operands))
    prologue = {k: ExprBuilder({operands[k]: k}, len(operands), build.extra).expression(v, g.prologue[k])
                for k, v in computed.items()}
    build.known[anchor.outputs[0]] = ANCHOR
    epilogue_expr = build.expression(g.result, g.epilogue) if g.epilogue else None
    absent = tuple(i for i, v in enumerate(anchor.inputs) if v is None)
    while absent and absent[-1] == len(anchor.inputs) - 1:
        anchor.inputs.pop()
        absent = absent[:-1]
    attrs = {**anchor.attrs, **({"absent": absent} if absent else {})}
    return _node(g, graph, anchor.op, attrs, operands, build, prologue, epilogue_expr, anchor.outputs[0])


def _node(g: Group, graph: Graph, kind: str, attrs: dict, operands: list[Value], build: ExprBuilder, prologue: dict,
          epilogue: object, result: Value) -> Node:
    inputs = [*operands, *build.extra]
    extra = g.anchor.outputs[1:] if g.anchor is not None else []
    dense = [Tensor.dense(v.dtype, v.shape, v.is_const) for v in inputs]
    outs = [Tensor.dense(v.dtype, v.shape) for v in (g.result, *extra)]
    used = names(*(d for t in (*dense, *outs) for d in t.shape), *dims_in(tuple(attrs.values())))
    region = Region(kind, attrs, tuple(dense), len(operands), outs[0], Tensor.dense(result.dtype, result.shape),
                    epilogue, prologue, tuple(outs[1:]),  # type: ignore[arg-type]
                    {n: graph.dims[n] for n in sorted(used) if n in graph.dims}, _compute(g.anchor))
    origin = g.anchor.origin if g.anchor is not None else g.epilogue[-1].origin
    node = Node("region", list(inputs), [g.result, *extra], {"region": region}, origin)
    node.compute = region.compute
    return node


def _compute(anchor: Node | None) -> str:
    if anchor is None:
        return "f32"
    codes = {DType.I8: "int8", DType.F8E4M3FN: "f8"} if anchor.op in ("conv", "matmul", "attention") else {}
    return codes.get(anchor.input(1).dtype, anchor.compute) if codes else anchor.compute

