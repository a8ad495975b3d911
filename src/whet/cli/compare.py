"""`whet compare`: what to deploy, from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from whet.cli import ab as trials
from whet.cli import comparing, keeping, options, plan_diff
from whet.errors import InputError


def command(
    paths: Annotated[list[Path] | None, Argument(help="An ONNX model, or two plans of one. With --ab: versions A and B "
                                                      "(outcomes by sample, measurement records, or plans with "
                                                      "--eval); none for a design.", show_default=False)] = None,
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
    force: plan_diff.Force = False,
    run: plan_diff.Run = True,
    output: Annotated[Path | None, Option("-o", "--output", help="A folder for HTML, Markdown and JSON.")] = None,
    json: Annotated[str, Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout.")] = "",
    lang: Annotated[str, Option("--lang", help="Language of what people read: en or zh.")] = "en",
    backends: comparing.Backends = "",
    precisions: comparing.Precisions = "fp32",
    batches: comparing.Batches = "",
    threads: comparing.ThreadCounts = "",
    shapes: options.Shapes = None,
    target: options.Target = "cpu",
    inputs: comparing.Inputs = "",
    calib: options.Calib = None,
    calib_samples: options.CalibSamples = None,
    max_drop: comparing.MaxDrop = 0.5,
    eval_samples: comparing.EvalSamples = None,
    torch: comparing.Torch = "",
    builds: comparing.Builds = 3,
    fresh_builds: comparing.FreshBuilds = False,
    seconds: comparing.Seconds = 3.0,
    memory: comparing.Memory = True,
    timing_cache: options.TimingCacheFile = None,
    opt_level: options.OptLevel = 3,
    baseline: comparing.Baseline = "",
    gate: comparing.Gate = 0.02,
    weights: comparing.Weights = "",
    require: comparing.Require = None,
    cite: comparing.Cite = None,
    price: comparing.Price = None,
    server: comparing.Servers = None,
    remote: comparing.Remotes = None,
    fresh: comparing.Fresh = False,
    ray: comparing.Ray = "",
    keep: keeping.Keep = False,
    store: options.StorePlace = "",
) -> None:
    """Compare one model over all backends, and say what to deploy; or judge an A/B trial between two versions (--ab).

    Examples: whet compare resnet.onnx -o report --precisions fp32,bf16,int8 --calib train.npz

    whet compare resnet.onnx -o report --batches 1,8 --eval val.npz --require 'p99<20ms' --require 'loss<0.5'

    whet compare resnet.onnx -o report --server http://localhost:8000/v2/models/resnet

    All that run here take turns in one process, are built three times, and are compared by paired ratios. What is
    finished is kept in the folder: the same command goes on after Ctrl-C. Exit code 0: something is recommended. 1:
    nothing meets the constraints. 3: the evidence does not say.

    Of two plans, what changed: whet compare before.plan after.plan -o report

    Of trials: whet compare --ab --margin 0.5 --discordance 0.02

    whet compare --ab a.csv b.csv --margin 0.5 -o report

    whet compare --ab fp32.plan int8.plan --eval val.npz --metric top1 --margin 0.5

    whet compare --ab before.json after.json --statistic p99 --margin 5%

    Of a trial, exit code 0: B loses less than the margin. 1: more. 3: too few samples to say.
    """
    plans = bool(paths) and any(p.suffix.lower() == ".plan" for p in paths or ())
    if (keep or store) and (ab or plans):
        raise InputError("only the comparison of a model over backends is kept", do="leave out --keep and --store")
    if not ab:
        if paths and plans:
            raise Exit(plan_diff.run(paths, force=force, inputs=inputs, running=run, seconds=seconds, threads=threads,
                                     output=output, json=json, lang=lang))
        if not paths:
            raise InputError("say what to compare", do="whet compare model.onnx -o report, or whet compare --ab A B "
                                                       "--margin 0.5")
        raise Exit(comparing.run(comparing.Options(
            paths, output, json, lang, backends, precisions, batches, threads, shapes or (), target, inputs, calib,
            calib_samples, preprocess, evaluation, eval_samples, metric, max_drop, torch, builds, fresh_builds, seconds,
            memory, timing_cache, opt_level, baseline, gate, weights, require or (), cite, price, server or (),
            remote or (), mixed_hardware, fresh, ray, keep, store)))
    raise Exit(trials.run(trials.Options(
        tuple(paths or ()), margin, statistic, higher_better, unpaired, missing, column, method, stopping, planned,
        previous, looks, confidence, power, ratio, discordance, share, deviation, expected_loss, samples,
        mixed_hardware, backend, precision, evaluation, metric, preprocess, output, json, lang)))
