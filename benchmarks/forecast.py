"""Back-tests of the forecasts: parameters fitted on one half of the series, judged on the other.

    python benchmarks/forecast.py                    the sample that comes with the project (made up)
    python benchmarks/forecast.py --data PATH --pool src/whet/decide/history/pool.json
                                                     write the pool of the fitted half, as whet brings it along
    python benchmarks/forecast.py --data PATH        tables like the sample's (benchmarks/data/forecast), told by their
                                                     columns: a folder with one of series, one of a race or both, or
                                                     one file

Writes NAME.json (the record) and NAME.md (the tables) into benchmarks/results, and says whether the figures that are
wanted are met: exit code 0 if so, 1 if not, 2 for data that cannot be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import forecast_data as data
import forecast_judge as judge
import forecast_race
import forecast_report
import msgspec
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tables import write

import whet
from whet.decide.history import pool as pools
from whet.decide.history.changes import noise
from whet.errors import InputError, WhetError
from whet.measure.device import this_device

RESULTS = Path(__file__).parent / "results"


def _odd(series: Sequence[data.History]) -> list[data.History]:
    return list(series[1::2])


def _every_second(series: Sequence[data.History]) -> list[data.History]:
    return [replace(s, y=s.y[::2]) for s in series if len(s.y) > 3]


def _other_unit(series: Sequence[data.History]) -> list[data.History]:
    return [replace(s, y=s.y + np.log(1e6)) for s in series]


def _noisier(series: Sequence[data.History]) -> list[data.History]:
    return [replace(s, y=s.y + np.random.default_rng(i).normal(0, 2 * noise(s.y), len(s.y)))
            for i, s in enumerate(series)]


def _short(series: Sequence[data.History]) -> list[data.History]:
    return [replace(s, y=s.y[:40]) for s in series]


Change = Callable[[Sequence[data.History]], list[data.History]]
# The same with other series: what it is called, the change, and the number added to the split's seed.
VARIANTS: dict[str, tuple[Change, int]] = {
    "as above": (list, 0), "another split": (list, 1), "a third split": (list, 2), "every second series": (_odd, 0),
    "every second value": (_every_second, 0), "in microseconds": (_other_unit, 0),
    "with twice the noise added": (_noisier, 0), "the first 40 values": (_short, 0)}


def _variant(table: Path, name: str, seed: int) -> dict[str, Any]:
    """In a process of its own."""
    change, other = VARIANTS[name]
    try:
        found = judge.judge(change(data.histories(table)), seed + other, origins=8, pooled=1000)
    except InputError as e:
        return {"variant": name, "methods": [], "why": str(e)}
    return {"variant": name, "methods": [m for m in found["methods"] if m["method"] == judge.OURS]}


def run(path: Path, seed: int, origins: int, progress: Progress) -> dict[str, Any]:
    """The record of a back-test of a folder's tables, or of one table."""
    table, races = data.tables(path)
    began = time.perf_counter()
    record: dict[str, Any] = {
        "schema": "whet-backtest-1", "whet": whet.__version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": this_device().name, "seed": seed, "made_up": path == data.SAMPLE,
        "files": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (table, races) if f}}
    bar = progress.add_task("reading", total=None)

    def tick(what: str) -> None:
        progress.update(bar, description=what, advance=1)

    if table:
        series = data.histories(table)
        fitted, judged = data.split(series, seed)
        progress.update(bar, total=2 * len(fitted) + len(judged) + len(VARIANTS) + len(forecast_race.GRID) + 2)
        record["series"] = {"count": len(series), "values": sum(len(s.y) for s in series),
                            "rows_without_a_value": sum(s.dropped for s in series),
                            "shortest": min(len(s.y) for s in series), "longest": max(len(s.y) for s in series)}
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as beside:
            waiting = [beside.submit(_variant, table, name, seed) for name in VARIANTS]
            record["levels"] = judge.judge(series, seed, origins=origins, milestones_too=True, tick=tick)
            record["robustness"] = []
            for one in waiting:
                record["robustness"].append(one.result())
                tick("other splits and series")
    if races:
        record["race"] = forecast_race.judge(data.race(races), tick)
    record["seconds"] = round(time.perf_counter() - began, 1)
    record["wanted"] = forecast_report.wanted(record)
    return record


def write_pool(path: Path, seed: int, out: Path, progress: Progress) -> None:
    """Errors of forecasts of the fitted half of a folder's series, as a pool for metrics of either direction."""
    table, _ = data.tables(path)
    if table is None:
        raise InputError("a race makes no pool", where=str(path), do="give a table of series")
    series = data.histories(table)
    fitted, _ = data.split(series, seed)
    bar = progress.add_task("pooling errors", total=len(fitted))
    origin = f"{len(fitted)} series of {table.name} (docs/back-tests.md), half {seed} of the split"
    found = pools.calibrate([series[i].y for i in fitted], symmetric=True, origin=origin,
                            progress=lambda: progress.update(bar, advance=1))
    write(out, {out.suffix: msgspec.json.encode(found) + b"\n"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data.SAMPLE,
                        help="folder of the tables, or one table (default: the sample)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the origins")
    parser.add_argument("--origins", type=int, default=20, help="in each series that judges")
    parser.add_argument("--out", type=Path, help="the record; tables beside it (default: benchmarks/results)")
    parser.add_argument("--pool", type=Path, help="write the pool of the fitted half here, and judge nothing")
    given = parser.parse_args()
    with Progress(TextColumn("{task.description:28}"), BarColumn(), TimeElapsedColumn(), disable=None) as progress:
        try:
            if given.origins < 1 or given.seed < 0:
                raise InputError("fewer than one origin, or a negative seed", do="correct --origins or --seed")
            if given.pool:
                write_pool(given.data, given.seed, given.pool, progress)
                return 0
            record = run(given.data, given.seed, given.origins, progress)
        except WhetError as e:
            progress.stop()
            print(e, file=sys.stderr)
            return e.exit_code
    text = forecast_report.markdown(record)
    out = given.out or RESULTS / ("forecast-sample.json" if record["made_up"] else "forecast.json")
    write(out, {".json": (json.dumps(_rounded(record), indent=1) + "\n").encode(), ".md": text.encode()})
    print(text)
    return 0 if all(w["met"] for w in record["wanted"]) else 1


def _rounded(value: Any) -> Any:
    """Floats with five digits: what the tables are made of, and no more."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
