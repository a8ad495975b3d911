"""Student's t distribution, without SciPy: fleets are sized by what the core installs."""

from __future__ import annotations

import math


def student_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for an integer number of degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    s, c = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (c, 0.0) if odd else (1.0, 0.0)
    for k in range(odd, degrees - 1, 2):
        total += term
        term *= c * c * (k + 1) / (k + 2)
    inside = 2 / math.pi * (angle + s * total) if odd else s * total
    return 0.5 + inside / 2


def student(level: float, degrees: int) -> float:
    """The `level` quantile of Student's t, by bisection; level above 0.5."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < level else (low, middle)
    return (low + high) / 2
