"""docs/forecast.md does what it says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from forecast_records import nightly
from record_samples import measurement
from whet.cli.main import app
from whet.measure.record import Accuracy, Judged, Model, encode
from whet.measure.stats import latency

PAGE = (Path(__file__).parents[2] / "docs" / "forecast.md").read_text("utf-8")


def test_the_python_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "docs/forecast.md", "exec"), {})
    assert capsys.readouterr().out == "ahead 2 True\n"


def test_the_commands_on_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nightly.json").write_bytes(encode(nightly()))
    Path("race.csv").write_text("record,minutes,date\n" + "".join(
        f"{i},{100 * 0.95 ** i:.3f},2026-01-{2 * i + 1:02d}\n" for i in range(14)), "utf-8")
    accuracy = Accuracy(metric="top1", value=0.7, samples=7000, judged=Judged(
        reference="fp32", max_drop=0.5, unit="points", loss=0.05, upper=0.25, state="held"))
    x = 0.03 * np.random.default_rng(0).lognormal(0, 0.1, 1500)
    Path("set.json").write_bytes(encode([measurement(model=Model(name=f"net{i}"), accuracy=accuracy, latency=latency(
        (2 if i < 2 else 1) * x)) for i in range(10)]))
    runner = CliRunner()
    renamed = nightly(model=Model(name="resnet50"))
    Path("named.json").write_bytes(encode(renamed))
    assert runner.invoke(app, ["record", "named.json", "--store", "team.db"]).exit_code == 0
    lines = re.findall(r"^whet (forecast .*)$", PAGE, re.MULTILINE)
    outputs = []
    for line in lines:
        given = shlex.split(line)
        outputs.append(runner.invoke(app, [*given, *([] if "--gain" in given else ["--today", "2026-04-01"])]))
    assert len(outputs) == 8
    for line, found in zip(lines, outputs):
        assert found.exit_code in (0, 1, 3), (line, found.exception)
        assert found.output, (line, found.exception)
    for quoted in re.findall(r"^> ((?:.*\n> )*.*)$", PAGE, re.MULTILINE):
        said = " ".join(quoted.replace("\n> ", " ").split())
        assert any(said in " ".join(o.output.split()) for o in outputs), said
