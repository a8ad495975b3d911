"""Attention and its output projection at once: each head's result is multiplied with its rows of the weights.

A program takes a tile of queries of one head through all keys (`attention_loop`), and what comes of it, rounded to the
type of the products, through some of the columns of that head's weights. Where few tiles would leave multiprocessors
idle, `across` programs work out the same tile, each for other columns: the weights are most of what is read.

The weights are constants: kernels that begin early load them, or bring them into the L2 cache, before they wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, is_static
from whet.targets.base import Implementation, Params
from whet.targets.cuda import index
from whet.targets.cuda.attention import operand_bytes, sensible, shared_bytes
from whet.targets.cuda.attention_loop import Loop
from whet.targets.cuda.attention_problem import Problem, W, problem, reason
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import Source

AHEAD = 1 << 15  # bytes of weights that a program has room for in registers while it works out attention
LINE = 128  # bytes of a line of the L2 cache
WIDEST = 256  # elements of a head: all of a block of the weights' rows are in flight at once
ELEMENTS = 128  # of a block that a thread holds
_FLOATS = ("f32", "f16", "bf16")
_MOST = 24
ROWS = (16, 32, 64)
_PROGRAMS = 1.1  # for each multiprocessor at most, of settings with several for a tile


@dataclass(frozen=True)
class AttentionParts:
    """Parameters: rows (queries of a head that a program takes), keys (of a block), bn (columns of a block), across
    (programs that divide a tile's columns), warps, stages."""

    name: str = "attention_parts"

    def applies(self, region: Region, machine: Gpu) -> str:
        told = reason(region)
        if told:
            return told
        q, k, v, w = region.inputs[:4]
        if region.compute not in ("f16", "bf16") or any(t.dtype.value not in _FLOATS for t in (q, k, v, w)):
            return f"products in {region.compute} of {q.dtype.value}"
        if not (is_static(w.shape) and is_static(region.output.shape)) or 0 in w.shape:
            return f"weights {w.shape}, a result {region.output.shape}"
        widths = [d for t in (q, v) if isinstance(d := t.shape[3], int)]
        if max(widths) > WIDEST:
            return f"heads of {widths} elements"
        if not q.shape[1] == k.shape[1] == v.shape[1]:
            return "heads that share keys"
        return ""

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p = problem(region)

        def cost(f: Params) -> float:
            return self.cost(region, f, machine, threads)

        found = [f for rows in ROWS
                 for f in sorted(_settings(p, rows, machine), key=cost)[:_MOST // len(ROWS)]]  # some of each
        return sorted(found, key=cost) or [{"rows": 16, "keys": 16, "bn": 64, "across": 1, "warps": 4, "stages": 1}]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: waves of programs, each of which reads its keys, values and weights, and multiplies."""
        p = problem(region)
        rows, keys, bn, across, warps, stages = (params[k] for k in ("rows", "keys", "bn", "across", "warps", "stages"))
        units, size = machine.multiprocessors or 100, operand_bytes(p)
        programs = -(-p.opt(p.rows) // rows) * p.opt(p.batch) * p.opt(p.groups) * across
        rounds, blocks = -(-p.opt(p.keys) // keys), -(-_columns(p) // (bn * across))
        rate = min(rows, 64) * 16e3  # products in a us
        seen = rounds * keys * (p.d + p.e)
        work = rows * (seen + blocks * bn * p.e) / rate
        move = (seen + (0 if self._ahead(p, bn, across) else blocks * bn * p.e)) * size / 60e3
        wait = rounds * (0.35 if rounds == 1 or stages > 1 else 0.6) + blocks * (0.1 if stages > 1 else 0.3) \
            + 0.08 * warps
        write = rows * blocks * bn * 4 / 60e3
        waves = max(1.0, programs / units)
        return (1.0 + waves * (work + move + wait + write + rows * rounds * keys / (warps * 4e3))) * 1e-6

    @staticmethod
    def _ahead(p: Problem, bn: int, across: int) -> bool:
        """True if all the weights that a program multiplies are loaded before anything else."""
        return _columns(p) <= bn * across and bn * p.e * p.tensor(W).dtype.size <= AHEAD

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        p = problem(region)
        rows, bn, across = params["rows"], params["bn"], params["across"]
        s = Source("attention_parts", machine.has_fp8)
        loop = Loop(s, p, rows, params["keys"], eager=True)
        tiles, columns = ceildiv(p.rows, rows), _columns(p)
        each = -(-columns // (bn * across)) * bn  # columns of a program
        across = -(-columns // each)
        s.line("pid = tl.program_id(0)")
        if across > 1:
            s.line(f"begin = pid % {across} * {each}\npid = pid // {across}")
        s.line(f"tile = pid % {loop.number(tiles)}")
        s.line(f"pair = pid // {loop.number(tiles)}")
        if loop.causal:  # the longest first
            s.line(f"tile = {loop.number(tiles)} - 1 - tile")
        s.line(f"g = pair % {loop.number(p.groups)}")
        s.line(f"b = pair // {loop.number(p.groups)}")
        at = "begin" if across > 1 else "0"
        weights: list[str] = []
        if each == bn:
            s.line(f"n = {at} + tl.arange(0, {bn})[None, :]")
            if self._ahead(p, bn, across) and p.tensor(W).const:
                weights = self._weights(loop, bn)
        if not weights and p.tensor(W).const:
            self._prefetch(loop, at, each)
        s.line("#: wait")
        loop.enter("tile")
        loop.emit()
        inverse = s.name_of(loop.inverse("total"), "inverse")
        to = p.product(True)[0]
        y = [s.name_of(f"({a} * {inverse}[:, None]).to(tl.{to})", "y") for a in loop.acc]
        if each == bn:
            self._project(loop, bn, y, weights)
        else:
            end = str(columns) if across == 1 else f"tl.minimum(begin + {each}, {columns})"
            with s.block(f"for left in tl.range({at}, {end}, {bn}):"):
                s.line(f"n = left + tl.arange(0, {bn})[None, :]")
                self._project(loop, bn, y, [])
        return Implementation((s.step(tiles * p.groups * p.batch * across, params["warps"], params["stages"]),))

    @staticmethod
    def _weights(loop: Loop, bn: int) -> list[str]:
        """The weights of the head for columns `n`, as they are multiplied: a block for each of `loop.values`."""
        s, p, w, found = loop.s, loop.p, loop.p.tensor(W), []
        to = p.product(True)[0]
        inside = "" if _columns(p) % bn == 0 else f"n < {_columns(p)}"
        for at, size in loop.values:
            row, mask = (text.replace("[None, :]", "[:, None]") for text in loop.columns(at, size, p.e))
            block = Block(("g", row, "n"), ((), (0,), (1,)), (mask, inside))
            x = index.load(s, p.region, p.where[W], index.pointer(s, p.region, p.where[W]), block, "0.0")
            x = index.filled(s, x, w, block, (size, bn))
            found.append(s.name_of(f"{x}.to(tl.{to})", "w"))
        return found

    def _project(self, loop: Loop, bn: int, y: list[str], weights: list[str]) -> None:
        """Multiply and store the columns `n`."""
        s, p = loop.s, loop.p
        part = ""
        for x, w in zip(y, weights or self._weights(loop, bn), strict=True):
            part = s.name_of(f"tl.dot({x}, {w}{f', {part}' if part else ''})", "part")
        inside = "" if _columns(p) % bn == 0 else f"n < {_columns(p)}"
        index.epilogue(s, p.region, part, Block(("b", "g", "query[:, None]", "n"), ((), (), (0,), (1,)),
                                                (loop.live, inside)))

    @staticmethod
    def _prefetch(loop: Loop, begin: str, each: int) -> None:
        """Lines that only kernels which wait have (`compile`): a head's first tiles of queries bring its weights, as
        far as they lie in rows, into the L2 cache."""
        p, w = loop.p, loop.p.tensor(W)
        if w.strides[2] != 1 or not is_static(w.strides) or index.is_wide(p.region, w):
            return
        line = LINE // w.dtype.size
        lines = 1 << (-(-each // line) - 1).bit_length()
        deep = max(1, min(512 // lines, 1 << (p.e - 1).bit_length()))
        place = (f"{index.pointer(loop.s, p.region, p.where[W])} + g * {w.strides[0]} + "
                 f"tl.minimum(ahead + tl.arange(0, {deep})[:, None], {p.e - 1}) * {w.strides[1]} + "
                 f"tl.minimum({begin} + tl.arange(0, {lines})[None, :] * {line}, {_columns(p) - 1})")
        first = "tile == 0" if not loop.causal else f"tile == {loop.number(ceildiv(p.rows, loop.rows))} - 1"
        loop.s.line(f"#: if {first}:\n#:     for ahead in tl.range(0, {p.e}, {deep}):\n"
                    f"#:         {index.prefetch(place)}")


def _settings(p: Problem, rows: int, machine: Gpu) -> Iterator[Params]:
    """Settings for tiles of so many rows that fit into registers and shared memory."""
    programs = -(-p.opt(p.rows) // rows) * p.opt(p.batch) * p.opt(p.groups)
    for keys, bn, warps, stages in itertools.product((32, 64, 128, 256), (64, 128, 256), (4, 8), (1, 3)):
        one = p.opt(p.keys) <= keys
        blocks = -(-_columns(p) // bn)
        attention = shared_bytes(p, rows, keys, 1 if one else stages)
        weights = operand_bytes(p) * bn * p.e * max(1, stages - 1)
        if (not sensible(p, rows, keys, 4, 1 if one else stages, machine)  # of more warps the weights have use
                or max(rows, p.e) * bn > ELEMENTS * 32 * warps
                or (attention + weights if stages == 1 else max(attention, weights)) > machine.shared_bytes):
            continue
        for across in sorted({-(-blocks // n) for n in range(1, blocks + 1)}):
            loops = not one or blocks > across
            full = programs * across > _PROGRAMS * (machine.multiprocessors or 100)
            if loops == (stages > 1) and not (full and across > 1):
                yield {"rows": rows, "keys": keys, "bn": bn, "across": across, "warps": warps, "stages": stages}


def _columns(p: Problem) -> int:
    n = p.tensor(W).shape[2]
    assert isinstance(n, int)
    return n
