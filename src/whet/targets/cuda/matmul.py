"""Matmul by Triton: one tile of the result per program, any strides, types and epilogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from whet.ir.region import Region
from whet.ir.symbolic import ceildiv, product
from whet.targets.base import Implementation, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_emit import Body, depth_loop, outer_products
from whet.targets.cuda.matmul_problem import default_order, packable, problem, products, reason, second
from whet.targets.cuda.matmul_space import seconds, tiles


class MatmulTiles:
    """C = act(A @ B): a program computes a tile of bm x bn, bk of the depth at a time. Parameters:

    bm, bn, bk: the tile. warps, stages: of the program. group: rows of tiles that follow one another.
    order:      "" or how a constant b is packed ("nk": the depth is contiguous, "kn").
    """

    name = "matmul_tiles"

    def applies(self, region: Region, machine: Gpu) -> str:
        return reason(region, machine)

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        how = products(region)
        order = default_order(region)
        if not how.dot:
            return [{"bm": 32, "bn": 32, "bk": 1, "warps": 4, "stages": 1, "group": 8, "order": order}]
        found = [{**t, "group": 8, "order": order} for t in tiles(region, machine)]
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        if packable(region) and not order and how.operand.size == 2:
            found = [*found[:20], *({**q, "order": "nk"} for q in found[:4])]
        return found[:24]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return seconds(region, params, machine, 1)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return one_tile("matmul", region, params, machine, _sums)


def one_tile(name: str, region: Region, params: Params, machine: Gpu, sums: Callable[[Body, int, int, int], str],
             prepare: Callable[[Body, int, int, int], None] | None = None) -> Implementation:
    """A kernel of which each program computes one tile of bm x bn.

    sums: writes the loop over the depth, by bk; gives the name of the sums. prepare: writes what may be done before
    the kernel waits for others.
    """
    b = second(region, params["order"])
    p = problem(region, b.tensor, b.arg, b.sums)
    bm, bn, bk = params["bm"], params["bn"], params["bk"]
    body = Body(name, region, p, products(region), machine)
    body.tile("tl.program_id(0)", bm, bn, params["group"])
    body.indices(bm, bn)
    body.enter()
    if prepare is not None:
        prepare(body, bm, bn, bk)
    body.begin(bm, bn)
    body.finish(sums(body, bm, bn, bk), "rm[:, None]", "rn[None, :]", body.m_mask(bm), body.n_mask(bn))
    count = ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch)
    return Implementation((body.s.step(count, params["warps"], params["stages"]),), b.packs)


def _sums(body: Body, bm: int, bn: int, bk: int) -> str:
    if not body.how.dot:
        return outer_products(body, bm, bn)
    k = body.p.k
    return depth_loop(body, bm, bn, bk, "0", body.number(k), isinstance(k, int) and k % bk == 0)
