"""The reports of gates: a message of one line, HTML with charts, Markdown for a job's summary, CSV."""

from __future__ import annotations

import re
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from whet.report import elements, gate_chart, rows, spreadsheet
from whet.report.files import write_files
from whet.report.gate_words import word
from whet.report.history import amount

if TYPE_CHECKING:
    from whet.decide.gate.result import Case, Gate, Note, Objective, Trend

Table = tuple[str, list[str], list[list[str]]]  # title, headings, cells
COLUMNS = ("model", "backend", "precision", "threads", "shapes", "device", "date", "kind", "name", "unit", "state",
           "value", "low", "high", "limit", "level", "effect", "spread", "detectable", "p", "runs", "history")
SIGNS = {"held": "\u2705", "not held": "\u274c", "undecided": "\u2754", "not measured": "\u26a0\ufe0f"}
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def write(found: Gate, encoded: bytes, folder: Path, lang: str = "en") -> tuple[Path, ...]:
    """Write gate.html, gate.md, gate.csv and gate.json into a folder; `encoded` is the last of these. Each appears
    whole or not at all. OutputError if the folder cannot be written to."""
    texts = {"gate.html": html(found, lang).encode(), "gate.md": markdown(found, lang).encode(),
             "gate.csv": table(found), "gate.json": encoded}
    write_files(texts, folder)
    return tuple(folder / name for name in texts)


def message(c: Case, lang: str = "en") -> str:
    """`resnet50: P99 42 ms (down 38 %), 1,800 QPS, meets the threshold`."""
    parts = []
    if c.p99 is not None or c.p50 is not None:
        name, value = ("p99", c.p99) if c.p99 is not None else ("p50", c.p50)
        text = word(name, lang, value=_short(value or 0.0))
        if c.change is not None:
            text += word("open", lang) + _change(c.change, lang) + word("close", lang)
        parts.append(text)
    if c.throughput is not None:
        parts.append(word("qps", lang, value=rows.significant(c.throughput)))
    worse = [t.metric for t in c.trends if t.state == "regressed"]
    if worse:
        parts.append(word("say regressed", lang, metrics=word("join", lang).join(worse)))
    if c.objectives:
        parts.append(word(f"say {_of_objectives(c)}", lang))
    elif not worse:
        parts.append(word("say no regression" if c.state == "held" else f"say {c.state}", lang))
    return f"{plain(c.model)}: {word('join', lang).join(parts)}"


def _of_objectives(c: Case) -> str:
    states = [o.state for o in c.objectives]
    return next(s for s in ("not held", "not measured", "undecided", "held") if s in states)


def messages(found: Gate, lang: str = "en") -> list[str]:
    """One line for each setting; what tells settings of one model apart is in brackets."""
    several = len({c.model for c in found.cases}) < len(found.cases)
    return [message(c, lang) + (f" [{setting(c, lang)}]" if several else "") for c in found.cases]


def setting(c: Case, lang: str = "en") -> str:
    """`whet bf16, x:8x3x224x224, 2 threads`."""
    threads = f"{c.threads} {word('threads', lang)}" if c.threads is not None else ""
    load = c.load if c.load not in ("closed-loop 1", "unknown") else ""
    return ", ".join(p for p in (f"{c.backend} {c.precision}", plain(c.shapes), threads, load) if p)


def note(n: Note, lang: str = "en") -> str:
    """A remark as a sentence."""
    return plain(word(n.code, lang, **n.values))


def notes(found: Gate, lang: str = "en") -> list[str]:
    """All remarks, each once, those on metrics with their names."""
    out = []
    for c in found.cases:
        for o in c.objectives:
            out += [f"{word(f'goal {o.goal}', lang)}: {note(n, lang)}" for n in o.notes]
        for t in c.trends:
            out += [f"{plain(t.metric)}: {note(n, lang)}" for n in t.notes]
        out += [note(n, lang) for n in c.notes]
    return list(dict.fromkeys([*out, *(note(n, lang) for n in found.notes)]))


def tables(c: Case, lang: str = "en") -> list[Table]:
    """Of one setting: its objectives, and its metrics against their history."""
    out: list[Table] = []
    if c.objectives:
        head = [word(k, lang) for k in ("objective", "asked", "measured", "interval", "verdict")]
        out.append((word("objectives", lang), head, [_objective(o, lang) for o in c.objectives]))
    if c.trends:
        head = [word(k, lang) for k in ("metric", "now", "level", "change", "interval", "spread", "detectable",
                                        "values", "runs", "verdict")]
        out.append((word("history", lang), head, [_trend(t, lang) for t in c.trends]))
    return out


def _objective(o: Objective, lang: str) -> list[str]:
    limit = word("at least" if o.goal == "throughput" else "at most", lang, value=_amount(o.limit, o.unit, lang))
    ends = ""
    if o.judged == "interval":
        low, high = (_amount(v, o.unit, lang) if v is not None else word("unbounded", lang) for v in (o.low, o.high))
        ends = f"{low} {word('to', lang)} {high}" if o.goal != "max_drop" or o.low is not None else \
            word("at most", lang, value=high)
    return [word(f"goal {o.goal}", lang), limit, _amount(o.value, o.unit, lang) if o.value is not None else "", ends,
            word(o.state, lang)]


def _trend(t: Trend, lang: str) -> list[str]:
    known = t.effect is not None and t.low is not None and t.high is not None
    return [plain(t.metric), amount(t.value, t.unit), amount(t.level, t.unit) if t.level is not None else "",
            f"{t.effect:+.1%}" if t.effect is not None else "",
            f"{t.low:+.1%} {word('to', lang)} {t.high:+.1%}" if known else "",
            f"{t.spread:.1%}" if t.spread is not None else "",
            f"{t.detectable:.0%}" if t.detectable is not None else "", str(t.count), str(len(t.values)),
            word(t.state, lang)]


def _amount(value: float, unit: str, lang: str) -> str:
    if unit in ("points", "percent"):
        return f"{value:.2f} {word(unit, lang)}"
    return amount(value, unit)


def _short(value: float) -> str:
    """A time as people say it: `42 ms`, `1.27 ms`."""
    scale, name = rows.unit(value)
    return f"{value * scale:,.0f} {name}" if value * scale >= 10 else f"{value * scale:.3g} {name}"


def _change(change: float, lang: str) -> str:
    percent = abs(change) * 100
    if percent < 0.5:
        return word("as before", lang)
    return word("down" if change < 0 else "up", lang, share=f"{percent:,.0f} %")


def title(found: Gate, lang: str = "en") -> str:
    """The heading."""
    return word("title", lang, state=word(found.state, lang))


def _how(found: Gate, lang: str) -> str:
    return word("how", lang, effect=f"{found.min_effect:.3g}" if found.min_effect >= 1 else f"{found.min_effect:.1%}",
                alpha=f"{found.alpha:g}")


def markdown(found: Gate, lang: str = "en") -> str:
    """For a job's summary or a comment. Names come from files: nothing in them is a mark, a link, a mention or HTML."""
    out = [f"## {SIGNS[found.state]} {title(found, lang)}", ""]
    out += [f"- {SIGNS[c.state]} {_md(line)}" for c, line in zip(found.cases, messages(found, lang))]
    for c in found.cases:
        machine = f"{plain(c.device_name)} ({plain(c.device)})"
        out += ["", f"### {_md(plain(c.model))}", "", _md(f"{setting(c, lang)}; {machine}; {_when(c.date)}")]
        for heading, head, body in tables(c, lang):
            out += ["", f"#### {heading}", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
            out += [f"| {' | '.join(_md(cell) or '-' for cell in row)} |" for row in body]
    if said := notes(found, lang):
        out += ["", f"#### {word('notes', lang)}", "", *(f"- {_md(n)}" for n in said)]
    return "\n".join([*out, "", _md(_how(found, lang)), ""])


def html(found: Gate, lang: str = "en") -> str:
    """The report as one page that fetches nothing."""
    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{escape(title(found, lang))}</title><style>{style}{gate_chart.STYLE}</style></head><body>"
             f"<main><h1>{escape(title(found, lang))}</h1>{elements.findings(messages(found, lang))}"]
    for c in found.cases:
        facts = ((word("setting", lang), setting(c, lang)),
                 (word("machine", lang), f"{plain(c.device_name)} ({plain(c.device)})"),
                 (word("date", lang), _when(c.date)), ("SHA-256", c.sha256[:16]))
        listed = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
        parts.append(f"<h2>{escape(plain(c.model))}</h2><dl>{listed}</dl>")
        for heading, head, body in tables(c, lang):
            parts.append(f"<h3>{escape(heading)}</h3>{elements.table(head, body, words=(0, len(head) - 1))}")
        for t in c.trends:
            if len(t.points) > 1:
                drawn = gate_chart.trend(t, c.date, f"{plain(c.model)}, {plain(t.metric)}")
                parts.append(elements.figure(plain(t.metric), word("legend", lang), drawn))
    if said := notes(found, lang):
        parts.append(f"<h2>{word('notes', lang)}</h2>{elements.findings(said)}")
    return "".join(parts) + f'<p class="soft">{escape(_how(found, lang))}</p></main></body></html>\n'


def table(found: Gate) -> bytes:
    """CSV: a row for each objective and each metric."""
    body: list[tuple[object, ...]] = []
    for c in found.cases:
        of = (c.model, c.backend, c.precision, c.threads, c.shapes, c.device, c.date)
        body += [(*of, "objective", o.goal, o.unit, o.state, o.value, o.low, o.high, o.limit, *(None,) * 5, c.runs,
                  None) for o in c.objectives]
        for t in c.trends:
            body.append((*of, "history", t.metric, t.unit, t.state, t.value, t.low, t.high, None, t.level, t.effect,
                         t.spread, t.detectable, t.p, len(t.values), t.count))
    return b"".join(spreadsheet.lines(COLUMNS, body))


def plain(text: str) -> str:
    """Text on one line, without what cannot be seen or turns the direction of writing."""
    return "".join(ch if ch.isprintable() else " " for ch in text).strip()


def _md(text: str) -> str:
    """Text of which nothing is Markdown, HTML or a mention."""
    safe = _MARKS.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return safe.replace("@", "@\u200b").replace("://", ":\u200b//").replace("www.", "www\u200b.")


def _when(date: str) -> str:
    return f"{date[:16].replace('T', ' ')} UTC"
