"""Elementary functions as emitted code: no libm, any number of lanes, f32 and f64.

Every function takes and gives a `Val` of float or double (scalar or vector) and follows C99 Annex F
for NaN, infinities and signed zeros, except where its docstring says otherwise. Errors, measured
against mpmath over the whole range, in units in the last place:

    f32: exp 1, log 1, tanh 4.6, erf 4.6, sigmoid 2.5, the others (computed in f64) 0.51
    f64: exp 1, log 2, atan 2, sin/cos 2, tanh 3, erf 2, hyperbolic and inverse 4; pow 400 (relative 1e-13)

A lane's result does not depend on the number of lanes. Polynomials are Chebyshev or Lawson fits to the functions
named beside them; the f32 exp, log schemes are those of S. L. Moshier's Cephes, with a shorter exp polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from whet.targets.cpu.llvm import Fn, Val
from whet.targets.cpu.vmath_reduce import large_angles

INF = math.inf
NAN = math.nan
LN2 = math.log(2.0)


# -- building blocks ----------------------------------------------------------------------------


def horner(k: Fn, coefficients: Sequence[float], x: Val) -> Val:
    """The polynomial with these coefficients, highest power first."""
    y = k.const(x.ty, coefficients[0])
    for c in coefficients[1:]:
        y = k.fma(y, x, c)
    return y


def fmin(k: Fn, a: object, b: Val) -> Val:
    """The smaller; b where either is NaN (one instruction on x86)."""
    a_ = k.coerce(a, b.ty)
    return k.select(a_ < b, a_, b)


def fmax(k: Fn, a: object, b: Val) -> Val:
    """The larger; b where either is NaN (one instruction on x86)."""
    a_ = k.coerce(a, b.ty)
    return k.select(a_ > b, a_, b)


def fabs(k: Fn, x: Val) -> Val:
    return k.intrinsic("llvm.fabs", x)


def copysign(k: Fn, x: Val, sign: Val) -> Val:
    return k.intrinsic("llvm.copysign", x, sign)


def sqrt(k: Fn, x: Val) -> Val:
    return k.intrinsic("llvm.sqrt", x)


def is_nan(k: Fn, x: Val) -> Val:
    return k.cmp("uno", x, x)


def int_type(x: Val) -> str:
    """The integer type with the lanes and width of a float type."""
    s = "i32" if x.scalar == "float" else "i64"
    return s if x.lanes == 1 else f"<{x.lanes} x {s}>"


def _clamp(k: Fn, x: Val, lo: float, hi: float) -> Val:
    return fmax(k, lo, fmin(k, hi, x))


def _power_of_two(k: Fn, n: Val, ty: str) -> Val:
    """2^n for integer n within the normal exponents."""
    bits, bias = (23, 127) if n.scalar == "i32" else (52, 1023)
    return k.bitcast((n + bias) << bits, ty)


def divide(k: Fn, n: Val, d: Val) -> Val:
    """n / d to 1 ulp for finite n and normal, finite d: for callers that keep within that.

    AVX-512 takes a 14-bit reciprocal and one Newton step, a third of vdivps' time.
    """
    if k.isa.name != "avx512" or d.scalar != "float":
        return n / d
    r = _reciprocal14(k, d)
    q = n * r
    return k.fma(k.fma(-q, d, n), r, q)


def _reciprocal14(k: Fn, d: Val) -> Val:
    n = d.lanes
    if n > 16:
        even = d if n % 2 == 0 else k.shuffle(d, None, [*range(n), n - 1])
        h = even.lanes // 2
        halves = [_reciprocal14(k, k.shuffle(even, None, range(i, i + h))) for i in (0, h)]
        return k.shuffle(halves[0], halves[1], range(n))
    width = next(w for w in (4, 8, 16) if w >= n)
    if n == width:
        wide = d
    else:
        wide = k.splat(d, width) if n == 1 else k.shuffle(d, None, [i if i < n else 0 for i in range(width)])
    everything = k.const("i16" if width == 16 else "i8", -1)
    r = k.call(f"llvm.x86.avx512.rcp14.ps.{width * 32}", wide.ty, [wide, k.const(wide.ty, 0.0), everything])
    if n == 1:
        return k.extract(r, 0)
    return r if n == width else k.shuffle(r, None, range(n))


def _in_f64(f: Callable[[Fn, Val], Val]) -> Callable[[Fn, Val], Val]:
    """f for f32 too, computed in f64 and rounded once."""
    def g(k: Fn, x: Val) -> Val:
        if x.scalar == "float":
            return k.cast("fptrunc", f(k, k.cast("fpext", x, "double")), "float")
        return f(k, x)

    g.__doc__ = f.__doc__
    return g


# -- exponential and logarithm --------------------------------------------------------------------

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2
_EXP_F32: Sequence[float] = (0.001392617611993558, 0.008363173074513711, 0.041666554662050534, 0.1666657702559799, 0.5)
_EXP_F64: Sequence[float] = (
    2.0914679376583935e-09, 2.510520637395701e-08, 2.7557273661348637e-07, 2.7557255425746435e-06,
    2.4801587325533363e-05, 0.00019841269874800493, 0.0013888888888883752, 0.008333333333326141,
    0.04166666666666667, 0.1666666666666667, 0.5)
# (log(1+t) - t + t^2/2) / t^3 on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG_F32 = (0.06971611471451178, -0.11479733846637635, 0.1168541992348674, -0.12425687331451106, 0.1424905764569748,
            -0.16667802319501254, 0.200007157488921, -0.24999996957950882, 0.33333331180030046)
# (log((1+s)/(1-s)) - 2s) / s^3, in s^2 on [0, 0.0295]
_LOG_F64 = (0.13089629160674623, 0.13268485680654427, 0.1538625044794019, 0.18181795442371984, 0.2222222239356661,
            0.2857142857079543, 0.4000000000000089, 0.6666666666666666)
_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # hi * n is exact in f64


def _exp_parts(k: Fn, x: Val) -> tuple[Val, Val, Val, Val]:
    """x = n ln 2 + r: (r, n as float, n as integer, (exp(r) - 1 - r) / r^2). x within a few thousand."""
    if x.scalar == "float":
        magic, hi = 12582912.0, 0.693147182464599609375
        lo, poly = LN2 - hi, _EXP_F32
    else:
        magic, hi, lo, poly = 6755399441055744.0, _LN2_HI, _LN2_LO, _EXP_F64
    t = k.fma(x, 1 / LN2, magic)  # round to nearest by pushing the fraction out of the mantissa
    n = t - magic
    r = k.fma(n, -lo, k.fma(n, -hi, x))
    ity = int_type(x)
    ni = k.bitcast(t, ity) - k.bitcast(k.const(x.ty, magic), ity)
    return r, n, ni, horner(k, poly, r)


def exp(k: Fn, x: Val) -> Val:
    """e^x; gradual underflow, overflow to infinity."""
    x = _clamp(k, x, -104.0, 89.0) if x.scalar == "float" else _clamp(k, x, -746.0, 710.0)
    r, n, ni, p = _exp_parts(k, x)
    y = k.fma(p, r * r, r) + 1.0
    if _scales(k, x):  # the same bits as below
        return _scale(k, y, n)
    half = ni >> 1  # 2^n may be out of range where y * 2^n is not: scale in two steps
    return y * _power_of_two(k, half, x.ty) * _power_of_two(k, ni - half, x.ty)


def _scales(k: Fn, x: Val) -> bool:
    """True where one instruction multiplies by 2^n, whatever n (AVX-512)."""
    return k.isa.name == "avx512" and x.ty == "<16 x float>"


def _scale(k: Fn, y: Val, n: Val) -> Val:
    return k.call("llvm.x86.avx512.mask.scalef.ps.512", y.ty,
                  [y, n, k.const(y.ty, 0.0), k.const("i16", -1), k.const("i32", 4)])


def exp_negative(k: Fn, x: Val) -> Val:
    """e^x for x <= 0 (softmax): -inf gives 0, and so do results below the normal numbers (f32).

    Arithmetic on subnormal numbers costs over a hundred cycles: with masks of -100, attention would take ten times
    as long.
    """
    if x.scalar != "float":
        return exp(k, x)
    under = x < -87.336544
    if _scales(k, x):
        r, n, _, p = _exp_parts(k, x)
        return k.select(under, 0.0, _scale(k, k.fma(p, r * r, r) + 1.0, n))
    r, _, ni, p = _exp_parts(k, fmax(k, -87.336544, x))
    y = (k.fma(p, r * r, r) + 1.0) * _power_of_two(k, ni, x.ty)
    return k.select(under, 0.0, y)


@_in_f64
def expm1(k: Fn, x: Val) -> Val:
    """e^x - 1, accurate near 0."""
    c = _clamp(k, x, -60.0, 709.782712893384)
    r, _, ni, p = _exp_parts(k, c)
    half = _power_of_two(k, ni - 1, x.ty)  # 2^1024 is out of range: work at half the scale
    y = k.fma(half, k.fma(p, r * r, r), half - 0.5) * 2.0
    return k.select(x > 709.782712893384, INF, k.select(x.eq(0.0), x, y))


def log(k: Fn, x: Val) -> Val:
    """Natural logarithm; subnormal arguments are taken exactly."""
    f32 = x.scalar == "float"
    ity = int_type(x)
    smallest, up, bits, root_half = (2.0**-126, 23, 23, 0x3F3504F3) if f32 else (2.0**-1022, 54, 52, 0x3FE6A09E667F3BCD)
    tiny = x < smallest
    i = k.bitcast(k.select(tiny, x * 2.0**up, x), ity)
    e = (i - root_half) >> bits
    m = k.bitcast(i - (e << bits), x.ty)  # [sqrt(1/2), sqrt(2))
    n = k.cast("sitofp", e, x.scalar) + k.select(tiny, k.const(x.ty, -float(up)), k.const(x.ty, 0.0))
    t = m - 1.0
    if f32:
        z = t * t
        y = k.fma(n, -2.12194440e-4, horner(k, _LOG_F32, t) * t * z)
        y = t + k.fma(z, -0.5, y)
        y = k.fma(n, 0.693359375, y)
    else:
        s = t / (m + 1.0)
        z = s * s
        y = k.fma(n, _LN2_LO, horner(k, _LOG_F64, z) * z * s)
        y = k.fma(n, _LN2_HI, k.fma(s, 2.0, y))
    y = k.select(x > 0.0, y, k.select(x.eq(0.0), k.const(x.ty, -INF), k.const(x.ty, NAN)))
    return k.select(x.eq(INF), x, y)


@_in_f64
def log1p(k: Fn, x: Val) -> Val:
    """log(1 + x), accurate near 0 (W. Kahan's correction of the rounded sum)."""
    u = x + 1.0
    y = log(k, u) + (x - (u - 1.0)) / u
    y = k.select(x > 2.0**54, log(k, x), y)
    y = k.select(x.eq(-1.0), k.const(x.ty, -INF), y)
    return k.select(x.eq(0.0), x, y)


# -- sigmoids ---------------------------------------------------------------------------------------

# tanh(x)/x and erf(x)/x as ratios of polynomials in x^2, on |x| <= 9.02 and |x| <= 3.93; beyond, the result is 1 in f32
_TANH_P = (1.331905963297686e-08, 2.0583474906743504e-05, 0.003494034521281719, 0.13379718363285065, 1.0)
_TANH_Q = (7.762021141388686e-07, 0.00032830919371917844, 0.025871075689792633, 0.46713030338287354, 1.0)
_ERF_P = (2.041965444732341e-06, 0.00028480892069637775, 0.0037796362303197384, 0.05279037728905678,
          0.1907844841480255, 1.1283791065216064)
_ERF_Q = (3.8004014641046524e-05, 0.00116521876771003, 0.014997492544353008, 0.1142577975988388,
          0.5024110674858093, 1.0)
_ERF_BOUND = 3.93
_GELU_BOUND = 5.543731212615967  # where the ratio below is exactly 1 as rounded, so that gelu(-large) is 0
# (bound, P): Phi(x) - 1/2 = x P(x^2) on |x| <= bound, where it is exactly 1/2, to 3e-5; the same by tanh
_GELU = (4.05, (-1.3611716880961202e-09, 1.0926672710894676e-07, -3.820841611197231e-06, 7.748634536014899e-05,
                -0.0010290574800857761, 0.009606497774194063, -0.06609823278682973, 0.3988186754120341))
_GELU_TANH = (3.95, (-1.7930545177025178e-09, 1.360661555451366e-07, -4.497901628205061e-06, 8.639849281347949e-05,
                     -0.0010934140234136972, 0.009846049833337941, -0.06644463942367419, 0.39882723194584047))
# erf(x)/x - 1 in x^2 on [0, 1]; exp(x^2) erfc(x) in (x - 3)/(x + 3) for x in [1, 7]
_ERF_F64 = (-4.230945824295338e-12, 8.709045129053106e-11, -1.216456005728345e-09, 1.4792401209404813e-08,
            -1.6364642158167616e-07, 1.6462045441468418e-06, -1.4925647567519332e-05, 0.00012055332902888736,
            -0.000854832702193483, 0.0052239776254232985, -0.02686617064512984, 0.1128379167095512,
            -0.37612638903183754, 0.1283791670955126)
_ERFCX_F64 = (6.6809716201198925e-09, 4.173658101856142e-08, 2.3761129085372383e-08, -2.3348799525022882e-07,
              -2.92369016877282e-07, 1.2523751129064163e-06, 2.1197336375747383e-06, -7.97812301137101e-06,
              -1.2860469601919451e-05, 6.405655405472746e-05, 4.525529695008211e-05, -0.0005970619483568738,
              0.0007077464389672487, 0.004269136332829388, -0.0243924993186724, 0.07166583719797841,
              -0.1501159365007772, 0.24560380171233087, -0.3262335600430372, 0.17900115118138996)


def _ratio(k: Fn, x: Val, bound: float, p: Sequence[float], q: Sequence[float]) -> Val:
    x = _clamp(k, x, -bound, bound)
    z = x * x
    return _clamp(k, divide(k, x * horner(k, p, z), horner(k, q, z)), -1.0, 1.0)


def tanh(k: Fn, x: Val) -> Val:
    """Hyperbolic tangent."""
    if x.scalar == "float":
        return _ratio(k, x, 9.02, _TANH_P, _TANH_Q)
    e = expm1(k, fmin(k, 40.0, fabs(k, x) * 2.0))
    return copysign(k, e / (e + 2.0), x)


def erf(k: Fn, x: Val) -> Val:
    """The error function."""
    if x.scalar == "float":
        return _ratio(k, x, _ERF_BOUND, _ERF_P, _ERF_Q)
    a = fabs(k, x)
    small = k.fma(horner(k, _ERF_F64, a * a), x, x)
    b = fmin(k, 6.5, a)
    tail = exp(k, -(b * b)) * horner(k, _ERFCX_F64, (b - 3.0) / (b + 3.0))
    return k.select(a < 1.0, small, copysign(k, k.const(x.ty, 1.0) - tail, x))


def sigmoid(k: Fn, x: Val) -> Val:
    """1 / (1 + exp(-x)); results below the normal numbers may be 0."""
    d = exp(k, -x) + 1.0
    one = k.const(x.ty, 1.0)
    if k.isa.name != "avx512" or x.scalar != "float":
        return one / d
    return k.select(d > 2.0**126, 0.0, divide(k, one, d))


def gelu(k: Fn, x: Val, approximate: str = "none", coarse: bool = False) -> Val:
    """x Phi(x) by erf, or its approximation by tanh (D. Hendrycks and K. Gimpel, arXiv:1606.08415).

    coarse: half the instructions and an absolute error of 3e-5 |x|, for results that are rounded to bf16 (f32 only).
    """
    h = x * 0.5
    if coarse and x.scalar == "float":
        bound, odd = _GELU_TANH if approximate == "tanh" else _GELU
        c = _clamp(k, x, -bound, bound)
        return k.fma(x, c * horner(k, odd, c * c), h)
    if approximate == "tanh":
        s = math.sqrt(2 / math.pi)
        t = tanh(k, k.fma(x * x, s * 0.044715, s) * x)
    elif x.scalar == "float":
        c = _clamp(k, x, -_GELU_BOUND, _GELU_BOUND)
        z = c * c
        p, q = ([v * f * 0.5**i for i, v in zip(range(len(cs) - 1, -1, -1), cs)]
                for cs, f in ((_ERF_P, math.sqrt(0.5)), (_ERF_Q, 1.0)))  # of x / sqrt(2)
        t = divide(k, c * horner(k, p, z), horner(k, q, z))
    else:
        t = erf(k, x * math.sqrt(0.5))
    return k.fma(h, t, h)


def silu(k: Fn, x: Val) -> Val:
    """x sigmoid(x)."""
    return x * sigmoid(k, x)


# -- trigonometry -------------------------------------------------------------------------------------

# (sin(x) - x) / x^3 and (cos(x) - 1 + x^2/2) / x^4 in x^2 on |x| <= pi/4; (atan(x) - x) / x^3 on |x| <= tan(pi/8)
_SIN = (-7.586697117706918e-13, 1.6058531618986147e-10, -2.5052106232447578e-08, 2.7557319219339167e-06,
        -0.00019841269841265065, 0.008333333333333331, -0.16666666666666666)
_COS = (4.7458719020432915e-14, -1.1470460887609959e-11, 2.087675579108042e-09, -2.7557319221402824e-07,
        2.4801587301584645e-05, -0.0013888888888888887, 0.041666666666666664)
_ATAN = (-0.01391822929102443, 0.030635704112969498, -0.04104436265755082, 0.04719395030027433, -0.05258041554297779,
         0.058819252531928636, -0.06666642020055166, 0.07692306736000173, -0.0909090906700999, 0.11111111110754729,
         -0.14285714285711518, 0.19999999999999993, -0.3333333333333333)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)


def _quadrant(k: Fn, x: Val) -> tuple[Val, Val, Val]:
    """x = n pi/2 + r: (sin r, cos r, n as integer), for any finite x (f64)."""
    magic = 6755399441055744.0
    t = k.fma(x, 2 / math.pi, magic)
    n = t - magic
    r = x
    for part in _HALF_PI:
        r = k.fma(n, -part, r)
    ni = k.bitcast(t, int_type(x)) & 3
    r, ni = large_angles(k, x, r, ni)
    z = r * r
    sin_r = k.fma(horner(k, _SIN, z) * z, r, r)
    cos_r = k.fma(horner(k, _COS, z), z * z, k.fma(z, -0.5, 1.0))
    return sin_r, cos_r, ni


def _signed(k: Fn, v: Val, negative: Val) -> Val:
    return k.select(negative, -v, v)


@_in_f64
def sin(k: Fn, x: Val) -> Val:
    """Sine, with exact range reduction."""
    s, c, n = _quadrant(k, x)
    return _signed(k, k.select((n & 1).ne(0), c, s), (n & 2).ne(0))


@_in_f64
def cos(k: Fn, x: Val) -> Val:
    """Cosine, with exact range reduction."""
    s, c, n = _quadrant(k, x)
    return _signed(k, k.select((n & 1).ne(0), s, c), ((n + 1) & 2).ne(0))


@_in_f64
def tan(k: Fn, x: Val) -> Val:
    """Tangent, with exact range reduction."""
    s, c, n = _quadrant(k, x)
    odd = (n & 1).ne(0)
    return k.select(odd, -c, s) / k.select(odd, s, c)


@_in_f64
def atan(k: Fn, x: Val) -> Val:
    """Arc tangent."""
    a = fabs(k, x)
    inverse, middle = a > 1 + math.sqrt(2), a > math.sqrt(2) - 1
    one = k.const(x.ty, 1.0)
    top = k.select(inverse, k.const(x.ty, -1.0), k.select(middle, a - 1.0, a))
    bottom = k.select(inverse, a, k.select(middle, a + 1.0, one))
    quarter = k.select(middle, k.const(x.ty, math.pi / 4), k.const(x.ty, 0.0))
    base = k.select(inverse, math.pi / 2, quarter)
    t = top / bottom
    z = t * t
    return copysign(k, base + k.fma(horner(k, _ATAN, z) * z, t, t), x)


@_in_f64
def asin(k: Fn, x: Val) -> Val:
    """Arc sine; NaN outside [-1, 1]."""
    one = k.const(x.ty, 1.0)
    return atan(k, x / sqrt(k, (one - x) * (one + x)))


@_in_f64
def acos(k: Fn, x: Val) -> Val:
    """Arc cosine; NaN outside [-1, 1]."""
    one = k.const(x.ty, 1.0)
    return atan(k, sqrt(k, (one - x) / (one + x))) * 2.0


# -- hyperbolic functions and their inverses ------------------------------------------------------------


@_in_f64
def sinh(k: Fn, x: Val) -> Val:
    """Hyperbolic sine; in f64 it overflows at 709.78, a little early."""
    e = expm1(k, fabs(k, x))
    y = k.select(e.eq(INF), e, (e + e / (e + 1.0)) * 0.5)
    return copysign(k, y, x)


@_in_f64
def cosh(k: Fn, x: Val) -> Val:
    """Hyperbolic cosine; in f64 it overflows at 709.78, a little early."""
    e = exp(k, fabs(k, x))
    return (e + k.const(x.ty, 1.0) / e) * 0.5


@_in_f64
def asinh(k: Fn, x: Val) -> Val:
    """Inverse hyperbolic sine."""
    a = fabs(k, x)
    b = fmin(k, 1e9, a)
    z = b * b
    y = log1p(k, b + z / (sqrt(k, z + 1.0) + 1.0))
    return copysign(k, k.select(a > 1e9, log(k, a) + LN2, y), x)


@_in_f64
def acosh(k: Fn, x: Val) -> Val:
    """Inverse hyperbolic cosine; NaN below 1."""
    t = fmin(k, 1e9, x) - 1.0
    y = log1p(k, t + sqrt(k, t * (t + 2.0)))
    return k.select(x > 1e9, log(k, x) + LN2, k.select(x < 1.0, k.const(x.ty, NAN), y))


@_in_f64
def atanh(k: Fn, x: Val) -> Val:
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""
    a = fabs(k, x)
    y = log1p(k, (a + a) / (k.const(x.ty, 1.0) - a)) * 0.5
    return copysign(k, k.select(a > 1.0, k.const(x.ty, NAN), y), x)


# -- powers, remainders, rounding -------------------------------------------------------------------------


def pow(k: Fn, x: Val, y: Val) -> Val:
    """x^y with the special cases of C99."""
    if x.scalar == "float":
        wide = pow(k, k.cast("fpext", x, "double"), k.cast("fpext", y, "double"))
        return k.cast("fptrunc", wide, "float")
    a, half = fabs(k, x), y * 0.5
    whole = _floor(k, y).eq(y)  # infinities count as even integers, as in C99
    odd = whole & _floor(k, half).ne(half)
    r = exp(k, y * log(k, a))
    r = k.select((x < 0.0) & (a < INF) & (whole ^ True), k.const(x.ty, NAN), r)
    negative = k.bitcast(x, int_type(x)) < 0
    r = _signed(k, r, negative & odd)
    r = k.select(a.eq(1.0) & fabs(k, y).eq(INF), 1.0, r)
    return k.select(y.eq(0.0) | x.eq(1.0), 1.0, r)


def fmod(k: Fn, x: Val, y: Val, rounds: int = 21) -> Val:
    """C's fmod, exact: the remainder with the sign of x. In f64, NaN where x / y overflows.

    Each round takes off the rounded quotient by one fused multiply-add, which is exact, and leaves at
    most 2^-52 of the dividend. A last quotient that was rounded up leaves a negative rest, mended at the end.
    """
    if x.scalar == "float":  # quotients below 2^277
        wide = fmod(k, k.cast("fpext", x, "double"), k.cast("fpext", y, "double"), rounds=6)
        return k.cast("fptrunc", wide, "float")
    a, b = fabs(k, x), fabs(k, y)
    r = k.var(x.ty, a)
    for _ in k.range(0, rounds):
        now = r.get()
        r.set(k.fma(-k.intrinsic("llvm.trunc", now / b), b, now))
    last = r.get()
    last = k.select(last < 0.0, last + b, last)
    last = k.select(b.eq(INF) & (a < INF), a, last)
    return copysign(k, last, x)


def mod(k: Fn, x: Val, y: Val) -> Val:
    """Python's and NumPy's remainder, with the sign of y."""
    r = fmod(k, x, y)
    wrong = r.ne(0.0) & ((r < 0.0) ^ (y < 0.0))
    return k.select(r.eq(0.0), copysign(k, r, y), k.select(wrong, r + y, r))


def _floor(k: Fn, x: Val) -> Val:
    return k.intrinsic("llvm.floor", x)
