"""Choosing for a GPU: candidates are enumerated and compiled by children on all cores, timed by one of them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from whet.errors import InternalError, MissingExtraError, TuningError
from whet.ir.region import Region
from whet.lowering.storage import Launch
from whet.targets.base import Candidate
from whet.targets.cuda.target import CudaTarget
from whet.tuning import early, in_place, store
from whet.tuning.agree import dissenters
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.found import Choice, Progress, Tuned, describe, key_of
from whet.tuning.pool import Crew, NotTriedError, WorkerDied

# Candidates of each tactic measured per region at each --opt-level, and the seconds after which no more are begun.
CANDIDATES = {0: 0, 1: 3, 2: 6, 3: 16, 4: 32, 5: 1000}
BUDGET = {1: 20.0, 2: 40.0, 3: 70.0, 4: 400.0, 5: float("inf")}
SURE = 3  # the first of each tactic are measured however long that takes; after that, only tactics whose best so far
HOPE = {1: 1.5, 2: 1.5, 3: 1.6, 4: 2.5, 5: float("inf")}  # takes at most so many times the region's best
COMPILE_TIMEOUT, TRY_TIMEOUT, RUN_TIMEOUT = 180.0, 45.0, 30.0  # seconds: what must be compiled, what may be, a run
PLAYOFF, CLOSE = 5, 1.25  # how many of the best are timed again, and how close to the best they must be
COMPILING = 5  # times the seconds that early launch is measured for may go into compiling for it
LONGEST = 400  # characters of a failure that are kept
FATAL = ("LostDeviceError",)
WORKER = "whet.tuning.cuda_worker"
_Picked = tuple[Region, list[Candidate]]
_Last = tuple[list[Trial], "Future[Any]"] | None  # the best few, and their seconds in turns, to come


@dataclass
class Team:
    """The children of a build, or of several. `timer` is one child, alone on the GPU when it matters."""

    compilers: Crew
    timer: Crew
    users: int = 0


_teams: dict[int, Team] = {}  # by the GPU's number
_lock = threading.Lock()


@contextlib.contextmanager
def children(target: CudaTarget) -> Iterator[Team]:
    """Children for this target, which start as they are needed. Whoever asks within gets the same ones; they end with
    the outermost."""
    with _lock:
        team = _teams.get(target.index)
        if team is None:
            # Those that ask libraries open the GPU, which takes memory of it.
            most = max(2, target.gpu.memory_bytes >> 30) if target.gpu.live else cores()
            team = _teams[target.index] = Team(Crew(min(cores(), most), WORKER), Crew(1, WORKER, FATAL))
        team.users += 1
    try:
        yield team
    finally:
        with _lock:
            team.users -= 1
            over = team.users == 0
            if over:
                del _teams[target.index]
        if over:
            team.compilers.close()
            team.timer.close()


def choose(regions: Sequence[Region], target: CudaTarget, cache: TimingCache, opt_level: int, out: Tuned,
           progress: Callable[[Progress], None]) -> None:
    """Choose for regions that the cache does not know, each unlike the others. TuningError where nothing works."""
    if not regions:
        return
    _check_compiler()
    with children(target) as team:
        crew = team.compilers
        todo = _candidates(regions, target, crew, out, progress)
        if CANDIDATES[opt_level] == 0 or not target.gpu.live:
            _settle(todo, target, crew, out, progress)
            if not target.gpu.live:
                out.untuned = f"nothing was tuned: the plan is for any GPU of {target.gpu.arch}, and there was none"
            return
        cache.check_writable()
        before = {**crew.busy, **team.timer.busy}
        try:
            _Measuring(target, cache, crew, team.timer, opt_level, out, progress).run(todo)
        finally:
            cache.save()
        after = {**crew.busy, **team.timer.busy}
        out.work = {k: round(after[k] - before.get(k, 0.0), 1) for k in sorted(after)}
    store.prune()


class _Measuring:
    """Candidates that are compiled on all cores while one child times those that are ready.

    A few regions come after the other: a build that is ended in between has measured some to the end (the last round
    included, so that they are chosen as they would have been), and the next one goes on with the others.
    """

    def __init__(self, target: CudaTarget, cache: TimingCache, crew: Crew, device: Crew, opt_level: int, out: Tuned,
                 progress: Callable[[Progress], None]) -> None:
        self.target, self.cache, self.crew, self.device = target, cache, crew, device
        self.level, self.out, self.progress = opt_level, out, progress
        self.hope = HOPE[opt_level]
        self.best: dict[tuple[str, str], float] = {}  # by region and tactic; of all of them by ""
        self.hung: set[tuple[str, ...]] = set()  # sorts of candidates that are not tried again

    def run(self, todo: Sequence[_Picked]) -> None:
        """Time, and choose. Each region's trials are in the cache, and soon in its file, when they are complete."""
        self.device.submit(RUN_TIMEOUT, "open", self.target)  # while others compile
        begin = time.monotonic()
        picked = [(r, pick(c, CANDIDATES[self.level])) for r, c in todo]
        size = max(2, cores() // 4)
        jobs: list[list[Future[Any]]] = []
        for at in range(0, len(picked), size):
            group = picked[at:at + size]
            # The time that is left over goes to the groups behind.
            until = begin + BUDGET[self.level] * (at + len(group)) / len(picked)
            jobs += self._begin(group, until)
        events: queue.SimpleQueue[int] = queue.SimpleQueue()  # regions of which a candidate or the last round is done

        def noted(i: int) -> Callable[[object], None]:
            return lambda _: events.put(i)

        for i, theirs in enumerate(jobs):
            for job in theirs:
                job.add_done_callback(noted(i))
        awaited, done, total = [len(theirs) for theirs in jobs], 0, sum(map(len, jobs))
        finals: dict[int, tuple[list[Trial], _Last]] = {}
        undecided = len(picked)
        while undecided:
            i = events.get()
            region, candidates = picked[i]
            if i in finals:
                self._decide(region, *finals[i])
                undecided -= 1
            else:
                awaited[i] -= 1
                done += 1
                self.progress(Progress(done, total, describe(region)))
                if awaited[i] == 0:
                    finals[i] = self._compared(region, candidates, jobs[i])
                    jobs[i] = []
                    if (last := finals[i][1]) is not None:
                        last[1].add_done_callback(noted(i))
                    else:
                        events.put(i)
            self.cache.keep()

    def _begin(self, group: Sequence[_Picked], until: float) -> list[list[Future[Any]]]:
        """The candidates of some regions, the best few of each first: what is left when the time is over is what
        promised least."""
        jobs: list[list[Future[Any]]] = [[] for _ in group]
        for rank in range(max(len(c) for _, c in group)):
            for mine, (region, candidates) in zip(jobs, group):
                if rank < len(candidates):
                    c = candidates[rank]
                    own = sum(d.tactic == c.tactic for d in candidates[:rank])
                    mine.append(self._candidate(region, c, own, until))
        return jobs

    def _compared(self, region: Region, candidates: Sequence[Candidate], jobs: Sequence[Future[Any]]
                  ) -> tuple[list[Trial], _Last]:
        """A region's trials when all its candidates are through, and the last round, to come."""
        trials, samples, objects = [], [], []
        for c, job in zip(candidates, jobs):
            trial, sample, made = self._outcome(c, job)
            if trial is not None:
                trials.append(trial)
                samples.append(sample)
                objects.append(made)
        for k, why in dissenters(region, samples).items():
            trials[k].seconds, trials[k].failed = None, why
        return trials, self._last_round(region, trials, objects)

    def _candidate(self, region: Region, c: Candidate, rank: int, until: float) -> Future[Any]:
        """(objects, (seconds, sample)) of a candidate, to come. `rank`: among those of its tactic. `until`: when
        those beyond the first must have begun."""
        out: Future[Any] = Future()
        sig = region.signature()

        def hopeless() -> bool:
            mine, best = self.best.get((sig, c.tactic)), self.best.get((sig, ""))
            slow = mine is not None and best is not None and mine > self.hope * best
            return slow or time.monotonic() > until or _sort(c) in self.hung

        unless = hopeless if rank >= SURE else lambda: _sort(c) in self.hung
        target = self.target.timed
        compiled = self.crew.submit(TRY_TIMEOUT, "compile", target, region, c.tactic, c.params, unless=unless)

        def then(job: Future[Any]) -> None:
            if job.cancelled() or job.exception() is not None:
                out.set_exception(job.exception() if not job.cancelled() else WorkerDied("ended"))
                return
            objects = job.result()
            try:
                timed = self.device.submit(RUN_TIMEOUT, "time", target, region, c.tactic, c.params, objects,
                                           unless=unless)
            except RuntimeError as e:  # the crew is closed
                out.set_exception(e)
                return
            timed.add_done_callback(lambda t: self._timed(t, sig, c))
            timed.add_done_callback(lambda t: _forward(t, objects, out))

        compiled.add_done_callback(then)
        return out

    def _timed(self, job: Future[Any], signature: str, c: Candidate) -> None:
        """Remember the best of a region, and of its tactics; and what hung, which takes as long each time."""
        if job.cancelled():
            return
        if (e := job.exception()) is None:
            seconds = job.result()[0]
            for key in ((signature, ""), (signature, c.tactic)):
                self.best[key] = min(seconds, self.best.get(key, seconds))
        elif isinstance(e, WorkerDied) and str(e).startswith("hung"):
            self.hung.add(_sort(c))
            self.out.notes.append(f"{' '.join(_sort(c))} {e}: no other of its sort was tried")

    def _outcome(self, c: Candidate, job: Future[Any]) -> tuple[Trial | None, Any, dict[str, bytes]]:
        try:
            objects, (seconds, sample) = job.result()
        except NotTriedError:
            return None, None, {}
        except (RuntimeError, WorkerDied) as e:
            return Trial(c.tactic, c.params, failed=str(e)[:LONGEST]), None, {}
        return Trial(c.tactic, c.params, seconds=float(f"{seconds:.4g}")), sample, objects

    def _last_round(self, region: Region, trials: list[Trial], objects: list[dict[str, bytes]]
                    ) -> _Last:
        """The best few, timed again in turns: a single time may have met the device in a good or bad moment."""
        good = sorted((t.seconds, k) for k, t in enumerate(trials) if t.seconds is not None)
        close = [k for s, k in good[:PLAYOFF] if s <= CLOSE * good[0][0] + 0.5e-6]
        if good:
            self.out.objects.update(objects[good[0][1]])
        if len(close) < 2:
            return None
        several = [(trials[k].tactic, trials[k].params, objects[k]) for k in close]
        for k in close:
            self.out.objects.update(objects[k])
        job = self.device.submit(RUN_TIMEOUT, "playoff", self.target.timed, region, several, first=True)
        return [trials[k] for k in close], job

    def _decide(self, region: Region, trials: list[Trial], last: _Last) -> None:
        if last is not None:
            seconds, failed = result(last[1])
            for t, s in zip(last[0], seconds or ()):
                t.seconds = float(f"{s:.4g}")
            if failed:
                self.out.notes.append(f"{describe(region)}: the last round failed ({failed})")
        trials.sort(key=lambda t: (t.seconds is None, t.seconds or 0.0))
        if not trials or trials[0].seconds is None:
            raise TuningError(f"every candidate for a {region.kind} failed", where=describe(region),
                              why="; ".join(f"{t.tactic}: {t.failed}" for t in trials[:4]),
                              do="report this model; --opt-level 0 skips measuring")
        for t in trials:
            if t.seconds is None:
                self.out.failed.setdefault(t.tactic, Counter())[t.failed.partition("\n")[0][:200]] += 1
        best = trials[0]
        self.out.choices[region.signature()] = Choice(best.tactic, best.params, "measured", best.seconds)
        self.cache.put(key_of(self.cache, self.target, region.timing_key()), Entry(region.kind, trials))


def pick(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Of every tactic its first ones (its own best first), in turns: the cost model may be wrong about a family."""
    of: dict[str, list[Candidate]] = {}
    for c in candidates:
        of.setdefault(c.tactic, []).append(c)
    ranks = max(map(len, of.values()))
    return [group[k] for k in range(min(count, ranks)) for group in of.values() if k < len(group)]


def _sort(c: Candidate) -> tuple[str, ...]:
    """A tactic, and the ways in which it is asked to work otherwise."""
    return c.tactic, *sorted(k for k, v in c.params.items() if v is True)


def _forward(job: Future[Any], objects: dict[str, bytes], out: Future[Any]) -> None:
    if job.cancelled():
        out.set_exception(WorkerDied("ended"))
    elif (e := job.exception()) is not None:
        out.set_exception(e)
    else:
        out.set_result((objects, job.result()))


def refine(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget,
           cache: TimingCache, opt_level: int, out: Tuned, progress: Callable[[Progress], None]) -> None:
    """Try the best few of the heaviest regions inside the whole segment (see `in_place`)."""
    def ask(asked: in_place.Trials) -> list[in_place.Attempt] | None:
        with children(target) as team:
            found, failed = result(team.timer.submit(RUN_TIMEOUT + 2 * asked.seconds, "in_place", target.timed, asked))
        if failed:
            out.notes.append(f"candidates could not be tried in place: {failed}")
            return None
        attempts: list[in_place.Attempt] = found
        return attempts

    in_place.refine(launches, dims, target, cache, opt_level, out, progress, ask)


def launch_early(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget,
                 cache: TimingCache, opt_level: int, out: Tuned, progress: Callable[[Progress], None]) -> None:
    """Decide whether kernels begin while the one before them ends (see `early`)."""
    def ask(asked: in_place.Trials, codes: Mapping[str, str]) -> early.Answer | None:
        patience = COMPILING * asked.seconds
        until = time.monotonic() + patience
        missing = [code for code in codes.values() if store.get(target, code) is None]
        with children(target) as team:
            jobs = [team.compilers.submit(TRY_TIMEOUT, "assemble", target, code,
                                          unless=lambda: time.monotonic() > until) for code in missing]
            try:
                for job in jobs:
                    job.result(max(0.0, until - time.monotonic()))
            except (TimeoutError, NotTriedError):
                out.notes.append(f"early launch was not tried: {len(missing)} kernels were not compiled in "
                                 f"{patience:.0f} s")
                return None
            except (RuntimeError, WorkerDied) as e:
                return None, None, str(e)[:LONGEST]
            found, failed = result(team.timer.submit(RUN_TIMEOUT + 2 * asked.seconds, "early", target, asked))
        if failed:
            return None, None, failed[:LONGEST]
        seconds: early.Answer = found
        return seconds

    early.decide(launches, dims, target, cache, opt_level, out, progress, ask)


def compile_all(codes: Mapping[str, str], target: CudaTarget) -> dict[str, bytes]:
    """Objects of kernels (by symbol) that have compiled before, or ought to: from the disk, or by children."""
    out = {symbol: raw for symbol, code in codes.items() if (raw := store.get(target, code)) is not None}
    missing = {s: c for s, c in codes.items() if s not in out}
    if missing:
        _check_compiler()
        with children(target) as team:
            jobs = {s: team.compilers.submit(COMPILE_TIMEOUT, "assemble", target, c) for s, c in missing.items()}
            for symbol, job in jobs.items():
                raw, failed = result(job)
                if failed:
                    raise InternalError("a kernel does not compile", where=symbol, why=failed,
                                        do="report this model; another --opt-level may choose other kernels")
                out[symbol] = raw
        store.prune()
    return out


def _check_compiler() -> None:
    """MissingExtraError where kernels cannot be compiled, before every candidate fails of it."""
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError("kernels for GPUs are compiled by Triton, which is not installed",
                                do='pip install "whet[cuda]"')


def cores() -> int:
    """Processes to compile in."""
    return len(os.sched_getaffinity(0))


def _candidates(regions: Sequence[Region], target: CudaTarget, crew: Crew, out: Tuned,
                progress: Callable[[Progress], None]) -> list[tuple[Region, list[Candidate]]]:
    """Each region's candidates. Libraries are asked on the GPU, in children; without one nothing needs to be opened.
    Where that fails (a library may end the child that asks it) kernels of our own are left, and `out.notes` says so."""
    progress(Progress(0, len(regions), "candidates"))
    if not target.gpu.live:
        found: list[tuple[list[Candidate], str]] = [(target.candidates(r), "") for r in regions]
    else:
        jobs = [crew.submit(COMPILE_TIMEOUT, "candidates", target, r) for r in regions]
        found = [(given or [], failed) for given, failed in map(result, jobs)]
        ours = replace(target, gpu=replace(target.gpu, libraries={}))
        again = {i: crew.submit(COMPILE_TIMEOUT, "candidates", ours, regions[i])
                 for i, (_, failed) in enumerate(found) if failed}
        for i, job in again.items():
            out.notes.append(f"libraries gave no candidates for {describe(regions[i])}: {found[i][1]}")
            given, failed = result(job)
            found[i] = given or [], failed
    for region, (candidates, failed) in zip(regions, found):
        if not candidates:
            raise TuningError(f"no tactic runs this {region.kind}", where=describe(region),
                              why=failed or target.accepts(region) or "none of its tactics has a candidate",
                              do="report this model: every region must have a tactic")
    return [(r, c) for r, (c, _) in zip(regions, found)]


def _settle(todo: Sequence[tuple[Region, list[Candidate]]], target: CudaTarget, crew: Crew, out: Tuned,
            progress: Callable[[Progress], None]) -> None:
    """For each region the first candidate that compiles: the cost model's word, as far as the compiler agrees."""
    left = [(region, list(candidates), list[str]()) for region, candidates in todo]
    while left:
        jobs = [crew.submit(COMPILE_TIMEOUT, "compile", target, r, c[0].tactic, c[0].params) for r, c, _ in left]
        again = []
        for (region, candidates, reasons), job in zip(left, jobs):
            objects, failed = result(job)
            first = candidates.pop(0)
            if not failed:
                out.choices[region.signature()] = Choice(first.tactic, first.params, "model")
                out.objects.update(objects)
                progress(Progress(len(out.choices), len(todo), describe(region)))
                continue
            reasons.append(f"{first.tactic}: {failed}")
            if not candidates:
                raise TuningError(f"every candidate for a {region.kind} failed", where=describe(region),
                                  why="; ".join(reasons[:4]), do="report this model")
            again.append((region, candidates, reasons))
        left = again


def result(job: Future[Any]) -> tuple[Any, str]:
    """What a child answered, and how it failed if it did."""
    try:
        return job.result(), ""
    except (RuntimeError, WorkerDied) as e:
        return None, str(e)
