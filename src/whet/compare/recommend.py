"""What to take: options that meet the constraints, ranked by stated weights, and how sure the first place is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whet.compare.result import Constraint, Ranked, Recommendation, State
from whet.errors import InputError

# What options are ranked by, and whether less is better. `loss` is of accuracy, or the error of outputs without labels.
CRITERIA = {"p50": True, "p99": True, "throughput": False, "loss": True, "memory": True, "size": True, "build": True,
            "cost": True}
DEFAULT_WEIGHTS = {"p99": 1.0, "loss": 1.0, "memory": 0.25}
DOMINATED = "another is as good in everything and better in something"
WORDS = ("vendor", "backend", "precision")
DRAWS = 1000
CONCENTRATION = 30.0  # of the Dirichlet distribution that drawn weights: one of a half has a spread of 0.09
MOST = 1e12  # no weight and no bound is larger
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "b": 1.0, "kib": 2.0 ** 10, "mib": 2.0 ** 20, "gib": 2.0 ** 30,
          "kb": 1e3, "mb": 1e6, "gb": 1e9, "pt": 1.0, "points": 1.0, "/s": 1.0}
_SECONDS, _BYTES = ("", "s", "ms", "us"), ("", "b", "kib", "mib", "gib", "kb", "mb", "gb")
_MAY = {"p50": _SECONDS, "p99": _SECONDS, "build": _SECONDS, "memory": _BYTES, "size": _BYTES,
        "loss": ("", "pt", "points"), "throughput": ("", "/s"), "cost": ("",)}


@dataclass(frozen=True)
class Estimate:
    """A figure, the end that a constraint is held against (None: not bounded), and draws of it (none: it is fixed)."""

    value: float
    worst: float | None
    drawn: np.ndarray | None = None


@dataclass(frozen=True)
class Option:
    """One that may be taken: its figures by criterion (those that are known), and its words (vendor, backend...).
    `wrong` says why it may not: outputs beyond what its precision is allowed."""

    key: str
    figures: Mapping[str, Estimate]
    words: Mapping[str, str] = field(default_factory=dict)
    wrong: str = ""


def parse_weights(text: str) -> dict[str, float]:
    """`p99=2,loss=1,memory=0.5`. InputError for names that there are not, for numbers below zero or beyond reason, and
    where nothing is left to rank by."""
    out: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in CRITERIA or name in out or not 0 <= value < MOST:
            raise InputError(f"--weights {part}", why=f"weights are NAME=NUMBER from 0, each name once; names are "
                             f"{', '.join(CRITERIA)}", do="give, for example, --weights p99=2,loss=1,memory=0.5")
        out[name] = value
    if not sum(out.values()) > 0:
        raise InputError("all weights are zero", why="nothing would be left to rank by", do="give one above zero")
    return out


def parse_constraint(text: str) -> Constraint:
    """`p99<20ms`, `loss<0.5`, `memory<512MiB`, `throughput>100`, `vendor=nvidia`. InputError for anything else."""
    found = re.fullmatch(r"\s*([a-z0-9]+)\s*([<>=])\s*(.+?)\s*", text, re.ASCII)
    hint = "give p99<20ms, loss<0.5, memory<512MiB, throughput>100, vendor=nvidia or backend=whet"
    if not found:
        raise InputError(f"not a constraint: {text[:80]!r}", do=hint)
    name, relation, bound = found.groups()
    if name in WORDS and relation == "=":
        return Constraint(text=text, criterion=name, relation="=", bound=bound.lower()[:100])
    right = "<" if CRITERIA.get(name, True) else ">"
    number = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)\s*([A-Za-z/]*)", bound, re.ASCII)
    unit = number[2].lower() if number else ""
    if name not in CRITERIA or relation != right or not number or unit not in _MAY[name]:
        raise InputError(f"not a constraint: {text[:80]!r}", why=f"criteria are {', '.join(CRITERIA)}; throughput is "
                         "bounded by >, the others by <", do=hint)
    try:
        value = float(number[1]) * _UNITS[unit]
    except ValueError:
        value = math.nan
    if not 0 < value < MOST * 2 ** 10:
        raise InputError(f"not a constraint: {text[:80]!r}", why="bounds are positive numbers", do=hint)
    return Constraint(text=text, criterion=name, relation="<" if right == "<" else ">", bound=value)


def holds(option: Option, constraint: Constraint) -> bool | None:
    """Whether an option meets a constraint: its worst end must, not its estimate; None if the evidence does not say.

    A figure that is not bounded meets nothing; an estimate beyond the bound fails.
    """
    if constraint.relation == "=":
        known = option.words.get(constraint.criterion, "").lower()
        return str(constraint.bound) in known.split() if known else None
    figure = option.figures.get(constraint.criterion)
    if figure is None:
        return None
    bound = float(constraint.bound)

    def within(x: float) -> bool:
        return x < bound if constraint.relation == "<" else x > bound

    if not within(figure.value):
        return False
    return True if figure.worst is not None and within(figure.worst) else None


def front(options: Sequence[Option], names: Sequence[str]) -> list[bool]:
    """Which options no other dominates: none is as good in all of these criteria and better in one."""
    costs = [[_cost(o.figures[n].value, n) for n in names] for o in options]

    def beats(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))

    return [not any(beats(other, mine) for other in costs) for mine in costs]


def _cost(value: float, name: str) -> float:
    return value if CRITERIA[name] else -value


def recommend(options: Sequence[Option], weights: Mapping[str, float], constraints: Sequence[Constraint] = (), *,
              loss_scale: float, loss_unit: str = "points", draws: int = DRAWS, seed: int = 0) -> Recommendation:
    """Rank what meets the constraints and is not dominated.

    The score is the weighted product in logarithms (Bridgman, "Dimensional Analysis", 1922; Triantaphyllou,
    "Multi-criteria Decision Making Methods", 2000, 2.2.2): sum of w_j ln(x_j), less is better, w_j adding up to 1;
    throughput counts as its inverse. It has no units and no scale that depends on the other options, so that an option
    more or less does not turn the order of two others. A loss may be zero or negative and counts as loss / loss_scale
    instead. Options that lack a figure with a weight are not ranked.

    Dominated options are never recommended, whatever the weights: dominance is over all criteria that every remaining
    option has, with and without weight.

    Stability (rank acceptability of SMAA: Lahdelma, Hokkanen and Salminen, European Journal of Operational Research
    106, 1998): the share of draws in which an option is first, over its measurements' draws with the weights as stated
    (`first`), and with weights drawn around them too (`first_weights`: Dirichlet, concentration 30; zero stays zero).
    Dominated options are drawn, too: where estimates are close, dominance is no surer than they are.

    InputError if the loss's scale is not positive.
    """
    if not (math.isfinite(loss_scale) and loss_scale > 0):
        raise InputError("the loss's scale is a positive number", why=f"{loss_scale:g} was given")
    names = [n for n in CRITERIA if weights.get(n, 0) > 0]
    if not names:
        raise InputError("all weights are zero", why="nothing would be left to rank by", do="give one above zero")
    share = np.array([weights[n] for n in names]) / sum(weights[n] for n in names)
    out: dict[str, Ranked] = {}
    left = []
    for o in options:
        state, why = _admitted(o, names, constraints)
        if state == "ranked":
            left.append(o)
        else:
            out[o.key] = Ranked(key=o.key, rank=None, score=None, front=False, state=state, why=why)
    common = [n for n in CRITERIA if left and all(n in o.figures for o in left)]
    on_front = front(left, common)
    for r in _ranked(left, on_front, names, share, loss_scale, draws, seed):
        out[r.key] = r
    order = {"ranked": 0, "dominated": 1, "not shown": 2, "not met": 3, "not known": 4}
    ranking = sorted(out.values(), key=lambda r: (order[r.state], r.rank or 0, r.score or 0.0, r.key))
    chosen = ranking[0].key if ranking and ranking[0].rank == 1 else None
    unsure = any(r.state in ("not shown", "not known") for r in ranking)
    return Recommendation(
        chosen=chosen, weights={n: float(weights[n]) for n in weights}, loss_scale=loss_scale, loss_unit=loss_unit,
        constraints=tuple(constraints), ranking=tuple(ranking), draws=draws,
        state="recommended" if chosen else "undecided" if unsure else "nothing meets the constraints")


def _admitted(o: Option, names: Sequence[str], constraints: Sequence[Constraint]) -> tuple[State, str]:
    """`ranked`, or why not: what fails, then what is not shown, then what is not known."""
    if o.wrong:
        return "not met", o.wrong
    met = [(c, holds(o, c)) for c in constraints]
    if failed := [c.text for c, held in met if held is False]:
        return "not met", ", ".join(failed)
    if unsure := [c.text for c, held in met if held is None]:
        return "not shown", ", ".join(unsure)
    if missing := [n for n in names if n not in o.figures or not _usable(o.figures[n].value, n)]:
        return "not known", ", ".join(missing)
    return "ranked", ""


def _usable(value: float, name: str) -> bool:
    return math.isfinite(value) and (name == "loss" or value > 0)


def _terms(values: np.ndarray, name: str, loss_scale: float) -> np.ndarray:
    if name == "loss":
        return values / loss_scale
    logs = np.log(np.maximum(values, 1e-300))
    return logs if CRITERIA[name] else -logs


def _scores(options: Sequence[Option], names: Sequence[str], share: np.ndarray, loss_scale: float) -> list[float]:
    return [float(sum(w * _terms(np.array(o.figures[n].value), n, loss_scale) for n, w in zip(names, share)))
            for o in options]


def _ranked(options: Sequence[Option], on_front: Sequence[bool], names: Sequence[str], share: np.ndarray,
            loss_scale: float, draws: int, seed: int) -> list[Ranked]:
    """Ranks of the front; shares of draws of all, since what is dominated by its estimates is not so in every draw."""
    if not options:
        return []
    rng = np.random.default_rng(seed)
    scores = _scores(options, names, share, loss_scale)
    terms = np.empty((len(options), len(names), draws))
    for i, o in enumerate(options):
        for j, n in enumerate(names):
            f = o.figures[n]
            drawn = np.full(draws, f.value) if f.drawn is None else rng.choice(f.drawn, draws)
            terms[i, j] = _terms(drawn, n, loss_scale)
    # Ties (options that are equal in a draw) go to the one that comes first by its estimates.
    order = sorted(range(len(options)), key=lambda i: (not on_front[i], scores[i], options[i].key))
    fixed = np.einsum("ijd,j->id", terms, share)[order]
    wobbled = np.einsum("ijd,dj->id", terms, rng.dirichlet(CONCENTRATION * share, draws))[order]
    firsts = [np.bincount(s.argmin(axis=0), minlength=len(options)) / draws for s in (fixed, wobbled)]
    ranks = wobbled.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable").mean(axis=1) + 1
    return [Ranked(key=options[i].key, rank=k + 1 if on_front[i] else None, score=scores[i], front=on_front[i],
                   state="ranked" if on_front[i] else "dominated", why="" if on_front[i] else DOMINATED,
                   first=float(firsts[0][k]), first_weights=float(firsts[1][k]), mean_rank=float(ranks[k]))
            for k, i in enumerate(order)]
