"""Trials: published examples, known sizes, verdicts that are right as often as they say."""

import json
import math

import jsonschema
import numpy as np
import pytest
from scipy.stats import norm, ttest_ind, ttest_rel
from scipy.stats import t as t_distribution

from whet.decide import continuous, sample_size, trial, trial_record
from whet.decide.outcomes import Outcomes
from whet.decide.trial import Rules
from whet.errors import InputError
from whet.measure import paired
from whet.report import trial as report

ONCE = Rules(0.5)


def outcomes(label: str, values: object, **more: object) -> Outcomes:
    return Outcomes(label, np.asarray(values, float), **more)  # type: ignore[arg-type]


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[Outcomes, Outcomes]:
    a = [1] * (both + lost) + [0] * (gained + neither)
    b = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return outcomes("a", a), outcomes("b", b)


# -- design ---------------------------------------------------------------------------------------


def test_two_percent_discordance_and_half_a_point_need_6854_images() -> None:
    found = trial.design(0.5, discordance=0.02)
    assert (found.n, found.kind, found.unit) == (6854, "paired shares", "points")
    at = next(s for s in found.sizes if s.n == 6854)
    assert at.power == pytest.approx(0.9, abs=1e-3)
    assert at.margin == pytest.approx(0.5, abs=1e-3)


def test_sizes_of_the_t_test_are_the_textbook_ones() -> None:
    # Half a standard deviation, two-sided 5 %: 64 a group for a power of 0.8, 86 for 0.9; paired 34 and 44.
    plan = sample_size.means(1.0, confidence=0.975)
    assert [plan.samples(0.5, confidence=0.975, power=p) for p in (0.8, 0.9)] == [64, 86]
    plan = sample_size.means(1.0, paired=True, confidence=0.975)
    assert [plan.samples(0.5, confidence=0.975, power=p) for p in (0.8, 0.9)] == [34, 44]


def test_power_is_what_a_simulation_finds() -> None:
    rng = np.random.default_rng(0)
    found = trial.design(2.0, share=0.9)
    held = 0
    for _ in range(400):
        a, b = (outcomes(l, rng.random(found.n) < 0.9) for l in "ab")
        held += trial.shares(a, b, Rules(2.0), pair=False).state == "held"
    assert held / 400 == pytest.approx(0.9, abs=0.05)


def test_a_size_for_p99_comes_from_a_pilot() -> None:
    rng = np.random.default_rng(1)
    found = trial.design(10.0, pilot=np.exp(0.2 * rng.standard_normal(20_000)), quantile=0.99, relative=True)
    deviation = 0.2 * math.sqrt(0.99 * 0.01) / norm.pdf(norm.ppf(0.99))  # of a normal quantile, times sqrt(n)
    right = 2 * ((norm.ppf(0.95) + norm.ppf(0.9)) * deviation / math.log(1.1)) ** 2
    assert found.kind == "quantiles"
    assert found.n == pytest.approx(right, rel=0.3)


def test_without_any_discordance_539_images_are_needed() -> None:
    found = trial.design(0.5, discordance=0.0, samples=538)
    assert found.n == 539
    assert [(s.power, round(s.margin, 3)) for s in found.sizes if s.n in (538, 539)] == [(0, 0.5), (1, 0.499)]


def test_looks_make_a_design_a_little_larger() -> None:
    found = trial.design(0.5, discordance=0.02, stopping="obrien-fleming", looks=5)
    assert 6854 < found.n < 7200
    assert len(found.looks) == 5
    assert found.looks[-1].spent == pytest.approx(0.05)
    assert trial.design(0.5, discordance=0.02, stopping="always-valid").n > found.n


@pytest.mark.parametrize("more", [
    {}, {"discordance": 0.02, "share": 0.5}, {"discordance": 2.0}, {"share": 0.0}, {"deviation": 0.0}, {"share": 1.5},
    {"discordance": 0.02, "loss": 0.5}, {"discordance": 0.02, "confidence": 0.4}, {"discordance": 0.02, "looks": 3},
    {"pilot": np.ones(1)}, {"pilot": np.arange(50.0), "quantile": 0.99}, {"discordance": 0.001, "loss": 0.4},
    {"pilot": np.array([-1.0, 2.0]), "relative": True}, {"share": 0.9, "ratio": 0.0}])
def test_what_no_trial_can_be_planned_with_is_refused(more: dict) -> None:
    with pytest.raises(InputError):
        trial.design(0.5, **more)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InputError):
        trial.design(margin, discordance=0.02)
    with pytest.raises(InputError):
        Rules(margin)


# -- analysis -------------------------------------------------------------------------------------


def test_published_paired_examples_come_out_to_their_printed_digits() -> None:
    # Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables", 2017, chapter 8.
    found = trial.shares(*pairs(59, 6, 16, 80), Rules(5.0), pair=True)
    tango = found.intervals[0]
    assert tango.low is not None
    assert tango.high is not None
    assert (round(found.loss or 0, 2), round(tango.low, 2), round(tango.high, 2)) == (-6.21, -12.40, -0.54)
    p = {t.name: t.p for t in found.tests}
    assert round(p["mcnemar-exact"], 6) == 0.052479
    assert round(p["mcnemar-mid-p"], 6) == 0.034690
    assert found.state == "held"


def test_the_three_verdicts_of_pairs_and_what_comes_next() -> None:
    held = trial.shares(*pairs(6700, 68, 69, 163), ONCE, pair=True)
    assert (held.state, held.exit_code, held.needed) == ("held", 0, None)
    lost = trial.shares(*pairs(6700, 160, 40, 100), ONCE, pair=True)
    assert (lost.state, lost.exit_code) == ("not held", 1)
    few = trial.shares(*pairs(290, 3, 3, 4), ONCE, pair=True)
    assert (few.state, few.exit_code) == ("undecided", 3)
    assert few.needed == 6854
    assert few.more == 6554


def test_samples_are_matched_by_id_not_by_order() -> None:
    a = outcomes("a", [1, 1, 0, 0], ids=("w", "x", "y", "z"))
    b = outcomes("b", [0, 0, 1, 1], ids=("z", "y", "x", "w"))
    found = trial.shares(a, b, Rules(50), pair=True)
    assert found.pairs == trial_record.Cells(both=2, lost=0, gained=0, neither=2)
    assert "identical" in [n.code for n in found.notes]


def test_a_trial_goes_on_by_its_own_rules() -> None:
    rules = Rules(0.5, stopping="obrien-fleming", planned=7030)
    first = trial.shares(*pairs(3400, 34, 36, 30), rules, pair=True)
    assert (first.state, first.needed) == ("undecided", 7030)
    second = trial.shares(*pairs(5400, 51, 56, 120), rules.after(first), pair=True)
    assert [look.n for look in second.looks] == [3500, 5627]
    assert second.looks[1].boundary < first.looks[0].boundary  # type: ignore[operator]
    with pytest.raises(InputError, match="margin"):
        Rules(1.0, stopping="obrien-fleming", planned=7030).after(first)
    with pytest.raises(InputError, match="another kind"):
        trial.shares(*pairs(5400, 51, 56, 120), rules.after(first), pair=False)
    with pytest.raises(InputError, match="one look"):
        ONCE.after(trial.shares(*pairs(290, 3, 3, 4), ONCE, pair=True))
    assert second.state == "held"
    with pytest.raises(InputError, match="over"):
        rules.after(second)
    with pytest.raises(InputError, match="more samples"):
        trial.shares(*pairs(290, 3, 3, 4), rules.after(first), pair=True)


def test_a_trial_whose_error_rate_is_spent_says_so() -> None:
    found = trial.shares(*pairs(290, 3, 3, 4), Rules(0.5, stopping="pocock", planned=300), pair=True)
    assert found.state == "undecided"
    assert "over" in [n.code for n in found.notes]


def test_always_valid_shares_name_what_would_decide_them() -> None:
    found = trial.shares(*pairs(290, 3, 3, 4), Rules(0.5, stopping="always-valid"), pair=True)
    assert found.needed is not None
    scale = found.needed / 300
    many = [outcomes(l, np.repeat(x.values, math.ceil(scale))) for l, x in zip("ab", pairs(290, 3, 3, 4))]
    assert trial.shares(many[0], many[1], Rules(0.5, stopping="always-valid"), pair=True).state == "held"


def test_means_are_scipys_t_tests() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(10, 2, 40), rng.normal(10.5, 4, 25)
    found = trial.values(outcomes("a", x), outcomes("b", y), Rules(1.0), pair=False, relative=False, ratio=None)
    low, high = ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    assert found.intervals[0].low == pytest.approx(low, rel=0.02)  # degrees of freedom are rounded down
    assert found.intervals[0].high == pytest.approx(high, rel=0.02)
    found = trial.values(outcomes("a", x[:25]), outcomes("b", y), Rules(1.0), pair=True, relative=False)
    low, high = ttest_rel(y, x[:25]).confidence_interval(0.95)
    assert (found.intervals[0].low, found.intervals[0].high) == (pytest.approx(low), pytest.approx(high))


def test_higher_better_turns_the_loss_around() -> None:
    x, y = outcomes("a", [10.0, 10.1, 9.9, 10.05]), outcomes("b", [8.0, 8.1, 7.9, 8.05])
    worse = trial.values(x, y, Rules(5.0), pair=False, relative=True, higher_better=True)
    assert worse.loss == pytest.approx(20, abs=0.1)
    assert worse.state == "not held"
    better = trial.values(x, y, Rules(5.0), pair=False, relative=True)
    assert better.loss == pytest.approx(-20, abs=0.1)
    assert better.state == "held"
    assert better.upper < -15  # type: ignore[operator]


def test_bootstrapped_means_agree_with_t_where_values_are_normal() -> None:
    rng = np.random.default_rng(3)
    x, y = outcomes("a", rng.normal(10, 1, 400)), outcomes("b", rng.normal(10, 1, 400))
    for pair in (False, True):
        t, drawn = (trial.values(x, y, Rules(1.0), pair=pair, relative=True, method=m) for m in ("t", "bootstrap"))
        slack = 0.1 if pair else 0.4  # batch means may take independent groups for a little less than they are
        assert drawn.upper == pytest.approx(t.upper, abs=slack)
        assert drawn.lower == pytest.approx(t.lower, abs=slack)


def test_quantiles_of_students_t_are_scipys() -> None:
    for degrees in (1, 7, 200, 201, 1500):
        for level in (0.9, 0.95, 0.999):
            assert continuous._t(level, degrees) == pytest.approx(t_distribution.ppf(level, degrees), rel=2e-6)


def _series(rng: np.random.Generator, trials: int, n: int, r: float) -> np.ndarray:
    """Log-normal latencies whose neighbours resemble each other (AR(1)), [trials, n]."""
    x = rng.standard_normal((trials, n))
    for i in range(1, n if r else 0):
        x[:, i] = r * x[:, i - 1] + math.sqrt(1 - r * r) * x[:, i]
    return np.exp(0.3 * x)


@pytest.mark.parametrize("r", [0.0, 0.7])
@pytest.mark.parametrize("statistic", ["mean", "p50", "p99"])
def test_a_slowdown_at_the_margin_is_let_through_in_one_case_of_twenty(statistic: str, r: float) -> None:
    trials = 300
    a, b = (_series(np.random.default_rng(seed), trials, 1200, r) for seed in (4, 5))
    found = [trial.values(outcomes("a", x), outcomes("b", 1.05 * y), Rules(5.0), pair=False, relative=True,
                          statistic=statistic) for x, y in zip(a, b)]
    for claim in ("held", "not held"):
        assert sum(f.state == claim for f in found) / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_series_is_worth_less_than_its_length() -> None:
    rng = np.random.default_rng(6)
    assert continuous.worth(rng.standard_normal(2400)) > 1000
    assert continuous.worth(_series(rng, 1, 2400, 0.9)[0]) < 400  # (1 + r) / (1 - r) = 19
    x, y = (outcomes(l, _series(rng, 1, 2400, 0.9)[0]) for l in "ab")
    found = trial.values(x, y, Rules(5.0), pair=False, relative=True)
    assert "series" in [n.code for n in found.notes]


def test_p99_of_too_few_samples_is_unbounded_and_says_how_many_it_needs() -> None:
    rng = np.random.default_rng(7)
    x, y = (outcomes(l, np.exp(rng.standard_normal(150))) for l in "ab")
    found = trial.values(x, y, Rules(10.0), pair=False, relative=True, statistic="p99")
    assert found.upper is None
    assert found.state == "undecided"
    assert found.needed == math.ceil(math.log(0.05) / math.log(0.99)) == 299


def test_several_runs_are_judged_run_by_run() -> None:
    rng = np.random.default_rng(8)
    a = [outcomes("a", rng.normal(10 + shift, 0.1, 200)) for shift in (0, 0.4, -0.3, 0.1)]
    b = [outcomes("b", rng.normal(10 + shift, 0.1, 200)) for shift in (0.1, -0.4, 0.3, 0.0)]
    found = trial.latencies(a, b, Rules(5.0), statistic="p50")
    assert (found.kind, found.n) == ("runs", 4)
    pooled = trial.latencies(a[:1], b[:1], Rules(5.0), statistic="p50")
    assert "one-run" in [n.code for n in pooled.notes]
    assert found.upper - found.lower > 3 * (pooled.upper - pooled.lower)  # type: ignore[operator]


def test_sample_ratio_mismatch_and_what_is_no_trial_are_refused() -> None:
    ones, more = outcomes("a", np.ones(5000)), outcomes("b", np.ones(4500))
    with pytest.raises(InputError, match="sample ratio"):
        trial.shares(ones, more, ONCE, pair=False)
    assert trial.shares(ones, more, ONCE, pair=False, ratio=0.9).state == "held"
    with pytest.raises(InputError, match="one sample"):
        trial.values(outcomes("a", [1.0]), outcomes("b", [2.0]), ONCE, pair=False, relative=False)
    with pytest.raises(InputError, match="always-valid"):
        trial.values(ones, ones, Rules(1.0, stopping="always-valid"), pair=False, relative=False, statistic="p50")
    with pytest.raises(InputError, match="bootstrap"):
        trial.values(ones, ones, Rules(1.0), pair=True, relative=False, statistic="p50", method="bootstrap")
    with pytest.raises(InputError, match="planned"):
        Rules(0.5, stopping="pocock")
    with pytest.raises(InputError, match="not positive"):
        trial.values(outcomes("a", [-1.0, 1.0]), outcomes("b", [1.0, 2.0]), ONCE, pair=False, relative=True)
    with pytest.raises(InputError, match="right or wrong"):
        trial.shares(outcomes("a", [0.5, 1]), outcomes("b", [1, 1]), ONCE, pair=True)
    with pytest.raises(InputError, match="statistic"):
        trial.quantile_of("p101")


def test_mixed_hardware_is_labelled() -> None:
    a, b = outcomes("a", [1, 0, 1], device="x"), outcomes("b", [1, 0, 1], device="y")
    assert trial.shares(a, b, Rules(50), pair=True).notes[0].code == "mixed-hardware"


def test_one_sample_is_undecided() -> None:
    found = trial.shares(outcomes("a", [1]), outcomes("b", [1]), ONCE, pair=True)
    assert (found.state, found.needed) == ("undecided", 539)


def test_records_follow_their_schema_and_are_read_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert trial_record.schema() == trial_record.generate_schema()
    rng = np.random.default_rng(9)
    values = [outcomes(l, rng.random(400)) for l in "ab"]
    made = [trial.shares(*pairs(290, 3, 3, 4), Rules(0.5, stopping="pocock", planned=900), pair=True),
            trial.values(*values, Rules(1.0), pair=False, relative=True, statistic="p99.9"),
            trial.design(0.5, discordance=0.02, stopping="pocock", looks=3)]
    for record in made:
        jsonschema.validate(json.loads(trial_record.encode(record)), trial_record.schema())
    file = tmp_path / "t.json"
    file.write_bytes(trial_record.encode(made[0]))
    assert trial_record.read_trial(file) == made[0]
    for text in ("[]", "{", '{"schema": 9}', '{"kind": "shares"}'):
        file.write_text(text)
        with pytest.raises(InputError):
            trial_record.read_trial(file)


def test_needed_samples_decide_what_was_undecided() -> None:
    g = 0.9
    few = trial.shares(*(outcomes(l, np.arange(500) < g * 500) for l in "ab"), Rules(2.0), pair=False)
    assert few.state == "undecided"
    assert few.needed is not None
    many = trial.shares(*(outcomes(l, np.arange(few.needed) < g * few.needed) for l in "ab"), Rules(2.0), pair=False)
    assert many.state == "held"
    assert few.needed == pytest.approx((norm.ppf(0.95) + norm.ppf(0.9)) ** 2 * 2 * g * (1 - g) / 0.02 ** 2, rel=0.02)
    assert paired.CONFIDENCE == 0.95


def _odd(rng: np.random.Generator) -> np.ndarray:
    n = int(rng.choice([1, 2, 3, 30, 300]))
    return [np.zeros(n), np.ones(n), rng.integers(0, 2, n).astype(float), rng.standard_normal(n), np.full(n, 1e99),
            np.exp(30 * rng.standard_normal(n)), 1e-310 * rng.standard_normal(n), np.linspace(0, 1, n)][rng.integers(8)]


@pytest.mark.filterwarnings("error")
def test_odd_values_give_a_trial_or_a_sentence_and_never_certainty_from_nothing() -> None:
    rng = np.random.default_rng(10)
    judged, schema = 0, jsonschema.Draft202012Validator(trial_record.schema())
    for _ in range(120):
        x, y = (outcomes(l, _odd(rng)) for l in "ab")
        pair = bool(rng.random() < 0.5)
        try:
            rules = Rules(float(rng.choice([1e-9, 0.5, 5, 99])), stopping=str(rng.choice(  # type: ignore[arg-type]
                ["once", "pocock", "obrien-fleming", "always-valid"])), planned=int(rng.choice([2, 100, 10 ** 6])))
            if rng.random() < 0.5:
                found = trial.shares(x, y, rules, pair=pair, ratio=None)
            else:
                found = trial.values(x, y, rules, pair=pair, relative=bool(rng.random() < 0.5), ratio=None,
                                     higher_better=bool(rng.random() < 0.5),
                                     statistic=str(rng.choice(["mean", "p50", "p99"])))
        except InputError:
            continue
        judged += 1
        schema.validate(json.loads(trial_record.encode(found)))
        assert report.html(found).endswith("</html>\n")
        assert min(found.a.n, found.b.n) > 1 or found.state == "undecided" or found.margin == 99
    assert judged > 25


def test_values_that_do_not_vary_bound_nothing() -> None:
    same = outcomes("a", np.full(1000, 3.0))
    for pair in (False, True):
        found = trial.values(same, same, Rules(1.0), pair=pair, relative=True)
        assert (found.state, found.lower, found.upper, found.needed) == ("undecided", None, None, None) or (
            found.state == "undecided" and found.lower == -100)
        assert "no-spread" in [n.code for n in found.notes]
