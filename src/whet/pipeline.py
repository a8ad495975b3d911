"""The main job, stage by stage: model -> graph -> passes -> regions -> tuning -> plan."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import passes
from whet.errors import InputError, PlanFormatError, UnsupportedError
from whet.frontends import load_model, model_hash
from whet.frontends.reference import reason
from whet.ir.graph import Graph, Node
from whet.ir.region import Region, region_from_json
from whet.ir.symbolic import names
from whet.ir.work import flops
from whet.lowering import Outline, agree, complete, outline, room_for
from whet.lowering.assemble import Assembly, Weights
from whet.lowering.layers import layers
from whet.plan import Plan, PlanData
from whet.plan.data import NativeStep
from whet.plan.program import Host, Program
from whet.targets.base import Implementation
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.target import CpuTarget
from whet.tuning.cache import TimingCache, default_path
from whet.tuning.tuner import Choice, Tuned, compile_all, tune

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, Sequence[int]]
Profile = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
Progress = Callable[[str, int, int], None]

PRECISIONS = ("fp32", "bf16")
RECIPE = "recipe"  # the blob of a plan that recompile reads


def build(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    precision: str | Iterable[str] = "fp32",
    force_precision: bool = False,
    fp32_layers: Iterable[str] = (),
    threads: int | None = None,
    shapes: Shapes | None = None,
    profiles: Sequence[Profile] | None = None,
    states: Mapping[str, str] | None = None,
    timing_cache: str | os.PathLike[str] | TimingCache | None = None,
    opt_level: int = 3,
    dump: str | os.PathLike[str] | None = None,
    isa: str = "host",
    progress: Progress = lambda what, done, total: None,
) -> Plan:
    """Build a plan from a model.

    model:          path, bytes or `onnx.ModelProto`; or a `torch.nn.Module` with `example_inputs`.
    precision:      `fp32`, `bf16`, `best`, or a set of them; fp32 is always allowed.
    force_precision: use the precision even where this CPU only emulates it.
    fp32_layers:    layers (as `whet inspect` or the model calls them) that stay in fp32: their products and results.
    threads:        that the plan is tuned for; default: the cores this process may use.
    shapes:         {input: shape} fixes an input's dimensions.
    profiles:       [{input: (min, opt, max)}, ...] for dynamic dimensions: each is tuned at its opt, and a run takes
                    the first that has its shapes. Instead of an input a dimension's name; for an input whose values
                    are a shape, the values.
    states:         {input: output} that a context keeps: the output is the next run's input. Where the output is the
                    input with something behind it (a key-value cache) it grows in place, without copies.
    timing_cache:   file (read and added to) or object; default: the user's cache.
    opt_level:      0 (trust the cost model) to 5 (measure everything).
    dump:           folder for the graph after each pass.
    isa:            `host`; `avx512`, `avx2` to build for less than this machine has (tuned here).
    progress:       called with (what, done, total).

    Raises ModelError, InputError, UnsupportedError, TuningError, CacheError.
    """
    if target != "cpu":
        raise UnsupportedError(f"no target {target!r}", why="this version builds for the CPU", do="use target='cpu'")
    allowed = _precisions(precision)
    cpu = _cpu(isa, threads)
    cache = timing_cache if isinstance(timing_cache, TimingCache) else TimingCache.open(timing_cache or default_path())

    progress("reading the model", 0, 0)
    source = _source(model, example_inputs)
    graphs = [_load(source, shapes, dict(p), states or {}) for p in profiles or [{}]]

    progress("optimizing the graph", 0, 0)
    # Emulated bf16 converts to fp32 and multiplies there: never faster, so it is not chosen by itself.
    native = cpu.isa.bf16_dot
    compute = "bf16" if "bf16" in allowed and (native or force_precision) else "fp32"
    note = "" if native or "bf16" not in allowed else (
        "bf16 is emulated in fp32 arithmetic, as --force-precision asked" if force_precision else
        "bf16 was allowed but not used: this CPU has no bf16 products (--force-precision emulates them)")
    reasons: dict[str, str] = {}  # why nodes run on the host
    layers_kept = _Kept(fp32_layers)
    for i, graph in enumerate(graphs):
        dumped = Path(dump) / (f"profile{i + 1}" if len(graphs) > 1 else "") if dump else None
        graphs[i] = passes.run(graph, compute=compute, dump=dumped, keep=layers_kept)
        reasons |= _reasons(graphs[i])
    layers_kept.check()
    weights, room = Weights(), room_for(graphs, states or {})
    outlines = [outline(graph, cpu.accepts, weights, f"profile{i + 1}." if i else "", states, room)
                for i, graph in enumerate(graphs)]
    agree([o.states for o in outlines])
    tuned = _tune([l.region for o in outlines for l in o.launches], cpu, cache, opt_level, progress)

    progress("compiling and writing the plan", 0, 0)
    name = graphs[0].name
    return Plan.from_data(_plan_data(name, outlines, weights, tuned, cpu, compute, allowed, source, note, reasons))


class _Kept:
    """Which regions stay in fp32, by the names that were given."""

    def __init__(self, given: Iterable[str]) -> None:
        self.given = set(given)
        self.met: set[str] = set()
        self.there: set[str] = set()

    def __call__(self, node: Node) -> bool:
        names = {node.origin, node.origin.partition(" ")[2]} - {""}
        self.there |= names
        self.met |= names & self.given
        return bool(names & self.given)

    def check(self) -> None:
        """InputError for a name that is no layer's (known once there was something to assign)."""
        if self.there and (missing := sorted(self.given - self.met)):
            near = difflib.get_close_matches(missing[0], sorted(self.there), 3, 0.5)
            raise InputError(f"there is no layer {missing[0]!r} to keep in fp32",
                             why=f"names like it: {', '.join(near)}" if near else "no name is like it",
                             do="whet inspect MODEL.plan shows the layers")


def _load(source: Any, shapes: Shapes | None, profile: dict[str, Any], states: Mapping[str, str]) -> Graph:
    """The model's graph for one profile. States begin empty: what is long in them may have the length 0."""
    graph = load_model(source, shapes=shapes, profiles=[profile] if profile else None)
    others = names(*(d for v in graph.inputs if v.name not in states for d in v.shape))
    own = {n for v in graph.inputs if v.name in states for d in v.shape for n in names(d)} - others
    empty = {n: (0, *graph.dims[n][1:]) for n in sorted(own) if graph.dims[n][0] > 0}
    if not empty or any(n in profile for n in (*empty, *states)):
        return graph
    return load_model(source, shapes=shapes, profiles=[{**profile, **empty}])


def regenerate(plan: Plan) -> Plan:
    """The same plan with its machine code generated anew from the recorded regions and tactics.

    PlanFormatError: the record is missing or malformed, or this whet names its kernels otherwise.
    """
    try:
        recipe = json.loads(plan.blob(RECIPE))
        jobs = [(region_from_json(r["region"]), str(r["tactic"]), dict(r["params"])) for r in recipe["launches"]]
        isa = Isa(**{**recipe["isa"], "features": frozenset(recipe["isa"]["features"])})
    except (KeyError, ValueError, TypeError, RecursionError) as e:
        raise PlanFormatError("the plan's record of its kernels cannot be read", why=f"{type(e).__name__}: {e}",
                              do="build the plan anew from its model") from e
    cpu = CpuTarget(isa, plan.contents.runtime["threads"])
    made = [cpu.implement(*job) for job in jobs]
    linked = cpu.link(compile_all(made, cpu, {}))
    return plan.with_code(linked.code, linked.symbols)


def _plugins(outlines: Sequence[Outline]) -> list[dict[str, Any]]:
    """The plugins whose functions the plan calls, which must be there where it is loaded."""
    used: dict[str, dict[str, Any]] = {}
    for o in outlines:
        for s in (s for b in o.blocks for s in b.steps):
            if isinstance(s, Host) and s.kind == "plugin":
                stored = json.loads(o.blobs[s.payload])
                used[f"{stored['domain']}.{stored['name']}"] = {
                    k: stored[k] for k in ("domain", "name", "since", "package", "version")}
    return [used[k] for k in sorted(used)]


def _recipe(jobs: Sequence[tuple[Region, Choice]], cpu: CpuTarget) -> bytes:
    """What `regenerate` needs: the regions, their tactics, and the instruction set."""
    isa = {**dataclasses.asdict(cpu.isa), "features": sorted(cpu.isa.features)}
    launches = [{"region": r.describe(), "tactic": c.tactic, "params": c.params}
                for r, c in jobs]
    return json.dumps({"isa": isa, "launches": launches}, sort_keys=True).encode()


def _precisions(precision: str | Iterable[str]) -> set[str]:
    asked = {precision} if isinstance(precision, str) else set(precision)
    if "best" in asked:
        asked = asked - {"best"} | set(PRECISIONS)
    unknown = asked - set(PRECISIONS)
    if unknown:
        raise UnsupportedError(f"no precision {', '.join(sorted(unknown))} on the CPU",
                               why=f"this version has {', '.join(PRECISIONS)}", do="choose among these, or 'best'")
    return asked | {"fp32"}


def _cpu(isa: str, threads: int | None) -> CpuTarget:
    from whet.targets.cpu.isa import named

    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"threads={threads}", why="a plan runs on 1 to 1024 threads", do="leave it out for all cores")
    return CpuTarget(named(isa), threads or len(os.sched_getaffinity(0)))


def _source(model: Any, example_inputs: Any) -> Any:
    if example_inputs is not None or type(model).__module__.split(".")[0] == "torch" or hasattr(model, "state_dict"):
        from whet.frontends.torch import export

        return export(model, example_inputs)
    return model


def _reasons(graph: Graph) -> dict[str, str]:
    """Why each `onnx` node of a graph and of its bodies has no generated kernel, by its origin."""
    out = {n.origin or n.op: reason(n) for n in graph.nodes if n.op == "onnx"}
    for body in graph.bodies():
        out |= _reasons(body)
    return out


def _tune(regions: Sequence[Region], cpu: CpuTarget, cache: TimingCache, opt_level: int, progress: Progress) -> Tuned:
    return tune(list(regions), cpu, cache, opt_level, lambda p: progress(f"tuning {p.region}", p.done, p.total))


def _plan_data(name: str, outlines: Sequence[Outline], weights: Weights, tuned: Tuned, cpu: CpuTarget, compute: str,
               allowed: set[str], source: Any, note: str, reasons: Mapping[str, str]) -> PlanData:
    import numpy
    import onnx

    import whet

    jobs: list[tuple[Region, Choice]] = []
    made: list[Implementation] = []
    programs: list[Program] = []
    steps: list[NativeStep] = []
    bodies: list[Assembly] = []
    ready: dict[str, Implementation] = {}  # by signature: equal regions have equal kernels
    for o in outlines:
        signatures = [l.region.signature() for l in o.launches]
        mine = [(l.region, tuned.choices[s]) for l, s in zip(o.launches, signatures)]
        for s, (r, c) in zip(signatures, mine):
            if s not in ready:
                ready[s] = cpu.implement(r, c.tactic, c.params)
        implemented = [ready[s] for s in signatures]
        program, native, assembled = complete(o, implemented, weights, len(steps))
        programs.append(program)
        jobs += mine
        made += implemented
        steps += native
        bodies += assembled
    linked = cpu.link(compile_all(made, cpu, tuned.objects))
    first = outlines[0]
    told = layers(first, lambda k, l: {"precision": l.region.compute, "tactic": jobs[k][1].tactic,
                                       "params": jobs[k][1].params, "flops": flops(l.region)}, reasons)
    counts = {"native": len(first.launches), "library": 0, "view": first.views, **programs[0].host_steps}
    info = {
        "model": {"name": name, "sha256": model_hash(source) if source is not None else ""},
        "whet": whet.__version__,
        "versions": {"onnx": onnx.__version__, "numpy": numpy.__version__},
        "precision": {"allowed": sorted(allowed), "compute": compute, "note": note},
        "steps": counts, "copies": first.copies, "layers": told.layers,
        "output_values": told.outputs, "plugins": _plugins(outlines),
        "memory": {"arena": max((b.arena for b in bodies if isinstance(b.arena, int)), default=0),
                   "sum_of_temporaries": sum(b.arena_sum for b in bodies),
                   "weights": sum(w.nbytes for w in weights.arrays.values())},
    }
    evidence = [{"kind": r.kind, "how": c.how, "seconds": c.seconds} for r, c in jobs]
    blobs = {name: raw for o in outlines for name, raw in o.blobs.items()}
    return PlanData(
        programs=programs, steps=steps, weights=weights.arrays, code=linked.code, symbols=linked.symbols,
        scratch_bytes=max((b.scratch_bytes for b in bodies), default=0), threads=cpu.threads, arch=cpu.isa.arch,
        isa=cpu.isa.name, features=sorted(cpu.isa.features), info=info, blobs={**blobs, RECIPE: _recipe(jobs, cpu)},
        trailer={"tuning": evidence, "tuning_seconds": round(tuned.seconds, 3)})
