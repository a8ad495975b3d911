"""What a change returns: the worked example to its printed digits, and what no fleet, price or sample may decide."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from decide.roi_scenarios import WORKED, batch_record, decide, worked
from whet.decide import prices, result
from whet.decide.result import Result
from whet.errors import InputError
from whet.measure.record import Accuracy, Judged, Load, Memory, encode


@pytest.fixture(scope="module")
def example() -> Result:
    return decide(worked())


def test_the_worked_example_to_its_digits(example: Result) -> None:
    found = example.returned
    assert found is not None
    assert found.saving == pytest.approx(1728, abs=1e-9)
    assert found.ratio == pytest.approx(0.3456, abs=1e-12)
    assert round(found.payback or 0, 3) == 2.894
    assert round(found.roi or 0, 3) == 3.147
    assert example.verdict == "pays"
    assert example.exit_code == 0


def test_its_fleets_are_stable_and_its_utilization_is_warned_of(example: Result) -> None:
    assert [o.devices for o in example.options] == [9, 3]
    warned = [f for f in example.findings if f.code == "C101"]
    assert [f.say.values["utilization"] for f in warned] == [1.0, 1.0]
    assert [f.say.values["stable"] for f in warned] == [9, 3]


def test_the_figures_as_stated_are_shown_beside(example: Result) -> None:
    stated = example.stated
    assert stated is not None
    assert (stated.before, stated.after) == (8, 2)
    assert stated.saving == pytest.approx(1728)
    assert round(stated.payback or 0, 3) == 2.894


def test_a_wrong_fleet_changes_the_money() -> None:
    """At 100 % utilization 10 and 2 machines; stable 11 and 3, of which the new ones cost thrice as much: the saving is
    half of what mean throughput promises."""
    options = [{"name": "old", "throughput": 40, "p99_ms": 100, "instances": 10, "price_per_hour": 0.40},
               {"name": "new", "throughput": 200, "p99_ms": 30, "instances": 2, "price_per_hour": 1.20}]
    r = decide(worked(load={"rate": 400}, before="old", after="new", options=options, objective={"p99_ms": 500}))
    assert r.stated is not None
    assert r.returned is not None
    assert r.stated.saving == pytest.approx(1.6 * 720)
    assert [o.devices for o in r.options] == [11, 3]
    assert r.returned.saving == pytest.approx(0.8 * 720)
    assert r.returned.payback == pytest.approx(5000 / (0.8 * 720))


def test_a_wrong_fleet_turns_the_verdict() -> None:
    """2 dearer machines break even by mean throughput; queueing needs 3, which lose money every month."""
    options = [{"name": "old", "throughput": 40, "p99_ms": 100, "instances": 10, "price_per_hour": 0.40},
               {"name": "new", "throughput": 200, "p99_ms": 30, "instances": 2, "price_per_hour": 1.90}]
    r = decide(worked(load={"rate": 400}, before="old", after="new", options=options, objective={"p99_ms": 500}))
    assert r.stated is not None
    assert r.returned is not None
    assert r.stated.saving > 0 > r.returned.saving
    assert r.verdict == "does not pay"
    assert r.exit_code == 1


def test_a_tighter_objective_needs_more_machines() -> None:
    assert (decide(worked(objective={"p99_ms": 325})).option("PyTorch").devices or 0) == 9
    tight = decide(worked(objective={"p99_ms": 120}, options=[
        {**WORKED["options"][0], "p99_ms": 110}, WORKED["options"][1]]), requests=20_000)
    assert (tight.option("PyTorch").devices or 0) == 10


def test_a_mean_without_p99_is_undecided() -> None:
    options = [{k: v for k, v in o.items() if k != "p99_ms"} for o in WORKED["options"]]
    r = decide(worked(options=options))
    assert r.verdict == "undecided"
    assert r.exit_code == 3
    assert "p99_ms" in r.reasons[0].text()


def test_a_stated_p99_over_the_objective_is_undecided() -> None:
    r = decide(worked(objective={"p99_ms": 200}))
    assert r.exit_code == 3
    assert r.reasons[0].code == "stated-p99-over"


def test_an_objective_that_nothing_meets() -> None:
    options = [{**WORKED["options"][0], "p99_ms": 20}, {**WORKED["options"][1], "p99_ms": 20}]
    r = decide(worked(objective={"p99_ms": 30}, options=options))
    assert r.option("PyTorch").unreachable
    assert r.option("PyTorch").cost is None
    assert r.verdict == "undecided"  # what runs today does not keep it, so there is nothing to compare with
    only_new = decide(worked(objective={"p99_ms": 30}, before="optimized", after="PyTorch", options=options))
    assert only_new.verdict == "does not pay"


# -- measured options -------------------------------------------------------------------------------


def measured(folder: Path, **files: list[Any]) -> dict[str, Any]:
    """A scenario of options that were measured."""
    options = []
    for name, records in files.items():
        (folder / f"{name}.json").write_bytes(encode(records))
        options.append({"name": name, "measurements": str(folder / f"{name}.json"), "price_per_hour": 0.5,
                        "max_batch": 8, "max_delay_ms": 2})
    names = list(files)
    return {"load": {"rate": 500}, "objective": {"p99_ms": 80}, "labour": {"cost": 3000}, "before": names[0],
            "after": names[1], "options": options}


def test_measured_options(tmp_path: Path) -> None:
    slow = [batch_record(b, s, backend="onnxruntime") for b, s in ((1, 0.010), (8, 0.050))]
    fast = [batch_record(b, s) for b, s in ((1, 0.004), (8, 0.016))]
    r = decide(measured(tmp_path, slow=slow, fast=fast))
    assert [o.basis for o in r.options] == ["measured", "measured"]
    assert r.option("fast").samples == 1000
    assert (r.option("slow").devices or 0) > (r.option("fast").devices or 0)
    batch = next(a for a in r.answers if a.question == "batch")
    assert batch.state == "yes"
    assert [row.option for row in batch.rows] == ["fast, batch 1", "fast, batch 8"]
    assert (batch.rows[1].devices or 0) < (batch.rows[0].devices or 99)
    assert batch.choice == "8"


@pytest.mark.parametrize("count", [1, 100])
def test_too_few_samples_are_undecided(tmp_path: Path, count: int) -> None:
    fast = [batch_record(b, s, count) for b, s in ((1, 0.004), (8, 0.016))]
    slow = [batch_record(b, s) for b, s in ((1, 0.010), (8, 0.050))]
    r = decide(measured(tmp_path, slow=slow, fast=fast))
    assert r.exit_code == 3
    assert (r.reasons[0].code, r.reasons[0].values["count"]) == ("few-samples", count)


def test_other_hardware_is_refused_unless_asked_for(tmp_path: Path) -> None:
    data = measured(tmp_path, slow=[batch_record(8, 0.05)], fast=[batch_record(8, 0.016)])
    data["options"][1]["device"] = "H100"
    with pytest.raises(InputError, match="other hardware"):
        decide(data)
    r = decide(data | {"mixed_hardware": True})
    assert [f.code for f in r.findings] == ["C202"]


def test_records_that_break_littles_law_are_refused(tmp_path: Path) -> None:
    wrong = batch_record(8, 0.016, throughput=8 / 0.008)
    data = measured(tmp_path, slow=[batch_record(8, 0.05)], fast=[wrong])
    with pytest.raises(InputError, match="Little's law"):
        decide(data)


def test_contexts_must_fit_into_memory() -> None:
    options = [WORKED["options"][0], {**WORKED["options"][1], "contexts": 4, "context_gib": 5, "memory_gib": 16}]
    with pytest.raises(InputError, match="do not fit") as e:
        decide(worked(options=options))
    assert "at most 3" in e.value.do
    options[1]["memory_gib"] = 24
    assert decide(worked(options=options)).option("optimized").devices == 3


def test_as_many_contexts_as_do_best_and_fit(tmp_path: Path) -> None:
    """Four contexts at once take 2.2 times as long each: 1.8 times the rate of a device."""
    one = batch_record(1, 0.010, memory=Memory(peak_bytes=3 << 30, idle_bytes=0))
    four = batch_record(1, 0.022, memory=Memory(peak_bytes=3 << 30, idle_bytes=0), load=Load(concurrency=4),
                        throughput=4 / 0.0225)
    data = measured(tmp_path, slow=[batch_record(1, 0.03)], fast=[one, four])
    for o in data["options"]:
        o["max_batch"] = 1
    data["options"][1]["memory_gib"] = 16
    packed = decide(data).option("fast")
    assert packed.contexts == 4
    data["options"][1]["memory_gib"] = 8
    alone = decide(data).option("fast")
    assert alone.contexts == 1
    assert (alone.devices or 0) > (packed.devices or 0)


# -- uncertainty ------------------------------------------------------------------------------------

UNSURE = {"load": {"low": 0.8, "high": 1.3}, "growth": {"low": 0, "high": 4}, "price": {"low": 0.9, "high": 1.1},
          "labour": {"low": 0.7, "high": 1.8, "shape": "triangular"}}


@pytest.fixture(scope="module")
def unsure() -> Result:
    return decide(worked(uncertainty=UNSURE))


def test_draws_are_seeded(unsure: Result) -> None:
    again = decide(worked(uncertainty=UNSURE))
    other = decide(worked(uncertainty=UNSURE), seed=1)
    assert unsure.returned is not None
    assert again.returned is not None
    assert other.returned is not None
    assert again.returned.intervals == unsure.returned.intervals
    assert other.returned.intervals != unsure.returned.intervals


def test_intervals_enclose_and_the_fan_widens(unsure: Result) -> None:
    assert unsure.returned is not None
    found = unsure.returned.intervals
    assert found is not None
    assert found.varied == ("load", "growth", "price", "labour")
    assert (found.npv.p5 or 0) < (found.npv.p50 or 0) < (found.npv.p95 or 0)
    fan = np.array(found.fan)
    assert fan.shape == (5, 13)
    assert (np.diff(fan, axis=0) >= 0).all()
    assert np.diff(fan[[0, 4]], axis=0)[0, 12] > np.diff(fan[[0, 4]], axis=0)[0, 1]
    assert found.paid_back > 0.99
    assert found.worth <= found.paid_back
    assert unsure.verdict == "pays"


def test_a_payback_that_is_uncertain_is_undecided() -> None:
    r = decide(worked(uncertainty=UNSURE, horizon_months=3))
    assert r.returned is not None
    assert r.returned.intervals is not None
    assert 0.05 < r.returned.intervals.paid_back < 0.95
    assert r.exit_code == 3


def test_the_tornado_is_sorted_and_says_what_it_assumed(example: Result, unsure: Result) -> None:
    for r, assumed in ((example, True), (unsure, False)):
        assert r.returned is not None
        bars = r.returned.tornado
        widths = [abs(b.npv_high - b.npv_low) for b in bars]
        assert widths == sorted(widths, reverse=True)
        assert {b.assumed for b in bars} == {assumed}
        labour = next(b for b in bars if b.name == "labour")
        assert labour.npv_high - labour.npv_low == pytest.approx(-5000 * (labour.high - labour.low))


def test_growth_needs_more_machines_later() -> None:
    r = decide(worked(load={"rate": 360, "growth_percent_per_month": 8}))
    assert r.returned is not None
    assert r.returned.flows[1] == pytest.approx(1728)
    assert r.returned.flows[12] > 1728 * 1.5
    assert all(b >= a - 1e-6 for a, b in zip(r.returned.flows[1:], r.returned.flows[2:]))


# -- money ------------------------------------------------------------------------------------------


def test_currency_is_a_unit() -> None:
    """All money in another unit: ratios stay, amounts scale."""
    options = [{**o, "price_per_hour": o["price_per_hour"] * 7} for o in WORKED["options"]]
    a, b = decide(worked()), decide(worked(currency="CNY", options=options, labour={"cost": 35000}))
    assert a.returned is not None
    assert b.returned is not None
    assert b.returned.npv == pytest.approx(7 * a.returned.npv)
    assert b.returned.payback == pytest.approx(a.returned.payback)
    assert b.returned.roi == pytest.approx(a.returned.roi)


def test_the_return_falls_with_the_new_price_and_rises_with_the_old() -> None:
    def npv(before: float, after: float) -> float:
        options = [{**o, "price_per_hour": p} for o, p in zip(WORKED["options"], (before, after))]
        found = decide(worked(options=options, discount_percent_per_year=12)).returned
        assert found is not None
        return found.npv

    dear = [npv(0.4, p) for p in (0.0, 0.2, 0.4, 1.3)]
    assert dear == sorted(dear, reverse=True)
    assert npv(0.5, 0.4) > npv(0.4, 0.4) > npv(0.0, 0.4)


def test_what_is_bought_is_paid_at_once_and_what_runs_today_is_there() -> None:
    options = [{**WORKED["options"][0], "purchase": 1000}, {**WORKED["options"][1], "purchase": 1000}]
    r = decide(worked(options=options))
    assert r.returned is not None
    assert r.returned.flows[0] == pytest.approx(-5000 - 3 * 1000)


def test_gains_are_off_by_default_and_beside() -> None:
    data = worked(gains=[{"name": "conversion", "per_month": 1000, "source": "marketing"}])
    off, on = decide(data), decide(data, gains=True)
    assert off.gains is None
    assert on.gains is not None
    assert off.returned == on.returned
    assert on.gains.npv == pytest.approx(on.returned.npv + 12_000)  # type: ignore[union-attr]


def test_energy_measured_and_from_the_table() -> None:
    options = [WORKED["options"][0], {**WORKED["options"][1], "energy": {
        "joules_per_inference": 0.2, "source": "NVML T4", "date": "2026-11-01"}}]
    r = decide(worked(options=options, electricity={"grid": "US"}))
    table, metered = (o.power for o in r.options)
    assert (table.basis, metered.basis) == ("table", "measured")
    assert table.kwh == pytest.approx(9 * 0.070 * 720)
    assert metered.kwh == pytest.approx(0.2 * 360 * 3600 * 720 / 3.6e6)
    assert metered.kg_co2 == pytest.approx((metered.kwh or 0) * 0.366)
    assert "EIA" in table.grid


def test_unknown_energy_is_said_not_guessed() -> None:
    options = [{**o, "device": "Abacus"} for o in WORKED["options"]]
    assert decide(worked(options=options)).options[0].power.kwh is None
    options[0] |= {"pays_energy": True}
    with pytest.raises(InputError, match="nobody knows"):
        decide(worked(options=options, electricity={"price_per_kwh": 0.2}))


def test_cost_per_thousand(example: Result) -> None:
    o = example.option("optimized")
    assert o.cost_per_thousand == pytest.approx(3 * 0.4 / (360 * 3600 / 1000))


# -- prices -----------------------------------------------------------------------------------------


def from_table(key: str, **changes: Any) -> dict[str, Any]:
    options = [{k: v for k, v in o.items() if k != "price_per_hour"} | {"instance": key} for o in WORKED["options"]]
    return worked(options=options, **changes)


def test_stale_prices_are_warned_of_and_fresh_ones_are_not() -> None:
    data = from_table("aws/us-east-1/g5.xlarge")
    row = prices.table().find("aws/us-east-1/g5.xlarge")
    r = decide(data, today=row.as_of + datetime.timedelta(days=90))
    assert not [f for f in r.findings if f.code == "C201"]
    day = row.as_of + datetime.timedelta(days=91)
    (warned,) = [f.say.values for f in decide(data, today=day).findings if f.code == "C201"]
    assert (warned["days"], warned["url"]) == (91, row.official)
    patient = decide(data, today=day, stale_days=365)
    assert not [f for f in patient.findings if f.code == "C201"]


def test_missing_prices_are_refused() -> None:
    with pytest.raises(InputError, match="no price"):
        decide(from_table("aws/us-east-1/zz9.plural"))
    options = [{k: v for k, v in o.items() if k != "price_per_hour"} for o in WORKED["options"]]
    with pytest.raises(InputError, match="what 'PyTorch' costs is not known"):
        decide(worked(options=options))


def test_prices_in_another_currency_are_refused() -> None:
    with pytest.raises(InputError, match="USD, the scenario in EUR"):
        decide(from_table("aws/us-east-1/g4dn.xlarge", currency="EUR"))


# -- the four questions -----------------------------------------------------------------------------


def answers(r: Result) -> dict[str, Any]:
    return {a.question: a for a in r.answers}


def option(name: str, qps: float, **fields: Any) -> dict[str, Any]:
    return {"name": name, "throughput": qps, "p99_ms": 50, "price_per_hour": 0.5} | fields


def compared(*options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"load": {"rate": 400}, "objective": {"p99_ms": 300}, "options": list(options)} | changes


def test_questions_without_measurements_say_what_to_measure() -> None:
    found = answers(decide(compared(option("one", 90))))
    assert {a.state for a in found.values()} == {"not known"}
    assert all("easure" in a.says[0].text() for a in found.values())


def test_gpu_upgrade() -> None:
    r = decide(compared(option("T4", 90, device="T4"), option("L4", 190, device="L4", price_per_hour=0.7),
                        uncertainty={"price": {"low": 0.95, "high": 1.05}}))
    gpu = answers(r)["gpu"]
    assert (gpu.state, gpu.choice) == ("yes", "L4")
    assert gpu.confidence == 1.0
    dear = answers(decide(compared(option("T4", 90, device="T4"), option("L4", 190, device="L4", price_per_hour=2.0))))
    assert (dear["gpu"].state, dear["gpu"].choice, dear["gpu"].confidence) == ("no", "T4", None)


def test_gpus_of_other_precision_are_not_compared() -> None:
    r = decide(compared(option("T4", 90, device="T4", precision="fp32"),
                        option("L4", 400, device="L4", precision="int8")))
    assert answers(r)["gpu"].state == "not known"
    assert answers(r)["int8"].state == "not known"


def test_a_near_call_is_undecided() -> None:
    r = decide(compared(option("T4", 90, device="T4"), option("L4", 90, device="L4", price_per_hour=0.49),
                        uncertainty={"price": {"low": 0.8, "high": 1.2}}))
    assert answers(r)["gpu"].state == "undecided"


@pytest.mark.parametrize(("loss", "state"), [
    (None, "not known"), ({"loss": 0.2, "upper": 0.4, "max_drop": 0.5, "samples": 9000}, "yes"),
    ({"loss": 0.2, "upper": 0.9, "max_drop": 0.5, "samples": 300}, "undecided"),
    ({"loss": 0.2, "max_drop": 0.5, "samples": 300}, "undecided"),
    ({"loss": 1.2, "upper": 1.9, "max_drop": 0.5, "samples": 9000}, "no")])
def test_int8_needs_its_loss(loss: dict[str, Any] | None, state: str) -> None:
    extra = {"loss": loss} if loss else {}
    r = decide(compared(option("fp32", 90, precision="fp32"), option("int8", 250, precision="int8", **extra)))
    assert answers(r)["int8"].state == state


def test_int8_by_a_recorded_verdict(tmp_path: Path) -> None:
    judged = Judged(reference="fp32", max_drop=0.5, unit="points", loss=0.1, upper=0.6, state="undecided", needed=7000)
    accuracy = Accuracy(metric="top1", value=0.99, samples=450, judged=judged)
    data = measured(tmp_path, fp32=[batch_record(1, 0.01)],
                    int8=[batch_record(1, 0.003, precision="int8", accuracy=accuracy)])
    for o in data["options"]:
        o["max_batch"] = 1
    found = answers(decide(data))["int8"]
    assert found.state == "undecided"
    assert "7000" in found.says[0].text()


def test_a_recorded_loss_without_bound_is_refused_and_stays_json(tmp_path: Path) -> None:
    judged = Judged(reference="fp32", max_drop=0.5, unit="points", loss=None, upper=None, state="not held")
    accuracy = Accuracy(metric="top1", value=0.1, samples=450, judged=judged)
    data = measured(tmp_path, fp32=[batch_record(1, 0.01)],
                    int8=[batch_record(1, 0.003, precision="int8", accuracy=accuracy)])
    for o in data["options"]:
        o["max_batch"] = 1
    r = decide(data)
    assert (answers(r)["int8"].state, answers(r)["int8"].says[0].code) == ("no", "loss-unbounded")
    jsonschema.validate(json.loads(r.encode()), result.schema())


def test_edge_or_cloud_needs_the_network() -> None:
    edge = option("box", 60, place="edge", purchase=900, price_per_hour=0.0, upkeep_per_month=10)
    cloud = option("cloud", 190, place="cloud")
    assert answers(decide(compared(edge, cloud)))["edge"].says[0].code == "measure-network"
    found = answers(decide(compared(edge, cloud | {"network_ms": 40}, horizon_months=60)))["edge"]
    assert (found.state, found.choice) == ("yes", "box")
    far = answers(decide(compared(edge, cloud | {"network_ms": 280}, horizon_months=3)))["edge"]
    assert (far.state, far.choice) == ("yes", "box")
    assert [s.code for s in far.says] == ["cheapest", "typed-in", "fails-objective", "no-confidence"]


# -- the result as JSON -----------------------------------------------------------------------------


def test_the_result_keeps_its_schema(example: Result, unsure: Result) -> None:
    for r in (example, unsure, decide(worked(objective={"p99_ms": 30}))):
        jsonschema.validate(json.loads(r.encode()), result.schema())


def test_the_packaged_schema_is_that_of_the_types() -> None:
    assert result.schema() == result.generate_schema()


def test_a_discount_can_turn_the_verdict_though_the_money_comes_back() -> None:
    r = decide(worked(horizon_months=3, discount_percent_per_year=150))
    assert r.returned is not None
    assert r.returned.payback is not None
    assert r.returned.npv < 0
    assert r.verdict == "does not pay"


def test_gains_that_are_not_there() -> None:
    with pytest.raises(InputError, match="no gains"):
        decide(worked(), gains=True)


@pytest.mark.parametrize("draws", [0, 99, 10 ** 9])
def test_absurd_draws(draws: int) -> None:
    with pytest.raises(InputError, match="draws"):
        decide(worked(), draws=draws)
