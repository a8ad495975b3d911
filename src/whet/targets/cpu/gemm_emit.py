"""Pieces that the matmul kernels share: cutting rows into micro-tiles, packing, and writing results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whet.ir.symbolic import Dim, ceildiv
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.microkernel import Row, load_f32

TileBody = Callable[[IntLike, int, IntLike], None]  # (first row, rows of the micro-tile, rows that exist)


@dataclass(frozen=True)
class RowTiles:
    """M rows cut into micro-tiles of at most `mr` rows.

    A static M is cut evenly (128 rows by 14 are 8 tiles of 13 and 2 of 12: no tile is mostly padding).
    A symbolic M is cut into tiles of mr and a remainder, which runs the smallest of a few variants
    that holds it; its surplus rows repeat the last one and are not stored.
    """

    m: Dim
    mr: int

    @property
    def count(self) -> Dim:
        """Micro-tiles in all."""
        return ceildiv(self.m, self.mr)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Static M: (rows of a small tile, number of tiles, how many first ones have a row more)."""
        assert isinstance(self.m, int)
        t = max(1, -(-self.m // self.mr))
        return self.m // t, t, self.m % t

    def start(self, k: Fn, i: IntLike) -> IntLike:
        """First row of micro-tile i (of the end, for i == count)."""
        if not isinstance(self.m, int):
            return i * self.mr
        q, _, extra = self.sizes
        return i * q + k.min(i, extra)

    def emit(self, k: Fn, m: IntLike, first: IntLike, last: IntLike, body: TileBody) -> None:
        """The micro-tiles [first, last); `m` is M as the kernel sees it."""
        if isinstance(self.m, int):
            q, t, extra = self.sizes
            if extra:
                for i in k.range(first, k.min(last, extra)):
                    body(i * (q + 1), q + 1, q + 1)
            if q and extra < t:
                for i in k.range(k.max(first, extra), last):
                    body(i * q + extra, q, q)
            return
        full = m // self.mr
        for i in k.range(first, k.min(last, full)):
            body(i * self.mr, self.mr, self.mr)
        rest = m % self.mr
        if isinstance(rest, int) and rest == 0:
            return
        at = full * self.mr
        with k.if_((k.i64(last) > full) & (k.i64(rest) > 0)):
            low = 0
            for v in self.variants():
                with k.if_((k.i64(rest) > low) & (k.i64(rest) <= v)):
                    body(at, v, rest)
                low = v

    def variants(self) -> list[int]:
        """Sizes of the kernels for a remainder of 1 .. mr - 1 rows."""
        return sorted({1, max(1, self.mr // 4), max(1, self.mr // 2), max(1, self.mr - 1)}) if self.mr > 1 else []


def tile_rows(base: Val, stride: IntLike, rows: int, valid: IntLike) -> list[Row]:
    """Addresses of a micro-tile's rows (`stride` in bytes); rows past `valid` repeat the last."""
    if isinstance(valid, int) and valid >= rows:
        if isinstance(stride, int):
            return [(base, r * stride) for r in range(rows)]
        return [(base + stride * r, 0) for r in range(rows)]
    k = base.fn
    return [(base + k.min(r, valid - 1) * stride, 0) for r in range(rows)]


def copy_rows(k: Fn, src: Val, src_stride: IntLike, src_type: str, dst: Val, dst_stride: IntLike, dst_type: str,
              rows: IntLike, cols: IntLike, padded: IntLike, convert: Callable[[Val], Val] | None = None) -> None:
    """Copy `rows` rows of `cols` elements, zeros up to `padded` columns; strides in bytes.

    `convert` takes fp32 lanes to `dst_type` lanes (None: fp32).
    """
    lanes = k.isa.lanes
    s_size, d_size = (4 if ty == "float" else 2 for ty in (src_type, dst_type))
    unroll = 4
    for r in k.range(0, rows):
        s_row, d_row = src + r * src_stride, dst + r * dst_stride

        def one(c: IntLike, mask: Val | None, s_row: Val = s_row, d_row: Val = d_row) -> None:
            v = load_f32(k, src_type, s_row + c * s_size, lanes, mask)
            k.store(convert(v) if convert else v, d_row + c * d_size)

        whole = cols - cols % (lanes * unroll)
        for c in k.range(0, whole, lanes * unroll):
            for u in range(unroll):
                one(c + u * lanes, None)
        for c in k.range(whole, padded, lanes):
            one(c, k.tail_mask(cols - c, lanes))


def pack_panel(k: Fn, b: Val, ty: str, row: IntLike, col: IntLike, transposed: bool, dst: Val, depth: IntLike,
               n: IntLike, n0: IntLike, nv: int, convert: Callable[[Val], Val] | None = None) -> None:
    """Pack columns n0 .. of B [depth, n] into dst [depth rounded up to lanes][nv * lanes] fp32.

    row, col: strides of B in bytes; one of them is the element's size: `transposed` says that it is
    `row` (columns of B are contiguous). Columns past n get unspecified values.
    """
    lanes = k.isa.lanes
    size = 4 if ty == "float" else 2
    out_row = nv * k.isa.width
    if not transposed:
        masks = [k.tail_mask(n - n0 - j * lanes, lanes) for j in range(nv)]
        src = b + n0 * size
        for p in k.range(0, depth):
            for j in range(nv):
                v = load_f32(k, ty, src + p * row + j * lanes * size, lanes, masks[j])
                k.store(convert(v) if convert else v, dst + p * out_row + j * k.isa.width, align=k.isa.width)
        return
    for j in k.range(0, nv):
        c0 = n0 + j * lanes
        with k.if_(k.i64(c0) < n):
            columns = [b + k.min(c0 + i, n - 1) * col for i in range(lanes)]
            for p in k.range(0, depth, lanes):
                mask = k.tail_mask(depth - p, lanes)
                block = transpose(k, [load_f32(k, ty, c + p * size, lanes, mask) for c in columns])
                for i, v in enumerate(block):
                    at = dst + (p + i) * out_row + j * k.isa.width
                    k.store(convert(v) if convert else v, at, align=k.isa.width)


def transpose(k: Fn, rows: Sequence[Val]) -> list[Val]:
    """len(rows) vectors of len(rows) lanes (a power of two), transposed by log2 rounds of shuffles."""
    n = len(rows)
    v = list(rows)
    step = 1
    while step < n:
        out = list(v)
        low = [i if not i & step else n + i - step for i in range(n)]
        high = [i + step if not i & step else n + i for i in range(n)]
        for i in range(n):
            if not i & step:
                out[i] = k.shuffle(v[i], v[i + step], low)
                out[i + step] = k.shuffle(v[i], v[i + step], high)
        v = out
        step *= 2
    return v
