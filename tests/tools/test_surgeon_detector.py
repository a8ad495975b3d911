"""One plan takes camera frames and gives boxes: image steps, network, suppression, boxes in the frame's pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from tools.detector import detector, scene
from tools.surgery import run
from whet.tools import surgeon
from whet.tools.surgeon import OnnxModel

H, W = 240, 384
NAMES = ["boxes", "scores", "classes", "count"]
SQUARES = [(0, 24, 48, 72), (1, 192, 72, 72), (2, 288, 144, 72)]  # where cells lie, three times as large


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def camera(frame: tuple[int | None, int | None] = (H, W), batch: int | str = 1, rng: Any = None,
           **options: Any) -> OnnxModel:
    network = OnnxModel.open(detector(batch, rng))
    settings: dict[str, Any] = {"max_detections": 20, "score_threshold": 0.6, **options}
    return surgeon.detect(surgeon.preprocess(network, "yolo", frame=frame), **settings)


def native(plan: Any) -> bool:
    steps = plan.summary()["steps"]
    return not steps["reference"] and not steps["host"]


def same(got: dict[str, np.ndarray], want: list[np.ndarray], names: list[str] = NAMES) -> None:
    for name, w in zip(names, want, strict=True):
        assert got[name].shape == w.shape
        assert got[name].dtype == w.dtype
        np.testing.assert_allclose(got[name], w, rtol=1e-3, atol=1e-3, err_msg=name)


def test_frames_in_boxes_out() -> None:
    m = camera()
    plan = whet.build(m.to_proto(), opt_level=0)
    assert native(plan)
    frame = scene(H, W, SQUARES)
    with whet.load(plan) as engine:
        got = engine({"image": frame[None]})
    assert got["count"].tolist() == [3]
    assert sorted(got["classes"][0, :3].tolist()) == [0, 1, 2]
    for box, label in zip(got["boxes"][0, :3], got["classes"][0, :3], strict=True):
        _, left, top, side = SQUARES[label]
        np.testing.assert_allclose(box, [left, top, left + side, top + side], atol=1)
    same(got, run(m, {"image": frame[None]}, NAMES))


@pytest.mark.parametrize("options", [{}, {"multi_label": True, "score_threshold": 0.05}, {"agnostic": True}], ids=str)
def test_a_crowd_in_a_batch_agrees_with_onnx_runtime(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    m = camera(batch=2, rng=rng, **{"score_threshold": 0.1, **options})
    frames = np.stack([scene(H, W, [(int(c), int(x), int(y), 60) for c, x, y in zip(
        rng.integers(0, 3, 9), rng.integers(0, 300, 9), rng.integers(0, 170, 9))]) for _ in range(2)])
    plan = whet.build(m.to_proto(), opt_level=0)
    assert native(plan)
    with whet.load(plan) as engine:
        got = engine({"image": frames})
        same(got, run(m, {"image": frames}, NAMES))
        assert got["count"].min() > 2
        nothing = engine({"image": 0 * frames})
        assert nothing["count"].tolist() == [0, 0]
        assert (nothing["classes"] == -1).all()


def test_as_many_rows_as_boxes() -> None:
    m = camera(padded=False)
    names = ["boxes", "scores", "classes", "batch_index"]
    with whet.load(whet.build(m.to_proto(), opt_level=0)) as engine:
        for squares in (SQUARES, SQUARES[:1], []):
            frame = scene(H, W, squares)[None]
            got = engine({"image": frame})
            assert len(got["boxes"]) == len(squares)
            same(got, run(m, {"image": frame}, names), names)


def test_frames_of_any_size() -> None:
    m = camera(frame=(None, None))
    dims = {"image_height": (32, H, 480), "image_width": (32, W, 640)}
    with whet.load(whet.build(m.to_proto(), profiles=[dims], opt_level=0)) as engine:
        for h, w in ((H, W), (101, 333), (480, 200)):
            frame = scene(h, w, [(1, w // 4, h // 4, min(h, w) // 3)])[None]
            same(engine({"image": frame}), run(m, {"image": frame}, NAMES))


def test_the_image_steps_are_one_or_two_regions() -> None:
    plan = whet.build(surgeon.preprocess(OnnxModel.open(detector()), "yolo", frame=(H, W)).to_proto(), opt_level=0)
    kinds = [layer["kind"] for layer in plan.manifest.info["layers"]]
    assert kinds[:3] == ["resize", "pad", "conv"], "bytes in, scale and rounding inside"


def test_a_plan_file_holds_all_of_it(tmp_path: Path) -> None:
    m = camera()
    m.save(tmp_path / "camera.onnx")
    whet.build(tmp_path / "camera.onnx", opt_level=0).save(tmp_path / "camera.plan")
    frame = scene(H, W, SQUARES)[None]
    with whet.load(tmp_path / "camera.plan") as engine:
        same(engine({"image": frame}), run(m, {"image": frame}, NAMES))
