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
from whet.runtime import Engine, load

ROUNDS = 20
SECONDS = 1.0  # of rounds, at most


@dataclass
class LayerTimes:
    """Seconds of one run by layer, in the plan's order of native steps; `total` is of the whole call.

    `host`: what is left of the call beside the native steps: host steps, binding and the way in and out.
    """

    native: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    host: float = 0.0
    hosted: tuple[str, ...] = ()

    def share(self, name: str) -> float | None:
        """The part of a call that a node's layers take; of host steps together the same for each. None: unknown."""
        if not self.total:
            return None
        found = [s for label, s in self.native.items() if name in (label, label.split(" ", 1)[-1])]
        if found:
            return sum(found) / self.total
        if name in {label.split(" ", 1)[-1] for label in self.hosted} | set(self.hosted):
            return self.host / self.total / max(1, len(self.hosted))
        return None


def random_feeds(plan: Plan) -> dict[str, np.ndarray]:
    """Random inputs at the profile's optimum: integers are 0 or 1, floats normal. InputError for strings."""
    rng = np.random.default_rng(0)
    best = {name: opt for name, (_, opt, _) in plan.manifest.dims.items()}
    feeds: dict[str, np.ndarray] = {}
    for t in plan.manifest.inputs:
        shape, dtype = tuple(dims.evaluate(d, best) for d in t.shape), np_dtype(t.dtype)
        if dtype.kind == "O":
            raise InputError(f"the input {t.name!r} is of strings", do="give arrays with --inputs x.npz")
        feeds[t.name] = (rng.integers(0, 2, shape).astype(dtype) if dtype.kind in "iub"
                         else rng.standard_normal(shape, np.float32).astype(dtype))
    return feeds


def time_layers(plan: Plan, feeds: Mapping[str, Any] | None = None, engine: Engine | None = None) -> LayerTimes:
    """Time a plan's layers on `feeds` (default: random ones at the optimum): for each the least of several runs."""
    given = dict(feeds) if feeds is not None else random_feeds(plan)
    own = engine if engine is not None else load(plan)
    try:
        with own.context() as context:
            context.run(given)
            best: list[float] = []
            labels: list[str] = []
            whole = float("inf")
            until = time.perf_counter() + SECONDS
            for _ in range(ROUNDS):
                start = time.perf_counter()
                _, steps = context.timed(given)
                whole = min(whole, time.perf_counter() - start)
                labels = [s.label for s in steps]
                best = [min(a, s.seconds) for a, s in zip(best, steps)] if best else [s.seconds for s in steps]
                if time.perf_counter() > until:
                    break
    finally:
        if engine is None:
            own.close()
    native: dict[str, float] = {}
    for label, seconds in zip(labels, best):
        native[label] = native.get(label, 0.0) + seconds
    hosted = tuple(l["name"] for l in plan.manifest.info.get("layers", ()) if l["kind"] == "host")
    return LayerTimes(native, whole, max(0.0, whole - sum(best)), hosted)
