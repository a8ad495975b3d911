"""Whole models on the GPU against ONNX Runtime on the CPU."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import whet
from whet import builder
from whet.measure import centred_error
from whet.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "targets" / "cuda"))
from on_device import gpu, needs_cuda

from benchmarks.light_models import light_input, refill
from benchmarks.models import random_images
from onnx_runtime import session
from whet.tuning.cache import TimingCache
from whet.tuning.found import EarlyLaunch, Tuned

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("compilers")


@cache
def model(name: str) -> onnx.ModelProto:
    """A light model, or `fire`: one of squeezenet's modules between its ends, which is tuned sooner."""
    return fire() if name == "fire" else refill(name)


def fire() -> onnx.ModelProto:
    """x [1, 3, 64, 64] -> a strided convolution, pool, branches that are joined, the mean, softmax."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def op(kind: str, *ins: str, **attrs: object) -> str:
        nodes.append(onnx.helper.make_node(kind, list(ins), [f"{kind}{len(nodes)}"], **attrs))
        return nodes[-1].output[0]

    def conv(x: str, to: int, of: int, window: int, **attrs: object) -> str:
        w = rng.standard_normal((to, of, window, window)) / np.sqrt(of * window**2 / 2)
        for a in (w, rng.standard_normal(to) / 4):
            weights.append(onnx.numpy_helper.from_array(a.astype(np.float32), f"w{len(weights)}"))
        return op("Relu", op("Conv", x, weights[-2].name, weights[-1].name, **attrs))

    x = op("MaxPool", conv("x", 32, 3, 3, strides=[2, 2]), kernel_shape=[3, 3], strides=[2, 2])
    x = conv(x, 16, 32, 1)
    x = op("Concat", conv(x, 48, 16, 1), conv(x, 48, 16, 3, pads=[1, 1, 1, 1]), axis=1)
    y = op("Softmax", op("Flatten", op("GlobalAveragePool", conv(x, 100, 96, 1))), axis=1)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape)
            for n, shape in (("x", [1, 3, 64, 64]), (y, [1, 100]))]
    graph = onnx.helper.make_graph(nodes, "fire", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@cache
def wanted(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs, and what ONNX Runtime makes of them."""
    feeds = {"x": random_images(np.random.default_rng(1), 1, 64)} if name == "fire" else light_input(name, seed=1)
    return feeds, session(model(name)).run(None, feeds)[0]


def run(plan: Plan, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with whet.load(plan) as engine:
        (y,) = engine(feeds).values()
        (again,) = engine(feeds).values()
        np.testing.assert_array_equal(y, again)
        return np.asarray(y, np.float32)


# Precision: how far from fp32 the outputs may be, of their deviation.
ALLOWED = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}


@needs_cuda
@pytest.mark.parametrize(("name", "precision"), [
    ("light_squeezenet", "fp32"), ("light_squeezenet", "fp16"), ("light_shufflenet", "fp32"),
    ("light_shufflenet", "fp16"), ("light_resnet50", "fp32"), ("light_resnet50", "fp16"),
    ("light_inception_v1", "fp16")])  # nearly 60 kernels of their own: of all the longest to compile
def test_untuned_plans_match_onnx_runtime(name: str, precision: str) -> None:
    plan = whet.build(model(name), target="cuda", precision={"fp32", precision}, opt_level=0)
    assert plan.summary()["steps"]["reference"] == 0
    feeds, want = wanted(name)
    assert centred_error(run(plan, feeds), want) < ALLOWED[precision]


@needs_cuda
def test_one_library_call_may_stand_on_two_branches() -> None:
    """Products of the same shapes are one object, here launched on two streams of one graph."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((64, 256)).astype(np.float32) for n in ("v", "w")}
    graph = onnx.helper.make_graph(
        [node("MatMul", ["a", "v"], ["x"]), node("MatMul", ["b", "w"], ["y"])], "g",
        [info(n, onnx.TensorProto.FLOAT, [128, 64]) for n in "ab"],
        [info(n, onnx.TensorProto.FLOAT, [128, 256]) for n in "xy"],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()])
    products = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    feeds = {n: rng.standard_normal((128, 64)).astype(np.float32) for n in "ab"}
    with whet.load(whet.build(products, target="cuda", opt_level=0)) as engine:
        for _ in range(3):
            got = engine(feeds)
            np.testing.assert_allclose(got["x"], feeds["a"] @ weights["v"], atol=1e-4)
            np.testing.assert_allclose(got["y"], feeds["b"] @ weights["w"], atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_tuned_plans_match_onnx_runtime(precision: str) -> None:
    feeds, want = wanted("fire")
    level = 2 if precision == "fp16" else 1  # from 2 on the best few are tried in place
    plan = whet.build(model("fire"), target="cuda", precision={"fp32", precision}, opt_level=level,
                      timing_cache=TimingCache())
    assert {e["how"] for e in plan.evidence["tuning"]} <= {"measured", "in place", "model"}
    # Slow machines may not compile the other form of every kernel in time.
    assert not [n for n in plan.evidence.get("notes", ()) if not n.startswith("early launch was not tried")]
    assert centred_error(run(plan, feeds), want) < ALLOWED[precision]


@needs_cuda
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_plans_whose_kernels_are_launched_early_match_onnx_runtime(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains, and branches that run side by side."""
    if gpu().capability < (9, 0):
        pytest.skip("this GPU's kernels cannot begin while others end")

    def refine(launches: object, dims: object, target: object, cache: object, level: object, tuned: Tuned,
               progress: object) -> None:
        tuned.early = EarlyLaunch(True, None, None)

    monkeypatch.setattr(builder, "refine", refine)
    feeds, want = wanted(name)
    plan = whet.build(model(name), target="cuda", precision={"fp32", "fp16"}, opt_level=0)
    assert centred_error(run(plan, feeds), want) < ALLOWED["fp16"]


@needs_cuda
def test_early_launch_is_decided_by_a_measurement_that_is_remembered() -> None:
    feeds, want = wanted("fire")
    known = TimingCache()
    first, second = (whet.build(model("fire"), target="cuda", precision={"fp32", "fp16"}, opt_level=2,
                                timing_cache=known) for _ in range(2))
    found = first.evidence.get("early_launch")
    assert (found is None) == (gpu().capability < (9, 0))
    assert second.evidence.get("early_launch") == found
    assert second.evidence["tuning_seconds"] < 2
    if found is not None:
        assert not found["failed"]
        assert found["used"] == (found["early_seconds"] < 0.99 * found["plain_seconds"])
    assert centred_error(run(second, feeds), want) < ALLOWED["fp16"]


@needs_cuda
def test_a_plan_for_the_capability_runs_on_this_gpu(tmp_path: Path) -> None:
    feeds, want = wanted("light_squeezenet")
    built = whet.build(model("light_squeezenet"), target="cuda", hardware_compat="same-cc", opt_level=0)
    built.save(tmp_path / "p.plan")
    opened = Plan.open(tmp_path / "p.plan")
    device = opened.manifest.target.device
    assert device is not None
    assert (device.name, device.uses) == ("", [])
    assert centred_error(run(opened, feeds), want) < ALLOWED["fp32"]
    with whet.load(opened, recompile=True) as engine:
        (y,) = engine(feeds).values()
    assert centred_error(np.asarray(y), want) < ALLOWED["fp32"]


@needs_cuda
def test_a_second_build_measures_and_compiles_nothing() -> None:
    known = TimingCache()
    plans = [whet.build(model("fire"), target="cuda", precision={"fp32", "fp16"}, opt_level=1, timing_cache=known)
             for _ in range(2)]
    assert plans[0].hash == plans[1].hash
    assert {e["how"] for e in plans[1].evidence["tuning"]} <= {"cache", "in place", "model"}
    assert plans[1].evidence["tuning_seconds"] < 1
