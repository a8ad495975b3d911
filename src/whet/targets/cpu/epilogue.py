"""Pointwise expressions inside kernels: loads and stores with conversion, and every POINTWISE operator on `Val`s.

A value is computed in its *compute type* (`compute_type`): f32 for f32, bf16 and f16; f64; integers as they are;
bool as i1; storage types as the bytes that they are (`narrow.py`). Unsigned integers are LLVM integers too; the
expression's dtypes say how they compare and divide.

    bias = load_value(k, DType.BF16, p, lanes=16, mask=m)          # hoist out of the row loop what does not change
    y = emit_expr(k, region.epilogue, lambda leaf: acc if leaf.source == ANCHOR else bias)
    store_value(k, y, region.output.dtype, out, mask=m)

A leaf may be a scalar where others are vectors (a per-row or scalar operand): what depends on scalars alone is
computed once per vector loop, not lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf
from whet.targets.cpu import narrow, vmath
from whet.targets.cpu.llvm import Fn, Val, _mangle, vec
from whet.targets.cpu.saturation import saturate

LeafFn = Callable[[Leaf], Val]
_NARROW = (DType.BF16, DType.F16)


def compute_type(dtype: DType) -> str:
    """LLVM's scalar type that values of `dtype` are computed in."""
    if dtype in _NARROW:
        return "float"
    return "i1" if dtype is DType.BOOL else dtype.llvm


# -- memory -----------------------------------------------------------------------------------------


def load_value(k: Fn, dtype: DType, p: Val, lanes: int = 1, mask: Val | None = None, align: int | None = None) -> Val:
    """Load `lanes` consecutive elements into their compute type; masked-off lanes are 0 and are not touched."""
    if dtype is DType.BF16:
        return _from_bf16(k, k.load("i16", p, lanes, mask, align))
    if dtype is DType.F16:
        return k.cast("fpext", k.bitcast(k.load("i16", p, lanes, mask, align), vec("half", lanes)), "float")
    v = k.load(dtype.llvm, p, lanes, mask, align)
    return v.ne(0) if dtype is DType.BOOL else v


def gather_value(k: Fn, dtype: DType, p: Val, stride: Any, lanes: int, mask: Val | None = None) -> Val:
    """Load `lanes` elements that lie `stride` elements apart (an int or an i64) into their compute type."""
    size = dtype.size
    if lanes == 1:
        return load_value(k, dtype, p)
    steps = k.const_vector("i64", range(lanes)) * k.splat(k.i64(stride * size), lanes)
    return gather_at(k, dtype, p, steps, mask)


def gather_at(k: Fn, dtype: DType, p: Val, offsets: Val, mask: Val | None = None) -> Val:
    """Load one element per lane at byte offsets (i64 lanes) from p, into their compute type."""
    lanes = offsets.lanes
    ptrs = k.emit(vec("ptr", lanes), f"getelementptr i8, ptr {p.ref}, {offsets.ty} {offsets.ref}")
    scalar = "i16" if dtype in _NARROW else dtype.llvm
    ty = vec(scalar, lanes)
    raw = k.call(f"llvm.masked.gather.{_mangle(ty)}.v{lanes}p0", ty,
                 [ptrs, k.const(vec("i1", lanes), 1) if mask is None else mask, k.const(ty, 0)],
                 param_attrs={0: f"align {dtype.size}"})
    if dtype is DType.BF16:
        return _from_bf16(k, raw)
    if dtype is DType.F16:
        return k.cast("fpext", k.bitcast(raw, vec("half", lanes)), "float")
    return raw.ne(0) if dtype is DType.BOOL else raw


def store_value(k: Fn, v: Val, dtype: DType, p: Val, mask: Val | None = None, align: int | None = None) -> None:
    """Store a value of `dtype`'s compute type as `dtype`; masked-off lanes are not touched."""
    k.store(to_memory(k, v, dtype), p, mask, align)


def to_memory(k: Fn, v: Val, dtype: DType) -> Val:
    """A value of `dtype`'s compute type as it lies in memory: bf16 and f16 as i16, bool as i8."""
    if dtype is DType.BF16:
        return to_bf16(k, v)
    if dtype is DType.F16:
        return k.bitcast(k.cast("fptrunc", v, "half"), vec("i16", v.lanes))
    return k.cast("zext", v, "i8") if dtype is DType.BOOL else v


def _from_bf16(k: Fn, v: Val) -> Val:
    return k.bitcast(k.cast("zext", v, "i32") << 16, vec("float", v.lanes))


def to_bf16(k: Fn, v: Val) -> Val:
    """f32 to bf16 (as i16), rounded to nearest even, NaN quiet; the native instruction takes subnormals as 0."""
    lanes = v.lanes
    if k.isa.bf16_dot and lanes % 16 == 0 and lanes > 16:
        parts = [to_bf16(k, k.shuffle(v, None, range(i, i + lanes // 2))) for i in (0, lanes // 2)]
        return k.shuffle(parts[0], parts[1], range(lanes))
    if k.isa.bf16_dot and lanes in (8, 16):
        b = k.call(f"llvm.x86.avx512bf16.cvtneps2bf16.{lanes * 32}", vec("bfloat", lanes), [v])
        return k.bitcast(b, vec("i16", lanes))
    return k.cast("trunc", k.op("lshr", _bf16_bits(k, v), k.const(vec("i32", lanes), 16)), "i16")


def _bf16_bits(k: Fn, v: Val) -> Val:
    """v rounded to bf16, in the upper half of 32 bits (the lower half is not zero)."""
    bits = k.bitcast(v, vec("i32", v.lanes))
    odd = k.op("lshr", bits, k.const(bits.ty, 16)) & 1
    return k.select(vmath.is_nan(k, v), bits | 0x400000, bits + odd + 0x7FFF)


def round_to(k: Fn, v: Val, dtype: DType) -> Val:
    """An f32 value rounded to bf16 or f16, as f32."""
    if dtype is DType.BF16 and k.isa.bf16_dot and v.lanes in (8, 16):
        return _from_bf16(k, to_bf16(k, v))
    if dtype is DType.BF16:
        return k.bitcast(_bf16_bits(k, v) & -65536, v.ty)
    if dtype is DType.F16:
        return k.cast("fpext", k.cast("fptrunc", v, "half"), "float")
    return v


# -- expressions --------------------------------------------------------------------------------------


def emit_expr(k: Fn, expr: Expr, leaf: LeafFn, lanes: int | None = None, known: Mapping[int, Val] | None = None,
              rounded: bool = False) -> Val:
    """The expression's value in its compute type. A last cast to bf16 or f16 is left to `store_value`, which
    rounds, unless the value is wanted `rounded`.

    leaf:  a leaf's value in the compute type of the leaf's dtype: a vector, or a scalar for broadcast operands.
    lanes: the result is splat to so many lanes (default: as wide as the widest leaf).
    known: values of terms that were computed before (`emit_terms`).
    """
    last = len(expr.terms) - 1
    final = expr.terms[last]
    if not rounded and isinstance(final, Apply) and final.op == "cast" and final.dtype in _NARROW:
        source = expr.terms[final.args[0]].dtype
        if source is DType.F32 or source is final.dtype:
            last = final.args[0]
    v = emit_terms(k, expr, leaf, (last,), known)[last]
    return v if lanes is None or v.lanes == lanes else k.splat(v, lanes)


def emit_terms(k: Fn, expr: Expr, leaf: LeafFn, wanted: Iterable[int],
               known: Mapping[int, Val] | None = None) -> dict[int, Val]:
    """The values of the wanted terms, by index."""
    done: dict[int, Val] = dict(known or {})
    coarse = _coarse_terms(expr)

    def value(i: int) -> Val:
        if i not in done:
            t = expr.terms[i]
            if isinstance(t, Leaf):
                done[i] = leaf(t)
            elif isinstance(t, Imm):
                done[i] = k.const(compute_type(t.dtype), _immediate(t))
            else:
                done[i] = apply(k, t, [value(a) for a in t.args], [expr.terms[a].dtype for a in t.args],
                                [_immediate(expr.terms[a]) for a in t.args], i in coarse)
        return done[i]

    return {i: value(i) for i in wanted}


def invariant_terms(expr: Expr, invariant: Callable[[Leaf], bool]) -> tuple[int, ...]:
    """The largest subexpressions whose leaves are all invariant: what may be computed before a loop."""
    fixed: list[bool] = []
    for t in expr.terms:
        fixed.append(invariant(t) if isinstance(t, Leaf) else
                     not isinstance(t, Apply) or all(fixed[a] for a in t.args))
    used = {a for t, f in zip(expr.terms, fixed) if isinstance(t, Apply) and not f for a in t.args}
    used.add(len(expr.terms) - 1)
    return tuple(i for i in sorted(used) if fixed[i] and not isinstance(expr.terms[i], Imm))


def _immediate(t: Any) -> Any:
    """A constant's number, in a storage type the byte; None for other terms."""
    if not isinstance(t, Imm):
        return None
    return narrow.constant(t.value, t.dtype) if t.dtype.is_storage else t.value


def _coarse_terms(expr: Expr) -> set[int]:
    """The operators whose results are bf16, or are read only to be rounded to it."""
    readers: dict[int, list[Any]] = {}
    for t in expr.terms:
        for a in t.args if isinstance(t, Apply) else ():
            readers.setdefault(a, []).append(t)
    return {i for i, t in enumerate(expr.terms) if isinstance(t, Apply) and (
        t.dtype is DType.BF16 or (i in readers and all(r.op == "cast" and r.dtype is DType.BF16 for r in readers[i])))}


def apply(k: Fn, t: Apply, args: Sequence[Val], dtypes: Sequence[DType], imms: Sequence[Any],
          coarse: bool = False) -> Val:
    """One operator. `imms`: the Python value of arguments that are constants, else None.

    coarse: the result is about to be rounded to bf16, so that cheaper approximations will do.
    """
    lanes = max(a.lanes for a in args)
    if lanes > 1:
        args = [a if a.lanes == lanes else k.const(vec(a.ty, lanes), imm) if imm is not None else k.splat(a, lanes)
                for a, imm in zip(args, imms)]
    d, op = dtypes[0], t.op
    attrs = dict(t.attrs)
    if op in _FLOAT_UNARY:
        return _FLOAT_UNARY[op](k, args[0])
    if op in _BITWISE:
        return k.op(_BITWISE[op], args[0], args[1])
    if op in _COMPARE:
        return _compare(k, op, args[0], args[1], d)
    match op:
        case "gelu":
            return vmath.gelu(k, args[0], attrs.get("approximate", "none"), coarse)
        case "isinf":
            yes = k.const(vec("i1", lanes), 0)
            if attrs.get("positive", True):
                yes = yes | args[0].eq(vmath.INF)
            return yes | args[0].eq(-vmath.INF) if attrs.get("negative", True) else yes
        case "not":
            return args[0] ^ True
        case "bitnot":
            return args[0] ^ -1
        case "cast":
            return cast(k, args[0], d, t.dtype, attrs.get("saturate", True), attrs.get("round_mode", "up"))
        case "saturate":
            return saturate(k, args[0], attrs["zero"], attrs["to"])
        case "where":
            return k.select(args[0], args[1], args[2])
        case "add":
            return args[0] + args[1]
        case "sub":
            return args[0] - args[1]
        case "mul":
            return k.op("fmul" if args[0].is_float else "mul", args[0], args[1])
        case "min" | "max":
            return extreme(k, op, args[0], args[1], d, imms[0], imms[1])
        case "shl" | "shr":
            y = k.op("shl" if op == "shl" else "lshr", args[0], args[1])
            return k.select(k.cmp("ult", args[1], 8 * d.size), y, 0)
    if d.is_float:
        return _float_op(k, op, args, imms, attrs)
    return _int_op(k, op, args, d, attrs)


def _sign(k: Fn, x: Val) -> Val:
    return k.select(x > 0.0, 1.0, k.select(x < 0.0, k.const(x.ty, -1.0), x))


def _rounding(name: str) -> Callable[[Fn, Val], Val]:
    return lambda k, x: k.intrinsic(f"llvm.{name}", x)


def _hardswish(k: Fn, x: Val) -> Val:
    return x * vmath.fmax(k, 0.0, vmath.fmin(k, 1.0, k.fma(x, 1 / 6, 0.5)))


_FLOAT_UNARY: dict[str, Callable[[Fn, Val], Val]] = {
    "exp": vmath.exp, "log": vmath.log, "sqrt": vmath.sqrt, "reciprocal": lambda k, x: k.const(x.ty, 1.0) / x,
    "erf": vmath.erf, "tanh": vmath.tanh, "sigmoid": vmath.sigmoid, "sin": vmath.sin, "cos": vmath.cos,
    "tan": vmath.tan, "asin": vmath.asin, "acos": vmath.acos, "atan": vmath.atan, "sinh": vmath.sinh,
    "cosh": vmath.cosh, "asinh": vmath.asinh, "acosh": vmath.acosh, "atanh": vmath.atanh, "silu": vmath.silu,
    "hardswish": _hardswish, "floor": _rounding("floor"), "ceil": _rounding("ceil"), "round": _rounding("roundeven"),
    "isnan": vmath.is_nan,
}
_BITWISE = {"and": "and", "or": "or", "xor": "xor", "bitand": "and", "bitor": "or", "bitxor": "xor"}
_COMPARE = {"eq": ("oeq", "eq", "eq"), "ne": ("une", "ne", "ne"), "lt": ("olt", "slt", "ult"),
            "le": ("ole", "sle", "ule"), "gt": ("ogt", "sgt", "ugt"), "ge": ("oge", "sge", "uge")}


def _compare(k: Fn, op: str, a: Val, b: Val, d: DType) -> Val:
    f, s, u = _COMPARE[op]
    return k.cmp(f if d.is_float else s if d.is_signed else u, a, b)


def extreme(k: Fn, op: str, a: Val, b: Val, d: DType, imm_a: Any = None, imm_b: Any = None) -> Val:
    """min or max of two values of dtype d; NaN wins. Constants that are numbers save an instruction."""
    pick = _compare(k, "lt" if op == "min" else "gt", a, b, d)
    if not d.is_float:
        return k.select(pick, a, b)
    f = vmath.fmin if op == "min" else vmath.fmax  # b where either is NaN
    if imm_b is not None and imm_b == imm_b:
        return f(k, b, a)
    y = f(k, a, b)
    return y if imm_a is not None and imm_a == imm_a else k.select(vmath.is_nan(k, a), a, y)


def _float_op(k: Fn, op: str, args: Sequence[Val], imms: Sequence[Any], attrs: Mapping[str, Any]) -> Val:
    x = args[0]
    match op:
        case "neg":
            return -x
        case "abs":
            return vmath.fabs(k, x)
        case "sign":
            return _sign(k, x)
        case "relu":
            return vmath.fmax(k, 0.0, x)
        case "div":
            return x / args[1]
        case "mod":
            return vmath.fmod(k, x, args[1]) if attrs.get("fmod") else vmath.mod(k, x, args[1])
        case "pow":
            return _power(k, x, args[1], imms[1])
    raise InternalError(f"no code for the pointwise operator {op!r}", where="epilogue")


def _power(k: Fn, x: Val, y: Val, exponent: Any) -> Val:
    """x^y, by multiplications for the exponents that models use."""
    if exponent in (2, 3, 4):
        z = x * x
        return z if exponent == 2 else z * x if exponent == 3 else z * z
    if exponent == 1:
        return x
    if exponent == -1:
        return k.const(x.ty, 1.0) / x
    if exponent == 0.5:  # NaN for -inf, as NumPy and ONNX Runtime have it, where C's pow gives inf
        return vmath.sqrt(k, x)
    if exponent == -0.5:
        root = k.select(x.eq(-vmath.INF), vmath.INF, vmath.sqrt(k, x + 0.0))
        return k.const(x.ty, 1.0) / root
    return vmath.pow(k, x, y)


def _int_op(k: Fn, op: str, args: Sequence[Val], d: DType, attrs: Mapping[str, Any]) -> Val:
    x = args[0]
    zero = k.const(x.ty, 0)
    match op:
        case "neg":
            return zero - x
        case "abs":
            return k.select(x < 0, zero - x, x) if d.is_signed else x
        case "sign":
            if not d.is_signed:
                return k.select(x.ne(0), 1, zero)
            return k.select(x > 0, 1, k.select(x < 0, k.const(x.ty, -1), zero))
        case "relu":
            return k.select(x > 0, x, 0) if d.is_signed else x
        case "div" | "mod":
            return _divide(k, op, x, args[1], d, bool(attrs.get("fmod")))
        case "pow":
            return _int_power(k, x, args[1], d)
    raise InternalError(f"no code for the pointwise operator {op!r}", where="epilogue")


def _divide(k: Fn, op: str, a: Val, b: Val, d: DType, fmod: bool) -> Val:
    """Integer division or remainder that never traps: by 0 it gives 0, and minimum / -1 wraps."""
    none = b.eq(0)
    if not d.is_signed:
        y = k.op("udiv" if op == "div" else "urem", a, k.select(none, 1, b))
        return k.select(none, 0, y)
    minus = b.eq(-1)
    safe = k.select(none | minus, 1, b)
    if op == "div":
        y = k.op("sdiv", a, safe)
        return k.select(none, 0, k.select(minus, k.const(a.ty, 0) - y, y))
    r = k.op("srem", a, safe)
    if not fmod:
        r = k.select(r.ne(0) & ((r ^ b) < 0), r + b, r)
    return k.select(none, 0, r)


def _int_power(k: Fn, a: Val, b: Val, d: DType) -> Val:
    """a^b by squaring, wrapping; negative exponents give the rounded inverse."""
    y, base, rest = k.var(a.ty, 1), k.var(a.ty, a), k.var(a.ty, b)
    for _ in k.range(0, 8 * d.size):
        e, x = rest.get(), base.get()
        y.set(k.select((e & 1).ne(0), k.op("mul", y.get(), x), y.get()))
        base.set(k.op("mul", x, x))
        rest.set(k.op("lshr", e, k.const(a.ty, 1)))
    r = y.get()
    if not d.is_signed:
        return r
    odd = k.select((b & 1).ne(0), k.const(a.ty, -1), k.const(a.ty, 1))
    inverse = k.select(a.eq(1), 1, k.select(a.eq(-1), odd, k.const(a.ty, 0)))
    return k.select(b < 0, inverse, r)


def cast(k: Fn, v: Val, src: DType, dst: DType, saturate: bool = True, round_mode: str = "up") -> Val:
    """A value of src's compute type in dst's, rounded as dst is. Floats out of an integer's range saturate.

    saturate, round_mode: as `whet.ir.casts` has them, of storage types alone.
    """
    if src is dst:
        return v
    if src.is_storage:
        v, src = narrow.decode(k, v, src), src.computed_as
    if dst.is_storage:
        if dst.computed_as.is_float:
            v, src = cast(k, v, src, DType.F32), DType.F32
        return narrow.encode(k, v, src, dst, saturate, round_mode)
    want = compute_type(dst)
    if dst is DType.BOOL:
        return v if src is DType.BOOL else v.ne(0)
    if dst.is_float:
        if not src.is_float:
            return round_to(k, k.cast("sitofp" if src.is_signed else "uitofp", v, want), dst)
        if src is DType.F64 and dst is DType.F16:
            v = _to_odd(k, v)
        elif v.scalar != want:
            v = k.cast("fpext" if want == "double" else "fptrunc", v, want)
        return v if src is dst else round_to(k, v, dst)
    if src.is_float:
        return _to_integer(k, v, dst)
    if src is DType.BOOL:
        return k.cast("zext", v, want)
    if src.size == dst.size:
        return v
    if src.size > dst.size:
        return k.cast("trunc", v, want)
    return k.cast("sext" if src.is_signed else "zext", v, want)


def _to_integer(k: Fn, v: Val, dst: DType) -> Val:
    """Truncated towards zero; out of range saturated, NaN 0. (LLVM takes its own saturating conversion of vectors
    apart, lane by lane.)"""
    limits, real = np.iinfo(dst.np), np.float32 if v.scalar == "float" else np.float64
    low, top = float(limits.min), real(limits.max)
    if int(top) > limits.max:  # the greatest float in range
        top = np.nextafter(top, real(0))
    x = k.select(v > low, v, k.const(v.ty, low))
    x = k.select(x < float(top), x, k.const(v.ty, float(top)))
    if limits.min < 0:
        x = k.select(vmath.is_nan(k, v), 0.0, x)
    wide = max(dst.size, 4)
    y = k.cast("fptosi" if dst.is_signed or dst.size < 4 else "fptoui", x, f"i{8 * wide}")
    if int(top) != limits.max:
        y = k.select(v > float(top), int(limits.max), y)
    return y if dst.size == wide else k.cast("trunc", y, dst.llvm)


def _to_odd(k: Fn, v: Val) -> Val:
    """f64 as f32, rounded towards zero and the last bit set where that is not exact: what is then rounded to f16 is
    rounded as if at once (Boldo and Melquiond, "When double rounding is odd")."""
    near = k.cast("fptrunc", v, "float")
    back = k.cast("fpext", near, "double")
    bits = k.bitcast(near, vec("i32", v.lanes))
    bits = k.select(vmath.fabs(k, back) > vmath.fabs(k, v), bits - 1, bits)
    inexact = k.cmp("one", back, v)  # not where v is NaN
    return k.bitcast(k.select(inexact, bits | 1, bits), near.ty)
