"""Convolution of codes on AMX tiles, any kind: windows of a block of pixels are gathered into scratch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.base import Implementation, Pack, Params, Step
from whet.targets.cpu.amx_kernel import BLOCK, ROW, Depth, pack_depth
from whet.targets.cpu.conv_common import INTEGERS, conv_of, conv_reason, matmul_region, weight_matrix
from whet.targets.cpu.conv_implicit import gatherer, group_and_rest
from whet.targets.cpu.gemm_problem import matmul_problem, opt
from whet.targets.cpu.gemm_tiles import GemmTiles, TilesKernel, copied, tile_blocks
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import IntLike, Val

SCRATCH = 1 << 20


class ConvWindows:
    """u8 or i8 images by i8 weights: a matrix product whose rows of A are gathered windows.

    Parameters: those of `GemmTiles`.
    """

    name = "conv_windows"

    def __init__(self) -> None:
        self.gemm = GemmTiles()

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region, dtypes=INTEGERS)
        if reason:
            return reason
        c = conv_of(region)
        if c.cg == 1 and c.groups > 1:
            return "the convolution is depthwise"
        return self.gemm.applies(matmul_region(region), machine)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        pitch = -(-conv_of(region).depth // ROW) * ROW
        found = [p for p in self.gemm.space(matmul_region(region), machine, threads)
                 if p["mt"] == 1 or p["mt"] * BLOCK * pitch <= SCRATCH]
        if not found:
            panels = -(-conv_of(region).og // BLOCK)
            found = [{"mt": 1, "nt": n, "order": "mn", "ahead": False} for n in sorted({panels, -(-panels // 4)})]
        found.sort(key=lambda p: self.cost(region, p, machine, threads))
        return found

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: the product, and the gathering, which is repeated for every block of columns."""
        c, matmul = conv_of(region), matmul_region(region)
        p = matmul_problem(matmul)
        runs = c.taps if c.groups > 1 or c.dilations[-1] > 1 else c.taps // c.kernel[-1]
        panels = -(-c.og // BLOCK)
        repeats = -(-panels // params["nt"])
        rows = opt(region, p.m)
        for d in p.batch:
            rows *= opt(region, d)
        gather = rows * repeats * (10 + runs * (2 + c.depth / runs / 32))
        return self.gemm.cost(matmul, params, machine, threads) + gather / threads / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        matmul = matmul_region(region)
        p = matmul_problem(matmul)
        depth, blocks = copied(p), tile_blocks(p, params)
        made = _Kernel(region, matmul, depth, params, machine)
        pack = Pack((1,), partial(_pack, groups=conv_of(region).groups, depth=depth))
        return Implementation((Step(made.kernel, made.args.table, blocks.tiles),), (pack,))


def _pack(w: np.ndarray, groups: int, depth: Depth) -> np.ndarray:
    return pack_depth(weight_matrix(w, groups), depth, 1)


class _Kernel(TilesKernel):
    """The product whose rows are windows."""

    prefix = "conv_windows"

    def __init__(self, image: Region, matmul: Region, depth: Depth, params: Params, isa: Isa) -> None:
        self.image, self.conv = image, conv_of(image)
        super().__init__(matmul, matmul_problem(matmul), params, depth, False, isa)

    def _copy(self, a: Val, index: list[IntLike], first: IntLike, last: IntLike) -> None:
        k, x = self.k, self.image.inputs[0]
        im2col = gatherer(k, self.args, self.image, x.dtype, None, ROW)
        group, flat = group_and_rest(self.args, self.conv, self.p, index)
        start = flat * self.args.dim(self.p.m) + first
        assert x.dtype in (DType.U8, DType.I8)
        im2col.rows(a + group * self.conv.cg, start, last - first, self.rows_at, self.pitch)
