"""Tests in several processes (pytest-xdist): those that ask for the whole machine are left to a run without `-n`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("whet", deadline=None)  # no test fails for taking long
settings.load_profile("whet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        skip = pytest.mark.skip(reason="compares times, or asks how much memory is free: pytest -m alone, without -n")
        for item in items:
            if item.get_closest_marker("alone"):
                item.add_marker(skip)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of caches that are this module's own, so that its kernels are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("WHET_CACHE", str(path))
        yield path
