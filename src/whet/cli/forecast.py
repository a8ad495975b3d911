"""`whet forecast`: when a milestone is reached, and whether models are ready, as probabilities."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli import options
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.cli.forecast_inputs import Joining, Line
    from whet.decide.forecast.outlook import Asked, History
    from whet.decide.forecast.result import Forecast, Milestone, Readiness
    from whet.store import Filters

STDOUT = "-"
Option = typer.Option
_MILESTONE, _READY, _WHICH, _OUT = "Milestones", "Readiness", "Which measurements", "Output"


@dataclass(frozen=True)
class Source:
    """Where measurements come from: files, or the store."""

    files: tuple[Path, ...]
    store: str
    filters: Filters
    joining: Joining
    column: str


def command(
    files: Annotated[list[Path] | None, typer.Argument(
        metavar="FILES...", help="Measurements (whet bench --json), or one CSV file of date,value. Default: the store.",
        show_default=False)] = None,
    target: Annotated[list[str] | None, Option(
        "--target", help="What is to be reached: p99=20ms, throughput=1500, memory=1GiB, top1=76%. May be repeated.",
        rich_help_panel=_MILESTONE)] = None,
    by: Annotated[list[str] | None, Option("--by", metavar="DATE", help="P(reached by the end of that day). May be "
                                           "repeated.", rich_help_panel=_MILESTONE)] = None,
    within: Annotated[list[int] | None, Option("--within", metavar="N", help="P(reached within N further effective "
                                               "optimizations). May be repeated.", rich_help_panel=_MILESTONE)] = None,
    gain: Annotated[list[float] | None, Option("--gain", help="Without measurements: what an effective optimization "
                                               "brought, in points. Once for each.",
                                               rich_help_panel=_MILESTONE)] = None,
    remaining: Annotated[float | None, Option("--remaining", help="With --gain: the points that remain.",
                                              rich_help_panel=_MILESTONE)] = None,
    whole: Annotated[float, Option("--of", help="With --gain: the points of the whole way.",
                                   rich_help_panel=_MILESTONE)] = 100.0,
    steps: Annotated[str, Option("--steps", help="What counts as an effective optimization: changes (of the level, by "
                                 "change-point detection) or each (every new best: for a list of records).",
                                 rich_help_panel=_MILESTONE)] = "changes",
    scale: Annotated[str, Option("--scale", help="Of progress and gains: log or linear.",
                                 rich_help_panel=_MILESTONE)] = "log",
    limit: Annotated[str, Option("--limit", help="The hardware's limit, as 1.2ms, instead of the records' roofline.",
                                 rich_help_panel=_MILESTONE)] = "",
    better: Annotated[str, Option("--better", help="lower or higher, of a metric that whet does not know.",
                                  rich_help_panel=_MILESTONE)] = "",
    ready: Annotated[list[str] | None, Option("--ready", help="What a model must keep to be ready: p99=50ms, loss=0.5 "
                                              "(points of accuracy)... May be repeated.",
                                              rich_help_panel=_READY)] = None,
    share: Annotated[float, Option("--share", help="Percent of the models, more than which must be ready.",
                                   rich_help_panel=_READY)] = 80.0,
    ready_count: Annotated[str, Option("--ready-count", metavar="K/N", help="Without measurements: so many of so many "
                                       "models are ready.", rich_help_panel=_READY)] = "",
    sure: Annotated[float, Option("--sure", help="The probability from which on something is held; up to 1 - it, it "
                                                 "is not.")] = 0.8,
    today: Annotated[str, Option("--today", metavar="DATE", help="Forecast as of this day; later measurements are left "
                                                                 "out.")] = "",
    model: Annotated[str, Option("--model", help="The model's name; may have * and ?.", rich_help_panel=_WHICH)] = "",
    sha: Annotated[str, Option("--sha", help="The beginning of the model's SHA-256.", rich_help_panel=_WHICH)] = "",
    backend: Annotated[str, Option("--backend", help="whet, onnxruntime...", rich_help_panel=_WHICH)] = "",
    precision: Annotated[str, Option("--precision", help="fp32, bf16...", rich_help_panel=_WHICH)] = "",
    threads: Annotated[int | None, Option("--threads", min=1, rich_help_panel=_WHICH)] = None,
    shapes: Annotated[str, Option("--shapes", help="As x:8x3x224x224.", rich_help_panel=_WHICH)] = "",
    batch: Annotated[int | None, Option("--batch", help="The first dimension of the first input.",
                                        rich_help_panel=_WHICH)] = None,
    device: Annotated[str, Option("--device", help="The beginning of the machine's fingerprint.",
                                  rich_help_panel=_WHICH)] = "",
    load: Annotated[str, Option("--load", help="As whet history lists it: 'open-loop 1 at 30/s'.",
                                rich_help_panel=_WHICH)] = "",
    origin: Annotated[str, Option("--source", help="Part of the other tool's name, benchmark or parameters.",
                                  rich_help_panel=_WHICH)] = "",
    since: Annotated[str, Option("--since", metavar="DATE", help="From this date on.", rich_help_panel=_WHICH)] = "",
    across: Annotated[bool, Option("--across-models", help="Take settings for one that differ in the model's hash "
                                   "alone.", rich_help_panel=_WHICH)] = False,
    mixed: Annotated[bool, Option("--mixed-hardware", help="Take different hardware for one; the result is labelled.",
                                  rich_help_panel=_WHICH)] = False,
    column: Annotated[str, Option("--column", help="Of a CSV file: the column of values.",
                                  rich_help_panel=_WHICH)] = "",
    store: options.StorePlace = "",
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.",
                                rich_help_panel=_OUT)] = "",
    markdown: Annotated[str, Option("--markdown", "--md", metavar="FILE", help="Write a report as Markdown; - is "
                                    "stdout.",
                                    rich_help_panel=_OUT)] = "",
    html: Annotated[str, Option("--html", metavar="FILE", help="Write a page with a fan chart.",
                                rich_help_panel=_OUT)] = "",
    lang: Annotated[str, Option("--lang", help="en or zh.", rich_help_panel=_OUT)] = "en",
) -> None:
    """Forecast milestones, and say whether models are ready: probabilities from measurements.

    Examples: whet forecast --gain 12.15 --gain 13.33 --gain 14.52 --remaining 24

    whet forecast --model resnet50 --target p99=20ms --by 2026-12-31

    whet forecast records.csv --column minutes --steps each --target 1.0 --by 2026-12-31 --html forecast.html

    whet forecast nightly/*.json --ready p99=50ms --ready loss=0.5 --share 80

    Exit code 0: held (each probability that was asked for is 0.8 or more; or none was asked for), 1: not held (one is
    0.2 or less), 2: bad input, 3: undecided (between, or too few effective optimizations to say). A forecast is kept in
    the store that --store names.
    """
    from whet.cli import forecast_targets as texts
    from whet.cli.forecast_inputs import Joining
    from whet.cli.progress import build_progress
    from whet.decide.forecast.outlook import Asked
    from whet.decide.forecast.result import Forecast, encode
    from whet.measure.record import now
    from whet.report.forecast_words import word
    from whet.store.filters import Filters

    word("title", lang)  # a language that is not there is told before anything is read
    outputs = {"json": json, "markdown": markdown, "html": html}
    _check(outputs, steps, scale)
    asked = Asked(by=[texts.day(d, "--by") for d in by or ()], within=tuple(within or ()), today=texts.evening(today),
                  sure=sure, how=steps, scale=scale)  # type: ignore[arg-type]
    filters = Filters(model=model, sha256=sha, backend=backend, precision=precision, threads=threads, shapes=shapes,
                      batch=batch, device=device, load=load, source=origin, since=_midnight(since), until=asked.today)
    source = Source(tuple(files or ()), store, filters, Joining(across, mixed), column)
    if not (gain or target or ready or ready_count):
        raise InputError("nothing to forecast", why="neither a target nor gains nor requirements were given",
                         do="whet forecast --model NAME --target p99=20ms, or see --help")
    with build_progress() as progress:
        progress("forecasting", 0, 0)
        found = Forecast(
            date=now(), sure=sure,
            milestones=_milestones(source, target or [], gain or [], remaining, whole, limit, better, asked),
            readiness=_readiness(source, ready or [], ready_count, texts.percent(share), sure))
    encoded = encode(found)
    _write(outputs, found, encoded, lang)
    if STDOUT not in outputs.values():
        show(found, lang)
    if store:
        _keep(store, found, encoded)
    raise typer.Exit(found.exit_code)


def _check(outputs: dict[str, str], steps: str, scale: str) -> None:
    from whet.cli.files import check_output

    for option, value, known in (("--steps", steps, ("changes", "each")), ("--scale", scale, ("log", "linear"))):
        if value not in known:
            raise InputError(f"{option} {value}", why=f"there are {' and '.join(known)}", do="choose one of them")
    if list(outputs.values()).count(STDOUT) > 1 or outputs["html"] == STDOUT:
        raise InputError("one output may go to stdout, and not a page", do="name files")
    for file in outputs.values():
        if file and file != STDOUT:
            check_output(Path(file), "the forecast")


def _midnight(text: str) -> datetime | None:
    from whet.cli.forecast_targets import day

    return datetime.combine(day(text, "--since"), datetime.min.time(), UTC) if text else None


def _milestones(source: Source, targets: Sequence[str], gains: Sequence[float], remaining: float | None, whole: float,
                limit: str, better: str, asked: Asked) -> tuple[Milestone, ...]:
    from whet.cli import forecast_targets as texts
    from whet.decide.forecast import outlook

    if gains:
        if remaining is None or targets or source.files:
            raise InputError("--gain goes with --remaining, and with neither targets nor files",
                             do="whet forecast --gain 12.15 --gain 13.33 --gain 14.52 --remaining 24")
        return (outlook.typed(gains, remaining, whole, asked),)
    if remaining is not None:
        raise InputError("--remaining goes with --gain", do="give a --gain for each effective optimization so far")
    table = _table(source.files)
    metrics: dict[str, list[float]] = {}
    for text in targets:
        t = texts.target(text, plain=table)
        metrics.setdefault(t.metric, []).append(t.value)
    if limit and len(metrics) > 1:
        raise InputError("--limit with several metrics", why="it is of one", do="forecast one metric at a time")
    out: list[Milestone] = []
    for metric, wanted in metrics.items():
        history = _history(source, metric)
        if asked.today is not None:
            history = _until(history, asked.today)
        stated = texts.target(limit, metric, plain=table).value if limit else history.limit
        way = texts.direction(metric, better, next(iter(history.values), wanted[0]), wanted[0])
        if limit:
            history = replace(history, notes=tuple(n for n in history.notes if n.code != "limit"))
        out += outlook.milestones(replace(history, limit=stated, direction=way), wanted, asked)  # type: ignore[arg-type]
    return tuple(out)


def _table(files: Sequence[Path]) -> bool:
    """Is it one CSV file? Files of two kinds at once are refused."""
    tables = [p for p in files if p.suffix.lower() == ".csv"]
    if tables and len(files) > 1:
        raise InputError(f"{len(files)} files", why="one CSV file is one history", do="give one, or measurements alone")
    return bool(tables)


def _history(source: Source, metric: str) -> History:
    from whet.cli import forecast_inputs as inputs

    if _table(source.files):
        return inputs.read_csv(source.files[0], source.column or metric)
    return inputs.one(_lines(source, metric), metric, source.joining, _where(source))


def _lines(source: Source, metric: str) -> list[Line]:
    from whet.cli import forecast_inputs as inputs
    from whet.store import Store

    if source.files:
        return inputs.of_records(_let_through(source), metric)
    with Store(source.store or None, create=False) as store:
        return inputs.of_store(store, replace(source.filters, metric=metric), source.joining)


def _where(source: Source) -> str:
    return ", ".join(map(str, source.files))[:200] if source.files else source.store or "the store"


def _let_through(source: Source) -> list[Any]:
    """The records of files, oldest first, by the same filters that the store has."""
    from fnmatch import fnmatch

    from whet.cli.forecast_inputs import read_files
    from whet.measure.series import setting, when

    f, out = source.filters, []
    for r in sorted(read_files(source.files), key=when):
        s = setting(r)
        named = all(fnmatch(getattr(s, name).lower(), pattern.lower())
                    for name in ("model", "backend", "precision", "shapes", "load") if (pattern := getattr(f, name)))
        begun = s.sha256.startswith(f.sha256) and s.device.startswith(f.device) and f.source in s.source
        numbers = f.threads in (None, s.threads) and f.batch in (None, s.batch)
        dated = (f.since is None or when(r) >= f.since) and (f.until is None or when(r) < f.until)
        if named and begun and numbers and dated:
            out.append(r)
    return out


def _until(history: History, today: datetime) -> History:
    kept = [(d, v) for d, v in zip(history.dates, history.values) if d <= today]
    if not kept:
        raise InputError(f"nothing was measured by {today:%Y-%m-%d}", where=history.label, do="say another --today")
    return replace(history, dates=[d for d, _ in kept], values=[v for _, v in kept])


def _readiness(source: Source, required: Sequence[str], counted: str, share: float, sure: float) -> Readiness | None:
    from msgspec.structs import replace as put

    from whet.cli import forecast_inputs as inputs
    from whet.cli import forecast_targets as texts
    from whet.decide.forecast import readiness
    from whet.decide.forecast.result import Note, Readiness, Requirement, decided
    from whet.store import Store

    if counted:
        if required:
            raise InputError("--ready-count goes without --ready", do="give one of them")
        rule = readiness.counted(*texts.count(counted), share)
        return Readiness(probability=rule.probability, share=share, policy=rule,
                         state=decided(rule.probability, sure))
    if not required:
        return None
    wanted = [texts.target(t) for t in required]
    if any(t.value <= 0 for t in wanted) or len({t.metric for t in wanted}) < len(wanted):
        raise InputError("a requirement is a positive number, one of each metric", do="write --ready p99=50ms")
    rules = [Requirement(metric=t.metric, limit=t.value, below=not t.metric.startswith(("throughput", "accuracy.")))
             for t in wanted]
    names = [r.metric for r in rules]
    where = _where(source)
    if source.files:
        if _table(source.files):
            raise InputError("readiness is judged by measurements", where=where, do="whet bench --json FILE")
        models = inputs.by_model(_let_through(source), source.filters.backend, names, source.joining, where)
    else:
        with Store(source.store or None, create=False) as store:
            found_records = inputs.recent(store, source.filters, names)
        models = inputs.by_model(found_records, source.filters.backend, names, source.joining, where)
    if not models:
        raise InputError("nothing that was measured fits", where=where, do="whet history lists what there is")
    found = readiness.together([readiness.model(name, records, rules) for name, records in models.items()], share)
    devices = {m.device for m in found.models}
    notes = (*found.notes, *([Note(code="mixed ready")] if len(devices) > 1 else []))
    return put(found, state=decided(found.probability, sure), notes=notes)


def _write(outputs: dict[str, str], found: Forecast, encoded: bytes, lang: str) -> None:
    from whet.cli.files import write_bytes
    from whet.report import forecast as report

    made = {"json": lambda: encoded, "markdown": lambda: report.markdown(found, lang).encode(),
            "html": lambda: report.html(found, lang).encode()}
    for kind, file in outputs.items():
        if file == STDOUT:
            sys.stdout.buffer.write(made[kind]())
            sys.stdout.buffer.flush()
        elif file:
            write_bytes(Path(file), made[kind]())


def _keep(store: str, found: Forecast, encoded: bytes) -> None:
    """Into the store, under the model's name where it is of one."""
    from whet.store.spool import keep_result

    names = {m.model for m in found.milestones}
    names |= {m.model for m in (found.readiness.models if found.readiness else ())}
    keep_result(store, "forecast", json_module.loads(encoded), model=names.pop() if len(names) == 1 else "",
                at=datetime.fromisoformat(found.date))


def show(found: Forecast, lang: str) -> None:
    """For the terminal."""
    from whet.report import forecast as report

    plain = Console(highlight=False)
    out = plain if plain.is_terminal else Console(highlight=False, width=120)
    colours = {"held": "green", "not held": "red", "undecided": "yellow"}
    out.print(escape(report.title(found, lang)), style="bold", soft_wrap=True)
    for state, lines in zip(found.states, report.findings(found, lang)):
        for i, line in enumerate(lines):
            out.print(escape(line), style=colours.get(state, "") if i == 0 else "", soft_wrap=True)
    for name, head, body in report.tables(found, lang):
        table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for i, h in enumerate(head):
            table.add_column(escape(h), justify="right" if i else "left")
        for row in body:
            table.add_row(*(escape(c) or "-" for c in row))
        out.print(table)
    for said in (*report.notes(found, lang), *report.methods(found, lang)):
        out.print(escape(said), style="dim", soft_wrap=True)
