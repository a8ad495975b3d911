"""The board over one store, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board_store
import pytest
from starlette.testclient import TestClient

from whet.board import application
from whet.store import Store

SCENARIO = """title: ResNet-50 on T4
hours_per_month: 720
load: {rate: 36}
objective: {p99_ms: 350}
labour: {cost: 5000}
before: PyTorch
after: optimized
options:
  - {name: PyTorch, throughput: 45, p99_ms: 320, price_per_hour: 0.40}
  - {name: optimized, throughput: 180, p99_ms: 90, price_per_hour: 0.10}
"""
Get = Callable[..., Any]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled store."""
    path = tmp_path_factory.mktemp("board") / "store.db"
    board_store.fill(path)
    return path


@pytest.fixture(scope="session")
def scenario(place: Path) -> Path:
    """A scenario of whet roi."""
    path = place.parent / "t4.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def get(place: Path, scenario: Path) -> Iterator[Get]:
    """Asks the board for an address."""
    with Store(place, create=False) as store:
        client = TestClient(application(store, [scenario]), base_url="http://localhost", follow_redirects=False)
        yield lambda path, **headers: client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})
