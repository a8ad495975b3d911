"""The demo's model and its held-out test set: handwritten digits, trained by `examples/train_digits.py`."""

from __future__ import annotations

from importlib import resources

import numpy as np


def model_bytes() -> bytes:
    """The ONNX model: `image` float32 [batch, 1, 8, 8] in 0..1 -> `logits` float32 [batch, 10]."""
    return resources.files(__name__).joinpath("digits.onnx").read_bytes()


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """540 held-out images, float32 [540, 1, 8, 8] in 0..1, and their labels, int64 [540]."""
    with resources.files(__name__).joinpath("digits_test.npz").open("rb") as file, np.load(file) as stored:
        return (stored["images"] / 16).astype(np.float32), stored["labels"].astype(np.int64)
