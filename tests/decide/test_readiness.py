"""Is it ready? Posteriors from measurements, sets of models, and rules that count beside them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from record_samples import measurement
from whet.decide.forecast import readiness
from whet.decide.forecast.result import Forecast, ModelReady, Requirement, decided, generate_schema, schema
from whet.errors import InputError
from whet.measure.record import Accuracy, Judged, PlanId
from whet.measure.stats import latency

P99 = Requirement(metric="latency.p99", limit=0.050)
LOSS = Requirement(metric="loss", limit=0.5)


def calls(scale: float, n: int = 2000, seed: int = 0) -> Any:
    return latency(scale * np.random.default_rng(seed).lognormal(0, 0.2, n))


def judged(loss: float, upper: float) -> Accuracy:
    return Accuracy(metric="top1", value=0.75, samples=7000, judged=Judged(
        reference="fp32", max_drop=0.5, unit="points", loss=loss, upper=upper, state="held"))


def test_8_of_10_is_0_77_of_a_further_model_and_not_ready_by_the_rule() -> None:
    found = readiness.counted(8, 10, 0.8)
    assert round(found.next, 2) == 0.77
    assert not found.held
    assert readiness.counted(9, 10, 0.8).held
    assert found.probability == pytest.approx(stats.beta.sf(0.8, 8.5, 2.5))


def test_more_than_a_share_is_more_than_it() -> None:
    assert [readiness.more_than(0.8, n) for n in (1, 5, 10, 11)] == [1, 5, 9, 9]
    assert readiness.more_than(0.7, 10) == 8  # 0.7 * 10 is not 7 in floating point


def test_a_percentile_is_below_its_limit_with_the_probability_of_its_share() -> None:
    x = np.random.default_rng(1).lognormal(0, 0.3, 1000)
    limit = float(np.quantile(x, 0.995))
    p, n = readiness.percentile(x.tolist(), 0.99, limit)
    below = n * float((x < limit).mean())
    assert p == pytest.approx(stats.beta.sf(0.99, below + 0.5, n - below + 0.5))
    assert readiness.percentile(x.tolist(), 0.99, float(x.max()) * 2)[0] > 0.99
    assert readiness.percentile(x.tolist(), 0.99, float(np.median(x)))[0] < 1e-6
    assert 0.5 < readiness.percentile([0.01] * 50, 0.99, 0.02)[0] < 0.9  # fifty calls do not show a P99


def test_percentiles_probabilities_hold_what_they_say() -> None:
    rng, limit = np.random.default_rng(2), math.exp(0.2 * stats.norm.ppf(0.99))
    given_ = [readiness.percentile(rng.lognormal(0, 0.2, 700).tolist(), 0.99, limit)[0] for _ in range(300)]
    # At the true P99 itself the posterior is as often low as high.
    assert np.mean(given_) == pytest.approx(0.5, abs=0.06)
    assert (np.array(given_) < 0.1).mean() == pytest.approx(0.1, abs=0.06)


def test_calls_that_resemble_their_neighbours_are_worth_fewer() -> None:
    rng = np.random.default_rng(3)
    busy = np.repeat(rng.random(40) < 0.1, 50)
    x = np.where(busy, 0.06, 0.03) + rng.normal(0, 1e-4, 2000)
    assert readiness.percentile(x.tolist(), 0.99, 0.05)[1] < 500


def test_a_model_is_ready_by_p99_and_loss_together() -> None:
    record = measurement(latency=calls(0.030), accuracy=judged(0.1, 0.3))
    found = readiness.model("net", [record], [P99, LOSS])
    p99, loss = found.checks
    assert loss.probability == pytest.approx(stats.norm.cdf((0.5 - 0.1) / (0.2 / 1.6448536)), abs=1e-6)
    assert p99.probability is not None
    assert found.probability == pytest.approx(p99.probability * loss.probability)
    assert found.passes
    assert (p99.basis, loss.basis) == ("calls", "verdict")


def test_what_was_not_measured_has_no_probability() -> None:
    found = readiness.model("net", [measurement(latency=calls(0.030))], [P99, LOSS])
    assert found.probability is None
    assert found.passes is None
    assert found.checks[1].basis == "missing"
    assert readiness.together([found], 0.8).probability is None
    with pytest.raises(InputError):
        readiness.model("net", [], [P99])


def test_three_runs_of_a_build_count_what_differs_between_them() -> None:
    def runs(plan: str, scales: list[float], day: int) -> list[Any]:
        return [measurement(latency=calls(s, seed=i), plan=PlanId(hash=plan, bytes=10),
                            date=f"2026-02-{day + i:02d}T00:00:00+00:00") for i, s in enumerate(scales)]

    steady = readiness.model("net", runs("b", [0.030, 0.0301, 0.0299], 10), [P99])
    shaky = readiness.model("net", runs("b", [0.020, 0.030, 0.036], 10), [P99])
    assert steady.checks[0].basis == shaky.checks[0].basis == "runs"
    assert steady.probability is not None
    assert shaky.probability is not None
    assert shaky.probability < 0.95 < steady.probability
    newest = readiness.model("net", runs("a", [0.1, 0.1, 0.1], 1) + runs("b", [0.030], 10), [P99])
    assert newest.checks[0].basis == "calls"  # of the newest build alone


def test_other_requirements_go_by_intervals_and_counts() -> None:
    record = measurement(plan=PlanId(hash="x", bytes=1000), throughput=100.0)
    size, rate = readiness.model("net", [record], [Requirement(metric="plan.bytes", limit=900), Requirement(
        metric="throughput", limit=90, below=False)]).checks
    assert (size.probability, size.basis, size.passes) == (0.0, "exact", False)
    assert (rate.probability, rate.basis, rate.passes) == (None, "no interval", True)


@settings(max_examples=50)
@example([1.1125369292536007e-308] * 2)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_number_of_ready_models_is_poisson_binomial(p: list[float]) -> None:
    found = readiness.poisson_binomial(p)
    assert found.sum() == pytest.approx(1)
    assert found @ np.arange(len(p) + 1) == pytest.approx(sum(p))
    if len(set(p)) == 1:
        n, x = len(p), p[0]  # SciPy's binom.pmf overflows for a probability of 1e-308
        want = [math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(n + 1)]
        assert found == pytest.approx(np.array(want), abs=1e-9)


def test_a_set_by_simulation() -> None:
    p = [0.99, 0.9, 0.7, 0.95, 0.5, 0.99, 0.98, 0.9, 0.8, 0.97]
    found = readiness.together([ModelReady(model=str(i), probability=x, passes=x > 0.6, checks=()) for i, x in
                                enumerate(p)], 0.8)
    drawn = (np.random.default_rng(0).random((100_000, 10)) < p).sum(axis=1)
    assert found.probability == pytest.approx((drawn > 8).mean(), abs=0.006)
    assert found.policy is not None
    assert (found.policy.ready, found.policy.held) == (9, True)


def test_decisions_and_exit_codes() -> None:
    assert [decided(p, 0.8) for p in (0.8, 0.79, 0.2, None)] == ["held", "undecided", "not held", "undecided"]
    assert Forecast(date="", sure=0.8).exit_code == 0


@pytest.mark.parametrize(("ready", "models", "share"), [
    (11, 10, 0.8), (-1, 10, 0.8), (0, 0, 0.8), (1, 2, 1.0), (1, 2, 0)])
def test_counts_that_are_none_are_refused(ready: int, models: int, share: float) -> None:
    with pytest.raises(InputError):
        readiness.counted(ready, models, share)


def test_the_packaged_schema_is_that_of_the_types() -> None:
    assert schema() == generate_schema()
