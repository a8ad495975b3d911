"""From what was measured to the result: a record for each cell, differences, the recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from whet.compare import analysis
from whet.compare.analysis import Ratio
from whet.compare.grid import Cell
from whet.compare.recommend import DEFAULT_WEIGHTS, DRAWS, Estimate, Option, recommend
from whet.compare.result import Citation, Constraint, Difference, LeftOut, Result, Row
from whet.compare.sweep import Measured, Timed
from whet.errors import InputError
from whet.measure import Measurement, stats
from whet.measure.device import gpus, with_gpus
from whet.measure.record import Comparison, Device, Load, Model, now
from whet.measure.tools import stamp

CALLS = 368  # the least n with 0.99^n <= 0.025
ERROR_SCALE = 0.05  # of outputs' relative error, where there is no accuracy: what bf16 is allowed


@dataclass(frozen=True)
class Settings:
    """What the result states beside the measurements."""

    model: Model
    target: str
    shapes: Mapping[int, Mapping[str, tuple[int, ...]]]  # by batch
    inputs: str
    baseline: str  # a kind, "": ONNX Runtime's fp32, else the first
    gate: float
    weights: Mapping[str, float]  # empty: the default's, of what is known of every cell
    constraints: Sequence[Constraint]
    max_drop: float
    price: float | None = None  # an hour of this machine
    mixed: bool = False
    fresh_builds: bool = False


def rows(cells: Sequence[Cell], measured: Measured, s: Settings, places: Mapping[str, tuple[str, Device]]) -> list[Row]:
    """A row for each cell. `places`: where cells run that are not this machine's, by backend."""
    out = []
    for c in cells:
        sessions = next((found for (batch, threads), found in measured.timed.items()
                         if batch == c.batch and threads in (c.threads, *([threads] if c.threads is None else []))), [])
        mine = [rows_of[c.key] for rows_of in sessions if c.key in rows_of]
        good = [t for t in mine if t.build is not None]
        failed = next((t.failure for t in mine if t.failure is not None), None)
        place, device = places.get(c.backend, ("here", None))
        last = good[-1] if good else Timed()
        out.append(Row(key=c.key, backend=c.backend, precision=c.precision, batch=c.batch, threads=c.threads,
                       place=place, detail=last.detail, size_bytes=last.size_bytes, failure=failed,
                       builds=tuple(t.build for t in good if t.build is not None),
                       record=_record(c, good, measured, s, device) if good else None))
    return out


def _record(c: Cell, timed: Sequence[Timed], measured: Measured, s: Settings, device: Device | None) -> Measurement:
    builds = [t.build for t in timed if t.build is not None]
    latency = stats.latency(np.concatenate([b.samples for b in builds]))
    latency = msgspec.structs.replace(latency, count=sum(b.calls for b in builds))
    seconds = [b.seconds for b in builds if b.seconds is not None]
    median = float(np.median(seconds)) if seconds else None
    cached = c.backend == "whet" and not s.fresh_builds
    loads = [b.load_seconds for b in builds if b.load_seconds is not None]
    errors = [t.error for t in timed if t.error is not None]
    return Measurement(
        date=now(), model=s.model, backend=c.backend, precision=c.precision, threads=c.threads,
        shapes={n: tuple(x) for n, x in s.shapes[c.batch].items()},
        device=device or with_gpus(gpus(timed[-1].gpus)), versions={c.backend: timed[-1].version},
        load=Load(), plan=timed[-1].plan, latency=latency, throughput=c.batch / latency.p50.value,
        memory=measured.memory.get(c.key), accuracy=measured.accuracy.get(c.kind),
        error=max(errors, key=lambda e: e.value, default=None),
        build_seconds=None if cached else median, cached_build_seconds=median if cached else None,
        load_seconds=float(np.median(loads)) if loads else None, **stamp())


def result(found: Sequence[Row], s: Settings, *, citations: Sequence[Citation] = (), left_out: Sequence[LeftOut] = (),
           notes: Sequence[str] = ()) -> Result:
    """All of it. InputError where the baseline is none of the cells that were measured."""
    good = [r for r in found if r.record is not None]
    if s.baseline and not any(f"{r.backend} {r.precision}" == s.baseline for r in found):
        raise InputError(f"no baseline {s.baseline!r}", why="there are " + ", ".join(
            dict.fromkeys(f"{r.backend} {r.precision}" for r in found)), do="choose among these")
    kinds = [f"{r.backend} {r.precision}" for r in good]
    baseline = s.baseline or next((k for k in kinds if k.startswith("onnxruntime fp32")), kinds[0] if kinds else "")
    differences = compared(good, baseline, s.gate)
    by_key = {d.key: d for d in differences}
    full = [r if r.record is None or r.key not in by_key else msgspec.structs.replace(
        r, record=_against(r.record, by_key[r.key], baseline)) for r in found]
    judged = any(r.record is not None and r.record.accuracy is not None and r.record.accuracy.judged for r in good)
    unit = next((r.record.accuracy.judged.unit for r in good if r.record and r.record.accuracy
                 and r.record.accuracy.judged), "points") if judged else "error"
    reference = next((r.record.error.reference for r in good if r.record and r.record.error), "")
    options = [option(r, s.price, judged, reference) for r in good]
    weights = s.weights or {n: w for n, w in DEFAULT_WEIGHTS.items()
                            if n == "p99" or all(n in x.figures for x in options)}
    ranking = recommend(options, weights, s.constraints, loss_unit=unit,
                        loss_scale=s.max_drop if judged else ERROR_SCALE)
    return Result(
        date=now(), model=s.model.name, sha256=s.model.sha256, target=s.target, inputs=s.inputs, baseline=baseline,
        gate=s.gate, mixed_hardware=s.mixed, rows=tuple(full), differences=tuple(differences), recommendation=ranking,
        citations=tuple(citations), left_out=tuple(left_out), notes=tuple(dict.fromkeys([*notes, *_unbounded(good)])))


def _unbounded(good: Sequence[Row]) -> list[str]:
    """Which P99 no constraint can be held against: the largest of n calls lies above it with 97.5 % from n = 368 on."""
    few = sum(r.record is not None and r.record.latency is not None and r.record.latency.p99.high is None for r in good)
    return [f"The P99 of {few} of {len(good)} cells has no upper end: that takes {CALLS} calls. Give more --seconds."] \
        if few else []


def compared(found: Sequence[Row], baseline: str, gate: float) -> list[Difference]:
    """Every cell against the baseline of its batch and threads, where both took turns."""
    pairs: list[tuple[Row, Row, Ratio]] = []
    for r in found:
        base = next((b for b in found if f"{b.backend} {b.precision}" == baseline and b.batch == r.batch
                     and (b.threads == r.threads or None in (b.threads, r.threads)) and _together(b, r)), None)
        if base is None or base.key == r.key:
            continue
        before, after = ([b.rounds for b in x.builds] for x in (base, r))
        # A cell that failed in one session has fewer builds: which of them were paired is not known then.
        if before and list(map(len, before)) == list(map(len, after)):
            pairs.append((r, base, analysis.paired_ratio(before, after)))
    adjusted = analysis.holm([ratio.p for _, _, ratio in pairs])
    return [Difference(key=r.key, baseline=base.key, ratio=ratio.value, low=ratio.low, high=ratio.high, p=ratio.p,
                       adjusted_p=p, verdict=analysis.verdict(ratio, p, gate), builds=len(r.builds),
                       rounds=sum(len(b.rounds) for b in r.builds))
            for (r, base, ratio), p in zip(pairs, adjusted)]


def _together(a: Row, b: Row) -> bool:
    """Whether two rows took turns in one process: not on different machines of a cluster; servers do, with what is
    here."""
    hosted = {"here"} | {r.place for r in (a, b) if "://" in r.place}
    return a.place == b.place or {a.place, b.place} <= hosted


def _against(record: Measurement, d: Difference, baseline: str) -> Measurement:
    backend, _, precision = baseline.rpartition(" ")
    return msgspec.structs.replace(record, comparisons=(Comparison(
        backend=backend, precision=precision, ratio=d.ratio, low=d.low, high=d.high, rounds=d.rounds),))


def option(r: Row, price: float | None = None, judged: bool = True, reference: str = "") -> Option:
    """A row as the recommendation sees it; `reference` is what outputs were compared with. Latencies are drawn by
    build, then by call. Cost is money per million samples at the throughput that was measured, of a machine that does
    nothing else."""
    assert r.record is not None
    record, latency = r.record, r.record.latency
    figures: dict[str, Estimate] = {}
    words = {"backend": r.backend, "precision": r.precision, "vendor": vendor(record.device)}
    if latency is not None:
        drawn = _drawn([np.asarray(b.samples) for b in r.builds] or [np.asarray(latency.samples)])
        for name, q in (("p50", latency.p50), ("p99", latency.p99)):
            figures[name] = Estimate(q.value, q.high, drawn.get(name))
        if record.throughput:
            low = r.batch / latency.p50.high if latency.p50.high else None
            rate = r.batch / drawn["p50"] if drawn else None
            figures["throughput"] = Estimate(record.throughput, low, rate)
            if price is not None:
                def cost(per_second: float) -> float:
                    return price / 3600 / per_second * 1e6
                figures["cost"] = Estimate(cost(record.throughput), cost(low) if low else None,
                                           price / 3600 / rate * 1e6 if rate is not None else None)
    if record.memory is not None:
        used = float(record.memory.peak_bytes - record.memory.idle_bytes)
        figures["memory"] = Estimate(used, used)
    if r.size_bytes:
        figures["size"] = Estimate(float(r.size_bytes), float(r.size_bytes))
    seconds = record.cached_build_seconds if record.cached_build_seconds is not None else record.build_seconds
    if seconds:
        most = max((b.seconds for b in r.builds if b.seconds is not None), default=seconds)
        figures["build"] = Estimate(seconds, most)
    if (loss := _loss(record, judged, reference)) is not None:
        figures["loss"] = loss
    error = record.error
    wrong = "its outputs are wrong" if error and error.limit is not None and not error.value <= error.limit else ""
    return Option(r.key, figures, words, wrong)


def _loss(record: Measurement, judged: bool, reference: str) -> Estimate | None:
    """The accuracy's loss, that of the reference being 0; without labelled data the error of the outputs."""
    accuracy = record.accuracy
    if judged:
        if accuracy is None:
            return None
        if accuracy.judged is None:
            return Estimate(0.0, 0.0)
        loss, upper = accuracy.judged.loss, accuracy.judged.upper
        if loss is None:
            return None
        if upper is None or not upper > loss:
            return Estimate(loss, upper)
        # One-sided bounds at 95 %, whose distance is 1.645 deviations.
        spread = (upper - loss) / 1.645
        return Estimate(loss, upper, loss + spread * np.random.default_rng(1).standard_normal(DRAWS))
    if record.error is not None:
        return Estimate(record.error.value, record.error.value)
    return Estimate(0.0, 0.0) if f"{record.backend} {record.precision}" == reference else None


def _drawn(builds: Sequence[np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Medians and 99th percentiles of calls that are drawn by build, then by call. Empty for fewer than two calls."""
    if sum(map(len, builds)) < 2:
        return {}
    rng = np.random.default_rng(seed)
    out: dict[str, list[float]] = {"p50": [], "p99": []}
    for _ in range(200):  # as many as a share of draws needs; each is a sort
        pick = [builds[k] for k in rng.integers(0, len(builds), len(builds))]
        x = np.concatenate([b[rng.integers(0, len(b), len(b))] for b in pick])
        p50, p99 = np.quantile(x, [0.5, 0.99])
        out["p50"].append(float(p50))
        out["p99"].append(float(p99))
    return {n: np.array(v) for n, v in out.items()}


def vendor(device: Device) -> str:
    """`nvidia`, `amd`, `intel`, `arm`: whose processor does the work; empty where the name does not tell."""
    if device.gpus:
        return "nvidia" if all(g.arch.startswith("sm_") or "nvidia" in g.name.lower() for g in device.gpus) else ""
    name = device.name.lower()
    known = (("nvidia", "nvidia"), ("jetson", "nvidia"), ("amd", "amd"), ("epyc", "amd"), ("ryzen", "amd"),
             ("intel", "intel"), ("xeon", "intel"), ("neoverse", "arm"), ("graviton", "arm"), ("cortex", "arm"))
    return next((who for word, who in known if word in name), "arm" if device.arch in ("aarch64", "arm64") else "")
