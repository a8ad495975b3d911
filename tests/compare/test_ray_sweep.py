"""Sweeps on a real cluster of two nodes: the cells of a local run, after lost workers and a lost driver, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from comparing import options

import whet
from whet.compare import model, ray_cluster, ray_files
from whet.errors import InputError, WhetError
from whet.tuning.cache import TimingCache

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'whet[ray]'")
pytestmark = pytest.mark.slow
SOURCE = str(Path(whet.__file__).parents[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two nodes of this machine, and a connection to them; the address."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("cluster")
    given = {"PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")]), "TMPDIR": str(folder),
             "WHET_CACHE": str(folder / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    before = {k: os.environ.get(k) for k in given}
    os.environ.update(given)
    try:
        made = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20})
        try:
            made.add_node(num_cpus=1, object_store_memory=80 << 20)
            ray.init(made.address, log_to_driver=False, logging_level="ERROR")
            yield made.address
        finally:
            ray.shutdown()
            made.shutdown()
    finally:
        for k, v in before.items():
            if v is None:
                os.environ.pop(k)
            else:
                os.environ[k] = v


def keys(folder: Path) -> list[str]:
    """The finished lines of a journal, without the hardware's fingerprint."""
    path = folder / model.JOURNAL
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line)["key"].split("/", 1)[1] for line in lines]


def test_a_sweep_on_two_nodes_has_the_cells_of_a_local_one(cluster: str, tmp_path: Path) -> None:
    labels: list[str] = []
    asked = options(tmp_path, precisions=("fp32", "int8"), calibration=tmp_path / "calib.npz", calibration_samples=64,
                    opt_level=1, ray=cluster)
    with np.load(tmp_path / "calib.npz") as z:
        images = z["image"]
    np.savez(tmp_path / "calib.npz", image=np.concatenate([images, images]))
    far = model.compare_model(asked, lambda what, done, total: labels.append(what))
    # Timings of kernels came back: a build here has them all.
    timings = TimingCache.open(asked.timing_cache).entries
    assert timings
    here = model.compare_model(replace(asked, ray="", folder=tmp_path / "here"))
    assert TimingCache.open(asked.timing_cache).entries.keys() == timings.keys()
    assert [r.key for r in far.rows] == [r.key for r in here.rows]
    for r, s in zip(far.rows, here.rows):
        assert r.failure is None
        assert r.record is not None
        assert s.record is not None
        assert r.record.device == s.record.device  # the nodes' own, which are on this machine
        assert r.place == "here"
    assert {(d.key, d.baseline) for d in far.differences} == {(d.key, d.baseline) for d in here.differences}
    assert any("Ray cluster" in n for n in far.notes)
    # Calibrated in two shares at once; tuned beside each other; timed one at a time, with nothing beside it.
    assert "calibrating, share 1 of 2, calibrating, share 2 of 2" in labels
    assert any(x.count("tuning") == 2 for x in labels)
    assert all(x.count(" build ") == 1 and "tuning" not in x and "calib" not in x for x in labels if "timing " in x)
    assert [k for k in keys(asked.folder) if k.startswith("timing")] == ["timing/1/1/0"]
    journal = (asked.folder / model.JOURNAL).read_text().splitlines()
    calibration = next(json.loads(json.loads(x)["value"]) for x in journal if "/calibration/1" in x[:60])
    assert calibration["samples"] == 64


def test_a_worker_that_is_killed_is_replaced(cluster: str, tmp_path: Path) -> None:
    killed: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        until = time.monotonic() + 30
        while what.startswith("timing batch 2") and not killed and time.monotonic() < until:
            # The workers of the cluster that this process started, by the name that Ray gives to one at work.
            for p in psutil.Process().children(recursive=True):
                try:
                    if " ".join(p.cmdline()).startswith("ray::whet: timing batch 2"):
                        os.kill(p.pid, signal.SIGKILL)
                        killed.append(p.pid)
                        return
                except psutil.Error:
                    continue

    asked = options(tmp_path, ray=cluster, backends=("onnxruntime",), batches=(1, 2), seconds=0.3, memory=True)
    found = model.compare_model(asked, progress)
    assert len(killed) == 1
    assert [r.failure for r in found.rows] == [None, None]
    assert all(r.record is not None and r.record.memory is not None for r in found.rows)
    assert sorted(k for k in keys(tmp_path / "out") if k.startswith("timing")) == ["timing/1/1/0", "timing/2/1/0"]


def test_a_driver_that_is_killed_goes_on_behind_what_is_finished(cluster: str, tmp_path: Path) -> None:
    asked = options(tmp_path, ray=cluster, backends=("onnxruntime",), batches=(1, 2), builds=2)
    command = [sys.executable, "-m", "whet.cli.main", "compare", str(asked.model), "-o", str(asked.folder), "--ray",
               cluster, "--backends", "onnxruntime", "--batches", "1,2", "--builds", "2", "--seconds", "0.01",
               "--no-memory", "--metric", "divergence", "--opt-level", "0", "--threads", "1",
               "--timing-cache", str(asked.timing_cache)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        until = time.monotonic() + 120
        while driver.poll() is None and time.monotonic() < until:
            if any(k.startswith("timing") for k in keys(asked.folder)):
                break
            time.sleep(0.02)
        driver.kill()
        assert driver.stderr is not None
        said = driver.stderr.read().decode()
    assert driver.returncode == -signal.SIGKILL, said
    before, ran = keys(asked.folder), set[str]()
    timed = [k for k in before if k.startswith("timing")]
    assert timed
    assert len(timed) < 4
    found = model.compare_model(asked, lambda what, done, total: ran.add(f"{total} {what}"))
    after = keys(asked.folder)
    assert after[:len(before)] == before
    assert len(after) == len(set(after))
    assert sum(k.startswith("timing") for k in after) == 4
    assert all(len(r.builds) == 2 and r.failure is None for r in found.rows)
    assert {w.split()[0] for w in ran if "timing" in w} == {str(4 - len(timed))}  # tasks that were missing
    again = set[str]()
    model.compare_model(asked, lambda what, done, total: again.add(what))
    assert not any("timing" in w for w in again)


def test_ctrl_c_cancels_what_runs_and_leaves_what_is_done(cluster: str, tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    asked = options(tmp_path, ray=cluster, backends=("onnxruntime",), batches=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        model.compare_model(asked, progress)
    assert [k for k in keys(asked.folder) if k.startswith("timing")] == ["timing/1/1/0"]


def test_more_threads_than_cpus_and_errors_of_all_cells_are_told(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 threads"):
        model.compare_model(replace(options(tmp_path, ray=cluster, threads=(2,)), folder=tmp_path / "x"))
    with pytest.raises(WhetError) as e:  # a metric that the outputs do not fit is known on the node alone
        model.compare_model(options(tmp_path, ray=cluster, backends=("onnxruntime",), metric="no such",
                                    evaluation=str(tmp_path / "val.npz")))
    assert "no such" in str(e.value)


def test_files_travel_by_what_is_in_them(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.npy").write_bytes(b"one")
    (tmp_path / "data" / "y.npy").write_bytes(b"two")
    packed = ray_files.pack_path(tmp_path / "data")
    there = ray.get(ray.remote(ray_files.unpack).remote(packed))
    assert (there / "a" / "x.npy").read_bytes() == b"one"
    assert ray.get(ray.remote(ray_files.unpack).remote(packed)) == there
    assert ray_files.pack_path(tmp_path / "data").sha256 == packed.sha256
    (tmp_path / "data" / "y.npy").write_bytes(b"new")
    changed = ray_files.pack_path(tmp_path / "data")
    assert changed.sha256 != packed.sha256
    # What is not what was sent is not taken.
    files = tuple((n, "0" * 64, pieces) for n, _, pieces in changed.files)
    with pytest.raises(InputError, match="changed on its way"):
        ray_files.unpack(ray_files.Packed("f" * 64, "", files))


def test_a_model_travels_with_the_files_that_its_weights_lie_in(cluster: str, tmp_path: Path) -> None:
    import onnx

    options(tmp_path)
    proto = onnx.load(tmp_path / "digits.onnx")
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    packed = ray_files.pack_model(tmp_path / "big.onnx")
    assert [n for n, _, _ in packed.files] == ["big.onnx", "big.bin"]
    onnx.load(ray_files.unpack(packed))


def test_a_node_says_what_it_is(cluster: str) -> None:
    with ray_cluster.joined(cluster) as found:
        assert len(found.nodes) == 2
        assert len({n.host for n in found.nodes}) == 1
        assert "whet" in found.installed()
    assert ray.is_initialized()  # a connection that was there stays
