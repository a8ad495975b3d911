"""Convolution on AMX tiles that are loaded from a padded copy of the image's rows: no windows are made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import is_static
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.amx_kernel import (
    BLOCK,
    ROW,
    SUMS,
    TILE,
    Depth,
    Pipeline,
    Round,
    Run,
    near,
    pack_depth,
    tiles_reason,
)
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import FLOATS, INTEGERS, conv_of, conv_reason, matmul_region, weight_matrix
from whet.targets.cpu.gemm_problem import matmul_problem, opt
from whet.targets.cpu.gemm_tiles import round_depths
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val

SCRATCH = 1 << 20


@dataclass(frozen=True)
class Sheet:
    """How the input rows of a tile lie in scratch.

    Pixels whose coordinates leave the same remainders by the strides (a *phase*) are an image of their own, so that
    neighbours in it meet neighbouring output pixels. All phases have rows of `width` pixels of `pitch` bytes: an
    output pixel (y, x) of the tile is row y * width + x of A, whichever the tap, and the few rows with x >= `out` are
    computed for nothing.
    """

    rows: int                # output rows of a tile
    out: int                 # output pixels per row
    width: int
    pitch: int
    heights: dict[int, int]  # rows of the phases by their vertical remainder
    columns: tuple[int, ...]  # horizontal remainders

    def base(self, a: int, b: int) -> int:
        """Where phase (a, b) begins."""
        at = 0
        for other, height in sorted(self.heights.items()):
            if other == a:
                return at + self.columns.index(b) * height * self.width * self.pitch
            at += height * self.width * self.pitch * len(self.columns)
        raise KeyError(a)

    @property
    def bytes(self) -> int:
        """Room for all of it, and for what tiles read past the end."""
        pixels = sum(self.heights.values()) * len(self.columns) * self.width
        return -(-(pixels + BLOCK) * self.pitch // 64) * 64 + 2 * ROW


class ConvTiles:
    """u8 or i8 images by i8 weights, or bf16 ones, by any window, strides and dilations, in one group.

    Parameters: rows (of the output, per tile of work), nt (blocks of 32 channels per tile), order, ahead and depth
    as of `GemmTiles`.
    """

    name = "conv_tiles"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region, dtypes=(*FLOATS, *INTEGERS))
        if reason:
            return reason
        c, x = conv_of(region), region.inputs[0]
        reason = tiles_reason(region, machine, c.cg)
        if reason:
            return reason
        if c.groups > 1:
            return "the convolution has groups"
        if len(c.kernel) > 2:
            return "more than two spatial dimensions"
        if c.plain:
            return "the convolution is a matrix product of pixels"
        if not is_static((*c.spatial, *c.out, *x.strides[1:])) or 0 in (*c.out, c.cg):
            return "the image's size is symbolic, or 0"
        p = matmul_problem(matmul_region(region))
        if (p.batch, p.m) not in (((), c.n * _area(region)), ((c.n,), _area(region))):
            return "the output's rows are not evenly apart"
        sheet = _sheet(region, 1)
        return "" if sheet.bytes + SUMS <= SCRATCH else "a row of pixels is too long for scratch"

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        height, panels = _plane(region)[1][0], -(-conv_of(region).og // BLOCK)
        c = conv_of(region)
        images, size = opt(region, c.n), region.inputs[0].dtype.size
        x, w = images * c.cg * math.prod(_plane(region)[0]) * size, c.og * c.depth * size  # bytes
        found: dict[str, tuple[float, float, Params]] = {}
        for rows in sorted({-(-height // d) for d in (1, 2, 3, 4, 6, 8, 14, 16, 28)}):
            if _sheet(region, rows).bytes > SCRATCH // 2 and rows > 1:
                continue
            depths = round_depths(_depth(region, _sheet(region, rows)).tiles)
            for nt in sorted({-(-panels // d) for d in (1, 2, 4, 8)}):
                for order, depth in (("mn", 0), *(("nm", d) for d in depths)):
                    params: Params = {"rows": rows, "nt": nt, "order": order, "ahead": order == "nm", "depth": depth}
                    cuts, parts = -(-panels // nt), -(-height // rows) * images
                    if cuts * parts >= threads or (rows == 1 and nt == 1):
                        found.setdefault(repr(params), (self.cost(region, params, machine, threads),
                                                        x * min(threads, cuts) + w * min(threads, parts), params))
        return near(list(found.values()))

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: tile products, what they load from the second level or beyond, copying, balance."""
        c = conv_of(region)
        sheet = _sheet(region, params["rows"])
        height, panels, nt = _plane(region)[1][0], -(-c.og // BLOCK), params["nt"]
        tiles_k = _depth(region, sheet).tiles
        blocks = -(-((sheet.rows - 1) * sheet.width + sheet.out) // 16) / 2
        depth = params.get("depth", 0) or tiles_k
        near = depth * 2 * TILE <= 24 << 10
        nearer = near and sheet.bytes <= 24 << 10
        block = max(tiles_k * (64 + (8 if nearer else 16 if near else 40)), 220) + 100
        block += (-(-tiles_k // depth) - 1) * 150
        pixels = sum(sheet.heights.values()) * len(sheet.columns) * sheet.width
        copy = pixels * (4 + c.cg * region.inputs[0].dtype.size / 40)
        tile = blocks * nt * block + nt * tiles_k * 2 * TILE / (16 if params["order"] == "mn" else 24) + copy + 500
        tiles = opt(region, c.n) * -(-height // sheet.rows) * -(-panels // nt)
        if tiles <= 3 * threads:
            return float(tile * -(-tiles // threads) / 3e9)
        used = height * panels * opt(region, c.n) / (tiles * sheet.rows * nt)  # the last tiles are smaller
        return float(tile * used * tiles / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        sheet = _sheet(region, params["rows"])
        depth = _depth(region, sheet)
        made = _Kernel(region, sheet, depth, params, machine)
        pack = Pack((1,), partial(_pack, depth=depth, size=region.inputs[0].dtype.size))
        return Implementation((Step(made.kernel, made.args.table, made.tiles),), (pack,))


def _pack(w: np.ndarray, depth: Depth, size: int) -> np.ndarray:
    return pack_depth(weight_matrix(w, 1), depth, size)


def _area(region: Region) -> int:
    _, out, *_ = _plane(region)
    return out[0] * out[1]


def _plane(region: Region) -> tuple[tuple[int, int], ...]:
    """(height, width) of: the input, the output, the window, strides, dilations, pads before; one row where there is
    one spatial dimension."""
    c = conv_of(region)

    def pair(v: tuple, one: int) -> tuple[int, int]:
        a = [int(x) for x in v]
        return (one, a[0]) if len(a) == 1 else (a[0], a[1])

    return (pair(c.spatial, 1), pair(c.out, 1), pair(c.kernel, 1), pair(c.strides, 1), pair(c.dilations, 1),
            pair(c.pads, 0))


def _sheet(region: Region, rows: int) -> Sheet:
    _, out, kernel, strides, dilations, _ = _plane(region)
    reach: tuple[dict[int, int], dict[int, int]] = {}, {}  # by axis and phase, the furthest shift
    for axis in range(2):
        for tap in range(kernel[axis]):
            shift, phase = divmod(tap * dilations[axis], strides[axis])
            reach[axis][phase] = max(shift, reach[axis].get(phase, 0))
    pixel = conv_of(region).cg * region.inputs[0].dtype.size
    pitch = pixel + ROW if pixel % 512 == 0 else pixel  # else a tile's rows fall into few sets of the cache
    return Sheet(rows, out[1], out[1] + max(reach[1].values()), pitch,
                 {a: rows + shift for a, shift in reach[0].items()}, tuple(sorted(reach[1])))


def _depth(region: Region, sheet: Sheet) -> Depth:
    """Taps that follow each other in memory are one run, filled up to whole tiles."""
    _, _, kernel, strides, dilations, _ = _plane(region)
    channels, size = conv_of(region).cg, region.inputs[0].dtype.size
    runs: list[Run] = []
    index: list[int] = []
    for ky in range(kernel[0]):
        down, a = divmod(ky * dilations[0], strides[0])
        for b in sheet.columns:
            taps = [(kx * dilations[1] // strides[1], kx) for kx in range(kernel[1])
                    if kx * dilations[1] % strides[1] == b]
            while taps:
                n = 1
                while n < len(taps) and sheet.pitch == channels * size and taps[n][0] == taps[0][0] + n:
                    n += 1
                rows = [(ky * kernel[1] + kx) * channels + i for _, kx in taps[:n] for i in range(channels)]
                count = -(-len(rows) * size // ROW)
                runs.append(Run(sheet.base(a, b) + (down * sheet.width + taps[0][0]) * sheet.pitch, count))
                index += rows + [-1] * (count * ROW // size - len(rows))
                taps = taps[n:]
    return Depth(tuple(runs), np.array(index))


class _Kernel:
    """The kernel. Scratch: sums of a block, then the sheet."""

    def __init__(self, region: Region, sheet: Sheet, depth: Depth, params: Params, isa: Isa) -> None:
        self.region, self.sheet, self.depth, self.params = region, sheet, depth, params
        self.conv, self.problem = conv_of(region), matmul_problem(matmul_region(region))
        self.size = region.inputs[0].dtype.size
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.panels = -(-self.conv.og // BLOCK)
        self.height = _plane(region)[1][0]
        self.y_blocks, self.n_blocks = -(-self.height // sheet.rows), -(-self.panels // params["nt"])
        self.tiles = self.conv.n * (self.y_blocks * self.n_blocks)
        self.gaps = sheet.width > sheet.out
        if self.gaps:  # rows of A that are output pixels
            at = np.arange(sheet.rows * sheet.out)
            self.rows_of = k.table((at // sheet.out * sheet.width + at % sheet.out).astype("<i4"))
        self.rounds = depth.rounds(params.get("depth", 0) if params["order"] == "nm" else 0)
        blocks = -(-((sheet.rows - 1) * sheet.width + sheet.out) // BLOCK)
        sums = blocks * SUMS if len(self.rounds) > 1 else SUMS
        self.sheet_at = k.scratch + sums
        self.first_row, self.first_pixel = k.var("i64", 0), k.var("i64", 0)  # of the block that is held
        self.pipe = Pipeline(k, self.args, matmul_region(region), self.problem, depth, self._source)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.pipe.amx.release()
        self.kernel = finish(k, "conv_tiles", sums + sheet.bytes)

    def _source(self, i: IntLike) -> IntLike:
        """The row of sums of the i-th pixel of the block that is held."""
        if not self.gaps:
            return i
        k = self.k
        row = k.load("i32", self.rows_of + (self.first_pixel.get() + i) * 4)
        return k.cast("zext", row, "i64") - self.first_row.get()

    def _tile(self, t: Val) -> None:
        k, args, sheet, pipe = self.k, self.args, self.sheet, self.pipe
        nb, rest = t % self.n_blocks, t // self.n_blocks
        image, y0 = k.i64(rest) // self.y_blocks, k.i64(rest) % self.y_blocks * sheet.rows
        rows = sheet.rows if self.height % sheet.rows == 0 else k.min(k.i64(self.height) - y0, sheet.rows)
        pixel = y0 * sheet.out  # the tile's first one
        if self.problem.batch:
            pipe.writer.batch([image])
        else:
            pixel = pixel + image * (self.height * sheet.out)
        self._copy(args.pointer(In(0)) + image * args.dim(self.region.inputs[0].strides[0]) * self.size, k.i64(y0))
        p0 = k.i64(nb) * self.params["nt"]
        p1 = k.min(p0 + self.params["nt"], self.panels)
        panel_bytes = 2 * self.depth.tiles * TILE
        weights, a = args.pointer(Packed(0)), self.sheet_at
        end = (rows - 1) * sheet.width + sheet.out
        blocks = k.ceildiv(end, BLOCK)
        most = -(-((sheet.rows - 1) * sheet.width + sheet.out) // BLOCK)
        pipe.writer.hold(k.scratch, pixel, p0 * BLOCK, 0)

        def block(row: IntLike, panel: IntLike, part: Round) -> None:
            b = weights + panel * panel_bytes
            left = k.i64(end - row * BLOCK)
            fetch = None
            if self.params["ahead"]:
                lines = -(-2 * TILE // 64 // most)
                fetch = b + panel_bytes + row * (self.depth.tiles * lines * 64), lines
            sums = self.k.scratch + row * SUMS if len(self.rounds) > 1 else self.k.scratch
            pipe.block(a + row * (BLOCK * sheet.pitch), sheet.pitch, left > 16, b, part, sums if part.first else None,
                       fetch)
            first = self._pixel(row * BLOCK)
            count = self._pixel(k.min(row * BLOCK + BLOCK, end)) - first
            pipe.writer.hold(sums, pixel + first, panel * BLOCK, count if part is self.rounds[-1] else 0)
            self.first_row.set(k.i64(row * BLOCK))
            self.first_pixel.set(k.i64(first))

        if self.params["order"] == "mn":
            for row in k.range(0, blocks):
                for panel in k.range(p0, p1):
                    block(row, panel, self.rounds[0])
        else:
            for panel in k.range(p0, p1):
                for part in self.rounds:
                    for row in k.range(0, blocks):
                        block(row, panel, part)
        pipe.drain()

    def _pixel(self, row: IntLike) -> IntLike:
        """The first output pixel of the tile at a row of A or after it."""
        sheet = self.sheet
        if not self.gaps:
            return row
        return row // sheet.width * sheet.out + self.k.min(row % sheet.width, sheet.out)

    def _copy(self, image: Val, y0: Val) -> None:
        """The input rows of output rows y0.. to scratch, padding around."""
        k, sheet = self.k, self.sheet
        (height, width), _, _, strides, _, pads = _plane(self.region)
        x = self.region.inputs[0]
        down = self.args.dim(x.strides[1]) * self.size if len(self.conv.kernel) == 2 else 0
        right = int(x.strides[-2]) * self.size  # type: ignore[arg-type]
        for a, count in sorted(sheet.heights.items()):
            for j in k.range(0, count):
                y = (y0 + j) * strides[0] + (a - pads[0])
                exists, outside = k.branch(k.cmp("ult", k.i64(y), height))
                with exists:
                    for b in sheet.columns:
                        dst = self.sheet_at + sheet.base(a, b) + j * (sheet.width * sheet.pitch)
                        first = max(0, -(-(pads[1] - b) // strides[1]))
                        last = max(first, min(sheet.width, -(-(width + pads[1] - b) // strides[1])))
                        self._pad(dst, 0, min(first, sheet.width))
                        src = image + y * down + (b - pads[1]) * right
                        self._pixels(src, strides[1] * right, dst, first, last)
                        self._pad(dst, last, sheet.width)
                with outside:
                    for b in sheet.columns:
                        dst = self.sheet_at + sheet.base(a, b) + j * (sheet.width * sheet.pitch)
                        self._pad(dst, 0, sheet.width)

    def _pixels(self, src: Val, step: int, dst: Val, first: int, last: int) -> None:
        """Pixels [first, last) of a row of the sheet, those of the source `step` bytes apart."""
        k, pixel, pitch = self.k, self.conv.cg * self.size, self.sheet.pitch
        if first >= last:
            return
        if step == pixel == pitch:
            self._bytes(src + first * step, dst + first * pitch, (last - first) * pixel)
            return
        for i in k.range(first, last):
            self._bytes(src + i * step, dst + i * pitch, pixel)

    def _bytes(self, src: Val, dst: Val, count: int) -> None:
        k = self.k
        whole = count - count % ROW
        if whole <= 8 * ROW:
            for i in range(0, whole, ROW):
                k.store(k.load("i8", src + i, ROW), dst + i)
        else:
            for c in k.range(0, whole, ROW):
                k.store(k.load("i8", src + c, ROW), dst + c)
        if count % ROW:
            if whole:
                k.store(k.load("i8", src + (count - ROW), ROW), dst + (count - ROW))
            else:
                mask = k.tail_mask(count, ROW)
                k.store(k.load("i8", src, ROW, mask), dst, mask)

    def _pad(self, dst: Val, first: int, last: int) -> None:
        """Pixels [first, last) of a row of the sheet hold the padding's value."""
        k, count = self.k, (last - first) * self.sheet.pitch
        if count <= 0:
            return
        fill = k.const(f"<{ROW} x i8>", self.region.attrs.get("pad_value", 0))
        at, whole = dst + first * self.sheet.pitch, count - count % ROW
        for c in k.range(0, whole, ROW):
            k.store(fill, at + c)
        if count % ROW:
            k.store(fill, at + whole, k.tail_mask(count % ROW, ROW))
