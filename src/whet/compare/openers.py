"""Opening a cell: built, loaded, bound to its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet import pipeline
from whet.compare import ort_int8, ov_int8
from whet.compare.backends import Arrays, Backend, open_peer, open_whet
from whet.compare.grid import Cell
from whet.compare.inputs import Signature, specs
from whet.compare.torch_backend import open_torch
from whet.errors import InputError
from whet.precision.batches import Data
from whet.precision.data import Preprocess, open_data
from whet.quantizing import Quantization
from whet.tuning.cache import TimingCache

Progress = Callable[[str, int, int], None]


@dataclass
class Workshop:
    """What openers share. `folder` is scratch: plans and quantized models, gone with the comparison; `made` is what was
    made there once and serves all cells: path, how, seconds."""

    model: Path
    signature: Signature
    folder: Path
    target: str = "cpu"
    calibration: Any = None
    preprocess: Preprocess | None = None
    calibration_samples: int | None = None
    timing_cache: Path | TimingCache | None = None
    opt_level: int = 3
    torch: str = ""
    fresh_builds: bool = False
    made: dict[str, tuple[Path, str, float]] = field(default_factory=dict)


@dataclass
class Opened:
    """A backend, the file that it was loaded from (None: a module, a server), how it was made."""

    backend: Backend
    file: Path | None
    detail: str = ""


def open_cell(shop: Workshop, cell: Cell, feeds: Arrays, progress: Progress = lambda what, done, total: None) -> Opened:
    """Build and load a cell. Errors as of the backend."""
    if cell.backend == "whet":
        found = _whet(shop, cell, feeds, progress)
    elif cell.backend in ("torch", "torch-compile"):
        if not shop.torch:
            raise InputError("PyTorch runs a module, not an ONNX model", do="name it: --torch package.module:callable")
        progress(f"loading {cell.kind}", 0, 0)
        opened = open_torch(shop.torch, feeds, shop.signature.outputs, precision=cell.precision, threads=cell.threads,
                            compiled=cell.backend == "torch-compile", fresh=shop.fresh_builds,
                            device="cpu" if shop.target == "cpu" else "cuda")
        found = Opened(opened, None, f"{cell.precision} throughout" if cell.precision != "fp32" else "")
    elif cell.backend == "tensorrt":
        from whet.compare.tensorrt_backend import open_tensorrt

        progress(f"building {cell.kind}", 0, 0)
        found = Opened(open_tensorrt(shop.model, feeds, precision=cell.precision), None)
    else:
        found = _peer(shop, cell, feeds, progress)
    found.backend.name, found.backend.precision = cell.backend, cell.precision
    return found


def _whet(shop: Workshop, cell: Cell, feeds: Arrays, progress: Progress) -> Opened:
    coded = cell.precision in ("int8", "fp8") and not shop.signature.quantized
    # What calibration found is the same for all builds of a batch; the folder goes, so that it is never an old one.
    asked = Quantization(shop.calibration, shop.folder / f"calibration-{cell.batch}.json",
                         samples=shop.calibration_samples, preprocess=shop.preprocess) if coded else None
    cache = shop.timing_cache
    if shop.fresh_builds:
        cache = shop.folder / f"timing-{time.monotonic_ns()}.json"
    start = time.perf_counter()
    plan = pipeline.build(shop.model, target=shop.target, precision={"fp32", cell.precision}, threads=cell.threads,
                          shapes={n: tuple(a.shape) for n, a in feeds.items()}, timing_cache=cache,
                          opt_level=shop.opt_level, quantization=asked,
                          progress=lambda what, done, total: progress(f"{cell.kind}: {what}", done, total))
    seconds = time.perf_counter() - start
    file = shop.folder / f"whet-{cell.precision}-{cell.batch}-{cell.threads}.plan"
    plan.save(file)
    backend = open_whet(plan, feeds, threads=cell.threads if shop.target == "cpu" else None, build_seconds=seconds,
                        device=None if shop.target == "cpu" else 0)
    closing = backend.close

    def close() -> None:
        closing()
        plan.close()

    backend.close = close
    told = plan.manifest.info.get("precision", {})
    codes = told.get(cell.precision) if isinstance(told.get(cell.precision), dict) else None
    layers = f"{len(codes['layers'])} of {len(codes['layers']) + len(codes['kept'])} layers in {cell.precision}" \
        if codes and "layers" in codes and "kept" in codes else ""
    return Opened(backend, file, "; ".join(t for t in (told.get("note", ""), layers) if t))


def _peer(shop: Workshop, cell: Cell, feeds: Arrays, progress: Progress) -> Opened:
    """ONNX Runtime or OpenVINO."""
    model, detail, seconds = shop.model, "", None
    if cell.precision == "int8" and not shop.signature.quantized:
        if cell.backend == "onnxruntime" and "ort" not in shop.made:
            progress("ONNX Runtime's quantizer", 0, 0)
            path = shop.folder / "onnxruntime-int8.onnx"
            shop.made["ort"] = path, *ort_int8.quantize(shop.model, path, _data(shop, feeds))
        if cell.backend == "openvino" and "ov" not in shop.made:
            progress("OpenVINO's quantizer, NNCF", 0, 0)
            path, data = shop.folder / "openvino-int8.xml", _data(shop, feeds)
            if data is None:
                raise InputError("OpenVINO's quantizer calibrates with data", do="give them with --calib")
            shop.made["ov"] = path, *ov_int8.quantize(shop.model, path, data)
        model, detail, seconds = shop.made["ort" if cell.backend == "onnxruntime" else "ov"]
    progress(f"loading {cell.kind}", 0, 0)
    backend = open_peer(cell.backend, model, feeds, precision=cell.precision, threads=cell.threads, target=shop.target)
    backend.build_seconds = seconds
    backend.size_bytes = _size(model)
    return Opened(backend, model, detail)


def _data(shop: Workshop, feeds: Arrays) -> Data | None:
    if shop.calibration is None:
        return None
    shapes = {n: tuple(a.shape) for n, a in feeds.items()}
    return open_data(shop.calibration, specs(shop.signature, shapes), preprocess=shop.preprocess,
                     limit=shop.calibration_samples)


def _size(model: Path) -> int:
    """Bytes of a model with the files that its weights lie in."""
    if model.suffix == ".xml":  # OpenVINO's
        return model.stat().st_size + model.with_suffix(".bin").stat().st_size
    import onnx

    proto = onnx.load(model, load_external_data=False)
    files = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    beside = (model.parent / f for f in files)
    return model.stat().st_size + sum(f.stat().st_size for f in beside if f.is_file())
