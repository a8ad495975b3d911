"""Generators: tensors that no input fills."""

from __future__ import annotations

from typing import Any

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv
from whet.targets.base import Implementation, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import cast, store_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.moving import Movement

_BLOCK = 4096  # elements of a tile


class DimValues(Movement):
    """`dims`: an int64 tensor of symbolic dimensions, each an integer that is known when shapes are bound."""

    name = "dims"

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        out = args.pointer(Out())
        for _ in k.range(k.begin, k.end):
            place = [0] * len(region.output.shape)
            for value in region.attrs["values"]:
                at = out
                for i, s in zip(place, region.output.strides, strict=True):
                    at = at + args.dim(s) * (8 * i)
                k.store(k.i64(args.dim(value)), at)
                _next(place, region.output.shape)
        return Implementation((Step(finish(k, "dims"), args.table, 1),))


def _next(place: list[int], shape: Any) -> None:
    """Moves a multi-index on by one element, in row-major order."""
    for axis in reversed(range(len(place))):
        place[axis] += 1
        if place[axis] < shape[axis]:
            return
        place[axis] = 0


class Iota(Movement):
    """`iota`: start + i * step, in int64 or float64, then rounded to the type."""

    name = "iota"

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        k = Fn(NAME, machine)
        args = Args(k)
        dtype, (size,) = region.output.dtype, region.output.shape
        lanes = machine.width // 8
        out, n = args.pointer(Out()), args.dim(size)
        wide = DType.F64 if dtype.is_float else DType.I64

        def number(v: Any) -> Val:
            if not isinstance(v, (int, float)):
                v = args.dim(v)
            if isinstance(v, Val):
                return k.splat(cast(k, v, DType.I64, wide), lanes)
            return k.const(f"<{lanes} x {wide.llvm}>", v)

        start, step = number(region.attrs["start"]), number(region.attrs["step"])
        lane = k.const_vector("i64", range(lanes))

        def block(i: IntLike, mask: Val | None) -> None:
            at = cast(k, lane + k.splat(k.i64(i), lanes), DType.I64, wide)
            v = k.op("fmul" if wide.is_float else "mul", at, step) + start
            store_value(k, cast(k, v, wide, dtype), dtype, out + i * dtype.size, mask)

        for tile in k.range(k.begin, k.end):
            first = tile * _BLOCK
            last = k.min(first + _BLOCK, n)
            whole = first + (last - first) // lanes * lanes
            for i in k.range(first, whole, lanes):
                block(i, None)
            for i in k.range(whole, last, lanes):
                block(i, k.tail_mask(last - i, lanes))
        return Implementation((Step(finish(k, "iota"), args.table, ceildiv(size, _BLOCK)),))
