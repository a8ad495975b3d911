"""Payback, present value and return, as properties of cash flows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.decide import money, returns
from whet.decide.scenario import Spread

amounts = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 2))
rows = st.lists(amounts, min_size=2, max_size=40).map(np.array)
rates = st.floats(0, 2)
some = settings(max_examples=50)


@some
@given(rows)
def test_without_a_discount_the_present_value_is_the_sum(flows: np.ndarray) -> None:
    assert money.npv(flows, 0.0) == pytest.approx(flows.sum(), abs=1e-4)


@some
@given(rows, rates, st.floats(1e-3, 1e3))
def test_currency_is_a_unit(flows: np.ndarray, rate: float, unit: float) -> None:
    assert money.npv(flows * unit, rate) == pytest.approx(unit * money.npv(flows, rate), rel=1e-9, abs=1e-6 * unit)
    np.testing.assert_allclose(money.payback(flows * unit), money.payback(flows), rtol=1e-6, equal_nan=True)
    np.testing.assert_allclose(money.returned(flows * unit), money.returned(flows), rtol=1e-9, atol=1e-9,
                               equal_nan=True)


@some
@given(rows, rates, st.integers(0, 39), st.floats(0.01, 1e5))
def test_more_money_is_worth_more(flows: np.ndarray, rate: float, month: int, more: float) -> None:
    richer = flows.copy()
    richer[month % len(flows)] += more
    assert money.npv(richer, rate) >= money.npv(flows, rate)


@some
@given(rows)
def test_payback_is_where_the_sum_of_the_flows_is_nought(flows: np.ndarray) -> None:
    months = float(money.payback(flows))
    total = np.cumsum(flows)
    if np.isnan(months):
        assert total[-1] < 0
    elif months == 0:
        assert (total >= 0).all()
    else:
        at = np.interp(months, np.arange(len(flows)), total)
        assert at == pytest.approx(0, abs=1e-6 * np.abs(total).max() + 1e-6)
        assert (total[int(np.ceil(months - 1e-9)):] >= -1e-6).all()


@some
@given(st.floats(1, 1e6), st.floats(1, 1e5), st.integers(1, 240))
def test_a_constant_saving_pays_back_after_investment_over_saving(cost: float, saving: float, months: int) -> None:
    found = float(money.payback(np.array([-cost, *[saving] * months])))
    if cost / saving <= months * (1 - 1e-9):
        assert found == pytest.approx(cost / saving)
    elif cost / saving > months * (1 + 1e-9):
        assert np.isnan(found)


def test_a_debt_that_comes_back_is_not_paid_back() -> None:
    assert float(money.payback([-100.0, 150.0, -100.0, 80.0])) == pytest.approx(2 + 50 / 80)
    assert np.isnan(money.payback([-100.0, 150.0, -100.0]))


def test_many_worlds_at_once() -> None:
    flows = np.array([[-10.0, 5, 5, 5], [-10, 1, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(money.payback(flows), [2.0, np.nan, 0.0])
    np.testing.assert_array_equal(money.returned(flows), [0.5, -0.7, np.nan])


def test_a_known_present_value() -> None:
    """1000 after a year at 10 % a year is 909.09 today."""
    flows = np.zeros(13)
    flows[12] = 1000
    assert money.npv(flows, 0.10) == pytest.approx(909.0909, abs=1e-4)


def test_machines_are_bought_when_they_are_needed_and_kept() -> None:
    bought = money.purchases(np.array([3.0, 3, 5, 4, 6]), np.array(3.0))
    np.testing.assert_array_equal(bought, [0, 0, 2, 0, 1, 0])
    np.testing.assert_array_equal(money.purchases(np.array([[2.0, 2], [1, 3]]), np.zeros(2)), [[2, 0, 0], [1, 2, 0]])


@pytest.mark.parametrize("shape", ["normal", "lognormal"])
def test_five_percent_of_the_draws_lie_beyond_each_end(shape: str) -> None:
    spread = Spread(low=0.8, high=1.5, shape=shape)  # type: ignore[arg-type]
    drawn = returns.sample(spread, np.random.default_rng(0), 200_000)
    np.testing.assert_allclose(np.quantile(drawn, [0.05, 0.95]), [0.8, 1.5], rtol=0.005)


@pytest.mark.parametrize("shape", ["uniform", "triangular"])
def test_the_ends_of_other_shapes_are_ends(shape: str) -> None:
    spread = Spread(low=0.8, high=1.5, shape=shape)  # type: ignore[arg-type]
    drawn = returns.sample(spread, np.random.default_rng(0), 10_000)
    assert 0.8 <= drawn.min() < drawn.max() <= 1.5
