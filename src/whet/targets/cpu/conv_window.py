"""Sliding windows over channels-last images, one vector of channels at a time: depthwise convolution and pooling.

A row of output pixels is cut into column tiles, whose sums stay in registers. Taps outside the image are left
out: where the width is static, column tiles at the borders are written out with the taps that they have; rows at
the borders loop over the taps that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim, Shape, product
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import cast, compute_type, load_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.pixels import PixelWriter


@dataclass(frozen=True)
class Window:
    """The geometry: x[n, spatial.., c] -> out[n, out.., c]; `pads` are those before each dimension."""

    n: Dim
    spatial: Shape
    out: Shape
    c: Dim  # output channels
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def rows(self) -> Dim:
        """Output rows in all: every dimension but the last spatial one."""
        return self.n * product(self.out[:-1])


class Accumulate(Protocol):
    """What is done with the elements of a window."""

    def start(self, k: Fn, c: IntLike) -> float | int | Val:
        """The value before the first tap, at channel c."""
        ...

    def operand(self, k: Fn, tap: IntLike, c: IntLike) -> Val | None:
        """What each tap's elements meet (weights of a tap, at channel c), loaded once for all pixels of a tile."""
        ...

    def step(self, k: Fn, acc: Val, x: Val, w: Val | None) -> Val:
        """One tap more."""
        ...

    def finish(self, k: Fn, acc: Val, count: IntLike) -> Val:
        """The result; count: taps that lay inside the image."""
        ...


@dataclass(frozen=True)
class Columns:
    """`count` column tiles of `width` pixels each, from output column `first` on; all have the same taps.

    taps[t]: the taps of the last dimension that exist for pixel t of a tile.
    """

    first: int
    count: int
    width: int
    taps: tuple[tuple[int, ...], ...]


def column_tiles(w: Window, width: int) -> list[Columns]:
    """A static row cut into runs of equal column tiles."""
    size, out = w.spatial[-1], w.out[-1]
    assert isinstance(size, int)
    assert isinstance(out, int)
    k, s, d, p = w.kernel[-1], w.strides[-1], w.dilations[-1], w.pads[-1]
    tiles = max(1, -(-out // width))
    runs: list[Columns] = []
    at = 0
    for i in range(tiles if out else 0):
        n = out // tiles + (i < out % tiles)
        taps = tuple(tuple(j for j in range(k) if 0 <= (at + t) * s - p + j * d < size) for t in range(n))
        last = runs[-1] if runs else None
        if last and last.taps == taps:
            runs[-1] = Columns(last.first, last.count + 1, n, taps)
        else:
            runs.append(Columns(at, 1, n, taps))
        at += n
    return runs


def window_lanes(isa: Isa, dtype: DType, c: Dim) -> int:
    """Channels per vector, of values of a type. Where masks of narrow lanes are taken apart one by one (AVX2, NEON),
    narrow vectors are no wider than the channels' even parts."""
    wide = {"float": 4, "double": 8}.get(compute_type(dtype), dtype.size)
    lanes = isa.width // wide
    if isa.name == "avx512" or not isinstance(c, int):
        return lanes
    while lanes > isa.lanes and c % lanes:
        lanes //= 2
    return lanes


class WindowKernel:
    """Emits the tiles of a kernel: (block of `rows` output rows, block of channels).

    width: pixels per column tile; rows: output rows per tile; splits: blocks that the channels are cut into.
    """

    def __init__(self, k: Fn, args: Args, w: Window, x: Val, x_type: DType, x_strides: Sequence[IntLike],
                 multiplier: int, ops: Accumulate, out: PixelWriter, width: int, rows: int, splits: int,
                 dtype: DType | None = None) -> None:
        """x_strides: of x in BYTES (n, spatial..); multiplier: output channels per input channel; dtype: what x is
        converted to on load (default: its own type)."""
        self.k, self.args, self.w, self.x, self.x_type, self.x_strides = k, args, w, x, x_type, list(x_strides)
        self.multiplier, self.ops, self.out, self.rows, self.splits = multiplier, ops, out, rows, splits
        self.dtype = dtype or x_type
        self.x_size, self.type = x_type.size, compute_type(self.dtype)
        self.lanes = window_lanes(k.isa, self.dtype, w.c)
        self.spatial, self.outs = [args.dim(d) for d in w.spatial], [args.dim(d) for d in w.out]
        self.c = args.dim(w.c)
        static = isinstance(w.spatial[-1], int) and isinstance(w.out[-1], int)
        self.columns = column_tiles(w, width) if static else None
        if self.columns is not None and len(self.columns) > 5:
            self.columns = None  # a border many tiles wide: loop over its taps instead
        self.unrolled = len(w.kernel) == 2 and w.kernel[0] * w.kernel[1] <= 25 and self.columns is not None
        self.always_inside = len(w.kernel) == 2 and self._never_padded(w)

    @staticmethod
    def _never_padded(w: Window) -> bool:
        after = (w.out[0] - 1) * w.strides[0] + (w.kernel[0] - 1) * w.dilations[0] + 1 - w.pads[0] - w.spatial[0]
        return w.pads[0] <= 0 and isinstance(after, int) and after <= 0

    @property
    def tiles(self) -> Dim:
        return (self.w.rows + self.rows - 1) // self.rows * self.splits

    def emit(self) -> None:
        """The loop over the kernel's tiles."""
        k = self.k
        count = self.args.dim(self.w.rows)
        block = (self.c + self.splits * self.lanes - 1) // (self.splits * self.lanes) * self.lanes
        for t in k.range(k.begin, k.end):
            part, first = t % self.splits, t // self.splits * self.rows
            c0 = k.min(part * block, self.c)
            c1 = k.min(c0 + block, self.c)
            for row in k.range(first, k.min(first + self.rows, count)):
                self._row(row, c0, c1)

    def _row(self, row: Val, c0: IntLike, c1: IntLike) -> None:
        k, w = self.k, self.w
        coords: list[IntLike] = []
        rest: IntLike = row
        for size in reversed(self.outs[:-1]):
            coords.append(rest % size)
            rest = rest // size
        coords.append(rest)
        coords.reverse()
        src = self.x + coords[0] * self.x_strides[0]
        bounds: list[tuple[IntLike, IntLike]] = []
        inside: Val | None = None
        for i, o in enumerate(coords[1:]):
            start = o * w.strides[i] - w.pads[i]
            src = src + start * self.x_strides[1 + i]
            bounds.append(self._taps(start, i))
            whole = k.i64(bounds[-1][1]) - bounds[-1][0] >= w.kernel[i]
            inside = whole if inside is None else inside & whole
        at = self.out.at(coords)
        if self.unrolled and inside is not None and not self.always_inside:
            fast, slow = k.branch(inside)
            with fast:
                self._channels(src, at, None, c0, c1)
            with slow:
                self._channels(src, at, bounds, c0, c1)
        else:
            self._channels(src, at, None if self.unrolled else bounds, c0, c1)

    def _taps(self, start: IntLike, dim: int) -> tuple[IntLike, IntLike]:
        """First tap inside the image, and the one after the last (not below the first)."""
        k, d, size = self.k, self.w.dilations[dim], self.spatial[dim]
        kernel = self.w.kernel[dim]
        low = k.min(k.max(0 - start + (d - 1), 0) // d, kernel)
        high = k.min(k.max(size - start + (d - 1), 0) // d, kernel)
        return low, k.max(high, low)

    def _channels(self, src: Val, at: dict, bounds: list | None, c0: IntLike, c1: IntLike) -> None:
        """Column tiles, and for each the channels [c0, c1)."""
        k, w = self.k, self.w
        step = self.x_strides[-1]
        if self.columns is None:
            for ow in k.range(0, self.outs[-1]):
                start = ow * w.strides[-1] - w.pads[-1]
                taps = [*(bounds or []), self._taps(start, len(w.kernel) - 1)]
                self._vectors(src + start * step, self.out.along(at, ow), taps, None, c0, c1)
            return
        for run in self.columns:
            for i in k.range(0, run.count):
                ow = i * run.width + run.first
                start = ow * w.strides[-1] - w.pads[-1]
                self._vectors(src + start * step, self.out.along(at, ow), bounds, run, c0, c1)

    def _vectors(self, src: Val, at: dict, bounds: list | None, run: Columns | None, c0: IntLike, c1: IntLike) -> None:
        """One column tile: a loop over full vectors of channels, and a masked one for the rest."""
        k = self.k
        full = c0 + (c1 - c0) // self.lanes * self.lanes
        for c in k.range(c0, full, self.lanes):
            self._tile(src, at, bounds, run, c, None)
        if isinstance(self.c, int) and self.c % self.lanes == 0:
            return
        for c in k.range(full, c1, self.lanes):
            self._tile(src, at, bounds, run, c, k.tail_mask(c1 - c, self.lanes))

    def _tile(self, src: Val, at: dict, bounds: list | None, run: Columns | None, c: IntLike, mask: Val | None) -> None:
        k, w, width = self.k, self.w, run.width if run else 1
        initial = self.ops.start(k, c)
        acc = [k.var(vec(self.type, self.lanes), initial) for _ in range(width)]
        count: IntLike = 1
        if bounds is None:
            assert run is not None  # whole windows come as runs of columns
            for i in range(w.kernel[0]):
                self._tap_row(src + i * w.dilations[0] * self.x_strides[1], acc, run, i, c, mask)
            count = w.kernel[0]
        else:
            outer = bounds if run else bounds[:-1]
            for where, tap in self._outer(src, outer, 0, 0):
                if run:
                    self._tap_row(where, acc, run, tap, c, mask)
                    continue
                for j in k.range(*bounds[-1]):
                    x = self._load(where + j * (w.dilations[-1] * self.x_strides[-1]), c, mask)
                    acc[0].set(self.ops.step(k, acc[0].get(), x, self.ops.operand(k, tap * w.kernel[-1] + j, c)))
            for low, high in bounds:
                count = (high - low) * count
        counts = [count * len(taps) for taps in run.taps] if run else [count]
        self.out.put([self.ops.finish(k, a.get(), n) for a, n in zip(acc, counts, strict=True)], at, c, mask)

    def _outer(self, src: Val, bounds: list, dim: int, tap: IntLike) -> Iterator[tuple[Val, IntLike]]:
        """Loops over the taps of the leading dimensions; (address, flat index) of each row of taps."""
        if dim == len(self.w.kernel) - 1:
            yield src, tap
            return
        for i in self.k.range(*bounds[dim]):
            yield from self._outer(src + i * (self.w.dilations[dim] * self.x_strides[1 + dim]), bounds, dim + 1,
                                   tap * self.w.kernel[dim] + i)

    def _tap_row(self, src: Val, acc: list[Var], run: Columns, row: IntLike, c: IntLike, mask: Val | None) -> None:
        """The taps of one row of the window for all pixels of a tile; an element is loaded once."""
        k, w = self.k, self.w
        loaded: dict[int, Val] = {}
        step = self.x_strides[-1]
        for j in range(w.kernel[-1]):
            users = [t for t, taps in enumerate(run.taps) if j in taps]
            if not users:
                continue
            operand = self.ops.operand(k, row * w.kernel[-1] + j, c)
            for t in users:
                column = t * w.strides[-1] + j * w.dilations[-1]
                if column not in loaded:
                    loaded[column] = self._load(src + column * step, c, mask)
                acc[t].set(self.ops.step(k, acc[t].get(), loaded[column], operand))

    def _load(self, src: Val, c: IntLike, mask: Val | None) -> Val:
        """A vector of input channels for the output channels from c on."""
        k, lanes, m = self.k, self.lanes, self.multiplier
        if m == 1:
            return cast(k, load_value(k, self.x_type, src + c * self.x_size, lanes, mask), self.x_type, self.dtype)
        out = k.const(vec(self.type, lanes), 0)
        last = self.c - 1
        for lane in range(lanes):  # each input channel serves m neighbours: rare enough to gather one by one
            v = load_value(k, self.x_type, src + k.min(c + lane, last) // m * self.x_size)
            out = k.insert(out, cast(k, v, self.x_type, self.dtype), lane)
        return out
