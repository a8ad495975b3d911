"""`whet quantize`: a model with Q/DQ from a float one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from whet.cli import options
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.exporting import Quantized


MOST_WARNINGS = 8  # that are printed


def command(
    model: options.Model,
    output: Annotated[Path, Option("-o", "--output", help="Where to write the quantized model.", show_default=False)],
    calib: options.Calib = None,
    method: Annotated[str, Option("--method", help="How ranges are chosen: entropy, minmax, mse, percentile or "
                                                   "percentile:99.9.")] = "mse",
    activations: options.Activations = "",
    prepare: options.Prepare = None,
    samples: options.CalibSamples = None,
    preprocess: options.Preprocessing = None,
    calib_cache: options.CalibCache = None,
    weights_only: Annotated[str, Option("--weights-only", metavar="int8|int4", help="Quantize the weights of products "
                                        "alone: no data are needed, activations stay floats.")] = "",
    group: Annotated[int, Option("--group", min=0, help="With --weights-only: rows of weights that share a scale; 0 "
                                                        "for whole columns.")] = 128,
    keep: Annotated[list[str] | None, Option("--keep", metavar="LAYER", help="A layer that stays as it is. May be "
                                                                             "repeated.")] = None,
    shapes: options.Shapes = None,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    threads: options.Threads = None,
    timing_cache: options.TimingCacheFile = None,
    external: Annotated[bool | None, Option("--external/--one-file", help="Weights in OUT.onnx.data beside it, or all "
                                            "in one file. Default: by size.")] = None,
) -> None:
    """Write an ONNX model with 8-bit products (Q/DQ), for whet and other runtimes.

    Examples: whet quantize resnet.onnx -o resnet-int8.onnx --calib images --preprocess resize=256,crop=224

    whet quantize resnet.onnx -o resnet-int8.onnx --calib train.npz --method mse --activations i8

    whet quantize llm.onnx -o llm-int4.onnx --weights-only int4 --group 128

    All layers are quantized that can be; the others are listed with the reason. What calibration found is kept by
    --calib-cache, and the same cache serves whet build.
    """
    from whet.cli.files import check_output
    from whet.cli.precision import quantization
    from whet.cli.progress import build_progress
    from whet.cli.shapes import parse_profile, parse_shapes
    from whet.exporting import quantize
    from whet.tools.surgeon import OnnxModel

    check_output(output, "the model")
    if output.resolve() == model.resolve():
        raise InputError("the quantized model would replace the original", where=str(output), do="choose another name")
    if weights_only and calib is not None:
        raise InputError("--weights-only takes no data", do="leave --calib out, or --weights-only")
    asked = quantization(calib, calib_cache, method, samples, preprocess, activations, tuple(prepare or ()),
                         None, "divergence", None, False)
    profile = parse_profile(min_shapes or (), opt_shapes or (), max_shapes or ())
    with build_progress() as progress:
        done = quantize(model, weights_only=weights_only, group=group, quantization=asked, float_layers=keep or (),
                        shapes=parse_shapes(shapes or ()) or None, profile=profile, threads=threads,
                        timing_cache=timing_cache, progress=progress)
    written = OnnxModel.open(done.model).save(output, external=external)
    _tell(done)
    _print(*(f"{p} written, {p.stat().st_size} bytes" for p in written))


def _tell(done: Quantized) -> None:
    """What became of the layers."""
    if done.calibration is not None:
        _print(f"Calibrated with {done.calibration.samples} samples",
               *(f"  {w}" for w in done.warnings[:MOST_WARNINGS]))
        if len(done.warnings) > MOST_WARNINGS:
            _print(f"  and {len(done.warnings) - MOST_WARNINGS} more warnings")
        _print(f"INT8: {len(done.layers)} of {len(done.layers) + len(done.kept)} layers"
               + ("; not in INT8:" if done.kept else ""), *(f"  {name}: {why}" for name, why in done.kept.items()))
        return
    changed = [l for l in done.weights if not l.reason]
    before, after = (sum(getattr(l, at) for l in changed) for at in ("before", "after"))
    _print(f"Weights: {len(changed)} of {len(done.weights)} layers, {before} bytes become {after}"
           + ("; as they were:" if len(changed) < len(done.weights) else ""),
           *(f"  {l.layer}: {l.reason}" for l in done.weights if l.reason))


def _print(*lines: str) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
