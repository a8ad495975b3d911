"""What the matmul kernels share: programs' places, operands on load, the loop over the depth, the epilogue."""

from __future__ import annotations

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product, upper
from whet.targets.cuda import expr
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER, Source
from whet.targets.cuda.matmul_problem import OUT, SUMS, Key, Problem, Products
from whet.targets.cuda.shapes import divides, is_long

EARLY = 64 * 64  # elements of a tile whose epilogue's operands have room in registers beside the sums


class Body:
    """The text of a matmul kernel. Names in it: `rm`, `rn`, `rk` are the indices of the block; `outer` counts
    matrices of the batch. Offsets are 64 bits wide where the problem says so."""

    def __init__(self, name: str, region: Region, p: Problem, how: Products, machine: Gpu) -> None:
        self.s = Source(name, machine.has_fp8)
        self.region, self.p, self.how = region, p, how
        self._params: dict[Key, str] = {}
        self._bases: dict[Key, str] = {}
        self._ready: dict[Key, str] = {}  # what the epilogue reads and was loaded early

    # -- places ------------------------------------------------------------------------------------------------

    def number(self, d: Dim) -> str:
        """Text of a dimension, stride or count."""
        wide = not isinstance(d, int) and is_long(upper(d, self.p.ranges))
        return self.s.integer(d, wide=wide, aligned=divides(16, d))

    def tile(self, pid: str, bm: int, bn: int, group: int, splits: int = 1) -> None:
        """`pm`, `pn`, `outer` and, of several splits, `split`, of the program `pid`: tiles of `group` rows by all
        columns follow one another, so that what they read is still in the L2 cache."""
        s, p = self.s, self.p
        rows, columns = ceildiv(p.m, bm), ceildiv(p.n, bn)
        s.line(f"pid = {pid}")
        if splits > 1:
            each = self.number(rows * columns * product(p.batch))
            s.line(f"split = pid // {each}\npid = pid % {each}")
        if p.batch:
            each = self.number(rows * columns)
            s.line(f"outer = pid // {each}\npid = pid % {each}")
        m_tiles, n_tiles = self.number(rows), self.number(columns)
        if group == 1 or rows == 1:
            s.line(f"pm = pid // {n_tiles}\npn = pid % {n_tiles}")
        elif isinstance(rows, int) and rows <= group:
            s.line(f"pm = pid % {m_tiles}\npn = pid // {m_tiles}")
        else:
            s.line(f"width = {group} * {n_tiles}\nfirst = pid // width * {group}")
            s.line(f"height = tl.minimum({m_tiles} - first, {group})")
            s.line("pm = first + pid % width % height\npn = pid % width // height")

    def indices(self, bm: int, bn: int) -> None:
        """`rm` and `rn` of the tile (pm, pn)."""
        self.s.line(f"rm = {self.wide(f'pm * {bm}')} + tl.arange(0, {bm})")
        self.s.line(f"rn = {self.wide(f'pn * {bn}')} + tl.arange(0, {bn})")

    def wide(self, text: str) -> str:
        """An integer's text, in 64 bits where offsets need that."""
        if not self.p.wide:
            return text
        return f"tl.full((), {text}, tl.int64)" if text.isdigit() else f"({text}).to(tl.int64)"

    def enter(self, keys: str = "abeso") -> None:
        """Find where each tensor's matrix of the batch begins."""
        s, p = self.s, self.p
        indices: list[str] = []
        rest = "outer"
        for i, extent in reversed(list(enumerate(p.batch))):
            indices.insert(0, s.name_of(self.wide(f"{rest} % {self.number(extent)}" if i else rest), "at"))
            if i:
                rest = s.name_of(f"{rest} // {self.number(extent)}", "rest")
        for key, steps in p.strides.items():
            if key[0] in keys:
                terms = [f"{i} * {self.number(d)}" for i, d in zip(indices, steps) if d != 0]
                self._bases[key] = s.name_of(" + ".join([self.parameter(key), *terms]), "base") if terms \
                    else self.parameter(key)

    def parameter(self, key: Key) -> str:
        """The pointer to a tensor's first element."""
        if key not in self._params:
            t, arg = self.p.tensors[key], self.p.args[key]
            same = next((self._params[k] for k in self._params if self.p.args[k] == arg), None)
            self._params[key] = same or self.s.pointer(arg, t.dtype, t.aligned)
        return self._params[key]

    def base(self, key: Key) -> str:
        """The pointer to a tensor's matrix of the batch, after `enter`."""
        return self._bases[key]

    def m_mask(self, bm: int, rows: str = "rm[:, None]") -> str:
        """The rows that exist, "" where all of a block do."""
        return "" if isinstance(self.p.m, int) and self.p.m % bm == 0 else f"({rows} < {self.number(self.p.m)})"

    def n_mask(self, bn: int, columns: str = "rn[None, :]") -> str:
        return "" if isinstance(self.p.n, int) and self.p.n % bn == 0 else f"({columns} < {self.number(self.p.n)})"

    def begin(self, bm: int, bn: int, prefetch_from: str = "0", prefetch_to: str = "") -> None:
        """Between the indices and the products of a tile: wait, with constants on their way."""
        place = "rm[:, None]", "rn[None, :]", self.m_mask(bm), self.n_mask(bn)
        if bm * bn <= EARLY:
            self.preload(*place, const=True)
        self.wait(self.may_prefetch(), bn, prefetch_from, prefetch_to)
        if bm * bn <= EARLY:
            self.preload(*place, const=False)

    def wait(self, prefetch: bool = False, bn: int = 0, begin: str = "0", end: str = "") -> None:
        """Here the kernel waits for those before it, if it was launched early: what is above reads no memory. prefetch:
        meanwhile its columns of b, rows [begin, end), which nobody writes, are brought into the L2 cache."""
        if prefetch:
            self._prefetch(bn, begin, end or self.number(self.p.k))
        self.s.line("#: wait")

    def _prefetch(self, bn: int, begin: str, end: str) -> None:
        """Lines that only kernels which wait have (`compile`)."""
        steps, t = self.p.strides["b", 1], self.p.tensors["b", 1]
        line, base = 128 // t.dtype.size, self._bases["b", 1]
        n, across, deep = self.number(self.p.n), self.number(steps[-2]), self.number(steps[-1])
        asm = 'tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l"'
        if steps[-1] == 1:  # a column's elements lie together
            lines = -(-upper(self.p.k, self.p.ranges) // line)
            width = 1 << (max(1, min(512 // bn, lines)) - 1).bit_length()
            place = (f"tl.minimum(pn * {bn} + tl.arange(0, {bn})[:, None], {n} - 1) * {across} + "
                     f"tl.minimum(ahead + tl.arange(0, {width})[None, :] * {line}, {end} - 1)")
            step = width * line
        else:
            lines = max(1, bn // line)
            step = max(16, 512 // lines)
            place = (f"tl.minimum(ahead + tl.arange(0, {step})[:, None], {end} - 1) * {deep} + "
                     f"tl.minimum(pn * {bn} + tl.arange(0, {lines})[None, :] * {line}, {n} - 1)")
        self.s.line(f"#: if pm == 0:\n#:     for ahead in tl.range({begin}, {end}, {step}):\n"
                    f"#:         {asm}, [({base} + {place}).to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)")

    def may_prefetch(self) -> bool:
        """True if b is a constant that can be brought into the L2 cache ahead of the wait."""
        p = self.p
        return ({k for k in p.tensors if k[0] == "b"} == {("b", 1)} and p.tensors["b", 1].const and not p.wide
                and 1 not in self.region.prologue and 1 in p.strides["b", 1][-2:])

    # -- operands ----------------------------------------------------------------------------------------------

    def operand(self, role: str, outer: str, deep: str, outer_mask: str, deep_mask: str, shape: str) -> Operand:
        """The operand `a` or `b` on load. outer, deep: the block's indices along m or n, and along the depth."""
        return Operand(self, role, outer, deep, outer_mask, deep_mask, shape)

    def load(self, key: Key, pointers: str, mask: str) -> str:
        """Text of loaded elements: 0 where masked; a bool is one."""
        t = self.p.tensors[key]
        other = "0.0" if self.s.memory(t.dtype).startswith(("fp", "bf")) else "0"
        text = f"tl.load({pointers}, mask={mask}, other={other})" if mask else f"tl.load({pointers})"
        return f"({text} != 0)" if t.dtype is DType.BOOL else text

    # -- results -----------------------------------------------------------------------------------------------

    def preload(self, rows: str, columns: str, row_mask: str, column_mask: str, const: bool) -> None:
        """Load what the epilogue reads before the products are summed, so that nothing waits for it at the end:
        constants (which may be read before the kernel waits for others), or everything else."""
        for key in [k for k in self.p.tensors if k[0] == "e" and self.p.tensors[k].const == const]:
            if key not in self._ready:
                self._ready[key] = self.s.name_of(
                    self.load(key, *self._place(key, rows, columns, row_mask, column_mask)), "early")

    def finish(self, total: str, rows: str, columns: str, row_mask: str, column_mask: str) -> None:
        """The epilogue of the sums `total` and the store. rows, columns: texts of indices that broadcast to them."""
        s, region = self.s, self.region

        def read(key: Key) -> str:
            return self._ready.get(key) or self.load(key, *self._place(key, rows, columns, row_mask, column_mask))

        if SUMS in self.p.tensors:
            total = s.name_of(f"{total} + 128 * {read(SUMS)}", "total")
        value, dtype = total, region.anchor.dtype
        if region.epilogue is not None:
            value = expr.emit(s, region.epilogue, lambda t: total if t.source == ANCHOR else read(("e", t.source)),
                              region.output.dtype in expr.NARROW)
            dtype = region.epilogue.dtype
        pointers, _ = self._place(OUT, rows, columns, row_mask, column_mask)
        masks = " & ".join(t for t in (row_mask, column_mask) if t)
        value = stored(value, dtype, region.output.dtype)
        s.line(f"tl.store({pointers}, {value}, mask={masks})" if masks else f"tl.store({pointers}, {value})")

    def _place(self, key: Key, rows: str, columns: str, row_mask: str, column_mask: str) -> tuple[str, str]:
        """(addresses, mask) of a tensor like the output, or one that broadcasts to it."""
        m, n = self.p.strides[key][-3:-1]
        if key == OUT:  # addresses of the block's shape, also along a dimension of one element
            m, n = m if m != 0 or rows == "0" else 1, n if n != 0 else 1
        terms = [f"{i} * {self.number(d)}" if d != 1 else i for i, d in ((rows, m), (columns, n)) if d != 0]
        masks = [t for t, d in ((row_mask, m), (column_mask, n)) if t and d != 0]
        return " + ".join([self._bases[key], *terms]), " & ".join(masks)


def stored(value: str, dtype: DType, out: DType) -> str:
    """A value of an expression's type as it lies in memory."""
    if out is DType.BOOL:
        return f"({value} != 0).to(tl.uint8)" if dtype is not DType.BOOL else f"{value}.to(tl.uint8)"
    if out.is_storage:  # as `expr.emit` leaves it: a byte where the GPU does not know the type
        return value
    return f"{value}.to(tl.{REGISTER[out]})"


class Operand:
    """An operand's pointers, which go along the depth, and its values."""

    def __init__(self, body: Body, role: str, outer: str, deep: str, outer_mask: str, deep_mask: str, shape: str
                 ) -> None:
        self.body, self.role, self.shape, self.deep_mask = body, role, shape, deep_mask
        self.index = 0 if role == "a" else 1
        self.expr = body.region.prologue.get(self.index)
        self.pointers: dict[int, tuple[str, str, Dim]] = {}
        self.full = self.expr is None
        for key, steps in body.p.strides.items():
            if key[0] != role:
                continue
            across, along = (steps[-3] if role == "a" else steps[-2]), steps[-1]
            terms = [f"{i} * {body.number(d)}" if d != 1 else i for i, d in ((outer, across), (deep, along)) if d != 0]
            masks = [t for t, d in ((outer_mask, across), (deep_mask, along)) if t and d != 0]
            name = body.s.name_of(" + ".join([body._bases[key], *terms]), role)
            self.pointers[key[1]] = name, " & ".join(masks), along
            self.full = self.full and across != 0 and along != 0

    def value(self) -> str:
        """The block's values in the type of the products."""
        body, s, to = self.body, self.body.s, self.body.how.operand

        def leaf(t: Leaf) -> str:
            name, mask, _ = self.pointers[t.source]
            return body.load((self.role, t.source), name, mask)

        if self.expr is not None:
            got, dtype = expr.emit(s, self.expr, leaf), self.expr.dtype
        else:
            (index,) = self.pointers
            dtype = body.p.tensors[self.role, index].dtype
            got = s.name_of(leaf(Leaf(index, dtype)), f"{self.role}v")
        if self.role == "a" and body.how.offset:
            got = f"({got} ^ 128).to(tl.int8, bitcast=True)"
        elif dtype is not to or self.expr is not None:
            if to not in REGISTER:
                raise InternalError(f"no products of {to.value} in registers")
            got = f"{got}.to(tl.{REGISTER[to]})"
        if not self.full:
            got = f"tl.broadcast_to({got}, {self.shape})"
            if self.deep_mask and not self._vanishes():
                zero = "0.0" if to.is_float or to is DType.F8E4M3FN else "0"
                got = f"tl.where({self.deep_mask}, {got}, {zero}).to(tl.{REGISTER[to]})"
        return s.name_of(got, f"{self.role}v")

    def _vanishes(self) -> bool:
        """True if what lies beyond the depth, where every leaf is loaded as 0, is a finite number: it meets zeros of
        the other operand, and needs no mask of its own (which would move the block from one layout to another)."""
        if self.expr is None or self.body.how.operand.is_storage or not self.body.how.operand.is_float:
            return False
        if not all(mask and along != 0 for _, mask, along in self.pointers.values()):
            return False
        zeros = {k: np.zeros((), self.body.p.tensors[self.role, k].dtype.np) for k in self.pointers}
        with np.errstate(all="ignore"):
            return bool(np.isfinite(np.asarray(self.expr.evaluate(zeros)).astype(self.body.how.operand.np)))

    def advance(self, by: int) -> None:
        """Go `by` elements along the depth."""
        for name, _, along in self.pointers.values():
            if along != 0:
                self.body.s.line(f"{name} += {by * along}" if isinstance(along, int)
                                 else f"{name} += {by} * {self.body.number(along)}")


def depth_loop(body: Body, bm: int, bn: int, bk: int, begin: str, end: str, exact: bool) -> str:
    """Sum products over the depth [begin, end); the name of the sums. exact: blocks of bk divide it evenly."""
    s, how = body.s, body.how
    total = REGISTER[how.total]
    across, down = ("", "") if exact else (f"(ik[None, :] < {end} - k)", f"(ik[:, None] < {end} - k)")
    s.line(f"rk = {begin} + tl.arange(0, {bk})" if begin != "0" else f"rk = tl.arange(0, {bk})")
    s.line(f"acc = tl.zeros(({bm}, {bn}), tl.{total})")
    if not exact:
        s.line(f"ik = tl.arange(0, {bk})")
    a = body.operand("a", "rm[:, None]", "rk[None, :]", body.m_mask(bm), across, f"({bm}, {bk})")
    b = body.operand("b", "rn[None, :]", "rk[:, None]", body.n_mask(bn), down, f"({bk}, {bn})")
    sums = how.offset and SUMS not in body.p.tensors
    if sums:
        s.line(f"sums = tl.zeros(({bn},), tl.int32)")
    with s.block(f"for k in tl.range({begin}, {end}, {bk}):"):
        av, bv = a.value(), b.value()
        if how.operand is DType.F8E4M3FN:
            s.line(f"acc = tl.dot({av}, {bv}, acc, max_num_imprecise_acc={min(bk, 128)})")
        elif how.operand in (DType.F32, DType.F64):
            s.line(f'acc = tl.dot({av}, {bv}, acc, input_precision="{how.precision}", out_dtype=tl.{total})')
        else:
            s.line(f"acc = tl.dot({av}, {bv}, acc, out_dtype=tl.{total})")
        if sums:
            s.line(f"sums += tl.sum({bv}.to(tl.int32), 0)")
        a.advance(bk)
        b.advance(bk)
    if sums:
        s.line("acc += 128 * sums[None, :]")
    return "acc"


def outer_products(body: Body, bm: int, bn: int) -> str:
    """Sum the products of one depth at a time, for types that tensor cores lack; the name of the sums."""
    s = body.s
    s.line(f"acc = tl.zeros(({bm}, {bn}), tl.{REGISTER[body.how.total]})")
    a = body.operand("a", "rm[:, None]", "0", body.m_mask(bm), "", f"({bm}, 1)")
    b = body.operand("b", "rn[None, :]", "0", body.n_mask(bn), "", f"(1, {bn})")
    with s.block(f"for k in tl.range(0, {body.number(body.p.k)}):"):
        s.line(f"acc += {a.value()} * {b.value()}")
        a.advance(1)
        b.advance(1)
    return "acc"
