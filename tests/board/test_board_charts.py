"""Thinned lines keep their extremes; charts are whole; long histories keep the places of their changes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.board import charts, returns, thin
from whet.board.data import story
from whet.board.safe import visible
from whet.store.views import Marks


def marks(values: np.ndarray, step: float = 3600.0) -> Marks:
    nothing = np.full(len(values), np.nan)
    return Marks(1.7e9 + step * np.arange(len(values)), values, nothing, nothing)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 12), st.integers(0, 5))
def test_m4_keeps_ends_and_extremes_in_order(values: list[float], columns: int, gap: int) -> None:
    x = np.array(values)
    at = np.cumsum(np.arange(len(x)) % (gap + 1))
    kept = thin.m4(at, x, columns)
    assert (np.diff(kept) > 0).all() if len(kept) > 1 else True
    assert len(kept) <= max(4 * columns, 1)
    assert {0, len(x) - 1} <= set(kept.tolist())
    assert x[kept].min() == x.min()
    assert x[kept].max() == x.max()


def test_a_long_history_is_searched_by_medians_and_keeps_the_places_of_its_changes() -> None:
    rng = np.random.default_rng(0)
    levels = np.repeat([1.0, 1.3, 0.8], 7_000)
    found = story(marks(levels * rng.lognormal(0, 0.03, len(levels))))
    assert found.stretch == 11
    starts = [s.start for s in found.segments]
    assert len(starts) == 3
    assert np.allclose(starts, [0, 7_000, 14_000], atol=found.stretch)
    assert found.segments[-1].stop == len(levels)
    assert found.level is not None
    assert found.level.value == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize("values", [[1.0], [0.0], [0.0, 0.0], [-1.0, 2.0, -3.0], [5.0] * 8, [1e-9, 1e300],
                                    [1.7e308, -1.7e308] * 4])
def test_a_few_odd_values_are_a_story_all_the_same(values: list[float]) -> None:
    found = story(marks(np.array(values)))
    assert found.segments
    assert found.log == (min(values) > 0)


def test_no_points_are_no_story() -> None:
    assert story(marks(np.array([]))).segments == ()


@pytest.mark.parametrize("days", [0, 0.01, 1, 3, 20, 100, 400, 2000, 9000])
def test_dates_of_an_axis_are_few_in_order_and_within(days: float) -> None:
    start = datetime(2024, 2, 28, 23, 30, tzinfo=UTC).timestamp()
    found = charts.dates(start, start + days * 86400)
    assert len(found) <= 7
    assert [t for t, _ in found] == sorted(t for t, _ in found)
    assert all(start <= t <= start + days * 86400 for t, _ in found)
    assert found or days == 0


def test_what_is_said_in_a_chart_is_escaped() -> None:
    plot = charts.Plot(charts.Frame(0, 1, 0, 1), 'a"><script>')
    plot.level(0.5, "<b>\u202e", "target")
    assert "<script" not in plot.svg()
    assert "<b>" not in plot.svg()
    assert "[U+202E]" in plot.svg()
    said = charts.data([(0, 0, "</script><img>\u2028")])
    assert said.count("</script>") == 1
    assert "<script>" not in charts.bars([charts.Bar("<script>", 1, "<script>", href='"><script>')], "<script>")


def test_invisible_characters_are_written_out() -> None:
    assert visible("a\u202eb\u200b\x00c\ufeff") == "a[U+202E]b[U+200B][U+0000]c[U+FEFF]"
    assert visible("模型 résumé 🙂") == "模型 résumé 🙂"


@pytest.mark.parametrize(("value", "step"), [(36.0, 0.1), (0.5, 0.01), (5000.0, 100.0), (1e-6, 1e-8), (360, 1.0)])
def test_a_slider_s_step_is_a_fiftieth_or_less(value: float, step: float) -> None:
    assert returns._step(value) == pytest.approx(step)
