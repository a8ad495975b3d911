"""Matmul of two activations of 8-bit codes, without AMX: B is packed into panels, then multiplied as weights are."""

from __future__ import annotations

from functools import partial

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Kernel, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_int8 import GemmInt8, copy_rows, rows_of
from whet.targets.cpu.gemm_kernel import batch_index
from whet.targets.cpu.gemm_problem import B, Problem, matmul_layout_reason, matmul_problem, opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.microkernel_int8 import Dot, dot_of
from whet.targets.cpu.product_int8 import ProductKernel


class GemmInt8Batched(GemmInt8):
    """C = A @ B for A of u8 or i8 and B of i8 that is computed at run time, with any batch dimensions; K is static.

    Parameters: those of `GemmInt8`.
    """

    name = "gemm_int8_batched"

    def applies(self, region: Region, machine: Isa) -> str:
        a, b = region.inputs[:2]
        if a.dtype not in (DType.U8, DType.I8) or b.dtype is not DType.I8 or region.anchor.dtype is not DType.I32:
            return f"{a.dtype.value} by {b.dtype.value} to {region.anchor.dtype.value}, not u8 or i8 by i8 to i32"
        if b.const:
            return "b is a constant"
        return "symbolic depth" if not isinstance(a.shape[-1], int) else matmul_layout_reason(region)

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: the product, and the packing of B."""
        p = matmul_problem(region)
        elements = opt(region, product(p.batch)) * opt(region, p.n) * opt(region, p.k)
        packing = elements * (0.15 if p.b_col == 1 else 0.4) / threads + 2000
        return super().cost(region, params, machine, threads) + packing / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, dot = matmul_problem(region), dot_of(machine, region.inputs[0].dtype)
        assert isinstance(p.k, int)
        steps, nr = -(-p.k // dot.group), params["nv"] * machine.lanes
        copies: tuple[Step, ...] = ()
        copied: Dim = 0
        if params["copy"]:
            copies, copied = copy_rows(region, p, dot, steps, machine)
        panels = product(p.batch) * ceildiv(p.n, nr)
        b = Work(copied), Work(copied + panels * (steps * nr * dot.group))
        made = ProductKernel(self.name, region, p, dot, params, machine,
                             partial(rows_of, p=p, region=region, dot=dot, steps=steps, copied=params["copy"]), b)
        packer, args = _pack(p, dot, params["nv"], b, machine)
        pack = Step(packer, args.table, panels)
        return Implementation((*copies, pack, Step(made.kernel, made.args.table, made.tiles)), (),
                              copied + panels * (steps * nr * dot.group + nr * 4))


def _pack(p: Problem, dot: Dot, nv: int, to: tuple[Work, Work], isa: Isa) -> tuple[Kernel, Args]:
    """Tile t: a panel of a batch element, as `packing_int8.pack_groups` has it, and the sums to start from."""
    assert isinstance(p.k, int)
    k = Fn(NAME, isa)
    args = Args(k)
    lanes = isa.lanes
    nr, vector = nv * lanes, lanes * dot.group
    steps, whole = -(-p.k // dot.group), p.k // dot.group
    n, count = args.dim(p.n), args.dim(ceildiv(p.n, nr))
    row, col = args.dim(p.b_row), args.dim(p.b_col)
    for t in k.range(k.begin, k.end):
        flat, panel = t // count, t % count
        src = args.pointer(In(1)) + panel * nr * col
        for i, strides in zip(batch_index(args, p, flat), p.batch_strides, strict=True):
            src = src + i * args.dim(strides[B])
        dst = args.pointer(to[0]) + t * (steps * nr * dot.group)
        left = n - panel * nr
        if p.b_col == 1:
            masks = [k.tail_mask(left - j * lanes, lanes) for j in range(nv)]
            for s in k.range(0, whole):
                _across(k, src + s * dot.group * row, row, dst + s * (nv * vector), masks, dot, dot.group)
            if whole < steps:
                _across(k, src + whole * dot.group * row, row, dst + whole * (nv * vector), masks, dot, p.k % dot.group)
        else:
            for c in k.range(0, k.min(left, nr)):
                _down(k, src + c * col, dst + c * dot.group, nr * dot.group, dot, p.k)
        if dot.correction:
            sums = args.pointer(to[1]) + t * (nr * 4)
            ones = k.const(vec("i32", lanes), 0x01010101)
            for j in range(nv):
                total = k.var(vec("i32", lanes), 0)
                for s in k.range(0, steps):
                    codes = dot.panel(k, dst + s * (nv * vector) + j * vector, lanes)
                    total.set(dot.add(k, total.get(), ones, codes))
                v = k.op("mul", total.get(), k.const(vec("i32", lanes), dot.correction))
                k.store(v, sums + j * isa.width, align=isa.width)
    return finish(k, "gemm_int8_pack"), args


def _across(k: Fn, src: Val, row: IntLike, dst: Val, masks: list[Val], dot: Dot, rows: int) -> None:
    """`rows` rows (the rest of the group is 0) by the columns of a panel, interleaved."""
    ty = f"i{8 * dot.group}"
    for j, mask in enumerate(masks):
        out: Val | None = None
        for r in range(rows):
            v = k.load("i8", src + r * row + j * k.isa.lanes, k.isa.lanes, mask)
            wide = v if dot.group == 1 else k.cast("zext", v, ty) << 8 * r
            out = wide if out is None else out | wide
        assert out is not None
        k.store(out, dst + j * k.isa.lanes * dot.group, align=1)


def _down(k: Fn, src: Val, dst: Val, step: int, dot: Dot, depth: int) -> None:
    """A column that is contiguous, its groups `step` bytes apart."""
    ty, rest = f"i{8 * dot.group}", depth % dot.group
    for s in k.range(0, depth // dot.group):
        k.store(k.load(ty, src + s * dot.group, align=1), dst + s * step, align=1)
    if rest:
        last = depth // dot.group
        k.store(k.const(ty, 0), dst + last * step, align=1)
        for i in range(rest):
            k.store(k.load("i8", src + (last * dot.group + i)), dst + (last * step + i))
