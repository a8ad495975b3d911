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
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import onnx

from benchmarks import backends, tables
from benchmarks.backends import Backend
from benchmarks.models import MODELS, centred_error, default_cache, model_inputs, model_path
from whet.compare.limits import measured_limits
from whet.errors import WhetError
from whet.frontends import model_hash
from whet.measure import Measurement, alternate, record, stats, this_device
from whet.measure.record import Comparison, Limit, Load, Model, OutputError

LIMITS = {"fp32": 1e-4, "bf16": 5e-2}
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
        if precision not in LIMITS:
            parser.error(f"no precision {precision!r}; there are {', '.join(LIMITS)}")
    if options.quick:
        options.seconds, options.opt_level = 1.0, min(options.opt_level, 1)
    return options


def measure_case(name: str, feeds: backends.Feeds, options: argparse.Namespace,
                 earlier: list[Measurement]) -> list[Measurement]:
    """One model at one batch size: every backend built, checked and timed."""
    path = model_path(name)
    outputs = [o.name for o in onnx.load(path, load_external_data=False).graph.output]
    batch = len(next(iter(feeds.values())))
    limits = measured_limits(options.threads)
    print(f"{name} batch {batch}: the machine does {limits.fp32 / 1e9:.0f} GFLOP/s in fp32, "
          f"{limits.bf16 / 1e9:.0f} in bf16, copies {limits.copy / 1e9:.0f} GB/s", flush=True)

    threads = None if options.threads == os.cpu_count() else options.threads
    ort = backends.onnxruntime_default(path, feeds, threads)
    contestants: list[Backend] = []
    for precision in options.precisions:
        recorded = next(((r.build_seconds, r.cached_build_seconds) for r in earlier
                         if r.backend == "whet" and r.precision == precision and r.model.name == name
                         and _shapes(r) == _feed_shapes(feeds)), (None, None))
        built = backends.whet(path, feeds, options.threads, precision, options.work, outputs, options.opt_level,
                              rebuild=not options.keep_plans, recorded=recorded)
        contestants.append(built)
        if built.build_seconds is not None:
            print(f"  {built.key}: built in {built.build_seconds:.1f} s, with its timing cache in "
                  f"{built.cached_build_seconds:.1f} s, loaded in {1e3 * (built.load_seconds or 0):.1f} ms", flush=True)
    contestants.append(ort)
    if not options.no_openvino:
        contestants += [backends.openvino(path, feeds, options.threads, p) for p in options.precisions]

    work = contestants[0].flops
    reference = ort.run()
    errors = {}
    for b in contestants:
        worst = max(centred_error(ours, theirs) for ours, theirs in zip(b.run(), reference))
        errors[b.key] = OutputError(reference="onnxruntime fp32", measure="centred-relative-l2",
                                    value=min(worst, 1e300), limit=LIMITS[b.precision])
        verdict = "right" if worst <= LIMITS[b.precision] else "WRONG"
        print(f"  {b.key}: error {worst:.1e}, {verdict}", flush=True)

    series = alternate({b.key: b.run for b in contestants}, seconds=options.seconds, turn_seconds=0.1, pause=0.02)
    memory = {} if options.quick or batch > 1 else _memory(name, feeds, options, contestants)
    found = []
    for b in contestants:
        latency = stats.latency(series[b.key].samples)
        peers = [c for c in contestants if c.name != b.name and (c.precision == b.precision or c is ort)]
        comparisons = []
        for c in peers if b.name == "whet" else ():
            r = stats.ratio_of_medians(series[c.key].rounds, series[b.key].rounds)
            comparisons.append(Comparison(backend=c.name, precision=c.precision, ratio=r.value, low=r.low, high=r.high,
                                          rounds=len(series[b.key].rounds)))
        least = work / limits.flops(b.precision)
        found.append(Measurement(
            date=record.now(), model=Model(name=name, sha256=model_hash(path)), backend=b.name, precision=b.precision,
            threads=options.threads, shapes=_feed_shapes(feeds), device=this_device(), versions=backends.versions(),
            load=Load(alternating=tuple(c.key for c in contestants)), plan=b.plan, latency=latency,
            throughput=batch / latency.p50.value, memory=memory.get(b.key), error=errors[b.key],
            limit=Limit(flops=float(work), flops_per_second=limits.flops(b.precision), bytes_per_second=limits.copy,
                        seconds=least, fraction=least / latency.p50.value),
            comparisons=tuple(comparisons), build_seconds=b.build_seconds,
            cached_build_seconds=b.cached_build_seconds, load_seconds=b.load_seconds))
        against = ", ".join(f"{c.ratio:.2f}x {c.backend} {c.precision}" for c in comparisons)
        print(f"  {b.key:18} {1e3 * latency.p50.value:8.2f} ms  {least / latency.p50.value:4.0%} of the limit  "
              f"{against}", flush=True)
    for b in contestants:
        b.close()
    return found


def _memory(name: str, feeds: backends.Feeds, options: argparse.Namespace,
            contestants: list[Backend]) -> dict[str, record.Memory]:
    model, found = model_path(name), {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **feeds)
        for b in contestants:
            plan = backends.whet_plan_path(model, feeds, options.threads, b.precision, options.work)
            found[b.key] = backends.memory(b.name, b.precision, model, plan, inputs, options.threads)
    return found


def _feed_shapes(feeds: backends.Feeds) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in feeds.items()}


def _shapes(r: Measurement) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v) for k, v in r.shapes.items()}


def _batch(r: Measurement) -> int:
    return next(iter(r.shapes.values()))[0]


def _order(r: Measurement) -> tuple[object, ...]:
    return MODELS.index(r.model.name), _batch(r), list(LIMITS).index(r.precision), r.backend != "whet"


def _identity(r: Measurement) -> tuple[object, ...]:
    return r.model.name, tuple(_shapes(r).items()), r.backend, r.precision, r.threads


def _complete(done: list[Measurement], name: str, feeds: backends.Feeds, options: argparse.Namespace) -> bool:
    """Whether every whet record that this case would make is there already."""
    have = {r.precision for r in done if r.model.name == name and r.backend == "whet" and r.threads == options.threads
            and _shapes(r) == _feed_shapes(feeds)}
    return set(options.precisions) <= have


if __name__ == "__main__":
    sys.exit(main())
