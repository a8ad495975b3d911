"""Reports from measurement records: a self-contained HTML page and Markdown. They read records and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from whet.errors import OutputError
from whet.measure.record import Measurement, encode
from whet.report.html import html
from whet.report.markdown import markdown

__all__ = ["html", "markdown", "write"]


def write(records: Sequence[Measurement], folder: Path, title: str) -> tuple[Path, Path]:
    """Write `report.html`, `report.md` and `measurements.json` into `folder`; the first two paths are returned.

    Each appears whole or not at all. OutputError if the folder cannot be made or written to.
    """
    texts = {"report.html": html(records, title).encode(), "report.md": markdown(records, title).encode(),
             "measurements.json": encode(list(records))}
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
    return folder / "report.html", folder / "report.md"
