"""benchmarks/precision.py: its table says what the records say; cases that are measured are not measured again."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import precision, precision_tables, quantized
from record_samples import measurement
from whet.measure import record, stats
from whet.measure.record import Comparison, Limit, Measurement, Memory, Model, OutputError, PlanId


def of(backend: str, precision: str, ms: float, **fields: object) -> Measurement:
    error = OutputError(reference="onnxruntime fp32", measure="centred-relative-l2", value=0.02, limit=0.35)
    return measurement(model=Model(name="resnet50"), shapes={"input": (8, 3, 224, 224)}, backend=backend,
                       precision=precision, latency=stats.latency([1e-3 * ms] * 20), error=error, **fields)


def records() -> list[Measurement]:
    beside = tuple(Comparison(backend=b, precision=p, ratio=r, low=0.9 * r, high=1.1 * r, rounds=9)
                   for (b, p), r in zip(precision_tables.PEERS, (3.0, 9.0, 1.1)))
    limit = Limit(flops=1e9, flops_per_second=1e12, seconds=1e-3, fraction=0.7)
    model = {"model": Model(name="resnet50"), "shapes": {}}
    return [
        of("whet", "int8", 20, comparisons=beside, limit=limit, plan=PlanId(hash="a", bytes=99), build_seconds=60.0),
        of("onnxruntime", "int8", 60), of("onnxruntime", "int8 defaults", 180), of("openvino", "int8", 22),
        measurement(model=Model(name="resnet50"), shapes={"input": (256, 3, 224, 224)}, precision="int8",
                    memory=Memory(peak_bytes=1 << 30, idle_bytes=0), build_seconds=50.0),
        measurement(**model, precision="int8", plan=PlanId(hash="a", bytes=9, weights=25 << 20)),
        measurement(**model, precision="fp32", plan=PlanId(hash="b", bytes=9, weights=100 << 20)),
    ]


def test_the_table_has_latencies_ratios_errors_and_the_share_of_the_limit() -> None:
    text = precision_tables.markdown(records())
    assert ("| ResNet-50 | 8 | 20.0 ms | 60.0 ms | **3.00** (2.70 to 3.30) | 180 ms | **9.00** (8.10 to 9.90) | "
            "22.0 ms | **1.10** (0.99 to 1.21) | 0.020 / 0.020 / 0.020 | 70% |") in text
    assert "Geometric mean against ONNX Runtime int8: **3.00** of 1 ratios" in text
    assert "calibrated on 256 images in 50.0 s at a peak of 1.0 GiB" in text
    assert "25.0 MiB, 0.250 of fp32's 100.0 MiB" in text


def test_the_chart_is_valid_xml_with_or_without_results() -> None:
    ElementTree.fromstring(precision_tables.chart(records()))
    ElementTree.fromstring(precision_tables.chart([]))


def test_a_finished_run_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    precision_tables.save(path, records())
    monkeypatch.setattr("sys.argv", ["precision.py", "--models", "resnet50", "--batches", "8", "--out", str(path)])
    monkeypatch.setattr(precision, "measure_case", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(precision, "calibration_case", lambda *a: pytest.fail("calibrated again"))
    monkeypatch.setattr(precision.os, "sched_setaffinity", lambda *a: None)
    assert precision.main() == 0
    assert record.read(path) == records()
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".svg"}


def test_everybody_calibrates_with_samples_that_are_not_timed() -> None:
    samples = quantized.calibration("bert")
    assert len(samples) * len(samples[0]["input_ids"]) == 32
    assert not any((s["input_ids"] == samples[0]["input_ids"]).all() for s in samples[1:])
    assert any((s["attention_mask"] == 0).any() for s in samples), "padding is seen"
