"""Cash flows of a change: as given, in draws of what is uncertain, and with one figure moved at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.decide import money
from whet.decide.energy import JOULES_PER_KWH
from whet.decide.result import Costs, Interval, Intervals, Option, Return, Sway, WithGains
from whet.decide.scenario import Z90, Labour, Scenario, Spread
from whet.decide.scenario import Option as Given
from whet.decide.speed import Fleets, Speed

ASSUMED = 0.2  # to both sides of a figure whose range nobody states, for the tornado alone


@dataclass(frozen=True)
class Priced:
    """An option with its fleets, the price of a machine per hour and its watts. `fleets` is None where none meets the
    objective."""

    given: Given
    known: Speed
    fleets: Fleets | None
    price: float
    watts: float | None
    option: Option
    scenario: Scenario

    def costs(self, devices: int) -> Costs:
        """What so many devices cost a month at the load that is given."""
        o, s = self.given, self.scenario
        power = s.electricity.price_per_kwh or 0.0
        return Costs(machines=devices * self.price * s.hours_per_month,
                     upkeep=devices * o.upkeep_per_month + o.fixed_per_month,
                     energy=self.kwh(devices) * power if o.pays_energy else 0.0,
                     egress=self._thousands(1.0) * o.egress_gb_per_thousand * (o.egress_price_per_gb or 0.0))

    def kwh(self, devices: float, factor: float = 1.0) -> float:
        """Energy a month, at `factor` times the load: measured per inference, else watts around the clock."""
        s = self.scenario
        if self.given.energy is not None:
            joules = self.given.energy.joules_per_inference * self._thousands(factor) * 1000
            return joules / JOULES_PER_KWH * s.electricity.pue
        return devices * (self.watts or 0.0) * s.hours_per_month / 1000 * s.electricity.pue

    def _thousands(self, factor: float) -> float:
        s = self.scenario
        return factor * (s.load.mean_rate or s.load.rate) * 3600 * s.hours_per_month / 1000

    def flows(self, factors: np.ndarray, price: np.ndarray | float = 1.0) -> np.ndarray:
        """What is paid at once and each month, [..., months + 1], for loads [..., months] times the given one and
        `price` [...] times the price."""
        assert self.fleets is not None
        o, s = self.given, self.scenario
        devices = self.fleets.devices(factors)
        factor = np.asarray(price, dtype=np.float64)[..., None]
        monthly = devices * (self.price * s.hours_per_month * factor + o.upkeep_per_month) + o.fixed_per_month
        if o.pays_energy:
            used = self.kwh(1.0) * (factors if o.energy is not None else devices)
            monthly = monthly + used * (s.electricity.price_per_kwh or 0.0)
        monthly = monthly + self._thousands(1.0) * factors * o.egress_gb_per_thousand * (o.egress_price_per_gb or 0.0)
        if not o.purchase:
            at_once = np.zeros((*monthly.shape[:-1], 1))
            return np.concatenate([at_once, monthly], axis=-1)
        owned = o.owned
        if owned is None:  # what runs today is there already
            owned = self.fleets.base.devices if o.name == s.before else 0
        paid = np.concatenate([np.zeros((*monthly.shape[:-1], 1)), monthly], axis=-1)
        return paid + money.purchases(devices, np.full(devices.shape[:-1], float(owned))) * o.purchase * factor


@dataclass(frozen=True)
class Figures:
    """The uncertain figures of one or many worlds: load, price and labour as factors, growth a month as a fraction."""

    load: np.ndarray
    growth: np.ndarray
    labour: np.ndarray
    prices: Mapping[str, np.ndarray]

    def loads(self, months: int) -> np.ndarray:
        """The load of each month as a factor of the given one, [..., months]."""
        return self.load[..., None] * (1 + self.growth[..., None]) ** np.arange(months)


def as_given(s: Scenario, names: Sequence[str]) -> Figures:
    """The figures as they are given."""
    one = np.ones(())
    return Figures(one, np.array(s.load.growth_percent_per_month / 100), one, dict.fromkeys(names, one))


def draw(s: Scenario, names: Sequence[str], draws: int, seed: int) -> Figures:
    """Draws of what is uncertain; the rest as given. Each figure has a stream of its own, so that one more uncertain
    figure does not change the others; each option's price is drawn for itself."""
    u = s.uncertainty

    def sampled(spread: Spread | None, base: float, stream: int) -> np.ndarray:
        if spread is None:
            return np.full(draws, base)
        return sample(spread, np.random.default_rng((seed, stream)), draws)

    return Figures(np.maximum(sampled(u.load, 1.0, 0), 1e-3),
                   np.maximum(sampled(u.growth, s.load.growth_percent_per_month, 1) / 100, -0.99),
                   np.maximum(sampled(u.labour, 1.0, 2), 0.0),
                   {name: np.maximum(sampled(u.price, 1.0, 3 + i), 0.0) for i, name in enumerate(names)})


def sample(spread: Spread, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws of a spread; of normal and lognormal shapes, 5 % lie under `low` and 5 % over `high`."""
    low, high = spread.low, spread.high
    if spread.shape == "uniform":
        return rng.uniform(low, high, count)
    if low == high:
        return np.full(count, low)
    if spread.shape == "triangular":
        return rng.triangular(low, (low + high) / 2, high, count)
    if spread.shape == "lognormal":
        middle, width = (math.log(low) + math.log(high)) / 2, (math.log(high) - math.log(low)) / (2 * Z90)
        return np.exp(rng.normal(middle, width, count))
    return rng.normal((low + high) / 2, (high - low) / (2 * Z90), count)


def net(s: Scenario, before: Priced, after: Priced, figures: Figures) -> np.ndarray:
    """What the change saves at once (negative: it costs) and each month, [..., months + 1]."""
    loads = figures.loads(s.horizon_months)
    flows = before.flows(loads, figures.prices[before.option.name]) \
        - after.flows(loads, figures.prices[after.option.name])
    labour = s.labour if isinstance(s.labour, Labour) else Labour(cost=0.0)
    flows[..., 0] -= labour.total * figures.labour
    flows[..., 1:] -= labour.upkeep_per_month
    return flows


def cover(s: Scenario, priced: Sequence[Priced], figures: Sequence[Figures]) -> None:
    """Size fleets for all loads that occur, of draws from the 0.1th to the 99.9th percentile."""
    loads = [f.loads(s.horizon_months) for f in figures]
    low = min(float(np.quantile(x, 0.001)) if x.ndim > 1 else float(x.min()) for x in loads)
    high = max(float(np.quantile(x, 0.999)) if x.ndim > 1 else float(x.max()) for x in loads)
    for p in priced:
        if p.fleets is not None:
            p.fleets.cover(low, high)


def varied(s: Scenario) -> tuple[str, ...]:
    """The figures that are uncertain."""
    return tuple(name for name in ("load", "growth", "price", "labour") if getattr(s.uncertainty, name) is not None)


def evaluate(s: Scenario, priced: Sequence[Priced], draws: int, seed: int) -> Return | None:
    """The return of `after` instead of `before`. None where one of them has no fleet."""
    by_name = {p.option.name: p for p in priced}
    before, after = by_name[s.before], by_name[s.after]
    if before.fleets is None or after.fleets is None:
        return None
    names = [s.before, s.after]
    uncertain = varied(s)
    figures = as_given(s, names)
    drawn = draw(s, names, draws, seed) if uncertain else None
    moves = _moves(s, before, after)
    cover(s, [before, after], [figures, *([drawn] if drawn is not None else []), *(f for m in moves for f in m.at)])
    flows = net(s, before, after, figures)
    rate = s.discount_percent_per_year / 100
    labour = s.labour.total if isinstance(s.labour, Labour) else 0.0
    saving = float(flows[1])
    return Return(
        saving=saving, investment=float(-flows[0]), ratio=saving / labour if labour else None,
        payback=_known(money.payback(flows)), npv=float(money.npv(flows, rate)), roi=_known(money.returned(flows)),
        flows=tuple(float(f) for f in flows), tornado=_tornado(s, before, after, moves),
        intervals=_intervals(s, net(s, before, after, drawn), draws, seed, uncertain) if drawn is not None else None)


def _known(value: np.ndarray | float) -> float | None:
    return None if not math.isfinite(float(value)) else float(value)


def _intervals(s: Scenario, flows: np.ndarray, draws: int, seed: int, uncertain: tuple[str, ...]) -> Intervals:
    payback = money.payback(flows)
    totals = np.cumsum(flows, axis=-1)
    values = money.npv(flows, s.discount_percent_per_year / 100)
    fan = np.quantile(totals, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    return Intervals(
        draws=draws, seed=seed, varied=uncertain, saving=_interval(flows[:, 1]),
        payback=_interval(np.where(np.isnan(payback), np.inf, payback)),
        npv=_interval(values), worth=float((values >= 0).mean()), roi=_interval(money.returned(flows)),
        paid_back=float(np.isfinite(payback).mean()), fan=tuple(tuple(float(v) for v in row) for row in fan))


def _interval(values: np.ndarray) -> Interval:
    """Percentiles that are draws themselves, so that infinity (never) sorts last and is not averaged."""
    if np.isnan(values).any():  # nothing is invested in some draws: there is no ratio
        return Interval(p5=None, p50=None, p95=None)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], method="nearest")
    return Interval(p5=_known(low), p50=_known(middle), p95=_known(high))


@dataclass(frozen=True)
class _Move:
    """A figure at the low and the high end of its range."""

    name: str
    low: float
    high: float
    assumed: bool
    at: tuple[Figures, Figures]


def _moves(s: Scenario, before: Priced, after: Priced) -> list[_Move]:
    """Every figure alone at the ends of its range, as stated or, for want of that, 20 % to both sides."""
    given = as_given(s, [s.before, s.after])
    u, growth = s.uncertainty, s.load.growth_percent_per_month
    labour = isinstance(s.labour, Labour) and s.labour.total > 0
    out = []
    for name, spread, base, option in (
            ("load", u.load, 1.0, ""), ("growth", u.growth, growth, ""), ("labour", u.labour, float(labour), ""),
            ("price", u.price, float(before.price > 0), s.before), ("price", u.price, float(after.price > 0), s.after)):
        if not base and (spread is None or name in ("labour", "price")):
            continue
        low, high = (spread.low, spread.high) if spread is not None else (base * (1 - ASSUMED), base * (1 + ASSUMED))
        out.append(_Move(f"price: {option}" if option else name, low, high, spread is None,
                         (_moved(given, name, low, option), _moved(given, name, high, option))))
    return out


def _tornado(s: Scenario, before: Priced, after: Priced, moves: Sequence[_Move]) -> tuple[Sway, ...]:
    """The NPV at both ends of each range, the other figures as given; the widest first."""
    rate = s.discount_percent_per_year / 100
    out = []
    for m in moves:
        a, b = (float(money.npv(net(s, before, after, f), rate)) for f in m.at)
        out.append(Sway(name=m.name, low=m.low, high=m.high, npv_low=a, npv_high=b, assumed=m.assumed))
    if rate:
        flows = net(s, before, after, as_given(s, [s.before, s.after]))
        a, b = (float(money.npv(flows, rate * f)) for f in (1 - ASSUMED, 1 + ASSUMED))
        out.append(Sway(name="discount", low=1 - ASSUMED, high=1 + ASSUMED, npv_low=a, npv_high=b, assumed=True))
    return tuple(sorted(out, key=lambda x: -abs(x.npv_high - x.npv_low)))


def _moved(f: Figures, name: str, value: float, option: str) -> Figures:
    at = np.array(value)
    if name == "price":
        return Figures(f.load, f.growth, f.labour, {**f.prices, option: at})
    return Figures(at if name == "load" else f.load, at / 100 if name == "growth" else f.growth,
                   at if name == "labour" else f.labour, f.prices)


def with_gains(s: Scenario, outcome: Return) -> WithGains | None:
    """The return with the gains that somebody estimates, beside the one without."""
    if not s.gains:
        return None
    each = sum(g.per_month for g in s.gains)
    flows = np.array(outcome.flows)
    flows[1:] += each
    return WithGains(per_month=each, payback=_known(money.payback(flows)),
                     npv=float(money.npv(flows, s.discount_percent_per_year / 100)),
                     roi=_known(money.returned(flows)),
                     gains=tuple((g.name, g.per_month, g.source) for g in s.gains))
