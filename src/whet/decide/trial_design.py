"""The design of a trial: how many samples, what they do, and where it may stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from whet.decide import anytime, sample_size, sequential
from whet.decide.trial_record import Design, Kind, Look, Size, Stopping, Unit
from whet.errors import InputError
from whet.measure.paired import CONFIDENCE, POWER

_NORMAL = NormalDist()
CURVE = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # shares of the size whose power is told


def design(margin: float, *, discordance: float | None = None, share: float | None = None,
           deviation: float | None = None, pilot: np.ndarray | None = None, quantile: float | None = None,
           relative: bool = False, paired: bool = False, loss: float = 0.0, ratio: float = 1.0,
           confidence: float = CONFIDENCE, power: float = POWER, stopping: Stopping = "once", looks: int = 1,
           samples: int | None = None) -> Design:
    """How many samples show with `power` that the loss lies below `margin`, if it is `loss` in truth.

    What is known beforehand says which trial it is:

    discordance: pairs of right and wrong: the share of samples that the versions do not answer alike; points.
    share:       independent groups of right and wrong: the share that the reference gets right; points.
    deviation:   values: the standard deviation (`paired`: of the differences), in the unit of the margin.
    pilot:       values of an earlier run: its spread; with `quantile`, that quantile of it; `relative`: in percent.

    stopping, looks: that it may end at `looks` looks at equal distances (`obrien-fleming`, `pocock`), or at any time.
    samples: whose power is told, too. InputError for what no number of samples shows.
    """
    given = {"discordance": discordance, "share": share, "deviation": deviation}
    named = [k for k, v in given.items() if v is not None] + (["pilot"] if pilot is not None else [])
    if len(named) != 1:
        raise InputError("what is known before the trial is one of: the share of samples that are answered "
                         "differently, the reference's share of right answers, a standard deviation, or an earlier run",
                         why=f"given: {', '.join(named) or 'none'}",
                         do="give --discordance 0.02, --share 0.76, --deviation 1.5 or a file with --design")
    assumed = {k: v for k, v in given.items() if v is not None}
    unit: Unit = ""
    scale = 1.0
    kind: Kind
    if discordance is not None or share is not None:
        unit, scale = "points", 100.0
        if not margin < 100 * (share or 1):
            raise InputError("a margin of the whole", why=f"{margin:g} points were given", do="give --margin 0.5")
    sample_size.check(margin, loss, confidence, power)
    m, l = margin / scale, loss / scale
    if relative:
        m, l = math.log1p(margin / 100), math.log1p(loss / 100)
        unit = "percent"
    if discordance is not None:
        kind, plan = "paired shares", sample_size.pairs(discordance, l, m, confidence)
    elif share is not None:
        kind, plan = "shares", sample_size.groups(share, m, l, ratio)
    elif deviation is not None:
        kind = "paired means" if paired else "means"
        spread = deviation / 100 if relative else deviation
        plan = sample_size.means(spread, ratio, paired=paired, confidence=confidence)
    else:
        assert pilot is not None
        kind, plan, assumed = _of_pilot(pilot, quantile, relative, ratio, confidence)
    once = plan.samples(m, l, confidence, power)
    bounds, inflation = _looks(looks, 1 - confidence, power, stopping)
    if stopping == "always-valid":
        z = _NORMAL.inv_cdf(confidence)
        reach = anytime.BETS * z if unit == "points" else anytime.radius(once, once, 1 - confidence)
        inflation = ((reach + _NORMAL.inv_cdf(power)) / (z + _NORMAL.inv_cdf(power))) ** 2
    n = max(plan.fewest, math.ceil(once * inflation)) if stopping != "once" else once
    wanted = sorted({max(2, round(f * once)) for f in CURVE} | ({samples} if samples else set()))
    sizes = tuple(Size(n=k, power=min(1.0, max(0.0, plan.power(k, m, l, confidence))),
                       margin=_told(plan.margin(k, l, confidence, power), scale, relative)) for k in wanted if k >= 2)
    told = tuple(Look(n=math.ceil(n * (k + 1) / looks), fraction=(k + 1) / looks, boundary=z,
                      spent=sequential.spent((k + 1) / looks, 1 - confidence, stopping))  # type: ignore[arg-type]
                 for k, z in enumerate(bounds))
    return Design(kind=kind, unit=unit, margin=margin, loss=loss, confidence=confidence, power=power, assumed=assumed,
                  n=n, ratio=ratio, sizes=sizes, stopping=stopping, inflation=inflation, looks=told)


def _of_pilot(pilot: np.ndarray, quantile: float | None, relative: bool, ratio: float,
              confidence: float) -> tuple[Kind, sample_size.Plan, dict[str, float]]:
    if relative and (pilot <= 0).any():
        raise InputError("a relative margin of values that are not all positive", do="give the margin without %")
    if quantile is not None:
        if ratio != 1:
            raise InputError("the size for a quantile is that of equal groups", why=f"a ratio of {ratio:g} was given")
        plan = sample_size.quantiles(pilot, quantile, confidence, relative=relative)
        return "quantiles", plan, {"pilot": len(pilot), "quantile": quantile}
    if len(pilot) < 2:
        raise InputError("the spread of one sample is not known", do="give an earlier run of some hundreds")
    deviation = float(pilot.std(ddof=1)) / (float(pilot.mean()) if relative else 1.0)
    plan = sample_size.means(deviation, ratio, confidence=confidence)
    return "means", plan, {"pilot": len(pilot), "deviation": deviation}


def _looks(looks: int, alpha: float, power: float, stopping: Stopping) -> tuple[Sequence[float], float]:
    if not 1 <= looks <= 100:
        raise InputError("a trial is looked at once to a hundred times", why=f"{looks} looks were given")
    if stopping not in ("obrien-fleming", "pocock"):
        if looks > 1 and stopping == "once":
            raise InputError("several looks at a trial that is made for one",
                             why="each look is another chance to be wrong",
                             do="say how it stops: --stopping obrien-fleming, pocock or always-valid")
        return (), 1.0
    fractions = [(k + 1) / looks for k in range(looks)]
    bounds = sequential.boundaries(fractions, alpha, stopping)
    return bounds, sequential.inflation(bounds, fractions, alpha, power)


def _told(margin: float, scale: float, relative: bool) -> float:
    return 100 * math.expm1(min(margin, 700.0)) if relative else scale * margin
