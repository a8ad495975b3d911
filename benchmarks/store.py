"""The measurement store with a million records: how long one series' history takes, and whether writers lose anything.

    python benchmarks/store.py                          SQLite, and PostgreSQL where its binaries are installed
    python benchmarks/store.py --records 20000          a small one
    python benchmarks/store.py --postgres URL           an empty database of a running server, instead of one of its own

Records are of 1,000 settings (models, precisions, batches), a day apart, each with its latency (32 samples) and
throughput: five series of a setting. They go in through `Store.add`, as those of `whet record`
do. Then for 300 series, drawn at random: the query of all of its points, and of the last 100; the list of one model's
series; and once, in a process of its own, `whet history` with everything that a command costs. Eight processes then
write records one by one, each in a transaction, and what is there at the end is counted. Results go to
`benchmarks/results/store-<fingerprint>.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from rich.progress import Progress

from benchmarks.postgres_server import binaries, server
from whet.measure import stats, this_device
from whet.measure.record import Latency, Measurement, Model
from whet.measure.tools import stamp
from whet.store import Filters, Store

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETTINGS, ASKED, WRITERS, EACH = 1_000, 300, 8, 100
PRECISIONS, BATCHES = ("fp32", "bf16", "int8", "fp16"), (1, 2, 4, 8, 16)
START = datetime(2020, 1, 1, tzinfo=UTC)


def records(count: int) -> Iterator[Measurement]:
    """`count` records: day by day, all settings of a day."""
    rng = np.random.default_rng(0)
    latencies = [stats.latency(0.01 * rng.lognormal(0, 0.05, 32)) for _ in range(64)]
    settings = [_setting(i, latencies[0]) for i in range(min(SETTINGS, count))]
    for i in range(count):
        latency, shift = latencies[int(rng.integers(64))], float(rng.uniform(0.5, 2))
        moved = msgspec.structs.replace(latency, mean=latency.mean * shift)
        yield msgspec.structs.replace(
            settings[i % len(settings)], latency=moved, throughput=1 / latency.p50.value,
            date=(START + timedelta(days=i // len(settings), seconds=i % len(settings))).isoformat())


def _setting(i: int, latency: Latency) -> Measurement:
    batch = BATCHES[i // 4 % 5]
    return Measurement(
        date="", model=Model(name=f"model{i // 20:03d}", sha256=f"{i // 20:064x}"), backend="whet",
        precision=PRECISIONS[i % 4], threads=2, shapes={"input": (batch, 3, 224, 224)}, device=this_device(),
        versions={"whet": "0.1.0", "numpy": np.__version__}, latency=latency, **stamp())


def measure(place: str, count: int, size: Callable[[], int]) -> dict[str, Any]:
    """Fill the store at `place`, and time what is asked of it."""
    result: dict[str, Any] = {"records": count}
    with Store(place) as store:
        with Progress() as bar:
            task = bar.add_task(place.split(":")[0].split("/")[-1], total=count)
            start = time.perf_counter()
            added = store.add(records(count), progress=lambda done: bar.update(task, completed=done))
            result["fill_seconds"] = time.perf_counter() - start
        assert added.new == count
    with Store(place, create=False) as store:
        start = time.perf_counter()
        every = store.series()
        result |= {"list_all_ms": 1e3 * (time.perf_counter() - start), "series": len(every), "bytes": size(),
                   "points": sum(s.count for s in every)}
        rng = np.random.default_rng(1)
        chosen = [every[i] for i in rng.permutation(len(every))[:ASKED]]
        result["points_of_a_series"] = float(np.mean([s.count for s in chosen]))
        result["history_ms"] = _times(lambda s: store.history(s.id), chosen)
        result["last_100_ms"] = _times(lambda s: store.history(s.id, last=100), chosen)
        result["list_model_ms"] = _times(lambda s: store.series(Filters(model=s.setting.model)), chosen[:50])
    result["command_seconds"] = _command(place, chosen[0].id)
    result["writers"] = _writers(place)
    return result


def _times(ask: Callable[[Any], Any], of: list[Any]) -> dict[str, float]:
    found = []
    for each in of:
        start = time.perf_counter()
        ask(each)
        found.append(1e3 * (time.perf_counter() - start))
    return {"median": float(np.median(found)), "p99": float(np.quantile(found, 0.99)), "maximum": max(found)}


def _command(place: str, series: int) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "whet.cli.main", "history", str(series), "--store", place], check=True,
                   capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    return time.perf_counter() - start


def _writers(place: str) -> dict[str, float]:
    """Eight processes at once, a record in each transaction."""
    context = multiprocessing.get_context("fork")
    start = time.perf_counter()
    children = [context.Process(target=_write, args=(place, i)) for i in range(WRITERS)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    seconds = time.perf_counter() - start
    with Store(place, create=False) as store:
        there = sum(1 for _ in store.records(Filters(model="writer*")))
    return {"processes": WRITERS, "written": WRITERS * EACH, "there": there, "seconds": seconds}


def _write(place: str, writer: int) -> None:
    base = _setting(0, stats.latency([0.01, 0.02]))
    with Store(place, timeout=120) as store:
        for i in range(EACH):
            model = Model(name=f"writer{writer if i % 2 else 0}")
            store.add([msgspec.structs.replace(base, model=model, throughput=float(writer),
                                               date=(START + timedelta(seconds=i)).isoformat())])


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    engines = [k for k in ("SQLite", "PostgreSQL") if k in result]

    def row(name: str, cell: Callable[[dict[str, Any]], str]) -> str:
        return f"| {name} | {' | '.join(cell(result[e]) for e in engines)} |"

    def ms(key: str) -> Callable[[dict[str, Any]], str]:
        return lambda r: f"{r[key]['median']:.1f} ms ({r[key]['p99']:.1f})"

    first = result[engines[0]]
    return "\n".join([
        f"# The measurement store with {first['records']:,} records", "",
        f"{result['machine']}, {result['cores']} cores, {result['date'][:10]}. {first['series']:,} series, "
        f"{first['points']:,} points; medians over {ASKED} series (99th percentile), from Python, in a process "
        f"that has the store open. Made by `{result['command']}`.", "",
        f"| | {' | '.join(engines)} |", "|---|" + "---:|" * len(engines),
        row("version", lambda r: r["version"]),
        row(f"history of one series, {first['points_of_a_series']:,.0f} points", ms("history_ms")),
        row("its last 100 points", ms("last_100_ms")),
        row("list of one model's series", ms("list_model_ms")),
        row("list of all series", lambda r: f"{r['list_all_ms'] / 1e3:.2f} s"),
        row("`whet history`, from start to end of the process", lambda r: f"{r['command_seconds']:.1f} s"),
        row("filling, records a second", lambda r: f"{r['records'] / r['fill_seconds']:,.0f}"),
        row("size", lambda r: f"{r['bytes'] / 2**30:.2f} GiB"),
        row(f"{WRITERS} writers at once, a record in each transaction: written, there",
            lambda r: f"{r['writers']['written']}, {r['writers']['there']}"),
        row("records a second of all of them", lambda r: f"{r['writers']['written'] / r['writers']['seconds']:,.0f}"),
    ]) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description="The measurement store with a million records.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--postgres", default="", help="the URL of an empty database")
    parser.add_argument("--folder", type=Path, help="for the stores; default: a temporary one")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    device = this_device()
    result: dict[str, Any] = {
        "machine": device.name, "cores": device.cores, "date": datetime.now(UTC).isoformat(),
        "command": "python benchmarks/store.py" + (f" --records {asked.records}" if asked.records != 1_000_000 else "")}
    import sqlite3

    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whet-store-")))
        file = folder / "store.db"
        result["SQLite"] = measure(str(file), asked.records, lambda: file.stat().st_size)
        result["SQLite"]["version"] = sqlite3.sqlite_version
        _save(result, asked.output, device.fingerprint)
        file.unlink()
        if asked.postgres or binaries() is not None:
            url = asked.postgres or stack.enter_context(server(fsync="on", shared_buffers="256MB")).format("postgres")
            result["PostgreSQL"] = measure(url, asked.records, lambda: _size(url)[0])
            result["PostgreSQL"]["version"] = _size(url)[1]
            _save(result, asked.output, device.fingerprint)
        else:
            print("PostgreSQL is left out: its binaries are not here (apt-get install postgresql)")
    print(table(result))


def _save(result: dict[str, Any], folder: Path, fingerprint: str) -> None:
    """Write what there is: after each engine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"store-{fingerprint}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"store-{fingerprint}.md").write_text(table(result))


def _size(url: str) -> tuple[int, str]:
    import psycopg

    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_database_size(current_database()), current_setting('server_version')"
                                 ).fetchone()
    assert row is not None
    return int(row[0]), str(row[1]).split(" ")[0]


if __name__ == "__main__":
    main()
