"""The timing cache keeps what was learnt, merges writers, and refuses what is damaged."""

import json
import os
import stat
import time
from pathlib import Path

import pytest

from whet.errors import CacheError
from whet.tuning.cache import Entry, TimingCache, Trial, default_path


def entry(seconds: float) -> Entry:
    return Entry("matmul", [Trial("gemm", {"mr": 6}, seconds), Trial("skinny", {}, None, "crashed")])


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    cache = TimingCache.open(tmp_path / "deep" / "timing.json")
    cache.put("k", entry(1e-3))
    cache.save()
    again = TimingCache.open(tmp_path / "deep" / "timing.json").get("k")
    assert again == entry(1e-3)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    a, b = (TimingCache.open(tmp_path / "t.json") for _ in range(2))
    a.put("a", entry(1.0))
    b.put("b", entry(2.0))
    a.save()
    b.save()
    assert set(TimingCache.open(tmp_path / "t.json").entries) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "entries": {"k": 3}}', "\x00\xff"])
def test_a_damaged_file_is_a_typed_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CacheError) as e:
        TimingCache.open(tmp_path / "t.json")
    assert "t.json" in str(e.value)


def test_a_newer_schema_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"schema": 99, "entries": {}}))
    with pytest.raises(CacheError, match="newer"):
        TimingCache.open(tmp_path / "t.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_typed_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    cache = TimingCache(tmp_path / "t.json")
    cache.put("k", entry(1.0))
    with pytest.raises(CacheError):
        cache.save()


def test_a_path_through_a_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cache = TimingCache(tmp_path / "file" / "t.json")
    cache.put("k", entry(1.0))
    with pytest.raises(CacheError):
        cache.save()


def test_the_environment_names_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHET_CACHE", str(tmp_path))
    assert default_path() == tmp_path / "timing.json"


def test_keep_writes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TimingCache(tmp_path / "timing.json")
    for now, written in ((10.0, 1), (11.0, 1), (12.5, 3)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        cache.put(f"k{now}", entry(1e-6))
        cache.keep()
        assert len(TimingCache.open(cache.path).entries) == written
