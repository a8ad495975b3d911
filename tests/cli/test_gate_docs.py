"""docs/gate.md does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.test_gate_command import bench, history, run, write
from command_line import Whet

DOCS = (Path(__file__).parents[2] / "docs" / "gate.md").read_text("utf-8")

__all__ = ["run"]


def test_the_commands_of_the_page_run(run: Whet) -> None:
    history("measurements.db")
    write("new.json", bench(40.3))
    (goals,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    Path("goals.yaml").write_text(goals)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 4
    said = ""
    for line in lines:
        code, out, err = run(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {out} {err}"
        said += out
    (quoted,) = re.findall(r"^    (resnet50: .*)$", DOCS, re.MULTILINE)
    assert quoted in said


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(compile(block, "docs/gate.md", "exec"), {})
    printed, comment = capsys.readouterr().out.strip(), block.strip().splitlines()[-1].partition("# ")[2]
    assert printed == comment
