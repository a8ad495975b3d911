"""Lowerings of Fourier transforms: products with constant twiddle factors."""

from __future__ import annotations

import numpy as np

from whet.frontends.call import Call, NeedsReferenceError, lowers
from whet.frontends.formulas import Formula, concat, formula, iota, number
from whet.frontends.scalars import Scalar, Scalars
from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.symbolic import Dim

MAX_TWIDDLES = 1 << 24  # elements of the constant matrix; longer transforms run as reference nodes


def twiddles(taken: int, length: int, parts: int, inverse: bool, onesided: bool) -> np.ndarray:
    """The transform of [taken, parts] (1: real, 2: real and imaginary) as a matrix [taken * parts, bins * 2].

    length:   of the transform, taken <= length. onesided: the first length // 2 + 1 bins; inverse and onesided:
              from these bins to `length` real numbers, [taken * 2, length].
    Angles are reduced modulo `length` as integers, so that they are exact.
    """
    if inverse and onesided:
        i, k = np.arange(min(taken, length // 2 + 1))[:, None], np.arange(length)
        angle = 2 * np.pi * (i * k % length) / length
        twice = np.where((i == 0) | (2 * i == length), 1, 2) / length  # bins that have no mirror image
        out = np.zeros((taken, 2, length))
        out[:len(i), 0], out[:len(i), 1] = twice * np.cos(angle), -twice * np.sin(angle)
        return out.reshape(taken * 2, length)
    i, k = np.arange(taken)[:, None], np.arange(length // 2 + 1 if onesided else length)
    angle = (2 if inverse else -2) * np.pi * (i * k % length) / length
    out = np.empty((taken, 2, len(k), 2))
    out[:, 0, :, 0] = out[:, 1, :, 1] = np.cos(angle)
    out[:, 0, :, 1], out[:, 1, :, 0] = np.sin(angle), -np.sin(angle)
    return out[:, :parts].reshape(taken * parts, len(k) * 2) / (length if inverse else 1)


def _matrix(c: Call, taken: Dim, length: Dim, parts: int, inverse: bool, onesided: bool, dtype: DType) -> Formula:
    """`twiddles` as a value: a constant, or where a size is symbolic computed when it is known."""
    if isinstance(taken, int) and isinstance(length, int):
        return Formula(c, c.constant(twiddles(taken, length, parts, inverse, onesided), dtype))
    bins = length // 2 + 1 if onesided else length
    period = number(c, length, DType.I64)
    i, k = iota(c, taken).reshape(taken, 1), iota(c, bins).reshape(1, bins)
    angle = ((i * k) % period).to(DType.F64) * (2 * np.pi if inverse else -2 * np.pi) / period.to(DType.F64)
    waves = [angle.apply(f) for f in ("cos", "sin")]
    if inverse:
        waves = [w / period.to(DType.F64) for w in waves]
    cosine, sine = (w.to(dtype).reshape(taken, 1, bins, 1) for w in waves)
    rows = [concat([cosine, sine], 3), concat([-sine, cosine], 3)]
    return concat(rows[:parts], 1).reshape(taken * parts, bins * 2)


@lowers("DFT")
def _dft(c: Call) -> Value:
    """Along an axis that is known, or along each and then the one that turns out to be meant (opset 20)."""
    x = formula(c, 0)
    if c.opset < 20 or not c.computed(2):
        axis = c.attr("axis", 1) if c.opset < 20 else c.ints(2, "axis")[0] if c.has(2) else -2
        return _along(c, x, c.axis(axis, x.rank)).value
    if c.attr("onesided", 0) or c.has(1):
        raise NeedsReferenceError("onesided or of a given length along a computed axis")
    given = formula(c, 2).reshape()
    y = _along(c, x, 0)
    for k in range(1, x.rank - 1):
        y = (given.eq(k) | given.eq(k - x.rank)).where(_along(c, x, k), y)
    return y.value


def _along(c: Call, x: Formula, axis: int) -> Formula:
    """The transform along one axis that the node's other operands and attributes ask for."""
    inverse, onesided = bool(c.attr("inverse", 0)), bool(c.attr("onesided", 0))
    n, parts = x.shape[axis], x.shape[-1]
    if parts not in (1, 2) or c.computed(1) or not x.dtype.is_float:
        raise NeedsReferenceError("of a computed length, or of integers")
    assert isinstance(parts, int)
    back = inverse and onesided
    length: Dim = c.ints(1, "dft_length")[0] if c.has(1) else 2 * (n - 1) if back else n
    if back and (parts == 1 or not isinstance(n, int)):
        raise NeedsReferenceError("the inverse of a onesided real transform, or along a dynamic dimension")
    taken = c.builder.minimum(n, length)
    if c.builder.bounds(length)[0] < 1 or c.builder.bounds(taken * length)[1] * parts * 2 > MAX_TWIDDLES:
        raise NeedsReferenceError("of such a length")
    order = [i for i in range(x.rank - 1) if i != axis]
    y = x.slice(axis, 0, taken).transpose(*order, axis, x.rank - 1)
    matrix = _matrix(c, taken, length, parts, inverse, onesided, x.dtype)
    y = y.reshape(*(y.shape[:-2] or (1,)), taken * parts).apply("matmul", matrix)
    width = 1 if back else 2
    y = y.reshape(*(x.shape[i] for i in order), matrix.shape[1] // width, width)
    now = [*order, axis, x.rank - 1]
    return y.transpose(*(now.index(i) for i in range(x.rank)))


@lowers("STFT")
def _stft(c: Call) -> Value:
    """A strided convolution whose kernels are the windowed twiddle factors; frames gathered and multiplied by them
    where the step or the length is computed while the model runs."""
    x, calc = formula(c, 0), Scalars(c)
    x = x if x.rank == 3 else x.reshape(*x.shape, 1)
    batch, n, parts = x.shape
    window = formula(c, 2) if c.has(2) else None
    step = calc.elements(1)[0]
    length: Dim = window.shape[0] if window is not None else n
    if c.has(3):
        length = calc.read(calc.elements(3)[0], f"{c.hint}_length", most=length)
    if not isinstance(parts, int) or not x.dtype.is_float or c.builder.bounds(length)[1] ** 2 * 4 > MAX_TWIDDLES:
        raise NeedsReferenceError("of integers, or of such lengths")
    onesided = bool(c.attr("onesided", 1))
    if window is not None:
        window = window.slice(0, 0, length).to(x.dtype)
    if not isinstance(length, int) or not isinstance(step, int) or step < 1:
        return _gathered(calc, x, step, length, window, onesided)
    matrix = twiddles(length, length, parts, False, onesided)
    kernels = Formula(c, c.constant(matrix.reshape(length, parts, -1).transpose(2, 1, 0), x.dtype))
    if window is not None:
        kernels = kernels * window.reshape(1, 1, length)
    y = Formula(c, c.emit("conv", x.transpose(0, 2, 1).value, kernels.value, strides=(step,), dilations=(1,),
                          pads=(0, 0), group=1))
    frames = y.shape[2]
    return y.transpose(0, 2, 1).reshape(batch, frames, matrix.shape[1] // 2, 2).value


def _gathered(calc: Scalars, x: Formula, step: Scalar, length: Dim, window: Formula | None, onesided: bool) -> Value:
    """The transform of frames of x [batch, n, parts] whose step or length is not known before the run."""
    c, (batch, n, parts) = x.call, x.shape
    frames = calc.read(calc.add(calc.floordiv(calc.sub(n, length), step), 1), f"{c.hint}_frames", most=n + 1)
    starts = iota(c, frames).reshape(frames, 1) * Formula(c, calc.value(step))
    y = x.gather(starts + iota(c, length), axis=1)  # [batch, frames, length, parts]
    if window is not None:
        y = y * window.reshape(length, 1)
    assert isinstance(parts, int)
    matrix = _matrix(c, length, length, parts, False, onesided, x.dtype)
    y = y.reshape(batch, frames, length * parts).apply("matmul", matrix)
    return y.reshape(batch, frames, length // 2 + 1 if onesided else length, 2).value
