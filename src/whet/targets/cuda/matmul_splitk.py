"""Matmul by Triton with the depth divided among programs: for few tiles and much depth.

Each part's sums go to the workspace in f32 (i32 for codes); a second step adds them in their order, so that results do
not depend on which program is first, and applies the epilogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, product, upper
from whet.targets.base import Implementation, Params, Step, Work
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER
from whet.targets.cuda.matmul_emit import Body, depth_loop
from whet.targets.cuda.matmul_problem import Problem, default_order, packable, problem, products, reason, second
from whet.targets.cuda.matmul_space import LAUNCH, seconds, tiles
from whet.targets.cuda.shapes import is_long, optimum

SPLITS = (2, 3, 4, 6, 8, 12, 16)


class MatmulSplitK:
    """C = act(A @ B) in `split` parts of the depth. The other parameters are those of `MatmulTiles`."""

    name = "matmul_splitk"

    def applies(self, region: Region, machine: Gpu) -> str:
        if not products(region).dot:
            return "integers wider than 8 bits"
        p = problem(region)
        programs = -(-optimum(region, p.m) // 64) * -(-optimum(region, p.n) // 64) * optimum(region, product(p.batch))
        if programs > 4 * (machine.multiprocessors or 132):
            return "tiles enough for every multiprocessor"
        return reason(region, machine) or ("" if _divisions(region, machine) else "too little depth to divide")

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        order = default_order(region)
        found: list[Params] = [{**t, "group": 8, "order": order} for t in _divisions(region, machine)]
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        if packable(region) and not order and products(region).operand.size == 2:
            found = [*found[:18], *({**q, "order": "nk"} for q in found[:4])]
        return found[:22]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        p = problem(region)
        moved = 8.0 * params["split"] * optimum(region, p.outputs)
        return seconds(region, params, machine, params["split"]) + LAUNCH + moved / (2 * (machine.bandwidth or 3e12))

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b, how, split = second(region, params["order"]), products(region), params["split"]
        p = enough(problem(region, b.tensor, b.arg, b.sums), split)
        bm, bn, bk = params["bm"], params["bn"], params["bk"]
        body = Body("matmul_part", region, p, how, machine)
        s = body.s
        body.tile("tl.program_id(0)", bm, bn, params["group"], split)
        body.indices(bm, bn)
        body.enter("ab")
        part = ceildiv(ceildiv(p.k, bk), split) * bk
        depth = body.number(p.k)
        s.line(f"begin = split * {body.number(part)}\nend = tl.minimum(begin + {body.number(part)}, {depth})")
        body.wait(body.may_prefetch(), bn, "begin", "end")
        total = depth_loop(body, bm, bn, bk, "begin", "end", isinstance(p.k, int) and p.k % bk == 0)
        work = s.pointer(Work(0), how.total)
        masks = " & ".join(t for t in (body.m_mask(bm), body.n_mask(bn)) if t)
        place = _place(body, work, "split")
        s.line(f"tl.store({place}, {total}, mask={masks})" if masks else f"tl.store({place}, {total})")
        count = ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch) * split
        steps = (s.step(count, params["warps"], params["stages"]), sum_step(region, p, machine, split, how.total))
        return Implementation(steps, b.packs, p.outputs * split * how.total.size)


def _divisions(region: Region, machine: Gpu) -> list[Params]:
    """Tiles and parts, each of at least two blocks of the depth."""
    k = optimum(region, problem(region).k)
    return [{**t, "split": split} for t in tiles(region, machine) for split in SPLITS
            if 2 * t["bk"] * split <= k and t["bm"] * t["bn"] <= 128 * 128]


def enough(p: Problem, parts: int) -> Problem:
    """The problem with offsets wide enough for the sums of all parts."""
    return replace(p, wide=p.wide or is_long(upper(p.outputs * parts, p.ranges)))


def sum_step(region: Region, p: Problem, machine: Gpu, parts: int, dtype: DType, offset: Dim = 0) -> Step:
    """The step that adds `parts` matrices of the workspace at `offset` (bytes) and applies the epilogue."""
    n = max(1, optimum(region, p.n))
    share = max(256, min(2048, optimum(region, p.outputs) // (2 * (machine.multiprocessors or 132))))
    bn = min(1 << (n - 1).bit_length(), 256)
    bm = max(1, min(16, 1 << max(0, (share // bn).bit_length() - 1)))
    body = Body("matmul_sum", region, p, products(region), machine)
    body.tile("tl.program_id(0)", bm, bn, 1)
    body.indices(bm, bn)
    body.enter("eso")
    tile = "rm[:, None]", "rn[None, :]", body.m_mask(bm), body.n_mask(bn)
    body.preload(*tile, const=True)
    body.wait()
    work = body.s.pointer(Work(offset), dtype)
    masks = " & ".join(t for t in (body.m_mask(bm), body.n_mask(bn)) if t)
    zero = "0.0" if dtype.is_float else "0"
    loads = []
    for i in range(parts):  # all loads before the first addition
        place = _place(body, work, str(i))
        loads.append(body.s.name_of(f"tl.load({place}, mask={masks}, other={zero})" if masks else f"tl.load({place})",
                                    "part"))
    total = body.s.name_of(" + ".join(loads), "total")
    kind = REGISTER[products(region).total]
    if dtype is not products(region).total:
        total = body.s.name_of(f"{total}.to(tl.{kind})", "total")
    body.finish(total, *tile)
    return body.s.step(ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch), 4 if bm * bn >= 512 else 2, 1)


def _place(body: Body, work: str, part: str) -> str:
    """Addresses of the tile in the sums of a part: [parts, batch, m, n], dense."""
    p = body.p
    terms = [work]
    if part != "0":
        each = body.number(p.outputs)
        terms.append(f"{body.wide(part)} * {each}")
    if p.batch:
        terms.append(f"{body.wide('outer')} * {body.number(p.m * p.n)}")
    return " + ".join([*terms, f"rm[:, None] * {body.number(p.n)}", "rn[None, :]"])
