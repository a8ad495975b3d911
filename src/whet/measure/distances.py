"""Metrics of numbers: errors of a regression, and how far outputs are from the reference model's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure.scores import Metric, Outcomes, Scores, alike, unit_rows


class Error(Metric):
    """`mse`, `rmse`, `mae`: errors of a regression, the mean over a sample's values and all samples. Losses are percent
    of the reference model's error. One broken sample makes them infinite."""

    higher_better, unit = False, "percent"

    def __init__(self, name: str) -> None:
        self.name = name

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found, right = alike(self.name, "labels", outputs, labels)
        broken = ~np.isfinite(found).all(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(found - right)
            errors = (distance if self.name == "mae" else distance ** 2).mean(axis=1)
        errors[broken] = np.inf
        return Scores(self, errors[:, None], len(errors), int(broken.sum()))

    def combine(self, means: np.ndarray) -> np.ndarray:
        return np.sqrt(means[..., 0]) if self.name == "rmse" else means[..., 0]

    def resampled(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return super().resampled(parts, weights) if np.isfinite(parts).all() else np.full(len(weights), np.inf)

    def left_out(self, parts: np.ndarray) -> np.ndarray:
        return super().left_out(parts) if np.isfinite(parts).all() else np.full(len(parts), np.inf)

    def loss(self, reference: Any, candidate: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = 100 * np.divide(np.subtract(candidate, reference), reference)
        return np.where(np.equal(candidate, reference), 0.0, lost)[()]


class Cosine(Metric):
    """`cosine`: the mean cosine of a sample's output and the reference model's. Broken samples count 0."""

    name, needs_labels = "cosine", False

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found, right = alike(self.name, "the reference's outputs", outputs, reference)
        broken = ~np.isfinite(found).all(axis=1)
        cosines = (unit_rows(found, broken) * unit_rows(right)).sum(axis=1)
        return Scores(self, cosines[:, None], len(cosines), int(broken.sum()), None, {"least": float(cosines.min())})


class RelativeL2(Metric):
    """`divergence:l2`: ||outputs - reference|| / ||reference|| over all samples, in percent; SQNR: -20 log10 of it."""

    name, needs_labels, higher_better, unit = "divergence:l2", False, False, "percent"

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found, right = alike("divergence", "the reference's outputs", outputs, reference)
        broken = ~np.isfinite(found).all(axis=1)
        difference = np.where(broken[:, None], 0, found) - right
        parts = np.stack([(difference ** 2).sum(axis=1), (right ** 2).sum(axis=1)], axis=1)
        parts[broken, 0] = np.maximum(parts[broken, 1], 1e-300)  # as wrong as no output at all
        return Scores(self, parts, len(parts), int(broken.sum()), None, _distances(parts))

    def combine(self, means: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(means[..., 0] == 0, 0.0, np.sqrt(means[..., 0] / means[..., 1]))


class Agreement(Outcomes):
    """`divergence:agreement`: the share of samples in which the highest score is the reference model's.

    A loss of top-1 is never more than what this loses, so that a budget which holds here holds for top-1, whatever the
    labels are. `details`: the mean Kullback-Leibler divergence of the reference's distribution from this one, in nats
    (softmax is taken where rows are no distributions), the relative L2 distance, and SQNR in dB.
    """

    name, needs_labels = "divergence:agreement", False

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found, right = alike("divergence", "the reference's outputs", outputs, reference)
        if found.shape[1] < 2:
            raise InputError("agreement needs the scores of two classes or more", do="choose divergence:l2")
        broken = np.isnan(found).any(axis=1) | np.isposinf(found).any(axis=1)
        same = (np.where(broken[:, None], 0, found).argmax(axis=1) == right.argmax(axis=1)) & ~broken
        details = {}
        if (~broken).any() and np.isfinite(found[~broken]).all() and np.isfinite(right).all():
            details = {"kl": _kl(right[~broken], found[~broken]), **RelativeL2().evaluate(found, None, right).details}
        return self.scored(same, int(broken.sum()), **details)


def _distances(parts: np.ndarray) -> dict[str, float]:
    l2 = float(RelativeL2().combine(parts.mean(axis=0)))
    return {"relative_l2": l2, "sqnr_db": -20 * float(np.log10(l2)) if l2 > 0 else float("inf")}


def _kl(reference: np.ndarray, found: np.ndarray) -> float:
    p, q = _log_distribution(reference), _log_distribution(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_distribution(scores: np.ndarray) -> np.ndarray:
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-12))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
