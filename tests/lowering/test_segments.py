"""Cutting a graph into segments: what crosses from one to the next."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

import whet

F, I = TensorProto.FLOAT, TensorProto.INT64


def test_a_view_of_something_from_before_is_no_copy() -> None:
    """x is looked at transposed and reshaped by a segment that has to wait for a size: x itself crosses over."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
             helper.make_node("Slice", ["t", "zero", "two", "zero"], ["s"]),
             helper.make_node("Relu", ["s"], ["other"]),  # read in the first segment, too
             helper.make_node("ReduceSum", ["n"], ["count"], keepdims=1),
             helper.make_node("Slice", ["s", "zero", "count", "one"], ["cut"]),
             helper.make_node("Exp", ["cut"], ["y"])]
    weights = [onnx.numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("one", 1), ("two", 2))]
    graph = helper.make_graph(nodes, "views", [helper.make_tensor_value_info("x", F, [5, 4, 3]),
                                               helper.make_tensor_value_info("n", I, [2])],
                              [helper.make_tensor_value_info("y", F, [2, "k", 3]),
                               helper.make_tensor_value_info("other", F, [2, 5, 3])], weights)
    plan = whet.build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), opt_level=0, threads=1)
    segments = plan.manifest.programs[0].segments
    assert len(segments) == 2
    assert [t.shape for t in segments[1].inputs] == [[5, 4, 3]]
    assert plan.summary()["copies"] == 0
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    with whet.load(plan) as engine:
        for n in (0, 1, 4):
            got = engine({"x": x, "n": np.array([n, 0])})
            np.testing.assert_allclose(got["y"], np.exp(x.transpose(1, 0, 2)[:2, :n]), rtol=1e-5)
            assert np.array_equal(got["other"], np.maximum(x.transpose(1, 0, 2)[:2], 0))
