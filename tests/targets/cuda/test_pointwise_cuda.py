"""Pointwise regions on GPUs: any strides, any sizes, types, symbolic dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from targets.cuda import interpreted, on_device
from whet.ir.dtypes import DType
from whet.ir.expr import Apply, Expr, Imm, Leaf, identity
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import evaluate, symbol
from whet.targets.cuda import compile as compile_
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.pointwise import Pointwise

F, H, B, I8 = DType.F32, DType.F16, DType.BF16, DType.I8
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


def region(out: Tensor, inputs: list[Tensor], e: Expr, **dims) -> Region:
    return Region("pointwise", {}, tuple(inputs), 0, out, out, e, dims=dims)


def add(d: DType) -> Expr:
    return Expr((Leaf(0, d), Leaf(1, d), Apply("add", (0, 1), d)))


def values(t: Tensor, env, seed: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    shape = [int(evaluate(d, env)) for d in t.shape]
    if t.dtype is DType.BOOL:
        return r.random(shape) < 0.5
    if t.dtype.is_float:
        return (r.standard_normal(shape) * 3).astype(t.dtype.np)
    size = t.dtype.bits
    return r.integers(0, 1 << min(size, 62), shape).astype(f"u{t.dtype.size}").view(t.dtype.np)


def check(r: Region, run=interpreted.run, env=None, machine=None, some=None) -> None:
    env = env or {}
    tactic = Pointwise()
    machine = machine or H100
    assert tactic.applies(r, machine) == ""
    arrays = [values(t, env, i) for i, t in enumerate(r.inputs)]
    want, = region_reference(r, arrays, env)
    space = list(tactic.space(r, machine, 1))
    assert 0 < len(space) <= 24
    for params in space[:some]:
        assert tactic.cost(r, params, machine, 1) > 0
        got, = run(r, tactic.implement(r, params, machine, 1), arrays, env)
        np.testing.assert_array_equal(got.reshape(-1).view(np.uint8), want.reshape(-1).view(np.uint8), str(params))


n, m = symbol("n"), symbol("m")
CASES = {
    "dense": region(dense(F, 4, 50), [dense(F, 4, 50), dense(F, 4, 50)], add(F)),
    "one element": region(dense(F), [dense(F), dense(F)], add(F)),
    "one element of some rank": region(dense(H, 1, 1), [dense(H, 1, 1), dense(H, 1)], add(H)),
    "nothing": region(dense(F, 0, 5), [dense(F, 0, 5), dense(F, 5)], add(F)),
    "a bias": region(dense(H, 3, 7, 24), [dense(H, 3, 7, 24), dense(H, 24)], add(H)),
    "a factor of channels": region(dense(F, 2, 5, 3, 3), [dense(F, 2, 5, 3, 3), dense(F, 5, 1, 1)], add(F)),
    "outer": region(dense(F, 9, 11), [dense(F, 9, 1), dense(F, 1, 11)], add(F)),
    "a scalar": region(dense(B, 300), [dense(B, 300), dense(B)], add(B)),
    "transposed": region(dense(H, 40, 33), [order(dense(H, 40, 33), 1, 0)], identity(0, H)),
    "channels last": region(order(dense(F, 2, 3, 5, 7), 0, 2, 3, 1), [dense(F, 2, 3, 5, 7)], identity(0, F)),
    "channels first": region(dense(F, 2, 12, 5, 7), [order(dense(F, 2, 12, 5, 7), 0, 2, 3, 1)], identity(0, F)),
    "two orders": region(dense(F, 8, 9, 10), [order(dense(F, 8, 9, 10), 2, 0, 1), order(dense(F, 8, 9, 10), 1, 0, 2)],
                         add(F)),
    "heads": region(order(dense(H, 2, 4, 6, 8), 0, 2, 1, 3), [dense(H, 2, 4, 6, 8)], identity(0, H)),
    "reversed": region(dense(F, 5, 8), [Tensor(F, (5, 8), (-8, -1))], identity(0, F)),
    "every other": region(dense(F, 5, 8), [Tensor(F, (5, 8), (32, 2))], identity(0, F)),
    "into a part": region(Tensor(F, (5, 8), (20, 1)), [dense(F, 5, 8)], identity(0, F)),
    "into every other": region(Tensor(F, (5, 8), (16, 2)), [dense(F, 5, 8)], identity(0, F)),
    "unaligned": region(dense(H, 100), [Tensor(H, (100,), (1,), aligned=False)], identity(0, H)),
    "bool": region(dense(DType.BOOL, 77), [dense(DType.BOOL, 77)],
                   Expr((Leaf(0, DType.BOOL), Apply("not", (0,), DType.BOOL)))),
    "copied storage": region(dense(DType.F8E8M0FNU, 6, 7), [order(dense(DType.F8E8M0FNU, 6, 7), 1, 0)],
                             identity(0, DType.F8E8M0FNU)),
    "copied i4": region(dense(DType.I4, 33), [dense(DType.I4, 33)], identity(0, DType.I4)),
    "cast": region(dense(I8, 130), [dense(F, 130)], Expr((Leaf(0, F), Apply("saturate", (0,), I8, (
        ("zero", 2), ("to", I8)))))),
    "a constant": region(dense(F, 10), [], Expr((Imm(2.5, F),))),
}


@pytest.mark.parametrize("name", CASES)
def test_right(name):
    check(CASES[name], some=4)


@on_device.needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_right_on_a_gpu(name):
    check(CASES[name], on_device.run, machine=on_device.gpu())


SYMBOLIC = {
    "flat": region(dense(F, n, m), [dense(F, n, m), dense(F, m)], add(F), n=(0, 4, 9), m=(1, 30, 50)),
    "even": region(dense(H, n, 64), [dense(H, n, 64), dense(H, 64)], add(H), n=(0, 4, 9)),
    "turned": region(dense(F, n, m), [order(dense(F, n, m), 1, 0)], identity(0, F), n=(0, 8, 40), m=(1, 30, 50)),
}


@pytest.mark.parametrize("name", SYMBOLIC)
@pytest.mark.parametrize("env", [{"n": 0, "m": 1}, {"n": 3, "m": 17}, {"n": 9, "m": 50}], ids=str)
def test_every_size(name, env):
    check(SYMBOLIC[name], env=env, some=2)


@on_device.needs_cuda
@pytest.mark.parametrize("name", SYMBOLIC)
@pytest.mark.parametrize("env", [{"n": 0, "m": 1}, {"n": 3, "m": 17}, {"n": 9, "m": 50}], ids=str)
def test_every_size_on_a_gpu(name, env):
    check(SYMBOLIC[name], on_device.run, env=env, machine=on_device.gpu())


@pytest.mark.parametrize("number", [80, 90])
def test_every_form_compiles(number):
    machine = typical((number // 10, 0))
    for r in (*CASES.values(), *SYMBOLIC.values()):
        params = next(iter(Pointwise().space(r, machine, 1)))
        for step in Pointwise().implement(r, params, machine, 1).steps:
            assert compile_.to_object(step.kernel.code, number)


def test_far_elements_are_addressed_in_64_bits():
    big = Tensor(F, (4, 16), (2**31, 1))
    made = Pointwise().implement(region(dense(F, 4, 16), [big], identity(0, F)), {"block": 64, "warps": 1}, H100, 1)
    assert "int64" in made.steps[0].kernel.code


def accesses(r: Region, params) -> str:
    """The PTX of a region's kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    recipe = compile_.recipe_of(Pointwise().implement(r, params, H100, 1).steps[0].kernel.code)
    fn = compile_.function(recipe)
    source = ASTSource(fn=fn, signature=dict(zip(fn.arg_names, recipe.types, strict=True)),
                       attrs={(i,): [["tt.divisibility", 16]] for i in recipe.aligned})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": recipe.warps}).asm["ptx"]


@pytest.mark.parametrize("r", [
    region(dense(H, 128, 768), [dense(H, 128, 768), dense(H, 768)], add(H)),
    region(dense(H, 1001, 333), [dense(H, 1001, 333), dense(H, 1001, 333)], add(H)),
    region(dense(H, n, 96), [dense(H, n, 96), dense(H, 96)], add(H), n=(1, 8, 64)),
    region(dense(H, 64, 96, 56, 56), [order(dense(H, 64, 96, 56, 56), 0, 2, 3, 1)], identity(0, H)),
], ids=["bias", "odd", "symbolic", "turned"])
def test_accesses_are_of_16_bytes(r):
    params = {"block": 1024, "warps": 4} if len(r.output.shape) < 4 else {"rows": 64, "cols": 64, "warps": 4}
    ptx = accesses(r, params)
    assert "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx
