"""Calibration in shares: joined, they are the calibration of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whet import pipeline
from whet.errors import CacheError, InputError
from whet.precision.cache import Calibration, joined
from whet.precision.data import open_data
from whet.precision.specs import Extent, InputSpec
from whet.quantizing import Quantization

DIGITS = Path(__file__).parents[2] / "src" / "whet" / "demo" / "digits.onnx"
INPUT = [InputSpec("x", np.dtype(np.float32), (Extent(4, 4, 4), Extent(3, 3, 3)))]


def calibrated(data: object, share: tuple[int, int], **more: object) -> Calibration:
    return pipeline.calibrate(DIGITS, Quantization(data, share=share, **more), threads=1,  # type: ignore[arg-type]
                              shapes={"image": (8, 1, 8, 8)})


def test_shares_join_to_the_calibration_of_the_whole() -> None:
    data = np.random.default_rng(0).normal(size=(45, 1, 8, 8)).astype(np.float32)
    data[40] *= 9  # the last share alone sees the largest
    whole = calibrated(data, (0, 1))
    parts = [Calibration.from_json(calibrated(data, (k, 3)).to_json(())) for k in range(3)]  # as they travel
    found = joined(parts, whole.data)
    assert (found.samples, found.batches, found.data) == (45, 6, whole.data)
    for name, t in whole.tensors.items():
        a, b = t.seen, found.tensors[name].seen
        assert (a.count, a.low, a.high, a.zeros, a.tiny, a.exponent, a.first, a.growth) == \
            (b.count, b.low, b.high, b.zeros, b.tiny, b.exponent, b.first, b.growth)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_allclose((a.total, a.squares), (b.total, b.squares), rtol=1e-6, atol=1e-6)
        assert whole.range(name, "mse") == found.range(name, "mse")


@pytest.mark.parametrize("limit", [None, 17])
def test_shares_are_the_samples_in_order_and_cut_between_batches(limit: int | None) -> None:
    data = np.arange(30 * 3, dtype=np.float32).reshape(30, 3)
    whole = open_data(data, INPUT, limit=limit)
    rows = [b.feeds["x"][:b.count] for k in range(3) for b in open_data(data, INPUT, limit=limit).share(k, 3).batches()]
    expected = [b.feeds["x"][:b.count] for b in whole.batches()]
    assert len(rows) == len(expected)
    for a, b in zip(rows, expected):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_shared_out_is_told() -> None:
    with pytest.raises(InputError, match="unknown number"):
        open_data(iter([np.zeros((4, 3), np.float32)]), INPUT).share(0, 2)
    with pytest.raises(InputError, match="3 shares of 5 samples"):
        open_data(np.zeros((5, 3), np.float32), INPUT).share(0, 3)


def test_parts_of_different_models_are_not_joined() -> None:
    data = np.zeros((8, 1, 8, 8), np.float32)
    one = calibrated(data, (0, 1))
    other = replace(one, model="other")
    with pytest.raises(CacheError, match="another model"):
        joined([one, other])
    with pytest.raises(InputError):
        joined([])
