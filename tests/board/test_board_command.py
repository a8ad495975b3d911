"""`whet board` on the command line: what it refuses before it listens, and what it says when it does."""

from __future__ import annotations

import sqlite3
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from command_line import Whet, command_line
from whet.board import application, server
from whet.store import Store


@pytest.fixture
def whet(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    return command_line(monkeypatch, capsysbinary, tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be served, instead of serving it."""
    found: list[Any] = []

    def serve(app: Any, bound: Any, ready: Any = lambda: None) -> None:
        ready()
        found.append((app, bound.getsockname()[0]))
        bound.close()

    monkeypatch.setattr("whet.board.serve", serve)
    return found


def test_it_says_where_it_listens(whet: Whet, place: Path, scenario: Path, started: list[Any]) -> None:
    code, out, err = whet("board", "--store", place, "--port", 0, "--scenario", scenario)
    assert (code, err) == (0, "")
    assert "http://127.0.0.1:" in out
    assert started[0][1] == "127.0.0.1"


def test_open_opens_a_browser(whet: Whet, place: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    whet("board", "--store", place, "--port", 0, "--open")
    assert opened[0].startswith("http://127.0.0.1:")


def test_others_are_let_in_on_purpose_alone(whet: Whet, place: Path, started: list[Any]) -> None:
    code, _, err = whet("board", "--store", place, "--port", 0, "--host", "0.0.0.0")
    assert code == 2
    assert "--allow-remote" in err
    assert not started
    code, out, _ = whet("board", "--store", place, "--port", 0, "--host", "0.0.0.0", "--allow-remote")
    assert code == 0
    assert "not encrypted" in out
    assert "No token" in out
    code, out, _ = whet("board", "--store", place, "--port", 0, "--host", "0.0.0.0", "--token", "abc123")
    assert code == 0
    assert "?token=abc123" in out


@pytest.mark.parametrize(("arguments", "said"), [
    (("--store", "missing.db"), "no measurement store yet"), (("--token", "a b"), "no cookie holds"),
    (("--scenario", "none.yaml"), "none.yaml"), (("--lang", "fr"), "no texts in 'fr'"), (("--port", "70000"), "port"),
])
def test_what_cannot_be_is_said_before_it_listens(whet: Whet, place: Path, started: list[Any],
                                                  arguments: tuple[str, ...], said: str) -> None:
    code, _, err = whet("board", *(() if "--store" in arguments else ("--store", place)), *arguments)
    assert code == 2
    assert said in err
    assert not started


def test_a_store_of_a_newer_whet_is_refused(whet: Whet, place: Path, tmp_path: Path, started: list[Any]) -> None:
    newer = tmp_path / "newer.db"
    newer.write_bytes(place.read_bytes())
    connection = sqlite3.connect(newer)
    connection.execute("UPDATE whet_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    code, _, err = whet("board", "--store", newer)
    assert code == 2
    assert "newer whet" in err
    assert not started


def test_a_server_answers_over_a_socket_and_ends(place: Path) -> None:
    with Store(place, create=False) as store, server.bind("127.0.0.1", 0) as bound:
        made = uvicorn.Server(uvicorn.Config(application(store), log_level="warning", lifespan="off",
                                             server_header=False))
        thread = threading.Thread(target=made.run, kwargs={"sockets": [bound]})
        thread.start()
        with urllib.request.urlopen(server.address(bound, "127.0.0.1"), timeout=60) as answer:
            assert answer.status == 200
            assert "server" not in {name.lower() for name in answer.headers}
        made.should_exit = True
        thread.join()
