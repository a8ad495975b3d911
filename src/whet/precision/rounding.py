"""Adaptive rounding: each weight up or down so that a layer's outputs, not its weights, are nearest to what they were.

The problem is that of M. Nagel, R. A. Amjad, M. van Baalen, C. Louizos, T. Blankevoort, "Up or down? Adaptive rounding
for post-training quantization", ICML 2020: minimize |X q(W) - Y|**2 over roundings, X the layer's inputs. It is a
quadratic in the weights, known by X'X and X'Y alone, so samples stream through. Codes are first fixed one input after
the other, where those to come make up for the error so far (E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ:
accurate post-training quantization for generative pre-trained transformers", ICLR 2023), then moved to the other side
wherever that lowers the error. Both take all outputs at once, in products of matrices.
"""

from __future__ import annotations

import math

import numpy as np

from whet.ir.graph import Node
from whet.precision.insert import weight_codes

SWEEPS = 3
BLOCK = 32  # input channels between two updates of all gradients
ROWS = 512  # rows of X that are taken from a batch at most
LEAST_DAMPING = 1e-6  # which keeps X'X regular
MOST_DEPTH = 8192  # X'X of more inputs would take over half a gigabyte


class Reconstruction:
    """X'X and X'Y of one layer, gathered batch by batch.

    node: a convolution (channels first) or matmul by a matrix, with constant weights. Of a convolution, X are its
    windows. At most `rows` of a batch are taken, chosen at random (by `seed`).
    """

    def __init__(self, node: Node, rows: int = ROWS, seed: int = 0) -> None:
        w = node.input(1).data
        if w is None or node.op not in ("conv", "matmul") or (node.op == "matmul" and w.ndim != 2):
            raise ValueError(f"{node.op} has no constant weights to round")
        self.node = node
        self.groups = node.attrs["group"] if node.op == "conv" else 1
        self.shape = w.shape
        self.weights = _as_columns(node, w.astype(np.float64))  # [g, K, N]
        depth = self.weights.shape[1]
        if depth > MOST_DEPTH:
            raise ValueError(f"sums over {depth} terms: adaptive rounding takes up to {MOST_DEPTH}")
        self.gram = np.zeros((self.groups, depth, depth))
        self.cross = np.zeros(self.weights.shape)
        self.rows, self._most = 0, rows
        self._random = np.random.default_rng(seed)

    def add(self, x: np.ndarray, quantized: np.ndarray | None = None) -> None:
        """A batch of the layer's inputs, as the graph has them; `quantized`: what the layer reads once it and those
        before it are quantized. Its outputs should then be what x gives."""
        place = self._places(x.shape)
        rows = self._rows(x, place)
        seen = rows if quantized is None else self._rows(quantized, place)
        self.gram += seen.transpose(0, 2, 1) @ seen
        self.cross += seen.transpose(0, 2, 1) @ (rows @ self.weights)
        self.rows += rows.shape[1]

    def error(self, codes: np.ndarray) -> float:
        """The mean squared error of the outputs with these codes, up to a constant where inputs were `quantized`."""
        w = self.node.input(1).data
        assert w is not None
        scale = weight_codes(w, self._axis)[1]
        d = _as_columns(self.node, codes.astype(np.float64) * scale) - self.weights
        linear = self.gram @ self.weights - self.cross
        outputs = self.weights.shape[0] * self.weights.shape[2]
        return float((d * (self.gram @ d + 2 * linear)).sum() / max(self.rows * outputs, 1))

    @property
    def _axis(self) -> int:
        return 0 if self.node.op == "conv" else 1

    def round(self, sweeps: int = SWEEPS, damping: float = 0.01) -> np.ndarray:
        """i8 codes in the shape of the weights, for the scales of `weight_codes`: each the weight rounded up or down.

        damping: added to the diagonal of X'X, as a share of its mean: what was not seen keeps the nearest code.
        """
        w = self.node.input(1).data
        assert w is not None
        nearest, scale = weight_codes(w, self._axis)
        if not self.rows:
            return nearest
        step = _as_columns(self.node, np.broadcast_to(scale.astype(np.float64), w.shape))[:, :1]  # [g, 1, N]
        depth = self.weights.shape[1]
        mean = np.einsum("gii->g", self.gram) / depth
        # Of a group that saw nothing but zeros, every code is as good: the nearest is kept.
        added = np.where(mean > 0, max(damping, LEAST_DAMPING) * mean, 1.0)
        gram = self.gram + added[:, None, None] * np.eye(depth)
        ideal = self.weights / step
        low, high = np.maximum(np.floor(ideal), -127), np.minimum(np.ceil(ideal), 127)
        # The error is d' gram d + 2 d' linear with d = q s - W: least, for any real numbers, at `free`.
        linear = self.gram @ self.weights - self.cross
        inverse = np.linalg.inv(gram)
        free = self.weights - inverse @ linear
        order = np.argsort(-np.einsum("gii->i", gram))  # what weighs most first
        q = _in_turn(free, inverse, step, low, high, order)
        gradient = gram @ (q * step - self.weights) + linear
        for _ in range(sweeps):
            if not _sweep(q, gradient, gram, step, low, high, order):
                break
        columns = q[0] if self.node.op != "conv" else q.transpose(0, 2, 1)
        found = columns.reshape(self.shape).astype(np.int8)
        return found if self.error(found) < self.error(nearest) else nearest

    # -- rows of X -------------------------------------------------------------------------

    def _places(self, shape: tuple[int, ...]) -> np.ndarray:
        """Which rows (or windows) of a batch are taken: flat numbers, ascending."""
        n = self._outputs(shape)
        total = math.prod(n)
        if total <= self._most:
            return np.arange(total)
        return np.sort(self._random.choice(total, self._most, replace=False))

    def _outputs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.node.op != "conv":
            return shape[:-1]
        at, kernel = self.node.attrs, self.shape[2:]
        r = len(kernel)
        sizes = [shape[2 + i] + at["pads"][i] + at["pads"][r + i] - at["dilations"][i] * (kernel[i] - 1) - 1
                 for i in range(r)]
        return (shape[0], *(max(s // at["strides"][i] + 1, 0) for i, s in enumerate(sizes)))

    def _rows(self, x: np.ndarray, place: np.ndarray) -> np.ndarray:
        """[g, rows, K] of a batch."""
        if self.node.op != "conv":
            return x.reshape(-1, x.shape[-1])[place].astype(np.float64)[None]
        at = self.node.attrs
        kernel = self.shape[2:]
        r = len(kernel)
        padded = np.pad(x, [(0, 0), (0, 0), *((at["pads"][i], at["pads"][r + i]) for i in range(r))])
        where = np.unravel_index(place, self._outputs(x.shape))
        index = []
        for i in range(r):  # [rows, k0, k1...]: where each tap of a window lies
            taps = np.arange(kernel[i]).reshape([-1 if j == i else 1 for j in range(r)]) * at["dilations"][i]
            index.append(where[1 + i].reshape(-1, *[1] * r) * at["strides"][i] + taps)
        batch = where[0].reshape(-1, *[1] * r)
        found = np.moveaxis(padded, 1, -1)[(batch, *index)]  # [rows, k.., C]
        found = np.moveaxis(found, -1, 1).astype(np.float64)  # [rows, C, k..]
        return found.reshape(len(place), self.groups, -1).transpose(1, 0, 2)


def _in_turn(free: np.ndarray, inverse: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray,
             order: np.ndarray) -> np.ndarray:
    """Codes low or high, fixed in this order: each the nearer to what is best given those before it."""
    upper = np.linalg.cholesky(inverse[:, order][:, :, order]).transpose(0, 2, 1)  # row i: how the later ones follow
    w, q = free[:, order].copy(), np.empty_like(free)
    for at in range(0, order.size, BLOCK):
        to = min(at + BLOCK, order.size)
        errors = np.zeros((w.shape[0], to - at, w.shape[2]))
        for i in range(at, to):
            a, b, s = low[:, order[i]], high[:, order[i]], step[:, 0]
            code = np.where(w[:, i] / s - a > b - w[:, i] / s, b, a)
            q[:, order[i]] = code
            errors[:, i - at] = (w[:, i] - code * s) / upper[:, i, i, None]
            w[:, i:to] -= upper[:, i, i:to, None] * errors[:, i - at, None]
        w[:, to:] -= upper[:, at:to, to:].transpose(0, 2, 1) @ errors
    return q


def _sweep(q: np.ndarray, gradient: np.ndarray, gram: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray,
           order: np.ndarray) -> int:
    """Move each code to the other side where that lowers the error, one input after the other; how many were moved."""
    moved = 0
    for at in range(0, order.size, BLOCK):
        block = order[at:at + BLOCK]
        local, inner = gradient[:, block], gram[:, block][:, :, block]
        change = np.zeros_like(local)
        for k, i in enumerate(block):
            other = np.where(q[:, i] == low[:, i], high[:, i], low[:, i])
            d = (other - q[:, i]) * step[:, 0]  # [g, N]
            better = d * (2 * local[:, k] + d * inner[:, k, k, None]) < 0
            if better.any():
                d = np.where(better, d, 0.0)
                q[:, i] = np.where(better, other, q[:, i])
                change[:, k] = d
                local += inner[:, :, k, None] * d[:, None, :]
                moved += int(better.sum())
        gradient += gram[:, :, block] @ change
    return moved


def _as_columns(node: Node, w: np.ndarray) -> np.ndarray:
    """Weights as [g, K, N]: of each group, the inputs of a product by its outputs."""
    if node.op != "conv":
        return w[None].copy()
    groups = node.attrs["group"]
    return np.ascontiguousarray(w.reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1))
