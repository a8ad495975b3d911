"""Pointwise expressions inside Triton kernels: every operator of `ir.ops_pointwise.POINTWISE`.

    y = emit(s, region.epilogue, lambda leaf: acc if leaf.source == ANCHOR else loaded[leaf.source])

Values are computed in f32 for f32, f16 and bf16 (rounded once, at a cast or at the end), in f64 for f64, integers in
their own type (they wrap), bool as int1, storage types as bytes (`narrow`). A leaf comes as it was loaded and the
result leaves in the register type of the expression's dtype: both are `kernel.REGISTER` (else `uint8`).
Leaves may have different shapes (scalar, [1, n], [m, 1], [m, n]): Triton broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf, Term
from whet.targets.cuda import narrow
from whet.targets.cuda.kernel import REGISTER, Source

LeafFn = Callable[[Leaf], str]
NARROW = (DType.F16, DType.BF16)
_BYTE = 0x4B000000  # bits of 2^23, whose lowest byte is worth what it is
ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to the nearest even whole number
_BITS = 0x4B400000  # of ROUND
_FP8 = (DType.F8E4M3FN, DType.F8E5M2)  # that Triton knows as types of registers


def compute_type(dtype: DType) -> str:
    """`tl.`'s name of what values of the type are computed in: float32 for 16-bit floats, uint8 for storage types."""
    if dtype.is_storage:
        return "uint8"
    return "float32" if dtype in NARROW else REGISTER[dtype]


def widen(s: Source, value: str, dtype: DType) -> str:
    """A value as it was loaded, in its compute type."""
    if dtype in NARROW:
        return s.name_of(f"{value}.to(tl.float32)")
    if dtype is DType.BOOL:  # int1 after `index.load`; a byte where a kernel loaded it itself
        return s.name_of(f"({value} != 0)")
    if (dtype in _FP8 and s.memory(dtype) != "u8") or (s.memory(dtype) == "i8" and dtype.is_storage):
        return s.name_of(f"{value}.to(tl.uint8, bitcast=True)")
    return value


def finish(s: Source, value: str, dtype: DType) -> str:
    """A value of the dtype's compute type in its register type, rounded to nearest even."""
    if dtype in NARROW:
        return s.name_of(f"{value}.to(tl.{REGISTER[dtype]})")
    if dtype in _FP8 and s.memory(dtype) != "u8":
        return s.name_of(f"{value}.to(tl.{REGISTER[dtype]}, bitcast=True)")
    if dtype.is_storage and s.memory(dtype) == "i8":
        return s.name_of(f"{value}.to(tl.int8, bitcast=True)")
    return value


def constant(value: Any, dtype: DType) -> str:
    """A scalar of the dtype's compute type."""
    if dtype.is_storage:
        return f"tl.full((), {narrow.constant(value, dtype)}, tl.uint8)"
    if dtype is DType.BOOL:
        return f"tl.full((), {int(bool(value))}, tl.int1)"
    kind = compute_type(dtype)
    if not dtype.is_float:
        return f"tl.full((), {int(value)}, tl.{kind})"
    x = float(np.asarray(value, dtype.np))
    return f"tl.full((), {number(x)}, tl.{kind})"


def number(x: float) -> str:
    """A float as text that Triton reads."""
    return repr(x) if math.isfinite(x) else 'float("nan")' if x != x else 'float("inf")' if x > 0 else '-float("inf")'


def emit(s: Source, e: Expr, leaf: LeafFn, narrow: bool = False) -> str:
    """Appends the lines that compute the expression; the result, in the register type of `e.dtype`. narrow: whoever
    stores it rounds it to 16 bits."""
    last = e.terms[-1]
    if isinstance(last, Leaf):
        return leaf(last) if last.dtype is not DType.BOOL else widen(s, leaf(last), last.dtype)
    return finish(s, emit_wide(s, e, leaf, narrow), e.dtype)


def emit_wide(s: Source, e: Expr, leaf: LeafFn, narrow: bool = False) -> str:
    """Like `emit`, in the compute type; a last rounding from f32 to f16 or bf16 is left to whoever stores."""
    values: dict[int, str] = {}
    read: dict[Leaf, str] = {}
    coarse = _coarse_terms(e, narrow)
    last = len(e.terms) - 1
    final = e.terms[last]
    if isinstance(final, Apply) and final.op == "cast" and final.dtype in NARROW and \
            e.terms[final.args[0]].dtype in (DType.F32, final.dtype):
        last = final.args[0]

    def value(i: int) -> str:
        if i not in values:
            t = e.terms[i]
            if isinstance(t, Leaf):
                if t not in read:
                    read[t] = widen(s, leaf(t), t.dtype)
                values[i] = read[t]
            elif isinstance(t, Imm):
                values[i] = s.name_of(constant(t.value, t.dtype), "c")
            else:
                terms = [e.terms[a] for a in t.args]
                values[i] = apply(s, t, [value(a) for a in t.args], [x.dtype for x in terms],
                                  [x.value if isinstance(x, Imm) else None for x in terms], i in coarse)
        return values[i]

    return value(last)


def _coarse_terms(e: Expr, narrow: bool = False) -> set[int]:
    """The operators whose results are 16-bit floats, or are read only to be rounded to one: there the GPU's own
    approximations of exp and division (2 ulp of f32), and shorter ones of tanh and gelu, do. narrow: the whole is
    rounded to 16 bits; all but tanh and gelu (1e-4 of themselves, which a subtraction could raise) are exact enough,
    and these where they are only scaled."""
    readers: dict[int, list[int]] = {}
    for i, t in enumerate(e.terms):
        for a in t.args if isinstance(t, Apply) else ():
            readers.setdefault(a, []).append(i)
    last = len(e.terms) - 1

    def read_by(i: int) -> list[Term]:
        return [e.terms[r] for r in readers.get(i, [])]

    def rounded(i: int) -> bool:
        return i in readers and all(isinstance(r, Apply) and r.op == "cast" and r.dtype in NARROW for r in read_by(i))

    def scaled(i: int) -> bool:
        return i == last or (all(isinstance(r, Apply) and r.op == "mul" for r in read_by(i))
                             and all(scaled(r) or rounded(r) for r in readers[i]))

    return {i for i, t in enumerate(e.terms) if isinstance(t, Apply) and (
        t.dtype in NARROW or rounded(i) or (narrow and (t.op not in ("tanh", "gelu") or scaled(i))))}


def apply(s: Source, t: Apply, args: Sequence[str], dtypes: Sequence[DType], imms: Sequence[Any] = (None,) * 3,
          coarse: bool = False) -> str:
    """One operator on values of compute types. `imms`: the Python value of arguments that are constants, else None."""
    d, op, attrs = dtypes[0], t.op, dict(t.attrs)
    x = args[0]
    if op in _INFIX:
        return s.name_of(f"{x} {_INFIX[op]} {args[1]}")
    match op:
        case "cast":
            return cast(s, x, d, t.dtype, attrs.get("saturate", True), attrs.get("round_mode", "up"))
        case "where":
            return s.name_of(f"tl.where({x}, {args[1]}, {args[2]})")
        case "min" | "max":
            return extreme(s, op, x, args[1], d)
        case "not":
            return s.name_of(f"({x} == 0)")
        case "bitnot":
            return s.name_of(f"{x} ^ {constant(-1 if d.is_signed else (1 << 8 * d.size) - 1, d)}")
        case "abs":
            return s.name_of(f"tl.abs({x})") if d.is_signed else x
        case "neg":
            return s.name_of(f"-{x}")
        case "shl" | "shr":
            sign = "<<" if op == "shl" else ">>"
            most = 8 * d.size
            return s.name_of(f"tl.where({args[1]} < {most}, {x} {sign} tl.minimum({args[1]}, {most - 1}), "
                             f"tl.zeros_like({x}))")
        case "saturate":
            return _saturate(s, x, attrs["zero"], attrs["to"])
        case "quantize":
            return _quantize(s, x, args[1], args[2], dtypes[2])
        case "dequantize":
            if d.is_storage:
                return s.name_of(f"{narrow.decode(s, x, d)} * {args[1]}")
            wide = "int64" if d is DType.I32 else "int32"
            return s.name_of(f"({x}.to(tl.{wide}) - {args[2]}.to(tl.{wide})).to(tl.float32) * {args[1]}")
    if d.is_float:
        return _float_op(s, op, args, imms, attrs, d is DType.F64, coarse)
    return _int_op(s, op, args, d, attrs)


_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "bitand": "&", "bitor": "|",
          "bitxor": "^", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LIBRARY = {"log": "log", "erf": "erf", "tanh": "tanh", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin",
            "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "acosh": "acosh",
            "atanh": "atanh", "floor": "floor", "ceil": "ceil", "round": "rint"}


def extreme(s: Source, op: str, a: str, b: str, d: DType) -> str:
    """min or max of two values of compute type; NaN wins."""
    return s.name_of(extreme_text(op, a, b, d))


def extreme_text(op: str, a: str, b: str, d: DType) -> str:
    """The text of `extreme`, for combine functions of reductions as well."""
    nan = ", propagate_nan=tl.PropagateNan.ALL" if d.is_float else ""
    return f"tl.{op}imum({a}, {b}{nan})"


def division(a: str, b: str, double: bool = False, coarse: bool = False) -> str:
    """Text of a / b, correctly rounded; `coarse`: to 2 ulp of f32."""
    return f"({a} / {b})" if double or coarse else f"tl.div_rn({a}, {b})"


def exponential(x: str, double: bool = False, coarse: bool = False) -> str:
    """Text of exp(x); `coarse`: 2^(x log2 e) by the GPU's own instruction, a relative error of |x| * 1e-7."""
    return f"tl.exp({x})" if coarse and not double else f"libdevice.exp({x})"


def root(x: str, double: bool = False) -> str:
    """Text of the correctly rounded square root."""
    return f"tl.sqrt({x})" if double else f"tl.sqrt_rn({x})"


def _one_over(s: Source, x: str, double: bool, coarse: bool) -> str:
    one = s.name_of(f"tl.full((), 1.0, tl.float{64 if double else 32})", "c")
    return division(one, x, double, coarse)


def _sigmoid(s: Source, x: str, double: bool, coarse: bool) -> str:
    if coarse and not double:
        e = s.name_of(f"1.0 + libdevice.fast_expf(-{x})")  # in two instructions; 0 for what would be subnormal
        one = s.name_of("tl.full((), 1.0, tl.float32)", "c")
        return s.name_of(f"libdevice.fast_dividef({one}, {e})")  # in two, for e >= 1: 0 beyond 2^126
    e = s.name_of(f"1.0 + {exponential(f'-{x}', double, coarse)}")
    return s.name_of(_one_over(s, e, double, coarse))


def _float_op(s: Source, op: str, args: Sequence[str], imms: Sequence[Any], attrs: Mapping[str, Any], double: bool,
              coarse: bool) -> str:
    x = args[0]
    if op == "tanh" and coarse and not double:
        return _coarse_tanh(s, x)
    if op in _LIBRARY:
        return s.name_of(f"libdevice.{_LIBRARY[op]}({x})")
    match op:
        case "exp":
            return s.name_of(exponential(x, double, coarse))
        case "sqrt":
            return s.name_of(root(x, double))
        case "reciprocal":
            return s.name_of(_one_over(s, x, double, coarse))
        case "div":
            return s.name_of(division(x, args[1], double, coarse))
        case "sigmoid":
            return _sigmoid(s, x, double, coarse)
        case "silu":
            return s.name_of(f"{x} * {_sigmoid(s, x, double, coarse)}")
        case "hardswish":
            kind = DType.F64 if double else DType.F32
            inner = s.name_of(f"{x} * {constant(1 / 6, kind)} + 0.5")
            inner = extreme(s, "min", inner, constant(1.0, kind), kind)
            return s.name_of(f"{x} * {extreme(s, 'max', inner, constant(0.0, kind), kind)}")
        case "gelu":
            return _gelu(s, x, attrs.get("approximate", "none"), double, coarse)
        case "sign":
            return s.name_of(f"tl.where({x} > 0, 1.0, tl.where({x} < 0, -1.0, {x}))")
        case "relu":
            kind = DType.F64 if double else DType.F32
            return extreme(s, "max", x, constant(0.0, kind), kind)
        case "isnan":
            return s.name_of(f"({x} != {x})")
        case "isinf":
            tests = [f'({x} == {sign}float("inf"))' for sign, on in (("", "positive"), ("-", "negative"))
                     if attrs.get(on, True)]
            return s.name_of(" | ".join(tests or [f"({x} != {x}) & ({x} == {x})"]))
        case "mod":
            return _float_mod(s, x, args[1], bool(attrs.get("fmod")))
        case "pow":
            return _power(s, x, args[1], imms[1], double, coarse)
    raise InternalError(f"no code for the pointwise operator {op!r}", where="expr")


def _gelu(s: Source, x: str, approximate: str, double: bool, coarse: bool) -> str:
    kind = DType.F64 if double else DType.F32
    if approximate == "tanh":  # (1 + tanh u) / 2 = sigmoid(2 u)
        a, b = (constant(2 * math.sqrt(2 / math.pi) * c, kind) for c in (1.0, 0.044715))
        u = s.name_of(f"{x} * ({a} + {b} * {x} * {x})")
        return s.name_of(f"{x} * {_sigmoid(s, u, double, coarse)}")
    if coarse and not double:
        return _coarse_gelu(s, x)
    half, scale = constant(0.5, kind), constant(math.sqrt(0.5), kind)
    return s.name_of(f"{half} * {x} * (1.0 + libdevice.erf({x} * {scale}))")


def _coarse_gelu(s: Source, x: str) -> str:
    """x Phi(x) to 1.3e-4 of itself, a quarter of what rounding to f16 may change, with one exponential, no branches.

    log2 Phi(-z) is nearly a parabola: a polynomial of degree 5, fitted for the least greatest error on [0, 5.25].
    Beyond it falls on, so that what remains of the tail, less than 8e-8, goes to 0.
    """
    z = s.name_of(f"tl.abs({x})")
    p = "-0.00028745225"
    for a in ("0.0054953871", "-0.0470835", "-0.46573463", "-1.1484007", "-1.0001791"):
        p = f"({p} * {z} + {a})"
    q = s.name_of(f"tl.exp2({p})")
    return s.name_of(f"{x} * tl.where({x} >= 0, 1.0 - {q}, {q})")


def _coarse_tanh(s: Source, x: str) -> str:
    """tanh to 1e-4 of itself, without branches."""
    t = s.name_of(f"tl.exp(-2.0 * tl.abs({x}))")
    y = s.name_of(f"(1.0 - {t}) / (1.0 + {t})")
    return s.name_of(f"tl.where(tl.abs({x}) < 0.015, {x}, tl.where({x} < 0, -{y}, {y}))")


def _float_mod(s: Source, a: str, b: str, fmod: bool) -> str:
    r = s.name_of(f"libdevice.fmod({a}, {b})")
    if fmod:
        return r
    r = s.name_of(f"tl.where(({r} != 0) & (({r} < 0) != ({b} < 0)), {r} + {b}, {r})")
    return s.name_of(f"tl.where({r} == 0, libdevice.copysign({r}, {b}), {r})")


def _power(s: Source, x: str, y: str, exponent: Any, double: bool, coarse: bool) -> str:
    """x^y, by multiplications for the exponents that models use."""
    if exponent in (2, 3, 4):
        z = s.name_of(f"{x} * {x}")
        return z if exponent == 2 else s.name_of(f"{z} * {x if exponent == 3 else z}")
    if exponent == 1:
        return x
    if exponent == -1:
        return s.name_of(_one_over(s, x, double, coarse))
    if exponent == 0.5:  # NaN for -inf, as NumPy and ONNX Runtime have it, where C's pow gives inf
        return s.name_of(root(x, double))
    if exponent == -0.5:
        r = s.name_of(f'tl.where({x} == -float("inf"), float("inf"), {root(f"({x} + 0.0)", double)})')
        return s.name_of(_one_over(s, r, double, coarse))
    return s.name_of(f"libdevice.pow({x}, {y})")


def _int_op(s: Source, op: str, args: Sequence[str], d: DType, attrs: Mapping[str, Any]) -> str:
    x, kind = args[0], REGISTER[d]
    zero = f"tl.zeros_like({x})"
    match op:
        case "sign":
            below = f" - ({x} < 0).to(tl.{kind})" if d.is_signed else ""
            return s.name_of(f"({x} > 0).to(tl.{kind}){below}")
        case "relu":
            return s.name_of(f"tl.maximum({x}, {zero})") if d.is_signed else x
        case "div" | "mod":
            return _divide(s, op, x, args[1], d, bool(attrs.get("fmod")))
        case "pow":
            return s.name_of(f"{_int_power(s, d)}({x}, {args[1]})")
    raise InternalError(f"no code for the pointwise operator {op!r}", where="expr")


def _divide(s: Source, op: str, a: str, b: str, d: DType, fmod: bool) -> str:
    """Integer division or remainder that never traps: by 0 it gives 0, and minimum / -1 wraps."""
    zero, one = f"tl.zeros_like({a} + {b})", f"(tl.zeros_like({b}) + 1)"
    sign = "//" if op == "div" else "%"
    if not d.is_signed:
        y = s.name_of(f"{a} {sign} tl.where({b} == 0, {one}, {b})")
        return s.name_of(f"tl.where({b} == 0, {zero}, {y})")
    safe = s.name_of(f"tl.where(({b} == 0) | ({b} == -1), {one}, {b})")
    y = s.name_of(f"{a} {sign} {safe}")
    if op == "div":
        return s.name_of(f"tl.where({b} == 0, {zero}, tl.where({b} == -1, -{a}, {y}))")
    if not fmod:
        y = s.name_of(f"tl.where(({y} != 0) & (({y} ^ {b}) < 0), {y} + {b}, {y})")
    return s.name_of(f"tl.where({b} == 0, {zero}, {y})")


def _int_power(s: Source, d: DType) -> str:
    """A function that raises by squaring, wrapping; negative exponents give the rounded inverse."""
    tail = ["    return y"]
    if d.is_signed:
        tail = ["    odd = tl.where((b & 1) != 0, -one, one)",
                "    inverse = tl.where(a == 1, one, tl.where(a == -1, odd, zero))",
                "    return tl.where(b < 0, inverse, y)"]
    return s.helper(f"power_{d.value}", "\n".join([
        f"def power_{d.value}(a, b):",
        "    zero = tl.zeros_like(a + b)", "    one = zero + 1", "    y, base, rest = one, zero + a, zero + b",
        f"    for _ in range({8 * d.size - d.is_signed}):",
        "        y = tl.where((rest & 1) != 0, y * base, y)", "        base = base * base", "        rest = rest >> 1",
        *tail]))


def _saturate(s: Source, x: str, zero: int, to: DType) -> str:
    """clamp(rint(x) + zero) to the range of `to`; NaN becomes the lowest code."""
    info = np.iinfo(to.np)
    return _code(s, x, str(float(info.min - zero)), str(_BITS + int(info.max) - zero), str(zero) if zero else "", to)


def _quantize(s: Source, x: str, scale: str, zero: str, to: DType) -> str:
    """clamp(rint(x / scale) + zero) to the range of zero's type, NaN becomes the lowest code; to 8-bit floats x / scale
    rounded to them, saturating."""
    if to.is_storage:
        return cast(s, s.name_of(division(x, scale)), DType.F32, to)
    info = np.iinfo(to.np)
    z = s.name_of(f"{zero}.to(tl.int32)")
    return _code(s, s.name_of(division(x, scale)), f"{float(info.min)} - {z}.to(tl.float32)",
                 f"{_BITS + int(info.max)} - {z}", z, to)


def _code(s: Source, x: str, low: str, high: str, zero: str, to: DType) -> str:
    """clamp(rint(x)) from `low` to a whole number (of 8 bits and a zero point), plus `zero`.

    Adding 1.5 * 2^23 rounds to whole numbers, ties to even, and leaves them in the lowest bits: one addition, where
    GPUs round and convert at a quarter of its rate or less. What is greater than the greatest, whose bits are `high`,
    has greater bits. The last operation has to be one of integers: ptxas 12.8 stores a byte of a register that an
    operation of floats wrote as that float converted to a byte (F2IP.U8), not as its lowest bits.
    """
    y = s.name_of(f"tl.where({x} > {low}, {x}, {low}) + {ROUND}")
    bits = s.name_of(f"tl.minimum({y}.to(tl.int32, bitcast=True), {high})")
    return s.name_of(f"({f'{bits} + {zero}' if zero else bits}).to(tl.{REGISTER[to]})")


def _float_of_byte(s: Source, v: str, signed: bool) -> str:
    """A byte as float32: the lowest bits of 2^23, which is taken off again. GPUs convert bytes at an eighth of the rate
    of an addition, and Triton takes those that are to be converted from one layout to another in twice as many bits."""
    byte = f"({v} ^ -128).to(tl.uint8, bitcast=True)" if signed else v
    return s.name_of(f"({byte}.to(tl.int32) | {_BYTE}).to(tl.float32, bitcast=True) - {2.0**23 + 128 * signed}")


def cast(s: Source, v: str, src: DType, dst: DType, saturate: bool = True, round_mode: str = "up") -> str:
    """A value of src's compute type in dst's, rounded as dst is.

    Floats out of an integer's range give any value, as `ir.casts` allows. saturate, round_mode: of storage types.
    """
    if src is dst:
        return v
    if src.is_storage:
        v, src = narrow.decode(s, v, src), src.computed_as
    if dst.is_storage:
        if dst.computed_as.is_float:
            v, src = cast(s, v, src, DType.F32), DType.F32
        return narrow.encode(s, v, src, dst, saturate, round_mode)
    if src is dst:  # a storage type's own compute type
        return v
    if dst is DType.BOOL:
        return s.name_of(f"({v} != 0)")
    if dst in NARROW:
        if src is not DType.F64 or dst is DType.BF16:  # as ml_dtypes: to bf16 by way of f32
            v = v if compute_type(src) == "float32" else cast(s, v, src, DType.F32)
        return s.name_of(f"{v}.to(tl.{REGISTER[dst]}).to(tl.float32)")
    if compute_type(src) == compute_type(dst):
        return v
    if src in (DType.I8, DType.U8) and dst is DType.F32:
        return _float_of_byte(s, v, src is DType.I8)
    if src.is_float and dst.is_integer and dst.size < 4:  # NumPy's way: by i32, whose lowest bits remain
        return s.name_of(f"{v}.to(tl.int32).to(tl.{REGISTER[dst]})")
    return s.name_of(f"{v}.to(tl.{compute_type(dst)})")
