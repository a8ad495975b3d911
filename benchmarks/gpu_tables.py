"""The GPU benchmark's results as a table, a chart and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_networks import TITLES
from benchmarks.tables import STYLE, write
from whet.measure import Measurement, record
from whet.report import charts, rows

PEERS = ("torch.compile reduce-overhead", "torch.compile max-autotune", "torch eager", "XLA", "onnxruntime")


def gpu_name() -> str:
    """The GPU, its driver and CUDA, as PyTorch tells them."""
    import torch

    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def save(path: Path, records: Sequence[Measurement]) -> None:
    """Write the records to `path`, the table beside it as `.md`, the chart as `.svg`; each by atomic rename."""
    write(path, {".json": record.encode(list(records)), ".md": markdown(records).encode(),
                 ".svg": chart(records).encode()})


def markdown(records: Sequence[Measurement]) -> str:
    """One row a case: latencies, and ratios with their 95 % intervals."""
    first = records[0]
    versions = {k: v for r in records for k, v in r.versions.items()}
    out = ["# whet on the GPU, beside its peers", "",
           f"{versions.pop('gpu', '')}; {', '.join(f'{k} {v}' for k, v in versions.items())}; {first.date[:10]}.", "",
           "Milliseconds between CUDA events around a call in a queue of calls, medians of alternating turns, inputs "
           "on the device. Ratios are the peer's over whet's with 95 % intervals: over 1, whet is faster. *Alone*: a "
           "call on an idle GPU by the host's clock, from handing it over to its end, median. Error: relative L2 from "
           "PyTorch's fp32 after the mean over classes is taken off. `python benchmarks/gpu.py` makes this.", ""]
    for precision in dict.fromkeys(r.precision for r in records):
        mine = [r for r in records if r.precision == precision]
        peers = [p for p in PEERS if any(r.backend == p for r in mine)]
        columns = ["model", "batch", "whet", "alone", "samples/s", *(c for p in peers for c in (p, "ratio", "alone")),
                   "error", "build", "again", "load"]
        out += [f"## {precision}", "", f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
        for r in (r for r in mine if r.backend == "whet"):
            cells = [TITLES[r.model.name], str(_batch(r)), _ms(r), _alone(r),
                     f"{r.throughput:,.0f}" if r.throughput else "-"]
            for p in peers:
                peer = next((o for o in mine if o.backend == p and o.model == r.model and _batch(o) == _batch(r)), None)
                c = next((c for c in r.comparisons if c.backend == p), None)
                cells += [_ms(peer) if peer else "-", f"**{c.ratio:.2f}** ({c.low:.2f} to {c.high:.2f})" if c else "-",
                          _alone(peer)]
            cells += [f"{r.error.value:.1e}" if r.error else "-", *(
                rows.seconds(s) if s else "-" for s in (r.build_seconds, r.cached_build_seconds, r.load_seconds))]
            out.append(f"| {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)


def chart(records: Sequence[Measurement]) -> str:
    """Speed against the fastest of PyTorch's modes, eager and compiled, as one SVG file."""
    bars = []
    for r in (r for r in records if r.backend == "whet"):
        modes = [c for c in r.comparisons if c.backend.startswith("torch")]
        if modes:
            c = min(modes, key=lambda c: c.ratio)
            name = f"{TITLES[r.model.name].split(',')[0]}, batch {_batch(r)}, {r.precision}"
            bars.append(charts.Bar(name, c.ratio, f"{c.ratio:.2f}x", True, c.low, c.high))
    if not bars:
        return '<svg xmlns="http://www.w3.org/2000/svg"/>'
    drawn = charts.bars(bars, "speed against PyTorch", "times the fastest of PyTorch's modes, eager and compiled",
                        reference=1.0, label_width=260)
    return drawn.replace(">", f">{STYLE}", 1)


def _batch(r: Measurement) -> int:
    return next(iter(r.shapes.values()))[0]


def _ms(r: Measurement) -> str:
    return f"{1e3 * r.latency.p50.value:.3f}" if r.latency else "-"


def _alone(r: Measurement | None) -> str:
    return f"{1e3 * r.figures['alone'].value:.3f}" if r is not None and "alone" in r.figures else "-"
