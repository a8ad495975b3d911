"""Squeeze-and-excitation and layers that normalize before they multiply, on a GPU: no steps of their own for means,
factors, batch norm and ReLU; right on a GPU."""

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
from whet import passes
from whet.frontends import load_model
from whet.measure import centred_error
from whet.passes import precision
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import CudaTarget

pytest.importorskip("triton", reason="kernels for GPUs are compiled by Triton")
pytestmark = pytest.mark.usefixtures("compilers")


class Model:
    """Nodes in a row over images x [n, 40, 13, 11]."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *ins: str, **attrs: object) -> str:
        out = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(ins), [out], out, **attrs))
        return out

    def const(self, *shape: int, by: float = 1.0, plus: float = 0.0) -> str:
        a = (self.rng.standard_normal(shape) * by + plus).astype(np.float32)
        self.weights.append(onnx.numpy_helper.from_array(a, f"c{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x: str, to: int, of: int, window: int = 1, group: int = 1) -> str:
        fan = of // group * window * window
        return self.op("Conv", x, self.const(to, of // group, window, window, by=fan ** -0.5), self.const(to),
                       group=group, pads=[window // 2] * 4)

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def done(self, y: str, channels: int, batch: int | str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, c, 13, 11])
                for n, c in (("x", 40), (y, channels))]
        graph = helper.make_graph(self.nodes, "images", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def excitation(batch: int | str) -> onnx.ModelProto:
    """A block of EfficientNet's."""
    m = Model()
    first = m.conv("x", 40, 40)
    x = m.silu(m.conv(m.silu(m.conv(first, 72, 40)), 72, 72, 5, group=72))
    s = m.silu(m.conv(m.op("ReduceMean", x, axes=[2, 3], keepdims=1), 10, 72))
    y = m.conv(m.op("Mul", x, m.op("Sigmoid", m.conv(s, 72, 10))), 40, 72)
    return m.done(m.conv(m.op("Add", y, first), 40, 40), 40, batch)


def dense(batch: int | str) -> onnx.ModelProto:
    """Two layers of DenseNet's."""
    m, c = Model(), 40
    x = m.conv("x", c, c)
    for _ in range(2):
        norm = [m.const(c, by=0.1, plus=p) for p in (1.0, 0.0, 0.0)] + [m.const(c, by=0.0, plus=1.0)]
        y = m.op("Relu", m.conv(m.op("Relu", m.op("BatchNormalization", x, *norm)), 64, c))
        x, c = m.op("Concat", x, m.conv(y, 16, 64, 3), axis=1), c + 16
    return m.done(m.conv(x, 40, c), 40, batch)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    """Regions of each kind, all of them with a kernel."""
    graph = passes.finish(passes.prepare(load_model(model)), "fp16", traits=precision.GPU, multiprocessors=132)
    regions = [n.attrs["region"] for n in graph.nodes if n.op == "region"]
    assert not any(CudaTarget(typical((9, 0))).accepts(r) for r in regions)
    return Counter(r.kind for r in regions)


def test_means_and_factors_have_no_regions() -> None:
    assert kinds(excitation(2)) == {"conv": 7, "pointwise": 1}, "one that rounds the input"


def test_batch_norm_and_relu_have_no_regions() -> None:
    assert kinds(dense("n")) == {"conv": 6, "pointwise": 1}, "one that rounds the input"


@needs_cuda
@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("make", [excitation, dense])
@pytest.mark.parametrize("batch", [3, "n"])
def test_blocks_match_onnx_runtime(make, name: str, batch: int | str) -> None:
    model = make(batch)
    x = np.random.default_rng(1).standard_normal((5 if batch == "n" else batch, 40, 13, 11)).astype(np.float32)
    want = session(model).run(None, {"x": x})[0]
    with whet.load(whet.build(model, target="cuda", precision=name, opt_level=0)) as engine:
        (y,) = engine({"x": x}).values()
    assert centred_error(y, want) < (1e-4 if name == "fp32" else 1e-2)
