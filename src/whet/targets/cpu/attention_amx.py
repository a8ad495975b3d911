"""Fused attention on AMX tiles: bf16 products, fp32 scores and sums.

A first step packs every head's K (transposed) and V into tiles in the workspace. Then each tile of work
takes 32 queries of a head: all scores of its rows, softmax along the rows, product with V. A call of a few
queries packs nothing and goes by `attention_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, Kernel, Params, Step, Work
from whet.targets.cpu import attention_rows
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
    query_range,
    widths,
)
from whet.targets.cpu.epilogue import load_value
from whet.targets.cpu.gemm_emit import transpose
from whet.targets.cpu.gemm_kernel import batch_index
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.microkernel import Amx, load_f32, narrow
from whet.targets.cpu.vmath import exp_negative, fmax

BLOCK = Amx.BLOCK
TILE = 1024  # bytes of a tile
GROUP = 4    # rows of the softmax at a time
LONGEST = 8192  # keys: a block's scores must stay in the second-level cache
_INF = float("inf")


@dataclass(frozen=True)
class AttentionAmx:
    """Parameters: rows (queries per tile of work, a multiple of 32)."""

    name: str = "attention_amx"

    def applies(self, region: Region, machine: Isa) -> str:
        if not machine.amx_bf16:
            return "no AMX"
        if region.compute != "bf16":
            return "products are to be taken in f32"
        reason = attention_reason(region)
        if reason:
            return reason
        if longest(region) > LONGEST:
            return f"more than {LONGEST} keys"
        if query_range(region)[1] <= attention_rows.FEW:
            return f"at most {attention_rows.FEW} queries: packing the keys takes longer than reading them"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        queries = opt(region, region.output.shape[2])
        return [{"rows": r} for r in (32, 64, 128) if r == 32 or r < queries + 32]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 2.6 GHz: exponentials, products, packing."""
        p = attention_problem(region)
        d, e = widths(region)
        s, t, heads = opt(region, p.m), opt(region, p.k), opt(region, product(p.batch))
        blocks = -(-s // BLOCK)
        each = t * BLOCK / 16 * 9 + t * BLOCK * (d + e) / 300 + 1500
        return (heads * blocks * each + heads * t * (d + e) * 0.3) / threads / 2.6e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        p = attention_problem(region)
        d, e = widths(region)
        heads, t_blocks = product(p.batch), ceildiv(p.k, BLOCK)
        kv_heads = product(p.batch[:2])
        k_bytes = t_blocks * (2 * TILE * _tiles(d))
        v_bytes = t_blocks * (2 * TILE * _tiles(e))
        pack, pack_args = _pack_kernel(region, k_bytes, v_bytes, machine)
        main = _Kernel(region, params, k_bytes, v_bytes, machine)
        return Implementation((Step(pack, pack_args.table, kv_heads * t_blocks),
                               Step(main.kernel, main.args.table, heads * ceildiv(p.m, params["rows"]))),
                              workspace=kv_heads * (k_bytes + v_bytes))


def _tiles(width: int) -> int:
    """Tiles of 32 elements."""
    return -(-width // 32)


def _pack_kernel(region: Region, k_bytes: Dim, v_bytes: Dim, isa: Isa) -> tuple[Kernel, Args]:
    """Tile (head, 32 keys): packs those keys.

    K becomes [block][2][tiles of D][16 pairs][16 keys][2], V [2 * tiles of E][block][16 pairs of keys][16][2].
    """
    p = attention_problem(region)
    d, e = widths(region)
    k = Fn(NAME, isa)
    args = Args(k)
    work = args.pointer(Work(0))
    blocks, keys = args.dim(ceildiv(p.k, BLOCK)), args.dim(p.k)
    head_bytes = args.dim(k_bytes + v_bytes)
    sight = Sight(k, args, region, p)
    tiles = k.end
    if query_range(region)[0] <= attention_rows.FEW:  # nothing to do for a few queries
        tiles = k.select(k.i64(args.dim(p.m)) <= attention_rows.FEW, k.begin, k.end)
    for t in k.range(k.begin, tiles):
        head, block = t // blocks, t % blocks
        index = [*batch_index(args, replace(p, batch=p.batch[:2]), head), 0]
        sight.batch(index)
        first = block * BLOCK
        out = work + head * head_bytes
        rows = {}
        for name, i in ((K, 1), (V, 2)):
            rows[name] = (base_address(args, region, p, name, index),
                          args.dim(p.row[name]) * region.inputs[i].dtype.size)
        for half in range(2):
            at, stride = rows[K]
            sources = [at + k.min(first + half * 16 + r, keys - 1) * stride for r in range(16)]
            for c in range(_tiles(d)):
                lines = [_load_32(k, region.inputs[1].dtype, s, c * 32, d) for s in sources]
                pairs = [k.bitcast(v, "<16 x i32>") for v in lines]
                to = out + block * (2 * TILE * _tiles(d)) + (half * _tiles(d) + c) * TILE
                for r, v in enumerate(transpose(k, pairs)):
                    k.store(v, to + r * 64, align=64)
        at, stride = rows[V]
        dtype = region.inputs[2].dtype
        for pair in k.range(0, 16):
            both_keys = []
            for odd in range(2):
                key = first + pair * 2 + odd
                exists = k.splat(key < sight.keys, 16)
                row = at + k.min(key, keys - 1) * stride
                both_keys.append([_load_16(k, dtype, row, c * 16, e, exists) for c in range(2 * _tiles(e))])
            for c, (a, b) in enumerate(zip(*both_keys, strict=True)):
                both = k.shuffle(a, b, [i // 2 + 16 * (i % 2) for i in range(32)])
                k.store(both, out + args.dim(k_bytes) + (c * blocks + block) * TILE + pair * 64, align=64)
    return finish(k, "attention_amx_pack"), args


def _load_16(k: Fn, dtype: DType, row: Val, at: int, width: int, exists: Val | None = None) -> Val:
    """Elements [at, at + 16) of a row as bf16 bits; zeros from `width` on, and where the row does not exist."""
    if at >= width:
        return k.const("<16 x i16>", 0)
    mask = exists
    if width - at < 16:
        tail = k.tail_mask(width - at, 16)
        mask = tail if mask is None else mask & tail
    if dtype is DType.BF16:
        return k.load("i16", row + at * 2, 16, mask)
    return narrow(k, load_f32(k, dtype.llvm, row + at * dtype.size, 16, mask))


def _load_32(k: Fn, dtype: DType, row: Val, at: int, width: int) -> Val:
    return k.shuffle(_load_16(k, dtype, row, at, width), _load_16(k, dtype, row, at + 16, width), range(32))


class _Kernel:
    """The main step."""

    def __init__(self, region: Region, params: Params, k_bytes: Dim, v_bytes: Dim, isa: Isa) -> None:
        self.region, self.isa = region, isa
        self.p = p = attention_problem(region)
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.d, self.e = widths(region)
        self.scale = float(region.attrs["scale"])
        self.cap, self.masked_zero = float(region.attrs.get("softcap", 0)), bool(region.attrs.get("masked_zero"))
        self.where = operands(region)
        self.sight = Sight(k, args, region, p)
        self.blocks = args.dim(ceildiv(p.k, BLOCK))
        self.k_bytes, self.v_bytes = args.dim(k_bytes), args.dim(v_bytes)
        most = -(-max(1, longest(region)) // BLOCK)  # blocks of 32 keys
        self.score_row = most * BLOCK * 4 + 64
        self.out_row = _tiles(self.e) * 32 * 4
        at, self.at = 0, {}
        parts = {"q": 2 * _tiles(self.d) * TILE, "s": BLOCK * self.score_row, "p": 2 * most * TILE,
                 "inverse": BLOCK * 4, "o": BLOCK * self.out_row}
        few = query_range(region)[0] <= attention_rows.FEW
        if few:
            parts |= attention_rows.scratch_parts(region, isa.lanes)
        for name, size in parts.items():
            self.at[name] = k.scratch + at
            at += -(-size // 64) * 64
        self.p_half = most * TILE
        self.writer = Writer(k, args, region, p)
        self.rows = params["rows"]
        self.count = args.dim(ceildiv(p.m, self.rows))
        if few:
            single = attention_rows.Rows(k, args, region, p, self.sight, self.writer, self.at)
            by_rows, by_tiles = k.branch(k.i64(args.dim(p.m)) <= attention_rows.FEW)
            with by_rows:
                for t in k.range(k.begin, k.end):
                    index = self._head(t)
                    base = {n: base_address(args, region, p, n, index) for n in (Q, K, V, MASK) if n in self.where}
                    single.emit(base, 0, args.dim(p.m))
            with by_tiles:
                self._all()
        else:
            self._all()
        self.kernel = finish(k, "attention_amx", at)

    def _head(self, t: Val) -> list[IntLike]:
        """Make a tile's batch element and head the one in hand; its index."""
        index = batch_index(self.args, self.p, t // self.count)
        self.writer.batch(index)
        self.sight.batch(index)
        return index

    def _all(self) -> None:
        """The tiles of work, by tile registers."""
        k, args, p = self.k, self.args, self.p
        self.amx = Amx(k)
        for t in k.range(k.begin, k.end):
            index = self._head(t)
            head = t // self.count // args.dim(p.batch[2])
            q0 = t % self.count * self.rows
            for q in k.range(q0, k.min(q0 + self.rows, args.dim(p.m)), BLOCK):
                self._block(head, index, q)
        self.amx.release()

    def _block(self, head: Val, index: list[IntLike], q0: IntLike) -> None:
        """32 queries of a head."""
        k, args, amx = self.k, self.args, self.amx
        live = k.min(args.dim(self.p.m) - q0, BLOCK)
        self._queries(index, q0)
        packed = args.pointer(Work(0)) + head * (self.k_bytes + self.v_bytes)
        depth = _tiles(self.d)
        halves = [self.at["q"], self.at["q"] + depth * TILE]
        blocks = self.blocks if self.sight.whole else k.ceildiv(self.sight.end(q0 + (BLOCK - 1)), BLOCK)
        for b in k.range(0, blocks):
            amx.zero()
            at = packed + b * (2 * depth * TILE)
            amx.block(halves, 64, [at, at + depth * TILE], depth, a_step=TILE)
            to = self.at["s"] + b * (BLOCK * 4)
            for i in range(2):
                for j in range(2):
                    amx.store(i * 2 + j, to + (i * 16 * self.score_row + j * 64), self.score_row)
        bias = self._bias(index, q0)
        for r in k.range(0, live, GROUP):
            self._softmax(r, q0, live, blocks, bias)
        values = packed + self.k_bytes
        for c in k.range(0, _tiles(self.e)):
            amx.zero()
            at = values + c * 2 * (self.blocks * TILE)
            amx.block([self.at["p"], self.at["p"] + self.p_half], 64, [at, at + self.blocks * TILE], blocks,
                      a_step=TILE)
            to = self.at["o"] + c * (BLOCK * 4)
            for i in range(2):
                for j in range(2):
                    amx.store(i * 2 + j, to + (i * 16 * self.out_row + j * 64), self.out_row)
        for r in k.range(0, live):
            inverse = k.splat(k.load("float", self.at["inverse"] + r * 4), 16)
            for c in range(_tiles(self.e) * 2):
                at = self.at["o"] + r * self.out_row + c * 64
                k.store(k.load("float", at, 16, align=64) * inverse, at, align=64)
        self.writer.rows(self.at["o"], self.out_row, q0, live, 0, self.e, -(-self.e // 16))

    def _queries(self, index: list[IntLike], q0: IntLike) -> None:
        """32 rows of Q as tiles [2][tiles of D][16][32] of bf16; rows past the end repeat the last."""
        k, args = self.k, self.args
        dtype = self.region.inputs[0].dtype
        at = base_address(args, self.region, self.p, Q, index)
        for r in k.range(0, BLOCK):
            row = at + k.min(q0 + r, args.dim(self.p.m) - 1) * (args.dim(self.p.row[Q]) * dtype.size)
            to = self.at["q"] + (r >> 4) * (_tiles(self.d) * TILE) + (r & 15) * 64
            for c in range(_tiles(self.d)):
                k.store(_load_32(k, dtype, row, c * 32, self.d), to + c * TILE, align=64)

    def _bias(self, index: list[IntLike], q0: IntLike) -> Val | None:
        """Address of the mask's row for query 0 of this block."""
        if MASK not in self.where:
            return None
        at = base_address(self.args, self.region, self.p, MASK, index)
        return at + q0 * self._bias_row()

    def _softmax(self, r: Val, q0: IntLike, live: IntLike, blocks: IntLike, bias: Val | None) -> None:
        """Rows [r, r + GROUP) of the scores: exponentials as bf16 tiles of P, and the inverse of their sums."""
        k = self.k
        ty = vec("float", 16)
        rows = [self.at["s"] + (r + i) * self.score_row for i in range(GROUP)]
        top, total = [k.var(ty, -_INF) for _ in rows], [k.var(ty, 0.0) for _ in rows]
        # Else the scale waits until the maximum is known:
        changed = bias is not None or self.scale <= 0 or self.cap > 0
        keys, window = self.sight.keys, self.sight.window
        whole = self.sight.whole and isinstance(keys, int) and keys % BLOCK == 0
        last = [self.sight.end(q0 + r + i) for i in range(GROUP)]
        start = [self.sight.start(q0 + r + i) for i in range(GROUP)]

        def scan(b: IntLike, masked: bool) -> None:
            for i, row in enumerate(rows):
                for h in range(2):
                    first = b * BLOCK + h * 16
                    s = k.load("float", row + first * 4, 16, align=64)
                    mask = k.tail_mask(last[i] - first, 16) if masked else None
                    if mask is not None and window:
                        mask = k.select(k.tail_mask(start[i] - first, 16), False, mask)
                    if changed:
                        s = capped(k, s, self.scale, self.cap)
                    if bias is not None:
                        s = self._biased(s, bias + k.min(r + i, live - 1) * self._bias_row(), first, mask)
                    if mask is not None:
                        s = k.select(mask, s, -_INF)
                    if changed or masked:
                        k.store(s, row + first * 4, align=64)
                    top[i].set(fmax(k, s, top[i].get()))

        full = 0 if window else last[0] // BLOCK  # blocks that every row of the group sees whole
        for b in k.range(0, k.min(full, blocks)):
            scan(b, False)
        if not whole:
            for b in k.range(full, blocks):
                scan(b, True)
        limits, factor = [], 1.0 if changed else self.scale
        for v in top:
            m = k.call("llvm.vector.reduce.fmax.v16f32", "float", [v.get()])
            limits.append(k.splat(k.select(m.eq(-_INF), 0.0, m) * -factor, 16))
        to = self.at["p"] + (r >> 4) * self.p_half + (r & 15) * 64
        for b in k.range(0, blocks):
            for i, row in enumerate(rows):
                for h in range(2):
                    s = k.load("float", row + b * (BLOCK * 4) + h * 64, 16, align=64)
                    e = exp_negative(k, k.fma(s, factor, limits[i]))
                    total[i].set(total[i].get() + e)
                    k.store(narrow(k, e), to + b * TILE + (i * 64 + h * 32), align=32)
        for i, v in enumerate(total):
            z = k.reduce_add(v.get())
            inverse = k.const("float", 1.0) / z
            if self.masked_zero:
                inverse = k.select(z.eq(0.0), 0.0, inverse)
            k.store(inverse, self.at["inverse"] + (r + i) * 4)

    def _bias_row(self) -> IntLike:
        """Stride of the mask's rows in bytes."""
        return self.args.dim(self.p.row[MASK]) * self.region.inputs[self.where[MASK]].dtype.size

    def _biased(self, s: Val, row: Val, first: IntLike, mask: Val | None) -> Val:
        """Scores plus the mask's elements from `first` on."""
        k = self.k
        dtype = self.region.inputs[self.where[MASK]].dtype
        if self.p.col[MASK] == 0:
            m = k.splat(load_value(k, dtype, row), 16)
        else:
            m = load_value(k, dtype, row + first * dtype.size, 16, mask)
        return k.select(m, s, -_INF) if dtype is DType.BOOL else s + m
