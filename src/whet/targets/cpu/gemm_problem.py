"""A matmul region as loops: batch dimensions, rows, columns and depth, with strides for every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whet.ir.dtypes import DType
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, evaluate

A, B, OUT = "a", "b", "out"
Key = str | int  # A, B, OUT, or the index of an epilogue input


@dataclass(frozen=True)
class Problem:
    """C[batch, m, n] = A[batch, m, k] @ B[batch, k, n], then the epilogue.

    `row[t]` and `batch_strides[i][t]` are strides in elements of tensor t along rows and along batch
    dimension i (0: broadcast). Adjacent dimensions that every tensor steps through evenly are merged,
    so `batch` is () for a matmul by a plain weight matrix, whatever the rank of A.
    """

    batch: tuple[Dim, ...]
    batch_strides: tuple[Mapping[Key, Dim], ...]
    m: Dim
    n: Dim
    k: Dim
    row: Mapping[Key, Dim]
    b_row: Dim  # strides of B along k and n
    b_col: Dim
    col: Mapping[Key, Dim]  # strides along n of OUT and of the epilogue's inputs

    @property
    def tensors(self) -> list[Key]:
        return list(self.row)


def matmul_problem(region: Region, packed: bool = True) -> Problem:
    """The loops of a matmul region (any ranks >= 2, any broadcasting).

    packed: a constant b will be packed from its logical array, so its strides are taken as dense.
    """
    a, b, out = region.inputs[0], region.inputs[1], region.output
    if b.const and packed:
        b = Tensor.dense(b.dtype, b.shape, const=True)
    rank = len(out.shape)
    m, n, k = a.shape[-2], b.shape[-1], a.shape[-1]
    views: dict[Key, tuple[Dim, ...]] = {OUT: _strides(out, out.shape)}
    lead = (*out.shape[:-2], m)
    views[A] = _strides(Tensor(a.dtype, a.shape[:-1], a.strides[:-1]), lead)
    views[B] = (*_strides(Tensor(b.dtype, b.shape[:-2], b.strides[:-2]), out.shape[:-2]), 0)
    for i in epilogue_inputs(region):
        views[i] = _strides(region.inputs[i], out.shape)
    loops: list[tuple[Dim, dict[Key, Dim]]] = []
    for axis in range(rank - 1):
        extent = out.shape[axis]
        if extent == 1:
            continue
        step = {t: v[axis] for t, v in views.items()}
        if loops and all(loops[-1][1][t] == step[t] * extent for t in step):
            loops[-1] = (loops[-1][0] * extent, step)
        else:
            loops.append((extent, step))
    if not loops or loops[-1][1][B] != 0:
        loops.append((1, dict.fromkeys(views, 0)))
    (rows, row), batch = loops[-1], loops[:-1]
    col = {t: v[-1] for t, v in views.items() if t not in (A, B)}
    b_row, b_col = b.strides[-2:]
    if n == 1:
        b_col = 0 if b_row == 1 else 1
    elif k == 1:
        b_row = n if b_col == 1 else 1
    return Problem(tuple(e for e, _ in batch), tuple(s for _, s in batch), rows, n, k, row,
                   b_row, b_col, col)


def epilogue_inputs(region: Region) -> tuple[int, ...]:
    """The region inputs that the epilogue reads."""
    return region.epilogue.leaves if region.epilogue is not None else ()


def _strides(t: Tensor, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """t's strides when broadcast to `shape`."""
    missing = len(shape) - len(t.shape)
    return (0,) * missing + tuple(0 if d == 1 else s for d, s in zip(t.shape, t.strides, strict=True))


def matmul_reason(region: Region) -> str:
    """Why no tactic in fp32 or bf16 arithmetic takes this region; "" if one may."""
    a, b = region.inputs[0], region.inputs[1]
    floats = (DType.F32, DType.BF16, DType.F16)
    for name, t in (("a", a), ("b", b)):
        if t.dtype not in floats:
            return f"{name} is {t.dtype.value}, not f32, bf16 or f16"
    if region.anchor.dtype not in floats:
        return f"the product is {region.anchor.dtype.value}, not f32, bf16 or f16"
    return matmul_layout_reason(region)


def matmul_layout_reason(region: Region) -> str:
    """What is wrong with the tensors' layout for any matmul tactic."""
    a, b, out = region.inputs[0], region.inputs[1], region.output
    if region.prologue:
        return "operands computed on load are not supported"
    if not _unit(a, -1):
        return "a's last dimension is not contiguous"
    if not _unit(b, -1) and not _unit(b, -2) and not b.const:
        return "neither of b's last two dimensions is contiguous"
    if not _unit(out, -1):
        return "the output's last dimension is not contiguous"
    for i in epilogue_inputs(region):
        t = region.inputs[i]
        if t.shape and not _unit(t, -1) and t.strides[-1] != 0:
            return f"epilogue input {i} is not contiguous in its last dimension"
    return ""


def _unit(t: Tensor, axis: int) -> bool:
    return t.shape[axis] == 1 or t.strides[axis] == 1


def opt(region: Region, d: Dim) -> int:
    """A dimension at the profile's optimum."""
    return evaluate(d, {name: r[1] for name, r in region.dims.items()})
