"""Matmul by Triton of very few rows, limited by how fast the second operand is read: no tensor cores.

A program takes `bn` columns and the whole depth, in blocks whose loads are as wide as they get; sums stay apart until
the end. Weights are packed with the depth contiguous, so that a program reads long stretches of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER
from whet.targets.cuda.matmul_emit import Body
from whet.targets.cuda.matmul_problem import CODES, Products, packable, problem, products, reason, second
from whet.targets.cuda.matmul_space import LATENCY, LAUNCH
from whet.targets.cuda.shapes import optimum

MOST_ROWS = 8


class MatmulRows:
    """C = act(A @ B) for few rows. Parameters:

    rows: of A per program. bn, bk: columns, and depth at a time. warps: of the program. order: as of `MatmulTiles`.
    """

    name = "matmul_rows"

    def applies(self, region: Region, machine: Gpu) -> str:
        p = problem(region)
        if optimum(region, p.m) > MOST_ROWS:
            return f"more than {MOST_ROWS} rows"
        return reason(region, machine)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p, b = problem(region), region.inputs[1]
        m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
        rows = 1 << (min(m, MOST_ROWS) - 1).bit_length()
        order = "nk" if packable(region) and (b.strides[-2] != 1 or _operand(region).size < b.dtype.size) else ""
        along = order == "nk" or b.strides[-2] == 1
        found: list[Params] = []
        for bn in (1, 2, 4, 8, 16, 32, 64) if along else (16, 32, 64, 128):
            for bk in (128, 256, 512, 1024, 2048) if along else (16, 32, 64, 128):
                for warps in (2, 4, 8):
                    each = bn * bk // (32 * warps)
                    if 8 <= each <= 64 and each * rows <= 128 and bk < 2 * max(128, k) and bn < 2 * max(16, n):
                        found.append({"rows": rows, "bn": bn, "bk": bk, "warps": warps, "order": order})
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        return found[:18] or [{"rows": rows, "bn": 16, "bk": 32, "warps": 2, "order": order}]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        """The second operand from memory once for every block of rows; programs of fewer bytes are late."""
        p = problem(region)
        m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
        blocks = optimum(region, product(p.batch)) * -(-m // params["rows"])
        programs = -(-n // params["bn"]) * blocks
        sms = machine.multiprocessors or 132
        rounds = -(-programs // (sms * max(1, 32 // params["warps"])))
        steps = -(-k // params["bk"])
        size = region.inputs[1].dtype.size
        busy = min(1.0, programs * params["warps"] / (sms * 16))
        arithmetic = 2.0 * n * k * blocks * params["rows"] / (sms * 2.2e11)
        memory = n * k * size * blocks / (machine.bandwidth or 3e12) / busy
        return LAUNCH + rounds * steps * LATENCY * 1.2 + max(memory, arithmetic)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b, how = second(region, params["order"]), _summed(region)
        p = problem(region, b.tensor, b.arg)
        rows, bn, bk = params["rows"], params["bn"], params["bk"]
        body = Body("matmul_rows", region, p, how, machine)
        s = body.s
        body.tile("tl.program_id(0)", rows, bn, 1)
        s.line(f"rn = {body.wide(f'pn * {bn}')} + tl.arange(0, {bn})\nrk = tl.arange(0, {bk})")
        first = "0" if p.m == 1 else s.name_of(body.wide(f"pm * {rows}"), "row")
        body.enter()
        if p.m == 1:
            body.preload("0", "rn", "", body.n_mask(bn, "rn"), const=True)
        body.wait(body.may_prefetch(), bn)
        if p.m == 1:
            body.preload("0", "rn", "", body.n_mask(bn, "rn"), const=False)
        along = next(d[-1] for (role, _), d in p.strides.items() if role == "b") == 1  # the depth is contiguous
        column, deep = ("rn[:, None]", "rk[None, :]") if along else ("rn[None, :]", "rk[:, None]")
        block = f"({bn}, {bk})" if along else f"({bk}, {bn})"
        exact = isinstance(p.k, int) and p.k % bk == 0
        depth = body.number(p.k)
        mask = "" if exact else f"({deep} < {depth} - k)"
        total = REGISTER[how.total]
        sums, a_rows = [], []
        for i in range(rows if p.m != 1 else 1):
            row = f"({first} + {i})" if i else first
            row_mask = "" if p.m == 1 else f"({row} < {body.number(p.m)})"
            a_rows.append(body.operand("a", row, deep, row_mask, mask, f"(1, {bk})" if along else f"({bk}, 1)"))
            sums.append(s.name_of(f"tl.zeros({block}, tl.{total})", "acc"))
        weights = body.operand("b", column, deep, body.n_mask(bn, column), mask, block)
        with s.block(f"for k in tl.range(0, {depth}, {bk}):"):
            w = s.name_of(f"{weights.value()}.to(tl.{total})", "w")
            for acc, a in zip(sums, a_rows):
                s.line(f"{acc} += {w} * {a.value()}.to(tl.{total})")
            for operand in (weights, *a_rows):
                operand.advance(bk)
        for i, acc in enumerate(sums):
            row = f"({first} + {i})" if i else first
            value = s.name_of(f"tl.sum({acc}, {1 if along else 0})", "total")
            body.finish(value, row, "rn", "" if p.m == 1 else f"({row} < {body.number(p.m)})", body.n_mask(bn, "rn"))
        count = ceildiv(p.m, rows) * ceildiv(p.n, bn) * product(p.batch)
        return Implementation((s.step(count, params["warps"], 2),), b.packs[: 1 if params["order"] else 0])


def _operand(region: Region) -> DType:
    return products(region).operand


def _summed(region: Region) -> Products:
    """Products without tensor cores: codes are widened."""
    how = products(region)
    if how.operand in CODES and how.total is DType.I32:
        return Products(DType.I32, DType.I32, dot=False)
    return replace(how, offset=False)
