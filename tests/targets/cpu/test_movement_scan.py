"""Running sums: the reference's bits along any axis, in both directions, with and without the element itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import strided
from movement_cases import ISAS, check, movement, run, values

from whet.ir.dtypes import DType
from whet.ir.region import Tensor
from whet.ir.symbolic import symbol

F = DType.F32


def cumsum(x: Tensor, axis: int, isa: Any, exclusive: bool = False, reverse: bool = False, **more: Any) -> None:
    r = movement("cumsum", [x], {"axis": axis, "exclusive": exclusive, "reverse": reverse}, **more)
    a = values(x.dtype, x.shape)
    check(r, isa, [np.where(np.isfinite(a.astype(np.float64)), a, -0.0).astype(a.dtype)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [
    ((7,), 0), ((1,), 0), ((5, 33), 0), ((5, 33), 1), ((3, 4, 17), 1), ((3, 0, 5), 1), ((3, 5, 0), 1), ((300, 7), 0),
    ((5, 150), 0), ((2, 9, 1), 1)])
def test_any_axis(shape: tuple[int, ...], axis: int, exclusive: bool, reverse: bool, isa: Any) -> None:
    cumsum(Tensor.dense(F, shape), axis, isa, exclusive, reverse)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [DType.F64, DType.BF16, DType.F16, DType.I64, DType.I32, DType.U8])
def test_every_type(d: DType, isa: Any) -> None:
    cumsum(Tensor.dense(d, (3, 9, 40)), 1, isa)
    cumsum(Tensor.dense(d, (3, 90)), 1, isa, exclusive=True)


@pytest.mark.parametrize("isa", ISAS)
def test_strides_and_symbolic_sizes(isa: Any) -> None:
    cumsum(strided(F, (4, 19), 3), 0, isa)
    cumsum(Tensor(F, (4, 19), (1, 4)), 0, isa)
    cumsum(Tensor.dense(F, (4, 19)), 0, isa, output=strided(F, (4, 19), 2))
    b, s = symbol("b"), symbol("s")
    for axis in (0, 1):
        r = movement("cumsum", [Tensor.dense(DType.I64, (b, s))], {"axis": axis},
                     dims={"b": (0, 2, 9), "s": (0, 16, 300)})
        for env in ({"b": 1, "s": 1}, {"b": 0, "s": 3}, {"b": 5, "s": 131}):
            check(r, isa, [values(DType.I64, (env["b"], env["s"]))], env)


@pytest.mark.parametrize("isa", ISAS)
def test_not_a_number_stays(isa: Any) -> None:
    x = values(F, (6, 50))
    r = movement("cumsum", [Tensor.dense(F, x.shape)], {"axis": 0})
    with np.errstate(invalid="ignore"):
        want = np.cumsum(x, 0)
    np.testing.assert_array_equal(run(r, isa, [x])[0], want)
