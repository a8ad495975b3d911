"""Products of a few rows by weights of a few bits, widened in registers: decoding, where the weights' way from
memory is what takes the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product, upper
from whet.targets.base import Implementation, In, Pack, Packed, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.gemm_emit import RowTiles, copy_rows, tile_rows
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import A, Problem, matmul_layout_reason, matmul_problem, opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.grouped_pack import Codes, Decoder, codes_of
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Accumulators, Row

SEVERAL = 16    # rows that widened weights meet, where a dynamic number of rows is usually one
MOST_ROWS = 16  # micro-tiles of rows per tile: their sums of groups and copies lie in scratch


def grouped_reason(region: Region) -> str:
    """Why no tactic takes a region of kind matmul_grouped; "" if they may."""
    a = region.inputs[0]
    if a.dtype not in (DType.F32, DType.BF16, DType.F16) or region.anchor.dtype is not DType.F32:
        return f"a is {a.dtype.value}, the product {region.anchor.dtype.value}"
    if not all(t.const for t in region.inputs[1:region.n_anchor]):
        return "the weights are not constants"
    return matmul_layout_reason(region)


def weight_packs(region: Region, codes: Codes, nr: int) -> tuple[Pack, ...]:
    """Codes, scales, and where there are any the zero points: Packed(0), Packed(1), Packed(2)."""
    packs = (Pack((1,), partial(codes.pack_codes, nr=nr)), Pack((2,), partial(codes.pack_scales, nr=nr)))
    if not codes.zeros:
        return packs
    return (*packs, Pack((3,) if region.n_anchor == 4 else (2,), partial(codes.pack_zeros, nr=nr)))


class GroupedRows:
    """C = A @ W, a micro-tile of rows by a panel at a time, codes widened in registers. Parameters:

    mr, nv:   the micro-tile: rows, vectors of columns.
    mt, nt:   micro-tiles of rows and panels per tile.
    prefetch: bytes ahead in the codes that are brought into the first-level cache, and four times that far ahead into
              the second.

    Sums of a group are taken of the codes and then scaled; a zero point is taken off them as its multiple of the
    sum of the activations. Where that sum is not finite (a NaN or an infinity among them), the row is computed
    again with each code less its zero point.
    """

    name = "grouped_rows"

    def applies(self, region: Region, machine: Isa) -> str:
        return grouped_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        p = matmul_problem(region)
        n, m = opt(region, p.n), rows_to_cut(region, p)
        batch = max(1, opt(region, product(p.batch)))
        found: list[tuple[float, Params]] = []
        for mr, nv in _micro_tiles(m, n, machine):
            panels = max(1, -(-n // (nv * machine.lanes)))
            count = -(-m // mr)
            mt = -(-count // -(-count // MOST_ROWS))
            for per_thread in (2, 4, 8):
                nt = max(1, panels * batch * -(-count // mt) // (per_thread * threads))
                for prefetch in (2048, 0):
                    params = {"mr": mr, "nv": nv, "mt": mt, "nt": min(nt, panels), "prefetch": prefetch}
                    if params not in [f[1] for f in found]:
                        found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [params for _, params in found[:24]]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: two or three instructions widen a vector of codes, each row takes a multiply-add more."""
        p, codes = matmul_problem(region), codes_of(region)
        m, n = max(1, opt(region, p.m)), max(1, opt(region, p.n))
        batch = max(1, opt(region, product(p.batch)))
        mr, nv, mt, nt = (params[x] for x in ("mr", "nv", "mt", "nt"))
        micro, panels = -(-m // mr), -(-n // (nv * machine.lanes))
        rows = m / micro
        widening = 2 if machine.name == "avx512" else 3
        step = max(nv * (rows + widening) / 2, (rows + nv) / 2, 4.0)
        flush = codes.groups * nv * (3 * rows + 2)
        tile = mt * nt * (codes.depth * step + flush + 40) + mt * mr * codes.depth * 0.1 + 300
        tiles = batch * -(-micro // mt) * -(-panels // nt)
        used = micro * panels * batch / (tiles * mt * nt)
        fetch = codes.panel_bytes(nv * machine.lanes) * panels / 6 / threads * (0.9 if params["prefetch"] else 1.0)
        spread = tiles / threads if tiles > 3 * threads else -(-tiles // threads)
        return max(tile * used * spread, fetch) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, codes = matmul_problem(region), codes_of(region)
        nr = params["nv"] * machine.lanes
        blocks = Blocks(RowTiles(p.m, params["mr"]), ceildiv(p.n, nr), params["mt"], params["nt"], product(p.batch),
                        False)
        made = RowsKernel(region, p, codes, blocks, params, machine)
        step = Step(made.kernel, made.args.table, blocks.tiles)
        return Implementation((step,), weight_packs(region, codes, nr))


def rows_to_cut(region: Region, p: Problem) -> int:
    """How many rows micro-tiles are made for: the optimum's, and where there may be more (a decoder's one row, and
    its prompt) enough for weights to be widened once for several. A remainder of one row has code of its own."""
    most = upper(p.m, {name: (r[0], r[2]) for name, r in region.dims.items()})
    return max(1, opt(region, p.m), min(most, SEVERAL))


def _micro_tiles(m: int, n: int, isa: Isa) -> list[tuple[int, int]]:
    """(rows, vectors of columns): sums, codes and numbers of the columns and a table fit the registers."""
    found = {"avx512": ((1, 4), (1, 2), (2, 4), (4, 4), (4, 2), (6, 3), (8, 2), (12, 2)),
             "avx2": ((1, 4), (1, 2), (2, 3), (2, 2), (4, 2)),
             "neon": ((1, 4), (1, 8), (2, 4), (4, 4), (8, 2), (8, 4))}[isa.name]
    least = min(nv for _, nv in found)
    kept = [(mr, nv) for mr, nv in found if mr <= m and (nv == least or (nv - 1) * isa.lanes < n)]
    most = max(mr for mr, _ in kept)
    return [(mr, nv) for mr, nv in kept if mr >= most / 3]


class RowsKernel:
    """The kernel. Before the panels each row is looked through: what is found, its record, lies in scratch."""

    prefix = "grouped_rows"  # of the symbol, for kernels derived from this one

    def __init__(self, region: Region, p: Problem, codes: Codes, blocks: Blocks, params: Params, isa: Isa) -> None:
        self.region, self.p, self.codes, self.blocks, self.params = region, p, codes, blocks, params
        self.k = k = Fn(NAME, isa)
        self.args = Args(k)
        self.writer = Writer(k, self.args, region, p)
        self.decoder = Decoder(k, codes)
        self.mr, self.nv = params["mr"], params["nv"]
        self.nr = self.nv * isa.lanes
        self.copied = region.inputs[0].dtype is not DType.F32
        rows, self.row_bytes = params["mt"] * self.mr, -(-codes.depth * 4 // 64) * 64 + 64
        block = self.mr * self.nv * isa.width
        self.totals = block  # after what the writer uses
        self.records = self.totals + block
        self.total_at = self._total_at()
        self.record_bytes = -(-(self.total_at + 4) // 64) * 64
        self.copy = self.records + (rows * self.record_bytes if self.total_at >= 0 else 0)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, self.prefix, self.copy + (rows * self.row_bytes if self.copied else 0))

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
        start = blocks.rows.start(k, first)
        end = blocks.rows.start(k, last)
        end = end if isinstance(p.m, int) else k.min(end, m)
        a, stride = self._a_rows(index, start, end)
        recorded = self.total_at >= 0
        if recorded:
            for row in k.range(start, end):
                self._look(a + row * stride, self._record(row, start))
        for panel in k.range(p0, p1):
            def micro(row: IntLike, size: int, valid: IntLike, panel: IntLike = panel, exact: bool = False) -> None:
                rows = tile_rows(a + row * stride, stride, size, valid)
                known = [] if exact or not recorded else [
                    at + disp for at, disp in tile_rows(self._record(row, start), self.record_bytes, size, valid)]
                self._product(rows, known, panel)
                self.writer.block(self._results(size), row, valid, panel * self.nr, args.dim(p.n), k.scratch)

            blocks.rows.emit(k, m, first, last, micro)
            if recorded:
                for row in k.range(start, end):
                    total = k.load("float", self._record(row, start) + self.total_at)
                    with k.if_((total - total).ne(0.0)):
                        micro(row, 1, 1, exact=True)

    def _a_rows(self, index: list[IntLike], start: IntLike, end: IntLike) -> tuple[Val, IntLike]:
        """Address of row 0 and stride of rows in bytes, in fp32; copies the tile's rows where they are not."""
        k, p, dtype = self.k, self.p, self.region.inputs[0].dtype
        a = self.args.pointer(In(0))
        for i, strides in zip(index, p.batch_strides, strict=True):
            a = a + i * self.args.dim(strides[A]) * dtype.size
        stride = self.args.dim(p.row[A]) * dtype.size
        if not self.copied:
            return a, stride
        to = k.scratch + self.copy
        depth = self.codes.depth
        copy_rows(k, a + start * stride, stride, dtype.llvm, to, self.row_bytes, "float", end - start, depth, depth)
        return k.gep(to, -(k.i64(start) * self.row_bytes)), self.row_bytes

    # -- what rows are looked through for ----------------------------------------------------------

    def _total_at(self) -> int:
        """Where a row's record has a number that is not finite if the row must be computed exactly; -1: no records."""
        return self.codes.groups * 4 if self.codes.zeros else -1

    def _record(self, row: IntLike, start: IntLike) -> Val:
        return self.k.scratch + self.records + (row - start) * self.record_bytes

    def _look(self, a: Val, to: Val) -> None:
        """The sum of each group of a row, then the sum of those (not finite if any activation is not)."""
        k, lanes = self.k, self.k.isa.lanes
        total = k.var("float", 0.0)
        for g0, count, rows in self._spans():
            for g in k.range(0, count):
                at = a + (g0 * self.codes.group + g * rows) * 4
                s = k.var(f"<{lanes} x float>", 0.0)
                for i in k.range(0, rows - rows % lanes, lanes):
                    s.set(s.get() + k.load("float", at + i * 4, lanes))
                if rows % lanes:
                    tail = k.load("float", at + (rows - rows % lanes) * 4, lanes, k.tail_mask(rows % lanes, lanes))
                    s.set(s.get() + tail)
                one = k.reduce_add(s.get())
                k.store(one, to + (g0 + g) * 4)
                total.set(total.get() + one)
        k.store(total.get(), to + self.total_at)

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """(first group, groups, rows of each)."""
        at = 0
        for count, rows in self.codes.spans:
            yield at, count, rows
            at += count

    # -- products --------------------------------------------------------------------------------

    def _product(self, rows: list[Row], records: list[Val], panel: IntLike) -> None:
        """Leaves a micro-tile's results in scratch. records: of its rows; [] to take zero points off the codes."""
        k, codes, lanes = self.k, self.codes, self.k.isa.lanes
        size = len(rows)
        b = self.args.pointer(Packed(0)) + panel * codes.panel_bytes(self.nr)
        scales = self.args.pointer(Packed(1)) + panel * (codes.groups * self.nr * 4)
        zeros = self.args.pointer(Packed(2)) + panel * (codes.groups * self.nr) if codes.zeros else None
        totals = Accumulators(k, size, self.nv)
        totals.zero()
        self._put(totals)
        for g0, count, depth in self._spans():
            step = codes.words(depth) * self.nr * codes.size
            first = b + g0 * codes.words(codes.group) * self.nr * codes.size
            for g in k.range(0, count):
                acc = Accumulators(k, size, self.nv)
                acc.zero()
                here = [(base + g * (depth * 4), disp + g0 * codes.group * 4) for base, disp in rows]
                at_zero = zeros + (g0 + g) * self.nr if zeros is not None else None
                if self.params["prefetch"]:
                    self._ahead(scales + (g0 + g) * (self.nr * 4), at_zero)
                off = [self.decoder.zeros(at_zero, j) for j in range(self.nv)] if at_zero is not None else []
                self._group(acc, here, first + g * step, depth, off if not records else [])
                for j in range(self.nv):
                    scale = k.load("float", scales + (g0 + g) * (self.nr * 4) + j * k.isa.width, lanes,
                                   align=k.isa.width)
                    for r in range(size):
                        v = acc.get(r, j)
                        if records:
                            s = k.splat(k.load("float", records[r] + (g0 + g) * 4), lanes)
                            v = k.fma(-s, off[j], v)
                        at = self._total(r, j)
                        k.store(k.fma(v, scale, k.load("float", at, lanes, align=k.isa.width)), at, align=k.isa.width)

    def _prefetch(self, codes: Val) -> None:
        """Bring in what lies ahead of a row of packed codes."""
        for i in range(0, self.nr * self.codes.size if self.params["prefetch"] else 0, 64):
            self.k.prefetch(codes + (i + self.params["prefetch"]))
            self.k.prefetch(codes + (i + 4 * self.params["prefetch"]), 2)

    def _ahead(self, scales: Val, zeros: Val | None) -> None:
        """Bring in the next group's scales and zero points: too few lines at a time for the CPU to foresee."""
        for i in range(0, self.nr * 4, 64):
            self.k.prefetch(scales + self.nr * 4 + i)
        if zeros is not None:
            self.k.prefetch(zeros + self.nr)

    def _group(self, acc: Accumulators, rows: list[Row], b: Val, depth: int, off: list[Val]) -> None:
        """acc += A[rows, one group] @ (codes - off)."""
        k, codes = self.k, self.codes
        per = codes.per
        unroll = 4 if per == 1 else 1
        line = self.nr * codes.size

        def word(w: IntLike, count: int) -> None:
            at = b + w * line
            self._prefetch(at)
            loaded = [self.decoder.load(at, j) for j in range(self.nv)]
            here = [(base + w * (per * 4), disp) for base, disp in rows]
            for i in range(count):
                numbers = [self.decoder.value(v, i) for v in loaded]
                if off:
                    numbers = [n - z for n, z in zip(numbers, off, strict=True)]
                for r, (base, disp) in enumerate(here):
                    x = k.splat(k.load("float", base + (disp + i * 4)), acc.lanes)
                    for j, n in enumerate(numbers):
                        acc.set(r, j, k.fma(x, n, acc.get(r, j)))

        whole, rest = divmod(depth, per)
        for w in k.range(0, whole - whole % unroll, unroll):
            for u in range(unroll):
                word(w + u, per)
        for w in range(whole - whole % unroll, whole):
            word(w, per)
        if rest:
            word(whole, rest)

    def _total(self, r: int, j: int) -> Val:
        return self.k.scratch + self.totals + (r * self.nv + j) * self.k.isa.width

    def _put(self, acc: Accumulators) -> None:
        for r, j, v in acc.each():
            self.k.store(v, self._total(r, j), align=self.k.isa.width)

    def _results(self, size: int) -> Accumulators:
        k = self.k
        acc = Accumulators(k, size, self.nv)
        for r in range(size):
            for j in range(self.nv):
                acc.set(r, j, k.load("float", self._total(r, j), acc.lanes, align=k.isa.width))
        return acc
