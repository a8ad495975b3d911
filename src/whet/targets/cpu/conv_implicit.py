"""Convolution as a matrix product of windows gathered block by block (implicit GEMM), and of pixels (1x1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step, Tactic
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import (
    Conv,
    conv_of,
    conv_reason,
    matmul_region,
    pixel_problem,
    weight_matrix,
)
from whet.targets.cpu.conv_im2col import Im2col
from whet.targets.cpu.gemm_emit import RowTiles, tile_rows
from whet.targets.cpu.gemm_problem import Problem, opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, fma, round_bf16, shapes
from whet.targets.cpu.packing import pack_panels, to_bf16

SCRATCH = 1 << 20  # bytes of gathered windows that still leave room for weights in a second-level cache


class ConvGemm:
    """A 1x1 convolution of stride 1 without padding: a matrix product over its pixels, by `tactic`."""

    def __init__(self, tactic: Tactic) -> None:
        self.tactic = tactic
        self.name = f"conv_{tactic.name}"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        if not c.plain or c.groups != 1:
            return "the convolution is not 1x1 with stride 1, no padding and one group"
        return self.tactic.applies(self._matmul(region), machine)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return self.tactic.space(self._matmul(region), machine, threads)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        return self.tactic.cost(self._matmul(region), params, machine, threads)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        impl = self.tactic.implement(self._matmul(region), params, machine, threads)
        return replace(impl, packs=tuple(Pack(p.sources, partial(_pack_matrix, make=p.make)) if p.sources == (1,) else p
                                         for p in impl.packs))

    @staticmethod
    def _matmul(region: Region) -> Region:
        return matmul_region(region, region.inputs[0], conv_of(region).cg)


def _pack_matrix(w: np.ndarray, make: Callable[..., np.ndarray]) -> np.ndarray:
    return make(weight_matrix(w, 1)[0])


@dataclass(frozen=True)
class Tiles:
    """Tiles of a step: (batch element of the problem, block of micro-tiles of rows, group, block of panels)."""

    rows: RowTiles
    batch: Dim
    groups: int
    panels: int  # of a group
    mt: int
    nt: int

    @property
    def m_blocks(self) -> Dim:
        return ceildiv(self.rows.count, self.mt)

    @property
    def n_blocks(self) -> int:
        return -(-self.panels // self.nt)

    @property
    def count(self) -> Dim:
        return self.batch * self.m_blocks * (self.groups * self.n_blocks)

    def split(self, args: Args, t: Val) -> tuple[IntLike, IntLike, IntLike, IntLike]:
        """(batch element, row block, group, panel block) of tile t."""
        n, rest = t % self.n_blocks, t // self.n_blocks
        g, rest = rest % self.groups, rest // self.groups
        mb = args.dim(self.m_blocks)
        return rest // mb, rest % mb, g, n


def unflatten(args: Args, problem: Problem, flat: IntLike) -> list[IntLike]:
    """The index along each batch dimension of a flat batch element."""
    out: list[IntLike] = []
    for extent in reversed(problem.batch):
        n = args.dim(extent)
        out.append(flat % n)
        flat = flat // n
    return out[::-1]


def tile_choices(rows: int, panels: int, groups: int, depth: int, mr: int, threads: int) -> list[tuple[int, int]]:
    """(mt, nt) worth trying: enough tiles for the threads, few repeats of the gathering, scratch that fits."""
    found = []
    most = max(1, SCRATCH // (mr * depth * 4))
    for mt in sorted({m for m in (1, 2, 4, 8, rows, -(-rows // 2), -(-rows // 4)) if m <= min(most, rows)}):
        for nt in sorted({-(-panels // d) for d in (1, 2, 4, 8)}):
            tiles = -(-rows // mt) * -(-panels // nt) * groups
            if tiles >= 2 * threads or (mt == 1 and nt == 1):
                found.append((mt, nt))
    return found


class ConvImplicit:
    """Any convolution by constant weights, fp32 arithmetic: windows of a block of pixels are gathered into
    scratch (`Im2col`), then multiplied by packed weights. Groups are matrix products of their own.

    Parameters: mr, nv (micro-tile), mt, nt (micro-tiles of rows and panels of columns per tile), order ("nm":
    each panel meets all rows of the tile in turn; "mn": the other way round), unroll.
    """

    name = "conv_implicit"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        return "the convolution is depthwise" if c.cg == 1 and c.groups > 1 else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        c = conv_of(region)
        p = pixel_problem(region, c.depth)
        found: list[tuple[float, Params]] = []
        for mr, nv in shapes(machine):
            if nv > 1 and (nv - 1) * machine.lanes >= c.og:
                continue
            rows = max(1, opt(region, RowTiles(p.m, mr).count))
            panels = -(-c.og // (nv * machine.lanes))
            for mt, nt in tile_choices(rows, panels, c.groups, c.depth, mr, threads):
                for order in ("nm", "mn") if mt > 1 and nt > 1 else ("nm",):
                    params = {"mr": mr, "nv": nv, "mt": mt, "nt": nt, "order": order, "unroll": 4}
                    found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:20]]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: FMA and load ports of the micro-tile, gathering, cache traffic and the threads' balance."""
        c = conv_of(region)
        p = pixel_problem(region, c.depth)
        m, batch = opt(region, p.m), opt(region, product(p.batch))
        mr, nv = params["mr"], params["nv"]
        nr = nv * machine.lanes
        panels = -(-c.og // nr)
        micro = max(1, -(-m // mr))
        rows = m / micro if isinstance(p.m, int) else mr
        step = max(rows * nv / 2, (rows + nv) / 2, 4.0 if rows * nv < 8 else 0)
        mt, nt = min(params["mt"], micro), params["nt"]
        blocks = -(-micro // mt) * -(-panels // nt) * c.groups * batch
        rounds = -(-blocks // threads) / (blocks / threads)
        product_cycles = batch * c.groups * micro * panels * (c.depth * step + rows * nv + 40)
        runs = c.taps if c.groups > 1 or c.dilations[-1] > 1 else c.taps // c.kernel[-1]
        gather = blocks * mt * rows * (20 + runs * 8 + c.depth / machine.lanes * 1.5)
        a_block, b_block = mt * mr * c.depth * 4, nt * nr * c.depth * 4
        if params["order"] == "nm":
            traffic = (a_block * nt * (0.02 if a_block < SCRATCH else 0.1) + b_block * 0.08) * blocks
        else:
            traffic = (b_block * mt * (0.02 if b_block < SCRATCH else 0.1) + a_block * 0.02) * blocks
        return (product_cycles + gather + traffic) * rounds / threads / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        kernel = _Implicit(region, params, machine)
        pack = Pack((1,), partial(_pack_f32, groups=kernel.conv.groups, nr=kernel.nr, rounded=region.compute == "bf16"))
        return Implementation((Step(kernel.kernel, kernel.args.table, kernel.tiles.count),), (pack,))


def _pack_f32(w: np.ndarray, groups: int, nr: int, rounded: bool) -> np.ndarray:
    return pack_panels(weight_matrix((to_bf16(w) if rounded else w).astype(np.float32), groups), nr)


def gatherer(k: Fn, args: Args, region: Region, conv: Conv, dst_type: str) -> Im2col:
    """The window gatherer of a region: fp32 rounded to bf16 where the region computes in bf16."""
    x = region.inputs[0]
    sizes = {"spatial": [args.dim(d) for d in conv.spatial], "out": [args.dim(d) for d in conv.out]}
    strides = [args.dim(d) * x.dtype.size for d in x.strides[:-1]]
    convert = None
    if dst_type == "float" and region.compute == "bf16" and x.dtype is DType.F32:
        convert = partial(round_bf16, k)
    return Im2col(k, conv, sizes, strides, x.dtype.llvm, dst_type, convert)


class _Implicit:
    """The kernel of `ConvImplicit`."""

    def __init__(self, region: Region, params: Params, isa: Isa) -> None:
        self.region, self.params, self.isa = region, params, isa
        self.conv = c = conv_of(region)
        self.problem = p = pixel_problem(region, c.depth)
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.writer = Writer(k, self.args, matmul_region(region, region.inputs[0], c.depth), p)
        self.nr = params["nv"] * isa.lanes
        self.tiles = Tiles(RowTiles(p.m, params["mr"]), product(p.batch), c.groups, -(-c.og // self.nr),
                           params["mt"], params["nt"])
        self.im2col = gatherer(k, self.args, region, c, "float")
        self.stride = (-(-c.depth * 4 // 64) | 1) * 64 + 128
        self.spill = params["mr"] * params["nv"] * isa.width
        self.x, self.w = self.args.pointer(In(0)), self.args.pointer(Packed(0))
        for t in k.range(k.begin, k.end):
            self._tile(t)
        rows = min(params["mt"] * params["mr"], p.m if isinstance(p.m, int) else 1 << 30)
        self.kernel = finish(k, "conv_implicit", self.spill + rows * self.stride + isa.width)

    def _tile(self, t: Val) -> None:
        k, args, tiles, c, p = self.k, self.args, self.tiles, self.conv, self.problem
        flat, mb, g, nb = tiles.split(args, t)
        self.writer.batch(unflatten(args, p, flat))
        m = args.dim(p.m)
        first = mb * tiles.mt
        last = k.min(first + tiles.mt, args.dim(tiles.rows.count))
        start = tiles.rows.start(k, first)
        end = k.min(tiles.rows.start(k, last), m)
        dst = k.scratch + self.spill
        x = self.x + g * (c.cg * self.region.inputs[0].dtype.size)
        self.im2col.rows(x, flat * m + start, end - start, dst, self.stride)
        a = k.gep(dst, -(k.i64(start) * self.stride))
        panel_bytes = c.depth * self.nr * 4
        w = self.w + g * (tiles.panels * panel_bytes)
        cols: IntLike = (g + 1) * c.og
        if c.groups == 1 or c.og % self.nr == 0:
            cols = c.groups * c.og

        def micro(row: IntLike, size: int, valid: IntLike, panel: IntLike) -> None:
            acc = Accumulators(k, size, self.params["nv"])
            acc.zero()
            fma(k, acc, tile_rows(a + row * self.stride, self.stride, size, valid), w + panel * panel_bytes, c.depth,
                unroll=self.params["unroll"])
            self.writer.block(acc, row, valid, g * c.og + panel * self.nr, cols, k.scratch)

        p0 = nb * tiles.nt
        p1 = k.min(p0 + tiles.nt, tiles.panels)
        if self.params["order"] == "nm":
            for panel in k.range(p0, p1):
                tiles.rows.emit(k, m, first, last, partial(micro, panel=panel))
        else:
            def across(row: IntLike, size: int, valid: IntLike) -> None:
                for panel in k.range(p0, p1):
                    micro(row, size, valid, panel)

            tiles.rows.emit(k, m, first, last, across)
