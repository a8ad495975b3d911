"""A store that cannot be used says so in one clear error, and what it did not take is not lost."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import whet
from benchmarks.postgres_server import USERS
from record_samples import measurement
from whet.errors import (
    InputError,
    MissingExtraError,
    StoreBusyError,
    StoreError,
    StoreFormatError,
    StoreVersionError,
    StoreWriteError,
)
from whet.measure import record
from whet.store import Store, default_path, spool

sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with one record."""
    path = tmp_path / "store.db"
    with Store(path) as store:
        store.add([measurement()])
    return path


def test_the_users_own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHET_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "whet" / "measurements.db"
    with Store() as store:
        assert store.place == str(default_path())
    monkeypatch.setenv("WHET_STORE", f"sqlite:///{tmp_path}/other.db")
    with Store() as store:
        assert store.place == f"{tmp_path}/other.db"


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no measurement store yet"):
        Store(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("data", [b"not a database, but longer than a header of a hundred bytes" * 9, b"\x00" * 5000])
def test_a_file_that_is_no_store(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(data)
    with pytest.raises(StoreFormatError):
        Store(path)
    assert path.read_bytes() == data
    with pytest.raises(StoreFormatError, match="folder"):
        Store(tmp_path)


def test_a_damaged_store(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StoreFormatError), Store(file) as store:
        list(store.records())


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmark (url TEXT)")
    other.close()
    with pytest.raises(StoreFormatError, match="another program"):
        Store(path)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmark",)]
    other.close()


def test_a_store_that_another_holds(file: Path) -> None:
    holder = sqlite3.connect(file, isolation_level=None)
    assert holder.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    holder.execute("BEGIN IMMEDIATE")
    holder.execute("DELETE FROM whet_point")
    with Store(file, timeout=0.2) as store:
        assert len(list(store.records())) == 1  # readers do not wait
        with pytest.raises(StoreBusyError, match="busy"):
            store.add([measurement(throughput=1.0)])
        holder.execute("ROLLBACK")
        assert store.add([measurement(throughput=1.0)]).new == 1
    holder.close()


def _limited(file: Path, pragma: str) -> Store:
    """A store whose connections are as on a disk that is full, or read-only."""
    store = Store(file)
    sqlalchemy.event.listen(store._database.engine, "connect", lambda c, _: c.execute(f"PRAGMA {pragma}"))
    store._database.engine.dispose()
    return store


def test_a_full_disk_loses_nothing(file: Path) -> None:
    many = [measurement(throughput=float(i), versions={"whet": "x" * 500}) for i in range(200)]
    with _limited(file, "max_page_count = 30") as store:
        with pytest.raises(StoreWriteError, match="cannot be written"):
            store.add(many)
        assert len(list(store.records())) == 1  # those together with what did not fit are not there
    with Store(file) as store:
        assert store.add(many).new == 200


def test_a_read_only_connection(file: Path) -> None:
    with _limited(file, "query_only = ON") as store, pytest.raises(StoreWriteError):
        store.add([measurement(throughput=1.0)])


def _as_a_guest(work: Callable[[], str], answer: Any) -> None:
    """Run in a child: as a user whom permissions bind, where this one is root."""
    if os.geteuid() == 0:
        guest = pwd.getpwnam(USERS[1])
        os.setgroups([])
        os.setgid(guest.pw_gid)
        os.setuid(guest.pw_uid)
    try:
        answer.put(work())
    except Exception as e:
        answer.put(repr(e))


def _closed_to_others() -> bool:
    """True where the guest could not read this package: an environment in a folder of root's own."""
    return os.geteuid() == 0 and not all(p.stat().st_mode & 0o001 for p in Path(whet.__file__).parents)


@pytest.mark.skipif(_closed_to_others(), reason="another user cannot read this installation")
@pytest.mark.parametrize(("create", "expected"), [(False, "['throughput']"), (True, "StoreWriteError")])
def test_a_read_only_file_can_be_read(create: bool, expected: str) -> None:
    def work() -> str:
        with Store(path, create=create) as store:
            return str([s.metric for s in store.series()])

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is closed to others
        path = Path(folder) / "store.db"
        with Store(path) as store:
            store.add([measurement(throughput=1.0)])
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        context = multiprocessing.get_context("fork")  # the other user may not be able to read this Python's files
        answer = context.SimpleQueue()
        child = context.Process(target=_as_a_guest, args=(work, answer))
        child.start()
        assert expected in answer.get()
        child.join(10)
        os.chmod(folder, 0o755)


def test_an_older_store_that_may_not_be_written(file: Path) -> None:
    with Store(file) as store:
        store._database.write(lambda c: c.execute(sqlalchemy.text("DELETE FROM whet_version")))
        store._database.writable = False
        with pytest.raises(StoreVersionError):
            store._database.migrate()


@pytest.mark.parametrize("url", ["mysql://me@host/db", "postgresql://h:port/d", "sqlite://", "http://x/y"])
def test_a_url_that_is_no_store(url: str) -> None:
    with pytest.raises(InputError):
        Store(url)


def test_a_server_that_is_not_there_and_no_password_in_the_message() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as e:
        Store("postgresql://me:secret@127.0.0.1:1/db", timeout=0.1)
    assert "secret" not in str(e.value)
    assert "127.0.0.1" in str(e.value)


def test_errors_of_postgresql_are_told_apart(postgres: Callable[[], str]) -> None:
    import psycopg

    url = postgres()
    admin = psycopg.connect(url, autocommit=True)
    with Store(url, timeout=0.3) as store:
        store.add([measurement()])
        held = psycopg.connect(url)
        held.execute("LOCK TABLE whet_record IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreBusyError):
            store.add([measurement(throughput=1.0)])
        held.close()
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_read_only = on")
        store._database.engine.dispose()
        with pytest.raises(StoreWriteError, match="cannot be written"):
            store.add([measurement(throughput=1.0)])
        assert len(list(store.records())) == 1
    admin.execute("CREATE ROLE guest LOGIN")
    guest = url.replace("whet@", "guest@")
    with pytest.raises(StoreWriteError):
        Store(guest).series()
    admin.close()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(url.replace("/d", "/no_such_database_"))


def test_connections_that_are_cut_are_made_anew(postgres: Callable[[], str]) -> None:
    import psycopg

    url = postgres()
    with Store(url) as store:
        store.add([measurement()])
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'whet'")
        assert store.add([measurement(throughput=1.0)]).new == 1


def test_what_the_store_does_not_take_is_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [measurement(), measurement(throughput=2.0)]
    closed = tmp_path / "a file, not a folder"
    closed.write_text("")
    monkeypatch.setattr(spool, "folders", lambda: [closed, tmp_path / "open"])
    error = spool.keep(given, StoreWriteError("the store cannot be written", where="x.db", why="disk full", do="wait"))
    assert isinstance(error, StoreWriteError)
    (path,) = (tmp_path / "open").iterdir()
    assert str(path) in str(error)
    assert record.read(path) == given
    monkeypatch.setattr(spool, "folders", lambda: [closed])
    assert "nowhere else" in str(spool.keep(given, error))


@pytest.mark.parametrize(("package", "place", "extra"), [
    ("sqlalchemy", "x.db", "store"), ("alembic", "x.db", "store"), ("psycopg", "postgresql://h/d", "postgres")])
def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, place: str,
                                           extra: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=extra) as e:
        Store(place)
    assert f"whet[{extra}]" in str(e.value)
