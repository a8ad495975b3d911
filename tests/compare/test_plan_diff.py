"""Two plans: what changed is told, and nothing that did not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from runtime.tiny_plans import chain
from whet.compare import diff as differ
from whet.compare.diff import diff
from whet.errors import InputError
from whet.plan import Plan
from whet.report import plan_diff as report

X = {"x": np.arange(20, dtype=np.float32).reshape(4, 5)}


def plan(sha: str = "0" * 64, steps: int = 3, layers: list[dict[str, Any]] | None = None, **info: Any) -> Plan:
    told = {"model": {"name": "chain", "sha256": sha}, "layers": layers or [], **info}
    return Plan.from_data(chain(steps, info=told))


def layer(name: str, tactic: str = "t", precision: str = "f32", **params: int) -> dict[str, Any]:
    return {"name": name, "kind": "matmul", "tactic": tactic, "precision": precision, "params": params}


def test_a_plan_and_itself_differ_in_nothing() -> None:
    found = diff(plan(layers=[layer("a")]), plan(layers=[layer("a")]), X, seconds=0.01)
    assert found.a.hash == found.b.hash
    assert [o.largest for o in found.outputs] == [0]
    assert found.count("same") == 1
    lines = report.findings(found)
    assert any("byte for byte" in line for line in lines)
    assert any("bit for bit" in line for line in lines)
    assert [name for name, _, _ in report.tables(found)] == ["Outputs"]


def test_layers_are_matched_by_name_and_turn() -> None:
    a = plan(layers=[layer("q"), layer("x", m=1), layer("x", m=2), layer("gone"), layer("y", "gemm", "bf16")])
    b = plan(layers=[layer("first"), layer("q", "u"), layer("x", m=1), layer("new"), layer("x", m=3),
                     layer("y", "gemm")])
    found = [(l.name, l.state, l.changed) for l in diff(a, b).layers]
    assert found == [("first", "only b", ()), ("q", "changed", ("tactic",)), ("x", "same", ()), ("new", "only b", ()),
                     ("x", "changed", ("params",)), ("gone", "only a", ()), ("y", "changed", ("precision",))]
    rows = {row[0]: row[1:] for row in report.tables(diff(a, b))[-1][2]}
    assert rows["x"] == ["parameters", "t, fp32, m=2", "t, fp32, m=3"]
    assert rows["gone"] == ["only in A", "t, fp32", ""]


def test_outputs_that_are_apart_are_measured() -> None:
    found = diff(plan(steps=3), plan(steps=2), X, seconds=0.01)
    right, other = (X["x"] * 2 ** n + np.arange(5) * (2 ** n - 1) for n in (3, 2))
    assert found.outputs[0].largest == pytest.approx(np.abs(right - other).max())
    assert found.outputs[0].relative == pytest.approx(np.linalg.norm(right - other) / np.linalg.norm(right))
    assert found.outputs[0].agreement == 1
    assert found.speed is not None
    assert found.speed.low <= found.speed.ratio <= found.speed.high


def test_values_that_are_no_numbers_cannot_be_compared() -> None:
    told = differ._output("y", np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    assert told.relative == told.centred == told.largest == differ.NOT_COMPARABLE
    same = differ._output("y", np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf]))
    assert (same.relative, same.largest) == (0, 0)
    assert differ._output("y", np.ones(2), np.ones(3)).relative == differ.NOT_COMPARABLE
    assert differ._output("y", np.array(["a"]), np.array(["a"])).relative == 0


def test_different_models_are_refused_or_labelled() -> None:
    with pytest.raises(InputError, match="different models"):
        diff(plan("0" * 64), plan("1" * 64))
    forced = diff(plan("0" * 64), plan("1" * 64), force=True)
    assert forced.same_model is False
    assert "Different models" in report.findings(forced)[0]
    unknown = diff(plan(""), plan("1" * 64))
    assert unknown.same_model is None
    assert "not known" in report.findings(unknown)[0]


def test_a_plan_that_cannot_run_here_is_told_all_the_same() -> None:
    found = diff(plan(), plan(steps=2), {"x": np.zeros((4, 6), np.float32)})
    assert found.speed is None
    assert found.outputs == ()
    assert found.a.launches == 3
    assert "were not compared" in report.findings(found)[-1]


def test_what_is_told_follows_the_schema() -> None:
    assert differ.schema() == differ.generate_schema()
    for found in (diff(plan(), plan(steps=2), X, seconds=0.01), diff(plan(), plan(""))):
        jsonschema.validate(json.loads(differ.encode(found)), differ.schema())
