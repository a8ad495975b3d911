"""Products of codes: what `quantize` and `dequantize` say becomes arithmetic on 8-bit codes.

Three steps. `move`: dequantize sinks and quantize rises through what only moves or compares elements, so that
these work on bytes. `products`: a convolution or matmul of dequantized operands becomes the raw product of the
codes in i32, a factor and an offset per column:

    sum (x - zx) sx (w sw) + b = (sum x w) (sx sw) + (b - sx sw zx sum w)

(padding then has the value zx). Codes of 8-bit floats (f8e4m3fn) have no zero point and their sums are f32; they are
moved, but not compared. `expand`: what is left is written out, a dequantize anew for every reader, so that
bytes are what lies between regions; a quantize becomes `saturate`, its factor and all others before it one.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops_host import HOST
from whet.ir.symbolic import is_static
from whet.passes.rewrite import Result, Rewriter, Rule, aligned, made_by, scalar

MOVES = ("reshape", "transpose", "slice", "expand")
CHOICES = (*MOVES, "where", "pool", "concat", "pad", "gather")  # whose results are operands' elements
INTEGERS = (DType.U8, DType.I8)
CODES = (*INTEGERS, DType.F8E4M3FN)
LARGEST_SUM = 1 << 31


def to_integers(graph: Graph) -> None:
    """All three steps, in place. The graph is channels-last already; its regions are not formed."""
    if not any(n.op in ("quantize", "dequantize") for n in graph.nodes):
        return
    move(graph)
    products(graph)
    expand(graph)


# -- moving ------------------------------------------------------------------------------------------------


def move(graph: Graph) -> None:
    """Let dequantize sink and quantize rise, until nothing changes."""
    rules: dict[str, list[Rule]] = {op: [below_move] for op in MOVES}
    rules |= {"concat": [below_concat], "pool": [below_max_pool], "pad": [below_pad],
              "quantize": [undone, above_move, above_concat]}
    while Rewriter(graph).run(rules):
        pass


def per_tensor(node: Node | None) -> bool:
    """True for a quantize or dequantize with one constant positive scale and zero point in all."""
    if node is None:
        return False
    s, z = scalar(node.input(1)), scalar(node.input(2))
    return s is not None and z is not None and math.isfinite(s) and s > 0


def _same(a: Node, b: Node) -> bool:
    """True if two nodes have the same scale and zero point."""
    return (per_tensor(a) and per_tensor(b) and a.input(2).dtype is b.input(2).dtype
            and all(scalar(a.input(i)) == scalar(b.input(i)) for i in (1, 2)))


def _codes(v: Value | None) -> Node | None:
    """The per-tensor dequantize of a computed 8-bit tensor that makes v."""
    d = made_by(v, "dequantize")
    return d if d is not None and per_tensor(d) and d.input(0).dtype in CODES and not d.input(0).is_const else None


def below_move(rw: Rewriter, node: Node) -> Result:
    """move(dequantize(q)) is dequantize(move(q))."""
    d = _codes(node.input(0))
    if d is None:
        return _moved_weights(rw, node)
    q = rw.add(node.op, d.input(0), *node.inputs[1:], like=node, **node.attrs)
    return rw.add("dequantize", q, *d.inputs[1:], like=d)


def _moved_weights(rw: Rewriter, node: Node) -> Result:
    """Constant codes, and scales along one axis of them, transposed or reshaped at once."""
    d = made_by(node.input(0), "dequantize")
    if d is None or node.op not in ("transpose", "reshape") or not is_static(node.output.shape):
        return None
    q, *parameters = (v.data for v in d.inputs if v is not None)
    if q is None or any(p is None for p in parameters):
        return None
    full = [np.expand_dims(p, tuple(range(q.ndim - p.ndim))) for p in parameters if p is not None]
    wide = {i for p in full for i, n in enumerate(p.shape) if n != 1}
    if node.op == "transpose":
        moved = [np.transpose(a, node.attrs["perm"]) for a in (q, *full)]
    else:
        shape = tuple(n for n in node.output.shape if isinstance(n, int))
        before = [math.prod(q.shape[:i]) for i in wide]
        to = [j for i, b in zip(wide, before) for j, n in enumerate(shape)
              if n == q.shape[i] and math.prod(shape[:j]) == b]
        if len(wide) > 1 or len(to) < len(wide):
            return None
        vector = tuple(n if j in to[:1] else 1 for j, n in enumerate(shape))
        moved = [q.reshape(shape), *(p.reshape(vector if p.size > 1 else (1,) * len(shape)) for p in full)]
    return rw.add("dequantize", *(rw.graph.const(np.ascontiguousarray(a)) for a in moved), like=d)


def below_max_pool(rw: Rewriter, node: Node) -> Result:
    """The largest of dequantized numbers is that of the codes, since scales are positive. Codes of 8-bit floats are
    widened for it and narrowed again, which is exact."""
    if node.attrs["kind"] != "max":
        return None
    d = made_by(node.input(0), "dequantize")
    if d is None or d.input(0).dtype is not DType.F8E4M3FN:
        return below_move(rw, node)
    if not per_tensor(d):
        return None
    y = rw.add("pool", rw.add("cast", d.input(0), like=d, to=DType.F32), like=node, **node.attrs)
    return rw.add("dequantize", rw.add("cast", y, like=node, to=DType.F8E4M3FN), *d.inputs[1:], like=d)


def below_pad(rw: Rewriter, node: Node) -> Result:
    """A pad with zeros pads with the zero point; other modes repeat elements."""
    d = _codes(node.input(0))
    if d is None or len(node.inputs) > 1:
        return None
    attrs = dict(node.attrs)
    if attrs.get("mode", "constant") == "constant":
        if attrs.get("value", 0) != 0:
            return None
        attrs["value"] = int(scalar(d.input(2)) or 0)
    return rw.add("dequantize", rw.add("pad", d.input(0), like=node, **attrs), *d.inputs[1:], like=d)


def below_concat(rw: Rewriter, node: Node) -> Result:
    """Operands of one scale and zero point are joined as codes."""
    found = [_codes(v) for v in node.inputs]
    first = found[0]
    if first is None or any(d is None or not _same(first, d) for d in found):
        return None
    q = rw.add("concat", *(d.input(0) for d in found if d is not None), like=node, **node.attrs)
    return rw.add("dequantize", q, *first.inputs[1:], like=first)


def undone(rw: Rewriter, node: Node) -> Result:
    """quantize(dequantize(q)) with the same scale and zero point is q."""
    d = made_by(node.input(0), "dequantize")
    return d.input(0) if d is not None and _same(d, node) else None


def above_move(rw: Rewriter, node: Node) -> Result:
    """quantize(move(x)) is move(quantize(x)) where nobody else reads what is moved."""
    m = made_by(node.input(0), *MOVES, "pool")
    if m is None or not per_tensor(node) or not rw.once(node.input(0)) or m.input(0).is_const:
        return None
    if m.op == "pool" and (m.attrs["kind"] != "max" or node.output.dtype is DType.F8E4M3FN):
        return None
    if m.op == "transpose" and m.input(0).producer is None:
        return None  # an input is quantized on its way to where it goes: one step
    q = rw.add("quantize", m.input(0), *node.inputs[1:], like=node)
    return rw.add(m.op, q, *m.inputs[1:], like=m, **m.attrs)


def above_concat(rw: Rewriter, node: Node) -> Result:
    """Each operand of a concat is quantized, where nobody else reads the whole."""
    c = made_by(node.input(0), "concat")
    if c is None or not per_tensor(node) or not rw.once(node.input(0)):
        return None
    return rw.add("concat", *(rw.add("quantize", v, *node.inputs[1:], like=node) for v in c.inputs), like=c, **c.attrs)


# -- products ----------------------------------------------------------------------------------------------


def products(graph: Graph) -> None:
    """Turn the convolutions, matmuls and attentions of dequantized operands into integer anchors."""
    Rewriter(graph).run({"conv": [integer_conv], "matmul": [integer_matmul], "attention": [integer_attention]})


def symmetric_weights(v: Value) -> tuple[np.ndarray, np.ndarray] | None:
    """(codes in i8, scale) of constant weights: the zero point taken off, if what is left fits; 8-bit floats as they
    are."""
    d = made_by(v, "dequantize")
    if d is None or d.input(0).dtype not in CODES:
        return None
    q, scale, zero = (x.data for x in (d.input(0), d.input(1), d.input(2)))
    if q is None or scale is None or zero is None or not np.isfinite(scale).all():
        return None
    if d.input(0).dtype is DType.F8E4M3FN:
        return q, scale
    centred = q.astype(np.int16) - zero.astype(np.int16)
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return None
    return centred.astype(np.int8), scale


def _along(scale: np.ndarray, rank: int, axis: int, n: int) -> np.ndarray | None:
    """The scale as a vector of n where it varies along this axis alone (counted from 0) of an operand of this rank."""
    full = aligned(scale.shape, rank)
    if any(d != 1 for i, d in enumerate(full) if i != axis):
        return None
    return np.broadcast_to(scale.reshape(-1), (n,)) if scale.size in (1, n) else None


def _sums_fit(x: Node, w: np.ndarray, depth: int) -> bool:
    """True if codes x and weights w may be multiplied: both 8-bit floats, or integers whose sums fit 32 bits."""
    floats = [d is DType.F8E4M3FN for d in (x.input(0).dtype, DType.of(w.dtype))]
    return all(floats) or (not any(floats) and depth * 255 * 128 < LARGEST_SUM)


def integer_conv(rw: Rewriter, node: Node) -> Result:
    """A channels-last convolution of codes by constant weights with one scale per output channel."""
    x, found = _codes(node.input(0)), symmetric_weights(node.input(1))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or found is None or not node.attrs["channels_last"] or (bias is not None and bias.data is None):
        return None
    w, scale = found
    per_channel = _along(scale, w.ndim, 0, w.shape[0])
    if per_channel is None or not _sums_fit(x, w, math.prod(w.shape[1:])):
        return None
    zero = int(scalar(x.input(2)) or 0)
    attrs = {**node.attrs, "pad_value": zero if any(node.attrs["pads"]) else 0}
    acc = rw.add("conv", x.input(0), rw.graph.const(w), like=node, **attrs)
    totals = w.reshape(w.shape[0], -1).sum(axis=1, dtype=np.int64) if zero else np.zeros(w.shape[0])
    return _real(rw, node, acc, x, per_channel, totals, bias.data if bias is not None else None)


def integer_matmul(rw: Rewriter, node: Node) -> Result:
    """A product of codes by a constant matrix with one scale per column."""
    x, found = _codes(node.input(0)), symmetric_weights(node.input(1))
    if x is None or found is None or found[0].ndim != 2 or not _sums_fit(x, found[0], found[0].shape[0]):
        return None
    w, scale = found
    per_column = _along(scale, 2, 1, w.shape[1])
    if per_column is None:
        return None
    acc = rw.add("matmul", x.input(0), rw.graph.const(w), like=node, **node.attrs)
    totals = w.sum(axis=0, dtype=np.int64) if scalar(x.input(2)) else np.zeros(w.shape[1])
    return _real(rw, node, acc, x, per_column, totals, None)


def integer_attention(rw: Rewriter, node: Node) -> Result:
    """Attention over symmetric i8 codes, where it is asked for (`compute`): not every machine has such kernels."""
    found = [_codes(v) for v in node.inputs[:3]]
    if node.compute != "int8" or any(d is None or d.input(0).dtype is not DType.I8 or scalar(d.input(2)) != 0
                                     for d in found):
        return None
    codes = [d for d in found if d is not None]
    scales = {f"{x}_scale": float(scalar(d.input(1)) or 0.0) for x, d in zip("qkv", codes)}
    return rw.add("attention", *(d.input(0) for d in codes), *node.inputs[3:], like=node, **{**node.attrs, **scales})


def _real(rw: Rewriter, node: Node, acc: Value, x: Node, scale: np.ndarray, totals: np.ndarray,
          bias: np.ndarray | None) -> Value:
    """The real numbers that raw sums stand for."""
    factor = scale.astype(np.float64) * float(scalar(x.input(1)) or 0.0)
    offset = -factor * totals * int(scalar(x.input(2)) or 0) + (0.0 if bias is None else bias.astype(np.float64))
    y = acc if acc.dtype is DType.F32 else rw.add("cast", acc, like=node, to=DType.F32)
    y = rw.add("mul", y, rw.graph.const(factor, DType.F32), like=node)
    return rw.add("add", y, rw.graph.const(offset, DType.F32), like=node) if np.any(offset) else y


# -- expansion ---------------------------------------------------------------------------------------------


def expand(graph: Graph) -> None:
    """Write out every quantize and dequantize that is left; a dequantize once for each of its readers."""
    Rewriter(graph).run({"*": [read_codes]})
    Rewriter(graph).run({"dequantize": [real_numbers], "quantize": [saturated]})
    graph.prune()


def read_codes(rw: Rewriter, node: Node) -> Result:
    """The node with every dequantized operand computed for it alone."""
    found = [made_by(v, "dequantize") for v in node.inputs]
    if not any(found):
        return None
    if node.op == "pool" and node.attrs["kind"] == "average" and found[0] is _codes(node.input(0)):
        return average_of_codes(rw, node, found[0])
    ins = [v if d is None else real_numbers(rw, d) for v, d in zip(node.inputs, found)]
    if node.op not in HOST and len(node.outputs) == 1:
        return rw.add(node.op, *ins, like=node, **node.attrs)
    node.inputs = ins  # no rule tells the results of host steps
    return None


def average_of_codes(rw: Rewriter, node: Node, d: Node | None) -> Result:
    """The mean of (q - zero) * scale is (the mean of q - zero) * scale, where padding does not count as zeros."""
    assert d is not None
    zero = int(scalar(d.input(2)) or 0)
    if zero and node.attrs["count_include_pad"] and any(node.attrs["pads"]):
        return rw.add("pool", real_numbers(rw, d), like=node, **node.attrs)
    y = rw.add("pool", rw.add("cast", d.input(0), like=d, to=DType.F32), like=node, **node.attrs)
    y = y if not zero else rw.add("sub", y, rw.graph.const(float(zero), DType.F32), like=d)
    return rw.add("mul", y, d.input(1), like=d)


def real_numbers(rw: Rewriter, d: Node) -> Value:
    """(q - zero) * scale, rounded once as ONNX has it; of constants, a constant."""
    q, scale, zero = d.input(0), d.input(1), d.input(2)
    if q.data is not None and scale.data is not None and zero.data is not None:
        from whet.ir.ops import evaluate

        return rw.graph.const(evaluate(d, [q.data, scale.data, zero.data])[0])
    if q.dtype is DType.I32 and (zero.data is None or np.any(zero.data)):  # f32 does not hold all of these
        return rw.add("mul", rw.add("cast", rw.add("sub", q, zero, like=d), like=d, to=DType.F32), scale, like=d)
    y = rw.add("cast", q, like=d, to=DType.F32)
    if zero.data is None:
        y = rw.add("sub", y, rw.add("cast", zero, like=d, to=DType.F32), like=d)
    elif q.dtype is not DType.F8E4M3FN and np.any(zero.data):
        y = rw.add("sub", y, rw.graph.const(zero.data, DType.F32), like=d)
    return rw.add("mul", y, scale, like=d)


def saturated(rw: Rewriter, node: Node) -> Result:
    """quantize as `saturate`, its factor folded into the arithmetic before it."""
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    if zero.dtype is DType.F8E4M3FN:
        y = times(rw, x, 1.0 / float(scalar(scale) or 1.0), node) if per_tensor(node) else rw.add(
            "div", x, scale, like=node)
        return rw.add("cast", y, like=node, to=zero.dtype)
    if not per_tensor(node):
        y = rw.add("round", rw.add("div", x, scale, like=node), like=node)
        info = ml_dtypes.iinfo(zero.dtype.np)
        y = rw.add("add", y, rw.add("cast", zero, like=node, to=DType.F32), like=node)
        y = rw.add("max", y, rw.graph.const(info.min, DType.F32), like=node)
        y = rw.add("min", y, rw.graph.const(info.max, DType.F32), like=node)
        return rw.add("cast", y, like=node, to=zero.dtype)
    factor, point = 1.0 / float(scalar(scale) or 1.0), int(scalar(zero) or 0)
    y = _without_clamps(rw, times(rw, x, factor, node), point, zero.dtype)
    return rw.add("saturate", y, like=node, zero=point, to=zero.dtype)


def _without_clamps(rw: Rewriter, y: Value, zero: int, to: DType) -> Value:
    """y without the limits at its end that saturation has anyway."""
    info = np.iinfo(to.np)
    while (p := made_by(y, "relu", "max", "min")) is not None:
        limit = 0.0 if p.op == "relu" else scalar(p.inputs[1])
        if limit is None or p.input(0).shape != p.output.shape:
            break
        code = np.rint(limit) + zero
        if not (code >= info.max if p.op == "min" else code <= info.min):
            break
        y = p.input(0)
    return y


def times(rw: Rewriter, v: Value, factor: float, node: Node) -> Value:
    """v * factor (> 0), the factor pushed into constants: through limits and sums of products with constants."""
    p = v.producer
    if p is not None and rw.once(v) and p.op in ("relu", "max", "min"):
        rest = [scalar(x) for x in p.inputs[1:]]
        if all(r is not None for r in rest) and p.input(0).shape == v.shape:
            inner = times(rw, p.input(0), factor, node)
            return rw.add(p.op, inner, *(rw.graph.const(r * factor, DType.F32) for r in rest if r is not None), like=p)
    terms, offset = _affine(rw, v)
    if (terms[0][0] is v and (p is None or p.op in CHOICES)) or _only_real(p):
        # of scales with a plain ratio, halves must stay halves
        return v if factor == 1.0 else rw.add("div", v, rw.graph.const(1.0 / factor, DType.F32), like=node)
    total: Value | None = None
    for x, coefficient in terms:
        c = coefficient * factor
        y = x if np.all(c == 1.0) else rw.add("mul", x, rw.graph.const(c, DType.F32), like=node)
        total = y if total is None else rw.add("add", total, y, like=node)
    assert total is not None
    if offset is not None and np.any(offset):
        total = rw.add("add", total, rw.graph.const(offset * factor, DType.F32), like=node)
    return total


def _only_real(p: Node | None) -> bool:
    """True for what `real_numbers` writes: codes, less a zero point, times a scale."""
    if p is None or p.op != "mul":
        return False
    shifted = made_by(p.input(0), "sub")
    cast = made_by(shifted.input(0) if shifted is not None else p.input(0), "cast")
    return cast is not None and cast.input(0).dtype in CODES


def _affine(rw: Rewriter, v: Value) -> tuple[list[tuple[Value, np.ndarray]], np.ndarray | None]:
    """v as a sum of values times constants (scalars or one per column), and a constant. In float64."""
    p, one = v.producer, np.ones((), np.float64)
    if p is None or not rw.once(v) or p.op not in ("add", "sub", "mul", "div"):
        return [(v, one)], None
    a, b = p.input(0), p.input(1)
    if p.op in ("mul", "div"):
        x, c = (b, a) if a.is_const and p.op == "mul" else (a, b)
        k = _per_column(c, v)
        if k is None or x.shape != v.shape or (p.op == "div" and not np.all(k)):
            return [(v, one)], None
        k = 1.0 / k if p.op == "div" else k
        terms, offset = _affine(rw, x)
        return [(y, w * k) for y, w in terms], None if offset is None else offset * k
    sign = -1.0 if p.op == "sub" else 1.0
    terms, offset = [], None
    for x, s in ((a, 1.0), (b, sign)):
        k = _per_column(x, v)
        if k is not None:
            offset = k * s if offset is None else offset + k * s
        elif x.shape == v.shape:
            more, o = _affine(rw, x)
            terms += [(y, w * s) for y, w in more]
            offset = offset if o is None else o * s if offset is None else offset + o * s
        else:
            return [(v, one)], None
    return (terms, offset) if terms else ([(v, one)], None)


def _per_column(c: Value, like: Value) -> np.ndarray | None:
    """A finite constant as a scalar or a vector along the last dimension of `like`."""
    if c.data is None or c.dtype is not DType.F32 or c.rank > like.rank or not np.isfinite(c.data).all():
        return None
    if c.data.size == 1:
        return c.data.reshape(()).astype(np.float64)
    full = aligned(c.shape, like.rank)
    if any(d != 1 for d in full[:-1]) or full[-1] != like.shape[-1]:
        return None
    return c.data.reshape(-1).astype(np.float64)
