"""Shape rules keep symbols, and every rule agrees with what its reference computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import GraphError, UnsupportedError
from whet.ir import DType, Graph, Node, Value, interpret, symbol, verify
from whet.ir.ops import DimConflictError, evaluate, infer

B, S = symbol("b"), symbol("s")


def f32(*shape: Any) -> Value:
    return Value("x", DType.F32, shape)


def shape_of(op: str, *ins: Value, **attrs: Any) -> tuple[Any, ...]:
    return infer(op, list(ins), attrs)[0][1]


def test_broadcasting_keeps_symbols() -> None:
    assert shape_of("add", f32(B, 1, 4), f32(S, 4)) == (B, S, 4)


def test_two_symbols_are_not_taken_to_be_equal() -> None:
    with pytest.raises(DimConflictError) as e:
        shape_of("add", f32(B), f32(S))
    assert {e.value.a, e.value.b} == {B, S}


def test_convolution_of_a_symbolic_image() -> None:
    got = shape_of("conv", f32(B, 3, S, S), f32(8, 3, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    assert got == (B, 8, (S - 1) // 2 + 1, (S - 1) // 2 + 1)


def test_concat_adds_symbols() -> None:
    assert shape_of("concat", f32(B, 1, 4), f32(B, S, 4), axis=1) == (B, S + 1, 4)


def test_pad_and_slice_of_symbols() -> None:
    assert shape_of("pad", f32(B, S), pads=(0, 1, 0, 2)) == (B, S + 3)
    assert shape_of("slice", f32(B, S), starts=(0, 1), sizes=(B, S - 1), steps=(1, 1)) == (B, S - 1)


def test_defaults_and_normal_forms_are_written_into_the_attributes() -> None:
    attrs: dict[str, Any] = {"axis": -1}
    infer("softmax", [f32(2, 3)], attrs)
    assert attrs == {"axis": 1, "log": False}
    attrs = {"kind": "sum", "axes": [-1, 0]}
    infer("reduce", [f32(2, 3)], attrs)
    assert attrs["axes"] == (0, 1)


@pytest.mark.parametrize(("op", "ins", "attrs"), [
    ("matmul", [f32(2, 3), f32(4, 5)], {}),
    ("matmul", [f32(3), f32(3, 5)], {}),
    ("conv", [f32(1, 3, 8, 8), f32(4, 2, 3, 3)], {}),
    ("conv", [f32(1, 3, 2, 2), f32(4, 3, 5, 5)], {}),
    ("conv", [f32(1, 4, 8, 8), f32(3, 2, 3, 3)], {"group": 2}),
    ("pool", [f32(1, 3, 8, 8)], {"kind": "max", "kernel": (2,)}),
    ("reduce", [f32(2, 3)], {"kind": "sum", "axes": (2,)}),
    ("reduce", [f32(2, 3)], {"kind": "median", "axes": (0,)}),
    ("reshape", [f32(2, 3)], {"shape": (5,)}),
    ("transpose", [f32(2, 3)], {"perm": (0, 0)}),
    ("slice", [f32(4)], {"starts": (2,), "sizes": (3,), "steps": (1,)}),
    ("slice", [f32(4)], {"starts": (0,), "sizes": (2,), "steps": (0,)}),
    ("concat", [f32(2, 3), f32(2, 4)], {"axis": 0}),
    ("expand", [f32(2)], {"shape": (3,)}),
    ("gather", [f32(2), f32(2)], {}),
    ("layernorm", [f32(2, 4), f32(5)], {}),
    ("groupnorm", [f32(2, 4, 3), f32(4), f32(4)], {"groups": 3}),
    ("attention", [f32(1, 2, 3, 4), f32(1, 2, 3, 5), f32(1, 2, 3, 4)], {"scale": 1.0}),
    ("softmax", [f32(2)], {"axis": 0, "temperature": 2}),
    ("softmax", [], {}),
    ("topk", [f32(3)], {"k": 4}),
])
def test_operands_that_break_a_rule_are_refused(op: str, ins: list[Value], attrs: dict[str, Any]) -> None:
    with pytest.raises(GraphError) as e:
        infer(op, ins, dict(attrs), "a node")
    assert e.value.where == "a node"
    assert e.value.what


def test_an_operator_that_is_not_in_the_table_is_unsupported() -> None:
    with pytest.raises(UnsupportedError):
        infer("frobnicate", [], {})


sizes = st.integers(1, 5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_rule_gives_the_shape_that_the_reference_computes(data: st.DataObject) -> None:
    """With symbols in place of the input's sizes, the inferred shape evaluates to the computed one."""
    rank = data.draw(st.integers(1, 2))
    spatial = [data.draw(st.integers(4, 9)) for _ in range(rank)]
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    last = data.draw(st.booleans())
    g = Graph()
    g.dims = {"n": (0, 1, 9)} | {f"d{i}": (1, 4, 9) for i in range(rank)}
    dims = [symbol(f"d{i}") for i in range(rank)]
    x = Value("x", DType.F32, (symbol("n"), *dims, 4) if last else (symbol("n"), 4, *dims))
    g.inputs = [x]
    window = {"strides": tuple(data.draw(st.integers(1, 3)) for _ in range(rank)),
              "dilations": tuple(1 for _ in range(rank)),
              "pads": tuple(data.draw(st.integers(0, 1)) for _ in range(2 * rank)), "channels_last": last}
    kind = data.draw(st.sampled_from(["conv", "conv_transpose", "max", "average", "lp"]))
    if kind == "conv":
        w = g.const(np.ones((6, 2, *kernel), np.float32))
        y = g.add("conv", [x, w], {**window, "group": 2})
    elif kind == "conv_transpose":
        w = g.const(np.ones((4, 3, *(k + 2 for k in kernel)), np.float32))
        y = g.add("conv_transpose", [x, w], {**window, "group": 2})
    else:
        y = g.add("pool", [x], {**window, "kind": kind, "kernel": kernel})
    z = g.add("reduce", [y], {"kind": "mean", "axes": (1,), "keepdims": data.draw(st.booleans())})
    g.outputs = [y, z]
    verify(g)
    n = data.draw(st.integers(0, 2))
    array = np.ones((n, *spatial, 4) if last else (n, 4, *spatial), np.float32)
    env = {"n": n} | {f"d{i}": s for i, s in enumerate(spatial)}
    from whet.ir.symbolic import evaluate as value

    for v, got in zip(g.outputs, interpret(g, {"x": array}).values()):
        assert got.shape == tuple(value(d, env) for d in v.shape)


def test_channels_last_and_first_agree() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4, 7, 6)).astype(np.float32), rng.standard_normal((6, 2, 3, 3)).astype(np.float32)

    def run(last: bool) -> np.ndarray:
        a = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
        node = Node("conv", [], [Value("y", DType.F32, ())], {"group": 2, "channels_last": last})
        (y,) = evaluate(node, [a, w])
        return np.moveaxis(y, -1, 1) if last else y

    np.testing.assert_allclose(run(True), run(False), rtol=1e-5, atol=1e-5)


def test_a_fully_masked_row_of_attention_is_nan_or_zero() -> None:
    q = np.ones((1, 1, 2, 4), np.float32)
    mask = np.array([[True, True], [False, False]])
    for zero, want in ((False, np.nan), (True, 0.0)):
        node = Node("attention", [], [Value("y", DType.F32, ())], {"scale": 1.0, "masked_zero": zero})
        (y,) = evaluate(node, [q, q, q, mask])
        np.testing.assert_array_equal(y[0, 0, 0], 1)
        np.testing.assert_array_equal(y[0, 0, 1], want)


def test_an_index_outside_is_an_error_and_a_negative_one_counts_from_the_end() -> None:
    node = Node("gather", [], [Value("y", DType.F32, ())], {"axis": 0})
    x = np.arange(3, dtype=np.float32)
    assert evaluate(node, [x, np.array(-1)])[0] == 2
    with pytest.raises(IndexError):
        evaluate(node, [x, np.array(3)])


def test_results_are_dense_arrays_of_the_declared_type_and_scalars_stay_scalars() -> None:
    node = Node("transpose", [], [Value("y", DType.F32, ())], {"perm": (1, 0)})
    (y,) = evaluate(node, [np.ones((2, 3), np.float32)])
    assert y.flags.c_contiguous
    node = Node("reduce", [], [Value("y", DType.F32, ())], {"kind": "sum", "axes": (0,), "keepdims": False})
    assert evaluate(node, [np.ones(3, np.float32)])[0].shape == ()


@pytest.mark.parametrize("d", [d for d in DType if d.is_storage], ids=lambda d: d.value)
def test_storage_types_are_not_computed_with(d: DType) -> None:
    x = Value("x", d, (4, 4))
    i, flag = Value("i", DType.I64, (4, 4)), Value("flag", DType.BOOL, (4, 4))
    for op, inputs, attrs in (("add", [x, x], {}), ("eq", [x, x], {}), ("matmul", [x, x], {}), ("neg", [x], {}),
                              ("reduce", [x], {"kind": "max", "axes": (0,)}), ("topk", [x], {"k": 2}),
                              ("cumsum", [x], {"axis": 0}), ("softmax", [x], {"axis": 1}),
                              ("scatter_elements", [x, i, x], {"reduction": "add"})):
        if (op, d) == ("matmul", DType.F8E4M3FN):  # a product of codes, as of i8
            assert infer(op, inputs, attrs) == [(DType.F32, (4, 4))]
            continue
        with pytest.raises(GraphError):
            infer(op, inputs, attrs)
    assert infer("where", [flag, x, x], {}) == [(d, (4, 4))]
    assert infer("cast", [x], {"to": DType.F32}) == [(DType.F32, (4, 4))]
    with pytest.raises(GraphError, match="round"):
        infer("cast", [x], {"to": DType.F8E8M0FNU, "round_mode": "sideways"})
