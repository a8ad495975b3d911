"""Few sizes instead of many: along independent dimensions a run goes at the next larger size of a short table, whose
graph is there. What lies behind the real elements is whatever was there before: no real element depends on it."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from whet.runtime.binding import Io, io
from whet.runtime.cuda.bound import Bound
from whet.runtime.program import Loaded

MOST = 12  # sizes of a dimension
KEPT_PARTS = 64  # real sizes that a bucket remembers
MOST_KEPT = 32  # combinations of sizes


def sizes(low: int, best: int, high: int) -> tuple[int, ...]:
    """The sizes that runs go at, of a dimension with that profile: its three, and powers of two in between (powers of
    four, eight... where these were too many). A run does at most twice (four times...) the work; sizes that matter
    belong into the profile."""
    for shift in itertools.count(1):
        between = {1 << k for k in range(0, high.bit_length(), shift)}
        made = sorted({low, best, high} | {n for n in between if low < n < high})
        if len(made) <= MOST:
            return tuple(made)
    raise AssertionError


class Buckets:
    """The sizes of a program's independent dimensions."""

    def __init__(self, dims: Mapping[str, tuple[int, int, int]], independent: list[str]) -> None:
        self.dims = dims
        self.table = {n: sizes(*dims[n]) for n in independent}

    @property
    def kept(self) -> int:
        """Combinations of sizes whose launches and graphs a context keeps."""
        return min(math.prod(map(len, self.table.values())), MOST_KEPT)

    def up(self, env: Mapping[str, int]) -> dict[str, int]:
        """These dimensions (all within the profile), the independent ones rounded up."""
        out = dict(env)
        for n, made in self.table.items():
            out[n] = made[bisect_left(made, env[n])]
        return out

    def part(self, b: Bound, env: Mapping[str, int]) -> Part:
        """These dimensions in the bucket `b`."""
        key = tuple(env[n] for n in self.table)
        found: Part | None = b.parts.get(key)
        if found is None:
            found = b.parts[key] = Part(b, env)
            if len(b.parts) > KEPT_PARTS:
                b.parts.popitem(last=False)
        return found

    def all(self) -> Iterator[dict[str, int]]:
        """Every combination, the profile's optimum first; other dimensions are at their optimum."""
        best = {n: b for n, (_, b, _) in self.dims.items()}
        yield best
        for values in itertools.product(*self.table.values()):
            env = {**best, **dict(zip(self.table, values))}
            if env != best:
                yield env

    @property
    def largest(self) -> dict[str, int]:
        """Every dimension at its maximum."""
        return {n: high for n, (_, _, high) in self.dims.items()}


def of(loaded: Loaded) -> Buckets | None:
    """The buckets of a program; None where it has no independent dimensions, and where the activations' size is only
    known with the dimensions: rounding up might exceed the limit."""
    p = loaded.program
    if not p.independent or not loaded.plain or loaded.states or not isinstance(p.segments[0].arena, int):
        return None
    return Buckets(p.dims, p.independent)


class Part:
    """The first elements of a bucket: `inputs` and `outputs` are as the caller has them, at the bucket's `offsets`."""

    def __init__(self, bound: Bound, env: Mapping[str, int]) -> None:
        self.bound, self.offsets = bound, bound.offsets
        self.input_bytes, self.io_bytes = bound.input_bytes, bound.io_bytes
        n = len(bound.inputs)
        self.inputs: list[Io] = [io(t, env, i) for i, t in enumerate(bound.segment.inputs)]
        self.outputs: list[Io] = [io(t, env, n + i) for i, t in enumerate(bound.segment.outputs)]
        whole = (*bound.inputs, *bound.outputs)
        self.partial = {t.index for t, w in zip((*self.inputs, *self.outputs), whole) if t.nbytes != w.nbytes}
        self.placed: dict[int, object] = {}  # as of `Bound`


Fit = Bound | Part  # what a run is laid out by
