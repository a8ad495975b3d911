"""What calibrating and quantizing cost: time and peak memory of a process of its own, and the size of the weights."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import whet
from benchmarks.models import model_inputs, model_path
from whet.frontends import model_hash
from whet.measure import Measurement, peak_memory, this_device
from whet.measure.record import Memory, Model, PlanId, now
from whet.measure.tools import stamp
from whet.plan import Plan
from whet.quantizing import Quantization

SAMPLES, BATCH = 256, 8


def batches(name: str) -> Iterator[dict[str, np.ndarray]]:
    """256 random samples, made as they are asked for."""
    for i in range(SAMPLES // BATCH):
        yield model_inputs(name, BATCH, seed=1000 + i)


def run(name: str, threads: int, out: str) -> None:
    """Calibrate and write a plan without tuning; the seconds from the first sample asked for to the last one seen go
    into the file `out`. This is what the measured process does."""
    marks: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        marks.setdefault(what, time.perf_counter())
        marks["end of " + what] = time.perf_counter()

    shapes = {k: tuple(v.shape) for k, v in model_inputs(name, BATCH).items()}
    whet.build(model_path(name), precision={"int8", "bf16"}, threads=threads, shapes=shapes, opt_level=0,
               quantization=Quantization(calibration=lambda: batches(name)), progress=progress).close()
    begin = marks["building the plan that calibration runs"]
    Path(out).write_text(json.dumps(marks["end of calibrating"] - begin))


def measure(name: str, threads: int, work: Path, plans: dict[str, Path]) -> list[Measurement]:
    """Records of calibrating, and of the plans in `plans` (by precision): `plan.weights` is their section's size.

    The record of calibrating has the shapes of all samples, the process's memory, and its time as `build_seconds`,
    which counts making the plan that runs it and the random samples.
    """
    work.mkdir(parents=True, exist_ok=True)
    out = work / f"{name}-calibration.json"
    memory: Memory = peak_memory("import sys; sys.path.insert(0, sys.argv[1])\nfrom benchmarks import calibration",
                                 "calibration.run(sys.argv[2], int(sys.argv[3]), sys.argv[4])",
                                 [str(Path(__file__).parents[1]), name, str(threads), str(out)], timeout=1800)
    common: dict[str, Any] = {
        "date": now(), "model": Model(name=name, sha256=model_hash(model_path(name))), "backend": "whet",
        "threads": threads, "device": this_device(),
        "versions": {"whet": whet.__version__, "numpy": np.__version__}, **stamp()}
    shapes = {k: (SAMPLES, *v.shape[1:]) for k, v in model_inputs(name, 1).items()}
    found = [Measurement(precision="int8", shapes=shapes, memory=memory, build_seconds=json.loads(out.read_text()),
                         **common)]
    for precision, path in plans.items():
        with closing(Plan.open(path)) as plan:
            found.append(Measurement(
                precision=precision, shapes={}, **common,
                plan=PlanId(hash=plan.hash, bytes=plan.nbytes, weights=plan.summary()["weight_bytes"])))
    return found
