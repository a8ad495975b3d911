"""Products of many rows by weights of a few bits on AMX tiles: panels are widened to tiles of bf16 in scratch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Kernel, Pack, Packed, Params, Step, Work
from whet.targets.cpu.amx_kernel import BLOCK, ROW, SUMS, TILE, Depth, Pipeline, Round, Run
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles, copy_rows
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import A, Problem, matmul_problem, opt
from whet.targets.cpu.grouped_pack import Codes, Decoder, codes_of
from whet.targets.cpu.grouped_rows import grouped_reason
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import narrow

DEPTH = 32  # rows of a tile of weights


class GroupedAmx:
    """C = A @ W by blocks of 32 x 32 sums. A step first rounds A to bf16, unless its rows can be loaded as they lie.

    Parameters: mt, nt (blocks of rows and of columns per tile of work).
    """

    name = "grouped_amx"

    def applies(self, region: Region, machine: Isa) -> str:
        if not machine.amx_bf16 or not machine.bf16_dot:
            return "no AMX"
        if region.compute != "bf16":
            return "products are to be taken in f32"
        reason = grouped_reason(region)
        if reason:
            return reason
        codes = codes_of(region)
        if codes.depth == 0:
            return "no depth"
        if codes.groups > 1 and codes.group % (2 * _per(codes)):
            return f"groups of {codes.group} rows are no multiple of {2 * _per(codes)}"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        rows, panels = max(1, -(-opt(region, p.m) // BLOCK)), max(1, -(-opt(region, p.n) // BLOCK))
        found: dict[str, tuple[float, Params]] = {}
        for most in (4, 8, 16, 32):
            mt = -(-rows // -(-rows // most))
            for per_thread in (1, 2, 4, 8):
                tiles = per_thread * threads
                nt = max(1, panels * -(-rows // mt) * max(1, opt(region, product(p.batch))) // tiles)
                params: Params = {"mt": mt, "nt": min(nt, panels)}
                found.setdefault(repr(params), (self.cost(region, params, machine, threads), params))
        return [params for _, params in sorted(found.values(), key=lambda f: f[0])]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: two rows of 16 weights are widened in 5 cycles, a tile of them by 16 rows takes 25."""
        p, codes = matmul_problem(region), codes_of(region)
        m, n, batch = max(1, opt(region, p.m)), max(1, opt(region, p.n)), max(1, opt(region, product(p.batch)))
        rows, panels, tiles_k = -(-m // BLOCK), -(-n // BLOCK), -(-codes.depth // DEPTH)
        mt, nt = params["mt"], params["nt"]
        tile = nt * (tiles_k * (32 * 5 + mt * 100) + mt * 200) + 400
        tiles = batch * -(-rows // mt) * -(-panels // nt)
        used = rows * panels * batch / (tiles * mt * nt)
        spread = tiles / threads if tiles > 3 * threads else -(-tiles // threads)
        copy = 0.0 if _direct(region, p) else m * codes.depth * batch * 0.15 / threads + 4000
        return (tile * used * spread + copy) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, codes = matmul_problem(region), codes_of(region)
        blocks = Blocks(RowTiles(p.m, BLOCK), ceildiv(p.n, BLOCK), params["mt"], params["nt"], product(p.batch), False)
        steps: list[Step] = []
        workspace: Dim = 0
        if not _direct(region, p):
            kernel, args = _rounding(region, p, codes, machine)
            rows = product(p.batch) * blocks.rows.count
            steps.append(Step(kernel, args.table, rows))
            workspace = rows * (BLOCK * _pitch(codes))
        made = _Kernel(region, p, codes, blocks, machine)
        steps.append(Step(made.kernel, made.args.table, blocks.tiles))
        packs = [Pack((1,), partial(pack_tiles, codes)), Pack((2,), partial(codes.pack_scales, nr=BLOCK))]
        if codes.zeros:
            packs.append(Pack((3,) if region.n_anchor == 4 else (2,), partial(codes.pack_zeros, nr=BLOCK)))
        return Implementation(tuple(steps), tuple(packs), workspace)


def _per(codes: Codes) -> int:
    """Codes in a word of 32 bits."""
    return 32 // codes.bits


def _direct(region: Region, p: Problem) -> bool:
    """Tiles of A can be loaded from memory."""
    whole = isinstance(p.m, int) and p.m % BLOCK == 0 and isinstance(p.k, int) and p.k % DEPTH == 0
    return whole and region.inputs[0].dtype is DType.BF16


def _pitch(codes: Codes) -> int:
    """Bytes from one rounded row of A to the next: an odd number of lines, so that they are in different sets."""
    lines = -(-codes.depth // DEPTH)
    return (lines + 1 - lines % 2) * ROW


def pack_tiles(codes: Codes, q: np.ndarray) -> np.ndarray:
    """q [K, N] as words [panel of 32 columns][row][half][2][16 lanes]: code i of lane 2 c + j of vector v is that of
    column 16 half + 8 v + c in row 2 i + j. So a pair of vectors widened and narrowed to bf16 is a row of a tile.

    Rows are padded to whole tiles, whose weights meet zeros.
    """
    per, columns = _per(codes), q.shape[1]
    depth, panels = -(-codes.depth // DEPTH) * DEPTH, -(-columns // BLOCK)
    all_codes = np.zeros((depth, panels * BLOCK), np.int16)
    all_codes[:codes.depth, :columns] = q.astype(np.int16) - codes.half
    parts = (all_codes & ((1 << codes.bits) - 1)).astype(np.uint32)
    parts = parts.reshape(depth // (2 * per), per, 2, panels, 2, 2, 8)  # row of words, i, j, panel, half, v, c
    shifts = (np.arange(per, dtype=np.uint32) * codes.bits)[None, :, None, None, None, None, None]
    words = np.bitwise_or.reduce(parts << shifts, axis=1)  # row, j, panel, half, v, c
    return np.ascontiguousarray(words.transpose(2, 0, 3, 4, 5, 1))


def _rounding(region: Region, p: Problem, codes: Codes, isa: Isa) -> tuple[Kernel, Args]:
    """Tile t: 32 rows of A as bf16, zeros behind them up to whole tiles. Rows that do not exist are not written."""
    k = Fn(NAME, isa)
    args = Args(k)
    dtype, depth, m = region.inputs[0].dtype, codes.depth, args.dim(p.m)
    rows = args.dim(ceildiv(p.m, BLOCK))
    for t in k.range(k.begin, k.end):
        src = args.pointer(In(0))
        for i, strides in zip(batch_index(args, p, t // rows), p.batch_strides, strict=True):
            src = src + i * args.dim(strides[A]) * dtype.size
        first = t % rows * BLOCK
        stride = args.dim(p.row[A]) * dtype.size
        copy_rows(k, src + first * stride, stride, dtype.llvm, args.pointer(Work(0)) + t * (BLOCK * _pitch(codes)),
                  _pitch(codes), "bfloat", k.min(BLOCK, m - first), depth, -(-depth // DEPTH) * DEPTH,
                  partial(narrow, k))
    return finish(k, "grouped_amx_rows"), args


class _Kernel:
    """The kernel over tiles of blocks. Scratch: the sums of a block, then a widened panel."""

    def __init__(self, region: Region, p: Problem, codes: Codes, blocks: Blocks, isa: Isa) -> None:
        self.region, self.p, self.codes, self.blocks = region, p, codes, blocks
        self.tiles = -(-codes.depth // DEPTH)
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        depth = Depth((Run(0, self.tiles),), np.zeros(0, np.int64))
        self.pipe = Pipeline(k, self.args, region, p, depth, lambda r: r)
        self.decoder = Decoder(k, codes)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.pipe.amx.release()
        self.kernel = finish(k, "grouped_amx", SUMS + self.tiles * 2 * TILE)

    def _tile(self, t: Val) -> None:
        k, args, blocks, p = self.k, self.args, self.blocks, self.p
        flat, mb, nb = blocks.split(k, args, t)
        index = batch_index(args, p, flat)
        self.pipe.writer.batch(index)
        m = args.dim(p.m)
        stride: IntLike
        if _direct(self.region, p):
            a, stride = args.pointer(In(0)), args.dim(p.row[A]) * 2
            for i, strides in zip(index, p.batch_strides, strict=True):
                a = a + i * args.dim(strides[A]) * 2
        else:
            stride = _pitch(self.codes)
            a = args.pointer(Work(0)) + flat * args.dim(blocks.rows.count) * (BLOCK * stride)
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        self.pipe.writer.hold(k.scratch, 0, p0 * BLOCK, 0)
        b, everything = k.scratch + SUMS, Round(0, (Run(0, self.tiles),))
        for panel in k.range(p0, p1):
            self._widen(panel, b)
            for row in k.range(first, last):
                left = k.i64(m - row * BLOCK)
                whole = isinstance(m, int) and m % BLOCK == 0
                self.pipe.block(a + row * BLOCK * stride, stride, True if whole else left > 16, b, everything)
                self.pipe.writer.hold(k.scratch, row * BLOCK, panel * BLOCK, BLOCK if whole else k.min(left, BLOCK))
        self.pipe.drain()

    def _widen(self, panel: Val, to: Val) -> None:
        """A panel as tiles [K / 32][half][16][16][2] of bf16."""
        k, codes, per = self.k, self.codes, _per(self.codes)
        total = self.tiles * DEPTH // (2 * per)  # rows of words
        group = total if codes.groups == 1 else codes.group // (2 * per)
        words = self.args.pointer(Packed(0)) + panel * (total * 4 * ROW)
        scales = self.args.pointer(Packed(1)) + panel * (codes.groups * BLOCK * 4)
        zeros = self.args.pointer(Packed(2)) + panel * (codes.groups * BLOCK) if codes.zeros else None
        for g in k.range(0, codes.groups):
            scale = [self._twice(k.load("float", scales + (g * BLOCK + h * 16) * 4, 16, align=64)) for h in range(2)]
            off = [] if zeros is None else [self._twice(self.decoder.zeros(zeros + g * BLOCK, h)) for h in range(2)]
            last = total if codes.groups == 1 else k.min((g + 1) * group, total)
            if codes.groups > 1:  # the last group goes on to the end of the padding
                last = k.select(k.i64(g).eq(codes.groups - 1), k.i64(total), k.i64(last))
            for w in k.range(g * group, last):
                self._row(words + w * (4 * ROW), to, w, scale, off)

    def _row(self, words: Val, to: Val, w: IntLike, scale: list[list[Val]], off: list[list[Val]]) -> None:
        """One row of words: `per` rows of both tiles."""
        k, per = self.k, _per(self.codes)
        pair = w * per  # of rows of weights: a row of a tile
        at = to + pair // 16 * (2 * TILE) + pair % 16 * ROW
        for h in range(2):
            loaded = [k.load("i32", words + (h * 2 + v) * ROW, 16, align=64) for v in range(2)]
            for i in range(per):
                numbers = [self.decoder.code(v, i) for v in loaded]
                if off:
                    numbers = [n - z for n, z in zip(numbers, off[h], strict=True)]
                low, high = (n * s for n, s in zip(numbers, scale[h], strict=True))
                both = k.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", "<32 x bfloat>", [high, low])
                k.store(both, at + h * TILE + i * ROW, align=64)

    def _twice(self, v: Val) -> list[Val]:
        """Each of 16 columns' numbers twice, in two vectors."""
        return [self.k.shuffle(v, None, [half * 8 + c // 2 for c in range(16)]) for half in range(2)]
