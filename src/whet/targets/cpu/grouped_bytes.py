"""Products of a few rows by weights of 4 bits in integers: a byte dot product takes 64 of them at once.

A group of a row's activations becomes numbers of 16 bits, multiples of its greatest magnitude / 32639: two planes of
bytes, 256 high + low. Sums of a group are exact. What activations lose is 2^-16 of the group's greatest, where bf16
loses 2^-9 of each: so this is for products that may be taken in bf16.
"""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Packed, Params, Step
from whet.targets.cpu import vmath
from whet.targets.cpu.gemm_emit import RowTiles
from whet.targets.cpu.gemm_kernel import Blocks
from whet.targets.cpu.gemm_problem import matmul_problem, opt
from whet.targets.cpu.grouped_pack import codes_of
from whet.targets.cpu.grouped_rows import (
    MOST_ROWS,
    GroupedRows,
    RowsKernel,
    grouped_reason,
    rows_to_cut,
    weight_packs,
)
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import IntLike, Val, vec
from whet.targets.cpu.microkernel import Accumulators, Row

LARGEST = 127 * 256 + 127  # of the numbers that two planes of signed bytes hold, either sign
LEAST = 2.0 ** -100        # a group whose greatest magnitude is less, and not 0, is left to floats
MOST_GROUP = 2048          # rows whose sums fit 32 bits: 15 * 127 * 256 * rows
WORD = 16                  # bytes of the planes that meet a word of codes: high, low, each of even and of odd rows


class GroupedBytes:
    """C = A @ W as `GroupedRows`, with its parameters and packed weights, by `vpdpbusd`.

    A row with a NaN or an infinity is computed as `GroupedRows` does.
    """

    name = "grouped_bytes"

    def applies(self, region: Region, machine: Isa) -> str:
        if not (machine.vnni or machine.avx_vnni):
            return "no VNNI"
        if region.compute != "bf16":
            return "products are to be taken in f32"
        reason = grouped_reason(region)
        if reason:
            return reason
        codes = codes_of(region)
        if codes.bits != 4:
            return f"codes of {codes.bits} bits"
        return f"groups of {codes.group} rows" if codes.group > MOST_GROUP else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        m = rows_to_cut(region, matmul_problem(region))
        found: dict[str, tuple[float, Params]] = {}
        for p in GroupedRows().space(region, machine, threads):
            for mr, nv in _MICRO:
                if (m + 3) // 4 <= mr <= m or mr == _MICRO[-1][0] < m:
                    nt = max(1, p["nt"] * p["nv"] // nv)
                    made = {**p, "mr": mr, "nv": nv, "mt": min(MOST_ROWS, -(-m // mr)), "nt": nt}
                    found.setdefault(repr(made), (self.cost(region, made, machine, threads), made))
        return [p for _, p in sorted(found.values(), key=lambda f: f[0])[:16]]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: a word of codes takes three instructions to split and four for each row."""
        p, codes = matmul_problem(region), codes_of(region)
        m, n, batch = max(1, opt(region, p.m)), max(1, opt(region, p.n)), max(1, opt(region, product(p.batch)))
        mr, nv, mt, nt = (params[x] for x in ("mr", "nv", "mt", "nt"))
        micro, panels = -(-m // mr), -(-n // (nv * machine.lanes))
        rows = m / micro
        step = max(nv * (3 + 4 * rows) / 2, 10.0)
        flush = codes.groups * nv * (5 * rows + 3)
        tile = mt * nt * (codes.word_rows * step + flush + 40) + mt * mr * codes.depth * 0.6 + 300
        tiles = batch * -(-micro // mt) * -(-panels // nt)
        used = micro * panels * batch / (tiles * mt * nt)
        fetch = codes.panel_bytes(nv * machine.lanes) * panels / 6 / threads * (0.9 if params["prefetch"] else 1.0)
        return max(tile * used * (tiles / threads if tiles > 3 * threads else -(-tiles // threads)), fetch) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p, codes = matmul_problem(region), codes_of(region)
        nr = params["nv"] * machine.lanes
        blocks = Blocks(RowTiles(p.m, params["mr"]), ceildiv(p.n, nr), params["mt"], params["nt"], product(p.batch),
                        False)
        made = _Bytes(region, p, codes, blocks, params, machine)
        step = Step(made.kernel, made.args.table, blocks.tiles)
        return Implementation((step,), weight_packs(region, codes, nr))


_MICRO = ((1, 4), (1, 2), (2, 4), (2, 3), (2, 2), (4, 2))


class _Bytes(RowsKernel):
    """The kernel. A row's record: its planes, a factor and a sum for each group, and what tells if it is finite."""

    prefix = "grouped_bytes"

    def _total_at(self) -> int:
        self.factors = self.codes.word_rows * WORD + WORD  # the last store of planes may reach over
        return self.factors + self.codes.groups * 8

    def _look(self, a: Val, to: Val) -> None:
        """Write a row's record."""
        k, lanes = self.k, self.k.isa.lanes
        ty = vec("float", lanes)
        bad = k.var("float", 0.0)
        for g0, count, rows in self._spans():
            first_word = g0 * self.codes.words(self.codes.group)
            whole, rest = rows - rows % lanes, rows % lanes
            mask = k.tail_mask(rest, lanes) if rest else None
            for g in k.range(0, count):
                at = a + (g0 * self.codes.group + g * rows) * 4
                most, strange = k.var(ty, 0.0), k.var(ty, 0.0)

                def extremes(v: Val, most: object = most, strange: object = strange) -> None:
                    size = vmath.fabs(k, v)
                    most.set(k.select(size > most.get(), size, most.get()))  # type: ignore[attr-defined]
                    strange.set(strange.get() + (v - v))  # type: ignore[attr-defined]

                for i in k.range(0, whole, lanes):
                    extremes(k.load("float", at + i * 4, lanes))
                if mask is not None:
                    extremes(k.load("float", at + whole * 4, lanes, mask))
                top = k.call(f"llvm.vector.reduce.fmax.v{lanes}f32", "float", [most.get()])
                none = top.eq(0.0)
                tiny = k.select((top < LEAST) & top.ne(0.0), k.const("float", float("nan")), 0.0)
                bad.set(bad.get() + k.reduce_add(strange.get()) + tiny)
                turn = k.splat(k.select(none, 0.0, LARGEST / top), lanes)
                planes = to + (first_word + g * self.codes.words(rows)) * WORD
                sums = k.var(vec("i32", lanes), 0)

                def put(v: Val, i: IntLike, turn: Val = turn, planes: Val = planes, sums: object = sums) -> None:
                    q = k.cast("fptosi", k.intrinsic("llvm.rint", v * turn), "i32")
                    sums.set(sums.get() + q)  # type: ignore[attr-defined]
                    high = (q + 128) >> 8
                    parts = [k.cast("trunc", x, "i8") for x in (high, q - (high << 8))]
                    order = [plane * lanes + w * 8 + 2 * b + odd for w in range(lanes // 8) for plane in range(2)
                             for odd in range(2) for b in range(4)]
                    k.store(k.shuffle(parts[0], parts[1], order), planes + i * 2, align=WORD)

                for i in k.range(0, whole, lanes):
                    put(k.load("float", at + i * 4, lanes), i)
                if mask is not None:
                    put(k.load("float", at + whole * 4, lanes, mask), whole)
                group = to + self.factors + (g0 + g) * 8
                k.store(top * (1 / LARGEST), group)
                k.store(k.cast("sitofp", k.reduce_add(sums.get()), "float"), group + 4)
        k.store(bad.get(), to + self.total_at)

    def _product(self, rows: list[Row], records: list[Val], panel: IntLike) -> None:
        """Leaves a micro-tile's results in scratch, by integers where the rows have records."""
        if not records:
            super()._product(rows, records, panel)
            return
        k, codes, lanes = self.k, self.codes, self.k.isa.lanes
        size = len(records)
        b = self.args.pointer(Packed(0)) + panel * codes.panel_bytes(self.nr)
        scales = self.args.pointer(Packed(1)) + panel * (codes.groups * self.nr * 4)
        zeros = self.args.pointer(Packed(2)) + panel * (codes.groups * self.nr) if codes.zeros else None
        totals = Accumulators(k, size, self.nv)
        totals.zero()
        self._put(totals)
        for g0, count, depth in self._spans():
            words = codes.words(depth)
            for g in k.range(0, count):
                word = g * words + g0 * codes.words(codes.group)
                at_zero = zeros + (g0 + g) * self.nr if zeros is not None else None
                if self.params["prefetch"]:
                    self._ahead(scales + (g0 + g) * (self.nr * 4), at_zero)
                sums = self._group_sums([r + word * WORD for r in records], b + word * (self.nr * 4), words)
                for j in range(self.nv):
                    scale = k.load("float", scales + (g0 + g) * (self.nr * 4) + j * k.isa.width, lanes,
                                   align=k.isa.width)
                    off = k.const(vec("float", lanes), 8.0) if at_zero is None else self.decoder.zeros(at_zero, j) + 8.0
                    for r, record in enumerate(records):
                        group = record + self.factors + (g0 + g) * 8
                        factor, total = (k.splat(k.load("float", group + x), lanes) for x in (0, 4))
                        v = k.fma(-total, off, k.cast("sitofp", sums[r][j], "float"))
                        at = self._total(r, j)
                        known = k.load("float", at, lanes, align=k.isa.width)
                        k.store(k.fma(v, scale * factor, known), at, align=k.isa.width)

    def _group_sums(self, planes: list[Val], b: Val, words: int) -> list[list[Val]]:
        """Of each row and vector of columns, the sum of a group's numbers times codes from 0 to 15."""
        k, lanes, size = self.k, self.k.isa.lanes, len(planes)
        ty, name = vec("i32", lanes), f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        apart = size == 1  # even and odd rows have sums of their own: else each would wait for the one before
        acc = [[Accumulators(k, size, self.nv, "i32") for _ in range(2 if apart else 1)] for _ in range(2)]
        for a in (x for plane in acc for x in plane):
            a.zero()
        low, flip = k.const(ty, 0x0F0F0F0F), k.const(ty, 0x08080808)
        for w in k.range(0, words):
            at = b + w * (self.nr * 4)
            self._prefetch(at)
            halves: list[list[Val]] = [[], []]
            for j in range(self.nv):
                v = self.decoder.load(at, j)
                for odd, x in enumerate((v, k.op("lshr", v, k.const(ty, 4)))):
                    halves[odd].append((x & low) ^ flip)
            for r, plane in enumerate(planes):
                for i in range(2):
                    for odd in range(2):
                        x = k.splat(k.load("i32", plane + w * WORD + (i * 8 + odd * 4)), lanes)
                        to = acc[i][odd if apart else 0]
                        for j in range(self.nv):
                            to.set(r, j, k.call(name, ty, [to.get(r, j), halves[odd][j], x]))

        def whole(plane: list[Accumulators], r: int, j: int) -> Val:
            v = plane[0].get(r, j)
            return v + plane[1].get(r, j) if apart else v

        return [[(whole(acc[0], r, j) << 8) + whole(acc[1], r, j) for j in range(self.nv)] for r in range(size)]
