"""Padding, generators and bit casts on GPUs: the reference's bits for every mode, type and size."""

from __future__ import annotations

import numpy as np
import pytest
from movement_regions import check, compiles, movement, strided, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol

F = DType.F32
MODES = ["constant", "reflect", "edge", "wrap"]


def pad(x: Tensor, pads, mode, value=0, **more) -> None:
    r = movement("pad", [x], {"pads": pads, "mode": mode, "value": value}, **more)
    check(r, [values(x.dtype, x.shape)], most=3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "pads"), [
    ((7,), (2, 3)), ((3, 5), (0, 2, 0, 1)), ((3, 5), (1, 0, 2, 0)), ((2, 3, 4, 5), (0, 0, 1, 2, 0, 0, 3, 1)),
    ((4, 9), (-1, 2, 0, -3)), ((1, 1), (2, 2, 2, 2)), ((2, 5), (9, 12, 8, 11)), ((), ()), ((3, 40), (0, 7, 0, 100))])
def test_every_mode(shape, pads, mode):
    if mode == "wrap" and any(p < 0 for p in pads):
        pads = tuple(max(p, 0) for p in pads)
    pad(Tensor.dense(F, shape), pads, mode, 1.5)


@pytest.mark.parametrize("d", [DType.BOOL, DType.I8, DType.BF16, DType.F16, DType.I64, DType.F64, DType.U64],
                         ids=lambda d: d.value)
def test_types(d):
    pad(Tensor.dense(d, (3, 5)), (1, 2, 0, 1), "constant", 1 if d is DType.BOOL else 3)
    if d.is_float:
        pad(Tensor.dense(d, (3, 5)), (1, 2, 0, 1), "constant", float("nan"))
    if d is DType.U64:
        pad(Tensor.dense(d, (3, 5)), (1, 2, 0, 1), "constant", (1 << 64) - 2)


def test_strides_and_empty_data():
    pad(Tensor(F, (5, 6), (1, 5)), (1, 1, 1, 1), "reflect")
    pad(Tensor(F, (5, 6), (-6, 1)), (1, 1, 1, 1), "edge")
    pad(Tensor.dense(F, (2, 6)), (1, 1, 1, 1), "constant", 2.0, output=strided(F, (4, 8), 11))
    pad(Tensor.dense(F, (0, 6)), (1, 1, 1, 1), "constant", 2.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 6, 9])
def test_symbolic_sizes(n, mode):
    a, b = symbol("a"), symbol("b")
    dims = {"a": (0, 3, 9), "b": (1, 5, 9)}
    r = movement("pad", [Tensor.dense(F, (a, b, 3))], {"pads": (0, 1, 0, 0, a, 0), "mode": mode}, dims=dims)
    check(r, [values(F, (4, n, 3))], {"a": 4, "b": n})


@pytest.mark.parametrize("d", [DType.I64, DType.I32, DType.U8, DType.F32, DType.F64, DType.F16, DType.BF16],
                         ids=lambda d: d.value)
def test_iota(d):
    start, step = (0.25, 1.5) if d.is_float else (-3, 7)
    n = symbol("n")
    for size, dims in ((1500, None), (n, {"n": (0, 5, 2000)})):
        r = movement("iota", [], {"start": start, "step": step, "size": size, "dtype": d}, dims=dims)
        for env in ({"n": 0}, {"n": 1025}):
            check(r, [], env, 1e-2 if d is DType.BF16 else 0.0)  # which the interpreter cuts off


def test_pads_of_sizes_that_no_shape_has():
    p = symbol("p")
    r = movement("pad", [Tensor.dense(F, (5,))], {"pads": (p, 0 - p), "value": 1.5})
    check(r, [values(F, (5,))], {"p": 2})


def test_dims():
    a, b = symbol("a"), symbol("b")
    r = movement("dims", [], {"values": (a, 3, a * b - 2, -7), "shape": (2, 2)}, dims={"a": (0, 3, 9), "b": (1, 5, 9)})
    check(r, [], {"a": 5, "b": 4})
    check(movement("dims", [], {"values": (a,), "shape": ()}, dims={"a": (0, 3, 1 << 40)}), [], {"a": 1 << 35})
    check(movement("dims", [], {"values": (), "shape": (0,)}), [])


@pytest.mark.parametrize(("d", "to"), [(F, DType.I32), (DType.I64, DType.F64), (DType.F16, DType.U16)])
def test_bitcast(d, to):
    for x in (Tensor.dense(d, (5, 33)), Tensor(d, (5, 33), (1, 5)), Tensor.dense(d, ())):
        a = np.arange(np.prod(x.shape, dtype=int)).astype(d.np).reshape(x.shape)
        check(movement("bitcast", [x], {"to": to}), [a])


def test_it_compiles():
    compiles(movement("pad", [Tensor.dense(DType.F16, (2, 14, 14, 64))],
                      {"pads": (0, 1, 1, 0, 0, 1, 1, 0), "mode": "reflect"}), [90])
    compiles(movement("iota", [], {"start": 0.5, "step": 2.5, "size": symbol("n"), "dtype": DType.BF16},
                      dims={"n": (1, 5, 2000)}), [90])
    compiles(movement("dims", [], {"values": (symbol("n"), 3), "shape": (2,)}, dims={"n": (1, 5, 2000)}), [90])
    compiles(movement("pad", [Tensor.dense(DType.U64, (5, 33))], {"pads": (1, 0, 0, 0), "value": (1 << 64) - 2}), [80])
