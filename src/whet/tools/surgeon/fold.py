"""Folding of constants: what depends on no input is computed once, as far as the model does not grow by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.shape_inference
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from whet.frontends.order import bodies
from whet.tools.surgeon.model import OnnxModel, handle
from whet.tools.surgeon.names import Fresh, graphs, local, rename_all
from whet.tools.surgeon.shapes import dims, types

SMALL_INPUTS = 1 << 20  # bytes: of these, operators whose output size only their data tell are folded
# Never folded: they differ from run to run, or mark quantization that a compiler wants to see.
KEPT = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def lift_constants(model: OnnxModel) -> int:
    """Make initializers of the Constant nodes of each graph; their number."""
    count = 0
    for g in graphs(model.proto.graph):
        rest = []
        for n in g.node:
            t = _constant(n)
            if t is None:
                rest.append(n)
                continue
            t.name = n.output[0]
            if any(o.name == t.name for o in g.output) and g is not model.proto.graph:
                rest.append(n)  # a body's output is a node's
                continue
            g.initializer.append(model.tensor(t.name, model.array(t)) if handle(t) is None and t.data_type !=
                                 TensorProto.STRING else t)
            count += 1
        _set_nodes(g, rest)
    return count


def _constant(n: NodeProto) -> TensorProto | None:
    if n.op_type != "Constant" or n.domain not in ("", "ai.onnx") or len(n.attribute) != 1:
        return None
    a = n.attribute[0]
    if a.ref_attr_name:
        return None
    match a.name:
        case "value":
            t = TensorProto()
            t.CopyFrom(a.t)
            return t
        case "value_float" | "value_floats":
            v: Any = np.array(a.f if a.name == "value_float" else a.floats, np.float32)
        case "value_int" | "value_ints":
            v = np.array(a.i if a.name == "value_int" else a.ints, np.int64)
        case _:
            return None
    return onnx.numpy_helper.from_array(v)


def fold(model: OnnxModel, max_growth: int) -> int:
    """Compute what depends on no input, as long as the model grows by at most max_growth bytes in all; nodes folded.

    Shapes that are known count as constants: `shapes.infer` must have been run.
    """
    folder = _Folder(model, max_growth)
    folder.graph(model.proto.graph, {})
    return folder.count


class _Folder:
    def __init__(self, model: OnnxModel, max_growth: int) -> None:
        self.model, self.left, self.count = model, max_growth, 0
        self.types = types(model.proto)
        self.opsets = [o for o in model.proto.opset_import if o.domain in ("", "ai.onnx")]

    def graph(self, g: GraphProto, outer: Mapping[str, TensorProto]) -> None:
        given = {v.name for v in g.input}
        env = {**outer, **{t.name: t for t in g.initializer if t.name not in given}}
        uses: dict[str, int] = {}
        for n in g.node:
            for i in n.input:
                uses[i] = uses.get(i, 0) + 1
        outputs = {o.name for o in g.output}
        rest = []
        for n in g.node:
            inner = bodies(n)
            for b in inner:
                self.graph(b, env)
            results = None if inner or (g is not self.model.proto.graph and outputs & set(n.output)) else (
                self.known_shape(n, env) or self.node(n, env, uses))
            if results is None:
                rest.append(n)
                continue
            self.count += 1
            for t in results:
                env[t.name] = t
                g.initializer.append(t)
        _set_nodes(g, rest)

    def known_shape(self, n: NodeProto, env: Mapping[str, TensorProto]) -> list[TensorProto] | None:
        """Shape and Size of a value whose shape is static."""
        if n.op_type not in ("Shape", "Size") or n.domain not in ("", "ai.onnx") or n.input[0] in env:
            return None
        shape = dims(self.types.get(n.input[0]))
        if shape is None:
            return None
        if n.op_type == "Shape":
            at = {a.name: a.i for a in n.attribute}
            shape = shape[at.get("start", 0):at.get("end", len(shape))]
        if not all(isinstance(d, int) for d in shape):
            return None
        value = np.array(shape if n.op_type == "Shape" else math.prod(d for d in shape if isinstance(d, int)), np.int64)
        return [self.model.tensor(n.output[0], value)]

    def node(self, n: NodeProto, env: Mapping[str, TensorProto], uses: Mapping[str, int]) -> list[TensorProto] | None:
        """The results of a node whose operands are all constant, where it may be folded."""
        if n.domain not in ("", "ai.onnx") or n.op_type in KEPT or not self.opsets:
            return None
        if any(i and i not in env for i in n.input) or any(a.ref_attr_name for a in n.attribute):
            return None
        tensors = [env[i] for i in dict.fromkeys(n.input) if i]
        given = sum(len(self.model.data(t)) for t in tensors if t.data_type != TensorProto.STRING)
        freed = sum(len(self.model.data(t)) for t in tensors if t.data_type != TensorProto.STRING
                    and uses.get(t.name, 0) == 1)
        predicted = self.predict(n, tensors)
        if predicted is None and given > SMALL_INPUTS:
            return None
        if predicted is not None and predicted - freed > self.left:
            return None
        try:
            values = self.run(n, {t.name: self.model.array(t) for t in tensors})
        except Exception:  # whatever the evaluator cannot do stays in the graph
            return None
        wanted = [(name, v) for name, v in zip(n.output, values) if name]
        if any(not isinstance(v, (np.ndarray, np.generic)) for _, v in wanted):
            return None
        grown = sum(np.asarray(v).nbytes for _, v in wanted) - freed
        if grown > self.left:
            return None
        self.left -= max(0, grown)
        return [self.model.tensor(name, np.asarray(v)) for name, v in wanted]

    def predict(self, n: NodeProto, tensors: list[TensorProto]) -> int | None:
        """The bytes of a node's outputs by shape inference; None where it cannot tell."""
        g = GraphProto(name="fold", node=[n])
        g.initializer.extend(tensors)
        small = helper.make_model(g, opset_imports=self.opsets)
        try:
            found = types(onnx.shape_inference.infer_shapes(small, data_prop=True))
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return None
        total = 0
        for o in n.output:
            if not o:
                continue
            t = found.get(o)
            shape = dims(t)
            if t is None or shape is None or not all(isinstance(d, int) for d in shape):
                return None
            if t.tensor_type.elem_type == TensorProto.STRING:
                return None
            size = helper.tensor_dtype_to_np_dtype(t.tensor_type.elem_type).itemsize
            total += math.prod(d for d in shape if isinstance(d, int)) * size
        return total

    def run(self, n: NodeProto, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        g = helper.make_graph([n], "fold", [], [])
        g.input.extend(helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                       for k, v in feeds.items())
        g.output.extend(onnx.ValueInfoProto(name=o) for o in n.output if o)
        model = helper.make_model(g, opset_imports=self.opsets)
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(model).run(None, dict(feeds))
        it = iter(values)
        return [next(it) if o else None for o in n.output]


def decide_branches(model: OnnxModel) -> int:
    """Put the branch that an If with a constant condition takes in its place; the number of such nodes."""
    g = model.proto.graph
    count = 0
    while True:
        given = {v.name for v in g.input}
        env = {t.name: t for t in g.initializer if t.name not in given}
        at = next((i for i, n in enumerate(g.node) if n.op_type == "If" and not n.domain and n.input[0] in env), None)
        if at is None:
            return count
        n = g.node[at]
        taken = "then_branch" if bool(model.array(env[n.input[0]]).reshape(-1)[0]) else "else_branch"
        body = GraphProto()
        body.CopyFrom(next(a.g for a in n.attribute if a.name == taken and a.type == AttributeProto.GRAPH))
        outputs = list(n.output)
        rest = list(g.node[:at]), list(g.node[at + 1:])
        copies = [[_copy(m) for m in part] for part in rest]
        del g.node[:]
        fresh = Fresh(model.proto)
        renamed = {name: fresh(name) for name in sorted(local(body)) if name in fresh.taken}
        rename_all(body, renamed)
        inner = {o for m in body.node for o in m.output}
        direct = {b.name: o for b, o in reversed(list(zip(body.output, outputs))) if b.name in inner and o}
        rename_all(body, direct)
        links = [helper.make_node("Identity", [b.name], [o]) for b, o in zip(body.output, outputs) if o and b.name != o]
        g.initializer.extend(body.initializer)
        g.sparse_initializer.extend(body.sparse_initializer)
        g.node.extend([*copies[0], *body.node, *links, *copies[1]])
        count += 1


def _copy(n: NodeProto) -> NodeProto:
    out = NodeProto()
    out.CopyFrom(n)
    return out


def _set_nodes(g: GraphProto, nodes: list[NodeProto]) -> None:
    if len(nodes) == len(g.node):
        return
    kept = [_copy(n) for n in nodes]
    del g.node[:]
    g.node.extend(kept)
