"""`whet compare --ab`: the design of an A/B trial, or its analysis from what was observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from whet.cli import ab_plans, ab_records, options
from whet.cli.ab_options import Margins, Options, labels, parse_margin, plain, same_hardware
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial import Rules
    from whet.decide.trial_record import Design, Trial

PANEL = "A/B trial (--ab)"

Ab = Annotated[bool, Option("--ab", help="Design an A/B trial, or judge one: is B worse than A by less than --margin?",
                            rich_help_panel=PANEL)]
Margin = Annotated[str, Option("--margin", help="The loss that must not be reached: 0.5 (points of a share, else the "
                               "values' own unit), 5% (of A's figure), 2ms.", rich_help_panel=PANEL)]
Statistic = Annotated[str, Option("--statistic", help="Of values and latencies: mean, p50, p99...; of records also "
                                  "accuracy. Default: mean, of records p99.", rich_help_panel=PANEL)]
HigherBetter = Annotated[bool, Option("--higher-better/--lower-better", help="Of values: which way is better.",
                                      rich_help_panel=PANEL)]
Unpaired = Annotated[bool | None, Option("--unpaired/--paired", help="Independent samples, or the same ones by both. "
                                         "Default: paired, if both files have ids.", rich_help_panel=PANEL)]
Missing = Annotated[str, Option("--missing", help="Of samples that only one version answered: refuse, drop or wrong.",
                                rich_help_panel=PANEL)]
Column = Annotated[str, Option("--column", help="The column or array that holds the outcomes.", rich_help_panel=PANEL)]
Method = Annotated[str, Option("--method", help="Of means: t or bootstrap.", rich_help_panel=PANEL)]
Stopping = Annotated[str, Option("--stopping", help="once, obrien-fleming or pocock (some looks), always-valid (any "
                                                    "number).", rich_help_panel=PANEL)]
Planned = Annotated[int | None, Option("--planned", min=2, help="The planned number of samples (of each version, if "
                                       "unpaired).", rich_help_panel=PANEL)]
Previous = Annotated[Path | None, Option("--previous", help="The JSON of the trial's last look, by whose rules this "
                                                            "one goes on.", rich_help_panel=PANEL)]
Looks = Annotated[int, Option("--looks", min=1, max=100, help="Of a design: how many looks.", rich_help_panel=PANEL)]
Confidence = Annotated[float, Option("--confidence", help="Of each one-sided claim.", rich_help_panel=PANEL)]
Power = Annotated[float, Option("--power", help="The probability to decide, that sizes are stated for.",
                                rich_help_panel=PANEL)]
Ratio = Annotated[float, Option("--ratio", help="Samples of B for one of A, if unpaired; the sizes are checked "
                                                "against it.", rich_help_panel=PANEL)]
Discordance = Annotated[float | None, Option("--discordance", help="Of a design: the share of samples that both "
                                             "answer differently, 0.02 say.", rich_help_panel=PANEL)]
Share = Annotated[float | None, Option("--share", help="Of a design on independent samples: the share that A gets "
                                       "right.", rich_help_panel=PANEL)]
Deviation = Annotated[float | None, Option("--deviation", help="Of a design for a mean: the standard deviation, in the "
                                           "margin's unit.", rich_help_panel=PANEL)]
Expected = Annotated[float, Option("--expected-loss", help="Of a design: the loss that is expected in truth.",
                                   rich_help_panel=PANEL)]
Samples = Annotated[int | None, Option("--samples", min=2, help="Of a design: a number of samples whose power is asked "
                                                                "for.", rich_help_panel=PANEL)]
MixedHardware = Annotated[bool, Option("--mixed-hardware", "--allow-mixed-hardware", rich_help_panel=PANEL,
                                       help="Compare across different hardware; the result is labelled.")]
Backend = Annotated[str, Option("--backend", help="Of records: these alone. Default: whet, where there are any.",
                                rich_help_panel=PANEL)]
Precision = Annotated[str, Option("--precision", help="Of records: these alone.", rich_help_panel=PANEL)]
Metric = Annotated[str, Option("--metric", help="Of plans with --eval: top1, top5, f1, rmse... or "
                                                "package.module:function.", rich_help_panel=PANEL)]
Eval = options.Eval


def run(o: Options) -> int:
    """Judge a trial, or design one where there are no two versions. The exit code: 0 held or designed, 1 not held,
    3 undecided. InputError for what cannot be judged."""
    from whet.cli.files import check_output, write_bytes
    from whet.decide.trial_record import encode
    from whet.report import trial as report
    from whet.report.trial_words import word

    word("title", o.lang)  # an unknown language is told before the work
    for value, known, name in ((o.stopping, ("once", "obrien-fleming", "pocock", "always-valid"), "--stopping"),
                               (o.missing, ("refuse", "drop", "wrong"), "--missing"),
                               (o.method, ("t", "bootstrap"), "--method")):
        if value not in known:
            raise InputError(f"{name} {value!r} is none of {', '.join(known)}")
    if o.json and o.json != "-":
        check_output(Path(o.json), "the result")
    margin = parse_margin(o.margin)
    found: Trial | Design = _judge(o, margin) if len(o.paths) == 2 else _design(o, margin)
    encoded = encode(found)
    written = report.write(found, encoded, o.output, o.lang) if o.output is not None else ()
    if o.json == "-":
        print(encoded.decode(), end="")
    else:
        if o.json:
            write_bytes(Path(o.json), encoded)
        show(found, o.lang)
        if written:
            _console().print(f"\n{escape(str(written[0]))}", soft_wrap=True)
    return getattr(found, "exit_code", 0)


def _design(o: Options, margin: Margins) -> Design:
    from whet.decide import outcomes, trial

    if len(o.paths) > 1:
        raise InputError("a trial has two versions", why=f"{len(o.paths)} files were given",
                         do="whet compare --ab A B --margin 0.5")
    pilot = None
    if o.paths:
        given = outcomes.read(o.paths[0], o.column)
        pilot = given.values if not isinstance(given, list) else np.concatenate(
            [np.asarray(r.latency.samples) for r in ab_records.chosen(given, o, o.paths[0]) if r.latency])
        if len(pilot) == 0:
            raise InputError("the record keeps no samples", where=str(o.paths[0]),
                             do="measure again: whet bench --json")
    if margin.relative and (o.discordance is not None or o.share is not None):
        raise InputError("a margin of a share is in points", why="percent of a share is ambiguous",
                         do="give --margin 0.5: half a point")
    q = trial.quantile_of(o.statistic) if o.statistic else None
    return trial.design(margin.value, discordance=o.discordance, share=o.share, deviation=o.deviation, pilot=pilot,
                        quantile=q, relative=margin.relative, paired=o.unpaired is False, loss=o.expected,
                        ratio=o.ratio, confidence=o.confidence, power=o.power, looks=o.looks, samples=o.samples,
                        stopping=o.stopping)  # type: ignore[arg-type]


def _judge(o: Options, margin: Margins) -> Trial:
    from whet.cli.progress import build_progress
    from whet.decide import trial, trial_record

    rules = trial.Rules(margin.value, o.confidence, o.power, o.stopping, o.planned)  # type: ignore[arg-type]
    if o.previous is not None:
        rules = rules.after(trial_record.read_trial(o.previous))
    if o.evaluation is not None:
        return ab_plans.accuracies(o, margin, rules)
    if all(p.suffix.lower() == ".plan" for p in o.paths):
        return ab_plans.latencies(o, margin, rules)
    with build_progress() as progress:
        return _files(o, margin, rules, progress)


def _files(o: Options, margin: Margins, rules: Rules, progress: Callable[[str, int, int], None]) -> Trial:
    from whet.decide import outcomes, trial

    given = []
    for path in o.paths:
        progress(f"reading {path.name}", 0, 0)
        given.append(outcomes.read(path, o.column))
    progress("judging", 0, 0)
    a, b = given
    if isinstance(a, list) and isinstance(b, list):
        return ab_records.judge(a, b, o, margin, rules)
    if isinstance(a, list) or isinstance(b, list):
        raise InputError("one file holds measurements, the other outcomes", where=", ".join(map(str, o.paths)),
                         do="give two of a kind")
    if a.label == b.label:
        a, b = (replace(x, label=label) for x, label in zip((a, b), labels(o.paths)))
    same_hardware({a.device, b.device} - {""}, o)
    pair = _paired(a, b, o)
    if pair:
        a, b = outcomes.match(a, b, o.missing)  # type: ignore[arg-type]
    if a.binary and b.binary and not o.statistic:
        plain(margin)
        return trial.shares(a, b, rules, pair=pair, ratio=o.ratio)
    return trial.values(a, b, rules, pair=pair, relative=margin.relative, higher_better=o.higher_better,
                        statistic=o.statistic or "mean", method=o.method, ratio=o.ratio)


def _paired(a: Outcomes, b: Outcomes, o: Options) -> bool:
    if o.unpaired is not None:
        return not o.unpaired
    if a.ids is not None and b.ids is not None:
        return True
    raise InputError("are these the same samples by both versions, or others?", where=f"{a.label}, {b.label}",
                     why="the outcomes have no ids",
                     do="give ids, or say --paired (same samples, same order) or --unpaired")


def show(found: Trial | Design, lang: str) -> None:
    """For the terminal."""
    from whet.report import trial as report
    from whet.report.trial_words import word

    out = _console()
    out.print(escape(report.title(found, lang)), style="bold", soft_wrap=True)
    out.print(word(found.kind, lang), style="dim", soft_wrap=True)
    state: Any = getattr(found, "state", "")
    colour = {"held": "green", "not held": "red", "undecided": "yellow"}.get(state, "")
    for i, line in enumerate(report.findings(found, lang)):
        out.print(escape(line), style=colour if i == 0 else "", soft_wrap=True)
    for name, head, body in report.tables(found, lang):
        table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for i, h in enumerate(head):
            table.add_column(h, justify="right" if i else "left")
        for row in body:
            table.add_row(*(escape(c) or "-" for c in row))
        out.print(table)
    for note in report.notes(found, lang):
        out.print(escape(note), style="dim", soft_wrap=True)


def _console() -> Console:
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=120)
