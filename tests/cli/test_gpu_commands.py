"""whet build, run, bench and doctor on a GPU, as a person uses them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from targets.cuda.on_device import needs_cuda
from whet import demo
from whet.cli import main as cli
from whet.measure import record

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("compilers")]


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["whet", *map(str, arguments)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out + err


@needs_cuda
def test_a_plan_is_built_run_and_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                       tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    Path("digits.onnx").write_bytes(demo.model_bytes())
    images, labels = demo.test_set()
    np.savez("x.npz", image=images[:8])
    code, said = call(monkeypatch, capsys, "build", "digits.onnx", "-o", "d.plan", "--target", "cuda", "--opt-level", 0)
    assert code == 0, said
    code, said = call(monkeypatch, capsys, "run", "d.plan", "--inputs", "x.npz", "-o", "y.npz", "--device", 0)
    assert code == 0, said
    with np.load("y.npz") as y:
        assert np.mean(y["logits"].argmax(-1) == labels[:8]) > 0.9
    code, said = call(monkeypatch, capsys, "run", "d.plan", "--inputs", "x.npz", "-o", "y.npz", "--device", 99)
    assert code == 2
    assert "W801-no-device" in said
    code, said = call(monkeypatch, capsys, "bench", "d.plan", "--devices", "0", "--seconds", 0.2, "--no-memory",
                      "--json", "out.json")
    assert code == 0, said
    assert "samples a second" in said
    (found,) = record.read(Path("out.json"))
    assert found.device.gpus[0].name in said
    assert found.throughput
    assert found.limit is None
