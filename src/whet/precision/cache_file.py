"""The calibration cache's file format: its schema, and every rule that its numbers keep."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from whet import __version__
from whet.precision.histogram import BINS, EVENTS, Channels, Growth, Observer, bin_of, exponent_for
from whet.precision.methods import Range

if TYPE_CHECKING:
    from whet.precision.cache import Calibration

SCHEMA = 1
MOST_TENSORS = 100_000
MOST_CHANNELS = 1 << 24
_LARGEST = float(np.finfo(np.float32).max)
_MOST_COUNT = 1 << 62


class FaultError(ValueError):
    """A number or text in the file that cannot be; the message says where and what."""


class _Record(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    pass


class _Channels(_Record, kw_only=True):
    axis: int
    number: int
    low: str
    high: str
    total: str
    count: str


class _Tensor(_Record, kw_only=True):
    name: str
    layer: str = ""
    count: int
    low: float | None = None  # None: nothing seen
    high: float | None = None
    mean: float = 0.0  # for people, as is std; sums are what counts
    std: float = 0.0
    set: tuple[float, float] | None = None
    ranges: dict[str, tuple[float, float]] = {}
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    tiny: int = 0
    total: float = 0.0
    squares: float = 0.0
    growth: list[tuple[int, float, float]] = []
    exponent: int
    first: int
    bins: int
    counts: str
    channels: _Channels | None = None


class _File(_Record, kw_only=True):
    kind: str
    schema: int
    whet: str
    model: str
    graph: str
    preprocessing: str
    data: str
    samples: int
    batches: int
    warnings: list[str] = []
    seconds: float = 0.0
    watching: float = 0.0
    peak_bytes: int = 0
    tensors: list[_Tensor]


KIND = "whet calibration"


def encode(c: Calibration, times: bool = True) -> bytes:
    """The file's bytes, in one line. times: with how long it took and on how much memory."""
    file = _File(
        kind=KIND, schema=SCHEMA, whet=__version__, model=c.model, graph=c.graph, preprocessing=c.preprocessing,
        data=c.data, samples=c.samples, batches=c.batches, warnings=c.warnings,
        tensors=[_tensor(n, t.layer, t.seen, t.ranges if times else {}, t.fixed) for n, t in sorted(c.tensors.items())])
    if times:
        file.seconds, file.watching, file.peak_bytes = round(c.seconds, 3), round(c.watching, 3), c.peak_bytes
    return msgspec.json.encode(file)


def _tensor(name: str, layer: str, o: Observer, ranges: dict[str, Range], fixed: Range | None) -> _Tensor:
    c = o.channels
    return _Tensor(
        name=name, layer=layer, count=o.count, low=o.low if o.count else None, high=o.high if o.count else None,
        mean=o.mean, std=o.std, set=(fixed.low, fixed.high) if fixed is not None else None,
        ranges={m: (r.low, r.high) for m, r in sorted(ranges.items())},
        nan=o.nan, inf=o.inf, zeros=o.zeros, tiny=o.tiny, total=o.total,
        squares=o.squares, growth=[(g.batch, g.low, g.high) for g in o.growth], exponent=o.exponent,
        first=o.first, bins=o.counts.size, counts=_pack(o.counts, "<u8"),
        channels=None if c is None else _Channels(
            axis=c.axis, number=c.low.size, low=_pack(c.low, "<f8"), high=_pack(c.high, "<f8"),
            total=_pack(c.total, "<f8"), count=_pack(c.count, "<u8")))


def decode(data: bytes) -> Calibration:
    """A calibration from a file's bytes. msgspec.DecodeError for another structure, FaultError for what cannot be."""
    from whet.precision.cache import Calibration, Tensor

    head = msgspec.json.decode(data, type=_Head)
    _require(head.kind == KIND, "kind", f"it is {head.kind[:40]!r}, not {KIND!r}")
    _require(head.schema <= SCHEMA, "schema", f"it is {head.schema}, this whet reads up to {SCHEMA}: update whet")
    _require(head.schema == SCHEMA, "schema", f"it is {head.schema}, not {SCHEMA}")
    f = msgspec.json.decode(data, type=_File)
    _require(0 < f.samples <= _MOST_COUNT, "samples", f"{f.samples}")
    _require(0 < f.batches <= f.samples, "batches", f"{f.batches} of {f.samples} samples")
    _require(len(f.tensors) <= MOST_TENSORS, "tensors", f"{len(f.tensors)} of them")
    _require(all(math.isfinite(x) and x >= 0 for x in (f.seconds, f.watching, f.peak_bytes)), "seconds", "negative")
    tensors = {}
    for t in f.tensors:
        _require(bool(t.name) and t.name not in tensors, "tensors", f"the name {t.name!r} is empty or there twice")
        fixed = None if t.set is None else _range(t.set, f"{t.name}: set")
        ranges = {m: _range(r, f"{t.name}: {m}") for m, r in t.ranges.items()}
        tensors[t.name] = Tensor(t.layer, _observer(t, f.batches), ranges, fixed)
    return Calibration(tensors, f.samples, f.batches, f.model, f.graph, f.preprocessing, f.data, f.warnings, f.seconds,
                       f.watching, f.peak_bytes)


class _Head(msgspec.Struct):
    kind: str
    schema: int


def _range(r: tuple[float, float], where: str) -> Range:
    _require(all(math.isfinite(x) and abs(x) <= _LARGEST for x in r) and r[0] <= 0 <= r[1], where,
             f"{r[0]}..{r[1]} is no finite range around zero")
    return Range(*r)


def _observer(t: _Tensor, batches: int) -> Observer:
    counters = (t.count, t.nan, t.inf, t.zeros, t.tiny)
    _require(all(0 <= n <= _MOST_COUNT for n in counters), t.name, "a count is negative or too large")
    _require((t.low is not None) == (t.high is not None) == (t.count > 0), t.name, "count, low and high disagree")
    low = math.inf if t.low is None else t.low
    high = -math.inf if t.high is None else t.high
    if t.count:
        _require(low <= high and max(abs(low), abs(high)) <= _LARGEST, t.name, f"its range is {low}..{high}")
        _require(t.exponent == exponent_for(low, high), t.name, f"bins of 2**{t.exponent} do not fit {low}..{high}")
        first, last = bin_of(min(low, 0.0), t.exponent), bin_of(max(high, 0.0), t.exponent)
    else:
        first, last = 0, 0
    _require((t.first, t.bins) == (first, last - first + 1) and 1 <= t.bins <= BINS, t.name,
             f"{t.bins} bins from {t.first} do not hold {low}..{high}")
    counts = _unpack(t.counts, "<u8", t.bins, t.name)
    _require(int(counts.max()) <= _MOST_COUNT and int(counts.sum(dtype=object)) == t.count, t.name,
             f"the histogram does not have {t.count} values")
    _require(t.zeros <= int(counts[-t.first]) and t.zeros + t.tiny <= t.count, t.name, "more zeros than values")
    _require(all(math.isfinite(x) for x in (t.total, t.squares)) and t.squares >= 0, t.name, "its sums are not finite")
    last_batch = -1
    for batch, a, b in t.growth:
        _require(last_batch < batch < batches and low <= a <= b <= high, t.name, f"growth to {a}..{b} in batch {batch}")
        last_batch = batch
    _require(len(t.growth) <= EVENTS and bool(t.growth) == bool(t.count), t.name, "its growth is missing or too long")
    return Observer(None if t.channels is None else t.channels.axis, t.count, t.nan, t.inf, t.zeros, t.tiny, low, high,
                    t.total, t.squares, batches, [Growth(*g) for g in t.growth],
                    t.exponent, t.first, counts.astype(np.int64), _channels(t.channels, t.name))


def _channels(c: _Channels | None, name: str) -> Channels | None:
    if c is None:
        return None
    _require(0 <= c.number <= MOST_CHANNELS and abs(c.axis) < 64, name, f"{c.number} channels along axis {c.axis}")
    low, high, total = (_unpack(text, "<f8", c.number, name) for text in (c.low, c.high, c.total))
    count = _unpack(c.count, "<u8", c.number, name)
    seen = count > 0
    _require(bool((count <= _MOST_COUNT).all()), name, "a channel's count is too large")
    _require(bool(np.isfinite(total).all() and np.isfinite(low[seen]).all() and np.isfinite(high[seen]).all()), name,
             "a channel's range is not finite")
    _require(bool((low[seen] <= high[seen]).all() and (low[~seen] == np.inf).all() and (high[~seen] == -np.inf).all()),
             name, "a channel's range is empty, or that of no values")
    return Channels(c.axis, low, high, total, count.astype(np.int64))


def _pack(a: np.ndarray, dtype: str) -> str:
    return base64.b64encode(zlib.compress(a.astype(dtype).tobytes(), 6)).decode()


def _unpack(text: str, dtype: str, n: int, where: str) -> np.ndarray:
    size = n * np.dtype(dtype).itemsize
    try:
        d = zlib.decompressobj()
        data = d.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as e:
        raise FaultError(f"{where}: packed numbers: {e}") from e
    _require(len(data) == size and d.eof, where, f"packed numbers: not {n} of them")
    return np.frombuffer(data, dtype)


def _require(holds: bool, where: str, why: Any) -> None:
    if not holds:
        raise FaultError(f"{where}: {why}")
