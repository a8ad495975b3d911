"""The last word on the regions that weigh most: their best few candidates tried inside the whole segment.

Alone, a kernel finds the second-level cache as it likes it; in its place it finds what the others left. So the regions
that take the most time (each as often as it occurs) are tried with their second and third best, in the graph of all.
A library's call does not begin before its neighbour ends, nor lets the next one begin (`targets.cuda.compile.early`),
which costs about a microsecond among kernels that do both: so where the best few are all library calls, a kernel of our
own is tried, too, and a library call where they are all our own. The segment's kernels are in the form that candidates
were timed in (`CudaTarget.timed`): launched early, where the GPU can do that.
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
from whet.tuning.found import Choice, Progress, Tuned, key_of, winner

BUDGET = {0: 0.0, 1: 0.0, 2: 4.0, 3: 12.0, 4: 40.0, 5: 120.0}  # seconds at each --opt-level
OTHERS, NEAR = 2, 1.3  # how many candidates besides the best are tried, and how close to it they must be
OWN = 1.6  # how close a kernel of our own must be to the best, where that and the others to try are library calls
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
    """What the device is asked: the segment, the choices, and what else to try, the heaviest region first."""

    launches: list[Placed]
    regions: dict[str, Region]
    env: dict[str, int]
    arena: int
    choices: dict[str, tuple[str, Params]]
    others: list[tuple[str, list[tuple[str, Params]]]]
    seconds: float


def refine(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget,
           cache: TimingCache, opt_level: int, tuned: Tuned, progress: Callable[[Progress], None],
           ask: Callable[[Trials], dict[str, tuple[str, Params, float]]]) -> None:
    """Change `tuned.choices` where another candidate is faster in place. What was found before is in the cache.

    ask: gives the choices that changed, with the segment's seconds.
    """
    if not target.gpu.live or BUDGET[opt_level] == 0 or len(launches) < 2:
        return
    regions = {l.region.signature(): l.region for l in launches}
    keys = {s: r.timing_key() for s, r in regions.items()}
    others, added = _others(launches, keys, target, cache)
    known = key_of(cache, target, "in place " + digest([keys[l.region.signature()] for l in launches] + added))
    entry = cache.get(known)
    if entry is None:
        asked = segment(launches, dims, target, tuned, others, BUDGET[opt_level]) if others else None
        if asked is None:
            return
        progress(Progress(0, len(others), "in place"))
        entry = Entry("in place", [
            Trial(tactic, {"region": keys[s], "params": params}, seconds) for s, (tactic, params, seconds) in
            sorted(ask(asked).items())] or [Trial("", {"region": "", "params": {}})])
        cache.put(known, entry)
        cache.save()
    changed = {t.params.get("region"): t for t in entry.trials}
    for s, key in keys.items():
        if (t := changed.get(key)) is not None:
            alone = tuned.choices[s].seconds
            tuned.choices[s] = Choice(t.tactic, dict(t.params["params"]), "in place", alone)


def digest(parts: Any) -> str:
    """A short name of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _others(launches: Sequence[Launch], keys: Mapping[str, str], target: CudaTarget, cache: TimingCache
            ) -> tuple[list[tuple[str, list[tuple[str, Params]]]], list[Any]]:
    """What to try for the regions that take the most time, the heaviest first; and, as JSON, what of it is tried for
    being a kernel of our own or a library's call."""
    counts = Counter(l.region.signature() for l in launches)
    regions = {l.region.signature(): l.region for l in launches}
    found: list[tuple[float, str, list[Trial]]] = []
    total = 0.0
    for s, n in counts.items():
        entry = cache.get(key_of(cache, target, keys[s]))
        best = winner(entry) if entry is not None else None
        if entry is None or best is None or best.seconds is None:
            continue
        total += n * best.seconds
        found.append((n * best.seconds, s, entry.trials))
    others: list[tuple[str, list[tuple[str, Params]]]] = []
    added: list[Any] = []
    libraries: dict[tuple[str, str], bool] = {}
    for weight, s, trials in sorted(found, key=lambda f: -f[0]):
        if weight < SHARE * total:
            break
        near = _within(trials[1:], NEAR, trials[0])[:OTHERS]
        sort = _other_sort(trials, near, regions[s], target, libraries)
        if near or sort:
            others.append((s, [(t.tactic, t.params) for t in (*near, *sort)]))
        added += [[keys[s], t.tactic, t.params] for t in sort]
    return others, added


def _within(trials: Sequence[Trial], times: float, best: Trial) -> list[Trial]:
    """Those that take at most so many times what the best takes."""
    return [t for t in trials if t.seconds and best.seconds and t.seconds <= times * best.seconds]


def _other_sort(trials: Sequence[Trial], near: Sequence[Trial], region: Region, target: CudaTarget,
                libraries: dict[tuple[str, str], bool]) -> list[Trial]:
    """Where the winner and those near it are all library calls, or all kernels of our own: the best of the other sort,
    if it is close enough. `libraries`: of a kind of region and a tactic whether that calls a library, as far as known.
    """
    def calls(t: Trial) -> bool:
        key = region.kind, t.tactic
        if key not in libraries:
            steps = target.implement(region, t.tactic, t.params).steps
            libraries[key] = any(library_of(step.kernel.code) for step in steps)
        return libraries[key]

    library = calls(trials[0])
    if any(calls(t) != library for t in near):
        return []
    return [t for t in _within(trials, OWN if library else NEAR, trials[0]) if calls(t) != library][:1]


class _Names(Weights):
    """Constants by name alone: their contents do not matter for the time."""

    def add(self, a: np.ndarray) -> str:
        return f"w{id(a)}"


def segment(launches: Sequence[Launch], dims: Mapping[str, tuple[int, int, int]], target: CudaTarget, tuned: Tuned,
             others: list[tuple[str, list[tuple[str, Params]]]], seconds: float) -> Trials | None:
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
    return Trials(placed, regions, env, body.arena, choices, others, seconds)
