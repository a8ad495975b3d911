"""A tiny model and its plans, for tests of documents and configurations."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.measure.device import this_device
from whet.precision.result import Candidate, SearchResult, Timing


def model(path: Path, name: str = "tiny_net") -> Path:
    """Two products and what is between them: [n, 8] -> [n, 4]."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(8, 16)), "w2": rng.normal(size=(16, 4))}
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "w2"], ["y"], name="second")]
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def samples(path: Path) -> Path:
    """Calibration samples for it."""
    np.savez(path, x=np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32))
    return path


def searched() -> dict[str, object]:
    """What a build's search leaves in the evidence of a plan."""
    return msgspec.to_builtins(SearchResult(
        date="2026-01-02T03:04:05+00:00", model="tiny_net", metric="top1", max_drop=0.5, samples=512, threads=1,
        device=this_device(), chosen=1, candidates=(
            Candidate(label="fp32", latency=Timing(seconds=2e-5)),
            Candidate(label="int8", latency=Timing(seconds=1e-5, low=0.9e-5, high=1.1e-5), value=0.991, value_low=0.98,
                      value_high=0.997, loss=0.1, bound=0.4))))
