"""Verdicts: held, not held or undecided, with exit codes 0, 1 and 3, and figures in words."""

import numpy as np
import pytest

from whet.errors import InputError
from whet.measure import by_name, judge, paired
from whet.measure.verdict import needed_samples


def outcomes(n: int, lost: int, gained: int, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    reference, candidate = np.ones(n, bool), np.ones(n, bool)
    candidate[:lost] = False
    reference[lost:lost + gained] = False
    reference[n - neither:] = candidate[n - neither:] = False
    return reference, candidate


@pytest.mark.parametrize(("n", "lost", "gained", "state", "code"), [
    (10_000, 30, 20, "held", 0), (10_000, 120, 10, "not held", 1), (1000, 6, 3, "undecided", 3),
    (450, 0, 0, "undecided", 3), (539, 0, 0, "held", 0), (1, 0, 0, "undecided", 3), (10_000, 0, 100, "held", 0)])
def test_states_and_exit_codes(n: int, lost: int, gained: int, state: str, code: int) -> None:
    verdict = judge(*outcomes(n, lost, gained), 0.5)
    assert (verdict.state, verdict.exit_code) == (state, code)
    assert (verdict.needed is not None) == (state == "undecided")


def test_450_alike_samples_are_undecided_with_the_bound_and_the_need_in_words() -> None:
    sentence = judge(*outcomes(450, 0, 0, 20), 0.5).sentence
    assert "Undecided: needs about 539 samples" in sentence
    assert "at most 0.60 with 95 % confidence" in sentence
    assert "95.56 % (93.24 to 97.10)" in sentence
    assert "(0 answered differently: 0 lost, 0 gained)" in sentence


def test_the_need_is_the_formula_where_nothing_was_lost() -> None:
    assert needed_samples(paired.Pairs(480, 5, 5, 10), 0.005) == paired.required_samples(0.02, 0.005) == 6854


def test_the_need_grows_as_the_loss_nears_the_budget() -> None:
    few, many = (needed_samples(paired.Pairs(1000 - b - 10, b, 10, 0), 0.005) for b in (11, 14))
    assert few is not None
    assert many is not None
    assert few < many
    assert needed_samples(paired.Pairs(985, 10, 5, 0), 0.005) is None
    assert "no number of samples" in judge(*outcomes(1000, 10, 5), 0.5).sentence


def test_the_need_decides_it_nine_times_of_ten() -> None:
    # 500 samples with 2 % discordance were undecided: as many as are asked for decide 90 % of repetitions.
    rng = np.random.default_rng(0)
    n = needed_samples(paired.Pairs(490, 5, 5, 0), 0.005)
    assert n is not None
    drawn = rng.multinomial(n, [0.98, 0.01, 0.01], 400)
    held = np.mean([paired.upper_bound(paired.Pairs(int(a), int(b), int(c), 0)) < 0.005 for a, b, c in drawn])
    assert 0.85 < held < 0.95


def test_one_sample_is_said_to_say_nothing() -> None:
    assert "One sample says next to nothing" in judge([True], [True], 0.5).sentence


def test_broken_outputs_are_told() -> None:
    logits = np.tile(np.eye(4), (1000, 1))
    bad = logits.copy()
    bad[7] = np.nan
    labels = np.tile(np.arange(4), 1000)
    top1 = by_name("top1")
    verdict = judge(top1.evaluate(logits, labels), top1.evaluate(bad, labels), 0.5)
    assert verdict.broken == 1
    assert "1 samples gave NaN or infinity and count as wrong" in verdict.sentence
    assert verdict.pairs == paired.Pairs(3999, 1, 0, 0)


def test_a_regression_that_breaks_is_not_held() -> None:
    y = np.random.default_rng(0).standard_normal(50)
    mse = by_name("mse")
    verdict = judge(mse.evaluate(y + 0.1, y), mse.evaluate(np.where(y > 1, np.nan, y), y), 5)
    assert verdict.exit_code == 1
    assert "no numbers" in verdict.sentence


@pytest.mark.parametrize(("noise", "state"), [(0.01, "held"), (0.5, "not held"), (0.1, "undecided")])
def test_aggregates_are_bootstrapped_in_pairs(noise: float, state: str) -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal(600)
    reference = y + 0.3 * rng.standard_normal(600)
    mse = by_name("mse")
    verdict = judge(mse.evaluate(reference, y), mse.evaluate(reference + noise * rng.standard_normal(600), y), 12)
    assert verdict.state == state
    assert (verdict.needed is not None) == (state == "undecided")
    assert verdict.unit == "percent"
    assert verdict.lower <= verdict.loss <= verdict.upper


def test_f1_without_a_differing_answer_is_bounded_as_top1_is() -> None:
    # No resample differs, but that bounds nothing: the floor is the paired bound.
    labels = np.arange(450) % 3
    logits = np.eye(3)[labels]
    f1 = by_name("f1")
    verdict = judge(f1.evaluate(logits, labels), f1.evaluate(logits, labels), 0.5)
    assert verdict.state == "undecided"
    assert round(verdict.upper, 2) == 0.60


def test_few_samples_bound_no_aggregate() -> None:
    y = np.arange(5.0)
    mae = by_name("mae")
    assert judge(mae.evaluate(y + 1, y), mae.evaluate(y + 1, y), 5).state == "undecided"


def test_a_bootstrap_bound_errs_in_one_case_of_twenty() -> None:
    # True loss of the mean cosine: exactly the budget. How often is it called held?
    rng = np.random.default_rng(5)
    cosine, held = by_name("cosine"), 0
    cosine.resamples = 400
    reference = np.tile([1.0, 0.0], (100, 1))
    for _ in range(200):
        angle = rng.gamma(2, 0.05, 100)  # E[1 - cos] in closed form: 1 - Re (1 - 0.05i)^-2
        found = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        budget = 100 * (1 - ((1 - 0.05j) ** -2).real)
        held += judge(cosine.evaluate(reference, reference=reference), cosine.evaluate(found, reference=reference),
                      budget).state == "held"
    assert held <= 0.10 * 200


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_of_nothing_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match="budget"):
        judge([True], [True], budget)


def test_samples_that_differ_in_number_are_refused() -> None:
    with pytest.raises(InputError, match="2 samples of the reference and 3"):
        judge([True] * 2, [True] * 3, 0.5)


@pytest.mark.parametrize("values", [[], [[True]], [0.5, 1.0], [0, 2]])
def test_outcomes_are_truth_values(values: list) -> None:
    with pytest.raises(InputError, match="truth values"):
        judge(values, values, 0.5)


def test_the_best_of_many_candidates_is_judged_more_strictly() -> None:
    pairs = outcomes(10_000, 60, 35)
    assert judge(*pairs, 0.5).state == "held"
    verdict = judge(*pairs, 0.5, looks=20)
    assert verdict.state == "undecided"
    assert "99.8 % confidence" in verdict.sentence
    with pytest.raises(InputError):
        judge(*pairs, 0.5, looks=0)
