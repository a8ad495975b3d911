"""A/B trials: is version b no worse than version a by more than a margin? Design first, analysis after, and looks in
between that keep the error rate.

`design` says how many samples decide it. `shares`, `values` and `latencies` judge what was observed, on paired or
independent samples. Held: the one-sided upper bound of the loss lies below the margin; not held: the lower bound lies
above it; else undecided, with the number of samples that would decide it. Each of the two claims is wrong with a
probability of 1 - confidence at most, however many looks there were, if the trial's `Rules` say how it stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from whet.decide import anytime, continuous, sample_size, sequential, trial_needed, unpaired
from whet.decide.outcomes import Outcomes, match
from whet.decide.trial_design import design
from whet.decide.trial_record import Arm, Cells, Kind, Look, Note, Span, State, Stopping, Test, Trial, Unit
from whet.errors import InputError
from whet.measure import paired
from whet.measure.record import now
from whet.measure.stats import Interval, wilson
from whet.measure.verdict import FEWEST, MOST, Verdict

__all__ = ["Outcomes", "Rules", "design", "from_verdict", "latencies", "shares", "values"]

RATIO_ALPHA = 0.001  # below which the groups' sizes say that the assignment is broken
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Rules:
    """What was fixed before the trial.

    margin:   the loss that must not be reached, in the trial's unit.
    stopping: `once`: one look. `obrien-fleming`, `pocock`: some looks before `planned` samples (per group) are there,
              by alpha spending. `always-valid`: as many looks as one likes.
    looks:    samples at the looks before this one, and `kind` of trial at these.
    """

    margin: float
    confidence: float = paired.CONFIDENCE
    power: float = paired.POWER
    stopping: Stopping = "once"
    planned: int | None = None
    looks: tuple[Look, ...] = ()
    kind: Kind | None = None

    def __post_init__(self) -> None:
        sample_size.check(self.margin, -math.inf, self.confidence, self.power)
        if self.stopping in ("obrien-fleming", "pocock") and self.planned is None:
            raise InputError("alpha spending needs the planned number of samples", why="what may be spent at a look is "
                             "told by its share of them", do="give --planned N, as the design said")
        if self.planned is not None and self.planned < 2:
            raise InputError("the planned number of samples is two at least", why=f"{self.planned} was given")

    @property
    def alpha(self) -> float:
        return 1 - self.confidence

    def look(self, n: float) -> Look:
        """This look, with n samples."""
        if self.stopping not in ("obrien-fleming", "pocock"):
            return Look(n=n, fraction=n / self.planned if self.planned else 1.0)
        assert self.planned is not None
        z = sequential.boundary([x.n for x in self.looks], n, self.planned, self.alpha, self.stopping)
        fraction = n / self.planned
        return Look(n=n, fraction=fraction, boundary=z, spent=sequential.spent(fraction, self.alpha, self.stopping))

    def tail(self, look: Look) -> float:
        """The one-sided error rate of bounds at this look."""
        return self.alpha if look.boundary is None else max(1e-15, _NORMAL.cdf(-look.boundary))

    def after(self, trial: Trial) -> Rules:
        """These rules at the next look of a trial. InputError if they were changed since, or if it was decided."""
        for name in ("margin", "confidence", "stopping", "planned"):
            before, here = getattr(trial, name), getattr(self, name)
            if before != here:
                raise InputError(f"the trial's {name} was changed between looks",
                                 why=f"it was {before}, now {here}: rules that follow the data keep no error rate",
                                 do="go on by the rules of the first look")
        if trial.stopping == "once":
            raise InputError("the trial was made for one look",
                             why="bounds for one look are wrong more often at the next",
                             do="plan a new trial, with --stopping and new samples")
        if trial.state != "undecided":
            raise InputError("the trial is over", why=f"at its last look it was {trial.state}",
                             do="plan a new trial, with new samples")
        return replace(self, looks=trial.looks, kind=trial.kind)


@dataclass(frozen=True)
class _Found:
    """Bounds in the trial's unit, and how many samples would decide it (by once-only bounds)."""

    loss: float
    lower: float
    upper: float
    needed: Callable[[], float | None]


def shares(a: Outcomes, b: Outcomes, rules: Rules, *, pair: bool, ratio: float | None = 1.0, metric: str = "right",
           broken: int = 0) -> Trial:
    """Right or wrong by sample (1 or 0): Tango's score bounds of pairs, Miettinen and Nurminen's of independent groups.

    pair: the same samples by both, matched by id (or by order, where neither has ids). ratio: of independent groups,
    the number of b's samples for one of a's, which is checked (None: nobody assigned samples). The margin is in points.
    broken: b's samples that were no numbers and count as wrong.
    """
    if pair:
        a, b = match(a, b)
    notes = _notes(a, b)
    if broken:
        notes.append(Note(code="broken", values={"n": f"{broken:,}"}))
    if not (a.binary and b.binary):
        raise InputError("outcomes that are not right or wrong", where=f"{a.label}, {b.label}",
                         do="give 1 and 0, or judge their mean: --statistic mean")
    if rules.margin >= 100:
        raise InputError("a margin of the whole", why=f"{rules.margin:g} points were given", do="give --margin 0.5")
    right_a, right_b = (x.values.astype(bool) for x in (a, b))
    arms = [_arm(x, wilson(int(r.sum()), len(r))) for x, r in ((a, right_a), (b, right_b))]
    share = rules.margin / 100
    if pair:
        p = paired.Pairs.of(right_a, right_b)
        look = rules.look(p.n)
        if p.discordant == 0:
            notes.append(Note(code="identical"))
        if rules.stopping == "always-valid":
            low, high = anytime.share_bounds(p.lost, p.gained, p.n, rules.alpha)
        else:
            tail = rules.tail(look)
            low, high = paired.lower_bound(p, 1 - tail), paired.upper_bound(p, 1 - tail)
        found = _Found(100 * p.loss, 100 * low, 100 * high, lambda: trial_needed.pairs(p, share, rules))
        tests, spans = _pair_tests(p, share)
        return _trial("paired shares", metric, "points", arms, found, rules, look, notes, tests=tests, intervals=spans,
                      pairs=Cells(both=p.both, lost=p.lost, gained=p.gained, neither=p.neither))
    tests = _ratio_test(len(right_a), len(right_b), ratio)
    g = unpaired.Groups(int(right_a.sum()), len(right_a), int(right_b.sum()), len(right_b))
    look = rules.look(harmonic(g.n_a, g.n_b))
    if rules.stopping == "always-valid":
        most = min(g.n_a, g.n_b)  # in order of arrival, as pairs: the variance is the same
        p = paired.Pairs.of(right_a[:most], right_b[:most])
        low, high = anytime.share_bounds(p.lost, p.gained, p.n, rules.alpha)
        size: Callable[[], float | None] = lambda: trial_needed.pairs(p, share, rules)
    else:
        tail = rules.tail(look)
        size = lambda: trial_needed.groups(g, share, rules)
        low, high = unpaired.lower_bound(g, 1 - tail), unpaired.upper_bound(g, 1 - tail)
    if min(g.n_a, g.n_b) < FEWEST:  # the normal distribution of the score is no more than a guess
        low, high = -math.inf, math.inf
        notes.append(Note(code="few", values={"n": str(FEWEST)}))
    z, p_value = unpaired.farrington_manning(g, share)
    tests.append(Test(name="farrington-manning", p=p_value, statistic=_finite(z)))
    spans = [_span("miettinen-nurminen", unpaired.miettinen_nurminen(g), 100),
             _span("newcombe", unpaired.newcombe(g), 100)]
    found = _Found(100 * g.loss, 100 * low, 100 * high, size)
    return _trial("shares", metric, "points", arms, found, rules, look, notes, tests=tests, intervals=spans)


def values(a: Outcomes, b: Outcomes, rules: Rules, *, pair: bool, relative: bool, higher_better: bool = False,
           statistic: str = "mean", method: str = "t", ratio: float | None = 1.0, metric: str = "") -> Trial:
    """Values by sample: the loss in their mean (Student's t of pairs, Welch's of groups, or `method="bootstrap"`) or in
    a quantile (`p50`, `p99`...: order statistics of each group). relative: the margin is in percent of a's figure."""
    q = quantile_of(statistic)
    if method == "bootstrap" and (q is not None or rules.stopping == "always-valid"):
        raise InputError("the bootstrap is for means, at planned looks",
                         why=f"{statistic}, {rules.stopping} was asked for",
                         do="leave --method, or --stopping always-valid")
    if pair and q is None:
        a, b = match(a, b)
    notes, tests = _notes(a, b), [] if pair else _ratio_test(len(a.values), len(b.values), ratio)
    unit: Unit = "percent" if relative else ""
    x, y = a.values, b.values
    name = metric or statistic
    if q is not None:
        if rules.stopping == "always-valid":
            raise InputError("there are no always-valid bounds of quantiles here",
                             do="stop by --stopping obrien-fleming, or judge the mean")
        look = rules.look(harmonic(len(x), len(y)))
        e, low, high = continuous.at_quantile(x, y, q, rules.tail(look), relative=relative, higher_better=higher_better)
        found = _Found(e.loss, low, high, lambda: trial_needed.quantile(e, low, high, q, look, rules))
        return _trial("quantiles", name, unit, [_arm(a, e.a), _arm(b, e.b)], found, rules, look,
                      notes + _worth(x, y, q), tests=tests, higher_better=higher_better)
    e = (continuous.paired_mean if pair else continuous.mean)(x, y, relative=relative, higher_better=higher_better)
    notes += _spread(e)
    look = rules.look(len(x) if pair else harmonic(len(x), len(y)))
    if method == "bootstrap":
        low, high = continuous.bootstrapped(x, y, rules.tail(look), relative=relative, higher_better=higher_better,
                                            paired=pair)
    else:
        low, high = _mean_bounds(e, look, rules)
    if not pair:
        notes += _worth(x, y, None)
    spans = [_span("student" if pair else "welch", Interval(e.loss, *e.bounds(0.025)))]
    found = _Found(e.loss, low, high, lambda: trial_needed.mean(e, look, rules))
    return _trial("paired means" if pair else "means", name, unit, [_arm(a, e.a), _arm(b, e.b)], found, rules, look,
                  notes, tests=tests, intervals=spans, higher_better=higher_better)


def latencies(a: Sequence[Outcomes], b: Sequence[Outcomes], rules: Rules, *, relative: bool = True,
              statistic: str = "p99", notes: Sequence[Note] = ()) -> Trial:
    """Seconds by call, in order, of one or several runs of each version.

    Of one run each, as `values` of independent groups. Where both have two or more, the runs' figures are compared
    (Welch's t), which holds what differs from run to run.
    """
    if min(len(a), len(b)) < 2:
        whole_a, whole_b = (Outcomes(x[0].label, np.concatenate([r.values for r in x]), device=x[0].device)
                            for x in (a, b))
        found = values(whole_a, whole_b, rules, pair=False, relative=relative, statistic=statistic, ratio=None,
                       metric=f"latency {statistic}")
        return _add(found, Note(code="one-run"), *notes)
    q = quantile_of(statistic)
    figures = [[float(r.values.mean() if q is None else np.quantile(r.values, q)) for r in runs] for runs in (a, b)]
    e = continuous.runs(*figures, relative=relative, higher_better=False)
    look, notes = rules.look(harmonic(len(a), len(b))), [*notes, *_spread(e)]
    found_bounds = _Found(e.loss, *_mean_bounds(e, look, rules), lambda: trial_needed.mean(e, look, rules))
    arms = [Arm(label=x[0].label, n=len(x), value=value, device=x[0].device) for x, value in ((a, e.a), (b, e.b))]
    return _trial("runs", f"latency {statistic}", "percent" if relative else "", arms, found_bounds, rules, look,
                  notes, intervals=[_span("welch", Interval(e.loss, *e.bounds(0.025)))], higher_better=False)


def from_verdict(v: Verdict, a: str, b: str, device: str = "", power: float = paired.POWER) -> Trial:
    """A trial of a metric that is no plain share (F1, RMSE, divergence...), as `measure.verdict.judge` found it."""
    arms = [Arm(label=name, n=v.n, value=x.value, low=_finite(x.low), high=_finite(x.high), device=device)
            for name, x in ((a, v.reference), (b, v.candidate))]
    notes = (Note(code="broken", values={"n": f"{v.broken:,}"}),) if v.broken else ()
    return Trial(date=now(), kind="metric", metric=v.metric, unit=v.unit, a=arms[0], b=arms[1], loss=_finite(v.loss),
                 lower=_finite(v.lower), upper=_finite(v.upper), margin=v.max_drop, state=v.state,
                 confidence=v.confidence, level=v.confidence, power=power, n=v.n, needed=v.needed,
                 looks=(Look(n=v.n, fraction=1.0),), notes=notes)


def quantile_of(statistic: str) -> float | None:
    """`p99` -> 0.99, `p99.9` -> 0.999; None for `mean`."""
    if statistic == "mean":
        return None
    try:
        q = float(statistic.removeprefix("p")) / 100
    except ValueError:
        q = 0.0
    if not statistic.startswith("p") or not 0 < q < 1:
        raise InputError(f"there is no statistic {statistic!r}", do="choose mean, p50, p90, p99, p99.9...")
    return q


def harmonic(n_a: float, n_b: float) -> float:
    """The harmonic mean of two groups' sizes: equal groups of so many say as much."""
    return 2 / (1 / n_a + 1 / n_b)


# -- parts ----------------------------------------------------------------------------------------


def _trial(kind: Kind, metric: str, unit: Unit, arms: Sequence[Arm], found: _Found, rules: Rules, look: Look,
           notes: Sequence[Note], *, tests: Sequence[Test] = (), intervals: Sequence[Span] = (),
           pairs: Cells | None = None, higher_better: bool = True) -> Trial:
    if rules.kind not in (None, kind):
        raise InputError("the trial was of another kind at its last look", why=f"it was of {rules.kind}, now of {kind}",
                         do="judge the same figure at each look")
    state: State = ("held" if found.upper < rules.margin else "not held" if found.lower > rules.margin else "undecided")
    needed: int | None = None
    if state == "undecided":
        going = rules.stopping in ("obrien-fleming", "pocock") and rules.planned is not None and look.n < rules.planned
        if going:
            needed = rules.planned
        else:
            size = found.needed()
            needed = None if size is None or not size < MOST else max(math.ceil(size), math.floor(look.n) + 1)
            if rules.stopping in ("obrien-fleming", "pocock"):
                notes = [*notes, Note(code="over")]
    if rules.stopping != "once":
        notes = [*notes, Note(code="order")]
    return Trial(date=now(), kind=kind, metric=metric, unit=unit, a=arms[0], b=arms[1], loss=_finite(found.loss),
                 lower=_finite(found.lower), upper=_finite(found.upper), margin=rules.margin, state=state,
                 higher_better=higher_better, confidence=rules.confidence, level=1 - rules.tail(look),
                 power=rules.power, n=look.n, needed=needed, stopping=rules.stopping, planned=rules.planned,
                 looks=(*rules.looks, look), pairs=pairs, tests=tuple(tests), intervals=tuple(intervals),
                 notes=tuple(notes))


def _add(trial: Trial, *notes: Note) -> Trial:
    import msgspec

    return msgspec.structs.replace(trial, notes=(*trial.notes, *notes))


def _arm(x: Outcomes, value: Interval | float) -> Arm:
    v = value if isinstance(value, Interval) else None
    return Arm(label=x.label, n=len(x.values), value=v.value if v else float(value),  # type: ignore[arg-type]
               low=v.low if v else None, high=v.high if v else None, device=x.device)


def _pair_tests(p: paired.Pairs, margin: float) -> tuple[list[Test], list[Span]]:
    m = paired.mcnemar(p)
    z = paired.score(p, margin) if margin < 1 else -math.inf
    return ([Test(name="tango", p=_NORMAL.cdf(z), statistic=_finite(z)), Test(name="mcnemar-exact", p=m.exact),
             Test(name="mcnemar-mid-p", p=m.mid_p)], [_span("tango", paired.tango(p), 100)])


def _ratio_test(n_a: int, n_b: int, ratio: float | None) -> list[Test]:
    """InputError where the groups are not as large as they should be: who is missing may not be missing at random."""
    if ratio is None:
        return []
    p = unpaired.sample_ratio(n_a, n_b, ratio)
    if p < RATIO_ALPHA:
        raise InputError("the groups' sizes do not fit the assignment (sample ratio mismatch)",
                         why=f"{n_a:,} and {n_b:,} samples where 1 to {ratio:g} was meant: p = {p:.1e}. What loses "
                             "samples on one side may lose the hard ones",
                         do="find where samples are lost (time-outs, crashes, filters), or give --ratio if another "
                            "split was meant")
    return [Test(name="sample-ratio", p=p)]


def _mean_bounds(e: continuous.Estimate, look: Look, rules: Rules) -> tuple[float, float]:
    if rules.stopping != "always-valid":
        return e.bounds(rules.tail(look))
    if rules.planned is None:
        raise InputError("always-valid bounds of means need the planned number of samples",
                         why="they are made to be narrow there", do="give --planned N")
    assert e.error is not None
    reach = anytime.radius(look.n, rules.planned, rules.alpha) * e.error
    return e.on_scale(e.centre - reach), e.on_scale(e.centre + reach)


def _spread(e: continuous.Estimate) -> list[Note]:
    return [] if e.error else [Note(code="no-spread")]


def _notes(a: Outcomes, b: Outcomes) -> list[Note]:
    out = [Note(code=x.remark, values={"label": x.label, "n": f"{x.changed:,}"}) for x in (a, b) if x.remark]
    if a.device and b.device and a.device != b.device:
        out.append(Note(code="mixed-hardware", values={"a": a.device, "b": b.device}))
    return out


def _worth(x: np.ndarray, y: np.ndarray, q: float | None) -> list[Note]:
    """Said where neighbours resemble each other so much that a group is worth less than 0.6 of its size: independent
    values seem to do so in one case of forty."""
    series = [v if q is None else (v > np.quantile(v, q)).astype(float) for v in (x, y)]
    worth = [continuous.worth(s) for s in series]
    if all(w >= 0.6 * len(s) for w, s in zip(worth, series)):
        return []
    return [Note(code="series", values={"a": f"{worth[0]:,}", "b": f"{worth[1]:,}", "n_a": f"{len(x):,}",
                                        "n_b": f"{len(y):,}"})]


def _span(method: str, x: Interval, scale: float = 1.0) -> Span:
    return Span(method=method, low=_finite(scale * x.low), high=_finite(scale * x.high))  # type: ignore[arg-type]


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
