"""`lint`: all independent faults of a model in one pass, before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, TypeProto

from whet.errors import GraphError, InputError, ModelFileError, WhetError
from whet.frontends.call import LOWERINGS
from whet.frontends.dims import Learnt, declare
from whet.frontends.onnx import survey
from whet.frontends.order import bodies
from whet.frontends.prepare import prepare
from whet.frontends.protobuf import read
from whet.frontends.tensors import ELEMENT_TYPES, TO_ONNX
from whet.ir.graph import Graph, Value
from whet.ir.symbolic import Dim, names, parse
from whet.tools import lint_cost, lint_numbers, lint_plan, lint_weights
from whet.tools.lint_codes import RULES, SEVERITIES, Finding, Severity, finding, stops
from whet.tools.lint_graph import AGAIN, STAND_IN, Structure, domain_of, label, opsets_of, schema_of, structure
from whet.tools.lint_types import Types, dims_of, infer, tensor_type

__all__ = ["RULES", "SEVERITIES", "Finding", "Severity", "lint", "stops"]

Model = str | os.PathLike[str] | bytes | onnx.ModelProto


def lint(model: Model, *, shapes: Mapping[str, Sequence[Any]] | None = None,
         profiles: Sequence[Mapping[str, Any]] | None = None, feeds: Mapping[str, Any] | None = None,
         measure: bool = False, threads: int | None = None) -> list[Finding]:
    """Every fault that can be found in a model without one hiding another, or what is to be said of a plan.

    model:    an ONNX model (path, bytes, ModelProto), or the path of a plan.
    shapes, profiles: as of `whet.build`.
    feeds:    {input: array}: run the model on these by the reference, and report what overflows or is not finite.
    measure:  build and time the model to know the share of each slow step; else the cost model estimates it.
    threads:  that a plan would be tuned for; default: the cores this process may use.

    The findings are in the order of severity, then of the code, then of the graph. An `error` would stop
    a build; `stops` says whether there is one.

    ModelFileError: not a readable model (a fault *in* one is a finding). InputError, ProfileError: shapes,
    profiles or feeds that do not fit the model. PlanError: not a readable plan.
    """
    if _is_plan(model):
        assert isinstance(model, (str, os.PathLike))
        return _sorted(lint_plan.check(Path(model), feeds, measure))
    s = structure(read(model))
    found, weights, s.source = lint_weights.load_weights(s.source)
    inputs, known = _inputs(s, shapes, profiles)
    typed, types = infer(s, inputs)
    outputs = {o.name for o in s.graph.output}
    about_weights, stats = lint_weights.check(weights, outputs)
    found += [*s.findings, *about_weights, *lint_numbers.check(s, types, weights, stats), *_reachable(s)]
    imported = _Imported(s, types, known, shapes, profiles)
    found += [*imported.run(), *imported.judged([*s.doubts, *typed])]
    if imported.graph is not None:
        found += lint_cost.dimensions(imported.graph, {v.name for v in s.graph.input}, profiles)
        if stops(found):
            found += lint_cost.hosted(imported.graph)
        else:
            found += lint_cost.check(imported.graph, threads)
            if measure:
                found = lint_cost.measured(found, model, shapes, profiles, feeds, threads)
            if feeds is not None:
                found += lint_numbers.observe(model, feeds, shapes)
    return _sorted(found)


def _is_plan(model: Model) -> bool:
    return isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() not in (".onnx", ".pb", ".ort", "")


def _sorted(found: Sequence[Finding]) -> list[Finding]:
    unique = {(f.code, f.node, f.what): f for f in reversed(found)}
    kept = [f for f in found if unique.get((f.code, f.node, f.what)) is f]
    return sorted(kept, key=lambda f: (SEVERITIES.index(f.severity), f.code))


# -- what whet makes of it ------------------------------------------------------------------------


def _inputs(s: Structure, shapes: Mapping[str, Sequence[Any]] | None,
            profiles: Sequence[Mapping[str, Any]] | None) -> tuple[Types, set[str]]:
    """The inputs' types after shapes= and profiles=, and the names of the dimensions that are left."""
    weights = {t.name for t in s.graph.initializer}
    try:
        declared = declare([v for v in s.graph.input if v.name not in weights], shapes, profiles, Learnt())
    except WhetError:  # said where the model is imported, or a kind of input that dimensions do not matter for
        return {}, set()
    return {name: tensor_type(TO_ONNX[dtype], [d if isinstance(d, int) else str(d) for d in shape])
            for name, dtype, shape in declared.inputs if dtype in TO_ONNX}, set(declared.ranges)


class _Imported:
    """Faults that whet's own import finds, and the graph of what can be imported (None: nothing)."""

    def __init__(self, s: Structure, types: Types, known: set[str], shapes: Mapping[str, Sequence[Any]] | None,
                 profiles: Sequence[Mapping[str, Any]] | None) -> None:
        self.s, self.types, self.known, self.shapes, self.profiles = s, types, known, shapes, profiles
        self.graph: Graph | None = None
        self.found: dict[tuple[str, str], Finding] = {}
        self.refused: set[str] = set()  # names that nodes would compute which whet does not take
        self.unknown: set[str] = set()  # those without a stand-in

    def run(self) -> list[Finding]:
        """What cannot be imported."""
        s = self.s
        if unranked := [v.name for v in s.graph.input if _unranked(v, self.shapes)]:
            return [finding("L210", name, f"the input {name!r} has no shape",
                            "the model declares none, not even its rank", "give one: --shapes NAME:DIMS")
                    for name in unranked]
        try:
            self.graph = survey(prepare(_mended(s)), self._fault, self.shapes, self.profiles)
        except InputError:
            raise
        except WhetError as e:
            more = [f for n in s.graph.node if (f := _unknown(n, s)) is not None]
            if not stops([*s.findings, *s.doubts, *self.found.values(), *more]):
                more.append(finding("L117" if isinstance(e, GraphError) else "L201", "", e.what,
                                    "; ".join(x for x in (e.where, e.why) if x), e.do or AGAIN))
            return [*self.found.values(), *more]
        return [*self.found.values(), *self._outputs(self.graph)]

    def _fault(self, n: NodeProto, e: WhetError) -> dict[str, Value]:
        outputs = {o for o in n.output if o}
        self.refused |= outputs
        if n.domain != STAND_IN and outputs.isdisjoint(self.s.broken | self.s.doubtful):
            f = _as_finding(n, e)
            self.found.setdefault((f.code, f.node), f)
        stand_ins = {o: v for o in outputs if (v := _stand_in(o, self.types.get(o), self.known)) is not None}
        self.unknown |= outputs - stand_ins.keys()
        return stand_ins

    def _outputs(self, graph: Graph) -> list[Finding]:
        declared = {o.name: o.type.tensor_type.elem_type for o in self.s.graph.output}
        return [finding("L114", name, f"the output {name} is declared {ELEMENT_TYPES[declared[name]].value}",
                        f"it is computed as {v.dtype.value}", AGAIN)
                for name, v in zip(graph.output_names, graph.outputs)
                if v.dtype in TO_ONNX and declared.get(name) in ELEMENT_TYPES and declared[name] != TO_ONNX[v.dtype]]

    def judged(self, typed: Sequence[Finding]) -> list[Finding]:
        """Findings about schemas, types and shapes: warnings where whet takes the node all the same."""
        out = []
        unknown = self._unknown() if self.graph is not None else set()
        for f in typed:
            if self.graph is not None and f.code == "L114":
                if f.node in self.graph.output_names:  # the import has judged that
                    continue
            elif self.graph is not None and (self.refused | unknown).isdisjoint(f.data["outputs"]):
                f = replace(f, severity="warning", why=f"{f.why}; whet builds it, other runtimes may not")
            out.append(replace(f, data={k: v for k, v in f.data.items() if k != "outputs"}))
        return out

    def _unknown(self) -> set[str]:
        """Names that were never looked at: those without a stand-in, and what depends on them."""
        out = set(self.unknown)
        for n in self.s.graph.node:
            if not out.isdisjoint({*n.input, *_inner(n)}):
                out |= {o for o in n.output if o}
        return out


def _unranked(v: onnx.ValueInfoProto, shapes: Mapping[str, Sequence[Any]] | None) -> bool:
    return (v.type.WhichOneof("value") == "tensor_type" and not v.type.tensor_type.HasField("shape")
            and v.name not in (shapes or {}))


def _mended(s: Structure) -> Any:
    """The source that whet imports: nodes that it need not look at replaced by stand-ins."""
    proto = onnx.ModelProto()
    proto.CopyFrom(s.source.proto)
    opsets = opsets_of(proto)
    for o in proto.opset_import:
        if o.domain in ("", "ai.onnx"):
            o.version = min(o.version, onnx.defs.onnx_opset_version())
    for n in proto.graph.node:
        if not s.broken.isdisjoint(n.output):
            n.CopyFrom(NodeProto(op_type=n.op_type, name=n.name, domain=STAND_IN, output=n.output))
    if "" not in opsets and not proto.opset_import:
        proto.opset_import.append(onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    typed = [v for v in proto.graph.input if v.type.WhichOneof("value") is not None]
    if len(typed) < len(proto.graph.input):
        del proto.graph.input[:]
        proto.graph.input.extend(typed)
    return replace(s.source, proto=proto)


def _as_finding(n: NodeProto, e: WhetError) -> Finding:
    if e.what.startswith("unknown operator"):
        return finding("L101", label(n), e.what, e.why, e.do, op=n.op_type)
    code = "L110" if isinstance(e, GraphError) else "L301" if isinstance(e, ModelFileError) else "L201"
    return finding(code, label(n), e.what, e.why, e.do or AGAIN, op=n.op_type)


def _unknown(n: NodeProto, s: Structure) -> Finding | None:
    """An operator that nobody defines, where the import did not come so far as to say it."""
    opsets = opsets_of(s.source.proto)
    if n.domain == STAND_IN or schema_of(n, opsets) is not None or (domain_of(n), n.op_type) in LOWERINGS:
        return None
    from whet.frontends.call import unknown_operator

    return _as_finding(n, unknown_operator(n, opsets.get(domain_of(n))))


def _stand_in(name: str, t: TypeProto | None, known: set[str]) -> Value | None:
    """A value of a type that is known whole, in dimensions that are; None where it is not."""
    dims = dims_of(t)
    if t is None or dims is None or t.tensor_type.elem_type not in ELEMENT_TYPES:
        return None
    shape: list[Dim] = []
    for d in dims:
        try:
            shape.append(d if isinstance(d, int) else parse(d or ""))
        except ValueError:
            return None
    return Value(name, ELEMENT_TYPES[t.tensor_type.elem_type], shape) if names(*shape) <= known else None


# -- dead ends ------------------------------------------------------------------------------------


def _reachable(s: Structure) -> list[Finding]:
    """Inputs that nobody reads, and nodes that no output depends on: the last of each chain, with its length."""
    g = s.graph
    reads = [{*(i for i in n.input if i), *_inner(n)} for n in g.node]
    live = {o.name for o in g.output}
    dead: list[int] = []
    for k in range(len(g.node) - 1, -1, -1):
        n = g.node[k]
        if live.isdisjoint(n.output) and n.domain != STAND_IN and n.output:
            dead.append(k)
        else:
            live |= reads[k]
    read = set().union(*reads) if reads else set()
    weights = {t.name for t in g.initializer}
    out = [finding("L501", v.name, f"no node reads the input {v.name!r}", "callers must give it all the same",
                   "leave it out of the model") for v in g.input
           if v.name not in read and v.name not in weights and v.name not in {o.name for o in g.output}]
    claimed: set[int] = set()
    producer = {o: k for k in dead for o in g.node[k].output if o}
    used_by_dead = set().union(*(reads[k] for k in dead)) if dead else set()
    for k in dead:
        if used_by_dead.isdisjoint(g.node[k].output):
            count, stack = 0, [k]
            while stack:
                j = stack.pop()
                if j in claimed:
                    continue
                claimed.add(j)
                count += 1
                stack += [producer[i] for i in reads[j] if i in producer]
            others = f", nor on {count - 1} nodes before it" if count > 1 else ""
            out.append(finding("L502", label(g.node[k]), f"no output depends on this {g.node[k].op_type}{others}",
                               "whet leaves it out", "leave it out of the model", op=g.node[k].op_type, count=count))
    return out


def _inner(n: NodeProto) -> set[str]:
    from whet.frontends.order import free_names

    return free_names(bodies(n)) if bodies(n) else set()
