"""Regions: what one tactic implements. One anchor, plus pointwise expressions before and after it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf, Term
from whet.ir.symbolic import Dim, Shape, Sym, from_json, to_json

NORMS = frozenset({"layernorm", "rmsnorm"})  # kinds whose operand 0 may be a second result


@dataclass(frozen=True)
class Tensor:
    """How a region sees one of its operands or results: logical shape and memory strides.

    `strides` are in elements, one per dimension, ints or symbolic; 0 where a dimension is broadcast.
    `const` operands are known at build time, and a tactic may pack them. `aligned`: its first element lies at a
    multiple of 16 bytes (lowering says so where the target asks; others make no difference).
    """

    dtype: DType
    shape: Shape
    strides: Shape
    const: bool = False
    aligned: bool = True

    @staticmethod
    def dense(dtype: DType, shape: Shape, const: bool = False) -> Tensor:
        """Row-major and contiguous."""
        strides: list[Dim] = []
        step: Dim = 1
        for d in reversed(shape):
            strides.append(step)
            step = step * d
        return Tensor(dtype, tuple(shape), tuple(reversed(strides)), const)

    @property
    def is_dense(self) -> bool:
        return all(d == 1 or a == b for d, a, b in
                   zip(self.shape, self.strides, Tensor.dense(self.dtype, self.shape).strides, strict=True))


@dataclass(frozen=True)
class Region:
    """A unit of code generation.

    kind:      the anchor's operator (`matmul`, `conv`, `reduce`, ...), or `pointwise`: no anchor,
               n_anchor 0, and `epilogue` (never None) is the whole expression over `inputs`.
    attrs:     the anchor's attributes, as of `ir.ops`.
    inputs:    every tensor that is read. The first `n_anchor` are the anchor's own operands, in its
               order (absent optional operands are left out; where they are not the last ones,
               attrs["absent"] has their indices); the others are read by epilogue or prologue alone.
               Their shapes are the values' own (lower rank and ones broadcast as in NumPy).
    prologue:  {anchor operand index: expression over region inputs}, for operands that are computed
               on load; the expression's leaves all have the operand's logical shape, by broadcasting.
               An operand k with a prologue is described in `inputs` by the tensor of leaf k, which
               has the operand's shape; the other leaves have indices >= n_anchor.
    epilogue:  expression over ANCHOR and inputs, which broadcast to the output's shape; None: as is.
    anchor:    dtype and shape of the anchor's own result (before the epilogue).
    output:    the tensor that is written. `extra_outputs`: further results of the anchor itself. For the kinds NORMS
               there may be one: operand 0 as its prologue gives it (the result is computed from it before it is
               rounded to the extra output's type). A `conv` with attrs["mean"] has one: the mean over each image's
               pixels of what it writes to `output` [N, spatial.., C], of shape [N, 1.., C].
    picks:     {input k: input j} for the kinds NORMS: input k is a table [V, D], of which the leaf k of operand 0's
               prologue is the rows that the integers of input j say: [.., D] for j of shape [..]. Negative ones count
               from the table's end, kernels clamp those outside. `seen(k)` is what broadcasts to the operand's shape,
               which is the anchor's.
    """

    kind: str
    attrs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    n_anchor: int
    output: Tensor
    anchor: Tensor
    epilogue: Expr | None = None
    prologue: dict[int, Expr] = field(default_factory=dict)
    extra_outputs: tuple[Tensor, ...] = ()
    dims: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # (min, opt, max) of names used
    # The precision of products: f32, tf32, bf16 or f16 (f32 sums), int8 (i32 sums: the anchor's dtype), f8 (operands
    # of F8E4M3FN, f32 sums: the anchor's dtype).
    compute: str = "f32"
    picks: dict[int, int] = field(default_factory=dict)

    def seen(self, k: int) -> Tensor:
        """Input k as a prologue sees it: of a table the rows that are picked, with stride 0 from one to the next."""
        t = self.inputs[k]
        if k not in self.picks:
            return t
        shape = self.inputs[self.picks[k]].shape
        return replace(t, shape=(*shape, *t.shape[1:]), strides=((0,) * len(shape) + t.strides[1:]))

    def signature(self) -> str:
        """32 hex digits that name this region: equal ones have equal kernels."""
        return _digest(self.describe())

    def timing_key(self) -> str:
        """32 hex digits that name this region for the timing cache: its signature without the numbers (factors,
        offsets, limits, zero points) that kernels are as fast with as with any others."""
        exprs = {k: _masked(e) for k, e in self.prologue.items()}
        attrs = {k: 0 if k == "pad_value" else 1.0 if k in _CODE_SCALES and v else v for k, v in self.attrs.items()}
        epilogue = None if self.epilogue is None else _masked(self.epilogue)
        return _digest(replace(self, attrs=attrs, epilogue=epilogue, prologue=exprs).describe())

    def describe(self) -> dict[str, Any]:
        """The region as JSON data, readable and complete."""
        def tensor(t: Tensor) -> list[Any]:
            told = [t.dtype.value, [to_json(d) for d in t.shape], [to_json(d) for d in t.strides], t.const]
            return told if t.aligned else [*told, False]

        return {
            "kind": self.kind, "attrs": {k: _plain(v) for k, v in sorted(self.attrs.items())},
            "inputs": [tensor(t) for t in self.inputs], "n_anchor": self.n_anchor,
            "output": tensor(self.output), "anchor": tensor(self.anchor),
            "extra_outputs": [tensor(t) for t in self.extra_outputs],
            "epilogue": expr_to_json(self.epilogue),
            "prologue": {str(k): expr_to_json(e) for k, e in sorted(self.prologue.items())},
            "dims": {k: list(v) for k, v in sorted(self.dims.items())}, "compute": self.compute,
            **({"picks": {str(k): j for k, j in sorted(self.picks.items())}} if self.picks else {}),
        }


_CODE_SCALES = frozenset({"q_scale", "k_scale", "v_scale"})
_LINEAR = frozenset({"add", "sub", "mul", "div", "min", "max"})


def _masked(e: Expr) -> Expr:
    """The expression with 0.5 for each real number that only scales, shifts or limits, and 0 for zero points."""
    readers: dict[int, set[str]] = {}
    for t in e.terms:
        if isinstance(t, Apply):
            for a in t.args:
                readers.setdefault(a, set()).add(t.op)

    def term(i: int, t: Term) -> Term:
        if isinstance(t, Imm) and t.dtype is DType.F32 and readers.get(i, {""}) <= _LINEAR:
            return Imm(0.5, t.dtype)
        if isinstance(t, Apply) and t.op == "saturate":
            return Apply(t.op, t.args, t.dtype, tuple((k, 0 if k == "zero" else v) for k, v in t.attrs))
        return t

    return Expr(tuple(term(i, t) for i, t in enumerate(e.terms)))


def _digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def region_from_json(j: dict[str, Any]) -> Region:
    """The inverse of `Region.describe`. ValueError or KeyError for anything malformed."""
    def tensor(t: list[Any]) -> Tensor:
        dtype, shape, strides, const, *aligned = t
        return Tensor(DType(dtype), tuple(map(from_json, shape)), tuple(map(from_json, strides)), bool(const),
                      not aligned)

    return Region(
        j["kind"], {k: _unplain(v) for k, v in j["attrs"].items()}, tuple(tensor(t) for t in j["inputs"]),
        j["n_anchor"], tensor(j["output"]), tensor(j["anchor"]), expr_from_json(j["epilogue"]),
        {int(k): e for k, v in j["prologue"].items() if (e := expr_from_json(v)) is not None},
        tuple(tensor(t) for t in j["extra_outputs"]),
        {k: (int(v[0]), int(v[1]), int(v[2])) for k, v in j["dims"].items()}, j["compute"],
        {int(k): int(i) for k, i in j.get("picks", {}).items()})


def _plain(v: Any) -> Any:
    """An attribute as JSON: types and symbolic dimensions are tagged, tuples become lists."""
    if isinstance(v, DType):
        return {"dtype": v.value}
    if isinstance(v, Sym):
        return {"dim": to_json(v)}
    if isinstance(v, (list, tuple)):
        return [_plain(x) for x in v]
    if isinstance(v, float) and not math.isfinite(v):
        return {"float": repr(v)}
    if v is None or isinstance(v, (str, int, float, bool)):
        return v
    raise TypeError(f"an attribute that cannot be written down: {v!r}")


def _unplain(v: Any) -> Any:
    if isinstance(v, list):
        return tuple(_unplain(x) for x in v)
    if isinstance(v, dict):
        (tag, x), = v.items()
        return DType(x) if tag == "dtype" else float(x) if tag == "float" else from_json(x)
    return v


def expr_to_json(e: Expr | None) -> Any:
    """An expression as JSON data: a list of terms, each a list that begins with its kind."""
    if e is None:
        return None
    out: list[Any] = []
    for t in e.terms:
        if isinstance(t, Leaf):
            out.append(["in", t.dtype.value, t.source])
        elif isinstance(t, Imm):
            out.append(["imm", t.dtype.value, t.value if isinstance(t.value, bool) else _plain(t.value)])
        else:
            out.append(["apply", t.dtype.value, t.op, list(t.args), [[k, _plain(v)] for k, v in t.attrs]])
    return out


def expr_from_json(j: Any) -> Expr | None:
    """The inverse of `expr_to_json`. ValueError for anything malformed."""
    if j is None:
        return None
    terms: list[Term] = []
    for kind, dtype, *rest in j:
        if kind == "in":
            terms.append(Leaf(int(rest[0]), DType(dtype)))
        elif kind == "imm":
            terms.append(Imm(_unplain(rest[0]), DType(dtype)))
        else:
            op, args, attrs = rest
            if any(not 0 <= a < len(terms) for a in args):
                raise ValueError("an expression's term reads a later one")
            terms.append(Apply(op, tuple(args), DType(dtype), tuple((k, _unplain(v)) for k, v in attrs)))
    return Expr(tuple(terms))
