"""Recurrent layers: a step in time is a product of the rows' h with R, a few columns of every gate at a time.

Two ways. `recurrent`: a program takes one direction of some batch rows through all of time; h passes from step to step
in the workspace, behind a barrier of the program's threads. `recurrent_steps`: a launch for each step, whose programs
divide the columns too, so that R is read by the whole GPU; for lengths that are known and few.

GRU without linear_before_reset takes two passes over the columns, since its last product is with the product of reset
gate and h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from whet.ir.dtypes import DType
from whet.ir.ops_recurrent import GATES, OPERANDS
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv, symbol
from whet.targets.base import Implementation, Int, Params, Step, Work
from whet.targets.cuda import expr, index
from whet.targets.cuda.attention import MOST_WRITTEN
from whet.targets.cuda.attention_problem import FLOATS
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.recurrent_gates import Gates
from whet.targets.cuda.shapes import operands, optimum

_LENGTHS = (DType.I32, DType.I64)
MOST_STEPS = 256  # launches of one layer
_STEP = symbol("step in time")  # stands for the number of a launch until there is one


def passes(region: Region) -> list[tuple[int, ...]]:
    """The gates of each pass over the columns."""
    if region.attrs["kind"] == "gru" and not region.attrs["linear_before_reset"]:
        return [(0, 1), (2,)]
    return [tuple(range(GATES[region.attrs["kind"]]))]


def extents(region: Region) -> tuple[Dim, Dim, int, int]:
    """(steps, batch, directions, hidden size)."""
    outer, inner = region.inputs[0].shape[:2]
    steps, batch = (inner, outer) if region.attrs["layout"] else (outer, inner)
    return steps, batch, len(region.attrs["reverse"]), int(region.inputs[1].shape[2])  # type: ignore[arg-type]


def _reason(region: Region) -> str:
    if region.prologue or region.epilogue:
        return "nothing is fused with it"
    for name, i in operands(region, OPERANDS).items():
        if region.inputs[i].dtype not in (_LENGTHS if name == "lengths" else FLOATS):
            return f"{name} is {region.inputs[i].dtype.value}"
    if any(t.dtype not in FLOATS for t in (region.output, *region.extra_outputs)):
        return "a result that is no float"
    if region.compute not in ("f32", "tf32", "f16", "bf16"):
        return f"products in {region.compute}"
    return "" if region.inputs[1].shape[2] else "a hidden size of 0"


def _tiles(region: Region) -> list[Params]:
    _, batch, _, size = extents(region)
    n, gates = max(1, optimum(region, batch)), max(map(len, passes(region)))
    found: list[Params] = []
    for rows in {1, 16, 32, 64}:
        for columns in (8, 16, 32, 64, 128):
            for depth in (16, 32, 64, 128, 256):
                for warps in (1, 2, 4, 8):
                    held = rows * columns * depth if rows == 1 else rows * columns
                    if (rows == 1) != (n == 1) or (rows > 16 and rows >= 2 * n) or columns >= 2 * max(16, size) \
                            or depth >= 2 * max(16, size) or not 32 * warps <= held <= 32 * warps * 64:
                        continue
                    if (rows > 1 and columns < 16) or (rows + columns) * depth > 16384:
                        continue
                    if rows > 1 and rows * columns * depth * gates > 32 * warps * MOST_WRITTEN:
                        continue
                    found.append({"rows": rows, "columns": columns, "depth": depth, "warps": warps})
    return found or [{"rows": 1 if n == 1 else 16, "columns": 16, "depth": 16, "warps": 4}]


def _seconds(region: Region, f: Params, programs: int, columns: int, machine: Gpu) -> float:
    """Of a step: `columns` of every gate by each program, whose reads of R come from the second-level cache."""
    size = extents(region)[3]
    gates = sum(map(len, passes(region)))
    blocks = -(-size // f["depth"]) * -(-columns // f["columns"]) * gates
    read = f["columns"] * f["depth"] * 4 / 50e3
    work = f["rows"] * f["columns"] * f["depth"] / (8e3 * f["warps"])
    waves = max(1.0, programs * f["warps"] / (16 * (machine.multiprocessors or 100)))
    return waves * (blocks * (max(read, work) + 0.15 / f["warps"] + 0.1) + 2.0) * 1e-6


@dataclass(frozen=True)
class Recurrent:
    """Parameters: rows (of the batch), columns (at a time, of each gate), depth (of a product's block), warps."""

    name: str = "recurrent"

    def applies(self, region: Region, machine: Gpu) -> str:
        return _reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return sorted(_tiles(region), key=lambda f: self.cost(region, f, machine, threads))[:16]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: all columns of every step in one program."""
        steps, batch, n, size = extents(region)
        programs = n * -(-optimum(region, batch) // params["rows"])
        return optimum(region, steps) * _seconds(region, params, programs, size, machine)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        steps, batch, n, size = extents(region)
        k = _Kernel(region, params, "recurrent")
        s, rows = k.s, params["rows"]
        blocks = ceildiv(batch, rows)
        s.line(f"d = tl.program_id(0) // {s.integer(blocks)}")
        s.line(f"first = tl.program_id(0) % {s.integer(blocks)} * {rows}")
        k.enter()
        columns = params["columns"]
        with s.block(f"for column0 in range(0, {size}, {columns}):"):
            k.begin()
        s.line("tl.debug_barrier()")
        with s.block(f"for step in range(0, {s.integer(steps)}):"):
            k.times()
            for number in range(len(k.passes)):
                with s.block(f"for column0 in range(0, {size}, {columns}):"):
                    k.columns_of(number)
                s.line("tl.debug_barrier()")
        s.line(f"step = {s.integer(steps)}")
        with s.block(f"for column0 in range(0, {size}, {columns}):"):
            k.end()
        return Implementation((s.step(blocks * n, params["warps"], 2),), workspace=k.bytes)


@dataclass(frozen=True)
class RecurrentSteps:
    """Parameters: as `Recurrent`'s."""

    name: str = "recurrent_steps"

    def applies(self, region: Region, machine: Gpu) -> str:
        found = _reason(region)
        if found:
            return found
        steps = extents(region)[0]
        if not isinstance(steps, int):
            return "an unknown number of steps in time"
        launches = steps * len(passes(region))
        return "" if 0 < launches <= MOST_STEPS else f"{launches} launches"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        return sorted(_tiles(region), key=lambda f: self.cost(region, f, machine, threads))[:16]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: a few columns of a step in each program, and the launches."""
        steps, batch, n, size = extents(region)
        programs = n * -(-optimum(region, batch) // params["rows"]) * -(-size // params["columns"])
        each = _seconds(region, params, programs, params["columns"], machine) + len(passes(region)) * 1e-6
        return (optimum(region, steps) + 1) * each

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        steps, batch, n, size = extents(region)
        assert isinstance(steps, int)
        chunks, blocks = -(-size // params["columns"]), ceildiv(batch, params["rows"])

        def kernel(name: str) -> _Kernel:
            k = _Kernel(region, params, name)
            s = k.s
            s.line(f"column0 = tl.program_id(0) % {chunks} * {params['columns']}")
            s.line(f"rest = tl.program_id(0) // {chunks}")
            s.line(f"d = rest // {s.integer(blocks)}")
            s.line(f"first = rest % {s.integer(blocks)} * {params['rows']}")
            k.enter()
            return k

        def launch(k: _Kernel) -> Step:
            return k.s.step(blocks * (n * chunks), params["warps"], 2)

        begin, end, middle = kernel("recurrent_begin"), kernel("recurrent_end"), []
        begin.begin()
        for number in range(len(passes(region))):
            k = kernel("recurrent_step")
            k.s.line(f"step = {k.s.integer(_STEP)}")
            k.times()
            k.columns_of(number)
            middle.append(launch(k))
        end.s.line(f"step = {steps}")
        end.end()
        made = [launch(begin)]
        for i in range(steps):
            made += [replace(m, args=tuple(Int(i) if a == Int(_STEP) else a for a in m.args)) for m in middle]
        return Implementation((*made, launch(end)), workspace=begin.bytes)


class _Kernel:
    """Parts of a program's text, in terms of d (direction), first (row of the batch), column0, step.

    The workspace has, for [direction, row, column]: h of even and of odd steps, c (LSTM), reset * h and z (GRU in two
    passes).
    """

    def __init__(self, region: Region, params: Params, name: str) -> None:
        self.region, self.s = region, Source(name)
        self.rows, self.columns, self.depth = params["rows"], params["columns"], params["depth"]
        self.where, self.passes = operands(region, OPERANDS), passes(region)
        self.kind, self.layout = region.attrs["kind"], region.attrs["layout"]
        self.steps, self.batch, self.directions, self.size = extents(region)
        self.double = region.anchor.dtype is DType.F64
        self.dtype = DType.F64 if self.double else DType.F32
        self.real = "float64" if self.double else "float32"
        self.place = Tensor.dense(self.dtype, (2, self.directions, self.batch, self.size))
        each = ceildiv(self.directions * self.batch * (self.size * self.dtype.size), 64) * 64
        parts = {"h": 2, "c": self.kind == "lstm", "reset": len(self.passes) > 1, "z": len(self.passes) > 1}
        self.offsets: dict[str, Dim] = {}
        at: Dim = 0
        for part, count in parts.items():
            if count:
                self.offsets[part] = at
                at = at + count * each
        self.bytes = at
        self.workspace: dict[str, str] = {}

    # -- memory ----------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Names of rows."""
        s = self.s
        s.line(f"row = (first + tl.arange(0, {self.rows}))[:, None]")
        for part, at in self.offsets.items():
            self.workspace[part] = s.pointer(Work(at), self.dtype)

    @property
    def _live(self) -> str:
        return f"row < {self.s.integer(self.batch)}"

    def _column(self, gate: int = 0) -> tuple[str, str]:
        """Indices of columns of a gate, and their mask."""
        n = f"column0 + tl.arange(0, {self.columns})"
        text = f"({n} + {gate * self.size})[None, :]" if gate else f"({n})[None, :]"
        return text, "" if self.size % self.columns == 0 else f"({n})[None, :] < {self.size}"

    def _kept(self, part: str, buffer: str = "0") -> tuple[str, Block]:
        """A part of the workspace: its pointer, and the tile's block."""
        column, mask = self._column()
        return self.workspace[part], Block((buffer, "d", "row", column), ((), (), (0,), (1,)), (self._live, mask))

    def _load_kept(self, part: str, buffer: str = "0") -> str:
        return self._full(index.load_tensor(self.s, self.place, *self._kept(part, buffer), other="0.0"))

    def _store_kept(self, value: str, part: str, buffer: str = "0") -> None:
        index.store_tensor(self.s, self.place, self._kept(part, buffer)[0], value, self._kept(part, buffer)[1])

    def _full(self, x: str) -> str:
        """A value as a whole tile of `real`."""
        return self.s.name_of(f"tl.broadcast_to({x}.to(tl.{self.real}), [{self.rows}, {self.columns}])", "x")

    def _load(self, name: str, coords: Sequence[str], axes: Sequence[tuple[int, ...]], masks: tuple[str, str]) -> str:
        i = self.where[name]
        block = Block(tuple(coords), tuple(axes), masks)
        return self._full(index.load(self.s, self.region, i, index.pointer(self.s, self.region, i), block, "0.0"))

    def _store(self, value: str, k: int, block: Block) -> None:
        t = (self.region.output, *self.region.extra_outputs)[k]
        value = expr.finish(self.s, expr.cast(self.s, value, self.dtype, t.dtype), t.dtype)
        index.store(self.s, self.region, index.out_pointer(self.s, self.region, k), value, block, k)

    def _state(self) -> Block:
        """The tile's block of a state of the region."""
        column, mask = self._column()
        coords = ("row", "d", column) if self.layout else ("d", "row", column)
        return Block(coords, ((0,), (), (1,)) if self.layout else ((), (0,), (1,)), (self._live, mask))

    # -- parts -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The initial states of the columns from column0 on to the workspace."""
        for part in ("h", "c"):
            if part not in self.workspace:
                continue
            value = f"tl.zeros([{self.rows}, {self.columns}], tl.{self.real})"
            if part in self.where:
                b = self._state()
                value = self._load(part, b.coords, b.axes, b.masks)  # type: ignore[arg-type]
            self._store_kept(value, part)

    def end(self) -> None:
        """The states after `step` steps to the outputs."""
        for k, part in enumerate(("h", "c")[:len(self.region.extra_outputs)]):
            self._store(self._load_kept(part, "(step % 2)" if part == "h" else "0"), 1 + k, self._state())

    def times(self) -> None:
        """on: the rows that have this step; time: the step in time that it is, by the direction."""
        s = self.s
        t = s.integer(self.steps)
        if "lengths" in self.where:
            i = self.where["lengths"]
            length = index.load(s, self.region, i, index.pointer(s, self.region, i),
                                Block(("row",), ((0,),), (self._live,)), "0")
            s.line(f"length = tl.broadcast_to({length}, [{self.rows}, 1])")
            s.line(f"length = tl.maximum(tl.minimum(length, {t}), 0).to(tl.int32)")
            s.line("on = step < length")
        else:
            s.line(f"length = {t} + row * 0")
            s.line("on = step < length")
        reverse = self.region.attrs["reverse"]
        back = "tl.where(on, length - 1 - step, step)"
        if all(reverse):
            s.line(f"time = {back}")
        elif any(reverse):
            s.line(f"time = tl.where(d == 0, step + row * 0, {back})" if reverse[1] else
                   f"time = tl.where(d == 0, {back}, step + row * 0)")
        else:
            s.line("time = step + row * 0")

    def columns_of(self, number: int) -> None:
        """The columns from column0 on of one pass over this step."""
        s = self.s
        gates = self.passes[number]
        last = number == len(self.passes) - 1
        sums = self._products(gates, "reset" if number else "h")
        made = Gates(s, self.region.attrs, self.double, lambda g: sums[g], self._before, self._extra)
        old = self._load_kept("h", "(step % 2)")
        if not last:
            z, reset = made.two(old)
            self._store_kept(z, "z")
            self._store_kept(reset, "reset")
            return
        if self.kind == "lstm":
            cell = self._load_kept("c")
            new, after = made.lstm(cell)
            self._store_kept(s.name_of(f"tl.where(on, {after}, {cell})", "x"), "c")
        elif self.kind == "rnn":
            new = made.rnn()
        else:
            new = made.gru(old, self._load_kept("z") if number else None)
        self._store_kept(s.name_of(f"tl.where(on, {new}, {old})", "x"), "h", "((step + 1) % 2)")
        column, mask = self._column()
        where = ("row", "time", "d", column) if self.layout else ("time", "d", "row", column)
        axes = ((0,), (0,), (), (1,)) if self.layout else ((0,), (), (0,), (1,))
        self._store(s.name_of(f"tl.where(on, {new}, 0.0)", "x"), 0, Block(where, axes, (self._live, mask)))

    def _before(self, gate: int) -> str:
        column, mask = self._column(gate)
        coords = ("row", "time", "d", column) if self.layout else ("time", "row", "d", column)
        return self._load("x", coords, ((0,), (0,), (), (1,)), (f"({self._live}) & on", mask))

    def _extra(self, name: str, gate: int = 0) -> str | None:
        if name not in self.where:
            return None
        column, mask = self._column(gate)
        return self._load(name, ("d", column), ((), (1,)), ("", mask))

    def _products(self, gates: Sequence[int], source: str) -> dict[int, str]:
        """The products of the rows' `source` with the gates' columns of R from column0 on."""
        s = self.s
        for g in gates:
            s.line(f"sum{g} = tl.zeros([{self.rows}, {self.columns}], tl.{self.real})")
        to = {"f16": "float16", "bf16": "bfloat16"}.get(self.region.compute, self.real)
        precision = "tf32" if self.region.compute == "tf32" else "ieee"
        options = ", out_dtype=tl.float64" if self.double else f', input_precision="{precision}"'
        with s.block(f"for k0 in range(0, {self.size}, {self.depth}):"):
            k = f"(k0 + tl.arange(0, {self.depth}))[None, :]"
            whole = self.size % self.depth == 0
            block = Block(("0" if source == "reset" else "(step % 2)", "d", "row", k), ((), (), (0,), (1,)),
                          (self._live, "" if whole else f"{k} < {self.size}"))
            h = index.load_tensor(s, self.place, self.workspace[source], block, other="0.0")
            h = s.name_of(f"{index.filled(s, h, self.place, block, (self.rows, self.depth))}.to(tl.{to})", "x")
            i = self.where["r"]
            for g in gates:
                n = f"(column0 + tl.arange(0, {self.columns}))[:, None]"
                column = f"({n} + {g * self.size})" if g else n
                b = Block(("d", column, k), ((), (0,), (1,)),
                          ("" if self.size % self.columns == 0 else f"{n} < {self.size}", block.masks[1]))
                r = index.load(s, self.region, i, index.pointer(s, self.region, i), b, "0.0")
                r = index.filled(s, r, self.region.inputs[i], b, (self.columns, self.depth))
                r = s.name_of(f"{r}.to(tl.{to})", "x")
                if self.rows == 1:
                    s.line(f"sum{g} += tl.sum({h}.to(tl.{self.real}) * {r}.to(tl.{self.real}), 1)[None, :]")
                else:
                    s.line(f"sum{g} = tl.dot({h}, tl.trans({r}), sum{g}{options})")
        return {g: f"sum{g}" for g in gates}
