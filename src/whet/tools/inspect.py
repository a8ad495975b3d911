"""What is in a model or plan, layer by layer: what runs it, what it costs, and how far that is from the limit."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from whet import passes
from whet.errors import WhetError
from whet.frontends import load_model
from whet.frontends.reference import reason
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_host import HOST
from whet.ir.printer import format_node, format_shape
from whet.ir.region import Region, Tensor, region_from_json
from whet.ir.work import flops, region_bytes
from whet.plan import Plan
from whet.targets.base import Target
from whet.targets.cpu.target import CpuTarget
from whet.tools.steps import VIEWS, moves, steps
from whet.tools.timing import LayerTimes

RECIPE = "recipe"  # the blob of a plan that has its regions


class Limits(Protocol):
    """Rates that this machine reaches: see `whet.compare.limits.measured_limits`."""

    @property
    def copy(self) -> float:
        """Bytes read and written per second."""
        ...

    def flops(self, precision: str) -> float:
        """Floating-point operations per second in a precision."""
        ...


@dataclass
class Layer:
    """A region, view or host step.

    name:     the ONNX node that it came from, with its operator in front. kind: the anchor's operator, `copy`,
              `cast`, `view`, `host` or `control`.
    reads, writes: names of values (constants are left out); edges of the graph.
    operands, results: types and shapes, as `f32[1x64x56x56]`; constant operands have a `$` in front.
    bytes, flops: at the profile's optimum; everything is read and written once.
    seconds, basis: `measured` in a run of the whole plan, `tuned` (alone, when the plan was built) or `estimated` by
              the cost model; None where nobody knows.
    limit:    the least seconds that this machine needs for the operations or for the bytes, whichever is more.
    reason:   why it runs on the host.
    """

    name: str
    kind: str
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    precision: str = ""
    tactic: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    expression: str = ""
    bytes: int = 0
    flops: int = 0
    seconds: float | None = None
    basis: str = ""
    limit: float | None = None
    reason: str = ""

    @property
    def intensity(self) -> float | None:
        """Floating-point operations per byte; None where nothing moves."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def fraction(self) -> float | None:
        """The part of the limit that is reached: above 1 where the bytes come from a cache, not from memory."""
        return self.limit / self.seconds if self.limit is not None and self.seconds else None


@dataclass
class Inspection:
    """All of it. `facts` are for people, in order; `summary` is for programs."""

    kind: str  # "model" or "plan"
    name: str
    layers: list[Layer]
    inputs: list[tuple[str, str]]  # name and type
    outputs: list[tuple[str, str]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    total: float | None = None  # seconds of a whole call, where it was measured
    basis: str = ""
    drawn: bool = True  # False: the dataflow is not known, and layers are drawn one after the other

    @property
    def seconds(self) -> float:
        """Of all layers together."""
        return sum(l.seconds or 0.0 for l in self.layers)

    def edges(self) -> list[tuple[int, int, str]]:
        """(from, to, value): layers by index, inputs as -1 - i, outputs as len(layers) + i."""
        made: dict[str, int] = {name: -1 - i for i, (name, _) in enumerate(self.inputs)}
        out: dict[tuple[int, int], str] = {}
        for k, l in enumerate(self.layers):
            for name in l.reads:
                if name in made:
                    out.setdefault((made[name], k), name)
            made.update((w, k) for w in l.writes)
        for i, group in enumerate(self.summary.get("output_values", [[n] for n, _ in self.outputs])):
            out.update({(made[name], len(self.layers) + i): name for name in group if name in made})
        return [(a, b, name) for (a, b), name in out.items()]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: `summary`, with `layers` in full, `total_seconds`, and `basis` of the seconds."""
        layers = [{**asdict(l), "intensity": l.intensity, "fraction": l.fraction} for l in self.layers]
        data = {k: v for k, v in self.summary.items() if k not in ("layers", "output_values")}
        return {**data, "kind": self.kind, "basis": self.basis, "total_seconds": self.total, "layers": layers}


def inspect(path: str | os.PathLike[str] | Plan, *, shapes: Mapping[str, Sequence[Any]] | None = None,
            profiles: Sequence[Mapping[str, Any]] | None = None, threads: int | None = None) -> Inspection:
    """Look into a plan (`.plan`, or an open one), or into an ONNX model: its graph of regions after all passes.

    shapes, profiles, threads: of a model, as of `whet.build`. A model's seconds are the cost model's.

    ModelError, InputError: a model that would not build. PlanError: not a readable plan.
    """
    if isinstance(path, Plan):
        return inspect_plan(path)
    file = Path(path)
    if file.suffix.lower() in (".onnx", ".pb", ".ort"):
        return inspect_model(file, shapes, profiles, threads)
    plan = Plan.open(file)
    try:
        return inspect_plan(plan)
    finally:
        plan.close()


def apply_limits(found: Inspection, limits: Limits) -> None:
    """Set each layer's limit (the roofline: Williams, Waterman and Patterson 2009)."""
    for l in found.layers:
        if l.kind not in ("view", "host", "control") and (l.bytes or l.flops):
            precision = "bf16" if l.precision == "bf16" else "fp32"
            l.limit = max(l.flops / limits.flops(precision), l.bytes / limits.copy)
    found.summary["limits"] = {"fp32": limits.flops("fp32"), "bf16": limits.flops("bf16"), "copy": limits.copy}


def apply_times(found: Inspection, times: LayerTimes) -> None:
    """Set each layer's seconds to what was measured in whole runs of the plan."""
    shares = collections.Counter(l.name for l in found.layers)
    weights: dict[str, float] = collections.defaultdict(float)
    for l in found.layers:
        weights[l.name] += l.seconds or 1e-9
    for l in found.layers:
        whole = times.seconds.get(l.name)
        if whole is None:
            l.seconds, l.basis = None, ""
            continue
        l.seconds = whole if shares[l.name] == 1 else whole * (l.seconds or 1e-9) / weights[l.name]
        l.basis = "measured"
    found.total, found.basis = times.total, "measured"


# -- models ---------------------------------------------------------------------------------------


def inspect_model(path: Path, shapes: Mapping[str, Sequence[Any]] | None = None,
                  profiles: Sequence[Mapping[str, Any]] | None = None, threads: int | None = None) -> Inspection:
    """See `inspect`."""
    graph = load_model(path, shapes=shapes, profiles=profiles)
    counts = collections.Counter(n.op for n in graph.nodes)
    constants = {id(v): v for n in graph.nodes for v in n.inputs if v is not None and v.data is not None}
    parameters = sum(v.data.size for v in constants.values() if v.data is not None)
    inputs = [(v.name, _type(v)) for v in graph.inputs]
    names_out = graph.output_names or [v.name for v in graph.outputs]
    summary: dict[str, Any] = {
        "name": graph.name, "operators": dict(counts.most_common()), "parameters": int(parameters),
        "inputs": [{"name": v.name, "dtype": v.dtype.value, "shape": [str(d) for d in v.shape]} for v in graph.inputs],
        "outputs": [{"name": n, "dtype": v.dtype.value, "shape": [str(d) for d in v.shape]}
                    for n, v in zip(names_out, graph.outputs)],
        "profile": {n: {"min": lo, "opt": best, "max": hi} for n, (lo, best, hi) in graph.dims.items()},
        "reference": sorted({str(n.attrs.get("name") or n.op) for n in graph.nodes if n.op == "onnx"}),
    }
    target = CpuTarget.of_host(threads or len(os.sched_getaffinity(0)))
    final = passes.run(graph)
    outputs = [(n, _type(v)) for n, v in zip(names_out, final.outputs)]
    summary["output_values"] = [[v.name] for v in final.outputs]
    layers = _model_layers(final, target)
    kinds = collections.Counter(l.kind for l in layers)
    facts = [("model", f"{graph.name}, {parameters / 1e6:.2f} M parameters"),
             ("operators", ", ".join(f"{k} {n}" for k, n in counts.most_common())),
             ("after fusion", ", ".join(f"{k} {n}" for k, n in kinds.most_common()))]
    facts += _profile(summary["profile"])
    return Inspection("model", path.name, layers, inputs, outputs, facts, summary, basis="estimated")


def _model_layers(graph: Graph, target: Target) -> list[Layer]:
    out = []
    for s in steps(graph, target):
        node = s.node
        reads = [v.name for v in (*node.inputs, *graph.learnt(node)) if v is not None and v.data is None]
        layer = Layer(node.origin or s.kind, s.kind, list(dict.fromkeys(reads)), [v.name for v in node.outputs],
                      [("$" if v.data is not None else "") + _type(v) for v in node.inputs if v is not None],
                      [_type(v) for v in node.outputs], tactic=s.tactic, expression=_text(node), bytes=s.bytes,
                      flops=s.flops, seconds=s.seconds, basis="estimated")
        if s.region is not None:
            layer.precision = _precision(s.region.compute)
            layer.kind = moves(s.region) or s.kind
        elif node.op in VIEWS:
            layer.kind, layer.tactic = "view", node.op
        elif node.op == "plugin":
            layer.tactic, layer.reason = "plugin", "a plugin computes it"
        elif node.op in HOST - {"onnx"}:
            layer.kind, layer.tactic, layer.reason = "control", node.op, "the host decides what runs"
        else:
            layer.tactic, layer.reason = "reference", reason(node)
        out.append(layer)
    return out


def _text(node: Node) -> str:
    """The node as the printer has it, without its results and the numbers of a body."""
    return format_node(node).split(" = ", 1)[-1].removeprefix("region ")


def _type(v: Value) -> str:
    return f"{v.dtype.value}[{format_shape(v.shape)}]"


def _tensor(t: Tensor) -> str:
    return f"{'$' if t.const else ''}{t.dtype.value}[{format_shape(t.shape)}]"


def _precision(compute: str) -> str:
    return {"f32": "fp32", "f16": "fp16", "f8": "fp8"}.get(compute, compute)


def _profile(profile: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    lines = [f"{n}: {p['min']} to {p['max']}, tuned at {p['opt']}" for n, p in profile.items() if p["min"] < p["max"]]
    return [("profile", "\n".join(lines))] if lines else []


# -- plans ----------------------------------------------------------------------------------------


def inspect_plan(plan: Plan) -> Inspection:
    """See `inspect`. The plan stays open."""
    s = plan.summary()
    regions, evidence = _regions(plan), plan.evidence.get("tuning", ())
    layers: list[Layer] = []
    native = 0  # plans that do not say which launch a layer is have them in order
    for given in s.get("layers", ()):
        region: Region | None = None
        known: Mapping[str, Any] = {}
        if given["kind"] not in ("host", "control"):
            k = int(given.get("launch", native))
            native += 1
            region = regions[k] if 0 <= k < len(regions) else None
            known = evidence[k] if 0 <= k < len(evidence) else {}
        layers.append(_plan_layer(given, region, known))
    drawn = any(l.writes for l in layers)
    if not drawn:  # one after the other, from the inputs to the outputs
        for i, l in enumerate(layers):
            l.reads, l.writes = [f"step {i - 1}"] if i else [t["name"] for t in s["inputs"]], [f"step {i}"]
        s["output_values"] = [[f"step {len(layers) - 1}"]] * len(s["outputs"])
    name = plan.path.name if plan.path is not None else s.get("model", {}).get("name") or "plan"
    return Inspection("plan", name, layers, [(t["name"], _spec(t)) for t in s["inputs"]],
                      [(t["name"], _spec(t)) for t in s["outputs"]], plan_facts(s), s, basis="tuned", drawn=drawn)


def _plan_layer(given: Mapping[str, Any], region: Region | None, known: Mapping[str, Any]) -> Layer:
    def texts(key: str) -> list[str]:
        return [str(x) for x in given.get(key, ())]

    layer = Layer(str(given["name"]), str(given["kind"]), texts("reads"), texts("writes"), texts("operands"),
                  texts("results"), _precision(str(given.get("precision", ""))), str(given.get("tactic", "")),
                  dict(given.get("params", {})), flops=int(given.get("flops", 0)), reason=str(given.get("reason", "")))
    if region is None:
        if not layer.reason:
            layer.reason = ("it has no generated kernel: run by onnx.reference" if layer.kind == "host"
                            else "the host decides what runs")
        return layer
    layer.operands = [_tensor(t) for t in region.inputs]
    layer.results = [_tensor(t) for t in (region.output, *region.extra_outputs)]
    layer.bytes, layer.flops = region_bytes(region), flops(region)
    layer.expression, layer.kind = _region_text(region), moves(region) or region.kind
    if seconds := known.get("seconds"):
        layer.seconds, layer.basis = float(seconds), "tuned"
    return layer


def _region_text(region: Region) -> str:
    values = [Value(f"{i}", t.dtype, t.shape) for i, t in enumerate(region.inputs)]
    results = [Value("out", t.dtype, t.shape) for t in (region.output, *region.extra_outputs)]
    return _text(Node("region", list(values), results, {"region": region}))


def _regions(plan: Plan) -> list[Region]:
    """The plan's regions in the order of its native layers; none where the record cannot be read."""
    try:
        return [region_from_json(l["region"]) for l in json.loads(plan.blob(RECIPE))["launches"]]
    except (KeyError, ValueError, TypeError, RecursionError, WhetError):
        return []


def _spec(t: Mapping[str, Any]) -> str:
    return f"{t['dtype']}[{'x'.join(map(str, t['shape'])) or 'scalar'}]"


def _target(s: Mapping[str, Any]) -> str:
    t = s["target"]
    d = t.get("device")
    if d is None:
        return f"{t['arch']} {t['isa']}, {s['threads']} threads"
    called = "".join(f", calls {name} {d['libraries'].get(name, '')}" for name in d["uses"])
    return (f"{d['name']} ({t['isa']}), driver {d['driver']}" if d["name"] else f"any GPU of {t['isa']}") + called


def plan_facts(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One screen about a plan, from its summary: shapes, target, steps, memory."""
    mib = 1 << 20
    facts = [("model", f"{s['model']['name']}, sha256 {s['model']['sha256'][:16]}")]
    facts += [(kind, "\n".join(f"{t['name']}: {_spec(t)}" for t in s[kind])) for kind in ("inputs", "outputs")]
    facts += _profile(s["profile"])
    if s["states"]:
        facts.append(("states", "\n".join(
            f"{x['output']} is the next run's {x['input']}, " + ("in place" if x["in_place"] else "handed on")
            for x in s["states"])))
    facts.append(("target", f"{_target(s)}, computes in {s['precision']['compute']}"))
    if s.get("untuned"):
        facts.append(("tuning", s["untuned"]))
    if (e := s.get("early_launch")) is not None:
        early, plain = ("not timed" if t is None else f"{1e6 * t:.1f} us"
                        for t in (e["early_seconds"], e["plain_seconds"]))
        facts.append(("early launch", f"{'yes' if e['used'] else 'no'}: {early} with it, {plain} without"
                      + (f" ({e['failed']})" if e["failed"] else "")))
    if s["precision"].get("note"):
        facts.append(("precision", s["precision"]["note"]))
    facts.append(("steps", ", ".join(f"{n} {k}" for k, n in s["steps"].items() if n) + f"; {s['copies']} copies"))
    m = s["memory"]
    facts.append(("memory", f"weights {s['weight_bytes'] / mib:.1f} MiB, activations {m['arena'] / mib:.1f} MiB "
                            f"(without sharing {m['sum_of_temporaries'] / mib:.1f}), "
                            f"code {s['code_bytes'] / mib:.2f} MiB"))
    return facts
