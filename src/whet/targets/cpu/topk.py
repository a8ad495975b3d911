"""The k greatest or least elements along an axis, in order; of equal ones the first.

Elements are compared by integer keys, of which greater is better. A short list is kept in order while vectors of
keys are held against its last; long ones come from a radix sort of the whole row (least significant digit first,
which is stable).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, product, upper
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import compute_type, load_value
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import OUT, advance, loops_over, optimum
from whet.targets.cpu.moving import Movement, Tiles, copy_element

_INDICES = -2  # the key of the second output among tensors
_LONGEST_LIST = 1024
_LONGEST_ROW = 1 << 22  # elements whose sort fits each thread's scratch
_LONG_INDEX = 1 << 31


class TopK(Movement):
    """method: `list` (for few of many) or `radix`."""

    name = "topk"

    def refuses(self, region: Region) -> str:
        if not list(self._methods(region)):
            return f"rows of up to {_size(region, upper_of=True)} elements are too long"
        return ""

    def _methods(self, region: Region) -> Iterable[str]:
        n, k = _size(region, upper_of=True), _bound(region, region.output.shape[region.attrs["axis"]])
        if k <= _LONGEST_LIST and n < _LONG_INDEX:
            yield "list"
        if n <= _LONGEST_ROW:
            yield "radix"

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        found: list[Params] = [{"method": m} for m in self._methods(region)]
        return sorted(found, key=lambda p: self.cost(region, p, machine, threads))

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        axis = region.attrs["axis"]
        n, k = max(_size(region), 1), max(optimum(region, region.output.shape[axis]), 1)
        rows = optimum(region, product(region.output.shape)) / k
        if params["method"] == "list":
            kept = k * (1 + math.log(max(n / k, 1)))  # elements that enter the list, if their order is random
            each = n * 16e-9 / machine.lanes + kept * (10e-9 + k * 0.5e-9)
        else:
            each = n * 1.5e-9 * (1 + len(_Keys.of(region).digits)) + 500e-9
        return rows * each / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(region, machine, params["method"]).step(),))


def _bound(region: Region, d: Dim) -> int:
    return upper(d, {n: (r[0], r[2]) for n, r in region.dims.items()})


def _size(region: Region, upper_of: bool = False) -> int:
    d = region.inputs[0].shape[region.attrs["axis"]]
    return _bound(region, d) if upper_of else optimum(region, d)


@dataclass(frozen=True)
class _Keys:
    """How elements of a type become keys: integers of `bits` (signed), of which only some bytes differ."""

    dtype: DType
    largest: bool
    bits: int
    digits: tuple[int, ...]  # bytes that differ, from the least significant

    @staticmethod
    def of(region: Region) -> _Keys:
        d = region.output.dtype
        bits = 64 if d.size == 8 else 32
        used = {DType.F16: 3}.get(d, d.size)  # float16 becomes float32, of which the lowest 13 bits are 0
        return _Keys(d, bool(region.attrs["largest"]), bits, tuple(range(bits // 8 - used, bits // 8)))

    @property
    def type(self) -> str:
        return f"i{self.bits}"

    def emit(self, k: Fn, v: Val) -> Val:
        """The keys of elements (in their compute type). NaN is above all numbers."""
        d, bits = self.dtype, self.bits
        top = (1 << (bits - 1)) - 1
        if d.is_float:
            raw = k.bitcast(v + 0.0, vec(self.type, v.lanes))  # -0 becomes 0
            key = raw ^ ((raw >> (bits - 1)) & top)
            key = k.select(vmath.is_nan(k, v), top, key)
        else:
            key = v if 8 * d.size == bits else k.cast("zext", v, self.type) << (bits - 8 * d.size)
            key = key if d.is_signed else key ^ (-top - 1)
        return key if self.largest else key ^ -1


class _Kernel:
    def __init__(self, region: Region, isa: Isa, method: str) -> None:
        self.region, self.isa, self.method = region, isa, method
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.axis = region.attrs["axis"]
        x, out, indices = region.inputs[0], region.output, region.extra_outputs[0]
        self.tensors = {0: x, OUT: out, _INDICES: indices}
        self.dtype, self.keys = out.dtype, _Keys.of(region)
        self.n, self.count = self.args.dim(x.shape[self.axis]), self.args.dim(out.shape[self.axis])
        self.steps = {t: self.args.dim(v.strides[self.axis]) * v.dtype.size for t, v in self.tensors.items()}
        self.key_bytes = self.keys.bits // 8
        row = self.steps[0]
        neighbours = isinstance(row, int) and row == self.dtype.size
        widest = 4 if compute_type(self.dtype) == "float" else self.key_bytes
        self.lanes = isa.width // max(widest, self.key_bytes) if neighbours else 1

    def step(self) -> Step:
        k, args, region = self.k, self.args, self.region
        rest = [d for d in range(len(region.output.shape)) if d != self.axis]
        nest = loops_over(tuple(region.output.shape[d] for d in rest),
                          {t: tuple(v.strides[d] for d in rest) for t, v in self.tensors.items()})
        base = {0: args.pointer(In(0)), OUT: args.pointer(Out(0)), _INDICES: args.pointer(Out(1))}
        extents = (*nest.extents, 1)  # every row is one line of the tiles
        tiles = Tiles(k, args, region, extents, max(1, _size(region)) * self.dtype.size * 4)
        for index, _, _ in tiles.rows_of(unless_zero=[region.output.shape[self.axis]]):
            at = {t: advance(k, args, p, nest.strides[t], index, self.tensors[t].dtype.size) for t, p in base.items()}
            (self._list if self.method == "list" else self._radix)(at)
        scratch = self._list_bytes() if self.method == "list" else self._radix_bytes()
        return Step(finish(k, "topk", scratch), args.table, tiles.count)

    def _key(self, at: dict[int, Val], i: IntLike, lanes: int = 1, mask: Val | None = None) -> Val:
        return self.keys.emit(self.k, load_value(self.k, self.dtype, at[0] + i * self.steps[0], lanes, mask))

    def _emit(self, at: dict[int, Val], place: IntLike, i: Val) -> None:
        """Element i of the row is the result's number `place`."""
        self.k.store(i, at[_INDICES] + place * self.steps[_INDICES])
        copy_element(self.k, at[OUT] + place * self.steps[OUT], at[0] + i * self.steps[0], self.dtype.size)

    # -- a list kept in order -----------------------------------------------------------------------

    def _list_bytes(self) -> int:
        return _bound(self.region, self.region.output.shape[self.axis]) * (self.key_bytes + 4) + 64

    def _list(self, at: dict[int, Val]) -> None:
        k = self.k
        keys, places = k.scratch, k.scratch + self.count * self.key_bytes
        last = keys + (self.count - 1) * self.key_bytes
        for i in k.range(0, self.count):
            self._insert(keys, places, self._key(at, i), k.i64(i), i)

        def rest(i: IntLike) -> None:
            key = self._key(at, i)
            with k.if_(key > k.load(self.keys.type, last)):
                self._insert(keys, places, key, k.i64(i), self.count - 1)

        whole = self.count + (self.n - self.count) // self.lanes * self.lanes
        for c in k.range(self.count, whole, self.lanes) if self.lanes > 1 else ():
            better = self._key(at, c, self.lanes) > k.splat(k.load(self.keys.type, last), self.lanes)
            with k.if_(k.call(f"llvm.vector.reduce.or.v{self.lanes}i1", "i1", [better])):
                for i in k.range(c, c + self.lanes):
                    rest(i)
        for i in k.range(whole if self.lanes > 1 else self.count, self.n):
            rest(i)
        for j in k.range(0, self.count):
            self._emit(at, j, k.cast("sext", k.load("i32", places + j * 4), "i64"))

    def _insert(self, keys: Val, places: Val, key: Val, i: Val, count: IntLike) -> None:
        """Puts a key into the list of `count` keys behind those that are not worse."""
        k, lanes, size = self.k, self.isa.width // self.key_bytes, self.key_bytes
        ahead = k.var("i64", 0)
        wide = k.splat(key, lanes)
        for c in k.range(0, count, lanes):
            mask = k.tail_mask(count - c, lanes)
            better = (k.load(self.keys.type, keys + c * size, lanes, mask) >= wide) & mask
            ahead.set(ahead.get() + k.reduce_add(k.cast("zext", better, "i64")))
        place = ahead.get()
        for t in k.range(0, count - place):
            j = count - 1 - t
            k.store(k.load(self.keys.type, keys + j * size), keys + (j + 1) * size)
            k.store(k.load("i32", places + j * 4), places + (j + 1) * 4)
        k.store(key, keys + place * size)
        k.store(k.cast("trunc", i, "i32"), places + place * 4)

    # -- a radix sort ---------------------------------------------------------------------------------

    def _radix_bytes(self) -> int:
        n = _size(self.region, upper_of=True)
        return len(self.keys.digits) * 1024 + 2 * n * (self.key_bytes + 4) + 64

    def _radix(self, at: dict[int, Val]) -> None:
        k, n, size, digits = self.k, self.n, self.key_bytes, self.keys.digits
        counts = k.scratch
        # Pairs of rows in turn: keys, inverted so that the best sort first, and their places.
        pair = n * (size + 4)
        rows = [counts + len(digits) * 1024, counts + len(digits) * 1024 + pair]
        flip = -1 ^ (-1 << (self.keys.bits - 1))
        lanes = self.isa.width // 4
        zero = k.const(vec("i32", lanes), 0)
        for c in k.range(0, len(digits) * 1024, 4 * lanes):
            k.store(zero, counts + c)

        def slot(key: Val, which: int) -> Val:
            """Where the count of a key's digit lies."""
            shifted = k.op("lshr", key, k.const(key.ty, 8 * digits[which])) & 255
            wide = shifted if self.keys.bits == 64 else k.cast("zext", shifted, "i64")
            return counts + (wide << 2) + which * 1024

        for i in k.range(0, n):
            key = self._key(at, i) ^ flip
            k.store(key, rows[0] + i * size)
            for which in range(len(digits)):
                p = slot(key, which)
                k.store(k.load("i32", p) + 1, p)
        for which in range(len(digits)):
            total = k.var("i32", 0)
            for c in k.range(0, 256):
                p = counts + (which * 1024 + c * 4)
                here = k.load("i32", p)
                k.store(total.get(), p)
                total.set(total.get() + here)
        for which in range(len(digits)):
            src, dst = rows[which % 2], rows[1 - which % 2]
            for i in k.range(0, n):
                key = k.load(self.keys.type, src + i * size)
                place = k.cast("trunc", k.i64(i), "i32") if which == 0 else k.load("i32", src + n * size + i * 4)
                p = slot(key, which)
                to = k.load("i32", p)
                k.store(to + 1, p)
                where = k.cast("zext", to, "i64")
                if which < len(digits) - 1:
                    k.store(key, dst + where * size)
                    k.store(place, dst + n * size + where * 4)
                    continue
                with k.if_(where < self.count):
                    self._emit(at, where, k.cast("sext", place, "i64"))
