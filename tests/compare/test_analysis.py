"""Ratios with their intervals, corrected for how many are looked at and for how much matters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whet.compare.analysis import Ratio, holm, paired_ratio, verdict
from whet.errors import InputError


def test_holm_gives_the_textbook_figures() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_disturbs_a_round_cancels() -> None:
    rng = np.random.default_rng(0)
    disturbed = [rng.uniform(1, 10, 20) for _ in range(3)]
    found = paired_ratio([2 * d for d in disturbed], disturbed)
    assert found.value == pytest.approx(2)
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(2))
    assert found.p == 0


def test_equal_backends_are_told_apart_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for k in range(60):
        builds = rng.normal(0, 0.02, (2, 3, 1))
        rounds = np.exp(builds + rng.normal(0, 0.05, (2, 3, 25)))
        found = paired_ratio(list(rounds[0]), list(rounds[1]), seed=k)
        covered += found.low <= 1 <= found.high
    assert covered >= 46  # three builds bound their own spread roughly: 95 % is nominal


def test_one_build_says_less_than_three_that_differ() -> None:
    rng = np.random.default_rng(2)
    rounds = [np.exp(rng.normal(b, 0.01, 20)) for b in (-0.2, 0.0, 0.2)]
    same = [np.ones(20)] * 3
    wide, narrow = paired_ratio(rounds, same), paired_ratio(rounds[1:2], same[:1])
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


@pytest.mark.parametrize("a, b", [([], []), ([[1.0]], []), ([[1.0, 2.0]], [[1.0]]), ([[0.0]], [[1.0]]), ([[]], [[]]),
                                  ([[math.nan]], [[1.0]])])
def test_rounds_that_do_not_pair_are_refused(a: list, b: list) -> None:
    with pytest.raises(InputError):
        paired_ratio(a, b)


def test_a_difference_must_be_sure_and_large_enough() -> None:
    assert verdict(Ratio(1.5, 1.4, 1.6, 0.001), 0.01, 0.02) == "faster"
    assert verdict(Ratio(0.5, 0.4, 0.6, 0.001), 0.01, 0.02) == "slower"
    assert verdict(Ratio(1.5, 1.4, 1.6, 0.001), 0.06, 0.02) == "undecided"  # one of many
    assert verdict(Ratio(1.01, 1.008, 1.012, 1e-9), 1e-9, 0.02) == "no difference that matters"
    assert verdict(Ratio(1.01, 0.9, 1.1, 0.5), 0.5, 0.02) == "undecided"
