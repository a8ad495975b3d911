"""Padding: every element of the result has a place in the data, dimension by dimension, or is the constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, In, Out, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import Movement, bits_of, is_never_read, pointer
from whet.targets.cuda.tiles import Tile, number, sum_of


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
    return nest or [Loop(1, 1, 1, 1, 0, False)]


class Pad(Movement):
    """Constant, reflect, edge and wrap. Of a dimension of size 0 nothing is read."""

    name = "pad"

    def loops(self, region: Region) -> Sequence[Dim]:
        return [l.extent for l in loops(region)]

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        nest, mode = loops(region), region.attrs["mode"]
        needed = [] if mode == "constant" else [l.n for l in nest if l.padded]
        if is_never_read(needed):
            return Implementation(())
        s = Source("pad")
        x, out = pointer(s, In(0), region.inputs[0]), pointer(s, Out(), region.output)
        tile = Tile(s, region, [l.extent for l in nest], params, unless_zero=needed)
        fill = bits_of(region.attrs["value"], region.output.dtype) if mode == "constant" else 0
        inside, terms = tile.mask, []
        for i, loop in zip(tile.index, nest, strict=True):
            if loop.padded:
                i = s.name_of(f"{i} - {number(s, region, loop.before)}", "at")
                n = number(s, region, loop.n)
                if mode == "constant":
                    inside = s.name_of(f"{inside} & ({i} >= 0) & ({i} < {n})", "inside")
                else:
                    i = _folded(s, i, n, mode)
            terms.append(f"{i} * {number(s, region, loop.x)}")
        s.line(f"v = tl.load({x} + ({sum_of(terms)}), mask={inside}, other=0)")
        if fill:  # not as `other`: where several elements are loaded at once, Triton 3.6 fills in other bits
            s.line(f"v = tl.where({inside}, v, tl.full((), {fill}, v.dtype))")
        s.line(f"tl.store({out} + {tile.offset([l.out for l in nest])} + {tile.whole}, v, mask={tile.mask})")
        return Implementation((s.step(tile.tiles),))


def _folded(s: Source, i: str, n: str, mode: str) -> str:
    """The element that stands at place i of a dimension that goes on past its n elements."""
    if mode == "edge":
        return s.name_of(f"tl.maximum(tl.minimum({i}, {n} - 1), 0)", "at")
    period = s.name_of(f"{n} + 0 * {i}" if mode == "wrap" else f"tl.maximum(({n} - 1) * 2 + 0 * {i}, 1)", "period")
    rest = s.name_of(f"{i} % {period}", "rest")
    s.line(f"{rest} = tl.where({rest} < 0, {rest} + {period}, {rest})")  # as C's: of the sign of the dividend
    return rest if mode == "wrap" else s.name_of(f"tl.minimum({rest}, {period} - {rest})", "at")
