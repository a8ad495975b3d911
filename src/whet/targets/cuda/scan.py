"""Running sums and products: a program takes some lines and walks along them in blocks."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, In, Out, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.moving import LAUNCH, Movement, moved
from whet.targets.cuda.shapes import optimum, power_of_two
from whet.targets.cuda.tiles import OUT, is_wide, merged, number, sum_of, unravel

_ELEMENTS = 2048  # of a tile


class CumSum(Movement):
    """Sums (or products), of 16-bit floats in float32; integers wrap. Within a block of a line they are taken as a
    tree, the same for every run."""

    name = "cumsum"
    product = False

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        n = power_of_two(optimum(region, region.output.shape[region.attrs["axis"]]))
        most = power_of_two(self._lines(region))
        sizes = dict.fromkeys(min(n, c) for c in (1024, 256, 64))
        return [{"columns": c, "rows": min(max(e // c, 1), most)} for c in sizes for e in (_ELEMENTS, 512)
                if e >= c]

    def _lines(self, region: Region) -> int:
        n = max(optimum(region, region.output.shape[region.attrs["axis"]]), 1)
        return max(optimum(region, product(region.output.shape)) // n, 1)

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        n = optimum(region, region.output.shape[region.attrs["axis"]])
        return moved(region) / (machine.bandwidth or 1e12) + LAUNCH + n / params["columns"] * 1e-6

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        s, (x,), out, attrs = Source(self.name), region.inputs, region.output, region.attrs
        axis, dtype = attrs["axis"], out.dtype
        rest = [d for d in range(len(out.shape)) if d != axis]
        nest = merged(tuple(out.shape[d] for d in rest), {0: [x.strides[d] for d in rest],
                                                          OUT: [out.strides[d] for d in rest]})
        src, dst = s.pointer(In(0), dtype, x.aligned), s.pointer(Out(), dtype, out.aligned)
        rows, columns = params["rows"], params["columns"]
        lines = product(nest.extents)
        wide = is_wide(region, lines)
        n = number(s, region, out.shape[axis])
        own = "float32" if dtype in (DType.F16, DType.BF16) else REGISTER[dtype] if dtype.size > 2 else "int32"
        s.line(f"line = tl.program_id(0){'.to(tl.int64)' if wide else ''} * {rows} + tl.arange(0, {rows})[:, None]")
        s.line(f"rows = line < {number(s, region, lines)}")
        coords = unravel(s, region, "line", nest.extents)
        at = {t: s.name_of(sum_of(f"{c} * {number(s, region, d)}" for c, d in zip(coords, nest.strides[t])),
                           "at") for t in (0, OUT)}
        steps = {t: number(s, region, v.strides[axis]) for t, v in ((0, x), (OUT, out))}
        first = int(self.product)

        def store(place: str, value: str, mask: str) -> None:
            where = f"({n} - 1 - ({place}))" if attrs["reverse"] else f"({place})"
            s.line(f"tl.store({dst} + {at[OUT]} + {where} * {steps[OUT]}, {value}, mask={mask})")

        s.line(f"carry = tl.full([{rows}, 1], {first}, tl.{own})")
        if attrs["exclusive"]:
            store("0 * line", f"carry.to(tl.{REGISTER[dtype]})", f"rows & ({n} > 0 * line)")
        with s.block(f"for first in range(0, {n}, {columns}):"):
            s.line(f"c = first + tl.arange(0, {columns})[None, :]" + (".to(tl.int64)" if wide else ""))
            where = f"({n} - 1 - c)" if attrs["reverse"] else "c"
            s.line(f"x = tl.load({src} + {at[0]} + {where} * {steps[0]}, mask=rows & (c < {n}), other={first})")
            s.line(f"x = x.to(tl.{own})")
            s.line("y = carry * tl.cumprod(x, 1)" if self.product else "y = carry + tl.cumsum(x, 1)")
            s.line(f"carry = tl.sum(tl.where(tl.arange(0, {columns})[None, :] == {columns - 1}, y, 0), 1)[:, None]"
                   f".to(tl.{own})")
            if attrs["exclusive"]:
                store("c + 1", f"y.to(tl.{REGISTER[dtype]})", f"rows & (c + 1 < {n})")
            else:
                store("c", f"y.to(tl.{REGISTER[dtype]})", f"rows & (c < {n})")
        return Implementation((s.step(ceildiv(lines, rows)),))


class CumProd(CumSum):
    """Products instead of sums."""

    name = "cumprod"
    product = True
