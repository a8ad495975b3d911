"""whet debug on the command line, and what docs/debug.md shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tools.debugged import faulty, install
from tools.surgery import model, network, run, tensor
from whet import plugins
from whet.cli import main as cli

DOCS = (Path(__file__).parents[2] / "docs" / "debug.md").read_text("utf-8")
Whet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Whet:
    """`whet debug` in this process, in a folder with right.onnx and wrong.onnx."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    folder = install(tmp_path / "site")
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_broken", {})
    monkeypatch.setattr(plugins, "_discovered", False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "whet_wrong", raising=False)
    Path("right.onnx").write_bytes(network(np.random.default_rng(0)).SerializeToString())
    Path("wrong.onnx").write_bytes(faulty("Twice").SerializeToString())

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whet", "debug", *map(str, arguments)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        out, err = capsys.readouterr()
        return int(e.value.code or 0), out, err

    return call


def test_layers_prints_where_it_departs(whet: Whet) -> None:
    code, out, err = whet("layers", "wrong.onnx", "--against", "reference", "--json", "l.json")
    assert code == 1, err
    assert "the first that departs: wrong, by Twice bad: off by" in out
    assert "by itself, on the reference's inputs, it departs too" in out
    assert re.search(r"^b +Relu +act +\S+ +\S+ +0 +0\s*$", out, re.M)  # what it reads, which is right
    assert re.search(r"^wrong +Twice +bad .* first", out, re.M)
    found = json.loads(Path("l.json").read_text())
    assert found["first"]["value"] == "wrong"
    assert [l["value"] for l in found["layers"]] == ["a", "b", "wrong", "c", "s", "y", "z"]
    assert found["held"] is found["alone"]["wrong"]["held"] is False
    code, out, err = whet("layers", "right.onnx", "--shapes", "x:3x64", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["held"] is True
    np.savez("x.npz", x=np.ones((2, 64), np.float32))
    code, out, err = whet("layers", "right.onnx", "--inputs", "x.npz", "--rtol", "0", "--atol", "0", "--all")
    assert code == 1, err  # a product's order of additions differs
    assert out.count("first") >= 2
    assert whet("layers", "right.onnx", "--against", "guess")[0] == 2
    assert whet("layers", "nothing.onnx")[0] == 2
    assert whet("layers", "right.onnx", "--json", "no/folder.json")[0] == 2


def test_reduce_writes_a_model_and_its_inputs(whet: Whet) -> None:
    code, out, err = whet("reduce", "wrong.onnx", "-o", "small.onnx", "--against", "reference", "--json", "r.json")
    assert code == 1, err
    assert "1 of 7 nodes left" in out
    assert "Twice bad: b -> wrong" in out
    small = onnx.load("small.onnx")
    onnx.checker.check_model(small)
    assert [n.name for n in small.graph.node] == ["bad"]
    with np.load("small.npz") as f:
        assert f["b"].shape == (1, 64)
    assert json.loads(Path("r.json").read_text())["left"][0]["op"] == "Twice"
    assert whet("layers", "small.onnx", "--inputs", "small.npz", "--against", "reference")[0] == 1
    code, out, err = whet("reduce", "right.onnx", "-o", "none.onnx", "--compare")
    assert (code, Path("none.onnx").exists()) == (0, False), err
    assert "it does not fail" in out
    assert whet("reduce", "right.onnx", "-o", "o.onnx", "--compare", "--check", "true {model}")[0] == 2
    assert whet("reduce", "right.onnx", "-o", "no/o.onnx")[0] == 2


def test_precision_lists_layers_by_their_error(whet: Whet) -> None:
    code, out, err = whet("precision", "right.onnx", "--target", "1e-4", "--json", "p.json")
    assert code == 1, err
    assert "MatMul first" in out
    assert "fp32_layers=['MatMul" in out
    found = json.loads(Path("p.json").read_text())
    assert found["kept_error"] <= 1e-4 < found["error"]
    assert whet("precision", "right.onnx", "--layers", "MatMul second", "--target", "1")[0] == 0
    assert whet("precision", "right.onnx", "--layers", "nothing")[0] == 2


def test_repeat_says_what_differs(whet: Whet) -> None:
    program = "import os; print(len(os.listdir()) > %d); open('f' + str(os.getpid()), 'w')"
    few = len(os.listdir())
    code, out, err = whet("repeat", "--times", "9", "--", sys.executable, "-S", "-c", program % (few + 2))
    assert code == 1, err
    assert "run 4 differs from run 1: stdout" in out
    assert "+True" in out
    code, out, err = whet("repeat", "--times", "3", "--", "echo", "--times", "x")
    assert (code, "3 runs gave the same" in out) == (0, True), err
    assert whet("repeat", "--times", "3")[0] == 2


@pytest.fixture
def documented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with what the page's examples use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    rng = np.random.default_rng(0)
    node = helper.make_node
    m = model([node("MatMul", ["x", "w1"], ["h"]), node("Relu", ["h"], ["hidden"]),
               node("MatMul", ["hidden", "w2"], ["logits"])], [tensor("x", ["n", 32])], [tensor("logits", ["n", 8])],
              {"w1": rng.standard_normal((32, 64)).astype(np.float32),
               "w2": rng.standard_normal((64, 8)).astype(np.float32)})
    onnx.save(m, "model.onnx")
    np.savez("x.npz", x=rng.standard_normal((4, 32)).astype(np.float32))
    Path("check.py").write_text("import sys, onnx\nsys.exit('Relu' in [n.op_type for n in onnx.load(sys.argv[1])."
                                "graph.node])\n")
    import whet

    whet.build(m, opt_level=0).save("model.plan")


def test_the_commands_of_the_page_run(documented: None, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    codes = []
    for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL):
        for line in block.splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as e:
                cli.main()
            assert e.value.code != 2, line + capsys.readouterr().err
            codes.append(int(e.value.code or 0))
    # reduce --check finds the Relu, precision's target of 1e-3 is not met; all else holds.
    assert codes == [0, 0, 0, 0, 1, 0, 1, 0]
    assert [n.op_type for n in onnx.load("small.onnx").graph.node] == ["Relu"]
    with np.load("small.npz") as f:
        run(Path("small.onnx"), dict(f))
    assert json.loads(Path("layers.json").read_text())["against"] == "reference"


def test_the_example_of_the_page_runs(documented: None) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(block.replace("whet.build(", "whet.build(opt_level=0, force_precision=True, model="), "docs/debug.md",
                 "exec"), scope)
    assert scope["needs"].keep  # type: ignore[attr-defined]
