"""The prepared graph (channels first, before regions) as an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

import whet
from whet.errors import UnsupportedError
from whet.ir.graph import Graph, Node, Value
from whet.precision.export import anchors, grouped, moves, pointwise
from whet.precision.export.pointwise import Rule
from whet.precision.export.writer import Writer, element_type, not_exportable

OPSET = 21  # QuantizeLinear of 4-bit and 16-bit integers with blocks; every later one has the operators written here
IR_VERSION = 10


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """A model that computes what the graph does, with the graph's names for inputs, outputs and layers.

    graph: channels first, of the operators of `ir.ops`; `quantize` and `dequantize` become QuantizeLinear and
    DequantizeLinear, and their constant operands 8-bit initializers. Dimensions that have a name keep it
    (`dim_param`); their ranges are not part of ONNX.

    UnsupportedError names the node that ONNX's operators of opset 21 cannot say, or which the exporter does not write.
    """
    w = Writer()
    w.used |= {v.name for v in graph.inputs} | set(_output_names(graph))
    for v in graph.inputs:
        w.names[v] = v.name
    _write(w, graph)
    outputs = _named(w, graph)
    read = _read(w.nodes)
    proto = helper.make_graph(w.nodes, graph.name or "graph", [_info(v, v.name) for v in graph.inputs],
                              [_info(v, name) for v, name in zip(graph.outputs, outputs, strict=True)],
                              initializer=[t for t in w.initializers if t.name in read])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="whet", producer_version=whet.__version__)
    return model


def _read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What nodes read, those of graphs inside them too."""
    out: set[str] = set()
    for n in nodes:
        out.update(n.input)
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                out |= _read(a.g.node)
    return out


def _output_names(graph: Graph) -> list[str]:
    return list(graph.output_names) or [v.name for v in graph.outputs]


def _info(v: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type(v.dtype, f"tensor {name}"),
                                         [d if isinstance(d, int) else str(d) for d in v.shape])


def _write(w: Writer, graph: Graph) -> None:
    """The nodes of a graph; what its inputs are called is known to the writer."""
    w.learn_inputs(graph.inputs)
    w.learn_sizes(graph)
    last_name: dict[Value, str] = {}
    for v, name in zip(graph.outputs, _output_names(graph), strict=True):
        last_name.setdefault(v, name)
    for n in graph.nodes:
        w.origin = n.origin
        ins = ["" if v is None else w.name(v) for v in n.inputs]
        first = len(w.nodes)
        results = _rule(n)(w, n, ins)
        for v, r in zip(n.outputs, [results] if isinstance(results, str) else results, strict=True):
            w.names[v] = _renamed(w, first, r, last_name[v] if v in last_name and w.outer is None else w.fresh(v.name))


def _renamed(w: Writer, first: int, result: str, name: str) -> str:
    """The result's name after what was written since `first` gives it that of the value; a result that is an operand
    of the node, or that is used already, keeps its own."""
    made = [p for p in w.nodes[first:] if result in p.output]
    if not made or result in w.sizes():
        return result
    for p in w.nodes[first:]:
        for names in (p.input, p.output):
            for i, x in enumerate(names):
                if x == result:
                    names[i] = name
    return name


def _named(w: Writer, graph: Graph) -> list[str]:
    """The outputs' names, each the result of a node of its own."""
    w.origin = "outputs"
    taken = {x for p in w.nodes for x in p.output}
    out = []
    for v, name in zip(graph.outputs, _output_names(graph), strict=True):
        if w.name(v) != name:
            w.nodes.append(helper.make_node("Identity", [w.name(v)], [name], name=f"output {name}"))
        elif name not in taken:  # an input that is an output
            raise UnsupportedError(f"the input {name!r} is an output too", do="leave the output out: it is the input")
        out.append(name)
    return out


# -- the host's steps -------------------------------------------------------------------------


def _host(w: Writer, n: Node, ins: list[str]) -> list[str]:
    """A node that whet does not compile, as it was."""
    model = onnx.ModelProto.FromString(n.attrs["proto"])
    (node,) = model.graph.node
    version = next((o.version for o in model.opset_import if o.domain == node.domain), OPSET)
    if model.functions or node.domain:
        raise not_exportable(n, f"it is {node.op_type} of domain {node.domain or 'ai.onnx'}")
    if not _alike(node.op_type, version):
        raise not_exportable(n, f"{node.op_type} of opset {version} is another in opset {OPSET}")
    if len(node.output) != len(n.outputs):
        raise not_exportable(n, "some of its outputs are left out")
    names = iter(i for i in ins if i)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    given = [next(names) if i else "" for i in node.input]
    del copy.input[:], copy.output[:]
    copy.input.extend(given)
    copy.output.extend(w.fresh(v.name) for v in n.outputs)
    w.nodes.append(copy)
    return list(copy.output)


def _alike(op: str, version: int) -> bool:
    """True if an operator takes the same operands and attributes in this opset as in the one that is written: such
    versions differ in the element types that they allow."""
    try:
        old, new = (onnx.defs.get_schema(op, v, "") for v in (version, OPSET))
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    same = ([p.name for p in getattr(old, at)] == [p.name for p in getattr(new, at)] for at in ("inputs", "outputs"))
    return set(old.attributes) == set(new.attributes) and all(same)


def _branches(w: Writer, n: Node, ins: list[str]) -> list[str]:
    """If: the branches read what they take from outside by its name."""
    then, other = (_body(w, n.attrs[key], ins[1:]) for key in ("then_branch", "else_branch"))
    return w.emit_many("If", ins[:1], len(n.outputs), then_branch=then, else_branch=other)


def _loop(w: Writer, n: Node, ins: list[str]) -> list[str]:
    at = n.attrs
    if at["scan_inputs"] or any(axis != 0 or reverse for axis, reverse in at["scan_outputs"]):
        raise not_exportable(n, "it is a Scan")
    states = at["states"]
    body = _body(w, at["body"], ins[2 + states:], formal=2 + states)
    return w.emit_many("Loop", ins[:2 + states], len(n.outputs), body=body)


def _body(w: Writer, graph: Graph, captures: Iterable[str], formal: int = 0) -> onnx.GraphProto:
    """A graph inside control flow: its first inputs are formal, the others names around it."""
    inner = Writer(w)
    for v in graph.inputs[:formal]:
        inner.names[v] = inner.fresh(v.name)
    for v, name in zip(graph.inputs[formal:], captures, strict=True):
        inner.names[v] = name
    _write(inner, graph)
    outputs = []
    for v in graph.outputs:
        name = inner.fresh(f"{v.name}_result")
        inner.nodes.append(helper.make_node("Identity", [inner.name(v)], [name]))
        outputs.append(name)
    return helper.make_graph(inner.nodes, inner.fresh(graph.name or "body"),
                             [_info(v, inner.names[v]) for v in graph.inputs[:formal]],
                             [_info(v, name) for v, name in zip(graph.outputs, outputs, strict=True)])


RULES: dict[str, Rule] = {**pointwise.RULES, **anchors.RULES, **moves.RULES, **grouped.RULES,
                          "onnx": _host, "if": _branches, "loop": _loop}


def _rule(n: Node) -> Rule:
    if n.op not in RULES:
        raise not_exportable(n, "the exporter has no rule for it")
    return RULES[n.op]
