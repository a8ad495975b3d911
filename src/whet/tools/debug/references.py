"""Values that are taken for right: by ONNX Runtime, or by ONNX's reference kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from whet import plugins
from whet.errors import InputError, MissingExtraError, ModelError
from whet.frontends.order import bodies
from whet.tools.debug.subject import saved, with_outputs
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import graphs

AGAINST = ("onnxruntime", "reference")


def check(against: str) -> None:
    """InputError if there is no such reference."""
    if against not in AGAINST:
        raise InputError(f"no reference {against!r}", why=f"there are {', '.join(AGAINST)}", do="choose among these")


def reference(model: OnnxModel, feeds: Mapping[str, np.ndarray], names: Sequence[str],
              against: str = "onnxruntime") -> dict[str, Any]:
    """What these tensors of the main graph (and the model's outputs) are, by name.

    against: `onnxruntime`, with its graph optimizations off; or `reference`, ONNX's reference kernels, and plugins by
    their functions. ModelError if it does not run the model; MissingExtraError if it is not installed.
    """
    check(against)
    try:
        return (_onnxruntime if against == "onnxruntime" else _kernels)(model, feeds, names)
    except MissingExtraError:
        raise
    except Exception as e:  # each library has exceptions of its own
        other = next(a for a in AGAINST if a != against)
        raise ModelError(f"the reference, {against}, does not run this model", where=model.name,
                         why=(str(e).strip().splitlines() or [type(e).__name__])[0],
                         do=f"check the inputs (--inputs, --shapes), or take --against {other}") from e


def _onnxruntime(model: OnnxModel, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    try:
        import onnxruntime as ort
    except ImportError as e:
        raise MissingExtraError.for_package("onnxruntime", "onnxruntime", "--against onnxruntime") from e
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    with saved(with_outputs(model, names)) as path:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [o.name for o in session.get_outputs()]
    return dict(zip(found, session.run(found, dict(feeds)), strict=True))


def _kernels(model: OnnxModel, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    proto = with_outputs(model, names).to_proto()
    evaluator = ReferenceEvaluator(proto, new_ops=_plugins(proto))
    found = [o.name for o in proto.graph.output]
    # Copies, for some reference kernels change their operands.
    with np.errstate(all="ignore"):
        return dict(zip(found, evaluator.run(found, {k: np.array(v) for k, v in feeds.items()}), strict=True))


def _plugins(proto: onnx.ModelProto) -> list[type[OpRun]]:
    """The plugins that a model uses, as operators of `onnx.reference`."""
    versions = {o.domain: o.version for o in proto.opset_import}
    used = {(n.domain, n.op_type) for g in graphs(proto.graph) for n in g.node if n.domain not in ("", "ai.onnx")}
    used |= {(n.domain, n.op_type) for f in proto.functions for m in f.node
             for n in [m, *(k for b in bodies(m) for g in graphs(b) for k in g.node)]}
    out = []
    for domain, name in sorted(used):
        found = plugins.find(domain, name, versions.get(domain, 1))
        if found is not None:
            out.append(_operator(found))
    return out


def _operator(p: plugins.Plugin) -> type[OpRun]:
    class Operator(OpRun):
        op_domain = p.domain

        def _run(self, *operands: Any, **_: Any) -> tuple[Any, ...]:
            attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in self.onnx_node.attribute}
            return tuple(plugins.call(p, operands, attributes))

    Operator.__name__ = p.name
    return Operator


def _plain(v: Any) -> Any:
    """An attribute as a plugin's function takes it."""
    if isinstance(v, onnx.TensorProto):
        return onnx.numpy_helper.to_array(v)
    if isinstance(v, (list, tuple)):
        return [_plain(x) for x in v]
    return v.decode() if isinstance(v, bytes) else v
