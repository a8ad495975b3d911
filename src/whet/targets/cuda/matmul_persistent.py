"""Matmul by Triton with as many programs as there are multiprocessors, each of which computes tile after tile; operands
come by pointers, or as whole blocks by the tensor memory accelerator (sm_90 on), there also by warps that do nothing
else (sm_90): these load for the next tile while the others compute this one's epilogue."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, ceildiv, minimum, product
from whet.targets.base import Implementation, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER
from whet.targets.cuda.matmul_emit import Body, depth_loop
from whet.targets.cuda.matmul_problem import Key, Problem, default_order, packable, problem, products, reason, second
from whet.targets.cuda.matmul_space import seconds
from whet.targets.cuda.shapes import divides, optimum

_TILES = [(128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4),
          (128, 128, 64, 8, 3), (128, 128, 128, 8, 2), (64, 256, 64, 8, 4), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4)]
# With warps that load: Triton gives each half of the rows to four warps of their own, so it takes 128 rows; and known
# extents (with others Triton 3.6 fails).
_APART = [(128, 256, 64, 3), (128, 256, 64, 4), (128, 128, 64, 4), (128, 128, 64, 5), (128, 128, 128, 2),
          (256, 128, 64, 3)]


class MatmulPersistent:
    """C = act(A @ B), tile after tile. Parameters:

    blocks: operands are loaded by tensor descriptors. apart: by warps of their own. programs: how many. The others are
    those of `MatmulTiles`.
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
        sms, order, found = machine.multiprocessors or 132, default_order(region), []
        orders = [order, "nk"] if packable(region) and not order else [order]
        for bm, bn, bk, warps, stages in _TILES:
            bk = bk * 2 if products(region).operand.size == 1 else bk
            if (bm + bn) * bk * products(region).operand.size * stages > (machine.shared_bytes or 101376) - 4096:
                continue
            for o in orders:
                for blocks in (True, False):
                    if blocks and (machine.capability < (9, 0) or not _as_blocks(region, o)):
                        continue
                    found.append({"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages, "group": 8,
                                  "order": o, "blocks": blocks, "programs": sms})
        p = problem(region)
        known = all(isinstance(d, int) for d in (p.m, p.n, p.k))
        for bm, bn, bk, stages in _APART if known and machine.capability[0] == 9 else ():
            bk = bk * 2 if products(region).operand.size == 1 else bk
            found += [{"bm": bm, "bn": bn, "bk": bk, "warps": 4, "stages": stages, "group": 8, "order": o,
                       "blocks": True, "apart": True, "programs": sms} for o in orders if _as_blocks(region, o)]
        found.sort(key=lambda q: self.cost(region, q, machine, threads))
        return found[:24]

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        gain = 0.85 if params.get("apart") else 0.9 if params["blocks"] else 0.97
        return seconds(region, params, machine, 1) * gain

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        b = second(region, params["order"])
        p, how = problem(region, b.tensor, b.arg, b.sums), products(region)
        bm, bn, bk = params["bm"], params["bn"], params["bk"]
        body = Body("matmul_persistent", region, p, how, machine)
        s = body.s
        body.enter()
        body.wait()
        count = ceildiv(p.m, bm) * ceildiv(p.n, bn) * product(p.batch)
        programs: Dim = minimum(count, params["programs"])
        if params["blocks"]:
            _descriptors(body, bm, bn, bk)
        steps = f"{body.number(count)}, {body.number(programs)}"
        how_far = "warp_specialize=True" if params.get("apart") else f"flatten={params['blocks']}"
        with s.block(f"for at in tl.range(tl.program_id(0), {steps}, {how_far}):"):
            body.tile("at", bm, bn, params["group"])
            body.indices(bm, bn)
            if params["blocks"]:
                total = _block_loop(body, bm, bn, bk)
            else:
                exact = isinstance(p.k, int) and p.k % bk == 0
                total = depth_loop(body, bm, bn, bk, "0", body.number(p.k), exact)
            body.finish(total, "rm[:, None]", "rn[None, :]", body.m_mask(bm), body.n_mask(bn))
        return Implementation((s.step(programs, params["warps"], params["stages"]),), b.packs)


def _as_blocks(region: Region, order: str) -> bool:
    """True if the operands are matrices that tensor descriptors describe, in the type of the products."""
    b = second(region, order)
    p, how = problem(region, b.tensor, b.arg), products(region)
    if region.prologue or any(p.tensors[k].dtype is not how.operand or not p.tensors[k].aligned
                              for k in (("a", 0), ("b", 1))):
        return False
    return all(_matrix(p, key, along) is not None for key, along in ((("a", 0), -3), (("b", 1), -2)))


def _matrix(p: Problem, key: Key, along: int) -> tuple[bool, Dim] | None:
    """(is the depth contiguous, stride of the other dimension) of an operand; None: no such matrix."""
    across, deep, size = p.strides[key][along], p.strides[key][-1], p.tensors[key].dtype.size
    if deep == 1 and across != 0 and divides(16, across * size):
        return True, across
    if across == 1 and deep != 0 and divides(16, deep * size):
        return False, deep
    return None


def _descriptors(body: Body, bm: int, bn: int, bk: int) -> None:
    """Tensor descriptors `a_block` and `b_block`."""
    p = body.p
    for name, key, along, extent, size in (("a", ("a", 0), -3, p.m, bm), ("b", ("b", 1), -2, p.n, bn)):
        found = _matrix(p, key, along)
        assert found is not None, "parameters that `space` does not give"
        deep, stride = found
        shape = (body.number(extent), body.number(p.k)) if deep else (body.number(p.k), body.number(extent))
        block = (size, bk) if deep else (bk, size)
        body.s.line(f"{name}_block = tl.make_tensor_descriptor({body.parameter(key)}, shape=[{shape[0]}, {shape[1]}], "
                    f"strides=[{body.number(stride)}, 1], block_shape=[{block[0]}, {block[1]}])")


def _block_loop(body: Body, bm: int, bn: int, bk: int) -> str:
    """Sum products of whole blocks (what lies beyond a matrix is 0); the name of the sums."""
    s, p, how = body.s, body.p, body.how
    a, b = _matrix(p, ("a", 0), -3), _matrix(p, ("b", 1), -2)
    assert a is not None
    assert b is not None
    s.line(f"acc = tl.zeros(({bm}, {bn}), tl.{REGISTER[how.total]})")
    with s.block(f"for k in tl.range(0, {body.number(p.k)}, {bk}):"):
        s.line(f"av = a_block.load([pm * {bm}, k])" if a[0] else f"av = a_block.load([k, pm * {bm}]).T")
        s.line(f"bv = b_block.load([pn * {bn}, k]).T" if b[0] else f"bv = b_block.load([k, pn * {bn}])")
        more = ", max_num_imprecise_acc=128" if how.operand is DType.F8E4M3FN else ""
        s.line(f"acc = tl.dot(av, bv, acc, out_dtype=tl.{REGISTER[how.total]}{more})")
    return "acc"
