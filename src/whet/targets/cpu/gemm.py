"""Matmul by constant weights, packed at build time: the workhorse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles, copy_rows, tile_rows
from whet.targets.cpu.gemm_problem import A, B, Problem, matmul_problem, matmul_reason, opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, fma, round_bf16, shapes
from whet.targets.cpu.packing import pack_panels, to_bf16

L1, L2 = 32 << 10, 1 << 20  # bytes that tiles are sized for


@dataclass(frozen=True)
class Blocks:
    """The tiles of a step: (batch element, block of `mt` micro-tiles of rows, block of `nt` panels)."""

    rows: RowTiles
    panels: Dim
    mt: int
    nt: int
    batch: Dim
    columns_first: bool  # the panel block varies fastest from one tile to the next

    @property
    def m_blocks(self) -> Dim:
        return ceildiv(self.rows.count, self.mt)

    @property
    def n_blocks(self) -> Dim:
        return ceildiv(self.panels, self.nt)

    @property
    def tiles(self) -> Dim:
        return self.batch * self.m_blocks * self.n_blocks

    def split(self, k: Fn, args: Args, t: Val) -> tuple[Any, Any, Any]:
        """(batch element, m block, n block) of tile t."""
        mb, nb = args.dim(self.m_blocks), args.dim(self.n_blocks)
        if self.columns_first:
            n, rest = t % nb, t // nb
            return rest // mb, rest % mb, n
        m, rest = t % mb, t // mb
        return rest // nb, m, rest % nb


def batch_index(args: Args, problem: Problem, flat: IntLike) -> list[IntLike]:
    """The index along each batch dimension of a flat batch element."""
    out: list[IntLike] = []
    for extent in reversed(problem.batch):
        n = args.dim(extent)
        out.append(flat % n)
        flat = flat // n
    return out[::-1]


class GemmPacked:
    """C = A @ B for constant B in panels of nv vectors, fp32 arithmetic.

    Parameters: mr, nv (micro-tile), mt, nt (micro-tiles and panels per tile), order ("nm": each panel
    meets all rows of the tile in turn; "mn": each micro-tile of rows meets all panels), pack (rows of
    A are first copied to scratch with an even stride), unroll, prefetch (bytes ahead in B).
    """

    name = "gemm_packed"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = matmul_reason(region)
        if reason:
            return reason
        if not region.inputs[1].const:
            return "b is not a constant"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        n = opt(region, p.n)
        found: list[tuple[float, Params]] = []
        for mr, nv in shapes(machine):
            tiles = RowTiles(p.m, mr)
            count = max(1, opt(region, tiles.count))
            panels = -(-n // (nv * machine.lanes))
            for mt, nt in self._blocks(count, panels, opt(region, product(p.batch)), threads):
                for pack in ((True,) if self._must_pack(region, p, mr) else (False,)):
                    for order in ("nm", "mn"):
                        if (order == "mn" and (mt == 1 or nt == 1)):
                            continue
                        params = {"mr": mr, "nv": nv, "mt": mt, "nt": nt, "order": order, "pack": pack,
                                  "unroll": 4, "prefetch": 0}
                        found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:24]]

    @staticmethod
    def _blocks(count: int, panels: int, batch: int, threads: int) -> set[tuple[int, int]]:
        """Tile sizes (micro-tiles, panels) that give every thread several tiles and fit the cache."""
        out = set()
        for mt in {count, -(-count // 2), -(-count // 4), -(-count // 8), min(count, 4), min(count, 8)}:
            for nt in {panels, -(-panels // 2), -(-panels // 4), -(-panels // 8), -(-panels // 16)}:
                tiles = -(-count // mt) * -(-panels // nt) * batch
                if tiles >= 4 * threads or (mt == 1 and nt == 1) or (threads == 1 and tiles == 1):
                    if tiles <= 64 * threads or mt * nt >= 16:
                        out.add((mt, nt))
        return out or {(1, 1)}

    @staticmethod
    def _must_pack(region: Region, p: Problem, mr: int) -> bool:
        """Rows must be copied: bf16 in memory, or rows that fall into the same cache sets."""
        if region.inputs[0].dtype is not DType.F32 or region.compute == "bf16":
            return True
        stride = p.row[A]
        return mr > 1 and (not isinstance(stride, int) or (stride * 4) % 2048 == 0)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: FMA and load ports of the micro-tile, padding, and threads' balance."""
        p = matmul_problem(region)
        m, n, k = (opt(region, d) for d in (p.m, p.n, p.k))
        mr, nv, nr = params["mr"], params["nv"], params["nv"] * machine.lanes
        batch = opt(region, product(p.batch))
        panels = -(-n // nr)
        micro = -(-m // mr)
        rows = m / micro if isinstance(p.m, int) else mr
        step = max(rows * nv / 2, (rows + nv) / 2, 4.0 if rows * nv < 8 else 0)
        tiles = -(-micro // params["mt"]) * -(-panels // params["nt"]) * batch
        rounds = -(-tiles // threads) / (tiles / threads)
        cycles = batch * micro * panels * (k * step + rows * nv + 40) * rounds / threads
        a_block = params["mt"] * mr * k * 4
        b_block = params["nt"] * nr * k * 4
        if params["order"] == "nm":  # the rows of the tile come again for every panel
            traffic = (a_block * params["nt"] * (0.05 if a_block < L2 else 0.3) + b_block * 0.08) * tiles
        else:
            traffic = (b_block * params["mt"] * (0.05 if b_block < L2 else 0.3) + a_block * 0.08) * tiles
        if params["pack"]:
            traffic += params["mt"] * mr * k * 0.15 * tiles
        return (cycles + traffic / threads / 4) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = matmul_problem(region)
        nr = params["nv"] * machine.lanes
        rounded = region.compute == "bf16"
        pack = Pack((1,), partial(_pack_f32, nr=nr, rounded=rounded))
        panels = ceildiv(p.n, nr)
        blocks = Blocks(RowTiles(p.m, params["mr"]), panels, params["mt"], params["nt"], product(p.batch),
                        params["order"] == "mn")
        kernel = _PackedKernel(region, p, blocks, params, machine)
        step = Step(kernel.kernel, kernel.args.table, blocks.tiles)
        return Implementation((step,), (pack,))


def _pack_f32(b: np.ndarray, nr: int, rounded: bool) -> np.ndarray:
    return pack_panels((to_bf16(b) if rounded else b).astype(np.float32), nr)


class _PackedKernel:
    """The one kernel of `GemmPacked`."""

    def __init__(self, region: Region, p: Problem, blocks: Blocks, params: Params, isa: Isa) -> None:
        self.p, self.blocks, self.params, self.isa, self.region = p, blocks, params, isa, region
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.writer = Writer(k, self.args, region, p)
        self.nr = params["nv"] * isa.lanes
        self.depth = self.args.dim(p.k)
        assert isinstance(self.depth, int)
        a_type = region.inputs[0].dtype
        self.a_size = a_type.size
        self.a_stride = self.args.dim(p.row[A]) * self.a_size
        self.scratch_stride = -(-self.depth * 4 // 64) * 64 + 64
        self.spill_bytes = params["mr"] * params["nv"] * isa.width
        rows = params["mt"] * params["mr"]
        scratch = self.spill_bytes + (rows * self.scratch_stride if params["pack"] else 0)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, "gemm_packed", scratch)

    def _tile(self, t: Val) -> None:
        k, args, blocks, p = self.k, self.args, self.blocks, self.p
        flat, mb, nb = blocks.split(k, args, t)
        index = batch_index(args, p, flat)
        self.writer.batch(index)
        m = args.dim(p.m)
        a, b = args.pointer(In(0)), args.pointer(Packed(0))
        panel_bytes = self.depth * self.nr * 4
        for i, strides in zip(index, p.batch_strides, strict=True):
            a = a + i * args.dim(strides[A]) * self.a_size
            b = b + i * self._b_batch(strides[B]) * panel_bytes
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        a_stride: IntLike = self.a_stride
        start = blocks.rows.start(k, first)
        if self.params["pack"]:
            dst = k.scratch + self.spill_bytes
            rows = blocks.rows.start(k, last) - start
            if not isinstance(p.m, int):
                rows = k.min(rows, m - start)
            copy_rows(k, a + start * self.a_stride, self.a_stride, self.region.inputs[0].dtype.llvm, dst,
                      self.scratch_stride, "float", rows, self.depth, self.depth,
                      partial(round_bf16, k) if self.region.compute == "bf16" else None)
            a = k.gep(dst, -(k.i64(start) * self.scratch_stride))
            a_stride = self.scratch_stride

        def micro(row: IntLike, size: int, valid: IntLike, panel: IntLike) -> None:
            acc = Accumulators(k, size, self.params["nv"])
            acc.zero()
            fma(k, acc, tile_rows(a + row * a_stride, a_stride, size, valid), b + panel * panel_bytes, self.depth,
                unroll=self.params["unroll"], prefetch=self.params["prefetch"])
            self.writer.block(acc, row, valid, panel * self.nr, args.dim(p.n), k.scratch)

        def across(row: IntLike, size: int, valid: IntLike) -> None:
            for panel in k.range(p0, p1):
                micro(row, size, valid, panel)

        if self.params["order"] == "nm":
            for panel in k.range(p0, p1):
                blocks.rows.emit(k, m, first, last, partial(micro, panel=panel))
        else:
            blocks.rows.emit(k, m, first, last, across)

    def _b_batch(self, stride: Dim) -> IntLike:
        """Panels per step of a batch dimension of B."""
        if stride == 0:
            return 0
        matrix = self.p.k * self.p.n
        return self.args.dim(stride // matrix * self.blocks.panels)
