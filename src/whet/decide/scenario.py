"""The scenario of a decision: load, objective, options with what is known of them, money; from YAML, JSON or TOML.

Names carry their units: seconds are `_ms` here, since people type them; money is in `currency`; rates are per second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from whet import data_file
from whet.errors import InputError

SCHEMA = 1
Z90 = 1.6448536269514722  # the 0.95 quantile of the normal distribution: P5 and P95 lie so far from the median

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"  # one line, so that it fits into a table
Positive = Annotated[float, Meta(gt=0)]
Least = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Percent = Annotated[float, Meta(gt=-100, le=1000)]


class _Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Spread(_Part, frozen=True, kw_only=True):
    """How uncertain a figure is: its 5th and 95th percentiles (of `uniform` and `triangular`: its ends).

    For `load`, `price` and `labour` they are factors of the figure given (0.8 and 1.3: 20 % less to 30 % more), for
    `growth` percent per month.
    """

    low: float
    high: float
    shape: Literal["lognormal", "normal", "uniform", "triangular"] = "normal"


class Uncertainty(_Part, frozen=True, kw_only=True):
    """What is uncertain. What is not named is taken as certain, and the report says so."""

    load: Spread | None = None
    growth: Spread | None = None
    price: Spread | None = None
    labour: Spread | None = None


class Load(_Part, frozen=True, kw_only=True):
    """Requests per second that the fleet must carry (`rate`, at the busy hour), and on average over a month.

    `cv` is the coefficient of variation of the gaps between bursty requests. `trace` is a file of arrival times in
    seconds, one a line.
    """

    rate: Positive
    mean_rate: Positive | None = None
    pattern: Literal["poisson", "bursty", "trace"] = "poisson"
    cv: Annotated[float, Meta(gt=0, le=20)] = 2.0
    trace: str = ""
    growth_percent_per_month: Percent = 0.0


class Objective(_Part, frozen=True, kw_only=True):
    """What the service promises: 99 of 100 requests within `p99_ms`, network included."""

    p99_ms: Positive


class Energy(_Part, frozen=True, kw_only=True):
    """Energy of one inference as measured, with what it was measured by (`RAPL`, `NVML`, a meter) and when."""

    joules_per_inference: Positive
    source: Annotated[str, Meta(min_length=1)]
    date: date


class Loss(_Part, frozen=True, kw_only=True):
    """Accuracy lost against the reference, in `unit`: the loss, its upper 95 % bound, the budget, the samples."""

    loss: float
    max_drop: Positive
    samples: Count
    upper: float | None = None
    metric: str = "top1"
    unit: Literal["points", "percent", ""] = "points"


class Option(_Part, frozen=True, kw_only=True):
    """One way to serve the model.

    How fast it is, best first: `measurements`, a file of records (relative to the scenario's) of which `select` takes
    those with these fields (`backend`, `precision`, `model`, `device`, `sha256`, `plan`), or `store:` and a
    measurement store (`store:` alone: the user's own); `batches`, mean milliseconds of each batch
    size, with the `spread` of their times; or `throughput`, requests per second of one busy instance, with `latency_ms`
    (mean) and `p99_ms` of the same run and the `concurrency` at which it ran.
    What it costs: `instance` in the table of prices (`aws/us-east-1/g4dn.xlarge`), or `price_per_hour`; what is bought:
    `purchase` per instance (`owned` are there already), `upkeep_per_month` per instance.
    `contexts` servers share an instance; without it, one, or where several counts were measured together, the one that
    does best and fits into `memory_gib`.
    What somebody says of it today, for the comparison alone: `instances`, `monthly_cost`, `utilization`.
    """

    name: Annotated[str, Meta(min_length=1, max_length=80, pattern=PRINTABLE)]
    measurements: str = ""
    select: dict[str, str] = {}
    batches: dict[str, Positive] = {}
    spread: Literal["deterministic", "exponential", ""] = ""
    throughput: Positive | None = None
    latency_ms: Positive | None = None
    p99_ms: Positive | None = None
    concurrency: Count | None = None
    instances: Count | None = None
    monthly_cost: Least | None = None
    utilization: Least | None = None
    device: str = ""
    precision: str = ""
    place: Literal["cloud", "edge", ""] = ""
    instance: str = ""
    price_per_hour: Least | None = None
    purchase: Least = 0.0
    owned: Annotated[int, Meta(ge=0)] | None = None
    upkeep_per_month: Least = 0.0
    fixed_per_month: Least = 0.0
    memory_gib: Positive | None = None
    context_gib: Positive | None = None
    contexts: Count | None = None
    max_batch: Count | None = None
    max_delay_ms: Least = 0.0
    network_ms: Least = 0.0
    egress_gb_per_thousand: Least = 0.0
    egress_price_per_gb: Least | None = None
    energy: Energy | None = None
    watts: Positive | None = None
    pays_energy: bool = False
    loss: Loss | None = None


class Labour(_Part, frozen=True, kw_only=True):
    """What the change costs in work: `cost`, or `hours` at `rate_per_hour`; and `upkeep_per_month` from then on."""

    cost: Least | None = None
    hours: Least | None = None
    rate_per_hour: Least | None = None
    upkeep_per_month: Least = 0.0

    @property
    def total(self) -> float:
        """The cost of the change; 0 only where that is what was given."""
        return self.cost if self.cost is not None else (self.hours or 0.0) * (self.rate_per_hour or 0.0)


class Electricity(_Part, frozen=True, kw_only=True):
    """Price of electricity, and how much carbon it carries: a `grid` of the table, or `grams_per_kwh` with `source`."""

    price_per_kwh: Least | None = None
    grid: str = ""
    grams_per_kwh: Least | None = None
    source: str = ""
    pue: Annotated[float, Meta(ge=1, le=5, description="energy of the whole site / of the machines")] = 1.0


class Gain(_Part, frozen=True, kw_only=True):
    """What the business is said to gain by the change (retention, conversion): somebody's estimate, never measured."""

    name: Annotated[str, Meta(min_length=1)]
    per_month: float
    source: str = ""


class Stated(_Part, frozen=True, kw_only=True):
    """Figures that somebody states of the change, to be checked: `ratio` is saving / labour, over `period_months`."""

    saving_per_month: float | None = None
    payback_months: Least | None = None
    ratio: float | None = None
    roi: float | None = None
    period_months: Positive | None = None


class Scenario(_Part, frozen=True, kw_only=True):
    """What `whet roi` decides on. `before` and `after` name options; further options are compared as well."""

    schema: Annotated[int, Meta(ge=1, le=SCHEMA)] = SCHEMA
    title: Annotated[str, Meta(max_length=200, pattern=PRINTABLE)] = "What the change returns"
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"
    load: Load
    objective: Objective
    options: Annotated[tuple[Option, ...], Meta(min_length=1, max_length=40)]
    before: str = ""
    after: str = ""
    labour: Labour | UnsetType = UNSET
    horizon_months: Annotated[int, Meta(ge=1, le=240)] = 12
    hours_per_month: Annotated[float, Meta(gt=0, le=744)] = 730.0
    discount_percent_per_year: Annotated[float, Meta(ge=0, le=200)] = 0.0
    spares: Annotated[int, Meta(ge=0, le=10_000)] = 0
    uncertainty: Uncertainty = Uncertainty()
    electricity: Electricity = Electricity()
    gains: tuple[Gain, ...] = ()
    stated: Stated = Stated()
    claims: tuple[str, ...] = ()
    prices: str = ""
    mixed_hardware: bool = False

    def option(self, name: str) -> Option:
        """The option of that name."""
        return next(o for o in self.options if o.name == name)


class Source:
    """A scenario with where it came from: errors and findings name the file and the line of a field."""

    def __init__(self, scenario: Scenario, origin: str = "", lines: Mapping[str, int] | None = None,
                 folder: Path = Path()) -> None:
        self.scenario, self.origin, self.folder = scenario, origin, folder
        self._lines = lines or {}

    def where(self, path: str) -> str:
        """`roi.yaml, line 12, options[0].throughput`."""
        line = data_file.line_of(self._lines, path)
        parts = [self.origin, f"line {line}" if line else "", path]
        return ", ".join(p for p in parts if p)

    def line(self, path: str) -> int | None:
        """The line of a field, or of what holds it."""
        return data_file.line_of(self._lines, path)


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Source:
    """The scenario of a file (by its ending: .yaml, .yml, .json, .toml), with `changes` by field (`load.rate`).

    InputError with the line if the file cannot be read, is not of its kind, breaks the schema, or contradicts itself.
    """
    document = data_file.load(path)
    return build(document.data, str(path), document.lines, path.parent, changes)


def build(data: Any, origin: str = "", lines: Mapping[str, int] | None = None, folder: Path = Path(),
          changes: Mapping[str, Any] | None = None) -> Source:
    """A scenario from plain dictionaries and lists, checked."""
    if not isinstance(data, dict):
        raise InputError("a scenario is a table of fields", where=origin, why=f"this is a {type(data).__name__}",
                         do="see docs/roi.md")
    for field, value in (changes or {}).items():
        data_file.put(data, field, value)
    try:
        scenario = msgspec.convert(data, Scenario)
    except (msgspec.ValidationError, RecursionError) as e:
        raise _broken(str(e), origin, lines or {}) from e
    source = Source(scenario, origin, lines, folder)
    for field, number in _numbers(msgspec.to_builtins(scenario)):
        if not math.isfinite(number):
            raise InputError("a figure is not a finite number", where=source.where(field), why=str(number),
                             do="give a number, or leave the field out")
    _check(source)
    return source


def _broken(message: str, origin: str, lines: Mapping[str, int]) -> InputError:
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    source = Source.__new__(Source)
    source.origin, source._lines = origin, lines
    unknown = re.search(r"unknown field `(\w+)`", what)
    missing = re.search(r"missing required field `(\w+)`", what)
    if unknown:
        at = f"{path}.{unknown[1]}".lstrip(".")
        return InputError(f"no field is named {unknown[1]!r}", where=source.where(at),
                          do="check the spelling; docs/roi.md lists the fields")
    if missing:
        at = f"{path}.{missing[1]}".lstrip(".")
        return InputError(f"{at} is missing", where=source.where(path or at), why=_NEEDED.get(at, ""),
                          do=f"give {at}")
    return InputError("a field of the scenario does not fit", where=source.where(path), why=what,
                      do="docs/roi.md lists the fields and their units")


_NEEDED = {
    "objective": "without a limit on P99 no fleet can be sized: mean throughput does not say how long requests wait",
    "objective.p99_ms": "without a limit on P99 no fleet can be sized",
    "load": "without requests per second no fleet can be sized",
    "load.rate": "without requests per second no fleet can be sized",
}


def _numbers(data: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(data, float):
        yield path, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, f"{path}.{key}".lstrip("."))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _numbers(value, f"{path}[{i}]")


def _check(source: Source) -> None:
    """What types cannot say: names that exist, ends in order, figures that exclude each other."""
    s = source.scenario
    names = [o.name for o in s.options]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InputError(f"two options are named {name!r}", where=source.where(f"options[{i}].name"),
                             do="give each a name of its own")
    for field in ("before", "after"):
        name = getattr(s, field)
        if name and name not in names:
            raise InputError(f"no option is named {name!r}", where=source.where(field),
                             why=f"there are {', '.join(names)}", do="name one of them")
    if s.before and s.before == s.after:
        raise InputError("before and after are the same option", where=source.where("after"), do="name two options")
    if bool(s.before) != bool(s.after):
        raise InputError("before and after go together", where=source.where("before" if s.before else "after"),
                         do="name both options, or neither to compare costs alone")
    if s.after and s.labour is UNSET:
        raise InputError("labour is missing", where=source.origin, why="a return is counted on what the change costs",
                         do="give labour.cost (0 if it costs nothing)")
    if isinstance(s.labour, Labour):
        given = s.labour.hours is not None or s.labour.rate_per_hour is not None
        if (s.labour.cost is not None) == given or (s.labour.hours is None) != (s.labour.rate_per_hour is None):
            raise InputError("labour is a cost, or hours and rate_per_hour", where=source.where("labour"),
                             do="give one of the two ways, whole")
    if s.load.mean_rate is not None and s.load.mean_rate > s.load.rate:
        raise InputError("the mean rate is above the rate of the busy hour", where=source.where("load.mean_rate"),
                         why=f"{s.load.mean_rate:g} against {s.load.rate:g} per second", do="exchange or correct them")
    if (s.load.pattern == "trace") != bool(s.load.trace):
        raise InputError("a trace needs its file, and a file needs the pattern trace", where=source.where("load"),
                         do="give load.pattern: trace and load.trace: FILE")
    for field in ("load", "growth", "price", "labour"):
        spread = getattr(s.uncertainty, field)
        if spread is not None:
            _check_spread(source, field, spread)
    e = s.electricity
    if e.grid and e.grams_per_kwh is not None:
        raise InputError("a grid and grams_per_kwh exclude each other", where=source.where("electricity"),
                         do="give one of them")
    if e.grams_per_kwh is not None and not e.source:
        raise InputError("grams_per_kwh needs its source", where=source.where("electricity.grams_per_kwh"),
                         do="give electricity.source: who says so, and of which year")
    for i, o in enumerate(s.options):
        _check_option(source, o, f"options[{i}]")


def _check_spread(source: Source, field: str, spread: Spread) -> None:
    where = source.where(f"uncertainty.{field}")
    if spread.low > spread.high:
        raise InputError("the low end is above the high end", where=where, why=f"{spread.low:g} > {spread.high:g}",
                         do="exchange them")
    if field == "growth":
        if spread.low <= -100 or spread.shape == "lognormal":
            raise InputError("growth is percent per month, above -100, of any shape but lognormal", where=where,
                             why=f"{spread.low:g} to {spread.high:g} {spread.shape}")
    elif spread.low <= 0 or not spread.low <= 1 <= spread.high:
        raise InputError(f"the ends of {field} are factors of the figure that is given", where=where,
                         why=f"1 does not lie within {spread.low:g} to {spread.high:g}, or an end is not positive",
                         do="0.8 and 1.3 say: 20 % less to 30 % more")


def _check_option(source: Source, o: Option, path: str) -> None:
    ways = [w for w, given in (("measurements", o.measurements), ("batches", o.batches),
                               ("throughput", o.throughput is not None)) if given]
    if len(ways) > 1:
        raise InputError(f"the speed of {o.name!r} is given in {len(ways)} ways", where=source.where(path),
                         why=" and ".join(ways), do="keep one: what was measured")
    for size in o.batches:
        if not size.isdecimal() or int(size) < 1:
            raise InputError("batch sizes are whole numbers from 1", where=source.where(f"{path}.batches"), why=size)
    if o.instance and o.price_per_hour is not None:
        raise InputError(f"{o.name!r} has a price and an instance of the table", where=source.where(path),
                         do="give price_per_hour, or instance: not both")
    if o.energy is not None and o.watts is not None:
        raise InputError(f"{o.name!r} has measured energy and watts", where=source.where(path),
                         do="keep what was measured")
    if o.egress_gb_per_thousand and o.egress_price_per_gb is None:
        raise InputError(f"{o.name!r} sends data that have no price", where=source.where(path),
                         do="give egress_price_per_gb")
    if o.p99_ms is not None and o.latency_ms is not None and o.p99_ms < o.latency_ms / 100:
        raise InputError("the P99 is below a hundredth of the mean, which cannot be", where=source.where(path),
                         why=f"P99 {o.p99_ms:g} ms, mean {o.latency_ms:g} ms", do="check the units")
