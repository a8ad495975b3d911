"""`whet compare A.plan B.plan`: docs/plan-diff.md works as it stands; languages, bad input."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import whet
from whet import demo
from whet.cli import main as cli
from whet.compare import diff as differ

DOCS = (Path(__file__).parents[2] / "docs" / "plan-diff.md").read_text("utf-8")
DIGITS = Path(demo.__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans by the names that the page uses."""
    f = tmp_path_factory.mktemp("plans")
    for precision in ("fp32", "bf16"):
        whet.build(DIGITS / "digits.onnx", precision=precision, force_precision=True, opt_level=0, threads=1,
                   timing_cache=f / "cache").save(f / f"{precision}.plan")
    np.savez(f / "batch.npz", image=np.zeros((2, 1, 8, 8), np.float32))
    return f


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> object:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code or 0


def test_the_page_works(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        more = "" if "--no-run" in line else " --seconds 0.05"
        assert run(monkeypatch, line + more) == 0, line
        assert "bf16" in capsys.readouterr().out
    jsonschema.validate(json.loads((folder / "diff.json").read_text()), differ.schema())
    page = (folder / "report" / "plan-diff.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert not re.search(r"(src|href)=", page)
    assert "conv" in (folder / "report" / "plan-diff.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)
    assert code
    exec(code[1], {})
    assert "Conv" in capsys.readouterr().out


def test_it_speaks_chinese(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, "whet compare fp32.plan bf16.plan --no-run --lang zh -o zh") == 0
    assert "运行方式不同" in capsys.readouterr().out
    assert 'lang="zh"' in (folder / "zh" / "plan-diff.html").read_text("utf-8")


@pytest.mark.parametrize("line", [
    "fp32.plan", "fp32.plan bf16.plan fp32.plan", "fp32.plan batch.npz", "fp32.plan none.plan",
    "fp32.plan bf16.plan --inputs none.npz", "fp32.plan bf16.plan --inputs batch.npz --no-run",
    "fp32.plan bf16.plan --threads 1,2", "fp32.plan bf16.plan --lang xx", "fp32.plan bf16.plan --json none/x.json"])
def test_bad_input_is_a_sentence_and_exit_code_two(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, f"whet compare {line}") == 2
    assert re.match(r"\s*\[W\d+-", capsys.readouterr().err)
