"""The last word on the regions that weigh most: their best candidates tried inside the whole segment.

Alone, a kernel finds the second-level cache as it likes it; in its place it finds what the others left. And a library's
call neither begins before its neighbour ends nor lets the next one begin early (`targets.cuda.compile.early`), which
costs about a microsecond on each side among kernels that do both. And whether a kernel that begins early finds its
places beside the one before it depends on the shared memory of both: products that were as fast alone differed by 1.5
us of 4 in their place. So, in the graph of all, first the kernels of our own take the place of the library calls, all
at once (one alone would gain the half of it); then the regions that take the most time (each as often as it occurs) are
tried with their next best candidates and with the best one of each other tactic. Branches side by side are tried
against one stream, too: where streams meet, no kernel begins early. What was tried, and what it took, is in the cache
and in the plan's evidence. The segment's kernels are in the form that candidates were timed in (`CudaTarget.timed`):
launched early, where the GPU can do that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whet.ir.region import Region
from whet.lowering.assemble import Weights, assemble
from whet.lowering.storage import Launch
from whet.plan.data import Place
from whet.targets.base import Implementation, Params
from whet.targets.cuda.target import CudaTarget, library_of
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.found import Choice, Progress, Tuned, describe, key_of, winner

BUDGET = {0: 0.0, 1: 0.0, 2: 8.0, 3: 20.0, 4: 60.0, 5: 120.0}  # seconds at each --opt-level
OTHERS = {2: 5, 3: 15, 4: 30, 5: 60}  # candidates besides the best that are tried,
NEAR = 1.4  # if they take at most so many times what it takes
FAMILY = 1.6  # how close the best candidate of another tactic must be
ONE_STREAM = "one stream"
SHARE = 0.01  # of the time that a region takes to be worth it


@dataclass(frozen=True)
class Placed:
    """A launch: its region (by signature), the earlier launches that it waits for, and where its operands and results
    lie."""

    region: str
    waits: list[int]
    inputs: list[Place]
    outputs: list[Place]


@dataclass(frozen=True)
class Trials:
    """What the device is asked: the segment, the choices, and what else to try, the heaviest region first (the winner
    alone among it, to come back to). `own`: kernels of our own for regions whose winner is a library's call.
    `one_stream`: launches follow one another, also those that need not wait."""

    launches: list[Placed]
    regions: dict[str, Region]
    env: dict[str, int]
    arena: int
    choices: dict[str, tuple[str, Params]]
    others: list[tuple[str, list[tuple[str, Params]]]]
    own: dict[str, tuple[str, Params]]
    one_stream: bool
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """Choices (by region) that were tried at once, or all launches in `one_stream`, the segment's seconds without and
    with that, and whether it was kept: the next attempt begins where this one ended."""

    choices: dict[str, tuple[str, Params]]
    before: float
    after: float
    kept: bool
    one_stream: bool = False


def refine(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget,
           cache: TimingCache, opt_level: int, tuned: Tuned, progress: Callable[[Progress], None],
           ask: Callable[[Trials], list[Attempt] | None]) -> None:
    """Change `tuned.choices` where another candidate is faster in place. What was found before is in the cache.

    ask: None where nothing could be tried now.
    """
    if not target.gpu.live or BUDGET[opt_level] == 0 or len(launches) < 2:
        return
    regions = {l.region.signature(): l.region for l in launches}
    keys = {s: r.timing_key() for s, r in regions.items()}
    others = _others(launches, keys, target, cache, OTHERS[opt_level])
    tried = [[keys[s], several] for s, several in others]
    known = key_of(cache, target, "in place " + digest([[keys[l.region.signature()] for l in launches], tried]))
    entry = cache.get(known)
    if entry is None:
        asked = segment(launches, dims, target, tuned, BUDGET[opt_level], others) if others else None
        if asked is None:
            return
        progress(Progress(0, len(others), "in place"))
        attempts = ask(asked)
        if attempts is None:
            return
        entry = Entry("in place", _trials(attempts, keys) or [Trial("", {})])
        cache.put(known, entry)
        cache.save()
    names = {ONE_STREAM: "", **{key: describe(regions[s]) for s, key in keys.items()}}
    mine = [t for t in entry.trials if t.params.get("region") in names]
    tuned.in_place += [{"region": names[t.params["region"]], "tactic": t.tactic, "before": t.params.get("before"),
                        "after": t.seconds, "kept": bool(t.params.get("kept"))} for t in mine]
    last = {t.params["region"]: t for t in mine if t.params.get("kept")}
    tuned.one_stream = ONE_STREAM in last
    for s, key in keys.items():
        if key in last:
            alone = tuned.choices[s].seconds
            tuned.choices[s] = Choice(last[key].tactic, dict(last[key].params["params"]), "in place", alone)


def _trials(attempts: Sequence[Attempt], keys: Mapping[str, str]) -> list[Trial]:
    """Attempts as the cache holds them: one for each region."""
    return [Trial(tactic, {"region": key, "params": params, "before": a.before, "kept": a.kept}, a.after)
            for a in attempts for key, (tactic, params) in (
                [(ONE_STREAM, (ONE_STREAM, {}))] if a.one_stream else
                [(keys[s], choice) for s, choice in a.choices.items()])]


def digest(parts: Any) -> str:
    """A short name of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _others(launches: Sequence[Launch], keys: Mapping[str, str], target: CudaTarget, cache: TimingCache, count: int
            ) -> list[tuple[str, list[tuple[str, Params]]]]:
    """What to try for the regions that take the most time, the heaviest first and of each the winner first."""
    counts = Counter(l.region.signature() for l in launches)
    found: list[tuple[float, str, list[Trial]]] = []
    total = 0.0
    for s, n in counts.items():
        entry = cache.get(key_of(cache, target, keys[s]))
        best = winner(entry) if entry is not None else None
        if entry is None or best is None or best.seconds is None:
            continue
        total += n * best.seconds
        found.append((n * best.seconds, s, entry.trials))
    several = [(s, _worth_trying(trials, count)) for weight, s, trials in sorted(found, key=lambda f: -f[0])
               if weight >= SHARE * total]
    return [(s, [(t.tactic, t.params) for t in trials]) for s, trials in several if len(trials) > 1]


def _worth_trying(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The winner, the next best ones, and the best of each other tactic."""
    best, *rest = trials
    assert best.seconds is not None
    near = [t for t in rest if t.seconds and t.seconds <= NEAR * best.seconds][:count]
    seen = {t.tactic for t in (best, *near)}
    for t in rest:
        if t.seconds and t.seconds <= FAMILY * best.seconds and t.tactic not in seen:
            near.append(t)
            seen.add(t.tactic)
    return [best, *near]


def _own(several: Sequence[tuple[str, Params]], region: Region, target: CudaTarget) -> tuple[str, Params] | None:
    """The best kernel of our own where the winner, which comes first, calls a library."""
    def ours(choice: tuple[str, Params]) -> bool:
        return not any(library_of(step.kernel.code) for step in target.implement(region, *choice).steps)

    return None if ours(several[0]) else next(filter(ours, several), None)


class _Names(Weights):
    """Constants by name alone: their contents do not matter for the time."""

    def add(self, a: np.ndarray) -> str:
        return f"w{id(a)}"


def segment(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget, tuned: Tuned,
            seconds: float, others: Sequence[tuple[str, list[tuple[str, Params]]]] = ()) -> Trials | None:
    """What the device is asked of a segment; None where its memory is not known now."""
    signatures = [l.region.signature() for l in launches]
    regions = dict(zip(signatures, (l.region for l in launches)))
    choices = {s: (tuned.choices[s].tactic, tuned.choices[s].params) for s in regions}
    made = {s: replace(target.implement(r, *choices[s]), steps=(), packs=(), workspace=0) for s, r in regions.items()}
    implementations: list[Implementation] = [made[s] for s in signatures]
    body = assemble(launches, implementations, dims, _Names(), branches=True)
    if not isinstance(body.arena, int) or body.waits is None or body.place is None:
        return None
    placed = [Placed(s, waits, [body.place(x) for x in l.inputs], [body.place(x) for x in l.outputs])
              for s, waits, l in zip(signatures, body.waits, launches)]
    env = {n: opt for n, (_, opt, _) in dims.items()}
    own = {s: mine for s, several in others if (mine := _own(several, regions[s], target)) is not None}
    return Trials(placed, regions, env, body.arena, choices, list(others), own, tuned.one_stream, seconds)
