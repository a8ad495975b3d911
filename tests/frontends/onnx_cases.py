"""Small ONNX models for tests, and the comparison with a backend that they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from whet.frontends import load_model
from whet.frontends.tensors import TO_ONNX
from whet.ir import DType, interpret, verify


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[np.dtype | type, Sequence[Any]]],
          outputs: Sequence[str], constants: Mapping[str, np.ndarray] | None = None, opset: int = 20,
          domains: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """A model; inputs are {name: (dtype, dims)}, outputs are declared without type or shape."""
    infos = [helper.make_tensor_value_info(n, TO_ONNX[DType.of(t)], list(s)) for n, (t, s) in inputs.items()]
    graph = helper.make_graph(
        list(nodes), "test", infos, [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def one(op: str, arrays: Sequence[np.ndarray | None], outputs: int = 1, opset: int = 20,
        constants: Sequence[int] = (), free: bool = False,
        **attrs: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """(model of one node, feeds). `constants`: which inputs are initializers; `free`: input dims are symbolic."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, **attrs)
    given = {f"x{i}": a for i, a in enumerate(arrays) if a is not None and i not in constants}
    dims = {n: [f"{n}_d{k}" for k in range(a.ndim)] if free else a.shape for n, a in given.items()}
    m = model([node], {n: (a.dtype, dims[n]) for n, a in given.items()}, results,
              {f"x{i}": a for i, a in enumerate(arrays) if a is not None and i in constants}, opset)
    return m, given


def typed(m: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outputs' types inferred, which onnxruntime wants."""
    return onnx.shape_inference.infer_shapes(m)


def by_whet(m: onnx.ModelProto, feeds: Mapping[str, np.ndarray], **how: Any) -> list[np.ndarray]:
    """The outputs of the imported graph by the NumPy references; the graph is verified first."""
    graph = load_model(m.SerializeToString(), **how)
    verify(graph)
    got = interpret(graph, feeds)
    return [got[o.name] for o in m.graph.output]


def by_onnxruntime(m: onnx.ModelProto | str, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = m if isinstance(m, str) else typed(m).SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 distance after centring over the last axis, so that a common offset cannot hide errors."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def by_plan(m: onnx.ModelProto, feeds: Mapping[str, np.ndarray], generated: bool = True) -> list[np.ndarray]:
    """The outputs of the model built into a plan; `generated`: no reference kernel may be in it."""
    import whet
    from whet.tuning.cache import TimingCache

    plan = whet.build(m, opt_level=0, threads=1, timing_cache=TimingCache())
    steps = plan.summary()["steps"]
    assert not generated or steps["reference"] == steps["host"] == 0, steps
    with whet.load(plan) as engine:
        got = engine(dict(feeds))
    return [got[o.name] for o in m.graph.output]


def by_reference(m: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by onnx.reference."""
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(m).run(None, dict(feeds)))


def agree(got: Sequence[np.ndarray], want: Sequence[Any], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert equal types and shapes, and values within tolerance (NaN where NaN is wanted)."""
    assert len(got) == len(want)
    for g, w in zip(got, map(np.asarray, want)):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=rtol, atol=atol)
