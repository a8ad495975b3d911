"""Micro-kernels: products of a few rows by a packed panel, held in registers.

A micro-kernel adds  acc[r][j] += sum_p A[r, p] * B[p, j*lanes : (j+1)*lanes]  for `mr` rows and `nv`
vectors of columns. Its operands:

- A by `Row`s, one per row: a base pointer plus a constant displacement in bytes. Any addresses will
  do (`strided_rows`, `packed_rows`, or one pointer per output pixel of a convolution). Rows that
  share the base `Val` share address arithmetic.
- B as a packed panel, 64-byte aligned: [K][NR] elements (`fma`), or [ceil(K/2)][NR][2] bf16 pairs
  (`dot_bf16`); NR = nv * lanes. NumPy packers for constants are in `packing.py`.
- `Accumulators`: loop-carried variables, so that several calls (filter taps, K blocks) add up.

Register needs: mr * nv accumulators + nv panel vectors + 1 broadcast must fit `isa.registers`;
`shapes(isa)` lists the tile shapes that do, the fastest first.

AMX works on 2 x 2 tiles of 16 x 16 accumulators: `Amx`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec

Row = tuple[Val, int]  # address of A[r, 0]: pointer, and constant bytes to add


def shapes(isa: Isa) -> list[tuple[int, int]]:
    """Tile shapes (mr, nv) that fit the register file, by arithmetic per loaded value, best first."""
    out = []
    for nv in range(1, 7):
        mr = (isa.registers - 1 - nv) // nv
        out += [(m, nv) for m in range(max(1, mr - 4), mr + 1) if m * nv >= isa.registers // 3]
    return sorted(out, key=lambda s: (-(s[0] * s[1]) / (s[0] + s[1]), s))


class Accumulators:
    """mr x nv vectors of sums in registers; `lanes` fp32 or i32 each."""

    def __init__(self, k: Fn, mr: int, nv: int, ty: str = "float") -> None:
        """Declares the variables; their value is undefined until `zero` or `set`. ty: `float` or `i32`."""
        self.k, self.mr, self.nv, self.lanes, self.ty = k, mr, nv, k.isa.lanes, ty
        self.vars = [[k.var(vec(ty, self.lanes)) for _ in range(nv)] for _ in range(mr)]

    def zero(self) -> None:
        for row in self.vars:
            for v in row:
                v.set(0.0 if self.ty == "float" else 0)

    def get(self, r: int, j: int) -> Val:
        return self.vars[r][j].get()

    def set(self, r: int, j: int, v: Val) -> None:
        self.vars[r][j].set(v)

    def each(self) -> Iterator[tuple[int, int, Val]]:
        """(row, vector of columns, value) of every accumulator."""
        for r in range(self.mr):
            for j in range(self.nv):
                yield r, j, self.get(r, j)


def strided_rows(k: Fn, base: Val, stride: IntLike, mr: int) -> list[Row]:
    """Rows at base, base + stride, ... (bytes). A constant stride costs no registers."""
    if isinstance(stride, int):
        return [(base, r * stride) for r in range(mr)]
    return [(base + stride * r, 0) for r in range(mr)]


def packed_rows(panel: Val, mr: int, size: int = 4) -> list[Row]:
    """Rows of an A panel packed as [K][mr] elements of `size` bytes; pass `a_step=mr * size`."""
    return [(panel, r * size) for r in range(mr)]


@dataclass(frozen=True)
class Fetch:
    """Memory to bring into the second-level cache while a product runs: `count` lines per loop iteration.

    The next panel, a part of it by each micro-tile: when its turn comes, it is there.
    """

    start: Val
    count: int

    def lines(self, k: Fn, iteration: IntLike) -> None:
        for i in range(self.count):
            k.prefetch(self.start + (iteration * self.count + i) * 64, 2)


def _blocks(k: Fn, depth: IntLike, unroll: int) -> Iterator[tuple[IntLike, int]]:
    """(first step, number of steps) of an unrolled loop over `depth` steps and its remainder."""
    rest = depth % unroll
    main = depth - rest
    for p in k.range(0, main, unroll):
        yield p, unroll
    if isinstance(rest, int):
        if rest:
            yield main, rest
    else:
        for p in k.range(main, depth):
            yield p, 1


def _advanced(rows: Sequence[Row], step: IntLike) -> list[Row]:
    """Rows moved on by `step` bytes, with one address computation per distinct base."""
    moved = {id(base): base + step for base, _ in rows}
    return [(moved[id(base)], disp) for base, disp in rows]


def widen(k: Fn, v: Val) -> Val:
    """bf16 (lanes or scalar) to fp32, exactly."""
    bits = k.cast("zext", k.bitcast(v, vec("i16", v.lanes)), "i32")
    return k.bitcast(bits << 16, vec("float", v.lanes))


def round_bf16(k: Fn, v: Val) -> Val:
    """fp32 rounded to the nearest bf16 value (ties to even), still fp32; NaN stays NaN."""
    bits = k.bitcast(v, vec("i32", v.lanes))
    odd = k.op("lshr", bits, k.const(bits.ty, 16)) & 1
    rounded = (bits + odd + 0x7FFF) & -0x10000
    return k.select(k.cmp("uno", v, v), v, k.bitcast(rounded, v.ty))


def narrow(k: Fn, v: Val) -> Val:
    """fp32 to bf16, rounded to nearest even, as i16 lanes. NaN stays NaN."""
    if k.isa.bf16_dot and v.lanes == 16:
        b = k.call("llvm.x86.avx512bf16.cvtneps2bf16.512", "<16 x bfloat>", [v])
        return k.bitcast(b, "<16 x i16>")
    bits = k.bitcast(v, vec("i32", v.lanes))
    quiet = k.select(k.cmp("uno", v, v), k.bitcast(bits | 0x400000, v.ty), round_bf16(k, v))
    high = k.op("lshr", k.bitcast(quiet, bits.ty), k.const(bits.ty, 16))
    return k.cast("trunc", high, "i16")


def load_f32(k: Fn, scalar: str, p: Val, lanes: int = 1, mask: Val | None = None, align: int | None = None) -> Val:
    """Load `float`, `bfloat` or `half` elements as fp32; masked-off lanes are 0."""
    if scalar == "bfloat":
        v = k.load("i16", p, lanes, mask, align)
        return k.bitcast(k.cast("zext", v, "i32") << 16, vec("float", lanes))
    if scalar == "half":
        v = k.bitcast(k.load("i16", p, lanes, mask, align), vec("half", lanes))
        return k.cast("fpext", v, "float")
    return k.load(scalar, p, lanes, mask, align)


def fma(k: Fn, acc: Accumulators, rows: Sequence[Row], panel: Val, depth: IntLike, *, unroll: int = 4,
        a_step: IntLike | None = None, a_type: str = "float", b_type: str = "float", prefetch: int = 0,
        fetch: Fetch | None = None) -> None:
    """acc += A[rows, 0:depth] @ panel[0:depth], in fp32.

    rows:     acc.mr addresses; element p of a row lies `p * a_step` bytes on (default: its size).
    panel:    [depth][nv * lanes] of `b_type` (`float` or `bfloat`), 64-byte aligned rows if `float`.
    prefetch: bytes ahead in the panel to prefetch into the first-level cache (0: leave it to the CPU).
    fetch:    what else to bring in on the way.
    Every sum is one fused multiply-add per step, in order of p: bits do not depend on unroll.
    """
    lanes, nv = acc.lanes, acc.nv
    b_size = 2 if b_type == "bfloat" else 4
    b_row = nv * lanes * b_size
    a_step = (2 if a_type == "bfloat" else 4) if a_step is None else a_step
    align = min(64, lanes * b_size)
    for p, steps in _blocks(k, depth, unroll):
        here = _advanced(rows, p * a_step)
        b_here = panel + p * b_row
        if fetch and steps == unroll:
            fetch.lines(k, p // unroll)
        for u in range(steps):
            if prefetch:
                for line in range(0, b_row, 64):
                    k.prefetch(b_here + (u * b_row + line + prefetch))
            b = [load_f32(k, b_type, b_here + (u * b_row + j * lanes * b_size), lanes, align=align) for j in range(nv)]
            for r, (base, disp) in enumerate(here):
                a = k.splat(load_f32(k, a_type, base + (disp + u * a_step)), lanes)
                for j in range(nv):
                    acc.set(r, j, k.fma(a, b[j], acc.get(r, j)))


def dot_bf16(k: Fn, acc: Accumulators, rows: Sequence[Row], panel: Val, depth: IntLike, *, unroll: int = 2,
             a_step: int = 4, prefetch: int = 0, fetch: Fetch | None = None) -> None:
    """acc += A[rows, 0:2*depth] @ panel, in bf16 products added in fp32 (`vdpbf16ps`).

    depth:  PAIRS of K; A rows are bf16, pair p `p * a_step` bytes on, both halves readable (an odd K
            is padded with zeros by whoever packs A and B).
    panel:  [depth][nv * lanes][2] bf16, 64-byte aligned.
    Needs `isa.bf16_dot`.
    """
    lanes, nv = acc.lanes, acc.nv
    pairs = vec("bfloat", 2 * lanes)
    ty = vec("float", lanes)
    for p, steps in _blocks(k, depth, unroll):
        here = _advanced(rows, p * a_step)
        b_here = panel + p * (nv * lanes * 4)
        if fetch and steps == unroll:
            fetch.lines(k, p // unroll)
        for u in range(steps):
            if prefetch:
                for j in range(nv):
                    k.prefetch(b_here + ((u * nv + j) * 64 + prefetch))
            b = [k.load("bfloat", b_here + (u * nv + j) * lanes * 4, 2 * lanes, align=64) for j in range(nv)]
            for r, (base, disp) in enumerate(here):
                a = k.bitcast(k.splat(k.load("i32", base + (disp + u * a_step), align=2), lanes), pairs)
                for j in range(nv):
                    acc.set(r, j, k.call("llvm.x86.avx512bf16.dpbf16ps.512", ty, [acc.get(r, j), a, b[j]]))


class Amx:
    """Tile registers: 32 x 32 accumulators (tiles 0..3), A in tiles 4 and 5, B in 6 and 7.

    Operands are bf16 with fp32 sums (`tdpbf16ps`), or u8 (`tdpbusd`) or i8 (`tdpbssd`) by i8 with i32 sums. A tile
    of A is 16 rows of 64 bytes; a tile of B is 64 bytes of K by 16 columns in VNNI order: [16][16 columns][4 bytes
    of K]. Needs `isa.amx_bf16` or `isa.amx_int8`, and the permission that Linux gives a process by
    arch_prctl(ARCH_REQ_XCOMP_PERM, 18).
    """

    BLOCK = 32  # rows and columns of accumulators
    K = 64      # bytes of K per product

    def __init__(self, k: Fn, instruction: str = "tdpbf16ps", row_bytes: int = K) -> None:
        """Configures the tiles: call once, at the kernel's start, and `release` at its end.

        row_bytes: of K that products take in (a multiple of 4, at most 64): less is read of A and B.
        """
        self.k, self.instruction = k, f"llvm.x86.{instruction}"
        size, rows = np.full(8, 64, "<u2"), np.full(8, 16, np.uint8)
        size[4:6], rows[6:8] = row_bytes, row_bytes // 4
        config = np.zeros(64, np.uint8)
        config[0] = 1                       # palette
        config[16:32] = size.view(np.uint8)  # bytes per row
        config[48:56] = rows
        k.call("llvm.x86.ldtilecfg", "void", [k.table(config)])

    def release(self) -> None:
        """Give the tile state back: context switches need not save it."""
        self.k.call("llvm.x86.tilerelease", "void", [])

    def zero(self, tiles: Sequence[int] = (0, 1, 2, 3)) -> None:
        for t in tiles:
            self._tile("tilezero", t)

    def load(self, tile: int, p: Val, stride: IntLike) -> None:
        """16 rows of 64 bytes, `stride` bytes apart."""
        self._tile("tileloadd64", tile, p, self.k.i64(stride))

    def store(self, tile: int, p: Val, stride: IntLike) -> None:
        """16 rows of 64 bytes, `stride` bytes apart."""
        self._tile("tilestored64", tile, p, self.k.i64(stride))

    def product(self, c: int, a: int, b: int) -> None:
        """Tile c += tile a @ tile b."""
        self.k._declare(self.instruction, "void", ["i8 immarg"] * 3)
        self.k.line(f"call void @{self.instruction}(i8 {c}, i8 {a}, i8 {b})")

    def block(self, a: Sequence[Val], a_stride: IntLike, b: Sequence[Val], depth: IntLike, *,
              a_step: int = 64, b_step: int = 1024, unroll: int = 1, fetch: Fetch | None = None) -> None:
        """Accumulators += A (16 * len(a) rows) @ B (16 * len(b) columns); accumulator i * 2 + j.

        a: one or two addresses of 16-row blocks; rows `a_stride` bytes apart, K blocks `a_step` apart.
        b: one or two addresses of 16-column panels, tiles of 1024 bytes, `b_step` apart.
        depth: K blocks of 64 bytes (whoever packs pads K with zeros).
        """
        for p, steps in _blocks(self.k, depth, unroll):
            if fetch:
                fetch.lines(self.k, p)
            for u in range(steps):
                for i, pa in enumerate(a):  # each product as soon as its operands are there
                    self.load(4 + i, pa + (p + u) * a_step, a_stride)
                    for j, pb in enumerate(b):
                        if i == 0:
                            self.load(6 + j, pb + (p + u) * b_step, 64)
                        self.product(i * 2 + j, 4 + i, 6 + j)

    def _tile(self, name: str, tile: int, *args: Val) -> None:
        self.k._declare(f"llvm.x86.{name}", "void", ["i8 immarg"] + [a.ty for a in args])
        rest = "".join(f", {a.ty} {a.ref}" for a in args)
        self.k.line(f"call void @llvm.x86.{name}(i8 {tile}{rest})")
