"""Pooling: maximum, average and Lp norm of sliding windows, in any layout.

`window`: a lane per element of the result walks its window. `taps`: tiles of taps by elements, reduced at the end,
for large windows (global pools), of which there are few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, product
from whet.targets.base import Implementation, Params, Step
from whet.targets.cuda import index
from whet.targets.cuda.expr import division, extreme_text, root
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.moving import LAUNCH, put
from whet.targets.cuda.shapes import optimum
from whet.targets.cuda.tiles import Tile, number, tilings

_UNROLLED = 36  # taps that are written out one after the other
_LARGE = 25  # windows that are worth tiles of taps


@dataclass(frozen=True)
class _Axis:
    """A spatial dimension: its number in the tensors, size and stride of the data, the window's along it."""

    dim: int
    n: Dim
    stride: Dim
    kernel: int
    step: int
    dilation: int
    before: Dim


def _axes(region: Region) -> list[_Axis]:
    at, x = region.attrs, region.inputs[0]
    r = len(x.shape) - 2
    first = 1 if at.get("channels_last") else 2
    steps, dilations, pads = (tuple(at[k]) or (default,) * r for k, default in
                              (("strides", 1), ("dilations", 1), ("pads", 0)))
    return [_Axis(first + i, x.shape[first + i], x.strides[first + i], at["kernel"][i], steps[i], dilations[i], pads[i])
            for i in range(r)]


class Pool:
    """Any pool; maxima of integers too. Bytes are averaged as f32, 16-bit floats computed in f32."""

    name = "pool"

    def applies(self, region: Region, machine: Gpu) -> str:
        x = region.inputs[0]
        if region.prologue:
            return "operands computed on load are not supported"
        codes = (DType.U8, DType.I8, DType.F8E4M3FN) if machine.has_fp8 else (DType.U8, DType.I8)
        widened = region.anchor.dtype is DType.F32 and x.dtype in codes
        if not (x.dtype.is_float or widened or (x.dtype.is_integer and region.attrs["kind"] == "max")):
            return f"x is {x.dtype.value}"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        taps, outputs = math.prod(region.attrs["kernel"]), optimum(region, product(region.output.shape))
        windows = [{"form": "window", **p} for p in tilings(region, region.output.shape, machine.multiprocessors)]
        if taps < _LARGE:
            return windows
        large: list[Params] = [{"form": "taps", "tile": o, "flat": True, "taps": min(t, 1 << (taps - 1).bit_length())}
                               for o, t in ((64, 64), (32, 128), (128, 32), (16, 256))]
        return large + windows if outputs < 512 * max(machine.multiprocessors, 64) else windows + large

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        bytes_ = sum(optimum(region, product(t.shape)) * t.dtype.size for t in (region.inputs[0], region.output))
        return bytes_ / (machine.bandwidth or 1e12) + LAUNCH

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return Implementation((_Kernel(region, params, machine).step(),))


class _Kernel:
    def __init__(self, region: Region, params: Params, machine: Gpu) -> None:
        self.region, self.params, self.axes = region, params, _axes(region)
        self.s = Source("pool", machine.has_fp8)
        at, x = region.attrs, region.inputs[0]
        self.kind, self.p = at["kind"], at.get("p", 2)
        own = region.anchor.dtype if region.anchor.dtype.is_float and not x.dtype.is_float else x.dtype
        self.dtype = DType.F32 if own in (DType.F16, DType.BF16) else own
        self.include = bool(at.get("count_include_pad"))
        low = -math.inf if self.dtype.is_float else np.iinfo(self.dtype.np).min
        self.lowest = ("0" if self.kind != "max" else '-float("inf")' if self.dtype.is_float else str(low))

    def step(self) -> Step:
        s, region = self.s, self.region
        pointer = index.pointer(s, region, 0)
        tile = Tile(s, region, region.output.shape, self.params)
        x = region.inputs[0]
        spatial = {a.dim for a in self.axes}
        base = tile.offset([0 if i in spatial else d for i, d in enumerate(x.strides)])
        starts = [s.name_of(f"{tile.index[a.dim]} * {a.step} - {number(s, region, a.before)}", "start")
                  for a in self.axes]
        kind = REGISTER[self.dtype]
        height, width = tile.shape
        if self.params["form"] == "taps":
            assert height == 1
            height = self.params["taps"]
        s.line(f"acc = tl.full([{height}, {width}], {self.lowest}, tl.{kind})")
        if self.params["form"] == "taps":
            self._by_tiles(pointer, base, starts, tile)
        elif math.prod(a.kernel for a in self.axes) <= _UNROLLED:
            self._unrolled(pointer, base, starts, tile)
        else:
            self._looped(pointer, base, starts, tile)
        self._finish(starts)
        put(s, region, tile, "acc", self.dtype)
        return s.step(tile.tiles)

    # -- the window -------------------------------------------------------------------------------

    def _place(self, a: _Axis, start: str, k: str) -> tuple[str, str]:
        """(offset, whether it is inside) of tap k along an axis."""
        s = self.s
        at = s.name_of(f"{start} + {k} * {a.dilation}" if k != "0" else start, "at")
        inside = s.name_of(f"({at} >= 0) & ({at} < {number(s, self.region, a.n)})", "inside")
        return s.name_of(f"{at} * {number(s, self.region, a.stride)}", "at"), inside

    def _unrolled(self, pointer: str, base: str, starts: Sequence[str], tile: Tile) -> None:
        places = [[self._place(a, start, str(k)) for k in range(a.kernel)]
                  for a, start in zip(self.axes, starts)]
        for some in itertools.product(*places):
            self._tap(pointer, [base, *(p for p, _ in some)], [tile.mask, *(m for _, m in some)])

    def _looped(self, pointer: str, base: str, starts: Sequence[str], tile: Tile) -> None:
        s = self.s
        with s.block(f"for t in range(0, {math.prod(a.kernel for a in self.axes)}):"):
            self._at_tap("t", pointer, base, starts, [tile.mask])

    def _by_tiles(self, pointer: str, base: str, starts: Sequence[str], tile: Tile) -> None:
        s, n = self.s, self.params["taps"]
        total = math.prod(a.kernel for a in self.axes)
        with s.block(f"for first in range(0, {total}, {n}):"):
            s.line(f"t = first + tl.arange(0, {n})[:, None]")
            self._at_tap("t", pointer, base, starts, [tile.columns, f"(t < {total})"])
        if self.kind == "max":
            nan_max = s.helper("greater", f"def greater(a, b):\n    return {extreme_text('max', 'a', 'b', self.dtype)}")
            s.line(f"acc = tl.reduce(acc, 0, {nan_max})[None, :]")
        else:
            s.line("acc = tl.sum(acc, 0)[None, :]")

    def _at_tap(self, t: str, pointer: str, base: str, starts: Sequence[str], masks: list[str]) -> None:
        """Taps whose number is the value of t."""
        s, rest = self.s, t
        parts: list[tuple[str, str]] = []
        for j, (a, start) in reversed(list(enumerate(zip(self.axes, starts)))):
            k = s.name_of(f"{rest} % {a.kernel}", "k") if j else rest
            rest = s.name_of(f"{rest} // {a.kernel}", "k") if j else rest
            parts.append(self._place(a, start, k))
        self._tap(pointer, [base, *(p for p, _ in parts)], [*masks, *(m for _, m in parts)])

    def _tap(self, pointer: str, offsets: Sequence[str], masks: Sequence[str]) -> None:
        s = self.s
        mask, dtype = " & ".join(masks), self.region.inputs[0].dtype
        # 8-bit floats have no infinity; Triton 3.6 fills 8- and 16-bit integers with other bits than `other`'s where
        # it loads several at once and their highest bit is set.
        narrow = dtype is DType.F8E4M3FN
        later = narrow or (dtype.is_integer and dtype.size < 4)
        other = ("0.0" if narrow else "0") if later else self.lowest
        x = s.name_of(f"tl.load({pointer} + ({' + '.join(offsets)}), mask={mask}, other={other})")
        s.line(f"{x} = {x}.to(tl.{REGISTER[self.dtype]})")
        if later and self.kind == "max":
            s.line(f"{x} = tl.where({mask}, {x}, {self.lowest})")
        if self.kind == "max":
            s.line(f"acc = {extreme_text('max', 'acc', x, self.dtype)}")
        elif self.kind == "average" or self.p == 1:
            s.line(f"acc += {x if self.kind == 'average' else f'tl.abs({x})'}")
        elif self.p == 2:
            s.line(f"acc += {x} * {x}")
        else:
            s.line(f"acc += {self._power(f'tl.abs({x})', float(self.p))}")

    def _power(self, x: str, p: float) -> str:
        """x^p for x >= 0."""
        return f"tl.exp2(tl.log2({x}) * {p!r})"

    # -- the result -------------------------------------------------------------------------------

    def _finish(self, starts: Sequence[str]) -> None:
        s, double = self.s, self.dtype is DType.F64
        if self.kind == "lp" and self.p != 1:
            s.line(f"acc = {root('acc', double) if self.p == 2 else self._power('acc', 1.0 / self.p)}")
        if self.kind != "average":
            return
        if self.include:
            count = f"tl.full([1, 1], {float(math.prod(a.kernel for a in self.axes))!r}, tl.{REGISTER[self.dtype]})"
        else:
            count = f"({' * '.join(self._inside(a, start) for a, start in zip(self.axes, starts))})"
            count = f"{count}.to(tl.{REGISTER[self.dtype]})"
        s.line(f"count = {count} + tl.zeros_like(acc)")
        s.line(f"acc = {division('acc', 'count', double)}")

    def _inside(self, a: _Axis, start: str) -> str:
        """How many taps along an axis lie inside the image."""
        s, n = self.s, number(self.s, self.region, a.n)
        first = f"tl.maximum(0 - {start} + {a.dilation - 1}, 0) // {a.dilation}"
        last = f"tl.minimum(tl.maximum({n} - {start} + {a.dilation - 1}, 0) // {a.dilation}, {a.kernel})"
        return s.name_of(f"tl.maximum({last} - {first}, 0)", "inside")
