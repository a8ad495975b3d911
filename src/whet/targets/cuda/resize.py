"""Resizing: along each axis every element of the result is a weighted sum of a few elements ("taps") of the data.

Which elements and with which weights is looked up in a table per axis: a constant where the sizes are known, else
written by a step of its own. With antialiasing, along one axis at a time, the number of taps is the scale's, and they
are walked by a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.ops_resize import footprint, taps
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Arg, Implementation, In, Out, Pack, Packed, Params, Step, Work
from whet.targets.cuda import index
from whet.targets.cuda.expr import cast, finish
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.moving import Movement, is_never_read, pointer
from whet.targets.cuda.resize_taps import Axis, table_step
from whet.targets.cuda.tiles import Tile, number

WIDENED = frozenset({DType.U8, DType.I8, DType.U16, DType.I16})  # read as float32, exactly


@dataclass(frozen=True)
class Loop:
    """A loop over a dimension of the result: its extent and strides, and the axis where it is resized."""

    extent: Dim
    out: Dim
    x: Dim
    axis: Axis | None


def loops(region: Region) -> list[Loop]:
    """The fewest loops: dimensions that keep their size join."""
    x, out, at = region.inputs[0], region.output, region.attrs
    nest: list[Loop] = []
    for d, extent in enumerate(out.shape):
        axis = None
        if not (x.shape[d] == extent and at["scales"][d] in (None, 1.0)):
            axis = Axis(x.shape[d], extent, at["scales"][d])
        elif extent == 1:
            continue
        here = Loop(extent, out.strides[d], x.strides[d], axis)
        last = nest[-1] if nest else None
        if last and not axis and not last.axis and last.out == here.out * extent and last.x == here.x * extent:
            nest[-1] = replace(here, extent=last.extent * extent)
        else:
            nest.append(here)
    return nest or [Loop(1, 1, 1, None)]


class Resize(Movement):
    """Nearest, linear and cubic. Sums are taken in float32, of float64 and integers in float64; of a dimension of
    size 0 nothing is read. An expression may follow an interpolation in float32, if it reads no other tensor."""

    name = "resize"

    def applies(self, region: Region, machine: Gpu) -> str:
        d = region.anchor.dtype
        if region.epilogue is not None:
            if region.n_anchor != len(region.inputs) or d is not DType.F32 or region.attrs["mode"] == "nearest":
                return "resize takes expressions of interpolated float32 alone"
            region = replace(region, epilogue=None, output=replace(region.output, dtype=d))
        if region.inputs[0].dtype in WIDENED and d is DType.F32:
            region = replace(region, inputs=(replace(region.inputs[0], dtype=d),))
        return super().applies(region, machine)

    def refuses(self, region: Region) -> str:
        if region.attrs["mode"] != "nearest" and region.output.dtype is DType.BOOL:
            return "booleans are not interpolated"
        if region.attrs["antialias"] and sum(l.axis is not None for l in loops(region)) > 1:
            return "antialiasing goes along one axis at a time"
        return ""

    def loops(self, region: Region) -> Sequence[Dim]:
        return [l.extent for l in loops(region)]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        factor = {"nearest": 1, "linear": 2, "cubic": 8}[region.attrs["mode"]]
        return super().cost(region, params, machine, threads) * factor

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        if any(isinstance(d, int) and d == 0 for d in region.output.shape) or is_never_read(
                l.axis.n for l in loops(region) if l.axis is not None):
            return Implementation(())
        return _Kernel(region, params, machine).implementation()


@dataclass(frozen=True)
class _Table:
    """For each tap and element the weight and the place (i32), at two addresses; how many elements there are."""

    weights: str
    places: str
    size: str


class _Kernel:
    def __init__(self, region: Region, params: Params, machine: Gpu) -> None:
        self.region, self.params, self.at = region, params, region.attrs
        self.s = Source("resize", machine.has_fp8)
        self.nearest = self.at["mode"] == "nearest"
        self.nest = loops(region)
        self.axes = [l for l in self.nest if l.axis is not None]
        self.taps: Dim = {"nearest": 1, "linear": 2, "cubic": 4}[self.at["mode"]]
        self.long = self.at["antialias"] and bool(self.axes)
        if self.long:
            (axis,) = [l.axis for l in self.axes if l.axis is not None]
            self.taps = footprint(axis.n, axis.size, axis.scale, self.at["mode"])
        self.exact = region.anchor.dtype is DType.F64 or not region.anchor.dtype.is_float
        self.wide = DType.F64 if self.exact else DType.F32  # what sums are taken in
        self.workspace: Dim = 0
        self.steps: list[Step] = []
        self.packs: list[Pack] = []

    def implementation(self) -> Implementation:
        s, region = self.s, self.region
        x_tensor, out_tensor = region.inputs[0], region.output
        if self.nearest:
            self.x, out = pointer(s, In(0), x_tensor), pointer(s, Out(), out_tensor)
        else:
            self.x = s.pointer(In(0), x_tensor.dtype, x_tensor.aligned)
            out = s.pointer(Out(), out_tensor.dtype, out_tensor.aligned)
        tables = {id(l): self._table(l.axis) for l in self.axes if l.axis is not None}
        self.tile = Tile(s, region, [l.extent for l in self.nest], self.params,
                         unless_zero=[l.axis.n for l in self.axes if l.axis is not None])
        base = self.tile.offset([0 if l.axis is not None else l.x for l in self.nest])
        if self.long:
            v = self._walked(base, tables[id(self.axes[0])])
        else:
            assert isinstance(self.taps, int)
            each = [[self._tap(l, tables[id(l)], str(t)) for t in range(self.taps)] for l in self.axes]
            v = self._blend(base, each)
        value = v if self.nearest else self._rounded(v)
        s.line(f"tl.store({out} + {self.tile.offset([l.out for l in self.nest])} + {self.tile.whole}, {value}, "
               f"mask={self.tile.mask})")
        step = s.step(self.tile.tiles, enable_fp_fusion=not self.exact)
        return Implementation((*self.steps, step), tuple(self.packs), self.workspace)

    def _table(self, axis: Axis) -> _Table:
        s, n, size = self.s, axis.n, axis.size
        args: list[Arg]
        if isinstance(n, int) and isinstance(size, int):
            k = len(self.packs)
            self.packs.append(Pack((), partial(_places, n, size, axis.scale, self.at)))
            args = [Packed(k), Packed(k + 1)]
            if not self.nearest:
                self.packs.append(Pack((), partial(_weights, n, size, axis.scale, self.at, self.wide)))
        else:
            entries = size * self.taps
            places = self.workspace
            weights = places + ceildiv(entries * 4, 64) * 64
            self.workspace = weights + (0 if self.nearest else ceildiv(entries * self.wide.size, 64) * 64)
            self.steps.append(table_step(self.region, axis, self.taps, self.wide, weights, places))
            args = [Work(places), Work(weights)]
        return _Table("" if self.nearest else s.pointer(args[1], self.wide), s.pointer(args[0], DType.I32),
                      number(s, self.region, size))

    def _tap(self, loop: Loop, table: _Table, t: str) -> tuple[str, str]:
        """(offset in the data, weight) of tap t along a loop, which run along the tile's rows or columns."""
        s, j = self.s, self.nest.index(loop)
        mask = self.tile.rows if self.tile.row_wise[j] else self.tile.columns
        at = f"{t} * {table.size} + {self.tile.index[j]}"
        kind = "int64" if self.tile.wide else "int32"
        offset = s.name_of(f"tl.load({table.places} + {at}, mask={mask}, other=0).to(tl.{kind}) * "
                           f"{number(s, self.region, loop.x)}", "at")
        if self.nearest:
            return offset, ""
        return offset, s.name_of(f"tl.load({table.weights} + {at}, mask={mask}, other=0)", "w")

    def _load(self, at: str) -> str:
        s = self.s
        v = s.name_of(f"tl.load({self.x} + {at} + {self.tile.whole}, mask={self.tile.mask}, other=0)", "v")
        return v if self.nearest else s.name_of(f"{v}.to(tl.{REGISTER[self.wide]})", "v")

    def _blend(self, at: str, axes: Sequence[Sequence[tuple[str, str]]]) -> str:
        """The sum over the taps of all axes; the first axis is summed first, as the reference does it."""
        if not axes:
            return self._load(at)
        terms = []
        for offset, w in axes[-1]:
            v = self._blend(f"{at} + {offset}", axes[:-1])
            terms.append(f"{v} * {w}" if w else v)
        return self.s.name_of(" + ".join(terms), "sum")

    def _walked(self, base: str, table: _Table) -> str:
        s, (height, width) = self.s, self.tile.shape
        s.line(f"total = tl.zeros([{height}, {width}], tl.{REGISTER[self.wide]})")
        with s.block(f"for t in range(0, {number(s, self.region, self.taps)}):"):
            offset, w = self._tap(self.axes[0], table, "t")
            s.line(f"total += {self._load(f'{base} + {offset}')} * {w}")
        return "total"

    def _rounded(self, v: str) -> str:
        """A sum as it is stored."""
        s, d, out = self.s, self.region.anchor.dtype, self.region.output.dtype
        if d.is_integer:
            limits = np.iinfo(d.np)
            v = s.name_of(f"libdevice.rint({v})", "v")
            s.line(f"{v} = tl.minimum(tl.maximum({v}, {float(limits.min)!r}), {float(limits.max)!r})")
            return f"{v}.to(tl.{REGISTER[d]})" if d.size == 8 else f"{v}.to(tl.int64).to(tl.{REGISTER[d]})"
        if self.region.epilogue is not None:
            v = index.value_of(s, self.region, self.region.epilogue, index.Block((), ()), v)
            return f"({v}).to(tl.uint8)" if out is DType.BOOL else v
        return finish(s, cast(s, v, self.wide, out), out)


def _places(n: int, size: int, scale: float | None, at: dict[str, object]) -> np.ndarray:
    return np.ascontiguousarray(taps(n, size, scale, at)[0].T.astype(np.int32))


def _weights(n: int, size: int, scale: float | None, at: dict[str, object], wide: DType) -> np.ndarray:
    return np.ascontiguousarray(taps(n, size, scale, at)[1].T.astype(wide.np))
