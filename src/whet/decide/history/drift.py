"""The level within a segment, where it drifts: a local level whose drift is weighed, not chosen."""

from __future__ import annotations

import numpy as np

# Variances of the level's step, in that of the noise: none to as much as the noise.
RATIOS = np.concatenate([[0.0], np.geomspace(1e-3, 3.0, 12)])
LONGEST = 200  # values: older ones hardly move the level where it drifts at all, nor its mean where it does not


def local_level(y: np.ndarray) -> tuple[float, float]:
    """(level at the last value, its variance over that of the noise) of a segment without outliers.

    The local level model y = level + noise, level = level before + step, is filtered for each of RATIOS (Durbin and
    Koopman, "Time Series Analysis by State Space Methods", 2nd ed., 2.2 and 2.9: the first value starts it, the noise's
    variance is concentrated out), and the levels are averaged with their likelihoods as weights (Bayesian model
    averaging; Hoeting et al., Statistical Science 14, 1999), all ratios being as likely beforehand.
    """
    y = y[-LONGEST:]
    n, origin = len(y), y[0]
    level, variance = np.zeros(len(RATIOS)), np.ones(len(RATIOS))
    squares, logs = np.zeros(len(RATIOS)), np.zeros(len(RATIOS))
    for value in (y[1:] - origin).tolist():
        variance = variance + RATIOS
        total = variance + 1
        surprise = value - level
        squares += surprise * surprise / total
        logs += np.log(total)
        gain = variance / total
        level = level + gain * surprise
        variance = gain
    likelihood = np.zeros(len(RATIOS))
    if n > 2 and squares.max() > 0:
        likelihood = -0.5 * ((n - 1) * np.log(np.maximum(squares, 1e-300)) + logs)
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    return float(origin + weights @ level), float(weights @ variance)
