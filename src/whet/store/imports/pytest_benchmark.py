"""What pytest-benchmark writes (--benchmark-json): https://pytest-benchmark.readthedocs.io/en/latest/usage.html"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from whet.measure.record import Load, Measurement, Source
from whet.store.imports import common
from whet.store.imports.common import Given, Imported

TOOL = "pytest-benchmark"
STATISTICS = {"min": "minimum", "max": "maximum", "mean": "mean", "median": "p50", "q1": "p25", "q3": "p75",
              "stddev": "deviation"}


def is_ours(whole: Any) -> bool:
    """Whether JSON is pytest-benchmark's."""
    return isinstance(whole, dict) and isinstance(whole.get("benchmarks"), list) and "machine_info" in whole


def convert(whole: dict[str, Any], where: str, given: Given) -> Imported:
    """A record for each benchmark: with its rounds where they were saved (--benchmark-save-data), else with what is
    stated. The model is the benchmark's name where none is given."""
    machine = common.mapping(whole.get("machine_info"))
    cpu = common.mapping(machine.get("cpu"))
    count = common.number(cpu.get("count"))
    name = common.text(cpu.get("brand_raw")) or common.text(cpu.get("brand")) or common.text(machine.get("processor"))
    device = common.device(given, TOOL, name, common.text(machine.get("machine"), 40),
                           int(count) if count and 1 <= count <= 10**6 else None,
                           [common.text(machine.get("node"), 100)])
    commit = common.text(common.mapping(whole.get("commit_info")).get("id"), 80)
    versions = {"python": common.text(machine.get("python_version"), 40), "commit": commit}
    records: list[Measurement] = []
    failed = 0
    if len(whole["benchmarks"]) > common.MOST_RECORDS:
        raise common.bad(f"more than {common.MOST_RECORDS} benchmarks", where)
    for i, each in enumerate(whole["benchmarks"]):
        at = f"{where}, benchmark {i + 1}"
        benchmark = common.mapping(each)
        name = common.text(benchmark.get("fullname")) or common.text(benchmark.get("name"))
        if not name:
            raise common.bad("a benchmark without a name", at)
        stats = common.mapping(benchmark.get("stats"))
        if not stats:
            failed += 1
            continue
        data = stats.get("data")
        samples = common.times(data, at) if isinstance(data, list) and data else None
        stated = common.figures({f"latency.{label}": common.seconds(stats.get(key))
                                 for key, label in STATISTICS.items()})
        if samples is None and "latency.p50" not in stated and "latency.mean" not in stated:
            raise common.bad("a benchmark without times", at)
        rounds = common.figures({"rounds": common.number(stats.get("rounds"))}, "")
        records.append(common.record(
            given, at, Source(tool=TOOL, version=common.text(whole.get("version"), 40), benchmark=name), device,
            model=name, date=_date(whole.get("datetime"), where), backend=TOOL, samples=samples, load=Load(),
            versions={k: v for k, v in versions.items() if v}, stated=stated | rounds))
    notes = (f"{failed} benchmarks without figures were left out",) if failed else ()
    if not records:
        raise common.bad("no benchmark with figures", where)
    return Imported(TOOL, records, notes)


def _date(said: Any, where: str) -> str:
    """The run's date; older versions write UTC without saying so."""
    try:
        found = datetime.fromisoformat(common.text(said))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError) as e:
        raise common.bad("a run without a date", where, str(e)) from e
