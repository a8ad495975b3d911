"""What comes behind a network: probabilities, top classes, maps of classes, and boxes in the frame's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, ValueInfoProto

from whet.errors import InputError
from whet.tools.surgeon.building import Nodes, Num
from whet.tools.surgeon.images import OPSET, ImageSteps, Placement, described, place
from whet.tools.surgeon.model import OnnxModel, check_valid
from whet.tools.surgeon.names import local, rename_all, sort, unknown
from whet.tools.surgeon.sanitize import convert
from whet.tools.surgeon.shapes import dims, infer, tensor_type

NO_SCORE = 0.0  # what a place without a detection has
PADDED, FOUND = ("boxes", "scores", "classes", "count"), ("boxes", "scores", "classes", "batch_index")
Typed = dict[str, tuple[int, list[int | str | None]]]  # new outputs: element types and shapes


def classify(model: OnnxModel, *, output: str | None = None, softmax: bool = True, top: int | None = 5,
             argmax: bool = False) -> OnnxModel:
    """The model with its logits [N, C] replaced by probabilities, or by the best of them.

    top: outputs `scores` (float32) and `classes` (int64), [N, top], best first; None: `probabilities` [N, C] instead.
    argmax: output `class` [N] (int64) only. softmax=False: scores are what the network gives.
    """
    names = ("class",) if argmax else ("probabilities",) if top is None else ("scores", "classes")
    out, n, x, shape = _begin(model, output, (2,), names)
    if top is not None and isinstance(shape[1], int) and not 1 <= top <= shape[1]:
        raise InputError(f"the best {top} of {shape[1]} classes", where=model.name, do="ask for fewer")
    if softmax and not argmax:
        x = n.add("Softmax", x, axis=1)
    new: Typed
    if argmax:
        n.named(n.add("ArgMax", x, axis=1, keepdims=0), "class")
        new = {"class": (TensorProto.INT64, [shape[0]])}
    elif top is None:
        n.named(x, "probabilities")
        new = {"probabilities": (TensorProto.FLOAT, list(shape))}
    else:
        scores, classes = n.add("TopK", x, n.ints(top), outputs=2, axis=1)
        n.named(scores, "scores")
        n.named(classes, "classes")
        new = {"scores": (TensorProto.FLOAT, [shape[0], top]), "classes": (TensorProto.INT64, [shape[0], top])}
    return _finish(out, n, new)


def segment(model: OnnxModel, *, output: str | None = None, resize: Literal["logits", "classes", "none"] = "logits",
            size: tuple[int, int] | None = None) -> OnnxModel:
    """The model with its logits [N, C, h, w] replaced by `classes` [N, H, W] (uint8, or int32 over 256 classes).

    resize: "logits" interpolates scores before the best is taken (smooth borders), "classes" takes the nearest class
    after it. H, W: `size`; None: the frame's, where `preprocess` put its steps in front and did not crop.
    """
    if resize not in ("logits", "classes", "none"):
        raise InputError(f"no resize {resize!r}", why="there are logits, classes, none", do="choose one of them")
    out, n, x, shape = _begin(model, output, (4,), ("classes",))
    frame = described(out)
    target: Sequence[Num] | None = None if size is None else [Num(n, s) for s in size]
    if resize != "none" and target is None:
        if frame is None or frame["fit"] == "crop":
            raise InputError("the size of the class map is not known", where=model.name,
                             why="frames are cropped" if frame else "the model has no image steps in front of it",
                             do="give --size HxW, or --resize none")
        where, high, wide = _placement(n, frame)
        target = where.frame
        if frame["fit"] == "letterbox":  # the part that is no border
            x = n.add("Resize", x, "", "", n.ints(high, wide), axes=[2, 3], mode="linear")
            ends = [where.top + where.height, where.left + where.width]
            x = n.add("Slice", x, n.vector([where.top, where.left]), n.vector(ends), n.ints(2, 3))
    kind = TensorProto.UINT8 if isinstance(shape[1], int) and shape[1] <= 256 else TensorProto.INT32
    if target is not None and resize == "logits":
        x = n.add("Resize", x, "", "", n.vector(target), axes=[2, 3], mode="linear")
    x = n.add("Cast", n.add("ArgMax", x, axis=1, keepdims=0), to=kind)
    if target is not None and resize == "classes":
        x = n.add("Unsqueeze", x, n.ints(1))
        x = n.add("Resize", x, "", "", n.vector(target), axes=[2, 3], mode="nearest", nearest_mode="round_prefer_ceil")
        x = n.add("Squeeze", x, n.ints(1))
    n.named(x, "classes")
    sides = list(shape[2:]) if target is None else [t.value if isinstance(t.value, int) else None for t in target]
    return _finish(out, n, {"classes": (kind, [shape[0], *sides])})


def detect(model: OnnxModel, *, output: str | None = None, boxes: Literal["cxcywh", "xyxy"] = "cxcywh",
           layout: Literal["auto", "rows", "columns"] = "auto", objectness: bool = False, sigmoid: bool = False,
           normalized: bool = False, score_threshold: float = 0.25, iou_threshold: float = 0.45,
           max_detections: int = 300, multi_label: bool = False, agnostic: bool = False,
           padded: bool = True) -> OnnxModel:
    """The model with its YOLO-style output replaced by boxes after non-maximum suppression.

    The output is [B, N, 4 + C] (layout "rows") or [B, 4 + C, N] ("columns"; "auto": the longer side is N): boxes in the
    network's pixels (`normalized`: in parts of its size), then C scores (`objectness`: one more before them, that they
    are multiplied by; `sigmoid`: logits). Each box stands for its best class, or for every class above the threshold
    (`multi_label`). Boxes of different classes do not suppress each other, unless `agnostic`.

    Where `preprocess` put image steps in front, boxes are scaled back to the frame and clipped to it.

    padded: outputs `boxes` [B, K, 4] (x1, y1, x2, y2), `scores` [B, K], `classes` [B, K] (int64), best first, `count`
    [B] (int64) with K = max_detections; behind the count there are zeros, and class -1. Otherwise, for the M boxes of
    all images: `boxes` [M, 4], `scores`, `classes`, and `batch_index` [M] (int64), the image that each lies in.
    """
    if multi_label and agnostic:
        raise InputError("boxes with several labels that suppress each other", do="ask for multi_label or agnostic")
    for name, value in (("score", score_threshold), ("IoU", iou_threshold)):
        if not 0 <= value <= 1:
            raise InputError(f"an {name} threshold of {value}", why="it is between 0 and 1", do="give such a number")
    if max_detections < 1:
        raise InputError(f"{max_detections} detections", do="ask for at least 1")
    out, n, x, shape = _begin(model, output, (3,), PADDED if padded else FOUND)
    columns, classes, count = _layout(shape, layout, objectness, model.name)
    xyxy, scores = _split(n, x, columns, boxes, objectness, sigmoid)
    frame = described(out)
    where, high, wide = (None, 0, 0) if frame is None else _placement(n, frame)
    if normalized:
        if where is None:
            raise InputError("the network's size is not known", where=model.name, why="boxes are in parts of it",
                             do="put image steps in front first: whet surgeon preprocess")
        xyxy = n.add("Mul", xyxy, n.const([wide, high, wide, high], np.float32))

    best_class = n.add("ArgMax", scores, axis=1, keepdims=1)  # [B, 1, N]
    best = n.add("ReduceMax", scores, n.ints(1), keepdims=1)
    if multi_label:
        judged = scores
    elif agnostic or classes == 1:
        judged = best
    else:
        index = n.const(np.arange(classes).reshape(1, -1, 1), np.int64)
        judged = n.add("Where", n.add("Equal", best_class, index), best, n.const(NO_SCORE, np.float32))
    chosen = n.add("NonMaxSuppression", xyxy, judged, n.ints(max_detections), n.const([iou_threshold], np.float32),
                   n.const([score_threshold], np.float32))
    if multi_label:
        dense, places = scores, chosen
    else:
        dense = n.add("Squeeze", best, n.ints(1))  # [B, N]
        places = n.add("Gather", chosen, n.ints(0, 2), axis=1)
    zeros = n.add("ConstantOfShape", n.add("Shape", dense), value=_scalar(n, NO_SCORE))
    kept = n.add("ScatterND", zeros, places, n.add("GatherND", dense, places))
    if multi_label:
        kept = n.add("Flatten", kept, axis=1)  # [B, C * N]
    total = None if not isinstance(count, int) else count * (classes if multi_label else 1)
    if total is None or total < max_detections:
        kept = n.add("Pad", kept, n.ints(0, max_detections), n.const(NO_SCORE, np.float32), n.ints(1))
    top, at = n.add("TopK", kept, n.ints(max_detections), outputs=2, axis=1)
    valid = n.add("Greater", top, n.const(NO_SCORE, np.float32))
    at = n.add("Where", valid, at, n.const(0, np.int64))
    if multi_label:
        size = n.size(dense, 2, count).tensor()
        label, at = n.add("Div", at, size), n.add("Mod", at, size)
    else:
        label = n.add("GatherElements", n.add("Squeeze", best_class, n.ints(1)), at, axis=1)
    found = n.add("GatherND", xyxy, n.add("Unsqueeze", at, n.ints(2)), batch_dims=1)  # [B, K, 4]
    if where is not None and frame is not None:
        found = _scaled_back(n, found, where, frame["fit"])
    return _finish(out, n, _detections(n, found, top, label, valid, shape[0], max_detections, padded))


def _detections(n: Nodes, found: str, top: str, label: str, valid: str, batch: int | str | None,
                k: int, padded: bool) -> Typed:
    """Name the results; their types and shapes."""
    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    if padded:
        wide = n.add("Unsqueeze", valid, n.ints(2))
        n.named(n.add("Where", wide, found, n.const(0, np.float32)), "boxes")
        n.named(top, "scores")
        n.named(n.add("Where", valid, label, n.const(-1, np.int64)), "classes")
        count = n.add("ReduceSum", n.add("Cast", valid, to=i64), n.ints(1), keepdims=0)
        n.named(count, "count")
        return {"boxes": (f32, [batch, k, 4]), "scores": (f32, [batch, k]), "classes": (i64, [batch, k]),
                "count": (i64, [batch])}
    there = n.add("NonZero", valid)  # [2, M]
    places = n.add("Transpose", there, perm=[1, 0])
    for source, name in ((found, "boxes"), (top, "scores"), (label, "classes")):
        n.named(n.add("GatherND", source, places), name)
    n.named(n.add("Gather", there, n.const(0, np.int64), axis=0), "batch_index")
    m = "detections"
    return {"boxes": (f32, [m, 4]), "scores": (f32, [m]), "classes": (i64, [m]), "batch_index": (i64, [m])}


def _split(n: Nodes, x: str, columns: bool, form: str, objectness: bool, sigmoid: bool) -> tuple[str, str]:
    """Boxes [B, N, 4] as (x1, y1, x2, y2), and scores [B, C, N]."""
    if form not in ("cxcywh", "xyxy"):
        raise InputError(f"no form of boxes {form!r}", why="there are cxcywh and xyxy", do="choose one of them")
    axis = 1 if columns else 2

    def part(a: int, b: int) -> str:
        return str(n.add("Slice", x, n.ints(a), n.ints(b), n.ints(axis)))

    boxes = part(0, 4)
    scores = part(5 if objectness else 4, 1 << 30)
    if sigmoid:
        scores = n.add("Sigmoid", scores)
    if objectness:
        sure = part(4, 5)
        scores = n.add("Mul", scores, n.add("Sigmoid", sure) if sigmoid else sure)
    if columns:
        boxes = n.add("Transpose", boxes, perm=[0, 2, 1])
    else:
        scores = n.add("Transpose", scores, perm=[0, 2, 1])
    if form == "cxcywh":
        centre = n.add("Slice", boxes, n.ints(0), n.ints(2), n.ints(2))
        half = n.add("Mul", n.add("Slice", boxes, n.ints(2), n.ints(4), n.ints(2)), n.const(0.5, np.float32))
        boxes = n.add("Concat", n.add("Sub", centre, half), n.add("Add", centre, half), axis=2)
    return boxes, scores


def _layout(shape: Sequence[int | str | None], layout: str, objectness: bool,
            where: str) -> tuple[bool, int, int | str | None]:
    """(columns, classes, boxes) of an output."""
    if layout not in ("auto", "rows", "columns"):
        raise InputError(f"no layout {layout!r}", why="there are auto, rows, columns", do="choose one of them")
    a, b = shape[1], shape[2]
    if layout == "auto":
        if not (isinstance(a, int) and isinstance(b, int)):
            if isinstance(a, int) == isinstance(b, int):
                raise InputError(f"the output's shape {list(shape)} does not tell boxes from classes", where=where,
                                 do="say it: --layout rows for [B, N, 4 + C], columns for [B, 4 + C, N]")
            layout = "columns" if isinstance(a, int) else "rows"
        else:
            layout = "columns" if a < b else "rows"
    columns = layout == "columns"
    width, count = (a, b) if columns else (b, a)
    head = 5 if objectness else 4
    if not isinstance(width, int) or width <= head:
        raise InputError(f"no scores in an output of shape {list(shape)}", where=where,
                         why=f"it needs a fixed side of more than {head}: boxes and scores",
                         do="set the input's shape with whet surgeon set-shapes, or give another --layout")
    return columns, width - head, count


def _scaled_back(n: Nodes, boxes: str, where: Placement, fit: str) -> str:
    """Boxes from the network's pixels to the frame's, clipped to it."""
    sign = 1 if fit == "crop" else -1  # cut before, or padded before
    shift = n.vector([where.left, where.top, where.left, where.top])
    factors = [w.over(s) for w, s in ((where.frame[1], where.width), (where.frame[0], where.height))]
    factor = _floats(n, [*factors, *factors])
    moved = n.add("Add" if sign > 0 else "Sub", boxes, n.add("Cast", shift, to=TensorProto.FLOAT))
    scaled = n.add("Mul", moved, factor)
    high, wide = where.frame
    limit = n.add("Cast", n.vector([wide, high, wide, high]), to=TensorProto.FLOAT)
    return str(n.add("Min", n.add("Max", scaled, n.const(0, np.float32)), limit))


def _floats(n: Nodes, values: Sequence[str | float]) -> str:
    if all(isinstance(v, float) for v in values):
        return n.const(values, np.float32)
    return str(n.add("Concat", *(v if isinstance(v, str) else n.const([v], np.float32) for v in values), axis=0))


def _placement(n: Nodes, frame: dict[str, Any]) -> tuple[Placement, int, int]:
    """Where frames come to lie in the network's input, and its height and width."""
    high, wide = frame["size"]
    steps = ImageSteps(fit=frame["fit"], shorter=frame["shorter"])
    return place(n, steps, frame["image"], frame["frame"], (high, wide)), high, wide


def _scalar(n: Nodes, value: float) -> Any:
    return n.model.tensor("", np.array([value], np.float32))


def _begin(model: OnnxModel, output: str | None, ranks: Sequence[int],
           new: Sequence[str]) -> tuple[OnnxModel, Nodes, str, list[Any]]:
    """A copy of the model, new nodes, the name and the shape of the output that they read, in float32.

    new: the names of the outputs to be: what the model calls so inside gets another name. InputError for other outputs.
    """
    out = OnnxModel.open(model)
    if out.opset() < OPSET:
        was = out.opset()
        convert(out, OPSET)
        out.notes.append(f"opset {was} converted to {OPSET}")
    infer(out.proto)
    v = _output(out, output, ranks)
    shape = dims(v.type)
    if shape is None or len(shape) not in ranks:
        raise InputError(f"the output {v.name!r} has the shape {shape}", where=model.name,
                         why=f"{' or '.join(map(str, ranks))} dimensions are expected", do="name another with --output")
    g = out.proto.graph
    stay = {o.name for o in (*g.input, *g.output)} - {v.name}
    for name in new:
        if name in stay:
            raise InputError(f"the model has an input or output {name!r} already", where=model.name,
                             do=f"rename it first: whet surgeon rename --tensor {name}={name}_network")
    n = Nodes(out, "post")
    rename_all(g, {name: n.fresh(f"{name}_network") for name in new if name in local(g)})
    x = v.name
    if v.type.tensor_type.elem_type != TensorProto.FLOAT:
        x = n.add("Cast", x, to=TensorProto.FLOAT)
    return out, n, x, shape


def _output(model: OnnxModel, name: str | None, ranks: Sequence[int]) -> ValueInfoProto:
    there = {v.name: v for v in model.proto.graph.output}
    if name is not None:
        if name not in there:
            raise unknown("output", name, there, model.name)
        return there[name]
    found = [v for v in there.values() if len(there) == 1 or len(dims(v.type) or ()) in ranks]
    if len(found) != 1:
        raise InputError(f"{len(found)} outputs of the model fit", where=model.name,
                         why=f"its outputs are {', '.join(there)}", do="name the one with --output")
    return found[0]


def _finish(model: OnnxModel, n: Nodes, new: Typed) -> OnnxModel:
    """Add the nodes, and the new outputs in the place of the old one."""
    g = model.proto.graph
    read = {i for node in n.nodes for i in node.input}
    old = next(i for i, v in enumerate(g.output) if v.name in read)
    del g.output[old]
    n.append()
    for i, (name, (code, shape)) in enumerate(new.items()):
        v = ValueInfoProto(name=name)
        v.type.CopyFrom(tensor_type(code, shape))
        g.output.insert(old + i, v)
    sort(g)
    infer(model.proto)
    check_valid(model.proto)
    model.notes.append(f"outputs {', '.join(new)}: {len(n.nodes)} nodes behind the network")
    return model
