"""Writing a report's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from whet.errors import OutputError


def write_files(texts: Mapping[str, bytes], folder: Path) -> None:
    """Write files by name into a folder, which is made if it is not there.

    Each appears whole or not at all. OutputError if the folder cannot be made or written to.
    """
    temporary = folder / f".report.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, data in texts.items():
                temporary.write_bytes(data)
                temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError("the report cannot be written", where=str(folder), why=error.strerror or str(error),
                          do="name a folder that can be written to, with room on its disk") from error
