"""The benchmark's results as a table, a chart and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from whet.measure import Measurement, record, stats
from whet.report import charts, rows

TITLES = {"resnet50": "ResNet-50", "mobilenetv2": "MobileNetV2", "bert": "BERT-base (128 tokens)", "vit": "ViT-B/16"}
STYLE = """<style>text{font:13px system-ui,sans-serif}.grid{stroke:#d8dee4}.tick,.name,.value{fill:#57606a}
.value{font-weight:600}.bar.ours{fill:#0b7a75}.bar.theirs{fill:#a9b4be}
.whisker{stroke:#24292f;stroke-width:1.5;fill:none}.reference{stroke:#b45309;stroke-width:1.5;stroke-dasharray:5 4}
</style>"""


def save(path: Path, records: Sequence[Measurement]) -> None:
    """Write the records to `path`, the table beside it as `.md`, the chart as `.svg`; each by atomic rename."""
    write(path, {".json": record.encode(list(records)), ".md": markdown(records).encode(),
                 ".svg": chart(records).encode()})


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write `path` with each of the suffixes, by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, data in files.items():
        target = path.with_suffix(suffix)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(data)
        temporary.replace(target)


def machine(records: Sequence[Measurement]) -> str:
    """Where, with what and when the records were taken, in one line."""
    first = records[0]
    versions = {k: v for r in records for k, v in r.versions.items()}
    return (f"{first.device.name}, {', '.join(first.device.features)}; {first.threads} threads; {first.device.kernel}; "
            f"{', '.join(f'{k} {v}' for k, v in versions.items())}; {first.date[:10]} to {records[-1].date[:10]}.")


def markdown(records: Sequence[Measurement]) -> str:
    """One row a case: whet's latency, the share of the hardware's limit, and ratios with their 95 % intervals."""
    out = [
        "# whet on the CPU, beside its peers", "", machine(records), "",
        "Ratios are medians of the peer's latency over whet's from alternating runs, with 95 % intervals: over 1, whet "
        "is faster. ONNX Runtime is its default session in fp32. Error: relative L2 from ONNX Runtime's fp32 outputs "
        "after the mean over classes is taken off. Limit: the share of the rate that bare multiply-add loops reach on "
        "this machine in the same run. `python benchmarks/cpu.py` makes this file.",
    ]
    for precision in dict.fromkeys(r.precision for r in records if r.backend == "whet"):
        out += ["", f"## {precision}", "",
                "| model | batch | whet | ONNX Runtime fp32 | against ONNX Runtime | "
                f"OpenVINO {precision} | against OpenVINO | error | limit |",
                "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        for r in _ours(records, precision):
            cells = [TITLES.get(r.model.name, r.model.name), str(_batch(r)), _median(r)]
            for backend, p in (("onnxruntime", "fp32"), ("openvino", precision)):
                peer = next((o for o in records if o.backend == backend and o.precision == p
                             and o.model.name == r.model.name and o.shapes == r.shapes), None)
                c = next((c for c in r.comparisons if c.backend == backend and c.precision == p), None)
                cells += [_median(peer) if peer else "-",
                          f"**{c.ratio:.2f}** ({c.low:.2f} to {c.high:.2f})" if c else "-"]
            cells += [f"{r.error.value:.1e}" if r.error else "-", f"{r.limit.fraction:.0%}" if r.limit else "-"]
            out.append(f"| {' | '.join(cells)} |")
        for backend, p in (("onnxruntime", "fp32"), ("openvino", precision)):
            ratios = [c.ratio for r in _ours(records, precision) for c in r.comparisons
                      if c.backend == backend and c.precision == p]
            if ratios:
                out += ["", f"Geometric mean against {rows.NAMES[backend]} {p}: **{stats.geometric_mean(ratios):.2f}** "
                            f"of {len(ratios)} ratios, the least {min(ratios):.2f}."]
    return "\n".join([*out, *_costs(records)]) + "\n"


def _costs(records: Sequence[Measurement]) -> list[str]:
    """Build and load times, plan sizes, peak memory at batch 1."""
    ours = [r for r in records if r.backend == "whet"]
    out = ["", "## Building, loading, memory", "",
           "Memory: peak resident memory of a process that loads and runs at batch 1, less that of an idle interpreter "
           "with the same imports.", "",
           "| model | batch | precision | build | with timing cache | load, verified | plan | memory | "
           "ONNX Runtime's | OpenVINO's |", "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"]
    for r in ours:
        def memory(backend: str, precision: str, of: Measurement = r) -> str:
            found = next((o.memory for o in records if o.backend == backend and o.precision == precision
                          and o.model.name == of.model.name and o.shapes == of.shapes), None)
            return f"{(found.peak_bytes - found.idle_bytes) / (1 << 20):.0f} MiB" if found else "-"

        out.append(f"| {TITLES.get(r.model.name, r.model.name)} | {_batch(r)} | {r.precision} | "
                   f"{_time(r.build_seconds)} | {_time(r.cached_build_seconds)} | {_time(r.load_seconds)} | "
                   f"{rows.size(r.plan.bytes) if r.plan else '-'} | {memory('whet', r.precision)} | "
                   f"{memory('onnxruntime', 'fp32')} | {memory('openvino', r.precision)} |")
    return out


def chart(records: Sequence[Measurement]) -> str:
    """Speed against ONNX Runtime's fp32 at the smallest batch, whet's and OpenVINO's, as one SVG file."""
    bars = []
    batch = min((_batch(r) for r in records), default=1)
    for r in records:
        if r.backend not in ("whet", "openvino") or _batch(r) != batch:
            continue
        peer = next((o for o in records if o.backend == "onnxruntime" and o.model.name == r.model.name
                     and o.shapes == r.shapes), None)
        if peer is None or peer.latency is None or r.latency is None:
            continue
        c = next((c for c in r.comparisons if c.backend == "onnxruntime"), None)
        ratio = c.ratio if c else peer.latency.p50.value / r.latency.p50.value
        name = TITLES.get(r.model.name, r.model.name).split(" (")[0]
        bars.append(charts.Bar(f"{name}, {rows.label(r)}", ratio, f"{ratio:.2f}x", r.backend == "whet",
                               c.low if c else None, c.high if c else None))
    if not bars:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    axis = f"times ONNX Runtime fp32, batch {batch}"
    drawn = charts.bars(bars, "speed against ONNX Runtime fp32", axis, reference=1.0, label_width=230)
    return drawn.replace(">", f">{STYLE}", 1)


def _ours(records: Sequence[Measurement], precision: str) -> list[Measurement]:
    return [r for r in records if r.backend == "whet" and r.precision == precision]


def _batch(r: Measurement) -> int:
    return next(iter(r.shapes.values()))[0]


def _median(r: Measurement) -> str:
    return rows.seconds(r.latency.p50.value) if r.latency else "-"


def _time(value: float | None) -> str:
    return rows.seconds(value) if value is not None else "-"
