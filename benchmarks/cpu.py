"""whet beside ONNX Runtime and OpenVINO on this machine's CPU.

    python benchmarks/cpu.py

ResNet-50, MobileNetV2, BERT-base (sequence 128) and ViT-B/16 at batch 1 and 8, fp32 and bf16, on two threads.
For each model and batch: outputs are checked against ONNX Runtime's fp32 first, then all backends take turns in
one process. Results are saved after each case to `benchmarks/results/cpu-<fingerprint>.json` (measurement
records) and `.md`; a run that was stopped goes on where it was, `--fresh` starts over.

needs the extras `models`, `onnxruntime` and `openvino`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np

import whet
from benchmarks import tables
from benchmarks.models import MODELS, default_cache, model_inputs, model_path
from whet.compare import Backend, Reference, compare, measured_limits, open_peer, open_whet
from whet.compare.memory import memory_of
from whet.errors import WhetError
from whet.frontends import model_hash
from whet.measure import Measurement, record, this_device
from whet.measure.record import Memory, Model

Feeds = dict[str, np.ndarray]
PRECISIONS = ("fp32", "bf16")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    options = _options()
    if options.threads < len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    path = options.out or RESULTS / f"cpu-{this_device().fingerprint}.json"
    done = [] if options.fresh or not path.exists() else record.read(path)
    failed = False
    for name in options.models:
        for batch in options.batches:
            feeds = model_inputs(name, batch)
            if not options.fresh and _complete(done, name, feeds, options):
                print(f"{name} batch {batch}: measured before", flush=True)
                continue
            try:
                found = measure_case(name, feeds, options, done)
            except WhetError as error:
                print(f"{name} batch {batch}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            replaced = {_identity(r) for r in found}
            done = [r for r in done if _identity(r) not in replaced] + found
            done.sort(key=_order)
            tables.save(path, done)
    if done:
        print(tables.markdown(done))
    wrong = [r for r in done if r.error and r.error.limit and not r.error.value <= r.error.limit]
    return 2 if failed else 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured per case, for the slowest backend")
    parser.add_argument("--quick", action="store_true", help="one second per case, no memory, low opt level")
    parser.add_argument("--opt-level", type=int, default=3)
    parser.add_argument("--no-openvino", action="store_true")
    parser.add_argument("--keep-plans", action="store_true", help="take plans built by an earlier run")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the results")
    parser.add_argument("--out", type=Path, help="results file (default benchmarks/results/cpu-<fingerprint>.json)")
    parser.add_argument("--work", type=Path, default=default_cache().parent / "bench", help="folder for plans")
    options = parser.parse_args()
    options.models = [m for m in options.models.split(",") if m]
    options.batches = [int(b) for b in options.batches.split(",")]
    options.precisions = options.precisions.split(",")
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name!r}; there are {', '.join(MODELS)}")
    for precision in options.precisions:
        if precision not in PRECISIONS:
            parser.error(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if options.quick:
        options.seconds, options.opt_level = 1.0, min(options.opt_level, 1)
    return options


@dataclass(frozen=True)
class Built:
    """A plan in its file, with the seconds that it took to build (None: built by an earlier run) and to load."""

    path: Path
    cold: float | None
    cached: float | None
    load: float


def build(name: str, feeds: Feeds, precision: str, options: argparse.Namespace) -> Built:
    """A plan for the shapes of `feeds`, built with an empty timing cache, then again with what that learnt."""
    shapes = _feed_shapes(feeds)
    stem = f"{name}-{'x'.join(map(str, next(iter(shapes.values()))))}-{precision}-{options.threads}"
    path, cache = options.work / f"{stem}.plan", options.work / f"{stem}.json"
    times: list[float | None] = [None, None]
    if not (options.keep_plans and path.exists()):
        options.work.mkdir(parents=True, exist_ok=True)
        cache.unlink(missing_ok=True)
        for i in range(2):
            start = time.perf_counter()
            plan = whet.build(model_path(name), precision=precision, threads=options.threads, shapes=shapes,
                              timing_cache=cache, opt_level=options.opt_level)
            plan.save(path)
            times[i] = time.perf_counter() - start
            plan.close()
    return Built(path, times[0], times[1], min(_seconds(lambda: whet.load(path).close()) for _ in range(5)))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_case(name: str, feeds: Feeds, options: argparse.Namespace, earlier: list[Measurement]) -> list[Measurement]:
    """One model at one batch size: every backend built, checked and timed."""
    path = model_path(name)
    batch = len(next(iter(feeds.values())))
    built = {}
    for precision in options.precisions:
        b = built[precision] = build(name, feeds, precision, options)
        took = f"built in {b.cold:.1f} s, with its timing cache in {b.cached:.1f} s, " if b.cold and b.cached else ""
        print(f"{name} batch {batch}: whet {precision} {took}loaded in {1e3 * b.load:.1f} ms", flush=True)
    limits = measured_limits(options.threads)
    print(f"  the machine does {limits.fp32 / 1e9:.0f} GFLOP/s in fp32, {limits.bf16 / 1e9:.0f} in bf16, "
          f"copies {limits.copy / 1e9:.0f} GB/s", flush=True)

    ort = open_peer("onnxruntime", path, feeds, threads=options.threads)
    contestants = [open_whet(whet.Plan.open(built[p].path), feeds, build_seconds=built[p].cold)
                   for p in options.precisions]
    for b, precision in zip(contestants, options.precisions):
        b.precision = precision  # where bf16 has no instruction, what bf16 gives is still what was asked for
    contestants.append(ort)
    if not options.no_openvino:
        contestants += [open_peer("openvino", path, feeds, precision=p, threads=options.threads)
                        for p in options.precisions]
    memory = {} if options.quick or batch > 1 else {b.key: _memory(b, path, built, feeds, options) for b in contestants}
    found = compare(contestants, feeds, Model(name=name, sha256=model_hash(path)), threads=options.threads,
                    seconds=options.seconds, reference=Reference(ort.key, ort.run()), limits=limits, memory=memory,
                    on_error=lambda b, e: print(f"  {b.key}: error {e.value:.1e}, "
                                                f"{'right' if e.value <= (e.limit or 0) else 'WRONG'}", flush=True))
    for b in contestants:
        b.close()
    return [_finish(r, built, earlier) for r in found]


def _finish(r: Measurement, built: dict[str, Built], earlier: list[Measurement]) -> Measurement:
    """The record with what only this benchmark knows: load from the file, build with a cache. Prints a line."""
    if r.backend == "whet":
        b = built[r.precision]
        before = next((e for e in earlier if _identity(e) == _identity(r)), None) if b.cold is None else None
        r = msgspec.structs.replace(
            r, load_seconds=b.load, build_seconds=before.build_seconds if before else b.cold,
            cached_build_seconds=before.cached_build_seconds if before else b.cached,
            comparisons=tuple(c for c in r.comparisons if c.precision == r.precision or c.backend == "onnxruntime"))
    if r.latency:
        against = ", ".join(f"{c.ratio:.2f}x {c.backend} {c.precision}" for c in r.comparisons)
        share = f"{r.limit.fraction:4.0%} of the limit" if r.limit else ""
        key, ms = f"{r.backend} {r.precision}", 1e3 * r.latency.p50.value
        print(f"  {key:18} {ms:8.2f} ms  {share}  {against}", flush=True)
    return r


def _memory(b: Backend, model: Path, built: dict[str, Built], feeds: Feeds, options: argparse.Namespace) -> Memory:
    threads = None if b.name == "onnxruntime" and options.threads == os.cpu_count() else options.threads
    return memory_of(b.name, b.precision, built[b.precision].path if b.name == "whet" else model, feeds, threads)


def _feed_shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in feeds.items()}


def _shapes(r: Measurement) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v) for k, v in r.shapes.items()}


def _batch(r: Measurement) -> int:
    return next(iter(r.shapes.values()))[0]


def _order(r: Measurement) -> tuple[object, ...]:
    return MODELS.index(r.model.name), _batch(r), PRECISIONS.index(r.precision), r.backend != "whet"


def _identity(r: Measurement) -> tuple[object, ...]:
    return r.model.name, tuple(_shapes(r).items()), r.backend, r.precision, r.threads


def _complete(done: list[Measurement], name: str, feeds: Feeds, options: argparse.Namespace) -> bool:
    """Whether every whet record that this case would make is there already."""
    have = {r.precision for r in done if r.model.name == name and r.backend == "whet" and r.threads == options.threads
            and _shapes(r) == _feed_shapes(feeds)}
    return set(options.precisions) <= have


if __name__ == "__main__":
    sys.exit(main())
