"""A report as one HTML file that needs nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

from whet.measure.record import Measurement
from whet.report import charts, elements, rows

WHISKERS = "whiskers: 95 % interval"


def html(records: Sequence[Measurement], title: str) -> str:
    """The whole page. Figures are those of the records; nothing is fetched."""
    found = rows.findings(records)
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    parts = [
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
    ]
    if records:
        first = records[0]
        parts.append(f'<p class="soft">{escape(first.device.name)}, {rows.threads(first)}, '
                     f"{escape(first.date[:16].replace('T', ' '))} UTC</p>")
    if found:
        items = "".join(f"<li>{escape(f)}</li>" for f in found)
        parts.append(f'<ul class="findings">{items}</ul>')
    for group in rows.groups(records):
        parts.append(_group(group))
    parts.append(_how(records))
    return "".join(parts) + "</main></body></html>\n"


def _group(group: rows.Group) -> str:
    parts = [f"<h2>{escape(group.title)}</h2>", _table(group)]
    timed = [(rows.label(r), r.backend == "whet", r.latency) for r in group.records if r.latency]
    if timed:
        scale, unit = rows.unit(max(latency.p50.value for _, _, latency in timed))

        def scaled(value: float | None) -> float | None:
            return None if value is None else value * scale

        parts.append(elements.figure("Median latency", f"in {unit}, shorter is better; {WHISKERS}", charts.bars(
            [charts.Bar(name, l.p50.value * scale, rows.seconds(l.p50.value), ours, scaled(l.p50.low),
                        scaled(l.p50.high))
             for name, ours, l in timed], f"median latency of {group.title}", unit)))
        parts.append(elements.figure("Every call", f"in {unit}, a dot each; the line is the median", charts.strips(
            [charts.Strip(name, [s * scale for s in l.samples], ours) for name, ours, l in timed if l.samples],
            f"latency samples of {group.title}", unit)))
    compared = [(r, c) for r in group.records for c in r.comparisons]
    if compared:
        ratios = [charts.Bar(f"{r.precision} / {rows.NAMES.get(c.backend, c.backend)} {c.precision}", c.ratio,
                             f"{c.ratio:.2f}x", r.backend == "whet", c.low, c.high) for r, c in compared]
        parts.append(elements.figure("Speed against peers", f"ratio of medians, over 1 is faster; {WHISKERS}",
                             charts.bars(ratios, f"speed ratios of {group.title}", "ratio", reference=1.0)))
    return "".join(parts)


def _table(group: rows.Group) -> str:
    columns = ("backend and precision", "accuracy", "median", "p99", "throughput", "plan", "error")
    head = "".join(f'<th{" class=figure" if i else ""}>{c}</th>' for i, c in enumerate(columns))
    body = []
    for record, r in zip(group.records, group.rows):
        cells = [
            f"<td>{escape(r.label)}</td>",
            _cell(r.accuracy, rows.accuracy_interval(record)), _cell(r.median, r.median_interval), _cell(r.p99),
            _cell(r.throughput), _cell(r.size), _cell(r.error),
        ]
        body.append(f"<tr{' class=ours' if r.ours else ''}>{''.join(cells)}</tr>")
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(text: str, small: str = "") -> str:
    note = f"<small>{escape(small)}</small>" if small and text else ""
    return f'<td class="figure">{escape(text) or "&ndash;"}{note}</td>'


def _how(records: Sequence[Measurement]) -> str:
    if not records:
        return '<p class="soft">Nothing was measured.</p>'
    first = records[0]
    device = first.device
    facts = [
        ("machine", f"{device.name}, {device.arch}, {rows.cores(device)}, {rows.size(device.memory_bytes)} memory"),
        ("features", " ".join(device.features)), ("system", device.kernel), ("fingerprint", device.fingerprint),
        ("versions", ", ".join(f"{k} {v}" for k, v in {k: v for r in records for k, v in r.versions.items()}.items())),
        ("tools", rows.tools(records)), ("lock", rows.locks(records)),
        ("model", ", ".join(dict.fromkeys(f"{r.model.name}, SHA-256 {r.model.sha256[:16]}" for r in records))),
        ("plans", ", ".join(dict.fromkeys(f"{r.precision} {r.plan.hash[:16]}" for r in records if r.plan))),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return (
        "<h2>How this was measured</h2>"
        "<p>All backends took turns in one process on the same inputs, each after uncounted calls of its own, so "
        "that what disturbs one disturbs all. Percentile intervals are order statistics; intervals of ratios are "
        "bootstrapped over whole rounds. Errors are the relative L2 distance of outputs from the "
        "reference&rsquo;s after the mean over classes is taken off. Accuracy is stated with its number of samples "
        "and its Wilson interval.</p>"
        f"<dl>{listed}</dl>")
