"""`whet compare MODEL`: docs/comparing.md works as it stands, exit codes, files in two languages, bad input."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from whet import demo
from whet.cli import main as cli
from whet.compare import result
from whet.compare.model import JOURNAL

pytest.importorskip("onnxruntime")
DOCS = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text("utf-8")
QUICK = ("--backends", "onnxruntime,whet", "--builds", "1", "--seconds", "0.02", "--no-memory", "--opt-level", "0",
         "--timing-cache", "timing.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files by the names that the page uses."""
    f = tmp_path_factory.mktemp("compare")
    (f / "digits.onnx").write_bytes(demo.model_bytes())
    images, labels = demo.test_set()
    np.savez(f / "calib.npz", image=images[:40])
    np.savez(f / "val.npz", image=images[40:140], labels=labels[40:140])
    (f / "figures.json").write_text(re.search(r"```json\n(.*?)```", DOCS, re.DOTALL).group(1))
    return f


@pytest.fixture
def whet(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whet", *words])
        with pytest.raises(SystemExit) as e:
            cli.main()
        out, err = capsys.readouterr()
        return int(e.value.code or 0), out, err

    return call


def example() -> list[str]:
    return shlex.split(re.search(r"^    (whet compare digits.*)$", DOCS, re.MULTILINE).group(1))[1:]


def test_the_page_s_example_and_citations(whet: Callable[..., tuple], folder: Path) -> None:
    code, out, err = whet(*example(), *QUICK, "--cite", "figures.json", "--require", "vendor=nvidia")
    assert code in (1, 3), err  # no processor here is NVIDIA's, or its name does not tell
    code, out, err = whet(*example(), *QUICK, "--cite", "figures.json", "--weights", "p50=1")
    assert code in (0, 3), err  # a P99 of few calls has no upper end
    assert "whet int8" in out
    written = json.loads((folder / "report" / "compare.json").read_text())
    jsonschema.validate(written, result.schema())
    assert [x["column"] for x in written["citations"]] == ["licence", "price"]
    page = (folder / "report" / "compare.html").read_text()
    assert "Apache-2.0" in page
    assert "0.71 USD/h" in page
    assert {p.name for p in (folder / "report").iterdir()} == {
        "compare.html", "compare.md", "compare.json", "compare.csv", JOURNAL}
    code, out, _ = whet(*example(), *QUICK, "--lang", "zh", "--json", "-")
    assert json.loads(out)["model"] == "digits"
    assert "测量方法" in (folder / "report" / "compare.html").read_text()


@pytest.mark.parametrize("words, said", [
    (("digits.onnx",), "needs a folder"), (("digits.onnx", "digits.onnx", "-o", "r"), "takes one model"),
    (("absent.onnx", "-o", "r"), "not there"), (("calib.npz", "-o", "r"), "ONNX"),
    (("digits.onnx", "-o", "r", "--batches", "x"), "--batches"),
    (("digits.onnx", "-o", "r", "--threads", "0"), "--threads"),
    (("digits.onnx", "-o", "r", "--require", "p99"), "constraint"),
    (("digits.onnx", "-o", "r", "--weights", "p99=0"), "zero"), (("digits.onnx", "-o", "r", "--lang", "de"), "--lang"),
    (("digits.onnx", "-o", "r", "--cite", "digits.onnx"), "citations"),
    (("digits.onnx", "-o", "r", "--remote", "x"), "--remote"), (("digits.onnx", "-o", "r", "--server", "x"), "server"),
    (("digits.onnx", "-o", "r", "--server", "http://192.0.2.1/v2/models/x"), "different hardware"),
    (("digits.onnx", "-o", "digits.onnx"), "folder"),
    (("digits.onnx", "-o", "r", "--preprocess", "x"), "preprocess"), ((), "say what to compare")])
def test_bad_input_is_told_with_code_2(whet: Callable[..., tuple], words: tuple[str, ...], said: str) -> None:
    code, _, err = whet("compare", *words)
    assert code == 2, err
    assert said.lower() in err.lower()
    assert "Traceback" not in err


def test_ctrl_c_says_how_to_go_on(whet: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    from whet.compare import sweep

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "alternate", stopped)
    code, _, err = whet("compare", "digits.onnx", "-o", "stopped", *QUICK)
    assert code == 130
    assert "the same command goes on" in err
