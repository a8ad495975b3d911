"""Batch-norm and scale folding: constant factors and offsets per channel go into weights and bias.

A batch norm arrives as a mul and an add. After a convolution both fold; after a matmul the factor folds
(the offset is a bias, which the epilogue adds anyway); before a convolution the factor folds, and the offset
where there is no padding, since zeros that are padded in would have had no offset. Done in float64.
"""

from __future__ import annotations

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.passes.normalization import per_channel
from whet.passes.rewrite import Result, Rewriter, aligned, constant_operand, made_by, scalar

FLOATS = (DType.F32, DType.F64)


def fold_scales(graph: Graph) -> None:
    """Fold constants around convolutions and matmuls, until nothing changes."""
    while Rewriter(graph).run({
            "mul": [scale_after, scale_of_affine], "add": [offset_after, offset_of_offset], "sub": [offset_after],
            "div": [scale_after],
            "conv": [before_conv], "matmul": [before_matmul]}):
        pass


def _times(weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return (weight.astype(np.float64) * factor).astype(weight.dtype)


def _folds(factor: np.ndarray, weight: np.ndarray) -> bool:
    """Constants that would turn weights into infinities or NaN stay where they are."""
    return bool(np.isfinite(factor).all()) and weight.dtype.kind == "f"


def scale_after(rw: Rewriter, node: Node) -> Result:
    """conv(x, w, b) * s is conv(x, w * s, b * s); matmul(x, w) * s likewise per column."""
    pair = constant_operand(node)
    if pair is None or node.output.dtype not in FLOATS or (node.op == "div" and pair[1] is not node.input(1)):
        return None
    anchor = made_by(pair[0], "conv", "matmul")
    if anchor is None or not rw.once(pair[0]) or pair[0].shape != node.output.shape:
        return None
    return _scale_conv(rw, node, anchor, pair[1]) if anchor.op == "conv" else _scale_matmul(rw, node, anchor, pair[1])


def _scale_conv(rw: Rewriter, node: Node, conv: Node, constant: Value) -> Result:
    w, bias = conv.input(1), conv.inputs[2] if len(conv.inputs) > 2 else None
    if conv.attrs.get("channels_last") or w.data is None or (bias is not None and bias.data is None):
        return None
    s = per_channel(constant, conv.output)
    if s is None or not _folds(s, w.data):
        return None
    s = 1.0 / s.astype(np.float64) if node.op == "div" else s
    ins: list[Value | None] = [conv.input(0), rw.const(_times(w.data, s.reshape(-1, *[1] * (w.rank - 1))), w)]
    if bias is not None and bias.data is not None:
        ins.append(rw.const(_times(bias.data, s), bias))
    return rw.add("conv", *ins, like=conv, **conv.attrs) if np.isfinite(s).all() else None


def _scale_matmul(rw: Rewriter, node: Node, matmul: Node, constant: Value) -> Result:
    w = matmul.input(1)
    if w.data is None or constant.data is None or w.rank != 2:
        return None
    full = aligned(constant.shape, node.output.rank)
    if any(d != 1 for d in full[:-1]) or not _folds(constant.data, w.data):
        return None
    s = constant.data.reshape(-1).astype(np.float64)
    s = 1.0 / s if node.op == "div" else s
    if not np.isfinite(s).all():
        return None
    return rw.add("matmul", matmul.input(0), rw.const(_times(w.data, s), w), like=matmul, **matmul.attrs)


def offset_after(rw: Rewriter, node: Node) -> Result:
    """conv(x, w, b) + t is conv(x, w, b + t)."""
    pair = constant_operand(node)
    if pair is None or (node.op == "sub" and pair[1] is not node.input(1)):
        return None
    conv = made_by(pair[0], "conv", "conv_transpose")
    if node.output.dtype not in FLOATS:
        return None
    if conv is None or not rw.once(pair[0]) or pair[0].shape != node.output.shape or conv.attrs.get("channels_last"):
        return None
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    t = per_channel(pair[1], conv.output)
    if t is None or (bias is not None and bias.data is None):
        return None
    total = t.astype(np.float64) * (-1 if node.op == "sub" else 1)
    if bias is not None and bias.data is not None:
        total = total + bias.data
    return rw.add(conv.op, conv.input(0), conv.input(1), rw.const(total, conv.output), like=conv, **conv.attrs)


def scale_of_affine(rw: Rewriter, node: Node) -> Result:
    """(x * a) * c is x * (a * c), (x + b) * c is x * c + b * c, for constants."""
    found = _constant_pair(rw, node, "mul", "add")
    if found is None:
        return None
    x, inner, a, c = found
    product = _combined(np.multiply, a, c)
    if product is None or (inner.op == "mul" and not (product.astype(bool) >= (a.astype(bool) & c.astype(bool))).all()):
        return None
    if inner.op == "mul":
        return rw.add("mul", x, rw.const(product, node.output), like=node)
    scaled = rw.add("mul", x, rw.const(c, node.output), like=node)
    return rw.add("add", scaled, rw.const(product, node.output), like=node)


def offset_of_offset(rw: Rewriter, node: Node) -> Result:
    """(x + a) + c is x + (a + c) for constants."""
    found = _constant_pair(rw, node, "add")
    total = _combined(np.add, found[2], found[3]) if found else None
    return rw.add("add", found[0], rw.const(total, node.output), like=node) if found and total is not None else None


def _constant_pair(rw: Rewriter, node: Node, *ops: str) -> tuple[Value, Node, np.ndarray, np.ndarray] | None:
    """(x, inner node, its constant, the outer one) if the node and its only-read operand are by constants."""
    outer = constant_operand(node)
    inner = made_by(outer[0], *ops) if outer else None
    pair = constant_operand(inner) if inner else None
    if outer is None or inner is None or pair is None or not rw.once(outer[0]) or node.output.dtype not in FLOATS:
        return None
    a, c = pair[1].data, outer[1].data
    if a is None or c is None or pair[0].shape != node.output.shape or max(a.size, c.size) > 1 << 16:
        return None
    return pair[0], inner, a, c


def _combined(f: np.ufunc, a: np.ndarray, c: np.ndarray) -> np.ndarray | None:
    """f(a, c) rounded once, if everything is finite."""
    with np.errstate(over="ignore"):
        out = f(a.astype(np.float64), c).astype(a.dtype)
    return out if np.isfinite(a).all() and np.isfinite(c).all() and np.isfinite(out).all() else None


def before_conv(rw: Rewriter, node: Node) -> Result:
    """conv(x * s) scales the weights by input channel; conv(x + t) without padding adds to the bias."""
    x, w = node.input(0), node.input(1)
    inner = made_by(x, "mul", "add")
    pair = constant_operand(inner) if inner else None
    if inner is None or pair is None or not rw.once(x) or w.data is None or node.attrs.get("channels_last"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    c = per_channel(pair[1], x)
    if (c is None or pair[0].shape != x.shape or not _folds(c, w.data) or x.dtype not in FLOATS
            or (bias is not None and bias.data is None)):
        return None
    groups = node.attrs["group"]
    each = w.data.shape[0] // groups  # output channels of a group
    by_output = np.repeat(c.astype(np.float64).reshape(groups, -1), each, axis=0)  # [O, I/g]
    by_weight = by_output.reshape(*by_output.shape, *[1] * (w.rank - 2))
    if inner.op == "mul":
        ins = [pair[0], rw.const(_times(w.data, by_weight), w), *node.inputs[2:]]
        return rw.add("conv", *ins, like=node, **node.attrs)
    if any(p != 0 for p in node.attrs["pads"]):
        return None
    total = (w.data.astype(np.float64) * by_weight).sum(axis=tuple(range(1, w.rank)))
    if bias is not None and bias.data is not None:
        total = total + bias.data
    return rw.add("conv", pair[0], w, rw.const(total, node.output), like=node, **node.attrs)


def before_matmul(rw: Rewriter, node: Node) -> Result:
    """matmul(x * c, w) for one number c scales the weights."""
    x, w = node.input(0), node.input(1)
    inner = made_by(x, "mul")
    pair = constant_operand(inner) if inner else None
    c = scalar(pair[1]) if pair else None
    if pair is None or c is None or w.data is None or not rw.once(x) or pair[0].shape != x.shape:
        return None
    if x.dtype not in FLOATS or not np.isfinite(c):
        return None
    return rw.add("matmul", pair[0], rw.const(_times(w.data, np.asarray(c)), w), like=node, **node.attrs)
