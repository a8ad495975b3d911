"""whet debug: departing layers are named, failing models reduced, contributions measured, differences found."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tools.debugged import faulty, install
from tools.surgery import model, network, run, tensor
from whet import plugins
from whet.errors import GraphError, InputError, ModelError, UnsupportedError
from whet.tools import debug
from whet.tools.debug.cuts import Cutter
from whet.tools.debug.deviation import Tolerance, compare
from whet.tools.debug.reduce import minimized
from whet.tools.debug.references import reference
from whet.tools.debug.subject import Subject, values
from whet.tools.debug.trial import signature

node = helper.make_node
F = np.float32
LOOSE = Tolerance(1e-5, 1e-4)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The wrong plugins, here and in child processes."""
    folder = install(tmp_path / "site")
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_broken", {})
    monkeypatch.setattr(plugins, "_discovered", False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    sys.modules.pop("whet_wrong", None)
    yield
    sys.modules.pop("whet_wrong", None)


# -- how far it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "right", "why"), [
    (F([1, 2]), F([1, 2]), ""),
    (F([1, 2.0001]), F([1, 2]), ""),  # of the largest element
    (F([1.0001, 2]), F([1, 2]), ""),
    (F([1, 2.001]), F([1, 2]), "off by 0.001"),
    (F([np.nan, np.inf, -np.inf]), F([np.nan, np.inf, -np.inf]), ""),
    (F([1, np.nan]), F([1, 2]), "nan instead of 2 at [1]"),
    (F([1, 2]), F([np.inf, 2]), "1 instead of inf at [0]"),
    (F([np.inf]), F([-np.inf]), "inf instead of -inf"),
    (F([1, 2]), F([[1, 2]]), "shape [2] instead of [1, 2]"),
    (np.float64([1]), F([1]), "type float64 instead of float32"),
    (np.int64([1, 2]), np.int64([1, 2]), ""),
    (np.int64([10 ** 6]), np.int64([10 ** 6 + 1]), "off by 1"),
    (np.array([True]), np.array([False]), "off by 1"),
    (np.array(["a"], object), np.array(["a"], object), ""),
    (np.array(["a"], object), np.array(["b"], object), "it is not equal"),
    (F([]), F([]), ""),
    (F(3), F(3), ""),
    (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2], ml_dtypes.bfloat16), ""),
    (np.array([1, 2.5], ml_dtypes.bfloat16), np.array([1, 2], ml_dtypes.bfloat16), "off by 0.5"),
    (np.complex64([1 + 1j]), np.complex64([1 + 1j]), ""),
    ([F([1])], [F([1])], ""),
    ([F([1]), F([3])], [F([1]), F([2])], "off by 1"),
    ([F([1])], [F([1]), F([2])], "1 elements instead of 2"),
    ({"a": 0.5, "b": 0.25}, {"b": F(0.25), "a": F(0.5)}, ""),
    ({"a": 0.5}, {"a": 0.75}, "off by 0.25"),
    ({"a": 0.5}, {"b": 0.5}, "the keys are others"),
    (None, None, ""),
    (None, F([1]), "one of them is absent"),
])
def test_what_is_too_far_off(found: Any, right: Any, why: str) -> None:
    d = compare(found, right, LOOSE)
    assert d.held is (why == "")
    assert d.why.startswith(why)


def test_figures_of_a_deviation() -> None:
    d = compare(F([3, 4, np.nan, np.inf, 1]), F([3, 5, np.nan, 0, np.inf]), LOOSE)
    assert (d.max_abs, d.relative_l2) == (1.0, pytest.approx(1 / math.sqrt(34)))
    assert (d.nan, d.inf, d.reference_nan, d.reference_inf, d.elements) == (1, 1, 1, 1, 5)
    assert compare(np.int64([5]), np.int64([6]), Tolerance(1.0, 0)).held
    assert compare(F([1]), F([0]), LOOSE).as_dict()["relative_l2"] is None  # infinity, which JSON has not


# -- references --------------------------------------------------------------------------------------------


def test_both_references_agree() -> None:
    subject = Subject.open(network(np.random.default_rng(0)))
    names = [n for n, _ in values(subject.model)]
    assert names == ["a", "b", "c", "s", "y", "z"]
    a, b = (reference(subject.model, subject.feeds, names, against) for against in ("onnxruntime", "reference"))
    assert a.keys() == b.keys() == set(names)
    for n in names:
        np.testing.assert_allclose(a[n], b[n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("against", ["onnxruntime", "reference"])
def test_what_the_reference_does_not_run_is_told(against: str) -> None:
    m = faulty("Nowhere")
    subject = Subject.open(m)
    with pytest.raises(ModelError, match="does not run this model"):
        reference(subject.model, subject.feeds, [], against)
    with pytest.raises(InputError, match="no reference 'torch'"):
        reference(subject.model, subject.feeds, [], "torch")


def test_inputs_are_checked() -> None:
    m = network(np.random.default_rng(0))
    assert Subject.open(m).feeds["x"].shape == (1, 64)
    assert Subject.open(m, shapes={"x": (3, 64)}).feeds["x"].shape == (3, 64)
    with pytest.raises(InputError, match="there is no input 'w'"):
        Subject.open(m, {"w": F([1])})
    with pytest.raises(InputError, match="no array for the input 'x'"):
        Subject.open(m, {})
    with pytest.raises(GraphError):
        Subject.open(m, {"x": np.zeros((2, 63), F)})
    text = model([node("Identity", ["t"], ["u"])], [tensor("t", [2], onnx.TensorProto.STRING)],
                 [tensor("u", [2], onnx.TensorProto.STRING)])
    with pytest.raises(InputError, match="no random array for 't'"):
        Subject.open(text)


# -- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_that_is_right_holds(bf16: bool) -> None:
    found = debug.layers(network(np.random.default_rng(0)), shapes={"x": (5, 64)}, bf16=bf16)
    assert found.held
    assert found.first is None
    assert [l.value for l in found.layers] == ["a", "b", "c", "s", "y", "z"]
    assert found.outputs.keys() == {"y", "z"}
    worst = max(l.deviation.relative_l2 for l in found.layers)
    assert (1e-4 < worst < 2e-2) if bf16 else worst < 1e-5


def test_the_first_layer_that_departs_is_named(wrong: None) -> None:
    found = debug.layers(faulty("Twice"), against="reference")
    assert not found.held
    assert found.first is not None
    assert (found.first.value, found.first.node, found.first.op) == ("wrong", "bad", "Twice")
    assert [l.value for l in found.departed] == ["wrong", "c", "y", "z"]
    assert found.first.deviation.relative_l2 == pytest.approx(1.5)  # -x instead of 2 x
    assert found.alone is not None
    assert not found.alone["wrong"].held
    assert not found.outputs["y"].held


def test_values_that_are_no_numbers_are_counted(wrong: None) -> None:
    found = debug.layers(faulty("Half"), against="reference", only=["wrong", "z"])
    assert [l.value for l in found.layers] == ["wrong", "z"]
    assert found.first is not None
    assert found.first.deviation.nan > 0 == found.first.deviation.reference_nan
    with pytest.raises(InputError, match="no value 'wring'"):
        debug.layers(faulty("Half"), against="reference", only=["wring"])


def test_functions_and_bodies_and_sequences_are_compared() -> None:
    body = helper.make_graph([node("Mul", ["x", "x"], ["sq"])], "b", [], [tensor("sq", None)])
    other = helper.make_graph([node("Neg", ["x"], ["neg"])], "o", [], [tensor("neg", None)])
    f = helper.make_function("local", "Shift", ["p"], ["q"], [node("Abs", ["p"], ["r"]), node("Sqrt", ["r"], ["q"])],
                             [helper.make_opsetid("", 18)])
    m = model([node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "zero"], ["c"]),
               node("If", ["c"], ["i"], then_branch=body, else_branch=other),
               node("Shift", ["i"], ["h"], domain="local", name="shift"),
               node("SequenceConstruct", ["h", "x"], ["seq"]),
               node("ConcatFromSequence", ["seq"], ["y"], axis=0)],
              [tensor("x", ["n", 3])], [tensor("y", [None, 3])], {"zero": F(0)},
              opsets=[helper.make_opsetid("local", 1)], functions=[f])
    found = debug.layers(m, shapes={"x": (4, 3)})
    assert found.held
    assert {"Abs", "Sqrt", "If", "SequenceConstruct"} <= {l.op for l in found.layers}


def test_random_values_are_not_compared() -> None:
    m = model([node("RandomUniformLike", ["x"], ["r"]), node("Add", ["x", "r"], ["noisy"]), node("Neg", ["x"], ["y"])],
              [tensor("x", [4])], [tensor("noisy", [4]), tensor("y", [4])])
    found = debug.layers(m)
    assert found.held
    assert ([l.value for l in found.layers], found.outputs.keys()) == (["y"], {"y"})
    assert found.random == ["noisy", "r"]
    assert debug.reduce(m).held


# -- cuts and reduction ------------------------------------------------------------------------------------


def reshaping() -> onnx.ModelProto:
    """Shape arithmetic between layers: x [n, 4, 6] -> flattened -> y."""
    return model([node("Relu", ["x"], ["a"]), node("Shape", ["a"], ["s"], end=1), node("Concat", ["s", "tail"], ["to"],
                  axis=0), node("Reshape", ["a", "to"], ["r"]), node("MatMul", ["r", "w"], ["h"]),
                  node("Add", ["one", "one"], ["two"]), node("Mul", ["h", "two"], ["y"])],
                 [tensor("x", ["n", 4, 6])], [tensor("y", ["n", 5])],
                 {"tail": np.int64([24]), "w": np.random.default_rng(1).standard_normal((24, 5)).astype(F),
                  "one": F(1)})


@pytest.mark.parametrize("whole", [network(np.random.default_rng(0)), reshaping()], ids=["network", "reshaping"])
@given(data=st.data())
def test_any_set_of_nodes_is_a_model_that_computes_what_it_did(whole: onnx.ModelProto, data: st.DataObject) -> None:
    subject = Subject.open(whole, fix=data.draw(st.booleans()))
    names = [n for n, _ in values(subject.model)]
    right = reference(subject.model, subject.feeds, names)
    cutter = Cutter(subject.model, {**subject.feeds, **right})
    chosen = data.draw(st.sets(st.integers(0, len(cutter.nodes) - 1), min_size=1))
    part, feeds = cutter.part(chosen)
    onnx.checker.check_model(part.to_proto(), full_check=True)
    assert len(part.proto.graph.node) == len(chosen)
    names = [o.name for o in part.proto.graph.output]
    for name, got in zip(names, run(part, feeds), strict=True):
        np.testing.assert_allclose(got, right[name], rtol=1e-5, atol=1e-6)


def test_sizes_stay_constants_where_a_model_is_cut() -> None:
    subject = Subject.open(reshaping(), fix=False)
    right = reference(subject.model, subject.feeds, [n for n, _ in values(subject.model)])
    cutter = Cutter(subject.model, {**subject.feeds, **right})
    part, feeds = cutter.part([i for i, n in enumerate(cutter.nodes) if n.op_type in ("Reshape", "Mul")])
    assert feeds.keys() == {"a", "h"}
    assert {t.name for t in part.proto.graph.initializer} == {"to", "two"}


@given(st.integers(1, 60), st.data())
def test_minimizing_finds_what_is_needed(n: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=4))
    assert set(minimized(list(range(n)), lambda some: needed <= set(some), lambda: False)) == needed


def test_errors_of_one_kind_have_one_signature() -> None:
    a, b = (GraphError(f"{k} inputs of {name!r}", where=name) for k, name in ((3, "x"), (17, "yy")))
    assert signature(a) == signature(b) != signature(UnsupportedError("3 inputs of 'x'"))
    assert signature(ValueError("")) == "ValueError  "


@pytest.mark.parametrize(("op", "against", "kind"), [
    ("Twice", "reference", "differs"), ("Half", "reference", "nan"), ("Refused", "reference", "build"),
    ("Crash", "onnxruntime", "crash"), ("Hang", "onnxruntime", "hang"), ("Nowhere", "onnxruntime", "build")])
def test_a_failing_model_is_reduced_to_the_node_at_fault(wrong: None, op: str, against: str, kind: str) -> None:
    seen: list[int] = []
    found = debug.reduce(faulty(op), against=against, timeout=3 if kind == "hang" else 60,
                         found=lambda m, feeds: seen.append(len(m.proto.graph.node)))
    assert not found.held
    assert found.failure.kind == kind, found.failure
    assert [n.op_type for n in found.model.proto.graph.node] == [op]
    assert seen[-1] == 1
    assert seen == sorted(seen, reverse=True)
    onnx.checker.check_model(found.model.to_proto())
    assert found.feeds["b"].shape == (1, 64)
    assert bool(found.notes) is (against == "onnxruntime")


def test_a_model_that_is_right_is_not_reduced(wrong: None) -> None:
    found = debug.reduce(network(np.random.default_rng(0)))
    assert found.held
    assert found.nodes == 6
    m = faulty("Twice")  # wrong, but ONNX Runtime cannot say so
    with pytest.raises(ModelError, match="nothing says whether its results are right"):
        debug.reduce(m)


def test_a_command_says_what_fails(tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    script.write_text("import sys, zipfile\nmodel = open(sys.argv[1], 'rb').read()\n"
                      "zipfile.ZipFile(sys.argv[2]).testzip()\n"
                      "sys.exit(3 if model.count(b'MatMul') > 1 and b'Sigmoid' in model else 4 * (b'Relu' in model))\n")
    found = debug.reduce(network(np.random.default_rng(0)), check=f"{sys.executable} -S {script} {{model}} {{inputs}}")
    assert (found.failure.kind, found.failure.code) == ("exit", "3")
    assert sorted(n.op_type for n in found.model.proto.graph.node) == ["MatMul", "MatMul", "Sigmoid"]
    assert len(found.model.proto.graph.output) == 2  # nothing reads the sigmoid's or the second product's
    onnx.checker.check_model(found.model.to_proto(), full_check=True)
    with pytest.raises(InputError, match=r"no \{model\}"):
        debug.reduce(network(np.random.default_rng(0)), check="true")
    with pytest.raises(InputError, match="cannot be run"):
        debug.reduce(network(np.random.default_rng(0)), check=f"{tmp_path}/nothing {{model}}")


def test_a_limit_ends_the_search(tmp_path: Path) -> None:
    found = debug.reduce(network(np.random.default_rng(0)), check="false {model}", limit=0)
    assert not found.held
    assert found.nodes == 6
    assert "time limit" in found.notes[0]


# -- precision ---------------------------------------------------------------------------------------------


def steep() -> onnx.ModelProto:
    """Two products, of which the second takes small differences of large numbers."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((32, 32)).astype(F)
    return model([node("MatMul", ["x", "w1"], ["a"], name="first"), node("Add", ["a", "large"], ["b"]),
                  node("MatMul", ["b", "w2"], ["c"], name="steep"), node("Relu", ["c"], ["d"]),
                  node("MatMul", ["d", "w1"], ["y"], name="last")],
                 [tensor("x", [3, 32])], [tensor("y", [3, 32])],
                 {"w1": w, "w2": (w - w.mean(0)), "large": F(300)})


def test_the_layer_that_needs_bits_comes_first() -> None:
    found = debug.precision(steep(), target=3e-2)
    assert not found.held
    assert {c.layer for c in found.contributions} == {"MatMul first", "MatMul steep", "MatMul last"}
    errors = [c.error for c in found.contributions]
    assert errors == sorted(errors, reverse=True)
    assert all(e > 0 for e in errors)
    assert "last" in found.contributions[-1].layer
    assert found.keep == [c.layer for c in found.contributions][:len(found.keep)]
    assert found.kept_error is not None
    assert found.kept_error <= 3e-2 < found.error
    without = debug.precision(steep(), measure="without", only=["MatMul last"], target=10)
    assert without.held
    (c,) = without.contributions
    assert c.gain == pytest.approx(found.error - c.error)


def test_precision_says_which_layers_there_are() -> None:
    with pytest.raises(InputError, match="no layer in bf16 'MatMul lost'"):
        debug.precision(steep(), only=["MatMul lost"])
    with pytest.raises(InputError, match="no measure"):
        debug.precision(steep(), measure="both")


def test_a_layer_kept_in_fp32_is_built_so() -> None:
    from whet import pipeline

    proto = steep()
    def kept(*names: str) -> dict[str, str]:
        plan = pipeline.build(proto, precision="bf16", force_precision=True, fp32_layers=names, opt_level=0)
        return {l["name"]: l["precision"] for l in plan.manifest.info["layers"]}
    assert set(kept().values()) == {"bf16"}
    assert kept("steep") == kept("MatMul steep") == {"MatMul first": "bf16", "MatMul steep": "f32",
                                                     "MatMul last": "bf16"}
    with pytest.raises(InputError, match="no layer 'steeep'"):
        kept("steeep")


# -- repeat ------------------------------------------------------------------------------------------------


def script(tmp_path: Path, body: str) -> list[str]:
    """A command whose `k` is the number of its run."""
    path, count = tmp_path / "s.py", tmp_path / "count"
    path.write_text(f"import os, sys, time\np = {str(count)!r}\n"
                    "k = (int(open(p).read()) if os.path.exists(p) else 0) + 1\n"
                    f"open(p, 'w').write(str(k))\n{body}\n")
    return [sys.executable, "-S", str(path)]


@pytest.mark.parametrize(("body", "differs", "runs"), [
    ("print('same')", [], 4), ("print('a', k > 2)", ["stdout"], 3), ("sys.exit(7 * (k == 4))", ["exit code"], 4),
    ("os.abort() if k == 2 else 0", ["exit code"], 2), ("time.sleep(600 * (k == 2))", ["exit code"], 2)])
def test_a_command_is_repeated_until_it_differs(tmp_path: Path, body: str, differs: list[str], runs: int) -> None:
    found = debug.repeat(script(tmp_path, body), times=4, timeout=3)
    assert (found.differs, found.runs, found.held) == (differs, runs, not differs)
    if "stdout" in differs:
        assert found.lines()[-2:] == ["-a False", "+a True"]
        assert debug.repeat(script(tmp_path, body), times=3, stdout=False).held
    if "sleep" in body:
        assert found.last.exit_code is None


def test_files_are_compared_and_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writes = f"if k != 3: open({str(out)!r}, 'w').write('x' * (1 + k // 5))"
    found = debug.repeat(script(tmp_path, writes), files=[out])
    assert (found.differs, found.runs) == ([f"file {out}"], 3)
    assert found.last.files[str(out)] == "absent"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        debug.repeat(script(tmp_path, writes), files=[out])
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="cannot be run"):
        debug.repeat([str(tmp_path / "nothing")])
    with pytest.raises(InputError, match="no command"):
        debug.repeat([])


