"""Transposed convolution as convolutions of stride 1: one for every phase of the output's pixels.

Output pixels o = q * stride + phase, for a fixed phase, are met by the taps t with (phase + pad - t * dilation)
divisible by the stride, at the input pixels q + (phase + pad - t * dilation) / stride: a plain convolution with some
of the taps, whose results lie `stride` pixels apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Arg, Implementation, In, Out, Pack, Params
from whet.targets.cuda.conv_kernel import Blocks, Kernel, pack
from whet.targets.cuda.conv_problem import conv_of, conv_reason
from whet.targets.cuda.conv_space import blocks, seconds
from whet.targets.cuda.gpu import Gpu


@dataclass(frozen=True)
class Phase:
    """One phase: the convolution, its taps in every dimension, and where operands begin (elements)."""

    region: Region
    taps: tuple[tuple[int, ...], ...]
    offsets: dict[Arg, Dim]


class ConvTransposePhases:
    """Each phase is a launch of the implicit-GEMM kernel. Parameters: as of `ConvImplicit`, for all phases."""

    name = "conv_transpose_phases"

    def applies(self, region: Region, machine: Gpu) -> str:
        if region.compute in ("int8", "f8"):
            return f"products in {region.compute}"
        return conv_reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        longest = max(phases(region), key=lambda p: math.prod(map(len, p.taps))).region
        c = conv_of(longest)
        found = [q for q in blocks(longest, machine, c.cg < 8) if q["split"] == 1]
        return sorted(found, key=lambda q: self.cost(region, q, machine, threads))[:12]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: those of the phases."""
        return sum(seconds(p.region, Blocks.of(params), machine) for p in phases(region))

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b, whole = Blocks.of({**params, "split": 1}), conv_of(region)
        const = region.inputs[1].const
        steps, packs = [], []
        for p in phases(region):
            met = all(p.taps)
            if const and met:
                packs.append(Pack((1,), partial(_pack, taps=p.taps, groups=whole.groups, make=pack(p.region, b).make)))
            group_step = None if const else region.inputs[1].strides[0] * whole.cg
            steps.append(Kernel(p.region, b, machine, p.offsets, max(0, len(packs) - 1), group_step).step())
        return Implementation(tuple(steps), tuple(packs or [_nothing()] if const else ()))


def _nothing() -> Pack:
    """A constant for phases without taps, which read none."""
    return Pack((1,), lambda w: np.zeros(1, w.dtype))


def phases(region: Region) -> list[Phase]:
    """The phases of a `conv_transpose` region, as regions of convolutions over the same inputs."""
    c, w = conv_of(region), region.inputs[1]
    r = len(c.kernel)
    out = []
    for phase in itertools.product(*map(range, c.strides)):
        taps: list[tuple[int, ...]] = []
        dilations, pads = [], []
        for at, k, s, d, pad in zip(phase, c.kernel, c.strides, c.dilations, c.pads, strict=True):
            # in the order of the input pixels that they meet
            mine = tuple(t for t in reversed(range(k)) if (at + pad - t * d) % s == 0)
            taps.append(mine)
            dilations.append(d // math.gcd(s, d))
            pads.append(-((at + pad - mine[0] * d) // s) if mine else 0)
        kernel = tuple(len(t) for t in taps)
        attrs = {"strides": (1,) * r, "dilations": tuple(dilations), "group": c.groups, "channels_last": True,
                 "pads": (*pads, *(k * d + 1 for k, d in zip(c.kernel, c.dilations)))}  # after: as many as may be
        inputs = list(region.inputs)
        offsets: dict[Arg, Dim] = {}
        if w.const:
            inputs[1] = Tensor.dense(w.dtype, (c.groups * c.og, c.cg, *kernel), const=True)
        else:
            step = tuple((t[1] - t[0]) * s if len(t) > 1 else 0 for t, s in zip(taps, w.strides[2:]))
            inputs[1] = replace(w, shape=(c.groups * c.og, c.cg, *kernel), strides=(w.strides[1], w.strides[0], *step))
            first: Dim = 0
            for mine, stride in zip(taps, w.strides[2:]):
                first = first + stride * mine[0] if mine else first
            offsets[In(1)] = first
        output, offsets[Out(0)] = _phase(region.output, phase, c.strides, False)
        for i in range(2, len(inputs)):
            if i >= region.n_anchor:
                inputs[i], offsets[In(i)] = _phase(inputs[i], phase, c.strides, True)
        out.append(Phase(replace(region, kind="conv", attrs=attrs, inputs=tuple(inputs), output=output,
                                 anchor=replace(region.anchor, shape=output.shape)), tuple(taps), offsets))
    return out


def _phase(t: Tensor, phase: tuple[int, ...], strides: tuple[int, ...], broadcast: bool) -> tuple[Tensor, Dim]:
    """The pixels of a phase of a tensor [.., spatial.., c], and where they begin.

    broadcast: spatial dimensions of 1 (or missing ones) stand for all pixels.
    """
    shape, steps = list(t.shape), list(t.strides)
    offset: Dim = 0
    for back, (at, s) in enumerate(zip(reversed(phase), reversed(strides), strict=True)):
        i = len(shape) - 2 - back
        if i < 0 or (broadcast and shape[i] == 1):
            continue
        offset = offset + steps[i] * at
        shape[i], steps[i] = ceildiv(shape[i] - at, s), steps[i] * s
    return replace(t, shape=tuple(shape), strides=tuple(steps)), offset


def _pack(w: np.ndarray, taps: tuple[tuple[int, ...], ...], groups: int,
          make: Callable[..., np.ndarray]) -> np.ndarray:
    """IO.. weights' taps of a phase, as the convolution's packed weights."""
    where: tuple[Any, ...] = (slice(None), slice(None), *np.ix_(*taps))
    some = w[where]
    i, og = some.shape[:2]
    oi = some.reshape(groups, i // groups, og, *some.shape[2:]).swapaxes(1, 2)
    return make(np.ascontiguousarray(oi.reshape(groups * og, i // groups, *some.shape[2:])))
