"""What a gate is told as: plain data with a schema (`gate-1.schema.json` beside this file; a test holds it equal).

Times are in seconds, memory and sizes in bytes, throughput in samples per second, losses in the unit that they say.
"""

from __future__ import annotations

import json
import statistics
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from whet.errors import InputError
from whet.measure import contract

SCHEMA = 1
SCHEMA_FILE = f"gate-{SCHEMA}.schema.json"

Verdict = Literal["held", "not held", "undecided", "not measured"]
Goal = Literal["p99", "throughput", "memory", "max_drop", "plan_size"]
EXIT_CODES: dict[str, int] = {"held": 0, "not held": 1, "not measured": 2, "undecided": 3}
WORST = ("not held", "not measured", "undecided", "held")  # what a whole is called after: its worst part


class _Record(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Note(_Record, frozen=True, kw_only=True):
    """A remark: a code that reports have words for, and the figures in it."""

    code: str
    values: dict[str, str | int | float] = {}


class Objective(_Record, frozen=True, kw_only=True):
    """One objective: what was measured, with its 95 % interval (null: not bounded), against what was asked for.

    `loss` of accuracy has its one-sided upper bound in `high`. `judged` is what the verdict rests on: the interval, or
    the value alone where there is none.
    """

    goal: Goal
    limit: float
    unit: str
    state: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    judged: Literal["interval", "value", "nothing"] = "nothing"
    notes: tuple[Note, ...] = ()


class Point(_Record, frozen=True, kw_only=True):
    """An earlier value; `rejected`: of a run that a gate did not let through."""

    at: str
    value: float
    rejected: bool = False


class Step(_Record, frozen=True, kw_only=True):
    """A stretch of the history at one level: from a point's index on, `count` values."""

    start: int
    count: int
    level: float
    spread: float


class Trend(_Record, frozen=True, kw_only=True):
    """A metric against its own history; see `decide.gate.regression.Check`. Effects and spreads are relative.

    `points` are the last of the history, `steps` the levels found in those that were let through.
    """

    metric: str
    unit: str
    higher_is_worse: bool
    state: Literal["held", "regressed", "suspected", "undecided"]
    values: tuple[float, ...]
    count: int
    level: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    spread: float | None = None
    detectable: float | None = None
    since: str = ""
    points: tuple[Point, ...] = ()
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def value(self) -> float:
        """The median of the runs."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> Verdict:
        """As a part of the whole: what is only suspected is undecided."""
        return "held" if self.state == "held" else "not held" if self.state == "regressed" else "undecided"


class Case(_Record, frozen=True, kw_only=True):
    """One setting that was measured. `change` is of P99 (of the median, where there is no P99) against `against`: the
    level of the history, or the measurement before."""

    model: str
    sha256: str
    backend: str
    precision: str
    threads: int | None
    shapes: str
    device: str
    device_name: str
    load: str
    date: str
    runs: int
    state: Verdict
    p50: float | None = None
    p99: float | None = None
    throughput: float | None = None
    change: float | None = None
    against: Literal["history", "before", ""] = ""
    objectives: tuple[Objective, ...] = ()
    trends: tuple[Trend, ...] = ()
    notes: tuple[Note, ...] = ()


class Gate(_Record, frozen=True, kw_only=True):
    """The verdict on a measurement, with all that it rests on. `accepted` says why a new level is the one from here on:
    gates before it count no more."""

    schema: Annotated[int, Meta(ge=1)] = SCHEMA
    date: str
    state: Verdict
    min_effect: float
    alpha: float
    reruns: int
    cases: tuple[Case, ...]
    notes: tuple[Note, ...] = ()
    accepted: str = ""

    @property
    def exit_code(self) -> int:
        """0 held, 1 not held, 2 not measured, 3 undecided."""
        return EXIT_CODES[self.state]


def worst(states: list[Verdict]) -> Verdict:
    """The state of a whole; held where it has no part."""
    return next((s for s in WORST if s in states), "held")  # type: ignore[return-value]


def encode(gate: Gate) -> bytes:
    """As indented JSON. `schema` is written always."""
    return msgspec.json.format(msgspec.json.encode(body(gate)), indent=1) + b"\n"


def body(gate: Gate) -> dict[str, Any]:
    """As plain data."""
    return {"schema": gate.schema, **msgspec.to_builtins(gate)}


def short(gate: Gate) -> dict[str, Any]:
    """As plain data without the points of the history: what the store keeps, which has these already, and what is
    sent."""
    found = body(gate)
    for case in found["cases"]:
        for trend in case.get("trends", ()):
            trend.pop("points", None)
            trend.pop("steps", None)
    return found


def of_body(found: Any, where: str = "") -> Gate:
    """A gate from plain data. InputError if it is none, or a newer whet's."""
    newest = found.get("schema", 1) if isinstance(found, dict) else 1
    if isinstance(newest, int) and newest > SCHEMA:
        raise InputError("the gate is of a newer whet", where=where,
                         why=f"schema {newest}, this whet reads up to {SCHEMA}", do="update whet")
    try:
        return msgspec.convert(found, Gate)
    except (msgspec.ValidationError, TypeError, RecursionError) as e:
        raise InputError("not the record of a gate", where=where, why=str(e), do=f"see {SCHEMA_FILE}") from e


def schema() -> dict[str, Any]:
    """The JSON Schema of a gate, as packaged."""
    return contract.packaged("whet.decide.gate", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet gate {SCHEMA}", Gate)


if __name__ == "__main__":  # python -m whet.decide.gate.result > src/whet/decide/gate/gate-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
