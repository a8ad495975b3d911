"""Which tiles are worth trying for an implicit-GEMM convolution, and what they should cost."""

from __future__ import annotations

import math

from whet.ir.region import Region
from whet.ir.symbolic import product
from whet.targets.base import Params
from whet.targets.cuda.conv_kernel import Blocks
from whet.targets.cuda.conv_problem import Conv, Product, conv_of, product_of
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.matmul_space import RATE
from whet.targets.cuda.shapes import optimum

LAUNCH = 1.3e-6  # seconds that a kernel in a graph takes at least
LATENCY = 0.5e-6  # from asking for a block of operands to having it, when nothing hides that
TURN = 0.05e-6  # what an iteration takes besides (barriers, addresses)
_L2 = 8e12  # bytes a second, of the whole chip

_TILES = ((128, 256, 8), (256, 128, 8), (128, 128, 8), (128, 128, 4), (128, 64, 4), (64, 128, 4), (64, 256, 4),
          (256, 64, 8), (64, 64, 4), (64, 32, 4), (128, 32, 4), (32, 64, 4), (32, 128, 4), (32, 32, 4), (64, 16, 4),
          (16, 64, 4), (16, 128, 4), (128, 16, 4), (16, 32, 4), (32, 16, 4), (16, 16, 4))
MOST = 24
_SPLITS = (1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24)


def blocks(region: Region, machine: Gpu, flat: bool) -> list[Params]:
    """Settings that fit the types, the shared memory and the problem, the most promising first; at most MOST."""
    c, p = conv_of(region), product_of(region)
    pixels = max(1, optimum(region, c.pixels))
    depth = c.depth if flat else c.cg
    shared = (machine.shared_bytes or 101376) - 2048
    size = max(p.operand.size, region.inputs[0].dtype.size)
    out: list[Params] = []
    for bm, bn, warps in _TILES:
        if bm > _cover(pixels) or bn > _cover(c.og) or (bm * bn > 128 * 128 and size > 2):
            continue
        for bk in _depths(p, depth):
            room = (bm + bn) * bk * size
            for stages in (2, 3, 4, 6):
                if room * stages > shared or (stages > 2 and room * stages > 200 << 10):
                    continue
                for split in _SPLITS:
                    b = Blocks(bm, bn, bk, warps, stages, split, flat)
                    n = b.iterations(c)
                    if (stages > n + 1 and stages > 2) or not _worth(split, n, b, c, pixels, machine):
                        continue
                    out.append({"bm": bm, "bn": bn, "bk": bk, "warps": warps, "stages": stages, "split": split,
                                "flat": flat})
    return _best(region, out, machine)[:MOST]


def _best(region: Region, found: list[Params], machine: Gpu) -> list[Params]:
    """For each tile, split and depth the stages that should do best; two depths of each of the most promising tiles,
    the least depth of the first ones, then the others: how deep a block should be the model knows least."""
    best: dict[tuple[int, ...], dict[int, Params]] = {}
    for q in sorted(found, key=lambda q: seconds(region, Blocks.of(q), machine)):
        best.setdefault((q["bm"], q["bn"], q["split"], q["warps"]), {}).setdefault(q["bk"], q)
    tiles = [list(depths.values()) for depths in best.values()]  # both levels in order of their costs
    pairs = [q for tile in tiles for q in tile[:2]]
    return pairs[:MOST // 2] + [tile[-1] for tile in tiles[:4] if len(tile) > 2] + pairs[MOST // 2:]


def _cover(d: int) -> int:
    """The least power of two >= d that a tile has."""
    return max(16, 1 << (d - 1).bit_length())


def _depths(p: Product, depth: int) -> list[int]:
    """Products an iteration: divisors of the channels where there are any, else what wastes least."""
    least = p.least_depth
    sizes = [k for k in (least, 2 * least, 4 * least, 8 * least) if 32 <= k * p.operand.size <= 256 and k >= least]
    exact = [k for k in sizes if depth % k == 0]
    return exact or [k for k in sizes if k < 2 * _cover(depth)] or sizes[:1]


def _worth(split: int, iterations: int, b: Blocks, c: Conv, pixels: int, machine: Gpu) -> bool:
    """True if so many programs for a tile may help: equal parts, and no more programs than twice the chip."""
    tiles = -(-pixels // b.bm) * -(-c.og // b.bn) * c.groups
    return split == 1 or (iterations % split == 0 and tiles * split <= 2 * (machine.multiprocessors or 132))


def seconds(region: Region, b: Blocks, machine: Gpu) -> float:
    """Estimated seconds at the optimum: waves of programs, each limited by products, by its loads, or by their latency;
    at least what the memory takes; and a second launch that reads the parts where sums are split."""
    c, p = conv_of(region), product_of(region)
    sms = machine.multiprocessors or 132
    pixels = max(1, optimum(region, c.pixels))
    programs = -(-pixels // b.bm) * -(-c.og // b.bn) * c.groups * b.split
    steps = math.ceil(b.iterations(c) / b.split)
    rate = RATE.get(p.operand, 1.9e12 if p.precision == "tf32" else 1.7e11)
    used = 0.7 * min(1.0, (b.bm / 128) ** 0.5) * min(1.0, (b.bn / 128) ** 0.3)
    room = (b.bm + b.bn) * b.bk * max(p.operand.size, region.inputs[0].dtype.size)
    resident = max(1, min(-(-programs // sms), (machine.shared_bytes or 101376) // (room * b.stages), 16 // b.warps))
    waves = -(-programs // (sms * resident))
    step = max(resident * b.bm * b.bn * b.bk / (rate * used), resident * room / (_L2 / sms),
               LATENCY / max(1, b.stages - 1))
    if b.flat:  # elements are loaded one by one
        step = max(step, resident * b.bm * b.bk / 30e9)
    step += TURN + 0.05 * LATENCY / max(1, b.stages - 1) + 1e-9 * b.stages
    program = LATENCY + steps * step + b.bm * b.bn * region.output.dtype.size * resident / (_L2 / sms)
    bytes_ = sum(t.dtype.size * optimum(region, product(t.shape)) for t in (*region.inputs, region.output))
    total = LAUNCH + max(waves * program, bytes_ / (machine.bandwidth or 3e12))
    if b.split > 1:
        total += LAUNCH + 0.7e-6 + pixels * c.groups * c.og * b.split * p.sums.size / (0.5 * _L2)
    return total
