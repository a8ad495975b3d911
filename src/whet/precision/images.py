"""Images as samples: reading, resizing, cropping, normalizing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError, MissingExtraError
from whet.precision.specs import InputSpec

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
MOST_PIXELS = 100_000_000  # of one image; more is taken for a decompression bomb
LAYOUTS = ("nchw", "nhwc")
COLOURS = ("rgb", "bgr", "gray")
FILTERS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """From an image to a sample, in this order.

    resize: the shorter side, or (height, width); 0: not resized.  filter: nearest, bilinear, bicubic.
    crop:   of the centre, side or (height, width); 0: the whole.
    scale:  pixels (0..255) are multiplied by it; then mean is subtracted and the result divided by std, one number per
            channel or one for all.
    colour: rgb, bgr, gray.  layout: nchw or nhwc.
    """

    resize: int | tuple[int, int] = 0
    crop: int | tuple[int, int] = 0
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colour: str = "rgb"
    layout: str = "nchw"
    filter: str = "bilinear"

    def __post_init__(self) -> None:
        channels = 1 if self.colour == "gray" else 3
        sizes = [n for v in (self.resize, self.crop) for n in (v if isinstance(v, tuple) else (v,))]
        faults = [
            (self.colour not in COLOURS, f"colour={self.colour}", f"one of {', '.join(COLOURS)}"),
            (self.layout not in LAYOUTS, f"layout={self.layout}", f"one of {', '.join(LAYOUTS)}"),
            (self.filter not in FILTERS, f"filter={self.filter}", f"one of {', '.join(FILTERS)}"),
            (any(not 0 <= n <= 1 << 16 for n in sizes), f"resize={self.resize}, crop={self.crop}", "sizes up to 65536"),
            (len(self.mean) not in (1, channels), f"mean={self.mean}", f"1 or {channels} numbers"),
            (len(self.std) not in (1, channels), f"std={self.std}", f"1 or {channels} numbers"),
            (not all(map(math.isfinite, (self.scale, *self.mean, *self.std))), "scale, mean, std", "finite numbers"),
            (0 in self.std, f"std={self.std}", "numbers other than 0"),
        ]
        for wrong, what, want in faults:
            if wrong:
                raise InputError(f"preprocessing: {what}", do=f"give {want}")

    def key(self) -> str:
        """The options that are not the defaults, as `parse` reads them: equal for equal preprocessing, in every run."""
        parts = [f"{f.name}={_show(getattr(self, f.name))}" for f in fields(self) if getattr(self, f.name) != f.default]
        return "image:" + ",".join(parts)

    @staticmethod
    def parse(text: str) -> Preprocess:
        """`resize=256,crop=224x224,mean=0.485/0.456/0.406,colour=bgr`, or `imagenet`, which may be followed by others.

        InputError for an unknown option or value.
        """
        out = Preprocess()
        for i, part in enumerate(p for p in text.removeprefix("image:").split(",") if p):
            if part == "imagenet" and i == 0:
                out = imagenet()
                continue
            name, _, value = part.partition("=")
            try:
                out = replace(out, **{name: _OPTIONS[name](value)})
            except KeyError:
                raise InputError(f"unknown preprocessing option {part!r}", do=f"one of {', '.join(_OPTIONS)}") from None
            except (ValueError, ZeroDivisionError) as e:
                raise InputError(f"preprocessing: {part!r}", why=str(e), do="for example resize=256,crop=224") from e
        return out

    @staticmethod
    def fitting(spec: InputSpec) -> Preprocess:
        """For a model's image input: its layout, colours and size (whole image, stretched), scaled to 0..1."""
        shape = [e.best for e in spec.shape]
        if len(shape) not in (3, 4):
            raise InputError("images do not fit this model", where=spec.name, why=f"its input is {spec}",
                             do="give arrays (.npz)")
        layout = "nchw" if shape[-3] in (1, 3) else "nhwc" if shape[-1] in (1, 3) else ""
        if not layout:
            raise InputError("images do not fit this model", where=spec.name,
                             why=f"its input is {spec}: no dimension of 1 or 3 channels", do="give arrays (.npz)")
        c, h, w = shape[-3:] if layout == "nchw" else (shape[-1], shape[-3], shape[-2])
        return Preprocess(resize=(h, w), colour="gray" if c == 1 else "rgb", layout=layout)

    def apply(self, image: Any) -> np.ndarray:
        """A Pillow image as one float32 sample, [C, H, W] or [H, W, C]."""
        from PIL import Image

        kinds = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
                 "bicubic": Image.Resampling.BICUBIC}
        image = image.convert("L" if self.colour == "gray" else "RGB")
        if self.resize:
            w, h = image.size
            if isinstance(self.resize, tuple):
                size = self.resize[::-1]
            else:
                ratio = self.resize / min(w, h)
                size = (max(round(w * ratio), 1), max(round(h * ratio), 1))
            image = image.resize(size, kinds[self.filter])
        if self.crop:
            h, w = self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
            left, top = round((image.size[0] - w) / 2), round((image.size[1] - h) / 2)
            if left < 0 or top < 0:
                raise InputError(f"an image of {image.size[1]} by {image.size[0]} pixels",
                                 why=f"it is too small for a crop of {h} by {w}", do="resize first: resize=256")
            image = image.crop((left, top, left + w, top + h))
        a: np.ndarray = np.asarray(image, np.float32)
        a = a[..., None] if a.ndim == 2 else a
        a = a[..., ::-1] if self.colour == "bgr" else a
        a = (a * np.float32(self.scale) - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(a.transpose(2, 0, 1) if self.layout == "nchw" else a)


def imagenet(size: int = 224) -> Preprocess:
    """As torchvision's classifiers are evaluated."""
    return Preprocess(resize=round(size / 0.875), crop=size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def read(path: Path, preprocess: Preprocess) -> np.ndarray:
    """One image file as a sample. InputError if it is no image, MissingExtraError without Pillow."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise MissingExtraError.for_package("Pillow", "images", "reading image files") from e
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MOST_PIXELS:
                raise InputError("the image is too large", where=str(path),
                                 why=f"{image.size[0]} by {image.size[1]} pixels", do=f"at most {MOST_PIXELS} pixels")
            return preprocess.apply(image)
    except InputError as e:
        raise InputError(e.what, where=str(path), why=e.why, do=e.do) from e
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as e:
        raise InputError("the image cannot be read", where=str(path), why=str(e), do="remove it, or convert it") from e


def _size(text: str) -> int | tuple[int, int]:
    """`224`, or `224x192`: height and width."""
    h, x, w = text.partition("x")
    return (int(h), int(w)) if x else int(h)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(n) for n in text.split("/"))


def _fraction(text: str) -> float:
    """`0.5`, or `1/255`."""
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "resize": _size, "crop": _size, "scale": _fraction, "mean": _numbers, "std": _numbers, "colour": str, "layout": str,
    "filter": str}


def _show(v: object) -> str:
    if isinstance(v, tuple):
        return ("x" if isinstance(v[0], int) else "/").join(map(repr, v))
    return v if isinstance(v, str) else repr(v)
