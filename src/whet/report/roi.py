"""The report of `whet roi`: one HTML page that a manager can read, Markdown, a table as CSV; English and Chinese."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING

from whet.report import elements, rows
from whet.report import roi_charts as charts
from whet.report.roi_words import label

if TYPE_CHECKING:
    from whet.decide.result import Answer, Interval, Option, Result

QUESTIONS = {"gpu": "Is a new GPU worth it?", "int8": "INT8 or not?", "edge": "Edge or cloud?", "batch": "Which batch?"}


def money(value: float, currency: str) -> str:
    """`1,728 USD`, `0.0278 USD`: whole from a hundred on, else three significant digits."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{text} {currency}"


def tiles(r: Result, lang: str) -> list[tuple[str, str, str]]:
    """The figures that a manager looks for: label, value, interval."""
    if r.returned is None:
        return []
    found, drawn = r.returned, r.returned.intervals

    def spread(interval: Interval | None, form: str) -> str:
        if interval is None or (interval.p5 is None and interval.p50 is None and interval.p95 is None):
            return label("no interval: no uncertainty is stated", lang) if drawn is None else ""
        ends = [label("never", lang) if v is None else
                money(v, r.currency) if form == "money" else f"{v:.1f}" if form == "months" else f"{v:.2f}"
                for v in (interval.p5, interval.p95)]
        return label("90 % of the draws: {a} to {b}", lang).format(a=ends[0], b=ends[1])

    late = label("not within {n} months", lang).format(n=r.horizon)
    paid = late if found.payback is None else f"{found.payback:.3f} {label('months', lang)}"
    earned = label("not known_", lang) if found.roi is None else f"{found.roi:.3f}"
    note = label("net of investment, {n} months, not discounted", lang).format(n=r.horizon)
    roi = spread(drawn.roi if drawn else None, "ratio")
    saved = spread(drawn.saving if drawn else None, "money")
    first = "saving in the first month" if r.growth else "saving a month"
    return [(label(first, lang), money(found.saving, r.currency), saved),
            (label("payback", lang), paid, spread(drawn.payback if drawn else None, "months")),
            (label("NPV", lang), money(found.npv, r.currency), spread(drawn.npv if drawn else None, "money")),
            (label("ROI", lang), earned, f"{note}; {roi}" if roi else note)]


def load_line(r: Result, lang: str) -> str:
    """The load, the objective and the horizon in a sentence."""
    return label("load line", lang).format(
        rate=f"{r.rate:,g}", mean=f"{r.mean_rate:,g}", growth=f"{r.growth:g}",
        p99=f"{r.objective * 1e3:g}", n=r.horizon, hours=f"{r.hours:g}", discount=f"{r.discount:g}")


def options_table(r: Result, lang: str) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the options."""
    names = ("option", "machines", "utilization", "P99", "cost a month", "per 1,000", "evidence")
    head = [label(t, lang) for t in names]
    body = []
    for o in r.options:
        if o.cost is None or o.p99 is None or o.cost_per_thousand is None or o.p99_low is None or o.p99_high is None:
            body.append([o.name, label("meets no objective", lang), "", "", "", "", evidence(o, lang)])
            continue
        interval = rows.interval_text(o.p99, o.p99_low, o.p99_high)
        p99 = f"{rows.seconds(o.p99)} [{interval.replace(' to ', ' 至 ') if lang == 'zh' else interval}]"
        body.append([o.name, str(o.devices), f"{o.utilization:.0%}", p99, money(o.cost, r.currency),
                     money(o.cost_per_thousand, r.currency), evidence(o, lang)])
    return head, body


def evidence(o: Option, lang: str) -> str:
    """`measured: 1,200 calls`, `typed in`."""
    basis = label(o.basis, lang)
    calls = f", {o.samples:,} {label('calls', lang)}" if o.samples is not None else ""
    traits = ", ".join(t for t in (o.device, o.precision, o.place) if t)
    contexts = f"{o.contexts} {label('contexts each', lang)}" if o.contexts > 1 else ""
    return "; ".join(t for t in (basis + calls, traits, contexts) if t)


def stated_line(r: Result, lang: str) -> str:
    """The arithmetic on the fleets that somebody states."""
    if r.stated is None:
        return ""
    x = r.stated

    def number(value: float | None, form: str) -> str:
        return label("not known_", lang) if value is None else form.format(value)

    return label("stated line", lang).format(
        before=x.before, after=x.after, saving=money(x.saving, r.currency), ratio=number(x.ratio, "{:.4f}"),
        n=r.horizon, payback=number(x.payback, "{:.3f}"), roi=number(x.roi, "{:.3f}"))


def _state(answer: Answer) -> str:
    return "unknown" if answer.state == "not known" else answer.state


def answer_lines(a: Answer, lang: str) -> tuple[str, list[str]]:
    """The question and what is said of it."""
    return label(QUESTIONS[a.question], lang), [s.text(lang) for s in a.says]


def answer_table(a: Answer, r: Result, lang: str) -> tuple[list[str], list[list[str]]]:
    """The options that an answer compares."""
    head = [label(t, lang) for t in ("option", "machines", "P99", "cost a month")]
    body = [[row.option, "" if row.devices is None else str(row.devices),
             label("meets no objective", lang) if row.p99 is None else rows.seconds(row.p99),
             "" if row.cost is None else money(row.cost, r.currency)] for row in a.rows]
    return head, body


def power_table(r: Result, lang: str) -> tuple[list[str], list[list[str]]]:
    """Energy and carbon of the options, each with how it is known."""
    head = [label(t, lang) for t in ("option", "energy a month", "carbon a month", "basis", "source")]
    unknown = label("not known_", lang)
    return head, [[o.name, unknown if o.power.kwh is None else f"{o.power.kwh:,.1f} kWh",
                   unknown if o.power.kg_co2 is None else f"{o.power.kg_co2:,.1f} kg CO2",
                   unknown if o.power.basis is None else label(o.power.basis, lang),
                   "; ".join(t for t in (o.power.source, o.power.grid) if t)] for o in r.options]


def price_table(r: Result, lang: str) -> tuple[list[str], list[list[str]]]:
    """The rows of the price table that were used."""
    head = [label(t, lang) for t in ("price", "a month", "as of", "days old", "source")]
    head[1] = f"{r.currency}/h"
    stale = f" ({label('stale', lang)})"
    used = {o.price.key: o.price for o in r.options if o.price is not None}
    listed = [[p.key, f"{p.price_per_hour:g}", p.as_of.isoformat(), f"{p.days}{stale if p.stale else ''}", p.url]
             for p in used.values()]
    return head, listed + [[o.name, f"{o.price_per_hour:g}", "", "", label("typed in", lang)] for o in r.options
                          if o.price is None and o.price_per_hour]


def gains_table(r: Result, lang: str) -> tuple[list[str], list[list[str]]]:
    """What the business is said to gain, and the return with it."""
    head = [label(t, lang) for t in ("gain", "a month", "source")]
    if r.gains is None:
        return head, []
    return head, [[name, money(amount, r.currency), source] for name, amount, source in r.gains.gains]


def gains_line(r: Result, lang: str) -> str:
    """The return with gains beside the one without."""
    if r.gains is None or r.returned is None:
        return ""

    def months(value: float | None) -> str:
        return label("never", lang) if value is None else f"{value:.2f} {label('months', lang)}"

    each = [f"{label(name, lang)}: {label('payback', lang)} {months(x.payback)}, {label('NPV', lang)} "
            f"{money(x.npv, r.currency)}" for name, x in (("without", r.returned), ("with gains", r.gains))]
    return f"{label('gains line', lang)} {'; '.join(each)}."


def how(r: Result, lang: str) -> str:
    """How all of it was computed."""
    drawn = r.returned.intervals if r.returned else None
    return label("how", lang).format(draws=f"{drawn.draws:,}" if drawn else 0, seed=r.seed)


def sways(r: Result, lang: str) -> list[charts.Bar]:
    """The bars of the tornado."""
    if r.returned is None:
        return []
    out = []
    for s in r.returned.tornado:
        name, _, option = s.name.partition(": ")
        shown = label(name, lang) + (f" {option}" if option else "") + (" *" if s.assumed else "")
        ends = [f"{v:.3g} %" if name == "growth" else f"{v:.0%}" for v in (s.low, s.high)]
        out.append(charts.Bar(shown, ends[0], ends[1], s.npv_low, s.npv_high))
    return out


def html(r: Result, lang: str = "en") -> str:
    """The whole page; nothing is fetched."""
    style = "".join(resources.files("whet.report").joinpath(n).read_text("utf-8") for n in ("style.css", "roi.css"))
    parts = [
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(r.title)}</title><style>{style}</style></head><body><main>",
        f'<h1>{escape(r.title)}</h1><p class="soft">{escape(load_line(r, lang))}</p>',
        f'<p class="verdict {escape(r.verdict.split()[0]) if r.verdict != "does not pay" else "not"}">'
        f"{escape(label(r.verdict, lang).capitalize())}</p>",
        *(f"<p>{escape(s.text(lang))}</p>" for s in r.reasons)]
    found = tiles(r, lang)
    if found:
        parts.append('<div class="tiles">' + "".join(
            f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
            for name, value, note in found) + "</div>")
    if r.stated is not None:
        parts.append(f'<p class="soft">{escape(stated_line(r, lang))}</p>')
    if r.findings:
        items = "".join(f"<li>{escape(f.say.text(lang))} <small>{escape(', '.join(t for t in (f.code, f.where) if t))}"
                        "</small></li>" for f in r.findings)
        parts.append(f'<div class="warnings"><h3>{label("Warnings", lang)}</h3><ul>{items}</ul></div>')
    parts += [f"<h2>{label('Options', lang)}</h2>", elements.table(*options_table(r, lang), words=(0, 6), cell=_split)]
    parts += _charts(r, lang)
    parts.append(f"<h2>{label('The four questions', lang)}</h2>")
    for a in r.answers:
        question, says = answer_lines(a, lang)
        state = label(a.state, lang) + (f": {a.choice}" if a.choice else "")
        parts.append(f'<h3>{escape(question)} <span class="state {_state(a)}">{escape(state)}</span></h3>')
        parts += [f"<p>{escape(s)}</p>" for s in says]
        if a.rows:
            parts.append(elements.table(*answer_table(a, r, lang), words=(0,), cell=_split))
    parts += [f"<h2>{label('Energy and carbon', lang)}</h2>",
              elements.table(*power_table(r, lang), words=(0, 3, 4), cell=_split)]
    head, body = price_table(r, lang)
    if body:
        parts += [f"<h2>{label('Prices', lang)}</h2>", elements.table(head, body, words=(0, 4), cell=_split)]
    if r.gains is not None:
        parts += [f"<h2>{label('Gains that somebody estimates', lang)}</h2><p>{escape(gains_line(r, lang))}</p>",
                  elements.table(*gains_table(r, lang), words=(0, 2), cell=_split)]
    parts.append(f"<h2>{label('How this was computed', lang)}</h2><p>{escape(how(r, lang))}</p>"
                 f'<p class="soft">whet {escape(r.whet)}, {escape(r.date[:16].replace("T", " "))} UTC</p>')
    return "".join(parts) + "</main></body></html>\n"


def _charts(r: Result, lang: str) -> list[str]:
    out = []
    if r.returned is not None:
        drawn = r.returned.intervals
        note = label("money by the end of each month", lang) + f" ({r.currency})" + (
            "; " + label("bands: 50 % and 90 % of the draws", lang) if drawn else "; " + label("as given", lang))
        out.append(elements.figure(label("Cash flow", lang), note, charts.cash(
            list(accumulate(r.returned.flows)), drawn.fan if drawn else (), label("Cash flow", lang),
            label("months", lang))))
        bars = sways(r, lang)
        if bars:
            moved = label("net present value with one figure moved; grey: its low end, green: its high end", lang)
            note = f"{moved} ({r.currency})"
            if any(s.assumed for s in r.returned.tornado):
                note += f"; *: {label('assumed 20 % to both sides', lang)}"
            out.append(elements.figure(label("What sways it", lang), note,
                               charts.tornado(bars, r.returned.npv, label("What sways it", lang))))
    fleets = [(o.name, [charts.Fleet(t.cost, t.p99 * 1e3, t.low * 1e3, t.high * 1e3,
                                     f"{t.devices} {label('machines', lang)}: P99 {rows.seconds(t.p99)}, "
                                     f"{money(t.cost, r.currency)}", t.servers == o.servers) for t in o.tried])
              for o in r.options if o.tried]
    if fleets:
        out.append(elements.figure(
            label("P99 against cost", lang),
            label("cost a month, each point a fleet; ringed: chosen; dashed: the objective", lang),
            charts.frontier(fleets, r.objective * 1e3, label("P99 against cost", lang),
                            (f"{label('cost a month', lang)}, {r.currency}", label("P99, ms", lang)))))
    return out


def _split(text: str) -> str:
    """An interval in brackets goes below its value."""
    value, bracket, interval = text.partition(" [")
    return escape(value) + (f"<small>{escape(interval.rstrip(']'))}</small>" if bracket else "") if text else "&ndash;"


def markdown(r: Result, lang: str = "en") -> str:
    """The same as Markdown, without charts."""
    out = [f"# {r.title}", "", load_line(r, lang), "", f"**{label(r.verdict, lang).capitalize()}.** "
           + " ".join(s.text(lang) for s in r.reasons), ""]
    out += [f"- {name}: **{value}**" + (f" ({note})" if note else "") for name, value, note in tiles(r, lang)]
    if r.stated is not None:
        out += ["", stated_line(r, lang)]
    if r.findings:
        out += ["", f"## {label('Warnings', lang)}", ""]
        out += [f"- {f.code}: {f.say.text(lang)}" + (f" ({f.where})" if f.where else "") for f in r.findings]
    out += ["", f"## {label('Options', lang)}", "", *_lines(*options_table(r, lang))]
    if r.returned is not None and r.returned.tornado:
        low, high = label("low end", lang), label("high end", lang)
        out += ["", f"## {label('What sways it', lang)}", "", *_lines(
            ["", low, high, f"{label('NPV', lang)}, {low}", f"{label('NPV', lang)}, {high}"],
            [[b.label, b.low, b.high, money(b.at_low, r.currency), money(b.at_high, r.currency)]
             for b in sways(r, lang)])]
        if any(s.assumed for s in r.returned.tornado):
            out += ["", f"\\*: {label('assumed 20 % to both sides', lang)}"]
    out += ["", f"## {label('The four questions', lang)}"]
    for a in r.answers:
        question, says = answer_lines(a, lang)
        state = label(a.state, lang) + (f": {a.choice}" if a.choice else "")
        out += ["", f"### {question} {state}", "", " ".join(says)]
        if a.rows:
            out += ["", *_lines(*answer_table(a, r, lang))]
    out += ["", f"## {label('Energy and carbon', lang)}", "", *_lines(*power_table(r, lang))]
    head, body = price_table(r, lang)
    if body:
        out += ["", f"## {label('Prices', lang)}", "", *_lines(head, body)]
    if r.gains is not None:
        out += ["", f"## {label('Gains that somebody estimates', lang)}", "", gains_line(r, lang), "",
                *_lines(*gains_table(r, lang))]
    out += ["", f"## {label('How this was computed', lang)}", "", how(r, lang), ""]
    return "\n".join(out)


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(c.replace('|', chr(92) + '|') or '-' for c in cells)} |"

    return [row(head), "|" + "---|" * len(head), *(row(r) for r in body)]


def table(r: Result) -> bytes:
    """The options as CSV: figures without units, in seconds and the scenario's currency."""
    names = ("option", "device", "precision", "place", "basis", "samples", "servers", "devices", "utilization",
             "p99_seconds", "p99_low", "p99_high", "cost_per_month", "cost_per_thousand", "currency", "kwh_per_month",
             "kg_co2_per_month", "energy_basis", "price", "price_as_of")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for o in r.options:
        cells = [o.name, o.device, o.precision, o.place, o.basis, o.samples, o.servers, o.devices, o.utilization, o.p99,
                 o.p99_low, o.p99_high, o.cost, o.cost_per_thousand, r.currency, o.power.kwh, o.power.kg_co2,
                 o.power.basis, o.price.key if o.price else "", o.price.as_of if o.price else ""]
        writer.writerow([_harmless(c) for c in cells])
    return text.getvalue().encode()


def _harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula is quoted."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + cell
    return "" if cell is None else cell
