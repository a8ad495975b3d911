"""The report of a search for precision: one page with the front, the layers, what calibration saw, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from whet.report import pareto, rows
from whet.report.files import write_files

if TYPE_CHECKING:
    from whet.precision.result import Candidate, SearchResult

# Sorts a table by the column whose heading is clicked; cells carry their numbers in data-v.
_SORT = """
for (const th of document.querySelectorAll('table.sort th')) th.onclick = () => {
 const body = th.closest('table').tBodies[0], i = th.cellIndex, up = th.dataset.up = th.dataset.up === '1' ? '0' : '1'
 const key = r => { const v = r.cells[i].dataset.v; return v === undefined ? r.cells[i].textContent : parseFloat(v) }
 const less = (a, b) => typeof a === 'string' || typeof b === 'string' ? String(a).localeCompare(b) : a - b
 body.append(...[...body.rows].sort((a, b) => (up === '1' ? 1 : -1) * less(key(a), key(b)))) }
"""
_STYLE = """
.front { fill: none; stroke: var(--ours); stroke-width: 1.5; stroke-opacity: .7 } .point circle { fill: var(--theirs) }
.point.on circle, .point.chosen circle { fill: var(--ours) }
.point.chosen circle { stroke: var(--ink); stroke-width: 2 }
.point.beyond circle { fill: none; stroke: var(--theirs); stroke-width: 1.5 } .point .whisker { stroke-opacity: .35 }
table.sort th { cursor: pointer } .warn { color: var(--warn) }
"""


def write(result: SearchResult, folder: Path) -> tuple[Path, Path, Path]:
    """Write `precision.html`, `precision.md` and `precision.json` into `folder`; their paths are returned.

    Each appears whole or not at all. OutputError if the folder cannot be made or written to.
    """
    texts = {"precision.html": html(result).encode(), "precision.md": markdown(result).encode(),
             "precision.json": result.encode()}
    write_files(texts, folder)
    return folder / "precision.html", folder / "precision.md", folder / "precision.json"


def points(result: SearchResult) -> list[pareto.Point]:
    """The candidates as points of the chart and of its tables."""
    return [pareto.Point(label=c.label, seconds=c.latency.seconds, loss=float("inf") if c.loss is None else c.loss,
                         low=c.latency.low, high=c.latency.high, bound=c.bound, note=layers_of(c),
                         chosen=i == result.chosen, reference=i == result.reference)
            for i, c in enumerate(result.candidates)]


def layers_of(candidate: Candidate) -> str:
    """`40 int8, 13 fp32`."""
    return ", ".join(f"{count} {precision}" for precision, count in candidate.layers.items())


def findings(result: SearchResult) -> list[str]:
    """What was found, in sentences."""
    out = []
    base = result.candidates[result.reference]
    if result.chosen is not None:
        best = result.candidates[result.chosen]
        line = f"Chosen: {best.label}, {rows.seconds(best.latency.seconds)} a call, " \
               f"{base.latency.seconds / best.latency.seconds:.2f} times as fast as {base.label}"
        if best.plan_bytes and base.plan_bytes:
            share = best.plan_bytes / base.plan_bytes
            line += f"; its plan takes {rows.size(best.plan_bytes)}, {share:.0%} of the size"
        out.append(line + ".")
    else:
        out.append(f"No plan meets the budget of {_amount(result.max_drop, result.unit)}.")
        if result.nearest is not None:
            near = result.candidates[result.nearest]
            lost = "an unbounded loss" if near.loss is None else f"a loss of {_amount(near.loss, result.unit)}"
            out.append(f"Nearest: {near.label}, {rows.seconds(near.latency.seconds)} a call, with {lost}.")
    if result.judgement is not None:
        out.append(result.judgement.sentence)
    return out + list(result.notes)


def _amount(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip()


def markdown(result: SearchResult) -> str:
    """The report as Markdown: findings, candidates, layers, sensitivity, what was kept and why, calibration."""
    out = [f"# Precision of {result.model}", "", _subtitle(result), ""]
    out += [f"- {line}" for line in findings(result)]
    out += ["", "## Latency against loss", "", *pareto.markdown(points(result), result.unit)]
    for title, head, body in _tables(result):
        out += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|---|---|---|" + "---:|" * (len(head) - 3)]
        out += [f"| {' | '.join(str(text).replace('|', chr(92) + '|') or '-' for text, _ in row)} |" for row in body]
    coverage = _coverage(result)
    if coverage:
        out += ["", "## Calibration", "", *(f"- {line}" for line in coverage),
                *(f"- **{line}**" for line in result.coverage.warnings)]
    return "\n".join(out) + "\n"


def html(result: SearchResult) -> str:
    """The report as one HTML page that fetches nothing."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    title = f"Precision of {result.model}"
    found = points(result)
    items = "".join(f"<li>{escape(line)}</li>" for line in findings(result))
    parts = [
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
        f"<title>{escape(title)}</title><style>{style}{_STYLE}</style></head><body><main>",
        f'<h1>{escape(title)}</h1><p class="soft">{escape(_subtitle(result))}</p>',
        f'<ul class="findings">{items}</ul>',
    ]
    drawn = pareto.chart(found, budget=result.max_drop, unit=result.unit, metric=result.metric)
    if drawn:
        parts.append("<figure><figcaption>Latency against loss <span>lower left is better; whiskers: 95 % interval of "
                     "the latency, upper 95 % bound of the loss; the ringed plan is the chosen one</span></figcaption>"
                     f"{drawn}</figure>")
    head = ("plan", "latency", "95 % interval", "speed", f"loss, {result.unit}".rstrip(", "), "at most", "")
    parts.append(_table(head, [[(text, None) for text in row] for row in pareto.cells(found)], left=(0, 6)))
    for name, columns, body in _tables(result):
        parts += [f"<h2>{escape(name)}</h2>", _table(columns, body, sort=True)]
    coverage = _coverage(result)
    if coverage or result.coverage.warnings:
        lines = [f"<li>{escape(line)}</li>" for line in coverage]
        lines += [f'<li class="warn">{escape(line)}</li>' for line in result.coverage.warnings]
        parts.append(f'<h2>Calibration</h2><ul class="findings">{"".join(lines)}</ul>')
    parts.append(_how(result))
    return "".join(parts) + f"</main><script>{_SORT}</script></body></html>\n"


Cell = tuple[str, float | None]  # the text, and the number that it sorts by


def _tables(result: SearchResult) -> Iterable[tuple[str, tuple[str, ...], list[list[Cell]]]]:
    """The tables of layers that are not empty: title, headings, cells; the first three columns are words."""
    loss = f"loss, {result.unit}".rstrip(", ")
    if result.layers:
        yield ("Layers of the chosen plan", ("layer", "kind", "precision and why", "time", "saved"),
               [[_word(r.layer), _word(r.kind), _word(f"{r.precision}: {r.reason}" if r.reason else r.precision),
                 _time(r.seconds), _time(r.saved)] for r in result.layers])
    if result.sensitivity:
        yield ("Sensitivity: each layer alone", ("layer", "kind", "precision", loss, "divergence", "saved"),
               [[_word(r.layer), _word(r.kind), _word(r.precision), _number(r.loss, "{:.3f}"),
                 _number(r.divergence, "{:.2e}"), _time(r.saved)] for r in result.sensitivity])
    if result.kept:
        yield ("Kept in higher precision", ("layer", "precision", "reason"),
               [[_word(r.layer), _word(r.precision), _word(r.reason)] for r in result.kept])


def _word(text: str) -> Cell:
    return text, None


def _number(value: float | None, form: str) -> Cell:
    return ("", float("inf")) if value is None else (form.format(value), value)


def _time(value: float | None) -> Cell:
    if value is None:
        return "", float("-inf")
    return ("-" if value < 0 else "") + rows.seconds(abs(value)), value


def _table(head: Sequence[str], body: Iterable[Sequence[Cell]], *, left: Sequence[int] = (0, 1, 2),
           sort: bool = False) -> str:
    def opened(tag: str, i: int, value: float | None = None) -> str:
        kind = "" if i in left else " class=figure"
        known = value is not None and value == value and abs(value) != float("inf")
        return f'<{tag}{kind}{f" data-v={value:.9g}" if known else " data-v=-1e99" if value is not None else ""}>'

    top = "".join(f"{opened('th', i)}{escape(name)}</th>" for i, name in enumerate(head))
    lines = ["".join(f"{opened('td', i, value)}{escape(text) or '&ndash;'}</td>" for i, (text, value) in enumerate(row))
             for row in body]
    return (f'<div class="table"><table{" class=sort" if sort else ""}><thead><tr>{top}</tr></thead><tbody>'
            f'{"".join(f"<tr>{line}</tr>" for line in lines)}</tbody></table></div>')


def _subtitle(result: SearchResult) -> str:
    return (f"{result.metric} on {result.samples:,} samples, a loss of at most "
            f"{_amount(result.max_drop, result.unit)} allowed; {result.device.name}, {result.threads} threads, "
            f"{result.date[:16].replace('T', ' ')} UTC")


def _coverage(result: SearchResult) -> list[str]:
    c = result.coverage
    if not (c.method or c.samples or c.lines):
        return []
    batches = f" in {c.batches} batches" if c.batches else ""
    return [f"{c.samples:,} samples{batches}{f', method {c.method}' if c.method else ''}.", *c.lines]


def _how(result: SearchResult) -> str:
    facts = [
        ("machine", f"{result.device.name}, {result.device.arch}, {result.device.cores} cores"),
        ("features", " ".join(result.device.features)), ("fingerprint", result.device.fingerprint),
        ("versions", ", ".join(f"{k} {v}" for k, v in result.versions.items())),
        ("model", f"{result.model}, SHA-256 {result.model_sha256[:16]}" if result.model_sha256 else result.model),
        ("shapes", ", ".join(f"{k} {'x'.join(map(str, v)) or 'scalar'}" for k, v in result.shapes.items())),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return ("<h2>How this was judged</h2><p>Reference and candidate answered the same samples. The upper bound of a "
            "loss is one-sided at 95 %: Tango&rsquo;s score bound of paired shares where a metric is right or wrong by "
            "sample, else bootstrapped. A plan is held to its budget only if the bound lies below it.</p>"
            f"<dl>{listed}</dl>")
