"""A layered drawing of a directed acyclic graph, for thousands of nodes in about a second.

The method of Sugiyama, Tagawa and Toda (1981): ranks by longest paths, edges across ranks through points of their own,
crossings lessened by sweeps of barycentres, and places in a rank by least squares (pool adjacent violators) around what
the neighbours want.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ROW = 86.0  # from one rank to the next
GAP = 26.0  # between neighbours in a rank
BEND = 14.0  # width that an edge takes where it passes a rank
LONG = 14  # ranks: longer edges take no place of their own, and are drawn beside the nodes
SWEEPS = 8


@dataclass
class Drawing:
    """Centres of the nodes, the points of each edge (without its ends; None for one that is drawn beside), extent."""

    x: list[float]
    y: list[float]
    bends: list[list[tuple[float, float]] | None]
    width: float
    height: float


def layout(widths: Sequence[float], edges: Sequence[tuple[int, int]], *, low: Sequence[int] = ()) -> Drawing:
    """Place nodes of these widths; every edge points from a lower to a higher index.

    low: nodes (inputs) that stand right before what reads them first, not at the top.
    """
    n = len(widths)
    rank = _ranks(n, edges, low)
    sizes = list(widths)
    chains: list[list[int] | None] = []
    ranks = list(rank)
    links: list[tuple[int, int]] = []
    for a, b in edges:
        span = rank[b] - rank[a]
        if span > LONG:
            chains.append(None)
            continue
        chain = list(range(len(sizes), len(sizes) + span - 1))
        sizes += [BEND] * len(chain)
        ranks += range(rank[a] + 1, rank[b])
        path = [a, *chain, b]
        links += pairwise(path)
        chains.append(chain)
    rows = _rows(ranks)
    above: list[list[int]] = [[] for _ in sizes]
    below: list[list[int]] = [[] for _ in sizes]
    for a, b in links:
        below[a].append(b)
        above[b].append(a)
    _uncross(rows, above, below)
    x = _place(rows, sizes, above, below, n)
    left = min((x[i] - sizes[i] / 2 for i in range(len(sizes))), default=0.0)
    x = [v - left for v in x]
    y = [r * ROW for r in ranks]
    bends = [None if c is None else [(x[i], y[i]) for i in c] for c in chains]
    width = max((x[i] + sizes[i] / 2 for i in range(len(sizes))), default=0.0)
    return Drawing(x[:n], y[:n], bends, width, max(y, default=0.0))


def _ranks(n: int, edges: Sequence[tuple[int, int]], low: Sequence[int]) -> list[int]:
    rank = [0] * n
    after: list[list[int]] = [[] for _ in range(n)]
    for a, b in edges:
        if not a < b:
            raise ValueError(f"the edge {a} -> {b} does not point onwards")
        after[a].append(b)
    for a in range(n):
        for b in after[a]:
            rank[b] = max(rank[b], rank[a] + 1)
    for a in low:
        if after[a]:
            rank[a] = max(0, min(rank[b] for b in after[a]) - 1)
    return rank


def _rows(ranks: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for i, r in enumerate(ranks):
        rows[r].append(i)
    return rows


def _uncross(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Order each row by the mean place of its neighbours in the row before, down and up in turns."""
    at: dict[int, float] = {}
    for row in rows:
        at.update((v, float(i)) for i, v in enumerate(row))

    def sweep(order: Sequence[list[int]], side: list[list[int]]) -> None:
        for row in order:
            if len(row) > 1:
                key = {v: sum(at[u] for u in side[v]) / len(side[v]) if side[v] else at[v] for v in row}
                row.sort(key=key.__getitem__)
                at.update((v, float(i)) for i, v in enumerate(row))

    for _ in range(SWEEPS):
        sweep(rows, above)
        sweep(rows[::-1], below)


def _place(rows: list[list[int]], sizes: Sequence[float], above: list[list[int]], below: list[list[int]],
           real: int) -> list[float]:
    """Places in each row that are near the mean of the neighbours', in order and apart."""
    x = [0.0] * len(sizes)
    for row in rows:
        at = 0.0
        for v in row:
            x[v] = at + sizes[v] / 2
            at += sizes[v] + GAP
        for v in row:
            x[v] -= at / 2

    def pull(row: list[int], sides: Sequence[list[list[int]]]) -> None:
        wanted, weight = [], []
        for v in row:
            total = heavy = 0.0
            for side in sides:
                for u in side[v]:
                    w = 1.0 if u < real and v < real else 2.0 if u < real or v < real else 8.0  # long edges: straight
                    total += w * x[u]
                    heavy += w
            wanted.append(total / heavy if heavy else x[v])
            weight.append(heavy or 0.1)
        for v, place in zip(row, _apart(wanted, weight, [sizes[v] for v in row])):
            x[v] = place

    for _ in range(SWEEPS):
        for row in rows:
            pull(row, (above,))
        for row in reversed(rows):
            pull(row, (below,))
    for row in rows:
        pull(row, (above, below))
    return x


def _apart(wanted: Sequence[float], weight: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep order and distance: isotonic regression after
    the distances are taken off."""
    offsets = [0.0]
    for a, b in pairwise(sizes):
        offsets.append(offsets[-1] + (a + b) / 2 + GAP)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for want, w, off in zip(wanted, weight, offsets):
        mean, total, count = want - off, w, 1
        while blocks and blocks[-1][0] > mean:
            m, t, c = blocks.pop()
            mean, total, count = (mean * total + m * t) / (total + t), total + t, count + c
        blocks.append((mean, total, count))
    flat = [mean for mean, _, count in blocks for _ in range(count)]
    return [v + off for v, off in zip(flat, offsets)]
