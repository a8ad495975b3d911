"""What the tests of comparisons share: a small model, its data, and options that measure for a moment only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from whet import demo
from whet.compare.assemble import Settings, result
from whet.compare.model import Options
from whet.compare.result import Build, Result, Row
from whet.measure import Measurement, stats
from whet.measure.record import Device, Memory, Model

HERE = Device(fingerprint="aaaaaaaaaaaa", name="CPU <one>", arch="x86_64", cores=2)
THERE = Device(fingerprint="bbbbbbbbbbbb", name="Another | CPU", arch="aarch64", cores=4)


def model(folder: Path) -> Path:
    """The digits network, with `calib.npz` and the labelled `val.npz` beside it."""
    path = folder / "digits.onnx"
    if not path.exists():
        path.write_bytes(demo.model_bytes())
        images, labels = demo.test_set()
        np.savez(folder / "calib.npz", image=images[:40])
        np.savez(folder / "val.npz", image=images[40:140], labels=labels[40:140])
    return path


def options(folder: Path, **given: Any) -> Options:
    """Two cells, one build, a moment."""
    model(folder)
    chosen: dict[str, Any] = {
        "model": folder / "digits.onnx", "folder": folder / "out", "backends": ("onnxruntime", "whet"), "builds": 1,
        "seconds": 0.01, "memory": False, "opt_level": 0, "threads": (1,), "timing_cache": folder / "timing.json"}
    return Options(**{**chosen, **given})


def row(backend: str, precision: str, seconds: float, *, batch: int = 1, place: str = "here", device: Device = HERE,
        memory: int = 1 << 20, noise: float = 0.01, builds: int = 3, **fields: Any) -> Row:
    """A cell that was measured: rounds and calls around `seconds`."""
    rng = np.random.default_rng(len(backend) + 7 * len(precision))
    made = []
    for _ in range(builds):
        samples = seconds * (1 + noise * np.abs(rng.standard_normal(150)))
        made.append(Build(seconds=1.5, load_seconds=0.01, plan="", calls=150, samples=tuple(samples.tolist()),
                          rounds=tuple(np.median(samples.reshape(15, 10), axis=1).tolist())))
    latency = stats.latency(np.concatenate([b.samples for b in made]))
    record = Measurement(
        date="2026-01-31T12:00:00+00:00", model=Model(name="m"), backend=backend, precision=precision, threads=2,
        shapes={"x": (batch, 4)}, device=device, versions={backend: "1"}, latency=latency,
        throughput=batch / latency.p50.value, memory=Memory(peak_bytes=memory + 1000, idle_bytes=1000), **fields)
    key = f"{backend} {precision}, batch {batch}, 2 threads"
    return Row(key=key, backend=backend, precision=precision, batch=batch, threads=2, place=place,
               record=record, builds=tuple(made), size_bytes=1000)


def settings(**given: Any) -> Settings:
    """Of a result without constraints."""
    chosen: dict[str, Any] = {
        "model": Model(name="m"), "target": "cpu", "shapes": {}, "inputs": "seeded random values", "baseline": "",
        "gate": 0.02, "weights": {"p99": 1.0}, "constraints": (), "max_drop": 0.5}
    return Settings(**{**chosen, **given})


def compared(*found: Row, **given: Any) -> Result:
    """The result of these rows."""
    return result(found, settings(**{k: v for k, v in given.items() if k not in ("citations", "notes")}),
                  citations=given.get("citations", ()), notes=given.get("notes", ()))
