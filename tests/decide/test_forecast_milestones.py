"""From histories to milestones: what counts as a step, what is refused, and what is never said."""

import contextlib
import itertools
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.decide.forecast import Settings, backtest, fit
from whet.decide.forecast.outlook import Asked, History, TooFewError, milestones, typed
from whet.decide.forecast.scale import Scale
from whet.decide.forecast.steps import find
from whet.errors import InputError, UnreachableError, WhetError

START = datetime(2026, 1, 1, tzinfo=UTC)
TODAY = datetime(2026, 4, 5, tzinfo=UTC)


def stairs(levels: list[float], each: int = 10, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(levels, each) * np.exp(noise * rng.standard_normal(each * len(levels)))


def history(values: np.ndarray, **given: object) -> History:
    dates = [START + timedelta(days=3 * i) for i in range(len(values))]
    return replace(History("latency.p99", dates, values.tolist(), "s", label="net, latency.p99"), **given)  # type: ignore[arg-type]


def test_steps_are_changes_of_the_level_and_not_lucky_runs() -> None:
    values = stairs([0.1, 0.08, 0.07])
    values[4] *= 0.7  # a lucky run
    found = find(range(30), values.tolist(), Scale())
    assert found.times == (10.0, 20.0)
    assert np.exp(-np.array(found.gains)) == pytest.approx([0.8, 0.875], rel=0.02)
    assert max(find(range(30), values.tolist(), Scale(), "each").gains) > 0.3
    back = find(range(30), stairs([0.1, 0.07, 0.08]).tolist(), Scale())
    assert (len(back.gains), back.back) == (1, 1)


def test_progress_is_logarithmic_or_linear_as_said() -> None:
    assert Scale().progress(100, 50, 25) == pytest.approx(0.5)
    assert Scale(name="linear").progress(100, 50, 25) == pytest.approx(2 / 3)
    assert Scale(limit=20).progress(100, 50, 25) == pytest.approx(math.log(80 / 30) / math.log(80 / 5))
    assert Scale("higher").progress(10, 20, 40) == pytest.approx(0.5)
    assert Scale("share").progress(0.6, 0.8, 0.9) == pytest.approx(0.5)
    assert Scale().progress(20, 20, 25) is None


@settings(max_examples=80)
@given(st.floats(1e-6, 1e6), st.floats(0.01, 0.99), st.sampled_from(["lower", "higher", "share"]))
def test_places_and_values_are_each_others_inverse(value: float, part: float, direction: str) -> None:
    value = part if direction == "share" else value
    limit = {"lower": value * part, "higher": value / part, "share": value + (1 - value) * part}[direction]
    for scale in (Scale(direction), Scale(direction, limit=limit), Scale(direction, "linear")):  # type: ignore[arg-type]
        assert scale.value(scale.place(value)) == pytest.approx(value, rel=1e-6)


def test_nothing_below_the_hardwares_limit_has_a_probability() -> None:
    values = stairs([0.1, 0.08, 0.07])
    asked = Asked(by=[date(2030, 1, 1)], today=TODAY)
    below, near, far = milestones(history(values, limit=0.06), [0.05, 0.0601, 0.066], asked)
    assert (below.place, below.state) == ("beyond", "not held")
    assert [r.probability for r in below.by_date] == [0.0]
    assert near.by_date[-1].probability < far.by_date[-1].probability
    assert far.fan is not None
    assert min(min(row) for row in far.fan.values) >= 0.06
    without = milestones(history(values), [0.05], asked)[0]
    assert without.by_date[-1].probability > 0.5
    assert "no limit" in [n.code for n in without.notes]


def test_a_linear_scale_ends_at_the_limit_too() -> None:
    asked = Asked(today=TODAY, scale="linear", by=[date(2030, 1, 1)])
    below, near = milestones(history(stairs([0.1, 0.08, 0.07]), limit=0.05), [0.04, 0.055], asked)
    assert (below.place, near.place) == ("beyond", "ahead")
    assert near.fan is not None
    assert min(min(row) for row in near.fan.values) == 0.05
    with pytest.raises(UnreachableError):
        milestones(history(stairs([0.1, 0.08, 0.07]), limit=0.09), [0.095], asked)


def test_a_throughput_has_a_ceiling_and_an_accuracy_ends_at_one() -> None:
    rates = 1 / stairs([0.1, 0.08, 0.07])
    asked = Asked(today=TODAY)
    up = milestones(history(rates, direction="higher", limit=20.0, metric="throughput", unit="1/s"), [16, 21], asked)
    assert [m.place for m in up] == ["ahead", "beyond"]
    assert up[0].fan is not None
    assert max(max(row) for row in up[0].fan.values) <= 20
    shares = 1 - stairs([0.4, 0.3, 0.25])
    top1 = milestones(history(shares, direction="share", metric="accuracy.top1", unit=""), [0.8], asked)[0]
    assert top1.progress == pytest.approx(math.log(0.4 / 0.25) / math.log(0.4 / 0.2), abs=0.05)


def test_the_fan_widens_and_probabilities_rise_with_the_date() -> None:
    m = milestones(history(stairs([0.1, 0.08, 0.07, 0.06])), [0.05], Asked(by=[date(2026, 6, 1), date(2026, 12, 31)],
                                                                            today=START + timedelta(days=120)))[0]
    probabilities = [r.probability for r in m.by_date]
    assert probabilities == sorted(probabilities)
    assert {r.date for r in m.by_date if r.asked} == {"2026-06-01", "2026-12-31"}
    assert m.fan is not None
    width = np.array(m.fan.values[-1]) - np.array(m.fan.values[0])
    assert width[-1] > width[5] > width[0]
    assert (np.diff(np.array(m.fan.values), axis=0) >= 0).all()


def test_a_reached_target_is_said_to_be() -> None:
    m = milestones(history(stairs([0.1, 0.08, 0.07])), [0.09], Asked(today=TODAY, by=[date(2026, 5, 1)]))[0]
    assert (m.place, m.state, m.expected) == ("reached", "held", 0.0)
    flat = milestones(history(stairs([0.1])), [0.12], Asked(today=TODAY))[0]
    assert flat.place == "reached"


@pytest.mark.parametrize("values", [stairs([0.1]), stairs([0.1, 0.08]), stairs([0.08, 0.1]), np.array([0.1]),
                                    np.array([0.1, 0.05])])
def test_from_fewer_than_two_steps_no_number_is_made_up(values: np.ndarray) -> None:
    with pytest.raises(TooFewError) as error:
        milestones(history(values), [0.05 if len(values) > 2 else 0.01], Asked(today=TODAY))
    assert error.value.exit_code == 3


def test_contradictions_are_refused() -> None:
    good = history(stairs([0.1, 0.08, 0.07]))
    asked = Asked(today=TODAY)
    dates = list(good.dates)
    bad: list[tuple[History, list[float], Asked, str]] = [
        (replace(good, dates=[], values=[]), [0.05], asked, "empty"),
        (replace(good, dates=dates[::-1]), [0.05], asked, "go back"),
        (good, [0.05], Asked(today=START), "after today"),
        (good, [0.05], Asked(today=TODAY, by=[date(2026, 1, 1)]), "is past"),
        (good, [0.05], Asked(today=TODAY, within=[0]), "within 0"),
        (good, [0.05], Asked(today=TODAY, sure=0.4), "to be sure"),
        (good, [math.nan], asked, "nan"),
        (good, [-0.05], asked, "-0.05"),
        (replace(good, limit=0.2), [0.3], asked, "hardware's limit"),
        (replace(good, values=[-1.0, *good.values[1:]]), [0.05], asked, "-1"),
        (replace(good, values=[math.inf, *good.values[1:]]), [0.05], asked, "inf"),
        (replace(good, values=[math.nan, *good.values[1:]]), [0.05], asked, "nan"),
        (replace(good, values=[1.5, *good.values[1:]], direction="share"), [0.9], asked, "no share"),
    ]
    for given_, targets, rules, message in bad:
        with pytest.raises(WhetError, match=message) as error:
            milestones(given_, targets, rules)
        assert error.value.exit_code == 2, message


def test_equal_dates_give_numbers_by_steps_and_none_by_date() -> None:
    values = stairs([0.1, 0.08, 0.07])
    same = history(values, dates=[START] * len(values))
    m = milestones(same, [0.06], Asked(today=TODAY))[0]
    assert m.by_steps
    assert not m.by_date
    assert m.rate is None
    with pytest.raises(InputError, match="no probability by a date"):
        milestones(same, [0.06], Asked(today=TODAY, by=[date(2027, 1, 1)]))


def test_the_verdict_is_by_the_least_probability_that_was_asked() -> None:
    good = history(stairs([0.1, 0.08, 0.07]))
    def state(**asked: object) -> str:
        return milestones(good, [0.05], Asked(today=TODAY, **asked))[0].state  # type: ignore[arg-type]

    assert state() == "stated"
    assert state(by=[date(2040, 1, 1)]) == "held"
    assert state(by=[date(2040, 1, 1), date(2026, 4, 6)]) == "not held"
    assert state(within=[50]) == "held"


@settings(max_examples=40)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=4), st.floats(), st.floats())
def test_typed_gains_give_a_milestone_or_a_sentence(gains: list[float], remaining: float, whole: float) -> None:
    with contextlib.suppress(InputError):
        m = typed(gains, remaining, whole, Asked())
        assert m.progress is not None
        assert 0 <= m.progress <= 1
        assert m.confidence is None or 0 <= m.confidence <= 1


def test_gains_that_do_not_vary_make_nobody_sure() -> None:
    with pytest.raises(TooFewError, match="equal"):
        typed([10, 10, 10], 30, 100, Asked())


def test_typed_gains_have_no_dates() -> None:
    with pytest.raises(InputError, match="no dates"):
        typed([1, 2], 3, 10, Asked(by=[date(2030, 1, 1)]))


def test_each_new_best_of_a_list_of_records_is_a_step_and_waiting_is_evidence() -> None:
    values = np.array([100, 90, 95, 80, 75.0])
    dates = [START + timedelta(days=10 * i) for i in range(5)]
    records = History("minutes", dates, values.tolist())
    soon, late = (milestones(records, [70], Asked(by=[date(2027, 1, 1)], how="each", today=day))[0]
                  for day in (TODAY, TODAY + timedelta(days=200)))
    assert len(soon.steps) == 3
    assert soon.rate is not None
    assert late.rate is not None
    assert late.rate < soon.rate / 2


def test_back_tests_give_skill_on_a_process_that_is_the_models() -> None:
    events = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        at = np.cumsum(rng.exponential(rng.uniform(3, 25), 60))
        values = 100 * np.exp(-np.cumsum(rng.uniform(0.002, 0.05) * np.exp(0.7 * rng.standard_normal(60))))
        plain = Settings(half_life=None, pace=None, decline=None, draws=200)
        events.append(backtest.race(at.tolist(), values.tolist(), plain, every=40.0))
    fitted, judged = (list(itertools.chain(*events[i::2])) for i in (0, 1))
    rates = backtest.climatology(fitted)
    assert backtest.skill(judged, rates) > 0.2
    shares = [(p, y) for p, y, n in backtest.reliability(judged) if n > 100]
    assert all(abs(p - y) < 0.2 for p, y in shares)


def test_a_prior_is_learnt_from_other_histories() -> None:
    others = [stairs([0.1, 0.08, 0.07], seed=s).tolist() for s in range(6)] + [stairs([0.1], each=30).tolist()]
    prior = backtest.prior_of(others)
    assert prior.shape / prior.exposure == pytest.approx(12 / (7 * 29), rel=0.2)
    known = fit(range(12), stairs([0.1], each=12).tolist(), settings=Settings(prior=prior, draws=500))
    assert 0 < known.by(0.09, 20) < 1
    with pytest.raises(InputError, match="prior"):
        backtest.prior_of([[1.0, 1.0]])
    values = stairs([0.1, 0.09, 0.08], each=30).tolist()
    events = backtest.series(values, Settings(prior=prior, draws=200), first=20, every=30)
    assert events
    assert all(0 <= e.probability <= 1 for e in events)
