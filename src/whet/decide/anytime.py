"""Bounds that hold at every moment of a trial at once: look as often as you like, stop when you like.

They pay for that with width: nearly twice that of a single look for shares, 1.7 times for means.
"""

from __future__ import annotations

import math

import numpy as np

# Stakes that the bets are a mixture of, as shares of the largest allowed. The best one is about the distance to the
# margin over the share of pairs that differ; neighbours lie so near that none is far from it, and are so few that the
# mixture costs little.
_STAKES = np.geomspace(3e-3, 0.97, 10)
BETS = 1.93  # how many times as wide the bounds of shares are as a single look's (a test holds it)


def wealth(lost: float, gained: float, n: float, loss: float) -> float:
    """The logarithm of the capital of a gambler who bets against "the true loss is `loss` or more".

    Of n pairs, `lost` were right by the reference alone and `gained` by the candidate alone; D is 1, -1 or 0. For a
    stake s the capital is the product of 1 + s (loss - D) / (1 - loss), which is a martingale of mean 1 or less if the
    mean of D is `loss` or more, whatever came before; so is the even mixture over stakes. By Ville's inequality it ever
    reaches 1 / alpha with a probability of alpha at most: Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", Journal of the Royal Statistical Society B 86, 2024, section 4. The order of pairs does not
    matter to a mixture of fixed stakes. `loss` lies between -1 and 1.
    """
    s = _STAKES / (1 - loss)
    logs = (lost * np.log1p(-_STAKES) + gained * np.log1p(s * (1 + loss)) + (n - lost - gained) * np.log1p(s * loss))
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))


def share_bounds(lost: float, gained: float, n: float, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the loss, each wrong at any time with probability `alpha` at most."""
    return -_upper(gained, lost, n, alpha), _upper(lost, gained, n, alpha)


def _upper(lost: float, gained: float, n: float, alpha: float) -> float:
    """The least loss that the bets have refuted: capital grows with the loss that is bet against."""
    if lost >= n:
        return 1.0
    low, high = (lost - gained) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if wealth(lost, gained, n, middle) < -math.log(alpha):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def radius(n: float, planned: float, alpha: float) -> float:
    """Standard errors from the estimate to each one-sided bound, of a mean of n samples: Robbins's normal mixture.

    An asymptotic confidence sequence: sqrt(2 (n r + 1) / (n r) log(1 + sqrt(n r + 1) / (2 alpha))), Waudby-Smith,
    Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals
    of Statistics 52, 2024, proposition B.1, as in the mixture SPRT of Johari, Koomen, Pekelis and Walsh, "Always valid
    inference", Operations Research 70, 2022. r is set so that it is narrow at the planned number of samples.
    """
    wide = -2 * math.log(2 * alpha)
    r = (wide + math.log(wide + 1)) / planned
    return math.sqrt(2 * (n * r + 1) / (n * r) * math.log1p(math.sqrt(n * r + 1) / (2 * alpha)))
