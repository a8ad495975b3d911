"""What classical models do with scores: the transforms of ai.onnx.ml, and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from whet.frontends.call import NeedsReferenceError
from whet.frontends.formulas import Formula
from whet.ir.dtypes import DType
from whet.ir.graph import Value


def transformed(y: Formula, how: str) -> Formula:
    """post_transform of scores [rows, targets]."""
    match how:
        case "NONE":
            return y
        case "LOGISTIC":
            return y.apply("sigmoid")
        case "SOFTMAX":
            return y.apply("softmax", axis=1)
        case "SOFTMAX_ZERO":  # zeros stay zeros
            top = y.reduce("max", (1,), keepdims=True)
            e = (y.abs() > 1e-7).where((y - top).apply("exp"), y * (-top).apply("exp"))
            total = e.reduce("sum", (1,), keepdims=True)
            return total.eq(0).where(e * 0 + 0.5, e / total)
        case "PROBIT":
            return _inverse_erf(y * 2 - 1) * math.sqrt(2)
    raise NeedsReferenceError("with an unknown transform of the scores")


def _inverse_erf(x: Formula) -> Formula:
    """S. Winitzki's approximation with a = 0.147, as in ONNX Runtime and onnx.reference."""
    log = ((1 - x) * (1 + x)).apply("log")
    v = log * 0.5 + 2 / (math.pi * 0.147)
    return x.apply("sign") * ((v * v - log * (1 / 0.147)).sqrt() - v).sqrt()


def labels_of(y: Formula, labels: Sequence[int]) -> Value:
    """The label [rows] (i64) of the greatest score."""
    best = y.apply("arg", kind="max", axis=1, keepdims=False)
    if list(labels) == list(range(len(labels))):
        return best.value
    return Formula(y.call, y.call.constant(labels, DType.I64)).gather(best).value
