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
from whet.ir.symbolic import Dim, Shape, ceildiv
from whet.targets.base import Arg, Implementation, In, Out, Pack, Packed, Params, Step
from whet.targets.cpu.conv_common import conv_reason, weight_matrix
from whet.targets.cpu.conv_direct import loops_of
from whet.targets.cpu.conv_implicit import ConvImplicit
from whet.targets.cpu.isa import Isa


@dataclass(frozen=True)
class Phase:
    """One phase: the convolution region, its taps in every dimension, and where operands begin (bytes)."""

    region: Region
    taps: tuple[tuple[int, ...], ...]
    offsets: dict[Arg, Dim]


class ConvTransposePhases:
    """Transposed convolution by constant weights; each phase is a step of `ConvImplicit`.

    Parameters: those of `ConvImplicit`, for all phases.
    """

    name = "conv_transpose_phases"

    def __init__(self) -> None:
        self.conv = ConvImplicit()

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        found = phases(region)
        if not all(t for p in found for t in p.taps):
            return "some output pixels are met by no tap"
        return self.conv.applies(found[0].region, machine)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return list(self.conv.space(phases(region)[0].region, machine, threads))[:8]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: those of the phases."""
        return sum(self.conv.cost(p.region, params, machine, threads) for p in phases(region))

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        steps, packs = [], []
        for i, p in enumerate(phases(region)):
            step, make = self.conv.kernel(p.region, params, machine, p.offsets)
            args = tuple(Packed(i) if a == Packed(0) else a for a in step.args)
            steps.append(Step(step.kernel, args, step.tiles))
            packs.append(Pack((1,), partial(_pack, taps=p.taps, groups=region.attrs["group"], make=make)))
        return Implementation(tuple(steps), tuple(packs))


def phases(region: Region) -> list[Phase]:
    """The phases of a `conv_transpose` region."""
    c = loops_of(region)
    out = []
    for phase in itertools.product(*map(range, c.strides)):
        taps, dilations, pads = [], [], []
        for at, k, s, d, pad in zip(phase, c.kernel, c.strides, c.dilations, c.pads, strict=True):
            # in the order of the input pixels that they meet
            mine = tuple(t for t in reversed(range(k)) if (at + pad - t * d) % s == 0)
            taps.append(mine)
            dilations.append(d // math.gcd(s, d))
            pads.append(-((at + pad - mine[0] * d) // s) if mine else 0)
        kernel = tuple(len(t) for t in taps)
        r = len(kernel)
        attrs = {"strides": (1,) * r, "dilations": tuple(dilations), "pads": tuple(pads) * 2, "group": c.groups,
                 "channels_last": True}
        inputs = list(region.inputs)
        w = inputs[1]
        inputs[1] = Tensor.dense(w.dtype, (c.groups * c.og, c.cg, *kernel), const=True)
        offsets: dict[Arg, Dim] = {}
        output, offsets[Out(0)] = _phase(region.output, phase, c.strides, False)
        for i in range(region.n_anchor, len(inputs)):
            inputs[i], offsets[In(i)] = _phase(inputs[i], phase, c.strides, True)
        anchor = replace(region.anchor, shape=output.shape)
        made = replace(region, kind="conv", attrs=attrs, inputs=tuple(inputs), output=output, anchor=anchor)
        out.append(Phase(made, tuple(taps), offsets))
    return out


def _phase(t: Tensor, phase: tuple[int, ...], strides: tuple[int, ...], broadcast: bool) -> tuple[Tensor, Dim]:
    """The pixels of a phase of a tensor [.., spatial.., c], and their offset in bytes.

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
    made: Shape = tuple(shape)
    return replace(t, shape=made, strides=tuple(steps)), offset * t.dtype.size


def _pack(w: np.ndarray, taps: tuple[tuple[int, ...], ...], groups: int,
          make: Callable[..., np.ndarray]) -> np.ndarray:
    """IO.. weights' taps of a phase, as the convolution's packed B."""
    where: tuple[Any, ...] = (slice(None), slice(None), *np.ix_(*taps))
    some = w[where]
    i, og = some.shape[:2]
    oi = some.reshape(groups, i // groups, og, *some.shape[2:]).swapaxes(1, 2)
    return make(weight_matrix(np.ascontiguousarray(oi.reshape(groups * og, i // groups, *some.shape[2:])), groups))
