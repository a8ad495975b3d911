"""Convolution as a matrix product of windows gathered block by block (implicit GEMM), and of pixels (1x1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Arg, Implementation, In, Pack, Params, Step, Tactic
from whet.targets.cpu.args import Args
from whet.targets.cpu.conv_common import FLOATS, INTEGERS, Conv, conv_of, conv_reason, matmul_region, weight_matrix
from whet.targets.cpu.conv_im2col import Im2col
from whet.targets.cpu.gemm import GemmPacked
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks, GemmKernel
from whet.targets.cpu.gemm_problem import Problem, matmul_problem, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import narrow, round_bf16
from whet.targets.cpu.packing import pack_pairs, pack_panels, to_bf16

PackB = Callable[..., np.ndarray]

SCRATCH = 3 << 19  # bytes of gathered windows that a second-level cache holds


class ConvGemm:
    """A 1x1 convolution of stride 1 without padding: a matrix product over its pixels, by `tactic`."""

    def __init__(self, tactic: Tactic) -> None:
        self.tactic = tactic
        self.name = f"conv_{tactic.name}"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region, dtypes=(*FLOATS, *INTEGERS))
        if reason:
            return reason
        if not conv_of(region).plain:
            return "the convolution is not 1x1 with stride 1 and no padding"
        return self.tactic.applies(matmul_region(region, pixels=True), machine)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return self.tactic.space(matmul_region(region, pixels=True), machine, threads)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        return self.tactic.cost(matmul_region(region, pixels=True), params, machine, threads)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return with_weights(region, self.tactic.implement(matmul_region(region, pixels=True), params, machine, threads))


def with_weights(region: Region, impl: Implementation) -> Implementation:
    """A matmul's implementation with its packs of B taking the convolution's weights."""
    groups = conv_of(region).groups
    return replace(impl, packs=tuple(Pack(p.sources, partial(_pack_matrix, make=p.make, groups=groups))
                                     if p.sources == (1,) else p for p in impl.packs))


def _pack_matrix(w: np.ndarray, make: Callable[..., np.ndarray], groups: int) -> np.ndarray:
    return make(weight_matrix(w, groups))


class ConvImplicit:
    """Any convolution by constant weights: windows of a block of pixels are gathered into scratch (`Im2col`), then
    multiplied by packed weights, in fp32 or in bf16 pairs. Groups are matrix products of their own.

    Parameters: those of `GemmPacked`.
    """

    name = "conv_implicit"

    def __init__(self) -> None:
        self.gemm = GemmPacked()

    def applies(self, region: Region, machine: Isa) -> str:
        reason = conv_reason(region)
        if reason:
            return reason
        c = conv_of(region)
        return "the convolution is depthwise" if c.cg == 1 and c.groups > 1 else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        found: dict[str, Params] = {}
        depth = conv_of(region).depth
        for params in self.gemm.space(matmul_region(region), machine, threads):
            if params["mt"] > 1 and params["mt"] * params["mr"] * depth * 4 > SCRATCH:
                continue
            params = {**params, "pack": True}
            found.setdefault(repr(params), params)
        return sorted(found.values(), key=lambda p: self.cost(region, p, machine, threads))[:20]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: the product, and the gathering, which is repeated for every block of columns."""
        c = conv_of(region)
        p = matmul_problem(matmul_region(region))
        runs = c.taps if c.groups > 1 or c.dilations[-1] > 1 else c.taps // c.kernel[-1]
        repeats = -(-c.og // (params["nv"] * machine.lanes * params["nt"]))
        rows = opt(region, p.m) * opt(region, product(p.batch)) * repeats
        gather = rows * (30 + runs * 4 + 0.5 * c.depth / machine.lanes)
        return self.gemm.cost(matmul_region(region), params, machine, threads) + gather / threads / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        step, make = self.kernel(region, params, machine, {})
        return with_weights(region, Implementation((step,), (Pack((1,), make),)))

    def kernel(self, region: Region, params: Params, machine: Isa, offsets: Mapping[Arg, Dim]) -> tuple[Step, PackB]:
        """The step that runs the region with some arguments moved on by bytes, and the packer of its B."""
        matmul = matmul_region(region)
        p = matmul_problem(matmul)
        nr = params["nv"] * machine.lanes
        blocks = Blocks(RowTiles(p.m, params["mr"]), ceildiv(p.n, nr), params["mt"], params["nt"], product(p.batch),
                        params["order"] == "mn")
        made = _Implicit(region, matmul, blocks, params, machine, offsets)
        make = partial(pack_pairs, nr=nr)
        if not params["dot"]:
            make = partial(_pack_f32, rounded=region.compute == "bf16", nr=nr)
        return Step(made.kernel, made.args.table, blocks.tiles), make


def _pack_f32(b: np.ndarray, rounded: bool, nr: int) -> np.ndarray:
    return pack_panels((to_bf16(b) if rounded else b).astype(np.float32), nr)


class Shifted(Args):
    """An argument table where some pointers are moved on by constant or symbolic numbers of bytes."""

    def __init__(self, k: Fn, offsets: Mapping[Arg, Dim]) -> None:
        super().__init__(k)
        self._offsets = offsets
        self._moved: dict[Arg, Val] = {}

    def pointer(self, arg: Arg) -> Val:
        base, offset = super().pointer(arg), self._offsets.get(arg, 0)
        if offset == 0:
            return base
        if arg not in self._moved:
            by = self.k.i64(self.dim(offset))
            self._moved[arg] = self.k.hoist("ptr", f"getelementptr i8, ptr {base.ref}, i64 {by.ref}")
        return self._moved[arg]


class _Implicit(GemmKernel):
    """A matmul kernel whose rows of A are gathered windows."""

    prefix = "conv_implicit"

    def __init__(self, region: Region, matmul: Region, blocks: Blocks, params: Params, isa: Isa,
                 offsets: Mapping[Arg, Dim]) -> None:
        self.image, self.conv, self.offsets = region, conv_of(region), offsets
        super().__init__(matmul, matmul_problem(matmul), blocks, params, isa, constant=True)

    def _arguments(self, k: Fn) -> Args:
        return Shifted(k, self.offsets)

    def _a_rows(self, index: list[IntLike], m: IntLike, first: IntLike, last: IntLike) -> tuple[Val, IntLike]:
        k, args, c, x = self.k, self.args, self.conv, self.image.inputs[0]
        src = args.pointer(In(0))
        convert = None
        if self.dot:
            convert = None if x.dtype is DType.BF16 else partial(narrow, k)
        elif self.round and x.dtype is not DType.BF16:
            convert = partial(round_bf16, k)
        im2col = gatherer(k, args, self.image, DType.BF16 if self.dot else DType.F32, convert, 2 if self.dot else 1)
        group, flat = group_and_rest(args, c, self.p, index)
        src = src + group * (c.cg * x.dtype.size)
        start = self.blocks.rows.start(k, first)
        count = k.min(self.blocks.rows.start(k, last), m) - start
        dst = k.scratch + self.spill_bytes
        im2col.rows(src, flat * m + start, count, dst, self.row_bytes)
        return k.gep(dst, -(k.i64(start) * self.row_bytes)), self.row_bytes


def group_and_rest(args: Args, conv: Conv, p: Problem, index: list[IntLike]) -> tuple[IntLike, IntLike]:
    """(group, flat index of the other batch dimensions) of a batch element of a `matmul_region`."""
    group: IntLike = 0
    extents = list(p.batch)
    if conv.groups > 1:
        group, index, extents = index[0], index[1:], extents[1:]
    flat: IntLike = 0
    for i, extent in zip(index, extents, strict=True):
        flat = flat * args.dim(extent) + i
    return group, flat


def gatherer(k: Fn, args: Args, region: Region, dst_type: DType, convert: Callable[[Val], Val] | None,
             multiple: int) -> Im2col:
    """The window gatherer of a `conv` region inside a kernel."""
    c, x = conv_of(region), region.inputs[0]
    sizes = {"spatial": [args.dim(d) for d in c.spatial], "out": [args.dim(d) for d in c.out]}
    strides = [args.dim(s) * x.dtype.size for s in x.strides[:-1]]
    return Im2col(k, c, sizes, strides, x.dtype, dst_type, convert, multiple, region.attrs.get("pad_value", 0))
