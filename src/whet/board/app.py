"""The board as an ASGI application: an address in, a page out. All state is in the address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import whet
from whet.board import returns
from whet.board.guard import Guard
from whet.board.pages import Answer, Pages
from whet.board.safe import shown
from whet.board.view import Asked
from whet.errors import StoreError, WhetError
from whet.store import Store

ASSETS = {"board.css": "text/css", "board.js": "text/javascript", "icon.svg": "image/svg+xml"}


def application(store: Store, scenarios: Iterable[Path] = (), *, lang: str = "en", names: Iterable[str] = (),
                addresses: bool = False, token: str = "", ready: bool = False) -> Guard:
    """The pages over a store.

    scenarios: files for `whet roi` whose figures can be moved. lang: for browsers that state none of ours.
    names, addresses, token: see `Guard`. ready: do at once what else the first page would wait for (imports, the first
    of each query, the count of records); StoreError where the store does not answer.
    """
    board = Board(store, {path.name: path for path in scenarios}, lang)
    if ready:
        board.prepare()
    routes = [Route("/", board.page(Pages.models)), Route("/model", board.page(Pages.model)),
              Route("/results/{kind}", board.page(Pages.results)),
              Route("/result/{number:int}", board.page(Pages.result)),
              Route("/result/{number:int}.json", board.result_json), Route("/returns", board.page(Pages.worth)),
              Route("/api/return", board.api_return), Route("/static/{name}", board.asset)]
    pages = Starlette(routes=routes, exception_handlers={
        HTTPException: board.missing, WhetError: board.complaint, Exception: board.broken})
    return Guard(pages, names, addresses, token)  # around all of it, so that pages about faults are guarded, too


class Board:
    """The handlers. They run in threads: a slow query holds up nobody else."""

    def __init__(self, store: Store, scenarios: Mapping[str, Path], lang: str) -> None:
        self._pages, self._lang, self._store = Pages(store, scenarios), lang, store
        self._templates = Environment(loader=PackageLoader("whet.board"), autoescape=True, undefined=StrictUndefined,
                                      trim_blocks=True, lstrip_blocks=True, finalize=shown)
        for name in self._templates.list_templates():
            self._templates.get_template(name)  # compiled now, so that the first page need not wait for it
        folder = resources.files("whet.board") / "static"
        self._assets = {name: (folder / name).read_bytes() for name in ASSETS}
        report = resources.files("whet.report")
        self._assets["board.css"] = (report / "style.css").read_bytes() + self._assets["board.css"]

    def prepare(self) -> None:
        """Ask the store what the first page asks."""
        self._pages.models(Asked("/", {}, {}, self._lang))

    def page(self, make: Callable[[Pages, Asked], Answer]) -> Callable[[Request], Response]:
        """A handler for a page."""
        def handler(request: Request) -> Response:
            asked = self._asked(request)
            return self._show(make(self._pages, asked), asked)

        return handler

    def result_json(self, request: Request) -> Response:
        """A result as it is kept."""
        found = self._store.result(request.path_params["number"])
        if found is None:
            raise HTTPException(404)
        return Response(json.dumps(found.body, indent=1, ensure_ascii=False), media_type="application/json")

    def api_return(self, request: Request) -> Response:
        """`/api/return?...`: the address of a page of returns, evaluated: `result` as roi-1.schema.json has it, `html`
        to show, `status` to read out. Code 422 where the figures cannot be."""
        asked = self._asked(request)
        question = self._pages.question(asked)
        if question is None:
            raise HTTPException(404)
        try:
            found = self._pages.evaluate(question, returns.values_of(asked.query, question.sliders))
        except StoreError:
            raise
        except WhetError as e:
            return JSONResponse({"error": str(e), "status": e.what, "html": self._render("fault.html", asked, {
                "what": e.what, "why": e.why, "where": e.where, "do": e.do})}, 422)
        html = self._render("return.html", asked, self._pages.returned(found, question, asked.lang))
        return JSONResponse({"result": json.loads(found.encode()), "html": html,
                             "status": returns.status(found, asked.lang)})

    def asset(self, request: Request) -> Response:
        """A file of the package."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise HTTPException(404)
        return Response(self._assets[name], media_type=ASSETS[name], headers={"cache-control": "max-age=3600"})

    def missing(self, request: Request, e: Exception) -> Response:
        """There is no such page, model or result."""
        asked = self._asked(request)
        what = getattr(e, "detail", "")
        return self._show(Answer("error.html", asked.text("not found"), {
            "what": asked.text(what if what in ("no model", "no result") else "not found"), "why": "", "where": "",
            "do": asked.text("not found do")}, getattr(e, "status_code", 404)), asked)

    def complaint(self, request: Request, e: Exception) -> Response:
        """A page for an error of ours: 503 where it is the store's, else what was asked for cannot be."""
        assert isinstance(e, WhetError)
        asked = self._asked(request)
        return self._show(Answer("error.html", e.what, {"what": e.what, "why": e.why, "where": e.where, "do": e.do},
                                 503 if isinstance(e, StoreError) else 400), asked)

    def broken(self, request: Request, e: Exception) -> Response:
        """A fault of the board's own: the browser is not told what; Starlette hands it on to the server's log."""
        asked = self._asked(request)
        return self._show(Answer("error.html", asked.text("broken"), {
            "what": asked.text("broken"), "why": "", "where": "", "do": asked.text("broken do")}, 500), asked)

    def _asked(self, request: Request) -> Asked:
        query = dict(request.query_params)
        return Asked(request.url.path, query, dict(request.path_params),
                     _language(query.get("lang", ""), request.headers.get("accept-language", ""), self._lang))

    def _show(self, answer: Answer, asked: Asked) -> Response:
        return Response(self._render(answer.template, asked, {"title": answer.title, **answer.values}), answer.status,
                        media_type="text/html")

    def _render(self, template: str, asked: Asked, values: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(
            asked=asked, t=asked.text, url=asked.url, lang=asked.lang, place=self._store.place,
            version=whet.__version__, other=replace(asked, lang="en" if asked.lang == "zh" else "zh"), **values)


def _language(named: str, accepted: str, otherwise: str) -> str:
    """The language of a page: as the address says, else the first of the browser's that is ours (RFC 9110, 12.5.4)."""
    if named in ("en", "zh"):
        return named
    ranked = []
    for part in accepted.split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((float(weight) if weight else 1.0, tag[:2].lower()))
        except ValueError:
            continue
    best = sorted((r for r in ranked if r[1] in ("en", "zh") and r[0] > 0), key=lambda r: -r[0])
    return best[0][1] if best else otherwise
