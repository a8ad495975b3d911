"""The order of the passes, and running them with dumps and verification."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.ir.graph import Graph, Node
from whet.ir.printer import to_text
from whet.ir.verify import verify as check
from whet.passes import (
    activations,
    algebra,
    attention,
    constants,
    cse,
    dead,
    embeddings,
    fuse,
    grouped,
    integer,
    joins,
    layout,
    movement,
    normalization,
    pads,
    parallel,
    partial_sums,
    precision,
    rotary,
    scales,
    slices,
    softmax,
    squeeze,
    transposes,
)
from whet.passes.on_load import OnLoad


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a graph; `apply` changes it in place or returns a new one."""

    name: str
    apply: Callable[[Graph], Graph | None]


CLEAN = (
    Pass("constants", constants.fold_constants),
    Pass("algebra", algebra.simplify),
    Pass("movement", movement.simplify),
    Pass("common", cse.merge_common),
    Pass("dead", dead.remove_dead),
)

PATTERNS = (
    Pass("activations", activations.recognize),
    Pass("softmax", softmax.recognize),
    Pass("normalization", normalization.recognize),
    Pass("attention", attention.recognize),
    Pass("rotary", rotary.recognize),
    Pass("pads", pads.fold_pads),
    Pass("scales", scales.fold_scales),
    Pass("parallel", parallel.merge_parallel),
    Pass("slices", slices.move_up),
)

PREPARE: list[Pass] = [
    Pass("grouped", grouped.recognize),  # before constants are folded
    *CLEAN,
    *CLEAN,  # what the first round uncovered
    *PATTERNS,
    *CLEAN,
]
FINISH: list[Pass] = [
    Pass("layout", layout.channels_last),
    Pass("transposes", transposes.sink),
    Pass("lift", algebra.lift),
    Pass("joins", joins.simplify),
    *CLEAN,
    Pass("columns", grouped.keep_codes),
    Pass("integer", integer.to_integers),
]
PASSES = [*PREPARE, *FINISH]  # between the two, `precision` inserts quantize and dequantize


def run(graph: Graph, compute: str = "fp32", dump: Path | None = None, verify: bool = False,
        keep: Callable[[Node], bool] = precision.nowhere, **more: Any) -> Graph:
    """From the frontend's graph to a graph of regions: PASSES, then `regions`.

    compute: "fp32", "bf16" or "fp16" (products and activations in it where `precision` finds it safe), "tf32".
    dump:    a folder that gets `NN-name.txt` after each pass: the graph as text under a line of statistics.
    verify:  check the graph's legality after each pass; a fault names the pass.
    keep:    regions that stay in fp32; `more`: of `regions`.
    """
    return finish(prepare(graph, dump, verify), compute, dump, verify, keep, **more)


def prepare(graph: Graph, dump: Path | None = None, verify: bool = False) -> Graph:
    """PREPARE: cleaned up, patterns recognized, channels first. What `precision` calibrates and quantizes."""
    return apply(graph, PREPARE, dump, verify)


def finish(graph: Graph, compute: str = "fp32", dump: Path | None = None, verify: bool = False,
           keep: Callable[[Node], bool] = precision.nowhere, **more: Any) -> Graph:
    """From a prepared graph to a graph of regions: FINISH, then `regions`."""
    return regions(apply(graph, FINISH, dump, verify, first=len(PREPARE)), compute, dump, verify, keep,
                   **more)


def regions(graph: Graph, compute: str = "fp32", dump: Path | None = None, verify: bool = False,
            keep: Callable[[Node], bool] = precision.nowhere, multiprocessors: int = 0, **more: Any) -> Graph:
    """The graph of regions: `fuse.form_regions`, then `precision.assign` (which takes `more`), and for a GPU of so many
    multiprocessors `partial_sums.divide`, `embeddings.absorb` and `squeeze.attach`.

    The nodes of the result are regions (op `region`, the Region in attrs["region"]), views (`reshape`,
    `transpose`, `slice`, `expand`, `concat`) and host steps (`onnx`). Dumps are numbered after PASSES.
    """
    traits: precision.Traits = more.get("traits", precision.CPU)
    on_load = OnLoad(compute) if traits.on_load else None
    steps = [Pass("regions", lambda g: fuse.form_regions(g, on_load))]
    if compute not in ("fp32", "f32") or traits.halves:
        steps.append(Pass("precision", lambda g: precision.assign(g, compute, keep, **more)))
    if multiprocessors:
        steps.append(Pass("partial-sums", lambda g: partial_sums.divide(g, multiprocessors)))
        steps.append(Pass("embeddings", embeddings.absorb))
        steps.append(Pass("squeeze", squeeze.attach))
    return apply(graph, steps, dump, verify, first=len(PASSES))


def apply(graph: Graph, passes: Iterable[Pass], dump: Path | None = None, verify: bool = False,
          first: int = 0) -> Graph:
    """Run these passes in order, on the bodies of control flow too; dumps are numbered from `first`."""
    for i, p in enumerate(passes, first):
        before = len(graph.nodes)
        graph = _everywhere(p, graph)
        if verify:
            check(graph, p.name)
        if dump is not None:
            _dump(graph, dump, i, p.name, before)
    return graph


def _everywhere(p: Pass, graph: Graph) -> Graph:
    """The pass on a graph and on the graphs inside it."""
    graph = p.apply(graph) or graph
    for n in graph.nodes:
        for key, a in n.attrs.items():
            if isinstance(a, Graph):
                n.attrs[key] = _everywhere(p, a)
    return graph


def statistics(graph: Graph) -> str:
    """One line: how many nodes of each kind (regions by their anchor)."""
    kinds = collections.Counter(n.attrs["region"].kind if n.op == "region" else n.op for n in graph.nodes)
    return ", ".join(f"{k} {c}" for k, c in kinds.most_common())


def _dump(graph: Graph, folder: Path, number: int, name: str, before: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# {name}: {before} -> {len(graph.nodes)} nodes: {statistics(graph)}\n"
    (folder / f"{number:02d}-{name}.txt").write_text(head + to_text(graph))
