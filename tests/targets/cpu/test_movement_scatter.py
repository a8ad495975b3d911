"""Scatters: the reference's bits for every reduction, with updates that meet, and nothing placed outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import BYTES, ISAS, check, indices, movement, run, tactic, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol
from whet.targets.cpu.isa import host

F, I64 = DType.F32, DType.I64
REDUCTIONS = ["none", "add", "mul", "max", "min"]
ND = [((5, 7, 9), (4, 3)), ((5, 7, 33), (20, 1)), ((5, 7, 9), (2, 6, 2)), ((6,), (30, 1)), ((3, 40001), (4, 1)),
      ((5, 7), (0, 1))]


def nd_arrays(d: DType, shape: tuple[int, ...], of: tuple[int, ...]) -> list[np.ndarray]:
    i = np.stack([indices(of[:-1], shape[c], seed=c) for c in range(of[-1])], -1)
    return [values(d, shape), i, values(d, of[:-1] + shape[of[-1]:], 5)]


def nd(d: DType, shape: tuple[int, ...], of: tuple[int, ...], reduction: str, **more: Any) -> Any:
    tensors = [Tensor.dense(d, shape), Tensor.dense(I64, of), Tensor.dense(d, of[:-1] + shape[of[-1]:])]
    return movement("scatter_nd", tensors, {"reduction": reduction}, **more)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("shape", "of"), ND)
def test_scatter_nd(shape: tuple[int, ...], of: tuple[int, ...], reduction: str, isa: Any) -> None:
    for d in (F, I64):
        check(nd(d, shape, of, reduction), isa, nd_arrays(d, shape, of), nan_bits=reduction == "none")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scatter_elements(axis: int, reduction: str, isa: Any) -> None:
    of = [4, 6, 17]
    of[axis] = 23
    for shape in (tuple(of), (2, 3, 5)):
        x, u = Tensor.dense(F, (4, 6, 17)), Tensor.dense(F, shape)
        r = movement("scatter_elements", [x, Tensor.dense(DType.I32, shape), u], {"axis": axis, "reduction": reduction})
        check(r, isa, [values(F, x.shape), indices(shape, x.shape[axis], DType.I32), values(F, shape, 7)],
              nan_bits=reduction == "none")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [*BYTES, DType.BOOL, DType.F16])
def test_every_type_is_moved(d: DType, isa: Any) -> None:
    check(nd(d, (5, 7, 9), (4, 2), "none"), isa, nd_arrays(d, (5, 7, 9), (4, 2)))
    check(nd(d, (9,), (4, 1), "none"), isa, nd_arrays(d, (9,), (4, 1)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.BF16, DType.F16, DType.U8, DType.I32, DType.F64])
def test_every_type_is_reduced(d: DType, isa: Any) -> None:
    arrays = [values(d, (5, 40)), np.array([[3], [-5], [1]]), values(d, (3, 40), 5)]  # no two meet: exact
    for reduction in REDUCTIONS[1:]:
        check(nd(d, (5, 40), (3, 1), reduction), isa, arrays, nan_bits=False)


@pytest.mark.parametrize("isa", ISAS)
def test_strides_and_symbolic_sizes(isa: Any) -> None:
    x, u = values(F, (6, 19)), values(F, (9, 19), 3)
    i = indices((9, 1), 6)
    for xt, ut, out in ((strided(F, (6, 19), 3), strided(F, (9, 19), 1), strided(F, (6, 19), 4)),
                        (Tensor(F, (6, 19), (1, 6)), Tensor(F, (9, 19), (1, 9)), None)):
        for reduction in ("none", "add"):
            r = movement("scatter_nd", [xt, Tensor.dense(I64, (9, 1)), ut], {"reduction": reduction}, output=out)
            check(r, isa, [x, i, u], nan_bits=reduction == "none")
    b, s = symbol("b"), symbol("s")
    dims = {"b": (1, 2, 9), "s": (0, 16, 300)}
    r = movement("scatter_nd", [Tensor.dense(F, (b, s)), Tensor.dense(I64, (3, 1)), Tensor.dense(F, (3, s))],
                 {"reduction": "add"}, dims=dims)
    e = movement("scatter_elements", [Tensor.dense(F, (b, s)), Tensor.dense(I64, (b, 4)), Tensor.dense(F, (b, 4))],
                 {"axis": 1}, dims=dims)
    for env in ({"b": 1, "s": 1}, {"b": 7, "s": 131}):
        n, w = env["b"], env["s"]
        check(r, isa, [values(F, (n, w)), indices((3, 1), n), values(F, (3, w), 2)], env, nan_bits=False)
        check(e, isa, [values(F, (n, w)), indices((n, 4), w), values(F, (n, 4), 2)], env)


def test_a_place_outside_becomes_the_nearest() -> None:
    r = nd(F, (4,), (3, 1), "none")
    got = run(r, host(), [np.zeros(4, np.float32), np.array([[9], [-2**40], [-2]]), np.array([1, 2, 3], np.float32)])
    np.testing.assert_array_equal(got[0], [2, 0, 3, 1])


def test_booleans_are_not_reduced() -> None:
    assert "booleans" in tactic("scatter_nd").applies(nd(DType.BOOL, (4,), (3, 1), "add"), host())
