"""What a cast means, in NumPy: ONNX's rules for every pair of element types.

Those of the 8-bit and smaller types are in ONNX's documents "Float stored in 8 bits", "4 bit integer types" and
"Float stored in 4 bits", and where these are silent, in what `onnx.reference` and ml_dtypes do.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from whet.ir.dtypes import DType

ROUND_MODES = ("up", "down", "nearest")  # of a cast to f8e8m0fnu
SATURATING = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ)


def cast(x: np.ndarray, to: DType, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """x in type `to`.

    saturate:   of the four 8-bit floats with a sign: what is too large becomes the largest number, not infinity or
                NaN. Of f8e8m0fnu: what would round up past the largest number becomes it.
    round_mode: of f8e8m0fnu: to the next power of two above or below, or to the nearest.

    Floats are rounded to nearest even on their way to another float (by way of float32 to a storage type), towards
    zero to an integer. An integer that is too large keeps its lowest bits. A float out of an integer's range gives
    any value, but 0 in the integers below 8 bits if it is out of int32's.
    """
    source = DType.of(x.dtype)
    if to is source:
        return x
    if source.is_storage:
        x, source = x.astype(source.computed_as.np), source.computed_as
    if not to.is_storage:
        return x.astype(to.np)
    if not to.computed_as.is_float:
        if source.is_float:
            wide = x.astype(np.float64)
            x = np.where(np.abs(wide) < 2.0**31, wide, 0).astype(np.int32)
        return (x.astype(np.uint8) & np.uint8((1 << to.bits) - 1)).view(to.np)
    x = x.astype(np.float32)
    if to is DType.F8E8M0FNU:
        return _to_e8m0(x, saturate, round_mode)
    if saturate and to in SATURATING:
        limits = ml_dtypes.finfo(to.np)
        x = np.clip(x, np.float32(limits.min), np.float32(limits.max))
    return x.astype(to.np)


def _to_e8m0(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """The exponent of a float32 without its sign; 0xFF for NaN and infinity (as `onnx.numpy_helper.to_float8e8m0`).

    The nearest mode takes the exponent's lowest bit for 1 in a tie, unless the exponent is 0.
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if round_mode == "nearest":
        up = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    else:
        up = (fraction > 0) & (round_mode == "up")
    up &= exponent < (0xFE if saturate else 0xFF)
    return (exponent + up).astype(np.uint8).view(DType.F8E8M0FNU.np)
