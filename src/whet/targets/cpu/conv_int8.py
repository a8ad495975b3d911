"""Direct convolution of 8-bit activations by constant i8 weights: no windows are gathered.

The rows of the product are output pixels. Along a line of the image their windows lie at an even distance, so a
micro-tile of neighbouring pixels reads the image itself, run by run (a line of taps, or a tap), all from one base
address. Where a window would leave the image, or the instruction wants other elements, the image is copied first, with
its padding; what a run's last step reads too much meets weights of 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, maximum, product
from whet.targets.base import Implementation, In, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import INTEGERS, Conv, conv_of, conv_reason, matmul_region
from whet.targets.cpu.conv_implicit import group_and_rest, with_weights
from whet.targets.cpu.gemm_int8 import packs
from whet.targets.cpu.gemm_problem import Problem, matmul_problem, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel_int8 import Dot, copy_elements, dot_of, fill_elements
from whet.targets.cpu.product_int8 import Lines, ProductKernel
from whet.targets.cpu.space_int8 import Extents, cost, extents_of, space


class ConvInt8:
    """Any convolution of u8 or i8 by constant i8 weights. Groups are products of their own.

    Parameters: those of `GemmInt8` without `copy`; lines are lines of output pixels.
    """

    name = "conv_int8"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region, dtypes=INTEGERS)
        if reason:
            return reason
        return "" if region.anchor.dtype is DType.I32 else "the result is not i32"

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return space(_extents(region, machine), machine, threads)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: the product, and the copying of the image."""
        e, image = _extents(region, machine), _image(region, dot_of(machine, region.inputs[0].dtype))
        copied = opt(region, image.bytes) / 12 / threads + 4000 if image.copied else 0
        return cost(e, params, machine, threads) + copied / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        image = _image(region, dot_of(machine, region.inputs[0].dtype))
        matmul = matmul_region(region)
        p = matmul_problem(matmul)
        copies: tuple[Step, ...] = ()
        workspace: Dim = 0
        if image.copied:
            copies, workspace = (_copy_image(region, image, machine),), image.bytes
        made = ProductKernel(self.name, matmul, p, image.dot, params, machine,
                             partial(_lines, region=region, p=p, image=image))
        step = Step(made.kernel, made.args.table, made.tiles)
        return with_weights(region, Implementation(
            (*copies, step), packs(image.dot, params["nv"] * machine.lanes, image.runs), workspace))


@dataclass(frozen=True)
class _Image:
    """What the product reads: the region's input, or its padded copy.

    spatial: extents; strides: bytes (batch, spatial..); pads: what lies before the input's first pixel.
    run:     elements of a run; merged: a run is a line of taps, else a tap.
    """

    dot: Dot
    conv: Conv
    copied: bool
    merged: bool
    spatial: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    pads: tuple[int, ...]

    @property
    def run(self) -> int:
        return self.conv.cg * (self.conv.kernel[-1] if self.merged else 1)

    @property
    def runs(self) -> int:
        return self.conv.taps // (self.conv.kernel[-1] if self.merged else 1)

    @property
    def bytes(self) -> Dim:
        """Of the copy: a last step may read past the last pixel."""
        return self.conv.n * self.strides[0] + 64


def _image(region: Region, dot: Dot) -> _Image:
    c, x = conv_of(region), region.inputs[0]
    rank = len(c.kernel)
    pads = (tuple(region.attrs["pads"]) or (0,) * 2 * rank)
    merged = c.groups == 1 and (c.dilations[-1] == 1 or c.kernel[-1] == 1)
    dense = merged and (x.strides[-2] == c.cg or c.kernel[-1] == 1)
    run = c.cg * (c.kernel[-1] if dense else 1)
    if dot.stored is dot.source and run % dot.group == 0 and all(p <= 0 for p in pads):
        return _Image(dot, c, False, dense, c.spatial, x.strides[:-1], c.pads)
    spatial = tuple(maximum(s + p + q, 0) for s, p, q in zip(c.spatial, pads, pads[rank:], strict=False))
    step: Dim = c.groups * c.cg * dot.stored.size
    strides: list[Dim] = []
    for d in reversed(spatial):
        strides.insert(0, step)
        step = step * d
    return _Image(dot, c, True, merged, spatial, (step, *strides), (0,) * rank)


def _extents(region: Region, machine: Isa) -> Extents:
    image = _image(region, dot_of(machine, region.inputs[0].dtype))
    c, matmul = image.conv, matmul_region(region)
    p = matmul_problem(matmul)
    pixel = c.cg * image.dot.stored.size * c.strides[-1]  # that a row adds to its neighbours'
    for stride, kernel in zip(c.strides[:-1], c.kernel[:-1], strict=True):
        pixel *= min(stride, kernel)
    return extents_of(matmul, p, image.dot, _lines_of(c, p.m), c.out[-1], image.runs, -(-image.run // image.dot.group),
                      pixel)


def _lines(k: Fn, args: Args, region: Region, p: Problem, image: _Image) -> Lines:
    """Output pixels as rows."""
    c, size = image.conv, image.dot.stored.size
    steps = [args.dim(s) for s in image.strides]
    lead = [args.dim(d) for d in c.out[:-1]]
    loops = [(n, d * s) for n, d, s in zip(c.kernel, c.dilations, steps[1:], strict=True)]
    lines = _lines_of(c, p.m)
    count = args.dim(lines)
    base = args.pointer(Work(0) if image.copied else In(0))

    def start(index: list[IntLike], flat: IntLike, line: IntLike) -> Val:
        group, rest = group_and_rest(args, c, p, index)
        rest = rest * count + line
        at = base + group * (c.cg * size)
        for extent, stride, pad, step in reversed(list(zip(lead, c.strides, image.pads, steps[1:], strict=False))):
            at = at + ((rest % extent) * stride - pad) * step
            rest = rest // extent
        return at + rest * steps[0] + -image.pads[-1] * steps[-1]

    return Lines(lines, c.out[-1], c.strides[-1] * steps[-1], loops[:-1] if image.merged else loops,
                 -(-image.run // image.dot.group), start)


def _lines_of(c: Conv, m: Dim) -> Dim:
    """Lines of pixels in `m` rows: in so many of the last dimensions as were merged to that."""
    dims = (c.n, *c.out)
    for i in reversed(range(len(dims) + 1)):
        if product(dims[i:]) == m and (i < len(dims) or dims[-1] == 1):
            return product(dims[i:-1])
    raise AssertionError(f"{m} rows are no lines of {dims}")


def _copy_image(region: Region, image: _Image, isa: Isa) -> Step:
    """The step that copies the image with its padding: a line per tile."""
    k = Fn(NAME, isa)
    args = Args(k)
    c, x, dot = image.conv, region.inputs[0], image.dot
    pads, value = c.pads, region.attrs.get("pad_value", 0)
    extents = [args.dim(d) for d in image.spatial]
    sizes = [args.dim(d) for d in c.spatial]
    strides = [args.dim(s) for s in x.strides[:-1]]
    channels = c.groups * c.cg
    pixel = channels * dot.stored.size
    before, skipped = max(pads[-1], 0), max(-pads[-1], 0)
    middle = k.max(k.min(sizes[-1] - skipped, extents[-1] - before), 0)
    after = extents[-1] - before - middle
    dense = isinstance(strides[-1], int) and strides[-1] == channels
    for t in k.range(k.begin, k.end):
        src, dst = args.pointer(In(0)), args.pointer(Work(0)) + t * (extents[-1] * pixel)
        rest: IntLike = t
        inside: Val | None = None
        for extent, size, pad, stride in reversed(list(zip(extents[:-1], sizes, pads, strides[1:], strict=False))):
            at = rest % extent - pad
            rest = rest // extent
            src = src + at * stride
            ok = k.cmp("ult", k.i64(at), size)
            inside = ok if inside is None else inside & ok
        src = src + rest * strides[0] + skipped * strides[-1]

        def line(src: Val = src, dst: Val = dst) -> None:
            fill_elements(k, dot, value, dst, before * channels)
            to = dst + before * pixel
            if dense:
                copy_elements(k, dot, src, to, middle * channels)
            else:
                for i in k.range(0, middle):
                    copy_elements(k, dot, src + i * strides[-1], to + i * pixel, channels)
            fill_elements(k, dot, value, to + middle * pixel, after * channels)

        if inside is None or not any(region.attrs["pads"]):
            line()
            continue
        copy, fill = k.branch(inside)
        with copy:
            line()
        with fill:
            fill_elements(k, dot, value, dst, extents[-1] * channels)
    return Step(finish(k, "conv_int8_copy"), args.table, c.n * product(image.spatial[:-1]))
