"""How far one set of outputs is from another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def relative_l2(ours: ArrayLike, reference: ArrayLike) -> float:
    """`||ours - reference|| / ||reference||` in float64; both arrays have one shape.

    Infinite where the shapes differ or `ours` is not finite where `reference` is; 0 for empty arrays.
    Positions that are not finite in the reference must be equal (NaN equals NaN) and are left out.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    difference, norm = np.linalg.norm(a[finite] - b[finite]), np.linalg.norm(b[finite])
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return float(difference / norm)


def centred_error(ours: ArrayLike, reference: ArrayLike, axis: int = -1) -> float:
    """Relative L2 error after the mean along `axis` is taken off both arrays.

    Outputs often share a large constant part (the mean logit, or what all samples of a batch have in
    common) that any wrong kernel reproduces; what is left when it is removed is what the model says.
    `axis` is -1 for the class or feature axis, 0 for the batch (which must hold two samples or more).
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    if b.size == 0:
        return 0.0
    return relative_l2(a - a.mean(axis=axis, keepdims=True), b - b.mean(axis=axis, keepdims=True))
