"""`whet history`: what the measurement store holds, as a list of series, or one of them over time."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli import options
from whet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from whet.report.history import Line
    from whet.store import Filters, Series, Store

STDOUT = "-"
MOST_DRAWN = 100  # series on a page
Option = typer.Option


@dataclass(frozen=True)
class Outputs:
    """Files to write; empty where none is wanted, `-` for stdout."""

    json: str = ""
    csv: str = ""
    markdown: str = ""
    html: str = ""
    parquet: str = ""
    records: str = ""


@dataclass(frozen=True)
class Group:
    """A series, or several that are taken for one: as it is shown, and the numbers of all of them."""

    series: Series
    ids: tuple[int, ...]


def command(
    series: Annotated[list[int] | None, typer.Argument(
        metavar="SERIES...", help="Numbers of series, as the list gives them.", show_default=False)] = None,
    store: options.StorePlace = "",
    model: Annotated[str, Option("--model", help="The model's name; may have * and ?, as other names here.")] = "",
    sha: Annotated[str, Option("--sha", help="The beginning of the model's SHA-256.")] = "",
    backend: Annotated[str, Option("--backend", help="whet, onnxruntime, tensorrt...")] = "",
    precision: Annotated[str, Option("--precision", help="fp32, bf16, int8...")] = "",
    threads: Annotated[int | None, Option("--threads", min=1)] = None,
    shapes: Annotated[str, Option("--shapes", help="As in the list: x:8x3x224x224.")] = "",
    batch: Annotated[int | None, Option("--batch", help="The first dimension of the first input.")] = None,
    device: Annotated[str, Option("--device", help="The beginning of the machine's fingerprint (whet doctor).")] = "",
    load: Annotated[str, Option("--load", help="As in the list: 'open-loop 1 at 30/s'.")] = "",
    source: Annotated[str, Option("--source", help="Part of the other tool's name, benchmark or parameters.")] = "",
    metric: Annotated[str, Option("--metric", help="latency.p50, latency.p99, throughput, accuracy.top1...")] = "",
    since: Annotated[str, Option("--since", help="From this date on (ISO 8601).")] = "",
    until: Annotated[str, Option("--until", help="Before this date.")] = "",
    across: Annotated[bool, Option("--across-models", help="Take series for one that differ in the model's hash alone: "
                                                           "a model that was trained anew.")] = False,
    last: Annotated[int, Option("--last", min=1, help="Rows of the table that are shown.")] = 20,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write all points as JSON; - is stdout.")] = "",
    csv: Annotated[str, Option("--csv", metavar="FILE", help="Write all points as CSV; - is stdout.")] = "",
    markdown: Annotated[str, Option("--md", metavar="FILE", help="Write tables as Markdown; - is stdout.")] = "",
    html: Annotated[str, Option("--html", metavar="FILE", help="Write a page with charts.")] = "",
    parquet: Annotated[str, Option("--parquet", metavar="FILE", help="Write all points as Parquet "
                                                                     "(pip install 'whet[parquet]').")] = "",
    records: Annotated[str, Option("--records", metavar="FILE", help="Write the whole records, for other commands; - "
                                                                     "is stdout.")] = "",
    results: Annotated[str, Option("--results", metavar="FILE", help="Write what is kept beside measurements, as whet "
                                   "record reads it: gates, failures, forecasts, comparisons, returns (of --model, "
                                   "--since, --until); - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="Language of --html and --md: en or zh.")] = "en",
) -> None:
    """List what was measured, or show one metric of one setting over time.

    A series is one metric of one model (by name and hash), backend, precision, shapes, threads, machine and load. If
    exactly one fits, it is shown with a sparkline, its values and intervals; else the list of those that fit.

    Examples: whet history

    whet history --model resnet50 --metric latency.p50 --precision bf16

    whet history 12 --html history.html --csv history.csv

    whet history --model 'resnet*' --since 2026-01-01 --records measured.json
    """
    from whet.report.history import label
    from whet.store import Filters, Store

    label("date", lang)  # a language that is not there is told before anything is read
    wanted = Filters(model=model, sha256=sha, backend=backend, precision=precision, threads=threads, shapes=shapes,
                     batch=batch, device=device, load=load, source=source, metric=metric,
                     since=_date(since, "--since"), until=_date(until, "--until"))
    outputs = Outputs(json, csv, markdown, html, parquet, records)
    _check(outputs)
    if results:
        if any(asdict(outputs).values()) or series or wanted != Filters(model=model, since=wanted.since,
                                                                        until=wanted.until):
            raise InputError("--results beside what is for series", do="with it go --store, --model, --since, --until")
        _results(store, wanted, results)
        return
    with Store(store or None, create=False) as opened:
        found = opened.series(wanted)
        if series:
            known = {s.id: s for s in found}
            if missing := [i for i in series if i not in known]:
                raise InputError(f"no series {missing[0]}", where=opened.place,
                                 why="it is not among those that the options let through", do="whet history lists them")
            found = [known[i] for i in dict.fromkeys(series)]
        if not found:
            raise InputError("nothing that was measured fits", where=opened.place,
                             why="the options let no series through", do="whet history, without options, lists all")
        groups = _across(found) if across else [Group(s, (s.id,)) for s in found]
        _write(opened, groups, wanted, outputs, lang)
        if STDOUT not in asdict(outputs).values():
            _show(opened, groups, wanted, last)


def _results(place: str, wanted: Filters, file: str) -> None:
    """Write the results that are no measurements."""
    from whet.cli.files import check_output
    from whet.store import Store
    from whet.store.results import encode

    if file != STDOUT:
        check_output(Path(file), "the results")
    with Store(place or None, create=False) as store:
        found = store.kept(model=wanted.model, since=wanted.since, until=wanted.until)
    _put(file, encode(found))
    if file != STDOUT:
        Console(highlight=False).print(f"{len(found)} result{'s' * (len(found) != 1)} in {file}", markup=False,
                                       soft_wrap=True)


def _across(found: Sequence[Series]) -> list[Group]:
    """Series that differ in the model's hash alone, together: the last of them tells machine and value."""
    alike: dict[tuple[object, ...], list[Series]] = {}
    for s in found:
        alike.setdefault((replace(s.setting, sha256=""), s.metric, s.unit), []).append(s)
    out = []
    for group in alike.values():
        newest = max(group, key=lambda s: s.last)
        kept = newest.setting if len(group) == 1 else replace(newest.setting, sha256="")
        out.append(Group(replace(newest, setting=kept, count=sum(s.count for s in group),
                                 first=min(s.first for s in group)), tuple(s.id for s in group)))
    return out


def _date(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as e:
        raise InputError(f"{option} {text}", why=str(e), do="dates are ISO 8601, as 2026-01-31") from e


def _check(outputs: Outputs) -> None:
    from whet.cli.files import check_output

    named = [f for f in asdict(outputs).values() if f]
    if named.count(STDOUT) > 1 or STDOUT in (outputs.html, outputs.parquet):
        raise InputError("one output may go to stdout, and not a page or Parquet", do="name files")
    for file in named:
        if file != STDOUT:
            check_output(Path(file), "the history")
    if outputs.parquet:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as e:
            raise MissingExtraError.for_package("pyarrow", "parquet", "--parquet") from e


def _write(store: Store, found: Sequence[Group], wanted: Filters, outputs: Outputs, lang: str) -> None:
    from whet.cli.progress import build_progress
    from whet.measure.record import encode
    from whet.report import history, spreadsheet

    if not any(asdict(outputs).values()):
        return
    with build_progress() as progress:
        def lines(what: str) -> Iterator[Line]:
            for i, group in enumerate(found):
                progress(what, i, len(found))
                yield _line(store, group, wanted)

        if outputs.csv:
            with _opened(outputs.csv) as f:
                for text in spreadsheet.lines(history.COLUMNS, history.flat(lines("writing CSV"))):
                    f.write(text)
        if outputs.parquet:
            with _opened(outputs.parquet) as f:
                _parquet(lines("writing Parquet"), f)
        if outputs.json:
            document = history.document(list(lines("writing JSON")), store.place)
            _put(outputs.json, json_module.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
        if outputs.html or outputs.markdown:
            if len(found) > MOST_DRAWN:
                raise InputError(f"{len(found)} series on one page", why=f"at most {MOST_DRAWN} are drawn",
                                 do="choose among them, say with --metric and --model; --csv takes all")
            drawn = list(lines("drawing"))
            for file, make in ((outputs.html, history.page), (outputs.markdown, history.markdown)):
                if file:
                    _put(file, make(drawn, store.place, lang).encode())
        if outputs.records:
            ids = [i for group in found for i in group.ids]
            _put(outputs.records, encode(list(store.records(wanted, series=ids))))


def _line(store: Store, group: Group, wanted: Filters) -> Line:
    from whet.report.history import Dot, Line

    s = group.series
    dots = [Dot(p.at, p.value, p.low, p.high, p.plan, p.version, p.record) for p in store.history(group.ids, wanted)]
    return Line(s.id, s.setting, s.device_name, s.metric, s.unit, dots)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    from whet.plan.writer import atomic

    if file == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with atomic(file, "the history") as f:
            yield f


def _put(file: str, data: bytes) -> None:
    with _opened(file) as f:
        f.write(data)


def _parquet(lines: Iterator[Line], f: BinaryIO) -> None:
    """A row group for each series."""
    import pyarrow as pa
    from pyarrow import parquet

    from whet.report.history import COLUMNS, flat

    kinds: dict[str, Callable[[], pa.DataType]] = dict.fromkeys(("series", "threads", "batch", "record"), pa.int64)
    kinds |= dict.fromkeys(("value", "low", "high"), pa.float64)
    schema = pa.schema([(name, pa.timestamp("us", "UTC") if name == "date" else kinds.get(name, pa.string)())
                        for name in COLUMNS])
    with parquet.ParquetWriter(f, schema) as writer:
        for line in lines:
            rows = [dict(zip(COLUMNS, row)) for row in flat([line])]
            for row, dot in zip(rows, line.dots):
                row["date"] = dot.at
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _show(store: Store, found: Sequence[Group], wanted: Filters, last: int) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if len(found) == 1:
        _show_one(store, found[0], wanted, last, out)
        return
    from whet.report.history import amount, setting

    table = Table("series", "model", "setting", "machine", "metric", "points", "last", "value", box=None,
                  padding=(0, 2, 0, 0), header_style="bold")
    for s in (group.series for group in found):
        name = s.setting.model + (f" {s.setting.sha256[:8]}" if s.setting.sha256 else "")
        table.add_row(str(s.id), escape(name), escape(setting(s.setting)), escape(s.device_name[:40]),
                      escape(s.metric), str(s.count), f"{s.last:%Y-%m-%d}", escape(amount(s.value, s.unit)))
    out.print(table)
    out.print(f"{len(found)} series in {escape(store.place)}; whet history NUMBER shows one.", soft_wrap=True)


def _show_one(store: Store, group: Group, wanted: Filters, last: int, out: Console) -> None:
    from whet.report.history import amount, changes, interval, setting
    from whet.report.history_chart import sparkline

    line, unit = _line(store, group, wanted), group.series.unit
    out.print(f"[bold]{escape(line.title)}[/]  {escape(setting(line.setting))}; {escape(line.device_name)}",
              soft_wrap=True)
    out.print(sparkline([d.value for d in line.dots]))
    table = Table("date", "value", "interval", "change", "plan", "version", box=None, padding=(0, 2, 0, 0),
                  header_style="bold")
    for d, change in list(zip(line.dots, changes(line.dots)))[-last:]:
        table.add_row(f"{d.at:%Y-%m-%d %H:%M}", escape(amount(d.value, unit)),
                      escape(interval(d.low, d.high, unit)) or "-", change or "-", escape(d.plan[:12]) or "-",
                      escape(d.version[:40]) or "-")
    out.print(table)
    if len(line.dots) > last:
        out.print(f"The last {last} of {len(line.dots)} points (--last, or --csv and --json for all).")
