"""Metrics and scores: what every metric has, and the checks of its arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure import bootstrap
from whet.measure.stats import Interval, wilson

Unit = Literal["points", "percent", ""]


class Metric(ABC):
    """How outputs are scored.

    `paired` metrics give each sample a right or wrong, and are judged by the score interval of pairs; the others are
    aggregates and are bootstrapped. `unit` is what losses and budgets are stated in: `points` are hundredths of the
    value, `percent` are of the reference model's value, and "" is the value's own scale.
    """

    name: str
    higher_better: bool = True
    unit: Unit = "points"
    paired: bool = False
    needs_labels: bool = True
    resamples: int = bootstrap.RESAMPLES

    @abstractmethod
    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        """Scores of outputs [N, ...]. `labels` [N, ...] or `reference` outputs, whichever the metric is about.

        InputError if they do not fit. Samples with NaN or +infinity in an output count as wrong and are counted in
        `Scores.broken`.
        """

    def combine(self, means: np.ndarray) -> np.ndarray:
        """The metric from the means [..., k] of the samples' parts."""
        return means[..., 0]

    def value(self, parts: np.ndarray) -> float:
        """Of all samples."""
        return float(self.combine(parts.mean(axis=0)))

    def resampled(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Of samples drawn as often as `weights` [rows, n] say; [rows]."""
        return self.combine(weights @ parts / weights.sum(axis=1, keepdims=True))

    def left_out(self, parts: np.ndarray) -> np.ndarray:
        """With each sample left out in turn; [n]."""
        return self.combine((parts.sum(axis=0) - parts) / max(1, len(parts) - 1))

    def least_upper(self, reference: np.ndarray, candidate: np.ndarray, confidence: float) -> float:
        """What the upper bound of the loss may not fall below, from both models' parts: resampling cannot draw what
        did not occur, so that counts of rare events need a floor."""
        return float("-inf")

    def loss(self, reference: Any, candidate: Any) -> Any:
        """What is lost from one value to another, in `unit`; elementwise for arrays. Positive is worse."""
        worse = np.subtract(reference, candidate) if self.higher_better else np.subtract(candidate, reference)
        return worse * (1 if self.unit == "" else 100)


@dataclass(frozen=True)
class Scores:
    """One model's scores. `parts` holds what each sample contributes; of paired metrics `outcomes` says right or wrong.

    `broken` counts samples whose outputs hold NaN or +infinity; `details` are figures that go with the metric.
    """

    metric: Metric
    parts: np.ndarray
    n: int
    broken: int = 0
    outcomes: np.ndarray | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The metric, in its own scale."""
        return self.metric.value(self.parts)

    def resampled(self) -> np.ndarray:
        """The metric of seeded resamples; of two models with one number of samples, in the same samples."""
        draws = bootstrap.weights(self.n, self.metric.resamples)
        return np.concatenate([self.metric.resampled(self.parts, w) for w in draws])

    def interval(self, drawn: np.ndarray | None = None) -> Interval:
        """The metric with its 95 % interval: Wilson's for shares, else bootstrapped (BCa); `drawn`, if it is there
        already, is `resampled()`."""
        if self.outcomes is not None:
            return wilson(int(self.outcomes.sum()), self.n)
        value = self.value
        if not np.isfinite(value) or self.n < 2:
            return Interval(value, float("-inf"), float("inf"))
        drawn = self.resampled() if drawn is None else drawn
        left = self.metric.left_out(self.parts)
        return Interval(value, bootstrap.bca(value, drawn, left, 0.025), bootstrap.bca(value, drawn, left, 0.975))


class Outcomes(Metric):
    """Right or wrong by sample."""

    paired = True

    def scored(self, right: np.ndarray, broken: int, **details: float) -> Scores:
        return Scores(self, right.astype(np.float64)[:, None], len(right), broken, right, details)


def alike(name: str, what: str, outputs: ArrayLike, other: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [N, values]; `other` must be finite and of one size with the outputs."""
    if other is None:
        raise InputError(f"{name} needs {what}", do="give them, or choose another metric")
    found, right = array_of(name, outputs), array_of(name, other)
    if len(found) != len(right):
        raise lengths(len(found), what, len(right))
    if found.size != right.size:
        raise InputError(f"outputs and {what} differ in shape", why=f"{found.shape} and {right.shape}",
                         do="compare the same output")
    found, right = (a.astype(np.float64).reshape(len(a), -1) for a in (found, right))
    if not np.isfinite(right).all():
        raise InputError(f"{what} are not all finite numbers", do="leave such samples out")
    return found, right


def array_of(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{name} compares numbers", why=f"these are {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{name} of no samples", do="give at least one; a few thousand can decide half a point")
    return array


def lengths(outputs: int, what: str, found: int) -> InputError:
    return InputError(f"{outputs} outputs and {found} {what}", why="there is one for each sample",
                      do="take labels and samples from the same list")


def unit_rows(vectors: np.ndarray, broken: np.ndarray | None = None) -> np.ndarray:
    """Rows of length one; zero rows and broken ones are zero."""
    if broken is not None:
        vectors = np.where(broken[:, None], 0, vectors)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
