"""What asv (airspeed velocity) writes: results/<machine>/<commit>-<environment>.json.

https://asv.readthedocs.io/en/stable/dev.html#format (version 2, by columns; version 1, by names).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whet.measure.record import Device, Figure, Load, Measurement, Source
from whet.store.imports import common
from whet.store.imports.common import Given, Imported

TOOL = "asv"
COLUMNS = ("result", "params", "version", "started_at", "duration", "stats_ci_99_a", "stats_ci_99_b", "stats_q_25",
           "stats_q_75", "stats_number", "stats_repeat", "samples", "profile")
# The kind of a benchmark is the beginning of its function's name: what it measures, and in which unit.
METRICS = {"time": ("latency.p50", "s"), "timeraw": ("latency.p50", "s"), "mem": ("memory.object", "bytes"),
           "peakmem": ("memory.peak", "bytes"), "track": ("value", "")}


def is_ours(whole: Any) -> bool:
    """Whether JSON is a result file of asv's."""
    return isinstance(whole, dict) and "commit_hash" in whole and isinstance(whole.get("results"), dict)


def convert(whole: dict[str, Any], where: str, given: Given, known: Mapping[str, Any] | None = None) -> Imported:
    """A record for each benchmark and set of parameters that has a result. The date is the commit's, as in asv's own
    graphs; when it was measured is in `source.measured`. `known` is benchmarks.json, with units and parameters' names.
    """
    machine = common.mapping(whole.get("params"))
    count = common.text(machine.get("num_cpu"), 10)
    device = common.device(given, TOOL, common.text(machine.get("cpu")), common.text(machine.get("arch"), 40),
                           int(count) if count.isascii() and count.isdigit() and 0 < int(count) < 10**6 else None,
                           [common.text(machine.get("machine"), 100)])
    versions = {"commit": common.text(whole.get("commit_hash"), 80), "python": common.text(whole.get("python"), 20)}
    versions |= {k[:80]: v[:40] for k, v in common.mapping(whole.get("requirements")).items()
                 if isinstance(v, str) and v}
    date = common.date_of(whole.get("date"), where)
    environment = common.text(whole.get("env_name"), 200)
    records: list[Measurement] = []
    missing = 0
    for name, raw in whole["results"].items():
        at = f"{where}, {name[:80]}"
        columns = _columns(raw, whole, name)
        if columns is None:
            missing += 1
            continue
        about = common.mapping((known or {}).get(name))
        for given_parameters, values in _cases(columns, about, at):
            if common.number(values.get("result")) is None:
                missing += 1
                continue
            if len(records) >= common.MOST_RECORDS:
                raise common.bad(f"more than {common.MOST_RECORDS} results", where)
            records.append(_record(given, at, name[:300], about, values, device, date,
                                   {**({"env": environment} if environment else {}), **given_parameters},
                                   {k: v for k, v in versions.items() if v}))
    notes = (f"{missing} benchmarks without a result were left out",) if missing else ()
    return Imported(TOOL, records, notes)


def _record(given: Given, where: str, name: str, about: Mapping[str, Any], values: Mapping[str, Any], device: Device,
            date: str, parameters: dict[str, str], versions: dict[str, str]) -> Measurement:
    kind = common.text(about.get("type"), 20) or name.rsplit(".", 1)[-1].split("_", 1)[0]
    metric, unit = METRICS.get(kind, ("value", ""))
    unit = unit or common.text(about.get("unit"), 50)
    value = common.number(values["result"])
    assert value is not None
    if metric == "latency.p50" and value < 0:
        raise common.bad("a negative time", where)
    low, high = common.number(values.get("stats_ci_99_a")), common.number(values.get("stats_ci_99_b"))
    bounded = low is not None or high is not None
    stated = {metric: Figure(value=value, unit=unit, low=low, high=high, confidence=0.99 if bounded else None)}
    if metric == "latency.p50":
        stated |= common.figures({"latency.p25": common.seconds(values.get("stats_q_25")),
                                  "latency.p75": common.seconds(values.get("stats_q_75"))})
    raw = values.get("samples")
    samples = common.times(raw, where) if isinstance(raw, list) and raw and metric == "latency.p50" else None
    started = values.get("started_at")
    measured = common.date_of(started, where) if common.number(started) is not None else ""
    if version := common.text(values.get("version"), 64):
        parameters = {**parameters, "benchmark": version[:12]}  # another version of its code is another benchmark
    return common.record(
        given, where, Source(tool=TOOL, benchmark=name, parameters=parameters, measured=measured), device, model=name,
        date=date, backend=TOOL, versions=versions, samples=samples, load=Load(), stated=stated)


def _columns(raw: Any, whole: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A benchmark's columns by name, whichever version wrote them; None without a result."""
    if isinstance(raw, list):
        names = whole.get("result_columns")
        known = [n for n in names if isinstance(n, str)] if isinstance(names, list) else list(COLUMNS)
        found = dict(zip(known, raw))
    elif isinstance(raw, dict):
        listed = raw.get("stats")
        stats = [common.mapping(s) for s in listed] if isinstance(listed, list) else []
        ci = [_pair(s.get("ci_99")) for s in stats]
        found = {**raw, "stats_ci_99_a": [a for a, _ in ci], "stats_ci_99_b": [b for _, b in ci],
                 "stats_q_25": [s.get("q_25") for s in stats], "stats_q_75": [s.get("q_75") for s in stats]}
    else:
        found = {"result": raw}
    found.setdefault("version", common.mapping(whole.get("benchmark_version")).get(name))
    found.setdefault("started_at", common.mapping(whole.get("started_at")).get(name))
    if found.get("result") is None:
        return None
    if not isinstance(found["result"], list):
        found = {k: [v] if k in ("result", "samples") else v for k, v in found.items()}
    return found


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, list) and len(value) == 2 else (None, None)


def _cases(columns: Mapping[str, Any], about: Mapping[str, Any],
           where: str) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Each set of parameters with its values: results are in the order of the parameters' product."""
    params = columns.get("params") or []
    if not isinstance(params, list) or not all(isinstance(p, list) for p in params):
        raise common.bad("parameters that are no lists", where)
    results: Sequence[Any] = columns["result"]
    expected = math.prod(len(p) for p in params)
    if expected != len(results) or expected > common.MOST_RECORDS:
        raise common.bad(f"{len(results)} results for {expected} sets of parameters", where)
    names = about.get("param_names")
    if not isinstance(names, list) or len(names) != len(params):
        names = [f"p{i + 1}" for i in range(len(params))]
    for i, chosen in enumerate(itertools.product(*params)):
        each = {k: (v[i] if isinstance(v, list) and i < len(v) else None) for k, v in columns.items()
                if k.startswith("stats_") or k in ("result", "samples")}
        each |= {k: columns.get(k) for k in ("version", "started_at")}
        yield {str(n)[:80]: str(c)[:200] for n, c in zip(names, chosen)}, each
