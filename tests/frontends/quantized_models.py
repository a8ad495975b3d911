"""Small networks, and their quantized forms as other tools write them, made by hand where the tool is not installed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.frontends.tensors import TO_ONNX
from whet.ir.dtypes import DType

Array = np.ndarray


class Net:
    """A model built node by node; `at` names results after their node."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, data: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(data, dtype)
        kind = TO_ONNX[DType.of(array.dtype)]
        if kind in (TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
            self.constants.append(helper.make_tensor(name, kind, array.shape, array.astype(np.float32).reshape(-1)))
        else:
            self.constants.append(numpy_helper.from_array(array, name))
        return name

    def at(self, op: str, *ins: str, **attrs: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(ins), [name], name=name, **attrs))
        return name

    def weights(self, *shape: int) -> Array:
        return (self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def bias(self, n: int) -> Array:
        return (0.1 * self.rng.normal(size=n)).astype(np.float32)

    def model(self, y: str, inputs: tuple[int | str, ...], outputs: tuple[int | str, ...],
              opset: int = 21) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        assert y == self.nodes[-1].name
        graph = helper.make_graph(self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def convolutional(opset: int = 17) -> onnx.ModelProto:
    """Convolutions, one depthwise, a residual sum, pooling, concatenation, a fully connected layer: x [n,3,16,16]."""
    n = Net()

    def conv(x: str, w: Array, **attrs: Any) -> str:
        return n.at("Conv", x, n.const(w), n.const(n.bias(w.shape[0])), **attrs)

    h = n.at("Relu", conv("x", n.weights(16, 3, 3, 3), pads=[1] * 4))
    d = n.at("Relu", conv(h, n.weights(16, 1, 3, 3), pads=[1] * 4, group=16))
    s = n.at("Relu", n.at("Add", conv(d, n.weights(16, 16, 1, 1)), h))
    p = n.at("MaxPool", s, kernel_shape=[2, 2], strides=[2, 2])
    f = n.at("Relu", conv(p, n.weights(24, 16, 3, 3), pads=[1] * 4, strides=[2, 2]))
    g = n.at("Flatten", n.at("GlobalAveragePool", n.at("Concat", f, f, axis=1)))
    y = n.at("Gemm", g, n.const(n.weights(10, 48)), n.const(n.bias(10)), transB=1)
    return n.model(y, ("n", 3, 16, 16), ("n", 10), opset)


def transformer(opset: int = 20) -> onnx.ModelProto:
    """A transformer block: x [n,7,32]."""
    n, width, heads = Net(1), 32, 4

    def dense(x: str, out: int, width: int = width) -> str:
        return n.at("Add", n.at("MatMul", x, n.const(n.weights(out, width).T)), n.const(n.bias(out)))

    split, joined = n.const([0, 0, heads, width // heads], np.int64), n.const([0, 0, width], np.int64)
    q, k, v = (n.at("Transpose", n.at("Reshape", dense("x", width), split), perm=perm)
               for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    p = n.at("Softmax", n.at("Mul", n.at("MatMul", q, k), n.const((width // heads) ** -0.5)), axis=-1)
    c = n.at("Reshape", n.at("Transpose", n.at("MatMul", p, v), perm=[0, 2, 1, 3]), joined)
    r = n.at("Add", dense(c, width), "x")
    l = n.at("LayerNormalization", r, n.const(np.ones(width)), n.const(n.bias(width)), axis=-1)
    y = n.at("Add", dense(n.at("Gelu", dense(l, 4 * width)), width, 4 * width), l)
    return n.model(y, ("n", 7, width), ("n", 7, width), opset)


# -- as other tools write them ----------------------------------------------------------------


class Quantized(Net):
    """Q/DQ around operators. codes: of activations; symmetric ones have the zero point 0."""

    def __init__(self, codes: Any = np.uint8, seed: int = 2) -> None:
        super().__init__(seed)
        self.codes = codes

    def pair(self, x: str, low: float, high: float) -> str:
        """QuantizeLinear and DequantizeLinear of an activation that lies in low..high."""
        if self.codes is np.uint8:
            scale = (high - low) / 255
            zero = self.const(round(-low / scale), np.uint8)
        elif self.codes is np.int8:
            scale, zero = max(-low, high) / 127, self.const(0, np.int8)
        else:
            scale, zero = max(-low, high) / 448, self.const(0, self.codes)
        s = self.const(scale)
        return self.at("DequantizeLinear", self.at("QuantizeLinear", x, s, zero), s, zero)

    def scale_of(self, dq: str) -> float:
        node = next(m for m in self.nodes if m.name == dq)
        return float(numpy_helper.to_array(next(t for t in self.constants if t.name == node.input[1])))

    def int8(self, w: Array, axis: int = 0, computed: bool = False) -> tuple[str, Array]:
        """(dequantized weights, their scales): codes with a scale per index of an axis, or, where `computed`, floats
        that the model quantizes."""
        others = tuple(i for i in range(w.ndim) if i != axis)
        scale = (np.abs(w).max(axis=others) / 127).astype(np.float32)
        s, z = self.const(scale), self.const(np.zeros(scale.shape), np.int8)
        if computed:
            q = self.at("QuantizeLinear", self.const(w), s, z, axis=axis)
        else:
            along = [-1 if i == axis else 1 for i in range(w.ndim)]
            q = self.const(np.clip(np.rint(w / scale.reshape(along)), -127, 127), np.int8)
        return self.at("DequantizeLinear", q, s, z, axis=axis), scale

    def bias32(self, b: Array, scale: Array) -> str:
        """A bias as codes in int32, of the products' scale."""
        return self.at("DequantizeLinear", self.const(np.rint(b / scale), np.int32), self.const(scale), axis=0)


def torch_style() -> onnx.ModelProto:
    """As PyTorch exports: symmetric int8 activations, int8 weights per channel, the bias as int32 codes, weights of
    linear layers transposed behind their DequantizeLinear."""
    n = Quantized(np.int8)

    def conv(x: str, w: Array, **attrs: Any) -> str:
        wq, scale = n.int8(w)
        return n.at("Conv", x, wq, n.bias32(n.bias(w.shape[0]), np.float32(n.scale_of(x)) * scale), **attrs)

    h = n.pair(n.at("Relu", conv(n.pair("x", -4, 4), n.weights(16, 3, 3, 3), pads=[1] * 4)), 0, 2.9)
    s = n.pair(n.at("Relu", n.at("Add", n.pair(conv(h, n.weights(16, 16, 3, 3), pads=[1] * 4), -2.1, 2.3), h)), 0, 3.7)
    g = n.pair(n.at("GlobalAveragePool", s), 0, 1.9)
    w, _ = n.int8(n.weights(10, 16))
    flat = n.at("Flatten", g)
    y = n.at("Add", n.at("MatMul", flat, n.at("Transpose", w, perm=[1, 0])), n.const(n.bias(10)))
    return n.model(n.pair(y, -2.2, 1.7), ("n", 3, 16, 16), ("n", 10))


def nncf_style() -> onnx.ModelProto:
    """As NNCF and OpenVINO write: uint8 activations with a zero point, per-channel int8 weights, floats as biases, each
    operand of a sum quantized."""
    n = Quantized(np.uint8)

    def conv(x: str, w: Array, **attrs: Any) -> str:
        return n.at("Conv", x, n.int8(w)[0], n.const(n.bias(w.shape[0])), **attrs)

    x = n.pair("x", -3.7, 4.1)
    h = n.pair(n.at("Relu", conv(x, n.weights(16, 3, 3, 3), pads=[1] * 4)), 0, 3)
    d = n.pair(n.at("Clip", conv(h, n.weights(16, 1, 3, 3), pads=[1] * 4, group=16), n.const(0.0), n.const(6.0)), 0, 3)
    e = n.pair(conv(d, n.weights(16, 16, 1, 1)), -2.1, 2.3)
    s = n.pair(n.at("Add", e, h), -2, 5)
    y = n.at("Conv", s, n.int8(n.weights(8, 16, 3, 3))[0], n.const(n.bias(8)), strides=[2, 2])
    return n.model(n.pair(y, -3, 3), ("n", 3, 16, 16), ("n", 8, 7, 7))


def modelopt_int8() -> onnx.ModelProto:
    """As ModelOpt writes int8: symmetric everywhere, weights as floats that the model quantizes."""
    n = Quantized(np.int8)
    x = n.pair("x", -4, 4)
    u = n.at("Add", n.at("MatMul", x, n.int8(n.weights(64, 32).T, 1, computed=True)[0]), n.const(n.bias(64)))
    v = n.pair(n.at("Gelu", u), -3, 3)
    y = n.at("MatMul", v, n.int8(n.weights(32, 64).T, 1, computed=True)[0])
    return n.model(n.pair(n.at("Add", y, x), -5, 5), ("n", 7, 32), ("n", 7, 32))


def modelopt_fp8() -> onnx.ModelProto:
    """As ModelOpt writes fp8: e4m3 around matmuls, one scale per tensor."""
    n = Quantized(ml_dtypes.float8_e4m3fn)
    w = n.weights(24, 32).T
    s = np.float32(np.abs(w).max() / 448)
    q = n.const(w / s, ml_dtypes.float8_e4m3fn)
    y = n.at("MatMul", n.pair("x", -4, 4), n.at("DequantizeLinear", q, n.const(s)))
    return n.model(y, ("n", 7, 32), ("n", 7, 24))


def modelopt_int4(block: int = 16) -> onnx.ModelProto:
    """As ModelOpt writes int4: weights in blocks of rows, activations in floats."""
    n = Net(3)
    w = n.weights(24, 64).T
    rows = w.reshape(-1, block, 24)
    scale = (np.abs(rows).max(axis=1) / 7).astype(np.float32)
    q = n.const(np.clip(np.rint(rows / scale[:, None]), -8, 7).reshape(w.shape), ml_dtypes.int4)
    y = n.at("MatMul", "x", n.at("DequantizeLinear", q, n.const(scale), axis=0, block_size=block))
    return n.model(y, ("n", 7, 64), ("n", 7, 24))
