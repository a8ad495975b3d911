"""Model-local functions are put in the place of their calls, as onnx.inliner puts them, and deeper."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import whet
from whet.errors import GraphError, UnsupportedError
from whet.frontends.inline import inlined

F32, BOOL = TensorProto.FLOAT, TensorProto.BOOL
node = helper.make_node
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]


def function(name: str, inputs: list[str], outputs: list[str], nodes: list[NodeProto], attributes: tuple[str, ...] = (),
             defaults: tuple[AttributeProto, ...] = (), overload: str = "", opset: int = 18) -> FunctionProto:
    return helper.make_function("f", name, inputs, outputs, nodes, [helper.make_opsetid("", opset), OPSETS[1]],
                                list(attributes), list(defaults), overload=overload)


def model(nodes: list[NodeProto], functions: list[FunctionProto], outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", F32, [2, 3]),
                                           helper.make_tensor_value_info("c", BOOL, [])],
                              [helper.make_tensor_value_info(o, F32, [2, 3]) for o in outputs])
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS, ir_version=10)


def feeds(m: ModelProto, c: bool) -> dict[str, np.ndarray]:
    every = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "c": np.asarray(c)}
    return {v.name: every[v.name] for v in m.graph.input}


def run(m: ModelProto, c: bool) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds(m, c))


def assert_same(m: ModelProto) -> None:
    ours = inlined(m)
    assert not ours.functions
    onnx.checker.check_model(ours, full_check=True)
    theirs = onnx.inliner.inline_local_functions(m)
    for c in (True, False):
        for a, b in zip(run(ours, c), run(theirs, c), strict=True):
            np.testing.assert_allclose(a, b, 1e-6)


class Random:
    """A random model: functions that call those before them, with If, attributes and operands left out."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.signatures: list[tuple[int, int]] = []  # inputs, outputs
        self.outside = False
        functions = []
        for k in range(self.random.randint(1, 6)):
            inputs = [f"v{i}" for i in range(self.random.randint(1, 3))]
            nodes, seen = [], list(inputs)
            if self.random.random() < 0.5:
                nodes.append(node("Constant", [], ["a"]))
                nodes[0].attribute.add(name="value_float", ref_attr_name="alpha", type=AttributeProto.FLOAT)
                nodes.append(node("Mul", [seen[0], "a"], ["va"]))
                seen.append("va")
            nodes += self.nodes(seen, self.random.randint(1, 4), 1)
            outputs = seen[len(inputs):][-self.random.randint(1, 2):]
            functions.append(function(f"F{k}", inputs, outputs, nodes, ("alpha",)))
            self.signatures.append((len(inputs), len(outputs)))
        self.outside, seen = True, ["x"]
        nodes = self.nodes(seen, 5, 1)
        self.model = model(nodes, functions, (seen[-1],))

    def nodes(self, seen: list[str], count: int, depth: int) -> list[NodeProto]:
        made = []
        for _ in range(count):
            out = f"v{len(seen) + 10 * (2 - depth)}"  # the same names in every function
            kind = self.random.random()
            if kind < 0.5 and self.signatures:
                k = self.random.randrange(len(self.signatures))
                inputs, outputs = self.signatures[k]
                results = [out] if outputs == 1 or self.random.random() < 0.5 else [out, out + "b"]
                made.append(node(f"F{k}", [self.random.choice(seen) for _ in range(inputs)], results, domain="f"))
                if self.outside or self.random.random() < 0.5:
                    made[-1].attribute.append(helper.make_attribute("alpha", self.random.random()))
                else:
                    made[-1].attribute.add(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
                seen += results[1:]
            elif kind < 0.7 and depth:
                made += self.branch(seen, out, depth)
            else:
                made.append(node(self.random.choice(["Add", "Sub", "Max"]),
                                 [self.random.choice(seen) for _ in range(2)], [out]))
            seen.append(out)
        return made

    def branch(self, seen: list[str], out: str, depth: int) -> list[NodeProto]:
        total, zero, condition = (f"{out}_{s}" for s in ("sum", "zero", "cond"))
        bodies = []
        for _ in range(2):
            inner = list(seen)
            nodes = self.nodes(inner, self.random.randint(1, 3), depth - 1)
            bodies.append(helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(inner[-1], F32, None)]))
        return [node("ReduceSum", [self.random.choice(seen)], [total], keepdims=0),
                node("Constant", [], [zero], value=numpy_helper.from_array(np.asarray(0, np.float32))),
                node("Greater", [total, zero], [condition]),
                node("If", [condition], [out], then_branch=bodies[0], else_branch=bodies[1])]


@pytest.mark.parametrize("seed", range(60))
def test_random_functions_compute_the_same_inlined(seed: int) -> None:
    assert_same(Random(seed).model)


def test_names_in_the_bodies_of_a_function_do_not_meet_those_of_the_caller() -> None:
    then = helper.make_graph([node("Neg", ["a"], ["t"])], "then", [], [helper.make_tensor_value_info("t", F32, None)])
    other = helper.make_graph([node("Exp", ["x2"], ["t"])], "else", [], [helper.make_tensor_value_info("t", F32, None)])
    f = function("F", ["a", "k"], ["r"], [node("Abs", ["a"], ["x2"]),
                                          node("If", ["k"], ["r"], then_branch=then, else_branch=other)])
    m = model([node("Relu", ["x"], ["t"]), node("F", ["t", "c"], ["u"], domain="f"),
               node("F", ["u", "c"], ["y"], domain="f")], [f])
    assert_same(m)


def test_functions_inside_the_bodies_of_control_flow_are_inlined() -> None:
    f = function("F", ["a"], ["r"], [node("Neg", ["a"], ["t"]), node("Exp", ["t"], ["r"])])
    bodies = [helper.make_graph([node("F", ["x"], [o], domain="f")], "b", [],
                                [helper.make_tensor_value_info(o, F32, None)]) for o in ("p", "q")]
    assert_same(model([node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])], [f]))


def test_attributes_come_from_the_call_or_the_default_also_in_bodies() -> None:
    def leaky() -> NodeProto:
        n = node("LeakyRelu", ["a"], ["t"])
        n.attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
        return n

    out = [helper.make_tensor_value_info("t", F32, None)]
    f = function("F", ["a", "k"], ["r"], [
        node("If", ["k"], ["r"], then_branch=helper.make_graph([leaky()], "b", [], out),
             else_branch=helper.make_graph([node("Neg", ["a"], ["t"])], "b", [], out))],
                 defaults=(helper.make_attribute("slope", 0.25),))
    m = model([node("F", ["x", "c"], ["y"], domain="f"), node("F", ["x", "c"], ["z"], domain="f", slope=0.5)], [f],
              ("y", "z"))
    y, z = run(inlined(m), True)  # onnx.inliner knows no defaults
    assert y[0, 0] == -0.25
    assert z[0, 0] == -0.5


def test_operands_and_results_may_be_left_out() -> None:
    f = function("F", ["a", "low", "high"], ["r", "s"], [node("Clip", ["a", "low", "high"], ["r"]),
                                                         node("Neg", ["r"], ["s"])])
    m = model([node("F", ["x"], ["y"], domain="f"), node("F", ["x"], ["", "z"], domain="f")], [f], ("y", "z"))
    out = inlined(m)
    assert [list(n.input) for n in out.graph.node if n.op_type == "Clip"] == [["x", "", ""]] * 2
    y, z = run(out, True)
    np.testing.assert_array_equal(z, -y)


def test_overloads_are_functions_of_their_own() -> None:
    fs = [function("F", ["a"], ["r"], [node(op, ["a"], ["r"])], overload=o) for op, o in (("Neg", "one"), ("Exp", ""))]
    m = model([node("F", ["x"], ["t"], domain="f", overload="one"), node("F", ["t"], ["y"], domain="f")], fs)
    assert [n.op_type for n in inlined(m).graph.node] == ["Neg", "Exp"]


def test_an_output_that_is_an_input_is_passed_on() -> None:
    f = function("F", ["a"], ["a", "b"], [node("Neg", ["a"], ["b"])])
    m = model([node("F", ["x"], ["y", "z"], domain="f")], [f], ("y", "z"))
    y, z = run(inlined(m), True)
    np.testing.assert_array_equal(y, -z)


def test_functions_of_another_opset_are_converted() -> None:
    total = node("ReduceSum", ["a"], ["s"], axes=[1], keepdims=1)
    f = function("F", ["a"], ["r"], [total, node("Add", ["a", "s"], ["r"])], opset=11)
    out = inlined(model([node("F", ["x"], ["y"], domain="f")], [f]))
    reduce = next(n for n in out.graph.node if n.op_type == "ReduceSum")
    assert len(reduce.input) == 2  # the axes are an operand since opset 13


def calling(depth: int, times: int) -> ModelProto:
    """Functions that each call the next so many times."""
    fs = []
    for i in range(depth):
        op, domain = (f"F{i + 1}", "f") if i + 1 < depth else ("Neg", "")
        names = ["x", *(f"t{k}" for k in range(times - 1)), "y"]
        calls = [node(op, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        fs.append(function(f"F{i}", ["x"], ["y"], calls))
    return model([node("F0", ["x"], ["y"], domain="f")], fs)


def test_a_thousand_nested_functions_build() -> None:
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    engine = whet.load(whet.build(calling(1000, 1), opt_level=0, threads=1))
    np.testing.assert_array_equal(engine({"x": x, "c": np.asarray(True)})["y"], -x)


@pytest.mark.parametrize(("depth", "times"), [(60, 2), (2000, 3), (3, 200)])
def test_calls_that_multiply_are_refused_at_once(depth: int, times: int) -> None:
    m = calling(depth, times)
    begin = time.perf_counter()
    with pytest.raises(UnsupportedError, match="over 1,000,000 nodes"):
        inlined(m)
    assert time.perf_counter() - begin < 1


def test_calls_that_multiply_constants_are_refused() -> None:
    big = numpy_helper.from_array(np.ones(1 << 16, np.float32), "c")
    f = function("F", ["a"], ["r"], [node("Constant", [], ["k"], value=big), node("Identity", ["a"], ["r"])])
    calls = [node("F", ["x"], [f"t{i}"], domain="f") for i in range(2000)]
    with pytest.raises(UnsupportedError, match="bytes"):
        inlined(model([*calls, node("Neg", ["x"], ["y"])], [f]))


@pytest.mark.parametrize(("functions", "word"), [
    ([function("F", ["a"], ["r"], [node("F", ["a"], ["r"], domain="f")])], "calls itself"),
    ([function("F", ["a"], ["r"], [node("G", ["a"], ["r"], domain="f")]),
      function("G", ["a"], ["r"], [node("F", ["a"], ["r"], domain="f")])], "calls itself"),
    ([function("F", ["a"], ["r"], [node("Neg", ["a"], ["r"])])] * 2, "two functions"),
    ([function("F", [], ["r"], [node("Neg", ["x"], ["r"])])], "has 1 inputs"),
    ([function("F", ["a"], ["r"], [node("Neg", ["x"], ["r"])])], "nothing in it computes"),
])
def test_bad_functions_are_typed_errors(functions: list[FunctionProto], word: str) -> None:
    with pytest.raises(GraphError, match=word):
        whet.build(model([node("F", ["x"], ["y"], domain="f")], functions), opt_level=0)
