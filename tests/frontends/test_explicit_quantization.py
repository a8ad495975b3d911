"""Models that bring their own quantization give what ONNX Runtime gives, to the last step, on generated kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import quantized_models as made
from onnx import helper, numpy_helper

import whet

ort = pytest.importorskip("onnxruntime")
SHAPES = {"convolutional": (2, 3, 16, 16), "transformer": (2, 7, 32)}


@pytest.fixture(scope="module")
def timings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("timings") / "cache.json"


def data(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_whet(model: onnx.ModelProto, x: np.ndarray, timings: Path) -> tuple[np.ndarray, int]:
    """The result, and the number of native launches; nothing may run on the host."""
    plan = whet.build(model, opt_level=0, threads=1, timing_cache=timings)
    steps = plan.summary()["steps"]
    assert steps["reference"] == steps["host"] == 0
    with whet.load(plan) as engine:
        return engine({"x": x})["y"], steps["native"]


def by_onnxruntime(model: onnx.ModelProto, x: np.ndarray, as_written: bool = False) -> np.ndarray:
    """as_written: without the passes that replace Q/DQ by ONNX Runtime's own operators and biases by int32 codes."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def last_step(model: onnx.ModelProto) -> float:
    """The scale that the output is quantized with."""
    node = next(n for n in model.graph.node if n.output[0] == "y")
    assert node.op_type == "DequantizeLinear"
    scale = next(t for t in model.graph.initializer if t.name == node.input[1])
    return float(numpy_helper.to_array(scale).reshape(()))


def agree(got: np.ndarray, want: np.ndarray, step: float, share: float = 0.99, most: int = 1) -> None:
    """At least this share of the elements is equal, and none is more than so many steps off."""
    off = np.rint(np.abs(got - want) / step)
    assert (off == 0).mean() >= share, f"{(off == 0).mean():.4f} are equal"
    assert off.max() <= most


# -- ONNX Runtime's quantizer -----------------------------------------------------------------


def quantized_by_onnxruntime(name: str, folder: Path, **how: Any) -> onnx.ModelProto:
    quantization = pytest.importorskip("onnxruntime.quantization")
    logging.disable(logging.WARNING)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter([data(SHAPES[name], seed) for seed in range(4)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.left, None)
            return None if x is None else {"x": x}

    source, out = folder / "float.onnx", folder / "codes.onnx"
    onnx.save(getattr(made, name)(), source)
    kinds = {"u8": quantization.QuantType.QUInt8, "i8": quantization.QuantType.QInt8}
    options = {"weight_type": kinds[how.pop("weights")], "per_channel": how.pop("per_channel", False),
               "reduce_range": how.pop("reduce_range", False)}
    if how.pop("dynamic", False):
        quantization.quantize_dynamic(source, out, **options)
    else:
        quantization.quantize_static(source, out, Reader(), activation_type=kinds[how.pop("activations")],
                                     quant_format=quantization.QuantFormat[how.pop("form")], **options)
    logging.disable(logging.NOTSET)
    return onnx.load(out)


STATIC = {
    "convolutional, u8 by i8 per channel": ("convolutional", 9, {"form": "QDQ", "activations": "u8", "weights": "i8",
                                                                      "per_channel": True}),
    "convolutional, u8 by u8": ("convolutional", 11, {"form": "QDQ", "activations": "u8", "weights": "u8"}),
    "convolutional, operators": ("convolutional", 9, {"form": "QOperator", "activations": "u8", "weights": "i8",
                                                           "per_channel": True, "reduce_range": True}),
    "transformer, u8 by i8 per channel": ("transformer", 14, {"form": "QDQ", "activations": "u8", "weights": "i8",
                                                                  "per_channel": True}),
    "transformer, operators, i8 by i8": ("transformer", 14, {"form": "QOperator", "activations": "i8", "weights": "i8",
                                                                 "reduce_range": True}),
}


@pytest.mark.parametrize("case", STATIC)
def test_static_quantization_by_onnxruntime(case: str, tmp_path: Path, timings: Path) -> None:
    """Fused: of the convolutional network the quantized input, five products, two poolings and a concatenation."""
    name, launches, how = STATIC[case]
    model = quantized_by_onnxruntime(name, tmp_path, **how)
    x = data(SHAPES[name], 99)
    got, native = by_whet(model, x, timings)
    agree(got, by_onnxruntime(model, x, as_written=True), last_step(model))
    if name == "convolutional" or how["form"] == "QOperator":  # its softmax in place of Q/DQ has a rounding of its own
        agree(got, by_onnxruntime(model, x), last_step(model))
    assert native <= launches


@pytest.mark.parametrize("weights", ["i8", "u8"])
def test_dynamic_quantization_by_onnxruntime(weights: str, tmp_path: Path, timings: Path) -> None:
    model = quantized_by_onnxruntime("transformer", tmp_path, dynamic=True, weights=weights, per_channel=True)
    x = data(SHAPES["transformer"], 99)
    got, _ = by_whet(model, x, timings)
    want = by_onnxruntime(model, x)
    off = np.abs(got - want) / np.abs(want).max()
    assert off.max() < 0.01  # where a code of some layer fell to the other side: ranges differ in their last bit
    assert (off < 1e-5).mean() >= 0.99


def test_a_dynamically_quantized_convolution_is_exact(timings: Path) -> None:
    """The zero point is computed: padding holds 0, and what weights meet of the input is known."""
    n = made.Net()
    n.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    w = n.const(integers(np.int8, 6, 5, 3, 3), np.int8)
    n.nodes.append(helper.make_node("ConvInteger", ["q", w, "z"], ["y"], pads=[1, 1, 1, 1], strides=[1, 2]))
    graph = helper.make_graph(n.nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 5, 7, 8])],
                              [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)], n.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = data((2, 5, 7, 8), 3)
    got, _ = by_whet(model, x, timings)
    np.testing.assert_array_equal(got, by_onnxruntime(model, x))


# -- other tools ------------------------------------------------------------------------------


@pytest.mark.parametrize("style,launches", [("torch_style", 6), ("nncf_style", 6), ("modelopt_int8", 3)])
def test_int8_of_other_tools(style: str, launches: int, timings: Path) -> None:
    model = getattr(made, style)()
    onnx.checker.check_model(model, full_check=True)
    x = data((3, 7, 32) if style == "modelopt_int8" else (3, 3, 16, 16), 5)
    got, native = by_whet(model, x, timings)
    agree(got, by_onnxruntime(model, x, as_written=True), last_step(model))
    agree(got, by_onnxruntime(model, x), last_step(model), share=0.8)  # it rounds biases and sums otherwise
    assert native <= launches


@pytest.mark.parametrize("style,width", [("modelopt_fp8", 32), ("modelopt_int4", 64)])
def test_few_bits_of_other_tools(style: str, width: int, timings: Path) -> None:
    model = getattr(made, style)()
    onnx.checker.check_model(model, full_check=True)
    x = data((3, 7, width), 6)
    got, _ = by_whet(model, x, timings)
    want = by_onnxruntime(model, x, as_written=True)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


# -- single operators -------------------------------------------------------------------------


def single(op: str, operands: dict[str, Any], out: int, domain: str = "", **attrs: Any) -> onnx.ModelProto:
    """A model of one node: x (u8, dynamic in its first dimension) and constants; attributes by name."""
    x = operands["x"]
    graph = helper.make_graph(
        [helper.make_node(op, list(operands), ["y"], domain=domain, **attrs)], "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), ["n", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in operands.items() if k != "x"])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(
        "com.microsoft", 1)], ir_version=10)


def integers(kind: Any, *shape: int, seed: int = 0) -> np.ndarray:
    info = np.iinfo(kind)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, kind, endpoint=True)


@pytest.mark.parametrize("a", [np.uint8, np.int8])
@pytest.mark.parametrize("b,zero", [(np.int8, None), (np.uint8, 128), (np.uint8, 3), (np.int8, "columns")])
def test_products_of_integers_by_constants_are_exact(a: Any, b: Any, zero: Any, timings: Path) -> None:
    """MatMulInteger with zero points of both operands: 700 terms, beyond what f32 holds."""
    x, w = integers(a, 3, 5, 700), integers(b, 700, 9, seed=1)
    zb = np.asarray(0 if zero is None else zero, b) if zero != "columns" else integers(b, 9, seed=2)
    model = single("MatMulInteger", {"x": x, "w": w, "za": np.asarray(7, a), "zb": zb}, onnx.TensorProto.INT32)
    got, _ = by_whet(model, x, timings)
    want = (x.astype(np.int32) - 7) @ (w.astype(np.int32) - zb.astype(np.int32))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("group", [1, 2, 8])
def test_convolutions_of_integers_by_constants_are_exact(group: int, timings: Path) -> None:
    """Padding holds the zero point."""
    x, w = integers(np.uint8, 2, 8, 6, 5), integers(np.int8, 8, 8 // group, 3, 3, seed=1)
    model = single("ConvInteger", {"x": x, "w": w, "zx": np.asarray(131, np.uint8)}, onnx.TensorProto.INT32,
                   pads=[1, 2, 1, 0], group=group, strides=[2, 1])
    got, _ = by_whet(model, x, timings)
    np.testing.assert_array_equal(got, by_onnxruntime(model, x))
