"""Image steps and what comes behind a network run in plans, on generated kernels alone, as ONNX Runtime runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import whet
from tools.surgery import model, run, tensor
from whet.tools import surgeon
from whet.tools.surgeon import ImageSteps, OnnxModel

node = helper.make_node


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def network(size: int, out: int = 5) -> OnnxModel:
    """x [1, 3, size, size] -> y [1, out, size / 2, size / 2]."""
    w = np.random.default_rng(0).standard_normal((out, 3, 3, 3)).astype(np.float32)
    return OnnxModel.open(model([node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
                                [tensor("x", [1, 3, size, size])], [tensor("y", [1, out, size // 2, size // 2])],
                                {"w": w}))


def check(m: OnnxModel, shape: tuple[int, int], levels: float = 0.0, **build: Any) -> None:
    """levels: how far a pixel may be off before the network (rounding of halves), in its output's units."""
    image = np.random.default_rng(1).integers(0, 256, (1, *shape, 3), np.uint8)
    plan = whet.build(m.to_proto(), opt_level=0, **build)
    steps = plan.summary()["steps"]
    assert not steps["reference"]
    assert not steps["host"]
    names = [o.name for o in m.proto.graph.output]
    with whet.load(plan) as engine:
        got = engine({"image": image})
    for name, want in zip(names, run(m, {"image": image}), strict=True):
        assert got[name].dtype == want.dtype
        if want.dtype.kind == "f":
            off = np.abs(got[name] - want) > 1e-4 + 1e-4 * np.abs(want)
            assert off.mean() < 0.05, name  # a pixel on the other side of a half, and those that read it
            assert np.abs(got[name] - want).max() <= 1e-3 + levels, name
        else:
            assert (got[name] != want).mean() < 0.01, name


STEPS = {
    "imagenet": surgeon.preset("imagenet"), "yolo": surgeon.preset("yolo", color="bgr"),
    "bicubic": ImageSteps(resample="bicubic"), "bicubic opencv": ImageSteps(resample="bicubic", like="opencv"),
    "nearest": ImageSteps(resample="nearest"), "nearest opencv": ImageSteps(resample="nearest", like="opencv"),
    "inception": ImageSteps(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("name", STEPS)
def test_image_steps(name: str) -> None:
    check(surgeon.preprocess(network(32), STEPS[name], frame=(45, 70)), (45, 70), levels=0.1)


@pytest.mark.parametrize("name", ["imagenet", "yolo", "bicubic"])
def test_image_steps_for_frames_of_any_size(name: str) -> None:
    dims = {"image_height": (16, 45, 100), "image_width": (16, 70, 100)}
    check(surgeon.preprocess(network(32), STEPS[name]), (61, 47), levels=0.1, profiles=[dims])


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("resize", ["logits", "classes"])
def test_maps_of_classes(fit: Any, resize: Any) -> None:
    steps = ImageSteps(fit=fit, like="opencv")
    check(surgeon.segment(surgeon.preprocess(network(32), steps, frame=(45, 70)), resize=resize), (45, 70))


def test_a_map_for_frames_of_any_size() -> None:
    dims = {"image_height": (16, 45, 100), "image_width": (16, 70, 100)}
    m = surgeon.segment(surgeon.preprocess(network(32), ImageSteps(fit="letterbox", like="opencv")))
    check(m, (61, 47), profiles=[dims])


@pytest.mark.parametrize("options", [{"top": 3}, {"top": None}, {"argmax": True}], ids=str)
def test_classes(options: dict[str, Any]) -> None:
    net = surgeon.insert(network(32), "GlobalMaxPool", ["y"], ["pooled"])
    net = surgeon.insert(surgeon.prune(net, outputs=["y"]), "Flatten", ["pooled"], ["flat"])
    net = surgeon.prune(net, outputs=["pooled"])
    check(surgeon.classify(surgeon.preprocess(net, STEPS["yolo"], frame=(45, 70)), **options), (45, 70))
