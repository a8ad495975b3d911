"""whet lint finds every independent fault of a model in one pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

import whet
from tools.lint_models import FLOAT, errors, found, hosted, model, node, weight
from whet.errors import WhetError
from whet.frontends import load_model
from whet.tools import lint_codes
from whet.tools.lint import RULES, lint, stops

DOCS = Path(__file__).parents[2] / "docs" / "lint.md"

# A fault on a chain of good nodes: x [2, 3, 8, 8] -> conv -> (fault) -> relu; (code, the node's name, the node).
FAULTS: dict[str, tuple[str, NodeProto]] = {
    "an unknown operator": ("L101", node("Reluu", "c", "f", "bad")),
    "too many inputs": ("L102", node("Relu", "c c", "f", "bad")),
    "too few inputs": ("L102", node("Add", "c", "f", "bad")),
    "an input left out": ("L102", node("Add", "- c", "f", "bad")),
    "too many outputs": ("L103", node("Relu", "c", "f f2", "bad")),
    "a missing attribute": ("L104", node("Concat", "c c", "f", "bad")),
    "an unknown attribute": ("L105", node("LeakyRelu", "c", "f", "bad", alpah=0.1)),
    "an attribute of another type": ("L105", node("LeakyRelu", "c", "f", "bad", alpha=1)),
    "an undefined name": ("L106", node("Add", "c nowhere", "f", "bad")),
    "a type that the operator does not take": ("L109", node("Sqrt", "i", "f", "bad")),
    "two types": ("L109", node("Add", "c i", "f", "bad")),
    "shapes that do not broadcast": ("L110", node("Add", "c v5", "f", "bad")),
    "channels that differ": ("L110", node("Conv", "c w5", "f", "bad")),
    "an axis outside": ("L110", node("Softmax", "c", "f", "bad", axis=7)),
    "a permutation that is none": ("L110", node("Transpose", "c", "f", "bad", perm=[0, 1, 1, 2])),
    "elements that do not come out even": ("L110", node("Reshape", "c shape", "f", "bad")),
    "a cycle of one": ("L108", node("Add", "c f", "f", "bad")),
}
WEIGHTS = {"w": weight(4, 3, 3, 3), "w5": weight(4, 5, 3, 3), "v5": weight(5), "i": np.arange(8),
           "shape": np.array([7, 7])}


def chain(*faults: NodeProto) -> onnx.ModelProto:
    """A model with each fault on a branch of its own."""
    nodes, outputs = [node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1])], []
    for k, fault in enumerate(faults):
        own = NodeProto()
        own.CopyFrom(fault)
        own.name = f"bad{k}"
        for names in (own.input, own.output):
            for i, n in enumerate(names):
                if n.startswith("f"):
                    names[i] = f"{n}_{k}"
        nodes += [own, node("Relu", own.output[0], f"y{k}")]
        outputs.append(f"y{k}")
    return model(nodes, {"x": [2, 3, 8, 8]}, outputs, WEIGHTS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_alone_and_by_its_node(name: str) -> None:
    code, fault = FAULTS[name]
    assert errors(found(chain(fault))) == {(code, "bad0")}


def test_all_faults_of_a_model_are_found_in_one_pass() -> None:
    m = chain(*(fault for _, fault in FAULTS.values()))
    assert errors(found(m)) == {(code, f"bad{k}") for k, (code, _) in enumerate(FAULTS.values())}


def test_what_stops_a_build_is_what_lint_calls_an_error() -> None:
    for code, fault in FAULTS.values():
        with pytest.raises(WhetError):
            load_model(chain(fault))
        assert stops(lint(chain(fault))), code
    load_model(chain())
    assert not stops(lint(chain()))


def test_faults_one_behind_the_other_are_found() -> None:
    nodes = [node("Reluu", "x", "a", "first"), node("MatMul", "a w", "b", "second"),
             node("Gemm", "b w2", "c", "third"), node("Add", "c ids", "d", "fourth"),
             node("Concat", "d d", "e", "fifth"), node("Sigmoid", "e", "y", "good")]
    m = model(nodes, {"x": ["n", 6]}, ["y"], {"w": weight(5, 4), "w2": weight(7, 9), "ids": np.arange(9)})
    assert errors(found(m)) == {("L101", "first"), ("L110", "second"), ("L110", "third"), ("L109", "fourth"),
                                ("L104", "fifth")}


def test_a_cycle_is_told_with_its_path_and_what_follows_is_still_checked() -> None:
    nodes = [node("Add", "x b", "a", "one"), node("Relu", "a", "b", "two"), node("Add", "b x", "c", "after"),
             node("Add", "x w", "y", "apart")]
    by_code = found(model(nodes, {"x": [2, 4]}, ["c", "y"], {"w": weight(3)}))
    assert errors(by_code) == {("L108", "two"), ("L110", "apart")} or errors(by_code) == {("L108", "one"),
                                                                                         ("L110", "apart")}
    assert "one -> two" in by_code["L108"][0].what or "two -> one" in by_code["L108"][0].what


def test_two_cycles_are_two_findings() -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Add", "x d", "c"), node("Relu", "c", "d")]
    assert len(found(model(nodes, {"x": [2]}, ["b", "d"]))["L108"]) == 2


def test_names_defined_twice_are_found_wherever_they_are() -> None:
    nodes = [node("Relu", "x", "a", "one"), node("Sigmoid", "x", "a", "two"), node("Tanh", "x", "w", "three")]
    m = model(nodes, {"x": [4]}, ["a"], {"w": weight(4)})
    m.graph.input.append(m.graph.input[0])
    m.graph.initializer.append(m.graph.initializer[0])
    m.graph.output.append(m.graph.output[0])
    assert errors(found(m)) == {("L107", n) for n in ("two", "three", "x", "w", "a")}


def test_outputs_and_inputs_of_the_graph_are_checked() -> None:
    m = model([node("Shape", "x", "y")], {"x": [4]}, ["y", "z"])
    m.graph.input.append(onnx.ValueInfoProto(name="untyped"))
    assert errors(found(m)) == {("L114", "y"), ("L111", "z"), ("L112", "untyped")}


def test_a_misspelt_name_is_suggested() -> None:
    by_code = found(model([node("Relu", "hidden_states", "a"), node("Relu", "hidden_state", "y")],
                          {"hidden_states": [4]}, ["y"]))
    assert "hidden_states" in by_code["L106"][0].do


def test_faults_in_bodies_are_found() -> None:
    def branch(*nodes: NodeProto) -> onnx.GraphProto:
        return helper.make_graph(list(nodes), "b", [], [helper.make_tensor_value_info("r", FLOAT, None)])

    m = model([node("If", "cond", "y", "choice", then_branch=branch(node("Concat", "x x", "r", "inner")),
                    else_branch=branch(node("Relu", "x", "r"))), node("Add", "x w", "z", "apart")],
              {"cond": [1], "x": [4]}, ["y", "z"], {"w": weight(3)}, types={"cond": TensorProto.BOOL})
    assert errors(found(m)) == {("L104", "inner"), ("L110", "apart")}


def test_faults_in_local_functions_are_found() -> None:
    opset = helper.make_opsetid("", 21)
    f = helper.make_function("own", "Twice", ["a"], ["b"], [node("Ad", "a a", "b", "inner")], [opset])
    call = helper.make_node("Twice", ["x"], ["y"], name="call", domain="own")
    m = model([call, node("Add", "x w", "z", "apart")], {"x": [4]}, ["y", "z"], {"w": weight(3)})
    m.functions.append(f)
    m.opset_import.append(helper.make_opsetid("own", 1))
    by_code = found(m)
    assert {code for code, _ in errors(by_code)} == {"L101", "L110"}
    assert "inner" in by_code["L101"][0].node or by_code["L101"][0].op == "Ad"


def test_a_new_opset_does_not_hide_other_faults() -> None:
    m = chain(FAULTS["a missing attribute"][1], FAULTS["two types"][1])
    m.opset_import[0].version = 999
    assert errors(found(m)) == {("L113", ""), ("L104", "bad0"), ("L109", "bad1")}


def test_an_input_of_unknown_rank_asks_for_a_shape() -> None:
    m = model([node("Relu", "x", "y")], {"x": None}, ["y"])
    assert [f.node for f in found(m)["L210"]] == ["x"]
    assert "L210" not in found(m, shapes={"x": (3,)})


def test_dead_ends_are_told_once_each() -> None:
    nodes = [node("Relu", "x", "y"), node("Exp", "x", "a"), node("Sigmoid", "a", "b", "last"),
             node("Tanh", "x", "c", "alone")]
    by_code = found(model(nodes, {"x": [4], "unused": [2]}, ["y"]))
    assert [f.node for f in by_code["L501"]] == ["unused"]
    assert {f.node: f.data["count"] for f in by_code["L502"]} == {"last": 2, "alone": 1}


def test_dynamic_dimensions_without_a_profile_are_told() -> None:
    m = model([node("Relu", "x", "y")], {"x": ["batch", "length"]}, ["y"])
    assert {f.node for f in found(m)["L205"]} == {"batch", "length"}
    assert "L205" not in found(m, profiles=[{"x": ((1, 1), (2, 8), (4, 16))}])
    assert {f.node for f in found(m, profiles=[{"batch": (1, 2, 4)}])["L205"]} == {"length"}
    assert {f.node for f in found(m, shapes={"x": (1, None)})["L205"]} == {"length"}


def test_reference_steps_are_told_with_their_share_and_reason() -> None:
    m = model([hosted("x", "d", "counts"), node("Relu", "d", "y")], {"x": [12]}, ["y"])
    (f,) = found(m)["L202"]
    assert f.node == "counts"
    assert f.op == "RandomUniformLike"
    assert f.data["basis"] == "estimated"
    assert 0.5 < f.data["share"] <= 1
    assert "no lowering" in f.why
    assert "estimated" in f.why


def test_a_good_model_has_no_findings() -> None:
    m = model([node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y")], {"x": [1, 3, 8, 8]}, ["y"],
              {"w": weight(4, 3, 3, 3)})
    assert lint(m) == []


def test_the_model_is_not_changed() -> None:
    m = chain(*(fault for _, fault in FAULTS.values()))
    before = m.SerializeToString(deterministic=True)
    lint(m)
    assert m.SerializeToString(deterministic=True) == before


def test_the_documentation_lists_every_code_as_the_code_has_it() -> None:
    assert lint_codes.table().strip() in DOCS.read_text("utf-8")
    assert all(c == r.code for c, r in RULES.items())


def test_every_code_that_the_source_uses_is_in_the_table() -> None:
    import re

    source = "".join(p.read_text("utf-8") for p in (DOCS.parents[1] / "src/whet/tools").glob("lint*.py"))
    used = set(re.findall(r'"(L\d{3})"', source))
    assert used == set(RULES)


@pytest.mark.parametrize("broken", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"no model at all"])
def test_what_is_no_model_is_a_typed_error(broken: Callable[[bytes], bytes]) -> None:
    with pytest.raises(whet.WhetError):
        lint(broken(chain().SerializeToString()))


def mutated(m: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """The model with one random change to a node or an input."""
    out = onnx.ModelProto()
    out.CopyFrom(m)
    n = out.graph.node[rng.integers(len(out.graph.node))]
    names = [o for other in out.graph.node for o in other.output] + [v.name for v in out.graph.input]
    dims = out.graph.input[0].type.tensor_type.shape.dim
    match rng.integers(10):
        case 0:
            n.input[rng.integers(len(n.input))] = "nowhere"
        case 1:
            del n.input[rng.integers(len(n.input))]
        case 2:
            n.input.append(names[rng.integers(len(names))])
        case 3:
            n.op_type = str(rng.choice(["Reluu", "Concat", "MatMul", "Conv", "Gather", "Reshape", "Softmax"]))
        case 4:
            n.attribute.append(helper.make_attribute("bogus", 1))
        case 5:
            del n.attribute[:]
        case 6:
            out.graph.input[0].type.tensor_type.elem_type = int(rng.choice([7, 9, 11]))
        case 7:
            dims[rng.integers(len(dims))].dim_value = int(rng.choice([0, 1, 2, 7]))
        case 8:
            n.output[0] = names[rng.integers(len(names))]
        case 9:
            n.input[0] = names[rng.integers(len(names))]
    return out


def test_lint_and_the_importer_agree_about_mutated_models() -> None:
    nodes = [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "b"), node("Add", "b a", "c"),
             node("GlobalAveragePool", "c", "d"), node("Flatten", "d", "e", axis=1), node("Gemm", "e v", "f", transB=1),
             node("Shape", "x", "s"), node("Slice", "s zero one", "n"), node("Concat", "n rest", "t", axis=0),
             node("Reshape", "f t", "g"), node("Softmax", "g", "y", axis=-1)]
    base = model(nodes, {"x": ["n", 3, 8, 8]}, ["y"], {
        "w": weight(4, 3, 3, 3), "v": weight(6, 4), "zero": np.array([0]), "one": np.array([1]),
        "rest": np.array([2, 3])})
    assert not stops(lint(base))
    rng = np.random.default_rng(0)
    for _ in range(150):
        m = mutated(base, rng)
        if rng.integers(2):
            m = mutated(m, rng)
        try:
            load_model(m)
            loads = True
        except WhetError:
            loads = False
        assert stops(lint(m)) != loads, [str(n.op_type) for n in m.graph.node]


def test_an_operator_of_a_plugin_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from whet import plugins

    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_discovered", True)
    twice = helper.make_node("Twice", ["x"], ["t"], name="mine", domain="com.example.test")
    m = model([twice, node("Relu", "t", "y")], {"x": [4]}, ["y"])
    m.opset_import.append(helper.make_opsetid("com.example.test", 1))
    assert errors(found(m)) == {("L101", "mine")}

    @plugins.plugin("com.example.test", "Twice", shape=plugins.like_first)
    def run(x: np.ndarray) -> np.ndarray:
        return 2 * x

    by_code = found(m)
    assert errors(by_code) == set()
    assert [f.node for f in by_code["L211"]] == ["mine"]


def test_large_casts_and_copies_of_their_own_are_told_with_their_bytes() -> None:
    m = model([node("Cast", "x", "y", "widen", to=TensorProto.FLOAT)], {"x": [1024, 1024]}, ["y"],
              types={"x": TensorProto.INT32})
    (f,) = found(m)["L207"]
    assert f.node == "widen"
    assert f.data["bytes"] == 2 * 4 << 20
    assert f.data["share"] == 1
    m = model([node("Transpose", "x", "y", "turn", perm=[1, 0])], {"x": [1024, 1024]}, ["y"])
    (f,) = found(m)["L208"]
    assert f.node == "output 0"
    assert f.data["bytes"] == 2 * 4 << 20


def test_a_cast_that_a_neighbour_takes_in_is_not_told() -> None:
    nodes = [node("Cast", "x", "f", "widen", to=TensorProto.FLOAT), node("Exp", "f", "y")]
    m = model(nodes, {"x": [1024, 1024]}, ["y"], types={"x": TensorProto.INT32})
    assert not {"L207", "L208"} & found(m).keys()
