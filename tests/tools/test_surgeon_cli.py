"""whet surgeon on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tools.surgery import model, network, run, tensor
from whet.cli import main as cli

Whet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Whet:
    """`whet surgeon` in this process, in a folder with m.onnx: exit code, what it printed, what it complained about."""
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(network(np.random.default_rng(0)).SerializeToString())

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["whet", "surgeon", *map(str, arguments)])
        with pytest.raises(SystemExit) as e:
            cli.main()
        out, err = capsys.readouterr()
        return int(e.value.code or 0), out, err

    return call


X = {"x": np.random.default_rng(3).standard_normal((2, 64)).astype(np.float32)}


@pytest.mark.parametrize("arguments", [
    "extract m.onnx -o o.onnx --outputs y,z --inputs x",
    "extract m.onnx -o o.onnx --outputs y --outputs z --shapes x:rows,64",
    "sanitize m.onnx -o o.onnx --opset 21 --external",
    "insert m.onnx -o o.onnx --op LeakyRelu --attr alpha=1.0 --inputs a --outputs a",
    "prune m.onnx -o o.onnx --reconnect s=s_2", "prune m.onnx -o o.onnx --nodes act --outputs z",
    "rename m.onnx -o o.onnx --tensor a=aa --node first=fc --dim n=batch",
    r"rename m.onnx -o o.onnx --pattern --tensor ^w(.)=layer\1.weight",
    "set-shapes m.onnx -o o.onnx --shapes x:2x64", "set-shapes m.onnx -o o.onnx --dim n=2 --one-file",
    "strip-weights m.onnx -o o.onnx",
])
def test_commands_write_models_that_run(whet: Whet, arguments: str) -> None:
    code, out, err = whet(*arguments.split())
    if "s_2" in arguments:
        assert code == 2
        assert "there is no tensor 's_2'" in err
        assert not Path("o.onnx").exists()
        return
    assert code == 0, err
    assert "o.onnx" in out
    got, want = run(Path("o.onnx"), X), run(Path("m.onnx"), X)
    if "act" not in arguments:
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_come_back(whet: Whet) -> None:
    assert whet("strip-weights", "m.onnx", "-o", "thin.onnx", "--weights", "w")[0] == 0
    assert whet("restore-weights", "thin.onnx", "-o", "back.onnx")[0] == 0
    np.testing.assert_array_equal(run(Path("back.onnx"), X)[0], run(Path("m.onnx"), X)[0])
    Path("w").write_bytes(b"x" + Path("w").read_bytes()[1:])
    code, _, err = whet("restore-weights", "thin.onnx", "-o", "again.onnx")
    assert code == 2
    assert "W104-weights" in err
    assert not Path("again.onnx").exists()


def test_a_shape_that_is_none_is_told(whet: Whet) -> None:
    code, _, err = whet("set-shapes", "m.onnx", "-o", "o.onnx", "--shapes", "x:1,,2")
    assert code == 2
    assert "a dimension is empty" in err


def test_a_detector_takes_frames_and_gives_boxes(whet: Whet) -> None:
    shape = [1, 3, 8, 8]
    Path("d.onnx").write_bytes(model([helper.make_node("Reshape", ["x", "to"], ["y"])], [tensor("x", shape)],
                                     [tensor("y", [1, 6, 32])], {"to": np.array([1, 6, 32])}).SerializeToString())
    code, out, err = whet("preprocess", "d.onnx", "-o", "c.onnx", "--preset", "yolo", "--color", "bgr", "--frame",
                          "9x16", "--scale", "0.01", "--mean", "0.1,0.2,0.3")
    assert code == 0, err
    assert "'image': uint8 frames instead of 'x'" in out
    code, out, err = whet("postprocess", "c.onnx", "-o", "b.onnx", "--kind", "detect", "--max-detections", "7")
    assert code == 0, err
    frame = np.random.default_rng(0).integers(0, 256, (1, 9, 16, 3), np.uint8)
    assert [a.shape for a in run(Path("b.onnx"), {"image": frame})] == [(1, 7, 4), (1, 7), (1, 7), (1,)]
    assert whet("postprocess", "c.onnx", "-o", "b.onnx", "--kind", "guess")[0] == 2
    assert whet("preprocess", "d.onnx", "-o", "c.onnx", "--mean", "a,b")[0] == 2
    assert whet("preprocess", "d.onnx", "-o", "c.onnx", "--frame", "9")[0] == 2


def test_a_classifier_gives_its_best(whet: Whet) -> None:
    code, _, err = whet("postprocess", "m.onnx", "-o", "t.onnx", "--kind", "classify", "--top", "3",
                        "--output-name", "y")
    assert code == 0, err
    scores, classes, _ = run(Path("t.onnx"), X)
    np.testing.assert_array_equal(classes, np.argsort(-run(Path("m.onnx"), X)[0], 1)[:, :3])
    assert (np.diff(scores) <= 0).all()
