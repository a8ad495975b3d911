"""whet lint on the command line, and of plans."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

import whet
from tools.lint_models import hosted, model, node, weight
from whet.cli import main as cli
from whet.tools.lint import lint
from whet.tools.lint_codes import schema

Whet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Whet:
    """The command line in this process: exit code, what it printed, what it complained about."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHET_CACHE", str(folder / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whet", *map(str, arguments)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        out, err = capsys.readouterr()
        return int(e.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    f = tmp_path_factory.mktemp("lint")
    good = model([hosted("x", "d", "counts"), node("Relu", "d", "y", "relu")], {"x": [12]}, ["y"])
    bad = model([node("Concat", "x x", "a", "bad"), node("Exp", "x", "y")], {"x": ["n", 4]}, ["a", "y"],
                {"unused": weight(4)})
    onnx.save(good, f / "good.onnx")
    onnx.save(bad, f / "bad.onnx")
    whet.build(f / "good.onnx", opt_level=0, timing_cache=f / "timing").save(f / "good.plan")
    np.savez(f / "x.npz", x=np.arange(12, dtype=np.float32))
    return f


def test_the_exit_code_says_whether_a_build_would_stop(run: Whet) -> None:
    code, out, _ = run("lint", "bad.onnx")
    assert code == 1
    assert "L104" in out
    assert "a build would stop" in out
    code, out, _ = run("lint", "good.onnx")
    assert code == 0
    assert "nothing would stop a build" in out


def test_severity_hides_findings_but_not_the_verdict(run: Whet) -> None:
    _, out, _ = run("lint", "bad.onnx", "--severity", "warning")
    assert "L307" not in out
    assert "L205" in out
    code, out, _ = run("lint", "bad.onnx", "--severity", "error")
    assert "L205" not in out
    assert code == 1


def test_json_keeps_its_schema_and_lists_what_the_text_says(run: Whet, folder: Path) -> None:
    code, _, _ = run("lint", "bad.onnx", "--json", "out.json")
    assert code == 1
    data = json.loads((folder / "out.json").read_text())
    jsonschema.validate(data, schema())
    assert data["stops"]
    assert data["counts"]["error"] == 1
    assert {f["code"] for f in data["findings"]} == {f.code for f in lint(folder / "bad.onnx")}
    code, out, _ = run("lint", "good.onnx", "--json", "-")
    assert code == 0
    jsonschema.validate(json.loads(out), schema())


def test_shapes_and_profiles_are_taken(run: Whet) -> None:
    assert "L205" not in run("lint", "bad.onnx", "--shapes", "x:2x4")[1]
    assert "L205" not in run("lint", "bad.onnx", "--opt-shapes", "x:2x4", "--max-shapes", "x:8x4")[1]
    code, _, err = run("lint", "bad.onnx", "--shapes", "z:2x4")
    assert code == 2
    assert "W200" in err


def test_bad_usage_is_exit_code_2(run: Whet, folder: Path) -> None:
    assert run("lint", "nothing.onnx")[0] == 2
    (folder / "text.onnx").write_text("hello")
    assert run("lint", "text.onnx")[0] == 2
    code, _, err = run("lint", "bad.onnx", "--severity", "fatal")
    assert code == 2
    assert "note" in err


def test_measured_shares_say_so(run: Whet) -> None:
    _, out, _ = run("lint", "good.onnx", "--measure", "--json", "-")
    (f,) = [f for f in json.loads(out)["findings"] if f["code"] == "L202"]
    assert f["data"]["basis"] == "measured"
    assert 0 < f["data"]["share"] <= 1
    assert "measured" in f["why"]


def test_inputs_show_what_overflows(run: Whet) -> None:
    _, out, _ = run("lint", "good.onnx", "--inputs", "x.npz", "--json", "-")
    assert not [f for f in json.loads(out)["findings"] if f["code"] == "L409"]


def test_a_plan_is_told_what_runs_on_the_host_and_what_was_not_measured(run: Whet) -> None:
    code, out, _ = run("lint", "good.plan", "--json", "-")
    assert code == 0
    data = json.loads(out)
    jsonschema.validate(data, schema())
    by_code = {f["code"]: f for f in data["findings"]}
    assert by_code["L602"]["node"] == "counts"
    assert "L606" in by_code


def test_a_plan_for_another_machine_is_an_error(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    from whet.plan import fingerprint

    monkeypatch.setattr(fingerprint.platform, "machine", lambda: "sparc")
    code, out, _ = run("lint", "good.plan")
    assert code == 1
    assert "L601" in out


def test_a_damaged_plan_is_exit_code_2(run: Whet, folder: Path) -> None:
    (folder / "damaged.plan").write_bytes((folder / "good.plan").read_bytes()[:500])
    assert run("lint", "damaged.plan")[0] == 2
