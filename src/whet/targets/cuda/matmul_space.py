"""Which tiles are worth trying for a matmul, and what they should cost."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.expr import Apply
from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_problem import Key, Problem, Products, problem, products
from whet.targets.cuda.shapes import optimum, power_of_two

# Multiply-adds a second of one multiprocessor of an H100 at full use, by type.
RATE = {DType.F16: 3.7e12, DType.BF16: 3.7e12, DType.I8: 7.4e12, DType.F8E4M3FN: 7.4e12, DType.F64: 2.5e11}
LAUNCH = 1.2e-6  # seconds of a kernel that does nothing, in a graph
LATENCY = 0.65e-6  # from asking for a block of the operands until it is there
FROM_L2 = 1e11  # bytes a second that one multiprocessor gets
SIMPLE = 2.2e11  # additions and the like a second of one multiprocessor

_HALF = [(128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4),
         (128, 128, 64, 8, 3), (128, 128, 32, 4, 5), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4), (64, 256, 64, 4, 4),
         (256, 64, 64, 8, 4), (64, 64, 128, 4, 4), (64, 64, 64, 4, 5), (128, 32, 64, 4, 5), (64, 32, 128, 4, 4),
         (64, 32, 64, 4, 5), (32, 64, 128, 4, 4), (32, 64, 64, 4, 5), (32, 32, 128, 4, 4), (32, 32, 64, 4, 5),
         (32, 128, 64, 4, 4), (64, 16, 128, 4, 4), (16, 64, 128, 4, 4), (16, 128, 64, 4, 5), (16, 32, 128, 4, 4),
         (16, 32, 256, 4, 3), (16, 16, 256, 4, 3), (64, 32, 64, 4, 8), (64, 64, 64, 4, 8), (32, 64, 64, 4, 8),
         (32, 32, 128, 4, 6), (64, 16, 128, 4, 6), (64, 32, 128, 4, 6), (128, 64, 64, 4, 6), (64, 128, 64, 4, 6),
         (256, 32, 64, 4, 4), (256, 32, 64, 8, 4), (128, 16, 64, 4, 4), (256, 16, 64, 4, 4), (256, 16, 64, 8, 4),
         (16, 16, 128, 4, 6), (16, 32, 128, 4, 6), (64, 64, 128, 8, 4), (64, 64, 64, 8, 6), (128, 64, 64, 8, 4),
         (128, 64, 128, 8, 3)]
_WIDE = [(128, 128, 32, 8, 3), (128, 64, 32, 4, 3), (64, 128, 32, 4, 3), (64, 64, 32, 4, 4), (64, 64, 32, 8, 3),
         (64, 32, 32, 4, 4), (32, 64, 32, 4, 4), (32, 32, 64, 4, 4), (32, 32, 32, 4, 4), (16, 64, 64, 4, 4),
         (16, 32, 64, 4, 4), (16, 16, 64, 4, 4), (32, 16, 32, 4, 4), (128, 256, 32, 8, 3)]
_EXACT = [(64, 64, 16, 4, 3), (64, 64, 32, 8, 3), (128, 64, 16, 8, 3), (64, 128, 16, 8, 3), (128, 128, 16, 8, 3),
          (32, 64, 32, 4, 3), (32, 32, 32, 4, 3), (16, 64, 32, 4, 3), (16, 32, 64, 4, 3), (64, 32, 32, 4, 3),
          (16, 16, 64, 4, 3), (32, 16, 32, 4, 3)]
_DOUBLE = [(32, 32, 16, 4, 3), (64, 32, 16, 4, 3), (64, 64, 16, 4, 3), (16, 32, 32, 4, 3), (64, 64, 16, 8, 3),
           (16, 16, 32, 4, 3), (32, 16, 16, 4, 3)]


def tiles(region: Region, machine: Gpu) -> list[Params]:
    """Tiles that fit the products' type, the shared memory and the problem, in no order."""
    p, how = problem(region), products(region)
    m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
    loaded = max(t.dtype.size for key, t in p.tensors.items() if key[0] in "ab" and _is_whole(p, key))
    out: list[Params] = []
    for bm, bn, bk, warps, stages in _shapes(how):
        if (bm > 16 and bm >= 2 * max(16, power_of_two(m))) or (bn > 16 and bn >= 2 * max(16, power_of_two(n))):
            continue
        size = max(how.operand.size, loaded)
        bk = min(bk * 2 if size == 1 else bk, max(power_of_two(k), 32 if size == 1 else 16))
        while stages > 2 and (bm + bn) * bk * size * stages > (machine.shared_bytes or 101376) - 1024:
            stages -= 1
        if (bm + bn) * bk * size * stages > (machine.shared_bytes or 101376) - 1024:
            continue
        made = {"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages}
        if made not in out:
            out.append(made)
    return out


def _is_whole(p: Problem, key: Key) -> bool:
    """False for what an operand's prologue reads of one element for each row or column."""
    return key[1] < 2 or (p.strides[key][-1] != 0 and p.strides[key][-3 if key[0] == "a" else -2] != 0)


def _shapes(how: Products) -> list[tuple[int, int, int, int, int]]:
    if how.operand is DType.F64:
        return _DOUBLE
    if how.operand is DType.F32:
        return _EXACT if how.precision == "ieee" else _WIDE
    return _HALF


def _steps(region: Region) -> int:
    """Operators that compute an element of a on load."""
    terms = region.prologue[0].terms if 0 in region.prologue else ()
    return sum(isinstance(t, Apply) and t.op != "cast" for t in terms)


def seconds(region: Region, params: Params, machine: Gpu, splits: int) -> float:
    """Estimated seconds at the optimum: programs on the busiest multiprocessor, as many at once as there is room for,
    each limited by products, by loads from L2, or by the latency of its loads; never less than the memory takes.

    Rates fitted to products of BERT's on an H100 (`benchmarks/kernels_gpu_matmul.py`).
    """
    p, how = problem(region), products(region)
    bm, bn, bk, stages = params["bm"], params["bn"], params["bk"], params["stages"]
    m, n, k = (max(1, optimum(region, d)) for d in (p.m, p.n, p.k))
    batch = max(1, optimum(region, product(p.batch)))
    sms, shared = machine.multiprocessors or 132, machine.shared_bytes or 101376
    programs = -(-m // bm) * -(-n // bn) * batch * splits
    steps = -(-k // (bk * splits))
    rate = RATE.get(how.operand, 1.9e12 if how.precision == "tf32" else 1.7e11)
    used = 0.75 * min(1.0, (bm / 128) ** 0.3) * min(1.0, (bn / 128) ** 0.2) * (1.05 if bm * bn >= 128 * 256 else 1.0)
    size = how.operand.size
    narrow = min(1.0, bn * size / 64) if p.strides["b", next(i for r, i in p.tensors if r == "b")][-2] == 1 \
        and params.get("order") != "nk" else 1.0  # rows of b shorter than two sectors
    block = max(bm * bn * bk / rate / used, (bm + bn / narrow) * bk * size / FROM_L2)
    block += bm * bk * _steps(region) / SIMPLE
    each = -(-programs // sms)  # on the busiest multiprocessor
    room = max(1, min(each, shared // max(1, (bm + bn) * bk * size * stages), 32 // params["warps"], 4))
    program = steps * max(room * block, LATENCY / max(1, stages - 1)) + 2 * LATENCY + room * bm * bn * 4 / FROM_L2
    memory = (sum(t.dtype.size * optimum(region, product(t.shape)) for t in (*region.inputs, region.output))
              / (machine.bandwidth or 3e12))
    return LAUNCH + max(-(-each // room) * program, memory)
