"""Outputs of other tools become records that say what these say, and nothing else."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from record_samples import measurement
from store import tool_outputs as tools
from whet.errors import InputError, WhetError
from whet.measure import record, series, stats, this_device
from whet.measure.record import Load, Measurement
from whet.store.imports import Given, common, convert, expand, load

DATED = Given(model="net", date="2026-05-06T07:08:09")


def one(data: bytes | list | dict, given: Given = DATED, **options: Any) -> Measurement:  # type: ignore[type-arg]
    """The only record in an output."""
    (found,) = convert(data if isinstance(data, bytes) else json.dumps(data).encode(), "file", given, **options).records
    return found


def stated(found: Measurement) -> dict[str, float]:
    return {name: figure.value for name, figure in found.figures.items()}


@pytest.mark.parametrize("name", tools.everything())
def test_every_record_keeps_the_schema_and_says_who_measured(name: str) -> None:
    for found in convert(tools.everything()[name], name, DATED).records:
        (row,) = json.loads(record.encode([found]))
        jsonschema.validate(row, record.schema())
        assert record.decode(record.encode([found])) == [found]
        assert found.source is not None
        assert (found.threads, found.plan, found.accuracy, found.comparisons) == (None, None, None, ())
        assert list(series.values(found))
        assert series.setting(found).source.startswith(found.source.tool)


def test_trtexec_log() -> None:
    found = one(tools.LOG.encode(), Given())
    assert (found.model.name, found.backend, found.precision) == ("net", "tensorrt", "fp32+fp16")
    assert found.shapes == {"images": (4, 3, 640, 640)}
    (gpu,) = found.device.gpus
    assert (gpu.name, gpu.arch, gpu.memory_bytes) == ("NVIDIA L4", "sm_89", 22478 << 20)
    assert (found.device.name, found.device.cores, found.load) == ("unknown", None, Load(concurrency=2))
    assert found.versions == {"tensorrt": "10.3.0"}
    assert stated(found) == pytest.approx({
        "queries": 135.689, "latency.minimum": 0.0095, "latency.maximum": 0.01025, "latency.mean": 0.00975,
        "latency.p50": 0.009625, "latency.p90": 0.009875, "latency.p95": 0.0099, "latency.p99": 0.01,
        "compute.minimum": 0.007, "compute.maximum": 0.0075, "compute.mean": 0.0073, "compute.p50": 0.00725,
        "compute.p99": 0.0074})
    assert (found.latency, found.throughput) == (None, None)  # no samples, and queries are batches
    assert series.when(found).year == 2026


def test_trtexec_times_have_every_call() -> None:
    rows = tools.times()
    found = one(rows)
    assert found.latency == stats.latency([r["latencyMs"] * 1e-3 for r in rows])
    assert stated(found)["compute.p50"] == 0.008
    assert (found.device.fingerprint, found.load.pattern, found.precision) == ("unknown", "unknown", "unknown")
    told = one(rows, Given(), log=tools.LOG.encode())
    assert (told.model.name, told.device.gpus[0].name, told.latency) == ("net", "NVIDIA L4", found.latency)
    assert stated(told)["queries"] == 135.689


def test_trtexec_profile_has_a_figure_for_each_layer() -> None:
    assert stated(one(tools.PROFILE)) == {"layer.p50:conv1 + relu": 0.00075, "layer.p50:fc": 0.00025}
    old = [{k: v for k, v in row.items() if k != "medianMs"} for row in tools.PROFILE]
    assert stated(one(old)) == {"layer.mean:conv1 + relu": 0.001, "layer.mean:fc": 0.00025}


@pytest.mark.parametrize("log", [tools.LOG.replace("PASSED", "FAILED"), tools.LOG.replace("median", "middle")])
def test_a_run_of_trtexec_that_gave_nothing(log: str) -> None:
    with pytest.raises(InputError):
        one(log.encode())


def test_perf_analyzer_table_has_a_record_for_each_load() -> None:
    found = convert(tools.CSV.encode(), "f", DATED).records
    assert [r.load for r in found] == [Load(concurrency=1), Load(concurrency=4)]
    assert [r.throughput for r in found] == [69.2, 84.2]
    figures = stated(found[0])
    assert figures["latency.p99"] == pytest.approx(0.021018)
    assert figures["latency.mean"] == pytest.approx(0.014443)
    assert figures["server_compute_infer.mean"] == pytest.approx(0.011781)
    assert len({series.setting(r).key for r in found}) == 2
    rates = convert(tools.RATES.encode(), "f", DATED).records
    assert [r.load for r in rates] == [Load(pattern="open-loop", rate=1.0), Load(pattern="open-loop", rate=4.0)]


def test_perf_analyzer_export_has_the_requests_within_the_windows() -> None:
    closed, opened = convert(json.dumps(tools.EXPORT).encode(), "f", DATED).records
    assert closed.latency is not None
    assert closed.latency.samples == (0.01, 0.03)
    assert (closed.load, opened.load) == (Load(concurrency=2), Load(pattern="open-loop", rate=50.0))


def test_genai_perf_summary() -> None:
    found = one(tools.SUMMARY, Given(date="2026-01-01"))
    assert (found.model.name, found.load) == ("llama", Load(concurrency=10))
    assert stated(found)["latency.p99"] == pytest.approx(2.409)
    assert found.figures["time_to_first_token.p50"].unit == "s"
    assert (found.figures["output_token_throughput.mean"].unit, stated(found)["request_throughput.mean"]) == (
        "tokens/s", 9.5)


def test_pytest_benchmark() -> None:
    found = convert(json.dumps(tools.PYTEST).encode(), "f")
    first, second = found.records
    assert found.notes == ("1 benchmarks without figures were left out",)
    assert first.latency == stats.latency([0.9, 1.0, 1.0, 1.0, 1.6])
    assert (first.model.name, first.versions["commit"]) == ("tests/test_net.py::test_net[8]", "c0ffee")
    assert second.latency is None
    assert stated(second) == {"latency.minimum": 0.1, "latency.maximum": 0.2, "latency.mean": 0.15,
                              "latency.p50": 0.14, "latency.p25": 0.12, "latency.p75": 0.16,
                              "latency.deviation": 0.01, "rounds": 9.0}
    assert (first.device.name, first.device.cores) == ("Some CPU @ 2 GHz", 8)
    assert series.when(first).isoformat() == "2026-03-04T05:06:07.123456+00:00"


def test_asv_folder(tmp_path: Path) -> None:
    machine = tmp_path / "results" / "mini"
    machine.mkdir(parents=True)
    (machine / "machine.json").write_text("{}")
    (machine / "e5e6e7-conda-py3.11.json").write_text(json.dumps(tools.ASV))
    (machine / "0ld-conda-py3.6.json").write_text(json.dumps(tools.ASV_OLD))
    (machine.parent / "benchmarks.json").write_text(json.dumps(tools.BENCHMARKS))
    for folder in (machine, machine.parent):
        found = [load(path) for path in expand(folder)]
        assert [len(each.records) for each in found] == [3, 6]
        assert [each.notes for each in found] == [("1 benchmarks without a result were left out",),
                                                  ("2 benchmarks without a result were left out",)]
    by_name = {(r.model.name, *sorted(r.source.parameters.items())): r for each in found for r in each.records
               if r.source}
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no results of asv's"):
        expand(tmp_path / "none")
    run = by_name["suite.Net.time_run", ("batch", "8"), ("benchmark", "1198fba41755"), ("env", "conda-py3.11"),
                  ("kind", "'a'")]
    figure = run.figures["latency.p50"]
    assert (figure.value, figure.low, figure.high, figure.confidence) == (0.25, 0.24, 0.26, 0.99)
    assert stated(run)["latency.p75"] == 0.255
    assert run.date == "2023-12-20T08:57:25+00:00"  # the commit's
    assert run.source is not None
    assert run.source.measured == "2023-12-20T09:04:59+00:00"
    unbounded = next(r for k, r in by_name.items() if ("batch", "16") in k and ("kind", "'a'") in k)
    assert unbounded.figures["latency.p50"].low is None
    memory, share, sampled, old = (next(r for k, r in by_name.items() if k[0] == f"suite.{name}") for name in (
        "Net.peakmem_run", "Net.track_accuracy", "Net.time_sampled", "time_b"))
    assert (memory.figures["memory.peak"].value, memory.figures["memory.peak"].unit) == (123456, "bytes")
    assert (share.figures["value"].value, share.figures["value"].unit) == (0.93, "share")
    assert sampled.latency is not None
    assert sampled.latency.samples == (1.9, 2.0, 2.1)
    assert stated(old) == {"latency.p50": 0.125}
    first = next(r for k, r in by_name.items() if k[0] == "suite.time_a" and ("p1", "1") in k)
    assert (first.figures["latency.p50"].low, first.figures["latency.p50"].high) == (0.4, 0.7)


def test_what_the_person_says_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps(tools.times()))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    given = Given("resnet", "ab" * 32, "trt", "int8", 3, {"x": (8, 3)}, "file", True)
    (found,) = load(path, given).records
    assert (found.model.name, found.model.sha256, found.backend, found.precision, found.threads, found.shapes) == (
        "resnet", "ab" * 32, "trt", "int8", 3, {"x": (8, 3)})
    assert found.date == "2023-11-14T22:13:20+00:00"
    assert found.device == this_device()


@pytest.mark.parametrize(("given", "what"), [(Given(date="2026-01-01"), "no named model"), (Given(model="m"), "date"),
                                             (Given(model="m", date="soon"), "date")])
def test_what_nobody_says_is_asked_for(given: Given, what: str) -> None:
    with pytest.raises(InputError, match=what):
        one(tools.times(), given)


def test_whets_own_records_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(record.encode([measurement()]))
    assert load(path).records == [measurement()]
    with pytest.raises(InputError, match="--model"):
        load(path, Given(model="another"))
    with pytest.raises(InputError, match="looks like whet's"):
        load(path, kind="asv")


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[]", b"null", b"3", b"hello", b"[" * 200_000, b"\xff\xfe",
    b'{"schema": 99, "backend": 1, "device": 2}',
    b'{"commit_hash": "a", "date": 1e30, "results": {}}', b'{"commit_hash": "a", "results": {}}',
    b'{"commit_hash": "a", "date": 1, "results": {"time_x": [[1, 2], [["a"]]]}}',
    b'{"commit_hash": "a", "date": 1, "results": {"time_x": [[-1], []]}}',
    b'{"experiments": [{"requests": [{"timestamp": 9, "response_timestamps": [3]}]}]}', b'{"experiments": [7]}',
    b'{"experiments": []}', b'{"benchmarks": [{}], "machine_info": 3, "datetime": "2026-01-01"}',
    b'{"benchmarks": [], "machine_info": {}}', b'{"request_latency": {"unit": "ms"}}',
    b'[{"computeMs": 1, "latencyMs": -1}]', b'[{"computeMs": 1, "latencyMs": NaN}]', b'[{"computeMs": 1}]',
    b'[{"computeMs": 1, "latencyMs": 1' + b"0" * 5000 + b"}]", b'[{"count": 1}, {"averageMs": "x"}]',
    b"Concurrency,Inferences/Second\n", b"Concurrency,Inferences/Second\nx,y\n",
    b"Concurrency,Inferences/Second\n0,3\n",
    b'Concurrency,Inferences/Second\n1,"3\n', b"Concurrency,Inferences/Second\n1,inf\n",
    b"&&&& PASSED TensorRT.trtexec # x\n"])
def test_a_file_that_is_none_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(InputError):
        convert(data, "file", DATED)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps(tools.times(50)).encode())
    monkeypatch.setattr(common, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="too large"):
        load(path, DATED)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.json")
    monkeypatch.setattr(common, "MOST_RECORDS", 1)
    for data in (tools.CSV.encode(), json.dumps(tools.EXPORT).encode(), json.dumps(tools.ASV).encode(),
                 json.dumps(tools.PYTEST).encode()):
        with pytest.raises(InputError):
            convert(data, "file", DATED)


HOSTILE = (None, True, -1, 0, 1e308, 2**63, -(2**70), float("nan"), float("inf"), "", "x" * 5000, "=1+1", "\0", [], {},
           [None], [[[]]], {"a": 1}, "2026-01-01")


BYTES = b'0123456789-.e,"x\n\0\xff{}[]'


def _mutate(value: Any, rng: random.Random) -> Any:
    """The same JSON with one place changed: to something else, gone, or twice."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    if rng.random() < 0.15:
        del node[key]
    elif isinstance(node, list) and rng.random() < 0.1:
        node.append(copy.deepcopy(node[key]))
    else:
        node[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


@pytest.mark.parametrize("name", tools.everything())
def test_hostile_files_give_records_or_one_clear_error(name: str) -> None:
    rng = random.Random(name)
    data = tools.everything()[name]
    for _ in range(400):
        changed = bytearray(data)
        if name in ("log", "csv", "rates") or rng.random() < 0.2:
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(changed))
                changed[at:at + rng.randint(0, 8)] = bytes(rng.choices(BYTES, k=rng.randint(0, 8)))
            if rng.random() < 0.2:
                del changed[rng.randrange(len(changed)):]
        else:
            whole = json.loads(data)
            for _ in range(rng.randint(1, 3)):
                whole = _mutate(whole, rng)
            changed = bytearray(json.dumps(whole).encode())
        try:
            found = convert(bytes(changed), "file", DATED).records
        except WhetError:
            continue
        for each in found:
            try:
                series.setting(each)
                list(series.values(each))
            except InputError:
                continue
            assert record.decode(record.encode([each])) == [each]
