"""The measurement record and its schema are one thing."""

import json

import jsonschema
import numpy as np
import pytest

from record_samples import measurement
from whet.errors import InputError
from whet.measure import by_name, judge, record, stats


def test_packaged_schema_equals_the_types() -> None:
    assert record.schema() == record.generate_schema(), "python -m whet.measure.record writes it"


def test_schema_is_valid_and_accepts_what_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(record.schema())
    rows = json.loads(record.encode([measurement(), measurement(latency=stats.latency([0.1, 0.2]))]))
    for row in rows:
        jsonschema.validate(row, record.schema())
        assert row["schema"] == record.SCHEMA == 4


def test_records_survive_the_file() -> None:
    records = [measurement(latency=stats.latency([0.1, 0.2]), build_seconds=3.0)]
    assert record.decode(record.encode(records)) == records


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"schema": 1}', b"[" * 100_000, b'[{"backend": 3}]', b"\xff"])
def test_bad_records_are_one_clear_error(data: bytes) -> None:
    with pytest.raises(InputError):
        record.decode(data, "file.json")


def test_a_newer_schema_says_to_update() -> None:
    with pytest.raises(InputError, match="newer whet"):
        record.decode(b'[{"schema": 5}]')


@pytest.mark.parametrize("version", [1, 2, 3])
def test_records_of_older_versions_are_read_as_they_are(version: int) -> None:
    (row,) = json.loads(record.encode([measurement()]))
    (found,) = record.decode(json.dumps([row | {"schema": version}]).encode())
    assert found.schema == version
    assert json.loads(record.encode([found]))[0]["schema"] == version


def test_what_another_tool_states_survives_the_file() -> None:
    stated = measurement(threads=None, source=record.Source(tool="asv", benchmark="time_x", parameters={"n": "3"}),
                         figures={"latency.p50": record.Figure(value=0.5, unit="s", low=0.4, confidence=0.9)},
                         load=record.Load(pattern="open-loop", rate=30.0))
    (row,) = json.loads(record.encode([stated]))
    jsonschema.validate(row, record.schema())
    assert record.decode(record.encode([stated])) == [stated]


def test_a_judged_accuracy_survives_the_file() -> None:
    logits, labels = np.eye(3)[np.arange(600) % 3], np.arange(600) % 3
    scores = by_name("top1").evaluate(logits, labels)
    accuracy = judge(scores, scores, 0.5).accuracy("fp32")
    assert accuracy.judged is not None
    assert (accuracy.value, accuracy.samples, accuracy.judged.state) == (1.0, 600, "held")
    (found,) = record.decode(record.encode([measurement(accuracy=accuracy)]))
    assert found.accuracy == accuracy


def test_an_unknown_field_is_refused() -> None:
    (row,) = json.loads(record.encode([measurement()]))
    with pytest.raises(InputError):
        record.decode(json.dumps([row | {"speed": 3}]).encode())


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        record.read(tmp_path / "nothing.json")
