"""Depthwise convolution: every channel by itself, vectors along the channels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import conv_of, conv_reason, with_bias
from whet.targets.cpu.conv_window import Window, WindowKernel
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import round_bf16
from whet.targets.cpu.packing import to_bf16
from whet.targets.cpu.pixels import PixelWriter


class ConvDepthwise:
    """Convolution with one input channel per group, in fp32.

    Parameters: width (output pixels whose sums are held in registers), rows (output rows per tile), splits
    (blocks that the channels are cut into for the threads).
    """

    name = "conv_depthwise"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        if conv_of(region).cg != 1:
            return "a group has more than one input channel"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        rows, c = opt(region, window_of(region).rows), conv_of(region).groups * conv_of(region).og
        found = []
        for width in (4, 5, 6, 7, 8) if machine.registers >= 32 else (2, 3, 4):
            for splits in {1, *(s for s in (2, 4) if c >= 2 * s * machine.lanes)}:
                for block in (1, 2, 4, 8):
                    if -(-rows // block) * splits >= 2 * threads or (block == 1 and splits == 1):
                        found.append({"width": width, "rows": block, "splits": splits})
        found.sort(key=lambda p: self.cost(region, p, machine, threads))
        return found[:16]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: load ports and FMAs of a column tile, padding of column tiles, the threads' balance."""
        w = window_of(region)
        kh, kw = (1, *w.kernel)[-2:]
        taps = product(w.kernel)
        out = opt(region, w.out[-1])
        tiles = max(1, -(-out // params["width"]))
        width = out / tiles
        vectors = -(-opt(region, w.c) // machine.lanes)
        assert isinstance(taps, int)
        loads = taps / kw * ((width - 1) * w.strides[-1] + kw) + taps + width
        spill = max(0.0, params["width"] * (1 + w.strides[-1]) + kw - machine.registers)
        tile = max(loads / 2, taps * width / 2, taps * 2) + width + 4 + spill * kh
        blocks = max(1, -(-opt(region, w.rows) // params["rows"]) * params["splits"])
        rounds = -(-blocks // threads) / (blocks / threads)
        return float((opt(region, w.rows) * tiles * vectors * tile * rounds + blocks * 50) / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, w = region.inputs[0], window_of(region)
        c = conv_of(region)
        rounded = region.compute == "bf16"
        padded = -(-c.groups * c.og // machine.lanes) * machine.lanes
        ops = _Multiply(args.pointer(Packed(0)), padded * 4, rounded and x.dtype is not DType.BF16)
        body = WindowKernel(k, args, w, args.pointer(In(0)), x.dtype,
                            [args.dim(s) * x.dtype.size for s in x.strides[:-1]], c.og, ops,
                            PixelWriter(k, args, region, with_bias(region)), params["width"], params["rows"],
                            params["splits"])
        body.emit()
        kernel = finish(k, self.name)
        return Implementation((Step(kernel, args.table, body.tiles),),
                              (Pack((1,), partial(_pack, padded=padded, rounded=rounded)),))


def window_of(region: Region) -> Window:
    """The sliding window of a `conv` region."""
    c = conv_of(region)
    return Window(c.n, c.spatial, c.out, c.groups * c.og, c.kernel, c.strides, c.dilations, c.pads)


def _pack(w: np.ndarray, padded: int, rounded: bool) -> np.ndarray:
    """[O, 1, taps..] -> [taps, O padded with zeros], fp32."""
    w = (to_bf16(w) if rounded else w).astype(np.float32).reshape(w.shape[0], -1)
    out = np.zeros((w.shape[1], padded), np.float32)
    out[:, :w.shape[0]] = w.T
    return out


class _Multiply:
    """Sums of products by packed weights."""

    def __init__(self, weights: Val, row: int, round_x: bool) -> None:
        self.weights, self.row, self.round_x = weights, row, round_x

    def start(self, k: Fn, c: IntLike) -> float:
        return 0.0

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> Val:
        return k.load("float", self.weights + tap * self.row + c * 4, k.isa.lanes, align=k.isa.width)

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        return k.fma(round_bf16(k, x) if self.round_x else x, w, acc)

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        return acc
