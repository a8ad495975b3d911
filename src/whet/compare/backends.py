"""Runtimes that `whet bench` can compare: one small adapter each, imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, MissingExtraError

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[str, int, int], None]


@dataclass
class Backend:
    """A loaded model. `run(feeds)` gives the outputs by name; `call()` runs the last-bound feeds with
    as little around it as the backend's own API allows, for timing."""

    name: str
    precision: str
    version: str
    bind: Callable[[Arrays], Callable[[], Mapping[str, np.ndarray]]]
    close: Callable[[], None] = lambda: None

    def run(self, feeds: Arrays) -> Mapping[str, np.ndarray]:
        """The outputs by name."""
        return self.bind(feeds)()


def open_backend(name: str, model: Path, *, precision: str, threads: int, plan: Any = None,
                 shapes: Mapping[str, tuple[int, ...]] | None = None, opt_level: int = 3,
                 progress: Progress = lambda what, done, total: None) -> Backend:
    """Load `model` (ONNX) in the backend called `name`, one of BACKENDS.

    `precision`: fp32 or bf16. `plan`: a built plan that whet should run instead of building one.
    `shapes`: what whet tunes for. MissingExtraError if the backend is not installed; InputError if it
    does not have the precision.
    """
    if name not in BACKENDS:
        raise InputError(f"no backend {name!r}", why=f"there are {', '.join(BACKENDS)}", do="choose among these")
    if name == "whet":
        return _whet(model, precision, threads, plan, shapes, opt_level, progress)
    return BACKENDS[name](model, precision, threads)


def _whet(model: Path, precision: str, threads: int, plan: Any, shapes: Any, opt_level: int,
          progress: Progress) -> Backend:
    import whet

    if plan is None:
        profile = {k: ((1, *s[1:]), s, s) for k, s in shapes.items()} if shapes else None
        plan = whet.build(model, precision=precision, threads=threads, profiles=[profile] if profile else None,
                          opt_level=opt_level, progress=progress)
    engine = whet.load(plan, threads=threads)
    context = engine.context()
    return Backend("whet", precision, whet.__version__, lambda feeds: lambda: context.run(feeds), engine.close)


def _onnxruntime(model: Path, precision: str, threads: int) -> Backend:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "the onnxruntime backend") from e
    if precision != "fp32":
        raise InputError(f"onnxruntime has no {precision} on the CPU", do="bench it with fp32")
    options = ort.SessionOptions()  # all else as its default: that is what its users run
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return Backend("onnxruntime", precision, ort.__version__,
                   lambda feeds: lambda: dict(zip(names, session.run(None, dict(feeds)))))


def _openvino(model: Path, precision: str, threads: int) -> Backend:
    try:
        import openvino as ov
    except ImportError as e:
        raise MissingExtraError.for_package("openvino", "openvino", "the openvino backend") from e
    config = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
              "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(model)), "CPU", config)
    names = [o.get_any_name() for o in compiled.outputs]

    def bind(feeds: Arrays) -> Callable[[], Mapping[str, np.ndarray]]:
        request = compiled.create_infer_request()
        tensors = dict(feeds)

        def call() -> Mapping[str, np.ndarray]:
            out = request.infer(tensors, share_inputs=True)
            return {n: out[i] for i, n in enumerate(names)}

        return call

    return Backend("openvino", precision, ov.__version__, bind)


def _built(model: Path, precision: str, threads: int) -> Backend:
    return _whet(model, precision, threads, None, None, 3, lambda what, done, total: None)


BACKENDS: dict[str, Callable[[Path, str, int], Backend]] = {
    "whet": _built, "onnxruntime": _onnxruntime, "openvino": _openvino}
