"""The command line. Every command is thin: it parses, calls the library, and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from whet.cli import compare, debug, history, inspect, lint, lock, options, plan_fleet, quantize, record, roi, surgeon
from whet.errors import InputError, WhetError

INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it

app = typer.Typer(name="whet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Sharpens trained models: ONNX in, a tuned plan out, run and measured.\n\n"
                       "Start with `whet demo`, then `whet build model.onnx -o model.plan` "
                       "and `whet bench model.plan`.")


@app.command()
def build(
    model: options.Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the plan.", show_default=False)],
    target: options.Target = "cpu",
    hardware_compat: options.HardwareCompat = "exact",
    threads: options.Threads = None,
    bf16: options.Bf16 = False,
    int8: options.Int8 = False,
    tf32: options.Tf32 = False,
    fp16: options.Fp16 = False,
    fp8: options.Fp8 = False,
    best: options.Best = False,
    force_precision: options.ForcePrecision = False,
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
) -> None:
    """Build a plan: optimize the graph, generate and tune kernels, write one file.

    Examples: whet build resnet.onnx -o resnet.plan

    whet build resnet.onnx -o resnet.plan --bf16 --shapes input:8x3x224x224

    whet build resnet.onnx -o resnet.plan --best --calib train.npz --eval val.npz --metric top1 --max-drop 0.5

    whet build bert.onnx -o bert.plan --min-shapes ids:1x8 --opt-shapes ids:1x128 --max-shapes ids:8x512

    whet build gpt.onnx -o gpt.plan --state 'past.*=present.*' --profile x:1x1..1x1..1x1 --profile x:1x2..1x64..1x512

    --shapes fixes an input's dimensions; the other three bound dynamic ones, and the plan is tuned for the optimum.
    What was measured is kept in the timing cache, so that a second build is quick, and one that is stopped with Ctrl-C
    goes on where it was.
    """
    from whet import pipeline
    from whet.cli import precision
    from whet.cli.files import check_output
    from whet.cli.progress import build_progress
    from whet.cli.shapes import parse_profile, parse_profiles, parse_shapes, parse_states

    check_output(output)
    profile = parse_profile(min_shapes or (), opt_shapes or (), max_shapes or ())
    every = [*([profile] if profile else []), *parse_profiles(profiles or ())]
    kept = parse_states(states, *_ends(model)) if states else None
    asked = precision.quantization(calib, calib_cache, calib_method, calib_samples, preprocess, activations,
                                   tuple(prepare or ()), evaluation, metric, max_drop, force_precision)
    with precision.reporting(report), build_progress() as progress:
        plan = pipeline.build(model, target=target, precision=_precision(bf16, best, int8, fp16, fp8, tf32),
                              force_precision=force_precision, threads=threads, hardware_compat=hardware_compat,
                              shapes=parse_shapes(shapes or ()) or None, profiles=every or None, states=kept,
                              timing_cache=timing_cache, opt_level=opt_level, dump=dump, progress=progress,
                              quantization=asked, weights=weights, weight_group=weight_group)
    plan.save(output)
    from whet.cli.inspect import print_summary

    print_summary(plan, output)
    raise typer.Exit(precision.show(plan, report))


@app.command()
def run(
    plan: options.ModelOrPlan,
    inputs: options.Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the outputs.", show_default=False)],
    threads: options.Threads = None,
    require_key: options.RequireKey = None,
    recompile: Annotated[bool, typer.Option(
        "--recompile", help="Ignore the plan's machine code and generate it anew from what the plan records.")] = False,
    target: options.Target = "cpu",
    device: options.Device = None,
) -> None:
    """Run a plan once on arrays from a file, and write the outputs to another.

    Example: whet run resnet.plan --inputs x.npz -o y.npz

    x.npz holds one array per input, by its name: numpy.savez("x.npz", input=images). `whet inspect resnet.plan` lists
    the inputs. With --require-key, a plan that its holder has not signed is refused. --target says what a model is
    built for first.
    """
    from whet.cli.files import check_output, open_engine, write_npz
    from whet.cli.shapes import load_inputs

    check_output(output, "the output")
    feeds = load_inputs(inputs)
    with open_engine(plan, threads, require_key, recompile, target, device) as engine, engine.context() as context:
        write_npz(output, context.run(feeds))


@app.command()
def bench(
    path: options.ModelOrPlan,
    backends: Annotated[str, typer.Option(help="Comma-separated: whet, onnxruntime, openvino. "
                                               "Default: whet and those that are installed.")] = "",
    model: Annotated[Path | None, typer.Option("--model", help="The ONNX model that a plan was built from, for the "
                                                               "other backends.")] = None,
    shapes: options.Shapes = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="An .npz file with one array per input. "
                                                                 "Default: random ones.")] = None,
    threads: options.Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long the slowest backend is timed.")] = 5.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the measurement records into this file; - is "
                                                           "stdout.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, in a process per backend.")] = True,
    bf16: options.Bf16 = False,
    tf32: options.Tf32 = False,
    fp16: options.Fp16 = False,
    best: options.Best = False,
    timing_cache: options.TimingCacheFile = None,
    opt_level: options.OptLevel = 3,
    require_key: options.RequireKey = None,
    target: options.Target = "cpu",
    devices: Annotated[str, typer.Option("--devices", help="Of a plan for GPUs: those to use, `0,1` or `all`. States "
                                                           "what they do together, each with a copy of the plan.",
                                         show_default=False)] = "",
    contexts: Annotated[int, typer.Option("--contexts", min=1, max=256, help="Time so many contexts of whet at once on "
                                          "one device: what `whet plan-fleet` packs devices by.")] = 1,
) -> None:
    """Compare whet with other runtimes on this machine: same model, same inputs, same threads.

    Outputs are checked against ONNX Runtime first. Then all backends take turns in one process, so that what disturbs
    one disturbs all. Exit code 1: an output is wrong.

    Examples: whet bench resnet.onnx --shapes input:8x3x224x224

    whet bench resnet.plan --model resnet.onnx --backends whet,onnxruntime --json out.json

    whet bench resnet-gpu.plan --devices all
    """
    from whet.cli import bench as race
    from whet.cli.shapes import parse_shapes

    named = tuple(b.strip() for b in backends.split(",") if b.strip())
    building = {"precision": _precision(bf16, best, fp16=fp16, tf32=tf32), "timing_cache": timing_cache,
                "opt_level": opt_level, "target": target}
    raise typer.Exit(race.run(race.Options(
        path, model, named, parse_shapes(shapes or ()), inputs, threads, seconds, json,
        require_key, building, memory, devices, contexts)))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report and the plans.")] =
        Path("whet-demo"),
) -> None:
    """Show the whole story on a small trained model, in about half a minute and without a network.

    Builds fp32 and bf16 plans of a digit classifier, checks their outputs against a NumPy reference, states their
    accuracy on held-out images, times them beside ONNX Runtime where that is installed, and writes report.html.
    """
    from whet.cli import demo as story

    raise typer.Exit(story.run(output))


@app.command()
def sign(
    plan: Annotated[Path | None, typer.Argument(help="The plan to sign.", show_default=False)] = None,
    key: Annotated[Path | None, typer.Option("--key", help="An Ed25519 private key (PEM).")] = None,
    generate_key: Annotated[Path | None, typer.Option(
        "--generate-key", help="Make a new pair of keys, private.pem and public.pem, in this folder.")] = None,
) -> None:
    """Sign a plan, so that whoever loads it can refuse any other.

    A plan holds machine code: loading one is like importing a module. Make keys once, sign what you build, and load
    with require_key= (or --require-key) and the public key.

    Examples: whet sign --generate-key keys

    whet sign model.plan --key keys/private.pem
    """
    from whet.cli import sign as signing

    if generate_key is not None and plan is None and key is None:
        signing.new_keys(generate_key)
    elif plan is not None and key is not None and generate_key is None:
        signing.sign(plan, key)
    else:
        raise InputError("whet sign takes a plan and its key, or --generate-key",
                         do="whet sign model.plan --key private.pem, or whet sign --generate-key FOLDER")


@app.command()
def doctor(json: options.AsJson = False) -> None:
    """Show this machine as whet sees it, and what is missing."""
    from whet.cli import doctor as view

    view.run(json)


app.command("inspect")(inspect.command)
app.command("lint")(lint.command)
app.command("quantize")(quantize.command)
app.command("compare")(compare.command)
app.command("plan-fleet")(plan_fleet.command)
app.command("record")(record.command)
app.command("history")(history.command)
app.command("roi")(roi.command)
app.command("lock")(lock.command)
app.add_typer(surgeon.app, name="surgeon")
app.add_typer(debug.app, name="debug")


def _ends(model: Path) -> tuple[list[str], list[str]]:
    """The names of a model's inputs and outputs."""
    from whet.frontends.protobuf import read

    graph = read(model).proto.graph
    weights = {t.name for t in graph.initializer}
    return [v.name for v in graph.input if v.name not in weights], [o.name for o in graph.output]


def _precision(bf16: bool, best: bool, int8: bool = False, fp16: bool = False, fp8: bool = False,
               tf32: bool = False) -> set[str]:
    asked = {"bf16": bf16, "int8": int8, "fp16": fp16, "fp8": fp8, "tf32": tf32, "best": best}
    return {"fp32", *(name for name, given in asked.items() if given)}


def main() -> None:
    """Entry point: typed errors become one clear message and their exit code."""
    code: object = 0
    try:
        code = app(prog_name="whet", standalone_mode=False)  # what typer.Exit carries, or None
    except WhetError as e:
        _complain(str(e))
        sys.exit(e.exit_code)
    except (typer.Exit, SystemExit) as e:
        code = getattr(e, "exit_code", getattr(e, "code", 0))
    except (typer.Abort, KeyboardInterrupt):  # which of them, or Exit(130), depends on typer's version
        code = INTERRUPTED
    except Exception as e:
        if type(e).__module__.startswith(("click", "typer")) and hasattr(e, "format_message"):
            _complain(str(InputError(e.format_message(), do="see --help")))
            sys.exit(2)
        raise
    if code == INTERRUPTED:
        _complain("stopped; what was measured so far is in the timing cache")
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, style="red", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
