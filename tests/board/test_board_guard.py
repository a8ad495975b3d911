"""Who may ask the board, and what its answers allow a browser to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from whet.board import application
from whet.board.guard import COOKIE, is_loopback
from whet.board.server import address, bind
from whet.errors import InputError
from whet.store import Store


@pytest.fixture(scope="module")
def store(place: Path) -> Iterator[Store]:
    with Store(place, create=False) as opened:
        yield opened


def client(store: Store, base: str = "http://localhost", **how: Any) -> TestClient:
    return TestClient(application(store, **how), base_url=base, follow_redirects=False)


def test_answers_allow_nothing_but_this_server_s_own_files(get: Any) -> None:
    for path in ("/", "/static/board.js", "/nowhere", "/api/return?scenario=t4.yaml", "/result/1.json"):
        headers = get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert {v for k, v in policy.items() if k not in ("default-src", "frame-ancestors", "base-uri")} == {"'self'"}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == ("max-age=3600" if "static" in path else "no-store")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(store: Store, method: str) -> None:
    for path in ("/", "/api/return", "/model"):
        answer = client(store).request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("host", ["localhost", "localhost:8350", "127.0.0.1:8350", "127.8.9.1", "[::1]:8350",
                                  "LOCALHOST.", "[::1]"])
def test_it_answers_under_this_machine_s_names(store: Store, host: str) -> None:
    assert client(store).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5", "",
                                  "[::1", "::", "0.0.0.0", "localhost@evil.example"])
def test_it_answers_under_no_other_name(store: Store, host: str) -> None:
    assert client(store).get("/", headers={"host": host}).status_code == 421


def test_names_may_be_added_and_addresses_allowed(store: Store) -> None:
    asked = client(store, names=["board.example"], addresses=True)
    assert asked.get("/", headers={"host": "board.example:80"}).status_code == 200
    assert asked.get("/", headers={"host": "10.0.0.5:8350"}).status_code == 200
    assert asked.get("/", headers={"host": "evil.example"}).status_code == 421


def test_other_sites_may_link_here_and_read_nothing(get: Any) -> None:
    assert get("/api/return?scenario=t4.yaml", sec_fetch_site="cross-site", sec_fetch_mode="cors").status_code == 403
    assert get("/api/return?scenario=t4.yaml", sec_fetch_site="same-site", sec_fetch_mode="no-cors").status_code == 403
    assert get("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status_code == 200
    assert get("/static/board.js", sec_fetch_site="same-origin", sec_fetch_mode="no-cors").status_code == 200


def test_a_token_is_asked_for_once_and_leaves_the_address(store: Store) -> None:
    asked = client(store, token="secret")
    assert asked.get("/").status_code == 403
    assert asked.get("/?token=wrong").status_code == 403
    assert asked.get("/", headers={"cookie": f"{COOKIE}=wrong"}).status_code == 403
    assert asked.get("/", headers={"cookie": 'x="; ='}).status_code == 403
    admitted = asked.get("/model?model=resnet50&token=secret&range=90d")
    assert admitted.status_code == 303
    assert admitted.headers["location"] == "/model?model=resnet50&range=90d"
    assert {"HttpOnly", "SameSite=Strict"} <= set(admitted.headers["set-cookie"].split("; "))
    assert asked.get("/").status_code == 200
    doubled = client(store, token="secret").get("http://localhost//evil.example/?token=secret")
    assert doubled.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.168.1.5", False),
    ("board.example", False)])
def test_which_hosts_are_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_port_that_is_taken_is_said() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address(first, "127.0.0.1") == f"http://127.0.0.1:{port}/"
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            bind("127.0.0.1", port)
    with pytest.raises(InputError, match="cannot listen on no"):
        bind("no.such.host.invalid", 0)
