"""Where a store lies: a file, a URL, or the user's own."""

from __future__ import annotations

import os
from pathlib import Path


def default_path() -> Path:
    """`measurements.db` in `$XDG_DATA_HOME/whet`, else in `~/.local/share/whet`.

    Beside the user's data and not in the cache: what was measured cannot be made again when a cache is emptied.
    """
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "whet" / "measurements.db"


def named(place: str | os.PathLike[str] | None) -> str:
    """The file or URL that is meant: what is named, else `$WHET_STORE`, else the user's own."""
    return os.fspath(place) if place else os.environ.get("WHET_STORE") or str(default_path())


def is_url(place: str) -> bool:
    """`postgresql://...` is; a path is not."""
    return "://" in place
