"""What stands on each page: read from the store and made ready for its template."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from whet.board import charts, history, kept, returns
from whet.board.data import MOST_POINTS, RANGES, chosen, glances, lines, story, within
from whet.board.view import Asked
from whet.decide.result import Result
from whet.errors import InputError
from whet.report import history as report
from whet.report import roi as roi_report
from whet.store import Filters, Store
from whet.store.results import KINDS

MODELS, POINTS, RESULTS, SETTINGS, BESIDE = 20, 25, 20, 12, 6  # of a page
SIZE_LASTS = 60.0  # seconds for which the count of records is taken as it was


@dataclass(frozen=True)
class Answer:
    """A page: its template, its title, what the template shows, and the HTTP status."""

    template: str
    title: str
    values: Mapping[str, Any]
    status: int = 200


class Pages:
    """The pages over a store."""

    def __init__(self, store: Store, scenarios: Mapping[str, Path]) -> None:
        self._store, self._scenarios = store, scenarios
        self._size: tuple[float, tuple[int, int]] | None = None
        self.evaluate = returns.Evaluator()

    def models(self, asked: Asked) -> Answer:
        """The list of models."""
        part, page = asked.get("q")[:300], asked.page()
        found, total = glances(self._store, part, page * MODELS, MODELS)
        settings, records = self._counted()
        items = [{"glance": g, "url": asked.url("/model", model=g.name), "spark": charts.spark(g.recent),
                  "value": report.amount(g.line.value, g.line.unit),
                  "setting": report.setting(g.line.setting, asked.lang),
                  "change": history.effect(g.level.change.effect, all(v > 0 for v in g.recent), g.line.unit)
                  if g.level.change else "",
                  "kind": history.better(g.line.metric, g.level.change.effect) if g.level.change else ""}
                 for g in found]
        return Answer("models.html", asked.text("models"), {
            "items": items, "total": total, "part": part, "settings": settings, "records": records,
            "empty": not records, "paging": self._paging(asked, page, MODELS, total)})

    def model(self, asked: Asked) -> Answer:
        """A model: one of its metrics over time."""
        name, span = asked.get("model"), asked.get("range", "all")
        every = lines(self._store.latest([name]))
        if not every:
            raise HTTPException(404, "no model")
        line = chosen(every, asked.get("metric"), asked.get("setting"))
        marks = self._store.marks(line.ids, within(self._store, line, span), last=MOST_POINTS + 1)
        told = story(marks)
        metrics = list(dict.fromkeys(l.metric for l in sorted(every, key=lambda l: l.metric) if l.key == line.key))
        settings = {l.key: report.setting(l.setting, asked.lang) + f"; {l.device_name}" for l in every}
        values: dict[str, Any] = {
            "model": name, "line": line, "told": told, "setting": report.setting(line.setting, asked.lang),
            "metrics": [(m, asked.here(metric=m, setting=line.key, page="")) for m in metrics],
            "ranges": [(r, asked.here(range=r, page="")) for r in RANGES], "span": span, "settings": settings,
            "kept": [kept.row(k, asked) for k in self._store.results(model=name, limit=BESIDE)[0]]}
        if len(told.marks):
            page = min(asked.page(), (len(told.marks) - 1) // POINTS)
            address = {l.key: asked.here(setting=l.key, metric=line.metric, page="") for l in every}
            bars, more = history.settings(every, line, asked.lang, address, SETTINGS)
            values |= {"chart": history.chart(line, told, asked.lang), "tiles": history.tiles(line, told, asked.lang),
                       "changes": self._made_by(line.ids, history.changes(line, told, asked.lang)),
                       "unchanged": history.unchanged(line, told, asked.lang), "bars": bars, "more": more,
                       "points": self._points(line.ids, told, page, asked.lang, line.unit),
                       "paging": self._paging(asked, page, POINTS, len(told.marks), "points")}
        return Answer("model.html", name, values)

    def results(self, asked: Asked) -> Answer:
        """What is kept of one kind."""
        kind = asked.params["kind"]
        if kind not in KINDS:
            raise HTTPException(404)
        page = asked.page()
        found, total = self._store.results(kind, asked.get("model"), offset=page * RESULTS, limit=RESULTS)
        return Answer("results.html", asked.text(kept.TITLES[kind]), {
            "kind": kind, "rows": [kept.row(k, asked) for k in found], "command": kept.COMMANDS[kind],
            "paging": self._paging(asked, page, RESULTS, total)})

    def result(self, asked: Asked) -> Answer:
        """One of them."""
        found = self._store.result(asked.params["number"])
        if found is None:
            raise HTTPException(404, "no result")
        return Answer("result.html", asked.text(found.kind), {
            "row": kept.row(found, asked), "kind": found.kind, "parts": kept.parts(found, asked, self._store),
            "body": kept.outline(found.body, asked.lang)})

    def worth(self, asked: Asked) -> Answer:
        """The scenario whose figures can be moved."""
        question = self.question(asked)
        choices = returns.choices(self._store, asked.get("model")) if asked.get("model") else []
        models = [] if question and not choices else [k.name for k in self._store.models(limit=200)[0]]
        kept_rows = [kept.row(k, asked) for k in self._store.results("roi", limit=BESIDE)[0]]
        values: dict[str, Any] = {
            "scenarios": [(name, asked.url("/returns", scenario=name)) for name in self._scenarios],
            "models": models, "choices": choices, "before": self._choice(choices, asked.get("before"), 0),
            "after": self._choice(choices, asked.get("after"), -1), "sliders": (), "notes": [], "kept": kept_rows,
            "computed": None, "fault": None}
        if question is not None:
            moved = returns.values_of(asked.query, question.sliders)
            values |= {"sliders": question.moved(moved), "notes": returns.note(question, asked.lang),
                       "defaults": {s.name: s.value for s in question.sliders}}
            if asked.get("compute"):  # without JavaScript: with it, /api/return is asked
                values |= self._computed(question, moved, asked.lang)
        return Answer("returns.html", asked.text("returns"), values)

    def _computed(self, question: returns.Question, moved: Mapping[str, float], lang: str) -> Mapping[str, Any]:
        try:
            return {"computed": True, **self.returned(self.evaluate(question, moved), question, lang)}
        except InputError as e:
            return {"fault": (e.what, e.where, e.why, e.do)}

    def question(self, asked: Asked) -> returns.Question | None:
        """The scenario that an address means; None where it names none that is there."""
        if name := asked.get("scenario"):
            if name not in self._scenarios:
                raise HTTPException(404)
            return returns.from_file(self._scenarios[name])
        if not (model := asked.get("model")):
            return None
        choices = returns.choices(self._store, model)
        if len(choices) < 2:
            return None
        before, after = self._choice(choices, asked.get("before"), 0), self._choice(choices, asked.get("after"), -1)
        if before is None or after is None or before == after:
            return None
        return returns.from_store(self._store, before, after, model)

    def returned(self, found: Result, question: returns.Question, lang: str) -> Mapping[str, Any]:
        """What `return.html` shows of a result."""
        return {"r": found, "tiles": roi_report.tiles(found, lang), "cash": returns.cash(found, lang),
                "tornado": returns.tornado(found, lang), "options": roi_report.options_table(found, lang),
                "label": lambda text: returns.label(text, lang), "load": roi_report.load_line(found, lang)}

    @staticmethod
    def _choice(choices: list[returns.Choice], key: str, otherwise: int) -> returns.Choice | None:
        named = [c for c in choices if c.key == key]
        return named[0] if named else choices[otherwise] if choices and not key else None

    def _counted(self) -> tuple[int, int]:
        if self._size is None or time.monotonic() - self._size[0] > SIZE_LASTS:
            self._size = time.monotonic(), self._store.size()
        return self._size[1]

    def _points(self, ids: tuple[int, ...], told: Any, page: int, lang: str, unit: str) -> list[dict[str, str]]:
        count, first, last = history.slice_dates(told, page, POINTS)
        found = self._store.history(ids, Filters(since=first, until=last), last=count)
        return [{"at": f"{p.at:{history.MINUTE}}", "value": report.amount(p.value, unit), "plan": p.plan[:12],
                 "interval": report.interval(p.low, p.high, unit, lang), "version": p.version[:40]}
                for p in reversed(found)]

    def _made_by(self, ids: tuple[int, ...], rows: list[history.Row]) -> list[tuple[history.Row, str]]:
        """Changes with the plan and version of the first point after each."""
        out = []
        for row in rows[:POINTS]:
            found = self._store.history(ids, Filters(since=row.at, until=history.after(row.at)), last=1)
            p = found[0] if found else None
            out.append((row, ", ".join(x for x in ((p.version[:40], p.plan[:12]) if p else ()) if x)))
        return out

    @staticmethod
    def _paging(asked: Asked, page: int, size: int, total: int, anchor: str = "") -> dict[str, Any]:
        end = f"#{anchor}" if anchor else ""
        return {"first": page * size + 1, "last": min(total, (page + 1) * size), "all": total,
                "previous": asked.here(page=page) + end if page else "",
                "next": asked.here(page=page + 2) + end if (page + 1) * size < total else ""}
