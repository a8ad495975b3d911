"""Sequences, optionals and strings: free where they are known, host nodes where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from control_cases import FALSE, TRUE, B, F, I, X, body, counter, if_model, imported, info, node, nodes_of
from onnx import TensorProto, TypeProto, ValueInfoProto, helper
from onnx_cases import by_whet, model

from whet import passes
from whet.errors import GraphError, InputError, UnsupportedError, WhetError
from whet.frontends import load_model
from whet.ir import DType, Graph, interpret
from whet.ir.ops_host import HOST

S = np.dtype(object)
FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(FLOATS)


def runs(m: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The outputs, the same before and after the passes."""
    a = interpret(imported(m), feeds)
    b = interpret(passes.run(imported(m), verify=True), feeds)
    for x, y in zip(a.values(), b.values(), strict=True):
        np.testing.assert_equal(x, y)
    return [a[o.name] for o in m.graph.output]


def hosts(g: Graph) -> list[str]:
    """The reference operators that are left."""
    return sorted(n.attrs["name"] for n in nodes_of(g) if n.op == "onnx")


def typed(m: onnx.ModelProto, **inputs: TypeProto) -> onnx.ModelProto:
    """The model with more inputs."""
    m.graph.input.extend(ValueInfoProto(name=k, type=t) for k, t in inputs.items())
    return m


# -- sequences ---------------------------------------------------------------------------------------


def test_sequences_of_known_length_leave_no_trace() -> None:
    nodes = [node("SplitToSequence", ["x"], ["s"], axis=1), node("SequenceErase", ["s", "one"], ["t"]),
             node("Exp", ["x"], ["e"]), node("SequenceInsert", ["t", "e", "zero"], ["u"]),
             node("SequenceLength", ["u"], ["n"]), node("SequenceAt", ["u", "last"], ["a"]),
             node("ConcatFromSequence", ["u"], ["y"], axis=1), node("Mul", ["a", "a"], ["z"])]
    m = model(nodes, {"x": (F, (2, 3))}, ["y", "z", "n"],
              {"one": np.asarray(1), "zero": np.asarray(0), "last": np.asarray(-1)})
    assert not {n.op for n in imported(m).nodes} & HOST
    y, z, n = runs(m, {"x": X})
    np.testing.assert_allclose(y, np.concatenate([np.exp(X), X[:, :1], X[:, 2:]], 1), rtol=1e-6)
    np.testing.assert_allclose(z, X[:, 2:] ** 2)
    assert n == 3


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("split", [None, 2, [1, 2]])
def test_a_split_that_is_stacked_again(split: Any, keepdims: int) -> None:
    names = ["x"] if split is None else ["x", "split"]
    nodes = [node("SplitToSequence", names, ["s"], axis=1, keepdims=keepdims), node("SequenceAt", ["s", "i"], ["y"])]
    constants = {"i": np.asarray(-1), **({} if split is None else {"split": np.asarray(split)})}
    m = model(nodes, {"x": (F, (2, 3))}, ["y"], constants)
    want = X[:, 1:] if isinstance(split, list) else X[:, 2] if split is None and not keepdims else X[:, 2:]
    np.testing.assert_array_equal(runs(m, {"x": X})[0], want)
    assert not hosts(imported(m))


def test_a_stack_has_a_new_axis() -> None:
    stack = node("ConcatFromSequence", ["s"], ["y"], axis=-1, new_axis=1)
    m = model([node("SequenceConstruct", ["x", "w"], ["s"]), stack], {"x": (F, (2, 3)), "w": (F, (2, 3))}, ["y"])
    np.testing.assert_array_equal(runs(m, {"x": X, "w": -X})[0], np.stack([X, -X], -1))
    assert not hosts(imported(m))


def test_an_item_at_a_computed_position_is_a_tensor_of_the_known_rank() -> None:
    m = model([node("SequenceConstruct", ["x", "w"], ["s"]), node("SequenceAt", ["s", "i"], ["a"]),
               node("Exp", ["a"], ["y"])], {"x": (F, (2, 3)), "w": (F, (5, 3)), "i": (I, ())}, ["y"])
    g = imported(m)
    assert g.outputs[0].dtype is DType.F32
    assert g.outputs[0].shape[1] == 3
    w = np.ones((5, 3), F)
    for i, want in ((0, X), (1, w), (-2, X)):
        np.testing.assert_allclose(runs(m, {"x": X, "w": w, "i": np.asarray(i)})[0], np.exp(want), rtol=1e-6)


def test_sequences_as_inputs_and_outputs_are_lists() -> None:
    nodes = [node("SequenceInsert", ["s", "x", "i"], ["t"]), node("SequenceLength", ["t"], ["n"])]
    m = typed(model(nodes, {"x": (F, (2, 3)), "i": (I, ())}, ["t", "n"]), s=SEQUENCE)
    for i in (0, 1, 2, -1):
        given = [np.zeros(4, F), np.ones((1, 1), F)]
        t, n = runs(m, {"s": given, "x": X, "i": np.asarray(i)})
        want = list(given)
        want.insert(i if i >= 0 else i + 2, X)
        np.testing.assert_equal(t, want)
        assert n == 3
        assert len(given) == 2
    assert runs(m, {"s": [], "x": X, "i": np.asarray(0)})[1] == 1


COLLECT = body([node("Mul", ["x", "x"], ["v"]), node("SequenceInsert", ["h", "v"], ["k"])],
               counter([ValueInfoProto(name="h", type=SEQUENCE)]), ["c", "k"])


@pytest.mark.parametrize(("new_axis", "axis"), [(1, 0), (1, -1), (1, 1), (0, 0), (0, 1), (0, -2)])
def test_a_sequence_that_a_loop_fills_is_stacked_while_it_runs(new_axis: int, axis: int) -> None:
    nodes = [node("SequenceEmpty", [], ["e"]), node("Loop", ["n", "", "e"], ["s"], body=COLLECT),
             node("ConcatFromSequence", ["s"], ["y"], axis=axis, new_axis=new_axis),
             node("SequenceLength", ["s"], ["l"]), node("SequenceAt", ["s", "last"], ["z"])]
    m = model(nodes, {"n": (I, ()), "x": (F, (2, 3))}, ["y", "l", "z"], {"last": np.asarray(-1)})
    assert not hosts(imported(m))
    y, l, z = runs(m, {"n": np.asarray(4), "x": X})
    np.testing.assert_array_equal(y, (np.stack if new_axis else np.concatenate)([X * X] * 4, axis))
    assert l == 4
    np.testing.assert_array_equal(z, X * X)


def test_a_sequence_that_a_loop_fills_is_a_list_where_it_leaves() -> None:
    nodes = [node("SequenceEmpty", [], ["e"]), node("Loop", ["n", "", "e"], ["s"], body=COLLECT)]
    m = model([*nodes, node("SequenceInsert", ["s", "x"], ["t"])], {"n": (I, ()), "x": (F, (2, 3))}, ["s", "t"])
    for n in (0, 2):
        s, t = runs(m, {"n": np.asarray(n), "x": X})
        np.testing.assert_equal(s, [X * X] * n)
        np.testing.assert_equal(t, [*[X * X] * n, X])


def test_a_sequence_of_different_shapes_is_filled_by_host_nodes() -> None:
    """The rank of its items is known all the same, though the first state has none."""
    nodes = [node("Concat", ["w", "x"], ["v"], axis=0), node("SequenceInsert", ["h", "v"], ["k"])]
    inside = body(nodes, counter([ValueInfoProto(name="h", type=SEQUENCE), info("w")]), ["c", "k", "v"])
    nodes = [node("SequenceEmpty", [], ["e"]), node("Loop", ["n", "", "e", "x"], ["s", "w"], body=inside),
             node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    m = model(nodes, {"n": (I, ()), "x": (F, (2, 3))}, ["y"])
    assert imported(m).outputs[0].shape[1] == 3
    assert runs(m, {"n": np.asarray(2), "x": X})[0].shape == (4 + 6, 3)


def test_sequence_map_over_known_items_is_unrolled() -> None:
    inside = body([node("Add", ["a", "b"], ["o"])], [info("a"), info("b")], ["o"])
    nodes = [node("SplitToSequence", ["x"], ["s"], axis=0), node("SequenceMap", ["s", "w"], ["t"], body=inside),
             node("ConcatFromSequence", ["t"], ["y"], axis=0)]
    m = model(nodes, {"x": (F, (2, 3)), "w": (F, (1, 3))}, ["y"])
    assert not {n.op for n in imported(m).nodes} & HOST
    np.testing.assert_array_equal(runs(m, {"x": X, "w": X[:1]})[0], X + X[:1])


def test_a_short_loop_over_known_items_is_taken_apart() -> None:
    nodes = [node("SequenceAt", ["s", "i"], ["v"]), node("Add", ["h", "v"], ["k"]), node("Mul", ["k", "k"], ["o"])]
    inside = body(nodes, counter([info("h")]), ["c", "k", "o"])
    nodes = [node("SplitToSequence", ["x", "one"], ["s"], axis=1), node("SequenceLength", ["s"], ["n"]),
             node("SequenceAt", ["s", "zero"], ["f"]), node("Loop", ["n", "", "f"], ["y", "z"], body=inside)]
    m = model(nodes, {"x": (F, ("b", 3))}, ["y", "z"], {"one": np.asarray(1), "zero": np.asarray(0)})
    assert not {n.op for n in imported(m).nodes} & HOST
    y, z = runs(m, {"x": X})
    sums = X[:, :1] + np.cumsum(X, 1)
    np.testing.assert_array_equal(y, sums[:, 2:])
    np.testing.assert_array_equal(z, np.stack([sums[:, i:i + 1] ** 2 for i in range(3)]))


def test_a_position_outside_a_known_sequence_is_an_error() -> None:
    m = model([node("SequenceConstruct", ["x"], ["s"]), node("SequenceAt", ["s", "i"], ["y"])], {"x": (F, (2, 3))},
              ["y"], {"i": np.asarray(1)})
    with pytest.raises(GraphError, match="position 1 in a sequence of 1"):
        imported(m)


# -- optionals ---------------------------------------------------------------------------------------


def test_optionals_that_are_known_leave_no_trace() -> None:
    nodes = [node("Optional", ["x"], ["a"]), node("OptionalHasElement", ["a"], ["p"]),
             node("If", ["p"], ["y"], then_branch=body([node("OptionalGetElement", ["a"], ["t"])], [], ["t"]),
                  else_branch=body([node("Neg", ["x"], ["e"])], [], ["e"]))]
    m = model([*nodes, node("Exp", ["y"], ["z"])], {"x": (F, (2, 3))}, ["z"])
    assert [n.op for n in imported(m).nodes] == ["exp"]


@pytest.mark.parametrize("given", [None, X])
def test_an_optional_input_is_a_value_or_none(given: Any) -> None:
    maybe = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, (2, 3)))
    nodes = [node("OptionalHasElement", ["o"], ["p"]),
             node("If", ["p"], ["y"], then_branch=body([node("OptionalGetElement", ["o"], ["t"])], [], ["t"]),
                  else_branch=body([node("Neg", ["x"], ["e"])], [], ["e"]))]
    m = typed(model([*nodes, node("Exp", ["y"], ["z"])], {"x": (F, (2, 3))}, ["z"]), o=maybe)
    assert imported(m).outputs[0].shape == (2, 3)
    want = np.exp(-X if given is None else given)
    np.testing.assert_allclose(runs(m, {"x": X, "o": given})[0], want, rtol=1e-6)


def test_an_absent_optional_is_none() -> None:
    nodes = [node("Optional", [], ["o"], type=FLOATS), node("OptionalHasElement", ["o"], ["p"])]
    o, p = runs(model(nodes, {"x": (F, (1,))}, ["o", "p"]), {"x": X[0, :1]})
    assert o is None
    assert not p


def test_a_branch_may_lack_what_the_other_has() -> None:
    m = if_model(body([node("Optional", ["x"], ["a"])], [], ["a"]),
                 body([node("Optional", [], ["b"], type=FLOATS)], [], ["b"]))
    assert runs(m, {**FALSE, "x": X})[0] is None
    np.testing.assert_array_equal(runs(m, {**TRUE, "x": X})[0], X)


# -- strings -----------------------------------------------------------------------------------------

WORDS = np.array([["a", "bb"], ["", "déjà vu"]], object)


@pytest.mark.parametrize(("op", "extra", "want"), [
    ("Reshape", {"k": [4]}, WORDS.reshape(4)), ("Expand", {"k": [3, 2, 2]}, np.broadcast_to(WORDS, (3, 2, 2))),
    ("Gather", {"k": [1]}, WORDS[[1]]), ("Tile", {"k": [1, 2]}, np.tile(WORDS, (1, 2))),
    ("Unsqueeze", {"k": [0]}, WORDS[None]), ("Transpose", {}, WORDS.T), ("Identity", {}, WORDS),
    ("Flatten", {}, WORDS), ("Shape", {}, np.asarray([2, 2])), ("Size", {}, np.asarray(4)),
])
def test_strings_are_moved_by_host_nodes(op: str, extra: dict[str, Any], want: np.ndarray) -> None:
    constants = {k: np.asarray(v) for k, v in extra.items()}
    m = model([node(op, ["x", *extra], ["y"])], {"x": (S, ("n", 2))}, ["y"], constants)
    assert not {v.dtype for n in imported(m).nodes if n.op not in HOST for v in n.inputs if v} & {DType.STRING}
    got, = runs(m, {"x": WORDS})
    assert got.shape == want.shape
    assert (got == want).all()


def test_strings_beside_numbers() -> None:
    nodes = [node("Equal", ["x", "word"], ["e"]), node("Where", ["e", "word", "x"], ["w"]),
             node("Concat", ["w", "x"], ["y"], axis=1), node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
             node("ReduceSum", ["f"], ["n"], keepdims=0), node("Cast", ["n"], ["t"], to=TensorProto.STRING),
             node("StringConcat", ["t", "word"], ["z"])]
    m = model(nodes, {"x": (S, (2, 2))}, ["y", "n", "z"], {"word": np.array(["a"], object)})
    y, n, z = runs(m, {"x": WORDS})
    assert y.tolist() == [["a", "bb", "a", "bb"], ["", "déjà vu", "", "déjà vu"]]
    assert n == 1
    assert z.tolist() == ["1.0a"]
    assert {"reduce", "cast"} <= {n.op for n in imported(m).nodes}


def test_strings_through_control_flow_and_sequences() -> None:
    inside = body([node("StringConcat", ["h", "x"], ["k"]), node("SequenceInsert", ["s", "k"], ["t"])],
                  counter([info("h", TensorProto.STRING), ValueInfoProto(name="s")]), ["c", "k", "t"])
    nodes = [node("SequenceEmpty", [], ["e"], dtype=TensorProto.STRING),
             node("Loop", ["n", "", "x", "e"], ["y", "s"], body=inside),
             node("ConcatFromSequence", ["s"], ["z"], axis=0)]
    m = model(nodes, {"n": (I, ()), "x": (S, (2,))}, ["y", "z"])
    y, z = runs(m, {"n": np.asarray(2), "x": np.array(["a", "b"], object)})
    assert y.tolist() == ["aaa", "bbb"]
    assert z.tolist() == ["aa", "bb", "aaa", "bbb"]


def test_strings_that_are_constant_are_worked_out_when_the_plan_is_built() -> None:
    nodes = [node("StringConcat", ["a", "a"], ["b"]), node("Equal", ["b", "x"], ["y"])]
    m = model(nodes, {"x": (S, (1,))}, ["y"], {"a": np.array(["q"], object)})
    assert hosts(imported(m)) == ["Equal"]
    assert runs(m, {"x": np.array(["qq"], object)})[0].tolist() == [True]


# -- reference nodes ---------------------------------------------------------------------------------


def test_operators_on_what_has_no_known_rank_are_reference_nodes() -> None:
    nodes = [node("Exp", ["o"], ["a"]), node("Shape", ["a"], ["s"]), node("ReduceSum", ["a"], ["y"], keepdims=0)]
    m = typed(model(nodes, {}, ["y", "s"]), o=FLOATS)
    assert hosts(imported(m)) == ["Exp", "ReduceSum", "Shape"]
    for x in (X, X[0]):
        y, s = runs(m, {"o": x})
        np.testing.assert_allclose(y, np.exp(x).sum(), rtol=1e-6)
        assert tuple(s) == x.shape


def test_an_operator_that_nothing_implements_is_an_error_of_the_build() -> None:
    domain = "ai.onnx.preview.training"
    m = model([node("Gradient", ["x"], ["y"], domain=domain, xs=["x"], y="x")], {"x": (F, (2,))}, ["y"],
              domains={domain: 1})
    with pytest.raises(UnsupportedError) as e:
        load_model(m)
    assert "Gradient" in str(e.value)


def test_random_numbers_are_not_drawn_when_the_plan_is_built() -> None:
    g = imported(model([node("RandomNormal", [], ["y"], shape=[1000])], {}, ["y"]))
    assert (interpret(g, {})["y"] != interpret(g, {})["y"]).any()


def test_what_the_reference_cannot_run_names_the_node() -> None:
    m = typed(model([node("SequenceAt", ["s", "i"], ["y"], name="pick")], {"i": (I, ())}, ["y"]), s=SEQUENCE)
    with pytest.raises(WhetError, match="SequenceAt"):
        by_whet(m, {"s": [X], "i": np.asarray(5)})


def test_a_sequence_is_given_no_shape() -> None:
    m = typed(model([node("SequenceLength", ["s"], ["y"])], {}, ["y"]), s=SEQUENCE)
    with pytest.raises(InputError, match="no tensor"):
        load_model(m, shapes={"s": (2,)})


def test_a_condition_of_one_element_in_any_rank() -> None:
    m = if_model(body([node("Exp", ["x"], ["a"])], [], ["a"]), body([node("Neg", ["x"], ["b"])], [], ["b"]),
                 {"x": (F, (2, 3))})
    m.graph.input[0].CopyFrom(info("p", TensorProto.BOOL, (1, 1)))
    np.testing.assert_array_equal(by_whet(m, {"p": np.zeros((1, 1), B), "x": X})[0], -X)
