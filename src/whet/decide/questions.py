"""The four questions that people ask: upgrade the GPU, accept INT8, edge or cloud, which batch. Each is answered from
the options of a scenario, or it is said what to measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from whet.decide import money, returns
from whet.decide.result import Answer, Row, State
from whet.decide.returns import Priced
from whet.decide.scenario import Loss, Scenario
from whet.decide.words import Figures, Say
from whet.errors import UnreachableError
from whet.measure.record import Accuracy, Judged

SURE = 0.95
INTEGERS = ("int8", "int4", "i8", "u8")


def answer(s: Scenario, priced: Sequence[Priced], draws: int, seed: int) -> tuple[Answer, ...]:
    """All four. Options are compared only where they differ in nothing but what the question asks."""
    spent = _Spent(s, priced, draws, seed)
    return (_gpu(s, priced, spent), _int8(s, priced, spent), _edge(s, priced, spent), _batch(s, priced))


class _Spent:
    """What options cost over the horizon (present value, machines that are bought included), in the same worlds."""

    def __init__(self, s: Scenario, priced: Sequence[Priced], draws: int, seed: int) -> None:
        self._s, self._priced = s, [p for p in priced if p.fleets is not None]
        self._draws, self._seed = draws, seed
        self._found: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        """Of one option: a number, or one for each draw."""
        if name not in self._found:
            s, names = self._s, [p.option.name for p in self._priced]
            figures = returns.draw(s, names, self._draws, self._seed) if returns.varied(s) \
                else returns.as_given(s, names)
            p = next(p for p in self._priced if p.option.name == name)
            returns.cover(s, [p], [figures])
            flows = p.flows(figures.loads(s.horizon_months), figures.prices[name])
            self._found[name] = money.npv(flows, s.discount_percent_per_year / 100)
        return self._found[name]

    def cheaper(self, name: str, than: str) -> float:
        """The share of draws in which an option costs less; without draws 1 or 0."""
        return float(np.mean(self[name] < self[than]))

    @property
    def drawn(self) -> bool:
        """Whether anything is uncertain, so that a share of draws means something."""
        return bool(returns.varied(self._s))


def _current(s: Scenario, priced: Sequence[Priced]) -> Priced:
    """What runs today: `before`, else the first option."""
    return next((p for p in priced if p.option.name == s.before), priced[0])


def _groups(priced: Sequence[Priced], same: Callable[[Priced], tuple[str, ...]],
            differ: Callable[[Priced], str]) -> list[list[Priced]]:
    """Options that agree in `same`, all known, and have at least two values of `differ`."""
    found: dict[tuple[str, ...], list[Priced]] = {}
    for p in priced:
        if differ(p):
            found.setdefault(same(p), []).append(p)
    return [g for g in found.values() if len({differ(p) for p in g}) > 1]


def _row(p: Priced, cheaper: float | None = None) -> Row:
    o = p.option
    return Row(option=o.name, devices=o.devices, cost=o.cost, p99=o.p99, cheaper=cheaper)


def _lacking(group: Sequence[Priced]) -> tuple[Say, ...]:
    return tuple(say for p in group for say in p.option.lacking)


def _evidence(group: Sequence[Priced]) -> tuple[Say, ...]:
    """Whose speed nobody measured here."""
    typed = [p.option.name for p in group if p.known.basis == "typed in"]
    return (Say("typed-in", {"options": ", ".join(typed)}),) if typed else ()


def _cheapest(spent: _Spent, group: Sequence[Priced]) -> tuple[Priced | None, tuple[Row, ...], float | None]:
    """The option of a group that costs least in the median world, all as rows, and how sure it is that it does."""
    able = [p for p in group if p.fleets is not None]
    if not able:
        return None, tuple(_row(p) for p in group), None
    best = min(able, key=lambda p: float(np.median(spent[p.option.name])))
    rows = []
    for p in group:
        share = spent.cheaper(best.option.name, p.option.name) if p in able and p is not best and spent.drawn else None
        rows.append(_row(p, share))
    others = [spent[p.option.name] for p in able if p is not best]
    sure = float(np.mean(np.all([spent[best.option.name] <= x for x in others], axis=0))) if others else 1.0
    return best, tuple(rows), sure if spent.drawn else None


def _choose(question: str, s: Scenario, group: Sequence[Priced], spent: _Spent,
            yes: Callable[[Priced], bool]) -> Answer:
    """The cheapest of a group that meets the objective, if it is known well enough."""
    best, rows, sure = _cheapest(spent, group)
    lacking = _lacking(group)
    if lacking:
        return Answer(question=question, state="undecided", says=lacking, rows=rows)  # type: ignore[arg-type]
    if best is None:
        return Answer(question=question, state="no", rows=rows,  # type: ignore[arg-type]
                      says=(Say("none-meets", {"objective": s.objective.p99_ms}),))
    state: State = "yes" if yes(best) else "no"
    values: Figures = {"option": best.option.name, "cost": best.option.cost or 0.0, "currency": s.currency,
                       "months": s.horizon_months, "total": float(np.median(spent[best.option.name]))}
    failed = [p.option.name for p in group if p.fleets is None]
    says = [Say("cheapest", values), *_evidence(group)]
    if failed:
        says.append(Say("fails-objective", {"options": ", ".join(failed)}))
    if sure is None:
        says.append(Say("no-confidence"))
    elif sure < SURE:
        state = "undecided"
        says.append(Say("not-sure", {"share": sure}))
    else:
        says.append(Say("sure", {"share": sure}))
    return Answer(question=question, state=state, choice=best.option.name, says=tuple(says),  # type: ignore[arg-type]
                  rows=rows, confidence=sure)


def _gpu(s: Scenario, priced: Sequence[Priced], spent: _Spent) -> Answer:
    """Upgrade the GPU? Among options of one precision and place on different devices, today's among them."""
    now = _current(s, priced)
    groups = [g for g in _groups(priced, lambda p: (p.known.precision, p.given.place), lambda p: p.option.device)
              if any(p.option.device == now.option.device for p in g)]
    if not groups:
        return Answer(question="gpu", state="not known", says=(Say("measure-gpu", {"option": now.option.name}),))
    group = next((g for g in groups if now in g), groups[0])
    found = _choose("gpu", s, group, spent, lambda best: best.option.device != now.option.device)
    return found


def _int8(s: Scenario, priced: Sequence[Priced], spent: _Spent) -> Answer:
    """Accept INT8? Where it is cheaper, and what it loses is held to its budget by a test."""
    groups = _groups(priced, lambda p: (p.option.device, p.given.place),
                     lambda p: ("int" if p.known.precision in INTEGERS else "float") if p.known.precision else "")
    if not groups:
        return Answer(question="int8", state="not known", says=(Say("measure-int8"),))
    found = _choose("int8", s, groups[0], spent, lambda best: best.known.precision in INTEGERS)
    if found.state != "yes":
        return found
    chosen = next(p for p in priced if p.option.name == found.choice)
    accuracy = chosen.known.accuracy
    state, say = _recorded(found.choice, accuracy, accuracy.judged) if accuracy is not None and accuracy.judged \
        else _typed(found.choice, chosen.given.loss)
    return Answer(question="int8", state=state, choice=found.choice, says=(say, *found.says), rows=found.rows,
                  confidence=found.confidence)


def _recorded(name: str, accuracy: Accuracy, judged: Judged) -> tuple[State, Say]:
    """By the verdict of a record, which a paired test gave."""
    if judged.loss is None:
        return "no", Say("loss-unbounded", {"option": name, "metric": accuracy.metric})
    stated = Loss(loss=judged.loss, max_drop=judged.max_drop, samples=accuracy.samples, upper=judged.upper,
                  metric=accuracy.metric, unit=judged.unit)
    return _judged(name, stated, judged.state, judged.needed or 0)


def _typed(name: str, loss: Loss | None) -> tuple[State, Say]:
    """By a loss and its bound that were typed in."""
    if loss is None:
        return "not known", Say("measure-accuracy", {"option": name})
    held = loss.upper is not None and loss.upper < loss.max_drop
    return _judged(name, loss, "not held" if loss.loss >= loss.max_drop else "held" if held else "undecided", 0)


def _judged(name: str, loss: Loss, verdict: str, needed: int) -> tuple[State, Say]:
    values: Figures = {"option": name, "metric": loss.metric, "samples": loss.samples, "loss": loss.loss,
                       "unit": loss.unit, "max_drop": loss.max_drop}
    if verdict == "held" and loss.upper is not None:
        return "yes", Say("loss-held", {**values, "upper": loss.upper})
    if verdict == "not held":
        return "no", Say("loss-not-held", values)
    return "undecided", Say("loss-undecided", {**values, "needed": needed})


def _edge(s: Scenario, priced: Sequence[Priced], spent: _Spent) -> Answer:
    """Edge or cloud? `yes` stands for the edge."""
    places = {p.given.place for p in priced if p.given.place}
    if places != {"cloud", "edge"}:
        missing = "places" if not places else "edge" if "cloud" in places else "cloud"
        return Answer(question="edge", state="not known", says=(Say(f"measure-{missing}"),))
    placed = [p for p in priced if p.given.place]
    found = _choose("edge", s, placed, spent, lambda best: best.given.place == "edge")
    if not any(p.given.network_ms for p in placed if p.given.place == "cloud"):
        return Answer(question="edge", state="not known", choice=found.choice, rows=found.rows,
                      says=(Say("measure-network"), *found.says), confidence=found.confidence)
    return found


def _batch(s: Scenario, priced: Sequence[Priced]) -> Answer:
    """Which batch? Fleets of the option in question, with each measured size as the largest batch."""
    asked = next((p for p in priced if p.option.name == (s.after or s.before)), priced[0])
    table = [p for p in priced if len(p.known.service.batches) > 1]
    if asked not in table and table:
        asked = table[0]
    if asked not in table:
        say = Say("measure-batches", {"option": asked.option.name})
        return Answer(question="batch", state="not known", says=(say,))
    fleets = asked.fleets
    rows, able = [], []
    for size in asked.known.service.batches:
        name = f"{asked.option.name}, batch {size}"
        try:
            if fleets is None:
                raise UnreachableError("no fleet")
            fleet = fleets.base if size == fleets.batching.max_size else fleets.sized(1.0, size)
        except UnreachableError:
            rows.append(Row(option=name, devices=None, cost=None, p99=None))
            continue
        p99 = fleet.chosen.p99.value + asked.known.elsewhere
        rows.append(Row(option=name, devices=fleet.devices, cost=asked.costs(fleet.devices).total, p99=p99))
        able.append((rows[-1].cost, p99, size, rows[-1]))
    if not able:
        return Answer(question="batch", state="no", rows=tuple(rows),
                      says=(Say("none-meets", {"objective": s.objective.p99_ms}),))
    cost, p99, size, row = min(able, key=lambda x: (x[0], x[1]))
    state: State = "undecided" if asked.option.lacking else "yes"
    return Answer(question="batch", state=state, choice=str(size), rows=tuple(rows), says=(
        Say("best-batch", {"option": asked.option.name, "size": size, "devices": row.devices or 0, "cost": cost or 0.0,
                           "currency": s.currency, "p99": 1e3 * p99}), *_evidence([asked]), *asked.option.lacking))
