"""What the movement kernels share: a base of their tactics, element types, indices read from memory, the copy.

Movement never looks at values: elements travel as unsigned integers of their size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, product
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cuda import index
from whet.targets.cuda.expr import cast, finish
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import optimum
from whet.targets.cuda.tiles import OUT, Tile, is_flat, merged, number, tilings

RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}  # by size: types that elements travel as
LAUNCH = 2e-6  # seconds that a small kernel takes


class Movement(ABC):
    """A tactic for regions that are an anchor alone, of any strides. The space is that of tilings of `loops`."""

    name: str
    converts = False  # True if the result's type is another than the operand's

    def applies(self, region: Region, machine: Gpu) -> str:
        """"" if the region is of a form that this kernel takes, else the reason why not."""
        outputs = (region.output, *region.extra_outputs)
        if region.epilogue is not None or region.prologue:
            return f"{region.kind} takes no expressions"
        same = (region.output,) if self.converts else (region.output, *region.inputs[:1])
        if any(t.dtype is not region.anchor.dtype for t in same):
            return f"{region.kind} does not convert"
        if any(t.dtype.is_host for t in (*outputs, *region.inputs)):
            return "strings are not for kernels"
        return self.refuses(region)

    def refuses(self, region: Region) -> str:
        """What else is asked of a region: "" or the reason why it is not taken."""
        return ""

    def loops(self, region: Region) -> Sequence[Dim]:
        """The loops that are cut into tiles."""
        return region.output.shape

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return tilings(region, self.loops(region), machine.multiprocessors)

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return moved(region) / (machine.bandwidth or 1e12) + LAUNCH

    @abstractmethod
    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        """The code."""


def moved(region: Region) -> float:
    """Bytes that are read and written, about."""
    outputs = (region.output, *region.extra_outputs)
    return float(sum(2 * optimum(region, product(t.shape)) * t.dtype.size for t in outputs))


def pointer(s: Source, arg: In | Out, t: Tensor) -> str:
    """A parameter that points to a tensor's elements as unsigned integers of their size."""
    return s.pointer(arg, RAW[t.dtype.size], t.aligned)


def is_never_read(sizes: Iterable[Dim]) -> bool:
    """True if one of the sizes is known to be 0."""
    return any(isinstance(d, int) and d == 0 for d in sizes)


def bits_of(value: Any, dtype: DType) -> int:
    """A number as it lies in memory, read as an unsigned integer."""
    return int.from_bytes(np.asarray(value).astype(dtype.np).tobytes(), "little")


def place(s: Source, region: Region, raw: str, n: Dim, wide: bool) -> str:
    """The place that a loaded index stands for in a dimension of n elements: negative ones count from the end, those
    outside are clamped. 32 bits unless `wide`."""
    size = number(s, region, n)
    at = s.name_of(f"tl.where({raw} < 0, {raw} + {size}, {raw})", "place")
    s.line(f"{at} = tl.maximum(tl.minimum({at}, {size} - 1), 0)")
    return s.name_of(f"{at}.to(tl.{'int64' if wide else 'int32'})", "place")


def copy(region: Region, x: Tensor, out: Tensor, params: Params) -> Step:
    """The step that copies region input 0, described by x, to the output, of the same shape and size of elements."""
    s = Source("copy")
    nest = merged(out.shape, {0: x.strides, OUT: out.strides})
    src, dst = pointer(s, In(0), x), pointer(s, Out(), out)
    tile = Tile(s, region, nest.extents, params)
    s.line(f"v = tl.load({src} + {tile.offset(nest.strides[0])}, mask={tile.mask_of(nest.strides[0])})")
    s.line(f"tl.store({dst} + {tile.offset(nest.strides[OUT])} + {tile.whole}, v, mask={tile.mask})")
    return s.step(tile.tiles)


def copy_tiling(region: Region, x: Tensor, out: Tensor) -> Params:
    """The tiling for `copy` where it is not what is tuned."""
    nest = merged(out.shape, {0: x.strides, OUT: out.strides})
    return {"tile": 1024, "flat": is_flat(region, nest.extents, 1024)}


def put(s: Source, region: Region, tile: Tile, value: str, dtype: DType) -> None:
    """Stores the anchor's value, of compute type `dtype`, by way of the epilogue. The tile's loops are the output's
    dimensions."""
    out = region.output
    axes = tuple((0,) if r else (1,) for r in tile.row_wise)
    if region.epilogue is not None:
        block = index.Block(tuple(tile.index), axes, (tile.rows, tile.columns))
        value = index.value_of(s, region, region.epilogue, block, value)
    else:
        value = finish(s, cast(s, value, dtype, out.dtype), out.dtype)
    value = f"({value}).to(tl.uint8)" if out.dtype is DType.BOOL else value
    s.line(f"tl.store({index.out_pointer(s, region)} + {tile.offset(out.strides)} + {tile.whole}, {value}, "
           f"mask={tile.mask})")


class BitCast(Movement):
    """Bits taken for another type of the same size: a copy. No bit changes, of NaN neither."""

    name = "bitcast"
    converts = True

    def loops(self, region: Region) -> Sequence[Dim]:
        return merged(region.output.shape, {0: region.inputs[0].strides, OUT: region.output.strides}).extents

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return Implementation((copy(region, region.inputs[0], region.output, params),))


