"""Products of tiles whose results are written while the next products run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.base import Params
from whet.targets.cpu.amx_write import BlockWriter
from whet.targets.cpu.args import Args
from whet.targets.cpu.gemm_problem import Problem
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Amx
from whet.targets.cpu.packing import to_bf16

BLOCK = Amx.BLOCK
TILE = 1024       # bytes of a tile
ROW = 64          # bytes of a row of a tile
SUMS = 4 * TILE   # bytes of the sums of a block


@dataclass(frozen=True)
class Run:
    """Tiles of A that follow each other along K: `count` of them, 64 bytes apart, from `offset` bytes on."""

    offset: int
    count: int


@dataclass(frozen=True)
class Depth:
    """How the depth of a product is cut into tiles, and which row of B each element of their rows meets.

    index: for every element of every tile's rows, in order, the row of B, or -1 for none (its weights are 0).
    row_bytes: bytes of a row of A that count (fewer than 64 only where there is one tile).
    """

    runs: tuple[Run, ...]
    index: np.ndarray
    row_bytes: int = ROW

    @property
    def tiles(self) -> int:
        return sum(r.count for r in self.runs)

    def rounds(self, most: int) -> list[Round]:
        """The tiles in rounds of at most `most` (0: all at once)."""
        found: list[Round] = []
        at, room, runs = 0, most or self.tiles, []
        for r in self.runs:
            done = 0
            while done < r.count:
                n = min(room, r.count - done)
                runs.append(Run(r.offset + done * ROW, n))
                done, room = done + n, room - n
                if room == 0 or (r is self.runs[-1] and done == r.count):
                    found.append(Round(at, tuple(runs)))
                    at, room, runs = at + found[-1].tiles, most or self.tiles, []
        return found


@dataclass(frozen=True)
class Round:
    """Tiles of K that are multiplied in one go: the first one's number, and where they lie."""

    first: int
    runs: tuple[Run, ...]

    @property
    def tiles(self) -> int:
        return sum(r.count for r in self.runs)


def span(offset: int, first: int, length: int, size: int) -> tuple[list[Run], list[int]]:
    """Runs and index of `length` neighbouring elements of `size` bytes that meet rows first.. of B.

    What is left after whole tiles gets a tile that ends with the last element and reaches back over others, so
    that nothing behind is read; it needs at least a tile's length.
    """
    per = ROW // size
    whole, rest = divmod(length, per)
    runs = [Run(offset, whole)] if whole else []
    index = list(range(first, first + whole * per))
    if rest:
        runs.append(Run(offset + (length - per) * size, 1))
        index += [-1] * (per - rest) + list(range(first + whole * per, first + length))
    return runs, index


def tiles_reason(region: Region, machine: Isa, together: Dim) -> str:
    """Why the products of a region are not for tiles that are loaded from memory; "" if they are.

    together: elements of K that lie together. Past their end a tile holds what happens to be there, times weights of
    0: nothing to integers, but infinite and undefined numbers would show.
    """
    a, b = region.inputs[:2]
    if a.dtype in (DType.U8, DType.I8) and b.dtype is DType.I8 and region.anchor.dtype is DType.I32:
        return "" if machine.amx_int8 else "no AMX for integers"
    if region.compute != "bf16":
        return f"products of {a.dtype.value} are to be taken in f32"
    if a.dtype is not DType.BF16:
        return f"the first operand is {a.dtype.value} in memory"
    if not (b.dtype.is_float and region.anchor.dtype.is_float):
        return f"bf16 by {b.dtype.value} is no product in f32"
    if not isinstance(together, int) or together % (ROW // 2):
        return f"{together} is no multiple of {ROW // 2} elements of bf16"
    return "" if machine.amx_bf16 else "no AMX"


def near(found: list[tuple[float, float, Params]]) -> list[Params]:
    """Of settings with (cost, bytes that all threads read), the cheapest that do not read much more than they must.

    In a network a thread's rows were often written by itself, in the layer before: measured alone, a layer that
    reads what other cores wrote looks better than it is.
    """
    least = min(f[1] for f in found)
    return [params for _, read, params in sorted(found, key=lambda f: f[0]) if read <= 1.5 * least][:16]


def pack_depth(b: np.ndarray, depth: Depth, size: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N / 32), tiles, 2, 16, 16, 4 / size]: VNNI tiles, both of a block's side by side.

    size: bytes of an element: 1 for codes, 2 for bf16, which b is rounded to.
    """
    b = to_bf16(b) if size == 2 else b
    *batch, _, n = b.shape
    per, group = ROW // size, 4 // size
    padded = np.zeros((*batch, b.shape[-2] + 1, -(-n // BLOCK) * BLOCK), b.dtype)
    padded[..., :-1, :n] = b
    rows = padded[..., depth.index, :].reshape(*batch, depth.tiles, per // group, group, -1, 2, 16)
    axes = tuple(range(len(batch)))
    o = len(batch)
    return np.ascontiguousarray(rows.transpose(*axes, o + 3, o, o + 4, o + 1, o + 5, o + 2))


class Pipeline:
    """Blocks of 32 x 32 sums: each is written through the epilogue while the products of the next one run."""

    def __init__(self, k: Fn, args: Args, region: Region, problem: Problem, depth: Depth,
                 source: Callable[[IntLike], IntLike] | None = None) -> None:
        """source: the row of sums that a row of the held block has (default: the same, and blocks have an even
        number of pairs of rows)."""
        self.k, self.depth, self.source = k, depth, source
        self.amx = Amx(k, _product(region), depth.row_bytes)
        self.writer = BlockWriter(k, args, region, problem)

    def block(self, a: Val, stride: IntLike, tall: Val | bool, b: Val, part: Round, sums: Val | None = None,
              fetch: tuple[Val, int] | None = None) -> None:
        """Multiply 32 rows at `a` (16 if not `tall`), `stride` bytes apart, by the panel at b, and write what is held.

        Afterwards the caller says by `writer.hold` which block it was. part: the tiles of K to take; sums: where the
        block's sums of earlier rounds lie (None: this is the first). fetch: (address, lines per tile of K) of what is
        to be brought into the second-level cache meanwhile.
        """
        k = self.k
        pairs = self.writer.start()
        share = 2 * -(-(BLOCK // 4) // part.tiles)  # pairs of rows to write per tile of K
        at: IntLike = 0
        for r, run in enumerate(part.runs):
            if r == 0:
                self._first(a + run.offset, stride, tall, b + part.first * (2 * TILE), sums, share, pairs)
                self._fetch(part.first, fetch)
            for c in k.range(1 if r == 0 else 0, run.count):
                now = at + c
                self._products(a + (run.offset + c * ROW), stride, tall, b + (part.first + now) * (2 * TILE))
                self._fetch(part.first + now, fetch)
                self._write(now * share, k.min((now + 1) * share, pairs))
            at += run.count

    def drain(self) -> None:
        """Write the block that is held."""
        pairs = self.writer.start()
        for t in range(4):
            self._keep(t)
        self._write(0, pairs)

    def _keep(self, tile: int) -> None:
        """Put sums of the block that is held into memory."""
        self.amx.store(tile, self.writer.sums + _place(tile), 4 * BLOCK)

    def _begin(self, tile: int, sums: Val | None) -> None:
        """Sums of the block that is computed: none yet, or what earlier rounds left."""
        if sums is None:
            self.amx.zero([tile])
        else:
            self.amx.load(tile, sums + _place(tile), 4 * BLOCK)

    def _write(self, first: IntLike, last: IntLike) -> None:
        together = 1 if self.source else 2
        for i in self.k.range(first, last, together):
            for u in range(together):
                self.writer.pair(i + u, self.source)

    def _fetch(self, at: IntLike, fetch: tuple[Val, int] | None) -> None:
        """What is brought in along with tile `at` of K."""
        if fetch is not None:
            for line in range(fetch[1]):
                self.k.prefetch(fetch[0] + (at * fetch[1] + line) * 64, 2)

    def _first(self, a: Val, stride: IntLike, tall: Val | bool, b: Val, sums: Val | None, share: int,
               pairs: Val) -> None:
        """The first products: sums make way just before, so that products never wait for stores; and `share` pairs
        of rows of them are written, between the products where those are few."""
        k, amx = self.k, self.amx
        part = share // 4 if share >= 8 else 0
        amx.load(4, a, stride)
        self._keep(0)
        self._keep(1)
        for j in range(2):
            amx.load(6 + j, b + j * TILE, ROW)
            self._begin(j, sums)
            amx.product(j, 4, 6 + j)
            if part:
                self._write(j * part, k.min((j + 1) * part, pairs))
        self._keep(2)
        self._keep(3)
        with k.if_(tall):
            amx.load(5, a + stride * 16, stride)
            self._begin(2, sums)
            self._begin(3, sums)
            amx.product(2, 5, 6)
        if part:
            self._write(2 * part, k.min(3 * part, pairs))
        with k.if_(tall):
            amx.product(3, 5, 7)
        self._write(3 * part if part else 0, k.min(share, pairs))

    def _products(self, a: Val, stride: IntLike, tall: Val | bool, b: Val) -> None:
        amx = self.amx
        amx.load(4, a, stride)
        for j in range(2):
            amx.load(6 + j, b + j * TILE, ROW)
            amx.product(j, 4, 6 + j)
        with self.k.if_(tall):
            amx.load(5, a + stride * 16, stride)
            for j in range(2):
                amx.product(2 + j, 5, 6 + j)


def _place(tile: int) -> int:
    """Where a tile's sums begin in a block's [32][32]."""
    return tile // 2 * 16 * 4 * BLOCK + tile % 2 * 64


def _product(region: Region) -> str:
    """The tile product of a region's operands."""
    if region.anchor.dtype is not DType.I32:
        return "tdpbf16ps"
    return "tdpbusd" if region.inputs[0].dtype is DType.U8 else "tdpbssd"
