"""Attention for a few queries, one at a time: what decoding takes, token after token.

Elements of a head lie along the vector: a score is a dot product of two rows, and the sums of a vector's
lanes are taken for as many keys at once as there are lanes. Keys and values are read once, where they are,
whatever their strides, by the query's own bounds: nothing behind the last key that it sees is touched.
Rounds of CHUNK keys with online softmax (Milakov and Gimelshein, arXiv:1805.02867) bound the scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.targets.cpu.args import Args
from whet.targets.cpu.attention_problem import MASK, K, Q, Sight, V, capped, operands, widths
from whet.targets.cpu.gemm_problem import Problem
from whet.targets.cpu.gemm_write import Writer
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.microkernel import load_f32, round_bf16
from whet.targets.cpu.vmath import exp_negative, fmax

FEW = 4  # queries: more of them are better off sharing the rows that they read
CHUNK = 1024  # keys of a round
_UNROLL = 8  # accumulators that hide the latency of a multiply-add
_INF = float("inf")


def scratch_parts(region: Region, lanes: int) -> dict[str, int]:
    """Bytes of each part of scratch memory: the query, a round's scores, the result."""
    d, e = (-(-x // lanes) * lanes * 4 for x in widths(region))
    return {"row_q": d, "row_s": CHUNK * 4, "row_o": e}


class Rows:
    """Emits the attention of single queries; `at` has the addresses of `scratch_parts`."""

    def __init__(self, k: Fn, args: Args, region: Region, p: Problem, sight: Sight, writer: Writer,
                 at: dict[str, Val]) -> None:
        self.k, self.args, self.region, self.p, self.sight, self.writer, self.at = k, args, region, p, sight, writer, at
        self.lanes = k.isa.lanes
        self.where = operands(region)
        self.types = {name: region.inputs[i].dtype for name, i in self.where.items()}
        self.d, self.e = widths(region)
        self.scale, self.cap = float(region.attrs["scale"]), float(region.attrs.get("softcap", 0))
        self.masked_zero = bool(region.attrs.get("masked_zero"))
        self.rounded = region.compute == "bf16"

    def emit(self, base: dict[str, Val], first: IntLike, last: IntLike) -> None:
        """Queries [first, last) of the batch element whose operands lie at `base`."""
        for query in self.k.range(first, last):
            self._query(base, query)

    def _query(self, base: dict[str, Val], query: IntLike) -> None:
        k, lanes, w = self.k, self.lanes, self.k.isa.width
        ty = vec("float", lanes)
        vectors = -(-self.e // lanes)
        q_size = self.types[Q].size
        src = base[Q] + query * (self.args.dim(self.p.row[Q]) * q_size)
        for c in range(-(-self.d // lanes)):
            mask = None if self.d - c * lanes >= lanes else k.tail_mask(self.d - c * lanes, lanes)
            x = load_f32(k, self.types[Q].llvm, src + c * lanes * q_size, lanes, mask)
            k.store(round_bf16(k, x) if self.rounded else x, self.at["row_q"] + c * w, align=w)
        for c in k.range(0, vectors):
            k.store(k.const(ty, 0.0), self.at["row_o"] + c * w, align=w)
        top, total = k.var("float", -_INF), k.var("float", 0.0)
        start, end = self.sight.start(query), self.sight.end(query)
        for t0 in k.range(start, end, CHUNK):
            self._round(base, query, t0, k.min(k.i64(end) - t0, CHUNK), top, total)
        z = total.get()
        inverse = k.const("float", 1.0) / z
        if self.masked_zero:
            inverse = k.select(z.eq(0.0), 0.0, inverse)
        scale = k.splat(inverse, lanes)
        for c in k.range(0, vectors):
            at = self.at["row_o"] + c * w
            k.store(k.load("float", at, lanes, align=w) * scale, at, align=w)
        self.writer.rows(self.at["row_o"], vectors * w, query, 1, 0, self.e, vectors)

    def _round(self, base: dict[str, Val], query: IntLike, t0: IntLike, keys: IntLike, top: Var, total: Var) -> None:
        """Keys [t0, t0 + keys): scores, their exponentials, and what they add to the result."""
        k, lanes, w = self.k, self.lanes, self.k.isa.width
        ty = vec("float", lanes)
        here = k.var(ty, -_INF)
        masked = self._masked(base, query, t0)
        stride = self.args.dim(self.p.row[K]) * self.types[K].size
        rows = base[K] + t0 * stride
        keys = k.i64(keys)
        whole = keys - keys % lanes

        def scores(t: IntLike, live: Val | None) -> None:
            s = masked(capped(k, self._dots(rows, stride, t, keys if live is not None else None), self.scale, self.cap),
                       t, live)
            if live is not None:
                s = k.select(live, s, -_INF)
            k.store(s, self.at["row_s"] + t * 4, align=w)
            here.set(fmax(k, s, here.get()))

        for t in k.range(0, whole, lanes):
            scores(t, None)
        with k.if_(whole < keys):
            scores(whole, k.tail_mask(keys - whole, lanes))
        old = top.get()
        now = fmax(k, k.call(f"llvm.vector.reduce.fmax.v{lanes}f32", "float", [here.get()]), old)
        # NaN scores are caught by the exponentials below; a round with everything masked: exp(-inf - 0) is 0, not NaN
        safe = k.select(now.eq(-_INF), 0.0, now)
        alpha = exp_negative(k, k.splat(old - safe, lanes))
        limit = k.splat(safe, lanes)
        sums = k.var(ty, 0.0)
        for t in k.range(0, keys, lanes):
            e = exp_negative(k, k.load("float", self.at["row_s"] + t * 4, lanes, align=w) - limit)
            sums.set(sums.get() + e)
            k.store(round_bf16(k, e) if self.rounded else e, self.at["row_s"] + t * 4, align=w)
        total.set(total.get() * k.extract(alpha, 0) + k.reduce_add(sums.get()))
        top.set(now)
        self._values(base, t0, keys, alpha)

    def _dots(self, rows: Val, stride: IntLike, t: IntLike, keys: Val | None) -> Val:
        """The dot products of the query and keys t .. t + lanes - 1, one per lane; with `keys`, rows past them
        repeat the last."""
        k, lanes, w = self.k, self.lanes, self.k.isa.width
        dtype = self.types[K]
        sums = [k.var(vec("float", lanes), 0.0) for _ in range(lanes)]
        if keys is None:
            first = rows + t * stride
            at = [first + r * stride for r in range(lanes)]
        else:
            at = [rows + k.min(k.i64(t) + r, keys - 1) * stride for r in range(lanes)]

        def add(c: IntLike, mask: Val | None) -> None:
            q = k.load("float", self.at["row_q"] + c * w, lanes, align=w)
            for r, a in enumerate(at):
                x = load_f32(k, dtype.llvm, a + c * (lanes * dtype.size), lanes, mask)
                if self.rounded and dtype is not DType.BF16:
                    x = round_bf16(k, x)
                sums[r].set(k.fma(x, q, sums[r].get()))

        full = self.d // lanes
        for c in range(full) if full <= 16 else k.range(0, full):
            add(c, None)
        if self.d % lanes:
            add(full, k.tail_mask(self.d % lanes, lanes))
        return sum_lanes(k, [s.get() for s in sums])

    def _values(self, base: dict[str, Val], t0: IntLike, keys: IntLike, alpha: Val) -> None:
        """result = alpha result + sum of p V."""
        k, lanes, w = self.k, self.lanes, self.k.isa.width
        ty, dtype = vec("float", lanes), self.types[V]
        stride = self.args.dim(self.p.row[V]) * dtype.size
        rows = base[V] + t0 * stride
        vectors = -(-self.e // lanes)
        for v0 in range(0, vectors, _UNROLL):
            width = min(_UNROLL, vectors - v0)
            sets = max(1, _UNROLL // width)
            masks = [None if self.e - c * lanes >= lanes else k.tail_mask(self.e - c * lanes, lanes)
                     for c in range(v0, v0 + width)]
            acc = [[k.var(ty, 0.0) for _ in range(width)] for _ in range(sets)]
            for j in range(width):
                acc[0][j].set(k.load("float", self.at["row_o"] + (v0 + j) * w, lanes, align=w) * alpha)

            def add(t: IntLike, into: list[Var], v0: int = v0, masks: list[Val | None] = masks) -> None:
                p = k.splat(k.load("float", self.at["row_s"] + t * 4), lanes)
                for j, var in enumerate(into):
                    x = load_f32(k, dtype.llvm, rows + t * stride + (v0 + j) * lanes * dtype.size, lanes, masks[j])
                    if self.rounded and dtype is not DType.BF16:
                        x = round_bf16(k, x)
                    var.set(k.fma(p, x, var.get()))

            whole = keys - keys % sets
            for t in k.range(0, whole, sets):
                for u in range(sets):
                    add(t + u, acc[u])
            for t in k.range(whole, keys):
                add(t, acc[0])
            for j in range(width):
                v = acc[0][j].get()
                for more in acc[1:]:
                    v = v + more[j].get()
                k.store(v, self.at["row_o"] + (v0 + j) * w, align=w)

    def _masked(self, base: dict[str, Val], query: IntLike,
                t0: IntLike) -> Callable[[Val, IntLike, Val | None], Val]:
        """A function (scores, key in the round, which lanes exist) -> masked scores."""
        k, lanes = self.k, self.lanes
        if MASK not in self.where:
            return lambda s, t, live: s
        dtype = self.types[MASK]
        row, col = (self.args.dim(x) * dtype.size for x in (self.p.row[MASK], self.p.col[MASK]))
        here = base[MASK] + query * row + t0 * col

        def value(at: Val, n: int, live: Val | None) -> Val:
            if dtype is DType.BOOL:
                return k.cast("uitofp", k.load("i8", at, n, live), "float")
            return load_f32(k, dtype.llvm, at, n, live)

        def apply(s: Val, t: IntLike, live: Val | None) -> Val:
            if isinstance(col, int) and col == 0:
                m = k.splat(value(here, 1, None), lanes)
            else:
                m = value(here + t * col, lanes, live)
            return k.select(m.eq(0.0), -_INF, s) if dtype is DType.BOOL else s + m

        return apply


def sum_lanes(k: Fn, rows: list[Val]) -> Val:
    """A vector whose lane i is the sum of the lanes of rows[i], for as many rows as lanes (a power of two)."""
    n = len(rows)
    order = _merged(list(range(n)))
    v = [rows[order.index(i)] for i in range(n)]
    half = n // 2
    while half:
        def pick(second: bool, half: int = half) -> list[int]:
            out = []
            for segment in range(0, n, 2 * half):
                at = segment + (half if second else 0)
                out += [*range(at, at + half), *range(n + at, n + at + half)]
            return out

        low, high = pick(False), pick(True)
        v = [k.shuffle(a, b, low) + k.shuffle(a, b, high) for a, b in zip(v[::2], v[1::2], strict=True)]
        half //= 2
    return v[0]


def _merged(rows: list[int]) -> list[int]:
    """Which row each lane of the result of `sum_lanes` speaks of, when neighbours are merged in this order."""
    parts = [[r] for r in rows]
    while len(parts) > 1:
        parts = [[x for pair in zip(a, b, strict=True) for x in pair] for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]
