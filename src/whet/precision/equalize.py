"""Cross-layer equalization: channels between two layers are scaled alike, and the weights on both sides undo it.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through weight equalization and bias
correction", ICCV 2019. What lies between two layers must be positively homogeneous per channel: f(x / s) = f(x) / s.
Bounds (the 6 of a relu6) and offsets are scaled along, so that the model computes what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whet.ir.graph import Graph, Node, Value
from whet.passes.rewrite import aligned, constant_operand
from whet.precision.scaling import MOST_FACTOR, by_input, choose, times_input

SWEEPS = 20
CONVERGED = 0.01  # of the logarithms to base 2 of the factors
LEAST_SHARE = 1 / 16  # channels that were seen to be smaller than this share of the largest count as that large
SAME = ("relu", "abs", "neg")
MOVED = ("add", "sub", "min", "max")  # by a constant, which is scaled along
FACTORS = ("mul", "div")


@dataclass(frozen=True)
class Pair:
    """Two layers and the nodes between them, each read by the next one only."""

    first: Node
    between: tuple[Node, ...]
    second: Node

    @property
    def axis(self) -> int:
        """The axis of channels between them."""
        return 1 if self.first.op == "conv" else self.first.output.rank - 1

    @property
    def depthwise(self) -> bool:
        """True if each channel has weights of its own in the second layer, and so a scale of its own."""
        return self.second.op == "conv" and self.second.input(1).shape[1] == 1


@dataclass(frozen=True)
class Equalized:
    """What was done to a pair: channel i between them is now 1 / factors[i] of what it was."""

    first: str
    second: str
    factors: np.ndarray


def equalize(graph: Graph, largest: Mapping[str, np.ndarray] | None = None) -> list[Equalized]:
    """Equalize the pairs of a prepared graph (channels first) in place.

    largest: the largest magnitude of each channel of values, by name (calibration's `Channels.largest`). Where that of
        the value between two layers is known, its channels are made alike before a depthwise layer, whose weights have
        a scale per channel, and else balanced against the weights that read them (`scaling.choose`). Where it is not,
        the weights of both layers are equalized against each other, as published.

    Ranges of values are others afterwards: calibrate again.
    """
    found = pairs(graph)
    known = dict(largest or {})
    total = [np.ones(_width(p)) for p in found]
    done: set[int] = set()
    for _ in range(SWEEPS):
        worst = 0.0
        for i, p in enumerate(found):
            s = np.ones(_width(p)) if i in done else factors(p, known)
            if _seen(p, known) is not None:
                done.add(i)  # what was measured does not depend on other pairs
            if not _safe(p, s):
                continue
            _apply(graph, p, s, known)
            total[i] *= s
            worst = max(worst, float(np.abs(np.log2(s)).max(initial=0.0)))
        if worst < CONVERGED:
            break
    return [Equalized(p.first.origin, p.second.origin, s) for p, s in zip(found, total) if (s != 1).any()]


def pairs(graph: Graph) -> list[Pair]:
    """The pairs of layers that can be equalized, in order."""
    uses, outside = graph.uses(), graph.read_outside()
    out = []
    for first in graph.nodes:
        if not _constant_weights(first):
            continue
        between: list[Node] = []
        v, axis = first.output, 1 if first.op == "conv" else first.output.rank - 1
        while v not in outside and len(uses.get(v, ())) == 1:
            n = uses[v][0]
            if n.op == first.op and n.input(0) is v and _constant_weights(n):
                out.append(Pair(first, tuple(between), n))
                break
            if not _homogeneous(n, v, axis):
                break
            between.append(n)
            v = n.output
    return out


def factors(p: Pair, largest: Mapping[str, np.ndarray]) -> np.ndarray:
    """By what to divide each channel between a pair."""
    theirs, seen = by_input(p.second), _seen(p, largest)
    if seen is None:
        mine = _by_output(p.first)
        ok = (mine > 0) & (theirs > 0)
        s = np.sqrt(np.divide(mine, theirs, out=np.ones_like(mine), where=ok))
        return np.clip(s, 1 / MOST_FACTOR, MOST_FACTOR)
    if not seen.any():
        return np.ones(seen.size)
    a = np.maximum(seen, LEAST_SHARE * seen.max())
    if p.depthwise:
        return a / np.exp(np.log(a).mean())
    s = choose(a, [p.second], None)[1]
    return np.ones(a.size) if s is None else s


def _seen(p: Pair, largest: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What was seen of the value that the second layer reads, or of one before it that has the same bounds."""
    v = p.second.input(0)
    for n in (*reversed(p.between), p.first):
        if v.name in largest:
            a = np.asarray(largest[v.name], np.float64)
            return a if a.shape == (_width(p),) and np.isfinite(a).all() else None
        if n.op not in ("pool", "pad"):
            return None
        v = n.input(0)
    return None


def _apply(graph: Graph, p: Pair, s: np.ndarray, known: dict[str, np.ndarray]) -> None:
    first, second = p.first, p.second
    w = first.input(1)
    shape = (-1, *[1] * (w.rank - 1)) if first.op == "conv" else (1, -1)
    assert w.data is not None
    first.inputs[1] = _like(graph, w, w.data / s.reshape(shape))
    if first.op == "conv" and len(first.inputs) > 2 and first.inputs[2] is not None:
        bias = first.input(2)
        assert bias.data is not None
        first.inputs[2] = _like(graph, bias, bias.data / s)
    for v in (first.output, *(n.output for n in p.between)):
        if v.name in known:
            known[v.name] = np.asarray(known[v.name], np.float64) / s
    for n in p.between:
        if n.op in MOVED:
            i = 1 if n.input(1).is_const else 0
            c = n.input(i)
            assert c.data is not None
            along = s.reshape(-1, *[1] * (n.output.rank - 1 - p.axis))
            n.inputs[i] = _like(graph, c, c.data / along)
    second.inputs[1] = _like(graph, second.input(1), times_input(second, s))


def _like(graph: Graph, old: Value, data: np.ndarray) -> Value:
    return graph.const(data.astype(old.dtype.np), old.dtype)


def _by_output(n: Node) -> np.ndarray:
    """The largest magnitude of the weights by output channel."""
    w = n.input(1).data
    assert w is not None
    a = np.abs(w.astype(np.float64))
    return a.max(axis=tuple(range(1, a.ndim)), initial=0.0) if n.op == "conv" else a.max(axis=0, initial=0.0)


def _width(p: Pair) -> int:
    w = p.first.input(1).data
    assert w is not None
    return w.shape[0] if p.first.op == "conv" else w.shape[1]


def _safe(p: Pair, s: np.ndarray) -> bool:
    """False if something would overflow."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite((_by_output(p.first) / s).astype(np.float32)).all()
                    and np.isfinite((by_input(p.second) * s).astype(np.float32)).all())


def _constant_weights(n: Node) -> bool:
    """True for a convolution (channels first) or matmul by a matrix, with finite constant weights and bias."""
    if n.op not in ("conv", "matmul") or n.attrs.get("channels_last"):
        return False
    w = n.input(1)
    if w.data is None or w.data.size == 0 or w.data.dtype.kind != "f" or (n.op == "matmul" and w.rank != 2):
        return False
    given = [v for v in n.inputs[1:] if v is not None]
    return all(v.data is not None and bool(np.isfinite(v.data).all()) for v in given)


def _homogeneous(n: Node, v: Value, axis: int) -> bool:
    """True for a node of which v (with channels along `axis`) is the data, and that scaling a channel passes."""
    if n.op in SAME:
        return True
    if n.op == "pool":
        return axis == 1 and n.attrs["kind"] in ("max", "average") and not n.attrs["channels_last"]
    if n.op == "pad":
        pads = n.attrs["pads"]
        return n.attrs["mode"] == "constant" and n.attrs["value"] == 0 and not pads[axis] and not pads[axis + v.rank]
    if n.op not in MOVED + FACTORS or n.output.shape != v.shape:
        return False
    pair = constant_operand(n)
    if pair is None or pair[0] is not v or (n.op == "div" and pair[1] is not n.input(1)):
        return False
    return n.op in FACTORS or all(d == 1 for i, d in enumerate(aligned(pair[1].shape, v.rank)) if i != axis)
