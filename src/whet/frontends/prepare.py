"""ONNX-level clean-up before lowering: functions inlined, old opsets converted."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx
import onnx.inliner
import onnx.version_converter

from whet.errors import GraphError, UnsupportedError
from whet.frontends.call import LOWERINGS
from whet.frontends.lower_math import PER_CHANNEL
from whet.frontends.order import bodies
from whet.frontends.protobuf import Source

OLDEST_NATIVE = 7  # since then operands broadcast as in NumPy
CONVERTED_TO = 11


def prepare(source: Source) -> Source:
    """The model with local functions inlined, opsets before 7 converted to 11, and standard operators that whet
    has no lowering for, but ONNX a definition, replaced by it. UnsupportedError for a newer opset than `onnx` knows."""
    opset = _opset(source.proto)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedError(f"opset {opset}", where=source.name, why=f"onnx {onnx.__version__} knows up to {newest}",
                               do=f"export the model with opset {newest} or lower")
    _check_inputs(source)
    if source.proto.functions:
        source = _renewed(source, lambda m: onnx.inliner.inline_local_functions(m, convert_version=True),
                          "its local functions cannot be inlined")
    if opset < OLDEST_NATIVE:
        source = _converted(source, opset)
    versions = {_domain(o.domain): o.version for o in source.proto.opset_import}
    versions[""] = opset
    kinds = {(_domain(n.domain), n.op_type) for n in _all_nodes(source.proto.graph)}
    defined = [(domain, name) for domain, name in sorted(kinds) if (domain, name) not in LOWERINGS
               and name != "SequenceMap" and _has_definition(domain, name, versions.get(domain, 1))]
    for one in defined:
        try:
            change = functools.partial(_expand, kind=one, opset=versions.get(one[0], 1))
            expanded = _renewed(source, change, f"{one[1]} cannot be expanded")
        except GraphError:
            continue  # it runs as a reference node instead
        if not _unresolved(expanded.proto.graph):
            source = expanded
    return source


def _check_inputs(source: Source) -> None:
    """GraphError for an input without a type: ONNX's own C++ code takes it for granted."""
    for v in source.proto.graph.input:
        kind = v.type.WhichOneof("value")
        if kind is None or (kind == "tensor_type" and not v.type.tensor_type.elem_type):
            raise GraphError(f"the input {v.name!r} has no type", where=source.name, do="export the model again")


def _opset(m: onnx.ModelProto) -> int:
    versions = [o.version for o in m.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=onnx.defs.onnx_opset_version())


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _has_definition(domain: str, name: str, opset: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _expand(m: onnx.ModelProto, kind: tuple[str, str], opset: int) -> onnx.ModelProto:
    """The model with an operator (domain, name) of ONNX's own replaced by its definition."""
    domain, name = kind
    explicit = onnx.ModelProto()
    explicit.CopyFrom(m)
    defaults = {k: a.default_value for k, a in onnx.defs.get_schema(name, opset, domain).attributes.items()
                if a.default_value.name}
    for n in _all_nodes(explicit.graph):  # the inliner does not know defaults
        if n.op_type == name and _domain(n.domain) == domain:
            given = {a.name for a in n.attribute}
            n.attribute.extend(a for k, a in defaults.items() if k not in given)
    return onnx.inliner.inline_selected_functions(explicit, [kind], inline_schema_functions=True)


def _all_nodes(g: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """A graph's nodes and those of the bodies of control flow in it."""
    todo = [g]
    while todo:
        for n in todo.pop().node:
            yield n
            todo += bodies(n)


def _unresolved(g: onnx.GraphProto) -> bool:
    """True if expansion lost attributes of the function that were left to their defaults."""
    return any(a.ref_attr_name for n in _all_nodes(g) for a in n.attribute) or any(
        n.op_type == "Constant" and not n.attribute for n in _all_nodes(g))


def _renewed(source: Source, change: Any, what: str) -> Source:
    """The source with its model changed by `change`; initializers keep their place in the file by name."""
    by_name = {t.name: source.views[i] for i, t in enumerate(source.proto.graph.initializer) if i in source.views}
    try:
        proto = change(source.proto)
    except Exception as e:  # the C++ side raises RuntimeError and its own kinds
        raise GraphError(what, where=source.name, why=str(e).strip().splitlines()[0] if str(e).strip() else "",
                         do="check the model with onnx.checker, or export it again") from None
    views = {i: by_name[t.name] for i, t in enumerate(proto.graph.initializer) if t.name in by_name}
    return replace(source, proto=proto, views=views)


def _converted(source: Source, opset: int) -> Source:
    whole = onnx.ModelProto()
    whole.CopyFrom(source.proto)
    for i, view in source.views.items():  # the converter wants complete tensors
        whole.graph.initializer[i].raw_data = bytes(view)
    changed = _renewed(replace(source, proto=whole, views={}),
                       lambda m: onnx.version_converter.convert_version(m, CONVERTED_TO),
                       f"opset {opset} cannot be converted to {CONVERTED_TO}")
    for n in changed.proto.graph.node:  # the converter leaves slopes as they are, which now broadcast otherwise
        if n.op_type == "PRelu" and n.domain in ("", "ai.onnx"):
            n.domain, n.op_type = PER_CHANNEL
    return changed
