"""Bits taken for another type of the same size: a copy."""

from __future__ import annotations

from whet.ir.region import Region
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn
from whet.targets.cpu.loops import OUT, advance, loops_over
from whet.targets.cpu.moving import Movement, Tiles, copy_element, copy_row


class BitCast(Movement):
    """Rows in wide vectors; no bit changes, of NaN neither."""

    name = "bitcast"
    converts = True

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, out = region.inputs[0], region.output
        size = out.dtype.size
        nest = loops_over(out.shape, {0: x.strides, OUT: out.strides})
        base = {0: args.pointer(In(0)), OUT: args.pointer(Out())}
        inner = {t: args.dim(s[-1]) if s else 1 for t, s in nest.strides.items()}
        dense = all(isinstance(s, int) and s == 1 for s in inner.values())
        tiles = Tiles(k, args, region, nest.extents, size)
        for index, c0, c1 in tiles.rows_of():
            src, dst = (advance(k, args, base[t], nest.strides[t][:-1], index, size) for t in (0, OUT))
            if dense:
                copy_row(k, dst + c0 * size, src + c0 * size, c1 - c0, size)
                continue
            for c in k.range(c0, c1):
                copy_element(k, dst + c * inner[OUT] * size, src + c * inner[0] * size, size)
        return Implementation((Step(finish(k, "bitcast"), args.table, tiles.count),))
