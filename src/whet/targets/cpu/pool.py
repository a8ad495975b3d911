"""Pooling over channels-last images: maximum, average and Lp norm of sliding windows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.base import Implementation, In, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import unit_reason
from whet.targets.cpu.conv_window import Window, WindowKernel, window_lanes
from whet.targets.cpu.epilogue import extreme
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.pixels import PixelWriter


class PoolWindow:
    """Any pool, vectors along the channels; maxima of integers too. Bytes are averaged as f32.

    Parameters: width (output pixels held in registers), rows (output rows per tile), splits (blocks of channels).
    """

    name = "pool_window"

    def applies(self, region: Region, machine: Isa) -> str:
        x = region.inputs[0]
        if region.prologue:
            return "operands computed on load are not supported"
        if not region.attrs.get("channels_last"):
            return "the layout is not channels-last"
        widened = region.anchor.dtype is DType.F32 and x.dtype in (DType.U8, DType.I8)
        if not (x.dtype.is_float or widened or (x.dtype.is_integer and region.attrs["kind"] == "max")):
            return f"x is {x.dtype.value}"
        return unit_reason(region, x, region.output)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        w = pool_window(region)
        rows, c, lanes = opt(region, w.rows), opt(region, w.c), window_lanes(machine, _dtype(region), w.c)
        found = []
        for splits in (1, 2, 4):
            if splits > 1 and c < 2 * splits * lanes:
                continue
            for block in (1, 2, 4):
                if -(-rows // block) * splits >= 2 * threads or (block == 1 and splits == 1):
                    found += [{"width": width, "rows": block, "splits": splits} for width in (2, 4)]
        return sorted(found, key=lambda p: self.cost(region, p, machine, threads))[:8]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: a load and an operation per element of a window, the threads' balance."""
        w = pool_window(region)
        rows, out, c = (opt(region, d) for d in (w.rows, w.out[-1], w.c))
        blocks = max(1, -(-rows // params["rows"]) * params["splits"])
        rounds = -(-blocks // threads) / (blocks / threads)
        shared = 1 - 0.1 * params["width"]
        work = rows * out * -(-c // window_lanes(machine, _dtype(region), w.c)) * math.prod(w.kernel) * shared
        return float((work * rounds + blocks * 50) / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        x, w = region.inputs[0], pool_window(region)
        body = WindowKernel(k, args, w, args.pointer(In(0)), x.dtype,
                            [args.dim(s) * x.dtype.size for s in x.strides[:-1]], 1, _operation(region),
                            PixelWriter(k, args, region, region.epilogue), params["width"], params["rows"],
                            params["splits"], _dtype(region))
        body.emit()
        return Implementation((Step(finish(k, self.name), args.table, body.tiles),))


def pool_window(region: Region) -> Window:
    """The sliding window of a `pool` region."""
    at, x, out = region.attrs, region.inputs[0], region.output
    r = len(x.shape) - 2
    return Window(x.shape[0], x.shape[1:-1], out.shape[1:-1], out.shape[-1], tuple(at["kernel"]),
                  tuple(at["strides"]) or (1,) * r, tuple(at["dilations"]) or (1,) * r,
                  (tuple(at["pads"]) or (0,) * 2 * r)[:r])


class _Max:
    """The largest element; a NaN in the window gives NaN."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype

    def start(self, k: Fn, c: IntLike) -> float | int:
        return -math.inf if self.dtype.is_float else int(np.iinfo(self.dtype.np).min)

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> None:
        return None

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        return extreme(k, "max", acc, x, self.dtype)

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        return acc


class _Average:
    """The mean over the whole window, or over the elements inside the image."""

    def __init__(self, divisor: int | None) -> None:
        self.divisor = divisor  # None: the number of elements inside the image

    def start(self, k: Fn, c: IntLike) -> float:
        return 0.0

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> None:
        return None

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        return acc + x

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        n = self.divisor if self.divisor is not None else count
        if isinstance(n, int):
            return acc / k.const(acc.ty, float(n))
        return acc / k.splat(k.cast("sitofp", n, acc.scalar), acc.lanes)


class _Norm:
    """The Lp norm: (sum |x|^p)^(1/p)."""

    def __init__(self, p: int) -> None:
        self.p = p

    def start(self, k: Fn, c: IntLike) -> float:
        return 0.0

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> None:
        return None

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        if self.p == 2:
            return k.fma(x, x, acc)
        a = vmath.fabs(k, x)
        return acc + (a if self.p == 1 else vmath.pow(k, a, k.const(a.ty, float(self.p))))

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        if self.p == 1:
            return acc
        return vmath.sqrt(k, acc) if self.p == 2 else vmath.pow(k, acc, k.const(acc.ty, 1.0 / self.p))


def _dtype(region: Region) -> DType:
    """What the pool computes in: its operand's type, and f32 where it widens bytes."""
    x = region.inputs[0].dtype
    return region.anchor.dtype if region.anchor.dtype.is_float and not x.is_float else x


def _operation(region: Region) -> _Max | _Average | _Norm:
    at = region.attrs
    if at["kind"] == "max":
        return _Max(_dtype(region))
    if at["kind"] == "average":
        return _Average(math.prod(at["kernel"]) if at.get("count_include_pad") else None)
    return _Norm(at.get("p", 2))
