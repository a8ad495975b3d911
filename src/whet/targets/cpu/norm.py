"""Layer norm and RMS norm, with prologue (a residual addition) and epilogue."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.loops import Loops, optimum, tile_elements, weight
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

WORK = 1 << 13  # elements of a tile


class RowNorm:
    """One row at a time: the mean, then the mean square of the differences (two passes: no cancellation),
    then the scaled result. Short rows stay in registers, rows that are dear to compute or to convert in a buffer."""

    name = "rownorm"

    def applies(self, region: Region, machine: Isa) -> str:
        if len(_nest(region).where(COL)) > 1:
            return "the normalized dimensions are not one loop"
        if not region.anchor.dtype.is_float:
            return f"the anchor is {region.anchor.dtype.value}"
        if region.extra_outputs:
            return "the operand is a second result"
        return types_reason(region) or store_reason(_nest(region))

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        n = optimum(region, product(region.output.shape))
        work = 6 + weight(region.epilogue) + 2 * weight(region.prologue.get(0))
        return n / machine.lanes * work / 3e9 / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        nest = _nest(region)
        if not nest.where(COL):  # a row of one element
            nest = Loops((*nest.extents, 1), {t: (*s, 1) for t, s in nest.strides.items()}, (*nest.labels, COL))
        ops = Operands(k, args, region, nest)
        (col,) = nest.where(COL)
        rows, n = nest.where(ROW), nest.extents[col]
        total = product(nest.extents[l] for l in rows)
        group = rows_per_tile(region, total, n, tile_elements(region, WORK, threads))
        heavy = (weight(prologue_of(region)) > 2 or len(prologue_of(region).leaves) > 1
                 or region.inputs[0].dtype is not region.anchor.dtype)
        scratch = buffer_bytes(region, n, ops.lanes, ops.type) if heavy else 0
        for at in tile_rows(ops, group, rows):
            _row(ops, at, col, args.dim(n), k.scratch if scratch else None, heavy)
        return Implementation((Step(finish(k, region.kind, scratch), args.table, ceildiv(total, group)),))


def _nest(region: Region) -> Loops:
    rank = len(region.inputs[0].shape)
    axis = int(region.attrs.get("axis", -1)) % rank
    return nest_of(region, range(axis, rank), range(1, region.n_anchor))


def _row(ops: Operands, at: At, col: int, n: IntLike, buffer: Val | None, heavy: bool) -> None:
    k, region, lanes, ty = ops.k, ops.region, ops.lanes, ops.type

    def load(c: IntLike, m: Val | None) -> Val:
        return ops.value(at, col, c, lanes, m)

    def add(a: Val, b: Val) -> Val:
        return a + b

    def square(a: Val, v: Val) -> Val:
        return k.fma(v, v, a)

    row = Row(k, n, ty, lanes, load, buffer)
    count = k.const(ty, float(n)) if isinstance(n, int) else k.cast("sitofp", n, ty)
    hold = heavy and row.keeps
    if region.kind == "layernorm":
        mean = k.splat(row.fold(0.0, add, hold=hold) / count, lanes)
        squares = row.fold(0.0, add, lambda v: v - mean, keep=row.keeps, take=square)
    else:
        mean = None
        squares = row.fold(0.0, add, hold=hold, take=square)
    centred = mean is None or row.keeps  # what passes see from now on
    epsilon = float(region.attrs.get("epsilon", 1e-5))
    scale = k.splat(k.const(ty, 1.0) / vmath.sqrt(k, squares / count + epsilon), lanes)

    def normalized(c: IntLike, m: Val | None, v: Val) -> Val:
        y, w = (v if centred else v - mean) * scale, ops.operand(1, at, col, c, lanes, m)
        return k.fma(y, w, ops.operand(2, at, col, c, lanes, m)) if region.n_anchor > 2 else y * w

    for group in row.groups():
        ops.write_all([(c, m, normalized(c, m, v)) for c, m, v in group], at, col)
