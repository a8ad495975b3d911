"""Which cells differ: paired ratios over rounds and builds, corrected for how many are looked at, and for size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from whet.compare.result import Verdict
from whet.errors import InputError

RESAMPLES = 4000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Ratio:
    """The geometric mean over builds of the median over rounds of baseline / cell, with its 95 % interval and the
    p-value of "it is 1"."""

    value: float
    low: float
    high: float
    p: float


def paired_ratio(baseline: Sequence[ArrayLike], cell: Sequence[ArrayLike], seed: int = 0) -> Ratio:
    """The ratio of two cells that took turns. `baseline[k][i]` and `cell[k][i]` are the seconds of round i of build k.

    A round's ratio is taken first, so that what disturbed the round cancels. Builds are drawn with replacement, then
    rounds within each (the two-level bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application",
    1997, 3.8; that builds are a level of their own: Kalibera and Jones, "Rigorous benchmarking in reasonable time",
    ISMM 2013). With K builds that spread is too small by (K-1)/K on average; deviations are widened by sqrt(K/(K-1)).
    The interval is the percentiles of the widened draws; p is the two-sided normal tail of log(ratio) over their
    standard deviation, which unlike a share of draws is not zero where all lie on one side.

    InputError without a round, or where rounds do not pair.
    """
    if len(baseline) != len(cell) or not baseline:
        raise InputError(f"{len(baseline)} builds against {len(cell)}", why="builds of one session are compared")
    logs = []
    for a, b in zip(baseline, cell):
        x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        if x.shape != y.shape or x.ndim != 1 or not len(x) or not (x > 0).all() or not (y > 0).all():
            raise InputError("rounds are pairs of positive seconds, one at least")
        logs.append(np.log(x / y))
    value = float(np.mean([np.median(l) for l in logs]))
    rng = np.random.default_rng(seed)
    drawn = np.stack([np.median(l[rng.integers(0, len(l), (RESAMPLES, len(l)))], axis=1) for l in logs])
    builds = len(logs)
    if builds > 1:
        # Each draw of a build is of its own resample of rounds.
        other = np.stack([np.stack([drawn[k][rng.permutation(RESAMPLES)] for k in range(builds)])
                          for _ in range(builds)])
        pick = rng.integers(0, builds, (builds, RESAMPLES))
        means = np.mean([other[i][pick[i], np.arange(RESAMPLES)] for i in range(builds)], axis=0)
        means = value + (means - value) * math.sqrt(builds / (builds - 1))
    else:
        means = drawn[0]
    low, high = np.quantile(means, [0.025, 0.975])
    spread = float(means.std(ddof=1))
    p = 1.0 if value == 0 else 0.0 if spread == 0 else math.erfc(abs(value) / spread / math.sqrt(2))
    return Ratio(math.exp(value), math.exp(min(low, value)), math.exp(max(high, value)), p)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979. The i-th smallest of m (from 1) is multiplied by m - i + 1; none falls below one before it."""
    out, worst = [0.0] * len(p), 0.0
    for i, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        worst = max(worst, min(1.0, (len(p) - i) * p[k]))
        out[k] = worst
    return out


def verdict(ratio: Ratio, adjusted_p: float, gate: float) -> Verdict:
    """What a ratio says. Faster or slower: told apart from 1 by the adjusted p, and further from 1 than 1 + gate.
    No difference that matters: the whole interval lies within the gate. Else undecided: also where it is told apart
    from 1, but not known to be more than the gate."""
    bound = math.log1p(gate)
    if -bound < math.log(ratio.low) and math.log(ratio.high) < bound:
        return "no difference that matters"
    if adjusted_p < SIGNIFICANT and abs(math.log(ratio.value)) > bound:
        return "faster" if ratio.value > 1 else "slower"
    return "undecided"
