"""Metrics: right values, right errors, nothing broken counted as right."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error

from whet.errors import InputError, PluginError
from whet.measure import by_name
from whet.measure.metrics import NAMES
from whet.measure.similarity import _ranks

rng = np.random.default_rng(7)
LABELS = rng.integers(0, 6, 301)
LOGITS = (rng.standard_normal((301, 6)) + 2 * np.eye(6)[LABELS]).astype(np.float32)
NOISY = LOGITS + 0.3 * rng.standard_normal(LOGITS.shape).astype(np.float32)


def test_top1_and_top5_count_what_they_say() -> None:
    right = LOGITS.argmax(1) == LABELS
    found = by_name("top1").evaluate(LOGITS, LABELS)
    assert found.value == right.mean()
    assert np.array_equal(found.outcomes, right)
    five = np.argsort(-LOGITS, axis=1)[:, :5]
    assert by_name("top5").evaluate(LOGITS, LABELS).value == (five == LABELS[:, None]).any(1).mean()


def test_of_equal_scores_the_first_counts() -> None:
    assert by_name("top1").evaluate(np.zeros((2, 3)), [0, 1]).outcomes.tolist() == [True, False]
    assert by_name("top5").evaluate(np.zeros((2, 9)), [4, 5]).outcomes.tolist() == [True, False]


def test_the_models_own_labels_will_do_for_top1() -> None:
    assert by_name("top1").evaluate(np.array([3, 1, 2]), [3, 1, 1]).value == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="scores of all classes"):
        by_name("top5").evaluate(np.array([3, 1, 2]), [3, 1, 1])


def test_f1_is_the_macro_mean_also_of_resamples_and_when_one_is_left_out() -> None:
    def right(index: np.ndarray) -> float:
        return f1_score(LABELS[index], NOISY[index].argmax(1), average="macro")

    every = np.arange(len(LABELS))
    metric, scores = by_name("f1"), by_name("f1").evaluate(NOISY, LABELS)
    assert scores.value == pytest.approx(right(every))
    left = metric.left_out(scores.parts)
    assert [left[i] for i in (0, 17, 300)] == pytest.approx([right(np.delete(every, i)) for i in (0, 17, 300)])
    weights = rng.integers(0, 3, (2, len(LABELS)))
    assert metric.resampled(scores.parts, weights) == pytest.approx([right(np.repeat(every, w)) for w in weights])


@pytest.mark.parametrize(("name", "right"), [
    ("mse", mean_squared_error), ("rmse", lambda a, b: mean_squared_error(a, b) ** 0.5), ("mae", mean_absolute_error)])
def test_errors_of_a_regression(name: str, right) -> None:
    found = by_name(name).evaluate(NOISY, LOGITS)
    assert found.value == pytest.approx(right(LOGITS, NOISY))
    assert not found.metric.higher_better
    assert found.metric.loss(2.0, 2.5) == 25  # percent of the reference's error
    assert found.metric.loss(0.0, 0.0) == 0


def test_a_column_and_a_vector_are_the_same_regression() -> None:
    assert by_name("mae").evaluate(np.array([[1.0], [2.0]]), np.array([1.5, 2.0])).value == 0.25


def test_spearman_is_the_rank_correlation_of_all_pairs() -> None:
    def pairs(x: np.ndarray) -> np.ndarray:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (unit @ unit.T)[np.triu_indices(len(x), 1)]

    def right(keep: np.ndarray) -> float:
        return spearmanr(pairs(a[keep]), pairs(b[keep])).statistic

    a, b = LOGITS[:60].astype(np.float64), NOISY[:60].astype(np.float64)
    metric, scores = by_name("spearman"), by_name("spearman").evaluate(b, reference=a)
    assert scores.value == pytest.approx(right(np.arange(60)), abs=1e-12)
    weights = rng.integers(0, 2, (3, 60)).astype(float)
    # Ranks are not taken anew in a resample: near, not equal.
    assert metric.resampled(scores.parts, weights) == pytest.approx([right(w > 0) for w in weights], abs=0.02)
    assert metric.left_out(scores.parts)[5] == pytest.approx(right(np.delete(np.arange(60), 5)), abs=0.005)


def test_ties_have_average_ranks() -> None:
    similarities = np.array([[1, 0.5, 0.5], [0.5, 1, 0.1], [0.5, 0.1, 1]])
    assert _ranks(similarities)[np.triu_indices(3, 1)].tolist() == [2.5, 2.5, 1]


def test_cosine_of_equal_outputs_is_one_and_of_opposite_ones_minus_one() -> None:
    assert by_name("cosine").evaluate(LOGITS, reference=LOGITS).value == pytest.approx(1)
    assert by_name("cosine").evaluate(-LOGITS, reference=LOGITS).value == pytest.approx(-1)


def test_divergence_compares_classes_by_their_highest_and_all_else_by_distance() -> None:
    classes = by_name("divergence", LOGITS)
    assert classes.name == "divergence:agreement"
    found = classes.evaluate(NOISY, reference=LOGITS)
    assert found.value == (NOISY.argmax(1) == LOGITS.argmax(1)).mean()
    distance = np.linalg.norm(NOISY - LOGITS) / np.linalg.norm(LOGITS)
    assert found.details["relative_l2"] == pytest.approx(distance, rel=1e-5)
    assert found.details["sqnr_db"] == pytest.approx(-20 * np.log10(distance), rel=1e-5)
    assert found.details["kl"] > 0
    image = by_name("divergence", LOGITS.reshape(7, 43, 6))
    assert image.name == "divergence:l2"
    assert image.evaluate(NOISY.reshape(7, 43, 6), reference=LOGITS.reshape(7, 43, 6)).value == pytest.approx(distance)
    assert classes.evaluate(LOGITS, reference=LOGITS).details["kl"] == pytest.approx(0, abs=1e-12)


def test_probabilities_are_taken_as_they_are_in_kl() -> None:
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    found = by_name("divergence:agreement").evaluate(q, reference=p).details["kl"]
    assert found == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "divergence"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_outputs_are_counted_and_never_right(name: str, bad: float) -> None:
    broken = LOGITS.copy()
    broken[3, 0] = broken[9, 5] = bad
    metric = by_name(name)
    labels = LOGITS if name in ("mse", "rmse", "mae") else LABELS
    found = metric.evaluate(broken, labels, LOGITS)
    assert found.broken == 2
    if metric.paired:
        assert not found.outcomes[[3, 9]].any()
    better = metric.evaluate(LOGITS, labels, LOGITS)
    assert metric.loss(better.value, found.value) > 0


@pytest.mark.parametrize(("outputs", "labels", "words"), [
    (LOGITS, LABELS[:-1], "301 outputs and 300 labels"),
    (LOGITS, LABELS + 1, "begin at 1"),
    (LOGITS, LABELS - 1, "outside of the model's classes"),
    (LOGITS, LABELS + 0.5, "whole numbers"),
    (LOGITS, np.full(301, np.nan), "whole numbers"),
    (LOGITS, np.eye(6)[LABELS], "one number a sample"),
    (LOGITS, np.array(["cat"] * 301), "one number a sample"),
    (LOGITS, None, "needs labels"),
    (LOGITS[:, :1], LABELS, r"\[samples, classes\]"),
    (LOGITS[:0], LABELS[:0], "no samples"),
    (np.array(["a"]), [0], "compares numbers"),
])
def test_bad_labels_are_one_clear_error(outputs: np.ndarray, labels: np.ndarray | None, words: str) -> None:
    for name in ("top1", "f1"):
        with pytest.raises(InputError, match=words):
            by_name(name).evaluate(outputs, labels)


def test_top5_of_five_classes_is_refused() -> None:
    with pytest.raises(InputError, match="always right"):
        by_name("top5").evaluate(LOGITS[:, :5], np.zeros(301, int))


def test_a_reference_that_does_not_fit_is_refused() -> None:
    for name in ("cosine", "spearman", "divergence:agreement", "divergence:l2"):
        metric = by_name(name)
        with pytest.raises(InputError, match="needs the reference"):
            metric.evaluate(LOGITS)
        with pytest.raises(InputError, match="differ in shape"):
            metric.evaluate(LOGITS, reference=LOGITS[:, :5])
        with pytest.raises(InputError, match="not all finite"):
            metric.evaluate(LOGITS, reference=LOGITS * np.nan)


@pytest.mark.parametrize("name", ["top2", "accuracy", "", "nowhere:fn", "math:nothing", "math:pi"])
def test_an_unknown_metric_says_what_there_is(name: str) -> None:
    with pytest.raises(InputError, match="no metric"):
        by_name(name)


def test_functions_are_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_metric.py").write_text(
        "import numpy as np\n"
        "def right(y, labels): return y.argmax(1) == labels\n"
        "def margin(y, labels): return np.sort(y, 1)[:, -1] - np.sort(y, 1)[:, -2]\n"
        "def whole(y, labels): return float((y.argmax(1) == labels).mean())\n"
        "def error(y, labels): return float(np.abs(y).max())\n"
        "error.higher_better = False\n"
        "def fails(y, labels): raise KeyError('x')\n"
        "def short(y, labels): return np.ones(3)\n"
        "def words(y, labels): return 'good'\n")
    monkeypatch.chdir(tmp_path)
    top1 = by_name("top1").evaluate(LOGITS, LABELS)
    right = by_name("mine_metric:right").evaluate(LOGITS, LABELS)
    assert right.metric.paired
    assert np.array_equal(right.outcomes, top1.outcomes)
    whole = by_name("mine_metric:whole").evaluate(LOGITS, LABELS)
    assert whole.value == top1.value
    low, high = whole.interval().low, whole.interval().high
    assert top1.interval().low == pytest.approx(low, abs=0.02)
    assert top1.interval().high == pytest.approx(high, abs=0.02)
    assert by_name("mine_metric:margin").evaluate(LOGITS).value > 0
    assert not by_name("mine_metric:error").evaluate(LOGITS).metric.higher_better
    for name, words in (("fails", "failed"), ("short", "returned shape"), ("words", "no numbers")):
        with pytest.raises(PluginError, match=words):
            by_name(f"mine_metric:{name}").evaluate(LOGITS, LABELS)


def test_a_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    errors = rng.standard_normal((2000, 1)) ** 2
    found = by_name("mae").evaluate(errors, np.zeros(2000)).interval()
    half = 1.96 * errors.std() / np.sqrt(2000)
    assert found.low == pytest.approx(errors.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(errors.mean() + half, abs=0.15 * half)
