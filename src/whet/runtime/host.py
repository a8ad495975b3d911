"""Host steps: what a plan runs in Python between its native stretches.

Values are arrays, lists of arrays (sequences), None (an optional without value), arrays of strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whet import plugins
from whet.errors import MissingExtraError, PlanFormatError, WhetError

HostFunction = Callable[[Sequence[Any]], list[Any]]


def prepare(kind: str, payload: bytes, label: str) -> HostFunction:
    """The function of a host step: its operands' values to its results'.

    PlanFormatError: an unknown kind or a damaged payload. MissingExtraError: the package it needs.
    """
    made = KINDS.get(kind)
    if made is None:
        raise PlanFormatError(f"a host step of the unknown kind {kind!r:.40}", where=label,
                              do="use the whet that wrote the plan, or build it anew")
    return made(payload, label)


class _Reference:
    """An ONNX model run by `onnx.reference`."""

    def __init__(self, payload: bytes, label: str) -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ImportError as e:
            raise MissingExtraError("onnx is not installed", where=label,
                                    why="a step of the plan runs by onnx.reference", do="pip install onnx") from e
        self.label = label
        try:
            model = onnx.load_from_string(payload)
            self.evaluator = ReferenceEvaluator(model)
        except Exception as e:
            raise PlanFormatError("a host step of the plan cannot be set up", where=label, why=str(e)) from e
        self.names = [i.name for i in model.graph.input]
        self.outputs = [o.name for o in model.graph.output]

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        try:
            # Copies, for some reference kernels change their operands.
            feeds = {n: x.copy() if isinstance(x, np.ndarray) else list(x) if isinstance(x, list) else x
                     for n, x in zip(self.names, operands)}
            return list(self.evaluator.run(self.outputs, feeds))
        except Exception as e:
            raise WhetError("a step that runs by onnx.reference failed", where=self.label,
                            why=f"{type(e).__name__}: {e}") from e


class _Strings:
    """A constant array of strings: the shape and the values as JSON."""

    def __init__(self, payload: bytes, label: str) -> None:
        try:
            stored = json.loads(payload)
            values = [str(v) for v in stored["values"]]
            self.array = np.array(values, object).reshape([int(d) for d in stored["shape"]])
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise PlanFormatError("a constant of strings in the plan is damaged", where=label, why=str(e)) from e

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        return [self.array.copy()]


KINDS: dict[str, Callable[[bytes, str], HostFunction]] = {
    "onnx": _Reference, "strings": _Strings, "plugin": plugins.from_payload}


def typed(x: Any, dtype: np.dtype, label: str) -> np.ndarray:
    """A host step's result as an array of the type that was planned."""
    got = np.asarray(x)
    if got.dtype == dtype:
        return got
    if dtype.kind == "O" or got.dtype.kind in "OSUT":
        return got.astype(object)
    if got.dtype.itemsize == dtype.itemsize and got.dtype.kind in "Vu":
        return got.view(dtype)  # element types that the reference keeps as bit patterns
    return got.astype(dtype)
