"""Small encoders for a GPU: a step for each region, parts of products seen without copies; right on a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet

sys.path.insert(0, str(Path(__file__).parent / "targets" / "cuda"))
from on_device import needs_cuda

from onnx_runtime import session
from whet.measure import centred_error

pytest.importorskip("triton", reason="kernels for GPUs are compiled by Triton")
pytestmark = pytest.mark.usefixtures("compilers")
WIDTH, HEADS, ROWS = 384, 6, 24


class Encoder:
    """A transformer of two layers that normalizes after (`post`) or before its two halves."""

    def __init__(self, post: bool) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        x = "x"
        for layer in range(2):
            for half in (self.attention, self.feed_forward):
                if post:
                    x = self.norm(self.op("Add", half(x, layer), x))
                else:
                    x = self.op("Add", half(self.norm(x), layer), x)
        x = x if post else self.norm(x)
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, ROWS // 2, WIDTH]) for n in ("x", x)]
        graph = helper.make_graph(self.nodes, "encoder", ends[:1], ends[1:], self.weights)
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def op(self, kind: str, *ins: str, name: str = "", **attrs: object) -> str:
        out = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(ins), [out], name or out, **attrs))
        return out

    def const(self, a: np.ndarray) -> str:
        self.weights.append(onnx.numpy_helper.from_array(a, f"c{len(self.weights)}"))
        return self.weights[-1].name

    def linear(self, x: str, n: int, to: int, name: str = "") -> str:
        w, b = (self.rng.standard_normal(s).astype(np.float32) for s in ((n, to), (to,)))
        return self.op("Add", self.op("MatMul", x, self.const(w / np.sqrt(n, dtype=np.float32)), name=name),
                       self.const(b / 4))

    def norm(self, x: str) -> str:
        scale, bias = (self.rng.standard_normal(WIDTH).astype(np.float32) / 4 for _ in range(2))
        return self.op("LayerNormalization", x, self.const(1 + scale), self.const(bias), axis=-1)

    def attention(self, x: str, layer: int) -> str:
        shape = self.const(np.array([2, ROWS // 2, HEADS, WIDTH // HEADS], np.int64))
        q, k, v = (self.op("Transpose", self.op("Reshape", self.linear(x, WIDTH, WIDTH), shape), perm=p)
                   for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
        scores = self.op("Softmax", self.op("Mul", self.op("MatMul", q, k), self.const(np.float32(0.125))), axis=-1)
        y = self.op("Transpose", self.op("MatMul", scores, v), perm=(0, 2, 1, 3))
        y = self.op("Reshape", y, self.const(np.array([2, ROWS // 2, WIDTH], np.int64)))
        return self.linear(y, WIDTH, WIDTH, f"project{layer}")

    def feed_forward(self, x: str, layer: int) -> str:
        y = self.op("Gelu", self.linear(x, WIDTH, 2 * WIDTH, f"up{layer}"))
        return self.linear(y, 2 * WIDTH, WIDTH, f"down{layer}")


@pytest.mark.parametrize("post", [True, False], ids=["post-norm", "pre-norm"])
def test_a_layer_is_seven_regions_of_a_step_each(post: bool) -> None:
    plan = whet.build(Encoder(post).model, target="cuda:sm_90", precision="fp16", opt_level=0)
    info = plan.manifest.info
    layers = info["layers"]
    kinds = Counter(l["kind"] for l in layers)
    assert kinds == {"matmul": 8, "attention": 2, "layernorm": 4 if post else 5}
    assert len(plan.contents.steps) == len(layers)
    assert info["copies"] == 0
    assert plan.summary()["steps"]["reference"] == 0
    for l in layers:  # parts are called by the node that they are of, and read by the norm behind it
        if any(".parts" in v for v in l["writes"]):
            assert l["name"].startswith(("MatMul project", "MatMul down"))
    readers = [l for l in layers if any(".parts" in v for v in l["reads"])]
    assert [l["kind"] for l in readers] == ["layernorm"] * 4
    assert [len(l["writes"]) for l in readers] == [1] * 4 if post else [2, 2, 2, 1]


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("post", [True, False], ids=["post-norm", "pre-norm"])
def test_encoders_match_onnx_runtime(post: bool, precision: str) -> None:
    model = Encoder(post).model
    x = np.random.default_rng(1).standard_normal((2, ROWS // 2, WIDTH)).astype(np.float32)
    want = session(model).run(None, {"x": x})[0]
    with whet.load(whet.build(model, target="cuda", precision=precision, opt_level=0)) as engine:
        (y,) = engine({"x": x}).values()
    assert centred_error(y, want) < {"fp32": 1e-4, "bf16": 5e-2}.get(precision, 1e-2)
