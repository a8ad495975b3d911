"""`whet record`: measurements into the store."""

from __future__ import annotations

import sys
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


def command(
    files: Annotated[list[str] | None, typer.Argument(
        metavar="FILE...", help="Measurements: whet bench --json, or another tool's output; a folder of asv's results; "
                                "- is stdin.", show_default=False)] = None,
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
    already is not stored twice. Either all files can be read, or nothing is stored. What the store does not take is
    kept in a file, and the message says where.

    Examples: whet bench model.onnx --json out.json && whet record out.json

    whet record times.json --log trtexec.log --store postgresql://me@db/measurements

    whet record perf.csv --model resnet50 --date file

    whet record .asv/results
    """
    from whet.cli.files import check_output, write_bytes
    from whet.cli.shapes import parse_shapes
    from whet.measure.record import encode
    from whet.store.imports import Given

    if onnx is not None and model:
        raise InputError("--model and --onnx name two models", do="give one of them")
    if json is not None:
        check_output(json, "the records")
    name, sha256 = _identity(onnx) if onnx is not None else (model, "")
    given = Given(name, sha256, backend, precision, threads, parse_shapes(shapes or ()), date, here)
    found = [_read(file, given, kind, log) for file in _named(files)]
    records = [r for each in found for r in each.records]
    out = Console(highlight=False)
    for each in found:
        for note in each.notes:
            out.print(note, markup=False, soft_wrap=True)
    if json is not None:
        write_bytes(json, encode(records))
    if dry_run:
        out.print(f"{_count(len(records))} could be stored.")
        return
    _store(records, store, out)


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


def _store(records: list[Measurement], place: str, out: Console) -> None:
    from whet.cli.progress import build_progress
    from whet.store import Store
    from whet.store.spool import keep

    try:
        with Store(place or None) as store, build_progress() as progress:
            added = store.add(records, progress=lambda done: progress("recording", done, len(records)))
            where = store.place
    except StoreError as e:
        raise keep(records, e) from e
    known = f" ({added.known} were there already)" if added.known else ""
    out.print(f"{_count(added.new)} recorded in {where}{known}", markup=False, soft_wrap=True)


def _count(n: int) -> str:
    return f"{n} measurement{'s' * (n != 1)}"
