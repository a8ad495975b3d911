"""Paired outcomes: published worked examples to the printed digit, and error rates that are what they say."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from whet.errors import InputError
from whet.measure import paired
from whet.measure.paired import Pairs

# Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables", 2017, chapter 8 (and the R package
# `contingencytables` that goes with it). Their difference is ours: n12 is what the first alone has.
BENTUR = Pairs(both=1, lost=1, gained=7, neither=12)  # airway hyper-responsiveness, stem cell transplantation
CAVO = Pairs(both=59, lost=6, gained=16, neither=80)  # complete response, consolidation therapy


@pytest.mark.parametrize(("pairs", "confidence", "printed", "digits"), [
    (CAVO, 0.95, (-0.0621, -0.1240, -0.0054), 4),
    (BENTUR, 0.95, (-0.286, -0.517, -0.026), 3),  # Fagerland et al., Statistics in Medicine 33:2850-2875, 2014
    (Pairs(565, 28, 25, 0), 0.90, (0.0049, -0.0148, 0.0247), 4),  # the R package PropCIs: scoreci.mp(25, 28, 618)
])
def test_tangos_interval_is_the_published_one(pairs: Pairs, confidence: float, printed: tuple[float, ...],
                                              digits: int) -> None:
    found = paired.tango(pairs, confidence)
    assert tuple(round(x, digits) for x in (found.value, found.low, found.high)) == printed


def test_mcnemars_tests_are_the_published_ones() -> None:
    found = paired.mcnemar(CAVO)
    assert round(math.sqrt(found.chi_square), 3) == 2.132
    assert round(found.p, 6) == 0.033006
    assert round(math.sqrt(found.corrected_chi_square), 3) == 1.919
    assert round(found.corrected_p, 6) == 0.055009
    assert round(found.exact, 6) == 0.052479
    assert round(found.mid_p, 6) == 0.034690


def test_mcnemars_statistic_on_agrestis_presidential_approval() -> None:
    found = paired.mcnemar(Pairs(both=794, lost=150, gained=86, neither=570))
    assert round(found.chi_square, 4) == 17.3559
    assert f"{found.p:.3e}" == "3.099e-05"


def test_models_that_answer_alike_are_not_told_apart() -> None:
    found = paired.mcnemar(Pairs(9, 0, 0, 1))
    assert (found.exact, found.mid_p, found.p, found.corrected_p) == (1, 1, 1, 1)


def test_an_even_split_has_p_value_one_at_most() -> None:
    found = paired.mcnemar(Pairs(0, 5, 5, 0))
    assert found.exact == 1
    assert found.mid_p <= 1


def test_450_samples_with_no_discordant_pair_bound_the_loss_at_0_60_points() -> None:
    assert round(100 * paired.upper_bound(Pairs(450, 0, 0, 0)), 2) == 0.60
    assert round(100 * paired.upper_bound(Pairs(400, 0, 0, 50)), 2) == 0.60
    z2 = 1.6448536269514722 ** 2
    assert paired.upper_bound(Pairs(450, 0, 0, 0)) == pytest.approx(z2 / (450 + z2), rel=1e-9)


def test_539_samples_without_a_discordant_pair_decide_half_a_point() -> None:
    needed = paired.samples_without_discordance(0.005)
    assert needed == 539
    assert paired.upper_bound(Pairs(needed, 0, 0, 0)) < 0.005 < paired.upper_bound(Pairs(needed - 1, 0, 0, 0))


def test_two_percent_discordance_and_half_a_point_need_6854_samples() -> None:
    assert paired.required_samples(0.02, 0.005) == 6854


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_a_margin_of_nothing_is_refused(margin: float) -> None:
    with pytest.raises(InputError):
        paired.required_samples(0.02, margin)


@pytest.mark.parametrize(("k", "n", "low", "high"), [
    (13, 16, 0.5435, 0.9595), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1)])
def test_clopper_pearson_is_the_published_interval(k: int, n: int, low: float, high: float) -> None:
    found = paired.clopper_pearson(k, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data())
def test_clopper_pearsons_ends_have_the_tails_they_should(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    found = paired.clopper_pearson(k, n)
    if k:
        assert binom.sf(k - 1, n, found.low) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert binom.cdf(k, n, found.high) == pytest.approx(0.025, rel=1e-6)


cells = st.tuples(*[st.integers(0, 300)] * 4).filter(any)


@settings(deadline=None)
@given(cells)
def test_the_interval_holds_the_estimate_and_mirrors_when_models_swap(counts: tuple[int, int, int, int]) -> None:
    pairs = Pairs(*counts)
    found, swapped = paired.tango(pairs), paired.tango(Pairs(counts[0], counts[2], counts[1], counts[3]))
    assert -1 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low == pytest.approx(-swapped.high, abs=1e-9)
    assert paired.upper_bound(pairs) <= found.high
    assert paired.lower_bound(pairs) >= found.low


@settings(deadline=None)
@given(cells)
def test_the_ends_solve_the_score_equation(counts: tuple[int, int, int, int]) -> None:
    pairs = Pairs(*counts)
    end = paired.upper_bound(pairs)
    if abs(end) < 1 - 1e-9:
        assert paired.score(pairs, end) == pytest.approx(-1.6448536, abs=1e-5)


@pytest.mark.parametrize(("n", "discordance"), [(500, 0.02), (2000, 0.01), (2000, 0.03), (1000, 0.10)])
def test_a_loss_at_the_margin_is_taken_for_less_in_one_case_of_twenty(n: int, discordance: float) -> None:
    # The error rate itself, summed over all tables: no simulation. Score bounds may be off by a little either way.
    margin = 0.005
    p_lost, p_gained = (discordance + margin) / 2, (discordance - margin) / 2
    wrong, covered = 0.0, 0.0
    lost = np.arange(0, binom.ppf(1 - 1e-7, n, p_lost) + 1, dtype=int)
    for b, p_b in zip(lost.tolist(), binom.pmf(lost, n, p_lost)):
        gained = np.arange(0, binom.ppf(1 - 1e-7, n - b, p_gained) + 1, dtype=int)
        p_c = binom.pmf(gained, n - b, p_gained / (1 - p_lost))
        for c, p in zip(gained.tolist(), (p_b * p_c).tolist()):
            if p < 1e-9:
                continue
            covered += p
            # Held below the margin exactly where the statistic at the margin lies below -z.
            wrong += p * (paired.score(Pairs(n - b - c, b, c, 0), margin) < -1.6448536)
    assert covered > 0.999
    assert 0.02 < wrong < 0.055


def test_pairs_count_the_four_cells() -> None:
    pairs = Pairs.of([True, True, True, False, False, False], np.array([1, 1, 0, 1, 0, 0]))
    assert pairs == Pairs(both=2, lost=1, gained=1, neither=2)
    assert (pairs.n, pairs.discordant, pairs.loss) == (6, 2, 0.0)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0]), ([[1]], [[1]])])
def test_outcomes_that_are_no_pairs_are_refused(a: list, b: list) -> None:
    with pytest.raises(InputError, match="vectors"):
        Pairs.of(a, b)
    with pytest.raises(InputError):
        Pairs(0, 0, 0, 0)
