"""Algebraic simplification of pointwise operators.

Every rule holds for NaN and infinities: x * 0 stays for floats, x - x stays, and only divisions by powers
of two become products. The one liberty is the sign of zero (x + 0 is taken for x).
"""

from __future__ import annotations

from collections.abc import Callable

from whet.ir.dtypes import DType
from whet.ir.graph import Graph, Node, Value
from whet.ir.ops import POINTWISE
from whet.ir.symbolic import lower, names, upper
from whet.passes.rewrite import (
    Result,
    Rewriter,
    Rule,
    constant_operand,
    made_by,
    power_of_two,
    scalar,
    uniform,
)

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b}
MOVEMENT = ("reshape", "transpose", "slice", "expand", "concat", "gather", "pad")
FLIPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def simplify(graph: Graph) -> None:
    """Apply the rules of this file once over the graph."""
    rules: dict[str, list[Rule]] = {
        "add": [drop_neutral], "sub": [drop_neutral], "mul": [drop_neutral], "div": [drop_neutral, divide_by_power],
        "and": [logical], "or": [logical], "not": [involution], "neg": [involution],
        "pow": [small_power], "where": [known_branch], "cast": [needless_cast],
        "relu": [idempotent], "abs": [idempotent], "max": [clamp_to_relu],
        **{op: [decided_comparison] for op in COMPARE},
    }
    for op in POINTWISE:
        rules.setdefault(op, []).append(below_expand)
    Rewriter(graph).run(rules)


def lift(graph: Graph) -> None:
    """Move arithmetic with constants above reshapes and concats, to what it can join there."""
    while Rewriter(graph).run({op: [above_reshape, above_concat] for op in POINTWISE}):
        pass


def fit(rw: Rewriter, v: Value, node: Node) -> Value:
    """v in the shape of the node's result."""
    out = node.output
    return v if v.shape == out.shape else rw.add("expand", v, like=node, shape=out.shape)


def drop_neutral(rw: Rewriter, node: Node) -> Result:
    """x + 0, x - 0, x * 1, x / 1 are x; integer x * 0 is 0."""
    a, b = node.input(0), node.input(1)
    neutral = 0 if node.op in ("add", "sub") else 1
    if uniform(b) == neutral:
        return fit(rw, a, node)
    if node.op in ("add", "mul") and uniform(a) == neutral:
        return fit(rw, b, node)
    if node.op == "mul" and node.output.dtype.is_integer and 0 in (uniform(a), uniform(b)):
        return fit(rw, rw.const(0, node.output), node)
    return None


def divide_by_power(rw: Rewriter, node: Node) -> Result:
    """x / 2^n is x * 2^-n, exactly; 1 / x is a reciprocal."""
    a, b = node.input(0), node.input(1)
    c = uniform(b)
    if node.output.dtype in (DType.F32, DType.F64) and c is not None and power_of_two(float(c)):
        return fit(rw, rw.add("mul", a, rw.const(1.0 / c, b), like=node), node)
    if node.output.dtype.is_float and uniform(a) == 1:
        return fit(rw, rw.add("reciprocal", b, like=node), node)
    return None


def logical(rw: Rewriter, node: Node) -> Result:
    """x and True, x or False are x; x and False, x or True are known."""
    a, b = node.input(0), node.input(1)
    for x, c in ((a, uniform(b)), (b, uniform(a))):
        if c is None:
            continue
        if bool(c) == (node.op == "and"):
            return fit(rw, x, node)
        return fit(rw, rw.const(bool(c), node.output), node)
    return fit(rw, a, node) if a is b else None


def involution(rw: Rewriter, node: Node) -> Result:
    """-(-x) and not(not x) are x."""
    inner = made_by(node.input(0), node.op)
    return inner.input(0) if inner else None


def idempotent(rw: Rewriter, node: Node) -> Result:
    """relu(relu x), abs(abs x); relu and abs of what cannot be negative."""
    inner = made_by(node.input(0), node.op)
    return node.input(0) if inner else None


def small_power(rw: Rewriter, node: Node) -> Result:
    """x^1, x^2, x^3 are products; x^-1 a reciprocal; x^0.5 a root where x cannot be negative."""
    x = node.input(0)
    c = uniform(node.input(1))
    if c is None or not x.dtype.is_float or x.dtype is not node.output.dtype:
        return None
    if c == 1:
        return fit(rw, x, node)
    if c == 2:
        return fit(rw, rw.add("mul", x, x, like=node), node)
    if c == 3:
        return fit(rw, rw.add("mul", rw.add("mul", x, x, like=node), x, like=node), node)
    if c == -1:
        return fit(rw, rw.add("reciprocal", x, like=node), node)
    if c in (0.5, -0.5) and not_negative(x):
        root = rw.add("sqrt", x, like=node)
        return fit(rw, root if c > 0 else rw.add("reciprocal", root, like=node), node)
    return None


def not_negative(v: Value, depth: int = 6) -> bool:
    """True if v is known to be >= 0 or NaN (by its last few operators)."""
    if v.data is not None:
        return bool((v.data >= 0).all())
    p = v.producer
    if p is None or depth == 0:
        return False
    if p.op in ("exp", "abs", "relu", "sigmoid", "sqrt", "softmax"):
        return True
    if p.op == "mul" and p.inputs[0] is p.inputs[1]:
        return True
    if p.op == "pow" and uniform(p.inputs[1]) in (2, 4):
        return True
    if p.op in ("reshape", "transpose", "expand", "slice") or (
            p.op == "reduce" and p.attrs["kind"] in ("sum", "mean", "max", "min")):
        return not_negative(p.input(0), depth - 1)
    if p.op in ("add", "mul", "div", "min"):
        return all(not_negative(x, depth - 1) for x in p.inputs if x is not None)
    if p.op == "max":
        return any(not_negative(x, depth - 1) for x in p.inputs if x is not None)
    return False


def known_branch(rw: Rewriter, node: Node) -> Result:
    """where with a condition that is the same everywhere, or with two equal branches."""
    cond, a, b = node.input(0), node.input(1), node.input(2)
    c = uniform(cond)
    if c is not None:
        return fit(rw, a if c else b, node)
    inverse = made_by(cond, "not")
    if inverse:
        return rw.add("where", inverse.input(0), b, a, like=node)
    return fit(rw, a, node) if a is b else None


_WIDER: dict[DType, set[DType]] = {
    DType.BF16: {DType.F32, DType.F64}, DType.F16: {DType.F32, DType.F64}, DType.F32: {DType.F64},
    DType.I8: {DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32, DType.F64},
    DType.U8: {DType.U16, DType.U32, DType.U64, DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32,
               DType.F64},
    DType.I16: {DType.I32, DType.I64, DType.F32, DType.F64},
    DType.U16: {DType.U32, DType.U64, DType.I32, DType.I64, DType.F32, DType.F64},
    DType.I32: {DType.I64, DType.F64}, DType.U32: {DType.U64, DType.I64, DType.F64},
    DType.BOOL: {t for t in DType if not t.is_host and t not in (DType.BOOL, DType.F8E8M0FNU)},
    DType.F8E8M0FNU: {DType.F32, DType.F64},  # in bf16 its least number is subnormal, which kernels may take for 0
    **{t: {DType.F16, DType.BF16, DType.F32, DType.F64} for t in DType
       if t.is_storage and t.computed_as.is_float and t is not DType.F8E8M0FNU},
    **{t: {DType.I8, DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16, DType.F32, DType.F64}
       for t in (DType.I4, DType.I2)},
    **{t: {DType.U8, DType.U16, DType.U32, DType.U64, DType.I8, DType.I16, DType.I32, DType.I64, DType.F16, DType.BF16,
           DType.F32, DType.F64} for t in (DType.U4, DType.U2)},
}


def lossless(a: DType, b: DType) -> bool:
    """True if every value of type a is a value of type b."""
    return a is b or b in _WIDER.get(a, set())


def needless_cast(rw: Rewriter, node: Node) -> Result:
    """A cast to the type that is there, and a cast after a cast that loses nothing (but there and back from a
    storage type it may change what saturates)."""
    x, to = node.input(0), node.output.dtype
    if x.dtype is to:
        return x
    inner = made_by(x, "cast")
    if inner and lossless(inner.input(0).dtype, x.dtype) and not (to.is_storage and to is inner.input(0).dtype):
        return rw.add("cast", inner.input(0), like=node, **node.attrs)
    return None


def clamp_to_relu(rw: Rewriter, node: Node) -> Result:
    """max(x, 0) is relu(x)."""
    pair = constant_operand(node)
    if pair and node.output.dtype.is_float and uniform(pair[1]) == 0:
        return fit(rw, rw.add("relu", pair[0], like=node), node)
    return None


def decided_comparison(rw: Rewriter, node: Node) -> Result:
    """A comparison of an iota with a constant that comes out the same for every element."""
    a, b = node.input(0), node.input(1)
    op = node.op
    if scalar(a) is not None:
        a, b, op = b, a, FLIPPED[op]
    c, span = scalar(b), _span(a, rw.graph)
    if c is None or span is None:
        return None
    results = {COMPARE[op](span[0], c), COMPARE[op](span[1], c)}
    return fit(rw, rw.const(results.pop(), node.output), node) if len(results) == 1 else None


def _span(v: Value, graph: Graph) -> tuple[int, int] | None:
    """Bounds of the integers in v, an iota seen through reshapes, if the profile bounds them."""
    p = v.producer
    while p is not None and p.op in ("reshape", "expand", "transpose", "cast") and v.dtype.is_integer:
        v, p = p.input(0), p.input(0).producer
    if p is None or p.op != "iota" or not v.dtype.is_integer:
        return None
    start, step, size = p.attrs["start"], p.attrs["step"], p.attrs["size"]
    last = start + (size - 1) * step
    ranges = {n: (graph.dims[n][0], graph.dims[n][2]) if n in graph.dims else (0, 1 << 31)
              for n in names(start, last)}
    ends = [f(d, ranges) for d in (start, last) for f in (lower, upper)]
    return min(ends), max(ends)


def below_expand(rw: Rewriter, node: Node) -> Result:
    """Pointwise operators on expanded operands run before the expansion; one that others make needless goes."""
    ins = [v for v in node.inputs if v is not None]
    if not any(made_by(v, "expand") for v in ins):
        return None
    small = [p.input(0) if (p := made_by(v, "expand")) else v for v in ins]
    return fit(rw, rw.add(node.op, *small, like=node, **node.attrs), node)


def above_reshape(rw: Rewriter, node: Node) -> Result:
    """f(reshape(x), c) is reshape(f(x, c)) for constant numbers, and rows where the last dimension stays."""
    shaped = [v for v in node.inputs if v is not None and v.data is None]
    inner = made_by(shaped[0], "reshape") if len(shaped) == 1 else None
    if inner is None or not rw.once(shaped[0]) or shaped[0].shape != node.output.shape:
        return None
    x = inner.input(0)
    keeps_rows = x.rank > 0 and x.shape[-1:] == node.output.shape[-1:]
    others = [v for v in node.inputs if v is not None and v is not shaped[0]]
    if not all(scalar(v) is not None or (keeps_rows and all(d == 1 for d in v.shape[:-1])) for v in others):
        return None
    ins = [x if v is shaped[0] else _flat(rw, v) for v in node.inputs if v is not None]
    return rw.add("reshape", rw.add(node.op, *ins, like=node, **node.attrs), like=node, shape=node.output.shape)


def above_concat(rw: Rewriter, node: Node) -> Result:
    """f(concat(x, y), numbers) is concat(f(x, numbers), f(y, numbers)), where nobody else reads any of these."""
    shaped = [v for v in node.inputs if v is not None and scalar(v) is None]
    joined = made_by(shaped[0], "concat") if len(shaped) == 1 else None
    if joined is None or not rw.once(shaped[0]) or shaped[0].shape != node.output.shape:
        return None
    parts = [v for v in joined.inputs if v is not None]
    if not all(rw.once(v) and v.producer is not None and v.producer.op not in MOVEMENT for v in parts):
        return None
    operands = [v if v is shaped[0] else _flat(rw, v) for v in node.inputs if v is not None]
    done = [rw.add(node.op, *(part if v is shaped[0] else v for v in operands), like=node, **node.attrs)
            for part in parts]
    return rw.add("concat", *done, like=node, axis=joined.attrs["axis"])


def _flat(rw: Rewriter, v: Value) -> Value:
    """A constant number without dimensions, a constant row with one."""
    if v.data is None or v.rank == 0 or (v.rank == 1 and v.data.size != 1):
        return v
    return rw.graph.const(v.data.reshape(() if v.data.size == 1 else -1), v.dtype)
