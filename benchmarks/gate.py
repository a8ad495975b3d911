"""How often `whet gate` raises a false alarm, and what it finds, on the noise of real histories: by simulation.

    python benchmarks/gate.py --data PATH       # a table like benchmarks/data/forecast's, or its folder
    python benchmarks/gate.py                   # with a small synthetic sample, made here

Noise is drawn from the series block by block: stretches of consecutive runs, of geometric length with mean 10 (the
stationary bootstrap; Politis and Romano, Journal of the American Statistical Association 89, 1994), so that bursts and
drifts come as they did. A run and its reruns take consecutive values, so they are disturbed together.

level: blocks of the longest segment without a change point, divided by its level: series with no change, as far as
       the change-point method sees. raw: blocks of the whole series, divided by its median: real changes of level are
       in it, so its alarms are not all false. single: the whole series, too, but value by value: changes of level are
       scattered, and bursts with them.

A simulated history has 50 values. False alarms: 200 runs follow, each judged and put into the history. Detection: from
one run on all are slower by 5, 10 or 20 %; found is what fails within three runs. Classes are by the spread of the
series: the robust standard deviation within its segments, averaged over them. Writes a JSON record and a table.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from forecast_data import histories, tables
from rich.progress import track

from whet.decide.gate import Rules, check, detectable
from whet.decide.history import segments
from whet.measure.bootstrap import weights
from whet.measure.device import this_device
from whet.measure.stats import wilson

RESULTS = Path(__file__).parent / "results"
CLASSES = ((0.0, 0.01), (0.01, 0.03), (0.03, 0.05), (0.05, math.inf))
EFFECTS = (0.05, 0.10, 0.20)
HISTORY, RUNS, WITHIN, BLOCK = 50, 200, 3, 10.0
SHORTEST = 30  # values to draw from
METRICS = 5  # that a gate follows by default: the level is divided among them


@dataclass(frozen=True)
class Source:
    """A series to draw noise from: its spread, and relative residuals [n] without and with its changes of level."""

    name: str
    spread: float
    level: np.ndarray
    raw: np.ndarray


def synthetic(seed: int = 0) -> dict[str, list[float]]:
    """Forty series with noise of several sizes and shapes: normal, with outliers, slowly wandering, with steps."""
    rng, out = np.random.default_rng(seed), {}
    for i in range(40):
        n, spread = 250, float(rng.choice([0.004, 0.012, 0.025, 0.04, 0.08]))
        y = rng.normal(0, spread, n)
        if i % 4 == 1:
            y += (rng.random(n) < 0.02) * rng.exponential(5 * spread, n)
        elif i % 4 == 2:
            wander = np.zeros(n)
            for k in range(1, n):
                wander[k] = 0.9 * wander[k - 1] + rng.normal(0, 0.3 * spread)
            y += wander
        elif i % 4 == 3:
            y += 0.15 * (np.arange(n) > n // 2)
        out[f"synthetic {i}"] = list(1e-3 * np.exp(y))
    return out


def sources(series: dict[str, list[float]]) -> list[Source]:
    """What noise is drawn from; series whose longest segment is too short are left out."""
    out = []
    for name, values in track(series.items(), description="finding change points", transient=True):
        found = segments(values)
        spread = float(np.average([s.spread for s in found], weights=[s.count for s in found]))
        longest = max(found, key=lambda s: s.count)
        if longest.count >= SHORTEST:
            of = np.asarray(values)
            out.append(Source(name, spread, of[longest.start:longest.stop] / longest.level, of / np.median(of)))
    return out


def blocks(noise: np.ndarray, rng: np.random.Generator, mean: float) -> Iterator[float]:
    """Values without end, in blocks of consecutive ones."""
    while True:
        start, length = int(rng.integers(len(noise))), int(rng.geometric(1 / mean))
        for i in range(start, start + length):
            yield float(noise[i % len(noise)])


def gate(history: Sequence[float], rejected: Sequence[bool], draw: Iterator[float], rules: Rules,
         factor: float = 1.0) -> tuple[str, float, int]:
    """The verdict on one run as the command gives it, its value, and how many reruns it took."""
    runs = [next(draw) * factor]
    found = check(history, runs, higher_is_worse=True, rules=rules, rejected=rejected)
    if found.state == "suspected" and rules.reruns:
        runs += [next(draw) * factor for _ in range(rules.reruns)]
        found = check(history, runs, higher_is_worse=True, rules=rules, rejected=rejected)
    return found.state, runs[0], len(runs) - 1


def quiet(noise: np.ndarray, mean: float, rules: Rules, rng: np.random.Generator) -> dict[str, int]:
    """200 runs without a change."""
    draw = blocks(noise, rng, mean)
    history, rejected = [next(draw) for _ in range(HISTORY)], [False] * HISTORY
    count = {"alarms": 0, "undecided": 0, "reruns": 0}
    for _ in range(RUNS):
        state, value, reruns = gate(history, rejected, draw, rules)
        history.append(value)
        rejected.append(state == "regressed")
        count["alarms"] += state == "regressed"
        count["undecided"] += state in ("undecided", "suspected")
        count["reruns"] += reruns
    return count


def changed(noise: np.ndarray, effect: float, rules: Rules, rng: np.random.Generator) -> bool:
    """Whether a change is found within three runs."""
    draw = blocks(noise, rng, BLOCK)
    history, rejected = [next(draw) for _ in range(HISTORY)], [False] * HISTORY
    for _ in range(WITHIN):
        state, value, _ = gate(history, rejected, draw, rules, 1 + effect)
        if state == "regressed":
            return True
        history.append(value)
        rejected.append(False)
    return False


def simulate(name: str, chosen: Sequence[Source], noise: str, reruns: int, trials: int, seed: int) -> dict[str, object]:
    """Alarms in `trials` times 200 runs, with a bootstrapped interval over trials, and what is found, with Wilson's."""
    rng, rules = np.random.default_rng(seed), Rules(alpha=Rules().alpha / METRICS, reruns=reruns)
    picks = [chosen[int(i)] for i in rng.integers(0, len(chosen), trials)]
    mean = 1.0 if noise == "single" else BLOCK
    counts = [quiet(s.level if noise == "level" else s.raw, mean, rules, rng) for s in picks]
    alarms = np.array([c["alarms"] for c in counts], dtype=float)
    low, high = bounds(alarms)
    row: dict[str, object] = {
        "class": name, "series": len(chosen), "noise": noise, "reruns": reruns, "trials": trials,
        "alarms": float(alarms.mean()), "low": low, "high": high, "without": float((alarms == 0).mean()),
        "undecided": float(np.mean([c["undecided"] for c in counts])),
        "extra_runs": float(np.mean([c["reruns"] for c in counts])),
        "detectable": detectable(float(np.median([s.spread for s in chosen])), HISTORY, rules)}
    for effect in EFFECTS if noise == "level" else ():
        wanted = [chosen[int(i)] for i in rng.integers(0, len(chosen), 5 * trials)]
        found = sum(changed(s.level, effect, rules, rng) for s in wanted)
        share = wilson(found, len(wanted))
        row[f"found_{effect:.0%}"] = [share.value, share.low, share.high]
    return row


def bounds(alarms: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean number of alarms: trials drawn again; where there was none at all, which no drawing
    shows, Poisson's upper bound (Garwood 1936): -ln 0.025 over the trials."""
    if not alarms.any():
        return 0.0, -math.log(0.025) / len(alarms)
    drawn = np.concatenate([w @ alarms / len(alarms) for w in weights(len(alarms))])
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def rows_of(rows: Sequence[dict[str, object]]) -> list[str]:
    """As Markdown."""
    head = ("spread of the series", "series", "noise", "reruns", "alarms in 200 runs (95 %)", "trials without",
            "undecided", "found: 5 %", "10 %", "20 %", "detectable, as stated")
    out = [f"| {' | '.join(head)} |", "|---|---:|---" + "|---:" * 8 + "|"]
    for r in rows:
        found = [r.get(f"found_{e:.0%}") for e in EFFECTS]
        cells = [f"{f[0]:.1%} ({f[1]:.1%} to {f[2]:.1%})" if isinstance(f, list) else "" for f in found]
        out.append(f"| {r['class']} | {r['series']} | {r['noise']} | {r['reruns'] or 'none'} | {r['alarms']:.2f} "
                   f"({r['low']:.2f} to {r['high']:.2f}) | {r['without']:.0%} | {r['undecided']:.1f} | {cells[0]} | "
                   f"{cells[1]} | {cells[2]} | {r['detectable']:.0%} |")
    return out


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    command = f"python benchmarks/gate.py{' --data PATH' if record['data'] != 'synthetic' else ''}"
    return "\n".join([
        "# False alarms and what is found", "",
        f"`{command}`: {record['data']}, {record['series']} series, noise in blocks of {record['block']:.0f} runs on "
        f"average, histories of {record['history']} values, a level of 0.1 % shared by {record['metrics']} metrics; "
        f"{record['date'][:10]}, {record['device']}, {record['seconds']} s.", "", *rows_of(record["rows"]), "",
        "`level`: drawn from the longest segment of each series without a change point, so that what the method takes "
        "for a step is not in it. `raw`: whole series, steps included: many of these alarms are true. `single`: whole "
        "series, value by value. A level that "
        "was turned down is an alarm at every run that it lasts. `undecided`: of 200 runs. Found: within three runs. "
        "Alarms have bootstrapped intervals over the trials (Poisson's where there were none), shares Wilson's.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a table of series, or its folder; default: a synthetic sample")
    parser.add_argument("--trials", type=int, default=100, help="histories of 200 runs for each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.perf_counter()
    table, _ = tables(options.data) if options.data else (None, None)
    found = sources({h.name: list(np.exp(h.y)) for h in histories(table)} if table else synthetic())
    wide = [("under 3 %", [s for s in found if s.spread < 0.03])]
    named = [(f"{a:.0%} to {b:.0%}" if b < math.inf else f"over {a:.0%}", [s for s in found if a <= s.spread < b])
             for a, b in CLASSES]
    jobs = [(wide[0], "level", 3), (wide[0], "level", 0), (wide[0], "single", 3), (wide[0], "raw", 3),
            *((n, "level", 3) for n in named)]
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(simulate, name, chosen, noise, reruns, options.trials, options.seed)
                   for (name, chosen), noise, reruns in jobs if chosen]
        rows = [w.result() for w in track(waiting, description="simulating", transient=True)]
    print("\n".join(rows_of(rows)))
    device = this_device()
    record = {"schema": 1, "date": datetime.now(UTC).replace(microsecond=0).isoformat(), "device": device.name,
              "data": table.name if table else "synthetic", "series": len(found), "history": HISTORY, "runs": RUNS,
              "within": WITHIN, "block": BLOCK, "seed": options.seed, "metrics": METRICS,
              "seconds": round(time.perf_counter() - start), "rows": rows}
    name = f"gate-{table.name.split('_')[0] if table else 'synthetic'}"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (options.output / f"{name}.md").write_text(page(record), "utf-8")


if __name__ == "__main__":
    main()
