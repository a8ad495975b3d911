"""Fused attention with online softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).

Queries lie along vector lanes: a tile holds the transposed queries of one head as a panel [D][queries],
and works on transposed scores, S^T = K Q^T, then O^T = V^T P^T. So rows of K and V are the broadcast
operand of the micro-kernel, read where they are; P^T is already the packed operand of the second
product; and the softmax is lane by lane, with no sums across a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product, symbol
from whet.targets.base import Implementation, Params, Step
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
from whet.targets.cpu.gemm_emit import RowTiles, copy_rows, pack_panel, tile_rows, transpose
from whet.targets.cpu.gemm_kernel import Blocks, batch_index
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.microkernel import Accumulators, fma, load_f32, round_bf16
from whet.targets.cpu.vmath import exp_negative, fmax

_INF = float("inf")
MOST_SCRATCH = 4 << 20  # bytes per thread


@dataclass(frozen=True)
class Attention:
    """Parameters: mr, nv (micro-tile: keys by vectors of queries), block (keys per round of the softmax;
    0: all of them at once), copy (K and V are first copied to scratch, in fp32)."""

    name: str = "attention_fused"

    def applies(self, region: Region, machine: Isa) -> str:
        return attention_reason(region)

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        if query_range(region)[1] <= attention_rows.FEW:
            return [{"mr": 1, "nv": 1, "block": 128, "copy": False}]
        found = []
        for nv in (2, 3, 1, 4):
            mr = min(16, (machine.registers - 1 - nv) // nv)
            for m in {max(1, mr - i) for i in range(3)}:
                for block in (0, 128, 256):
                    params = {"mr": m, "nv": nv, "block": block, "copy": _must_copy(region)}
                    if _Kernel.scratch_bytes(region, params, machine) > MOST_SCRATCH and block != 128:
                        continue
                    whole = {**params, "block": 0}
                    if block >= opt(region, region.inputs[1].shape[2]) and block and (
                            _Kernel.scratch_bytes(region, whole, machine) <= MOST_SCRATCH):
                        continue
                    found.append((self.cost(region, params, machine, threads), params))
        found.sort(key=lambda f: f[0])
        return [p for _, p in found[:12]]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: two products, the softmax, the last block's waste."""
        p = attention_problem(region)
        d, e = widths(region)
        s, t = opt(region, p.m), opt(region, p.k)
        heads = opt(region, product(p.batch))
        queries = params["nv"] * machine.lanes
        blocks = -(-s // queries)
        mr, nv = params["mr"], params["nv"]
        step = max(mr * nv / 2, (mr + nv) / 2) / mr  # cycles per key and element
        each = t * (d + e) * step * 1.05 + t * nv * 12 + queries * (d + e) * 0.5 + 300
        if params["copy"]:
            each += t * (d + e) * 0.2
        if params["block"]:
            each += -(-t // params["block"]) * e * nv * 2
        elif t * queries * 4 > 256 << 10:
            each *= 1.3
        tiles = heads * blocks
        return each * max(tiles / threads, 1) / 3e9

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        made = _Kernel(region, params, machine)
        return Implementation((Step(made.kernel, made.args.table, made.blocks.tiles),))


def _must_copy(region: Region) -> bool:
    """K and V must be widened or rounded first, or have row strides that cost too many registers."""
    k, v = region.inputs[1:3]
    if region.compute == "bf16":
        return True
    return any(t.dtype is not DType.F32 or not isinstance(t.strides[2], int) for t in (k, v))


class _Kernel:
    def __init__(self, region: Region, params: Params, isa: Isa) -> None:
        self.region, self.params, self.isa = region, params, isa
        self.p = p = attention_problem(region)
        self.k = k = Fn(NAME, isa)
        self.args = args = Args(k)
        self.nv, self.lanes = params["nv"], isa.lanes
        self.queries = self.nv * isa.lanes
        self.row_bytes = self.queries * 4  # of the transposed panels
        self.d, self.e = widths(region)
        self.where = operands(region)
        self.types = {name: region.inputs[i].dtype for name, i in self.where.items()}
        self.rounded = region.compute == "bf16"
        self.masked_zero = bool(region.attrs.get("masked_zero"))
        self.scale, self.cap = float(region.attrs["scale"]), float(region.attrs.get("softcap", 0))
        self.sight = Sight(k, args, region, p)
        self.writer = Writer(k, args, region, p)
        self.blocks = Blocks(RowTiles(p.m, self.queries), 1, 1, 1, product(p.batch), False)
        sizes = self._layout(region, params, isa)
        at, self.at = 0, {}
        for name, size in sizes.items():
            self.at[name] = k.scratch + at
            at += -(-size // 64) * 64
        self.least, self.most = query_range(region)
        self.single = attention_rows.Rows(k, args, region, p, self.sight, self.writer, self.at)
        for t in k.range(k.begin, k.end):
            self._tile(t)
        self.kernel = finish(k, "attention", at)

    @staticmethod
    def _layout(region: Region, params: Params, isa: Isa) -> dict[str, int]:
        """Bytes of each part of scratch."""
        row = params["nv"] * isa.width
        d, e = widths(region)
        least, most = query_range(region)
        parts = attention_rows.scratch_parts(region, isa.lanes) if least <= attention_rows.FEW else {}
        if most <= attention_rows.FEW:
            return parts
        keys = -(-(params["block"] or max(longest(region), 1)) // isa.lanes) * isa.lanes
        vectors = -(-e // isa.lanes) * isa.width
        parts |= {"q": -(-d // isa.lanes) * isa.lanes * row, "s": keys * row, "o": -(-e // isa.lanes) * isa.lanes * row,
                 "out": params["nv"] * isa.lanes * vectors}
        if MASK in operands(region):
            parts["mask"] = keys * row
        if params["copy"]:
            parts["k"], parts["v"] = (keys * (-(-x // isa.lanes) * isa.width + 64) for x in (d, e))
        return parts

    @classmethod
    def scratch_bytes(cls, region: Region, params: Params, isa: Isa) -> int:
        """Scratch memory per thread."""
        return sum(cls._layout(region, params, isa).values())

    def _tile(self, t: Val) -> None:
        k, p, args = self.k, self.p, self.args
        count = args.dim(self.queries_blocks)
        flat, qb = t // count, t % count
        index = batch_index(args, p, flat)
        self.writer.batch(index)
        self.sight.batch(index)
        base = {name: base_address(args, self.region, p, name, index) for name in (Q, K, V, MASK) if name in self.where}
        q0 = qb * self.queries
        if self.least <= attention_rows.FEW:
            s_len = args.dim(p.m)
            if self.most <= attention_rows.FEW:
                self.single.emit(base, q0, k.min(q0 + self.queries, s_len))
                return
            few, many = k.branch(k.i64(s_len) <= attention_rows.FEW)
            with few:
                self.single.emit(base, q0, k.min(q0 + self.queries, s_len))
            with many:
                self._panel(base, q0)
            return
        self._panel(base, q0)

    def _panel(self, base: dict[str, Val], q0: IntLike) -> None:
        """The queries from q0 on, one per lane."""
        k, p, args = self.k, self.p, self.args
        s_len = args.dim(p.m)
        convert = partial(round_bf16, k) if self.rounded else None
        pack_panel(k, base[Q], self.types[Q].llvm, self.types[Q].size, args.dim(p.row[Q]) * self.types[Q].size, True,
                   self.at["q"], self.d, s_len, q0, self.nv, convert)
        ty = vec("float", self.lanes)
        top = [k.var(ty, -_INF) for _ in range(self.nv)]  # running maximum of scores, and sum of exponentials
        total = [k.var(ty, 0.0) for _ in range(self.nv)]
        for i in k.range(0, self.e):
            for j in range(self.nv):
                k.store(k.const(ty, 0.0), self.at["o"] + i * self.row_bytes + j * self.isa.width, align=self.isa.width)
        start, end = self.sight.start(q0), self.sight.end(q0 + (self.queries - 1))
        if self.params["block"] == 0:
            self._round(base, q0, start, k.max(end - start, 0), top, total)
        else:
            for t0 in k.range(start, end, self.params["block"]):
                self._round(base, q0, t0, k.min(end - t0, self.params["block"]), top, total)
        self._finish(q0, s_len, total)

    @property
    def queries_blocks(self) -> Dim:
        return ceildiv(self.p.m, self.queries)

    def _round(self, base: dict[str, Val], q0: IntLike, t0: IntLike, keys: IntLike, top: list[Var],
               total: list[Var]) -> None:
        """One block of keys: scores, their maximum, exponentials, and what they add to the result."""
        k, w, ty = self.k, self.isa.width, vec("float", self.lanes)
        block_top = [k.var(ty, -_INF) for _ in range(self.nv)]
        add = self._mask(base, q0, t0, keys)
        rows, stride = self._rows(base, K, t0, keys, self.d)
        tiles = RowTiles(keys if isinstance(keys, int) else symbol("keys"), self.params["mr"])
        count = tiles.count if isinstance(keys, int) else k.ceildiv(keys, self.params["mr"])
        assert not isinstance(count, int) or isinstance(keys, int)

        def scores(row: IntLike, size: int, valid: IntLike) -> None:
            acc = Accumulators(k, size, self.nv)
            acc.zero()
            fma(k, acc, tile_rows(rows + row * stride, stride, size, valid), self.at["q"], self.d, unroll=4)
            for r in range(size):
                with k.if_(True if isinstance(valid, int) else k.i64(valid) > r):
                    at = (k.i64(row) + r) * self.row_bytes
                    for j in range(self.nv):
                        s = add(capped(k, acc.get(r, j), self.scale, self.cap), k.i64(row) + r, j)
                        k.store(s, self.at["s"] + at + j * w, align=w)
                        block_top[j].set(fmax(k, s, block_top[j].get()))

        tiles.emit(k, keys, 0, count, scores)  # type: ignore[arg-type]
        safe, alpha = [], []
        for j in range(self.nv):
            now = fmax(k, block_top[j].get(), top[j].get())
            finite = k.select(now.eq(-_INF), 0.0, now)  # a fully masked row: exp(-inf - 0) is 0, not NaN
            safe.append(finite)
            alpha.append(exp_negative(k, top[j].get() - finite))
            total[j].set(total[j].get() * alpha[j])
            top[j].set(now)
        for i in k.range(0, keys):
            for j in range(self.nv):
                at = self.at["s"] + i * self.row_bytes + j * w
                e = exp_negative(k, k.load("float", at, self.lanes, align=w) - safe[j])
                total[j].set(total[j].get() + e)
                k.store(round_bf16(k, e) if self.rounded else e, at, align=w)
        self._values(base, t0, keys, alpha)

    def _values(self, base: dict[str, Val], t0: IntLike, keys: IntLike, alpha: list[Val]) -> None:
        """O^T = alpha O^T + V^T P^T."""
        k, w = self.k, self.isa.width
        rows, stride = self._rows(base, V, t0, keys, self.e)
        tiles = RowTiles(self.e, self.params["mr"])

        def add(first: IntLike, size: int, _: IntLike) -> None:
            acc = Accumulators(k, size, self.nv)
            out = self.at["o"] + first * self.row_bytes
            for r in range(size):
                for j in range(self.nv):
                    old = k.load("float", out + r * self.row_bytes + j * w, self.lanes, align=w)
                    acc.set(r, j, old * alpha[j])
            fma(k, acc, [(rows + first * 4, 4 * r) for r in range(size)], self.at["s"], keys, a_step=stride, unroll=4)
            for r, j, v in acc.each():
                k.store(v, out + r * self.row_bytes + j * w, align=w)

        tiles.emit(k, self.e, 0, tiles.count, add)  # type: ignore[arg-type]

    def _rows(self, base: dict[str, Val], name: str, t0: IntLike, keys: IntLike, width: int) -> tuple[Val, IntLike]:
        """Address and stride (bytes) of this block's rows of K or V, copied to fp32 if need be."""
        size = self.types[name].size
        stride = self.args.dim(self.p.row[name]) * size
        src = base[name] + t0 * stride
        if not self.params["copy"]:
            return src, stride
        row = -(-width // self.lanes) * self.isa.width + 64
        copy_rows(self.k, src, stride, self.types[name].llvm, self.at[name], row, "float", keys, width, width,
                  partial(round_bf16, self.k) if self.rounded else None)
        return self.at[name], row

    def _mask(self, base: dict[str, Val], q0: IntLike, t0: IntLike, keys: IntLike) -> Any:
        """A function (scores, key in block, vector) -> masked scores; fetches the mask's block first if it must."""
        k, lanes, w = self.k, self.lanes, self.isa.width
        lane = k.const_vector("i32", range(lanes))

        def causal(s: Val, t: Val, j: int) -> Val:
            if not self.sight.causal:
                return s
            last = k.splat(k.cast("trunc", k.i64(q0) + self.sight.offset + j * lanes, "i32"), lanes) + lane
            key = k.splat(k.cast("trunc", t + t0, "i32"), lanes)
            seen = k.cmp("sge", last, key)
            if self.sight.window:
                seen = seen & k.cmp("sgt", key, last - self.sight.window)
            return k.select(seen, s, -_INF)

        if MASK not in base:
            return causal
        dtype = self.types[MASK]
        scalar = "i8" if dtype is DType.BOOL else dtype.llvm
        row, col = (self.args.dim(x) * dtype.size for x in (self.p.row[MASK], self.p.col[MASK]))

        def apply(s: Val, m: Val) -> Val:
            return k.select(m.eq(0.0), -_INF, s) if dtype is DType.BOOL else s + m

        if isinstance(row, int) and row == 0:  # the same for every query: one scalar per key
            def by_key(s: Val, t: Val, j: int) -> Val:
                at = base[MASK] + (t + t0) * col
                return causal(apply(s, k.splat(self._mask_value(scalar, at, 1, None), lanes)), t, j)

            return by_key

        for j in range(self.nv):  # transposed into a panel like the scores
            c0 = q0 + j * lanes
            at = [base[MASK] + k.max(k.min(c0 + i, self.args.dim(self.p.m) - 1), 0) * row for i in range(lanes)]
            for t in k.range(0, keys, lanes):
                if isinstance(col, int) and col == 0:
                    block = [k.splat(self._mask_value(scalar, a, 1, None), lanes) for a in at]
                else:
                    live = k.tail_mask(keys - t, lanes)
                    block = [self._mask_value(scalar, a + (t + t0) * col, lanes, live) for a in at]
                for i, v in enumerate(transpose(k, block)):
                    k.store(v, self.at["mask"] + (t + i) * self.row_bytes + j * w, align=w)

        def full(s: Val, t: Val, j: int) -> Val:
            m = k.load("float", self.at["mask"] + t * self.row_bytes + j * w, lanes, align=w)
            return causal(apply(s, m), t, j)

        return full

    def _mask_value(self, scalar: str, at: Val, lanes: int, live: Val | None) -> Val:
        """Mask elements as fp32; booleans as 0 and 1."""
        k = self.k
        if scalar == "i8":
            return k.cast("uitofp", k.load("i8", at, lanes, live), "float")
        return load_f32(k, scalar, at, lanes, live)

    def _finish(self, q0: IntLike, s_len: IntLike, total: list[Var]) -> None:
        """Divide by the sums, transpose to one row per query, write."""
        k, w, lanes = self.k, self.isa.width, self.lanes
        inverse = []
        for var in total:
            z = var.get()
            inverse.append(k.const(z.ty, 1.0) / z)
            if self.masked_zero:
                inverse[-1] = k.select(z.eq(0.0), 0.0, inverse[-1])
        vectors = -(-self.e // lanes)
        for j in range(self.nv):
            for c in k.range(0, vectors):
                block = [k.load("float", self.at["o"] + (c * lanes + i) * self.row_bytes + j * w, lanes, align=w)
                         * inverse[j] for i in range(lanes)]
                for i, v in enumerate(transpose(k, block)):
                    k.store(v, self.at["out"] + (j * lanes + i) * vectors * w + c * w, align=w)
        self.writer.rows(self.at["out"], vectors * w, q0, k.min(s_len - q0, self.queries), 0, self.e, vectors)
