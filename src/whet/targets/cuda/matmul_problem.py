"""A matmul region as loops, with the strides of every tensor along each; and in which types its products are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, product, upper
from whet.targets.base import Arg, In, Out, Pack, Packed
from whet.targets.cuda.gpu import Gpu
from whet.targets.cuda.shapes import is_long, ranges

# Role and index. a, b: leaves of the operands; e: leaves of the epilogue; s: sums of b's columns; o: the output.
Key = tuple[str, int]
OUT: Key = ("o", 0)
SUMS: Key = ("s", 0)
CODES = (DType.I8, DType.U8)


@dataclass(frozen=True)
class Products:
    """How products are taken. operand: the type in which they enter; total: that of the sums; precision: Triton's
    `input_precision`; dot: by `tl.dot`, else one multiply-add at a time; offset: a's u8 codes become i8 by -128,
    and 128 times the sums of b's columns are added."""

    operand: DType
    total: DType
    precision: str = "ieee"
    dot: bool = True
    offset: bool = False


@dataclass(frozen=True)
class Problem:
    """C[batch, m, n] = A[batch, m, k] @ B[batch, k, n], then the epilogue.

    Adjacent dimensions that every tensor steps through evenly are merged. `strides[key]` are in elements, along
    (*batch, m, n, k), 0 where the tensor does not change. `wide`: offsets need 64 bits.
    """

    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    tensors: Mapping[Key, Tensor]
    args: Mapping[Key, Arg]
    strides: Mapping[Key, tuple[Dim, ...]]
    ranges: Mapping[str, tuple[int, int]]
    wide: bool

    @property
    def outputs(self) -> Dim:
        """Elements of the result."""
        return product(self.batch) * self.m * self.n


def products(region: Region) -> Products:
    """The types of a region's products, by its `compute` and operands."""
    a, b = (_operand_type(region, i) for i in (0, 1))
    anchor = region.anchor.dtype
    if anchor is DType.I32 and a in CODES and b is DType.I8:
        return Products(DType.I8, DType.I32, offset=a is DType.U8)
    if anchor.is_integer:
        return Products(anchor, anchor, dot=False)
    if anchor is DType.F64:
        return Products(DType.F64, DType.F64)
    named = {"bf16": DType.BF16, "f16": DType.F16, "f8": DType.F8E4M3FN}.get(region.compute)
    if named is None and a is b and a in (DType.F16, DType.BF16):
        named = a  # their products are exact in f32
    return Products(named or DType.F32, DType.F32, "tf32" if region.compute == "tf32" else "ieee")


def _operand_type(region: Region, i: int) -> DType:
    return region.prologue[i].dtype if i in region.prologue else region.inputs[i].dtype


def reason(region: Region, machine: Gpu) -> str:
    """Why no Triton kernel takes this matmul; "" if one may."""
    if region.compute == "f8" and not machine.has_fp8:
        return f"{machine.arch} has no products of 8-bit floats"
    if region.compute == "f8" and any(_operand_type(region, i) is not DType.F8E4M3FN for i in (0, 1)):
        return "products of 8-bit floats need operands of f8e4m3fn"
    if region.output.shape != region.anchor.shape:
        return "the output has another shape than the product"
    return ""


def problem(region: Region, b: Tensor | None = None, b_arg: Arg | None = None, sums: Arg | None = None) -> Problem:
    """The loops of a matmul region. b: how the second operand lies instead (packed), at `b_arg`; sums: where the
    sums of its columns are."""
    out = region.output
    n, k = region.inputs[1].shape[-1], region.inputs[0].shape[-1]
    tensors: dict[Key, Tensor] = {OUT: out}
    args: dict[Key, Arg] = {OUT: Out(0)}
    for role, i in (("a", 0), ("b", 1)):
        for leaf in region.prologue[i].leaves if i in region.prologue else (i,):
            tensors[role, leaf], args[role, leaf] = region.inputs[leaf], In(leaf)
    for leaf in region.epilogue.leaves if region.epilogue is not None else ():
        tensors["e", leaf], args["e", leaf] = region.inputs[leaf], In(leaf)
    if b is not None and b_arg is not None:
        tensors["b", 1], args["b", 1] = b, b_arg
    if sums is not None:
        shape = region.inputs[1].shape
        tensors[SUMS], args[SUMS] = Tensor.dense(DType.I32, (*shape[:-2], 1, shape[-1]), const=True), sums

    rank = len(out.shape)
    lead = {key: _lead(key, t, rank) for key, t in tensors.items()}
    loops: list[tuple[Dim, dict[Key, Dim]]] = []
    for axis in range(rank - 1):
        extent, step = out.shape[axis], {key: v[axis] for key, v in lead.items()}
        if extent == 1:
            continue
        if loops and all(loops[-1][1][key] == step[key] * extent for key in step):
            loops[-1] = loops[-1][0] * extent, step
        else:
            loops.append((extent, step))
    if not loops or any(loops[-1][1][key] != 0 for key in tensors if key[0] in "bs"):
        loops.append((1, dict.fromkeys(tensors, 0)))
    batch, (rows, row) = loops[:-1], loops[-1]
    strides = {key: (*(s[key] for _, s in batch), row[key], _step(key, t, -1, "beso"),
                     _step(key, t, -1 if key[0] == "a" else -2, "ab")) for key, t in tensors.items()}
    limits = ranges(region)
    extents = (*(e for e, _ in batch), rows, n, k)
    wide = any(is_long(_reach(extents, s, limits)) for s in strides.values())
    return Problem(tuple(e for e, _ in batch), rows, n, k, tensors, args, strides, limits, wide)


def _lead(key: Key, t: Tensor, rank: int) -> tuple[Dim, ...]:
    """Strides along the output's dimensions but the last, 0 where the tensor is broadcast."""
    shape, strides = list(t.shape), list(t.strides)
    if key[0] == "b" and len(shape) > 1:  # its rows are the depth, not the output's rows
        shape[-2], strides[-2] = 1, 0
    missing = rank - len(shape)
    full = (0,) * missing + tuple(0 if d == 1 else s for d, s in zip(shape, strides, strict=True))
    return full[:-1]


def _step(key: Key, t: Tensor, axis: int, roles: str) -> Dim:
    """The stride along an axis counted from the end, for tensors of these roles."""
    if key[0] not in roles or len(t.shape) < -axis or t.shape[axis] == 1:
        return 0
    return t.strides[axis]


def _reach(extents: tuple[Dim, ...], strides: tuple[Dim, ...], ranges: Mapping[str, tuple[int, int]]) -> int:
    total = 0
    for e, s in zip(extents, strides, strict=True):
        total += max(0, upper(e, ranges) - 1) * max(abs(upper(s, ranges)), abs(upper(0 - s, ranges)))
    return total


@dataclass(frozen=True)
class Second:
    """The second operand as a kernel reads it: where it lies, and what is packed for that."""

    tensor: Tensor | None = None
    arg: Arg | None = None
    sums: Arg | None = None
    packs: tuple[Pack, ...] = ()


def second(region: Region, order: str) -> Second:
    """b by `order`: "" where it lies; "nk" or "kn" packed with that order of dimensions, in the type of the products.
    With a's codes offset, the sums of a constant's columns are packed too."""
    b, how = region.inputs[1], products(region)
    made = Second()
    if order:
        dtype = how.operand
        swapped = Tensor.dense(dtype, (*b.shape[:-2], b.shape[-1], b.shape[-2]), const=True)
        laid = Tensor.dense(dtype, b.shape, const=True)
        if order == "nk":
            laid = replace(laid, strides=(*swapped.strides[:-2], swapped.strides[-1], swapped.strides[-2]))
        made = Second(laid, Packed(0), None, (Pack((1,), partial(_pack, swap=order == "nk", dtype=dtype)),))
    if how.offset and b.const and 1 not in region.prologue:
        made = replace(made, sums=Packed(len(made.packs)), packs=(*made.packs, Pack((1,), _column_sums)))
    return made


def packable(region: Region) -> bool:
    """True if b is a constant that a kernel may pack."""
    b = region.inputs[1]
    return b.const and 1 not in region.prologue and all(isinstance(d, int) for d in b.shape)


def default_order(region: Region) -> str:
    """How a constant b is best packed: not at all where it lies in the right type with a contiguous dimension;
    types that tensor cores take along the depth alone lie so."""
    if not packable(region):
        return ""
    b, how = region.inputs[1], products(region)
    deep = b.shape[-2] != 1 and b.strides[-2] != 1
    if how.dot and how.operand in (DType.I8, DType.F8E4M3FN) and deep:
        return "nk"
    if how.precision == "tf32" and how.operand is DType.F32 and deep:
        return "nk"
    if how.operand is not b.dtype and how.operand in (DType.F16, DType.BF16):
        return "nk" if b.strides[-2] == 1 else "kn"
    if 1 not in b.strides[-2:] and 1 not in b.shape[-2:]:
        return "kn"
    return ""


def orders(region: Region) -> list[str]:
    """How b may lie: as is best, and where that is not packed, packed with the depth contiguous."""
    best = default_order(region)
    return [best, "nk"] if packable(region) and not best else [best]


def _pack(b: np.ndarray, swap: bool, dtype: DType) -> np.ndarray:
    return np.ascontiguousarray((np.swapaxes(b, -1, -2) if swap else b).astype(dtype.np))


def _column_sums(b: np.ndarray) -> np.ndarray:
    """The sums of b's columns in i32, [..., 1, N]."""
    return np.ascontiguousarray(b.astype(np.int32).sum(-2, keepdims=True, dtype=np.int32))
