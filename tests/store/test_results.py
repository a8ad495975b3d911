"""Results that are not measurements: kept whole, once, by writers at once, on both engines."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from command_line import Whet, command_line
from record_samples import measurement
from whet.errors import InputError, StoreBusyError, StoreError
from whet.store import Kept, Store, results, spool

pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Whet:
    return command_line(monkeypatch, capsysbinary, tmp_path)


DAY = datetime(2026, 3, 1, tzinfo=UTC)
WRITERS, EACH = 8, 20


def test_results_come_back_whole_from_the_oldest_to_the_newest(place: str) -> None:
    body = {"verdict": "held", "words": "P99 42 ms \0 中文 \U0001f600", "rows": [{"x": 1.5}, None, True]}
    east = datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=8)))  # the day before, in UTC
    with Store(place) as store:
        newer = store.keep("gate", body, model="resnet50", at=DAY)
        older = store.keep("failure", {"node": "Conv_1"}, model="a \0 b", at=east)
        assert store.keep("gate", dict(reversed(body.items())), model="resnet50", at=DAY) == newer
    with Store(place, create=False) as store:
        found = store.kept()
        assert [k.id for k in found] == [older, newer]
        assert found[1] == Kept("gate", "resnet50", DAY, body, newer)
        assert found[0].at == east
        assert store.kept("gate") == store.kept(model="res*") == store.kept(last=1) == found[1:]
        assert store.kept(until=DAY) == found[:1]
        assert store.kept("roi") == []
        assert list(store.records()) == []


@pytest.mark.parametrize(("kind", "body", "why"), [
    ("guess", {}, "there are gate"), ("gate", {"x": float("nan")}, "NaN"), ("gate", [1], "mapping"),
    ("gate", {"x": "y" * results.MOST_BYTES}, "at most"), ("gate", {"x": object()}, "JSON"),
])
def test_what_cannot_be_kept_is_one_clear_error(tmp_path: Path, kind: str, body: Any, why: str) -> None:
    with Store(tmp_path / "s.db") as store:
        with pytest.raises(InputError, match=why):
            store.keep(kind, body, model="m", at=DAY)
        with pytest.raises(InputError, match="name"):
            store.keep("gate", {}, model="m" * 301, at=DAY)
        assert store.kept() == []


def _write(place: str, writer: int, start: Any) -> None:
    start.wait()
    with Store(place) as store:
        for i in range(EACH):
            store.keep("gate", {"i": i, "writer": 0 if i % 5 == 0 else writer}, model="m", at=DAY)


def test_eight_writers_at_once_lose_no_result(place: str) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(WRITERS)
    children = [context.Process(target=_write, args=(place, i, start)) for i in range(WRITERS)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * WRITERS
    with Store(place, create=False) as store:
        assert len(store.kept("gate")) == WRITERS * (EACH - EACH // 5) + EACH // 5


def test_a_store_without_the_table_gets_it(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    from whet.store import database

    upgrade = command.upgrade
    with monkeypatch.context() as older:
        older.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0001"))
        with Store(place) as store:
            store.add([measurement()])
            assert store._database.write(store._database._version) == "0001"
    assert database._scripts().get_current_head() == "0003"
    with Store(place) as store:
        store.keep("roi", {"ratio": 0.3456}, model="", at=DAY)
        assert list(store.records()) == [measurement()]
        assert len(store.kept()) == 1


def test_what_a_locked_store_does_not_take_gets_in_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         run: Whet) -> None:
    place = tmp_path / "s.db"
    with Store(place) as store:
        store.add([measurement()])
    monkeypatch.setattr(spool, "folders", lambda: [tmp_path / "spool"])
    holder = sqlite3.connect(place, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="the failure is in") as e:
        spool.keep_result(place, "failure", {"node": "n"}, model="m", at=DAY, timeout=0.05)
    holder.execute("ROLLBACK")
    holder.close()
    (path,) = (tmp_path / "spool").iterdir()
    assert f"whet record {path}" in str(e.value)
    for _ in range(2):
        code, out, _ = run("record", path, "--store", place)
        assert code == 0
        assert out.startswith("1 result recorded in")
    with Store(place) as store:
        assert [(k.kind, k.model, k.at, k.body) for k in store.kept()] == [("failure", "m", DAY, {"node": "n"})]


def test_results_go_from_one_store_into_another(tmp_path: Path, run: Whet) -> None:
    one, two, file = (tmp_path / name for name in ("1.db", "2.db", "results.json"))
    with Store(one) as store:
        for i in range(3):
            store.keep("forecast", {"i": i}, model=f"m{i}", at=DAY + timedelta(days=i))
    assert run("history", "--store", one, "--results", file, "--since", "2026-03-02")[1].startswith("2 results in")
    assert run("record", file, "--store", two)[0] == 0
    with Store(two) as store:
        assert [k.body for k in store.kept()] == [{"i": 1}, {"i": 2}]
    assert json.loads(run("history", "--store", two, "--results", "-")[1])["schema"] == 1
    assert run("history", "--store", one, "--results", file, "--batch", "3")[0] == 2


@pytest.mark.parametrize("change", [
    {"schema": 2}, {"schema": "x"}, {"results": {}}, {"results": [{}]}, {"results": [None]},
    {"results": [{"kind": "gate", "model": 3, "at": "2026-01-01", "body": {}}]},
    {"results": [{"kind": "gate", "model": "m", "at": "yesterday", "body": {}}]},
    {"results": [{"kind": "gate", "model": "m", "at": "2026-01-01", "body": []}]},
    {"results": [{"kind": [], "model": "m", "at": "2026-01-01", "body": {}}]},
])
def test_a_damaged_file_of_results_is_one_clear_error(tmp_path: Path, change: dict[str, Any], run: Whet) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"format": results.FORMAT, "schema": 1, "results": []} | change))
    code, _, err = run("record", file, "--store", tmp_path / "s.db")
    assert code == 2
    assert "result" in err
    assert not (tmp_path / "s.db").exists()


def test_a_store_that_cannot_be_opened_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "folders", lambda: [tmp_path / "spool"])
    (tmp_path / "s.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="unrecorded-results"):
        spool.keep_result(tmp_path / "s.db", "gate", {}, model="m", at=DAY)
    (path,) = (tmp_path / "spool").iterdir()
    (kept,) = results.of_json(json.loads(path.read_text()), "")
    assert (kept.kind, kept.model) == ("gate", "m")


def test_a_calculation_of_returns_is_kept_where_that_is_asked_for(run: Whet, tmp_path: Path) -> None:
    from decide.roi_scenarios import worked

    Path("s.json").write_text(json.dumps(worked()))
    for keep in ([], ["--keep"]):
        assert run("roi", "s.json", "--json", "r.json", "--store", "s.db", *keep)[0] == 0
    with Store("s.db") as store:
        (kept,) = store.kept("roi")
        assert kept.body == json.loads(Path("r.json").read_text())
