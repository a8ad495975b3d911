"""Does a sentence encoder still rank pairs of sentences as the reference does?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from whet.errors import InputError
from whet.measure.scores import Metric, Scores, alike, unit_rows

MOST = 1000  # samples that are compared, each with each


class Spearman(Metric):
    """`spearman`: the rank correlation of all pairs' cosine similarities with the reference model's.

    Of more than 1000 samples, 1000 evenly spaced ones are compared. Intervals resample samples, not pairs (pairs of
    one sample hang together); ranks stay those of the whole sample, which changes the coefficient by terms of order
    1/n only. Broken samples are like nothing (similarity -1).
    """

    name, needs_labels = "spearman", False

    def evaluate(self, outputs: ArrayLike, labels: ArrayLike | None = None,
                 reference: ArrayLike | None = None) -> Scores:
        found, right = alike(self.name, "the reference's outputs", outputs, reference)
        if len(found) < 3:
            raise InputError("spearman compares pairs of samples", why=f"of {len(found)} samples there are too few",
                             do="give three or more; a hundred bound it well")
        if len(found) > MOST:
            some = np.linspace(0, len(found) - 1, MOST).astype(int)
            found, right = found[some], right[some]
        broken = ~np.isfinite(found).all(axis=1)
        ranks = [_ranks(_similarities(a, b)) for a, b in ((right, np.zeros(len(right), bool)), (found, broken))]
        a, b = (r - r[~np.eye(len(r), dtype=bool)].mean() for r in ranks)
        for m in (a, b):
            np.fill_diagonal(m, 0)
        one = 1 - np.eye(len(a))
        return Scores(self, np.stack([one, a, b, a * a, b * b, a * b]), len(a), int(broken.sum()))

    def combine(self, means: np.ndarray) -> np.ndarray:
        n, a, b, aa, bb, ab = np.moveaxis(means, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = (ab - a * b / n) / np.sqrt((aa - a * a / n) * (bb - b * b / n))
        return np.where(np.isfinite(r), r, 0.0)

    def value(self, parts: np.ndarray) -> float:
        return float(self.combine(parts.sum(axis=(1, 2))))

    def resampled(self, parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        # A pair counts as often as both of its samples were drawn; a sample's pair with its copy does not count.
        return self.combine(np.stack([((weights @ m) * weights).sum(axis=1) for m in parts], axis=-1))

    def left_out(self, parts: np.ndarray) -> np.ndarray:
        return self.combine((parts.sum(axis=(1, 2))[:, None] - 2 * parts.sum(axis=2)).T)


def _similarities(vectors: np.ndarray, broken: np.ndarray) -> np.ndarray:
    unit = unit_rows(vectors, broken)
    found = unit @ unit.T
    found[broken] = found[:, broken] = -1
    return found


def _ranks(similarities: np.ndarray) -> np.ndarray:
    """Average ranks of the pairs, as a symmetric matrix with zeros on its diagonal."""
    upper = np.triu_indices(len(similarities), 1)
    values = similarities[upper]
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = np.zeros_like(similarities)
    ranks[upper] = (ends - (counts - 1) / 2)[inverse]
    return ranks + ranks.T
