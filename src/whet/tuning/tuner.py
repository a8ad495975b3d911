"""Chooses a tactic for every region by running the candidates on the device."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from whet.errors import TuningError
from whet.ir.region import Region
from whet.lowering.storage import Launch
from whet.targets.base import Candidate, Implementation, Target
from whet.targets.cpu.target import CpuTarget
from whet.targets.cuda.target import CudaTarget
from whet.tuning import compiled, cuda
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.found import Choice, Progress, Tuned, describe, ident, key_of, winner
from whet.tuning.pool import Child, WorkerDied

# Candidates measured per region at each --opt-level; level 0 takes the cost model's word.
CANDIDATES = {0: 0, 1: 3, 2: 6, 3: 10, 4: 24, 5: 1000}
COMPILE_TIMEOUT = 60.0
RUN_TIMEOUT = 20.0
FEW = 1 << 20  # characters of IR that are compiled (0.8 s) before children would have started and done it
PLAYOFF, CLOSE = 4, 1.3  # how many of the best are timed again, and how close to the best they must be
GIVE_UP = 2.0  # a candidate whose first run takes this many times the best is not measured further


def tune(regions: Sequence[Region], target: Target, cache: TimingCache, opt_level: int = 3,
         progress: Callable[[Progress], None] = lambda p: None, refine: bool = False) -> Tuned:
    """Choose for each distinct region; results go into `cache`, which is saved as it fills.

    `refine`: measure even what the cache knows. KeyboardInterrupt saves what was learnt and goes on
    up. TuningError if every candidate of a region failed.
    """
    start = time.monotonic()
    out = Tuned()
    unknown: list[Region] = []
    alike: dict[str, list[Region]] = {}  # regions that are as fast as each other
    for region in {r.signature(): r for r in regions}.values():
        alike.setdefault(region.timing_key(), []).append(region)
    for key, same in alike.items():
        region = same[0]
        sig = region.signature()
        entry = cache.get(key_of(cache, target, key))
        found = None if refine or entry is None else winner(entry)
        if found is not None:
            out.choices[sig] = found
        else:
            unknown.append(region)
    if isinstance(target, CudaTarget):
        cuda.choose(unknown, target, cache, opt_level, out, progress)
    else:
        _choose(unknown, target, cache, opt_level, out, progress)
    for same in alike.values():
        choice = out.choices[same[0].signature()]
        out.choices.update((r.signature(), choice) for r in same[1:])
    out.seconds = time.monotonic() - start
    return out


def standing(target: Target) -> contextlib.AbstractContextManager[object]:
    """Within this, builds for the target share the processes that they start."""
    return cuda.children(target) if isinstance(target, CudaTarget) else contextlib.nullcontext()


def refine(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: Target, cache: TimingCache,
           opt_level: int, out: Tuned, progress: Callable[[Progress], None] = lambda p: None) -> None:
    """After `tune`: change choices of a segment's launches that are slower among the others than they were alone, and
    decide what is decided for all of them (`chosen`)."""
    if isinstance(target, CudaTarget):
        start = time.monotonic()
        cuda.refine(launches, dims, target, cache, opt_level, out, progress)
        cuda.launch_early(launches, dims, target, cache, opt_level, out, progress)
        out.seconds += time.monotonic() - start


def chosen(target: Target, tuned: Tuned) -> Target:
    """The target as the plan's kernels are made for it."""
    if isinstance(target, CudaTarget) and tuned.early is not None and tuned.early.used:
        return replace(target, early=True)
    return target


def _choose(regions: Sequence[Region], target: Target, cache: TimingCache, opt_level: int, out: Tuned,
            progress: Callable[[Progress], None]) -> None:
    """Choose for regions that the cache does not know, each unlike the others."""
    todo: list[tuple[Region, list[Candidate]]] = []
    for region in regions:
        candidates = target.candidates(region)
        if not candidates:
            raise TuningError(f"no tactic runs this {region.kind}", why=target.accepts(region),
                              do="report this model: every region must have a tactic")
        count = CANDIDATES[opt_level]
        if count == 0 or len(candidates) == 1:
            out.choices[region.signature()] = Choice(candidates[0].tactic, candidates[0].params, "model")
        else:
            todo.append((region, _pick(candidates, count)))
    if todo:
        assert isinstance(target, CpuTarget)
        cache.check_writable()
        _measure(todo, target, cache, out, progress)


def _pick(candidates: list[Candidate], count: int) -> list[Candidate]:
    """The best `count` by the model, but the best of every tactic too: the model may be wrong about a
    whole family."""
    first: dict[str, Candidate] = {}
    for c in candidates:
        first.setdefault(c.tactic, c)
    rest = [c for c in candidates if c is not first[c.tactic]]
    chosen = [*first.values(), *rest[:max(0, count - len(first))]]
    return sorted(chosen, key=lambda c: c.cost)


def _measure(todo: list[tuple[Region, list[Candidate]]], target: CpuTarget, cache: TimingCache,
             out: Tuned, progress: Callable[[Progress], None]) -> None:
    total = sum(len(c) for _, c in todo)
    done = 0
    children = [Child() for _ in range(max(1, target.threads))]
    try:
        # Batches: compile on all children at once, then time one candidate after the other alone.
        batch: list[tuple[Region, list[Candidate]]] = []
        for item in [*todo, None]:
            if item is not None:
                batch.append(item)
                if sum(len(c) for _, c in batch) < 8 * len(children):
                    continue
            if not batch:
                continue
            made = _compile(batch, target, children)
            for region, candidates in batch:
                sig = region.signature()
                trials: list[Trial] = []
                best: float | None = None
                winner: dict[str, bytes] = {}
                for c in candidates:
                    progress(Progress(done, total, describe(region), best))
                    trial, objects = _time(c, region, target, made[sig, ident(c)], best)
                    trials.append(trial)
                    done += 1
                    if trial.seconds is not None and (best is None or trial.seconds < best):
                        best, winner = trial.seconds, objects
                if best is None:
                    raise TuningError(f"every candidate for a {region.kind} failed", where=describe(region),
                                      why="; ".join(f"{t.tactic}: {t.failed}" for t in trials[:4]),
                                      do="report this model; --opt-level 0 skips measuring")
                winner = _playoff(region, target, trials, made) or winner
                out.choices[sig] = Choice(trials[0].tactic, trials[0].params, "measured", trials[0].seconds)
                out.objects.update(winner)
                cache.put(key_of(cache, target, region.timing_key()), Entry(region.kind, trials))
            for child in children:
                child.ask("forget")
                child.reply(RUN_TIMEOUT)
            cache.save()
            batch = []
        progress(Progress(total, total, "done"))
    finally:
        for child in children:
            child.close()
        cache.save()


def _playoff(region: Region, target: CpuTarget, trials: list[Trial],
             made: dict[tuple[str, tuple[str, str]], _Made]) -> dict[str, bytes]:
    """Time the best few again, in turns, and order the trials by the median of each one's times; the
    winner's objects. A single time may have met the machine in a good or bad moment."""
    trials.sort(key=lambda t: (t.seconds is None, t.seconds or 0.0))
    best = trials[0].seconds or 0.0
    close = [t for t in trials[:PLAYOFF] if t.seconds is not None and t.seconds <= CLOSE * best]
    if len(close) < 2:
        return {}
    times = {id(t): [t.seconds] for t in close}
    sig, objects = region.signature(), {}
    for _ in range(2):
        for t in close:
            m = made[sig, ident(t)]
            again, objects[id(t)] = _time(Candidate(t.tactic, t.params, 0.0), region, target, m, None)
            times[id(t)].append(again.seconds)
    for t in close:
        good = [s for s in times[id(t)] if s is not None]
        t.seconds = float(f"{statistics.median(good):.4g}") if len(good) == 3 else None
        t.failed = t.failed if len(good) == 3 else "failed when it was timed again"
    trials.sort(key=lambda t: (t.seconds is None, t.seconds or 0.0))
    return objects.get(id(trials[0]), {})


@dataclass
class _Made:
    """A candidate on its child: its ticket and objects, or why it failed to compile."""

    child: Child
    ticket: int
    objects: dict[str, bytes] = field(default_factory=dict)
    failed: str = ""
    process: int = 0  # the child's pid when it compiled: another pid has lost it


def _compile(batch: list[tuple[Region, list[Candidate]]], target: CpuTarget,
             children: list[Child]) -> dict[tuple[str, tuple[str, str]], _Made]:
    """Compile all candidates, each child one at a time, all children at once."""
    queue = [(r, c) for r, cs in batch for c in cs]
    out: dict[tuple[str, tuple[str, str]], _Made] = {}
    busy: dict[int, _Made] = {}
    ticket = 0
    while queue or busy:
        for i, child in enumerate(children):
            if i in busy:
                made = busy.pop(i)
                try:
                    made.objects = child.reply(COMPILE_TIMEOUT)
                    made.process = child.process.pid
                except (RuntimeError, WorkerDied) as e:
                    made.failed = f"compile: {e}"
            if queue:
                region, c = queue.pop(0)
                ticket += 1
                made = _Made(child, ticket)
                out[region.signature(), ident(c)] = made
                child.ask("compile", ticket, target, region, c.tactic, c.params)
                busy[i] = made
    return out


def _time(c: Candidate, region: Region, target: CpuTarget, made: _Made,
          best: float | None) -> tuple[Trial, dict[str, bytes]]:
    if made.failed:
        return Trial(c.tactic, c.params, failed=made.failed), {}
    child = made.child
    try:
        if child.process.pid != made.process:  # its child died under another candidate
            child.ask("compile", made.ticket, target, region, c.tactic, c.params)
            child.reply(COMPILE_TIMEOUT)
        child.ask("time", made.ticket, GIVE_UP * best if best else float("inf"))
        seconds = child.reply(RUN_TIMEOUT)
    except (RuntimeError, WorkerDied) as e:
        return Trial(c.tactic, c.params, failed=str(e)), {}
    return Trial(c.tactic, c.params, seconds=float(f"{seconds:.4g}")), made.objects


def compile_all(made: Sequence[Implementation], target: Target, have: dict[str, bytes]) -> dict[str, bytes]:
    """Objects of all kernels, by symbol: those that `have` lacks, and that this process has not compiled before, are
    compiled, in processes when that takes longer than to start these."""
    codes = {s.kernel.symbol: s.kernel.code for m in made for s in m.steps}
    missing = {k: c for k, c in codes.items() if k not in have}
    out = {k: have[k] for k in codes if k in have}
    if isinstance(target, CudaTarget):
        return {**out, **cuda.compile_all(missing, target)}
    assert isinstance(target, CpuTarget)
    for symbol in list(missing):
        if (found := compiled.find(target.isa, missing[symbol])) is not None:
            out[symbol] = found
            del missing[symbol]
    if target.threads == 1 or sum(map(len, missing.values())) < FEW:
        new = {k: target.assemble(c) for k, c in missing.items()}
    else:
        new = _compile_apart(missing, target)
    for symbol, found in new.items():
        compiled.keep(target.isa, missing[symbol], found)
    return {**out, **new}


def _compile_apart(codes: Mapping[str, str], target: CpuTarget) -> dict[str, bytes]:
    """Objects by symbol, from a process for each of the target's threads."""
    out: dict[str, bytes] = {}
    children = [Child() for _ in range(target.threads)]
    try:
        queue = sorted(codes.items(), key=lambda kc: -len(kc[1]))  # the longest first
        busy: dict[int, str] = {}
        while queue or busy:
            for i, child in enumerate(children):
                if i in busy:
                    out[busy.pop(i)] = child.reply(COMPILE_TIMEOUT)
                if queue:
                    symbol, code = queue.pop(0)
                    child.ask("assemble", target, code)
                    busy[i] = symbol
    finally:
        for child in children:
            child.close()
    return out
