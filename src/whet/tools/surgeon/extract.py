"""A part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from whet.errors import InputError
from whet.frontends.order import bodies
from whet.tools.surgeon.model import OnnxModel, check_valid
from whet.tools.surgeon.names import drop_dead, local, producers, reads, sort, unknown
from whet.tools.surgeon.shapes import Dims, dims, element, infer, tensor_type, types


def extract(model: OnnxModel, outputs: Sequence[str], inputs: Sequence[str] | None = None,
            shapes: Mapping[str, Dims] | None = None, element_types: Mapping[str, str] | None = None) -> OnnxModel:
    """The model that computes the tensors `outputs` from the tensors `inputs`, all given by name.

    Tensors inside the body of an If, Loop or Scan can be named too: then that body, and what it captures from around
    it, becomes the model. inputs=None: the model's own, as far as they are needed.
    shapes, element_types: of inputs of which they cannot be inferred.

    InputError for unknown names, for inputs that are missing or not needed, or whose type is not known.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    infer(proto)
    known = types(proto)
    there = {n for path in _paths(proto.graph) for n in local(path[-1])}
    for name in (*outputs, *(inputs or ())):
        if name not in there:
            raise unknown("tensor", name, there, model.name)
    if not outputs:
        raise InputError("no outputs are given", where=model.name, do="name at least one")
    for name in {*outputs} & {*(inputs or ())}:
        raise InputError(f"{name!r} is given as input and as output", where=model.name, do="it can be only one of them")
    chain = _chain(proto.graph, outputs, model.name)
    nodes, weights, reached = _closure(chain, outputs, inputs)
    fed = [v.name for g in chain for v in g.input if v.name in reached]
    if inputs is None:
        inputs = fed
    _check_inputs(inputs, fed, reached, outputs, model.name)

    out = OnnxModel.open(model)
    graph = out.proto.graph
    kept = GraphProto(name=graph.name, doc_string=graph.doc_string)
    kept.node.extend(nodes)
    kept.initializer.extend(w for w in weights if w.name not in inputs)
    kept.sparse_initializer.extend(s for g in chain for s in g.sparse_initializer if s.values.name in reached)
    kept.quantization_annotation.extend(graph.quantization_annotation)
    for name in inputs:
        v = kept.input.add(name=name)
        v.type.CopyFrom(_input_type(name, known.get(name), shapes or {}, element_types or {}, model.name))
    for name in outputs:
        v = kept.output.add(name=name)
        if name in known:
            v.type.CopyFrom(known[name])
    made = {o for n in nodes for o in n.output}
    kept.value_info.extend(v for g in chain for v in g.value_info if v.name in made and v.name not in outputs)
    graph.CopyFrom(kept)
    drop_dead(out.proto)
    sort(out.proto.graph)
    infer(out.proto, forget=bool(shapes))
    check_valid(out.proto)
    out.notes.append(f"{len(out.proto.graph.node)} of {sum(len(g.node) for g in chain)} nodes kept")
    return out


def _paths(g: GraphProto, above: tuple[GraphProto, ...] = ()) -> list[tuple[GraphProto, ...]]:
    """For each graph, itself preceded by those around it."""
    path = (*above, g)
    return [path, *(p for n in g.node for b in bodies(n) for p in _paths(b, path))]


def _chain(main: GraphProto, outputs: Sequence[str], where: str) -> list[GraphProto]:
    """The innermost graph that defines an output and those around it, innermost first."""
    paths = _paths(main)
    homes = [max((p for p in paths if name in local(p[-1])), key=len) for name in outputs]
    deepest = max(homes, key=len)
    for name, home in zip(outputs, homes, strict=True):
        if not any(home[-1] is g for g in deepest):
            raise InputError(f"the outputs {outputs[homes.index(deepest)]!r} and {name!r} lie in different bodies",
                             where=where, why="they are never computed together", do="extract them one by one")
    return list(reversed(deepest))


def _closure(chain: Sequence[GraphProto], outputs: Sequence[str],
             inputs: Sequence[str] | None) -> tuple[list[NodeProto], list[TensorProto], set[str]]:
    """Nodes and weights that the outputs depend on, and all names that were met."""
    made = [producers(g) for g in chain]
    stored = [{t.name: t for t in g.initializer} for g in chain]
    stop = set(inputs or ())
    reached: set[str] = set()
    keep: set[int] = set()
    weights: dict[str, TensorProto] = {}
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in stop:
            continue
        for nodes, tensors in zip(made, stored, strict=True):
            if name in nodes:
                n = nodes[name]
                if id(n) not in keep:
                    keep.add(id(n))
                    waiting += reads(n)
                break
            if name in tensors:
                weights[name] = tensors[name]
                break
    ordered = [n for g in reversed(chain) for n in g.node if id(n) in keep]
    kept = [t for g in chain for t in g.initializer if t.name in weights and weights[t.name] is t]
    return ordered, kept, {
        r for r in reached if r not in weights}


def _check_inputs(inputs: Sequence[str], fed: Sequence[str], reached: set[str], outputs: Sequence[str],
                  where: str) -> None:
    for name in inputs:
        if name not in reached:
            raise InputError(f"no output depends on {name!r}", where=where, why=f"the outputs are {', '.join(outputs)}",
                             do="leave it out of the inputs, or check whether another input hides it")
    if missing := [name for name in fed if name not in inputs]:
        raise InputError(f"the outputs depend on {', '.join(map(repr, missing))} too", where=where,
                         why=f"{', '.join(map(repr, inputs))} alone do not determine them",
                         do="add these to the inputs")


def _input_type(name: str, known: TypeProto | None, shapes: Mapping[str, Dims], elements: Mapping[str, str],
                where: str) -> TypeProto:
    code = element(elements[name]) if name in elements else known.tensor_type.elem_type if known is not None else 0
    if known is not None and known.WhichOneof("value") != "tensor_type" and name not in elements:
        return known
    if not code:
        raise InputError(f"the type of {name!r} is not known", where=where,
                         why="an operator before it is not ONNX's own",
                         do=f"give it: --types {name}:float32 --shapes {name}:1x3")
    return tensor_type(code, shapes[name] if name in shapes else dims(known))
