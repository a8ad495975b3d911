"""Recognition of activation functions that exporters write out: GELU, SiLU, hard-swish, sigmoid.

GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415): x/2 (1 + erf(x / sqrt 2)), or with
tanh(sqrt(2/pi) (x + 0.044715 x^3)). SiLU: x sigmoid(x). Hard-swish (Howard et al. 2019,
arXiv:1905.02244): x clip(x/6 + 1/2, 0, 1). Products are matched in any order and association, and the
arguments as polynomials in x, so that it does not matter how they were written.
"""

from __future__ import annotations

import math

from whet.ir.graph import Graph, Node, Value
from whet.passes.rewrite import Result, Rewriter, constant_operand, made_by, uniform

Poly = tuple[float, ...]  # coefficients, lowest power first

GELU_ERF: Poly = (0.0, math.sqrt(0.5))
GELU_TANH: Poly = (0.0, math.sqrt(2 / math.pi), 0.0, 0.044715 * math.sqrt(2 / math.pi))
HARD_SIGMOID: Poly = (0.5, 1 / 6)


def recognize(graph: Graph) -> None:
    """Replace the written-out functions by single operators."""
    Rewriter(graph).run({"reciprocal": [sigmoid], "div": [sigmoid]})
    Rewriter(graph).run({"mul": [gated], "div": [gated]})


def sigmoid(rw: Rewriter, node: Node) -> Result:
    """1 / (1 + exp(-x))."""
    if node.op == "div" and uniform(node.input(0)) != 1:
        return None
    one = made_by(node.inputs[-1], "add")
    pair = constant_operand(one) if one else None
    power = made_by(pair[0], "exp") if pair and uniform(pair[1]) == 1 else None
    minus = made_by(power.input(0), "neg") if power else None
    if minus is None or minus.input(0).shape != node.output.shape:
        return None
    return rw.add("sigmoid", minus.input(0), like=node)


def gated(rw: Rewriter, node: Node) -> Result:
    """c * x * f(x) for the f of GELU, SiLU and hard-swish."""
    if not node.output.dtype.is_float:
        return None
    factors, c = _factors(rw, node)
    if len(factors) != 2:
        return None
    for x, f in (factors, factors[::-1]):
        if x.shape != node.output.shape or x is f:
            continue
        found = _gate(x, f, c)
        if found:
            return rw.add(found[0], x, like=node, **found[1])
    return None


def _gate(x: Value, f: Value, c: float) -> tuple[str, dict[str, object]] | None:
    """The activation that c * x * f is, with its attributes."""
    p = f.producer
    if p is None:
        return None
    if p.op == "sigmoid" and p.input(0) is x and c == 1:
        return "silu", {}
    if p.op == "add" and close((c,), (0.5,)):
        pair = constant_operand(p)
        inner = made_by(pair[0], "erf", "tanh") if pair and uniform(pair[1]) == 1 else None
        if inner is None:
            return None
        form, name = (GELU_ERF, "none") if inner.op == "erf" else (GELU_TANH, "tanh")
        return ("gelu", {"approximate": name}) if close(polynomial(inner.input(0), x), form) else None
    clipped = _clip(f)
    if clipped:
        inner_value, high = clipped
        poly = polynomial(inner_value, x)
        if poly and close((high * c,), (1.0,)) and close(tuple(a * c for a in poly), HARD_SIGMOID):
            return "hardswish", {}
    return None


def _clip(v: Value) -> tuple[Value, float] | None:
    """(x, high) if v is clip(x, 0, high)."""
    outer = made_by(v, "min")
    pair = constant_operand(outer) if outer else None
    if pair:
        inner = made_by(pair[0], "relu")
        high = uniform(pair[1])
        return (inner.input(0), float(high)) if inner and high is not None else None
    outer = made_by(v, "relu")
    inner = made_by(outer.input(0), "min") if outer else None
    pair = constant_operand(inner) if inner else None
    high = uniform(pair[1]) if pair else None
    return (pair[0], float(high)) if pair and high is not None and high > 0 else None


def _factors(rw: Rewriter, node: Node) -> tuple[list[Value], float]:
    """The non-constant factors of a product (through products that nobody else reads) and the constant one."""
    found: list[Value] = []
    c = 1.0
    stack: list[tuple[Value, bool]] = []

    def spread(n: Node) -> bool:
        if n.op == "mul":
            stack.extend(((n.input(0), False), (n.input(1), False)))
            return True
        if uniform(n.input(1)) not in (None, 0):
            stack.extend(((n.input(0), False), (n.input(1), True)))
            return True
        return False

    if not spread(node):
        return [], c
    while stack and len(found) < 4:
        v, inverse = stack.pop()
        number = uniform(v)
        inner = made_by(v, "mul", "div")
        if number is not None:
            c = c / float(number) if inverse else c * float(number)
        elif not (inner and rw.once(v) and spread(inner)):
            found.append(v)
    return found, c


def polynomial(v: Value, x: Value, depth: int = 10) -> Poly | None:
    """v as a polynomial in x of degree at most 3, or None if it is none."""
    if v is x:
        return (0.0, 1.0)
    number = uniform(v)
    if number is not None:
        return (float(number),)
    p = v.producer
    if p is None or depth == 0 or p.op not in ("add", "sub", "mul", "div", "neg", "pow"):
        return None
    a = polynomial(p.input(0), x, depth - 1)
    b = polynomial(p.input(1), x, depth - 1) if len(p.inputs) > 1 else (0.0,)
    if a is None or b is None:
        return None
    if p.op == "neg":
        return tuple(-k for k in a)
    if p.op in ("add", "sub"):
        s = 1 if p.op == "add" else -1
        n = max(len(a), len(b))
        return tuple(i + s * j for i, j in zip(_padded(a, n), _padded(b, n)))
    if p.op == "div":
        return tuple(k / b[0] for k in a) if len(b) == 1 and b[0] != 0 else None
    if p.op == "pow":
        if len(b) != 1 or b[0] not in (1, 2, 3):
            return None
        out: Poly = (1.0,)
        for _ in range(int(b[0])):
            out = _times(out, a)
    else:
        out = _times(a, b)
    return out if len(out) <= 4 else None


def _times(a: Poly, b: Poly) -> Poly:
    out = [0.0] * (len(a) + len(b) - 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            out[i + j] += p * q
    return tuple(out)


def _padded(a: Poly, n: int) -> Poly:
    return a + (0.0,) * (n - len(a))


def close(a: Poly | None, b: Poly) -> bool:
    """True if two polynomials agree to the precision that exporters round constants to."""
    if a is None:
        return False
    n = max(len(a), len(b))
    return all(math.isclose(p, q, rel_tol=1e-4, abs_tol=1e-7) for p, q in zip(_padded(a, n), _padded(b, n)))
