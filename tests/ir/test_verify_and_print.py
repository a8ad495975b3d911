"""The verifier finds each kind of breach; the printer shows what a person looks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from whet.errors import GraphError, InputError
from whet.ir import DType, Graph, Node, Value, interpret, symbol, to_text, verify
from whet.ir.verify import RULES, complaints


def small() -> Graph:
    g = Graph("small")
    b = symbol("batch")
    g.dims = {"batch": (1, 2, 8)}
    x = Value("x", DType.F32, (b, 4))
    g.inputs = [x]
    w = g.const(np.ones((4, 16), np.float32), hint="weight")
    y = g.add("matmul", [x, w], origin="Gemm fc")
    z = g.add("max", [y, g.const(np.float32(0.5))])
    g.outputs, g.output_names = [z], ["scores"]
    return g


def test_a_legal_graph_has_no_complaints() -> None:
    assert complaints(small()) == []


def _unknown(g: Graph) -> None:
    g.nodes[1].op = "frobnicate"


def _twice(g: Graph) -> None:
    g.nodes.append(g.nodes[0])


def _order(g: Graph) -> None:
    g.nodes.reverse()


def _names(g: Graph) -> None:
    g.nodes[0].output.name = "x"


def _output_names(g: Graph) -> None:
    g.output_names = ["a", "b"]


def _constant(g: Graph) -> None:
    g.nodes[0].input(1).data = np.ones((4, 8), np.float32)


def _profile(g: Graph) -> None:
    g.dims = {}


def _bad_profile(g: Graph) -> None:
    g.dims["batch"] = (4, 2, 8)


def _shape(g: Graph) -> None:
    g.nodes[0].output.shape = (symbol("batch"), 8)


def _negative(g: Graph) -> None:
    g.nodes[0].output.shape = (-1, 16)


def _dtype(g: Graph) -> None:
    g.nodes[0].output.dtype = DType.F64


def _producer(g: Graph) -> None:
    g.nodes[0].output.producer = None


def _two_producers(g: Graph) -> None:
    g.nodes.append(Node("relu", [g.inputs[0]], [g.nodes[0].output]))


def _attribute(g: Graph) -> None:
    g.outputs = [g.add("softmax", [g.outputs[0]])]
    g.nodes[-1].attrs["axis"] = -1


def _undefined(g: Graph) -> None:
    g.outputs = [Value("nowhere", DType.F32, ())]


@pytest.mark.parametrize(("breach", "rule"), [
    (_unknown, "operators are in the table"), (_twice, "a node occurs once"),
    (_order, "values are computed before they are read"), (_names, "names are unique"),
    (_output_names, "outputs have names of their own"), (_constant, "constants hold what they declare"),
    (_profile, "symbolic dimensions have a profile"), (_bad_profile, "symbolic dimensions have a profile"),
    (_shape, "types, shapes and attributes are those that the operators' rules give"),
    (_dtype, "types, shapes and attributes are those that the operators' rules give"),
    (_attribute, "types, shapes and attributes are those that the operators' rules give"),
    (_negative, "dimensions are ints >= 0 or symbolic"), (_producer, "a value has one producer"),
    (_two_producers, "a value has one producer"), (_undefined, "values are computed before they are read"),
])
def test_each_breach_is_found_by_its_rule(breach: Callable[[Graph], None], rule: str) -> None:
    assert rule in RULES
    g = small()
    breach(g)
    assert any(c.startswith(rule) for c in complaints(g))
    with pytest.raises(GraphError, match="after fusion"):
        verify(g, after="fusion")


def test_the_text_has_types_shapes_profile_and_short_constants() -> None:
    text = to_text(small(), origins=True)
    assert "dim batch: 1 to 8, tuned for 2" in text
    assert "input %x: f32[batchx4]" in text
    assert "%matmul.2: f32[batchx16] = matmul(%x, $weight.1)  # Gemm fc" in text
    assert "max(%matmul.2, 0.5)" in text
    assert "output scores = " in text


def test_large_constants_are_listed_on_demand_with_size_and_first_values() -> None:
    assert "$weight.1: f32[4x16], 256 bytes, first values 1, 1, 1, 1" in to_text(small(), constants=True)


def test_the_interpreter_names_an_input_that_is_missing_or_does_not_fit() -> None:
    g = small()
    assert interpret(g, {"x": np.ones((3, 4))})["scores"].shape == (3, 16)
    with pytest.raises(InputError, match="x"):
        interpret(g, {})
    with pytest.raises(InputError, match="x"):
        interpret(g, {"x": np.ones((3, 5))})
    with pytest.raises(InputError, match="rank"):
        interpret(g, {"x": np.ones(4)})
