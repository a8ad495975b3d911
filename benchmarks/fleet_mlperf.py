"""MLPerf inference: the ratio of Server to Offline throughput, predicted from queueing and judged on a later round.

Offline throughput R is what a system does with all samples there at once, Server throughput what it does with requests
that come at random (Poisson) and P99 within a limit L. An accelerator is taken for one server with batches of
tau(b) = (b + b0) / r seconds, r = R / accelerators, and any batch that fits. Then the highest load at which P99 <= L,
as a share of r, is a function g(N, b0) of N = r L alone, the samples that an accelerator does within the limit; it is
simulated. Predictions are eta * g(N, b0), where b0 (fixed costs, in samples) and eta (what else the Server scenario
costs) are fitted on rounds v0.7 to v1.1 by least absolute error, and judged on v2.0.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from whet.decide.fleet import Arrivals, Batching, Service, simulate
from whet.errors import InputError

CONSTANT = 0.85
FITTED, JUDGED = ("v0.7", "v1.0", "v1.1"), "v2.0"
SAMPLES = np.geomspace(4, 20_000, 16)  # N of the table of g
FIXED = (0, 1, 2, 4, 8, 16)  # b0 of the table
BETAS = tuple(np.arange(0, 4.01, 0.25))
COLUMNS = ("round", "submitter", "system", "benchmark", "scenario", "samples_per_second", "target_latency_ns")


@dataclass(frozen=True)
class Pair:
    """A system's Server and Offline results of one benchmark. `accelerators` is 1 where the name does not tell."""

    round: str
    submitter: str
    system: str
    benchmark: str
    ratio: float
    samples: float  # that an accelerator does within the latency limit, at the Offline rate
    accelerators: int
    told: bool
    triton: bool


def read(path: Path) -> list[Pair]:
    """The pairs of a table of results. InputError for a table that is none."""
    results: dict[tuple[str, ...], dict[str, tuple[float, float]]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        missing = set(COLUMNS) - set(table.fieldnames or ())
        if missing:
            raise InputError("not a table of MLPerf results", where=str(path), why=f"no column {sorted(missing)[0]}")
        for number, row in enumerate(table, 2):
            if row["scenario"] not in ("Server", "Offline") or not row["samples_per_second"]:
                continue  # two Offline rows state no rate: without it there is no pair
            key = (row["round"], row["submitter"], row["system"], row["benchmark"].replace("resnet50", "resnet"))
            try:
                rate, limit = float(row["samples_per_second"]), float(row["target_latency_ns"] or 0) / 1e9
                if not (rate > 0 and math.isfinite(rate + limit) and (limit > 0 or row["scenario"] == "Offline")):
                    raise ValueError(f"{row['samples_per_second']} a second within {row['target_latency_ns']} ns")
            except ValueError as e:
                raise InputError("a row is no result", where=f"{path}, line {number}", why=str(e)) from e
            results[key][row["scenario"]] = rate, limit
    found = []
    for key, by in sorted(results.items()):
        if "Server" in by and "Offline" in by:
            (server, limit), (offline, _) = by["Server"], by["Offline"]
            count = accelerators(key[2])
            found.append(Pair(*key, server / offline, offline * limit / (count or 1), count or 1, count is not None,
                              "triton" in key[2].lower()))
    return found


def accelerators(system: str) -> int | None:
    """How many accelerators (or sockets) a system's name tells: `T4x20`, `8x1g` (MIG), `1-node-2S-ICX`."""
    for pattern in (r"(\d+)x1g", r"x(\d+)(?=_|$|-|\b)", r"_(\d+)x", r"^(\d+)x", r"-(\d+)[sS]-", r"_(\d+)_A\d"):
        if found := re.search(pattern, system):
            return int(found.group(1))
    return None


def highest_load(samples: float, fixed: float, requests: int = 40_000) -> float:
    """g(N, b0): the highest share of an accelerator's rate at which P99 is within the limit, by bisection.

    Time is counted in limits: the rate is N, a batch takes (b + b0) / N, and no batch is larger than what fits.
    """
    largest = max(1, int(samples - fixed))
    service = Service.table({b: (b + fixed) / samples for b in {1, largest}})
    low, high = 0.0, largest / (largest + fixed)
    for _ in range(9):
        middle = (low + high) / 2
        try:
            run = simulate(service, Arrivals.poisson(middle * samples), Batching(largest), 1, requests)
            low, high = (middle, high) if run.p99.value <= 1 else (low, middle)
        except InputError:  # it cannot keep up
            high = middle
    return low


Model = Callable[[Pair], float]


def queueing(progress: Callable[[str, int, int], None]) -> dict[str, Model]:
    """g(N, b0) for each b0 of the table, interpolated in log N."""
    out: dict[str, Model] = {}
    for i, fixed in enumerate(FIXED):
        progress(f"simulating queues, b0 = {fixed}", i, len(FIXED))
        table = [highest_load(n, fixed) for n in SAMPLES]

        def model(p: Pair, table: list[float] = table) -> float:
            return float(np.interp(math.log(p.samples), np.log(SAMPLES), table))

        out[f"b0 = {fixed}"] = model
    return out


def square_root() -> dict[str, Model]:
    """1 - beta / sqrt(N): what heavy traffic leaves of a rate (Halfin and Whitt 1981), without any simulation."""
    return {f"beta = {b:g}": lambda p, b=b: max(0.05, 1 - b / math.sqrt(p.samples)) for b in BETAS}


def fitted(pairs: Sequence[Pair], shapes: dict[str, Model], by: Callable[[Pair], Any],
           scaled_by: Callable[[Pair], Any]) -> tuple[Model, dict[str, Any]]:
    """The shape of each group of `by` and the factor of each of `scaled_by` within it, of the least absolute error."""
    chosen: dict[Any, tuple[Model, dict[Any, float], float]] = {}
    told = {}
    for group in sorted({by(p) for p in pairs}):
        members = [p for p in pairs if by(p) == group]
        best = math.inf
        for name, shape in shapes.items():
            factors = {k: _factor([(shape(p), p.ratio) for p in members if scaled_by(p) == k])
                       for k in {scaled_by(p) for p in members}}
            error = sum(abs(factors[scaled_by(p)] * shape(p) - p.ratio) for p in members)
            if error < best:
                best, chosen[group] = error, (shape, factors, float(np.median(list(factors.values()))))
                told[str(group)] = {"shape": name, "eta": {str(k): round(v, 4) for k, v in factors.items()}}

    def predict(p: Pair) -> float:
        shape, factors, otherwise = chosen[by(p)]
        return factors.get(scaled_by(p), otherwise) * shape(p)

    return predict, told


def _factor(points: Iterable[tuple[float, float]]) -> float:
    """The eta that makes sum |eta g - r| least: the median of r / g, weighted with g."""
    usable = sorted((r / g, g) for g, r in points if g > 1e-6)
    half, total = sum(g for _, g in usable) / 2, 0.0
    for ratio, g in usable:
        total += g
        if total >= half:
            return ratio
    return CONSTANT


def _everything(p: Pair) -> str:
    return "all"


def _benchmark(p: Pair) -> str:
    return p.benchmark


def _software(p: Pair) -> str:
    return "Triton" if p.triton else "other"


@dataclass(frozen=True)
class Entry:
    """A predictor: what it is called, and how it is made of pairs to fit on; `numbers` are how many it fits."""

    name: str
    make: Callable[[Sequence[Pair]], tuple[Model, dict[str, Any]]]


def entries(queue: dict[str, Model]) -> list[Entry]:
    """The predictors, constants first."""
    one: dict[str, Model] = {"1": lambda p: 1.0}
    groups = {"": (_everything, _everything), ", by benchmark": (_benchmark, _everything),
              ", by benchmark and software": (_benchmark, _software)}
    out = [Entry("constant 0.85", lambda pairs: (lambda p: CONSTANT, {}))]
    for (kind, shapes), (suffix, (by, scaled)) in product(
            {"constant": one, "square root": square_root(), "queue": queue}.items(), groups.items()):
        out.append(Entry(kind + suffix, lambda pairs, s=shapes, b=by, k=scaled: fitted(pairs, s, b, k)))
    return out


def judge(pairs: Sequence[Pair], progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Fit on the earlier rounds, judge on the last; each predictor's errors, and its gain over the constant."""
    earlier, last = [p for p in pairs if p.round in FITTED], [p for p in pairs if p.round == JUDGED]
    if not earlier or not last:
        raise InputError("the table lacks rounds", why=f"{len(earlier)} pairs to fit on, {len(last)} to judge on")
    truth = np.array([p.ratio for p in last])
    rows, base = [], np.abs(truth - CONSTANT)
    for entry in entries(queueing(progress)):
        predict, told = entry.make(earlier)
        guesses = np.array([predict(p) for p in last])
        error = np.abs(guesses - truth)
        left_out = []
        for held in FITTED:
            again, _ = entry.make([p for p in earlier if p.round != held])
            left_out += [abs(again(p) - p.ratio) for p in earlier if p.round == held]
        low, high = _gain_interval(base - error, [p.submitter for p in last])
        rows.append({
            "predictor": entry.name, "mean_error": _r(error.mean()), "median_error": _r(np.median(error)),
            "mean_error_left_out_rounds": _r(np.mean(left_out)), "gain": _r((base - error).mean()),
            "gain_low": _r(low), "gain_high": _r(high),
            "correlation": _r(np.corrcoef(guesses, truth)[0, 1]) if np.ptp(guesses) > 1e-9 else None,
            "by_benchmark": {b: _r(error[[p.benchmark == b for p in last]].mean())
                             for b in sorted({p.benchmark for p in last})},
            "without_triton": _r(error[[not p.triton for p in last]].mean()), "fitted": told})
    return {"fitted_on": len(earlier), "judged_on": len(last), "count_not_told": sum(not p.told for p in pairs),
            "median_fitted": _r(np.median([p.ratio for p in earlier])), "median_judged": _r(np.median(truth)),
            "predictors": rows}


def _gain_interval(gain: np.ndarray, clusters: Sequence[str]) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean, whole submitters drawn together: their systems are alike."""
    names = sorted(set(clusters))
    sums = np.array([[gain[[c == n for c in clusters]].sum(), clusters.count(n)] for n in names])
    drawn = np.random.default_rng(0).integers(0, len(names), (4000, len(names)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _r(value: float) -> float:
    return round(float(value), 4)


def markdown(found: dict[str, Any]) -> list[str]:
    """The table of predictors, and what was fitted."""
    out = [f"Fitted on {found['fitted_on']} pairs of {', '.join(FITTED)} (median ratio {found['median_fitted']:.3f}), "
           f"judged on {found['judged_on']} of {JUDGED} (median {found['median_judged']:.3f}); errors are absolute "
           "differences of the ratio. `left out`: mean error on each earlier round when it is left out of the fit. "
           "`gain`: over the constant 0.85, with a 95 % bootstrap interval over submitters.", "",
           "| predictor | mean error | median error | left out | gain | correlation | without Triton |",
           "|---|---:|---:|---:|---:|---:|---:|"]
    for r in found["predictors"]:
        gain = f"{r['gain']:.4f} [{r['gain_low']:.4f}, {r['gain_high']:.4f}]" if r["gain"] else "0"
        shown = "" if r["correlation"] is None else f"{r['correlation']:.2f}"
        out.append(f"| {r['predictor']} | {r['mean_error']:.4f} | {r['median_error']:.4f} | "
                   f"{r['mean_error_left_out_rounds']:.4f} | {gain} | {shown} | {r['without_triton']:.4f} |")
    out += ["", "| predictor | " + " | ".join(found["predictors"][0]["by_benchmark"]) + " | fitted |",
            "|---|" + "---:|" * len(found["predictors"][0]["by_benchmark"]) + "---|"]
    for r in found["predictors"]:
        told = "; ".join(f"{g}: {f['shape']}, eta {', '.join(f'{k} {v:.3f}' for k, v in sorted(f['eta'].items()))}"
                         for g, f in r["fitted"].items())
        errors = " | ".join(f"{v:.4f}" for v in r["by_benchmark"].values())
        out.append(f"| {r['predictor']} | {errors} | {told} |")
    return out
