"""What the movement kernels share: a base of their tactics, copies of rows, tiles over loop nests, indices.

Movement never looks at values: elements travel as integers of their size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, Params
from whet.targets.cpu.args import Args
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import optimum, unravel

TILE = 1 << 16  # bytes that are worth handing to a thread
RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}  # by size: types that elements travel as
_UNROLL = 4
_FEW = 256  # columns that are not cut, whatever the profile's optimum


class Movement(ABC):
    """A tactic without parameters for regions that are an anchor alone, into rows that are contiguous."""

    name: str
    converts = False  # True if the result's type is another than the operand's

    def applies(self, region: Region, machine: Isa) -> str:
        """"" if the region is of a form that this kernel takes, else the reason why not."""
        outputs = (region.output, *region.extra_outputs)
        if region.epilogue is not None or region.prologue:
            return f"{region.kind} takes no expressions"
        same = (region.output,) if self.converts else (region.output, *region.inputs[:1])
        if any(t.dtype is not region.anchor.dtype for t in same):
            return f"{region.kind} does not convert"
        if any(t.dtype.is_host for t in (*outputs, *region.inputs)):
            return "strings are not for kernels"
        if any(not rows_contiguous(t) for t in outputs):
            return "the output's last dimension is not contiguous"
        return self.refuses(region)

    def refuses(self, region: Region) -> str:
        """What else is asked of a region: "" or the reason why it is not taken."""
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        tensors = (region.output, *region.extra_outputs, region.output)
        return sum(optimum(region, product(t.shape)) * t.dtype.size for t in tensors) / 8e9 / threads

    @abstractmethod
    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        """The code."""


def rows_contiguous(t: Tensor) -> bool:
    """True if elements of the last dimension are neighbours in memory."""
    return not t.shape or t.shape[-1] == 1 or t.strides[-1] == 1


def raw(size: int) -> str:
    """LLVM's integer type of `size` bytes."""
    return f"i{8 * size}"


def copy_element(k: Fn, dst: Val, src: Val, size: int) -> None:
    """One element of `size` bytes."""
    k.store(k.load(raw(size), src), dst)


def copy_row(k: Fn, dst: Val, src: Val, count: IntLike, size: int) -> None:
    """`count` neighbouring elements of `size` bytes, in wide vectors. The rows must not overlap each other."""

    def move(at: Sequence[IntLike], width: int) -> None:
        vs = [k.load("i8", src + a, width) for a in at]
        for a, v in zip(at, vs):
            k.store(v, dst + a)

    _by_vectors(k, count * size, size, move)


def fill_row(k: Fn, dst: Val, bits: int, count: IntLike, size: int) -> None:
    """`count` neighbouring elements of `size` bytes become `bits`."""

    def move(at: Sequence[IntLike], width: int) -> None:
        for a in at:
            k.store(k.const(vec(raw(size), width // size), bits), dst + a)

    _by_vectors(k, count * size, size, move)


def _by_vectors(k: Fn, n: IntLike, least: int, move: Callable[[Sequence[IntLike], int], None]) -> None:
    """Covers n bytes (a multiple of `least`) by calls of move(offsets, width of each). The last vector overlaps the
    one before it, so that no instruction set needs masks."""
    widest = k.isa.width

    def long() -> None:
        step = _UNROLL * widest
        whole, full = n // step * step, n // widest * widest
        for at in k.range(0, whole, step):
            move([at + i * widest for i in range(_UNROLL)], widest)
        if isinstance(n, int):
            move([*range(whole, full, widest)] + ([n - widest] if full < n else []), widest)
            return
        for at in k.range(whole, full, widest):
            move([at], widest)
        move([n - widest], widest)

    def short(width: int) -> None:
        """Fewer than 2 * width bytes."""
        if width < least:
            return
        if isinstance(n, int):
            move([0] if n == width else [0, n - width], width) if n >= width else short(width // 2)
            return
        fits, less = k.branch(n >= width)
        with fits:
            move([0, n - width], width)
        with less:
            short(width // 2)

    if isinstance(n, int):
        long() if n >= widest else short(widest // 2)
        return
    fits, less = k.branch(n >= widest)
    with fits:
        long()
    with less:
        short(widest // 2)


class Tiles:
    """The tiles of a loop nest: its innermost loop is cut into blocks of columns, the others are numbered as rows,
    of which a tile has several where they are short."""

    def __init__(self, k: Fn, args: Args, region: Region, extents: Sequence[Dim], element: int,
                 tile: int = TILE) -> None:
        """element: bytes (or like work) per column; tile: bytes per tile."""
        self.k, self.args = k, args
        self.outer, self.n = tuple(extents[:-1]), extents[-1] if extents else 1
        columns = optimum(region, self.n)
        budget = max(tile // element, 1)
        self.cols = min(budget, max(columns, 1 if isinstance(self.n, int) else _FEW))
        self.whole = isinstance(self.n, int) and self.n <= self.cols
        blocks = -(-columns // self.cols)
        self.lines = product(self.outer)
        self.rows = 1 if blocks > 1 else max(1, budget // max(columns, 1))

    @property
    def count(self) -> Dim:
        """How many tiles there are."""
        return ceildiv(self.lines, self.rows) * self._blocks

    @property
    def _blocks(self) -> Dim:
        return 1 if self.whole else ceildiv(self.n, self.cols)

    def rows_of(self, unless_zero: Sequence[Dim] = ()) -> Iterator[tuple[list[IntLike], IntLike, IntLike]]:
        """The loops over the kernel's tiles: (indices of the outer loops, first column, column after the last).
        Nothing is done where one of the dimensions `unless_zero` is 0."""
        k, args = self.k, self.args
        blocks, lines, n = args.dim(self._blocks), args.dim(self.lines), args.dim(self.n)
        end: IntLike = k.end
        for d in unless_zero:
            v = args.dim(d)
            end = k.select(v > 0, end, k.begin) if isinstance(v, Val) else end if v else k.begin
        for tile in k.range(k.begin, end):
            first = tile // blocks * self.rows
            c0 = tile % blocks * self.cols
            c1 = k.min(c0 + self.cols, n) if not self.whole else n
            last = k.min(first + self.rows, lines) if self.rows > 1 else first + 1
            if isinstance(lines, int) and lines == 1:
                first, last = 0, 1
            for line in k.range(first, last):
                yield unravel(k, line, [args.dim(e) for e in self.outer]), c0, c1


def element_bits(value: Any, dtype: DType) -> int:
    """A number as it lies in memory, read as an unsigned integer."""
    return int.from_bytes(np.asarray(value).astype(dtype.np).tobytes(), "little")


def load_index(k: Fn, dtype: DType, p: Val, n: IntLike, lanes: int = 1) -> Val:
    """The index at p into a dimension of n elements: negative ones count from the end, those outside are clamped.
    With `lanes`, so many neighbouring ones."""
    v = k.load(dtype.llvm, p, lanes)
    i = v if dtype is DType.I64 else k.cast("sext", v, "i64")
    size = k.coerce(n, i.ty)
    i = k.select(i < 0, i + size, i)
    i = k.select(i < size, i, size - 1)
    return k.select(i < 0, 0, i)
