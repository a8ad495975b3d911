"""Padding: every element of the result has a place in the data, dimension by dimension, or is the constant.

Rows of the result are a border, a run of neighbours, and a border. Negative pads crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.moving import Movement, Tiles, copy_element, copy_row, element_bits, fill_row


@dataclass(frozen=True)
class Loop:
    """A loop over a dimension of the result: its extent and strides; of a padded one also how many elements the
    data has there, and how many come before them (may be negative)."""

    extent: Dim
    out: Dim
    x: Dim
    n: Dim
    before: Dim
    padded: bool


def loops(region: Region) -> list[Loop]:
    """The fewest loops: dimensions that are not padded join their neighbours; with a constant, a padded one takes
    in what lies contiguously inside it."""
    x, out = region.inputs[0], region.output
    pads, constant = region.attrs["pads"], region.attrs["mode"] == "constant"
    nest: list[Loop] = []
    for axis, extent in enumerate(out.shape):
        before, after = pads[axis], pads[len(out.shape) + axis]
        padded = not (before == 0 and after == 0)
        here = Loop(extent, out.strides[axis], x.strides[axis], x.shape[axis], before, padded)
        if not padded and extent == 1:
            continue
        last = nest[-1] if nest else None
        if (last and not padded and (constant or not last.padded)
                and last.out == here.out * extent and last.x == here.x * extent):
            nest[-1] = Loop(last.extent * extent, here.out, here.x, last.n * extent, last.before * extent, last.padded)
        else:
            nest.append(here)
    return nest


class Pad(Movement):
    """Constant, reflect, edge and wrap. Of a dimension of size 0 nothing is read."""

    name = "pad"

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(region, machine).step(),))


class _Kernel:
    def __init__(self, region: Region, isa: Isa) -> None:
        self.region, self.mode = region, region.attrs["mode"]
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.size = region.output.dtype.size
        self.fill = element_bits(region.attrs["value"], region.output.dtype) if self.mode == "constant" else 0
        self.nest = loops(region) or [Loop(1, 1, 1, 1, 0, False)]

    def step(self) -> Step:
        k, args, size = self.k, self.args, self.size
        x, out = args.pointer(In(0)), args.pointer(Out())
        inner = self.nest[-1]
        tiles = Tiles(k, args, self.region, [l.extent for l in self.nest], size)
        needed = [] if self.mode == "constant" else [l.n for l in self.nest if l.padded]
        for index, c0, c1 in tiles.rows_of(unless_zero=needed):
            src, dst, inside = x, out, []
            for i, loop in zip(index, self.nest[:-1], strict=True):
                dst = dst + i * args.dim(loop.out) * size
                at = i
                if loop.padded:
                    at, here = self._source(loop, i)
                    inside += here
                src = src + at * args.dim(loop.x) * size
            if not inside:
                self._row(inner, src, dst, c0, c1)
                continue
            row, border = k.branch(reduce(lambda a, b: a & b, inside))
            with row:
                self._row(inner, src, dst, c0, c1)
            with border:
                fill_row(k, dst + c0 * size, self.fill, c1 - c0, size)
        return Step(finish(k, "pad"), args.table, tiles.count)

    def _source(self, loop: Loop, i: IntLike) -> tuple[IntLike, list[Val]]:
        """Where element i of a padded dimension comes from, and (with a constant) whether that exists."""
        k = self.k
        n = self.args.dim(loop.n)
        at = k.i64(i) - self.args.dim(loop.before)
        if self.mode == "constant":
            return at, [k.cmp("ult", at, n)]
        if self.mode == "edge":
            return k.max(k.min(at, n - 1), 0), []
        period = n if self.mode == "wrap" else k.max((n - 1) * 2, 1)
        rest = k.op("srem", at, k.i64(period))
        rest = k.select(rest < 0, rest + period, rest)
        return (rest if self.mode == "wrap" else k.min(rest, period - rest)), []

    def _row(self, loop: Loop, src: Val, dst: Val, c0: IntLike, c1: IntLike) -> None:
        """Columns [c0, c1) of a row whose data begins at src."""
        k, size, step = self.k, self.size, self.args.dim(loop.x)
        before = self.args.dim(loop.before)
        a0 = k.max(k.min(before, c1), c0)
        a1 = k.max(k.min(before + self.args.dim(loop.n), c1), a0)
        if not loop.padded:
            before, a0, a1 = 0, c0, c1
        for start, end in ((c0, a0), (a1, c1)) if loop.padded else ():
            if self.mode == "constant":
                fill_row(k, dst + start * size, self.fill, end - start, size)
                continue
            for c in k.range(start, end):
                copy_element(k, dst + c * size, src + self._source(loop, c)[0] * step * size, size)
        first = src + (a0 - before) * step * size
        if isinstance(step, int) and step == 1:
            copy_row(k, dst + a0 * size, first, a1 - a0, size)
            return
        for c in k.range(0, a1 - a0):
            copy_element(k, dst + (a0 + c) * size, first + c * step * size, size)
