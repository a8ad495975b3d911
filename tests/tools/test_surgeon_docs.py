"""What docs/surgeon.md shows works."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tools.detector import detector
from tools.surgery import model, tensor
from whet.cli import main as cli

DOCS = (Path(__file__).parents[2] / "docs" / "surgeon.md").read_text("utf-8")
node = helper.make_node


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by the names that the page uses."""
    f = tmp_path_factory.mktemp("surgeon")
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
               "w2": rng.standard_normal((16, 10)).astype(np.float32),
               "w3": rng.standard_normal((64, 16)).astype(np.float32)}
    net = [node("Conv", ["x", "w1"], ["c"]), node("ReduceMean", ["c", "axes"], ["sum"], keepdims=0),
           node("Relu", ["sum"], ["hidden"], name="act"), node("MatMul", ["hidden", "w2"], ["logits"]),
           node("MatMul", ["w3", "w2"], ["big"]), node("ReduceSum", ["big"], ["extra"], keepdims=0)]
    onnx.save(model(net, [tensor("x", ["n", 3, 32, 32])], [tensor("logits", ["n", 10]), tensor("extra", [])],
                    weights | {"axes": np.array([2, 3])}), f / "model.onnx")
    onnx.save(model([node("Neg", ["a"], ["b"])], [tensor("a", ["n", 16])], [tensor("b", ["n", 16])]),
              f / "adapter.onnx")
    onnx.save(model([node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
                    [tensor("x", [1, 3, 32, 32])], [tensor("y", [1, 3, 16, 16])]), f / "segmenter.onnx")
    onnx.save(detector(), f / "detector.onnx")
    return f


def test_the_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 15
    for line in lines:
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as e:
            cli.main()
        assert not e.value.code, line
        onnx.checker.check_model(words[words.index("-o") + 1])
    assert onnx.load("whole.onnx") == onnx.load("model.onnx")


def test_the_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WHET_CACHE", str(folder / "cache"))
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(compile(block.replace("whet.build(", "whet.build(opt_level=0, model="), "docs/surgeon.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "[] []"
