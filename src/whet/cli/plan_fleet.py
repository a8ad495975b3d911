"""`whet plan-fleet`: how many servers keep P99 under an objective."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Exit, Option

from whet.errors import InputError

if TYPE_CHECKING:
    from whet.decide.arrivals import Arrivals
    from whet.decide.fleet_plan import FleetPlan
    from whet.decide.service import Service
    from whet.measure.record import Measurement

GIB = 1 << 30


def command(
    p99: Annotated[float, Option("--p99", metavar="MS", help="The objective: P99 from arrival to answer, in "
                                                             "milliseconds.", show_default=False)],
    rate: Annotated[float | None, Option("--rate", help="Requests per second at the busy hour.")] = None,
    trace: Annotated[Path | None, Option("--trace", help="Requests as they came: a file with a time (seconds or ISO "
                                                         "8601) on each line, or CSV with a column `time`.")] = None,
    burst: Annotated[float | None, Option("--burst", metavar="CV", help="How bursty: the coefficient of variation of "
                                          "the gaps (Gamma); 1 is Poisson, the web has 2 to 4.")] = None,
    growth: Annotated[float, Option("--growth", metavar="PERCENT", help="Size for so much more load.")] = 0.0,
    records: Annotated[list[str] | None, Option("--records", metavar="FILE", help="Service times from measurements: "
                       "files of whet bench --json, or store:PLACE. May be repeated, for several batch sizes.")] = None,
    backend: Annotated[str, Option("--backend", help="Of the records: these alone.")] = "",
    precision: Annotated[str, Option("--precision", help="Of the records: these alone.")] = "",
    model: Annotated[str, Option("--model", help="Of the records: those of the model with this name.")] = "",
    threads: Annotated[int | None, Option("--threads", min=1, help="Of the records: these alone.")] = None,
    service: Annotated[str, Option("--service", metavar="BATCH:MS,...", help="Service times typed in: milliseconds of "
                                   "a batch, by its size, as 1:4,8:11.")] = "",
    throughput: Annotated[float | None, Option("--throughput", help="Typed in: requests per second of one server, one "
                                                                    "by one.")] = None,
    spread: Annotated[str, Option("--spread", help="Of typed times: constant or exponential. Default: exponential for "
                                                   "--throughput (it tells a mean alone), else constant.")] = "",
    max_batch: Annotated[int, Option("--max-batch", min=1, help="Requests that a server takes at once.")] = 1,
    max_delay: Annotated[float, Option("--max-delay", metavar="MS", help="How long the first of a batch waits for "
                                                                         "others, in milliseconds.")] = 0.0,
    contexts: Annotated[int, Option("--contexts", min=1, help="Of typed times: servers that shared the device when "
                                                              "these were measured.")] = 1,
    context_memory: Annotated[float | None, Option("--context-memory", metavar="GIB", help="Of typed times: memory of "
                                                                                           "one server.")] = None,
    device_memory: Annotated[float | None, Option("--device-memory", metavar="GIB", help="Memory of a device, that "
                                                                                         "contexts must fit.")] = None,
    spares: Annotated[int, Option("--spares", min=0, help="Devices beyond those needed.")] = 0,
    dispatch: Annotated[str, Option("--dispatch", help="shared: one queue for all servers; random, round-robin: each "
                                                       "has its own.")] = "shared",
    seed: Annotated[int, Option("--seed", min=0, help="Of the simulation.")] = 0,
    output: Annotated[Path | None, Option("-o", "--output", help="A folder for fleet.html, fleet.md, fleet.json and "
                                                                 "fleet.csv.")] = None,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="Language of what people read: en or zh.")] = "en",
) -> None:
    """Say how many servers keep P99 under an objective, by simulating their queue, and what is not known.

    Examples: whet plan-fleet --rate 360 --p99 90 --throughput 180

    whet plan-fleet --rate 2000 --p99 50 --service 1:4,8:11,16:19 --max-batch 16 --max-delay 5 --spares 1 -o report

    whet plan-fleet --trace arrivals.csv --p99 100 --records batch1.json --records batch8.json --backend whet

    Exit code 2: no fleet can meet the objective, or figures are missing or impossible.
    """
    from whet.cli.files import check_output, write_bytes
    from whet.cli.progress import build_progress
    from whet.decide import fleet_plan
    from whet.decide.fleet import Batching, pack
    from whet.report import fleet as report
    from whet.report.fleet_words import word

    word("title", lang)  # an unknown language is told before the work
    if json and json != "-":
        check_output(Path(json), "the result")
    if dispatch not in ("shared", "random", "round-robin"):
        raise InputError(f"there is no dispatch {dispatch!r}", do="shared, random or round-robin")
    how: Literal["shared", "random", "round-robin"] = dispatch  # type: ignore[assignment]
    with build_progress() as progress:
        progress("reading", 0, 0)
        measured = _services(records or [], (model, backend, precision, threads), service, throughput, spread, contexts,
                             context_memory)
        now = _arrivals(rate, trace, burst)
        packing = pack(measured, now.scaled(1 + growth / 100), Batching(max_batch, max_delay / 1e3), p99 / 1e3, spares,
                       device_memory=None if device_memory is None else round(device_memory * GIB), seed=seed,
                       dispatch=how, progress=progress)
        plan = fleet_plan.fleet_plan(packing, now.rate, growth / 100, progress)
    encoded = fleet_plan.encode(plan)
    written = report.write(plan, encoded, output, lang) if output is not None else ()
    if json == "-":
        print(encoded.decode(), end="")
    else:
        if json:
            write_bytes(Path(json), encoded)
        show(plan, lang)
        if written:
            _console().print(f"\n{escape(str(written[0]))}", soft_wrap=True)
    raise Exit(0)


def _arrivals(rate: float | None, trace: Path | None, burst: float | None) -> Arrivals:
    from whet.decide.arrivals import Arrivals, read_trace

    if (rate is None) == (trace is None):
        raise InputError("the load is not clear", why="neither --rate nor --trace is given" if rate is None else
                         "both --rate and --trace are given", do="give --rate with requests per second, or --trace")
    if trace is not None:
        if burst is not None:
            raise InputError("--burst and --trace exclude each other", why="a trace has its own bursts")
        return read_trace(trace)
    assert rate is not None
    return Arrivals.poisson(rate) if burst is None else Arrivals.bursty(rate, burst)


def _services(files: list[str], chosen: tuple[str, str, str, int | None], typed: str, throughput: float | None,
              spread: str, contexts: int, memory: float | None) -> dict[int, Service]:
    """Service times by the contexts that share a device: measured, or typed in."""
    from whet.decide.service import Service, services

    if sum((bool(files), bool(typed), throughput is not None)) != 1:
        raise InputError("the service times are not clear", why="one of --records, --service and --throughput says "
                         "how long a server works", do="measure them: whet bench MODEL --json FILE, --records FILE")
    if files:
        if spread or contexts != 1 or memory is not None:
            raise InputError("--spread, --contexts and --context-memory are for typed times",
                             why="records have their own")
        return services(_chosen([r for name in files for r in _read(name)], *chosen))
    if any(chosen):
        raise InputError("--model, --backend, --precision and --threads choose among records", why="there are none")
    made = Service.throughput(throughput) if throughput is not None else Service.table(_table(typed))
    if spread not in ("", "constant", "exponential"):
        raise InputError(f"there is no spread {spread!r}", do="constant or exponential")
    exponential = spread == "exponential" or (not spread and throughput is not None)
    return {contexts: replace(made, contexts=contexts, spread="exponential" if exponential else "deterministic",
                              memory_bytes=None if memory is None else round(memory * GIB))}


def _table(text: str) -> dict[int, float]:
    """`1:4,8:11` -> {1: 0.004, 8: 0.011}."""
    out: dict[int, float] = {}
    for part in text.split(","):
        size, colon, value = part.partition(":")
        try:
            if not colon or int(size) in out:
                raise ValueError
            out[int(size)] = float(value) / 1e3
        except ValueError:
            raise InputError(f"--service {text!r} is not understood", where=part or "an empty part",
                             do="batch sizes, each once, and milliseconds: --service 1:4,8:11") from None
    return out


def _read(name: str) -> list[Measurement]:
    """Records of a file, or of a store (`store:` and its place)."""
    from whet.measure.record import read

    if not name.startswith("store:"):
        return read(Path(name))
    from whet.store import Store

    with Store(name.removeprefix("store:") or None, create=False) as store:
        return list(store.records())


def _chosen(records: list[Measurement], model: str, backend: str, precision: str,
            threads: int | None) -> list[Measurement]:
    found = [r for r in records if (not model or r.model.name == model) and (not backend or r.backend == backend)
             and (not precision or r.precision == precision) and (threads is None or r.threads == threads)]
    if records and not found:
        kinds = sorted({f"{r.model.name}, {r.backend}, {r.precision}, {r.threads} threads" for r in records})
        raise InputError("no record is of that kind", why=f"there are: {'; '.join(kinds[:8])}",
                         do="see --model, --backend, --precision and --threads")
    return found


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def show(plan: FleetPlan, lang: str) -> None:
    """Print the answer, the fleets around it, and what it rests on."""
    from whet.report import fleet as report
    from whet.report.fleet_words import sentence, word

    out = _console()
    out.print(f"[bold]{escape(report.title(plan, lang))}[/]\n", soft_wrap=True)
    first, *others = report.findings(plan, lang)
    out.print(f"[bold green]{escape(first)}[/]", soft_wrap=True)
    for line in others:
        out.print(escape(line), soft_wrap=True)
    for head, body in (report.fleets(plan, lang), report.ways(plan, lang)):
        if body:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            for name in head:
                table.add_column(escape(name), justify="right")
            for row in body:
                ours = head[-1] == word("meets", lang) and row[0] == f"{plan.servers:,}"
                table.add_row(*(escape(cell) for cell in row), style="green" if ours else None)
            out.print()
            out.print(table)
    out.print(f"\n[bold]{escape(word('notes', lang))}[/]")
    for note in plan.notes:
        out.print(f"- {escape(sentence(note, lang))}", soft_wrap=True)
