"""Measurement records for tests of `whet roi`."""

from __future__ import annotations

from typing import Any

import numpy as np

from record_samples import measurement
from whet.measure import stats
from whet.measure.record import Measurement


def batch_record(batch: int, seconds: float, count: int = 1000, **fields: Any) -> Measurement:
    """A record of `count` calls with a batch, of `seconds` each and a tenth more for some."""
    rng = np.random.default_rng(batch)
    samples = seconds * (1 + 0.1 * rng.random(count) ** 4)
    found = stats.latency(samples)
    return measurement(**{"shapes": {"input": (batch, 3, 224, 224)}, "latency": found,
                          "throughput": batch / found.p50.value} | fields)
