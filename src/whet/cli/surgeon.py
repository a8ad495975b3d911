"""`whet surgeon ...`: models cut, mended and cleaned; image steps put before and detections behind them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from whet.errors import InputError

if TYPE_CHECKING:
    from whet.tools.surgeon import OnnxModel

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown",
                  help="Cut, mend and clean ONNX models; put image steps before and detections behind them.\n\n"
                       "Every command reads a model and writes another, which is valid ONNX.")

Source = Annotated[Path, Argument(help="An ONNX model.", show_default=False)]
Output = Annotated[Path, Option("-o", "--output", help="Where to write the new model.", show_default=False)]
External = Annotated[bool | None, Option("--external/--one-file", help="Weights in OUT.onnx.data beside it, or all in "
                                                                       "one file. Default: as the model has them.")]
Names = Annotated[list[str] | None, Option(metavar="NAME,...")]
Pairs = Annotated[list[str] | None, Option(metavar="OLD=NEW")]


@app.command()
def extract(
    model: Source, output: Output,
    outputs: Annotated[list[str], Option("--outputs", metavar="NAME,...", help="Tensors that the part computes.",
                                         show_default=False)],
    inputs: Annotated[list[str] | None, Option("--inputs", metavar="NAME,...", help="Tensors that it is given. "
                                               "Default: the model's own inputs.")] = None,
    shapes: Annotated[list[str] | None, Option("--shapes", metavar="NAME:DIMS", help="Shapes of new inputs, as "
                                               "a:1x64, or a:batch,64 with names.")] = None,
    types: Annotated[list[str] | None, Option("--types", metavar="NAME:TYPE", help="Element types of new inputs that "
                                              "cannot be inferred, as a:float32.")] = None,
    external: External = None,
) -> None:
    """Make a model of the part between some tensors.

    Example: whet surgeon extract resnet.onnx -o head.onnx --inputs layer4_out --outputs logits
    """
    from whet.tools import surgeon

    m = _open(model, output)
    part = surgeon.extract(m, _names(outputs), _names(inputs) if inputs else None, _shapes(shapes),
                           dict(_pairs(types, ":")))
    _save(part, output, external)


@app.command()
def sanitize(
    model: Source, output: Output,
    fold: Annotated[bool, Option(help="Compute what depends on no input.")] = True,
    max_growth: Annotated[int, Option(min=0, help="Bytes that the model may grow by folding.")] = 1 << 20,
    opset: Annotated[int | None, Option(help="Convert to this version of ONNX's operators.")] = None,
    inline: Annotated[bool, Option(help="Replace local functions by their nodes.")] = True,
    drop_inputs: Annotated[bool, Option("--drop-inputs", help="Remove inputs that nothing reads.")] = False,
    external: External = None,
) -> None:
    """Make a model plain: fold constants, remove what is dead, double or does nothing, infer shapes, sort.

    Example: whet surgeon sanitize model.onnx -o clean.onnx --opset 21
    """
    from whet.tools import surgeon

    m = _open(model, output)
    _save(surgeon.sanitize(m, fold=fold, max_growth=max_growth, opset=opset, inline=inline, drop_inputs=drop_inputs),
          output, external)


@app.command()
def insert(
    model: Source, output: Output,
    inputs: Annotated[list[str], Option("--inputs", metavar="NAME,...", help="Tensors that it reads.",
                                        show_default=False)],
    outputs: Annotated[list[str], Option("--outputs", metavar="NAME,...", help="Tensors that it computes: what "
                                         "computed them before is replaced.", show_default=False)],
    op: Annotated[str, Option(help="An operator, as Relu or com.microsoft::Gelu.")] = "",
    part: Annotated[Path | None, Option("--model", help="Or a whole model.")] = None,
    attributes: Annotated[list[str] | None, Option("--attr", metavar="NAME=VALUE", help="An attribute of the operator, "
                                                   "as alpha=0.5 or axes=[0,1].")] = None,
    name: Annotated[str, Option(help="The node's name.")] = "",
    external: External = None,
) -> None:
    """Put a node, or a whole model, between tensors.

    Examples: whet surgeon insert m.onnx -o n.onnx --op Relu --inputs x --outputs x

    whet surgeon insert m.onnx -o n.onnx --model adapter.onnx --inputs hidden --outputs logits
    """
    from whet.tools import surgeon

    if bool(op) == (part is not None):
        raise InputError("whet surgeon insert takes an operator or a model", do="give --op or --model")
    m = _open(model, output)
    domain, _, kind = op.rpartition("::")
    what: Any = kind if part is None else surgeon.OnnxModel.open(part)
    _save(surgeon.insert(m, what, _names(inputs), _names(outputs),
                         {k: _value(v) for k, v in _pairs(attributes)}, domain, name), output, external)


@app.command()
def prune(
    model: Source, output: Output,
    nodes: Annotated[list[str] | None, Option("--nodes", metavar="NAME,...", help="Nodes to take out: each output "
                                              "becomes the first input of its type and shape.")] = None,
    reconnect: Annotated[list[str] | None, Option("--reconnect", metavar="TENSOR=OTHER", help="Readers of the one "
                                                  "tensor get the other instead.")] = None,
    outputs: Annotated[list[str] | None, Option("--outputs", metavar="NAME,...", help="Outputs to drop.")] = None,
    external: External = None,
) -> None:
    """Take nodes, branches or outputs out of a model, and what only they needed.

    Example: whet surgeon prune m.onnx -o n.onnx --nodes dropout_3 --outputs aux_logits
    """
    from whet.tools import surgeon

    m = _open(model, output)
    _save(surgeon.prune(m, _names(nodes), dict(_pairs(reconnect)), _names(outputs)), output, external)


@app.command()
def rename(
    model: Source, output: Output,
    tensors: Annotated[list[str] | None, Option("--tensor", metavar="OLD=NEW", help="A tensor: an input, output, "
                                                "weight or one between.")] = None,
    nodes: Annotated[list[str] | None, Option("--node", metavar="OLD=NEW", help="A node.")] = None,
    dims: Annotated[list[str] | None, Option("--dim", metavar="OLD=NEW", help="A named dimension.")] = None,
    pattern: Annotated[bool, Option("--pattern", help="The old names are regular expressions, replaced where they "
                                                      "match.")] = False,
    external: External = None,
) -> None:
    r"""Rename tensors, nodes and dimensions.

    Examples: whet surgeon rename m.onnx -o n.onnx --tensor input.1=image --dim N=batch

    whet surgeon rename m.onnx -o n.onnx --pattern --tensor '^model\.(.*)=\1'
    """
    from whet.tools import surgeon

    m = _open(model, output)
    _save(surgeon.rename(m, dict(_pairs(tensors)), dict(_pairs(nodes)), dict(_pairs(dims)), pattern=pattern),
          output, external)


@app.command("set-shapes")
def set_shapes(
    model: Source, output: Output,
    shapes: Annotated[list[str] | None, Option("--shapes", metavar="NAME:DIMS", help="An input's shape, as "
                                               "x:1x3x224x224, or x:batch,3,224,224 with names.")] = None,
    dims: Annotated[list[str] | None, Option("--dim", metavar="NAME=SIZE", help="A named dimension, wherever it "
                                             "occurs: its size, or another name.")] = None,
    external: External = None,
) -> None:
    """Fix or name the dimensions of inputs, and infer all other shapes anew.

    Example: whet surgeon set-shapes m.onnx -o n.onnx --shapes x:1x3x224x224 --dim sequence=128
    """
    from whet.tools import surgeon

    m = _open(model, output)
    sizes: dict[str, int | str] = {k: int(v) if v.isdigit() else v for k, v in _pairs(dims)}
    _save(surgeon.set_shapes(m, _shapes(shapes), sizes), output, external)


@app.command("strip-weights")
def strip_weights(
    model: Source, output: Output,
    weights: Annotated[Path | None, Option("--weights", help="Where the weights go. Default: "
                                                             "OUT.onnx.weights.")] = None,
) -> None:
    """Write a model without its weights, and these into a file beside it, with hashes.

    Example: whet surgeon strip-weights m.onnx -o thin.onnx --weights m.weights
    """
    from whet.tools import surgeon

    m = _open(model, output)
    sidecar = weights or output.with_name(output.name + ".weights")
    surgeon.strip_weights(m, output, sidecar)
    _print(f"{sidecar}: {sidecar.stat().st_size} bytes of weights", f"{output}: the model without them")


@app.command("restore-weights")
def restore_weights(
    model: Source, output: Output,
    weights: Annotated[Path | None, Option("--weights", help="The file with the weights. Default: beside the model, "
                                                             "under its own name.")] = None,
    external: External = None,
) -> None:
    """Put the weights back into a stripped model. They are checked: others are refused.

    Example: whet surgeon restore-weights thin.onnx -o m.onnx --weights m.weights
    """
    from whet.cli.files import check_output
    from whet.tools import surgeon

    check_output(output, "the model")
    _save(surgeon.restore_weights(model, weights), output, external)


@app.command()
def preprocess(
    model: Source, output: Output,
    preset: Annotated[str, Option(help="imagenet (shorter side to 256, centre 224, mean and std) or yolo (letterbox, "
                                       "/ 255); the options below change parts of it.")] = "",
    input_name: Annotated[str | None, Option("--input", help="The network's image input. Default: the only "
                                                             "one.")] = None,
    name: Annotated[str, Option(help="What the new input is called.")] = "image",
    size: Annotated[str, Option(metavar="HxW", help="The network's size, where its input does not say.")] = "",
    frame: Annotated[str, Option(metavar="HxW", help="The frames' size, where it is fixed. Default: any.")] = "",
    fit: Annotated[str | None, Option(help="stretch, crop, letterbox or none.")] = None,
    resample: Annotated[str | None, Option(help="bilinear, bicubic or nearest.")] = None,
    like: Annotated[str | None, Option(help="Whose pixels: pillow or opencv.")] = None,
    shorter: Annotated[int | None, Option(help="With crop: what the shorter side is resized to.")] = None,
    pad_value: Annotated[float | None, Option(help="With letterbox: the border, 0 to 255.")] = None,
    color: Annotated[str | None, Option(help="The frames' channels: rgb or bgr.")] = None,
    model_color: Annotated[str | None, Option(help="The network's channels: rgb or bgr.")] = None,
    scale: Annotated[float | None, Option(help="Pixels become (p * scale - mean) / std.")] = None,
    mean: Annotated[str | None, Option(metavar="M,M,M", help="One number, or one for each channel.")] = None,
    std: Annotated[str | None, Option(metavar="S,S,S", help="One number, or one for each channel.")] = None,
    external: External = None,
) -> None:
    """Put image steps in front of a network: it then takes uint8 frames [N, H, W, 3].

    Examples: whet surgeon preprocess resnet.onnx -o cam.onnx --preset imagenet

    whet surgeon preprocess yolo.onnx -o cam.onnx --preset yolo --color bgr --frame 720x1280
    """
    from dataclasses import replace

    from whet.tools import surgeon

    changes: dict[str, Any] = {"fit": fit, "resample": resample, "like": like, "shorter": shorter,
                               "pad_value": pad_value, "color": color, "model_color": model_color, "scale": scale,
                               "mean": _floats(mean), "std": _floats(std)}
    changes = {k: v for k, v in changes.items() if v is not None}
    steps = surgeon.preset(preset, **changes) if preset else replace(surgeon.ImageSteps(), **changes)
    m = _open(model, output)
    _save(surgeon.preprocess(m, steps, input_name=input_name, size=_size(size), frame=_size(frame) or (None, None),
                             name=name), output, external)


@app.command()
def postprocess(
    model: Source, output: Output,
    kind: Annotated[str, Option(help="classify, segment or detect.", show_default=False)],
    source: Annotated[str | None, Option("--output-name", help="The network's output. Default: the one that "
                                                               "fits.")] = None,
    top: Annotated[int, Option(min=0, help="classify: how many classes; 0: all probabilities.")] = 5,
    softmax: Annotated[bool, Option(help="classify: turn logits into probabilities.")] = True,
    argmax: Annotated[bool, Option("--argmax", help="classify: only the best class.")] = False,
    resize: Annotated[str, Option(help="segment: logits, classes or none.")] = "logits",
    size: Annotated[str, Option(metavar="HxW", help="segment: the map's size. Default: the frame's.")] = "",
    boxes: Annotated[str, Option(help="detect: cxcywh or xyxy.")] = "cxcywh",
    layout: Annotated[str, Option(help="detect: rows [B, N, 4 + C], columns [B, 4 + C, N], or auto.")] = "auto",
    objectness: Annotated[bool, Option("--objectness", help="detect: a score of its own before the classes'.")] = False,
    sigmoid: Annotated[bool, Option("--sigmoid", help="detect: scores are logits.")] = False,
    normalized: Annotated[bool, Option("--normalized", help="detect: boxes are in parts of the image.")] = False,
    score_threshold: Annotated[float, Option(help="detect: scores up to this are dropped.")] = 0.25,
    iou_threshold: Annotated[float, Option(help="detect: boxes that overlap a better one by more are dropped.")] = 0.45,
    max_detections: Annotated[int, Option(min=1, help="detect: boxes of an image.")] = 300,
    multi_label: Annotated[bool, Option("--multi-label", help="detect: a box may have several classes.")] = False,
    agnostic: Annotated[bool, Option("--agnostic", help="detect: boxes suppress those of other classes.")] = False,
    padded: Annotated[bool, Option(help="detect: outputs of fixed size, with a count.")] = True,
    external: External = None,
) -> None:
    """Put what comes behind a network into its graph: top classes, class maps, boxes in the frame's pixels.

    Examples: whet surgeon postprocess resnet.onnx -o top.onnx --kind classify --top 3

    whet surgeon postprocess cam.onnx -o boxes.onnx --kind detect --score-threshold 0.4
    """
    from whet.tools import surgeon

    m = _open(model, output)
    options: dict[str, Any]
    match kind:
        case "classify":
            done = surgeon.classify(m, output=source, softmax=softmax, top=top or None, argmax=argmax)
        case "segment":
            options = {"resize": resize, "size": _size(size)}
            done = surgeon.segment(m, output=source, **options)
        case "detect":
            options = {"boxes": boxes, "layout": layout}
            done = surgeon.detect(m, output=source, objectness=objectness, sigmoid=sigmoid, normalized=normalized,
                                  score_threshold=score_threshold, iou_threshold=iou_threshold,
                                  max_detections=max_detections, multi_label=multi_label, agnostic=agnostic,
                                  padded=padded, **options)
        case _:
            raise InputError(f"no kind {kind!r}", why="there are classify, segment, detect", do="choose one of them")
    _save(done, output, external)


# -- what the commands share ---------------------------------------------------------------------


def _open(model: Path, output: Path) -> OnnxModel:
    from whet.cli.files import check_output
    from whet.tools import surgeon

    check_output(output, "the model")
    return surgeon.OnnxModel.open(model)


def _save(model: OnnxModel, output: Path, external: bool | None) -> None:
    written = model.save(output, external=external)
    _print(*model.notes, *(f"{p} written, {p.stat().st_size} bytes" for p in written))


def _print(*lines: str) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def _names(texts: Iterable[str] | None) -> list[str]:
    return [part.strip() for t in texts or () for part in t.split(",")]


def _pairs(texts: Iterable[str] | None, sign: str = "=") -> list[tuple[str, str]]:
    """OLD=NEW, split at the last sign."""
    out = []
    for t in texts or ():
        old, found, new = t.rpartition(sign)
        if not found or not old:
            raise InputError(f"not a pair: {t!r}", why=f"a pair is written A{sign}B", do="see --help")
        out.append((old, new))
    return out


def _value(text: str) -> Any:
    """A number, a list of them, or a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _shapes(texts: Iterable[str] | None) -> dict[str, list[int | str | None]]:
    """NAME:1x3x224x224, or NAME:batch,3,?,width, where ? leaves a dimension open."""
    out: dict[str, list[int | str | None]] = {}
    for name, text in _pairs(texts, ":"):
        if "," in text or not text.replace("x", "").isdigit():
            parts = text.split(",") if text else []
        else:
            parts = text.split("x")
        if any(not p for p in parts):
            raise InputError(f"not a shape: {name}:{text}", why="a dimension is empty",
                             do="write x:1x3x224x224, or x:batch,3,224,224 with names, ? for an open one")
        out[name] = [int(p) if p.isdigit() else None if p == "?" else p for p in parts]
    return out


def _floats(text: str | None) -> tuple[float, ...] | None:
    """Numbers joined by commas."""
    try:
        return None if text is None else tuple(float(p) for p in text.split(","))
    except ValueError:
        raise InputError(f"not numbers: {text!r}", do="write them as 0.485,0.456,0.406") from None


def _size(text: str) -> tuple[int, int] | None:
    """HxW as (height, width); None for an empty text."""
    if not text:
        return None
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise InputError(f"not a size: {text!r}", do="write HEIGHTxWIDTH, as 720x1280")
    return int(parts[0]), int(parts[1])
