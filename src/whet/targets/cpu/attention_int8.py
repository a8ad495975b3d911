"""Fused attention of 8-bit codes on AMX tiles: i8 by i8 scores, probabilities in u8, exact sums in i32.

As in `attention_amx`, a first step packs every head's K (transposed) and V into tiles in the workspace, and a tile of
work takes 32 queries of a head. Between the two products the softmax works on 16-bit fixed-point numbers: of the
distance from the row's maximum, y = (max - s) log2(e) scale, with 11 bits after the point, the code is

    255 * 2^-y = (255 * 2^-f) >> n,   n + f = y,   2^-f = 1 - f (B1 - B2 f) within 0.18 % (minimax)

32 keys to a vector. A byte cannot tell a better exponential from this one. Codes are summed as they are: then the
weights of a row add up to 1 whatever rounding did to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, Kernel, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.attention_problem import (
    MASK,
    K,
    Q,
    Sight,
    V,
    attention_problem,
    attention_reason,
    base_address,
    capped,
    longest,
    operands,
    widths,
)
from whet.targets.cpu.epilogue import load_value
from whet.targets.cpu.gemm_emit import transpose
from whet.targets.cpu.gemm_kernel import batch_index
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.microkernel import Amx
from whet.targets.cpu.vmath import fmax, fmin

BLOCK = Amx.BLOCK
KEYS = Amx.K  # keys of a tile of P, and bytes of a tile's row
TILE = 1024   # bytes of a tile
GROUP = 4     # rows of the softmax at a time
LONGEST = 8192  # keys: a block's scores must stay in the second-level cache
POINT = 11    # bits of y after the point
UNIT = math.log2(math.e) * (1 << POINT)  # of y in fixed point
FINEST = 1e-4  # units per score: below, the least integer would not lie 16 below every other score
HUGE = 1e35   # masks beyond are taken as this, so that they stay finite in units
# Minimax of the relative error on [0, 1], scaled to be 1 at 0:
B1, B2 = 0.6660076 / 0.99827525, 0.16859472 / 0.99827525
_ONE = 255 << 8  # a probability of 1: codes with 8 bits after the point
_LOWEST = -(1 << 31)
_INF = float("inf")


@dataclass(frozen=True)
class AttentionInt8:
    """Parameters: rows (queries per tile of work, a multiple of 32)."""

    name: str = "attention_int8"

    def applies(self, region: Region, machine: Isa) -> str:
        if not (machine.amx_int8 and machine.vnni):
            return "no AMX for integers"
        reason = attention_reason(region, (DType.I8,))
        if reason:
            return reason
        return f"more than {LONGEST} keys" if longest(region) > LONGEST else ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        queries = opt(region, region.output.shape[2])
        return [{"rows": r} for r in (32, 64, 128) if r == 32 or r < queries + 32]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 2.6 GHz: probabilities, products, packing."""
        p = attention_problem(region)
        d, e = widths(region)
        s, t, heads = opt(region, p.m), opt(region, p.k), opt(region, product(p.batch))
        blocks = -(-s // BLOCK)
        each = t * BLOCK / 16 * 6 + t * BLOCK * (d + e) / 600 + 1200
        return (heads * blocks * each + heads * t * (d + e) * 0.15) / threads / 2.6e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = attention_problem(region)
        d, e = widths(region)
        heads, blocks = product(p.batch), ceildiv(p.k, KEYS)
        kv_heads = product(p.batch[:2])
        k_bytes, v_bytes = blocks * (4 * TILE * _tiles(d)), blocks * (TILE * -(-e // 16))
        pack, pack_args = _pack_kernel(region, k_bytes, v_bytes, machine)
        main = _Kernel(region, params, k_bytes, v_bytes, machine)
        return Implementation((Step(pack, pack_args.table, kv_heads * blocks),
                               Step(main.kernel, main.args.table, heads * ceildiv(p.m, params["rows"]))),
                              workspace=kv_heads * (k_bytes + v_bytes))


def _tiles(width: int) -> int:
    """Tiles of 64 codes."""
    return -(-width // KEYS)


def _pack_kernel(region: Region, k_bytes: Dim, v_bytes: Dim, isa: Isa) -> tuple[Kernel, Args]:
    """Tile (head, 64 keys): packs those keys.

    K becomes [block][4][tiles of D][16 fours][16 keys][4], V [tiles of 16 columns][block][16 fours of keys][16][4].
    The fours of keys lie in the order in which saturating packs leave probabilities: 4 j + i in place 4 i + j.
    """
    p = attention_problem(region)
    d, e = widths(region)
    k = Fn(NAME, isa)
    args = Args(k)
    work = args.pointer(Work(0))
    blocks, keys = args.dim(ceildiv(p.k, KEYS)), args.dim(p.k)
    head_bytes = args.dim(k_bytes + v_bytes)
    for t in k.range(k.begin, k.end):
        head, block = t // blocks, t % blocks
        index = [*batch_index(args, replace(p, batch=p.batch[:2]), head), 0]
        first = block * KEYS
        out = work + head * head_bytes
        at, stride = base_address(args, region, p, K, index), args.dim(p.row[K])
        for part in k.range(0, 4):
            sources = [at + k.min(first + part * 16 + r, keys - 1) * stride for r in range(16)]
            for c in range(_tiles(d)):
                lines = [k.bitcast(_load_64(k, s, c * KEYS, d), "<16 x i32>") for s in sources]
                to = out + block * (4 * TILE * _tiles(d)) + (part * _tiles(d) + c) * TILE
                for r, v in enumerate(transpose(k, lines)):
                    k.store(v, to + r * 64, align=64)
        at, stride = base_address(args, region, p, V, index), args.dim(p.row[V])
        for four in k.range(0, 16):
            key = first + ((four & 3) * 4 + (four >> 2)) * 4
            rows = [at + k.min(key + r, keys - 1) * stride for r in range(4)]
            for c in range(_tiles(e)):
                for i, v in enumerate(_fours(k, [_load_64(k, r, c * KEYS, e) for r in rows])):
                    if c * KEYS + i * 16 < e:
                        k.store(v, out + args.dim(k_bytes) + ((c * 4 + i) * blocks + block) * TILE + four * 64,
                                align=64)
    return finish(k, "attention_int8_pack"), args


def _load_64(k: Fn, row: Val, at: int, width: int) -> Val:
    """Codes [at, at + 64) of a row; zeros from `width` on."""
    return k.load("i8", row + at, KEYS, k.tail_mask(width - at, KEYS) if width - at < KEYS else None)


def _fours(k: Fn, rows: list[Val]) -> list[Val]:
    """Four rows of 64 codes as four vectors of 16 columns, each column's codes side by side."""

    def unpack(a: Val, b: Val, high: bool) -> Val:
        """Elements of the low or high halves of 128-bit lanes by turns."""
        n = a.lanes // 4  # per lane
        return k.shuffle(a, b, [lane * n + (n // 2 if high else 0) + i // 2 + (i % 2) * a.lanes
                                for lane in range(4) for i in range(n)])

    a, b, c, d = rows
    mixed: list[Val] = []
    for high in (False, True):
        x, y = (k.bitcast(unpack(*v, high), "<32 x i16>") for v in ((a, b), (c, d)))
        mixed += [k.bitcast(unpack(x, y, h), "<8 x i64>") for h in (False, True)]
    out = []
    for lane in range(4):
        low, high_ = (k.shuffle(mixed[i], mixed[i + 1], [2 * lane, 2 * lane + 1, 8 + 2 * lane, 9 + 2 * lane])
                      for i in (0, 2))
        out.append(k.shuffle(low, high_, range(8)))
    return out


class _Kernel:
    """The main step."""

    def __init__(self, region: Region, params: Params, k_bytes: Dim, v_bytes: Dim, isa: Isa) -> None:
        self.region = region
        self.p = p = attention_problem(region)
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.d, self.e = widths(region)
        at = region.attrs
        self.scale = float(at["scale"]) * float(at["q_scale"]) * float(at["k_scale"])
        self.v_scale = float(at["v_scale"])
        self.cap, self.masked_zero = float(at.get("softcap", 0)), bool(at.get("masked_zero"))
        self.where = operands(region)
        self.sight = Sight(k, args, region, p)
        self.blocks = args.dim(ceildiv(p.k, KEYS))
        self.k_bytes, self.v_bytes = args.dim(k_bytes), args.dim(v_bytes)
        # Else scores stay integers, and their units wait until the maximum is known:
        self.real = MASK in self.where or self.cap > 0 or self.scale * UNIT < FINEST
        self.shared = MASK in self.where and p.row[MASK] == 0  # one row of the mask for all queries
        most = -(-max(1, longest(region)) // KEYS)
        self.score_row = most * KEYS * 4 + 64
        self.out_row = -(-self.e // BLOCK) * BLOCK * 4
        size, self.at = 0, {}
        for name, part in {"q": 2 * _tiles(self.d) * TILE, "s": BLOCK * self.score_row, "p": 2 * most * TILE,
                           "inverse": BLOCK * 4, "o": BLOCK * self.out_row,
                           "mask": most * KEYS * 4 if self.shared else 0}.items():
            self.at[name] = k.scratch + size
            size += -(-part // 64) * 64
        self.p_half = most * TILE
        self.writer = Writer(k, args, region, p)
        rows = params["rows"]
        count = args.dim(ceildiv(p.m, rows))
        self.amx = Amx(k, "tdpbssd")
        for t in k.range(k.begin, k.end):
            index = batch_index(args, p, t // count)
            self.writer.batch(index)
            self.sight.batch(index)
            head = t // count // args.dim(p.batch[2])
            q0 = t % count * rows
            if self.shared:
                self._share_mask(index)
            for q in k.range(q0, k.min(q0 + rows, args.dim(p.m)), BLOCK):
                self._block(head, index, q)
        self.amx.release()
        self.kernel = finish(k, "attention_int8", size)

    def _block(self, head: Val, index: list[IntLike], q0: IntLike) -> None:
        """32 queries of a head."""
        k, args, amx = self.k, self.args, self.amx
        live = k.min(args.dim(self.p.m) - q0, BLOCK)
        self._queries(index, q0)
        packed = args.pointer(Work(0)) + head * (self.k_bytes + self.v_bytes)
        depth = _tiles(self.d)
        end = self.sight.keys if self.sight.whole else self.sight.end(q0 + (BLOCK - 1))
        amx.instruction = "llvm.x86.tdpbssd"
        halves = [self.at["q"], self.at["q"] + depth * TILE]
        if depth == 1:
            for i, at in enumerate(halves):
                amx.load(4 + i, at, 64)
        for b in k.range(0, k.ceildiv(end, BLOCK)):
            amx.zero()
            at = packed + b * (2 * depth * TILE)
            if depth == 1:
                for j in range(2):
                    amx.load(6 + j, at + j * TILE, 64)
                    for i in range(2):
                        amx.product(i * 2 + j, 4 + i, 6 + j)
            else:
                amx.block(halves, 64, [at, at + depth * TILE], depth, a_step=TILE)
            self._store(self.at["s"] + b * (BLOCK * 4), self.score_row)
        blocks = k.ceildiv(end, KEYS)
        mask = None if self.shared or MASK not in self.where else (
            base_address(args, self.region, self.p, MASK, index) + q0 * self._mask_row())
        for r in k.range(0, live, GROUP):
            self._softmax(r, q0, live, blocks, mask)
        values = packed + self.k_bytes
        amx.instruction = "llvm.x86.tdpbusd"
        a = [self.at["p"], self.at["p"] + self.p_half]
        for c in range(-(-self.e // BLOCK)):
            wide = c * BLOCK + 16 < self.e
            at = values + c * 2 * (self.blocks * TILE)
            amx.zero()
            amx.block(a, 64, [at, at + self.blocks * TILE] if wide else [at], blocks, a_step=TILE)
            self._store(self.at["o"] + c * (BLOCK * 4), self.out_row)
        for r in k.range(0, live):
            inverse = k.splat(k.load("float", self.at["inverse"] + r * 4), 16)
            for c in range(-(-self.e // 16)):
                at = self.at["o"] + r * self.out_row + c * 64
                k.store(k.cast("sitofp", k.load("i32", at, 16, align=64), "float") * inverse, at, align=64)
        self.writer.rows(self.at["o"], self.out_row, q0, live, 0, self.e, -(-self.e // 16))

    def _store(self, to: Val, stride: int) -> None:
        """The block of sums to memory."""
        for i in range(2):
            for j in range(2):
                self.amx.store(i * 2 + j, to + (i * 16 * stride + j * 64), stride)

    def _queries(self, index: list[IntLike], q0: IntLike) -> None:
        """32 rows of Q as tiles [2][tiles of D][16][64] of codes; rows past the end repeat the last."""
        k, args = self.k, self.args
        at = base_address(args, self.region, self.p, Q, index)
        for r in k.range(0, BLOCK):
            row = at + k.min(q0 + r, args.dim(self.p.m) - 1) * args.dim(self.p.row[Q])
            to = self.at["q"] + (r >> 4) * (_tiles(self.d) * TILE) + (r & 15) * 64
            for c in range(_tiles(self.d)):
                k.store(_load_64(k, row, c * KEYS, self.d), to + c * TILE, align=64)

    # -- softmax -----------------------------------------------------------------------------------------------

    def _softmax(self, r: Val, q0: IntLike, live: IntLike, blocks: IntLike, mask: Val | None) -> None:
        """Rows [r, r + GROUP) of the scores: probabilities as tiles of P, and v_scale over the sums of their codes."""
        k, real = self.k, self.real
        scalar, lowest = ("float", -_INF) if real else ("i32", _LOWEST)
        ty = vec(scalar, 16)
        rows = [self.at["s"] + (r + i) * self.score_row for i in range(GROUP)]
        top = [k.var(ty, lowest) for _ in rows]
        window = self.sight.window
        whole = self.sight.whole and isinstance(self.sight.keys, int) and self.sight.keys % KEYS == 0
        last = [self.sight.end(q0 + r + i) for i in range(GROUP)]
        start = [self.sight.start(q0 + r + i) for i in range(GROUP)]

        def scan(b: IntLike, masked: bool) -> None:
            for i, row in enumerate(rows):
                for h in range(4):
                    first = b * KEYS + h * 16
                    s = k.load("i32", row + first * 4, 16, align=64)
                    seen = k.tail_mask(last[i] - first, 16) if masked else None
                    if seen is not None and window:
                        seen = k.select(k.tail_mask(start[i] - first, 16), False, seen)
                    if real:
                        s = self._in_units(s, mask, k.min(r + i, live - 1), first, seen)
                    if seen is not None:
                        s = k.select(seen, s, lowest)
                    if real or masked:
                        k.store(s, row + first * 4, align=64)
                    old = top[i].get()
                    top[i].set(fmax(k, s, old) if real else k.call("llvm.smax.v16i32", ty, [s, old]))

        full = 0 if window else k.min(last[0] // KEYS, blocks)  # blocks that every row of the group sees whole
        for b in k.range(0, full):
            scan(b, False)
        if not whole:
            for b in k.range(full, blocks):
                scan(b, True)
        reduce = f"llvm.vector.reduce.{'fmax' if real else 'smax'}.{'v16f32' if real else 'v16i32'}"
        most = [k.call(reduce, scalar, [v.get()]) for v in top]
        self._probabilities(r, rows, most, blocks)

    def _probabilities(self, r: Val, rows: list[Val], most: list[Val], blocks: IntLike) -> None:
        """Codes of the scores in `rows`, whose maxima are `most`."""
        k = self.k
        words = "<32 x i16>"
        unit = self.scale * UNIT
        limits = [k.splat(m if self.real else k.cast("sitofp", m, "float") * unit, 16) for m in most]
        total = [k.var(vec("i32", 16), 0) for _ in rows]
        ones = k.bitcast(k.const("<64 x i8>", 1), "<16 x i32>")

        def high(v: Val, w: Val | int) -> Val:
            return k.call("llvm.x86.avx512.pmulhu.w.512", words, [v, k.coerce(w, words)])

        def distance(row: Val, at: IntLike, limit: Val) -> Val:
            """y of 16 keys in i32; what is too large for that, and NaN, is the least integer."""
            if self.real:
                y = limit - k.load("float", row + at, 16, align=64)
            else:
                y = k.fma(k.cast("sitofp", k.load("i32", row + at, 16, align=64), "float"), -unit, limit)
            ty = vec("i32", 16)
            return k.call("llvm.x86.avx512.mask.cvtps2dq.512", ty,
                          [y, k.const(ty, 0), k.const("i16", -1), k.const("i32", 4)])

        def power(a: Val, b: Val) -> Val:
            """Codes of 32 keys in i16."""
            y = k.call("llvm.x86.avx512.packssdw.512", words, [a, b])  # the least integer becomes -2^15, which is 16
            n, f = k.op("lshr", y, k.const(words, POINT)), y << 16 - POINT
            slope = k.const(words, _i16(round(_ONE * B1))) - high(f, _i16(round(_ONE * B2)))
            v = k.const(words, _i16(_ONE)) - high(f, slope)
            v = k.call("llvm.x86.avx512.psrlv.w.512", words, [v, n])
            return k.op("lshr", v + 128, k.const(words, 8))

        to = self.at["p"] + (r >> 4) * self.p_half + (r & 15) * 64
        for b in k.range(0, blocks):
            for i, row in enumerate(rows):
                y = [distance(row, b * (KEYS * 4) + h * 64, limits[i]) for h in range(4)]
                codes = k.call("llvm.x86.avx512.packuswb.512", "<64 x i8>", [power(*y[:2]), power(*y[2:])])
                k.store(codes, to + b * TILE + i * 64, align=64)
                four = k.bitcast(codes, "<16 x i32>")
                total[i].set(k.call("llvm.x86.avx512.vpdpbusd.512", ones.ty, [total[i].get(), four, ones]))
        for i, (v, m) in enumerate(zip(total, most, strict=True)):
            z = k.cast("sitofp", k.reduce_add(v.get()), "float")
            inverse = k.const("float", self.v_scale) / z
            nothing = m.eq(-_INF if self.real else _LOWEST)
            inverse = k.select(nothing, 0.0 if self.masked_zero else float("nan"), inverse)
            if self.real:  # a mask of +inf or NaN
                inverse = k.select(m.eq(_INF), float("nan"), inverse)
            k.store(inverse, self.at["inverse"] + (r + i) * 4)

    # -- masks -------------------------------------------------------------------------------------------------

    def _in_units(self, s: Val, mask: Val | None, row: IntLike, first: IntLike, seen: Val | None) -> Val:
        """Sums of codes as scores in units of y, with the mask added."""
        k = self.k
        s = k.cast("sitofp", s, "float")
        m = None
        if self.shared:
            m = k.load("float", self.at["mask"] + first * 4, 16, align=64)
        elif mask is not None:
            m = self._mask(mask + row * self._mask_row(), first, seen)
        if self.cap:
            s = capped(k, s, self.scale, self.cap) * UNIT
            return s if m is None else s + m
        return s * (self.scale * UNIT) if m is None else k.fma(s, self.scale * UNIT, m)

    def _mask_row(self) -> IntLike:
        """Stride of the mask's rows in bytes."""
        return self.args.dim(self.p.row[MASK]) * self.region.inputs[self.where[MASK]].dtype.size

    def _share_mask(self, index: list[IntLike]) -> None:
        """The one row of the mask, in units of y, to scratch."""
        k, keys = self.k, self.args.dim(self.p.k)
        at = base_address(self.args, self.region, self.p, MASK, index)
        for first in k.range(0, keys, 16):
            seen = None if isinstance(keys, int) and keys % 16 == 0 else k.tail_mask(keys - first, 16)
            k.store(self._mask(at, first, seen), self.at["mask"] + first * 4, align=64)

    def _mask(self, row: Val, first: IntLike, seen: Val | None) -> Val:
        """The mask's elements from `first` on in units of y: -inf where nothing is kept, +inf for +inf and NaN."""
        k = self.k
        dtype = self.region.inputs[self.where[MASK]].dtype
        if self.p.col[MASK] == 0:
            m = k.splat(load_value(k, dtype, row), 16)
        else:
            m = load_value(k, dtype, row + first * dtype.size, 16, seen)
        if dtype is DType.BOOL:
            return k.select(m, k.const("<16 x float>", 0.0), -_INF)
        near = fmin(k, fmax(k, m, k.const(m.ty, -HUGE)), k.const(m.ty, HUGE)) * UNIT
        finite = k.cmp("olt", k.intrinsic("llvm.fabs", m), _INF)
        return k.select(finite, near, k.select(m.eq(-_INF), k.const(m.ty, -_INF), _INF))


def _i16(n: int) -> int:
    """An unsigned 16-bit number as LLVM writes it."""
    return n - (1 << 16) if n >= 1 << 15 else n
