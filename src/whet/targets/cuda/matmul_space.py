"""Which tiles are worth trying for a matmul, and what they should cost."""

from __future__ import annotations

from whet.ir.dtypes import DType
from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Params
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_problem import Products, opt, problem, products

# Multiply-adds a second of one multiprocessor of an H100 at full use, by type (two operations each).
_RATE = {DType.F16: 3.7e12, DType.BF16: 3.7e12, DType.I8: 7.4e12, DType.F8E4M3FN: 7.4e12, DType.F64: 2.5e11}
LAUNCH = 2e-6  # seconds before a kernel's first load and after its last store
LATENCY = 0.45e-6  # of one block of the depth that nothing hides

_HALF = [(128, 256, 64, 8, 3), (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 4, 4),
         (128, 128, 64, 8, 3), (128, 128, 32, 4, 5), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4), (64, 256, 64, 4, 4),
         (256, 64, 64, 8, 4), (64, 64, 128, 4, 4), (64, 64, 64, 4, 5), (128, 32, 64, 4, 5), (64, 32, 128, 4, 4),
         (64, 32, 64, 4, 5), (32, 64, 128, 4, 4), (32, 64, 64, 4, 5), (32, 32, 128, 4, 4), (32, 32, 64, 4, 5),
         (32, 128, 64, 4, 4), (64, 16, 128, 4, 4), (16, 64, 128, 4, 4), (16, 128, 64, 4, 5), (16, 32, 128, 4, 4),
         (16, 32, 256, 4, 3), (16, 16, 256, 4, 3)]
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
    m, n, k = (max(1, opt(region, d)) for d in (p.m, p.n, p.k))
    loaded = max(t.dtype.size for (role, _), t in p.tensors.items() if role in "ab")
    out: list[Params] = []
    for bm, bn, bk, warps, stages in _shapes(how):
        if (bm > 16 and bm >= 2 * max(16, _power(m))) or (bn > 16 and bn >= 2 * max(16, _power(n))):
            continue
        size = max(how.operand.size, loaded)
        bk = min(bk * 2 if size == 1 else bk, max(_power(k), 32 if size == 1 else 16))
        while stages > 2 and (bm + bn) * bk * size * stages > (machine.shared_bytes or 101376) - 1024:
            stages -= 1
        if (bm + bn) * bk * size * stages > (machine.shared_bytes or 101376) - 1024:
            continue
        made = {"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages}
        if made not in out:
            out.append(made)
    return out


def _power(d: int) -> int:
    return 1 << (d - 1).bit_length()


def _shapes(how: Products) -> list[tuple[int, int, int, int, int]]:
    if how.operand is DType.F64:
        return _DOUBLE
    if how.operand is DType.F32:
        return _EXACT if how.precision == "ieee" else _WIDE
    return _HALF


def seconds(region: Region, params: Params, machine: Gpu, splits: int) -> float:
    """Estimated seconds at the optimum: waves of programs, each limited by products, by loads from L2, or by the
    latency of its blocks; never less than the memory takes."""
    p, how = problem(region), products(region)
    bm, bn, bk = params["bm"], params["bn"], params["bk"]
    m, n, k = (max(1, opt(region, d)) for d in (p.m, p.n, p.k))
    batch = max(1, opt(region, product(p.batch)))
    sms = machine.multiprocessors or 132
    programs = -(-m // bm) * -(-n // bn) * batch * splits
    steps = -(-k // (bk * splits))
    rate = _RATE.get(how.operand, 1.9e12 if how.precision == "tf32" else 1.7e11)
    used = min(1.0, (bm / 128) ** 0.6) * min(1.0, (bn / 128) ** 0.4) * 0.75
    used *= 1.05 if bm * bn >= 128 * 256 else 1.0
    size = how.operand.size
    block = max(2.0 * bm * bn * bk / 2 / rate / used, (bm + bn) * bk * size / 40e9)
    resident = max(1, min(4, (machine.shared_bytes or 101376) // max(1, (bm + bn) * bk * size * params["stages"]), 8))
    waves = -(-programs // sms)  # programs one multiprocessor runs, some of them at once
    hidden = min(resident, waves)
    program = steps * max(block, LATENCY / params["stages"] / hidden) + bm * bn * 4 / 60e9 + LATENCY
    memory = (sum(t.dtype.size * opt(region, product(t.shape)) for t in (*region.inputs, region.output))
              / (machine.bandwidth or 3e12))
    return LAUNCH + max(waves * program, memory)
