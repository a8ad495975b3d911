"""What tuning finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from whet.ir.region import Region
from whet.targets.base import Candidate, Params, Target
from whet.tuning.cache import Entry, TimingCache, Trial


@dataclass(frozen=True)
class Choice:
    """What runs a region, and how that was found: `measured`, `in place`, `cache` or `model`."""

    tactic: str
    params: Params
    how: str
    seconds: float | None = None


@dataclass(frozen=True)
class Progress:
    """What the tuner is doing: for progress bars."""

    done: int
    total: int
    region: str
    best: float | None = None


@dataclass(frozen=True)
class EarlyLaunch:
    """Whether a plan's kernels are launched early, and the largest segment's seconds without and with that; `failed`:
    why there are none with it."""

    used: bool
    plain_seconds: float | None
    early_seconds: float | None
    failed: str = ""


@dataclass
class Tuned:
    """Choices by region signature, and the objects that are compiled already, by kernel symbol. `notes`: what went
    wrong on the way. `failed`: candidates that could not be used, by tactic: why, and how many. `untuned`: why nothing
    was measured. `work`: seconds of children, by what they did. `early`: None where it was not measured. `in_place`:
    what was tried inside a whole segment: region, tactic, the segment's seconds before and after, whether it was kept.
    `one_stream`: launches that need not wait for each other do nevertheless, since that is faster."""

    choices: dict[str, Choice] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    untuned: str = ""
    work: dict[str, float] = field(default_factory=dict)
    early: EarlyLaunch | None = None
    in_place: list[dict[str, Any]] = field(default_factory=list)
    one_stream: bool = False


def key_of(cache: TimingCache, target: Target, timing_key: str) -> str:
    """Where the cache has a region's trials."""
    return cache.key(target.device_key(), target.threads, timing_key)


def winner(entry: Entry) -> Choice | None:
    """The choice that a cache's entry stands for."""
    t = entry.trials[0]
    return Choice(t.tactic, t.params, "cache", t.seconds) if t.seconds is not None else None


def ident(c: Candidate | Trial) -> tuple[str, str]:
    """Names a candidate among those of its region."""
    return c.tactic, repr(sorted(c.params.items()))


def describe(region: Region) -> str:
    """A region for people: its kind and the shapes of its first operands."""
    shapes = " ".join("x".join(map(str, t.shape)) or "scalar" for t in region.inputs[:2])
    return f"{region.kind} {shapes}"
