"""Pooling on GPUs: kinds, layouts, borders, special values, symbolic sizes."""

from __future__ import annotations

from dataclasses import replace

import interpreted
import numpy as np
import pytest
from movement_regions import H100, compiles, implementations, movement, same, values

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, Apply, Expr, Leaf
from whet.ir.region import Region, Tensor
from whet.ir.region_eval import region_reference
from whet.ir.symbolic import symbol
from whet.targets.cuda.pool import Pool

F = DType.F32
KINDS = [("max", {}), ("average", {}), ("average", {"count_include_pad": True}), ("lp", {"p": 1}), ("lp", {"p": 2}),
         ("lp", {"p": 3})]


def pool(shape, kind, kernel, d=F, last=False, dims=None, x=None, **more) -> Region:
    if last:
        shape = (shape[0], *shape[2:], shape[1])
    at = {"kind": kind, "kernel": kernel, "channels_last": last, **more}
    return movement("pool", [x or Tensor.dense(d, shape)], at, dims=dims)


def check(r: Region, env=None, tolerance=2e-6, arrays=None) -> None:
    """The first setting of each form."""
    from whet.ir.symbolic import evaluate

    if arrays is None:
        shapes = [[evaluate(d, env or {}) for d in t.shape] for t in r.inputs]
        arrays = [values(t.dtype, s, i) for i, (t, s) in enumerate(zip(r.inputs, shapes))]
    (want,) = region_reference(r, arrays, env)
    space = list(Pool().space(r, H100, 1))
    for form in {p["form"] for p in space}:
        params = next(p for p in space if p["form"] == form)
        (got,) = interpreted.run(r, Pool().implement(r, params, H100, 1), arrays, env)
        same(got, want, tolerance, str(params))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("shape", "kernel", "more", "last"), [
    ((1, 5, 9, 7), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}, True), ((2, 4, 9), (3,), {"pads": (1, 1)}, False),
    ((1, 2, 5, 6), (2, 2), {"dilations": (2, 3), "pads": (0, 1, 1, 0)}, False), ((1, 5, 7, 7), (7, 7), {}, True),
    ((1, 3, 4, 5), (7, 6), {"pads": (3, 2, 3, 3), "strides": (1, 2)}, False)], ids=str)
def test_every_kind_and_shape(shape, kernel, more, last, kind):
    check(pool(shape, kind[0], kernel, last=last, **more, **kind[1]))


@pytest.mark.parametrize("d", [DType.I8, DType.U8, DType.I32, DType.U64, DType.F16, DType.BF16, DType.F64],
                         ids=lambda d: d.value)
def test_maxima_of_every_type(d):
    check(pool((1, 3, 9, 9), "max", (5, 5), d, pads=(1, 1, 1, 1)), tolerance=0)


@pytest.mark.parametrize(("d", "tolerance"), [(DType.F64, 1e-14), (DType.F16, 1e-3), (DType.BF16, 8e-3)])
def test_other_floats_are_averaged(d, tolerance):
    check(pool((1, 3, 5, 5), "average", (3, 3), d), tolerance=tolerance)
    check(pool((1, 3, 6, 6), "average", (6, 6), d), tolerance=tolerance)


def test_bytes_are_averaged_in_f32_and_the_epilogue_reads_tensors():
    r = pool((2, 4, 8, 8), "average", (2, 2), strides=(2, 2), last=True)
    relu = Expr((Leaf(ANCHOR, F), Leaf(1, F), Apply("add", (0, 1), F), Apply("relu", (2,), F)))
    bias = Tensor.dense(F, (4,))
    check(replace(r, inputs=(Tensor.dense(DType.U8, r.inputs[0].shape), bias), epilogue=relu))
    rounded = Expr((*relu.terms, Apply("cast", (3,), DType.F16, (("to", DType.F16),))))
    half = replace(r, inputs=(*r.inputs, bias), epilogue=rounded, output=Tensor.dense(DType.F16, r.output.shape))
    check(half, tolerance=1e-3)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_8_bit_floats_are_pooled_in_fp32_and_narrowed_again(kind):
    d = DType.F8E4M3FN
    r = pool((1, 9, 9, 7), kind, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    narrowed = Expr((Leaf(ANCHOR, F), Apply("cast", (0,), d, (("to", d),))))
    r = replace(r, inputs=(Tensor.dense(d, (1, 9, 9, 7)),), output=Tensor.dense(d, r.output.shape), epilogue=narrowed)
    x = (-np.abs(np.random.default_rng(0).standard_normal((1, 9, 9, 7)))).astype(np.float32).astype(d.np)
    check(r, arrays=[x], tolerance=0 if kind == "max" else 0.1)
    compiles(r, [90], most=1)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("h", [1, 8])
def test_symbolic_sizes_are_bound_late(h, last):
    dims = {"b": (0, 2, 4), "h": (1, 9, 20)}
    r = pool((symbol("b"), 3, symbol("h"), symbol("h")), "average", (3, 3), pads=(1, 1, 1, 1), dims=dims, last=last)
    for n in (0, 2):
        check(r, {"b": n, "h": h})


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_volumes(kind, last):
    check(pool((1, 2, 3, 4, 4), kind, (3, 2, 2), last=last, pads=(1, 0, 1, 1, 1, 0)))


def test_strided_and_single_elements():
    check(pool((2, 3, 5, 5), "max", (2, 2), x=Tensor(F, (2, 3, 5, 5), (100, -30, 6, 1))))
    check(pool((1, 1, 2, 2), "average", (2, 2)))


def test_a_nan_in_the_window_is_the_maximum_and_minus_infinity_is_not_lost():
    for kernel in ((2, 2), (6, 6)):
        r = pool((1, 2, 12, 12), "max", kernel, strides=kernel)
        x = np.full((1, 2, 12, 12), -np.inf, np.float32)
        x[0, 0, 3, 4], x[0, 1, 3, 4] = np.nan, np.inf
        check(r, arrays=[x], tolerance=0)


def test_it_compiles():
    compiles(pool((32, 64, 112, 112), "max", (3, 3), DType.F16, True, strides=(2, 2), pads=(1, 1, 1, 1)), [90], most=1)
    compiles(pool((1, 2048, 7, 7), "average", (7, 7), DType.F16, True), [90], most=1)
    compiles(pool((1, 64, 31, 31), "max", (7, 7), DType.BF16), [80], most=1)
    compiles(pool((1, 64, symbol("h"), 31), "max", (3, 3), DType.U64, dims={"h": (1, 5, 9)}), [90], most=1)
    assert implementations(pool((1, 4, 5, 5), "max", (3, 3)))
