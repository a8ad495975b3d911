"""SmoothQuant: the outliers of a few activation channels go into the weights, where each column has its own scale.

G. Xiao, J. Lin, M. Seznec, H. Wu, J. Demouth, S. Han, "SmoothQuant: accurate and efficient post-training quantization
for large language models", ICML 2023: x W = (x / s) (s W). What s is: `scaling`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.precision.scaling import choose, times_input

NORMS = ("layernorm", "rmsnorm")


@dataclass(frozen=True)
class Smoothed:
    """One value whose channels were divided by `factors`, for the matmuls of these origins. `folded`: into the scale
    and bias of the normalization that makes it; else by a multiplication in front of them, as others read it too."""

    value: str
    layers: tuple[str, ...]
    alpha: float
    factors: np.ndarray
    folded: bool


def smooth(graph: Graph, largest: Mapping[str, np.ndarray], alpha: float | None = None,
           anywhere: bool = False) -> list[Smoothed]:
    """Smooth what normalizations give to matmuls by constant matrices, in place. The graph computes what it did.

    largest:  the largest magnitude of each channel of values, by name (calibration's `Channels.largest`, of last axes).
    alpha:    how much of the difficulty goes to the weights; None: for each value that with the least noise by estimate
              (`scaling.noise`); where not smoothing at all has less, the value is left alone.
    anywhere: also in front of matmuls whose operand no normalization makes (by a multiplication of its own).

    Ranges of values are others afterwards: calibrate again.
    """
    out = []
    outside = graph.read_outside()
    for v, readers in _read(graph).items():
        norm = v.producer if v.producer is not None and v.producer.op in NORMS and _constant(v.producer) else None
        a = largest.get(v.name)
        if a is None or (norm is None and not anywhere):
            continue
        x = np.asarray(a, np.float64)
        width = v.shape[-1]
        if x.shape != (width,) or not np.isfinite(x).all() or not x.any():
            continue
        chosen, s = choose(x, readers, alpha)
        if s is None:
            continue
        folded = norm is not None and _only(v, readers, graph.uses(), outside)
        if folded and norm is not None:
            _divide(graph, norm, s)
        else:
            factor = graph.const((1 / s).astype(v.dtype.np), v.dtype)
            _insert(graph, factor, readers)
        for n in readers:
            n.inputs[1] = graph.const(times_input(n, s).astype(n.input(1).dtype.np), n.input(1).dtype)
        out.append(Smoothed(v.name, tuple(n.origin for n in readers), chosen, s, folded))
    graph.sort()
    return out


def _read(graph: Graph) -> dict[Value, list[Node]]:
    """The values that matmuls by constant matrices read (through reshapes that keep the last axis), with these."""
    out: dict[Value, list[Node]] = {}
    for n in graph.nodes:
        if n.op != "matmul" or n.input(1).data is None or n.input(1).rank != 2 or n.input(0).is_const:
            continue
        w = n.input(1).data
        if w is not None and w.size and w.dtype.kind == "f" and np.isfinite(w).all():
            out.setdefault(_origin(n.input(0)), []).append(n)
    return out


def _origin(v: Value) -> Value:
    """The value that reshapes only divide otherwise before the last axis."""
    while (v.producer is not None and v.producer.op == "reshape" and isinstance(v.shape[-1], int)
           and v.producer.input(0).shape[-1:] == v.shape[-1:] and not v.producer.input(0).is_const):
        v = v.producer.input(0)
    return v


def _only(v: Value, readers: Sequence[Node], uses: Mapping[Value, list[Node]], outside: Collection[Value]) -> bool:
    """True if these matmuls alone read v, directly or through reshapes that keep its last axis."""
    if v in outside:
        return False
    for n in uses.get(v, ()):
        if n.op == "reshape" and _origin(n.output) is _origin(v):
            if not _only(n.output, readers, uses, outside):
                return False
        elif all(n is not r for r in readers) or n.input(1) is v:
            return False
    return True


def _constant(norm: Node) -> bool:
    """True for a normalization of the last axis by constants."""
    return (norm.attrs["axis"] == norm.output.rank - 1
            and all(v is not None and v.data is not None for v in norm.inputs[1:]))


def _divide(graph: Graph, norm: Node, s: np.ndarray) -> None:
    """The normalization's results divided by s: its scale and its bias are."""
    for i in range(1, len(norm.inputs)):
        c = norm.input(i)
        assert c.data is not None
        norm.inputs[i] = graph.const((c.data.astype(np.float64) / s).astype(c.dtype.np), c.dtype)


def _insert(graph: Graph, factor: Value, readers: Sequence[Node]) -> None:
    """A multiplication in front of these matmuls, one for each value that they read."""
    made: dict[Value, Value] = {}
    for n in readers:
        x = n.input(0)
        if x not in made:
            made[x] = graph.add("mul", [x, factor], origin=n.origin, before=n)
        n.inputs[0] = made[x]
