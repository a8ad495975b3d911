"""Writing blocks of 32 columns of tile sums through the epilogue, two rows at a time: four vectors become one."""

from __future__ import annotations

from collections.abc import Callable

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region
from whet.targets.base import In, Out
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import apply, compute_type, load_value, store_value
from whet.targets.cpu.gemm_problem import OUT, Key, Problem, epilogue_inputs
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.saturation import pack_four, saturation_of

LANES, COLUMNS = 16, 32
SUM_ROW = 4 * COLUMNS  # bytes of a row of sums


class BlockWriter:
    """The block that was computed last, still to be written: the products of the next one run meanwhile.

    `hold` remembers a block, `start` loads what is the same for all its rows, `pair` writes two of them. A result of
    `saturate` goes from four vectors of fp32 to one of bytes; a product that is added to something is rounded once.
    """

    def __init__(self, k: Fn, args: Args, region: Region, problem: Problem) -> None:
        self.k, self.args, self.region, self.problem = k, args, region, problem
        self.inputs = epilogue_inputs(region)
        self.expr = region.epilogue or Expr((Leaf(ANCHOR, region.anchor.dtype),))
        self.sum_type = "i32" if region.anchor.dtype is DType.I32 else "float"
        self.bytes = saturation_of(region)
        keys: tuple[Key, ...] = (OUT, *self.inputs)
        self._size = {t: region.output.dtype.size if t == OUT else region.inputs[int(t)].dtype.size for t in keys}
        self._base = {t: args.pointer(Out(0) if t == OUT else In(int(t))) for t in keys}
        self._here = dict(self._base)
        self._held: dict[Key, Var] = {t: k.var("ptr") for t in keys}
        self._count, self._column, self._sums = k.var("i64"), k.var("i64"), k.var("ptr")
        self.sums = k.scratch  # those of the block that is held
        self._masks: list[Val | None] = [None, None]
        self._both: Val | None = None  # mask of all 32 columns
        self._at: dict[Key, Val] = {}
        self._same: dict[tuple[int, int], Val] = {}

    def batch(self, index: list[IntLike]) -> None:
        """Blocks are of this batch element from now on."""
        for t, p in self._base.items():
            for i, strides in zip(index, self.problem.batch_strides, strict=True):
                p = p + i * self.args.dim(strides[t]) * self._size[t]
            self._here[t] = p

    def hold(self, sums: Val, row: IntLike, col: IntLike, count: IntLike) -> None:
        """The block to be written is `count` rows from `row` on and 32 columns from `col` on, its sums to lie at
        `sums`. A tile of work begins with no rows, of any place that exists."""
        self._sums.set(sums)
        for t, p in self._here.items():
            self._held[t].set(p + row * self._row(t) + col * self.args.dim(self.problem.col[t]) * self._size[t])
        self._count.set(self.k.i64(count))
        self._column.set(self.k.i64(col))

    def start(self) -> Val:
        """Load what all rows of the held block share; the number of its pairs of rows."""
        k, n = self.k, self.args.dim(self.problem.n)
        self._at = {t: v.get() for t, v in self._held.items()}
        self.sums = self._sums.get()
        if not isinstance(n, int) or n % COLUMNS:
            left = n - self._column.get()
            self._masks = [k.tail_mask(left - j * LANES, LANES) for j in range(2)]
            self._both = k.shuffle(self._masks[0], self._masks[1], range(COLUMNS))  # type: ignore[arg-type]
        fixed = [i for i in self.inputs if self.problem.row[i] == 0]
        self._same = {(i, j): self._load(i, 0, j) for i in fixed for j in range(2)}
        return (self._count.get() + 1) // 2

    def pair(self, i: IntLike, source: Callable[[IntLike], IntLike] | None = None) -> None:
        """Write rows 2 i and 2 i + 1. source: the row of sums of a row, where counts may be odd: the last is then
        written twice (default: the same, counts are even)."""
        k = self.k
        rows = [i * 2, i * 2 + 1]
        if source is None:
            def source(r: IntLike) -> IntLike:
                return r
        else:
            rows[1] = k.min(rows[1], self._count.get() - 1)
        sums = [k.load(self.sum_type, self.sums + source(r) * SUM_ROW + j * 4 * LANES, LANES, align=64)
                for r in rows for j in range(2)]
        values = [self._value(v, rows[s // 2], s % 2) for s, v in enumerate(sums)]
        out = [self._at[OUT] + r * self._row(OUT) for r in rows]
        if self.bytes is not None:
            mixed = k.bitcast(pack_four(k, values, self.bytes.zero, self.bytes.to), vec("i32", 16))
            ordered = k.shuffle(mixed, None, [lane * 4 + s for s in range(4) for lane in range(4)])
            packed = k.bitcast(ordered, vec("i8", 64))
            for half, p in enumerate(out):
                k.store(k.shuffle(packed, None, range(half * 32, half * 32 + 32)), p, self._both, align=1)
            return
        size = self._size[OUT]
        for s, v in enumerate(values):
            store_value(k, v, self.region.output.dtype, out[s // 2] + s % 2 * LANES * size, self._masks[s % 2])

    def _row(self, t: Key) -> IntLike:
        return self.args.dim(self.problem.row[t]) * self._size[t]

    def _load(self, i: int, row: IntLike, j: int) -> Val:
        """Epilogue input i under vector j of a row: a vector, or a scalar where all columns share it."""
        dtype, p = self.region.inputs[i].dtype, self._at[i] + row * self._row(i)
        if self.problem.col[i] == 0:
            return load_value(self.k, dtype, p)
        return load_value(self.k, dtype, p + j * LANES * self._size[i], LANES, self._masks[j])

    def _value(self, sums: Val, row: IntLike, j: int) -> Val:
        """The epilogue's result (before `saturate`, or a last cast to what memory holds) for one vector."""
        k, terms = self.k, self.expr.terms
        done: dict[int, Val] = {}

        def wide(v: Val) -> Val:
            return v if v.lanes == LANES else k.splat(v, LANES)

        def value(i: int) -> Val:
            if i not in done:
                done[i] = compute(i)
            return done[i]

        def compute(i: int) -> Val:
            t = terms[i]
            if isinstance(t, Leaf):
                if t.source == ANCHOR:
                    return sums
                known = self._same.get((t.source, j))
                return self._load(t.source, row, j) if known is None else known
            if isinstance(t, Imm):
                return k.const(compute_type(t.dtype), t.value)
            if t.op == "add" and t.dtype is DType.F32:
                return total(i)
            operands = [terms[a] for a in t.args]
            imms = [o.value if isinstance(o, Imm) else None for o in operands]
            return apply(k, t, [value(a) for a in t.args], [o.dtype for o in operands], imms)

        def total(i: int) -> Val:
            """A sum of several terms: products are added last, each with one rounding."""
            products, rest, todo = [], [], [i]
            while todo:
                t = terms[todo.pop()]
                assert isinstance(t, Apply)
                for a in t.args:
                    term = terms[a]
                    op = term.op if isinstance(term, Apply) and term.dtype is DType.F32 else ""
                    if op == "add":
                        todo.append(a)
                    elif op == "mul":
                        products.append(term)
                    else:
                        rest.append(a)
            y = wide(value(rest[0])) if rest else None
            for a in rest[1:]:
                y = y + wide(value(a))
            for term in products:
                assert isinstance(term, Apply)
                x, w = (wide(value(a)) for a in term.args)
                y = x * w if y is None else k.fma(x, w, y)
            assert y is not None
            return y

        last = len(terms) - 1
        if self.bytes is not None:
            last = self.bytes.source
        elif _stored_as(self.expr, self.region):
            final = terms[last]
            assert isinstance(final, Apply)
            last = final.args[0]
        return wide(value(last))


def _stored_as(e: Expr, region: Region) -> bool:
    """True if the last term is a cast that storing does anyway."""
    last = e.terms[-1]
    return (isinstance(last, Apply) and last.op == "cast" and last.dtype is region.output.dtype
            and last.dtype in (DType.BF16, DType.F16) and e.terms[last.args[0]].dtype is DType.F32)
