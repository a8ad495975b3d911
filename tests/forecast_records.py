"""Histories for tests: a model measured night by night."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from record_samples import measurement
from whet.measure.record import Measurement
from whet.measure.stats import latency

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(at: datetime, scale: float, **fields: Any) -> Measurement:
    """A measurement whose latencies lie around `scale` seconds, within a few per cent."""
    rng = np.random.default_rng(round(1e6 * scale))
    return measurement(date=at.isoformat(), latency=latency(scale * (1 + 0.01 * rng.standard_normal(60))), **fields)


def nightly(levels: tuple[float, ...] = (0.1, 0.08, 0.07), each: int = 8, begin: int = 0,
            **fields: Any) -> list[Measurement]:
    """So many measurements at each level, three days apart, beginning `begin` days after START."""
    rng = np.random.default_rng(0)
    scales = np.repeat(levels, each) * np.exp(0.01 * rng.standard_normal(each * len(levels)))
    return [record(START + timedelta(days=begin + 3 * i), float(s), **fields) for i, s in enumerate(scales)]
