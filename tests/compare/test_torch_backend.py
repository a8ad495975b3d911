"""PyTorch modules by name or exported; what is not installed is said, with the line that installs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from whet.compare import torch_backend
from whet.compare.tensorrt_backend import open_tensorrt
from whet.compare.torch_backend import open_torch
from whet.errors import InputError, MissingExtraError, PluginError

FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
MODULE = """
import torch
class Twice(torch.nn.Module):
    def forward(self, x):
        return {"twice": 2 * x, "other": x}
class Two(torch.nn.Module):
    def forward(self, x):
        return 2 * x, x.to(torch.int64)
class Wrong(torch.nn.Module):
    def forward(self, a, b):
        return a
def twice(): return Twice()
def number(): return 3
def fails(): raise RuntimeError("no weights")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("torch")
    (tmp_path / "whet_torch_modules.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_module_s_outputs_have_the_model_s_names(here: Path, precision: str) -> None:
    b = open_torch("whet_torch_modules:twice", FEEDS, ["twice"], precision=precision, threads=1)
    found = b.run()
    assert set(found) == {"twice"}
    assert found["twice"].dtype == np.float32
    np.testing.assert_allclose(found["twice"], 2 * FEEDS["x"], rtol=1e-2)
    np.testing.assert_allclose(b.call({"x": FEEDS["x"] + 1})["twice"], 2 * FEEDS["x"] + 2, rtol=1e-2)
    two = open_torch("whet_torch_modules:Two", FEEDS, ["a", "b"], precision=precision)
    assert two.run()["b"].dtype == np.int64


def test_an_exported_module_runs(here: Path) -> None:
    import torch

    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.from_numpy(FEEDS["x"]),))
    torch.export.save(exported, here / "m.pt2")
    assert open_torch(str(here / "m.pt2"), FEEDS, ["y"]).run()["y"].shape == (2, 2)


@pytest.mark.parametrize("spec, outputs, error", [
    ("whet_torch_modules:absent", ["y"], PluginError), ("whet_torch_absent:x", ["y"], PluginError),
    ("whet_torch_modules:fails", ["y"], PluginError), ("whet_torch_modules:number", ["y"], InputError),
    ("whet_torch_modules:Wrong", ["y"], PluginError), ("whet_torch_modules:Two", ["a", "b", "c"], InputError)])
def test_what_gives_no_module_is_told(here: Path, spec: str, outputs: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        open_torch(spec, FEEDS, outputs)


@pytest.mark.parametrize("spec", ["", "x", ":x", "x:", "absent.pt2"])
def test_a_name_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(InputError):
        torch_backend.check(spec)


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch is not installed"):
        open_torch("a:b", FEEDS, ["y"])
    with pytest.raises(MissingExtraError, match="tensorrt is not installed"):
        open_tensorrt(tmp_path / "m.onnx", FEEDS)
    with pytest.raises(InputError, match="no int8"):
        open_tensorrt(tmp_path / "m.onnx", FEEDS, precision="int8")
