"""`whet build`: from options, or from a configuration file with options beside it, to a plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whet.cli import failures, options
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.config import Build, Configuration
    from whet.plan import Plan

PRECISIONS = ("bf16", "int8", "tf32", "fp16", "fp8", "best")
# The options of `whet.yaml` that the command line calls otherwise.
RENAMED = {"evaluation": "eval", "fp32_layer": "fp32_layers"}
BOUNDS = ("min_shapes", "opt_shapes", "max_shapes")


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX model; with --config the name of a build.",
                                         show_default=False)] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the plan.",
                                                show_default=False)] = None,
    config: options.Config = None,
    target: options.Target = "cpu",
    hardware_compat: options.HardwareCompat = "exact",
    isa: options.Isa = "host",
    threads: options.Threads = None,
    bf16: options.Bf16 = False,
    int8: options.Int8 = False,
    tf32: options.Tf32 = False,
    fp16: options.Fp16 = False,
    fp8: options.Fp8 = False,
    best: options.Best = False,
    force_precision: options.ForcePrecision = False,
    fp32_layer: options.Fp32Layer = None,
    calib: options.Calib = None,
    calib_cache: options.CalibCache = None,
    calib_method: options.CalibMethod = "mse",
    calib_samples: options.CalibSamples = None,
    preprocess: options.Preprocessing = None,
    activations: options.Activations = "",
    prepare: options.Prepare = None,
    evaluation: options.Eval = None,
    metric: options.Metric = "divergence",
    max_drop: options.MaxDrop = None,
    report: options.Report = None,
    weights: options.Weights = None,
    weight_group: options.WeightGroup = 128,
    shapes: options.Shapes = None,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    profiles: options.Profiles = None,
    states: options.States = None,
    timing_cache: options.TimingCacheFile = None,
    opt_level: options.OptLevel = 3,
    dump: options.Dump = None,
    store: options.FailureStore = "",
    webhook: options.Webhook = "",
    notify_command: options.NotifyCommand = "",
) -> None:
    """Build a plan: optimize the graph, generate and tune kernels, write one file.

    Examples: whet build resnet.onnx -o resnet.plan

    whet build resnet.onnx -o resnet.plan --bf16 --shapes input:8x3x224x224

    whet build resnet.onnx -o resnet.plan --best --calib train.npz --eval val.npz --metric top1 --max-drop 0.5

    whet build bert.onnx -o bert.plan --min-shapes ids:1x8 --opt-shapes ids:1x128 --max-shapes ids:8x512

    whet build gpt.onnx -o gpt.plan --state 'past.*=present.*' --profile x:1x1..1x1..1x1 --profile x:1x2..1x64..1x512

    whet build --config whet.yaml resnet-int8 --threads 4

    --shapes fixes an input's dimensions; the other three bound dynamic ones, and the plan is tuned for the optimum.
    What was measured is kept in the timing cache, so that a second build is quick, and one that is stopped with Ctrl-C
    goes on where it was. A configuration is described in docs/configuration.md.
    """
    given = _given(context)
    if config is None:
        if not model or output is None:
            raise InputError("whet build takes a model and a file for its plan, or a configuration",
                             do="whet build model.onnx -o model.plan, or whet build --config whet.yaml [NAME]")
        from whet.config import Build

        with failures.kept(model, store, webhook, notify_command):
            code = run(Build(**_plain({**given, "model": model, "output": str(output)})))
        raise typer.Exit(code)
    from whet.config import read

    with failures.kept(model or str(config), store, webhook, notify_command):
        found = read(config)
        code = run(configured(found, found.choose(model or None), given))
    raise typer.Exit(code)


def _given(context: typer.Context) -> dict[str, Any]:
    """The options that the command line gives itself, by the names of `whet.yaml`."""
    values = {name: value for name, value in context.params.items()
              if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
              and name not in ("model", "config", "store", "webhook", "notify_command")}
    precisions = tuple(p for p in PRECISIONS if values.pop(p, False))
    bounds = [values.pop(name, None) or () for name in BOUNDS]
    found = {RENAMED.get(name, name): value for name, value in values.items()}
    if precisions:
        found["precision"] = precisions
    if any(bounds):
        found["bounds"] = tuple(bounds)
    return found


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """Options of the command line as `whet.yaml` has them."""
    from whet.cli.shapes import parse_profile, parse_profiles, parse_shapes

    found = {name: str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value
             for name, value in given.items()}
    if "shapes" in found:
        found["shapes"] = parse_shapes(found["shapes"])
    bounds = found.pop("bounds", None)
    if bounds is not None or "profiles" in found:
        first = parse_profile(*bounds) if bounds else None
        every = [*([first] if first else []), *parse_profiles(found.get("profiles", ()))]
        found["profiles"] = tuple({n: "..".join("x".join(map(str, shape)) for shape in r) for n, r in p.items()}
                                  for p in every)
    if "states" in found:
        found["states"] = dict(_split_state(text) for text in found["states"])
    return found


def _split_state(text: str) -> tuple[str, str]:
    given, equals, kept = text.partition("=")
    if not equals:
        raise InputError(f"not a state: {text!r}", why="a state is INPUT=OUTPUT, each with one star or none",
                         do="for example --state 'past.*=present.*'")
    return given, kept


def configured(found: Configuration, name: str, given: dict[str, Any]) -> Build:
    """A build of a configuration with options of the command line, which win; what they win over is said."""
    import msgspec

    said = found.builds[name]
    beside = _plain(given)
    written = msgspec.to_builtins(said)
    for option, value in beside.items():
        if option in written and written[option] != msgspec.to_builtins(value):
            print(f"{option}: {_show(value)} is taken, not {_show(written[option])} ({found.where(name, option)})",
                  file=sys.stderr)
    return msgspec.structs.replace(found.resolved(name), **beside)


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def run(asked: Build) -> int:
    """Build, write the plan, and say what came of it; the exit code. InputError, TuningError... as of `whet.build`."""
    from whet import pipeline
    from whet.cli import precision
    from whet.cli.files import check_output
    from whet.cli.inspect import print_summary
    from whet.cli.progress import build_progress
    from whet.cli.shapes import parse_profiles, parse_shapes, parse_states

    assert asked.model is not None
    model = Path(asked.model)
    output = Path(asked.output or f"{model.stem}.plan")
    report = Path(asked.report) if asked.report else None
    check_output(output)
    shapes, profiles = parse_shapes(asked.shape_texts()), parse_profiles(asked.profile_texts())
    kept = parse_states([f"{i}={o}" for i, o in asked.states.items()], *_ends(model)) if asked.states else None
    quantization = precision.quantization(
        asked.calib, Path(asked.calib_cache) if asked.calib_cache else None, asked.calib_method, asked.calib_samples,
        asked.preprocess, asked.activations, asked.prepare, asked.eval, asked.metric, asked.max_drop,
        asked.force_precision)
    with precision.reporting(report), build_progress() as progress:
        plan: Plan = pipeline.build(
            model, target=asked.target, precision={"fp32", *asked.allowed}, force_precision=asked.force_precision,
            fp32_layers=asked.fp32_layers, threads=asked.threads, isa=asked.isa,
            hardware_compat=asked.hardware_compat, shapes=shapes or None, profiles=profiles or None, states=kept,
            timing_cache=asked.timing_cache, opt_level=asked.opt_level, dump=asked.dump, progress=progress,
            quantization=quantization, weights=asked.weights, weight_group=asked.weight_group)
    plan.save(output)
    print_summary(plan, output)
    return precision.show(plan, report)


def _ends(model: Path) -> tuple[list[str], list[str]]:
    """The names of a model's inputs and outputs."""
    from whet.frontends.protobuf import read

    graph = read(model).proto.graph
    weights = {t.name for t in graph.initializer}
    return [v.name for v in graph.input if v.name not in weights], [o.name for o in graph.output]
