"""The pointwise operators mean what IEEE 754 and ONNX say, without NumPy warnings."""

from __future__ import annotations

import math
import warnings

import ml_dtypes
import numpy as np
import pytest

from whet.errors import GraphError
from whet.ir import DType, Graph, Value
from whet.ir.ops import OPS, POINTWISE
from whet.ir.ops_pointwise import erf

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3e38, -3e38, 1e-40, np.inf, -np.inf, np.nan], np.float32)


def test_erf_is_accurate_to_two_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.0, -0.0, 1e-300, 1e300, -1e300]])
    want = np.array([math.erf(v) for v in x])
    assert np.max(np.abs(erf(x) - want) / np.maximum(np.abs(want), 1e-308)) < 2 * np.finfo(np.float64).eps
    assert np.isnan(erf(np.array([np.nan])))[0]
    np.testing.assert_array_equal(erf(np.array([np.inf, -np.inf])), [1, -1])


@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_no_operator_warns_on_special_values(name: str) -> None:
    row = POINTWISE[name]
    attrs = {"to": DType.I32} if name == "cast" else {}
    for dtype in DType:
        if dtype.is_host:
            continue
        with np.errstate(all="ignore"):
            x = SPECIAL.astype(dtype.np)
        kinds = [DType.BOOL, dtype, dtype] if name == "where" else [dtype] * row.arity
        args = [x.astype(k.np) if k is DType.BOOL else x for k in kinds]
        try:
            out = row.result(kinds, attrs)
        except GraphError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            y = row.reference(*args, **attrs)
        assert y.shape == x.shape
        assert DType.of(y.dtype) is out


@pytest.mark.parametrize("name", ["max", "min"])
def test_nan_passes_through_max_and_min_from_either_side(name: str) -> None:
    a, b = np.float32([np.nan, 1, np.nan]), np.float32([1, np.nan, np.nan])
    assert np.isnan(POINTWISE[name].reference(a, b)).all()


def test_relu_keeps_nan() -> None:
    np.testing.assert_array_equal(POINTWISE["relu"].reference(np.float32([-1, np.nan, 2])), [0, np.nan, 2])


def test_integer_division_truncates_towards_zero() -> None:
    a, b = np.array([7, -7, 7, -7, 6], np.int32), np.array([2, 2, -2, -2, 3], np.int32)
    np.testing.assert_array_equal(POINTWISE["div"].reference(a, b), [3, -3, -3, 3, 2])


def test_mod_takes_the_sign_of_the_divisor_or_of_the_dividend() -> None:
    a, b = np.array([-4, 7, 5], np.int32), np.array([3, -4, 8], np.int32)
    np.testing.assert_array_equal(POINTWISE["mod"].reference(a, b), [2, -1, 5])
    np.testing.assert_array_equal(POINTWISE["mod"].reference(a, b, fmod=True), [-1, 3, 5])


def test_integer_powers_with_negative_exponents() -> None:
    a, b = np.array([2, 1, -1, -1, 3]), np.array([-1, -5, -3, -2, 2])
    np.testing.assert_array_equal(POINTWISE["pow"].reference(a, b), [0, 1, -1, 1, 9])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_are_computed_in_float32_and_rounded_once(dtype: type) -> None:
    x = np.array([0.1, 3.0, -7.5], dtype)
    want = (1 / (1 + np.exp(-x.astype(np.float32)))).astype(dtype)
    np.testing.assert_array_equal(POINTWISE["sigmoid"].reference(x), want)


def test_round_goes_to_even() -> None:
    np.testing.assert_array_equal(POINTWISE["round"].reference(np.float32([0.5, 1.5, 2.5, -0.5])), [0, 2, 2, 0])


def test_isinf_by_sign() -> None:
    x = np.float32([np.inf, -np.inf, np.nan, 1])
    np.testing.assert_array_equal(POINTWISE["isinf"].reference(x, positive=False), [0, 1, 0, 0])


@pytest.mark.parametrize(("op", "dtypes"), [
    ("add", [DType.F32, DType.F64]), ("sqrt", [DType.I32]), ("and", [DType.F32, DType.F32]),
    ("where", [DType.F32, DType.F32, DType.F32]), ("where", [DType.BOOL, DType.F32, DType.I32]),
    ("neg", [DType.U8]), ("bitand", [DType.F32, DType.F32]), ("lt", [DType.BOOL, DType.BOOL]),
])
def test_operand_types_that_do_not_fit_are_refused_with_the_node_named(op: str, dtypes: list[DType]) -> None:
    g = Graph()
    with pytest.raises(GraphError) as e:
        g.add(op, [Value(f"v{i}", t, (2,)) for i, t in enumerate(dtypes)], origin="the node")
    assert e.value.where == "the node"


def test_every_pointwise_operator_has_a_row_of_one_output() -> None:
    for name, row in POINTWISE.items():
        assert OPS[name].inputs == (row.arity, row.arity)
