"""NumPy packers of i8 weights, in the order that `microkernel_int8` reads."""

from __future__ import annotations

import numpy as np


def pack_groups(b: np.ndarray, nr: int, group: int, runs: int = 1) -> np.ndarray:
    """[..., K, N] -> i8 [..., ceil(N / nr), runs, ceil(K / runs / group), nr, group].

    K is `runs` runs of the same length (a convolution's taps), each filled up with zeros to whole groups.
    """
    *batch, k, n = b.shape
    length, panels = k // runs if runs else 0, -(-n // nr)
    steps = -(-length // group)
    out = np.zeros((*batch, runs, steps * group, panels * nr), np.int8)
    out[..., :length, :n] = b.reshape(*batch, runs, length, n)
    out = out.reshape(*batch, runs, steps, group, panels, nr)
    at = len(batch)
    return np.ascontiguousarray(out.transpose(*range(at), at + 3, at, at + 1, at + 4, at + 2))


def column_sums(b: np.ndarray, nr: int, factor: int) -> np.ndarray:
    """[..., K, N] -> i32 [..., ceil(N / nr), nr]: the columns' sums times `factor` (wrapping), zeros at the end."""
    *batch, _, n = b.shape
    out = np.zeros((*batch, -(-n // nr) * nr), np.int32)
    out[..., :n] = (b.sum(-2, dtype=np.int64) * factor).astype(np.int32)
    return out.reshape(*batch, -1, nr)
