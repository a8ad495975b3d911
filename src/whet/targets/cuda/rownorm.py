"""Layer norm, RMS norm and group norm in Triton, with prologue (sums of a product's parts, a residual addition) and
epilogue. The operand may be a second result.

The mean first, then the mean square of the differences: no cancellation. Three ways: rows held in registers; longer
ones walked over three times; and, where there are few long rows, each divided among programs that leave mean and square
deviations of their part in the workspace for a second kernel.
"""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import NORMS, Region
from whet.ir.symbolic import Dim, ceildiv, upper
from whet.targets.base import Implementation, Params
from whet.targets.cuda.expr import division, root
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.rows import Rows, Tile, divisions, floats_reason, part_of, rows_of, seconds, tilings
from whet.targets.cuda.shapes import optimum, power_of_two, ranges


class RowNorm:
    """See the module."""

    name = "rownorm"

    def applies(self, region: Region, machine: Gpu) -> str:
        if region.extra_outputs and region.kind not in NORMS:
            return "a group norm's operand is no result"
        return floats_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        nest = _nest(region)
        n, count = optimum(region, nest.length), max(1, optimum(region, nest.count))
        sms = machine.multiprocessors or 108
        parts: list[Params] = []
        if count < 2 * sms and n > 2048:
            parts = divisions(nest)
        whole = tilings(nest, machine, most=16 - len(parts))
        return [*parts, *whole] if count * 4 < sms and n >= 8192 else [*whole, *parts]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        if params.get("split"):
            return seconds(region, machine, 2, 1.3)
        nest = _nest(region)
        programs = max(1, optimum(region, ceildiv(nest.count, params["rows"])))
        busy = min(1.0, programs / (machine.multiprocessors or 108))  # of the memory's bandwidth
        return seconds(region, machine, 1, (1.0 if params["cols"] >= nest.longest else 1.6) / busy)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        nest = _nest(region)
        if params.get("split"):
            return _divided(nest, params, machine)
        tile = Tile(region.kind, nest, machine, params["rows"], params["cols"])
        tile.begin("tl.program_id(0)")
        (_held if params["cols"] >= nest.longest else _walked)(tile)
        return Implementation((tile.s.step(tile.blocks(), warps=params["warps"], stages=2),))


class GroupNorm(RowNorm):
    """Rows are the groups of channels of each image."""

    name = "groupnorm"


def _nest(region: Region) -> Rows:
    shape = region.anchor.shape if region.picks else region.inputs[0].shape
    rank = len(shape)
    if region.kind != "groupnorm":
        return rows_of(region, range(int(region.attrs.get("axis", -1)) % rank, rank))
    axis = rank - 1 if region.attrs.get("channels_last") else 1
    groups, channels = int(region.attrs["groups"]), shape[axis]
    assert isinstance(channels, int)
    split = (groups, channels // groups)
    whole = (*shape[:axis], *split, *shape[axis + 1:])
    return rows_of(region, [a for a in range(rank + 1) if a not in (0, axis)], whole, {axis: split})


def _length(tile: Tile, n: Dim) -> str:
    """A number of elements in the compute type."""
    return tile.number(n) if isinstance(n, int) else tile.s.name_of(f"({tile.s.integer(n)}).to(tl.{tile.kind})", "n")


def _rate(tile: Tile, squares: str, n: str) -> str:
    """1 / sqrt(squares / n + epsilon)."""
    epsilon = tile.number(float(tile.region.attrs.get("epsilon", 1e-5)))
    mean = f"({division(squares, n, tile.double)} + {epsilon})"
    return tile.s.name_of(division(tile.number(1.0), root(mean, tile.double), tile.double), "rate")


def _write(tile: Tile, d: str, rate: str, block: Block) -> None:
    """Scales a difference, or for RMS norm the value, and stores it."""
    y = tile.s.name_of(f"{d} * {rate} * {tile.operand(1, block)}", "y")
    if tile.region.n_anchor > 2:
        y = tile.s.name_of(f"{y} + {tile.operand(2, block)}", "y")
    tile.write(y, block)


def _centred(tile: Tile) -> bool:
    return tile.region.kind != "rmsnorm"


def _held(tile: Tile) -> None:
    s = tile.s
    block = tile.hold()
    n = _length(tile, tile.nest.length)
    d = tile.value(block, 0.0)
    tile.keep(d, block)
    if _centred(tile):
        mean = s.name_of(division(tile.over("sum", d), n, tile.double), "mean")
        d = tile.filled(s.name_of(f"{d} - {mean}", "d"), block, 0.0)
    _write(tile, d, _rate(tile, tile.over("sum", f"{d} * {d}"), n), block)


def _walked(tile: Tile) -> None:
    s = tile.s
    n = _length(tile, tile.nest.length)
    mean = ""
    if _centred(tile):
        total = tile.full(0.0)
        with tile.chunks() as block:
            s.line(f"{total} += {tile.value(block, 0.0)}")
        mean = s.name_of(division(tile.over("sum", total), n, tile.double), "mean")
    squares = tile.full(0.0)
    with tile.chunks() as block:
        d = tile.value(block, None if mean else 0.0)
        if mean:
            d = tile.filled(s.name_of(f"{d} - {mean}", "d"), block, 0.0)
        s.line(f"{squares} += {d} * {d}")
    rate = _rate(tile, tile.over("sum", squares), n)
    with tile.chunks() as block:
        v = tile.value(block)
        tile.keep(v, block)
        _write(tile, s.name_of(f"{v} - {mean}", "d") if mean else v, rate, block)


def _divided(nest: Rows, params: Params, machine: Gpu) -> Implementation:
    """Parts of `cols` columns of each row: first their means and squares, then the results."""
    region, c = nest.region, params["cols"]
    parts = ceildiv(nest.length, c)
    real = DType.F64 if region.anchor.dtype is DType.F64 else DType.F32
    size = nest.count * parts * real.size
    programs = nest.count * parts

    first = Tile(f"{region.kind}_parts", nest, machine, 1, c)
    means, squares = part_of(first, parts, (0, size), real)
    s = first.s
    block = first.block("start", "end")
    d = first.value(block, 0.0)
    if _centred(first):
        length = s.name_of(f"(end - start).to(tl.{first.kind})", "n")
        mean = s.name_of(division(first.over("sum", d), length, first.double), "mean")
        s.line(f"tl.store({means} + pid, {mean})")
        d = first.filled(s.name_of(f"{d} - {mean}", "d"), block, 0.0)
    s.line(f"tl.store({squares} + pid, {first.over('sum', f'{d} * {d}')})")

    last = Tile(region.kind, nest, machine, 1, c)
    means, squares = part_of(last, parts, (0, size), real)
    s = last.s
    lanes = power_of_two(upper(parts, ranges(region)))
    count = s.integer(parts)
    s.line(f"part = {last.lanes(lanes)}")
    s.line(f"of_row = pid // {count} * {count} + part")
    n = _length(last, nest.length)
    whole = s.name_of(last.over("sum", f"tl.load({squares} + of_row, mask=part < {count}, other=0.0)"), "squares")
    mean = ""
    if _centred(last):
        s.line(f"lengths = tl.maximum(tl.minimum({s.integer(nest.length)} - part * {c}, {c}), 0).to(tl.{last.kind})")
        m = s.name_of(f"tl.load({means} + of_row, mask=part < {count}, other=0.0)", "means")
        mean = s.name_of(division(last.over("sum", f"{m} * lengths"), n, last.double), "mean")
        s.line(f"off = tl.where(part < {count}, {m} - {mean}, {last.number(0.0)})")
        whole = s.name_of(f"{whole} + {last.over('sum', 'off * off * lengths')}", "squares")
    rate = _rate(last, whole, n)
    block = last.block("start", "end")
    v = last.value(block)
    last.keep(v, block)
    _write(last, s.name_of(f"{v} - {mean}", "d") if mean else v, rate, block)
    steps = tuple(t.s.step(programs, warps=params["warps"], stages=2) for t in (first, last))
    return Implementation(steps, workspace=2 * size)
