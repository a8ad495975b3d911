"""`whet bench`: whet beside its peers on this machine, checked first, then in turns."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whet.cli.files import check_output, is_onnx, write_bytes
from whet.cli.progress import build_progress
from whet.cli.shapes import Shape, load_inputs
from whet.compare import PEERS, Backend, Reference, compare, devices, installed, measured_limits, open_peer, open_whet
from whet.compare.contexts import at_once
from whet.compare.memory import memory_of
from whet.errors import InputError, ModelError, UnsupportedError
from whet.measure import Measurement, stats
from whet.measure.device import gpus, usable_cores, with_gpus
from whet.measure.record import Load, Memory, Model, encode
from whet.measure.tools import stamp
from whet.plan import Plan
from whet.report import rows

MIB = 1 << 20
STDOUT = Path("-")
INT_RANGE = 2  # random integers are 0 or 1: legal indices of anything with two rows


@dataclass(frozen=True)
class Options:
    """What was asked for, as the command line says it."""

    path: Path
    model: Path | None = None
    backends: Sequence[str] = ()  # empty: whet and what is installed
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    inputs: Path | None = None
    threads: int | None = None
    seconds: float = 5.0
    json: Path | None = None
    require_key: Path | None = None
    build: Mapping[str, Any] = field(default_factory=dict)  # keywords of whet.build
    memory: bool = True
    devices: str = ""  # of a plan for GPUs: numbers with commas, or `all`
    contexts: int = 1  # of whet that run at once on one device


def run(options: Options) -> int:
    """Measure and print; 0 if all outputs are right, 1 if some are not."""
    model = options.path if is_onnx(options.path) else options.model
    names = _backends(options, model)
    piped = options.json == STDOUT
    if options.json is not None and not piped:
        check_output(options.json, "the output")
    stamp()  # a lock that is not there is told before anything is built
    with ExitStack() as stack:
        progress = stack.enter_context(build_progress())
        plan, path, seconds = stack.enter_context(_plan(options, progress))
        if model is not None and model is not options.path:
            _check_same(plan, options.path, model)
        feeds = input_arrays(plan, options)
        progress("loading", 0, 0)
        on_gpu = plan.manifest.target.device is not None
        places = _places(options, on_gpu)
        threads = options.threads or (usable_cores() if on_gpu else plan.contents.runtime["threads"])
        contestants: list[Backend] = []
        if "whet" in names:
            contestants.append(open_whet(plan, feeds, threads=options.threads, require_key=options.require_key,
                                         build_seconds=seconds, device=places[0] if places else None))
            stack.callback(contestants[0].close)
        notes: list[str] = []
        contestants += _peers(names, options, model, feeds, plan.manifest.info["precision"]["compute"], threads, notes)
        reference = _reference(contestants, model, feeds, threads, notes)
        memory = _memory(options, contestants, path, model, feeds, progress)
        limits = None
        if not on_gpu or len(contestants) > 1:
            progress("measuring what this machine can do", 0, 0)
            limits = measured_limits(threads)
        progress("timing, in turns", 0, 0)
        records = compare(contestants, feeds, _identity(plan, model), threads=threads, seconds=options.seconds,
                          reference=reference, limits=limits, memory=memory)
        if options.contexts > 1:
            progress(f"{options.contexts} contexts at once", 0, 0)
            contestants[0].close()
            records = _at_once(records, plan, feeds, places, options, notes)
        if options.devices and "whet" in names:
            progress(f"throughput of {len(places)} GPUs", 0, 0)
            contestants[0].close()
            records = _side_by_side(records, plan, feeds, places, options, notes)
    layers = plan.manifest.info.get("layers", ())
    hosted = [layer["name"] for layer in layers if layer["kind"] == "host"]
    if any("winograd" in layer["tactic"] for layer in layers):
        notes.append("Convolutions by Winograd multiply less than is counted, and may go beyond the limit.")
    if on_gpu and "whet" in names:
        names_of = sorted({g.name for r in records for g in r.device.gpus})
        notes.append(f"whet ran on {', '.join(names_of)}; its inputs come from the host's memory, and its outputs go "
                     "there.")
    if reference is None:
        notes.append("Outputs were not checked: that needs the ONNX model (--model), and ONNX Runtime "
                     "(pip install 'whet[onnxruntime]') that runs it.")
    _print(records, hosted, notes, piped)
    if options.json is not None and not piped:
        write_bytes(options.json, encode(records))
    elif piped:
        sys.stdout.write(encode(records).decode())
    return 1 if any(r.error and r.error.limit and not r.error.value <= r.error.limit for r in records) else 0


def _at_once(records: Sequence[Measurement], plan: Plan, feeds: Mapping[str, np.ndarray], places: Sequence[int],
             options: Options, notes: list[str]) -> list[Measurement]:
    """whet's record again, with several contexts at work at once: the service times of as many servers on a device."""
    alone = records[0]
    assert alone.latency is not None
    samples, rate = at_once(plan, feeds, options.contexts, seconds=options.seconds, threads=options.threads,
                            device=places[0] if places else None, require_key=options.require_key)
    first = next(iter(feeds.values()), np.zeros(()))
    batch = first.shape[0] if first.ndim else 1
    notes.append(f"{options.contexts} contexts at once: {batch * rate:,.0f} samples a second, a call alone takes "
                 f"{rows.seconds(alone.latency.p50.value)}.")
    return [msgspec.structs.replace(alone, latency=stats.latency(samples), throughput=batch * rate,
                                    load=Load(concurrency=options.contexts), limit=None, comparisons=())]


def _places(options: Options, on_gpu: bool) -> list[int]:
    """The GPUs to use, the first of which is timed call by call."""
    if not on_gpu:
        if options.devices:
            raise InputError(f"--devices {options.devices}", why="the plan is for CPUs",
                             do="build it with --target cuda")
        return []
    return devices.parse(options.devices) if options.devices else [0]


def _side_by_side(records: Sequence[Measurement], plan: Plan, feeds: Mapping[str, np.ndarray], places: Sequence[int],
                  options: Options, notes: list[str]) -> list[Measurement]:
    """The records, and whet's throughput on all of these GPUs at once in its own."""
    found = devices.throughput(plan, feeds, places, seconds=min(options.seconds, 5.0), require_key=options.require_key)
    first = next(iter(feeds.values()), np.zeros(()))
    batch = first.shape[0] if first.ndim else 1
    for i, together, alone in zip(found.devices, found.together, found.alone):
        notes.append(f"GPU {i}: {batch * together:,.0f} samples a second with all, {batch * alone:,.0f} alone.")
    notes.append(f"{len(places)} GPUs: {batch * found.total:,.0f} samples a second, {found.scaling:.1%} of each alone "
                 "added up, with several runs under way on each.")
    device = with_gpus(gpus(places))
    return [msgspec.structs.replace(r, device=device, throughput=batch * found.total,
                                    load=msgspec.structs.replace(r.load, concurrency=devices.IN_FLIGHT * len(places)))
            if r.backend == "whet" else r for r in records]


def _backends(options: Options, model: Path | None) -> list[str]:
    if options.contexts > 1:
        if options.devices or any(name != "whet" for name in options.backends):
            raise InputError("several contexts are timed of whet alone, on one device",
                             do="leave --backends and --devices out")
        return ["whet"]
    known = ("whet", *PEERS)
    for name in options.backends:
        if name not in known:
            raise InputError(f"no backend {name!r}", why=f"there are {', '.join(known)}", do="choose among these")
    if model is not None:
        return list(options.backends) or installed()
    if any(name != "whet" for name in options.backends):
        raise InputError("other backends cannot run a plan", where=str(options.path), why="they need the ONNX model",
                         do="name it with --model model.onnx")
    return ["whet"]


@contextmanager
def _plan(options: Options, progress: Any) -> Iterator[tuple[Plan, Path, float | None]]:
    """The plan, a file that holds it, and the seconds that building took if it was built here."""
    import whet

    if not is_onnx(options.path):
        plan = Plan.open(options.path)
        try:
            yield plan, options.path, None
        finally:
            plan.close()
        return
    start = time.perf_counter()
    plan = whet.build(options.path, shapes=dict(options.shapes) or None, threads=options.threads, progress=progress,
                      **options.build)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        file = Path(folder) / "model.plan"
        plan.save(file)
        try:
            yield plan, file, seconds
        finally:
            plan.close()


def _check_same(plan: Plan, path: Path, model: Path) -> None:
    from whet.frontends import load_model, model_hash

    load_model(model)  # a file that is no model is refused here, in plain words
    built_from = plan.manifest.info.get("model", {}).get("sha256", "")
    if built_from and built_from != model_hash(model):
        raise InputError("the plan was built from another model", where=f"{path} and {model}",
                         why=f"its model's SHA-256 is {built_from[:16]}...", do="name the model that it was built from")


def _identity(plan: Plan, model: Path | None) -> Model:
    known = plan.manifest.info.get("model", {})
    return Model(name=model.stem if model else known.get("name") or "model", sha256=known.get("sha256", ""))


def input_arrays(plan: Plan, options: Options) -> dict[str, np.ndarray]:
    """The arrays of --inputs, else random ones of --shapes and the profile's optimum."""
    if options.inputs is not None:
        return load_inputs(options.inputs)
    from whet.plan import dims
    from whet.plan.manifest import np_dtype

    rng = np.random.default_rng(0)
    best = {name: opt for name, (_, opt, _) in plan.manifest.dims.items()}
    names = {t.name for t in plan.manifest.inputs}
    if unknown := sorted(options.shapes.keys() - names):
        raise InputError(f"there is no input {unknown[0]!r}", why=f"the inputs are {', '.join(sorted(names))}",
                         do="give shapes for these")
    feeds = {}
    for t in plan.manifest.inputs:
        shape = options.shapes.get(t.name) or tuple(dims.evaluate(d, best) for d in t.shape)
        dtype = np_dtype(t.dtype)
        if dtype.kind in "iub":
            feeds[t.name] = rng.integers(0, INT_RANGE, shape).astype(dtype)
        elif dtype.kind == "O":
            raise InputError(f"the input {t.name!r} is of strings", do="give arrays with --inputs x.npz")
        else:
            feeds[t.name] = rng.standard_normal(shape, np.float32).astype(dtype)
    return feeds


def _peers(names: Sequence[str], options: Options, model: Path | None, feeds: Mapping[str, np.ndarray], precision: str,
           threads: int, notes: list[str]) -> list[Backend]:
    """Those that were asked for; of those that merely are installed, the ones that run the model."""
    found = []
    for name in names if model is not None else ():
        if name == "whet":
            continue
        try:
            assert model is not None
            found.append(open_peer(name, model, feeds, precision=_peer_precision(name, model, precision),
                                   threads=threads))
        except ModelError as e:
            if options.backends:
                raise
            notes.append(f"Left out: {e.what} ({e.why}).")
    return found


def _peer_precision(name: str, model: Path, precision: str) -> str:
    """What a peer runs beside a plan: a quantized model as it is, another one in its fastest floats."""
    if precision == "int8":
        from whet.frontends.protobuf import read

        if any(n.op_type.startswith(("QuantizeLinear", "QLinear")) for n in read(model).proto.graph.node):
            return "int8"
        precision = "bf16"
    return precision if name == "openvino" else "fp32"


def _reference(contestants: Sequence[Backend], model: Path | None, feeds: Mapping[str, np.ndarray],
               threads: int, notes: list[str]) -> Reference | None:
    """ONNX Runtime's outputs in fp32, where it is installed, runs the model, and the model is at hand."""
    ort = next((b for b in contestants if b.name == "onnxruntime"), None)
    if ort is None and model is not None and "onnxruntime" in installed() and not notes:
        try:
            ort = open_peer("onnxruntime", model, feeds, threads=threads)
        except ModelError as e:
            notes.append(f"No reference: {e.what} ({e.why}).")
    return Reference(ort.key, ort.run()) if ort is not None else None


def _memory(options: Options, contestants: Sequence[Backend], plan: Path, model: Path | None,
            feeds: Mapping[str, np.ndarray], progress: Any) -> dict[str, Memory]:
    if not options.memory:
        return {}
    found = {}
    for b in contestants:
        progress(f"peak memory of {b.key}", 0, 0)
        try:
            found[b.key] = memory_of(b.name, b.precision, plan if b.name == "whet" or model is None else model, feeds,
                                     options.threads)
        except UnsupportedError:  # not on Linux: the column stays empty
            break
    return found


def _print(records: Sequence[Measurement], hosted: Sequence[str], notes: Sequence[str], piped: bool) -> None:
    """For people, on stderr where the records go to stdout."""
    out = Console(highlight=False, stderr=piped)
    first = records[0]
    out.print(f"{escape(first.model.name)}, {rows.shapes(first)}; {rows.threads(first)}; {escape(first.device.name)}",
              soft_wrap=True)
    table = Table("", "median", "95 % interval", "p90", "p99", "per second", "memory", "of limit", "error",
                  box=None, padding=(0, 2, 0, 0), header_style="bold")
    for r in records:
        assert r.latency is not None
        row = rows.row(r)
        memory = rows.size(r.memory.peak_bytes - r.memory.idle_bytes) if r.memory else "-"
        table.add_row(row.label, row.median, row.median_interval, rows.seconds(r.latency.p90.value), row.p99,
                      row.throughput.removesuffix("/s"), memory, f"{r.limit.fraction:.0%}" if r.limit else "-",
                      row.error or "-", style="bold" if row.ours else "")
    wide = Console(highlight=False, width=None if out.is_terminal else 120, stderr=piped)
    wide.print(table)
    for r in records:
        for c in r.comparisons:
            out.print(f"{rows.label(r)} is {c.ratio:.2f} ({c.low:.2f} to {c.high:.2f}) times as fast as "
                      f"{rows.NAMES.get(c.backend, c.backend)} {c.precision}, of {c.rounds} rounds in turns.",
                      soft_wrap=True)
        if r.error and r.error.limit and not r.error.value <= r.error.limit:
            out.print(f"[red]{rows.label(r)} is WRONG: {r.error.value:.1e} from {r.error.reference}, at most "
                      f"{r.error.limit:.0e} is allowed.[/red]", soft_wrap=True)
    limit = next((r.limit for r in records if r.limit), None)
    if limit is not None:
        rates = ", ".join(f"{r.limit.flops_per_second / 1e9:.0f} GFLOP/s in {r.precision}"
                          for r in {r.precision: r for r in records if r.limit}.values() if r.limit)
        out.print(f"Limit: {limit.flops / 1e9:.3g} GFLOP a call, and bare loops on this machine just now: {rates}.",
                  soft_wrap=True)
    for note in notes:
        out.print(note, markup=False, soft_wrap=True)
    if hosted:
        out.print("[yellow]On reference kernels on the host, which are slow: "
                  f"{escape(', '.join(sorted(set(hosted))))}[/yellow]", soft_wrap=True)
