"""Host steps: what a plan runs in Python between its native stretches.

Values are arrays, lists of arrays (sequences), None (an optional without value), arrays of strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet import plugins
from whet.errors import MissingExtraError, PlanFormatError
from whet.reference import Kernel

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
    """An ONNX model of one node, run by `whet.reference`."""

    def __init__(self, payload: bytes, label: str) -> None:
        try:
            self.kernel = Kernel(payload, label)
        except MissingExtraError:
            raise
        except Exception as e:
            raise PlanFormatError("a host step of the plan cannot be set up", where=label, why=str(e)) from e

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        return self.kernel(operands)


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


class RegionReference:
    """A region that the plan's target has no kernel for."""

    def __init__(self, payload: bytes, label: str) -> None:
        from whet.ir.region import region_from_json

        try:
            self.region = region_from_json(json.loads(payload))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as e:
            raise PlanFormatError("a host step of the plan cannot be set up", where=label,
                                  why=f"{type(e).__name__}: {e}") from e

    def __call__(self, operands: Sequence[Any], dims: Mapping[str, int] | None = None) -> list[Any]:
        """`dims`: values of the dimensions that the operands' shapes do not tell."""
        from whet.ir.region_eval import region_reference

        known = {n: v for n, v in (dims or {}).items() if n in self.region.dims}
        with np.errstate(all="ignore"):
            return list(region_reference(self.region, operands, known))


KINDS: dict[str, Callable[[bytes, str], HostFunction]] = {
    "onnx": _Reference, "region": RegionReference, "strings": _Strings, "plugin": plugins.from_payload}


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
