"""whet surgeon postprocess: classes, maps and boxes, against plain NumPy."""

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
Array = np.ndarray


def through(shape: list[Any], code: int = F32, name: str = "y") -> OnnxModel:
    """A network that gives back its input."""
    return OnnxModel.open(model([node("Identity", ["x"], [name])], [tensor("x", shape, code)],
                                [tensor(name, shape, code)]))


# -- classes ------------------------------------------------------------------------------------


def test_the_best_classes_come_first_with_their_probabilities() -> None:
    x = np.random.default_rng(0).standard_normal((3, 11)).astype(np.float32)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    scores, classes = run(surgeon.classify(through(["n", 11]), top=4), {"x": x}, ["scores", "classes"])
    order = np.argsort(-p, 1)[:, :4]
    np.testing.assert_array_equal(classes, order)
    np.testing.assert_allclose(scores, np.take_along_axis(p, order, 1), rtol=1e-5)
    np.testing.assert_allclose(run(surgeon.classify(through([3, 11]), top=None), {"x": x})[0], p, rtol=1e-5)
    np.testing.assert_array_equal(run(surgeon.classify(through([3, 11]), argmax=True), {"x": x})[0], x.argmax(1))
    half = surgeon.classify(through([3, 11], onnx.TensorProto.FLOAT16), softmax=False, top=1)
    assert run(half, {"x": x.astype(np.float16)}, ["scores"])[0].dtype == np.float32
    with pytest.raises(InputError, match="best 12 of 11"):
        surgeon.classify(through(["n", 11]), top=12)
    with pytest.raises(InputError, match="dimensions are expected"):
        surgeon.classify(through(["n", 11, 1]))


def test_names_that_the_network_uses_itself_are_no_trouble() -> None:
    x = np.random.default_rng(0).standard_normal((3, 11)).astype(np.float32)
    m = surgeon.classify(through([3, 11], name="scores"), top=2)
    assert run(m, {"x": x}, ["classes"])[0].shape == (3, 2)
    two = OnnxModel.open(model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["scores"])], [tensor("x", [3, 11])],
                               [tensor("y", [3, 11]), tensor("scores", [3, 11])]))
    with pytest.raises(InputError, match="output 'scores' already"):
        surgeon.classify(two, output="y")
    with pytest.raises(InputError, match="2 outputs of the model fit"):
        surgeon.classify(two)


# -- maps ---------------------------------------------------------------------------------------


def segmenter(size: int = 16) -> OnnxModel:
    """A network whose classes are the colour channels, at half its resolution."""
    return OnnxModel.open(model([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
                                [tensor("x", [1, 3, size, size])], [tensor("y", None)]))


@pytest.mark.parametrize("resize", ["logits", "classes"])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(40, 20), (16, 64)])
def test_a_map_of_classes_lies_over_the_frame(resize: Any, fit: Any, size: tuple[int, int]) -> None:
    x = np.zeros((*size, 3), np.uint8)
    x[: size[0] // 2, :, 0] = 200
    x[size[0] // 2:, : size[1] // 2, 1] = 200
    x[size[0] // 2:, size[1] // 2:, 2] = 200
    m = surgeon.segment(surgeon.preprocess(segmenter(), ImageSteps(fit=fit), frame=size), resize=resize)
    (got,) = run(m, {"image": x[None]})
    assert got.shape == (1, *size)
    assert got.dtype == np.uint8
    assert (got[0] == x.argmax(2)).mean() > 0.8
    corners = [(2, 2), (2, -3), (-3, 2), (-3, -3)]
    assert [got[0][c] for c in corners] == [0, 0, 1, 2]
    assert run(surgeon.segment(segmenter(), resize="none"), {"x": np.ones((1, 3, 16, 16), np.float32)})[0].shape == (
        1, 8, 8)


def test_a_cropped_frame_has_no_map() -> None:
    with pytest.raises(InputError, match="size of the class map is not known"):
        surgeon.segment(surgeon.preprocess(segmenter(), "imagenet"))


# -- boxes --------------------------------------------------------------------------------------


def iou(a: Array, b: Array) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def reference(boxes: Array, scores: Array, threshold: float, overlap: float, limit: int, multi: bool = False,
              agnostic: bool = False) -> list[tuple[Array, float, int]]:
    """Greedy non-maximum suppression of one image, in plain Python. boxes: xyxy [N, 4], scores [N, C]."""
    if multi:
        found = [(scores[i, c], c, i) for i in range(len(boxes)) for c in range(scores.shape[1])]
    else:
        found = [(scores[i].max(), int(scores[i].argmax()), i) for i in range(len(boxes))]
    found = sorted((f for f in found if f[0] > threshold), key=lambda f: -f[0])
    kept: list[tuple[Array, float, int]] = []
    for score, c, i in found:
        if all((c != other and not agnostic) or iou(boxes[i], b) <= overlap for b, _, other in kept):
            kept.append((boxes[i], score, c))
    return kept[:limit]


def random_boxes(rng: np.random.Generator, batch: int, n: int, c: int) -> tuple[Array, Array]:
    """Crowded boxes (cxcywh) and scores, in float32."""
    centre = rng.uniform(10, 54, (batch, n, 2))
    boxes = np.concatenate([centre, rng.uniform(5, 30, (batch, n, 2))], 2)
    return boxes.astype(np.float32), rng.uniform(0, 1, (batch, n, c)).astype(np.float32) ** 2


def corners(b: Array) -> Array:
    return np.concatenate([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1)


@pytest.mark.parametrize("options", [
    {}, {"layout": "columns"}, {"boxes": "xyxy"}, {"objectness": True}, {"objectness": True, "sigmoid": True},
    {"multi_label": True}, {"agnostic": True}, {"max_detections": 3}, {"max_detections": 60},
    {"multi_label": True, "max_detections": 200}, {"score_threshold": 0.99},
], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_boxes_are_those_of_plain_suppression(options: dict[str, Any], batch: int) -> None:
    n, c = 37, 5
    rng = np.random.default_rng(batch)
    boxes, scores = random_boxes(rng, batch, n, c)
    raw = [corners(boxes) if options.get("boxes") == "xyxy" else boxes]
    sure = rng.uniform(0, 1, (batch, n, 1)).astype(np.float32)
    if options.get("objectness"):
        raw.append(sure)
    raw.append(scores)
    if options.get("sigmoid"):
        raw[1:] = [np.log(s / (1 - s)) for s in (sure, np.clip(scores, 1e-6, 1 - 1e-6))]
    x = np.concatenate(raw, 2).astype(np.float32)
    if options.get("objectness"):
        scores = scores * sure
    if options.get("layout") == "columns":
        x = np.ascontiguousarray(x.transpose(0, 2, 1))
    m = surgeon.detect(through(["b", *x.shape[1:]]), **options)
    got = run(m, {"x": x}, ["boxes", "scores", "classes", "count"])
    k = options.get("max_detections", 300)
    assert [g.shape for g in got] == [(batch, k, 4), (batch, k), (batch, k), (batch,)]
    for i in range(batch):
        want = reference(corners(boxes[i]), scores[i], options.get("score_threshold", 0.25), 0.45, k,
                         options.get("multi_label", False), options.get("agnostic", False))
        count = int(got[3][i])
        assert count == len(want)
        if not want:
            continue
        np.testing.assert_allclose(got[0][i, :count], [w[0] for w in want], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got[1][i, :count], [w[1] for w in want], rtol=1e-4)
        assert got[2][i, :count].tolist() == [w[2] for w in want]
        assert not got[0][i, count:].any()
        assert not got[1][i, count:].any()
        assert (got[2][i, count:] == -1).all()


def test_without_padding_there_are_as_many_rows_as_boxes() -> None:
    boxes, scores = random_boxes(np.random.default_rng(5), 2, 37, 3)
    scores[0] = 0
    x = np.concatenate([boxes, scores], 2)
    m = surgeon.detect(through([2, 37, 7]), padded=False)
    got = run(m, {"x": x}, ["boxes", "scores", "classes", "batch_index"])
    want = reference(corners(boxes[1]), scores[1], 0.25, 0.45, 300)
    np.testing.assert_allclose(got[0], [w[0] for w in want], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], [w[1] for w in want], rtol=1e-4)
    assert got[2].tolist() == [w[2] for w in want]
    assert got[3].tolist() == [1] * len(want)
    assert [len(g) for g in run(m, {"x": 0 * x})] == [0, 0, 0, 0]


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop", "none"])
@pytest.mark.parametrize("size", [(37, 90), (128, 64)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_boxes_lie_in_the_frames_pixels(fit: Any, size: tuple[int, int], dynamic: bool) -> None:
    """The network finds a fixed box; where it lies in the frame follows from the image steps."""
    net = OnnxModel.open(model(
        [node("ReduceMin", ["x"], ["low"], keepdims=0), node("Mul", ["low", "zero"], ["nothing"]),
         node("Add", ["box", "nothing"], ["y"])], [tensor("x", [1, 3, 64, 64])], [tensor("y", [1, 1, 6])],
        {"zero": np.float32(0), "box": np.array([[[32, 30, 20, 10, 0.9, 0.1]]], np.float32)}))
    if fit == "none":
        size = (64, 64)
    m = surgeon.preprocess(net, ImageSteps(fit=fit), frame=(None, None) if dynamic else size)
    m = surgeon.detect(m, layout="rows", max_detections=2)
    h, w = size
    got = run(m, {"image": np.zeros((1, h, w, 3), np.uint8)}, ["boxes", "count"])
    assert got[1].tolist() == [1]
    a, b = np.array([22, 25, 42, 35.]).reshape(2, 2)
    match fit:
        case "letterbox":
            r = min(64 / h, 64 / w)
            new = np.array([round(w * r), round(h * r)])
            shift = (64 - new) // 2
            want = np.concatenate([(p - shift) * np.array([w, h]) / new for p in (a, b)])
        case "crop":
            s = max(round(64 / 0.875), 64)
            new = np.array([s * w // min(h, w), s * h // min(h, w)])
            cut = np.array([round((v - 64) / 2) for v in new])
            want = np.concatenate([(p + cut) * np.array([w, h]) / new for p in (a, b)])
        case _:
            want = np.concatenate([p * np.array([w, h]) / 64 for p in (a, b)])
    np.testing.assert_allclose(got[0][0, 0], np.clip(want, 0, [w, h, w, h]), rtol=1e-4)


def test_boxes_in_parts_of_the_image_are_scaled_too() -> None:
    net = OnnxModel.open(model(
        [node("ReduceMin", ["x"], ["low"], keepdims=0), node("Mul", ["low", "zero"], ["nothing"]),
         node("Add", ["box", "nothing"], ["y"])], [tensor("x", [1, 3, 64, 32])], [tensor("y", [1, 1, 6])],
        {"zero": np.float32(0), "box": np.array([[[0.5, 0.5, 0.5, 0.5, 0.9, 0.1]]], np.float32)}))
    m = surgeon.detect(surgeon.preprocess(net, ImageSteps()), layout="rows", normalized=True)
    (got,) = run(m, {"image": np.zeros((1, 100, 200, 3), np.uint8)}, ["boxes"])
    np.testing.assert_allclose(got[0, 0], [50, 25, 150, 75], rtol=1e-5)
    with pytest.raises(InputError, match="network's size is not known"):
        surgeon.detect(net, layout="rows", normalized=True)


def test_detect_refuses_what_it_cannot_read() -> None:
    with pytest.raises(InputError, match="no scores"):
        surgeon.detect(through([1, 4, 100]))
    with pytest.raises(InputError, match="does not tell boxes"):
        surgeon.detect(through([1, "a", "b"]))
    with pytest.raises(InputError, match="IoU threshold of 2"):
        surgeon.detect(through([1, 7, 100]), iou_threshold=2)
    with pytest.raises(InputError, match="suppress each other"):
        surgeon.detect(through([1, 7, 100]), multi_label=True, agnostic=True)
