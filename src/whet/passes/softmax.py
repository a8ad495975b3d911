"""Recognition of softmax written out: exp(x - max x) / sum exp(x - max x), and its logarithm.

Without the subtraction of the maximum the written form overflows where softmax does not, so only the
stable form is taken.
"""

from __future__ import annotations

from whet.ir.graph import Graph, Node, Value
from whet.passes.rewrite import Result, Rewriter, made_by


def recognize(graph: Graph) -> None:
    """Replace the written-out forms by `softmax`."""
    Rewriter(graph).run({"div": [quotient], "mul": [product], "sub": [log_form]})


def quotient(rw: Rewriter, node: Node) -> Result:
    """exp(x - m) / sum exp(x - m)."""
    return _softmax(rw, node, node.input(0), node.input(1))


def product(rw: Rewriter, node: Node) -> Result:
    """exp(x - m) * reciprocal(sum exp(x - m))."""
    for a, b in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        inverse = made_by(b, "reciprocal")
        if inverse:
            found = _softmax(rw, node, a, inverse.input(0))
            if found:
                return found
    return None


def log_form(rw: Rewriter, node: Node) -> Result:
    """(x - m) - log(sum exp(x - m))."""
    shifted, log = node.input(0), made_by(node.input(1), "log")
    total = _axis_of(made_by(log.input(0), "reduce"), "sum") if log else None
    if log is None or total is None:
        return None
    power = made_by(total[0], "exp")
    if power is None or power.input(0) is not shifted:
        return None
    x = _shifted(shifted, total[1])
    return rw.add("softmax", x, like=node, axis=total[1], log=True) if x else None


def _softmax(rw: Rewriter, node: Node, numerator: Value, denominator: Value) -> Result:
    power = made_by(numerator, "exp")
    total = _axis_of(made_by(denominator, "reduce"), "sum")
    if power is None or total is None or total[0] is not numerator:
        return None
    x = _shifted(power.input(0), total[1])
    return rw.add("softmax", x, like=node, axis=total[1], log=False) if x else None


def _shifted(v: Value, axis: int) -> Value | None:
    """x if v is x - max(x, axis)."""
    sub = made_by(v, "sub")
    top = _axis_of(made_by(sub.input(1), "reduce"), "max") if sub else None
    return sub.input(0) if sub and top and top == (sub.input(0), axis) else None


def _axis_of(node: Node | None, kind: str) -> tuple[Value, int] | None:
    """(operand, axis) of a reduction of this kind over one kept axis."""
    if node is None or node.attrs["kind"] != kind or not node.attrs["keepdims"] or len(node.attrs["axes"]) != 1:
        return None
    return node.input(0), node.attrs["axes"][0]
