"""Gathers: the reference's bits for every axis, type and size, and no step outside the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import BYTES, ISAS, check, indices, movement, run, tactic, values

from whet.ir.dtypes import DType
from whet.ir.expr import ANCHOR, identity
from whet.ir.region import Region, Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.compile import to_assembly
from whet.targets.cpu.isa import NEON, host

F, I64, I32 = DType.F32, DType.I64, DType.I32


def gather(x: Tensor, i: Tensor, axis: int, isa: Any, **more: Any) -> None:
    r = movement("gather", [x, i], {"axis": axis}, **more)
    check(r, isa, [values(x.dtype, x.shape), indices(i.shape, x.shape[axis], i.dtype)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", BYTES)
@pytest.mark.parametrize("width", [1, 3, 7, 64, 129, 768])
def test_rows_of_a_table(width: int, d: DType, isa: Any) -> None:
    gather(Tensor.dense(d, (37, width)), Tensor.dense(I64, (2, 11)), 0, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", BYTES)
@pytest.mark.parametrize(("shape", "axis", "of"), [
    ((5, 7, 9), 1, (3, 2)), ((5, 7, 9), 2, (4,)), ((5, 7, 9), 2, (2, 3)), ((5, 7), 1, (9,)), ((6,), 0, (13,)),
    ((6,), 0, ()), ((5, 7, 9), 1, ()), ((5, 7, 9), 0, (0,)), ((5, 0, 9), 0, (3,)), ((1, 1, 1), 1, (1,))])
def test_any_axis_and_rank(shape: tuple[int, ...], axis: int, of: tuple[int, ...], d: DType, isa: Any) -> None:
    gather(Tensor.dense(d, shape), Tensor.dense(I32, of), axis, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_large_rows_are_cut_and_many_rows_grouped(isa: Any) -> None:
    gather(Tensor.dense(F, (3, 40001)), Tensor.dense(I64, (4,)), 0, isa)
    gather(Tensor.dense(F, (50, 3)), Tensor.dense(I64, (20001,)), 0, isa)
    gather(Tensor.dense(F, (50,)), Tensor.dense(I64, (20001,)), 0, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_strided_data_indices_and_results(isa: Any) -> None:
    gather(strided(F, (8, 19), 5), Tensor.dense(I64, (3, 5)), 0, isa)
    gather(Tensor(F, (8, 19), (1, 8)), Tensor.dense(I64, (6,)), 0, isa)
    gather(Tensor.dense(F, (8, 19)), Tensor(I64, (4, 3), (1, 4)), 0, isa)
    gather(Tensor.dense(F, (8, 19)), Tensor(I64, (4,), (-2,)), 1, isa)
    gather(Tensor.dense(F, (8, 19)), Tensor.dense(I64, (4,)), 0, isa, output=strided(F, (4, 19), 30))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [F, DType.U8])
@pytest.mark.parametrize(("shape", "of", "batch"), [
    ((5, 7, 9), (4, 3), 0), ((5, 7, 9), (4, 2), 0), ((5, 7, 33), (3, 4, 1), 0), ((5, 7, 9), (5, 1), 1),
    ((5, 7, 9), (5, 6, 2), 1), ((2, 3, 4, 50), (2, 3, 6, 1), 2), ((5,), (1,), 0), ((5, 7), (0, 2), 0)])
def test_gather_nd(shape: tuple[int, ...], of: tuple[int, ...], batch: int, d: DType, isa: Any) -> None:
    r = movement("gather_nd", [Tensor.dense(d, shape), Tensor.dense(I64, of)], {"batch_dims": batch})
    i = np.stack([indices(of[:-1], shape[batch + c], seed=c) for c in range(of[-1])], -1)
    check(r, isa, [values(d, shape), i])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [F, DType.F64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_elements(axis: int, d: DType, isa: Any) -> None:
    of = [4, 6, 17]
    of[axis] = 23
    r = movement("gather_elements", [Tensor.dense(d, (4, 6, 17)), Tensor.dense(I32, tuple(of))], {"axis": axis})
    check(r, isa, [values(d, (4, 6, 17)), indices(of, (4, 6, 17)[axis], I32)])
    smaller = movement("gather_elements", [Tensor.dense(d, (4, 6, 17)), Tensor.dense(I64, (2, 3, 5))], {"axis": axis})
    check(smaller, isa, [values(d, (4, 6, 17)), indices((2, 3, 5), (4, 6, 17)[axis])])


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_sizes_are_right_at_every_value(isa: Any) -> None:
    b, s, n = symbol("b"), symbol("s"), symbol("n")
    dims = {"b": (0, 2, 9), "s": (0, 16, 300), "n": (1, 40, 100)}
    rows = movement("gather", [Tensor.dense(F, (n, 48)), Tensor.dense(I64, (b, s))], {"axis": 0}, dims=dims)
    inner = movement("gather", [Tensor.dense(F, (b, n, s)), Tensor.dense(I64, (5,))], {"axis": 1}, dims=dims)
    last = movement("gather", [Tensor.dense(F, (b, s, n)), Tensor.dense(I64, (5,))], {"axis": 2}, dims=dims)
    for env in ({"b": 1, "s": 1, "n": 1}, {"b": 0, "s": 3, "n": 7}, {"b": 5, "s": 31, "n": 50},
                {"b": 2, "s": 257, "n": 3}):
        n_, (b_, s_) = env["n"], (env["b"], env["s"])
        check(rows, isa, [values(F, (n_, 48)), indices((b_, s_), n_)], env)
        check(inner, isa, [values(F, (b_, n_, s_)), indices((5,), n_)], env)
        check(last, isa, [values(F, (b_, s_, n_)), indices((5,), n_)], env)


def test_an_index_outside_reads_the_nearest_element() -> None:
    x = np.arange(5, dtype=np.float32)
    i = np.array([7, -9, 2**40, -2**62, 4, -1])
    r = movement("gather", [Tensor.dense(F, (5,)), Tensor.dense(I64, i.shape)], {"axis": 0})
    np.testing.assert_array_equal(run(r, host(), [x, i])[0], [4, 0, 4, 0, 4, 4])


def test_nothing_is_read_of_a_dimension_without_elements() -> None:
    n = symbol("n")
    r = movement("gather", [Tensor.dense(F, (n, 9)), Tensor.dense(I64, (4,))], {"axis": 0}, dims={"n": (0, 1, 8)})
    run(r, host(), [np.zeros((0, 9), np.float32), np.zeros(4, np.int64)], {"n": 0})


def test_expressions_and_strings_are_refused() -> None:
    t, i = Tensor.dense(F, (3, 4)), Tensor.dense(I64, (2,))
    r = movement("gather", [t, i], {"axis": 0})
    fused = Region(r.kind, r.attrs, r.inputs, 2, r.output, r.anchor, identity(ANCHOR, F))
    assert "expressions" in tactic("gather").applies(fused, host())
    text = movement("gather", [Tensor.dense(DType.STRING, (3, 4)), i], {"axis": 0})
    assert "strings" in tactic("gather").applies(text, host())


def test_kernels_compile_for_neon() -> None:
    r = movement("gather", [Tensor.dense(F, (37, 70)), Tensor.dense(I64, (5,))], {"axis": 0})
    text = to_assembly(tactic("gather").implement(r, {}, NEON, 1).steps[0].kernel.code, NEON)
    assert "\tbl\t" not in text
