"""The matmul kernel: tiles of rows by panels of columns, from packed or freshly packed operands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, upper
from whet.targets.base import In, Packed, Params
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles, copy_rows, pack_panel, tile_rows
from whet.targets.cpu.gemm_problem import A, B, Problem
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, Fetch, dot_bf16, fma, narrow, round_bf16


@dataclass(frozen=True)
class Blocks:
    """The tiles of a step: (batch element, block of `mt` micro-tiles of rows, block of `nt` panels)."""

    rows: RowTiles
    panels: Dim
    mt: int
    nt: int
    batch: Dim
    columns_first: bool  # the panel block varies fastest from one tile to the next

    @property
    def m_blocks(self) -> Dim:
        return ceildiv(self.rows.count, self.mt)

    @property
    def n_blocks(self) -> Dim:
        return ceildiv(self.panels, self.nt)

    @property
    def tiles(self) -> Dim:
        return self.batch * self.m_blocks * self.n_blocks

    def split(self, k: Fn, args: Args, t: Val) -> tuple[Any, Any, Any]:
        """(batch element, m block, n block) of tile t."""
        mb, nb = args.dim(self.m_blocks), args.dim(self.n_blocks)
        if self.columns_first:
            n, rest = t % nb, t // nb
            return rest // mb, rest % mb, n
        m, rest = t % mb, t // mb
        return rest // nb, m, rest % nb


def batch_index(args: Args, problem: Problem, flat: IntLike) -> list[IntLike]:
    """The index along each batch dimension of a flat batch element."""
    out: list[IntLike] = []
    for extent in reversed(problem.batch):
        n = args.dim(extent)
        out.append(flat % n)
        flat = flat // n
    return out[::-1]


class GemmKernel:
    """One kernel: for each tile, pack what must be packed, then micro-tiles over panels.

    With `constant`, B comes as `Packed(0)`: panels of `packing.pack_panels` (or `pack_pairs`), batch
    elements one after the other; else every tile packs its panels of B into scratch.
    """

    prefix = ""  # of the symbol, for kernels derived from this one

    def __init__(self, region: Region, p: Problem, blocks: Blocks, params: Params, isa: Isa, constant: bool) -> None:
        self.region, self.p, self.blocks = region, p, blocks
        self.params, self.isa, self.constant = params, isa, constant
        self.k = k = Fn(NAME, isa)
        self.args = self._arguments(k)
        self.writer = Writer(k, self.args, region, p)
        self.nr = params["nv"] * isa.lanes
        self.depth = self.args.dim(p.k)
        self.dot = params.get("dot", False)  # bf16 pairs instead of fp32
        self.round = region.compute == "bf16" and not self.dot
        self.types = [t.dtype.llvm for t in region.inputs[:2]]
        self.a_stride = self.args.dim(p.row[A]) * region.inputs[0].dtype.size
        deepest = upper(p.k, {n: (r[0], r[2]) for n, r in region.dims.items()})
        self.spill_bytes = params["mr"] * params["nv"] * isa.width
        self.row_bytes = -(-deepest * 4 // 64) * 64 + 64  # of a copied row of A: never a multiple of 128
        self.panel_bytes: IntLike  # of B
        if not constant:
            self.panel_bytes = -(-deepest // isa.lanes) * isa.lanes * self.nr * 4
        elif self.dot:
            self.panel_bytes = -(-deepest // 2) * self.nr * 4
        else:
            self.panel_bytes = deepest * self.nr * 4
        self.b_scratch = self.spill_bytes + (params["mt"] * params["mr"] * self.row_bytes if params["pack"] else 0)
        self.sums = self.b_scratch + (0 if constant else params["nt"] * self.panel_bytes)
        self.kc = params["kc"] if isinstance(self.depth, int) and 0 < params["kc"] < self.depth else 0
        self.sum_row = self.nr * 4
        scratch = self.sums + (params["mt"] * params["mr"] * params["nt"] * self.sum_row if self.kc else 0)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, self.prefix or ("gemm_packed" if constant else "gemm_batched"), scratch)

    def _arguments(self, k: Fn) -> Args:
        """The argument table, for kernels derived from this one."""
        return Args(k)

    def _tile(self, t: Val) -> None:
        k, args, blocks, p = self.k, self.args, self.blocks, self.p
        flat, mb, nb = blocks.split(k, args, t)
        index = batch_index(args, p, flat)
        self.writer.batch(index)
        m = args.dim(p.m)
        first = mb * blocks.mt
        last = k.min(first + blocks.mt, args.dim(blocks.rows.count))
        p0 = nb * blocks.nt
        p1 = k.min(p0 + blocks.nt, args.dim(blocks.panels))
        b, b_first = self._b_panels(index, p0, p1)
        a, a_stride = self._a_rows(index, m, first, last)

        start = blocks.rows.start(k, first)
        product = dot_bf16 if self.dot else fma
        pair = 2 if self.dot else 1  # elements of K per step, of 4 bytes

        def following(at: Val, panel: IntLike, k0: IntLike, tail: bool) -> Val:
            """The panel after the one at `at`: after the last of a round, the first of the next round."""
            if tail or not isinstance(self.panel_bytes, int):
                return at + self.panel_bytes
            next_round = (k0 + self.kc) // pair * (self.nr * 4)
            more = k.cmp("slt", k.i64(panel) + 1, p1)
            return k.select(more, at + self.panel_bytes, b + (p0 - b_first) * self.panel_bytes + next_round)

        def micro(row: IntLike, size: int, valid: IntLike, panel: IntLike, k0: IntLike, depth: IntLike,
                  head: bool, tail: bool) -> None:
            acc = Accumulators(k, size, self.params["nv"])
            sums = k.scratch + (self.sums + ((panel - p0) * (self.params["mt"] * self.params["mr"]) + (row - start))
                                * self.sum_row)
            if head:
                acc.zero()
            else:
                for r in range(size):
                    for j in range(acc.nv):
                        at = sums + (r * acc.nv + j) * k.isa.width
                        acc.set(r, j, k.load("float", at, acc.lanes, align=k.isa.width))
            steps = k0 // pair
            rows = tile_rows(a + row * a_stride + steps * 4, a_stride, size, valid)
            at = b + (panel - b_first) * self.panel_bytes + steps * (self.nr * 4)
            fetch = self._fetch(following(at, panel, k0, tail), row - start, size, depth)
            product(k, acc, rows, at, k.ceildiv(depth, pair), unroll=self.params["unroll"],
                    prefetch=self.params["prefetch"], fetch=fetch)
            if tail:
                self.writer.block(acc, row, valid, panel * self.nr, args.dim(p.n), k.scratch)
                return
            for r, j, v in acc.each():
                k.store(v, sums + (r * acc.nv + j) * k.isa.width, align=k.isa.width)

        def everywhere(k0: IntLike, depth: IntLike, head: bool, tail: bool) -> None:
            body = partial(micro, k0=k0, depth=depth, head=head, tail=tail)
            if self.params["order"] == "nm":
                for panel in k.range(p0, p1):
                    blocks.rows.emit(k, m, first, last, partial(body, panel=panel))
                return

            def across(row: IntLike, size: int, valid: IntLike) -> None:
                for panel in k.range(p0, p1):
                    body(row, size, valid, panel)

            blocks.rows.emit(k, m, first, last, across)

        if not self.kc:
            everywhere(0, self.depth, True, True)
            return
        assert isinstance(self.depth, int)
        final = (self.depth - 1) // self.kc * self.kc
        everywhere(0, self.kc, True, False)
        for k0 in k.range(self.kc, final, self.kc):
            everywhere(k0, self.kc, False, False)
        everywhere(final, self.depth - final, False, True)

    def _fetch(self, panel: Val, row: IntLike, size: int, depth: IntLike) -> Fetch | None:
        """What a micro-tile brings in of the next panel: its rows' share of the tile's rows."""
        if not self.params["ahead"] or not isinstance(depth, int):
            return None
        steps = -(-depth // 2) if self.dot else depth
        share = steps * self.nr * 4 // (self.params["mt"] * self.params["mr"])  # bytes per row
        iterations = max(1, steps // self.params["unroll"])
        return Fetch(panel + row * share, -(-size * share // (64 * iterations)))

    def _a_rows(self, index: list[IntLike], m: IntLike, first: IntLike, last: IntLike) -> tuple[Val, IntLike]:
        """Address of row 0 (of the matrix) and stride of rows in bytes; copies the tile's rows if asked to."""
        k, p = self.k, self.p
        a = self.args.pointer(In(0))
        for i, strides in zip(index, p.batch_strides, strict=True):
            a = a + i * self.args.dim(strides[A]) * self.region.inputs[0].dtype.size
        if not self.params["pack"]:
            return a, self.a_stride
        dst = k.scratch + self.spill_bytes
        start = self.blocks.rows.start(k, first)
        rows = self.blocks.rows.start(k, last) - start
        if not isinstance(p.m, int):
            rows = k.min(rows, m - start)
        src = a + start * self.a_stride
        if self.dot:
            even = (self.depth + 1) // 2 * 2
            copy_rows(k, src, self.a_stride, self.types[0], dst, self.row_bytes, "bfloat", rows, self.depth, even,
                      partial(narrow, k))
        else:
            copy_rows(k, src, self.a_stride, self.types[0], dst, self.row_bytes, "float", rows, self.depth, self.depth,
                      partial(round_bf16, k) if self.round else None)
        return k.gep(dst, -(k.i64(start) * self.row_bytes)), self.row_bytes

    def _b_panels(self, index: list[IntLike], p0: IntLike, p1: IntLike) -> tuple[Val, IntLike]:
        """Where the panels lie, and which one comes first there; packs panels [p0, p1) if B is not constant."""
        k, p, args = self.k, self.p, self.args
        if self.constant:
            b = args.pointer(Packed(0))
            for i, strides in zip(index, p.batch_strides, strict=True):
                if strides[B] != 0:  # B is dense: its strides count whole matrices
                    b = b + i * args.dim(strides[B] // (p.k * p.n) * self.blocks.panels) * self.panel_bytes
            return b, 0
        b, size = args.pointer(In(1)), self.region.inputs[1].dtype.size
        for i, strides in zip(index, p.batch_strides, strict=True):
            b = b + i * args.dim(strides[B]) * size
        dst = k.scratch + self.b_scratch
        for panel in k.range(p0, p1):
            pack_panel(k, b, self.types[1], args.dim(p.b_row) * size, args.dim(p.b_col) * size, p.b_row == 1,
                       dst + (panel - p0) * self.panel_bytes, self.depth, args.dim(p.n), panel * self.nr,
                       self.params["nv"], partial(round_bf16, k) if self.round else None)
        return dst, p0
