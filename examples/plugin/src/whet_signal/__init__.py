"""Two operators of the domain com.example.signal.

Snake (Ziyin et al., "Neural Networks Fail to Learn Periodic Functions", 2020) is compiled: its lowering says what it
means in whet's operators, and it fuses with what stands around it. Peaks finds local maxima; how many there are depends
on the data, and it runs as a Python function between the plan's native stretches.
"""

from typing import Any

import numpy as np

import whet
from whet.ir.dtypes import DType
from whet.plugins import like_first


def _lower_snake(call: Any) -> Any:
    """x + sin(alpha x)^2 / alpha, of whet's pointwise operators."""
    build, x = call.builder, call.x(0)
    alpha = build.graph.const(call.attr("alpha", 1.0), x.dtype)
    s = build.emit("sin", build.emit("mul", x, alpha, origin=call.origin), origin=call.origin)
    squared = build.emit("mul", s, s, origin=call.origin)
    return build.emit("add", x, build.emit("div", squared, alpha, origin=call.origin), origin=call.origin)


@whet.plugin("com.example.signal", "Snake", shape=like_first, lower=_lower_snake)
def snake(x: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """What Snake means, in NumPy."""
    return (x + np.sin(alpha * x) ** 2 / alpha).astype(x.dtype)


@whet.plugin("com.example.signal", "Peaks",
             shape=lambda inputs, attributes: [(DType.I64, (None,)), (inputs[0].dtype, (None,))])
def peaks(x: np.ndarray, *, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Positions and heights of the local maxima of a vector that are at least `least` high."""
    inner = (x[1:-1] > x[:-2]) & (x[1:-1] >= x[2:]) & (x[1:-1] >= least)
    at = np.flatnonzero(inner) + 1
    return at.astype(np.int64), x[at]
