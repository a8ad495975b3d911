"""Resize: interpolation along each axis, as ONNX Resize defines it (opset 19).

The axes are independent, so the reference is one weighted gather per resized axis.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Value
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, in_f32, need
from whet.ir.symbolic import Dim, Sym, ceildiv, maximum

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _rule(ins: list[Value], at: Attrs) -> list[Spec]:
    x = ins[0]
    shape = at["shape"] = tuple(at["shape"])
    need(len(shape) == x.rank, f"resize: {len(shape)} sizes for rank {x.rank}")
    at["scales"] = tuple(at["scales"]) or (None,) * x.rank
    need(len(at["scales"]) == x.rank, f"resize: {len(at['scales'])} scales for rank {x.rank}")
    need(at["mode"] in ("nearest", "linear", "cubic"), f"resize: unknown mode {at['mode']!r}")
    need(at["mode"] == "nearest" or not x.dtype.is_storage, f"resize {at['mode']} does not take {x.dtype.value}")
    need(at["coordinate"] in COORDINATES, f"resize: unknown coordinate transformation {at['coordinate']!r}")
    need(at["rounding"] in ROUNDINGS, f"resize: unknown rounding {at['rounding']!r}")
    need(all(isinstance(d, Sym) or d >= 0 for d in shape), f"resize: {shape} has a negative dimension")
    need(not at["antialias"] or at["mode"] != "nearest", "resize: nearest has no antialiasing")
    need(at["dtype"] in (None, x.dtype) or (at["dtype"] is DType.F32 and at["mode"] != "nearest"),
         f"resize: {x.dtype.value} to {at['dtype']}")
    return [(at["dtype"] or x.dtype, shape)]


def coordinates(n: int, size: int, scale: float | None, how: str) -> np.ndarray:
    """Where each of `size` output elements lies among `n` input elements (float64).

    scale: output over input where the model gave it, None to take size / n.
    """
    s = scale if scale is not None else (size / n if n else 1.0)
    i = np.arange(size, dtype=np.float64)
    match how:
        case "align_corners":
            real = size if scale is None else n * s
            return i * (n - 1) / (real - 1) if real > 1 else np.zeros(size)
        case "asymmetric":
            return i / s
        case "pytorch_half_pixel":
            return (i + 0.5) / s - 0.5 if size > 1 else np.zeros(size)
        case "half_pixel_symmetric":
            offset = n / 2 * (1 - size / (s * n)) if n else 0.0
            return offset + (i + 0.5) / s - 0.5
        case _:
            return (i + 0.5) / s - 0.5


def footprint(n: Dim, size: Dim, scale: float | None, mode: str) -> Dim:
    """How many input elements an antialiased output element is made of: the filter is as wide as the scale shrinks.

    ONNX Resize: from floor(-r / s) + 1 on, 2 - 2 * that many, with s = min(scale, 1), r = 1 (linear) or 2 (cubic).
    """
    r = 1 if mode == "linear" else 2
    if scale is not None:
        return 2 * math.ceil(r / min(scale, 1.0))
    return 2 * maximum(r, ceildiv(n * r, maximum(size, 1)))


def taps(n: int, size: int, scale: float | None, at: Attrs) -> tuple[np.ndarray, np.ndarray]:
    """(indices, weights), each [size, taps], of one axis: output i is sum_t weights[i, t] * x[indices[i, t]]."""
    x = coordinates(n, size, scale, at["coordinate"])
    if at["mode"] == "nearest":
        how = at["rounding"]
        rounded = (np.ceil(x - 0.5) if how == "round_prefer_floor" else np.floor(x + 0.5) if how == "round_prefer_ceil"
                   else np.floor(x) if how == "floor" else np.ceil(x))
        return np.clip(rounded, 0, max(n - 1, 0)).astype(np.int64)[:, None], np.ones((size, 1))
    base = np.floor(x)
    t = x - base
    if at["antialias"]:
        index, weights = _antialiased(x, base, n, size, scale, at)
    elif at["mode"] == "linear":
        index, weights = base[:, None] + np.arange(2), np.stack([1 - t, t], 1)
    else:
        index = base[:, None] + np.arange(-1, 3)
        weights = _cubic(np.abs(x[:, None] - index), at["cubic_coeff_a"])
    if at["exclude_outside"]:
        weights = np.where((index < 0) | (index >= n), 0, weights)
    if at["exclude_outside"] or at["antialias"]:
        weights = weights / np.cumsum(weights, 1)[:, -1:]
    return np.clip(index, 0, max(n - 1, 0)).astype(np.int64), weights


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel at distances d (R. Keys, 1981)."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _antialiased(x: np.ndarray, base: np.ndarray, n: int, size: int, scale: float | None,
                 at: Attrs) -> tuple[np.ndarray, np.ndarray]:
    """Indices, and weights that do not yet add up to 1: the filter stretched by the scale where that shrinks."""
    count = footprint(n, size, scale, at["mode"])
    assert isinstance(count, int)
    s = min(scale if scale is not None else size / n if n else 1.0, 1.0)
    index = base[:, None] + np.arange(1 - count // 2, 1 + count // 2)
    d = np.abs(x[:, None] - index) * s
    return index, np.clip(1 - d, 0, 1) if at["mode"] == "linear" else _cubic(d, at["cubic_coeff_a"])


def _reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    x = xs[0]
    out = at["dtype"].np if at["dtype"] is not None else x.dtype
    if x.dtype != out:
        x = x.astype(out)
    for axis, (size, scale) in enumerate(zip(at["shape"], at["scales"], strict=True)):
        n = x.shape[axis]
        if size == n and scale in (None, 1.0):
            continue
        index, weights = taps(n, size, scale, at)
        if at["mode"] == "nearest":
            x = np.take(x, index[:, 0], axis)
            continue
        wide = in_f32(x).astype(np.float64) if x.dtype.kind != "f" else in_f32(x)
        shape = (-1,) + (1,) * (x.ndim - axis - 1)
        y = sum((np.take(wide, index[:, t], axis) * weights[:, t].astype(wide.dtype).reshape(shape)
                 for t in range(index.shape[1])), np.zeros((), wide.dtype))
        x = y
    if np.dtype(out).kind in "iu" and x.dtype.kind == "f":
        info = np.iinfo(out)
        x = np.clip(np.rint(x), info.min, info.max)
    return [x.astype(out)]


RESIZE = OpDef("resize", (1, 1), _rule, _reference,
               {"shape": REQUIRED, "scales": (), "mode": "nearest", "coordinate": "half_pixel",
                "rounding": "round_prefer_floor", "cubic_coeff_a": -0.75, "exclude_outside": False,
                "antialias": False, "dtype": None})
