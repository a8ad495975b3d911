"""`whet roi`: is the change worth it?"""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from whet.cli import keeping, options
from whet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whet.decide.result import Finding, Result
    from whet.decide.scenario import Source
    from whet.measure.record import Measurement

COLOURS = {"pays": "bold green", "does not pay": "bold red", "undecided": "bold yellow", "compared": "bold",
           "error": "bold red", "warning": "yellow", "note": "cyan"}
FILES = ("roi.html", "roi.md", "roi.json", "roi.csv")


def command(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario: YAML, JSON or TOML (docs/roi.md). With --lint "
                                                         "also any text; with --energy a model or plan.",
                                                    show_default=False)] = None,
    before: Annotated[Path | None, Option("--before", help="Without a scenario: the records (whet bench --json) of "
                                                           "what runs today.")] = None,
    after: Annotated[Path | None, Option("--after", help="... and of what would run.")] = None,
    rate: Annotated[float | None, Option("--rate", help="Requests per second at the busy hour.")] = None,
    p99: Annotated[float | None, Option("--p99", help="The objective: P99 in milliseconds.")] = None,
    price: Annotated[float | None, Option("--price", help="Price of a machine per hour, for all options.")] = None,
    instance: Annotated[str, Option("--instance", help="The machine of all options, by the table of prices: "
                                                       "PROVIDER/REGION/INSTANCE.")] = "",
    labour: Annotated[float | None, Option("--labour", help="What the change costs in work, once.")] = None,
    horizon: Annotated[int | None, Option("--horizon", help="Months over which the return counts.")] = None,
    growth: Annotated[float | None, Option("--growth", help="Growth of the load in percent per month.")] = None,
    discount: Annotated[float | None, Option("--discount", help="Discount rate in percent per year.")] = None,
    change: Annotated[list[str] | None, Option("--set", metavar="FIELD=VALUE", help="Any field of the scenario: "
                                               "--set options[0].price_per_hour=0.5. May be repeated.")] = None,
    prices: Annotated[Path | None, Option("--prices", help="Your own prices; they come before the table's.")] = None,
    stale_days: Annotated[int, Option("--stale-days", min=0, help="Prices of the table that are older are warned "
                                                                  "of.")] = 90,
    gains: Annotated[bool, Option("--gains", help="Show the return with the business gains of the scenario, "
                                                  "beside the one without.")] = False,
    draws: Annotated[int, Option("--draws", help="Worlds that are drawn from the stated uncertainty.")] = 10_000,
    seed: Annotated[int, Option("--seed", min=0, help="Of the draws and the simulated queues.")] = 0,
    output: Annotated[Path | None, Option("-o", "--output", help="A folder for roi.html, roi.md, roi.json and "
                                                                 "roi.csv.")] = None,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="Language of what people read: en or zh.")] = "en",
    lint: Annotated[bool, Option("--lint", help="Only check the claims: of a scenario, or of any text. Exit code 1: "
                                                "one does not follow.")] = False,
    energy: Annotated[bool, Option("--energy", help="Measure the energy of one inference of a model or plan on this "
                                                    "machine.")] = False,
    list_prices: Annotated[bool, Option("--list-prices", help="Show the table of prices.")] = False,
    keep: keeping.Keep = False,
    store: options.StorePlace = "",
) -> None:
    """Say what a change returns: fleets under the P99 objective, cost, payback, NPV, and how sure that is.

    Exit codes: 0 it pays, 1 it does not, 2 figures are missing or impossible, 3 undecided (too little is known).

    Examples: whet roi scenario.yaml -o report

    whet roi --before old.json --after new.json --rate 400 --p99 50 --instance aws/us-east-1/g5.xlarge --labour 8000

    whet roi --lint pull-request.md
    """
    from whet.decide.words import check

    check(lang)
    if list_prices:
        raise typer.Exit(_list_prices(prices))
    if energy:
        raise typer.Exit(_energy(scenario))
    named = {"load.rate": rate, "objective.p99_ms": p99, "labour.cost": labour, "horizon_months": horizon,
             "load.growth_percent_per_month": growth, "discount_percent_per_year": discount}
    changes = {field: value for field, value in named.items() if value is not None} | _changes(change or ())
    if lint:
        raise typer.Exit(_lint(scenario, changes, json, lang))
    source = _source(scenario, before, after, changes, price, instance)
    raise typer.Exit(_run(source, prices, stale_days, gains, draws, seed, output, json, lang, (keep, store)))


def _changes(texts: Sequence[str]) -> dict[str, Any]:
    out = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text} has no value", do="write --set load.rate=400")
        try:
            out[field] = jsonlib.loads(value)
        except jsonlib.JSONDecodeError:
            out[field] = value
    return out


def _source(path: Path | None, before: Path | None, after: Path | None, changes: dict[str, Any], price: float | None,
            instance: str) -> Source:
    from whet import data_file
    from whet.decide import scenario

    if price is not None and instance:
        raise InputError("--price and --instance exclude each other", do="give one of them")
    machine: dict[str, Any] = {"price_per_hour": price} if price is not None else {"instance": instance} \
        if instance else {}
    if path is not None:
        if before is not None or after is not None:
            raise InputError("a scenario has its options in it", why="--before and --after stand for a scenario",
                             do="leave them out")
        document = data_file.load(path)
        options = document.data.get("options") if isinstance(document.data, dict) else None
        for o in options if isinstance(options, list) and machine else ():
            if isinstance(o, dict):
                for field in ("price_per_hour", "instance"):
                    o.pop(field, None)
                o.update(machine)
        return scenario.build(document.data, str(path), document.lines, path.parent, changes)
    if before is None or after is None:
        raise InputError("nothing to decide on", do="name a scenario, or --before and --after; see whet roi --help")
    title = {"title": f"{before.stem} or {after.stem}"} if before.stem != after.stem else {}
    data = {**title, "before": "before", "after": "after", "options": [
        {"name": "before", "measurements": str(before), **machine},
        {"name": "after", "measurements": str(after), **machine}]}
    return scenario.build(data, "the command line", changes=changes)


def _records(name: str, folder: Path, select: Mapping[str, str]) -> list[Measurement]:
    """Records of a file, or of a store (`store:` and its place)."""
    from whet.decide.speed import from_file

    if not name.startswith("store:"):
        return from_file(name, folder, select)
    from whet.store import Filters, Store

    place = name.removeprefix("store:")
    here = folder / place if place and "://" not in place else place
    with Store(here or None, create=False) as store:
        return list(store.records(Filters(
            model=select.get("model", ""), backend=select.get("backend", ""), precision=select.get("precision", ""),
            sha256=select.get("sha256", ""))))


def _run(source: Source, prices: Path | None, stale_days: int, gains: bool, draws: int, seed: int,
         output: Path | None, json: str, lang: str, kept: tuple[bool, str]) -> int:
    from whet.cli.files import check_output, write_bytes
    from whet.cli.progress import build_progress
    from whet.decide.roi import Settings, evaluate
    from whet.report import roi as report
    from whet.report.files import write_files

    if json and json != "-":
        check_output(Path(json), "the result")
    with build_progress() as progress:
        found = evaluate(source, Settings(draws=draws, seed=seed, prices=prices, stale_days=stale_days, gains=gains,
                                          load=_records, progress=progress))
    if output is not None:
        made = (report.html(found, lang).encode(), report.markdown(found, lang).encode(), found.encode(),
                report.table(found))
        write_files(dict(zip(FILES, made)), output)
    if kept[0]:
        keeping.keep("roi", found.encode(), "", kept[1])
    if json == "-":
        print(found.encode().decode(), end="")
    else:
        if json:
            write_bytes(Path(json), found.encode())
        show(found, lang)
        if output is not None:
            _console().print(f"\n{escape(str(output / FILES[0]))}", soft_wrap=True)
    return found.exit_code


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def show(r: Result, lang: str) -> None:
    """Print the result: verdict, figures, options, warnings, answers."""
    from whet.report import roi as report
    from whet.report.roi_words import label

    out = _console()
    out.print(f"[bold]{escape(r.title)}[/]\n{escape(report.load_line(r, lang))}\n", soft_wrap=True)
    out.print(f"[{COLOURS[r.verdict]}]{escape(label(r.verdict, lang).capitalize())}[/]")
    for say in r.reasons:
        out.print(escape(say.text(lang)), soft_wrap=True)
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value, note in report.tiles(r, lang):
        facts.add_row(escape(name), f"[bold]{escape(value)}[/]", f"[dim]{escape(note)}[/]")
    if facts.rows:
        out.print(facts)
    if r.stated is not None:
        out.print(f"[dim]{escape(report.stated_line(r, lang))}[/]", soft_wrap=True)
    out.print()
    _table(out, *report.options_table(r, lang), words=(0, 6))
    _findings(out, r.findings, lang)
    for a in r.answers:
        question, says = report.answer_lines(a, lang)
        state = label(a.state, lang) + (f": {a.choice}" if a.choice else "")
        out.print(f"\n[bold]{escape(question)}[/] {escape(state)}")
        out.print(escape(" ".join(says)), soft_wrap=True)
        if len(a.rows) > 1:
            _table(out, *report.answer_table(a, r, lang), words=(0,))
    if r.gains is not None:
        out.print(f"\n[bold]{escape(label('Gains that somebody estimates', lang))}[/]")
        out.print(escape(report.gains_line(r, lang)), soft_wrap=True)


def _table(out: Console, head: Sequence[str], body: Sequence[Sequence[str]], words: Sequence[int]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(head):
        table.add_column(escape(name), justify="left" if i in words else "right")
    for row in body:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def _findings(out: Console, found: Sequence[Finding], lang: str) -> None:
    for f in found:
        where = f" [dim]{escape(f.where)}[/]" if f.where else ""
        out.print(f"\n[{COLOURS[f.severity]}]{f.severity} {f.code}[/]{where}", soft_wrap=True)
        out.print(f"  {escape(f.say.text(lang))}", soft_wrap=True)


def _lint(path: Path | None, changes: dict[str, Any], json: str, lang: str) -> int:
    import msgspec

    from whet.cli.files import write_bytes
    from whet.decide import claims, scenario
    from whet.decide.speed import speed

    if path is None:
        raise InputError("nothing to check", do="whet roi --lint FILE")
    if path.suffix.lower() in (".yaml", ".yml", ".json", ".toml"):
        source = scenario.read(path, changes)
        speeds = [speed(source, i, _records) if o.measurements else None for i, o in enumerate(source.scenario.options)]
        found = claims.lint(source, speeds)
    else:
        try:
            found = claims.lint_text(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as e:
            raise InputError("the text cannot be read", where=str(path), why=str(e), do="check the path; it must be "
                             "UTF-8") from e
    if json:
        rows = [{"code": f.code, "severity": f.severity, "title": claims.CODES[f.code], "where": f.where,
                 "what": f.say.text(lang), "values": f.say.values} for f in found]
        text = msgspec.json.format(msgspec.json.encode({"schema": 1, "findings": rows}), indent=1) + b"\n"
        if json == "-":
            print(text.decode(), end="")
        else:
            write_bytes(Path(json), text)
    if json != "-":
        out = _console()
        _findings(out, found, lang)
        out.print(f"{len(found)} findings" if found else "nothing to say")
    return 1 if any(f.severity != "note" for f in found) else 0


def _list_prices(own: Path | None) -> int:
    import datetime

    from whet.decide import prices

    today = datetime.date.today()
    rows = [[p.key, f"{p.price_per_hour:g} {p.currency}", p.as_of.isoformat(),
             f"{p.days(today)} days{', stale' if p.stale(today) else ''}",
             f"{p.gpus} x {p.gpu}, {p.gpu_memory_gib:g} GiB" if p.gpu else f"{p.cpus} CPUs", p.url]
            for p in prices.table(own).rows.values()]
    _table(_console(), ("instance", "an hour", "as of", "", "", "source"), rows, words=(0, 2, 3, 4, 5))
    return 0


def _energy(path: Path | None) -> int:
    import datetime

    import whet
    from whet.cli import bench
    from whet.cli.files import is_onnx
    from whet.cli.progress import build_progress
    from whet.decide import energy
    from whet.plan import Plan

    if path is None:
        raise InputError("nothing to measure", do="whet roi --energy model.plan")
    meter = energy.Meter()
    with build_progress() as progress:
        plan = whet.build(path, progress=progress) if is_onnx(path) else Plan.open(path)
        progress("measuring energy", 0, 0)
        feeds = bench.input_arrays(plan, bench.Options(path))
        first = next(iter(feeds.values()))
        with whet.load(plan) as engine, engine.context() as context:
            joules, used = energy.per_inference(meter, lambda: context.run(feeds), first.shape[0] if first.ndim else 1)
    _console().print(f"# {used.joules / used.seconds:.1f} W over {used.seconds:.1f} s, the idle machine included\n"
                     f"energy: {{joules_per_inference: {joules:.6g}, source: \"{used.source}\", "
                     f"date: {datetime.date.today()}}}", markup=False, soft_wrap=True)
    return 0
