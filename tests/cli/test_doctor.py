"""`whet doctor` says what is there, what is not, and how to get it."""

import json
import os
from pathlib import Path

import pytest

from whet.cli import doctor


def test_json_and_the_screen_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(as_json=True)
    found = json.loads(capsys.readouterr().out)
    doctor.run(as_json=False)
    screen = " ".join(capsys.readouterr().out.split())
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["fingerprint"] in screen
    assert found["cpu"]["kernels"]["isa"] in screen
    for extra in found["extras"]:
        assert extra["present"] or extra["install"] in screen


def test_install_lines_are_never_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (purpose, _) in list(doctor.EXTRAS.items()):
        monkeypatch.setitem(doctor.EXTRAS, name, (purpose, ("no_such_module", "nor_this_one")))
    doctor.run(as_json=False)
    screen = capsys.readouterr().out
    for name in doctor.EXTRAS:
        assert f"pip install 'whet[{name}]'" in screen


def test_a_missing_extra_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "imaginary", ("nothing", ("no_such_module",)))
    doctor.run(as_json=False)
    assert "pip install 'whet[imaginary]'" in " ".join(capsys.readouterr().out.split())


def test_cache_is_counted_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path / "cache"))
    assert not doctor.examine()["cache"]["exists"]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "timing.json").write_bytes(b"x" * 100)
    found = doctor.examine()["cache"]
    assert (found["files"], found["bytes"], found["writable"]) == (1, 100, True)


def _fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_gpus_and_driver_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 81559, 570.1'")
    gpu = doctor.examine()["gpu"]
    assert gpu["driver"] == "570.1"
    assert gpu["devices"] == [{"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 << 20}]


def test_a_broken_driver_is_a_problem_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, "echo 'could not communicate with the driver' >&2; exit 9")
    gpu = doctor.examine()["gpu"]
    assert gpu["devices"] == []
    assert "could not communicate" in gpu["problem"]


def test_a_gpu_that_cannot_be_used_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    _fake_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 81559, 570.1'")
    reason = {"devices": [], "libraries": {}, "missing": [], "why": "the driver is for CUDA 11.8", "do": "update it"}
    monkeypatch.setattr(doctor, "_usable", lambda: reason)
    doctor.run(as_json=False)
    screen = " ".join(capsys.readouterr().out.split())
    assert "NVIDIA H100" in screen
    assert "not usable: the driver is for CUDA 11.8 (update it)" in screen


def test_libraries_that_are_missing_come_with_the_install_line(monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    device = {"name": "NVIDIA H100", "arch": "sm_90", "memory_bytes": 80 << 30, "driver": "580.1"}
    found = {"devices": [device], "libraries": {"cublas": "13.1.0"}, "missing": ["cudnn"], "why": None, "do": None}
    monkeypatch.setattr(doctor, "_usable", lambda: found)
    doctor.run(as_json=False)
    screen = " ".join(capsys.readouterr().out.split())
    assert "NVIDIA H100 (sm_90, 80 GiB), driver 580.1; cublas 13.1.0" in screen
    assert "missing: cudnn: pip install \"whet[cuda]\"" in screen
