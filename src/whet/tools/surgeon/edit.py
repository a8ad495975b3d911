"""Nodes and whole models put in between named tensors, and taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, helper

from whet.errors import InputError
from whet.tools.surgeon.model import OnnxModel, check_valid, handle, tensors
from whet.tools.surgeon.names import (
    Fresh,
    defined,
    drop_dead,
    graphs,
    local,
    producers,
    rename_all,
    rename_reads,
    sort,
    title,
    unknown,
)
from whet.tools.surgeon.sanitize import convert
from whet.tools.surgeon.shapes import dims, infer, types


def insert(model: OnnxModel, what: str | OnnxModel, inputs: Sequence[str], outputs: Sequence[str],
           attributes: Mapping[str, Any] | None = None, domain: str = "", name: str = "") -> OnnxModel:
    """Put a node (an operator's name) or a whole model between tensors.

    inputs: the tensors that it reads, in order. An entry "" leaves an optional input out.
    outputs: the tensors that it computes. One that exists is replaced: whoever read it reads the new one, and what only
    it needed goes. So `insert(m, "Relu", ["x"], ["x"])` puts a Relu behind x, and `insert(m, "Gelu", ["a"], ["b"])`
    puts it in the place of all that lies between a and b. A name that does not exist becomes an output of the model.

    InputError for unknown tensors and a wrong number of them, GraphError where types do not fit.
    """
    out = OnnxModel.open(model)
    if isinstance(what, OnnxModel):
        what = _at_one_opset(out, what)
    g = out.proto.graph
    there = local(g)
    for i in inputs:
        if i and i not in there:
            raise unknown("tensor", i, there, model.name)
    if not outputs or len(set(outputs)) < len(outputs) or not all(outputs):
        raise InputError("the outputs to insert before are none, empty or not different", where=model.name,
                         do="name each tensor that it computes once")
    given = {v.name for v in g.input}
    fresh = Fresh(out.proto)
    old: dict[str, str] = {}  # what computes an output now -> its name from here on
    moved: dict[str, str] = {}  # input or weight -> the new tensor that its readers get
    shown = {o.name for o in g.output}
    made = producers(g)
    for o in outputs:
        if o in made:
            old[o] = fresh(f"{o}_before")
        elif o in there:
            if o in shown:
                raise InputError(f"{o!r} is an input and an output", where=model.name,
                                 do="insert behind a node's output")
            moved[o] = fresh(f"{o}_after")
    for n in g.node:
        for k, x in enumerate(n.output):
            n.output[k] = old.get(x, x)
    rename_reads(g, moved)
    sources = [old.get(i, i) for i in inputs]
    results = [moved.get(o, o) for o in outputs]
    if isinstance(what, str):
        node = helper.make_node(what, sources, results, domain=domain, name=fresh(name or f"{what}_{outputs[0]}"),
                                **_attributes(what, domain, out, attributes or {}))
        g.node.append(node)
    else:
        _graft(out, what, sources, results, fresh)
    for o in outputs:
        if o not in there and o not in given:
            g.output.add(name=o)
    drop_dead(out.proto)
    sort(g)
    infer(out.proto, forget=True)
    check_valid(out.proto)
    return out


def _attributes(op: str, domain: str, model: OnnxModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the types that the operator has them in. InputError for an unknown operator."""
    version = model.opset(domain)
    if not version and domain:
        model.proto.opset_import.append(helper.make_opsetid(domain, 1))
        version = 1
    if any((f.domain, f.name) == (domain, op) for f in model.proto.functions):
        return dict(given)
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        if domain:
            return dict(given)
        known = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})
        raise unknown(f"operator in opset {version}", op, known, model.name) from None
    out: dict[str, Any] = {}
    for key, value in given.items():
        if key not in schema.attributes:
            raise unknown(f"attribute of {op}", key, schema.attributes, model.name)
        wanted: Any = schema.attributes[key].type
        kind = wanted.name
        if kind == "FLOAT":
            value = float(value)
        elif kind == "FLOATS":
            value = [float(v) for v in value]
        elif kind == "TENSOR" and not isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.from_array(np.asarray(value))
        out[key] = value
    return out


def _at_one_opset(model: OnnxModel, part: OnnxModel) -> OnnxModel:
    """A copy of part; it or model (in place) is converted to the newer opset of the two."""
    part = OnnxModel.open(part)
    if part.opset() < model.opset():
        convert(part, model.opset())
    elif part.opset() > model.opset():
        convert(model, part.opset())
    return part


def _graft(model: OnnxModel, part: OnnxModel, sources: Sequence[str], results: Sequence[str], fresh: Fresh) -> None:
    """Put the nodes of another model in, reading `sources` and computing `results`."""
    g = part.proto.graph
    weights = {t.name for t in g.initializer}
    wanted = [v.name for v in g.input if v.name not in weights]
    if len(sources) != len(wanted) or len(results) != len(g.output):
        raise InputError(f"the inserted model has {len(wanted)} inputs and {len(g.output)} outputs", where=part.name,
                         why=f"{len(sources)} and {len(results)} tensors were given", do="name one tensor for each")
    for o in part.proto.opset_import:
        if o.domain not in ("", "ai.onnx"):
            version = model.opset(o.domain)
            if version and version != o.version:
                raise InputError(f"the models use versions {version} and {o.version} of {o.domain}", where=part.name,
                                 do="export both with the same version")
            if not version:
                model.proto.opset_import.append(o)
    mine = {(f.domain, f.name): f.SerializeToString(deterministic=True) for f in model.proto.functions}
    for f in part.proto.functions:
        if mine.get((f.domain, f.name), b"") not in (b"", f.SerializeToString(deterministic=True)):
            raise InputError(f"both models have a function {f.domain}.{f.name}, and they differ", where=part.name,
                             do="inline the functions first: whet surgeon sanitize")
        if (f.domain, f.name) not in mine:
            model.proto.functions.append(f)
    computed = producers(g)
    names = {v: s for v, s in zip(wanted, sources, strict=True) if s}
    links: list[NodeProto] = []
    taken: set[str] = set()
    for v, r in zip([o.name for o in g.output], results, strict=True):
        if v in computed and v not in taken:
            names[v] = r
            taken.add(v)
        else:
            links.append(helper.make_node("Identity", [v], [r]))
    for name in sorted(defined(g) - names.keys()):
        new = fresh(name)
        if new != name:
            names[name] = new
    rename_all(g, names)
    for link in links:
        link.input[0] = names.get(link.input[0], link.input[0])
    for x in graphs(g):
        for n in x.node:
            if n.name:
                n.name = fresh(n.name)
    base = len(model.weights)
    for t in tensors(part.proto):
        number = handle(t)
        if number is not None:
            t.external_data[0].value = f"whet:{base + number}"
    model.weights += part.weights
    model.external = model.external or part.external
    model.proto.ir_version = max(model.proto.ir_version, part.proto.ir_version)
    model.proto.graph.initializer.extend(g.initializer)
    model.proto.graph.sparse_initializer.extend(g.sparse_initializer)
    model.proto.graph.node.extend([*g.node, *links])


def prune(model: OnnxModel, nodes: Sequence[str] = (), reconnect: Mapping[str, str] | None = None,
          outputs: Sequence[str] = ()) -> OnnxModel:
    """Take parts out of a model.

    nodes: names of nodes (or of what they compute) to remove; each of their outputs that is read becomes their first
    input of the same type and shape. reconnect: {tensor: another that its readers get instead}: so a branch goes, or
    all that lies between the two. outputs: outputs of the model to drop. What nothing needs any more goes too.

    InputError for unknown names, and where types or shapes of what is reconnected differ.
    """
    out = OnnxModel.open(model)
    infer(out.proto)
    g = out.proto.graph
    known = types(out.proto)
    made = producers(g)
    for o in outputs:
        if o not in {v.name for v in g.output}:
            raise unknown("output", o, [v.name for v in g.output], model.name)
    if len(outputs) >= len(g.output) and outputs:
        raise InputError("no output would be left", where=model.name, do="keep at least one")
    for i in reversed(range(len(g.output))):
        if g.output[i].name in outputs:
            del g.output[i]
    links = dict(reconnect or {})
    there = local(g)
    for a, b in links.items():
        for name in (a, b):
            if name not in there:
                raise unknown("tensor", name, there, model.name)
        _check_same(known, a, b, model.name)
    read = {i for n in g.node for i in n.input} | {o.name for o in g.output}
    for name in nodes:
        found = next((n for n in g.node if n.name == name), made.get(name))
        if found is None:
            raise unknown("node", name, [title(n) for n in g.node], model.name)
        for o in found.output:
            if o and o in read and o not in links:
                links[o] = _stand_in(found, o, known, model.name)
    for a in links:
        seen = [a]
        while seen[-1] in links:
            seen.append(links[seen[-1]])
            if seen[-1] in seen[:-1]:
                raise InputError(f"{' -> '.join(seen)} goes round in a circle", where=model.name,
                                 do="reconnect to a tensor that stays")
    final = {a: _end(links, a) for a in links}
    _replace(out, final)
    removed = drop_dead(out.proto)
    sort(g)
    infer(out.proto, forget=True)
    check_valid(out.proto)
    out.notes.append(f"{removed} nodes removed")
    return out


def _end(links: Mapping[str, str], name: str) -> str:
    while name in links:
        name = links[name]
    return name


def _replace(model: OnnxModel, new: Mapping[str, str]) -> None:
    """Let all readers of some values read others; an output of the model keeps its name."""
    g = model.proto.graph
    rename_reads(g, new)
    made, fresh = producers(g), Fresh(model.proto)
    for o in g.output:
        if o.name not in new:
            continue
        source, old = new[o.name], made.get(o.name)
        if old is not None:
            for k, name in enumerate(old.output):
                if name == o.name:
                    old.output[k] = fresh(f"{name}_pruned")
        g.node.append(helper.make_node("Identity", [source], [o.name]))


def _stand_in(n: NodeProto, output: str, known: Mapping[str, TypeProto], where: str) -> str:
    for i in n.input:
        if i and not _difference(known, output, i):
            return i
    raise InputError(f"the node {title(n)} ({n.op_type}) cannot be bridged", where=where,
                     why=f"none of its inputs has the type and shape of {output!r}",
                     do=f"say what takes its place: --reconnect {output}=TENSOR")


def _check_same(known: Mapping[str, TypeProto], a: str, b: str, where: str) -> None:
    if problem := _difference(known, a, b):
        raise InputError(f"{b!r} cannot take the place of {a!r}", where=where, why=problem,
                         do="reconnect tensors of the same type and shape")


def _difference(known: Mapping[str, TypeProto], a: str, b: str) -> str:
    """Why b cannot stand for a; "" where nothing known speaks against it."""
    ta, tb = known.get(a), known.get(b)
    if ta is None or tb is None:
        return ""
    if ta.WhichOneof("value") != tb.WhichOneof("value") or ta.tensor_type.elem_type != tb.tensor_type.elem_type:
        return "their element types differ"
    da, db = dims(ta), dims(tb)
    if da is None or db is None:
        return ""
    fits = len(da) == len(db) and all(x == y or not (isinstance(x, int) and isinstance(y, int))
                                      for x, y in zip(da, db))
    return "" if fits else f"their shapes are {da} and {db}"
