"""Gathers on GPUs: the reference's bits for every axis, type and size, and no step outside the data."""

from __future__ import annotations

import numpy as np
import pytest
from interpreted import run
from movement_regions import check, compiles, implementations, indices, movement, strided, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol

F, I64, I32 = DType.F32, DType.I64, DType.I32
BYTES = [DType.U8, DType.BF16, DType.F32, DType.I64]  # one type of each size


def gather(x: Tensor, i: Tensor, axis: int, **more) -> None:
    r = movement("gather", [x, i], {"axis": axis}, **more)
    check(r, [values(x.dtype, x.shape), indices(i.shape, x.shape[axis], i.dtype)], most=3)


@pytest.mark.parametrize("d", BYTES, ids=lambda d: d.value)
@pytest.mark.parametrize("width", [1, 7, 129])
def test_rows_of_a_table(width, d):
    gather(Tensor.dense(d, (37, width)), Tensor.dense(I64, (2, 11)), 0)


@pytest.mark.parametrize(("shape", "axis", "of"), [
    ((5, 7, 9), 1, (3, 2)), ((5, 7, 9), 2, (4,)), ((5, 7, 9), 2, (2, 3)), ((6,), 0, (13,)), ((6,), 0, ()),
    ((5, 7, 9), 1, ()), ((5, 7, 9), 0, (0,)), ((5, 0, 9), 0, (3,)), ((1, 1, 1), 1, (1,))])
def test_any_axis_and_rank(shape, axis, of):
    gather(Tensor.dense(F, shape), Tensor.dense(I32, of), axis)


def test_strided_data_indices_and_results():
    gather(strided(F, (8, 19), 24), Tensor.dense(I64, (3, 5)), 0)
    gather(Tensor(F, (8, 19), (1, 8)), Tensor.dense(I64, (6,)), 0)
    gather(Tensor.dense(F, (8, 19)), Tensor(I64, (4, 3), (1, 4)), 0)
    gather(Tensor.dense(F, (8, 19)), Tensor(I64, (4,), (-2,)), 1)
    gather(Tensor.dense(F, (8, 19)), Tensor.dense(I64, (4,)), 0, output=strided(F, (4, 19), 49))


@pytest.mark.parametrize(("shape", "of", "batch"), [
    ((5, 7, 9), (4, 3), 0), ((5, 7, 9), (4, 2), 0), ((5, 7, 33), (3, 4, 1), 0), ((5, 7, 9), (5, 1), 1),
    ((5, 7, 9), (5, 6, 2), 1), ((2, 3, 4, 50), (2, 3, 6, 1), 2), ((5,), (1,), 0), ((5, 7), (0, 2), 0)])
def test_gather_nd(shape, of, batch):
    r = movement("gather_nd", [Tensor.dense(F, shape), Tensor.dense(I64, of)], {"batch_dims": batch})
    i = np.stack([indices(of[:-1], shape[batch + c], seed=c) for c in range(of[-1])], -1)
    check(r, [values(F, shape), i], most=2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements(axis):
    of = [4, 6, 17]
    of[axis] = 23
    r = movement("gather_elements", [Tensor.dense(F, (4, 6, 17)), Tensor.dense(I32, tuple(of))], {"axis": axis})
    check(r, [values(F, (4, 6, 17)), indices(of, (4, 6, 17)[axis], I32)])
    smaller = movement("gather_elements", [Tensor.dense(F, (4, 6, 17)), Tensor.dense(I64, (2, 3, 5))], {"axis": axis})
    check(smaller, [values(F, (4, 6, 17)), indices((2, 3, 5), (4, 6, 17)[axis])])


@pytest.mark.parametrize("n", [0, 1, 5])
def test_symbolic_sizes(n):
    s, v = symbol("s"), symbol("v")
    dims = {"s": (0, 4, 9), "v": (0, 12, 40)}
    r = movement("gather", [Tensor.dense(F, (v, 6)), Tensor.dense(I64, (2, s))], {"axis": 0}, dims=dims)
    check(r, [values(F, (12, 6)), indices((2, n), 12)], {"s": n, "v": 12}, most=3)


def test_an_index_outside_is_clamped():
    r = movement("gather", [Tensor.dense(F, (4, 3)), Tensor.dense(I64, (4,))], {"axis": 0})
    x = values(F, (4, 3))
    for _, _, made in implementations(r):
        (got,) = run(r, made, [x, np.array([-9, 7, 1 << 40, -(1 << 40)])])
        assert got.tobytes() == x[[0, 3, 3, 0]].tobytes()


def test_offsets_beyond_32_bits_are_wide():
    r = movement("gather", [Tensor.dense(F, (1 << 20, 4096)), Tensor.dense(I64, (8,))], {"axis": 0})
    assert "int64" in implementations(r)[0][2].steps[0].kernel.code
    compiles(r, [90])


def test_it_compiles():
    table = Tensor.dense(DType.F16, (30522, 768))
    compiles(movement("gather", [table, Tensor.dense(I64, (1, 128))], {"axis": 0}), [90])
    dims = {"s": (1, 4, 9)}
    compiles(movement("gather", [Tensor.dense(DType.F16, (100, 768)), Tensor.dense(I32, (1, symbol("s")))],
                      {"axis": 0}, dims=dims), [80])
