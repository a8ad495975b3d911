"""What calibration data may have missed, and where ranges are not to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.precision.cache import Calibration, Tensor
from whet.precision.methods import Range

FEW_SAMPLES = 100
GREW = 0.01  # of the range, over the last batches: reported from here on
CLIPPED = 0.01  # of the values
PILED = 0.05  # of the values that are not zero, in the last of some 2,000 bins
NAMED = 8  # channels that are listed by number


@dataclass(frozen=True)
class Finding:
    """One thing to know. `amount` is a share (0..1) or a count, by kind:

    few-samples (samples), unknown-growth (batches), grew (share of the range), dead-channels (count), constant (0),
    clipped (share of values), piled-up (share of values), not-finite (count), unseen (0).
    """

    kind: str
    tensor: str
    layer: str
    amount: float
    text: str


def coverage(c: Calibration, method: str = "mse", symmetric: bool = False) -> list[Finding]:
    """Everything to know of a calibration, of the whole first, then by tensor in order.

    few-samples: fewer than `FEW_SAMPLES`. If samples are drawn alike, one more lies outside a tensor's range with
    probability up to 2 / (n + 1): it is as likely as any to be the highest or the lowest.
    grew: over the last tenth of the batches (at least one), by `GREW` of the range or more.
    clipped: the range by `method` cuts off `CLIPPED` of the values or more.
    """
    out = []
    if c.samples < FEW_SAMPLES:
        p = min(2 / (c.samples + 1), 1.0)
        out.append(Finding("few-samples", "", "", c.samples,
                           f"{c.samples} samples: one more lies outside what was seen of a tensor with a probability "
                           f"of up to {p:.1%}; give at least {FEW_SAMPLES}"))
    if c.batches < 2:
        out.append(Finding("unknown-growth", "", "", c.batches, "one batch: whether ranges still grow cannot be told"))
    for name, t in c.tensors.items():
        out += _of_tensor(name, t, c, method, symmetric)
    return out


def _of_tensor(name: str, t: Tensor, c: Calibration, method: str, symmetric: bool) -> list[Finding]:
    o, out = t.seen, list[Finding]()

    def found(kind: str, amount: float, text: str) -> None:
        out.append(Finding(kind, name, t.layer, amount, text))

    if o.nan or o.inf:
        found("not-finite", o.nan + o.inf, f"{o.nan} NaN and {o.inf} infinite values")
    if not o.count:
        found("unseen", 0, "no finite value was seen")
        return out
    last = max(c.batches // 10, 1)
    grew = growth(t, last)
    if c.batches > 1 and grew >= GREW:
        found("grew", grew, f"the range grew by {grew:.1%} in the last {last} of {c.batches} batches")
    if o.low == o.high:
        found("constant", 0, f"all values are {o.low:g}")
        return out
    if o.channels is not None:
        dead = np.flatnonzero((o.channels.low == o.channels.high) | (o.channels.count == 0))
        if dead.size:
            which = ", ".join(map(str, dead[:NAMED])) + ("..." if dead.size > NAMED else "")
            found("dead-channels", dead.size, f"{dead.size} of {o.channels.low.size} channels never change ({which})")
    piled = pile(t)
    if piled >= PILED:
        found("piled-up", piled, f"{piled:.1%} of the values other than 0 lie at an end of the range, cut off there")
    share = clipped(t, c.range(name, method, symmetric))
    if share >= CLIPPED:
        found("clipped", share, f"the range by {method} clips {share:.1%} of the values")
    return out


def growth(t: Tensor, last: int) -> float:
    """By what share of its final width the range grew in the last batches; 1 where nothing was seen before."""
    o = t.seen
    before = [g for g in o.growth if g.batch < o.batches - last]
    if o.high == o.low or not o.count:
        return 0.0
    if not before:
        return 1.0
    return 1 - (before[-1].high - before[-1].low) / (o.high - o.low)


def clipped(t: Tensor, r: Range) -> float:
    """The share of values outside a range (in bins whose centre is)."""
    edges, counts = t.seen.bins()
    centres = (edges[:-1] + edges[1:]) / 2
    return float(counts[(centres < r.low) | (centres > r.high)].sum() / max(t.seen.count, 1))


def pile(t: Tensor) -> float:
    """The share, of values that are not zero, in the first or last bin (that do not hold zero)."""
    edges, counts = t.seen.bins(zeros=False)
    ends = (counts[0] if edges[1] <= 0 else 0) + (counts[-1] if edges[-2] >= 0 else 0)
    total = counts.sum()
    return float(ends / total) if counts.size > 2 and total else 0.0


def lines(findings: list[Finding]) -> list[str]:
    """The findings as text: what concerns all, then a line per tensor and finding."""
    return [f.text if not f.tensor else f"{f.tensor} ({f.layer}): {f.text}" if f.layer else f"{f.tensor}: {f.text}"
            for f in findings]
