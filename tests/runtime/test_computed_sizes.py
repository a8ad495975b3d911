"""Plans whose sizes are computed while the model runs: results, checks, and profiles of inputs that are sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.errors import InputError, ProfileError
from whet.tuning.cache import TimingCache

F, I = np.float32, np.int64
TYPES = {F: onnx.TensorProto.FLOAT, I: onnx.TensorProto.INT64}


def model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[Any, tuple[Any, ...]]], outputs: list[str],
          **constants: np.ndarray) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, TYPES[t], list(s)) for n, (t, s) in inputs.items()]
    graph = helper.make_graph(nodes, "test", infos, [onnx.ValueInfoProto(name=o) for o in outputs],
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def engine(m: onnx.ModelProto, profiles: list[dict[str, Any]] | None = None) -> whet.Engine:
    return whet.load(whet.build(m, opt_level=0, threads=1, profiles=profiles, timing_cache=TimingCache()))


def ints(*v: int) -> np.ndarray:
    return np.array(v, I)


def expand() -> onnx.ModelProto:
    return model([helper.make_node("Expand", ["x", "s"], ["y"])], {"x": (F, (1, 1)), "s": (I, (2,))}, ["y"])


def test_a_size_from_data_may_change_from_run_to_run() -> None:
    e = engine(expand())
    x = np.full((1, 1), 3, F)
    for shape in ((2, 3), (7, 1), (0, 4), (2, 3)):
        np.testing.assert_array_equal(e({"x": x, "s": ints(*shape)})["y"], np.full(shape, 3, F))


def test_a_reshape_that_does_not_fit_is_refused_before_anything_is_read() -> None:
    m = model([helper.make_node("Reshape", ["x", "s"], ["v"]), helper.make_node("Relu", ["v"], ["y"])],
              {"x": (F, (6,)), "s": (I, (2,))}, ["y"])
    e = engine(m)
    x = np.arange(-2, 4, dtype=F)
    np.testing.assert_array_equal(e({"x": x, "s": ints(-1, 2)})["y"], np.maximum(x, 0).reshape(3, 2))
    for wrong in ((2, 4), (0, 0), (-1, 4)):
        with pytest.raises(InputError, match="Reshape"):
            e({"x": x, "s": ints(*wrong)})


def test_sizes_that_must_be_equal_are_checked() -> None:
    nodes = [helper.make_node("NonZero", ["a"], ["i"]), helper.make_node("NonZero", ["b"], ["j"]),
             helper.make_node("Add", ["i", "j"], ["y"])]
    e = engine(model(nodes, {"a": (F, ("n",)), "b": (F, ("m",))}, ["y"]))
    assert e({"a": np.array([1, 0, 1], F), "b": np.array([1, 1], F)})["y"].tolist() == [[0, 3]]
    with pytest.raises(InputError):
        e({"a": np.array([1, 0, 1], F), "b": np.array([1, 0], F)})


def test_a_profile_limits_the_elements_of_an_input_that_is_a_shape() -> None:
    e = engine(expand(), [{"s": ((1, 2), (1, 8), (4, 16))}])
    x = np.ones((1, 1), F)
    assert e({"x": x, "s": ints(4, 16)})["y"].shape == (4, 16)
    with pytest.raises(ProfileError, match="element 1 of the input 's' is 17"):
        e({"x": x, "s": ints(4, 17)})


def test_the_elements_of_a_shape_choose_the_profile() -> None:
    e = engine(expand(), [{"s": ((1, 1), (1, 8), (1, 16))}, {"s": ((1, 17), (8, 64), (16, 100))}])
    x = np.ones((1, 1), F)
    for shape in ((1, 3), (5, 100), (1, 16)):
        assert e({"x": x, "s": ints(*shape)})["y"].shape == shape
    with pytest.raises(ProfileError, match="profile"):
        e({"x": x, "s": ints(5, 3)})
