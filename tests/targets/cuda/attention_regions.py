"""Attention regions as models have them, and their check against float64, for the tests of several tactics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import Expr
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, evaluate
from whet.targets.base import Implementation

F32, F16, BF16, I8 = DType.F32, DType.F16, DType.BF16, DType.I8
ROUNDED = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}
CODE_SCALES = {"q_scale": 0.03, "k_scale": 0.02, "v_scale": 0.01}
Runner = Callable[[Region, Implementation, Sequence[np.ndarray], dict[str, int] | None], list[np.ndarray]]


def strided(dtype: DType, shape: tuple[Dim, ...], room: int = 0) -> Tensor:
    """Rows with `room` more elements between them."""
    dense = Tensor.dense(dtype, (*shape[:-1], shape[-1] + room)).strides
    return Tensor(dtype, shape, dense)


def region(b: Dim, h: int, g: int, s: Dim, t: Dim, d: int, e: int, mask: Tensor | None = None, lengths: bool = False,
           dtype: DType = F32, out: DType | None = None, compute: str = "f32", dims: dict[str, Any] | None = None,
           room: int = 0, packed: bool = False, epilogue: Expr | None = None, more: tuple[Tensor, ...] = (),
           **attrs: Any) -> Region:
    """q [b, h, s, d]; k, v [b, g, t, .] in caches with `room` more places, or (`packed`, where h == g, s == t, d == e)
    all three side by side in rows; the result has heads side by side."""
    def cache(w: int) -> Tensor:
        return Tensor(dtype, (b, g, t, w), (g * (t + room) * w, (t + room) * w, w, 1))

    ins = [strided(dtype, (b, h, s, d), 8), cache(d), cache(e)]
    if packed:
        ins = [Tensor(dtype, (b, h, s, d), (s * 3 * h * d, d, 3 * h * d, 1))] * 3
    if mask is not None:
        ins.append(mask)
    if lengths:
        ins.append(Tensor.dense(DType.I64, (b,)))
        attrs["absent"] = (3,) if mask is None else ()
    if dtype is I8:
        attrs = {**CODE_SCALES, **attrs}
    anchors = len(ins)
    to = Tensor(out or (F32 if dtype is I8 else dtype), (b, h, s, e), (s * h * e, e, h * e, 1))
    anchor = Tensor.dense(DType.F64 if dtype is DType.F64 else F32, to.shape)
    return Region("attention", {"scale": 0.3, "causal": False, "masked_zero": False, "offset": 0, "window": 0,
                                "softcap": 0.0, **attrs}, (*ins, *more), anchors, to, anchor, epilogue,
                  compute=compute, dims=dims or {})


def arrays_of(r: Region, env: dict[str, int], seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    for t in r.inputs:
        x = rng.standard_normal([evaluate(d, env) for d in t.shape])
        if t.dtype is I8:
            x = np.clip(np.rint(x * 45), -128, 127)
        out.append(x > -0.8 if t.dtype is DType.BOOL else x.astype(t.dtype.np))
    return out


def exactly(r: Region, arrays: Sequence[np.ndarray], env: dict[str, int]) -> np.ndarray:
    """The result in float64, from operands as they are rounded."""
    wide = [a.astype(np.float64) if DType.of(a.dtype).is_float else a for a in arrays]
    if r.compute in ROUNDED:
        wide[:3] = [a.astype(ROUNDED[r.compute]).astype(np.float64) for a in arrays[:3]]
    codes = arrays[0].dtype == np.int8
    ideal = replace(r, compute="int8" if codes else "f32",
                    anchor=Tensor.dense(F32 if codes else DType.F64, r.anchor.shape),
                    inputs=tuple(replace(t, dtype=DType.F64) if t.dtype.is_float else t for t in r.inputs),
                    output=replace(r.output, dtype=DType.F64 if r.epilogue is None else r.output.dtype))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return region_reference(ideal, wide, env)[0].astype(np.float64)


def check(run: Runner, r: Region, made: Implementation, env: dict[str, int] | None = None,
          arrays: Sequence[np.ndarray] | None = None, lengths: Sequence[int] | None = None,
          tolerance: float | None = None) -> np.ndarray:
    """Run and compare; the result."""
    env = env or {}
    given = list(arrays) if arrays is not None else arrays_of(r, env)
    wanted = given
    if lengths is not None:
        given[-1] = np.array(lengths, np.int64)
        wanted = list(given)
        for i in (1, 2):  # what lies behind the length is never looked at
            for row, n in enumerate(lengths):
                given[i][row, :, max(n, 0):] = np.nan
            wanted[i] = np.nan_to_num(given[i])
    want = exactly(r, wanted, env)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        got = run(r, made, given, env)[0].astype(np.float64)
    if tolerance is None:
        codes = given[0].dtype == np.int8
        tolerance = max(0.02 * 127 * CODE_SCALES["v_scale"] if codes else
                        {"f32": 3e-6, "tf32": 3e-3, "bf16": 2e-2, "f16": 3e-3}[r.compute],
                        {F16: 2e-3, BF16: 2e-2}.get(r.output.dtype, 0.0))
    np.testing.assert_allclose(got, want, rtol=10 * tolerance, atol=tolerance)
    return got
