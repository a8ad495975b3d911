"""Fused attention: a program takes a tile of queries of a group of heads through all keys (`attention_loop`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv
from whet.targets.base import Implementation, Params
from whet.targets.cuda import index
from whet.targets.cuda.attention_loop import Loop
from whet.targets.cuda.attention_problem import Problem, problem, reason
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import Source

_MOST = 24
MOST_WRITTEN = 1024  # multiply-adds of a thread in one block's product


@dataclass(frozen=True)
class Attention:
    """Parameters: rows (queries of a group's heads that a program takes), keys (of a block), warps, stages."""

    name: str = "attention_fused"

    def applies(self, region: Region, machine: Gpu) -> str:
        return reason(region)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p = problem(region)
        found = [{"rows": rows, "keys": keys, "warps": warps, "stages": stages}
                 for rows in (16, 32, 64, 128) for keys in (16, 32, 64, 128, 256)
                 for warps in (1, 2, 4, 8) for stages in (1, 2, 3)
                 if _sensible(p, rows, keys, warps, stages, machine)]
        if not found:
            found = [{"rows": 16, "keys": 16, "warps": 4, "stages": 1}]
        return sorted(found, key=lambda f: self.cost(region, f, machine, threads))[:_MOST]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """Seconds: waves of programs, each so many blocks of keys, whose loads and products take their time."""
        p = problem(region)
        rows, keys, warps, stages = (params[k] for k in ("rows", "keys", "warps", "stages"))
        units = machine.multiprocessors or 100
        programs = -(-p.opt(p.rows) // rows) * p.opt(p.batch) * p.opt(p.groups)
        blocks = max(1, -(-p.opt(p.keys) // keys))
        if p.region.attrs.get("causal") and p.opt(p.keys) == p.opt(p.queries):
            blocks = (blocks + 1) / 2
        width = operand_bytes(p)
        rate = 30e3 if width == 4 and region.compute != "tf32" else 500e3 if width < 4 else 250e3  # products in a us
        work = rows * keys * (p.d + p.e) / rate / min(1.0, max(0.25, warps * 16 / max(rows, 16)))
        move = keys * (p.d + p.e) * width / 60e3
        softmax = rows * keys / (warps * 4e3)
        fixed = 0.35 + 0.02 * warps if stages > 1 else 0.6
        here = min(max(1, 16 // warps), max(1, machine.shared_bytes // max(1, shared_bytes(p, rows, keys, stages))))
        waves = max(1.0, programs / (units * here))
        return (1.0 + waves * here ** 0.5 * blocks * (max(work, move) + softmax + fixed)) * 1e-6

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        p = problem(region)
        s = Source("attention_fused", machine.has_fp8)
        loop = Loop(s, p, params["rows"], params["keys"])
        tiles = ceildiv(p.rows, params["rows"])
        s.line(f"tile = tl.program_id(0) % {loop.number(tiles)}")
        s.line(f"pair = tl.program_id(0) // {loop.number(tiles)}")
        if loop.causal:  # the longest first
            s.line(f"tile = {loop.number(tiles)} - 1 - tile")
        s.line(f"g = pair % {loop.number(p.groups)}")
        s.line(f"b = pair // {loop.number(p.groups)}")
        loop.enter("tile")
        loop.emit()
        inverse = s.name_of(loop.inverse("total"), "inverse")
        loop.finish(inverse, lambda y, block: index.epilogue(s, region, y, block))
        return Implementation((s.step(tiles * p.groups * p.batch, params["warps"], params["stages"]),))


def operand_bytes(p: Problem) -> int:
    """Bytes of an element in the products."""
    return {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[p.product(False)[0]]


def shared_bytes(p: Problem, rows: int, keys: int, stages: int) -> int:
    """About what a program needs of shared memory: its queries, probabilities, and the keys and values in flight."""
    size = operand_bytes(p)
    return size * (rows * (p.d + keys) + max(1, stages - 1) * keys * (p.d + p.e))


def brief(p: Problem, rows: int, keys: int, warps: int) -> bool:
    """Whether a block's products without tensor cores, all written out for a thread, stay few enough to compile."""
    return p.product(True)[1] != "ieee" or rows * keys * max(p.d, p.e) <= 32 * warps * MOST_WRITTEN


def _sensible(p: Problem, rows: int, keys: int, warps: int, stages: int, machine: Gpu) -> bool:
    """Whether a setting may be among the best, and fits into registers and shared memory."""
    n, t = p.opt(p.rows), p.opt(p.keys)
    single = isinstance(p.keys, int) and t <= keys
    size = operand_bytes(p)
    if (rows > 16 and rows >= 2 * n) or (keys > 16 and keys >= 2 * t):
        return False
    if stages > 1 and single:
        return False
    if rows * (keys + p.e) > 255 * 32 * warps * 3 // 4 or warps * 16 > max(rows, 64) or warps * 256 > rows * keys:
        return False
    if size >= 4 and (rows * keys > 64 * 64 or not brief(p, rows, keys, warps)):
        return False
    return shared_bytes(p, rows, keys, stages) <= (machine.shared_bytes or 101376)
