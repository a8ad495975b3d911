"""The command line. Every command is thin: it parses, calls the library, and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from whet.cli import options
from whet.errors import InputError, WhetError

app = typer.Typer(name="whet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Sharpens trained models: ONNX in, a tuned plan out, run and measured.\n\n"
                       "Start with [bold]whet demo[/bold], then [bold]whet build model.onnx -o model.plan[/bold] "
                       "and [bold]whet bench model.plan[/bold].")


@app.command()
def build(
    model: options.Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the plan.", show_default=False)],
    target: Annotated[str, typer.Option(help="What to build for.")] = "cpu",
    threads: options.Threads = None,
    bf16: options.Bf16 = False,
    best: options.Best = False,
    shapes: options.Shapes = None,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    timing_cache: options.TimingCacheFile = None,
    opt_level: options.OptLevel = 3,
    dump: options.Dump = None,
) -> None:
    """Build a plan: optimize the graph, generate and tune kernels, write one file.

    Example: whet build resnet.onnx -o resnet.plan --bf16 --opt-shapes input:8x3x224x224
    """
    from whet import pipeline
    from whet.cli.progress import build_progress
    from whet.cli.shapes import parse_profile, parse_shapes

    precision = {"fp32"} | ({"bf16"} if bf16 or best else set())
    profile = parse_profile(min_shapes or (), opt_shapes or (), max_shapes or ())
    with build_progress() as progress:
        plan = pipeline.build(model, target=target, precision=precision, threads=threads,
                              shapes=parse_shapes(shapes or ()) or None, profiles=[profile] if profile else None,
                              timing_cache=timing_cache, opt_level=opt_level, dump=dump, progress=progress)
    plan.save(output)
    from whet.cli.inspect import print_summary

    print_summary(plan, output)


@app.command()
def run(
    plan: options.ModelOrPlan,
    inputs: options.Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the outputs.", show_default=False)],
    threads: options.Threads = None,
) -> None:
    """Run a plan once on arrays from a file.

    Example: whet run resnet.plan --inputs x.npz -o y.npz
    """
    from whet.cli.files import open_engine, write_npz
    from whet.cli.shapes import load_inputs

    feeds = load_inputs(inputs)
    with open_engine(plan, threads) as engine:
        write_npz(output, engine(feeds))


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
def inspect(path: options.ModelOrPlan, json: options.AsJson = False) -> None:
    """Show what is in a plan or model: inputs, outputs, profile, steps, tactics, memory."""
    from whet.cli import inspect as view

    view.show(path, json)


@app.command()
def doctor(json: options.AsJson = False) -> None:
    """Show this machine as whet sees it, and what is missing."""
    from whet.cli import doctor as view

    view.run(json)


def main() -> None:
    """Entry point: typed errors become one clear message and their exit code."""
    try:
        app(standalone_mode=False)
    except WhetError as e:
        _complain(str(e))
        sys.exit(e.exit_code)
    except (typer.Exit, SystemExit) as e:
        sys.exit(getattr(e, "exit_code", getattr(e, "code", 0)))
    except typer.Abort:
        _complain("stopped")
        sys.exit(130)
    except KeyboardInterrupt:
        _complain("stopped; what was measured so far is in the timing cache")
        sys.exit(130)
    except Exception as e:
        if type(e).__module__.startswith(("click", "typer")) and hasattr(e, "format_message"):
            _complain(str(InputError(e.format_message(), do="see --help")))
            sys.exit(2)
        raise


def _complain(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, style="red", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
