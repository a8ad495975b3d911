"""Attention of a few queries to many keys: the keys of a head are divided among programs, whose results are combined.

Each part leaves its maximum, its sum of exponentials and its sums of values, all in f32 (f64), in the workspace; a
second launch scales them to the common maximum and divides (as "Flash-Decoding" does, Dao et al. 2023). Keys and
values are read where they are, once: every head of a group is a row of the tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv
from whet.targets.base import Implementation, Params, Step, Work
from whet.targets.cuda import index
from whet.targets.cuda.attention import brief, operand_bytes, shared_bytes
from whet.targets.cuda.attention_loop import Loop
from whet.targets.cuda.attention_problem import Problem, problem, reason
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.index import Block
from whet.targets.cuda.kernel import Source
from whet.targets.cuda.shapes import is_long, power_of_two

FEW = 64  # rows of a group (queries times heads): more of them fill the GPU without dividing the keys


@dataclass(frozen=True)
class AttentionDecode:
    """Parameters: parts (programs that share a head's keys; 1: no second launch), rows, keys (of a block), warps,
    stages. One row: without tensor cores."""

    name: str = "attention_decode"

    def applies(self, region: Region, machine: Gpu) -> str:
        found = reason(region)
        if found:
            return found
        p = problem(region)
        if p.codes:
            return "probabilities of codes need the maximum of the whole row first"
        return "" if p.opt(p.rows) <= FEW else f"more than {FEW} rows of queries to a head of keys"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p = problem(region)
        n, t = max(1, p.opt(p.rows)), max(1, p.opt(p.keys))
        found = []
        for rows in {1, 16, max(16, power_of_two(n))} if n <= 4 else {max(16, power_of_two(n))}:
            for keys in (16, 32, 64, 128, 256):
                for parts in (1, 2, 4, 8, 16, 32):
                    for warps in (1, 2, 4, 8):
                        params = {"parts": parts, "rows": rows, "keys": keys, "warps": warps,
                                  "stages": 3 if t > keys * parts else 1}
                        if self._sensible(p, params, machine):
                            found.append(params)
        return sorted(found, key=lambda f: self.cost(region, f, machine, threads))[:24]

    @staticmethod
    def _sensible(p: Problem, f: Params, machine: Gpu) -> bool:
        rows, keys, parts, warps = f["rows"], f["keys"], f["parts"], f["warps"]
        t = max(1, p.opt(p.keys))
        if (parts > 1 and parts * keys >= 2 * t) or (keys > 16 and keys >= 2 * t):
            return False
        if rows > 1 and not brief(p, rows, keys, warps):
            return False
        if rows == 1 and keys * power_of_two(max(p.d, p.e)) > 2048 * warps:  # elements that lie in registers
            return False
        return shared_bytes(p, rows, keys, f["stages"]) <= (machine.shared_bytes or 101376)

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: what a program reads at the rate of its multiprocessor's share, the launches, the blocks in turn."""
        p = problem(region)
        rows, keys, parts, warps = (params[k] for k in ("rows", "keys", "parts", "warps"))
        units = machine.multiprocessors or 100
        programs = -(-p.opt(p.rows) // rows) * p.opt(p.batch) * p.opt(p.groups) * parts
        blocks = -(-max(1, p.opt(p.keys)) // (keys * parts))
        size = p.region.inputs[1].dtype.size
        waves = max(1.0, programs / (units * max(1, 16 // warps)))
        each = keys * (p.d + p.e) * size
        read = each / (20e3 * min(1.0, warps / 4)) + 0.5 + 0.1 * (rows > 1)
        busy = p.opt(p.batch) * p.opt(p.groups) * p.opt(p.keys) * (p.d + p.e) * size / (machine.bandwidth or 1e12) * 1e6
        work = rows * keys * (p.d + p.e) * (operand_bytes(p) / 2) / (500e3 if rows > 1 else 30e3 * warps / 4)
        return (max(waves * blocks * (read + work), busy) + (1.0 if parts == 1 else 2.6 + 0.02 * parts)) * 1e-6

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        p = problem(region)
        parts = params["parts"]
        s = Source("attention_decode", machine.has_fp8)
        loop = Loop(s, p, params["rows"], params["keys"], ("part", parts) if parts > 1 else None)
        tiles = ceildiv(p.rows, params["rows"])
        tile = "0" if tiles == 1 else f"rest % {loop.number(tiles)}"
        s.line("rest = tl.program_id(0)")
        if parts > 1:
            s.line(f"part = rest % {parts}")
            s.line(f"rest = rest // {parts}")
        s.line(f"tile = {tile}")
        s.line(f"pair = rest // {loop.number(tiles)}")
        s.line(f"g = pair % {loop.number(p.groups)}")
        s.line(f"b = pair // {loop.number(p.groups)}")
        loop.enter("tile")
        loop.emit()
        programs = tiles * p.groups * p.batch * parts
        if parts == 1:
            inverse = s.name_of(loop.inverse("total"), "inverse")
            loop.finish(inverse, lambda y, block: index.epilogue(s, region, y, block))
            return Implementation((s.step(programs, params["warps"], params["stages"]),))
        _leave(loop, parts)
        first = s.step(programs, params["warps"], params["stages"])
        return Implementation((first, _combine(p, parts, machine)), workspace=_places(p, parts)[2])


def _places(p: Problem, parts: int) -> tuple[Dim, Dim, Dim]:
    """Bytes of the workspace before the sums of exponentials, before the sums of values, and in all: maxima first,
    [batch, group, row, part], then sums, then values [batch, group, row, part, e]."""
    size = 8 if p.real == "float64" else 4
    each = ceildiv(p.batch * p.groups * p.rows * (parts * size), 64) * 64
    return each, 2 * each, 2 * each + p.batch * p.groups * p.rows * (parts * p.e * size)


def _type(p: Problem) -> DType:
    return DType.F64 if p.real == "float64" else DType.F32


def _leave(loop: Loop, parts: int) -> None:
    """The part's results to the workspace."""
    s, p = loop.s, loop.p
    second, third, _ = _places(p, parts)
    tops, totals, sums = (s.pointer(Work(at), _type(p)) for at in (0, second, third))
    wide = ".to(tl.int64)" if is_long(p.range(p.batch * p.groups * p.rows * (parts * p.e))[1]) else ""
    s.line(f"place = (pair{wide} * {loop.number(p.rows)} + r) * {parts} + part")
    mask = ", mask=live" if loop.live else ""
    s.line(f"tl.store({tops} + place, top{mask})")
    s.line(f"tl.store({totals} + place, total{mask})")
    for a, (at, size) in zip(loop.acc, loop.values):
        x, inside = loop.columns(at, size, p.e)
        masks = " & ".join(m for m in (loop.live, f"({inside})" if inside else "") if m)
        s.line(f"tl.store({sums} + (place[:, None] * {p.e} + {x}), {a}{f', mask={masks}' if masks else ''})")


def _combine(p: Problem, parts: int, machine: Gpu) -> Step:
    """One program for each row: the parts' results scaled to the common maximum."""
    region = p.region
    s = Source("attention_combine", machine.has_fp8)
    loop = Loop(s, p, 1, 16)
    second, third, _ = _places(p, parts)
    tops, totals, sums = (s.pointer(Work(at), _type(p)) for at in (0, second, third))
    s.line("place = tl.program_id(0)")
    s.line(f"row = place % {loop.number(p.rows)}")
    s.line(f"pair = place // {loop.number(p.rows)}")
    s.line(f"g = pair % {loop.number(p.groups)}")
    s.line(f"b = pair // {loop.number(p.groups)}")
    s.line(f"query = row // {loop.number(p.share)}")
    s.line(f"head = g * {loop.number(p.share)} + row % {loop.number(p.share)}")
    if is_long(p.range(p.batch * p.groups * p.rows * (parts * p.e))[1]):
        s.line("place = place.to(tl.int64)")
    s.line(f"part = tl.arange(0, {parts})")
    s.line(f"e = tl.arange(0, {power_of_two(p.e)})")
    inside = "" if power_of_two(p.e) == p.e else f"e < {p.e}"
    s.line(f"top = tl.load({tops} + place * {parts} + part)")
    s.line(f"total = tl.load({totals} + place * {parts} + part)")
    mask = f", mask=({inside})[None, :], other=0.0" if inside else ""
    s.line(f"x = tl.load({sums} + (place * {parts} + part)[:, None] * {p.e} + e[None, :]{mask})")
    s.line("most = tl.max(top, 0)")
    s.line("least = tl.where(most == -float('inf'), 0.0, most)")
    s.line("weight = tl.exp2(top - least)")
    s.line("whole = tl.sum(total * weight, 0)")
    s.line("y = tl.sum(x * weight[:, None], 0)")
    y = s.name_of(f"y * ({loop.inverse('whole')})", "y")
    index.epilogue(s, region, y, Block(("b", "head", "query", "e"), ((), (), (), (0,)), (inside,)))
    return s.step(p.batch * p.groups * p.rows, 1 if parts * power_of_two(p.e) <= 2048 else 4, 1)
