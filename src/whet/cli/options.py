"""The options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Model = Annotated[Path, Argument(help="An ONNX model.", show_default=False)]
ModelOrPlan = Annotated[Path, Argument(help="A plan, or an ONNX model (built first).", show_default=False)]
Threads = Annotated[int | None, Option("--threads", min=1, max=1024, help="Threads. Default: all cores.")]
Bf16 = Annotated[bool, Option("--bf16", help="Allow BF16 products, accumulated in fp32, where the target has them.")]
ForcePrecision = Annotated[bool, Option("--force-precision", help="Use it even where this CPU only emulates it.")]
Tf32 = Annotated[bool, Option("--tf32", help="Allow TF32 products on GPUs: fp32 in memory, 10 bits of fraction in "
                                             "products.")]
Best = Annotated[bool, Option("--best", help="Allow every precision that the target has.")]
Int8 = Annotated[bool, Option("--int8", help="Allow INT8 for layers that it makes faster here: needs --calib, "
                                             "unless the model is quantized (Q/DQ).")]
Fp16 = Annotated[bool, Option("--fp16", help="Allow FP16, where the target has it.")]
Fp8 = Annotated[bool, Option("--fp8", help="Allow FP8, where the target has it.")]
Fp32Layer = Annotated[list[str] | None, Option(
    "--fp32-layer", metavar="NAME", help="A layer that stays in fp32: its products and results. May be repeated.")]
Isa = Annotated[str, Option("--isa", help="host, or less than this CPU has: avx512_vnni, avx512, avx2_vnni, avx2.")]
Config = Annotated[Path | None, Option(
    "--config", metavar="FILE", help="A file of builds by name (whet.yaml): name one instead of a model (needless "
    "where there is but one). Options that are given beside it win.")]
Calib = Annotated[str | None, Option(
    "--calib", metavar="DATA", help="Samples to calibrate INT8 or FP8 with: .npz, .npy, a folder of images or arrays, "
    "or package.module:function.")]
CalibCache = Annotated[Path | None, Option(
    "--calib-cache", help="What calibration found, as readable JSON: read if it is there, else written.")]
CalibMethod = Annotated[str, Option(
    "--calib-method", help="How ranges are chosen: entropy, minmax, mse, percentile or percentile:99.9.")]
CalibSamples = Annotated[int | None, Option("--calib-samples", min=1, help="Calibrate with at most so many samples.")]
Preprocessing = Annotated[str | None, Option(
    "--preprocess", metavar="OPTIONS", help="Of images, as resize=256,crop=224,mean=0.485/0.456/0.406,std=...")]
Activations = Annotated[str, Option(
    "--activations", help="INT8 codes of activations: u8 (asymmetric; default on CPUs) or i8 (symmetric; on GPUs).")]
Prepare = Annotated[list[str] | None, Option(
    "--prepare", help="Prepare the weights: equalize (convolutions), smooth (SmoothQuant), round (adaptive rounding: "
    "slow), bias (correction). May be repeated.")]
Eval = Annotated[str | None, Option(
    "--eval", metavar="DATA", help="Samples, with labels where the metric needs them, that plans are judged by.")]
Metric = Annotated[str, Option(
    "--metric", help="top1, top5, f1, mse, rmse, mae, cosine, spearman, divergence (from fp32: no labels), or "
    "package.module:function.")]
MaxDrop = Annotated[float | None, Option(
    "--max-drop", help="Lose at most so much, in the metric's unit (0.5 is half a point of top1): the fastest plan "
    "within it is searched. Exit code 1: nothing keeps it; 3: too few samples to say.")]
Weights = Annotated[str | None, Option(
    "--weights", help="Store weights of large products in int8 or int4, widened inside the kernels: for decoders.")]
WeightGroup = Annotated[int, Option("--weight-group", min=0, help="Rows of weights that share a scale (0: all).")]
Report = Annotated[Path | None, Option("--report", help="Folder for the search's report: HTML, Markdown, JSON.")]
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
Target = Annotated[str, Option(
    help="cpu; cuda (this machine's GPU; cuda:1: another one); cuda:sm_90 (any GPU of a capability: needs none here, "
    "tunes nothing).")]
Device = Annotated[int | None, Option("--device", min=0, help="Of a plan for GPUs: the GPU's number. Default: 0.",
                                      show_default=False)]
HardwareCompat = Annotated[str, Option(
    "--hardware-compat", help="For GPUs: exact, or same-cc: a plan for every GPU of the capability, without library "
    "calls.")]
OptLevel = Annotated[int, Option(
    "--opt-level", min=0, max=5, help="How much to measure: 0 trusts the cost model, 5 measures everything.")]
Dump = Annotated[Path | None, Option("--dump", help="Write the graph after each pass, numbered, into this folder.")]
Inputs = Annotated[Path, Option("--inputs", help="An .npz file with one array per input.", show_default=False)]
RequireKey = Annotated[Path | None, Option(
    "--require-key", help="An Ed25519 public key (a file): refuse plans that its private half has not signed.")]
StorePlace = Annotated[str, Option(
    "--store", metavar="PLACE", help="The measurement store: a file, or postgresql://user@host/database. Default: "
    "$WHET_STORE, else a file of yours.")]
FailureStore = Annotated[str, Option(
    "--store", metavar="PLACE", help="Keep a record of a build that fails in this measurement store, with type, node "
    "and stack. Default: $WHET_STORE, if that is set.")]
Webhook = Annotated[str, Option(
    "--webhook", metavar="URL", envvar="WHET_WEBHOOK", help="POST the result as JSON to this address, after it was "
    "stored. Default: $WHET_WEBHOOK.")]
NotifyCommand = Annotated[str, Option(
    "--notify-command", metavar="COMMAND", help="Run this with the text on stdin, as mail -s 'whet' team@example.com.")]
AsJson = Annotated[bool, Option("--json", help="As JSON.")]
