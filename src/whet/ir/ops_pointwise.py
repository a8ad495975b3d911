"""Pointwise operators: element by element, operands broadcast, one result.

References compute in the operand type, 16-bit floats in float32 and rounded once. Special values
follow IEEE 754 and ONNX: NaN passes through min, max and relu; integer division truncates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.ir.casts import ROUND_MODES, cast
from whet.ir.dtypes import DType
from whet.ir.ops_base import in_f32, need

_NARROW = (DType.F16, DType.BF16)
_FLOATS = tuple(d for d in DType if d.is_float)
_INTS = tuple(d for d in DType if d.is_integer)
_UNSIGNED = tuple(d for d in _INTS if not d.is_signed)
_NUMBERS = _FLOATS + _INTS
_SIGNED = tuple(d for d in _NUMBERS if d.is_signed)
_BOOL = (DType.BOOL,)


@dataclass(frozen=True)
class Pointwise:
    """A pointwise operator.

    reference(*arrays, **attrs) -> array; `result(dtypes, attrs)` -> the result's type, GraphError
    where the operand types do not fit; `attrs`: names and defaults.
    """

    name: str
    arity: int
    reference: Callable[..., np.ndarray]
    result: Callable[[Sequence[DType], Mapping[str, Any]], DType]
    attrs: Mapping[str, Any] = field(default_factory=dict)


# -- types ------------------------------------------------------------------------------------


def _types(name: str, kinds: Sequence[DType], out: DType | None = None) -> Callable[..., DType]:
    """All operands of one type out of `kinds`; the result is of that type, or `out`."""
    def rule(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
        need(len(set(dtypes)) == 1, f"{name} takes operands of one type, not {', '.join(d.value for d in dtypes)}")
        need(dtypes[0] in kinds, f"{name} does not take {dtypes[0].value}")
        return out or dtypes[0]
    return rule


def _where_type(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
    need(dtypes[0] is DType.BOOL, f"where takes a bool condition, not {dtypes[0].value}")
    need(dtypes[1] is dtypes[2], f"where takes branches of one type, not {dtypes[1].value} and {dtypes[2].value}")
    return dtypes[1]


def _cast_type(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
    to = attrs.get("to")
    need(isinstance(to, DType), f"cast needs a DType as `to`, not {to!r}")
    assert isinstance(to, DType)
    need(not to.is_host and not dtypes[0].is_host, "cast does not take strings")
    mode = attrs.get("round_mode", "up")
    need(mode in ROUND_MODES, f"cast rounds {', '.join(ROUND_MODES)}, not {mode}")
    return to


_INTEGERS = (DType.I8, DType.U8)  # codes that `saturate` gives
_CODES = (*_INTEGERS, DType.F8E4M3FN)  # what real numbers are quantized to


def _quantize_type(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
    x, scale, zero = dtypes
    need(x is DType.F32 and scale is DType.F32, f"quantize takes f32 and a scale of f32, not {x.value}, {scale.value}")
    need(zero in _CODES, f"quantize has a zero point of i8, u8 or f8e4m3fn, not {zero.value}")
    return zero


def _dequantize_type(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
    q, scale, zero = dtypes
    need(q in (*_CODES, DType.I32) and zero is q,
         f"dequantize takes i8, u8, f8e4m3fn or i32 and a zero point of that type, not {q.value} and {zero.value}")
    need(scale is DType.F32, f"dequantize has a scale of f32, not {scale.value}")
    return DType.F32


def _saturate_type(dtypes: Sequence[DType], attrs: Mapping[str, Any]) -> DType:
    need(dtypes[0] is DType.F32, f"saturate takes f32, not {dtypes[0].value}")
    to = attrs.get("to")
    need(to in _INTEGERS, f"saturate gives i8 or u8, not {to!r}")
    assert isinstance(to, DType)
    return to


# -- references -------------------------------------------------------------------------------


def _rounded(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """f without NumPy's warnings, and with 16-bit floats computed in float32."""
    @functools.wraps(f)
    def g(*args: np.ndarray, **attrs: Any) -> np.ndarray:
        arrays = [np.asarray(a) for a in args]
        dtypes = [DType.of(a.dtype) for a in arrays]
        with np.errstate(all="ignore"):
            out = np.asarray(f(*(in_f32(a) for a in arrays), **attrs))
            if out.dtype == np.float32:
                narrow = [d for d in dtypes if d in _NARROW]
                if narrow:
                    out = out.astype(narrow[0].np)
            return out
    return g


_ERF_T = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
          7.00332514112805075473e3, 5.55923013010394962768e4)
_ERF_U = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
          2.26290000613890934246e4, 4.92673942608635921086e4)
_ERFC_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
           4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
           9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2)
_ERFC_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
           9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
           1.65666309194161350182e3, 5.57535340817727675546e2)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, computed in float64 to within 2 ulp, in the type of x.

    Cephes' rational approximations (S. L. Moshier, ndtr.c): x*T(x^2)/U(x^2) up to |x| = 1,
    1 - exp(-x^2)*P(|x|)/Q(|x|) beyond.
    """
    v = np.asarray(x, np.float64)
    a = np.abs(v)
    z = np.minimum(a, 1.0) ** 2
    small = v * np.polyval(_ERF_T, z) / np.polyval(_ERF_U, z)
    if not np.any(a > 1):
        return small.astype(x.dtype)
    b = np.clip(a, 1.0, 6.0)  # beyond 6 the result is 1 in float64; np.clip keeps NaN
    large = np.copysign(1 - np.exp(-b * b) * np.polyval(_ERFC_P, b) / np.polyval(_ERFC_Q, b), v)
    return np.where(a > 1, large, small).astype(x.dtype)


def _gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    v = x.astype(np.float64)
    if approximate == "tanh":
        y = 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v ** 3)))
    else:
        y = 0.5 * v * (1 + erf(v / np.sqrt(2)))
    return y.astype(x.dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    one = x.dtype.type(1)
    return one / (one + np.exp(-x))


def _hardswish(x: np.ndarray) -> np.ndarray:
    t = x.dtype.type
    return x * np.maximum(t(0), np.minimum(t(1), x * t(1 / 6) + t(0.5)))


def _isinf(x: np.ndarray, positive: bool = True, negative: bool = True) -> np.ndarray:
    return ((x == np.inf) & bool(positive)) | ((x == -np.inf) & bool(negative))


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "u":
        return a // b
    if a.dtype.kind != "i":
        return a / b
    q = np.floor_divide(a, b)
    return np.where((q * b != a) & ((a < 0) != (b < 0)) & (b != 0), q + 1, q).astype(a.dtype)


def _mod(a: np.ndarray, b: np.ndarray, fmod: bool = False) -> np.ndarray:
    return np.fmod(a, b) if fmod else np.mod(a, b)


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "i":
        return np.power(a, b)
    y = np.power(a, np.maximum(b, 0))
    inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
    return np.where(b < 0, inverse, y).astype(a.dtype)


def _saturate(x: np.ndarray, zero: int = 0, to: DType = DType.U8) -> np.ndarray:
    """clamp(rint(x) + zero) to the range of `to`; NaN becomes the lowest code."""
    info = np.iinfo(to.np)
    y = np.rint(np.where(np.isnan(x), -np.inf, x))
    return (np.clip(y, info.min - zero, info.max - zero) + zero).astype(to.np)


def _quantize(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """clamp(rint(x / scale) + zero) to the range of zero's type; NaN becomes the lowest code.

    8-bit floats: x / scale rounded to them, saturating, NaN as it is (their zero point is 0).
    """
    if zero.dtype == DType.F8E4M3FN.np:
        return cast(x / scale, DType.F8E4M3FN)
    info, z = np.iinfo(zero.dtype), zero.astype(np.float32)
    y = np.rint(x / scale)
    return (np.clip(np.where(np.isnan(y), -np.inf, y), info.min - z, info.max - z) + z).astype(zero.dtype)


def _dequantize(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """(q - zero) * scale in float32."""
    if q.dtype == DType.F8E4M3FN.np:
        return q.astype(np.float32) * scale
    return (q.astype(np.int64) - zero.astype(np.int64)).astype(np.float32) * scale


def _rows() -> dict[str, Pointwise]:
    rows: dict[str, Pointwise] = {}

    def row(name: str, arity: int, ref: Callable[..., np.ndarray], kinds: Sequence[DType],
            out: DType | None = None, attrs: Mapping[str, Any] | None = None) -> None:
        rows[name] = Pointwise(name, arity, _rounded(ref), _types(name, kinds, out), dict(attrs or {}))

    unary: dict[str, Callable[..., np.ndarray]] = {
        "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "reciprocal": lambda x: x.dtype.type(1) / x, "erf": erf,
        "tanh": np.tanh, "sigmoid": _sigmoid, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
        "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
        "acosh": np.arccosh, "atanh": np.arctanh, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
        "silu": lambda x: x * _sigmoid(x), "hardswish": _hardswish,
    }
    for name, ref in unary.items():
        row(name, 1, ref, _FLOATS)
    row("gelu", 1, _gelu, _FLOATS, attrs={"approximate": "none"})
    row("neg", 1, np.negative, _SIGNED)
    row("abs", 1, np.abs, _NUMBERS)
    row("sign", 1, np.sign, _NUMBERS)
    row("relu", 1, lambda x: np.maximum(x, x.dtype.type(0)), _NUMBERS)
    row("isnan", 1, np.isnan, _FLOATS, DType.BOOL)
    row("isinf", 1, _isinf, _FLOATS, DType.BOOL, {"positive": True, "negative": True})
    row("not", 1, np.logical_not, _BOOL)
    row("bitnot", 1, np.invert, _INTS)
    rows["cast"] = Pointwise("cast", 1, _quiet_cast, _cast_type,
                             {"to": None, "saturate": True, "round_mode": "up"})
    binary: dict[str, Callable[..., np.ndarray]] = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _div, "pow": _pow,
        "min": np.minimum, "max": np.maximum}
    for name, ref in binary.items():
        row(name, 2, ref, _NUMBERS)
    row("mod", 2, _mod, _NUMBERS, attrs={"fmod": False})
    for name, ref in {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.items():
        row(name, 2, ref, _BOOL)
    for name, ref in {"bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor}.items():
        row(name, 2, ref, _INTS)
    row("shl", 2, np.left_shift, _UNSIGNED)
    row("shr", 2, np.right_shift, _UNSIGNED)
    for name, ref in {"eq": np.equal, "ne": np.not_equal}.items():
        row(name, 2, ref, _NUMBERS + _BOOL, DType.BOOL)
    for name, ref in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}.items():
        row(name, 2, ref, _NUMBERS, DType.BOOL)
    rows["where"] = Pointwise("where", 3, np.where, _where_type)
    rows["quantize"] = Pointwise("quantize", 3, _rounded(_quantize), _quantize_type)
    rows["dequantize"] = Pointwise("dequantize", 3, _rounded(_dequantize), _dequantize_type)
    rows["saturate"] = Pointwise("saturate", 1, _rounded(_saturate), _saturate_type, {"zero": 0, "to": None})
    return rows


def _quiet_cast(x: np.ndarray, **attrs: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return cast(np.asarray(x), **attrs)


POINTWISE: dict[str, Pointwise] = _rows()
