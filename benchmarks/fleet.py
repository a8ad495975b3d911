"""How fast and how right fleets are simulated, and whether queueing predicts MLPerf's Server throughput.

    python benchmarks/fleet.py                 speed of 10^6 requests; P99 of M/M/c, M/D/c and batch service by theory
    python benchmarks/fleet.py --data FILE     also MLPerf: FILE has the columns round, submitter, system, benchmark,
                                               scenario, samples_per_second, target_latency_ns (see fleet_mlperf.py)

Results go to `benchmarks/results/fleet-<fingerprint>.json` and `.md`, MLPerf's to `fleet-mlperf.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import whet
from benchmarks import fleet_mlperf, tables
from whet.cli.progress import build_progress
from whet.decide.fleet import Arrivals, Batching, Service, simulate
from whet.decide.queues import BatchService, MDc, MMc
from whet.decide.simulation import enough_requests
from whet.measure import this_device
from whet.measure.record import now

RESULTS = Path(__file__).parent / "results"
MILLION = 1_000_000
BATCHED = Service.linear(0.001, 0.004, 8)  # 667 requests a second with full batches
SEEDS = 20
LONG, LONG_SEEDS = 4_000_000, 5


def speed(progress: Any) -> list[dict[str, Any]]:
    """Seconds for 10^6 requests, the least of three runs."""
    cases = {
        "M/M/10, load 0.8": (Service.exponential(0.01), Arrivals.poisson(800), Batching(), 10),
        "M/D/10, load 0.8": (Service.table({1: 0.01}), Arrivals.poisson(800), Batching(), 10),
        "bursty/M/100, load 0.8": (Service.exponential(0.01), Arrivals.bursty(8000, 3), Batching(), 100),
        "batches of 8, 2 ms delay, 4 servers, load 0.75": (BATCHED, Arrivals.poisson(2000), Batching(8, 0.002), 4),
        "batches of 8, 2 ms delay, 64 servers, load 0.9": (BATCHED, Arrivals.poisson(38_400), Batching(8, 0.002), 64),
        "batches of 8, 2 ms delay, 4 servers, nearly idle": (BATCHED, Arrivals.poisson(20), Batching(8, 0.002), 4),
        "batches of 8, drawn from samples, 4 servers, load 0.75": (_sampled(), Arrivals.poisson(2000),
                                                                   Batching(8, 0.002), 4),
    }
    out = []
    for i, (name, (service, arrivals, batching, servers)) in enumerate(cases.items()):
        progress(name, i, len(cases))
        wall, cpu = [], []
        for _ in range(3):
            start, busy = time.perf_counter(), time.process_time()
            run = simulate(service, arrivals, batching, servers, MILLION)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
        out.append({"case": name, "seconds": round(min(wall), 3), "cpu_seconds": round(min(cpu), 3),
                    "mean_batch": round(run.mean_batch, 2), "p99_ms": round(run.p99.value * 1e3, 3)})
    return out


def _sampled() -> Service:
    shape = [0.9] * 90 + [1.5] * 9 + [4.0]
    means = (0.005, 0.012)
    return Service((1, 8), means, "measured", tuple(tuple(mean * x for x in shape) for mean in means))


def theory(progress: Any) -> list[dict[str, Any]]:
    """P99 against closed forms: the mean of 20 runs and the worst, and how often their intervals hold the truth."""
    out = []
    cases = [(kind, servers, load) for kind in ("M/M/c", "M/D/c") for servers in (1, 4, 16) for load in (0.5, 0.8, 0.9)]
    for i, (kind, servers, load) in enumerate(cases):
        progress(f"{kind}, c = {servers}, load {load}", i, len(cases))
        service = Service.exponential(1.0) if kind == "M/M/c" else Service.table({1: 1.0})
        queue: Any = (MMc if kind == "M/M/c" else MDc)(servers * load, 1.0, servers)
        truth, arrivals = queue.response_quantile(0.99), Arrivals.poisson(servers * load)
        length = max(200_000, enough_requests(service, arrivals, load))
        runs = [simulate(service, arrivals, Batching(), servers, length, seed).p99 for seed in range(SEEDS)]
        out.append({"queue": kind, "servers": servers, "load": load, "requests": length, "theory": round(truth, 4),
                    "mean_error": round(sum(r.value for r in runs) / SEEDS / truth - 1, 4),
                    "worst_error": round(max(abs(r.value / truth - 1) for r in runs), 4),
                    "held": round(sum(r.low <= truth <= r.high for r in runs) / SEEDS, 2),
                    "held_from_above": round(sum(truth <= r.high for r in runs) / SEEDS, 2)})
    return out


def long_runs(progress: Any) -> list[dict[str, Any]]:
    """P99 of M/M/c from runs of 4 million requests: the worst error of five."""
    out = []
    cases = [(servers, load) for servers in (1, 4, 16) for load in (0.5, 0.7, 0.8)]
    for i, (servers, load) in enumerate(cases):
        progress(f"long runs of M/M/{servers}, load {load}", i, len(cases))
        truth = MMc(servers * load, 1.0, servers).response_quantile(0.99)
        errors = [abs(simulate(Service.exponential(1.0), Arrivals.poisson(servers * load), Batching(), servers, LONG,
                               seed).p99.value / truth - 1) for seed in range(LONG_SEEDS)]
        out.append({"servers": servers, "load": load, "theory": round(truth, 4), "worst_error": round(max(errors), 4)})
    return out


def batch_service() -> list[dict[str, Any]]:
    """Mean latency of batch service against the exact chain and Inoue's bound."""
    out = []
    for rate, tau0 in ((0.1, 2.0), (0.5, 2.0), (0.8, 2.0), (0.5, 20.0)):
        queue = BatchService(rate, 1.0, tau0)
        run = simulate(Service.linear(1.0, tau0, 4000), Arrivals.poisson(rate), Batching(4000), 1, MILLION)
        out.append({"rate": rate, "tau0": tau0, "exact": round(queue.mean_latency, 4),
                    "bound": round(queue.mean_bound, 4), "simulated": round(run.mean, 4)})
    return out


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="MLPerf results (CSV)")
    given = parser.parse_args()
    device = this_device()
    origin = {"whet": whet.__version__, "date": now()[:10]}
    with build_progress() as progress:
        found = {"device": device.name, "fingerprint": device.fingerprint, **origin, "speed": speed(progress),
                 "theory": theory(progress), "long_runs": long_runs(progress), "batch_service": batch_service()}
        judged = fleet_mlperf.judge(fleet_mlperf.read(given.data), progress) if given.data else None
    name = f"fleet-{device.fingerprint}"
    tables.write(RESULTS / name, {".json": _json(found), ".md": _markdown(found).encode()})
    print(_markdown(found))
    if judged is not None:
        text = "\n".join(["MLPerf inference, Server / Offline throughput (ResNet-50, BERT; closed division)", "",
                          *fleet_mlperf.markdown(judged)]) + "\n"
        tables.write(RESULTS / "fleet-mlperf", {".json": _json({**origin, **judged}), ".md": text.encode()})
        print(text)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _markdown(found: dict[str, Any]) -> str:
    out = [f"Fleets simulated on {found['device']}, one core", "",
           "| 10^6 requests | seconds | CPU seconds | mean batch |",
           "|---|---:|---:|---:|"]
    out += [f"| {s['case']} | {s['seconds']:.2f} | {s['cpu_seconds']:.2f} | {s['mean_batch']:.2f} |"
            for s in found["speed"]]
    out += ["", f"P99 against theory, {SEEDS} runs each; `held`: the share of the 95 % intervals that hold the truth, "
            "or whose upper end is above it", "",
            "| queue | servers | load | requests | theory | mean error | worst error | held | held from above |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    out += [f"| {t['queue']} | {t['servers']} | {t['load']} | {t['requests']:,} | {t['theory']:.3f} | "
            f"{t['mean_error']:+.2%} | {t['worst_error']:.2%} | {t['held']:.0%} | {t['held_from_above']:.0%} |"
            for t in found["theory"]]
    out += ["", f"P99 of M/M/c, runs of {LONG:,} requests, the worst of {LONG_SEEDS}", "",
            "| servers | load | theory | worst error |", "|---:|---:|---:|---:|"]
    out += [f"| {t['servers']} | {t['load']} | {t['theory']:.3f} | {t['worst_error']:.2%} |"
            for t in found["long_runs"]]
    out += ["", "Mean latency of batch service, tau(b) = b + tau0", "",
            "| rate | tau0 | exact | Inoue's bound | simulated |",
            "|---:|---:|---:|---:|---:|"]
    out += [f"| {b['rate']} | {b['tau0']} | {b['exact']:.4f} | {b['bound']:.4f} | {b['simulated']:.4f} |"
            for b in found["batch_service"]]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
