"""Matmul by Triton with operands loaded as whole blocks by the tensor memory accelerator (sm_90 on): a thread asks for
what all threads ask for element by element otherwise, so that more of a tile's depth is on its way at once. For few
tiles, one of a program; for many there are the programs of `matmul_persistent`, which shares this."""

from __future__ import annotations

from collections.abc import Iterable

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import Dim, product
from whet.targets.base import Implementation, Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.kernel import REGISTER
from whet.targets.cuda.matmul import one_tile
from whet.targets.cuda.matmul_emit import Body
from whet.targets.cuda.matmul_problem import Key, Problem, orders, problem, products, reason, second
from whet.targets.cuda.matmul_space import seconds
from whet.targets.cuda.shapes import divides, optimum, power_of_two

_TILES = [(64, 64, 64, 4, 8), (64, 64, 128, 4, 4), (64, 64, 64, 4, 5), (64, 128, 64, 4, 6), (128, 64, 64, 4, 6),
          (64, 32, 64, 4, 8), (64, 128, 64, 4, 8), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4), (64, 256, 64, 4, 4)]
MANY = 4  # 64x64 tiles for each multiprocessor: from there on programs compute several, one after the other


class MatmulBlocks:
    """C = act(A @ B), a tile of a program. Parameters: those of `MatmulTiles`."""

    name = "matmul_blocks"

    def applies(self, region: Region, machine: Gpu) -> str:
        if why := reason(region, machine):
            return why
        how, p = products(region), problem(region)
        if machine.capability < (9, 0):
            return f"{machine.arch} has no tensor memory accelerator"
        if not how.dot or how.operand.size > 2 or how.offset:
            return "products of wide types"
        m, n = (optimum(region, d) for d in (p.m, p.n))
        tiles = -(-m // 64) * -(-n // 64) * optimum(region, product(p.batch))
        if m < 32 or tiles > MANY * (machine.multiprocessors or 132):
            return "too few rows" if m < 32 else "many tiles"
        return "" if any(as_blocks(region, o) for o in orders(region)) else "operands that are no matrices in memory"

    def space(self, region: Region, machine: Gpu, threads: int) -> Iterable[Params]:
        p, size = problem(region), products(region).operand.size
        n, k = (max(1, optimum(region, d)) for d in (p.n, p.k))
        found = []
        for bm, bn, bk, warps, stages in _TILES:
            bk = bk * 2 if size == 1 else bk
            if bn >= 2 * max(32, power_of_two(n)) or bk >= 2 * max(64, power_of_two(k)):
                continue
            if (bm + bn) * bk * size * stages > (machine.shared_bytes or 101376) - 4096:
                continue
            found += [{"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages, "group": 8, "order": o}
                      for o in orders(region) if as_blocks(region, o)]
        return sorted(found, key=lambda q: self.cost(region, q, machine, threads))

    def cost(self, region: Region, params: Params, machine: Gpu, threads: int) -> float:
        return seconds(region, params, machine, 1) * 0.9

    def implement(self, region: Region, params: Params, machine: Gpu, threads: int) -> Implementation:
        return one_tile(self.name, region, params, machine, block_loop, descriptors)


def as_blocks(region: Region, order: str) -> bool:
    """True if the operands are matrices that tensor descriptors describe, in the type of the products."""
    b = second(region, order)
    p, how = problem(region, b.tensor, b.arg), products(region)
    if region.prologue or any(p.tensors[k].dtype is not how.operand or not p.tensors[k].aligned
                              for k in (("a", 0), ("b", 1))):
        return False
    return all(_matrix(p, key, along) is not None and all(
        divides(16, step * p.tensors[key].dtype.size) for step in p.strides[key][:-3])
        for key, along in ((("a", 0), -3), (("b", 1), -2)))


def _matrix(p: Problem, key: Key, along: int) -> tuple[bool, Dim] | None:
    """(is the depth contiguous, stride of the other dimension) of an operand; None: no such matrix."""
    across, deep, size = p.strides[key][along], p.strides[key][-1], p.tensors[key].dtype.size
    if deep == 1 and across != 0 and divides(16, across * size):
        return True, across
    if across == 1 and deep != 0 and divides(16, deep * size):
        return False, deep
    return None


def descriptors(body: Body, bm: int, bn: int, bk: int) -> None:
    """Tensor descriptors `a_block` and `b_block`. They are written to memory of the launch's own (no two launches of a
    graph share it), so a kernel may make them before it waits for others."""
    p = body.p
    for name, key, along, extent, size in (("a", ("a", 0), -3, p.m, bm), ("b", ("b", 1), -2, p.n, bn)):
        found = _matrix(p, key, along)
        assert found is not None, "parameters that `space` does not give"
        deep, stride = found
        shape = (body.number(extent), body.number(p.k)) if deep else (body.number(p.k), body.number(extent))
        block = (size, bk) if deep else (bk, size)
        body.s.line(f"{name}_block = tl.make_tensor_descriptor({body.base(key)}, shape=[{shape[0]}, {shape[1]}], "
                    f"strides=[{body.number(stride)}, 1], block_shape=[{block[0]}, {block[1]}])")


def block_loop(body: Body, bm: int, bn: int, bk: int) -> str:
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
