"""The report of `whet compare`: one HTML page that a manager can read, Markdown, JSON, CSV; English and Chinese."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from whet.report import charts, elements, rows, spreadsheet
from whet.report import compare_charts as drawn
from whet.report.compare_tables import (
    Cell,
    Table,
    builds,
    differences,
    failures,
    findings,
    kind,
    procurement,
    ranking,
    short,
    summary,
    tidy,
)
from whet.report.compare_words import label, said
from whet.report.files import write_files
from whet.report.words import LANGUAGES

if TYPE_CHECKING:
    from whet.compare.result import Result, Row

__all__ = ["LANGUAGES", "findings", "html", "markdown", "summary", "write"]

_STYLE = """
main { max-width: 980px }
.answer { border-left: 5px solid var(--ours); background: var(--card); padding: 14px 20px; margin: 22px 0 }
.answer.none { border-color: var(--warn) } .answer h2 { margin: 0 0 4px }
.mixed { color: var(--warn); font-weight: 600 }
.tiles { display: flex; flex-wrap: wrap; gap: 8px 32px; margin-top: 8px } .tiles b { display: block; font-size: 19px }
.tiles span { color: var(--soft); font-size: 13px } tr.chosen td { font-weight: 600 } td a { color: inherit }
.wide { width: min(96vw, 1500px); margin-left: 50%; transform: translateX(-50%) } .wide table { font-size: 13px }
.wide td small { font-size: 10.5px } .wide td.figure small { max-width: 170px; margin-left: auto }
.wide td.figure small:has(a) { white-space: normal } .wide td:first-child { min-width: 150px }
@media print { .wide { width: auto; margin: 0; transform: none } .wide table { font-size: 8px }
 .wide td small { font-size: 6px } .wide td, .wide th { padding-right: 4px } }
.warn { color: var(--warn) } .table:not(.wide) th.figure { white-space: normal }
th { vertical-align: bottom } td:first-child { min-width: 130px } td:last-child:not(.figure) { min-width: 170px }
"""


def write(c: Result, folder: Path, lang: str = "en") -> tuple[Path, ...]:
    """Write `compare.html`, `.md`, `.json` and `.csv` into `folder`; their paths are returned.

    Each appears whole or not at all. OutputError if the folder cannot be made or written to.
    """
    head, body = tidy(c)
    texts = {"compare.html": html(c, lang).encode(), "compare.md": markdown(c, lang).encode(),
             "compare.json": c.encode(), "compare.csv": b"".join(spreadsheet.lines(head, body))}
    write_files(texts, folder)
    return tuple(folder / name for name in texts)


def html(c: Result, lang: str = "en") -> str:
    """The whole page. Nothing is fetched; links are those of the citations."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    title = label("Comparison of {model}", lang, model=c.model)
    parts = [
        f"<!doctype html>\n<html lang=\"{'zh' if lang == 'zh' else 'en'}\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
        f"<title>{escape(title)}</title><style>{style}{drawn.STYLE}{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(_subtitle(c))}</p>', _answer(c, lang)]
    items = "".join(f"<li>{escape(line)}</li>" for line in findings(c, lang))
    parts.append(f'<ul class="findings">{items}</ul>' if items else "")
    parts += [_scatter(c, lang), *_bars(c, lang)]
    explained = label("Every figure is measured here or cited; what is neither is not known.", lang)
    parts.append(f"<h2>{escape(label('Procurement', lang))}</h2><p class=\"soft\">{escape(explained)}</p>")
    parts.append(_table(procurement(c, lang), "table wide", c.recommendation.chosen))
    for table in (ranking(c, lang), differences(c, lang), builds(c, lang), failures(c, lang)):
        if table.rows:
            parts += [f"<h2>{escape(table.title)}</h2>", _table(table, "table", c.recommendation.chosen)]
    for name, lines in ((label("Left out", lang), _left_out(c, lang)),
                        (label("Notes", lang), [said(n, lang) for n in c.notes])):
        if lines:
            listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
            parts.append(f'<h2>{escape(name)}</h2><ul class="findings">{listed}</ul>')
    parts.append(_how(c, lang))
    return "".join(parts) + "</main></body></html>\n"


def _subtitle(c: Result) -> str:
    names = dict.fromkeys(rows.cores(r.record.device) and f"{r.record.device.name}, {rows.cores(r.record.device)}"
                          for r in c.rows if r.record is not None)
    return f"{'; '.join(n for n in names if n)}; {c.date[:16].replace('T', ' ')} UTC"


def _answer(c: Result, lang: str) -> str:
    """What is recommended, with the figures that it is taken for."""
    r = c.recommendation
    chosen = next((row for row in c.rows if row.key == r.chosen), None)
    mixed = ""
    if c.mixed_hardware:
        text = label("DIFFERENT HARDWARE: these rows were not measured on one machine, and differ in more than their "
                     "backends.", lang)
        mixed = f'<p class="mixed">{escape(text)}</p>'
    if chosen is None:
        word = "Nothing meets the constraints" if r.state == "nothing meets the constraints" else \
            "The evidence does not say"
        return f'<div class="answer none"><h2>{escape(label(word, lang))}</h2>{_terms(c, lang)}{mixed}</div>'
    record = chosen.record
    assert record is not None
    assert record.latency is not None
    tiles = [(label("P99", lang), rows.seconds(record.latency.p99.value)),
             (label("median", lang), rows.seconds(record.latency.p50.value)),
             (label("throughput", lang), f"{rows.significant(record.throughput or 0)}/s")]
    if record.accuracy is not None:
        tiles.append((label("accuracy", lang), said(rows.row(record).accuracy, lang)))
    if record.memory is not None:
        tiles.append((label("memory", lang), rows.size(max(0, record.memory.peak_bytes - record.memory.idle_bytes))))
    shown = "".join(f"<div><span>{escape(n)}</span><b>{escape(v)}</b></div>" for n, v in tiles)
    return (f'<div class="answer"><h2>{escape(_headline(c, lang))}</h2>'
            f'<div class="tiles">{shown}</div><p>{escape(_stability(c, lang))}</p>{_terms(c, lang)}{mixed}</div>')


def _headline(c: Result, lang: str) -> str:
    """What to deploy; where it is first in less than half of the draws, that nothing clearly is."""
    best = next(x for x in c.recommendation.ranking if x.rank == 1)
    clear = best.first is None or best.first >= 0.5
    return label("Deploy {key}" if clear else "No clear winner; first by its estimates: {key}", lang,
                 key=said(best.key, lang))


def _stability(c: Result, lang: str) -> str:
    """How sure the first place is."""
    best = next((x for x in c.recommendation.ranking if x.rank == 1), None)
    if best is None or best.first is None or best.first_weights is None:
        return ""
    first = label("first in {a} of the draws of the measurements", lang, a=f"{best.first:.0%}")
    second = label("in {b} when the weights vary too", lang, b=f"{best.first_weights:.0%}")
    return label("How sure: {a}, {b}.", lang, a=first, b=second)


def _asked(c: Result, lang: str) -> list[str]:
    """Weights and constraints, as they were stated."""
    r = c.recommendation
    unit = f" {label(r.loss_unit, lang)}" if r.loss_unit not in ("", "error") else ""
    out = [label("Weights: {w}.", lang, w=", ".join(f"{n} {w:g}" for n, w in r.weights.items() if w))]
    if r.weights.get("loss"):
        out.append(label("A loss of {x} counts as much as another figure that is worse by a factor of 2.7.", lang,
                         x=f"{r.loss_scale:g}{unit}"))
    stated = ", ".join(x.text for x in r.constraints) or label("none", lang)
    return [*out, label("Constraints: {c}.", lang, c=stated)]


def _terms(c: Result, lang: str) -> str:
    return f'<p class="soft">{escape(" ".join(_asked(c, lang)))}</p>'


def _scatter(c: Result, lang: str) -> str:
    """P99 against the loss; without labelled data against the outputs' error, else against memory."""
    timed = [(r, r.record, r.record.latency) for r in c.rows if r.record is not None and r.record.latency is not None]
    if not timed:
        return ""
    judged = any(record.accuracy is not None and record.accuracy.judged is not None for _, record, _ in timed)
    compared = any(record.error is not None for _, record, _ in timed)
    scale, unit = rows.unit(max(l.p99.value for _, _, l in timed))
    dots = []
    for r, record, latency in timed:
        y, top = None, None
        memory = max(0, record.memory.peak_bytes - record.memory.idle_bytes) if record.memory else None
        if judged and record.accuracy is not None:
            found = record.accuracy.judged
            y, top = (0.0, None) if found is None else (found.loss, found.upper)
        elif not judged and compared:
            y = record.error.value if record.error is not None else 0.0
        elif not judged and memory is not None:
            y = float(memory)
        wrong = record.error is not None and record.error.limit is not None and record.error.value > record.error.limit
        if y is None or abs(y) > 1e30 or wrong:  # what is wrong would set the scale for the rest
            continue
        head = [f"P99 {rows.seconds(latency.p99.value)}", f"{y:.3g}", rows.size(memory) if memory else ""]
        dots.append(drawn.Dot(short(c, r), "; ".join(t for t in head if t), latency.p99.value, y, latency.p99.low,
                              latency.p99.high, top, float(memory) if memory and (judged or compared) else None,
                              r.backend == "whet", r.key == c.recommendation.chosen))
    if not dots:
        return ""
    metric = next((record.accuracy.metric for _, record, _ in timed if record.accuracy is not None), "")
    loss_unit = label(c.recommendation.loss_unit, lang)
    title, y_axis, y_scale = (
        ("P99 against loss", f"{label('loss', lang)}, {metric}, {loss_unit}", 1.0) if judged else
        ("P99 against error of outputs", label("output error", lang), 1.0) if compared else
        ("P99 against memory", f"{label('memory', lang)}, MiB", 2.0 ** -20))
    note = "lower left is better; a larger dot needs more memory; the line joins what nothing else beats in both" \
        if any(d.area for d in dots) else \
        "lower left is better; the line joins what nothing else beats in both"
    svg = drawn.scatter(dots, label(title, lang), f"{label('P99 latency', lang)}, {unit}", y_axis, scale, y_scale)
    return elements.figure(label(title, lang), label(note, lang), svg)


def _bars(c: Result, lang: str) -> list[str]:
    """Medians and throughputs by batch and threads, then the ratios."""
    out = []
    groups: dict[tuple[int, int | None], list[Row]] = {}
    for r in c.rows:
        if r.record is not None and r.record.latency is not None:
            groups.setdefault((r.batch, r.threads), []).append(r)
    for (batch, threads), group in groups.items():
        latencies = [r.record.latency for r in group if r.record is not None and r.record.latency is not None]
        scale, unit = rows.unit(max(l.p50.value for l in latencies))
        where = label("batch {n}", lang, n=batch) + ", " + (
            label("{n} threads", lang, n=threads) if threads is not None else label("threads of a server's own", lang))
        names = [f"{rows.NAMES.get(r.backend, r.backend)} {r.precision}" for r in group]
        found = [charts.Bar(n, l.p50.value * scale, rows.seconds(l.p50.value), r.backend == "whet",
                            None if l.p50.low is None else l.p50.low * scale,
                            None if l.p50.high is None else l.p50.high * scale)
                 for n, r, l in zip(names, group, latencies)]
        width = min(330, max(charts.LABEL, 8 * max(map(len, names))))
        title = f"{label('Median latency', lang)}: {where}"
        note = label("in {unit}, shorter is better; whiskers: 95 % interval", lang, unit=unit)
        out.append(elements.figure(title, note, charts.bars(found, title, unit, label_width=width)))
        rates = [charts.Bar(n, batch / l.p50.value, f"{rows.significant(batch / l.p50.value)}/s", r.backend == "whet",
                            None if l.p50.high is None else batch / l.p50.high,
                            None if not l.p50.low else batch / l.p50.low)
                 for n, r, l in zip(names, group, latencies)]
        title = f"{label('Throughput', lang)}: {where}"
        out.append(elements.figure(title, label("samples a second, longer is better; whiskers: 95 % interval", lang),
                           charts.bars(rates, title, "1/s", label_width=width)))
    if c.differences:
        by_key = {r.key: r for r in c.rows}
        bars = [charts.Bar(short(c, by_key[d.key]), d.ratio, f"{rows.significant(d.ratio)}x, {label(d.verdict, lang)}",
                           by_key[d.key].backend == "whet", d.low, d.high) for d in c.differences]
        title = label("Speed against {b}", lang, b=kind(c.baseline))
        width = min(330, max(charts.LABEL, 8 * max(len(b.label) for b in bars)))
        out.append(elements.figure(title, label("paired ratios, over 1 is faster; whiskers: 95 % interval", lang),
                           charts.bars(bars, title, "", reference=1.0, label_width=width)))
    return out


def _left_out(c: Result, lang: str) -> list[str]:
    return [f"{kind(x.kind)}{':' if lang == 'zh' else ': '}{said(x.why, lang)}" for x in c.left_out]


def _table(table: Table, style: str, chosen: str | None) -> str:
    head = "".join(f'<th{"" if table.words(i) else " class=figure"}>{escape(n)}</th>' for i, n in enumerate(table.head))
    body = "".join(
        f'<tr{" class=chosen" if key == chosen else ""}>'
        + "".join(_td(cell, not table.words(i)) for i, cell in enumerate(cells)) + "</tr>" for key, cells in table.rows)
    return f'<div class="{style}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _td(cell: Cell, figure: bool) -> str:
    text, small = escape(cell.text) or "&ndash;", escape(cell.small)
    if cell.link and small:
        small = f'<a href="{escape(cell.link)}" rel="noreferrer noopener">{small}</a>'
    small = f'<small{" class=warn" if cell.warn else ""}>{small}</small>' if small else ""
    return f"<td{' class=figure' if figure else ''}>{text}{small}</td>"


def _how(c: Result, lang: str) -> str:
    devices = {r.record.device.fingerprint: r.record.device for r in c.rows if r.record is not None}
    machines = "; ".join(f"{d.name}, {d.arch}, {rows.cores(d)}, {rows.size(d.memory_bytes)}, {d.kernel}, "
                         f"{label('fingerprint', lang)} {d.fingerprint}" for d in devices.values())
    versions = {k: v for r in c.rows if r.record is not None for k, v in r.record.versions.items()}
    found = [r.record for r in c.rows if r.record is not None]
    facts = [("machine", machines), ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
             ("tools", rows.tools(found)), ("lock", rows.locks(found)),
             ("model", f"{c.model}, SHA-256 {c.sha256[:16]}"), ("inputs", said(c.inputs, lang)), ("target", c.target)]
    listed = "".join(f"<dt>{escape(label(k, lang))}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return (f"<h2>{escape(label('How this was measured', lang))}</h2>"
            f"<p>{escape(label('how', lang, gate=f'{c.gate:.1%}'))}</p><dl>{listed}</dl>")


def markdown(c: Result, lang: str = "en") -> str:
    """The same as Markdown, without the charts."""
    title = label("Comparison of {model}", lang, model=c.model)
    chosen = c.recommendation.chosen
    word = _headline(c, lang) if chosen else label(
        "Nothing meets the constraints" if c.recommendation.state == "nothing meets the constraints" else
        "The evidence does not say", lang)
    out = [f"# {title}", "", _plain(_subtitle(c)), "", f"**{_plain(word)}**", "",
           _plain(" ".join(t for t in (_stability(c, lang), *_asked(c, lang)) if t)), ""]
    out += [f"- {_plain(line)}" for line in findings(c, lang)]
    for table in (procurement(c, lang), ranking(c, lang), differences(c, lang), builds(c, lang), failures(c, lang)):
        if not table.rows:
            continue
        out += ["", f"## {table.title}", "", f"| {' | '.join(map(_plain, table.head))} |",
                "|" + "---|" * table.left + "---:|" * (len(table.head) - table.left)]
        out += [f"| {' | '.join(_marked(cell) for cell in cells)} |" for _, cells in table.rows]
    for name, lines in (("Left out", _left_out(c, lang)), ("Notes", [said(n, lang) for n in c.notes])):
        if lines:
            out += ["", f"## {label(name, lang)}", "", *(f"- {_plain(line)}" for line in lines)]
    out += ["", f"## {label('How this was measured', lang)}", "", _plain(label("how", lang, gate=f"{c.gate:.1%}"))]
    return "\n".join(out) + "\n"


def _marked(cell: Cell) -> str:
    small = _plain(cell.small)
    if cell.link and small:
        target = cell.link.replace(" ", "%20").replace(")", "%29").replace("|", "%7C").replace("<", "%3C")
        small = f"[{small}]({target})"
    return (_plain(cell.text) or "-") + (f" ({small})" if small else "")


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, in one line."""
    for c in "\\`*_[]<>|":
        text = text.replace(c, f"\\{c}")
    return " ".join(text.split())
