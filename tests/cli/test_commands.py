"""whet demo, bench, run and sign, as a person uses them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import whet
from whet import demo
from whet.cli import main as cli
from whet.compare import installed
from whet.measure import record

Whet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Whet:
    """The command line in this process: exit code, what it printed, what it complained about."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "150")
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
    f = tmp_path_factory.mktemp("commands")
    (f / "digits.onnx").write_bytes(demo.model_bytes())
    whet.build(f / "digits.onnx", opt_level=0).save(f / "digits.plan")
    np.savez(f / "x.npz", image=demo.test_set()[0][:3])
    return f


def test_bench_writes_records_that_keep_the_schema(run: Whet, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    code, out, err = run("bench", "digits.plan", "--model", "digits.onnx", "--backends", "whet,onnxruntime",
                         "--shapes", "image:4x1x8x8", "--json", "out.json", "--seconds", 0.05)
    assert code == 0, err
    rows = json.loads((folder / "out.json").read_text())
    for row in rows:
        jsonschema.validate(row, record.schema())
    ours, theirs = record.read(folder / "out.json")
    assert (ours.backend, theirs.backend) == ("whet", "onnxruntime")
    assert ours.shapes == {"image": (4, 1, 8, 8)}
    assert ours.error is not None
    assert ours.error.value < 1e-4
    assert ours.error.reference == "onnxruntime fp32"
    assert theirs.error is None, "the reference is not compared with itself"
    assert ours.limit is not None
    assert ours.limit.flops > 1e6
    assert ours.memory is not None
    assert ours.memory.peak_bytes > ours.memory.idle_bytes
    assert ours.latency is not None
    assert ours.throughput == pytest.approx(4 / ours.latency.p50.value)
    (ratio,) = ours.comparisons
    assert ratio.low <= ratio.ratio <= ratio.high
    assert ours.load.alternating == ("whet fp32", "onnxruntime fp32")
    for word in ("median", "95 % interval", "p90", "p99", "per second", "memory", "of limit", "ONNX Runtime fp32"):
        assert word in out


def test_bench_builds_a_model_first_and_takes_given_inputs(run: Whet, folder: Path) -> None:
    code, out, err = run("bench", "digits.onnx", "--backends", "whet", "--inputs", "x.npz", "--opt-level", 0,
                         "--seconds", 0.05, "--no-memory")
    assert code == 0, err
    assert "image 3x1x8x8" in out


def test_bench_of_a_plan_alone_says_that_nothing_was_checked(run: Whet) -> None:
    code, out, _ = run("bench", "digits.plan", "--seconds", 0.05, "--no-memory")
    assert code == 0
    assert "not checked" in out
    assert "--model" in out


def test_wrong_outputs_are_exit_code_1(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from whet.compare import session

    monkeypatch.setitem(session.ALLOWED, "fp32", 1e-30)
    code, out, _ = run("bench", "digits.plan", "--model", "digits.onnx", "--backends", "whet,onnxruntime", "--seconds",
                       0.05, "--no-memory")
    assert code == 1
    assert "WRONG" in out


def test_a_missing_backend_names_the_line_that_installs_it(run: Whet, monkeypatch: pytest.MonkeyPatch) -> None:
    from whet.compare import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    code, _, err = run("bench", "digits.plan", "--model", "digits.onnx", "--backends", "openvino")
    assert code == 2
    assert "pip install 'whet[openvino]'" in err
    assert backends.installed() == ["whet"]


def test_steps_on_reference_kernels_are_reported(run: Whet, folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Det", ["x"], ["y"], name="determinant")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 40, 40])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
              folder / "det.onnx")
    code, out, err = run("bench", "det.onnx", "--seconds", 0.05, "--no-memory")
    assert code == 0, err
    assert ("openvino" in installed()) == ("Left out: openvino" in out or "OpenVINO" in out)
    assert "reference kernels" in out
    assert "determinant" in out


def test_sign_then_run_with_the_key(run: Whet, folder: Path) -> None:
    pytest.importorskip("cryptography")
    assert run("sign", "--generate-key", "keys")[0] == 0
    assert (folder / "keys" / "private.pem").stat().st_mode & 0o077 == 0, "the private key is its owner's alone"
    assert run("sign", "--generate-key", "keys")[0] == 2, "keys are not overwritten"
    asked = ("run", "digits.plan", "--inputs", "x.npz", "-o", "y.npz", "--require-key", "keys/public.pem")
    code, _, err = run(*asked)
    assert code == 2
    assert "not signed" in err
    assert run("sign", "digits.plan", "--key", "keys/private.pem")[0] == 0
    assert run(*asked)[0] == 0
    assert run(*asked[:-2], "--recompile")[0] == 0
    with np.load(folder / "y.npz") as y:
        assert y["logits"].shape == (3, 10)


DEMO = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnxruntime", "openvino", "sklearn", "torch", "cryptography", "matplotlib",
                                  "sqlalchemy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
importlib.util.find_spec = lambda name, package=None: None
from whet.cli import demo, main
from whet.compare import limits
demo.SECONDS, demo.OPT_LEVEL, limits.SECONDS = 0.05, 0, 0.01
sys.argv = ["whet", "demo", "--output", sys.argv[1]]
main.main()
"""


def test_the_demo_needs_nothing_but_whet(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DEMO, tmp_path / "out"], capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'whet[onnxruntime]'" in done.stdout
    assert done.stdout.count(": right.") == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page, "the page needs nothing from elsewhere"
    records = record.read(tmp_path / "out" / "measurements.json")
    assert {r.backend for r in records} == {"whet"}
    assert all(r.accuracy is not None and r.accuracy.samples == 450 and r.accuracy.value > 0.95 for r in records)
    assert (tmp_path / "out" / "report.md").stat().st_size > 500
    index = (tmp_path / "out" / "index.html").read_text()
    pages = re.findall(r'href="([^"]+)"', index)
    assert {"report.html", "compare/compare.html", "roi/roi.html", "gate/gate.html", "digits-int8.html"} <= set(pages)
    for name in pages:
        text = (tmp_path / "out" / name).read_text()
        assert "</html>" in text
    assert "every figure in it was checked" in index
    assert index.count("example figures, none of them yours") >= 2, "nobody takes them for measured"
    assert "failed: " not in done.stdout
    assert "whet[store]" in done.stdout, "without SQLAlchemy the store is left out, and all else is there"
    assert "whet board" not in done.stdout


@pytest.mark.parametrize("command", ["build", "run", "bench", "demo", "inspect", "sign", "doctor"])
def test_every_command_explains_itself(command: str, run: Whet) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage: whet" in out
