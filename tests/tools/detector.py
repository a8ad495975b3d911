"""A YOLO-like detector that needs no training: it finds squares of pure red, green and blue."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tools.surgery import model, tensor

SIZE, STRIDE, SIDE = 128, 8, 24  # the network's input, pixels of a cell, and of the squares that it looks for
CELLS = SIZE // STRIDE
node = helper.make_node


def detector(batch: int | str = 1, rng: np.random.Generator | None = None) -> onnx.ModelProto:
    """x [batch, 3, 128, 128] in 0 to 1 -> y [batch, 4 + 3, 256]: cxcywh in pixels, scores of red, green, blue.

    A convolution tells each colour from the two others, an average over 24 x 24 pixels scores a cell. rng: with a
    hidden layer of noise on top, so that boxes are crowded and of every size.
    """
    colour = (3 * np.eye(3) - 1.5 * (1 - np.eye(3))).reshape(3, 3, 1, 1) / 3
    grid = (np.arange(CELLS) + 0.5) * STRIDE
    cy, cx = np.meshgrid(grid, grid, indexing="ij")
    weights = {
        "w": colour.astype(np.float32),
        "mean": np.full((3, 1, SIDE, SIDE), 1 / SIDE**2, np.float32),
        "centres": np.stack([cx, cy]).reshape(1, 2, -1).astype(np.float32),
        "side": np.array([SIDE], np.float32), "shape": np.array([0, 3, -1]), "flat": np.array([0, 2, -1]),
    }
    pad = (SIDE - STRIDE) // 2
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "mean"], ["s"], group=3, strides=[STRIDE] * 2, pads=[pad] * 4),
        node("Reshape", ["s", "shape"], ["scores"]),
    ]
    if rng is None:
        weights["nothing"] = np.zeros((2, 3, 1, 1), np.float32)
    else:
        weights["nothing"] = rng.standard_normal((2, 3, 1, 1)).astype(np.float32) * 40
    nodes += [
        node("Conv", ["s", "nothing"], ["d"]), node("Reshape", ["d", "flat"], ["d2"]), node("Abs", ["d2"], ["d3"]),
        node("Add", ["d3", "side"], ["wh"]), node("Mul", ["wh", "zero"], ["z"]), node("Add", ["z", "centres"], ["xy"]),
        node("Concat", ["xy", "wh", "scores"], ["y"], axis=1),
    ]
    weights["zero"] = np.zeros(1, np.float32)
    return model(nodes, [tensor("x", [batch, 3, SIZE, SIZE])], [tensor("y", [batch, 7, CELLS**2])], weights)


def scene(h: int, w: int, squares: list[tuple[int, int, int, int]]) -> np.ndarray:
    """A grey frame [h, w, 3] with squares (colour, left, top, side), and noise (no two scores are equal)."""
    x = np.full((h, w, 3), 40, np.uint8)
    for colour, left, top, side in squares:
        x[top: top + side, left: left + side] = 10
        x[top: top + side, left: left + side, colour] = 240
    return x + np.random.default_rng(0).integers(0, 16, x.shape, np.uint8)
