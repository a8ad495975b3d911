"""Segments of a series: steps are found where they are, outliers are none, and any unit gives the same."""

import numpy as np
import pytest

from whet.decide.history import NoHistoryError, fit, segments
from whet.errors import InputError

RNG = np.random.default_rng(7)
STEPS = np.exp(np.concatenate([RNG.normal(0, 0.02, 60), RNG.normal(0.15, 0.02, 40), RNG.normal(-0.1, 0.02, 30)]))


def test_steps_are_found_where_they_are() -> None:
    found = segments(STEPS)
    assert [s.start for s in found] == [0, 60, 100]
    assert [s.stop for s in found] == [60, 100, 130]
    change = found[1].change
    assert change is not None
    assert change.low < np.expm1(0.15) < change.high
    assert change.confidence > 0.999
    assert found[0].change is None


@pytest.mark.parametrize("factor", [1e-9, 3.0, 1e12])
def test_the_unit_does_not_matter(factor: float) -> None:
    for a, b in zip(segments(STEPS), segments(STEPS * factor), strict=True):
        assert (a.start, a.stop) == (b.start, b.stop)
        assert b.level == pytest.approx(a.level * factor)
        assert b.spread == pytest.approx(a.spread)


def test_outliers_are_no_segments() -> None:
    series = STEPS[:60].copy()
    series[[10, 30, 31]] *= 3
    assert len(segments(series)) == 1


@pytest.mark.parametrize("series", [[5.0], [5.0, 5.0], [5.0, 6.0, 5.5], [2.0] * 50, [0.0] * 20, [-1.0, 0.0, 1.0]])
def test_short_and_constant_series_are_one_segment(series: list[float]) -> None:
    found = segments(series)
    assert [(s.start, s.stop) for s in found] == [(0, len(series))]


def test_missing_values_keep_their_places() -> None:
    holes = STEPS.copy()
    holes[5:90:10] = np.nan
    assert [s.start for s in segments(holes)] == [0, 60, 100]
    assert sum(s.count for s in segments(holes)) == np.isfinite(holes).sum()


def test_what_is_no_series_is_refused() -> None:
    for bad in ([], [None, float("nan")]):
        with pytest.raises(NoHistoryError):
            segments(bad)
    for bad in ([[1.0, 2.0]], ["fast"], [1.0, float("inf")]):
        with pytest.raises(InputError):
            fit(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1e\\+200"):
        fit([-1e200, 1e200, 0.0])
    with pytest.raises(InputError, match="log scale"):
        segments([1.0, 0.0], scale="log")
