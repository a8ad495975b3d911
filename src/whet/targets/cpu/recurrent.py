"""Recurrent layers: each tile takes one direction of some batch rows through all of time.

A step multiplies the rows' h, which lies in scratch memory, by R, packed so that a panel has the same few columns
of every gate side by side: what comes out of a micro-kernel is all that those columns of the new h need. Sequences
do not wait for each other, so nothing has to be synchronized. GRU without linear_before_reset takes two passes
over the columns, since its last product is with the product of reset gate and h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.ops_recurrent import GATES, OPERANDS
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Arg, Implementation, In, Out, Pack, Packed, Params, Step, Work
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.epilogue import gather_value
from whet.targets.cpu.gemm_problem import opt
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, IntLike, Val, Var, vec
from whet.targets.cpu.microkernel import Accumulators, fma, strided_rows
from whet.targets.cpu.recurrent_gates import Functions, Gates

_LENGTHS = (DType.I32, DType.I64)
_CACHE = 1_500_000  # bytes of R that stay in the second-level cache


def operands(region: Region) -> dict[str, int]:
    """Indices of the region's inputs by name."""
    absent = region.attrs.get("absent", ())
    there = [name for i, name in enumerate(OPERANDS) if i not in absent]
    return {name: i for i, name in enumerate(there[:region.n_anchor])}


def passes(region: Region) -> list[tuple[int, ...]]:
    """The gates of each pass over the columns."""
    if region.attrs["kind"] == "gru" and not region.attrs["linear_before_reset"]:
        return [(0, 1), (2,)]
    return [tuple(range(GATES[region.attrs["kind"]]))]


def pack(r: np.ndarray, gates: Sequence[int], size: int, width: int) -> np.ndarray:
    """[directions, all gates * size, size] -> [directions, panels, size, gates, width], zero columns at the end."""
    n, panels = r.shape[0], -(-size // width)
    out = np.zeros((n, size, len(gates), panels * width), np.float32)
    for i, g in enumerate(gates):
        out[:, :, i, :size] = np.swapaxes(r[:, g * size:(g + 1) * size], 1, 2)
    out = out.reshape(n, size, len(gates), panels, width)
    return np.ascontiguousarray(np.transpose(out, (0, 3, 1, 2, 4)))


@dataclass(frozen=True)
class Recurrent:
    """Parameters: mr (rows in registers), nv (vectors of columns of each gate), blocks (of mr rows in a tile)."""

    name: str = "recurrent"

    def applies(self, region: Region, machine: Isa) -> str:
        if region.prologue or region.epilogue:
            return "nothing is fused with it"
        for name, i in operands(region).items():
            t = region.inputs[i]
            if t.dtype not in (_LENGTHS if name == "lengths" else (DType.F32,)):
                return f"{name} is {t.dtype.value}"
            if name not in ("lengths", "r") and t.shape[-1] != 1 and t.strides[-1] != 1:
                return f"{name}'s last dimension is not contiguous"
        for t in (region.output, *region.extra_outputs):
            if t.dtype is not DType.F32 or (t.shape[-1] != 1 and t.strides[-1] != 1):
                return "a result is not f32 with a contiguous last dimension"
        return "" if region.inputs[1].shape[2] else "a hidden size of 0"

    def space(self, region: Region, machine: Isa, threads: int) -> Iterable[Params]:
        g = max(map(len, passes(region)))
        rows = max(1, opt(region, self._batch(region)))
        found = [{"mr": mr, "nv": nv, "blocks": blocks} for nv in (1, 2, 4) for mr in (1, 2, 3, 4, 5, 6, 8)
                 for blocks in (1, 2, 4, 8)
                 if (mr + (mr > 1)) * g * nv + 2 <= machine.registers and (mr * blocks < 2 * rows or mr * blocks == 1)]
        found = found or [{"mr": 1, "nv": 1, "blocks": 1}]
        return sorted(found, key=lambda p: self.cost(region, p, machine, threads))[:12]

    def cost(self, region: Region, params: Params, machine: Isa, threads: int) -> float:
        """Seconds at 3 GHz: a multiplication waits four cycles for the last one of its sum, and a vector of R comes
        from the second-level cache at somewhat less than one per cycle."""
        (outer, inner), size = (opt(region, d) for d in region.inputs[0].shape[:2]), int(region.inputs[1].shape[2])  # type: ignore[arg-type]
        steps, batch = (inner, outer) if region.attrs["layout"] else (outer, inner)
        mr, nv, blocks = params["mr"], params["nv"], params["blocks"]
        rows = min(mr * blocks, batch)
        panels = -(-size // (nv * machine.lanes))
        each = 0.0
        for gates in passes(region):
            v = len(gates) * nv
            each += panels * -(-rows // mr) * (size * max(4.0, mr * v / 2, v * 1.3) + 60)
        each += rows * panels * nv * 80
        weights = GATES[region.attrs["kind"]] * size * size * 4
        if weights > _CACHE:  # every tile of every step reads them from further away
            each += weights / 9
        tiles = len(region.attrs["reverse"]) * -(-batch // (mr * blocks))
        return steps * each * max(1, -(-tiles // threads)) / 3e9

    def _batch(self, region: Region) -> Dim:
        return region.inputs[0].shape[0 if region.attrs["layout"] else 1]

    def implement(self, region: Region, params: Params, machine: Isa, threads: int) -> Implementation:
        r, width = region.inputs[1], params["nv"] * machine.lanes
        n, size = len(region.attrs["reverse"]), int(r.shape[2])  # type: ignore[arg-type]
        if r.const:
            sources: list[Arg] = [Packed(i) for i in range(len(passes(region)))]
            packs = tuple(Pack((1,), _packer(gates, size, width)) for gates in passes(region))
            return Implementation((_Kernel(region, params, machine, sources).step(),), packs)
        at, sources, steps = 0, [], []
        for gates in passes(region):
            sources.append(Work(at))
            steps.append(_pack_step(region, gates, params["nv"], machine, Work(at)))
            at += n * -(-size // width) * size * len(gates) * width * 4
            at = -(-at // 64) * 64
        return Implementation((*steps, _Kernel(region, params, machine, sources).step()), workspace=at)


def _packer(gates: Sequence[int], size: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda r: pack(r, gates, size, width)


def _pack_step(region: Region, gates: Sequence[int], nv: int, isa: Isa, to: Arg) -> Step:
    """`pack` at run time, for an R that is computed. A tile is a panel."""
    k, r = Fn(NAME, isa), region.inputs[1]
    args = Args(k)
    n, size = len(region.attrs["reverse"]), int(r.shape[2])  # type: ignore[arg-type]
    width = nv * isa.lanes
    panels = -(-size // width)
    source, target = args.pointer(In(1)), args.pointer(to)
    sd, sg, sk = (args.dim(s) for s in r.strides)
    for t in k.range(k.begin, k.end):
        d, first = t // panels, t % panels * width
        for row in k.range(0, size):
            line = target + (t * size + row) * (len(gates) * width * 4)
            for i, g in enumerate(gates):
                for v in range(nv):
                    column = first + v * isa.lanes
                    at = source + (d * sd + (column + g * size) * sg + row * sk) * 4
                    x = gather_value(k, DType.F32, at, sg, isa.lanes, k.tail_mask(size - column, isa.lanes))
                    k.store(x, line + (i * nv + v) * isa.width, align=isa.width)
    return Step(finish(k, "recurrent_pack"), args.table, n * panels)


class _Kernel:
    """Scratch memory: h, the next h, c (LSTM), reset * h and z (GRU in two passes): a row for each row of the tile;
    then what a micro-kernel gives."""

    def __init__(self, region: Region, params: Params, isa: Isa, sources: Sequence[Arg]) -> None:
        self.region, self.isa, self.sources = region, isa, sources
        self.mr, self.nv = params["mr"], params["nv"]
        self.rows = self.mr * params["blocks"]
        self.k = Fn(NAME, isa)
        self.args = Args(self.k)
        self.where = operands(region)
        self.kind, self.layout = region.attrs["kind"], region.attrs["layout"]
        self.size = int(region.inputs[1].shape[2])  # type: ignore[arg-type]
        self.width = self.nv * isa.lanes
        self.panels = -(-self.size // self.width)
        self.row = self.panels * self.width * 4
        self.passes = passes(region)
        places = 5 if len(self.passes) > 1 else 3
        h, after, self.c, self.reset, self.z = (self.k.scratch + i * self.rows * self.row for i in range(5))
        self.first_h, self.first_after = h, after
        self.sums = self.k.scratch + places * self.rows * self.row
        widest = max(map(len, self.passes))
        self.scratch = places * self.rows * self.row + self.mr * widest * self.width * 4
        outer, inner = region.inputs[0].shape[:2]
        self.batch_dim = outer if self.layout else inner
        self.batch = self.args.dim(self.batch_dim)
        self.time = self.args.dim(inner if self.layout else outer)

    def step(self) -> Step:
        k, attrs = self.k, self.region.attrs
        n = len(attrs["reverse"])
        blocks = k.ceildiv(self.batch, self.rows)
        same = len(set(attrs["activations"])) == 1
        for t in k.range(k.begin, k.end):
            if n == 1:
                self._tile(0, t, attrs["activations"][0])
            elif same:
                self._tile(t // blocks, t % blocks, attrs["activations"][0])
            else:
                for arm, functions in zip(k.branch((t // blocks).eq(0)), attrs["activations"], strict=True):
                    with arm:
                        self._tile(t // blocks, t % blocks, functions)
        kernel = finish(k, "recurrent", self.scratch)
        return Step(kernel, self.args.table, ceildiv(self.batch_dim, self.rows) * n)

    # -- addresses ---------------------------------------------------------------------------------

    def _at(self, t: Tensor, arg: Arg, *index: IntLike) -> Val:
        """Address of an element; the last dimensions that are not given count as 0."""
        base = self.args.pointer(arg)
        for i, s in zip(index, t.strides, strict=False):
            base = base + i * self.args.dim(s) * t.dtype.size
        return base

    def _state(self, t: Tensor, arg: Arg, d: IntLike, b: IntLike) -> Val:
        return self._at(t, arg, b, d) if self.layout else self._at(t, arg, d, b)

    def _y(self, time: IntLike, d: IntLike, b: IntLike) -> Val:
        index = (b, time, d) if self.layout else (time, d, b)
        return self._at(self.region.output, Out(0), *index)

    def _length(self, b: IntLike) -> IntLike:
        """Steps of a sequence."""
        if "lengths" not in self.where:
            return self.time
        t = self.region.inputs[self.where["lengths"]]
        v = self.k.load(t.dtype.llvm, self._at(t, In(self.where["lengths"]), b))
        v = v if v.ty == "i64" else self.k.cast("sext", v, "i64")
        return self.k.max(0, self.k.min(v, self.time))

    def _mask(self, column: IntLike) -> Val | None:
        return self.k.tail_mask(self.size - column, self.isa.lanes) if self.size % self.isa.lanes else None

    # -- a tile ------------------------------------------------------------------------------------

    def _tile(self, d: IntLike, block: Val, functions: Functions) -> None:
        k = self.k
        first = block * self.rows
        rows = k.min(self.rows, self.batch - first)
        self._start(d, first, rows)
        steps = self.time
        if "lengths" in self.where:
            longest = k.var("i64", 0)
            for r in k.range(0, rows):
                length = self._length(first + r)
                longest.set(k.max(longest.get(), length))
                for time in k.range(length, self.time):
                    for column in k.range(0, self.size, self.isa.lanes):
                        k.store(k.const(vec("float", self.isa.lanes), 0.0),
                                self._y(time, d, first + r) + column * 4, self._mask(column))
            steps = longest.get()
        h, after = k.var("ptr", self.first_h), k.var("ptr", self.first_after)
        for s in k.range(0, steps):
            for number in range(len(self.passes)):
                self._pass(number, d, first, rows, s, h, after, functions)
            old = h.get()
            h.set(after.get())
            after.set(old)
        self._finish(d, first, rows, h.get())

    def _columns(self) -> Iterable[tuple[IntLike, Val | None]]:
        for column in self.k.range(0, self.size, self.isa.lanes):
            yield column, self._mask(column)

    def _start(self, d: IntLike, first: Val, rows: IntLike) -> None:
        """Initial states; rows that are not there are 0, in both buffers of h."""
        k, isa = self.k, self.isa
        zero = k.const(vec("float", isa.lanes), 0.0)
        for r in k.range(0, self.rows):
            for column in k.range(0, self.row // 4, isa.lanes):
                for place in (self.first_h, self.first_after, self.c):
                    k.store(zero, place + r * self.row + column * 4, align=isa.width)
        for name, place in (("h", self.first_h), ("c", self.c)):
            if name not in self.where:
                continue
            i = self.where[name]
            for r in k.range(0, rows):
                source = self._state(self.region.inputs[i], In(i), d, first + r)
                for column, mask in self._columns():
                    v = k.load("float", source + column * 4, isa.lanes, mask)
                    k.store(v, place + r * self.row + column * 4, align=isa.width)

    def _finish(self, d: IntLike, first: Val, rows: IntLike, h: Val) -> None:
        k, isa = self.k, self.isa
        for number, place in enumerate((h, self.c)[:len(self.region.extra_outputs)]):
            for r in k.range(0, rows):
                to = self._state(self.region.extra_outputs[number], Out(1 + number), d, first + r)
                for column, mask in self._columns():
                    v = k.load("float", place + r * self.row + column * 4, isa.lanes, align=isa.width)
                    k.store(v, to + column * 4, mask)

    def _pass(self, number: int, d: IntLike, first: Val, rows: IntLike, s: IntLike, h: Var, after: Var,
              functions: Functions) -> None:
        """The products of one pass over the columns, and what its gates make of them."""
        k, gates = self.k, self.passes[number]
        acc = Accumulators(k, self.mr, len(gates) * self.nv)
        line = acc.nv * self.isa.width
        source = self.reset if number else h.get()
        for p in k.range(0, self.panels):
            panel = self.args.pointer(self.sources[number]) + (d * self.panels + p) * (self.size * line)
            for m in k.range(0, rows, self.mr):
                acc.zero()
                at = source + m * self.row
                fma(k, acc, strided_rows(k, at, self.row, self.mr), panel, self.size)
                for r, j, v in acc.each():
                    k.store(v, self.sums + (r * line + j * self.isa.width), align=self.isa.width)
                for r in k.range(0, k.min(self.mr, rows - m)):
                    self._row(number, d, first, m + r, p * self.width, self.sums + r * line, s, h, after, functions)

    def _row(self, number: int, d: IntLike, first: Val, r: IntLike, column: IntLike, sums: Val, s: IntLike, h: Var,
             after: Var, functions: Functions) -> None:
        """Some columns of one row: `sums` has their products."""
        k, isa = self.k, self.isa
        b = first + r
        length = self._length(b)
        last = number == len(self.passes) - 1
        here = r * self.row + column * 4

        def update() -> None:
            time = self._time(d, length, s)
            index = (b, time, d) if self.layout else (time, b, d)
            x = self._at(self.region.inputs[0], In(0), *index)
            for v in range(self.nv):
                at = here + v * isa.width
                c = column + v * isa.lanes
                # whole vectors beyond the last column are masked off too
                mask = k.tail_mask(self.size - c, isa.lanes) if self.size % self.width else None

                def place(to: Val, at: IntLike = at) -> Val:
                    return k.load("float", to + at, isa.lanes, align=isa.width)

                def product(g: int, v: int = v) -> Val:
                    j = self.passes[number].index(g) * self.nv + v
                    return k.load("float", sums + j * isa.width, isa.lanes, align=isa.width)

                def before(g: int, c: IntLike = c, mask: Val | None = mask) -> Val:
                    return k.load("float", x + (c + g * self.size) * 4, isa.lanes, mask)

                def extra(name: str, g: int = 0, c: IntLike = c, mask: Val | None = mask) -> Val | None:
                    if name not in self.where:
                        return None
                    i = self.where[name]
                    p = self._at(self.region.inputs[i], In(i), d)
                    return k.load("float", p + (c + g * self.size) * 4, isa.lanes, mask)

                made = Gates(k, self.region.attrs, functions, product, before, extra)
                if not last:
                    z, reset = made.two(place(h.get()))
                    k.store(z, self.z + at, align=isa.width)
                    k.store(reset, self.reset + at, align=isa.width)
                    continue
                if self.kind == "lstm":
                    new, cell = made.lstm(place(self.c))
                    k.store(cell, self.c + at, align=isa.width)
                elif self.kind == "rnn":
                    new = made.rnn()
                else:
                    new = made.gru(place(h.get()), place(self.z) if number else None)
                k.store(new, after.get() + at, align=isa.width)
                k.store(new, self._y(time, d, b) + c * 4, mask)

        if "lengths" not in self.where:
            update()
            return
        on, off = k.branch(k.i64(s) < length)
        with on:
            update()
        with off:
            for v in range(self.nv if last else 0):  # its state is the last one
                at = here + v * isa.width
                k.store(k.load("float", h.get() + at, isa.lanes, align=isa.width), after.get() + at, align=isa.width)

    def _time(self, d: IntLike, length: IntLike, s: IntLike) -> IntLike:
        """The step in time that direction d takes as its step s."""
        reverse = self.region.attrs["reverse"]
        if not any(reverse):
            return s
        back = length - 1 - s
        return back if all(reverse) else self.k.select(self.k.i64(d).ne(0), self.k.i64(back), s)
