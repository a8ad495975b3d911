"""One node of ONNX Runtime's own operators, built by whet and run by ONNX Runtime, on the same random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import whet

_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8,
          np.dtype(np.int8): TensorProto.INT8, np.dtype(np.int32): TensorProto.INT32,
          np.dtype(np.int64): TensorProto.INT64, np.dtype(np.bool_): TensorProto.BOOL,
          np.dtype(np.float16): TensorProto.FLOAT16}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def model_of(op: str, inputs: Sequence[np.ndarray | None], results: Sequence[tuple[Any, int]],
             attrs: Mapping[str, Any], constant: Sequence[int] = (), shapes: Mapping[int, Sequence[Any]] | None = None,
             domain: str = "com.microsoft") -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and its feeds. results: (dtype, rank) of each output (rank < 0: not asked for)."""
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    weights = [numpy_helper.from_array(a, names[i]) for i, a in enumerate(inputs) if i in constant and a is not None]
    given = [helper.make_tensor_value_info(names[i], _TYPES[a.dtype], (shapes or {}).get(i, a.shape))
             for i, a in enumerate(inputs) if a is not None and i not in constant]
    outs = [f"y{i}" if rank >= 0 else "" for i, (_, rank) in enumerate(results)]
    node = helper.make_node(op, names, outs, domain=domain, **attrs)
    declared = [helper.make_tensor_value_info(o, _TYPES[np.dtype(t)], [None] * rank)
                for o, (t, rank) in zip(outs, results) if o]
    graph = helper.make_graph([node], op, given, declared, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model, {names[i]: a for i, a in enumerate(inputs) if a is not None and i not in constant}


def by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def by_whet(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], **options: Any) -> list[np.ndarray]:
    """The outputs in order. AssertionError where a step is not generated code or a view."""
    plan = whet.build(model, opt_level=0, threads=1, **options)
    steps = plan.summary()["steps"]
    assert not steps["reference"], steps
    assert not steps["host"], steps
    got = whet.load(plan)(dict(feeds))
    return [got[o.name] for o in model.graph.output]


def agree(op: str, inputs: Sequence[np.ndarray | None], results: Sequence[tuple[Any, int]],
          attrs: Mapping[str, Any] | None = None, constant: Sequence[int] = (), rtol: float = 1e-4, atol: float = 1e-5,
          domain: str = "com.microsoft") -> None:
    """whet and ONNX Runtime give the same."""
    model, feeds = model_of(op, inputs, results, attrs or {}, constant, domain=domain)
    want, got = by_onnxruntime(model, feeds), by_whet(model, feeds)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == w.dtype, f"output {i} is {g.dtype}, not {w.dtype}"
        assert g.shape == w.shape, f"output {i} is {g.shape}, not {w.shape}"
        if g.dtype.kind in "iu":  # a code may round the other way
            assert np.abs(g.astype(int) - w.astype(int)).max(initial=0) <= 1, f"output {i}"
            assert (g != w).mean() < 0.02, f"output {i}: {(g != w).mean():.3f} differ"
        else:
            np.testing.assert_allclose(g.astype(float), w.astype(float), rtol=rtol, atol=atol, err_msg=f"output {i}")
