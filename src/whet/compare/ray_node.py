"""What a node does of a sweep: one task, from what travelled to what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet import pipeline
from whet.compare import inputs, ort_int8, ray_files
from whet.compare.grid import Cell
from whet.compare.openers import Workshop, open_cell
from whet.compare.ray_cluster import this_node
from whet.compare.ray_files import Packed
from whet.compare.sweep import Sweep, run_session
from whet.errors import WhetError
from whet.precision.data import Preprocess, open_data
from whet.quantizing import Quantization
from whet.tuning.cache import Entry, TimingCache

ORT = "onnxruntime-int8.onnx"  # what ONNX Runtime's quantizer made, in a task's folder


@dataclass(frozen=True)
class Work:
    """A sweep as it travels: its files by what is in them."""

    model: Packed
    cells: tuple[Cell, ...]
    shapes: Mapping[str, Sequence[int]]
    inputs: Any
    evaluation: Any
    calibration: Any
    preprocess: Preprocess | None
    calibration_samples: int | None
    eval_samples: int | None
    metric: str
    max_drop: float
    builds: int
    seconds: float
    memory: bool
    target: str
    opt_level: int
    torch: str | Packed
    fresh_builds: bool


@dataclass
class Found:
    """What a task gives: finished lines, timings of kernels that were not known, a file that it made, and the error
    that ended it (its type's name, what, where, why, do)."""

    fingerprint: str = ""
    lines: dict[str, Any] = field(default_factory=dict)
    timings: bytes = b"{}"
    notes: list[str] = field(default_factory=list)
    file: bytes = b""
    detail: str = ""
    seconds: float = 0.0
    error: tuple[str, str, str, str, str] | None = None


@dataclass(frozen=True)
class Given:
    """What a task begins with, beside its work: timings (in the object store), files by their names in its workshop."""

    timings: Any
    files: Mapping[str, Packed]
    quantized: tuple[str, float] = ("", 0.0)  # how and for how long ONNX Runtime's quantizer worked


class Kept:
    """Lines in memory: what a task found, beside the keys that others have or are at."""

    def __init__(self, known: frozenset[str] = frozenset()) -> None:
        self.known, self.found = known, dict[str, Any]()

    def __contains__(self, key: str) -> bool:
        return key in self.known or key in self.found

    def get(self, key: str, kind: Any) -> Any:
        """The value, as of that type."""
        return msgspec.convert(self.found[key], kind)

    def add(self, key: str, value: Any) -> None:
        """A value that is finished."""
        self.found[key] = msgspec.to_builtins(value)


def perform(work: Work, given: Given, gpu: bool, what: str, arguments: tuple[Any, ...]) -> Found:
    """A task, on its node. A WhetError that is not a cell's own is in what it gives."""
    import ray

    found = Found()
    known = msgspec.json.decode(ray.get(given.timings), type=dict[str, Entry])
    cache = TimingCache(None, dict(known))
    try:
        found.fingerprint = this_node(gpu)["device"].fingerprint
        with ray_files.scratch() as folder:
            JOBS[what](_sweep(work, given, folder, cache), found, *arguments)
    except WhetError as e:
        found.error = type(e).__name__, e.what, e.where, e.why, e.do
    found.timings = msgspec.json.encode({k: e for k, e in cache.entries.items() if known.get(k) != e})
    return found


def _sweep(work: Work, given: Given, folder: Path, cache: TimingCache) -> Sweep:
    model = ray_files.unpack(work.model)
    shop = Workshop(model, inputs.signature(model), folder, work.target, _data(work.calibration), work.preprocess,
                    work.calibration_samples, cache, work.opt_level, _torch(work.torch), work.fresh_builds)
    for name, packed in given.files.items():
        (folder / name).symlink_to(ray_files.unpack(packed))
        if name == ORT:
            shop.made["ort"] = (folder / name, *given.quantized)
    return Sweep(work.cells, shop, work.shapes, _data(work.inputs), _data(work.evaluation), work.metric, work.max_drop,
                 work.eval_samples, work.preprocess, work.builds, work.seconds, work.memory)


def _data(data: Any) -> Any:
    if isinstance(data, tuple):
        return tuple(_data(d) for d in data)
    return str(ray_files.unpack(data)) if isinstance(data, Packed) else data


def _torch(torch: str | Packed) -> str:
    return str(ray_files.unpack(torch)) if isinstance(torch, Packed) else torch


def _calibrate(sweep: Sweep, found: Found, batch: int, threads: int, precision: str, k: int, of: int) -> None:
    """A share of the calibration data."""
    shop = sweep.shop
    asked = Quantization(shop.calibration, samples=shop.calibration_samples, preprocess=shop.preprocess, share=(k, of))
    seen = pipeline.calibrate(shop.model, asked, target=shop.target, precision={"fp32", precision}, threads=threads,
                              shapes=shop.signature.at(batch, sweep.shapes), timing_cache=shop.timing_cache,
                              opt_level=shop.opt_level)
    found.file = seen.to_json(()).encode()


def _quantize(sweep: Sweep, found: Found, batch: int) -> None:
    """ONNX Runtime's quantized model."""
    shop = sweep.shop
    data = None
    if shop.calibration is not None:
        specs = inputs.specs(shop.signature, shop.signature.at(batch, sweep.shapes))
        data = open_data(shop.calibration, specs, preprocess=shop.preprocess, limit=shop.calibration_samples)
    path = shop.folder / "made.onnx"
    found.detail, found.seconds = ort_int8.quantize(shop.model, path, data)
    found.file = path.read_bytes()


def _tune(sweep: Sweep, found: Found, cell: Cell) -> None:
    """A build of a plan, for its timings."""
    shapes = sweep.shop.signature.at(cell.batch, sweep.shapes)
    feeds = inputs.feeds(sweep.shop.signature, shapes, sweep.inputs, sweep.preprocess)
    open_cell(sweep.shop, cell, feeds).backend.close()


def _time(sweep: Sweep, found: Found, session: tuple[int, int | None, int], known: frozenset[str]) -> None:
    lines = Kept(known)
    try:
        run_session(sweep, session, lines, notes=found.notes)
    finally:
        found.lines = lines.found


JOBS: dict[str, Callable[..., None]] = {"calibrate": _calibrate, "quantize": _quantize, "tune": _tune, "time": _time}
