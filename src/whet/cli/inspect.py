"""`whet inspect` and what `whet build` prints at its end."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli.files import is_onnx
from whet.plan import Plan

MIB = 1 << 20


def show(path: Path, as_json: bool) -> None:
    """Print what a plan or a model holds."""
    if is_onnx(path):
        _show_model(path, as_json)
        return
    plan = Plan.open(path)
    if as_json:
        print(json.dumps(plan.summary(), indent=1))
    else:
        print_summary(plan, path)
        print_layers(plan)


def print_summary(plan: Plan, path: Path) -> None:
    """One screen: shapes, target, steps, memory."""
    s = plan.summary()
    out = Console(highlight=False)
    out.print(f"[bold]{path}[/bold]  {s['bytes'] / MIB:.1f} MiB, hash {s['hash'][:16]}")
    t = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    t.add_row("model", f"{s['model']['name']}, sha256 {s['model']['sha256'][:16]}")
    for kind in ("inputs", "outputs"):
        t.add_row(kind, "\n".join(_tensor(i) for i in s[kind]))
    if s["profile"]:
        t.add_row("profile", "\n".join(f"{n}: {p['min']} .. {p['max']}, tuned at {p['opt']}"
                                       for n, p in s["profile"].items()))
    t.add_row("target", f"{s['target']['arch']} {s['target']['isa']}, {s['threads']} threads, "
                        f"computes in {s['precision']['compute']}")
    if s["precision"].get("note"):
        t.add_row("precision", s["precision"]["note"])
    t.add_row("steps", ", ".join(f"{n} {k}" for k, n in s["steps"].items() if n) + f"; {s['copies']} copies")
    m = s["memory"]
    t.add_row("memory", f"weights {s['weight_bytes'] / MIB:.1f} MiB, activations {m['arena'] / MIB:.1f} MiB "
                        f"(without sharing {m['sum_of_temporaries'] / MIB:.1f}), code {s['code_bytes'] / MIB:.2f} MiB")
    out.print(t)
    if s["steps"].get("reference"):
        out.print(f"[yellow]{s['steps']['reference']} steps run on reference kernels on the host, which are slow: "
                  f"{', '.join(sorted({l['name'] for l in s['layers'] if l['kind'] == 'host'}))}[/yellow]")


def _tensor(t: dict[str, Any]) -> str:
    return escape(f"{t['name']}: {t['dtype']} [{', '.join(map(str, t['shape']))}]")


def print_layers(plan: Plan) -> None:
    """A row for each layer: what runs it, with which parameters, as measured."""
    layers, evidence = plan.summary()["layers"], plan.evidence.get("tuning", [])
    times = iter(evidence)
    table = Table("layer", "kind", "precision", "tactic", "parameters", "tuned at", box=None, padding=(0, 2, 0, 0))
    for l in layers:
        e: dict[str, Any] = next(times, {}) if l["kind"] != "host" else {}
        seconds = e.get("seconds")
        table.add_row(l["name"], l["kind"], l.get("precision", ""), l["tactic"],
                      " ".join(f"{k}={v}" for k, v in l.get("params", {}).items()),
                      f"{seconds * 1e6:.1f} us" if seconds else e.get("how", ""))
    Console(highlight=False).print(table)


def _show_model(path: Path, as_json: bool) -> None:
    from whet.frontends import load_model

    graph = load_model(path)
    counts = collections.Counter(n.op for n in graph.nodes)
    parameters = sum(v.data.size for v in graph.values() if v.data is not None)
    data: dict[str, Any] = {
        "name": graph.name, "operators": dict(counts.most_common()), "parameters": parameters,
        "inputs": [{"name": v.name, "dtype": v.dtype.value, "shape": [str(d) for d in v.shape]} for v in graph.inputs],
        "outputs": [{"name": n, "dtype": v.dtype.value, "shape": [str(d) for d in v.shape]}
                    for n, v in zip(graph.output_names, graph.outputs)],
        "reference": sorted({n.attrs.get("op_type", n.op) for n in graph.nodes if n.op == "onnx"}),
    }
    if as_json:
        print(json.dumps(data, indent=1))
        return
    out = Console(highlight=False)
    out.print(f"[bold]{path}[/bold]  {data['name']}, {parameters / 1e6:.2f} M parameters")
    t = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for kind in ("inputs", "outputs"):
        t.add_row(kind, "\n".join(_tensor(i) for i in data[kind]))
    t.add_row("operators", ", ".join(f"{k} {n}" for k, n in counts.most_common()))
    if data["reference"]:
        t.add_row("reference", f"[yellow]{', '.join(data['reference'])}[/yellow] run on the host")
    out.print(t)
