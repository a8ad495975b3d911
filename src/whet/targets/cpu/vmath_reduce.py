"""Range reduction of large angles, by M. Payne and R. Hanek's method (SIGNUM Newsletter 18, 1983)."""

from __future__ import annotations

import math

import numpy as np

from whet.targets.cpu.llvm import Fn, Val

LARGE = 2.0**30  # beyond this, three-part Cody-Waite reduction is not enough

# The first 1216 bits of 2/pi, after 64 zero bits.
_TWO_OVER_PI = np.array([
    0x0, 0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561, 0xB7246E3A424DD2E0,
    0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484, 0xE99C7026B45F7E41, 0x3991D639835339F4,
    0x9C845F8BBDF9283B, 0x1FF897FFDE05980F, 0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7, 0x4F463F669E5FEA2D,
    0x7527BAC7EBE5F17B, 0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB], np.uint64)


def large_angles(k: Fn, x: Val, r: Val, n: Val) -> tuple[Val, Val]:
    """(r, n) with the lanes of finite |x| >= 2^30 replaced by x mod pi/2 and the quadrant (mod 4).

    Off the usual path: lane by lane in 128-bit fixed point, absolute error 2^-72.
    """
    a = k.intrinsic("llvm.fabs", x)
    large = (a >= LARGE) & (a < math.inf)
    lanes = x.lanes
    any_large = large if lanes == 1 else k.call(f"llvm.vector.reduce.or.v{lanes}i1", "i1", [large])
    r_var, n_var = k.var(r.ty, r), k.var(n.ty, n)
    with k.if_(any_large):
        xs, rs, ns = (k.local(8 * lanes) for _ in range(3))
        k.store(x, xs)
        k.store(r, rs)
        k.store(n, ns)
        for i in k.range(0, lanes):
            v = k.load("double", xs + i * 8)
            m = k.intrinsic("llvm.fabs", v)
            with k.if_((m >= LARGE) & (m < math.inf)):
                r1, n1 = _one(k, v)
                k.store(r1, rs + i * 8)
                k.store(n1, ns + i * 8)
        r_var.set(k.load("double", rs, lanes))
        n_var.set(k.load("i64", ns, lanes))
    return r_var.get(), n_var.get()


def _one(k: Fn, x: Val) -> tuple[Val, Val]:
    """(r, n) of one finite x >= 2^30 in size."""
    bits = k.bitcast(x, "i64")
    exponent = ((bits >> 52) & 0x7FF) - 1075  # |x| = mantissa * 2^exponent
    mantissa = (bits & (2**52 - 1)) | 2**52
    first = exponent + 62  # of 128 bits of 2/pi: those that weigh less than 4 in the product, down to 2^-126
    table = k.table(_TWO_OVER_PI)
    at = table + (first >> 6) * 8
    shift = first & 63
    w0, w1, w2 = (k.load("i64", at + 8 * i) for i in range(3))
    hi, lo = (k.call("llvm.fshl.i64", "i64", [p, q, shift]) for p, q in ((w0, w1), (w1, w2)))

    def wide(v: Val) -> Val:
        return k.cast("zext", v, "i128")

    product = wide(mantissa) * wide(lo) + (wide(mantissa * hi) << 64)  # mod 2^128; the point is 126 bits up
    n = k.cast("trunc", k.op("lshr", product + 2**125, k.const("i128", 126)), "i64")
    fraction = product - (wide(n) << 126)
    top = k.cast("sitofp", k.cast("trunc", fraction >> 64, "i64"), "double")
    low = k.cast("uitofp", k.cast("trunc", fraction, "i64"), "double")
    r = k.fma(low, 2.0**-64, top) * (math.pi / 2 * 2.0**-62)
    negative = x < 0.0
    return k.select(negative, -r, r), k.select(negative, (-n) & 3, n & 3)
