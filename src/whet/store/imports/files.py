"""Files and folders of any tool, by what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.measure.record import decode
from whet.measure.series import when
from whet.store import results
from whet.store.imports import asv, common, perf_analyzer, pytest_benchmark, trtexec
from whet.store.imports.common import Given, Imported

WHET = "whet"
KINDS = (WHET, trtexec.TOOL, perf_analyzer.TOOL, perf_analyzer.GENAI, pytest_benchmark.TOOL, asv.TOOL)
BENCHMARKS = "benchmarks.json"
FILE = "file"  # the date that is the file's own


def load(path: Path, given: Given | None = None, kind: str = "", log: Path | None = None) -> Imported:
    """The measurements of a file.

    given: what the tool does not say; its date may be `file`: when the file was last changed.
    kind:  one of KINDS, or "" to find out.
    log:   trtexec's log, which tells of what its JSON does not.

    InputError if it cannot be read, is too large, or is none of these.
    """
    given = given or Given()
    data = read(path)
    if given.date == FILE:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(microsecond=0)
        given = replace(given, date=changed.isoformat())
    return convert(data, str(path), given, kind, read(log) if log else None,
                   lambda: _benchmarks(path.absolute().parents[:2]))


def read(path: Path) -> bytes:
    """A file's bytes, up to 256 MiB. InputError if it is larger or cannot be read."""
    try:
        with path.open("rb") as f:
            data = f.read(common.MOST_BYTES + 1)
    except OSError as e:
        raise InputError("the measurements cannot be read", where=str(path), why=e.strerror or str(e),
                         do="check the path") from e
    if len(data) > common.MOST_BYTES:
        raise InputError("a file too large", where=str(path), why=f"over {common.MOST_BYTES >> 20} MiB",
                         do="split it, or leave samples out")
    return data


def convert(data: bytes, where: str, given: Given | None = None, kind: str = "", log: bytes | None = None,
            known: Callable[[], dict[str, Any]] = dict) -> Imported:
    """The measurements in a file's bytes. See `load`; `known` gives asv's benchmarks.json."""
    given = given or Given()
    if kind and kind not in KINDS:
        raise InputError(f"no tool {kind!r}", why=f"there are {', '.join(KINDS)}", do="choose among these")
    facts = trtexec.read_log(log, "the log") if log is not None else None
    if trtexec.is_log(data):
        found = Imported(trtexec.TOOL, trtexec.of_log(data, where, given))
    elif perf_analyzer.is_csv(data):
        found = Imported(perf_analyzer.TOOL, perf_analyzer.of_csv(data, where, given))
    else:
        found = _json(data, where, given, facts, known)
    if kind and found.tool != kind:
        raise InputError(f"not of {kind}", where=where, why=f"it looks like {found.tool}'s", do=f"--from {found.tool}")
    if facts is not None and found.tool != trtexec.TOOL:
        raise InputError("a log of trtexec's beside other measurements", where=where,
                         why=f"these are {found.tool}'s", do="leave --log out")
    for record in found.records:
        when(record)  # a date that is none is told now, with the file's name, and not when it is stored
    return found


def _json(data: bytes, where: str, given: Given, log: trtexec.Log | None,
          known: Callable[[], dict[str, Any]]) -> Imported:
    whole = common.parse(data, where)
    if results.is_ours(whole):
        return Imported(WHET, [], results=tuple(results.of_json(whole, where)))
    if trtexec.is_times(whole):
        return Imported(trtexec.TOOL, trtexec.of_times(whole, where, given, log))
    if trtexec.is_profile(whole):
        return Imported(trtexec.TOOL, trtexec.of_profile(whole, where, given, log))
    if pytest_benchmark.is_ours(whole):
        return pytest_benchmark.convert(whole, where, given)
    if asv.is_ours(whole):
        return asv.convert(whole, where, given, known())
    if perf_analyzer.is_profile(whole):
        return Imported(perf_analyzer.TOOL, perf_analyzer.of_profile(whole, where, given))
    if perf_analyzer.is_summary(whole):
        return Imported(perf_analyzer.GENAI, perf_analyzer.of_summary(whole, where, given))
    first = whole[0] if isinstance(whole, list) and whole else whole
    if whole == [] or not isinstance(first, dict) or "backend" not in first or "device" not in first:
        raise InputError("measurements of no tool that is known", where=where, why=f"known are {', '.join(KINDS)}",
                         do="see docs/store.md for the files of each")
    if named := [f.name for f in fields(given) if getattr(given, f.name)]:
        raise InputError(f"whet's own records are taken as they are: --{named[0]} is for other tools", where=where,
                         do="leave it out")
    return Imported(WHET, decode(data, where))


def expand(path: Path) -> list[Path]:
    """The file itself; of a folder, asv's result files: those of all machines (results/), or of one. InputError if a
    folder has none."""
    if not path.is_dir():
        return [path]
    found = [p for p in sorted(path.glob("*.json")) + sorted(path.glob("*/*.json"))
             if p.name not in ("machine.json", BENCHMARKS)]
    if not found:
        raise InputError("no results of asv's in this folder", where=str(path),
                         why="there is no <machine>/<commit>-<environment>.json", do="name results/, or single files")
    return found


def _benchmarks(folders: Sequence[Path]) -> dict[str, Any]:
    """asv's benchmarks.json, which lies beside the machines' folders; empty where it is not there."""
    for folder in folders:
        path = folder / BENCHMARKS
        if path.is_file():
            return _parsed(path, path.stat().st_mtime_ns)
    return {}


@lru_cache(maxsize=2)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    return common.mapping(common.parse(read(path), str(path)))
