"""If, Loop, Scan and SequenceMap: their bodies become graphs of their own, inside `if` and `loop` nodes.

A body is imported with its states as they are at first. Where it gives a state back with another dimension, that
dimension is learnt anew in every iteration and the body is imported again, until nothing changes; where the rank
changes, the state is an object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
from onnx import GraphProto, TypeProto

from whet.errors import GraphError, UnsupportedError
from whet.frontends.body import Body, Captures, Importer, Scope, aligned, body_of, emit, result
from whet.frontends.call import Builder, Call, Items, Operand, Partial, Rows
from whet.frontends.order import free_names
from whet.frontends.sequences import at, empty, insert, items, length_of
from whet.frontends.tensors import TO_ONNX
from whet.frontends.types import join, kind, seen_from, tensor, type_of
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import DimConflictError, Spec
from whet.ir.symbolic import Dim, Sym, names

MAX_TRIPS = 1 << 31  # of a loop that may run as often as it likes
MAX_UNROLLED = 512  # nodes of a loop that is taken apart


# -- If ----------------------------------------------------------------------------------------------


def lower_if(importer: Importer, call: Call, scope: Scope) -> Sequence[Operand | None]:
    """An `if` node, or the branch that a constant condition takes."""
    condition = call.const(0)
    if condition is not None:
        taken = call.attr("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        return importer.subgraph(taken, scope, {})
    branches = [call.attr("then_branch"), call.attr("else_branch")]
    if any(b is None for b in branches) or len(branches[0].output) != len(branches[1].output):
        _fail(call, "its branches have different numbers of results")
    if len(call.proto.output) > len(branches[0].output):
        _fail(call, f"it has {len(call.proto.output)} outputs, its branches {len(branches[0].output)}")

    def bodied(g: GraphProto, label: str) -> Body:
        return body_of(importer, g.name or label, f"{call.hint}_{label}", scope, lambda b: [],
                       lambda inner, outside, _: inner.subgraph(g, outside, {}))

    bodies = [bodied(g, label) for g, label in zip(branches, ("then", "else"))]
    types, specs = [], []
    for i, (a, b) in enumerate(zip(*(b.graph.outputs for b in bodies))):
        t, spec = _either(importer, call, a, b, f"{call.hint}_{i}")
        types.append(t)
        specs.append(spec)
    operands = [call.x(0), *aligned(importer, bodies)]
    return emit(importer, call, "if", operands, {"then_branch": bodies[0].graph, "else_branch": bodies[1].graph},
                 types, specs)


def _either(importer: Importer, call: Call, a: Value, b: Value, hint: str) -> tuple[TypeProto | None, Spec]:
    """Type and shape of what is one value or the other."""
    known = importer.graph.dims
    t = seen_from(join(type_of(importer.builder, a), type_of(importer.builder, b)), known)
    if a.dtype is DType.OBJECT or b.dtype is DType.OBJECT:
        return t, (DType.OBJECT, ())
    if a.dtype is not b.dtype:
        _fail(call, f"its branches give {a.dtype.value} and {b.dtype.value}")
    if a.rank != b.rank:
        return t, (DType.OBJECT, ())
    return t, result(importer, a.dtype, [d if d == e else None for d, e in zip(a.shape, b.shape)], hint)


# -- Loop --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What is known of a state in every iteration: a tensor's dimensions (None: any), or an object's type."""

    dtype: DType
    shape: tuple[Dim | None, ...] = ()
    type: TypeProto | None = None

    @staticmethod
    def of(importer: Importer, x: Operand) -> State:
        if x.dtype is DType.OBJECT:
            return State(DType.OBJECT, type=seen_from(type_of(importer.builder, x), importer.graph.dims))
        return State(x.dtype, tuple(d if names(d) <= importer.graph.dims.keys() else None for d in x.shape))

    def formal(self, builder: Builder, hint: str) -> Value:
        """The body's input."""
        shape = tuple(builder.unknown(f"{hint}_{i}") if d is None else d for i, d in enumerate(self.shape))
        builder.varying.update(names(*(d for d, known in zip(shape, self.shape) if known is None)))
        v = Value(builder.graph.fresh(hint), self.dtype, shape)
        if self.type is not None:
            builder.types[v] = self.type
        return v

    def joined(self, other: State, call: Call) -> State:
        """What holds for both."""
        if self == other:
            return self
        if DType.OBJECT not in (self.dtype, other.dtype):
            if self.dtype is not other.dtype:
                _fail(call, f"a state is {self.dtype.value} first and {other.dtype.value} later")
            if len(self.shape) == len(other.shape):
                return replace(self, shape=tuple(d if d == e else None for d, e in zip(self.shape, other.shape)))
        return State(DType.OBJECT, type=join(self.as_type(), other.as_type()))

    def as_type(self) -> TypeProto | None:
        return self.type if self.dtype is DType.OBJECT else tensor(TO_ONNX[self.dtype], self.shape)


@dataclass
class Turn:
    """One iteration, as the body sees it. Its number is a dimension: what is sliced by it has a known size."""

    iteration: Operand
    condition: Value
    states: list[Value]
    slices: list[Value]


@dataclass
class Plan:
    """A loop to be: `turn` lowers one iteration, and gives the condition, the states and the slices to be stacked."""

    turn: Callable[[Importer, Captures, Turn], Sequence[Operand]]
    states: list[Operand]
    count: Operand | None = None
    condition: Operand | None = None
    scan_inputs: list[tuple[Operand, int, bool]] = field(default_factory=list)  # operand, axis, reverse
    scan_outputs: list[tuple[int, bool]] = field(default_factory=list)  # axis, reverse


def emit_loop(importer: Importer, call: Call, scope: Scope, plan: Plan, label: str = "body") -> list[Operand]:
    """A `loop` node. `label` tells the loops of one node apart."""
    most = _trips(importer, call, plan)
    states, body = _settled(importer, call, scope, plan, label, most)
    goes_on = body.graph.outputs[0]
    always = _true(plan.condition) and (goes_on is body.graph.inputs[1] or _true(goes_on))
    rows = _collected(importer, plan, body)
    kept = [i for i in range(len(states)) if i not in rows]
    formals, outputs = body.graph.inputs, body.graph.outputs
    body.graph.inputs = [v for i, v in enumerate(formals) if i - 2 not in rows]
    body.graph.outputs = [v for i, v in enumerate(outputs) if i - 1 not in rows] + list(rows.values())
    body.graph.prune()
    stacks = [*plan.scan_outputs, *((0, False) for _ in rows)]
    types: list[TypeProto | None] = [states[i].type for i in kept]
    specs = [result(importer, states[i].dtype, states[i].shape, f"{call.hint}_{i}") for i in kept]
    for i, v in enumerate(body.graph.outputs[1 + len(kept):]):
        t, (axis, reverse) = type_of(importer.builder, v), stacks[i]
        types.append(tensor(t.tensor_type.elem_type, None) if kind(t) == "tensor_type" and t is not None else None)
        if v.dtype is DType.OBJECT:
            specs.append((DType.OBJECT, ()))
            continue
        axis = call.axis(axis, v.rank + 1)
        stacks[i] = axis, reverse
        dims = (*v.shape[:axis], most if always else None, *v.shape[axis:])
        specs.append(result(importer, v.dtype, dims, f"{call.hint}_{len(states) + i}"))
    given = [plan.count, None if _true(plan.condition) else plan.condition, *(plan.states[i] for i in kept),
             *(x for x, _, _ in plan.scan_inputs)]
    operands = [*(None if x is None else importer.builder.materialize(x) for x in given), *body.captures]
    results = emit(importer, call, "loop", operands, {
        "body": body.graph, "states": len(kept), "scan_inputs": tuple((a, r) for _, a, r in plan.scan_inputs),
        "scan_outputs": tuple(stacks)}, types, specs)
    end = len(results) - len(rows)
    back = {**dict(zip(kept, results)), **{i: Rows(v) for i, v in zip(rows, results[end:]) if isinstance(v, Value)}}
    return [*(back[i] for i in range(len(states))), *results[len(kept):end]]


def _settled(importer: Importer, call: Call, scope: Scope, plan: Plan, label: str, most: Dim | None
             ) -> tuple[list[State], Body]:
    """What is known of the states in every iteration, and the body imported so. most: as `_trips` gives it."""
    builder, n = importer.builder, len(plan.states)
    states = [State.of(importer, x) for x in plan.states]
    # A body may be imported again and again with those around it: it need not learn the same things anew.
    key = (call.origin, label, *call.proto.output, *(s.dtype for s in states))
    states = [s.joined(t, call) for s, t in zip(states, importer.generalized.get(key, states))]
    slices = [_slice_of(importer, x, axis) for x, axis, _ in plan.scan_inputs]
    last = max(min(builder.bounds(most)[1], MAX_TRIPS) - 1, 0) if most is not None else MAX_TRIPS - 1

    def formals(b: Builder) -> list[Value]:
        return [Value(b.graph.fresh("iteration"), DType.I64, ()), Value(b.graph.fresh("condition"), DType.BOOL, ()),
                *(s.formal(b, "state") for s in states), *(s.formal(b, "slice") for s in slices)]

    def fill(inner: Importer, outside: Captures, given: list[Value]) -> Sequence[Operand]:
        number = inner.builder.learn(given[0], 0, "iteration", (0, min(1, last), last))
        builder.varying.update(names(number))
        builder.below.update({name: most for name in names(number) if most is not None})
        return plan.turn(inner, outside, Turn(Partial(np.asarray(number, object), DType.I64), given[1], given[2:2 + n],
                                              given[2 + n:]))

    while True:
        general = sum(s.shape.count(None) + (s.dtype is DType.OBJECT) for s in states)
        body = body_of(importer, call.origin, f"{call.hint}_{label}{general or ''}", scope, formals, fill)
        after = [s.joined(State.of(importer, v), call) for s, v in zip(states, body.graph.outputs[1:1 + n])]
        if after == states:
            return states, body
        states = importer.generalized[key] = after


def _collected(importer: Importer, plan: Plan, body: Body) -> dict[int, Value]:
    """The states that are sequences to whose end each iteration adds a tensor of one shape, and nothing else: what is
    added, by state. It is stacked instead."""
    g = body.graph
    found: dict[int, Value] = {}
    for i, x in enumerate(plan.states):
        formal, out = g.inputs[2 + i], g.outputs[1 + i]
        n = out.producer
        if not isinstance(x, Items) or x.items or n is None or n.attrs.get("name") != "SequenceInsert":
            continue
        added = n.inputs[-1]
        reads = [v for m in g.nodes for v in m.inputs if v is formal or v is out]
        reads += [v for v in g.outputs if v is formal or v is out]
        if added is None or len(n.inputs) != 2 or n.inputs[0] is not formal or len(reads) != 2 or added.dtype.is_host:
            continue
        if names(*added.shape) <= importer.graph.dims.keys():
            found[i] = added
    return found


def _slice_of(importer: Importer, x: Operand, axis: int) -> State:
    """What is known of a slice of a scanned tensor."""
    s = State.of(importer, x)
    if s.dtype is DType.OBJECT:
        t = s.type.tensor_type.elem_type if s.type is not None and kind(s.type) == "tensor_type" else 0
        return replace(s, type=tensor(t, None) if t else None)
    return replace(s, shape=(*s.shape[:axis], *s.shape[axis + 1:]))


def _true(x: Operand | None) -> bool:
    """True for an operand that is absent or always true."""
    return x is None or (x.data is not None and x.data.size > 0 and bool(x.data.reshape(-1)[0])
                         if isinstance(x, Value) else False)


def _trips(importer: Importer, call: Call, plan: Plan) -> Dim | None:
    """How often a loop runs as long as its condition holds, None where that is not known."""
    if plan.count is None:
        if not plan.scan_inputs:
            return None
        found = [(x.shape[axis] if x.dtype is not DType.OBJECT else None) for x, axis, _ in plan.scan_inputs]
        for d in found[1:]:
            if found[0] is not None and d is not None and d != found[0]:
                if isinstance(d, int) and isinstance(found[0], int):
                    _fail(call, f"its scan inputs are {found[0]} and {d} long")
                raise DimConflictError(found[0], d, f"{call.proto.op_type}'s scan inputs")
        return found[0]
    if isinstance(plan.count, Partial):
        d = plan.count.dims.reshape(-1)[0]
    elif isinstance(plan.count, Value) and plan.count.data is not None:
        d = int(plan.count.data.reshape(-1)[0])
    else:
        return None
    return importer.builder.maximum(d, 0) if isinstance(d, Sym) else max(d, 0)


def lower_loop(importer: Importer, call: Call, scope: Scope) -> Sequence[Operand | None]:
    """A `loop` node for a Loop; its iterations one after another where that takes sequences apart."""
    g: GraphProto = call.attr("body")
    states = _given(call, 2)
    if len(g.input) != 2 + len(states):
        _fail(call, f"its body takes {len(g.input)} inputs for {len(states)} states")
    stacked = len(g.output) - 1 - len(states)
    if stacked < 0 or len(call.proto.output) > len(g.output) - 1:
        _fail(call, f"its body gives {len(g.output)} outputs for {len(states)} states")
    flat = _unrolled(importer, call, scope, g, states)
    if flat is not None:
        return flat

    def turn(inner: Importer, outside: Captures, now: Turn) -> Sequence[Operand]:
        return inner.subgraph(g, outside, _named(g, [now.iteration, now.condition, *now.states]))

    plan = Plan(turn, states, call.inputs[0] if call.has(0) else None, call.inputs[1] if call.has(1) else None,
                scan_outputs=[(0, False)] * stacked)
    return emit_loop(importer, call, scope, plan)


def _unrolled(importer: Importer, call: Call, scope: Scope, g: GraphProto, states: list[Operand]
              ) -> list[Operand] | None:
    """The results of a Loop of a few iterations over sequences of known length, None for any other."""
    count, condition = call.const(0), call.inputs[1] if call.has(1) else None
    if count is None or not 0 < int(count.reshape(-1)[0]) * len(g.node) <= MAX_UNROLLED or not _true(condition):
        return None
    read = [*states, *(scope[name] for name in sorted(free_names([g])) if name in scope)]
    if not any(isinstance(x, Items) for x in read):
        return None
    before, b = len(importer.graph.nodes), importer.builder
    going: Operand = b.graph.const(True)
    slices: list[list[Value]] = [[] for _ in g.output[1 + len(states):]]
    for i in range(int(count.reshape(-1)[0])):
        going, *given = importer.subgraph(g, scope, _named(g, [b.graph.const(i, DType.I64), going, *states]))
        states = given[:len(states)]
        for kept, x in zip(slices, given[len(states):]):
            kept.append(b.materialize(x))
        if not _true(going) or any(x.dtype.is_host or x.shape != kept[0].shape for kept in slices for x in kept):
            del importer.graph.nodes[before:]
            return None
    stacked = [b.emit("concat", *(call.reshape(x, (1, *x.shape)) for x in kept), axis=0) for kept in slices]
    return [*states, *stacked]


# -- Scan --------------------------------------------------------------------------------------------


def lower_scan(importer: Importer, call: Call, scope: Scope) -> Sequence[Operand | None]:
    """A `loop` node for a Scan; two of them, one inside the other, for opset 8's with its batch."""
    g: GraphProto = call.attr("body")
    scans = call.attr("num_scan_inputs")
    batched = call.opset < 9
    given = _given(call, 1 if batched else 0)
    n = len(given) - scans
    if scans < 1 or n < 0 or len(g.input) != len(given) or len(g.output) < n:
        _fail(call, f"its body takes {len(g.input)} inputs and gives {len(g.output)} outputs for {len(given)} operands")
    stacked = len(g.output) - n
    reverse = _list(call, "directions" if batched else "scan_input_directions", scans)
    if not batched:
        axes = [call.axis(a, len(x.shape)) if x.dtype is not DType.OBJECT else a
                for a, x in zip(_list(call, "scan_input_axes", scans), given[n:])]
        stacks = list(zip(_list(call, "scan_output_axes", stacked),
                          map(bool, _list(call, "scan_output_directions", stacked))))
        return _scan(importer, call, scope, g, given[:n], list(zip(given[n:], axes, map(bool, reverse))), stacks, None)

    lengths = call.inputs[0] if call.has(0) else None
    if lengths is not None and any(reverse):
        raise UnsupportedError("Scan of opset 8 backwards over sequences of several lengths", where=call.origin,
                               do="export the model with opset 9 or later")

    def one(inner: Importer, outside: Captures, now: Turn) -> Sequence[Operand]:
        sliced = list(now.slices)
        length = sliced.pop() if lengths is not None else None
        made = _scan(inner, call, outside, g, list(sliced[:n]), [(x, 0, bool(r)) for x, r in zip(sliced[n:], reverse)],
                     [(0, False)] * stacked, length)
        return [inner.builder.graph.const(True), *made]

    over = [*given, *([lengths] if lengths is not None else [])]
    plan = Plan(one, [], scan_inputs=[(x, 0, False) for x in over], scan_outputs=[(0, False)] * (n + stacked))
    return emit_loop(importer, call, scope, plan, "batch")


def _scan(importer: Importer, call: Call, scope: Scope, g: GraphProto, states: list[Operand],
          scanned: list[tuple[Operand, int, bool]], stacks: list[tuple[int, bool]],
          length: Value | None) -> list[Operand]:
    """A `loop` over slices. Where there is a length, states stay from there on and slices are zero."""
    n = len(states)

    def turn(inner: Importer, outside: Captures, now: Turn) -> Sequence[Operand]:
        out = inner.subgraph(g, outside, _named(g, [*now.states, *now.slices]))
        if length is not None:
            b = inner.builder
            active = b.emit("lt", b.materialize(now.iteration), b.emit("cast", outside.value(length), to=DType.I64))
            values = [b.materialize(x) for x in out]
            instead = [*now.states, *(b.graph.const(np.zeros((), v.dtype.np), v.dtype) for v in values[n:])]
            out = [b.emit("where", active, v, w) for v, w in zip(values, instead)]
        return [inner.builder.graph.const(True), *out]

    plan = Plan(turn, states, scan_inputs=scanned, scan_outputs=stacks)
    return emit_loop(importer, call, scope, plan, "scan")


# -- SequenceMap -------------------------------------------------------------------------------------


def lower_sequence_map(importer: Importer, call: Call, scope: Scope) -> Sequence[Operand | None]:
    """The body on each item where the items are known, else a `loop` that builds the sequences."""
    g: GraphProto = call.attr("body")
    given = _given(call, 0)
    if len(g.input) != len(given):
        _fail(call, f"its body takes {len(g.input)} inputs for {len(given)} operands")
    mapped = [i == 0 or kind(type_of(importer.builder, x)) == "sequence_type" for i, x in enumerate(given)]
    first = given[0]
    if all(isinstance(x, Items) for x, m in zip(given, mapped) if m) and isinstance(first, Items):
        rows = []
        for k in range(len(first.items)):
            here = [x.items[k] if isinstance(x, Items) and m else x for x, m in zip(given, mapped)]
            rows.append(importer.subgraph(g, scope, _named(g, here)))
        return [_sequence_of(importer.builder, g, i, [row[i] for row in rows]) for i in range(len(g.output))]

    def turn(inner: Importer, outside: Captures, now: Turn) -> Sequence[Operand]:
        here = [outside.inside(x) for x in given]
        here = [at(inner.builder, x, now.iteration, call.origin) if m else x for x, m in zip(here, mapped)]
        made = inner.subgraph(g, outside, _named(g, here))
        return [inner.builder.graph.const(True),
                *(insert(inner.builder, s, x, None, call.origin) for s, x in zip(now.states, made))]

    states: list[Operand] = [_sequence_of(importer.builder, g, i, []) for i in range(len(g.output))]
    plan = Plan(turn, states, length_of(importer.builder, first, call.origin))
    return emit_loop(importer, call, scope, plan)


# -- what these share --------------------------------------------------------------------------------


def _sequence_of(builder: Builder, g: GraphProto, i: int, values: Sequence[Operand]) -> Items:
    return items(builder, values) if values else empty(g.output[i].type.tensor_type.elem_type)


def _named(g: GraphProto, operands: Sequence[Operand]) -> dict[str, Operand]:
    return dict(zip((v.name for v in g.input), operands, strict=True))


def _given(call: Call, first: int) -> list[Operand]:
    """The operands from this one on, all of which must be there."""
    out = [x for x in call.inputs[first:] if x is not None]
    if len(out) != max(len(call.inputs) - first, 0):
        _fail(call, "it lacks an input")
    return out


def _list(call: Call, name: str, n: int) -> list[int]:
    found = call.attr(name) or [0] * n
    if len(found) != n:
        _fail(call, f"its attribute {name} has {len(found)} elements instead of {n}")
    return list(found)


def _fail(call: Call, what: str) -> NoReturn:
    raise GraphError(f"{call.proto.op_type}: {what}", where=call.origin, do="export the model again")


CONTROL: dict[str, Callable[[Importer, Call, Scope], Sequence[Operand | None]]] = {
    "If": lower_if, "Loop": lower_loop, "Scan": lower_scan, "SequenceMap": lower_sequence_map}
