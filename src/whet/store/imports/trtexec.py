"""What NVIDIA's trtexec writes: --exportTimes, --exportProfile, and its log.

Its options and figures: https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html
(latency is the sum of copies to the GPU, compute and copies back; a query is one execution of the engine).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath
from typing import Any

from whet.measure.record import Figure, Gpu, Load, Measurement, Source
from whet.measure.stats import quantile
from whet.store.imports import common
from whet.store.imports.common import Given

TOOL = "trtexec"
MS = 1e-3
MOST_LAYERS = 5_000
PARTS = {"Latency": "latency", "GPU Compute Time": "compute", "Enqueue Time": "enqueue", "H2D Latency": "h2d",
         "D2H Latency": "d2h", "End-to-End Host Latency": "end_to_end"}
_MARK = re.compile(rb"^(&&&& \w+ TensorRT\.trtexec|\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[\w\] )", re.MULTILINE)
_LINE = re.compile(r"^\[(\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d)\] \[\w\] (.*)$")
_VERDICT = re.compile(r"^&&&& (\w+) TensorRT\.trtexec(?: \[TensorRT v(\d+)\])?[^#]*(?:# (.*))?$")
_BINDING = re.compile(r"^(?:Created input|Input) binding for (\S+) with dimensions (\d+(?:x\d+)*)")
_STATISTIC = re.compile(r"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = ([\d.e+-]+) ms")
_NAMES = {"min": "minimum", "max": "maximum", "mean": "mean", "median": "p50"}


@dataclass
class Log:
    """What a log tells; empty where it does not."""

    passed: bool | None = None
    model: str = ""
    precision: str = ""
    version: str = ""
    date: str = ""
    gpu: str = ""
    capability: str = ""
    memory_bytes: int = 0
    streams: int | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def is_times(rows: Any) -> bool:
    """Whether JSON is of --exportTimes."""
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "computeMs" in rows[0]


def is_profile(rows: Any) -> bool:
    """Whether JSON is of --exportProfile."""
    return (isinstance(rows, list) and len(rows) > 1 and isinstance(rows[1], dict) and "averageMs" in rows[1]
            and isinstance(rows[0], dict) and "count" in rows[0])


def is_log(data: bytes) -> bool:
    """Whether it is a log."""
    return _MARK.search(data) is not None


def read_log(data: bytes, where: str) -> Log:
    """The log's facts. InputError if the run failed, or if it is no log of trtexec's."""
    if not is_log(data):
        raise common.bad("not a log of trtexec", where)
    found = Log()
    for line in data.decode("utf-8", "replace").splitlines():
        if verdict := _VERDICT.match(line):
            _verdict(found, verdict)
        elif said := _LINE.match(line):
            found.date = _date(said[1]) or found.date
            _fact(found, said[2].strip())
    if found.passed is False:
        raise common.bad("trtexec did not succeed", where, "its log says FAILED")
    return found


def of_log(data: bytes, where: str, given: Given) -> list[Measurement]:
    """One record of what the log's summary states."""
    log = read_log(data, where)
    if "latency.p50" not in log.figures:
        raise common.bad("a log without a performance summary", where, "no line says Latency: ... median = ...")
    return [_record(given, where, log, stated=log.figures)]


def of_times(rows: Sequence[Any], where: str, given: Given, log: Log | None = None) -> list[Measurement]:
    """One record with every call's latency; the log, where there is one, tells of model and device."""
    calls = [common.mapping(r) for r in rows]
    samples = common.times([r.get("latencyMs") for r in calls], where, MS)
    stated = {}
    for key, name in (("computeMs", "compute"), ("h2dMs", "h2d"), ("d2hMs", "d2h")):
        if all(key in r for r in calls):
            part = common.times([r[key] for r in calls], where, MS)
            for label, q in (("p50", 0.5), ("p99", 0.99)):
                found = quantile(part, q)
                stated[f"{name}.{label}"] = Figure(value=found.value, unit="s", low=found.low, high=found.high,
                                                   confidence=0.95)
    if log is not None and "queries" in log.figures:
        stated["queries"] = log.figures["queries"]
    return [_record(given, where, log or Log(), samples=samples, stated=stated)]


def of_profile(rows: Sequence[Any], where: str, given: Given, log: Log | None = None) -> list[Measurement]:
    """One record with a figure for each layer: `layer.p50:<name>`, in older versions the mean."""
    layers = [common.mapping(r) for r in rows[1:]]
    if len(layers) > MOST_LAYERS:
        raise common.bad(f"a profile of {len(layers)} layers", where, f"at most {MOST_LAYERS} are read")
    stated: dict[str, Figure] = {}
    for i, layer in enumerate(layers):
        name, statistic = common.text(layer.get("name"), 250), "p50" if "medianMs" in layer else "mean"
        value = common.seconds(layer.get("medianMs" if statistic == "p50" else "averageMs"), MS)
        if not name or value is None:
            raise common.bad(f"no name or no time in layer {i + 1}", where)
        key = f"layer.{statistic}:{name}"
        stated[key if key not in stated else f"{key} #{i}"] = Figure(value=value, unit="s")
    return [_record(given, where, log or Log(), stated=stated)]


def _record(given: Given, where: str, log: Log, **more: Any) -> Measurement:
    gpu = Gpu(name=log.gpu, arch=log.capability and f"sm_{log.capability.replace('.', '')}",
              memory_bytes=log.memory_bytes)
    machine = common.device(given, TOOL, facts=[log.gpu, log.capability] if log.gpu else (),
                            gpus=(gpu,) if log.gpu else ())
    load = Load(concurrency=log.streams) if log.streams else None
    return common.record(
        given, where, Source(tool=TOOL, version=log.version), machine, model=log.model, date=log.date,
        backend="tensorrt", precision=log.precision, shapes=log.shapes, load=load,
        versions={"tensorrt": log.version} if log.version else {}, **more)


def _verdict(log: Log, found: re.Match[str]) -> None:
    if found[1] in ("PASSED", "FAILED"):
        log.passed = found[1] == "PASSED"
    log.version = log.version or found[2] or ""
    named = re.search(r"--(?:onnx|loadEngine)=(\S+)", found[3] or "")
    if named and not log.model:
        log.model = PurePath(named[1]).stem


def _fact(log: Log, line: str) -> None:
    """One line of a log, without its date."""
    name, _, value = line.partition(": ")
    if name in PARTS:
        for statistic, percent, number in _STATISTIC.findall(value):
            found = common.seconds(_float(number), MS)
            if found is not None:
                label = f"p{float(percent):g}" if percent else _NAMES[statistic]
                log.figures[f"{PARTS[name]}.{label}"] = Figure(value=found, unit="s")
    elif name == "Throughput" and value.endswith(" qps"):
        if (rate := common.seconds(_float(value.removesuffix(" qps")))) is not None:
            log.figures["queries"] = Figure(value=rate, unit="1/s")
    elif name == "Precision":
        log.precision = value.split(" ")[0].lower()[:100]
    elif name == "Model" and value:
        log.model = PurePath(value).stem
    elif name == "TensorRT version":
        log.version = value[:40]
    elif name == "Selected Device":
        log.gpu = value[:200]
    elif name == "Compute Capability" and re.fullmatch(r"\d{1,2}\.\d", value):
        log.capability = value
    elif name == "Device Global Memory" and (size := re.match(r"(\d{1,9}) MiB", value)):
        log.memory_bytes = int(size[1]) << 20
    elif name == "Streams" and re.fullmatch(r"[1-9]\d{0,4}", value):
        log.streams = int(value)
    elif binding := _BINDING.match(line):
        dims = tuple(int(d) for d in binding[2].split("x") if len(d) < 10)
        log.shapes[binding[1][:200]] = dims


def _date(said: str) -> str:
    """A log's time: it names no zone, and is taken for that of this machine."""
    try:
        found = datetime.strptime(said, "%m/%d/%Y-%H:%M:%S").astimezone()
        return found.isoformat()
    except (ValueError, OverflowError):
        return ""


def _float(said: str) -> float | None:
    try:
        return float(said)
    except ValueError:
        return None
