"""Gathers: gather, gather_nd and gather_elements are one kernel.

Along every dimension of the result the data and the indices move by a stride (0 where they stay), and each of an
index's components picks a place along one dimension of the data. Where the indices stay along a row of a tile, each is
loaded once and the row is copied (embedding tables); else elements are picked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, In, Out, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import Movement, is_never_read, place, pointer
from whet.targets.cuda.tiles import OUT, Nest, Tile, merged, number


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
        return Picking(before + (0,) * len(i.shape) + after, (0,) * axis + i.strides + (0,) * len(after), (pick,))
    return Picking((*before, 0, *after), i.strides, (pick,))


def _nest(region: Region) -> Nest:
    how = picking(region)
    return merged(region.output.shape, {OUT: region.output.strides, 0: how.data, 1: how.index})


class Gather(Movement):
    """Rows or single elements. An index that lies outside is clamped; of a dimension of size 0 nothing is read."""

    name = "gather"

    def loops(self, region: Region) -> Sequence[Dim]:
        return _nest(region).extents

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        picks, nest = picking(region).picks, _nest(region)
        if is_never_read(p.size for p in picks):
            return Implementation(())
        s = Source(region.kind)
        data, out = pointer(s, In(0), region.inputs[0]), pointer(s, Out(), region.output)
        index = s.pointer(In(1), region.inputs[1].dtype, region.inputs[1].aligned)
        tile = Tile(s, region, nest.extents, params, unless_zero=[p.size for p in picks])
        at = tile.offset(nest.strides[0])
        if picks:
            mask, where = tile.mask_of(nest.strides[1]), tile.offset(nest.strides[1])
            for p in picks:
                raw = s.name_of(f"tl.load({index} + {where} + {number(s, region, p.offset)}, mask={mask}, other=0)")
                s.line(f"{at} = {at} + {place(s, region, raw, p.size, tile.wide)} * {number(s, region, p.stride)}")
        s.line(f"v = tl.load({data} + {at}, mask={tile.mask})")
        s.line(f"tl.store({out} + {tile.offset(nest.strides[OUT])} + {tile.whole}, v, mask={tile.mask})")
        return Implementation((s.step(tile.tiles),))
