"""Matmul tactics in fp32 arithmetic (or bf16 dot products): packed constant weights, and batched."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product, upper
from whet.targets.base import Implementation, Pack, Params, Step
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, GemmKernel
from whet.targets.cpu.gemm_problem import A, Problem, matmul_problem, matmul_reason, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.microkernel import shapes
from whet.targets.cpu.packing import pack_pairs, pack_panels, to_bf16

L1, L2 = 24 << 10, 1 << 20  # bytes that blocks are sized for
SCRATCH = 64 << 20          # bytes that a thread may use


class _Gemm:
    """What both tactics share. Parameters:

    mr, nv:   the micro-tile: rows, vectors of columns.
    mt, nt:   micro-tiles of rows and panels of columns per tile.
    order:    "nm": each panel meets all rows of the tile in turn; "mn": each micro-tile of rows meets
              all panels.
    pack:     rows of A are first copied to scratch (with an even stride, widened or rounded).
    unroll:   steps of K per loop iteration.
    prefetch: bytes ahead in B that are prefetched.
    dot:      bf16 pairs by vdpbf16ps.
    """

    name: str
    constant: bool

    def applies(self, region: Region, machine: Isa) -> str:
        reason = matmul_reason(region)
        if reason:
            return reason
        if self.constant and not region.inputs[1].const:
            return "b is not a constant"
        if not self.constant and region.inputs[1].const:
            return "b is a constant"
        p = matmul_problem(region)
        if self.constant and not isinstance(p.n, int):
            return "symbolic columns"
        deepest = upper(p.k, {n: (r[0], r[2]) for n, r in region.dims.items()})
        if not self.constant and deepest * machine.width * 8 > SCRATCH:
            return "too deep to pack in scratch"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        n, batch = opt(region, p.n), opt(region, product(p.batch))
        found: list[tuple[float, Params]] = []
        for dot in ((False, True) if self._can_dot(region, machine) else (False,)):
            for mr, nv in shapes(machine):
                count = max(1, opt(region, RowTiles(p.m, mr).count))
                panels = max(1, -(-n // (nv * machine.lanes)))
                best: list[tuple[float, Params]] = []
                for mt, nt in _block_sizes(count, panels, batch, threads):
                    for order in ("nm",) if mt == 1 or nt == 1 else ("nm", "mn"):
                        params = {"mr": mr, "nv": nv, "mt": mt, "nt": nt, "order": order, "unroll": 4,
                                  "pack": _must_pack(region, p, mr, dot), "prefetch": 0, "dot": dot}
                        best.append((self.cost(region, params, machine, threads), params))
                best.sort(key=lambda f: f[0])
                found += best[:3]
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:24]]

    def _can_dot(self, region: Region, machine: Isa) -> bool:
        return self.constant and region.compute == "bf16" and machine.bf16_dot

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: ports and caches of the micro-kernel, padding, packing, balance of threads.

        Rates fitted to measurements on one Sapphire Rapids core: 40 bytes per cycle from the second
        level, 14 from the third; what the second level serves is mostly hidden behind arithmetic.
        """
        p = matmul_problem(region)
        m, n, k = (max(1, opt(region, d)) for d in (p.m, p.n, p.k))
        mr, nv, mt, nt = (params[x] for x in ("mr", "nv", "mt", "nt"))
        batch = max(1, opt(region, product(p.batch)))
        nr = nv * machine.lanes
        panels, micro = -(-n // nr), -(-m // mr)
        rows = m / micro if isinstance(p.m, int) else mr
        steps, size = (-(-k // 2), 4) if params["dot"] else (k, 4)
        arithmetic = max(rows * nv / 2 * (1.7 if params["dot"] else 1), (rows + nv) / 2, 4.0)
        panel, a_block, b_block = nr * steps * size, mt * mr * steps * size, nt * nr * steps * size
        again = "nm" if params["order"] == "nm" else "mn"
        far = {"nm": (a_block > L2, panel > L2), "mn": (mr * steps * size > L2, b_block > L2)}[again]
        near_b = again == "nm" and panel <= L1
        l2 = (0 if far[0] else rows * size / 40) + (0 if near_b or far[1] else nr * size / 40)
        l3 = (rows * size / 14 if far[0] else 0) + (nr * size / 14 if far[1] else 0)
        step = max(arithmetic + 0.12 * l2 + 0.2 * l3, l2 + l3)
        tile = mt * nt * (steps * step + rows * nv * 1.5 + 30) + 100
        if params["pack"]:
            tile += mt * mr * k * 0.15
        if not self.constant:
            tile += nt * nr * k * (0.3 if p.b_row == 1 else 0.1)
        tiles = batch * -(-micro // mt) * -(-panels // nt)
        used = micro * panels * batch / (tiles * mt * nt)  # the last tiles are smaller
        return tile * used * (tiles / threads if tiles > 3 * threads else -(-tiles // threads)) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = matmul_problem(region)
        nr = params["nv"] * machine.lanes
        blocks = Blocks(RowTiles(p.m, params["mr"]), ceildiv(p.n, nr), params["mt"], params["nt"], product(p.batch),
                        params["order"] == "mn")
        made = GemmKernel(region, p, blocks, params, machine, self.constant)
        packs: tuple[Pack, ...] = ()
        if self.constant:
            make = partial(pack_pairs, nr=nr) if params["dot"] else partial(
                _pack_f32, nr=nr, rounded=region.compute == "bf16")
            packs = (Pack((1,), make),)
        return Implementation((Step(made.kernel, made.args.table, blocks.tiles),), packs)


class GemmPacked(_Gemm):
    """C = A @ B for constant B, packed at build time."""

    name, constant = "gemm_packed", True


class GemmBatched(_Gemm):
    """C = A @ B for B computed at run time, with any batch dimensions: tiles pack their part of B."""

    name, constant = "gemm_batched", False


def _block_sizes(count: int, panels: int, batch: int, threads: int) -> set[tuple[int, int]]:
    """(micro-tiles, panels) per tile: enough tiles to go round, few enough to reuse packed rows."""
    sizes = {(-(-count // i), -(-panels // j)) for i in (1, 2, 4, 8, 16, 32, 64) for j in (1, 2, 4, 8, 16, 32)}
    def tiles(s: tuple[int, int]) -> int:
        return -(-count // s[0]) * -(-panels // s[1]) * batch

    good = {s for s in sizes if (threads == 1 or tiles(s) >= 4 * threads) and tiles(s) <= 128 * threads}
    return good or {min(sizes, key=lambda s: abs(tiles(s) - 8 * threads))}


def _must_pack(region: Region, p: Problem, mr: int, dot: bool) -> bool:
    """Rows of A must be copied: another type in memory, or rows that fall into the same cache sets."""
    stride = p.row[A]
    if dot:
        odd = not isinstance(p.k, int) or p.k % 2 == 1
        if region.inputs[0].dtype is not DType.BF16 or odd:
            return True
    elif region.inputs[0].dtype is not DType.F32 or region.compute == "bf16":
        return True
    return mr > 1 and (not isinstance(stride, int) or (stride * region.inputs[0].dtype.size) % 4096 == 0)


def _pack_f32(b: np.ndarray, nr: int, rounded: bool) -> np.ndarray:
    return pack_panels((to_bf16(b) if rounded else b).astype(np.float32), nr)
