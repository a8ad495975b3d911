"""Objectives with their intervals, and the verdict on the whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest

from record_samples import measurement
from whet.decide.gate import Objectives, Rules, anomaly, judge, result
from whet.decide.gate.objectives import judge as of_objectives
from whet.decide.gate.objectives import of_texts
from whet.errors import InputError
from whet.measure import record, stats
from whet.measure.record import Accuracy, Judged, Measurement, Memory, OutputError, PlanId

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def run(ms: float = 40.0, calls: int = 600, seed: int = 0, **fields: Any) -> Measurement:
    """A measurement whose latency is about so many milliseconds, of batches of 8."""
    latency = stats.latency(ms / 1e3 * np.exp(np.random.default_rng(seed).normal(0, 0.02, calls)))
    base: dict[str, Any] = {"date": (DAY + timedelta(days=60)).isoformat(), "latency": latency,
                            "throughput": 8 / latency.p50.value, "plan": PlanId(hash="ab" * 32, bytes=100_000_000),
                            "memory": Memory(peak_bytes=500 << 20, idle_bytes=100 << 20)}
    return measurement(**base | fields)


def past(values: list[float]) -> judge.Past:
    return judge.Past([DAY + timedelta(days=i) for i in range(len(values))], values, [False] * len(values))


@pytest.mark.parametrize(("wanted", "state"), [
    ({"p99": "50ms"}, "held"), ({"p99": "0.05 s"}, "held"), ({"p99": 41}, "not held"), ({"p99": "30000us"}, "not held"),
    ({"p99": "41.9ms"}, "undecided"), ({"throughput": 190}, "held"), ({"throughput": "210 qps"}, "not held"),
    ({"throughput": "1,500/s"}, "not held"), ({"memory": "1GiB"}, "held"), ({"memory": "500 MB"}, "not held"),
    ({"plan_size": "100MB"}, "held"), ({"plan_size": "95MiB"}, "not held"), ({"max_drop": 0.5}, "not measured"),
])
def test_an_objective_is_held_where_the_interval_lies_within(wanted: dict[str, Any], state: str) -> None:
    (found,) = of_objectives(of_texts(wanted), [run()])
    assert found.state == state, found


def test_few_calls_bound_no_p99() -> None:
    (found,) = of_objectives(of_texts({"p99": "100ms"}), [run(calls=100)])
    assert found.state == "undecided"
    assert found.notes[0].values == {"count": 100, "needed": 368}
    (pooled,) = of_objectives(of_texts({"p99": "100ms"}), [run(calls=100, seed=i) for i in range(4)])
    assert pooled.state == "held"


@pytest.mark.parametrize(("upper", "stated", "asked", "state"), [
    (0.4, 0.5, 0.5, "held"), (0.7, 0.5, 0.5, "not held"), (0.7, 1.0, 0.5, "undecided"), (0.4, 0.2, 0.5, "held")])
def test_a_loss_is_judged_as_the_pairs_say(upper: float, stated: float, asked: float, state: str) -> None:
    judged = Judged(reference="fp32", max_drop=stated, unit="points", loss=0.3, upper=upper,
                    state="held" if upper < stated else "not held")
    found = of_objectives(of_texts({"max_drop": asked}), [run(accuracy=Accuracy(
        metric="top1", value=0.9, samples=9000, judged=judged))])[0]
    assert (found.state, found.high) == (state, upper)


def test_a_loss_against_an_earlier_measurement_is_of_two_groups() -> None:
    def of(value: float, n: int) -> Measurement:
        return run(accuracy=Accuracy(metric="top1", value=value, samples=n))

    wanted = of_texts({"max_drop": 1})
    assert of_objectives(wanted, [of(0.9, 400)], of(0.9, 400))[0].state == "undecided"
    assert of_objectives(wanted, [of(0.9, 40_000)], of(0.9, 40_000))[0].state == "held"
    assert of_objectives(wanted, [of(0.8, 4_000)], of(0.9, 4_000))[0].state == "not held"
    assert of_objectives(wanted, [of(0.8, 4_000)])[0].state == "not measured"


@pytest.mark.parametrize("wanted", [{"p99": "fast"}, {"p99": -1}, {"p99": 0}, {"p99": "50 MB"}, {"p99": True},
                                    {"p99": "1e999"}, {"memory": [1]}, {"speed": 3}, {"p99": float("nan")}])
def test_an_objective_that_cannot_be_is_one_clear_error(wanted: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        of_texts(wanted)


def case(runs: list[Measurement], wanted: Objectives | None = None,
         history: dict[str, judge.Past] | None = None, **rules: Any) -> result.Case:
    return judge.case(runs, wanted or Objectives(), history, Rules(**rules))


def test_the_whole_is_as_its_worst_part() -> None:
    held, wanted = past([40e-3] * 20), of_texts({"p99": "50ms"})
    assert case([run()], wanted, {"latency.p50": held}).state == "held"
    assert case([run(60)], wanted, {"latency.p50": held}).state == "not held"
    assert case([run()], wanted, {"latency.p50": past([])}).state == "undecided"
    assert case([run()], of_texts({"max_drop": 1}), {"latency.p50": past([])}).state == "not measured"
    assert case([run(45, seed=i) for i in range(4)], None, {"latency.p50": held}).state == "not held"
    wrong = OutputError(reference="onnxruntime", measure="relative-l2", value=1.0, limit=1e-3)
    assert case([run(error=wrong)], wanted).state == "not held"
    states = [result.worst(s) for s in ([], ["held", "undecided"], ["not measured", "undecided"])]  # type: ignore[list-item]
    assert states == ["held", "undecided", "not measured"]
    assert [result.EXIT_CODES[s] for s in ("held", "not held", "not measured", "undecided")] == [0, 1, 2, 3]


def test_the_change_is_against_the_level_of_the_history() -> None:
    found = case([run()], None, {"latency.p99": past([64.5e-3] * 10)})
    assert found.against == "history"
    assert found.change == pytest.approx(-0.35, abs=0.02)
    assert judge.case([run()], Objectives(), None, Rules(), run(80)).change == pytest.approx(-0.5, abs=0.01)


def test_a_clock_that_went_back_decides_nothing() -> None:
    found = case([run(date="2026-03-11T00:00:00+00:00")], None, {"latency.p50": past([40e-3] * 30)})
    (trend,) = found.trends
    assert (trend.state, trend.count) == ("undecided", 11)
    assert trend.notes[0].code == "clock"
    assert trend.notes[0].values["later"] == 19


def test_values_that_are_no_positive_numbers_decide_nothing() -> None:
    (trend,) = case([run()], None, {"latency.p50": past([40e-3] * 10 + [0.0])}).trends
    assert (trend.state, trend.notes[0].code) == ("undecided", "not-positive")


def test_of_accuracy_points_count() -> None:
    def of(value: float) -> Measurement:
        return run(accuracy=Accuracy(metric="top1", value=value, samples=9000))

    history = {"accuracy.top1": past([0.760 + 0.0005 * (i % 3) for i in range(20)])}
    assert case([of(0.757)] * 4, None, history).state == "held"
    assert case([of(0.745)] * 4, None, history).state == "not held"
    assert case([of(0.745)] * 4, of_texts({"max_drop": 3}), history).trends[0].state == "held"


def test_the_result_keeps_its_schema() -> None:
    assert result.generate_schema() == result.schema()
    found = judge.gate([case([run(60, seed=i) for i in range(4)], of_texts({"p99": "50ms", "max_drop": 1}),
                             {"latency.p50": past([40e-3] * 20), "throughput": past([])})], Rules())
    jsonschema.validate(json.loads(result.encode(found)), result.schema())
    assert result.of_body(result.body(found)) == found
    jsonschema.validate(json.loads(json.dumps(result.short(found))), result.schema())
    assert "points" not in result.short(found)["cases"][0]["trends"][0]
    for damaged in ({"schema": 2}, {}, [], {**result.body(found), "state": "fine"}):
        with pytest.raises(InputError):
            result.of_body(damaged)


def test_quantization_that_gains_half_of_what_it_did_is_atypical() -> None:
    before = [0.11, 0.12, 0.13, 0.12]
    found = anomaly.atypical(before, 0.06, "int8")
    assert found is not None
    assert found.values == {"precision": "int8", "gain": 0.06, "mean": pytest.approx(0.12), "count": 4}
    for usual in (before, 0.11), ([0.02, 0.12, 0.22, 0.1], 0.06), ([0.12, 0.12], 0.06), ([-0.1] * 5, -0.2):
        assert anomaly.atypical(*usual, "int8") is None  # type: ignore[misc]


def test_gains_are_of_measurements_that_lie_near() -> None:
    real = [(DAY + timedelta(days=i), 10.0) for i in range(0, 20, 10)]
    quantized = [(DAY, 8.8), (DAY + timedelta(days=5), 5.0), (DAY + timedelta(days=10, hours=3), 9.0)]
    assert anomaly.gains(real, quantized) == pytest.approx([0.12, 0.1])


def test_a_plan_names_the_causes() -> None:
    info = {"layers": [{"name": "NonMaxSuppression nms", "reason": "no kernel"}], "precision": {
        "int8": {"layers": ["a", "b"], "kept": {"conv1": "slower here", "conv2": "slower here", "fc": "no range"}},
        "calibration": {"samples": 8, "method": "mse", "coverage": ["8 samples: too few"], "warnings": []}}}
    codes = [n.code for n in anomaly.causes(info, "int8")]
    assert codes == ["kept-layers", "kept-because", "kept-because", "hosted", "calibrated", "coverage"]
    assert anomaly.causes(info, "int8")[0].values == {"count": 3, "of": 5, "precision": "int8"}
    for odd in ({}, {"precision": None}, {"precision": {"int8": [], "calibration": 3}}):
        assert [n.code for n in anomaly.causes(odd, "int8")] == ["no-cause"]


def test_records_of_bench_are_taken_as_they_are() -> None:
    (same,) = record.decode(record.encode([run()]))
    assert case([same], of_texts({"p99": "50ms"})).state == "held"
