"""Matmul of 8-bit activations by constant i8 weights, without AMX: packed panels, exact i32 sums."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Pack, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_kernel import batch_index
from whet.targets.cpu.gemm_problem import A, Problem, matmul_layout_reason, matmul_problem
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel_int8 import Dot, copy_elements, dot_of
from whet.targets.cpu.packing_int8 import column_sums, pack_groups
from whet.targets.cpu.product_int8 import Lines, ProductKernel
from whet.targets.cpu.space_int8 import Extents, cost, extents_of, space

COPIED = 16  # rows of A that a tile copies


class GemmInt8:
    """C = A @ B for A of u8 or i8 and constant B of i8, in any way that the instruction set has (`Dot`). Parameters:

    mr, nv:  the micro-tile: rows, vectors of columns.
    ml:      lines of rows per tile (1: a matrix is one line).
    mt, nt:  micro-tiles of a line and panels of columns per tile.
    order:   "nm": each panel meets all rows of the tile in turn; "mn": each micro-tile of rows meets all panels.
    unroll:  steps of K per loop iteration.
    ahead:   meanwhile the next panel of B is brought into the second-level cache.
    copy:    rows of A are first copied, as the instruction wants them.
    """

    name = "gemm_int8"

    def applies(self, region: Region, machine: Isa) -> str:
        a, b = region.inputs[:2]
        if a.dtype not in (DType.U8, DType.I8) or b.dtype is not DType.I8:
            return f"operands are {a.dtype.value} and {b.dtype.value}, not u8 or i8 by i8"
        if region.anchor.dtype is not DType.I32:
            return f"the product is {region.anchor.dtype.value}, not i32"
        if not b.const:
            return "b is not a constant"
        return matmul_layout_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p, e = matmul_problem(region), extents(region, machine)
        return [{**params, "copy": must_copy(region, p, e.dot, params["mr"])} for params in space(e, machine, threads)]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: the product, and the copying of A."""
        e = extents(region, machine)
        copied = e.batch * e.width * (30 + e.row_bytes / 12) / threads + 4000 if params["copy"] else 0
        return cost(e, params, machine, threads) + copied / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, dot = matmul_problem(region), dot_of(machine, region.inputs[0].dtype)
        assert isinstance(p.k, int)
        steps = -(-p.k // dot.group)
        copies: tuple[Step, ...] = ()
        workspace: Dim = 0
        if params["copy"]:
            copies, workspace = copy_rows(region, p, dot, steps, machine)
        made = ProductKernel(self.name, region, p, dot, params, machine, partial(rows_of, p=p, region=region, dot=dot,
                                                                             steps=steps, copied=params["copy"]))
        return Implementation((*copies, Step(made.kernel, made.args.table, made.tiles)),
                              packs(dot, params["nv"] * machine.lanes), workspace)


def extents(region: Region, machine: Isa) -> Extents:
    p, dot = matmul_problem(region), dot_of(machine, region.inputs[0].dtype)
    assert isinstance(p.k, int)
    steps = -(-p.k // dot.group)
    return extents_of(region, p, dot, 1, p.m, 1, steps, steps * dot.step)


def packs(dot: Dot, nr: int, runs: int = 1) -> tuple[Pack, ...]:
    """What `ProductKernel` needs of B."""
    panels = Pack((1,), partial(pack_groups, nr=nr, group=dot.group, runs=runs))
    if not dot.correction:
        return (panels,)
    return panels, Pack((1,), partial(column_sums, nr=nr, factor=dot.correction))


def must_copy(region: Region, p: Problem, dot: Dot, mr: int) -> bool:
    """Rows of A cannot be read where they are: other elements are wanted, the last step of K would read past the end,
    or many rows fall into the same cache sets."""
    stride = p.row[A]
    if dot.stored is not dot.source or not isinstance(p.k, int) or p.k % dot.group:
        return True
    if isinstance(p.m, int):
        mr = min(mr, p.m)
    return mr > 8 if not isinstance(stride, int) else mr > 10 and stride % 4096 == 0


def _pitch(steps: int, dot: Dot) -> int:
    """Bytes from one copied row to the next: an odd number of cache lines."""
    return (-(-steps * dot.step // 64) | 1) * 64


def rows_of(k: Fn, args: Args, region: Region, p: Problem, dot: Dot, steps: int, copied: bool) -> Lines:
    """The rows of a matrix, as one line."""
    m = args.dim(p.m)

    def start(index: list[IntLike], flat: IntLike, line: IntLike) -> Val:
        if copied:
            return args.pointer(Work(0)) + flat * m * _pitch(steps, dot)
        a = args.pointer(In(0))
        for i, strides in zip(index, p.batch_strides, strict=True):
            a = a + i * args.dim(strides[A])
        return a

    return Lines(1, p.m, _pitch(steps, dot) if copied else args.dim(p.row[A]), (), steps, start)


def copy_rows(region: Region, p: Problem, dot: Dot, steps: int, isa: Isa) -> tuple[tuple[Step, ...], Dim]:
    """The step that copies A's rows as `dot` wants them, and the workspace that they take."""
    assert isinstance(p.k, int)
    k = Fn(NAME, isa)
    args = Args(k)
    m, pitch = args.dim(p.m), _pitch(steps, dot)
    blocks = args.dim(ceildiv(p.m, COPIED))
    for t in k.range(k.begin, k.end):
        flat, first = t // blocks, t % blocks * COPIED
        src, dst = args.pointer(In(0)), args.pointer(Work(0)) + flat * m * pitch
        for i, strides in zip(batch_index(args, p, flat), p.batch_strides, strict=True):
            src = src + i * args.dim(strides[A])
        for row in k.range(first, k.min(first + COPIED, m)):
            copy_elements(k, dot, src + row * args.dim(p.row[A]), dst + row * pitch, p.k)
    batch = product(p.batch)
    return (Step(finish(k, "gemm_int8_copy"), args.table, batch * ceildiv(p.m, COPIED)),), batch * p.m * pitch
