"""Any set of a model's nodes as a model of its own, with recorded values where it was cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TypeProto

from whet.errors import GraphError, InputError
from whet.tools.debug.subject import RANDOM, random_array
from whet.tools.surgeon.model import OnnxModel
from whet.tools.surgeon.names import constants, drop_dead, reads
from whet.tools.surgeon.shapes import Dims, dims, element, infer, tensor_type, types

SMALL = 64  # integers up to so many are sizes, axes, indices: constants of a part


class Cutter:
    """Cuts parts out of a model whose nodes are in order.

    recorded: its inputs, and what is known of the values between. declared: types of values that cannot be inferred.
    """

    def __init__(self, model: OnnxModel, recorded: Mapping[str, Any],
                 declared: Mapping[str, TypeProto] | None = None) -> None:
        self.model, self.recorded = OnnxModel.open(model), recorded
        self.sound = _inferred(self.model)
        graph = self.model.proto.graph
        self.nodes = list(graph.node)
        self.weights = constants(graph)
        self.inputs = {v.name for v in graph.input} - self.weights
        self.outputs = [o.name for o in graph.output]
        self.types = types(self.model.proto)
        seen = {k: _type_of(v) for k, v in recorded.items() if isinstance(v, np.ndarray)}
        for name, t in {**(declared or {}), **seen}.items():  # of what operators give that are not ONNX's own
            if dims(self.types.get(name)) is None and dims(t) is not None:
                self.types[name] = t
        self.varying = set(self.inputs)  # what depends on an input
        for n in self.nodes:
            if self.varying & reads(n) or n.op_type in RANDOM:
                self.varying |= set(n.output)

    def part(self, chosen: Collection[int], outputs: Sequence[str] | None = None) -> tuple[OnnxModel, dict[str, Any]]:
        """The model of these nodes (places in `self.nodes`), and its inputs.

        What they read and do not compute are its inputs: recorded values, or random ones where nothing was recorded.
        What depends on no input, and small vectors of int64, become constants.
        outputs: None: what none of the nodes reads, and outputs of the model.

        InputError where the type of such an input is not known, GraphError where the part's types contradict each
        other though the model's do not.
        """
        nodes = [self.nodes[i] for i in sorted(chosen)]
        made = {o for n in nodes for o in n.output if o}
        read = {r for n in nodes for r in reads(n)}
        if outputs is None:
            outputs = [o for n in nodes for o in n.output if o and (o not in read or o in self.outputs)]
        out = OnnxModel.open(self.model)
        old = out.proto.graph
        graph = GraphProto(name=old.name)
        graph.node.extend(nodes)
        graph.initializer.extend(t for t in old.initializer if t.name in read)
        graph.sparse_initializer.extend(s for s in old.sparse_initializer if s.values.name in read)
        graph.value_info.extend(v for v in (*old.value_info, *old.output) if v.name in made and v.name not in outputs)
        for name in outputs:
            v = graph.output.add(name=name)
            if name in self.types:
                v.type.CopyFrom(self.types[name])
        feeds: dict[str, Any] = {}
        rng = np.random.default_rng(0)
        live = self._live(nodes, outputs)
        for name in sorted((read & live) - made - self.weights):
            value = self.recorded[name] if name in self.recorded else random_array(
                self.types.get(name), None, {}, rng, name)
            if self._is_constant(name, value):
                graph.initializer.append(out.tensor(name, value))
                continue
            feeds[name] = value
            graph.input.add(name=name).type.CopyFrom(self._type(name, value))
        old.CopyFrom(graph)
        drop_dead(out.proto)
        if not _inferred(out) and self.sound:
            raise GraphError("the part is not a model", why="its types and shapes contradict each other")
        out.notes = []
        return out, feeds

    def _live(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> set[str]:
        """What the outputs depend on."""
        live = set(outputs)
        for n in reversed(nodes):
            if live & set(n.output):
                live |= reads(n)
        return live

    def _is_constant(self, name: str, value: Any) -> bool:
        if not isinstance(value, np.ndarray) or value.dtype.kind in "OU" or name in self.inputs \
                or name not in self.recorded:
            return False
        return name not in self.varying or (value.dtype == np.int64 and value.ndim < 2 and value.size <= SMALL)

    def _type(self, name: str, value: Any) -> TypeProto:
        """The declared type of an input, with the recorded shape where that says less."""
        declared = self.types.get(name)
        if name in self.inputs or not isinstance(value, np.ndarray):
            if declared is None:
                raise InputError(f"the type of {name!r} is not known", do="declare it in the model's value_info")
            return declared
        code = declared.tensor_type.elem_type if declared is not None else 0
        return tensor_type(code, _shape(declared, value)) if code else _type_of(value)


def _inferred(model: OnnxModel) -> bool:
    """Infer types and shapes; False where they contradict each other, which may be what is being looked for."""
    try:
        infer(model.proto)
    except GraphError:
        return False
    return True


def _type_of(value: np.ndarray) -> TypeProto:
    return tensor_type(element("string" if value.dtype.kind in "OU" else value.dtype.name), value.shape)


def _shape(declared: TypeProto | None, value: np.ndarray) -> Dims:
    """The dimensions that are known or named, the recorded ones for the others."""
    known = dims(declared)
    if known is None or len(known) != value.ndim:
        return list(value.shape)
    return [n if d is None else d for d, n in zip(known, value.shape, strict=True)]
