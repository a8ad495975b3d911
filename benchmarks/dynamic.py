"""What dynamic shapes cost: one plan for a range of shapes beside a plan of the one shape that it is tuned for.

    python benchmarks/dynamic.py

For each model the dynamic plan and the static one take turns at the profile's optimum (their outputs are compared
first); then the dynamic plan is run on random shapes of its range, each twice: what the first run of a shape takes
more than the second is the price of switching. Results go to `benchmarks/results/dynamic-<fingerprint>.json` and `.md`.

needs the extra `models`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import whet
from benchmarks.models import default_cache, model_inputs, model_path
from whet.measure import alternate, centred_error, stats, this_device

RESULTS = Path(__file__).parent / "results"
Range = tuple[int, int, int]
# The dynamic dimensions' ranges (min, opt, max), by the name that the exported model gives them.
CASES: dict[str, dict[str, Range]] = {
    "resnet50": {"batch": (1, 1, 8)}, "mobilenetv2": {"batch": (1, 4, 8)}, "vit": {"batch": (1, 2, 4)},
    "bert": {"batch": (1, 1, 4), "seq": (8, 128, 256)}}


def feeds_of(name: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """The model's usual inputs, cut to these sizes (batch first, sequence second)."""
    whole = model_inputs(name, sizes["batch"])
    if "seq" not in sizes:
        return whole
    n = sizes["seq"]
    return {k: np.ascontiguousarray(np.resize(v, (v.shape[0], n)) if v.ndim == 2 else v) for k, v in whole.items()}


def measure(name: str, ranges: dict[str, Range], threads: int, seconds: float, opt_level: int) -> dict[str, Any]:
    """One line of the table."""
    model = model_path(name, default_cache())
    best = feeds_of(name, {n: opt for n, (_, opt, _) in ranges.items()})
    static = whet.build(model, shapes={k: v.shape for k, v in best.items()}, threads=threads, opt_level=opt_level)
    bounds = [feeds_of(name, {n: r[i] for n, r in ranges.items()}) for i in range(3)]
    profile = {k: tuple(b[k].shape for b in bounds) for k in best}
    dynamic = whet.build(model, profiles=[profile], threads=threads, opt_level=opt_level)
    with whet.load(static) as s, whet.load(dynamic) as d, s.context() as one, d.context() as many:
        worst = max(centred_error(a, b) for a, b in zip(many.run(best).values(), one.run(best).values(), strict=True))
        series = alternate({"static": lambda: one.run(best), "dynamic": lambda: many.run(best)}, seconds=seconds,
                           turn_seconds=0.05)
        ratio = stats.ratio_of_medians(series["dynamic"].rounds, series["static"].rounds)
        rng = np.random.default_rng(0)
        first, second = [], []
        for _ in range(24):
            feeds = feeds_of(name, {n: int(rng.integers(lo, hi + 1)) for n, (lo, _, hi) in ranges.items()})
            for kept in (first, second):
                start = time.perf_counter()
                many.run(feeds)
                kept.append(time.perf_counter() - start)
        stall = np.array(first) - np.array(second)
        bind = _bind_seconds(many, name, ranges)
    return {"model": name, "profile": {n: list(r) for n, r in ranges.items()}, "threads": threads,
            "error": worst, "static_seconds": float(np.median(series["static"].samples)),
            "dynamic_seconds": float(np.median(series["dynamic"].samples)),
            "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
            "switch_seconds": float(np.median(stall)), "bind_seconds": bind}


def _bind_seconds(context: Any, name: str, ranges: dict[str, Range]) -> float:
    """Median time to bind a segment to dimensions that it was not bound to, which is all that a switch does."""
    samples = []
    for i in range(20):
        sizes = {n: lo + i % (hi - lo + 1) for n, (lo, _, hi) in ranges.items()}
        context._bindings.clear()
        borrowed = context._borrow(feeds_of(name, sizes))
        which, env = context._environment(borrowed)
        start = time.perf_counter()
        context._bind(which, 0, env)
        samples.append(time.perf_counter() - start)
    return float(np.median(samples))


def main() -> int:
    """Measure all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--opt-level", type=int, default=3)
    o = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:o.threads])
    rows = []
    for name in o.models.split(","):
        rows.append(measure(name, CASES[name], o.threads, o.seconds, o.opt_level))
        print(json.dumps(rows[-1]), flush=True)
    device = this_device()
    path = RESULTS / f"dynamic-{device.fingerprint}"
    RESULTS.mkdir(exist_ok=True)
    record = {"device": device.name, "fingerprint": device.fingerprint, "whet": whet.__version__,
              "date": time.strftime("%Y-%m-%d"), "cases": rows}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    lines = ["| model | profile | static | dynamic | dynamic / static | switch |", "|---|---|---:|---:|---:|---:|"]
    for r in rows:
        profile = ", ".join(f"{n} {a} to {c}, tuned for {b}" for n, (a, b, c) in r["profile"].items())
        lines.append(f"| {r['model']} | {profile} | {r['static_seconds'] * 1e3:.2f} ms | "
                     f"{r['dynamic_seconds'] * 1e3:.2f} ms | {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f}) | "
                     f"{r['bind_seconds'] * 1e6:.0f} us |")
    table = "\n".join(lines)
    path.with_suffix(".md").write_text(f"Dynamic shapes on {device.name}, {o.threads} threads\n\n{table}\n")
    print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
