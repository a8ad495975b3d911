"""Payback, net present value and return of a row of cash flows, one scenario or many at once.

A flow is an array [..., months + 1]: what is paid (negative) or saved at once, then at the end of each month.
Definitions are those of Brealey, Myers and Allen, "Principles of Corporate Finance", chapters 2 and 5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def npv(flows: ArrayLike, rate_per_year: float) -> np.ndarray:
    """Net present value: sum of flow[m] / (1 + rate)^(m / 12), in the flows' currency. Shape [...].

    rate_per_year is the effective annual rate as a fraction (0.08: 8 %), over -1.
    """
    x = np.asarray(flows, dtype=np.float64)
    months = np.arange(x.shape[-1])
    return np.asarray(x @ (1.0 + rate_per_year) ** (-months / 12.0))


def payback(flows: ArrayLike) -> np.ndarray:
    """Months until the sum of the flows is no longer negative and stays so; NaN where it does not. Shape [...].

    Within a month money is taken to come evenly, so that a constant saving s pays an investment I back after I / s.
    """
    total = np.cumsum(np.asarray(flows, dtype=np.float64), axis=-1)
    months = total.shape[-1]
    negative = total < 0
    last = np.where(negative.any(axis=-1), months - 1 - np.argmax(negative[..., ::-1], axis=-1), -1)
    before = np.take_along_axis(total, np.clip(last, 0, months - 1)[..., None], axis=-1)[..., 0]
    after = np.take_along_axis(total, np.clip(last + 1, 0, months - 1)[..., None], axis=-1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = last + -before / (after - before)
    return np.where(last < 0, 0.0, np.where(last >= months - 1, np.nan, crossing))


def returned(flows: ArrayLike) -> np.ndarray:
    """Return on investment, net of it and not discounted: sum of the flows / what is paid at once. Shape [...].

    NaN where nothing is paid at once: then a ratio says nothing.
    """
    x = np.asarray(flows, dtype=np.float64)
    paid = -x[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(paid > 0, x.sum(axis=-1) / paid, np.nan)


def purchases(needed: np.ndarray, owned: np.ndarray | float) -> np.ndarray:
    """Machines bought at once and at the end of each month, shape [..., months + 1], so that in each month
    `needed` [..., months] are there. Machines that are there are kept."""
    most = np.maximum.accumulate(np.maximum(needed, np.asarray(owned)[..., None]), axis=-1)
    bought = np.diff(most, axis=-1, prepend=np.broadcast_to(np.asarray(owned, dtype=most.dtype)[..., None],
                                                            (*most.shape[:-1], 1)))
    return np.concatenate([bought, np.zeros((*most.shape[:-1], 1))], axis=-1)
