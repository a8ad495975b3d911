"""Matmul by constant weights on AMX tiles: bf16 products, fp32 sums."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Kernel, Pack, Packed, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import A, B, Problem, matmul_problem, matmul_reason, opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Amx, Fetch, load_f32, narrow
from whet.targets.cpu.packing import pack_amx

BLOCK = Amx.BLOCK
TILE = 1024  # bytes of a tile


class GemmAmx:
    """C = A @ B by blocks of 32 x 32 accumulators.

    A step first puts A into tiles of 16 rows by 32 elements, rounded to bf16, in the workspace (not
    needed where A is bf16 and whole tiles lie in it: `direct`).

    Parameters: mt, nt (blocks of rows and of columns per tile of work), depth (tiles of K per round,
    so that a round's part of B stays in the first-level cache; 0: all), ahead (bring the next
    panel of B into the second-level cache meanwhile), direct.
    """

    name = "gemm_amx"

    def applies(self, region: Region, machine: Isa) -> str:
        if not machine.amx_bf16:
            return "no AMX"
        if region.compute != "bf16":
            return "products are to be taken in f32"
        reason = matmul_reason(region)
        if reason:
            return reason
        if not region.inputs[1].const:
            return "b is not a constant"
        p = matmul_problem(region)
        if not isinstance(p.k, int) or not isinstance(p.n, int):
            return "symbolic columns or depth"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        assert isinstance(p.k, int)
        assert isinstance(p.n, int)
        rows = max(1, -(-opt(region, p.m) // BLOCK))
        panels, k_tiles = max(1, -(-p.n // BLOCK)), -(-p.k // 32)
        batch = opt(region, product(p.batch))
        found = []
        few = min(4 * threads, rows * panels * batch)
        sizes = set()
        for mt in {-(-rows // max(1, -(-rows // most))) for most in (2, 4, 8)}:
            for tiles in (few, 4 * few):
                n_blocks = -(-tiles // (-(-rows // mt) * batch))
                sizes.add((mt, -(-panels // min(panels, n_blocks))))
        rounds = sorted({-(-k_tiles // i) for i in range(2, 17) if 12 <= -(-k_tiles // i) <= 16})
        for mt, nt in sorted(sizes):
            for depth in (0, *rounds[-2:]):
                for direct in {False, self._direct(region, p)}:
                    params = {"mt": mt, "nt": nt, "depth": depth, "direct": direct, "ahead": depth == 0}
                    found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:16]]

    @staticmethod
    def _direct(region: Region, p: Problem) -> bool:
        whole = isinstance(p.m, int) and p.m % BLOCK == 0 and isinstance(p.k, int) and p.k % 32 == 0
        return whole and region.inputs[0].dtype is DType.BF16

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz. Products of real data run at half their nominal 16 cycles: the CPU's power is the limit."""
        p = matmul_problem(region)
        assert isinstance(p.k, int)
        m, n = max(1, opt(region, p.m)), max(1, opt(region, p.n))
        batch = max(1, opt(region, product(p.batch)))
        rows, panels, k_tiles = -(-m // BLOCK), -(-n // BLOCK), -(-p.k // 32)
        mt, nt, depth = params["mt"], params["nt"], params["depth"] or k_tiles
        rounds = -(-k_tiles // depth)
        near, fits = depth * 2 * TILE <= 32 << 10, mt * k_tiles * 2 * TILE <= 1 << 20
        per_k = 4 * 30 + (0 if near else 8) + (0 if fits else 30)
        block = k_tiles * per_k + 220 + (rounds - 1) * 160
        far = k_tiles * 2 * TILE / 40 / mt  # B comes from beyond the second level once per tile
        tile = mt * nt * (block + far) + 600
        tiles = batch * -(-rows // mt) * -(-panels // nt)
        used = rows * panels * batch / (tiles * mt * nt)
        pack = 0.0 if params["direct"] else m * p.k * batch * 0.15 / threads + 4000
        spread = tiles / threads if tiles > 3 * threads else -(-tiles // threads)
        return (tile * used * spread + pack) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = matmul_problem(region)
        assert isinstance(p.k, int)
        k_tiles = -(-p.k // 32)
        rows = ceildiv(p.m, BLOCK)
        batch = product(p.batch)
        blocks = Blocks(RowTiles(p.m, BLOCK), ceildiv(p.n, BLOCK), params["mt"], params["nt"], batch, False)
        steps: list[Step] = []
        workspace: Dim = 0
        if not params["direct"]:
            kernel, args = _pack_kernel(region, p, k_tiles, machine)
            steps.append(Step(kernel, args.table, batch * rows))
            workspace = batch * rows * (2 * k_tiles * TILE)
        made = _Product(region, p, blocks, params, k_tiles, machine)
        steps.append(Step(made.kernel, made.args.table, blocks.tiles))
        return Implementation(tuple(steps), (Pack((1,), _pack_b),), workspace)


def _pack_b(b: np.ndarray) -> np.ndarray:
    """Tiles of B, padded to whole blocks of 32 columns."""
    n = b.shape[-1]
    return pack_amx(np.pad(b.astype(np.float32), [(0, 0)] * (b.ndim - 1) + [(0, -n % BLOCK)]))


def _pack_kernel(region: Region, p: Problem, k_tiles: int, isa: Isa) -> tuple[Kernel, Args]:
    """Tile t: 32 rows of A as bf16 tiles [2][k_tiles][16][32], zeros past the ends."""
    k = Fn(NAME, isa)
    args = Args(k)
    a, out = args.pointer(In(0)), args.pointer(Work(0))
    dtype = region.inputs[0].dtype
    stride, depth, m = args.dim(p.row[A]) * dtype.size, args.dim(p.k), args.dim(p.m)
    rows = args.dim(ceildiv(p.m, BLOCK))
    for t in k.range(k.begin, k.end):
        src = a
        for i, strides in zip(batch_index(args, p, t // rows), p.batch_strides, strict=True):
            src = src + i * args.dim(strides[A]) * dtype.size
        first = t % rows * BLOCK
        for r in k.range(0, BLOCK):
            row = k.min(first + r, m - 1) * stride
            to = out + (t * 2 + (r >> 4)) * (k_tiles * TILE) + (r & 15) * 64
            # each element of the last, partial tile is masked; the others are whole
            assert isinstance(depth, int)
            for c in k.range(0, depth // 32):
                _put(k, dtype, src + row + c * (32 * dtype.size), to + c * TILE, 32)
            if depth % 32:
                _put(k, dtype, src + row + depth // 32 * (32 * dtype.size), to + depth // 32 * TILE, depth % 32)
    return finish(k, "gemm_amx_pack"), args


def _put(k: Fn, dtype: DType, src: Val, dst: Val, valid: int) -> None:
    """Up to 32 elements as bf16, zeros after `valid`."""
    lanes = k.isa.lanes
    for h in range(0, 32, lanes):
        mask = None if valid >= h + lanes else k.tail_mask(valid - h, lanes)
        if dtype is DType.BF16:
            k.store(k.load("i16", src + h * 2, lanes, mask), dst + h * 2, align=32)
        else:
            v = load_f32(k, dtype.llvm, src + h * dtype.size, lanes, mask)
            k.store(narrow(k, v), dst + h * 2, align=32)


class _Product:
    """The kernel over tiles of blocks."""

    def __init__(self, region: Region, p: Problem, blocks: Blocks, params: Params, k_tiles: int, isa: Isa) -> None:
        self.region, self.p, self.blocks, self.params, self.k_tiles = region, p, blocks, params, k_tiles
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.writer = Writer(k, self.args, region, p)
        depth = params["depth"] or max(1, k_tiles)
        self.rounds = [(i, min(depth, k_tiles - i)) for i in range(0, k_tiles, depth)] or [(0, 0)]
        self.amx = Amx(k)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.amx.release()
        partial_sums = params["mt"] * params["nt"] if len(self.rounds) > 1 else 1
        self.kernel = finish(k, "gemm_amx", partial_sums * 4 * TILE)

    def _tile(self, t: Val) -> None:
        k, args, blocks, p = self.k, self.args, self.blocks, self.p
        flat, mb, nb = blocks.split(k, args, t)
        index = batch_index(args, p, flat)
        self.writer.batch(index)
        b = args.pointer(Packed(0))
        panel_bytes = 2 * self.k_tiles * TILE  # of 32 columns
        for i, strides in zip(index, p.batch_strides, strict=True):
            if strides[B] != 0:
                b = b + i * args.dim(strides[B] // (p.k * p.n) * blocks.panels) * panel_bytes
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        if self.params["direct"]:
            a = args.pointer(In(0))
            for i, strides in zip(index, p.batch_strides, strict=True):
                a = a + i * args.dim(strides[A]) * 2
            a_stride: IntLike = args.dim(p.row[A]) * 2
            a_block, a_step = a_stride * 16, 64
        else:
            a = args.pointer(Work(0)) + flat * args.dim(blocks.rows.count) * (2 * self.k_tiles * TILE)
            a_stride, a_block, a_step = 64, self.k_tiles * TILE, TILE
        m = args.dim(p.m)
        for number, (k0, depth) in enumerate(self.rounds):
            for panel in k.range(p0, p1):
                b_at = b + panel * panel_bytes + k0 * TILE
                for row in k.range(first, last):
                    sums = k.scratch
                    if len(self.rounds) > 1:
                        sums = sums + ((panel - p0) * blocks.mt + (row - first)) * (4 * TILE)
                    a_at = a + row * 2 * a_block + k0 * a_step
                    left = m - row * BLOCK
                    for tiles in self._heights(left):
                        with tiles[1]:
                            self._block(a_at, a_stride, a_block, a_step, b_at, depth, tiles[0], number, sums,
                                        self._fetch(b_at, row - first, depth))
                    if number == len(self.rounds) - 1:
                        self.writer.rows(sums, 4 * BLOCK, row * BLOCK, k.min(left, BLOCK), panel * BLOCK,
                                         args.dim(p.n), BLOCK // k.isa.lanes)

    def _fetch(self, b: Val, block: IntLike, depth: int) -> Fetch | None:
        """This block of rows' share of the next panel's part in this round."""
        if not self.params["ahead"]:
            return None
        lines = -(-2 * TILE // 64 // self.params["mt"])  # per tile of K: two tiles of B, shared by the rows' blocks
        return Fetch(b + 2 * self.k_tiles * TILE + block * (depth * lines * 64), lines)

    def _heights(self, left: IntLike) -> list:
        """(tiles of rows, guard): blocks of at most 16 rows skip their empty half."""
        k = self.k
        if isinstance(self.p.m, int) and self.p.m % BLOCK == 0:
            return [(2, k.if_(True))]
        return [(2, k.if_(k.i64(left) > 16)), (1, k.if_(k.i64(left) <= 16))]

    def _block(self, a: Val, a_stride: IntLike, a_block: IntLike, a_step: int, b: Val, depth: int, height: int,
               number: int, sums: Val, fetch: Fetch | None) -> None:
        """One round of one block: 16 * height rows by 32 columns; sums are [32][32] fp32."""
        used = [(i, j) for i in range(height) for j in range(2)]
        for i, j in used:
            if number == 0:
                self.amx.zero([i * 2 + j])
            else:
                self.amx.load(i * 2 + j, sums + (i * 16 * 4 * BLOCK + j * 64), 4 * BLOCK)
        self.amx.block([a + i * a_block for i in range(height)], a_stride,
                       [b + j * (self.k_tiles * TILE) for j in range(2)], depth, a_step=a_step, fetch=fetch)
        for i, j in used:
            self.amx.store(i * 2 + j, sums + (i * 16 * 4 * BLOCK + j * 64), 4 * BLOCK)
