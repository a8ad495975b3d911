"""The last word on the regions that weigh most: their best few candidates tried inside the whole segment.

Alone, a kernel finds the second-level cache as it likes it; in its place it finds what the others left. So the regions
that take the most time (each as often as it occurs) are tried with their second and third best, in the graph of all.
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
from whet.targets.cuda.target import CudaTarget
from whet.tuning.cache import Entry, TimingCache, Trial
from whet.tuning.found import Choice, Progress, Tuned, key_of, winner

BUDGET = {0: 0.0, 1: 0.0, 2: 4.0, 3: 12.0, 4: 40.0, 5: 120.0}  # seconds at each --opt-level
OTHERS, NEAR = 2, 1.3  # how many candidates besides the best are tried, and how close to it they must be
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
    known = key_of(cache, target, "in place " + digest([keys[l.region.signature()] for l in launches]))
    entry = cache.get(known)
    if entry is None:
        others = _others(launches, keys, target, cache)
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
            ) -> list[tuple[str, list[tuple[str, Params]]]]:
    """What to try for the regions that take the most time, the heaviest first."""
    counts = Counter(l.region.signature() for l in launches)
    found: list[tuple[float, str, list[tuple[str, Params]]]] = []
    total = 0.0
    for s, n in counts.items():
        entry = cache.get(key_of(cache, target, keys[s]))
        best = winner(entry) if entry is not None else None
        if entry is None or best is None or best.seconds is None:
            continue
        total += n * best.seconds
        near = [(t.tactic, t.params) for t in entry.trials[1:] if t.seconds and t.seconds <= NEAR * best.seconds]
        if near:
            found.append((n * best.seconds, s, near[:OTHERS]))
    return [(s, near) for weight, s, near in sorted(found, key=lambda f: -f[0]) if weight >= SHARE * total]


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
