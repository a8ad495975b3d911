"""The same report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from whet.measure.record import Measurement
from whet.report import rows


def markdown(records: Sequence[Measurement], title: str) -> str:
    """Title, findings, a table for each model and shape, the machine."""
    out = [f"# {title}", ""]
    if records:
        r = records[0]
        out += [f"{r.device.name}, {rows.threads(r)}, {r.date[:16].replace('T', ' ')} UTC", ""]
    out += [f"- {f}" for f in rows.findings(records)]
    for group in rows.groups(records):
        out += ["", f"## {group.title}", "", *_table(group)]
    if records:
        device = records[0].device
        versions = {k: v for r in records for k, v in r.versions.items()}
        out += ["", "## How this was measured", "",
                "All backends took turns in one process on the same inputs. Brackets and `to`: 95 % intervals.", "",
                f"- machine: {device.name}, {device.arch}, {rows.cores(device)}, "
                f"{rows.size(device.memory_bytes)} memory, {device.kernel}, fingerprint {device.fingerprint}",
                f"- versions: {', '.join(f'{k} {v}' for k, v in versions.items())}"]
        out += [f"- {name}: {text}" for name, text in (("tools", rows.tools(records)), ("lock", rows.locks(records)))
                if text]
        out += [f"- model {name}: SHA-256 {sha}" for name, sha in dict.fromkeys(
            (r.model.name, r.model.sha256 or "unknown") for r in records)]
    return "\n".join(out) + "\n"


def _table(group: rows.Group) -> list[str]:
    head = ("backend and precision", "accuracy", "median", "p99", "throughput", "plan", "error")
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for r in group.rows:
        median = f"{r.median} [{r.median_interval}]" if r.median else ""
        cells = (r.label, r.accuracy, median, r.p99, r.throughput, r.size, r.error)
        lines.append(f"| {' | '.join(c or '-' for c in cells)} |")
    return lines


def one_line(text: str) -> str:
    """Without what Markdown would take for HTML or a new line: names come from models, labels from files."""
    return " ".join(text.split()).replace("<", "&lt;")
