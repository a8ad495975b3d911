"""Runtimes that `whet bench` can compare: one small adapter each, imported when asked for."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, MissingExtraError, ModelError
from whet.measure.record import PlanId
from whet.plan import Plan

Arrays = Mapping[str, np.ndarray]
Outputs = Mapping[str, Any]


@dataclass
class Backend:
    """A loaded model with its inputs bound: `run()` gives the outputs by name, in fresh arrays, with as little
    around it as the backend's own API allows.

    `load_seconds` is what loading took; whet's alone has a plan, and `flops` of one call as its plan counts them.
    `gpus` are the numbers of those that it runs on; inputs come from the host's memory, and outputs go there.
    `call` runs other inputs of the same shapes; `size_bytes` are those of what is deployed: plan, model, weights.
    """

    name: str
    precision: str
    version: str
    run: Callable[[], Outputs]
    close: Callable[[], None] = lambda: None
    load_seconds: float | None = None
    build_seconds: float | None = None
    plan: PlanId | None = None
    flops: int = 0
    gpus: tuple[int, ...] = ()
    call: Callable[[Arrays], Outputs] | None = None
    size_bytes: int | None = None

    @property
    def key(self) -> str:
        """`whet bf16`."""
        return f"{self.name} {self.precision}"


def installed() -> list[str]:
    """The backends that can be opened here, whet first."""
    return ["whet", *(name for name in PEERS if importlib.util.find_spec(name) is not None)]


def open_whet(plan: Plan, feeds: Arrays, *, threads: int | None = None, require_key: Any = None,
              build_seconds: float | None = None, device: int | None = None) -> Backend:
    """An engine from a plan, bound to `feeds`; states are empty at each call. Errors as of `whet.load`; InputError if
    the feeds do not fit. `device`: the GPU's number, for a plan for GPUs."""
    import whet

    if device is None and plan.manifest.target.device is not None:
        device = 0

    start = time.perf_counter()
    engine = whet.load(plan, threads=None if device is not None else threads, require_key=require_key, device=device)
    seconds = time.perf_counter() - start
    inputs = dict(feeds)
    context = engine.context() if plan.manifest.programs[0].states else None

    def run_from_empty() -> Outputs:
        assert context is not None
        context.reset()
        return context.run(inputs)

    run = run_from_empty if context is not None else lambda: engine(inputs)
    run()
    info = plan.manifest.info
    flops = sum(layer.get("flops", 0) for layer in info.get("layers", ()))
    return Backend("whet", info.get("precision", {}).get("compute", "fp32"), whet.__version__,
                   run, engine.close, seconds, build_seconds,
                   PlanId(hash=plan.hash, bytes=plan.nbytes), flops, () if device is None else (device,),
                   None if context is not None else lambda arrays: engine(dict(arrays)), plan.nbytes)


def open_peer(name: str, model: Path, feeds: Arrays, *, precision: str = "fp32", threads: int | None = None,
              target: str = "cpu") -> Backend:
    """Load an ONNX model in `onnxruntime` or `openvino`, bound to `feeds`.

    precision: `fp32`, or `bf16` (OpenVINO's hint); `int8` for a model with Q/DQ of its own, whose other parts OpenVINO
    runs in bf16. threads: None leaves the backend's own default, all cores. target: other than `cpu`, ONNX Runtime
    runs on the first GPU, if its installation has the CUDA provider.

    MissingExtraError if it is not installed; InputError if it is not one of these or lacks the precision;
    ModelError if it refuses the model, with its own words.
    """
    if name not in PEERS:
        raise InputError(f"no backend {name!r}", why=f"there are whet, {', '.join(PEERS)}", do="choose among these")
    if importlib.util.find_spec(name) is None:
        raise MissingExtraError.for_package(name, name, f"the {name} backend")
    start = time.perf_counter()
    try:
        if target == "cpu":
            backend = PEERS[name](model, dict(feeds), precision, threads)
        elif name == "onnxruntime":
            backend = _onnxruntime(model, dict(feeds), precision, threads, "CUDAExecutionProvider")
        else:
            raise InputError(f"{name} does not run on the target {target} here", do="leave it out with --backends")
        seconds = time.perf_counter() - start
        backend.run()
    except (InputError, MissingExtraError):
        raise
    except Exception as e:  # each library has exceptions of its own
        raise ModelError(f"{name} does not run this model", where=str(model), why=str(e).strip(),
                         do=f"leave {name} out with --backends") from e
    backend.load_seconds = seconds
    return backend


HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # OpenVINO's, for what is not quantized


def _onnxruntime(model: Path, feeds: dict[str, np.ndarray], precision: str, threads: int | None,
                 provider: str = "CPUExecutionProvider") -> Backend:
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        there = ", ".join(ort.get_available_providers())
        raise InputError(f"this onnxruntime has no {provider}", why=f"it has {there}",
                         do="install onnxruntime-gpu, or leave onnxruntime out with --backends")
    if precision == "bf16":
        raise InputError(f"onnxruntime has no {precision} on the CPU", do="compare with its fp32")
    options = ort.SessionOptions()  # all else as its default: that is what its users run
    if threads is not None and threads != _cores():
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=[provider])
    if session.get_providers()[:1] != [provider]:  # it goes on without a provider that fails to load
        raise InputError(f"onnxruntime does not load its {provider}", do="see its warnings: CUDA libraries must fit")
    names = [o.name for o in session.get_outputs()]
    return Backend("onnxruntime", precision, ort.__version__, lambda: dict(zip(names, session.run(None, feeds))),
                   gpus=() if provider == "CPUExecutionProvider" else (0,),
                   call=lambda arrays: dict(zip(names, session.run(None, dict(arrays)))))


def _openvino(model: Path, feeds: dict[str, np.ndarray], precision: str, threads: int | None) -> Backend:
    import openvino as ov

    config = {"INFERENCE_PRECISION_HINT": HINTS[precision],
              "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or _cores()}
    core = ov.Core()
    read = core.read_model(str(model))
    read.reshape({k: v.shape for k, v in feeds.items()})  # fixed shapes are its fastest case
    compiled = core.compile_model(read, "CPU", config)
    names = [o.get_any_name() for o in compiled.outputs]
    request = compiled.create_infer_request()

    def call(arrays: Arrays) -> Outputs:
        found = request.infer(arrays, share_inputs=True)
        return {n: found[i] for i, n in enumerate(names)}

    return Backend("openvino", precision, ov.__version__.split("-")[0], lambda: call(feeds), call=call)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


PEERS: dict[str, Callable[[Path, dict[str, np.ndarray], str, int | None], Backend]] = {
    "onnxruntime": _onnxruntime, "openvino": _openvino}
