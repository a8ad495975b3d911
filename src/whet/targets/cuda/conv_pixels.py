"""Convolution over few pixels (squeeze-and-excitation: 1x1xC): a product of a matrix and few vectors.

A program computes `bo` channels of one pixel. It walks the products in blocks of `bk`, of which each thread adds up its
own: no tensor cores, which have nothing to do here, and no waiting but for the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import upper
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cuda.conv_problem import conv_of, conv_reason, is_wide, product_of, with_bias
from whet.targets.cuda.conv_space import LAUNCH
from whet.targets.cuda.conv_write import Pixels, Writer, masked, times
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.shapes import optimum, ranges

MOST = 64  # pixels


class ConvPixels:
    """Single pixels (1x1 without padding), few of them, by constant weights. Parameters: bo, bk (channels and
    products of a program at a time), warps."""

    name = "conv_pixels"

    def applies(self, region: Region, machine: Gpu) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        if c.taps > 1 or c.groups > 1 or any(c.pads) or not all(c.inside(i) for i in range(len(c.kernel))):
            return "windows are not single pixels"
        if not region.inputs[1].const:
            return "the weights are not constant"
        if upper(c.pixels, ranges(region)) > MOST:
            return f"more than {MOST} pixels"
        if region.compute == "f8" and not machine.has_fp8:
            return f"{machine.arch} has no 8-bit floats"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        c = conv_of(region)
        found = []
        for bo in (1, 2, 4, 8, 16, 32):
            for bk in (32, 64, 128, 256, 512, 1024, 2048):
                for warps in (1, 2, 4, 8):
                    each = bo * bk / (32 * warps)
                    if 2 <= each <= 64 and bo < 2 * c.og and bk < 2 * max(32, c.cg):
                        found.append({"bo": bo, "bk": bk, "warps": warps})
        found = found or [{"bo": 1, "bk": 32, "warps": 1}]
        return sorted(found, key=lambda q: self.cost(region, q, machine, threads))[:20]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: waves of programs, a wait for each block of weights."""
        c = conv_of(region)
        bo, bk, warps = (params[k] for k in ("bo", "bk", "warps"))
        sms = machine.multiprocessors or 132
        programs = max(1, optimum(region, c.pixels)) * -(-c.og // bo)
        busy = -(-programs // sms)
        each = bo * bk / (32 * warps)
        steps = -(-c.cg // bk)
        weights = c.og * c.cg * product_of(region).operand.size / (machine.bandwidth or 3e12)
        return LAUNCH + weights + -(-busy * warps // 32) * steps * (0.7e-6 + each * 4e-9) + busy * 0.02e-6

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        c, p = conv_of(region), product_of(region)
        width = -(-c.cg // params["bk"]) * params["bk"]
        rows = -(-c.og // params["bo"]) * params["bo"]

        def make(w: np.ndarray) -> np.ndarray:
            out = np.zeros((rows, width), p.np)
            out[:c.og, :c.cg] = w.reshape(c.og, c.cg).astype(p.np)
            return out

        return Implementation((_kernel(region, params, machine, width),), (Pack((1,), make),))


def _kernel(region: Region, params: Params, machine: Gpu, width: int) -> Step:
    region, c, p = with_bias(region), conv_of(region), product_of(region)
    bo, bk = params["bo"], params["bk"]
    blocks = -(-c.og // bo)
    s = Source("conv_pixels", machine.has_fp8)
    x = region.inputs[0]
    px, pw = s.pointer(In(0), x.dtype, x.aligned), s.pointer(Packed(0), p.operand)
    sums = f"tl.{REGISTER[p.sums]}"
    s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if is_wide(region) else ""))
    s.line(f"m = pid // {blocks} + tl.arange(0, 1)")
    s.line(f"channel = pid % {blocks} * {bo} + tl.arange(0, {bo})")
    steps = (x.strides[0], *(st * k for st, k in zip(x.strides[1:-1], c.strides, strict=True)))
    near = Pixels(s, c.lead, "m").offset(steps)
    s.line(f"k = tl.arange(0, {bk})")
    s.line(f"parts = tl.zeros(({bo}, {bk}), {sums})")
    once = width == bk
    if not once:
        s.line("#: wait")
    with contextlib.nullcontext() if once else s.block(f"for i in range({width // bk}):"):
        s.line("at = k" if once else f"at = i * {bk} + k")
        s.line(f"w = tl.load({pw} + channel[:, None] * {width} + at[None, :])")
        if once:  # the weights are there before the pixels may be read
            s.line("#: wait")
        mask = masked(f"at < {c.cg}" if c.cg % bk else "", x.dtype)
        s.line(f"v = tl.load({px} + {near + ' + ' if near else ''}{times(s, 'at', x.strides[-1])}{mask})")
        if p.operand.is_float and x.dtype is not p.operand:
            s.line(f"v = v.to(tl.{REGISTER[p.operand]})")
        s.line(f"parts += v.to({sums})[None, :] * w.to({sums})")
    s.line("sums = tl.sum(parts, 1)[None, :]")
    inside = c.og % bo != 0
    if inside:
        s.line(f"columns = channel < {c.og}")
    Writer(s, region).write(Pixels(s, c.lead, "m"), "channel", "sums", "", "columns" if inside else "")
    return s.step(c.pixels * blocks, params["warps"], 2)
