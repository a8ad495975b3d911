"""Where the time of a plan goes on the GPU: each distinct region beside the least time that it can take.

    python benchmarks/gpu_roofline.py MODEL.plan [--bandwidth 3.0e12] [--flops 800e12]

Steps are timed one by one in a graph of their own (`Context.timed`), so a small kernel's time holds its launch; the
whole is what `benchmarks/gpu.py` measures. Bandwidth and rate: what a copy and a large product reach on the machine;
measured in the same run where they are not given.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import whet
from whet.builder import RECIPE
from whet.ir.region import region_from_json
from whet.ir.work import flops, region_bytes


@dataclass
class Row:
    """All regions of one shape: how many, seconds of one, its bytes and operations."""

    title: str
    tactic: str
    count: int
    seconds: float
    bytes: int
    flops: int
    coded: bool = False

    def floor(self, bandwidth: float, rate: float) -> float:
        """Seconds that one takes at least. `rate` is that of 16-bit floats; that of 8-bit codes is twice as high."""
        return max(self.bytes / bandwidth, self.flops / (2 * rate if self.coded else rate))


def rows(plan: whet.Plan, seconds: Sequence[tuple[str, float]]) -> list[Row]:
    """By distinct region, the dearest in all first. `seconds`: (label, time) of each step, in order."""
    launches = json.loads(plan.blob(RECIPE))["launches"]
    layers = [l for l in plan.manifest.info["layers"] if "launch" in l]
    times: dict[str, list[float]] = defaultdict(list)
    for label, s in seconds:
        times[label].append(s)
    counts: dict[str, int] = defaultdict(int)
    for l in layers:
        counts[l["name"]] += 1
    found: dict[str, Row] = {}
    for l, r in zip(layers, launches):
        region = region_from_json(r["region"])
        took = sum(times.get(l["name"], ())) / counts[l["name"]]
        key = region.timing_key() + r["tactic"]
        if key not in found:
            shapes = " ".join("x".join(map(str, t.shape)) for t in (*region.inputs[:2], region.output))
            found[key] = Row(f"{region.kind} {shapes}", f"{r['tactic']} {_short(r['params'])}", 0, 0.0,
                             region_bytes(region), flops(region), region.compute in ("int8", "f8"))
        found[key].count += 1
        found[key].seconds += took
    for row in found.values():
        row.seconds /= row.count
    return sorted(found.values(), key=lambda r: -r.seconds * r.count)


def table(found: Sequence[Row], bandwidth: float, rate: float, most: int = 40) -> str:
    """Markdown; the last line has the sums."""
    out = ["| region | tactic | count | us | floor us | share |", "|---|---|---:|---:|---:|---:|"]
    for r in found[:most]:
        f = r.floor(bandwidth, rate)
        took, share = (f"{1e6 * r.seconds:.2f}", f"{f / r.seconds:.0%}") if r.seconds else ("-", "-")
        out.append(f"| {r.title} | {r.tactic} | {r.count} | {took} | {1e6 * f:.2f} | {share} |")
    total = sum(r.seconds * r.count for r in found)
    least = sum(r.floor(bandwidth, rate) * r.count for r in found)
    share = f"{least / total:.0%}" if total else "-"
    out.append(f"| all | | {sum(r.count for r in found)} | {1e6 * total:.1f} | {1e6 * least:.1f} | {share} |")
    return "\n".join(out)


def _short(params: dict[str, object]) -> str:
    text = " ".join(f"{k}={v}" for k, v in params.items())
    return text if len(text) <= 48 else text[:45] + "..."


def measured_limits() -> tuple[float, float]:
    """(bytes a second of a copy, read and written; operations a second of a product of 16-bit floats), by PyTorch."""
    import torch

    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    y = torch.empty_like(x)

    def best(work: object, n: int = 10) -> float:
        times = []
        for _ in range(n):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()  # type: ignore[operator]
            end.record()
            torch.cuda.synchronize()
            times.append(1e-3 * start.elapsed_time(end))
        return float(np.median(times))

    return 2 * x.numel() / best(lambda: y.copy_(x)), 2 * 8192**3 / best(lambda: a @ b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--bandwidth", type=float)
    parser.add_argument("--flops", type=float)
    options = parser.parse_args()
    bandwidth, rate = (options.bandwidth, options.flops) if options.bandwidth and options.flops else measured_limits()
    plan = whet.Plan.open(options.plan)
    with whet.load(plan) as engine, engine.context() as context:
        rng = np.random.default_rng(0)
        feeds = {n: rng.standard_normal([d if isinstance(d, int) else 1 for d in s]).astype(t) if "float" in t else
                 np.zeros([d if isinstance(d, int) else 1 for d in s], t) for n, (t, s) in engine.inputs.items()}
        runs = [context.timed(feeds)[1] for _ in range(9)]
    steps = [(r[0].label, float(np.median([s.seconds for s in r]))) for r in zip(*runs)]
    print(f"A copy moves {bandwidth / 1e12:.2f} TB/s, a product does {rate / 1e12:.0f} TFLOP/s.\n")
    print(table(rows(plan, steps), bandwidth, rate))


if __name__ == "__main__":
    main()
