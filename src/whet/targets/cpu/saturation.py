"""Real numbers to 8-bit codes: clamp(rint(x) + zero), one vector at a time or four in one.

The operator `saturate` of `whet.ir.ops_pointwise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr
from whet.ir.region import Region
from whet.targets.cpu import vmath
from whet.targets.cpu.isa import Isa
from whet.targets.cpu.llvm import Fn, Val, _mangle, vec


@dataclass(frozen=True)
class Rounding:
    """The `saturate` that an expression ends with, and the expression that it takes."""

    before: Expr
    zero: int
    to: DType

    @staticmethod
    def of(e: Expr | None, isa: Isa, lanes: int) -> Rounding | None:
        """None where there is no such end, or four vectors of so many lanes are not to be packed into one."""
        last = e.terms[-1] if e is not None else None
        if e is None or not isinstance(last, Apply) or last.op != "saturate":
            return None
        if isa.name == "neon" or lanes != isa.lanes:
            return None
        attrs = dict(last.attrs)
        return Rounding(Expr(e.terms[:last.args[0] + 1]), attrs["zero"], attrs["to"])

    def four(self, k: Fn, vs: Sequence[Val]) -> Val:
        """Four neighbouring vectors of what `before` gives, as one of codes."""
        return saturate_four(k, vs, self.zero, self.to)


def saturate(k: Fn, v: Val, zero: int, to: DType) -> Val:
    """clamp(rint(v) + zero) to the range of `to` (I8 or U8), ties to even, of f32; NaN gives the lowest code.

    Clamped as floats, where integers of this size are exact; so the conversion never overflows, and the zero point is
    added to what is left of it in 8 bits.
    """
    info = np.iinfo(to.np)
    low, high = k.const(v.ty, float(info.min - zero)), k.const(v.ty, float(info.max - zero))
    v = vmath.fmin(k, vmath.fmax(k, v, low), high)  # low where v is NaN
    i = k.call(f"llvm.lrint.{_mangle(vec('i32', v.lanes))}.{_mangle(v.ty)}", vec("i32", v.lanes), [v])
    return k.cast("trunc", i, "i8") + (zero - 256 if zero > 127 else zero)


def pack_four(k: Fn, vs: Sequence[Val], zero: int, to: DType) -> Val:
    """`saturate` of four vectors of f32 at once, by x86's saturating packs, as one vector of bytes: in every 128-bit
    lane of it there are four codes from that lane of each of them, in order."""
    wide, lanes = k.isa.width == 64, vs[0].lanes
    info, name = np.iinfo(to.np), "llvm.x86.avx512.{}.512" if wide else "llvm.x86.avx2.{}"
    words: list[Val] = []
    for v in vs:
        v = vmath.fmin(k, float(info.max - zero), v)  # what is too low, and NaN, is converted to the least integer
        ty = vec("i32", lanes)
        if wide:
            words.append(k.call("llvm.x86.avx512.mask.cvtps2dq.512", ty,
                                [v, k.const(ty, 0), k.const("i16", -1), k.const("i32", 4)]))
        else:
            words.append(k.call("llvm.x86.avx.cvt.ps2dq.256", ty, [v]))
    halves = [k.call(name.format("packssdw"), vec("i16", 2 * lanes), [words[i], words[i + 1]]) for i in (0, 2)]
    if zero:
        ty = halves[0].ty
        halves = [k.call(f"llvm.sadd.sat.{_mangle(ty)}", ty, [h, k.const(ty, zero)]) for h in halves]
    return k.call(name.format("packuswb" if to is DType.U8 else "packsswb"), vec("i8", 4 * lanes), halves)


def saturate_four(k: Fn, vs: Sequence[Val], zero: int, to: DType) -> Val:
    """`saturate` of four neighbouring vectors of f32, as one vector of bytes."""
    v = pack_four(k, vs, zero, to)
    n, parts = v.lanes // 4, v.lanes // 16
    order = [i % parts * 4 + i // parts for i in range(n)]
    return k.bitcast(k.shuffle(k.bitcast(v, vec("i32", n)), None, order), v.ty)


@dataclass(frozen=True)
class Saturation:
    """The last step of an epilogue that gives bytes: the term that it rounds, its zero point and type."""

    source: int
    zero: int
    to: DType


def saturation_of(region: Region) -> Saturation | None:
    """How a region's epilogue ends in bytes; None if it does not."""
    if region.epilogue is None:
        return None
    terms = region.epilogue.terms
    last = terms[-1]
    if not isinstance(last, Apply) or last.op != "saturate" or region.output.dtype is not last.dtype:
        return None
    at, source = dict(last.attrs), last.args[0]
    before = terms[source]
    if last.dtype is DType.U8 and at["zero"] == 0 and isinstance(before, Apply) and before.op == "relu":
        source = before.args[0]  # negative numbers and NaN become 0 anyway
    return Saturation(source, int(at["zero"]), last.dtype)
