"""Is it ready? The probability that a model meets what is required of it, from the uncertainty of its own measurements,
and that more than a share of a set of models do.

A limit on a percentile: of n calls m took no longer than the limit, so that the share F of calls below it has the
posterior Beta(m + 1/2, n - m + 1/2) (Jeffreys; Brown, Cai and DasGupta, Statistical Science 16, 2001), and P(P99 <
limit) = P(F > 0.99). No shape of the latency is assumed; n is what the calls are worth, where neighbours resemble each
other. With three or more runs of one build, what differs from run to run counts too: Student's t of the logarithms of
each run's percentile. A limit on the loss of accuracy: from the loss and its one-sided upper bound as the paired
verdict of `measure.verdict` has them, taken for normal.

A set: models are judged by themselves, so that the number of those that are ready is Poisson-binomial (Wang, Statistica
Sinica 3, 1993). Rules that count models are policy, shown beside the probability and never in its place: 8 of 10 says
of a further model (8 + 1/2) / (10 + 1) = 0.77, not 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from msgspec.structs import replace as put

from whet.decide.continuous import worth
from whet.decide.forecast.beta import beta_cdf, student_cdf
from whet.decide.forecast.result import Check, Counted, ModelReady, Note, Readiness, Requirement
from whet.decide.history import segments
from whet.errors import InputError
from whet.measure.record import Judged, Measurement
from whet.measure.series import values, when

QUANTILES = {"latency.p50": 0.5, "latency.p90": 0.9, "latency.p99": 0.99}
LOSS = "loss"
RUNS = 3  # of one build, from which on their differences are counted
COUNTED = ("plan.bytes",)  # that are not sampled, and have no uncertainty
Z95, Z975 = (NormalDist().inv_cdf(p) for p in (0.95, 0.975))


def percentile(samples: Sequence[float], q: float, limit: float) -> tuple[float, int]:
    """P(the q-quantile of calls lies below `limit`), and how many independent calls the samples are worth.

    samples: [n] seconds, in the order in which they came. InputError for none.
    """
    x = np.asarray(samples, dtype=float)
    if not len(x):
        raise InputError("a percentile of no calls")
    below = x < limit
    # Calls that resemble their neighbours (the machine was busy for a while) are worth fewer.
    n = min(len(x), worth(below.astype(float)))
    m = n * float(below.mean())
    return 1 - beta_cdf(q, m + 0.5, n - m + 0.5), n


def runs(figures: Sequence[float], limit: float) -> float:
    """P(the mean of runs lies below `limit`), for the logarithms of a positive figure of each of two runs or more."""
    x = np.log(np.asarray(figures, dtype=float))
    error = float(x.std(ddof=1)) / math.sqrt(len(x))
    gap = math.log(limit) - float(x.mean())
    return float(gap > 0) if error == 0 else student_cdf(gap / error, len(x) - 1)


def loss(judged: Judged, limit: float) -> float | None:
    """P(the loss lies below `limit`, in the verdict's unit); None where the verdict bounds nothing."""
    if judged.loss is None or judged.upper is None:
        return None
    error = (judged.upper - judged.loss) / Z95
    if error <= 0:
        return float(judged.loss < limit)
    return 0.5 * math.erfc((judged.loss - limit) / error / math.sqrt(2))


def model(name: str, records: Sequence[Measurement], required: Sequence[Requirement]) -> ModelReady:
    """The readiness of one model's newest build, from all records of that build (the plan's hash, else the versions).

    A requirement that no record speaks of has no probability, and neither has the model then. InputError for no
    records.
    """
    if not records:
        raise InputError(f"no measurements of {name}")
    newest = max(records, key=when)
    same = [r for r in records if _build(r) == _build(newest)]
    checks = tuple(_check(same, r) for r in required)
    known = [c.probability for c in checks if c.probability is not None]
    whole = math.prod(known) if len(known) == len(checks) else None
    passes = None if any(c.value is None for c in checks) else all(c.passes for c in checks)
    return ModelReady(model=name, probability=whole, passes=passes, checks=checks, device=newest.device.fingerprint)


def _build(record: Measurement) -> object:
    return record.plan.hash if record.plan else (record.backend, sorted(record.versions.items()))


def _check(records: Sequence[Measurement], required: Requirement) -> Check:
    if required.metric == LOSS:
        return _loss(records, required)
    found = [(r, v) for r in sorted(records, key=when) for v in values(r) if v.metric == required.metric]
    if not found:
        return Check(metric=required.metric, limit=required.limit, below=required.below, basis="missing")
    found = found[segments([v.value for _, v in found])[-1].start:]  # since the level last changed
    (record, value), every = found[-1], [v.value for _, v in found]
    sign = 1 if required.below else -1
    base = Check(metric=required.metric, unit=value.unit, limit=required.limit, below=required.below, value=value.value,
                 passes=sign * value.value < sign * required.limit, basis="no interval")
    if len(every) >= RUNS and min(every) > 0 and required.limit > 0:
        p, middle = runs(every, required.limit), float(np.exp(np.log(every).mean()))
        return put(base, basis="runs", probability=p if required.below else 1 - p, n=len(every), value=middle,
                   passes=sign * middle < sign * required.limit)
    if required.metric in QUANTILES and record.latency is not None and record.latency.samples:
        p, n = percentile(record.latency.samples, QUANTILES[required.metric], required.limit)
        return put(base, basis="calls", probability=p if required.below else 1 - p, n=n)
    if value.low is not None and value.high is not None and value.high > value.low:
        error = (value.high - value.low) / (2 * Z975)
        return put(base, basis="interval",
                   probability=0.5 * math.erfc(sign * (value.value - required.limit) / error / math.sqrt(2)))
    if required.metric in COUNTED:
        return put(base, basis="exact", probability=float(base.passes))
    return base


def _loss(records: Sequence[Measurement], required: Requirement) -> Check:
    judged = [(r.accuracy.judged, r.accuracy.samples) for r in sorted(records, key=when)
              if r.accuracy is not None and r.accuracy.judged is not None]
    if not judged:
        return Check(metric=LOSS, limit=required.limit, basis="missing")
    verdict, n = judged[-1]
    return Check(metric=LOSS, unit=verdict.unit, limit=required.limit, value=verdict.loss, basis="verdict", n=n,
                 probability=loss(verdict, required.limit),
                 passes=verdict.loss is not None and verdict.loss < required.limit)


def poisson_binomial(probabilities: Sequence[float]) -> np.ndarray:
    """P(k of the models are ready), k = 0..n, by adding one model after the other (Wang 1993, section 2)."""
    found = np.ones(1)
    for p in probabilities:
        found = np.concatenate([found * (1 - p), [0.0]]) + np.concatenate([[0.0], found * p])
    return found


def more_than(share: float, of: int) -> int:
    """The least count that is more than a share of so many: 9 for 0.8 of 10."""
    return math.floor(round(share * of, 9)) + 1


def together(models: Sequence[ModelReady], share: float) -> Readiness:
    """A set: the probability that more than `share` of these models are ready; None where one has none."""
    known = [m.probability for m in models if m.probability is not None]
    whole = None
    if len(known) == len(models):
        whole = float(poisson_binomial(known)[more_than(share, len(models)):].sum())
    passing = [m.passes for m in models]
    rule = counted(sum(map(bool, passing)), len(models), share) if None not in passing else None
    notes = (Note(code="independent", values={}),) if len(models) > 1 else ()
    return Readiness(probability=min(1.0, whole) if whole is not None else None, share=share, models=tuple(models),
                     policy=rule, notes=notes)


def counted(ready: int, models: int, share: float) -> Counted:
    """A count of ready models, by the rule and by what it says of models like these: the posterior of their share is
    Beta(ready + 1/2, models - ready + 1/2), its mean the probability that a further one is ready.

    InputError for a count that is none.
    """
    if models < 1 or not 0 <= ready <= models:
        raise InputError(f"{ready} of {models} models ready", do="give a count and a total, as 8/10")
    if not 0 < share < 1:
        raise InputError(f"a share of {100 * share:g} %", do="give one between 0 and 100, as 80")
    return Counted(ready=ready, models=models, share=share, held=ready >= more_than(share, models),
                   next=(ready + 0.5) / (models + 1),
                   probability=1 - beta_cdf(share, ready + 0.5, models - ready + 0.5))
