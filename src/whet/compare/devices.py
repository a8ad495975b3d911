"""The same plan on several GPUs at once: what they do together, and what one of them does alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.plan import Plan
from whet.runtime.engine import Context, load

IN_FLIGHT = 4  # submitted runs of each context


@dataclass(frozen=True)
class Throughput:
    """Runs a second, inputs from and outputs to the host's memory, of each GPU while all work, and of each alone."""

    devices: tuple[int, ...]
    together: tuple[float, ...]
    alone: tuple[float, ...]

    @property
    def total(self) -> float:
        """Runs a second of all."""
        return sum(self.together)

    @property
    def scaling(self) -> float:
        """Of all together, over the sum of each alone: 1 is what cannot be beaten."""
        return self.total / sum(self.alone)


def visible() -> list[int]:
    """The numbers of the GPUs that this process may use. Errors as of `runtime.cuda.driver.api`."""
    from whet.runtime.cuda.driver import device_count

    return list(range(device_count()))


def parse(text: str) -> list[int]:
    """`all`, or numbers with commas: `0,1`. InputError."""
    if text == "all":
        return visible()
    parts = [p.strip() for p in text.split(",")]
    if not parts or not all(p.isdigit() for p in parts) or len(set(parts)) != len(parts):
        raise InputError(f"--devices {text!r}", why="it is `all`, or numbers of GPUs with commas",
                         do="give, for example, --devices 0,1")
    return [int(p) for p in parts]


def throughput(plan: Plan, feeds: Mapping[str, np.ndarray], devices: Sequence[int], *, seconds: float = 3.0,
               require_key: Any = None) -> Throughput:
    """One engine and context on each GPU, each fed by a thread of its own with IN_FLIGHT runs under way.

    seconds: of each measurement (each GPU alone, then all together). Errors as of `whet.load`.
    """
    with ExitStack() as stack:
        contexts = []
        for i in devices:
            engine = stack.enter_context(load(plan, device=i, require_key=require_key))
            contexts.append(engine.context())
        for c in contexts:
            _rates([c], feeds, min(seconds, 0.5))
        alone = tuple(_rates([c], feeds, seconds)[0] for c in contexts)
        together = alone if len(contexts) == 1 else tuple(_rates(contexts, feeds, seconds))
        return Throughput(tuple(devices), together, alone)


def _rates(contexts: Sequence[Context], feeds: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    rates, failed = [0.0] * len(contexts), list[BaseException]()
    barrier = threading.Barrier(len(contexts))

    def work(k: int) -> None:
        try:
            pending: deque[Future[Any]] = deque(contexts[k].submit(feeds) for _ in range(IN_FLIGHT))
            barrier.wait(60)
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                pending.append(contexts[k].submit(feeds))
                pending.popleft().result()
                count += 1
            rates[k] = count / spent
            for f in pending:
                f.result()
        except BaseException as e:
            failed.append(e)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(contexts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    real = [e for e in failed if not isinstance(e, threading.BrokenBarrierError)]
    if failed:
        raise (real or failed)[0]
    return rates
