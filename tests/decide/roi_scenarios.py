"""Scenarios for tests of `whet roi`."""

from __future__ import annotations

import copy
from typing import Any

from decide.records_for_roi import batch_record
from whet.decide.result import Result
from whet.decide.roi import Settings, evaluate
from whet.decide.scenario import build

WORKED: dict[str, Any] = {
    "title": "ResNet-50", "hours_per_month": 720, "load": {"rate": 360}, "objective": {"p99_ms": 350},
    "labour": {"cost": 5000}, "before": "PyTorch", "after": "optimized", "options": [
        {"name": "PyTorch", "device": "T4", "throughput": 45, "p99_ms": 320, "instances": 8, "price_per_hour": 0.40},
        {"name": "optimized", "device": "T4", "throughput": 180, "p99_ms": 90, "instances": 2, "price_per_hour": 0.40}]}
QUICK = 10_000  # requests of each simulated fleet


def worked(**changes: Any) -> dict[str, Any]:
    """The worked example, with top-level fields replaced."""
    return copy.deepcopy(WORKED) | changes


def decide(data: dict[str, Any], requests: int | None = QUICK, **settings: Any) -> Result:
    """The result of a scenario."""
    return evaluate(build(data), Settings(requests=requests, **{"draws": 1000} | settings))


__all__ = ["QUICK", "WORKED", "batch_record", "decide", "worked"]
