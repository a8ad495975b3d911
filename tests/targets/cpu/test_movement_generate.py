"""Generators: dimensions as data, and ranges of every type."""

from __future__ import annotations

from typing import Any

import pytest
from movement_cases import ISAS, check, movement

from whet.ir.dtypes import DType
from whet.ir.symbolic import symbol

NUMBERS = [d for d in DType if d.is_float or d.is_integer]


@pytest.mark.parametrize("isa", ISAS)
def test_dimensions_become_data(isa: Any) -> None:
    b, s = symbol("b"), symbol("s")
    dims = {"b": (0, 2, 9), "s": (0, 16, 300)}
    r = movement("dims", [], {"values": (b, 7, b * s - 3, s // 2, -1, s), "shape": (2, 3)}, dims=dims)
    check(r, isa, [], {"b": 3, "s": 17})
    check(movement("dims", [], {"values": (b,), "shape": ()}, dims=dims), isa, [], {"b": 0, "s": 1})
    check(movement("dims", [], {"values": (), "shape": (0,)}), isa, [])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", NUMBERS)
def test_ranges_of_every_type(d: DType, isa: Any) -> None:
    for size in (0, 1, 9, 100):
        check(movement("iota", [], {"size": size, "start": 3, "step": 1, "dtype": d}), isa, [])


@pytest.mark.parametrize("isa", ISAS)
def test_ranges_of_any_start_and_step(isa: Any) -> None:
    check(movement("iota", [], {"size": 10001, "start": 0, "step": 1, "dtype": DType.I64}), isa, [])
    check(movement("iota", [], {"size": 1000, "start": 5, "step": -3, "dtype": DType.I32}), isa, [])
    check(movement("iota", [], {"size": 1000, "start": 0.1, "step": 0.3, "dtype": DType.F32}), isa, [])
    check(movement("iota", [], {"size": 77, "start": -1e300, "step": 1e298, "dtype": DType.F64}), isa, [])


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_ranges(isa: Any) -> None:
    n, s = symbol("n"), symbol("s")
    dims = {"n": (0, 5, 9000), "s": (0, 2, 10)}
    for d in (DType.I64, DType.F32):
        r = movement("iota", [], {"size": n, "start": s, "step": 2, "dtype": d}, dims=dims)
        for size in (0, 1, 8, 4097):
            check(r, isa, [], {"n": size, "s": 3})
