"""Operators that ONNX defines by others: lowered by that definition where whet has nothing of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto, ValueInfoProto

from whet.frontends.call import Call
from whet.frontends.order import bodies
from whet.frontends.types import type_of


def definition(call: Call, domain: str) -> tuple[GraphProto, dict[str, int]] | None:
    """(graph, opsets) that compute the node, None where ONNX does not define its operator by others.

    The graph's inputs are the operands that are there, in their order, its outputs the node's first ones; attributes
    are those of the node, or their defaults.
    """
    f = _function(call, domain)
    if f is None:
        return None
    schema = onnx.defs.get_schema(call.proto.op_type, call.opset, domain)
    given = {a.name: a for a in call.proto.attribute}
    for name, a in schema.attributes.items():
        if name not in given and a.default_value.name:
            given[name] = a.default_value
    absent = {name for i, name in enumerate(f.input) if not call.has(i)}
    g = GraphProto(name=call.proto.op_type)
    g.node.extend(f.node)
    _bind(g, given, absent)
    g.input.extend(ValueInfoProto(name=name) for name in f.input if name not in absent)
    g.output.extend(ValueInfoProto(name=name) for name in f.output[:call.n_outputs])
    return g, {"" if o.domain == "ai.onnx" else o.domain: o.version for o in f.opset_import}


def _function(call: Call, domain: str) -> FunctionProto | None:
    schema: Any
    try:
        schema = onnx.defs.get_schema(call.proto.op_type, call.opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        f: FunctionProto = schema.function_body
        return f
    if not schema.has_context_dependent_function:
        return None
    types = [type_of(call.builder, x) if x is not None else None for x in call.inputs]
    given = [(t or TypeProto()).SerializeToString() for t in types]
    text = schema.get_context_dependent_function(call.proto.SerializeToString(), given)
    return FunctionProto.FromString(text) if text else None


def _bind(g: GraphProto, given: Mapping[str, AttributeProto], absent: set[str]) -> None:
    """Put the node's attributes in the place of references to them, and nothing in the place of absent operands."""
    for n in g.node:
        _bind_node(n, given)
        for i, name in enumerate(n.input):
            if name in absent:
                n.input[i] = ""
        for b in bodies(n):
            _bind(b, given, absent)


def _bind_node(n: NodeProto, given: Mapping[str, AttributeProto]) -> None:
    kept = []
    for a in n.attribute:
        if a.ref_attr_name and a.ref_attr_name not in given:
            continue
        bound = AttributeProto()
        bound.CopyFrom(given[a.ref_attr_name] if a.ref_attr_name else a)
        bound.name = a.name
        kept.append(bound)
    del n.attribute[:]
    n.attribute.extend(kept)
