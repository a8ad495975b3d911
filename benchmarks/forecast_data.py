"""The back-test's data: series of benchmark results, and a race of records; read, split in halves, and made up."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

import numpy as np

from whet.errors import InputError

HISTORY, RACE = "series.csv.gz", "race.csv"  # as the sample calls them; any name will do
SERIES_COLUMNS, RACE_COLUMNS = ("series", "benchmark", "date", "seconds"), ("record", "minutes", "date")
SAMPLE = Path(__file__).parent / "data" / "forecast"


@dataclass(frozen=True)
class History:
    """One series: y [n] logarithms of its values, in order of their dates. `dropped`: rows without a positive value."""

    name: str
    group: str  # the benchmark: its series with other parameters resemble each other
    y: np.ndarray
    dropped: int


@dataclass(frozen=True)
class Track:
    """A race: days since its first record and the records, in order."""

    name: str
    days: tuple[float, ...]
    values: tuple[float, ...]


def tables(path: Path) -> tuple[Path | None, Path | None]:
    """(series, race): the tables of a folder, whatever their names, or of one file; told by their columns. InputError
    where there is neither, or more than one of a kind."""
    files = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*.csv.gz")])
    of = [[f for f in files if columns <= _columns(f)] for columns in (set(SERIES_COLUMNS), set(RACE_COLUMNS))]
    for found in of:
        if len(found) > 1:
            raise InputError("two tables of a kind", where=str(path), why=", ".join(f.name for f in found),
                             do="name one file")
    if not any(of):
        raise InputError("nothing to back-test on", where=str(path),
                         why=f"no table has columns {', '.join(SERIES_COLUMNS)}, or {', '.join(RACE_COLUMNS)}",
                         do="give the folder or file of such a table")
    series, races = ((*found, None)[0] for found in of)
    return series, races


def histories(path: Path) -> list[History]:
    """The series of a table `series,benchmark,...,date,seconds`. InputError for a table that is none."""
    rows: dict[str, list[tuple[str, float, str]]] = {}
    dropped: dict[str, int] = {}
    for number, row in _rows(path, SERIES_COLUMNS):
        text = (row["seconds"] or "").strip()
        try:
            value = float(text) if text else math.nan
        except ValueError as e:
            raise InputError("a row is no result", where=f"{path}, line {number}", why=str(e)) from e
        held = rows.setdefault(row["series"], [])
        if 0 < value < math.inf:
            held.append((row["date"] or "", value, row["benchmark"] or ""))
        else:
            dropped[row["series"]] = dropped.get(row["series"], 0) + 1
    found = []
    for name, held in rows.items():
        held.sort(key=lambda r: r[0])  # stable: rows of one day keep their order
        if len(held) > 1:
            y = np.log([v for _, v, _ in held])
            found.append(History(name, held[0][2], y, dropped.get(name, 0)))
    if len(found) < 4:
        raise InputError(f"{len(found)} series of two positive values or more", where=str(path),
                         why="half of them are fitted on, the other half judges", do="give at least four")
    return found


def race(path: Path) -> list[Track]:
    """The tracks of a table `record,minutes,date`: a new one begins where the number of the record goes back."""
    tracks: list[list[tuple[float, date]]] = []
    last = math.inf
    for number, row in _rows(path, RACE_COLUMNS):
        try:
            record, minutes, day = float(row["record"]), float(row["minutes"]), date.fromisoformat(row["date"])
            if not 0 < minutes < math.inf:
                raise ValueError(f"{row['minutes']} minutes")
        except (TypeError, ValueError) as e:
            raise InputError("a row is no record", where=f"{path}, line {number}", why=str(e)) from e
        if record < last:
            tracks.append([])
        last = record
        tracks[-1].append((minutes, day))
    out = []
    for i, track in enumerate(tracks):
        for (_, before), (_, after) in itertools.pairwise(track):
            if after < before:
                raise InputError(f"records that go back from {before} to {after}", where=f"{path}, track {i + 1}",
                                 do="put each track's rows in order of their dates")
        days = tuple(float((day - track[0][1]).days) for _, day in track)
        out.append(Track(f"track {i + 1}", days, tuple(m for m, _ in track)))
    return out


def _columns(path: Path) -> set[str]:
    """Of the table's first line."""
    try:
        with _opened(path) as f:
            return set(next(csv.reader([f.readline(10_000)]), []))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as e:
        raise InputError("a table that cannot be read", where=str(path), why=str(e)) from e


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else path.open(
        encoding="utf-8", newline="")


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with _opened(path) as f:
            table = csv.DictReader(f)
            missing = set(columns) - set(table.fieldnames or ())
            if missing:
                raise InputError("not a table of results", where=str(path), why=f"no column {sorted(missing)[0]}")
            return list(enumerate(table, 2))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as e:
        raise InputError("a table that cannot be read", where=str(path), why=str(e)) from e


def split(series: Sequence[History], seed: int) -> tuple[list[int], list[int]]:
    """(fitted on, judged on): indices of two halves. All series of a benchmark are in one half, since they resemble
    each other; where there are fewer than four benchmarks, series are split instead."""
    groups = [s.group for s in series]
    if len(set(groups)) < 4:
        groups = [s.name for s in series]
    names = sorted(set(groups))
    np.random.default_rng(seed).shuffle(names)
    fitted: set[str] = set()
    count = 0
    for name in names:
        size = groups.count(name)
        if count + size / 2 <= len(series) / 2:
            fitted.add(name)
            count += size
    halves = ([i for i, g in enumerate(groups) if g in fitted], [i for i, g in enumerate(groups) if g not in fitted])
    return halves if len(halves[0]) > 1 and len(halves[1]) > 1 else (
        list(range(0, len(series), 2)), list(range(1, len(series), 2)))


def make_sample(folder: Path, series: int = 40, seed: int = 0) -> None:
    """Write made-up tables: levels with steps and drift, noise with slow outliers; 30 to 240 values of a series, and
    two tracks of records whose gains decline. They look like histories; they are nobody's."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(["series", "benchmark", "parameters", "python", "date", "seconds", "q25", "q75"])
    for s in range(series):
        n, noise = int(rng.integers(30, 241)), float(np.exp(rng.normal(-4.3, 0.8)))
        steps = np.where(rng.random(n) < 0.015, rng.normal(-0.02, 0.12, n), 0.0)
        walk = rng.normal(0, 0.05 * noise, n)
        errors = rng.normal(0, noise, n) + np.where(rng.random(n) < 0.03, rng.exponential(6 * noise, n), 0.0)
        y = np.exp(rng.uniform(-12, 0) + np.cumsum(steps + walk) + errors)
        days = np.sort(rng.integers(0, 900, n))
        for day, value in zip(days, y):
            when = date.fromordinal(date(2020, 1, 1).toordinal() + int(day))
            write.writerow([s, f"sample.time_{s // 2}", s % 2, "3.11", when, f"{value:.5g}",
                            f"{value * (1 - noise / 2):.5g}", f"{value * (1 + noise / 2):.5g}"])
    (folder / HISTORY).write_bytes(gzip.compress(out.getvalue().encode(), 9, mtime=0))
    lines = ["record,minutes,date"]
    for records, first in ((48, 60.0), (16, 30.0)):
        level, day = math.log(first), 0.0
        for k in range(1, records + 1):
            lines.append(f"{k},{math.exp(level):.4g},{date.fromordinal(date(2022, 1, 1).toordinal() + int(day))}")
            level -= float(np.exp(rng.normal(-2.2, 0.7))) * k**-0.5
            day += float(rng.gamma(0.7, 14))
    (folder / RACE).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    make_sample(SAMPLE)
