"""Candidates that compute something else than the others are wrong, however fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region

Sample = Sequence[np.ndarray]  # pieces of each result

# How far results may be apart, of the largest value in the piece: by the least precise type on the way.
_TYPES = {DType.F64: 1e-9, DType.F32: 2e-3, DType.F16: 2e-2, DType.BF16: 6e-2}
_STORED = 0.3  # 8-bit floats and what is narrower
_COMPUTED = {"f32": 0.0, "tf32": 1e-2, "bf16": 6e-2, "f16": 2e-2, "f8": 2e-2}


def dissenters(region: Region, samples: Sequence[Sample | None]) -> dict[int, str]:
    """Those of the candidates (None: it has no result) whose results differ from those that most of them have, each
    with how far. Where two groups are equally large, the one of the earlier candidate is right."""
    groups: list[list[int]] = []
    for i, sample in enumerate(samples):
        if sample is None:
            continue
        for g in groups:
            if not difference(region, samples[g[0]] or (), sample):
                g.append(i)
                break
        else:
            groups.append([i])
    if len(groups) < 2:
        return {}
    right = max(groups, key=len)
    out = {}
    for i in (i for g in groups if g is not right for i in g):
        why = difference(region, samples[right[0]] or (), samples[i] or ())
        out[i] = f"wrong: it differs from {len(right)} others ({why})"
    return out


def difference(region: Region, a: Sample, b: Sample) -> str:
    """"" if two candidates' results are the same but for rounding, else how they differ."""
    types = [t.dtype for t in (region.output, *region.extra_outputs)]
    narrow = [t.dtype for t in region.inputs if t.dtype.is_float] if region.prologue or region.epilogue else []
    for x, y in zip(a, b, strict=True):
        kind = DType.of(x.dtype)
        if x.dtype.kind not in "biu":
            limit = max([_TYPES.get(kind, _STORED), _COMPUTED.get(region.compute, 2e-2),
                         *(min(_TYPES.get(t, 0.0), 2e-2) for t in (*types, *narrow))])
            if why := _apart(x.astype(np.float64), y.astype(np.float64), limit):
                return why
            continue
        apart = np.abs(x.astype(np.int64) - y.astype(np.int64))
        steps = 1 if x.dtype.itemsize == 1 and x.dtype.kind != "b" else 0  # a code may round either way
        if wrong := np.count_nonzero(apart > steps):
            return f"{wrong} of {x.size} values"
    return ""


def _apart(x: np.ndarray, y: np.ndarray, limit: float) -> str:
    finite = np.isfinite(x)
    if np.count_nonzero(finite != np.isfinite(y)) > x.size * 1e-3:
        return "values that are not finite"
    both = finite & np.isfinite(y)
    if not both.any():
        return ""
    most = float(np.abs(x[both]).max())
    far = float(np.abs(x[both] - y[both]).max())
    return "" if far <= limit * max(most, 1e-6) else f"by {far:.3g} where the largest value is {most:.3g}"
