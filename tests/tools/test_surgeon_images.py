"""whet surgeon preprocess: the pixels of Pillow and OpenCV, from the graph.

Stated tolerance: 1 of 255 after a resize (libraries round to whole numbers on the way), on average below a quarter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tools.surgery import F32, model, run, tensor
from whet.errors import InputError
from whet.tools import surgeon
from whet.tools.surgeon import ImageSteps, OnnxModel

node = helper.make_node
LEVEL = 1 / 255


def network(h: Any = 32, w: Any = 48, code: int = F32, last: bool = False, batch: Any = "n",
            opset: int = 18) -> OnnxModel:
    """A network that gives back its input."""
    shape = [batch, h, w, 3] if last else [batch, 3, h, w]
    return OnnxModel.open(model([node("Identity", ["pixels"], ["y"])], [tensor("pixels", shape, code)],
                                [tensor("y", shape, code)], opset=opset))


def frame(h: int, w: int, seed: int = 0) -> np.ndarray:
    """A frame with soft and hard edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    base = 127 + 100 * np.sin(x / 7 + y / 11)[..., None] * np.array([1, -1, 0.5])
    base[h // 3: h // 2, w // 4: w // 2] = rng.integers(0, 256, 3)
    return np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def close(got: np.ndarray, want: np.ndarray) -> None:
    """got: NCHW in 0 to 1; want: HWC in 0 to 255."""
    difference = np.abs(got[0].transpose(1, 2, 0) * 255 - want)
    assert difference.max() < 1.01
    assert difference.mean() < 0.25


SIZES = [(97, 143), (20, 31), (32, 48), (200, 30)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_stretched_pixels_are_pillows(size: tuple[int, int], resample: Any, dynamic: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    x = frame(*size)
    want = np.asarray(image.fromarray(x).resize((48, 32), getattr(image.Resampling, resample.upper())), float)
    m = surgeon.preprocess(network(), ImageSteps(resample=resample), frame=(None, None) if dynamic else size)
    (got,) = run(m, {"image": x[None]})
    close(got, want)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "nearest"])
def test_stretched_pixels_are_opencvs(size: tuple[int, int], resample: Any) -> None:
    cv2 = pytest.importorskip("cv2")
    x = frame(*size)
    how = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST}[resample]
    (got,) = run(surgeon.preprocess(network(), ImageSteps(resample=resample, like="opencv")), {"image": x[None]})
    close(got, cv2.resize(x, (48, 32), interpolation=how).astype(float))


def centre(x: np.ndarray, shorter: int, crop: int) -> np.ndarray:
    """torchvision's Resize and CenterCrop, by Pillow."""
    from PIL import Image

    h, w = x.shape[:2]
    size = (shorter, int(shorter * h / w)) if w <= h else (int(shorter * w / h), shorter)  # (width, height)
    y = np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR), float)
    top, left = round((y.shape[0] - crop) / 2), round((y.shape[1] - crop) / 2)
    return y[top: top + crop, left: left + crop]


@pytest.mark.parametrize("size", [(300, 451), (457, 300), (224, 224), (131, 113)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_imagenet_is_torchvisions_pipeline(size: tuple[int, int], dynamic: bool) -> None:
    pytest.importorskip("PIL")
    x = frame(*size)
    m = surgeon.preprocess(network(224, 224), "imagenet", frame=(None, None) if dynamic else size)
    (got,) = run(m, {"image": x[None]})
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    close(got * std.reshape(3, 1, 1) + mean.reshape(3, 1, 1), centre(x, 256, 224))


def letterbox(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """ultralytics' LetterBox."""
    import cv2

    r = min(size[0] / x.shape[0], size[1] / x.shape[1])
    w, h = round(x.shape[1] * r), round(x.shape[0] * r)
    dw, dh = (size[1] - w) / 2, (size[0] - h) / 2
    y = cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR) if x.shape[:2] != (h, w) else x
    top, bottom, left, right = round(dh - 0.1), round(dh + 0.1), round(dw - 0.1), round(dw + 0.1)
    return cv2.copyMakeBorder(y, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114)).astype(float)


@pytest.mark.parametrize("size", [(71, 128), (128, 71), (33, 64), (64, 64), (85, 128), (300, 17), (40, 30)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_yolo_is_ultralytics_letterbox(size: tuple[int, int], dynamic: bool) -> None:
    pytest.importorskip("cv2")
    x = frame(*size)
    m = surgeon.preprocess(network(64, 64), "yolo", frame=(None, None) if dynamic else size)
    (got,) = run(m, {"image": x[None]})
    close(got, letterbox(x, (64, 64)))


def test_colours_layout_type_and_numbers_are_those_asked_for() -> None:
    x = frame(32, 48)
    want = (x[..., ::-1].astype(np.float32) * 2 - [1, 2, 3]) / [4, 5, 6]
    steps = ImageSteps(fit="none", color="bgr", scale=2, mean=(1, 2, 3), std=(4, 5, 6))
    for code, last in ((F32, False), (onnx.TensorProto.FLOAT16, True)):
        m = surgeon.preprocess(network(code=code, last=last), steps)
        (got,) = run(m, {"image": np.stack([x, x])})
        assert got.dtype == helper.tensor_dtype_to_np_dtype(code)
        np.testing.assert_allclose(got[1] if last else got[1].transpose(1, 2, 0), want, rtol=1e-3, atol=1e-4)


def test_an_older_model_is_converted_and_an_unknown_size_is_asked_for() -> None:
    m = surgeon.preprocess(network(opset=13), "yolo")
    assert m.opset() == 18
    m = surgeon.preprocess(network("h", "w"), "yolo", size=(64, 32))
    assert run(m, {"image": frame(50, 50)[None]})[0].shape == (1, 3, 64, 32)
    with pytest.raises(InputError, match="size is not fixed"):
        surgeon.preprocess(network("h", "w"), "yolo")
    with pytest.raises(InputError, match="takes 32 x 48"):
        surgeon.preprocess(network(), "yolo", size=(64, 64))


def test_what_is_no_image_is_told() -> None:
    with pytest.raises(InputError, match="not an image of 3 channels"):
        surgeon.preprocess(OnnxModel.open(model([node("Relu", ["x"], ["y"])], [tensor("x", [1, 4, 5, 5])],
                                                [tensor("y", None)])))
    with pytest.raises(InputError, match="of type INT64"):
        surgeon.preprocess(network(code=onnx.TensorProto.INT64), input_name="pixels")
    with pytest.raises(InputError, match="0 inputs of the model can be images"):
        surgeon.preprocess(network(code=onnx.TensorProto.INT64))
    with pytest.raises(InputError, match="no preset 'imagnet'"):
        surgeon.preprocess(network(), "imagnet")
    with pytest.raises(InputError, match="2 numbers for mean"):
        ImageSteps(mean=(1, 2))
    with pytest.raises(InputError, match="no fit 'crup'"):
        ImageSteps(fit="crup")  # type: ignore[arg-type]
