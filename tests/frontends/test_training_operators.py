"""Losses and optimizers run on generated kernels, as onnx.reference has them or, where it has faults, as they are
defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_cases import agree, by_plan, by_reference, model, one


def loss_case(shape: tuple[int, ...], ignored: bool, weighted: bool, dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(sum(shape))
    scores = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    if ignored:
        labels.reshape(-1)[::3] = -7
    return [scores, labels, rng.uniform(0.1, 2, shape[1]).astype(dtype) if weighted else None]


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 3), (1, 17, 2, 5), (5, 1)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("ignored", "weighted"), [(False, False), (True, False), (True, True)])
def test_losses(shape: tuple[int, ...], reduction: str, ignored: bool, weighted: bool) -> None:
    scores, labels, weights = loss_case(shape, ignored, weighted)
    kept = labels != -7
    log_prob = scores.astype(np.float64) - np.log(np.exp(scores.astype(np.float64)).sum(1, keepdims=True))
    each = -np.take_along_axis(log_prob, np.where(kept, labels, 0)[:, None], 1)[:, 0]
    w = np.where(kept, weights[np.where(kept, labels, 0)] if weighted else 1.0, 0)
    total = {"none": each * w, "sum": (each * w).sum(), "mean": (each * w).sum() / w.sum()}[reduction]
    more = {"ignore_index": -7} if ignored else {}
    m, feeds = one("SoftmaxCrossEntropyLoss", [scores, labels, weights], outputs=2, reduction=reduction, **more)
    agree(by_plan(m, feeds), [np.asarray(total, np.float32), log_prob.astype(np.float32)])
    m, feeds = one("NegativeLogLikelihoodLoss", [log_prob.astype(np.float32), labels, weights], reduction=reduction,
                   **more)
    agree(by_plan(m, feeds), [np.asarray(total, np.float32)])


def test_a_mean_over_ignored_labels_only_is_nan() -> None:
    m, feeds = one("SoftmaxCrossEntropyLoss", [np.ones((2, 3), np.float32), np.full(2, 9)], ignore_index=9)
    assert np.isnan(by_plan(m, feeds)[0])


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize(("op", "kinds", "attrs"), [
    ("Adagrad", 3, {"decay_factor": 0.1, "norm_coefficient": 0.01}),
    ("Adam", 4, {"norm_coefficient": 0.01, "norm_coefficient_post": 0.02}),
    ("Momentum", 3, {"alpha": 0.9, "beta": 0.7, "norm_coefficient": 0.01, "mode": "standard"}),
    ("Momentum", 3, {"alpha": 0.9, "beta": 0.7, "norm_coefficient": 0.01, "mode": "nesterov"}),
])
def test_optimizers(op: str, kinds: int, attrs: dict[str, Any], count: int) -> None:
    """Two tensors at once, of odd sizes."""
    rng = np.random.default_rng(count)
    shapes = [(3, 17), (5,)]
    feeds: dict[str, np.ndarray] = {"r": np.asarray(0.1, np.float32), "t": np.asarray(count, np.int64)}
    for k in range(kinds):
        for i, s in enumerate(shapes):
            feeds[f"x{k}_{i}"] = rng.uniform(0.1, 1, s).astype(np.float32)
    outputs = [f"y{i}" for i in range(2 * (kinds - 1))]
    node = helper.make_node(op, list(feeds), outputs, domain="ai.onnx.preview.training", **attrs)
    m = model([node], {n: (a.dtype, a.shape) for n, a in feeds.items()}, outputs,
              domains={"ai.onnx.preview.training": 1})
    agree(by_plan(m, feeds), by_reference(m, feeds))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int32, np.int64])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts_of_any_distance(dtype: Any, direction: str) -> None:
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, 67, dtype, endpoint=True)
    x[:2] = info.min, info.max
    y = rng.integers(-2 if info.min else 0, info.bits + 3, 67).astype(dtype)
    m, feeds = one("BitShift", [x, y], direction=direction, opset=28)
    agree(by_plan(m, feeds), by_reference(m, feeds), 0, 0)
