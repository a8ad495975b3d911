"""The search: the fastest plan that loses no more than it may, layer by layer, with the evidence.

Every candidate is a real plan, run over all evaluation samples and timed in turns with the fp32 plan. First whole
models: fp32, 16-bit floats or tf32 where allowed, and every layer in codes (int8 or fp8) that these make faster. If
that loses too much, each layer is tried alone; layers are then taken in the order of time saved per error made, and
the number that the budget allows is found by bisection. What was met on the way is the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whet.measure.accuracy import relative_l2
from whet.measure.metrics import by_name
from whet.measure.scores import Metric, Scores
from whet.measure.verdict import Verdict, judge
from whet.plan import Plan
from whet.precision import result as told
from whet.precision.insert import Inserted, Layer
from whet.precision.quantizer import Quantizer, Speed, faster_only
from whet.precision.trial import Evaluation, timed

Progress = Callable[[str, int, int], None]


@dataclass
class Point:
    """One candidate: its plan, what it loses, how fast it is."""

    label: str
    plan: Plan
    scores: Scores
    verdict: Verdict | None  # None: the reference itself
    timing: told.Timing
    quantized: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    compute: str = "fp32"

    @property
    def loss(self) -> float:
        return self.verdict.loss if self.verdict is not None else 0.0

    @property
    def state(self) -> told.State:
        """The reference loses nothing against itself."""
        return self.verdict.state if self.verdict is not None else "held"


@dataclass
class Found:
    """What a search gives: `chosen` is None where nothing but the reference keeps the budget and something was
    faster; `nearest` then is the candidate that loses least."""

    points: list[Point]
    sensitivity: list[told.Sensitivity]
    speed: Speed
    chosen: Point | None
    nearest: Point | None
    metric: Metric


class Search:
    """One search. `compute`: the precision of what is not in codes (fp32, tf32, fp16 or bf16), and `wide`: the next to
    be tried where that loses too much (fp32: none)."""

    def __init__(self, quantizer: Quantizer, evaluation: Evaluation, metric: str, max_drop: float, compute: str,
                 feeds: Mapping[str, np.ndarray], progress: Progress = lambda what, done, total: None,
                 wide: str = "fp32") -> None:
        self.codes, self.wide = quantizer.codes_name, wide
        self.quantizer, self.evaluation, self.max_drop = quantizer, evaluation, max_drop
        self.compute, self.feeds, self.progress = compute, feeds, progress
        progress("running the fp32 plan over the evaluation data", 0, 0)
        self.reference_plan = quantizer.real("fp32")
        self.reference = evaluation.outputs(self.reference_plan)
        self.metric = by_name(metric, self.reference)
        self.scores = evaluation.scores(self.metric, self.reference, self.reference)
        start = timed({"fp32": self.reference_plan}, feeds)["fp32"]
        self.points = [Point("fp32", self.reference_plan, self.scores, None, start)]

    def run(self) -> Found:
        """Search. InputError where data, labels and metric do not fit each other."""
        slower, speed, real = faster_only(self.quantizer, self.compute)
        self.quantizer.fixed = {**self.quantizer.fixed, **slower}
        for compute in dict.fromkeys((self.compute, self.wide, "fp32")):
            first, self.compute = compute == self.compute, compute
            if compute == "fp32":
                break  # what the other layers lose in more is lost already
            self.measure(compute, real if first else self.quantizer.real(compute),
                         Inserted(kept={l.name: f"nothing is in {self.codes} here" for l in self.quantizer.layers}))
            if self.acceptable(self.points[-1]):
                break
        rows: list[told.Sensitivity] = []
        plan, done = self.quantizer.plan(compute=self.compute)
        if done.quantized:
            self.measure(self.codes, plan, done)
            if not self.acceptable(self.points[-1]):
                rows = self.sensitivity(done, speed)
                self.bisect(rows)
        chosen = self.choose()
        if chosen is not None and chosen.verdict is not None:  # the best of several is often the luckiest
            chosen.verdict = judge(self.scores, chosen.scores, self.max_drop, self.metric, looks=len(self.points) - 1)
        others = [p for p in self.points[1:] if math.isfinite(p.loss)]
        nearest = min(others, key=lambda p: p.loss) if chosen is None and others else None
        return Found(self.points, rows, speed, chosen, nearest, self.metric)

    def measure(self, label: str, plan: Plan, done: Inserted) -> Point:
        """Run and time a candidate; it joins the points."""
        self.progress(f"measuring {label}", 0, 0)
        scores = self.evaluation.scores(self.metric, self.evaluation.outputs(plan), self.reference)
        verdict = judge(self.scores, scores, self.max_drop, self.metric)
        timing = timed({"fp32": self.reference_plan, label: plan}, self.feeds)[label]
        self.points.append(Point(label, plan, scores, verdict, timing, tuple(done.quantized), dict(done.kept),
                                 self.compute))
        return self.points[-1]

    def acceptable(self, p: Point) -> bool:
        """Held, or at least not known to be lost: few samples must not stop the search."""
        return p.state == "held" or (p.state == "undecided" and p.loss <= self.max_drop)

    def sensitivity(self, done: Inserted, speed: Speed) -> list[told.Sensitivity]:
        """Each layer alone in codes, all others in fp32: what it changes. Not tuned anew: only outputs matter."""
        rows = []
        kinds = {l.name: l.kind for l in self.quantizer.layers}
        for i, name in enumerate(done.quantized):
            self.progress(f"sensitivity of {name}", i, len(done.quantized))

            def others(l: Layer, name: str = name) -> str:
                return "" if l.name == name else "another layer is looked at"

            plan, _ = self.quantizer.plan(others, "fp32", opt_level=0)
            outputs = self.evaluation.outputs(plan)
            alone = self.evaluation.scores(self.metric, outputs, self.reference).value
            loss = self.metric.loss(self.scores.value, alone)
            rows.append(told.Sensitivity(layer=name, kind=kinds[name], precision=self.codes, loss=float(loss),
                                         divergence=relative_l2(outputs, self.reference), saved=speed.saved(name)))
        return sorted(rows, key=_worth, reverse=True)

    def bisect(self, rows: list[told.Sensitivity]) -> None:
        """Find how many layers, the most worthwhile first, keep the budget."""
        low, high = 0, len(rows)  # low layers keep it, high layers do not
        while high - low > 1:
            middle = (low + high) // 2
            taken = {r.layer for r in rows[:middle]}
            error = {r.layer: r.divergence for r in rows}

            def rest(l: Layer, taken: set[str] = taken, error: Mapping[str, float | None] = error) -> str:
                if l.name in taken:
                    return ""
                return (f"{self.codes} here alone changes the output by {error.get(l.name) or 0.0:.2g}: "
                        "no room in the budget")

            plan, done = self.quantizer.plan(rest, self.compute)
            if self.acceptable(self.measure(f"{self.codes}: {middle} of {len(rows)} layers", plan, done)):
                low = middle
            else:
                high = middle

    def choose(self) -> Point | None:
        """The fastest that keeps the budget; else the fastest of which it is not known; None if there is none."""
        held = [p for p in self.points if p.state == "held"]
        open_ = [p for p in self.points if self.acceptable(p)]
        fastest = min(self.points, key=lambda p: p.timing.seconds)
        for group in (held, open_):
            best = min(group, key=lambda p: p.timing.seconds)
            if best.verdict is not None or best is fastest:
                return best
        return None


def _worth(r: told.Sensitivity) -> float:
    """Seconds saved per error made."""
    return max(r.saved if r.saved is not None else 1e-6, 1e-9) / max(r.divergence or 0.0, 1e-9)


def candidates(points: Sequence[Point], layer_count: int, codes: str = "int8") -> tuple[told.Candidate, ...]:
    """The points as the report has them; `codes`: what their layers are quantized to."""
    out = []
    for p in points:
        interval = p.scores.interval()
        bound = 0.0 if p.verdict is None else _finite(p.verdict.upper)
        counted = {codes: len(p.quantized), p.compute: layer_count - len(p.quantized)}
        out.append(told.Candidate(
            label=p.label, latency=p.timing, value=interval.value, value_low=_finite(interval.low),
            value_high=_finite(interval.high), loss=_finite(p.loss), bound=bound,
            plan_bytes=p.plan.nbytes, layers={k: v for k, v in counted.items() if v}, state=p.state))
    return tuple(out)


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
