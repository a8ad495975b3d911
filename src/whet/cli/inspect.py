"""`whet inspect`: a model or plan layer by layer, as text, JSON or a drawing; and what `whet build` says at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli import options

if TYPE_CHECKING:
    from whet.plan import Plan
    from whet.tools.inspect import Inspection, Layer

MIB = 1 << 20
HOSTED = ("host", "control")


@dataclass(frozen=True)
class Options:
    """What was asked for, as the command line says it."""

    path: Path
    json: bool = False
    html: Path | None = None
    time: bool = False
    inputs: Path | None = None
    top: int = 0
    params: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None
    threads: int | None = None
    build: Mapping[str, Any] = field(default_factory=dict)  # keywords of whet.build, for --time of a model


def command(
    path: Annotated[Path, typer.Argument(help="A plan, or an ONNX model.", show_default=False)],
    json: options.AsJson = False,
    html: Annotated[Path | None, typer.Option("--html", help="Draw the graph into this file: zoomable, searchable, "
                                                             "coloured by time, no network needed.")] = None,
    time: Annotated[bool, typer.Option("--time", help="Time each layer, and say how far it is from what this machine "
                                                      "can do. A model is built first.")] = False,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="With --time: an .npz file with one array per input. "
                                                                 "Default: random ones.")] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Only the slowest N layers.")] = 0,
    params: Annotated[bool, typer.Option("--params", help="Tactics with their parameters.")] = False,
    shapes: options.Shapes = None,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    threads: options.Threads = None,
    bf16: options.Bf16 = False,
    best: options.Best = False,
    opt_level: options.OptLevel = 1,
    timing_cache: options.TimingCacheFile = None,
) -> None:
    """Show what is in a plan or model: inputs, profile, regions, tactics, precision, bytes, operations, time, memory.

    Of a plan, the time of each layer is the tuner's; of a model, the cost model's estimate. --time measures.

    Examples: whet inspect resnet.plan --time --top 20

    whet inspect resnet.onnx --html resnet.html
    """
    from whet.cli.shapes import parse_profile, parse_shapes

    building = {"precision": {"fp32"} | ({"bf16"} if bf16 else set()) | ({"best"} if best else set()),
                "opt_level": opt_level, "timing_cache": timing_cache}
    show(Options(path, json, html, time, inputs, top, params, parse_shapes(shapes or ()),
                 parse_profile(min_shapes or (), opt_shapes or (), max_shapes or ()), threads, building))


def show(asked: Options) -> None:
    """Print, and draw where that was asked for."""
    from whet.cli.files import check_output, write_bytes

    if asked.html is not None:
        check_output(asked.html, "the drawing")
    found = _look(asked)
    if asked.html is not None:
        from whet.report.graph import page

        write_bytes(asked.html, page(picture(found)).encode())
    if asked.json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    _print_facts(found, str(asked.path))
    print_layers(found, asked.top, asked.params)
    if asked.html is not None:
        Console(highlight=False).print(f"Drawn in {escape(str(asked.html))}", soft_wrap=True)


def _look(asked: Options) -> Inspection:
    from whet.cli.files import is_onnx
    from whet.plan import Plan
    from whet.tools.inspect import inspect, inspect_plan

    if not asked.time:
        return inspect(asked.path, shapes=dict(asked.shapes) or None,
                       profiles=[asked.profile] if asked.profile else None, threads=asked.threads)
    if not is_onnx(asked.path):
        with_plan = Plan.open(asked.path)
    else:
        import whet
        from whet.cli.progress import build_progress

        with build_progress() as progress:
            with_plan = whet.build(
                asked.path, shapes=dict(asked.shapes) or None, threads=asked.threads, progress=progress,
                profiles=[asked.profile] if asked.profile else None, **asked.build)
    try:
        found = inspect_plan(with_plan)
        found.name = asked.path.name
        _time(found, with_plan, asked)
        return found
    finally:
        with_plan.close()


def _time(found: Inspection, plan: Plan, asked: Options) -> None:
    from whet.cli.progress import build_progress
    from whet.cli.shapes import load_inputs
    from whet.compare import measured_limits
    from whet.tools.inspect import apply_limits, apply_times
    from whet.tools.timing import time_layers

    feeds = load_inputs(asked.inputs) if asked.inputs is not None else None
    with build_progress() as progress:
        progress("timing the layers", 0, 0)
        apply_times(found, time_layers(plan, feeds, asked.threads))
        progress("measuring what this machine can do", 0, 0)
        apply_limits(found, measured_limits(asked.threads or plan.contents.runtime["threads"]))


def print_summary(plan: Plan, path: Path) -> None:
    """One screen about a plan: shapes, target, steps, memory."""
    from whet.tools.inspect import inspect_plan

    _print_facts(inspect_plan(plan), str(path))


def _print_facts(found: Inspection, path: str) -> None:
    out = Console(highlight=False)
    s = found.summary
    size = f"  {s['bytes'] / MIB:.1f} MiB, hash {s['hash'][:16]}" if "hash" in s else ""
    out.print(f"[bold]{escape(path)}[/bold]{size}")
    t = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = dict(found.facts)
    if found.kind == "model":
        rows = {"model": rows.pop("model"), "inputs": "\n".join(f"{n}: {k}" for n, k in found.inputs),
                "outputs": "\n".join(f"{n}: {k}" for n, k in found.outputs), **rows}
    for key, text in rows.items():
        t.add_row(key, escape(text))
    out.print(t)
    hosted = [l for l in found.layers if l.kind in HOSTED]
    if hosted:
        out.print(f"[yellow]{len(hosted)} steps run on the host, which is slow:[/yellow]")
        for name, why in dict.fromkeys((l.name, l.reason) for l in hosted):
            out.print(f"  [yellow]{escape(name)}[/yellow]: {escape(why)}", soft_wrap=True)


def print_layers(found: Inspection, top: int = 0, params: bool = False) -> None:
    """A row for each layer that runs: what runs it, on what, and what it costs."""
    from whet.report import rows

    layers = [l for l in found.layers if l.kind != "view"]
    if top:
        layers = sorted(layers, key=lambda l: -(l.seconds or 0))[:top]
    whole = found.seconds
    limited = any(l.limit for l in layers)
    table = Table("layer", "kind", "precision", "tactic", "result", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("MFLOP", "bytes", "FLOP/B", found.basis or "time", "share", *(["of limit"] if limited else [])):
        table.add_column(head, justify="right")
    for l in layers:
        cells = [escape(l.name), l.kind, l.precision, _tactic(l, params), escape(" ".join(l.results)),
                 rows.significant(l.flops / 1e6) if l.flops else "", rows.size(l.bytes) if l.bytes else "",
                 rows.significant(l.intensity) if l.flops and l.intensity else "",
                 rows.seconds(l.seconds) if l.seconds is not None else "",
                 f"{l.seconds / whole:.1%}" if l.seconds is not None and whole else ""]
        if limited:
            cells.append(f"{l.fraction:.0%}" if l.fraction is not None else "")
        table.add_row(*cells, style="yellow" if l.kind in HOSTED else "")
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    out.print(table)
    out.print(_total(found), soft_wrap=True)


def _tactic(l: Layer, params: bool) -> str:
    return escape(" ".join([l.tactic, *(f"{k}={v}" for k, v in l.params.items() if params)]))


def _total(found: Inspection) -> str:
    from whet.report import rows

    words = {"measured": "as measured in whole runs", "tuned": "by the tuner, each alone",
             "estimated": "by the cost model's estimate (--time measures)"}
    text = f"{rows.seconds(found.seconds)} of all layers, {words.get(found.basis, '')}"
    if found.total is not None:
        text += f"; a whole call takes {rows.seconds(found.total)}"
    if limits := found.summary.get("limits"):
        text += (f". This machine reaches {limits['fp32'] / 1e9:.0f} GFLOP/s in fp32, {limits['bf16'] / 1e9:.0f} in "
                 f"bf16, and copies {limits['copy'] / 1e9:.1f} GB/s; beyond 100 % bytes come from caches")
    return text + "."


# -- the drawing ------------------------------------------------------------------------------------


def picture(found: Inspection) -> Any:
    """What `whet.report.graph` draws of it: inputs, layers, outputs, and the values between them."""
    from whet.report import rows
    from whet.report.graph import Node, Picture

    first, last = len(found.inputs), len(found.inputs) + len(found.layers)

    def place(i: int) -> int:
        return -1 - i if i < 0 else i + first

    nodes = [Node(name, "input", name, details=[("type", kind)]) for name, kind in found.inputs]
    nodes += [Node(l.name, l.kind, _label(l), l.seconds, l.fraction, l.precision, _details(l)) for l in found.layers]
    nodes += [Node(name, "output", name, details=[("type", kind)]) for name, kind in found.outputs]
    kernels = sum(l.kind not in ("view", *HOSTED) for l in found.layers)
    words = {"measured": "measured", "tuned": "tuned, each layer alone", "estimated": "estimated by the cost model"}
    summary = f"{kernels} kernels, {rows.seconds(found.seconds)} {words.get(found.basis, '')}"
    if found.total is not None:
        summary += f"; a call {rows.seconds(found.total)}"
    assert last <= len(nodes)
    note = "" if found.drawn else "This plan does not record its dataflow: layers are drawn in their order."
    return Picture(found.name, nodes, [(place(a), place(b), name) for a, b, name in found.edges()], found.facts,
                   found.basis, note, {"summary": summary})


def _label(l: Layer) -> str:
    if l.kind == "view":
        return l.tactic
    name = l.name.removeprefix("copy for ")
    return ("for " if name != l.name else "") + (name.partition(" ")[2] or name)


def _details(l: Layer) -> Sequence[tuple[str, str]]:
    from whet.report import rows

    bound = ""
    if l.limit is not None:
        bound = rows.seconds(l.limit) + (f" ({l.fraction:.0%} reached)" if l.fraction is not None else "")
    return [("precision", l.precision), ("tactic", l.tactic if l.kind != "view" else ""),
            ("parameters", " ".join(f"{k}={v}" for k, v in l.params.items())), ("least time", bound), ("why", l.reason),
            ("operations", f"{rows.significant(l.flops / 1e6)} MFLOP" if l.flops else ""),
            ("bytes", rows.size(l.bytes) if l.bytes else ""),
            ("intensity", f"{rows.significant(l.intensity)} FLOP/byte" if l.flops and l.intensity else ""),
            ("reads", "\n".join(l.operands)), ("writes", "\n".join(l.results)), ("computes", l.expression)]
