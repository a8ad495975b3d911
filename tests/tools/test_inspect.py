"""whet inspect: layers, their figures, and where they come from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import whet
from tools.lint_models import hosted, model, node, weight
from whet.cli import main as cli
from whet.tools.inspect import apply_limits, apply_times, inspect
from whet.tools.timing import LayerTimes, time_layers

Whet = Callable[..., tuple[int, str, str]]


class Machine:
    """A machine of round figures."""

    copy = 1e9

    def flops(self, precision: str) -> float:
        return 1e12 if precision == "bf16" else 1e11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    f = tmp_path_factory.mktemp("inspect")
    nodes = [node("MatMul", "x w", "a", "first"), node("Add", "a b", "c", "bias"), node("Relu", "c", "d", "relu"),
             node("Reshape", "d shape", "e", "square"), hosted("i", "f", "counts"), node("Slice", "f zero one", "g"),
             node("Add", "e g", "y", "sum")]
    m = model(nodes, {"x": ["n", 32], "i": [12]}, ["y"],
              {"w": weight(32, 16), "b": weight(16), "shape": np.array([-1, 4, 4]), "zero": np.array([0]),
               "one": np.array([1])})
    onnx.save(m, f / "m.onnx")
    whet.build(f / "m.onnx", opt_level=0, timing_cache=f / "timing", threads=1).save(f / "m.plan")
    return f


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


def test_a_model_is_shown_as_its_regions(folder: Path) -> None:
    found = inspect(folder / "m.onnx")
    kinds = [l.kind for l in found.layers]
    assert kinds.count("matmul") == 1
    assert kinds.count("host") == 1
    (product,) = [l for l in found.layers if l.kind == "matmul"]
    assert product.flops == 2 * 1 * 32 * 16, "at the profile's optimum, a batch of 1"
    assert product.bytes == 4 * (32 + 32 * 16 + 16 + 16)
    assert product.results == ["f32[nx16]"]
    assert product.operands[1] == "$f32[32x16]"
    assert "relu" in product.expression, "bias and activation are in its epilogue"
    assert product.basis == "estimated"
    assert product.seconds is not None
    (hosted,) = [l for l in found.layers if l.kind == "host"]
    assert "no lowering for RandomUniformLike" in hosted.reason


def test_the_dataflow_of_a_model_goes_from_its_inputs_to_its_outputs(folder: Path) -> None:
    found = inspect(folder / "m.onnx")
    edges = found.edges()
    reached, order = {-1, -2}, [-1, -2]
    for a in order:
        for p, q, _ in edges:
            if p == a and q not in reached:
                reached.add(q)
                order.append(q)
    assert reached == {-1, -2, *range(len(found.layers)), len(found.layers)}
    assert all(a < b for a, b, _ in edges)


def test_a_plan_has_the_layers_that_were_built(folder: Path) -> None:
    found = inspect(folder / "m.plan")
    (product,) = [l for l in found.layers if l.kind == "matmul"]
    assert product.tactic.startswith("gemm")
    assert product.flops == 2 * 32 * 16
    assert product.bytes == 4 * (32 + 32 * 16 + 16 + 16)
    assert "relu" in product.expression
    assert [l.name for l in found.layers if l.kind == "host"] == ["RandomUniformLike counts"]
    assert found.edges()


def test_limits_are_of_the_operations_or_of_the_bytes(folder: Path) -> None:
    found = inspect(folder / "m.onnx")
    apply_limits(found, Machine())
    for l in found.layers:
        if l.kind in ("host", "view"):
            assert l.limit is None
        else:
            assert l.limit == max(l.flops / 1e11, l.bytes / 1e9)
            assert l.fraction == pytest.approx(l.limit / l.seconds)


def test_measured_times_are_divided_among_the_layers_of_one_name(folder: Path) -> None:
    found = inspect(folder / "m.onnx")
    a, b = found.layers[0], found.layers[-1]
    for l, s in ((a, 1e-6), (b, 3e-6)):
        l.name, l.seconds = "same", s
    apply_times(found, LayerTimes({"same": 8e-6}, 1e-5))
    assert (a.seconds, b.seconds) == (pytest.approx(2e-6), pytest.approx(6e-6))
    assert found.total == 1e-5
    assert all(l.seconds is None for l in found.layers if l.name != "same"), "what was not timed is not told"


def test_layers_of_a_plan_are_timed(folder: Path) -> None:
    plan = whet.Plan.open(folder / "m.plan")
    try:
        times = time_layers(plan)
    finally:
        plan.close()
    assert times.total > 0
    assert any("first" in label for label in times.seconds)
    share = times.share("counts")
    assert share is not None
    assert 0 < share <= 1
    assert times.share("no such node") is None


def test_bytes_of_a_lookup_are_those_that_are_asked_for(tmp_path: Path) -> None:
    m = model([node("Gather", "table i", "y", axis=0)], {"i": [8]}, ["y"], {"table": weight(10000, 16)},
              types={"i": onnx.TensorProto.INT64})
    onnx.save(m, tmp_path / "m.onnx")
    (layer,) = [l for l in inspect(tmp_path / "m.onnx").layers if l.kind == "gather"]
    assert layer.bytes == 2 * 8 * 16 * 4 + 8 * 8


def test_the_command_prints_layers_and_why_a_step_is_on_the_host(run: Whet) -> None:
    for path in ("m.onnx", "m.plan"):
        code, out, err = run("inspect", path)
        assert code == 0, err
        for word in ("matmul", "MFLOP", "counts", "host", "gemm"):
            assert word in out, path
    assert "cost model" in run("inspect", "m.onnx")[1]


def test_json_has_every_layer_in_full(run: Whet) -> None:
    for path in ("m.onnx", "m.plan"):
        data = json.loads(run("inspect", path, "--json")[1])
        (product,) = [l for l in data["layers"] if l["kind"] == "matmul"]
        assert product["flops"] == 1024
        assert product["intensity"] == pytest.approx(1024 / product["bytes"])
        assert {i["name"] for i in data["inputs"]} == {"x", "i"}


def test_timed_layers_say_how_far_they_are_from_the_limit(run: Whet) -> None:
    code, out, err = run("inspect", "m.plan", "--time")
    assert code == 0, err
    assert "of limit" in out
    assert "a whole call takes" in out
    assert "GFLOP/s" in out
    data = json.loads(run("inspect", "m.onnx", "--time", "--opt-level", 0, "--json")[1])
    assert data["basis"] == "measured"
    assert data["limits"]["copy"] > 1e8
    assert any(l["fraction"] for l in data["layers"])


@pytest.mark.parametrize("arguments", [("m.onnx",), ("m.plan",), ("m.plan", "--time")])
def test_html_draws_the_layers_with_their_dataflow(arguments: tuple[str, ...], run: Whet, folder: Path) -> None:
    code, out, err = run("inspect", *arguments, "--html", "drawn.html")
    assert code == 0, err
    assert "drawn.html" in out
    text = (folder / "drawn.html").read_text("utf-8")
    held = json.loads(text.split('type="application/json">', 1)[1].split("</script>", 1)[0])
    assert {"x", "i", "y"} <= {n["n"] for n in held["nodes"]}
    labels = [n["l"] for n in held["nodes"]]
    reached, order = {labels.index("x")}, [labels.index("x")]
    for a in order:
        for p, q, *_ in held["edges"]:
            if p == a and q not in reached:
                reached.add(q)
                order.append(q)
    assert labels.index("y") in reached, "from the input to the output, through what is between"
    assert labels.index("first") in reached
    assert ("f" in held["nodes"][labels.index("first")]) == ("--time" in arguments)


def test_what_is_not_there_is_exit_code_2(run: Whet, folder: Path) -> None:
    assert run("inspect", "nothing.plan")[0] == 2
    assert run("inspect", "nothing.onnx")[0] == 2
    code, _, err = run("inspect", "m.plan", "--html", folder / "no" / "such" / "folder.html")
    assert code == 2
    assert "W500" in err
