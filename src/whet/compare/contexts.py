"""Several contexts of one plan at work at once on one device: what each call takes then, and what they do together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.plan import Plan
from whet.runtime.engine import Context, load


def at_once(plan: Plan, feeds: Mapping[str, np.ndarray], contexts: int, *, seconds: float = 3.0,
            threads: int | None = None, device: int | None = None, require_key: Any = None) -> tuple[np.ndarray, float]:
    """Seconds of each call, and calls a second of all, while `contexts` contexts of one engine run without pause.

    Each context has a thread that calls it again as soon as it returns. Calls are counted that began when all were
    running and ended before the first of them stopped. States are empty at each call. Errors as of `whet.load`;
    InputError if hardly any call was counted.
    """
    with load(plan, threads=None if device is not None else threads, device=device, require_key=require_key) as engine:
        opened = [engine.context() for _ in range(contexts)]
        stateful = bool(plan.manifest.programs[0].states)
        calls: list[list[tuple[float, float]]] = [[] for _ in opened]
        failed: list[BaseException] = []
        barrier = threading.Barrier(contexts)

        def work(context: Context, mine: list[tuple[float, float]]) -> None:
            try:
                _call(context, feeds, stateful)
                barrier.wait(60)
                stop = time.perf_counter() + seconds
                while (start := time.perf_counter()) < stop or len(mine) < 6:
                    _call(context, feeds, stateful)
                    mine.append((start, time.perf_counter()))
            except BaseException as e:
                failed.append(e)
                barrier.abort()

        workers = [threading.Thread(target=work, args=pair) for pair in zip(opened, calls)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        if failed:
            raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])
    first, last = max(c[0][0] for c in calls), min(c[-1][1] for c in calls)
    counted = np.array([(a, b) for c in calls for a, b in c if a >= first and b <= last]).reshape(-1, 2)
    if len(counted) < 4 * contexts:  # with fewer, those cut off at both ends would be missed in the rate
        raise InputError(f"too few calls fell into the {seconds:g} seconds in which all contexts ran",
                         do="measure for longer: --seconds")
    return counted[:, 1] - counted[:, 0], len(counted) / (last - first)


def _call(context: Context, feeds: Mapping[str, np.ndarray], stateful: bool) -> None:
    if stateful:
        context.reset()
    context.run(dict(feeds))
