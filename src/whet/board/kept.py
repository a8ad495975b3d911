"""Results that are kept, as rows of lists and as pages: gates, forecasts, comparisons, failures, returns.

A body was written by some version of some command: what is known of it is shown as what it is, and all of it as an
outline, so that nothing depends on a field that another version has not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from markupsafe import Markup

from whet.board import charts, kept_charts, returns
from whet.board.view import Asked
from whet.board.words import TEXTS, text
from whet.decide.forecast.result import Forecast
from whet.decide.gate.result import Gate
from whet.decide.result import Result
from whet.report import forecast as forecast_report
from whet.report import gate as gate_report
from whet.report import roi as roi_report
from whet.report import rows
from whet.report.roi_words import label
from whet.store import Store
from whet.store.results import Kept

T = TypeVar("T")
TRENDS = 4  # metrics of a gate that are drawn, those that did not hold first
TITLES = {"gate": "gates", "forecast": "forecasts", "comparison": "comparisons", "failure": "failures",
          "roi": "returns"}
COMMANDS = {"gate": "whet gate new.json --store STORE", "forecast": "whet forecast --store STORE",
            "comparison": "whet compare model.onnx --keep --store STORE",
            "failure": "whet build model.onnx -o model.plan --store STORE",
            "roi": "whet roi scenario.yaml --keep --store STORE"}
GOOD = {"held", "passed", "pass", "ok", "pays", "recommended", "ready", "yes", "reached"}
BAD = {"not held", "failed", "fail", "regressed", "regression", "does not pay", "not ready", "no", "error",
       "nothing meets the constraints"}
DEEPEST, MOST = 6, 40  # levels and items of an outline


@dataclass(frozen=True)
class Row:
    """A result in a list: what it says in a few words, and whether that is good news (`good`, `bad`, `open`)."""

    kind: str
    model: str
    at: str
    state: str
    mood: str
    says: str
    url: str
    number: int


@dataclass(frozen=True)
class Part:
    """A part of a result's page: a heading, and a drawing, sentences or a table."""

    title: str
    chart: Markup | str = ""
    says: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()
    code: str = ""


def row(found: Kept, asked: Asked) -> Row:
    """A result in a list."""
    state, says = _SUMMARIES.get(found.kind, _anything)(found.body, asked.lang)
    mood = "good" if state in GOOD else "bad" if state in BAD or found.kind == "failure" else "open"
    return Row(found.kind, found.model, f"{found.at:%Y-%m-%d %H:%M}", _word(state, asked.lang), mood, says,
               asked.url(f"/result/{found.id}"), found.id)


def _word(state: str, lang: str) -> str:
    return text(f"state {state}", lang) if f"state {state}" in TEXTS else label(state, lang)


def parts(found: Kept, asked: Asked, store: Store) -> list[Part]:
    """What is known of a result, in the order in which people want it; histories are the store's."""
    try:
        return _PARTS[found.kind](found.body, asked.lang, store) if found.kind in _PARTS else []
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # of another version: the outline has it all
        return []


def outline(value: object, lang: str, depth: int = 0) -> object:
    """A body for the outline: dictionaries and lists bounded in depth and length, everything else as text."""
    if isinstance(value, Mapping):
        if depth == DEEPEST:
            return "{…}"
        items = [(str(k), outline(v, lang, depth + 1)) for k, v in list(value.items())[:MOST]]
        more = len(value) - len(items)
        return {"pairs": items, "more": text("cut off", lang, n=more) if more > 0 else ""}
    if isinstance(value, list | tuple):
        if all(isinstance(v, int | float | str) for v in value):
            shown = ", ".join(_short(v) for v in value[:MOST])
            return shown + (f"; {text('cut off', lang, n=len(value) - MOST)}" if len(value) > MOST else "")
        if depth == DEEPEST:
            return "[…]"
        more = len(value) - MOST
        return {"items": [outline(v, lang, depth + 1) for v in value[:MOST]],
                "more": text("cut off", lang, n=more) if more > 0 else ""}
    return _short(value)


def _short(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:2000]


def _anything(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    """Of a result of a kind that is not known better: its state, and its message."""
    state = next((str(body[k]) for k in ("state", "verdict", "status") if isinstance(body.get(k), str)), "")
    says = next((body[k] for k in ("message", "summary", "title", "what") if isinstance(body.get(k), str)), "")
    return state, str(says)[:400]


def _roi(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    found = _converted(body, Result)
    if found is None:
        return _anything(body, lang)
    says = [f"{name} {value}" for name, value, _ in roi_report.tiles(found, lang)[:2]]
    return found.verdict, ": ".join(p for p in (found.title, ", ".join(says)) if p)


def _converted(body: Mapping[str, Any], kind: type[T]) -> T | None:
    """A body as this whet knows it; None for another version's."""
    try:
        return msgspec.convert(body, kind, strict=False)
    except msgspec.ValidationError:
        return None


def _roi_parts(body: Mapping[str, Any], lang: str, store: Store) -> list[Part]:
    r = _converted(body, Result)
    if r is None:
        return []
    head, cells = roi_report.options_table(r, lang)
    out = [Part("", says=(roi_report.load_line(r, lang), *(s.text(lang) for s in r.reasons)))]
    facts = roi_report.tiles(r, lang)
    if facts:
        out.append(Part(text("result", lang), head=("", "", ""), body=tuple(facts)))
        out.append(Part(f"{label('Cash flow', lang)}, {r.currency}", returns.cash(r, lang)))
    out.append(Part(label("Options", lang), head=tuple(head), body=tuple(map(tuple, cells))))
    if r.returned is not None and r.returned.tornado:
        out.append(Part(label("What sways it", lang), returns.tornado(r, lang)))
    if r.findings:
        out.append(Part(label("Warnings", lang), says=tuple(f.say.text(lang) for f in r.findings)))
    return out


def _comparison(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    said = body.get("recommendation") or {}
    chosen = said.get("chosen") or ""
    return str(said.get("state", "")), ", ".join(p for p in (chosen, f"{len(body.get('rows', ()))} cells") if p)


def _comparison_parts(body: Mapping[str, Any], lang: str, store: Store) -> list[Part]:
    timed = [(r, r["record"]["latency"]["p50"]) for r in body["rows"]
             if r.get("record") and r["record"].get("latency")]
    chosen = (body.get("recommendation") or {}).get("chosen")
    items = [charts.Bar(r["key"], p50["value"], rows.seconds(p50["value"]), "current" if r["key"] == chosen else "")
             for r, p50 in sorted(timed, key=lambda x: float(x[1]["value"]))]
    out = [Part("latency.p50", charts.bars(items, "latency.p50"))] if items else []
    differences = tuple((d["key"], d["baseline"], f"{d['ratio']:.3g}x", f"{d['low']:.3g} – {d['high']:.3g}",
                         str(d["verdict"])) for d in body.get("differences", ()))
    if differences:
        out.append(Part(text("comparisons", lang), head=("", "baseline", "ratio", text("interval", lang), ""),
                        body=differences))
    return out


def _failure(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    kind = next((str(body[k]) for k in ("type", "code") if body.get(k)), "")
    node = f" ({body['node']})" if body.get("node") else ""
    return kind, str(body.get("message", ""))[:400] + node


def _failure_parts(body: Mapping[str, Any], lang: str, store: Store) -> list[Part]:
    facts = tuple((name, str(body[key])) for key, name in (
        ("code", "code"), ("message", text("message", lang)), ("node", text("node", lang)),
        ("where", text("where", lang)), ("why", text("why", lang)), ("do", text("do", lang)), ("system", "system"))
        if body.get(key))
    out = [Part("", head=("", ""), body=facts)] if facts else []
    for error in (body, *body.get("causes", ())):
        if error.get("stack"):
            title = f"{text('stack', lang)}: {error.get('type', '')}"
            out.append(Part(title, code="\n".join(map(str, error["stack"]))))
    return out


def _forecast(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    found = _converted(body, Forecast)
    if found is None:
        return _anything(body, lang)
    state = next((s for s in ("not held", "undecided", "held") if s in found.states), "stated")
    said = [" ".join(sentences[:2]) for sentences in forecast_report.findings(found, lang)]
    return state, " ".join(said)[:400]


def _forecast_parts(body: Mapping[str, Any], lang: str, store: Store) -> list[Part]:
    found = _converted(body, Forecast)
    if found is None:
        return []
    out = [Part("", says=tuple(s)) for s in forecast_report.findings(found, lang)]
    for m in found.milestones:
        name = m.series or m.metric
        if m.fan is not None and m.history:
            out.append(Part(text("history", lang, metric=name), kept_charts.fan(m, lang)))
        if m.by_date:
            out.append(Part(f"{name}: {text('by date', lang)}", kept_charts.dates(m, lang)))
    out += _tables(forecast_report.tables(found, lang))
    said = (*forecast_report.notes(found, lang), *forecast_report.methods(found, lang))
    return [*out, *([Part(text("how", lang), says=said)] if said else [])]


def _gate(body: Mapping[str, Any], lang: str) -> tuple[str, str]:
    found = _converted(body, Gate)
    if found is None:
        return _anything(body, lang)
    return found.state, "; ".join(gate_report.messages(found, lang))[:400]


def _gate_parts(body: Mapping[str, Any], lang: str, store: Store) -> list[Part]:
    found = _converted(body, Gate)
    if found is None:
        return []
    out = []
    for said, case in zip(gate_report.messages(found, lang), found.cases):
        out.append(Part("", says=(said,)))
        for t in sorted(case.trends, key=lambda t: t.state == "held")[:TRENDS]:
            if drawn := kept_charts.trend(store, case, t, lang):
                out.append(Part(", ".join(p for p in (t.metric, drawn[1]) if p), drawn[0]))
        out += _tables(gate_report.tables(case, lang))
    notes = tuple(gate_report.notes(found, lang))
    return [*out, *([Part(text("notes", lang), says=notes)] if notes else [])]


def _tables(found: Sequence[tuple[str, list[str], list[list[str]]]]) -> list[Part]:
    return [Part(title, head=tuple(head), body=tuple(map(tuple, cells))) for title, head, cells in found]


_SUMMARIES: dict[str, Callable[[Mapping[str, Any], str], tuple[str, str]]] = {
    "roi": _roi, "comparison": _comparison, "failure": _failure, "forecast": _forecast, "gate": _gate}
_PARTS: dict[str, Callable[[Mapping[str, Any], str, Store], list[Part]]] = {
    "roi": _roi_parts, "comparison": _comparison_parts, "failure": _failure_parts, "forecast": _forecast_parts,
    "gate": _gate_parts}
