"""`whet board`: a web page over the measurement store."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from rich.console import Console
from typer import Option

from whet.cli import options
from whet.errors import InputError


def command(
    store: options.StorePlace = "",
    host: Annotated[str, Option("--host", help="Where to listen. Others than this machine reach the page only with "
                                               "--token or --allow-remote.")] = "127.0.0.1",
    port: Annotated[int, Option("--port", min=0, max=65535, help="0: any that is free.")] = 8350,
    open_: Annotated[bool, Option("--open", help="Open the page in a browser.")] = False,
    scenario: Annotated[list[Path] | None, Option(
        "--scenario", help="A scenario of whet roi whose figures can be moved. May be repeated.")] = None,
    token: Annotated[str, Option("--token", envvar="WHET_BOARD_TOKEN", show_default=False, help="Ask every browser for "
                                 "this text once, as ?token= of the address.")] = "",
    allow_remote: Annotated[bool, Option("--allow-remote", help="Let anyone who reaches --host see everything in the "
                                         "store, without a token.")] = False,
    allow_host: Annotated[list[str] | None, Option("--allow-host", metavar="NAME", help="A name that the page is "
                                                   "reached by, say behind a proxy. May be repeated.")] = None,
    lang: Annotated[str, Option("--lang", help="For browsers that state neither: en or zh.")] = "en",
) -> None:
    """Show the measurement store as a web page: models, their history, gates, forecasts, comparisons, returns.

    It reads, writes nothing, and asks nothing of the network. Ctrl-C ends it.

    Examples: whet board --open

    whet board --store team.db --port 9000 --scenario scenario.yaml

    whet board --store postgresql://me@db/measurements --host 0.0.0.0 --token SECRET
    """
    from whet.board import application, serve
    from whet.board.guard import is_loopback, own_names
    from whet.board.server import address, bind
    from whet.decide import scenario as scenarios
    from whet.decide.words import check
    from whet.store import Store

    check(lang)
    away = not is_loopback(host)
    if away and not token and not allow_remote:
        raise InputError(f"{host} is reached by others than this machine",
                         why="the page shows all that is in the store",
                         do="ask for a token (--token TEXT), or say that anyone may look (--allow-remote)")
    if token and not (token.isascii() and token.isprintable() and not set(token) & set(" \",;\\")):
        raise InputError("a token that no cookie holds",
                         why="it has spaces, quotes, commas, semicolons, or is not ASCII",
                         do="take letters and digits, as of `openssl rand -hex 16`")
    names = [path.name for path in scenario or ()]
    for path in scenario or ():
        scenarios.read(path)
        if names.count(path.name) > 1:
            raise InputError(f"two scenarios are called {path.name}", do="rename one of them")
    with Store(store or None, create=False, timeout=5) as opened:
        app = application(opened, scenario or (), lang=lang, names=[*(own_names(host) if away else ()),
                                                                    *(allow_host or ())], addresses=away, token=token,
                          ready=True)
        bound = bind(host, port)
        shown = address(bound, host) + (f"?token={token}" if token else "")

        def ready() -> None:
            out = Console(highlight=False, soft_wrap=True)
            out.print(f"{opened.place} on {shown} (Ctrl-C ends it)", markup=False)
            if away:
                out.print("Others can reach this page, and the connection is not encrypted: whoever listens sees what "
                          "it shows." + ("" if token else " No token is asked for."), style="yellow", markup=False)
            if open_:
                import webbrowser

                webbrowser.open(shown)

        with contextlib.suppress(KeyboardInterrupt):
            serve(app, bound, ready)
