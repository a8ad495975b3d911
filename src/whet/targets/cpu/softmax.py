"""Softmax and log-softmax along any axis, with prologue and epilogue."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import Loops, optimum, tile_elements, unravel, weight
from whet.targets.cpu.rowwise import (
    COL,
    ROW,
    At,
    Operands,
    Row,
    buffer_bytes,
    nest_of,
    prologue_of,
    rows_per_tile,
    store_reason,
    tile_rows,
    types_reason,
)

WORK = 1 << 12  # elements of a tile


class Softmax:
    """exp(x - max) / sum. Along the last dimension: a row at a time, kept in registers or a buffer. Along
    another: vectors of neighbouring rows. A row of -inf, or with NaN or +inf, gives NaN, as the reference does."""

    name = "softmax"

    def applies(self, region: Region, machine: Isa) -> str:
        nest = nest_of(region, (_axis(region),))
        if len(nest.where(COL)) > 1:
            return "the axis is not one loop"
        if not region.anchor.dtype.is_float:
            return f"the anchor is {region.anchor.dtype.value}"
        return types_reason(region) or store_reason(nest)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        n = optimum(region, product(region.output.shape))
        work = 20 + weight(region.epilogue) + weight(region.prologue.get(0))
        return n / machine.lanes * work / 3e9 / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        nest = _with_column(nest_of(region, (_axis(region),)))
        ops = Operands(k, args, region, nest)
        (col,) = nest.where(COL)
        log = bool(region.attrs.get("log", False))
        if col == len(nest.extents) - 1:
            tiles, scratch = _along_rows(ops, col, log, tile_elements(region, WORK, threads))
        else:
            tiles, scratch = _across_rows(ops, col, log), 0
        return Implementation((Step(finish(k, "softmax", scratch), args.table, tiles),))


def _axis(region: Region) -> int:
    return int(region.attrs["axis"]) % len(region.inputs[0].shape)


def _with_column(nest: Loops) -> Loops:
    """The nest with a column loop, even where the axis has one element."""
    if nest.where(COL):
        return nest
    return Loops((*nest.extents, 1), {t: (*s, 1) for t, s in nest.strides.items()}, (*nest.labels, COL))


def _add(a: Val, b: Val) -> Val:
    return a + b


def _along_rows(ops: Operands, col: int, log: bool, work: int) -> tuple[Dim, int]:
    """A row at a time; (tiles, bytes of scratch)."""
    k, region, nest = ops.k, ops.region, ops.nest
    lanes, ty = ops.lanes, ops.type
    n = nest.extents[col]
    rows = nest.where(ROW)
    total = product(nest.extents[l] for l in rows)
    group = rows_per_tile(region, total, n, work)
    heavy = weight(prologue_of(region)) > 8
    scratch = buffer_bytes(region, n, lanes, ty) if heavy or not log else 0
    for at in tile_rows(ops, group, rows):
        def load(c: IntLike, m: Val | None, at: At = at) -> Val:
            return ops.value(at, col, c, lanes, m)

        row = Row(k, ops.args.dim(n), ty, lanes, load, k.scratch if scratch else None)
        top = k.splat(row.fold(-vmath.INF, lambda a, v: vmath.fmax(k, v, a), hold=heavy and row.keeps), lanes)
        kept = row.keeps and not log

        def exponential(v: Val, top: Val = top) -> Val:
            return vmath.exp_negative(k, v - top)

        s = row.fold(0.0, _add, exponential, keep=kept)
        last = k.splat(vmath.log(k, s) if log else k.const(ty, 1.0) / s, lanes)
        for values in row.groups():
            ops.write_all([(c, m, (v - top) - last if log else (v if kept else exponential(v)) * last)
                           for c, m, v in values], at, col)
    return ceildiv(total, group), scratch


def _across_rows(ops: Operands, col: int, log: bool) -> Dim:
    """Vectors along the innermost kept loop, walking down the axis three times; the number of tiles."""
    k, args, nest, lanes = ops.k, ops.args, ops.nest, ops.lanes
    inner = len(nest.extents) - 1
    outer = [l for l in nest.where(ROW) if l != inner]
    n, width = args.dim(nest.extents[col]), args.dim(nest.extents[inner])
    blocks = ceildiv(nest.extents[inner], lanes)
    total = product(nest.extents[l] for l in outer)
    vty = vec(ops.type, lanes)
    for tile in k.range(k.begin, k.end):
        where = unravel(k, tile, [*(args.dim(nest.extents[l]) for l in outer), args.dim(blocks)])
        at = ops.moved(ops.base, outer, where[:-1])
        c = where[-1] * lanes
        mask = k.tail_mask(width - c, lanes)

        def value(j: IntLike, at: At = at, c: IntLike = c, mask: Val = mask) -> Val:
            return ops.value(ops.moved(at, [col], [j]), inner, c, lanes, mask)

        top, total_exp = k.var(vty, -vmath.INF), k.var(vty, 0.0)
        for j in k.range(0, n):
            top.set(vmath.fmax(k, value(j), top.get()))
        m = top.get()
        for j in k.range(0, n):
            total_exp.set(total_exp.get() + vmath.exp_negative(k, value(j) - m))
        s = total_exp.get()
        last = vmath.log(k, s) if log else k.const(vty, 1.0) / s
        for j in k.range(0, n):
            z = value(j) - m
            y = z - last if log else vmath.exp_negative(k, z) * last
            ops.write(y, ops.moved(at, [col], [j]), inner, c, mask)
    return total * blocks
