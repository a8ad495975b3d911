"""How long a server works on a batch: from measurement records, typed in, or a distribution that theory knows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from whet.errors import InputError
from whet.measure.record import Measurement

_LEVELS = 1024  # of the quantile function that measured samples are drawn from


@dataclass(frozen=True)
class Service:
    """Seconds per batch by batch size, of one server (a context), with `contexts` of them on one device.

    batches:      measured batch sizes, rising. Sizes between two are interpolated, smaller ones take as long as the
                  smallest (they are padded to it), larger ones are refused.
    seconds:      mean seconds per batch of each.
    spread:       `deterministic`: always the mean; `exponential`: as queueing theory likes it; `measured`: drawn from
                  `samples`, seconds per batch as measured, for each size.
    memory_bytes: that one server needs, None if nobody knows.
    contexts:     servers that shared the device while this was measured, all of them busy.
    origin:       where the figures come from, for people.
    """

    batches: tuple[int, ...]
    seconds: tuple[float, ...]
    spread: Literal["deterministic", "exponential", "measured"] = "deterministic"
    samples: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    memory_bytes: int | None = None
    contexts: int = 1
    origin: str = "typed in"

    def __post_init__(self) -> None:
        if not self.batches or len(self.batches) != len(self.seconds):
            raise InputError("a service needs seconds for each batch size", where=self.origin)
        if self.batches[0] < 1 or any(a >= b for a, b in pairwise(self.batches)):
            raise InputError("batch sizes must rise, from 1 at least", where=self.origin, why=f"{self.batches}")
        for size, value in zip(self.batches, self.seconds):
            _positive(value, f"the service time of batch {size}", self.origin)
        if self.spread == "measured" and (len(self.samples) != len(self.batches) or not all(self.samples)):
            raise InputError("measured service times need samples of each batch size", where=self.origin)
        if self.contexts < 1 or (self.memory_bytes is not None and self.memory_bytes <= 0):
            raise InputError("contexts and memory must be positive", where=self.origin,
                             why=f"{self.contexts} contexts, {self.memory_bytes} bytes each")

    @classmethod
    def table(cls, seconds: Mapping[int, float], *, memory_bytes: int | None = None, contexts: int = 1,
              origin: str = "typed in") -> Service:
        """Seconds per batch as typed in, {batch size: seconds}, without spread."""
        sizes = sorted(seconds)
        return cls(tuple(sizes), tuple(float(seconds[s]) for s in sizes), memory_bytes=memory_bytes, contexts=contexts,
                   origin=origin)

    @classmethod
    def throughput(cls, per_second: float, *, memory_bytes: int | None = None, origin: str = "typed in") -> Service:
        """A server that does `per_second` requests one by one, each in the same time."""
        return cls.table({1: 1 / _positive(per_second, "the throughput of a server", origin)},
                         memory_bytes=memory_bytes, origin=origin)

    @classmethod
    def linear(cls, alpha: float, tau0: float, largest: int, *, origin: str = "typed in") -> Service:
        """tau(b) = alpha * b + tau0 seconds, the model of Inoue (arXiv 1912.06322)."""
        return cls.table({size: alpha * size + tau0 for size in {1, largest}}, origin=origin)

    @classmethod
    def exponential(cls, mean: float) -> Service:
        """Requests one by one, exponential with `mean` seconds."""
        return cls((1,), (mean,), "exponential", origin="theory")

    @property
    def largest(self) -> int:
        """The largest batch whose time is known."""
        return self.batches[-1]

    def mean(self, size: int) -> float:
        """Mean seconds of a batch. InputError beyond the largest measured size: nothing is extrapolated."""
        if not 1 <= size <= self.largest:
            raise InputError(f"nobody knows how long a batch of {size} takes", where=self.origin,
                             why=f"the largest that was measured is {self.largest}",
                             do=f"measure batch {size}, or allow batches of {self.largest} at most")
        return float(np.interp(size, self.batches, self.seconds))

    def capacity(self, largest: int = 1) -> float:
        """Requests per second of one server that always finds `largest` waiting: largest / tau(largest)."""
        return largest / self.mean(largest)

    def quantile(self, q: float, size: int = 1) -> float:
        """The q-quantile of the seconds of a batch."""
        mean = self.mean(size)
        if self.spread == "deterministic":
            return mean
        if self.spread == "exponential":
            return -mean * math.log1p(-q)
        return float(np.interp(size, self.batches, [np.quantile(s, q) for s in self.samples]))

    @property
    def variation(self) -> float:
        """Squared coefficient of variation of a batch's seconds, of the size where they vary most."""
        if self.spread == "deterministic":
            return 0.0
        if self.spread == "exponential":
            return 1.0
        return max(float(np.var(s) / np.mean(s) ** 2) for s in self.samples)

    def drawn(self, rng: np.random.Generator, count: int, largest: int) -> Callable[[int, int], float]:
        """A function (size, i) -> seconds of the batch whose first request is number i < count.

        What i draws does not depend on how many servers there are, so that fleets are compared with common random
        numbers. Of measured sizes, a level of their quantile functions is drawn, and these are interpolated.
        """
        self.mean(largest)  # refused if nobody knows it
        means = np.interp(np.arange(largest + 1), self.batches, self.seconds).tolist()
        if self.spread == "deterministic":
            return lambda size, i: means[size]
        if self.spread == "exponential":
            noise = rng.standard_exponential(count).tolist()
            return lambda size, i: means[size] * noise[i]
        rows = [[], *(self._levels(size).tolist() for size in range(1, largest + 1))]
        picks = rng.integers(0, _LEVELS, count).tolist()
        return lambda size, i: rows[size][picks[i]]

    def each(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Seconds of `count` requests that are served one by one; the same numbers as `drawn` gives for size 1."""
        if self.spread == "deterministic":
            return np.full(count, self.mean(1))
        if self.spread == "exponential":
            return self.mean(1) * rng.standard_exponential(count)
        return self._levels(1)[rng.integers(0, _LEVELS, count)]

    def _levels(self, size: int) -> np.ndarray:
        """Levels of the quantile function of a batch's seconds, interpolated between those of measured sizes."""
        levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
        place = float(np.interp(size, self.batches, np.arange(len(self.batches))))
        low = int(place)
        rows = []
        for i in (low, min(low + 1, len(self.batches) - 1)):
            row = np.quantile(self.samples[i], levels, method="inverted_cdf")
            rows.append(row * (self.seconds[i] / row.mean()))  # samples may be a part of all calls: keep the mean
        return rows[0] + (place - low) * (rows[1] - rows[0])


def services(records: Iterable[Measurement]) -> dict[int, Service]:
    """Services by the number of contexts that shared the device while they were measured (`load.concurrency`).

    All records are of one model, backend, precision, thread count and device; several of one batch size and
    concurrency are pooled. InputError if they are not, or if none has a latency.
    """
    used = [r for r in records if r.latency is not None]
    if not used:
        raise InputError("no record has a latency", do="whet bench MODEL --json FILE measures one")
    kinds = {"model": {r.model.sha256 or r.model.name for r in used}, "backend": {r.backend for r in used},
             "precision": {r.precision for r in used}, "number of threads": {str(r.threads) for r in used},
             "device": {_device(r) for r in used}}
    for what, found in kinds.items():
        if len(found) > 1:
            raise InputError(f"the records differ in their {what}", why=", ".join(sorted(found)),
                             do="a fleet is sized from measurements of one thing: choose them by model, backend, "
                                "precision and threads")
    for r in used:
        if r.load.pattern != "closed-loop" or (r.source is not None and r.load.concurrency > 1):
            raise InputError(
                "these latencies may hold waits, and are no service times", where=f"{r.model.name}, {r.backend}",
                why=f"measured under a load of the kind `{r.load.pattern}`, concurrency {r.load.concurrency}"
                    + (f", by {r.source.tool}" if r.source is not None else ""),
                do="take records of closed loops: whet's own, or another tool's at concurrency 1")
        if len(r.device.gpus) > 1 or not _busy(r):
            raise InputError(
                "these latencies are not of contexts that share a device", where=f"{r.model.name}, {r.backend}",
                why=f"measured on {len(r.device.gpus)} GPUs at once" if len(r.device.gpus) > 1 else
                    f"{r.load.concurrency} at once, but throughput x latency says fewer (Little's law)",
                do="measure contexts on one device: whet bench PLAN --contexts N --json FILE")
    groups: dict[int, dict[int, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for r in used:
        groups[r.load.concurrency][batch_size(r)].append(r)
    return {contexts: _pooled(by_size, contexts) for contexts, by_size in sorted(groups.items())}


def _busy(record: Measurement) -> bool:
    """Whether calls as long as stated, as many a second as stated, keep the contexts busy that are stated."""
    if record.load.concurrency == 1 or record.throughput is None or record.latency is None:
        return True
    return record.throughput / batch_size(record) * record.latency.mean >= 0.7 * record.load.concurrency


def batch_size(record: Measurement) -> int:
    """Samples of one call: the first dimension, which all inputs must share."""
    firsts = {shape[0] for shape in record.shapes.values() if shape}
    if len(firsts) != 1 or min(firsts) < 1:
        raise InputError("the batch size of a record is not clear", where=f"{record.model.name}, {record.backend}",
                         why=f"first dimensions of the inputs: {sorted(firsts) or 'none'}",
                         do="type the service times in: --service 1:0.004,8:0.011")
    return firsts.pop()


def _pooled(by_size: Mapping[int, list[Measurement]], contexts: int) -> Service:
    sizes = sorted(by_size)
    seconds, samples, memory = [], [], []
    for size in sizes:
        latencies = [r.latency for r in by_size[size] if r.latency is not None]
        weights = [l.count for l in latencies]
        seconds.append(sum(l.mean * n for l, n in zip(latencies, weights)) / sum(weights))
        samples.append(tuple(s for l in latencies for s in l.samples))
        memory += [r.memory.peak_bytes for r in by_size[size] if r.memory is not None]
    first = by_size[sizes[0]][0]
    known = all(len(s) >= 2 for s in samples)
    shared = f", {contexts} contexts on the device" if contexts > 1 else ""
    origin = (f"measured: {first.model.name}, {first.backend} {first.precision}, {first.threads or 'unknown'} threads, "
              f"{_device(first)}{shared}, {first.date[:10]}")
    made = Service(tuple(sizes), tuple(seconds), memory_bytes=max(memory, default=None), contexts=contexts,
                   origin=origin)
    return replace(made, spread="measured", samples=tuple(samples)) if known else made


def _device(record: Measurement) -> str:
    gpus = "" if not record.device.gpus else f" with {', '.join(g.name for g in record.device.gpus)}"
    return record.device.name + gpus


def _positive(value: float, what: str, where: str = "") -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} must be a positive number", where=where, why=f"{value}")
    return value
