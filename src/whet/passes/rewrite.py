"""What the passes share: the forward rewriting walk, and small questions about values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.ir.symbolic import Dim, Shape, Sym

Result = Value | list[Value] | None
Rule = Callable[["Rewriter", Node], Result]


class Rewriter:
    """One walk over the nodes in order; a rule may replace a node's outputs by other values.

    Rules see inputs that are already rewritten, build new nodes with `add` (they land right before the
    node in hand) and never edit an existing node. `count` counts the replacements.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.count = 0
        self._uses: dict[Value, list[Node]] = {}

    def run(self, rules: Mapping[str, list[Rule]]) -> int:
        """Apply the rules for each node's op (those under "*" to every node), first match wins; returns `count`."""
        self.graph.prune()  # what is dead would count as a reader
        self._uses = self.graph.uses()
        outputs = self.graph.read_outside()
        for v in outputs:
            self._uses.setdefault(v, []).append(_OUTPUT)
        old, self.graph.nodes = self.graph.nodes, []
        replaced: dict[Value, Value] = {}
        for node in old:
            node.inputs = [replaced.get(v, v) if v is not None else None for v in node.inputs]
            for rule in (*rules.get(node.op, ()), *rules.get("*", ())):
                result = rule(self, node)
                if result is not None:
                    self.count += 1
                    new = result if isinstance(result, list) else [result]
                    for o, v in zip(node.outputs, new, strict=True):
                        replaced[o] = replaced.get(v, v)
                        self._uses.setdefault(v, []).extend(self._uses.get(o, ()))
                    break
            else:
                self.graph.nodes.append(node)
        self.graph.outputs = [replaced.get(v, v) for v in self.graph.outputs]
        self.graph.sizes = {n: replace(s, value=replaced.get(s.value, s.value)) for n, s in self.graph.sizes.items()}
        return self.count

    def uses(self, v: Value) -> list[Node]:
        """The readers of v when the walk began (once per read; graph outputs count as one each)."""
        return self._uses.get(v, [])

    def once(self, v: Value) -> bool:
        """True if v has at most one reader."""
        return len(self.uses(v)) <= 1

    def add(self, op: str, *inputs: Value | None, like: Node | None = None, **attrs: object) -> Value:
        """A new one-output node; `like` lends its origin and precision."""
        v = self.graph.add(op, inputs, attrs, origin=like.origin if like else "")
        if like is not None and v.producer is not None:
            v.producer.compute = like.compute
        return v

    def const(self, data: object, like: Value) -> Value:
        """A constant of `like`'s dtype."""
        return self.graph.const(np.asarray(data), like.dtype)


_OUTPUT = Node("output", [], [])


def made_by(v: Value | None, *ops: str) -> Node | None:
    """The producer of v if it is one of these operators."""
    p = v.producer if v is not None else None
    return p if p is not None and p.op in ops else None


def uniform(v: Value | None) -> float | int | bool | None:
    """The one number that every element of a constant is, if so (NaN counts, an empty constant does not)."""
    if v is None or v.data is None or v.data.size == 0 or v.data.dtype.kind in "OSU":
        return None
    first = v.data.reshape(-1)[0]
    if v.data.size > 1 and not _all_equal(v.data, first):
        return None
    return first.item() if v.data.dtype.kind != "V" else float(first)


def scalar(v: Value | None) -> float | int | bool | None:
    """The number in a constant of one element."""
    return uniform(v) if v is not None and v.data is not None and v.data.size == 1 else None


def _all_equal(data: np.ndarray, first: np.generic) -> bool:
    flat = data.reshape(-1)
    if flat[-1] != first and flat[-1] == flat[-1]:  # cheap way out for weights
        return False
    return bool((flat == first).all()) or bool((flat != flat).all())


def constant_operand(node: Node) -> tuple[Value, Value] | None:
    """(the other operand, the constant) of a binary node with exactly one constant operand."""
    a, b = node.input(0), node.input(1)
    if a.is_const == b.is_const:
        return None
    return (b, a) if a.is_const else (a, b)


def broadcast_shape(*shapes: Shape) -> Shape:
    """NumPy's broadcast of shapes that are known to fit; a size-1 dimension gives way."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for i in range(rank):
        dims = [s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0]
        wide = [d for d in dims if d != 1]
        out.append(next((d for d in wide if isinstance(d, int)), wide[0]) if wide else 1)
    return tuple(out)


def aligned(shape: Shape, rank: int) -> Shape:
    """The shape with ones in front up to this rank."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def power_of_two(x: float) -> bool:
    """True if 1/x is exact: x is a power of two whose reciprocal is a normal number."""
    return x != 0 and math.isfinite(x) and abs(math.frexp(x)[0]) == 0.5 and 1e-37 < abs(x) < 1e37


def freeze(v: object) -> object:
    """A hashable stand-in for an attribute's value."""
    if isinstance(v, (list, tuple)):
        return tuple(freeze(x) for x in v)
    if isinstance(v, dict):
        return tuple(sorted((k, freeze(x)) for k, x in v.items()))
    if isinstance(v, np.ndarray):
        return (v.dtype.str, v.shape, v.tobytes())
    if isinstance(v, float):
        return repr(v)
    if isinstance(v, (int, str, bool, bytes, type(None), Sym)) or getattr(v, "__hash__", None):
        return (type(v).__name__, v)
    return id(v)
