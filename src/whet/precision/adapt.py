"""Adaptive rounding of a whole graph: every layer's inputs are watched, and its codes chosen for what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from whet.ir.graph import Graph
from whet.precision.batches import Batch, Data
from whet.precision.calibrate import Run
from whet.precision.insert import Layer, layers
from whet.precision.rounding import MOST_DEPTH, ROWS, Reconstruction

MOST_BYTES = 1 << 30  # of X'X and X'Y that are gathered in one walk over the data
ENOUGH = 4  # rows for each input of a layer
LEAST_ROWS = 4096


def adaptive_codes(graph: Graph, build: Callable[[Graph], Run], data: Data,
                   skip: Callable[[Layer], bool] = lambda layer: False, most_bytes: int = MOST_BYTES,
                   progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, np.ndarray]:
    """i8 codes by layer, for `insert(codes=)` and `bias.shifts(codes=)`, of the layers that can be quantized.

    graph:    prepared, its weights as they will be quantized (after equalization and smoothing).
    build:    makes of a graph what runs it: feeds -> arrays by output name.
    data:     walked once for each `most_bytes` of statistics (16 bytes times the square of a layer's depth).
    skip:     layers that are not to be rounded. Layers deeper than `rounding.MOST_DEPTH` keep their nearest codes, too.
    progress: called with the layers done and their number.
    """
    chosen = [l for l in layers(graph)
              if not l.reason and not l.node.input(0).is_const and not skip(l) and _depth(l) <= MOST_DEPTH]
    out: dict[str, np.ndarray] = {}
    batches = None if data.samples is None else -(-data.samples // data.size)
    for part in _parts(chosen, most_bytes):
        seen = {l.name: Reconstruction(l.node, _rows(l, batches)) for l in part}
        run = build(_watched(graph, part))
        for b in data.batches():
            values = run(b.feeds)
            for i, l in enumerate(part):
                seen[l.name].add(_real(np.asarray(values[f"x{i}"]), b))
        for l in part:
            out[l.name] = seen[l.name].round()
            progress(len(out), len(chosen))
    return out


def _depth(l: Layer) -> int:
    w = l.node.input(1).data
    assert w is not None
    return int(np.prod(w.shape[1:])) if l.node.op == "conv" else w.shape[0]


def _bytes(l: Layer) -> int:
    groups = l.node.attrs["group"] if l.node.op == "conv" else 1
    w = l.node.input(1).data
    assert w is not None
    return 16 * groups * _depth(l) ** 2 + 16 * w.size


def _parts(chosen: Sequence[Layer], most: int) -> Iterable[list[Layer]]:
    """Layers in order, in parts whose statistics fit."""
    part: list[Layer] = []
    for l in chosen:
        if part and sum(map(_bytes, part)) + _bytes(l) > most:
            yield part
            part = []
        part.append(l)
    if part:
        yield part


def _rows(l: Layer, batches: int | None) -> int:
    """Rows to take of each batch, so that there will be enough of all."""
    return ROWS if batches is None else max(-(-max(ENOUGH * _depth(l), LEAST_ROWS) // batches), 1)


def _watched(graph: Graph, part: Sequence[Layer]) -> Graph:
    """A copy that gives the inputs of these layers, as x0, x1..."""
    places = {id(n): i for i, n in enumerate(graph.nodes)}
    out = graph.copy()
    values = []
    for l in part:
        v = out.nodes[places[id(l.node)]].input(0)
        values.append(out.add("reshape", [v], {"shape": v.shape}) if v in out.inputs else v)
    out.outputs, out.output_names = values, [f"x{i}" for i in range(len(part))]
    out.prune()
    return out


def _real(a: np.ndarray, b: Batch) -> np.ndarray:
    """Without the samples that a full batch repeats."""
    rows = {x.shape[0] for x in b.feeds.values() if x.ndim}
    return a[:b.count] if rows == {a.shape[0]} and a.ndim else a
