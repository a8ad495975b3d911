"""What becomes of a model: which steps run on the host, which only move memory, and their share of the time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whet import passes
from whet.errors import WhetError
from whet.frontends.reference import reason
from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node
from whet.ir.ops_host import HOST
from whet.ir.symbolic import names, upper
from whet.targets.cpu.target import CpuTarget
from whet.tools.lint_codes import Finding, finding
from whet.tools.lint_weights import size
from whet.tools.steps import launched, moves, node_name

OWN_BYTES = 1 << 20  # of a cast or copy that is worth a word
OWN_SHARE = 0.01
COPY = "copy for "  # how lowering calls the copies that it adds
LARGE_BYTES = 1 << 30


def dimensions(graph: Graph, inputs: set[str], profiles: Sequence[Mapping[str, Any]] | None) -> list[Finding]:
    """Dimensions whose range is a guess, and those that data decides. `inputs`: the model's own."""
    out: list[Finding] = []
    profiled = {n for p in profiles or () for n in p}
    where: dict[str, list[str]] = {}
    told_by: dict[str, list[str]] = {}
    for v in graph.inputs:
        for i, d in enumerate(v.shape if v.name in inputs else ()):
            for n in names(d):
                where.setdefault(n, []).append(f"{v.name}[{i}]")
                if v.name in profiled:
                    profiled.add(n)
    for name, (low, opt, high) in graph.dims.items():
        if name in where:
            if low < high and name not in profiled:
                out.append(finding(
                    "L205", name, f"the dimension {name} ({', '.join(where[name][:3])}) has no profile",
                    f"whet takes {low} to {high} and tunes for {opt}: other sizes are refused when the plan runs",
                    "give --min-shapes, --opt-shapes and --max-shapes, or fix it with --shapes",
                    min=low, opt=opt, max=high))
        elif low < high:
            told = graph.sizes.get(name)
            origin = told.value.producer.origin if told is not None and told.value.producer is not None else ""
            told_by.setdefault(origin, []).append(name)
    for origin, sizes in told_by.items():
        op, _, node = origin.partition(" ")
        most = max(graph.dims[n][2] for n in sizes)
        out.append(finding("L206", node or sizes[0], f"{len(sizes)} sizes depend on data" if len(sizes) > 1 else
                           "a size depends on data",
                           f"{', '.join(sizes[:4])}: known while the model runs, at most {most}",
                           "nothing, if that bound is right", op=op, max=most, count=len(sizes)))
    return out


def check(graph: Graph, threads: int | None = None) -> list[Finding]:
    """Host steps, and large casts and copies of their own, with their share of the estimated time."""
    large = _large(graph)
    try:
        cpu = CpuTarget.of_host(threads or len(os.sched_getaffinity(0)))
        found = launched(passes.run(graph), cpu)
    except WhetError as e:
        return [*large, finding("L201", e.where, e.what, e.why, e.do)]
    total = sum(s.seconds for s in found) or 1.0
    out = []
    for s in found:
        share = round(s.seconds / total, 4)
        text = _estimated(share)
        if s.kind == "host":
            out.append(_hosted(s.node, text, {"share": share, "basis": "estimated"}))
        elif s.region is not None and s.bytes >= OWN_BYTES and share >= OWN_SHARE and (kind := moves(s.region)):
            code = "L207" if kind == "cast" else "L208"
            origin = s.node.origin.removeprefix(COPY)
            op, _, name = origin.partition(" ")
            added = origin != s.node.origin  # by lowering, for a reader that follows no such strides
            if origin.startswith("output "):
                op, name = "", origin
            what = f"a copy for {origin}" if added else f"a {kind} of its own"
            out.append(finding(code, name or s.region.kind, f"{what} that moves {size(s.bytes)}", text, op=op,
                               do="keep neighbours in one type" if kind == "cast" else
                               "see whet inspect for the layout that its neighbours want",
                               share=share, basis="estimated", bytes=s.bytes, layer=s.node.origin))
    return large + out


def _estimated(share: float) -> str:
    return f"about {share:.0%} of the estimated time"


def hosted(graph: Graph) -> list[Finding]:
    """The nodes of an imported graph that will run on the host, where nothing is known about their time."""
    return [_hosted(n, "", {}) for n in graph.nodes if n.op in HOST]


def _hosted(node: Node, text: str, data: Mapping[str, Any]) -> Finding:
    op, _, name = node.origin.partition(" ")
    if node.op == "plugin":
        return finding("L211", name, f"{op} runs on the host by a plugin", text, "give the plugin a lowering to whet's "
                       "operators, if it has one", op=op, **data)
    if node.op in HOST - {"onnx"}:
        return finding("L203", name, f"{op} decides on the host what runs", text, "nothing: its bodies are compiled",
                       op=op, **data)
    return finding("L202", name, f"{op} runs on the host by a reference kernel",
                   "; ".join(x for x in (reason(node), text) if x),
                   "replace it by operators that whet compiles, or register it as a plugin", op=op, **data)


def _large(graph: Graph) -> list[Finding]:
    ranges = {n: (low, high) for n, (low, _, high) in graph.dims.items() if n not in graph.sizes}
    out = []
    for v in (*graph.inputs, *(o for n in graph.nodes for o in n.outputs)):
        if v.data is None and v.dtype is not DType.OBJECT and not names(*v.shape) - ranges.keys():
            count = _product([upper(d, ranges) for d in v.shape]) * v.dtype.size
            if count > LARGE_BYTES:
                origin = v.producer.origin if v.producer is not None else ""
                out.append(finding("L209", node_name(origin) or v.name, f"a tensor of up to {size(count)}: {v!r}",
                                   "at the profile's maximum", "bound its dimensions by a profile",
                                   op=origin.split(" ", 1)[0], bytes=count))
    return out


def _product(dims: Sequence[int]) -> int:
    out = 1
    for d in dims:
        out *= max(0, d)
    return out


def measured(found: Sequence[Finding], model: Any, shapes: Mapping[str, Sequence[Any]] | None,
             profiles: Sequence[Mapping[str, Any]] | None, feeds: Mapping[str, Any] | None,
             threads: int | None) -> list[Finding]:
    """The findings with shares as timed on a plan that is built for it, at the profile's optimum or on `feeds`."""
    from whet.pipeline import build
    from whet.tools.timing import time_layers

    with_plan = build(model, shapes=shapes, profiles=profiles, threads=threads, opt_level=1)
    try:
        timed = time_layers(with_plan, feeds)
    finally:
        with_plan.close()
    out = []
    for f in found:
        found_share = timed.share(f.data.get("layer", f.node)) if "share" in f.data else None
        if found_share is not None:
            share = round(found_share, 4)
            text = f.why.replace(_estimated(f.data["share"]), f"{share:.0%} of the measured time")
            f = replace(f, why=text, data={**f.data, "share": share, "basis": "measured"})
        out.append(f)
    return out
