"""Storage types in Triton kernels: 8-bit floats and the types below 8 bits, to and from what is computed with.

A value of a storage type is in registers the byte that lies in memory (`uint8`); arithmetic begins with `decode` and
ends with `encode`. All of it is integer arithmetic on i32 and f32, but for f8e4m3fn where the GPU converts it itself
(sm_89 on: `Source.fp8`). Formats: ONNX's "Float stored in 8 bits" and the OCP Microscaling formats; meaning:
`whet.ir.casts`.
"""

from __future__ import annotations

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.formats import FORMATS, Format
from whet.targets.cuda.kernel import Source

_ABS, _INF, _NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000  # of f32


def decode(s: Source, v: str, dtype: DType) -> str:
    """Bytes of a storage type as `dtype.computed_as`; the name of the value."""
    if dtype is DType.F8E4M3FN and s.fp8:
        return s.name_of(f"{v}.to(tl.float8e4nv, bitcast=True).to(tl.float32)")
    x = s.name_of(f"{v}.to(tl.int32) & 0xFF", "code")
    if dtype is DType.F8E8M0FNU:  # 2^-127 is a subnormal number
        return _float(s, f"tl.where({x} == 0xFF, {_NAN}, tl.where({x} == 0, 0x400000, {x} << 23))")
    if dtype in FORMATS:
        return _decode(s, x, FORMATS[dtype])
    if dtype.computed_as.is_signed:
        spare = 32 - dtype.bits
        return s.name_of(f"(({x} << {spare}) >> {spare}).to(tl.int8)")
    return s.name_of(f"({x} & {(1 << dtype.bits) - 1}).to(tl.uint8)")


def encode(s: Source, v: str, source: DType, dtype: DType, saturate: bool = True, round_mode: str = "up") -> str:
    """An f32 (to a float type) or a value of `source`'s compute type (to an integer type) as bytes of `dtype`."""
    if dtype is DType.F8E8M0FNU:
        return _encode_e8m0(s, v, saturate, round_mode)
    if dtype is DType.F8E4M3FN and s.fp8 and saturate:
        return s.name_of(f"{v}.to(tl.float8e4nv).to(tl.uint8, bitcast=True)")
    if dtype in FORMATS:
        return _encode(s, v, FORMATS[dtype], saturate)
    if source.is_float:
        v = s.name_of(f"tl.where(tl.abs({v}) < 2147483648.0, {v}, 0.0).to(tl.int32)")
    return s.name_of(f"({v}.to(tl.int32) & {(1 << dtype.bits) - 1}).to(tl.uint8)")


def constant(value: float, dtype: DType) -> int:
    """The byte of a number in a storage type (which holds it exactly)."""
    return int(np.asarray(value).astype(dtype.computed_as.np).astype(dtype.np).view(np.uint8))


def _float(s: Source, bits: str) -> str:
    return s.name_of(f"({bits}).to(tl.float32, bitcast=True)")


def _decode(s: Source, x: str, f: Format) -> str:
    """i32 codes (what lies above the sign is ignored) as f32."""
    size = s.name_of(f"{x} & {(1 << f.sign) - 1}")
    shift = 23 - f.mantissa
    bits = s.name_of(f"({size} << {shift}) + {(127 - f.bias) << 23}")
    if f.infinity is not None:
        bits = s.name_of(f"tl.where({size} < {f.infinity}, {bits}, ({size} << {shift}) | {_INF})")
    elif f.nan is not None:
        bits = s.name_of(f"tl.where({size} == {f.nan}, {_NAN}, {bits})")
    small = f"({size}.to(tl.float32) * {2.0 ** (1 - f.bias - f.mantissa)!r}).to(tl.int32, bitcast=True)"
    bits = s.name_of(f"tl.where({size} < {1 << f.mantissa}, {small}, {bits})")
    bits = s.name_of(f"{bits} | (({x} >> {f.sign}) << 31)" if f.sign == 7 else
                     f"{bits} | ((({x} >> {f.sign}) & 1) << 31)")
    if f.unsigned_zero:
        bits = f"tl.where({x} == {1 << f.sign}, {(_NAN | 1 << 31) - (1 << 32)}, {bits})"  # with its sign
    return _float(s, bits)


def _encode(s: Source, v: str, f: Format, saturate: bool) -> str:
    """f32 rounded to nearest even. Numbers below the smallest normal one are rounded by an addition in f32 whose
    result's last bit is the smallest subnormal number."""
    bits = s.name_of(f"{v}.to(tl.int32, bitcast=True)", "bits")
    size = s.name_of(f"{bits} & {_ABS}")
    sign = s.name_of(f"(({bits} >> 31) & 1) << {f.sign}")
    shift = 23 - f.mantissa
    code = s.name_of(f"((tl.minimum({size}, {_INF}) + (({size} >> {shift}) & 1) + {(1 << (shift - 1)) - 1}) >> {shift})"
                     f" - {(127 - f.bias) << f.mantissa}", "code")
    grid = 1 - f.bias - f.mantissa + 23  # exponent
    low = s.name_of(f"({size}.to(tl.float32, bitcast=True) + {2.0**grid!r}).to(tl.int32, bitcast=True)"
                    f" - {(127 + grid) << 23}")
    code = s.name_of(f"tl.where({size} < {(128 - f.bias) << 23}, {low}, {code})", "code")
    beyond = 1 << f.sign if f.unsigned_zero else f.infinity if f.infinity is not None else f.nan
    most = f.largest if saturate or beyond is None else beyond
    code = s.name_of(f"tl.where({code} > {f.largest}, {most}, {code})", "code")
    if f.unsigned_zero:
        none = 1 << f.sign
        code = s.name_of(f"tl.where(({code} == 0) | ({code} == {none}), {code}, {code} | {sign})", "code")
        code = f"tl.where({size} > {_INF}, {none}, {code})"
    elif f.nan is None:  # there is none: a zero of the other sign
        code = f"tl.where({size} > {_INF}, {sign} ^ {1 << f.sign}, {code} | {sign})"
    else:
        code = f"tl.where({size} > {_INF}, {f.nan}, {code}) | {sign}"
    return s.name_of(f"({code}).to(tl.uint8)", "code")


def _encode_e8m0(s: Source, v: str, saturate: bool, round_mode: str) -> str:
    """The exponent, without the sign; 0xFF for NaN and infinity."""
    bits = s.name_of(f"{v}.to(tl.int32, bitcast=True)", "bits")
    exponent = s.name_of(f"({bits} >> 23) & 0xFF")
    if round_mode == "down":
        return s.name_of(f"{exponent}.to(tl.uint8)", "code")
    fraction = s.name_of(f"{bits} & 0x7FFFFF")
    up = f"({fraction} > 0)"
    if round_mode == "nearest":
        up = f"(({fraction} > 0x400000) | (({fraction} == 0x400000) & ({exponent} > 0)))"
    last = 0xFE if saturate else 0xFF
    return s.name_of(f"tl.where({up} & ({exponent} < {last}), {exponent} + 1, {exponent}).to(tl.uint8)", "code")
