"""How many samples in all would decide an undecided trial, if what is to come is like what was seen."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

from whet.decide import anytime, continuous, sample_size, unpaired
from whet.measure import paired
from whet.measure.verdict import FEWEST, needed_samples

if TYPE_CHECKING:
    from whet.decide.trial import Rules
    from whet.decide.trial_record import Look

_NORMAL = NormalDist()


def mean(e: continuous.Estimate, look: Look, rules: Rules) -> float | None:
    """For a mean: ((z + z) deviation / gap)^2, or where always-valid bounds become narrower than the gap."""
    assert e.error is not None
    gap = abs(e.to_scale(rules.margin) - max(0.0, e.centre))
    deviation = e.error * math.sqrt(look.n)
    if gap == 0 or math.isinf(gap) or not deviation:
        return None
    if rules.stopping == "always-valid" and rules.planned is not None:
        planned = rules.planned
        return sample_size.least(lambda n: anytime.radius(n, planned, rules.alpha) * deviation / math.sqrt(n) < gap,
                                 look.n)
    return ((_z(rules.confidence) + _z(rules.power)) * deviation / gap) ** 2


def quantile(e: continuous.Estimate, low: float, high: float, q: float, look: Look, rules: Rules) -> float | None:
    """For a quantile: as for a mean, with the deviation that its bounds at this look show; if they are open, as many as
    close them."""
    fewest = math.ceil(math.log(rules.alpha) / math.log(max(q, 1 - q)))
    reach = min(e.to_scale(high) - e.centre, e.centre - e.to_scale(low))
    if not math.isfinite(reach):
        return fewest if look.n < fewest else None
    gap = abs(e.to_scale(rules.margin) - max(0.0, e.centre))
    deviation = reach / _z(1 - rules.tail(look)) * math.sqrt(look.n)
    return None if gap == 0 else max(fewest, ((_z(rules.confidence) + _z(rules.power)) * deviation / gap) ** 2)


def pairs(p: paired.Pairs, margin: float, rules: Rules) -> float | None:
    """For pairs that go on to differ as these do."""
    if rules.stopping != "always-valid":
        return needed_samples(p, margin, rules.confidence)

    def decided(n: float) -> bool:
        lost, gained = p.lost / p.n * n, p.gained / p.n * n
        won = max(anytime.wealth(lost, gained, n, margin), anytime.wealth(gained, lost, n, -margin))
        return won > -math.log(rules.alpha)

    return sample_size.least(decided, p.n)


def groups(g: unpaired.Groups, margin: float, rules: Rules) -> float | None:
    """For independent groups, of each."""
    a, b = ((x + 0.5) / (n + 1) for x, n in ((g.right_a, g.n_a), (g.right_b, g.n_b)))
    loss = max(0.0, a - b)
    gap = abs(margin - loss)
    deviation = math.sqrt(a * (1 - a) + b * (1 - b))
    if gap == 0:
        return None
    return max(FEWEST, ((_z(rules.confidence) + _z(rules.power)) * deviation / gap) ** 2)


def _z(p: float) -> float:
    return _NORMAL.inv_cdf(p)
