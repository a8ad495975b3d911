"""Which values between regions fp16 may not hold, told by structure alone.

A layer's results (products by constant weights, normalizations, softmax) are taken to lie in fp16's range, as training
keeps them there; what is computed from them by squaring, exponentials, powers or long sums is not, until a square root,
a logarithm, a quotient or a limit takes it back. What data show beyond that is `precision.overflow`'s.
"""

from __future__ import annotations

import math

from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.graph import Graph, Value
from whet.ir.region import Region
from whet.ir.symbolic import Dim, names, upper
from whet.passes.fuse import VIEWS

TERMS = 256  # a sum over more terms of one size may leave the range
LARGEST = 65504.0
GROWS = frozenset({"exp", "sinh", "cosh", "pow", "tan"})
SHRINKS = frozenset({"sqrt", "log", "tanh", "sigmoid", "erf", "sin", "cos", "atan", "asin", "acos", "asinh", "atanh",
                     "reciprocal", "sign", "isnan", "isinf", "eq", "ne", "lt", "le", "gt", "ge", "not"})
IN_ONE = frozenset({"tanh", "sigmoid", "erf", "sin", "cos"})  # results lie in -1..1
KEEPS_IN_ONE = frozenset({"mul", "where", "min", "max", "neg", "abs", "relu", "cast"})
NORMALIZED = frozenset({"softmax", "layernorm", "rmsnorm", "groupnorm", "recurrent", "matmul_grouped"})
_MOVED = frozenset({"pad", "gather", "gather_nd", "gather_elements", "resize"})


def prone(graph: Graph) -> set[Value]:
    """The values of a graph of regions that may be larger than fp16 holds."""
    found: set[Value] = set()
    unit: set[Value] = set()  # those that lie in -1..1
    for n in graph.nodes:
        if n.op in VIEWS:
            ins = [v for v in n.inputs if v is not None and v.dtype.is_float]
            if any(v in found for v in ins):
                found.add(n.output)
            if ins and all(v in unit for v in ins):
                unit.add(n.output)
            continue
        region: Region | None = n.attrs.get("region")
        if region is None:
            continue
        ins = [v for v in n.inputs if v is not None]
        grown = {i for i, v in enumerate(ins) if v in found}
        if _anchor(region, ins, grown, unit):
            grown.add(ANCHOR)
        e = region.epilogue
        if (e is None and ANCHOR in grown) or (e is not None and grows(e, grown)):
            found.add(n.outputs[0])
        if _in_one(region, ins, unit):
            unit.add(n.outputs[0])
    return found


def _anchor(region: Region, ins: list[Value], grown: set[int], unit: set[Value]) -> bool:
    """True if the anchor's own result may be too large, its operands (after their prologues) given."""
    kind, e = region.kind, region.prologue.get(0)
    operand = 0 in grown if e is None else grows(e, grown)
    if kind == "pointwise" or kind in NORMALIZED:
        return False
    if kind == "reduce":
        long = _extent([region.inputs[0].shape[a] for a in region.attrs["axes"]], region) > TERMS
        return operand or region.attrs["kind"] == "prod" or (region.attrs["kind"] == "sum" and long)
    if kind == "pool":
        return operand or region.attrs["kind"] == "lp"
    if kind == "attention":
        return 2 in grown
    if kind in ("matmul", "conv", "conv_transpose"):
        if ins[1].is_const:
            return False
        terms = region.inputs[1].shape[-2:-1] if kind == "matmul" else region.inputs[1].shape[1:]
        far = _extent(list(terms), region) > TERMS and not (ins[0] in unit or ins[1] in unit)
        return bool(grown & {0, 1}) or far
    return operand if kind in _MOVED or kind == "lrn" else bool(grown)


def _extent(dims: list[Dim], region: Region) -> float:
    """How many elements at most; infinitely many where nothing is known."""
    if names(*dims) - region.dims.keys():
        return math.inf
    return math.prod(upper(d, {n: (r[0], r[2]) for n, r in region.dims.items()}) for d in dims)


def _in_one(region: Region, ins: list[Value], unit: set[Value]) -> bool:
    """True if a region's results lie in -1..1, given which of its inputs do."""
    sources = {i for i, v in enumerate(ins) if v in unit}
    moved = region.kind in _MOVED | {"pool"} and 0 in sources and abs(region.attrs.get("value", 0) or 0) <= 1
    if moved and region.attrs.get("mode") != "cubic" and region.attrs.get("kind", "max") != "lp":
        sources.add(ANCHOR)
    if region.kind == "softmax" and not region.attrs["log"]:
        sources.add(ANCHOR)
    if region.epilogue is None:
        return ANCHOR in sources
    small: list[bool] = []
    for t in region.epilogue.terms:
        if isinstance(t, Leaf):
            small.append(t.source in sources)
        elif isinstance(t, Imm):
            small.append(abs(float(t.value)) <= 1)
        else:
            args = [small[a] for a in t.args]
            small.append(t.op in IN_ONE or (t.op in KEEPS_IN_ONE and all(args[1:] if t.op == "where" else args)))
    return small[-1]


def grows(e: Expr, sources: set[int]) -> bool:
    """True if an expression of leaves, of which those in `sources` may be too large, may be too large itself."""
    large: list[bool] = []
    for t in e.terms:
        if isinstance(t, Leaf):
            large.append(t.source in sources)
        elif isinstance(t, Imm):
            large.append(False)
        else:
            large.append(t.dtype.is_float and _grows(e, t, [large[a] for a in t.args]))
    return large[-1]


def _grows(e: Expr, t: Apply, args: list[bool]) -> bool:
    terms = [e.terms[a] for a in t.args]
    numbers = [float(x.value) if isinstance(x, Imm) else math.nan for x in terms]
    if t.op == "pow":
        return args[0] if abs(numbers[1]) <= 1 else True
    if t.op == "exp":
        return not _limited(e, terms[0])
    if t.op in GROWS:
        return True
    if t.op in SHRINKS:
        return False
    if t.op == "mul":
        return any(args) or (t.args[0] == t.args[1] and not _of_one(terms[0]))
    if t.op == "div":
        return args[0] and not args[1]
    if t.op == "min":
        return all(a or x > LARGEST for a, x in zip(args, numbers)) if any(x == x for x in numbers) else any(args)
    if t.op == "where":
        c = terms[0]
        if isinstance(c, Apply) and isinstance(e.terms[c.args[-1]], Imm):  # an exponential where x < 0 only
            if c.op in ("lt", "le"):
                return args[2]
            if c.op in ("gt", "ge"):
                return args[1]
        return any(args[1:])
    return any(args)


def _of_one(t: object) -> bool:
    return isinstance(t, Apply) and t.op in IN_ONE


def _limited(e: Expr, t: object) -> bool:
    """True for the argument of an exponential that has an upper limit: min(x, c), -|x|, -relu(x)."""
    if not isinstance(t, Apply):
        return False
    inner = [e.terms[a] for a in t.args]
    if t.op == "min":
        return any(isinstance(x, Imm) and x.value <= 11 for x in inner)
    return t.op == "neg" and isinstance(inner[0], Apply) and inner[0].op in ("abs", "relu")
