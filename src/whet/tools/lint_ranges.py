"""Bounds of an ONNX graph's values, where they follow from constants, element types and saturating functions.

Interval arithmetic on whole tensors: sound (every value lies within), seldom tight. A value that is not listed
may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
INTEGERS: dict[int, Interval] = {
    TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535), TensorProto.INT32: (-2.0 ** 31, 2.0 ** 31 - 1),
    TensorProto.UINT32: (0, 2.0 ** 32 - 1), TensorProto.INT64: (-2.0 ** 63, 2.0 ** 63 - 1),
    TensorProto.UINT64: (0, 2.0 ** 64 - 1)}
SAME = frozenset({
    "Identity", "Reshape", "Transpose", "Slice", "Gather", "GatherND", "GatherElements", "Squeeze", "Unsqueeze",
    "Expand", "Flatten", "Split", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax",
    "ReduceMin", "ReduceMean", "Tile", "DepthToSpace", "SpaceToDepth", "Cast", "Dropout", "TopK"})
ARITY = {"Sub": 2, "Mul": 2, "Div": 2, "Where": 3, "MatMul": 2, "Gemm": 2, "Conv": 2}
FIXED: dict[str, Interval] = {
    "Sigmoid": (0, 1), "Tanh": (-1, 1), "Softmax": (0, 1), "HardSigmoid": (0, 1), "Erf": (-1, 1), "Sin": (-1, 1),
    "Cos": (-1, 1), "Softsign": (-1, 1), "LogSoftmax": (-math.inf, 0), "Hardmax": (0, 1)}


def ranges(graph: GraphProto, types: Mapping[str, TypeProto],
           constants: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """{name: (least, greatest)} for each value of a graph (nodes in order) that is bounded on some side."""
    out: dict[str, Interval] = {}
    for name, array in constants.items():
        if array.size and array.dtype.kind in "iufb":
            finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
            if finite.size == array.size:
                out[name] = (float(finite.min()), float(finite.max()))
    for v in graph.input:
        if (bound := _of_type(types.get(v.name))) is not None:
            out[v.name] = bound
    for n in graph.node:
        found = _node(n, out, constants)
        for o in n.output:
            low, high = _held(found if o == n.output[0] or n.op_type == "Split" else ANY, types.get(o))
            if o and (low > -math.inf or high < math.inf):
                out[o] = (low, high)
            elif o and (bound := _of_type(types.get(o))) is not None:
                out[o] = bound
    return out


def _held(x: Interval, t: TypeProto | None) -> Interval:
    """The interval, of whole numbers for integers; anything where it leaves an integer type, for that wraps."""
    limit = INTEGERS.get(t.tensor_type.elem_type) if t is not None else None
    if limit is None or x == ANY:
        return x
    low = math.floor(x[0]) if math.isfinite(x[0]) else x[0]
    high = math.ceil(x[1]) if math.isfinite(x[1]) else x[1]
    return (low, high) if low >= limit[0] and high <= limit[1] else ANY


def _of_type(t: TypeProto | None) -> Interval | None:
    """What 8- and 16-bit integers and booleans can hold."""
    code = t.tensor_type.elem_type if t is not None else 0
    if code == TensorProto.BOOL:
        return 0, 1
    limit = INTEGERS.get(code)
    return limit if limit is not None and limit[1] < 1 << 16 else None


def _node(n: NodeProto, known: Mapping[str, Interval], constants: Mapping[str, np.ndarray]) -> Interval:
    xs = [known.get(i, ANY) for i in n.input]
    op = n.op_type
    if n.domain not in ("", "ai.onnx") or len(xs) < ARITY.get(op, 0 if op == "Constant" else 1) or not n.output:
        return ANY
    if op in FIXED:
        return FIXED[op]
    if op in SAME:
        return xs[0]
    if op in _MONOTONE:
        low, high = xs[0]
        return _MONOTONE[op](low), _MONOTONE[op](high)
    match op:
        case "Constant":
            value = constants.get(n.output[0])
            return (float(value.min()), float(value.max())) if value is not None and value.size and \
                value.dtype.kind in "iufb" and np.isfinite(value).all() else ANY
        case "Neg":
            return -xs[0][1], -xs[0][0]
        case "Abs":
            return _magnitude(xs[0])
        case "Add" | "Sum":
            return _total(x[0] for x in xs), _total(x[1] for x in xs)
        case "Sub":
            return xs[0][0] - xs[1][1] if xs[1][1] < math.inf else -math.inf, \
                xs[0][1] - xs[1][0] if xs[1][0] > -math.inf else math.inf
        case "Mul" if n.input[0] == n.input[1]:
            low, high = _magnitude(xs[0])
            return low * low, high * high
        case "Mul":
            return _products(xs[0], xs[1])
        case "Div" if xs[1][0] > 0 or xs[1][1] < 0:
            return _products(xs[0], (1 / xs[1][1] if math.isfinite(xs[1][1]) else 0.0,
                                     1 / xs[1][0] if math.isfinite(xs[1][0]) else 0.0))
        case "Max" | "Min":
            pick = max if op == "Max" else min
            return pick(x[0] for x in xs), pick(x[1] for x in xs)
        case "Concat":
            return min(x[0] for x in xs), max(x[1] for x in xs)
        case "Where":
            return min(x[0] for x in xs[1:3]), max(x[1] for x in xs[1:3])
        case "Clip":
            return _clip(n, xs)
        case "MatMul" | "Gemm" | "Conv":
            return _product_sum(n, xs, constants)
    return ANY


_MONOTONE: dict[str, Callable[[float], float]] = {
    "Relu": lambda x: max(0.0, x), "Exp": lambda x: math.exp(min(x, 700.0)) if x < 700 else math.inf,
    "Softplus": lambda x: x if x > 30 else 0.0 if x < -30 else math.log1p(math.exp(x)),
    "Sqrt": lambda x: math.sqrt(max(x, 0.0)) if x < math.inf else math.inf,
    "Floor": lambda x: math.floor(x) if math.isfinite(x) else x,
    "Ceil": lambda x: math.ceil(x) if math.isfinite(x) else x, "Round": lambda x: round(x) if math.isfinite(x) else x}


def _total(parts: Iterable[float]) -> float:
    return float(sum(parts))


def _magnitude(x: Interval) -> Interval:
    high = max(abs(x[0]), abs(x[1]))
    return (0.0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1])), high)


def _products(a: Interval, b: Interval) -> Interval:
    corners = [0.0 if 0 in (p, q) else p * q for p in a for q in b]
    return min(corners), max(corners)


def _clip(n: NodeProto, xs: Sequence[Interval]) -> Interval:
    attrs = {a.name: helper.get_attribute_value(a) for a in n.attribute}
    low = attrs.get("min", xs[1][0] if len(xs) > 1 and n.input[1] else -math.inf)
    high = attrs.get("max", xs[2][1] if len(xs) > 2 and n.input[2] else math.inf)
    return max(xs[0][0], float(low)), min(xs[0][1], float(high))


def _product_sum(n: NodeProto, xs: Sequence[Interval], constants: Mapping[str, np.ndarray]) -> Interval:
    """A product with constant weights of a bounded operand: no larger than its bound times the largest sum of a
    filter's magnitudes (the operator norm that the maximum norm induces), and the bias."""
    w = constants.get(n.input[1]) if len(n.input) > 1 else None
    bound = _magnitude(xs[0])[1]
    if w is None or not math.isfinite(bound) or w.ndim < 2 or not w.size or w.dtype.kind != "f":
        return ANY
    flip = n.op_type == "Gemm" and any(a.name == "transB" and a.i for a in n.attribute)
    scale = next((a.f for a in n.attribute if a.name == "alpha"), 1.0) if n.op_type == "Gemm" else 1.0
    axis = tuple(range(1, w.ndim)) if n.op_type == "Conv" else 1 if flip else w.ndim - 2
    most = bound * abs(scale) * float(np.abs(w).sum(axis=axis, dtype=np.float64).max())
    bias = n.input[2] if len(n.input) > 2 and n.input[2] else ""
    if bias:
        b = constants.get(bias)
        if b is None or not b.size:
            return ANY
        most += float(np.abs(b).max())
    return (-most, most) if math.isfinite(most) else ANY
