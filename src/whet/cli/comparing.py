"""`whet compare MODEL`: one model over all backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Option

from whet.cli.progress import build_progress
from whet.cli.shapes import parse_shapes
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.compare.result import Result

PANEL = "One model over backends"
EXIT = {"recommended": 0, "nothing meets the constraints": 1, "undecided": 3}

Backends = Annotated[str, Option("--backends", help="Comma-separated: whet, onnxruntime, openvino, torch, "
                                 "torch-compile, tensorrt. Default: whet and those that are installed.",
                                 rich_help_panel=PANEL)]
Precisions = Annotated[str, Option("--precisions", help="Comma-separated: fp32, bf16, int8; with --target cuda also "
                                   "tf32, fp16, fp8.", rich_help_panel=PANEL)]
Batches = Annotated[str, Option("--batches", help="Comma-separated. Default: that of the shapes, else 1.",
                                rich_help_panel=PANEL)]
ThreadCounts = Annotated[str, Option("--threads", help="Comma-separated. Default: all cores.", rich_help_panel=PANEL)]
Inputs = Annotated[str, Option("--inputs", metavar="DATA", help="What is timed. Default: the first batch of --eval or "
                               "--calib, else random.", rich_help_panel=PANEL)]
Torch = Annotated[str, Option("--torch", metavar="MODULE:CALLABLE", help="The PyTorch module: a function that gives "
                              "it, or a .pt2 file of torch.export.", rich_help_panel=PANEL)]
Builds = Annotated[int, Option("--builds", min=1, max=50, help="Builds of every cell: how they differ is part of the "
                               "intervals.", rich_help_panel=PANEL)]
FreshBuilds = Annotated[bool, Option("--fresh-builds", help="Build without timing caches: each chooses anew.",
                                     rich_help_panel=PANEL)]
Seconds = Annotated[float, Option("--seconds", min=0.01, help="How long the slowest is timed, for each build.",
                                  rich_help_panel=PANEL)]
Memory = Annotated[bool, Option("--memory/--no-memory", help="Measure peak memory, in a process of its own.",
                                rich_help_panel=PANEL)]
Baseline = Annotated[str, Option("--baseline", metavar="'BACKEND PRECISION'", help="What all others are compared with. "
                                 "Default: onnxruntime fp32, else the first.", rich_help_panel=PANEL)]
Gate = Annotated[float, Option("--gate", min=0, max=0.99, help="Differences of less than this share do not matter.",
                               rich_help_panel=PANEL)]
Weights = Annotated[str, Option("--weights", help="Of the ranking: p50, p99, throughput, loss, memory, size, build, "
                                "cost; as p99=2,loss=1,memory=0.5.", rich_help_panel=PANEL)]
Require = Annotated[list[str] | None, Option("--require", metavar="CONSTRAINT", help="p99<20ms, loss<0.5, "
                                             "memory<512MiB, throughput>100, vendor=nvidia, backend=whet... May be "
                                             "repeated.", rich_help_panel=PANEL)]
Cite = Annotated[Path | None, Option("--cite", metavar="FILE", help="Figures of others for the procurement table: JSON "
                                     "with option, column, value, source, date, link.", rich_help_panel=PANEL)]
Price = Annotated[float | None, Option("--price", help="Of an hour of this machine, for the cost of a million "
                                       "samples.", rich_help_panel=PANEL)]
MaxDrop = Annotated[float, Option("--max-drop", help="With --eval: the loss that accuracy is judged by, in the "
                                  "metric's unit.", rich_help_panel=PANEL)]
EvalSamples = Annotated[int | None, Option("--eval-samples", min=1, help="Judge with at most so many samples.",
                                           rich_help_panel=PANEL)]
Servers = Annotated[list[str] | None, Option("--server", metavar="URL", help="http://host:8000/v2/models/NAME (Open "
                                             "Inference Protocol), http://host:8501/v1/models/NAME (TF Serving), "
                                             "grpc://host:8001/NAME. May be repeated.", rich_help_panel=PANEL)]
Remotes = Annotated[list[str] | None, Option("--remote", metavar="NAME=COMMAND", help="Another host: a command that "
                                             "prints whet bench's records, with {model}, {shapes}, {batch}. May be "
                                             "repeated.", rich_help_panel=PANEL)]
Fresh = Annotated[bool, Option("--fresh", help="Forget what the folder has of an earlier run.", rich_help_panel=PANEL)]

Ray = Annotated[str, Option("--ray", metavar="ADDRESS", help="Measure on a Ray cluster: auto, HOST:PORT, "
                            "ray://HOST:PORT, or local. One timing at a time on each machine.",
                            rich_help_panel=PANEL)]


@dataclass(frozen=True)
class Options:
    """As the command line says it."""

    paths: Sequence[Path]
    output: Path | None
    json: str
    lang: str
    backends: str
    precisions: str
    batches: str
    threads: str
    shapes: Sequence[str]
    target: str
    inputs: str
    calib: str | None
    calib_samples: int | None
    preprocess: str | None
    evaluation: str | None
    eval_samples: int | None
    metric: str
    max_drop: float
    torch: str
    builds: int
    fresh_builds: bool
    seconds: float
    memory: bool
    timing_cache: Path | None
    opt_level: int
    baseline: str
    gate: float
    weights: str
    require: Sequence[str]
    cite: Path | None
    price: float | None
    servers: Sequence[str]
    remotes: Sequence[str]
    allow_mixed: bool
    fresh: bool
    ray: str
    keep: bool = False
    store: str = ""


def run(o: Options) -> int:
    """Compare, print and write the report; 0 recommended, 1 nothing meets the constraints, 3 undecided."""
    from whet.compare import model, remote
    from whet.compare.recommend import parse_constraint, parse_weights
    from whet.precision.data import Preprocess
    from whet.report import compare as report

    if len(o.paths) != 1:
        raise InputError("whet compare takes one model", why=f"{len(o.paths)} were given",
                         do="whet compare model.onnx -o report; two versions: whet compare --ab A B")
    if o.output is None:
        raise InputError("the comparison needs a folder", why="what is finished is kept there",
                         do="give -o FOLDER; the same one goes on after Ctrl-C")
    if o.lang not in report.LANGUAGES:
        raise InputError(f"--lang {o.lang}", why=f"there are {', '.join(report.LANGUAGES)}", do="choose one")
    remotes = dict(remote.parse(text) for text in o.remotes)
    if len(remotes) < len(o.remotes):
        raise InputError("two remotes of one name", do="name each its own")
    asked = model.Options(
        model=o.paths[0], folder=o.output, backends=_words(o.backends), precisions=_words(o.precisions) or ("fp32",),
        batches=_numbers("--batches", o.batches), threads=_numbers("--threads", o.threads),
        shapes=parse_shapes(o.shapes), target=o.target, inputs=o.inputs or None, calibration=o.calib,
        calibration_samples=o.calib_samples, preprocess=Preprocess.parse(o.preprocess) if o.preprocess else None,
        evaluation=o.evaluation, eval_samples=o.eval_samples, metric=o.metric, max_drop=o.max_drop, torch=o.torch,
        builds=o.builds, fresh_builds=o.fresh_builds, seconds=o.seconds, memory=o.memory, timing_cache=o.timing_cache,
        opt_level=o.opt_level, baseline=o.baseline, gate=o.gate,
        weights=parse_weights(o.weights) if o.weights else {}, constraints=[parse_constraint(c) for c in o.require],
        citations=o.cite, price=o.price, servers=o.servers, remotes=remotes, allow_mixed=o.allow_mixed, fresh=o.fresh,
        ray=o.ray)
    try:
        with build_progress() as progress:
            found = model.compare_model(asked, progress)
    except KeyboardInterrupt:
        Console(stderr=True, highlight=False).print(
            f"What is finished lies in {o.output / model.JOURNAL}: the same command goes on behind it.", markup=False,
            soft_wrap=True)
        raise
    paths = report.write(found, o.output, o.lang)
    if o.keep:
        from whet.cli.keeping import keep

        keep("comparison", found.encode(), o.paths[0].stem, o.store)
    if o.json == "-":
        import sys

        sys.stdout.write(found.encode().decode())
    else:
        _print(found, o.lang)
        Console(highlight=False).print(f"Report: {paths[0]}", markup=False, soft_wrap=True)
        if o.json:
            from whet.cli.files import write_bytes

            write_bytes(Path(o.json), found.encode())
    return EXIT[found.recommendation.state]


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(",") if w.strip())


def _numbers(option: str, text: str) -> list[int]:
    words = _words(text)
    if not all(w.isascii() and w.isdigit() and 0 < int(w) < 1 << 20 for w in words):
        raise InputError(f"{option} {text}", why="they are whole numbers from 1, with commas",
                         do=f"give, for example, {option} 1,8")
    return [int(w) for w in words]


def _print(found: Result, lang: str) -> None:
    from whet.report import compare as report

    out = Console(highlight=False)
    head, body = report.summary(found, lang)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right")
    for key, cells in body:
        table.add_row(*(Text(c) for c in cells), style="bold" if key == found.recommendation.chosen else None)
    wide = Console(highlight=False, width=None if out.is_terminal else 160)
    wide.print(table)
    for line in report.findings(found, lang):
        out.print(line, markup=False, soft_wrap=True)
