"""Matmul by Triton with as many programs as there are multiprocessors, each of which computes tile after tile; operands
come by pointers, or as whole blocks by the tensor memory accelerator (sm_90 on)."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, minimum, product
from whet.targets.base import Implementation, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_blocks import as_blocks, block_loop, descriptors
from whet.targets.cuda.matmul_emit import Body, depth_loop
from whet.targets.cuda.matmul_problem import orders, problem, products, reason, second
from whet.targets.cuda.matmul_space import seconds
from whet.targets.cuda.shapes import optimum

_TILES = [(128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4),
          (128, 128, 64, 8, 3), (128, 128, 128, 8, 2), (64, 256, 64, 8, 4), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4)]


class MatmulPersistent:
    """C = act(A @ B), tile after tile. Parameters:

    blocks: operands are loaded by tensor descriptors. programs: how many. The others are those of `MatmulTiles`.
    """

    name = "matmul_persistent"

    def applies(self, region: Region, machine: Gpu) -> str:
        why = reason(region, machine)
        how, p = products(region), problem(region)
        if why:
            return why
        if not how.dot or how.operand.size > 2 or how.offset:
            return "products of wide types"
        if p.batch:
            return "batches"
        tiles = -(-optimum(region, p.m) // 128) * -(-optimum(region, p.n) // 128)
        return "" if tiles >= (machine.multiprocessors or 132) // 2 else "too few tiles"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        sms, found = machine.multiprocessors or 132, []
        for bm, bn, bk, warps, stages in _TILES:
            bk = bk * 2 if products(region).operand.size == 1 else bk
            if (bm + bn) * bk * products(region).operand.size * stages > (machine.shared_bytes or 101376) - 4096:
                continue
            for o in orders(region):
                for blocks in (True, False):
                    if blocks and (machine.capability < (9, 0) or not as_blocks(region, o)):
                        continue
                    found.append({"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages, "group": 8,
                                  "order": o, "blocks": blocks, "programs": sms})
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        return found[:24]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return seconds(region, params, machine, 1) * (0.9 if params["blocks"] else 0.97)

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b = second(region, params["order"])
        p, how = problem(region, b.tensor, b.arg, b.sums), products(region)
        bm, bn, bk = params["bm"], params["bn"], params["bk"]
        body = Body("matmul_persistent", region, p, how, machine)
        s = body.s
        body.enter()
        if params["blocks"]:
            descriptors(body, bm, bn, bk)
        body.wait()
        count = ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch)
        programs: Dim = minimum(count, params["programs"])
        steps = f"{body.number(count)}, {body.number(programs)}"
        with s.block(f"for at in tl.range(tl.program_id(0), {steps}, flatten={params['blocks']}):"):
            body.tile("at", bm, bn, params["group"])
            body.indices(bm, bn)
            if params["blocks"]:
                total = block_loop(body, bm, bn, bk)
            else:
                exact = isinstance(p.k, int) and p.k % bk == 0
                total = depth_loop(body, bm, bn, bk, "0", body.number(p.k), exact)
            body.finish(total, "rm[:, None]", "rn[None, :]", body.m_mask(bm), body.n_mask(bn))
        return Implementation((s.step(programs, params["warps"], params["stages"]),), b.packs)
