"""Control flow, sequences, optionals and strings in built plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from control_cases import F, I, X, body, counter, if_model, info, node
from onnx import TensorProto, ValueInfoProto, helper
from onnx_cases import by_onnxruntime, model
from random_control_flow import random_model

import whet

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(FLOATS)


def built(m: onnx.ModelProto, folder: Path) -> Any:
    return whet.load(whet.build(m, opt_level=0, threads=1, timing_cache=folder / "cache"))


@pytest.mark.parametrize("seed", range(100, 108))
def test_random_control_flow_equals_onnx_runtime(seed: int, tmp_path: Path) -> None:
    m, feeds = random_model(seed, depth=3)
    engine = built(m, tmp_path)
    for f in feeds:
        for got, want in zip(engine(f).values(), by_onnxruntime(m, f), strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_bodies_run_on_generated_kernels(tmp_path: Path) -> None:
    inside = body([node("MatMul", ["h", "w"], ["a"]), node("Tanh", ["a"], ["k"])], counter([info("h", shape=(2, 3))]),
                  ["c", "k", "k"])
    m = model([node("Loop", ["n", "", "x"], ["y", "z"], body=inside)],
              {"n": (I, ()), "x": (F, (2, 3)), "w": (F, (3, 3))}, ["y", "z"])
    plan = whet.build(m, opt_level=0, threads=1, timing_cache=tmp_path / "cache")
    steps = plan.summary()["steps"]
    assert steps["reference"] == 0
    assert steps["native"] >= 1
    w = np.eye(3, dtype=F) / 2
    out = whet.load(plan)({"n": np.asarray(3), "x": X, "w": w})
    want = X
    for _ in range(3):
        want = np.tanh(want @ w)
    np.testing.assert_allclose(out["y"], want, rtol=1e-5)
    assert out["z"].shape == (3, 2, 3)


def test_no_iteration_leaves_empty_slices_of_the_right_shape(tmp_path: Path) -> None:
    inside = body([node("Exp", ["h"], ["k"])], counter([info("h")]), ["c", "k", "k"])
    nodes = [node("Loop", ["n", "", "x"], ["y", "z"], body=inside), node("ReduceSum", ["z", "axis"], ["t"], keepdims=0),
             node("Add", ["t", "x"], ["u"])]
    m = model(nodes, {"n": (I, ()), "x": (F, ("b", 3))}, ["y", "z", "u"], {"axis": np.asarray([0])})
    engine = built(m, tmp_path)
    for n in (0, 2):
        out = engine({"n": np.asarray(n), "x": X})
        assert out["z"].shape == (n, 2, 3)
        want = X + (np.exp(X) + np.exp(np.exp(X)) if n else 0)
        np.testing.assert_allclose(out["u"], want, rtol=1e-5)


def test_sequences_go_in_and_out_as_lists(tmp_path: Path) -> None:
    m = model([node("SequenceInsert", ["s", "x", "i"], ["t"])], {"x": (F, (2, 3)), "i": (I, ())}, ["t"])
    m.graph.input.append(ValueInfoProto(name="s", type=SEQUENCE))
    engine = built(m, tmp_path)
    for given, i in (([], 0), ([X[0], X[1]], 2), ([X[0], X[1]], -1)):
        want = list(given)
        want.insert(i if i >= 0 else i + len(given), X)
        got = engine({"s": given, "x": X, "i": np.asarray(i)})["t"]
        assert isinstance(got, list)
        np.testing.assert_equal(got, want)


def test_optionals_may_be_none(tmp_path: Path) -> None:
    m = if_model(body([node("Optional", ["x"], ["a"])], [], ["a"]),
                 body([node("Optional", [], ["b"], type=FLOATS)], [], ["b"]))
    m.graph.node.append(node("OptionalHasElement", ["y"], ["q"]))
    m.graph.output.append(ValueInfoProto(name="q"))
    engine = built(m, tmp_path)
    out = engine({"p": np.asarray(False), "x": X})
    assert out["y"] is None
    assert not out["q"]
    out = engine({"p": np.asarray(True), "x": X})
    np.testing.assert_array_equal(out["y"], X)
    assert out["q"]


def test_strings_go_in_and_out_as_objects(tmp_path: Path) -> None:
    nodes = [node("StringConcat", ["x", "end"], ["a"]), node("Reshape", ["a", "flat"], ["b"]),
             node("Gather", ["b", "i"], ["y"]), node("Equal", ["y", "y"], ["e"]), node("Cast", ["e"], ["f"], to=1),
             node("ReduceSum", ["f"], ["n"], keepdims=0)]
    m = model(nodes, {"x": (np.dtype(object), ("n", 2)), "i": (I, ("k",))}, ["y", "n"],
              {"end": np.array("!", object), "flat": np.asarray([-1])})
    out = built(m, tmp_path)({"x": np.array([["a", "b"], ["c", "ü"]], object), "i": np.asarray([3, 0])})
    assert out["y"].tolist() == ["ü!", "a!"]
    assert out["n"] == 2
