"""How far an array is from the one that a reference computed, and whether that is too far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FP32 = (1e-5, 1e-3)  # absolute, relative
BF16 = (1e-3, 5e-2)


@dataclass(frozen=True)
class Tolerance:
    """What is allowed: `max |a - b| <= absolute + relative * max |b|` over the finite elements of a tensor b.

    Relative to the tensor's largest element, since an element that is a sum may be much smaller than its terms.
    Integers, booleans and strings must be equal, except that integers may differ by `absolute`.
    """

    absolute: float
    relative: float

    @classmethod
    def of(cls, precision: str, absolute: float | None = None, relative: float | None = None) -> Tolerance:
        """The usual one for `fp32` or `bf16`, with what is given instead."""
        a, r = BF16 if precision == "bf16" else FP32
        return cls(a if absolute is None else absolute, r if relative is None else relative)


@dataclass(frozen=True)
class Deviation:
    """What a comparison found.

    max_abs, relative_l2: over the elements that are finite in both; infinite where nothing could be compared.
    nan, inf: how many elements are so; reference_nan, reference_inf: in the reference.
    why: empty if it is near enough, else what is wrong.
    """

    elements: int
    max_abs: float
    relative_l2: float
    nan: int
    inf: int
    reference_nan: int
    reference_inf: int
    why: str = ""

    @property
    def held(self) -> bool:
        """True if it is within the tolerance."""
        return not self.why

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where infinity is null."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in {**asdict(self), "held": self.held}.items()}


def compare(found: Any, reference: Any, allowed: Tolerance) -> Deviation:
    """How far `found` is from `reference`: arrays, sequences of them (the worst element counts), maps to numbers."""
    if isinstance(reference, dict):
        if not isinstance(found, dict) or found.keys() != reference.keys():
            return _unlike("the keys are others", len(reference))
        return compare(np.array([float(found[k]) for k in reference]), np.array([float(v) for v in reference.values()]),
                       allowed)
    if isinstance(reference, (list, tuple)):
        return _sequences(found, reference, allowed)
    if reference is None or found is None:
        same = reference is None and found is None
        return _unlike("" if same else "one of them is absent", 0)
    b = np.asarray(reference)
    a = np.asarray(found)
    if a.shape != b.shape:
        return _unlike(f"shape {list(a.shape)} instead of {list(b.shape)}", b.size)
    if b.dtype.kind not in "fiubc" and not _is_small_float(b):
        return _unlike("" if np.array_equal(a, b) else "it is not equal", b.size)
    if a.dtype != b.dtype:
        return _unlike(f"type {a.dtype} instead of {b.dtype}", b.size)
    exact = b.dtype.kind in "iub"
    x, y = (v.astype(np.complex128 if b.dtype.kind == "c" else np.float64) for v in (a, b))
    fine = np.isfinite(x) & np.isfinite(y)
    difference = np.abs(x[fine] - y[fine])
    largest = float(np.abs(y[fine]).max()) if difference.size else 0.0
    most = float(difference.max()) if difference.size else 0.0
    norm = float(np.linalg.norm(y[fine]))
    error = float(np.linalg.norm(difference))
    counts = [int(f(v).sum()) for v in (x, y) for f in (np.isnan, np.isinf)]
    limit = math.floor(allowed.absolute) if exact else allowed.absolute + allowed.relative * largest
    why = ""
    if not np.array_equal(x[~fine], y[~fine], equal_nan=True):
        where = np.argwhere(~fine & ~((x == y) | (np.isnan(x) & np.isnan(y))))[0]
        why = f"{_at(x, where)} instead of {_at(y, where)} at {where.tolist()}"
    elif most > limit:
        why = f"off by {most:.3g}, and {limit:.3g} is allowed"
    return Deviation(b.size, most, error / norm if norm else 0.0 if error == 0 else math.inf, counts[0], counts[1],
                     counts[2], counts[3], why)


def _at(x: np.ndarray, where: np.ndarray) -> str:
    return f"{x[tuple(where)]:.6g}"


def _is_small_float(x: np.ndarray) -> bool:
    """bfloat16 and the 8-bit floats, which NumPy knows by ml_dtypes."""
    return x.dtype.kind == "V" and x.dtype.name.startswith(("bfloat", "float"))


def _unlike(why: str, elements: int) -> Deviation:
    far = math.inf if why else 0.0
    return Deviation(elements, far, far, 0, 0, 0, 0, why)


def _sequences(found: Any, reference: Any, allowed: Tolerance) -> Deviation:
    if not isinstance(found, (list, tuple)) or len(found) != len(reference):
        return _unlike(f"{len(found) if isinstance(found, (list, tuple)) else 'no'} elements instead of "
                       f"{len(reference)}", 0)
    each = [compare(a, b, allowed) for a, b in zip(found, reference, strict=True)]
    return max(each, key=lambda d: (not d.held, d.relative_l2), default=_unlike("", 0))
