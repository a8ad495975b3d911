"""Milestones of one history: P(reached by a time), P(reached within a number of further effective optimizations).

`fit` is what the command line, the board and back-tests call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whet.decide.forecast.process import NOTHING, Kind, Prior, Process, fit_arrivals, fit_gains
from whet.decide.forecast.scale import Scale
from whet.decide.forecast.steps import How, Steps, find


@dataclass(frozen=True)
class Settings:
    """How a process is fitted.

    half_life, pace: in steps, by which older gains and older waits count for less; None: all count alike. decline: of
    gains by their number, a prior (see `fit_gains`). These hold on public and made-up histories of several kinds;
    benchmarks/forecast.py judges them beside settings that are fitted on one half of the data at hand.
    """

    kind: Kind = "lognormal"
    half_life: float | None = 8.0
    pace: float | None = 12.0
    decline: tuple[float, float] | None = (0.8, 10.0)
    prior: Prior = NOTHING
    draws: int = 4000
    seed: int = 0


DEFAULT = Settings()
LOG = Scale()


@dataclass(frozen=True)
class Milestones:
    """A fitted process and where it stands."""

    steps: Steps
    scale: Scale
    process: Process

    def remaining(self, target: float) -> float:
        """What remains to a target (the metric's unit), on the scale; zero or less: it is reached.
        Infinite for a target at the limit or beyond it."""
        if self.scale.beyond(target):
            return math.inf
        return self.scale.place(self.steps.now, "the level") - self.scale.place(target, "the target")

    def by(self, target: float, time: float) -> float:
        """P(the level reaches `target` within `time` from the history's end), in the unit of the history's times.
        InputError where all times are equal."""
        remaining = self.remaining(target)
        return 0.0 if math.isinf(remaining) else self.process.by(remaining, time)

    def within(self, target: float, steps: int) -> float:
        """P(the level reaches `target` within `steps` further effective optimizations)."""
        remaining = self.remaining(target)
        return 0.0 if math.isinf(remaining) else self.process.within(remaining, steps)

    def fan(self, times: Sequence[float], levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the level at `times` from the history's end (rising), [levels, times], in the metric's unit; the
        first level is that of the best values."""
        place = self.scale.place(self.steps.now)
        covered = self.process.covered(times, [1 - p for p in levels])
        return np.vectorize(self.scale.value)(place - covered)


def fit(times: Sequence[float], values: Sequence[float], scale: Scale = LOG, *, how: How = "changes",
        settings: Settings = DEFAULT) -> Milestones:
    """A history's milestone process.

    times, values: [n], oldest first; times in any unit (days; or 0, 1, 2... to ask by number of records).
    InputError for what `steps.find` refuses and for fewer than two effective optimizations where no prior is given.
    """
    return of_steps(find(times, values, scale, how), scale, settings)


def of_steps(steps: Steps, scale: Scale, settings: Settings = DEFAULT) -> Milestones:
    """The process of steps that were found before."""
    gains = fit_gains(steps.gains, settings.kind, half_life=settings.half_life, decline=settings.decline,
                      prior=settings.prior)
    arrivals = None
    if steps.end > steps.start or settings.prior.exposure > 0:
        arrivals = fit_arrivals(steps.times, steps.start, steps.end, half_life=settings.pace, prior=settings.prior)
    often = (steps.count - 1) / (steps.end - steps.start) if steps.end > steps.start else 0.0
    wander = steps.wander * math.sqrt(often)
    return Milestones(steps, scale, Process(gains, arrivals, steps.uncertainty, wander, settings.draws, settings.seed))


def without_dates(found: Milestones) -> Milestones:
    """The same process, of which times are not known."""
    return replace(found, process=replace(found.process, arrivals=None))
