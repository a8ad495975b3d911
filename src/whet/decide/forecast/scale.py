"""The scale that progress is measured on: how far a value is from where it cannot go.

On the `log` scale a figure is first turned into a *cost*, positive and the lower the better: latency as it is,
throughput as time for one sample (1 / value), a share of right answers as the share of wrong ones (1 - value). With a
floor F (the least cost that the hardware allows) progress from a base towards a target is

    g(now) = ln((base - F) / (now - F)) / ln((base - F) / (target - F)),

which without a floor is ln(base / now) / ln(base / target). A gain is a difference of ln(cost - F): whatever gains
come, the floor is never passed, and the nearer it is the less a gain of the same size brings. On the `linear` scale
gains are differences in the metric's own unit, and g = (base - now) / (base - target).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from whet.errors import InputError, UnreachableError

Direction = Literal["lower", "higher", "share"]  # what is better; share: higher, and 1 is the most
Name = Literal["log", "linear"]


@dataclass(frozen=True)
class Scale:
    """How a metric's values become distances. `limit`: the best value that the hardware allows, in the metric's unit; 0
    or None where there is none that is known."""

    direction: Direction = "lower"
    name: Name = "log"
    limit: float | None = None

    def place(self, value: float, what: str = "a value") -> float:
        """Where a value stands: the lower the better. InputError for what has no place: not finite, of the wrong sign,
        or at the limit or beyond it."""
        if not math.isfinite(value):
            raise InputError(f"{what} is {value}", do="correct it, or leave it out")
        if self.name == "linear" and not self.beyond(value):
            return value if self.direction == "lower" else -value
        above = 0.0 if self.beyond(value) else self._cost(value, what) - self.floor
        if above <= 0:
            raise UnreachableError(
                f"{what} of {value:.6g} is at the hardware's limit of {self.limit:.6g}, or beyond it",
                why="nothing there is given a probability",
                do="check what the limit was measured with, or state another with --limit")
        return math.log(above)

    def value(self, place: float) -> float:
        """The value at a place; never beyond the limit."""
        if self.name == "linear":
            value = place if self.direction == "lower" else -place
            return self.limit if self.limit is not None and self.beyond(value) else value
        cost = math.exp(min(place, 700.0)) + self.floor
        if self.direction == "higher":
            return 1 / cost
        return 1 - cost if self.direction == "share" else cost

    @property
    def floor(self) -> float:
        """The least cost; 0 where no limit is known."""
        return self._cost(self.limit, "the limit") if self.limit is not None else 0.0

    def beyond(self, value: float) -> bool:
        """Is a value at the limit or beyond it, so that it is never reached?"""
        if self.limit is None:
            return False
        return value <= self.limit if self.direction == "lower" else value >= self.limit

    def progress(self, base: float, now: float, target: float) -> float | None:
        """The share of the way from base to target that is behind us; None if the base is no worse than the target."""
        way = self.place(base, "the first value") - self.place(target, "the target")
        return (self.place(base) - self.place(now)) / way if way > 0 else None

    def _cost(self, value: float, what: str) -> float:
        if self.direction == "share":
            if not 0 <= value < 1:
                raise InputError(f"{what} of {value:.6g} is no share below 1",
                                 why="the share of wrong answers is followed", do="take --scale linear")
            return 1 - value
        if value <= 0:
            raise InputError(f"{what} of {value:.6g}", why="on a logarithmic scale values are positive",
                             do="correct it, or take --scale linear")
        return 1 / value if self.direction == "higher" else value
