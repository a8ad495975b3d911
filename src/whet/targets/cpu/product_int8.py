"""The kernel of 8-bit products: blocks of rows of A, wherever they lie, by packed panels of i8 weights.

A matrix product and a direct convolution are the same loops here. The rows of a product come in *lines* of rows at an
even distance: all rows of a matrix, or the output pixels of a line of an image. Along K a row consists of *runs* of
contiguous elements: the whole row, or a tap (a line of taps) of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Arg, Packed, Params
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles, tile_rows
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import B, Problem
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, Fetch
from whet.targets.cpu.microkernel_int8 import Dot, dot_int8
from whet.targets.cpu.saturation import saturation_of
from whet.targets.cpu.write_int8 import ByteWriter


@dataclass(frozen=True)
class Lines:
    """The rows of A inside a kernel.

    lines, width: lines per batch element, rows per line.
    stride:       bytes from one row of a line to the next.
    loops:        (count, bytes from one to the next) of the runs of a row, the outermost first; () for one run.
    steps:        `Dot` steps per run. All bytes of a step can be read.
    start:        the address of a line's first row: (index of the batch element, flat batch element, line) -> address.
    """

    lines: Dim
    width: Dim
    stride: IntLike
    loops: Sequence[tuple[int, IntLike]]
    steps: int
    start: Callable[[list[IntLike], IntLike, IntLike], Val]

    @property
    def runs(self) -> int:
        out = 1
        for count, _ in self.loops:
            out *= count
        return out


class ProductKernel:
    """Tiles of `ml` lines, `mt` micro-tiles of each, by `nt` panels of columns.

    B is `Packed(0)`, of `packing_int8.pack_groups`; where the `Dot` needs a correction, `Packed(1)` has the sums to
    start from. Both hold the batch elements that differ in B one after the other. Where `b` says so they lie elsewhere,
    for every batch element anew. Parameters: see `gemm_int8.GemmInt8`.
    """

    def __init__(self, name: str, region: Region, p: Problem, dot: Dot, params: Params, isa: Isa,
                 lines: Callable[[Fn, Args], Lines], b: tuple[Arg, Arg] | None = None) -> None:
        self.region, self.p, self.dot, self.params, self.b = region, p, dot, params, b
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        how = saturation_of(region) if isa.name != "neon" else None
        self.writer = Writer(k, args, region, p) if how is None else ByteWriter(k, args, region, p, how)
        self.a = a = lines(k, args)
        self.nr = params["nv"] * isa.lanes
        self.step_bytes = self.nr * dot.group
        self.panel_bytes = a.runs * a.steps * self.step_bytes
        self.line_blocks = ceildiv(a.lines, params["ml"])
        self.blocks = Blocks(RowTiles(a.width, params["mr"]), ceildiv(p.n, self.nr), params["mt"], params["nt"],
                             product(p.batch) * self.line_blocks, params["order"] == "mn")
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, name, params["mr"] * params["nv"] * isa.width)

    @property
    def tiles(self) -> Dim:
        return self.blocks.tiles

    def _tile(self, t: Val) -> None:
        k, args, blocks, a, params = self.k, self.args, self.blocks, self.a, self.params
        part, mb, nb = blocks.split(k, args, t)
        line_blocks = args.dim(self.line_blocks)
        flat, block = part // line_blocks, part % line_blocks
        index = batch_index(args, self.p, flat)
        self.writer.batch(index)
        l0 = block * params["ml"]
        l1 = k.min(l0 + params["ml"], args.dim(a.lines))
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        b, sums = self._weights(index, flat)
        width = args.dim(a.width)

        def rows(body: Callable[[Val, IntLike, IntLike, int, IntLike], None]) -> None:
            """body(address of its line, first row of the line, row in the line, size, rows that exist), for all."""
            for line in k.range(l0, l1):
                start = a.start(index, flat, line)
                blocks.rows.emit(k, width, first, last, partial(body, start, line * width))

        if params["order"] == "nm":
            for panel in k.range(p0, p1):
                rows(partial(self._micro, b, sums, panel))
        else:
            def across(start: Val, line_row: IntLike, row: IntLike, size: int, valid: IntLike) -> None:
                for panel in k.range(p0, p1):
                    self._micro(b, sums, panel, start, line_row, row, size, valid)

            rows(across)

    def _micro(self, b: Val, sums: Val | None, panel: IntLike, start: Val, line_row: IntLike, row: IntLike, size: int,
               valid: IntLike) -> None:
        k, a = self.k, self.a
        acc = Accumulators(k, size, self.params["nv"], "i32")
        if sums is None:
            acc.zero()
        else:
            for j in range(acc.nv):
                v = k.load("i32", sums + panel * (self.nr * 4) + j * k.isa.width, acc.lanes, align=k.isa.width)
                for r in range(size):
                    acc.set(r, j, v)
        rows = tile_rows(start + row * a.stride, a.stride, size, valid)
        at = b + panel * self.panel_bytes
        ahead = self._ahead(at, row, size)
        run_bytes = a.steps * self.step_bytes
        for offset, run in self._runs(a.loops, 0, 0):
            moved = {id(base): base + offset for base, _ in rows}
            fetch = None if ahead is None else Fetch(ahead.start + run * (ahead.count * self._iterations * 64),
                                                     ahead.count)
            dot_int8(k, self.dot, acc, [(moved[id(base)], disp) for base, disp in rows], at + run * run_bytes, a.steps,
                     unroll=self._unroll, fetch=fetch)
        self.writer.block(acc, line_row + row, valid, panel * self.nr, self.args.dim(self.p.n), k.scratch)

    @property
    def _unroll(self) -> int:
        """Steps per loop iteration: short runs are straight code."""
        return max(1, self.a.steps) if self.a.steps <= 8 else int(self.params["unroll"])

    @property
    def _iterations(self) -> int:
        """Unrolled iterations per run."""
        return max(1, self.a.steps // self._unroll)

    def _runs(self, loops: Sequence[tuple[int, IntLike]], offset: IntLike, run: IntLike
              ) -> Iterator[tuple[IntLike, IntLike]]:
        """(bytes from a row's start, number) of every run: loops."""
        if not loops:
            yield offset, run
            return
        count, step = loops[0]
        for i in self.k.range(0, count):
            yield from self._runs(loops[1:], offset + i * step, run * count + i)

    def _ahead(self, panel: Val, row: IntLike, size: int) -> Fetch | None:
        """What a micro-tile brings in of the next panel: its rows' share of a line's, in each run the same."""
        if not self.params["ahead"]:
            return None
        rows = self.params["mt"] * self.params["mr"] * self.params["ml"]
        share = self.panel_bytes * size // rows  # bytes
        lines = -(-share // (64 * self.a.runs * self._iterations))
        return Fetch(panel + self.panel_bytes + row * (self.panel_bytes // rows), lines)

    def _weights(self, index: list[IntLike], flat: IntLike) -> tuple[Val, Val | None]:
        """Where the panels lie, and the sums to start from."""
        args, p = self.args, self.p
        panels, starts = self.b or (Packed(0), Packed(1))
        b = args.pointer(panels)
        sums = args.pointer(starts) if self.dot.correction else None
        if self.b:
            first = flat * args.dim(self.blocks.panels)
            return b + first * self.panel_bytes, None if sums is None else sums + first * (self.nr * 4)
        for i, strides in zip(index, p.batch_strides, strict=True):
            if strides[B] != 0:  # B is dense: its strides count whole matrices
                first = i * args.dim(strides[B] // (p.k * p.n) * self.blocks.panels)
                b = b + first * self.panel_bytes
                sums = None if sums is None else sums + first * (self.nr * 4)
        return b, sums
