"""A quantized ONNX model from a float one: calibrated as for a plan, written with QuantizeLinear and DequantizeLinear.

The model computes what whet's own int8 plan does, and runs in other runtimes too.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whet.builder import Builder
from whet.errors import InputError
from whet.frontends import load_model, model_hash
from whet.ir.graph import Graph
from whet.precision.cache import Calibration
from whet.precision.export import to_onnx
from whet.precision.export.pairs import pair_movement
from whet.precision.insert import is_quantized, layers
from whet.precision.weight_only import Layer, compress
from whet.quantizing import Quantization, calibrated, coverage_lines, names_of, quantizer_of
from whet.targets.cpu.isa import named
from whet.targets.cpu.target import CpuTarget
from whet.tuning.cache import TimingCache, default_path

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, int, int], None]
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Quantized:
    """A quantized model and what was done to it.

    layers:      those whose products are of 8-bit codes now, by their names in the model.
    kept:        the other convolutions and matmuls, each with the reason.
    weights:     what became of each layer's weights, where weights alone were quantized.
    calibration: what was seen of the activations; None where weights alone were quantized.
    warnings:    what the data lack, in sentences.
    """

    model: onnx.ModelProto
    layers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    weights: list[Layer] = field(default_factory=list)
    calibration: Calibration | None = None
    warnings: list[str] = field(default_factory=list)


def quantize(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    calibration: Any = None,
    *,
    weights_only: str = "",
    group: int = 128,
    quantization: Quantization | None = None,
    float_layers: Iterable[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    profile: Mapping[str, Any] | None = None,
    threads: int | None = None,
    timing_cache: str | os.PathLike[str] | TimingCache | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Quantized:
    """Quantize a model and write it as ONNX.

    model:        path, bytes or `onnx.ModelProto`, of floats.
    calibration:  data, in any form that `whet.build` takes; or a `Calibration` made before.
    weights_only: `int8` or `int4`: the weights of products alone, activations stay floats; needs no data.
    group:        with it, rows of weights that share a scale; 0 for whole columns.
    quantization: method, number of samples, cache, preprocessing, codes of activations, preparation of weights.
    float_layers: layers, by their names in the model, that stay as they are.
    shapes:       {input: shape} fixes an input's dimensions, in the written model too.
    profile:      {input: (min, opt, max)} of dynamic dimensions, which calibration runs within.

    Every layer is quantized that can be, whether or not that is faster on this machine. The model is of opset 21, with
    the inputs, outputs and layers of the original by their names; batch norms are folded, patterns are merged.

    Raises ModelError, InputError, CacheError, TuningError.
    """
    if weights_only and weights_only not in BITS:
        raise InputError(f"weights_only={weights_only!r}", why="weights are stored in int8 or int4", do="choose one")
    o = quantization or Quantization()
    if calibration is not None:
        o = Quantization(**{**vars(o), "calibration": calibration})
    if not weights_only and not o.asked:
        raise InputError("int8 needs data to calibrate with", do="give some hundreds of samples (--calib DATA), a "
                         "calibration cache, or quantize the weights alone (--weights-only)")
    progress("reading the model", 0, 0)
    graph = load_model(model, shapes=shapes, profiles=[profile] if profile else None)  # type: ignore[list-item]
    target = CpuTarget(named("host"), threads or len(os.sched_getaffinity(0)))
    cache = timing_cache if isinstance(timing_cache, TimingCache) else TimingCache.open(timing_cache or default_path())
    builder = Builder(target, cache, 0, "fp32", {"fp32", "int8"}, sha256=model_hash(model),
                      fp32_layers=tuple(float_layers), progress=progress)
    (prepared,) = builder.prepare([graph])
    if is_quantized(prepared):
        raise InputError("the model is quantized already", where=graph.name, why="it has Q/DQ or integer operators",
                         do="build it as it is, or quantize the float model")
    kept = set(float_layers)
    _check_names(prepared, kept)
    if weights_only:
        rows = compress(prepared, BITS[weights_only], group, lambda n: bool(n.names & kept))
        progress("writing the model", 0, 0)
        return Quantized(to_onnx(prepared), weights=rows)
    return _calibrated(builder, prepared, o)


def _check_names(graph: Graph, given: set[str]) -> None:
    """InputError for a name that is no layer's."""
    there = {name for n in graph.nodes if n.op in ("conv", "matmul", "gather") for name in n.names}
    there |= {l.name for l in layers(graph)}
    for name in sorted(given - there):
        near = difflib.get_close_matches(name, sorted(there), 3, 0.5)
        raise InputError(f"there is no layer {name!r} to keep", do="whet inspect MODEL shows the layers",
                         why=f"names like it: {', '.join(near)}" if near else "no name is like it")


def _calibrated(builder: Builder, prepared: Graph, o: Quantization) -> Quantized:
    ready = calibrated(builder, [prepared], o)
    quantizer = quantizer_of(builder, ready, o)
    (graph,), done = quantizer.quantized()
    pair_movement(graph)
    builder.progress("writing the model", 0, 0)
    return Quantized(to_onnx(graph), done.quantized, done.kept, calibration=ready.seen,
                     warnings=[*ready.seen.warnings, *coverage_lines(ready.seen, o, names_of(prepared))])
