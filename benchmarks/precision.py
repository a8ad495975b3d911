"""whet's int8 beside ONNX Runtime's and OpenVINO's on this machine's CPU.

    python benchmarks/precision.py

ResNet-50, MobileNetV2, BERT-base (sequence 128) and ViT-B/16 at batch 1 and 8, on two threads. Everybody quantizes with
its own quantizer and the same 32 random samples (benchmarks/quantized.py); whet may mix int8 and bf16 by layer, and
OpenVINO runs the layers that it leaves out in bf16 where the CPU has it. For each model and batch: outputs are checked
against ONNX Runtime's fp32 first, then all take turns in one process. Results are saved after each case to
`benchmarks/results/precision-<fingerprint>.json` (measurement records), `.md` and `.svg`; a run that was stopped goes
on where it was, `--fresh` starts over. `--prepare` makes plans and models without timing; `--keep-plans` takes them.

needs the extras `models`, `onnxruntime` and `openvino`, and nncf.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

import whet
from benchmarks import calibration, quantized
from benchmarks import precision_tables as tables
from benchmarks.models import MODELS, default_cache, model_inputs, model_path
from benchmarks.quantized import Feeds
from whet.compare import Backend, Limits, Reference, compare, measured_limits, open_peer, open_whet
from whet.errors import WhetError
from whet.frontends import model_hash
from whet.measure import Measurement, record, this_device
from whet.measure.record import Limit, Model, OutputError
from whet.quantizing import Quantization

RESULTS = Path(__file__).parent / "results"
CALIBRATED = "resnet50"  # the model whose calibration is measured
ALLOWED = 0.35  # relative L2 from fp32. Random networks lose up to 0.12 in int8; wrong products give 1 and more


def main() -> int:
    options = _options()
    if options.threads < len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])
    path = options.out or RESULTS / f"precision-{this_device().fingerprint}.json"
    done = [] if options.fresh or not path.exists() else record.read(path)
    failed = False
    for name in options.models:
        for batch in options.batches:
            feeds = model_inputs(name, batch)
            if options.prepare:
                prepare(name, feeds, options)
                continue
            if not options.fresh and any(r.backend == "whet" and tables.case(r) == (name, batch)
                                         and r.threads == options.threads for r in done):
                print(f"{name} batch {batch}: measured before", flush=True)
                continue
            try:
                found = measure_case(name, feeds, options)
            except WhetError as error:
                print(f"{name} batch {batch}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            done = [r for r in done if tables.case(r) != (name, batch) or r.threads != options.threads] + found
            done.sort(key=lambda r: (r.latency is None, MODELS.index(r.model.name), tables.case(r)[1]))
            tables.save(path, done)
    calibrates = CALIBRATED in options.models and not (options.prepare or options.no_calibration)
    if calibrates and not any(tables.calibrating(r) for r in done):
        done = [r for r in done if r.latency] + calibration_case(options)
        tables.save(path, done)
    if done:
        print(tables.markdown(done))
    wrong = [r for r in done if r.error and r.error.limit and not r.error.value <= r.error.limit]
    return 2 if failed else 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured per case, for the slowest backend")
    parser.add_argument("--opt-level", type=int, default=3)
    parser.add_argument("--no-openvino", action="store_true")
    parser.add_argument("--no-default", action="store_true", help="leave out ONNX Runtime's default settings")
    parser.add_argument("--no-calibration", action="store_true", help="do not measure what calibrating costs")
    parser.add_argument("--keep-plans", action="store_true", help="take plans built by an earlier run")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the results")
    parser.add_argument("--prepare", action="store_true", help="make the plans and the peers' models, time nothing")
    parser.add_argument("--out", type=Path, help=f"results file (default {RESULTS}/precision-<fingerprint>.json)")
    parser.add_argument("--work", type=Path, default=default_cache().parent / "bench", help="folder for plans")
    options = parser.parse_args()
    options.models = [m for m in options.models.split(",") if m]
    options.batches = [int(b) for b in options.batches.split(",")]
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name!r}; there are {', '.join(MODELS)}")
    return options


@dataclass(frozen=True)
class Built:
    """A plan in its file and the seconds that it took to calibrate and build (None: built by an earlier run)."""

    path: Path
    seconds: float | None


def build(name: str, feeds: Feeds, options: argparse.Namespace, precision: str = "int8") -> Built:
    """The plan for the shapes of `feeds`: in int8 and bf16 by layer, or in fp32."""
    shapes = {k: tuple(v.shape) for k, v in feeds.items()}
    options.work.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{'x'.join(map(str, next(iter(shapes.values()))))}-{precision}-{options.threads}"
    path = options.work / f"{stem}.plan"
    if options.keep_plans and path.exists():
        return Built(path, None)
    start = time.perf_counter()
    seen = Quantization(calibration=quantized.calibration(name)) if precision == "int8" else None
    plan = whet.build(model_path(name), precision={"int8", "bf16"} if seen else "fp32", threads=options.threads,
                      shapes=shapes, timing_cache=options.work / f"{stem}.json", opt_level=options.opt_level,
                      quantization=seen)
    plan.save(path)
    plan.close()
    return Built(path, time.perf_counter() - start)


def prepare(name: str, feeds: Feeds, options: argparse.Namespace) -> None:
    """The plan and the peers' models, for a run with `keep_plans`."""
    made = [quantized.onnxruntime_int8(name, "best")]
    if not options.no_default:
        made.append(quantized.onnxruntime_int8(name, "default"))
    if not options.no_openvino:
        made.append(quantized.openvino_int8(name))
    made.append(build(name, feeds, options).path)
    print(*made, sep="\n", flush=True)


def calibration_case(options: argparse.Namespace) -> list[Measurement]:
    """What calibrating costs, and the weights of the int8 plan beside those of fp32's, at batch 1."""
    feeds = model_inputs(CALIBRATED, 1)
    kept = argparse.Namespace(**{**vars(options), "keep_plans": True})
    plans = {p: build(CALIBRATED, feeds, kept, p).path for p in ("fp32", "int8")}
    return calibration.measure(CALIBRATED, options.threads, options.work, plans)


def measure_case(name: str, feeds: Feeds, options: argparse.Namespace) -> list[Measurement]:
    """One model at one batch size: every backend built, checked and timed."""
    model, batch = model_path(name), len(next(iter(feeds.values())))
    built = build(name, feeds, options)
    took = f"calibrated and built in {built.seconds:.0f} s" if built.seconds is not None else "plan of an earlier run"
    print(f"{name} batch {batch}: {took}", flush=True)
    limits = measured_limits(options.threads)
    print(f"  the machine does {limits.vnni / 1e9:.0f} GOP/s by VNNI, {limits.int8 / 1e9:.0f} at most in int8",
          flush=True)
    ours = open_whet(whet.Plan.open(built.path), feeds, threads=options.threads, build_seconds=built.seconds)
    ours.precision = "int8"  # what was asked for; layers that are faster in bf16 are in bf16
    fp32 = open_peer("onnxruntime", model, feeds, threads=options.threads)
    reference = Reference(fp32.key, fp32.run())
    contestants = [ours, *peers(name, feeds, options)]
    found = compare(contestants, feeds, Model(name=name, sha256=model_hash(model)), threads=options.threads,
                    seconds=options.seconds, reference=reference, on_error=_say)
    for b in (*contestants, fp32):
        b.close()
    return [_finish(r, ours.flops, limits) for r in found]


def peers(name: str, feeds: Feeds, options: argparse.Namespace) -> list[Backend]:
    """ONNX Runtime's int8 with unsigned activations (`int8`) and by its defaults (`int8 defaults`), OpenVINO's."""
    variants = {"int8": "best"} | ({} if options.no_default else {"int8 defaults": "default"})
    out = []
    for precision, variant in variants.items():
        b = open_peer("onnxruntime", quantized.onnxruntime_int8(name, variant), feeds, threads=options.threads)
        b.precision = precision
        out.append(b)
    if not options.no_openvino:
        rest = "bf16" if "avx512_bf16" in this_device().features else "fp32"
        b = open_peer("openvino", quantized.openvino_int8(name), feeds, precision=rest, threads=options.threads)
        b.precision = "int8"
        out.append(b)
    return out


def _say(b: Backend, error: OutputError) -> None:
    print(f"  {b.key}: error {error.value:.1e}, {'right' if error.value <= ALLOWED else 'WRONG'}", flush=True)


def _finish(r: Measurement, flops: int, limits: Limits) -> Measurement:
    """The record with its allowed error and the share of the VNNI limit. Prints a line."""
    assert r.latency is not None
    median = r.latency.p50.value
    share = Limit(flops=float(flops), flops_per_second=limits.vnni, bytes_per_second=limits.copy,
                  seconds=flops / limits.vnni, fraction=flops / limits.vnni / median)
    error = msgspec.structs.replace(r.error, limit=ALLOWED) if r.error else None
    against = ", ".join(f"{c.ratio:.2f}x {c.backend} {c.precision}" for c in r.comparisons)
    who = f"{r.backend} {r.precision}"
    print(f"  {who:26} {1e3 * median:8.2f} ms  {share.fraction:4.0%} of the VNNI limit  {against}", flush=True)
    return msgspec.structs.replace(r, limit=share, error=error)


if __name__ == "__main__":
    sys.exit(main())
