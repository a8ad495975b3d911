"""The report of a forecast: sentences and tables for the terminal, Markdown, and one HTML page with a fan chart."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from whet.report import elements, forecast_chart, rows
from whet.report.charts import Bar, bars
from whet.report.forecast_words import sentence, word
from whet.report.history import amount

if TYPE_CHECKING:
    from whet.decide.forecast.result import Check, Forecast, Milestone, Readiness

Table = tuple[str, list[str], list[list[str]]]  # title, headings, cells
SHOWN_STEPS = 12  # effective optimizations of a table, the newest
PERCENT = ("top1", "top5", "f1")


def title(found: Forecast, lang: str = "en") -> str:
    """What it is about."""
    names = [name for m in found.milestones if (name := m.series or m.metric)]
    names += [m.model for m in (found.readiness.models if found.readiness else ())]
    listed = ", ".join(dict.fromkeys(names))
    return word("title of", lang, names=listed[:80] + ("..." if len(listed) > 80 else "")) if listed else \
        word("title", lang)


def figure(value: float | None, metric: str, unit: str) -> str:
    """A value of a metric in its unit: `23.1 ms`, `1,200/s`, `76.5 %` of shares."""
    if value is None:
        return "-"
    if metric.startswith("accuracy.") and metric.removeprefix("accuracy.") in PERCENT:
        return f"{100 * value:.2f} %"
    return amount(value, unit)


def chance(p: float) -> str:
    """A probability in whole percent: `83 %`; what rounds to certainty is `> 99 %` or `< 1 %`: no posterior is sure."""
    return "< 1 %" if p < 0.005 else "> 99 %" if p >= 0.995 else f"{100 * p:.0f} %"


def findings(found: Forecast, lang: str = "en") -> list[list[str]]:
    """What it says, in sentences: a list for each milestone, and one for readiness."""
    out = [_milestone(m, found.sure, lang) for m in found.milestones]
    return out + ([_ready(found.readiness, found.sure, lang)] if found.readiness else [])


def _milestone(m: Milestone, sure: float, lang: str) -> list[str]:
    shown = {"metric": m.metric, "now": figure(m.now, m.metric, m.unit), "base": figure(m.base, m.metric, m.unit),
             "target": figure(m.target, m.metric, m.unit), "limit": figure(m.limit, m.metric, m.unit)}
    if m.place == "reached":
        return [word("reached typed" if m.now is None else "reached", lang, **shown)]
    if m.place == "beyond":
        return [word("beyond", lang, **shown)]
    out = []
    if m.progress is not None:
        out.append(word("progress", lang, share=f"{100 * m.progress:.0f} %"))
    if m.expected is None or m.confidence is None:
        out.append(word("remaining never", lang))
    else:
        count = max(1, -int(-(m.expected - 1e-9) // 1))
        out.append(word("remaining one" if count == 1 else "remaining", lang, expected=f"{m.expected:.1f}", count=count,
                        confidence=chance(m.confidence)))
    out += [word("by", lang, date=r.date, probability=chance(r.probability)) for r in m.by_date if r.asked]
    out += [word("within", lang, steps=r.steps, probability=chance(r.probability)) for r in m.by_steps if r.asked]
    if m.state != "stated":
        out.append(_verdict(m.state, sure, lang))
    if m.now is not None:
        out.append(word("now", lang, **shown) + (" " + word("floor", lang, **shown) if m.limit is not None else ""))
    return out


def _verdict(state: str, sure: float, lang: str) -> str:
    return word(state, lang, sure=chance(sure), unsure=chance(1 - sure))


def _ready(r: Readiness, sure: float, lang: str) -> list[str]:
    share, n = f"{100 * r.share:g} %", len(r.models)
    out = []
    if n:
        model = r.models[0].model
        if r.probability is not None:
            p = chance(r.probability)
            out.append(word("ready one", lang, model=model, probability=p) if n == 1 else
                       word("ready set", lang, share=share, n=n, probability=p))
        else:
            lacking = [word(c.basis, lang, model=m.model, metric=c.metric) for m in r.models for c in m.checks
                       if c.probability is None]
            some = "; ".join(lacking[:3]) + ("..." if len(lacking) > 3 else "")
            out.append(word("ready unknown one", lang, model=model, missing=some) if n == 1 else
                       word("ready unknown", lang, share=share, n=n, missing=some))
    out.append(_verdict(r.state, sure, lang))
    if r.policy is not None and (n != 1):
        c = r.policy
        out.append(word("policy", lang, ready=c.ready, n=c.models, share=share,
                        verdict=word("ready" if c.held else "not ready", lang)))
        out.append(word("policy next", lang, ready=c.ready, n=c.models, share=share, next=f"{c.next:.2f}",
                        probability=f"{c.probability:.2f}"))
    return out


def notes(found: Forecast, lang: str = "en") -> list[str]:
    """What to know beside it."""
    said = [sentence(n, lang) for m in found.milestones for n in m.notes]
    said += [sentence(n, lang) for n in (found.readiness.notes if found.readiness else ())]
    return list(dict.fromkeys(said))


def methods(found: Forecast, lang: str = "en") -> list[str]:
    """How the figures came about, by name."""
    out = []
    for m in found.milestones:
        if m.method == "student" and m.place == "ahead" and m.gain and m.remaining is not None:
            out.append(word("how student", lang, mean=f"{m.gain:.4g}", n=len(m.steps), remaining=f"{m.remaining:g}",
                            expected=f"{m.remaining / m.gain:.2f}", degrees=len(m.steps) - 1, spread=f"{m.spread:.3g}"))
        elif m.method == "drawn" and m.place == "ahead":
            out.append(word("how linear", lang) if m.scale == "linear" else
                       word("how drawn", lang, scale=word(m.scale, lang)))
    if found.readiness and found.readiness.models:
        out.append(word("how ready", lang))
    return list(dict.fromkeys(out))


def tables(found: Forecast, lang: str = "en") -> list[Table]:
    """All tables that are not empty."""
    out: list[Table] = []
    ms = found.milestones
    if ms:
        head = [word(w, lang) for w in ("metric", "target", "level", "done", "more", "confidence", "verdict")]
        out.append((word("milestones", lang), head, [_row(m, lang) for m in ms]))
    dates = sorted({r.date for m in ms for r in m.by_date})
    if dates:
        held = [{r.date: r.probability for r in m.by_date} for m in ms]
        out.append((word("by date", lang), [word("date", lang), *(_named(m) for m in ms)],
                    [[d, *(_else(m, lang) or (chance(h[d]) if d in h else "") for m, h in zip(ms, held))]
                     for d in dates]))
    numbers = sorted({r.steps for m in ms for r in m.by_steps})
    if numbers:
        of = [{r.steps: r.probability for r in m.by_steps} for m in ms]
        out.append((word("by steps", lang), [word("within n", lang), *(_named(m) for m in ms)],
                    [[str(n), *(_else(m, lang) or (chance(h[n]) if n in h else "") for m, h in zip(ms, of))]
                     for n in numbers]))
    for m in ms[:1]:
        if m.how != "typed" and m.steps:
            out.append((word("seen", lang), [word("when", lang), word("gain", lang)],
                        [[s.date, _gain(m, s.gain)] for s in m.steps[-SHOWN_STEPS:]]))
    if found.readiness and found.readiness.models:
        out.append(_checks(found.readiness, lang))
    return out


def _row(m: Milestone, lang: str) -> list[str]:
    state = word(f"word {m.place}" if m.place != "ahead" else f"word {m.state}", lang)
    target = word("points", lang, value=f"{m.remaining:g}") if m.target is None else figure(m.target, m.metric, m.unit)
    return [m.metric or "-", target, figure(m.now, m.metric, m.unit),
            "-" if m.progress is None else f"{100 * m.progress:.0f} %",
            "-" if m.expected is None else f"{m.expected:.1f}", "-" if m.confidence is None else chance(m.confidence),
            state]


def _named(m: Milestone) -> str:
    return figure(m.target, m.metric, m.unit) if m.target is not None else "P"


def _else(m: Milestone, lang: str) -> str:
    return word(f"word {m.place}", lang) if m.place != "ahead" else ""


def _gain(m: Milestone, gain: float) -> str:
    """On a logarithmic scale what a step took off, in percent (of what lies above the limit)."""
    from math import expm1

    return f"{-100 * expm1(-gain):.1f} %" if m.scale == "log" else f"{gain:.4g}"


def _checks(r: Readiness, lang: str) -> Table:
    head = [word(w, lang) for w in ("model", "metric", "required", "measured", "probability", "basis")]
    body = []
    for m in r.models:
        for c in m.checks:
            value = _measured(c.value, c, lang)
            limit = f"{'<' if c.below else '>'} {_measured(c.limit, c, lang)}"
            p = "-" if c.probability is None else chance(c.probability)
            body.append([m.model, c.metric, limit, value, p, word(f"basis {c.basis}", lang, n=c.n)])
        body.append([m.model, word("all", lang), "", "", "-" if m.probability is None else chance(m.probability), ""])
    return word("readiness", lang), head, body


def _measured(value: float | None, c: Check, lang: str) -> str:
    if value is None:
        return "-"
    if c.metric == "loss":
        return f"{value:.3g} {word(f'unit {c.unit}', lang) if c.unit else ''}".strip()
    unit = c.unit or {"latency": "s", "memory": "bytes", "plan": "bytes"}.get(c.metric.split(".")[0], "")
    return rows.seconds(value) if unit == "s" else figure(value, c.metric, unit)


def markdown(found: Forecast, lang: str = "en") -> str:
    """The report as Markdown."""
    out = [f"# {_plain(title(found, lang))}", ""]
    for lines in findings(found, lang):
        out += [*(f"- {_plain(line)}" for line in lines), ""]
    for name, head, body in tables(found, lang):
        out += [f"## {name}", "", f"| {' | '.join(_cell(h) for h in head)} |", "|---|" + "---:|" * (len(head) - 1)]
        out += [f"| {' | '.join(_cell(c) or '-' for c in row)} |" for row in body] + [""]
    for name, said in (("notes", notes(found, lang)), ("how", methods(found, lang))):
        if said:
            out += [f"## {word(name, lang)}", "", *(f"- {_plain(n)}" for n in said), ""]
    return "\n".join(out[:-1]) + "\n"


def _plain(text: str) -> str:
    """Without what Markdown would take for HTML, a link or a new line: labels come from files."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;").replace("[", "\\[")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def html(found: Forecast, lang: str = "en") -> str:
    """The report as one page that fetches nothing."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    heading = escape(title(found, lang))
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{heading}</title><style>{style}{forecast_chart.STYLE}</style></head><body><main>"
             f'<h1>{heading}</h1><p class="soft">{escape(found.date[:16].replace("T", " "))} UTC</p>']
    parts += [elements.findings(lines) for lines in findings(found, lang)]
    for m in found.milestones:
        parts.append(_charts(m, lang))
    for name, head, body in tables(found, lang):
        parts += [f"<h2>{escape(name)}</h2>", elements.table(head, body)]
    for name, said in (("notes", notes(found, lang)), ("how", methods(found, lang))):
        if said:
            parts += [f"<h2>{escape(word(name, lang))}</h2>", elements.findings(said)]
    return "".join(parts) + "</main></body></html>\n"


def _charts(m: Milestone, lang: str) -> str:
    out = ""
    if drawn := forecast_chart.fan(m, word("fan", lang, metric=m.metric)):
        note = word("fan note", lang) + ("; " + word("fan limit", lang) if m.limit is not None else "")
        out += elements.figure(word("fan", lang, metric=m.metric), note, drawn)
    if m.place == "ahead" and m.by_steps:
        items = [Bar(str(r.steps), 100 * r.probability, chance(r.probability), r.asked) for r in m.by_steps]
        name = word("chart steps", lang)
        out += elements.figure(name, word("chart steps note", lang), bars(items, name, "%", label_width=70))
    return out
