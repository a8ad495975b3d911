"""A sweep as tasks on a Ray cluster.

Sessions (`sweep.run_session`) are what is timed, each with a machine to itself. Before them, beside each other: shares
of the calibration data, which join exactly; ONNX Runtime's quantizer; and the tuning of whet's plans, whose timings
come back, so that sessions build from a warm cache wherever they run. Each kind of hardware measures all cells by
itself, and its lines in the journal begin with its fingerprint.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from whet import errors
from whet.compare import assemble, inputs, ray_files
from whet.compare.grid import Cell
from whet.compare.journal import Journal
from whet.compare.ray_cluster import Cluster, Progress, Task
from whet.compare.ray_files import Packed
from whet.compare.ray_node import ORT, Found, Given, Work, perform
from whet.compare.result import Row
from whet.compare.sweep import Measured, Sweep, collected, timing_key
from whet.errors import InputError, WhetError
from whet.measure.record import Device
from whet.precision.cache import Calibration, joined
from whet.precision.data import open_data
from whet.tuning.cache import Entry, TimingCache, default_path

SHARE = 32  # samples of a share of the calibration data, at least
CODED = ("int8", "fp8")


class Part:
    """The lines of a journal whose keys begin with the same."""

    def __init__(self, journal: Journal, before: str) -> None:
        self.journal, self.before = journal, before + "/"

    def __contains__(self, key: str) -> bool:
        return self.before + key in self.journal

    def get(self, key: str, kind: Any) -> Any:
        """The value, as of that type."""
        return self.journal.get(self.before + key, kind)

    def add(self, key: str, value: Any) -> None:
        """A line, written at once."""
        self.journal.add(self.before + key, value)


def measure(cluster: Cluster, sweep: Sweep, journal: Journal, timing_cache: Path | None = None,
            progress: Progress = lambda what, done, total: None) -> list[tuple[Device, Measured]]:
    """Measure on the cluster what the journal does not have; for each kind of hardware, what was found.

    What a task found is in the journal, and in the timing cache (None: the user's), when it ends. Where the journal has
    cells of hardware of which no node is left, those count if they are complete, else a node of it is needed.

    InputError for data that cannot travel, and for more threads than nodes have CPUs; ServerError as of `Cluster.run`;
    what fails for all cells is raised as it is here.
    """
    if not sweep.shop.fresh_builds or timing_cache is not None:
        TimingCache.open(timing_cache or default_path()).check_writable()
    most = max((c.threads or 1 for c in sweep.cells), default=1)
    if most > cluster.cpus():
        raise InputError(f"{most} threads", why=f"a node of the cluster has {cluster.cpus()} CPUs",
                         do=f"give --threads {cluster.cpus()}, or less")
    board = _Board(cluster, sweep, journal, TimingCache.open(timing_cache or default_path()))
    for fingerprint, device in cluster.hardware().items():
        if "device" not in (lines := Part(journal, fingerprint)):
            lines.add("device", device)
    hardware = {k.removesuffix("/device"): journal.get(k, Device) for k in list(journal.found) if k.endswith("/device")}
    cluster.run([t for fingerprint in hardware for t in board.tasks(fingerprint)], progress)
    return [(device, collected(sweep, Part(journal, fingerprint), board.notes))
            for fingerprint, device in hardware.items()]


class _Board:
    """The tasks of a sweep, and what becomes of what they give."""

    def __init__(self, cluster: Cluster, sweep: Sweep, journal: Journal, cache: TimingCache) -> None:
        self.cluster, self.sweep, self.journal, self.cache = cluster, sweep, journal, cache
        self.notes: list[str] = []
        self.claimed: set[str] = set()  # accuracy and memory that a running session is at
        self.files: dict[str, dict[str, Packed]] = {}  # by hardware: what was made for its tasks
        self.quantized: dict[str, tuple[str, float]] = {}
        self.shares: dict[str, dict[int, Calibration]] = {}
        self.sent: Any = None  # the timing cache in the object store, while nothing is new

    @functools.cached_property
    def work(self) -> Any:
        """In the object store, when the first task begins: nothing travels where nothing is left to do."""
        import ray

        s, shop = self.sweep, self.sweep.shop
        torch: str | Packed = shop.torch
        if shop.torch and Path(shop.torch).is_file():
            torch = ray_files.pack_path(Path(shop.torch))
        sent: dict[Any, Any] = {}  # the same data may be all three

        def data(d: Any) -> Any:
            key = str(d) if isinstance(d, (str, Path)) else id(d)
            if key not in sent:
                sent[key] = _sendable(d)
            return sent[key]

        return ray.put(Work(
            ray_files.pack_model(shop.model), tuple(s.cells), s.shapes, data(s.inputs), data(s.evaluation),
            data(shop.calibration), s.preprocess, shop.calibration_samples, s.eval_samples, s.metric, s.max_drop,
            s.builds, s.seconds, s.memory, shop.target, shop.opt_level, torch, shop.fresh_builds))

    def tasks(self, fingerprint: str) -> list[Task]:
        """All that is left to do on one kind of hardware."""
        lines, shop = Part(self.journal, fingerprint), self.sweep.shop
        open_ = [s for s in self.sweep.sessions() if timing_key(s) not in lines]
        cells = [c for s in {s[:2]: s for s in open_}.values() for c in self.sweep.of(*s[:2])]
        out: list[Task] = []
        before: dict[str, set[str]] = {}  # by cell: what its sessions wait for
        coded = [c for c in cells if c.backend == "whet" and c.precision in CODED and not shop.signature.quantized]
        for batch in dict.fromkeys(c.batch for c in coded):
            mine = [c for c in coded if c.batch == batch]
            made = self._calibrations(fingerprint, lines, min(mine, key=lambda c: c.threads or 1))
            out += made
            for c in mine:
                before[c.key] = {t.key for t in made}
        peers = [c for c in cells if c.kind == "onnxruntime int8" and not shop.signature.quantized]
        if peers:
            task = self._task(fingerprint, "quantize", "ONNX Runtime's quantizer", peers[0].threads or 1,
                              (peers[0].batch,), self._quantized)
            out.append(task)
            before.update({c.key: {task.key} for c in peers})
        for c in cells:
            if c.backend == "whet" and not shop.fresh_builds and f"tuned/{c.key}" not in lines:
                task = self._task(fingerprint, f"tune/{c.key}", f"tuning {c.key}", c.threads or 1, (c,),
                                  functools.partial(self._tuned, c))
                task.after = frozenset(before.get(c.key, ()))
                out.append(task)
                before.setdefault(c.key, set()).add(task.key)
        for s in open_:
            out.append(self._session(fingerprint, lines, s, {k for c in self.sweep.of(*s[:2])
                                                             for k in before.get(c.key, ())}))
        return out

    def _task(self, fingerprint: str, what: str, label: str, cpus: int, arguments: tuple[Any, ...],
              done: Any) -> Task:
        """One that runs beside others. `what` begins with the name of its job."""
        def call() -> Any:
            return perform, (self.work, self._given(fingerprint), self.cluster.gpu, what.split("/")[0], arguments)

        def taken(found: Found) -> None:
            self._timings(found)
            if found.error is None:  # else a session meets the same, and says whose it is
                done(fingerprint, found)

        return Task(f"{fingerprint}/{what}", label, fingerprint, cpus, call, taken)

    def _given(self, fingerprint: str) -> Given:
        import ray

        if self.sent is None:
            self.sent = ray.put(msgspec.json.encode(self.cache.entries))
        return Given(self.sent, dict(self.files.get(fingerprint, {})), self.quantized.get(fingerprint, ("", 0.0)))

    def _timings(self, found: Found) -> None:
        for key, entry in msgspec.json.decode(found.timings, type=dict[str, Entry]).items():
            self.cache.put(key, entry)
            self.sent = None
        self.cache.save()

    # -- what comes before sessions --------------------------------------------------------

    def _calibrations(self, fingerprint: str, lines: Part, cell: Cell) -> list[Task]:
        """One for each share of the data, of a batch; none where the journal has it."""
        shop, key = self.sweep.shop, f"calibration/{cell.batch}"
        if key in lines:
            self._keep(fingerprint, cell.batch, lines.get(key, str).encode())
            return []
        specs = inputs.specs(shop.signature, shop.signature.at(cell.batch, self.sweep.shapes))
        data = open_data(shop.calibration, specs, preprocess=shop.preprocess, limit=shop.calibration_samples)
        threads = cell.threads or 1
        slots = sum(n.cpus // threads for n in self.cluster.nodes if n.device.fingerprint == fingerprint)
        batches = -(-(data.samples or 1) // max(data.size, 1))
        of = max(1, min(slots, (data.samples or 0) // SHARE, batches))

        def done(k: int, fingerprint: str, found: Found) -> None:
            parts = self.shares.setdefault(f"{fingerprint}/{key}", {})
            parts[k] = Calibration.from_json(found.file, "a share")
            if len(parts) == of:
                whole = joined([parts[i] for i in range(of)], data.digest() or parts[0].data).to_json(())
                lines.add(key, whole)
                self._keep(fingerprint, cell.batch, whole.encode())

        return [self._task(fingerprint, f"calibrate/{cell.batch}/{k}", f"calibrating, share {k + 1} of {of}", threads,
                           (cell.batch, threads, cell.precision, k, of), functools.partial(done, k)) for k in range(of)]

    def _keep(self, fingerprint: str, batch: int, data: bytes) -> None:
        name = f"calibration-{batch}.json"  # as the workshop calls it
        self.files.setdefault(fingerprint, {})[name] = ray_files.pack_bytes(name, data)

    def _quantized(self, fingerprint: str, found: Found) -> None:
        self.files.setdefault(fingerprint, {})[ORT] = ray_files.pack_bytes(ORT, found.file)
        self.quantized[fingerprint] = found.detail, found.seconds

    def _tuned(self, cell: Cell, fingerprint: str, found: Found) -> None:
        Part(self.journal, fingerprint).add(f"tuned/{cell.key}", len(found.timings))

    # -- sessions --------------------------------------------------------------------------

    def _session(self, fingerprint: str, lines: Part, session: tuple[int, int | None, int], after: set[str]) -> Task:
        batch, threads, k = session
        cells = self.sweep.of(batch, threads)
        wanted = {f"memory/{c.key}" for c in cells} | {f"accuracy/{c.kind}" for c in cells}
        mine: set[str] = set()

        def call() -> Any:
            taken = {key for key in wanted if key in lines or f"{fingerprint}/{key}" in self.claimed}
            mine.update(f"{fingerprint}/{key}" for key in wanted - taken)
            self.claimed.update(mine)
            return perform, (self.work, self._given(fingerprint), self.cluster.gpu, "time", (session, frozenset(taken)))

        def lost() -> None:
            self.claimed.difference_update(mine)
            mine.clear()

        def done(found: Found) -> None:
            lost()
            self._timings(found)
            if found.fingerprint != fingerprint:
                raise InputError("a node changed its hardware", why=f"it was {fingerprint}, now it is "
                                 f"{found.fingerprint}", do="run the command again")
            for key, value in found.lines.items():
                if key not in lines:
                    lines.add(key, value)
            self.notes += [n for n in found.notes if n not in self.notes]
            if found.error is not None:
                raise _error(*found.error)

        label = f"timing batch {batch}, {threads} threads, build {k + 1}"
        return Task(f"{fingerprint}/{timing_key(session)}", label, fingerprint, threads or 1, call, done, lost, True,
                    frozenset(after))


def _sendable(data: Any) -> Any:
    """Data as they travel: files packed, arrays as they are. InputError for what is neither."""
    if isinstance(data, tuple):
        return tuple(_sendable(d) for d in data)
    if isinstance(data, (str, Path)):
        path = Path(data)  # else "package.module:function", which nodes import
        return ray_files.pack_path(path) if path.exists() else str(data)
    if data is None or isinstance(data, np.ndarray):
        return data
    if isinstance(data, Mapping) and all(isinstance(a, np.ndarray) for a in data.values()):
        return dict(data)
    raise InputError(f"data of the type {type(data).__name__} cannot travel", where="a sweep on a cluster",
                     do="give a path, arrays, or package.module:function")


def _error(name: str, what: str, where: str, why: str, do: str) -> WhetError:
    kind = getattr(errors, name, WhetError)
    return kind(what, where=where, why=why, do=do)


def rows(cells: Sequence[Cell], found: Sequence[tuple[Device, Measured]], s: assemble.Settings) -> list[Row]:
    """A row for each cell on each kind of hardware, which is its place and in its key where there are several."""
    if len(found) == 1:
        device, measured = found[0]
        return assemble.rows(cells, measured, s, {c.backend: ("here", device) for c in cells})
    named, out = labels([d for d, _ in found]), list[Row]()
    for device, measured in found:
        name = named[device.fingerprint]
        mine = assemble.rows(cells, measured, s, {c.backend: (name, device) for c in cells})
        out += [msgspec.structs.replace(r, key=f"{r.key} on {name}") for r in mine]
    return out


def note(found: Sequence[tuple[Device, Measured]]) -> str:
    """Where it was measured, in a sentence."""
    return f"Measured on a Ray cluster, on nodes with {'; '.join(labels([d for d, _ in found]).values())}."


def labels(devices: Sequence[Device]) -> dict[str, str]:
    """What to call kinds of hardware, by fingerprint."""
    names = {d.fingerprint: ", ".join((d.name, *(g.name for g in d.gpus))) for d in devices}
    return {f: n if list(names.values()).count(n) == 1 else f"{n} ({f[:6]})" for f, n in names.items()}
