"""Levels and what may come: calibrated where there is a history, wide where there is little, refused where is none."""

import numpy as np
import pytest

from whet.decide.history import Predictive, fit
from whet.decide.history import pool as pools
from whet.decide.history.drift import local_level
from whet.decide.history.pool import HORIZONS, KINDS, KNOTS
from whet.decide.history.predictive import P, Z
from whet.errors import InputError

RNG = np.random.default_rng(3)
STEADY = np.exp(RNG.normal(0, 0.01, 300))


def test_a_steady_level_is_found_and_bounded() -> None:
    level = fit(STEADY)
    assert level.low < 1.0 < level.high
    assert level.high / level.low < 1.02
    assert level.spread == pytest.approx(0.01, rel=0.3)
    assert not level.thin


def test_the_level_is_that_after_the_last_step() -> None:
    level = fit(np.concatenate([STEADY, 1.2 * STEADY[:20]]))
    assert level.value == pytest.approx(1.2, rel=0.02)
    assert level.count == 20


def test_intervals_widen_with_the_horizon() -> None:
    widths = [high / low for low, high in (fit(STEADY).predict(h).interval() for h in (1, 20, 100, 400))]
    assert widths == sorted(widths)


@pytest.mark.parametrize("known", [1, 2, 4])
def test_a_short_history_is_thin_and_its_predictions_wide(known: int) -> None:
    short, long = fit(STEADY[:known]), fit(STEADY)
    assert short.thin
    (a, b), (c, d) = short.predict(5).interval(), long.predict(5).interval()
    assert b / a > 1.3 * (d / c) - 0.3
    assert b / a > 1.04


def test_equal_values_still_leave_room() -> None:
    low, high = fit([3.0] * 4).predict(1).interval()
    assert low < 2.99
    assert high > 3.01


@pytest.mark.parametrize("factor", [1e-6, 1e9])
def test_predictions_follow_the_unit(factor: float) -> None:
    assert fit(STEADY * factor).predict(5).quantile(0.9) == pytest.approx(fit(STEADY).predict(5).quantile(0.9) * factor)


def test_values_that_are_not_positive_are_taken_linearly() -> None:
    level = fit(np.concatenate([[0.0], RNG.normal(5, 1, 60)]))
    assert not level.log
    low, high = level.predict(1).interval()
    assert low < 5 < high


def test_zeros_without_a_unit_are_refused() -> None:
    for zeros in ([0.0], [0.0] * 30):
        with pytest.raises(InputError, match="does not say how far"):
            fit(zeros)


def test_levels_that_are_farther_are_less_likely_and_longer_spans_more() -> None:
    level = fit(STEADY)
    assert level.reached(0.97, 50) >= level.reached(0.9, 50) > 0
    assert level.reached(0.9, 100) >= level.reached(0.9, 5)
    assert 0 < level.reached(1.1, 50) < 0.5
    with pytest.raises(InputError, match="within 3 measurements"):
        level.reached(0.9, 3)


def test_horizons_that_are_none_are_refused() -> None:
    for h in (0, -1, 10**9):
        with pytest.raises(InputError):
            fit(STEADY).predict(h)


def test_a_predictive_distribution_agrees_with_itself() -> None:
    p = fit(STEADY).predict(5)
    for q in (1e-6, 0.001, 0.025, 0.5, 0.9, 0.9999999):
        assert p.cdf(p.quantile(q)) == pytest.approx(q, rel=1e-3, abs=1e-9)
    drawn = p.sample(4000, seed=1)
    assert np.mean(drawn <= p.quantile(0.8)) == pytest.approx(0.8, abs=0.03)
    assert (drawn == p.sample(4000, seed=1)).all()
    assert p.cdf(0.0) == 0.0
    with pytest.raises(InputError):
        p.quantile(1.0)


def test_a_normal_distribution_is_kept_as_it_is() -> None:
    normal = Predictive(1, 3 + 2 * Z, log=False)
    assert normal.quantile(0.975) == pytest.approx(3 + 2 * 1.96, abs=1e-2)
    assert normal.median == pytest.approx(3)
    assert normal.cdf(3 + 2 * 5) == pytest.approx(1 - 2.87e-7, abs=1e-8)


def test_the_level_follows_drift_and_averages_noise() -> None:
    noise = RNG.normal(0, 1, 200)
    assert abs(local_level(noise)[0] - noise.mean()) < 0.3
    ramp = np.arange(100.0)
    assert local_level(ramp)[0] > 95
    assert local_level(np.array([4.0])) == (4.0, pytest.approx(1.0))


def histories(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.cumsum(np.where(rng.random(90) < 0.02, rng.normal(0, 0.1, 90), 0.0)) + rng.normal(0, 0.02, 90)
            for _ in range(count)]


def test_a_pool_covers_what_resembles_it() -> None:
    pool = pools.calibrate(histories(16, 1), origins=16)
    inside = []
    for y in histories(25, 2):
        for t in (30, 60):
            low, high = fit(np.exp(y[:t]), pool=pool).predict(5).interval()
            inside.append(low <= np.exp(y[t + 4]) <= high)
    assert np.mean(inside) > 0.85


def test_a_pool_of_two_series_is_hardly_more_certain_than_none() -> None:
    flat = [np.full(40, 1.0) + 1e-3 * np.arange(40) % 2 for _ in range(2)]
    pool, nothing = pools.calibrate(flat, origins=12), pools.base(0.01)
    assert pool.value[8][2][-3] > 0.4 * nothing.value[8][2][-3]
    with pytest.raises(InputError):
        pools.calibrate(flat[:1])


def test_a_symmetric_pool_has_no_side() -> None:
    pool = pools.calibrate(histories(4, 5), origins=6, symmetric=True)
    for kind in range(len(KINDS)):
        for h in range(len(HORIZONS)):
            for a, b in ((pool.value, pool.value), (pool.lowest, pool.highest)):
                np.testing.assert_allclose(a[kind][h], -np.array(b[kind][h])[::-1], atol=2e-3, rtol=2e-3)


def test_what_is_shipped_is_a_whole_table() -> None:
    pool = pools.shipped()
    for table in (pool.value, pool.lowest, pool.highest):
        assert np.shape(table) == (len(KINDS), len(HORIZONS), len(KNOTS))
        assert (np.diff(table, axis=2) >= 0).all()
    assert pool.series > 100
    assert "back-tests.md" in pool.origin
    assert len(P) == len(fit(STEADY).predict(3).y)
