"""`whet record`: measurements into the store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from whet.cli import options
from whet.errors import InputError, StoreError

if TYPE_CHECKING:
    from whet.measure import Measurement
    from whet.store.imports import Given, Imported

STDIN = "-"
NOTES = 5  # that are printed


@dataclass
class Counts:
    """What became of the measurements."""

    new: int = 0
    known: int = 0
    results: int = 0
    notes: list[str] = field(default_factory=list)


def command(
    files: Annotated[list[str] | None, typer.Argument(
        metavar="FILE...", help="Measurements: whet bench --json, or another tool's output; a folder of asv's results; "
                                "results of whet history --results; - is stdin.", show_default=False)] = None,
    store: options.StorePlace = "",
    kind: Annotated[str, typer.Option("--from", metavar="TOOL", help="whet, trtexec, perf_analyzer, genai-perf, "
                                      "pytest-benchmark or asv. Default: by what is in the file.")] = "",
    log: Annotated[Path | None, typer.Option("--log", help="trtexec's log of the run whose --exportTimes or "
                                                           "--exportProfile this is: it names model and GPU.")] = None,
    model: Annotated[str, typer.Option("--model", help="Of another tool's: the model's name.")] = "",
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Of another tool's: the ONNX file that was measured; "
                                                             "gives name and hash.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="Of another tool's: what ran the model.")] = "",
    precision: Annotated[str, typer.Option("--precision", help="Of another tool's: fp32, fp16, int8...")] = "",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of another tool's: threads.")] = None,
    shapes: Annotated[list[str] | None, typer.Option(
        "--shapes", metavar="NAME:DIMS", help="Of another tool's: an input's shape, as x:8x3x224x224. May be "
                                              "repeated.")] = None,
    date: Annotated[str, typer.Option("--date", help="Of another tool's: when it was measured (ISO 8601; without a "
                                                     "zone UTC), or `file`: when the file was last changed.")] = "",
    here: Annotated[bool, typer.Option("--here", help="Of another tool's: measured on this machine.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the records into this file, too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check, and store nothing.")] = False,
) -> None:
    """Keep measurements: whet's own records, or what trtexec, perf_analyzer, pytest-benchmark and asv write.

    The store is a file of yours, or a PostgreSQL database by URL (--store, or $WHET_STORE). A record that is there
    already is not stored twice. Files are stored one after the other, each whole or not at all; what the store does not
    take is kept in a file, and the message says where.

    Examples: whet bench model.onnx --json out.json && whet record out.json

    whet record times.json --log trtexec.log --store postgresql://me@db/measurements

    whet record perf.csv --model resnet50 --date file

    whet record .asv/results
    """
    from whet.cli.files import check_output
    from whet.cli.shapes import parse_shapes
    from whet.store.imports import Given, expand

    if onnx is not None and model:
        raise InputError("--model and --onnx name two models", do="give one of them")
    if json is not None:
        check_output(json, "the records")
    name, sha256 = _identity(onnx) if onnx is not None else (model, "")
    given = Given(model=name, sha256=sha256, backend=backend, precision=precision, threads=threads,
                  shapes=parse_shapes(shapes or ()), date=date, here=here)
    named = [str(p) for file in _named(files) for p in ([file] if file == STDIN else expand(Path(file)))]
    read = (_read(file, given, kind, log) for file in named)
    if dry_run:
        _report(_checked(read, len(named), json), "could be stored")
    else:
        _keep(read, len(named), store, json)


def _named(files: list[str] | None) -> list[str]:
    if files:
        return files
    if sys.stdin.isatty():
        raise InputError("no measurements", why="no file is named, and stdin is a terminal",
                         do="whet record out.json, or some command | whet record -")
    return [STDIN]


def _read(file: str, given: Given, kind: str, log: Path | None) -> Imported:
    from whet.store.imports import convert, load, read
    from whet.store.imports.common import MOST_BYTES

    if file != STDIN:
        return load(Path(file), given, kind, log)
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError("too much on stdin", why=f"over {MOST_BYTES >> 20} MiB", do="split it")
    if given.date == "file":
        raise InputError("--date file of stdin", why="it is no file", do="name the date")
    return convert(data, "stdin", given, kind, read(log) if log is not None else None)


def _identity(onnx: Path) -> tuple[str, str]:
    """The name and hash of a model."""
    from whet.frontends import load_model, model_hash

    load_model(onnx)  # a file that is no model is refused here, in plain words
    return onnx.stem, model_hash(onnx)


def _checked(read: Iterable[Imported], files: int, json: Path | None) -> Counts:
    """Read everything, and store nothing."""
    from whet.cli.progress import build_progress

    counts, kept = Counts(), []
    with build_progress() as progress:
        for i, each in enumerate(read):
            progress("reading", i + 1, files)
            counts.notes.extend(each.notes)
            counts.new += len(each.records)
            counts.results += len(each.results)
            kept += each.records if json is not None else []
    _write(kept, json)
    return counts


def _keep(read: Iterator[Imported], files: int, place: str, json: Path | None) -> None:
    """Store file by file: what they hold together may be more than memory does."""
    from whet.cli.progress import build_progress
    from whet.store import Store
    from whet.store.spool import keep

    counts, kept, where = Counts(), [], ""
    pending = next(read)  # before there is a store: a first file that is none makes no store
    every = chain([pending], read)
    try:
        with build_progress() as progress, Store(place or None) as store:
            where = store.place
            for i, pending in enumerate(every):
                told = _bar(progress, f"recording file {i + 1} of {files}", len(pending.records))
                told(0)
                added = store.add(pending.records, progress=told)
                for result in pending.results:
                    store.keep(result.kind, result.body, model=result.model, at=result.at)
                counts.results += len(pending.results)
                counts.notes.extend(pending.notes)
                counts.new, counts.known = counts.new + added.new, counts.known + added.known
                kept += pending.records if json is not None else []
    except StoreError as e:
        if pending.results:
            raise  # they are in their file, and nowhere else they need to be
        raise keep(pending.records, e) from e
    except InputError:
        if counts.new or counts.results:
            _report(counts, f"recorded in {where} before this; what is there is not stored twice")
        raise
    _write(kept, json)
    _report(counts, f"recorded in {where}")


def _bar(progress: Callable[[str, int, int], None], what: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(what, done, total)


def _write(records: list[Measurement], json: Path | None) -> None:
    if json is not None:
        from whet.cli.files import write_bytes
        from whet.measure.record import encode

        write_bytes(json, encode(records))


def _report(counts: Counts, what: str) -> None:
    out = Console(highlight=False)
    for note in counts.notes[:NOTES]:
        out.print(note, markup=False, soft_wrap=True)
    if len(counts.notes) > NOTES:
        out.print(f"... and so in {len(counts.notes) - NOTES} more files")
    known = f" ({counts.known} were there already)" if counts.known else ""
    found = f"{counts.new} measurement{'s' * (counts.new != 1)}"
    if counts.results:
        others = f"{counts.results} result{'s' * (counts.results != 1)}"
        found = f"{found} and {others}" if counts.new or counts.known else others
    out.print(f"{found} {what}{known}", markup=False, soft_wrap=True)
