"""Running sums and products: vectors run along a dimension that is not summed, where there is one."""

from __future__ import annotations

from whet.ir.region import Region
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import compute_type, load_value, store_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import OUT, advance, loops_over, optimum
from whet.targets.cpu.moving import Movement, Tiles

_VECTORS = 4  # side by side, so that additions do not wait for each other


class CumSum(Movement):
    """Sums (or products) in the order of the elements, of 16-bit floats in float32; integers wrap."""

    name = "cumsum"
    product = False

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, out, attrs = region.inputs[0], region.output, region.attrs
        axis, dtype = attrs["axis"], out.dtype
        rest = [d for d in range(len(out.shape)) if d != axis]
        nest = loops_over(tuple(out.shape[d] for d in rest), {0: [x.strides[d] for d in rest],
                                                              OUT: [out.strides[d] for d in rest]})
        steps = {t: args.dim(s[axis]) * dtype.size for t, s in ((0, x.strides), (OUT, out.strides))}
        base = {0: args.pointer(In(0)), OUT: args.pointer(Out())}
        inner = {t: args.dim(s[-1]) if s else 1 for t, s in nest.strides.items()}
        unit = nest.extents and all(isinstance(s, int) and s == 1 for s in inner.values())
        lanes = machine.width // (4 if compute_type(dtype) == "float" else dtype.size) if unit else 1
        n = args.dim(out.shape[axis])
        empty = k.const(vec(compute_type(dtype), lanes), int(self.product))
        start = empty if self.product or not empty.is_float else k.const(empty.ty, -0.0)  # -0 + x is x, for -0 too

        def columns(src: Val, dst: Val, vectors: int, mask: Val | None) -> None:
            totals = [k.var(empty.ty, start) for _ in range(vectors)]
            for i in k.range(0, n):
                at = n - 1 - i if attrs["reverse"] else i
                for j, total in enumerate(totals):
                    before, c = total.get(), j * lanes * dtype.size
                    each = load_value(k, dtype, src + at * steps[0] + c, lanes, mask)
                    total.set(before * each if self.product else before + each)
                    v = k.select(k.i64(i).eq(0), empty, before) if attrs["exclusive"] else total.get()
                    store_value(k, v, dtype, dst + at * steps[OUT] + c, mask)

        tiles = Tiles(k, args, region, nest.extents, max(1, optimum(region, out.shape[axis])) * dtype.size)
        for index, c0, c1 in tiles.rows_of():
            src, dst = (advance(k, args, p, nest.strides[t][:-1], index, dtype.size) for t, p in base.items())

            def at(c: IntLike, vectors: int, mask: Val | None, src: Val = src, dst: Val = dst) -> None:
                columns(src + c * inner[0] * dtype.size, dst + c * inner[OUT] * dtype.size, vectors, mask)

            wide = _VECTORS * lanes if lanes > 1 else 1
            most, whole = (c0 + (c1 - c0) // step * step for step in (wide, lanes))
            for c in k.range(c0, most, wide):
                at(c, wide // lanes, None)
            for c in k.range(most, whole, lanes) if lanes > 1 else ():
                at(c, 1, None)
            for c in k.range(whole, c1, lanes) if lanes > 1 else ():
                at(c, 1, k.tail_mask(c1 - c, lanes))
        return Implementation((Step(finish(k, self.name), args.table, tiles.count),))


class CumProd(CumSum):
    """Products instead of sums."""

    name = "cumprod"
    product = True
