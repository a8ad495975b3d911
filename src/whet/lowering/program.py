"""From a graph of regions to a program: which stretches are native, what the host does between them, and the
registers that hold what passes from one to the other.

Every node has a *level*. Native nodes of one level form one segment; host steps of that level run after it, in their
order; what a host step gives is there for the next level, and so is a dimension that is learnt from a native result.
An ordinary graph has one level, one segment and no host step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet import plugins
from whet.errors import InternalError
from whet.ir.graph import Graph, Node, Value, dims_in
from whet.ir.ops_host import HOST
from whet.ir.region import Region
from whet.ir.symbolic import names, to_json
from whet.lowering.assemble import Assembly, Weights, assemble, spec
from whet.lowering.independent import independent
from whet.lowering.states import Growing, one_segment, take_states
from whet.lowering.storage import VIEWS, Launch, Schedule, schedule
from whet.plan import dims
from whet.plan.data import Arg, DimJson, IntArg, NativeStep
from whet.plan.program import Block, Check, Host, If, Learn, Loop, Native, Program, Segment, State, Tensor
from whet.targets.base import Implementation


@dataclass
class Stretch:
    """A segment to be: its part of the graph, and how that runs."""

    graph: Graph
    schedule: Schedule


@dataclass
class Outline:
    """A program whose segments are not tuned and compiled yet."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    dims: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    contents: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    independent: list[str] = field(default_factory=list)

    @property
    def launches(self) -> list[Launch]:
        """Of all segments, in order."""
        return [l for s in self.stretches for l in s.schedule.launches]

    @property
    def views(self) -> int:
        """Nodes that became views."""
        return sum(s.schedule.views for s in self.stretches)

    @property
    def copies(self) -> int:
        """Copies that lowering had to add."""
        return sum(s.schedule.copies for s in self.stretches)


def outline(graph: Graph, accepts: Callable[[Region], str], weights: Weights, prefix: str = "",
            states: Mapping[str, str] | None = None, room: Mapping[str, Sequence[int]] | None = None,
            aligned: bool = False) -> Outline:
    """The program of a graph of regions (used up). `weights` gets the constants that host steps read; the names of
    the payloads in `blobs` begin with `prefix`. `accepts`, `aligned`: see `schedule`. `states`, `room`: see
    `take_states`."""
    kept, growing = take_states(graph, states or {}, room or {})
    output_names = graph.output_names or [v.name for v in graph.outputs]
    out = Outline([spec(v) for v in graph.inputs], [spec(v, n) for v, n in zip(graph.outputs, output_names)])
    out.contents = {n: list(r) for n, r in graph.contents.items()}
    out.states = kept
    out.independent = [] if kept else independent(graph)
    _Partitioner(out, accepts, weights, prefix, growing, aligned).block(graph, set(), output_names)
    return out


def complete(o: Outline, implementations: Sequence[Implementation], weights: Weights, first: int,
             branches: bool = False) -> tuple[Program, list[NativeStep], list[Assembly]]:
    """The program, its native steps (numbered from `first` in the plan) and each segment's assembly. `branches`: see
    `assemble`."""
    segments: list[Segment] = []
    steps: list[NativeStep] = []
    bodies: list[Assembly] = []
    left = iter(implementations)
    for s in o.stretches:
        launches = s.schedule.launches
        body = assemble(launches, [next(left) for _ in launches], s.graph.dims, weights, branches)
        output_names = s.graph.output_names or [v.name for v in s.graph.outputs]
        inputs = [spec(v) for v in s.graph.inputs]
        outputs = [spec(v, n) for v, n in zip(s.graph.outputs, output_names)]
        arena = to_json(body.arena)
        used = {n for t in (*inputs, *outputs) for d in t.shape for n in dims.names(d)} | dims.names(arena)
        used |= {n for step in body.steps for d in (step.tiles, *map(_number, step.args)) for n in dims.names(d)}
        segments.append(Segment(inputs, outputs, sorted(used), arena, [n.label for n in body.steps],
                                first + len(steps), len(body.steps), body.after))
        steps += body.steps
        bodies.append(body)
    return Program(o.inputs, o.outputs, o.dims, segments, o.blocks, o.contents, o.states,
                   o.independent), steps, bodies


def _number(a: Arg) -> DimJson:
    return a.value if isinstance(a, IntArg) else a.offset


class _Partitioner:
    def __init__(self, out: Outline, accepts: Callable[[Region], str], weights: Weights, prefix: str,
                 growing: Growing, aligned: bool) -> None:
        self.out, self.accepts, self.weights, self.prefix, self.growing = out, accepts, weights, prefix, growing
        self.aligned = aligned

    def block(self, graph: Graph, outer: set[str], output_names: list[str] | None = None) -> int:
        """Add the block of a graph (and of its bodies); returns its index. `outer`: names known around it."""
        index = len(self.out.blocks)
        self.out.blocks.append(Block(0, [], [], []))  # its place: bodies come after
        self.out.dims = {**_settled(graph), **self.out.dims}
        self.out.blocks[index] = _BlockMaker(self, graph, outer, output_names).make()
        return index

    def blob(self, raw: bytes) -> str:
        name = f"{self.prefix}host{len(self.out.blobs)}"
        self.out.blobs[name] = raw
        return name


def _settled(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """The graph's dimensions; those learnt from what turned out to be constant have one value."""
    for name, s in list(graph.sizes.items()):
        if s.value.data is not None:
            n = s.value.shape[s.at] if s.axis else int(s.value.data.reshape(-1)[s.at])
            assert isinstance(n, int)
            graph.dims[name] = (n, n, n)
            del graph.sizes[name]
    return graph.dims


class _BlockMaker:
    """Levels, segments and registers of one graph."""

    def __init__(self, whole: _Partitioner, graph: Graph, outer: set[str], output_names: list[str] | None) -> None:
        self.whole, self.graph = whole, graph
        self.registers: dict[Value, int] = {}
        self.constants: list[tuple[int, str]] = []
        self.steps: list[Native | Host | If | Loop] = []
        self.known: set[str] = set(outer) | {n for n, (low, _, high) in graph.dims.items() if low == high}
        self.waiting: dict[Value, list[str]] = {}  # sizes to learn from a value
        self.top = output_names is not None
        self.count = 0
        self.whole_is_plain = self.top and one_segment(graph)
        self.readers: dict[Value, list[Node]] = {}
        self.read_outside: set[Value] = set()

    def make(self) -> Block:
        g = self.graph
        for name, s in g.sizes.items():
            self.waiting.setdefault(s.value, []).append(name)
        inputs = [self.register(v) for v in g.inputs]
        entry = [t for v in g.inputs for t in self.learn(v)]
        if not self.top:  # what the shapes of a body's inputs tell (a plan's own are read by the engine)
            for v, r in zip(g.inputs, inputs):
                for at, d in enumerate(v.shape):
                    plain = dims.plain_name(to_json(d))
                    if plain is not None and plain not in self.known:
                        entry.append(Learn(plain, r, at, True))
                        self.known.add(plain)
        else:
            self.known |= {n for v in g.inputs for n in names(*v.shape)}
        levels, last = self.levels()
        if last and not self.whole_is_plain:
            self.repeat_views(levels)
        self.readers, self.read_outside = g.uses(), g.read_outside()
        native: list[list[Node]] = [[] for _ in range(last + 1)]
        host: list[list[Node]] = [[] for _ in range(last + 1)]
        for n in g.nodes:
            (host if n.op in HOST else native)[levels[n]].append(n)
        for here, after in zip(native, host):
            if here or self.whole_is_plain:
                self.segment(here)
            for n in after:
                self.host(n)
        outputs = self.steps[0].outputs if self.whole_is_plain else [self.read(v) for v in g.outputs]
        self.free(set(outputs))
        checks = [Check(to_json(c.a), to_json(c.b), c.what, c.most) for c in g.checks]
        return Block(self.count, inputs, outputs, self.steps, self.constants, entry, checks)

    def levels(self) -> tuple[dict[Node, int], int]:
        g = self.graph
        level: dict[Value, int] = dict.fromkeys(g.inputs, 0)
        native: set[Value] = set()
        at: dict[Node, int] = {}
        for n in g.nodes:
            here = max((level[v] for v in n.inputs if v is not None and v.data is None), default=0)
            for v in g.learnt(n):
                here = max(here, level[v] + (1 if v in native and n.op not in HOST else 0))
            at[n] = here
            for o in n.outputs:
                level[o] = here + (n.op in HOST)
                if n.op not in HOST:
                    native.add(o)
        return at, max(at.values(), default=0)

    def repeat_views(self, levels: dict[Node, int]) -> None:
        """Give each segment that reads a view of something from before a view of its own: what crosses over is then
        what the view looks at, and no copy of it is made. Of a concat, which is written, there is one."""
        g = self.graph
        order: list[Node] = []
        readers = g.uses()
        outside = g.read_outside()
        for n in reversed(g.nodes):  # views of views: the last first
            if n.op in VIEWS:
                later: dict[int, Node] = {}
                for r in readers.get(n.output, []):
                    if r.op in HOST or levels[r] == levels[n]:
                        continue
                    if levels[r] not in later:
                        v = Value(g.fresh(n.op), n.output.dtype, n.output.shape)
                        copy = later[levels[r]] = Node(n.op, list(n.inputs), [v], dict(n.attrs), n.origin)
                        levels[copy] = levels[r]
                        order.append(copy)
                        readers.setdefault(n.input(0), []).append(copy)
                    r.inputs = [later[levels[r]].output if x is n.output else x for x in r.inputs]
                left = [r for r in readers.get(n.output, []) if n.output in r.inputs]
                if later and not left and n.output not in outside:
                    readers[n.input(0)] = [r for r in readers[n.input(0)] if r is not n]
                    continue
            order.append(n)
        g.nodes = order[::-1]

    # -- native ------------------------------------------------------------------------------------------

    def segment(self, nodes: list[Node]) -> None:
        g = self.graph
        if self.whole_is_plain:
            self.add_segment(g, g.inputs, [self.fresh() for _ in g.outputs])
            return
        inside = {o for n in nodes for o in n.outputs}
        mine = set(nodes)
        part = Graph(f"{g.name} {len(self.whole.out.stretches)}")
        part._serial, part.reserved = g._serial, g.reserved
        crossing: dict[Value, Value] = {}
        for n in nodes:
            for i, v in enumerate(n.inputs):
                if v is not None and v.data is None and v not in inside:
                    if v not in crossing:
                        crossing[v] = Value(v.name, v.dtype, v.shape)
                    n.inputs[i] = crossing[v]
        results = [o for n in nodes for o in n.outputs
                   if o in self.read_outside or any(r not in mine for r in self.readers.get(o, ()))]
        part.inputs, part.outputs, part.nodes = list(crossing.values()), results, nodes
        used = set(names(*(d for v in (*part.inputs, *part.outputs) for d in v.shape)))
        for n in nodes:
            used |= names(*(d for o in n.outputs for d in o.shape), *dims_in(tuple(n.attrs.values())))
            used |= set(getattr(n.attrs.get("region"), "dims", ()))
        part.dims = {n: self.dim(n) for n in sorted(used)}
        self.add_segment(part, list(crossing), [self.register(v) for v in results])
        step = self.steps[-1]
        self.steps[-1] = _replaced(step, learn=[t for v in results for t in self.learn(v)])

    def dim(self, name: str) -> tuple[int, int, int]:
        found = self.graph.dims.get(name) or self.whole.out.dims.get(name)
        if found is None:
            raise InternalError(f"the dimension {name} has no range", where=self.graph.name)
        return found

    def add_segment(self, part: Graph, inputs: Iterable[Value], outputs: list[int]) -> None:
        out = self.whole.out
        out.stretches.append(Stretch(part, schedule(part, self.whole.accepts, self.whole.growing, self.whole.aligned)))
        ins = [self.read(v) for v in inputs]
        self.steps.append(Native(segment=len(out.stretches) - 1, inputs=ins, outputs=outputs))

    # -- host --------------------------------------------------------------------------------------------

    def host(self, n: Node) -> None:
        operands = [None if v is None else self.read(v) for v in n.inputs]
        outs = [self.register(v) for v in n.outputs]
        learn = [t for v in n.outputs for t in self.learn(v)]
        results = [spec(v) for v in n.outputs]
        label, at = n.origin or n.op, n.attrs
        outer = set(self.known) - {t.name for t in learn}
        step: Host | If | Loop
        match n.op:
            case "if":
                then, other = (self.whole.block(at[k], outer) for k in ("then_branch", "else_branch"))
                step = If(label=label, condition=_there(operands[0]), captures=_all(operands[1:]), then=then,
                          other=other, outputs=outs, learn=learn)
            case "loop":
                a = 2 + at["states"]
                b = a + len(at["scan_inputs"])
                step = Loop(label=label, count=operands[0], condition=operands[1], states=_all(operands[2:a]),
                            sliced=_all(operands[a:b]), captures=_all(operands[b:]), scans=list(at["scan_inputs"]),
                            stacks=list(at["scan_outputs"]), body=self.whole.block(at["body"], outer), results=results,
                            outputs=outs, learn=learn)
            case _:
                kind = "region" if n.op == "fallback" else n.op
                raw = at["proto"] if n.op == "onnx" else region_payload(n) if kind == "region" else plugin_payload(n)
                step = Host(kind=kind, payload=self.whole.blob(raw), label=label, results=results,
                            inputs=[r for r in operands if r is not None], outputs=outs, learn=learn)
        self.steps.append(step)

    # -- registers ---------------------------------------------------------------------------------------

    def fresh(self) -> int:
        self.count += 1
        return self.count - 1

    def register(self, v: Value) -> int:
        """A new register for a value that is about to be written."""
        self.registers[v] = self.fresh()
        return self.registers[v]

    def read(self, v: Value) -> int:
        """The register of a value; constants get theirs here."""
        if v in self.registers:
            return self.registers[v]
        if v.data is None:
            raise InternalError(f"value {v.name} is read before it is made", where="lowering")
        r = self.register(v)
        if v.dtype.is_host:
            stored = {"shape": list(v.data.shape), "values": [str(x) for x in v.data.reshape(-1)]}
            self.steps.append(Host(kind="strings", payload=self.whole.blob(json.dumps(stored).encode()),
                                   label=f"constant {v.name}", results=[spec(v)], inputs=[], outputs=[r]))
        else:
            self.constants.append((r, self.whole.weights.add(np.asarray(v.data))))
        return r

    def learn(self, v: Value) -> list[Learn]:
        """What is to be learnt when v is there."""
        out = []
        for name in self.waiting.pop(v, ()):
            s = self.graph.sizes[name]
            out.append(Learn(name, self.registers[v], s.at, s.axis))
            self.known.add(name)
        return out

    def free(self, kept: set[int]) -> None:
        """Let every register go with the step that reads (or writes) it last."""
        last: dict[int, int] = {}
        for i, s in enumerate(self.steps):
            for r in (*reads(s), *s.outputs):
                last[r] = i
        gone: list[list[int]] = [[] for _ in self.steps]
        for r, i in last.items():
            if r not in kept:
                gone[i].append(r)
        self.steps = [_replaced(s, free=sorted(g)) for s, g in zip(self.steps, gone)]


def region_payload(n: Node) -> bytes:
    """What a plan stores of a node of op `fallback`."""
    return json.dumps(n.attrs["region"].describe(), sort_keys=True).encode()


def plugin_payload(n: Node) -> bytes:
    """What a plan stores of a node of op `plugin`."""
    at = n.attrs
    p = plugins.find(at["domain"], at["name"], at["since"])
    if p is None:
        raise InternalError(f"the plugin {at['domain']}.{at['name']} has gone", where=n.origin)
    return plugins.to_payload(p, dict(at["attributes"]), [v is not None for v in n.inputs])


def reads(s: Native | Host | If | Loop) -> list[int]:
    """The registers that a step reads."""
    match s:
        case If():
            return [s.condition, *s.captures]
        case Loop():
            return [r for r in (s.count, s.condition) if r is not None] + s.states + s.sliced + s.captures
    return s.inputs


def _replaced(s: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(s, **changes)


def _there(r: int | None) -> int:
    if r is None:
        raise InternalError("an operand of control flow is missing", where="lowering")
    return r


def _all(rs: Sequence[int | None]) -> list[int]:
    return [_there(r) for r in rs]
