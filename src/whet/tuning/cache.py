"""The timing cache: what was measured, on which device. A JSON file that can be read, merged and edited."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from whet.errors import CacheError

SCHEMA = 1
MAX_BYTES = 256 << 20
EVERY = 2.0  # seconds from one `keep` that writes to the next


class Trial(msgspec.Struct, omit_defaults=True):
    """One candidate: seconds per run (the median), or why there is no time."""

    tactic: str
    params: dict[str, Any]
    seconds: float | None = None
    failed: str = ""


class Entry(msgspec.Struct):
    """The trials of one region on one device; the first is the winner."""

    kind: str
    trials: list[Trial]


class _File(msgspec.Struct):
    schema: int
    entries: dict[str, Entry]


@dataclass
class TimingCache:
    """Winners by `device key / threads / region signature`. `path` None: kept in memory only."""

    path: Path | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    dirty: bool = False
    saved: float = float("-inf")  # when, by the monotonic clock

    @staticmethod
    def open(path: str | os.PathLike[str] | None) -> TimingCache:
        """Read a cache, or start an empty one where there is no file. CacheError if it is damaged."""
        if path is None:
            return TimingCache()
        p = Path(path)
        try:
            if p.stat().st_size > MAX_BYTES:
                raise CacheError("the timing cache is too large", where=str(p), why=f"over {MAX_BYTES >> 20} MiB",
                                 do="delete it; the next build measures again")
            return TimingCache(p, _decode(p.read_bytes(), p))
        except FileNotFoundError:
            return TimingCache(p)
        except OSError as e:
            raise CacheError("the timing cache cannot be read", where=str(p), why=e.strerror or str(e),
                             do="check its permissions, or name another file with --timing-cache") from e

    @staticmethod
    def key(device: str, threads: int, signature: str) -> str:
        return f"{device}/{threads}/{signature}"

    def get(self, key: str) -> Entry | None:
        return self.entries.get(key)

    def put(self, key: str, entry: Entry) -> None:
        self.entries[key] = entry
        self.dirty = True

    def check_writable(self) -> None:
        """CacheError if `save` could not write: known before hours of measuring, not after."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd, tmp = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            os.close(fd)
            os.unlink(tmp)
        except OSError as e:
            raise self._unwritable(e) from e

    def keep(self) -> None:
        """`save`, unless that was a moment ago: what a build that is ended from outside leaves behind."""
        if time.monotonic() - self.saved >= EVERY:
            self.save()

    def save(self) -> None:
        """Merge into the file (entries that others wrote meanwhile stay), by atomic rename."""
        if self.path is None or not self.dirty:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            merged = _decode(self.path.read_bytes(), self.path) if self.path.exists() else {}
            merged.update(self.entries)
            data = msgspec.json.encode(_File(SCHEMA, dict(sorted(merged.items()))))
            fd, tmp = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            try:
                with os.fdopen(fd, "wb") as f:
                    f.write(json.dumps(json.loads(data), indent=1).encode())
                os.replace(tmp, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(tmp)
                raise
        except OSError as e:
            raise self._unwritable(e) from e
        self.dirty, self.saved = False, time.monotonic()

    def _unwritable(self, e: OSError) -> CacheError:
        return CacheError("the timing cache cannot be written", where=str(self.path), why=e.strerror or str(e),
                          do="name a file in a writable folder with --timing-cache")


def default_path() -> Path:
    """`$WHET_CACHE/timing.json`, else under `$XDG_CACHE_HOME` or `~/.cache/whet`."""
    root = os.environ.get("WHET_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whet"
    return base / "timing.json"


def _decode(data: bytes, path: Path) -> dict[str, Entry]:
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, RecursionError) as e:
        raise CacheError("the timing cache is damaged", where=str(path), why=str(e),
                         do="delete it; the next build measures again") from e
    if file.schema > SCHEMA:
        raise CacheError("the timing cache is of a newer whet", where=str(path),
                         why=f"schema {file.schema}, this whet reads up to {SCHEMA}",
                         do="update whet, or name another file")
    return {k: e for k, e in file.entries.items() if e.trials}
