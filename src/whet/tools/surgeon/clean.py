"""Removal of what does nothing: identities, weights that are there twice, inputs that nothing reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from whet.frontends.order import bodies
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import graphs, producers, reads, rename_all, rename_reads
from whet.tools.surgeon.shapes import dims, types

GLANCE = 256  # bytes


def drop_identities(model: OnnxModel) -> int:
    """Remove Identity, Dropout at inference, casts to the same type and transposes of nothing; their number."""
    known = {k: t for k, t in types(model.proto).items() if t.WhichOneof("value") == "tensor_type"}
    main = model.proto.graph
    count = 0
    for g in graphs(main):
        outputs = {o.name for o in g.output}
        made = producers(g)
        fixed = {v.name for v in g.input} | {t.name for t in g.initializer}
        new: dict[str, str] = {}
        dead = []
        for i, n in enumerate(g.node):
            if not _does_nothing(n, known):
                continue
            x, y = new.get(n.input[0], n.input[0]), n.output[0]
            if y in outputs:
                # the value takes the output's name, if a node of this graph computes it and it is no output itself
                if x in fixed or x not in made or x in outputs:
                    continue
                rename_all(g, {x: y})
                outputs.discard(x)
                made[y] = made.pop(x)
                new = {k: y if v == x else v for k, v in new.items()}
            else:
                new[y] = x
            dead.append(i)
        for i in reversed(dead):
            del g.node[i]
        rename_reads(g, new)
        count += len(dead)
    return count


def _does_nothing(n: NodeProto, known: Mapping[str, TypeProto]) -> bool:
    if n.domain not in ("", "ai.onnx") or not n.input or not n.input[0]:
        return False
    at = {a.name: a for a in n.attribute}
    match n.op_type:
        case "Identity":
            return True
        case "Dropout":
            return not any(n.output[1:]) and (len(n.input) < 3 or not n.input[2])
        case "Cast":
            t = known.get(n.input[0])
            return t is not None and "to" in at and t.tensor_type.elem_type == at["to"].i
        case "Transpose":
            return "perm" in at and list(at["perm"].ints) == sorted(at["perm"].ints)
    return False


def merge_duplicates(model: OnnxModel) -> int:
    """Let equal initializers of the main graph be one; the bytes that this frees."""
    g = model.proto.graph
    taken = {v.name for v in g.input} | {o.name for o in g.output}
    alike: dict[tuple[int, tuple[int, ...], bytes], list[TensorProto]] = {}
    for t in g.initializer:
        if t.name not in taken and t.data_type != TensorProto.STRING:
            head = bytes(model.data(t)[:GLANCE])  # most weights differ at once, and need not be read
            alike.setdefault((t.data_type, tuple(t.dims), head), []).append(t)
    new: dict[str, str] = {}
    freed = 0
    for group in alike.values():
        first: dict[bytes, str] = {}
        for t in group if len(group) > 1 else ():
            data = model.data(t)
            kept = first.setdefault(hashlib.sha256(data).digest(), t.name)
            if kept != t.name:
                new[t.name] = kept
                freed += len(data)
    rename_reads(g, new)
    for i in reversed(range(len(g.initializer))):
        if g.initializer[i].name in new:
            del g.initializer[i]
    return freed


def drop_unused_inputs(model: OnnxModel) -> list[str]:
    """Remove the inputs that no node and no output reads; their names."""
    g = model.proto.graph
    used = {o.name for o in g.output}.union(*(reads(n) for n in g.node))
    gone = [v.name for v in g.input if v.name not in used]
    for i in reversed(range(len(g.input))):
        if g.input[i].name in gone:
            del g.input[i]
    for i in reversed(range(len(g.initializer))):
        if g.initializer[i].name in gone:
            del g.initializer[i]
    return gone


def own_weights(model: ModelProto) -> int:
    """Before IR version 4 every weight was an input with a default: make constants of them; their number."""
    g = model.graph
    if model.ir_version >= 4:
        return 0
    weights = {t.name for t in g.initializer}
    found = [i for i, v in enumerate(g.input) if v.name in weights]
    for i in reversed(found):
        del g.input[i]
    model.ir_version = 4
    return len(found)


def name_dims(g: GraphProto) -> list[str]:
    """Name the unnamed dimensions of the inputs, as `image_0`; the names given."""
    given = []
    for v in g.input:
        if dims(v.type) is None:
            continue
        for i, d in enumerate(v.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") and not d.dim_param:
                d.dim_param = f"{v.name}_{i}"
                given.append(d.dim_param)
    return given


def drop_unused_opsets(model: ModelProto) -> None:
    """Remove the imports of operator sets that no node uses."""
    used = {""}
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for n in nodes:
            used.add(n.domain)
            used |= {m.domain for b in bodies(n) for x in graphs(b) for m in x.node}
    if "ai.onnx" in used:
        used.add("")
    for i in reversed(range(len(model.opset_import))):
        domain = model.opset_import[i].domain
        if (domain if domain != "ai.onnx" else "") not in used:
            del model.opset_import[i]
    if not model.opset_import:
        model.opset_import.append(helper.make_opsetid("", 13))
