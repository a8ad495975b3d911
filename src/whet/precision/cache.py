"""What calibration found, as an object and as a file that can be read, edited and used again.

The file is JSON: per tensor the layer that reads it, its extremes, the range by each method, and the histogram (base64
of zlib), so that any method can be applied later. A person may fix a tensor's range: `"set": [low, high]`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from whet.errors import CacheError, InputError
from whet.plan.writer import atomic
from whet.precision import cache_file
from whet.precision.batches import ONE_SAMPLE
from whet.precision.histogram import Observer
from whet.precision.methods import METHODS, Range, choose, parse_method

MAX_BYTES = 256 << 20
AGAIN = "calibrate again (--calib DATA)"


@dataclass(frozen=True)
class Expect:
    """What a cache must be of. Empty fields (`preprocessing`: None) are not compared.

    model: of `frontends.model_hash`. graph: whet's key of the prepared graph. preprocessing: `Preprocess.key()`.
    data: of `Data.digest()`. names: tensors that must be there.
    """

    model: str = ""
    graph: str = ""
    preprocessing: str | None = None
    data: str = ""
    names: tuple[str, ...] = ()


@dataclass
class Tensor:
    """One observed tensor. `layer`: who reads it. `ranges`: by method, filled as they are asked for; a `symmetric`
    range has that word behind the method. `fixed`: a range that a person set, which every method gives."""

    layer: str
    seen: Observer
    ranges: dict[str, Range] = field(default_factory=dict)
    fixed: Range | None = None


@dataclass
class Calibration:
    """Observed tensors by name, and what they were observed on."""

    tensors: dict[str, Tensor]
    samples: int
    batches: int
    model: str = ""
    graph: str = ""
    preprocessing: str = ""
    data: str = ""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of which `watching` in observers, the others in the model
    watching: float = 0.0
    peak_bytes: int = 0  # of the process

    def range(self, name: str, method: str = "mse", symmetric: bool = False, floats: bool = False) -> Range:
        """The range of a tensor by a method of `methods.METHODS` (as `methods.choose` has it). InputError for one that
        was not observed."""
        t = self.tensors.get(name)
        if t is None:
            raise InputError(f"{name!r} was not calibrated", why=f"{len(self.tensors)} other tensors were", do=AGAIN)
        if t.fixed is not None:
            largest = t.fixed.largest
            return Range(-largest, largest) if symmetric or floats else t.fixed
        kind, argument = parse_method(method)
        key = f"{kind}:{argument:g}" if kind == "percentile" else kind
        key += " f8" if floats else " symmetric" if symmetric else ""
        if key not in t.ranges:
            t.ranges[key] = choose(t.seen, method, symmetric, floats=floats)
        return t.ranges[key]

    def ranges(self, method: str = "mse", symmetric: bool = False, floats: bool = False) -> dict[str, Range]:
        """The ranges of all tensors of which a finite value was seen."""
        return {n: self.range(n, method, symmetric, floats) for n, t in self.tensors.items() if t.seen.count or t.fixed}

    def hash(self) -> str:
        """SHA-256 of what the file holds, but for times: for a plan's manifest."""
        return hashlib.sha256(cache_file.encode(self, times=False)).hexdigest()

    def to_json(self, methods: Iterable[str] = METHODS) -> str:
        """The file's text, with the ranges by these methods."""
        for name in self.tensors:
            for m in methods:
                self.range(name, m)
        return json.dumps(json.loads(cache_file.encode(self)), indent=1) + "\n"

    def save(self, path: str | os.PathLike[str], methods: Iterable[str] = METHODS) -> None:
        """Write the file, by atomic rename. OutputError if it cannot be written."""
        text = self.to_json(methods).encode()
        with atomic(path, "the calibration cache") as f:
            f.write(text)

    def check(self, expect: Expect, where: str = "") -> None:
        """CacheError, which says what differs, if this is a calibration of something else."""
        pairs = [("another model", self.model, expect.model),
                 ("a graph that other options or another version of whet prepared", self.graph, expect.graph),
                 ("other data", self.data, expect.data)]
        if expect.preprocessing is not None and self.preprocessing != expect.preprocessing:
            then, now = self.preprocessing or "none", expect.preprocessing or "none"
            raise CacheError("the calibration cache is of other preprocessing", where=where,
                             why=f"it has {then!r}, now it is {now!r}", do=f"{AGAIN}, or preprocess as then")
        for what, got, want in pairs:
            if want and got != want:
                raise CacheError(f"the calibration cache is of {what}", where=where,
                                 why=f"it has {_short(got)}, this is {_short(want)}",
                                 do=f"{AGAIN}, or name its own cache")
        missing = [n for n in expect.names if n not in self.tensors]
        if missing:
            raise CacheError(f"the calibration cache lacks {len(missing)} of {len(expect.names)} tensors", where=where,
                             why=f"for example {', '.join(missing[:3])}", do=AGAIN)

    @staticmethod
    def from_json(data: bytes | str, where: str = "") -> Calibration:
        """A calibration from the file's text. CacheError if it is malformed or holds numbers that cannot be."""
        try:
            return cache_file.decode(data.encode() if isinstance(data, str) else data)
        except (msgspec.DecodeError, UnicodeError, RecursionError, cache_file.FaultError) as e:
            raise CacheError("the calibration cache is malformed", where=where, why=str(e) or type(e).__name__,
                             do=f"mend it, or {AGAIN}") from e

    @staticmethod
    def load(path: str | os.PathLike[str], expect: Expect | None = None) -> Calibration:
        """A calibration from a file, checked. CacheError if it is damaged, too large, or of something else."""
        try:
            if os.stat(path).st_size > MAX_BYTES:
                raise CacheError("the calibration cache is too large", where=str(path),
                                 why=f"over {MAX_BYTES >> 20} MiB", do=AGAIN)
            data = Path(path).read_bytes()
        except OSError as e:
            raise CacheError("the calibration cache cannot be read", where=str(path), why=e.strerror or str(e),
                             do=f"check the path, or {AGAIN}") from e
        out = Calibration.from_json(data, str(path))
        if expect is not None:
            out.check(expect, str(path))
        return out


def joined(parts: Sequence[Calibration], data: str = "") -> Calibration:
    """The calibration over the samples of all parts, in this order: histograms, extremes and counts are those of one
    calibration over all of them; sums differ by the order of rounding. `data`: the digest of the whole.

    InputError without a part; CacheError where the parts are of different models, graphs or preprocessing.
    """
    if not parts:
        raise InputError("there is no calibration to join", do="calibrate at least one share")
    first = parts[0]
    for p in parts[1:]:
        p.check(Expect(first.model, first.graph, first.preprocessing, "", tuple(first.tensors)), "one of the parts")
    tensors = {n: Tensor(t.layer, functools.reduce(Observer.merge, [p.tensors[n].seen for p in parts]))
               for n, t in first.tensors.items()}
    samples = sum(p.samples for p in parts)
    return Calibration(tensors, samples, sum(p.batches for p in parts), first.model, first.graph, first.preprocessing,
                       data, [ONE_SAMPLE] if samples == 1 else [], sum(p.seconds for p in parts),
                       sum(p.watching for p in parts), max(p.peak_bytes for p in parts))


def _short(key: str) -> str:
    return repr(key if len(key) <= 16 else key[:16] + "...") if key else "none"
