"""`whet compare A.plan B.plan`: what changed between two plans of one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from whet.errors import InputError

PANEL = "Two plans"

Force = Annotated[bool, Option("--force", help="Compare plans of different models; the result is labelled.",
                               rich_help_panel=PANEL)]
Run = Annotated[bool, Option("--run/--no-run", help="Run both, for speed in turns and for their outputs.",
                             rich_help_panel=PANEL)]


def run(paths: Sequence[Path], *, force: bool = False, inputs: str = "", running: bool = True, seconds: float = 2.0,
        threads: str = "", output: Path | None = None, json: str = "", lang: str = "en") -> int:
    """Compare, print, and write what was asked for. The exit code is 0: that plans differ is no fault."""
    from whet.cli.files import check_output, write_bytes
    from whet.cli.progress import build_progress
    from whet.cli.shapes import load_inputs
    from whet.compare import diff as differ
    from whet.plan import Plan
    from whet.report import plan_diff as report
    from whet.report.plan_diff_words import word
    from whet.tools.timing import random_feeds

    word("title", lang)  # an unknown language is told before the work
    if json and json != "-":
        check_output(Path(json), "the result")
    if len(paths) != 2 or any(p.suffix.lower() != ".plan" for p in paths):
        raise InputError("what changed is told of two plans", where=", ".join(map(str, paths)),
                         do="whet compare A.plan B.plan, or one model: whet compare model.onnx")
    if inputs and not running:
        raise InputError("--inputs without running", why="--no-run was given", do="leave out one of them")
    if threads and not threads.isdecimal():
        raise InputError("two plans run on one number of threads", why=f"--threads {threads} was given", do="give one")
    plans = [Plan.open(p) for p in paths]
    names = tuple(p.name for p in paths) if paths[0].name != paths[1].name else tuple(str(p) for p in paths)
    with build_progress() as progress:
        feeds = None if not running else load_inputs(Path(inputs)) if inputs else random_feeds(plans[0])
        found = differ.diff(plans[0], plans[1], feeds, labels=(names[0], names[1]), force=force, seconds=seconds,
                            threads=int(threads) if threads else None, progress=progress,
                            inputs="" if feeds is None else inputs or "random, seed 0")
    encoded = differ.encode(found)
    written = report.write(found, encoded, output, lang) if output is not None else ()
    if json == "-":
        print(encoded.decode(), end="")
        return 0
    if json:
        write_bytes(Path(json), encoded)
    plain = Console(highlight=False)
    out = plain if plain.is_terminal else Console(highlight=False, width=140)
    out.print(escape(report.title(found, lang)), style="bold", soft_wrap=True)
    for line in report.findings(found, lang):
        out.print(escape(line), soft_wrap=True)
    for name, head, body in report.tables(found, lang):
        table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for h in head:
            table.add_column(escape(h))
        for row in body:
            table.add_row(*(escape(c) or "-" for c in row))
        out.print(table)
    if written:
        out.print(f"\n{escape(str(written[0]))}", soft_wrap=True)
    return 0
