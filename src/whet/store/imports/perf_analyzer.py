"""What perf_analyzer and GenAI-Perf write about a server: CSV (-f), --profile-export-file, the JSON summary.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/perf_analyzer/docs/measurements_metrics.html
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from whet.errors import InputError
from whet.measure.record import Figure, Load, Measurement, Source
from whet.store.imports import common
from whet.store.imports.common import Given

TOOL = "perf_analyzer"
GENAI = "genai-perf"
US, NS = 1e-6, 1e-9
RATE = "Inferences/Second"
UNITS = {"ms": ("s", 1e-3), "us": ("s", 1e-6), "ns": ("s", 1e-9), "s": ("s", 1.0), "sec": ("s", 1.0),
         "requests/sec": ("1/s", 1.0), "tokens/sec": ("tokens/s", 1.0)}
STATISTICS = {"avg": "mean", "min": "minimum", "max": "maximum", "std": "deviation"}
_PERCENTILE = re.compile(r"p(\d{1,2}) latency")
_TIMED = ("Client Send", "Network+Server Send/Recv", "Server Queue", "Server Compute Input", "Server Compute Infer",
          "Server Compute", "Server Compute Output", "Client Recv")


def is_csv(data: bytes) -> bool:
    """Whether it is a table of perf_analyzer's."""
    return RATE.encode() in data[:2000].split(b"\n", 1)[0]


def is_profile(whole: Any) -> bool:
    """Whether JSON is of --profile-export-file."""
    return isinstance(whole, dict) and isinstance(whole.get("experiments"), list)


def is_summary(whole: Any) -> bool:
    """Whether JSON is GenAI-Perf's summary."""
    return isinstance(whole, dict) and ("request_latency" in whole or "request_throughput" in whole)


def of_csv(data: bytes, where: str, given: Given) -> list[Measurement]:
    """A record for each concurrency or request rate; times are in microseconds there."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8")), strict=True))
    except (csv.Error, UnicodeDecodeError) as e:
        raise common.bad("not a table", where, str(e)) from e
    head = rows[0]
    found: list[Measurement] = []
    for line, row in enumerate(rows[1:], 2):
        if not row:  # tables of composing models follow
            break
        if len(found) >= common.MOST_RECORDS:
            raise common.bad(f"more than {common.MOST_RECORDS} rows", where)
        cells = {name.strip(): _number(cell) for name, cell in zip(head, row)}
        if len(row) < len(head) or (rate := cells.get(RATE)) is None or rate < 0:
            raise common.bad(f"no {RATE} in line {line}", where)
        stated: dict[str, Figure] = {}
        for name, cell in cells.items():
            key = _column(name)
            if key and cell is not None and cell >= 0:
                stated[key] = Figure(value=cell * US, unit="s")
        found.append(common.record(
            given, where, Source(tool=TOOL), common.device(given, TOOL), backend="server", throughput=rate,
            load=_load(cells.get("Concurrency"), cells.get("Request Rate"), f"{where}, line {line}"), stated=stated))
    if not found:
        raise common.bad("a table without rows", where)
    return found


def of_profile(whole: dict[str, Any], where: str, given: Given) -> list[Measurement]:
    """A record for each experiment, with the latency of each request: from sending it to its last response."""
    found = []
    if len(whole["experiments"]) > common.MOST_RECORDS:
        raise common.bad(f"more than {common.MOST_RECORDS} experiments", where)
    for i, each in enumerate(whole["experiments"]):
        at = f"{where}, experiment {i + 1}"
        experiment = common.mapping(each)
        asked = common.mapping(experiment.get("experiment"))
        samples = _samples(experiment, at)
        value = common.number(asked.get("value"))
        concurrent = asked.get("mode") == "concurrency"
        found.append(common.record(
            given, where, Source(tool=TOOL, version=common.text(whole.get("version"), 40)),
            common.device(given, TOOL), backend="server", samples=samples,
            load=_load(value if concurrent else None, value if asked.get("mode") == "request_rate" else None, at)))
    if not found:
        raise common.bad("a profile without experiments", where)
    return found


def of_summary(whole: dict[str, Any], where: str, given: Given) -> list[Measurement]:
    """One record with the figures that the summary states, `request_latency` as `latency`."""
    stated: dict[str, Figure] = {}
    for name, entry in whole.items():
        metric = common.mapping(entry)
        if metric.get("unit") is None:
            continue
        said = common.text(metric["unit"], 40)
        unit, scale = UNITS.get(said, (said, 1.0))
        base = "latency" if name == "request_latency" else common.text(name, 200)
        for key, value in metric.items():
            label = STATISTICS.get(key) or (key if re.fullmatch(r"p\d{1,2}", key) else "")
            number = common.number(value)
            if label and number is not None and len(stated) < 1000:
                stated[f"{base}.{label}"] = Figure(value=number * scale, unit=unit)
    if not stated:
        raise common.bad("a summary without figures", where)
    asked = common.mapping(whole.get("input_config"))
    names = asked.get("model_names") or asked.get("model")
    name = common.text(names[0] if isinstance(names, list) and names else names)
    stimulus = common.mapping(common.mapping(asked.get("perf_analyzer")).get("stimulus"))
    concurrency = common.number(asked.get("concurrency") or stimulus.get("concurrency"))
    rate = common.number(asked.get("request_rate") or stimulus.get("request_rate"))
    return [common.record(given, where, Source(tool=GENAI, version=common.text(whole.get("version"), 40)),
                          common.device(given, GENAI), model=name, backend="server",
                          load=_load(concurrency, rate, where), stated=stated)]


def _samples(experiment: dict[str, Any], where: str) -> list[float]:
    """Seconds of the requests that ended within the windows of measurement, where these are told."""
    listed, requests = experiment.get("window_boundaries"), experiment.get("requests")
    windows = [w for w in map(common.number, listed if isinstance(listed, list) else []) if w is not None]
    found = []
    for i, each in enumerate(requests if isinstance(requests, list) else []):
        request = common.mapping(each)
        responses = request.get("response_timestamps")
        if responses == []:  # sent, and never answered within the run
            continue
        start, end = request.get("timestamp"), responses[-1] if isinstance(responses, list) else None
        if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end < 2**63:
            raise common.bad(f"no times in request {i + 1}", where)
        if not windows or min(windows) <= end <= max(windows):
            found.append((end - start) * NS)  # of integers: a float does not hold nanoseconds since 1970
    if not found:
        raise common.bad("no requests within the windows of measurement", where)
    return found


def _load(concurrency: float | None, rate: float | None, where: str) -> Load:
    if rate is not None and rate > 0:
        return Load(pattern="open-loop", rate=rate)
    if concurrency is None:
        return Load(pattern="unknown")
    if not 1 <= concurrency <= 10**6 or concurrency != int(concurrency):
        raise InputError(f"a concurrency of {concurrency:g}", where=where, why="it is a count of requests under way",
                         do="check the file")
    return Load(concurrency=int(concurrency))


def _column(name: str) -> str:
    """The figure that a column is, if it is a time."""
    if percentile := _PERCENTILE.fullmatch(name):
        return f"latency.p{percentile[1]}"
    if name == "Avg latency":
        return "latency.mean"
    return f"{re.sub('[^a-z]+', '_', name.lower())}.mean" if name in _TIMED else ""


def _number(cell: str) -> float | None:
    try:
        return common.number(float(cell))
    except ValueError:
        return None
