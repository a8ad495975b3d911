"""The scale that a series is looked at on: logarithms of what is positive throughout, else the values themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError

ScaleName = Literal["auto", "log", "linear"]
LARGEST = 1e150  # whose square is a float


class NoHistoryError(InputError):
    """A history without a single value."""

    code = "W204-no-history"


@dataclass(frozen=True)
class Scaled:
    """A series on its scale, without what is missing."""

    y: np.ndarray  # [n] finite values on the scale
    at: np.ndarray  # [n] their places in the series as given
    length: int  # of the series as given
    log: bool

    def back(self, y: float) -> float:
        """A place on the scale, in the unit of the values."""
        return unscale(y, self.log)


def unscale(y: float, log: bool) -> float:
    """exp(y) on a log scale, infinite where that is no float; else y."""
    if not log:
        return float(y)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.exp(y))


def scaled(values: ArrayLike | Sequence[float | None], scale: ScaleName = "auto") -> Scaled:
    """The series on its scale. None and NaN are missing values, and are left out.

    scale: `log` (values must be positive), `linear`, or `auto`: log if every value is positive. NoHistoryError where
    nothing is left, InputError for what is no series of numbers.
    """
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise InputError("a history that is no series of numbers", why=str(e), do="give numbers, oldest first") from e
    if x.ndim != 1:
        raise InputError(f"a history of {x.ndim} dimensions", do="give numbers in a row, oldest first")
    if scale not in ("auto", "log", "linear"):
        raise InputError(f"no scale {scale!r}", do="give auto, log or linear")
    if np.isinf(x).any():
        raise InputError("a history with an infinite value", where=f"value {int(np.isinf(x).argmax()) + 1}",
                         do="leave out what could not be measured, or give NaN for it")
    at = np.flatnonzero(~np.isnan(x))
    if not len(at):
        raise NoHistoryError("a history without a value", do="measure first",
                             why=f"{len(x)} given, all missing" if len(x) else "it is empty")
    positive = bool((x[at] > 0).all())
    if scale == "log" and not positive:
        first = int(at[x[at] <= 0][0])
        raise InputError(f"a value of {x[first]:g} on a log scale", where=f"value {first + 1}",
                         why="only positive numbers have logarithms", do="correct it, or take scale linear")
    log = scale == "log" or (scale == "auto" and positive)
    if not log and np.abs(x[at]).max() > LARGEST:
        raise InputError(f"a value of {np.abs(x[at]).max():g}", why=f"on a linear scale the largest is {LARGEST:g}",
                         do="correct it, or give it in a larger unit")
    return Scaled(np.log(x[at]) if log else x[at], at, len(x), log)
