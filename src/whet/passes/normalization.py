"""Recognition of normalizations written out: layer norm, RMS norm, instance and group norm.

Layer norm (Ba et al. 2016, arXiv:1607.06450): (x - mean) / sqrt(var + eps) * scale + bias. RMS norm (Zhang and
Sennrich 2019, arXiv:1910.07467): x / sqrt(mean(x^2) + eps) * scale. Group norm (Wu and He 2018,
arXiv:1803.08494). The core is recognized first, with scale one; a second walk takes scale and bias in.
"""

from __future__ import annotations

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Shape, is_static, product
from whet.passes.rewrite import Result, Rewriter, aligned, constant_operand, made_by, uniform


def recognize(graph: Graph) -> None:
    """Replace the written-out forms by `layernorm`, `rmsnorm` and `groupnorm`."""
    Rewriter(graph).run({"div": [core], "mul": [core]})
    Rewriter(graph).run({"reshape": [grouped]})
    Rewriter(graph).run({"mul": [take_scale], "add": [take_bias]})
    Rewriter(graph).run({"add": [take_bias]})


def core(rw: Rewriter, node: Node) -> Result:
    """(x - mean x) / sqrt(mean (x - mean x)^2 + eps), or x / sqrt(mean x^2 + eps)."""
    for top, root in _quotients(node):
        found = _deviation(root)
        if found is None or not top.dtype.is_float or top.shape != node.output.shape:
            continue
        squared, axes, epsilon = found
        base = _square_of(squared)
        if base is None:
            continue
        centred = _centred(base, axes)
        if centred is not None and (top is base or _centred(top, axes) is centred):
            return _layernorm(rw, node, centred, axes, epsilon)
        if top is base and axes == (base.rank - 1,) and is_static(base.shape[-1:]):
            return rw.add("rmsnorm", base, _ones(rw, base.shape[-1:], base), like=node, axis=axes[0], epsilon=epsilon)
    return None


def _quotients(node: Node) -> list[tuple[Value, Value]]:
    """(a, r) for each way to read the node as a / r, where r is a square root."""
    a, b = node.input(0), node.input(1)
    if node.op == "div":
        root = made_by(b, "sqrt")
        return [(a, root.output)] if root else []
    out = []
    for x, y in ((a, b), (b, a)):
        inverse = made_by(y, "reciprocal")
        root = made_by(inverse.input(0), "sqrt") if inverse else None
        if root:
            out.append((x, root.output))
            continue
        power = made_by(y, "pow")
        if power and uniform(power.input(1)) == -0.5:
            out.append((x, y))
    return out


def _deviation(root: Value) -> tuple[Value, tuple[int, ...], float] | None:
    """(s, axes, eps) if root is sqrt(mean(s, axes) + eps) with kept dimensions."""
    p = root.producer
    assert p is not None
    total = p.input(0)
    epsilon = 0.0
    add = made_by(total, "add")
    pair = constant_operand(add) if add else None
    if pair:
        number = uniform(pair[1])
        if number is None:
            return None
        total, epsilon = pair[0], float(number)
    mean = made_by(total, "reduce")
    if mean is None or mean.attrs["kind"] != "mean" or not mean.attrs["keepdims"]:
        return None
    return mean.input(0), tuple(mean.attrs["axes"]), epsilon


def _square_of(v: Value) -> Value | None:
    """d if v is d * d."""
    p = made_by(v, "mul", "pow")
    if p is None:
        return None
    if p.op == "mul":
        return p.input(0) if p.inputs[0] is p.inputs[1] else None
    return p.input(0) if uniform(p.input(1)) == 2 else None


def _centred(d: Value, axes: tuple[int, ...]) -> Value | None:
    """x if d is x - mean(x, axes)."""
    sub = made_by(d, "sub")
    mean = made_by(sub.input(1), "reduce") if sub else None
    if sub is None or mean is None or mean.attrs["kind"] != "mean" or not mean.attrs["keepdims"]:
        return None
    return sub.input(0) if mean.input(0) is sub.input(0) and tuple(mean.attrs["axes"]) == axes else None


def _layernorm(rw: Rewriter, node: Node, x: Value, axes: tuple[int, ...], epsilon: float) -> Result:
    first = x.rank - len(axes)
    if axes != tuple(range(first, x.rank)) or first == 0:
        return None
    if x.rank >= 4 and axes == tuple(range(2, x.rank)) and isinstance(x.shape[1], int):  # instance norm
        c = x.shape[1:2]
        return rw.add("groupnorm", x, _ones(rw, c, x), _zeros(rw, c, x), like=node, groups=c[0], epsilon=epsilon,
                      channels_last=False)
    if not is_static(x.shape[first:]):
        return None
    return rw.add("layernorm", x, _ones(rw, x.shape[first:], x), like=node, axis=first, epsilon=epsilon)


def _ones(rw: Rewriter, shape: Shape, like: Value) -> Value:
    return rw.graph.const(np.ones(shape, like.dtype.np), like.dtype, hint="scale")  # type: ignore[arg-type]


def _zeros(rw: Rewriter, shape: Shape, like: Value) -> Value:
    return rw.graph.const(np.zeros(shape, like.dtype.np), like.dtype, hint="bias")  # type: ignore[arg-type]


def grouped(rw: Rewriter, node: Node) -> Result:
    """reshape(instance norm(reshape(x, [N, G, ..]))) back to x's shape is a group norm of x."""
    norm = made_by(node.input(0), "groupnorm")
    inner = made_by(norm.input(0), "reshape") if norm else None
    if norm is None or inner is None or norm.attrs.get("channels_last") or not rw.once(norm.output):
        return None
    x, groups = inner.input(0), norm.attrs["groups"]
    if (x.shape != node.output.shape or x.rank < 3 or inner.output.shape[0] != x.shape[0]
            or inner.output.shape[1] != groups or not isinstance(x.shape[1], int) or x.shape[1] % groups):
        return None
    per = x.shape[1] // groups
    scale, bias = (v.data for v in (norm.input(1), norm.input(2)))
    if scale is None or bias is None:
        return None
    return rw.add("groupnorm", x, rw.const(np.repeat(scale, per), x), rw.const(np.repeat(bias, per), x), like=node,
                  groups=groups, epsilon=norm.attrs["epsilon"], channels_last=False)


def take_scale(rw: Rewriter, node: Node) -> Result:
    """norm(x, 1) * s is norm(x, s)."""
    for a, s in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        norm = made_by(a, "layernorm", "rmsnorm", "groupnorm")
        if norm is None or not rw.once(a) or a.shape != node.output.shape:
            continue
        if norm.op == "groupnorm":
            channel = per_channel(s, a)
            bias = norm.input(2)
            if channel is None or uniform(norm.input(1)) != 1 or uniform(bias) != 0:
                continue
            return rw.add("groupnorm", norm.input(0), rw.const(channel, norm.input(1)), bias, like=node, **norm.attrs)
        if uniform(norm.input(1)) != 1 or len([v for v in norm.inputs if v is not None]) > 2:
            continue
        scale = _as_parameter(rw, s, a.shape[norm.attrs["axis"]:], node)
        if scale is not None:
            return rw.add(norm.op, norm.input(0), scale, like=node, **norm.attrs)
    return None


def take_bias(rw: Rewriter, node: Node) -> Result:
    """layernorm(x, s) + b is layernorm(x, s, b); groupnorm(x, s, 0) + b likewise."""
    for a, b in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        norm = made_by(a, "layernorm", "groupnorm")
        if norm is None or not rw.once(a) or a.shape != node.output.shape:
            continue
        if norm.op == "groupnorm":
            channel = per_channel(b, a)
            if channel is None or uniform(norm.input(2)) != 0:
                continue
            return rw.add("groupnorm", norm.input(0), norm.input(1), rw.const(channel, norm.input(2)), like=node,
                          **norm.attrs)
        if len([v for v in norm.inputs if v is not None]) > 2:
            continue
        bias = _as_parameter(rw, b, a.shape[norm.attrs["axis"]:], node)
        if bias is not None:
            return rw.add("layernorm", norm.input(0), norm.input(1), bias, like=node, **norm.attrs)
    return None


def _as_parameter(rw: Rewriter, v: Value, shape: Shape, node: Node) -> Value | None:
    """v as a tensor of exactly this shape, if it broadcasts along all the dimensions before it."""
    if v.shape == shape:
        return v
    full = aligned(v.shape, max(v.rank, len(shape)))
    if full[len(full) - len(shape):] == shape and all(d == 1 for d in full[:len(full) - len(shape)]):
        return rw.add("reshape", v, like=node, shape=shape)
    if v.data is not None and is_static(shape) and all(d == 1 for d in full[:len(full) - len(shape)]):
        data = np.broadcast_to(v.data.reshape([int(d) for d in full[len(full) - len(shape):]]), shape)  # type: ignore
        return rw.const(np.ascontiguousarray(data), v)
    return None


def per_channel(v: Value, x: Value) -> np.ndarray | None:
    """A constant [C] if v is one number for each channel (dimension 1) of x, or one for all."""
    c = x.shape[1] if x.rank > 1 else None
    if v.data is None or not isinstance(c, int) or v.rank > x.rank:
        return None
    full = aligned(v.shape, x.rank)
    if any(d != 1 for i, d in enumerate(full) if i != 1) or full[1] not in (1, c):
        return None
    return np.broadcast_to(v.data.reshape(-1), (c,)) if product(v.shape) != 0 else None
