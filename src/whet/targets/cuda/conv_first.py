"""Convolution of few input channels (a network's first): by way of a copy of the image with four channels.

Step 1 writes the image once in the products' type as [n, rows, columns, 4], computed by the prologue where there is
one, with its borders (0, or the codes' zero point). Step 2 is an implicit GEMM without a mask over pixels. Its depth is
the rows of a window, each a run of taps x 4 channels that lies together in the copy; the taps of a run are filled up to
a power of two. The weights are 0 there and for the channels that are not; floats are masked, too, since 0 * inf is NaN.

A tile's pixels are rows by columns, so that where a pixel lies within its tile is the same for all tiles. Programs
that compute several tiles keep the weights and load one tile's windows while they multiply another's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import Expr, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step, Work
from whet.targets.cuda.conv_depthwise import planar
from whet.targets.cuda.conv_problem import (
    Conv,
    Product,
    code_offset,
    conv_of,
    conv_reason,
    is_wide,
    product_of,
    with_bias,
)
from whet.targets.cuda.conv_space import LAUNCH
from whet.targets.cuda.conv_write import Pixels, Writer
from whet.targets.cuda.expr import emit
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block, load_tensor, pointer_to
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.matmul_space import RATE, SIMPLE
from whet.targets.cuda.shapes import divides, optimum, power_of_two

CHANNELS = 4  # of the copy
DEEPEST = 768  # products of a pixel, with those that are filled up
MOST = 24
_TILES = ((64, 4), (128, 4), (128, 8), (256, 8))  # pixels, warps
_COPIED = 512  # pixels that a program of step 1 writes


class ConvFirst:
    """Parameters: bm, bx, bn, bk (pixels of a tile, columns of its rows, channels, products of one `tl.dot`), warps,
    stages, each (programs per multiprocessor, which take turns at the tiles; 0: a program for each tile)."""

    name = "conv_first"

    def applies(self, region: Region, machine: Gpu) -> str:
        seen = _seen(region)
        reason = conv_reason(seen)
        if reason:
            return reason
        c, p = conv_of(seen), product_of(seen)
        if c.groups > 1 or c.cg > CHANNELS:
            return f"more than {CHANNELS} input channels" if c.groups == 1 else "groups"
        if len(c.kernel) > 2:
            return "three spatial dimensions"
        if c.taps == 1:
            return "windows are single pixels"
        if c.dilations[-1] != 1:
            return "taps of a row lie apart"
        if not region.inputs[1].const:
            return "the weights are not constant"
        if p.operand is DType.F64 or p.precision == "ieee":
            return f"products of {p.operand.value} are no tensor cores' work"
        if p.operand is DType.F8E4M3FN and not machine.has_fp8:
            return f"{machine.arch} has no 8-bit floats"
        if Windows.of(region).depth > DEEPEST:
            return f"windows of more than {DEEPEST // CHANNELS} taps"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        v = Windows.of(region)
        bn = max(16, min(128, power_of_two(v.c.og)))
        for tiles, columns in ((_TILES, (bn,)), (((32, 4), (16, 4)), (64, 32, 16))):  # the latter for large windows
            found: list[Params] = []
            for each, stages in ((0, 1), (2, 1), (3, 1), (4, 1), (6, 1), (1, 3), (2, 3)):
                some = [q for q in _settings(v, tiles, columns, each, stages)
                        if _resident(v, q, machine) >= max(1, each)]
                some.sort(key=lambda q: self.cost(region, q, machine, threads))
                best: dict[tuple[int, int, int], Params] = {}
                for q in some:  # of programs of as many pixels and products the best shape alone
                    best.setdefault((q["bm"], q["warps"], -(-v.depth // q["bk"]) * q["bk"]), q)
                found += best.values()
            if found:
                break
        return sorted(found, key=lambda q: self.cost(region, q, machine, threads))[:MOST]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: what step 1 moves through memory; of step 2 the most of its output's way there, its loads from the
        caches and its products."""
        v = Windows.of(region)
        c, size = v.c, v.p.operand.size
        rate, sms = machine.bandwidth or 3e12, machine.multiprocessors or 132
        images = max(1, optimum(region, c.n))
        copy = optimum(region, v.copied) * CHANNELS * size
        image = images * c.cg * optimum(region, c.spatial[0]) * optimum(region, c.spatial[1])
        first = LAUNCH + (image * region.inputs[0].dtype.size + copy) / rate
        bm, bn, bk, each = (params[k] for k in ("bm", "bn", "bk", "each"))
        programs = optimum(region, v.tiles(bm, params["bx"])) * -(-c.og // bn)
        depth = -(-v.depth // bk) * bk
        products = bm * bn * depth / (0.9 * RATE.get(v.p.operand, 1.9e12))
        parts = depth // bk  # loads at the same place of each part share their address
        others = bm * (depth / v.vector * (3 + 4 / parts) + 4 * bn) / SIMPLE
        one = max(products, others) + 0.3 * min(products, others)
        alone = one + (0.2e-6 if params["stages"] > 1 else 0.7e-6) + 0.05e-6 * parts
        if not each:
            one, alone = one + 4 * bn * depth / v.vector / SIMPLE, alone + 0.6e-6
        together = each or max(1, min(_resident(v, params, machine), -(-programs // sms)))
        busy = -(-programs // (sms * together)) * max(together * one, alone) + (0.7e-6 if each else 0)
        pixels = images * optimum(region, c.out[0]) * optimum(region, c.out[1])
        out = (copy + pixels * c.og * region.output.dtype.size) / rate
        return first + LAUNCH + max(busy, out) + 0.1 * min(busy, out)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        v = Windows.of(region)
        bm, bx, bn, bk = (params[k] for k in ("bm", "bx", "bn", "bk"))
        packs = (_weights(v, bn, bk), *([_correction(v, bn)] if v.codes else []))
        room = (v.copied + v.beyond(bm, bx, bk)) * (CHANNELS * v.p.operand.size)
        return Implementation((_copy(v, machine), _products(v, params, machine)), packs, room)


def _seen(region: Region) -> Region:
    """The region as its products see it: reading what the prologue makes of x."""
    if 0 not in region.prologue:
        return region
    x = replace(region.inputs[0], dtype=region.prologue[0].dtype)
    return replace(region, inputs=(x, *region.inputs[1:]), prologue={k: e for k, e in region.prologue.items() if k})


@dataclass(frozen=True)
class Windows:
    """The problem with two spatial dimensions; its bias is in the epilogue. run: products of a window's row.
    codes: what is subtracted from codes of u8 to make them i8."""

    region: Region
    c: Conv
    p: Product
    run: int
    codes: int

    @staticmethod
    def of(region: Region) -> Windows:
        seen = _seen(region)
        c = planar(conv_of(seen))
        return Windows(with_bias(region), c, product_of(seen), CHANNELS * power_of_two(c.kernel[1]), code_offset(seen))

    @property
    def depth(self) -> int:
        """Products of a pixel, with those that are filled up."""
        return self.c.kernel[0] * self.run

    @property
    def vector(self) -> int:
        """Elements that a load takes at most: what is certain to be aligned, and all masked or none of it."""
        step = CHANNELS * self.c.strides[1]
        whole = self.run == CHANNELS * self.c.kernel[1] or self.p.operand is DType.I8
        return min(16 // self.p.operand.size, step & -step if whole else CHANNELS)

    @property
    def rows(self) -> Dim:
        """Of an image's copy."""
        c = self.c
        return c.out[0] * c.strides[0] + max(0, (c.kernel[0] - 1) * c.dilations[0] + 1 - c.strides[0])

    @property
    def quads(self) -> Dim:
        """Of 4 columns of an image's copy: its rows begin at multiples of 16 bytes."""
        c = self.c
        return ceildiv(c.out[1] * c.strides[1] + max(0, c.kernel[1] - c.strides[1]), 4)

    @property
    def copied(self) -> Dim:
        """Pixels of all images' copies."""
        return self.c.n * self.rows * self.quads * 4

    def tiles(self, bm: int, bx: int) -> Dim:
        """Of pixels."""
        return self.c.n * ceildiv(self.c.out[0], bm // bx) * ceildiv(self.c.out[1], bx)

    def beyond(self, bm: int, bx: int, bk: int) -> Dim:
        """Pixels that may be read behind the copies, by tiles that reach beyond the output and rows filled up."""
        c = self.c
        down = bm // bx * c.strides[0] + (-(-bk // self.run) + c.kernel[0]) * c.dilations[0]
        return self.quads * (4 * down) + bx * c.strides[1] + self.run

    def row_step(self, s: Source) -> str:
        """Text of the elements from one row of the copy to the next."""
        return str(16 * self.quads) if isinstance(self.quads, int) else f"({s.integer(self.quads)} * 16)"


def _resident(v: Windows, q: Params, machine: Gpu) -> int:
    """Programs that a multiprocessor has room for: in its shared memory (a stage is a tile's windows) and registers."""
    size, depth, threads = v.p.operand.size, -(-v.depth // q["bk"]) * q["bk"], 32 * q["warps"]
    sums = q["bm"] * q["bn"]
    room, loaded = (q["bm"] * q["stages"] + q["bn"]) * depth * size, 0
    if q["stages"] > 1:
        room += sums * v.region.output.dtype.size
    else:
        loaded = q["bm"] * depth * size // 4
    registers = max(sums, loaded) // threads + 60  # windows are in shared memory before there are sums
    if registers > 255:
        return 0
    shared = (machine.shared_bytes or 101376) + 1024
    return min(shared // (room + 1024), 65536 // (registers * threads), 64 // q["warps"])


def _settings(v: Windows, tiles: Iterable[tuple[int, int]], columns: Iterable[int], each: int, stages: int
              ) -> list[Params]:
    """Every shape of programs of these tiles (pixels, warps) and channels whose blocks of products are possible and
    hold few more than there are."""
    wide = power_of_two(max(8, optimum(v.region, v.c.out[1])))
    filled = {bk: -(-v.depth // bk) * bk for bk in (16, 32, 64, 128, 256) if bk >= v.p.least_depth}
    blocks = [bk for bk, depth in filled.items() if depth <= 1.34 * min(filled.values()) and depth // bk <= 16]
    return [{"bm": bm, "bx": bx, "bn": bn, "bk": bk, "warps": warps, "stages": stages, "each": each}
            for bm, warps in tiles for bn in columns for bx in (16, 8, 32, 64, 128) if bx <= min(bm, wide)
            for bk in blocks]


def _weights(v: Windows, bn: int, bk: int) -> Pack:
    """The weights as [channels padded to bn, rows, taps and channels filled up], padded to whole blocks of bk."""
    c, p = v.c, v.p

    def make(w: np.ndarray) -> np.ndarray:
        out = np.zeros((-(-c.og // bn) * bn, -(-v.depth // bk) * bk), p.np)
        runs = np.zeros((c.og, c.kernel[0], v.run // CHANNELS, CHANNELS), p.np)
        runs[:, :, :c.kernel[1], :c.cg] = np.moveaxis(w.astype(p.np).reshape(c.og, c.cg, *c.kernel), 1, -1)
        out[:c.og, :v.depth] = runs.reshape(c.og, v.depth)
        return out

    return Pack((1,), make)


def _correction(v: Windows, bn: int) -> Pack:
    """What the sums over codes of u8 lack, taken as i8: `code_offset` times the sum of each channel's weights."""
    def make(w: np.ndarray) -> np.ndarray:
        out = np.zeros(-(-v.c.og // bn) * bn, np.int32)
        out[:v.c.og] = w.astype(np.int64).reshape(v.c.og, -1).sum(1) * v.codes
        return out

    return Pack((1,), make)


def _copy(v: Windows, machine: Gpu) -> Step:
    """The launch that writes the image with four channels and borders."""
    region, c, p = v.region, v.c, v.p
    s = Source("conv_image", machine.has_fp8)
    total, rows, columns = s.integer(v.copied), s.integer(v.rows), f"({s.integer(v.quads)} * 4)"
    wide = is_wide(region, v.copied * CHANNELS)
    s.line("pid = tl.program_id(0)" + (".to(tl.int64)" if wide else ""))
    s.line(f"at = pid * {_COPIED} + tl.arange(0, {_COPIED})")
    s.line(f"left = at // {columns}")
    s.line(f"x = at % {columns} - {c.pads[1]}")
    s.line(f"y = left % {rows} - {c.pads[0]}")
    s.line(f"n = left // {rows}")
    height, width = (s.integer(d) for d in c.spatial)
    s.line(f"there = (at < {total}) & (x >= 0) & (x < {width}) & (y >= 0) & (y < {height})")
    place = ("n", "y", "x") if len(region.output.shape) == 4 else ("n", "x")
    out = s.pointer(Work(0), DType.U8 if p.operand is DType.F8E4M3FN else p.operand)
    kind = "uint8" if p.operand is DType.F8E4M3FN else REGISTER[p.operand]
    border = int(region.attrs.get("pad_value", 0)) - v.codes if p.operand is DType.I8 else 0
    made = []
    for channel in range(CHANNELS):
        if channel >= c.cg:
            made.append(s.name_of(f"tl.zeros(({_COPIED},), tl.{kind})", "v"))
            continue
        block = Block((*place, str(channel)), (*((0,) for _ in place), ()), ("there",))

        def leaf(t: Leaf, block: Block = block) -> str:
            tensor = region.inputs[t.source]
            return load_tensor(s, tensor, pointer_to(s, In(t.source), tensor), block, wide)

        x = region.inputs[0]
        value = emit(s, region.prologue[0] if 0 in region.prologue else Expr((Leaf(0, x.dtype),)), leaf)
        if p.operand is DType.F8E4M3FN:
            value = f"{value}.to(tl.uint8, bitcast=True)"
        elif v.codes:
            value = f"({value}.to(tl.int8, bitcast=True) ^ -128)"
        else:
            value = f"{value}.to(tl.{kind})"
        made.append(s.name_of(f"tl.where(there, {value}, tl.full((), {border}, tl.{kind}))", "v"))
    s.line(f"all = tl.join(tl.join({made[0]}, {made[2]}), tl.join({made[1]}, {made[3]}))")
    s.line(f"each = pid * {_COPIED * CHANNELS} + tl.arange(0, {_COPIED * CHANNELS})")
    s.line(f"tl.store({out} + each, tl.reshape(all, ({_COPIED * CHANNELS},)), mask=each < {total} * {CHANNELS})")
    return s.step(ceildiv(v.copied, _COPIED), 4, 1)


def _products(v: Windows, params: Params, machine: Gpu) -> Step:
    """The launch that multiplies."""
    region, c, p = v.region, v.c, v.p
    bm, bx, bn, bk, each = (params[k] for k in ("bm", "bx", "bn", "bk", "each"))
    by, blocks, parts = bm // bx, -(-c.og // bn), -(-v.depth // bk)
    s = Source("conv_first", machine.has_fp8)
    image, weights = s.pointer(Work(0), p.operand), s.pointer(Packed(0), p.operand)
    row, rows = v.row_step(s), s.integer(v.rows)
    out_y, out_x = map(s.integer, c.out)
    tiles_y, tiles_x = s.integer(ceildiv(c.out[0], by)), s.integer(ceildiv(c.out[1], bx))
    tiles = v.tiles(bm, bx)
    programs: Dim = max(1, each * (machine.multiprocessors or 132) // blocks) if each else tiles
    wide = ".to(tl.int64)" if is_wide(region, (v.copied + v.beyond(bm, bx, bk)) * CHANNELS) else ""
    s.line("pid = tl.program_id(0)")
    s.line(f"column = pid % {blocks} * {bn} + tl.arange(0, {bn})")
    s.line(f"k = tl.arange(0, {bk})")
    for j in range(parts):
        s.line(f"w{j} = tl.load({weights} + (column * {parts * bk})[None, :] + ({j * bk} + k)[:, None])")
    if v.codes:
        s.line(f"lacking = tl.load({s.pointer(Packed(1), p.sums)} + column)[None, :]")
    s.line("#: wait")
    s.line(f"down = tl.arange(0, {bm}) // {bx}")
    s.line(f"across = tl.arange(0, {bm}) % {bx}")
    s.line(f"near = (down * {c.strides[0]} * {row} + across * {c.strides[1] * CHANNELS})[:, None]")
    s.line(f"near += (k // {v.run} * {c.dilations[0]} * {row} + k % {v.run})[None, :]")
    writer = Writer(s, region)
    with s.block(f"for tile in range(pid // {blocks}, {s.integer(tiles)}, {programs}):") if each \
            else contextlib.nullcontext():
        s.line(f"tile = (pid // {blocks}){wide}" if not each else f"place = tile{wide}")
        place = "place" if each else "tile"
        s.line(f"x0 = {place} % {tiles_x} * {bx}")
        s.line(f"left = {place} // {tiles_x}")
        s.line(f"y0 = left % {tiles_y} * {by}")
        s.line(f"n = left // {tiles_y}")
        s.line(f"first = {image} + (n * {rows} + y0 * {c.strides[0]}) * {row} + x0 * {c.strides[1] * CHANNELS}")
        s.line(f"sums = tl.zeros(({bm}, {bn}), tl.{REGISTER[p.sums]})")
        limit = f", max_num_imprecise_acc={bk}" if p.operand.is_storage else ""
        precision = f', input_precision="{p.precision}"' if p.precision else ""
        for j in range(parts):  # all are asked for before the first is waited for
            ty, tap = divmod(j * bk, v.run)
            s.line(f"a{j} = tl.load(first + ({ty * c.dilations[0]} * {row} + {tap}) + near{_mask(v, bk, ty, tap)})")
        for j in range(parts):
            s.line(f"sums = tl.dot(a{j}, w{j}, sums{precision}{limit}, out_dtype=tl.{REGISTER[p.sums]})")
        if v.codes:
            s.line("sums += lacking")
        s.line("oy = y0 + down")
        s.line("ox = x0 + across")
        inside = [f"({at} < {end})" for at, end, d, b in (("oy", out_y, c.out[0], by), ("ox", out_x, c.out[1], bx))
                  if not divides(b, d)]
        if inside:
            s.line(f"rows = {' & '.join(inside)}")
        if c.og % bn:
            s.line(f"columns = column < {c.og}")
        s.line(f"m = (n * {out_y} + oy) * {out_x} + ox")
        lead = (c.n, *region.output.shape[1:-1])
        pixels = Pixels(s, lead, "m", ["n", "oy", "ox"] if len(lead) == 3 else ["n", "ox"])
        writer.write(pixels, "column", "sums", "rows" if inside else "", "columns" if c.og % bn else "")
    return s.step(programs * blocks, params["warps"], params["stages"])


def _mask(v: Windows, bk: int, row: int, tap: int) -> str:
    """Further arguments of the load of `bk` products from a row's tap on. What is filled up has weights of 0, which do
    for integers."""
    if v.p.operand is DType.I8:
        return ""
    masks = []
    if v.run > (used := CHANNELS * v.c.kernel[1]):
        masks.append(f"({tap} + k % {v.run} < {used})")
    if row * v.run + tap + bk > v.depth:
        masks.append(f"(k // {v.run} < {v.c.kernel[0] - row})")
    return f", mask=({' & '.join(masks)})[None, :], other=0.0" if masks else ""
