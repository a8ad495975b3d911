"""Host steps: what a plan runs in Python between its native stretches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from whet.errors import MissingExtraError, PlanFormatError, WhetError

Views = Sequence[np.ndarray]
HostFunction = Callable[[Views, Views], None]


def prepare(kind: str, payload: bytes, label: str) -> HostFunction:
    """A function (input views, output views to fill) for a host step.

    PlanFormatError: an unknown kind or a damaged payload. MissingExtraError: the package it needs.
    """
    if kind != "onnx":
        raise PlanFormatError(f"a host step of the unknown kind {kind!r:.40}", where=label,
                              do="use the whet that wrote the plan, or build it anew")
    return _Reference(payload, label)


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

    def __call__(self, inputs: Views, outputs: Views) -> None:
        try:
            # Copies, for some reference kernels change their operands.
            results = self.evaluator.run(self.outputs, {n: np.array(a) for n, a in zip(self.names, inputs)})
        except Exception as e:
            raise WhetError("a step that runs by onnx.reference failed", where=self.label, why=str(e)) from e
        for out, got in zip(outputs, results):
            _store(out, np.asarray(got), self.label)


def _store(out: np.ndarray, got: np.ndarray, label: str) -> None:
    if got.shape != out.shape:
        raise WhetError("a step that runs by onnx.reference gave another shape than was planned", where=label,
                        why=f"{list(got.shape)} instead of {list(out.shape)}")
    if got.dtype != out.dtype and got.dtype.itemsize == out.dtype.itemsize and got.dtype.kind in "Vu":
        got = got.view(out.dtype)  # element types that the reference keeps as bit patterns
    out[...] = got


def view(address: int, size: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array over memory that outlives it."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, memoryview((ctypes.c_char * size).from_address(address)))
