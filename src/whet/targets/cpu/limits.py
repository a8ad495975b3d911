"""What the hardware can do at most: kernels that only multiply, and kernels that only move memory.

A measured figure is worth little without them: benchmarks divide by these.
"""

from __future__ import annotations

import numpy as np

from whet.targets.base import Implementation, In, Kernel, Out, Step
from whet.targets.cpu.args import NAME, Args, finish
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val, vec
from whet.targets.cpu.microkernel import Amx

ROUNDS = 4096  # per tile
STREAM = 1 << 18  # bytes per tile of the stream kernels


def fma_peak(isa: Isa) -> tuple[Kernel, int]:
    """(kernel, floating-point operations per tile): independent fp32 multiply-adds. No arguments."""
    k = Fn(NAME, isa)
    chains = isa.registers - 4
    ty = vec("float", isa.lanes)
    for _ in k.range(k.begin, k.end):
        acc = [k.var(ty, float(i)) for i in range(chains)]  # all different, or they would be merged
        a, b = k.var(ty, 1.0), k.var(ty, 0.5)
        for _ in k.range(0, ROUNDS):
            for v in acc:
                v.set(k.fma(a.get(), b.get(), v.get()))
            a.set(_opaque(a.get()))
        total = acc[0].get()
        for v in acc[1:]:
            total = total + v.get()
        k.store(total, k.scratch, align=isa.width)
    return finish(k, "fma_peak", isa.width), ROUNDS * chains * isa.lanes * 2


def _opaque(v: Val) -> Val:
    """The same value, through an empty assembly statement that the optimizer cannot see into."""
    register = "w" if v.fn.isa.name == "neon" else "v"
    return v.fn.emit(v.ty, f'call {v.ty} asm sideeffect "", "={register},0"({v.ty} {v.ref})')


def bf16_dot_peak(isa: Isa) -> tuple[Kernel, int]:
    """(kernel, floating-point operations per tile): independent bf16 dot products. Needs `isa.bf16_dot`."""
    k = Fn(NAME, isa)
    chains = isa.registers - 4
    ty, pairs = vec("float", 16), vec("bfloat", 32)
    for _ in k.range(k.begin, k.end):
        acc = [k.var(ty, float(i)) for i in range(chains)]  # all different, or they would be merged
        a = k.var(pairs, 1.0)
        for _ in k.range(0, ROUNDS):
            for v in acc:
                v.set(k.call("llvm.x86.avx512bf16.dpbf16ps.512", ty, [v.get(), a.get(), k.const(pairs, 0.5)]))
            a.set(_opaque(a.get()))
        total = acc[0].get()
        for v in acc[1:]:
            total = total + v.get()
        k.store(total, k.scratch, align=64)
    return finish(k, "bf16_dot_peak", 64), ROUNDS * chains * 16 * 4


def int8_dot_peak(isa: Isa) -> tuple[Kernel, int]:
    """(kernel, operations per tile): independent vpdpbusd of random bytes. Needs `isa.vnni` or `isa.avx_vnni`."""
    k = Fn(NAME, isa)
    chains, lanes = isa.registers - 4, isa.lanes
    ty = vec("i32", lanes)
    data = k.table(np.random.default_rng(0).integers(0, 256, (2, isa.width), np.uint8))
    for _ in k.range(k.begin, k.end):
        acc = [k.var(ty, i) for i in range(chains)]  # all different, or they would be merged
        a, b = (k.var(ty, k.load("i32", data + i * isa.width, lanes)) for i in range(2))
        for _ in k.range(0, ROUNDS):
            for v in acc:
                v.set(k.call(f"llvm.x86.avx512.vpdpbusd.{8 * isa.width}", ty, [v.get(), a.get(), b.get()]))
            a.set(_opaque(a.get()))
        total = acc[0].get()
        for v in acc[1:]:
            total = total + v.get()
        k.store(total, k.scratch, align=isa.width)
    return finish(k, "int8_dot_peak", isa.width), ROUNDS * chains * lanes * 8


def amx_peak(isa: Isa, instruction: str = "tdpbf16ps") -> tuple[Kernel, int]:
    """(kernel, operations per tile): tile products with nothing loaded, of bf16 (`tdpbf16ps`, needs `isa.amx_bf16`) or
    of bytes (`tdpbusd`, needs `isa.amx_int8`).

    The operands are random numbers: on zeros the unit runs up to twice as fast, which no product of real data can.
    """
    k = Fn(NAME, isa)
    amx = Amx(k, instruction)
    data = np.random.default_rng(0).standard_normal(4 * 512).astype(np.float32)
    operands = k.table((data.view(np.uint32) >> 16).astype(np.uint16))
    for _ in k.range(k.begin, k.end):
        amx.zero(range(4))
        for t in range(4):
            amx.load(4 + t, operands + t * 1024, 64)
        for _ in k.range(0, ROUNDS):
            for c in range(4):
                amx.product(c, 4 + c // 2, 6 + c % 2)
    amx.release()
    return finish(k, "amx_peak"), ROUNDS * 4 * 16 * 16 * (32 if instruction == "tdpbf16ps" else 64) * 2


def stream(isa: Isa, kind: str) -> tuple[Kernel, int]:
    """(kernel, bytes moved per tile). Argument 0: In(0), argument 1: Out(0), each of STREAM bytes per tile.

    kind: `read` (a sum of what is read), `copy`, or `write`.
    """
    k = Fn(NAME, isa)
    args = Args(k)
    src, dst = args.pointer(In(0)), args.pointer(Out(0))
    w, lanes = isa.width, isa.lanes
    for t in k.range(k.begin, k.end):
        at = t * STREAM
        sums = [k.var(vec("float", lanes), 0.0) for _ in range(8)]
        for i in k.range(0, STREAM, 8 * w):
            for u, s in enumerate(sums):
                if kind != "write":
                    v = k.load("float", src + at + i + u * w, lanes, align=w)
                if kind == "read":
                    s.set(s.get() + v)
                elif kind == "copy":
                    k.store(v, dst + at + i + u * w, align=w)
                else:
                    k.store(k.const(vec("float", lanes), 0.0), dst + at + i + u * w, align=w)
        if kind == "read":
            total = sums[0].get()
            for s in sums[1:]:
                total = total + s.get()
            k.store(total, k.scratch, align=w)
    return finish(k, f"stream_{kind}", w), STREAM * (2 if kind == "copy" else 1)


def as_implementation(kernel: Kernel, tiles: int) -> Implementation:
    """The kernel as a region's implementation, for the machinery that runs those."""
    return Implementation((Step(kernel, (In(0), Out(0)), tiles),))

