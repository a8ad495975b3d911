"""Records for tests."""

from typing import Any

from whet.measure.device import this_device
from whet.measure.record import Measurement, Model


def measurement(**fields: Any) -> Measurement:
    """A record with the fields that must be there, and those given."""
    base: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00", "model": Model(name="digits", sha256="0" * 64), "backend": "whet",
        "precision": "fp32", "threads": 2, "shapes": {"input": (1, 1, 8, 8)}, "device": this_device(),
        "versions": {"whet": "0.1.0"},
    }
    return Measurement(**base | fields)
