"""Non-maximum suppression: the boxes that the reference takes, in its order, for any strides, thresholds and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import run_region
from movement_cases import ISAS, movement, tactic

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol

F = DType.F32
SCALAR = Tensor.dense(F, ())


def boxes_of(batch: int, n: int, seed: int = 0) -> np.ndarray:
    """Boxes that overlap much, their corners in any order."""
    rng = np.random.default_rng(seed)
    a = rng.random((batch, n, 2)) * 4
    return np.concatenate([a, a + rng.uniform(-1, 1, a.shape)], -1).astype(np.float32)


def region(boxes: Tensor, scores: Tensor, capacity: Any, center: bool = False, **more: Any) -> Region:
    return movement("nms", [boxes, scores, Tensor.dense(DType.I64, ()), SCALAR, SCALAR],
                    {"capacity": capacity, "center": center}, **more)


def check(r: Region, isa: Any, boxes: np.ndarray, scores: np.ndarray, limit: int, overlap: float, least: float,
          env: dict[str, int] | None = None) -> list[np.ndarray]:
    xs = [boxes, scores, np.array(limit, np.int64), np.array(overlap, np.float32), np.array(least, np.float32)]
    got = run_region(r, tactic("nms"), {}, isa, xs, env)
    for g, w in zip(got, region_reference(r, xs, env), strict=True):
        np.testing.assert_array_equal(g, w)
    return got


def dense(batch: int, classes: int, n: int, capacity: int, center: bool = False) -> Region:
    return region(Tensor.dense(F, (batch, n, 4)), Tensor.dense(F, (batch, classes, n)), capacity, center)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("batch", "classes", "n", "capacity"), [
    (1, 1, 1, 1), (2, 3, 17, 17), (1, 2, 100, 5), (3, 1, 64, 10), (1, 1, 0, 0), (0, 2, 5, 3), (1, 1, 31, 1)])
def test_sizes(batch: int, classes: int, n: int, capacity: int, center: bool, isa: Any) -> None:
    scores = np.random.default_rng(2).random((batch, classes, n)).astype(np.float32)
    check(dense(batch, classes, n, capacity, center), isa, boxes_of(batch, n), scores, capacity, 0.3, 0.2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("limit", "overlap", "least"), [
    (0, 0.5, 0.0), (-3, 0.5, 0.0), (4, 0.5, 0.0), (99, 0.0, -np.inf), (99, 1.0, 0.5), (99, 0.5, 2.0)])
def test_limit_and_thresholds(limit: int, overlap: float, least: float, isa: Any) -> None:
    scores = np.random.default_rng(3).standard_normal((2, 2, 40)).astype(np.float32)
    check(dense(2, 2, 40, 40), isa, boxes_of(2, 40), scores, limit, overlap, least)


@pytest.mark.parametrize("isa", ISAS)
def test_of_equal_scores_the_first_box_is_taken(isa: Any) -> None:
    scores = np.random.default_rng(4).integers(0, 3, (1, 1, 90)).astype(np.float32)
    check(dense(1, 1, 90, 90), isa, boxes_of(1, 90), scores, 90, 0.4, 0.5)


@pytest.mark.parametrize("isa", ISAS)
def test_scores_and_boxes_that_are_no_numbers_are_not_taken_or_suppress_nothing(isa: Any) -> None:
    rng = np.random.default_rng(5)
    scores, boxes = rng.random((1, 1, 50)).astype(np.float32), boxes_of(1, 50)
    scores[0, 0, ::7] = np.nan
    got = check(dense(1, 1, 50, 50), isa, boxes, scores, 50, 0.4, 0.1)
    assert not set(got[0][0, 0, :got[1][0, 0]].tolist()) & set(range(0, 50, 7))
    boxes[0, 3] = np.nan
    run_region(dense(1, 1, 50, 50), tactic("nms"), {}, isa,
               [boxes, scores, np.array(50), np.float32(0.4), np.float32(0.1)], None)


@pytest.mark.parametrize("isa", ISAS)
def test_scores_by_box_as_detectors_give_them(isa: Any) -> None:
    """[B, N, 4 + C]: boxes within wider rows. Scores [B, N, C] seen as [B, C, N] want a copy."""
    n, c = 33, 4
    rows = np.random.default_rng(6).random((2, n, 4 + c)).astype(np.float32)
    boxes = Tensor(F, (2, n, 4), (n * (4 + c), 4 + c, 1))
    r = region(boxes, Tensor.dense(F, (2, c, n)), 8)
    check(r, isa, rows[..., :4], np.ascontiguousarray(rows[..., 4:].transpose(0, 2, 1)), 8, 0.3, 0.2)
    assert tactic("nms").applies(region(boxes, Tensor(F, (2, c, n), (n * (4 + c), 1, 4 + c)), 8), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_number_of_boxes_that_is_known_at_run_time(isa: Any) -> None:
    n = symbol("n")
    r = region(Tensor.dense(F, (1, n, 4)), Tensor.dense(F, (1, 2, n)), n, dims={"n": (0, 50, 300)})
    for size in (0, 1, 37, 300):
        scores = np.random.default_rng(size).random((1, 2, size)).astype(np.float32)
        check(r, isa, boxes_of(1, size), scores, 1000, 0.2, 0.1, {"n": size})
