"""`whet debug ...`: which layer departs, the least model that fails, which layers need more bits, what varies."""

from __future__ import annotations

import json as encoder
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from whet.cli import options
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.tools.debug.layers import Layer, Layers
    from whet.tools.debug.precision import Needs
    from whet.tools.debug.reduce import Reduced
    from whet.tools.debug.repeat import Repeated

SHOWN = 12  # rows of a table; JSON has them all

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown",
                  help="Find out what is wrong.\n\nExit codes: 0 it held, 1 it did not, 2 bad input.")

Inputs = Annotated[Path | None, Option("--inputs", help="An .npz file with one array per input. Default: random ones.")]
Against = Annotated[str, Option("--against", help="Whose values are right: onnxruntime, or reference (ONNX's own "
                                                  "kernels, slow; plugins by their functions).")]
Atol = Annotated[float | None, Option("--atol", min=0, help="Allowed besides --rtol. Default: 1e-5 (bf16: 1e-3).")]
Rtol = Annotated[float | None, Option("--rtol", min=0, help="Allowed of a tensor's largest element. Default: 1e-3 "
                                                            "(bf16: 5e-2).")]
Json = Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")]
Bf16 = Annotated[bool, Option("--bf16", help="Build for bf16 (emulated where the CPU has none).")]
OptLevel = Annotated[int, Option("--opt-level", min=0, max=5, help="Of the builds; 3 takes the kernels that whet build "
                                                                   "takes.")]


@app.command()
def layers(
    model: options.Model,
    inputs: Inputs = None,
    against: Against = "onnxruntime",
    atol: Atol = None,
    rtol: Rtol = None,
    values: Annotated[list[str] | None, Option("--values", metavar="NAME,...", help="Compare these values alone; all "
                                               "else is fused as usual.")] = None,
    shapes: options.Shapes = None,
    bf16: Bf16 = False,
    everything: Annotated[bool, Option("--all", help="Show every value.")] = False,
    threads: options.Threads = None,
    opt_level: OptLevel = 0,
    json: Json = "",
) -> None:
    """Compare every intermediate value with a reference's, and name the first layer that departs.

    Exit code 1: a value is too far off.

    Examples: whet debug layers model.onnx

    whet debug layers model.onnx --inputs x.npz --against reference --bf16 --json layers.json
    """
    from whet.cli.progress import build_progress
    from whet.tools import debug

    _check(json)
    with build_progress() as progress:
        found = debug.layers(model, _feeds(inputs), against=against, bf16=bf16, atol=atol, rtol=rtol,
                             only=_names(values), shapes=_shapes(shapes), threads=threads, opt_level=opt_level,
                             progress=progress)
    if _write(json, found.document()):
        _print_layers(model, found, everything)
    raise typer.Exit(0 if found.held else 1)


@app.command()
def reduce(
    model: options.Model,
    output: Annotated[Path, Option("-o", "--output", help="Where to write the reduced model; its inputs go into an "
                                                          ".npz beside it.")] = Path("reduced.onnx"),
    check: Annotated[str, Option("--check", metavar="COMMAND", help="A command with {model} (and {inputs}, an .npz) "
                                 "that exits with 0 for a model that is well.")] = "",
    compare: Annotated[bool, Option("--compare", help="Build and run it by whet and compare with a reference (the "
                                                      "default).")] = False,
    inputs: Inputs = None,
    against: Against = "onnxruntime",
    atol: Atol = None,
    rtol: Rtol = None,
    shapes: options.Shapes = None,
    bf16: Bf16 = False,
    timeout: Annotated[float, Option("--timeout", min=0.1, help="Seconds of a candidate.")] = 60.0,
    limit: Annotated[float, Option("--limit", min=0, help="Seconds of the search; 0: until it is done.")] = 0.0,
    threads: options.Threads = None,
    opt_level: OptLevel = 0,
    json: Json = "",
) -> None:
    """Make a failing model smaller for as long as it fails in the same way.

    Exit code 1: it fails, and the reduced model is written; 0: it does not fail.

    Examples: whet debug reduce model.onnx -o small.onnx

    whet debug reduce model.onnx -o small.onnx --check 'python check.py {model} {inputs}' --timeout 20
    """
    from whet.cli.files import check_output, write_npz
    from whet.cli.progress import build_progress
    from whet.tools import debug
    from whet.tools.debug.reduce import arrays

    if check and compare:
        raise InputError("--check and --compare are two ways to tell a failure", do="give one of them")
    check_output(output, "the reduced model")
    _check(json)
    kept = output.with_suffix(".npz")

    def keep(smaller: Any, feeds: Mapping[str, Any]) -> None:
        smaller.save(output)
        write_npz(kept, arrays(feeds))

    with build_progress() as progress:
        found = debug.reduce(model, _feeds(inputs), check=check, against=against, timeout=timeout, bf16=bf16,
                             atol=atol, rtol=rtol, shapes=_shapes(shapes), threads=threads, opt_level=opt_level,
                             limit=limit or float("inf"), progress=progress, found=keep)
    if not found.held:
        keep(found.model, found.feeds)
    if _write(json, found.document()):
        _print_reduced(model, found, output, kept)
    raise typer.Exit(0 if found.held else 1)


@app.command()
def precision(
    model: options.Model,
    inputs: Inputs = None,
    measure: Annotated[str, Option("--measure", help="alone: a layer in bf16, the others in fp32; without: all but "
                                                     "it in bf16.")] = "alone",
    target: Annotated[float, Option("--target", min=0, help="Relative L2 error of the outputs that is "
                                                               "allowed.")] = 5e-2,
    layer: Annotated[list[str] | None, Option("--layers", metavar="NAME,...", help="Measure these layers.")] = None,
    shapes: options.Shapes = None,
    everything: Annotated[bool, Option("--all", help="Show every layer.")] = False,
    threads: options.Threads = None,
    json: Json = "",
) -> None:
    """Measure what each layer adds to the outputs' error when it is in bf16, and which have to stay in fp32.

    A build and a run for each layer. Exit code 1: all of it in bf16 is further off than --target.

    Example: whet debug precision model.onnx --inputs x.npz --target 1e-2
    """
    from whet.cli.progress import build_progress
    from whet.tools import debug

    _check(json)
    with build_progress() as progress:
        found = debug.precision(model, _feeds(inputs), measure=measure, target=target, only=_names(layer),
                                shapes=_shapes(shapes), threads=threads, progress=progress)
    if _write(json, found.document()):
        _print_needs(model, found, everything)
    raise typer.Exit(0 if found.held else 1)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def repeat(
    command: Annotated[list[str], Argument(help="The command, after --.", show_default=False)],
    times: Annotated[int, Option("--times", min=2, help="Runs at most.")] = 100,
    timeout: Annotated[float | None, Option("--timeout", min=0.01, help="Seconds of a run.")] = None,
    files: Annotated[list[str] | None, Option("--file", metavar="NAME,...", help="Files that the command writes, "
                                              "compared by their SHA-256.")] = None,
    stdout: Annotated[bool, Option("--stdout/--no-stdout", help="Compare what it prints.")] = True,
    json: Json = "",
) -> None:
    """Run a command until its exit code, what it prints or a file that it writes differs from the first run's.

    Exit code 1: something differed.

    Example: whet debug repeat --times 50 --file y.npz -- whet run model.plan --inputs x.npz -o y.npz
    """
    from whet.cli.progress import build_progress
    from whet.tools import debug

    _check(json)
    with build_progress() as progress:
        found = debug.repeat(command, times, timeout, _names(files), stdout,
                             lambda run, seen: progress("running", run, times))
    if _write(json, found.document()):
        _print_repeated(found)
    raise typer.Exit(0 if found.held else 1)


# -- what is shown -------------------------------------------------------------------------------


def _print_layers(path: Path, found: Layers, everything: bool) -> None:
    out = _console()
    first = found.first
    rows = found.layers if everything else [l for l in found.layers if not l.deviation.held][:SHOWN]
    if rows:
        known = {l.value: l for l in found.layers}
        if not everything and first is not None:  # what the first one reads
            rows = [*(known[i] for i in first.inputs if i in known), *rows]
        out.print(_table(rows, first))
        hidden = len(found.departed) - SHOWN
        if not everything and hidden > 0:
            out.print(f"... and {hidden} more that depart (--all, or --json)")
    worst = max(found.layers, key=lambda l: l.deviation.relative_l2, default=None)
    _lines(out, f"{path}: {len(found.layers)} values compared with {found.against}, {found.precision}, "
                f"atol {found.tolerance.absolute:g}, rtol {found.tolerance.relative:g}")
    if found.random:
        _lines(out, f"{len(found.random)} values are random and were not compared")
    if first is None:
        _lines(out, "no value departs" + (f"; the furthest is {worst.value} ({worst.op} {worst.node}), relative L2 "
                                          f"{worst.deviation.relative_l2:.3g}" if worst else ""))
    else:
        _lines(out, f"the first that departs: {first.value}, by {first.op} {first.node}: {first.deviation.why}",
               *_alone(found))
    for name, d in found.outputs.items():
        if not d.held:
            _lines(out, f"output {name} of the plan as it is built: {d.why}" + (
                "" if first is not None else ", though no value departs when all are outputs: fusion makes the "
                "difference; whet debug reduce finds the nodes"))


def _alone(found: Layers) -> list[str]:
    if found.alone is None:
        return [f"it cannot be built by itself: {found.alone_error}"]
    off = next((d for d in found.alone.values() if not d.held), None)
    if off is not None:
        return [f"built by itself, on the reference's inputs, it departs too: {off.why}"]
    return ["built by itself, on the reference's inputs, it holds: what it is given, or what it is fused with, is off"]


def _table(rows: Sequence[Layer], first: Layer | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("value", "operator", "node"):
        table.add_column(name, overflow="fold")
    for name in ("max abs", "relative L2", "NaN", "inf", ""):
        table.add_column(name, justify="left" if not name else "right")
    for l in dict.fromkeys(rows):
        d = l.deviation
        table.add_row(_plain(l.value), l.op, _plain(l.node), f"{d.max_abs:.3g}", f"{d.relative_l2:.3g}",
                      _counts(d.nan, d.reference_nan), _counts(d.inf, d.reference_inf),
                      "" if d.held else "first" if l is first else "departs", style=None if d.held else "red")
    return table


def _counts(ours: int, reference: int) -> str:
    return str(ours) if ours == reference else f"{ours} (not {reference})"


def _print_reduced(path: Path, found: Reduced, output: Path, kept: Path) -> None:
    out = _console()
    _lines(out, *found.notes)
    if found.held:
        _lines(out, f"{path}: it does not fail")
        return
    _lines(out, f"{path}: {found.failure.kind}: {found.failure.what}",
           f"{found.nodes} of {found.nodes_before} nodes left after {found.trials} trials in {found.seconds:.1f} s:",
           *(f"  {n.op_type} {n.name}: {', '.join(n.input)} -> {', '.join(n.output)}"
             for n in list(found.model.proto.graph.node)[:SHOWN]),
           *(["  ..."] if found.nodes > SHOWN else []), f"{output} written, and its inputs {kept}")


def _print_needs(path: Path, found: Needs, everything: bool) -> None:
    out = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "kind"):
        table.add_column(name, overflow="fold")
    table.add_column("alone in bf16" if found.measure == "alone" else "all but it in bf16", justify="right")
    if found.measure == "without":
        table.add_column("gain", justify="right")
    rows = found.contributions if everything else found.contributions[:SHOWN]
    for c in rows:
        figures = (c.error,) if found.measure == "alone" else (c.error, c.gain)
        table.add_row(_plain(c.layer), c.kind, *(f"{x:.3g}" for x in figures),
                      style="red" if c.layer in found.keep else None)
    out.print(table)
    if len(rows) < len(found.contributions):
        _lines(out, f"... and {len(found.contributions) - len(rows)} more (--all, or --json)")
    _lines(out, f"{path}: relative L2 error in bf16 {found.error:.3g}, {found.target:g} is allowed")
    if found.keep and found.kept_error is not None:
        enough = "" if found.kept_error <= found.target else ": not enough"
        _lines(out, f"with {len(found.keep)} layers in fp32 it is {found.kept_error:.3g}{enough}",
               "fp32_layers=" + repr(found.keep))


def _print_repeated(found: Repeated) -> None:
    out = _console()
    if found.held:
        _lines(out, f"{found.runs} runs gave the same")
        return
    _lines(out, f"run {found.runs} differs from run 1: {', '.join(found.differs)}")
    if "exit code" in found.differs:
        _lines(out, f"  exit code {_code(found.first.exit_code)}, then {_code(found.last.exit_code)}")
    _lines(out, *("  " + l for l in found.lines()),
           *(f"  {n}: {found.first.files[n][:16]}, then {found.last.files[n][:16]}"
             for n in found.first.files if f"file {n}" in found.differs))


def _code(code: int | None) -> str:
    return "none: it took too long" if code is None else str(code)


# -- what the commands share ---------------------------------------------------------------------


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def _lines(out: Console, *lines: str) -> None:
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _feeds(path: Path | None) -> dict[str, Any] | None:
    from whet.cli.shapes import load_inputs

    return load_inputs(path) if path is not None else None


def _shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    from whet.cli.shapes import parse_shapes

    return parse_shapes(texts or ())


def _names(texts: list[str] | None) -> list[str]:
    return [part.strip() for t in texts or () for part in t.split(",")]


def _check(json: str) -> None:
    """OutputError if the JSON could not be written, before the work that fills it."""
    from whet.cli.files import check_output

    if json and json != "-":
        check_output(Path(json), "the result")


def _write(json: str, document: dict[str, Any]) -> bool:
    """Write the JSON where it is asked for; True if the text is to be shown."""
    from whet.cli.files import write_bytes

    if json:
        text = encoder.dumps(document, indent=1) + "\n"
        if json == "-":
            print(text, end="")
        else:
            write_bytes(Path(json), text.encode())
    return json != "-"
