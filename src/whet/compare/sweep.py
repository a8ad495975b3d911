"""A comparison from beginning to end, in sessions: one batch, one number of threads, one build of every cell.

In a session all cells of this process are built, checked, and timed in turns. What is finished goes into the journal at
once: memory, accuracy and other hosts' records each by itself, timings by session, since cells that take turns are
finished together.
"""

from __future__ import annotations

import gc
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from whet.compare import inputs
from whet.compare.accuracy import Judge
from whet.compare.backends import Backend
from whet.compare.grid import Cell
from whet.compare.memory import memory_of
from whet.compare.openers import Opened, Progress, Workshop, open_cell
from whet.compare.result import Build, Failure
from whet.compare.session import ALLOWED, Reference, output_error
from whet.errors import InputError, UnsupportedError, WhetError
from whet.measure import alternate
from whet.measure.record import Accuracy, Memory, OutputError, PlanId
from whet.measure.tools import stamp
from whet.precision.data import Preprocess

KEPT = 1500  # samples of a build that are kept, evenly spaced
STACK = 12  # lines of a failure's stack
CODED = ("int8", "fp8")  # whose error is stated, not judged


class Timed(Struct, frozen=True, kw_only=True):
    """A cell in a session."""

    build: Build | None = None
    failure: Failure | None = None
    version: str = ""
    detail: str = ""
    plan: PlanId | None = None
    size_bytes: int | None = None
    error: OutputError | None = None
    gpus: tuple[int, ...] = ()


Opener = Callable[[Cell, Mapping[str, np.ndarray]], Opened]


@dataclass
class Sweep:
    """What is measured, and how. `others` opens cells that are not built here (servers), by backend."""

    cells: Sequence[Cell]
    shop: Workshop
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    inputs: Any = None
    evaluation: Any = None
    metric: str = "divergence"
    max_drop: float = 0.5
    eval_samples: int | None = None
    preprocess: Preprocess | None = None
    builds: int = 3
    seconds: float = 3.0
    memory: bool = True
    others: Mapping[str, Opener] = field(default_factory=dict)

    def sessions(self) -> list[tuple[int, int | None, int]]:
        """(batch, threads, number of the build), builds last."""
        every: list[tuple[int, int | None]] = [(c.batch, c.threads) for c in self.cells]
        ours = {pair for pair in every if pair[1] is not None}
        pairs = [p for p in dict.fromkeys(every) if p in ours or not ours]
        return [(b, t, k) for b, t in pairs for k in range(self.builds)]

    def of(self, batch: int, threads: int | None) -> list[Cell]:
        """The cells of a session: those whose threads are a server's own take part in all of their batch."""
        return [c for c in self.cells if c.batch == batch and c.threads in (threads, None)]


@dataclass
class Measured:
    """What was found: sessions by (batch, threads), memory by cell, accuracy by kind."""

    timed: dict[tuple[int, int | None], list[dict[str, Timed]]]
    memory: dict[str, Memory]
    accuracy: dict[str, Accuracy]
    notes: list[str]


class Lines(Protocol):
    """Finished work by key: the journal, or a part of it."""

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str, kind: Any) -> Any:
        """The value, as of that type."""

    def add(self, key: str, value: Any) -> None:
        """A value that is finished."""


def run(sweep: Sweep, journal: Lines, progress: Progress = lambda what, done, total: None) -> Measured:
    """Measure what the journal does not have. A cell that fails is recorded with its error, and the others go on;
    what fails for all (a full disk, a wrong input) is raised."""
    sessions = sweep.sessions()
    notes: list[str] = []
    for number, session in enumerate(sessions):
        if timing_key(session) not in journal:
            run_session(sweep, session, journal, _named(progress, f"{number + 1}/{len(sessions)} "), notes)
    return collected(sweep, journal, notes)


def timing_key(session: tuple[int, int | None, int]) -> str:
    """What the journal calls a session's timings."""
    batch, threads, k = session
    return f"timing/{batch}/{threads}/{k}"


def run_session(sweep: Sweep, session: tuple[int, int | None, int], lines: Lines,
                progress: Progress = lambda what, done, total: None, notes: list[str] | None = None) -> None:
    """One session (batch, threads, number of the build), anywhere: all that it finds is added to `lines`, its timings
    last; accuracy and memory that are in `lines` are not measured again. Errors as of `run`."""
    with ExitStack() as stack:
        timed = _session(sweep, lines, stack, *session, progress, [] if notes is None else notes)
        lines.add(timing_key(session), timed)
    gc.collect()


def collected(sweep: Sweep, journal: Lines, notes: Sequence[str] = ()) -> Measured:
    """What finished sessions found."""
    found = Measured({}, {}, {}, list(notes))
    for session in sweep.sessions():
        rows = journal.get(timing_key(session), dict[str, Timed])
        found.timed.setdefault(session[:2], []).append(rows)
    for c in sweep.cells:
        if (at := f"memory/{c.key}") in journal:
            found.memory[c.key] = journal.get(at, Memory)
        if (at := f"accuracy/{c.kind}") in journal:
            found.accuracy[c.kind] = journal.get(at, Accuracy)
    return found


def _named(progress: Progress, before: str) -> Progress:
    return lambda what, done, total: progress(before + what, done, total)


def _session(sweep: Sweep, journal: Lines, stack: ExitStack, batch: int, threads: int | None, k: int,
             progress: Progress, notes: list[str]) -> dict[str, Timed]:
    """Open, check and time all cells of a session; by key."""
    shapes = sweep.shop.signature.at(batch, sweep.shapes)
    feeds = inputs.feeds(sweep.shop.signature, shapes, sweep.inputs, sweep.preprocess)
    out: dict[str, Timed] = {}
    opened: dict[str, Opened] = {}
    for cell in sweep.of(batch, threads):
        try:
            opener = sweep.others.get(cell.backend)
            one = opener(cell, feeds) if opener else open_cell(sweep.shop, cell, feeds, progress)
        except WhetError as e:
            out[cell.key] = Timed(failure=failure(e))
            continue
        stack.callback(one.backend.close)
        opened[cell.key] = one
    reference = _reference(sweep, opened, feeds, threads)
    judge = Judge(sweep, reference, notes) if sweep.evaluation is not None else None
    by_key = {c.key: c for c in sweep.of(batch, threads)}
    if judge is not None and any(f"accuracy/{by_key[key].kind}" not in journal for key in opened):
        judge.prepare(batch, progress)  # not within the loop: where the data do not fit, no cell can be judged
    errors: dict[str, OutputError] = {}
    for key, one in list(opened.items()):
        cell = by_key[key]
        try:
            if reference is not None and one.backend is not reference[0]:
                allowed = None if cell.precision in CODED else ALLOWED.get(cell.precision)
                errors[key] = output_error(one.backend.run(), reference[1], allowed)
            if judge is not None and (at := f"accuracy/{cell.kind}") not in journal:
                if (found := judge.of(one, cell, progress)) is not None:
                    journal.add(at, found)
            if sweep.memory and f"memory/{key}" not in journal and cell.backend not in sweep.others:
                progress(f"peak memory of {cell.kind}", 0, 0)
                if (memory := _memory(sweep.shop, cell, one, feeds)) is not None:
                    journal.add(f"memory/{key}", memory)
        except WhetError as e:
            out[key] = Timed(failure=failure(e))
            del opened[key]
    if not opened:
        return out
    progress("timing, in turns", 0, 0)
    series = alternate({key: one.backend.run for key, one in opened.items()}, seconds=sweep.seconds, turn_seconds=0.05)
    for key, one in opened.items():
        b = one.backend
        samples = series[key].samples
        kept = samples if len(samples) <= KEPT else samples[np.linspace(0, len(samples) - 1, KEPT).astype(int)]
        out[key] = Timed(
            build=Build(seconds=b.build_seconds, load_seconds=b.load_seconds, plan=b.plan.hash if b.plan else "",
                        rounds=tuple(float(f"{np.median(r):.6g}") for r in series[key].rounds),
                        samples=tuple(float(f"{s:.6g}") for s in kept), calls=len(samples)),
            version=b.version, detail=one.detail, plan=b.plan, size_bytes=b.size_bytes, error=errors.get(key),
            gpus=b.gpus)
    return out


def _reference(sweep: Sweep, opened: Mapping[str, Opened], feeds: Mapping[str, np.ndarray],
               threads: int | None) -> tuple[Backend, Reference] | None:
    """ONNX Runtime in fp32 (or as the quantized model is), else whet, among what is open. None where neither is."""
    precision = "int8" if sweep.shop.signature.quantized else "fp32"
    for name in ("onnxruntime", "whet"):
        for one in opened.values():
            if one.backend.key == f"{name} {precision}":
                return one.backend, Reference(one.backend.key, one.backend.run())
    return None


def _memory(shop: Workshop, cell: Cell, one: Opened, feeds: Mapping[str, np.ndarray]) -> Memory | None:
    """None where it is not measured: on GPUs, and outside Linux."""
    if one.backend.gpus:
        return None
    try:
        return memory_of(cell.backend, cell.precision, one.file or shop.torch, feeds, cell.threads,
                         shop.signature.outputs)
    except UnsupportedError:
        return None


def failure(e: WhetError) -> Failure:
    """The error with its stack, paths of files by their names alone."""
    frames = traceback.extract_tb(e.__traceback__)[-STACK:]
    return Failure(code=e.code, what=e.what, why=e.why[:2000],
                   stack=tuple(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for plans and quantized models that goes with the comparison."""
    return tempfile.TemporaryDirectory(prefix="whet-compare-")


def check(sweep: Sweep) -> None:
    """What can be known to be wrong before anything is built. InputError."""
    if sweep.builds < 1:
        raise InputError("--builds counts from 1", do="give three or more, to see how builds differ")
    stamp()  # a lock that is not there
    for batch in dict.fromkeys(c.batch for c in sweep.cells):
        shapes = sweep.shop.signature.at(batch, sweep.shapes)
        inputs.feeds(sweep.shop.signature, shapes, sweep.inputs, sweep.preprocess)
