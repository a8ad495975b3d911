"""Convolution regions for tests: built from sizes, run by a tactic, compared with NumPy in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from harness import run_region, strided

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim
from whet.targets.cpu.isa import Isa, named


def spatial_out(size: Dim, k: int, s: int, d: int, before: int, after: int) -> Dim:
    return (size + before + after - (k - 1) * d - 1) // s + 1


def conv_region(x: Sequence[Dim], o: int, kernel: Sequence[int], *, strides: Sequence[int] = (),
                pads: Sequence[int] = (), dilations: Sequence[int] = (), group: int = 1, bias: bool = False,
                epilogue: Expr | None = None,
                extra: Sequence[Tensor] = (), dtype: DType = DType.F32, out_dtype: DType | None = None,
                compute: str = "f32", gap: int = 0, x_gap: int = 0, dims: dict[str, tuple[int, int, int]] | None = None,
                const: bool = True) -> Region:
    """A `conv` region over x [n, spatial.., c]; `gap` elements lie between the output's pixels."""
    r = len(kernel)
    strides, dilations = tuple(strides) or (1,) * r, tuple(dilations) or (1,) * r
    pads = tuple(pads) or (0,) * 2 * r
    sizes = (spatial_out(x[1 + i], kernel[i], strides[i], dilations[i], pads[i], pads[r + i]) for i in range(r))
    out = (x[0], *sizes, o)
    c = x[-1]
    assert isinstance(c, int)
    inputs = [strided(dtype, x, x_gap), Tensor.dense(dtype, (o, c // group, *kernel), const=const)]
    if bias:
        inputs.append(Tensor.dense(dtype, (o,), const=True))
    at = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "channels_last": True}
    return Region("conv", at, (*inputs, *extra), len(inputs), strided(out_dtype or dtype, out, gap),
                  Tensor.dense(dtype, out), epilogue, dims=dims or {}, compute=compute)


def transpose_region(x: Sequence[int], o: int, kernel: Sequence[int], *, strides: Sequence[int] = (),
                     pads: Sequence[int] = (), dilations: Sequence[int] = (), output_padding: Sequence[int] = (),
                     group: int = 1, bias: bool = False, dtype: DType = DType.F32, const: bool = True,
                     compute: str = "f32") -> Region:
    """A `conv_transpose` region over x [n, spatial.., c]."""
    r = len(kernel)
    strides, dilations = tuple(strides) or (1,) * r, tuple(dilations) or (1,) * r
    pads, extra = tuple(pads) or (0,) * 2 * r, tuple(output_padding) or (0,) * r
    sizes = ((x[1 + i] - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[r + i]
             for i in range(r))
    out = (x[0], *sizes, o)
    inputs = [Tensor.dense(dtype, tuple(x)), Tensor.dense(dtype, (x[-1], o // group, *kernel), const=const)]
    if bias:
        inputs.append(Tensor.dense(dtype, (o,), const=True))
    at = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "output_padding": extra,
          "channels_last": True}
    result = Tensor.dense(dtype, out)
    return Region("conv_transpose", at, tuple(inputs), len(inputs), result, result, compute=compute)


def pool_region(x: Sequence[Dim], kind: str, kernel: Sequence[int], *, strides: Sequence[int] = (),
                pads: Sequence[int] = (), dilations: Sequence[int] = (), include_pad: bool = False, p: int = 2,
                epilogue: Expr | None = None, extra: Sequence[Tensor] = (), dtype: DType = DType.F32,
                gap: int = 0, x_gap: int = 0, dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    """A `pool` region over x [n, spatial.., c]."""
    r = len(kernel)
    strides, dilations = tuple(strides) or (1,) * r, tuple(dilations) or (1,) * r
    pads = tuple(pads) or (0,) * 2 * r
    sizes = (spatial_out(x[1 + i], kernel[i], strides[i], dilations[i], pads[i], pads[r + i]) for i in range(r))
    out = (x[0], *sizes, x[-1])
    at = {"kind": kind, "kernel": tuple(kernel), "strides": strides, "dilations": dilations, "pads": pads, "p": p,
          "count_include_pad": include_pad, "ceil_mode": False, "channels_last": True}
    return Region("pool", at, (strided(dtype, x, x_gap), *extra), 1, strided(dtype, out, gap), Tensor.dense(dtype, out),
                  epilogue, dims=dims or {})


def data(region: Region, env: dict[str, int] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Random inputs of unit order."""
    from whet.ir.symbolic import evaluate

    rng = np.random.default_rng(seed)
    shapes = [[evaluate(d, env or {}) for d in t.shape] for t in region.inputs]
    return [rng.standard_normal(s).astype(t.dtype.np) if t.dtype.is_float else
            rng.integers(np.iinfo(t.dtype.np).min, np.iinfo(t.dtype.np).max, s, t.dtype.np, endpoint=True)
            for s, t in zip(shapes, region.inputs, strict=True)]


def check(region: Region, tactic: Any, params: Any = None, isa: Isa | None = None, env: dict[str, int] | None = None,
          tolerance: float = 2e-6, threads: int = 2, seed: int = 0) -> float:
    """Relative L2 error of a tactic against NumPy in float64; AssertionError above the tolerance."""
    isa = isa or named("host")
    reason = tactic.applies(region, isa)
    assert not reason, reason
    if params is None:
        params = next(iter(tactic.space(region, isa, threads)))
    arrays = data(region, env, seed)
    got = run_region(region, tactic, params, isa, arrays, env, threads=threads)[0]
    want = reference(region, arrays, env)
    assert got.shape == want.shape
    err = np.linalg.norm(got.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-30) if want.size else 0.0
    assert err < tolerance, f"{tactic.name} {params}: relative L2 error {err:.2g}"
    return float(err)


def reference(region: Region, arrays: list[np.ndarray], env: dict[str, int] | None = None) -> np.ndarray:
    """What the region computes, by the IR's own meaning."""
    return region_reference(region, arrays, env)[0].astype(np.float64)


def relu(region: Region) -> Region:
    """The region with a ReLU behind."""
    f = region.anchor.dtype
    return replace(region, epilogue=Expr((Leaf(ANCHOR, f), Apply("relu", (0,), f))))


def residual(region: Region, gap: int = 2) -> Region:
    """The region with a residual input added, then a ReLU."""
    f, i = region.anchor.dtype, len(region.inputs)
    expr = Expr((Leaf(ANCHOR, f), Leaf(i, f), Apply("add", (0, 1), f), Apply("relu", (2,), f)))
    return replace(region, inputs=(*region.inputs, strided(f, region.output.shape, gap)), epilogue=expr)
