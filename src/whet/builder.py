"""From prepared graphs to a plan: layout, regions, tuning, code, the contents of the file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from whet import passes
from whet.errors import InputError, PlanFormatError
from whet.frontends.reference import reason
from whet.ir.graph import Graph, Node
from whet.ir.region import Region, region_from_json
from whet.ir.work import flops
from whet.lowering import Outline, agree, complete, outline, room_for, to_host
from whet.lowering.assemble import Assembly, Weights
from whet.lowering.layers import layers
from whet.passes import branches, precision
from whet.passes.manager import FINISH
from whet.plan import Plan, PlanData
from whet.plan.built import KEY, Built, Stage, Value
from whet.plan.data import NativeStep
from whet.plan.manifest import Device
from whet.plan.program import Host, Program
from whet.targets.base import Implementation, Target
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.target import CpuTarget
from whet.targets.cuda.target import CudaTarget, library_of
from whet.tuning.cache import TimingCache
from whet.tuning.found import Choice, Tuned
from whet.tuning.tuner import chosen, compile_all, refine, tune

Progress = Callable[[str, int, int], None]

RECIPE = "recipe"  # the blob of a plan that recompile reads


@dataclass
class Builder:
    """What all plans of one build share: the target, the caches, and what is said about the model.

    compute:     the precision of products and activations that are not quantized, as `passes.run` has it.
    allowed:     the precisions that were asked for, and `note`, what became of them.
    wide:        the precision of products that fp16 does not suit; `beyond`: the layers whose operand was seen to be
                 too large for it. codes: the 8-bit codes that may be used, the preferred first.
    fp32_layers: layers whose products and results stay in fp32.
    """

    target: Target
    cache: TimingCache
    opt_level: int
    compute: str
    allowed: Collection[str]
    note: str = ""
    sha256: str = ""
    states: Mapping[str, str] = field(default_factory=dict)
    fp32_layers: Sequence[str] = ()
    dump: Path | None = None
    progress: Progress = lambda what, done, total: None
    told: dict[str, Any] = field(default_factory=dict)  # goes into info["precision"] of every plan
    objects: dict[str, bytes] = field(default_factory=dict)  # compiled kernels, by symbol
    rebuild: str = ""  # the command line that makes this build again
    wide: str = "fp32"
    codes: Sequence[str] = ()
    beyond: Collection[str] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)  # what the build was asked, by the names of whet.yaml
    given_objects: tuple[str, ...] = ()  # and what was given as an object
    stages: list[Stage] = field(default_factory=list)  # that ran before plans are made of the prepared graphs

    def ran(self, name: str, **figures: Value) -> None:
        """Note a stage that ran, for what the plans tell of themselves."""
        self.stages.append(Stage(name, figures))

    @property
    def runs_here(self) -> bool:
        """True if this machine can run the target's plans."""
        return not isinstance(self.target, CudaTarget) or self.target.gpu.live

    def here(self) -> Builder:
        """A builder of plans that only have to run on this machine: this one, or one for the CPU."""
        if self.runs_here:
            return self
        return dataclasses.replace(self, target=CpuTarget.of_host(len(os.sched_getaffinity(0))), objects={}, told={})

    def prepare(self, graphs: Sequence[Graph]) -> list[Graph]:
        """`passes.prepare` of each profile's graph."""
        return [passes.prepare(g, self._dump(i, len(graphs))) for i, g in enumerate(graphs)]

    def _dump(self, profile: int, of: int) -> Path | None:
        return None if self.dump is None else self.dump / f"profile{profile + 1}" if of > 1 else self.dump

    def plan(self, graphs: Sequence[Graph], compute: str = "", extra: Mapping[str, Any] | None = None,
             opt_level: int | None = None, evidence: Mapping[str, Any] | None = None) -> Plan:
        """The plan of prepared graphs (one for each profile), which are used up.

        compute, opt_level: instead of the builder's. extra: goes into the plan's info["precision"]. evidence: goes
        into its trailer, which no hash covers.
        """
        compute = compute or self.compute
        reasons: dict[str, str] = {}  # why nodes run on the host
        kept = _Kept(self.fp32_layers)
        formed = []
        for i, graph in enumerate(graphs):
            ordered = branches.shallow_first(graph) if self.target.branches else graph
            formed.append(passes.finish(
                ordered, compute, self._dump(i, len(graphs)), keep=kept, wide=self.wide, states=self.states,
                traits=precision.GPU if self.target.name == "cuda" else precision.CPU,
                multiprocessors=self.target.gpu.multiprocessors if isinstance(self.target, CudaTarget) else 0,
                beyond=lambda n: not n.names.isdisjoint(self.beyond)))
            if self.target.fallback:
                to_host(formed[i], self.target.accepts)
            reasons |= _reasons(formed[i])
        kept.check()
        weights, room = Weights(), room_for(formed, self.states)
        outlines = [outline(graph, self.target.accepts, weights, f"profile{i + 1}." if i else "", self.states, room,
                            self.target.aligned)
                    for i, graph in enumerate(formed)]
        agree([o.states for o in outlines])
        level = self.opt_level if opt_level is None else opt_level
        tuned = tune([l.region for o in outlines for l in o.launches], self.target, self.cache, level,
                     lambda p: self.progress(f"tuning {p.region}", p.done, p.total))
        heaviest = max(outlines[0].stretches, key=lambda s: len(s.schedule.launches), default=None)
        if heaviest is not None:
            refine(heaviest.schedule.launches, heaviest.graph.dims, self.target, self.cache, level, tuned,
                   lambda p: self.progress(f"tuning {p.region}", p.done, p.total))
        self.objects |= tuned.objects
        self.progress("compiling and writing the plan", 0, 0)
        return Plan.from_data(self._data(formed[0].name, outlines, weights, tuned, compute, extra or {}, reasons,
                                         evidence or {}))

    def _data(self, name: str, outlines: Sequence[Outline], weights: Weights, tuned: Tuned, compute: str,
              extra: Mapping[str, Any], reasons: Mapping[str, str], found: Mapping[str, Any]) -> PlanData:
        import numpy
        import onnx

        import whet

        target = chosen(self.target, tuned)
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
                    ready[s] = target.implement(r, c.tactic, c.params)
            implemented = [ready[s] for s in signatures]
            program, native, assembled = complete(o, implemented, weights, len(steps),
                                                  self.target.branches and not tuned.one_stream)
            programs.append(program)
            jobs += mine
            made += implemented
            steps += native
            bodies += assembled
        objects = compile_all(made, self.target, self.objects)
        self.objects |= objects
        linked = self.target.link(objects)
        libraries = [library_of(s.kernel.code) for m in made for s in m.steps] if self.target.name == "cuda" else []
        first = outlines[0]
        told = layers(first, lambda k, l: {"precision": l.region.compute, "tactic": jobs[k][1].tactic,
                                           "params": jobs[k][1].params, "flops": flops(l.region)}, reasons)
        calls = sum(bool(library_of(s.kernel.code)) for m in made[:len(first.launches)] for s in m.steps) \
            if libraries else 0
        counts = {"native": len(first.launches) - calls, "library": calls, "view": first.views,
                  **programs[0].host_steps}
        early = {"early_launch": dataclasses.asdict(tuned.early)} if tuned.early is not None else {}
        used = _used({r.compute for r, _ in jobs}, compute)
        info = {
            "model": {"name": name, "sha256": self.sha256},
            "whet": whet.__version__,
            "versions": {"onnx": onnx.__version__, "numpy": numpy.__version__},
            "precision": {"allowed": sorted(self.allowed), "compute": used, "note": self.note, **self.told, **extra},
            "steps": counts, "copies": first.copies, "layers": told.layers,
            "output_values": told.outputs, "plugins": _plugins(outlines),
            **({"untuned": tuned.untuned} if tuned.untuned else {}), **early,
            "memory": {"arena": max((b.arena for b in bodies if isinstance(b.arena, int)), default=0),
                       "sum_of_temporaries": sum(b.arena_sum for b in bodies),
                       "weights": sum(w.nbytes for w in weights.arrays.values())},
        }
        evidence = [{"kind": r.kind, "how": c.how, "seconds": c.seconds} for r, c in jobs]
        blobs = {name: raw for o in outlines for name, raw in o.blobs.items()}
        return PlanData(
            programs=programs, steps=steps, weights=weights.arrays, code=linked.code, symbols=linked.symbols,
            scratch_bytes=max((b.scratch_bytes for b in bodies), default=0), threads=self.target.threads,
            info=info, blobs={**blobs, RECIPE: _recipe(jobs, target)}, **self._fields(libraries),
            trailer={"tuning": evidence, "tuning_seconds": round(tuned.seconds, 3),
                     **({"work": tuned.work} if tuned.work else {}),
                     **({"notes": tuned.notes} if tuned.notes else {}),
                     **({"in_place": tuned.in_place} if tuned.in_place else {}),
                     **({"failed": {k: dict(v) for k, v in tuned.failed.items()}} if tuned.failed else {}),
                     KEY: msgspec.to_builtins(Built(
                         date=datetime.now(UTC).isoformat(timespec="seconds"), asked=dict(self.asked),
                         objects=self.given_objects, stages=(*self.stages, *_last_stages(
                             extra, compute, len(FINISH), outlines, jobs, objects, len(linked.code))))),
                     **early, **found})

    def _fields(self, libraries: Sequence[str]) -> dict[str, Any]:
        """What the plan says of its target; `libraries`: those that its steps call."""
        told = self.target.fields()
        if told.get("device") is not None:
            told["device"] = msgspec.convert({**told["device"], "uses": sorted({l for l in libraries if l}),
                                              "rebuild": self.rebuild}, Device)
        return told


def _last_stages(extra: Mapping[str, Any], compute: str, finishing: int, outlines: Sequence[Outline],
                 jobs: Sequence[tuple[Region, Choice]], objects: Mapping[str, bytes], code: int) -> Iterator[Stage]:
    """The stages from prepared graphs to a plan."""
    for codes in (c for c in ("int8", "fp8") if c in extra):
        yield Stage("quantize", {"codes": codes, "layers": len(extra[codes]["layers"]),
                                 "kept": len(extra[codes]["kept"])})
    yield Stage("fuse", {"passes": finishing, "launches": sum(len(o.launches) for o in outlines), "compute": compute})
    yield Stage("tune", {"regions": len({r.signature() for r, _ in jobs}),
                         "modelled": len({r.signature() for r, c in jobs if c.how == "model"})})
    yield Stage("generate", {"kernels": len(objects), "bytes": code})


def _used(products: Collection[str], compute: str) -> str:
    """The precision that a plan is called by: of its codes, or of its products where the model brings these."""
    names = {"int8": "int8", "f8": "fp8", **({"f16": "fp16", "bf16": "bf16"} if compute == "fp32" else {})}
    return next((name for product, name in names.items() if product in products), compute)


class _Kept:
    """Which regions stay in fp32, by the names that were given."""

    def __init__(self, given: Iterable[str]) -> None:
        self.given = set(given)
        self.met: set[str] = set()
        self.there: set[str] = set()

    def __call__(self, node: Node) -> bool:
        self.there |= node.names
        self.met |= node.names & self.given
        return bool(node.names & self.given)

    def check(self) -> None:
        """InputError for a name that is no layer's (known once there was something to assign)."""
        if self.there and (missing := sorted(self.given - self.met)):
            near = difflib.get_close_matches(missing[0], sorted(self.there), 3, 0.5)
            raise InputError(f"there is no layer {missing[0]!r} to keep in fp32",
                             why=f"names like it: {', '.join(near)}" if near else "no name is like it",
                             do="whet inspect MODEL.plan shows the layers")


def _reasons(graph: Graph) -> dict[str, str]:
    """Why each node of a graph and of its bodies that NumPy computes has no kernel, by its origin."""
    out = {n.origin or n.op: reason(n) for n in graph.nodes if n.op == "onnx"}
    out |= {n.origin or n.op: n.attrs["reason"] for n in graph.nodes if n.op == "fallback"}
    for body in graph.bodies():
        out |= _reasons(body)
    return out


def regenerate(plan: Plan) -> Plan:
    """The same plan with its machine code generated anew from the recorded regions and tactics.

    PlanFormatError: the record is missing or malformed, or this whet names its kernels otherwise.
    """
    try:
        recipe = json.loads(plan.blob(RECIPE))
        jobs = [(region_from_json(r["region"]), str(r["tactic"]), dict(r["params"])) for r in recipe["launches"]]
        target = _recorded(recipe, plan.contents.runtime["threads"])
    except (KeyError, ValueError, TypeError, RecursionError) as e:
        raise PlanFormatError("the plan's record of its kernels cannot be read", why=f"{type(e).__name__}: {e}",
                              do="build the plan anew from its model") from e
    made = [target.implement(*job) for job in jobs]
    linked = target.link(compile_all(made, target, {}))
    return plan.with_code(linked.code, linked.symbols)


def _recorded(recipe: Mapping[str, Any], threads: int) -> Target:
    if "gpu" in recipe:
        return CudaTarget.of_record(recipe)
    return CpuTarget(Isa(**{**recipe["isa"], "features": frozenset(recipe["isa"]["features"])}), threads)


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


def _recipe(jobs: Sequence[tuple[Region, Choice]], target: Target) -> bytes:
    """What `regenerate` needs: the regions, their tactics, and the target."""
    launches = [{"region": r.describe(), "tactic": c.tactic, "params": c.params}
                for r, c in jobs]
    return json.dumps({**target.recorded(), "launches": launches}, sort_keys=True).encode()
