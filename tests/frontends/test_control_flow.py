"""If, Loop and Scan: bodies of whet's own operators, equal to ONNX Runtime's, whatever is nested in what."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from control_cases import FALSE, TRUE, B, F, I, X, body, counter, if_model, imported, info, loop_model, node, nodes_of
from onnx import GraphProto, TensorProto
from onnx_cases import by_onnxruntime, by_whet, model
from random_control_flow import random_model

from whet.errors import GraphError, UnsupportedError
from whet.frontends import load_model
from whet.ir import DType, Graph, interpret


def check(m: onnx.ModelProto, *feeds: dict[str, np.ndarray], ops: set[str] | None = None) -> Graph:
    """whet's outputs equal ONNX Runtime's, before and after the passes; `ops` are all that the graph may have."""
    from whet import passes

    g = imported(m)
    if ops is not None:
        assert {n.op for n in nodes_of(g)} <= ops
    done = passes.run(imported(m), verify=True)
    for f in feeds:
        want = by_onnxruntime(m, f)
        for graph in (g, done):
            for got, w in zip(interpret(graph, f).values(), want, strict=True):
                assert (got.shape, got.dtype) == (w.shape, w.dtype)
                np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-6)
    return g


# -- random models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_random_control_flow_equals_onnx_runtime(seed: int) -> None:
    m, feeds = random_model(seed, depth=2 + seed % 2)
    check(m, *feeds)


# -- If ----------------------------------------------------------------------------------------------


def test_branches_keep_what_they_agree_on_of_a_shape() -> None:
    m = if_model(body([node("Concat", ["x", "x"], ["a"], axis=0)], [], ["a"]),
                 body([node("Exp", ["x"], ["b"])], [], ["b"]))
    g = check(m, {**TRUE, "x": X}, {**FALSE, "x": X}, ops={"if", "concat", "exp"})
    rows, columns = g.outputs[0].shape
    assert columns == 3
    assert str(rows) in g.sizes


def test_branches_of_different_ranks_give_an_object() -> None:
    m = if_model(body([node("ReduceSum", ["x"], ["a"], keepdims=0)], [], ["a"]),
                 body([node("Neg", ["x"], ["b"])], [], ["b"]))
    m.graph.node.append(node("Add", ["y", "y"], ["z"]))
    m.graph.output[0].name = "z"
    g = imported(m)
    assert g.outputs[0].dtype is DType.OBJECT
    for feed, want in ((TRUE, X.sum()), (FALSE, -X)):
        np.testing.assert_array_equal(interpret(g, {**feed, "x": X})["z"], want * 2)


def test_a_branch_may_give_a_captured_value_a_constant_or_the_same_twice() -> None:
    nodes = [node("Neg", ["x"], ["n"]),
             node("If", ["p"], ["a", "b", "c"], then_branch=body([], [], ["x", "k", "x"]),
                  else_branch=body([node("Exp", ["n"], ["e"])], [], ["e", "n", "e"]))]
    m = model(nodes, {"p": (B, ()), "x": (F, (2, 3))}, ["a", "b", "c"], {"k": X * 7})
    for feed, want in ((TRUE, [X, X * 7, X]), (FALSE, [np.exp(-X), -X, np.exp(-X)])):
        for got, w in zip(by_whet(m, {**feed, "x": X}), want):
            np.testing.assert_allclose(got, w, rtol=1e-6)


def test_a_body_takes_only_what_it_reads_and_constants_as_they_are() -> None:
    m = if_model(body([node("Mul", ["x", "k"], ["a"])], [], ["a"]), body([node("Neg", ["w"], ["b"])], [], ["b"]),
                 {"x": (F, (2, 3)), "w": (F, (2, 3)), "unread": (F, (5,))}, {"k": np.asarray(2, F)})
    (n,) = check(m, {**TRUE, "x": X, "w": X + 1, "unread": np.zeros(5, F)}).nodes
    assert [v.name for v in n.inputs if v] == ["p", "x", "w"]


def test_a_name_inside_may_hide_one_outside() -> None:
    hides = body([node("Neg", ["w"], ["x"]), node("Exp", ["x"], ["a"])], [], ["a"])
    m = if_model(hides, body([node("Neg", ["x"], ["b"])], [], ["b"]), {"x": (F, (2, 3)), "w": (F, (2, 3))})
    for feed, want in ((TRUE, np.exp(-2 * X)), (FALSE, -X)):
        np.testing.assert_allclose(by_whet(m, {**feed, "x": X, "w": 2 * X})[0], want, rtol=1e-6)


def test_symbolic_dimensions_keep_their_names_inside() -> None:
    flat = [node("Shape", ["x"], ["s"]), node("ReduceProd", ["s"], ["k"], keepdims=1),
            node("Reshape", ["x", "k"], ["v"]), node("Expand", ["v", "k"], ["a"])]
    m = if_model(body(flat, [], ["a"]), body([*flat[:-1], node("Neg", ["v"], ["b"])], [], ["b"]),
                 {"x": (F, ("n", 3))})
    g = check(m, {**TRUE, "x": X}, {**FALSE, "x": np.ones((4, 3), F)})
    assert [str(d) for d in g.outputs[0].shape] == ["3*n"]
    assert all(b.dims == g.dims for b in g.bodies())


def test_branches_that_do_not_fit_are_an_error() -> None:
    a, b = body([node("Neg", ["x"], ["a"])], [], ["a"]), body([node("Greater", ["x", "x"], ["b"])], [], ["b"])
    with pytest.raises(GraphError, match="f32 and bool"):
        imported(if_model(a, b))
    with pytest.raises(GraphError, match="different numbers"):
        imported(if_model(a, body([node("Neg", ["x"], ["a"])], [], ["a", "a"])))


# -- Loop --------------------------------------------------------------------------------------------


SUM = body([node("Identity", ["c"], ["d"]), node("Add", ["h", "w"], ["k"]), node("Mul", ["k", "k"], ["o"])],
           counter([info("h", shape=(2, 3))]), ["d", "k", "o"])


@pytest.mark.parametrize("n", [0, 1, 5, -2])
def test_a_loop_with_states_slices_and_captures(n: int) -> None:
    m = loop_model(SUM, ["x"], ["y", "z"], {"n": (I, ()), "x": (F, (2, 3)), "w": (F, (2, 3))})
    g = check(m, {"n": np.asarray(n), "x": X, "w": X + 1}, ops={"loop", "add", "mul"})
    trips, *rest = g.outputs[1].shape
    assert rest == [2, 3]
    assert str(trips) in g.sizes


def test_a_constant_trip_count_is_a_dimension() -> None:
    m = loop_model(SUM, ["x"], ["y", "z"], {"x": (F, (2, 3)), "w": (F, (2, 3))}, constants={"n": np.asarray(4)})
    assert check(m, {"x": X, "w": X}).outputs[1].shape == (4, 2, 3)


def test_a_loop_ends_with_its_condition() -> None:
    nodes = [node("Add", ["h", "one"], ["k"]), node("ReduceSum", ["k"], ["t"], keepdims=0),
             node("Less", ["t", "top"], ["d"])]
    inside = body(nodes, counter([info("h", shape=(2, 3))]), ["d", "k"])
    m = loop_model(inside, ["x"], ["y"], {"x": (F, (2, 3)), "p": (B, ())}, "", "p",
                   {"one": np.asarray(1, F), "top": np.asarray(20, F)})
    check(m, {"x": X, **TRUE}, {"x": X, **FALSE})


def test_a_state_that_grows_has_a_dimension_of_each_iteration() -> None:
    inside = body([node("Identity", ["c"], ["d"]), node("Concat", ["h", "w"], ["k"], axis=0)],
                  counter([info("h", shape=(None, 3))]), ["d", "k"])
    m = loop_model(inside, ["x"], ["y"], {"n": (I, ()), "x": (F, (1, 3)), "w": (F, ("b", 3))})
    feeds = [{"n": np.asarray(n), "x": X[:1], "w": np.ones((b, 3), F)} for n, b in itertools.product((0, 1, 3), (1, 2))]
    check(m, *feeds, ops={"loop", "concat"})


def test_a_state_that_changes_rank_is_an_object() -> None:
    inside = body([node("Identity", ["c"], ["d"]), node("Unsqueeze", ["h", "zero"], ["k"])], counter([info("h")]),
                  ["d", "k"], {"zero": np.asarray([0])})
    m = loop_model(inside, ["x"], ["y"], {"n": (I, ()), "x": (F, (2, 3))})
    for n in (0, 3):
        assert by_whet(m, {"n": np.asarray(n), "x": X})[0].shape == (1,) * n + (2, 3)


def test_states_may_change_places_and_pass_through() -> None:
    inside = body([], counter([info("a", shape=(2, 3)), info("b", shape=(2, 3))]), ["c", "b", "a", "a", "x", "i"])
    m = model([node("Loop", ["n", "", "x", "w"], ["p", "q", "r", "s", "t"], body=inside)],
              {"n": (I, ()), "x": (F, (2, 3)), "w": (F, (2, 3))}, ["p", "q", "r", "s", "t"])
    p, q, r, s, t = by_whet(m, {"n": np.asarray(3), "x": X, "w": -X})
    np.testing.assert_array_equal(p, -X)
    np.testing.assert_array_equal(q, X)
    np.testing.assert_array_equal(r, [X, -X, X])
    np.testing.assert_array_equal(s, [X, X, X])
    np.testing.assert_array_equal(t, [0, 1, 2])


@pytest.mark.parametrize("rows", [4, "b"])
def test_what_is_cut_by_the_counter_has_a_known_size(rows: int | str) -> None:
    """So a loop over a tensor's rows costs no new shapes: each row is gathered."""
    nodes = [node("Identity", ["c"], ["d"]), node("Add", ["i", "one"], ["j"]), node("Unsqueeze", ["i", "zero"], ["a"]),
             node("Unsqueeze", ["j", "zero"], ["b"]), node("Slice", ["x", "a", "b"], ["o"])]
    inside = body(nodes, counter([]), ["d", "o"])
    m = model([node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
               node("Loop", ["n", ""], ["y"], body=inside)], {"x": (F, (rows, 3))}, ["y"],
              {"one": np.asarray(1), "zero": np.asarray([0])})
    g = check(m, {"x": np.arange(12, dtype=F).reshape(4, 3)})
    assert {n.op for b in g.bodies() for n in b.nodes} <= {"gather", "reshape"}
    assert [str(d) for d in g.outputs[0].shape] == [str(rows), "1", "3"]


def test_broadcasting_that_holds_in_some_iterations_only_runs_by_the_reference() -> None:
    inside = body([node("Identity", ["c"], ["d"]), node("Add", ["h", "w"], ["k"])], counter([info("h", shape=(None,))]),
                  ["d", "k"])
    m = loop_model(inside, ["x"], ["y"], {"n": (I, ()), "x": (F, (1,)), "w": (F, (4,))})
    check(m, {"n": np.asarray(2), "x": np.ones(1, F), "w": np.arange(4, dtype=F)}, ops={"loop", "onnx"})


def test_a_loop_of_a_wrong_number_of_states_is_an_error() -> None:
    with pytest.raises(GraphError, match="takes 3 inputs for 0 states"):
        imported(loop_model(SUM, [], ["y"], {"n": (I, ()), "w": (F, (2, 3))}))


# -- nesting -----------------------------------------------------------------------------------------


def nested(depth: int) -> GraphProto:
    """Ifs inside Ifs: each level adds one where the condition holds."""
    inner = [node("Identity", ["x"], [f"v{depth}"])]
    if depth:
        inner = [node("If", ["p"], [f"u{depth}"], then_branch=nested(depth - 1),
                      else_branch=body([node("Neg", ["x"], ["m"])], [], ["m"])),
                 node("Add", [f"u{depth}", "one"], [f"v{depth}"])]
    return body(inner, [], [f"v{depth}"])


def test_deep_nesting_needs_no_deep_stack() -> None:
    m = if_model(nested(28), body([node("Neg", ["x"], ["b"])], [], ["b"]), constants={"one": np.asarray(1, F)})
    np.testing.assert_array_equal(by_whet(m, {**TRUE, "x": X})[0], X + 28)


def test_nesting_beyond_all_measure_is_refused() -> None:
    m = if_model(nested(0), nested(0), constants={"one": np.asarray(1, F)})
    g = m.graph
    for level in range(100):  # in place: a message of so many levels is not parsed
        n = g.node.add(op_type="If", input=["p"], output=[f"w{level}"])
        for name in ("then_branch", "else_branch"):
            n.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g.output.add().name = "x"
        g = n.attribute[0].g
    with pytest.raises(UnsupportedError, match="nested more than"):
        load_model(m)


def test_nested_loops_of_growing_states_are_imported_a_few_times_only() -> None:
    """Each level's states need a second look; that does not multiply."""
    inside = body([node("Concat", ["h", "x"], ["k"], axis=0)], counter([info("h")]), ["c", "k"])
    for level in range(7):
        c = f"c{level}"
        inside = body([node("Loop", ["n", "", f"h{level}"], [f"k{level}"], body=inside)],
                      [info(f"i{level}", TensorProto.INT64, ()), info(c, TensorProto.BOOL, ()), info(f"h{level}")],
                      [c, f"k{level}"])
    m = loop_model(inside, ["x"], ["y"], {"n": (I, ()), "x": (F, (1, 2))})
    assert by_whet(m, {"n": np.asarray(1), "x": np.ones((1, 2), F)})[0].shape == (2, 2)


# -- Scan --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("backwards", [0, 1])
def test_scan_along_any_axis_in_both_directions(axis: int, backwards: int) -> None:
    inside = body([node("Add", ["h", "s"], ["k"]), node("Mul", ["k", "s"], ["o"])], [info("h"), info("s")], ["k", "o"])
    state = (3,) if axis == 0 else (2,)
    nodes = [node("Scan", ["h0", "x"], ["y", "z"], body=inside, num_scan_inputs=1, scan_input_axes=[axis],
                  scan_input_directions=[backwards], scan_output_axes=[axis], scan_output_directions=[1 - backwards])]
    m = model(nodes, {"h0": (F, state), "x": (F, ("n", 3) if axis == 0 else (2, "n"))}, ["y", "z"])
    check(m, {"h0": np.ones(state, F), "x": X}, ops={"loop", "add", "mul"})


def test_a_scan_is_as_long_as_its_input() -> None:
    inside = body([node("Add", ["h", "s"], ["k"])], [info("h"), info("s")], ["k", "k"])
    m = model([node("Scan", ["h0", "x"], ["y", "z"], body=inside, num_scan_inputs=1)],
              {"h0": (F, (3,)), "x": (F, ("n", 3))}, ["y", "z"])
    assert [str(d) for d in imported(m).outputs[1].shape] == ["n", "3"]


@pytest.mark.parametrize("lengths", [None, [3, 1]])
def test_scan_of_opset_8_has_a_batch_and_lengths(lengths: list[int] | None) -> None:
    inside = body([node("Add", ["h", "s"], ["k"]), node("Neg", ["k"], ["o"])],
                  [info("h", shape=(2,)), info("s", shape=(2,))], ["k", "o"])
    names = ["" if lengths is None else "lengths", "h0", "x"]
    inputs = {"h0": (F, (2, 2)), "x": (F, (2, 3, 2)), **({} if lengths is None else {"lengths": (I, (2,))})}
    m = model([node("Scan", names, ["y", "z"], body=inside, num_scan_inputs=1)], inputs, ["y", "z"], opset=8)
    x, h0 = np.arange(12, dtype=F).reshape(2, 3, 2), np.ones((2, 2), F)
    want_h, want_z = h0.copy(), np.zeros((2, 3, 2), F)
    for b in range(2):
        for t in range(3 if lengths is None else lengths[b]):
            want_h[b] += x[b, t]
            want_z[b, t] = -want_h[b]
    feeds = {"h0": h0, "x": x, **({} if lengths is None else {"lengths": np.asarray(lengths)})}
    y, z = by_whet(m, feeds)
    np.testing.assert_array_equal(y, want_h)
    np.testing.assert_array_equal(z, want_z)
