"""Image steps put before a network: camera frames in (uint8, NHWC), what the network was trained on out.

Pillow's and OpenCV's resampling, in ONNX's Resize (operators/Resize in ONNX's documentation):
Pillow widens the filter by the scale where it shrinks, and leaves pixels outside out (antialias=1, exclude_outside=1;
bicubic with a = -0.5); OpenCV's INTER_LINEAR and INTER_CUBIC (a = -0.75) do not, and repeat the border.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, ValueInfoProto

from whet.errors import InputError
from whet.tools.surgeon.building import Nodes, Num, round_ratio
from whet.tools.surgeon.model import OnnxModel, check_valid
from whet.tools.surgeon.names import rename_reads, sort, unknown
from whet.tools.surgeon.sanitize import convert
from whet.tools.surgeon.shapes import dims, infer, inputs, tensor_type

OPSET = 18  # Resize with antialias and axes
KEY = "whet.preprocess"  # in the model's metadata: what `postprocess` needs to scale boxes back
CROP = 0.875  # the part of the shorter side that a centre crop takes (torchvision: 224 of 256)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

Fit = Literal["stretch", "crop", "letterbox", "none"]


@dataclass(frozen=True)
class ImageSteps:
    """How frames become the network's input.

    fit: "stretch" resizes to the network's size; "crop" resizes the shorter side to `shorter` (None: the network's side
    / 0.875) and takes the centre; "letterbox" resizes to what fits in, and pads on both sides with pad_value; "none"
    takes frames of the network's size.
    resample: "bilinear", "bicubic" or "nearest"; like: "pillow" or "opencv", whose pixels come out.
    color: the order of the frames' channels; model_color: the one that the network expects.
    Pixels p of 0 to 255 become (p * scale - mean) / std; mean and std are one number, or one for each channel of the
    network's order.
    """

    fit: Fit = "stretch"
    resample: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    like: Literal["pillow", "opencv"] = "pillow"
    shorter: int | None = None
    pad_value: float = 114.0
    color: Literal["rgb", "bgr"] = "rgb"
    model_color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        choices = {"fit": ("stretch", "crop", "letterbox", "none"), "resample": ("bilinear", "bicubic", "nearest"),
                   "like": ("pillow", "opencv"), "color": ("rgb", "bgr"), "model_color": ("rgb", "bgr")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"no {name} {getattr(self, name)!r}", why=f"there are {', '.join(known)}",
                                 do="choose one of them")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise InputError(f"{len(getattr(self, name))} numbers for {name}", why="an image has 3 channels",
                                 do="give one number, or three")
        if 0 in self.std:
            raise InputError("a std of 0", why="pixels are divided by it", do="give what the network was trained with")
        if self.shorter is not None and self.shorter < 1:
            raise InputError(f"a shorter side of {self.shorter}", do="give at least 1")


PRESETS = {
    # torchvision's ImageNet weights: Resize(256), CenterCrop(224), ToTensor, Normalize
    "imagenet": ImageSteps(fit="crop", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # ultralytics' LetterBox, then / 255
    "yolo": ImageSteps(fit="letterbox", like="opencv"),
}


def preset(name: str, **changes: Any) -> ImageSteps:
    """Named steps ("imagenet", "yolo"), with some of them changed. InputError for another name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return replace(PRESETS[name], **changes)


def preprocess(model: OnnxModel, steps: ImageSteps | str = "imagenet", *, input_name: str | None = None,
               size: tuple[int, int] | None = None, frame: tuple[int | None, int | None] = (None, None),
               name: str = "image") -> OnnxModel:
    """The model with image steps in front: its input `input_name` is replaced by `name`, uint8 [N, H, W, 3].

    input_name: None takes the only input that can be an image. size: the network's (height, width), where its input
    does not say. frame: the frames' (height, width); None leaves one to run time, at some cost.

    Resized pixels agree with Pillow's or OpenCV's to 1 of 255. InputError where the input is not an image of 3 channels
    in float, UnsupportedError where the model cannot be brought to opset 18.
    """
    if isinstance(steps, str):
        steps = preset(steps)
    out = OnnxModel.open(model)
    if out.opset() < OPSET:
        was = out.opset()
        convert(out, OPSET)
        out.notes.append(f"opset {was} converted to {OPSET}: Resize with antialias needs it")
    target = _image_input(out, input_name)
    channels_last, height, width = _network_size(target, size, out.name)
    batch = (dims(target.type) or [None])[0]
    source = [frame[0], frame[1]]
    if steps.fit == "none":
        source = [height, width]
    if any(s is not None and s < 1 for s in source):
        raise InputError(f"frames of {frame[0]} x {frame[1]}", do="give sizes of at least 1")

    old = target.name
    n = Nodes(out, "pre")
    if name in n.fresh.taken and name != old:
        raise InputError(f"there is a tensor {name!r} already", where=out.name, do="give the new input another name")
    hidden = n.fresh(f"{old}_pixels")
    x = name
    if steps.color != steps.model_color:
        x = n.add("Slice", x, n.ints(2), n.ints(-4), n.ints(3), n.ints(-1))
    x = n.add("Transpose", n.add("Cast", x, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    where = place(n, steps, name, source, (height, width))
    x = _resized(n, steps, x, where, source)
    x = _fitted(n, steps, x, where, (height, width))
    mean, std = (np.array(v, np.float64) for v in (steps.mean, steps.std))
    a, b = steps.scale / std, -mean / std
    if np.any(a != 1):
        x = n.add("Mul", x, n.const(a.reshape(-1, 1, 1), np.float32))
    if np.any(b != 0):
        x = n.add("Add", x, n.const(b.reshape(-1, 1, 1), np.float32))
    if channels_last:
        x = n.add("Transpose", x, perm=[0, 2, 3, 1])
    code = target.type.tensor_type.elem_type
    if code != TensorProto.FLOAT:
        x = n.add("Cast", x, to=code)
    n.named(x, hidden)

    rename_reads(out.proto.graph, {old: hidden})
    target.name = name
    target.type.CopyFrom(tensor_type(TensorProto.UINT8, [batch if batch is not None else "batch",
                                                         source[0] if source[0] is not None else f"{name}_height",
                                                         source[1] if source[1] is not None else f"{name}_width", 3]))
    n.prepend()
    described = {"image": name, "fit": steps.fit, "frame": source, "size": [height, width],
                 "shorter": _shorter(steps, (height, width))}
    _describe(out, described)
    sort(out.proto.graph)
    infer(out.proto, forget=True)
    check_valid(out.proto)
    out.notes.append(f"{name!r}: uint8 frames instead of {old!r}, {len(n.nodes)} nodes in front")
    return out


@dataclass(frozen=True)
class Placement:
    """Where frames come to lie: their size after the resize, and how much is then cut (crop) or padded before them."""

    height: Num
    width: Num
    top: Num
    left: Num
    frame: tuple[Num, Num]


def place(n: Nodes, steps: ImageSteps, image: str, frame: Sequence[int | None], size: tuple[int, int]) -> Placement:
    """Sizes in whole pixels, as torchvision ("crop") and ultralytics ("letterbox") compute them.

    crop:      the shorter side becomes s, the longer floor(s * longer / shorter); then round((side - crop) / 2) is cut.
    letterbox: both sides times min(H / h, W / w), rounded; half of what is missing, rounded down, is padded before.
    """
    h, w = n.size(image, 1, frame[0]), n.size(image, 2, frame[1])
    zero, high, wide = (Num(n, v) for v in (0, *size))
    match steps.fit:
        case "crop":
            short = h.least(w)
            s = _shorter(steps, size)
            nh, nw = h * s // short, w * s // short
            two = Num(n, 2)
            return Placement(nh, nw, round_ratio(nh - size[0], two), round_ratio(nw - size[1], two), (h, w))
        case "letterbox":
            nh = round_ratio(h * size[1], w).least(high).most(1)
            nw = round_ratio(w * size[0], h).least(wide).most(1)
            return Placement(nh, nw, (high - nh) // 2, (wide - nw) // 2, (h, w))
    return Placement(high, wide, zero, zero, (h, w))


def _shorter(steps: ImageSteps, size: tuple[int, int]) -> int:
    return max(steps.shorter or round(max(size) / CROP), *size)


def _resized(n: Nodes, steps: ImageSteps, x: str, to: Placement, frame: Sequence[int | None]) -> str:
    """Frames as float NCHW resized; whole numbers of 0 to 255, as an image library would store them."""
    if (to.height.value, to.width.value) == tuple(frame):
        return x
    options: dict[str, Any] = {"axes": [2, 3]}
    match steps.resample, steps.like:
        case "nearest", "pillow":
            options |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}
        case "nearest", _:
            options |= {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        case "bilinear", "pillow":
            options |= {"mode": "linear", "antialias": 1, "exclude_outside": 1}
        case "bilinear", _:
            options |= {"mode": "linear"}
        case "bicubic", "pillow":
            options |= {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5}
        case _:
            options |= {"mode": "cubic", "cubic_coeff_a": -0.75}
    x = n.add("Resize", x, "", "", n.vector([to.height, to.width]), **options)
    if steps.resample != "nearest":
        x = n.add("Round", x)
    if steps.resample == "bicubic":
        x = n.add("Clip", x, n.const(0, np.float32), n.const(255, np.float32))
    return x


def _fitted(n: Nodes, steps: ImageSteps, x: str, to: Placement, size: tuple[int, int]) -> str:
    """The centre of resized frames, or frames with a border, of the network's size."""
    if steps.fit == "crop":
        ends = [to.top + size[0], to.left + size[1]]
        x = n.add("Slice", x, n.vector([to.top, to.left]), n.vector(ends), n.ints(2, 3))
    elif steps.fit == "letterbox":
        pads = [to.top, to.left, size[0] - to.height - to.top, size[1] - to.width - to.left]
        if all(p.value == 0 for p in pads):
            return x
        x = n.add("Pad", x, n.vector(pads), n.const(steps.pad_value, np.float32), n.ints(2, 3))
    else:
        return x
    if any(isinstance(v.value, str) for v in (to.top, to.left, to.height, to.width)):
        x = n.add("Reshape", x, n.ints(0, 3, *size))  # so that the network's shapes are known
    return x


def _image_input(model: OnnxModel, name: str | None) -> ValueInfoProto:
    """The input that takes images. InputError where there is none, or several and no name is given."""
    there = {v.name: v for v in inputs(model.proto)}
    if name is not None:
        if name not in there:
            raise unknown("input", name, there, model.name)
        found = [there[name]]
    else:
        found = [v for v in there.values() if len(dims(v.type) or ()) == 4 and v.type.tensor_type.elem_type in FLOATS]
        if len(found) != 1:
            raise InputError(f"{len(found)} inputs of the model can be images", where=model.name,
                             why=f"its inputs are {', '.join(there)}", do="name the one with --input")
    v = found[0]
    if v.type.tensor_type.elem_type not in FLOATS:
        kind = TensorProto.DataType.Name(v.type.tensor_type.elem_type)
        raise InputError(f"the input {v.name!r} is of type {kind}", where=model.name,
                         why="normalized pixels are float, float16 or bfloat16", do="name another input")
    return v


def _network_size(v: ValueInfoProto, size: tuple[int, int] | None, where: str) -> tuple[bool, int, int]:
    """(channels last, height, width) of the network's input."""
    shape = dims(v.type)
    if shape is None or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise InputError(f"the input {v.name!r} of shape {shape} is not an image of 3 channels", where=where,
                         why="that is [N, 3, H, W] or [N, H, W, 3]", do="set its shape with whet surgeon set-shapes")
    last = shape[1] != 3
    own = shape[1:3] if last else shape[2:]
    if size is not None:
        if any(isinstance(d, int) and d != s for d, s in zip(own, size)) or min(size) < 1:
            raise InputError(f"a size of {size[0]} x {size[1]}", where=where,
                             why=f"the input {v.name!r} takes {own[0]} x {own[1]}", do="leave the size out")
        return last, *size
    if not all(isinstance(d, int) for d in own):
        raise InputError(f"the network's size is not fixed: {v.name!r} has the shape {shape}", where=where,
                         do="give it: --size 224x224")
    return last, int(own[0] or 0), int(own[1] or 0)


def _describe(model: OnnxModel, described: dict[str, Any]) -> None:
    for i in reversed(range(len(model.proto.metadata_props))):
        if model.proto.metadata_props[i].key == KEY:
            del model.proto.metadata_props[i]
    model.proto.metadata_props.add(key=KEY, value=json.dumps(described, sort_keys=True))


def described(model: OnnxModel) -> dict[str, Any] | None:
    """What `preprocess` noted about a model's image input; None where it was not used."""
    text = next((p.value for p in model.proto.metadata_props if p.key == KEY), None)
    return None if text is None else json.loads(text)
