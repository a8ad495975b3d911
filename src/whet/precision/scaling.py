"""Dividing the channels of a value by factors that its layers' weights are multiplied by: by what, and what it brings.

Activations have one step for all channels, weights one for each output channel, so outliers of a few channels do less
harm in the weights. The factors are SmoothQuant's (G. Xiao et al., ICML 2023): max|x|**alpha / max|W|**(1 - alpha).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.ir.graph import Node

ALPHAS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SPREAD = 3.0  # a channel's largest magnitude, in standard deviations, where only the former is known
MOST_FACTOR = 2.0**12
WORTH = 0.98  # of the noise without factors: what is no better is not done


def by_input(n: Node) -> np.ndarray:
    """The largest magnitude of a layer's weights by input channel."""
    return np.abs(columns(n)).max(axis=1, initial=0.0)


def columns(n: Node) -> np.ndarray:
    """A layer's weights by input channel and everything else: [I, ...] in float64 (not for one with computed weights).

    For a convolution with groups, those of the other groups are left out.
    """
    split = _split(n, _weights(n))
    return np.moveaxis(split, 1, 2).reshape(split.shape[0] * split.shape[2], -1)


def times_input(n: Node, s: np.ndarray) -> np.ndarray:
    """A layer's weights times s by input channel, in float64."""
    w = _weights(n)
    if n.op != "conv":
        return w * s[:, None]
    a = _split(n, w)
    return (a * s.reshape(a.shape[0], 1, a.shape[2], *[1] * (a.ndim - 3))).reshape(w.shape)


def _weights(n: Node) -> np.ndarray:
    w = n.input(1).data
    assert w is not None
    return w.astype(np.float64)


def _split(n: Node, w: np.ndarray) -> np.ndarray:
    """Weights with axes for the group, the output channel and the input channel in it: [g, O/g, I/g, k..]."""
    if n.op != "conv":
        return w.T[None]
    groups = n.attrs["group"]
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])


def factors(x: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    """The published factors for channels of largest magnitudes x that weights of largest magnitudes w (by input
    channel) read; 1 where one of them is zero. Their geometric mean is 1."""
    ok = (x > 0) & (w > 0)
    if not ok.any():
        return np.ones(x.size)
    s = np.where(ok, np.where(ok, x, 1.0) ** alpha / np.where(ok, w, 1.0) ** (1 - alpha), 1.0)
    s = np.where(ok, s / np.exp(np.log(s[ok]).mean()), 1.0)
    return np.clip(s, 1 / MOST_FACTOR, MOST_FACTOR)


def noise(x: np.ndarray, layers: Sequence[Node], s: np.ndarray) -> float:
    """An estimate of the error that 8 bits bring to the results of layers, in their own unit squared, summed over
    output channels.

    x: largest magnitudes of input channels. s: their factors. Rounding errors are taken as even and independent: the
    values' step is that of 0 to the largest magnitude (of both signs it would be twice that, and speak for more
    smoothing), the weights' that of their output channel; a channel's mean square is taken to be (x / SPREAD)**2.
    """
    a = x / s
    step = a.max() / 255
    total = 0.0
    for n in layers:
        w = _split(n, times_input(n, s))  # [g, O/g, I/g, k..]
        power = np.square(a / SPREAD).reshape(w.shape[0], 1, w.shape[2], *[1] * (w.ndim - 3))
        over = tuple(range(2, w.ndim))
        steps = np.abs(w).max(axis=over) / 127
        terms = int(np.prod(w.shape[3:]))
        total += float(step**2 / 12 * np.square(w).sum()
                       + (np.square(steps) * power.sum(axis=over) * terms).sum() / 12)
    return total


def choose(x: np.ndarray, layers: Sequence[Node], alpha: float | None) -> tuple[float, np.ndarray | None]:
    """(alpha, the factors) for channels of largest magnitudes x; alpha None: that of ALPHAS with the least noise.
    None instead of factors where they would not help."""
    w = np.max([by_input(n) for n in layers], axis=0)
    if alpha is not None:
        s = factors(x, w, alpha)
        return alpha, s if (s != 1).any() else None
    best, least, found = 0.0, WORTH * noise(x, layers, np.ones(x.size)), None
    for a in ALPHAS:
        s = factors(x, w, a)
        if (e := noise(x, layers, s)) < least:
            best, least, found = a, e, s
    return best, found
