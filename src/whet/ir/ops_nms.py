"""Non-maximum suppression, as ONNX NonMaxSuppression defines it, into places of a fixed capacity."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, equal, need


def _rule(ins: list[Value], at: Attrs) -> list[Spec]:
    boxes, scores, limit, *thresholds = ins
    need(boxes.rank == 3 and scores.rank == 3, "nms takes boxes [B, N, 4] and scores [B, C, N]")
    need(boxes.shape[2] == 4, f"nms: boxes have 4 numbers, not {boxes.shape[2]}")
    equal(boxes.shape[0], scores.shape[0], "nms: batches of boxes and scores")
    equal(boxes.shape[1], scores.shape[2], "nms: numbers of boxes and scores")
    need(all(v.dtype is DType.F32 for v in (boxes, scores, *thresholds)), "nms computes in f32")
    need(limit.dtype is DType.I64, "nms: the greatest number of boxes is an i64")
    need(all(v.rank == 0 for v in (limit, *thresholds)), "nms: limit and thresholds are scalars")
    batch = scores.shape[:2]
    return [(DType.I64, (*batch, at["capacity"])), (DType.I64, batch)]


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    boxes, scores, limit, overlap, least = xs
    first, second = boxes[..., :2], boxes[..., 2:]
    low, high = ((first - second / 2, first + second / 2) if at["center"] else
                 (np.minimum(first, second), np.maximum(first, second)))
    area = np.prod(high - low, -1)
    batch, classes, n = scores.shape
    places = np.zeros((batch, classes, at["capacity"]), np.int64)
    counts = np.zeros((batch, classes), np.int64)
    for b, c in np.ndindex(batch, classes):
        left = np.where(scores[b, c] > least, scores[b, c], np.float32(-np.inf))
        for t in range(min(max(int(limit), 0), at["capacity"])):
            best = int(left.argmax()) if n else 0
            if not n or left[best] == -np.inf:
                break
            places[b, c, t], counts[b, c] = best, t + 1
            sides = np.maximum(np.minimum(high[b], high[b, best]) - np.maximum(low[b], low[b, best]), 0)
            common = sides[:, 0] * sides[:, 1]
            union = area[b] + area[b, best] - common
            with np.errstate(all="ignore"):
                left[(common > 0) & (union > 0) & (common / union > overlap)] = -np.inf
            left[best] = -np.inf
    return [places, counts]


# inputs:   boxes [B, N, 4] f32 (two opposite corners, or with `center` the center and the size), scores [B, C, N] f32,
#           the greatest number of boxes for each class (i64), the IoU above which the lesser of two boxes goes (f32),
#           the score that a box must exceed (f32).
# capacity: room for boxes of each class: no more are taken, whatever the third input says.
# outputs:  [B, C, capacity] i64, the boxes taken, best first, then zeros; [B, C] i64, how many they are.
NMS = OpDef("nms", (5, 5), _rule, _reference, {"capacity": REQUIRED, "center": False})
