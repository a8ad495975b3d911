"""What is recommended follows from stated weights and constraints, and never from too little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.compare.recommend import CRITERIA, Estimate, Option, parse_constraint, parse_weights, recommend
from whet.errors import InputError


def option(key: str, words: dict[str, str] | None = None, wrong: str = "", **figures: float) -> Option:
    return Option(key, {n: Estimate(v, v) for n, v in figures.items()}, words or {}, wrong)


figure = st.floats(0.001, 1000)
options = st.lists(st.fixed_dictionaries({"p99": figure, "loss": st.floats(-1, 5), "memory": figure}), min_size=1,
                   max_size=6)
weights = st.fixed_dictionaries({n: st.floats(0, 5) for n in ("p99", "loss", "memory")}).filter(
    lambda w: sum(w.values()) > 0.01)


@settings(deadline=None, max_examples=60)
@given(options, weights)
def test_a_dominated_option_is_never_recommended(figures: list[dict[str, float]], w: dict[str, float]) -> None:
    found = recommend([option(f"o{i}", **f) for i, f in enumerate(figures)], w, loss_scale=0.5, draws=20)
    assert found.chosen is not None
    best = figures[int(found.chosen[1:])]
    for other in figures:
        assert not (all(other[n] <= best[n] for n in best) and any(other[n] < best[n] for n in best))


@settings(deadline=None, max_examples=40)
@given(options, weights)
def test_one_option_more_does_not_turn_two_others(figures: list[dict[str, float]], w: dict[str, float]) -> None:
    made = [option(f"o{i}", **f) for i, f in enumerate(figures)]
    before = [r.key for r in recommend(made, w, loss_scale=0.5, draws=10).ranking if r.rank]
    worse = option("worse", p99=2000, loss=9, memory=2000)
    after = [r.key for r in recommend([*made, worse], w, loss_scale=0.5, draws=10).ranking if r.rank]
    assert after == before


def test_a_weight_of_zero_leaves_its_criterion_out() -> None:
    fast, small = option("fast", p99=1, memory=9), option("small", p99=2, memory=1)
    assert recommend([fast, small], {"p99": 1, "memory": 0}, loss_scale=1).chosen == "fast"
    assert recommend([fast, small], {"p99": 0, "memory": 1}, loss_scale=1).chosen == "small"
    lacks = option("lacks memory", p99=0.5)
    assert recommend([fast, lacks], {"p99": 1, "memory": 0}, loss_scale=1).chosen == "lacks memory"


def test_stability_is_the_share_of_draws_in_which_it_is_first() -> None:
    rng = np.random.default_rng(0)
    noisy = [Option(k, {"p99": Estimate(m, m, m + rng.normal(0, 0.1, 500))}) for k, m in (("a", 1.0), ("b", 1.02))]
    clear = [Option(k, {"p99": Estimate(m, m, m + rng.normal(0, 0.1, 500))}) for k, m in (("a", 1.0), ("b", 9.0))]
    unsure, sure = (recommend(o, {"p99": 1}, loss_scale=1).ranking for o in (noisy, clear))
    assert 0.4 < unsure[0].first < 0.75
    assert sum(r.first for r in unsure) == pytest.approx(1)
    assert sure[0].first == 1
    assert sure[0].first_weights == 1
    assert [r.state for r in unsure] == ["ranked", "dominated"]  # which does not hide how close they are


def test_weights_that_vary_move_what_depends_on_them() -> None:
    fast, small = option("fast", p99=1.0, memory=2.0), option("small", p99=2.0, memory=1.02)
    best = recommend([fast, small], {"p99": 1, "memory": 1}, loss_scale=1).ranking[0]
    assert best.first == 1
    assert 0.4 < best.first_weights < 0.9


def test_a_constraint_is_held_by_the_worst_end_not_the_estimate() -> None:
    bound = [parse_constraint("p99<20ms")]
    held = Option("held", {"p99": Estimate(0.010, 0.015)})
    wide = Option("wide", {"p99": Estimate(0.005, 0.030)})
    open_end = Option("open", {"p99": Estimate(0.005, None)})
    over = Option("over", {"p99": Estimate(0.025, 0.030)})
    found = recommend([held, wide, open_end, over], {"p99": 1}, bound, loss_scale=1)
    assert found.chosen == "held"
    assert {r.key: r.state for r in found.ranking} == {"held": "ranked", "wide": "not shown", "open": "not shown",
                                                       "over": "not met"}


def test_what_is_not_shown_is_undecided_and_what_fails_is_not() -> None:
    bound = [parse_constraint("p99<20ms")]
    assert recommend([Option("x", {"p99": Estimate(0.01, None)})], {"p99": 1}, bound, loss_scale=1).state == "undecided"
    found = recommend([Option("x", {"p99": Estimate(0.03, 0.04)})], {"p99": 1}, bound, loss_scale=1)
    assert (found.chosen, found.state) == (None, "nothing meets the constraints")


def test_nvidia_only() -> None:
    mine = option("gpu", {"vendor": "nvidia"}, p99=2)
    cpu, unknown = option("cpu", {"vendor": "intel"}, p99=1), option("server", {"vendor": ""}, p99=1)
    found = recommend([cpu, mine, unknown], {"p99": 1}, [parse_constraint("vendor=nvidia")], loss_scale=1)
    assert found.chosen == "gpu"
    assert {r.key: r.state for r in found.ranking}["server"] == "not shown"


def test_wrong_outputs_are_not_recommended() -> None:
    found = recommend([option("wrong", wrong="its outputs are wrong", p99=1), option("right", p99=2)], {"p99": 1},
                      loss_scale=1)
    assert found.chosen == "right"


def test_constraints_are_read_with_their_units() -> None:
    read = [parse_constraint(t) for t in ("p99<20ms", "p50 < 1.5 s", "memory<512MiB", "throughput>100/s", "loss<0.5 pt",
                                          "backend=Whet", "build<60s")]
    assert [c.bound for c in read] == [pytest.approx(0.02), 1.5, 512 * 2 ** 20, 100, 0.5, "whet", 60]


@pytest.mark.parametrize("text", ["", "p99", "p99<", "p99>20ms", "throughput<5", "p99<-1", "p99<nan", "p99<inf",
                                  "p99<1e999", "p99<20MiB", "memory<3ms", "speed<3", "vendor<3", "p99<0", "p99<1.2.3",
                                  "__class__=x", "p99<٣ms"])
def test_a_constraint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_constraint(text)


@pytest.mark.parametrize("text", ["p99=0", "p99=-1", "p99=nan", "p99=inf", "speed=1", "p99=1,p99=2", "p99", ",",
                                  "p99=1e99"])
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_weights(text)


def test_weights_are_read() -> None:
    assert parse_weights("p99=2, loss=0.5,memory=0") == {"p99": 2, "loss": 0.5, "memory": 0}
    assert set(CRITERIA) >= {"p50", "p99", "throughput", "loss", "memory", "size", "build", "cost"}


def test_without_options_nothing_is_recommended() -> None:
    assert recommend([], {"p99": 1}, loss_scale=1).chosen is None
    with pytest.raises(InputError, match="zero"):
        recommend([], {"p99": 0}, loss_scale=1)
    with pytest.raises(InputError, match="scale"):
        recommend([], {"p99": 1}, loss_scale=0)
