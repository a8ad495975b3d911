"""Matmul by constant weights on AMX tiles that are loaded from where A lies: 8-bit integers, and bf16."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, lower, product
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
    span,
    tiles_reason,
)
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import A, B, Problem, matmul_layout_reason, matmul_problem, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val


class GemmTiles:
    """C = A @ B for u8 or i8 by i8, or for bf16 in memory, in blocks of 32 x 32 sums that are written while the next
    ones are computed.

    Tiles of A are loaded from memory: the last block of rows, and the last tile of K, reach back over the ones
    before (B's part there is 0). Where there are not that many rows or bytes, rows are copied to scratch.

    Parameters: mt, nt (blocks of rows and of columns per tile of work), order ("mn": a block of rows meets all
    panels of columns in turn, "nm": a panel all blocks), ahead (bring the next panel into the second-level cache),
    depth (of "nm": tiles of K per round, so that a round's part of a panel stays in the first level; 0: all).
    """

    name = "gemm_tiles"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = matmul_layout_reason(region) or tiles_reason(region, machine, region.inputs[0].shape[-1])
        if reason:
            return reason
        if not region.inputs[1].const:
            return "b is not a constant"
        p = matmul_problem(region)
        if not isinstance(p.k, int) or not isinstance(p.n, int):
            return "symbolic columns or depth"
        return "no depth" if p.k == 0 else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        assert isinstance(p.k, int)
        assert isinstance(p.n, int)
        rows, panels = max(1, -(-opt(region, p.m) // BLOCK)), max(1, -(-p.n // BLOCK))
        depths = round_depths(-(-p.k * region.inputs[0].dtype.size // ROW))
        batch = opt(region, product(p.batch))
        m, size = opt(region, p.m) * batch, region.inputs[0].dtype.size
        found: dict[str, tuple[float, float, Params]] = {}
        for per_thread in (1, 2, 4, 8):
            for cut in (1, 2, 4, 8, 16, 32, 64):  # of the columns
                nt = -(-panels // min(cut, panels))
                cuts = max(1, -(-per_thread * threads // (batch * -(-panels // nt))))
                mt = -(-rows // min(cuts, rows))
                for order, depth in (("mn", 0), *(("nm", d) for d in depths if mt <= 64)):
                    params: Params = {"mt": mt, "nt": nt, "order": order, "ahead": order == "nm", "depth": depth}
                    rows_read = m * min(threads, -(-panels // nt))
                    columns_read = p.n * min(threads, -(-rows // mt) * batch)
                    found.setdefault(repr(params), (self.cost(region, params, machine, threads),
                                                    (rows_read + columns_read) * p.k * size, params))
        return near([f for f in found.values() if threads == 1 or -(-rows // f[2]["mt"]) * -(-panels // f[2]["nt"])
                     * batch >= threads] or list(found.values()))

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: tile products, what they load from the second level or beyond, writing, balance."""
        p = matmul_problem(region)
        assert isinstance(p.k, int)
        assert isinstance(p.n, int)
        m, batch = max(1, opt(region, p.m)), max(1, opt(region, product(p.batch)))
        size = region.inputs[0].dtype.size
        rows, panels, tiles_k = -(-m // BLOCK), -(-p.n // BLOCK), -(-p.k * size // ROW)
        mt, nt = params["mt"], params["nt"]
        inner = nt if params["order"] == "mn" else mt
        depth = params.get("depth", 0) or tiles_k
        strip = depth * 2 * TILE  # bytes of a block of rows, or of a panel
        near_outer = strip <= 32 << 10                       # the outer operand stays in the first level
        near_inner = near_outer and (inner + 1) * strip <= 40 << 10
        again = inner * tiles_k * 2 * TILE <= 1 << 20        # the inner one stays in the second level
        per_k = 64 + (0 if near_inner else 16) + (0 if near_outer else 48) + (0 if again else 40)
        block = max(tiles_k * per_k, 200) + 100 + (-(-tiles_k // depth) - 1) * 150
        cold = nt * tiles_k * 2 * TILE / (16 if params["order"] == "mn" else 24)  # weights come from afar
        tile = mt * nt * block + cold + 300
        if not self._direct(region, p):
            tile += mt * BLOCK * (10 + p.k / 32)
        tiles = batch * -(-rows // mt) * -(-panels // nt)
        if tiles <= 3 * threads:
            return tile * -(-tiles // threads) / 3e9
        used = rows * panels * batch / (tiles * mt * nt)  # the last tiles are smaller
        return tile * used * tiles / threads / 3e9

    @staticmethod
    def _direct(region: Region, p: Problem) -> bool:
        """Tiles of A may be loaded from memory."""
        assert isinstance(p.k, int)
        fewest = lower(p.m, {n: (r[0], r[2]) for n, r in region.dims.items()})
        return fewest >= BLOCK and (p.k >= ROW or p.k % 4 == 0)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = matmul_problem(region)
        direct = self._direct(region, p)
        size = region.inputs[0].dtype.size
        depth = _in_place(p, size) if direct else copied(p, size)
        made = TilesKernel(region, p, params, depth, direct, machine)
        step = Step(made.kernel, made.args.table, made.blocks.tiles)
        return Implementation((step,), (Pack((1,), partial(pack_depth, depth=depth, size=size)),))


def round_depths(tiles: int) -> list[int]:
    """Rounds of K worth trying, for so many tiles of it."""
    return [0] if tiles <= 16 else [0, *sorted({-(-tiles // -(-tiles // d)) for d in (8, 12)})]


def tile_blocks(p: Problem, params: Params) -> Blocks:
    """The tiles of work."""
    return Blocks(RowTiles(p.m, BLOCK), ceildiv(p.n, BLOCK), params["mt"], params["nt"], product(p.batch),
                  params["order"] == "mn")


def copied(p: Problem, size: int = 1) -> Depth:
    """Tiles of rows in scratch, the last of which may hold anything past their end."""
    assert isinstance(p.k, int)
    tiles = -(-p.k * size // ROW)
    return Depth((Run(0, tiles),), np.array([i if i < p.k else -1 for i in range(tiles * ROW // size)]))


def _in_place(p: Problem, size: int) -> Depth:
    """Tiles of rows in memory: nothing past their end is touched."""
    assert isinstance(p.k, int)
    if p.k * size < ROW:
        return Depth((Run(0, 1),), np.array([i if i < p.k else -1 for i in range(ROW)]), p.k)
    runs, index = span(0, 0, p.k, size)
    return Depth(tuple(runs), np.array(index))


class TilesKernel:
    """The kernel over tiles of blocks. Scratch: sums of a block, then copied rows of A unless `direct`."""

    prefix = "gemm_tiles"  # of the symbol, for kernels derived from this one

    def __init__(self, region: Region, p: Problem, params: Params, depth: Depth, direct: bool, isa: Isa) -> None:
        self.region, self.p, self.blocks, self.params = region, p, tile_blocks(p, params), params
        self.depth, self.direct = depth, direct
        self.size = region.inputs[0].dtype.size
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.pipe = Pipeline(k, self.args, region, p, depth, None if direct else lambda r: r)
        self.pitch = depth.tiles * ROW + (0 if depth.tiles % 2 else ROW)  # rows in different sets of the cache
        self.rounds = depth.rounds(params.get("depth", 0) if params["order"] == "nm" else 0)
        sums = params["mt"] * SUMS if len(self.rounds) > 1 else SUMS
        self.rows_at = k.scratch + sums
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.pipe.amx.release()
        self.kernel = finish(k, self.prefix, sums + (0 if direct else params["mt"] * BLOCK * self.pitch + ROW))

    def _tile(self, t: Val) -> None:
        k, args, blocks, p = self.k, self.args, self.blocks, self.p
        flat, mb, nb = blocks.split(k, args, t)
        index = batch_index(args, p, flat)
        self.pipe.writer.batch(index)
        a, b = args.pointer(In(0)), args.pointer(Packed(0))
        panel_bytes = 2 * self.depth.tiles * TILE
        for i, strides in zip(index, p.batch_strides, strict=True):
            a = a + i * args.dim(strides[A]) * self.size
            if strides[B] != 0:  # B is dense: its strides count whole matrices
                b = b + i * args.dim(strides[B] // (p.k * p.n) * blocks.panels) * panel_bytes
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        stride: IntLike = args.dim(p.row[A]) * self.size
        if not self.direct:
            self._copy(a, index, first * BLOCK, k.min(last * BLOCK, args.dim(p.m)))
            a = k.gep(self.rows_at, -(k.i64(first) * (BLOCK * self.pitch)))
            stride = self.pitch

        def block(row: IntLike, panel: IntLike, part: Round) -> None:
            at, local = b + panel * panel_bytes, k.i64(row) - first
            start, tall, count = self._rows(row)
            sums = k.scratch + local * SUMS if len(self.rounds) > 1 else k.scratch
            self.pipe.block(a + start * stride, stride, tall, at, part, sums if part.first else None,
                            self._fetch(at, local))
            self.pipe.writer.hold(sums, start, panel * BLOCK, count if part is self.rounds[-1] else 0)

        self.pipe.writer.hold(k.scratch, 0, p0 * BLOCK, 0)
        if self.params["order"] == "mn":
            for row in k.range(first, last):
                for panel in k.range(p0, p1):
                    block(row, panel, self.rounds[0])
        else:
            for panel in k.range(p0, p1):
                for part in self.rounds:
                    for row in k.range(first, last):
                        block(row, panel, part)
        self.pipe.drain()

    def _rows(self, row: IntLike) -> tuple[IntLike, Val | bool, IntLike]:
        """First row of a block, whether it has 32 of them (else 16), and how many are to be written."""
        k, m = self.k, self.args.dim(self.p.m)
        if isinstance(m, int) and m % BLOCK == 0:
            return row * BLOCK, True, BLOCK
        left = k.i64(m - row * BLOCK)
        tall = left > 16
        if not self.direct:
            return row * BLOCK, tall, k.min(left, BLOCK)
        start = k.select(tall, k.min(row * BLOCK, m - BLOCK), k.i64(m - 16))
        return start, tall, k.select(tall, k.i64(BLOCK), 16)

    def _fetch(self, panel: Val, row: Val) -> tuple[Val, int] | None:
        """This block of rows' share of the next panel."""
        if not self.params["ahead"]:
            return None
        lines = -(-2 * TILE // 64 // self.params["mt"])
        return panel + 2 * self.depth.tiles * TILE + row * (self.depth.tiles * lines * 64), lines

    def _copy(self, a: Val, index: list[IntLike], first: IntLike, last: IntLike) -> None:
        """Rows [first, last) of the matrix at a (batch element `index`) to scratch."""
        k, stride = self.k, self.args.dim(self.p.row[A]) * self.size
        assert isinstance(self.p.k, int)
        depth = self.p.k * self.size  # bytes
        for r in k.range(0, last - first):
            src, dst = a + (r + first) * stride, self.rows_at + r * self.pitch
            for c in k.range(0, depth // ROW):
                k.store(k.load("i8", src + c * ROW, ROW), dst + c * ROW, align=ROW)
            if depth % ROW:
                whole = depth // ROW * ROW
                mask = k.tail_mask(depth % ROW, ROW)
                k.store(k.load("i8", src + whole, ROW, mask), dst + whole, align=ROW)
