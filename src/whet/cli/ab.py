"""`whet compare --ab`: the design of an A/B trial, or its analysis from what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from whet.cli import options
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial import Rules
    from whet.decide.trial_record import Design, Note, Trial
    from whet.measure.record import Measurement

PANEL = "A/B trial (--ab)"
FILES = (".json", ".csv", ".npz", ".npy")
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

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
MixedHardware = Annotated[bool, Option("--mixed-hardware", help="Compare across different hardware; the result is "
                                                                "labelled.", rich_help_panel=PANEL)]
Backend = Annotated[str, Option("--backend", help="Of records: these alone. Default: whet, where there are any.",
                                rich_help_panel=PANEL)]
Precision = Annotated[str, Option("--precision", help="Of records: these alone.", rich_help_panel=PANEL)]
Metric = Annotated[str, Option("--metric", help="Of plans with --eval: top1, top5, f1, rmse... or "
                                                "package.module:function.", rich_help_panel=PANEL)]
Eval = options.Eval


@dataclass(frozen=True)
class Options:
    """As the options above have it; `output` is a folder for the report, `json` a file or `-`."""

    paths: tuple[Path, ...]
    margin: str
    statistic: str = ""
    higher_better: bool = False
    unpaired: bool | None = None
    missing: str = "refuse"
    column: str = ""
    method: str = "t"
    stopping: str = "once"
    planned: int | None = None
    previous: Path | None = None
    looks: int = 1
    confidence: float = 0.95
    power: float = 0.9
    ratio: float = 1.0
    discordance: float | None = None
    share: float | None = None
    deviation: float | None = None
    expected: float = 0.0
    samples: int | None = None
    mixed_hardware: bool = False
    backend: str = ""
    precision: str = ""
    evaluation: str | None = None
    metric: str = "top1"
    preprocess: str | None = None
    output: Path | None = None
    json: str = ""
    lang: str = "en"


@dataclass(frozen=True)
class Margins:
    """A parsed margin: percent of A's figure if `relative`; `seconds` if a unit of time was given."""

    value: float
    relative: bool
    seconds: bool = False


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


def parse_margin(text: str) -> Margins:
    """`0.5`, `5%`, `2ms`. InputError for anything else."""
    shown = text.strip().replace(" ", "")
    unit = next((u for u in ("%", *_TIMES) if shown.endswith(u)), "")
    try:
        value = float(shown.removesuffix(unit))
    except ValueError:
        raise InputError("the margin is missing" if not shown else f"{text!r} is no margin",
                         why="what loss would still do decides how many samples are needed",
                         do="give --margin 0.5 (points of a share), 5% (of A's figure) or 2ms") from None
    return Margins(value * _TIMES.get(unit, 1.0), unit == "%", unit in _TIMES)


def _design(o: Options, margin: Margins) -> Design:
    from whet.decide import outcomes, trial

    if len(o.paths) > 1:
        raise InputError("a trial has two versions", why=f"{len(o.paths)} files were given",
                         do="whet compare --ab A B --margin 0.5")
    pilot = None
    if o.paths:
        given = outcomes.read(o.paths[0], o.column)
        pilot = given.values if not isinstance(given, list) else np.concatenate(
            [np.asarray(r.latency.samples) for r in _chosen(given, o, o.paths[0]) if r.latency])
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
    from whet.decide import outcomes, trial, trial_record

    rules = trial.Rules(margin.value, o.confidence, o.power, o.stopping, o.planned)  # type: ignore[arg-type]
    if o.previous is not None:
        rules = rules.after(trial_record.read_trial(o.previous))
    if o.evaluation is not None:
        return _plans(o, margin, rules)
    if any(p.suffix.lower() not in FILES for p in o.paths):
        raise InputError("a trial of plans needs samples", where=", ".join(map(str, o.paths)),
                         do="give --eval DATA, or outcomes by sample (.json, .csv, .npz) of both versions")
    a, b = (outcomes.read(p, o.column) for p in o.paths)
    if isinstance(a, list) and isinstance(b, list):
        return _records(a, b, o, margin, rules)
    if isinstance(a, list) or isinstance(b, list):
        raise InputError("one file holds measurements, the other outcomes", where=", ".join(map(str, o.paths)),
                         do="give two of a kind")
    a, b = _told_apart(a, b, o.paths)
    _same_hardware({a.device, b.device} - {""}, o)
    pair = _paired(a, b, o)
    if pair:
        a, b = outcomes.match(a, b, o.missing)  # type: ignore[arg-type]
    if a.binary and b.binary and not o.statistic:
        _plain(margin)
        return trial.shares(a, b, rules, pair=pair, ratio=o.ratio)
    return trial.values(a, b, rules, pair=pair, relative=margin.relative, higher_better=o.higher_better,
                        statistic=o.statistic or "mean", method=o.method, ratio=o.ratio)


def _told_apart(a: Outcomes, b: Outcomes, paths: tuple[Path, ...]) -> tuple[Outcomes, Outcomes]:
    if a.label != b.label:
        return a, b
    x, y = (str(p) for p in paths)
    return replace(a, label=x if x != y else f"{x} (A)"), replace(b, label=y if x != y else f"{y} (B)")


def _paired(a: Outcomes, b: Outcomes, o: Options) -> bool:
    if o.unpaired is not None:
        return not o.unpaired
    if a.ids is not None and b.ids is not None:
        return True
    raise InputError("are these the same samples by both versions, or others?", where=f"{a.label}, {b.label}",
                     why="the outcomes have no ids",
                     do="give ids, or say --paired (same samples, same order) or --unpaired")


def _plain(margin: Margins) -> None:
    if margin.relative or margin.seconds:
        raise InputError("a margin of a share is in points", why="percent of a share is ambiguous",
                         do="give --margin 0.5: half a point")


def _same_hardware(devices: set[str], o: Options) -> None:
    if len(devices) > 1 and not o.mixed_hardware:
        raise InputError("the versions ran on different hardware", why="; ".join(sorted(devices)) + ": a difference "
                         "would be that of version and hardware together",
                         do="run both on one machine, or say --mixed-hardware (the result is labelled)")


def _plans(o: Options, margin: Margins, rules: Rules) -> Trial:
    from whet.cli.progress import build_progress
    from whet.compare.evaluated import evaluate
    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.measure import judge, this_device
    from whet.plan import Plan
    from whet.precision.data import Preprocess

    if any(p.suffix.lower() != ".plan" for p in o.paths):
        raise InputError("--eval runs two plans", where=", ".join(map(str, o.paths)),
                         do="build them first: whet build model.onnx -o model.plan")
    if margin.seconds:
        _plain(margin)
    x, y = (str(p) for p in o.paths)
    names = (o.paths[0].name, o.paths[1].name) if o.paths[0].name != o.paths[1].name else (x, y) if x != y else (
        f"{x} (A)", f"{y} (B)")
    plans = {n: Plan.open(p) for n, p in zip(names, o.paths)}
    with build_progress() as progress:
        scores = evaluate(plans, o.evaluation, o.metric, progress=progress,
                          preprocess=Preprocess.parse(o.preprocess) if o.preprocess else None)
    a, b = (scores[n] for n in names)
    device = this_device().name
    if a.outcomes is not None and b.outcomes is not None:
        _plain(margin)
        return trial.shares(Outcomes(names[0], a.outcomes.astype(float), device=device),
                            Outcomes(names[1], b.outcomes.astype(float), device=device), rules, pair=True,
                            metric=a.metric.name, broken=b.broken)
    if rules.stopping != "once" or rules.confidence != 0.95:
        raise InputError(f"{a.metric.name} is judged once, at 95 %", why="its bounds are bootstrapped, and no boundary "
                         "is known for their looks", do="leave --stopping and --confidence, or choose top1")
    if margin.relative != (a.metric.unit == "percent"):
        raise InputError(f"the margin of {a.metric.name} is in {a.metric.unit or 'its own unit'}",
                         why=f"{o.margin} was given")
    return trial.from_verdict(judge(a, b, margin.value), *names, device=device, power=rules.power)


def _records(a: list[Measurement], b: list[Measurement], o: Options, margin: Margins, rules: Rules) -> Trial:
    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial_record import Note

    x, y = _chosen(a, o, o.paths[0]), _chosen(b, o, o.paths[1])
    both = [*x, *y]
    _same_hardware({_device(r) for r in both} if len({r.device.fingerprint for r in both}) > 1 else set(), o)
    if len({r.device.fingerprint for r in both}) > 1 and len({_device(r) for r in both}) == 1 and not o.mixed_hardware:
        raise InputError("the versions ran on different hardware", why="the fingerprints differ: "
                         f"{', '.join(sorted({r.device.fingerprint for r in both}))}",
                         do="run both on one machine, or say --mixed-hardware (the result is labelled)")
    for what, told in (("shapes", {str(r.shapes) for r in both}), ("threads", {str(r.threads) for r in both}),
                       ("load", {f"{r.load.pattern} {r.load.concurrency}" for r in both})):
        if len(told) > 1:
            raise InputError(f"the versions were measured with different {what}", why="; ".join(sorted(told)),
                             do="measure both alike")
    if o.statistic == "accuracy":
        return _accuracies(x, y, o, margin, rules)
    if not margin.relative and not margin.seconds:
        raise InputError("a margin of latency needs its unit", why=f"{o.margin} was given",
                         do="give --margin 5% (of A's figure) or --margin 2ms")
    notes: list[Note] = []
    sides = []
    for path, records in zip(_labels(o.paths), (x, y)):
        runs = []
        for r in records:
            if r.latency is None or not r.latency.samples:
                raise InputError("a record without samples of latency", where=path,
                                 do="measure again: whet bench --json")
            label = f"{path} ({r.backend} {r.precision})"
            runs.append(Outcomes(label, np.asarray(r.latency.samples), device=_device(r)))
            if r.latency.count > len(r.latency.samples):
                notes.append(Note(code="thinned", values={"label": label, "n": f"{r.latency.count:,}"}))
        sides.append(runs)
    if len({(r.date, r.load.alternating) for r in both}) > 1 or len(both[0].load.alternating) < 2:
        notes.append(Note(code="apart"))
    if _device(x[0]) != _device(y[0]) and min(len(x), len(y)) > 1:
        notes.append(Note(code="mixed-hardware", values={"a": _device(x[0]), "b": _device(y[0])}))
    return trial.latencies(sides[0], sides[1], rules, relative=margin.relative, statistic=o.statistic or "p99",
                           notes=notes)


def _labels(paths: tuple[Path, ...]) -> list[str]:
    names = [p.name for p in paths]
    return names if len(set(names)) == len(names) else [str(p) for p in paths]


def _device(r: Measurement) -> str:
    return ", ".join([r.device.name, *(g.name for g in r.device.gpus)])


def _chosen(records: list[Measurement], o: Options, path: Path) -> list[Measurement]:
    """The records of one backend in one precision."""
    found = [r for r in records if o.backend in ("", r.backend) and o.precision in ("", r.precision)]
    if not o.backend and any(r.backend == "whet" for r in found):
        found = [r for r in found if r.backend == "whet"]
    kinds = sorted({f"{r.backend} {r.precision}" for r in found})
    if len(kinds) != 1:
        every = sorted({f"{r.backend} {r.precision}" for r in records})
        raise InputError("which of the records are the version?", where=str(path),
                         why=f"there are {', '.join(every) or 'none'}", do="choose: --backend whet --precision bf16")
    return found


def _accuracies(a: list[Measurement], b: list[Measurement], o: Options, margin: Margins, rules: Rules) -> Trial:
    import msgspec

    from whet.decide import trial
    from whet.decide.outcomes import Outcomes
    from whet.decide.trial_record import Note

    _plain(margin)
    sides = []
    for path, records in zip(_labels(o.paths), (a, b)):
        told = records[-1].accuracy
        if told is None or not 0 <= told.value <= 1:
            raise InputError("the record states no accuracy that is a share", where=path,
                             do="give outcomes by sample, or plans with --eval DATA")
        right = np.zeros(told.samples)
        right[:round(told.value * told.samples)] = 1
        sides.append((told.metric, Outcomes(path, right, device=_device(records[-1]))))
    (metric, x), (other, y) = sides
    if metric != other:
        raise InputError("the records state different metrics", why=f"{metric} and {other}")
    found = trial.shares(x, y, rules, pair=False, ratio=None, metric=metric)
    return msgspec.structs.replace(found, notes=(*found.notes, Note(code="accuracy-of-records")))


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
