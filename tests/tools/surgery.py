"""Models for the surgeon's tests, and running them in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from whet.tools.surgeon import OnnxModel

F32 = onnx.TensorProto.FLOAT


def tensor(name: str, shape: Sequence[Any] | None, code: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto],
          outputs: Sequence[onnx.ValueInfoProto], weights: Mapping[str, np.ndarray] | None = None, opset: int = 18,
          **more: Any) -> onnx.ModelProto:
    g = helper.make_graph(list(nodes), "g", list(inputs), list(outputs),
                          [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()])
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(g, opset_imports=opsets, ir_version=10, **more)


def run(m: OnnxModel | onnx.ModelProto | bytes | Path, feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None) -> list[np.ndarray]:
    """The outputs by ONNX Runtime."""
    source: Any = m.to_bytes() if isinstance(m, OnnxModel) else (
        m.SerializeToString() if isinstance(m, onnx.ModelProto) else str(m) if isinstance(m, Path) else m)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(outputs, dict(feeds))


def network(rng: np.random.Generator) -> onnx.ModelProto:
    """x [n, 64] -> two matmuls with a branch beside them -> y; 64x64 weights of 16 KiB."""
    node = helper.make_node
    return model(
        [node("MatMul", ["x", "w1"], ["a"], name="first"), node("Relu", ["a"], ["b"], name="act"),
         node("MatMul", ["b", "w2"], ["c"], name="second"), node("Sigmoid", ["a"], ["s"], name="gate"),
         node("Mul", ["c", "s"], ["y"], name="join"), node("ReduceMean", ["c"], ["z"], name="mean", keepdims=0)],
        [tensor("x", ["n", 64])], [tensor("y", ["n", 64]), tensor("z", [])],
        {"w1": rng.standard_normal((64, 64)).astype(np.float32) / 8,
         "w2": rng.standard_normal((64, 64)).astype(np.float32) / 8})
