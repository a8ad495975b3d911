"""Convolution by Triton: implicit GEMM for every type, rank, stride, dilation, padding and number of groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim
from whet.targets.base import Implementation, Pack, Params, Tactic
from whet.targets.cuda.conv_kernel import Blocks, Kernel, correction, pack, reduction
from whet.targets.cuda.conv_problem import Conv, code_offset, conv_of, conv_reason, merged, product_of, with_bias
from whet.targets.cuda.conv_space import MOST, blocks, seconds
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.shapes import broadcast_strides

FEW = 32  # input channels of a group up to which taps and channels are worth taking as one dimension


class ConvImplicit:
    """A program computes `bm` pixels by `bn` channels, `bk` products at a time. Parameters:

    bm, bn, bk: the tile. warps, stages: of the program. flat: taps and channels are one dimension. split: programs
    that share a tile's products; a second kernel sums up what they leave in the workspace.
    """

    name = "conv_implicit"

    def applies(self, region: Region, machine: Gpu) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        if region.compute == "f8" and not machine.has_fp8:
            return f"{machine.arch} has no 8-bit floats"
        if code_offset(region) and not region.inputs[1].const:
            return "codes of u8 with weights that are not constant"
        c = conv_of(region)
        if c.cg == c.og == 1 and c.groups > 1 and len(c.kernel) <= 2 and c.taps <= 64:
            return "depthwise"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        c = conv_of(region)
        orders = [False] if c.cg > FEW or c.taps == 1 else [True] if c.cg < 8 else [False, True]
        found = [blocks(region, machine, flat) for flat in orders]
        return [q for turn in zip_longest(*found) for q in turn if q is not None][:MOST]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: waves of programs; the sums' way through memory where they are split."""
        return seconds(region, Blocks.of(params), machine)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b, c = Blocks.of(params), conv_of(region)
        packs = (pack(region, b),) if region.inputs[1].const else ()
        if code_offset(region):
            packs = (*packs, correction(region, b))
        first = Kernel(region, b, machine).step()
        if b.split == 1:
            return Implementation((first,), packs)
        room: Dim = c.pixels * (c.groups * c.og * b.split * product_of(region).sums.size)
        return Implementation((first, reduction(region, b, machine)), packs, room)


class ConvMatmul:
    """A convolution of single pixels (1x1) by constant weights as a product of matrices, by a tactic for matmul.

    x may have a prologue: without padding, what it makes of each element does not depend on the window.
    """

    def __init__(self, inner: Tactic) -> None:
        self.inner, self.name = inner, f"conv_{inner.name}"

    def applies(self, region: Region, machine: Gpu) -> str:
        reason = conv_reason(region, on_load=True)
        if reason:
            return reason
        c = conv_of(region)
        if c.groups > 1 or c.taps > 1 or any(c.pads) or not all(c.inside(i) for i in range(len(c.kernel))):
            return "windows are not single pixels"
        return self.inner.applies(matmul_region(region), machine)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return self.inner.space(matmul_region(region), machine, threads)

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: the matmul's."""
        return self.inner.cost(matmul_region(region), params, machine, threads)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        made = self.inner.implement(matmul_region(region), params, machine, threads)
        return replace(made, packs=tuple(_of_weights(p) for p in made.packs))


def _of_weights(p: Pack) -> Pack:
    """A matmul's pack, for weights [O, I, 1..] in place of its b [I, O]."""
    def make(*arrays: np.ndarray) -> np.ndarray:
        return p.make(*(a.reshape(a.shape[:2]).T if i == 1 else a for i, a in zip(p.sources, arrays, strict=True)))

    return Pack(p.sources, make)


def matmul_region(region: Region) -> Region:
    """A convolution of single pixels as out[pixels.., o] = x[pixels.., c] @ w[c, o]; pixels are one dimension where
    every tensor allows it, and strides of the windows become those of x. Inputs keep their places."""
    region = with_bias(region)
    c, w = conv_of(region), region.inputs[1]
    inputs = list(region.inputs)
    for k in region.prologue[0].leaves if 0 in region.prologue else (0,):
        inputs[k] = _at_windows(inputs[k], c)
    b = replace(w, shape=(c.cg, c.og), strides=(w.strides[1], w.strides[0]))
    tensors = [inputs[0], region.output, region.anchor, *inputs[2:]]
    flat = [flattened(t, c.lead) for t in tensors]
    if all(t is not None for t in flat):
        tensors = [t for t in flat if t is not None]
    a, out, anchor, *others = tensors
    return replace(region, kind="matmul", attrs={}, inputs=(a, b, *others), output=out, anchor=anchor)


def _at_windows(t: Tensor, c: Conv) -> Tensor:
    """x, or what broadcasts to it, at the pixels that windows of one pixel read: of the output's shape before the
    channels."""
    if len(t.shape) < 2:
        return t
    missing = len(c.lead) + 1 - len(t.shape)
    shape, strides = list(t.shape), list(t.strides)
    for i in range(max(1, missing), len(c.lead)):
        if t.shape[i - missing] != 1:
            shape[i - missing] = c.out[i - 1]
            strides[i - missing] = t.strides[i - missing] * c.strides[i - 1]
    return replace(t, shape=tuple(shape), strides=tuple(strides))


def flattened(t: Tensor, lead: tuple[Dim, ...]) -> Tensor | None:
    """A tensor that broadcasts to [lead.., columns], with its leading dimensions as one; None where they are not."""
    rank = len(lead) + 1
    if len(t.shape) < rank and all(d == 1 for d in t.shape[:-1]):
        return t if len(t.shape) <= 1 else replace(t, shape=t.shape[-1:], strides=t.strides[-1:])
    strides = broadcast_strides(t, rank)
    step = merged(lead, strides[:-1])
    if step is None or (step != 0 and t.shape[:-1] != lead):
        return None
    total: Dim = 1
    for d in lead:
        total = total * d
    rows = 1 if all(d == 1 for d in t.shape[:-1]) else total
    return replace(t, shape=(rows, t.shape[-1]), strides=(step, t.strides[-1]))
