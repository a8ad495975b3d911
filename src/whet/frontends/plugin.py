"""Nodes of operators that plugins bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from whet import plugins
from whet.errors import PluginError, WhetError
from whet.frontends.call import Call, NeedsReferenceError, Operand
from whet.ir.dtypes import DType
from whet.ir.graph import Size
from whet.ir.ops_base import Spec
from whet.ir.symbolic import Dim


def lower_plugin(call: Call, p: plugins.Plugin) -> Sequence[Operand | None]:
    """The node's results: by the plugin's lowering where it has one that applies, else by its function on the host.

    A lowering that raises NeedsReferenceError leaves the node to the function. PluginError where the plugin fails.
    """
    before = len(call.builder.graph.nodes)
    if p.lower is not None:
        try:
            made = p.lower(call)
            return made if isinstance(made, (list, tuple)) else [made]  # type: ignore[list-item]
        except NeedsReferenceError:
            del call.builder.graph.nodes[before:]
        except WhetError:
            raise
        except Exception as e:
            raise PluginError(f"the lowering of {p.domain}.{p.name} failed", where=call.origin,
                              why=f"{type(e).__name__}: {e}", do=f"report it to the authors of {p.package}") from e
    return _host(call, p)


def _host(call: Call, p: plugins.Plugin) -> Sequence[Operand | None]:
    inputs = [call.opt(i) for i in range(len(call.inputs))]
    attributes: dict[str, Any] = {}
    for a in call.proto.attribute:
        if a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS, onnx.AttributeProto.SPARSE_TENSOR):
            raise PluginError(f"{p.domain}.{p.name} has the attribute {a.name}, which is a graph or sparse",
                              where=call.origin, why="plugins take numbers, strings, lists and tensors")
        if not plugins.takes(p, a.name):
            raise PluginError(f"{p.domain}.{p.name} has no attribute {a.name!r}", where=call.origin,
                              why=f"its function in {p.package} does not take it", do="check the model")
        attributes[a.name] = call.attr(a.name)
    found = plugins.results(p, inputs, attributes)
    outputs = list(call.proto.output)
    if len(found) < len(outputs):
        raise PluginError(f"{p.domain}.{p.name} gives {len(found)} results, the node wants {len(outputs)}",
                          where=call.origin, do="check the model")
    specs: list[Spec] = []
    for i, (t, shape) in enumerate(found):
        if not isinstance(t, DType):
            raise PluginError(f"the shape rule of {p.domain}.{p.name} gives {t!r} for a type", where=call.origin,
                              do="give a whet DType, as that of an input")
        dims: list[Dim] = [call.builder.unknown(f"{p.name}_{i}_{k}") if d is None else d for k, d in enumerate(shape)]
        specs.append((t, tuple(dims)))
    node = call.builder.emit_node("plugin", inputs, {
        "domain": p.domain, "name": p.name, "since": p.since, "attributes": tuple(sorted(attributes.items())),
        "results": tuple(specs)}, call.origin, call.hint)
    for v, (_, shape) in zip(node.outputs, found):
        for k, d in enumerate(shape):
            if d is None:
                (name,) = {a[1] for mono, _ in v.shape[k].terms for a in mono}  # type: ignore[union-attr]
                call.builder.graph.sizes[name] = Size(v, k, axis=True)
    return [v if o else None for o, v in zip(outputs, node.outputs)]
