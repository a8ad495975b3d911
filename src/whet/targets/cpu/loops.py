"""Loop nests over strided tensors: which dimensions can be merged, and where each operand's elements lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, Shape, evaluate, product
from whet.targets.cpu.args import Args
from whet.targets.cpu.epilogue import compute_type
from whet.targets.cpu.llvm import Fn, IntLike, Val

OUT = -1  # the key of the output among region inputs' indices


@dataclass(frozen=True)
class Loops:
    """A nest of loops, outermost first.

    extents: how often each runs. strides[key]: the tensor's step along each, in elements (0: broadcast).
    labels:  what each loop is for (as given to `loops_over`).
    """

    extents: tuple[Dim, ...]
    strides: Mapping[int, tuple[Dim, ...]]
    labels: tuple[Any, ...]

    def pick(self, which: Sequence[int]) -> Loops:
        """The nest of these loops alone, in this order."""
        return Loops(tuple(self.extents[i] for i in which),
                     {t: tuple(s[i] for i in which) for t, s in self.strides.items()},
                     tuple(self.labels[i] for i in which))

    def where(self, label: Any) -> list[int]:
        return [i for i, l in enumerate(self.labels) if l == label]


def broadcast_strides(t: Tensor, shape: Shape) -> tuple[Dim, ...]:
    """t's strides when broadcast to `shape`."""
    missing = len(shape) - len(t.shape)
    return (0,) * missing + tuple(0 if d == 1 else s for d, s in zip(t.shape, t.strides, strict=True))


def loops_over(shape: Shape, strides: Mapping[int, Sequence[Dim]], labels: Sequence[Any] | None = None) -> Loops:
    """The fewest loops over `shape`: dimensions of one element vanish, and neighbours of the same label
    that every tensor steps through evenly become one."""
    labels = labels or [None] * len(shape)
    nest: list[tuple[Dim, dict[int, Dim], Any]] = []
    for axis, extent in enumerate(shape):
        if isinstance(extent, int) and extent == 1:
            continue
        step = {t: s[axis] for t, s in strides.items()}
        if nest and nest[-1][2] == labels[axis] and all(nest[-1][1][t] == s * extent for t, s in step.items()):
            nest[-1] = (nest[-1][0] * extent, step, labels[axis])
        else:
            nest.append((extent, step, labels[axis]))
    return Loops(tuple(e for e, _, _ in nest), {t: tuple(s[t] for _, s, _ in nest) for t in strides},
                 tuple(l for _, _, l in nest))


def unravel(k: Fn, index: IntLike, extents: Sequence[IntLike]) -> list[IntLike]:
    """The multi-index of a linear index (row-major)."""
    out: list[IntLike] = []
    for e in reversed(extents[1:]):
        out.append(index % e)
        index = index // e
    return [index, *reversed(out)] if extents else []


def advance(k: Fn, args: Args, p: Val, strides: Sequence[Dim], index: Sequence[IntLike], size: int) -> Val:
    """p moved to a multi-index; strides in elements of `size` bytes."""
    for i, s in zip(index, strides, strict=True):
        p = p + i * args.dim(s) * size
    return p


def optimum(region: Region, d: Dim) -> int:
    """d at the profile's optimum."""
    return d if isinstance(d, int) else evaluate(d, {n: r[1] for n, r in region.dims.items()})


def tile_elements(region: Region, most: int, threads: int) -> int:
    """How many elements make a tile: at most `most`, and few enough that every thread gets about four."""
    total = max(optimum(region, product(t.shape)) for t in (region.output, *region.inputs))
    return max(min(most, total // (4 * threads)), min(most, 1 << 10))


def vector_lanes(isa_width: int, dtypes: Iterable[DType], exprs: Iterable[Expr | None] = ()) -> int:
    """Lanes so that the widest type of the computation fills one vector register."""
    types = set(dtypes)
    for e in exprs:
        types |= {t.dtype for t in e.terms} if e is not None else set()
    if any(isinstance(t, Apply) and t.op == "cast" for e in exprs if e is not None for t in e.terms):
        types = {DType.I32 if t.is_storage else t for t in types}  # in which they are decoded and encoded
    return isa_width // max(_bytes(t) for t in types)


def _bytes(d: DType) -> int:
    return {"float": 4, "double": 8, "i1": 1}.get(compute_type(d), d.size)


_WEIGHT = {"exp": 14, "log": 20, "erf": 20, "tanh": 18, "sigmoid": 18, "gelu": 24, "silu": 20, "sin": 60, "cos": 60,
           "tan": 70, "pow": 120, "div": 5, "sqrt": 5, "reciprocal": 5, "mod": 100, "asin": 80, "acos": 80, "atan": 60,
           "sinh": 60, "cosh": 50, "asinh": 120, "acosh": 120, "atanh": 100}


def weight(e: Expr | None) -> int:
    """Roughly how many instructions an expression takes per vector."""
    return sum(_WEIGHT.get(t.op, 1) for t in e.terms if isinstance(t, Apply)) if e is not None else 0
