"""The text of fused attention with online softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al.,
arXiv:2205.14135): a tile of rows against all the keys that they see, a block of keys at a time.

Scores are kept in units of log2(e), so that every exponential is one exp2. The running maximum may be -inf (nothing
seen yet): then 0 is subtracted instead, and exp2(-inf) is 0, not NaN. NaN scores do not show in the maximum, they make
the exponentials NaN. What lies at keys that no row of a tile sees is never read.

8-bit codes take the keys twice: probabilities become codes of 1/255 of the row's own maximum, which must be known
first (`ir.ops_anchor._probability_codes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from whet.ir.dtypes import DType
from whet.ir.symbolic import Dim
from whet.targets.cuda import index
from whet.targets.cuda.attention_problem import LENGTHS, MASK, K, Problem, Q, V, chunks
from whet.targets.cuda.expr import ROUND
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import divides, power_of_two

LOG2E = math.log2(math.e)
LARGE = 64  # rows of a tile, from which on a group of warps multiplies
AHEAD = 1 << 15  # bytes of values that a program has room for in registers while it works out the scores
_MEMORY = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16", DType.F64: "float64"}


@dataclass
class Loop:
    """Emits one program: rows [tile * rows, ...) of group g of batch element b against the keys of `block`s.

    rows: a power of two; 1: products are sums of elementwise products (no tensor cores), for single queries.
    part: (text of its number, how many) where the keys are divided among programs.
    After `emit`, `acc[i]` are the sums of `values[i]` (first column, size) that are not yet divided by `total`.
    """

    s: Source
    p: Problem
    rows: int
    block: int
    part: tuple[str, int] | None = None
    acc: list[str] = field(default_factory=list)
    values: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        p = self.p
        self.scored = [(0, power_of_two(p.d))] if self.rows == 1 else chunks(p.d)
        self.values = [(0, power_of_two(p.e))] if self.rows == 1 else chunks(p.e)
        self.causal = bool(p.region.attrs.get("causal"))
        self.window = int(p.region.attrs.get("window", 0))
        self.limited = LENGTHS in p.where
        self.cap = float(p.region.attrs.get("softcap", 0.0))
        scale = float(p.region.attrs["scale"])
        if p.codes:
            scale *= float(p.region.attrs["q_scale"]) * float(p.region.attrs["k_scale"])
        self.scale = scale
        self.single = isinstance(p.keys, int) and p.keys <= self.block and self.part is None
        full = self.rows == 1 or (isinstance(p.rows, int) and p.rows % self.rows == 0)
        self.live = "" if full else "live[:, None]"
        self.checked = True  # whether the block in hand may have keys that a row does not see
        for t in (*p.region.inputs, p.region.output):
            wide = index.is_wide(p.region, t)
            for stride in t.strides:
                self.number(stride, wide)  # before `index` asks, which does not know of multiples

    @property
    def _whole(self) -> bool:
        """True if every block (the one in hand) is full of keys."""
        return not self.checked or (not self.limited and isinstance(self.p.keys, int) and self.p.keys % self.block == 0)

    # -- where things lie ------------------------------------------------------------------------------------

    def number(self, d: Dim, wide: bool = False) -> str:
        """Text of an integer; parameters that are surely multiples of 16 say so."""
        if isinstance(d, int):
            return str(d) if d >= 0 else f"({d})"
        return self.s.integer(d, wide, divides(16, d))

    def enter(self, tile: str) -> None:
        """Names that everything below uses: r (rows), query and head (of rows), live."""
        s, p = self.s, self.p
        s.line(f"first = {tile} * {self.rows}")
        s.line(f"r = first + tl.arange(0, {self.rows})")
        if p.share == 1:
            s.line("query = r")
            self.head = "g"
            self._head_axes: tuple[int, ...] = ()
        else:
            s.line(f"query = r // {self.number(p.share)}")
            s.line(f"head = g * {self.number(p.share)} + r % {self.number(p.share)}")
            self.head = "head[:, None]"
            self._head_axes = (0,)
        if self.live:
            s.line(f"live = r < {self.number(p.rows)}")
        self._sight()

    def _sight(self) -> None:
        """keys: how many there are; start, stop: those that the tile looks at; last: the last that a row sees."""
        s, p = self.s, self.p
        t = self.number(p.keys)
        s.line(f"keys = {t}")
        offset = self.number(p.region.attrs.get("offset", 0))
        if self.limited:
            length = index.load(s, p.region, p.where[LENGTHS], index.pointer(s, p.region, p.where[LENGTHS]),
                                Block(("b",), ((),)))
            s.line(f"length = {length}.to(tl.int32)")
            s.line(f"keys = tl.maximum(tl.minimum(length, {t}), 0)")
            offset = f"length - {self.number(p.queries)} + {offset}"
        s.line("start = 0")
        s.line("stop = keys")
        if self.causal:
            n = self.number(p.share)
            s.line(f"offset = {offset}")
            s.line("last = query + offset")
            final = f"first + {self.rows - 1}" if self.live == "" else \
                f"tl.minimum(first + {self.rows - 1}, {self.number(p.rows)} - 1)"
            s.line(f"stop = tl.maximum(tl.minimum(keys, ({final}) // {n} + offset + 1), 0)")
            if self.window:
                s.line(f"start = tl.maximum(first // {n} + offset - {self.window - 1}, 0)")
                s.line(f"start = start // {self.block} * {self.block}")
        if self.part is not None:
            number, parts = self.part
            s.line(f"share = tl.cdiv(tl.cdiv({t}, {self.block}), {parts}) * {self.block}")
            s.line(f"start = tl.maximum(start, {number} * share)")
            s.line(f"stop = tl.minimum(stop, ({number} + 1) * share)")
        if self._most_seen:
            s.line(f"whole = tl.maximum(tl.minimum(stop, first // {self.number(p.share)} + offset + 1), 0)")
            s.line(f"whole = whole // {self.block} * {self.block}")

    # -- operands --------------------------------------------------------------------------------------------

    def _operand(self, name: str, block: Block, shape: tuple[int, int], second: bool = False) -> str:
        """The block of an operand, its prologue applied, as it is multiplied; 0 where it is masked off."""
        s, region = self.s, self.p.region
        to, _ = self.p.product(second)
        i = self.p.where[name]
        if i in region.prologue:
            x = index.value_of(s, region, region.prologue[i], block)
            x = s.name_of(f"tl.broadcast_to({x}, [{shape[0]}, {shape[1]}]).to(tl.{to})", "x")
            mask = block.mask((0, 1))  # outside, the expression may make anything of what was not loaded
            x = s.name_of(f"tl.where({mask}, {x}, tl.zeros_like({x}))", "x") if mask else x
        else:
            t = region.inputs[i]
            x = index.load(s, region, i, index.pointer(s, region, i), block, "0.0" if t.dtype.is_float else "0")
            x = index.filled(s, x, t, block, shape)
            if _MEMORY.get(t.dtype) != to:
                x = s.name_of(f"{x}.to(tl.{to})", "x")
        if self.rows == 1 and to not in ("float32", "float64"):  # no tensor cores: f32 after the rounding
            x = s.name_of(f"{x}.to(tl.float32)", "x")
        return x

    def columns(self, at: int, size: int, width: int) -> tuple[str, str]:
        """Indices [1, size] of columns from `at` on, and their mask ("" where all are there)."""
        x = f"({at} + tl.arange(0, {size}))[None, :]" if at else f"tl.arange(0, {size})[None, :]"
        return x, "" if at + size <= width else f"{x} < {width}"

    def _of_rows(self, at: int, size: int, width: int) -> Block:
        """Columns of the tile's rows."""
        x, mask = self.columns(at, size, width)
        return Block(("b", self.head, "query[:, None]", x), ((), self._head_axes, (0,), (1,)), (self.live, mask))

    def _of_keys(self, at: int, size: int, width: int) -> Block:
        """Columns of the block's keys or values."""
        x, mask = self.columns(at, size, width)
        inside = "" if self._whole else "(t < keys)[:, None]"
        return Block(("b", "g", "t[:, None]", x), ((), (), (0,), (1,)), (inside, mask))

    def _across(self, at: int, size: int, width: int) -> Block:
        """The same with keys side by side, as the product with the queries takes them."""
        x, mask = (text.replace("[None, :]", "[:, None]") for text in self.columns(at, size, width))
        inside = "" if self._whole else "(t < keys)[None, :]"
        return Block(("b", "g", "t[None, :]", x), ((), (), (1,), (0,)), (mask, inside))

    # -- the loop --------------------------------------------------------------------------------------------

    def emit(self) -> None:
        """Everything but the division; names `top`, `total` [rows] and `acc`."""
        s, p = self.s, self.p
        q = [self._operand(Q, self._of_rows(*chunk, p.d), (self.rows, chunk[1])) for chunk in self.scored]
        self.acc = [f"acc{i}" for i in range(len(self.values))]
        if self.single:
            s.line(f"t = tl.arange(0, {self.block})")
            self._first(q)
            return
        s.line(f"top = tl.full([{self.rows}], -float('inf'), tl.{p.real})")
        s.line(f"total = tl.zeros([{self.rows}], tl.{p.real})")
        for a, (_, size) in zip(self.acc, self.values):
            s.line(f"{a} = tl.zeros([{self.rows}, {size}], tl.{p.real})")
        if p.codes:
            with s.block(f"for t0 in tl.range(start, stop, {self.block}):"):
                s.line(f"t = t0 + tl.arange(0, {self.block})")
                s.line(f"top = tl.maximum(top, tl.max({self._scores(q)}, 1))")
            s.line("least = tl.where(top == -float('inf'), 0.0, top)")
        if self._most_seen:
            self._blocks(q, "start", "whole", False)
            self._blocks(q, "tl.maximum(start, whole)", "stop", True)
        else:
            self._blocks(q, "start", "stop", True)

    @property
    def _most_seen(self) -> bool:
        """True if most blocks of keys are wholly seen by every row: those come first, and nothing is masked there."""
        return self.causal and not (self.window or self.p.codes) and self.p.opt(self.p.keys) >= 4 * self.block and \
            self.p.opt(self.p.queries) > 1

    def _blocks(self, q: list[str], start: str, stop: str, checked: bool) -> None:
        """The rounds of these keys; `checked`: some rows may not see some of them."""
        s, p = self.s, self.p
        self.checked = checked
        with s.block(f"for t0 in tl.range({start}, {stop}, {self.block}):"):
            s.line(f"t = t0 + tl.arange(0, {self.block})")
            scores = self._scores(q)
            if p.codes:
                self._codes(scores)
                s.line("total += tl.sum(prob, 1)")
            else:
                s.line(f"now = tl.maximum(top, tl.max({scores}, 1))")
                s.line("least = tl.where(now == -float('inf'), 0.0, now)")
                s.line(f"prob = tl.exp2({scores} - least[:, None])")
                s.line("fade = tl.exp2(top - least)")
                s.line("total = total * fade + tl.sum(prob, 1)")
                s.line("top = now")
            for a, chunk in zip(self.acc, self.values):
                if not p.codes:
                    s.line(f"{a} = {a} * fade[:, None]")
                self._add(a, self._value(chunk))

    def _first(self, q: list[str]) -> None:
        """All keys in one block: nothing has to be taken back. Small tiles ask for everything before they use any of
        it; of large ones there are others on the multiprocessor that run meanwhile, if they leave registers."""
        s, p = self.s, self.p
        keys, mask, values = [], "", [""] * len(self.values)
        if 1 < self.rows < LARGE:
            keys = [self._operand(K, self._across(*c, p.d), (c[1], self.block)) for c in self.scored]
            mask = self._mask() if MASK in p.where else ""
            if self.block * p.e * p.tensor(V).dtype.size <= AHEAD:
                values = [self._value(c) for c in self.values]
        scores = self._scores(q, keys, mask)
        s.line(f"top = tl.max({scores}, 1)")
        s.line("least = tl.where(top == -float('inf'), 0.0, top)")
        if p.codes:
            self._codes(scores)
        else:
            s.line(f"prob = tl.exp2({scores} - least[:, None])")
        s.line("total = tl.sum(prob, 1)")
        for a, chunk, v in zip(self.acc, self.values, values):
            s.line(f"{a} = tl.zeros([{self.rows}, {chunk[1]}], tl.{p.real})")
            self._add(a, v or self._value(chunk))

    def _codes(self, scores: str) -> None:
        """prob: codes of 1/255 of the greatest."""
        self.s.line(f"prob = (tl.exp2({scores} - least[:, None]) * 255.0 + {ROUND}) - {ROUND}")

    def _value(self, chunk: tuple[int, int]) -> str:
        """The block's values."""
        return self._operand(V, self._of_keys(*chunk, self.p.e), (self.block, chunk[1]), True)

    def _add(self, acc: str, v: str) -> None:
        """acc += prob @ V."""
        s = self.s
        to, precision = self.p.product(True)
        if self.rows == 1:
            s.line(f"{acc} += tl.sum(tl.trans(prob) * {v}, 0)[None, :]")
            return
        prob = "prob" if to == self.p.real else f"prob.to(tl.{to})"
        s.line(f"{acc} = tl.dot({prob}, {v}, {acc}{self._options(precision)})")

    def _options(self, precision: str | None) -> str:
        text = f', input_precision="{precision}"' if precision else ""
        return text + (", out_dtype=tl.float64" if self.p.real == "float64" else "")

    def _scores(self, q: list[str], keys: Sequence[str] = (), mask: str = "") -> str:
        """The block's scores in units of log2(e), -inf where a row does not see a key; keys: `_across`, and mask, where
        they were loaded before."""
        s, p = self.s, self.p
        _, precision = p.product(False)
        x = ""
        for n, (part, chunk) in enumerate(zip(q, self.scored)):
            k = keys[n] if keys else self._operand(K, self._of_keys(*chunk, p.d), (self.block, chunk[1]))
            if self.rows == 1:
                x = s.name_of(f"tl.sum({part} * {k}, 1)[None, :]", "x")
                continue
            k = k if keys else f"tl.trans({k})"
            x = s.name_of(f"tl.dot({part}, {k}{f', {x}' if x else ''}{self._options(precision)})", "x")
        if self.cap:  # cap * tanh(x) with tanh(x) = 1 - 2 / (exp(2 x) + 1)
            s.line(f"grown = tl.exp2({x} * {2 * LOG2E * self.scale / self.cap!r})")
            x = s.name_of(f"{self.cap * LOG2E!r} - {2 * self.cap * LOG2E!r} / (grown + 1.0)", "x")
        else:
            x = s.name_of(f"{x} * {self.scale * LOG2E!r}", "x")
        if MASK in p.where:
            x = self._masked(x, mask or self._mask())
        sees = [] if self._whole else ["(t < keys)[None, :]"]
        if self.causal and self.checked:
            sees.append("(t[None, :] <= last[:, None])")
            if self.window:
                sees.append(f"(t[None, :] > last[:, None] - {self.window})")
        if sees:
            x = s.name_of(f"tl.where({' & '.join(sees)}, {x}, -float('inf'))", "x")
        return x

    def _mask(self) -> str:
        """The block of the mask operand, as it was loaded."""
        s, p = self.s, self.p
        block = Block(("b", self.head, "query[:, None]", "t[None, :]"), ((), self._head_axes, (0,), (1,)),
                      (self.live, "" if self._whole else "(t < keys)[None, :]"))
        other = "0.0" if p.tensor(MASK).dtype.is_float else "0"
        i = p.where[MASK]
        return index.load(s, p.region, i, index.pointer(s, p.region, i), block, other)

    def _masked(self, x: str, m: str) -> str:
        """Scores with the mask operand."""
        s, p = self.s, self.p
        t = p.tensor(MASK)
        if t.dtype is DType.BOOL:
            return s.name_of(f"tl.where({m}, {x}, -float('inf'))", "x")
        m = s.name_of(f"{m}.to(tl.{p.real})", "m")
        scaled = s.name_of(f"{m} * {LOG2E!r}", "m")
        if t.dtype is not DType.F16:  # what is finite stays so: rows full of the lowest number are not empty
            limit = "1.7976931348623157e308" if p.real == "float64" else "3.4028234e38"
            scaled = s.name_of(f"tl.where((tl.abs({scaled}) > {limit}) & (tl.abs({m}) <= {limit}), {m}, {scaled})", "m")
        return s.name_of(f"{x} + {scaled}", "x")

    # -- the result ------------------------------------------------------------------------------------------

    def inverse(self, total: str) -> str:
        """Text of what the sums are multiplied with at last."""
        p = self.p
        zero = p.region.attrs.get("masked_zero")
        text = f"1.0 / {total}"
        if p.codes:
            text = f"{float(p.region.attrs['v_scale'])!r} / {total}"
        if zero:
            return f"tl.where({total} == 0.0, 0.0, {text})"
        if p.range(p.keys)[0] == 0:  # a sum over no keys at all is 0
            return f"tl.where(({total} == 0.0) & ({self.number(p.keys)} == 0), 0.0, {text})"
        return text

    def finish(self, inverse: str, write: Callable[[str, Block], None]) -> None:
        """The quotients go to write(value, block of the output)."""
        for a, chunk in zip(self.acc, self.values):
            write(self.s.name_of(f"{a} * {inverse}[:, None]", "y"), self._of_rows(*chunk, self.p.e))
