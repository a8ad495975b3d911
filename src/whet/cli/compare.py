"""`whet compare`: what to deploy, from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from whet.cli import ab as trials
from whet.cli import options
from whet.errors import InputError


def command(
    paths: Annotated[list[Path] | None, Argument(help="With --ab: versions A and B (outcomes by sample, measurement "
                                                      "records, or plans with --eval); none for a design.",
                                                 show_default=False)] = None,
    ab: trials.Ab = False,
    margin: trials.Margin = "",
    statistic: trials.Statistic = "",
    higher_better: trials.HigherBetter = False,
    unpaired: trials.Unpaired = None,
    missing: trials.Missing = "refuse",
    column: trials.Column = "",
    method: trials.Method = "t",
    stopping: trials.Stopping = "once",
    planned: trials.Planned = None,
    previous: trials.Previous = None,
    looks: trials.Looks = 1,
    confidence: trials.Confidence = 0.95,
    power: trials.Power = 0.9,
    ratio: trials.Ratio = 1.0,
    discordance: trials.Discordance = None,
    share: trials.Share = None,
    deviation: trials.Deviation = None,
    expected_loss: trials.Expected = 0.0,
    samples: trials.Samples = None,
    mixed_hardware: trials.MixedHardware = False,
    backend: trials.Backend = "",
    precision: trials.Precision = "",
    evaluation: trials.Eval = None,
    metric: trials.Metric = "top1",
    preprocess: options.Preprocessing = None,
    output: Annotated[Path | None, Option("-o", "--output", help="A folder for HTML, Markdown and JSON.")] = None,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="Language of what people read: en or zh.")] = "en",
) -> None:
    """Judge an A/B trial between two versions, or design one.

    Examples: whet compare --ab --margin 0.5 --discordance 0.02

    whet compare --ab a.csv b.csv --margin 0.5 -o report

    whet compare --ab fp32.plan int8.plan --eval val.npz --metric top1 --margin 0.5

    whet compare --ab before.json after.json --statistic p99 --margin 5%

    Exit code 0: B loses less than the margin. 1: more. 3: too few samples to say.
    """
    if not ab:
        raise InputError("say what to compare", do="whet compare --ab A B --margin 0.5")
    raise Exit(trials.run(trials.Options(
        tuple(paths or ()), margin, statistic, higher_better, unpaired, missing, column, method, stopping, planned,
        previous, looks, confidence, power, ratio, discordance, share, deviation, expected_loss, samples,
        mixed_hardware, backend, precision, evaluation, metric, preprocess, output, json, lang)))
