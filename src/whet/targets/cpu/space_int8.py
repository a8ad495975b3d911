"""Which parameters of 8-bit products are worth trying, and what they should cost."""

from __future__ import annotations

from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import Dim, product
from whet.targets.base import Params
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_problem import Problem, epilogue_inputs, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.microkernel_int8 import Dot

L1, L2 = 32 << 10, 1 << 20  # bytes that blocks are sized for


@dataclass(frozen=True)
class Extents:
    """The loops of a product at the optimum of the profile: see `product_int8.Lines`.

    static: the width is known when the kernel is written. row_bytes: bytes of A that a row adds to its neighbours'.
    codes: results are codes. others: the epilogue's operands of the result's shape. written: bytes that the epilogue
    reads and writes per element.
    """

    dot: Dot
    batch: int
    lines: int
    width: int
    static: bool
    columns: int
    runs: int
    steps: int
    row_bytes: int
    codes: bool
    others: int
    written: int

    @property
    def panel_row(self) -> int:
        """Bytes of a column of a packed panel."""
        return self.runs * self.steps * self.dot.group


def extents_of(region: Region, p: Problem, dot: Dot, lines: Dim, width: Dim, runs: int, steps: int,
               row_bytes: int) -> Extents:
    """The loops of a matmul region with rows in `lines` of `width`."""
    batch, count, rows = (max(1, opt(region, d)) for d in (product(p.batch), lines, width))
    whole = [t for t in (region.output, *(region.inputs[i] for i in epilogue_inputs(region)))
             if t.shape == region.output.shape]
    return Extents(dot, batch, count, rows, isinstance(width, int), max(1, opt(region, p.n)), runs, max(1, steps),
                   row_bytes, region.output.dtype.size == 1, len(whole) - 1, sum(t.dtype.size for t in whole))


def space(e: Extents, isa: Isa, threads: int) -> list[Params]:
    """Parameter settings, the most promising first."""
    found: list[tuple[float, Params]] = []
    for mr, nv in micro_tiles(e, isa):
        panels = -(-e.columns // (nv * isa.lanes))
        parts = -(-e.width // mr)
        for ml, mt, nt, order in _blocks(e, parts, mr, panels, nv * isa.lanes, threads):
            params: Params = {"mr": mr, "nv": nv, "ml": ml, "mt": mt, "nt": nt, "order": order, "unroll": 4,
                              "ahead": True}
            found.append((cost(e, params, isa, threads), params))
    found.sort(key=lambda f: f[0])
    taken: dict[tuple[int, int], int] = {}
    out: list[Params] = []
    for _, params in found:  # no more than a third with the same micro-tile
        key = params["mr"], params["nv"]
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= 8 and len(out) < 24:
            out.append(params)
    return out


def micro_tiles(e: Extents, isa: Isa) -> list[tuple[int, int]]:
    """(rows, vectors) that fit the registers; of those that cut the rows alike, one."""
    if isa.registers >= 32:
        shapes = [(14, 2), (13, 2), (12, 2), (9, 3), (8, 3), (7, 3), (6, 4), (5, 4), (4, 4), (4, 6), (3, 6), (2, 8),
                  (1, 8), (1, 4), (14, 1), (8, 1)]
    elif e.dot.instruction == "vpdpbusd":
        shapes = [(4, 3), (6, 2), (5, 2), (3, 4), (4, 2), (2, 4), (1, 8), (1, 4), (12, 1), (8, 1)]
    else:
        shapes = [(4, 2), (5, 2), (6, 2), (3, 3), (3, 4), (2, 4), (1, 6), (1, 4), (10, 1), (8, 1)]
    kept: dict[tuple[object, int], tuple[int, int]] = {}
    for mr, nv in shapes:
        empty = nv > 1 and (nv - 1) * isa.lanes >= e.columns
        if empty or (mr < 4 and not (e.static and e.width < 4)):
            continue
        kept.setdefault((RowTiles(e.width, mr).sizes if e.static else mr, nv), (mr, nv))
    return list(kept.values())


def _blocks(e: Extents, parts: int, mr: int, panels: int, nr: int, threads: int) -> set[tuple[int, int, int, str]]:
    """(lines, micro-tiles, panels, order) of a tile."""
    out: set[tuple[int, int, int, str]] = set()
    units = e.lines if e.lines > 1 else parts  # what blocks of rows are cut from
    unit_bytes = e.row_bytes * (e.width if e.lines > 1 else mr)
    fit = max(1, L2 // 2 // max(1, unit_bytes))
    for rows in {min(units, -(-units // -(-units // f))) for f in
                 (fit, max(1, fit // 4), max(1, units // 4), max(1, units // 8), 1)}:
        blocks = -(-units // rows) * e.batch
        ml, mt = (rows, parts) if e.lines > 1 else (1, rows)
        for per_thread in (2, 4, 12):
            pieces = max(1, min(panels, -(-per_thread * threads // blocks)))
            nt = -(-panels // pieces)
            out.add((ml, mt, nt, "nm"))
            if nt * nr * e.panel_row <= L2:
                out.add((ml, mt, nt, "mn"))
    return out


_RATE = {"vpdpbusd": 0.48, "sdot": 0.5, "smlal": 1.0, "vpmaddwd": 0.8}  # cycles per product of vectors


def cost(e: Extents, params: Params, isa: Isa, threads: int) -> float:
    """Seconds at 3 GHz: ports and caches of the micro-kernel, the epilogue, padding, balance of threads."""
    mr, nv, ml, mt, nt = (params[x] for x in ("mr", "nv", "ml", "mt", "nt"))
    nr = nv * isa.lanes
    panels, parts = -(-e.columns // nr), -(-e.width // mr)
    rows = e.width / parts if e.static else min(mr, e.width)
    arithmetic = max(rows * nv * _RATE[e.dot.instruction], (rows + nv) / 2, 5.0)
    panel, a_block = nr * e.panel_row, ml * mt * mr * e.row_bytes
    if params["order"] == "nm":
        per_step = (0 if panel <= L1 or ml * mt == 1 else nr * e.dot.group / 40 * 0.3)
        far_a = a_block > L2
    else:
        per_step = 0 if nt * panel <= L1 else nr * e.dot.group / 40 * 0.3 if nt * panel <= L2 else nr * e.dot.group / 14
        far_a = False
    if far_a:
        per_step += rows * e.dot.step / 14
    vector = 2.1 if nr % 64 == 0 or not e.codes else 2.6  # whole cache lines of codes are stored faster
    micro = e.runs * (e.steps * (arithmetic + per_step) + 4) + rows * nv * (vector + 1.2 * e.others) + 12
    tile = ml * mt * nt * micro + 150 + nt * panel / 40 + a_block / 40
    written = ml * mt * mr * nt * nr * e.written
    if params["order"] == "mn":
        tile += written / 30
    elif written > L2:  # what a panel leaves of a cache line has gone when the next one comes
        tile += written / 5
    else:
        tile += written / 25
    tiles = e.batch * -(-e.lines // ml) * -(-parts // mt) * -(-panels // nt)
    used = e.batch * e.lines * parts * panels / (tiles * ml * mt * nt)  # the last tiles are smaller
    seconds = tile * used * (tiles / threads if tiles > 3 * threads else -(-tiles // threads)) / 3e9
    weights = panels * panel / threads / 14 / 3e9  # they come from memory
    return max(seconds, weights + 0.1 * seconds)
