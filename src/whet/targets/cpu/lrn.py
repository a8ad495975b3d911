"""Local response normalization across channels (Krizhevsky et al., 2012), channels last."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Implementation, In, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import unit_reason
from whet.targets.cpu.epilogue import compute_type, load_value
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.pixels import PixelWriter


class Lrn:
    """x / (bias + alpha / size * sum of squares of `size` neighbouring channels)^beta, in fp32.

    Parameter: rows (rows of pixels per tile).
    """

    name = "lrn"

    def applies(self, region: Region, machine: Isa) -> str:
        x = region.inputs[0]
        if region.prologue:
            return "operands computed on load are not supported"
        if not region.attrs.get("channels_last"):
            return "the layout is not channels-last"
        if not x.dtype.is_float:
            return f"x is {x.dtype.value}"
        return unit_reason(region, x, region.output)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        rows = opt(region, product(region.output.shape[:-2]))
        return [{"rows": n} for n in (1, 4) if n == 1 or rows >= 4 * n * threads]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: loads of the neighbours, a power per vector."""
        n = opt(region, product(region.output.shape[:-1])) * -(-opt(region, region.output.shape[-1]) // machine.lanes)
        return float(n * (region.attrs["size"] + 30) / threads / 3e9 + params["rows"] * 1e-9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, out = region.inputs[0], region.output
        lead = [args.dim(d) for d in out.shape[:-1]]
        steps = [args.dim(s) * x.dtype.size for s in x.strides[:-1]]
        row_dims, width = lead[:-1], lead[-1]
        c = args.dim(out.shape[-1])
        writer = PixelWriter(k, args, region, region.epilogue)
        src = args.pointer(In(0))
        rows = product(out.shape[:-2])
        block, lanes = params["rows"], vector_lanes(machine, region)
        count = args.dim(rows)
        for t in k.range(k.begin, k.end):
            for row in k.range(t * block, k.min((t + 1) * block, count)):
                coords: list[IntLike] = []
                rest: IntLike = row
                for size in reversed(row_dims):
                    coords.append(rest % size)
                    rest = rest // size
                coords.reverse()
                base = src
                for i, step in zip(coords, steps, strict=False):
                    base = base + i * step
                for w in k.range(0, width):
                    at = writer.at([*coords, w])
                    pixel = base + w * steps[-1]
                    whole = c - c % lanes
                    for i in k.range(0, whole, lanes):
                        writer.put([_normalize(k, region, pixel, i, c, None)], at, i, None)
                    for i in k.range(whole, c, lanes):
                        mask = k.tail_mask(c - i, lanes)
                        writer.put([_normalize(k, region, pixel, i, c, mask)], at, i, mask)
        step = Step(finish(k, self.name), args.table, (rows + block - 1) // block)
        return Implementation((step,))


def vector_lanes(isa: Isa, region: Region) -> int:
    """Channels per vector."""
    return isa.lanes if region.inputs[0].dtype.size <= 4 else isa.lanes // 2


def _normalize(k: Fn, region: Region, pixel: Val, c: IntLike, channels: IntLike, mask: Val | None) -> Val:
    """The results for the vector of channels at c."""
    at, dtype, lanes = region.attrs, region.inputs[0].dtype, vector_lanes(k.isa, region)
    size, ty = at["size"], vec(compute_type(dtype), lanes)
    before = (size - 1) // 2
    total = k.var(ty, 0.0)
    lane = k.const_vector("i32", range(lanes))
    for d in range(-before, size - before):
        first = k.i64(c) + d
        low = k.cast("trunc", 0 - first, "i32")
        high = k.cast("trunc", channels - first, "i32")
        inside = k.cmp("sge", lane, low) & k.cmp("slt", lane, high)
        v = load_value(k, dtype, pixel + first * dtype.size, lanes, inside)
        total.set(k.fma(v, v, total.get()))
    base = k.fma(total.get(), at["alpha"] / size, k.const(ty, at["bias"]))
    x = load_value(k, dtype, pixel + c * dtype.size, lanes, mask)
    if at["beta"] == 0.75:
        root = vmath.sqrt(k, base)
        return x / (root * vmath.sqrt(k, root))
    return x / vmath.pow(k, base, k.const(ty, at["beta"]))
