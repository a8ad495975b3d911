"""A failing model, made smaller for as long as it fails.

Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) over the nodes of
the main graph: every set of them is a model (`cuts`), fed with what a reference computed where it was cut. Then its
outputs are dropped in the same way.
"""

from __future__ import annotations

import json
import math
import pickle
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, ModelError, WhetError
from whet.tools.debug.cuts import Cutter
from whet.tools.debug.deviation import Tolerance
from whet.tools.debug.references import check as check_reference
from whet.tools.debug.references import reference
from whet.tools.debug.repeat import end
from whet.tools.debug.subject import Model, Subject, fixed, plain, random_values, values
from whet.tools.debug.trial import HELD, Job, Nursery, Verdict
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.shapes import types

Feeds = dict[str, Any]
Progress = Callable[[str, int, int], None]
Found = Callable[[OnnxModel, Feeds], None]


@dataclass
class Reduced:
    """What `reduce` found.

    failure: how the given model fails; its kind is `held` if it does not.
    model, feeds: the least model that fails alike, and its inputs. trials: how many candidates were run.
    notes: what limits the result.
    """

    failure: Verdict
    model: OnnxModel
    feeds: Feeds
    nodes_before: int
    trials: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """True if the given model does not fail."""
        return self.failure.kind == HELD

    @property
    def nodes(self) -> int:
        """Of the main graph that is left."""
        return len(self.model.proto.graph.node)

    def document(self) -> dict[str, Any]:
        """The whole as JSON has it."""
        g = self.model.proto.graph
        return {"schema": 1, "held": self.held,
                "failure": {"kind": self.failure.kind, "code": self.failure.code, "what": self.failure.what},
                "nodes_before": self.nodes_before, "nodes": self.nodes, "trials": self.trials,
                "seconds": round(self.seconds, 3), "notes": self.notes,
                "left": [{"name": n.name, "op": n.op_type, "inputs": list(n.input), "outputs": list(n.output)}
                         for n in g.node]}


def reduce(model: Model, feeds: Mapping[str, np.ndarray] | None = None, *, check: str = "",
           against: str = "onnxruntime", timeout: float = 60.0, bf16: bool = False, atol: float | None = None,
           rtol: float | None = None, shapes: Mapping[str, Sequence[int]] | None = None, threads: int | None = None,
           opt_level: int = 0, limit: float = math.inf, progress: Progress = lambda what, done, total: None,
           found: Found = lambda model, feeds: None) -> Reduced:
    """The least part of a model that fails as the whole does.

    check:   a command with {model} (a file), and {inputs} (an .npz) if it wants them, that exits with 0 for a model
             which is well; any other way to end is the failure. Without it: whet builds the model, runs it and
             compares with the reference, each candidate in a process of its own.
    against: the reference, see `references.reference`. Where it does not run the model, values are random.
    timeout: seconds of a candidate; one that takes longer hangs.
    limit:   seconds of the whole search, after which the least model so far is the result.
    found:   told of each smaller model that fails, so that it can be kept.

    A failure is the same if its kind is, and its error's class and words less names and numbers, its signal or its
    exit code. Errors as of `Subject.open`; InputError for a command without {model}.
    """
    check_reference(against)
    command = shlex.split(check) if check else []
    if check and not any("{model}" in w for w in command):
        raise InputError("the command has no {model}", where=check, do="write it where the model's file is named")
    start = time.monotonic()
    subject = Subject.open(model, feeds, shapes, fix=False)
    precision = "bf16" if bf16 else "fp32"
    progress(f"running the reference, {against}", 0, 0)
    notes: list[str] = []
    recorded = _recorded(subject, against, notes)
    allowed = Tolerance.of(precision, atol, rtol)
    trials = _Trials(command, timeout, Job({}, {}, precision, (allowed.absolute, allowed.relative), threads, opt_level),
                     recorded)

    try:
        progress("running the whole model", 0, 0)
        whole, failure = subject.model, Verdict(HELD)
        for candidate in _wholes(subject):
            failure = trials.run(candidate, subject.feeds)
            whole = candidate
            if failure.kind != HELD:
                break
        if failure.kind == HELD and not command and not recorded:
            raise ModelError("the model builds and runs, and nothing says whether its results are right",
                             where=subject.model.name, why=notes[0], do="take another reference with --against")
        out = Reduced(failure, whole, subject.feeds, len(whole.proto.graph.node), notes=notes)
        if failure.kind != HELD:
            cutter = Cutter(whole, {**recorded, **subject.feeds}, types(subject.model.proto))
            _search(out, cutter, trials, start + limit, progress, found)
    finally:
        trials.close()
    out.trials, out.seconds = trials.count, time.monotonic() - start
    return out


def _wholes(subject: Subject) -> list[OnnxModel]:
    """The model with its dimensions fixed, which makes all parts simpler, and as it is."""
    try:
        return [fixed(subject.model, subject.feeds), subject.model]
    except ModelError:
        return [subject.model]


def _recorded(subject: Subject, against: str, notes: list[str]) -> dict[str, Any]:
    """All intermediate values, as far as the reference gives them."""
    try:
        right = reference(subject.model, subject.feeds, [n for n, _ in values(subject.model)], against)
    except ModelError as e:
        notes.append(f"{e.what}: {e.why}. Values between nodes are random, and results are not compared")
        return {}
    return {k: plain(v) for k, v in right.items()}


def _search(out: Reduced, cutter: Cutter, trials: _Trials, until: float, progress: Progress, found: Found) -> None:
    """Shrink `out.model` for as long as it fails as `out.failure` says."""
    total = len(cutter.nodes)

    def fails(nodes: Sequence[int], outputs: Sequence[str] | None = None) -> bool:
        progress(f"{len(out.model.proto.graph.node)} nodes left, trial {trials.count + 1}", total - out.nodes, total)
        try:
            part, feeds = cutter.part(nodes, outputs)
        except WhetError:  # values of an unknown type, types that contradict each other
            return False
        if not part.proto.graph.node or not trials.run(part, feeds).same(out.failure):
            return False
        out.model, out.feeds = part, feeds
        found(part, feeds)
        return True

    def late() -> bool:
        return time.monotonic() > until

    nodes = minimized(list(range(total)), fails, late)
    names = [o.name for o in out.model.proto.graph.output]
    if len(names) > 1:
        minimized(names, lambda some: fails(nodes, some), late)
    if late():
        out.notes.append("stopped at the time limit: a smaller model may fail too")


def minimized(items: list[Any], fails: Callable[[list[Any]], bool], late: Callable[[], bool]) -> list[Any]:
    """A subset that fails, none of whose items can be left out alone (ddmin). The whole is known to fail.

    late: ends the search where it is.
    """
    tried: set[tuple[Any, ...]] = set()

    def fresh(some: list[Any]) -> bool:
        key = tuple(some)
        if not some or key in tried or late():
            return False
        tried.add(key)
        return fails(some)

    parts = 2
    while len(items) > 1 and not late():
        ends = list(pairwise(len(items) * i // parts for i in range(parts + 1)))
        chunks = [items[a:b] for a, b in ends]
        rest = [items[:a] + items[b:] for a, b in ends]
        smaller = next((c for c in chunks if fresh(c)), None)
        if smaller is not None:
            items, parts = smaller, 2
            continue
        smaller = next((c for c in rest if fresh(c)), None)
        if smaller is not None:
            items, parts = smaller, max(parts - 1, 2)
        elif parts >= len(items):
            break
        else:
            parts = min(len(items), parts * 2)
    return items


class _Trials:
    """Runs candidates in child processes."""

    def __init__(self, command: Sequence[str], timeout: float, job: Job, recorded: Mapping[str, Any]) -> None:
        self.command, self.timeout, self.job, self.recorded = command, timeout, job, recorded
        self.count = 0
        self.nursery: Nursery | None = None

    def close(self) -> None:
        """End the process that starts candidates."""
        if self.nursery is not None:
            self.nursery.close()

    def run(self, model: OnnxModel, feeds: Feeds) -> Verdict:
        """How the candidate ends."""
        self.count += 1
        with tempfile.TemporaryDirectory(prefix="whet-") as name:
            folder = Path(name)
            model.save(folder / "model.onnx", share=False)
            return self._check(folder, feeds) if self.command else self._compare(folder, model, feeds)

    def _check(self, folder: Path, feeds: Feeds) -> Verdict:
        inputs = folder / "inputs.npz"
        np.savez(inputs, **arrays(feeds))  # type: ignore[arg-type]
        code = self._wait([w.replace("{model}", str(folder / "model.onnx")).replace("{inputs}", str(inputs))
                           for w in self.command])
        if code is None:
            return Verdict("hang", "", f"over {self.timeout:g} s")
        if code < 0:
            return Verdict("crash", str(-code), _signal(-code))
        return Verdict("exit", str(code), f"exit code {code}") if code else Verdict(HELD)

    def _compare(self, folder: Path, model: OnnxModel, feeds: Feeds) -> Verdict:
        random = random_values(model)
        expected = {o.name: self.recorded[o.name] for o in model.proto.graph.output
                    if o.name in self.recorded and o.name not in random}
        job = Job(feeds, expected, self.job.precision, self.job.tolerance, self.job.threads, self.job.opt_level)
        (folder / "job.pickle").write_bytes(pickle.dumps(job))
        self.nursery = self.nursery or Nursery()
        code = self.nursery.run(folder, self.timeout)
        stage, verdict = folder / "stage.txt", folder / "verdict.json"
        where = stage.read_text() if stage.exists() else "start"
        if code is None:
            return Verdict("hang", where, f"over {self.timeout:g} s, during {where}")
        if code == 0 and verdict.exists():
            return Verdict(*json.loads(verdict.read_text()))
        return Verdict("crash", f"{where} {code}", f"{_signal(-code) if code < 0 else f'exit code {code}'}, during "
                                                  f"{where}")

    def _wait(self, command: Sequence[str]) -> int | None:
        """The exit code; None if it took too long."""
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, start_new_session=True)
        except OSError as e:
            raise InputError(f"the command cannot be run: {command[0]}", why=e.strerror or str(e),
                             do="check its name and path") from None
        try:
            return child.wait(self.timeout)
        except subprocess.TimeoutExpired:
            end(child)
            return None
        except BaseException:  # Ctrl-C
            end(child)
            raise


def arrays(feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Those of the inputs that an .npz file can hold: arrays of numbers and strings."""
    return {k: v.astype(str) if v.dtype.kind == "O" else v for k, v in feeds.items() if isinstance(v, np.ndarray)}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
