"""Pointwise operators in ONNX's terms: a table of those that have a counterpart, functions for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Node, Value
from whet.precision.export.writer import Writer, element_type, not_exportable

Rule = Callable[[Writer, Node, list[str]], "str | list[str]"]  # (writer, node, its inputs' names) -> results' names

COUNTERPARTS = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "erf": "Erf",
    "tanh": "Tanh", "sigmoid": "Sigmoid", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos",
    "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "hardswish": "HardSwish", "isnan": "IsNaN",
    "not": "Not", "bitnot": "BitwiseNot", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow",
    "min": "Min", "max": "Max", "and": "And", "or": "Or", "xor": "Xor", "bitand": "BitwiseAnd", "bitor": "BitwiseOr",
    "bitxor": "BitwiseXor", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "where": "Where",
}


def _counterpart(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit(COUNTERPARTS[n.op], *ins)


def _relu(w: Writer, n: Node, ins: list[str]) -> str:
    dtype = n.input(0).dtype
    return w.emit("Relu", *ins) if dtype.is_signed else ins[0]


def _gelu(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("Gelu", *ins, approximate=n.attrs["approximate"])


def _silu(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("Mul", ins[0], w.emit("Sigmoid", *ins))


def _isinf(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("IsInf", *ins, detect_positive=int(n.attrs["positive"]), detect_negative=int(n.attrs["negative"]))


def _cast(w: Writer, n: Node, ins: list[str]) -> str:
    to = n.attrs["to"]
    if to is DType.F8E8M0FNU or n.input(0).dtype is DType.F8E8M0FNU:
        raise not_exportable(n, f"{to.value} needs a later version of ONNX's operators")
    attrs: dict[str, Any] = {"saturate": int(n.attrs["saturate"])} if to.is_storage and to.bits == 8 else {}
    return w.emit("Cast", *ins, to=element_type(to, n.origin), **attrs)


def _mod(w: Writer, n: Node, ins: list[str]) -> str:
    if n.attrs["fmod"] or not n.output.dtype.is_float:
        return w.emit("Mod", *ins, fmod=int(bool(n.attrs["fmod"])))
    zero = w.like(n.output, 0)  # ONNX has no floored remainder of floats: that of fmod, moved to the divisor's side
    rest = w.emit("Mod", *ins, fmod=1)
    apart = w.emit("Xor", w.emit("Less", rest, zero), w.emit("Less", ins[1], zero))
    moved = w.emit("And", apart, w.emit("Not", w.emit("Equal", rest, zero)))
    return w.emit("Where", moved, w.emit("Add", rest, ins[1]), rest)


def _ne(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("Not", w.emit("Equal", *ins))


def _shift(w: Writer, n: Node, ins: list[str]) -> str:
    return w.emit("BitShift", *ins, direction="LEFT" if n.op == "shl" else "RIGHT")


# -- quantization -----------------------------------------------------------------------------


def _along(n: Node, v: Value) -> int | None:
    """The axis of the node's first operand that a scale or zero point lies along; None for a scalar."""
    wide = [i for i, d in enumerate(v.shape) if d != 1]
    if not wide:
        return None
    if len(wide) > 1:
        raise not_exportable(n, f"its parameters {v} lie along more than one axis")
    return n.input(0).rank - v.rank + wide[0]


def _quantization(w: Writer, n: Node, ins: list[str]) -> str:
    """QuantizeLinear and DequantizeLinear: parameters are scalars or vectors along one axis, of the same shape."""
    scale, zero = n.input(1), n.input(2)
    axes = {a for a in (_along(n, scale), _along(n, zero)) if a is not None}
    if len(axes) > 1:
        raise not_exportable(n, f"scale {scale} and zero point {zero} lie along different axes")
    size = max(int(np.size(v.data)) if v.data is not None else 1 for v in (scale, zero))
    parameters = []
    for v, name in zip((scale, zero), ins[1:], strict=True):
        if v.data is not None:
            data = np.broadcast_to(v.data.reshape(-1), (size,)) if axes else v.data.reshape(())
            parameters.append(w.constant(data, v.name))
        else:
            parameters.append(w.emit("Reshape", name, w.ints([-1] if axes else [])))
    op = "QuantizeLinear" if n.op == "quantize" else "DequantizeLinear"
    if n.input(0).dtype is DType.I32 and zero.data is not None and not np.any(zero.data):
        parameters.pop()  # runtimes differ in whether they take zero points of int32
    along: dict[str, Any] = {"axis": axes.pop()} if axes else {}
    return w.emit(op, ins[0], *parameters, **along)


RULES: dict[str, Rule] = {
    **dict.fromkeys(COUNTERPARTS, _counterpart), "relu": _relu, "gelu": _gelu, "silu": _silu, "isinf": _isinf,
    "cast": _cast, "mod": _mod, "ne": _ne, "shl": _shift, "shr": _shift, "quantize": _quantization,
    "dequantize": _quantization,
}
