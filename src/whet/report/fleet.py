"""The report of `whet plan-fleet`: HTML with charts, Markdown, CSV, in English and Chinese."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from whet.report import elements, fleet_chart, rows
from whet.report.files import write_files
from whet.report.fleet_words import sentence, word

if TYPE_CHECKING:
    from whet.decide.fleet_plan import FleetPlan, Run

FILES = ("fleet.html", "fleet.md", "fleet.json", "fleet.csv")


def write(plan: FleetPlan, encoded: bytes, folder: Path, lang: str = "en") -> tuple[Path, ...]:
    """Write the report's files into a folder; `encoded` is the plan as JSON. Each appears whole or not at all."""
    texts = (html(plan, lang).encode(), markdown(plan, lang).encode(), encoded, table_csv(plan).encode())
    write_files(dict(zip(FILES, texts)), folder)
    return tuple(folder / name for name in FILES)


def findings(plan: FleetPlan, lang: str = "en") -> list[str]:
    """The answer in a few sentences."""
    c = plan.chosen
    out = [word("answer", lang, devices=plan.devices, servers=plan.servers, contexts=plan.contexts,
                spares=plan.spares) + ("。" if lang == "zh" else "."),
           word("p99 line", lang, p99=rows.seconds(c.p99), low=rows.seconds(c.p99_low), high=rows.seconds(c.p99_high),
                load=c.load)]
    if plan.growth:
        out.append(word("growth line", lang, rate=plan.rate, rate_now=plan.rate_now, growth=plan.growth))
    if plan.stable > 1:
        less = plan.stable - 1
        out.append(word("unstable line", lang, servers=less, load=plan.chosen.load * plan.servers / less))
    if plan.stable < plan.servers:
        out.append(word("stable line", lang, stable=plan.stable))
    return out


def title(plan: FleetPlan, lang: str = "en") -> str:
    """What the fleet is for."""
    return word("title", lang, rate=plan.rate, objective=rows.seconds(plan.objective))


def fleets(plan: FleetPlan, lang: str = "en") -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the fleets that were simulated."""
    columns: dict[str, Callable[[Run], str]] = {
        "servers": lambda r: f"{r.servers:,}", "devices": lambda r: f"{r.devices:,}",
        "load": lambda r: f"{r.load:.1%}", "busy": lambda r: f"{r.utilization:.1%}",
        "p50": lambda r: rows.seconds(r.p50), "p90": lambda r: rows.seconds(r.p90),
        "p99": lambda r: rows.seconds(r.p99), "interval": lambda r: _interval(r.p99_low, r.p99_high),
        "batch": lambda r: f"{r.mean_batch:.2f}", "waited": lambda r: f"{r.waited:.0%}",
        "meets": lambda r: word("chosen" if r.servers == plan.servers else "yes" if r.meets else "no", lang)}
    if plan.max_batch == 1:
        del columns["batch"]
    return [word(n, lang) for n in columns], [[cell(r) for cell in columns.values()] for r in plan.runs]


def _interval(low: float, high: float) -> str:
    """`46.5–48.4 ms`."""
    scale, unit = rows.unit(high)
    return f"{low * scale:.3g}–{high * scale:.3g} {unit}"


def ways(plan: FleetPlan, lang: str = "en") -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the numbers of contexts on a device; empty if only one was measured."""
    if len(plan.ways) + len(plan.refused) < 2:
        return [], []
    head = [word(n, lang) for n in ("contexts", "servers", "devices", "p99")]
    body = [[str(w.contexts), f"{w.servers:,}", f"{w.devices:,}", rows.seconds(w.p99)] for w in plan.ways]
    body += [[k, "–", "–", word(f"refused-{why}", lang)] for k, why in plan.refused.items()]
    return head, sorted(body, key=lambda row: int(row[0]))


def facts(plan: FleetPlan, lang: str = "en") -> list[tuple[str, str]]:
    """What was put in."""
    sizes = ", ".join(f"{b}: {rows.seconds(s)}" for b, s in plan.batches.items())
    batching = word("no batching", lang) if plan.max_batch == 1 else word(
        "batching line", lang, size=plan.max_batch, delay=rows.seconds(plan.max_delay))
    arrivals = f"{plan.pattern}, {plan.rate:,.6g}/s" + (f", cv {plan.cv:.3g}" if plan.pattern != "poisson" else "")
    return [(word("service", lang), f"{plan.service} ({sizes}; {plan.spread})"),
            (word("arrivals", lang), f"{arrivals}{f', {plan.trace}' if plan.trace else ''}"),
            (word("batching", lang), batching), (word("seed", lang), str(plan.seed)),
            (word("requests", lang), f"{plan.chosen.requests:,}")]


def html(plan: FleetPlan, lang: str = "en") -> str:
    """The whole page; nothing is fetched."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    scale, unit = rows.unit(max(plan.objective, plan.chosen.p99_high))
    axis = word("servers", lang)
    charts = (
        ("chart p99", fleet_chart.latencies(plan, word("chart p99", lang), axis, unit, scale)),
        ("chart load", fleet_chart.utilization(plan, word("chart load", lang), axis)))
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{escape(title(plan, lang))}</title><style>{style}</style></head><body><main>"
             f"<h1>{escape(title(plan, lang))}</h1>", elements.findings(findings(plan, lang))]
    parts += [elements.figure(word(name, lang), word(f"{name} note", lang), svg) for name, svg in charts]
    parts += [f"<h2>{escape(word('around', lang))}</h2>", _table(*fleets(plan, lang), plan)]
    if ways(plan, lang)[0]:
        parts += [f"<h2>{escape(word('ways', lang))}</h2>", _table(*ways(plan, lang), None)]
    parts += [f"<h2>{escape(word('notes', lang))}</h2>", elements.findings([sentence(n, lang) for n in plan.notes]),
              f"<h2>{escape(word('how', lang))}</h2><p>{escape(word('how text', lang))}</p><dl>",
              *(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(plan, lang)), "</dl>"]
    return "".join(parts) + "</main></body></html>\n"


def _table(head: list[str], body: list[list[str]], plan: FleetPlan | None) -> str:
    top = "".join(f'<th class="figure">{escape(h)}</th>' for h in head)
    lines = []
    for row in body:
        ours = plan is not None and row[0] == f"{plan.servers:,}"
        cells = "".join(f'<td class="figure">{escape(c)}</td>' for c in row)
        lines.append(f"<tr{' class=ours' if ours else ''}>{cells}</tr>")
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def markdown(plan: FleetPlan, lang: str = "en") -> str:
    """The same as Markdown."""
    out = [f"# {title(plan, lang)}", "", *(f"- {f}" for f in findings(plan, lang)), "",
           f"## {word('around', lang)}", "", *_lines(*fleets(plan, lang))]
    if ways(plan, lang)[0]:
        out += ["", f"## {word('ways', lang)}", "", *_lines(*ways(plan, lang))]
    out += ["", f"## {word('notes', lang)}", "", *(f"- {sentence(n, lang)}" for n in plan.notes), "",
            f"## {word('how', lang)}", "", word("how text", lang), "",
            *(f"- {k}: {v}" for k, v in facts(plan, lang))]
    return "\n".join(out) + "\n"


def _lines(head: list[str], body: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---:|" * len(head), *(f"| {' | '.join(row)} |" for row in body)]


def table_csv(plan: FleetPlan) -> str:
    """The fleets as CSV: seconds, shares and counts as plain numbers."""
    out = io.StringIO()
    fields = ("servers", "devices", "load", "utilization", "mean", "p50", "p90", "p99", "p99_low", "p99_high",
              "mean_batch", "waited", "requests", "meets")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    for r in plan.runs:
        writer.writerow([getattr(r, f) for f in fields])
    return out.getvalue()
