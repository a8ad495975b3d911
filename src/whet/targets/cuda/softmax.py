"""Softmax and log-softmax along any axis, with prologue and epilogue, in Triton."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, upper
from whet.targets.base import Implementation, Params
from whet.targets.cuda.expr import division, exponential
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.rows import Rows, Tile, divisions, floats_reason, part_of, rows_of, seconds, tilings
from whet.targets.cuda.shapes import optimum, power_of_two, ranges


class Softmax:
    """exp(x - max) / sum. Rows that fit are held in registers; of longer ones, maximum and sum are found in one pass
    over them, by lanes, and the results written in a second; a few long ones are divided among programs, in two
    kernels. A row of -inf, or with NaN or +inf, gives NaN, as the reference does."""

    name = "softmax"

    def applies(self, region: Region, machine: Gpu) -> str:
        return floats_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        nest = _nest(region)
        n, count = optimum(region, nest.length), max(1, optimum(region, nest.count))
        sms = machine.multiprocessors or 108
        parts = divisions(nest) if count < sms and n > 8192 else []
        return [*parts, *tilings(nest, machine, most=16 - len(parts))]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        if params.get("split"):
            return seconds(region, machine, 2, 1.3)
        return seconds(region, machine, passes=1.0 if params["cols"] >= _nest(region).longest else 1.5)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        if params.get("split"):
            return _divided(_nest(region), params, machine)
        tile = Tile("softmax", _nest(region), machine, params["rows"], params["cols"])
        tile.begin("tl.program_id(0)")
        (_held if params["cols"] >= tile.nest.longest else _walked)(tile, bool(region.attrs.get("log", False)))
        return Implementation((tile.s.step(tile.blocks(), warps=params["warps"], stages=2),))


def _nest(region: Region) -> Rows:
    return rows_of(region, (int(region.attrs["axis"]) % len(region.inputs[0].shape),))


def _exp(tile: Tile, x: str) -> str:
    return exponential(x, tile.double, tile.coarse)


def _held(tile: Tile, log: bool) -> None:
    s = tile.s
    block = tile.block()
    x = tile.value(block, float("-inf"))
    z = s.name_of(f"{x} - {tile.over('max', x)}", "z")
    e = s.name_of(_exp(tile, z), "e")
    total = s.name_of(f"{tile.over('sum', e)}", "total")
    _write(tile, z, e, total, log, block)


def _write(tile: Tile, z: str, e: str, total: str, log: bool, block: Block) -> None:
    s = tile.s
    if log:
        y = f"{z} - libdevice.log({total})"
    else:  # one division per row where results have 16 bits
        over = division(tile.number(1.0) if tile.coarse else e, total, tile.double)
        y = f"{e} * {over}" if tile.coarse else over
    tile.write(s.name_of(y, "y"), block)


def _walked(tile: Tile, log: bool) -> None:
    s = tile.s
    top, total = tile.full(float("-inf")), tile.full(0.0)
    none = '-float("inf")'
    with tile.chunks() as block:
        x = tile.value(block, float("-inf"))
        new = s.name_of(f"tl.maximum({top}, {x})", "new")
        kept = s.name_of(f"tl.where({top} == {new}, {tile.number(1.0)}, {_exp(tile, f'({top} - {new})')})", "kept")
        more = s.name_of(f"tl.where({x} == {none}, {tile.number(0.0)}, {_exp(tile, f'({x} - {new})')})", "more")
        s.line(f"{total} = {total} * {kept} + {more}")
        s.line(f"{top} = {new}")
    most, whole = _together(tile, top, total)
    with tile.chunks() as block:
        z = s.name_of(f"{tile.value(block)} - {most}", "z")
        e = z if log else s.name_of(_exp(tile, z), "e")
        _write(tile, z, e, whole, log, block)


def _together(tile: Tile, tops: str, totals: str) -> tuple[str, str]:
    """The maximum, and the sum over it, from maxima and sums over these."""
    s = tile.s
    most = s.name_of(f"{tile.over('max', tops)}", "most")
    share = _exp(tile, f"({tops} - {most})")
    share = s.name_of(f"tl.where({tops} == -float('inf'), {tile.number(0.0)}, {share})", "share")
    # What saw nothing has a sum of 0; one of NaN stays.
    whole = f"tl.where({totals} == 0, {totals}, {totals} * {share})"
    return most, s.name_of(tile.over("sum", whole), "whole")


def _divided(nest: Rows, params: Params, machine: Gpu) -> Implementation:
    """Parts of `cols` columns of each row: first their maxima and sums, then the results."""
    region, c = nest.region, params["cols"]
    parts = ceildiv(nest.length, c)
    real = DType.F64 if region.anchor.dtype is DType.F64 else DType.F32
    size = nest.count * parts * real.size

    first = Tile("softmax_parts", nest, machine, 1, c)
    tops, totals = part_of(first, parts, (0, size), real)
    s = first.s
    x = first.value(first.block("start", "end"), float("-inf"))
    top = s.name_of(first.over("max", x), "top")
    e = s.name_of(f"tl.where({x} == -float('inf'), {first.number(0.0)}, {_exp(first, f'({x} - {top})')})", "e")
    for place, v in ((tops, top), (totals, first.over("sum", e))):
        s.line(f"tl.store({place} + pid, {v})")

    last = Tile("softmax", nest, machine, 1, c)
    tops, totals = part_of(last, parts, (0, size), real)
    s = last.s
    count = s.integer(parts)
    s.line(f"part = {last.lanes(power_of_two(upper(parts, ranges(region))))}")
    s.line(f"of_row = pid // {count} * {count} + part")
    top = s.name_of(f"tl.load({tops} + of_row, mask=part < {count}, other=-float('inf'))", "top")
    total = s.name_of(f"tl.load({totals} + of_row, mask=part < {count}, other=0.0)", "total")
    most, whole = _together(last, top, total)
    block = last.block("start", "end")
    log = bool(region.attrs.get("log", False))
    z = s.name_of(f"{last.value(block)} - {most}", "z")
    _write(last, z, z if log else s.name_of(_exp(last, z), "e"), whole, log, block)
    steps = tuple(t.s.step(nest.count * parts, warps=params["warps"], stages=1) for t in (first, last))
    return Implementation(steps, workspace=2 * size)
