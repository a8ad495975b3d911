"""Matmul tactics in fp32 arithmetic (or bf16 dot products): packed constant weights, and batched."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product, upper
from whet.targets.base import Implementation, Pack, Params, Step
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, GemmKernel
from whet.targets.cpu.gemm_problem import A, Problem, matmul_problem, matmul_reason, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.packing import pack_pairs, pack_panels, to_bf16

L1, L2 = 24 << 10, 1 << 20  # bytes that blocks are sized for
SCRATCH = 64 << 20          # bytes that a thread may use


class _Gemm:
    """What both tactics share. Parameters:

    mr, nv:   the micro-tile: rows, vectors of columns.
    mt, nt:   micro-tiles of rows and panels of columns per tile.
    order:    "nm": each panel meets all rows of the tile in turn; "mn": each micro-tile of rows meets
              all panels.
    kc:       K is taken in rounds of so many, sums in scratch between them (0: all at once; even).
    pack:     rows of A are first copied to scratch (with an even stride, widened or rounded).
    unroll:   steps of K per loop iteration.
    prefetch: bytes ahead in B that are prefetched into the first-level cache.
    ahead:    meanwhile the next panel of B is brought into the second-level cache.
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
        n, depth = opt(region, p.n), opt(region, p.k)
        batch = opt(region, product(p.batch))
        found: list[tuple[float, Params]] = []
        for dot in ((False, True) if self._can_dot(region, machine) else (False,)):
            for mr, nv in _micro_tiles(p, machine):
                panels = max(1, -(-n // (nv * machine.lanes)))
                count = max(1, opt(region, RowTiles(p.m, mr).count))
                for kc in _rounds(p.k) if count > 2 else [0]:
                    row_bytes = mr * (kc or depth) * 4
                    for mt, nt, order in _block_sizes(count, panels, batch, threads, row_bytes):
                        params = {"mr": mr, "nv": nv, "mt": mt, "nt": nt, "order": order, "unroll": 4,
                                  "pack": _must_pack(region, p, mr, dot), "prefetch": 0 if self.constant else 1024,
                                  "dot": dot, "kc": kc, "ahead": self.constant}
                        found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in _diverse(found, 24)]

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
        slow = 3.7 if params["dot"] and machine.amx_bf16 else 1.0  # Intel runs vdpbf16ps at a quarter of the FMA rate
        arithmetic = max(rows * nv / 2 * slow, (rows + nv) / 2, 4.0)
        round_ = (params["kc"] or k) if not params["dot"] else -(-(params["kc"] or k) // 2)
        panel, a_block, b_block = (x * round_ * size for x in (nr, mt * mr, nt * nr))
        nm = params["order"] == "nm"  # whichever operand comes again and again, from where?
        far_a, far_b = (a_block > L2, panel > L2) if nm else (mr * round_ * size > L2, b_block > L2)
        near_b = nm and panel <= L1
        l2 = (0 if far_a else rows * size / 40) + (0 if near_b or far_b else nr * size / 40)
        l3 = (rows * size / 14 if far_a else 0) + (nr * size / 14 if far_b else 0)
        step = max(arithmetic + (0.08 if params["ahead"] else 0.1) * l2 + 0.2 * l3, l2 + l3)
        rounds = -(-steps // max(1, round_))
        tile = mt * nt * (steps * step + rows * nv * (1.5 + 2 * (rounds - 1)) + 30 * rounds) + 100
        if self.constant:  # weights come from afar once for every block of rows
            tile += nt * nr * steps * size / 14 * (0.3 if params["ahead"] else 0.8)
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


def _micro_tiles(p: Problem, isa: Isa) -> list[tuple[int, int]]:
    """Shapes that use most of the registers; of those that cut a static M alike, one."""
    favourites = {"avx512": ((14, 2), (12, 2), (9, 3), (8, 3), (6, 4)), "avx2": ((4, 3), (6, 2), (5, 2), (4, 2)),
                  "neon": ((8, 2), (12, 2), (6, 4), (8, 3))}[isa.name]
    if isinstance(p.n, int) and p.n <= isa.lanes:
        favourites = ((12, 1), (8, 1))
    elif isinstance(p.m, int) and p.m < 4:  # little arithmetic: many accumulators hide its latency
        favourites = ((4, 4), (4, 2))
    kept: dict[object, tuple[int, int]] = {}
    for mr, nv in favourites:
        if not isinstance(p.n, int) or (nv - 1) * isa.lanes < max(1, p.n):
            kept.setdefault((RowTiles(p.m, mr).sizes if isinstance(p.m, int) else mr, nv), (mr, nv))
    return list(kept.values())


def _block_sizes(count: int, panels: int, batch: int, threads: int, row_bytes: int) -> set[tuple[int, int, str]]:
    """(micro-tiles, panels, order) of a tile: rows that stay in the second-level cache, several tiles per thread."""
    out: set[tuple[int, int, str]] = set()
    fit = max(1, L2 // max(1, row_bytes))
    for mt in {min(count, -(-count // -(-count // f))) for f in (fit, max(1, fit // 2), max(1, count // 4))}:
        m_blocks = -(-count // mt) * batch
        for per_thread in (4, 12):
            n_blocks = max(1, min(panels, -(-per_thread * threads // m_blocks)))
            if threads == 1 and per_thread == 4:
                n_blocks = 1
            out.add((mt, -(-panels // n_blocks), "nm"))
    few = max(1, count // 2)
    out.add((few, max(1, -(-panels // max(1, 8 * threads // (-(-count // few) * batch)))), "mn"))
    return out


def _rounds(depth: Dim) -> list[int]:
    """Rounds of K worth trying: all at once, and where that is much, what keeps panels near."""
    if not isinstance(depth, int) or depth < 1536:
        return [0]
    return [0, *sorted({-(-depth // i // 64) * 64 for i in (2, 4) if depth // i >= 512})]


def _diverse(found: list[tuple[float, Params]], most: int) -> list[tuple[float, Params]]:
    """The cheapest, but no more than a third of them with the same micro-tile."""
    taken: dict[tuple[int, int, bool], int] = {}
    out: list[tuple[float, Params]] = []
    for cost, params in found:
        key = params["mr"], params["nv"], params["dot"]
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= most // 3 and len(out) < most:
            out.append((cost, params))
    return out


def _must_pack(region: Region, p: Problem, mr: int, dot: bool) -> bool:
    """Rows of A must be copied: another type in memory, or rows that fall into the same cache sets."""
    stride = p.row[A]
    if dot:
        odd = not isinstance(p.k, int) or p.k % 2 == 1
        if region.inputs[0].dtype is not DType.BF16 or odd:
            return True
    elif region.inputs[0].dtype is not DType.F32 or region.compute == "bf16":
        return True
    if not isinstance(stride, int):
        return mr > 8  # an address per row: too many registers
    return mr > 10 and (stride * region.inputs[0].dtype.size) % 4096 == 0


def _pack_f32(b: np.ndarray, nr: int, rounded: bool) -> np.ndarray:
    return pack_panels((to_bf16(b) if rounded else b).astype(np.float32), nr)
