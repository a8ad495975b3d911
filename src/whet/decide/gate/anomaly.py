"""Quantization that gains far less than it did before, and what in the plan may be the cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from whet.decide.gate.result import Note

FEWEST = 3  # gains that make a history
FAR = 0.75  # a gain below this share of the usual one is far less
BEYOND = 2.0  # ... and so many standard deviations below it
LEAST_SPREAD = 0.01  # of gains: a point, as they are read
NEAR = timedelta(days=1)  # measurements that belong together
CODES = ("int8", "fp8")
MOST_NAMED = 5  # layers


def gain(real: float, quantized: float) -> float:
    """The share of the latency that quantization takes off: 1 - quantized / real."""
    return 1 - quantized / real


def gains(real: Sequence[tuple[datetime, float]], quantized: Sequence[tuple[datetime, float]]) -> list[float]:
    """The gains of a history: each quantized latency against the unquantized one that was measured nearest in time, a
    day away at most. Both oldest first."""
    out = []
    for at, value in quantized:
        near = min(real, key=lambda p: abs(p[0] - at), default=None)
        if near is not None and abs(near[0] - at) <= NEAR and near[1] > 0 and value > 0:
            out.append(gain(near[1], value))
    return out


def atypical(before: Sequence[float], found: float, precision: str) -> Note | None:
    """A note where a gain is far less than those before: below three quarters of their mean, and two standard
    deviations below it (of a new value: s sqrt(1 + 1/n); Hahn and Meeker, "Statistical Intervals", 4.7). None where it
    is not, where there are less than three, or where quantization gained nothing before either."""
    x = np.asarray(before, dtype=np.float64)
    if len(x) < FEWEST or not np.isfinite(found) or x.mean() <= 0:
        return None
    spread = max(float(x.std(ddof=1)), LEAST_SPREAD) * math.sqrt(1 + 1 / len(x))
    if found >= FAR * x.mean() or found >= x.mean() - BEYOND * spread:
        return None
    return Note(code="atypical", values={"precision": precision, "gain": found, "mean": float(x.mean()),
                                         "count": len(x)})


def causes(info: Mapping[str, Any], precision: str) -> list[Note]:
    """What a plan's own account (`manifest.info`) says of why quantization gained little: layers that were not
    quantized, with the reasons, and what calibration did not see."""
    told = info.get("precision")
    told = told if isinstance(told, Mapping) else {}
    of = told.get(precision)
    of = of if isinstance(of, Mapping) else {}
    quantized, kept = of.get("layers"), of.get("kept")
    out = []
    if isinstance(kept, Mapping) and kept:
        reasons: dict[str, list[str]] = {}
        for layer, why in kept.items():
            reasons.setdefault(str(why), []).append(str(layer))
        total = len(kept) + (len(quantized) if isinstance(quantized, list | tuple) else 0)
        out.append(Note(code="kept-layers", values={"count": len(kept), "of": total, "precision": precision}))
        for why, layers in sorted(reasons.items(), key=lambda r: -len(r[1]))[:MOST_NAMED]:
            more = f" +{len(layers) - MOST_NAMED}" if len(layers) > MOST_NAMED else ""
            out.append(Note(code="kept-because", values={"reason": why, "count": len(layers),
                                                         "layers": ", ".join(layers[:MOST_NAMED]) + more}))
    hosted = [str(l.get("name", "")) for l in info.get("layers") or () if isinstance(l, Mapping) and l.get("reason")]
    if hosted:
        out.append(Note(code="hosted", values={"count": len(hosted), "layers": ", ".join(hosted[:MOST_NAMED])}))
    calibration = told.get("calibration")
    if isinstance(calibration, Mapping):
        out.append(Note(code="calibrated", values={"samples": int(calibration.get("samples") or 0),
                                                   "method": str(calibration.get("method", ""))}))
        lines = [*(calibration.get("coverage") or ()), *(calibration.get("warnings") or ())]
        out += [Note(code="coverage", values={"text": str(line)}) for line in lines[:MOST_NAMED]]
    return out or [Note(code="no-cause", values={"precision": precision})]
