"""NumPy packers for constant right-hand sides, in the orders that the micro-kernels read."""

from __future__ import annotations

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)


def to_bf16(a: np.ndarray) -> np.ndarray:
    """Rounded to nearest even."""
    return a.astype(np.float32).astype(BF16)


def _columns(b: np.ndarray, nr: int, k_multiple: int) -> np.ndarray:
    """[..., K, N] padded with zeros to multiples, as [..., ceil(N / nr), K', nr]."""
    *batch, k, n = b.shape
    kk, panels = -(-k // k_multiple) * k_multiple, -(-n // nr)
    out = np.zeros((*batch, kk, panels * nr), b.dtype)
    out[..., :k, :n] = b
    return out.reshape(*batch, kk, panels, nr).swapaxes(-2, -3)


def pack_panels(b: np.ndarray, nr: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N / nr), K, nr], zero columns at the end: for `microkernel.fma`."""
    return np.ascontiguousarray(_columns(b, nr, 1))


def pack_pairs(b: np.ndarray, nr: int) -> np.ndarray:
    """[..., K, N] -> bf16 [..., ceil(N / nr), ceil(K / 2), nr, 2]: for `microkernel.dot_bf16`."""
    p = _columns(to_bf16(b), nr, 2)
    *lead, k, n = p.shape
    return np.ascontiguousarray(p.reshape(*lead, k // 2, 2, n).swapaxes(-1, -2))


def pack_amx(b: np.ndarray) -> np.ndarray:
    """[..., K, N] -> bf16 [..., ceil(N / 16), ceil(K / 32), 16, 16, 2]: VNNI tiles for `microkernel.Amx`."""
    p = _columns(to_bf16(b), 16, 32)
    *lead, k, n = p.shape
    return np.ascontiguousarray(p.reshape(*lead, k // 32, 16, 2, n).swapaxes(-1, -2))
