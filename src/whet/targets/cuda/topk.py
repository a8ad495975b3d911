"""The k greatest or least elements along an axis, in order; of equal ones the first.

Elements are compared by integer keys, of which the least is best. Where a key and an element's number fit 64 bits
together (`sort`), blocks of a row are sorted by a bitonic network; where a row has several, an element's place among
all is its place in its own block and, by binary search, how many of each other block are better. Otherwise (`count`,
64-bit types) it is how many are better, counted one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, minimum, product
from whet.targets.base import Implementation, In, Out, Params, Step, Work
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import LAUNCH, Movement, moved, pointer
from whet.targets.cuda.shapes import greatest, optimum, power_of_two
from whet.targets.cuda.tiles import OUT, is_wide, merged, number, sum_of, unravel

_INDICES = -2  # the key of the second output among tensors
_BLOCK = 1024  # elements that are sorted at a time
_LONG_INDEX = 1 << 31
_NONE = (1 << 63) - 1  # the key of what is no element
_ROWS, _OTHERS = 32, 64  # elements whose places a program counts, and those it compares them with at a time


class TopK(Movement):
    """method: `sort` or `count`; block: elements that `sort` sorts at a time."""

    name = "topk"

    def refuses(self, region: Region) -> str:
        n = greatest(region, region.inputs[0].shape[region.attrs["axis"]])
        return f"rows of up to {n} elements are too long" if n >= _LONG_INDEX else ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        if region.output.dtype.size == 8:
            return [{"method": "count"}]
        n = max(16, power_of_two(greatest(region, region.inputs[0].shape[region.attrs["axis"]])))
        found: list[Params] = [{"method": "sort", "block": b} for b in dict.fromkeys((min(n, _BLOCK), min(n, 2048)))]
        return [*found, {"method": "count"}] if n <= 4096 else found

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        n = optimum(region, region.inputs[0].shape[region.attrs["axis"]])
        total = optimum(region, product(region.inputs[0].shape))
        compares = n if params["method"] == "count" else 10 * (params["block"].bit_length() ** 2 + n / params["block"])
        return moved(region) / (machine.bandwidth or 1e12) + 2 * LAUNCH + total * compares / 5e12

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return _Kernels(region, params).implementation()


class _Kernels:
    def __init__(self, region: Region, params: Params) -> None:
        self.region, self.params = region, params
        x, out, indices = region.inputs[0], region.output, region.extra_outputs[0]
        self.axis = region.attrs["axis"]
        self.dtype = out.dtype
        self.tensors = {0: x, OUT: out, _INDICES: indices}
        rest = [d for d in range(len(out.shape)) if d != self.axis]
        self.nest = merged(tuple(out.shape[d] for d in rest),
                           {t: [v.strides[d] for d in rest] for t, v in self.tensors.items()})
        self.lines = product(self.nest.extents)
        self.n, self.k = x.shape[self.axis], out.shape[self.axis]
        block = params.get("block", 1)
        self.blocks: Dim = 1 if greatest(region, self.n) <= block else ceildiv(self.n, block)
        self.kept = minimum(self.k, block)  # elements of a block that may be among the best
        self.wide = is_wide(region, self.lines * self.n, self.lines * self.blocks * self.kept * 2)

    def implementation(self) -> Implementation:
        if self.params["method"] == "count":
            return Implementation((self._counted(),))
        if isinstance(self.blocks, int) and self.blocks == 1:
            return Implementation((self._sorted(),))
        size = self.lines * self.blocks * self.kept * 8
        return Implementation((self._sorted(), self._joined()), workspace=ceildiv(size, 64) * 64)

    # -- what the kernels share ---------------------------------------------------------------------

    def _number(self, s: Source, d: Dim) -> str:
        return number(s, self.region, d)

    def _lines(self, s: Source, line: str) -> dict[int, str]:
        """The names of the offsets of a line's first elements, by tensor."""
        coords = unravel(s, self.region, line, self.nest.extents)
        return {t: s.name_of(sum_of(f"{c} * {self._number(s, d)}" for c, d in zip(coords, d_, strict=True)), "at")
                for t, d_ in self.nest.strides.items()}

    def _step(self, s: Source, t: int) -> str:
        return self._number(s, self.tensors[t].strides[self.axis])

    def _key(self, s: Source, x: str) -> str:
        """The name of the keys (i64) of loaded elements: the least is best. NaN is above all numbers."""
        d = self.dtype
        if d.is_float:
            bits = 64 if d is DType.F64 else 32
            v = s.name_of(f"{x}.to(tl.float{bits})", "v")
            key = s.name_of(f"tl.where({v} == 0, 0.0, {v}).to(tl.float{bits}).to(tl.int{bits}, bitcast=True)", "key")
            top = (1 << (bits - 1)) - 1
            s.line(f"{key} = tl.where({v} != {v}, {top}, {key} ^ (({key} >> {bits - 1}) & {top})).to(tl.int64)")
        elif d is DType.U64:
            key = s.name_of(f"{x}.to(tl.int64, bitcast=True) ^ {-1 << 63}", "key")
        else:
            key = s.name_of(f"{x}.to(tl.int64)", "key")
            if d is DType.U32:
                s.line(f"{key} = {key} - {1 << 31}")
        return s.name_of(f"-1 - {key}", "key") if self.region.attrs["largest"] else key

    def _along(self, s: Source, i: str, t: int) -> str:
        """Text of how far element i of a line is from its first."""
        return f"({i}){'.to(tl.int64)' if self.wide else ''} * {self._step(s, t)}"

    def _load(self, s: Source, src: str, at: str, i: str, mask: str) -> str:
        x = s.name_of(f"tl.load({src} + {at} + {self._along(s, i, 0)}, mask={mask}, other=0)", "x")
        return self._key(s, x)

    def _emit(self, s: Source, at: dict[int, str], place: str, i: str, mask: str) -> None:
        """Element i of the line is the result's number `place`."""
        p = {t: pointer(s, arg, self.tensors[t]) for t, arg in ((0, In(0)), (OUT, Out(0)), (_INDICES, Out(1)))}
        v = s.name_of(f"tl.load({p[0]} + {at[0]} + {self._along(s, i, 0)}, mask={mask})", "v")
        s.line(f"tl.store({p[OUT]} + {at[OUT]} + {self._along(s, place, OUT)}, {v}, mask={mask})")
        s.line(f"tl.store({p[_INDICES]} + {at[_INDICES]} + {self._along(s, place, _INDICES)}, ({i}).to(tl.uint64), "
               f"mask={mask})")

    def _program(self, s: Source) -> str:
        return f"tl.program_id(0){'.to(tl.int64)' if self.wide else ''}"

    # -- blocks sorted, and joined ------------------------------------------------------------------

    def _sorted(self) -> Step:
        s, block = Source("topk"), self.params["block"]
        src = s.pointer(In(0), self.dtype, self.tensors[0].aligned)
        one = isinstance(self.blocks, int) and self.blocks == 1
        rows = max(1, min(2048 // block, power_of_two(optimum(self.region, self.lines * self.blocks))))
        blocks = self._number(s, self.blocks)
        count = self.lines * self.blocks
        s.line(f"row = {self._program(s)} * {rows} + tl.arange(0, {rows})[:, None]")
        s.line(f"mine = row < {self._number(s, count)}")
        s.line(f"line = {'row' if one else f'row // {blocks}'}")
        at = self._lines(s, "line")
        s.line(f"i = {'0 * row' if one else f'(row % {blocks}) * {block}'} + tl.arange(0, {block})[None, :]")
        s.line(f"there = mine & (i < {self._number(s, self.n)})")
        key = self._load(s, src, at[0], "i", "there")
        s.line(f"both = tl.where(there, {key} * {1 << 32} + i, {_NONE})")
        s.line("both = tl.sort(both, 1)")
        s.line(f"place = tl.arange(0, {block})[None, :] + 0 * row")
        if one:
            s.line("best = (both & 0xFFFFFFFF).to(tl.int32)")
            s.line(f"good = mine & (place < {self._number(s, self.k)})")
            self._emit(s, at, "place", "best", "good")
        else:
            work, kept = s.pointer(Work(), DType.I64), self._number(s, self.kept)
            s.line(f"tl.store({work} + row * {kept} + place, both, mask=mine & (place < {kept}))")
        return s.step(ceildiv(count, rows), warps=8 if block * rows > 1024 else 4)

    def _joined(self) -> Step:
        s, n = Source("topk_join"), 256
        work, kept, blocks = s.pointer(Work(), DType.I64), self._number(s, self.kept), self._number(s, self.blocks)
        each = self.blocks * self.kept
        s.line(f"e = {self._program(s)} * {n} + tl.arange(0, {n})[None, :]")
        s.line(f"mine = e < {self._number(s, self.lines * each)}")
        s.line(f"line = e // {self._number(s, each)}")
        s.line(f"own = (e % {self._number(s, each)}) // {kept}")
        s.line(f"own_place = e % {kept}")
        at = self._lines(s, "line")
        s.line(f"both = tl.load({work} + e, mask=mine, other={_NONE})")
        s.line(f"mine = mine & (both != {_NONE})")
        s.line("place = own_place")
        with s.block(f"for other in range(0, {blocks}):"):
            s.line(f"base = {work} + (line * {blocks} + other) * {kept}")
            s.line("better = 0 * own_place")
            step = power_of_two(self.params["block"])
            while step:  # the sum of steps reaches any number of better ones
                s.line(f"better_{step} = better + {step}")
                s.line(f"fits = mine & (better_{step} <= {kept})")
                s.line(f"fits = fits & (tl.load(base + better_{step} - 1, mask=fits, other={_NONE}) < both)")
                s.line(f"better = tl.where(fits, better_{step}, better)")
                step //= 2
            s.line("place = place + tl.where(own == other, 0, better)")
        s.line(f"good = mine & (place < {self._number(s, self.k)})")
        s.line("best = (both & 0xFFFFFFFF).to(tl.int32)")
        self._emit(s, at, "place", "best", "good")
        return s.step(ceildiv(self.lines * each, n))

    # -- places counted -----------------------------------------------------------------------------

    def _counted(self) -> Step:
        s = Source("topk_count")
        src = s.pointer(In(0), self.dtype, self.tensors[0].aligned)
        n, blocks = self._number(s, self.n), self._number(s, ceildiv(self.n, _ROWS))
        s.line(f"program = {self._program(s)}")
        s.line(f"line = program // {blocks}")
        at = self._lines(s, "line")
        s.line(f"i = (program % {blocks}).to(tl.int32) * {_ROWS} + tl.arange(0, {_ROWS})[:, None]")
        s.line(f"mine = i < {n}")
        key = self._load(s, src, at[0], "i", "mine")
        s.line(f"better = tl.zeros([{_ROWS}, {_OTHERS}], tl.int32)")
        with s.block(f"for first in range(0, {n}, {_OTHERS}):"):
            s.line(f"j = first + tl.arange(0, {_OTHERS})[None, :]")
            s.line(f"there = j < {n}")
            other = self._load(s, src, at[0], "j", "there")
            s.line(f"better += (there & (({other} < {key}) | (({other} == {key}) & (j < i)))).to(tl.int32)")
        s.line("place = tl.sum(better, 1)[:, None]")
        s.line(f"good = mine & (place < {self._number(s, self.k)})")
        self._emit(s, at, "place", "i", "good")
        return s.step(self.lines * ceildiv(self.n, _ROWS))
