"""How fast an option is and how sure that is; and fleets of it for any load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from whet.decide.arrivals import Arrivals
from whet.decide.fleet import Fleet, pack, size_fleet
from whet.decide.scenario import Option, Source
from whet.decide.service import Service, services
from whet.decide.simulation import Batching, Simulated, enough_requests, simulate
from whet.decide.words import Say
from whet.errors import InputError, UnreachableError
from whet.measure.record import Accuracy, Measurement, read

FEWEST = 368  # samples from which on the largest bounds P99 from above with 97.5 %: 1 - 0.99^n >= 0.975
SIZED = 6  # loads between the ends of a range that fleets are sized for
FINE = 1.03  # loads that differ by less are not told apart
SWEEP_REQUESTS = 200_000  # of each fleet that is sized for other loads than the given one
TRUSTED = 0.05  # of `enough_requests`: with less, a run says nothing

Loader = Callable[[str, Path, Mapping[str, str]], list[Measurement]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Speed:
    """The service of an option, where it comes from, and what is lacking for a decision (nothing: enough is known).

    `elsewhere`: seconds that a request spends outside the server (network, a pipeline around it).
    `choices`: services by the number of contexts that share a device, where several were measured.
    """

    service: Service
    basis: Literal["measured", "typed in"]
    elsewhere: float
    lacking: tuple[Say, ...] = ()
    samples: int | None = None
    device: str = ""
    precision: str = ""
    accuracy: Accuracy | None = None
    records: tuple[Measurement, ...] = field(default=(), repr=False)
    choices: dict[int, Service] = field(default_factory=dict)


def from_file(name: str, folder: Path, select: Mapping[str, str]) -> list[Measurement]:
    """The records of a JSON file, relative to the scenario's folder; what is not selected is sorted out later."""
    return read(folder / name)


def speed(source: Source, index: int, load: Loader = from_file) -> Speed:
    """What is known of an option's speed. InputError where nothing is, or where it contradicts itself."""
    o = source.scenario.options[index]
    where = source.where(f"options[{index}]")
    network = o.network_ms / 1e3
    if o.measurements:
        return _measured(source, o, where, network, load)
    if o.batches:
        service = Service(*_rising(o), spread=o.spread or "exponential", contexts=o.contexts or 1,
                          memory_bytes=_bytes(o.context_gib), origin=f"{o.name}: typed in")
        return Speed(service, "typed in", network, _unknown_p99(o), None, o.device, o.precision)
    if o.throughput is None:
        raise InputError(f"how fast {o.name!r} is, is not known", where=where, why="no measurements, batches or "
                         "throughput are given", do="measure it: whet bench MODEL --json FILE, then measurements: FILE")
    contexts = o.contexts or 1
    mean = contexts / o.throughput  # of one of the contexts that share the instance
    service = Service((1,), (mean,), "exponential", memory_bytes=_bytes(o.context_gib), contexts=contexts,
                      origin=f"{o.name}: typed in")
    latency = None if o.latency_ms is None else o.latency_ms / 1e3
    around = max(0.0, latency - mean) if latency is not None else 0.0
    return Speed(service, "typed in", network + around, _unknown_p99(o), None, o.device, o.precision)


def _unknown_p99(o: Option) -> tuple[Say, ...]:
    """A mean alone says nothing of the tail: a typed-in speed needs its P99, or a statement of how times spread.

    Where only a P99 is stated, times are taken as exponential, which is on the safe side of what engines do.
    """
    if o.spread or o.p99_ms is not None:
        return ()
    return (Say("lacks-p99", {"option": o.name}),)


def _rising(o: Option) -> tuple[tuple[int, ...], tuple[float, ...]]:
    table = sorted((int(size), ms / 1e3) for size, ms in o.batches.items())
    return tuple(size for size, _ in table), tuple(seconds for _, seconds in table)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else math.ceil(gib * 2 ** 30)


def _measured(source: Source, o: Option, where: str, network: float, load: Loader) -> Speed:
    found = [r for r in load(o.measurements, source.folder, o.select) if _selected(r, o.select, where)]
    if not found:
        raise InputError(f"no record fits {o.name!r}", where=where, why=f"select {o.select} of {o.measurements}",
                         do="correct select, or measure it: whet bench MODEL --json FILE")
    try:
        by_contexts = services(found)
    except InputError as e:
        raise InputError(f"{o.name!r}: {e.what}", where=where, why=e.why,
                         do="say which: select: {backend: whet, precision: fp32}, or --set "
                            "options[0].select.backend=whet" if "differ" in e.what else e.do) from e
    if o.context_gib is not None or found[0].device.gpus:  # a record's memory is the host's
        by_contexts = {n: replace(s, memory_bytes=_bytes(o.context_gib)) for n, s in by_contexts.items()}
    service = by_contexts.get(o.contexts or min(by_contexts))
    if service is None:
        raise InputError(f"{o.name!r} was not measured with {o.contexts} contexts at once", where=where,
                         why=f"the records have {', '.join(map(str, by_contexts))}: contexts slow each other down",
                         do=f"measure at that concurrency, or say contexts: {next(iter(by_contexts))}")
    choices = by_contexts if o.contexts is None and len(by_contexts) > 1 else {}
    fewest = min(r.latency.count for r in found
                 if r.latency is not None and (choices or r.load.concurrency == service.contexts))
    lacking = (Say("few-samples", {"option": o.name, "count": fewest, "needed": FEWEST}),) if fewest < FEWEST else ()
    first = found[0]
    device = first.device.gpus[0].name if first.device.gpus else first.device.name
    if o.device and o.device.lower() not in device.lower() and not source.scenario.mixed_hardware:
        raise InputError(f"{o.name!r} was measured on other hardware than it is said to run on", where=where,
                         why=f"measured on {device}, device is {o.device}",
                         do="measure it there; or say mixed_hardware: true, and the report labels it")
    judged = next((r.accuracy for r in found if r.accuracy is not None and r.accuracy.judged is not None), None)
    return Speed(service, "measured", network, lacking, fewest, o.device or device, o.precision or first.precision,
                 judged, tuple(found), choices)


def _selected(r: Measurement, select: dict[str, str], where: str) -> bool:
    """Whether a record has these fields; of hashes the beginning is enough."""
    known = {"backend": r.backend, "precision": r.precision, "model": r.model.name, "device": r.device.name}
    hashes = {"sha256": r.model.sha256, "plan": r.plan.hash if r.plan is not None else ""}
    for name in select:
        if name not in known and name not in hashes:
            raise InputError(f"records are not selected by {name!r}", where=where, do=f"by {', '.join(known | hashes)}")
    return r.latency is not None and all(
        known[name] == value if name in known else hashes[name].startswith(value) for name, value in select.items())


class Fleets:
    """Fleets of one option under the objective, for the load that is given (`base`) and for others.

    Months of growth and draws need fleets for many loads. The number of devices rises with the load, so it is known
    between two loads that need as many; elsewhere loads between are sized, up to `SIZED` of them, and what is still
    between them is interpolated and rounded up. These fleets are simulated more shortly than `base`, and none is taken
    that is so busy that the run could not tell: at worst one device more than is needed.
    service:  with as many contexts on a device as do best, of those that were measured and fit into its memory.
    memory:   bytes of a device; None: not known.
    requests: of each simulation; None: as many as each needs.
    """

    def __init__(self, option: Option, known: Speed, arrivals: Arrivals, objective: float, spares: int = 0,
                 seed: int = 0, requests: int | None = None, progress: Progress | None = None,
                 memory: int | None = None) -> None:
        self.option, self.known, self.arrivals = option, known, arrivals
        self.batching = Batching(option.max_batch or 1, option.max_delay_ms / 1e3)
        self.limit, self.spares, self.seed = objective - known.elsewhere, spares, seed
        self._requests, self._progress = requests, progress
        if self.limit <= 0:
            raise UnreachableError(f"{option.name!r} spends the whole objective outside the server",
                                   why=f"{known.elsewhere * 1e3:g} ms of {objective * 1e3:g} ms are network and "
                                       "pipeline",
                                   do="relax the objective, or serve nearer to the user")
        self.service = known.service
        if known.choices:
            packing = pack(known.choices, arrivals, self.batching, self.limit, spares, device_memory=memory,
                           requests=requests, seed=seed, progress=progress)
            self.service, self.base = packing.best.service, packing.best
        else:
            self.base = self.sized(1.0)
        self._found = {1.0: self.base.devices}

    def sized(self, factor: float, max_batch: int | None = None, requests: int | None = None) -> Fleet:
        """The fleet for `factor` times the load, with batches of at most `max_batch` instead of the option's."""
        batching = self.batching if max_batch is None else Batching(max_batch, self.batching.max_delay)
        return size_fleet(self.service, self.arrivals.scaled(factor), batching, self.limit, self.spares,
                          requests=requests or self._requests, seed=self.seed, progress=self._progress)

    def cover(self, low: float, high: float) -> None:
        """Size fleets for loads between `low` and `high` times the given one."""
        for end in (low, high):
            if not min(self._found) * (1 - 1e-9) <= end <= max(self._found) * (1 + 1e-9):
                self._size(end)
        for _ in range(SIZED):
            known = sorted(self._found)
            open_ends = [(self._found[b] - self._found[a]) * math.log(b / a) if b > a * FINE else 0.0
                         for a, b in pairwise(known)]
            widest = int(np.argmax(open_ends)) if open_ends else 0
            if not open_ends or open_ends[widest] <= 0:
                return
            self._size(math.sqrt(known[widest] * known[widest + 1]))

    def around(self, count: int) -> list[Simulated]:
        """Fleets of fewer and more devices than the chosen one, about `count`: those of the search, and short runs of
        others where such can tell."""
        base, contexts = self.base, self.service.contexts
        found = {run.servers: run for run in base.tried}
        chosen, least = base.servers // contexts, math.ceil(base.stable / contexts)
        step = max(1, round((chosen - least) / count))
        for devices in (*range(chosen, least - 1, -step), *range(chosen + step, chosen + 3 * step + 1, step)):
            servers, length = devices * contexts, self._requests or SWEEP_REQUESTS
            if servers not in found and self._tells(self.arrivals, devices, length):
                found[servers] = simulate(self.service, self.arrivals, self.batching, servers, length, self.seed)
        return [found[servers] for servers in sorted(found)]

    def _tells(self, arrivals: Arrivals, devices: int, requests: int) -> bool:
        """Whether so short a run of so busy a fleet says anything."""
        load = arrivals.rate / (devices * self.service.contexts * self.service.capacity(self.batching.max_size))
        return load < 1 and enough_requests(self.service, arrivals, load) * TRUSTED <= requests

    def _size(self, factor: float) -> None:
        found = self._shorter(factor)
        below = [n for f, n in self._found.items() if f < factor]  # simulations differ by chance, fleets do not shrink
        above = [n for f, n in self._found.items() if f > factor]
        self._found[factor] = min(max(found, *below, 0), *above, max(found, *below, 0))

    def _shorter(self, factor: float) -> int:
        length = self._requests or SWEEP_REQUESTS
        try:
            fleet = self.sized(factor, requests=length)
        except UnreachableError:  # its interval is too wide for an objective that lies close
            return self.sized(factor).devices
        devices = fleet.servers // self.service.contexts
        while not self._tells(fleet.arrivals, devices, length):
            devices += 1
        return devices + self.spares

    def devices(self, factors: np.ndarray | Sequence[float]) -> np.ndarray:
        """Devices for loads that are `factors` times the given one; outside of what was sized in proportion."""
        x = np.asarray(factors, dtype=np.float64)
        knots = np.array(sorted(self._found))
        found = np.array([self._found[k] for k in knots], dtype=np.float64)
        inside = np.interp(x, knots, found)
        return np.ceil(np.where(x > knots[-1] * (1 + 1e-9), found[-1] * x / knots[-1], inside) - 1e-9)
