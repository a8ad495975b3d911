"""The contestants: each as something that can be called, with what it took to get there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from whet.errors import MissingExtraError
from whet.measure import peak_memory
from whet.measure.record import Memory, PlanId

Feeds = dict[str, np.ndarray]


@dataclass
class Backend:
    """A model, ready to run. `run()` takes the inputs bound to it and returns outputs in the model's order."""

    name: str
    precision: str
    run: Callable[[], list[np.ndarray]]
    close: Callable[[], None] = lambda: None
    load_seconds: float | None = None
    build_seconds: float | None = None
    cached_build_seconds: float | None = None
    plan: PlanId | None = None
    flops: int = 0  # of one call, as a plan counts them

    @property
    def key(self) -> str:
        return f"{self.name} {self.precision}"


def versions() -> dict[str, str]:
    """Of everything that may run here."""
    found = {}
    for package in ("whet", "onnxruntime", "openvino", "numpy", "llvmlite"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def onnxruntime_default(path: Path, feeds: Feeds, threads: int | None) -> Backend:
    """ONNX Runtime's CPU provider with default options; `threads` only where it must differ from all cores."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "comparing") from error
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Backend("onnxruntime", "fp32", lambda: session.run(None, feeds), load_seconds=time.perf_counter() - start)


def openvino(path: Path, feeds: Feeds, threads: int, precision: str) -> Backend:
    """OpenVINO's CPU plugin for latency, with shapes fixed to those of `feeds`; inputs and outputs are shared."""
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError.for_package("openvino", "openvino", "comparing") from error
    start = time.perf_counter()
    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape({k: v.shape for k, v in feeds.items()})
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]})
    request = compiled.create_infer_request()
    seconds = time.perf_counter() - start
    order = [compiled.output(i) for i in range(len(compiled.outputs))]

    def run() -> list[np.ndarray]:
        found = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [found[o] for o in order]

    return Backend("openvino", precision, run, load_seconds=seconds)


def whet(path: Path, feeds: Feeds, threads: int, precision: str, folder: Path, outputs: list[str],
         level: int, rebuild: bool, recorded: tuple[float | None, float | None] = (None, None)) -> Backend:
    """A plan for the shapes of `feeds`, built in `folder` with a timing cache of its own.

    `rebuild`: the plan is built from an empty cache, then again with the cache, and both are timed;
    else a plan that lies there is taken, with the times that are `recorded` for it.
    """
    import whet as w

    shapes = {k: v.shape for k, v in feeds.items()}
    stem = f"{path.stem}-{'x'.join(map(str, next(iter(shapes.values()))))}-{precision}-{threads}"
    plan_path, cache = folder / f"{stem}.plan", folder / f"{stem}.json"
    cold, warm = recorded
    if rebuild or not plan_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        cache.unlink(missing_ok=True)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            plan = w.build(path, precision=precision, threads=threads, shapes=shapes, timing_cache=cache,
                           opt_level=level)
            times.append(time.perf_counter() - start)
        plan.save(plan_path)
        plan.close()
        cold, warm = times
    loads = []
    for _ in range(3):
        start = time.perf_counter()
        engine = w.load(plan_path)
        loads.append(time.perf_counter() - start)
        if len(loads) < 3:
            engine.close()
    opened = w.Plan.open(plan_path)
    identity = PlanId(hash=opened.hash, bytes=opened.nbytes)
    flops = sum(layer.get("flops", 0) for layer in opened.summary()["layers"])
    opened.close()

    def run() -> list[np.ndarray]:
        found = engine(feeds)
        return [found[o] for o in outputs]

    return Backend("whet", precision, run, engine.close, min(loads), cold, warm, identity, flops)


def whet_plan_path(path: Path, feeds: Feeds, threads: int, precision: str, folder: Path) -> Path:
    """Where `whet` keeps the plan for these inputs."""
    return folder / f"{path.stem}-{'x'.join(map(str, next(iter(feeds.values())).shape))}-{precision}-{threads}.plan"


def memory(backend: str, precision: str, model: Path, plan: Path, inputs: Path, threads: int) -> Memory:
    """Peak resident memory of a process that loads and runs three times, above the same imports idle."""
    body = {
        "whet": "import sys\nengine = whet.load(sys.argv[2])\n"
                "with numpy.load(sys.argv[3]) as f: x = dict(f)\nfor _ in range(3): engine(x)",
        "onnxruntime": "import sys\ns = onnxruntime.InferenceSession(sys.argv[1], "
                       "providers=['CPUExecutionProvider'])\n"
                       "with numpy.load(sys.argv[3]) as f: x = dict(f)\nfor _ in range(3): s.run(None, x)",
        "openvino": "import sys\nc = openvino.Core().compile_model(sys.argv[1], 'CPU', {'PERFORMANCE_HINT': 'LATENCY', "
                    f"'INFERENCE_NUM_THREADS': {threads}, "
                    f"'INFERENCE_PRECISION_HINT': '{'f32' if precision == 'fp32' else precision}'}})\n"
                    "with numpy.load(sys.argv[3]) as f: x = dict(f)\nfor _ in range(3): c(x)",
    }[backend]
    imports = "import numpy, openvino" if backend == "openvino" else \
        "import numpy, onnxruntime" if backend == "onnxruntime" else "import numpy, whet, whet.runtime, whet.plan"
    return peak_memory(imports, body, [str(model), str(plan), str(inputs)])
