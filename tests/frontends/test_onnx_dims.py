"""Symbolic dimensions: named, ranged, fixed, unified; and shape arithmetic folds into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_cases import by_onnxruntime, by_whet, model

from whet.errors import GraphError, ProfileError
from whet.frontends import load_model
from whet.ir import symbol, verify

F, I = np.float32, np.int64
node = helper.make_node


def relu(dims: tuple[Any, ...]) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], {"x": (F, dims)}, ["y"])


def test_default_ranges_suit_a_batch_and_a_length() -> None:
    g = load_model(relu(("batch", "seq", 4)))
    assert g.inputs[0].shape == (symbol("batch"), symbol("seq"), 4)
    assert g.dims == {"batch": (1, 1, 8), "seq": (1, 128, 512)}


def test_unnamed_dimensions_get_names_of_their_own() -> None:
    m = relu(("dim0", None, "?"))
    assert load_model(m).inputs[0].shape == (symbol("dim0"), symbol("dim1"), symbol("dim2"))


def test_names_that_are_no_identifiers_become_some() -> None:
    g = load_model(relu(("batch size", "past::seq", "2*n + 1")))
    assert g.inputs[0].shape == (symbol("batch_size"), symbol("past__seq"), symbol("n") * 2 + 1)


def test_shapes_fix_a_dimension_everywhere() -> None:
    nodes = [node("Add", ["a", "b"], ["y"])]
    m = model(nodes, {"a": (F, ("n", 4)), "b": (F, ("n", 4))}, ["y"])
    g = load_model(m, shapes={"a": (3, 4)})
    assert [v.shape for v in g.inputs] == [(3, 4), (3, 4)]
    assert g.dims == {}


def test_shapes_may_name_a_dimension_or_leave_it() -> None:
    g = load_model(relu((None, "seq")), shapes={"x": ("rows", None)})
    assert g.inputs[0].shape == (symbol("rows"), symbol("seq"))


def test_profiles_by_input_and_by_dimension() -> None:
    m = relu(("n", "s", 4))
    by_input = load_model(m, profiles=[{"x": ((1, 2, 4), (2, 8, 4), (4, 16, 4))}])
    by_name = load_model(m, profiles=[{"n": (1, 2, 4), "s": (2, 8, 16)}])
    assert by_input.dims == by_name.dims == {"n": (1, 2, 4), "s": (2, 8, 16)}


def test_a_range_of_one_value_fixes_the_dimension() -> None:
    g = load_model(relu(("n", "s")), profiles=[{"n": (2, 2, 2)}])
    assert g.inputs[0].shape == (2, symbol("s"))
    assert "n" not in g.dims


def test_dimensions_that_must_be_equal_are_taken_to_be() -> None:
    m = model([node("Add", ["a", "b"], ["y"])], {"a": (F, ("n", None)), "b": (F, (None, "s"))}, ["y"])
    g = load_model(m)
    assert g.inputs[0].shape == g.inputs[1].shape == (symbol("n"), symbol("s"))


def test_an_offset_between_dimensions_is_solved() -> None:
    m = model([node("Concat", ["past", "x"], ["all"], axis=1), node("Add", ["all", "mask"], ["y"])],
              {"past": (F, (1, "p")), "x": (F, (1, 1)), "mask": (F, (1, "t"))}, ["y"])
    assert load_model(m).outputs[0].shape == (1, symbol("p") + 1)


def test_dimensions_that_cannot_be_equal_are_an_error() -> None:
    m = model([node("Concat", ["a", "a"], ["b"], axis=0), node("Add", ["a", "b"], ["y"])], {"a": (F, ("n",))}, ["y"])
    with pytest.raises(GraphError, match="not known to be equal"):
        load_model(m)


def check(nodes: list[onnx.NodeProto], shape: tuple[Any, ...], feed: np.ndarray, ops: set[str] | None = None,
          constants: dict[str, Any] | None = None, opset: int = 18) -> None:
    """The model's output y equals ONNX Runtime's; `ops`: the only operators that may be left in the graph."""
    arrays = {k: np.asarray(v) for k, v in (constants or {}).items()}
    m = model(nodes, {"x": (feed.dtype, shape)}, ["y"], arrays, opset)
    g = load_model(m)
    verify(g)
    if ops is not None:
        assert {n.op for n in g.nodes} <= ops
    for a, b in zip(by_whet(m, {"x": feed}), by_onnxruntime(m, {"x": feed}), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_flatten_by_shape_gather_and_concat_is_one_reshape() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
             node("Unsqueeze", ["n", "axis"], ["n1"]),
             node("Concat", ["n1", "rest"], ["to"], axis=0), node("Reshape", ["x", "to"], ["y"])]
    check(nodes, ("n", 3, 4), np.ones((2, 3, 4), F), {"reshape"},
          {"zero": I(0), "axis": I([0]), "rest": I([-1])})


def test_heads_are_split_with_computed_sizes() -> None:
    nodes = [node("Shape", ["x"], ["b"], start=0, end=1), node("Shape", ["x"], ["s"], start=1, end=2),
             node("Concat", ["b", "s", "heads"], ["to"], axis=0), node("Reshape", ["x", "to"], ["v"]),
             node("Transpose", ["v"], ["y"], perm=[0, 2, 1, 3])]
    check(nodes, ("b", "s", 12), np.arange(72, dtype=F).reshape(2, 3, 12), {"reshape", "transpose"},
          {"heads": I([3, 4])})


def test_positions_are_an_iota_of_the_length() -> None:
    nodes = [node("Shape", ["x"], ["s"], start=1, end=2), node("Squeeze", ["s", "axis"], ["n"]),
             node("Range", ["zero", "n", "one"], ["y"])]
    check(nodes, ("b", "s"), np.ones((2, 5), F), {"iota"}, {"axis": I([0]), "zero": I(0), "one": I(1)})


def test_expand_with_minus_one_written_by_where() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Equal", ["s", "minus"], ["is"]),
             node("Where", ["is", "ones", "s"], ["to"]),
             node("Expand", ["v", "to"], ["y"])]
    check(nodes, ("b", 3), np.ones((2, 3), F), {"expand"},
          {"minus": I([-1, -1]), "ones": I([1, 1]), "v": F([[1], [2]])[:1]})


def test_half_of_a_size_by_float_arithmetic() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             node("Mul", ["f", "two"], ["d"]),
             node("Floor", ["d"], ["fl"]), node("Cast", ["fl"], ["i"], to=TensorProto.INT64),
             node("Slice", ["i", "at", "end"], ["hw"]), node("Concat", ["keep", "hw"], ["to"], axis=0),
             node("Resize", ["x", "", "", "to"], ["y"], mode="nearest")]
    check(nodes, (1, 2, "h", "w"), np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(F), {"resize"},
          {"two": F(2), "at": I([2]), "end": I([4]), "keep": I([1, 2])})


def test_a_table_cut_to_the_length_is_a_slice() -> None:
    nodes = [node("Shape", ["x"], ["s"], start=1, end=2), node("Slice", ["table", "zero", "s", "axis"], ["y"])]
    check(nodes, ("b", "s"), np.ones((2, 5), F), {"slice"},
          {"table": np.arange(1024, dtype=F).reshape(512, 2), "zero": I([0]), "axis": I([0])})


def test_sizes_used_as_data_are_a_dims_node() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             node("Div", ["x", "n"], ["q"]),
             node("Gather", ["f", "one"], ["n"]), node("Mul", ["q", "n"], ["y"])]
    check(nodes, ("b", "s"), np.ones((2, 5), F), {"dims", "cast", "div", "mul"}, {"one": I(1)})


def test_a_condition_on_static_shape_chooses_its_branch() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, ["x"], [f"{name}_y"])], name, [], [onnx.ValueInfoProto(name=f"{name}_y")])

    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["w"]), node("Equal", ["w", "four"], ["c"]),
             node("If", ["c"], ["y"], then_branch=branch("t", "Exp"), else_branch=branch("e", "Log"))]
    check(nodes, ("b", 4), np.ones((2, 4), F), {"exp"}, {"one": I(1), "four": I(4)})


def test_a_condition_on_data_keeps_its_branches() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, (2, 4))
        return helper.make_graph([node(op, ["x"], [f"{name}_y"])], name, [], [out])

    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "limit"], ["c"]),
             node("If", ["c"], ["y"], then_branch=branch("t", "Exp"), else_branch=branch("e", "Neg"))]
    for scale in (1, 10):
        check(nodes, (2, 4), np.full((2, 4), scale, F), {"reduce", "gt", "if"}, {"limit": F(5)})


def test_a_local_function_is_inlined() -> None:
    f = helper.make_function("my.domain", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
                             [helper.make_opsetid("", 18)])
    m = model([node("Twice", ["x"], ["t"], domain="my.domain"), node("Relu", ["t"], ["y"])], {"x": (F, (3,))}, ["y"],
              opset=18, domains={"my.domain": 1})
    m.functions.append(f)
    assert [n.op for n in load_model(m).nodes] == ["add", "relu"]
    np.testing.assert_array_equal(by_whet(m, {"x": F([1, -1, 2])})[0], [2, 0, 4])


def test_an_opset_before_numpy_broadcasting_is_converted() -> None:
    m = model([node("Add", ["x", "b"], ["y"], broadcast=1)], {"x": (F, (2, 3))}, ["y"], {"b": F([1, 2, 3])}, 6)
    m.ir_version = 3
    m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3)))
    m.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, (3,)))
    (y,) = by_whet(m, {"x": np.zeros((2, 3), F)})
    np.testing.assert_array_equal(y[0], [1, 2, 3])


def test_a_filled_constant_takes_no_memory() -> None:
    value = onnx.numpy_helper.from_array(F([0.5]))
    nodes = [node("ConstantOfShape", ["s"], ["w"], value=value), node("MatMul", ["x", "w"], ["y"])]
    m = model(nodes, {"x": (F, (1, 1 << 14))}, ["y"], {"s": I([1 << 14, 1 << 14])})
    w = next(v for v in load_model(m).values() if v.shape == (1 << 14, 1 << 14))
    assert w.data is not None
    assert w.data.strides == (0, 0)


def test_a_table_limits_the_length() -> None:
    nodes = [node("Shape", ["x"], ["s"], start=1, end=2), node("Slice", ["table", "zero", "s", "axis"], ["t"]),
             node("Add", ["x", "t"], ["y"])]
    constants = {"table": np.arange(64, dtype=F), "zero": I([0]), "axis": I([0])}
    m = model(nodes, {"x": (F, ("b", "s"))}, ["y"], constants)
    assert load_model(m).dims["s"] == (1, 64, 64)
    with pytest.raises(ProfileError, match="ranges to 100"):
        load_model(m, profiles=[{"s": (1, 50, 100)}])


def test_a_range_of_floats_over_a_symbolic_dimension() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "at"], ["n"]), node("Cast", ["n"], ["f"], to=1),
             node("Range", ["zero", "f", "two"], ["y"])]
    m = model(nodes, {"x": (F, ("n",))}, ["y"],
              {"at": np.array(0, I), "zero": np.array(0, F), "two": np.array(2, F)})
    g = load_model(m)
    assert not any(n.op in ("onnx", "dims") for n in g.nodes)
    for n in (1, 6, 7):
        (y,) = by_whet(m, {"x": np.zeros(n, F)})
        np.testing.assert_array_equal(y, np.arange(0, n, 2, dtype=F))


def padded_ends() -> onnx.ModelProto:
    """x[n] without its ends, by Slice (never below 0 elements), added to the same by a convolution (n - 2 elements)."""
    nodes = [node("Slice", ["x", "one", "end", "axis"], ["a"]), node("Conv", ["x", "w"], ["b"]),
             node("Add", ["a", "b"], ["y"])]
    return model(nodes, {"x": (F, (1, 1, "n"))}, ["y"], {
        "one": np.array([1], I), "end": np.array([-1], I), "axis": np.array([2], I), "w": np.ones((1, 1, 3), F)})


def test_a_size_that_must_not_be_negative_bounds_its_dimension_from_below() -> None:
    m = padded_ends()
    assert load_model(m).dims["n"][0] == 2
    x = np.arange(5, dtype=F).reshape(1, 1, 5)
    np.testing.assert_array_equal(by_whet(m, {"x": x})[0], [[[4, 8, 12]]])


def test_a_profile_that_goes_below_what_the_model_takes_is_refused() -> None:
    with pytest.raises(ProfileError, match="ranges from 1") as e:
        load_model(padded_ends(), profiles=[{"n": (1, 8, 16)}])
    assert "from 2 on" in e.value.why
