"""Pointwise expressions over tensors of any strides: arithmetic, copies, transposes, slices, broadcasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.expr import Expr, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv, product
from whet.targets.base import Implementation, In, Out, Params, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import (
    compute_type,
    emit_expr,
    emit_terms,
    gather_value,
    invariant_terms,
    load_value,
    store_value,
    to_memory,
)
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val
from whet.targets.cpu.loops import (
    OUT,
    Loops,
    advance,
    broadcast_strides,
    loops_over,
    optimum,
    tile_elements,
    unravel,
    vector_lanes,
    weight,
)
from whet.targets.cpu.saturation import Rounding

TILE = 1 << 14  # elements of a tile at most
FEW = 8  # rows or columns that are woven from, or into, contiguous vectors
_RAW = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.U64}


class Pointwise:
    """Vectors along the output's last dimension; inputs that are contiguous along another are transposed
    through registers, block by block, and those of any other stride gathered."""

    name = "pointwise"

    def applies(self, region: Region, machine: Isa) -> str:
        if region.epilogue is None:
            return "there is no expression"
        if any(t.dtype.is_host for t in (region.output, *region.inputs)):
            return "strings are not for kernels"
        out = region.output
        if out.shape and out.strides[-1] != 1 and out.shape[-1] != 1:
            return "the output's last dimension is not contiguous"
        return ""

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        return [{}]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        n = optimum(region, product(region.output.shape))
        moved = sum(optimum(region, product(t.shape)) * t.dtype.size for t in (region.output, *region.inputs))
        cycles = n / machine.lanes * (2 + weight(region.epilogue) / 2)
        return (moved / 8e9 + cycles / 3e9) / threads

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        return Implementation((_Kernel(_plain_copy(region), machine).step(threads),))


def _plain_copy(region: Region) -> Region:
    """A copy without conversion moves bits: as unsigned integers, whatever they mean."""
    e = region.epilogue
    assert e is not None
    source = e.terms[0]
    if not (e.is_identity and isinstance(source, Leaf) and source.dtype is region.output.dtype):
        return region
    raw = _RAW[source.dtype.size]
    inputs = tuple(replace(t, dtype=raw) if i == source.source else t for i, t in enumerate(region.inputs))
    return replace(region, inputs=inputs, output=replace(region.output, dtype=raw),
                   anchor=replace(region.anchor, dtype=raw), epilogue=identity(source.source, raw))


class _Kernel:
    """One kernel: outer loops, then rows, then vectors along the columns."""

    def __init__(self, region: Region, isa: Isa) -> None:
        assert region.epilogue is not None
        self.region, self.isa, self.expr = region, isa, region.epilogue
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        out = region.output
        tensors: dict[int, Tensor] = {OUT: out, **{i: region.inputs[i] for i in self.expr.leaves}}
        nest = loops_over(out.shape, {t: broadcast_strides(x, out.shape) for t, x in tensors.items()})
        self.size = {t: x.dtype.size for t, x in tensors.items()}
        self.dtype = {t: x.dtype for t, x in tensors.items()}
        self.lanes = vector_lanes(isa.width, (x.dtype for x in tensors.values()), (self.expr,))
        n = len(nest.extents)
        self.turned: list[int] = []  # inputs to transpose
        rows = n - 2
        across = [i for i in self.expr.leaves if n and nest.strides[i][-1] not in (0, 1)]
        for i in across:
            unit = [j for j in range(n - 1) if nest.strides[i][j] == 1]
            if unit and (not self.turned or unit[-1] == rows):
                rows = unit[-1]
                self.turned.append(i)
        if self.turned:
            self.lanes = min(self.lanes, isa.lanes)  # blocks of at most 16 x 16
        order = [j for j in range(n - 1) if j != rows] + ([rows] if n > 1 else []) + ([n - 1] if n else [])
        nest = nest.pick(order)
        while len(nest.extents) < 2:
            nest = Loops((1, *nest.extents), {t: (0, *s) for t, s in nest.strides.items()}, (None, *nest.labels))
        if nest.strides[OUT][-1] not in (0, 1):  # the last dimension has one element, and others lie apart
            self.lanes, self.turned = 1, []
        self.outer, self.nest = nest.pick(range(len(order) - 2 if n > 2 else 0)), nest
        self.m, self.n = nest.extents[-2], nest.extents[-1]
        self.base = {t: self.args.pointer(Out() if t == OUT else In(t)) for t in tensors}

    def step(self, threads: int) -> Step:
        k, args = self.k, self.args
        m, n = optimum(self.region, self.m), optimum(self.region, self.n)
        budget = tile_elements(self.region, TILE // (1 + weight(self.expr) // 16), threads)
        cols = budget if n > budget else max(n, 1)
        if self.turned:
            cols = min(cols, max(128, self.lanes))
        rows = max(1, budget // cols)
        if self.turned:
            rows = max(self.lanes, rows // self.lanes * self.lanes)
        rows, cols = self._static(self.m, rows), self._static(self.n, cols)
        blocks = -(-m // max(rows, 1)) * -(-n // max(cols, 1))
        outers = product(self.outer.extents)
        group = 1  # outer indices per tile, where one has little to do
        if blocks <= 1:
            group = max(1, min(budget // max(1, min(m, rows) * min(n, cols)), optimum(self.region, outers)))
        row_blocks, col_blocks = _blocks(self.m, rows), _blocks(self.n, cols)
        for tile in k.range(k.begin, k.end):
            g, rb, cb = unravel(k, tile, [1, args.dim(row_blocks), args.dim(col_blocks)])
            first = g * group
            last = first + 1 if group == 1 else k.min(first + group, args.dim(outers))
            if isinstance(outers, int) and outers == 1:
                first, last = 0, 1
            for o in k.range(first, last):
                index = unravel(k, o, [args.dim(e) for e in self.outer.extents])
                at = {t: advance(k, args, p, self.outer.strides[t], index, self.size[t]) for t, p in self.base.items()}
                r0, c0 = (rb * rows, cb * cols)
                r1 = k.min(r0 + rows, args.dim(self.m)) if row_blocks != 1 else args.dim(self.m)
                c1 = k.min(c0 + cols, args.dim(self.n)) if col_blocks != 1 else args.dim(self.n)
                if row_blocks == 1:
                    r0 = 0
                if col_blocks == 1:
                    c0 = 0
                (self._turn if self.turned else self._rows)(at, r0, r1, c0, c1)
        tiles = _blocks(outers, group) * row_blocks * col_blocks
        return Step(finish(k, "pointwise"), args.table, tiles, 1)

    def _static(self, d: Dim, block: int) -> int:
        """A block size; a static dimension that fits gets exactly one block."""
        return d if isinstance(d, int) and d <= block and d > 0 else block

    # -- rows of vectors ------------------------------------------------------------------------

    def _stride(self, t: int, loop: int) -> IntLike:
        return self.args.dim(self.nest.strides[t][loop])

    def _row_pointers(self, at: dict[int, Val], r: IntLike) -> dict[int, Val]:
        return {t: p + r * self._stride(t, -2) * self.size[t] for t, p in at.items()}

    def _fixed(self, leaf: Leaf) -> bool:
        s = self.nest.strides[leaf.source][-1]
        return isinstance(s, int) and s == 0

    def _rows(self, at: dict[int, Val], r0: IntLike, r1: IntLike, c0: IntLike, c1: IntLike) -> None:
        k, lanes = self.k, self.lanes
        heavy = weight(self.expr)
        unroll = 4 if heavy <= 8 else 2 if heavy <= 40 else 1
        early = invariant_terms(self.expr, self._fixed)
        rounding = Rounding.of(self.expr, self.isa, lanes)
        before = rounding.before if rounding is not None else None
        for r in k.range(r0, r1):
            p = self._row_pointers(at, r)

            def scalar(t: Leaf, p: dict[int, Val] = p) -> Val:
                return load_value(k, t.dtype, p[t.source])

            known = emit_terms(k, self.expr, scalar, early)
            step = (unroll if rounding is None else 4) * lanes
            whole = c0 + (c1 - c0) // step * step
            for c in k.range(c0, whole, step):
                vs = [self._compute(p, c + j, None, known, before) for j in range(0, step, lanes)]
                if rounding is not None:
                    vs = [rounding.four(k, vs)]
                for j, v in enumerate(vs):
                    self._store(v, p, c + j * lanes, None)
            short = isinstance(whole, int) and isinstance(c1, int)  # what is left is known: without a loop
            starts = range(whole, c1, lanes) if short else k.range(whole, c1, lanes)  # type: ignore[arg-type]
            for c in starts:
                mask = self._mask(c, c1)
                self._store(self._compute(p, c, mask, known), p, c, mask)

    def _mask(self, c: IntLike, end: IntLike) -> Val | None:
        """Which lanes of the vector at column c exist; None for all."""
        count = end - c
        whole = self.lanes == 1 or (isinstance(count, int) and count >= self.lanes)
        return None if whole else self.k.tail_mask(count, self.lanes)

    def _compute(self, p: dict[int, Val], c: IntLike, mask: Val | None, known: dict[int, Val],
                 expr: Expr | None = None) -> Val:
        """The kernel's expression (or the one given, a part of it) at column c."""
        k = self.k

        def leaf(t: Leaf) -> Val:
            s = self.nest.strides[t.source][-1]
            size = self.size[t.source]
            if s == 1:
                return load_value(k, t.dtype, p[t.source] + c * size, self.lanes, mask)
            step = self.args.dim(s)
            return gather_value(k, t.dtype, p[t.source] + c * step * size, step, self.lanes, mask)

        return emit_expr(k, expr or self.expr, leaf, self.lanes, known)

    def _store(self, v: Val, p: dict[int, Val], c: IntLike, mask: Val | None) -> None:
        step = self._stride(OUT, -1) * self.size[OUT]
        store_value(self.k, v, self.region.output.dtype, p[OUT] + c * step, mask)

    # -- blocks that are turned -------------------------------------------------------------------

    def _turn(self, at: dict[int, Val], r0: IntLike, r1: IntLike, c0: IntLike, c1: IntLike) -> None:
        """lanes x lanes blocks: inputs that are contiguous along the rows' loop are transposed in registers and
        pass through a buffer, but for copies, which are stored at once."""
        if self._weaves:
            return self._weave(at, r0, r1)
        k, b = self.k, self.lanes
        copy = self.expr.is_identity and self.turned == list(self.expr.leaves)
        buffers = {} if copy else {t: k.local(b * b * _slot(self.dtype[t])) for t in self.turned}
        for r in k.range(r0, r1, b):
            for c in k.range(c0, c1, b):
                if copy:
                    self._copy_block(at, r, c, r1 - r, c1)
                    continue
                for t, buffer in buffers.items():
                    def keep(vs: list[Val], full: bool, t: int = t, buffer: Val = buffer) -> None:
                        for j, v in enumerate(vs):
                            v = k.cast("zext", v, "i8") if v.scalar == "i1" else v
                            k.store(v, buffer + j * (b * _slot(self.dtype[t])))

                    self._turn_block(t, at[t] + r * self.size[t], c, r1 - r, c1 - c, keep)
                mask = self._mask(c, c1)
                for j in k.range(0, k.min(b, r1 - r)):
                    p = self._row_pointers(at, r + j)
                    known = {}
                    for i, term in enumerate(self.expr.terms):
                        if isinstance(term, Leaf) and term.source in buffers:
                            known[i] = self._from_buffer(term.dtype, buffers[term.source], j)
                        elif isinstance(term, Leaf) and self._fixed(term):
                            known[i] = load_value(k, term.dtype, p[term.source])
                    self._store(self._compute(p, c, mask, known), p, c, mask)
        return None

    def _copy_block(self, at: dict[int, Val], r: IntLike, c: IntLike, rows: IntLike, c1: IntLike) -> None:
        """A block of a plain copy, from registers to the output."""
        k, (t,) = self.k, self.turned
        mask = self._mask(c, c1)

        def put(vs: list[Val], full: bool) -> None:
            for j, v in enumerate(vs):
                known = full or (isinstance(rows, int) and rows > j)
                if not known and isinstance(rows, int):
                    return
                m = mask
                if full:
                    m = None
                elif not known:
                    exists = k.splat(k.i64(rows) > j, self.lanes)
                    m = exists if mask is None else mask & exists
                self._store(v, self._row_pointers(at, r + j), c, m)

        self._turn_block(t, at[t] + r * self.size[t], c, rows, c1 - c, put)

    def _from_buffer(self, d: DType, buffer: Val, j: IntLike) -> Val:
        if d is DType.BOOL:
            return load_value(self.k, d, buffer + j * self.lanes, self.lanes)
        return self.k.load(compute_type(d), buffer + j * (self.lanes * _slot(d)), self.lanes)

    def _turn_block(self, t: int, p: Val, c: IntLike, rows: IntLike, cols: IntLike,
                    put: Callable[[list[Val], bool], None]) -> None:
        """Hands `put` the rows of a block of input t as vectors along the columns, and whether all of the block
        exists; rows and columns beyond the edge are junk. Emitted for whole blocks and again for edges."""
        k, b, d = self.k, self.lanes, self.dtype[t]
        step = self._stride(t, -1) * self.size[t]

        def rows_of(mask: Val | None, limit: IntLike | None) -> list[Val]:
            where = [i if limit is None else k.min(i, limit) for i in range(b)]
            return transpose(k, [load_value(k, d, p + (c + i) * step, b, mask) for i in where])

        def unwoven(m: int, edge: bool) -> list[Val]:
            flat = [load_value(k, d, p + c * step + v * b * self.size[t], b,
                               k.tail_mask(cols * m - v * b, b) if edge else None) for v in range(m)]
            return [pick(k, flat, [i * m + j for i in range(b)]) for j in range(m)]

        few = isinstance(rows, int) and rows <= FEW and self.nest.strides[t][-1] == rows
        whole = (k.i64(cols) >= b) if few else (k.i64(rows) >= b) & (k.i64(cols) >= b)
        full, edge = k.branch(whole)
        with full:
            put(unwoven(int(rows), False) if few else rows_of(None, None), not few or rows == b)  # type: ignore[arg-type]
        with edge:
            put(unwoven(int(rows), True) if few else rows_of(k.tail_mask(rows, b), cols - 1), False)  # type: ignore[arg-type]

    # -- few columns --------------------------------------------------------------------------------

    @property
    def _weaves(self) -> bool:
        """True if a row of the output is a few elements (an image's colours) and rows follow each other."""
        out = self.nest.strides[OUT]
        return isinstance(self.n, int) and 2 <= self.n <= FEW and out[-2] == self.n and out[-1] == 1

    def _weave(self, at: dict[int, Val], r0: IntLike, r1: IntLike) -> None:
        """Vectors along the rows' loop, one for each column, woven into contiguous output."""
        k, b, d = self.k, self.lanes, self.region.output.dtype
        n = int(self.n)  # type: ignore[arg-type]

        def column(e: Expr, j: int, r: IntLike, mask: Val | None) -> Val:
            """An expression at column j of the rows from r on."""
            def leaf(t: Leaf) -> Val:
                p = at[t.source] + j * self._stride(t.source, -1) * self.size[t.source]
                s = self.nest.strides[t.source][-2]
                if isinstance(s, int) and s == 0:
                    return load_value(k, t.dtype, p)
                p = p + r * self._stride(t.source, -2) * self.size[t.source]
                if s == 1:
                    return load_value(k, t.dtype, p, b, mask)
                return gather_value(k, t.dtype, p, self.args.dim(s), b, mask)

            return emit_expr(k, e, leaf, b)

        def store(columns: list[Val], r: IntLike, mask: Callable[[int], Val] | None) -> None:
            """Columns of as many rows as they have lanes, woven."""
            rows = columns[0].lanes
            for v in range(n):
                x = pick(k, columns, [i % n * rows + i // n for i in range(v * rows, (v + 1) * rows)])
                k.store(x, at[OUT] + (r * n + v * rows) * d.size, None if mask is None else mask(v))

        rounding = Rounding.of(self.expr, self.isa, b)
        first = r0
        if rounding is not None:
            first = r0 + (r1 - r0) // (4 * b) * (4 * b)
            for r in k.range(r0, first, 4 * b):
                store([rounding.four(k, [column(rounding.before, j, r + i * b, None) for i in range(4)])
                       for j in range(n)], r, None)
        for r in k.range(first, r1, b):
            full, edge = k.branch(k.i64(r1 - r) >= b)
            with full:
                store([to_memory(k, column(self.expr, j, r, None), d) for j in range(n)], r, None)
            with edge:
                mask = k.tail_mask(r1 - r, b)
                store([to_memory(k, column(self.expr, j, r, mask), d) for j in range(n)], r,
                      lambda v, r=r: k.tail_mask((r1 - r) * n - v * b, b))  # type: ignore[misc]


def pick(k: Fn, vs: list[Val], where: list[int]) -> Val:
    """A vector whose lane i is lane where[i] of the concatenation of vs."""
    b = vs[0].lanes
    out = k.shuffle(vs[0], vs[1], [w if w < 2 * b else -1 for w in where]) if len(vs) > 1 else vs[0]
    for j, v in enumerate(vs[2:], 2):
        out = k.shuffle(out, v, [b + w - j * b if w // b == j else i for i, w in enumerate(where)])
    return out


def transpose(k: Fn, vs: list[Val]) -> list[Val]:
    """Rows to columns of a square block (n vectors of n lanes, n a power of two), by swapping sub-blocks."""
    n = len(vs)
    vs = list(vs)
    s = 1
    while s < n:
        low = [i if not i & s else n + i - s for i in range(n)]
        high = [i + s if not i & s else n + i for i in range(n)]
        for i in range(n):
            if not i & s:
                a, b = vs[i], vs[i + s]
                vs[i], vs[i + s] = k.shuffle(a, b, low), k.shuffle(a, b, high)
        s *= 2
    return vs


def _slot(d: DType) -> int:
    """Bytes of an element in a buffer of values of the compute type."""
    return {"float": 4, "double": 8, "i1": 1}.get(compute_type(d), d.size)


def _blocks(d: Dim, block: int) -> Dim:
    return 1 if isinstance(d, int) and 0 < d <= block else ceildiv(d, block)
