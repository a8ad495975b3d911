"""Scatters: the result is a copy of the data (or, where lowering says `in_place`, the data itself), into which updates
are placed one after the other.

Updates that may meet in one element are placed by one tile, in order: the last one wins, and sums are the same for
any number of threads. What runs in parallel are the dimensions along which the place moves with the update: rows'
columns in scatter_nd, every dimension but the axis in scatter_elements.
"""

from __future__ import annotations

from collections.abc import Iterator

from whet.ir.dtypes import DType
from whet.ir.expr import identity
from whet.ir.region import Region
from whet.ir.symbolic import Dim, product
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import compute_type, extreme, load_value, store_value
from whet.targets.cpu.gather import Pick
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.loops import OUT, Loops, advance, loops_over, optimum
from whet.targets.cpu.moving import Movement, Tiles, copy_element, copy_row, load_index
from whet.targets.cpu.pointwise import Pointwise

_INDEX, _UPDATES = 1, 2  # the region's inputs


class Scatter(Movement):
    """scatter_nd and scatter_elements, with every reduction; 16-bit floats are rounded after each update. A place
    that lies outside is clamped; into a dimension of size 0 nothing is placed."""

    name = "scatter"

    def refuses(self, region: Region) -> str:
        if region.output.dtype is DType.BOOL and region.attrs["reduction"] != "none":
            return "booleans are not reduced"
        return ""

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        place = _Kernel(region, machine).step()
        if region.attrs.get("in_place"):  # the result lies where the data is
            return Implementation((place,))
        d = region.output.dtype
        copy = Region("pointwise", {}, region.inputs[:1], 1, region.output, region.output, identity(0, d),
                      dims=region.dims)
        return Implementation((*Pointwise().implement(copy, {}, machine, threads).steps, place))


def placing(region: Region) -> tuple[Loops, tuple[Pick, ...]]:
    """The loops over the updates (those labelled True run in parallel), and the index's components."""
    i, u, out = region.inputs[_INDEX], region.inputs[_UPDATES], region.output
    if region.kind == "scatter_elements":
        axis = region.attrs["axis"]
        picks: tuple[Pick, ...] = (Pick(0, out.shape[axis], out.strides[axis]),)
        to: tuple[Dim, ...] = (*out.strides[:axis], 0, *out.strides[axis + 1:])
        index, parallel = i.strides, [d != axis for d in range(len(out.shape))]
    else:
        depth, lead = i.shape[-1], len(i.shape) - 1
        assert isinstance(depth, int)
        picks = tuple(Pick(c * i.strides[-1], out.shape[c], out.strides[c]) for c in range(depth))
        rest = out.strides[depth:]
        to, index = (0,) * lead + rest, i.strides[:-1] + (0,) * len(rest)
        parallel = [False] * lead + [True] * len(rest)
    return loops_over(u.shape, {_UPDATES: u.strides, _INDEX: index, OUT: to}, parallel), picks


class _Kernel:
    def __init__(self, region: Region, isa: Isa) -> None:
        self.region = region
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        nest, self.picks = placing(region)
        self.parallel, self.serial = nest.pick(nest.where(True)), nest.pick(nest.where(False))
        self.dtype, self.index_type = region.output.dtype, region.inputs[_INDEX].dtype
        self.size = {OUT: self.dtype.size, _UPDATES: self.dtype.size, _INDEX: self.index_type.size}
        self.reduction = region.attrs["reduction"]
        inner = {t: s[-1] if s else 0 for t, s in self.parallel.strides.items()}
        self.inner = {t: self.args.dim(s) for t, s in inner.items()}
        self.fixed = inner[_INDEX] == 0  # one place for all columns of a row
        unit = all(isinstance(inner[t], int) and inner[t] == 1 for t in (OUT, _UPDATES))
        wide = 4 if compute_type(self.dtype) == "float" else self.dtype.size
        self.lanes = isa.width // wide if self.fixed and unit else 1

    def step(self) -> Step:
        k, args = self.k, self.args
        base = {OUT: args.pointer(Out()), _INDEX: args.pointer(In(_INDEX)), _UPDATES: args.pointer(In(_UPDATES))}
        updates = max(1, optimum(self.region, product(self.serial.extents)))
        tiles = Tiles(k, args, self.region, self.parallel.extents, updates * self.dtype.size)
        for index, c0, c1 in tiles.rows_of(unless_zero=[p.size for p in self.picks]):
            at = {t: advance(k, args, p, self.parallel.strides[t][:-1], index, self.size[t]) for t, p in base.items()}
            for here in self._serial(at, 0):
                self._row(here, c0, c1)
        return Step(finish(k, self.region.kind), args.table, tiles.count)

    def _serial(self, at: dict[int, Val], depth: int) -> Iterator[dict[int, Val]]:
        """The loops over updates that may meet, in order."""
        if depth == len(self.serial.extents):
            yield at
            return
        for i in self.k.range(0, self.args.dim(self.serial.extents[depth])):
            yield from self._serial({t: p + i * self.args.dim(self.serial.strides[t][depth]) * self.size[t]
                                     for t, p in at.items()}, depth + 1)

    def _place(self, p: Val) -> IntLike:
        """Bytes from the result's address to where the index at p points."""
        at: IntLike = 0
        for pick in self.picks:
            offset, n, stride = (self.args.dim(d) for d in (pick.offset, pick.size, pick.stride))
            at = load_index(self.k, self.index_type, p + offset * self.index_type.size, n) * (
                stride * self.dtype.size) + at
        return at

    def _row(self, at: dict[int, Val], c0: IntLike, c1: IntLike) -> None:
        k, size, lanes = self.k, self.dtype.size, self.lanes
        if self.fixed:
            at = {**at, OUT: at[OUT] + self._place(at[_INDEX])}
        if self.lanes > 1 and self.reduction == "none":
            copy_row(k, at[OUT] + c0 * size, at[_UPDATES] + c0 * size, c1 - c0, size)
            return

        def column(c: IntLike, mask: Val | None) -> None:
            p = {t: q + c * self.inner[t] * self.size[t] for t, q in at.items()}
            self._combine(p[OUT] if self.fixed else p[OUT] + self._place(p[_INDEX]), p[_UPDATES], mask)

        whole = c0 + (c1 - c0) // lanes * lanes
        for c in k.range(c0, whole, lanes):
            column(c, None)
        for c in k.range(whole, c1, lanes) if lanes > 1 else ():
            column(c, k.tail_mask(c1 - c, lanes))

    def _combine(self, dst: Val, src: Val, mask: Val | None) -> None:
        k, d = self.k, self.dtype
        if self.reduction == "none":
            copy_element(k, dst, src, d.size)
            return
        a, b = load_value(k, d, dst, self.lanes, mask), load_value(k, d, src, self.lanes, mask)
        if self.reduction == "add":
            v = a + b
        elif self.reduction == "mul":
            v = k.op("fmul" if a.is_float else "mul", a, b)
        else:
            v = extreme(k, self.reduction, a, b, d)
        store_value(k, v, d, dst, mask)
