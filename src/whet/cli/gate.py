"""`whet gate`: may this build ship? Objectives, and regressions against the history, for CI."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from whet.cli import notify as telling
from whet.cli import options
from whet.errors import InputError, StoreError, WhetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whet.cli.gate_inputs import History, Measure
    from whet.decide.gate import Gate, Objectives, Rules
    from whet.decide.gate.result import Case
    from whet.measure import Measurement

COLOURS = {"held": "bold green", "not held": "bold red", "undecided": "bold yellow", "not measured": "bold red"}
STDOUT = "-"
SECONDS = 5.0  # that are waited for a busy store: the verdict is what matters


@dataclass(frozen=True)
class Outputs:
    """Files to write; empty where none is wanted, `-` for stdout."""

    json: str = ""
    summary: str = ""
    folder: Path | None = None
    lang: str = "en"


def command(
    file: Annotated[str, typer.Argument(
        metavar="[MEASURED]", help="The new measurement: whet bench --json; - is stdin.", show_default=False)] = "",
    measure: Annotated[str, Option(
        "--measure", metavar="COMMAND", help="Measure now: a command that writes records to stdout, as "
        "'whet bench m.plan --json -'. Also makes the reruns.")] = "",
    rerun: Annotated[str, Option("--rerun", metavar="COMMAND", help="The command for reruns, where the measurement is "
                                                                    "a file.")] = "",
    reruns: Annotated[int, Option("--reruns", min=2, max=20, help="How often what is suspected is measured "
                                                                  "again.")] = 3,
    timeout: Annotated[float, Option("--timeout", min=1, help="Seconds that a measurement may take.")] = 1800.0,
    p99: Annotated[str, Option("--p99", help="Objective: P99 of the latency at most, as 50ms.")] = "",
    throughput: Annotated[str, Option("--throughput", help="Objective: samples per second at least.")] = "",
    memory: Annotated[str, Option("--memory", help="Objective: peak memory at most, as 1GiB.")] = "",
    max_drop: Annotated[str, Option("--max-drop", help="Objective: loss of accuracy at most, in points.")] = "",
    plan_size: Annotated[str, Option("--plan-size", help="Objective: size of the plan at most, as 120MB.")] = "",
    objectives: Annotated[Path | None, Option(
        "--objectives", metavar="FILE", help="Objectives in a file (YAML, JSON, TOML: p99, throughput, memory, "
        "max_drop, plan_size); options win.")] = None,
    store: Annotated[str, Option("--store", metavar="PLACE", help="The measurement store with the history, which keeps "
                                 "this gate, too. Default: $WHET_STORE; without it no history.")] = "",
    min_effect: Annotated[float, Option("--min-effect", metavar="PERCENT", help="What is worth failing for: percent "
                                                                                "worse than before.")] = 5.0,
    metric: Annotated[list[str] | None, Option("--metric", help="What is compared with the history: latency.p50, "
                      "throughput, accuracy.*... May be repeated. Default: median, P99, throughput, memory, size, "
                      "accuracy.")] = None,
    backend: Annotated[str, Option("--backend", help="Of several in the measurement: this backend.")] = "whet",
    precision: Annotated[str, Option("--precision", help="Of several: this precision.")] = "",
    model: Annotated[str, Option("--model", help="Of several: this model.")] = "",
    before: Annotated[Path | None, Option(
        "--before", metavar="FILE", help="An earlier measurement: what changes are stated against without a history, "
        "and accuracy is compared with.")] = None,
    any_device: Annotated[bool, Option("--any-device", help="Compare with the history of other machines, "
                                                            "too.")] = False,
    same_weights: Annotated[bool, Option("--same-weights", help="Compare with the same model file alone, not with "
                                                                "what had its name.")] = False,
    plan: Annotated[Path | None, Option("--plan", help="The plan: where quantization gains less than it used to, it "
                                                       "names likely causes.")] = None,
    record: Annotated[bool, Option("--record", help="Put the measurement into the store, after it was "
                                                    "judged.")] = False,
    accept: Annotated[str, Option("--accept", metavar="REASON", help="Let a regression through: the history begins "
                                                                     "anew with this run.")] = "",
    summary: Annotated[str, Option("--summary", metavar="FILE", help="Append Markdown to this file: "
                                                                     "$GITHUB_STEP_SUMMARY. - is stdout.")] = "",
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")] = "",
    output: Annotated[Path | None, Option("-o", "--output", help="A folder for gate.html, gate.md, gate.csv and "
                                                                 "gate.json.")] = None,
    webhook: options.Webhook = "",
    notify_command: options.NotifyCommand = "",
    notify_always: Annotated[bool, Option("--notify-always", help="Tell also when all is held.")] = False,
    lang: Annotated[str, Option("--lang", help="Language of what people read: en or zh.")] = "en",
) -> None:
    """Say whether a build may ship: its objectives, and whether it became slower or larger than it was.

    The new measurement is held against objectives, and against the history of the same setting (model, backend,
    precision, shapes, threads, load, machine) in the store. What looks like a regression is measured again before it
    fails.

    Exit codes: 0 held, 1 not held, 2 could not be measured or bad input, 3 undecided (too little evidence).

    Examples: whet gate out.json --p99 50ms --throughput 1500

    whet gate --measure "whet bench m.plan --json -" --store measurements.db --record --summary "$GITHUB_STEP_SUMMARY"
    """
    from whet.cli import gate_inputs as inputs
    from whet.decide.gate import Rules
    from whet.decide.gate.judge import METRICS
    from whet.report.gate_words import word

    word("held", lang)  # a language that is not there is told before anything is measured
    telling.check(webhook, notify_command)
    wanted = inputs.objectives(objectives, {"p99": p99, "throughput": throughput, "memory": memory,
                                            "max_drop": max_drop, "plan_size": plan_size})
    place = store or os.environ.get("WHET_STORE", "")
    if not wanted and not place:
        raise InputError("nothing to hold the measurement against", why="no objective is given, and no store",
                         do="give --p99, --throughput, --memory, --max-drop, --plan-size, --objectives, or --store")
    if (record or accept) and not place:
        raise InputError(f"{'--record' if record else '--accept'} without a store", do="name it with --store")
    outputs = Outputs(json, summary, output, lang)
    _check(outputs)
    source = inputs.Measure(file, measure, rerun, timeout, inputs.Choice(backend, precision, model))
    rules = Rules(min_effect=min_effect / 100, reruns=reruns if source.again else 0)
    past = inputs.History(place, tuple(metric or METRICS), any_device, same_weights) if place else None
    found, first = _judged(source, wanted, rules, past, before, plan, accept)
    kept = _keep(found, first if record else (), place)
    _write(found, outputs)
    if kept is not None:
        _complain(str(kept))
    if found.exit_code or notify_always:
        _tell(found, webhook, notify_command, lang)
    raise typer.Exit(found.exit_code)


def _judged(source: Measure, wanted: Objectives, rules: Rules, past: History | None, before: Path | None,
            plan: Path | None, accept: str) -> tuple[Gate, Sequence[Measurement]]:
    """Measure, judge, and where reruns may change the verdict, measure again and judge all runs together."""
    import msgspec

    from whet.cli import gate_inputs as inputs
    from whet.cli.progress import build_progress
    from whet.decide.gate import judge
    from whet.decide.gate.result import Note, worst
    from whet.decide.gate.result import Verdict as State

    with build_progress() as progress:
        progress("measuring" if source.command else "reading", 0, 0)
        first = source.first()
        earlier = inputs.earlier(before, first) if before is not None else [None] * len(first)
        runs, notes = [[r] for r in first], list[Note]()
        progress("reading the history", 0, 0)
        found = [past.of(r) for r in first] if past is not None else [None] * len(first)

        def cases() -> list[Case]:
            return [judge.case(r, wanted, h.past if h else None, rules, b, h.notes if h else ())
                    for r, h, b in zip(runs, found, earlier)]

        judged = cases()
        if source.again and any(judge.suspicious(c) for c in judged):
            for i in range(rules.reruns):
                progress("measuring again", i, rules.reruns)
                try:
                    for of, one in zip(runs, source.rerun(first)):
                        of.append(one)
                except WhetError as e:  # what was measured before it stands
                    notes.append(Note(code="reruns-failed", values={"why": f"{e.what}: {e.why}" if e.why else e.what}))
                    break
            judged = cases()
    if past is None:
        notes.append(Note(code="no-history"))
    else:
        notes += past.gains(first, plan)
    if accept:
        notes.append(Note(code="accepted", values={"reason": accept}))
        states: list[list[State]] = [[o.state for o in c.objectives] for c in judged]
        judged = [msgspec.structs.replace(c, state=worst(s)) for c, s in zip(judged, states)]
    return judge.gate(judged, rules, notes, accept), first


def _keep(found: Gate, records: Sequence[Measurement], place: str) -> WhetError | None:
    """Put the gate into the store, and the measurement; the error that says where they are if it did not take them."""
    if not place:
        return None
    from whet.decide.gate.result import short
    from whet.store import Store, spool

    failed: StoreError | None = None
    try:
        spool.keep_result(place, "gate", short(found), model=found.cases[0].model,
                          at=datetime.fromisoformat(found.date), timeout=SECONDS)
        if records:
            with Store(place) as store:
                store.add(records)
        return None
    except StoreError as e:
        failed = e
    return failed if not records else _both(failed, spool.keep(records, failed))


def _both(a: StoreError, b: StoreError) -> StoreError:
    return type(a)(a.what, where=a.where, why=a.why, do=f"{a.do}; {b.what}")


def _tell(found: Gate, webhook: str, command: str, lang: str) -> None:
    """Whoever is named gets the lines and the result, without the history's points."""
    from whet.decide.gate.result import short
    from whet.report import gate as report

    text = "\n".join((report.title(found, lang), *report.messages(found, lang), *report.notes(found, lang)))
    for failed in telling.tell(webhook, command, text, {"kind": "gate", "gate": short(found)}):
        _complain(failed)


def _check(outputs: Outputs) -> None:
    from whet.cli.files import check_output

    if outputs.json == outputs.summary == STDOUT:
        raise InputError("one output may go to stdout", do="name a file for --json or --summary")
    if outputs.json not in ("", STDOUT):
        check_output(Path(outputs.json), "the result")


def _write(found: Gate, outputs: Outputs) -> None:
    from whet.cli.files import write_bytes
    from whet.cli.gate_inputs import append
    from whet.decide.gate.result import encode
    from whet.report import gate as report

    data, text = encode(found), report.markdown(found, outputs.lang)
    show(found, outputs.lang, STDOUT in (outputs.json, outputs.summary))
    if outputs.folder is not None:
        report.write(found, data, outputs.folder, outputs.lang)
    if outputs.json == STDOUT:
        print(data.decode(), end="")
    elif outputs.json:
        write_bytes(Path(outputs.json), data)
    if outputs.summary == STDOUT:
        print(text, end="")
    elif outputs.summary:
        append(Path(outputs.summary), text)


def show(found: Gate, lang: str = "en", piped: bool = False) -> None:
    """For people, on stderr where stdout is an output."""
    from whet.report import gate as report

    out = Console(highlight=False, stderr=piped)
    wide = Console(highlight=False, width=None if out.is_terminal else 160, stderr=piped)
    out.print(f"[{COLOURS[found.state]}]{escape(report.title(found, lang))}[/]")
    for case, line in zip(found.cases, report.messages(found, lang)):
        out.print(escape(line), soft_wrap=True)
        for heading, head, body in report.tables(case, lang):
            table = Table(title=heading, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0),
                          header_style="bold")
            for i, name in enumerate(head):
                table.add_column(escape(name), justify="left" if i in (0, len(head) - 1) else "right")
            for row in body:
                table.add_row(*(escape(cell) or "-" for cell in row))
            wide.print(table)
    for line in report.notes(found, lang):
        out.print(f"- {escape(line)}", soft_wrap=True)


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False, file=sys.stderr).print(text, style="yellow", markup=False, soft_wrap=True)
