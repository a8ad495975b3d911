"""Tensors of size 0 go through: a dimension of 0, or a window that has no place."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet

CONSTANTS = {"w": np.ones((4, 4, 3, 3), np.float32), "deep": np.ones((4, 1, 3, 3), np.float32),
             "m": np.ones((7, 5), np.float32), "scale": np.ones(7, np.float32), "axis": np.array([3])}
CASES = {
    "Conv": (["x", "w"], {"pads": [1, 1, 1, 1]}, (4, -2, -1)),
    "Conv by channel": (["x", "deep"], {"pads": [1, 1, 1, 1], "group": 4}, (4, -2, -1)),
    "MaxPool": (["x"], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, (4, -2, -1)),
    "AveragePool": (["x"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (4, -2, -1)),
    "MatMul": (["x", "m"], {}, (4, -2, 5)), "Softmax": (["x"], {"axis": 1}, (4, -2, -1)),
    "LayerNormalization": (["x", "scale"], {}, (4, -2, -1)), "Relu": (["x"], {}, (4, -2, -1)),
    "ReduceSum": (["x", "axis"], {}, (4, -2, 1)), "Transpose": (["x"], {"perm": [0, 2, 1, 3]}, (-2, 4, -1)),
}


def run(op: str, inputs: list[str], attrs: dict, shape: tuple[int, ...]) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], **attrs)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(CONSTANTS[n], n) for n in inputs if n != "x"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return whet.load(whet.build(model, opt_level=0, threads=1))({"x": np.ones(shape, np.float32)})["y"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(0, 4, 6, 7), (2, 4, 0, 7)], ids=["no image", "no row"])
def test_an_empty_input_gives_an_empty_output(name: str, shape: tuple[int, ...]) -> None:
    inputs, attrs, after = CASES[name]
    want = (shape[0], *(shape[d] if d < 0 else d for d in after))
    assert run(name.split()[0], inputs, attrs, shape).shape == want


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_window_without_a_place_gives_nothing(op: str) -> None:
    assert run(op, ["x"], {"kernel_shape": [2, 2]}, (2, 4, 1, 7)).shape == (2, 4, 0, 6)
