"""What counts as an effective optimization: a change of a history's level for the better, not every lucky run.

Of measurements, the levels are those that change-point detection finds (`decide.history.segments`), each at the date of
its first measurement. Of a list of records (`each`), where only what improved was entered, every new best counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from whet.decide.forecast.scale import Scale
from whet.decide.history import segments
from whet.errors import InputError

How = Literal["changes", "each"]
JUDGED_BY = 0.5 * math.pi / 5  # variance of a median of five normal values: pi / (2 n), in that of one
WANDER = 0.12  # of a level, in standard deviations of the noise: fitted by back-tests (docs/forecast.md)


@dataclass(frozen=True)
class Steps:
    """Effective optimizations so far, oldest first.

    times: [n] when each came, in the unit of the history's times; gains: [n] on the scale, all positive. start, end:
    when the history begins and ends. base, now: its first and last level, in the metric's unit. uncertainty: standard
    error, on the scale, of the last level as it will be judged: by the median of five measurements. wander: the
    standard deviation by which the level moves from one measurement to the next, on the scale. back: changes for the
    worse. count: values.
    """

    times: tuple[float, ...]
    gains: tuple[float, ...]
    start: float
    end: float
    base: float
    now: float
    uncertainty: float = 0.0
    wander: float = 0.0
    back: int = 0
    how: How = "changes"
    count: int = 0


def find(times: Sequence[float], values: Sequence[float], scale: Scale, how: How = "changes") -> Steps:
    """The steps of a history: values [n] in the metric's unit at times [n] (rising; equal ones stand in order).

    InputError for an empty history, values without a place on the scale, and times that go back.
    """
    if len(times) != len(values) or not len(values):
        raise InputError("an empty history" if not len(values) else f"{len(times)} times and {len(values)} values",
                         do="measure first" if not len(values) else "give one time for each value")
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        if not a <= b:
            raise InputError(f"the dates go back after row {i + 1}", why="a history is told in order: either a "
                             "clock was wrong, or these are several histories in one",
                             do="sort the rows, or split the file")
    places = [scale.place(float(v), f"value {i + 1}") for i, v in enumerate(values)]
    return _each(times, places, scale) if how == "each" else _changes(times, values, places, scale)


def _each(times: Sequence[float], places: Sequence[float], scale: Scale) -> Steps:
    best, at, gains = places[0], [], []
    for t, place in zip(times[1:], places[1:]):
        if place < best:
            at.append(float(t))
            gains.append(best - place)
            best = place
    return Steps(tuple(at), tuple(gains), float(times[0]), float(times[-1]), scale.value(places[0]), scale.value(best),
                 how="each", count=len(places))


def _changes(times: Sequence[float], values: Sequence[float], places: Sequence[float], scale: Scale) -> Steps:
    relative = scale.name == "log" and min(values) > 0
    found = segments([float(v) for v in values], scale="log" if relative else "linear")
    levels = [scale.place(s.level, "the level") for s in found]
    at, gains, back = [], [], 0
    for before, after, segment in zip(levels, levels[1:], found[1:]):
        if after < before:
            at.append(float(times[segment.start]))
            gains.append(before - after)
        else:
            back += 1
    last = found[-1]
    spread = last.spread * (last.level if relative else 1.0) * _slope(scale, last.level)
    return Steps(tuple(at), tuple(gains), float(times[0]), float(times[-1]), scale.value(levels[0]),
                 scale.value(levels[-1]), spread * math.sqrt(JUDGED_BY + 1 / last.count), spread * WANDER, back,
                 "changes", len(places))


def _slope(scale: Scale, value: float) -> float:
    """How far a place moves with the value, at a value."""
    small = 1e-6 * abs(value) or 1e-9
    return abs(scale.place(value + small) - scale.place(value)) / small
