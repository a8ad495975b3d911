"""Percentiles and ratios say how sure they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import InputError
from whet.measure import stats


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_quantile_interval_covers_the_true_quantile_about_95_percent_of_the_time(q: float) -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(1 - q)  # of the exponential distribution
    found = [stats.quantile(rng.exponential(size=60), q) for _ in range(1000)]
    covered = np.mean([(f.low is None or f.low <= truth) and (f.high is None or truth <= f.high) for f in found])
    assert covered >= 0.935


def test_too_few_samples_leave_the_interval_of_p99_open_above() -> None:
    found = stats.quantile(np.arange(1.0, 51.0), 0.99)
    assert found.high is None
    assert found.low is not None


def test_median_interval_of_known_ranks() -> None:
    # n = 10: P(X <= 1) = 0.0107, P(X <= 2) = 0.0547; so ranks 2 and 9 (David and Nagaraja).
    found = stats.quantile(np.arange(1.0, 11.0), 0.5)
    assert (found.low, found.value, found.high) == (2.0, 5.5, 9.0)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=50, deadline=None)
def test_interval_holds_its_estimate(samples: list[float], q: float) -> None:
    found = stats.quantile(samples, q)
    assert found.low is None or found.low <= found.value * (1 + 1e-12)
    assert found.high is None or found.value <= found.high * (1 + 1e-12)


def test_ratio_interval_is_not_widened_by_noise_that_both_sides_share() -> None:
    rng = np.random.default_rng(1)
    load = rng.uniform(1, 3, 40)  # a disturbance that lasts a round
    ours = [s * (1 + 0.01 * rng.standard_normal(5)) for s in load]
    theirs = [1.5 * s * (1 + 0.01 * rng.standard_normal(5)) for s in load]
    found = stats.ratio_of_medians(theirs, ours, resamples=400)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(1.5, rel=0.05)
    assert found.high - found.low < 0.12


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(InputError, match="rounds"):
        stats.ratio_of_medians([[1.0]], [[1.0], [2.0]])


def test_geometric_mean() -> None:
    assert stats.geometric_mean([1, 4]) == pytest.approx(2)
    with pytest.raises(InputError):
        stats.geometric_mean([1, 0])


def test_wilson_interval_near_one_stays_below_it_and_is_not_empty() -> None:
    found = stats.wilson(450, 450)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.99154, abs=1e-4)


@pytest.mark.parametrize("bad", [[], [np.nan], [np.inf]])
def test_statistics_of_nothing_are_an_error(bad: list[float]) -> None:
    with pytest.raises(InputError):
        stats.latency(bad)


def test_latency_of_many_samples_keeps_4096_and_counts_all() -> None:
    found = stats.latency(np.linspace(1, 2, 10_000))
    assert found.count == 10_000
    assert len(found.samples) == 4096
