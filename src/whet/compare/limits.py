"""What this machine can do at most, measured on the runtime's own threads: the denominator of every "fraction"."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from whet.plan import PlanData
from whet.plan.data import ArenaArg, NativeStep
from whet.plan.program import straight
from whet.runtime.engine import load_data
from whet.targets.base import Kernel
from whet.targets.cpu import limits
from whet.targets.cpu.target import CpuTarget

SECONDS = 0.2  # of measuring, for each kind
TILES = 64  # of arithmetic, per thread: some milliseconds
STREAM_BYTES = 128 << 20  # of each of the two buffers that are copied: more than caches hold


@dataclass(frozen=True)
class Limits:
    """Rates of all threads together: operations (a multiply-add is two), and bytes copied (read and written), per
    second. `int8` is the best of the machine, `vnni` that of its vector dot products of bytes alone."""

    fp32: float
    bf16: float
    copy: float
    int8: float
    vnni: float

    def flops(self, precision: str) -> float:
        """The rate for products of a precision: `fp32`, `bf16` or `int8`."""
        return {"bf16": self.bf16, "int8": self.int8}.get(precision, self.fp32)


def measured_limits(threads: int, seconds: float | None = None) -> Limits:
    """Rates on `threads` threads: the best of several short runs of bare loops, `seconds` (SECONDS) of each kind.

    `bf16` is the better of AMX tiles and AVX-512 dot products, `int8` of AMX tiles and VNNI; where the CPU has neither,
    fp32's rate stands for it.
    """
    seconds = SECONDS if seconds is None else seconds
    target = CpuTarget.of_host(threads)
    isa = target.isa
    fp32 = _arithmetic(target, *limits.fma_peak(isa), seconds)
    bf16, vnni, int8 = [fp32], [fp32], [fp32]
    if isa.bf16_dot:
        bf16.append(_arithmetic(target, *limits.bf16_dot_peak(isa), seconds))
    if isa.amx_bf16:
        bf16.append(_arithmetic(target, *limits.amx_peak(isa), seconds))
    if isa.vnni or isa.avx_vnni:
        vnni.append(_arithmetic(target, *limits.int8_dot_peak(isa), seconds))
    if isa.amx_int8:
        int8.append(_arithmetic(target, *limits.amx_peak(isa, "tdpbusd"), seconds))
    return Limits(fp32, max(bf16), _copy(target, seconds), max(int8 + vnni), max(vnni))


def _arithmetic(target: CpuTarget, kernel: Kernel, amount: int, seconds: float) -> float:
    tiles = TILES * target.threads
    return amount * tiles / _least(target, kernel, [NativeStep(kernel.symbol, (), tiles)], 0, seconds)


def _copy(target: CpuTarget, seconds: float) -> float:
    # There and back, so that both buffers are written: pages that never were all map to one page of zeros.
    kernel, amount = limits.stream(target.isa, "copy")
    tiles = STREAM_BYTES // limits.STREAM
    here, there = ArenaArg(0), ArenaArg(STREAM_BYTES)
    steps = [NativeStep(kernel.symbol, args, tiles) for args in ((here, there), (there, here))]
    return 2 * amount * tiles / _least(target, kernel, steps, 2 * STREAM_BYTES, seconds)


def _least(target: CpuTarget, kernel: Kernel, steps: Sequence[NativeStep], arena: int, seconds: float) -> float:
    """Least seconds of a run of the steps."""
    linked = target.link(target.compile(limits.as_implementation(kernel, 1)))
    data = PlanData([straight([], [], {}, [s.label for s in steps], arena)], steps, {}, linked.code, linked.symbols,
                    kernel.scratch_bytes, target.threads, target.isa.arch, target.isa.name,
                    sorted(target.isa.features))
    with load_data(data, target.threads) as engine, engine.context() as context:
        run = context.runner([], [])
        run()
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return best
