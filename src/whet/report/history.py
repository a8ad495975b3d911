"""The history of series, as a page, as Markdown, as JSON and as a table's rows. In English or Chinese."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Any

from whet.errors import InputError
from whet.measure import contract
from whet.measure.series import Setting
from whet.report import rows
from whet.report.history_chart import chart, sparkline
from whet.report.words import LANGUAGES

SCHEMA = 1
SHOWN = 500  # rows of a series on a page; JSON and CSV have them all
COLUMNS = ("series", "model", "sha256", "backend", "precision", "threads", "shapes", "batch", "device", "device_name",
           "load", "source", "metric", "unit", "date", "value", "low", "high", "plan", "version", "record")
_ZH = {
    "History of measurements": "测量历史", "date": "日期", "value": "数值", "interval": "区间", "change": "变化",
    "plan": "计划", "version": "版本", "setting": "条件", "threads": "线程", "machine": "机器", "store": "存储",
    "measured by": "测量工具", "to": "至",
    "whiskers: the interval that the record states; the axis does not begin at zero":
        "须线:记录中给出的区间;纵轴不从零开始",
    "{n} of {all} points are drawn, evenly spaced": "共 {all} 点,等距绘出 {n} 点",
    "The last {n} of {all} points.": "最近 {n} 点,共 {all} 点。",
    "change_note": "“变化”为相对前一点的差,未作统计检验;区间取自各条记录。",
}
_EN = {"change_note": "\"Change\" is against the point before, without a test of whether it is more than noise; "
                      "intervals are those of each record."}


@dataclass(frozen=True)
class Dot:
    """One point of a line."""

    at: datetime
    value: float
    low: float | None
    high: float | None
    plan: str
    version: str
    record: int


@dataclass(frozen=True)
class Line:
    """A series and its points, the oldest first."""

    id: int
    setting: Setting
    device_name: str
    metric: str
    unit: str
    dots: Sequence[Dot]

    @property
    def title(self) -> str:
        return f"{self.setting.model}, {self.metric}"


def label(text: str, lang: str) -> str:
    """A label in a language; English ones stand for themselves. InputError for a language that is not there."""
    if lang not in LANGUAGES:
        raise InputError(f"no language {lang!r}", why=f"there are {', '.join(LANGUAGES)}", do="choose among these")
    return (_ZH if lang == "zh" else _EN).get(text, text)


def amount(value: float, unit: str) -> str:
    """`1.23 ms`, `4.5 MiB`, `1,200/s`, `0.993`."""
    if unit == "s" and value >= 0:
        return rows.seconds(value)
    if unit == "bytes" and value >= 0:
        return rows.size(int(value))
    if unit in ("1/s", "tokens/s"):
        return f"{rows.significant(value)} {unit}" if unit != "1/s" else f"{rows.significant(value)}/s"
    return f"{value:.5g} {unit}".strip()


def interval(low: float | None, high: float | None, unit: str, lang: str = "en") -> str:
    """`1.20 ms to 1.31 ms`; nothing where it is not bounded on both sides."""
    if low is None or high is None:
        return ""
    return f"{amount(low, unit)} {label('to', lang)} {amount(high, unit)}"


def setting(of: Setting, lang: str = "en") -> str:
    """`whet bf16, x:8x3x224x224, 2 threads`."""
    threads = f"{of.threads} {label('threads', lang)}" if of.threads is not None else ""
    precision = of.precision if of.precision != "unknown" else ""
    source = of.source.replace(f" {of.model}", "", 1)  # a benchmark that measures no model has its name as the model's
    source = source.removeprefix(of.backend).strip() if source.startswith(of.backend) else source
    name = f"{rows.NAMES.get(of.backend, of.backend)} {precision}".strip()
    load = of.load if of.load not in ("closed-loop 1", "unknown") else ""
    return ", ".join(part for part in (name, of.shapes, threads, load, source) if part)


def changes(dots: Sequence[Dot]) -> list[str]:
    """Of each point, by how much it differs from the one before: `+3.2 %`."""
    out = [""]
    for a, b in itertools.pairwise(dots):
        out.append(f"{(b.value / a.value - 1) * 100:+.1f} %" if a.value > 0 else "")
    return out[:len(dots)]


def flat(lines: Iterator[Line] | Sequence[Line]) -> Iterator[tuple[object, ...]]:
    """All points as rows of COLUMNS."""
    for line in lines:
        s = line.setting
        head = (line.id, s.model, s.sha256, s.backend, s.precision, s.threads, s.shapes, s.batch, s.device,
                line.device_name, s.load, s.source, line.metric, line.unit)
        for d in line.dots:
            yield (*head, d.at.isoformat(), d.value, d.low, d.high, d.plan, d.version, d.record)


def document(lines: Sequence[Line], store: str) -> dict[str, Any]:
    """The JSON document, as history-1.schema.json has it."""
    return {"schema": SCHEMA, "store": store, "series": [
        {"id": line.id, **asdict(line.setting), "device_name": line.device_name, "metric": line.metric,
         "unit": line.unit, "points": [{"date": d.at.isoformat(), "value": d.value, "low": d.low, "high": d.high,
                                        "plan": d.plan, "version": d.version, "record": d.record} for d in line.dots]}
        for line in lines]}


def schema() -> dict[str, Any]:
    """The JSON Schema of `document`, as packaged."""
    return contract.packaged("whet.report", "history-1.schema.json")


def markdown(lines: Sequence[Line], store: str, lang: str = "en") -> str:
    """A heading, a sparkline and a table for each series."""
    def t(text: str) -> str:
        return label(text, lang)

    out = [f"# {t('History of measurements')}", "", f"{t('store')}: {_md(store)}", "", t("change_note")]
    for line in lines:
        shown = line.dots[-SHOWN:]
        out += ["", f"## {_md(line.title)}", "", f"{_md(setting(line.setting, lang))}; {_md(line.device_name)}", "",
                f"`{sparkline([d.value for d in line.dots])}`", "",
                f"| {t('date')} | {t('value')} | {t('interval')} | {t('change')} | {t('plan')} | {t('version')} |",
                "|---|---:|---:|---:|---|---|"]
        out += [f"| {_when(d.at)} | {amount(d.value, line.unit)} | {interval(d.low, d.high, line.unit, lang) or '-'} | "
                f"{change or '-'} | {_md(d.plan[:12]) or '-'} | {_md(d.version[:40]) or '-'} |"
                for d, change in zip(shown, changes(shown))]
        out += _left_out(line, lang)
    return "\n".join(out) + "\n"


def page(lines: Sequence[Line], store: str, lang: str = "en") -> str:
    """One HTML page that fetches nothing: a chart and a table for each series."""
    def t(text: str) -> str:
        return escape(label(text, lang))

    style = resources.files("whet.report").joinpath("style.css").read_text("utf-8")
    title = t("History of measurements")
    parts = [f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f"<title>{title}</title><style>{style}{_STYLE}</style></head><body><main><h1>{title}</h1>"
             f'<p class="soft">{t("store")}: {escape(store)}; {_when(datetime.now(UTC))} UTC</p>'
             f'<p class="soft">{t("change_note")}</p>']
    for line in lines:
        facts = ((t("setting"), setting(line.setting, lang)), (t("machine"), line.device_name),
                 ("SHA-256", line.setting.sha256[:16]), (t("measured by"), line.setting.source or "whet"))
        listed = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
        drawn, count = chart(line.dots, line.unit, line.title)
        note = t("whiskers: the interval that the record states; the axis does not begin at zero")
        if count < len(line.dots):
            note += "; " + t("{n} of {all} points are drawn, evenly spaced").format(n=count, all=len(line.dots))
        parts.append(f'<h2>{escape(line.title)}</h2><dl>{listed}</dl><figure><figcaption>{escape(line.metric)} '
                     f"<span>{note}</span></figcaption>{drawn}</figure>{_table(line, lang)}")
        parts += [f'<p class="soft">{escape(text)}</p>' for text in _left_out(line, lang) if text]
    return "".join(parts) + "</main></body></html>\n"


def _table(line: Line, lang: str) -> str:
    head = "".join(f"<th{' class=figure' if i in (1, 2, 3) else ''}>{escape(label(name, lang))}</th>" for i, name in
                   enumerate(("date", "value", "interval", "change", "plan", "version")))
    shown = line.dots[-SHOWN:]
    body = []
    for d, change in reversed(list(zip(shown, changes(shown)))):
        cells = (_when(d.at), amount(d.value, line.unit), interval(d.low, d.high, line.unit, lang), change, d.plan[:12],
                 d.version[:40])
        body.append("<tr>" + "".join(f"<td{' class=figure' if i in (1, 2, 3) else ''}>{escape(c) or '&ndash;'}</td>"
                                     for i, c in enumerate(cells)) + "</tr>")
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _left_out(line: Line, lang: str) -> list[str]:
    if len(line.dots) <= SHOWN:
        return []
    return ["", label("The last {n} of {all} points.", lang).format(n=SHOWN, all=len(line.dots))]


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _md(text: str) -> str:
    """Text in a cell of Markdown: no cell or line ends in it, and no HTML begins."""
    for a, b in (("\\", "\\\\"), ("|", "\\|"), ("[", "\\["), ("<", "&lt;"), ("\n", " "), ("\r", " ")):
        text = text.replace(a, b)
    return text


_STYLE = """
.line { fill: none; stroke: var(--ours); stroke-width: 1.5 } .dot { fill: var(--ours) }
.span { stroke: var(--ours); stroke-opacity: .45; fill: none }
"""
