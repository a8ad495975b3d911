"""The main job, stage by stage: model -> graph -> passes -> regions -> tuning -> plan."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.builder import Builder, Progress, regenerate
from whet.command import asked as written
from whet.command import build_command
from whet.errors import InputError, UnsupportedError
from whet.frontends import load_model, model_hash
from whet.ir.graph import Graph
from whet.ir.symbolic import names
from whet.passes.manager import PREPARE
from whet.plan import Plan
from whet.precision.cache import Calibration
from whet.precision.insert import is_quantized
from whet.precision.names import NAMES, Chosen, choose
from whet.precision.quantizer import Quantizer
from whet.precision.weight_only import compress
from whet.quantizing import Quantization, calibration_of, checked, heed_overflow, quantize, searched
from whet.targets.base import Target
from whet.targets.cpu.target import CpuTarget
from whet.targets.cuda import device
from whet.targets.cuda.gpu import typical
from whet.targets.cuda.target import COMPAT, CudaTarget
from whet.tuning.cache import TimingCache, default_path
from whet.tuning.tuner import standing

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "build", "calibrate", "regenerate"]

Shapes = Mapping[str, Sequence[int]]
Profile = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]

PRECISIONS = NAMES


def build(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    precision: str | Iterable[str] = "fp32",
    force_precision: bool = False,
    fp32_layers: Iterable[str] = (),
    threads: int | None = None,
    shapes: Shapes | None = None,
    profiles: Sequence[Profile] | None = None,
    states: Mapping[str, str] | None = None,
    timing_cache: str | os.PathLike[str] | TimingCache | None = None,
    opt_level: int = 3,
    dump: str | os.PathLike[str] | None = None,
    isa: str = "host",
    hardware_compat: str = "exact",
    calibration: Any = None,
    evaluation: Any = None,
    metric: str = "divergence",
    max_drop: float | None = None,
    quantization: Quantization | None = None,
    weights: str | None = None,
    weight_group: int = 128,
    progress: Progress = lambda what, done, total: None,
) -> Plan:
    """Build a plan from a model.

    model:          path, bytes or `onnx.ModelProto`; or a `torch.nn.Module` with `example_inputs`.
    target:         `cpu`; `cuda` (this machine's GPU; `cuda:1` for another one), `cuda:sm_90` (any GPU of a capability,
                    without one here: nothing is tuned then).
    precision:      `fp32`, `tf32`, `fp16`, `bf16`, `int8`, `fp8`, `best`, or a set of them; fp32 is always allowed.
                    Those that the target lacks are named in the plan's note.
    force_precision: use the precision even where this CPU only emulates it; an error where the target lacks it.
    fp32_layers:    layers (as `whet inspect` or the model calls them) that stay in fp32: their products and results.
    threads:        that the plan is tuned for; default: the cores this process may use.
    shapes:         {input: shape} fixes an input's dimensions.
    profiles:       [{input: (min, opt, max)}, ...] for dynamic dimensions: each is tuned at its opt, and a run takes
                    the first that has its shapes. Instead of an input a dimension's name; for an input whose values
                    are a shape, the values.
    states:         {input: output} that a context keeps: the output is the next run's input. Where the output is the
                    input with something behind it (a key-value cache) it grows in place, without copies.
    timing_cache:   file (read and added to) or object; default: the user's cache.
    opt_level:      0 (trust the cost model) to 5 (measure everything).
    dump:           folder for the graph after each pass.
    calibration:    data for int8, fp8 and what fp16 cannot hold: a path, arrays by input name, batches
                    (`precision.data.open_data` lists the forms), or a `Calibration` made before. Models that are
                    quantized already (Q/DQ) need none.
    evaluation:     data, with labels where the metric needs them, that candidates are judged by.
    metric:         `top1`, `cosine`... (`measure.metrics`); without labels the outputs' `divergence` from fp32.
    max_drop:       what may be lost, in the metric's unit: the fastest plan within it is searched. What was found is
                    in the plan's evidence["precision"].
    quantization:   finer options; those above win over it where they are given.
    weights:        `int8` or `int4`: weights of large products are stored so, with a scale for every
                    `weight_group` rows (0: one per column), and widened inside the kernels: for decoders, which wait
                    for memory.
    isa:            `host`; `avx512_vnni`, `avx512`, `avx2_vnni`, `avx2` to build for less than this machine has
                    (tuned here).
    hardware_compat: for GPUs: `exact`, or `same-cc` for a plan that runs on every GPU of the capability: without
                    library calls, whose algorithms are those of one GPU and version.
    progress:       called with (what, done, total).

    Raises ModelError, InputError, UnsupportedError, TuningError, CacheError, AccuracyError, DeviceError.
    """
    asked = {precision} if isinstance(precision, str) else set(precision)
    hardware = _target(target, isa, threads, hardware_compat)
    chosen = choose(asked, hardware, force_precision)
    cache = timing_cache if isinstance(timing_cache, TimingCache) else TimingCache.open(timing_cache or default_path())

    progress("reading the model", 0, 0)
    source = _source(model, example_inputs)
    graphs = [_load(source, shapes, dict(p), states or {}) for p in profiles or [{}]]

    progress("optimizing the graph", 0, 0)
    builder = Builder(hardware, cache, opt_level, chosen.compute, chosen.allowed, chosen.note,
                      model_hash(source) if source is not None else "", states or {},
                      tuple(fp32_layers), Path(dump) if dump else None, progress, wide=chosen.wide, codes=chosen.codes)
    o = _quantization(quantization, calibration, evaluation, metric, max_drop, force_precision)
    builder.asked, builder.given_objects = written(
        model=model, target=target, precision=asked, hardware_compat=hardware_compat, isa=isa, shapes=shapes,
        profiles=profiles, states=states, opt_level=opt_level, force_precision=force_precision,
        threads=hardware.threads if hardware.name == "cpu" else None, fp32_layers=builder.fp32_layers, weights=weights,
        weight_group=weight_group if weights is not None else 128, timing_cache=None if isinstance(
            timing_cache, TimingCache) else timing_cache, **o.written())
    builder.given_objects += o.unwritten()
    if hardware.name == "cuda":
        builder.rebuild = build_command({k: v for k, v in builder.asked.items() if k != "timing_cache"},
                                        builder.given_objects)
    builder.ran("read", nodes=sum(len(g.nodes) for g in graphs), profiles=len(graphs))
    with standing(hardware):
        prepared = builder.prepare(graphs)
        builder.ran("clean", passes=len(PREPARE), nodes=sum(len(g.nodes) for g in prepared))
        return _planned(builder, prepared, asked, chosen, o, weights, weight_group)


def calibrate(model: str | os.PathLike[str] | bytes | onnx.ModelProto, quantization: Quantization, *,
              target: str = "cpu", precision: str | Iterable[str] = "int8", threads: int | None = None,
              shapes: Shapes | None = None, timing_cache: str | os.PathLike[str] | TimingCache | None = None,
              opt_level: int = 3, progress: Progress = lambda what, done, total: None) -> Calibration:
    """What calibration sees of a model, or with `quantization.share` of a part of the samples: parts that
    `precision.cache.joined` joins serve a `build` of the same target, precision and shapes. Other arguments and errors
    as of `build`."""
    hardware = _target(target, "host", threads, "exact")
    chosen = choose({precision} if isinstance(precision, str) else set(precision), hardware, False)
    cache = timing_cache if isinstance(timing_cache, TimingCache) else TimingCache.open(timing_cache or default_path())
    progress("optimizing the graph", 0, 0)
    builder = Builder(hardware, cache, opt_level, chosen.compute, chosen.allowed, chosen.note, model_hash(model),
                      progress=progress, wide=chosen.wide, codes=chosen.codes)
    with standing(hardware):
        (prepared,) = builder.prepare([_load(model, shapes, {}, {})])
        return calibration_of(builder, prepared, quantization)


def _planned(builder: Builder, prepared: list[Graph], asked: set[str], chosen: Chosen, o: Quantization,
             weights: str | None, weight_group: int) -> Plan:
    """The plan of prepared graphs, quantized and searched as was asked."""
    if o.max_drop is not None and o.evaluation is None and o.calibration is None:
        raise InputError("a budget without data to judge by", why=f"max_drop={o.max_drop:g}",
                         do="give evaluation data (--eval DATA)")
    if weights is not None:
        _compress(builder, prepared, weights, weight_group, builder.fp32_layers)
    if chosen.codes and o.asked:
        return quantize(builder, prepared, o)
    if chosen.compute == "fp16" and o.asked:
        heed_overflow(builder, prepared[0], o)
    if o.max_drop is not None:
        return searched(builder, Quantizer(builder, prepared, {}), None, o)
    unused = [c for c in chosen.codes if c == "fp8" or not is_quantized(prepared[0])]
    needed = [c for c in unused if c in asked]
    if needed:
        raise InputError(f"{' and '.join(needed)} needs data to calibrate with",
                         why="the model has no Q/DQ of its own",
                         do="give some hundreds of samples (--calib DATA), or a calibration cache")
    if unused:
        builder.note = _joined(builder.note, f"{' and '.join(unused)} was allowed but not used: no data to calibrate "
                               "with (--calib)")
    return checked(builder, prepared, o)


def _compress(builder: Builder, prepared: Sequence[Graph], weights: str, group: int, keep: Iterable[str]) -> None:
    """Store weights in fewer bits; what that did goes into the plan's info["precision"]["weights"]."""
    bits = {"int8": 8, "int4": 4}.get(weights)
    if bits is None:
        raise InputError(f"weights={weights!r}", why="weights are stored in int8 or int4", do="choose one")
    kept = set(keep)
    rows = [compress(g, bits, group, lambda n: bool(n.names & kept)) for g in prepared]
    builder.told["weights"] = [dataclasses.asdict(r) for r in rows[0]]
    builder.ran("compress", bits=bits, layers=sum(not r.reason for r in rows[0]))


def _quantization(o: Quantization | None, calibration: Any, evaluation: Any, metric: str, max_drop: float | None,
                  force: bool) -> Quantization:
    o = o or Quantization()
    given = {"calibration": calibration, "evaluation": evaluation, "max_drop": max_drop,
             "metric": None if metric == "divergence" else metric, "every_layer": force or None}
    return dataclasses.replace(o, **{k: v for k, v in given.items() if v is not None})


def _joined(*notes: str) -> str:
    return "; ".join(n for n in notes if n)


def _load(source: Any, shapes: Shapes | None, profile: dict[str, Any], states: Mapping[str, str]) -> Graph:
    """The model's graph for one profile. States begin empty: what is long in them may have the length 0."""
    graph = load_model(source, shapes=shapes, profiles=[profile] if profile else None)
    others = names(*(d for v in graph.inputs if v.name not in states for d in v.shape))
    own = {n for v in graph.inputs if v.name in states for d in v.shape for n in names(d)} - others
    empty = {n: (0, *graph.dims[n][1:]) for n in sorted(own) if graph.dims[n][0] > 0}
    if not empty or any(n in profile for n in (*empty, *states)):
        return graph
    return load_model(source, shapes=shapes, profiles=[{**profile, **empty}])


def _target(target: str, isa: str, threads: int | None, compat: str) -> Target:
    if compat not in COMPAT:
        raise InputError(f"hardware_compat={compat!r}", why=f"it is one of {', '.join(COMPAT)}", do="choose one")
    if target.split(":")[0] == "cuda":
        return _cuda(target, compat)
    if target != "cpu":
        raise UnsupportedError(f"no target {target!r}", why="this version builds for the CPU and for NVIDIA GPUs",
                               do="use 'cpu', 'cuda', or a capability such as 'cuda:sm_90'")
    if compat != "exact":
        raise InputError(f"hardware_compat={compat!r} for the CPU", why="it speaks of GPUs",
                         do="leave it out, or name a lesser instruction set (isa=)")
    return _cpu(isa, threads)


def _cuda(target: str, compat: str) -> CudaTarget:
    """This machine's GPU, or a capability: then there is nothing to tune on."""
    which = device.parse(target)
    if isinstance(which, tuple):
        return CudaTarget(typical(which), compat)
    from whet.runtime.cuda.libraries import versions

    device.require(which)  # before libraries are loaded
    return CudaTarget(device.require(which, versions() if compat == "exact" else {}), compat, which)


def _cpu(isa: str, threads: int | None) -> CpuTarget:
    from whet.targets.cpu.isa import named

    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"threads={threads}", why="a plan runs on 1 to 1024 threads", do="leave it out for all cores")
    return CpuTarget(named(isa), threads or len(os.sched_getaffinity(0)))


def _source(model: Any, example_inputs: Any) -> Any:
    if example_inputs is not None or type(model).__module__.split(".")[0] == "torch" or hasattr(model, "state_dict"):
        from whet.frontends.torch import export

        return export(model, example_inputs)
    return model
