"""Scenario files: what is wrong with one is said with its line, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decide.roi_scenarios import WORKED, decide, worked
from whet import data_file
from whet.decide import scenario
from whet.errors import InputError

YAML = """\
hours_per_month: 720
load: {rate: 360}
objective: {p99_ms: 350}
labour: {cost: 5000}
before: PyTorch
after: optimized
options:
  - name: PyTorch
    throughput: 45
    p99_ms: 320
    price_per_hour: 0.40
  - name: optimized
    throughput: 180
    p99_ms: 90
    price_per_hour: 0.40
"""
TOML = """\
hours_per_month = 720
before = "PyTorch"
after = "optimized"
[load]
rate = 360
[objective]
p99_ms = 350
[labour]
cost = 5000
[[options]]
name = "PyTorch"
throughput = 45
p99_ms = 320
price_per_hour = 0.40
[[options]]
name = "optimized"
throughput = 180
p99_ms = 90
price_per_hour = 0.40
"""
JSON = json.dumps({"hours_per_month": 720, "load": {"rate": 360}, "objective": {"p99_ms": 350},
                   "labour": {"cost": 5000}, "before": "PyTorch", "after": "optimized", "options": [
                       {"name": "PyTorch", "throughput": 45, "p99_ms": 320, "price_per_hour": 0.4},
                       {"name": "optimized", "throughput": 180, "p99_ms": 90, "price_per_hour": 0.4}]}, indent=1)
TEXTS = {"a.yaml": YAML, "a.toml": TOML, "a.json": JSON}


def read(folder: Path, name: str, text: str) -> scenario.Source:
    (folder / name).write_text(text, "utf-8")
    return scenario.read(folder / name)


def test_the_three_kinds_say_the_same(tmp_path: Path) -> None:
    found = [read(tmp_path, name, text).scenario for name, text in TEXTS.items()]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", list(TEXTS))
def test_errors_name_field_and_line(tmp_path: Path, name: str) -> None:
    broken = TEXTS[name].replace("180", '"fast"')
    line = next(i for i, row in enumerate(broken.splitlines(), 1) if "fast" in row)
    with pytest.raises(InputError) as e:
        read(tmp_path, name, broken)
    assert e.value.where.endswith(f"{name}, line {line}, options[1].throughput")
    assert "float" in e.value.why


@pytest.mark.parametrize("name", list(TEXTS))
def test_unknown_fields_are_named_with_their_line(tmp_path: Path, name: str) -> None:
    text = TEXTS[name]
    broken = TOML.replace("\np99_ms = 90", "\np99ms = 90") if name == "a.toml" else text.replace("p99_ms", "p99ms")
    with pytest.raises(InputError, match="no field is named 'p99ms'") as e:
        read(tmp_path, name, broken)
    assert f"{name}, line " in e.value.where


@pytest.mark.parametrize(("changes", "what"), [
    ({"load": {"rate": -1}}, "load.rate"), ({"load": {"rate": 0}}, "load.rate"),
    ({"load": {"rate": float("nan")}}, "load.rate"), ({"load": {"rate": float("inf")}}, "not a finite number"),
    ({"load": {"rate": 10, "mean_rate": 20}}, "mean rate is above"), ({"load": {"rate": 10, "cv": 99}}, "load.cv"),
    ({"load": {"rate": 10, "pattern": "trace"}}, "trace needs its file"),
    ({"objective": {}}, "objective.p99_ms is missing"),
    ({"objective": {"p99_ms": "fast"}}, "objective.p99_ms"), ({"horizon_months": 0}, "horizon_months"),
    ({"horizon_months": 10 ** 6}, "horizon_months"), ({"currency": "dollars"}, "currency"),
    ({"hours_per_month": 800}, "hours_per_month"), ({"after": "else"}, "no option is named 'else'"),
    ({"after": "PyTorch"}, "the same option"), ({"after": ""}, "go together"), ({"options": []}, "options"),
    ({"labour": {"cost": 1, "hours": 2, "rate_per_hour": 3}}, "labour is a cost, or hours"),
    ({"labour": {"hours": 2}}, "labour is a cost, or hours"), ({"labour": {"cost": -5}}, "labour.cost"),
    ({"uncertainty": {"load": {"low": 2, "high": 1}}}, "low end is above"),
    ({"uncertainty": {"price": {"low": 1.1, "high": 1.2}}}, "factors of the figure"),
    ({"uncertainty": {"price": {"low": -1, "high": 2}}}, "factors of the figure"),
    ({"uncertainty": {"growth": {"low": -200, "high": 2}}}, "growth is percent"),
    ({"electricity": {"grid": "US", "grams_per_kwh": 3}}, "exclude each other"),
    ({"electricity": {"grams_per_kwh": 3}}, "needs its source"), ({"schema": 99}, "schema")])
def test_figures_that_make_no_sense(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as e:
        scenario.build(worked(**changes))
    assert what in str(e.value)


@pytest.mark.parametrize(("fields", "what"), [
    ({"throughput": 0}, "throughput"), ({"name": "a\nb"}, "options[0].name"),
    ({"batches": {"1": 5}}, "given in 2 ways"), ({"name": "optimized"}, "are named"),
    ({"throughput": None, "batches": {"0": 5}}, "whole numbers from 1"), ({"instance": "x"}, "not both"),
    ({"latency_ms": 100_000}, "hundredth of the mean"), ({"egress_gb_per_thousand": 1}, "no price"),
    ({"watts": 5, "energy": {"joules_per_inference": 1, "source": "RAPL", "date": "2026-01-01"}},
     "keep what was measured"),
    ({"energy": {"joules_per_inference": 1, "source": "", "date": "2026-01-01"}}, "energy.source"),
    ({"throughput": None}, "is not known"), ({"contexts": 0}, "contexts")])
def test_options_that_make_no_sense(fields: dict[str, Any], what: str) -> None:
    option = {k: v for k, v in (WORKED["options"][0] | fields).items() if v is not None}
    with pytest.raises(InputError) as e:
        decide(worked(options=[option, WORKED["options"][1]]))
    assert what in str(e.value)


def test_labour_must_be_said() -> None:
    data = worked()
    del data["labour"]
    with pytest.raises(InputError, match="labour is missing"):
        scenario.build(data)


def test_without_before_and_after_costs_are_compared() -> None:
    data = worked(before="", after="")
    r = decide(data)
    assert r.verdict == "compared"
    assert r.returned is None


@pytest.mark.parametrize(("name", "text", "what"), [
    ("x.yaml", "load: [1, 2", "not YAML"), ("x.json", "{", "not JSON"), ("x.toml", "a = = 1", "not TOML"),
    ("x.yaml", "", "empty"), ("x.yaml", "just text", "a table of fields"), ("x.json", "[1]", "a table of fields"),
    ("x.ini", "a=1", "YAML, JSON or TOML"), ("x.yaml", "a: &x [1]\nb: *x", "aliases"),
    ("x.yaml", "load: {rate: 1}\nload: {rate: 2}", "given twice"), ("x.json", '{"a": 1, "a": 2}', "given twice"),
    ("x.json", "[" * 100_000, "nested"), ("x.yaml", "[" * 100_000, "nested"), ("x.yaml", "- " * 3000, "nested"),
    ("x.yaml", "a: !!python/object/apply:os.system ['true']", "not YAML"), ("x.yaml", "a: 2026-99-99", "not YAML")])
def test_files_that_are_none(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read(tmp_path, name, text)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        scenario.read(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot be read"):
        scenario.read(tmp_path / "nowhere.json")


def test_a_change_by_its_path() -> None:
    source = scenario.build(worked(), changes={"options[1].price_per_hour": 0.9, "load.cv": 3.0, "horizon_months": 24})
    assert source.scenario.options[1].price_per_hour == 0.9
    assert (source.scenario.load.cv, source.scenario.horizon_months) == (3.0, 24)


@pytest.mark.parametrize("path", ["options[9].name", "[0]", "", "title.x", "options.name"])
def test_changes_that_lead_nowhere(path: str) -> None:
    with pytest.raises(InputError, match="no such field"):
        scenario.build(worked(), changes={path: 1})


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)), lambda x: st.one_of(
    st.lists(x, max_size=3), st.dictionaries(st.text("ab\"\\[é", min_size=1, max_size=4), x, max_size=3)),
                    max_leaves=8))
def test_the_lines_of_json_are_found(data: Any) -> None:
    text = json.dumps(data, indent=1)
    lines = dict(data_file._json_lines(text))
    rows = text.splitlines()
    for path, line in lines.items():
        if isinstance(data, dict) and path in data:
            assert rows[line - 1].startswith(f" {json.dumps(path)}: ")


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    for reader in (data_file.read_json, data_file.read_toml):
        try:
            scenario.build(reader(text, "x").data, "x")
        except InputError as e:
            assert e.what  # noqa: PT017
