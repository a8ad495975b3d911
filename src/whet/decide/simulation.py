"""Simulation of a fleet: requests wait, are put into batches, and are served by c servers.

Batches are served first come, first served, so the times of batch k follow from those of the batch before it alone; no
calendar of events is needed. Without batching this is the recursion of Kiefer and Wolfowitz ("On the theory of queues
with many servers", Transactions of the AMS 78, 1955).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapreplace
from typing import Literal

import numpy as np

from whet.decide.arrivals import Arrivals
from whet.decide.service import Service
from whet.decide.student import student
from whet.errors import InputError
from whet.measure.stats import Interval

BATCHES = 20  # stretches of a run, whose quantiles tell how sure the run's is
WARM_UP = 0.1  # share of a run that is not counted: it starts with an idle fleet
LEAST_REQUESTS = 2000
MOST_REQUESTS = 20_000_000
MOST_SERVERS = 1_000_000

Dispatch = Literal["shared", "random", "round-robin"]


@dataclass(frozen=True)
class Batching:
    """A server takes up to `max_size` waiting requests at once, when so many wait or the first of them has waited
    `max_delay` seconds."""

    max_size: int = 1
    max_delay: float = 0.0

    def __post_init__(self) -> None:
        if self.max_size < 1 or not (math.isfinite(self.max_delay) and self.max_delay >= 0):
            raise InputError("batches need a size from 1 and a delay from 0", why=f"{self}")


@dataclass(frozen=True)
class Simulated:
    """What a run of `requests` requests through `servers` servers gave. Times are in seconds, from arrival to answer.

    load:        arrivals per second / what the servers do with full batches.
    utilization: share of the time that servers worked.
    p99:         with its 95 % confidence interval (see `quantile_interval`).
    waited:      share of the requests that waited for a server (not for others to share a batch with).
    latencies:   of every request that was counted, in order of arrival.
    """

    servers: int
    requests: int
    load: float
    utilization: float
    mean: float
    p50: float
    p90: float
    p99: Interval
    mean_batch: float
    waited: float
    latencies: np.ndarray = field(repr=False, compare=False)


def simulate(service: Service, arrivals: Arrivals, batching: Batching = Batching(), servers: int = 1,  # noqa: B008
             requests: int = 200_000, seed: int = 0, dispatch: Dispatch = "shared") -> Simulated:
    """Run `requests` requests (of a trace: all of it) through a fleet, and state its latencies.

    dispatch: `shared`: one queue, from which the server takes that is free first; `random` and `round-robin`: every
              server has its own queue, as behind a load balancer that does not look at them.
    InputError if the fleet cannot keep up (load at or over 1): its queue would grow for as long as one simulates.
    """
    _check(servers, requests)
    load = arrivals.rate / (servers * service.capacity(batching.max_size))
    if load >= 1:
        raise InputError(f"{servers} servers cannot keep up: the load is {load:.3g}",
                         why=f"{arrivals.rate:g} requests a second against {servers} x "
                             f"{service.capacity(batching.max_size):.4g}: the queue grows without bound",
                         do="use more servers, larger batches, or a faster plan")
    arriving, serving, routing = (np.random.default_rng((seed, i)) for i in range(3))
    times = arrivals.drawn(arriving, requests)
    count = len(times)
    seconds = service.drawn(serving, count, batching.max_size)
    if dispatch == "shared" or servers == 1:
        parts = [np.arange(count)]
    else:
        owner = routing.integers(0, servers, count) if dispatch == "random" else np.arange(count) % servers
        parts = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=servers))[:-1])
    done, busy, batches, waited = np.empty(count), 0.0, 0, 0.0
    for part in parts:
        starts, took, sizes, held = _serve(times[part].tolist(), part.tolist(), seconds, batching,
                                           servers if len(parts) == 1 else 1)
        done[part] = np.repeat(np.array(starts) + np.array(took), sizes)
        busy += sum(took)
        batches += len(starts)
        waited += held
    latencies = done - times
    if arrivals.pattern != "trace":
        latencies = latencies[int(count * WARM_UP):]
    p50, p90 = np.quantile(latencies, [0.5, 0.9])
    span = max(float(done.max()), float(times[-1])) - float(times[0])
    return Simulated(servers, count, load, min(1.0, busy / (servers * span)), float(latencies.mean()), float(p50),
                     float(p90), quantile_interval(latencies, 0.99), count / max(1, batches), waited / count, latencies)


def _serve(times: list[float], numbers: list[int], seconds: Callable[[int, int], float], batching: Batching,
           servers: int) -> tuple[list[float], list[float], list[int], int]:
    """One queue: for each batch its start, its seconds and its size; and how many requests a busy fleet held up."""
    size, delay, count = batching.max_size, batching.max_delay, len(times)
    free = [-math.inf] * servers  # a heap: when each server is free
    starts, took, sizes = [], [], []
    i = held = 0
    while i < count:
        ready = times[i] + delay
        last = i + size - 1
        if last < count and times[last] < ready:
            ready = times[last]  # the batch is full before its first request has waited long enough
        start = free[0]
        if start > ready:
            end = bisect_right(times, start, i + 1, min(i + size, count))
            held += end - i
        else:
            start = ready
            end = bisect_right(times, start, i + 1, min(i + size, count)) if size > 1 else i + 1
        lasts = seconds(end - i, numbers[i])
        heapreplace(free, start + lasts)
        starts.append(start)
        took.append(lasts)
        sizes.append(end - i)
        i = end
    return starts, took, sizes, held


def quantile_interval(series: np.ndarray, q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile of a stationary, dependent series and its confidence interval, by batch means.

    The series is cut into 20 stretches, whose quantiles vary as the whole's would; Student's t with 19 degrees of
    freedom (Law, "Simulation Modeling and Analysis", 9.5.3). If stretches still depend on their neighbours, with
    correlation r, the variance is multiplied by (1 + r) / (1 - r) (Tafazzoli and Wilson, "Skart", IIE Transactions 43,
    2011, eq. 6).
    """
    used = series[len(series) % BATCHES:]
    parts = np.quantile(used.reshape(BATCHES, -1), q, axis=1)
    value = float(np.quantile(series, q))
    deviation = parts - parts.mean()
    total = float((deviation ** 2).sum())
    r = float((deviation[1:] * deviation[:-1]).sum()) / total if total > 0 else 0.0
    r = min(max(r, 0.0), 0.9)
    half = student((1 + confidence) / 2, BATCHES - 1) * math.sqrt(total / (BATCHES - 1) / BATCHES * (1 + r) / (1 - r))
    return Interval(value, max(0.0, value - half), value + half)


def _check(servers: int, requests: int) -> None:
    if not 1 <= servers <= MOST_SERVERS:
        raise InputError(f"{servers} servers cannot be simulated", why=f"1 to {MOST_SERVERS:,} can")
    if not LEAST_REQUESTS <= requests <= MOST_REQUESTS:
        raise InputError(f"{requests:,} requests do not make a simulation",
                         why=f"{LEAST_REQUESTS:,} to {MOST_REQUESTS:,} do: a 99th percentile needs its hundredth part")
