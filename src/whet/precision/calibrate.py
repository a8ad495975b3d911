"""Calibration: a model runs over samples while observers watch the values between its layers."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.precision.batches import ONE_SAMPLE, Batch, Data
from whet.precision.cache import Calibration, Tensor
from whet.precision.histogram import Observer

Run = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]
Progress = Callable[[int, "int | None"], None]


def calibrate(run: Run, axes: Mapping[str, int | None], data: Data | Iterable[Batch], *,
              layers: Mapping[str, str] | None = None, model: str = "", graph: str = "",
              progress: Progress = lambda done, total: None, threads: int = 2) -> Calibration:
    """Ranges of the tensors that `run` gives.

    run:     the model: feeds of a batch -> arrays by tensor name (more than these are ignored).
    axes:    the tensors to observe, and along which axis extremes and means are kept per channel (None: they are not).
    layers:  who reads each tensor, for reports.
    model, graph: what the calibration is of (`Expect`).
    progress: called with the samples done and their number (None if unknown) after each batch.
    threads: tensors that are watched at a time. NumPy works without the interpreter's lock: two are 1.9 times as fast.

    Memory: one batch with its tensors, and about 100 KiB per tensor. Samples that a batch repeats to be full do not
    count, where a tensor's first axis is the batch. InputError for data that do not fit, and for a tensor that `run`
    does not give or whose number of channels changes.
    """
    seen = {name: Observer(axis) for name, axis in axes.items()}
    total = data.samples if isinstance(data, Data) else None
    started, watching, samples, batches = time.perf_counter(), 0.0, 0, 0
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for b in data.batches() if isinstance(data, Data) else data:
            values = _values(run(b.feeds), seen, b)
            at = time.perf_counter()
            work = sorted(((n, seen[n], a) for n, a in values.items()), key=lambda w: -w[2].size)  # the largest first
            list(pool.map(lambda w: _watch(*w), work))
            watching += time.perf_counter() - at
            samples, batches = samples + b.count, batches + 1
            progress(samples, total)
    if not samples:
        raise InputError("there are no samples to calibrate with", do="give some hundreds (--calib DATA)")
    tensors = {n: Tensor((layers or {}).get(n, ""), o) for n, o in seen.items()}
    return Calibration(
        tensors, samples, batches, model, graph, data.preprocessing if isinstance(data, Data) else "",
        data.digest() if isinstance(data, Data) else "", [ONE_SAMPLE] if samples == 1 else [],
        time.perf_counter() - started, watching, _peak())


def _values(given: Mapping[str, Any], wanted: Iterable[str], b: Batch) -> dict[str, np.ndarray]:
    """The wanted tensors, without what a full batch repeats."""
    missing = [n for n in wanted if n not in given]
    if missing:
        raise InputError(f"the model does not give {len(missing)} tensors that are to be observed",
                         why=f"for example {', '.join(missing[:3])}", do="calibrate again from the model")
    rows = {a.shape[0] for a in b.feeds.values() if a.ndim}
    full = next(iter(rows)) if len(rows) == 1 else 0
    out = {}
    for n in wanted:
        a = np.asarray(given[n])
        out[n] = a[:b.count] if b.count < full and a.ndim and a.shape[0] == full else a
    return out


def _watch(name: str, observer: Observer, values: np.ndarray) -> None:
    try:
        observer.update(values)
    except ValueError as e:
        raise InputError(f"the channels of {name!r} change in number", why=str(e),
                         do="calibrate with samples of one size") from e


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
