"""`whet lint`: what is wrong with a model or plan, as text or JSON."""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from whet.cli import options
from whet.errors import InputError
from whet.tools.lint_codes import SEVERITIES, Finding, document, encode, stops

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
SHOWN = 8  # findings of one code that are shown; JSON has them all


@dataclass(frozen=True)
class Options:
    """What was asked for, as the command line says it."""

    path: Path
    json: str = ""  # a file, or - for stdout
    severity: str = "note"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None
    inputs: Path | None = None
    measure: bool = False
    threads: int | None = None
    all: bool = False


def command(
    path: Annotated[Path, typer.Argument(help="An ONNX model, or a plan.", show_default=False)],
    json: Annotated[str, typer.Option("--json", metavar="FILE", help="Write the findings as JSON; - is stdout.")] = "",
    severity: Annotated[str, typer.Option(help="The least to show: error, warning or note.")] = "note",
    shapes: options.Shapes = None,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="An .npz file: run the model on it by the reference "
                                                                 "kernels, and report what overflows.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Build and time it: what slow steps really cost.")] = False,
    threads: options.Threads = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every finding, not the first few of a kind.")] = False,
) -> None:
    """Say everything that is wrong with a model, in one pass: what would stop a build, what is slow, what is risky.

    Exit code 1: something would stop a build.

    Examples: whet lint model.onnx

    whet lint model.onnx --severity warning --json - --opt-shapes ids:1x128
    """
    from whet.cli.shapes import parse_profile, parse_shapes

    raise typer.Exit(run(Options(
        path, json, severity, parse_shapes(shapes or ()),
        parse_profile(min_shapes or (), opt_shapes or (), max_shapes or ()), inputs, measure, threads, everything)))


def run(asked: Options) -> int:
    """Print the findings; 1 if one of them would stop a build (or the loading of a plan), else 0."""
    from whet.cli.files import check_output, write_bytes
    from whet.cli.shapes import load_inputs
    from whet.tools.lint import lint

    if asked.severity not in SEVERITIES:
        raise InputError(f"no severity {asked.severity!r}", why=f"there are {', '.join(SEVERITIES)}",
                         do="choose among these")
    if asked.json and asked.json != "-":
        check_output(Path(asked.json), "the findings")
    feeds = load_inputs(asked.inputs) if asked.inputs is not None else None
    found = lint(asked.path, shapes=dict(asked.shapes) or None,
                 profiles=[asked.profile] if asked.profile else None, feeds=feeds, measure=asked.measure,
                 threads=asked.threads)
    limit = SEVERITIES.index(asked.severity)
    shown = [f for f in found if SEVERITIES.index(f.severity) <= limit]
    if asked.json:
        text = encode(document(str(asked.path), shown))
        if asked.json == "-":
            print(text.decode(), end="")
        else:
            write_bytes(Path(asked.json), text)
    if asked.json != "-":
        _print(asked.path, shown, asked.all)
    return 1 if stops(found) else 0


def _print(path: Path, found: Sequence[Finding], everything: bool) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    groups: dict[str, list[Finding]] = {}
    for f in found:
        groups.setdefault(f.code, []).append(f)
    for code, group in groups.items():
        first = group[0]
        count = f" ({len(group)})" if len(group) > 1 else ""
        out.print(f"\n[{COLOURS[first.severity]}]{first.severity} {code}[/] [bold]{first.title}[/]{count}")
        shown = group if everything else group[:SHOWN]
        for f in shown:
            where = f"[bold]{escape(f.node)}[/]: " if f.node else ""
            out.print(f"  {where}{escape(f.what)}", soft_wrap=True)
            if f.why and (len(group) == 1 or f.why != first.why or f is first):
                out.print(f"    {escape(f.why)}", style="dim", soft_wrap=True)
            if f.do and (f is shown[-1] or f.do != group[group.index(f) + 1].do):
                out.print(f"    [green]do:[/] {escape(f.do)}", soft_wrap=True)
        if len(shown) < len(group):
            out.print(f"  ... and {len(group) - len(shown)} more (--all, or --json)")
    counts = collections.Counter(f.severity for f in found)
    said = ", ".join(f"{counts[s]} {s}{'s' * (counts[s] != 1)}" for s in SEVERITIES if counts[s]) or "nothing to say"
    verdict = "[bold red]a build would stop[/]" if stops(found) else "[green]nothing would stop a build[/]"
    out.print(f"\n{escape(str(path))}: {said}; {verdict}", soft_wrap=True)
