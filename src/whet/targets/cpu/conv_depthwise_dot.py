"""Depthwise convolution of 8-bit codes by dot products of four bytes down a column of the window.

Four rows of the image, a vector of channels of each, are interleaved byte by byte, so that every 32-bit lane holds one
channel's four pixels above each other. One instruction (`vpdpbusd`; where there is none, two `vpmaddwd`) then adds the
products with four weights to an output pixel's sums. An interleaved column serves all output pixels whose windows it
crosses, in `rows` rows and `width` columns whose sums stay in registers; weights are 0 where a row of the four is no
row of the window.

Interleaving leaves channels in an order of its own within each 64 (`depthwise_order`). Weights, and the epilogue's
scales and offsets, are packed in that order; x86's saturating packs, which make codes of the results, undo it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import Dim, lower
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.conv_common import conv_of
from whet.targets.cpu.conv_depthwise import window_of
from whet.targets.cpu.conv_depthwise_int8 import depthwise_reason
from whet.targets.cpu.conv_window import Columns, column_tiles
from whet.targets.cpu.depthwise_order import Block, Taps, blocks_of, in_order, interleave, pack_columns, pack_weights
from whet.targets.cpu.epilogue import emit_terms
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.pixels import OUT, PixelWriter, Place
from whet.targets.cpu.saturation import pack_four

LARGEST = 7  # rows and columns of a window
MOST_RUNS = 9  # column tiles that are written out each for itself


class ConvDepthwiseDot:
    """See the module. Parameters: rows, width (output pixels of a tile), splits (parts of the channels)."""

    name = "conv_depthwise_dot"

    def applies(self, region: Region, machine: Isa) -> str:
        reason = depthwise_reason(region)
        if reason:
            return reason
        c, x = conv_of(region), region.inputs[0]
        if machine.name == "neon":
            return "no saturating packs"
        if c.og != 1:
            return "several output channels of one input channel"
        if len(c.kernel) != 2 or max(c.kernel) > LARGEST:
            return f"the window has not two dimensions of at most {LARGEST}"
        if not all(isinstance(d, int) for d in (c.spatial[1], c.out[1], x.strides[2])):
            return "the width of the image is symbolic"
        if machine.name == "avx2" and c.groups < machine.width // 2:
            return "fewer channels than half a vector holds"
        if lower(c.out[0], {n: (r[0], r[2]) for n, r in region.dims.items()}) < 1 or c.out[1] == 0:
            return "the image may be empty"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        c, w = conv_of(region), window_of(region)
        sums = 2 if machine.registers < 32 else 6 if quads(machine) else 4  # pixels of a tile
        fewest = lower(c.out[0], {n: (r[0], r[2]) for n, r in region.dims.items()})
        found = []
        for rows, width in itertools.product((1, 2, 3, 4), (1, 2, 3, 4, 5, 6)):
            if rows * width > sums or rows > fewest or len(column_tiles(w, width)) > MOST_RUNS:
                continue
            tiles = -(-opt(region, c.out[0]) // rows) * opt(region, c.n)
            for splits in (1, 2, 4):
                if splits == 1 or (tiles * splits <= 16 * threads and c.groups >= 2 * splits * machine.width):
                    found.append({"rows": rows, "width": width, "splits": splits})
        found.sort(key=lambda p: self.cost(region, p, machine, threads))
        return found[:8]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds: interleaving and products of a tile, and the epilogue: two wide or three narrow vectors a cycle."""
        c, w = conv_of(region), window_of(region)
        rows, width = params["rows"], params["width"]
        taps = Taps.of(w, rows)
        columns = (width - 1) * w.strides[1] + (w.kernel[1] - 1) * w.dilations[1] + 1
        dot = 1 if quads(machine) else 4
        groups = len(taps.groups)
        instructions = (columns * groups * (8 + (0 if quads(machine) else 8)) + rows * width * (24 + 4)
                        + width * w.kernel[1] * len(taps.uses) * 4 * dot)
        out = opt(region, c.out[1])
        tiles = -(-opt(region, c.out[0]) // rows) * opt(region, c.n)
        vectors = sum(1 / b.parts for b in blocks_of(c.groups, machine, out))
        work = tiles * -(-out // width) * vectors * instructions / (2 if machine.width == 64 else 3)
        pieces = tiles * params["splits"]
        rounds = -(-pieces // threads) / (pieces / threads)
        return float((work * rounds + pieces * 60) / threads / 3e9)

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        made = _Kernel(region, params, machine)
        return Implementation((Step(made.kernel, made.args.table, made.tiles),), tuple(made.packs))


def quads(isa: Isa) -> bool:
    """True if one instruction adds four products of bytes per lane."""
    return isa.vnni or isa.avx_vnni


def _column_leaves(region: Region) -> tuple[int, ...] | None:
    """The epilogue's inputs, where it ends in `saturate` and they are constants in f32 per channel; else None."""
    e = region.epilogue
    if e is None or not isinstance(e.terms[-1], Apply) or e.terms[-1].op != "saturate":
        return None
    for i in e.leaves:
        t = region.inputs[i]
        if not t.const or t.dtype is not DType.F32 or any(d != 1 for d in t.shape[:-1]):
            return None
    return e.leaves


# -- the kernel ----------------------------------------------------------------------------------------------


class _Kernel:
    def __init__(self, region: Region, params: Params, isa: Isa) -> None:
        self.region, self.isa = region, isa
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.w, self.conv = window_of(region), conv_of(region)
        x = region.inputs[0]
        self.c, self.rows, self.width, self.splits = self.conv.groups, params["rows"], params["width"], params["splits"]
        self.taps = Taps.of(self.w, self.rows)
        out = self.w.out[1]
        assert isinstance(out, int)
        self.blocks = blocks_of(self.c, isa, out)
        self.flip = x.dtype is DType.I8
        self.pad = int(region.attrs.get("pad_value", 0)) & 0xFF
        self.leaves = _column_leaves(region)
        self.packs = [Pack((1,), partial(pack_weights, blocks=self.blocks, taps=self.taps, vnni=quads(isa),
                                         flip=self.flip))]
        self.weights = args.pointer(Packed(0))
        self.columns: dict[int, Val] = {}
        for i in self.leaves or ():
            self.columns[i] = args.pointer(Packed(len(self.packs)))
            self.packs.append(Pack((i,), partial(pack_columns, blocks=self.blocks, c=self.c)))
        self.use_bytes = 4 * isa.width * (1 if quads(isa) else 2)  # weights of a use
        self.block_bytes = self.w.kernel[1] * len(self.taps.uses) * self.use_bytes + 4 * isa.width
        self.writer = PixelWriter(k, args, region, region.epilogue)
        self.x = args.pointer(In(0))
        self.strides = [args.dim(s) for s in x.strides[:3]]
        width = self.w.spatial[1]
        assert isinstance(width, int)
        assert isinstance(self.strides[2], int)
        self.row_bytes = -(-((width - 1) * self.strides[2] + self.c) // 64) * 64
        padded = any(p > 0 for p in self.conv.pads) or self._below
        for t in k.range(k.begin, k.end):
            self._tile(t, padded)
        self.kernel = finish(k, "conv_depthwise_dot", self.row_bytes if padded else 0)

    @property
    def _below(self) -> bool:
        """True unless it is known that no window reaches below the image."""
        after = self.conv.pads_after[0]
        return not isinstance(after, int) or after > 0

    @property
    def tiles(self) -> Dim:
        return self.w.n * self._row_blocks * self.splits

    @property
    def _row_blocks(self) -> Dim:
        return (self.w.out[0] + self.rows - 1) // self.rows

    def _tile(self, t: Val, padded: bool) -> None:
        """A block of output rows, for one part of the channels. The last block reaches back."""
        k, args, w = self.k, self.args, self.w
        part, t2 = (t % self.splits, t // self.splits) if self.splits > 1 else (0, t)
        count = args.dim(self._row_blocks)
        n, row = t2 // count, k.min(t2 % count * self.rows, args.dim(w.out[0]) - self.rows)
        image = self.x + n * self.strides[0]
        size = args.dim(w.spatial[0])
        rows, outside = [], None
        for offset in self.taps.rows:
            at = k.i64(row) * w.strides[0] + (offset - w.pads[0])
            here = image + at * self.strides[1]
            if padded:
                beyond = k.cmp("uge", k.i64(at), size)
                outside = beyond if outside is None else outside | beyond
                here = k.select(beyond, k.scratch, here)
            rows.append(here)
        if outside is not None:
            with k.if_(outside):
                fill = k.const(vec("i8", self.isa.width), self.pad - 256 if self.pad > 127 else self.pad)
                for b in k.range(0, self.row_bytes, self.isa.width):
                    k.store(fill, k.scratch + b, align=self.isa.width)
        places = [self.writer.at([n, row + r, 0]) for r in range(self.rows)]
        whole = [b for b in self.blocks if b.parts == 1 and b.valid == b.size]
        if whole:
            lo, hi = self._share(part, len(whole))
            self._columns(rows, places, whole, lo, hi)
        rest = self.blocks[len(whole):]
        if rest and isinstance(part, int):
            self._columns(rows, places, rest, 0, 1)
        elif rest:
            with k.if_(k.i64(part).eq(self.splits - 1)):
                self._columns(rows, places, rest, 0, 1)

    def _share(self, part: IntLike, n: int) -> tuple[IntLike, IntLike]:
        """The blocks [lo, hi) of a part of the channels."""
        if isinstance(part, int):
            return 0, n
        return part * n // self.splits, (part + 1) * n // self.splits

    def _columns(self, rows: list[Val], places: list[Place], blocks: list[Block], lo: IntLike, hi: IntLike) -> None:
        """All column tiles of some blocks of the same form."""
        k, w, block = self.k, self.w, blocks[0]
        step = self.strides[2]
        first = self.blocks.index(block)
        for run in column_tiles(w, self.width * block.parts):
            for i in k.range(0, run.count):
                ow = i * run.width + run.first
                shift = (k.i64(ow) * w.strides[1] - w.pads[1]) * step
                moved = [r + shift for r in rows]
                at = [self.writer.along(p, ow) for p in places]
                for b in k.range(lo, hi):
                    c = block.first if len(blocks) == 1 else k.min(b * self.isa.width, self.c - self.isa.width)
                    _Body(self, run, block, moved, at, c, k.i64(b) + first).emit()


class _Body:
    """One tile of one block of channels."""

    def __init__(self, kernel: _Kernel, run: Columns, block: Block, rows: list[Val], places: list[Place],
                 c: IntLike, index: Val) -> None:
        self.kernel, self.k, self.run, self.block, self.rows, self.places = kernel, kernel.k, run, block, rows, places
        self.c, self.index = c, index
        self.n = kernel.isa.width
        self.lanes = kernel.isa.lanes
        self.width = -(-run.width // block.parts)  # columns of a part; parts may overlap
        self.starts = [min(p * self.width, run.width - self.width) for p in range(block.parts)]
        self.base = kernel.weights + index * kernel.block_bytes
        self.mask = None if block.valid == block.size else self.k.tail_mask(block.valid, block.size)

    def emit(self) -> None:
        k, w, taps = self.k, self.kernel.w, self.kernel.taps
        s, d, kw = w.strides[1], w.dilations[1], w.kernel[1]
        acc = [[self._start() for _ in range(self.width)] for _ in range(self.kernel.rows)]
        for column in sorted({t * s + j * d for t in range(self.width) for j in range(kw)}):
            users = [(t, (column - t * s) // d) for t in range(self.width)
                     if (column - t * s) % d == 0 and 0 <= column - t * s < kw * d]
            inside = [self._inside(p, *users[0]) for p in self.starts]
            if not any(inside) and not self.kernel.pad and not self.kernel.flip:
                continue
            for g, members in enumerate(taps.groups):
                four = interleave(k, [self._load(self.rows[m], column, inside) for m in members])
                for u, (group, r, _) in enumerate(taps.uses):
                    for t, j in users if group == g else ():
                        at = self.base + (j * len(taps.uses) + u) * self.kernel.use_bytes
                        for q in range(4):
                            self._dot(acc[r][t][q], four[q], at, q)
        for r in range(self.kernel.rows):
            self._write(acc[r], self.places[r])

    def _start(self) -> list[Var]:
        k = self.k
        ty = vec("i32", self.lanes)
        if not self.kernel.flip:
            return [k.var(ty, 0) for _ in range(4)]
        at = self.base + (self.kernel.block_bytes - 4 * self.n)
        return [k.var(ty, k.load("i32", at + q * self.n, self.lanes, align=self.n)) for q in range(4)]

    def _inside(self, start: int, t: int, j: int) -> bool:
        """True if tap j of pixel t of the part that starts there lies in the image."""
        return j in self.run.taps[start + t]

    def _load(self, row: Val, column: int, inside: list[bool]) -> Val:
        """A column of the image under every part; outside, the padding's value."""
        k, b = self.k, self.block
        step, s = self.kernel.strides[2], self.kernel.w.strides[1]
        outside = k.const(vec("i8", b.size), self.kernel.pad - 256 if self.kernel.pad > 127 else self.kernel.pad)
        vs = [k.load("i8", row + self.c + (column + start * s) * step, b.size, self.mask) if there else outside
              for start, there in zip(self.starts, inside, strict=True)]
        while len(vs) > 1:
            vs = [k.shuffle(x, y, range(2 * x.lanes)) for x, y in zip(vs[::2], vs[1::2], strict=True)]
        return vs[0] ^ -128 if self.kernel.flip else vs[0]

    def _dot(self, acc: Var, x: Val, at: Val, q: int) -> None:
        """Products of four bytes in every lane are added."""
        k, n = self.k, self.n
        if quads(k.isa):
            w = k.load("i8", at + q * n, n, align=n)
            acc.set(k.call(f"llvm.x86.avx512.vpdpbusd.{n * 8}", acc.ty, [acc.get(), x, w]))
            return
        name = "llvm.x86.avx512.pmaddw.d.512" if n == 64 else "llvm.x86.avx2.pmadd.wd"
        words = k.bitcast(x, vec("i16", n // 2))
        for odd, v in enumerate((words & 0xFF, k.op("lshr", words, k.const(words.ty, 8)))):
            w = k.load("i16", at + (2 * q + odd) * n, n // 2, align=n)
            acc.set(acc.get() + k.call(name, acc.ty, [v, w]))

    # -- results -----------------------------------------------------------------------------------------------

    def _write(self, acc: list[list[Var]], place: Place) -> None:
        if self.kernel.leaves is not None:
            for t, sums in enumerate(acc):
                self._codes([a.get() for a in sums], t, place)
            return
        natural = [in_order(self.k, [a.get() for a in sums]) for sums in acc]
        per = self.block.size // self.lanes  # vectors of a part
        for v in range(4):
            here = self.kernel.writer.along(place, self.starts[v // per])
            c = v % per * self.lanes
            if c >= self.block.valid:
                continue
            mask = None if c + self.lanes <= self.block.valid else self.k.tail_mask(self.block.valid - c, self.lanes)
            self.kernel.writer.put([n[v] for n in natural], here, self.c + c, mask)

    def _codes(self, sums: list[Val], t: int, place: Place) -> None:
        """The sums of pixel t as codes, rounded and stored in one go."""
        k, region, n = self.k, self.kernel.region, self.n
        e = region.epilogue
        assert e is not None
        last = e.terms[-1]
        assert isinstance(last, Apply)
        attrs = dict(last.attrs)
        out = pack_four(k, [self._real(e, last.args[0], s, q) for q, s in enumerate(sums)], attrs["zero"], attrs["to"])
        step = self.kernel.writer.steps[OUT][-2]
        size = self.block.size
        for p, start in enumerate(self.starts):
            v = out if size == n else k.shuffle(out, None, range(p * size, (p + 1) * size))
            k.store(v, place[OUT] + (start + t) * step + self.c, self.mask)

    def _real(self, e: Expr, term: int, acc: Val, q: int) -> Val:
        """What `saturate` takes, of one vector of sums."""
        k = self.k

        def leaf(x: Leaf) -> Val:
            if x.source == ANCHOR:
                return acc
            return k.load("float", self.kernel.columns[x.source] + self.index * (4 * self.n) + q * self.n, self.lanes,
                          align=self.n)

        v = emit_terms(k, e, leaf, (term,))[term]
        return v if v.lanes == self.lanes else k.splat(v, self.lanes)
