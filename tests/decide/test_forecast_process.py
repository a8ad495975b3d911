"""Milestones as a compound process: known answers, closed forms against simulation, and what must hold always."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from whet.decide.forecast.beta import beta_cdf, student_cdf
from whet.decide.forecast.process import Arrivals, Prior, Process, fit_arrivals, fit_gains
from whet.errors import InputError

GAINS = [12.15, 13.33, 14.52]
positive = st.floats(0.01, 100, allow_nan=False)


def test_three_gains_and_24_points_to_go_are_1_8_steps_and_83_percent() -> None:
    process = Process(fit_gains(GAINS))
    assert process.expected(24) == pytest.approx(1.8, abs=1e-12)
    mean, spread = np.mean(GAINS), np.std(GAINS, ddof=1)
    by_hand = stats.t.cdf((2 * mean - 24) / (spread * math.sqrt(2 + 4 / 3)), 2)
    assert process.within(24, 2) == pytest.approx(by_hand, abs=1e-12)
    assert round(process.within(24, 2), 4) == 0.8285


def test_drawn_sums_of_normal_gains_agree_with_the_closed_form() -> None:
    gains = fit_gains([3.0, 4.0, 5.5, 4.4])
    sums = gains.sums(3, draws=60_000)
    for k, remaining in ((1, 4.0), (2, 7.0), (3, 15.0)):
        assert (sums[:, k - 1] >= remaining).mean() == pytest.approx(gains.within(remaining, k), abs=0.01)


def test_one_log_normal_gain_is_a_log_t() -> None:
    logs = np.log([0.1, 0.2, 0.15, 0.05])
    process = Process(fit_gains(np.exp(logs), "lognormal"), draws=40_000)
    scale = logs.std(ddof=1) * math.sqrt(1 + 1 / 4)
    for remaining in (0.05, 0.1, 0.3):
        closed = stats.t.sf((math.log(remaining) - logs.mean()) / scale, 3)
        assert process.within(remaining, 1) == pytest.approx(closed, abs=0.01)


def test_arrivals_are_negative_binomial() -> None:
    arrivals = Arrivals(shape=4.5, exposure=100.0)
    counts = arrivals.counts(30.0, 60)
    assert counts[:20] == pytest.approx(stats.nbinom.pmf(np.arange(20), 4.5, 100 / 130), abs=1e-12)
    assert counts.sum() == pytest.approx(1)
    drawn = arrivals.draw(np.array([10.0, 30.0]), draws=40_000)
    assert (drawn[:, 1] == 2).mean() == pytest.approx(counts[2], abs=0.01)
    assert (np.diff(drawn, axis=1) >= 0).all()


def test_the_sum_over_counts_agrees_with_a_simulation_of_the_process() -> None:
    process = Process(fit_gains([0.2, 0.3, 0.25, 0.1], "lognormal"), fit_arrivals([10, 30, 50, 80], 0, 100),
                      draws=20_000)
    rng = np.random.default_rng(5)
    gains, arrivals = process.gains, process.arrivals
    assert arrivals is not None
    n = rng.poisson(rng.gamma(arrivals.shape, 1 / arrivals.exposure, 20_000) * 60)
    sums = np.concatenate([np.zeros((20_000, 1)), gains.sums(30, 20_000, seed=9)], axis=1)
    covered = sums[np.arange(20_000), np.minimum(n, 30)]
    assert process.by(0.5, 60) == pytest.approx((covered >= 0.5).mean(), abs=0.015)


def test_the_same_probabilities_whatever_was_asked_before() -> None:
    a, b = (Process(fit_gains([0.2, 0.3, 0.1], "lognormal")) for _ in range(2))
    a.within(1.0, 200)
    assert a.within(0.4, 3) == b.within(0.4, 3)


def test_a_wandering_level_reaches_by_the_reflection_principle() -> None:
    # Gains too small to matter, so that the walk alone reaches it: P(|N(0, w^2 t)| >= R).
    process = Process(fit_gains([1e-9, 1.1e-9, 1.2e-9], "lognormal"), Arrivals(3, 100), 0.0, 0.1, draws=40_000)
    assert process.by(0.3, 9.0) == pytest.approx(2 * stats.norm.sf(0.3 / 0.3), abs=0.01)


def test_old_steps_count_for_less_and_declining_gains_shrink() -> None:
    gains = [0.4, 0.3, 0.02, 0.02, 0.02, 0.021]
    plain, recent = (fit_gains(gains, "lognormal", half_life=h) for h in (None, 1.5))
    assert recent.typical < plain.typical
    assert recent.worth < plain.worth == 6
    declining = fit_gains([0.8 / i for i in range(1, 9)], "lognormal", decline=(1.0, 1e9))
    assert declining.typical == pytest.approx(0.8 / 9)
    assert declining.sums(3, 10)[0] == pytest.approx(0.8 * np.cumsum([1 / 9, 1 / 10, 1 / 11]), rel=1e-4)
    assert Process(declining).expected(0.8 * (1 / 9 + 1 / 10)) == pytest.approx(2)


def test_how_gains_decline_is_learnt_from_them() -> None:
    steady = fit_gains([0.05, 0.051] * 8, "lognormal", decline=(0.8, 10.0))
    falling = fit_gains([0.5 * i ** -1.5 for i in range(1, 17)], "lognormal", decline=(0.8, 10.0))
    assert steady.decline == pytest.approx(0, abs=0.5)
    assert 1.1 < falling.decline < 1.5
    nothing = fit_gains([0.05, 0.051], "lognormal", decline=(0.8, 10.0))
    assert nothing.decline == pytest.approx(0.8, abs=0.1)


def test_regression_on_age_agrees_with_its_draws() -> None:
    gains = fit_gains([0.4, 0.1, 0.2, 0.06, 0.09], "lognormal", decline=(0.8, 2.0))
    drawn = np.diff(gains.sums(40, 30_000), prepend=0.0, axis=1)
    first, second = np.log(drawn[:, [0, 30]] + 1e-300).T
    assert np.median(first) == pytest.approx(gains.mean, abs=0.02)
    assert np.median(second) == pytest.approx(gains.mean - gains.decline * math.log(36 / 6), abs=0.05)
    assert second.std() > first.std()


def test_a_prior_stands_in_where_nothing_was_seen() -> None:
    prior = Prior(mean=-3, spread=1, worth=2, degrees=5, shape=4, exposure=1000)
    gains, arrivals = fit_gains([], "lognormal", prior=prior), fit_arrivals([], 0, 200, prior=prior)
    assert (gains.mean, gains.worth, gains.degrees) == (-3, 2, 5)
    assert arrivals.rate == 4 / 1200


@settings(max_examples=30)
@given(st.lists(positive, min_size=2, max_size=12), positive)
def test_more_steps_and_nearer_targets_are_never_less_likely(gains: list[float], remaining: float) -> None:
    for kind in ("normal", "lognormal"):
        process = Process(fit_gains(gains, kind), draws=200)  # type: ignore[arg-type]
        found = process.reached(remaining, 8)
        assert (np.diff(found) >= 0).all()
        assert ((found >= 0) & (found <= 1)).all()
        assert found[0] == 0
        assert process.within(remaining / 2, 3) >= process.within(remaining, 3)
        assert process.within(-1.0, 0) == 1


@settings(max_examples=30)
@given(st.lists(st.floats(0.001, 50), min_size=2, max_size=8), st.floats(0, 500), positive)
def test_later_dates_are_never_less_likely(waits: list[float], time: float, remaining: float) -> None:
    at = np.cumsum(waits)
    process = Process(fit_gains([0.5] * 2 + waits, "lognormal"), fit_arrivals(at, 0, float(at[-1])), draws=200)
    assert 0 <= process.by(remaining, time) <= process.by(remaining, time * 2) + 1e-9 <= 1 + 1e-6


@settings(max_examples=60)
@given(st.floats(0, 1, allow_subnormal=False), st.floats(0.01, 3000), st.floats(0.01, 3000))
def test_the_beta_distribution_is_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-8)


@settings(max_examples=30)
@given(st.floats(-50, 50), st.floats(0.2, 400))
def test_students_t_is_scipys(t: float, degrees: float) -> None:
    assert student_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-9)


@pytest.mark.parametrize("gains", [[], [1.0], [1.0, -2.0], [1.0, 0.0], [1.0, math.nan], [1.0, math.inf]])
def test_gains_that_say_nothing_or_are_none_are_refused(gains: list[float]) -> None:
    with pytest.raises(InputError):
        fit_gains(gains)


def test_times_that_go_back_or_stand_still_are_refused() -> None:
    for at, start, end in (([5, 3], 0, 10), ([1], 2, 3), ([4], 0, 3), ([0.0, 0.0], 0, 0), ([math.nan], 0, 1)):
        with pytest.raises(InputError):
            fit_arrivals(at, start, end)
    with pytest.raises(InputError):
        Process(fit_gains([1, 2])).by(1.0, 5.0)
    with pytest.raises(InputError):
        Process(fit_gains([1, 2])).within(1.0, -1)
    with pytest.raises(InputError):
        fit_gains([1, 2], half_life=0)


def test_equal_gains_have_no_spread() -> None:
    process = Process(fit_gains([2.0, 2.0]))
    assert [process.within(5.0, k) for k in (1, 2, 3)] == [0, 0, 1]
