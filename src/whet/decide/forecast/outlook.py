"""From a history, or from typed-in gains, to milestones: one structure that reports, the board and the store read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
from msgspec.structs import replace as put

from whet.decide.forecast.milestones import Milestones, Settings, of_steps
from whet.decide.forecast.process import Process, fit_gains
from whet.decide.forecast.result import ByDate, BySteps, Fan, Milestone, Note, Point, Step, decided
from whet.decide.forecast.scale import Direction, Name, Scale
from whet.decide.forecast.steps import How, Steps, find
from whet.errors import InputError

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
FEWEST = 2  # effective optimizations, from which on their gains say how much they vary
SHOWN = 500  # points of a history that are told
MONTH = 30
DAY = 86400.0


class TooFewError(InputError):
    """Too little evidence for a probability: no number is given."""

    code = "W205-too-few"
    exit_code = 3


@dataclass(frozen=True)
class History:
    """What is followed: dates (rising) and values [n] of one metric, and the best value that the hardware allows (None:
    not known)."""

    metric: str
    dates: Sequence[datetime]
    values: Sequence[float]
    unit: str = ""
    direction: Direction = "lower"
    limit: float | None = None
    label: str = ""
    model: str = ""
    device: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What of a milestone is asked. by: dates, of whose end the probability is told; within: numbers of further steps;
    today: the date of the forecast; sure: see `result.decided`."""

    by: Sequence[date] = ()
    within: Sequence[int] = ()
    today: datetime | None = None
    sure: float = 0.8
    how: How = "changes"
    scale: Name = "log"


def milestones(history: History, targets: Sequence[float], asked: Asked,
               settings: Settings | None = None) -> list[Milestone]:
    """The milestones of one history, by the compound process of `process`.

    targets: values to be reached, in the metric's unit. InputError for histories that contradict themselves, dates that
    are past, and targets without a place on the scale; TooFewError (exit code 3) where fewer than two effective
    optimizations were seen and a target is not yet reached.
    """
    today = asked.today or datetime.now(UTC)
    _check(history, asked, today)
    scale = Scale(history.direction, asked.scale, history.limit)
    origin = history.dates[0]
    steps = find([(d - origin).total_seconds() / DAY for d in history.dates], history.values, scale, asked.how)
    if asked.how == "each":  # that nothing came since the last record is known, too
        steps = replace(steps, end=max(steps.end, (today - origin).total_seconds() / DAY))
    if settings is None:
        settings = Settings() if asked.scale == "log" else Settings("normal", None, None, None)
    found = of_steps(steps, scale, settings) if len(steps.gains) >= FEWEST else None
    return [_milestone(history, float(t), asked, steps, scale, found, today) for t in targets]


def _check(history: History, asked: Asked, today: datetime) -> None:
    _check_rules(asked)
    if not len(history.values):
        raise InputError("an empty history", where=history.label, do="measure first")
    if history.dates[-1] > today + timedelta(days=1):
        raise InputError(f"a measurement of {history.dates[-1]:%Y-%m-%d}, after today ({today:%Y-%m-%d})",
                         where=history.label, why="a clock was wrong, or the forecast is for a date that is past",
                         do="correct the date, or say --today")
    for day in asked.by:
        if day < today.date():
            raise InputError(f"{day} is past", why=f"today is {today:%Y-%m-%d}: what was reached by then is history",
                             do="give a date to come, or --today to forecast as of another day")


def _check_rules(asked: Asked) -> None:
    if not 0.5 < asked.sure < 1:
        raise InputError(f"a probability of {asked.sure:g} to be sure", do="give one between 0.5 and 1, as 0.8")
    if any(n < 1 for n in asked.within):
        raise InputError(f"within {min(asked.within)} effective optimizations", do="give one or more")


def _milestone(history: History, target: float, asked: Asked, steps: Steps, scale: Scale, found: Milestones | None,
               today: datetime) -> Milestone:
    dates = [_day(history.dates[0] + timedelta(days=t)) for t in steps.times]
    base = Milestone(
        metric=history.metric, unit=history.unit, direction=history.direction, scale=scale.name, target=target,
        limit=history.limit, base=steps.base, now=steps.now, back=steps.back, how=steps.how, series=history.label,
        model=history.model, device=history.device, method="drawn", history=_told(history), state="stated",
        place="beyond",
        steps=tuple(Step(gain=g, date=d) for d, g in zip(dates, steps.gains)),
        notes=(*history.notes, *_notes(history, steps, today)))
    if scale.beyond(target):
        return put(base, state="not held" if asked.by or asked.within else "stated",
                   by_date=tuple(ByDate(date=f"{d}", probability=0.0, asked=True) for d in asked.by),
                   by_steps=tuple(BySteps(steps=n, probability=0.0, asked=True) for n in asked.within))
    remaining = scale.place(steps.now, "the level") - scale.place(target, "the target")
    base = put(base, progress=scale.progress(steps.base, steps.now, target), remaining=max(0.0, remaining))
    if remaining <= 0:
        return put(base, place="reached", state="held", expected=0.0)
    if found is None:
        n = len(steps.gains)
        worse = f" (and {steps.back} changes for the worse)" if steps.back else ""
        raise TooFewError(
            f"{n or 'no'} effective optimization{'s' * (n != 1)} in {len(history.values)} measurements",
            where=history.label, why="from fewer than two nobody can tell how much the next will bring: any "
            f"probability would be made up{worse}",
            do="measure on; state with --gain what earlier ones brought; or --steps each, if every new best is one")
    process = found.process
    if process.arrivals is None and asked.by:
        raise InputError("no probability by a date", where=history.label, why="all measurements are of one date",
                         do="ask by number of effective optimizations: --within 3")
    if process.arrivals is not None:
        by_date, fan = _by_date(asked, process, remaining, found, history.dates[0], today)
        base = put(base, rate=process.arrivals.rate, by_date=by_date, fan=fan)
    return _ahead(base, asked, process, remaining)


def _ahead(base: Milestone, asked: Asked, process: Process, remaining: float) -> Milestone:
    """With what the process says by number of steps, and the verdict: by the least probability of what was asked."""
    if process.gains.spread < 1e-9 * abs(process.gains.typical):
        raise TooFewError("all gains are equal", where=base.series, why="from gains that do not vary nobody can tell "
                          "how much the next ones will", do="state gains as they were measured, not rounded")
    expected = process.expected(remaining)
    top = math.ceil(min(expected, 60.0))
    numbers = {*asked.within, top} | {round(n) for n in np.linspace(1, max(6, 2 * top), 6 if top < 4 else 8)}
    rows = tuple(BySteps(steps=n, probability=process.within(remaining, n), asked=n in asked.within)
                 for n in sorted(numbers))
    wanted = [x.probability for x in base.by_date if x.asked] + [x.probability for x in rows if x.asked]
    finite = math.isfinite(expected)
    return put(base, place="ahead", state=decided(min(wanted), asked.sure) if wanted else "stated", by_steps=rows,
               expected=expected if finite else None, gain=process.gains.typical, spread=process.gains.spread,
               confidence=process.within(remaining, math.ceil(expected - 1e-9)) if finite else None)


def typed(gains: Sequence[float], remaining: float, whole: float, asked: Asked, metric: str = "") -> Milestone:
    """A milestone from gains that somebody states, in points: Student's t, in closed form.

    remaining: points to go; whole: points of the whole way (progress is 1 - remaining / whole). Three gains of 12.15,
    13.33 and 14.52 points and 24 remaining: 1.8 expected, P(within 2) = 0.8285. InputError for what is not finite,
    gains of zero or less, and dates, which gains do not have; TooFewError for fewer than two gains.
    """
    if asked.by:
        raise InputError("no probability by a date", why="the gains have no dates",
                         do="give a history: a CSV of date,value")
    _check_rules(asked)
    if not (math.isfinite(remaining) and math.isfinite(whole)) or not 0 <= remaining <= whole or whole == 0:
        raise InputError(f"{remaining:g} of {whole:g} points remaining",
                         why="what remains is finite, not negative, and no more than the whole",
                         do="correct --remaining, or --of")
    if remaining > 0 and len(gains) < FEWEST:
        raise TooFewError(f"{len(gains)} effective optimization{'s' * (len(gains) != 1)} so far",
                          why="from fewer than two nobody can tell how much gains vary", do="give another --gain")
    base = Milestone(metric=metric, scale="points", method="student", remaining=remaining, state="held",
                     place="reached", progress=1 - remaining / whole, expected=0.0,
                     steps=tuple(Step(gain=float(g)) for g in gains))
    return base if remaining == 0 else _ahead(base, asked, Process(fit_gains(gains)), remaining)


def _by_date(asked: Asked, process: Process, remaining: float, found: Milestones, origin: datetime,
             today: datetime) -> tuple[tuple[ByDate, ...], Fan]:
    """Probabilities at the dates that were asked for and at some that suit, and the fan; days count from the end of
    what was watched."""
    end = origin + timedelta(days=found.steps.end)
    last = max(asked.by, default=None)
    span = max(math.ceil(_until(last, end)), 14) if last else _suiting(process, remaining)
    grid = {(end + timedelta(days=round(span * f))).date() for f in (0.125, 0.25, 0.5, 0.75, 1.0)} | set(asked.by)
    rows = tuple(ByDate(date=f"{d}", probability=process.by(remaining, max(0.0, _until(d, end))), asked=d in asked.by)
                 for d in sorted(grid) if d >= today.date())
    at = np.linspace(0, span * 1.05, 40).tolist()
    values = np.sort(found.fan(at, LEVELS), axis=0)
    return rows, Fan(dates=tuple(_day(end + timedelta(days=t)) for t in at), levels=LEVELS,
                     values=tuple(tuple(float(v) for v in row) for row in values))


def _until(day: date, start: datetime) -> float:
    return (datetime.combine(day, time.max, UTC) - start).total_seconds() / DAY


def _suiting(process: Process, remaining: float) -> int:
    """Days in which the milestone is as good as reached, from one month to ten years."""
    span = MONTH
    while span < 3650 and process.by(remaining, span) < 0.9:
        span *= 2
    return min(span, 3650)


def _told(history: History) -> tuple[Point, ...]:
    n = len(history.values)
    kept = sorted({int(i) for i in np.linspace(0, n - 1, min(n, SHOWN))})
    return tuple(Point(date=_day(history.dates[i]), value=float(history.values[i])) for i in kept)


def _notes(history: History, steps: Steps, today: datetime) -> list[Note]:
    out = [Note(code=f"steps {steps.how}", values={"n": str(len(steps.gains)), "count": str(steps.count)})]
    if steps.back:
        out.append(Note(code="back", values={"n": str(steps.back)}))
    if history.limit is None:
        out.append(Note(code="no limit"))
    age = (today - history.dates[-1]).days
    if age > MONTH:
        out.append(Note(code="old", values={"days": str(age)}))
    if 0 < len(steps.gains) < 5:
        out.append(Note(code="few", values={"n": str(len(steps.gains))}))
    return out


def _day(at: datetime) -> str:
    return at.date().isoformat()
