"""Depthwise convolution of 8-bit codes by i8 weights into exact 32-bit sums, for every shape and instruction set."""

from __future__ import annotations

from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import Conv, conv_of, conv_reason
from whet.targets.cpu.conv_depthwise import ConvDepthwise, window_of
from whet.targets.cpu.conv_window import WindowKernel
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.pixels import PixelWriter

CODES = (DType.U8, DType.I8)
MOST_TAPS = (1 << 23) // (2 * 255 * 128)  # whose sums f32 holds exactly, those over the padding's value too


def depthwise_reason(region: Region) -> str:
    """Why no tactic for integer depthwise convolution takes this region; "" if one may."""
    if region.anchor.dtype is not DType.I32 or region.inputs[0].dtype not in CODES:
        return "no convolution of 8-bit codes"
    reason = conv_reason(region, dtypes=(*CODES, DType.I32))
    if reason:
        return reason
    if conv_of(region).cg != 1:
        return "a group has more than one input channel"
    return ""


class ConvDepthwiseCodes(ConvDepthwise):
    """Codes become f32, in which few enough products are exact, or i32; parameters as of `ConvDepthwise`."""

    name = "conv_depthwise_codes"

    def applies(self, region: Region, machine: Isa) -> str:
        return depthwise_reason(region)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: as with floats, with two instructions more for every load and one for every result."""
        return 2.2 * super().cost(region, params, machine, threads)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, w, c = region.inputs[0], window_of(region), conv_of(region)
        pad = int(region.attrs.get("pad_value", 0))
        dtype = DType.F32 if c.taps <= MOST_TAPS and machine.name != "neon" else DType.I32
        padded = -(-c.groups * c.og // machine.lanes) * machine.lanes
        ops = _Multiply(args.pointer(Packed(0)), padded * 4, c, dtype, pad)
        body = WindowKernel(k, args, w, args.pointer(In(0)), x.dtype,
                            [args.dim(s) * x.dtype.size for s in x.strides[:-1]], c.og, ops,
                            PixelWriter(k, args, region, region.epilogue), params["width"], params["rows"],
                            params["splits"], dtype)
        body.emit()
        return Implementation((Step(finish(k, self.name), args.table, body.tiles),),
                              (Pack((1,), partial(_pack, padded=padded, dtype=dtype, pad=pad)),))


def _pack(w: np.ndarray, padded: int, dtype: DType, pad: int) -> np.ndarray:
    """[C, 1, taps..] -> [taps + 1, C padded with zeros]; the last row is what a window of padding gives."""
    flat = w.reshape(w.shape[0], -1).astype(np.int32)
    out = np.zeros((flat.shape[1] + 1, padded), np.int32)
    out[:, :w.shape[0]] = np.vstack([flat.T, flat.sum(1)[None] * pad])
    return out.astype(dtype.np)


class _Multiply:
    """Sums of products of codes. Taps outside the image have the padding's value: what all of them would give is
    there at the start, and those inside add what they differ by."""

    def __init__(self, weights: Val, row: int, conv: Conv, dtype: DType, pad: int) -> None:
        self.weights, self.row, self.taps, self.dtype, self.pad = weights, row, conv.taps, dtype, pad

    def start(self, k: Fn, c: IntLike) -> float | int | Val:
        if not self.pad:
            return 0.0 if self.dtype is DType.F32 else 0
        return self.operand(k, self.taps, c)

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> Val:
        return k.load(self.dtype.llvm, self.weights + tap * self.row + c * 4, k.isa.lanes, align=k.isa.width)

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        assert w is not None
        if self.dtype is DType.F32:
            return k.fma(x - float(self.pad) if self.pad else x, w, acc)
        return acc + k.op("mul", x - self.pad, w)

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        return k.cast("fptosi", acc, "i32") if self.dtype is DType.F32 else acc
