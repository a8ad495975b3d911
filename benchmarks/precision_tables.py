"""The results of benchmarks/precision.py as a table, a chart and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import STYLE, TITLES, machine, write
from whet.measure import Measurement, record, stats
from whet.report import charts, rows

PEERS = (("onnxruntime", "int8"), ("onnxruntime", "int8 defaults"), ("openvino", "int8"))


def save(path: Path, records: Sequence[Measurement]) -> None:
    """Write the records to `path`, the table beside it as `.md`, the chart as `.svg`; each by atomic rename."""
    write(path, {".json": record.encode(list(records)), ".md": markdown(records).encode(),
                 ".svg": chart(records).encode()})


def case(r: Measurement) -> tuple[str, int]:
    """Model and batch (0 where no shapes were measured)."""
    return r.model.name, next((s[0] for s in r.shapes.values() if s), 0)


def calibrating(r: Measurement) -> bool:
    """True if it is the record of calibrating."""
    return r.latency is None and r.build_seconds is not None


def markdown(records: Sequence[Measurement]) -> str:
    """One row a case: latencies, ratios with their 95 % intervals, errors, the share of the VNNI limit."""
    out = [
        "# whet's int8 on the CPU, beside its peers'", "",
        machine(records), "",
        "Ratios are medians of the peer's latency over whet's from alternating runs, with 95 % intervals: over 1, whet "
        "is faster. Each quantized the model with its own quantizer and the same 32 samples: ONNX Runtime by "
        "quantize_static (Q/DQ, per channel) with unsigned activations, and with its defaults; OpenVINO by NNCF. "
        "Errors: relative L2 from ONNX Runtime's fp32 outputs after the mean over classes is taken off, whet's / ONNX "
        "Runtime's / OpenVINO's (weights are random, which costs more than trained ones do). VNNI: operations of the "
        "model's products a second as a share of the rate that bare vpdpbusd loops reach on this machine in the same "
        "run; AMX tiles can go beyond it. `python benchmarks/precision.py` makes this file.", "",
        "| model | batch | whet | ONNX Runtime | against | its defaults | against | OpenVINO | against | errors | "
        "VNNI |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|"]
    for r in (r for r in records if r.backend == "whet" and r.latency):
        beside = {p: _peer(records, r, p) for p in PEERS}
        name, batch = case(r)
        cells = [TITLES.get(name, name), str(batch), _median(r)]
        for p, peer in beside.items():
            c = next((c for c in r.comparisons if (c.backend, c.precision) == p), None)
            cells += [_median(peer), f"**{c.ratio:.2f}** ({c.low:.2f} to {c.high:.2f})" if c else "-"]
        errors = [r, beside[PEERS[0]], beside[PEERS[2]]]
        cells += [" / ".join(f"{e.error.value:.3f}" if e and e.error else "-" for e in errors),
                  f"{r.limit.fraction:.0%}" if r.limit else "-"]
        out.append(f"| {' | '.join(cells)} |")
    for p in PEERS:
        ratios = [c.ratio for r in records for c in r.comparisons if (c.backend, c.precision) == p]
        if ratios:
            who = f"{rows.NAMES[p[0]]} {p[1]}"
            out += ["", f"Geometric mean against {who}: **{stats.geometric_mean(ratios):.2f}** of {len(ratios)} "
                        f"ratios, the least {min(ratios):.2f}."]
    return "\n".join([*out, *_plans(records)]) + "\n"


def _plans(records: Sequence[Measurement]) -> list[str]:
    out = ["", "## Plans", "", "| model | batch | calibrated and built | plan |", "|---|---:|---:|---:|"]
    for r in (r for r in records if r.backend == "whet" and r.latency):
        name, batch = case(r)
        took = rows.seconds(r.build_seconds) if r.build_seconds is not None else "-"
        out.append(f"| {TITLES.get(name, name)} | {batch} | {took} | {rows.size(r.plan.bytes) if r.plan else '-'} |")
    for r in (r for r in records if calibrating(r)):
        name, samples = case(r)
        peak = f" at a peak of {rows.size(r.memory.peak_bytes)}" if r.memory else ""
        took = rows.seconds(r.build_seconds or 0)
        out += ["", f"{TITLES.get(name, name)} is calibrated on {samples} images in {took}{peak} (one "
                    "process that also makes the images and the plan, without tuning)."]
    weights = {r.precision: r.plan.weights for r in records if r.latency is None and r.plan and r.plan.weights}
    if {"int8", "fp32"} <= set(weights):
        out += ["", f"Weights in its plan at batch 1: {rows.size(weights['int8'])}, "
                    f"{weights['int8'] / weights['fp32']:.3f} of fp32's {rows.size(weights['fp32'])}."]
    return out


def chart(records: Sequence[Measurement]) -> str:
    """Speed against ONNX Runtime's int8, whet's and OpenVINO's, as one SVG file."""
    bars = []
    for r in (r for r in records if r.backend == "whet" and r.latency):
        base, openvino = _peer(records, r, PEERS[0]), _peer(records, r, PEERS[2])
        c = next((c for c in r.comparisons if (c.backend, c.precision) == PEERS[0]), None)
        if base is None or base.latency is None or c is None:
            continue
        name, batch = case(r)
        title = f"{TITLES.get(name, name).split(' (')[0]}, batch {batch}"
        bars.append(charts.Bar(f"{title}, whet", c.ratio, f"{c.ratio:.2f}x", True, c.low, c.high))
        if openvino is not None and openvino.latency is not None:
            ratio = base.latency.p50.value / openvino.latency.p50.value
            bars.append(charts.Bar(f"{title}, OpenVINO", ratio, f"{ratio:.2f}x", False))
    if not bars:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    drawn = charts.bars(bars, "speed against ONNX Runtime int8", "times ONNX Runtime int8", reference=1.0,
                        label_width=230)
    return drawn.replace(">", f">{STYLE}", 1)


def _peer(records: Sequence[Measurement], ours: Measurement, peer: tuple[str, str]) -> Measurement | None:
    return next((o for o in records if (o.backend, o.precision) == peer and o.model.name == ours.model.name
                 and o.shapes == ours.shapes and o.threads == ours.threads), None)


def _median(r: Measurement | None) -> str:
    return rows.seconds(r.latency.p50.value) if r is not None and r.latency else "-"
