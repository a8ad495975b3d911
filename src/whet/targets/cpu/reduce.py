"""Reductions over any axes: sum, mean, max, min, prod; and the index of an extreme along one axis.

Where the innermost loop is reduced, vectors run along it and are folded across lanes at the end; where it is
kept, each lane is a result of its own. Long sums are added in blocks, so that rounding errors grow with the
number of blocks and the length of one, not with their product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import cast, extreme
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import Loops, optimum, tile_elements, unravel, weight
from whet.targets.cpu.rowwise import (
    COL,
    ROW,
    At,
    Operands,
    Row,
    across,
    nest_of,
    rows_per_tile,
    store_reason,
    tile_rows,
    tree,
    types_reason,
)

WORK = 1 << 13  # elements of a tile
BLOCK = 1 << 10  # vectors that one accumulator adds before it is put into the next


def reduce_nest(region: Region, axes: Iterable[int]) -> Loops:
    """The nest of a reduction; never empty."""
    nest = nest_of(region, tuple(axes))
    if not nest.extents:
        nest = Loops((1,), dict.fromkeys(nest.strides, (1,)), (ROW,))
    return nest


class Fold:
    """What a kind of reduction does to values of a type."""

    def __init__(self, k: Fn, kind: str, dtype: DType) -> None:
        self.k, self.kind, self.dtype = k, kind, dtype

    @property
    def neutral(self) -> float | int:
        """The fold of nothing."""
        d = self.dtype
        if self.kind in ("max", "min"):
            low = self.kind == "max"
            if d.is_float:
                return -np.inf if low else np.inf
            info = np.iinfo(d.np)
            return int(info.min if low else info.max)
        return 1 if self.kind == "prod" else 0

    def step(self, a: Val, b: Val) -> Val:
        if self.kind in ("max", "min"):
            return extreme(self.k, self.kind, a, b, self.dtype)
        op = "mul" if self.kind == "prod" else "add"
        return self.k.op(f"f{op}" if a.is_float else op, a, b)

    def result(self, v: Val, count: IntLike) -> Val:
        """The reduction's value from the fold of `count` elements."""
        k, d = self.k, self.dtype
        if self.kind != "mean":
            return v
        if d.is_float:
            n = k.const(v.scalar, float(count)) if isinstance(count, int) else k.cast("sitofp", count, v.scalar)
            return v / k.coerce(n, v.ty)
        wide = DType.U64 if d is DType.U64 else DType.I64  # the count may be no number of the type
        total = cast(k, v, d, wide)
        n = k.coerce(k.i64(k.max(count, 1)), total.ty)
        return cast(k, k.op("sdiv" if wide.is_signed else "udiv", total, n), wide, d)


class Reduce:
    """See the module."""

    name = "reduce"

    def applies(self, region: Region, machine: Isa) -> str:
        nest = reduce_nest(region, region.attrs["axes"])
        if nest.labels[-1] == ROW:
            return types_reason(region) or store_reason(nest)
        return types_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        n = optimum(region, product(region.inputs[0].shape))
        return n / machine.lanes * (2 + weight(region.prologue.get(0))) / 3e9 / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        nest = reduce_nest(region, region.attrs["axes"])
        ops = Operands(k, args, region, nest)
        # A bool's any and all are the max and min of bytes.
        dtype = DType.U8 if region.anchor.dtype is DType.BOOL else region.anchor.dtype
        fold = Fold(k, region.attrs["kind"], dtype)
        work = tile_elements(region, WORK, threads)
        tiles = _columns(ops, fold) if nest.labels[-1] == ROW else _rows(ops, fold, work)
        return Implementation((Step(finish(k, f"reduce_{fold.kind}"), args.table, tiles),))


def _load(ops: Operands, fold: Fold, at: At, loop: int, c: IntLike, lanes: int, mask: Val | None) -> Val:
    v = ops.value(at, loop, c, lanes, mask)
    return ops.k.cast("zext", v, "i8") if ops.region.anchor.dtype is DType.BOOL else v


def _finish(ops: Operands, fold: Fold, v: Val, at: At, loop: int | None, c: IntLike, mask: Val | None) -> None:
    count = ops.args.dim(product(ops.nest.extents[l] for l in ops.nest.where(COL)))
    v = fold.result(v, count)
    ops.write(v.ne(0) if ops.region.anchor.dtype is DType.BOOL else v, at, loop, c, mask)


def _walk(ops: Operands, loops: list[int], at: At) -> Iterator[At]:
    """Every position of some loops, nested."""
    if not loops:
        yield at
        return
    for i in ops.k.range(0, ops.args.dim(ops.nest.extents[loops[0]])):
        yield from _walk(ops, loops[1:], ops.moved(at, loops[:1], [i]))


def _blocks(k: Fn, n: IntLike, block: int, blocked: bool) -> Iterator[tuple[IntLike, IntLike]]:
    """0..n in blocks (start, end), or at once."""
    if not blocked or (isinstance(n, int) and n <= block):
        yield 0, n
        return
    for start in k.range(0, n, block):
        yield start, k.min(start + block, n)


def _rows(ops: Operands, fold: Fold, work: int) -> Dim:
    """Vectors along the innermost loop, which is reduced. The number of tiles."""
    k, nest, lanes = ops.k, ops.nest, ops.lanes
    inner = len(nest.extents) - 1
    outer = nest.where(COL)[:-1]
    rows = nest.where(ROW)
    total = product(nest.extents[l] for l in rows)
    n = ops.args.dim(nest.extents[inner])
    group = rows_per_tile(ops.region, total, product(nest.extents[l] for l in nest.where(COL)), work)
    scalar = "i8" if ops.region.anchor.dtype is DType.BOOL else ops.type
    blocked = fold.kind in ("sum", "mean") and fold.dtype.is_float
    for at in tile_rows(ops, group, rows):
        result = k.var(scalar, fold.neutral)
        for here in _walk(ops, outer, at):
            for start, end in _blocks(k, n, BLOCK * lanes, blocked):
                def load(c: IntLike, m: Val | None, here: At = here, start: IntLike = start) -> Val:
                    return _load(ops, fold, here, inner, c + start, lanes, m)

                row = Row(k, end - start, scalar, lanes, load)
                result.set(fold.step(result.get(), row.fold(fold.neutral, fold.step)))
        _finish(ops, fold, result.get(), at, None, 0, None)
    return ceildiv(total, group)


def _columns(ops: Operands, fold: Fold) -> Dim:
    """Vectors along the innermost loop, which is kept: a few side by side, down the reduced loops."""
    k, args, nest, lanes = ops.k, ops.args, ops.nest, ops.lanes
    inner = len(nest.extents) - 1
    outer = [l for l in nest.where(ROW) if l != inner]
    reduced = nest.where(COL)
    width = args.dim(nest.extents[inner])
    across_, down = (1, 4) if isinstance(width, int) and width <= lanes else (2, 2)
    if not reduced:
        down = 1
    blocks = ceildiv(nest.extents[inner], lanes * across_)
    vty = vec("i8" if ops.region.anchor.dtype is DType.BOOL else ops.type, lanes)
    blocked = fold.kind in ("sum", "mean") and fold.dtype.is_float
    n = args.dim(nest.extents[reduced[-1]]) if reduced else 1
    for tile in k.range(k.begin, k.end):
        where = unravel(k, tile, [*(args.dim(nest.extents[l]) for l in outer), args.dim(blocks)])
        start = where[-1] * (lanes * across_)
        at = ops.moved(ops.base, outer, where[:-1])
        cs: list[IntLike] = [start + i * lanes for i in range(across_)]
        masks = [k.tail_mask(width - c, lanes) for c in cs]
        totals = [k.var(vty, fold.neutral) for _ in cs]
        for here in _walk(ops, reduced[:-1], at):
            for first, last in _blocks(k, n, BLOCK, blocked):
                accs = [[k.var(vty, fold.neutral) for _ in range(down)] for _ in cs]

                def add(j: IntLike, slot: int, here: At = here, accs: list = accs, cs: list = cs,
                        masks: list = masks) -> None:
                    p = ops.moved(here, reduced[-1:], [j]) if reduced else here
                    for acc, c, m in zip(accs, cs, masks):
                        v = _load(ops, fold, p, inner, c, lanes, m)
                        acc[slot].set(fold.step(acc[slot].get(), v))

                whole = first + (last - first) // down * down
                for j in k.range(first, whole, down):
                    for s in range(down):
                        add(j + s, s)
                for j in k.range(whole, last):
                    add(j, 0)
                for t, acc in zip(totals, accs):
                    t.set(fold.step(t.get(), tree([a.get() for a in acc], fold.step)))
        for t, c, m in zip(totals, cs, masks):
            _finish(ops, fold, t.get(), at, inner, c, m)
    return product(nest.extents[l] for l in outer) * blocks


# -- the index of an extreme --------------------------------------------------------------------------


class ArgExtreme:
    """Argmax and argmin. Values become integers of the same order, NaN the best of all (the first or last
    NaN wins, as in NumPy), so that one comparison decides."""

    name = "arg"

    def applies(self, region: Region, machine: Isa) -> str:
        nest = reduce_nest(region, (_axis(region),))
        if nest.labels[-1] == ROW:
            return types_reason(region) or store_reason(nest)
        return types_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        return optimum(region, product(region.inputs[0].shape)) / machine.lanes * 8 / 3e9 / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        nest = reduce_nest(region, (_axis(region),))
        ops = Operands(k, args, region, nest)
        kernel = _Arg(ops, machine)
        tiles = kernel.columns() if nest.labels[-1] == ROW else kernel.rows(tile_elements(region, WORK, threads))
        return Implementation((Step(finish(k, "arg"), args.table, tiles),))


def _axis(region: Region) -> int:
    return int(region.attrs["axis"]) % len(region.inputs[0].shape)


class _Arg:
    def __init__(self, ops: Operands, isa: Isa) -> None:
        self.k, self.ops = ops.k, ops
        self.dtype = ops.prologue.dtype
        self.wide = self.dtype in (DType.F64, DType.I64, DType.U64, DType.U32)
        self.int = "i64" if self.wide else "i32"
        self.lanes = isa.width // (8 if self.wide else 4)
        self.lowest = -(2**63) if self.wide else -(2**31)
        self.least = ops.region.attrs["kind"] == "min"
        self.last = bool(ops.region.attrs.get("select_last", False))

    def key(self, at: At, loop: int, c: IntLike, mask: Val | None) -> Val:
        """Values as integers, larger where more wanted."""
        k, d = self.k, self.dtype
        v = self.ops.value(at, loop, c, self.lanes, mask, d)
        if not d.is_float:
            v = cast(k, v, d, DType.I64 if self.wide else DType.I32)
            if d is DType.U64:
                v = v ^ -(2**63)
            return v ^ -1 if self.least else v
        bits = k.bitcast(v + 0.0, vec(self.int, self.lanes))  # + 0.0: -0 and 0 are equal
        highest = -1 - self.lowest
        ordered = bits ^ ((bits >> (63 if self.wide else 31)) & highest)
        return k.select(k.cmp("uno", v, v), highest, ordered ^ -1 if self.least else ordered)

    def better(self, a: Val, b: Val) -> Val:
        return a >= b if self.last else a > b

    def rows(self, work: int) -> Dim:
        """Vectors along the axis."""
        k, ops, nest, lanes = self.k, self.ops, self.ops.nest, self.lanes
        inner = len(nest.extents) - 1
        rows = nest.where(ROW)
        total = product(nest.extents[l] for l in rows)
        group = rows_per_tile(ops.region, total, nest.extents[inner], work)
        n = ops.args.dim(nest.extents[inner])
        ty = vec(self.int, lanes)
        lane = k.const_vector(self.int, range(lanes))
        for at in tile_rows(ops, group, rows):
            best = k.var(ty, self.lowest)
            where = k.var(ty, -1 if self.last else lane)
            for c in k.range(0, n, lanes):
                mask = k.tail_mask(n - c, lanes)
                key = self.key(at, inner, c, mask)
                wins = self.better(key, best.get()) & mask
                best.set(k.select(wins, key, best.get()))
                where.set(k.select(wins, lane + k.splat(self._int(c), lanes), where.get()))
            top = across(k, best.get(), lambda a, b: k.select(a > b, a, b))
            none = -1 if self.last else -1 - self.lowest
            at_top = k.select(best.get().eq(top), where.get(), k.const(ty, none))
            index = across(k, at_top, lambda a, b: k.select((a > b) if self.last else (a < b), a, b))
            ops.write(self._i64(index), at, None, 0)
        return ceildiv(total, group)

    def columns(self) -> Dim:
        """Vectors along the innermost kept loop, down the axis."""
        k, ops, nest, lanes = self.k, self.ops, self.ops.nest, self.lanes
        args = ops.args
        inner = len(nest.extents) - 1
        outer = [l for l in nest.where(ROW) if l != inner]
        axis = nest.where(COL)
        n = args.dim(nest.extents[axis[0]]) if axis else 1
        blocks = ceildiv(nest.extents[inner], lanes)
        ty = vec(self.int, lanes)
        for tile in k.range(k.begin, k.end):
            place = unravel(k, tile, [*(args.dim(nest.extents[l]) for l in outer), args.dim(blocks)])
            c = place[-1] * lanes
            at = ops.moved(ops.base, outer, place[:-1])
            mask = k.tail_mask(args.dim(nest.extents[inner]) - c, lanes)
            best, where = k.var(ty, self.lowest), k.var(ty, 0)
            for j in k.range(0, n):
                key = self.key(ops.moved(at, axis, [j] * len(axis)), inner, c, mask)
                wins = self.better(key, best.get())
                best.set(k.select(wins, key, best.get()))
                where.set(k.select(wins, k.splat(self._int(j), lanes), where.get()))
            ops.write(self._i64(where.get()), at, inner, c, mask)
        return product(nest.extents[l] for l in outer) * blocks

    def _int(self, i: IntLike) -> Val:
        v = self.k.i64(i)
        return v if self.wide else self.k.cast("trunc", v, "i32")

    def _i64(self, v: Val) -> Val:
        return v if self.wide else self.k.cast("sext", v, "i64")
