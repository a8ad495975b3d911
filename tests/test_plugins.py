"""Plugins: compiled ones vanish into the plan, functions run between native stretches, and their absence is told."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet import plugins
from whet.errors import InputError, MissingPluginError, PlanFormatError, PluginError, UnsupportedError
from whet.ir.dtypes import DType

DOMAIN = "com.example.signal"
EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin" / "src"
F, I = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry of the test's own, and the example on the path."""
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_broken", {})
    monkeypatch.setattr(plugins, "_discovered", True)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    sys.modules.pop("whet_signal", None)
    yield
    sys.modules.pop("whet_signal", None)


def model(nodes: list[onnx.NodeProto], outputs: list[tuple[str, int, list[Any]]]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", F, ["n"])],
                              [helper.make_tensor_value_info(*o) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)])


def snake_model() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["r"]),
                  helper.make_node("Snake", ["r"], ["y"], domain=DOMAIN, alpha=0.5)], [("y", F, ["n"])])


def peaks_model() -> onnx.ModelProto:
    return model([helper.make_node("Neg", ["x"], ["m"]),
                  helper.make_node("Peaks", ["m"], ["at", "high"], domain=DOMAIN, least=0.25),
                  helper.make_node("Exp", ["high"], ["e"])], [("at", I, ["k"]), ("e", F, ["k"])])


def build(m: onnx.ModelProto) -> whet.Plan:
    return whet.build(m, opt_level=0, threads=1)


def test_a_plugin_with_a_lowering_is_compiled_and_fused() -> None:
    import whet_signal

    plan = build(snake_model())
    steps = plan.summary()["steps"]
    assert (steps["native"], steps["host"], steps["reference"]) == (1, 0, 0)
    assert plan.summary()["plugins"] == []
    for n in (1, 17, 33):
        x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
        want = whet_signal.snake(np.maximum(x, 0).astype(np.float64), alpha=0.5)
        np.testing.assert_allclose(whet.load(plan)({"x": x})["y"], want, rtol=1e-5, atol=1e-6)


def test_a_function_runs_between_native_stretches_and_may_tell_sizes() -> None:
    import whet_signal

    plan = build(peaks_model())
    assert plan.summary()["steps"]["host"] == 1
    assert [(p["name"], p["package"]) for p in plan.summary()["plugins"]] == [("Peaks", "whet_signal")]
    with whet.load(plan) as engine:
        for n in (3, 50, 401):
            x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
            at, high = whet_signal.peaks(-x, least=0.25)
            got = engine({"x": x})
            assert np.array_equal(got["at"], at)
            np.testing.assert_allclose(got["e"], np.exp(high), rtol=1e-6)


def test_packages_contribute_by_entry_point_and_the_plan_records_them(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("signal", "whet_signal", plugins.GROUP)

    class Dist:
        name, version = "whet-signal", "1.2.0"

    object.__setattr__(entry, "dist", Dist()) if hasattr(entry, "dist") else None
    vars(entry).update(dist=Dist())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(plugins, "_discovered", False)
    plan = build(peaks_model())
    (used,) = plan.summary()["plugins"]
    assert (used["package"], used["version"]) == ("whet-signal", "1.2.0")
    monkeypatch.setattr(plugins, "_registered", {})
    with pytest.raises(MissingPluginError, match="Peaks") as e:
        whet.load(plan)
    assert e.value.do == "pip install whet-signal==1.2.0"


def test_a_plan_without_its_plugin_is_a_typed_error_in_another_process(tmp_path: Path) -> None:
    import whet_signal  # noqa: F401

    build(peaks_model()).save(tmp_path / "a.plan")
    program = "import whet\ntry:\n whet.load('a.plan')\nexcept whet.WhetError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "W602-missing-plugin" in done.stdout, done.stderr


def test_without_the_plugin_the_operator_is_unknown() -> None:
    with pytest.raises(UnsupportedError, match="Snake") as e:
        build(snake_model())
    assert "plugin" in e.value.why


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("bad", "no_such_module_anywhere", plugins.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(plugins, "_discovered", False)
    with pytest.raises(PluginError, match="no_such_module_anywhere"):
        build(snake_model())


def test_what_a_plugin_does_wrong_is_told_with_the_node() -> None:
    def broken(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("oh")

    m = model([helper.make_node("Odd", ["x"], ["y"], domain=DOMAIN, name="here")], [("y", F, ["n"])])
    whet.plugin(DOMAIN, "Odd", shape=plugins.like_first)(broken)
    with pytest.raises(PluginError, match="failed") as e:
        whet.load(build(m))({"x": np.zeros(3, np.float32)})
    assert "here" in e.value.where
    assert "oh" in e.value.why

    whet.plugin(DOMAIN, "Odd", shape=lambda i, a: 1 / 0)(broken)
    with pytest.raises(PluginError, match="shape rule"):
        build(m)
    whet.plugin(DOMAIN, "Odd", shape=plugins.like_first, lower=lambda call: 1 / 0)(broken)
    with pytest.raises(PluginError, match="lowering"):
        build(m)
    m.graph.node[0].attribute.append(helper.make_attribute("beta", 1.0))
    whet.plugin(DOMAIN, "Odd", shape=plugins.like_first)(broken)
    with pytest.raises(PluginError, match="beta"):
        build(m)


def test_a_result_of_another_shape_than_promised_is_refused() -> None:
    whet.plugin(DOMAIN, "Odd", shape=lambda i, a: [(DType.F32, (7,))])(lambda x: x)
    m = model([helper.make_node("Odd", ["x"], ["y"], domain=DOMAIN)], [("y", F, [7])])
    with pytest.raises(whet.WhetError, match="shape"):
        whet.load(build(m))({"x": np.zeros(3, np.float32)})


def test_versions_and_names_are_kept_apart() -> None:
    for since in (1, 3):
        whet.plugin(DOMAIN, "Odd", shape=plugins.like_first, since=since)(lambda x, since=since: x + since)
    assert [getattr(plugins.find(DOMAIN, "Odd", v), "since", None) for v in (1, 2, 3, 9)] == [1, 1, 3, 3]
    assert plugins.find(DOMAIN, "Even") is None
    with pytest.raises(InputError, match="ONNX"):
        whet.plugin("", "Relu", shape=plugins.like_first)(lambda x: x)

    def of_another_package(x: np.ndarray) -> np.ndarray:
        return x

    of_another_package.__module__ = "elsewhere.ops"
    with pytest.raises(InputError, match="twice"):
        whet.plugin(DOMAIN, "Odd", shape=plugins.like_first)(of_another_package)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"domain": 3}', b'{"domain":"a","name":"b","since":1,'
                                     b'"package":"p","version":"","attributes":{"t":{"dtype":"x"}},"present":[]}'])
def test_a_damaged_step_is_refused(payload: bytes) -> None:
    with pytest.raises(PlanFormatError):
        plugins.from_payload(payload, "layer 7")


def test_attributes_of_every_kind_come_through() -> None:
    seen: dict[str, Any] = {}

    @whet.plugin(DOMAIN, "Odd", shape=plugins.like_first)
    def odd(x: np.ndarray, absent: Any = 1, **attributes: Any) -> np.ndarray:
        seen.update(attributes, absent=absent)
        return x

    node = helper.make_node("Odd", ["x", ""], ["y"], domain=DOMAIN, i=3, f=0.5, s="word", ints=[1, 2],
                            t=onnx.numpy_helper.from_array(np.arange(3, dtype=np.int16)))
    whet.load(build(model([node], [("y", F, ["n"])])))({"x": np.zeros(3, np.float32)})
    assert (seen["i"], seen["f"], seen["s"], list(seen["ints"])) == (3, 0.5, "word", [1, 2])
    assert seen["t"].tolist() == [0, 1, 2]
    assert seen["t"].dtype == np.int16
    assert seen["absent"] is None
