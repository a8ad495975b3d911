"""Is the change worth it? Fleets under the objective, their cost, what comes back and how sure that is.

    scenario -> speed of each option -> fleets -> costs -> cash flows -> draws -> verdict, answers, findings

Cost a month = devices * (price * hours + upkeep) + fixed + energy + egress. Fleets come from queueing
(`whet.decide.fleet`), never from mean throughput.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import whet
from whet.decide import claims, energy, prices, questions, returns
from whet.decide.arrivals import Arrivals
from whet.decide.prices import STALE_DAYS
from whet.decide.result import AsStated, Finding, Option, Power, Result, Tried, Used, Verdict
from whet.decide.returns import Priced
from whet.decide.scenario import Labour, Scenario, Source
from whet.decide.scenario import Option as Given
from whet.decide.speed import Fleets, Loader, Progress, Speed, from_file, speed
from whet.decide.words import Say
from whet.errors import InputError, UnreachableError
from whet.measure.record import now

DRAWS = 10_000
SURE = 0.95  # the share of draws from which on something is said without doubt
CHARTED = 6  # fleets around the chosen one, for the chart of P99 against cost


@dataclass(frozen=True)
class Settings:
    """How to evaluate: draws and their seed, a file of prices before the scenario's, today and the days after which a
    price is stale, whether to count gains, where records come from, and the requests of each simulated fleet (None: as
    many as each needs)."""

    draws: int = DRAWS
    seed: int = 0
    prices: Path | None = None
    today: datetime.date | None = None
    stale_days: int = STALE_DAYS
    gains: bool = False
    load: Loader = from_file
    requests: int | None = None
    progress: Progress | None = None


def evaluate(source: Source, settings: Settings = Settings()) -> Result:
    """Answer a scenario.

    InputError where figures are missing, impossible or contradict each other: nothing is guessed. What is known too
    little of makes the verdict `undecided`, with what to measure. Seeded: the same scenario gives the same result.
    """
    s = source.scenario
    if settings.gains and not s.gains:
        raise InputError("the scenario has no gains", where=source.origin, do="give gains: name, per_month, source")
    if not 100 <= settings.draws <= 1_000_000:
        raise InputError(f"{settings.draws} draws", why="100 to 1,000,000 are drawn", do="see --draws")
    today = settings.today or datetime.date.today()
    speeds = [speed(source, i, settings.load) for i in range(len(s.options))]
    found = claims.lint(source, speeds)
    impossible = next((f for f in found if f.severity == "error" and f.code in claims.REFUSED), None)
    if impossible is not None:
        raise InputError(impossible.say.text(), where=impossible.where, why=f"{impossible.code}: figures that are "
                         "computed with cannot be", do="measure it again, or correct the figure; whet roi --lint lists "
                         "all findings")
    table = prices.table(_own_prices(source, settings.prices))
    priced = [_priced(source, i, speeds[i], table, today, settings) for i in range(len(s.options))]
    outcome = returns.evaluate(s, priced, settings.draws, settings.seed) if s.after else None
    options = tuple(p.option for p in priced)
    found += _price_findings(options) + _hardware_findings(s, speeds)
    verdict, reasons = _verdict(s, priced, outcome)
    return Result(
        date=now(), whet=whet.__version__, title=s.title, currency=s.currency, rate=s.load.rate,
        mean_rate=s.load.mean_rate or s.load.rate, growth=s.load.growth_percent_per_month,
        objective=s.objective.p99_ms / 1e3, horizon=s.horizon_months, hours=s.hours_per_month,
        discount=s.discount_percent_per_year, labour=s.labour.total if isinstance(s.labour, Labour) else 0.0,
        verdict=verdict, reasons=reasons, before=s.before, after=s.after, options=options, returned=outcome,
        stated=_as_stated(source, table), answers=questions.answer(s, priced, settings.draws, settings.seed),
        gains=returns.with_gains(s, outcome) if settings.gains and outcome else None, findings=tuple(found),
        seed=settings.seed)


def _own_prices(source: Source, given: Path | None) -> Path | None:
    if given is not None:
        return given
    return source.folder / source.scenario.prices if source.scenario.prices else None


def arrivals(source: Source) -> Arrivals:
    """The load of a scenario."""
    load = source.scenario.load
    if load.pattern == "trace":
        path = source.folder / load.trace
        try:
            times = np.loadtxt(path, dtype=np.float64, ndmin=1)
        except (OSError, ValueError) as e:
            raise InputError("the trace cannot be read", where=str(path), why=str(e),
                             do="a trace has one arrival time in seconds a line") from e
        trace = Arrivals.trace(times, str(path))
        return trace.scaled(load.rate / trace.rate)
    return Arrivals.poisson(load.rate) if load.pattern == "poisson" else Arrivals.bursty(load.rate, load.cv)


def hourly(source: Source, index: int, table: prices.Prices, today: datetime.date,
           stale_days: int = STALE_DAYS) -> tuple[float, Used | None]:
    """The price of an option's machine per hour, and the row of the table that it is from.

    InputError where no price is known, or where it is in another currency.
    """
    o, s = source.scenario.options[index], source.scenario
    where = source.where(f"options[{index}]")
    if not o.instance:
        if o.price_per_hour is None and not o.purchase:
            raise InputError(f"what {o.name!r} costs is not known", where=where,
                             do="give price_per_hour, instance (PROVIDER/REGION/INSTANCE of the table of prices), or "
                                "purchase")
        return o.price_per_hour or 0.0, None
    row = table.find(o.instance, source.where(f"options[{index}].instance"))
    if row.currency != s.currency:
        raise InputError(f"the price of {row.key} is in {row.currency}, the scenario in {s.currency}", where=where,
                         why="whet knows no rates of exchange", do=f"give price_per_hour in {s.currency}")
    return row.price_per_hour, Used(
        key=row.key, price_per_hour=row.price_per_hour, currency=row.currency, as_of=row.as_of, days=row.days(today),
        stale=row.stale(today, stale_days), url=row.url, official=row.official)


def _priced(source: Source, index: int, known: Speed, table: prices.Prices, today: datetime.date,
            settings: Settings) -> Priced:
    s, o = source.scenario, source.scenario.options[index]
    price, used = hourly(source, index, table, today, settings.stale_days)
    row = table.find(o.instance) if o.instance else None
    memory = _memory(o, row)
    _check_memory(source, index, known, memory)
    device = o.device or (row.gpu if row else "") or known.device
    watts, power = _power(s, o, device, row.gpus if row else 0)
    facts = Option(name=o.name, price_per_hour=price, contexts=known.service.contexts, basis=known.basis,
                   origin=known.service.origin, device=device, precision=known.precision, place=o.place,
                   samples=known.samples, batch=o.max_batch or 1,
                   price=used, lacking=known.lacking + _too_slow(o, s), purchase=o.purchase)
    try:
        fleets = Fleets(o, known, arrivals(source), s.objective.p99_ms / 1e3, s.spares, settings.seed,
                        settings.requests, settings.progress, memory)
    except UnreachableError as e:
        return Priced(o, known, None, price, watts, _replace(facts, unreachable=f"{e.what}: {e.why}"), s)
    fleet = fleets.base
    made = Priced(o, known, fleets, price, watts, facts, s)
    costs = made.costs(fleet.devices)
    thousand = (s.load.mean_rate or s.load.rate) * 3600 * s.hours_per_month / 1000
    kwh = made.kwh(fleet.devices) if watts is not None or o.energy is not None else None
    carbon = _grams(source)
    if kwh is not None and carbon is not None:
        power = _replace(power, kwh=kwh, kg_co2=kwh * carbon[0] / 1000, grid=carbon[1])
    elif kwh is not None:
        power = _replace(power, kwh=kwh)
    away = known.elsewhere
    shown = _replace(facts, contexts=fleets.service.contexts, origin=fleets.service.origin, servers=fleet.servers,
                     devices=fleet.devices, stable=fleet.stable,
                     utilization=fleet.chosen.load, p99=fleet.chosen.p99.value + away,
                     p99_low=fleet.chosen.p99.low + away, p99_high=fleet.chosen.p99.high + away, costs=costs,
                     cost=costs.total, cost_per_thousand=costs.total / thousand, power=power,
                     tried=_tried(made, fleets))
    return Priced(o, known, fleets, price, watts, shown, s)


def _replace(part, **fields):  # type: ignore[no-untyped-def]
    from msgspec import structs

    return structs.replace(part, **fields)


def _tried(priced: Priced, fleets: Fleets) -> tuple[Tried, ...]:
    """Fleets around the chosen one, for the chart: P99 and what they would cost."""
    base, known, out = fleets.base, fleets.known, []
    for run in fleets.around(CHARTED):
        devices = math.ceil(run.servers / fleets.service.contexts) + base.spares
        out.append(Tried(servers=run.servers, devices=devices, p99=run.p99.value + known.elsewhere,
                         low=run.p99.low + known.elsewhere, high=run.p99.high + known.elsewhere,
                         cost=priced.costs(devices).total))
    return tuple(out)


def _too_slow(o: Given, s: Scenario) -> tuple[Say, ...]:
    """A stated P99 beyond the objective: what that service would be in a larger fleet, nobody has measured."""
    if o.p99_ms is not None and not o.measurements and o.p99_ms > s.objective.p99_ms:
        return (Say("stated-p99-over", {"option": o.name, "p99": o.p99_ms, "objective": s.objective.p99_ms}),)
    return ()


def _memory(o: Given, row: prices.Price | None) -> int | None:
    """Bytes of a device: as given, else those of the table (of a GPU where there is one)."""
    gib = o.memory_gib or (row.gpu_memory_gib * row.gpus if row and row.gpus else row.memory_gib if row else None)
    return round(gib * 2 ** 30) if gib else None


def _check_memory(source: Source, index: int, known: Speed, memory: int | None) -> None:
    """Contexts that share a device must fit into its memory. Where several counts were measured, `pack` sees to it."""
    o, contexts, need = source.scenario.options[index], known.service.contexts, known.service.memory_bytes
    if memory and need and contexts * need > memory and not known.choices:
        raise InputError(f"{contexts} contexts of {o.name!r} do not fit into its memory",
                         where=source.where(f"options[{index}].contexts"),
                         why=f"{contexts} x {need / 2 ** 30:.3g} GiB against {memory / 2 ** 30:g} GiB",
                         do=f"at most {memory // need} fit")


def _power(s: Scenario, o: Given, device: str, gpus: int) -> tuple[float | None, Power]:
    """Watts of a machine (None where energy per inference was measured, or nothing is known), and how that is known."""
    if o.energy is not None:
        return None, Power(basis="measured", source=f"{o.energy.source}, {o.energy.date}")
    if o.watts is not None:
        return o.watts, Power(basis="typed in", source=f"{o.watts:g} W")
    row = energy.device(device) if device else None
    if row is not None:
        count = max(1, gpus)
        return row.watts * count, Power(basis="table", source=f"{count} x {row.name}: {row.watts:g} W, {row.source}")
    if o.pays_energy and s.electricity.price_per_kwh:
        raise InputError(f"{o.name!r} pays for energy that nobody knows", why=f"no watts of {device or 'its device'}",
                         do="measure it (whet roi --energy MODEL), or give watts")
    return None, Power()


def _grams(source: Source) -> tuple[float, str] | None:
    e = source.scenario.electricity
    if e.grid:
        row = energy.grid(e.grid, source.where("electricity.grid"))
        return row.grams_per_kwh, f"{row.name} {row.year}, {row.source}"
    return (e.grams_per_kwh, e.source) if e.grams_per_kwh is not None else None


def _as_stated(source: Source, table: prices.Prices) -> AsStated | None:
    """ROI = (original cost - optimized cost) / labour, on the fleets that somebody states."""
    s = source.scenario
    if not s.after or not isinstance(s.labour, Labour):
        return None
    before, after = s.option(s.before), s.option(s.after)
    if before.instances is None or after.instances is None:
        return None
    prices_of = [hourly(source, i, table, datetime.date.today())[0] for i in range(len(s.options))]
    by_name = dict(zip((o.name for o in s.options), prices_of))
    saving = sum(sign * (o.instances or 0) * by_name[o.name] * s.hours_per_month
                 for sign, o in ((1, before), (-1, after)))
    labour = s.labour.total
    return AsStated(before=before.instances, after=after.instances, saving=saving,
                    ratio=saving / labour if labour else None, payback=labour / saving if saving > 0 else None,
                    roi=(saving * s.horizon_months - labour) / labour if labour else None)


def _price_findings(options: Sequence[Option]) -> list[Finding]:
    used = {o.price.key: o.price for o in options if o.price is not None}
    return [Finding(code="C201", severity="warning", say=Say(
        "stale-price", {"key": p.key, "price": p.price_per_hour, "currency": p.currency, "as_of": p.as_of.isoformat(),
                        "days": p.days, "url": p.official or p.url})) for p in used.values() if p.stale]


def _hardware_findings(s: Scenario, speeds: Sequence[Speed]) -> list[Finding]:
    """Options that were measured on other hardware than they are said to run on, where that was allowed."""
    out = []
    for o, known in zip(s.options, speeds):
        if o.device and known.records:
            first = known.records[0].device
            measured = first.gpus[0].name if first.gpus else first.name
            if o.device.lower() not in measured.lower():
                out.append(Finding(code="C202", severity="warning", say=Say(
                    "other-hardware", {"option": o.name, "device": o.device, "measured": measured})))
    return out


def _verdict(s: Scenario, priced: Sequence[Priced], outcome: returns.Return | None) -> tuple[Verdict, tuple[Say, ...]]:
    """Pays, does not pay, or undecided; and why."""
    lacking = tuple(say for p in priced if p.option.name in (s.before, s.after) or not s.after
                    for say in p.option.lacking)
    if not s.after:
        return ("undecided", lacking) if lacking else ("compared", ())
    by_name = {p.option.name: p for p in priced}
    for name, verdict in ((s.after, "does not pay"), (s.before, "undecided")):
        if by_name[name].fleets is None:
            say = Say("after-unreachable" if name == s.after else "before-unreachable",
                      {"option": name, "why": by_name[name].option.unreachable})
            return verdict, (say, *lacking)  # type: ignore[return-value]
    if lacking:
        return "undecided", lacking
    assert outcome is not None
    if outcome.intervals is None:
        code = "pays-as-given" if outcome.npv >= 0 else "never-as-given"
        return ("pays" if outcome.npv >= 0 else "does not pay"), (Say(code, {"months": s.horizon_months}),)
    share = outcome.intervals.worth
    values = {"share": share, "months": s.horizon_months, "back": outcome.intervals.paid_back}
    if share >= SURE:
        return "pays", (Say("pays-sure", values),)
    if share <= 1 - SURE:
        return "does not pay", (Say("never-sure", values),)
    return "undecided", (Say("pays-maybe", values),)
