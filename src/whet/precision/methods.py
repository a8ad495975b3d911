"""From what was observed to the range that is quantized, and from the range to scale and zero point.

Exact zeros (padding, what a relu cuts off) are left out of the two methods that weigh errors: a quantized zero is
exact whatever the range is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whet.errors import InputError
from whet.ir.dtypes import DType
from whet.precision.histogram import Observer

METHODS = ("minmax", "percentile", "mse", "entropy")
DEFAULT_PERCENTILE = 99.99
SMOOTHING = 1e-4  # counts that an empty bin gets before distributions are compared
CANDIDATES = 128  # ends of the range that `entropy` tries
F8_MAX = 448.0  # the largest number of f8e4m3fn
ROUNDS = 3  # searches for one end given the other


@dataclass(frozen=True)
class Range:
    """The values low..high are kept apart; those beyond are clipped to the ends."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        return max(abs(self.low), abs(self.high))


def parse_method(text: str) -> tuple[str, float]:
    """`entropy` -> ("entropy", 0); `percentile:99.9` -> ("percentile", 99.9). InputError for anything else."""
    name, _, argument = text.partition(":")
    if name not in METHODS or (argument and name != "percentile"):
        raise InputError(f"unknown calibration method {text!r}", do=f"one of: {', '.join(METHODS)}, percentile:99.9")
    if name != "percentile":
        return name, 0.0
    try:
        p = float(argument) if argument else DEFAULT_PERCENTILE
    except ValueError:
        p = math.nan
    if not 50 < p <= 100:
        raise InputError(f"{argument!r} is no percentile", why="it must be over 50 and at most 100",
                         do="for example percentile:99.99")
    return name, p


def choose(seen: Observer, method: str = "mse", symmetric: bool = False, levels: int = 256,
           floats: bool = False) -> Range:
    """The range by a method of METHODS (`parse_method`); it always holds zero.

    symmetric: of the form -t..t (for data of one sign, too), for `levels - 1` levels around zero; else the two ends
    are chosen apart. floats: for codes of f8e4m3fn, whose largest the range's end becomes (symmetric; `entropy`, which
    counts levels, gives what `minmax` gives). Nothing seen: 0..0.
    """
    name, argument = parse_method(method)
    if not seen.count or not seen.largest:
        return Range(0.0, 0.0)
    edges, counts = seen.bins(zeros=name == "percentile")
    symmetric = symmetric or floats
    if symmetric:
        edges, counts = _magnitudes(edges, counts)
        levels //= 2
    low, high = (0.0, seen.largest) if symmetric else (min(seen.low, 0.0), max(seen.high, 0.0))
    if name == "minmax":
        found = Range(low, high)
    elif name == "percentile":
        found = percentile(edges, counts, argument)
    elif floats:
        found = least_squares_of_floats(edges, counts) if name == "mse" else Range(low, high)
    elif name == "mse":
        found = least_squares(edges, counts, levels)
    else:
        found = least_divergence(edges, counts, levels)
    found = Range(max(found.low, low), min(found.high, high))  # a bin may reach beyond what was seen
    return Range(-found.high, found.high) if symmetric else found


def qparams(r: Range, dtype: DType, symmetric: bool = False) -> tuple[float, int]:
    """(scale, zero point) for `x ~ (q - zero) * scale`; the scale is a float32, zero is quantized exactly.

    dtype: I8 or U8. symmetric: zero is 0 (I8) or 128 (U8), with 127 steps to each side. The range is widened to hold
    zero. All zero: a scale of 1. F8E4M3FN: zero is 0 and the range's end the type's largest number. InputError if the
    range is not finite.
    """
    if dtype not in (DType.I8, DType.U8, DType.F8E4M3FN):
        raise ValueError(f"not the type of codes: {dtype}")
    if not (math.isfinite(r.low) and math.isfinite(r.high) and r.low <= r.high):
        raise InputError(f"{r.low}..{r.high} cannot be quantized", why="it is not a finite range",
                         do="leave the layer in floating point")
    if dtype is DType.F8E4M3FN:
        return float(np.float32(max(r.largest / F8_MAX, 2.0**-126))) if r.largest else 1.0, 0
    least = 0 if dtype is DType.U8 else -128
    low, high = min(r.low, 0.0), max(r.high, 0.0)
    width = max(-low, high) / 127 if symmetric else (high - low) / 255
    scale = float(np.float32(max(width, 2.0**-126)))  # so that 1 / scale is finite, too
    if low == high:
        scale = 1.0
    if symmetric:
        return scale, least + 128
    return scale, int(np.clip(np.rint(least - low / scale), least, least + 255))


def percentile(edges: np.ndarray, counts: np.ndarray, p: float) -> Range:
    """The range that holds p % of the values: what is beyond is divided between the two ends, or lies all at one end
    where the values have one sign."""
    total = counts.sum()
    beyond = (100 - p) / 100 * total
    both = edges[0] < 0 < edges[-1]
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    at_low = beyond / 2 if both else beyond if edges[0] < 0 else 0.0
    at_high = beyond / 2 if both else beyond if edges[-1] > 0 else 0.0
    # np.interp is undecided on flat stretches (empty bins): take the inner end of each.
    i = min(int(np.searchsorted(cumulative, at_low, side="right")) - 1, counts.size - 1)
    j = max(int(np.searchsorted(cumulative, total - at_high, side="left")), 1)
    low = edges[i] + (edges[i + 1] - edges[i]) * (at_low - cumulative[i]) / max(counts[i], 1e-300)
    high = edges[j - 1] + (edges[j] - edges[j - 1]) * (total - at_high - cumulative[j - 1]) / max(counts[j - 1], 1e-300)
    return Range(min(float(low if at_low else edges[0]), 0.0), max(float(high if at_high else edges[-1]), 0.0))


# ---- least mean squared error --------------------------------------------------------------------


def least_squares(edges: np.ndarray, counts: np.ndarray, levels: int) -> Range:
    """The range whose quantization to `levels` levels has the least mean squared error.

    Rounding inside and clipping outside are weighed against each other on the centres of the bins (Banner, Nahshan,
    Soudry, "Post training 4-bit quantization of convolutional networks", 2019, does so for known distributions).
    """
    used = counts > 0
    x, weight = ((edges[:-1] + edges[1:]) / 2)[used], counts[used]
    low, high = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    if not x.size:
        return Range(low, high)

    def error(lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
        scale = ((highs - lows) / (levels - 1))[:, None]
        zero = np.rint(-lows[:, None] / scale)
        q = np.clip(np.rint(x / scale), -zero, levels - 1 - zero)
        return np.square(q * scale - x) @ weight

    def at_low(b: float) -> float:
        return _line(lambda s: error(s * low, np.full(s.size, b * high))) if low < 0 else 0.0

    def at_high(a: float) -> float:
        return _line(lambda s: error(np.full(s.size, a * low), s * high)) if high > 0 else 0.0

    if not low < 0 < high:
        return Range(at_low(1.0) * low, at_high(1.0) * high)
    a = b = _line(lambda s: error(s * low, s * high))  # first one share for both ends, then each on its own
    for _ in range(ROUNDS):
        before = a, b
        b = at_high(a)
        a = at_low(b)
        if (a, b) == before:
            break
    return Range(a * low, b * high)


def least_squares_of_floats(edges: np.ndarray, counts: np.ndarray) -> Range:
    """As `least_squares` (0..t, of magnitudes) for codes of f8e4m3fn: rounding errors grow with the numbers, so that
    little is gained by clipping, but something by where the powers of two lie."""
    used = counts > 0
    x, weight, high = ((edges[:-1] + edges[1:]) / 2)[used], counts[used], float(edges[-1])
    if not x.size or high <= 0:
        return Range(0.0, max(high, 0.0))

    def error(share: float) -> float:
        scale = share * high / F8_MAX
        q = np.minimum(x / scale, F8_MAX).astype(np.float32).astype(DType.F8E4M3FN.np).astype(np.float64)
        return float(np.square(q * scale - x) @ weight)

    return Range(0.0, min(np.geomspace(1.0, 2.0**-3, 49), key=error) * high)


def _line(error: Callable[[np.ndarray], np.ndarray]) -> float:
    """The share in (0, 1] of least error: on a geometric grid, then on a finer one around its best point."""
    grid = np.geomspace(1.0, 2.0**-10, 61)
    best = int(np.argmin(error(grid)))
    fine = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)], 33)
    return float(fine[int(np.argmin(error(fine)))])


# ---- least divergence ----------------------------------------------------------------------------


def least_divergence(edges: np.ndarray, counts: np.ndarray, levels: int) -> Range:
    """The range that loses least information: S. Migacz, "8-bit inference with TensorRT", GTC 2017.

    What is dense near zero (the results of gelu, silu, hard swish) weighs most here, and the ends are cut off early:
    for these, `least_squares` mostly serves better.

    Each candidate range of bins is compared with itself quantized (`divergence`). One-sided data has one end to find;
    of two, each is sought in turn with the other as it is. Of equally good ranges the widest is taken.
    """
    n = counts.size
    at_zero = round(-edges[0] / (edges[1] - edges[0]))
    if n <= levels or not counts.any():
        return Range(float(edges[0]), float(edges[-1]))

    def best_high(low: int) -> int:
        ends = _candidates(max(low + levels, at_zero), n) if at_zero < n else [n]
        return min(reversed(ends), key=lambda end: divergence(counts, low, end, levels))

    def best_low(high: int) -> int:
        ends = _candidates(0, min(high - levels, at_zero)) if at_zero > 0 else [0]
        return min(ends, key=lambda end: divergence(counts, end, high, levels))

    low, high = 0, n
    for _ in range(ROUNDS if 0 < at_zero < n else 1):
        before = low, high
        high = best_high(low)
        low = best_low(high)
        if (low, high) == before:
            break
    return Range(float(edges[low]), float(edges[high]))


def _candidates(first: int, last: int) -> list[int]:
    """At most about CANDIDATES places from first to last, both included."""
    return sorted({round(i) for i in np.linspace(first, last, min(CANDIDATES, last - first) + 1)})


def divergence(counts: np.ndarray, low: int, high: int, levels: int) -> float:
    """KL(P || Q) of bins low..high: P has what lies outside in its end bins; Q is `counts` merged to `levels` levels,
    each spread evenly over its bins that were not empty. Both are smoothed, so that neither has an empty bin.
    """
    part = counts[low:high]
    p = part.astype(np.float64)
    p[0] += counts[:low].sum()
    p[-1] += counts[high:].sum()
    level = np.arange(part.size) * levels // part.size
    there = part > 0
    sums = np.bincount(level, part, minlength=levels)
    cells = np.bincount(level, there, minlength=levels)
    q = np.where(there, (sums / np.maximum(cells, 1))[level], 0.0)
    p, q = _smooth(p), _smooth(q)
    return float(np.sum(p * np.log(p / q)))


def _smooth(p: np.ndarray) -> np.ndarray:
    """Normalized, with SMOOTHING counts in each empty bin, taken in equal parts from the others."""
    empty = p == 0
    n = int(empty.sum())
    if n < p.size:
        p = np.where(empty, SMOOTHING, p * (1 - SMOOTHING * n / p.sum()) if p.sum() > SMOOTHING * n else p)
    return p / p.sum() if n < p.size else np.full(p.size, 1 / p.size)


def _magnitudes(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram of |x|."""
    width = edges[1] - edges[0]
    at = round(-edges[0] / width)
    left, right = counts[:at][::-1], counts[at:]
    out = np.zeros(max(left.size, right.size))
    out[:left.size] += left
    out[:right.size] += right
    return np.arange(out.size + 1) * width, out
