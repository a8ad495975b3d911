"""Reports from measurement records: a self-contained HTML page and Markdown. They read records and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whet.measure.record import Measurement, encode
from whet.report.files import write_files
from whet.report.html import html
from whet.report.markdown import markdown

__all__ = ["html", "markdown", "write"]


def write(records: Sequence[Measurement], folder: Path, title: str) -> tuple[Path, Path]:
    """Write `report.html`, `report.md` and `measurements.json` into `folder`; the first two paths are returned.

    Each appears whole or not at all. OutputError if the folder cannot be made or written to.
    """
    texts = {"report.html": html(records, title).encode(), "report.md": markdown(records, title).encode(),
             "measurements.json": encode(list(records))}
    write_files(texts, folder)
    return folder / "report.html", folder / "report.md"
