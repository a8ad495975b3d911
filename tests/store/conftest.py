"""Stores on both engines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.postgres_server import binaries, server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Gives the URL of a new, empty database at each call."""
    psycopg = pytest.importorskip("psycopg")
    if binaries() is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with server() as url:
        def new() -> str:
            name = f"d{next(_numbers)}"
            with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return url.format(name)
        yield new


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be: a file, and then a database of a real server."""
    if request.param == "sqlite":
        return str(tmp_path / "new folder" / "a #1?.db")
    return request.getfixturevalue("postgres")()
