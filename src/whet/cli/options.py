"""The options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Model = Annotated[Path, Argument(help="An ONNX model.", show_default=False)]
ModelOrPlan = Annotated[Path, Argument(help="A plan, or an ONNX model (built first).", show_default=False)]
Threads = Annotated[int | None, Option("--threads", min=1, max=1024, help="Threads. Default: all cores.")]
Bf16 = Annotated[bool, Option("--bf16", help="Allow BF16 products, accumulated in fp32, where the CPU has them.")]
ForcePrecision = Annotated[bool, Option("--force-precision", help="Use it even where this CPU only emulates it.")]
Best = Annotated[bool, Option("--best", help="Allow every precision that the target has.")]
Shapes = Annotated[list[str] | None, Option(
    "--shapes", metavar="NAME:DIMS", help="Fix an input's shape, as x:1x3x224x224. May be repeated.")]
MinShapes = Annotated[list[str] | None, Option(
    "--min-shapes", metavar="NAME:DIMS", help="Smallest shapes of dynamic inputs.")]
OptShapes = Annotated[list[str] | None, Option("--opt-shapes", metavar="NAME:DIMS", help="Shapes to tune for.")]
MaxShapes = Annotated[list[str] | None, Option(
    "--max-shapes", metavar="NAME:DIMS", help="Largest shapes: what memory is planned for.")]
Profiles = Annotated[list[str] | None, Option(
    "--profile", metavar="NAME:MIN..OPT..MAX,...", help="A profile whole. Repeat it for several: a run takes the first "
    "that has its shapes.")]
States = Annotated[list[str] | None, Option(
    "--state", metavar="INPUT=OUTPUT", help="An output that is the next run's input, kept by the context: a key-value "
    "cache, say 'past.*=present.*'. May be repeated.")]
TimingCacheFile = Annotated[Path | None, Option(
    "--timing-cache", help="Timing cache to read and add to. Default: the user's cache.")]
OptLevel = Annotated[int, Option(
    "--opt-level", min=0, max=5, help="How much to measure: 0 trusts the cost model, 5 measures everything.")]
Dump = Annotated[Path | None, Option("--dump", help="Write the graph after each pass, numbered, into this folder.")]
Inputs = Annotated[Path, Option("--inputs", help="An .npz file with one array per input.", show_default=False)]
RequireKey = Annotated[Path | None, Option(
    "--require-key", help="An Ed25519 public key (a file): refuse plans that its private half has not signed.")]
AsJson = Annotated[bool, Option("--json", help="As JSON.")]
