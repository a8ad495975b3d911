"""Pointwise expressions: what a region computes before and after its anchor, element by element.

An `Expr` is a list of terms in evaluation order; the last is the result. A leaf stands for a region
input (`source >= 0`) or for the anchor's own result (`source == ANCHOR`). Expressions are data: they
hash, print, serialize, evaluate on NumPy arrays, and targets emit them into kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from whet.ir.dtypes import DType

ANCHOR = -1
T = TypeVar("T")


@dataclass(frozen=True)
class Leaf:
    """A region input (by index), or the anchor's result (ANCHOR)."""

    source: int
    dtype: DType


@dataclass(frozen=True)
class Imm:
    """A scalar constant."""

    value: float | int | bool
    dtype: DType


@dataclass(frozen=True)
class Apply:
    """A pointwise operator of `ir.ops.POINTWISE` applied to earlier terms."""

    op: str
    args: tuple[int, ...]
    dtype: DType
    attrs: tuple[tuple[str, Any], ...] = ()


Term = Leaf | Imm | Apply


@dataclass(frozen=True)
class Expr:
    """A pointwise expression; `terms[-1]` is its result."""

    terms: tuple[Term, ...]

    @property
    def dtype(self) -> DType:
        return self.terms[-1].dtype

    @property
    def leaves(self) -> tuple[int, ...]:
        """The region inputs that are read, each once, in order of first appearance (no ANCHOR)."""
        return tuple(dict.fromkeys(t.source for t in self.terms if isinstance(t, Leaf) and t.source != ANCHOR))

    @property
    def is_identity(self) -> bool:
        return len(self.terms) == 1 and isinstance(self.terms[0], Leaf)

    def fold(self, leaf: Callable[[Leaf], T], imm: Callable[[Imm], T],
             apply: Callable[[Apply, list[T]], T]) -> T:
        """Evaluate in any domain: NumPy arrays, LLVM values, text."""
        vals: list[T] = []
        for t in self.terms:
            if isinstance(t, Leaf):
                vals.append(leaf(t))
            elif isinstance(t, Imm):
                vals.append(imm(t))
            else:
                vals.append(apply(t, [vals[i] for i in t.args]))
        return vals[-1]

    def evaluate(self, arrays: Mapping[int, np.ndarray]) -> np.ndarray:
        """The value on NumPy arrays by leaf source, with NumPy broadcasting."""
        from whet.ir.ops import POINTWISE

        def apply(t: Apply, args: list[np.ndarray]) -> np.ndarray:
            return np.asarray(POINTWISE[t.op].reference(*args, **dict(t.attrs))).astype(t.dtype.np, copy=False)

        return self.fold(lambda t: np.asarray(arrays[t.source]).astype(t.dtype.np, copy=False),
                         lambda t: np.asarray(t.value, t.dtype.np), apply)

    def remap(self, sources: Mapping[int, int]) -> Expr:
        """The same expression with leaf sources renamed."""
        return Expr(tuple(Leaf(sources.get(t.source, t.source), t.dtype) if isinstance(t, Leaf) else t
                          for t in self.terms))

    def inline(self, source: int, other: Expr) -> Expr:
        """This expression with the leaf `source` replaced by `other`."""
        terms: list[Term] = []
        at: dict[Term, int] = {}

        def put(t: Term) -> int:
            if t not in at:
                at[t] = len(terms)
                terms.append(t)
            return at[t]

        def copy(e: Expr, where: dict[int, int]) -> None:
            for i, t in enumerate(e.terms):
                if isinstance(t, Apply):
                    where[i] = put(Apply(t.op, tuple(where[a] for a in t.args), t.dtype, t.attrs))
                elif isinstance(t, Leaf) and e is self and t.source == source:
                    where[i] = result
                else:
                    where[i] = put(t)

        inner: dict[int, int] = {}
        result = -1
        copy(other, inner)
        result = inner[len(other.terms) - 1]
        outer: dict[int, int] = {}
        copy(self, outer)
        last = outer[len(self.terms) - 1]
        if last != len(terms) - 1:  # the result was shared: order it last
            terms.append(terms[last])
        return Expr(tuple(terms))

    def __str__(self) -> str:
        def call(t: Apply, a: list[str]) -> str:
            extra = [f"{k}={v}" for k, v in t.attrs] + ([t.dtype.value] if t.op == "cast" else [])
            return f"{t.op}({', '.join(a + extra)})"

        return self.fold(lambda t: "acc" if t.source == ANCHOR else f"in{t.source}",
                         lambda t: f"{t.value:g}" if not isinstance(t.value, bool) else str(t.value), call)


def identity(source: int, dtype: DType) -> Expr:
    """The expression that is just this leaf."""
    return Expr((Leaf(source, dtype),))
