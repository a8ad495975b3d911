"""The command line. Every command is thin: it parses, calls the library, and prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from whet.errors import InputError, WhetError

app = typer.Typer(name="whet", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Sharpens trained models: ONNX in, a tuned plan out, run and measured.\n\n"
                       "Start with [bold]whet demo[/bold], then [bold]whet build model.onnx -o model.plan[/bold] "
                       "and [bold]whet bench model.plan[/bold].")

Model = Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads to run with. Default: all cores.", min=1, max=1024)]
MinShapes = Annotated[list[str] | None, typer.Option("--min-shapes", metavar="NAME:DIMS", help="Smallest shapes, as x:1x3x224x224. May be repeated.")]
OptShapes = Annotated[list[str] | None, typer.Option("--opt-shapes", metavar="NAME:DIMS", help="Shapes to tune for.")]
MaxShapes = Annotated[list[str] | None, typer.Option("--max-shapes", metavar="NAME:DIMS", help="Largest shapes.")]


@app.command()
def build(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the plan.", show_default=False)],
    target: Annotated[str, typer.Option(help="What to build for.")] = "cpu",
    threads: Threads = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Allow BF16 where it is faster.")] = False,
    best: Annotated[bool, typer.Option("--best", help="Allow every precision that the target has.")] = False,
    shapes: Annotated[list[str] | None, typer.Option("--shapes", metavar="NAME:DIMS", help="Fix shapes: no dynamic dimension stays for that input.")] = None,
    min_shapes: MinShapes = None,
    opt_shapes: OptShapes = None,
    max_shapes: MaxShapes = None,
    timing_cache: Annotated[Path | None, typer.Option(help="Timing cache to read and add to. Default: the user's cache.")] = None,
    opt_level: Annotated[int, typer.Option(min=0, max=5, help="How much to measure: 0 trusts the cost model, 5 measures everything.")] = 3,
    dump: Annotated[Path | None, typer.Option(help="Write the graph, numbered, after each pass into this folder.")] = None,
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
    plan: Annotated[Path, typer.Argument(help="A plan, or an ONNX model (built first).", show_default=False)],
    inputs: Annotated[Path, typer.Option("--inputs", help="An .npz file with one array per input.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the outputs (.npz).", show_default=False)],
    threads: Threads = None,
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
def inspect(
    path: Annotated[Path, typer.Argument(help="A plan or an ONNX model.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
) -> None:
    """Show what is in a plan or model: inputs, outputs, profile, steps, tactics, memory."""
    from whet.cli import inspect as view

    view.show(path, json)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
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
