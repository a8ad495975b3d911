"""The command line. Every command is thin: it parses, calls the library, and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from whet.cli import (
    board,
    build,
    compare,
    debug,
    doc,
    forecast,
    gate,
    history,
    inspect,
    lint,
    lock,
    options,
    plan_fleet,
    quantize,
    record,
    roi,
    surgeon,
)
from whet.errors import InputError, WhetError

INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it

app = typer.Typer(name="whet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Sharpens trained models: ONNX in, a tuned plan out, run and measured.\n\n"
                       "Start with `whet demo`, then `whet build model.onnx -o model.plan` "
                       "and `whet bench model.plan`.")


app.command("build")(build.command)


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
    """Show the whole story on a small trained model, in one to two minutes and without a network.

    Optimize: builds fp32, bf16 and int8 plans of a digit classifier, checks their outputs against a NumPy reference,
    and times them beside ONNX Runtime where that is installed. Compare, decide, gate, forecast, document: the other
    commands, on these measurements and on example figures that are labelled as such. index.html leads to all of it.
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
def doctor(
    json: options.AsJson = False,
    require: Annotated[str, typer.Option("--require", metavar="TARGET", help="cpu or cuda: exit code 1 where plans for "
                                         "it can be neither built nor run.", show_default=False)] = "",
) -> None:
    """Show this machine as whet sees it, and what is missing."""
    from whet.cli import doctor as view

    raise typer.Exit(view.run(json, require))


app.command("inspect")(inspect.command)
app.command("lint")(lint.command)
app.command("quantize")(quantize.command)
app.command("compare")(compare.command)
app.command("plan-fleet")(plan_fleet.command)
app.command("doc")(doc.command)
app.command("record")(record.command)
app.command("history")(history.command)
app.command("roi")(roi.command)
app.command("gate")(gate.command)
app.command("forecast")(forecast.command)
app.command("lock")(lock.command)
app.command("board")(board.command)
app.add_typer(surgeon.app, name="surgeon")
app.add_typer(debug.app, name="debug")


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
        if not e.shown:
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
