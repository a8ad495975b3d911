"""The NumPy meaning of a region: prologue, anchor, epilogue. What every kernel is checked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from whet.errors import InternalError
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR
from whet.ir.graph import Node, Value
from whet.ir.region import NORMS, Region
from whet.ir.symbolic import Dim, Sym, names, substitute, symbol

BYTES_AS_REAL = frozenset({"pool", "reduce", "softmax", "layernorm", "rmsnorm", "groupnorm", "attention"})
PRODUCTS = {"matmul": 2, "matmul_grouped": 1, "conv": 2, "conv_transpose": 2,
            "attention": 3}  # kind -> operands that `compute` speaks of


def region_reference(region: Region, arrays: Sequence[np.ndarray],
                     dims: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """What a region computes, as [output, *extra_outputs].

    arrays: one for each of `region.inputs`, of its logical shape (strides do not matter here) and dtype.
    dims:   values of symbolic dimensions; those that stand alone in an input's shape are found by themselves.

    Reduced-precision operands of a float anchor (for the kinds BYTES_AS_REAL also 8-bit integers) are widened to the
    anchor's dtype first, as kernels do; with `compute` bf16, f16 or tf32 the operands of products are rounded to that
    (nearest even; kernels may round halves of tf32 otherwise, or cut it off) before. InternalError when arrays do not
    fit the region.
    """
    env = bind_dims(region, arrays, dims)
    if region.kind == "pointwise":
        if region.epilogue is None:
            raise InternalError("a pointwise region without an expression")
        result = region.epilogue.evaluate(dict(enumerate(arrays)))
        return [_fit(result, region.output.dtype, _concrete(region.output.shape, env))]

    mean = region.kind == "conv" and bool(region.attrs.get("mean"))
    if mean:
        plain = {k: v for k, v in region.attrs.items() if k != "mean"}
        results = _anchor(replace(region, attrs=plain, extra_outputs=()), arrays, env)
    else:
        results = _anchor(region, arrays, env)
    out = results[0]
    if region.epilogue is not None:
        out = region.epilogue.evaluate({ANCHOR: out, **dict(enumerate(arrays))})
    out = _fit(out, region.output.dtype, _concrete(region.output.shape, env))
    if mean:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            results.append(_mean_of_pixels(out))
    extra = [r.astype(t.dtype.np, copy=False) for r, t in zip(results[1:], region.extra_outputs, strict=True)]
    return [out, *extra]


def _mean_of_pixels(x: np.ndarray) -> np.ndarray:
    """Of [N, spatial.., C], the mean over the pixels in f64: [N, 1.., C]."""
    axes = tuple(range(1, x.ndim - 1))
    return np.asarray(x.astype(np.float64).sum(axes, keepdims=True) / np.prod([x.shape[a] for a in axes]))


def anchor_operands(region: Region, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The anchor's operands after their prologues, widened and rounded as the region's precision says."""
    operands: list[np.ndarray] = []
    for i in range(region.n_anchor):
        x = np.asarray(arrays[i])
        if i in region.prologue:
            x = region.prologue[i].evaluate(_leaves(region, arrays))
            x = x if region.picks else np.broadcast_to(x, np.shape(arrays[i]))
        dtype = DType.of(x.dtype)
        if i < PRODUCTS.get(region.kind, 0) and dtype.is_float:
            x = rounded(x, region.compute)
        narrow = (dtype.is_float or dtype is DType.F8E4M3FN
                  or (x.dtype.itemsize == 1 and region.kind in BYTES_AS_REAL and region.compute != "int8"
                      and x.dtype.kind in "iu"))
        if narrow and region.anchor.dtype.is_float and region.kind != "bitcast":
            x = x.astype(region.anchor.dtype.np, copy=False)
        operands.append(x)
    return operands


def _leaves(region: Region, arrays: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """What a prologue's leaves stand for: the arrays, of tables the rows that are picked."""
    found = dict(enumerate(arrays))
    for k, j in region.picks.items():
        i, size = np.asarray(arrays[j], np.int64), arrays[k].shape[0]
        found[k] = arrays[k][np.clip(np.where(i < 0, i + size, i), 0, size - 1)]
    return found


def rounded(x: np.ndarray, compute: str) -> np.ndarray:
    """Floats as the operands of products in `compute`: in bf16 or f16; in f32 of 10 bits of fraction for tf32 (nearest
    even; NaN and infinity stay); as they are for others."""
    if compute == "bf16":
        return x.astype(ml_dtypes.bfloat16)
    if compute == "f16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16)
    if compute != "tf32":
        return x
    f = np.ascontiguousarray(x, np.float32)
    bits = f.view(np.uint32)
    cut = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(f), cut.view(np.float32), f)


def bind_dims(region: Region, arrays: Sequence[np.ndarray], dims: Mapping[str, int] | None = None) -> dict[str, int]:
    """The symbolic dimensions' values that the arrays' shapes imply, together with `dims`."""
    if len(arrays) != len(region.inputs):
        raise InternalError(f"{len(arrays)} arrays for a region of {len(region.inputs)} inputs")
    env = dict(dims or {})
    for i, (t, a) in enumerate(zip(region.inputs, arrays)):
        if len(t.shape) != np.ndim(a):
            raise InternalError(f"region input {i} has rank {len(t.shape)}, the array {np.ndim(a)}")
        for d, n in zip(t.shape, np.shape(a)):
            for name in names(d):
                if d == symbol(name):
                    env.setdefault(name, n)
    for i, (t, a) in enumerate(zip(region.inputs, arrays)):
        want = _concrete(t.shape, env)
        if want != np.shape(a):
            raise InternalError(f"region input {i} should have shape {want}, the array has {np.shape(a)}")
    return env


def _anchor(region: Region, arrays: Sequence[np.ndarray], env: Mapping[str, int]) -> list[np.ndarray]:
    """The anchor's own results by the table of operators."""
    from whet.ir.ops import evaluate

    operands: list[np.ndarray | None] = list(anchor_operands(region, arrays))
    attrs = {k: _bind(v, env) for k, v in region.attrs.items() if k != "absent"}
    for i in region.attrs.get("absent", ()):  # optional operands that are not there, in ascending order
        operands.insert(i, None)
    values = [None if a is None else Value(f"in{i}", DType.of(a.dtype), a.shape) for i, a in enumerate(operands)]
    outs = [Value(f"out{i}", t.dtype, _concrete(t.shape, env))
            for i, t in enumerate((region.anchor, *region.extra_outputs))]
    results = evaluate(Node(region.kind, list(values), outs, attrs), operands)
    if region.kind in NORMS and region.extra_outputs:
        results.append(np.asarray(operands[0]))
    with np.errstate(over="ignore", invalid="ignore"):
        return [np.asarray(r).astype(v.dtype.np, copy=False) for r, v in zip(results, outs, strict=True)]


def _fit(x: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(np.broadcast_to(x, shape), dtype.np, order="C")


def _concrete(shape: Sequence[Dim], env: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(int(_bind(d, env)) for d in shape)


def _bind(v: Any, env: Mapping[str, int]) -> Any:
    """An attribute's value with the symbolic dimensions in it replaced by integers."""
    if isinstance(v, Sym):
        return substitute(v, env)
    if isinstance(v, (tuple, list)):
        return type(v)(_bind(x, env) for x in v)
    return v
