"""Arithmetic is counted as two operations for each product."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet.frontends import load_model
from whet.ir.flops import flops


def _graph(node: onnx.NodeProto, inputs: dict[str, list], weights: dict[str, tuple[int, ...]]):
    model = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(s, np.float32), k) for k, s in weights.items()]),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return load_model(model)


def test_matmul_with_a_symbolic_batch() -> None:
    graph = _graph(helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": ["batch", 3, 5]}, {"w": (5, 7)})
    (name,) = graph.dims
    assert flops(graph, {name: 4}) == 2 * 4 * 3 * 5 * 7


@pytest.mark.parametrize("group", [1, 4])
def test_convolution_counts_the_channels_of_its_group(group: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, strides=[2, 2], pads=[1, 1, 1, 1])
    graph = _graph(node, {"x": [1, 8, 9, 9]}, {"w": (16, 8 // group, 3, 3)})
    assert flops(graph) == 2 * 16 * 5 * 5 * (8 // group) * 9
