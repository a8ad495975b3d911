"""One plan on several GPUs at once: what they do together, and each alone.

    python benchmarks/gpu_devices.py [--models resnet50,bert] [--batch 32] [--devices all] [--seconds 2]

Twice: with inputs and outputs in the host's memory, as `whet bench X.plan --devices all` has them (several runs under
way on each), and with both on the GPUs, a thread and a context each. fp16. Writes `results/gpu-devices-<name>.json`
(measurement records: of each GPU alone, then of all) and `.md`. Needs the extras `models` and `cuda`, and PyTorch with
CUDA.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import gpu_networks
from benchmarks.gpu_networks import TITLES
from benchmarks.tables import write
from whet.compare import devices
from whet.measure import Measurement, record
from whet.measure.device import gpus, with_gpus
from whet.measure.record import Load, Model, PlanId, now
from whet.measure.tools import stamp
from whet.plan import Plan

RESULTS = Path(__file__).parent / "results"
WARM = 20  # calls before those that count


def main() -> int:
    import whet

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50,bert", help="comma-separated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--devices", default="all", help="`all`, or numbers with commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--opt-level", type=int, default=2)
    parser.add_argument("--out", type=Path, help="results file (default benchmarks/results/gpu-devices-<name>.json)")
    o = parser.parse_args()
    places = devices.parse(o.devices)
    found: list[Measurement] = []
    for name in o.models.split(","):
        feeds = gpu_networks.inputs(name, o.batch)
        plan = whet.build(gpu_networks.onnx_path(name), target=f"cuda:{places[0]}", precision="fp16",
                          shapes={k: v.shape for k, v in feeds.items()}, opt_level=o.opt_level)
        hosted = devices.throughput(plan, feeds, places, seconds=o.seconds)
        alone = [_resident(plan, feeds, [i], o.seconds)[0] for i in places]
        together = _resident(plan, feeds, places, o.seconds) if len(places) > 1 else alone
        for runs, in_flight in (((hosted.alone, hosted.together), devices.IN_FLIGHT), ((alone, together), 1)):
            sets = [([i], [rate]) for i, rate in zip(places, runs[0])] + [(places, list(runs[1]))] * (len(places) > 1)
            found += [_record(name, plan, feeds, used, rates, in_flight) for used, rates in sets]
        print(markdown([r for r in found if r.model.name == name]), flush=True)
    title = found[0].device.gpus[0].name.lower().replace("nvidia", "").split()[0]
    write(o.out or RESULTS / f"gpu-devices-{title}.json",
          {".json": record.encode(found), ".md": markdown(found).encode()})
    return 0


def _resident(plan: Plan, feeds: Mapping[str, np.ndarray], places: Sequence[int], seconds: float) -> list[float]:
    """Runs a second of each GPU while all of these work, inputs and outputs in their memory."""
    import torch

    import whet

    rates, failed = [0.0] * len(places), list[BaseException]()
    gate = threading.Barrier(len(places))

    def work(k: int, index: int) -> None:
        try:
            with whet.load(plan, device=index) as engine, engine.context() as context, torch.cuda.device(index):
                x = [torch.from_numpy(feeds[n]).cuda(index) for n in engine.inputs]
                y = [torch.empty([int(d) for d in shape], dtype=getattr(torch, dtype), device=f"cuda:{index}")
                     for dtype, shape in engine.outputs.values()]
                stream = torch.cuda.Stream(index)
                go = context.runner(x, y, stream=stream.cuda_stream)
                for _ in range(WARM):
                    go()
                stream.synchronize()
                gate.wait(120)
                start, count = time.perf_counter(), 0
                while time.perf_counter() - start < seconds:
                    for _ in range(WARM):
                        go()
                    stream.synchronize()
                    count += WARM
                rates[k] = count / (time.perf_counter() - start)
        except BaseException as e:
            failed.append(e)
            gate.abort()

    threads = [threading.Thread(target=work, args=a) for a in enumerate(places)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])
    return rates


def _record(name: str, plan: Plan, feeds: Mapping[str, Any], used: Sequence[int], rates: Sequence[float],
            in_flight: int) -> Measurement:
    import whet

    batch = next(iter(feeds.values())).shape[0]
    return Measurement(
        date=now(), model=Model(name=name), backend="whet", precision="fp16", threads=1,
        shapes={k: tuple(v.shape) for k, v in feeds.items()}, device=with_gpus(gpus(used)),
        versions={"whet": whet.__version__}, load=Load(concurrency=in_flight * len(used)),
        plan=PlanId(hash=plan.hash, bytes=plan.nbytes), throughput=batch * sum(rates), **stamp())


def markdown(found: Sequence[Measurement]) -> str:
    """A row for each model and place of its inputs: samples a second of each GPU alone, of all, and the scaling."""
    first = found[0]
    most = max(len(r.device.gpus) for r in found)
    out = ["# One plan on several GPUs", "",
           f"{most} x {first.device.gpus[0].name}, driver {first.device.gpus[0].driver}; "
           f"{', '.join(f'{k} {v}' for k, v in first.versions.items())}; {first.date[:10]}. Samples a second in fp16; "
           "scaling: all together over each alone added up. `python benchmarks/gpu_devices.py` makes this.", "",
           "| model | batch | inputs and outputs | each alone | all | scaling |", "|---|---:|---|---|---:|---:|"]
    for name in dict.fromkeys(r.model.name for r in found):
        for in_flight, where in ((devices.IN_FLIGHT, "in the host's memory"), (1, "on the GPUs")):
            mine = [r for r in found if r.model.name == name and r.load.concurrency == in_flight * len(r.device.gpus)]
            alone = [r.throughput or 0.0 for r in mine if len(r.device.gpus) == 1]
            all_ = [r.throughput or 0.0 for r in mine if len(r.device.gpus) > 1]
            batch = next(iter(mine[0].shapes.values()))[0]
            last = f"{all_[0]:,.0f} | {all_[0] / sum(alone):.2f}" if all_ else "- | -"
            out.append(f"| {TITLES[name]} | {batch} | {where} | {', '.join(f'{r:,.0f}' for r in alone)} | {last} |")
    return "\n".join([*out, ""])


if __name__ == "__main__":
    sys.exit(main())
