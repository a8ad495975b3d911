"""Softmax and log-softmax along any axis, with prologue and epilogue, in Triton."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.targets.base import Implementation, Params
from whet.targets.cuda.expr import division, exponential
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.rows import Rows, Tile, rows_of, seconds, tilings, types_reason


class Softmax:
    """exp(x - max) / sum. Rows that fit are held in registers; of longer ones, maximum and sum are found in one pass
    over them, by lanes, and the results written in a second. A row of -inf, or with NaN or +inf, gives NaN, as the
    reference does."""

    name = "softmax"

    def applies(self, region: Region, machine: Gpu) -> str:
        if not region.anchor.dtype.is_float:
            return f"the anchor is {region.anchor.dtype.value}"
        return types_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return tilings(_nest(region), machine)

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return seconds(region, machine, passes=1.0 if params["cols"] >= _nest(region).longest else 1.5)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
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
    z = s.name_of(f"{x} - tl.max({x}, axis=1, keep_dims=True)", "z")
    e = s.name_of(_exp(tile, z), "e")
    total = s.name_of(f"tl.sum({e}, axis=1, keep_dims=True)", "total")
    _write(tile, z, e, total, log, block)


def _write(tile: Tile, z: str, e: str, total: str, log: bool, block: object) -> None:
    s = tile.s
    if log:
        y = f"{z} - libdevice.log({total})"
    else:  # one division per row where results have 16 bits
        y = f"{e} * {division(tile.number(1.0), total)}" if tile.coarse else division(e, total, tile.double)
    tile.write(s.name_of(y, "y"), block)  # type: ignore[arg-type]


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
    most = s.name_of(f"tl.max({top}, axis=1, keep_dims=True)", "most")
    share = s.name_of(f"tl.where({top} == {none}, {tile.number(0.0)}, {_exp(tile, f'({top} - {most})')})", "share")
    # A lane without numbers has a sum of 0, one with NaN keeps it.
    whole = s.name_of(f"tl.sum(tl.where({total} == 0, {total}, {total} * {share}), axis=1, keep_dims=True)", "whole")
    with tile.chunks() as block:
        z = s.name_of(f"{tile.value(block)} - {most}", "z")
        e = z if log else s.name_of(_exp(tile, z), "e")
        _write(tile, z, e, whole, log, block)
