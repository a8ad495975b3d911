"""Group norm (and instance norm: as many groups as channels) of channels-last tensors, in three steps.

1. Chunks of pixels: each channel's mean in the chunk and the squares of its differences from that mean.
2. Chunks and the channels of a group combined (T. F. Chan, G. H. Golub, R. J. LeVeque, 1979): no cancellation.
3. (x - mean[c]) * factor[c] + bias[c], with the epilogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Params, Step, Work
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import load_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.loops import OUT, Loops, broadcast_strides, loops_over, optimum, unravel, weight
from whet.targets.cpu.rowwise import (
    At,
    Operands,
    after,
    epilogue_reads,
    prologue_of,
    store_reason,
    types_reason,
)

CHUNK = 1 << 12  # elements of a block of pixels by channels that one tile sums
_IMAGE, _PIXEL, _CHANNEL = "image", "pixel", "channel"


class GroupNorm:
    """See the module. f32 statistics, whatever the storage type."""

    name = "groupnorm"

    def applies(self, region: Region, machine: Isa) -> str:
        if not region.attrs.get("channels_last"):
            return "the layout is not channels-last"
        if region.anchor.dtype not in (DType.F32, DType.BF16, DType.F16):
            return f"the anchor is {region.anchor.dtype.value}"
        if len(region.inputs[0].shape) < 2 or not isinstance(region.inputs[0].shape[-1], int):
            return "the channels are not static"
        if len(_nest(region).where(_PIXEL)) > 1:
            return "the pixels are not one loop"
        if len(_nest(region).where(_IMAGE)) > 1:
            return "the batch is not one loop"
        return types_reason(region) or store_reason(_nest(region))

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        n = optimum(region, product(region.output.shape))
        return n / machine.lanes * (8 + weight(region.epilogue)) / 3e9 / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        c = int(region.inputs[0].shape[-1])  # type: ignore[arg-type]
        pixels = max(1, CHUNK // max(c, 1))
        images, area = region.inputs[0].shape[0], product(region.inputs[0].shape[1:-1])
        chunks = ceildiv(area, pixels)
        # Workspace: per image and chunk [2][c] of mean and squares, then per image [2][c] of mean and factor.
        finals = images * chunks * (2 * c * 4)
        layout = _Layout(c, pixels, images, area, chunks, finals)
        steps = (_sums(region, machine, layout), _combine(region, machine, layout), _apply(region, machine, layout))
        return Implementation(steps, workspace=finals + images * (2 * c * 4))


@dataclass(frozen=True)
class _Layout:
    """c channels; chunks of `pixels` out of `area` pixels of an image; where the final factors lie."""

    c: int
    pixels: int
    images: Dim
    area: Dim
    chunks: Dim
    finals: Dim


def _nest(region: Region) -> Loops:
    x = region.inputs[0]
    rank = len(x.shape)
    strides = {i: broadcast_strides(region.inputs[i], x.shape) for i in prologue_of(region).leaves}
    strides[OUT] = broadcast_strides(region.output, x.shape)
    strides |= {after(i): broadcast_strides(region.inputs[i], x.shape) for i in epilogue_reads(region)}
    strides |= dict.fromkeys((1, 2), (0,) * (rank - 1) + (1,))
    return loops_over(x.shape, strides, [_IMAGE, *[_PIXEL] * (rank - 2), _CHANNEL])


class _Kernel:
    """What the first and the last step share: a tile is one chunk of one image."""

    def __init__(self, region: Region, isa: Isa, layout: _Layout) -> None:
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.nest = _nest(region)
        self.ops = Operands(self.k, self.args, region, self.nest)
        self.layout, self.lanes = layout, min(self.ops.lanes, isa.lanes)
        self.channel = self._loop(_CHANNEL)
        self.pixel = self._loop(_PIXEL)

    def _loop(self, label: str) -> int | None:
        found = self.nest.where(label)
        return found[0] if found else None

    def tiles(self) -> Iterable[tuple[IntLike, IntLike, At, IntLike, IntLike]]:
        """(image, chunk, pointers at the image, first pixel, end)."""
        k, args, lay = self.k, self.args, self.layout
        for tile in k.range(k.begin, k.end):
            image, chunk = unravel(k, tile, [1, args.dim(lay.chunks)])
            first = chunk * lay.pixels
            last = k.min(first + lay.pixels, args.dim(lay.area))
            images = self.nest.where(_IMAGE)
            yield image, chunk, self.ops.moved(self.ops.base, images, [image] * len(images)), first, last

    def at(self, here: At, pixel: IntLike) -> At:
        return here if self.pixel is None else self.ops.moved(here, [self.pixel], [pixel])

    def columns(self) -> Iterable[tuple[IntLike, Val | None]]:
        k, c = self.k, self.layout.c
        for j in k.range(0, c, self.lanes):
            yield j, None if c % self.lanes == 0 else k.tail_mask(c - j, self.lanes)


def _sums(region: Region, isa: Isa, lay: _Layout) -> Step:
    """Per chunk: each channel's mean and sum of squared differences from it."""
    t = _Kernel(region, isa, lay)
    k, ops, ty = t.k, t.ops, f"<{t.lanes} x float>"
    work = t.args.pointer(Work(0))
    for image, chunk, here, first, last in t.tiles():
        slot = work + (image * t.args.dim(lay.chunks) + chunk) * (2 * lay.c * 4)
        count = k.splat(k.cast("sitofp", k.i64(last - first), "float"), t.lanes)
        for c, mask in t.columns():
            def value(p: IntLike, here: At = here, c: IntLike = c, mask: Val | None = mask) -> Val:
                return ops.value(t.at(here, p), t.channel, c, t.lanes, mask)

            total, squares = k.var(ty, 0.0), k.var(ty, 0.0)
            for p in k.range(first, last):
                total.set(total.get() + value(p))
            mean = total.get() / count
            for p in k.range(first, last):
                d = value(p) - mean
                squares.set(k.fma(d, d, squares.get()))
            k.store(mean, slot + c * 4, mask)
            k.store(squares.get(), slot + lay.c * 4 + c * 4, mask)
    return Step(finish(k, "groupnorm_sums"), t.args.table, lay.images * lay.chunks)


def _combine(region: Region, isa: Isa, lay: _Layout) -> Step:
    """Per image and group: mean and 1 / sqrt(variance + epsilon), spread over the group's channels."""
    k = Fn(NAME, isa)
    args = Args(k)
    groups = int(region.attrs["groups"])
    width = lay.c // groups
    work, finals = args.pointer(Work(0)), args.pointer(Work(lay.finals))
    epsilon = float(region.attrs.get("epsilon", 1e-5))
    scales = args.pointer(In(1))
    sd = region.inputs[1].dtype
    row = 2 * lay.c * 4
    chunks, area = args.dim(lay.chunks), args.dim(lay.area)
    for tile in k.range(k.begin, k.end):
        image, group = unravel(k, tile, [1, groups])
        first = group * width
        source = work + image * chunks * row + first * 4
        n = k.cast("sitofp", k.i64(area), "float") * float(width)
        total, squares = k.var("float", 0.0), k.var("float", 0.0)

        def weighted(chunk: IntLike) -> Val:
            size = k.min(area - chunk * lay.pixels, lay.pixels)
            return k.cast("sitofp", k.i64(size), "float")

        for chunk in k.range(0, chunks):
            size = weighted(chunk)
            for j in k.range(0, width):
                total.set(k.fma(k.load("float", source + chunk * row + j * 4), size, total.get()))
        mean = total.get() / n
        for chunk in k.range(0, chunks):
            size = weighted(chunk)
            for j in k.range(0, width):
                p = source + chunk * row + j * 4
                d = k.load("float", p) - mean
                squares.set(k.fma(d * d, size, squares.get()) + k.load("float", p + lay.c * 4))
        factor = k.const("float", 1.0) / vmath.sqrt(k, squares.get() / n + epsilon)
        out = finals + image * row + first * 4
        for j in k.range(0, width):
            scale = load_value(k, sd, scales + (first + j) * sd.size)
            k.store(mean, out + j * 4)
            k.store(factor * scale, out + lay.c * 4 + j * 4)
    return Step(finish(k, "groupnorm_combine"), args.table, lay.images * groups)


def _apply(region: Region, isa: Isa, lay: _Layout) -> Step:
    t = _Kernel(region, isa, lay)
    k, ops = t.k, t.ops
    finals = t.args.pointer(Work(lay.finals))
    for image, _, here, first, last in t.tiles():
        row = finals + image * (2 * lay.c * 4)
        for c, mask in t.columns():
            mean = k.load("float", row + c * 4, t.lanes, mask)
            factor = k.load("float", row + lay.c * 4 + c * 4, t.lanes, mask)
            bias = ops.operand(2, here, t.channel, c, t.lanes, mask)
            for p in k.range(first, last):
                at = t.at(here, p)
                v = ops.value(at, t.channel, c, t.lanes, mask)
                ops.write(k.fma(v - mean, factor, bias), at, t.channel, c, mask)
    return Step(finish(k, "groupnorm"), t.args.table, lay.images * lay.chunks)
