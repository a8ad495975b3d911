"""Kernels of the ONNX operators that whet has no code for: `onnx.reference`, and sequences and optionals in its stead.

A sequence is a list of arrays, an optional its value or None, a string tensor an array of objects (`str`), a map a
dict. Sequences and optionals are few lines, for which `onnx.reference` is not always right: it wraps what Optional is
given in a list, and inserts at the front where the position is the length. It lacks ZipMap.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.errors import MissingExtraError, UnsupportedError, WhetError

Attrs = Mapping[str, Any]


class Kernel:
    """The single node of a serialized `ModelProto`. `inputs` are the names of those that `__call__` takes, in order.

    UnsupportedError where nothing implements the operator, MissingExtraError without `onnx`.
    """

    def __init__(self, payload: bytes, where: str = "") -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ImportError as e:
            raise MissingExtraError("onnx is not installed", where=where, why="a step runs by onnx.reference",
                                    do="pip install onnx") from e
        model = onnx.ModelProto.FromString(payload)
        (node,) = model.graph.node
        self.where = where or f"{node.op_type} {node.name}".strip()
        self.op = node.op_type
        self.inputs = [i.name for i in model.graph.input]
        domain = "" if node.domain == "ai.onnx" else node.domain
        self._own = OWN.get(node.op_type if not domain else f"{domain}.{node.op_type}")
        if self._own is not None:
            held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
            self._operands = [(name, held.get(name)) for name in node.input]
            self._attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            return
        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception as e:  # whatever it raises for what it does not know
            raise UnsupportedError(f"nothing implements the operator {node.op_type}", where=self.where,
                                   why=f"whet has no code for it, nor has onnx.reference: {_first_line(e)}",
                                   do="use other operators, or export it as a local function") from e

    def __call__(self, xs: Sequence[Any]) -> list[Any]:
        """The outputs: arrays, lists of arrays, or None. WhetError where the operator cannot take these operands."""
        feeds = dict(zip(self.inputs, xs, strict=True))
        try:
            if self._own is not None:
                given = [feeds.get(name, held) if name else None for name, held in self._operands]
                return [_plain(self._own(self._attrs, *given))]
            # Copies, for some reference kernels change their operands.
            return [_plain(y) for y in self._evaluator.run(None, {n: _copied(x) for n, x in feeds.items()})]
        except Exception as e:  # whatever the operator's implementation raises
            raise WhetError(f"{self.op} failed, run by onnx.reference", where=self.where,
                            why=f"{type(e).__name__}: {_first_line(e)}") from e


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [""])[0]


def _copied(x: Any) -> Any:
    return list(x) if isinstance(x, list) else None if x is None else np.array(x)


def _plain(y: Any) -> Any:
    """A result as the rest of whet wants it: arrays, strings as objects."""
    if y is None or isinstance(y, dict):
        return y
    if isinstance(y, (list, tuple)):
        return [_plain(v) for v in y]
    a = np.asarray(y)
    return a.astype(object) if a.dtype.kind in "US" else a


def _index(i: Any) -> int:
    return operator.index(np.asarray(i).reshape(-1)[0].item())


def _optional(at: Attrs, x: Any = None) -> Any:
    return x


def _element(at: Attrs, x: Any = None) -> Any:
    if x is None:
        raise ValueError("the optional has no value")
    return x


def _at(at: Attrs, sequence: list[Any], i: Any) -> Any:
    return sequence[_index(i)]


def _erase(at: Attrs, sequence: list[Any], i: Any = None) -> list[Any]:
    out = list(sequence)
    del out[-1 if i is None else _index(i)]
    return out


def _insert(at: Attrs, sequence: list[Any], x: Any, i: Any = None) -> list[Any]:
    n = len(sequence)
    where = n if i is None else _index(i)
    if not -n <= where <= n:
        raise IndexError(f"position {where} in a sequence of {n}")
    where %= n + 1 if where >= 0 else max(n, 1)
    return [*sequence[:where], x, *sequence[where:]]


def _concat(at: Attrs, sequence: list[Any]) -> np.ndarray:
    return (np.stack if at.get("new_axis", 0) else np.concatenate)(sequence, at["axis"])


def _split(at: Attrs, x: np.ndarray, split: Any = None) -> list[np.ndarray]:
    axis = at.get("axis", 0)
    n = x.shape[axis]
    if split is None:
        parts = np.split(x, n, axis) if n else []
        return parts if at.get("keepdims", 1) else [np.squeeze(p, axis) for p in parts]
    sizes = split.tolist() if split.ndim else [split.item()] * (n // split.item())
    if not split.ndim and n % split.item():
        sizes.append(n % split.item())
    if sum(sizes) != n:
        raise ValueError(f"parts of {sizes} for a dimension of {n}")
    return np.split(x, np.cumsum(sizes)[:-1], axis) if sizes else []


def _zip_map(at: Attrs, scores: np.ndarray) -> list[dict[Any, float]]:
    labels = at.get("classlabels_int64s") or [s.decode("utf-8", "replace") for s in at["classlabels_strings"]]
    return [dict(zip(labels, row, strict=True)) for row in np.atleast_2d(scores).tolist()]


# Each takes the node's attributes and its operands (None where one is absent), and gives its only output.
OWN: dict[str, Callable[..., Any]] = {
    "Identity": lambda at, x: x,
    "Optional": _optional,
    "OptionalGetElement": _element,
    "OptionalHasElement": lambda at, x=None: np.asarray(x is not None),
    "SequenceAt": _at,
    "SequenceConstruct": lambda at, *xs: list(xs),
    "SequenceEmpty": lambda at: [],
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": lambda at, sequence: np.asarray(len(sequence), np.int64),
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
    "ai.onnx.ml.ZipMap": _zip_map,
}
