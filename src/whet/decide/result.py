"""What `whet roi` found: figures with where they come from, answers, and what is not known. JSON with a schema."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, Literal

import msgspec
from msgspec import Struct

from whet.decide.words import Say
from whet.measure import contract

SCHEMA = 1
SCHEMA_FILE = f"roi-{SCHEMA}.schema.json"

Verdict = Literal["pays", "does not pay", "undecided", "compared"]
EXIT_CODES: dict[Verdict, int] = {"pays": 0, "does not pay": 1, "undecided": 3, "compared": 0}
State = Literal["yes", "no", "undecided", "not known"]


class _Row(Struct, frozen=True, kw_only=True):
    pass


class Used(_Row, frozen=True, kw_only=True):
    """A price of the table that was used, how many days old it is, what it was read from, and where to check it."""

    key: str
    price_per_hour: float
    currency: str
    as_of: date
    days: int
    stale: bool
    url: str
    official: str = ""


class Tried(_Row, frozen=True, kw_only=True):
    """A fleet that was simulated: servers, devices with spares, P99 seconds with its 95 % interval, cost a month."""

    servers: int
    devices: int
    p99: float
    low: float
    high: float
    cost: float


class Costs(_Row, frozen=True, kw_only=True):
    """Money a month, by what it is for."""

    machines: float
    upkeep: float
    energy: float
    egress: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.machines + self.upkeep + self.energy + self.egress


class Power(_Row, frozen=True, kw_only=True):
    """Energy and carbon a month. `basis`: measured, typed in, or the table's nominal power; None: not known."""

    basis: Literal["measured", "typed in", "table"] | None = None
    source: str = ""
    kwh: float | None = None
    kg_co2: float | None = None
    grid: str = ""


class Option(_Row, frozen=True, kw_only=True):
    """An option at the load that is given. Times are in seconds, network included; money per month.

    `basis`: whether its speed was measured or typed in; `samples`: the fewest calls that a batch size was timed by.
    `servers`: the least that keep the objective; `devices`: machines that are paid, spares included, with `contexts`
    servers each; `stable`: the least servers that keep up at all. `unreachable`: why no fleet meets the objective (then
    there is no fleet and no cost).
    """

    name: str
    basis: Literal["measured", "typed in"]
    origin: str
    device: str = ""
    precision: str = ""
    place: str = ""
    samples: int | None = None
    servers: int | None = None
    devices: int | None = None
    stable: int | None = None
    utilization: float | None = None
    p99: float | None = None
    p99_low: float | None = None
    p99_high: float | None = None
    batch: int = 1
    contexts: int = 1
    price_per_hour: float = 0.0
    costs: Costs | None = None
    cost: float | None = None
    cost_per_thousand: float | None = None
    purchase: float = 0.0
    power: Power = Power()
    price: Used | None = None
    tried: tuple[Tried, ...] = ()
    unreachable: str = ""
    lacking: tuple[Say, ...] = ()


class Interval(_Row, frozen=True, kw_only=True):
    """The 5th, 50th and 95th percentile of draws; None stands for never."""

    p5: float | None
    p50: float | None
    p95: float | None


class Intervals(_Row, frozen=True, kw_only=True):
    """What draws of the uncertain figures gave: intervals, the share in which the investment is back in the horizon,
    the share in which the NPV is not negative; `fan`: percentiles 5, 25, 50, 75, 95 of the money by each month."""

    draws: int
    seed: int
    varied: tuple[str, ...]
    saving: Interval
    payback: Interval
    npv: Interval
    roi: Interval
    paid_back: float
    worth: float
    fan: tuple[tuple[float, ...], ...]


class Sway(_Row, frozen=True, kw_only=True):
    """What a figure does to the net present value: its low and high value (as factors, or as they are), and the NPV
    at each. `assumed`: the range is 20 % to both sides, for want of a stated one."""

    name: str
    low: float
    high: float
    npv_low: float
    npv_high: float
    assumed: bool


class Return(_Row, frozen=True, kw_only=True):
    """What the change returns. `ratio` is the saving of a month over the labour; `payback` in months, None: not within
    the horizon; `roi` over the horizon, not discounted, None where nothing is invested; `flows`: at once, then months.
    """

    saving: float
    investment: float
    ratio: float | None
    payback: float | None
    npv: float
    roi: float | None
    flows: tuple[float, ...]
    intervals: Intervals | None = None
    tornado: tuple[Sway, ...] = ()


class AsStated(_Row, frozen=True, kw_only=True):
    """The same arithmetic on the fleets that somebody states, whether or not they can carry the load."""

    before: int
    after: int
    saving: float
    ratio: float | None
    payback: float | None
    roi: float | None


class WithGains(_Row, frozen=True, kw_only=True):
    """The return if the business gains what somebody estimates: never part of any other figure."""

    per_month: float
    payback: float | None
    npv: float
    roi: float | None
    gains: tuple[tuple[str, float, str], ...]


class Row(_Row, frozen=True, kw_only=True):
    """An option as an answer compares it."""

    option: str
    devices: int | None
    cost: float | None
    p99: float | None
    cheaper: float | None = None


class Answer(_Row, frozen=True, kw_only=True):
    """One of the four questions. `confidence`: the share of draws in which the answer holds, None: not known."""

    question: Literal["gpu", "int8", "edge", "batch"]
    state: State
    choice: str = ""
    says: tuple[Say, ...] = ()
    rows: tuple[Row, ...] = ()
    confidence: float | None = None


class Finding(_Row, frozen=True, kw_only=True):
    """What the linter says: code, severity, the field and its line, and the sentence."""

    code: str
    severity: Literal["error", "warning", "note"]
    say: Say
    where: str = ""


class Result(_Row, frozen=True, kw_only=True):
    """All of it. Money is in `currency`."""

    schema: int = SCHEMA
    date: str
    whet: str
    title: str
    currency: str
    rate: float
    mean_rate: float
    growth: float
    objective: float
    horizon: int
    hours: float
    discount: float
    labour: float
    verdict: Verdict
    reasons: tuple[Say, ...]
    before: str = ""
    after: str = ""
    options: tuple[Option, ...]
    returned: Return | None = None
    stated: AsStated | None = None
    gains: WithGains | None = None
    answers: tuple[Answer, ...] = ()
    findings: tuple[Finding, ...] = ()
    seed: int = 0

    @property
    def exit_code(self) -> int:
        """0 pays (or costs were compared), 1 does not pay, 3 undecided."""
        return EXIT_CODES[self.verdict]

    def option(self, name: str) -> Option:
        """The option of that name."""
        return next(o for o in self.options if o.name == name)

    def encode(self) -> bytes:
        """JSON that keeps the schema."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a result, as packaged."""
    return contract.packaged("whet.decide", SCHEMA_FILE)


def generate_schema() -> dict[str, Any]:
    """The JSON Schema that the types say; what is packaged must equal it."""
    return contract.generated(f"whet roi {SCHEMA}", Result)


if __name__ == "__main__":  # python -m whet.decide.result > src/whet/decide/roi-1.schema.json
    print(json.dumps(generate_schema(), indent=1))
