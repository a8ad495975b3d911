"""Closed forms of queueing theory: what simulations are checked against, and rough answers without any.

Names: rate = arrivals per second (Poisson), mean = seconds of service, servers = c, offered = rate * mean (Erlangs).
Service is first come, first served, from one queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from whet.errors import InputError


def erlang_b(servers: int, offered: float) -> float:
    """The share of requests that find all `servers` busy, where such are lost (M/G/c/c).

    By the recursion B(c) = a B(c-1) / (c + a B(c-1)), stable for any size (Cooper, "Introduction to Queueing Theory",
    2nd ed., 3.3).
    """
    _positive(offered, "the offered load")
    if servers < 0:
        raise InputError(f"{servers} servers")
    blocked = 1.0
    for c in range(1, servers + 1):
        blocked = offered * blocked / (c + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """The share of requests that wait in M/M/c: B / (1 - (a/c)(1 - B)), Erlang 1917 (Cooper, 3.4); 1 if a >= c."""
    if servers < 1:
        raise InputError(f"{servers} servers")
    blocked = erlang_b(servers, offered)
    share = offered / servers
    return 1.0 if share >= 1 else blocked / (1 - share * (1 - blocked))


@dataclass(frozen=True)
class MMc:
    """M/M/c: Poisson arrivals, exponential service, c servers. InputError if it is not stable."""

    rate: float
    mean: float
    servers: int

    def __post_init__(self) -> None:
        _stable(self.rate, self.mean, self.servers)

    @property
    def utilization(self) -> float:
        """Share of the time that a server works."""
        return self.rate * self.mean / self.servers

    @cached_property
    def waiting(self) -> float:
        """The share of requests that wait."""
        return erlang_c(self.servers, self.rate * self.mean)

    @property
    def drain(self) -> float:
        """c mu - lambda, per second: waits of those who wait are exponential with this rate."""
        return self.servers / self.mean - self.rate

    @property
    def mean_wait(self) -> float:
        """Mean seconds before service: C / (c mu - lambda)."""
        return self.waiting / self.drain

    @property
    def mean_response(self) -> float:
        """Mean seconds until the answer."""
        return self.mean_wait + self.mean

    def wait_quantile(self, q: float) -> float:
        """The q-quantile of the wait: P(W > t) = C exp(-(c mu - lambda) t) (Cooper, 3.4)."""
        _level(q)
        return max(0.0, math.log(self.waiting / (1 - q)) / self.drain)

    def response_tail(self, t: float) -> float:
        """P(T > t) of wait plus service, which are independent: the convolution of the two exponentials."""
        mu, theta = 1 / self.mean, self.drain
        own = math.exp(-mu * t)
        if abs(theta - mu) < 1e-9 * mu:
            return own * (1 + self.waiting * mu * t)
        return own + self.waiting * mu * (math.exp(-theta * t) - own) / (mu - theta)

    def response_quantile(self, q: float) -> float:
        """The q-quantile of the time from arrival to answer."""
        _level(q)
        return _invert(lambda t: self.response_tail(t) <= 1 - q, self.mean)


@dataclass(frozen=True)
class MDc:
    """M/D/c: Poisson arrivals, every service takes `mean` seconds, c servers. InputError if it is not stable.

    Exact, by Franx, "A simple solution for the M/D/c waiting time distribution", Operations Research Letters 29, 2001:
    all terms are positive, so nothing cancels as it does in Erlang's and Crommelin's series.
    """

    rate: float
    mean: float
    servers: int = 1

    def __post_init__(self) -> None:
        _stable(self.rate, self.mean, self.servers)

    @cached_property
    def _queue(self) -> np.ndarray:
        """P(at most j requests wait), j = 0, 1...: from N(t + D) = max(N(t) - c, 0) + Poisson(lambda D), solved for the
        numbers in the system up to where the geometric tail falls under 1e-13."""
        c, offered = self.servers, self.rate * self.mean
        share = offered / c
        decay = math.log1p(2 * (1 - share))  # of P(n in the system) with n, at least
        size = int(c + 10 * math.sqrt(c) + 32 / decay + 40)
        if size > 4000:
            raise InputError("this queue is too long for the exact solution", why=f"{c} servers at load {share:.4f}",
                             do="simulate it")
        log_poisson = -offered + np.arange(size) * math.log(offered) - np.cumsum(
            np.log(np.maximum(np.arange(size), 1)))
        poisson = np.exp(log_poisson)
        move = np.zeros((size, size))  # [from, to]
        for n in range(size):
            left = max(n - c, 0)
            move[n, left:] = poisson[:size - left]
        move[:, -1] += 1 - move.sum(axis=1)
        balance = move.T - np.eye(size)
        balance[-1] = 1
        p = np.linalg.solve(balance, np.r_[np.zeros(size - 1), 1.0])
        return np.cumsum(np.r_[p[:c + 1].sum(), p[c + 1:]])

    @property
    def utilization(self) -> float:
        """Share of the time that a server works."""
        return self.rate * self.mean / self.servers

    @property
    def mean_wait(self) -> float:
        """Mean seconds before service, by Little's law from the mean number waiting."""
        return float((1 - self._queue).sum()) / self.rate

    def wait_cdf(self, t: float) -> float:
        """P(W <= t): with (k-1) D <= t < k D and u = k D - t, the sum over j < k c of Q(k c - 1 - j) times
        P(Poisson(lambda u) = j) (Franx, theorem 1)."""
        if t < 0:
            return 0.0
        k = int(t / self.mean) + 1
        load = self.rate * (k * self.mean - t)
        j = np.arange(k * self.servers)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(j))))])
        weight = np.exp(-load + j * math.log(load) - log_factorial) if load > 0 else (j == 0).astype(float)
        queue = self._queue
        return float((weight * queue[np.minimum(len(j) - 1 - j, len(queue) - 1)]).sum())

    def wait_quantile(self, q: float) -> float:
        """The q-quantile of the wait."""
        _level(q)
        return 0.0 if self.wait_cdf(0.0) >= q else _invert(lambda t: self.wait_cdf(t) >= q, self.mean)

    def response_quantile(self, q: float) -> float:
        """The q-quantile of the time from arrival to answer."""
        return self.wait_quantile(q) + self.mean


@dataclass(frozen=True)
class BatchService:
    """One server that takes all who wait, in alpha * b + tau0 seconds for b of them; when nobody waits, the next who
    comes. Poisson arrivals; stable while rate * alpha < 1. The model of Inoue, "Queueing analysis of GPU-based
    inference servers with dynamic batching: a closed-form characterization", Performance Evaluation 147, 2021 (arXiv
    1912.06322)."""

    rate: float
    alpha: float
    tau0: float

    def __post_init__(self) -> None:
        for value, what in ((self.rate, "the rate"), (self.alpha, "alpha")):
            _positive(value, what)
        if not (math.isfinite(self.tau0) and self.tau0 >= 0):
            raise InputError("tau0 must be 0 or more", why=f"{self.tau0}")
        if self.rate * self.alpha >= 1:
            raise InputError("this queue grows without bound", why=f"rate * alpha is {self.rate * self.alpha:.4g}")

    @property
    def mean_bound(self) -> float:
        """An upper bound of the mean latency: min(phi0, phi1).

        With p the share of batches that nobody had waited for, the mean latency is a function of p alone (see
        `mean_latency`). phi1 is its value at p = 0, where batches always follow upon each other; phi0 that at
        p = 1 - rate (alpha + tau0), where all batches are of one:

            phi0 = (alpha + tau0) / (2 (1 - la)) * (1 + 2 lambda tau0 + (1 - lambda tau0) / (1 + la)),
            phi1 = 3/2 tau0 / (1 - la) + alpha/2 (la + 2) / (1 - la^2),   la = lambda alpha.
        """
        la, lt = self.rate * self.alpha, self.rate * self.tau0
        phi0 = (self.alpha + self.tau0) / (2 * (1 - la)) * (1 + 2 * lt + (1 - lt) / (1 + la))
        phi1 = 1.5 * self.tau0 / (1 - la) + self.alpha / 2 * (la + 2) / (1 - la * la)
        return min(phi0, phi1)

    @cached_property
    def mean_latency(self) -> float:
        """The exact mean latency, from the chain of batch sizes B' = max(1, A), A Poisson(rate * tau(B)).

        Who comes during a batch of H seconds waits for H/2 on average, then for a batch of A:
        E[W] = E[lambda H^2 / 2 + A tau(A) + 1{A = 0} tau(1)] / E[B].
        """
        rate, alpha, tau0 = self.rate, self.alpha, self.tau0
        typical = rate * (tau0 + alpha) / (1 - rate * alpha)
        spread = math.sqrt((typical + 1) / (1 - (rate * alpha) ** 2))
        size = int(typical + 12 * spread + 30)
        if size > 3000:
            raise InputError("batches are too large for the exact chain", why=f"about {typical:.0f}", do="simulate it")
        b = np.arange(1, size + 1)
        seconds = alpha * b + tau0
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
        came = np.arange(size + 1)
        arrive = np.exp(-rate * seconds[:, None] + came * np.log(rate * seconds)[:, None] - log_factorial)
        move = arrive[:, 1:].copy()
        move[:, 0] += arrive[:, 0]
        move[:, -1] += 1 - move.sum(axis=1)
        balance = move.T - np.eye(size)
        balance[-1] = 1
        p = np.linalg.solve(balance, np.r_[np.zeros(size - 1), 1.0])
        mean_h, mean_h2, idle = float(p @ seconds), float(p @ seconds ** 2), float(p @ arrive[:, 0])
        served = rate * mean_h2 * (0.5 + alpha * rate) + (alpha + tau0) * (rate * mean_h + idle)
        return served / (rate * mean_h + idle)


def _stable(rate: float, mean: float, servers: int) -> None:
    _positive(rate, "the rate")
    _positive(mean, "the mean service time")
    if servers < 1:
        raise InputError(f"{servers} servers")
    if rate * mean >= servers:
        raise InputError("this queue grows without bound", why=f"utilization {rate * mean / servers:.4g}",
                         do=f"{math.floor(rate * mean) + 1} servers keep up")


def _positive(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} must be a positive number", why=f"{value}")


def _level(q: float) -> None:
    if not 0 < q < 1:
        raise InputError("a quantile's level lies between 0 and 1", why=f"{q}")


def _invert(reached: Callable[[float], bool], scale: float) -> float:
    """The least t >= 0 at which a condition, once true always true, is reached."""
    low, high = 0.0, scale
    while not reached(high):
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
