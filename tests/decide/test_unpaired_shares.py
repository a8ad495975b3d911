"""Two independent shares: published intervals to the printed digit, and the likelihood that they rest on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from whet.decide import unpaired
from whet.decide.unpaired import Groups
from whet.errors import InputError

# Newcombe, Statistics in Medicine 17, 873-890, 1998, table II: methods 6 (Miettinen and Nurminen) and 10.
NEWCOMBE = [
    ((56, 70, 48, 80), (0.0528, 0.3382), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1700, 0.8406), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0342, 0.8534), (0.0582, 0.8062)),
    ((5, 56, 0, 29), (-0.0326, 0.1933), (-0.0381, 0.1926)),
    ((0, 10, 0, 20), (-0.1658, 0.2844), (-0.1611, 0.2775)),
    ((0, 10, 0, 10), (-0.2879, 0.2879), (-0.2775, 0.2775)),
    ((10, 10, 0, 20), (0.7156, 1.0000), (0.6791, 1.0000)),
    ((10, 10, 0, 10), (0.6636, 1.0000), (0.6075, 1.0000)),
]


@pytest.mark.parametrize(("counts", "score", "hybrid"), NEWCOMBE)
def test_the_intervals_are_newcombes_published_ones(counts: tuple[int, int, int, int], score: tuple[float, float],
                                                    hybrid: tuple[float, float]) -> None:
    found, other = unpaired.miettinen_nurminen(Groups(*counts)), unpaired.newcombe(Groups(*counts))
    assert (round(found.low, 4), round(found.high, 4)) == score
    assert (round(other.low, 4), round(other.high, 4)) == hybrid


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 300), st.integers(5, 300), st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(-0.6, 0.6))
def test_the_restricted_shares_are_the_likeliest(n_a: int, n_b: int, a: float, b: float, loss: float) -> None:
    def against(p: float) -> float:
        q = p - loss
        return sum(-n * (s * math.log(x) + (1 - s) * math.log(1 - x)) for n, s, x in ((n_a, a, p), (n_b, b, q)))

    ends = max(0, loss) + 1e-9, min(1, 1 + loss) - 1e-9
    best = minimize_scalar(against, bounds=ends, method="bounded", options={"xatol": 1e-9}).x
    p, q = unpaired.restricted(a, b, n_b / n_a, loss)
    assert p - q == pytest.approx(loss, abs=1e-9)
    assert against(min(max(p, ends[0]), ends[1])) <= against(best) + 1e-6


def test_farrington_and_mannings_statistic_has_the_variance_of_those_shares() -> None:
    g = Groups(83, 88, 69, 76)  # p~ = 0.9576 and 0.8576 by the brute maximum of the likelihood
    z, p = unpaired.farrington_manning(g, 0.1)
    variance = 0.95761518 * 0.04238482 / 88 + 0.85761518 * 0.14238482 / 76
    assert z == pytest.approx((83 / 88 - 69 / 76 - 0.1) / math.sqrt(variance), rel=1e-6)
    assert p == pytest.approx(0.0774, abs=5e-5)


@pytest.mark.parametrize(("n", "share"), [(200, 0.9), (500, 0.76)])
def test_a_loss_at_the_margin_is_taken_for_less_in_one_case_of_twenty(n: int, share: float) -> None:
    # The error rate itself, summed over the tables that are likely: no simulation.
    margin = 0.05
    a, b = (np.arange(binom.ppf(1e-5, n, p), binom.ppf(1 - 1e-5, n, p) + 1, dtype=int) for p in (share, share - margin))
    p_a, p_b = binom.pmf(a, n, share).tolist(), binom.pmf(b, n, share - margin).tolist()
    wrong = sum(pa * pb for x, pa in zip(a.tolist(), p_a) for y, pb in zip(b.tolist(), p_b)
                if unpaired.score(Groups(x, n, y, n), margin) < -1.6448536)
    assert 0.04 < wrong < 0.055


def test_groups_that_are_filled_unevenly_are_seen() -> None:
    assert unpaired.sample_ratio(10_000, 10_000) == 1
    assert unpaired.sample_ratio(821_588, 815_482) == pytest.approx(1.8e-6, rel=0.05)  # Kohavi et al., 2020, chapter 3
    assert unpaired.sample_ratio(9_000, 1_000, expected=1 / 9) == 1
    with pytest.raises(InputError):
        unpaired.sample_ratio(1, 1, expected=0)


@pytest.mark.parametrize("counts", [(2, 1, 0, 1), (-1, 1, 0, 1), (0, 0, 0, 1)])
def test_counts_that_are_none_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError):
        Groups(*counts)
