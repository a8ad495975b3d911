"""Convolution on AMX tiles: windows gathered as bf16, 32 x 32 blocks of fp32 sums."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import conv_of, conv_reason, matmul_region, pixel_problem, weight_matrix
from whet.targets.cpu.conv_implicit import gatherer, group_and_rest
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val
from whet.targets.cpu.microkernel import Amx, narrow
from whet.targets.cpu.packing import pack_amx

BLOCK = Amx.BLOCK
TILE = 1024  # bytes of a tile
SCRATCH = 1 << 20


class ConvAmx:
    """Any convolution by constant weights, bf16 products.

    Windows of a block of pixels are gathered into scratch as rows of bf16 (`Im2col`); tiles of A are loaded from
    there, tiles of B from weights packed in VNNI order.

    Parameters: mt, nt (blocks of 32 pixels and of 32 output channels per tile of the step), depth (tiles of K per
    round, so that a round's weights stay in the first-level cache; 0: all).
    """

    name = "conv_amx"

    def applies(self, region: Region, machine: Isa) -> str:
        if not machine.amx_bf16:
            return "no AMX"
        if region.compute != "bf16":
            return "products are to be taken in f32"
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        return "the convolution is depthwise" if c.cg == 1 and c.groups > 1 else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        c = conv_of(region)
        p = pixel_problem(region)
        rows = max(1, -(-opt(region, p.m) // BLOCK))
        panels, k_tiles = -(-c.og // BLOCK), -(-c.depth // 32)
        found: list[tuple[float, Params]] = []
        for mt in sorted({1, 2, 4, 8, 16, rows, -(-rows // 2), -(-rows // 4)}):
            if mt > rows or (mt > 1 and mt * BLOCK * k_tiles * 64 > SCRATCH):
                continue
            for nt in sorted({-(-panels // d) for d in (1, 2, 4, 8)}):
                tiles = -(-rows // mt) * -(-panels // nt) * opt(region, product(p.batch))
                if tiles < 2 * threads and not (mt == 1 and nt == 1):
                    continue
                for depth in {0, *(-(-k_tiles // d) for d in range(2, 10) if 8 <= -(-k_tiles // d) <= 16)}:
                    params = {"mt": mt, "nt": nt, "depth": depth}
                    found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:16]]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 2.6 GHz: tile products, gathering, weights from beyond the caches, the threads' balance."""
        c = conv_of(region)
        p = pixel_problem(region)
        m, batch = max(1, opt(region, p.m)), opt(region, product(p.batch))
        rows, panels, k_tiles = -(-m // BLOCK), -(-c.og // BLOCK), -(-c.depth // 32)
        mt, nt, depth = min(params["mt"], rows), params["nt"], params["depth"] or k_tiles
        rounds = -(-k_tiles // depth)
        per_k = 64 + (8 if depth * 2 * TILE <= 32 << 10 else 32) + (0 if mt * depth * 2 * TILE < 1 << 20 else 40)
        block = k_tiles * per_k + 250 + (rounds - 1) * 160
        far = k_tiles * 2 * TILE / 12 / mt
        runs = c.taps if c.groups > 1 or c.dilations[-1] > 1 else c.taps // c.kernel[-1]
        gather = BLOCK * (20 + runs * 8 + c.depth / 16)
        blocks = -(-rows // mt) * -(-panels // nt) * batch
        spread = max(blocks / threads, 1.0) if blocks > 4 * threads else -(-blocks // threads)
        used = rows * panels * batch / (blocks * mt * nt)
        return float(mt * (nt * (block + far) + gather) * used * spread / 2.6e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        kernel = _AmxKernel(region, params, machine)
        pack = Pack((1,), partial(_pack, groups=kernel.conv.groups))
        return Implementation((Step(kernel.kernel, kernel.args.table, kernel.tiles.tiles),), (pack,))


def _pack(w: np.ndarray, groups: int) -> np.ndarray:
    """[groups, column tiles, K tiles, 16, 16, 2] bf16, a whole number of pairs of column tiles."""
    b = weight_matrix(w.astype(np.float32), groups)
    return pack_amx(np.pad(b, [(0, 0)] * (b.ndim - 1) + [(0, -b.shape[-1] % BLOCK)]))


class _AmxKernel:
    """The kernel. Scratch: sums of blocks [32][32] fp32 (one, or all of a tile when K is cut), then windows."""

    def __init__(self, region: Region, params: Params, isa: Isa) -> None:
        self.region, self.isa = region, isa
        self.conv = c = conv_of(region)
        self.problem = p = pixel_problem(region)
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.writer = Writer(k, args, matmul_region(region), p)
        self.tiles = Blocks(RowTiles(p.m, BLOCK), -(-c.og // BLOCK), params["mt"], params["nt"], product(p.batch), True)
        self.k_tiles = -(-c.depth // 32)
        depth = params["depth"] or self.k_tiles
        self.rounds = [(i, min(depth, self.k_tiles - i)) for i in range(0, self.k_tiles, depth)]
        x = region.inputs[0]
        convert = None if x.dtype is DType.BF16 else partial(narrow, k)
        self.im2col = gatherer(k, args, region, DType.BF16, convert, 32)
        self.stride = (self.k_tiles | 1) * 64 + 128
        self.sums = (params["mt"] * params["nt"] if len(self.rounds) > 1 else 1) * 4 * TILE
        self.x, self.w = args.pointer(In(0)), args.pointer(Packed(0))
        self.amx = Amx(k)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.amx.release()
        self.kernel = finish(k, "conv_amx", self.sums + params["mt"] * BLOCK * self.stride + 64)

    def _tile(self, t: Val) -> None:
        k, args, tiles, c, p = self.k, self.args, self.tiles, self.conv, self.problem
        element, mb, nb = tiles.split(k, args, t)
        index = batch_index(args, p, element)
        self.writer.batch(index)
        g, flat = group_and_rest(args, c, p, index)
        m = args.dim(p.m)
        start = mb * (tiles.mt * BLOCK)
        count = k.min(m - start, tiles.mt * BLOCK)
        windows = k.scratch + self.sums
        self.im2col.rows(self.x + g * (c.cg * self.region.inputs[0].dtype.size), flat * m + start, count, windows,
                         self.stride)
        panel_bytes = 2 * self.k_tiles * TILE
        panels = -(-c.og // BLOCK)
        w = self.w + g * (panels * panel_bytes)
        p0 = nb * tiles.nt
        p1 = k.min(p0 + tiles.nt, panels)
        rows = k.ceildiv(count, BLOCK)
        for number, (k0, depth) in enumerate(self.rounds):
            for panel in k.range(p0, p1):
                b = w + panel * panel_bytes + k0 * TILE
                for row in k.range(0, rows):
                    sums = k.scratch
                    if len(self.rounds) > 1:
                        sums = sums + ((panel - p0) * tiles.mt + row) * (4 * TILE)
                    a = windows + row * (BLOCK * self.stride) + k0 * 64
                    left = k.i64(count - row * BLOCK)
                    tall, low = k.branch(left > 16)
                    with tall:
                        self._block(a, b, depth, 2, number, sums)
                    with low:
                        self._block(a, b, depth, 1, number, sums)
                    if number == len(self.rounds) - 1:
                        self.writer.rows(sums, 4 * BLOCK, start + row * BLOCK, k.min(left, BLOCK),
                                         panel * BLOCK, c.og, BLOCK // k.isa.lanes)

    def _block(self, a: Val, b: Val, depth: int, height: int, number: int, sums: Val) -> None:
        """One round of one block: 16 * height pixels by 32 channels."""
        used = [(i, j) for i in range(height) for j in range(2)]
        for i, j in used:
            if number == 0:
                self.amx.zero([i * 2 + j])
            else:
                self.amx.load(i * 2 + j, sums + (i * 16 * 4 * BLOCK + j * 64), 4 * BLOCK)
        self.amx.block([a + i * (16 * self.stride) for i in range(height)], self.stride,
                       [b + j * (self.k_tiles * TILE) for j in range(2)], depth)
        for i, j in used:
            self.amx.store(i * 2 + j, sums + (i * 16 * 4 * BLOCK + j * 64), 4 * BLOCK)
