"""Metrics of classifiers: right or wrong by sample, and F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure import paired
from whet.measure.scores import Metric, Outcomes, Scores, array_of, lengths


class TopK(Outcomes):
    """`top1`, `top5`: the share of samples whose label is among the k highest scores; ties go to the lower index."""

    def __init__(self, k: int) -> None:
        self.name, self.k = f"top{k}", k

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        scores, truth, broken = classified(self.name, outputs, labels)
        if scores.ndim == 1:  # the model's own labels
            if self.k > 1:
                raise InputError(f"{self.name} needs the scores of all classes", why="the output is a label a sample",
                                 do="choose top1, or the output with the scores")
            return self.scored(scores == truth, 0)
        if self.k >= scores.shape[1]:
            raise InputError(f"{self.name} of {scores.shape[1]} classes is always right", do="choose a smaller k")
        own = np.take_along_axis(scores, truth[:, None], axis=1)
        before = np.arange(scores.shape[1]) < truth[:, None]
        rank = (scores > own).sum(axis=1) + ((scores == own) & before).sum(axis=1)
        return self.scored((rank < self.k) & ~broken, int(broken.sum()))


class MacroF1(Metric):
    """`f1`: the mean over classes of 2 hits / (labelled + predicted). Classes with neither are left out of the mean."""

    name = "f1"

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        scores, truth, broken = classified(self.name, outputs, labels)
        classes = int(max(scores.max(), truth.max())) + 1 if scores.ndim == 1 else scores.shape[1]
        found = scores if scores.ndim == 1 else scores.argmax(axis=1)
        found = np.where(broken, classes, found)  # a class of its own, which no label has
        right = found == truth
        parts = np.stack([truth, found, np.full(len(truth), classes)], axis=1).astype(np.int64)
        return Scores(self, parts, len(truth), int(broken.sum()), None, {"top1": float(right.mean())})

    def least_upper(self, reference: np.ndarray, candidate: np.ndarray, confidence: float) -> float:
        # Where no answer differs, neither does any resample, but samples that were not seen may: the bound of top-1.
        right = [parts[:, 0] == parts[:, 1] for parts in (reference, candidate)]
        return 100 * paired.upper_bound(paired.Pairs.of(*right), confidence)

    def value(self, parts: np.ndarray) -> float:
        return float(self.resampled(parts, np.ones((1, len(parts))))[0])

    def resampled(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.array([_f1(*_counts(parts, w)).mean() for w in weights])

    def left_out(self, parts: np.ndarray) -> np.ndarray:
        # Leaving out a sample changes the two classes that it touches, nothing else.
        counts = _counts(parts, np.ones(len(parts)))
        every = _f1(*counts)
        out = np.empty(len(parts))
        changed: dict[tuple[int, int], float] = {}
        for i, (t, p, _) in enumerate(parts.tolist()):
            if (t, p) not in changed:
                hits, labelled, predicted = (c.copy() for c in counts)
                labelled[t] -= 1
                predicted[p] -= 1
                hits[t] -= t == p
                changed[t, p] = float(_f1(hits, labelled, predicted).mean()) if len(parts) > 1 else every.mean()
            out[i] = changed[t, p]
        return out


def _counts(parts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, labelled and predicted by class; the last class holds the broken ones."""
    truth, found, size = parts[:, 0], parts[:, 1], int(parts[0, 2]) + 1
    return (np.bincount(truth, weights * (truth == found), size), np.bincount(truth, weights, size),
            np.bincount(found, weights, size))


def _f1(hits: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """By class, of those classes that occur (the broken ones are none)."""
    total = (labelled + predicted)[:-1]
    return 2 * hits[:-1][total > 0] / total[total > 0] if (total > 0).any() else np.zeros(1)


def classified(name: str, outputs: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [N, C] (or the model's own labels [N]), labels [N], and which samples are broken."""
    scores, truth = array_of(name, outputs), _labels(name, labels)
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    if scores.ndim == 1 and scores.dtype.kind in "iu":
        classes = None
    elif scores.ndim == 2 and scores.shape[1] >= 2:
        classes = scores.shape[1]
    else:
        raise InputError(f"{name} needs an output of shape [samples, classes]", why=f"this one is {scores.shape}",
                         do="choose another output or metric, or a function: package.module:function")
    if len(truth) != len(scores):
        raise lengths(len(scores), "labels", len(truth))
    if classes is None:
        return scores.astype(np.int64), truth, np.zeros(len(scores), bool)
    if truth.min() < 0 or truth.max() >= classes:
        hint = "labels that begin at 1 need 1 taken off" if truth.min() >= 1 and truth.max() == classes else \
            "labels count the model's classes from 0"
        raise InputError("labels outside of the model's classes", why=f"they go from {truth.min()} to {truth.max()}, "
                         f"the model has {classes} classes", do=hint)
    scores = scores.astype(np.float64)
    broken = np.isnan(scores).any(axis=1) | np.isposinf(scores).any(axis=1)
    return np.where(np.isnan(scores), -np.inf, scores), truth, broken


def _labels(name: str, labels: ArrayLike | None) -> np.ndarray:
    if labels is None:
        raise InputError(f"{name} needs labels", do="give them with the samples, or choose --metric divergence, which "
                                                   "compares outputs")
    truth = np.asarray(labels)
    truth = truth[:, 0] if truth.ndim == 2 and truth.shape[1] == 1 else truth
    if truth.ndim != 1 or truth.dtype.kind not in "biuf":
        raise InputError(f"{name} needs one number a sample as its label", why=f"these are {truth.dtype} of shape "
                         f"{truth.shape}", do="give the index of each sample's class")
    if truth.dtype.kind == "f" and not np.array_equal(truth, np.floor(truth)):
        raise InputError(f"{name} needs whole numbers as labels", why="some are fractions or NaN",
                         do="choose mse, rmse or mae for a regression")
    return truth.astype(np.int64)
