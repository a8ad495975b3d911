"""From what calibration observed per channel to the channels that a layer reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from whet.ir.graph import Value

if TYPE_CHECKING:
    from whet.precision.cache import Calibration


def means(c: Calibration) -> dict[str, np.ndarray]:
    """The mean of each channel of each tensor, by name."""
    return {n: t.seen.channels.mean for n, t in c.tensors.items() if t.seen.channels is not None}


def largest(c: Calibration) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel of each tensor, by name."""
    return {n: t.seen.channels.largest for n, t in c.tensors.items() if t.seen.channels is not None}


def at_input(v: Value, known: Mapping[str, np.ndarray], axis: int, bound: bool = False) -> np.ndarray | None:
    """What is known of the channels (along `axis`) of a value that was not observed itself but follows from values that
    were: through concatenation along the channels and reshapes that keep them. None where it does not follow.

    bound: the numbers are bounds, which maximum pooling passes on, too.
    """
    if v.name in known:
        a = np.asarray(known[v.name], np.float64)
        return a if isinstance(v.shape[axis], int) and a.shape == (v.shape[axis],) else None
    p = v.producer
    if p is None:
        return None
    if p.op == "concat" and p.attrs["axis"] % v.rank == axis:
        parts = [at_input(x, known, axis, bound) for x in p.inputs if x is not None]
        found = [a for a in parts if a is not None]
        return np.concatenate(found) if len(found) == len(parts) else None
    if p.op == "reshape" and axis == v.rank - 1 and p.input(0).rank and p.input(0).shape[-1] == v.shape[-1]:
        return at_input(p.input(0), known, p.input(0).rank - 1, bound)
    if bound and p.op == "pool" and p.attrs["kind"] == "max":
        return at_input(p.input(0), known, axis, bound)
    return None
