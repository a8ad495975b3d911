"""A sample of the fuzzer's cases, and models of absurd sizes: a typed error, at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import whet
from whet.errors import GraphError, UnsupportedError

FAR = 1 << 40
node = helper.make_node


def model(nodes: list[object], **constants: object) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


ABSURD = {
    "ConstantOfShape": model([node("ConstantOfShape", ["s"], ["y"])], s=[FAR]),
    "ConstantOfShape, a product beyond 64 bits": model([node("ConstantOfShape", ["s"], ["y"])], s=[1 << 33, 1 << 33]),
    "Expand": model([node("Expand", ["x", "s"], ["y"])], s=[FAR, 4, 4]),
    "Expand, a product beyond 64 bits": model([node("Expand", ["x", "s"], ["e"]), node("Exp", ["e"], ["y"])],
                                              s=[1 << 33, 1 << 33, 4, 4]),
    "Tile": model([node("Tile", ["x", "s"], ["y"])], s=[FAR, 1]),
    "Tile, sizes beyond 64 bits": model([node("Tile", ["x", "s"], ["y"])], s=[1 << 62, 1 << 62]),
    "Pad": model([node("Pad", ["x", "s"], ["y"])], s=[0, 0, FAR, 0]),
    "Resize": model([node("Resize", ["x", "", "s"], ["y"])], s=np.asarray([1e12, 1], np.float32)),
    "Range": model([node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["y"], to=TensorProto.FLOAT)],
                   a=np.int64(0), b=np.int64(FAR), c=np.int64(1)),
    "OneHot": model([node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("OneHot", ["i", "d", "v"], ["y"])],
                    d=np.int64(FAR), v=np.asarray([0, 1], np.float32)),
    "MaxPool": model([node("Unsqueeze", ["x", "a"], ["i"]),
                      node("MaxPool", ["i"], ["y"], kernel_shape=[1, 1], pads=[0, 0, FAR, 0])], a=[0, 1]),
    "RandomNormal": model([node("RandomNormal", [], ["y"], shape=[FAR])]),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_sizes_are_refused_at_once(case: str) -> None:
    begin = time.perf_counter()
    with pytest.raises((UnsupportedError, GraphError)):
        whet.build(ABSURD[case], opt_level=0, threads=1)
    assert time.perf_counter() - begin < 5


def test_an_operand_that_tells_sizes_has_few_elements() -> None:
    m = model([node("ConstantOfShape", ["s"], ["y"])])
    m.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [1 << 40]))
    with pytest.raises(GraphError, match="no shape"):
        whet.build(m, opt_level=0, threads=1)


def test_a_sample_of_mutated_models_plans_and_inputs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, Path(__file__).parent, "--count", "400", "--seconds", "15", "--small",
                           "--keep", tmp_path], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " cases in " in done.stdout
