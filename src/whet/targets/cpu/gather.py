"""Gathers: gather, gather_nd and gather_elements are one kernel.

Along every dimension of the result the data and the indices move by a stride (0 where they stay), and each of an
index's components picks a place along one dimension of the data. Where the indices stay along the innermost loop,
whole rows are copied (embedding tables); else elements are picked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import gather_at
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import OUT, advance, loops_over
from whet.targets.cpu.moving import RAW, Movement, Tiles, copy_element, copy_row, load_index, raw

_UNROLL = 4
_PICK = 8  # an element that is picked takes the time of so many bytes copied


@dataclass(frozen=True)
class Pick:
    """One component of an index: `offset` elements after the index's address; the dimension of the data that it
    walks along, of `size` elements `stride` apart."""

    offset: Dim
    size: Dim
    stride: Dim


@dataclass(frozen=True)
class Picking:
    """Strides of data and indices along the result's dimensions, and the index's components."""

    data: tuple[Dim, ...]
    index: tuple[Dim, ...]
    picks: tuple[Pick, ...]


def picking(region: Region) -> Picking:
    """How a region of one of the three kinds reads its data."""
    x, i = region.inputs[0], region.inputs[1]
    if region.kind == "gather_nd":
        b, depth = region.attrs["batch_dims"], i.shape[-1]
        assert isinstance(depth, int)
        lead, rest = len(i.shape) - 1 - b, len(x.shape) - b - depth
        picks = tuple(Pick(c * i.strides[-1], x.shape[b + c], x.strides[b + c]) for c in range(depth))
        return Picking(x.strides[:b] + (0,) * lead + x.strides[b + depth:], i.strides[:-1] + (0,) * rest, picks)
    axis = region.attrs["axis"]
    pick = Pick(0, x.shape[axis], x.strides[axis])
    before, after = x.strides[:axis], x.strides[axis + 1:]
    if region.kind == "gather":
        zeros = (0,) * len(before), (0,) * len(after)
        return Picking(before + (0,) * len(i.shape) + after, zeros[0] + i.strides + zeros[1], (pick,))
    return Picking((*before, 0, *after), i.strides, (pick,))


class Gather(Movement):
    """Rows in wide vectors, or single elements. An index that lies outside is clamped; of a dimension of size 0
    nothing is read."""

    name = "gather"

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(region, machine).step(),))


class _Kernel:
    def __init__(self, region: Region, isa: Isa) -> None:
        self.region = region
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        i, out = region.inputs[1], region.output
        how = picking(region)
        self.picks = how.picks
        self.size, self.index_type = out.dtype.size, i.dtype
        self.nest = loops_over(out.shape, {OUT: out.strides, 0: how.data, 1: how.index})
        self.p = {OUT: self.args.pointer(Out()), 0: self.args.pointer(In(0)), 1: self.args.pointer(In(1))}
        inner = {t: s[-1] if s else 0 for t, s in self.nest.strides.items()}
        self.inner = {t: self.args.dim(s) for t, s in inner.items()}
        self.rows = not self.nest.extents or inner[1] == 0

    def step(self) -> Step:
        k, args, nest = self.k, self.args, self.nest
        bytes_each = {OUT: self.size, 0: self.size, 1: self.index_type.size}
        contiguous = self.rows and self._is(0, 1) and self._is(OUT, 1)
        tiles = Tiles(k, args, self.region, nest.extents, self.size if contiguous else self.size + _PICK)
        for index, c0, c1 in tiles.rows_of(unless_zero=[p.size for p in self.picks]):
            at = {t: advance(k, args, p, nest.strides[t][:-1], index, bytes_each[t]) for t, p in self.p.items()}
            if not self.rows:
                self._elements(at, c0, c1)
                continue
            src, dst = at[0] + self._place(at[1]), at[OUT]
            if contiguous or not nest.extents:
                count = c1 - c0
                copy_row(k, dst + c0 * self.size, src + c0 * self.size, count, self.size)
                continue
            for c in k.range(c0, c1):
                copy_element(k, dst + c * self.inner[OUT] * self.size, src + c * self.inner[0] * self.size, self.size)
        return Step(finish(k, self.region.kind), args.table, tiles.count)

    def _is(self, t: int, stride: int) -> bool:
        return isinstance(self.inner[t], int) and self.inner[t] == stride

    def _place(self, p: Val, lanes: int = 1) -> Val:
        """Bytes from the data's address to where the index at p points, or for neighbouring indices to where each
        of them does."""
        k = self.k
        at = k.const(vec("i64", lanes), 0)
        for pick in self.picks:
            offset, n, stride = (self.args.dim(d) for d in (pick.offset, pick.size, pick.stride))
            i = load_index(k, self.index_type, p + offset * self.index_type.size, n, lanes)
            at = at + k.op("mul", i, k.coerce(stride * self.size, i.ty))
        return at

    def _elements(self, at: dict[int, Val], c0: IntLike, c1: IntLike) -> None:
        """Elements one by one, several loads under way at once; where the CPU can, by vectors of places."""
        k = self.k

        def some(columns: Sequence[IntLike]) -> None:
            places = [self._place(at[1] + c * self.inner[1] * self.index_type.size) for c in columns]
            sources = [at[0] + c * self.inner[0] * self.size + p for c, p in zip(columns, places)]
            vs = [k.load(raw(self.size), s) for s in sources]
            for c, v in zip(columns, vs):
                k.store(v, at[OUT] + c * self.inner[OUT] * self.size)

        vectors = (k.isa.name != "neon" and self.size >= 4 and self._is(OUT, 1) and self._is(1, 1))
        step = k.isa.width // 8 if vectors else _UNROLL
        whole = c0 + (c1 - c0) // step * step
        for c in k.range(c0, whole, step):
            if vectors:
                places = self._place(at[1] + c * self.index_type.size, step)
                own = k.const_vector("i64", range(step)) * k.splat(k.i64(self.inner[0] * self.size), step)
                v = gather_at(k, RAW[self.size], at[0] + c * self.inner[0] * self.size, places + own)
                k.store(v, at[OUT] + c * self.size)
            else:
                some([c + j for j in range(step)])
        for c in k.range(whole, c1):
            some([c])
