"""whet surgeon sanitize: a plainer model that computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tools.surgery import F32, model, run, tensor
from whet.errors import GraphError, UnsupportedError
from whet.tools import surgeon
from whet.tools.surgeon import OnnxModel
from whet.tools.surgeon.shapes import dims

node = helper.make_node
I64 = onnx.TensorProto.INT64
RNG = np.random.default_rng(2)


def sane(m: onnx.ModelProto, feeds: dict[str, np.ndarray], **options: Any) -> OnnxModel:
    """The sanitized model, after its outputs were found to be the same."""
    out = surgeon.sanitize(OnnxModel.open(m), **options)
    for a, b in zip(run(out, {k: v for k, v in feeds.items() if k in {i.name for i in out.proto.graph.input}}),
                    run(m, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    return out


def ops(m: OnnxModel) -> list[str]:
    return [n.op_type for n in m.proto.graph.node]


def test_shape_arithmetic_of_known_shapes_is_folded() -> None:
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    m = model([node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["d"]), node("Mul", ["d", "i2"], ["e"]),
               node("Concat", ["minus", "e"], ["shape"], axis=0), node("Reshape", ["x", "shape"], ["y"])],
              [tensor("x", [2, 3, 4])], [tensor("y", None)],
              {"i": np.array([1]), "i2": np.array([2]), "minus": np.array([-1])})
    out = sane(m, {"x": x})
    assert ops(out) == ["Reshape"]
    assert dims(out.proto.graph.output[0].type) == [4, 6]


def test_what_depends_on_an_input_or_on_chance_or_is_quantized_stays() -> None:
    m = model([node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"]), node("Add", ["x", "z"], ["a"]),
               node("RandomUniform", [], ["r"], shape=[2], seed=1.0), node("Mul", ["r", "zero"], ["rz"]),
               node("DequantizeLinear", ["q", "scale"], ["w"]), node("Add", ["a", "w"], ["aw"]),
               node("Add", ["aw", "rz"], ["y"])],
              [tensor("x", ["n"])], [tensor("y", ["n"])],
              {"q": np.array([1, 2], np.int8), "scale": np.float32(0.5), "zero": np.float32(0)})
    assert ops(sane(m, {"x": np.ones(2, np.float32)})) == ops(OnnxModel.open(m))


def test_growth_is_bounded() -> None:
    m = model([node("ConstantOfShape", ["big"], ["z"]), node("Add", ["x", "z"], ["y"]),
               node("Transpose", ["w"], ["wt"], perm=[1, 0]), node("MatMul", ["y", "wt"], ["o"])],
              [tensor("x", [1, 1])], [tensor("o", None)],
              {"big": np.array([200, 300]), "w": RNG.standard_normal((64, 300)).astype(np.float32)})
    assert ops(sane(m, {"x": np.ones((1, 1), np.float32)})) == ["Add", "MatMul"]
    kept = sane(m, {"x": np.ones((1, 1), np.float32)}, max_growth=1000)
    assert ops(kept) == ["ConstantOfShape", "Add", "MatMul"], "what takes no more room than before is folded"
    assert ops(sane(m, {"x": np.ones((1, 1), np.float32)}, fold=False)) == ["ConstantOfShape", "Add", "Transpose",
                                                                           "MatMul"]


def test_an_absurd_constant_is_never_made() -> None:
    m = model([node("ConstantOfShape", ["big"], ["z"]), node("ReduceSum", ["z"], ["s"]),
               node("Add", ["x", "s"], ["y"])],
              [tensor("x", [1])], [tensor("y", None)], {"big": np.array([1 << 40, 1 << 20])})
    assert ops(surgeon.sanitize(OnnxModel.open(m))) == ["ConstantOfShape", "ReduceSum", "Add"]


def test_dead_nodes_identities_and_doubles_go() -> None:
    w = RNG.standard_normal((40, 40)).astype(np.float32)
    m = model([node("Identity", ["x"], ["x1"]), node("MatMul", ["x1", "w1"], ["a"]), node("Dropout", ["a"], ["b"]),
               node("Cast", ["b"], ["c"], to=F32), node("MatMul", ["c", "w2"], ["d"]), node("Exp", ["d"], ["dead"]),
               node("Transpose", ["d"], ["t"], perm=[0, 1]), node("Identity", ["t"], ["y"])],
              [tensor("x", [None, 40]), tensor("unused", [3])], [tensor("y", [None, 40])],
              {"w1": w, "w2": w.copy(), "w3": w})
    feeds = {"x": RNG.standard_normal((2, 40)).astype(np.float32), "unused": np.zeros(3, np.float32)}
    out = sane(m, feeds)
    assert ops(out) == ["MatMul", "MatMul"]
    assert len(out.proto.graph.initializer) == 1
    assert [v.name for v in out.proto.graph.input] == ["x", "unused"]
    assert dims(out.proto.graph.output[0].type) == ["x_0", 40], "an unnamed dimension has a name now"
    assert [v.name for v in sane(m, feeds, drop_inputs=True).proto.graph.input] == ["x"]


def test_an_output_that_is_an_input_or_a_weight_or_another_output_keeps_its_identity() -> None:
    m = model([node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"]), node("Relu", ["x"], ["a"]),
               node("Identity", ["a"], ["b"])],
              [tensor("x", [2])], [tensor(n, [2]) for n in "yzab"], {"w": np.ones(2, np.float32)})
    out = sane(m, {"x": np.array([-1, 1], np.float32)})
    assert [o.name for o in out.proto.graph.output] == list("yzab")


def test_functions_are_inlined_and_the_opset_converted() -> None:
    f = helper.make_function("mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
                             [helper.make_opsetid("", 13)])
    w = RNG.standard_normal((4096,)).astype(np.float32)
    m = model([node("Twice", ["x"], ["t"], domain="mine"), node("Add", ["t", "w"], ["u"]),
               node("ReduceMean", ["u"], ["y"], axes=[0], keepdims=1)],
              [tensor("x", [4096])], [tensor("y", [1])], {"w": w}, opset=13, functions=[f],
              opsets=[helper.make_opsetid("mine", 1)])
    out = sane(m, {"x": RNG.standard_normal(4096).astype(np.float32)}, opset=18)
    assert ops(out) == ["Add", "Add", "ReduceMean"]
    assert [(o.domain, o.version) for o in out.proto.opset_import] == [("", 18)]
    with pytest.raises(UnsupportedError, match="opset 999"):
        surgeon.sanitize(OnnxModel.open(m), opset=999)
    with pytest.raises(UnsupportedError, match="cannot be converted from opset 13 to 5"):
        surgeon.sanitize(OnnxModel.open(m), opset=5)


def test_nodes_are_sorted_and_cycles_told() -> None:
    x = np.array([-1, 1], np.float32)
    m = model([node("Neg", ["a"], ["y"]), node("Relu", ["x"], ["a"])], [tensor("x", [2])], [tensor("y", [2])])
    assert ops(surgeon.sanitize(OnnxModel.open(m))) == ["Relu", "Neg"]
    assert run(surgeon.sanitize(OnnxModel.open(m)), {"x": x})[0].tolist() == [0, -1]
    with pytest.raises(GraphError, match="cycle"):
        surgeon.sanitize(OnnxModel.open(model([node("Add", ["x", "y"], ["y"])], [tensor("x", [2])],
                                              [tensor("y", [2])])))


def test_a_branch_that_is_decided_takes_the_place_of_its_if() -> None:
    then = helper.make_graph([node("Add", ["x", "one"], ["t"])], "t", [], [tensor("t", None)],
                             [helper.make_tensor("one", 1, [], [1.0])])
    other = helper.make_graph([node("Sub", ["x", "one"], ["t"])], "e", [], [tensor("t", None)],
                              [helper.make_tensor("one", 1, [], [2.0])])
    m = model([node("Shape", ["x"], ["s"]), node("Size", ["s"], ["rank"]), node("Equal", ["rank", "r"], ["c"]),
               node("If", ["c"], ["i"], then_branch=then, else_branch=other), node("Mul", ["i", "i"], ["y"])],
              [tensor("x", ["n", 3])], [tensor("y", None)], {"r": np.int64(2)})
    assert ops(sane(m, {"x": np.ones((2, 3), np.float32)})) == ["Add", "Mul"]


def test_constants_inside_bodies_are_folded() -> None:
    body = helper.make_graph(
        [node("Add", ["k", "k"], ["kk"]), node("Add", ["v", "kk"], ["v2"]), node("Identity", ["c"], ["c2"])], "b",
        [tensor("i", [], I64), tensor("c", [], onnx.TensorProto.BOOL), tensor("v", [2])],
        [tensor("c2", [], onnx.TensorProto.BOOL), tensor("v2", [2])])
    m = model([node("Loop", ["n", "", "x"], ["y"], body=body)], [tensor("x", [2])], [tensor("y", [2])],
              {"n": np.int64(3), "k": np.float32(1.5)})
    out = sane(m, {"x": np.zeros(2, np.float32)})
    inner = out.proto.graph.node[0].attribute[0].g
    assert [n.op_type for n in inner.node] == ["Add", "Identity"]


def test_weights_that_old_models_list_as_inputs_become_constants() -> None:
    m = model([node("Neg", ["w"], ["n"]), node("Add", ["x", "n"], ["y"])], [tensor("x", [2]), tensor("w", [2])],
              [tensor("y", [2])], {"w": np.ones(2, np.float32)})
    assert ops(surgeon.sanitize(OnnxModel.open(m))) == ["Neg", "Add"], "a default that a caller may replace"
    m.ir_version = 3
    assert ops(surgeon.sanitize(OnnxModel.open(m))) == ["Add"]
