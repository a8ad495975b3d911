"""A comparison from end to end, and what is left of it after a kill."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import comparing
import numpy as np
import pytest

from whet.compare import model, openers, sweep
from whet.compare.grid import cells, kinds
from whet.compare.inputs import signature
from whet.compare.model import JOURNAL, compare_model
from whet.compare.recommend import parse_constraint
from whet.compare.result import Result
from whet.errors import InputError, ModelError

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("compared")
    comparing.model(folder)
    return folder, compare_model(comparing.options(
        folder, precisions=("fp32", "int8"), calibration=str(folder / "calib.npz"), builds=2, memory=True,
        evaluation=str(folder / "val.npz"), metric="top1", max_drop=5.0, price=0.36,
        constraints=[parse_constraint("throughput>1")]))


def test_each_cell_has_a_record_and_all_take_turns(found: tuple[Path, Result]) -> None:
    rows = {r.key: r for r in found[1].rows}
    assert set(rows) == {f"{k}, batch 1, 1 threads" for k in ("onnxruntime fp32", "onnxruntime int8", "whet fp32",
                                                              "whet int8")}
    for r in rows.values():
        assert r.failure is None, r
        assert r.record is not None
        assert len(r.builds) == 2
        assert r.record.memory is not None
        assert r.size_bytes
    assert len({tuple(len(b.rounds) for b in r.builds) for r in rows.values()}) == 1
    assert "quantize_static" in rows["onnxruntime int8, batch 1, 1 threads"].detail
    assert "layers in int8" in rows["whet int8, batch 1, 1 threads"].detail


def test_outputs_and_accuracy_are_judged_against_the_reference(found: tuple[Path, Result]) -> None:
    rows = {f"{r.backend} {r.precision}": r.record for r in found[1].rows}
    assert rows["onnxruntime fp32"].error is None
    assert rows["onnxruntime fp32"].accuracy.judged is None
    assert rows["whet fp32"].error.value < 1e-4
    judged = rows["whet int8"].accuracy.judged
    assert judged.reference == "onnxruntime fp32"
    assert judged.upper < 5.1
    assert judged.state == "held"
    assert rows["whet int8"].accuracy.samples == 100


def test_differences_are_against_the_baseline(found: tuple[Path, Result]) -> None:
    assert found[1].baseline == "onnxruntime fp32"
    assert len(found[1].differences) == 3
    assert all(d.low <= d.ratio <= d.high and d.adjusted_p >= d.p and d.builds == 2 for d in found[1].differences)


def test_what_is_finished_is_not_measured_again(found: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = found

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell was opened")

    monkeypatch.setattr(sweep, "open_cell", never)
    again = compare_model(comparing.options(
        folder, precisions=("fp32", "int8"), calibration=str(folder / "calib.npz"), builds=2, memory=True,
        evaluation=str(folder / "val.npz"), metric="top1", max_drop=5.0, price=0.36, weights={"cost": 1.0}))
    assert [r.builds for r in again.rows] == [r.builds for r in before.rows]
    assert again.recommendation.weights == {"cost": 1.0}  # the ranking may be asked for anew


def test_a_run_that_is_killed_goes_on_behind_what_is_finished(tmp_path: Path) -> None:
    comparing.model(tmp_path)
    # The second session never ends: the process is killed in it.
    code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
import comparing
from pathlib import Path
from whet.compare import model, sweep
inner = sweep.alternate
def slow(*a, **k):
    if (Path({str(tmp_path)!r}) / "out" / model.JOURNAL).read_text().count("timing/"):
        time.sleep(600)
    return inner(*a, **k)
sweep.alternate = slow
model.compare_model(comparing.options(Path({str(tmp_path)!r}), builds=2, backends=("onnxruntime",)))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    journal = tmp_path / "out" / JOURNAL
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if journal.exists() and journal.read_text().count("timing/") == 1:
            break
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = [line for line in journal.read_text().splitlines() if "timing/" in line]
    assert len(first) == 1
    done = compare_model(comparing.options(tmp_path, builds=2, backends=("onnxruntime",)))
    kept = next(iter(json.loads(first[0])["value"].values()))["build"]
    assert list(done.rows[0].builds[0].rounds) == kept["rounds"]
    assert len(done.rows[0].builds) == 2


def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> openers.Opened:
        raise ModelError("no kernel", why="of this kind")

    monkeypatch.setattr(openers, "_whet", fails)
    found = compare_model(comparing.options(tmp_path))
    good, failed = found.rows
    assert good.record is not None
    assert failed.record is None
    assert (failed.failure.code, failed.failure.what, failed.failure.why) == ("W100-model", "no kernel", "of this kind")
    assert any("fails" in line for line in failed.failure.stack)
    assert failed.key not in {r.key for r in found.recommendation.ranking}


def test_different_hardware_is_refused_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.remote, "bench", lambda *a: [
        comparing.row("whet", "fp32", 0.01, place="jetson", device=comparing.THERE)])
    o = comparing.options(tmp_path, remotes={"jetson": "x"}, backends=("onnxruntime",))
    with pytest.raises(InputError, match="different hardware"):
        compare_model(o)
    assert "timing/" not in (tmp_path / "out" / JOURNAL).read_text()  # known before anything is measured here
    found = compare_model(model.Options(**{**vars(o), "allow_mixed": True}))
    assert found.mixed_hardware
    assert {r.place for r in found.rows} == {"here", "jetson"}
    assert not any("jetson" in d.key for d in found.differences)
    with pytest.raises(InputError, match="different hardware"):
        compare_model(comparing.options(tmp_path, servers=["http://192.0.2.1/v2/models/x"]))


@pytest.mark.parametrize("change, words", [
    ({"backends": ("tensorrt",)}, "nothing to compare"), ({"backends": ("tvm",)}, "no backend"),
    ({"precisions": ("fp7",)}, "no precision"), ({"batches": (0,)}, "whole numbers"), ({"gate": -1.0}, "gate"),
    ({"max_drop": 0.0}, "max-drop"), ({"price": -1.0}, "price"), ({"shapes": {"y": (1,)}}, "no input"),
    ({"shapes": {"image": (1, 2)}}, "dimensions"), ({"baseline": "tvm fp32"}, "no baseline"),
    ({"torch": "nothing"}, "--torch"), ({"builds": 0}, "--builds"), ({"precisions": ("int8",), "backends": ("whet",)},
                                                                  "nothing to compare")])
def test_options_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compare_model(comparing.options(tmp_path, **change))


def test_another_comparison_in_the_folder_is_refused(tmp_path: Path) -> None:
    compare_model(comparing.options(tmp_path, backends=("onnxruntime",)))
    with pytest.raises(InputError, match="another comparison") as e:
        compare_model(comparing.options(tmp_path, backends=("onnxruntime",), seconds=0.02))
    assert "seconds" in e.value.why
    compare_model(comparing.options(tmp_path, backends=("onnxruntime",), seconds=0.02, fresh=True))


def test_data_without_labels_are_refused_before_timing(tmp_path: Path) -> None:
    comparing.model(tmp_path)
    with pytest.raises(InputError, match="labels"):
        compare_model(comparing.options(tmp_path, evaluation=str(tmp_path / "calib.npz"), metric="top1"))


def test_the_grid_has_what_backends_have_and_says_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pairs, out = kinds(("whet", "onnxruntime", "openvino", "torch", "tensorrt"), ("fp32", "bf16", "int8"), target="cpu",
                       quantized=False, calibrated=True)
    assert len(pairs) == 3 + 2 + 2 + 2
    assert {x.kind for x in out} == {"onnxruntime bf16", "openvino int8", "torch int8", "tensorrt fp32",
                                     "tensorrt bf16", "tensorrt int8"}
    assert "whet[nncf]" in next(x.why for x in out if x.kind == "openvino int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for calibrated, want in ((True, [("openvino", "int8")]), (False, [])):
        assert kinds(("openvino",), ("int8",), target="cpu", quantized=False, calibrated=calibrated)[0] == want
    assert len(cells(pairs, (1, 8), (1, 2))) == 4 * len(pairs)
    with pytest.raises(InputError, match="at most"):
        cells(pairs, range(1, 100), (1,))


def test_openvino_int8_is_what_its_own_quantizer_makes(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed: pip install 'whet[nncf]'")
    comparing.model(tmp_path)
    found = compare_model(comparing.options(tmp_path, backends=("onnxruntime", "openvino"), precisions=("fp32", "int8"),
                                            calibration=str(tmp_path / "calib.npz"), calibration_samples=20))
    (row,) = (r for r in found.rows if (r.backend, r.precision) == ("openvino", "int8"))
    assert row.failure is None, row
    assert row.detail.startswith("NNCF")
    assert 1e-4 < row.record.error.value < 0.1
    assert row.size_bytes < next(r.size_bytes for r in found.rows if (r.backend, r.precision) == ("openvino", "fp32"))


def test_a_quantized_model_runs_as_it_is() -> None:
    pairs, out = kinds(("whet", "onnxruntime", "torch"), ("fp32", "bf16"), target="cpu", quantized=True,
                       calibrated=False)
    assert pairs == [("whet", "int8"), ("onnxruntime", "int8")]
    assert [x.kind for x in out] == ["torch int8"]


def test_shapes_follow_the_batch(tmp_path: Path) -> None:
    of = signature(comparing.model(tmp_path))
    assert of.at(8, {}) == {"image": (8, 1, 8, 8)}
    assert of.batch({}) == 1
    assert of.batch({"image": (4, 1, 8, 8)}) == 4
    assert of.dtypes == {"image": np.dtype(np.float32)}
    assert of.outputs == ("logits",)
