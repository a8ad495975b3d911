"""Which part of a matmul region cuBLASLt does by itself: the types, layouts and epilogues that it knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from whet import abi_cublaslt as lt
from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Imm, Leaf
from whet.ir.region import Region
from whet.ir.symbolic import Dim
from whet.targets.cuda.matmul_problem import OUT, Key, Problem, Products

TYPES = {DType.F32: lt.R_32F, DType.F64: lt.R_64F, DType.F16: lt.R_16F, DType.BF16: lt.R_16BF, DType.I8: lt.R_8I,
         DType.I32: lt.R_32I, DType.F8E4M3FN: lt.R_8F_E4M3}
_NARROW = (DType.F16, DType.BF16)


@dataclass
class Linear:
    """alpha * product + beta * residual + bias, then `act` ("", relu, gelu); inputs by index.

    The library's GELU is the one by tanh, to 5e-6 (it takes the GPU's own tanh): for 16-bit results alone."""

    alpha: float = 1.0
    beta: float = 0.0
    residual: int = -1
    bias: int = -1
    act: str = ""


@dataclass
class _Sum:
    """A sum of multiples of the product and of inputs."""

    alpha: float
    leaves: list[tuple[int, float]] = field(default_factory=list)


def linear(region: Region, p: Problem) -> Linear | None:
    """The whole epilogue as cuBLASLt's, or None where it is something else."""
    if region.epilogue is None:
        return Linear()
    e, at = region.epilogue, len(region.epilogue.terms) - 1
    at = _without_casts(e, at, (region.output.dtype,))
    act, t = "", e.terms[at]
    if isinstance(t, Apply) and (t.op == "relu" or (t.op == "gelu" and dict(t.attrs).get("approximate") == "tanh"
                                                    and region.output.dtype in _NARROW)):
        act, at = t.op, _without_casts(e, t.args[0], ())
    found = _sum(e, at)
    if found is None or found.alpha == 0:
        return None
    made = Linear(alpha=found.alpha, act=act)
    for leaf, factor in found.leaves:
        steps, tensor = p.strides["e", leaf], region.inputs[leaf]
        if made.bias < 0 and factor == 1 and not any(steps[:-2]) and steps[-2] == 1:
            made.bias = leaf
        elif made.residual < 0 and _like_output(p, ("e", leaf)) and tensor.dtype is region.output.dtype:
            made.residual, made.beta = leaf, factor
        else:
            return None
    return made


def _without_casts(e: Expr, at: int, narrow: tuple[DType, ...]) -> int:
    """Below casts that only widen, or round to one of the types `narrow`."""
    t = e.terms[at]
    while isinstance(t, Apply) and t.op == "cast" and t.dtype.is_float and \
            (t.dtype in narrow or t.dtype not in _NARROW or e.terms[t.args[0]].dtype is t.dtype):
        if not e.terms[t.args[0]].dtype.is_float:
            break
        at = t.args[0]
        t = e.terms[at]
    return at


def _sum(e: Expr, at: int) -> _Sum | None:
    at = _without_casts(e, at, ())
    t = e.terms[at]
    if isinstance(t, Leaf):
        return _Sum(1.0) if t.source == ANCHOR else _Sum(0.0, [(t.source, 1.0)])
    if not isinstance(t, Apply) or len(t.args) != 2 or not t.dtype.is_float:
        return None
    a, b = t.args
    x, y = _number(e, a), _number(e, b)
    if t.op == "mul" and (x is not None or y is not None):
        inner, factor = _sum(e, b if x is not None else a), x if x is not None else y
        return None if inner is None or factor is None else _scaled(inner, factor)
    if t.op in ("add", "sub"):
        left, right = _sum(e, a), _sum(e, b)
        if left is None or right is None:
            return None
        right = _scaled(right, -1.0) if t.op == "sub" else right
        return _Sum(left.alpha + right.alpha, left.leaves + right.leaves)
    return None


def _scaled(s: _Sum, by: float) -> _Sum:
    return _Sum(s.alpha * by, [(leaf, factor * by) for leaf, factor in s.leaves])


def _number(e: Expr, at: int) -> float | None:
    t = e.terms[_without_casts(e, at, ())]
    return float(t.value) if isinstance(t, Imm) else None


def _like_output(p: Problem, key: Key) -> bool:
    """True if a tensor has an element for each of the output's, rows contiguous."""
    steps = p.strides[key]
    return all((s != 0) == (o != 0) for s, o in zip(steps[:-1], p.strides[OUT][:-1])) and steps[-2] in (0, 1)


def layout(p: Problem, key: Key, along: int) -> tuple[int, bool, int] | None:
    """(leading dimension, is the depth contiguous, stride of the batch) of operand a or b; None: no such matrix.

    along: the position of its other dimension in the strides (-3: rows of a, -2: columns of b).
    """
    steps = p.strides[key]
    across, deep = steps[along], steps[-1]
    if not all(isinstance(s, int) and s >= 0 for s in steps):
        return None
    batch = steps[0] if p.batch else 0
    across, deep, batch, extent, depth = (known(d) for d in (across, deep, batch, p.m if along == -3 else p.n, p.k))
    if (deep == 1 or depth == 1) and (across >= depth or extent == 1):
        return max(across, depth), True, batch
    if (across == 1 or extent == 1) and (deep >= extent or depth == 1):
        return max(deep, extent), False, batch
    return None


def known(d: Dim) -> int:
    """A dimension of a region without symbolic ones."""
    assert isinstance(d, int), f"{d} is symbolic"
    return d


def computes(how: Products) -> tuple[int, int]:
    """(cublasComputeType_t, cudaDataType of alpha and beta)."""
    if how.total is DType.F64:
        return lt.COMPUTE_64F, lt.R_64F
    if how.total is DType.I32:
        return lt.COMPUTE_32I, lt.R_32I
    tf32 = how.precision == "tf32" and how.operand is DType.F32
    return lt.COMPUTE_32F_FAST_TF32 if tf32 else lt.COMPUTE_32F, lt.R_32F
