"""What a forecast is told as: plain data with a schema (`forecast-1.schema.json` beside this file; a test holds it
equal).

Values, targets and limits are in the metric's own unit (seconds, bytes, 1/s...), probabilities from 0 to 1.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.measure import contract

SCHEMA = 1
SCHEMA_FILE = f"forecast-{SCHEMA}.schema.json"

Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
State = Literal["held", "not held", "undecided", "stated"]


class _Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Note(_Record, frozen=True, kw_only=True):
    """A remark: a code that reports have words for, and the figures in it."""

    code: str
    values: dict[str, str] = {}


class Step(_Record, frozen=True, kw_only=True):
    """An effective optimization that was seen: its date (empty: not known), and its gain on the scale."""

    gain: Annotated[float, Meta(gt=0)]
    date: str = ""


class ByDate(_Record, frozen=True, kw_only=True):
    """P(reached by the end of that day)."""

    date: str
    probability: Probability
    asked: bool = False


class BySteps(_Record, frozen=True, kw_only=True):
    """P(reached within so many further effective optimizations)."""

    steps: Count
    probability: Probability
    asked: bool = False


class Point(_Record, frozen=True, kw_only=True):
    """A measurement of the history; of more than 500, evenly spaced ones are told."""

    date: str
    value: float


class Fan(_Record, frozen=True, kw_only=True):
    """Quantiles of the level on dates to come: a row of `values` for each of `levels`, rising with the value."""

    dates: tuple[str, ...]
    levels: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]


class Milestone(_Record, frozen=True, kw_only=True):
    """One target of one history.

    state: against `sure`, if a date or a number of steps was asked for; `stated` where none was. place: `ahead`,
    `reached`, or `beyond` the hardware's limit. base, now: the first and the last level; `remaining` on the scale
    (points, if it is typed in). expected: further effective optimizations if each brings the typical gain (null: more
    than 1,000); confidence: P(reached within so many, rounded up). method: which formula gave the figures.
    """

    metric: str
    state: State
    place: Literal["ahead", "reached", "beyond"]
    scale: Literal["log", "linear", "points"]
    method: Literal["student", "drawn"]
    unit: str = ""
    direction: Literal["lower", "higher", "share"] = "lower"
    target: float | None = None
    limit: float | None = None
    base: float | None = None
    now: float | None = None
    progress: float | None = None
    remaining: Annotated[float | None, Meta(description="null: more than the limit allows")] = None
    expected: float | None = None
    confidence: Probability | None = None
    gain: Annotated[float | None, Meta(description="of the typical step, on the scale")] = None
    spread: Annotated[float | None, Meta(description="standard deviation of gains; drawn: of their logarithms")] = None
    rate: Annotated[float | None, Meta(description="effective optimizations a day")] = None
    steps: tuple[Step, ...] = ()
    back: Annotated[int, Meta(ge=0, description="changes for the worse in the history")] = 0
    how: Literal["changes", "each", "typed"] = "typed"
    by_date: tuple[ByDate, ...] = ()
    by_steps: tuple[BySteps, ...] = ()
    fan: Fan | None = None
    history: tuple[Point, ...] = ()
    series: str = ""
    model: str = ""
    device: str = ""
    notes: tuple[Note, ...] = ()


class Requirement(_Record, frozen=True, kw_only=True):
    """What a model must keep: a metric, or `loss` (of accuracy, in the verdict's unit), below or above a limit."""

    metric: str
    limit: float
    below: bool = True


class Check(_Record, frozen=True, kw_only=True):
    """One requirement of one model. basis: `calls` of one run, three `runs` or more, the record's `interval`, the
    paired `verdict` on the accuracy, `exact` (a size); `no interval` and `missing` have no probability. n: how many
    independent ones."""

    metric: str
    limit: float
    below: bool = True
    basis: Literal["calls", "runs", "interval", "verdict", "exact", "no interval", "missing"]
    unit: str = ""
    value: float | None = None
    probability: Probability | None = None
    n: Count = 0
    passes: bool = False


class ModelReady(_Record, frozen=True, kw_only=True):
    """One model: P(it meets all that is required), null where a measurement lacks; `passes`: its figures alone do."""

    model: str
    probability: Probability | None
    passes: bool | None
    checks: tuple[Check, ...]
    device: str = ""


class Counted(_Record, frozen=True, kw_only=True):
    """A rule that counts models, labelled as policy: more than `share` must be ready. next: P(a further model like
    these is ready); probability: P(the share of such models is over `share`)."""

    ready: Count
    models: Annotated[int, Meta(ge=1)]
    share: Probability
    held: bool
    next: Probability
    probability: Probability


class Readiness(_Record, frozen=True, kw_only=True):
    """A set of models: P(more than `share` of them are ready), null where it is not known, and the rule beside it."""

    probability: Probability | None
    share: Probability
    models: tuple[ModelReady, ...] = ()
    policy: Counted | None = None
    state: State = "undecided"
    notes: tuple[Note, ...] = ()


class Forecast(_Record, frozen=True, kw_only=True):
    """Milestones and readiness. `sure`: the probability from which on something is taken for held, and from 1 - sure
    down for not held."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: str
    sure: Probability
    milestones: tuple[Milestone, ...] = ()
    readiness: Readiness | None = None

    @property
    def states(self) -> tuple[State, ...]:
        return (*(m.state for m in self.milestones), *([self.readiness.state] if self.readiness else []))

    @property
    def exit_code(self) -> int:
        """1 where something is not held, else 3 where something is undecided, else 0."""
        return 1 if "not held" in self.states else 3 if "undecided" in self.states else 0


def decided(probability: float | None, sure: float) -> State:
    """Held from `sure` on, not held from 1 - sure down, undecided between, and where there is no probability."""
    if probability is None:
        return "undecided"
    return "held" if probability >= sure else "not held" if probability <= 1 - sure + 1e-12 else "undecided"


def encode(found: Forecast) -> bytes:
    """The JSON document; `schema` is written always."""
    whole = {"schema": found.schema, **msgspec.to_builtins(found)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of forecasts, as packaged."""
    return contract.packaged("whet.decide.forecast", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet forecast {SCHEMA}", Forecast)


if __name__ == "__main__":  # python -m whet.decide.forecast.result > src/whet/decide/forecast/forecast-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
