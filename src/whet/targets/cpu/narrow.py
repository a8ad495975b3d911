"""Storage types in kernels: 8-bit floats and the types below 8 bits, to and from what is computed with.

A value of a storage type is the byte that lies in memory; arithmetic begins with `decode` and ends with `encode`.
The formats: ONNX's "Float stored in 8 bits", the OCP Microscaling formats (f8e8m0fnu, f6*, f4*). Sources' and
results' meaning is `whet.ir.casts`.
"""

from __future__ import annotations

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.formats import FORMATS, Format
from whet.targets.cpu import vmath
from whet.targets.cpu.llvm import Fn, Val, vec

_ABS, _INF, _NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000  # of f32


def decode(k: Fn, v: Val, dtype: DType) -> Val:
    """Bytes of a storage type as `dtype.computed_as`."""
    if dtype is DType.F8E8M0FNU:
        x = k.cast("zext", v, "i32")
        bits = k.select(x.eq(0), 0x400000, x << 23)  # 2^-127 is a subnormal number
        return _float(k, k.select(x.eq(0xFF), _NAN, bits))
    if dtype in FORMATS:
        return _decode(k, k.cast("zext", v, "i32"), FORMATS[dtype])
    spare = 8 - dtype.bits
    if dtype.computed_as.is_signed:
        return (v << spare) >> spare
    return v & ((1 << dtype.bits) - 1)


def encode(k: Fn, v: Val, source: DType, dtype: DType, saturate: bool = True, round_mode: str = "up") -> Val:
    """An f32 (to a float type) or a value of `source`'s compute type (to an integer type) as bytes of `dtype`."""
    if dtype is DType.F8E8M0FNU:
        return _encode_e8m0(k, v, saturate, round_mode)
    if dtype in FORMATS:
        return _encode(k, v, FORMATS[dtype], saturate)
    if source.is_float:
        v = k.cast("fptosi", k.select(vmath.fabs(k, v) < 2.0**31, v, 0.0), "i32")
    if v.scalar == "i1":
        v = k.cast("zext", v, "i8")
    elif v.scalar != "i8":
        v = k.cast("trunc", v, "i8")
    return v & ((1 << dtype.bits) - 1)


def _float(k: Fn, bits: Val) -> Val:
    return k.bitcast(bits, vec("float", bits.lanes))


def _lshr(k: Fn, v: Val, n: int) -> Val:
    return k.op("lshr", v, k.const(v.ty, n))


def _decode(k: Fn, x: Val, f: Format) -> Val:
    """i32 codes (what lies above the sign is ignored) as f32."""
    size = x & ((1 << f.sign) - 1)
    shift = 23 - f.mantissa
    bits = (size << shift) + ((127 - f.bias) << 23)
    if f.infinity is not None:
        bits = k.select(size < f.infinity, bits, (size << shift) | _INF)
    elif f.nan is not None:
        bits = k.select(size.eq(f.nan), _NAN, bits)
    small = k.cast("sitofp", size, "float") * 2.0 ** (1 - f.bias - f.mantissa)
    bits = k.select(size < (1 << f.mantissa), k.bitcast(small, bits.ty), bits)
    sign = (x & (1 << f.sign)) << (31 - f.sign)
    if f.unsigned_zero:
        return _float(k, k.select((x & 0xFF).eq(1 << f.sign), _NAN | 1 << 31, bits | sign))
    return _float(k, bits | sign)


def _encode(k: Fn, v: Val, f: Format, saturate: bool) -> Val:
    """f32 rounded to nearest even. Numbers below the smallest normal one are rounded by an addition in f32 whose
    result's last bit is the smallest subnormal number."""
    bits = k.bitcast(v, vec("i32", v.lanes))
    size, shift = bits & _ABS, 23 - f.mantissa
    odd = _lshr(k, size, shift) & 1
    code = _lshr(k, size + odd + ((1 << (shift - 1)) - 1), shift) - ((127 - f.bias) << f.mantissa)
    grid = 1 - f.bias - f.mantissa + 23  # exponent
    low = k.bitcast(_float(k, size) + 2.0**grid, bits.ty) - ((127 + grid) << 23)
    code = k.select(size < ((128 - f.bias) << 23), low, code)
    beyond = f.infinity if f.infinity is not None else f.nan
    if f.unsigned_zero:
        beyond = 1 << f.sign
    code = k.select(code > f.largest, f.largest if saturate or beyond is None else beyond, code)
    sign = _lshr(k, bits, 31) << f.sign
    nan = size > _INF
    if f.unsigned_zero:
        code = k.select(code.eq(0) | code.eq(1 << f.sign), code, code | sign)
        code = k.select(nan, 1 << f.sign, code)
    elif f.nan is None:  # there is none: a zero of the other sign
        code = k.select(nan, sign ^ (1 << f.sign), code | sign)
    else:
        code = k.select(nan, f.nan, code) | sign
    return k.cast("trunc", code, "i8")


def _encode_e8m0(k: Fn, v: Val, saturate: bool, round_mode: str) -> Val:
    """The exponent, without the sign; 0xFF for NaN and infinity."""
    bits = k.bitcast(v, vec("i32", v.lanes))
    exponent, fraction = _lshr(k, bits, 23) & 0xFF, bits & 0x7FFFFF
    if round_mode == "down":
        return k.cast("trunc", exponent, "i8")
    up = fraction > 0
    if round_mode == "nearest":
        up = (fraction > 0x400000) | (fraction.eq(0x400000) & (exponent > 0))
    up = up & (exponent < (0xFE if saturate else 0xFF))
    return k.cast("trunc", exponent + k.cast("zext", up, "i32"), "i8")


def constant(value: float, dtype: DType) -> int:
    """The byte of a number in a storage type (which holds it exactly)."""
    return int(np.asarray(value).astype(dtype.computed_as.np).astype(dtype.np).view(np.uint8))
