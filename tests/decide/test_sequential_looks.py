"""Looks at a trial: published boundaries, and error rates that are kept where naive looks do not keep them."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from whet.decide import anytime, sequential
from whet.errors import InputError
from whet.measure import paired

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


def test_classical_boundaries_are_the_published_ones() -> None:
    assert [round(c, 2) for c in sequential.classical(5, 0.025, "obrien-fleming")] == [4.56, 3.23, 2.63, 2.28, 2.04]
    assert {round(c, 2) for c in sequential.classical(5, 0.025, "pocock")} == {2.41}


# Jennison and Turnbull 2000, tables 2.1 and 2.3: two-sided at 5 %, 2 to 5 looks.
@pytest.mark.parametrize(("looks", "pocock", "obrien"), [(2, 2.178, 1.977), (3, 2.289, 2.004), (4, 2.361, 2.024),
                                                         (5, 2.413, 2.040)])
def test_their_constants_are_jennison_and_turnbulls(looks: int, pocock: float, obrien: float) -> None:
    assert round(sequential.classical(looks, 0.025, "pocock")[0], 3) == pocock
    assert round(sequential.classical(looks, 0.025, "obrien-fleming")[-1], 3) == obrien


# Jennison and Turnbull 2000, tables 2.2 and 2.4: sizes relative to one look's, power 0.9.
@pytest.mark.parametrize(("looks", "pocock", "obrien"), [(2, 1.100, 1.007), (3, 1.151, 1.016), (4, 1.183, 1.022),
                                                         (5, 1.207, 1.026)])
def test_inflation_is_jennison_and_turnbulls(looks: int, pocock: float, obrien: float) -> None:
    t = [(k + 1) / looks for k in range(looks)]
    for kind, printed in (("pocock", pocock), ("obrien-fleming", obrien)):
        bounds = sequential.classical(looks, 0.025, kind)  # type: ignore[arg-type]
        assert round(sequential.inflation(bounds, t, 0.025, 0.9), 3) == printed


def test_spending_boundaries_are_the_published_ones() -> None:
    assert [round(c, 2) for c in sequential.boundaries(FIVE, 0.025, "obrien-fleming", two_sided=True)] == [
        4.88, 3.36, 2.68, 2.29, 2.03]
    assert [round(c, 3) for c in sequential.boundaries(FIVE, 0.025, "pocock", two_sided=True)] == [
        2.438, 2.427, 2.410, 2.397, 2.386]


def test_boundaries_of_uneven_looks_agree_with_a_multivariate_normal() -> None:
    t = [0.13, 0.5, 1.0]
    bounds = sequential.boundaries(t, 0.05, "obrien-fleming")
    covariance = [[math.sqrt(min(a, b) / max(a, b)) for b in t] for a in t]
    for k in (2, 3):
        inside = multivariate_normal(np.zeros(k), [row[:k] for row in covariance[:k]]).cdf(bounds[:k])
        assert 1 - inside == pytest.approx(sequential.spent(t[k - 1], 0.05, "obrien-fleming"), abs=2e-5)


def test_one_look_is_the_usual_test_and_all_is_spent_at_the_end() -> None:
    assert sequential.boundaries([1.0], 0.05, "pocock") == [pytest.approx(1.6448536, abs=1e-6)]
    for kind in ("pocock", "obrien-fleming"):
        assert sequential.spent(1.0, 0.05, kind) == pytest.approx(0.05)  # type: ignore[arg-type]


def test_many_looks_and_looks_in_quick_succession_still_integrate() -> None:
    t = [0.3, 0.3001, 0.3002, 1.0]
    assert sum(sequential.crossing(sequential.boundaries(t, 0.05, "pocock"), t)) == pytest.approx(0.05, abs=1e-6)
    many = [(k + 1) / 40 for k in range(40)]
    assert sum(sequential.crossing(sequential.boundaries(many, 0.05, "pocock"), many)) == pytest.approx(0.05, abs=1e-6)


def test_looks_that_cannot_be_are_refused() -> None:
    for looks, now in (([500.0], 400.0), ([500.0, 500.0], 700.0), ([1000.0], 1200.0), ([-5.0], 10.0)):
        with pytest.raises(InputError):
            sequential.boundary(looks, now, 1000, 0.05, "pocock")
    with pytest.raises(InputError):
        sequential.boundaries([0.5, 1.2], 0.05, "pocock")


def _trials(rng: np.random.Generator, trials: int, n: int, discordance: float, loss: float, at: np.ndarray) -> tuple[
        np.ndarray, np.ndarray]:
    """Counts of lost and gained pairs at the looks `at`, [trials, looks]."""
    steps = np.diff(at, prepend=0)
    p_lost, p_gained = (discordance + loss) / 2, (discordance - loss) / 2
    lost = rng.binomial(steps, p_lost, (trials, len(at)))
    gained = rng.binomial(steps - lost, p_gained / (1 - p_lost))
    return lost.cumsum(axis=1), gained.cumsum(axis=1)


def _z(lost: np.ndarray, gained: np.ndarray, n: np.ndarray, margin: float) -> np.ndarray:
    """Tango's statistic of the margin, for arrays of counts (`measure.paired.score`)."""
    linear = -lost - gained + (2 * n - lost + gained) * margin
    q = (np.sqrt(linear ** 2 + 8 * n * gained * margin * (1 - margin)) - linear) / (4 * n)
    return (lost - gained - n * margin) / np.sqrt(n * (2 * q + margin * (1 - margin)))


def test_spending_keeps_the_error_rate_of_paired_trials_that_naive_looks_double() -> None:
    at, margin = np.array([800, 1600, 2400, 3200, 4000]), 0.005
    lost, gained = _trials(np.random.default_rng(0), 20_000, 4000, 0.02, margin, at)  # a loss at the margin
    z = _z(lost, gained, at, margin)
    b, c = int(lost[0, 0]), int(gained[0, 0])
    assert z[0, 0] == pytest.approx(paired.score(paired.Pairs(800 - b - c, b, c, 0), margin))
    naive = (z < norm.ppf(0.05)).any(axis=1).mean()
    assert naive > 0.11
    for kind in ("obrien-fleming", "pocock"):
        bounds = sequential.boundaries((at / 4000).tolist(), 0.05, kind)  # type: ignore[arg-type]
        held = (z < -np.array(bounds)).any(axis=1).mean()
        refuted = (z > np.array(bounds)).any(axis=1).mean()
        assert 0.03 < held < 0.056, kind  # three standard errors of 20,000 trials are 0.0046
        assert 0.03 < refuted < 0.06, kind


def test_a_planned_trial_of_five_looks_has_the_power_that_it_was_planned_for() -> None:
    t = np.array(FIVE)
    bounds = sequential.boundaries(FIVE, 0.05, "obrien-fleming")
    n = math.ceil(6854 * sequential.inflation(bounds, FIVE, 0.05, 0.9))
    at = np.ceil(n * t).astype(int)
    lost, gained = _trials(np.random.default_rng(1), 10_000, n, 0.02, 0.0, at)
    crossed = _z(lost, gained, at, 0.005) < -np.array(bounds)
    assert 0.88 < crossed.any(axis=1).mean() < 0.93
    stopped = np.where(crossed.any(axis=1), at[crossed.argmax(axis=1)], n)
    assert stopped.mean() < 0.8 * 6854  # what the looks are for


def test_always_valid_bounds_hold_at_every_sample() -> None:
    rng, margin, n, trials = np.random.default_rng(2), 0.01, 3000, 400
    d = rng.choice([1, 0, -1], p=[0.03, 0.95, 0.02], size=(trials, n))  # a loss of one point
    lost, gained, at = (d == 1).cumsum(1), (d == -1).cumsum(1), np.arange(1, n + 1)
    ever = 0
    for i in range(trials):
        s = anytime._STAKES
        logs = (lost[i][:, None] * np.log1p(-s) + gained[i][:, None] * np.log1p(s * (1 + margin) / (1 - margin))
                + (at - lost[i] - gained[i])[:, None] * np.log1p(s * margin / (1 - margin)))
        ever += bool((np.exp(logs).mean(axis=1) > 20).any())
    assert anytime.wealth(lost[-1, -1], gained[-1, -1], n, margin) == pytest.approx(
        float(np.log(np.exp(logs[-1]).mean())))
    assert ever / trials < 0.05
    for n, half in ((2000, 50), (6854, 69), (20_000, 100)):
        once = paired.upper_bound(paired.Pairs(n - 2 * half, half, half, 0))
        assert anytime.share_bounds(half, half, n, 0.05)[1] / once == pytest.approx(anytime.BETS, abs=0.03)
    low, high = anytime.share_bounds(60, 40, 2000, 0.05)
    assert low < 0.01 < high
    assert anytime.wealth(60, 40, 2000, high) == pytest.approx(math.log(20), abs=1e-3)


def test_always_valid_bounds_of_means_hold_at_every_sample_and_cost_what_the_docs_say() -> None:
    walks = np.random.default_rng(3).standard_normal((2000, 2000)).cumsum(axis=1)
    at = np.arange(30, 2001)
    reach = np.array([anytime.radius(n, 2000, 0.05) for n in at.tolist()])
    assert (walks[:, 29:] / np.sqrt(at) > reach).any(axis=1).mean() < 0.05
    assert 1.6 < anytime.radius(2000, 2000, 0.05) / norm.ppf(0.95) < 1.75
