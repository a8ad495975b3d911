"""Random regions of every kind: types, strides, symbolic sizes, attributes, and expressions before and behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import attention_regions
import conv_regions
import linear_attention_regions
import matmul_cases
import numpy as np
import recurrent_regions
from movement_regions import movement

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import Dim, symbol

N = symbol("n")
DIMS = {"n": (0, 8, 64)}
FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
INTEGERS = (DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64)
ANY = (*FLOATS, *INTEGERS, DType.BOOL, DType.F8E4M3FN, DType.F8E5M2)


class Random:
    """Regions from a seed; `extents`: what most dimensions are chosen from."""

    def __init__(self, seed: int, extents: Sequence[Dim] = (1, 2, 5, 7, 16, 33, N)) -> None:
        self.rng, self.extents = np.random.default_rng(seed), extents

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def often(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def tensor(self, dtype: DType, shape: Sequence[Dim], const: bool = False) -> Tensor:
        """Dense, a part of something larger, in another order, backwards, or one that does not change along an axis."""
        shape, how = tuple(shape), self.one(("dense", "part", "order", "backwards", "same"))
        t = Tensor.dense(dtype, shape, const)
        if how == "part" and shape:
            t = replace(t, strides=Tensor.dense(dtype, (*shape[:-1], shape[-1] + 3)).strides)
        elif how == "order":
            axes = [int(a) for a in self.rng.permutation(len(shape))]
            strides = Tensor.dense(dtype, tuple(shape[a] for a in axes)).strides
            t = replace(t, strides=tuple(strides[axes.index(a)] for a in range(len(shape))))
        elif how in ("backwards", "same") and shape and not const:
            axis = int(self.rng.integers(len(shape)))
            t = replace(t, strides=tuple((-s if how == "backwards" else 0) if a == axis else s
                                         for a, s in enumerate(t.strides)))
        return replace(t, aligned=const or self.often())

    def shape(self, rank: int) -> tuple[Dim, ...]:
        return tuple(self.one(self.extents) for _ in range(rank))

    def expressed(self, r: Region, before: bool = True) -> Region:
        """With a residual addition before the first operand, and behind the anchor a factor, relu and a cast."""
        f = r.anchor.dtype
        if not f.is_float or r.extra_outputs:
            return r
        x = r.inputs[0]
        if before and x.dtype.is_float and not x.dtype.is_storage and self.often(0.3):
            e = Expr((Leaf(0, x.dtype), Leaf(len(r.inputs), x.dtype), Apply("add", (0, 1), x.dtype)))
            r = replace(r, inputs=(*r.inputs, self.tensor(x.dtype, x.shape)), prologue={0: e})
        if self.often():
            own = r.epilogue or Expr((Leaf(ANCHOR, f),))
            d = own.dtype
            if d.is_float and not d.is_storage:
                last = len(own.terms) - 1
                terms = [*own.terms, Leaf(len(r.inputs), d), Apply("mul", (last, last + 1), d),
                         Apply("relu", (last + 2,), d)]
                to = self.one((*FLOATS, DType.I8, DType.BOOL, DType.F8E4M3FN))
                if to is not d:
                    terms.append(Apply("cast", (last + 3,), to, (("to", to),)))
                factor = self.tensor(d, r.output.shape[-1:])
                out = Tensor(to, r.output.shape, r.output.strides, aligned=r.output.aligned)
                r = replace(r, inputs=(*r.inputs, factor), epilogue=Expr(tuple(terms)), output=out)
        return r

    # -- kinds -------------------------------------------------------------------------------------------------

    def moved(self, kind: str, inputs: Sequence[Tensor], /, **attrs: Any) -> Region:
        return movement(kind, inputs, attrs, dims=DIMS)

    def pointwise(self) -> Region:
        d, shape = self.one(ANY), self.shape(3)
        x = self.tensor(d, shape)
        terms: list[Any] = [Leaf(0, d)]
        inputs = [x]
        if not d.is_storage and d is not DType.BOOL and self.often():
            terms += [Leaf(1, d), Apply(self.one(("add", "max", "mul", "div")), (0, 1), d)]
            inputs.append(self.tensor(d, shape[-1:]))
        to = self.one(ANY)
        if to is not d:
            terms.append(Apply("cast", (len(terms) - 1,), to, (("to", to),)))
        out = Tensor.dense(to, shape)
        return Region("pointwise", {}, tuple(inputs), 0, out, out, Expr(tuple(terms)), dims=DIMS)

    def reduce(self) -> Region:
        kind = self.one(("sum", "mean", "max", "min", "prod"))
        x = self.tensor(self.one((*FLOATS, *INTEGERS)), self.shape(3))
        axes = self.one(((0,), (1,), (2,), (0, 2), (0, 1, 2)))
        return self.expressed(self.moved("reduce", [x], kind=kind, axes=axes, keepdims=self.often()))

    def arg(self) -> Region:
        x = self.tensor(self.one((*FLOATS, *INTEGERS)), (5, *self.shape(2)))
        return self.moved("arg", [x], kind=self.one(("max", "min")), axis=0, keepdims=self.often(),
                          select_last=self.often())

    def softmax(self) -> Region:
        x = self.tensor(self.one(FLOATS), self.shape(3))
        return self.expressed(self.moved("softmax", [x], axis=self.one((0, 1, 2)), log=self.often()))

    def norm(self, kind: str) -> Region:
        d, shape = self.one(FLOATS), (*self.shape(2), self.one((1, 24, 33)))
        w = [self.tensor(d, shape[-1:], True) for _ in range(1 if kind == "rmsnorm" else 2)]
        return self.expressed(self.moved(kind, [self.tensor(d, shape), *w], axis=-1))

    def groupnorm(self) -> Region:
        d = self.one(FLOATS)
        w = [Tensor.dense(d, (12,), True)] * 2
        return self.expressed(self.moved("groupnorm", [self.tensor(d, (*self.shape(3), 12)), *w],
                                         groups=self.one((1, 3, 12)), channels_last=True))

    def lrn(self) -> Region:
        return self.expressed(self.moved("lrn", [self.tensor(self.one(FLOATS), (*self.shape(3), 6))], size=3,
                                         channels_last=True))

    def pool(self) -> Region:
        x = self.tensor(self.one((DType.F32, DType.F16, DType.F64, DType.U8)), (N, 9, 11, 6))
        kind = "max" if x.dtype is DType.U8 else self.one(("max", "average", "lp"))
        return self.expressed(self.moved("pool", [x], kind=kind, kernel=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1),
                                         channels_last=True, count_include_pad=self.often()), False)

    def matmul(self) -> Region:
        d, m, k, n = self.one((*FLOATS, DType.I32, DType.I64, DType.I8)), *self.shape(2), self.one((1, 8, 33))
        k = 24 if k == N else k
        lead = self.one(((), (3,), (2, 3)))
        compute = self.one(("f32", "f16", "bf16", "tf32")) if d in FLOATS[:3] else "f32"
        r = matmul_cases.region((*lead, m, k), (k, n) if self.often() else (*lead, k, n), d, compute=compute,
                                swap=self.one(("", "a", "b", "ab")), const=self.often(), dims=DIMS)
        return self.expressed(r)

    def conv(self, kind: str = "conv") -> Region:
        d = self.one((*FLOATS, *((DType.I8, DType.U8) if kind == "conv" else ())))
        r, group = self.one((1, 2, 3)), self.one((1, 1, 2, 6))
        more: dict[str, Any] = {"strides": (self.one((1, 2)),) * r, "dilations": (self.one((1, 2)),) * r,
                                "pads": (1,) * (2 * r), "const": d is DType.U8 or self.often(0.8)}
        size = [self.one((4, 5)) for _ in range(r)]
        return self.expressed(conv_regions.conv((N, *size, 6), self.one((6, 12)), (self.one((1, 3)),) * r, dtype=d,
                                                group=group, kind=kind, gap=self.one((0, 3)), dims=DIMS, **more), False)

    def attention(self) -> Region:
        d, g = self.one(FLOATS), self.one((1, 3))
        t = self.one((1, 33, N))
        mask = Tensor.dense(self.one((d, DType.BOOL)), (5, t)) if self.often() else None
        compute = self.one(("f32", "f16", "bf16")) if d is not DType.F64 else "f32"
        r = attention_regions.region(2, 3, g, 5, t, self.one((8, 20)), self.one((8, 12)), mask, dtype=d, dims=DIMS,
                                     lengths=self.often(0.3), compute=compute, causal=self.often(0.3))
        return self.expressed(r, False)

    def linear_attention(self) -> Region:
        return linear_attention_regions.region(2, 4, self.one((1, 2, 4)), N, 8, 12, self.often(), self.one((0, 1, 8)),
                                               self.one((0, 1)), self.one(FLOATS), DIMS)

    def recurrent(self) -> Region:
        kind = self.one(("lstm", "gru", "rnn"))
        return recurrent_regions.region(kind, self.one((1, 4, N)), self.one((1, 3, N)), self.one((4, 17)),
                                        *(("h",) if self.often() else ()), *(("lengths",) if self.often() else ()),
                                        layout=self.one((0, 1)), dims=DIMS, dtype=self.one(FLOATS))

    def matmul_grouped(self) -> Region:
        q = self.one((DType.I8, DType.U8, DType.I4, DType.U4, DType.U2))
        m, k, n, group = self.one((1, 3, N)), 96, self.one((8, 33)), self.one((16, 32, 48))
        groups = -(-k // group)
        inputs = [self.tensor(self.one(FLOATS[:3]), (m, k)), Tensor.dense(q, (k, n), True),
                  Tensor.dense(DType.F32, (groups, n), True)]
        if self.often():
            inputs.append(Tensor.dense(q, (groups, n), True))
        return self.expressed(self.moved("matmul_grouped", inputs, group=group), False)

    def movement(self, kind: str) -> Region:
        d = self.one(ANY)
        number = d if d in (*FLOATS, *INTEGERS) else DType.F32
        shape = (*self.shape(2), 24)
        x, i = self.tensor(d, shape), self.tensor(self.one((DType.I32, DType.I64)), (5, 1))
        like = self.tensor(DType.I64, shape)
        same = {1: DType.I8, 2: DType.I16, 4: DType.I32, 8: DType.U64}[d.size]
        add = self.one(("none", "none", "add", "mul", "min", "max")) if number is d else "none"
        float_ = number if number.is_float else DType.F32
        box = Tensor.dense(DType.F32, (1, N, 4)), Tensor.dense(DType.F32, (1, 3, N))
        scalars = [Tensor.dense(DType.I64, ()), Tensor.dense(DType.F32, ()), Tensor.dense(DType.F32, ())]
        axis = self.one((0, 1, 2))
        makers: dict[str, Callable[[], Region]] = {
            "bitcast": lambda: self.moved(kind, [x], to=same),
            "cumsum": lambda: self.moved(kind, [self.tensor(number, shape)], axis=axis, exclusive=self.often(),
                                         reverse=self.often()),
            "cumprod": lambda: self.moved(kind, [self.tensor(number, shape)], axis=axis),
            "dims": lambda: self.moved(kind, [], values=(N, 3), shape=(2,)),
            "gather": lambda: self.moved(kind, [x, i], axis=axis),
            "gather_elements": lambda: self.moved(kind, [x, like], axis=axis),
            "gather_nd": lambda: self.moved(kind, [x, i]),
            "iota": lambda: self.moved(kind, [], size=N, dtype=number),
            "nms": lambda: self.moved(kind, [*box, *scalars], capacity=7),
            "pad": lambda: self.moved(kind, [x], pads=(0, 1, 2, 0, 1, 0), mode=self.one(("constant", "edge", "wrap"))),
            "resize": lambda: self.moved(kind, [self.tensor(float_, (N, 6, 24))], shape=(N * 2, 9, 30),
                                         mode=self.one(("nearest", "linear", "cubic"))),
            "scatter_elements": lambda: self.moved(kind, [x, like, self.tensor(d, shape)], axis=axis, reduction=add),
            "scatter_nd": lambda: self.moved(kind, [x, i, self.tensor(d, (5, *shape[1:]))], reduction=add),
            "topk": lambda: self.moved(kind, [self.tensor(number, shape)], k=3, axis=2, largest=self.often()),
        }
        return makers[kind]()

    def region(self, kind: str) -> Region:
        """A region of the kind."""
        if kind in ("layernorm", "rmsnorm"):
            return self.norm(kind)
        if kind == "conv_transpose":
            return self.conv(kind)
        made: Callable[[], Region] | None = getattr(self, kind, None)
        return made() if made else self.movement(kind)


def sizes(r: Region) -> list[dict[str, int]]:
    """The least, usual and greatest sizes."""
    return [{k: v[i] for k, v in r.dims.items()} for i in range(3)]
