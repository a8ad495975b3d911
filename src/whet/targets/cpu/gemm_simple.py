"""Matmul of any numeric type, f64 and integers included: right, and vectorized, but not tuned."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, In, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import cast, compute_type, gather_value, load_value
from whet.targets.cpu.gemm_kernel import batch_index
from whet.targets.cpu.gemm_problem import A, B, matmul_layout_reason, matmul_problem, opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, vec

VECTORS = 4  # of columns at a time


class GemmSimple:
    """C = A @ B, a row of A by a strip of B at a time, both read where they are. No parameters.

    Integers wrap. Products and sums are taken in the operands' own type (half precision: in fp32; 8-bit codes: in the
    anchor's i32).
    """

    name = "gemm_simple"

    def applies(self, region: Region, machine: Isa) -> str:
        a, b = region.inputs[:2]
        codes = all(t.dtype in (DType.U8, DType.I8) for t in (a, b)) and region.anchor.dtype is DType.I32
        if not codes and (a.dtype is not b.dtype or a.dtype is not region.anchor.dtype):
            return f"types differ: {a.dtype.value} by {b.dtype.value} to {region.anchor.dtype.value}"
        if not (a.dtype.is_float or a.dtype.is_integer):
            return f"no product of {a.dtype.value}"
        if a.dtype in (DType.F32, DType.BF16, DType.F16):
            return "other tactics are faster"
        if b.const and 1 not in (b.shape[-1], b.shape[-2], *b.strides[-2:]):
            return "neither of b's last two dimensions is contiguous"
        return matmul_layout_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: a load and a multiply-add per element of B and row of A; codes are widened before, and
        gathered one by one where they do not lie side by side."""
        p = matmul_problem(region, packed=False)
        size = region.inputs[0].dtype.size
        if region.inputs[0].dtype is not region.anchor.dtype:
            size = 5 if p.b_col == 1 else 100
        strip = VECTORS * machine.lanes
        columns = -(-opt(region, p.n) // strip) * strip
        work = opt(region, product(p.batch)) * opt(region, p.m) * columns * opt(region, p.k)
        return (work * size / machine.width / threads + 300) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = matmul_problem(region, packed=False)
        k = Fn(NAME, machine)
        args = Args(k)
        writer = Writer(k, args, region, p)
        (dtype, b_dtype), lanes, result = (t.dtype for t in region.inputs[:2]), machine.lanes, region.anchor.dtype
        ty = vec(compute_type(result), lanes)
        m, n, depth = args.dim(p.m), args.dim(p.n), args.dim(p.k)
        strip = VECTORS * lanes
        strips = args.dim(ceildiv(p.n, strip))
        row_b, col_b = args.dim(p.b_row) * b_dtype.size, args.dim(p.b_col)
        for t in k.range(k.begin, k.end):
            col, rest = t % strips * strip, t // strips
            row, flat = rest % m, rest // m
            index = batch_index(args, p, flat)
            writer.batch(index)
            a = args.pointer(In(0)) + row * (args.dim(p.row[A]) * dtype.size)
            b = args.pointer(In(1)) + col * (col_b * b_dtype.size)
            for i, strides in zip(index, p.batch_strides, strict=True):
                a = a + i * args.dim(strides[A]) * dtype.size
                b = b + i * args.dim(strides[B]) * b_dtype.size
            masks = [k.tail_mask(n - col - j * lanes, lanes) for j in range(VECTORS)]
            sums = [k.var(ty, 0) for _ in range(VECTORS)]
            for d in k.range(0, depth):
                x = k.splat(cast(k, load_value(k, dtype, a + d * dtype.size), dtype, result), lanes)
                line = b + d * row_b
                for j in range(VECTORS):
                    at = line + j * lanes * col_b * b_dtype.size
                    y = load_value(k, b_dtype, at, lanes, masks[j]) if p.b_col == 1 else \
                        gather_value(k, b_dtype, at, col_b, lanes, masks[j])
                    y = cast(k, y, b_dtype, result)
                    s = sums[j]
                    s.set(k.fma(x, y, s.get()) if y.is_float else s.get() + k.op("mul", x, y))
            for j in range(VECTORS):
                writer.vector(sums[j].get(), row, col + j * lanes, masks[j])
        tiles = product(p.batch) * p.m * ceildiv(p.n, strip)
        return Implementation((Step(finish(k, self.name), args.table, tiles, grain=8),))
