"""Products, windows, reductions, normalizations and attention in ONNX's terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from whet.ir.dtypes import DType
from whet.ir.graph import Node
from whet.ir.symbolic import Dim, Shape, is_static
from whet.precision.export.pointwise import Rule
from whet.precision.export.writer import Writer, not_exportable

# -- windows ----------------------------------------------------------------------------------


def _channels_first(rule: Rule) -> Rule:
    """The rule for [N, C, s..], with transposes around it where the node is channels last."""
    def wrapped(w: Writer, n: Node, ins: list[str]) -> str | list[str]:
        if not n.attrs["channels_last"]:
            return rule(w, n, ins)
        rank = n.input(0).rank
        first = w.emit("Transpose", ins[0], perm=[0, rank - 1, *range(1, rank - 1)])
        y = rule(w, n, [first, *ins[1:]])
        assert isinstance(y, str)
        return w.emit("Transpose", y, perm=[0, *range(2, rank), 1])
    return wrapped


def _padded(w: Writer, n: Node, x: str, value: float, most: Callable[[int], int]) -> tuple[str, list[int]]:
    """(x, pads attribute): pads that the attribute cannot say (computed, negative, over `most` of the axis) become
    a Pad."""
    pads: Sequence[Dim] = n.attrs["pads"]
    r = len(pads) // 2
    if is_static(pads) and all(0 <= p <= most(i % r) for i, p in enumerate(pads)):  # type: ignore[operator]
        return x, [p for p in pads if isinstance(p, int)]
    data = n.input(0)
    if not data.dtype.is_float and math.isinf(value):
        fill = w.constant(np.asarray(np.iinfo(data.dtype.np).min, data.dtype.np))
    else:
        fill = w.like(data, value)
    return w.emit("Pad", x, w.shape((0, 0, *pads[:r], 0, 0, *pads[r:])), fill), [0] * (2 * r)


def _kernel(kernel: Shape) -> dict[str, Any]:
    return {"kernel_shape": list(kernel)} if is_static(kernel) else {}


def _conv(w: Writer, n: Node, ins: list[str]) -> str:
    at, kernel = n.attrs, n.input(1).shape[2:]
    if n.output.dtype is DType.I32:
        raise not_exportable(n, "it is an integer product of the kernels' kind")
    x, pads = _padded(w, n, ins[0], 0.0, lambda axis: 1 << 30)
    return w.emit("Conv", x, *ins[1:], strides=list(at["strides"]), dilations=list(at["dilations"]), pads=pads,
                  group=at["group"], **_kernel(kernel))


def _conv_transpose(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    if not is_static(at["pads"]) or any(p < 0 for p in at["pads"]):
        raise not_exportable(n, f"its pads are {at['pads']}")
    return w.emit("ConvTranspose", *ins, strides=list(at["strides"]), dilations=list(at["dilations"]),
                  pads=list(at["pads"]), output_padding=list(at["output_padding"]), group=at["group"])


def _pool(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    kernel = at["kernel"]
    if not is_static(kernel):
        raise not_exportable(n, f"its window is {kernel}")
    op = {"max": "MaxPool", "average": "AveragePool", "lp": "LpPool"}[at["kind"]]
    window: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(at["strides"]),
                              "dilations": list(at["dilations"])}
    within = (lambda axis: kernel[axis] - 1)  # runtimes take no more
    if at["kind"] == "average" and not at["count_include_pad"]:
        return _mean_of_what_is_there(w, n, ins[0], window, within)
    x, pads = _padded(w, n, ins[0], -math.inf if at["kind"] == "max" else 0.0, within)
    extra: dict[str, Any] = {"max": {}, "average": {"count_include_pad": 1}, "lp": {"p": at["p"]}}[at["kind"]]
    return w.emit(op, x, pads=pads, **window, **extra)


def _mean_of_what_is_there(w: Writer, n: Node, x: str, window: dict[str, Any],
                           within: Callable[[int], int]) -> str:
    """An average that leaves padding out of its count, where the pads are more than runtimes take: the average with
    zeros, over the average of ones with zeros."""
    padded, pads = _padded(w, n, x, 0.0, within)
    if padded == x:
        return w.emit("AveragePool", x, pads=pads, count_include_pad=0, **window)
    ones = w.emit("Expand", w.like(n.input(0), 1), w.emit("Shape", x))
    there, _ = _padded(w, n, ones, 0.0, within)
    return w.emit("Div", w.emit("AveragePool", padded, **window), w.emit("AveragePool", there, **window))


# -- reductions -------------------------------------------------------------------------------


def _reduce(w: Writer, n: Node, ins: list[str]) -> str:
    at, x, dtype = n.attrs, ins[0], n.input(0).dtype
    if not at["axes"]:
        return x
    if dtype is DType.BOOL:
        x = w.emit("Cast", x, to=int(TensorProto.UINT8))
    op = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}
    y = w.emit(op[at["kind"]], x, w.ints(at["axes"]), keepdims=int(at["keepdims"]))
    return w.emit("Cast", y, to=int(TensorProto.BOOL)) if dtype is DType.BOOL else y


def _arg(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    return w.emit("ArgMax" if at["kind"] == "max" else "ArgMin", *ins, axis=at["axis"], keepdims=int(at["keepdims"]),
                  select_last_index=int(bool(at["select_last"])))


def _softmax(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("LogSoftmax" if n.attrs["log"] else "Softmax", *ins, axis=n.attrs["axis"])


# -- normalizations ---------------------------------------------------------------------------


def _layernorm(w: Writer, n: Node, ins: list[str]) -> str:
    """LayerNormalization where scale and bias have the normalized shape, else scaled after it."""
    at, tail = n.attrs, n.input(0).shape[n.attrs["axis"]:]
    if all(v is not None and v.shape == tail for v in n.inputs[1:]):
        return w.emit("LayerNormalization", *ins, axis=at["axis"], epsilon=float(at["epsilon"]))
    ones = (w.constant(np.ones(tail, n.output.dtype.np)) if is_static(tail) else
            w.emit("Expand", w.like(n.output, 1), w.shape(tail)))
    y = w.emit("Mul", w.emit("LayerNormalization", ins[0], ones, axis=at["axis"], epsilon=float(at["epsilon"])), ins[1])
    return w.emit("Add", y, ins[2]) if len(ins) == 3 else y


def _rmsnorm(w: Writer, n: Node, ins: list[str]) -> str:
    """x / sqrt(mean(x * x) + epsilon) * scale."""
    x = n.input(0)
    axes = w.ints(range(n.attrs["axis"], x.rank))
    mean = w.emit("ReduceMean", w.emit("Mul", ins[0], ins[0]), axes, keepdims=1)
    root = w.emit("Sqrt", w.emit("Add", mean, w.like(x, n.attrs["epsilon"])))
    return w.emit("Mul", w.emit("Div", ins[0], root), ins[1])


def _groupnorm(w: Writer, n: Node, ins: list[str]) -> str:
    """An instance normalization of the groups, then scale and bias per channel."""
    x, groups, eps = n.input(0), n.attrs["groups"], float(n.attrs["epsilon"])
    channels = x.shape[1]
    if groups == channels and x.rank > 2:
        return w.emit("InstanceNormalization", *ins, epsilon=eps)
    one, zero = (w.constant(np.full(groups, v, x.dtype.np)) for v in (1, 0))
    split = w.emit("Reshape", ins[0], w.ints([0, groups, -1]))
    y = w.emit("Reshape", w.emit("InstanceNormalization", split, one, zero, epsilon=eps), w.shape(x.shape))
    per = w.ints([-1] + [1] * (x.rank - 2))
    return w.emit("Add", w.emit("Mul", y, w.emit("Reshape", ins[1], per)), w.emit("Reshape", ins[2], per))


def _lrn(w: Writer, n: Node, ins: list[str]) -> str:
    at = n.attrs
    return w.emit("LRN", *ins, size=at["size"], alpha=float(at["alpha"]), beta=float(at["beta"]),
                  bias=float(at["bias"]))


# -- products ---------------------------------------------------------------------------------


def _matmul(w: Writer, n: Node, ins: list[str]) -> str:
    if n.output.dtype is not n.input(0).dtype:
        raise not_exportable(n, "it is an integer product of the kernels' kind")
    return w.emit("MatMul", *ins)


def _attention(w: Writer, n: Node, ins: list[str]) -> str:
    """softmax(scale * q k^T, what may be seen) v, written out."""
    at, q, k, v = n.attrs, n.input(0), n.input(1), n.input(2)
    minus = w.like(q, -math.inf)
    keys, values = (_repeated(w, name, x.shape, q.shape[1]) for name, x in zip(ins[1:3], (k, v), strict=True))
    s = w.emit("MatMul", w.emit("Mul", ins[0], w.like(q, at["scale"])), w.emit("Transpose", keys, perm=[0, 1, 3, 2]))
    if at["softcap"]:
        cap = w.like(q, at["softcap"])
        s = w.emit("Mul", w.emit("Tanh", w.emit("Div", s, cap)), cap)
    mask, lengths = (*n.inputs[3:], None, None)[:2]
    if mask is not None:
        s = w.emit("Where", ins[3], s, minus) if mask.dtype is DType.BOOL else w.emit("Add", s, ins[3])
    see = _visible(w, n, ins[4] if lengths is not None else "")
    if see:
        s = w.emit("Where", see, s, minus)
    p = w.emit("Softmax", s, axis=3)
    if at["masked_zero"]:
        top = w.emit("ReduceMax", s, w.ints([3]), keepdims=1)
        p = w.emit("Where", w.emit("Equal", top, minus), w.like(q, 0), p)
    return w.emit("MatMul", p, values)


def _repeated(w: Writer, x: str, shape: Sequence[Dim], heads: Dim) -> str:
    """k or v with each head repeated for the heads of q that share it."""
    b, g, t, d = shape
    if g in (heads, 1):
        return x
    assert isinstance(heads, int)
    assert isinstance(g, int)
    wide = w.emit("Expand", w.emit("Unsqueeze", x, w.ints([2])), w.shape((b, g, heads // g, t, d)))
    return w.emit("Reshape", wide, w.shape((b, heads, t, d)))


def _visible(w: Writer, n: Node, lengths: str) -> str:
    """Which keys a row sees by causality, window and lengths: bool, broadcasting to the scores; "" for all."""
    at, rows, columns = n.attrs, n.input(0).shape[2], n.input(1).shape[2]
    if not at["causal"] and not lengths:
        return ""

    def count(d: Dim, shape: Sequence[int]) -> str:
        size = w.emit("Reshape", w.dim(d), w.ints([]))
        zero, one = w.constant(np.int64(0)), w.constant(np.int64(1))
        return w.emit("Reshape", w.emit("Range", zero, size, one), w.ints(shape))

    column, parts = count(columns, (1, -1)), []
    if lengths:
        wide = w.emit("Cast", lengths, to=int(TensorProto.INT64))
        length = w.emit("Reshape", wide, w.ints([-1, 1, 1, 1]))
        parts.append(w.emit("Less", column, length))
    if at["causal"]:
        last = w.emit("Add", count(rows, (-1, 1)), w.dim(at["offset"]))
        if lengths:
            last = w.emit("Add", last, w.emit("Sub", length, w.dim(rows)))
        parts.append(w.emit("LessOrEqual", column, last))
        if at["window"]:
            parts.append(w.emit("Greater", column, w.emit("Sub", last, w.ints([at["window"]]))))
    see = parts[0]
    for p in parts[1:]:
        see = w.emit("And", see, p)
    return see


# -- recurrent layers -------------------------------------------------------------------------

_FUNCTIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "affine": "Affine", "leakyrelu": "LeakyRelu",
              "thresholdedrelu": "ThresholdedRelu", "scaledtanh": "ScaledTanh", "hardsigmoid": "HardSigmoid",
              "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus"}
_PLAIN = {"Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"}  # without numbers of their own


def _recurrent(w: Writer, n: Node, ins: list[str]) -> list[str]:
    """LSTM, GRU or RNN over the products with W, which are chosen for each direction by a W of ones and zeros."""
    at = n.attrs
    x, r = n.input(0), n.input(1)
    directions, rows, size = (d for d in r.shape if isinstance(d, int))
    if not is_static(r.shape):
        raise not_exportable(n, f"its weights are {r}")
    operands = [*ins, *[""] * (7 - len(ins))]
    if at["layout"]:
        raise not_exportable(n, "runtimes run recurrent layers with time first alone")
    chosen = np.zeros((directions, rows, directions * rows), x.dtype.np)
    for d in range(directions):
        chosen[d, np.arange(rows), d * rows + np.arange(rows)] = 1
    flat = w.emit("Reshape", operands[0], w.ints([0, 0, -1]))
    lengths = w.emit("Cast", operands[2], to=int(TensorProto.INT32)) if operands[2] else ""
    bias = ""
    if operands[6]:
        zeros = w.constant(np.zeros((directions, 2 * rows - size), x.dtype.np))
        bias = w.emit("Concat", zeros, operands[6], axis=1)
    functions = [_FUNCTIONS[f[0]] for fs in at["activations"] for f in fs]
    attrs: dict[str, Any] = {
        "hidden_size": size, "activations": functions,
        "direction": "bidirectional" if directions == 2 else "reverse" if at["reverse"][0] else "forward"}
    if directions == 2 and tuple(at["reverse"]) != (False, True):
        raise not_exportable(n, f"its directions run {at['reverse']}")
    if any(f not in _PLAIN for f in functions):
        raise not_exportable(n, f"its activations are {', '.join(functions)}")
    if at["clip"]:
        attrs["clip"] = float(at["clip"])
    kind = at["kind"]
    more = [operands[3]]
    if kind == "lstm":
        attrs["input_forget"] = int(bool(at["coupled"]))
        more += [operands[4], operands[5]]
    elif kind == "gru":
        attrs["linear_before_reset"] = int(bool(at["linear_before_reset"]))
    return w.emit_many(kind.upper(), [flat, w.constant(chosen), operands[1], bias, lengths, *more],
                       len(n.outputs), **attrs)


def _refused(why: str) -> Rule:
    def refuse(w: Writer, n: Node, ins: list[str]) -> str:
        raise not_exportable(n, why)
    return refuse


RULES: dict[str, Rule] = {
    "conv": _channels_first(_conv), "conv_transpose": _channels_first(_conv_transpose),
    "pool": _channels_first(_pool), "groupnorm": _channels_first(_groupnorm), "lrn": _channels_first(_lrn),
    "matmul": _matmul, "reduce": _reduce, "arg": _arg, "softmax": _softmax, "layernorm": _layernorm,
    "rmsnorm": _rmsnorm, "attention": _attention, "recurrent": _recurrent,
    "linear_attention": _refused("ONNX has no such operator below opset 25"),
}
