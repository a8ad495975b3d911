"""A plan tells its layers in an order in which they run, with the values that pass between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import whet

FLOAT = TensorProto.FLOAT
info = helper.make_tensor_value_info
node = helper.make_node


def layers(nodes: Sequence[NodeProto], inputs: dict[str, Sequence[int | str]], outputs: Sequence[str],
           weights: dict[str, Any], folder: Path, kinds: dict[str, int] | None = None) -> dict[str, Any]:
    """`info` of the plan of a model."""
    g = helper.make_graph(list(nodes), "g", [info(k, (kinds or {}).get(k, FLOAT), v) for k, v in inputs.items()],
                          [info(o, FLOAT, None) for o in outputs],
                          [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()])
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    plan = whet.build(m, opt_level=0, threads=1, timing_cache=folder / "timing")
    try:
        return plan.manifest.info
    finally:
        plan.close()


def check(told: dict[str, Any], inputs: set[str]) -> None:
    """Everything that is read was written before, and everything that is written is written once."""
    known = set(inputs)
    for layer in told["layers"]:
        assert set(layer["reads"]) <= known, layer
        assert not known & set(layer["writes"]), layer
        known |= set(layer["writes"])
    assert {name for group in told["output_values"] for name in group} <= known
    launches = [l["launch"] for l in told["layers"] if "launch" in l]
    assert sorted(launches) == list(range(len(launches)))


def by_name(told: dict[str, Any], name: str) -> dict[str, Any]:
    (layer,) = [l for l in told["layers"] if l["name"] == name]
    return layer


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_views_are_followed_to_what_they_show(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"], name="first"), node("Reshape", ["a", "shape"], ["b"]),
             node("Transpose", ["b"], ["c"], perm=[0, 2, 1]), node("MatMul", ["c", "v"], ["y"], name="second")]
    told = layers(nodes, {"x": [4, 8]}, ["y"], {"w": weight(8, 12), "v": weight(4, 5), "shape": np.array([4, 4, 3])},
                  tmp_path)
    check(told, {"x"})
    first = by_name(told, "MatMul first")
    assert first["reads"] == ["x"]
    path, reached = first["writes"], set()
    for layer in told["layers"]:
        if set(layer["reads"]) & set(path):
            path = path + layer["writes"]
            reached.add(layer["name"])
    assert any("second" in name for name in reached)
    assert set(told["output_values"][0]) <= set(path)


def test_a_residual_edge_skips_what_is_between(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"], name="one", pads=[1, 1, 1, 1]),
             node("Conv", ["a", "w"], ["b"], name="two", pads=[1, 1, 1, 1]), node("Relu", ["b"], ["c"]),
             node("Conv", ["c", "w"], ["d"], name="three", pads=[1, 1, 1, 1]),
             node("Add", ["d", "a"], ["y"], name="sum")]
    told = layers(nodes, {"x": [1, 8, 9, 9]}, ["y"], {"w": weight(8, 8, 3, 3)}, tmp_path)
    check(told, {"x"})
    (out,) = by_name(told, "Conv one")["writes"]
    assert sum(out in l["reads"] for l in told["layers"]) == 2


@pytest.mark.parametrize("kind", ["if", "loop"])
def test_bodies_come_between_control_flow_and_what_reads_its_results(kind: str, tmp_path: Path) -> None:
    if kind == "if":
        def branch(op: str, name: str) -> onnx.GraphProto:
            return helper.make_graph([node("MatMul", ["x", "w"], ["t"], name=name), node(op, ["t"], ["r"])], name, [],
                                     [info("r", FLOAT, [4, 4])])

        nodes = [node("If", ["c"], ["z"], name="choice", then_branch=branch("Relu", "yes"),
                      else_branch=branch("Tanh", "no")), node("MatMul", ["z", "w"], ["y"], name="after")]
        inputs, kinds, names = {"x": [4, 4], "c": [1]}, {"c": TensorProto.BOOL}, ["choice", "yes", "no", "after"]
    else:
        body = helper.make_graph(
            [node("MatMul", ["s", "w"], ["t"], name="inside"), node("Identity", ["k"], ["k2"])], "body",
            [info("i", TensorProto.INT64, []), info("k", TensorProto.BOOL, []), info("s", FLOAT, [4, 4])],
            [info("k2", TensorProto.BOOL, []), info("t", FLOAT, [4, 4])])
        nodes = [node("Loop", ["n", "", "x"], ["z"], name="repeat", body=body),
                 node("MatMul", ["z", "w"], ["y"], name="after")]
        inputs, kinds, names = {"x": [4, 4], "n": []}, {"n": TensorProto.INT64}, ["repeat", "inside", "after"]
    told = layers(nodes, inputs, ["y"], {"w": weight(4, 4)}, tmp_path, kinds)
    check(told, set(inputs))
    at = [next(i for i, l in enumerate(told["layers"]) if n in l["name"]) for n in names]
    assert at == sorted(at)
    (enter,) = told["layers"][at[0]]["writes"]
    for inner in at[1:-1]:
        assert enter in told["layers"][inner]["reads"]
    after = set(told["layers"][at[-1]]["reads"])
    for inner in at[1:-1]:
        assert after & set(told["layers"][inner]["writes"]) or any(
            after & set(l["writes"]) for l in told["layers"][inner:at[-1]])
    assert told["layers"][at[0]]["kind"] == "control"


def test_a_host_step_says_why(tmp_path: Path) -> None:
    nodes = [node("RandomUniformLike", ["x"], ["a"], name="chance"), node("Relu", ["a"], ["y"])]
    told = layers(nodes, {"x": [4]}, ["y"], {}, tmp_path)
    check(told, {"x"})
    layer = by_name(told, "RandomUniformLike chance")
    assert layer["kind"] == "host"
    assert "RandomUniformLike" in layer["reason"]
    assert layer["results"] == ["float32[4]"]
