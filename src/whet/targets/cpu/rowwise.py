"""What reductions, softmax and normalizations share: operands in a nest of loops, and passes over a row.

A kernel walks *rows* (the kept positions) and *columns* (the positions that are reduced or normalized over).
`Operands` reads the anchor's first operand with its prologue and writes results through the epilogue; `Row`
passes over one row as often as wanted, keeping it in registers or in a buffer where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Expr, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, product, upper
from whet.targets.base import In, Out
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import cast, compute_type, emit_expr, gather_value, load_value, store_value
from whet.targets.cpu.llvm import Fn, IntLike, Val, vec
from whet.targets.cpu.loops import OUT, Loops, broadcast_strides, loops_over, optimum, vector_lanes
from whet.targets.cpu.saturation import Rounding

BUFFER = 1 << 18  # bytes of scratch that a row may take
ROW, COL = "row", "col"
At = dict[int, Val]  # where each tensor's current row starts


def after(i: int) -> int:
    """The key of region input i as the epilogue reads it (its shape broadcasts to the result's)."""
    return -2 - i


def prologue_of(region: Region, operand: int = 0) -> Expr:
    """What makes an operand of the anchor: its prologue, or the input itself."""
    return region.prologue.get(operand) or identity(operand, region.inputs[operand].dtype)


def epilogue_reads(region: Region) -> tuple[int, ...]:
    """The region inputs that the epilogue reads."""
    return region.epilogue.leaves if region.epilogue is not None else ()


def nest_of(region: Region, cols: Sequence[int], extra: Sequence[int] = ()) -> Loops:
    """The loops over the first operand's shape; `cols` are the axes that are reduced or normalized over.

    extra: anchor operands whose shapes broadcast to the first one's (scale, bias).
    """
    x = region.inputs[0]
    rank = len(x.shape)
    strides: dict[int, tuple[Dim, ...]] = {}
    for i in (*prologue_of(region).leaves, *extra):
        strides[i] = broadcast_strides(region.inputs[i], x.shape)
    for key, t in ((OUT, region.output), *((after(i), region.inputs[i]) for i in epilogue_reads(region))):
        strides[key] = _through(t, region.output.shape, rank, cols)
    return loops_over(x.shape, strides, [COL if i in cols else ROW for i in range(rank)])


def _through(t: Tensor, shape: Shape, rank: int, cols: Sequence[int]) -> tuple[Dim, ...]:
    """Strides of what broadcasts to the result, as loops over the operand's shape: 0 along axes that are gone."""
    s = broadcast_strides(t, shape)
    if len(shape) == rank:
        return s
    kept = iter(s)
    return tuple(0 if i in cols else next(kept) for i in range(rank))


def types_reason(region: Region) -> str:
    """Why a kernel cannot read and write these types; "" if it can."""
    for t in (region.output, region.anchor, *region.inputs):
        if t.dtype.value == "string":
            return "strings are not for kernels"
    return ""


def store_reason(nest: Loops) -> str:
    """Why vectors along the innermost loop cannot be stored; "" if they can."""
    if nest.extents and nest.strides[OUT][-1] not in (0, 1):
        return "the output is not contiguous along its innermost loop"
    return ""


class Operands:
    """The tensors of a region in a kernel."""

    def __init__(self, k: Fn, args: Args, region: Region, nest: Loops) -> None:
        self.k, self.args, self.region, self.nest = k, args, region, nest
        self.prologue = prologue_of(region)
        tensors = {t: region.output if t == OUT else region.inputs[t if t >= 0 else -2 - t] for t in nest.strides}
        self.size = {t: x.dtype.size for t, x in tensors.items()}
        self.dtype = {t: x.dtype for t, x in tensors.items()}
        self.base: At = {t: args.pointer(Out() if t == OUT else In(t if t >= 0 else -2 - t)) for t in tensors}
        self.lanes = vector_lanes(k.isa.width, (x.dtype for x in (*tensors.values(), region.anchor)),
                                  (self.prologue, region.epilogue))

    @property
    def type(self) -> str:
        """The scalar type that the anchor computes in."""
        return compute_type(self.region.anchor.dtype)

    def vector(self, lanes: int | None = None) -> str:
        return vec(self.type, self.lanes if lanes is None else lanes)

    def stride(self, t: int, loop: int) -> IntLike:
        return self.args.dim(self.nest.strides[t][loop])

    def moved(self, at: At, loops: Sequence[int], index: Sequence[IntLike]) -> At:
        """Pointers advanced along loops (positions in the nest) to an index."""
        out = dict(at)
        for t in out:
            for l, i in zip(loops, index, strict=True):
                if not (isinstance(i, int) and i == 0):
                    out[t] = out[t] + i * self.stride(t, l) * self.size[t]
        return out

    def _leaf(self, t: int, leaf: Leaf, at: At, loop: int | None, c: IntLike, lanes: int, mask: Val | None) -> Val:
        s = 0 if loop is None else self.nest.strides[t][loop]
        if isinstance(s, int) and s == 0:
            return load_value(self.k, leaf.dtype, at[t])
        p = at[t] + c * self.args.dim(s) * self.size[t]
        if s == 1:
            return load_value(self.k, leaf.dtype, p, lanes, mask)
        return gather_value(self.k, leaf.dtype, p, self.args.dim(s), lanes, mask)

    def value(self, at: At, loop: int | None, c: IntLike, lanes: int, mask: Val | None = None,
              dtype: DType | None = None) -> Val:
        """The first operand at columns c.. of a loop, after its prologue, in the compute type of `dtype`
        (default: the anchor's)."""
        v = emit_expr(self.k, self.prologue, lambda t: self._leaf(t.source, t, at, loop, c, lanes, mask), lanes,
                      rounded=True)
        return cast(self.k, v, self.prologue.dtype, dtype or self.region.anchor.dtype)

    def operand(self, i: int, at: At, loop: int | None, c: IntLike, lanes: int, mask: Val | None = None) -> Val:
        """Another anchor operand (scale, bias) at columns c.. of a loop."""
        d = self.region.inputs[i].dtype
        v = cast(self.k, self._leaf(i, Leaf(i, d), at, loop, c, lanes, mask), d, self.region.anchor.dtype)
        return v if v.lanes == lanes else self.k.splat(v, lanes)

    def write(self, v: Val, at: At, loop: int | None, c: IntLike, mask: Val | None = None) -> None:
        """Store the anchor's result v through the epilogue at columns c.. of a loop."""
        e = self.region.epilogue
        if e is not None:
            v = self._result(e, v, at, loop, c, mask)
        step = 0 if loop is None else c * self.size[OUT]
        store_value(self.k, v, self.region.output.dtype, at[OUT] + step, mask)

    def write_all(self, values: Sequence[tuple[IntLike, Val | None, Val]], at: At, loop: int) -> None:
        """Store the results of neighbouring columns: (column, mask, result)."""
        while values:
            r = Rounding.of(self.region.epilogue, self.k.isa, values[0][2].lanes)
            four, stride = values[:4], self.nest.strides[OUT][loop]
            if r is not None and len(four) == 4 and stride == 1 and all(m is None for _, m, _ in four):
                vs = [self._result(r.before, v, at, loop, c, None) for c, _, v in four]
                self.k.store(r.four(self.k, vs), at[OUT] + four[0][0] * self.size[OUT])
            else:
                four = values[:1]
                self.write(four[0][2], at, loop, four[0][0], four[0][1])
            values = values[len(four):]

    def _result(self, e: Expr, v: Val, at: At, loop: int | None, c: IntLike, mask: Val | None) -> Val:
        """An expression of the anchor's result v at columns c.. of a loop."""
        def leaf(t: Leaf) -> Val:
            if t.source == ANCHOR:
                return v
            return self._leaf(after(t.source), t, at, loop, c, v.lanes, mask)

        return emit_expr(self.k, e, leaf, v.lanes)


Group = list[tuple[IntLike, Val | None]]


def sweep(k: Fn, n: IntLike, lanes: int, unroll: int) -> Iterator[Group]:
    """Groups of (column, mask) that cover 0..n: `unroll` whole vectors at a time, then what is left."""
    step = unroll * lanes
    whole = n // step * step
    for c in k.range(0, whole, step):
        yield [(c + j * lanes, None) for j in range(unroll)]
    if isinstance(whole, int) and isinstance(n, int):
        rest: Group = [(c, None if c + lanes <= n else k.tail_mask(n - c, lanes)) for c in range(whole, n, lanes)]
        if rest:
            yield rest
        return
    for c in k.range(whole, n, lanes):
        yield [(c, k.tail_mask(n - c, lanes))]


class Row:
    """Passes over one row of n columns.

    load(c, mask): the value at column c. Short rows of static length stay in registers after the first pass;
    others are read again, or from `buffer` (64-byte aligned, with room for whole vectors) once a pass kept them.
    """

    def __init__(self, k: Fn, n: IntLike, ty: str, lanes: int, load: Callable[[IntLike, Val | None], Val],
                 buffer: Val | None = None) -> None:
        self.k, self.n, self.ty, self.lanes, self.buffer = k, n, ty, lanes, buffer
        self._read = load
        self._held: list[tuple[IntLike, Val | None, Val]] | None = None
        self.resident = isinstance(n, int) and -(-n // lanes) <= k.isa.registers // 2
        self.unroll = max(1, -(-n // lanes)) if isinstance(n, int) and self.resident else 4

    @property
    def keeps(self) -> bool:
        """True if a pass can leave its values for the next."""
        return self.resident or self.buffer is not None

    def groups(self) -> Iterator[list[tuple[IntLike, Val | None, Val]]]:
        """The row once: groups of (column, mask, value); masked-off lanes hold junk."""
        if self.resident:
            if self._held is None:
                whole = sweep(self.k, self.n, self.lanes, self.unroll)
                self._held = [(c, m, self._read(c, m)) for group in whole for c, m in group]
            yield self._held
            return
        for group in sweep(self.k, self.n, self.lanes, self.unroll):
            yield [(c, m, self._read(c, m)) for c, m in group]

    def fold(self, neutral: float, step: Callable[[Val, Val], Val], value: Callable[[Val], Val] = lambda v: v,
             keep: bool = False, hold: bool = False, take: Callable[[Val, Val], Val] | None = None) -> Val:
        """The row's values folded by `step` into one scalar, starting from `neutral`, always in the same order.

        value: what to fold of each. keep: the passes that follow see that instead; hold: they see what this one
        loaded, without loading it again (both only if `keeps`). take: how a value (of masked-off lanes: `neutral`)
        joins what was folded before, where that is not `step`.
        """
        k = self.k
        size = _size(self.ty)
        accs = [k.var(vec(self.ty, self.lanes), neutral) for _ in range(self.unroll)]
        for group in self.groups():
            new = [(c, m, value(v)) for c, m, v in group]
            for acc, (_, m, v) in zip(accs, new):
                acc.set((take or step)(acc.get(), v if m is None else k.select(m, v, neutral)))
            if self.resident:
                self._held = new if keep else group
            elif keep or hold:
                for c, _, v in new if keep else group:
                    k.store(v, self._kept(c), align=size * self.lanes)
        if (keep or hold) and not self.resident:
            self._read = lambda c, m: k.load(self.ty, self._kept(c), self.lanes, align=size * self.lanes)
        return across(k, tree([a.get() for a in accs], step), step)

    def _kept(self, c: IntLike) -> Val:
        assert self.buffer is not None
        return self.buffer + c * _size(self.ty)


def _size(scalar: str) -> int:
    return 8 if scalar == "double" else 4


def tree(vs: Sequence[Val], step: Callable[[Val, Val], Val]) -> Val:
    """Values folded pairwise."""
    vs = list(vs)
    while len(vs) > 1:
        vs = [step(a, b) for a, b in zip(vs[::2], vs[1::2])] + vs[len(vs) & ~1:]
    return vs[0]


def across(k: Fn, v: Val, step: Callable[[Val, Val], Val]) -> Val:
    """A vector folded to a scalar by halves, in a fixed order."""
    while v.lanes > 1:
        h = v.lanes // 2  # lanes are a power of two
        halves = [k.shuffle(v, None, range(i, i + h)) if h > 1 else k.extract(v, i) for i in (0, h)]
        v = step(halves[0], halves[1])
    return v


def rows_per_tile(region: Region, rows: Dim, n: Dim, work: int) -> int:
    """How many rows of n columns make a tile of about `work` elements; all of them if they are few."""
    per = max(1, work // max(1, optimum(region, n)))
    total = optimum(region, rows)
    return max(1, total) if isinstance(rows, int) and total <= per else per


def buffer_bytes(region: Region, n: Dim, lanes: int, ty: str) -> int:
    """Bytes of a buffer for a row of n columns, with room to write whole vectors; 0 if it would be too large."""
    longest = upper(n, {name: (r[0], r[2]) for name, r in region.dims.items()})
    nbytes = (longest + lanes) * _size(ty)
    return -(-nbytes // 64) * 64 if nbytes <= BUFFER else 0


def tile_rows(ops: Operands, group: int, rows: Sequence[int]) -> Iterator[At]:
    """Pointers of each row of the kernel's tiles; tiles hold `group` rows, `rows` are the nest's row loops."""
    k, args, nest = ops.k, ops.args, ops.nest
    extents = [args.dim(nest.extents[l]) for l in rows]
    total = args.dim(product(nest.extents[l] for l in rows))
    for tile in k.range(k.begin, k.end):
        first = tile * group
        for r in k.range(first, k.min(first + group, total)):
            index: list[IntLike] = []
            rest: IntLike = r
            for e in reversed(extents[1:]):
                index.append(rest % e)
                rest = rest // e
            index.append(rest)
            yield ops.moved(ops.base, rows, list(reversed(index)) if rows else [])
