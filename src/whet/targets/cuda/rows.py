"""What reductions, softmax and normalizations share: a region's tensors over rows and columns, and a program's tile.

Rows are the positions that are kept, columns those that are reduced or normalized over. A program holds a tile of
`r` rows by `c` columns (powers of two); which of them runs along neighbouring threads is Triton's choice, by how the
elements lie. Rows that fit into a tile are read once; longer ones are walked over chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from whet.ir.dtypes import DType
from whet.ir.expr import Expr, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, ceildiv, product, upper
from whet.targets.base import In, Out, Params, Work
from whet.targets.cuda.expr import cast, compute_type, constant, emit, emit_wide, finish
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block, axes_of, is_wide, load_tensor, merged, pointer_to, store_tensor, unravel
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.moving import place
from whet.targets.cuda.shapes import broadcast_strides, divides, is_long, optimum, power_of_two, ranges

LAUNCH = 1.5e-6  # seconds that a small kernel takes
RESIDENT = 1 << 14  # columns that a program holds in registers at most
PARTS = 2048  # that a row is divided into at most
MANY = 8  # rows of a multiprocessor, from which on it has enough to do with a warp for each
EARLY = 4096  # elements of a tile whose constants have room in registers beside it
Key = tuple[str, int]  # x: read by operand 0; i: indices of its rows; w: other operand; e: of the epilogue; o: output
OUT: Key = ("o", 0)


@dataclass(frozen=True)
class Rows:
    """A region's tensors over loops: extents of rows and columns, and each tensor's strides along them."""

    region: Region
    rows: tuple[Dim, ...]
    cols: tuple[Dim, ...]
    views: Mapping[Key, Tensor]

    @property
    def count(self) -> Dim:
        return product(self.rows)

    @property
    def length(self) -> Dim:
        return product(self.cols)

    @property
    def longest(self) -> int:
        """The greatest number of columns."""
        return upper(self.length, ranges(self.region))

    @property
    def across(self) -> bool:
        """Whether neighbouring elements of the operand are in different rows."""
        x = next((v for (role, _), v in self.views.items() if role == "x"), self.views[OUT])
        n = len(self.rows)
        least = min((s for s in x.strides[n:] if isinstance(s, int) and s), default=0, key=abs)
        return bool(n) and least != 1 and any(s == 1 for s in x.strides[:n])


def prologue_of(region: Region, operand: int = 0) -> Expr:
    """What makes an operand of the anchor: its prologue, or the input itself."""
    return region.prologue.get(operand) or identity(operand, region.inputs[operand].dtype)


def rows_of(region: Region, cols: Iterable[int], shape: Shape | None = None,
            split: Mapping[int, tuple[int, int]] | None = None) -> Rows:
    """The loops over the first operand; `cols` are the axes that are reduced or normalized over.

    Anchor operands but the first have shapes that broadcast to its. split: axes that count as two, by the extents of
    both; then `shape` is the operand's with them split, and `cols` are axes of that.
    """
    given = region.anchor.shape if region.picks else region.inputs[0].shape
    rank = len(given)
    cols = set(cols)
    strides: dict[Key, Shape] = {}
    tensors: dict[Key, Tensor] = {}

    def put(key: Key, t: Tensor, along: Shape) -> None:
        tensors[key] = t
        strides[key] = _split(along, split) if split else along

    for k in prologue_of(region).leaves:
        put(("x", k), region.seen(k), broadcast_strides(region.seen(k), rank))
        if k in region.picks:
            rows = region.inputs[region.picks[k]]
            along = replace(rows, shape=(*rows.shape, 1), strides=(*rows.strides, 0))
            put(("i", k), rows, broadcast_strides(along, rank))
    for i in range(1, region.n_anchor):
        t = region.inputs[i]
        put(("w", i), t, broadcast_strides(t, rank) if not split else _per_channel(region, t))
    for i, t in enumerate((region.output, *region.extra_outputs)):
        put(("o", i), t, _through(t, region.output.shape, rank, cols))
    for k in region.epilogue.leaves if region.epilogue is not None else ():
        put(("e", k), region.inputs[k], _through(region.inputs[k], region.output.shape, rank, cols))

    whole = shape or given
    keys = list(tensors)
    lead = strides[keys[0]]  # the order of loops is that of the first tensor's memory

    def loops(axes: Sequence[int]) -> tuple[list[Dim], list[list[Dim]]]:
        order = sorted(axes, key=lambda a: -abs(optimum(region, lead[a])))
        return merged(tuple(whole[a] for a in order), [tuple(strides[k][a] for a in order) for k in keys])

    row_extents, row_strides = loops([a for a in range(len(whole)) if a not in cols])
    col_extents, col_strides = loops([a for a in range(len(whole)) if a in cols])
    views = {k: Tensor(tensors[k].dtype, (*row_extents, *col_extents), (*r, *c))
             for k, r, c in zip(keys, row_strides, col_strides, strict=True)}
    return Rows(region, tuple(row_extents), tuple(col_extents), views)


def _through(t: Tensor, shape: Shape, rank: int, cols: set[int]) -> Shape:
    """Strides of what broadcasts to the result, along the operand's dimensions: 0 along those that are gone."""
    s = broadcast_strides(t, len(shape))
    if len(shape) == rank:
        return s
    kept = iter(s)
    return tuple(0 if i in cols else next(kept) for i in range(rank))


def _split(along: Shape, split: Mapping[int, tuple[int, int]]) -> Shape:
    out: list[Dim] = []
    for a, s in enumerate(along):
        out += [s * split[a][1], s] if a in split else [s]
    return tuple(out)


def _per_channel(region: Region, t: Tensor) -> Shape:
    """A vector's strides along the operand's dimensions, of which the channels' is its own."""
    rank = len(region.inputs[0].shape)
    axis = rank - 1 if region.attrs.get("channels_last") else 1
    return tuple(t.strides[0] if a == axis else 0 for a in range(rank))


class Tile:
    """A program's tile: the text that loads, computes and stores it.

    Tiles of several rows have two axes, and what is reduced is a column [rows, 1]. Those of one row have one axis and
    are reduced to scalars, which Triton holds for every layout alike.
    """

    def __init__(self, name: str, nest: Rows, machine: Gpu, r: int, c: int) -> None:
        self.s, self.nest, self.region = Source(name, machine.has_fp8), nest, nest.region
        self.r, self.c = r if nest.rows else 1, c if nest.cols else 1
        self.dtype: DType = DType.U8 if self.region.anchor.dtype is DType.BOOL else self.region.anchor.dtype
        self.flat = self.r == 1
        self._row_coords: tuple[str, ...] = ()
        self._constants: dict[tuple[str, int], str] = {}  # loaded before the kernel waits, by role and input
        self._row_mask = ""

    @property
    def kind(self) -> str:
        """`tl.`'s name of what the anchor computes in."""
        return compute_type(self.dtype)

    @property
    def double(self) -> bool:
        return self.dtype is DType.F64

    @property
    def coarse(self) -> bool:
        """Whether results have 16 bits, so that the GPU's approximations do."""
        return self.region.output.dtype in (DType.F16, DType.BF16)

    def number(self, x: float | int) -> str:
        """A scalar in the compute type."""
        return constant(x, DType.F32 if self.kind == "float32" else self.dtype)

    @property
    def shape(self) -> str:
        return f"({self.c},)" if self.flat else f"({self.r}, {self.c})"

    def full(self, x: float | int) -> str:
        """A tile of a number."""
        return self.s.name_of(f"{self.number(x)} + tl.zeros({self.shape}, tl.{self.kind})", "acc")

    def lanes(self, n: int) -> str:
        """Text of 0..n-1 along the columns' axis."""
        return f"tl.arange(0, {n})" + ("" if self.flat else "[None, :]")

    def over(self, how: str, v: str, *more: str) -> str:
        """Text of `tl.sum`, `tl.max` or `tl.reduce` (with its function in `more`) over the columns."""
        axis = ", ".join(["0" if self.flat else "1", *more])
        return f"tl.{how}({v}, {axis}{'' if self.flat else ', keep_dims=True'})"

    def row(self, pid: str) -> tuple[str, str]:
        """The flat index of the rows of block `pid`, and text of which of them there are ("": all)."""
        wide = is_long(upper(self.nest.count, ranges(self.region)) + self.r)
        pid = f"{pid}.to(tl.int64)" if wide else pid
        if self.flat:
            return self.s.name_of(pid, "row"), ""
        row = self.s.name_of(f"({pid} * {self.r} + tl.arange(0, {self.r}))[:, None]", "row")
        return row, "" if divides(self.r, self.nest.count) else f"{row} < {self.s.integer(self.nest.count, wide=wide)}"

    def begin(self, pid: str) -> None:
        """Finds the rows of block `pid`."""
        if self.nest.rows:
            row, self._row_mask = self.row(pid)
            self._row_coords = tuple(unravel(self.s, row, self.nest.rows, "r"))

    def hold(self) -> Block:
        """The block of whole rows; constants are loaded before the kernel waits for others (`compile.early`)."""
        block = self.block()
        if self.r * self.c <= EARLY:
            reads = {i for pair in self.region.picks.items() for i in pair}
            for (role, i), view in self.nest.views.items():
                t = self.region.inputs[i]
                if t.const and i not in reads:
                    self._constants[role, i] = load_tensor(self.s, view, pointer_to(self.s, In(i), t), block,
                                                           is_wide(self.region, t))
        self.s.line("#: wait")
        return block

    def blocks(self) -> Dim:
        """Blocks of rows that there are."""
        return ceildiv(self.nest.count, self.r)

    def block(self, start: str = "", end: str = "") -> Block:
        """All rows, and the columns from `start` on ("": 0) that lie before `end` ("": the row's length)."""
        s, n = self.s, self.nest.length
        nr, nc = len(self.nest.rows), len(self.nest.cols)
        if not nc:
            return self.rows_block()
        col = s.name_of(f"{start}{' + ' if start else ''}{self.lanes(self.c)}", "col")
        known = not end and ((divides(self.c, n) and (start or n == self.c)) or (isinstance(n, int) and n == self.c))
        mask = "" if known else s.name_of(f"{col} < {end or s.integer(n)}", "inside")
        coords = tuple(unravel(s, col, self.nest.cols, "c"))
        if self.flat:
            return Block((*self._row_coords, *coords), ((),) * nr + ((0,),) * nc, (mask,))
        return Block((*self._row_coords, *coords), ((0,),) * nr + ((1,),) * nc, (self._row_mask, mask))

    def rows_block(self) -> Block:
        """All rows, at the first column: where a reduction's results are."""
        nr, nc = len(self.nest.rows), len(self.nest.cols)
        coords = (*self._row_coords, *("0",) * nc)
        if self.flat:
            return Block(coords, ((),) * len(coords))
        return Block(coords, ((0,),) * nr + ((),) * nc, (self._row_mask,))

    @contextmanager
    def chunks(self, first: str = "", end: str = "") -> Iterator[Block]:
        """A loop over the columns; the block of the chunk."""
        s = self.s
        with s.block(f"for start in range({first or 0}, {end or s.integer(self.nest.length)}, {self.c}):"):
            yield self.block("start", end)

    def value(self, block: Block, fill: float | int | None = None) -> str:
        """Operand 0 after its prologue, in the compute type, as a whole tile; `fill` in columns outside."""
        e = prologue_of(self.region)
        v = emit_wide(self.s, e, lambda t: self._load("x", t, block))
        v = self.s.name_of(f"tl.broadcast_to({self._cast(v, e.dtype)}, {self.shape})", "x")
        return v if fill is None else self.filled(v, block, fill)

    def inside(self, block: Block) -> str:
        """Text of which columns there are; "" for all."""
        return block.mask((0,) if self.flat else (1,))

    def filled(self, v: str, block: Block, fill: float | int) -> str:
        """The value, with `fill` in columns outside."""
        mask = self.inside(block)
        return self.s.name_of(f"tl.where({mask}, {v}, {self.number(fill)})", "x") if mask else v

    def operand(self, i: int, block: Block) -> str:
        """Another operand of the anchor at a block, in the compute type."""
        d = self.region.inputs[i].dtype
        if i in self.region.prologue:
            e = self.region.prologue[i]
            return self._cast(emit_wide(self.s, e, lambda t: self._load("w", t, block)), e.dtype)
        v = emit_wide(self.s, identity(i, d), lambda t: self._load("w", t, block))
        return self._cast(v, d)

    def _cast(self, v: str, have: DType) -> str:
        if have is DType.BOOL and self.dtype is DType.U8:
            return self.s.name_of(f"{v}.to(tl.uint8)")
        want = DType.F32 if self.kind == "float32" else self.dtype
        return cast(self.s, v, DType.F32 if compute_type(have) == "float32" else have, want)

    def _load(self, role: str, t: Leaf, block: Block) -> str:
        if (role, t.source) in self._constants:
            return self._constants[role, t.source]
        region_tensor = self.region.inputs[t.source]
        view = self.nest.views[role, t.source]
        p = pointer_to(self.s, In(t.source), region_tensor)
        if t.source in self.region.picks:
            p = f"{p} + {self._row_of(t.source, block)}"
        return load_tensor(self.s, view, p, block, is_wide(self.region, region_tensor))

    def _row_of(self, k: int, block: Block) -> str:
        """Text of where the picked row of a table begins."""
        j, table = self.region.picks[k], self.region.inputs[k]
        index = self.region.inputs[j]
        raw = load_tensor(self.s, self.nest.views["i", k], pointer_to(self.s, In(j), index), block,
                          is_wide(self.region, index))
        at = place(self.s, self.region, raw, table.shape[0], is_wide(self.region, table))
        return f"{at} * {self.s.integer(table.strides[0])}"

    def write(self, y: str, block: Block, reduced: bool = False) -> None:
        """Stores the anchor's result y (compute type) by way of the epilogue. reduced: y has one column."""
        s, region = self.s, self.region
        if region.anchor.dtype is DType.BOOL:
            y = s.name_of(f"({y} != 0)")
        e = region.epilogue
        if e is not None:
            y = emit(s, e, lambda t: (finish(s, y, DType.F32 if self.kind == "float32" else region.anchor.dtype)
                                      if t.source < 0 else self._load("e", t, block)))
        else:
            have = DType.F32 if self.kind == "float32" else region.anchor.dtype
            y = finish(s, cast(s, y, have, region.output.dtype) if compute_type(have) != compute_type(
                region.output.dtype) else y, region.output.dtype)
        self._store(y, 0, block, reduced)

    def keep(self, v: str, block: Block) -> None:
        """Stores operand 0's value v (compute type) where it is a second result."""
        for t in self.region.extra_outputs:
            have = DType.F32 if self.kind == "float32" else self.region.anchor.dtype
            y = v if compute_type(have) == compute_type(t.dtype) else cast(self.s, v, have, t.dtype)
            self._store(finish(self.s, y, t.dtype), 1, block)

    def _store(self, y: str, k: int, block: Block, reduced: bool = False) -> None:
        """Stores a value of the register type of output k."""
        t = (self.region.output, *self.region.extra_outputs)[k]
        view, p = self.nest.views["o", k], pointer_to(self.s, Out(k), t)
        if not axes_of(view, block) and not (self.flat and reduced):  # a tile of one element
            p = f"{p} + tl.zeros({'(1,)' if self.flat else '(1, 1)'}, tl.int32)"
        store_tensor(self.s, view, p, y, block, is_wide(self.region, t))


def tilings(nest: Rows, machine: Gpu, weight: int = 1, most: int = 16) -> list[Params]:
    """{"rows", "cols", "warps"} that promise the most first: whole rows in registers where they fit (`cols` >= the
    longest), chunks of them else. `weight`: registers per element of a row, about."""
    n = max(1, optimum(nest.region, nest.length))
    count = max(1, optimum(nest.region, nest.count))
    longest = max(1, nest.longest)
    whole = power_of_two(longest)
    sms = machine.multiprocessors or 108
    found: dict[tuple[int, int, int], float] = {}
    columns = {whole} if whole * weight <= RESIDENT and not (nest.across and whole > 512) else set()
    if not columns or whole >= 4 * power_of_two(n) or nest.across:
        columns |= {min(c, power_of_two(n)) for c in ((16, 32, 64, 128) if nest.across else (1024, 2048, 4096))}
    for c in columns:
        for r in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            if r > power_of_two(count) and r > 1:
                continue
            for w in (1, 2, 4, 8, 16):
                each = r * c / (32 * w)  # elements of a thread
                if not (1 <= each <= 64 / weight or (each < 1 and w == 1)):
                    continue
                if nest.across and 2 * r < min(32, count):  # neighbouring threads read neighbouring rows
                    continue
                programs = -(-count // r)
                idle = max(0.0, min(8.0, sms / programs)) if programs < sms and r > 1 else 0.0
                goal, warps = 8 if c >= whole else 16, 0.1 * abs(w - 4)
                if not nest.across and c >= whole and count >= MANY * sms:  # single warps need not wait for each other
                    goal, warps = 64, 0.2 * _log2(w)
                found[r, c, w] = idle + abs(_log2(each) - _log2(goal)) + warps + (0 if c >= whole else 0.5)
    best = sorted(found, key=lambda f: found[f])[:most]
    return [{"rows": r, "cols": c, "warps": w} for r, c, w in best]


def divisions(nest: Rows) -> list[Params]:
    """Ways to divide each row among programs (`split`), of `cols` columns each."""
    n = optimum(nest.region, nest.length)
    return [{"rows": 1, "cols": c, "warps": w, "split": True}
            for c, w in ((4096, 8), (2048, 4), (2048, 8), (8192, 8), (1024, 4))
            if c < 2 * n and upper(ceildiv(nest.length, c), ranges(nest.region)) <= PARTS]


def part_of(tile: Tile, parts: Dim, places: Sequence[Dim], dtype: DType) -> list[str]:
    """Finds a program's row, `pid`, and its columns [`start`, `end`), of `parts` programs of a row; pointers to what
    the programs of all rows leave at these places of the workspace."""
    s, c = tile.s, tile.c
    s.line("pid = tl.program_id(0)")
    count = s.integer(parts)
    tile.begin(f"(pid // {count})")
    s.line(f"start = pid % {count} * {c}")
    s.line(f"end = tl.minimum(start + {c}, {s.integer(tile.nest.length)})")
    return [s.pointer(Work(p), dtype, aligned=False) for p in places]


def _log2(x: float) -> float:
    return math.log2(max(x, 1e-3))


def moved(region: Region) -> float:
    """Bytes that are read and written at the optimum shape."""
    return float(sum(optimum(region, product(d for d, s in zip(t.shape, t.strides) if s != 0)) * t.dtype.size
                     for t in (region.output, *region.extra_outputs, *map(region.seen, range(len(region.inputs))))))


def seconds(region: Region, machine: Gpu, launches: int = 1, passes: float = 1.0) -> float:
    """A kernel's time if memory bounds it."""
    return LAUNCH * launches + passes * moved(region) / (machine.bandwidth or 1e12)


def floats_reason(region: Region) -> str:
    """Why a kernel for floats does not take a region; "" if it may."""
    if not region.anchor.dtype.is_float:
        return f"the anchor is {region.anchor.dtype.value}"
    return types_reason(region)


def types_reason(region: Region) -> str:
    """Why a kernel cannot read and write these types; "" if it can."""
    if any(t.dtype.is_host for t in (region.output, region.anchor, *region.inputs)):
        return "strings are not for kernels"
    return ""
