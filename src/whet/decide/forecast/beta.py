"""The incomplete beta function, and by it Student's t with any degrees of freedom, without SciPy: the core installs
NumPy alone."""

from __future__ import annotations

import math

_TINY = 1e-300
_STEPS = 500


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(X <= x) of a beta distribution with parameters a, b > 0: the regularized incomplete beta function I_x(a, b).

    DLMF 8.17.22 (continued fraction), evaluated by Lentz's method; 8.17.4 where it converges faster from the other end.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_front = (math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        for top in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                    -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d, c = 1 / _away(1 + top * d), _away(1 + top / c)
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return min(1.0, math.exp(log_front) * value / a)


def student_cdf(t: float, degrees: float) -> float:
    """P(T <= t) of Student's t with `degrees` > 0, which need not be whole: from I_x(degrees/2, 1/2) with
    x = degrees / (degrees + t^2) (Abramowitz and Stegun, 26.5.27)."""
    if t == 0 or math.isinf(t):
        return 0.5 if t == 0 else float(t > 0)
    if t * t < degrees:  # near the middle by what lies inside, which is small there
        return 0.5 + math.copysign(beta_cdf(t * t / (degrees + t * t), 0.5, degrees / 2) / 2, t)
    tail = beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def _away(x: float) -> float:
    """x, away from zero (Lentz)."""
    return x if abs(x) > _TINY else _TINY
