"""Resizing: along each axis every element of the result is a weighted sum of a few elements ("taps") of the data.

Which elements and with which weights is looked up in a table per axis: a constant where the sizes are known, else
written by a step of its own. Where the last dimension keeps its size (channels last), vectors run along it. With
antialiasing, along one axis at a time, the number of taps is the scale's, and they are walked by a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.ops_resize import footprint, taps
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Implementation, In, Out, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import cast, emit_expr, gather_at, load_value, store_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import optimum
from whet.targets.cpu.moving import RAW, Movement, Tiles, copy_row
from whet.targets.cpu.resize_taps import Axis, emit_antialiased, emit_table

WIDENED = frozenset({DType.U8, DType.I8, DType.U16, DType.I16})  # read as float32, exactly
_VECTORS = 4  # accumulators of a loop over taps
_BLOCK = 256  # elements of a table per tile

Taps = list[list[tuple[Val, Val | None]]]  # per axis, per tap: bytes from the data's start, and the weight


@dataclass(frozen=True)
class Loop:
    """A loop over a dimension of the result: its extent and strides, and the table where it is resized."""

    extent: Dim
    out: Dim
    x: Dim
    axis: Axis | None


def loops(region: Region) -> list[Loop]:
    """The fewest loops: dimensions that keep their size join."""
    x, out, at = region.inputs[0], region.output, region.attrs
    nest: list[Loop] = []
    for d, extent in enumerate(out.shape):
        axis = None
        if not (x.shape[d] == extent and at["scales"][d] in (None, 1.0)):
            axis = Axis(x.shape[d], extent, at["scales"][d])
        elif extent == 1:
            continue
        here = Loop(extent, out.strides[d], x.strides[d], axis)
        last = nest[-1] if nest else None
        if (last and not axis and not last.axis and last.out == here.out * extent and last.x == here.x * extent):
            nest[-1] = replace(here, extent=last.extent * extent)
        else:
            nest.append(here)
    return nest or [Loop(1, 1, 1, None)]


class Resize(Movement):
    """Nearest, linear and cubic. Sums are taken in float32, of float64 and integers in float64; of a dimension of
    size 0 nothing is read. An expression may follow an interpolation in float32, if it reads no other tensor."""

    name = "resize"

    def applies(self, region: Region, machine: Isa) -> str:
        d = region.anchor.dtype
        if region.epilogue is not None:
            if region.n_anchor != len(region.inputs) or d is not DType.F32 or region.attrs["mode"] == "nearest":
                return "resize takes expressions of interpolated float32 alone"
            region = replace(region, epilogue=None, output=replace(region.output, dtype=d))
        if region.inputs[0].dtype in WIDENED and d is DType.F32:
            region = replace(region, inputs=(replace(region.inputs[0], dtype=d),))
        return super().applies(region, machine)

    def refuses(self, region: Region) -> str:
        if region.attrs["mode"] != "nearest" and region.output.dtype is DType.BOOL:
            return "booleans are not interpolated"
        if region.attrs["antialias"] and sum(l.axis is not None for l in loops(region)) > 1:
            return "antialiasing goes along one axis at a time"
        return ""

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        factor = {"nearest": 1, "linear": 4, "cubic": 16}[region.attrs["mode"]]
        return super().cost(region, params, machine, threads) * factor

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        if region.attrs["mode"] == "nearest":
            d = RAW[region.output.dtype.size]
            region = replace(region, inputs=(replace(region.inputs[0], dtype=d),),
                             output=replace(region.output, dtype=d), anchor=replace(region.anchor, dtype=d))
        return _Kernel(region, machine).implementation()


@dataclass(frozen=True)
class _Table:
    """A table in memory: for each tap and element the weight, then for each tap and element the place (int32)."""

    weights: Val
    places: Val
    size: IntLike  # elements
    step: IntLike  # bytes of the data from one place to the next


class _Kernel:
    def __init__(self, region: Region, isa: Isa) -> None:
        self.region, self.isa, self.at = region, isa, region.attrs
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.dtype, self.result = region.inputs[0].dtype, region.output.dtype
        self.size = self.dtype.size
        self.nearest = self.at["mode"] == "nearest"
        self.taps: Dim = {"nearest": 1, "linear": 2, "cubic": 4}[self.at["mode"]]
        self.nest = loops(region)
        self.long = self.at["antialias"] and any(l.axis is not None for l in self.nest)
        if self.long:
            (axis,) = [l.axis for l in self.nest if l.axis is not None]
            self.taps = footprint(axis.n, axis.size, axis.scale, self.at["mode"])
        exact = region.anchor.dtype is DType.F64 or not region.anchor.dtype.is_float
        self.wide = self.dtype if self.nearest else DType.F64 if exact else DType.F32  # what sums are taken in
        self.workspace: Dim = 0
        self.steps: list[Step] = []
        self.tables: dict[Loop, _Table] = {}

    def implementation(self) -> Implementation:
        for loop in self.nest:
            if loop.axis is not None:
                self.tables[loop] = self._table(loop, loop.axis)
        return Implementation((*self.steps, self._step()), workspace=self.workspace)

    # -- tables -----------------------------------------------------------------------------------

    def _table(self, loop: Loop, axis: Axis) -> _Table:
        weight = 0 if self.nearest else self.wide.size
        n, size = axis.n, axis.size
        if isinstance(n, int) and isinstance(size, int):
            places, weights = taps(n, size, axis.scale, self.at)
            data = b"" if self.nearest else weights.T.astype(self.wide.np).tobytes()
            at = self.k.table(np.frombuffer(data + places.T.astype(np.int32).tobytes(), np.uint8))
        else:
            at = self.args.pointer(Work(self.workspace))
            self.steps.append(self._table_step(axis, self.workspace))
            self.workspace = self.workspace + ceildiv(size * (self.taps * (4 + weight)), 64) * 64
        elements = self.args.dim(size)
        step = self.args.dim(loop.x) * self.size
        return _Table(at, at + elements * (self.args.dim(self.taps) * weight), elements, step)

    def _table_step(self, axis: Axis, offset: Dim) -> Step:
        k = Fn(NAME, self.isa)
        args = Args(k)
        p, size = args.pointer(Work(offset)), args.dim(axis.size)
        weight = 0 if self.nearest else self.wide.size
        count = args.dim(self.taps)
        places = p + size * (count * weight)
        for tile in k.range(k.begin, k.end):
            first = tile * _BLOCK
            for i in k.range(first, k.min(first + _BLOCK, size)):
                def put(t: IntLike, place: Val, w: Val, i: Val = i) -> None:
                    at = i + size * t
                    k.store(place, places + at * 4)
                    if not self.nearest:
                        store_value(k, cast(k, w, DType.F64, self.wide), self.wide, p + at * weight)

                if self.long:
                    emit_antialiased(k, args, axis, i, self.at, count, put)
                else:
                    for t, (place, w) in enumerate(emit_table(k, args, axis, i, self.at)):
                        put(t, place, w)
        return Step(finish(k, "resize_taps"), args.table, ceildiv(axis.size, _BLOCK))

    # -- the result -------------------------------------------------------------------------------

    def _step(self) -> Step:
        k, args, size = self.k, self.args, self.size
        x, out = args.pointer(In(0)), args.pointer(Out())
        inner = self.nest[-1]
        cost = max(size, self.result.size) * optimum(self.region, self.taps) ** len(self.tables)
        tiles = Tiles(k, args, self.region, [l.extent for l in self.nest], cost)
        needed = [l.axis.n for l in self.nest if l.axis is not None]
        for index, c0, c1 in tiles.rows_of(unless_zero=needed):
            src, dst = x, out
            outer: Taps = []
            at: tuple[Loop, IntLike] | None = None  # where the one axis with many taps is not the innermost
            for i, loop in zip(index, self.nest[:-1], strict=True):
                dst = dst + i * args.dim(loop.out) * self.result.size
                if loop.axis is None:
                    src = src + i * args.dim(loop.x) * size
                elif self.long:
                    at = loop, i
                else:
                    assert isinstance(self.taps, int)
                    outer.append([self._tap(self.tables[loop], i, t) for t in range(self.taps)])
            if self.long:
                self._long_row(inner, at, src, dst, c0, c1)
            else:
                self._row(inner, src, dst, outer, c0, c1)
        return Step(finish(k, "resize"), args.table, tiles.count)

    def _tap(self, table: _Table, i: IntLike, t: IntLike, lanes: int = 1,
             mask: Val | None = None) -> tuple[Val, Val | None]:
        """Bytes from the data's start to tap t of element i, and the weight; or of elements i, i + 1.."""
        k = self.k
        at = i + table.size * t
        place = k.cast("sext", k.load("i32", table.places + at * 4, lanes, mask), "i64")
        offset = place * (k.splat(k.i64(table.step), lanes) if lanes > 1 else table.step)
        if not isinstance(offset, Val):
            offset = k.const(vec("i64", lanes), offset)
        if self.nearest:
            return offset, None
        return offset, load_value(k, self.wide, table.weights + at * self.wide.size, lanes, mask)

    def _row(self, loop: Loop, src: Val, dst: Val, outer: Taps,
             c0: IntLike, c1: IntLike) -> None:
        k, size, step = self.k, self.size, self.args.dim(loop.x)
        if self.nearest:
            for (offset, _), in outer:
                src = src + offset
            outer = []
        contiguous = loop.axis is None and isinstance(step, int) and step == 1
        if self.nearest and contiguous:
            copy_row(k, dst + c0 * size, src + c0 * size, c1 - c0, size)
            return
        lanes = self.isa.width // self.wide.size
        if (loop.axis is None and not contiguous) or (self.nearest and size < 4):
            lanes = 1

        def block(c: IntLike, mask: Val | None) -> None:
            if loop.axis is None:
                v = self._blend(src, outer, lambda p: load_value(k, self.dtype, p + c * step * size, lanes, mask))
            else:
                assert isinstance(self.taps, int)
                here = [self._tap(self.tables[loop], c, t, lanes, mask) for t in range(self.taps)]

                def pick(p: Val, offset: Val) -> Val:
                    return (load_value(k, self.dtype, p + offset) if lanes == 1
                            else gather_at(k, self.dtype, p, offset, mask))

                v = self._sum([(partial(self._blend, src, outer, partial(pick, offset=o)), w) for o, w in here])
            self._store(v, dst + c * self.result.size, mask)

        whole = c0 + (c1 - c0) // lanes * lanes
        for c in k.range(c0, whole, lanes):
            block(c, None)
        if lanes == 1:
            return
        for c in k.range(whole, c1, lanes):
            block(c, k.tail_mask(c1 - c, lanes))

    def _long_row(self, loop: Loop, at: tuple[Loop, IntLike] | None, src: Val, dst: Val, c0: IntLike,
                  c1: IntLike) -> None:
        """A row where one axis has many taps: that of the row itself, or (`at`: its loop and index) one around it."""
        k, size, step = self.k, self.size, self.args.dim(loop.x)
        count = self.args.dim(self.taps)
        contiguous = isinstance(step, int) and step == 1
        lanes = self.isa.width // self.wide.size if at is None or contiguous else 1

        def block(c: IntLike, vectors: int, mask: Val | None) -> None:
            ty = vec(self.wide.llvm, lanes)
            sums = [k.var(ty, 0.0) for _ in range(vectors)]
            for t in k.range(0, count):
                if at is None:
                    taps = [self._tap(self.tables[loop], c + lanes * v, t, lanes, mask) for v in range(vectors)]
                else:
                    taps = [self._tap(self.tables[at[0]], at[1], t)] * vectors
                for v, (total, (offset, w)) in enumerate(zip(sums, taps, strict=True)):
                    assert w is not None
                    if at is not None:
                        p = src + offset + (c + lanes * v) * step * size
                        x = load_value(k, self.dtype, p, lanes, mask)
                    else:
                        x = (load_value(k, self.dtype, src + offset) if lanes == 1
                             else gather_at(k, self.dtype, src, offset, mask))
                    x = self._widen(x)
                    total.set(total.get() + x * (w if w.lanes == x.lanes else k.splat(w, x.lanes)))
            for v, total in enumerate(sums):
                self._store(total.get(), dst + (c + lanes * v) * self.result.size, mask)

        wide = c0 + (c1 - c0) // (lanes * _VECTORS) * (lanes * _VECTORS)
        whole = c0 + (c1 - c0) // lanes * lanes
        for c in k.range(c0, wide, lanes * _VECTORS):
            block(c, _VECTORS, None)
        for c in k.range(wide, whole, lanes):
            block(c, 1, None)
        if lanes > 1:
            for c in k.range(whole, c1, lanes):
                block(c, 1, k.tail_mask(c1 - c, lanes))

    def _blend(self, p: Val, outer: Taps, read: Callable[[Val], Val]) -> Val:
        """The sum over the taps of the outer axes of what `read` gives at each place; the first axis is summed
        first, as the reference does it."""
        if not outer:
            return read(p)
        return self._sum([(partial(self._blend, p + o, outer[:-1], read), w) for o, w in outer[-1]])

    def _sum(self, parts: Sequence[tuple[Callable[[], Val], Val | None]]) -> Val:
        """The weighted sum of values; without weights there is only one."""
        k = self.k
        total: Val | None = None
        for value, w in parts:
            if w is None:
                return value()
            v = self._widen(value())
            term = v * (w if w.lanes == v.lanes else k.splat(w, v.lanes))
            total = term if total is None else total + term
        assert total is not None
        return total

    def _widen(self, v: Val) -> Val:
        """An element in the type that sums are taken in."""
        return v if v.scalar == self.wide.llvm else cast(self.k, v, self.dtype, self.wide)

    def _store(self, v: Val, p: Val, mask: Val | None) -> None:
        k, d = self.k, self.region.anchor.dtype
        if not self.nearest and self.wide is DType.F64:
            if d.is_integer and v.is_float:
                v = k.intrinsic("llvm.roundeven", v)
            v = cast(k, v, self.wide, d) if v.is_float else v
        if self.region.epilogue is not None:
            v = emit_expr(k, self.region.epilogue, lambda _: v, v.lanes)
        store_value(k, v, self.result, p, mask)
