"""Matmul regions of every type, layout and epilogue that kernels are checked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import Dim, symbol

F32, F16, BF16, F64, I8, U8, I32, F8 = (DType.F32, DType.F16, DType.BF16, DType.F64, DType.I8, DType.U8, DType.I32,
                                        DType.F8E4M3FN)


def cast(args: tuple[int, ...], to: DType) -> Apply:
    return Apply("cast", args, to, (("to", to),))


def region(a: Sequence[Dim], b: Sequence[Dim], dtype: DType = F16, b_dtype: DType | None = None, compute: str = "f32",
           out: DType | None = None, anchor: DType | None = None, const: bool = False, swap: str = "",
           extra: Sequence[Tensor] = (), epilogue: Expr | None = None, prologue: dict[int, Expr] | None = None,
           dims: dict[str, tuple[int, int, int]] | None = None) -> Region:
    """A @ B of these shapes. swap: operands ("a", "b", "ab") whose last two dimensions lie transposed."""
    b_dtype = b_dtype or dtype
    anchor = anchor or (I32 if dtype in (I8, U8) and b_dtype is I8 else F32 if dtype.is_storage else dtype)
    lead = np.broadcast_shapes(a[:-2], b[:-2])  # type: ignore[arg-type]
    shape = (*lead, a[-2], b[-1])
    tensors = (_laid(dtype, a, "a" in swap), replace(_laid(b_dtype, b, "b" in swap), const=const))
    return Region("matmul", {}, (*tensors, *extra), 2, Tensor.dense(out or anchor, shape), Tensor.dense(anchor, shape),
                  epilogue, prologue or {}, (), dims or {}, compute)


def _laid(dtype: DType, shape: Sequence[Dim], swapped: bool) -> Tensor:
    if not swapped:
        return Tensor.dense(dtype, tuple(shape))
    t = Tensor.dense(dtype, (*shape[:-2], shape[-1], shape[-2]))
    return Tensor(dtype, tuple(shape), (*t.strides[:-2], t.strides[-1], t.strides[-2]))


def linear(m: Dim, k: Dim, n: Dim, act: str = "", residual: bool = False, dtype: DType = F16, compute: str = "f16",
           **more: object) -> Region:
    """act(A @ B + bias) + residual, as in networks: weights and bias constant."""
    extra = [Tensor.dense(dtype, (n,), const=True)] + ([Tensor.dense(dtype, (m, n))] if residual else [])
    terms: list[object] = [Leaf(ANCHOR, F32), Leaf(2, dtype), cast((1,), F32), Apply("add", (0, 2), F32)]
    if act:
        attrs = {"gelu_tanh": (("approximate", "tanh"),), "gelu": (("approximate", "none"),)}.get(act, ())
        terms.append(Apply("gelu" if act.startswith("gelu") else act, (len(terms) - 1,), F32, attrs))
    if residual:
        terms += [Leaf(3, dtype), cast((len(terms),), F32), Apply("add", (len(terms) - 1, len(terms) + 1), F32)]
    return region((m, k), (k, n), dtype, compute=compute, anchor=F32, out=dtype, const=True, extra=extra,
                  epilogue=Expr(tuple(terms)), **more)  # type: ignore[arg-type]


def scaled(m: int, k: int, n: int, dtype: DType, zero: int = 0) -> Region:
    """Products of codes, a factor per column, a shift, and codes again."""
    extra = [Tensor.dense(F32, (n,), const=True), Tensor.dense(F32, (n,), const=True)]
    whole = dtype is not F8
    first: list[object] = [Leaf(ANCHOR, I32), cast((0,), F32)] if whole else [Leaf(ANCHOR, F32), Leaf(ANCHOR, F32)]
    terms = [*first, Leaf(2, F32), Apply("mul", (1, 2), F32), Leaf(3, F32), Apply("add", (3, 4), F32)]
    terms.append(Apply("saturate", (5,), I8, (("zero", zero), ("to", I8))) if whole else cast((5,), F16))
    return region((m, k), (k, n), dtype, I8 if whole else F8, "int8" if whole else "f8", out=terms[-1].dtype,
                  const=True, extra=extra, epilogue=Expr(tuple(terms)))  # type: ignore[arg-type]


def random(r: Region, seed: int = 0, env: dict[str, int] | None = None) -> list[np.ndarray]:
    """Arrays for a region's inputs, of about 1."""
    rng = np.random.default_rng(seed)
    out = []
    for t in r.inputs:
        shape = [d if isinstance(d, int) else (env or {})[str(d)] for d in t.shape]
        if t.dtype.is_integer:
            info = np.iinfo(t.dtype.np)
            out.append(rng.integers(max(info.min, -1000), min(info.max, 1000), shape, endpoint=True).astype(t.dtype.np))
        elif t.dtype is DType.BOOL:
            out.append(rng.random(shape) < 0.5)
        else:
            out.append(rng.normal(size=shape).astype(t.dtype.np))
    return out


def expected(r: Region, arrays: Sequence[np.ndarray], env: dict[str, int] | None = None) -> np.ndarray:
    """The reference, sums in float64 where the product is of floats."""
    return region_reference(r, arrays, env)[0]


def batch(name: str = "batch") -> Dim:
    return symbol(name)


def relu_of(source: int, dtype: DType) -> Expr:
    return Expr((Leaf(source, dtype), Apply("relu", (0,), dtype)))


def times(leaf: int, dtype: DType, factor: float) -> Expr:
    return Expr((Leaf(leaf, dtype), cast((0,), F32), Imm(factor, F32), Apply("mul", (1, 2), F32)))


def plain(r: Region) -> Region:
    """The product alone, in the type of its sums."""
    total = F32 if r.anchor.dtype in (F16, BF16) else r.anchor.dtype
    whole = Tensor.dense(total, r.anchor.shape)
    return replace(r, epilogue=None, output=whole, anchor=whole, inputs=r.inputs[:2])


def gelu(dtype: DType, approximate: str) -> Expr:
    return Expr((Leaf(ANCHOR, dtype), Apply("gelu", (0,), dtype, (("approximate", approximate),))))
