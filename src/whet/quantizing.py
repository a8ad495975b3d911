"""Quantizing a model: calibration, what prepares its weights, and the choice of layers.

`pipeline.build` comes here with prepared graphs where int8 or fp8 is allowed and there are data to calibrate with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet import __version__
from whet.builder import Builder
from whet.errors import AccuracyError, InputError
from whet.ir.dtypes import DType
from whet.ir.graph import Graph
from whet.ir.printer import to_text
from whet.measure.device import this_device
from whet.measure.metrics import by_name
from whet.measure.record import now
from whet.plan import Plan
from whet.precision import result as told
from whet.precision.adapt import adaptive_codes
from whet.precision.batches import Data
from whet.precision.bias import shifts
from whet.precision.cache import Calibration, Expect
from whet.precision.calibrate import calibrate
from whet.precision.coverage import coverage, lines
from whet.precision.data import open_data
from whet.precision.equalize import equalize
from whet.precision.insert import layers, taps
from whet.precision.insert_attention import coded_attention
from whet.precision.overflow import layers_beyond, overflow
from whet.precision.quantization import Quantization
from whet.precision.quantizer import Quantizer, faster_only, missing, seconds_by_layer
from whet.precision.search import Found, Search, candidates
from whet.precision.smooth import smooth
from whet.precision.specs import batch_extent, specs
from whet.precision.stats import largest, means
from whet.precision.taps import tapped
from whet.precision.trial import Evaluation
from whet.runtime import load

EVALUATION_BATCH = 32  # samples that a plan is run over at a time, where the profile allows it
ACTIVATIONS = {"u8": DType.U8, "i8": DType.I8}


def quantize(builder: Builder, graphs: Sequence[Graph], o: Quantization) -> Plan:
    """The plan of prepared graphs with layers in int8 or fp8.

    With evaluation data and a budget: the fastest plan within it (AccuracyError if there is none), attention in int8
    too. Else: every convolution and product that codes make faster on this machine.
    """
    ready = calibrated(builder, graphs, o)
    note_overflow(builder, ready.graphs[0], ready.seen)
    quantizer = quantizer_of(builder, ready, o)
    if o.max_drop is not None:
        if quantizer.activations is not DType.F8E4M3FN:
            offer_attention(builder, quantizer)  # long flat rows lose weight in codes: only where the loss is judged
        return searched(builder, quantizer, ready.seen, o)
    if not o.every_layer and builder.opt_level > 0:
        slower, _, _ = faster_only(quantizer)
        quantizer.fixed = {**quantizer.fixed, **slower}
    extra = {"calibration": evidence(ready.seen, o, names_of(ready.graphs[0]))}
    plan, done = quantizer.plan(extra=extra)
    absent = missing(plan, done.quantized, quantizer.codes_name)
    if absent:
        quantizer.fixed = {**quantizer.fixed, **absent}
        plan, _ = quantizer.plan(extra=extra)
    return plan


def heed_overflow(builder: Builder, graph: Graph, o: Quantization) -> None:
    """Calibrate, so that what fp16 may not hold stays in a wider type."""
    note_overflow(builder, graph, calibration_of(builder, graph, o, o.cache))


def note_overflow(builder: Builder, graph: Graph, seen: Calibration) -> None:
    """Let the layers that read what was seen to be too large for fp16, or nearly, keep a wider type."""
    if builder.compute != "fp16":
        return
    kinds = {v.name: n.op for n in graph.nodes for v in n.outputs}
    found = layers_beyond(seen, kinds)
    if found:
        builder.beyond = set(found)
        builder.told["fp16"] = {"kept": found}


def checked(builder: Builder, graphs: Sequence[Graph], o: Quantization) -> Plan:
    """The plan of prepared graphs; where fp16 turns outputs for the evaluation data into NaN or infinity that fp32
    gives as numbers, that of the next wider precision, with a note."""
    if builder.compute != "fp16" or o.evaluation is None or not builder.runs_here:
        return builder.plan(graphs)
    plan = builder.plan([g.copy() for g in graphs])
    run = Evaluation(open_data(o.evaluation, specs(graphs[0]), preprocess=o.preprocess, labels=o.labels), o.output)
    broken = _broken(run.outputs(plan))
    builder.ran("check", samples=int(broken.size))
    if not broken.any():
        return plan
    broken &= ~_broken(run.outputs(builder.plan([g.copy() for g in graphs], "fp32", opt_level=0)))
    if not broken.any():
        return plan
    builder.compute = builder.wide
    said = f"fp16 gives NaN or infinity for {int(broken.sum())} of {broken.size} samples: {builder.wide} is used"
    builder.note = "; ".join(n for n in (builder.note, said) if n)
    return builder.plan(graphs)


def _broken(outputs: np.ndarray) -> np.ndarray:
    """By sample, whether an output is NaN or infinite."""
    flat = outputs.reshape(outputs.shape[0], -1)
    return ~np.isfinite(flat).all(axis=1) if flat.dtype.kind == "f" else np.zeros(len(flat), np.bool_)


def code_type(builder: Builder, graph: Graph, o: Quantization) -> DType:
    """The codes of activations. Where both int8 and fp8 are allowed: fp8 for models of matrix products alone, whose
    activations have outliers that fixed steps would clip or coarsen; int8 for convolutions."""
    allowed = builder.codes or ("int8",)
    convolutional = any(l.node.op == "conv" and not l.reason for l in layers(graph))
    if "fp8" in allowed and not ("int8" in allowed and convolutional):
        return DType.F8E4M3FN
    return ACTIVATIONS[o.activations or ("i8" if builder.target.name == "cuda" else "u8")]


def calibrated(builder: Builder, graphs: Sequence[Graph], o: Quantization) -> Ready:
    """The graphs with their weights prepared as `o` says, and what calibration saw of them.

    InputError for a preparation that there is not.
    """
    unknown = set(o.prepare) - {*SCALING, "round", "bias"}
    if unknown:
        raise InputError(f"no preparation {', '.join(sorted(unknown))}", do="choose among these",
                         why=f"there are {', '.join(SCALING)}, round, bias")
    seen = calibration_of(builder, graphs[0], o, o.cache)
    scaled = [name for name in SCALING if name in o.prepare]
    done: list[dict[str, Any]] = []
    graphs = [g.copy() for g in graphs]
    if scaled:
        seen_largest = largest(seen)
        for name in scaled:
            done.append({"step": name, "changed": [len(SCALING[name](g, seen_largest)) for g in graphs][0]})  # noqa: RUF015 (all of them)
            builder.ran(name, changed=done[-1]["changed"])
        again = None if o.cache is None else Path(o.cache).with_suffix(f".{'-'.join(scaled)}.json")
        seen = calibration_of(builder, graphs[0], o, again, "+".join(("", *scaled)))
    codes: dict[str, np.ndarray] = {}
    if "round" in o.prepare:
        if code_type(builder, graphs[0], o) is DType.F8E4M3FN:
            raise InputError("adaptive rounding is of int8", do="leave out round, or ask for int8")
        codes = adaptive_codes(graphs[0], lambda g: load(builder.here().plan([g], "fp32", opt_level=0)),
                               data_of(graphs[0], o),
                               progress=lambda n, of: builder.progress("rounding weights", n, of))
        done.append({"step": "round", "changed": len(codes)})
        builder.ran("round", changed=len(codes))
    moved: dict[str, np.ndarray] = {}
    if "bias" in o.prepare:
        moved = shifts(graphs[0], means(seen), codes, code_type(builder, graphs[0], o))
        done.append({"step": "bias", "changed": len(moved)})
        builder.ran("bias", changed=len(moved))
    if done:
        builder.told["prepared"] = done
    return Ready(graphs, seen, codes, moved)


@dataclass(frozen=True)
class Ready:
    """What quantization begins with: graphs with prepared weights, their calibration; by layer, codes of weights and
    the shifts of mean outputs that biases are corrected by where the layer is quantized."""

    graphs: Sequence[Graph]
    seen: Calibration
    codes: Mapping[str, np.ndarray]
    shifts: Mapping[str, np.ndarray]


SCALING: dict[str, Callable[[Graph, Mapping[str, np.ndarray]], Sequence[object]]] = {
    "equalize": equalize, "smooth": smooth}


def data_of(graph: Graph, o: Quantization) -> Data:
    """The calibration data. InputError where there are none."""
    if o.calibration is None or isinstance(o.calibration, Calibration):
        raise InputError("calibration data are needed", why="the cache is of other weights, or not there",
                         do="give them (--calib DATA)")
    data = open_data(o.calibration, specs(graph), preprocess=o.preprocess, limit=o.samples)
    return data if o.share == (0, 1) else data.share(*o.share)


def calibration_of(builder: Builder, graph: Graph, o: Quantization, cache: str | os.PathLike[str] | None = None,
                   after: str = "") -> Calibration:
    """What was seen of the values that layers read: from the cache where it is of this model, else observed now.

    after: names what was done to the weights before. Observing runs the fp32 plan, with these values as its outputs,
    over the data. CacheError for a cache of another model or of other preprocessing.
    """
    key = graph_key(graph) + after
    expect = Expect(builder.sha256, key, None if o.preprocess is None else o.preprocess.key(), "", tuple(taps(graph)))
    given, axes = tapped(graph, shortcuts=builder.target.name == "cuda")

    def told(seen: Calibration) -> Calibration:
        builder.ran("calibrate", method=o.method, samples=seen.samples, batches=seen.batches)
        return seen

    if isinstance(o.calibration, Calibration) and not after:
        o.calibration.check(expect)
        return told(o.calibration)
    if cache is not None and Path(cache).exists():
        return told(Calibration.load(cache, expect))
    data = data_of(graph, o)
    builder.progress("building the plan that calibration runs", 0, 0)
    engine = load(builder.here().plan([given], "fp32", opt_level=0))
    seen = calibrate(engine, axes, data, layers=readers(graph), model=builder.sha256, graph=key,
                     progress=lambda done, total: builder.progress("calibrating", done, total or 0))
    if cache is not None:
        seen.save(cache)
    return told(seen)


def graph_key(graph: Graph) -> str:
    """Names what the calibrated values are called and where they lie: the prepared graph's text, without constants."""
    return hashlib.sha256(to_text(graph).encode()).hexdigest()


def readers(graph: Graph) -> dict[str, str]:
    """By the name of a value, the layers that read it."""
    out: dict[str, str] = {}
    for l in layers(graph):
        for v in l.node.inputs[:3] if l.node.op == "attention" else l.node.inputs[:1]:
            if v is not None:
                out[v.name] = f"{out[v.name]}, {l.name}" if v.name in out else l.name
    return out


def quantizer_of(builder: Builder, ready: Ready, o: Quantization) -> Quantizer:
    """A quantizer by calibrated ranges; the layers that were asked for in fp32 are fixed.

    The model's inputs keep all that was seen: what pixels or features may be is no accident of the data.
    """
    graphs, seen, kind = ready.graphs, ready.seen, code_type(builder, ready.graphs[0], o)
    fixed = {l.name: "it was to stay in fp32" for l in layers(graphs[0])
             if {l.name, l.node.origin} & set(builder.fp32_layers)}
    how = kind is DType.I8, kind is DType.F8E4M3FN
    given = {v.name: seen.range(v.name, "minmax", *how) for v in graphs[0].inputs if v.name in seen.tensors}
    ranges = {**seen.ranges(o.method, *how), **given}
    return Quantizer(builder, graphs, ranges, kind, fixed, ready.codes, ready.shifts,
                     shortcuts=builder.target.name == "cuda")


def offer_attention(builder: Builder, quantizer: Quantizer) -> None:
    """Make attention a layer as others are; that for which the target has no int8 kernel is fixed."""
    quantizer.attention = True
    missing = {l.name for g in quantizer.graphs for l in layers(g, attention=True)
               if l.node.op == "attention" and builder.target.accepts(coded_attention(g, l.node))}
    quantizer.fixed = {**dict.fromkeys(missing, "no int8 attention kernel on this " + (
        "CPU" if builder.target.name == "cpu" else "GPU")), **quantizer.fixed}


def evidence(seen: Calibration, o: Quantization, inputs: Collection[str]) -> dict[str, Any]:
    """What the plan's manifest says of the calibration."""
    return {"method": o.method, "samples": seen.samples, "batches": seen.batches, "sha256": seen.hash(),
            "preprocessing": seen.preprocessing, "warnings": list(seen.warnings),
            "coverage": coverage_lines(seen, o, inputs)}


def searched(builder: Builder, quantizer: Quantizer, seen: Calibration | None, o: Quantization) -> Plan:
    """The fastest plan within the budget, with the record of the search in its evidence ("precision").

    AccuracyError, with that record as `result`, if nothing but fp32 keeps the budget though it is not the fastest.
    """
    assert o.max_drop is not None
    data = o.evaluation if o.evaluation is not None else o.calibration
    wanted = specs(quantizer.graphs[0])
    extent = batch_extent(wanted)
    many = None if extent is None else max(extent.best, min(extent.most, EVALUATION_BATCH))
    given = open_data(data, wanted, preprocess=o.preprocess, batch=many, labels=o.labels,
                      need_labels=by_name(o.metric, np.zeros((1, 2))).needs_labels)
    feeds = next(iter(given.batches())).feeds
    if extent is not None:  # timed as the model is tuned
        feeds = {n: np.ascontiguousarray(a[:extent.best]) for n, a in feeds.items()}
    search = Search(quantizer, Evaluation(given, o.output), o.metric, o.max_drop, builder.compute, feeds,
                    builder.progress, builder.wide)
    found = search.run()
    said = record(builder, quantizer, seen, o, found, int(given.samples or 0), feeds)
    best = found.chosen
    if best is None:
        e = AccuracyError(f"nothing but fp32 loses at most {o.max_drop:g} {found.metric.unit}".rstrip(),
                          why=_nearest(found), do="allow more (--max-drop), prepare the weights (--prepare equalize or "
                          "smooth), calibrate with more samples or by another method (--calib-method)")
        e.result = said
        raise e
    builder.ran("search", candidates=len(found.points), metric=said.metric, max_drop=float(o.max_drop),
                chosen=best.label)
    extra: dict[str, Any] = {"verdict": msgspec.to_builtins(said.judgement), "metric": said.metric,
                             "max_drop": o.max_drop, "chosen": best.label}
    if seen is not None:
        extra["calibration"] = evidence(seen, o, names_of(quantizer.graphs[0]))
    plan, _ = quantizer.plan(lambda l: best.kept.get(l.name, ""), best.compute, extra,
                             evidence={"precision": msgspec.to_builtins(said)})
    return plan


def _nearest(found: Found) -> str:
    p = found.nearest
    if p is None or p.verdict is None:
        return "no candidate gave finite outputs"
    return f"the nearest is {p.label} ({1e3 * p.timing.seconds:.3g} ms a call): {p.verdict.sentence}"


def record(builder: Builder, quantizer: Quantizer, seen: Calibration | None, o: Quantization, found: Found,
           samples: int, feeds: Mapping[str, np.ndarray]) -> told.SearchResult:
    """The search as plain data."""
    import onnx

    points = found.points
    best = found.chosen or found.nearest or points[0]
    verdict = best.verdict
    if verdict is not None:
        judgement = told.Judgement(state=verdict.state, sentence=verdict.sentence, needed=verdict.needed)
    else:
        judgement = told.Judgement(state="held", sentence="fp32 is the fastest here and loses nothing.")
    took = seconds_by_layer(best.plan)
    kept = [told.Kept(layer=n, precision=best.compute, reason=why) for n, why in best.kept.items()]
    return told.SearchResult(
        date=now(), model=quantizer.graphs[0].name, model_sha256=builder.sha256, metric=found.metric.name,
        unit=found.metric.unit, max_drop=float(o.max_drop or 0.0), samples=samples, threads=builder.target.threads,
        shapes={n: tuple(a.shape) for n, a in feeds.items()}, device=this_device(),
        versions={"whet": __version__, "onnx": onnx.__version__, "numpy": np.__version__},
        candidates=candidates(points, len(quantizer.layers), quantizer.codes_name), reference=0,
        chosen=points.index(found.chosen) if found.chosen is not None else None,
        nearest=points.index(found.nearest) if found.nearest is not None else None, judgement=judgement,
        sensitivity=tuple(found.sensitivity),
        layers=tuple(told.Layer(layer=l.name, kind=l.kind, reason=best.kept.get(l.name, ""), seconds=took.get(l.name),
                                precision=quantizer.codes_name if l.name in best.quantized else best.compute,
                                saved=found.speed.saved(l.name) if l.name in best.quantized else None)
                     for l in quantizer.layers),
        kept=tuple(kept), coverage=coverage_of(seen, o, names_of(quantizer.graphs[0])))


def coverage_of(seen: Calibration | None, o: Quantization, inputs: Collection[str]) -> told.Coverage:
    """What calibration saw, for the report."""
    if seen is None:
        return told.Coverage()
    fp16 = [f"fp16 would not do for {r.tensor} ({r.layer}): {r.reason}" for r in overflow(seen)]
    return told.Coverage(method=o.method, samples=seen.samples, batches=seen.batches, warnings=tuple(seen.warnings),
                         lines=(*coverage_lines(seen, o, inputs), *fp16))


def coverage_lines(seen: Calibration, o: Quantization, inputs: Collection[str]) -> list[str]:
    """What calibration did not see enough of; the model's inputs are clipped by no method."""
    found = coverage(seen, o.method, symmetric=o.activations == "i8")
    return lines([f for f in found if f.tensor not in inputs or f.kind not in ("clipped", "piled-up")])


def names_of(graph: Graph) -> set[str]:
    """The names of a graph's inputs."""
    return {v.name for v in graph.inputs}
