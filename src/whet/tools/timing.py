"""How long each layer of a plan takes, timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.plan import Plan, dims
from whet.plan.manifest import np_dtype
from whet.runtime import load

ROUNDS = 50
SECONDS = 1.0  # of rounds, at most


@dataclass
class LayerTimes:
    """Seconds of one run by layer (the label of its steps); `total` is of the whole call."""

    seconds: dict[str, float] = field(default_factory=dict)
    total: float = 0.0

    def share(self, node: str) -> float | None:
        """The part of a call that a node's layers take, by its name or its layer's. None: it has no step of its own."""
        found = [s for label, s in self.seconds.items() if node in (label, label.partition(" ")[2])]
        return min(1.0, sum(found) / self.total) if found and self.total else None


def random_feeds(plan: Plan) -> dict[str, np.ndarray]:
    """Random inputs at the profile's optimum: integers are 0 or 1, floats normal.

    InputError for inputs of strings, or that are no tensors.
    """
    rng = np.random.default_rng(0)
    best = {name: opt for name, (_, opt, _) in plan.manifest.dims.items()}
    feeds: dict[str, np.ndarray] = {}
    for t in plan.manifest.inputs:
        if t.dtype in ("string", "object"):
            raise InputError(f"the input {t.name!r} is of {t.dtype}s", why="there is no random one",
                             do="give arrays with --inputs x.npz")
        shape, dtype = tuple(dims.evaluate(d, best) for d in t.shape), np_dtype(t.dtype)
        feeds[t.name] = (rng.integers(0, 2, shape).astype(dtype) if dtype.kind in "iub"
                         else rng.standard_normal(shape, np.float32).astype(dtype))
    return feeds


def time_layers(plan: Plan, feeds: Mapping[str, Any] | None = None, threads: int | None = None) -> LayerTimes:
    """Time a plan's layers on `feeds` (default: random ones at the optimum): for each the median of several runs."""
    given = dict(feeds) if feeds is not None else random_feeds(plan)
    labels: list[str] = []
    rounds: list[list[float]] = []
    totals: list[float] = []
    with load(plan, threads=threads) as engine, engine.context() as context:
        for _ in range(3):
            context.reset()
            context.run(given)
        until = time.perf_counter() + SECONDS
        while len(rounds) < ROUNDS and (not rounds or time.perf_counter() < until):
            context.reset()
            _, steps = context.timed(given)
            labels = [s.label for s in steps]
            rounds.append([s.seconds for s in steps])
            context.reset()
            start = time.perf_counter()
            context.run(given)
            totals.append(time.perf_counter() - start)
    out = LayerTimes(total=float(np.median(totals)))
    same = [r for r in rounds if len(r) == len(labels)]  # control flow may take another way
    for label, seconds in zip(labels, np.median(np.array(same), axis=0).tolist() if labels else []):
        out.seconds[label] = out.seconds.get(label, 0.0) + seconds
    return out
