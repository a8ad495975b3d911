"""Generators: tensors that no input fills."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv
from whet.targets.base import Implementation, Out, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.moving import Movement
from whet.targets.cuda.tiles import is_wide, number

_BLOCK = 1024  # elements of a tile
_PARAMETERS = 200  # values that one launch takes


class DimValues(Movement):
    """`dims`: an int64 tensor of symbolic dimensions, each an integer that is known when shapes are bound."""

    name = "dims"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return [{}]

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        out = region.output
        places = itertools.product(*(range(d) for d in out.shape if isinstance(d, int)))
        told = list(zip(places, region.attrs["values"], strict=True))
        steps = []
        for first in range(0, len(told), _PARAMETERS):
            s = Source("dims")
            p = s.pointer(Out(), DType.I64, out.aligned)
            for place, value in told[first:first + _PARAMETERS]:
                at = " + ".join(f"{i} * {number(s, region, d)}" for i, d in zip(place, out.strides)) or "0"
                s.line(f"tl.store({p} + ({at}), tl.cast({s.integer(value, wide=True)}, tl.int64))")
            steps.append(s.step(1, warps=1))
        return Implementation(tuple(steps))


class Iota(Movement):
    """`iota`: start + i * step, in int64 or float64, then rounded to the type."""

    name = "iota"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return [{}]

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        s = Source("iota")
        dtype, (size,), (stride,) = region.output.dtype, region.output.shape, region.output.strides
        wide = DType.F64 if dtype.is_float else DType.I64
        out = s.pointer(Out(), dtype, region.output.aligned)

        def value(v: Any) -> str:
            if isinstance(v, float):
                return f"tl.full([1], {float(v)!r}, tl.float64)"
            return f"tl.cast({s.integer(v, wide=True)}, tl.{REGISTER[wide]})"

        program = "tl.program_id(0).to(tl.int64)" if is_wide(region) else "tl.program_id(0)"
        s.line(f"i = {program} * {_BLOCK} + tl.arange(0, {_BLOCK})")
        at = value(region.attrs["start"])
        s.line(f"v = i.to(tl.{REGISTER[wide]}) * {value(region.attrs['step'])} + {at}")
        cast = "v.to(tl.float32)" if dtype in (DType.F16, DType.BF16) else "v"
        s.line(f"tl.store({out} + i * {number(s, region, stride)}, ({cast}).to(tl.{REGISTER[dtype]}), "
               f"mask=i < {number(s, region, size)})")
        return Implementation((s.step(ceildiv(size, _BLOCK), enable_fp_fusion=False),))  # as the reference rounds
