"""Products by weights of a few bits: a scale, and maybe a zero point, for each group of rows of a column.

The weights are integers of 8, 4 or 2 bits, `(q - zero) * scale`; activations and sums stay floats ("weight-only"
quantization: GPTQ, AWQ, ONNX Runtime's MatMulNBits, ONNX's DequantizeLinear with a block size).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.ops_base import REQUIRED, Attrs, OpDef, Spec, equal, in_f32, need
from whet.ir.symbolic import ceildiv

CODES = (DType.I8, DType.U8, DType.I4, DType.U4, DType.I2, DType.U2)  # what weights may be


def _weights(q: Any, scale: Any, zero: Any, at: Attrs, what: str) -> None:
    """q [K, N] with a scale and a zero point for each `group` rows (the last group may be shorter)."""
    need(q.dtype in CODES, f"{what} takes weights of 8, 4 or 2 bits, not {q.dtype.value}")
    need(q.rank == 2 and scale.rank == 2, f"{what} takes weights and scales of rank 2")
    need(scale.dtype is DType.F32, f"{what} takes scales of f32, not {scale.dtype.value}")
    at["group"] = int(at["group"])
    need(at["group"] >= 1, f"{what}: a group of {at['group']} rows")
    equal(scale.shape[0], ceildiv(q.shape[0], at["group"]), f"{what}'s scales and groups of rows")
    equal(scale.shape[1], q.shape[1], f"{what}'s scales and columns")
    if zero is not None:
        need(zero.dtype is q.dtype, f"{what}: zero points of {zero.dtype.value} for weights of {q.dtype.value}")
        for have, want in zip(zero.shape, scale.shape, strict=True):
            equal(have, want, f"{what}'s zero points and scales")


def widen_groups(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, group: int) -> np.ndarray:
    """(q - zero) * scale as f32 [K, N]: q [K, N] integers, scale and zero [ceil(K / group), N]."""
    rows = np.arange(q.shape[0]) // group
    w = q.astype(np.float32)
    if zero is not None:
        w -= zero.astype(np.float32)[rows]
    return w * scale[rows]


def _matmul_rule(ins: list[Any], at: Attrs) -> list[Spec]:
    a, q, scale, zero = (*ins, None)[:4]
    need(a.dtype.is_float and a.rank >= 2, f"matmul_grouped takes a float of rank 2 or more, not {a.dtype.value}")
    _weights(q, scale, zero, at, "matmul_grouped")
    equal(a.shape[-1], q.shape[0], "matmul_grouped's inner dimensions")
    return [(DType.F32, (*a.shape[:-1], q.shape[1]))]


def _matmul_reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    a, q, scale, zero = (*xs, None)[:4]
    w = widen_groups(q, scale, zero, at["group"])
    return [np.matmul(in_f32(a), w.astype(a.dtype) if a.dtype == np.float64 else w)]


def _dequantize_rule(ins: list[Any], at: Attrs) -> list[Spec]:
    q, scale, zero = (*ins, None)[:3]
    _weights(q, scale, zero, at, "dequantize_grouped")
    return [(DType.F32, q.shape)]


def _dequantize_reference(xs: list[Any], at: Attrs) -> list[np.ndarray]:
    q, scale, zero = (*xs, None)[:3]
    return [widen_groups(q, scale, zero, at["group"])]


MATMUL_GROUPED = OpDef("matmul_grouped", (3, 4), _matmul_rule, _matmul_reference, {"group": REQUIRED})
DEQUANTIZE_GROUPED = OpDef("dequantize_grouped", (2, 3), _dequantize_rule, _dequantize_reference, {"group": REQUIRED})
