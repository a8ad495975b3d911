"""Models with control flow, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx_cases import model

from whet.frontends import load_model
from whet.ir import Graph, verify

F, I, B = np.float32, np.int64, np.bool_
node = helper.make_node
TRUE, FALSE = {"p": np.asarray(True)}, {"p": np.asarray(False)}
X = np.arange(6, dtype=F).reshape(2, 3) - 2


def info(name: str, dtype: int = TensorProto.FLOAT, shape: Any = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def body(nodes: list[NodeProto], inputs: list[ValueInfoProto], outputs: list[str],
         constants: dict[str, np.ndarray] | None = None) -> GraphProto:
    return helper.make_graph(nodes, "body", inputs, [ValueInfoProto(name=o) for o in outputs],
                             [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()])


def counter(extra: list[ValueInfoProto]) -> list[ValueInfoProto]:
    """A loop body's inputs."""
    return [info("i", TensorProto.INT64, ()), info("c", TensorProto.BOOL, ()), *extra]


def nodes_of(g: Graph) -> list[Any]:
    """Every node, of the bodies too."""
    return [*g.nodes, *(n for b in g.bodies() for n in nodes_of(b))]


def imported(m: onnx.ModelProto) -> Graph:
    g = load_model(m.SerializeToString())
    verify(g)
    return g


def if_model(then: GraphProto, other: GraphProto, inputs: dict[str, Any] | None = None,
             constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    return model([node("If", ["p"], ["y"], then_branch=then, else_branch=other)],
                 {"p": (B, ()), **(inputs or {"x": (F, (2, 3))})}, ["y"], constants)


def loop_model(inside: GraphProto, states: list[str], outputs: list[str], inputs: dict[str, Any],
               count: str = "n", condition: str = "",
               constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    return model([node("Loop", [count, condition, *states], outputs, body=inside)], inputs, outputs, constants)
