"""Products of 8-bit integers are exact for any number of terms, on generated kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.frontends.tensors import TO_ONNX
from whet.ir.dtypes import DType


def build(op: str, feeds: dict[str, np.ndarray], inputs: list[str], out: int, **attrs: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], **attrs)], "g",
        [helper.make_tensor_value_info(n, TO_ONNX[DType.of(a.dtype)], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info("y", out, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **options: Any) -> np.ndarray:
    plan = whet.build(model, opt_level=0, threads=1, **options)
    steps = plan.summary()["steps"]
    assert not any(steps.get(kind, 0) for kind in ("reference", "host"))
    return whet.load(plan)(feeds)["y"]


def integers(t: type, shape: tuple[int, ...], extreme: bool) -> np.ndarray:
    """Random ones, or all as far from 0 as can be, where rounding would show."""
    info = np.iinfo(t)
    if extreme:
        return np.full(shape, info.max if t is np.uint8 else info.min, t) - np.arange(shape[-1]).astype(t) % t(2)
    return np.random.default_rng(0).integers(info.min, info.max, shape, t, endpoint=True)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("a", "b"), [(np.uint8, np.uint8), (np.int8, np.int8), (np.uint8, np.int8)])
@pytest.mark.parametrize("depth", [1, 258, 259, 1500])
def test_matmul_of_any_depth(depth: int, a: type, b: type, extreme: bool) -> None:
    feeds = {"a": integers(a, (3, depth), extreme), "b": integers(b, (depth, 5), extreme)}
    got = run(build("MatMulInteger", feeds, ["a", "b"], TensorProto.INT32), feeds)
    np.testing.assert_array_equal(got, feeds["a"].astype(np.int32) @ feeds["b"].astype(np.int32))


@pytest.mark.parametrize("extreme", [False, True])
def test_matmul_with_zero_points(extreme: bool) -> None:
    feeds = {"a": integers(np.uint8, (2, 4, 700), extreme), "b": integers(np.int8, (2, 700, 6), extreme),
             "za": np.array(3, np.uint8), "zb": integers(np.int8, (6,), False)}
    got = run(build("MatMulInteger", feeds, list(feeds), TensorProto.INT32), feeds)
    wide = {n: v.astype(np.int32) for n, v in feeds.items()}
    np.testing.assert_array_equal(got, (wide["a"] - wide["za"]) @ (wide["b"] - wide["zb"]))


def test_matmul_of_symbolic_depth() -> None:
    feeds = {"a": integers(np.uint8, (3, 600), True), "b": integers(np.uint8, (600, 5), True)}
    m = build("MatMulInteger", feeds, ["a", "b"], TensorProto.INT32)
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "k"
    m.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "k"
    got = run(m, feeds, profiles=[{"k": (1, 300, 900)}])
    np.testing.assert_array_equal(got, feeds["a"].astype(np.int32) @ feeds["b"].astype(np.int32))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("channels", [3, 40, 130])
@pytest.mark.parametrize("extreme", [False, True])
def test_convolution_of_any_number_of_channels(channels: int, group: int, extreme: bool) -> None:
    feeds = {"x": integers(np.uint8, (1, channels * group, 5, 6), extreme),
             "w": integers(np.uint8, (4, channels, 3, 3), extreme), "zx": np.array(1, np.uint8)}
    m = build("ConvInteger", feeds, list(feeds), TensorProto.INT32, pads=[1, 1, 1, 1], group=group)
    (want,) = ReferenceEvaluator(m).run(None, feeds)
    np.testing.assert_array_equal(run(m, feeds), want)


@pytest.mark.parametrize("real", [np.float32, np.float16])
@pytest.mark.parametrize("form", ["scalars", "vectors", "full rank"])
def test_qlinear_matmul(form: str, real: type) -> None:
    rng = np.random.default_rng(1)
    parts = {"scalars": ((), ()), "vectors": ((4,), (6,)), "full rank": ((2, 4, 1), (2, 1, 6))}[form]
    if form == "vectors":
        left, right = integers(np.uint8, (4, 300), False), integers(np.int8, (300, 6), False)
    else:
        left, right = integers(np.uint8, (2, 4, 300), False), integers(np.int8, (2, 300, 6), False)
    feeds = {"a": left, "sa": rng.uniform(0.01, 0.02, parts[0]).astype(real),
             "za": rng.integers(0, 9, parts[0]).astype(np.uint8), "b": right,
             "sb": rng.uniform(0.01, 0.02, parts[1]).astype(real), "zb": rng.integers(-4, 5, parts[1]).astype(np.int8),
             "sy": np.array(0.3, real), "zy": np.array(100, np.uint8)}
    got = run(build("QLinearMatMul", feeds, list(feeds), TensorProto.UINT8), feeds)
    column = (lambda v: v[:, None]) if form == "vectors" else (lambda v: v)
    wide = {n: v.astype(np.float64) for n, v in feeds.items()}
    product = (wide["a"] - column(wide["za"])) @ (wide["b"] - wide["zb"])
    exact = product * column(wide["sa"]) * wide["sb"] / wide["sy"]
    want = np.clip(np.rint(exact) + 100, 0, 255)
    near = np.abs(exact - np.floor(exact) - 0.5) < 1e-3  # ties may go either way: the factor is computed in f32
    assert (np.abs(got - want) <= near).all()


@pytest.mark.parametrize("x", [np.zeros(5), np.full(5, 3.0), np.full(5, -2.0), np.linspace(-1, 7, 33)],
                         ids=["zeros", "positive", "negative", "range"])
def test_dynamic_quantization_of_any_range(x: np.ndarray) -> None:
    feeds = {"x": x.astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(n, t, None) for n, t in
         (("y", TensorProto.UINT8), ("scale", TensorProto.FLOAT), ("zero", TensorProto.UINT8))])
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    got = whet.load(whet.build(m, opt_level=0, threads=1))(feeds)
    for name, want in zip(("y", "scale", "zero"), ReferenceEvaluator(m).run(None, feeds), strict=True):
        np.testing.assert_array_equal(got[name], want, err_msg=name)
