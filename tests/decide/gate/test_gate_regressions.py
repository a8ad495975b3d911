"""A regression is told from noise: suspected by one run, believed when reruns say the same, found by how much it is."""

from __future__ import annotations

import numpy as np
import pytest

from whet.decide.gate import Rules, check, detectable
from whet.errors import InputError

ALONE = Rules(reruns=0)


def series(n: int, spread: float = 0.02, level: float = 50e-3, seed: int = 0) -> list[float]:
    return list(level * np.exp(np.random.default_rng(seed).normal(0, spread, n)))



def test_one_bad_run_is_a_suspicion_and_reruns_decide() -> None:
    past = series(40)
    assert check(past, [50e-3], higher_is_worse=True).state == "held"
    assert check(past, [60e-3], higher_is_worse=True).state == "suspected"
    assert check(past, [60e-3, 60e-3, 61e-3, 59e-3], higher_is_worse=True).state == "regressed"
    assert check(past, [60e-3, 50e-3, 50.5e-3, 49.8e-3], higher_is_worse=True).state == "held"
    found = check(past, [60e-3, 60e-3, 61e-3, 59e-3], higher_is_worse=True)
    assert found.effect == pytest.approx(0.2, abs=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.2 < found.high
    assert found.spread == pytest.approx(0.02, abs=0.01)


def test_more_is_better_of_throughput() -> None:
    past = series(40, level=1000.0)
    assert check(past, [800.0, 810.0, 790.0, 805.0], higher_is_worse=False).state == "regressed"
    assert check(past, [1200.0, 1210.0, 1190.0, 1205.0], higher_is_worse=False).state == "held"


def test_what_is_certain_and_small_is_let_through() -> None:
    past = series(60, spread=0.001)
    assert check(past, [50e-3 * 1.03] * 4, higher_is_worse=True).state == "held"
    assert check(past, [50e-3 * 1.03] * 4, higher_is_worse=True, rules=Rules(min_effect=0.02)).state == "regressed"


def test_without_reruns_a_level_that_three_runs_kept_is_believed() -> None:
    past, new = series(40), [55.5e-3, 56e-3, 55.8e-3]
    states = [check(past + new[:i], [new[i]], higher_is_worse=True, rules=ALONE).state for i in range(3)]
    assert states == ["suspected", "suspected", "regressed"]
    assert check(past + new[:2], [new[2]], higher_is_worse=True, rules=ALONE).since in (39, 40)


def test_a_level_that_was_turned_down_does_not_become_usual() -> None:
    past, slow = series(40), series(12, level=60e-3, seed=1)
    turned_down = [False] * 40 + [True] * 12
    assert check(past + slow, [60e-3] * 4, higher_is_worse=True, rejected=turned_down).state == "regressed"
    assert check(past + slow, [50e-3], higher_is_worse=True, rejected=turned_down).state == "held"
    assert check(past + slow, [60e-3], higher_is_worse=True).state == "held"  # nobody ever objected
    assert check(past + slow[:3], [60e-3] * 4, higher_is_worse=True).state == "regressed"  # nobody has answered for it


def test_a_better_level_is_the_one_to_keep() -> None:
    past = series(40, level=60e-3) + series(10, level=50e-3, seed=1)
    found = check(past, [60e-3] * 4, higher_is_worse=True)
    assert found.state == "regressed"
    assert found.level == pytest.approx(50e-3, rel=0.02)


def test_a_machine_that_is_slow_at_times_gives_no_alarm() -> None:
    past = series(60, spread=0.003)
    for start in (5, 15, 24, 33, 47):  # two runs in a row, 30 % slower
        past[start:start + 2] = [v * 1.3 for v in past[start:start + 2]]
    assert check(past, [65e-3] * 4, higher_is_worse=True).state == "undecided"
    assert check(past, [150e-3] * 4, higher_is_worse=True).state == "regressed"  # such a thing never was


def test_of_few_values_those_far_off_are_no_outliers() -> None:
    past = [35.2e-6, 34.8e-6, 49.4e-6, 35.0e-6, 44.2e-6]  # a machine that others use at the same time
    assert check(past, [49.5e-6, 47e-6, 48e-6, 52e-6], higher_is_worse=True).state != "regressed"


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_short_history_decides_nothing(n: int) -> None:
    found = check(series(n), [500e-3], higher_is_worse=True)
    assert (found.state, found.level, found.detectable) == ("undecided", None, None)


def test_a_history_of_equal_values_is_no_certainty() -> None:
    found = check([100.0] * 6, [100.0], higher_is_worse=True)
    assert (found.state, found.spread) == ("held", pytest.approx(0.0, abs=1e-12))
    assert found.detectable is not None
    assert found.detectable > 0.05


@pytest.mark.parametrize("bad", [[float("nan")], [0.0], [-1.0], [float("inf")], []])
def test_what_is_no_positive_number_is_one_clear_error(bad: list[float]) -> None:
    with pytest.raises(InputError):
        check(series(10), bad, higher_is_worse=True)
    if bad:
        with pytest.raises(InputError):
            check(series(10) + bad, [1.0], higher_is_worse=True)


@pytest.mark.parametrize("fields", [{"min_effect": 0}, {"min_effect": float("nan")}, {"alpha": 0.0}, {"alpha": 0.6}])
def test_rules_that_cannot_be(fields: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Rules(**fields)  # type: ignore[arg-type]


def test_what_is_stated_as_detectable_is_found() -> None:
    """On normal noise, with the probability that is stated, and not with much more."""
    rng, spread, n = np.random.default_rng(3), 0.03, 60
    effect = detectable(spread, n)
    found = 0
    for _ in range(60):
        past, runs = np.exp(rng.normal(0, spread, n)), (1 + effect) * np.exp(rng.normal(0, spread, 4))
        first = check(list(past), list(runs[:1]), higher_is_worse=True).state
        found += first == "suspected" and check(list(past), list(runs), higher_is_worse=True).state == "regressed"
    assert found >= 50
    assert detectable(0.001, 60) < effect < detectable(0.1, 60)


def test_noise_alone_gives_no_alarm() -> None:
    rng, past, alarms = np.random.default_rng(4), list(np.exp(np.random.default_rng(5).normal(0, 0.03, 30))), 0
    for _ in range(100):
        runs = list(np.exp(rng.normal(0, 0.03, 4)))
        state = check(past, runs[:1], higher_is_worse=True).state
        alarms += state == "suspected" and check(past, runs, higher_is_worse=True).state == "regressed"
        past.append(runs[0])
    assert alarms == 0
