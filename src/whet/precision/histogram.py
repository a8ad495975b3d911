"""What calibration sees of one tensor: a histogram of bounded size and exact extremes, gathered batch by batch.

Bins are multiples of a power of two, w = 2**exponent: value x counts in bin trunc(x / w), so that bin 0 is (-w, w),
bin i > 0 is [i w, (i + 1) w) and bins below 0 are the mirror image. When values come that do not fit into `BINS`
bins, w doubles and bin i becomes trunc(i / 2): nothing is split, so merging is exact. The exponent follows from the
extremes alone, which makes a histogram independent of the order and the division of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

BINS = 4096
CHUNK = 1 << 16  # values at a time: with the buffers for scaled values and indices about 1 MiB, in reach of L2
EVENTS = 64  # growths of the range that are remembered
TINY = 2.0**-14  # fp16's smallest normal number
_LEAST_EXPONENT, _MOST_EXPONENT = -120, 127


@dataclass(frozen=True)
class Growth:
    """After batch `batch` (0 is the first) the range of all that was seen had grown to low..high."""

    batch: int
    low: float
    high: float


@dataclass
class Channels:
    """Extremes and sums per channel, of finite values: arrays of one element per index along `axis`."""

    axis: int
    low: np.ndarray  # [C] float64; +inf where nothing was seen
    high: np.ndarray  # [C] float64; -inf where nothing was seen
    total: np.ndarray  # [C] float64: sum
    count: np.ndarray  # [C] int64: finite values

    @property
    def mean(self) -> np.ndarray:
        """The mean of each channel, 0 where nothing was seen."""
        return self.total / np.maximum(self.count, 1)

    @property
    def largest(self) -> np.ndarray:
        """The largest magnitude of each channel, 0 where nothing was seen."""
        return np.maximum(np.where(self.count > 0, np.maximum(self.high, -self.low), 0.0), 0.0)

    def merge(self, other: Channels) -> Channels:
        """Of both parts; the two must be of one tensor (ValueError)."""
        if self.low.shape != other.low.shape or self.axis != other.axis:
            raise ValueError(f"{self.low.size} channels along axis {self.axis} and {other.low.size} along {other.axis}")
        return Channels(self.axis, np.minimum(self.low, other.low), np.maximum(self.high, other.high),
                        self.total + other.total, self.count + other.count)


@dataclass
class Observer:
    """Statistics of one tensor over batches. `update` takes a batch; `merge` joins two observers.

    axis: where given, extremes and sums are also kept per index of this axis (`channels`).
    All of count, low, high, total, squares and the histogram are of finite values; NaN and infinities are counted.
    """

    axis: int | None = None
    count: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0  # exact zeros
    tiny: int = 0  # not zero, and below fp16's normal range
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0
    batches: int = 0
    growth: list[Growth] = field(default_factory=list)
    exponent: int = _LEAST_EXPONENT
    first: int = 0  # index of the first bin
    counts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    channels: Channels | None = None

    # -- reading ---------------------------------------------------------------------------

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        """Standard deviation (of the population)."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0)) if self.count else 0.0

    @property
    def largest(self) -> float:
        """The largest magnitude, 0 if nothing was seen."""
        return max(abs(self.low), abs(self.high)) if self.count else 0.0

    def bins(self, zeros: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """(edges [n+1], counts [n]) with bins of one width, in float64.

        Where there are values of both signs, bin 0 is divided evenly at zero. zeros: with exact zeros or without.
        """
        counts = self.counts.astype(np.float64)
        at = -self.first  # of bin 0; always there
        if not zeros:
            counts[at] -= self.zeros
        if self.low < 0 < self.high:
            counts = np.concatenate([counts[:at], [counts[at] / 2, counts[at] / 2], counts[at + 1:]])
        start = self.first - 1 if self.low < 0 else 0
        return (start + np.arange(counts.size + 1)) * self.width, counts

    # -- gathering -------------------------------------------------------------------------

    def update(self, x: np.ndarray) -> None:
        """One batch of values (any real type; computed with as float32). O(x) time, 1 MiB beside x."""
        x = np.asarray(x)
        if x.dtype != np.float32:
            with np.errstate(over="ignore"):
                x = x.astype(np.float32)
        x = np.ascontiguousarray(x)
        low, high = self.low, self.high
        if self.axis is not None:
            self._channels(x, self.axis)
        flat = x.reshape(-1)
        scratch = np.empty(min(CHUNK, flat.size), np.float32), np.empty(min(CHUNK, flat.size), np.int64)
        for at in range(0, flat.size, CHUNK):
            self._chunk(flat[at:at + CHUNK], *scratch)
        if self.low < low or self.high > high:
            self.growth = [*self.growth, Growth(self.batches, self.low, self.high)][-EVENTS:]
        self.batches += 1

    def merge(self, other: Observer) -> Observer:
        """The observer of self's batches followed by other's; both stay as they are. Associative, and but for the
        rounding of sums the same as one observer of all batches."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        out = replace(
            self, count=self.count + other.count, nan=self.nan + other.nan, inf=self.inf + other.inf,
            zeros=self.zeros + other.zeros, tiny=self.tiny + other.tiny, low=low, high=high,
            total=self.total + other.total, squares=self.squares + other.squares,
            batches=self.batches + other.batches, growth=self._grown(other), counts=self.counts.copy(),
            channels=_merged(self.channels, other.channels))
        out._fit(low, high)
        out._add(other.counts, other.first, other.exponent)
        return out

    def _grown(self, other: Observer) -> list[Growth]:
        events, low, high = list(self.growth), self.low, self.high
        for g in other.growth:
            if g.low < low or g.high > high:
                low, high = min(g.low, low), max(g.high, high)
                events.append(Growth(g.batch + self.batches, low, high))
        return events[-EVENTS:]

    def _chunk(self, x: np.ndarray, scaled: np.ndarray, index: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.add.reduce(x))
        if not math.isfinite(total):
            x, total = self._finite(x)
            if not x.size:
                return
        low, high = float(x.min()), float(x.max())
        scaled, index = scaled[:x.size], index[:x.size]
        self.count += x.size
        self.total += total
        with np.errstate(over="ignore"):
            squares = float(np.add.reduce(np.multiply(x, x, out=scaled)))
        self.squares += squares if math.isfinite(squares) else float(np.square(x, dtype=np.float64).sum())
        if low < self.low or high > self.high or not self.counts.any():
            self.low, self.high = min(low, self.low), max(high, self.high)
            self._fit(self.low, self.high)
        np.abs(x, out=scaled)
        small = int(np.count_nonzero(scaled < np.float32(TINY)))
        if small:
            zeros = x.size - int(np.count_nonzero(scaled.view(np.int32)))
            self.zeros += zeros
            self.tiny += small - zeros
        np.multiply(x, np.float32(math.ldexp(1.0, -self.exponent)), out=scaled)
        if self.first:
            np.trunc(scaled, out=scaled)
            np.subtract(scaled, np.float32(self.first), out=scaled)
        np.copyto(index, scaled, casting="unsafe")
        self.counts += np.bincount(index, minlength=self.counts.size)

    def _finite(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """The finite values of x and their sum; the others are counted."""
        nan, inf = int(np.count_nonzero(np.isnan(x))), int(np.count_nonzero(np.isinf(x)))
        self.nan += nan
        self.inf += inf
        x = x[np.isfinite(x)] if nan or inf else x
        return x, float(np.add.reduce(x, dtype=np.float64))

    def _channels(self, x: np.ndarray, axis: int) -> None:
        at = axis % x.ndim if x.ndim else 0
        channels = x.shape[at] if x.ndim else 1
        before, after = math.prod(x.shape[:at]), math.prod(x.shape[at + 1:])
        v = x.reshape((before, channels, after) if after > 1 else (before, channels))
        others = (2, 0) if after > 1 else (0,)
        with np.errstate(invalid="ignore", over="ignore"):
            total = _reduce(np.add, v, others, 0.0).astype(np.float64)
        count = np.full(channels, before * after, np.int64)
        if not np.isfinite(total).all():  # something is not finite, or a sum is beyond float32
            ok = np.isfinite(v)
            count = np.count_nonzero(ok, axis=others).astype(np.int64)
            total = np.where(ok, v, 0).sum(axis=others, dtype=np.float64)
            low = _reduce(np.minimum, np.where(ok, v, np.float32(np.inf)), others, np.inf)
            high = _reduce(np.maximum, np.where(ok, v, np.float32(-np.inf)), others, -np.inf)
        else:
            low, high = _reduce(np.minimum, v, others, np.inf), _reduce(np.maximum, v, others, -np.inf)
        new = Channels(axis, low.astype(np.float64), high.astype(np.float64), total, count)
        self.channels = _merged(self.channels, new)

    # -- the bins --------------------------------------------------------------------------

    def _fit(self, low: float, high: float) -> None:
        """Widen the bins until low..high and zero fit, and make room for all of them."""
        if low > high:
            return
        exponent = max(self.exponent, exponent_for(low, high))
        first, last = bin_of(min(low, 0.0), exponent), bin_of(max(high, 0.0), exponent)
        counts, at, old = self.counts, self.first, self.exponent
        if (exponent, first, last - first + 1) == (old, at, counts.size):
            return
        self.exponent, self.first, self.counts = exponent, first, np.zeros(last - first + 1, np.int64)
        self._add(counts, at, old)

    def _add(self, counts: np.ndarray, first: int, exponent: int) -> None:
        """Add bins of another width, at most this one's."""
        used = np.flatnonzero(counts)
        i = used + first
        index = np.where(i < 0, -(-i >> (self.exponent - exponent)), i >> (self.exponent - exponent)) - self.first
        np.add.at(self.counts, index, counts[used])


def exponent_for(low: float, high: float) -> int:
    """The exponent of the narrowest bins of which `BINS` hold low..high and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return _LEAST_EXPONENT
    e = max(math.frexp(high - low)[1] - BINS.bit_length() - 1, _LEAST_EXPONENT)
    while e < _MOST_EXPONENT and bin_of(high, e) - bin_of(low, e) + 1 > BINS:
        e += 1
    return e


def bin_of(x: float, exponent: int) -> int:
    """The bin of a value."""
    return math.trunc(math.ldexp(x, -exponent))


def _reduce(f: np.ufunc, x: np.ndarray, axes: tuple[int, ...], initial: float) -> np.ndarray:
    """f over these axes, one after the other: NumPy's loops are vectors along one axis only."""
    for axis in axes:
        x = f.reduce(x, axis=axis, initial=initial)
    return x


def _merged(a: Channels | None, b: Channels | None) -> Channels | None:
    return a.merge(b) if a is not None and b is not None else a or b
