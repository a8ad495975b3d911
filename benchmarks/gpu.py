"""whet beside PyTorch on this machine's NVIDIA GPU.

    python benchmarks/gpu.py [--models resnet50,bert] [--batches 1,32] [--precisions fp16] [--max-autotune resnet50]

ResNet-50, MobileNetV2, EfficientNet-B0, BERT-base (128 tokens), ViT-B/16 and a step of GPT-2 with 512 places in its
cache. For each: whet builds a plan, PyTorch runs the same weights in the same precision eagerly and by `torch.compile`
(`reduce-overhead`; `max-autotune` where asked: it takes minutes a case), XLA (JAX; ResNet-50 and BERT), ONNX Runtime on
the GPU where it is installed. In int8 and fp8 (of images; calibrated with other ones) whet stands alone.
Outputs are checked against PyTorch's fp32 (without TF32) first. Inputs lie on the device. Backends take turns in one
process; a call's time is the one between CUDA events around it in a queue of calls, so that neither an idle GPU nor a
full queue hides what the host costs (XLA and ONNX Runtime have streams of their own: by the clock of the host, over the
same queues). Beside it stands a call alone: on an idle GPU, from handing it over to its end by the host's clock.
Results are saved after each case to `benchmarks/results/gpu-<name>.json` (measurement records) and `.md`; a run that
was stopped goes on where it was, `--fresh` starts over.

needs the extras `models` and `cuda`, and PyTorch with CUDA.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import gpu_jax, gpu_networks, gpu_tables
from benchmarks.gpu_networks import MODELS
from whet.measure import Measurement, centred_error, record, relative_l2, stats, this_device
from whet.measure.record import Comparison, Figure, Load, Model, OutputError, PlanId, now
from whet.measure.tools import stamp

RESULTS = Path(__file__).parent / "results"
ALLOWED = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 8e-2, "fp16": 2e-2, "int8": 0.35, "fp8": 0.35}
CODES = ("int8", "fp8")  # every layer in them, all else in fp16
CALIBRATION = 32  # samples
ROUNDS, QUEUE = 12, 20  # turns of each backend, and calls in each
ALONE = 50  # calls of each backend by themselves


@dataclass
class Contestant:
    """Something to time: `call()` puts one inference on the stream `stream`; `outputs()` gives the last call's."""

    name: str
    precision: str
    version: str
    call: Callable[[], object]
    outputs: Callable[[], list[Any]]
    stream: Any  # None: its own, and `call` returns what `wait` waits for
    inputs: list[Any]  # on the device
    build_seconds: float | None = None
    load_seconds: float | None = None
    plan: PlanId | None = None
    cached_build_seconds: float | None = None
    samples: list[list[float]] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    keep: object = None
    wait: Callable[[object], object] = lambda last: None


def main() -> int:
    import torch

    options = _options()
    title = torch.cuda.get_device_name().lower().replace("nvidia", "").split()[0]
    path = options.out or RESULTS / f"gpu-{title}.json"
    done = [] if options.fresh or not path.exists() else record.read(path)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases = [(m, b, p) for m in options.models for b in options.batches for p in options.precisions
             if options.fresh or not _there(done, m, b, p)]
    _export({m for m, _, _ in cases})
    failed = False
    for name, batch, precision in cases:
        try:
            found = measure(name, batch, precision, options)
        except Exception as e:
            if options.strict:
                raise
            print(f"{name} batch {batch} {precision}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            failed = True
            continue
        mine = {_identity(r) for r in found}
        done = [r for r in done if _identity(r) not in mine] + found
        done.sort(key=lambda r: (MODELS.index(r.model.name), _batch(r), r.backend != "whet", r.backend))
        gpu_tables.save(path, done)
    if done:
        print(gpu_tables.markdown(done))
    wrong = [r for r in done if r.error and r.error.limit and not r.error.value <= r.error.limit]
    return 2 if failed else 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--max-autotune", default="", help="models (at batch 1) to time that mode for, too")
    parser.add_argument("--no-peers", action="store_true", help="whet alone")
    parser.add_argument("--opt-level", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the results")
    parser.add_argument("--strict", action="store_true", help="end at the first failure, with its traceback")
    parser.add_argument("--timings", action="store_true", help="print the time of each step of whet's plan")
    parser.add_argument("--out", type=Path, help="results file (default benchmarks/results/gpu-<name>.json)")
    parser.add_argument("--work", type=Path, default=gpu_networks.default_cache().parent / "bench")
    o = parser.parse_args()
    o.models, o.precisions = o.models.split(","), o.precisions.split(",")
    o.batches = [int(b) for b in o.batches.split(",")]
    for m in o.models:
        if m not in MODELS:
            parser.error(f"no model {m!r}; there are {', '.join(MODELS)}")
    return o


def _export(names: set[str]) -> None:
    """The models as ONNX, all at once."""
    with ProcessPoolExecutor(max(1, len(names)), mp_context=get_context("spawn")) as pool:
        list(pool.map(gpu_networks.onnx_path, sorted(names)))


def measure(name: str, batch: int, precision: str, options: argparse.Namespace) -> list[Measurement]:
    """One case: everything built, checked, timed in turns."""
    import torch

    feeds = gpu_networks.inputs(name, batch)
    module = gpu_networks.module(name)
    x, network = _tensors(feeds, torch.float32), module.cuda()
    with torch.inference_mode():
        last: list[Any] = []
        _in_turn(name, x, lambda: last.append(_flat(network(*x))))
        right = [y.float().cpu().numpy() for y in last[-1]]
    contestants = [open_whet(name, feeds, precision, options)]
    if options.timings:
        print(_timings(contestants[0], feeds), flush=True)
    if not options.no_peers and precision not in CODES:
        weights = {k: v.float().cpu().numpy() for k, v in module.state_dict().items()}
        contestants += [*_torch(name, module, feeds, precision, options), *_xla(name, weights, feeds, precision),
                        *_onnxruntime(name, feeds, precision)]
    else:
        del module
    errors = {}
    for c in contestants:
        _in_turn(name, c.inputs, c.call)
        torch.cuda.synchronize()
        e = max(centred_error(_array(a), b) if b.shape[-1] > 1 else relative_l2(_array(a), b)
                for a, b in zip(c.outputs(), right, strict=True))
        errors[c.name] = OutputError(reference="torch fp32", measure="centred-relative-l2", value=float(e),
                                     limit=ALLOWED.get(precision))
    _time(contestants)
    out = [_record(c, contestants, name, feeds, batch, errors[c.name]) for c in contestants]
    for r in out:
        assert r.latency is not None
        against = ", ".join(f"{c.ratio:.2f}x {c.backend}" for c in r.comparisons)
        build = f"built {r.build_seconds:.0f} s" if r.build_seconds else ""
        build += f", {r.throughput:,.0f} samples a second" if r.throughput else ""
        build += f", again {r.cached_build_seconds:.1f} s" if r.cached_build_seconds else ""
        build += f", loaded {r.load_seconds:.2f} s" if r.load_seconds else ""
        print(f"{name:12} b{batch:<3} {r.backend:28} {precision} {1e3 * r.latency.p50.value:7.3f} ms, alone "
              f"{1e3 * r.figures['alone'].value:.3f}  error {r.error.value if r.error else 0:.1e} {build} {against}",
              flush=True)
    for c in contestants:
        c.keep = None
    torch.cuda.empty_cache()
    return out


def open_whet(name: str, feeds: dict[str, np.ndarray], precision: str, options: argparse.Namespace) -> Contestant:
    """A plan built for these shapes, bound to inputs and outputs on the device."""
    import torch

    import whet

    states = gpu_networks.states() if name == "gpt2" else {}
    shapes = {k: v.shape for k, v in feeds.items()}
    coded = precision in CODES
    more: dict[str, Any] = {"calibration": gpu_networks.inputs(name, CALIBRATION, seed=1), "force_precision": True} \
        if coded else {}
    options.work.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{len(next(iter(feeds.values())))}-{precision}"
    path, cache = options.work / f"{stem}.plan", options.work / f"{stem}.json"
    times = []
    for _ in range(1 if coded else 2):
        start = time.perf_counter()
        whet.build(gpu_networks.onnx_path(name), target="cuda", precision={precision, "fp16"} if coded else precision,
                   shapes=shapes, states=states, timing_cache=cache, opt_level=options.opt_level, **more).save(path)
        times.append(time.perf_counter() - start)
    plan = whet.Plan.open(path)
    start = time.perf_counter()
    engine = whet.load(plan)
    context = engine.context()
    given = {k: v for k, v in feeds.items() if k not in states}
    context.run(given)
    loaded = time.perf_counter() - start
    x = [torch.from_numpy(v).cuda() for v in given.values()]
    made = [torch.empty([int(d) for d in shape], dtype=getattr(torch, dtype), device="cuda")
            for dtype, shape in engine.outputs.values()]
    context.reset()
    stream = torch.cuda.Stream()
    go = context.runner([x[list(given).index(k)] for k in engine.inputs], made, stream=stream.cuda_stream)
    return Contestant("whet", precision, whet.__version__, go, lambda: made, stream, x, times[0], loaded,
                      PlanId(hash=plan.hash, bytes=plan.nbytes), None if coded else times[1],
                      keep=(engine, context, plan))


def _timings(c: Contestant, feeds: dict[str, np.ndarray]) -> str:
    """The plan's steps, the dearest kinds first."""
    _, context, plan = c.keep  # type: ignore[misc]
    given = {k: v for k, v in feeds.items() if k in context.engine.inputs}
    _, steps = context.timed(given)
    layers = {l["name"]: l for l in plan.manifest.info["layers"]}
    rows = sorted(((s.seconds, s.label) for s in steps), reverse=True)
    lines = []
    for s, n in rows[:40]:
        layer = layers.get(n, {})
        how = f"{layer.get('tactic', '')} {layer.get('params', '')}"
        lines.append(f"{1e6 * s:7.1f} us  {how[:70]:70} {n[-60:]}")
    return "\n".join([f"{len(rows)} steps, {1e6 * sum(s for s, _ in rows):.0f} us", *lines])


def _torch(name: str, module: Any, feeds: dict[str, np.ndarray], precision: str, options: argparse.Namespace
           ) -> list[Contestant]:
    """PyTorch with the same weights: eager and compiled."""
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    network = module.to(kind)
    x = _tensors(feeds, kind)
    if x[0].dim() == 4:
        network = network.to(memory_format=torch.channels_last)
        x = [x[0].contiguous(memory_format=torch.channels_last)]
    for cache in x[2:] if name == "gpt2" else ():
        torch._dynamo.mark_static_address(cache)  # or `reduce-overhead` would do without CUDA graphs
    modes = ["eager", "reduce-overhead"]
    if name in options.max_autotune.split(",") and len(x[0]) == 1:
        modes.append("max-autotune")
    out = []
    for mode in modes:
        torch._dynamo.reset()
        f = network if mode == "eager" else torch.compile(network, mode=mode)
        last: list[Any] = [None]

        def call(f: Any = f, last: list[Any] = last) -> None:
            with torch.inference_mode():
                torch.compiler.cudagraph_mark_step_begin()
                last[0] = f(*x)

        start = time.perf_counter()
        for _ in range(4):
            call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        title = "torch eager" if mode == "eager" else f"torch.compile {mode}"
        out.append(Contestant(title, precision, str(torch.__version__), call, lambda last=last: _flat(last[0]),
                              torch.cuda.current_stream(), x, seconds if mode != "eager" else None, keep=f))
    return out


def _in_turn(name: str, x: list[Any], call: Callable[[], object]) -> None:
    """One call; of `gpt2` the last places of its cache one after the other, so that it has something to attend to."""
    import torch

    for place in range(gpu_networks.PLACES - 16, gpu_networks.PLACES) if name == "gpt2" else (None,):
        if place is not None:
            x[1].fill_(place)
            torch.cuda.synchronize()
        call()


def _xla(name: str, weights: dict[str, np.ndarray], feeds: dict[str, np.ndarray], precision: str) -> list[Contestant]:
    """XLA, where the network is written for it and JAX has the GPU."""
    import os

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if name not in gpu_jax.EPSILON or importlib.util.find_spec("jax") is None:
        return []
    import jax

    if jax.default_backend() != "gpu":
        return []
    start = time.perf_counter()
    f = gpu_jax.build(name, weights, precision)
    x = [jax.device_put(v.astype(np.int32) if v.dtype == np.int64 else v) for v in feeds.values()]
    last: list[Any] = [jax.block_until_ready(f(*x))]
    seconds = time.perf_counter() - start

    def call() -> object:
        last[0] = f(*x)
        return last[0]

    return [Contestant("XLA", precision, jax.__version__, call, lambda: _flat(last[0]), None, [], seconds, keep=f,
                       wait=jax.block_until_ready)]


def _onnxruntime(name: str, feeds: dict[str, np.ndarray], precision: str) -> list[Contestant]:
    """ONNX Runtime on the GPU, where that is installed: fp32 models in fp32 (its sessions do not narrow them)."""
    if importlib.util.find_spec("onnxruntime") is None or precision != "fp32" or name == "gpt2":
        return []
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return []
    session = ort.InferenceSession(str(gpu_networks.onnx_path(name)), providers=["CUDAExecutionProvider"])
    bound = session.io_binding()
    for k, v in feeds.items():
        bound.bind_ortvalue_input(k, ort.OrtValue.ortvalue_from_numpy(v, "cuda", 0))
    for o in session.get_outputs():
        bound.bind_output(o.name, "cuda")
    return [Contestant("onnxruntime", precision, ort.__version__, lambda: session.run_with_iobinding(bound),
                       bound.copy_outputs_to_cpu, None, [], keep=session)]


def _array(y: Any) -> np.ndarray:
    """A result as float32 on the host."""
    return np.asarray(y.float().cpu() if hasattr(y, "cpu") else y).astype(np.float32)


def _tensors(feeds: dict[str, np.ndarray], kind: Any) -> list[Any]:
    import torch

    return [torch.from_numpy(v.copy()).cuda().to(kind if v.dtype.kind == "f" else torch.int64)
            for v in feeds.values()]


def _flat(y: Any) -> list[Any]:
    return list(y) if isinstance(y, tuple | list) else [y]


def _time(contestants: list[Contestant]) -> None:
    """Seconds of each call, in rounds."""
    import torch

    for c in contestants:
        for _ in range(10):
            c.call()
        torch.cuda.synchronize()
    for _ in range(ROUNDS):
        for c in contestants:
            if c.stream is None:
                start, last = time.perf_counter(), None
                for _ in range(QUEUE):
                    last = c.call()
                c.wait(last)
                c.samples.append([(time.perf_counter() - start) / QUEUE])
                continue
            with torch.cuda.stream(c.stream):
                events = [torch.cuda.Event(enable_timing=True) for _ in range(QUEUE + 1)]
                events[0].record()
                for e in events[1:]:
                    c.call()
                    e.record()
            torch.cuda.synchronize()
            c.samples.append([1e-3 * a.elapsed_time(b) for a, b in itertools.pairwise(events[1:])])
    for _ in range(ALONE):
        for c in contestants:
            start = time.perf_counter()
            c.wait(c.call())
            if c.stream is not None:
                c.stream.synchronize()
            c.alone.append(time.perf_counter() - start)


def _record(c: Contestant, all_: list[Contestant], name: str, feeds: dict[str, np.ndarray], batch: int,
            error: OutputError) -> Measurement:
    latency = stats.latency([s for r in c.samples for s in r])
    versions = {o.name.split()[0].split(".")[0]: o.version for o in all_} | {"gpu": gpu_tables.gpu_name()}
    comparisons = []
    if c.name == "whet":
        for o in all_[1:]:
            r = stats.ratio_of_medians(o.samples, c.samples)
            comparisons.append(Comparison(backend=o.name, precision=o.precision, ratio=r.value, low=r.low, high=r.high,
                                          rounds=len(c.samples)))
    shapes = {k: tuple(v.shape) for k, v in feeds.items() if k[1:] not in map(str, range(gpu_networks.LAYERS))}
    return Measurement(
        date=now(), model=Model(name=name), backend=c.name, precision=c.precision, threads=1, shapes=shapes,
        device=this_device(), versions=versions, load=Load(alternating=tuple(o.name for o in all_)), plan=c.plan,
        latency=latency, throughput=batch / latency.p50.value, error=error, comparisons=tuple(comparisons),
        build_seconds=c.build_seconds, cached_build_seconds=c.cached_build_seconds, load_seconds=c.load_seconds,
        figures={"alone": Figure(value=statistics.median(c.alone), unit="s")}, **stamp())


def _there(done: list[Measurement], name: str, batch: int, precision: str) -> bool:
    return any(r.model.name == name and _batch(r) == batch and r.precision == precision and r.backend == "whet"
               for r in done)


def _identity(r: Measurement) -> tuple[object, ...]:
    return r.model.name, _batch(r), r.backend, r.precision


def _batch(r: Measurement) -> int:
    return next(iter(r.shapes.values()))[0]


if __name__ == "__main__":
    sys.exit(main())
