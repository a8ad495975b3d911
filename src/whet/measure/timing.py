"""Timing several backends side by side, in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from whet.errors import InputError

Runner = Callable[[], object]


@dataclass
class Series:
    """Seconds per call of one backend, by round: `rounds[i]` are the calls of its turn in round i."""

    rounds: list[np.ndarray] = field(default_factory=list)

    @property
    def samples(self) -> np.ndarray:
        """All calls in order."""
        return np.concatenate(self.rounds)


def alternate(
    backends: Mapping[str, Runner],
    *,
    seconds: float = 2.0,
    min_rounds: int = 8,
    max_rounds: int = 1000,
    turn_seconds: float = 0.02,
    warmup: int = 2,
    pause: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Series]:
    """Run backends A B C, B C A, C A B... in one process; each call returns when its outputs are there.

    seconds:      that the slowest of them is measured for in all, unless max_rounds come first.
    turn_seconds: of one backend's turn (one call at least); a turn begins with one call that is not counted,
                  because the caches hold the previous backend's data.
    warmup:       uncounted calls of each at the start.
    pause:        seconds of sleep before a turn, in which the previous backend's threads stop spinning (ONNX
                  Runtime's hold their cores for 10 to 50 ms after a call).
    """
    if not backends:
        raise InputError("nothing to time")
    names = list(backends)
    calls: dict[str, int] = {}
    for name in names:
        best = float("inf")
        for _ in range(max(1, warmup)):
            start = clock()
            backends[name]()
            best = min(best, clock() - start)
        calls[name] = max(1, min(1000, int(turn_seconds / max(best, 1e-9))))

    out = {name: Series() for name in names}
    spent = dict.fromkeys(names, 0.0)
    for number in range(max_rounds):
        if number >= min_rounds and max(spent.values()) >= seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sleep(pause)
            run = backends[name]
            run()
            times = np.empty(calls[name])
            for i in range(len(times)):
                start = clock()
                run()
                times[i] = clock() - start
            out[name].rounds.append(times)
            spent[name] += float(times.sum())
    return out
