"""Regions of reductions, softmax and normalizations for tests, and their check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf, Term
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import evaluate
from whet.targets.cuda import compile as compile_
from whet.targets.cuda.gpu import typical

F, H, B, D = DType.F32, DType.F16, DType.BF16, DType.F64
H100 = typical((9, 0))


def dense(d: DType, *shape) -> Tensor:
    return Tensor.dense(d, shape)


def order(t: Tensor, *axes: int) -> Tensor:
    """A tensor of t's shape that lies in memory in another order of axes, outermost first."""
    strides, step = [0] * len(axes), 1
    for a in reversed(axes):
        strides[a] = step
        step = step * t.shape[a]
    return Tensor(t.dtype, t.shape, tuple(strides))


def added(r: Region) -> Region:
    """With a residual addition before the first operand, and after the anchor a factor of the result's last dimension
    and relu."""
    x, k = r.inputs[0], len(r.inputs)
    f, a = r.anchor.dtype, Tensor.dense(r.anchor.dtype, r.anchor.shape[-1:])
    before = Expr((Leaf(0, x.dtype), Leaf(k, x.dtype), Apply("add", (0, 1), x.dtype)))
    after = Expr((Leaf(ANCHOR, f), Leaf(k + 1, f), Apply("mul", (0, 1), f), Apply("relu", (2,), f)))
    return replace(r, inputs=(*r.inputs, Tensor.dense(x.dtype, x.shape), a), prologue={0: before}, epilogue=after)


def values(t: Tensor, env, seed: int, odd: bool = False) -> np.ndarray:
    r = np.random.default_rng(seed)
    shape = [int(evaluate(d, env)) for d in t.shape]
    if t.dtype is DType.BOOL:
        return r.random(shape) < 0.5
    if t.dtype.is_float:
        x = (r.standard_normal(shape) * 2 + 0.3).astype(t.dtype.np)
        if odd and x.size > 40:
            x.reshape(-1)[[3, 17]] = np.nan, np.inf
        return x
    if t.dtype.is_storage:
        return r.integers(0, 1 << t.dtype.bits, shape).astype(np.uint8).view(t.dtype.np)
    info = np.iinfo(t.dtype.np)
    return r.integers(max(info.min, -50), min(info.max, 50), shape, t.dtype.np)


def wide(r: Region) -> Region:
    """The region as kernels compute it: values of 16 bits in f32, but for casts that it asks for.

    What a 16-bit sum before a norm is rounded by (2^-11 of it) leaves the norm multiplied by the row's 1 / deviation,
    by the scale and by the epilogue's factor: more than TOLERANCE where these are large and the bias takes most of the
    result away again.
    """
    def term(t: Term) -> Term:
        return t if t.dtype not in (H, B) or (isinstance(t, Apply) and t.op == "cast") else replace(t, dtype=F)

    def expr(e: Expr) -> Expr:
        return Expr(tuple(map(term, e.terms)))

    def tensor(t: Tensor) -> Tensor:
        return replace(t, dtype=F) if t.dtype in (H, B) else t

    return replace(r, inputs=tuple(map(tensor, r.inputs)), anchor=tensor(r.anchor), output=tensor(r.output),
                   extra_outputs=tuple(map(tensor, r.extra_outputs)), epilogue=r.epilogue and expr(r.epilogue),
                   prologue={k: expr(e) for k, e in r.prologue.items()})


def expected(r: Region, arrays: list[np.ndarray], env) -> list[np.ndarray]:
    """What kernels give, by NumPy: rounded once, when it is stored."""
    if not r.prologue:
        return region_reference(r, arrays, env)
    w = wide(r)
    found = region_reference(w, [a.astype(t.dtype.np) for a, t in zip(arrays, w.inputs, strict=True)], env)
    return [y.astype(t.dtype.np) for y, t in zip(found, (r.output, *r.extra_outputs), strict=True)]


TOLERANCE = {F: 2e-5, D: 1e-12, H: 2e-3, B: 1.6e-2}


def check(tactic, r: Region, run, env=None, some=None, machine=H100, odd=False, positive=False) -> None:
    env = env or {}
    assert tactic.applies(r, machine) == ""
    arrays = [values(t, env, i, odd and i == 0) for i, t in enumerate(r.inputs)]
    if positive:
        arrays = [np.abs(a) for a in arrays]
    with np.errstate(all="ignore"):
        want = expected(r, arrays, env)
    space = list(tactic.space(r, machine, 1))
    assert 0 < len(space) <= 24
    picked = space if some is None else space[:: max(1, len(space) // some)][:some]
    for params in picked:
        assert tactic.cost(r, params, machine, 1) > 0
        with np.errstate(all="ignore"):
            got = run(r, tactic.implement(r, params, machine, 1), arrays, env)
        for g, w, t in zip(got, want, (r.output, *r.extra_outputs), strict=True):
            if t.dtype.is_float:
                tol = TOLERANCE[t.dtype]
                np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), tol, tol, err_msg=str(params))
            else:
                np.testing.assert_array_equal(g, w, str(params))


def compiles(tactic, r: Region, number: int, some: int = 1) -> None:
    machine = typical((number // 10, 0))
    for params in list(tactic.space(r, machine, 1))[:some]:
        for step in tactic.implement(r, params, machine, 1).steps:
            assert compile_.to_object(step.kernel.code, number)
